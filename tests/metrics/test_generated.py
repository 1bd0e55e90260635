"""Distances of sets against their closed forms, and what luck cannot satisfy."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.metrics.generated import discrepancy, frechet_distance, kernel_distance


@pytest.fixture
def normal():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def with_moments(features, mean, covariance):
    """The features, moved and stretched so that their mean and covariance are exactly these."""
    centred = features - features.mean(0)
    own = torch.linalg.cholesky(centred.mT @ centred / (len(features) - 1))
    return centred @ torch.linalg.inv(own).mT @ torch.linalg.cholesky(covariance).mT + mean


def test_of_gaussians_with_common_axes(normal):
    """|difference of means|^2 + sum of (difference of deviations)^2."""
    one = with_moments(normal(50, 3), torch.zeros(3), torch.diag(torch.tensor([1.0, 4, 9])).double())
    other = with_moments(normal(70, 3), torch.tensor([1.0, 2, 0]), torch.diag(torch.tensor([4.0, 4, 1])).double())
    assert frechet_distance(one, other) == pytest.approx(5 + 1 + 0 + 4, abs=1e-9)


def test_of_gaussians_with_axes_of_their_own(normal):
    """Against the root of the product of covariances, by its eigenvalues."""
    covariances = [matrix @ matrix.mT + torch.eye(4) for matrix in (normal(4, 4), normal(4, 4))]
    sets = [with_moments(normal(60, 4), torch.zeros(4), covariance) for covariance in covariances]
    root = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.sqrt().sum()
    wanted = covariances[0].trace() + covariances[1].trace() - 2 * root
    assert frechet_distance(*sets) == pytest.approx(float(wanted), rel=1e-9)


def test_of_fewer_pictures_than_features(normal):
    """The same as in the space that the pictures span."""
    few = normal(6, 3), normal(8, 3)
    basis = torch.linalg.qr(normal(40, 3)).Q
    wanted = frechet_distance(*few)
    assert wanted > 0.1
    assert frechet_distance(*(features @ basis.mT for features in few)) == pytest.approx(wanted, rel=1e-9)
    one = normal(5, 40)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, one.flip(0) + 1) == pytest.approx(40, rel=1e-9)


def test_frechet_distance_is_a_squared_distance(normal):
    one, other = normal(50, 5), 2 * normal(40, 5) + 1
    distance = frechet_distance(one, other)
    assert frechet_distance(other, one) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(3 * one, 3 * other) == pytest.approx(9 * distance, rel=1e-9)
    turn = torch.linalg.qr(normal(5, 5)).Q
    assert frechet_distance(one @ turn + 7, other @ turn + 7) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(one.float(), other.float()) == pytest.approx(distance, rel=1e-5)


def test_the_discrepancy_is_its_definition(normal):
    one, other = normal(5, 3), normal(7, 3)

    def kernel(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    def own(rows):
        return sum(kernel(x, y) for x, y in itertools.permutations(rows, 2)) / (len(rows) * (len(rows) - 1))

    across = sum(kernel(x, y) for x in one for y in other) / 35
    assert float(discrepancy(one, other)) == pytest.approx(own(one) + own(other) - 2 * across, rel=1e-9)


def test_kernel_distance_is_unbiased(normal):
    """About 0 for sets from one source, however few: where FID is far from 0."""
    found = torch.stack([discrepancy(normal(12, 8), normal(12, 8)) for _ in range(2000)])
    error = float(found.std() / 2000**0.5)
    assert abs(float(found.mean())) < 3 * error
    assert float((found < 0).double().mean()) > 0.3
    moved = torch.stack([discrepancy(normal(12, 8), normal(12, 8) + 0.5) for _ in range(500)])
    many = discrepancy(normal(3000, 8), normal(3000, 8) + 0.5)
    assert float(moved.mean()) == pytest.approx(float(many), rel=0.2)
    assert float(many) > 20 * error


def test_kernel_distance_is_a_mean_over_subsets(normal):
    one, other = normal(30, 4), normal(20, 4) + 1
    whole = float(discrepancy(one, other))
    mean, deviation = kernel_distance(one, other, subsets=300, size=10)
    assert mean == pytest.approx(whole, rel=0.1)
    assert deviation > 0
    assert kernel_distance(one, other, 300, 10) == (mean, deviation)
    # Subsets of all there is are one and the same.
    mean, deviation = kernel_distance(one[:20], other, subsets=5, size=1000)
    assert mean == pytest.approx(float(discrepancy(one[:20], other)))
    assert deviation == pytest.approx(0, abs=1e-12)


def test_the_order_of_rows_does_not_matter(normal):
    one, other = normal(9, 4), normal(9, 4)
    assert frechet_distance(one.flip(0), other) == pytest.approx(frechet_distance(one, other))
    assert_close(discrepancy(one.flip(0), other), discrepancy(one, other))


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize(
    ("one", "other"),
    [((5, 3), (5, 4)), ((5,), (5,)), ((1, 3), (5, 3))],
)
def test_other_shapes_are_refused(distance, one, other):
    with pytest.raises(UsageError, match="two rows or more"):
        distance(torch.zeros(one), torch.zeros(other))


def test_numbers_that_are_none_are_refused():
    features = torch.zeros(4, 2)
    features[1, 1] = torch.nan
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(UsageError, match="finite"):
            distance(features, torch.zeros(4, 2))
    with pytest.raises(UsageError, match="subset"):
        kernel_distance(torch.zeros(4, 2), torch.zeros(4, 2), subsets=0)
