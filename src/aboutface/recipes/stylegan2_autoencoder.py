"""Train StyleGAN2's generator as the decoder of an autoencoder: where its training can start on a small computer.

    aboutface train stylegan2-autoencoder --data DIR -o start.safetensors
    aboutface train stylegan2 --data DIR --start start.safetensors --reconstruction 3

A critic teaches little before it has learned itself, and for hours on a CPU. Pictures that must be given back teach
from the first step on. Afterwards the mapping network learns where their w lie, from a critic of vectors, in minutes.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from ..errors import UsageError
from ..fit import FitSettings, Phase, Run, Task, TensorBatches, fit
from ..metrics.generated import frechet_distance
from ..nn.critic import Critic, gradient_penalty
from ..nn.inversion import LatentEncoder, LatentEncoderSettings
from ..nn.stylegan2 import Dense, Generator, StyleGAN2Settings
from . import Trained
from .unsup3d import Crop, read_images

SHOWN = 16
"""Pictures in a row of the preview."""
FALLING = 0.3
"""Share of the steps, the last ones, in which the rate falls to 0."""
SMALL = 1e-3
"""Weight of the mean square of w."""
MAPPED = 8000
"""Pictures whose w the mapping network learns from, at most; of each its mirror image, too."""
VECTORS = 256
"""w per step of that."""
RIDGE = 1e-3
"""Of the largest variance of w, added to all before they are made equal."""
MOMENTS = 30.0
"""Weight of their covariance's error beside the critic."""
BLURRED = 0.05
"""Noise on these, in their deviation."""


@dataclass(frozen=True)
class StyleGAN2AutoencoderTraining:
    """A start for stylegan2 without a critic: its generator as a decoder, and a mapping network that knows its w."""

    size: int = 64
    """Side of the pictures, pixels: 32, 64, 128 ... 1024."""
    latent: int = 512
    """Numbers in z and in w."""
    mapping_layers: int = 8
    """Layers from z to w."""
    channel_base: int = 16384
    """A level of r pixels has this divided by r channels; as for stylegan2."""
    channel_max: int = 512
    """At most so many."""
    encoder_width: int = 16
    """Channels of the encoder's first level."""
    crop: Crop = "auto"
    """face: by landmarks; centre: the largest centred square; auto: face where most images have landmarks."""
    flip: bool = True
    """Show half of the pictures mirrored."""
    batch: int = 32
    """Pictures per step."""
    learning_rate: float = 2e-3
    """Rate of Adam; it falls to 0 in the end."""
    mapping_steps: int = 6000
    """Steps in which the mapping network learns; quick ones."""
    fit: FitSettings = field(default_factory=lambda: FitSettings(steps=5000))

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"--learning-rate: expected a number above 0, got {self.learning_rate}")
        for name in ("batch", "mapping_steps", "encoder_width"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')}: expected 1 or more, got {getattr(self, name)}")
        _ = self.network

    @property
    def network(self) -> StyleGAN2Settings:
        return StyleGAN2Settings(self.size, self.latent, self.mapping_layers, self.channel_base, self.channel_max)

    @property
    def encoder(self) -> LatentEncoderSettings:
        return LatentEncoderSettings(self.size, self.latent, self.encoder_width)

    def train(self, data: Path, run: Run | None, log: Callable[[str], None]) -> Trained:
        """Train on all pictures of `data`."""
        images, views = read_images(data, self.size, self.crop, log)
        settings = replace(self, crop="centre" if views is None else "face")
        task = train_autoencoder(images, settings, run, log)
        some = images[torch.randperm(len(images))[:MAPPED]]
        whiten(task, latents_of(task.encoder, some))
        w = latents_of(task.encoder, some)
        distance = train_mapping(task.generator, w, settings, log)
        with torch.no_grad():
            shown = images[:MAPPED:8].float() / 255
            parts = [(task.generator.synthesis(task.encoder(x), "none") - x).abs().mean() for x in shown.split(64)]
        scores = {"error": float(torch.stack(parts).mean()), "frechet_distance_w": distance}
        return Trained(
            dict(task.state_dict()),
            scores,
            {"network": asdict(self.network), "encoder": asdict(self.encoder), "training": asdict(settings)},
        )


def train_autoencoder(
    images: Tensor, settings: StyleGAN2AutoencoderTraining, run: Run | None, log: Callable[[str], None]
) -> "AutoencoderTask":
    """Train on pictures (N, 3, S, S) uint8. The mapping network stays as it was."""
    if images.shape[1:] != (3, settings.size, settings.size) or images.dtype != torch.uint8:
        raise UsageError(
            f"stylegan2-autoencoder: expected pictures (N, 3, {settings.size}, {settings.size}) uint8, got "
            f"{tuple(images.shape)} {images.dtype}"
        )
    torch.manual_seed(settings.fit.seed)
    batches = TensorBatches({"image": images}, settings.batch, settings.fit.seed)
    return fit(AutoencoderTask(settings), batches, settings.fit, run, log=log).averaged.cpu().eval()


class AutoencoderTask(Task):
    """Pictures to w to pictures."""

    name = "stylegan2-autoencoder"

    def __init__(self, settings: StyleGAN2AutoencoderTraining) -> None:
        super().__init__()
        self.settings = settings
        self.generator, self.encoder = Generator(settings.network), LatentEncoder(settings.encoder)

    def phases(self) -> dict[str, Phase]:
        parameters = [*self.generator.synthesis.parameters(), *self.encoder.parameters()]
        adam = Adam(parameters, lr=self.settings.learning_rate, betas=(0.9, 0.99))
        return {"pictures": Phase(adam, LambdaLR(adam, lambda step: falling(step / self.settings.fit.steps)))}

    def loss(self, phase: str, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        images = batch["image"].float() / 255
        if self.settings.flip:
            flip = torch.rand(len(images), device=images.device) < 0.5
            images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        w = self.encoder(images)
        # Without noise: there is nobody yet to say what it is for.
        again = self.generator.synthesis(w, noise="none")
        return reconstruction_loss(again, images) + SMALL * w.square().mean(), {
            "error": (again - images).abs().mean(),
            "spread": w.std(0, correction=0).mean(),
        }

    @torch.no_grad()
    def preview(self, batch: Any) -> dict[str, Tensor]:
        images = batch["image"][:SHOWN].float() / 255
        again = self.generator.synthesis(self.encoder(images), noise="none").clamp(0, 1)
        return {"image": images, "again": again}


def reconstruction_loss(images: Tensor, wanted: Tensor) -> Tensor:
    """L1 of pictures (B, 3, H, W), and of the differences of neighbours, in [-1, 1], at three sizes."""
    total = images.new_zeros(())
    for level in range(3):
        if level:
            images, wanted = functional.avg_pool2d(images, 2), functional.avg_pool2d(wanted, 2)
        off = 2 * (images - wanted)
        total = total + off.abs().mean() + off.diff(dim=-1).abs().mean() + off.diff(dim=-2).abs().mean()
    return total


def falling(done: float) -> float:
    """Share of the rate after a share of the steps: all, then half a cosine down."""
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, max(0.0, (done - 1 + FALLING) / FALLING)))


@torch.no_grad()
def latents_of(encoder: LatentEncoder, images: Tensor) -> Tensor:
    """w (2 N, D) of pictures (N, 3, S, S) uint8 and of their mirror images."""
    both = [torch.cat([part, part.flip(-1)]).float() / 255 for part in images.split(64)]
    return torch.cat([encoder(part) for part in both])


@torch.no_grad()
def whiten(task: "AutoencoderTask", w: Tensor) -> None:
    """Change the axes of w, in place, so that the known ones (N, D) have mean 0 and covariance 1; pictures stay as they
    are. A mapping network learns such a set quickly, and one that varies along few axes hardly.

    Axes along which w hardly vary are enlarged less.
    """
    values, axes = torch.linalg.eigh(torch.cov(w.T).double())
    scale = (values.clamp_min(0) + RIDGE * values.max()).sqrt()
    mean, old_from_new = w.mean(0), (axes * scale).float()
    new_from_old = (axes / scale).T.float()
    synthesis, encoder = task.generator.synthesis, task.encoder
    for layer in [*synthesis.convs, *synthesis.colours]:
        style = layer.style
        assert isinstance(style, Dense)
        style.bias.add_(style.weight @ mean * style.scale)
        style.weight.copy_(style.weight @ old_from_new)
    out = encoder.out
    out.bias.copy_(new_from_old @ (encoder.centre + encoder.deviation * out.bias - mean))
    out.weight.copy_(new_from_old @ (encoder.deviation[:, None] * out.weight))
    encoder.centre.zero_()
    encoder.deviation.fill_(1.0)


def train_mapping(
    generator: Generator, w: Tensor, settings: StyleGAN2AutoencoderTraining, log: Callable[[str], None]
) -> float:
    """Let the mapping network make w (N, D), of mean 0 and covariance 1, of random numbers, in place.

    Returns the Fréchet distance of both sets that is left, as a share of the variance.
    """
    torch.manual_seed(settings.fit.seed)
    task = MappingTask(generator, w, settings.mapping_steps)
    batches = TensorBatches({"w": w}, VECTORS, settings.fit.seed)
    short = FitSettings(settings.mapping_steps, log_every=1000, device=settings.fit.device, seed=settings.fit.seed)
    fit(task, batches, short, log=log)
    task.cpu()
    generator.mapping.measure_centre()
    return task.distance(w)


class MappingTask(Task):
    """A GAN of vectors."""

    name = "stylegan2-mapping"
    covariance: Tensor

    def __init__(self, generator: Generator, w: Tensor, steps: int) -> None:
        super().__init__()
        self.mapping, self.steps = generator.mapping, steps
        latent = w.shape[1]
        self.critic = Critic(latent, (2 * latent,) * 3, norm="none")
        self.register_buffer("covariance", torch.cov(w.T), persistent=False)

    def phases(self) -> dict[str, Phase]:
        # The mapping network's layers learn a hundred times slower than others.
        mapping = Adam(self.mapping.parameters(), lr=0.1, betas=(0.0, 0.99))
        critic = Adam(self.critic.parameters(), lr=1e-3, betas=(0.0, 0.99))
        return {
            "critic": Phase(critic),
            "mapping": Phase(mapping, LambdaLR(mapping, lambda step: 1 - min(1.0, step / self.steps))),
        }

    def loss(self, phase: str, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        made = self._drawn(len(batch["w"]))
        if phase == "critic":
            real = batch["w"] + BLURRED * torch.randn_like(batch["w"])
            fakes, reals = self.critic(made.detach()), self.critic(real)
            loss = functional.softplus(fakes).mean() + functional.softplus(-reals).mean()
            return loss + gradient_penalty(self.critic, real) / 2, {}
        centred = made - made.mean(0)
        off = centred.T @ centred / len(made) - self.covariance
        moments = made.mean(0).square().mean() + MOMENTS * off.square().mean()
        return functional.softplus(-self.critic(made)).mean() + moments, {"moments": moments}

    def _drawn(self, count: int) -> Tensor:
        return self.mapping(torch.randn(count, len(self.covariance), device=self.covariance.device))

    @torch.no_grad()
    def distance(self, w: Tensor) -> float:
        """Fréchet distance of random w from known ones (N, D), as a share of their variance."""
        return frechet_distance(w, self._drawn(len(w)).to(w)) / float(self.covariance.trace())
