"""The rasteriser as plain loops over triangles and pixels: slow, obvious, and what every other backend must equal."""

import math

import numpy as np
import torch
from torch import Tensor

from .screen import FARTHEST, LARGEST, NEAR_W


def rasterize(vertices_clip: Tensor, faces: Tensor, size: tuple[int, int], order: str) -> tuple[Tensor, Tensor, Tensor]:
    """Members of Fragments for vertices (B, V, 4) and faces (B, F, 3): see `rasterize` in rasterize.py."""
    clip = vertices_clip.double()
    ids = torch.empty(len(clip), *size, dtype=torch.int32)
    for item, (vertices, triangles) in enumerate(zip(clip.tolist(), faces.tolist(), strict=True)):
        ids[item] = _item_ids(vertices, triangles, size, order)
    barycentric, depth = _solve(clip, faces, ids)
    return ids, barycentric.to(vertices_clip.dtype), depth.to(vertices_clip.dtype)


def _item_ids(vertices: list, faces: list, size: tuple[int, int], order: str) -> Tensor:
    height, width = size
    ids = torch.full(size, -1, dtype=torch.int32)
    nearest = np.full(size, np.inf, dtype=np.float32)
    for index, face in enumerate(faces):
        corners = [_Corner(vertices[i], size) for i in face]
        turned = _facing(corners)
        if turned is None:
            continue
        rows, columns = range(height), range(width)
        if all(corner.plain for corner in corners):
            rows = _centres_between([corner.y for corner in corners], height)
            columns = _centres_between([corner.x for corner in corners], width)
        for row in rows:
            for column in columns:
                depth = _depth_inside(turned, column + 0.5, row + 0.5)
                if depth is not None and (order == "painter" or depth < nearest[row, column]):
                    nearest[row, column] = depth
                    ids[row, column] = index
    return ids


class _Corner:
    """A vertex in clip space, and where it can be projected safely (`plain`), on the screen."""

    def __init__(self, vertex: list[float], size: tuple[int, int]):
        X, Y, self.Z, self.W = vertex
        self.usable = all(abs(v) <= LARGEST for v in vertex)
        self.plain = self.usable and self.W > NEAR_W and max(abs(X), abs(Y), abs(self.Z)) <= FARTHEST * self.W
        # Homogeneous pixels: divided by W they are the place on the screen.
        self.X, self.Y = (X + self.W) * (size[1] / 2), (Y + self.W) * (size[0] / 2)
        self.clip = X, Y, self.W
        if self.plain:
            self.x, self.y, self.z = (X / self.W + 1) * (size[1] / 2), (Y / self.W + 1) * (size[0] / 2), self.Z / self.W


def _facing(corners: list[_Corner]) -> list[_Corner] | None:
    """The corners in the order in which their edge functions are positive inside; None if nothing can be seen."""
    a, b, c = corners
    if not (a.usable and b.usable and c.usable) or max(a.W, b.W, c.W) <= 0:
        return None
    if a.plain and b.plain and c.plain:
        area = (b.x - a.x) * (c.y - a.y) - (b.y - a.y) * (c.x - a.x)
    else:
        (ax, ay, aw), (bx, by, bw), (cx, cy, cw) = a.clip, b.clip, c.clip
        area = aw * (bx * cy - by * cx) + bw * (cx * ay - cy * ax) + cw * (ax * by - ay * bx)
    if area == 0:
        return None
    return [a, b, c] if area > 0 else [a, c, b]


def _centres_between(positions: list[float], length: int) -> range:
    first = max(math.ceil(min(positions) - 0.5), 0)
    last = min(math.floor(max(positions) - 0.5), length - 1)
    return range(first, last + 1)


def _depth_inside(corners: list[_Corner], x: float, y: float) -> np.float32 | None:
    """Depth of a triangle at a point, None where the point is not the triangle's."""
    a, b, c = corners
    plain = a.plain and b.plain and c.plain
    edges = []
    for start, end in ((b, c), (c, a), (a, b)):
        edge, dx, dy = _edge(start, end, x, y, plain)
        # The inside is to the right of an edge (y down), so edges going up are left ones, those going right top ones.
        if not edge >= 0 or (edge == 0 and not dy < 0 and not (dy == 0 and dx > 0)):
            return None
        edges.append(edge)
    e0, e1, e2 = edges
    if plain:
        depth = np.float32((e0 * a.z + e1 * b.z + e2 * c.z) / (e0 + e1 + e2))
    else:
        w = e0 * a.W + e1 * b.W + e2 * c.W
        depth = np.float32((e0 * a.Z + e1 * b.Z + e2 * c.Z) / w) if w > 0 else np.float32(np.nan)
    return depth if depth >= -1 else None


def _edge(start: _Corner, end: _Corner, x: float, y: float, plain: bool) -> tuple[float, float, float]:
    """Edge function at a point, and the direction of the edge on the screen.

    Depends on nothing but the edge, up to a positive factor: triangles on both its sides agree on every point.
    """
    if start.plain and end.plain:
        edge = (start.x - x) * (end.y - y) - (start.y - y) * (end.x - x)
        return edge if plain else edge * (start.W * end.W), end.x - start.x, end.y - start.y
    (ax, ay, aw), (bx, by, bw) = (start.X, start.Y, start.W), (end.X, end.Y, end.W)
    edge = (ax - x * aw) * (by - y * bw) - (ay - y * aw) * (bx - x * bw)
    return edge, bx * aw - ax * bw, by * aw - ay * bw


def _solve(clip: Tensor, faces: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Barycentrics and depth: the mixture of the three corners, in clip space, that projects to the pixel centre."""
    _, height, width = ids.shape
    barycentric = torch.zeros(*ids.shape, 3, dtype=clip.dtype)
    depth = torch.ones(ids.shape, dtype=clip.dtype)
    seen = torch.nonzero(ids >= 0, as_tuple=True)
    item, row, column = seen
    corners = clip[item[:, None], faces[item, ids[seen].long()]]
    x, y = column.to(clip) + 0.5, row.to(clip) + 0.5
    pixel = torch.stack([x * 2 / width - 1, y * 2 / height - 1, torch.ones_like(x)], -1)
    weights, _ = torch.linalg.solve_ex(corners[..., [0, 1, 3]].mT, pixel[..., None])
    weights = weights[..., 0] / weights[..., 0].sum(-1, keepdim=True)
    _, _, z, w = (weights[..., None] * corners).sum(-2).unbind(-1)
    return barycentric.index_put(seen, weights), depth.index_put(seen, z / w)
