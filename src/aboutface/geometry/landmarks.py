"""The order of the iBUG 68 landmarks (300-W): which index mirrors which, and how 66 points become 68."""

import numpy as np
import torch
from torch import Tensor

# Mirror image of each point (0-based): landmark i of a mirrored face is landmark MIRROR_68[i] of the face.
MIRROR_68 = np.array(
    [
        *range(16, -1, -1),  # jaw
        *range(26, 16, -1),  # brows
        *[27, 28, 29, 30, 35, 34, 33, 32, 31],  # nose
        *[45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40],  # eyes
        *[54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55],  # lips, outside
        *[64, 63, 62, 61, 60, 67, 66, 65],  # lips, inside
    ]
)

INNER_CORNERS = (60, 64)
"""Inner corners of the mouth, which sets of 66 points (3DFAW) lack."""


def landmarks_66_from_68(points: Tensor) -> Tensor:
    """Points (..., 66, D) without the inner corners of the mouth. Raises ValueError for other than (..., 68, D)."""
    _check_count(points, 68)
    keep = [i for i in range(68) if i not in INNER_CORNERS]
    return points[..., keep, :]


def landmarks_68_from_66(points: Tensor) -> Tensor:
    """Points (..., 68, D): each missing inner corner is put halfway between the outer lips' points next to it.

    As DepthNets' authors do it: corner 60 between 49 and 59, corner 64 between 53 and 55. Raises ValueError for other
    than (..., 66, D).
    """
    _check_count(points, 66)
    left = (points[..., 49, :] + points[..., 59, :]) / 2
    right = (points[..., 53, :] + points[..., 55, :]) / 2
    parts = [points[..., :60, :], left[..., None, :], points[..., 60:63, :], right[..., None, :], points[..., 63:, :]]
    return torch.cat(parts, -2)


def _check_count(points: Tensor, count: int) -> None:
    if points.ndim < 2 or points.shape[-2] != count:
        raise ValueError(f"landmarks: expected (..., {count}, D), got {tuple(points.shape)}")
