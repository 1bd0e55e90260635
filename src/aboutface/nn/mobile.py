"""A small trunk of our own for faces: a few milliseconds on a CPU.

Inverted residuals (Sandler et al., MobileNetV2, CVPR 2018) with a last depthwise convolution over the whole map in
place of the mean over it (Chen et al., MobileFaceNets, 2018): a mean forgets where in the crop an eye is.
"""

import copy
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import UsageError
from .resnet import Stages

Network = TypeVar("Network", bound=nn.Module)

STRIDE = 16
"""How much smaller than the picture the last map is."""


@dataclass(frozen=True)
class MobileSettings:
    """Sizes of the network."""

    size: int = 112
    """Side of the pictures, pixels: a multiple of 16."""
    stem: int = 32
    """Channels of the first convolution."""
    widths: tuple[int, int, int] = (48, 112, 224)
    """Channels of the stages at a quarter, an eighth and a sixteenth of the picture's size."""
    blocks: tuple[int, int, int] = (2, 4, 4)
    """Blocks of each stage."""
    expansion: tuple[int, int, int] = (3, 4, 4)
    """How many times wider a block of the stage is inside."""
    features: int = 768
    """Numbers that describe a picture."""

    def __post_init__(self) -> None:
        if self.size < STRIDE or self.size % STRIDE:
            raise UsageError(f"size: expected a multiple of {STRIDE} pixels, got {self.size}")


class InvertedResidual(nn.Module):
    """1x1 convolution to a wider map, 3x3 depthwise, 1x1 back without an activation, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            *_convolution(inputs, inner, 1),
            nn.ReLU(inplace=True),
            *_convolution(inner, inner, 3, stride, groups=inner),
            nn.ReLU(inplace=True),
            *_convolution(inner, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.shortcut else y


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class MobileNet(nn.Module):
    """Pictures (B, 3, size, size) in [0, 1] -> features (B, `features`). Random at first.

    By default 1,988,784 parameters and 186 million multiplications. Raises UsageError for pictures of another size.
    """

    def __init__(self, settings: MobileSettings | None = None) -> None:
        super().__init__()
        self.settings = s = settings or MobileSettings()
        self.stem = nn.Sequential(
            *_convolution(3, s.stem, 3, 2),
            nn.ReLU(inplace=True),
            *_convolution(s.stem, s.stem, 3, groups=s.stem),
            nn.ReLU(inplace=True),
        )
        inputs, stages = s.stem, []
        for width, count, expansion in zip(s.widths, s.blocks, s.expansion, strict=True):
            first = InvertedResidual(inputs, width, 2, expansion)
            rest = (InvertedResidual(width, width, 1, expansion) for _ in range(count - 1))
            stages.append(nn.Sequential(first, *rest))
            inputs = width
        self.first, self.rest = stages[0], nn.Sequential(*stages[1:])
        self.widen = nn.Sequential(*_convolution(inputs, s.features, 1), nn.ReLU(inplace=True))
        side = s.size // STRIDE
        self.gather = nn.Sequential(
            nn.Conv2d(s.features, s.features, side, groups=s.features, bias=False), nn.BatchNorm2d(s.features)
        )
        self.early_features, self.features = s.widths[0], s.features
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(images).pooled

    def stages(self, images: Tensor) -> Stages:
        """The same with the map after the first stage, a quarter of the picture's size."""
        size = self.settings.size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise UsageError(f"this network takes pictures (B, 3, {size}, {size}), got {tuple(images.shape)}")
        # Mid-grey is 0.
        early = self.first(self.stem(2 * images - 1))
        return Stages(early, self.gather(self.widen(self.rest(early))).flatten(1))

    @classmethod
    def tiny(cls) -> "MobileNet":
        """Random weights, pictures of 32 pixels, 12 features: for tests."""
        return cls(MobileSettings(32, 4, (4, 6, 8), (1, 2, 1), (2, 2, 2), 12))


def fused(network: Network) -> Network:
    """A copy in evaluation mode with each batch norm folded into the convolution before it: the same numbers, faster.

    Only pairs that follow each other in an nn.Sequential are folded. Put the copy and its pictures into channels_last
    (`to(memory_format=torch.channels_last)`) for the full speed on a CPU. It cannot be trained any more.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            _fold(module)
    return network


def _fold(layers: nn.Sequential) -> None:
    for i in range(len(layers) - 1):
        convolution, norm = layers[i], layers[i + 1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers[i], layers[i + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
