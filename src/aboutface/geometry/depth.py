"""Depth maps: one z-depth per pixel centre."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from .mesh import cross


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
    vertices = depth_to_points(depth, K).flatten(-2).mT.contiguous()
    return vertices, grid_faces(height, width).to(depth.device)


def depth_to_points(depth: Tensor, K: Tensor) -> Tensor:
    """Camera-space points (..., 3, H, W) of z-depth maps (..., H, W) seen through K (..., 3, 3): what the pixels show.

    `points.flatten(-2).mT` are the vertices (..., HW, 3) of `grid_faces`; `grid_normals` takes the points as they are.
    """
    height, width = depth.shape[-2:]
    inverse = torch.linalg.inv(K)[..., None, None]
    x = torch.arange(width, dtype=depth.dtype, device=depth.device) + 0.5
    y = torch.arange(height, dtype=depth.dtype, device=depth.device)[:, None] + 0.5
    # Sums written out, not a matrix product: its rounding depends on how many numbers it is given at once.
    rays = [inverse[..., i, 0, :, :] * x + inverse[..., i, 1, :, :] * y + inverse[..., i, 2, :, :] for i in range(3)]
    return torch.stack([ray * depth for ray in rays], -3)


def grid_normals(points: Tensor) -> Tensor:
    """Unit normals (..., 3, H, W) of a grid of camera-space points (..., 3, H, W), on the side towards the camera.

    By central differences, one-sided at the border; zero, with derivative zero, where neighbouring points coincide or
    lie in line. Differentiable once. Raises UsageError for a grid with fewer than 2 points a side.
    """
    if points.ndim < 3 or points.shape[-3] != 3 or min(points.shape[-2:]) < 2:
        raise UsageError(
            f"grid_normals: expected points (..., 3, H, W), at least 2 along each side, got {tuple(points.shape)}"
        )
    return _GridNormals.apply(points)  # pyright: ignore[reportReturnType]


class _GridNormals(torch.autograd.Function):
    """Its own derivative, which needs a third of the passes over memory, and never divides by a small number twice."""

    @staticmethod
    def forward(ctx: Any, points: Tensor) -> Tensor:
        along, down = _differences(points, -1), _differences(points, -2)
        normal = _cross(down, along)
        square = normal.square().sum(-3, keepdim=True)
        inverse = torch.where(square > 0, square.rsqrt(), 0.0)
        normal *= inverse
        ctx.save_for_backward(along, down, normal, inverse)
        return normal

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        along, down, normal, inverse = ctx.saved_tensors
        # Of a change of the cross product, what is across the normal turns it.
        grad = grads[0] - normal * (grads[0] * normal).sum(-3, keepdim=True)
        grad *= inverse
        return -_differences(_cross(grad, down), -1, -1) - _differences(_cross(along, grad), -2, -1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack(cross(a.unbind(-3), b.unbind(-3)), -3)


def _differences(grid: Tensor, dim: int, sign: int = 1) -> Tensor:
    """Next minus previous, where the border is its own neighbour: half the step there, which turns no normal.

    With the border's sign changed (-1) this is minus its own transpose.
    """
    n = grid.shape[dim]
    first, last = grid.narrow(dim, 0, 1), grid.narrow(dim, n - 1, 1)
    padded = torch.cat([first, grid, last] if sign > 0 else [-first, grid, -last], dim)
    return padded.narrow(dim, 2, n) - padded.narrow(dim, 0, n)
