"""Scores of keypoints and depths: their formulas by hand, and what they must not notice."""

import math

import pytest
import torch
from torch.testing import assert_close

from aboutface import metrics

K, N = 68, 200


@pytest.fixture
def noise():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_mse_counts_both_coordinates():
    points = torch.zeros(2, K, 2)
    target = points.clone()
    target[1, 7] = torch.tensor([3.0, 4.0])
    assert_close(metrics.mse(points, target), torch.tensor([0.0, 25 / (2 * K)]))


def test_mse_norm_is_percent_of_the_outer_eye_distance(noise):
    target = noise(5, K, 2)
    target[:, 36], target[:, 45] = torch.tensor([0.0, 0.0]), torch.tensor([0.0, 4.0])
    moved = target + torch.tensor([0.6, 0.8])
    assert_close(metrics.mse_norm(moved, target), torch.full((5,), 25.0, dtype=torch.float64))
    assert_close(metrics.mse_norm(9 * moved, 9 * target), metrics.mse_norm(moved, target))


def test_depth_corr_is_the_sum_of_numpys_correlations(noise):
    numpy = pytest.importorskip("numpy")
    a, b = noise(N, K), noise(N, K)
    by_hand = sum(abs(numpy.corrcoef(a[:, k], b[:, k])[0, 1]) for k in range(K))
    assert metrics.depth_corr(a, b) == pytest.approx(by_hand, abs=1e-12)


def test_depth_corr_sees_neither_sign_nor_scale_nor_offset_of_a_keypoint(noise):
    a, b = noise(N, K), noise(N, K)
    assert metrics.depth_corr(a * noise(K) + noise(K), b) == pytest.approx(metrics.depth_corr(a, b), abs=1e-9)
    # An inside-out patchwork of a face scores full marks: what the paper's number cannot tell.
    assert metrics.depth_corr(b * noise(K).sign(), b) == pytest.approx(K)


def test_depth_corr_of_noise_is_what_the_formula_says(noise):
    mean = sum(metrics.depth_corr(noise(75, K), noise(75, K)) for _ in range(30)) / 30
    assert mean == pytest.approx(metrics.random_depth_corr(75, K), rel=0.03)
    assert metrics.random_depth_corr(75, K) == pytest.approx(K * math.sqrt(2 / (math.pi * 74)))


def test_a_constant_keypoint_shows_as_nan(noise):
    a = noise(N, K) + 1e6
    a[:, 5] = 1e6 / 3
    assert metrics.keypoint_correlations(a, noise(N, K)).isnan().nonzero().flatten().tolist() == [5]
    assert math.isnan(metrics.depth_corr(a, noise(N, K)))


def test_weights_count_rows_as_often(noise):
    a, b = noise(N, K), noise(N, K)
    counts = torch.arange(N) % 3
    repeated = torch.arange(N).repeat_interleave(counts)
    weighted = metrics.keypoint_correlations(a, b, counts.double())
    assert_close(weighted, metrics.keypoint_correlations(a[repeated], b[repeated]))


def test_the_centred_depth_corr_does_not_see_the_offset_of_a_face(noise):
    a, b = noise(N, K), noise(N, K)
    moved = a + 5 * noise(N, 1)
    assert metrics.depth_corr_centred(moved, b) == pytest.approx(metrics.depth_corr_centred(a, b), abs=1e-9)
    assert abs(metrics.depth_corr(moved, b) - metrics.depth_corr(a, b)) > 0.5


def test_similarity_score_sees_sign_and_tilt_but_not_scale_and_offset(noise):
    points, true = noise(N, K, 2), noise(N, K)
    predicted = true + 0.3 * noise(N, K)
    score = metrics.similarity_score(predicted, true)
    same = metrics.similarity_score(predicted * noise(N, 1).abs() + noise(N, 1), true)
    assert_close(same.correlation, score.correlation)
    assert_close(same.error, score.error)
    assert_close(metrics.similarity_score(-predicted, true).correlation, -score.correlation)
    # Inside out is no better than flat: no positive scale helps.
    assert_close(metrics.similarity_score(-predicted, true).error, true.std(1, correction=0))
    tilted = metrics.similarity_score(predicted + points[..., 0], true)
    assert (tilted.correlation < score.correlation - 0.1).all()


def test_similarity_error_is_that_of_the_best_line(noise):
    true = noise(3, K)
    predicted = true + 0.5 * noise(3, K)
    for z, truth, error in zip(predicted, true, metrics.similarity_score(predicted, true).error, strict=True):
        columns = torch.stack([z, torch.ones(K, dtype=torch.float64)], 1)
        fitted = columns @ torch.linalg.lstsq(columns, truth[:, None]).solution
        assert_close(error, (fitted[:, 0] - truth).square().mean().sqrt())


def test_gauge_score_sees_nothing_of_a_z_plus_b_x_plus_c_y_plus_d(noise):
    points, true = noise(N, K, 2), noise(N, K)
    predicted = true + 0.3 * noise(N, K)
    score = metrics.gauge_score(points, predicted, true)
    plane = (points * noise(N, 1, 2)).sum(-1) + noise(N, 1)
    same = metrics.gauge_score(points, noise(N, 1) * predicted + 10 * plane, true)
    assert_close(same.correlation, score.correlation)
    assert_close(same.error, score.error)
    assert_close(metrics.gauge_score(points, -true + plane, true).correlation, torch.ones(N, dtype=torch.float64))


def test_gauge_error_is_that_of_the_best_fit(noise):
    points, true = noise(3, K, 2), noise(3, K)
    predicted = true + 0.5 * noise(3, K)
    errors = metrics.gauge_score(points, predicted, true).error
    for xy, z, truth, error in zip(points, predicted, true, errors, strict=True):
        columns = torch.cat([z[:, None], xy, torch.ones(K, 1, dtype=torch.float64)], 1)
        fitted = columns @ torch.linalg.lstsq(columns, truth[:, None]).solution
        assert_close(error, (fitted[:, 0] - truth).square().mean().sqrt())


def test_a_plane_has_no_shape(noise):
    points, true = noise(4, K, 2), noise(4, K)
    score = metrics.gauge_score(points, points @ torch.tensor([2.0, -3.0]).double() + 7, true)
    assert score.correlation.isnan().all()
    assert_close(score.error, metrics.without_plane(points, true).square().mean(1).sqrt())
    assert metrics.similarity_score(torch.ones(4, K), true).correlation.isnan().all()


def test_points_in_a_line_leave_finite_scores(noise):
    line = noise(4, K, 1) * torch.tensor([1.0, 2.0]).double()
    score = metrics.gauge_score(line, noise(4, K), noise(4, K))
    assert score.correlation.isfinite().all()
    assert score.error.isfinite().all()
    depth = noise(4, K)
    left = metrics.without_plane(torch.ones(4, K, 2).double(), depth)
    assert_close(left, metrics.centred(depth))
