"""The rasteriser as plain loops over triangles and pixels: slow, obvious, and what every other backend must equal."""

import math

import numpy as np
import torch
from torch import Tensor


def rasterize_slowly(
    vertices_clip: Tensor, faces: Tensor, size: tuple[int, int], order: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Members of Fragments for vertices (B, V, 4) and faces (B, F, 3): see `rasterize`."""
    clip = vertices_clip.double()
    ids = torch.empty(len(clip), *size, dtype=torch.int64)
    for item, (vertices, triangles) in enumerate(zip(clip.tolist(), faces.tolist(), strict=True)):
        ids[item] = _item_ids(vertices, triangles, size, order)
    barycentric, depth = _solve(clip, faces, ids)
    return ids, barycentric.to(vertices_clip.dtype), depth.to(vertices_clip.dtype)


def _item_ids(vertices: list, faces: list, size: tuple[int, int], order: str) -> Tensor:
    height, width = size
    ids = torch.full(size, -1, dtype=torch.int64)
    nearest = np.full(size, np.inf, dtype=np.float32)
    for index, face in enumerate(faces):
        corners = [c for i in face if (c := _on_screen(vertices[i], size)) is not None]
        if len(corners) < 3:
            continue
        for row in _centres_between([c[1] for c in corners], height):
            for column in _centres_between([c[0] for c in corners], width):
                depth = _depth_inside(corners, column + 0.5, row + 0.5)
                if depth is not None and (order == "painter" or depth < nearest[row, column]):
                    nearest[row, column] = depth
                    ids[row, column] = index
    return ids


def _on_screen(vertex: list[float], size: tuple[int, int]) -> tuple[float, float, float] | None:
    x, y, z, w = vertex
    if not all(map(math.isfinite, vertex)) or w <= 1e-6 or max(abs(x), abs(y), abs(z)) > 1e7 * w:
        return None
    return (x / w + 1) * (size[1] / 2), (y / w + 1) * (size[0] / 2), z / w


def _centres_between(positions: list[float], length: int) -> range:
    first = max(math.ceil(min(positions) - 0.5), 0)
    last = min(math.floor(max(positions) - 0.5), length - 1)
    return range(first, last + 1)


def _depth_inside(corners: list, x: float, y: float) -> np.float32 | None:
    """Depth of a triangle at a point, None where the point is not the triangle's."""
    (ax, ay, _), (bx, by, _), (cx, cy, _) = corners
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if area == 0:
        return None
    a, b, c = corners if area > 0 else (corners[0], corners[2], corners[1])
    edges = []
    for start, end in ((b, c), (c, a), (a, b)):
        edge = (start[0] - x) * (end[1] - y) - (start[1] - y) * (end[0] - x)
        goes_up = end[1] < start[1]
        goes_right = end[1] == start[1] and end[0] > start[0]
        # The inside is to the right of an edge (y down), so edges going up are left ones, those going right top ones.
        if edge < 0 or (edge == 0 and not goes_up and not goes_right):
            return None
        edges.append(edge)
    e0, e1, e2 = edges
    return np.float32((e0 * a[2] + e1 * b[2] + e2 * c[2]) / (e0 + e1 + e2))


def _solve(clip: Tensor, faces: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Barycentrics and depth: the mixture of the three corners, in clip space, that projects to the pixel centre."""
    _, height, width = ids.shape
    barycentric = torch.zeros(*ids.shape, 3, dtype=clip.dtype)
    depth = torch.ones(ids.shape, dtype=clip.dtype)
    seen = torch.nonzero(ids >= 0, as_tuple=True)
    item, row, column = seen
    corners = clip[item[:, None], faces[item, ids[seen]]]
    x, y = column.to(clip) + 0.5, row.to(clip) + 0.5
    pixel = torch.stack([x * 2 / width - 1, y * 2 / height - 1, torch.ones_like(x)], -1)
    weights, _ = torch.linalg.solve_ex(corners[..., [0, 1, 3]].mT, pixel[..., None])
    weights = weights[..., 0] / weights[..., 0].sum(-1, keepdim=True)
    _, _, z, w = (weights[..., None] * corners).sum(-2).unbind(-1)
    return barycentric.index_put(seen, weights), depth.index_put(seen, z / w)
