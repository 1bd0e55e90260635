"""Many photos through the small network, some at a time; memory does not grow with their number."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.crop import cut
from ..errors import UsageError
from ..images import to_tensor
from .deep3d_frame import ICT_FIVE, crop_from_photo, five_from_68, to_photo
from .deep3d_landmarks import FaceRegressor, Regressed


class FaceIn(NamedTuple):
    """A face, and where it is."""

    pixels: np.ndarray
    """(H, W, 3) uint8 RGB."""
    landmarks: Tensor
    """(68, 2) pixels; five of them say where to cut."""


class Looked(NamedTuple):
    """What the network says of up to `batch` faces."""

    found: Regressed
    """Pixels are those of the crops."""
    crop_from_photo: Tensor
    """(B, 3, 3) float64."""
    landmarks: Tensor
    """(B, 68, 2) pixels of each photo."""


def cropped(faces: Sequence[FaceIn], size: int) -> tuple[Tensor, Tensor]:
    """The crops (B, 3, size, size) in [0, 1] of B faces as the network wants them, and crop_from_photo (B, 3, 3)."""
    five = five_from_68(torch.stack([face.landmarks.double() for face in faces]))
    matrices = crop_from_photo(five, ICT_FIVE, size)
    inverse = torch.linalg.inv(matrices).numpy()
    crops = [to_tensor(cut(face.pixels, matrix, size)) for face, matrix in zip(faces, inverse, strict=True)]
    return torch.cat(crops), matrices


@torch.inference_mode()
def look(net: FaceRegressor, faces: Iterable[FaceIn], batch: int = 8) -> Iterator[Looked]:
    """The network's answers in the order of `faces`, which are drawn one batch at a time.

    net: in evaluation mode; `nn.mobile.fused` and channels_last make it faster. Raises UsageError for a batch below 1.
    """
    if batch < 1:
        raise UsageError(f"batch: expected 1 or more, got {batch}")
    size, rest = net.settings.trunk.size, iter(faces)
    while some := list(islice(rest, batch)):
        crops, matrices = cropped(some, size)
        found = net(crops.contiguous(memory_format=torch.channels_last))
        yield Looked(found, matrices, to_photo(found.landmarks.double(), matrices))
