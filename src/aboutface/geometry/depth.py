"""Depth maps: one z-depth per pixel centre."""

from functools import lru_cache

import torch
from torch import Tensor

from .camera import pixel_centres, unproject
from .mesh import unit


@lru_cache(maxsize=4)
def grid_faces(height: int, width: int) -> Tensor:
    """Triangles (2(H-1)(W-1), 3), int64, of a row-major H x W grid of vertices; wound clockwise as seen.

    The result is kept and shared between calls: do not modify it.
    """
    # What is kept must also serve autograd later, which refuses tensors made in inference mode.
    with torch.inference_mode(False):
        index = torch.arange(height * width).view(height, width)
        a, b = index[:-1, :-1].flatten(), index[:-1, 1:].flatten()
        c, d = index[1:, :-1].flatten(), index[1:, 1:].flatten()
        return torch.cat([torch.stack([a, b, c], -1), torch.stack([b, d, c], -1)])


def depth_to_mesh(depth: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Vertices (..., HW, 3) in camera space and faces (F, 3) of z-depth maps (..., H, W) seen through K (..., 3, 3).

    Vertices lie on the rays of the pixel centres, row by row. Faces are those of `grid_faces`.
    """
    height, width = depth.shape[-2:]
    pixels = pixel_centres(height, width, depth.dtype).to(depth.device).flatten(0, 1)
    return unproject(pixels, depth.flatten(-2), K), grid_faces(height, width).to(depth.device)


def grid_normals(points: Tensor) -> Tensor:
    """Unit normals (..., H, W, 3) of a grid of camera-space points (..., H, W, 3), on the side towards the camera.

    By central differences, one-sided at the border. Raises ValueError for a grid with fewer than 2 points a side.
    """
    dx = _differences(points, -2)
    dy = _differences(points, -3)
    return unit(torch.linalg.cross(dy, dx, dim=-1))


def _differences(points: Tensor, dim: int) -> Tensor:
    n = points.shape[dim]
    if n < 2:
        raise ValueError(f"grid_normals: expected at least 2 points along each side of the grid, got {n}")
    # Twice the step of the border: the direction of a normal does not depend on it.
    inner = points.narrow(dim, 2, n - 2) - points.narrow(dim, 0, n - 2)
    first = points.narrow(dim, 1, 1) - points.narrow(dim, 0, 1)
    last = points.narrow(dim, n - 1, 1) - points.narrow(dim, n - 2, 1)
    return torch.cat([first, inner, last], dim)
