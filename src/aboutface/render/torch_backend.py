"""The rasteriser in PyTorch operations: no loop over triangles, any device that has float64.

Every triangle's bounding box is cut into (triangle, pixel) fragments; those inside their triangle bid for their pixel
with a number that holds depth above and triangle below, and the smallest bid wins.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .crossings import find_crossings as find_crossings
from .screen import LARGEST, columns, screen_from_clip

CHUNK = {"cpu": 1 << 16, "cuda": 1 << 22}
"""Fragments or pixels handled at once, by kind of device: bounds the memory, and fits the processor's cache."""
NO_BID = torch.iinfo(torch.int64).max


def rasterize(vertices_clip: Tensor, faces: Tensor, size: tuple[int, int], order: str) -> tuple[Tensor, Tensor, Tensor]:
    """Members of Fragments for vertices (B, V, 4) and faces (B, F, 3): see `rasterize` in rasterize.py."""
    vertices = _Vertices.of(vertices_clip, size)
    ids = _triangle_ids(vertices, faces, order)
    return ids, *_resolve(vertices, faces, ids, vertices_clip)


def resolve(vertices_clip: Tensor, faces: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Barycentric (B, H, W, 3) and depth (B, H, W) at pixels whose triangle is known."""
    return _resolve(_Vertices.of(vertices_clip, (ids.shape[1], ids.shape[2])), faces, ids, vertices_clip)


def _triangle_ids(vertices: "_Vertices", faces: Tensor, order: str) -> Tensor:
    """(B, H, W) int32: the triangle seen at each pixel centre, -1 where there is none."""
    (batch, count, _), (height, width) = faces.shape, vertices.size
    bids = torch.full((batch * height * width,), NO_BID, dtype=torch.int64, device=faces.device)
    for kind in (_Plain,) if vertices.all_plain else (_Plain, _Clipped):
        triangles = kind.set_up(vertices, faces)
        ends = ((triangles.right - triangles.left + 1) * (triangles.bottom - triangles.top + 1)).cumsum(0)
        total = int(ends[-1]) if len(ends) else 0
        chunk = _chunk(faces.device)
        for start in range(0, total, chunk):
            pixel, bid = _bids(triangles, ends, start, min(start + chunk, total), vertices.size, count, order)
            bids.scatter_reduce_(0, pixel, bid, "amin")
    ids = bids & 0xFFFFFFFF
    if order == "painter":
        ids = count - 1 - ids
    return ids.masked_fill_(bids == NO_BID, -1).int().view(batch, height, width)


def _resolve(vertices: "_Vertices", faces: Tensor, ids: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    flat = ids.flatten()
    barycentric, depth = like.new_zeros(len(flat), 3), like.new_ones(len(flat))
    for part in in_chunks((flat >= 0).nonzero().squeeze(1)):
        corners = _corners(faces, ids, part, vertices.count)
        z, w = ([column.index_select(0, c) for c in corners] for column in (vertices.z, vertices.w))
        weight = _weights(vertices, corners, w, *_centres(part, ids.shape))
        scale = 1 / _dot(weight, [1, 1, 1])
        values = torch.stack([v * scale for v in weight], -1).to(like.dtype)
        barycentric.index_copy_(0, part, values)
        depth.index_copy_(0, part, (_dot(weight, z) / _dot(weight, w)).to(like.dtype))
    return barycentric.view(*ids.shape, 3), depth.view(ids.shape)


def rasterize_backward(
    vertices_clip: Tensor, faces: Tensor, ids: Tensor, grad_barycentric: Tensor | None, grad_depth: Tensor | None
) -> Tensor:
    """Gradient (B, V, 4) with respect to `vertices_clip`.

    Let p_i be the corners in homogeneous pixels (x, y, both times w), measured from the pixel's centre, and l_i the
    cross product of the other two. Then barycentrics are l / sum(l), and depth is sum(l_i z_i) / sum(l_i w_i).
    """
    height, width = ids.shape[1:]
    half_width, half_height = width / 2, height / 2
    table = columns(vertices_clip.flatten(0, 1))
    total = [torch.zeros_like(column) for column in table]
    for part in in_chunks((ids.flatten() >= 0).nonzero().squeeze(1)):
        corners = _corners(faces, ids, part, vertices_clip.shape[1])
        px, py = _centres(part, ids.shape)
        to_x, to_y = half_width - px, half_height - py
        x, y, z, w = ([column.index_select(0, c) for c in corners] for column in table)
        x = [a * half_width + b * to_x for a, b in zip(x, w, strict=True)]
        y = [a * half_height + b * to_y for a, b in zip(y, w, strict=True)]
        weight = [x[i - 2] * y[i - 1] - y[i - 2] * x[i - 1] for i in range(3)]
        # A sliver whose weights all vanish by rounding has no gradient rather than an infinite one.
        scale = 1 / _dot(weight, [1, 1, 1])
        scale = torch.where(torch.isfinite(scale), scale, 0.0)
        by_weight = [torch.zeros_like(scale)] * 3
        by_z = by_w = torch.zeros_like(scale)
        if grad_barycentric is not None:
            given = grad_barycentric.reshape(-1, 3).index_select(0, part).double().unbind(-1)
            given = [g * scale for g in given]
            mean = _dot(given, weight) * scale
            by_weight = [g - mean for g in given]
        if grad_depth is not None:
            nearness = 1 / _dot(weight, w)
            nearness = torch.where(torch.isfinite(nearness), nearness, 0.0)
            by_z = grad_depth.flatten().index_select(0, part).double() * nearness
            depth = _dot(weight, z) * nearness
            by_w = -by_z * depth
            by_weight = [g + by_z * (a - depth * b) for g, a, b in zip(by_weight, z, w, strict=True)]
        for i, corner in enumerate(corners):
            before, after = i - 1, i - 2
            by_x = by_weight[before] * y[after] - by_weight[after] * y[before]
            by_y = by_weight[after] * x[before] - by_weight[before] * x[after]
            by_own_w = by_w * weight[i] + by_x * to_x + by_y * to_y
            for column, change in zip(
                total, (by_x * half_width, by_y * half_height, by_z * weight[i], by_own_w), strict=True
            ):
                column.index_add_(0, corner, change)
    return torch.stack(total, -1).to(vertices_clip).view_as(vertices_clip)


def interpolate(attributes: Tensor, ids: Tensor, barycentric: Tensor, faces: Tensor) -> Tensor:
    """Attributes (B or 1, V, C) at every pixel, (B, H, W, C)."""
    flat, weights = ids.flatten(), barycentric.reshape(-1, 3)
    table, count = attributes.flatten(0, 1), 0 if len(attributes) == 1 else attributes.shape[1]
    picture = attributes.new_zeros(len(flat), attributes.shape[-1])
    for part in in_chunks((flat >= 0).nonzero().squeeze(1)):
        corners = _corners(faces, ids, part, count)
        picture[part] = _mixed(table, corners, weights.index_select(0, part).to(table.dtype))
    return picture.view(*ids.shape, attributes.shape[-1])


def interpolate_backward(
    attributes: Tensor,
    ids: Tensor,
    barycentric: Tensor,
    faces: Tensor,
    grad: Tensor,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients with respect to attributes (B or 1, V, C) and barycentric (B, H, W, 3), where wanted."""
    flat, weights = ids.flatten(), barycentric.reshape(-1, 3)
    table, count = attributes.flatten(0, 1), 0 if len(attributes) == 1 else attributes.shape[1]
    by_attribute = torch.zeros_like(table) if wanted[0] else None
    by_weight = torch.zeros_like(weights) if wanted[1] else None
    grad = grad.reshape(len(flat), attributes.shape[-1])
    for part in in_chunks((flat >= 0).nonzero().squeeze(1)):
        corners = _corners(faces, ids, part, count)
        given, weight = grad.index_select(0, part), weights.index_select(0, part).to(table.dtype)
        if by_attribute is not None:
            for i in range(3):
                by_attribute.index_add_(0, corners[i], given * weight[:, i : i + 1])
        if by_weight is not None:
            values = [(given * table.index_select(0, corner)).sum(-1) for corner in corners]
            by_weight[part] = torch.stack(values, -1).to(by_weight)
    return (
        None if by_attribute is None else by_attribute.view_as(attributes),
        None if by_weight is None else by_weight.view_as(barycentric),
    )


def in_chunks(index: Tensor) -> tuple[Tensor, ...]:
    """A list of pixels (N,) in pieces of a size that is quick to work on; one empty piece if it is empty."""
    return index.split(_chunk(index.device))


def _chunk(device: torch.device) -> int:
    return CHUNK.get(device.type, CHUNK["cuda"])


def _corners(faces: Tensor, ids: Tensor, pixels: Tensor, count: int) -> list[Tensor]:
    """Corners of the triangles seen at pixels (N,) as rows of a table with `count` for each item, three times (N,)."""
    item = pixels.div(ids.shape[1] * ids.shape[2], rounding_mode="floor")
    face = ids.flatten().index_select(0, pixels)
    if _shared(faces):
        table = faces[0]
    else:
        table, face = faces.flatten(0, 1), face + item * faces.shape[1]
    offset = item * count
    return [corner + offset for corner in table.index_select(0, face).unbind(-1)]


def _shared(faces: Tensor) -> bool:
    """Whether (B, F, 3) are the same triangles for all items, repeated without being copied."""
    return len(faces) > 0 and faces.stride(0) == 0


def _centres(pixels: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """x and y of the centres of `pixels` (N,), counted through (B, H, W)."""
    line = pixels.div(shape[2], rounding_mode="floor")
    return (pixels - line * shape[2]).double() + 0.5, (line % shape[1]).double() + 0.5


def _dot(a: list[Tensor], b: list) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _mixed(table: Tensor, corners: list[Tensor], weights: Tensor) -> Tensor:
    a, b, c = (table.index_select(0, corners[i]) * weights[:, i : i + 1] for i in range(3))
    return a + b + c


@dataclass(frozen=True)
class _Vertices:
    """All vertices of a batch. Each (N,) float64, but for the two masks."""

    x: Tensor
    """Pixels; NaN, as y and depth, where not plain."""
    y: Tensor
    depth: Tensor
    clip_x: Tensor
    clip_y: Tensor
    z: Tensor
    w: Tensor
    plain: Tensor
    """(N,) bool: see `screen_from_clip`."""
    all_plain: bool
    count: int
    """Vertices of each item."""
    size: tuple[int, int]

    @classmethod
    def of(cls, vertices_clip: Tensor, size: tuple[int, int]) -> "_Vertices":
        x, y, depth, plain = (v.flatten() for v in screen_from_clip(vertices_clip, size))
        clip_x, clip_y, z, w = columns(vertices_clip.flatten(0, 1))
        return cls(x, y, depth, clip_x, clip_y, z, w, plain, bool(plain.all()), vertices_clip.shape[1], size)

    def usable(self, rows: Tensor) -> Tensor:
        """Whether no coordinate of these vertices is too large to be drawn."""
        return torch.stack([v[rows].abs() <= LARGEST for v in (self.clip_x, self.clip_y, self.z, self.w)]).all(0)

    def homogeneous(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """x and y in homogeneous pixels: divided by w they are the place on the screen."""
        w = self.w.index_select(0, rows)
        x = (self.clip_x.index_select(0, rows) + w) * (self.size[1] / 2)
        return x, (self.clip_y.index_select(0, rows) + w) * (self.size[0] / 2)


def _weights(vertices: _Vertices, corners: list[Tensor], w: list[Tensor], px: Tensor, py: Tensor) -> list[Tensor]:
    """Barycentrics at pixels (N,) of triangles with corners three times (N,), not yet scaled to sum to 1."""
    x = [vertices.x.index_select(0, c) - px for c in corners]
    y = [vertices.y.index_select(0, c) - py for c in corners]
    weight = [(x[i - 2] * y[i - 1] - y[i - 2] * x[i - 1]) / w[i] for i in range(3)]
    if not vertices.all_plain:
        odd = torch.isnan(x[0] + x[1] + x[2]).nonzero().squeeze(1)
        edges = _homogeneous_edges(vertices, [c[odd] for c in corners], px[odd], py[odd])
        for i in range(3):
            weight[i][odd] = edges[i]
    return weight


def _homogeneous_edges(vertices: _Vertices, corners: list[Tensor], px: Tensor, py: Tensor) -> list[Tensor]:
    """Edge functions at pixels (N,) of triangles with a vertex that is not plain, corners three times (N,)."""
    x, y, w, plain, far_x, far_y = [], [], [], [], [], []
    for rows in corners:
        w.append(vertices.w[rows])
        plain.append(vertices.plain[rows])
        x.append(vertices.x[rows] - px)
        y.append(vertices.y[rows] - py)
        hx, hy = vertices.homogeneous(rows)
        far_x.append(hx - px * w[-1])
        far_y.append(hy - py * w[-1])
    edges = []
    for start, end in ((1, 2), (2, 0), (0, 1)):
        near = (x[start] * y[end] - y[start] * x[end]) * (w[start] * w[end])
        far = far_x[start] * far_y[end] - far_y[start] * far_x[end]
        edges.append(torch.where(plain[start] & plain[end], near, far))
    return edges


@dataclass(frozen=True)
class _Triangles:
    """Triangles that may cover a pixel. Tensors (T,), corners turned so that the edge functions are positive inside."""

    left: Tensor
    """First pixel column of the bounding box."""
    right: Tensor
    """Last one."""
    top: Tensor
    bottom: Tensor
    face: Tensor
    """Number among the triangles of all items."""


@dataclass(frozen=True)
class _Plain(_Triangles):
    """Triangles of plain vertices."""

    x: list[Tensor]
    """Of the three corners."""
    y: list[Tensor]
    z: list[Tensor]

    @classmethod
    def set_up(cls, vertices: _Vertices, faces: Tensor) -> "_Plain":
        shared = _shared(faces)
        corners = [c.contiguous() for c in (faces[0] if shared else faces).unbind(-1)]

        def of_corners(column: Tensor) -> list[Tensor]:
            table = column.view(len(faces), vertices.count)
            return [(table.index_select(1, c) if shared else table.gather(1, c)).flatten() for c in corners]

        x, y = of_corners(vertices.x), of_corners(vertices.y)
        left, right = _centres_between(_least(x), _most(x), vertices.size[1])
        top, bottom = _centres_between(_least(y), _most(y), vertices.size[0])
        area = (x[1] - x[0]) * (y[2] - y[0]) - (y[1] - y[0]) * (x[2] - x[0])
        # The area of a triangle with a vertex that is not plain is NaN.
        keep = ((area.abs() > 0) & (right >= left) & (bottom >= top)).nonzero().squeeze(1)
        left, right, top, bottom, area = (v.index_select(0, keep) for v in (left, right, top, bottom, area))
        x, y, z = (
            _turned([v.index_select(0, keep) for v in column], area) for column in (x, y, of_corners(vertices.depth))
        )
        return cls(left, right, top, bottom, keep, x, y, z)

    def edges(self, tri: Tensor, px: Tensor, py: Tensor) -> list[Tensor]:
        x = [v.index_select(0, tri).sub_(px) for v in self.x]
        y = [v.index_select(0, tri).sub_(py) for v in self.y]
        return [x[i - 2] * y[i - 1] - y[i - 2] * x[i - 1] for i in range(3)]

    def direction(self, tri: Tensor, start: int, end: int) -> tuple[Tensor, Tensor]:
        return self.x[end][tri] - self.x[start][tri], self.y[end][tri] - self.y[start][tri]

    def depth(self, tri: Tensor, e: list[Tensor]) -> Tensor:
        z = [v.index_select(0, tri) for v in self.z]
        return (e[0] * z[0] + e[1] * z[1] + e[2] * z[2]) / (e[0] + e[1] + e[2])


@dataclass(frozen=True)
class _Clipped(_Triangles):
    """Triangles with a vertex that is not plain: behind the camera, in its plane, or far outside the image.

    They are drawn in homogeneous coordinates (Olano and Greer 1997), which needs no new vertices. Edges between plain
    vertices still use the sums of `_Plain`, so that no gap opens beside triangles drawn that way.
    """

    corners: list[Tensor]
    """Rows of `_Vertices`, three times (T,)."""
    vertices: _Vertices

    @classmethod
    def set_up(cls, vertices: _Vertices, faces: Tensor) -> "_Clipped":
        items = torch.arange(len(faces), device=faces.device).view(-1, 1, 1)
        rows = (faces + items * vertices.count).flatten(0, 1)
        odd = vertices.usable(rows).all(-1) & ~vertices.plain[rows].all(-1)
        keep = odd.nonzero().squeeze(1)
        rows = rows[keep]
        (ax, bx, cx), (ay, by, cy), (aw, bw, cw) = (
            v[rows].unbind(-1) for v in (vertices.clip_x, vertices.clip_y, vertices.w)
        )
        area = aw * (bx * cy - by * cx) + bw * (cx * ay - cy * ax) + cw * (ax * by - ay * bx)
        left, right, top, bottom = _clipped_box(vertices, rows, vertices.size)
        drawn = (area != 0) & (right >= left) & (bottom >= top) & (torch.maximum(torch.maximum(aw, bw), cw) > 0)
        some = drawn.nonzero().squeeze(1)
        corners = _turned(list(rows[some].unbind(-1)), area[some])
        return cls(left[some], right[some], top[some], bottom[some], keep[some], corners, vertices)

    def edges(self, tri: Tensor, px: Tensor, py: Tensor) -> list[Tensor]:
        return _homogeneous_edges(self.vertices, [c.index_select(0, tri) for c in self.corners], px, py)

    def direction(self, tri: Tensor, start: int, end: int) -> tuple[Tensor, Tensor]:
        v = self.vertices
        a, b = self.corners[start][tri], self.corners[end][tri]
        (ax, ay), (bx, by) = v.homogeneous(a), v.homogeneous(b)
        plain = v.plain[a] & v.plain[b]
        dx = torch.where(plain, v.x[b] - v.x[a], bx * v.w[a] - ax * v.w[b])
        return dx, torch.where(plain, v.y[b] - v.y[a], by * v.w[a] - ay * v.w[b])

    def depth(self, tri: Tensor, e: list[Tensor]) -> Tensor:
        z, w = ([v.index_select(0, c[tri]) for c in self.corners] for v in (self.vertices.z, self.vertices.w))
        nearness = e[0] * w[0] + e[1] * w[1] + e[2] * w[2]
        depth = (e[0] * z[0] + e[1] * z[1] + e[2] * z[2]) / nearness
        return torch.where(nearness > 0, depth, torch.nan)


def _turned(corners: list[Tensor], area: Tensor) -> list[Tensor]:
    a, b, c = corners
    return [a, torch.where(area > 0, b, c), torch.where(area > 0, c, b)]


def _least(values: list[Tensor]) -> Tensor:
    return torch.minimum(torch.minimum(values[0], values[1]), values[2])


def _most(values: list[Tensor]) -> Tensor:
    return torch.maximum(torch.maximum(values[0], values[1]), values[2])


def _centres_between(low: Tensor, high: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """First and last of `length` pixels whose centres lie between two positions (T,), which are not used if NaN."""
    return (low - 0.5).ceil_().clamp_(0, length).long(), (high - 0.5).floor_().clamp_(-1, length - 1).long()


def _clipped_box(vertices: _Vertices, rows: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bounding box, left to bottom, of what lies behind the near plane of triangles (T, 3); a little generous."""
    clip = torch.stack([v[rows] for v in (vertices.clip_x, vertices.clip_y, vertices.z, vertices.w)], -1)
    beyond = clip[..., 2] + clip[..., 3]
    share = (beyond / (beyond - beyond.roll(-1, 1)))[..., None]
    cut = clip + share * (clip.roll(-1, 1) - clip)
    # Six candidates: the corners behind the near plane, and the cuts of the sides that cross it.
    points = torch.cat([clip, cut], 1)
    there = torch.cat([beyond >= 0, (beyond >= 0) != (beyond.roll(-1, 1) >= 0)], 1)
    w = points[..., 3]
    open_ended = (there & ~(w > 1e-12 * clip[..., 3].abs().amax(1, keepdim=True))).any(1)
    sides = []
    for axis, length in ((0, size[1]), (1, size[0])):
        place = (points[..., axis] / w + 1) * (length / 2)
        low = place.masked_fill(~there, torch.inf).amin(1)
        high = place.masked_fill(~there, -torch.inf).amax(1)
        room = 1 + 1e-6 * torch.maximum(low.abs(), high.abs())
        low, high = low - room, high + room
        first, last = _centres_between(low, high, length)
        unknown = open_ended | ~torch.isfinite(room)
        some = there.any(1)
        sides += [torch.where(unknown & some, 0, first), torch.where(unknown & some, length - 1, last)]
    return sides[0], sides[1], sides[2], sides[3]


def _bids(
    t: _Plain | _Clipped, ends: Tensor, start: int, stop: int, size: tuple[int, int], count: int, order: str
) -> tuple[Tensor, Tensor]:
    """Pixels and bids of the fragments start..stop that lie inside their triangle."""
    height, width = size
    device = ends.device
    first, last = (int(i) for i in torch.searchsorted(ends, torch.tensor([start, stop - 1], device=device), right=True))
    some = slice(first, last + 1)
    begins = ends[some] - (t.right[some] - t.left[some] + 1) * (t.bottom[some] - t.top[some] + 1)
    counts = ends[some].clamp_max(stop) - begins.clamp_min(start)
    tri = torch.repeat_interleave(counts, output_size=stop - start)
    local = torch.arange(start, stop, device=device) - begins.index_select(0, tri)
    across = (t.right[some] - t.left[some] + 1).index_select(0, tri)
    if first:
        tri += first
    row = local.div(across, rounding_mode="floor")
    column = local.sub_(row * across).add_(t.left.index_select(0, tri))
    row = row.add_(t.top.index_select(0, tri))
    e = t.edges(tri, column.double().add_(0.5), row.double().add_(0.5))
    inside = (_least(e) >= 0).nonzero().squeeze(1)
    tri, row, column = (v.index_select(0, inside) for v in (tri, row, column))
    e = [v.index_select(0, inside) for v in e]
    face = t.face.index_select(0, tri)
    item = face.div(max(count, 1), rounding_mode="floor")
    pixel = (item * height + row) * width + column
    depth = t.depth(tri, e).float()
    keep = depth >= -1
    on_edge = (_least(e) == 0).nonzero().squeeze(1)
    if len(on_edge):
        keep[on_edge] &= _owns_edges(t, tri[on_edge], [v[on_edge] for v in e])
    bid = face - item * count
    bid = count - 1 - bid if order == "painter" else (_ordered_bits(depth) << 32) | bid
    keep = keep.nonzero().squeeze(1)
    return pixel.index_select(0, keep), bid.index_select(0, keep)


def _owns_edges(t: _Plain | _Clipped, tri: Tensor, e: list[Tensor]) -> Tensor:
    """Top-left rule: whether a pixel on one or more of a triangle's edges belongs to it."""
    owned = torch.ones_like(tri, dtype=torch.bool)
    for edge, (start, end) in zip(e, ((1, 2), (2, 0), (0, 1)), strict=True):
        dx, dy = t.direction(tri, start, end)
        owned &= (edge > 0) | (dy < 0) | ((dy == 0) & (dx > 0))
    return owned


def _ordered_bits(depth: Tensor) -> Tensor:
    """int64 that sorts as the float32 does: the bits of negative numbers are inverted below the sign."""
    bits = (depth + 0.0).view(torch.int32)  # + 0.0 makes one zero of two
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
