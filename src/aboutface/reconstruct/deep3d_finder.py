"""Where a face's 68 landmarks are, by the small network: crop after crop, each cut by the landmarks before."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.crop import cut
from ..geometry import MIRROR_68, apply
from ..images import to_tensor
from ..morphable import MeanHead
from .deep3d_frame import ICT_FIVE, crop_from_photo, five_from_68
from .deep3d_landmarks import FaceRegressor


class Found(NamedTuple):
    """The landmarks of one face."""

    points: Tensor
    """(68, 2) float64, pixels of the photo."""
    apart: float
    """How far those of the last crop and of its mirror image are apart, on average, pixels: how sure this is."""


@torch.no_grad()
def find_landmarks(net: FaceRegressor, pixels: np.ndarray, start: Tensor, passes: int = 2) -> Found:
    """Landmarks of a face in a photo (H, W, 3) uint8, the last time the mean with those of the mirror image.

    Args:
        net: in evaluation mode; `nn.mobile.fused` and channels_last make it faster.
        start: (68, 2) pixels: about where they are and how the face is rolled, for the first crop; see `in_box`.
        passes: crops, from 1 on.
    """
    points, apart = start.double(), 0.0
    for number in range(passes):
        points, apart = _seen(net, pixels, points, both=number == passes - 1)
    return Found(points, apart)


def _seen(net: FaceRegressor, pixels: np.ndarray, points: Tensor, both: bool) -> tuple[Tensor, float]:
    """Landmarks (68, 2) in the upright crop about `points`, photo pixels."""
    size = net.settings.trunk.size
    turn = _upright(points)
    crop_from_pixels = crop_from_photo(five_from_68(apply(turn, points)), ICT_FIVE, size) @ turn
    crop = to_tensor(cut(pixels, torch.linalg.inv(crop_from_pixels).numpy(), size))
    crops = torch.cat([crop, crop.flip(-1)]) if both else crop
    found = net(crops.contiguous(memory_format=torch.channels_last)).landmarks.double()
    own, apart = found[0], 0.0
    if both:
        mirrored = (found[1] * found.new_tensor([-1.0, 1.0]) + found.new_tensor([size, 0.0]))[MIRROR_68]
        own, apart = (own + mirrored) / 2, float((own - mirrored).norm(dim=1).mean())
    scale = float(torch.linalg.det(crop_from_pixels[:2, :2]).sqrt())
    return apply(torch.linalg.inv(crop_from_pixels), own), apart / scale


def _upright(points: Tensor) -> Tensor:
    """Rotation (3, 3) that brings the eyes of landmarks (68, 2) to one height."""
    across = points[42:48].mean(0) - points[36:42].mean(0)
    cosine, sine = (across / across.norm().clamp_min(1e-9)).tolist()
    return torch.tensor([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def in_box(box: tuple[float, float, float, float]) -> Tensor:
    """The mean face's landmarks (68, 2), seen from the front, filling a box (left, top, right, bottom)."""
    flat = MeanHead.load().landmarks[:, :2]
    low, high = flat.amin(0), flat.amax(0)
    corner, end = torch.tensor(box[:2]), torch.tensor(box[2:])
    return (flat - low) / (high - low) * (end - corner) + corner
