"""How far pictures are apart to the eye and in pixels: what projection and its encoder make small."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..nn.perceptual import FilterFeatures, VGG16Features, perceptual_features

LARGEST = 256
"""Pixels to which larger pictures are reduced before they are compared, as published."""
VGG_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
PIXELS = {"filters": 2.0, "vgg16": 0.2}
"""Weight of the pixel term beside each kind of features: filters do not see what is added to all pixels."""


class Likeness(nn.Module):
    """Pictures (B, 3, S, S) and others -> distances (B,). Nothing here is trained.

    Perceptual: of VGG16, whose features are scaled to unit length at every place and compared by squares, as in LPIPS
    (Zhang et al., CVPR 2018) without its learned weights; of the fixed filters by squares alone.
    """

    def __init__(self, features: VGG16Features | FilterFeatures) -> None:
        super().__init__()
        self.features = features

    @classmethod
    def from_file(cls, vgg16: Path | None = None) -> "Likeness":
        """With VGG16 where its file is present, else with the filters."""
        found = perceptual_features("auto", vgg16)
        if isinstance(found, VGG16Features):
            found = VGG16Features.from_file(vgg16, VGG_LAYERS[-1])  # pyright: ignore[reportArgumentType]
        return cls(found)

    @property
    def name(self) -> str:
        return self.features.name

    def described(self, images: Tensor) -> list[Tensor]:
        """What `perceptual` compares; to be kept where one picture is compared many times."""
        images = reduced(images)
        if isinstance(self.features, FilterFeatures):
            return [self.features(images)]
        return [functional.normalize(layer, dim=1) for layer in self.features.layers(images, VGG_LAYERS).values()]

    def perceptual(self, images: Tensor, wanted: list[Tensor]) -> Tensor:
        """(B,): how far images are from what was `described`."""
        found = self.described(images)
        if isinstance(self.features, FilterFeatures):
            return (found[0] - wanted[0]).square().mean((1, 2, 3))
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in zip(found, wanted, strict=True)]).sum(0)

    def forward(self, images: Tensor, others: Tensor, wanted: list[Tensor] | None = None) -> Tensor:
        """(B,): perceptual distance and the weighted mean absolute difference of pixels."""
        pixels = (images - others).abs().mean((1, 2, 3))
        return self.perceptual(images, wanted or self.described(others)) + PIXELS[self.name] * pixels


def reduced(images: Tensor) -> Tensor:
    """At most LARGEST pixels wide, by averaging whole blocks."""
    step = images.shape[-1] // LARGEST
    return images if step < 2 else functional.avg_pool2d(images, step)
