"""Silhouettes: pixels at an outline mix both its sides, so that coverage moves smoothly with the vertices."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from .backends import choose, function
from .crossings import cut_at_near_plane
from .memo import per_tensor
from .rasterize import Fragments, check_mesh


class Crossings(NamedTuple):
    """Places where a visible outline crosses the line between two neighbouring pixel centres. All (N,) int64."""

    inner: Tensor
    """Flat index (item, row, column) of the pixel on the surface's side."""
    outer: Tensor
    start: Tensor
    """The outline's ends, as rows of the whole batch's vertices."""
    end: Tensor
    line: Tensor
    """Pixel row (if steep) or column that is crossed."""
    steep: Tensor
    """1 where the pixels are neighbours in a row, 0 where in a column."""


def antialias(
    image: Tensor, fragments: Fragments, vertices_clip: Tensor, faces: Tensor, *, backend: str = "auto"
) -> Tensor:
    """Blend the two pixels on either side of each visible outline, by how far the outline covers them.

    The idea is nvdiffrast's (Laine et al. 2020), driven from the mesh instead of from the pixels: every edge at which
    the surface ends or turns away is walked over pixel rows (steep edges) or columns (flat ones), checked against the
    depth of the two pixels at each crossing, and blends them. So edges of triangles too small to be seen count too.

    Args:
        image: (B, C, H, W), drawn from `fragments`, in depth order: what was painted over something nearer has no
            outline here.
        vertices_clip, faces: those given to `rasterize`. What is found out about a `faces` tensor is kept as long as
            the tensor lives, so give the same one each time.
        backend: as for `rasterize`.

    Returns an image of the same shape, whose gradient reaches `vertices_clip` through the outline's position.
    Raises UsageError if the sizes do not fit.
    """
    shape = fragments.triangle_id.shape
    if image.ndim != 4 or (len(image), *image.shape[2:]) != shape or vertices_clip.shape[::2] != (len(image), 4):
        raise UsageError(
            f"antialias: expected an image (B, C, H, W) and vertices (B, V, 4) for fragments of size {tuple(shape)}, "
            f"got {tuple(image.shape)} and {tuple(vertices_clip.shape)}"
        )
    check_mesh("antialias", faces, vertices_clip, fragments)
    batch, _, height, width = image.shape
    name = choose(backend, image.device)
    with torch.no_grad():
        edges = mesh_edges(faces)
        if edges.count > vertices_clip.shape[1]:  # numpy wrote to the faces unnoticed
            edges = _edges(faces)
        if len(edges.vertices) == 0 or batch == 0:
            return image
        found = function(name, "find_crossings")(
            vertices_clip, faces.expand(batch, -1, -1), edges, fragments.triangle_id, fragments.depth
        )
    found = Crossings(*found)
    if len(found.inner) == 0:
        return image
    # The outline lies in the outer pixel, part of which the surface then covers, or it lies in the inner one.
    cover = (_distance(vertices_clip, found, (height, width)) - 0.5).to(image.dtype)
    target = torch.where(cover > 0, found.outer, found.inner)
    other = torch.where(cover > 0, found.inner, found.outer)
    weight = torch.where(cover > 0, cover, -cover)
    # Two outlines in one pixel must not take more than all of it.
    total = weight.new_zeros(batch * height * width).index_add(0, target, weight)
    weight = weight / total.index_select(0, target).clamp_min(1)
    flat = image.flatten()
    place, neighbour = (_in_flat(index, image.shape) for index in (target, other))
    weight = weight.repeat_interleave(image.shape[1])
    # On flat tensors: other ways to index add in an order that changes from call to call.
    change = weight * (flat.index_select(0, neighbour) - flat.index_select(0, place))
    return flat.index_add(0, place, change).view(image.shape)


def _in_flat(pixel: Tensor, shape: torch.Size) -> Tensor:
    """Where all channels of pixels (N,), counted through (B, H, W), lie in a flat (B, C, H, W): (N * C,)."""
    _, channels, height, width = shape
    item = pixel.div(height * width, rounding_mode="floor")
    first = pixel + item * ((channels - 1) * height * width)
    return (first[:, None] + torch.arange(channels, device=pixel.device) * (height * width)).flatten()


def _distance(vertices_clip: Tensor, found: Crossings, size: tuple[int, int]) -> Tensor:
    """From the inner pixel's centre to the outline, 0 to 1, differentiable."""
    height, width = size
    clip = vertices_clip.double().flatten(0, 1)
    a, b = (clip.index_select(0, i) for i in (found.start, found.end))
    a, b = cut_at_near_plane(a, b), cut_at_near_plane(b, a)
    steep = found.steep > 0
    (ax, ay), (bx, by) = (
        ((p[:, 0] / p[:, 3] + 1) * (width / 2), (p[:, 1] / p[:, 3] + 1) * (height / 2)) for p in (a, b)
    )
    au, av = torch.where(steep, ax, ay), torch.where(steep, ay, ax)
    bu, bv = torch.where(steep, bx, by), torch.where(steep, by, bx)
    crossing = au + (bu - au) * ((found.line + 0.5 - av) / (bv - av))
    row = found.inner.div(width, rounding_mode="floor")
    row, column = row % height, found.inner - row * width
    ahead = torch.where(found.outer > found.inner, 1.0, -1.0)
    return (crossing - (torch.where(steep, column, row) + 0.5)) * ahead


class Edges(NamedTuple):
    """Edges of the meshes of a batch, each once."""

    vertices: Tensor
    """(E, 4) int32, numbers within one item: both ends, and the third corners of the two triangles at the edge.

    At a border, where there is only one triangle, its corner stands twice.
    """
    first: list[int]
    """For meshes that share their triangles, [0, E]; else the first edge of each item, and E."""
    count: int
    """Vertices that the faces name, at least."""


def _edges(faces: Tensor) -> Edges:
    """Edges of triangles (F, 3) or (B, F, 3)."""
    faces = faces if faces.ndim == 3 else faces[None]
    batch, count = faces.shape[:2]
    if faces.numel() == 0:
        return Edges(faces.new_zeros(0, 4, dtype=torch.int32), [0] * (batch + 1), 0)
    vertices = int(faces.max()) + 1
    # A triangle that repeats a vertex has no area, so its edges bound nothing.
    whole = ((faces != faces.roll(1, -1)).all(-1)).flatten().repeat_interleave(3)
    item = torch.arange(batch, device=faces.device).repeat_interleave(count * 3)[whole]
    start, end, opposite = (faces.roll(-i, -1).flatten()[whole] for i in range(3))
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    key, order = ((item * vertices + low) * vertices + high).sort(stable=True)
    fresh = torch.ones_like(key, dtype=torch.bool)
    fresh[1:] = key[1:] != key[:-1]
    first = fresh.nonzero().squeeze(1)
    uses = torch.diff(first, append=first.new_tensor([len(key)]))
    # A border has one triangle; where three or more meet, each pair could be an outline, and it is treated as one.
    second = torch.where(uses == 2, first + 1, first)
    start, end, opposite = low[order], high[order], opposite[order]
    bounds = torch.searchsorted(item[order][first], torch.arange(batch + 1, device=faces.device)).tolist()
    table = torch.stack([start[first], end[first], opposite[first], opposite[second]], -1)
    return Edges(table.int(), bounds, vertices)


mesh_edges = per_tensor(_edges)
