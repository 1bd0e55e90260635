import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aboutface.errors import UsageError
from aboutface.geometry import clip_from_camera, grid_faces, intrinsics
from aboutface.render import Fragments, rasterize

FAST = ["torch", "numba"]  # test_warp.py has the same for its backend
BACKENDS = ["reference", *FAST]
FULL_SCREEN = torch.tensor([[-1.0, -1.0, 0.0, 1.0], [3.0, -1.0, 0.0, 1.0], [-1.0, 3.0, 0.0, 1.0]])
ONE = torch.tensor([[0, 1, 2]])


def clip_from_pixels(pixels: torch.Tensor, size: tuple[int, int], z: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Vertices (V, 4) with w = 1 at positions (V, 2) in pixels."""
    extent = torch.tensor([size[1], size[0]], dtype=pixels.dtype)
    ones = torch.ones_like(pixels[:, 0])
    return torch.cat([pixels / extent * 2 - 1, torch.stack([z * ones, ones], -1)], -1)


def soup(seed: int, size: tuple[int, int], kind: str, count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Random triangles (2, V, 4) and (F, 3) of one kind of trouble."""
    g = torch.Generator().manual_seed(seed)
    w = 0.5 + 2 * torch.rand(2, 30, 1, generator=g)
    xyz = (torch.rand(2, 30, 3, generator=g) * 2.6 - 1.3) * w
    if kind == "on centres":
        extent = torch.tensor([size[1], size[0], 2.0])
        w = 2.0 ** torch.randint(-1, 2, (2, 30, 1), generator=g)
        xyz = (torch.randint(-2, 2 * max(size), (2, 30, 3), generator=g) / 2 / extent * 2 - 1) * w
    if kind == "far outside":
        xyz = xyz * 10.0 ** (torch.rand(2, 30, 3, generator=g) * 6)
    clip = torch.cat([xyz, w], -1)
    if kind == "behind the camera":
        w = torch.rand(2, 30, 1, generator=g) * 2 - 0.8
        w[:, :3] *= torch.tensor([0.0, 1e-7, 1e-5])[:, None]
    if kind == "near plane":
        # A perspective camera among the triangles: some corners lie behind it, some before its near plane.
        points = torch.rand(2, 30, 4, generator=g) * torch.tensor([2.0, 2.0, 2.0, 0.0]) - torch.tensor(
            [1.0, 1, 0.8, -1]
        )
        matrix = clip_from_camera(intrinsics(70.0, size), size, near=0.1, far=3.0)
        xyz, w = (points @ matrix.mT).split([3, 1], -1)
    if kind == "broken":
        bad = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e38, 1e-38])
        rows = torch.randint(0, 30, (8,), generator=g)
        clip[0, rows, torch.randint(0, 4, (8,), generator=g)] = bad[torch.randint(0, 7, (8,), generator=g)]
    return clip, torch.randint(0, 30, (count, 3), generator=g)


KINDS = ["general", "on centres", "far outside", "broken", "behind the camera", "near plane"]


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("order", ["depth", "painter"])
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(KINDS),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    double=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_every_backend_finds_the_ids_of_the_reference(backend, order, seed, kind, size, double):
    clip, faces = soup(seed, size, kind)
    clip = clip.double() if double else clip
    faces = torch.stack([faces, faces.flip(0)])
    found = rasterize(clip, faces, size, backend=backend, order=order)
    truth = rasterize(clip, faces, size, backend="reference", order=order)
    assert torch.equal(found.triangle_id, truth.triangle_id)
    assert found.barycentric.dtype == found.depth.dtype == clip.dtype
    assert torch.isfinite(found.barycentric).all()
    assert torch.isfinite(found.depth).all()
    assert (found.barycentric >= 0).all()
    seen = (found.triangle_id >= 0).to(clip.dtype)
    torch.testing.assert_close(found.barycentric.sum(-1), seen)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("seed", range(4))
def test_every_backend_has_the_values_and_gradients_of_the_reference(backend, seed):
    clip, faces = soup(seed, (12, 9), "general", count=12)
    weights = torch.rand(2, 12, 9, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    results = []
    for name in (backend, "reference"):
        vertices = clip.double().requires_grad_()
        found = rasterize(vertices, faces, (12, 9), backend=name)
        picture = torch.cat([found.barycentric, found.depth[..., None]], -1)
        (picture * weights).sum().backward()
        results.append((picture.detach(), vertices.grad))
    assert (results[0][0] != 0).any()
    torch.testing.assert_close(results[0], results[1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_those_of_finite_differences(backend):
    clip = torch.tensor([[[-0.9, -0.8, 0.2, 1.3], [1.1, -0.5, 0.1, 0.9], [0.2, 1.2, -0.3, 1.1], [0.9, 0.95, 0.4, 1.0]]])
    faces = torch.tensor([[0, 1, 2], [1, 3, 2]])

    def values(vertices):
        return rasterize(vertices, faces, (5, 6), backend=backend)[1:]

    # Ids must not change within the step: no pixel centre lies near an edge here.
    assert torch.autograd.gradcheck(values, clip.double().requires_grad_())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.5, 0.5), (0.25, 0.5), (0.3, 0.1), (1.5, 0.75)])
@pytest.mark.parametrize("flip", [False, True])
def test_pixels_of_a_grid_are_covered_exactly_once(backend, corner, flip):
    # 7 x 7 quads of 2 pixels: at halves the vertices and many edges lie exactly on pixel centres.
    y, x = torch.meshgrid(torch.arange(8) * 2.0, torch.arange(8) * 2.0, indexing="ij")
    pixels = torch.stack([x + corner[0], y + corner[1]], -1).flatten(0, 1)
    clip = clip_from_pixels(pixels, (16, 16))[None]
    faces = grid_faces(8, 8).flip(-1) if flip else grid_faces(8, 8)
    count = torch.zeros(16, 16)
    for face in faces:
        count += (rasterize(clip, face[None], (16, 16), backend=backend).triangle_id[0] >= 0).float()
    left, top = (math.ceil(c - 0.5) for c in corner)
    expected = torch.zeros(16, 16)
    expected[top : top + 14, left : left + 14] = 1
    assert torch.equal(count, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_fan_of_slivers_is_watertight(backend):
    g = torch.Generator().manual_seed(3)
    angle = torch.linspace(0, 2 * torch.pi, 61, dtype=torch.float64)[:-1]
    ring = torch.stack([angle.cos(), angle.sin()], -1) * 9 + 10
    clip = clip_from_pixels(torch.cat([torch.tensor([[10.5, 10.5]], dtype=torch.float64), ring]), (20, 20))[None]
    around = torch.arange(60)
    faces = torch.stack([torch.zeros_like(around), around + 1, (around + 1) % 60 + 1], -1)
    faces = faces[torch.randperm(60, generator=g)]
    alone = torch.stack([rasterize(clip, f[None], (20, 20), backend=backend).triangle_id[0] >= 0 for f in faces]).sum(0)
    distance = torch.cdist(torch.cartesian_prod(torch.arange(20), torch.arange(20)) + 0.5, torch.full((1, 2), 10.0))
    assert alone.max() == 1
    assert (alone.flatten()[distance[:, 0] < 8.9] == 1).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_nearest_triangle_wins_and_among_equals_the_first(backend):
    near, far = FULL_SCREEN + torch.tensor([0, 0, -0.5, 0]), FULL_SCREEN
    clip = torch.cat([far, near, near])[None]
    faces = torch.tensor([[0, 1, 2], [3, 4, 5], [7, 8, 6]])
    found = rasterize(clip, faces, (4, 4), backend=backend)
    assert (found.triangle_id == 1).all()
    assert (found.depth == -0.5).all()
    assert (rasterize(clip, faces, (4, 4), backend=backend, order="painter").triangle_id == 2).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_crossing_triangles_are_cut_where_they_meet(backend):
    left = clip_from_pixels(torch.tensor([[-9.0, -9.0], [40.0, -9.0], [-9.0, 40.0]]), (8, 8))
    tilted = left.clone()
    left[:, 2], tilted[:, 2] = 0.0, left[:, 0] / 2  # the second lies in front left of the middle
    found = rasterize(torch.cat([left, tilted])[None], torch.tensor([[0, 1, 2], [3, 4, 5]]), (8, 8), backend=backend)
    assert (found.triangle_id[0, :, :4] == 1).all()
    assert (found.triangle_id[0, :, 4:] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_sides_are_drawn(backend):
    front = rasterize(FULL_SCREEN[None], ONE, (3, 5), backend=backend)
    back = rasterize(FULL_SCREEN[None], ONE.flip(-1), (3, 5), backend=backend)
    assert (front.triangle_id == 0).all()
    assert (back.triangle_id == 0).all()
    torch.testing.assert_close(back.barycentric.flip(-1), front.barycentric)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_slanted_plane_has_its_analytic_depth(backend):
    # The plane z = 1 + 0.4 x - 0.3 y: along the ray (X, Y, 1) it lies at z = 1 / (1 - 0.4 X + 0.3 Y).
    size, near, far = (24, 32), 0.05, 20.0
    K = intrinsics(50, size)
    xy = torch.tensor([[-4.0, -3.0], [1.2, -2.0], [0.3, 2.5]]) / 1.5
    points = torch.cat([xy, 1 + 0.4 * xy[:, :1] - 0.3 * xy[:, 1:]], -1)
    assert (points[:, 2] > 0.1).all()
    clip = torch.nn.functional.pad(points, (0, 1), value=1.0) @ clip_from_camera(K, size, near, far).mT
    found = rasterize(clip[None], ONE, size, backend=backend)
    row, column = (found.triangle_id[0] >= 0).nonzero().unbind(-1)
    assert len(row) > 300
    rays = torch.stack([column + 0.5, row + 0.5, torch.ones(len(row))], -1) @ torch.linalg.inv(K).mT
    z = 1 / (1 - 0.4 * rays[:, 0] + 0.3 * rays[:, 1])
    drawn = found.barycentric[0, row, column] @ points
    torch.testing.assert_close(drawn, rays * z[:, None], rtol=1e-5, atol=1e-5)
    ndc = (far + near) / (far - near) - 2 * far * near / (far - near) / z
    torch.testing.assert_close(found.depth[0, row, column], ndc, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ["depth", "painter"])
def test_nothing_and_next_to_nothing(backend, order):
    none = torch.zeros(0, 3, dtype=torch.int64)
    for clip, faces in [
        (torch.zeros(2, 0, 4), none),
        (FULL_SCREEN[None], none),
        (torch.zeros(0, 3, 4), ONE),
        (torch.zeros(1, 3, 4), ONE),
        (FULL_SCREEN[None], torch.tensor([[0, 0, 1]])),
        (FULL_SCREEN[None] + torch.tensor([5.0, 0, 0, 0]), ONE),
    ]:
        found = rasterize(clip.requires_grad_(), faces, (3, 4), backend=backend, order=order)
        assert found.triangle_id.shape == found.barycentric.shape[:-1] == found.depth.shape == (len(clip), 3, 4)
        assert (found.triangle_id == -1).all()
        assert (found.barycentric == 0).all()
        assert (found.depth == 1).all()
    one = rasterize(FULL_SCREEN[None], ONE, (1, 1), backend=backend, order=order)
    assert one.triangle_id.tolist() == [[[0]]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("w", [float("nan"), float("inf"), 2e30])
def test_a_broken_corner_spoils_neither_its_neighbours_nor_the_gradient(backend, w):
    clip = torch.cat([FULL_SCREEN, torch.tensor([[0.5, 0.5, 0.0, w]])])[None].requires_grad_()
    found = rasterize(clip, torch.tensor([[0, 1, 3], [0, 1, 2]]), (4, 4), backend=backend)
    assert (found.triangle_id == 1).all()
    (found.barycentric[..., 0].sum() + found.depth.sum()).backward()
    assert clip.grad is not None
    assert torch.isfinite(clip.grad).all()
    assert (clip.grad[0, :3] != 0).any()


def floor(depths: list[float], size: tuple[int, int]) -> torch.Tensor:
    """A strip of ground below a camera at the origin, (2N, 4) in clip space: left and right end at each depth."""
    points = torch.tensor([[x, 1.0, z, 1.0] for z in depths for x in (-100.0, 100.0)], dtype=torch.float64)
    return points @ clip_from_camera(intrinsics(90.0, size).double(), size, near=0.5, far=1000.0).mT


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("start", [0.6, 0.0, 1e-9, -1e-9, -3.0, -1e6])
def test_ground_under_the_camera_is_cut_at_the_near_plane(backend, start):
    # One quad from behind the camera to far ahead. Its depth at a row is focal length / rows below the horizon.
    clip = floor([start, 64.0], (32, 32))[None].requires_grad_()
    found = rasterize(clip, torch.tensor([[0, 1, 2], [1, 3, 2]]), (32, 32), backend=backend)
    focal = 16.0
    below = torch.arange(32, dtype=torch.float64) + 0.5 - focal
    depth = focal / below
    seen = (depth > max(start, 0.5)) & (depth < 64)
    assert seen.sum() > 10
    assert torch.equal(found.triangle_id[0] >= 0, seen[:, None].expand(32, 32))
    expected = (1000.5 / 999.5 - 1000.0 / 999.5 / depth)[seen]
    torch.testing.assert_close(found.depth[0, seen], expected[:, None].expand(-1, 32), rtol=1e-7, atol=1e-9)
    found.depth.sum().backward()
    assert clip.grad is not None
    assert torch.isfinite(clip.grad).all()
    assert clip.grad[0, :2].abs().sum() > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_gap_opens_between_triangles_that_are_cut_and_those_that_are_not(backend):
    # A fan around a point on the screen: every other rim vertex lies behind the camera or at its plane.
    g = torch.Generator().manual_seed(0)
    size = (24, 20)
    angle = torch.linspace(0, 2 * torch.pi, 14, dtype=torch.float64)[:-1]
    rim = torch.stack([angle.cos(), angle.sin(), torch.full_like(angle, 0.8)], -1)
    rim[::3, 2] = -0.1
    rim[1::6, 2] = 0.0
    points = torch.cat([torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64), rim])
    matrix = clip_from_camera(intrinsics(60.0, size).double(), size, near=1e-3, far=10.0)
    clip = (torch.cat([points, torch.ones(14, 1, dtype=torch.float64)], -1) @ matrix.mT)[None]
    around = torch.arange(13)
    faces = torch.stack([torch.zeros_like(around), around + 1, (around + 1) % 13 + 1], -1)
    faces = faces[torch.randperm(13, generator=g)]
    alone = [rasterize(clip, f[None], size, backend=backend).triangle_id[0] >= 0 for f in faces]
    count = torch.stack(alone).int().sum(0).int()
    assert torch.equal(count, torch.ones(size, dtype=torch.int32))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_cut_triangles_are_those_of_finite_differences(backend):
    clip = floor([-2.0, 5.0], (6, 5))[None].clone()
    clip[..., 0] += torch.linspace(-3, 4, 4, dtype=torch.float64)

    def values(vertices):
        return rasterize(vertices, torch.tensor([[0, 1, 2], [1, 3, 2]]), (6, 5), backend=backend)[1:]

    assert (rasterize(clip, torch.tensor([[0, 1, 2], [1, 3, 2]]), (6, 5), backend=backend).triangle_id >= 0).sum() > 8
    assert torch.autograd.gradcheck(values, clip.requires_grad_())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_huge_triangle_covers_the_picture(backend):
    clip = FULL_SCREEN.clone()
    clip[:, :2] *= 1e6
    found = rasterize(clip[None], ONE, (6, 6), backend=backend)
    assert (found.triangle_id == 0).all()


def test_more_fragments_than_one_chunk(monkeypatch):
    from aboutface.render.torch_backend import CHUNK

    clip, faces = soup(5, (13, 11), "general")
    whole = rasterize(clip, faces, (13, 11), backend="torch")
    monkeypatch.setitem(CHUNK, "cpu", 7)
    in_parts = rasterize(clip, faces, (13, 11), backend="torch")
    assert all(torch.equal(a, b) for a, b in zip(whole, in_parts, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_large_odd_pictures_are_alike_on_every_backend(kind):
    clip, faces = soup(3, (517, 1023), kind, count=20)
    found, truth = (rasterize(clip, faces, (517, 1023), backend=backend) for backend in ("numba", "torch"))
    assert torch.equal(found.triangle_id, truth.triangle_id)
    assert len(found.triangle_id.unique()) > 2
    torch.testing.assert_close(found.barycentric, truth.barycentric)
    torch.testing.assert_close(found.depth, truth.depth)


@pytest.mark.parametrize("backend", FAST)
def test_batch_items_do_not_mix(backend):
    clip, faces = soup(8, (10, 10), "general")
    together = rasterize(clip, faces, (10, 10), backend=backend)
    for item in range(2):
        alone = rasterize(clip[item : item + 1], faces, (10, 10), backend=backend)
        assert all(torch.equal(a[item], b[0]) for a, b in zip(together, alone, strict=True))


def test_wrong_arguments_are_named():
    good = FULL_SCREEN[None]
    for arguments, options, message in [
        ((good[0], ONE, (2, 2)), {}, r"vertices \(B, V, 4\)"),
        ((good.half(), ONE, (2, 2)), {}, "float32"),
        ((good, ONE.int(), (2, 2)), {}, "int64"),
        ((good, ONE.expand(2, -1, -1), (2, 2)), {}, r"faces \(F, 3\)"),
        ((good, ONE + 1, (2, 2)), {}, "vertices 1 to 3, but they go from 0 to 2"),
        ((good, ONE - 1, (2, 2)), {}, "vertices -1 to 1"),
        ((good, ONE.to("meta"), (2, 2)), {}, "faces on meta"),
        ((good, ONE, (0, 2)), {}, "whole numbers from 1 on"),
        ((good, ONE, (4.9, 4.9)), {}, "whole numbers"),
        ((good, ONE, 4), {}, "whole numbers"),
        ((good, ONE, (2, 2)), {"backend": "gl"}, "auto, reference, torch"),
        ((good, ONE, (2, 2)), {"order": "random"}, "painter"),
    ]:
        with pytest.raises(UsageError, match=message):
            rasterize(*arguments, **options)


def test_fragments_are_plain_tensors():
    found = rasterize(FULL_SCREEN[None], ONE, (2, 3))
    assert isinstance(found, Fragments)
    assert found.triangle_id.dtype == torch.int32


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_numpy_writes_to_faces_is_checked_again(backend):
    faces = np.array([[0, 1, 2]])
    triangles = torch.from_numpy(faces)
    assert (rasterize(FULL_SCREEN[None], triangles, (2, 2), backend=backend).triangle_id == 0).all()
    faces[0, 2] = 10**9  # PyTorch's count of writes does not see this
    with pytest.raises(UsageError, match="1000000000"):
        rasterize(FULL_SCREEN[None], triangles, (2, 2), backend=backend)
