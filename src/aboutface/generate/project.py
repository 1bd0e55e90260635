"""Real pictures onto a generator's manifold: the w, and if wanted the noise, whose picture is nearest.

Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020, section 5 and appendix D. Several
pictures are optimised at once; none of them knows of the others.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from .. import weights
from ..errors import UsageError
from ..files import atomic_path
from ..fit import FitSettings, Phase, Repeated, Task, fit
from ..nn.stylegan2 import CENTRE_DRAWS, Generator
from .likeness import Likeness
from .load import Gan

BATCH = 16
"""Pictures that are optimised at once."""
WARM_UP, COOL_DOWN, EXPLORED = 0.05, 0.25, 0.75
"""Shares of the steps: in which the learning rate rises, in which it falls, and in which w is shaken."""
SMALLEST_NOISE = 8
"""Pixels of the smallest noise maps that the regulariser looks at."""
PAIRS = 32
"""Pairs of random samples whose distance is the unit of errors."""
SMALLEST_UNIT = 1e-9
"""Of those distances."""
POOR, POOR_RMSE = 0.2, 0.12
"""A picture that is farther from what was found, of the distance between two random samples, or in colours, is found
poorly."""


@dataclass(frozen=True)
class ProjectionSettings:
    """How long and in what space to search. The defaults are the published ones, but for the noise."""

    steps: int = 1000
    """Steps of the optimiser."""
    space: Literal["w", "w+"] = "w"
    """One w for all layers, or one for each, which comes nearer and is less of a sample."""
    noise: bool = False
    """Optimise the noise maps, too. GAN2Shape ignores them, so for it they stay those in the weights."""
    learning_rate: float = 0.1
    """Highest rate of Adam."""
    exploration: float = 0.05
    """Noise on w at first, of the spread of random w."""
    noise_weight: float = 1e5
    """Weight of the regulariser that keeps pictures out of the noise maps."""
    seed: int = 0
    """Of everything random."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"project: steps: expected 1 or more, got {self.steps}")
        if self.space not in ("w", "w+"):
            raise UsageError(f"project: space: expected w or w+, got {self.space!r}")
        for name in ("learning_rate", "exploration", "noise_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"project: {name}: expected 0 or more, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Projection:
    """What was found for N pictures, and how near it is."""

    w: Tensor
    """(N, D), or one per layer (N, L, D)."""
    images: Tensor
    """(N, 3, S, S) in [0, 1]: the generator's pictures of w."""
    rmse: Tensor
    """(N,): root mean square difference of colours in [0, 1]."""
    distance: Tensor
    """(N,): perceptual distance, of the generator's typical distance between two samples."""
    features: str
    """In which the distance was measured: vgg16 or filters."""
    noise: tuple[Tensor, ...] = ()
    """(N, 1, H, W) per convolution, where it was optimised."""

    @property
    def psnr(self) -> Tensor:
        """(N,): peak signal to noise ratio, decibels."""
        return -20 * self.rmse.clamp_min(1e-6).log10()

    @property
    def poor(self) -> Tensor:
        """(N,): whether the generator has no picture like it."""
        return (self.distance > POOR) | (self.rmse > POOR_RMSE)

    @property
    def line(self) -> str | None:
        """A sentence for the user about pictures found poorly; None where there is none."""
        if not self.poor.any():
            return None
        worst = int((self.distance / POOR).maximum(self.rmse / POOR_RMSE).argmax())
        which = "the photo" if len(self.w) == 1 else f"{int(self.poor.sum())} of {len(self.w)} photos"
        return (
            f"the generator has no picture much like {which}: its nearest is {self.distance[worst]:.0%} as far away as "
            f"one random sample from another (expected at most {POOR:.0%}), and differs by {self.rmse[worst]:.3f} "
            f"(RMSE of colours in 0..1, expected at most {POOR_RMSE})"
        )

    def about(self) -> dict[str, Any]:
        """Measured errors, for a record: numbers for one picture, lists for several."""
        found = {"rmse": self.rmse, "psnr": self.psnr, "distance": self.distance, "poor": self.poor}
        plain = {
            name: values.tolist() if values.dtype == torch.bool else _rounded(values) for name, values in found.items()
        }
        return {name: values[0] if len(self.w) == 1 else values for name, values in plain.items()} | {
            "features": self.features
        }

    def only(self, index: int) -> "Projection":
        """Of one picture."""
        each = {name: getattr(self, name)[index : index + 1] for name in ("w", "images", "rmse", "distance")}
        return Projection(**each, features=self.features, noise=tuple(map_[index : index + 1] for map_ in self.noise))

    def write(self, file: Path) -> None:
        """A .safetensors, as `read` takes it."""
        from safetensors.torch import save

        tensors = {name: getattr(self, name).contiguous() for name in ("w", "images", "rmse", "distance")}
        tensors |= {f"noise.{i}": map_.contiguous() for i, map_ in enumerate(self.noise)}
        with atomic_path(file) as part:
            part.write_bytes(save(tensors, metadata={"features": self.features}))

    @classmethod
    def read(cls, file: Path) -> "Projection":
        """Raises UsageError for another kind of file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(file), framework="pt") as stored:
                found = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                features = (stored.metadata() or {})["features"]
            noise = tuple(found.pop(f"noise.{i}") for i in range(len(found) - 4))
            return cls(**found, features=features, noise=noise)
        except (SafetensorError, OSError, KeyError, TypeError) as error:
            raise UsageError(f"{file}: is no projection ({' '.join(str(error).split())[:100]}); delete it") from None


def project(
    gan: Gan,
    images: Tensor,
    settings: ProjectionSettings | None = None,
    start: Tensor | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Projection:
    """The nearest pictures of the generator to images (N, 3, H, W) in [0, 1], which are brought to its size first.

    start: w (N, D) to begin at, an encoder's for instance; the mean w if missing. progress: called with the pictures
    done and all pictures. Raises UsageError for images of another form, DivergedError where numbers overflow.
    """
    settings = settings or ProjectionSettings()
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3] or not len(images):
        raise UsageError(f"project: expected square images (N, 3, S, S), got {tuple(images.shape)}")
    likeness = Likeness.from_file(weights.info("vgg16").path)
    unit, parts = typical_distance(gan.generator, likeness), []
    for first in range(0, len(images), BATCH):
        chosen = slice(first, first + BATCH)
        begun = gan.generator.mapping.centre if start is None else start[chosen]
        parts.append(_projected(gan.generator, likeness, unit, images[chosen], begun, settings))
        if progress is not None:
            progress(min(first + BATCH, len(images)), len(images))
    return _joined(parts)


def assessed(
    generator: Generator, likeness: Likeness, unit: float, images: Tensor, w: Tensor, noise: tuple[Tensor, ...] = ()
) -> Projection:
    """The pictures of w beside those that they should be (N, 3, S, S). unit: see `typical_distance`."""
    with torch.no_grad():
        found = generator.synthesis(w, noise or "stored").clamp(0, 1)
        distance = likeness.perceptual(found, likeness.described(images)) / unit
    rmse = (found - images).square().mean((1, 2, 3)).sqrt()
    maps = tuple(map_.cpu() for map_ in noise)
    return Projection(w.cpu(), found.cpu(), rmse.cpu(), distance.cpu(), likeness.name, maps)


@torch.no_grad()
def typical_distance(generator: Generator, likeness: Likeness, seed: int = 0) -> float:
    """Median perceptual distance between two random samples of full spread: the unit in which errors are told."""
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(2 * PAIRS, generator.settings.latent, generator=random).to(generator.mapping.centre)
    distances = []
    # A few at once: a hundred-odd large maps for each of 64 pictures would fill the memory.
    for one, other in zip(*(half.split(8) for half in z.split(PAIRS)), strict=True):
        first, second = (generator(part).clamp(0, 1) for part in (one, other))
        distances.append(likeness.perceptual(first, likeness.described(second)))
    # A generator that makes one picture only has no unit.
    return max(float(torch.cat(distances).median()), SMALLEST_UNIT)


def brought_to(images: Tensor, size: int) -> Tensor:
    """Square images at another size; shrinking averages."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)


@torch.no_grad()
def spread(generator: Generator, seed: int = 123) -> float:
    """Root of the mean squared distance of w of random z from the mean w."""
    random = torch.Generator().manual_seed(seed)
    centre = generator.mapping.centre
    z = torch.randn(CENTRE_DRAWS, len(centre), generator=random).to(centre)
    return float((generator.mapping(z) - centre).square().sum(1).mean().sqrt())


def noise_regulariser(maps: list[Tensor] | nn.ParameterList) -> Tensor:
    """(): sum over pictures, maps (N, 1, H, W) and scales of the squared correlations with neighbours (equation 5 of
    appendix D)."""
    total = torch.zeros((), device=maps[0].device)
    for noise in maps:
        while True:
            for axis in (2, 3):
                total = total + (noise * noise.roll(1, axis)).mean((1, 2, 3)).square().sum()
            if noise.shape[-1] <= SMALLEST_NOISE:
                break
            noise = functional.avg_pool2d(noise, 2)
    return total


def rate(step: int, steps: int) -> float:
    """Learning rate of a step, of the highest: a linear rise, and half a cosine down at the end."""
    t = step / steps
    fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / COOL_DOWN))
    return fall * min(1.0, t / WARM_UP)


class _ProjectionTask(Task):
    """The latents of some pictures, and the loss that pulls them there."""

    name = "projection"

    def __init__(
        self, generator: Generator, likeness: Likeness, images: Tensor, w: Tensor, settings: ProjectionSettings
    ) -> None:
        super().__init__()
        # A copy: it moves to another device.
        self.generator, self.likeness, self.settings = deepcopy(generator), deepcopy(likeness), settings
        self.w = nn.Parameter(w.clone())
        stored = generator.synthesis.stored_noise() if settings.noise else []
        random = torch.Generator().manual_seed(settings.seed)
        maps = [torch.randn(len(images), 1, *map_.shape, generator=random) for map_ in stored]
        self.noise = nn.ParameterList(maps)
        self.shake = spread(generator) * settings.exploration
        self.register_buffer("images", images, persistent=False)
        self._wanted: list[Tensor] | None = None

    def phases(self) -> dict[str, Phase]:
        adam = Adam([self.w, *self.noise], lr=self.settings.learning_rate)
        return {"search": Phase(adam, LambdaLR(adam, lambda step: rate(step, self.settings.steps)))}

    def loss(self, phase: str, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        images = self.get_buffer("images")
        if self._wanted is None:
            with torch.no_grad():
                self._wanted = self.likeness.described(images)
        self.normalise()
        shake = self.shake * max(0.0, 1 - step / self.settings.steps / EXPLORED) ** 2
        w = self.w + shake * torch.randn_like(self.w)
        found = self.generator.synthesis(w, list(self.noise) or "stored")
        # Sums: what one picture pulls does not depend on how many there are.
        loss = self.likeness(found, images, self._wanted).sum()
        terms = {"likeness": loss / len(images)}
        if len(self.noise):
            terms["noise"] = noise_regulariser(self.noise)
            loss = loss + self.settings.noise_weight * terms["noise"]
        return loss, terms

    @torch.no_grad()
    def normalise(self) -> None:
        """Every noise map to mean 0 and deviation 1."""
        for noise in self.noise:
            noise.sub_(noise.mean((2, 3), keepdim=True))
            noise.div_(noise.square().mean((2, 3), keepdim=True).sqrt())


def _projected(
    generator: Generator, likeness: Likeness, unit: float, images: Tensor, start: Tensor, settings: ProjectionSettings
) -> Projection:
    """Of one batch."""
    images = brought_to(images.to(generator.mapping.centre), generator.settings.size)
    w = start.to(images).expand(len(images), -1)
    if settings.space == "w+":
        w = generator.synthesis.per_layer(w)
    task = _ProjectionTask(generator, likeness, images, w, settings)
    run = FitSettings(settings.steps, log_every=max(1, settings.steps), device=settings.device, seed=settings.seed)
    fit(task, Repeated({}, len(images)), run, log=_silent)
    task.normalise()
    # Back on the networks' own device.
    task.to(images.device)
    return assessed(generator, likeness, unit, images, task.w.detach(), tuple(map_.detach() for map_ in task.noise))


def _joined(parts: list[Projection]) -> Projection:
    tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("w", "images", "rmse", "distance")}
    noise = tuple(torch.cat(maps) for maps in zip(*(part.noise for part in parts), strict=True))
    return Projection(**tensors, features=parts[0].features, noise=noise)


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]


def _silent(_: str) -> None:
    pass
