"""The rasteriser in PyTorch operations: no loop over triangles, any device.

Every triangle's bounding box is cut into (triangle, pixel) fragments; those inside their triangle bid for their pixel
with a number that holds depth above and triangle below, and the smallest bid wins.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NEAR_W = 1e-6
"""Smallest camera depth of a corner that is drawn."""
FARTHEST = 1e7
"""Largest |x / w|, |y / w|, |z / w| of a corner that is drawn; float64 edges are then right to 1e-6 pixels."""
CHUNK = {"cpu": 1 << 16, "cuda": 1 << 22}
"""Fragments or pixels handled at once, by kind of device: bounds the memory, and fits the processor's cache."""
NO_BID = torch.iinfo(torch.int64).max


class Triangles(NamedTuple):
    """Triangles that may cover a pixel, turned so that the edge functions are positive inside. All (T,)."""

    ax: Tensor
    ay: Tensor
    bx: Tensor
    by: Tensor
    cx: Tensor
    cy: Tensor
    az: Tensor
    bz: Tensor
    cz: Tensor
    left: Tensor
    """First pixel column of the bounding box."""
    top: Tensor
    width: Tensor
    height: Tensor
    face: Tensor
    """Row in `faces`."""
    item: Tensor
    """Place in the batch."""


def rasterize_with_torch(
    vertices_clip: Tensor, faces: Tensor, size: tuple[int, int], order: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Members of Fragments for vertices (B, V, 4) and faces (B, F, 3): see `rasterize`."""
    batch, count = vertices_clip.shape[:2]
    screen, usable = screen_from_clip(vertices_clip, size)
    corners = faces + torch.arange(batch, device=faces.device).view(-1, 1, 1) * count
    with torch.no_grad():
        ids = _triangle_ids(screen.flatten(0, 1), usable.flatten(), corners, size, order)
    return ids, *resolve(screen.flatten(0, 1), corners, ids, vertices_clip.dtype)


def screen_from_clip(vertices_clip: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Vertices (B, V, 4) float64 as x and y in pixels, z / w, 1 / w; and which of them can be drawn, (B, V)."""
    height, width = size
    clip = vertices_clip.double()
    w = clip[..., 3:]
    usable = (torch.isfinite(clip) & (w > NEAR_W) & (clip.abs() <= FARTHEST * w)).all(-1)
    # Replaced before the division: a zero w would otherwise send NaN into the gradient of every vertex.
    clip = torch.where(usable[..., None], clip, torch.ones_like(clip))
    x, y, z, w = clip.unbind(-1)
    return torch.stack([(x / w + 1) * (width / 2), (y / w + 1) * (height / 2), z / w, 1 / w], -1), usable


def resolve(screen: Tensor, corners: Tensor, ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Barycentric (B, H, W, 3) and depth (B, H, W) at pixels whose triangle is known; differentiable.

    Args:
        screen: (B * V, 4) of `screen_from_clip`; corners: (B, F, 3), rows of `screen`; ids: (B, H, W).
        dtype: of the result; the sums are float64.
    """
    flat = ids.flatten()
    seen = (flat >= 0).nonzero().squeeze(1)
    parts = [_mixture(screen, corners, flat, part, ids.shape[1:]) for part in in_chunks(seen)]
    weights, depth = (torch.cat([part[i].to(dtype) for part in parts]) for i in (0, 1))
    barycentric = torch.zeros(len(flat), 3, dtype=dtype, device=ids.device).index_copy_(0, seen, weights)
    far = torch.ones(len(flat), dtype=dtype, device=ids.device).index_copy_(0, seen, depth)
    return barycentric.view(*ids.shape, 3), far.view(ids.shape)


def in_chunks(index: Tensor) -> tuple[Tensor, ...]:
    """A list of pixels (N,) in pieces of a size that is quick to work on; one empty piece if it is empty."""
    return index.split(_chunk(index.device))


def _chunk(device: torch.device) -> int:
    return CHUNK.get(device.type, CHUNK["cuda"])


def _mixture(screen: Tensor, corners: Tensor, ids: Tensor, seen: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
    """Barycentrics (N, 3) and depth (N,) at the pixels `seen` (N,) of flat `ids`."""
    height, width = size
    line = seen.div(width, rounding_mode="floor")
    item = line.div(height, rounding_mode="floor")
    rows = corners.flatten(0, 1).index_select(0, ids.index_select(0, seen) + item * corners.shape[1])
    x = (seen - line * width).to(screen.dtype) + 0.5
    y = (line - item * height).to(screen.dtype) + 0.5
    (ax, ay, az, aw), (bx, by, bz, bw), (cx, cy, cz, cw) = (
        screen.index_select(0, rows[:, i]).unbind(-1) for i in range(3)
    )
    ax, bx, cx, ay, by, cy = ax - x, bx - x, cx - x, ay - y, by - y, cy - y
    e0, e1, e2 = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
    depth = (e0 * az + e1 * bz + e2 * cz) / (e0 + e1 + e2)
    e0, e1, e2 = e0 * aw, e1 * bw, e2 * cw
    return torch.stack([e0, e1, e2], -1) / (e0 + e1 + e2)[:, None], depth


def _triangle_ids(screen: Tensor, usable: Tensor, corners: Tensor, size: tuple[int, int], order: str) -> Tensor:
    batch, count = corners.shape[:2]
    height, width = size
    triangles = _set_up(screen, usable, corners, size)
    bids = torch.full((batch * height * width,), NO_BID, dtype=torch.int64, device=screen.device)
    ends = (triangles.width * triangles.height).cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    chunk = _chunk(screen.device)
    for start in range(0, total, chunk):
        pixel, bid = _bids(triangles, ends, start, min(start + chunk, total), size, count, order)
        bids.scatter_reduce_(0, pixel, bid, "amin")
    ids = bids & 0xFFFFFFFF
    if order == "painter":
        ids = count - 1 - ids
    return torch.where(bids == NO_BID, -1, ids).view(batch, height, width)


def _set_up(screen: Tensor, usable: Tensor, corners: Tensor, size: tuple[int, int]) -> Triangles:
    count = corners.shape[1]
    height, width = size
    rows = corners.reshape(-1, 3)
    x, y = (screen[:, i][rows] for i in (0, 1))
    left, right = _pixel_range(x, width)
    top, bottom = _pixel_range(y, height)
    ax, bx, cx = x.unbind(-1)
    ay, by, cy = y.unbind(-1)
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    drawn = usable[rows].all(-1) & (area != 0) & (right >= left) & (bottom >= top)
    keep = drawn.nonzero().squeeze(1)
    rows, area = rows[keep], area[keep]
    a, b, c = rows.unbind(-1)
    b, c = torch.where(area > 0, b, c), torch.where(area > 0, c, b)
    ax, bx, cx, ay, by, cy, az, bz, cz = (screen[:, i][v] for i in range(3) for v in (a, b, c))
    left, top = left[keep], top[keep]
    face, item = keep % max(count, 1), keep.div(max(count, 1), rounding_mode="floor")
    return Triangles(
        ax, ay, bx, by, cx, cy, az, bz, cz, left, top, right[keep] - left + 1, bottom[keep] - top + 1, face, item
    )


def _pixel_range(positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """First and last pixel whose centre lies between the three positions (T, 3), inside the image."""
    low, high = positions.aminmax(dim=-1) if len(positions) else (positions[:, 0], positions[:, 0])
    first = (low - 0.5).ceil().clamp(0, length).long()
    last = (high - 0.5).floor().clamp(-1, length - 1).long()
    return first, last


def _bids(
    t: Triangles, ends: Tensor, start: int, stop: int, size: tuple[int, int], count: int, order: str
) -> tuple[Tensor, Tensor]:
    """Pixels and bids of the fragments start..stop that lie inside their triangle."""
    height, width = size
    device = ends.device
    first, last = (int(i) for i in torch.searchsorted(ends, torch.tensor([start, stop - 1], device=device), right=True))
    begins = ends[first : last + 1] - t.width[first : last + 1] * t.height[first : last + 1]
    counts = ends[first : last + 1].clamp_max(stop) - begins.clamp_min(start)
    tri = torch.repeat_interleave(counts, output_size=stop - start)
    local = torch.arange(start, stop, device=device) - begins.index_select(0, tri)
    if first:
        tri += first
    across = t.width.index_select(0, tri)
    row = local.div(across, rounding_mode="floor")
    column = local.sub_(row * across).add_(t.left.index_select(0, tri))
    row = row.add_(t.top.index_select(0, tri))
    x, y = column.double().add_(0.5), row.double().add_(0.5)
    ax, ay, bx, by, cx, cy = (v.index_select(0, tri).sub_(p) for v, p in zip(t[:6], (x, y, x, y, x, y), strict=True))
    e0, e1, e2 = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
    inside = (torch.minimum(torch.minimum(e0, e1), e2) >= 0).nonzero().squeeze(1)
    tri, e0, e1, e2 = (v.index_select(0, inside) for v in (tri, e0, e1, e2))
    row, column = row.index_select(0, inside), column.index_select(0, inside)
    pixel = (t.item.index_select(0, tri) * height + row) * width + column
    on_edge = (torch.minimum(torch.minimum(e0, e1), e2) == 0).nonzero().squeeze(1)
    if len(on_edge):
        keep = torch.ones_like(tri, dtype=torch.bool)
        keep[on_edge] = _owns_edges(t, tri[on_edge], e0[on_edge], e1[on_edge], e2[on_edge])
        tri, e0, e1, e2, pixel = (v[keep] for v in (tri, e0, e1, e2, pixel))
    face = t.face.index_select(0, tri)
    if order == "painter":
        return pixel, count - 1 - face
    az, bz, cz = (v.index_select(0, tri) for v in (t.az, t.bz, t.cz))
    depth = (e0 * az + e1 * bz + e2 * cz) / (e0 + e1 + e2)
    return pixel, (_ordered_bits(depth.float()) << 32) | face


def _owns_edges(t: Triangles, tri: Tensor, e0: Tensor, e1: Tensor, e2: Tensor) -> Tensor:
    """Top-left rule: whether a pixel on one or more of a triangle's edges belongs to it."""
    ax, ay, bx, by, cx, cy = (v[tri] for v in t[:6])
    owned = torch.ones_like(tri, dtype=torch.bool)
    for e, dx, dy in ((e0, cx - bx, cy - by), (e1, ax - cx, ay - cy), (e2, bx - ax, by - ay)):
        owned &= (e > 0) | (dy < 0) | ((dy == 0) & (dx > 0))
    return owned


def _ordered_bits(depth: Tensor) -> Tensor:
    """int64 that sorts as the float32 does: the bits of negative numbers are inverted below the sign."""
    bits = (depth + 0.0).view(torch.int32)  # + 0.0 makes one zero of two
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
