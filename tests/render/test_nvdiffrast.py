"""The adapter against a stand-in for nvdiffrast that checks what it is given and draws with our own rasteriser."""

import sys
import types

import pytest
import torch
from test_rasterize import FULL_SCREEN, ONE, soup

from aboutface.errors import UsageError
from aboutface.render import antialias, backends, interpolate, rasterize, reference

SIZE = (13, 10)


class Context:
    made: list[torch.device]

    def __init__(self, device):
        self.device = device
        Context.made.append(device)


def drawn_by_the_reference(glctx, pos, tri, resolution, ranges=None, grad_db=True):
    assert isinstance(glctx, Context)
    assert glctx.device == pos.device == tri.device
    assert pos.ndim == 3
    assert pos.shape[-1] == 4
    assert tri.ndim == 2
    assert tri.shape[-1] == 3
    assert 0 not in (*pos.shape, *tri.shape)
    assert pos.dtype == torch.float32
    assert tri.dtype == torch.int32
    assert pos.is_contiguous()
    assert tri.is_contiguous()
    assert not pos.requires_grad
    assert torch.isfinite(pos).all()
    assert ranges is None
    assert grad_db is False
    height, width = resolution
    assert height % 8 == width % 8 == 0
    faces = tri.long().expand(len(pos), -1, -1)
    ids, barycentric, depth = reference.rasterize(pos, faces, (height, width), "depth")
    number = (ids + 1).float()
    out = torch.cat([barycentric[..., :2], depth[..., None], number[..., None]], -1)
    drawn_by_the_reference.calls += 1
    return out, out.new_empty(*ids.shape, 0)


drawn_by_the_reference.calls = 0


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """A package `nvdiffrast` whose rasteriser is ours, and which draws on the CPU."""
    package, module = types.ModuleType("nvdiffrast"), types.ModuleType("nvdiffrast.torch")
    monkeypatch.setattr(module, "RasterizeCudaContext", Context, raising=False)
    monkeypatch.setattr(module, "rasterize", drawn_by_the_reference, raising=False)
    monkeypatch.setattr(package, "torch", module, raising=False)
    monkeypatch.setitem(sys.modules, "nvdiffrast", package)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", module)
    monkeypatch.setitem(backends.DEVICES, "nvdiffrast", ["cpu", "cuda"])
    monkeypatch.delitem(sys.modules, "aboutface.render.nvdiffrast_backend", raising=False)
    monkeypatch.setattr(Context, "made", [], raising=False)
    monkeypatch.setattr(drawn_by_the_reference, "calls", 0)
    yield
    # No other test may find a backend that draws with the stand-in.
    sys.modules.pop("aboutface.render.nvdiffrast_backend", None)


@pytest.mark.parametrize("size", [SIZE, (8, 16), (1, 1)])
@pytest.mark.parametrize("kind", ["general", "near plane", "broken"])
def test_fragments_are_ours_but_for_edges(kind, size):
    clip, faces = soup(4, size, kind)
    found = rasterize(clip, faces, size, backend="nvdiffrast")
    truth = rasterize(clip, faces, size, backend="torch")
    # Rounding positions in a larger picture may move an edge over a pixel centre, though seldom.
    same = found.triangle_id == truth.triangle_id
    assert same.float().mean() > 0.97
    torch.testing.assert_close(found.barycentric[same], truth.barycentric[same])
    torch.testing.assert_close(found.depth[same], truth.depth[same])
    assert found.triangle_id.dtype == torch.int32


def test_gradients_are_those_of_the_torch_backend():
    clip, faces = soup(4, SIZE, "general", count=10)
    grads = []
    for name in ("nvdiffrast", "torch"):
        vertices = clip.double().requires_grad_()
        found = rasterize(vertices, faces, SIZE, backend=name)
        picture = interpolate(vertices, found, faces, backend=name)
        edged = antialias(picture.movedim(-1, 1), found, vertices, faces, backend=name)
        (edged.square().sum() + found.depth.sum()).backward()
        grads.append(vertices.grad)
    assert (grads[0] != 0).any()
    torch.testing.assert_close(grads[0], grads[1])


def test_a_shared_mesh_is_drawn_at_once_and_with_one_context():
    clip, faces = soup(4, SIZE, "general")
    for _ in range(2):
        rasterize(clip, faces, SIZE, backend="nvdiffrast")
    assert drawn_by_the_reference.calls == 2
    assert Context.made == [torch.device("cpu")]


def test_items_with_their_own_triangles_are_drawn_one_by_one():
    clip, faces = soup(6, SIZE, "general")
    both = torch.stack([faces, faces.flip(0)])
    found = rasterize(clip, both, SIZE, backend="nvdiffrast")
    assert drawn_by_the_reference.calls == 2
    for item in range(2):
        alone = rasterize(clip[item : item + 1], both[item], SIZE, backend="nvdiffrast")
        assert torch.equal(found.triangle_id[item], alone.triangle_id[0])


def test_triangles_with_a_broken_corner_are_left_out():
    clip = torch.cat([FULL_SCREEN, torch.tensor([[0.0, 0.0, -0.9, float("nan")]])])[None]
    found = rasterize(clip, torch.tensor([[0, 1, 3], [0, 1, 2]]), (5, 6), backend="nvdiffrast")
    assert (found.triangle_id == 1).all()


def test_a_triangle_without_area_that_is_drawn_all_the_same_is_taken_back(monkeypatch):
    module = backends.load("nvdiffrast")
    monkeypatch.setattr(module, "_triangle_ids", lambda clip, faces, size: torch.zeros(1, *size, dtype=torch.int32))
    line = FULL_SCREEN.clone()
    line[2] = (line[0] + line[1]) / 2
    found = rasterize(line[None], ONE, (3, 4), backend="nvdiffrast")
    assert (found.triangle_id == -1).all()
    assert (found.barycentric == 0).all()
    assert (found.depth == 1).all()


def test_nothing():
    none = torch.zeros(0, 3, dtype=torch.int64)
    for clip, faces in [(torch.zeros(2, 0, 4), none), (FULL_SCREEN[None], none), (torch.zeros(0, 3, 4), ONE)]:
        found = rasterize(clip, faces, (3, 4), backend="nvdiffrast")
        assert found.triangle_id.shape == (len(clip), 3, 4)
        assert (found.triangle_id == -1).all()
    assert drawn_by_the_reference.calls == 0


def test_painters_order_is_another_backends():
    with pytest.raises(UsageError, match="backend='auto'"):
        rasterize(FULL_SCREEN[None], ONE, (3, 4), backend="nvdiffrast", order="painter")
