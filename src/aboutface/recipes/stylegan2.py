"""Train StyleGAN2 on pictures of one kind of thing.

    aboutface train stylegan2 --data DIR

DIR is a folder or tar of square crops; faces with landmarks are cut out by them, as for `aboutface train unsup3d`,
whose frame the generator's faces then have.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from ..errors import UsageError
from ..fit import FitSettings, Phase, Run, Task, TensorBatches, fit
from ..metrics.generated import frechet_distance, kernel_distance
from ..nn.augment import Controller, augmented
from ..nn.inception import InceptionFeatures
from ..nn.inversion import LatentEncoder, LatentEncoderSettings
from ..nn.stylegan2 import Discriminator, Generator, StyleGAN2Settings
from ..weights import load_file
from . import Trained
from .picture_features import described, picture_features
from .stylegan2_autoencoder import reconstruction_loss
from .unsup3d import Crop, read_images

SHOWN = 16
"""Pictures in a row of the preview."""
TRUNCATION = 0.7
"""Of the preview's second row."""
SAMPLED = 32
"""Pictures at once where distances are measured."""

Augmentation = Literal["adaptive", "fixed", "none"]


@dataclass(frozen=True)
class StyleGAN2Training:
    """Pictures of one kind of thing out of random numbers, and a critic of them (StyleGAN2, CVPR 2020)."""

    size: int = 64
    """Side of the pictures, pixels: 32, 64, 128 ... 1024."""
    latent: int = 512
    """Numbers in z and in w."""
    mapping_layers: int = 8
    """Layers from z to w."""
    channel_base: int = 16384
    """A level of r pixels has this divided by r channels; 16384 is configuration E, 32768 F."""
    channel_max: int = 512
    """At most so many."""
    crop: Crop = "auto"
    """face: by landmarks; centre: the largest centred square; auto: face where most images have landmarks."""
    flip: bool = True
    """Show the critic half of the pictures mirrored."""
    batch: int = 32
    """Pictures per step."""
    learning_rate: float = 2.5e-3
    """Rate of the generator's Adam."""
    critic_rate: float | None = None
    """Rate of the critic's; the same if missing. After stylegan2-autoencoder a tenth of the critic's is enough for the
    generator, or it forgets what it knows before the critic knows anything."""
    r1: float | None = None
    """Weight of the critic's squared slope on real pictures; 0.0002 * size^2 / batch if missing."""
    r1_every: int = 16
    """Steps between two of these, which then count as many times as much."""
    path_length: float = 2.0
    """Weight of the path length regularisation; 0 leaves it out."""
    path_every: int = 4
    """Steps between two of these."""
    mixing: float = 0.9
    """Share of pictures whose coarse and fine layers have different w."""
    augment: Augmentation = "adaptive"
    """Change what the critic sees at random, as small sets need it (StyleGAN2-ADA): with a probability that follows
    how well the critic knows the pictures by heart, with a fixed one, or not."""
    augment_strength: float = 0.0
    """That probability, where it is fixed; else where it starts."""
    augment_images: int | None = None
    """Pictures over which an adaptive probability can go from 0 to 1; 500,000 if missing, 100,000 with --start."""
    score: int = 5000
    """Pictures, generated and real, whose distance as sets is measured in the end; 0 measures none. In Inception's
    features (FID, KID) where they are (`aboutface models download inception`), else in deep3d's, made for faces."""
    start: Path | None = None
    """Weights (.safetensors) to start from: of the same settings, or of half the size, whose levels become the inner
    ones; or of stylegan2-autoencoder."""
    reconstruction: float = 0.0
    """Weight of the difference between real pictures and what the start's encoder and the generator make of them; half
    of the pictures that the critic is shown are such, then. It needs a start by stylegan2-autoencoder."""
    warm_up: int = 0
    """Steps in which the generator's rate rises from 0, so that the critic of a start without one can learn first."""
    fit: FitSettings = field(default_factory=lambda: FitSettings(steps=100_000, ema=0.998, preview_every=1000))

    def __post_init__(self) -> None:
        if not 0 <= self.path_length < math.inf:
            raise UsageError(f"--path-length: expected 0 or more, got {self.path_length}")
        if self.r1 is not None and not 0 <= self.r1 < math.inf:
            raise UsageError(f"--r1: expected 0 or more, got {self.r1}")
        for name in ("learning_rate", "critic_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"--{name.replace('_', '-')}: expected a number above 0, got {value}")
        for name in ("batch", "r1_every", "path_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')}: expected 1 or more, got {getattr(self, name)}")
        for name in ("mixing", "augment_strength"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"--{name.replace('_', '-')}: expected a share from 0 to 1, got {getattr(self, name)}")
        if self.augment not in get_args(Augmentation):
            raise UsageError(f"--augment: expected {' or '.join(get_args(Augmentation))}, got {self.augment!r}")
        if self.augment_images is not None and self.augment_images < 1:
            raise UsageError(f"--augment-images: expected 1 or more, got {self.augment_images}")
        if not 0 <= self.reconstruction < math.inf or self.warm_up < 0:
            raise UsageError(
                f"--reconstruction {self.reconstruction} --warm-up {self.warm_up}: expected 0 or more of both"
            )
        if self.reconstruction and self.start is None:
            raise UsageError("--reconstruction: needs --start with weights of stylegan2-autoencoder, which encode")
        if self.score < 0 or self.score == 1:
            raise UsageError(f"--score: expected 0, or 2 or more pictures, got {self.score}")
        _ = self.network

    @property
    def network(self) -> StyleGAN2Settings:
        """The networks that are trained."""
        group = math.gcd(self.batch, 4)
        return StyleGAN2Settings(
            self.size,
            self.latent,
            self.mapping_layers,
            self.channel_base,
            self.channel_max,
            minibatch_group=group if group > 1 else self.batch,
        )

    @property
    def gamma(self) -> float:
        """Weight of R1 (the heuristic of StyleGAN2-ADA's `auto` where none is given)."""
        return 0.0002 * self.size**2 / self.batch if self.r1 is None else self.r1

    def train(self, data: Path, run: Run | None, log: Callable[[str], None]) -> Trained:
        """Train on all pictures of `data`."""
        images, views = read_images(data, self.size, self.crop, log)
        settings = replace(self, crop="centre" if views is None else "face")
        task = train_stylegan2(images, settings, run, log)
        tensors = {name: value for name, value in task.state_dict().items() if not name.startswith("controller.")}
        scores = {"augmentation": float(task.controller.strength)}
        if self.score and len(images) > 1:
            scores |= set_distances(task.generator, images, self.score, log)
        return Trained(tensors, scores, {"network": asdict(self.network), "training": asdict(settings)})


def train_stylegan2(
    images: Tensor, settings: StyleGAN2Training, run: Run | None, log: Callable[[str], None]
) -> "StyleGAN2Task":
    """Train on pictures (N, 3, S, S) uint8: the task with averaged weights of the generator, and the last critic's."""
    if images.shape[1:] != (3, settings.size, settings.size) or images.dtype != torch.uint8:
        raise UsageError(
            f"stylegan2: expected pictures (N, 3, {settings.size}, {settings.size}) uint8, got {tuple(images.shape)} "
            f"{images.dtype}"
        )
    torch.manual_seed(settings.fit.seed)
    task = StyleGAN2Task(settings)
    if settings.start is not None:
        start_from(task, settings.start)
    batches = TensorBatches({"image": images}, settings.batch, settings.fit.seed)
    fitted = fit(task, batches, settings.fit, run, log=log)
    averaged = fitted.averaged
    averaged.generator.mapping.measure_centre()
    return averaged


@torch.no_grad()
def set_distances(
    generator: Generator, images: Tensor, count: int, log: Callable[[str], None], seed: int = 0
) -> dict[str, float]:
    """How far pictures of random z, of full spread, are from `images` (N, 3, S, S) uint8: name -> distance.

    "fid" and "kid" in Inception's features; in others the names say whose. count: of either, N at most.
    """
    network = picture_features().to(next(generator.parameters()).device)
    count = min(count, len(images))
    log(f"comparing {count} generated pictures with as many real ones, in features of {network.name}")
    torch.manual_seed(seed)
    device = generator.mapping.centre.device
    draws = [torch.randn(SAMPLED, generator.settings.latent, device=device) for _ in range(-(-count // SAMPLED))]
    fakes = torch.cat([described(network, generator(z, noise="random").clamp(0, 1)) for z in draws])[:count]
    reals = described(network, images[torch.randperm(len(images))[:count]])
    distances = frechet_distance(reals, fakes), kernel_distance(reals, fakes)[0]
    names = ("fid", "kid") if isinstance(network, InceptionFeatures) else _distance_names(network.name)
    return dict(zip(names, distances, strict=True)) | {"compared_pictures": count}


def _distance_names(features: str) -> tuple[str, str]:
    return f"frechet_distance_{features}", f"kernel_distance_{features}"


class StyleGAN2Task(Task):
    """Generator and critic, and what each makes small."""

    name = "stylegan2"
    mean_path: Tensor

    def __init__(self, settings: StyleGAN2Training) -> None:
        super().__init__()
        self.settings = settings
        self.generator, self.discriminator = Generator(settings.network), Discriminator(settings.network)
        self.encoder: LatentEncoder | None = None
        if settings.reconstruction and settings.start is not None:
            self.encoder = LatentEncoder(encoder_of(settings.start, settings.size))
        self.register_buffer("mean_path", torch.zeros(()))
        images = settings.augment_images or (500_000 if settings.start is None else 100_000)
        self.controller = Controller(settings.augment_strength if settings.augment != "none" else 0.0, images)

    def phases(self) -> dict[str, Phase]:
        s = self.settings
        # Both regularisers have steps of their own, so that there are (k + 1) / k as many: rate and memory are made
        # shorter by as much (StyleGAN2, appendix B).
        generator = _adam(self.generator, s.learning_rate, s.path_every if s.path_length else None)
        critic = _adam(self.discriminator, s.critic_rate or s.learning_rate, s.r1_every if s.gamma else None)
        if self.encoder is not None:
            generator.add_param_group({"params": list(self.encoder.parameters())})
        rising = LambdaLR(generator, lambda step: min(1.0, (step + 1) / s.warm_up)) if s.warm_up else None
        phases = {"generator": Phase(generator, rising)}
        if s.path_length:
            phases["path"] = Phase(generator, every=s.path_every)
        phases["critic"] = Phase(critic, averaged=False)
        if s.gamma:
            phases["r1"] = Phase(critic, every=s.r1_every, averaged=False)
        return phases

    def loss(self, phase: str, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        images = batch["image"].float() / 255
        if phase == "generator":
            return self._generator_loss(images)
        if phase == "critic":
            if self.settings.augment == "adaptive":
                self.controller.adjust(step, self.settings.batch * self.settings.fit.accumulate)
            with torch.no_grad():
                fake = self._fake(self._real(images))
            return self._critic_loss(fake, self._real(images))
        return self._path(max(1, len(images) // 2)) if phase == "path" else self._r1(self._real(images))

    def _generator_loss(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        wanted = self._real(images)
        fake = self._fake(wanted)
        scores = self._score(fake)
        loss, terms = functional.softplus(-scores).mean(), {"score": scores.mean()}
        if self.encoder is None:
            return loss, terms
        again = slice(len(images) // 2, None)
        terms["reconstruction"] = reconstruction_loss(fake[again], wanted[again])
        return loss + self.settings.reconstruction * terms["reconstruction"], terms

    def _score(self, images: Tensor) -> Tensor:
        """What the critic says of pictures, real ones or not: it sees all of them changed alike."""
        return self.discriminator(augmented(images, self.controller.strength))

    def _critic_loss(self, fake: Tensor, real: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        fakes, reals = self._score(fake), self._score(real)
        self.controller.observe(reals)
        loss = functional.softplus(fakes).mean() + functional.softplus(-reals).mean()
        terms = {"fake": fakes.mean(), "real": reals.mean(), "sign": reals.detach().sign().mean()}
        return loss, terms | {"augmentation": self.controller.strength.clone()}

    def _r1(self, real: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The critic's squared slope on real pictures, counted in [-1, 1] as published."""
        real = real.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self._score(real).sum(), real, create_graph=True)
        penalty = (slope / 2).square().sum((1, 2, 3)).mean()
        return penalty * (self.settings.gamma / 2 * self.settings.r1_every), {"slope": penalty}

    def _path(self, count: int) -> tuple[Tensor, dict[str, Tensor]]:
        """How unequally far a step in w changes the picture (StyleGAN2, equation 4)."""
        size = self.settings.size
        w = self._latents(count)
        images = 2 * self.generator.synthesis(w, noise="random") - 1
        direction = torch.randn_like(images) / size
        (slope,) = torch.autograd.grad((images * direction).sum(), w, create_graph=True)
        length = slope.square().sum(2).mean(1).sqrt()
        with torch.no_grad():
            self.mean_path.lerp_(length.mean(), 0.01)
        penalty = (length - self.mean_path).square().mean()
        return penalty * (self.settings.path_length * self.settings.path_every), {"length": length.mean()}

    def _fake(self, real: Tensor) -> Tensor:
        """As many pictures as there are real ones; with an encoder, the second half are made of these."""
        if self.encoder is None:
            return self.generator.synthesis(self._latents(len(real)), noise="random")
        half = len(real) // 2
        w = self.generator.synthesis.per_layer(self.encoder(real[half:]))
        return self.generator.synthesis(torch.cat([self._latents(half), w]), noise="random")

    def _latents(self, count: int) -> Tensor:
        """w (B, L, D) of random z; of some pictures the finer layers are another z's."""
        mapping, styles = self.generator.mapping, self.generator.settings.styles
        device = mapping.centre.device
        z = torch.randn(2 * count if self.settings.mixing else count, self.settings.latent, device=device)
        w = mapping(z)[:, None].expand(-1, styles, -1)
        if not self.settings.mixing:
            return w
        first, second = w.split(count)
        cut = torch.randint(1, styles, (count, 1), device=device)
        cut[torch.rand(count, device=device) >= self.settings.mixing] = styles
        return torch.where((torch.arange(styles, device=device) < cut)[..., None], first, second)

    def _real(self, images: Tensor) -> Tensor:
        if not self.settings.flip:
            return images
        flip = torch.rand(len(images), device=images.device) < 0.5
        return torch.where(flip[:, None, None, None], images.flip(-1), images)

    @torch.no_grad()
    def preview(self, batch: Any) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(0)
        z = torch.randn(SHOWN, self.settings.latent, generator=random).to(self.mean_path)
        self.generator.mapping.measure_centre()
        real = batch["image"][:SHOWN].float() / 255
        again = {} if self.encoder is None else {"again": self.generator.synthesis(self.encoder(real)).clamp(0, 1)}
        return {
            "real": real,
            **again,
            "sample": self.generator(z).clamp(0, 1),
            "truncated": self.generator(z, TRUNCATION).clamp(0, 1),
        }


def _adam(network: torch.nn.Module, rate: float, every: int | None) -> Adam:
    share = 1.0 if every is None else every / (every + 1)
    return Adam(network.parameters(), lr=rate * share, betas=(0.0, 0.99**share))


def encoder_of(file: Path, size: int) -> LatentEncoderSettings:
    """Of weights by stylegan2-autoencoder, for pictures of `size`. Raises UsageError for others."""
    try:
        settings = LatentEncoderSettings(**load_file(file)[1]["settings"]["encoder"])
        if settings.size == size:
            return settings
    except (KeyError, TypeError):
        pass
    raise UsageError(
        f"--start {file}: holds no encoder of pictures of {size} px, which --reconstruction needs; give weights of "
        "stylegan2-autoencoder of this size"
    )


def start_from(task: StyleGAN2Task, file: Path) -> None:
    """Copy weights of the same settings; of half the size, those of all levels that both have.

    Raises UsageError for weights of anything else.
    """
    tensors, card = load_file(file)
    try:
        theirs = StyleGAN2Settings(**card["settings"]["network"])
    except (KeyError, TypeError):
        raise UsageError(f"--start {file}: these are no weights of stylegan2") from None
    ours = task.settings.network
    # How many pictures are compared is not in the weights.
    theirs = replace(theirs, minibatch_group=ours.minibatch_group)
    if replace(theirs, size=ours.size) != ours or ours.size not in (theirs.size, 2 * theirs.size):
        raise UsageError(f"--start {file}: weights of {theirs}; expected {ours}, or half its size")
    shift = len(ours.resolutions) - len(theirs.resolutions)
    wanted = task.state_dict()
    for name, tensor in tensors.items():
        # The critic counts its levels from the largest one.
        prefix = "discriminator.blocks."
        if shift and name.startswith(prefix):
            index, _, rest = name.removeprefix(prefix).partition(".")
            name = f"{prefix}{int(index) + shift}.{rest}"
        if name in wanted and wanted[name].shape == tensor.shape:
            wanted[name].copy_(tensor)
    if shift:
        with torch.no_grad():
            # The new level adds little at first: the picture is the smaller one, enlarged.
            task.generator.synthesis.colours[-1].weight.mul_(0.1)  # pyright: ignore[reportAttributeAccessIssue,reportCallIssue]
