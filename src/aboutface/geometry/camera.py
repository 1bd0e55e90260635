"""Pinhole, affine and orthographic cameras. Pixel centres lie on half-integers: the image spans [0, W] x [0, H]."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UsageError


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
    """Matrix (..., 4, 4) from camera space to the renderer's clip space, for a pinhole camera.

    After division by w: x = -1 and 1 are the image's left and right edges, y = -1 and 1 its top and bottom
    (y stays down), z = -1 and 1 the near and far planes. `w` is the camera-space depth. The renderer draws nothing
    before the near plane, and does not cut at the far one.

    Args:
        K: (..., 3, 3) in pixels; size: (H, W) of the image; near, far: camera-space depths, 0 < near < far, else
            ValueError.
    """
    if not 0 < near < far:
        raise UsageError(f"clip_from_camera: expected 0 < near < far, got {near} and {far}")
    K = K if K.is_floating_point() else K.to(torch.get_default_dtype())
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


def clip_from_affine(affine: Tensor, size: tuple[int, int], near: float, far: float) -> Tensor:
    """Matrix (..., 4, 4) from a model's space to clip space, for a camera given as affine map to pixels.

    As `clip_from_camera`, but with w = 1: all rays are parallel.

    Args:
        affine: (..., 2, 4): pixels (x, y) = affine @ (x, y, z, 1).
        size: (H, W) of the image.
        near, far: z of the model's space; what has the smaller z is in front, and what lies before `near` is not drawn.

    Raises UsageError unless near < far, and for an affine of another shape.
    """
    if not near < far:
        raise UsageError(f"clip_from_affine: expected near < far, got {near} and {far}")
    if affine.shape[-2:] != (2, 4):
        raise UsageError(f"clip_from_affine: expected an affine (..., 2, 4), got {tuple(affine.shape)}")
    affine = affine if affine.is_floating_point() else affine.to(torch.get_default_dtype())
    height, width = size
    rows = torch.zeros(*affine.shape[:-2], 4, 4, dtype=affine.dtype, device=affine.device)
    rows[..., 0, :] = affine[..., 0, :] * (2.0 / width)
    rows[..., 1, :] = affine[..., 1, :] * (2.0 / height)
    rows[..., :2, 3] = rows[..., :2, 3] - 1.0
    rows[..., 2, 2] = 2.0 / (far - near)
    rows[..., 2, 3] = -(far + near) / (far - near)
    rows[..., 3, 3] = 1.0
    return rows


def clip_from_orthographic(
    scale: float | Tensor,
    size: tuple[int, int],
    centre: Sequence[float] | Tensor | None = None,
    near: float = 0.05,
    far: float = 20.0,
) -> Tensor:
    """Matrix (..., 4, 4) from camera space to clip space for parallel rays along z: pixels = scale * (x, y) + centre.

    Args:
        scale: pixels per unit, a number or (...).
        size: (H, W) of the image.
        centre: the pixel (x, y) of the point (0, 0), two numbers or (..., 2); the image's centre if missing.
        near, far: as for `clip_from_affine`.
    """
    height, width = size
    scale = torch.as_tensor(scale)
    scale = scale if scale.is_floating_point() else scale.to(torch.get_default_dtype())
    if not isinstance(centre, Tensor):
        centre = torch.tensor(centre or (width / 2, height / 2), dtype=scale.dtype, device=scale.device)
    linear = scale[..., None, None] * torch.eye(2, 3, dtype=scale.dtype, device=scale.device)
    leading = torch.broadcast_shapes(scale.shape, centre.shape[:-1])
    affine = torch.cat([linear.expand(*leading, 2, 3), centre[..., None].expand(*leading, 2, 1)], -1)
    return clip_from_affine(affine, size, near, far)


def clip(vertices: Tensor, clip_from_vertices: Tensor) -> Tensor:
    """Vertices (..., V, 4) in clip space of (..., V, 3), by a matrix (..., 4, 4) of one of the cameras here.

    Leading sizes broadcast: one mesh seen by many cameras, or many meshes by one. Differentiable in both.
    Raises UsageError for other shapes.
    """
    if vertices.ndim < 2 or vertices.shape[-1] != 3 or clip_from_vertices.shape[-2:] != (4, 4):
        raise UsageError(
            "clip: expected vertices (..., V, 3) and a matrix (..., 4, 4), "
            f"got {tuple(vertices.shape)} and {tuple(clip_from_vertices.shape)}"
        )
    x, y, z = vertices.unbind(-1)
    # Sums written out, not a matrix product: its rounding depends on how many numbers it is given at once.
    rows = [row.unbind(-1) for row in clip_from_vertices[..., None, :, :].unbind(-2)]
    return torch.stack([a * x + b * y + c * z + d for a, b, c, d in rows], -1)
