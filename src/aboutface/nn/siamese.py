"""The image half of DepthNet's case A: what two grey pictures of faces add to their keypoints.

Moniz, Beckham, Rajotte, Honari, Pal: Unsupervised Depth Estimation, 3D Face Rotation and Replacement, NeurIPS 2018,
section 3 of the main text and of the supplement.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

KERNELS = (4, 3, 2)
"""Sides of the three convolutions, each followed by a pooling over 2 x 2."""


class SiameseEncoder(nn.Module):
    """Grey face crops (B, 1, size, size) in [0, 1] -> features (B, `features`), 4096 at the published size.

    Once per face: source and target share the weights, and a face's features serve all its pairs.
    """

    def __init__(self, size: int = 80, filters: tuple[int, int, int] = (32, 48, 64)) -> None:
        """size: pixels, 19 or more: below that, pooling leaves nothing."""
        super().__init__()
        layers: list[nn.Module] = []
        side = size
        for (before, after), kernel in zip(pairwise((1, *filters)), KERNELS, strict=True):
            layers += [nn.Conv2d(before, after, kernel), nn.ReLU(), nn.MaxPool2d(2)]
            side = (side - kernel + 1) // 2
        if side < 1:
            raise ValueError(f"size: expected 19 pixels or more, got {size}")
        self.size, self.features = size, filters[-1] * side**2
        self.layers = nn.Sequential(*layers, nn.Flatten()).apply(glorot_)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != (1, self.size, self.size):
            raise ValueError(f"images: expected (B, 1, {self.size}, {self.size}), got {tuple(images.shape)}")
        # -1 to 1: mid-grey is 0. The paper does not say what it did.
        return self.layers(2 * images - 1)

    @classmethod
    def tiny(cls) -> "SiameseEncoder":
        """Random weights, crops of 20 pixels, 4 features: for tests."""
        return cls(20, (2, 3, 4))


class ImagePair(nn.Module):
    """Features of source and target (B, features) each -> what they say together (B, `units[-1]`), 512 as published."""

    def __init__(self, features: int = 4096, units: tuple[int, ...] = (2048, 512)) -> None:
        super().__init__()
        sizes = pairwise((2 * features, *units))
        layers = (layer for before, after in sizes for layer in (nn.Linear(before, after), nn.ReLU()))
        self.layers = nn.Sequential(*layers).apply(glorot_)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.layers(torch.cat([source, target], -1))

    @classmethod
    def tiny(cls) -> "ImagePair":
        """Random weights, for the features of `SiameseEncoder.tiny()`; 6 units: for tests."""
        return cls(4, (8, 6))


def glorot_(layer: nn.Module) -> None:
    """Make the weights of a linear or convolutional layer Glorot-uniform with the gain of a ReLU, its biases 0."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight, nn.init.calculate_gain("relu"))
        nn.init.zeros_(layer.get_parameter("bias"))
