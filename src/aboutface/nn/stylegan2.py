"""StyleGAN2: latents to pictures, and the critic of pictures, at 8 to 1024 pixels.

Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020. Plain PyTorch: the modulated
convolution scales what goes in and what comes out instead of its weights (section 2.2 says that this is the same), so
that a batch is one convolution on any device. Pictures are (B, 3, S, S), nominally in [0, 1]; the networks' own range
is [-1, 1].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError

EPSILON = 1e-8
SMALLEST = 4
"""Pixels of the learned constant, and of the critic's last map."""
MAPPING_RATE = 0.01
"""Of the mapping network's learning rate."""
CENTRE_DRAWS = 10_000
"""Latents whose mean is the centre for truncation."""

Noise = Literal["stored", "random", "none"] | Sequence[Tensor]


@dataclass(frozen=True)
class StyleGAN2Settings:
    """Sizes. The defaults are those of configuration E at 64 pixels."""

    size: int = 64
    """Side of the pictures, pixels: a power of 2."""
    latent: int = 512
    """Numbers in z and in w."""
    mapping_layers: int = 8
    """Layers from z to w."""
    channel_base: int = 16384
    """A level of r pixels has this divided by r channels; 32768 in configuration F."""
    channel_max: int = 512
    """At most so many."""
    clamp: float | None = None
    """Cut what convolutions give to plus or minus this; 256 in networks of NVlabs' ADA code."""
    minibatch_group: int = 4
    """Pictures whose spread the critic sees."""

    def __post_init__(self) -> None:
        if self.size < 8 or self.size & (self.size - 1) or self.size > 1024:
            raise UsageError(f"stylegan2: expected 8, 16, 32 ... 1024 pixels, got {self.size}")
        for name in ("latent", "mapping_layers", "channel_max", "minibatch_group"):
            if getattr(self, name) < 1:
                raise UsageError(f"stylegan2: {name}: expected 1 or more, got {getattr(self, name)}")
        if self.channel_base < self.size:
            raise UsageError(f"stylegan2: channel_base: expected {self.size} or more, got {self.channel_base}")

    @property
    def resolutions(self) -> list[int]:
        """4, 8 ... size."""
        return [1 << level for level in range(2, self.size.bit_length())]

    @property
    def styles(self) -> int:
        """How many w a picture takes: one per convolution, and one for the last colours."""
        return 2 * len(self.resolutions)

    def channels(self, resolution: int) -> int:
        return min(self.channel_base // resolution, self.channel_max)


def pixel_norm(z: Tensor) -> Tensor:
    """Vectors (B, D) scaled to a mean square of 1."""
    return z * torch.rsqrt(z.square().mean(-1, keepdim=True) + EPSILON)


class PixelNorm(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return pixel_norm(z)


class Dense(nn.Module):
    """A linear layer whose weights are drawn from N(0, 1) and scaled when they are used (equalised learning rate)."""

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0, bias: float = 0.0, active: bool = False) -> None:
        """rate: how fast the layer learns, of the others' rate. active: followed by leaky ReLU."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.rate, self.active = rate, active
        self.scale = rate / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.linear(x, self.weight * self.scale, self.bias * self.rate)
        return activated(y) if self.active else y


class Conv(nn.Module):
    """A convolution with an equalised learning rate; `down` blurs and halves the size first."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, down: bool = False, bias: bool = True, clamp: float | None = None
    ) -> None:
        """bias: also followed by leaky ReLU."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale, self.down, self.kernel, self.clamp = 1 / math.sqrt(inputs * kernel**2), down, kernel, clamp

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale
        if self.down and self.kernel == 1:
            # Of what the blur gives, a 1 x 1 convolution of stride 2 takes every second value.
            x = functional.conv2d(blur(x, 1, stride=2), weight)
        elif self.down:
            x = functional.conv2d(blur(x, 2), weight, stride=2)
        else:
            x = functional.conv2d(x, weight, padding=self.kernel // 2)
        if self.bias is None:
            return x
        return clamped(activated(x + self.bias.view(1, -1, 1, 1).to(x)), self.clamp)


class StyledConv(nn.Module):
    """Modulated and demodulated 3 x 3 convolution, noise, bias, leaky ReLU; `up` doubles the size."""

    noise: Tensor

    def __init__(self, inputs: int, outputs: int, latent: int, resolution: int, up: bool, clamp: float | None) -> None:
        super().__init__()
        self.style = Dense(latent, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(resolution, resolution))
        self.scale, self.up, self.clamp = 1 / math.sqrt(inputs * 9), up, clamp

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """noise: (H, W) or (B, 1, H, W)."""
        style = self.style(w)
        weight = self.weight * self.scale
        # The sum of many squares loses its small ones, or overflows, in half precision.
        with torch.autocast(x.device.type, enabled=False):
            demodulation = torch.rsqrt(style.to(weight).square() @ weight.square().sum((2, 3)).mT + EPSILON)
        x = x * style[:, :, None, None]
        if self.up:
            x = blur(functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2), 1, gain=4)
        else:
            x = functional.conv2d(x, weight, padding=1)
        x = x * demodulation[:, :, None, None].to(x)
        if noise is not None:
            x = x + (noise * self.strength).to(x)
        return clamped(activated(x + self.bias.view(1, -1, 1, 1).to(x)), self.clamp)


class ToRGB(nn.Module):
    """Modulated 1 x 1 convolution to colours; never in half precision, whose steps of brightness a critic would see."""

    def __init__(self, inputs: int, latent: int, clamp: float | None) -> None:
        super().__init__()
        self.style = Dense(latent, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.scale, self.clamp = 1 / math.sqrt(inputs), clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            style = self.style(w.to(self.weight)) * self.scale
            rgb = functional.conv2d(x.to(self.weight) * style[:, :, None, None], self.weight, self.bias)
        return clamped(rgb, self.clamp)


class Mapping(nn.Module):
    """z (B, D) -> w (B, D). `layers` is PixelNorm, then the dense layers."""

    centre: Tensor
    """(D,): the mean w, towards which truncation draws."""

    def __init__(self, settings: StyleGAN2Settings) -> None:
        super().__init__()
        size = settings.latent
        dense = [Dense(size, size, MAPPING_RATE, active=True) for _ in range(settings.mapping_layers)]
        self.layers = nn.Sequential(PixelNorm(), *dense)
        self.register_buffer("centre", torch.zeros(size))

    def forward(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """truncation: 1 keeps all of w's spread, 0 gives the centre alone (section 3 of the StyleGAN paper)."""
        # Not in half precision: all of the picture hangs on w, and the layers cost next to nothing.
        with torch.autocast(z.device.type, enabled=False):
            w = self.layers(z)
        return w if truncation == 1.0 else torch.lerp(self.centre, w, truncation)

    @torch.no_grad()
    def measure_centre(self, seed: int = 0, draws: int = CENTRE_DRAWS) -> float:
        """Set `centre` to the mean w of random z. The root of the mean squared distance from it, which is returned,
        is how far w spread."""
        random = torch.Generator().manual_seed(seed)
        z = torch.randn(draws, len(self.centre), generator=random).to(self.centre)
        w = self.layers(z)
        self.centre.copy_(w.mean(0))
        return float((w - self.centre).square().sum(1).mean().sqrt())


class Synthesis(nn.Module):
    """w (B, D), or one per layer (B, L, D) -> pictures (B, 3, S, S) about [0, 1], not clipped."""

    def __init__(self, settings: StyleGAN2Settings) -> None:
        super().__init__()
        s = self.settings = settings
        self.constant = nn.Parameter(torch.randn(1, s.channels(SMALLEST), SMALLEST, SMALLEST))
        convs, colours = [], []
        before = s.channels(SMALLEST)
        for resolution in s.resolutions:
            after = s.channels(resolution)
            if resolution > SMALLEST:
                convs.append(StyledConv(before, after, s.latent, resolution, True, s.clamp))
            convs.append(StyledConv(after, after, s.latent, resolution, False, s.clamp))
            colours.append(ToRGB(after, s.latent, s.clamp))
            before = after
        self.convs, self.colours = nn.ModuleList(convs), nn.ModuleList(colours)

    def forward(self, w: Tensor, noise: Noise = "stored") -> Tensor:
        """noise: that in the weights, drawn anew, none, or one map (H, W) or (B, 1, H, W) per convolution."""
        styles = self.per_layer(w)
        noises = self._noises(noise, styles)
        x = self.constant.expand(len(styles), -1, -1, -1)
        x = self.convs[0](x, styles[:, 0], noises[0])
        rgb = self.colours[0](x, styles[:, 1])
        for level, colour in enumerate(self.colours):
            if level == 0:
                continue
            first = 2 * level - 1
            x = self.convs[first](x, styles[:, first], noises[first])
            x = self.convs[first + 1](x, styles[:, first + 1], noises[first + 1])
            rgb = colour(x, styles[:, first + 2]) + upsampled(rgb)
        return rgb / 2 + 0.5

    def per_layer(self, w: Tensor) -> Tensor:
        """(B, L, D) of w (B, D) or (B, L, D). Raises UsageError for another shape."""
        wanted = (self.settings.styles, self.settings.latent)
        if w.ndim == 2 and w.shape[1] == wanted[1]:
            return w[:, None].expand(-1, wanted[0], -1)
        if w.ndim == 3 and w.shape[1:] == wanted:
            return w
        layers, size = wanted
        raise UsageError(f"stylegan2: expected w (B, {size}) or (B, {layers}, {size}), got {tuple(w.shape)}")

    def stored_noise(self) -> list[Tensor]:
        """The maps (H, W) in the weights, from the smallest to the largest."""
        return [conv.noise for conv in self.convs]  # pyright: ignore[reportReturnType]

    def _noises(self, noise: Noise, styles: Tensor) -> Sequence[Tensor | None]:
        if noise == "stored":
            return self.stored_noise()
        if noise == "none":
            return [None] * len(self.convs)
        if noise == "random":
            return [styles.new_empty(len(styles), 1, *map_.shape).normal_() for map_ in self.stored_noise()]
        if isinstance(noise, str) or len(noise) != len(self.convs):
            raise UsageError(f"stylegan2: noise: expected stored, random, none or {len(self.convs)} maps")
        return noise


class Generator(nn.Module):
    """z (B, D) -> pictures (B, 3, S, S) about [0, 1], not clipped."""

    def __init__(self, settings: StyleGAN2Settings | None = None) -> None:
        super().__init__()
        self.settings = settings or StyleGAN2Settings()
        self.mapping, self.synthesis = Mapping(self.settings), Synthesis(self.settings)

    def forward(self, z: Tensor, truncation: float = 1.0, noise: Noise = "stored") -> Tensor:
        return self.synthesis(self.mapping(z, truncation), noise)

    @classmethod
    def tiny(cls, size: int = 16, **changes: Any) -> "Generator":
        return cls(tiny_settings(size, **changes))


class Residual(nn.Module):
    """A level of the critic: two convolutions, the second one to half the size, and a way past them."""

    def __init__(self, inputs: int, outputs: int, clamp: float | None) -> None:
        super().__init__()
        self.first = Conv(inputs, inputs, 3, clamp=clamp)
        self.second = Conv(inputs, outputs, 3, down=True, clamp=clamp)
        self.skip = Conv(inputs, outputs, 1, down=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x)) + self.skip(x)) / math.sqrt(2)


class Discriminator(nn.Module):
    """Pictures (B, 3, S, S) in [0, 1] -> scores (B,): higher means more real."""

    def __init__(self, settings: StyleGAN2Settings | None = None) -> None:
        super().__init__()
        self.settings = s = settings or StyleGAN2Settings()
        sizes = list(reversed(s.resolutions))
        self.from_rgb = Conv(3, s.channels(s.size), 1, clamp=s.clamp)
        self.blocks = nn.ModuleList(
            Residual(s.channels(size), s.channels(size // 2), s.clamp) for size in sizes if size > SMALLEST
        )
        last = s.channels(SMALLEST)
        self.conv = Conv(last + 1, last, 3, clamp=s.clamp)
        self.dense = Dense(last * SMALLEST**2, last, active=True)
        self.out = Dense(last, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images, len(self.blocks))[-1]
        x = self.conv(torch.cat([x, spread(x, self.settings.minibatch_group)], 1))
        return self.out(self.dense(x.flatten(1)))[:, 0]

    def features(self, images: Tensor, count: int = 4) -> list[Tensor]:
        """What the first `count` levels give, each at half the size of the one before; for pictures of any size that
        `2 ** count` divides. They know nothing of the other pictures in the batch."""
        x, found = self.from_rgb(2 * images - 1), []
        for block in list(self.blocks)[:count]:
            x = block(x)
            found.append(x)
        return found

    @classmethod
    def tiny(cls, size: int = 16, **changes: Any) -> "Discriminator":
        return cls(tiny_settings(size, **changes))


def tiny_settings(size: int = 16, **changes: Any) -> StyleGAN2Settings:
    """A network for tests."""
    small = StyleGAN2Settings(size=size, latent=16, mapping_layers=8, channel_base=max(128, size), channel_max=16)
    return replace(small, **changes)


def activated(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the mean square of normal numbers."""
    return functional.leaky_relu(x, 0.2) * math.sqrt(2)


def clamped(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)


def spread(x: Tensor, group: int) -> Tensor:
    """(B, 1, H, W): the mean standard deviation over groups of pictures, the same at every place of a group's pictures.

    Groups are as published: picture i is with i + B / group, i + 2 B / group...; one of all where `group` does not
    divide the batch.
    """
    batch, _, height, width = x.shape
    group = group if batch % group == 0 else batch
    # float16 has no EPSILON, and the root of 0 has no slope.
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    groups = x.view(group, batch // group, *x.shape[1:])
    deviation = (groups.var(0, correction=0) + EPSILON).sqrt().mean((1, 2, 3))
    return deviation.view(-1, 1, 1, 1).repeat(group, 1, height, width)


def _kernel(x: Tensor) -> Tensor:
    line = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return line * line[:, None]


def blur(x: Tensor, padding: int, stride: int = 1, gain: float = 1.0) -> Tensor:
    """The low-pass filter 1, 3, 3, 1 in both directions, of sum `gain`."""
    channels = x.shape[1]
    kernel = (_kernel(x) * gain).expand(channels, 1, 4, 4)
    return functional.conv2d(x, kernel, padding=padding, stride=stride, groups=channels)


def upsampled(rgb: Tensor) -> Tensor:
    """Pictures at twice the size, by the same filter; under autocast, too, in their own precision."""
    channels = rgb.shape[1]
    kernel = (_kernel(rgb) * 4).expand(channels, 1, 4, 4)
    with torch.autocast(rgb.device.type, enabled=False):
        return functional.conv_transpose2d(rgb, kernel, stride=2, padding=1, groups=channels)
