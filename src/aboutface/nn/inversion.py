"""A picture to the latent of a generator that would make it: one look instead of a search."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError
from .stylegan2 import SMALLEST, Conv, Dense, Residual, StyleGAN2Settings

LARGEST = 64
"""Pixels to which larger pictures are reduced: a single w holds no finer detail."""


@dataclass(frozen=True)
class LatentEncoderSettings:
    """Sizes."""

    size: int = 64
    """Side of the generator's pictures, pixels: a power of 2."""
    latent: int = 512
    """Numbers in w."""
    width: int = 16
    """Channels at first; they double with every halving of the size."""
    most: int = 192
    """Channels at most."""

    def __post_init__(self) -> None:
        if self.size < 8 or self.size & (self.size - 1):
            raise UsageError(f"encoder: size: expected 8, 16, 32 ... pixels, got {self.size}")
        for name in ("latent", "width", "most"):
            if getattr(self, name) < 1:
                raise UsageError(f"encoder: {name}: expected 1 or more, got {getattr(self, name)}")


class LatentEncoder(nn.Module):
    """Pictures (B, 3, S, S) in [0, 1] -> w (B, D): the generator's mean, and a step from it in its deviations.

    The trunk is that of StyleGAN2's critic, without what looks at other pictures.
    """

    centre: Tensor
    """(D,): the mean w."""
    deviation: Tensor
    """(D,): the standard deviation of each of its numbers."""

    def __init__(self, settings: LatentEncoderSettings | None = None) -> None:
        super().__init__()
        self.settings = s = settings or LatentEncoderSettings()
        sizes = StyleGAN2Settings(min(s.size, LARGEST), s.latent, 1, s.width * min(s.size, LARGEST), s.most)
        channels = [sizes.channels(resolution) for resolution in reversed(sizes.resolutions)]
        blocks = [Residual(before, after, None) for before, after in pairwise(channels)]
        last = channels[-1]
        self.layers = nn.Sequential(
            Conv(3, channels[0], 1),
            *blocks,
            Conv(last, last, 3),
            nn.Flatten(),
            Dense(last * SMALLEST**2, last, active=True),
        )
        self.out = Dense(last, s.latent)
        self.register_buffer("centre", torch.zeros(s.latent))
        self.register_buffer("deviation", torch.ones(s.latent))

    def forward(self, images: Tensor) -> Tensor:
        """Raises UsageError for images of another form or size."""
        size = self.settings.size
        if images.shape[1:] != (3, size, size):
            raise UsageError(f"encoder: expected images (B, 3, {size}, {size}), got {tuple(images.shape)}")
        if size > LARGEST:
            images = functional.avg_pool2d(images, size // LARGEST)
        return self.centre + self.deviation * self.out(self.layers(2 * images - 1))

    @classmethod
    def tiny(cls, size: int = 16, latent: int = 16, **changes: Any) -> "LatentEncoder":
        return cls(LatentEncoderSettings(size, latent, **({"width": 8, "most": 16} | changes)))
