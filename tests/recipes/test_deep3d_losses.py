"""Deep3D's losses: against the published sums written out, their gradients, and what they must not see."""

import math

import pytest
import torch
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.recipes.deep3d_losses import (
    LANDMARK_WEIGHTS,
    LossWeights,
    coefficient_loss,
    gamma_loss,
    landmark_loss,
    perceptual_loss,
    photometric_loss,
    reflectance_loss,
)
from aboutface.reconstruct.deep3d import Coefficients, ExpressionKind

GENERATOR = torch.Generator().manual_seed(0)


def rand(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=GENERATOR, dtype=torch.float64)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


A, B = rand(2, 3, 4, 5), rand(2, 3, 4, 5)
TRUTH = 224 * rand(2, 68, 2)
MASK, SKIN = (rand(2, 1, 4, 5) > 0.4).double(), rand(2, 1, 4, 5)
COEFFICIENTS = Coefficients(randn(2, 5), randn(2, 4), randn(2, 3), randn(2, 3), randn(2, 27), randn(2, 3))


def coefficients(kind: ExpressionKind, *parts: torch.Tensor) -> torch.Tensor:
    return coefficient_loss(Coefficients._make((*parts, *COEFFICIENTS[3:])), kind=kind)


# Gradients.


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (lambda a, m: photometric_loss(a, B, m, SKIN), (A, MASK)),
        (lambda a, m: photometric_loss(a, B, m, SKIN, per_image=True), (A, MASK)),
        (lambda a: photometric_loss(a, B, MASK, robust=0.3), (A,)),
        (lambda p: landmark_loss(p, TRUTH), (224 * rand(2, 68, 2),)),
        (perceptual_loss, (randn(3, 6), randn(3, 6))),
        (lambda *parts: coefficients("gaussian", *parts), COEFFICIENTS[:3]),
        (lambda *parts: coefficients("weights", *parts), COEFFICIENTS[:3]),
        (lambda a: reflectance_loss(a, torch.tensor([1.0, 1, 0, 1, 0, 1, 0.5])), (rand(2, 7, 3),)),
        (gamma_loss, (randn(2, 27),)),
    ],
    ids=[
        "photo",
        "photo-each",
        "photo-robust",
        "landmark",
        "perceptual",
        "gaussian",
        "weights",
        "reflectance",
        "gamma",
    ],
)
def test_gradients_are_those_of_finite_differences(loss, inputs):
    inputs = tuple(value.clone().requires_grad_() for value in inputs)
    assert torch.autograd.gradcheck(loss, inputs)
    gradients = torch.autograd.grad(loss(*inputs), inputs)
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients)


def test_equal_pictures_have_a_gradient():
    photo = A.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(photometric_loss(photo, A, MASK), photo)
    assert bool(gradient.isfinite().all())


# Photometric.


def test_photometric_as_published():
    """Over all pixels of the batch at once."""
    total = share = 0.0
    for b in range(2):
        for y in range(4):
            for x in range(5):
                weight = float(MASK[b, 0, y, x] * SKIN[b, 0, y, x])
                square = sum(float(A[b, c, y, x] - B[b, c, y, x]) ** 2 for c in range(3))
                total += weight * math.sqrt(square + 1e-6)
                share += weight
    assert share > 1
    assert float(photometric_loss(A, B, MASK, SKIN)) == pytest.approx(total / share)


def test_an_empty_mask_costs_nothing():
    for each in (False, True):
        assert float(photometric_loss(A, B, torch.zeros_like(MASK), per_image=each)) == 0


def test_photometric_does_not_see_outside_the_mask_nor_the_strength_of_the_attention():
    changed = torch.where(MASK.bool().expand_as(A), A, 7.0)
    assert_close(photometric_loss(changed, B, MASK), photometric_loss(A, B, MASK))
    assert_close(photometric_loss(A, B, MASK, 255 * SKIN), photometric_loss(A, B, MASK, SKIN))
    order = [1, 0]
    assert_close(photometric_loss(A[order], B[order], MASK[order]), photometric_loss(A, B, MASK))


def test_per_image_each_face_counts_alike():
    large, small = torch.ones(1, 1, 4, 5).double(), torch.zeros(1, 1, 4, 5).double()
    small[..., :2, :1] = 1
    mask = torch.cat([large, small])
    each = [photometric_loss(A[i : i + 1], B[i : i + 1], mask[i : i + 1]) for i in range(2)]
    assert_close(photometric_loss(A, B, mask, per_image=True), (each[0] + each[1]) / 2)
    assert_close(photometric_loss(A, B, mask), (20 * each[0] + 2 * each[1]) / 22)


def test_robust_differences_are_bounded_and_small_ones_stay():
    one = torch.ones(1, 1, 1, 1).double()
    for difference, expected in [(0.01, 0.01 * 0.2 / 0.21), (100, 0.2 * 100 / 100.2)]:
        picture = torch.tensor([difference, 0, 0], dtype=torch.float64).view(1, 3, 1, 1)
        found = photometric_loss(picture, torch.zeros_like(picture), one, robust=0.2)
        assert float(found) == pytest.approx(expected, rel=1e-2)


# Landmarks.


def test_landmark_weights_are_the_published_ones():
    heavy = [i for i in range(68) if LANDMARK_WEIGHTS[i] != 1]
    assert heavy == [28, 29, 30, 60, 61, 62, 63, 64, 65, 66, 67]
    assert {float(LANDMARK_WEIGHTS[i]) for i in heavy} == {20}


def test_landmarks_as_published():
    p, q = 224 * rand(3, 68, 2), 224 * rand(3, 68, 2)
    total = 0.0
    for b in range(3):
        for n in range(68):
            weight = 20 if n in (28, 29, 30) or n >= 60 else 1
            total += weight * float((p[b, n] - q[b, n]).square().sum())
    assert float(landmark_loss(p, q)) == pytest.approx(total / (68 * 3))


def test_landmarks_do_not_see_which_way_rows_are_counted_nor_common_shifts():
    p, q = 224 * rand(2, 68, 2), 224 * rand(2, 68, 2)
    expected = landmark_loss(p, q)

    def up(points: torch.Tensor) -> torch.Tensor:
        return torch.stack([points[..., 0], 224 - points[..., 1]], -1)

    assert_close(landmark_loss(up(p), up(q)), expected)
    assert_close(landmark_loss(p + 3, q + 3), expected)
    assert_close(landmark_loss(q, p), expected)


# The others.


def test_perceptual_sees_directions_only():
    p, q = randn(3, 6), randn(3, 6)
    assert_close(perceptual_loss(7 * p, 0.1 * q), perceptual_loss(p, q))
    assert float(perceptual_loss(p, p)) == pytest.approx(0, abs=1e-12)
    assert float(perceptual_loss(p, -p)) == pytest.approx(2)
    rotation, _ = torch.linalg.qr(randn(6, 6))
    assert_close(perceptual_loss(p @ rotation, q @ rotation), perceptual_loss(p, q))


def test_coefficients_as_published():
    c = COEFFICIENTS
    parts = [float(part.square().sum()) for part in c[:3]]
    expected = (parts[0] + 0.8 * parts[1] + 1.7e-2 * parts[2]) / 2
    assert float(coefficient_loss(c)) == pytest.approx(expected)
    moved = c._replace(angle=c.angle + 1, gamma=c.gamma + 1, trans=c.trans + 1)
    assert_close(coefficient_loss(moved), coefficient_loss(c))
    paper = LossWeights(albedo=1.7e-3)
    assert float(coefficient_loss(c, paper)) == pytest.approx(expected - 0.9 * 1.7e-2 * parts[2] / 2)


def test_expression_weights_count_in_quarters():
    none = Coefficients(*(torch.zeros(1, n) for n in (3, 2, 1, 3, 27, 3)))
    quarter = none._replace(exp=torch.tensor([[0.25, 0.0]]))
    assert float(coefficient_loss(quarter, kind="weights")) == pytest.approx(0.8)
    assert float(coefficient_loss(quarter)) == pytest.approx(0.8 / 16)


def test_reflectance_as_published():
    albedo, skin = rand(2, 7, 3), torch.tensor([1.0, 1, 0, 1, 0, 1, 1])
    total = 0.0
    for b in range(2):
        for c in range(3):
            values = [float(albedo[b, v, c]) for v in range(7) if skin[v]]
            mean = sum(values) / len(values)
            total += sum((value - mean) ** 2 for value in values)
    assert float(reflectance_loss(albedo, skin)) == pytest.approx(total / (2 * 5))


def test_reflectance_does_not_see_the_colour_itself_nor_what_is_no_skin():
    albedo, skin = rand(2, 7, 3), torch.tensor([1.0, 1, 0, 1, 0, 1, 1])
    expected = reflectance_loss(albedo, skin)
    assert_close(reflectance_loss(albedo + rand(2, 1, 3), skin), expected)
    changed = albedo.clone()
    changed[:, [2, 4]] = 9
    assert_close(reflectance_loss(changed, skin), expected)
    assert_close(reflectance_loss(2 * albedo, skin), 4 * expected)


def test_gamma_as_published():
    gamma = randn(4, 27)
    total = 0.0
    for b in range(4):
        for k in range(9):
            values = [float(gamma[b, 9 * c + k]) for c in range(3)]
            total += sum((value - sum(values) / 3) ** 2 for value in values)
    assert float(gamma_loss(gamma)) == pytest.approx(total / (4 * 27))
    white = randn(4, 9)
    assert float(gamma_loss(white.repeat(1, 3))) == pytest.approx(0, abs=1e-20)
    assert float(gamma_loss(white)) == 0
    assert_close(gamma_loss(gamma + white.repeat(1, 3)), gamma_loss(gamma))


# All together.


def test_the_total_is_the_weighted_sum():
    names = ("photo", "landmark", "perceptual", "coefficients", "reflectance", "gamma")
    terms = {name: torch.tensor(10.0**i) for i, name in enumerate(names)}
    expected = 1.92 + 1.6e-3 * 10 + 0.2 * 100 + 3e-4 * 1000 + 5 * 1e4 + 10 * 1e5
    assert float(LossWeights().total(terms)) == pytest.approx(expected)
    assert float(LossWeights(photo=2).total({"photo": torch.tensor(3.0)})) == 6


@pytest.mark.parametrize(
    "terms", [{}, {"identity": torch.ones(())}, {"photo": torch.ones(()), "other": torch.ones(())}]
)
def test_terms_without_a_weight_are_refused(terms):
    with pytest.raises(UsageError, match="losses: expected some of photo, landmark"):
        LossWeights().total(terms)
