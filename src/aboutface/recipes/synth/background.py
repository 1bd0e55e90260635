"""What stands behind a face: plain, shaded, cloudy, striped, cluttered. Invented."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def draw_background(random: np.random.Generator, size: int) -> Tensor:
    """A picture (3, size, size), RGB from 0.02 to 0.98."""
    kind = random.choice(5, p=(0.15, 0.25, 0.3, 0.1, 0.2))
    picture = (_plain, _shaded, _cloudy, _striped, _cluttered)[kind](random, size)
    return picture.clamp(0.02, 0.98)


def _colour(random: np.random.Generator) -> Tensor:
    """(3, 1, 1): any brightness, mostly not very colourful."""
    grey, hue = random.uniform(0.05, 0.95), random.standard_normal(3)
    colour = grey + (hue - hue.mean()) * random.gamma(1.5, 0.08)
    return torch.from_numpy(colour.clip(0.02, 0.98).astype(np.float32))[:, None, None]


def _places(size: int) -> tuple[Tensor, Tensor]:
    """x and y from -1 to 1."""
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    return line[None, :], line[:, None]


def _noise(random: np.random.Generator, cells: int, size: int, channels: int = 1) -> Tensor:
    """(channels, size, size) smooth noise of about `cells` bumps across."""
    grid = torch.from_numpy(random.standard_normal((1, channels, cells + 1, cells + 1), np.float32))
    return functional.interpolate(grid, (size, size), mode="bicubic", align_corners=True)[0]


def _plain(random: np.random.Generator, size: int) -> Tensor:
    return _colour(random) + 0.01 * _noise(random, 4, size)


def _shaded(random: np.random.Generator, size: int) -> Tensor:
    x, y = _places(size)
    angle = random.uniform(0, 2 * math.pi)
    along = (x * math.cos(angle) + y * math.sin(angle)) * random.uniform(0.3, 0.6)
    if random.random() < 0.4:
        along = (x - random.uniform(-1, 1)).square() * 0.5 + (y - random.uniform(-1, 1)).square() * 0.5 - 0.5
    return torch.lerp(_colour(random), _colour(random), (along + 0.5).clamp(0, 1)[None])


def _cloudy(random: np.random.Generator, size: int) -> Tensor:
    first = int(random.integers(2, 5))
    total = sum(0.55**i * _noise(random, first * 2**i, size) for i in range(4))
    share = torch.sigmoid(torch.as_tensor(total) * random.uniform(0.8, 3))
    return torch.lerp(_colour(random), _colour(random), share) + 0.03 * _noise(random, 2 * first, size, 3)


def _striped(random: np.random.Generator, size: int) -> Tensor:
    x, y = _places(size)
    angle, count = random.uniform(0, math.pi), random.uniform(2, 9)
    wave = torch.sin((x * math.cos(angle) + y * math.sin(angle)) * (count * math.pi) + random.uniform(0, 6.28))
    share = (0.5 + wave * random.uniform(0.6, 8)).clamp(0, 1)
    return torch.lerp(_colour(random), _colour(random), share[None]) + 0.04 * _noise(random, 3, size)


def _cluttered(random: np.random.Generator, size: int) -> Tensor:
    """Boxes and discs, out of focus."""
    x, y = _places(size)
    picture = _shaded(random, size)
    for _ in range(int(random.integers(3, 10))):
        cx, cy, wide, high = *random.uniform(-1, 1, 2), *random.uniform(0.1, 0.8, 2)
        if random.random() < 0.5:
            inside = 1 - torch.maximum((x - cx).abs() / wide, (y - cy).abs() / high)
        else:
            inside = 1 - torch.sqrt(((x - cx) / wide).square() + ((y - cy) / high).square())
        share = (inside * random.uniform(3, 25)).clamp(0, 1) * random.uniform(0.5, 1)
        picture = torch.lerp(picture, _colour(random), share[None])
    return picture
