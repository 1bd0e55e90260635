"""Normals and depth maps against surfaces whose normals and areas are known."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.geometry import (
    depth_normals,
    depth_to_mesh,
    depth_to_points,
    face_normals,
    grid_faces,
    grid_normals,
    intrinsics,
    pixel_centres,
    project,
    rotation_from_angles,
    stack_meshes,
    vertex_normals,
)

F64 = torch.float64


def sphere(rings: int, sectors: int) -> tuple[Tensor, Tensor]:
    """Unit sphere whose triangles run clockwise as seen from outside, poles included."""
    polar = torch.linspace(0, math.pi, rings + 1, dtype=F64)
    turn = torch.linspace(0, 2 * math.pi, sectors + 1, dtype=F64)
    p, t = torch.meshgrid(polar, turn, indexing="ij")
    # At z < 0, facing the camera: x grows to the right with t near 0, y goes down with p.
    vertices = torch.stack([p.sin() * t.sin(), -p.cos(), -p.sin() * t.cos()], -1).flatten(0, 1)
    first, second = grid_faces(rings + 1, sectors + 1).chunk(2)
    # At the poles one triangle of each pair has no area.
    return vertices, torch.cat([first[sectors:], second[:-sectors]])


def test_normals_of_a_sphere_are_its_positions():
    vertices, faces = sphere(90, 180)
    normals = vertex_normals(vertices, faces)
    # The two sides of the seam see half of their neighbours each, the poles at most one triangle.
    inner = torch.zeros(91, 181, dtype=torch.bool)
    inner[2:-2, 1:-1] = True
    assert (normals - vertices)[inner.flatten()].norm(dim=-1).max() < 5e-3
    assert ((normals * vertices).sum(-1)[181:-181] > 0.99).all()


def test_face_normals_point_out_and_are_twice_the_area():
    vertices, faces = sphere(200, 400)
    normals = face_normals(vertices, faces)
    centres = vertices[faces].mean(1)
    area = normals.norm(dim=-1)
    assert ((normals * centres).sum(-1) >= 0).all()
    assert math.isclose(float(area.sum()) / 2, 4 * math.pi, rel_tol=1e-4)
    # Divergence theorem: the volume under the outward normals.
    assert math.isclose(float((normals * centres).sum()) / 6, 4 / 3 * math.pi, rel_tol=2e-4)


def test_a_known_triangle():
    # Right angle with legs 2 and 3, clockwise on the screen.
    vertices = torch.tensor([[0.0, 0.0, 1.0], [2.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
    assert_close(face_normals(vertices, torch.tensor([[0, 1, 2]])), torch.tensor([[0.0, 0.0, -6.0]]))


def test_normals_turn_with_the_surface():
    vertices, faces = sphere(8, 12)
    vertices = vertices * torch.tensor([1.0, 0.6, 1.4], dtype=F64)
    rotations = rotation_from_angles(torch.tensor([10.0, 50.0], dtype=F64), 20, -70)
    moved = vertices @ rotations.mT
    assert_close(vertex_normals(moved, faces), vertex_normals(vertices, faces) @ rotations.mT)


def test_what_has_no_area_has_no_normal_and_no_nan():
    vertices = torch.tensor([[0.0, 0, 1], [1, 0, 1], [2, 0, 1], [5, 5, 5]], requires_grad=True)
    normals = vertex_normals(vertices, torch.tensor([[0, 1, 2]]))
    assert (normals == 0).all()
    (1e3 * normals).sum().backward()
    assert vertices.grad is not None
    assert vertices.grad.isfinite().all()
    assert vertex_normals(vertices, torch.zeros(0, 3, dtype=torch.int64)).shape == (4, 3)


def test_the_grid_is_covered_once_by_clockwise_triangles():
    height, width = 5, 7
    faces = grid_faces(height, width)
    assert faces.shape == (2 * (height - 1) * (width - 1), 3)
    flat = torch.cat([pixel_centres(height, width), torch.ones(height, width, 1)], -1).flatten(0, 1)
    normals = face_normals(flat, faces)
    assert_close(normals, torch.tensor([0.0, 0.0, -1.0]).expand_as(normals))
    corners = torch.zeros(height * width).index_add(0, faces.flatten(), torch.ones(faces.numel()))
    assert corners.view(height, width)[1:-1, 1:-1].eq(6).all()


def test_a_grid_made_in_inference_mode_still_serves_autograd():
    grid_faces.cache_clear()
    with torch.inference_mode():
        grid_faces(4, 5)
    vertices = torch.rand(20, 3, requires_grad=True)
    vertex_normals(vertices, grid_faces(4, 5)).sum().backward()


def ball(height: int, width: int, fov: float = 20.0, radius: float = 0.5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Depth map, camera, true normals and mask of a ball with its centre at z = 1, seen in perspective."""
    K = intrinsics(fov, (height, width)).double()
    pixels = pixel_centres(height, width, F64)
    rays = torch.cat([pixels, torch.ones(height, width, 1, dtype=F64)], -1) @ torch.linalg.inv(K).mT
    # |d r - (0, 0, 1)| = radius, nearer root.
    a, half_b, c = rays.square().sum(-1), rays[..., 2], 1 - radius**2
    root = half_b**2 - a * c
    depth = torch.where(root > 0, (half_b - root.clamp_min(0).sqrt()) / a, 1.0)
    normals = (depth[..., None] * rays - torch.tensor([0.0, 0.0, 1.0], dtype=F64)) / radius
    return depth, K, normals, root > 0


def test_the_mesh_of_a_depth_map_lies_on_the_rays_of_the_pixel_centres():
    depth, K, _, _ = ball(30, 40)
    vertices, faces = depth_to_mesh(torch.stack([depth, depth + 1]), K)
    assert vertices.shape == (2, 1200, 3)
    assert faces.max() == 1199
    assert_close(project(vertices, K), pixel_centres(30, 40, F64).flatten(0, 1).expand(2, 1200, 2))
    assert_close(vertices[1, :, 2], depth.flatten() + 1)


@pytest.mark.parametrize("size", [(200, 260), (260, 200)])
def test_both_kinds_of_normals_of_a_ball(size):
    depth, K, truth, _ = ball(*size)
    vertices, faces = depth_to_mesh(depth, K)
    assert_close(vertices[:, 2].view(size), depth)
    inside = torch.zeros(size, dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    by_grid = grid_normals(depth_to_points(depth, K)).movedim(0, -1)
    for normals in (vertex_normals(vertices, faces).view(*size, 3), by_grid):
        assert_close(normals.norm(dim=-1), torch.ones(size, dtype=F64))
        assert (normals - truth)[inside].norm(dim=-1).max() < 1e-3
        assert ((normals * vertices.view(*size, 3)).sum(-1) < 0).all(), "towards the camera"
        assert (normals - truth).norm(dim=-1).max() < 2e-2


def test_grid_normals_of_tiny_grids():
    flat = torch.tensor([[[0.0, 1e-7], [0, 1e-7]], [[0, 0], [1e-7, 1e-7]], [[1, 1], [1, 1]]])
    assert_close(grid_normals(flat), torch.tensor([0.0, 0.0, -1.0])[:, None, None].expand(3, 2, 2))
    for wrong in (torch.zeros(3, 1, 5), torch.zeros(3, 5, 1), torch.zeros(4, 4, 3), torch.zeros(3, 3)):
        with pytest.raises(UsageError, match="at least 2"):
            grid_normals(wrong)


def test_grid_normals_have_full_length_however_fine_the_grid():
    # Cross products of 1e-9: a constant added to the length would show.
    x = torch.arange(40) * 1e-5
    y, x = torch.meshgrid(x, x, indexing="ij")
    normals = grid_normals(torch.stack([x, y, 1 + 3e-4 * torch.sin(4e4 * x) + y]).expand(2, -1, -1, -1))
    assert_close(normals.norm(dim=1), torch.ones(2, 40, 40), rtol=0, atol=3e-7)


def test_points_in_line_have_no_normal_and_no_gradient():
    points = torch.zeros(3, 5, 6)
    points[0, :, 3:] = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))  # a line along x, and one point
    points.requires_grad_()
    normals = grid_normals(points)
    assert (normals == 0).all()
    (1e6 * normals).sum().backward()
    assert points.grad is not None
    assert (points.grad == 0).all()


def test_grid_normals_are_those_of_the_differences():
    points = torch.randn(2, 3, 6, 7, dtype=F64, generator=torch.Generator().manual_seed(0))
    points = points.requires_grad_()
    padded = torch.nn.functional.pad(points, (1, 1, 1, 1), mode="replicate")
    along = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    expected = torch.nn.functional.normalize(torch.linalg.cross(down, along, dim=1), dim=1)
    assert_close(grid_normals(points), expected)
    weight = torch.randn(expected.shape, dtype=F64, generator=torch.Generator().manual_seed(1))
    found, wanted = (torch.autograd.grad((n * weight).sum(), points)[0] for n in (grid_normals(points), expected))
    assert_close(found, wanted)


def test_a_batch_of_meshes_has_the_normals_of_each_bit_for_bit():
    vertices, faces = sphere(8, 12)
    g = torch.Generator().manual_seed(0)
    batch = (vertices + 0.05 * torch.randn(2, 3, *vertices.shape, generator=g, dtype=F64)).float()
    for normals in (face_normals, vertex_normals):
        together = normals(batch, faces)
        assert together.shape[:2] == (2, 3)
        assert torch.equal(together[1, 2], normals(batch[1, 2], faces))
        # Triangles of their own: the second mesh lists them in another order.
        own = torch.stack([faces, faces.flip(0)])
        separate = normals(batch[0, :2], own)
        assert torch.equal(separate[0], together[0, 0])
        assert torch.equal(separate[1], normals(batch[0, 1], faces.flip(0)))
    points = depth_to_points(1 + torch.rand(3, 9, 11, generator=g), intrinsics(20, (9, 11)))
    assert torch.equal(grid_normals(points)[1], grid_normals(points[1]))


def test_stacked_meshes_are_filled_up_with_what_is_never_drawn():
    small = torch.rand(4, 5), torch.tensor([[0, 1, 2], [1, 3, 2]])
    big = torch.rand(7, 5), torch.tensor([[0, 1, 2], [4, 5, 6], [3, 4, 5]])
    none = torch.zeros(0, 5), torch.zeros(0, 3, dtype=torch.int64)
    vertices, faces = stack_meshes([small, big, none])
    assert vertices.shape == (3, 7, 5)
    assert torch.equal(vertices[0, :4], small[0])
    assert torch.equal(vertices[0, 4:], small[0][:1].expand(3, -1))
    assert torch.equal(vertices[1], big[0])
    assert torch.equal(faces[0], torch.tensor([[0, 1, 2], [1, 3, 2], [0, 0, 0]]))
    assert torch.equal(faces[1], big[1])
    assert (faces[2] == 0).all()
    for wrong in (
        [],
        [small, (torch.rand(4, 3), small[1])],
        [(small[0][None], small[1])],
        [(small[0], torch.ones(2, 4))],
    ):
        with pytest.raises(UsageError, match="stack_meshes"):
            stack_meshes(wrong)


def test_gradients():
    vertices, faces = sphere(3, 4)
    vertices = vertices[5:15].add(0.1 * torch.rand(10, 3, dtype=F64)).requires_grad_()
    faces = grid_faces(2, 5)
    assert gradcheck(lambda v: face_normals(v, faces), vertices)
    assert gradcheck(lambda v: vertex_normals(v, faces), vertices)
    assert gradcheck(lambda v: vertex_normals(v.view(2, 5, 3), torch.tensor([[[0, 1, 2]], [[4, 2, 1]]])), vertices)
    assert gradcheck(lambda v: grid_normals(v.mT.view(3, 2, 5)), vertices)
    depth = torch.rand(2, 3, 4, dtype=F64).add(0.5).requires_grad_()
    K = intrinsics(30, (3, 4)).double().requires_grad_()
    assert gradcheck(lambda d, k: depth_to_mesh(d, k)[0], (depth, K))
    assert gradcheck(lambda d: grid_normals(depth_to_points(d, K.detach())), depth)


@pytest.mark.parametrize("size", [(9, 12), (3, 3), (2, 5), (1, 1)])
def test_normals_of_a_depth_map_are_those_of_its_points(size):
    g = torch.Generator().manual_seed(0)
    depth = 1 + 0.1 * torch.rand(2, 3, *size, generator=g, dtype=torch.float64)
    K = torch.tensor([[40.0, 0, 5.2], [0, 55.0, 3.9], [0, 0, 1]], dtype=torch.float64)
    found = depth_normals(depth, K)
    border = torch.ones(size, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert found.shape == (2, 3, 3, *size)
    assert (found.movedim(-3, -1)[..., border, :] == torch.tensor([0.0, 0.0, -1.0])).all()
    if min(size) > 2:
        expected = grid_normals(depth_to_points(depth, K))
        torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
        depth = depth[0].requires_grad_()
        assert torch.autograd.gradcheck(lambda d: depth_normals(d, K), depth)


def test_depth_normals_want_a_plain_camera():
    for K in (torch.tensor([[40.0, 1, 5], [0, 40, 5], [0, 0, 1]]), torch.eye(4)):
        with pytest.raises(UsageError, match="without skew"):
            depth_normals(torch.ones(4, 4), K)
