"""Features in which pictures are compared: blind to what the eye overlooks, sharp about edges out of place.

Two kinds with one interface, images (B, 3, H, W) in [0, 1] -> features (B, C, H/4, W/4): those of VGG16, which Unsup3d
(Wu et al., CVPR 2020) compares at relu3_3, from a weight file that the user has; and fixed filters that need no file.
Both are differentiable by the images, and nothing trains them.
"""

import logging
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError
from .states import read_state

FeatureName = Literal["auto", "vgg16", "filters"]

_log = logging.getLogger(__name__)

_CONVOLUTIONS = (2, 2, 3, 3, 3)
"""Of each block of VGG16; between blocks the size is halved."""
_WIDTHS = (64, 128, 256, 512, 512)

VGG16_LAYERS = tuple(f"relu{block}_{i}" for block, n in enumerate(_CONVOLUTIONS, 1) for i in range(1, n + 1))
"""Names of the rectified layers, from relu1_1 to relu5_3."""


class VGG16Features(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> a rectified layer of VGG16 (Simonyan and Zisserman, ICLR 2015).

    Names of the state are torchvision's ("features.0.weight"), so that its file can be read. Random at first: see
    `from_file`. Always in evaluation mode, and no parameter wants a gradient.
    """

    name = "vgg16"
    mean: Tensor
    deviation: Tensor

    def __init__(self, last: str = "relu3_3", shrink: int = 1) -> None:
        """Args:
        last: the deepest layer that will be asked for, and what `forward` gives; one of VGG16_LAYERS.
        shrink: divides all widths, for tests.

        Raises UsageError for another layer.
        """
        super().__init__()
        self.last = last
        count = _position(last) + 1
        layers: list[nn.Module] = []
        self._outputs: list[int] = []
        widths = [width // shrink for width, n in zip(_WIDTHS, _CONVOLUTIONS, strict=True) for _ in range(n)]
        for (before, after), layer in zip(pairwise((3, *widths[:count])), VGG16_LAYERS[:count], strict=True):
            if layer.endswith("_1") and layers:
                layers.append(nn.MaxPool2d(2))
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            self._outputs.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)
        self.channels = widths[count - 1]
        # Of ImageNet's pictures, as torchvision's weights want it.
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def from_file(cls, file: Path, last: str = "relu3_3") -> "VGG16Features":
        """With the weights of torchvision's vgg16: its .pth file, or a .safetensors with the same names.

        Raises UsageError where the file cannot be read, or lacks a tensor or has one of another shape.
        """
        network = cls(last)
        stored = read_state(Path(file), "vgg16")
        wanted = network.state_dict()
        for key, tensor in wanted.items():
            found = tuple(stored[key].shape) if isinstance(stored.get(key), Tensor) else "nothing"
            if found != tuple(tensor.shape):
                raise UsageError(
                    f"{file}: expected {key} {tuple(tensor.shape)} of torchvision's vgg16, found {found}; "
                    "give the file that `aboutface models download vgg16` brings"
                )
        network.load_state_dict({key: stored[key] for key in wanted})
        return network

    def forward(self, images: Tensor) -> Tensor:
        """The layer `last`; (B, 256, H/4, W/4) for relu3_3. Raises UsageError for images of another form."""
        return self.layers(images, [self.last])[self.last]

    def layers(self, images: Tensor, names: list[str] | tuple[str, ...]) -> dict[str, Tensor]:
        """Several layers by their names, at the sizes they have: block k is 2^(k - 1) times smaller than the image.

        Raises UsageError for images of another form, and for layers beyond `last`.
        """
        _check(images)
        ends = {_position(name): name for name in names}
        if ends and max(ends) >= len(self._outputs):
            raise UsageError(f"layers: {VGG16_LAYERS[max(ends)]} lies beyond the last layer here, {self.last}")
        x, found, start = (images - self.mean) / self.deviation, {}, 0
        for position in sorted(ends):
            end = self._outputs[position] + 1
            for layer in list(self.features)[start:end]:
                x = layer(x)
            found[ends[position]], start = x, end
        return found

    def train(self, mode: bool = True) -> "VGG16Features":
        return super().train(False)

    @classmethod
    def tiny(cls, last: str = "relu3_3") -> "VGG16Features":
        """With 4 to 32 channels, and random weights."""
        return cls(last, shrink=16)


class FilterFeatures(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> responses of fixed oriented filters (B, C, H/4, W/4).

    As a simple model of early vision has it: derivatives of a Gaussian and their Hilbert partners (quadrature pairs, so
    that edges and lines both answer; Freeman and Adelson, PAMI 1991) in some directions and at some scales an octave
    apart, on brightness, and on two opponent colours where they are coarse; each divided by the contrast around it
    (Heeger, Visual Neuroscience 1992); averaged to a quarter of the size: what is positive, what is negative, and the
    strength of each pair, which stays when a detail moves a little.

    What is added to all pixels changes nothing, what multiplies them little.
    """

    name = "filters"
    kernels: Tensor

    def __init__(self, scales: int = 3, directions: int = 4, floor: float = 0.02) -> None:
        """Args:
        scales: octaves; the first filters see the image itself, the next ones half the size, and so on.
        directions: evenly spread over half a turn.
        floor: contrast (root mean square of the filters' answers) below which it no longer counts as structure.
        """
        super().__init__()
        self.scales, self.directions, self.floor = scales, directions, floor
        self.register_buffer("kernels", _quadrature_kernels(directions)[:, None], persistent=False)
        # All but the finest scale see colour.
        self.channels = (3 * scales - 2) * directions * 5

    def forward(self, images: Tensor) -> Tensor:
        """Raises UsageError for images of another form."""
        _check(images)
        height, width = images.shape[-2] // 4, images.shape[-1] // 4
        level, found = _opponent(images), []
        for scale in range(self.scales):
            # Colour is blurred to the eye, and doubles the work where pixels are many.
            found.append(self._answers(level if scale else level[:, :1], height, width))
            if scale + 1 < self.scales:
                level = _halved(level)
        return torch.cat(found, 1)

    def _answers(self, level: Tensor, height: int, width: int) -> Tensor:
        """Normalised answers of one scale (B, maps, H', W'), brought to (B, channels * filters * 2, height, width)."""
        batch, channels, *size = level.shape
        reach = self.kernels.shape[-1] // 2
        padded = functional.pad(level, (reach,) * 4, mode="replicate")
        answers = functional.conv2d(padded.reshape(batch * channels, 1, *padded.shape[-2:]), self.kernels)
        answers = answers.view(batch, channels, -1, *size)
        energy = answers.square().mean(2)
        around = functional.avg_pool2d(functional.pad(energy, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
        answers = (answers * (around + self.floor**2).rsqrt()[:, :, None]).flatten(1, 2)
        pairs = answers.unflatten(1, (-1, 2)).square().sum(2)
        # A root has no slope at 0.
        strength = (pairs + 1e-6).sqrt()
        return _resized(torch.cat([answers.relu(), (-answers).relu(), strength], 1), height, width)

    @classmethod
    def tiny(cls) -> "FilterFeatures":
        """Two directions at two scales."""
        return cls(scales=2, directions=2)


def perceptual_features(name: FeatureName = "auto", vgg16: Path | None = None) -> VGG16Features | FilterFeatures:
    """Features by name; `.name` of what comes back, and the log, say which they are.

    Args:
        name: "vgg16", "filters", or "auto": the first where its file is present, else the second.
        vgg16: the weight file, for instance `weights.info("vgg16").path`; it need not exist unless it is asked for.

    Raises UsageError for another name, and for "vgg16" without a file that can be read.
    """
    if name not in ("auto", "vgg16", "filters"):
        raise UsageError(f"perceptual features: expected auto, vgg16 or filters, got {name!r}")
    present = vgg16 is not None and vgg16.is_file()
    if name == "vgg16" and not present:
        where = f": {vgg16} is missing" if vgg16 else ""
        raise UsageError(f"the features vgg16 need their weights{where}; run: aboutface models download vgg16")
    if present and name != "filters":
        _log.info("perceptual features: vgg16 of %s", vgg16)
        return VGG16Features.from_file(vgg16)  # pyright: ignore[reportArgumentType]
    _log.info("perceptual features: filters%s", "" if name == "filters" else ", since there are no vgg16 weights")
    return FilterFeatures()


def _check(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 16:
        raise UsageError(
            f"perceptual features: expected images (B, 3, H, W) of 16 pixels or more, got {tuple(images.shape)}"
        )


def _position(layer: str) -> int:
    if layer not in VGG16_LAYERS:
        raise UsageError(f"VGG16 has no layer {layer!r}: choose one of {', '.join(VGG16_LAYERS)}")
    return VGG16_LAYERS.index(layer)


def _opponent(images: Tensor) -> Tensor:
    """Brightness, red against green, and blue against yellow."""
    red, green, blue = images.unbind(1)
    return torch.stack([0.299 * red + 0.587 * green + 0.114 * blue, red - green, blue - (red + green) / 2], 1)


def _halved(level: Tensor) -> Tensor:
    """Half the size, blurred first (binomial, 1 3 3 1) so that fine stripes do not pose as coarse ones."""
    row = level.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    channels = level.shape[1]
    padded = functional.pad(level, (1, 1, 1, 1), mode="replicate")
    wide = functional.conv2d(padded, row.view(1, 1, 1, 4).expand(channels, 1, 1, 4), stride=(1, 2), groups=channels)
    return functional.conv2d(wide, row.view(1, 1, 4, 1).expand(channels, 1, 4, 1), stride=(2, 1), groups=channels)


def _resized(maps: Tensor, height: int, width: int) -> Tensor:
    if maps.shape[-2] >= height and maps.shape[-1] >= width:
        return functional.adaptive_avg_pool2d(maps, (height, width))
    return functional.interpolate(maps, (height, width), mode="bilinear", align_corners=False)


def _quadrature_kernels(directions: int, deviation: float = 0.9, reach: int = 3) -> Tensor:
    """Even and odd filters (2 * directions, 2 * reach + 1, 2 * reach + 1), none of which answers to a constant.

    Even: the second derivative of a Gaussian. Odd: its Hilbert partner as Freeman and Adelson fit it (table IV, there
    for exp(-x^2)). Each is as long as the others, so that none of them speaks louder.
    """
    # Their Gaussian has a deviation of sqrt(1/2).
    line = torch.arange(-reach, reach + 1, dtype=torch.float64) / (deviation * 2**0.5)
    y, x = line[:, None], line[None, :]
    bell = torch.exp(-(x**2) - y**2)
    kernels = []
    for step in range(directions):
        angle = torch.tensor(torch.pi * step / directions, dtype=torch.float64)
        along = x * angle.cos() + y * angle.sin()
        kernels += [(2 * along**2 - 1) * bell, (along**3 - 2.254 * along) * bell]
    stacked = torch.stack(kernels)
    stacked = stacked - bell * (stacked.sum((1, 2), keepdim=True) / bell.sum())
    return (stacked / stacked.square().sum((1, 2), keepdim=True).sqrt()).float()


__all__ = ["VGG16_LAYERS", "FeatureName", "FilterFeatures", "VGG16Features", "perceptual_features"]
