"""Inception v3 as the Fréchet inception distance uses it: pictures to 2048 numbers, from a file that the user has.

Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016; the variant of TensorFlow's graph
of 2015-12-05, by which Heusel et al. (NeurIPS 2017) compare sets of pictures. It differs from torchvision's in its
weights, in averages that leave the padding out, and in a maximum where the last block should have an average. Names of
the state are torchvision's, so that the ported file can be read.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError
from .states import read_state

SIZE = 299
"""Side of the pictures that the network sees, pixels."""


class InceptionFeatures(nn.Module):
    """Images (B, 3, H, W) in [0, 1], of any size -> features (B, 2048), "pool3".

    Random at first: see `from_file`. Always in evaluation mode, and no parameter wants a gradient. Images are resized
    without low-pass filter, as the graph does it. 21,785,568 parameters.
    """

    name = "inception-2015-12-05"

    def __init__(self, shrink: int = 1) -> None:
        """shrink: divides all widths, for tests."""
        super().__init__()

        def wide(*channels: int) -> list[int]:
            return [count // shrink for count in channels]

        a, b, c, d, e = wide(32, 64, 80, 192, 768)
        self.Conv2d_1a_3x3 = _Conv(3, a, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(a, a, 3)
        self.Conv2d_2b_3x3 = _Conv(a, b, 3, padding=1)
        self.Conv2d_3b_1x1 = _Conv(b, c, 1)
        self.Conv2d_4a_3x3 = _Conv(c, d, 3)
        self.Mixed_5b = _MixedA(d, *wide(64, 48, 64, 96, 32))
        self.Mixed_5c = _MixedA(self.Mixed_5b.outputs, *wide(64, 48, 64, 96, 64))
        self.Mixed_5d = _MixedA(self.Mixed_5c.outputs, *wide(64, 48, 64, 96, 64))
        self.Mixed_6a = _MixedB(self.Mixed_5d.outputs, *wide(384, 64, 96))
        self.Mixed_6b = _MixedC(e, *wide(192, 128))
        self.Mixed_6c = _MixedC(e, *wide(192, 160))
        self.Mixed_6d = _MixedC(e, *wide(192, 160))
        self.Mixed_6e = _MixedC(e, *wide(192, 192))
        self.Mixed_7a = _MixedD(e, *wide(192, 320))
        self.Mixed_7b = _MixedE(self.Mixed_7a.outputs, *wide(320, 384, 448, 192), pool="average")
        self.Mixed_7c = _MixedE(self.Mixed_7b.outputs, *wide(320, 384, 448, 192), pool="maximum")
        self.requires_grad_(False).eval()

    @classmethod
    def from_file(cls, file: Path) -> "InceptionFeatures":
        """With the weights of pytorch-fid's pt_inception-2015-12-05-6726825d.pth; its classifier is left out.

        Raises UsageError where the file cannot be read, or lacks a tensor or has one of another shape.
        """
        network = cls()
        stored = read_state(Path(file), "inception")
        wanted = network.state_dict()
        for key, tensor in wanted.items():
            found = tuple(stored[key].shape) if isinstance(stored.get(key), Tensor) else "nothing"
            # How many batches a norm has seen plays no part, and some files lack it.
            if found != tuple(tensor.shape) and not key.endswith("num_batches_tracked"):
                raise UsageError(
                    f"{file}: expected {key} {tuple(tensor.shape)} of the inception network, found {found}; "
                    "give the file that `aboutface models download inception` brings"
                )
        network.load_state_dict({key: stored.get(key, tensor) for key, tensor in wanted.items()})
        return network

    def forward(self, images: Tensor) -> Tensor:
        """Raises UsageError for images of another form."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise UsageError(f"inception: expected images (B, 3, H, W), got {tuple(images.shape)}")
        x = functional.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(2 * x - 1)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(functional.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))

    def train(self, mode: bool = True) -> "InceptionFeatures":
        return super().train(False)

    @classmethod
    def tiny(cls) -> "InceptionFeatures":
        """An eighth as wide, random weights: for tests."""
        return cls(shrink=8)


class _Conv(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | tuple = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


def _row(inputs: int, outputs: int) -> _Conv:
    return _Conv(inputs, outputs, (1, 7), padding=(0, 3))


def _column(inputs: int, outputs: int) -> _Conv:
    return _Conv(inputs, outputs, (7, 1), padding=(3, 0))


def _average(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class _MixedA(nn.Module):
    """35 x 35 pixels: 1 x 1, 5 x 5, twice 3 x 3, and a pooled branch."""

    def __init__(self, inputs: int, one: int, five_in: int, five: int, three: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(inputs, one, 1)
        self.branch5x5_1 = _Conv(inputs, five_in, 1)
        self.branch5x5_2 = _Conv(five_in, five, 5, padding=2)
        self.branch3x3dbl_1 = _Conv(inputs, one, 1)
        self.branch3x3dbl_2 = _Conv(one, three, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(three, three, 3, padding=1)
        self.branch_pool = _Conv(inputs, pooled, 1)
        self.outputs = one + five + three + pooled

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_average(x))], 1)


class _MixedB(nn.Module):
    """To 17 x 17 pixels."""

    def __init__(self, inputs: int, direct: int, double_in: int, double: int) -> None:
        super().__init__()
        self.branch3x3 = _Conv(inputs, direct, 3, stride=2)
        self.branch3x3dbl_1 = _Conv(inputs, double_in, 1)
        self.branch3x3dbl_2 = _Conv(double_in, double, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(double, double, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, functional.max_pool2d(x, 3, 2)], 1)


class _MixedC(nn.Module):
    """17 x 17 pixels: 7 x 7 in two halves, once and twice."""

    def __init__(self, inputs: int, outputs: int, inner: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(inputs, outputs, 1)
        self.branch7x7_1 = _Conv(inputs, inner, 1)
        self.branch7x7_2 = _row(inner, inner)
        self.branch7x7_3 = _column(inner, outputs)
        self.branch7x7dbl_1 = _Conv(inputs, inner, 1)
        self.branch7x7dbl_2 = _column(inner, inner)
        self.branch7x7dbl_3 = _row(inner, inner)
        self.branch7x7dbl_4 = _column(inner, inner)
        self.branch7x7dbl_5 = _row(inner, outputs)
        self.branch_pool = _Conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_average(x))], 1)


class _MixedD(nn.Module):
    """To 8 x 8 pixels."""

    def __init__(self, inputs: int, inner: int, direct: int) -> None:
        super().__init__()
        self.branch3x3_1 = _Conv(inputs, inner, 1)
        self.branch3x3_2 = _Conv(inner, direct, 3, stride=2)
        self.branch7x7x3_1 = _Conv(inputs, inner, 1)
        self.branch7x7x3_2 = _row(inner, inner)
        self.branch7x7x3_3 = _column(inner, inner)
        self.branch7x7x3_4 = _Conv(inner, inner, 3, stride=2)
        self.outputs = direct + inner + inputs

    def forward(self, x: Tensor) -> Tensor:
        long = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        direct = self.branch3x3_2(self.branch3x3_1(x))
        return torch.cat([direct, self.branch7x7x3_4(long), functional.max_pool2d(x, 3, 2)], 1)


class _MixedE(nn.Module):
    """8 x 8 pixels: branches that end in a row and a column beside each other."""

    def __init__(self, inputs: int, one: int, three: int, double: int, pooled: int, pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = _Conv(inputs, one, 1)
        self.branch3x3_1 = _Conv(inputs, three, 1)
        self.branch3x3_2a = _Conv(three, three, (1, 3), padding=(0, 1))
        self.branch3x3_2b = _Conv(three, three, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = _Conv(inputs, double, 1)
        self.branch3x3dbl_2 = _Conv(double, three, 3, padding=1)
        self.branch3x3dbl_3a = _Conv(three, three, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = _Conv(three, three, (3, 1), padding=(1, 0))
        self.branch_pool = _Conv(inputs, pooled, 1)
        self.outputs = one + 4 * three + pooled

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = _average(x) if self.pool == "average" else functional.max_pool2d(x, 3, 1, 1)
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(once),
            self.branch3x3_2b(once),
            self.branch3x3dbl_3a(twice),
            self.branch3x3dbl_3b(twice),
            self.branch_pool(pooled),
        ]
        return torch.cat(branches, 1)
