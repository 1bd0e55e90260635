"""ArcFace's IResNet-50: a face of 112 pixels to 512 numbers that say whose it is.

Deng, Guo, Xue, Zafeiriou: ArcFace, CVPR 2019 (section 3.1), as insightface publishes it: the same names of the state.
The weights are the user's file (for instance ms1mv3_arcface_r50_fp16/backbone.pth). It is never trained here.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError
from .resnet import check_state
from .states import read_state

FACE_SIZE = 112
"""Side of the pictures, pixels."""
FIVE = torch.tensor(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""(5, 2): where eye left and right in the image, tip of the nose and corners of the mouth lie in these pictures, as
published: pixels counted from 0 at their centres. In our positions they lie half a pixel further."""
WIDTHS = (64, 128, 256, 512)


class IBasicBlock(nn.Module):
    """Norm, 3x3 convolution, norm, rectifier with a slope of its own, 3x3 convolution and norm, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(y)) + self.downsample(x)


class IResNet(nn.Module):
    """Pictures (B, 3, 112, 112), RGB in [0, 1], cut so that five points lie at FIVE -> (B, 512) of length 1.

    Random at first: see `from_file`. Always in evaluation mode, and no parameter wants a gradient.
    """

    def __init__(self, blocks: tuple[int, int, int, int] = (3, 4, 14, 3), shrink: int = 1) -> None:
        """blocks: of each stage; those of IResNet-50, with 43,590,848 parameters. shrink: divides widths, for tests."""
        super().__init__()
        widths = [width // shrink for width in WIDTHS]
        inputs = widths[0]
        self.conv1 = nn.Conv2d(3, inputs, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.prelu = nn.PReLU(inputs)
        stages = []
        for width, count in zip(widths, blocks, strict=True):
            first = IBasicBlock(inputs, width, 2)
            stages.append(nn.Sequential(first, *(IBasicBlock(width, width, 1) for _ in range(count - 1))))
            inputs = width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn2 = nn.BatchNorm2d(inputs)
        self.dropout = nn.Dropout(0.0)
        self.fc = nn.Linear(inputs * (FACE_SIZE // 16) ** 2, 512 // shrink)
        self.features = nn.BatchNorm1d(512 // shrink)
        self.requires_grad_(False).eval()

    @classmethod
    def from_file(cls, file: Path) -> "IResNet":
        """IResNet-50 with the user's weights (.pth). Nothing in the file is executed.

        Raises UsageError where it cannot be read as tensors, or is not of this very network.
        """
        what = "ArcFace's IResNet-50"
        stored = read_state(file, what)
        network = cls()
        check_state(f"{file}: {what}", stored, network.state_dict())
        # Published in half precision.
        network.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in stored.items()})
        return network

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1:] != (3, FACE_SIZE, FACE_SIZE):
            raise UsageError(f"IResNet takes pictures (B, 3, {FACE_SIZE}, {FACE_SIZE}), got {tuple(images.shape)}")
        x = self.prelu(self.bn1(self.conv1(2 * images - 1)))
        x = self.bn2(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return functional.normalize(self.features(self.fc(self.dropout(x.flatten(1)))), dim=-1)

    def train(self, mode: bool = True) -> "IResNet":
        return super().train(False)

    @classmethod
    def tiny(cls) -> "IResNet":
        """Random weights, one block of each stage, 4 to 32 channels."""
        return cls((1, 1, 1, 1), 16)
