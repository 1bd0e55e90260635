"""From a canonical depth map into a photo's view: the warp that Unsup3d and GAN2Shape train through.

Only depth is drawn. Where each pixel of the view lies on the canonical map follows from the depth drawn there, so that
the gradient to the shape is that of the exact depth, and colours are looked up smoothly.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ..geometry import clip, clip_from_camera, depth_to_points, grid_faces
from .rasterize import rasterize

CENTRE = 1.0
"""z of the point about which canonical surfaces turn."""
NEAR, FAR = 0.5, 2.0
"""Planes of the drawing: close to the surface, so that depth keeps its digits."""
NOTHING = 100.0
"""Depth drawn where there is no surface, as the published renderer has it: mixed into an edge pixel, it voids it."""


class Reprojection(NamedTuple):
    """A canonical surface seen in the view of a photo."""

    image: Tensor
    """(B, C, H, W), not clipped; 0.5 (mid-grey) where the surface ends, and to be ignored where it is not valid."""
    depth: Tensor
    """(B, H, W), clamped to `limits`."""
    valid: Tensor
    """(B, H, W) bool: where the surface is."""


def reproject(
    texture: Tensor,
    depth: Tensor,
    rotation: Tensor,
    shift: Tensor,
    K: Tensor,
    *,
    limits: tuple[float, float] = (0.8, 1.2),
    supersample: int = 1,
    backend: str = "auto",
) -> Reprojection:
    """Turn canonical surfaces about (0, 0, 1), move them, and look.

    Args:
        texture: (B, C, H, W), canonical colours in [0, 1]; depth: (B, H, W), canonical z.
        rotation: (B, 3, 3), canonical to view; shift: (B, 3), added after it.
        K: (3, 3) of both cameras.
        limits: depths nearer or farther than these are cut off; what reaches the far one is not valid.
        supersample: depth is drawn at so many times the size, and averaged (2 as published).

    Differentiable in texture, depth, rotation and shift (not through the outline). Raises UsageError for other shapes.
    """
    batch, size = len(depth), (int(depth.shape[-2]), int(depth.shape[-1]))
    shapes = {"texture": texture[:, 0].shape, "rotation": rotation.shape, "shift": shift.shape, "K": K.shape}
    wanted = {"texture": depth.shape, "rotation": (batch, 3, 3), "shift": (batch, 3), "K": (3, 3)}
    for name, shape in shapes.items():
        if tuple(shape) != tuple(wanted[name]):
            raise UsageError(f"reproject: {name} of shape {tuple(shape)} does not fit depth {tuple(depth.shape)}")
    centre = depth.new_tensor([[0.0], [0.0], [CENTRE]])
    points = depth_to_points(depth, K).flatten(2)
    moved = rotation @ (points - centre) + (centre + shift[..., None])
    drawn = draw_depth(moved.mT, grid_faces(*size, depth.device), K, size, supersample, backend)
    seen = drawn.clamp(*limits)
    valid = drawn < limits[1]
    back = rotation.mT @ (depth_to_points(seen, K).flatten(2) - (centre + shift[..., None])) + centre
    x, y = (back[:, i] / back[:, 2] * K[i, i] + K[i, 2] for i in range(2))
    grid = torch.stack([x * (2 / size[1]) - 1, y * (2 / size[0]) - 1], -1).view(batch, *size, 2)
    image = functional.grid_sample(texture - 0.5, grid, mode="bilinear", align_corners=False) + 0.5
    return Reprojection(image, seen, valid)


def draw_depth(
    vertices: Tensor, faces: Tensor, K: Tensor, size: tuple[int, int], supersample: int = 1, backend: str = "auto"
) -> Tensor:
    """z-depth (B, H, W) of meshes (B, V, 3) in camera space, `NOTHING` where there is none; differentiable."""
    fine = (size[0] * supersample, size[1] * supersample)
    K = K * K.new_tensor([[supersample], [supersample], [1.0]])
    fragments = rasterize(clip(vertices, clip_from_camera(K, fine, NEAR, FAR)), faces, fine, backend=backend)
    # Clip-space depth is a + b / z.
    a, b = (FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)
    depth = b / (fragments.depth - a)
    depth = torch.where(fragments.triangle_id >= 0, depth, NOTHING)
    return functional.avg_pool2d(depth, supersample) if supersample > 1 else depth
