"""Cameras: round trips, pixel centres, clip space."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.geometry import (
    apply,
    clip,
    clip_from_affine,
    clip_from_camera,
    clip_from_orthographic,
    intrinsics,
    pixel_centres,
    project,
    unproject,
)

F64 = torch.float64


@given(st.floats(5, 120), st.integers(1, 40), st.integers(1, 40), st.integers(0, 10_000))
@settings(deadline=None, max_examples=40)
def test_unproject_then_project_returns_the_pixel(fov, height, width, seed):
    K = intrinsics(fov, (height, width)).double()
    pixels = pixel_centres(height, width, F64).flatten(0, 1)
    depth = 0.1 + 5 * torch.rand(len(pixels), dtype=F64, generator=torch.Generator().manual_seed(seed))
    points = unproject(pixels, depth, K)
    assert_close(points[:, 2], depth)
    assert_close(project(points, K), pixels)


def test_batches_of_cameras():
    K = torch.stack([intrinsics(f, (20, 30)) for f in (10.0, 40.0)])
    pixels = pixel_centres(20, 30).flatten(0, 1)
    points = unproject(pixels, torch.ones(2, 600), K)
    assert points.shape == (2, 600, 3)
    assert_close(project(points, K), pixels.expand(2, 600, 2))


@pytest.mark.parametrize("size", [(100, 60), (60, 100)])
def test_the_field_of_view_spans_the_longer_side(size):
    tangent = math.tan(math.radians(15))
    edge = project(torch.tensor([[tangent, tangent, 1.0]]), intrinsics(30, size))[0]
    assert_close(edge, torch.tensor([size[1] / 2 + 50, size[0] / 2 + 50]))


@pytest.mark.parametrize("fov", [0.0, -10.0, 180.0])
def test_an_impossible_field_of_view_is_refused(fov):
    with pytest.raises(ValueError, match="between 0 and 180"):
        intrinsics(fov, (10, 10))


@pytest.mark.parametrize("size", [(48, 80), (80, 48)])
def test_clip_space_agrees_with_the_projection(size):
    K = intrinsics(30, size).double()
    K[0, 1] = 3.0  # a slanted sensor
    K[0, 2] += 5.0
    points = torch.randn(50, 3, dtype=F64, generator=torch.Generator().manual_seed(0)) * 0.2
    points[:, 2] += 1.0
    clip = apply(clip_from_camera(K, size, near=0.2, far=9.0), points)
    height, width = size
    assert_close((clip[:, :2] + 1) / 2 * torch.tensor([width, height], dtype=F64), project(points, K))


def test_depth_grows_in_clip_space_and_w_is_the_depth():
    matrix = clip_from_camera(intrinsics(20, (8, 8)), (8, 8), near=0.5, far=4.0)
    z = torch.linspace(0.5, 4.0, 20)
    clip = torch.stack([0 * z, 0 * z, z, torch.ones_like(z)], -1) @ matrix.mT
    assert_close(clip[:, 3], z)
    depth = clip[:, 2] / clip[:, 3]
    assert (depth.diff() > 0).all()
    assert_close(depth[[0, -1]], torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize("planes", [(0.0, 1.0), (2.0, 1.0), (1.0, 1.0), (-1.0, 1.0)])
def test_impossible_planes_are_refused(planes):
    with pytest.raises(ValueError, match="0 < near < far"):
        clip_from_camera(torch.eye(3), (4, 4), *planes)


def points_of(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 3, dtype=F64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(48, 80), (80, 48)])
def test_an_affine_camera_sends_points_where_its_affine_does(size):
    affine = torch.randn(5, 2, 4, dtype=F64, generator=torch.Generator().manual_seed(1)) * 20
    points = points_of(5, 30)
    found = clip(points, clip_from_affine(affine, size, near=-7.0, far=5.0))
    assert_close(found[..., 3], torch.ones(5, 30, dtype=F64))
    pixels = (found[..., :2] + 1) / 2 * torch.tensor([size[1], size[0]], dtype=F64)
    assert_close(pixels, apply(affine, points))
    assert_close((found[..., 2] + 1) / 2, (points[..., 2] + 7) / 12)
    with pytest.raises(UsageError, match="near < far"):
        clip_from_affine(affine, size, near=1.0, far=1.0)
    with pytest.raises(UsageError, match=r"\(3, 4\)"):
        clip_from_affine(affine[0].new_zeros(3, 4), size, near=0.0, far=1.0)


def test_an_orthographic_camera_shows_all_depths_at_one_scale():
    points = points_of(30)
    size, extent = (48, 80), torch.tensor([80, 48], dtype=F64)
    found = clip(points, clip_from_orthographic(12.5, size, near=-9, far=9).double())
    assert_close((found[:, :2] + 1) / 2 * extent, 12.5 * points[:, :2] + extent / 2, rtol=0, atol=1e-5)
    scales = torch.tensor([3.0, 4.0], dtype=F64)
    shifted = clip(points, clip_from_orthographic(scales, size, (7.0, 9.0)))
    expected = scales[:, None, None] * points[:, :2] + torch.tensor([7.0, 9.0], dtype=F64)
    assert_close((shifted[..., :2] + 1) / 2 * extent, expected)
    # The default planes are those of the pinhole camera, for a face at z = 1.
    assert (shifted[0, :, 2] < -1).equal(points[:, 2] < 0.05)


def test_clip_is_the_matrix_product_whatever_comes_with_it():
    points, matrices = points_of(3, 500).float(), torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1))
    found = clip(points, matrices)
    assert_close(found, torch.nn.functional.pad(points, (0, 1), value=1.0) @ matrices.mT)
    # Bit for bit the same, alone and in company, with one thread and with more.
    assert torch.equal(found[1, 17:18], clip(points[1, 17:18], matrices[1]))
    assert clip(points[0], matrices).shape == (3, 500, 4)
    assert torch.equal(clip(points, matrices[1])[1], found[1])
    threads = torch.get_num_threads()
    try:
        many = points_of(60_000).float()
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(clip(many, matrices[0]))
        assert torch.equal(*results)
    finally:
        torch.set_num_threads(threads)
    for wrong in ((points[..., :2], matrices), (points, matrices[:, :3])):
        with pytest.raises(UsageError, match="clip: expected"):
            clip(*wrong)


def test_gradients():
    K = intrinsics(30, (6, 8)).double().requires_grad_()
    pixels = pixel_centres(2, 3, F64).flatten(0, 1).requires_grad_()
    depth = (torch.rand(2, 6, dtype=F64) + 0.5).requires_grad_()
    points = torch.rand(2, 6, 3, dtype=F64).add(0.5).requires_grad_()
    assert gradcheck(unproject, (pixels, depth, K))
    assert gradcheck(project, (points, K))
    assert gradcheck(lambda k: clip_from_camera(k, (6, 8)), K)
    assert gradcheck(clip, (points, torch.rand(2, 4, 4, dtype=F64).requires_grad_()))
    assert gradcheck(lambda p, k: clip(p, clip_from_camera(k, (6, 8))), (points, K))
    affine = torch.rand(2, 4, dtype=F64).requires_grad_()
    assert gradcheck(lambda a: clip(points.detach(), clip_from_affine(a, (6, 8), 0, 3)), affine)
    scale, centre = torch.tensor(3.0, dtype=F64).requires_grad_(), torch.rand(2, dtype=F64).requires_grad_()
    assert gradcheck(lambda s, c: clip_from_orthographic(s, (6, 8), c), (scale, centre))
