"""Homogeneous transforms, named by both ends: `photo_from_crop` takes crop pixels to photo pixels.

Composition then reads as cancellation: photo_from_crop @ crop_from_square = photo_from_square.
"""

import torch
from torch import Tensor


def apply(b_from_a: Tensor, points: Tensor) -> Tensor:
    """Points (..., N, D) moved by a transform (..., D+1, D+1) (maybe projective) or affine (..., D', D+1), D' <= D.

    Raises ValueError where the numbers of columns and coordinates do not fit.
    """
    rows, columns = b_from_a.shape[-2:]
    if rows > columns:
        raise ValueError(f"apply: a transform has at most as many rows as columns, got {rows}x{columns}")
    if points.shape[-1] + 1 != columns:
        raise ValueError(
            f"apply: a {rows}x{columns} transform takes points of {columns - 1} numbers, got {points.shape[-1]}"
        )
    moved = points @ b_from_a[..., :, :-1].mT + b_from_a[..., None, :, -1]
    if rows < columns:
        return moved
    return moved[..., :-1] / moved[..., -1:]


def compose(*transforms: Tensor) -> Tensor:
    """Product of square transforms, left to right: compose(c_from_b, b_from_a) = c_from_a."""
    result = transforms[0]
    for transform in transforms[1:]:
        result = result @ transform
    return result


def invert(b_from_a: Tensor) -> Tensor:
    """a_from_b for a square transform (..., D+1, D+1)."""
    return torch.linalg.inv(b_from_a)


def translation(*offset: float) -> Tensor:
    """Transform (D+1, D+1) that adds `offset`."""
    matrix = torch.eye(len(offset) + 1)
    matrix[:-1, -1] = torch.tensor(offset)
    return matrix


def scaling(*factor: float) -> Tensor:
    """Transform (D+1, D+1) that multiplies each axis by its factor."""
    return torch.diag(torch.tensor([*factor, 1.0]))
