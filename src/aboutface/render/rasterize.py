"""Which triangle is seen at each pixel, and where on it."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from .backends import Rasterize, choose, load
from .memo import per_tensor

Order = Literal["depth", "painter"]


class Fragments(NamedTuple):
    """What is seen at each pixel centre."""

    triangle_id: Tensor
    """(B, H, W) int32: row of `faces`, -1 where there is none."""
    barycentric: Tensor
    """(B, H, W, 3): weights of the triangle's corners in the order of `faces`, perspective-correct, 0 where none."""
    depth: Tensor
    """(B, H, W): z / w of clip space, -1 at the near plane; 1 (far) where there is no triangle."""


def rasterize(
    vertices_clip: Tensor,
    faces: Tensor,
    size: tuple[int, int],
    *,
    backend: str = "auto",
    order: Order = "depth",
) -> Fragments:
    """Draw triangles, seen from both sides, onto a grid of pixel centres at half-integers.

    Two triangles that share an edge cover each pixel centre on it exactly once (top-left rule). What lies before the
    near plane (z / w < -1) or behind the camera is cut away; at the far plane nothing is. The triangle ids have no
    gradient; barycentrics and depth have the exact one, with respect to `vertices_clip`.

    Args:
        vertices_clip: (B, V, 4), float32 or float64; the clip space of `geometry.clip_from_camera`.
        faces: (F, 3) for all items of the batch, or (B, F, 3); int64. Repeat a vertex to leave a triangle out.
        size: (H, W) in pixels.
        backend: "auto", "torch", "numba", "warp", "nvdiffrast" or "reference": see `backends.choose`.
        order: "depth": the smallest z / w wins, among equals the first triangle. "painter": the last triangle wins.

    Every backend of ours finds ids by the same float64 sums, whatever the input's type, so that they agree bit for bit:
    x = (X / w + 1) * (W / 2), y alike; edge(a, b) = (ax - px) * (by - py) - (ay - py) * (bx - px), which changes
    only its sign when a and b are exchanged; depth = (e0 * z0 + e1 * z1 + e2 * z2) / (e0 + e1 + e2), compared after
    rounding to float32. An edge with a vertex that cannot be divided by its w (see screen.py) takes homogeneous
    coordinates instead: edge(a, b) = (aX - px * aw) * (bY - py * bw) - (aY - py * aw) * (bX - px * bw), with
    aX = (X + w) * (W / 2). Triangles with a coordinate that is not finite or beyond 1e30 are left out.

    Raises UsageError for wrong shapes, types and names, and for faces that name missing vertices.
    """
    if order not in ("depth", "painter"):
        raise UsageError(f"rasterize: order must be 'depth' or 'painter', got {order!r}")
    _check(vertices_clip, faces, size)
    faces = faces.expand(vertices_clip.shape[0], -1, -1)
    size = int(size[0]), int(size[1])
    name = choose(backend, vertices_clip.device)
    if hasattr(load(name), "rasterize_backward"):
        return Fragments(*Rasterize.apply(vertices_clip, faces, size, order, name))
    return Fragments(*load(name).rasterize(vertices_clip, faces, size, order))


def _check(vertices: Tensor, faces: Tensor, size: tuple[int, int]) -> None:
    if vertices.ndim != 3 or vertices.shape[-1] != 4 or vertices.dtype not in (torch.float32, torch.float64):
        raise UsageError(
            f"rasterize: expected vertices (B, V, 4), float32 or float64, got {tuple(vertices.shape)} {vertices.dtype}"
        )
    if not isinstance(size, Sequence) or len(size) != 2 or any(n != int(n) for n in size) or min(size) < 1:
        raise UsageError(f"rasterize: size must be (H, W), whole numbers from 1 on, got {size}")
    check_mesh("rasterize", faces, vertices)


def check_mesh(verb: str, faces: Tensor, vertices: Tensor, fragments: Fragments | None = None) -> None:
    """Raise UsageError unless faces (F, 3) or (B, F, 3), vertices (B, V, ...) and fragments belong together.

    Compiled loops would otherwise read what is not theirs.
    """
    batch, count = vertices.shape[:2]
    batch_ok = faces.ndim == 2 or (faces.ndim == 3 and faces.shape[0] in (1, batch))
    if not batch_ok or faces.shape[-1] != 3 or faces.dtype != torch.int64:
        raise UsageError(f"{verb}: expected faces (F, 3) or (B, F, 3), int64, got {tuple(faces.shape)} {faces.dtype}")
    if faces.device != vertices.device:
        raise UsageError(f"{verb}: vertices are on {vertices.device} and faces on {faces.device}; move one of them")
    low, high = _range_now(faces) if faces.device.type == "cpu" else _range(faces)
    if low < 0 or high >= count:
        raise UsageError(f"{verb}: faces name vertices {low} to {high}, but they go from 0 to {count - 1}")
    if fragments is None:
        return
    ids = fragments.triangle_id
    shapes = [tuple(member.shape) for member in fragments]
    if ids.ndim != 3 or shapes[1] != (*ids.shape, 3) or shapes[2] != shapes[0] or len(ids) != batch:
        raise UsageError(
            f"{verb}: expected fragments (B, H, W), (B, H, W, 3), (B, H, W) with B = {batch}, got {shapes}"
        )
    # On a GPU to ask is to wait, and its ids are trusted.
    if ids.device.type == "cpu" and ids.numel() and int(ids.max()) >= faces.shape[-2]:
        raise UsageError(
            f"{verb}: fragments show triangle {int(ids.max())}, but there are {faces.shape[-2]} faces; "
            "give those from which the fragments were drawn"
        )


def _range_now(faces: Tensor) -> tuple[int, int]:
    """Smallest and largest vertex number."""
    if faces.numel() == 0:
        return 0, -1
    low, high = faces.aminmax()
    return int(low), int(high)


# On a GPU to ask is to wait. On the CPU numpy may write to the tensor unnoticed.
_range = per_tensor(_range_now)
