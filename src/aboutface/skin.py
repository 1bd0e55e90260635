"""Where a photo shows skin: a mixture of Gaussians over colour.

The parameters are those published with Deep3D (Deng et al., CVPR workshops 2019; MIT licence, in both code bases). The
published loop takes exponentials of each pixel in Python; here it is one expression on tensors.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import UsageError

PRIOR = 0.8
"""Of skin, before the colour is known."""


class _Gaussian(NamedTuple):
    weight: float
    mean: tuple[float, float, float]
    """Y, Cb, Cr."""
    determinant: float
    """Of the covariance."""
    inverse: tuple[float, float, float, float, float, float]
    """Of the covariance: yy, bb, rr, yb, yr, br."""


_SKIN = (
    _Gaussian(
        0.24063933,
        (113.71862, 103.39613, 164.08226),
        5692842.5,
        (0.0019472069, 0.017700525, 0.0081308950, 0.0020450759, -0.00060243998, 0.0051420014),
    ),
    _Gaussian(
        0.16365987,
        (150.19858, 105.18467, 155.51428),
        5851930.5,
        (0.0027110141, 0.010707724, 0.017481629, 0.0011036990, 0.0023122299, 0.010742856),
    ),
    _Gaussian(
        0.26034665,
        (183.92976, 107.62468, 152.71820),
        2329131.0,
        (0.0048026871, 0.011729696, 0.025374353, 0.00022935172, 0.0077668377, 0.0081661865),
    ),
    _Gaussian(
        0.33535415,
        (114.90524, 113.59782, 151.38217),
        1585971.0,
        (0.0011989699, 0.047758564, 0.024502251, 0.0022453172, -0.0010748957, 0.020332102),
    ),
)
_OTHER = (
    _Gaussian(
        0.12791070,
        (99.200851, 112.07533, 140.20602),
        458703648.0,
        (0.00085371657, 0.0025935620, 0.0015042332, 0.00071197288, 0.00023958916, 0.00076557708),
    ),
    _Gaussian(
        0.31130761,
        (110.91392, 125.52969, 130.19237),
        6466488.0,
        (0.00024650150, 0.026412144, 0.037497383, 0.00045542428, 0.00015019422, 0.018419769),
    ),
    _Gaussian(
        0.34245777,
        (129.75864, 129.96107, 126.96808),
        90611376.0,
        (0.00037054974, 0.0085505722, 0.010982352, 0.00038146760, 0.00040408765, 0.0079136286),
    ),
    _Gaussian(
        0.21832393,
        (112.29587, 128.85121, 129.05431),
        133097.63,
        (0.00013709733, 0.28237113, 0.23468947, 0.00051228428, 0.00012777430, 0.10528370),
    ),
)


def skin_attention(images: Tensor, threshold: float | None = None) -> Tensor:
    """Probability of skin (..., 1, H, W), 0 to 1, of images (..., 3, H, W), RGB in [0, 1]; a pixel at a time.

    threshold: 1 where the probability is larger, as the paper has it with 0.5; the released codes have none.
    Raises UsageError for images of another shape.
    """
    if images.ndim < 3 or images.shape[-3] != 3:
        raise UsageError(f"skin_attention: expected images (..., 3, H, W), got {tuple(images.shape)}")
    colours = _ycbcr(images)
    # Of colours far from both mixtures the densities are 0 to the computer; their logarithms are not.
    odds = _log_density(colours, _SKIN) - _log_density(colours, _OTHER) + math.log(PRIOR / (1 - PRIOR))
    skin = torch.sigmoid(odds)[..., None, :, :]
    return skin if threshold is None else torch.where(skin > threshold, torch.ones_like(skin), skin)


def _ycbcr(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Y, Cb, Cr (..., H, W) for images, in their 8-bit ranges (ITU-R BT.601)."""
    r, g, b = images.unbind(-3)
    return (
        16 + 65.481 * r + 128.553 * g + 24.966 * b,
        128 - 37.797 * r - 74.203 * g + 112 * b,
        128 + 112 * r - 93.786 * g - 18.214 * b,
    )


def _log_density(colours: tuple[Tensor, Tensor, Tensor], mixture: tuple[_Gaussian, ...]) -> Tensor:
    parts = []
    for weight, means, determinant, (yy, bb, rr, yb, yr, br) in mixture:
        y, b, r = (colour - mean for colour, mean in zip(colours, means, strict=True))
        square = yy * y * y + bb * b * b + rr * r * r + 2 * (yb * y * b + yr * y * r + br * b * r)
        parts.append(math.log(weight) - 1.5 * math.log(2 * math.pi) - 0.5 * math.log(determinant) - 0.5 * square)
    return torch.logsumexp(torch.stack(parts), 0)
