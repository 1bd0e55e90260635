"""Crops for training Deep3D, shifted, resized, turned and mirrored, with their landmarks.

The changes are those of the released PyTorch code (Deng et al., CVPR workshops 2019). It mirrors landmarks about
another axis than the picture's, a pixel off; here both are mirrored about the middle of the crop.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ..geometry import MIRROR_68, apply


@dataclass(frozen=True)
class AugmentSettings:
    """How far crops are changed at random; the defaults are the published ones."""

    shift: int = 10
    """Largest shift along each axis, whole pixels of a crop of 224."""
    scale: float = 0.1
    """Largest change of size, a share."""
    rotation: float = 10.0
    """Largest turn, degrees."""
    flip: float = 0.5
    """Share of the crops that are mirrored."""


@dataclass(frozen=True, eq=False)
class Augmentation:
    """Changes of B crops."""

    matrix: Tensor
    """(B, 3, 3) changed_from_crop, in pixels; with the mirroring."""
    flipped: Tensor
    """(B,) bool."""

    def images(self, crops: Tensor) -> Tensor:
        """Crops (B, C, S, S) in [0, 1], changed: bicubic, clipped, black where nothing is known."""
        size = crops.shape[-1]
        if crops.ndim != 4 or crops.shape[-2] != size or len(crops) != len(self.matrix):
            raise UsageError(f"augment: expected {len(self.matrix)} squares (B, C, S, S), got {tuple(crops.shape)}")
        # grid_sample counts from -1 to 1 between the outer edges.
        pixels = torch.tensor([[size / 2, 0, size / 2], [0, size / 2, size / 2], [0, 0, 1.0]]).to(self.matrix)
        unit = torch.linalg.inv(pixels) @ torch.linalg.inv(self.matrix) @ pixels
        grid = functional.affine_grid(unit[:, :2].to(crops), list(crops.shape), align_corners=False)
        return functional.grid_sample(crops, grid, mode="bicubic", align_corners=False).clamp(0, 1)

    def landmarks(self, points: Tensor) -> Tensor:
        """Landmarks (B, 68, 2), pixels of the crop, changed: those of a mirrored face are numbered anew."""
        moved = apply(self.matrix.to(points), points)
        return torch.where(self.flipped[:, None, None], moved[:, MIRROR_68], moved)


def augmentation(shift: Tensor, scale: Tensor, rotation: Tensor, flipped: Tensor, size: int = 224) -> Augmentation:
    """Mirror, then shift (B, 2), pixels, then turn by `rotation` (B,), degrees clockwise, then scale (B,).

    All about the middle of the crop of `size` pixels; flipped (B,) bool.
    """
    angle = torch.deg2rad(rotation.double())
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    turn = torch.stack([cosine, -sine, sine, cosine], -1).unflatten(-1, (2, 2))
    mirror = torch.where(flipped, -1.0, 1.0).double()
    linear = turn * torch.stack([mirror, torch.ones_like(mirror)], -1)[:, None]
    middle = torch.full((2,), size / 2, dtype=torch.float64)
    offset = (turn @ shift.double()[..., None])[..., 0] + middle - linear @ middle
    matrix = torch.eye(3, dtype=torch.float64).repeat(len(linear), 1, 1)
    matrix[:, :2, :2], matrix[:, :2, 2] = linear, offset
    return Augmentation(matrix, flipped)


def random_augmentation(
    batch: int, settings: AugmentSettings, generator: torch.Generator, size: int = 224
) -> Augmentation:
    """Changes of `batch` crops, drawn from `generator`: the same ones for the same state of it."""

    def spread(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1

    steps = torch.randint(-settings.shift, settings.shift + 1, (batch, 2), generator=generator)
    scale, rotation = 1 + settings.scale * spread(batch), settings.rotation * spread(batch)
    flipped = torch.rand(batch, generator=generator) < settings.flip
    return augmentation(steps * (size / 224), scale, rotation, flipped, size)
