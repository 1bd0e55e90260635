"""Clip space to the screen: what every backend agrees on about vertices.

The limits are compiled into numba's kernels, which it keeps on disk until numba_kernels.py itself is changed.
"""

import torch
from torch import Tensor

NEAR_W = 1e-6
"""Vertices with a smaller w are not divided by it: their triangles are drawn in homogeneous coordinates."""
FARTHEST = 1e7
"""Likewise vertices with a larger |x / w|, |y / w| or |z / w|; float64 edges are right to 1e-6 pixels up to here."""
LARGEST = 1e30
"""Triangles with a larger coordinate, or one that is not finite, are not drawn."""


def screen_from_clip(vertices_clip: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x and y in pixels and z / w of vertices (B, V, 4), each (B, V) float64; and (B, V) which of them are plain.

    Plain vertices lie in front of the camera and not far outside the image: see the limits above. Others are NaN.
    """
    height, width = size
    x, y, z, w = columns(vertices_clip)
    limit = (FARTHEST * w).clamp_max(LARGEST)
    plain = (w > NEAR_W) & (w <= LARGEST) & (x.abs() <= limit) & (y.abs() <= limit) & (z.abs() <= limit)
    x, y, z = (x / w + 1) * (width / 2), (y / w + 1) * (height / 2), z / w
    if not bool(plain.all()):
        x, y, z = (v.masked_fill(~plain, torch.nan) for v in (x, y, z))
    return x, y, z, plain


def columns(vertices: Tensor) -> tuple[Tensor, ...]:
    """The last dimension taken apart, in float64: contiguous, since one gathers from that much faster."""
    return tuple(column.double().contiguous() for column in vertices.unbind(-1))
