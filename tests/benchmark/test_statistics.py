"""Bootstrap over faces: against plain recomputation, and wide enough."""

import math

import pytest
import torch
from torch.testing import assert_close

from aboutface.benchmark.protocol import all_pairs
from aboutface.benchmark.statistics import Bootstrap, interval, weighted_depth_corr, weighted_mean
from aboutface.metrics import depth_corr, keypoint_correlations


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_weights_are_those_of_the_drawn_faces():
    """Draw by draw: the weighted mean is the plain mean over the pairs of the faces that were drawn."""
    pairs = all_pairs(7)
    values = normal(len(pairs.source))
    bootstrap = Bootstrap(*pairs, torch.arange(7), draws=5)
    table = torch.zeros(7, 7, dtype=torch.float64)
    table[pairs.source, pairs.target] = values
    for counts, found in zip(bootstrap.counts, bootstrap.distribution(weighted_mean(values)), strict=True):
        drawn = torch.arange(7).repeat_interleave(counts.long())
        assert len(drawn) == 7
        different = drawn[:, None] != drawn
        assert_close(found, table[drawn][:, drawn][different].mean())


def test_a_group_comes_with_all_its_pairs_as_often_as_it_was_drawn():
    source, target = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 0, 3, 2])
    bootstrap = Bootstrap(source, target, torch.tensor([0, 0, 1, 1]), draws=50)
    weights = bootstrap.weights()
    assert_close(weights[:, 0], bootstrap.counts[:, 0])
    assert_close(weights[:, 0], weights[:, 1])
    assert_close(weights[:, 0] + weights[:, 2], torch.full((50,), 2.0, dtype=torch.float64))


def test_strata_keep_their_number_of_faces():
    strata = torch.tensor([0] * 5 + [1] * 3)
    counts = Bootstrap(*all_pairs(8), torch.arange(8), strata, draws=100).counts
    assert (counts[:, :5].sum(1) == 5).all()
    assert (counts[:, 5:].sum(1) == 3).all()
    assert counts.std(0).min() > 0.3


def test_depth_corr_in_draws_is_that_of_repeated_rows():
    pairs = all_pairs(9)
    predicted, true = normal(len(pairs.source), 4), normal(len(pairs.source), 4, seed=1)
    bootstrap = Bootstrap(*pairs, torch.arange(9), draws=6)
    found = bootstrap.distribution(weighted_depth_corr(predicted, true), chunk=4)
    expected = [float(keypoint_correlations(predicted, true, w).sum()) for w in bootstrap.weights()]
    assert_close(found, torch.tensor(expected, dtype=torch.float64))
    once = weighted_depth_corr(predicted, true)(torch.ones(1, len(predicted), dtype=torch.float64))
    assert float(once) == pytest.approx(depth_corr(predicted, true))


def test_a_constant_keypoint_has_no_depth_corr_in_any_draw():
    pairs = all_pairs(5)
    predicted = normal(len(pairs.source), 3)
    predicted[:, 1] = 1 / 3
    draws = Bootstrap(*pairs, torch.arange(5), draws=4).distribution(
        weighted_depth_corr(predicted, normal(20, 3, seed=1))
    )
    assert draws.isnan().all()
    assert all(map(math.isnan, interval([draws])))


def test_the_interval_covers_where_one_over_pairs_would_not():
    """Errors that belong to faces: the truth is 0, and 95 % of intervals should hold it."""
    covered, covered_by_pairs = 0, 0
    pairs = all_pairs(30)
    for seed in range(100):
        face = normal(30, seed=seed)
        values = face[pairs.source] + face[pairs.target]
        low, high = interval(
            [Bootstrap(*pairs, torch.arange(30), draws=200, seed=seed + 1000).distribution(weighted_mean(values))]
        )
        covered += low <= 0 <= high
        covered_by_pairs += abs(float(values.mean())) <= 1.96 * float(values.std()) / len(values) ** 0.5
    assert covered >= 87
    assert covered_by_pairs <= 60
