"""The CUDA backend's kernels on Warp's CPU device; that they are right there says nothing of streams and atomics."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import test_rasterize as shared
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_rasterize import KINDS, soup

from aboutface.render import interpolate, rasterize, torch_backend

wp = pytest.importorskip("warp")
from aboutface.render import warp_backend, warp_kernels  # noqa: E402

SOURCE = Path(__file__).resolve().parents[2] / "src"


def grazing(seed: int, size: tuple[int, int], count: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    """Triangles (1, 3 count, 4) float64, an edge of each of which misses a pixel centre by rounding alone."""
    g = torch.Generator().manual_seed(seed)
    extent = torch.tensor([size[1], size[0]], dtype=torch.float64)
    centre = (torch.rand(count, 2, generator=g, dtype=torch.float64) * extent).floor() + 0.5
    angle = torch.rand(count, generator=g, dtype=torch.float64) * 2 * torch.pi
    along = torch.stack([angle.cos(), angle.sin()], -1)
    before, after = torch.rand(2, count, 1, generator=g, dtype=torch.float64) * 20 + 1
    third = centre + torch.randn(count, 2, generator=g, dtype=torch.float64) * 20
    pixels = torch.stack([centre - before * along, centre + after * along, third], 1).flatten(0, 1)
    zw = torch.rand(3 * count, 2, generator=g, dtype=torch.float64) * torch.tensor([1.0, 2.0]) + torch.tensor([0, 0.5])
    clip = torch.cat([(pixels / extent * 2 - 1) * zw[:, 1:], zw], -1)
    return clip[None], torch.arange(3 * count).view(-1, 3)


def assert_same(clip: torch.Tensor, faces: torch.Tensor, size: tuple[int, int], order, truth: str) -> None:
    found = rasterize(clip, faces, size, backend="warp", order=order)
    expected = rasterize(clip, faces, size, backend=truth, order=order)
    assert torch.equal(found.triangle_id, expected.triangle_id)
    assert found.barycentric.dtype == found.depth.dtype == clip.dtype
    seen = (found.triangle_id >= 0).to(clip.dtype)
    torch.testing.assert_close(found.barycentric.sum(-1), seen)
    assert (found.barycentric >= 0).all()
    torch.testing.assert_close(found.depth, expected.depth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", ["depth", "painter"])
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(KINDS),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    double=st.booleans(),
)
@settings(max_examples=40, deadline=None)
@example(0, "general", (1, 1), False)
def test_ids_are_those_of_the_reference(order, seed, kind, size, double):
    clip, faces = soup(seed, size, kind)
    clip = clip.double() if double else clip
    assert_same(clip, faces, size, order, "reference")
    assert_same(clip, torch.stack([faces, faces.flip(0)]), size, order, "reference")


@pytest.mark.parametrize("seed", range(3))
def test_ids_are_right_where_rounding_decides(seed):
    clip, faces = grazing(seed, (20, 16))
    for face in faces:
        assert_same(clip, face[None], (20, 16), "depth", "torch")


@pytest.mark.parametrize("order", ["depth", "painter"])
@pytest.mark.parametrize("kind", ["general", "behind the camera", "near plane"])
@pytest.mark.parametrize("threads", [(1, 1), (3, 5)])
def test_large_triangles_are_shared_among_threads(monkeypatch, order, kind, threads):
    # 1023 x 517 pixels: several hundred chunks, rows longer and shorter than one, lanes that end within a chunk.
    groups, lanes = threads
    monkeypatch.setitem(warp_backend.GROUPS, "cpu", groups)
    monkeypatch.setitem(warp_backend.LANES, "cpu", lanes)
    clip, faces = soup(7, (517, 1023), kind, count=12)
    assert_same(clip, torch.stack([faces, faces.roll(5, 0)]), (517, 1023), order, "torch")


def test_triangles_at_the_limit_between_small_and_large_are_drawn_once():
    # Squares of 14 to 18 pixels, cut in two: boxes of 196 to 324 pixels around the limit of 256.
    assert 14**2 < warp_kernels.SMALL_BOX < 18**2
    for side in range(14, 19):
        corners = torch.tensor([[1.0, 2.0], [1 + side, 2], [1, 2 + side], [1 + side, 2 + side]])
        clip = shared.clip_from_pixels(corners, (24, 24))[None]
        found = rasterize(clip, torch.tensor([[0, 1, 2], [1, 3, 2]]), (24, 24), backend="warp")
        assert (found.triangle_id == 0).sum() + (found.triangle_id == 1).sum() == side**2
        assert_same(clip, torch.tensor([[0, 1, 2], [1, 3, 2]]), (24, 24), "painter", "torch")


def test_kernels_for_cuda_fuse_no_products_and_sums(tmp_path):
    # Warp's compiler for CUDA needs no GPU. Rounding that is spelled out (.rn) may not be fused later on either.
    if not wp.get_cuda_supported_archs():
        pytest.skip("this build of Warp has no compiler for CUDA")
    module = wp.get_module(warp_kernels.__name__)
    (path,) = wp.compile_aot_module(module, arch=90, module_dir=tmp_path, use_ptx=True)
    code = path.read_bytes().decode("ascii", "replace")
    assert code.count("mul.rn.f64") > 100
    assert re.search(r"\s(atom|red)\.[a-z.]*min\.s64", code)
    assert not re.findall(r"\s(?:fma\S*|(?:mul|add|sub|div)(?:\.approx|\.full)?\.f(?:32|64))\s", code)


@pytest.mark.parametrize(
    "check",
    [
        shared.test_gradients_are_those_of_finite_differences,
        shared.test_gradients_of_cut_triangles_are_those_of_finite_differences,
        shared.test_a_fan_of_slivers_is_watertight,
        shared.test_no_gap_opens_between_triangles_that_are_cut_and_those_that_are_not,
        shared.test_the_nearest_triangle_wins_and_among_equals_the_first,
        shared.test_crossing_triangles_are_cut_where_they_meet,
        shared.test_both_sides_are_drawn,
        shared.test_a_slanted_plane_has_its_analytic_depth,
        shared.test_a_huge_triangle_covers_the_picture,
    ],
)
def test_what_holds_for_every_backend(check):
    check("warp")


@pytest.mark.parametrize("order", ["depth", "painter"])
def test_nothing_and_next_to_nothing(order):
    shared.test_nothing_and_next_to_nothing("warp", order)


@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.5, 0.5), (0.3, 0.1)])
def test_pixels_of_a_grid_are_covered_exactly_once(corner):
    shared.test_pixels_of_a_grid_are_covered_exactly_once("warp", corner, flip=False)


@pytest.mark.parametrize("w", [float("nan"), float("inf"), 2e30])
def test_a_broken_corner_spoils_neither_its_neighbours_nor_the_gradient(w):
    shared.test_a_broken_corner_spoils_neither_its_neighbours_nor_the_gradient("warp", w)


@pytest.mark.parametrize("kind", ["general", "near plane", "behind the camera"])
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_values_and_gradients_are_those_of_the_torch_backend(kind, wanted):
    clip, faces = soup(3, (12, 9), kind, count=12)
    faces = torch.stack([faces, faces.flip(0)])
    weights = torch.rand(2, 12, 9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for name in ("warp", "torch"):
        vertices = clip.double().requires_grad_()
        found = rasterize(vertices, faces, (12, 9), backend=name)
        parts = (found.barycentric * weights[..., :3]).sum(), (found.depth * weights[..., 3]).sum()
        torch.stack([part for part, on in zip(parts, wanted, strict=True) if on]).sum().backward()
        results.append((found.barycentric.detach(), found.depth.detach(), vertices.grad))
    assert (results[1][2] != 0).any()
    torch.testing.assert_close(results[0], results[1], rtol=1e-7, atol=1e-9)


def interpolated(backend: str, values: torch.Tensor, clip: torch.Tensor, faces: torch.Tensor) -> list[torch.Tensor]:
    """Picture, and gradients by values and vertices of a weighted sum of it."""
    values, clip = values.detach().requires_grad_(), clip.detach().requires_grad_()
    fragments = rasterize(clip, faces, (11, 7), backend=backend)
    picture = interpolate(values, fragments, faces, backend=backend)
    weights = torch.rand(picture.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (picture * weights.to(picture.dtype)).sum().backward()
    assert values.grad is not None
    assert clip.grad is not None
    return [picture.detach(), values.grad, clip.grad]


@pytest.mark.parametrize("channels", [1, 3, 17])
@pytest.mark.parametrize("separate_values", [False, True])
@pytest.mark.parametrize("separate_faces", [False, True])
def test_interpolation_is_that_of_the_torch_backend(channels, separate_values, separate_faces):
    clip, faces = soup(11, (11, 7), "general", count=9)
    clip = clip.double()
    faces = torch.stack([faces, faces.roll(4, 0)]) if separate_faces else faces
    shape = (2, 30, channels) if separate_values else (30, channels)
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = interpolated("warp", values, clip, faces)
    assert (found[1] != 0).any()
    torch.testing.assert_close(found, interpolated("torch", values, clip, faces), rtol=1e-9, atol=1e-10)


def test_interpolation_has_the_gradients_of_finite_differences():
    clip, faces = soup(11, (5, 4), "general", count=4)
    values = torch.rand(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fragments = rasterize(clip.double(), faces, (5, 4), backend="warp")

    def picture(attributes, barycentric):
        return interpolate(attributes, fragments._replace(barycentric=barycentric), faces, backend="warp")

    inputs = values.requires_grad_(), fragments.barycentric.clone().requires_grad_()
    assert torch.autograd.gradcheck(picture, inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_attributes_and_vertices_of_different_types(dtype):
    # Autocast makes half-precision attributes.
    clip, faces = soup(11, (11, 7), "general", count=9)
    values = torch.rand(30, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = interpolated("warp", values, clip, faces)
    assert [part.dtype for part in found] == [dtype, dtype, torch.float32]
    expected = interpolated("warp", values.double(), clip.double(), faces)
    tolerance = 20 * torch.finfo(dtype).eps
    for one, other in zip(found[:2], expected, strict=False):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=max(tolerance, 1e-5))


def test_memory_need_not_be_contiguous():
    clip, faces = soup(5, (9, 8), "general")
    across = clip.movedim(0, 1).contiguous().movedim(1, 0)
    turned = faces.mT.contiguous().mT
    assert not across.is_contiguous()
    straight = rasterize(clip, faces, (9, 8), backend="warp")
    crooked = rasterize(across, turned.expand(2, -1, -1), (9, 8), backend="warp")
    assert all(torch.equal(a, b) for a, b in zip(straight, crooked, strict=True))
    assert (straight.triangle_id >= 0).any()


def test_tensors_are_not_copied_and_not_changed():
    clip, faces = soup(5, (9, 8), "general")
    clip = clip.double()
    assert warp_backend._array(clip, wp.vec4d).data == clip.data_ptr()
    assert warp_backend._faces(faces.expand(2, -1, -1))[0].data == faces.data_ptr()
    before = clip.clone(), faces.clone()
    rasterize(clip.requires_grad_(), faces, (9, 8), backend="warp").depth.sum().backward()
    assert torch.equal(clip, before[0])
    assert torch.equal(faces, before[1])


def test_deterministic_algorithms_take_the_sums_of_the_torch_backend(monkeypatch):
    called = []
    for verb in ("rasterize_backward", "interpolate_backward"):
        original = getattr(torch_backend, verb)
        spy = lambda *arguments, verb=verb, original=original: called.append(verb) or original(*arguments)  # noqa: E731
        monkeypatch.setattr(torch_backend, verb, spy)
    clip, faces = soup(11, (11, 7), "general", count=9)
    values = torch.rand(30, 3)
    by_warp = interpolated("warp", values, clip, faces)
    assert called == []
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    torch.testing.assert_close(interpolated("warp", values, clip, faces), by_warp)
    assert called == ["interpolate_backward", "rasterize_backward"]


def test_it_says_once_that_it_compiles_and_prints_nothing(tmp_path):
    program = (
        "import logging, torch; logging.basicConfig(format='%(name)s: %(message)s')\n"
        "import warp; warp.config.kernel_cache_dir = None; level = warp.config.log_level\n"
        "from aboutface.render import rasterize\n"
        "clip = torch.tensor([[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]])[None]\n"
        "for dtype in (torch.float32, torch.float64, torch.float32):\n"
        "    found = rasterize(clip.to(dtype), torch.tensor([[0, 1, 2]]), (4, 4), backend='warp')\n"
        "    assert (found.triangle_id == 0).all()\n"
        "assert warp.config.log_level == level\n"
    )
    path = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "WARP_CACHE_PATH": str(tmp_path)}
    logged = []
    for _ in range(2):
        result = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout == ""
        logged.append([line for line in result.stderr.splitlines() if line.startswith("aboutface")])
    assert len(logged[0]) == 1
    assert "compiling" in logged[0][0]
    assert logged[1] == []


def test_a_missing_driver_or_compiler_is_named(monkeypatch):
    monkeypatch.setattr(wp, "get_cuda_device_count", lambda: 0)
    monkeypatch.setattr(wp, "get_cuda_driver_version", lambda: (12, 4))
    with pytest.raises(warp_backend.UsageError, match=r"driver for 12\.4"):
        warp_backend.check_device("cuda")
    warp_backend.check_device("cpu")
    monkeypatch.setattr(wp, "is_cpu_available", lambda: False)
    with pytest.raises(warp_backend.UsageError, match="compiler for the CPU"):
        warp_backend.check_device("cpu")
