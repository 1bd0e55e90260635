"""Where visible outlines cross the lines between pixel centres: the search behind `antialias`, without gradients."""

from typing import NamedTuple

import torch
from torch import Tensor

from .screen import LARGEST, screen_from_clip


class _Outline(NamedTuple):
    """Edges with both their triangles on one side, as seen. All (N,)."""

    start: Tensor
    """Row of the whole batch's vertices."""
    end: Tensor
    item: Tensor
    a: Tensor
    """(N, 3) start on the screen, or the place where the near plane cuts the edge: pixels x and y, z / w."""
    b: Tensor
    side: Tensor
    """1 or -1: on which side of the line a-b the surface lies."""


def find_crossings(
    vertices_clip: Tensor, faces: Tensor, edges: tuple, ids: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Members of Crossings for vertices (B, V, 4), faces (B, F, 3), edges of `mesh_edges`, ids and depth (B, H, W)."""
    size = ids.shape[1], ids.shape[2]
    screen = torch.stack(screen_from_clip(vertices_clip, size)[:3], -1)
    low, high = (screen[..., 2].nan_to_num(end) for end in (torch.inf, -torch.inf))
    room = 1e-4 * (high.amax(1) - low.amin(1)).clamp_min(0) + 1e-6
    outline = _outline(vertices_clip, edges, size)
    rows = (faces + torch.arange(len(faces), device=faces.device).view(-1, 1, 1) * screen.shape[1]).flatten(0, 1)
    surface = _Surface(screen.flatten(0, 1), rows, faces.shape[1], ids.flatten(), depth.flatten().double(), room)
    parts = [_crossings(outline, surface, axis, size) for axis in (0, 1)]
    *found, distance = (torch.cat(pair) for pair in zip(*parts, strict=True))
    keep = _outermost(torch.minimum(found[0], found[1]) * 2 + found[5], distance)
    inner, outer, start, end, line, steep = (member.index_select(0, keep) for member in found)
    return inner, outer, start, end, line, steep


def _outermost(pair: Tensor, distance: Tensor) -> Tensor:
    """Of the crossings between each pair of pixels, the first of those farthest from the inner one, as an index.

    The outline of a smooth surface made of small triangles zigzags: it can cross between two pixels three times.
    """
    _, group = pair.unique(return_inverse=True)
    count = int(group.max()) + 1 if len(group) else 0
    farthest = distance.new_zeros(count).scatter_reduce(0, group, distance, "amax", include_self=False)
    candidates = (distance == farthest[group]).nonzero().squeeze(1)
    first = candidates.new_full((count,), len(pair))
    first = first.scatter_reduce(0, group[candidates], candidates, "amin")
    return first.sort().values


def cut_at_near_plane(points: Tensor, others: Tensor) -> Tensor:
    """Points (N, 4) of clip space; of those before the near plane, where it cuts the way to `others` beyond it."""
    beyond, other = points[:, 2] + points[:, 3], others[:, 2] + others[:, 3]
    cut = (beyond < 0) & (other > beyond)
    share = torch.where(cut, beyond / torch.where(cut, beyond - other, 1.0), 0.0)
    return points + share[:, None] * (others - points)


class _Surface(NamedTuple):
    """What was drawn."""

    screen: Tensor
    """(B * V, 3), see `screen_from_clip`."""
    corners: Tensor
    """(B * F, 3), rows of `screen`."""
    count: int
    """Triangles per item."""
    ids: Tensor
    """(B * H * W,)"""
    depth: Tensor
    room: Tensor
    """(B,): depths this close count as equal."""


def _outline(vertices_clip: Tensor, edges: tuple, size: tuple[int, int]) -> _Outline:
    batch, count = vertices_clip.shape[:2]
    table, first, _ = edges
    numbers = torch.arange(batch, device=vertices_clip.device)
    if len(first) == 2:
        item = numbers.repeat_interleave(first[1])
        table = table.repeat(batch, 1)
    else:
        item = numbers.repeat_interleave(torch.tensor(first, device=numbers.device).diff())
    rows = [column + item * count for column in table.unbind(-1)]
    clip = vertices_clip.double().flatten(0, 1)
    usable = (clip.abs() <= LARGEST).all(-1)
    xyw = [clip[:, i].contiguous() for i in (0, 1, 3)]
    side = [_side(xyw, rows[0], rows[1], third) for third in rows[2:]]
    # A triangle seen edge-on has no side: what is seen of its neighbour ends there.
    keep = ((side[0] * side[1] >= 0) & (side[0] + side[1] != 0)).nonzero().squeeze(1)
    keep = keep[torch.stack([usable[row[keep]] for row in rows]).all(0)]
    start, end, item, side = rows[0][keep], rows[1][keep], item[keep], (side[0] + side[1]).sign()[keep]
    a, b = clip[start], clip[end]
    ahead = torch.maximum(a[:, 2] + a[:, 3], b[:, 2] + b[:, 3]) >= 0
    a, b = cut_at_near_plane(a, b), cut_at_near_plane(b, a)
    ahead = (ahead & (a[:, 3] > 0) & (b[:, 3] > 0)).nonzero().squeeze(1)
    a, b = (_on_screen(p[ahead], size) for p in (a, b))
    return _Outline(start[ahead], end[ahead], item[ahead], a, b, side[ahead])


def _side(xyw: list[Tensor], a: Tensor, b: Tensor, third: Tensor) -> Tensor:
    """Sign of the determinant of three vertices' (x, y, w): on which side of a-b the third lies; 0 on the line."""
    (ax, ay, aw), (bx, by, bw), (cx, cy, cw) = ([v.index_select(0, i) for v in xyw] for i in (a, b, third))
    return (aw * (bx * cy - by * cx) + bw * (cx * ay - cy * ax) + cw * (ax * by - ay * bx)).sign()


def _on_screen(clip: Tensor, size: tuple[int, int]) -> Tensor:
    x, y, z, w = clip.unbind(-1)
    return torch.stack([(x / w + 1) * (size[1] / 2), (y / w + 1) * (size[0] / 2), z / w], -1)


def _crossings(outline: _Outline, surface: _Surface, axis: int, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Visible crossings of steep edges with pixel rows (axis 0), or of flat ones with pixel columns (axis 1)."""
    height, width = size
    across, along = (width, height) if axis == 0 else (height, width)
    # In what follows u runs along the rows or columns that are crossed, v counts them.
    change = (outline.b - outline.a).abs()
    du, dv = change[:, axis], change[:, 1 - axis]
    mine = ((dv >= du) if axis == 0 else (dv > du)).nonzero().squeeze(1)
    edge = _Outline(*(member[mine] for member in outline))
    va, vb = edge.a[:, 1 - axis], edge.b[:, 1 - axis]
    first = (torch.minimum(va, vb) - 0.5).ceil().clamp(0, along)
    counts = ((torch.maximum(va, vb) - 0.5).ceil().clamp(0, along) - first).clamp_min(0).long()
    which = torch.repeat_interleave(counts)
    line = torch.arange(len(which), device=which.device) - (counts.cumsum(0) - counts)[which] + first.long()[which]
    edge = _Outline(*(member[which] for member in edge))
    va, vb, position = edge.a[:, 1 - axis], edge.b[:, 1 - axis], line + 0.5
    part = (position - va) / (vb - va)
    crossing = edge.a[:, axis] + (edge.b[:, axis] - edge.a[:, axis]) * part
    # A pixel centre right on the outline counts as after it, as in the top-left rule.
    before = (crossing - 0.5).ceil() - 1
    # The surface lies before or after the outline along u.
    surface_before = (edge.side > 0) == ((vb > va) == (axis == 0))
    inside = (before >= 0) & (before + 1 < across)
    pair = torch.stack([before, before + 1], -1).clamp(0, across - 1).long()
    pair = torch.where(surface_before[:, None], pair, pair.flip(-1))
    pixel = line[:, None] * width + pair if axis == 0 else pair * width + line[:, None]
    pixel = pixel + edge.item[:, None] * height * width
    depth = edge.a[:, 2] + (edge.b[:, 2] - edge.a[:, 2]) * part
    place = (crossing, position) if axis == 0 else (position, crossing)
    seen, own = _visible(pixel, depth, place, edge.item, surface)
    keep = (inside & seen).nonzero().squeeze(1)
    steep = torch.full_like(keep, 1 - axis)
    # Those of the surface seen go before all others, which matter only if there are none.
    distance = ((crossing - (pair[:, 0] + 0.5)).abs() + 2 * own)[keep]
    return pixel[keep, 0], pixel[keep, 1], edge.start[keep], edge.end[keep], line[keep], steep, distance


def _visible(
    pixel: Tensor, depth: Tensor, place: tuple[Tensor, Tensor], item: Tensor, surface: _Surface
) -> tuple[Tensor, Tensor]:
    """Whether the outline is between what the two pixels (N, 2) show, and whether the inner one shows its own surface.

    If the outer one shows anything, it must be something behind the outline, and the inner one the outline's own
    surface; if nothing, any outline will do, for the surface must end somewhere between the two. Depths at the outline
    are those of the planes of the triangles seen at the two pixels, extended to it. The inner one is not asked to meet
    it exactly: round surfaces fall away ever faster towards their outline.
    """
    ids, found = surface.ids[pixel], surface.depth[pixel]
    corners = surface.corners[ids.clamp_min(0) + item[:, None] * surface.count]
    extended = torch.stack([_plane_depth(surface.screen[corners[:, i]], *place) for i in (0, 1)], -1)
    # Triangles cut by the near plane have no screen corners, slivers no plane.
    extended = torch.where(torch.isfinite(extended), extended, found)
    inner, outer = found.unbind(-1)
    room = surface.room[item]
    own = (inner - depth).abs() <= 4 * (inner - extended[:, 0]).abs() + room
    behind = (ids[:, 1] < 0) | ((outer > depth) & (extended[:, 1] > depth + room))
    return (ids[:, 0] >= 0) & behind & (own | (ids[:, 1] < 0)), own


def _plane_depth(corners: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """z / w at (x, y) of the planes through corners (N, 3, 3)."""
    ax, bx, cx = (corners[:, :, 0] - x[:, None]).unbind(-1)
    ay, by, cy = (corners[:, :, 1] - y[:, None]).unbind(-1)
    az, bz, cz = corners[:, :, 2].unbind(-1)
    e0, e1, e2 = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
    return (e0 * az + e1 * bz + e2 * cz) / (e0 + e1 + e2)
