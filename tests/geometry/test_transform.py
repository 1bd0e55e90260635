"""Homogeneous transforms: inverse, composition, derivatives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.testing import assert_close

from aboutface.geometry import apply, compose, invert, scaling, translation

F64 = torch.float64


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def near_identity(*batch: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.eye(dim, dtype=F64) + 0.1 * some(*batch, dim, dim, seed=seed)


@given(st.integers(0, 10_000), st.sampled_from([2, 3]))
@settings(deadline=None, max_examples=30)
def test_invert_undoes_apply_also_in_perspective(seed, dim):
    transform, points = near_identity(4, dim=dim + 1, seed=seed), 0.3 * some(4, 9, dim, seed=seed + 1)
    assert_close(apply(invert(transform), apply(transform, points)), points)


def test_composition_reads_as_cancellation():
    c_from_b, b_from_a = near_identity(5, dim=4, seed=1), near_identity(5, dim=4, seed=2)
    points = 0.3 * some(5, 7, 3)
    assert_close(apply(compose(c_from_b, b_from_a), points), apply(c_from_b, apply(b_from_a, points)))
    assert_close(compose(c_from_b, b_from_a, invert(b_from_a)), c_from_b)


def test_translation_and_scaling_do_what_they_say():
    points = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert_close(apply(compose(translation(10, 20), scaling(2, 3)), points), torch.tensor([[12.0, 26], [16, 32]]))


def test_a_short_matrix_is_affine():
    matrix, points = some(3, 2, 4), some(3, 6, 3, seed=1)
    assert_close(apply(matrix, points), points @ matrix[..., :3].mT + matrix[..., None, :, 3])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="takes points of 2 numbers, got 3"):
        apply(torch.eye(3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="4x3"):
        apply(torch.zeros(4, 3), torch.zeros(5, 2))


def test_gradients():
    transform = near_identity(2, dim=4).requires_grad_()
    points = (0.3 * some(2, 5, 3)).requires_grad_()
    assert gradcheck(apply, (transform, points))
    assert gradcheck(apply, (transform[:, :2].detach().requires_grad_(), points))
    assert gradcheck(invert, transform)
    assert gradcheck(compose, (transform, near_identity(2, dim=4, seed=1).requires_grad_()))
