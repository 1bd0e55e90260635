"""Closed-form alignments: optimality, exact recovery, symmetries, degenerate input, derivatives."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from aboutface.geometry import (
    affine_2d_from_3d,
    affine_2d_from_3d_matrix,
    apply,
    orthographic_pose,
    procrustes,
    rotation_from_angles,
    similarity,
)

F64 = torch.float64
MIRROR_X = torch.tensor([-1.0, 1.0, 1.0], dtype=F64)


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def random_similarity(*batch: int, dim: int, seed: int = 0) -> Tensor:
    turn = some(*batch, dim, dim, seed=seed)
    matrix = torch.zeros(*batch, dim + 1, dim + 1, dtype=F64)
    matrix[..., :dim, :dim] = torch.linalg.matrix_exp(turn - turn.mT) * some(*batch, 1, 1, seed=seed + 1).exp()
    matrix[..., :dim, dim] = some(*batch, dim, seed=seed + 2)
    matrix[..., dim, dim] = 1
    return matrix


def face_like(count: int = 68, seed: int = 3) -> Tensor:
    """Points (N, 3) about as wide, high and deep as the landmarks of a face, half-width 1."""
    x, y, noise = torch.rand(3, count, dtype=F64, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.stack([x, 1.2 * y, 0.5 * (x * x + 0.3 * y * y) + 0.2 * noise], -1)


# --- similarity and Procrustes


@pytest.mark.parametrize("dim", [2, 3])
def test_similarity_is_recovered(dim):
    truth, source = random_similarity(30, dim=dim), some(30, 9, dim, seed=9)
    assert_close(similarity(source, apply(truth, source)), truth)


@pytest.mark.parametrize("dim", [2, 3])
def test_similarity_beats_every_neighbour(dim):
    source, target, weights = some(40, 9, dim, seed=1), some(40, 9, dim, seed=2), some(40, 9, seed=3).abs()

    def loss(matrix: Tensor) -> Tensor:
        return (weights[..., None] * (apply(matrix, source) - target).square()).sum((-2, -1))

    best = similarity(source, target, weights)
    assert (torch.linalg.det(best) > 0).all(), "no reflection"
    for seed in range(5):
        step = random_similarity(40, dim=dim, seed=10 * seed)
        for size in (1e-3, 0.3):
            near = best.clone()
            turn = some(40, dim, dim, seed=seed) * size
            near[..., :dim, :dim] = torch.linalg.matrix_exp(turn - turn.mT) @ near[..., :dim, :dim] * (1 + size)
            near[..., :dim, dim] += size * step[..., :dim, dim]
            assert (loss(near) >= loss(best)).all()


def test_zero_weight_means_absent():
    source, target = some(8, 3, seed=1), some(8, 3, seed=2)
    weights = torch.tensor([1.0, 1, 1, 1, 1, 1, 0, 0], dtype=F64)
    assert_close(similarity(source, target, weights), similarity(source[:6], target[:6]))


def test_a_mirrored_shape_is_not_matched_by_a_reflection():
    source = some(12, 3)
    assert torch.linalg.det(similarity(source, source * MIRROR_X)[:3, :3]) > 0


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_equal_source_points_give_a_shift(value, dtype):
    source = torch.full((7, 3), value, dtype=dtype, requires_grad=True)
    target = some(7, 3).to(dtype)
    matrix = similarity(source, target)
    # One rounding step of the coordinates is all that can be asked for.
    tolerance = 1e-6 + 8 * torch.finfo(dtype).eps * value
    moved = apply(matrix, source).detach()
    assert_close(moved, target.mean(0).expand(7, 3), rtol=0, atol=tolerance)
    assert_close(torch.linalg.det(matrix[:3, :3]).detach(), torch.tensor(1.0, dtype=dtype))
    matrix.sum().backward()
    assert source.grad is not None
    assert source.grad.isfinite().all()


def test_equal_target_points_give_scale_zero():
    matrix = similarity(some(7, 2), torch.ones(7, 2, dtype=F64))
    assert_close(apply(matrix, some(7, 2)), torch.ones(7, 2, dtype=F64))


def test_similarity_of_sets_that_do_not_correspond_is_refused():
    with pytest.raises(ValueError, match="must correspond"):
        similarity(torch.zeros(5, 3), torch.zeros(6, 3))


def test_one_source_for_many_targets():
    source, truth = some(9, 3), random_similarity(4, dim=3)
    assert_close(similarity(source, apply(truth, source)), truth)


def test_gradient_of_similarity():
    source, target = some(3, 6, 3, seed=1).requires_grad_(), some(3, 6, 3, seed=2).requires_grad_()
    weights = some(3, 6, seed=3).abs().requires_grad_()
    assert gradcheck(similarity, (source, target, weights))
    assert gradcheck(similarity, (source[..., :2].detach().requires_grad_(), target[..., :2].detach().requires_grad_()))


def test_gradient_of_similarity_of_an_exact_fit():
    source = some(6, 3)
    assert gradcheck(similarity, (source.clone().requires_grad_(), 2 * source))


def test_procrustes_takes_similarities_away():
    shape = face_like(20)
    shapes = apply(random_similarity(15, dim=3), shape)
    mean, mean_from_shape = procrustes(shapes)
    assert_close(apply(mean_from_shape, shapes), mean.expand_as(shapes))
    assert_close(mean.mean(0), torch.zeros(3, dtype=F64))
    assert_close(mean.square().sum(-1).mean(), torch.tensor(1.0, dtype=F64))
    # The frame of the first shape: no turn between it and the mean.
    linear = mean_from_shape[0, :3, :3]
    assert_close(linear / linear[0, 0], torch.eye(3, dtype=F64))


def test_procrustes_of_noisy_shapes_keeps_the_first_frame_and_converges():
    shapes = apply(random_similarity(40, dim=3), face_like(30) + 0.5 * some(40, 30, 3))
    mean, mean_from_shape = procrustes(shapes)
    linear = mean_from_shape[0, :3, :3]
    assert_close(linear / linear[0, 0], torch.eye(3, dtype=F64))
    assert linear[0, 0] > 0
    assert_close(procrustes(shapes, 50)[0], mean, rtol=0, atol=1e-7)


def test_procrustes_of_equal_points_has_no_nan():
    mean, mean_from_shape = procrustes(torch.ones(4, 5, 3))
    assert (mean == 0).all()
    assert mean_from_shape.isfinite().all()


def test_gradient_of_procrustes():
    assert gradcheck(lambda s: procrustes(s, 3), some(3, 5, 2).requires_grad_())


# --- affine


def pseudo_inverse_of_the_paper(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Moniz et al. 2018, section 2.3, as written: two rows per point, eight unknowns."""
    rows = []
    for x, y, z in points:
        rows += [[x, y, z, 1, 0, 0, 0, 0], [0, 0, 0, 0, x, y, z, 1]]
    a = np.array(rows)
    return (np.linalg.inv(a.T @ a) @ a.T @ target.reshape(-1)).reshape(2, 4)


def test_affine_is_the_least_squares_solution_and_the_papers():
    points, target = some(5, 4, 68, 3), some(5, 4, 68, 2, seed=1)
    matrix, fitted = affine_2d_from_3d(points, target)
    assert_close(fitted, apply(matrix, points))
    assert_close(affine_2d_from_3d_matrix(points, target), matrix)
    for i in np.ndindex(5, 4):
        p, t = points[i].numpy(), target[i].numpy()
        system = np.c_[p, np.ones(68)]
        np.testing.assert_allclose(matrix[i].numpy(), np.linalg.lstsq(system, t, rcond=None)[0].T, atol=1e-12)
        np.testing.assert_allclose(matrix[i].numpy(), pseudo_inverse_of_the_paper(p, t), atol=1e-10)


@pytest.mark.parametrize("depth", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_float32_fit_is_good_also_for_shallow_tilted_faces(depth, offset):
    points = some(50, 68, 3) + offset
    points[..., 2] = depth * points[..., 2] + points[..., 0] + 0.5 * points[..., 1]
    target = points @ some(3, 2) + 0.05 * some(50, 68, 2, seed=1)
    points, target = points.float(), target.float()
    exact = affine_2d_from_3d(points.double(), target.double())[1]
    error = (affine_2d_from_3d(points, target)[1].double() - exact).abs().max()
    assert error < (5e-6 if offset == 0 else 1e-3)


def test_gauge_freedom_of_depth():
    points, target = some(10, 68, 3), some(10, 68, 2, seed=1)
    fitted = affine_2d_from_3d(points, target)[1]
    for a, b, c, d in [(2, 0, 0, 0), (-1, 0, 0, 0), (1, 3, 0, 0), (0.5, -2, 7, 100), (-30, 20, 10, -5)]:
        x, y, z = points.unbind(-1)
        other = torch.stack([x, y, a * z + b * x + c * y + d], -1)
        assert_close(affine_2d_from_3d(other, target)[1], fitted, rtol=0, atol=1e-10)
        single = affine_2d_from_3d(other.float(), target.float())[1]
        assert_close(single.double(), fitted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("tilt", [(0.0, 0.0, 0.0), (0.0, 0.0, 5.0), (2.0, -3.0, 1.0)])
def test_coplanar_points_give_the_best_fit_a_small_matrix_and_finite_gradients(dtype, tilt):
    points, target = some(20, 68, 3), some(20, 68, 2, seed=1)
    b, c, d = tilt
    points[..., 2] = b * points[..., 0] + c * points[..., 1] + d
    points = points.to(dtype).requires_grad_()
    target = target.to(dtype).requires_grad_()
    matrix, fitted = affine_2d_from_3d(points, target)
    flat = torch.cat([points[..., :2], torch.ones_like(points[..., :1])], -1).detach()
    best = flat @ torch.linalg.lstsq(flat, target.detach()).solution
    assert_close(fitted.detach(), best, rtol=0, atol=2e-5 if dtype is torch.float32 else 1e-9)
    assert matrix[..., :3].abs().max() < 2
    (fitted - 1).square().sum().backward()
    for grad in (points.grad, target.grad):
        assert grad is not None
        assert grad.isfinite().all()
        assert grad.abs().max() < 1e5


def test_depth_far_below_rounding_of_the_rest_is_ignored():
    points, target = some(68, 3).float(), some(68, 2, seed=1).float()
    points[:, 2] *= 1e-9
    fitted = affine_2d_from_3d(points, target)[1]
    flat = torch.cat([points[:, :2], torch.ones(68, 1)], -1)
    best = flat @ torch.linalg.lstsq(flat, target).solution
    assert_close(fitted, best, rtol=0, atol=1e-3)


def test_collapsed_points_give_the_mean():
    points = torch.zeros(68, 3, requires_grad=True)
    target = some(68, 2).float()
    fitted = affine_2d_from_3d(points, target)[1]
    assert_close(fitted.detach(), target.mean(0).expand(68, 2))
    fitted.sum().backward()
    assert points.grad is not None
    assert points.grad.isfinite().all()


def test_affine_weights_and_broadcasting():
    points, target = some(9, 3), some(4, 9, 2, seed=1)
    weights = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 0, 0], dtype=F64)
    assert_close(affine_2d_from_3d_matrix(points, target, weights), affine_2d_from_3d_matrix(points[:7], target[:, :7]))
    twice = torch.cat([points, points[:3]]), torch.cat([target, target[:, :3]], 1)
    weights = torch.tensor([2.0, 2, 2, 1, 1, 1, 1, 1, 1], dtype=F64)
    assert_close(affine_2d_from_3d_matrix(points, target, weights), affine_2d_from_3d_matrix(*twice))


@pytest.mark.parametrize("solve", [affine_2d_from_3d, affine_2d_from_3d_matrix, orthographic_pose])
@pytest.mark.parametrize("shapes", [((5, 2), (5, 2)), ((5, 3), (5, 3)), ((5, 3), (6, 2))])
def test_shapes_that_do_not_fit_are_refused(solve, shapes):
    with pytest.raises(ValueError, match=r"expected points \(\.\.\., N, 3\)"):
        solve(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_gradient_of_affine():
    points, target = some(2, 7, 3).requires_grad_(), some(2, 7, 2, seed=1).requires_grad_()
    weights = some(2, 7, seed=2).abs().requires_grad_()
    assert gradcheck(affine_2d_from_3d, (points, target, weights))


def test_the_path_through_the_matrix_adds_no_gradient():
    # Envelope theorem: the matrix already minimises the same loss (DepthNets' "secondary least squares" equals it).
    points, target = some(68, 3).requires_grad_(), some(68, 2, seed=1)
    matrix, fitted = affine_2d_from_3d(points, target)
    (through,) = torch.autograd.grad((fitted - target).square().sum(), points)
    loss = (apply(matrix.detach(), points) - target).square().sum()
    (around,) = torch.autograd.grad(loss, points)
    assert_close(through, around)


# --- pose


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    """Degrees between rotations."""
    return torch.rad2deg(2 * torch.asin(((a - b).norm(dim=(-2, -1)) / 8**0.5).clamp(max=1)))


def random_poses(count: int) -> Tensor:
    yaw, pitch, roll = torch.rand(3, count, dtype=F64, generator=torch.Generator().manual_seed(1)) * 160 - 80
    return rotation_from_angles(yaw, pitch, roll)


def test_pose_is_recovered_up_to_80_degrees():
    truth = random_poses(300)
    size, offset = some(300, seed=2).exp() * 50, 100 * some(300, 2, seed=3)
    points = face_like()
    pixels = size[:, None, None] * (points @ truth.mT)[..., :2] + offset[:, None]
    rotation, scale, shift = orthographic_pose(points, pixels)
    assert angle_between(rotation, truth).max() < 1e-9
    assert_close(scale, size)
    assert_close(shift, offset)
    single = orthographic_pose(points.float(), pixels.float())[0]
    assert angle_between(single.double(), truth).max() < 0.01


def test_noise_moves_the_pose_little_and_more_iterations_hardly_matter():
    truth, points = random_poses(300), face_like()
    pixels = (points @ truth.mT)[..., :2] + 0.02 * some(300, 68, 2)
    found = orthographic_pose(points, pixels)[0]
    error = angle_between(found, truth)
    assert error.mean() < 0.8
    assert error.max() < 3
    assert angle_between(found, orthographic_pose(points, pixels, iterations=200)[0]).max() < 0.2


def test_the_pose_is_at_a_minimum():
    points, pixels, weights = face_like(), some(20, 68, 2), some(20, 68, seed=1).abs()
    pixels = (points @ random_poses(20).mT)[..., :2] + 0.05 * pixels
    rotation, scale, shift = orthographic_pose(points, pixels, weights, iterations=2000)
    turn = torch.zeros(20, 3, 3, dtype=F64, requires_grad=True)
    scale, shift = scale.detach().requires_grad_(), shift.detach().requires_grad_()
    seen = (points @ (torch.linalg.matrix_exp(turn - turn.mT) @ rotation).mT)[..., :2]
    loss = (weights[..., None] * (scale[:, None, None] * seen + shift[:, None] - pixels).square()).sum()
    for grad in torch.autograd.grad(loss, (turn, scale, shift)):
        assert grad.abs().max() < 1e-8


def test_points_of_weight_zero_do_not_matter_at_all():
    points, truth = face_like(), random_poses(50)
    pixels = 30 * (points @ truth.mT)[..., :2]
    weights = torch.ones(68, dtype=F64)
    weights[:20] = 0
    spoilt = pixels.clone()
    spoilt[:, :20] += 1000 * some(50, 20, 2)
    # Without iterations, what comes back is the start value.
    for iterations in (0, 20):
        rotation, scale, _ = orthographic_pose(points, spoilt, weights, iterations)
        assert angle_between(rotation, truth).max() < 1e-6
        assert_close(scale, torch.full_like(scale, 30.0))


def test_mirrored_input_gives_the_mirrored_pose():
    points, mirror = face_like(), torch.diag(MIRROR_X)
    pixels = (points @ random_poses(50).mT)[..., :2] + 0.05 * some(50, 68, 2)
    rotation, scale, shift = orthographic_pose(points, pixels)
    turned, same_scale, flipped = orthographic_pose(points * MIRROR_X, pixels * MIRROR_X[:2])
    assert_close(turned, mirror @ rotation @ mirror)
    assert_close(same_scale, scale)
    assert_close(flipped, shift * MIRROR_X[:2])


@pytest.mark.parametrize("collapse", ["points", "pixels", "both"])
def test_collapsed_input_has_no_nan(collapse):
    points = torch.ones(68, 3) if collapse != "pixels" else face_like().float()
    pixels = torch.full((68, 2), 5.0) if collapse != "points" else face_like().float()[:, :2]
    rotation, scale, shift = orthographic_pose(points, pixels)
    assert_close(rotation @ rotation.mT, torch.eye(3))
    assert scale.isfinite()
    seen = scale * (points @ rotation.mT)[:, :2] + shift
    assert_close(seen.mean(0), pixels.mean(0), rtol=1e-3, atol=1e-3)


def test_a_flat_model_has_no_nan():
    points = face_like() * torch.tensor([1.0, 1.0, 0.0], dtype=F64)
    for values in orthographic_pose(points, (points @ random_poses(50).mT)[..., :2]):
        assert values.isfinite().all()


def test_gradient_of_pose():
    points, pixels = face_like(8).requires_grad_(), some(2, 8, 2, seed=1)
    pixels = ((points.detach() @ random_poses(2).mT)[..., :2] + 0.1 * pixels).requires_grad_()
    weights = some(8, seed=2).abs().requires_grad_()
    assert gradcheck(lambda *a: orthographic_pose(*a, iterations=4), (points, pixels, weights))
