"""A picture as a row of numbers, by the network that is at hand."""

import logging

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..nn.inception import InceptionFeatures
from ..nn.mobile import fused
from ..reconstruct.deep3d_landmarks import FaceRegressor
from ..weights import info, path

BATCH = 50
"""Pictures at once."""

_log = logging.getLogger(__name__)


class FaceFeatures(nn.Module):
    """Images (B, 3, H, W) in [0, 1], of any size -> features (B, 768): what the shipped network of deep3d pools.

    It was trained on faces: of sets of other things it tells less. Not for comparison with published figures.
    """

    name = "deep3d"

    def __init__(self, net: FaceRegressor) -> None:
        super().__init__()
        self.size = net.settings.trunk.size
        self.trunk = fused(net.rnet.backbone).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, images: Tensor) -> Tensor:
        size = (self.size, self.size)
        resized = functional.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return self.trunk(resized.contiguous(memory_format=torch.channels_last))


def picture_features() -> InceptionFeatures | FaceFeatures:
    """Inception where the user has its weights, else the shipped network; `.name` and the log say which.

    The distances of sets (`metrics.generated`) are FID and KID as published with the first alone.
    """
    file = info("inception").path
    if file is not None and file.is_file():
        _log.info("picture features: inception of %s", file)
        return InceptionFeatures.from_file(file)
    _log.info("picture features: deep3d's, since there are no inception weights")
    return FaceFeatures(FaceRegressor.from_file(path("deep3d")))


@torch.no_grad()
def described(network: nn.Module, images: Tensor) -> Tensor:
    """Features (N, D) of pictures (N, 3, S, S): uint8, or in [0, 1]; on the CPU."""
    device = next(network.parameters()).device
    return torch.cat([network(_ratio(part.to(device))).float().cpu() for part in images.split(BATCH)])


def _ratio(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float() / 255
