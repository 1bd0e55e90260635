"""Train GAN2Shape jointly on many pictures: depth, albedo, view, light and offsets for a generator's kind of thing.

    aboutface train gan2shape --data DIR --gan generator.safetensors --start unsup3d.safetensors

DIR is a folder or tar of square crops, read as `aboutface train stylegan2` reads them. Each picture is first projected
onto the generator's manifold; with --samples the generator's own pictures are the targets, which need no projection.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UsageError
from ..files import atomic_path
from ..fit import Run, find_device
from ..generate import Gan, ProjectionSettings, project
from ..nn.autoencoder import Head
from ..reconstruct.gan2shape import GAN2Shape, GAN2ShapeSettings, Target, ViewLightStatistics, measure, resized
from ..reconstruct.gan2shape_file import gan_of, settings_of, tensors_of
from ..reconstruct.gan2shape_priors import Category, Prior
from ..reconstruct.gan2shape_run import Progress, optimise
from ..reconstruct.gan2shape_schedule import (
    PAPER_MAPPING,
    Quality,
    Schedule,
    fast,
    paper,
    scaled,
    without_symmetry,
)
from ..reconstruct.unsup3d import Unsup3d, Unsup3dSettings, built
from ..weights import load_file
from . import Trained
from .unsup3d import Crop, read_images

MEASURED = 2000
"""Pictures whose views and lights are measured, at most."""
AT_ONCE = 32
"""Pictures that are made, projected or measured at once."""


@dataclass(frozen=True)
class GAN2ShapeTraining:
    """Joint pre-training of GAN2Shape (ICLR 2021) on many pictures at once, against a StyleGAN2 of such pictures."""

    gan: str | None = None
    """Weights (.safetensors) of the generator and its critic, or their name in `aboutface models list`; required. The
    file that is written holds them, too, unless they have such a name."""
    start: Path | None = None
    """Weights of an Unsup3d of these pictures: its shape, albedo, view and light are the start, instead of the prior,
    and its views and lights the statistics."""
    statistics: Path | None = None
    """Weights of an Unsup3d that only measures how views and lights vary in DIR; those of --start if missing."""
    targets: int = 200
    """Pictures to train on."""
    samples: int = 0
    """Train on so many of the generator's own pictures instead of those of DIR."""
    truncation: float = 0.7
    """Of these."""
    quality: Quality = "fast"
    """paper: the published iterations, rates and weights; fast: ours."""
    iterations: int | None = None
    """Scale the schedule to so many in all."""
    category: Category = "face"
    """What the pictures show; it chooses the published settings."""
    prior: Prior = "ellipsoid"
    """The shape to start from."""
    symmetry: bool = True
    """Use that the object is symmetric."""
    regularised: bool = True
    """Keep offsets natural: through the mapping network, and small."""
    size: int = 64
    """Side of the images, pixels: 16, 32, 64, 128. With --start this and the next five are those of its network."""
    width: int = 64
    """Channels of the networks' outermost level; the published number is 4096 / size."""
    latent: int = 256
    """Numbers in the neck of the networks."""
    depth_head: Head = "full"
    """Last level of depth: full (published), or smooth: made at half size."""
    albedo_head: Head = "full"
    """Last level of albedo: full (published), or sharp: a single convolution at full size."""
    mean: bool = False
    """Learn a mean shape, which is the prior at first."""
    offset_width: int = 32
    """Channels of the encoder's first level."""
    at_once: int | None = None
    """Targets per iteration; the schedule's own if missing."""
    batch: int | None = None
    """Samples of each of them per iteration; the schedule's own if missing."""
    collected: int | None = None
    """Samples that are collected of each target in a stage; the schedule's own if missing."""
    crop: Crop = "auto"
    """face: by landmarks; centre: the largest centred square; auto: face where most images have landmarks."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        for name, least in (("targets", 1), ("samples", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name}: expected {least} or more, got {getattr(self, name)}")
        for name in ("iterations", "at_once", "batch", "collected"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')}: expected 1 or more, got {value}")
        if not (0 < self.truncation < math.inf):
            raise UsageError(f"--truncation: expected a number above 0, got {self.truncation}")

    @property
    def schedule(self) -> Schedule:
        """What `optimise` does."""
        schedule = paper(self.category, joint=True) if self.quality == "paper" else fast(self.category, joint=True)
        given = {"targets": self.at_once, "batch": self.batch, "samples": self.collected}
        schedule = replace(schedule, **{name: value for name, value in given.items() if value is not None})
        schedule = replace(schedule, prior=self.prior)
        if not self.regularised:
            schedule = replace(schedule, losses=replace(schedule.losses, offset=0.0))
        if self.iterations is not None:
            schedule = scaled(schedule, self.iterations)
        return schedule if self.symmetry else without_symmetry(schedule)

    def settings(self, latent: int, network: Unsup3dSettings | None = None) -> GAN2ShapeSettings:
        """The networks for a generator with `latent` numbers in w. network: of a start."""
        own = network or Unsup3dSettings(
            size=self.size,
            width=self.width,
            latent=self.latent,
            encoder_width=self.width,
            depth_head=self.depth_head,
            albedo_head=self.albedo_head,
            confidence_width=0,
            mean=self.mean,
        )
        mapping = PAPER_MAPPING[self.category]
        depth = mapping.mapping_depth if self.regularised else -1
        network = replace(own, confidence_width=0)
        return GAN2ShapeSettings(network, latent, self.offset_width, depth, mapping.relative)

    def train(self, data: Path, run: Run | None, log: Callable[[str], None]) -> Trained:
        """Train on pictures of `data`, or on the generator's, whose views and lights are as those of `data`."""
        if self.gan is None:
            raise UsageError("train gan2shape: expected a generator; give --gan FILE, which train stylegan2 writes")
        find_device(self.device)
        gan = gan_of(self.gan)
        start = None if self.start is None else _unsup3d(self.start)
        size = self.size if start is None else start.settings.size
        images, views = read_images(data, size, self.crop, log)
        settings = replace(self, crop="centre" if views is None else "face")
        known = start if self.statistics is None else _unsup3d(self.statistics)
        statistics = measured(known, images, size, log)
        targets = settings.kept(gan, images, run, log)
        folder = None if run is None else run.folder / "stages"
        model = train_gan2shape(gan, targets, settings, statistics, start, folder, log)
        scores = {"reconstruction_error": reconstruction_error(model, targets)}
        training = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()}
        return Trained(tensors_of(model, gan, self.gan), scores, settings_of(model, gan, self.gan, training))

    def found(self, gan: Gan, images: Tensor, log: Callable[[str], None]) -> list[Target]:
        """The targets: the generator's own pictures, or images (N, 3, S, S) uint8 and their w."""
        if self.samples:
            return sampled_targets(gan, self.samples, images.shape[-1], self.truncation, self.seed)
        chosen = images[torch.linspace(0, len(images) - 1, min(self.targets, len(images))).long()]
        return projected_targets(gan, chosen / 255, log, self.device)

    def kept(self, gan: Gan, images: Tensor, run: Run | None, log: Callable[[str], None]) -> list[Target]:
        """The same, found once per run: found again, on a GPU or by another number of threads, they would differ in
        their last digits, and the work on them would not go on."""
        if run is None:
            return self.found(gan, images, log)
        file = run.folder / "targets.safetensors"
        known = read_targets(file) if file.is_file() else []
        if len(known) != (self.samples or min(self.targets, len(images))):
            write_targets(file, self.found(gan, images, log))
            known = read_targets(file)
        return known


def train_gan2shape(
    gan: Gan,
    targets: list[Target],
    settings: GAN2ShapeTraining,
    statistics: ViewLightStatistics,
    start: Unsup3d | None = None,
    folder: Path | None = None,
    log: Callable[[str], None] = print,
    watch: Callable[[GAN2Shape, Progress], None] | None = None,
) -> GAN2Shape:
    """The model, on the CPU. It goes on where an earlier call with the same folder was interrupted.

    watch: is shown the model at each report of progress.
    """
    network = None if start is None else start.settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = GAN2Shape(settings.settings(gan.generator.settings.latent, network), statistics)
    schedule, lines = settings.schedule, _Lines(log)
    if start is not None:
        model.start_from(start)
        schedule = replace(schedule, prior=None)

    def shown(progress: Progress) -> None:
        lines(progress)
        if watch is not None:
            watch(model, progress)

    log(f"{len(targets)} targets, {schedule.iterations} iterations in {len(schedule.stages)} stages")
    optimise(model, gan, targets, schedule, run=folder, progress=shown, device=settings.device, seed=settings.seed)
    return model.cpu().eval()


class _Lines:
    """Progress as lines: ten of a step, and every note."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self.log = log

    def __call__(self, progress: Progress) -> None:
        tenth = max(1, progress.iterations // 10)
        if progress.note or (progress.preview is None and progress.iteration % tenth == 0):
            self.log(progress.line())


def measured(net: Unsup3d | None, images: Tensor, size: int, log: Callable[[str], None] = print) -> ViewLightStatistics:
    """Views and lights of images (N, 3, S, S) uint8, as a trained Unsup3d sees them; usual ones without it."""
    if net is None:
        log("no Unsup3d to measure views and lights with: usual ones are taken; --start or --statistics gives one")
        return ViewLightStatistics.usual()
    if net.settings.size != size:
        raise UsageError(f"--statistics: expected an Unsup3d of {size} pixels, got one of {net.settings.size}")
    found = measure(net, images[:: max(1, len(images) // MEASURED)])
    angles = found.view_covariance.diagonal()[:3].sqrt().tolist()
    log(f"yaw, pitch and roll vary by {angles[0]:.1f}, {angles[1]:.1f} and {angles[2]:.1f} degrees")
    return found


@torch.no_grad()
def sampled_targets(gan: Gan, count: int, size: int, truncation: float = 0.7, seed: int = 0) -> list[Target]:
    """Pictures of the generator itself, at `size` pixels, with their w."""
    mapping, random = gan.generator.mapping, torch.Generator().manual_seed(seed)
    z = torch.randn(count, gan.generator.settings.latent, generator=random).to(mapping.centre)
    w = torch.cat([mapping(part, truncation) for part in z.split(AT_ONCE)])
    images = [resized(gan.generator.synthesis(part).clamp(0, 1), size) for part in w.split(AT_ONCE)]
    return [Target(image, one) for image, one in zip(torch.cat(images).cpu(), w.cpu(), strict=True)]


def projected_targets(
    gan: Gan, images: Tensor, log: Callable[[str], None] = print, device: str = "auto"
) -> list[Target]:
    """Images (N, 3, S, S) in [0, 1] with the w of the nearest pictures that the generator makes."""
    found = []
    for part in images.split(AT_ONCE):
        w = project(gan, part, ProjectionSettings(device=device)).w
        found += [Target(image, one) for image, one in zip(part, w, strict=True)]
        log(f"projected {len(found)} of {len(images)} pictures")
    return found


def write_targets(file: Path, targets: list[Target]) -> None:
    """Images and w, as `read_targets` takes them. Raises OutputError."""
    from safetensors.torch import save

    stacked = {name: torch.stack([getattr(target, name) for target in targets]) for name in ("image", "w")}
    with atomic_path(file) as part:
        part.write_bytes(save(stacked))


def read_targets(file: Path) -> list[Target]:
    """Raises UsageError for a file that `write_targets` did not write."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(file)
        return [Target(image, w) for image, w in zip(stored["image"], stored["w"], strict=True)]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UsageError(f"{file}: holds no targets ({' '.join(str(error).split())[:100]}); delete it") from None


@torch.no_grad()
def reconstruction_error(model: GAN2Shape, targets: list[Target]) -> float:
    """Mean absolute difference, in [0, 1], of the targets and their reconstructions, where there is a surface."""
    errors = []
    place = model.net.K.device
    for target in targets:
        image = target.image[None].to(place)
        seen = model.net.reproject(model(image))
        errors.append(float(((seen.image - image).abs().mean(1) * seen.valid).sum() / seen.valid.sum().clamp_min(1)))
    return sum(errors) / len(errors)


def _unsup3d(file: Path) -> Unsup3d:
    tensors, about = load_file(file)
    return built(tensors, about, file)


__all__ = ["GAN2ShapeTraining", "measured", "projected_targets", "read_targets", "sampled_targets", "train_gan2shape"]
__all__ += ["write_targets"]
