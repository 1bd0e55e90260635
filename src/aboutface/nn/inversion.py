"""A picture to the latent of a generator that would make it: one look instead of a search."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError

SMALLEST = 4
"""Pixels of the last map."""
LARGEST = 64
"""Pixels to which larger pictures are reduced: a single w holds no finer detail."""


@dataclass(frozen=True)
class LatentEncoderSettings:
    """Sizes."""

    size: int = 64
    """Side of the generator's pictures, pixels: a power of 2."""
    latent: int = 512
    """Numbers in w."""
    width: int = 32
    """Channels at first; they double with every halving of the size."""
    most: int = 256
    """Channels at most."""

    def __post_init__(self) -> None:
        if self.size < 8 or self.size & (self.size - 1):
            raise UsageError(f"encoder: size: expected 8, 16, 32 ... pixels, got {self.size}")
        for name in ("latent", "width", "most"):
            if getattr(self, name) < 1:
                raise UsageError(f"encoder: {name}: expected 1 or more, got {getattr(self, name)}")


class LatentEncoder(nn.Module):
    """Pictures (B, 3, S, S) in [0, 1] -> w (B, D): the generator's mean, and a step from it in its deviations."""

    centre: Tensor
    """(D,): the mean w."""
    deviation: Tensor
    """(D,): the standard deviation of each of its numbers."""

    def __init__(self, settings: LatentEncoderSettings | None = None) -> None:
        super().__init__()
        self.settings = s = settings or LatentEncoderSettings()
        size, channels = min(s.size, LARGEST), min(s.width, s.most)
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), nn.LeakyReLU(0.2)]
        while size > SMALLEST:
            after = min(2 * channels, s.most)
            layers += [_block(channels, channels, 1), _block(channels, after, 2)]
            size, channels = size // 2, after
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(channels * SMALLEST**2, s.latent)
        self.register_buffer("centre", torch.zeros(s.latent))
        self.register_buffer("deviation", torch.ones(s.latent))

    def forward(self, images: Tensor) -> Tensor:
        """Raises UsageError for images of another form or size."""
        size = self.settings.size
        if images.shape[1:] != (3, size, size):
            raise UsageError(f"encoder: expected images (B, 3, {size}, {size}), got {tuple(images.shape)}")
        if size > LARGEST:
            images = functional.avg_pool2d(images, size // LARGEST)
        return self.centre + self.deviation * self.out(self.layers(2 * images - 1).flatten(1))

    @classmethod
    def tiny(cls, size: int = 16, latent: int = 16, **changes: Any) -> "LatentEncoder":
        return cls(LatentEncoderSettings(size, latent, **({"width": 8, "most": 16} | changes)))


def _block(inputs: int, outputs: int, stride: int) -> nn.Module:
    groups = next(groups for groups in (8, 4, 2, 1) if outputs % groups == 0)
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
    return nn.Sequential(conv, nn.GroupNorm(groups, outputs), nn.LeakyReLU(0.2))
