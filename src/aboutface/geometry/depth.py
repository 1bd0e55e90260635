"""Depth maps: one z-depth per pixel centre."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError
from .mesh import cross


@lru_cache(maxsize=8)
def grid_faces(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Triangles (2(H-1)(W-1), 3), int64, of a row-major H x W grid of vertices; wound clockwise as seen.

    The result is kept and shared between calls: do not modify it.
    """
    # What is kept must also serve autograd later, which refuses tensors made in inference mode.
    with torch.inference_mode(False):
        index = torch.arange(height * width, device=device).view(height, width)
        a, b = index[:-1, :-1].flatten(), index[:-1, 1:].flatten()
        c, d = index[1:, :-1].flatten(), index[1:, 1:].flatten()
        return torch.cat([torch.stack([a, b, c], -1), torch.stack([b, d, c], -1)])


def depth_to_mesh(depth: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Vertices (..., HW, 3) in camera space and faces (F, 3) of z-depth maps (..., H, W) seen through K (..., 3, 3).

    Vertices lie on the rays of the pixel centres, row by row. Faces are those of `grid_faces`.
    """
    height, width = depth.shape[-2:]
    vertices = depth_to_points(depth, K).flatten(-2).mT.contiguous()
    return vertices, grid_faces(height, width, depth.device)


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


def depth_normals(depth: Tensor, K: Tensor) -> Tensor:
    """Unit normals (..., 3, H, W) of z-depth maps (..., H, W) seen through K (3, 3), on the side towards the camera.

    The same as `grid_normals` of `depth_to_points`, several times as fast; but at the border, where there are no
    differences on both sides, they look along -z, as Unsup3d has it. Differentiable once, with respect to depth.
    Raises UsageError for other shapes, and for a K with skew.
    """
    if depth.ndim < 2 or K.shape != (3, 3) or float(K[0, 1]) != 0 or K[2].tolist() != [0, 0, 1]:
        raise UsageError(
            "depth_normals: expected depth (..., H, W) and a K (3, 3) without skew, "
            f"got {tuple(depth.shape)} and {K.tolist()}"
        )
    fx, fy, cx, cy = float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])
    normals = _DepthNormals.apply(depth.reshape(-1, *depth.shape[-2:]), fx, fy, cx, cy)
    return normals.view(*depth.shape[:-2], 3, *depth.shape[-2:])  # pyright: ignore


class _DepthNormals(torch.autograd.Function):
    """The cross product of the central differences of depth * (x, y, 1), worked out: no points are made.

    With a, d the sums and u, v the differences of the neighbours across and down, it is a multiple of
    (fx u d, fy v a, -(a d + x fx u d + y fy v a)).
    """

    @staticmethod
    def forward(ctx: Any, depth: Tensor, fx: float, fy: float, cx: float, cy: float) -> Tensor:
        ctx.camera = fx, fy, cx, cy
        left, right = depth[:, 1:-1, :-2], depth[:, 1:-1, 2:]
        above, below = depth[:, :-2, 1:-1], depth[:, 2:, 1:-1]
        a, u, d, v = left + right, (right - left) * fx, above + below, (below - above) * fy
        x, y = _slopes(depth, ctx.camera)
        p, q = u * d, v * a
        r = (a * d).addcmul_(p, x).addcmul_(q, y).neg_()
        inverse = (p * p).addcmul_(q, q).addcmul_(r, r).rsqrt_()
        normal = depth.new_zeros(len(depth), 3, *depth.shape[1:])
        normal[:, 2] = -1
        for channel, part in enumerate((p, q, r)):
            torch.mul(part, inverse, out=normal[:, channel, 1:-1, 1:-1])
        ctx.save_for_backward(a, u, d, v, normal, inverse)
        return normal

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, u, d, v, normal, inverse = ctx.saved_tensors
        fx, fy, _, _ = ctx.camera
        x, y = _slopes(normal[:, 0], ctx.camera)
        n, grad = normal[:, :, 1:-1, 1:-1].unbind(1), grads[0][:, :, 1:-1, 1:-1].unbind(1)
        # A change along the normal does not turn it.
        along = (grad[0] * n[0]).addcmul_(grad[1], n[1]).addcmul_(grad[2], n[2])
        p, q, r = (torch.addcmul(g, m, along, value=-1).mul_(inverse) for g, m in zip(grad, n, strict=True))
        p.addcmul_(r, x, value=-1)
        q.addcmul_(r, y, value=-1)
        by_a, by_d = (q * v).addcmul_(r, d, value=-1), (p * u).addcmul_(r, a, value=-1)
        by_u, by_v = (p * d).mul_(fx), (q * a).mul_(fy)
        depth = torch.zeros_like(normal[:, 0])
        depth[:, 1:-1, :-2] += by_a - by_u
        depth[:, 1:-1, 2:] += by_a.add_(by_u)
        depth[:, :-2, 1:-1] += by_d - by_v
        depth[:, 2:, 1:-1] += by_d.add_(by_v)
        return depth, None, None, None, None


def _slopes(depth: Tensor, camera: tuple[float, float, float, float]) -> tuple[Tensor, Tensor]:
    """x / z of the columns (W - 2,) and y / z of the rows (H - 2, 1) inside depth maps (B, H, W)."""
    fx, fy, cx, cy = camera
    x, y = (torch.arange(1, max(n - 1, 1), dtype=depth.dtype, device=depth.device) + 0.5 for n in depth.shape[:0:-1])
    return (x - cx) / fx, ((y - cy) / fy)[:, None]
