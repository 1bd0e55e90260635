"""Silhouettes: pixels at an outline mix both its sides, so that coverage moves smoothly with the vertices."""

from typing import NamedTuple

import torch
from torch import Tensor

from .rasterize import Fragments
from .torch_backend import screen_from_clip


class Edges(NamedTuple):
    """Edges of a mesh, each once. Vertex numbers count through the whole batch."""

    start: Tensor
    """(E,) int64."""
    end: Tensor
    opposite: Tensor
    """(E, 2): third corner of the two triangles at the edge; twice the same at a border."""
    item: Tensor
    """(E,): place in the batch."""


class Crossings(NamedTuple):
    """Places where an outline crosses the line between two neighbouring pixel centres. All (N,)."""

    inner: Tensor
    """Flat index of the pixel on the surface's side."""
    outer: Tensor
    distance: Tensor
    """From the inner pixel's centre to the outline, 0 to 1, differentiable."""


def antialias(image: Tensor, fragments: Fragments, vertices_clip: Tensor, faces: Tensor) -> Tensor:
    """Blend the two pixels on either side of each visible outline, by how far the outline covers them.

    The idea is nvdiffrast's (Laine et al. 2020), driven from the mesh instead of from the pixels: every edge at which
    the surface ends or turns away is walked over pixel rows (steep edges) or columns (flat ones), checked against the
    depth of the two pixels at each crossing, and blends them. So edges of triangles too small to be seen count too.

    Args:
        image: (B, C, H, W), drawn from `fragments`.
        vertices_clip, faces: those given to `rasterize`.

    Returns an image of the same shape, whose gradient reaches `vertices_clip` through the outline's position.
    """
    batch, channels, height, width = image.shape
    size = height, width
    screen, usable = screen_from_clip(vertices_clip, size)
    screen, usable = screen.flatten(0, 1), usable.flatten()
    corners = faces.expand(batch, -1, -1)
    corners = corners + torch.arange(batch, device=faces.device).view(-1, 1, 1) * vertices_clip.shape[1]
    if corners.shape[1] == 0:
        return image
    with torch.no_grad():
        edges = _outline(_edges(corners), screen, usable)
    flat = image.movedim(1, -1).reshape(-1, channels)
    change = torch.zeros_like(flat)
    total = torch.zeros_like(flat[:, :1])
    for axis in (0, 1):
        found = _crossings(edges, screen, corners, fragments, axis, size)
        # The outline lies in the outer pixel, part of which the surface then covers, or it lies in the inner one.
        cover = (found.distance - 0.5).to(flat.dtype)[:, None]
        target = torch.where(cover[:, 0] > 0, found.outer, found.inner)
        other = torch.where(cover[:, 0] > 0, found.inner, found.outer)
        weight = cover.abs()
        change = change.index_add(0, target, weight * (flat[other] - flat[target]))
        total = total.index_add(0, target, weight)
    # Two outlines in one pixel must not take more than all of it.
    blended = flat + change / total.clamp_min(1)
    return blended.view(batch, height, width, channels).movedim(-1, 1)


def _edges(corners: Tensor) -> Edges:
    """Edges of triangles (B, F, 3)."""
    batch, count = corners.shape[:2]
    rows = corners.reshape(-1, 3)
    start, end = rows.flatten(), rows.roll(-1, 1).flatten()
    opposite = rows.roll(-2, 1).flatten()
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    key, order = (low * (int(rows.max()) + 1) + high).sort(stable=True)
    item = torch.arange(batch, device=rows.device).repeat_interleave(count * 3)[order]
    start, end, opposite = low[order], high[order], opposite[order]
    fresh = torch.ones_like(key, dtype=torch.bool)
    fresh[1:] = key[1:] != key[:-1]
    first = fresh.nonzero().squeeze(1)
    uses = torch.diff(first, append=first.new_tensor([len(key)]))
    # A border has one triangle; where three or more meet, each pair could be an outline, and it is treated as one.
    second = torch.where(uses == 2, first + 1, first)
    return Edges(start[first], end[first], torch.stack([opposite[first], opposite[second]], -1), item[first])


def _outline(edges: Edges, screen: Tensor, usable: Tensor) -> Edges:
    """The edges with both triangles on the same side, as seen."""
    a, b = screen[edges.start], screen[edges.end]
    side = [_side(a, b, screen[edges.opposite[:, i]]) for i in (0, 1)]
    ok = usable[edges.start] & usable[edges.end] & usable[edges.opposite].all(-1)
    keep = ok & (side[0] * side[1] > 0)
    return Edges(*(member[keep] for member in edges))


def _side(a: Tensor, b: Tensor, point: Tensor) -> Tensor:
    """1 or -1: on which side of the line a-b points (N, >=2) lie on the screen; 0 on it."""
    return ((b[:, 0] - a[:, 0]) * (point[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (point[:, 0] - a[:, 0])).sign()


def _crossings(
    edges: Edges, screen: Tensor, corners: Tensor, fragments: Fragments, axis: int, size: tuple[int, int]
) -> Crossings:
    """Visible crossings of steep edges with pixel rows (axis 0), or of flat ones with pixel columns (axis 1)."""
    height, width = size
    across, along = (width, height) if axis == 0 else (height, width)
    # In what follows u runs along the rows or columns that are crossed, v counts them.
    u, v = (screen[:, 0], screen[:, 1]) if axis == 0 else (screen[:, 1], screen[:, 0])
    with torch.no_grad():
        du, dv = ((t[edges.end] - t[edges.start]).abs() for t in (u, v))
        mine = ((dv >= du) if axis == 0 else (dv > du)).nonzero().squeeze(1)
        edges = Edges(*(member[mine] for member in edges))
        low = torch.minimum(v[edges.start], v[edges.end])
        high = torch.maximum(v[edges.start], v[edges.end])
        first = (low - 0.5).ceil().clamp(0, along)
        counts = ((high - 0.5).ceil().clamp(0, along) - first).clamp_min(0).long()
        edge = torch.repeat_interleave(counts)
        line = torch.arange(len(edge), device=edge.device) - (counts.cumsum(0) - counts)[edge] + first.long()[edge]
        edges = Edges(*(member[edge] for member in edges))
    a, b, position = edges.start, edges.end, line + 0.5
    part = (position - v[a]) / (v[b] - v[a])
    crossing = u[a] + (u[b] - u[a]) * part
    with torch.no_grad():
        # A pixel centre right on the outline counts as after it, as in the top-left rule.
        before = (crossing - 0.5).ceil() - 1
        third = screen[edges.opposite[:, 0]]
        # The surface lies before or after the outline along u.
        surface_before = (_side(screen[a], screen[b], third) > 0) == ((v[b] > v[a]) == (axis == 0))
        inside = (before >= 0) & (before + 1 < across)
        pair = torch.stack([before, before + 1], -1).clamp(0, across - 1).long()
        pair = torch.where(surface_before[:, None], pair, pair.flip(-1))
        pixel = line[:, None] * width + pair if axis == 0 else pair * width + line[:, None]
        pixel = pixel + edges.item[:, None] * height * width
        depth = screen[a, 2] + (screen[b, 2] - screen[a, 2]) * part
        place = (crossing, position) if axis == 0 else (position, crossing)
        keep = (inside & _visible(pixel, depth, place, screen, corners, fragments)).nonzero().squeeze(1)
    distance = (crossing[keep] - (pair[keep, 0] + 0.5)).abs()
    return Crossings(pixel[keep, 0], pixel[keep, 1], distance)


def _visible(
    pixel: Tensor, depth: Tensor, place: tuple[Tensor, Tensor], screen: Tensor, corners: Tensor, fragments: Fragments
) -> Tensor:
    """Whether the inner pixel (N, first of 2) shows the outline's own surface and the outer one something behind it.

    Depths at the outline are those of the planes of the triangles seen at the two pixels, extended to it. The inner
    one is not asked to meet the outline exactly: round surfaces fall away ever faster towards it.
    """
    ids = fragments.triangle_id.flatten()[pixel]
    found = fragments.depth.detach().flatten()[pixel].double()
    item = pixel.div(fragments.triangle_id[0].numel(), rounding_mode="floor")
    rows = corners[item, ids.clamp_min(0)]
    x, y = place
    extended = torch.stack([_plane_depth(screen[rows[:, i]], x, y) for i in (0, 1)], -1)
    extended = torch.where(torch.isfinite(extended), extended, found)
    room = 1e-4 * (screen[:, 2].max() - screen[:, 2].min()) + 1e-6
    inner, outer = found.unbind(-1)
    own = (ids[:, 0] >= 0) & ((inner - depth).abs() <= 4 * (inner - extended[:, 0]).abs() + room)
    behind = (ids[:, 1] < 0) | ((outer > depth) & (extended[:, 1] > depth + room))
    return own & behind


def _plane_depth(corners: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """z / w at (x, y) of the planes through corners (N, 3, 4)."""
    ax, bx, cx = (corners[:, :, 0] - x[:, None]).unbind(-1)
    ay, by, cy = (corners[:, :, 1] - y[:, None]).unbind(-1)
    az, bz, cz = corners[:, :, 2].unbind(-1)
    e0, e1, e2 = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
    return (e0 * az + e1 * bz + e2 * cz) / (e0 + e1 + e2)
