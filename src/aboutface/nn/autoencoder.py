"""The networks of Unsup3d and GAN2Shape: a picture to another picture through a narrow neck, or to a few numbers.

Wu, Rupprecht, Vedaldi: Unsupervised Learning of Probably Symmetric Deformable 3D Objects from Images in the Wild, CVPR
2020, appendix; at other sizes than 64 as GAN2Shape (Pan et al., ICLR 2021) scales them: a level more on each side, and
half the width. All take images (B, 3, size, size) in [-1, 1].
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError

GROUP = 4
"""Channels that are normalised together."""
Head = Literal["full", "smooth", "sharp"]


class Encoder(nn.Module):
    """Images (B, 3, size, size) -> numbers (B, `outputs`), not bounded."""

    def __init__(self, outputs: int, size: int = 64, width: int = 32) -> None:
        """width: channels of the first layer; they double per level."""
        super().__init__()
        channels = _channels(size, width, 1)
        layers: list[nn.Module] = []
        for before, after in pairwise((3, *channels)):
            layers += [_down(before, after), nn.ReLU()]
        layers += [nn.Conv2d(channels[-1], channels[-1], 4, bias=False), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], outputs, 1, bias=False), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)

    @classmethod
    def tiny(cls, outputs: int, size: int = 16) -> "Encoder":
        return cls(outputs, size, width=4)


class EncoderDecoder(nn.Module):
    """Images (B, 3, size, size) -> maps (B, `channels`, size, size), not bounded. No skip connections: the map is not
    aligned with the image."""

    def __init__(self, channels: int, size: int = 64, width: int = 64, latent: int = 256, head: Head = "full") -> None:
        """Args:
        width: channels of the outermost level; they double per level. latent: numbers in the neck.
        head: "full": the published one, three convolutions at full size, 58 % of the whole work. "smooth": the map is
            made at half the size, without its finest waves, and enlarged linearly, which suits depth. "sharp": the
            features are enlarged, and one convolution makes the map of them, which suits colour.
        """
        super().__init__()
        sizes = _channels(size, width)
        layers: list[nn.Module] = [*_encoder(sizes, latent), nn.ReLU()]
        layers += [nn.ConvTranspose2d(latent, sizes[-1], 4, bias=False), nn.ReLU()]
        layers += [_conv(sizes[-1], sizes[-1]), nn.ReLU()]
        for before, after in pairwise(reversed(sizes)):
            layers += [_up(before, after), _norm(after), nn.ReLU(), _conv(after, after), _norm(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, *_head(head, width, channels))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)

    @classmethod
    def tiny(cls, channels: int, size: int = 16) -> "EncoderDecoder":
        return cls(channels, size, width=4, latent=8)


class ConfidenceNet(nn.Module):
    """Images (B, 3, size, size) -> scales of the error, above 0, of each pixel (B, 2, size, size) and of each feature
    (B, 2, size / 4, size / 4): for the reconstruction, and for its mirrored twin."""

    def __init__(self, size: int = 64, width: int = 64, latent: int = 128) -> None:
        super().__init__()
        sizes = _channels(size, width)
        if len(sizes) < 3:
            raise UsageError(f"ConfidenceNet: expected images of 32 pixels or more, got {size}")
        layers: list[nn.Module] = [*_encoder(sizes, latent), nn.ReLU()]
        layers += [nn.ConvTranspose2d(latent, sizes[-1], 4, bias=False), nn.ReLU()]
        # Up to a quarter of the size, from which both maps branch off.
        for before, after in pairwise(sizes[:0:-1]):
            layers += [_up(before, after), _norm(after), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.pixels = nn.Sequential(
            *(_up(sizes[1], sizes[0]), _norm(sizes[0]), nn.ReLU()),
            *(_up(sizes[0], sizes[0]), _norm(sizes[0]), nn.ReLU()),
            nn.Conv2d(sizes[0], 2, 5, padding=2, bias=False),
            nn.Softplus(),
        )
        self.features = nn.Sequential(nn.Conv2d(sizes[1], 2, 3, padding=1, bias=False), nn.Softplus())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        trunk = self.trunk(images)
        return self.pixels(trunk), self.features(trunk)

    @classmethod
    def tiny(cls, size: int = 32) -> "ConfidenceNet":
        return cls(size, width=4, latent=8)


def _channels(size: int, width: int, group: int = GROUP) -> list[int]:
    """Channels of the levels from the outermost (size / 2) to the innermost (4 x 4)."""
    levels = size.bit_length() - 3
    if size < 8 or size & (size - 1) or width < group or width % group:
        raise UsageError(
            f"expected images of 8, 16, 32, 64... pixels and a width of {group}, {2 * group}..., got {size} and {width}"
        )
    return [width * 2**level for level in range(levels)]


def _encoder(sizes: list[int], latent: int) -> Iterable[nn.Module]:
    for before, after in pairwise((3, *sizes)):
        # The innermost level is not normalised.
        norm = [] if after == sizes[-1] else [_norm(after)]
        yield from (_down(before, after), *norm, nn.LeakyReLU(0.2))
    yield nn.Conv2d(sizes[-1], latent, 4, bias=False)


def _head(head: Head, width: int, channels: int) -> list[nn.Module]:
    if head == "full":
        return [
            nn.Upsample(scale_factor=2, mode="nearest"),
            *(_conv(width, width), _norm(width), nn.ReLU()),
            *(_conv(width, width, 5), _norm(width), nn.ReLU()),
            _conv(width, channels, 5),
        ]
    enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return [_conv(width, channels), Blur(), enlarge] if head == "smooth" else [enlarge, _conv(width, channels)]


class Blur(nn.Module):
    """Maps (B, C, H, W) without the wave from pixel to pixel: 1, 2, 1 in each direction.

    Lambert's shading cannot tell a corrugated surface from a darker one, and networks fall into that.
    """

    def forward(self, maps: Tensor) -> Tensor:
        padded = functional.pad(maps, (1, 1, 1, 1), mode="replicate")
        across = (padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]) / 4
        return (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 4


def _down(before: int, after: int) -> nn.Module:
    return nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False)


def _up(before: int, after: int) -> nn.Module:
    return nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)


def _conv(before: int, after: int, kernel: int = 3) -> nn.Module:
    return nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // GROUP, channels)


def parameter_count(module: nn.Module) -> int:
    """Numbers that training moves."""
    return sum(parameter.numel() for parameter in module.parameters())


__all__ = ["ConfidenceNet", "Encoder", "EncoderDecoder", "Head", "parameter_count"]
