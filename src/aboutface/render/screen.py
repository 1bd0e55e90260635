"""Clip space to the screen: what every backend agrees on about vertices."""

import torch
from torch import Tensor

NEAR_W = 1e-6
"""Vertices with a smaller w are not divided by it: their triangles are drawn in homogeneous coordinates."""
FARTHEST = 1e7
"""Likewise vertices with a larger |x / w|, |y / w| or |z / w|; float64 edges are right to 1e-6 pixels up to here."""
LARGEST = 1e30
"""Triangles with a larger coordinate, or one that is not finite, are not drawn."""


def screen_from_clip(vertices_clip: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Vertices (B, V, 4) float64 as x and y in pixels, z / w, w; and (B, V) which are plain, the others being NaN.

    Plain vertices lie in front of the camera and not far outside the image: see the limits above.
    """
    height, width = size
    clip = vertices_clip.double()
    w = clip[..., 3:]
    plain = ((w > NEAR_W) & (clip.abs() <= FARTHEST * w) & (clip.abs() <= LARGEST)).all(-1)
    x, y, z, w = clip.unbind(-1)
    screen = torch.stack([(x / w + 1) * (width / 2), (y / w + 1) * (height / 2), z / w, w], -1)
    return torch.where(plain[..., None], screen, torch.nan), plain
