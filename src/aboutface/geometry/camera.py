"""Pinhole and affine cameras. Pixel centres lie on half-integers: the image spans [0, W] x [0, H]."""

import math

import torch
from torch import Tensor


def intrinsics(fov: float, size: tuple[int, int]) -> Tensor:
    """Matrix K (3, 3) in pixels of a centred camera with `fov` degrees across the longer side of size = (H, W).

    Raises ValueError unless 0 < fov < 180.
    """
    height, width = size
    if not 0 < fov < 180:
        raise ValueError(f"intrinsics: fov must lie between 0 and 180 degrees, got {fov}")
    focal = max(height, width) / 2 / math.tan(math.radians(fov) / 2)
    return torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def project(points: Tensor, K: Tensor) -> Tensor:
    """Pixels (..., N, 2) of camera-space points (..., N, 3), z not 0, under K (..., 3, 3)."""
    homogeneous = points @ K.mT
    return homogeneous[..., :2] / homogeneous[..., 2:]


def unproject(pixels: Tensor, depth: Tensor, K: Tensor) -> Tensor:
    """Camera-space points (..., N, 3) of pixels (..., N, 2) at z-depth (..., N)."""
    rays = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1) @ torch.linalg.inv(K).mT
    return rays * depth[..., None]


def pixel_centres(height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Positions (H, W, 2) as (x, y) of all pixel centres: the first is (0.5, 0.5)."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=dtype) + 0.5, torch.arange(width, dtype=dtype) + 0.5, indexing="ij"
    )
    return torch.stack([x, y], -1)


def clip_from_camera(K: Tensor, size: tuple[int, int], near: float = 0.05, far: float = 20.0) -> Tensor:
    """Matrix (..., 4, 4) from camera space to the renderer's clip space.

    After division by w: x = -1 and 1 are the image's left and right edges, y = -1 and 1 its top and bottom
    (y stays down), z = -1 and 1 the near and far planes. `w` is the camera-space depth.

    Args:
        K: (..., 3, 3) in pixels; size: (H, W) of the image; near, far: camera-space depths, 0 < near < far, else
            ValueError.
    """
    if not 0 < near < far:
        raise ValueError(f"clip_from_camera: expected 0 < near < far, got {near} and {far}")
    height, width = size
    x_scale, y_scale = 2.0 / width, 2.0 / height
    rows = torch.zeros(*K.shape[:-2], 4, 4, dtype=K.dtype, device=K.device)
    rows[..., 0, :3] = K[..., 0, :] * x_scale
    rows[..., 0, 2] = rows[..., 0, 2] - 1.0
    rows[..., 1, :3] = K[..., 1, :] * y_scale
    rows[..., 1, 2] = rows[..., 1, 2] - 1.0
    rows[..., 2, 2] = (far + near) / (far - near)
    rows[..., 2, 3] = -2 * far * near / (far - near)
    rows[..., 3, 2] = 1.0
    return rows
