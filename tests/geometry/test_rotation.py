"""Rotations: group axioms, inverse at and near the gimbal lock, derivatives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.testing import assert_close

from aboutface.geometry import angles_from_rotation, nearest_rotation, rotation_from_angles

F64 = torch.float64
degrees = st.floats(-180, 180)


def from_angles(*angles: float) -> torch.Tensor:
    return rotation_from_angles(*(torch.tensor(a, dtype=F64) for a in angles))


@given(degrees, degrees, degrees)
@settings(deadline=None)
def test_every_angle_gives_a_proper_rotation(yaw, pitch, roll):
    rotation = from_angles(yaw, pitch, roll)
    assert_close(rotation @ rotation.mT, torch.eye(3, dtype=F64))
    assert_close(torch.linalg.det(rotation), torch.tensor(1.0, dtype=F64))


@given(st.floats(-89.99, 89.99), degrees, degrees)
@settings(deadline=None)
def test_angles_come_back(yaw, pitch, roll):
    found = torch.stack(angles_from_rotation(from_angles(yaw, pitch, roll)))
    difference = (found - torch.tensor([yaw, pitch, roll], dtype=F64) + 180) % 360 - 180
    assert difference.abs().max() < 1e-7


@given(st.sampled_from([-90.0, 90.0]), st.floats(-1e-4, 1e-4), degrees, degrees)
@settings(deadline=None)
def test_the_rotation_comes_back_near_the_lock(lock, off, pitch, roll):
    rotation = from_angles(lock + off, pitch, roll)
    assert_close(rotation_from_angles(*angles_from_rotation(rotation)), rotation, rtol=0, atol=2e-6)


@pytest.mark.parametrize("off", [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
def test_float32_rounding_near_the_lock_is_not_amplified(off):
    angle = torch.linspace(-180, 180, 37)
    rotation = rotation_from_angles(90 - off, angle[:, None], angle)
    assert_close(rotation_from_angles(*angles_from_rotation(rotation)), rotation, rtol=0, atol=3e-6)


@pytest.mark.parametrize("yaw", [-90.0, 90.0])
def test_at_the_lock_pitch_is_zero_and_derivatives_are_finite(yaw):
    rotation = from_angles(yaw, 20, 50).requires_grad_()
    found = angles_from_rotation(rotation)
    assert_close(found[0].detach(), torch.tensor(yaw, dtype=F64))
    assert_close(found[1].detach(), torch.tensor(0.0, dtype=F64))
    torch.stack(found).sum().backward()
    assert rotation.grad is not None
    assert rotation.grad.isfinite().all()


def test_angles_broadcast():
    yaw, pitch = torch.linspace(-60, 60, 5), torch.linspace(-30, 30, 3)
    rotation = rotation_from_angles(yaw[:, None], pitch, 7)
    assert rotation.shape == (5, 3, 3, 3)
    assert_close(rotation[4, 0], rotation_from_angles(60, -30, 7))


def test_dtype_is_that_of_the_angles():
    assert rotation_from_angles(1, 2, 3).dtype == torch.float32
    assert rotation_from_angles(1, torch.tensor(2.0, dtype=F64)).dtype == F64
    assert rotation_from_angles(torch.tensor(30)).dtype == torch.float32


def test_opposite_axes_follow_from_the_order():
    a = rotation_from_angles(roll=20) @ rotation_from_angles(yaw=30) @ rotation_from_angles(pitch=40)
    assert_close(rotation_from_angles(30, 40, 20), a)


def test_gradients_of_angles():
    angles = torch.tensor([[20.0, -70.0], [30.0, 5.0], [-40.0, 110.0]], dtype=F64, requires_grad=True)
    assert gradcheck(lambda a: rotation_from_angles(*a), angles)
    assert gradcheck(lambda a: angles_from_rotation(rotation_from_angles(*a)), angles)


@pytest.mark.parametrize("dim", [2, 3])
def test_nearest_rotation_beats_every_neighbour_and_is_no_reflection(dim):
    generator = torch.Generator().manual_seed(dim)
    matrix = torch.randn(200, dim, dim, dtype=F64, generator=generator)
    nearest = nearest_rotation(matrix)
    assert_close(torch.linalg.det(nearest), torch.ones(200, dtype=F64))
    assert_close(nearest @ nearest.mT, torch.eye(dim, dtype=F64).expand_as(nearest))
    best = (matrix - nearest).square().sum((-2, -1))
    for size in (1e-3, 0.1, 1.0, 3.0):
        skew = size * torch.randn(200, dim, dim, dtype=F64, generator=generator)
        other = torch.linalg.matrix_exp(skew - skew.mT) @ nearest
        assert ((matrix - other).square().sum((-2, -1)) >= best - 1e-12).all()


def test_nearest_rotation_of_a_scaled_rotation_is_the_rotation():
    rotation = rotation_from_angles(torch.linspace(-80, 80, 9), 20, 30)
    assert_close(nearest_rotation(7 * rotation), rotation)


def test_gradient_of_nearest_rotation():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 3, 3, dtype=F64, generator=generator, requires_grad=True)
    assert (torch.linalg.det(matrix) < 0).any(), "reflections are to be among the cases"
    assert gradcheck(nearest_rotation, matrix)
    assert gradcheck(nearest_rotation, torch.randn(6, 2, 2, dtype=F64, generator=generator, requires_grad=True))


def test_gradient_of_nearest_rotation_where_singular_values_are_equal():
    assert gradcheck(nearest_rotation, (2 * from_angles(10, 20, 30)).requires_grad_())


def test_nearest_rotation_of_nothing_is_a_rotation_without_nan():
    matrix = torch.zeros(3, 3, requires_grad=True)
    rotation = nearest_rotation(matrix)
    assert_close(rotation @ rotation.mT, torch.eye(3))
    rotation.sum().backward()
    assert matrix.grad is not None
    assert (matrix.grad == 0).all()
