"""Adaptive augmentation of what a critic sees, for small sets of pictures.

Karras et al., Training Generative Adversarial Networks with Limited Data, NeurIPS 2020 (StyleGAN2-ADA), its pipeline
"bgc". Real and generated pictures pass the same random changes, each with probability p; as long as p is well below 1
the generator does not learn to make them. All is differentiable, twice, as R1 needs it.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
"""Low-pass filter of the least asymmetric orthogonal wavelet with 6 vanishing moments (Daubechies, 1992); its sum is
the root of 2."""
CENTRE = sum(place * tap for place, tap in enumerate(SYM6)) / sum(SYM6)
"""Of mass of the filter, which is not quite symmetric: 5.0983, where the middle is 5.5."""
MARGIN = 3
"""Pixels by which a picture is mirrored before it is enlarged, so that its edges are enlarged as its middle is."""

SHIFT = 0.125
"""Of the side: the largest shift by whole pixels, and the deviation of that by fractions."""
SCALE, STRETCH = 0.2, 0.2
"""Deviations of the logarithms (base 2) of scale and of stretch."""
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.5, 1.0
"""Deviations: of brightness in a range of 2, of the others' logarithms (base 2)."""


def augmented(images: Tensor, strength: float | Tensor) -> Tensor:
    """Pictures (B, 3, S, S) about [0, 1], each changed at random with probability `strength` per change; (B, 3, S, S).

    `strength` 0 gives the same tensor back. Colours may leave [0, 1]. Half precision becomes float32.
    """
    if not strength:
        return images
    with torch.autocast(images.device.type, enabled=False):
        # Not in half precision, in which a fraction of a pixel is lost.
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        count, size, device = len(images), images.shape[-1], images.device
        moved = warped(images, drawn_geometry(count, strength, size, device).to(images))
        return coloured(moved, drawn_colours(count, strength, device).to(images))


# What is drawn.


def drawn_geometry(count: int, strength: float | Tensor, size: int, device: torch.device | str = "cpu") -> Tensor:
    """(count, 3, 3): where in the picture each place of the new one is looked up; places count pixels, x to the right
    and y down, from the centre."""
    chance = _Chance(count, strength, device)
    # Two turns, before and after the stretch, of which at least one happens with probability `strength`.
    turn_chance = _Chance(count, 1 - (1 - torch.as_tensor(strength, device=device)).sqrt(), device)

    quarters = torch.randint(4, (count,), device=device) * (math.pi / 2)
    scale = torch.exp2(chance.normal() * SCALE)
    mirror = 1 - 2.0 * chance.or_else(torch.randint(2, (count,), device=device), 0)
    matrix = _scaling(mirror, torch.ones_like(mirror))
    matrix = matrix @ _turn(-chance.or_else(quarters, 0))
    steps = ((2 * torch.rand(count, 2, device=device) - 1) * (SHIFT * size)).round()
    matrix = matrix @ _shift(-chance.or_else(steps, 0))
    matrix = matrix @ _scaling(1 / scale, 1 / scale)
    matrix = matrix @ _turn(turn_chance.or_else(_any_angle(count, device), 0))
    stretch = torch.exp2(chance.normal() * STRETCH)
    matrix = matrix @ _scaling(1 / stretch, stretch)
    matrix = matrix @ _turn(turn_chance.or_else(_any_angle(count, device), 0))
    return matrix @ _shift(-chance.or_else(torch.randn(count, 2, device=device) * (SHIFT * size), 0))


def drawn_colours(count: int, strength: float | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """(count, 4, 4): what colours in [-1, 1], with a 1 below them, are multiplied by."""
    chance = _Chance(count, strength, device)
    grey = torch.full((3, 3), 1 / 3, device=device)
    rest = torch.eye(3, device=device) - grey

    lift = (chance.normal() * BRIGHTNESS)[:, None].expand(-1, 3)
    contrast = torch.exp2(chance.normal() * CONTRAST)[:, None, None]
    flip = chance.or_else(torch.randint(2, (count,), device=device), 0)[:, None, None]
    hue = _hue(chance.or_else(_any_angle(count, device), 0))
    saturation = torch.exp2(chance.normal() * SATURATION)[:, None, None]
    # A flip negates the part along grey; hue turns about grey, and saturation scales what is across it.
    linear = (grey + saturation * rest) @ hue @ (torch.eye(3, device=device) - 2 * flip * grey) * contrast
    matrix = torch.eye(4, device=device).repeat(count, 1, 1)
    matrix[:, :3, :3] = linear
    matrix[:, :3, 3] = (linear @ lift[..., None])[..., 0]
    return matrix


class _Chance:
    """Each picture's changes happen with a probability of their own, but independently of each other."""

    def __init__(self, count: int, strength: float | Tensor, device: torch.device | str) -> None:
        self.count, self.strength, self.device = count, strength, device

    def or_else(self, change: Tensor, nothing: float) -> Tensor:
        """`change` (count,) or (count, 2), where it happens."""
        happens = torch.rand(self.count, device=self.device) < self.strength
        return torch.where(happens.view(-1, *[1] * (change.ndim - 1)), change, nothing)

    def normal(self) -> Tensor:
        """(count,) of N(0, 1), or 0."""
        return self.or_else(torch.randn(self.count, device=self.device), 0.0)


def _any_angle(count: int, device: torch.device | str) -> Tensor:
    return (2 * torch.rand(count, device=device) - 1) * math.pi


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix([[x, zero, zero], [zero, y, zero], [zero, zero, one]])


def _turn(angle: Tensor) -> Tensor:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    sin, cos = angle.sin(), angle.cos()
    return _matrix([[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]])


def _shift(by: Tensor) -> Tensor:
    matrix = torch.eye(3, device=by.device).repeat(len(by), 1, 1)
    matrix[:, :2, 2] = by
    return matrix


def _hue(angle: Tensor) -> Tensor:
    """(B, 3, 3): the turn by `angle` about the grey axis (Rodrigues)."""
    axis = 1 / math.sqrt(3)
    cross = angle.new_tensor([[0, -axis, axis], [axis, 0, -axis], [-axis, axis, 0]])
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return cos * torch.eye(3, device=angle.device) + sin * cross + (1 - cos) / 3


# What is done.


def coloured(images: Tensor, matrix: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] whose colours, on [-1, 1], are multiplied by matrices (B, 4, 4)."""
    flat = (2 * images - 1).flatten(2)
    return ((matrix[:, :3, :3] @ flat + matrix[:, :3, 3:]) / 2 + 0.5).view_as(images)


def warped(images: Tensor, matrix: Tensor) -> Tensor:
    """Pictures (B, 3, H, W), looked up where matrices (B, 3, 3) of `drawn_geometry` say.

    At twice the size and back, by an orthogonal filter: what stays in place stays sharp. Beyond its edges a picture
    goes on as in mirrors, however far (published: as far as one mirror reaches).
    """
    height, width = images.shape[-2:]
    taps = images.new_tensor(SYM6) / math.sqrt(2)
    large = _enlarged(_mirrored(images), taps)
    # The pixel whose centre lies `place` from the picture's centre has, at twice the size, its centre at this index:
    # 2 (place + (side - 1) / 2) + CENTRE.
    rows, columns = (
        (torch.arange(2 * side + len(taps) - 2, device=matrix.device, dtype=matrix.dtype) - CENTRE) / 2 - (side - 1) / 2
        for side in (height, width)
    )
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    found = places @ matrix[:, None, :2, :2].mT + matrix[:, None, None, :2, 2]
    sides = found.new_tensor([width, height])
    index = 2 * (_within(found, sides) + (sides - 1) / 2 + MARGIN) + CENTRE
    grid = (2 * index + 1) / found.new_tensor([large.shape[-1], large.shape[-2]]) - 1
    return _reduced(sampled(large, grid), taps)


def _mirrored(images: Tensor) -> Tensor:
    """Larger by `MARGIN` on each side; the edge itself is the mirror, and the outermost pixel comes twice."""
    for dim in (-2, -1):
        side = images.shape[dim]
        index = torch.arange(-MARGIN, side + MARGIN, device=images.device) % (2 * side)
        images = images.index_select(dim, torch.minimum(index, 2 * side - 1 - index))
    return images


def _within(places: Tensor, sides: Tensor) -> Tensor:
    """Places from the centre, folded into the picture by mirrors at its edges."""
    phase = (places / sides + 0.5).remainder(2)
    return (0.5 - (phase - 1).abs()) * sides


def _enlarged(images: Tensor, taps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2 H + 10, 2 W + 10): each pixel spread over the filter's 12 places from 2 i on."""
    channels = images.shape[1]
    column, row = (2 * line for line in _lines(taps, channels))
    tall = functional.conv_transpose2d(images, column, stride=(2, 1), groups=channels)
    return functional.conv_transpose2d(tall, row, stride=(1, 2), groups=channels)


def _reduced(images: Tensor, taps: Tensor) -> Tensor:
    """(B, C, 2 H + 10, 2 W + 10) -> (B, C, H, W): enlarging transposed, and so undone."""
    channels = images.shape[1]
    column, row = _lines(taps, channels)
    wide = functional.conv2d(images, column, stride=(2, 1), groups=channels)
    return functional.conv2d(wide, row, stride=(1, 2), groups=channels)


def _lines(taps: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """The filter as a column and a row, one per channel."""
    return taps.view(1, 1, -1, 1).expand(channels, -1, -1, -1), taps.view(1, 1, 1, -1).expand(channels, -1, -1, -1)


def sampled(images: Tensor, grid: Tensor) -> Tensor:
    """`grid_sample` (bilinear, zeros beyond, corners not aligned) whose gradient by the images has a gradient itself;
    none flows to the grid."""
    return _Sample.apply(images, grid)  # pyright: ignore[reportReturnType]


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return functional.grid_sample(images, grid, align_corners=False)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return _Spread.apply(slopes[0], *ctx.saved_tensors, ctx.shape), None  # pyright: ignore[reportReturnType]


class _Spread(torch.autograd.Function):
    """What `_Sample` does, transposed; both are linear, so that each is the other's gradient."""

    @staticmethod
    def forward(ctx: Any, slopes: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        # Of the pictures it wants to know the size alone: bilinear, zeros, the gradient of the pictures and not the
        # grid's.
        pictures = slopes.new_zeros(shape)
        return torch.ops.aten.grid_sampler_2d_backward(slopes, pictures, grid, 0, 0, False, (True, False))[0]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        return _Sample.apply(slopes[0], *ctx.saved_tensors), None, None  # pyright: ignore[reportReturnType]


# How strong.


class Controller(nn.Module):
    """The probability that keeps the critic from knowing the training pictures by heart (section 3 of the paper).

    Where the critic scores more than a share of the real pictures above 0, the probability grows, else it shrinks.
    Everything is in buffers, so that training resumes as it was.
    """

    strength: Tensor
    """The probability, in [0, 1]."""
    running_mean: Tensor
    """The mean sign of scores of real pictures since the last change; fit averages buffers of this name over
    processes."""
    calls: Tensor
    last: Tensor
    """The step of the last change."""

    def __init__(self, start: float = 0.0, images: int = 500_000, target: float = 0.6, every: int = 4) -> None:
        """images: over so many the probability goes from 0 to 1. target: of the mean sign of the scores of real
        pictures. every: steps between two changes."""
        super().__init__()
        self.images, self.target, self.every = images, target, every
        self.register_buffer("strength", torch.tensor(start))
        self.register_buffer("running_mean", torch.zeros(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def observe(self, scores: Tensor) -> None:
        """Take note of scores (B,) of augmented real pictures."""
        self.calls += 1
        self.running_mean += (scores.float().sign().mean() - self.running_mean) / self.calls

    @torch.no_grad()
    def adjust(self, step: int, batch: int) -> None:
        """Change the strength, where the time has come. step: done before this one. batch: pictures in a step."""
        steps = step - int(self.last)
        if steps < self.every or not self.calls:
            return
        change = (self.running_mean - self.target).sign() * (steps * batch / self.images)
        self.strength.add_(change).clamp_(0, 1)
        self.running_mean.zero_()
        self.calls.zero_()
        self.last.fill_(step)


__all__ = ["SYM6", "Controller", "augmented", "coloured", "drawn_colours", "drawn_geometry", "sampled", "warped"]
