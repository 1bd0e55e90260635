"""Faces to train Deep3D on: read and cut once, then moved about, recoloured and worsened at every step."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..data import keep_aside, open_examples
from ..data.crop import cut
from ..errors import AboutfaceError, UsageError
from ..geometry import MIRROR_68, apply, orthographic_pose
from ..morphable import POSE_WEIGHTS, MeanHead
from ..reconstruct.deep3d_frame import ICT_FIVE, crop_from_photo, five_from_68
from ..reconstruct.morphable_fit import SWAPPED, are_swapped
from .deep3d_augment import Augmentation, AugmentSettings, random_augmentation

MARGIN = 1.5
"""Side of the pictures that are kept, in sides of the network's crop: room to move the crop about."""


@dataclass(frozen=True, eq=False)
class CroppedFaces:
    """N faces, cut out by their landmarks with a margin."""

    images: Tensor
    """(N, 3, B, B) uint8; the network's crop lies in the middle."""
    points: Tensor
    """(N, 68, 2) pixels of these."""
    names: list[str | None]

    def split(self, share: float) -> dict[str, Tensor]:
        """Indices of train and test; nobody is in both, and who has no name is in train."""
        return keep_aside(self.names, share)


def read_faces(data: Path, size: int, log: Callable[[str], None]) -> CroppedFaces:
    """All faces of a source, for a network of crops of `size`. What cannot be used is left out and named.

    Raises UsageError where nothing is left.
    """
    examples = open_examples(data)
    bad = dict(examples.bad)
    images, points, names = [], [], []
    for index, entry in enumerate(examples.entries):
        try:
            example = examples[index]
            if example.landmarks is None:
                raise UsageError(f"{example.key}: no landmarks; aboutface data prepare finds them")
            _check(example.key, example.landmarks)
            image, moved = crop_face(example.pixels, example.landmarks, size)
        except AboutfaceError as error:
            bad[entry.name] = str(error)
            continue
        images.append(image)
        points.append(moved)
        names.append(example.identity)
    for why in list(bad.values())[:10]:
        log(f"left out: {why}")
    if len(bad) > 10:
        log(f"left out: {len(bad) - 10} more")
    if not images:
        raise UsageError(f"{data}: no face that can be used; give a folder or tar of crops with landmarks")
    return CroppedFaces(torch.from_numpy(np.stack(images)).movedim(-1, 1).contiguous(), torch.stack(points), names)


def _check(key: str, landmarks: np.ndarray) -> None:
    """Raises UsageError where left and right of landmarks (68, 2) are exchanged."""
    mean, trust = MeanHead.load().landmarks.double(), POSE_WEIGHTS.double()
    points = torch.from_numpy(landmarks).double()
    if are_swapped(orthographic_pose(mean, points, trust)[0], mean, points[MIRROR_68], trust):
        raise UsageError(f"{key}: {SWAPPED.format(1, 1)}")


def crop_face(pixels: np.ndarray, landmarks: np.ndarray, size: int) -> tuple[np.ndarray, Tensor]:
    """The crop of `size` with its margin (B, B, 3) uint8, and landmarks (68, 2) there."""
    points = torch.from_numpy(landmarks).double()
    crop = crop_from_photo(five_from_68(points), ICT_FIVE, size)
    border = (kept_side(size) - size) / 2
    crop[:2, 2] += border
    return cut(pixels, torch.linalg.inv(crop).numpy(), kept_side(size)), apply(crop, points).float()


def kept_side(size: int) -> int:
    """Side of the pictures that are kept; an even number of pixels more than the crop."""
    return size + 2 * round(size * (MARGIN - 1) / 2)


def moved_about(images: Tensor, points: Tensor, ranges: AugmentSettings, size: int) -> tuple[Tensor, Tensor]:
    """Crops (B, 3, size, size) in [0, 1], moved at random, and landmarks (B, 68, 2) there, of `CroppedFaces`."""
    seed = int(torch.randint(2**31, ()))
    change = random_augmentation(len(images), ranges, torch.Generator().manual_seed(seed), size)
    border = (images.shape[-1] - size) / 2
    return _moved(images.float() / 255, change, size), change.landmarks(points - border)


def _moved(images: Tensor, change: Augmentation, size: int) -> Tensor:
    """Crops (B, 3, S, S) of pictures with a margin, changed."""
    side = images.shape[-1]
    pixels = torch.tensor([[size / 2, 0, size / 2], [0, size / 2, size / 2], [0, 0, 1.0]], dtype=torch.float64)
    kept = torch.tensor([[2 / side, 0, -size / side], [0, 2 / side, -size / side], [0, 0, 1.0]], dtype=torch.float64)
    unit = (kept @ torch.linalg.inv(change.matrix) @ pixels)[:, :2].to(images)
    grid = functional.affine_grid(unit, [len(images), 3, size, size], align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def middle(images: Tensor, size: int) -> Tensor:
    """The crops (B, C, S, S) in the middle of pictures with a margin."""
    border = (images.shape[-1] - size) // 2
    return images[..., border : border + size, border : border + size]


def recoloured(images: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) in [0, 1] in other light, each at random: brighter or darker, with a tint."""
    gain = (0.4 * _spread(images, 1) + 0.1 * _spread(images, 3)).exp()
    return (images * gain).clamp(0, 1)


def worsened(images: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) in [0, 1] with other contrast, some in grey, some coarse, some with a patch hidden."""
    count, size = len(images), images.shape[-1]

    def some(share: float) -> Tensor:
        return (torch.rand(count, 1, 1, 1) < share).to(images.device)

    grey = images.mean(1, keepdim=True).expand_as(images)
    images = torch.where(some(0.15), grey, images)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * (0.4 * _spread(images, 1)).exp() + mean
    coarse = functional.interpolate(functional.avg_pool2d(images, 4), size=(size, size), mode="bilinear")
    images = torch.where(some(0.1), coarse, images)
    axis = torch.arange(size, device=images.device) / size
    middle_x, middle_y, reach = torch.rand(count, 1), torch.rand(count, 1), 0.05 + 0.15 * torch.rand(count, 1)
    inside_x = ((axis - middle_x.to(axis)).abs() < reach.to(axis))[:, None, None, :]
    inside_y = ((axis - middle_y.to(axis)).abs() < reach.to(axis))[:, None, :, None]
    hidden = inside_x & inside_y & some(0.3)
    return torch.where(hidden, torch.rand(count, 3, 1, 1).to(images), images).clamp(0, 1)


def _spread(images: Tensor, channels: int) -> Tensor:
    """(B, channels, 1, 1) between -1 and 1, at random."""
    return (2 * torch.rand(len(images), channels, 1, 1) - 1).to(images)
