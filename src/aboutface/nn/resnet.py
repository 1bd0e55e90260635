"""ResNet-18 and ResNet-50 as trunks: pictures to features, without the layer that names ImageNet's classes.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016. As torchvision builds them: the same names
of the state, and in ResNet-50 the stride in the 3x3 convolution, not in the first 1x1 one.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from ..errors import UsageError


class Stages(NamedTuple):
    """What a trunk knows of B pictures."""

    early: Tensor
    """(B, `early_features`, h, w): the map after the first stage."""
    pooled: Tensor
    """(B, `features`): one vector per picture."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions beside a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """Pictures (B, 3, H, W) of 32 pixels or more -> features (B, `features`): 512 (ResNet-18) or 2048 (ResNet-50).

    Random at first. It takes the numbers of a picture as they come: whoever trained it says in what range.
    """

    def __init__(
        self, blocks: tuple[int, int, int, int], block: type[BasicBlock] | type[Bottleneck], width: int = 64
    ) -> None:
        """blocks: of each stage; width: channels of the first stage's inner convolutions, 64 as published."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs, stages = width, []
        for stage, count in enumerate(blocks):
            outputs, layers = width << stage, []
            for i in range(count):
                layers.append(block(inputs, outputs, stride=2 if stage and i == 0 else 1))
                inputs = outputs * block.expansion
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.early_features, self.features = width * block.expansion, inputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(images).pooled

    def stages(self, images: Tensor) -> Stages:
        """The same with the map after the first stage, a quarter of the picture's size."""
        early = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        return Stages(early, self.layer4(self.layer3(self.layer2(early))).mean((2, 3)))

    def load_torchvision(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of torchvision's network of the same kind (for instance resnet50-0676ba61), less `fc`.

        Raises UsageError for missing, further or misshapen tensors.
        """
        rest = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
        check_state("a ResNet of torchvision", rest, self.state_dict())
        self.load_state_dict(rest)

    @classmethod
    def tiny(cls) -> "ResNet":
        """Random weights, one block of each stage, 4 channels: for tests."""
        return cls((1, 1, 1, 1), Bottleneck, 4)


def resnet18() -> ResNet:
    """512 features, 11,176,512 parameters."""
    return ResNet((2, 2, 2, 2), BasicBlock)


def resnet50() -> ResNet:
    """2048 features, 23,508,032 parameters."""
    return ResNet((3, 4, 6, 3), Bottleneck)


def check_state(what: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise UsageError unless `state` has exactly the names and shapes of `wanted` and finite numbers."""
    for name, tensor in wanted.items():
        found = state.get(name)
        if not isinstance(found, Tensor) or found.shape != tensor.shape:
            shape = tuple(found.shape) if isinstance(found, Tensor) else "nothing"
            raise UsageError(
                f"{what}: expected {name} {tuple(tensor.shape)}, found {shape}; give a file of this very network"
            )
        if not bool(found.isfinite().all()):
            raise UsageError(f"{what}: {name} has numbers that are not finite; the file is damaged, get it anew")
    further = sorted(state.keys() - wanted.keys())
    if further:
        raise UsageError(f"{what}: does not know {', '.join(further[:4])}; give a file of this very network")
