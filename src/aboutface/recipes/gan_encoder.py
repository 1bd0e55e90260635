"""Train a network that says which w of a StyleGAN2 gives a picture, to start projections at.

    aboutface train stylegan2-encoder --data DIR --gan stylegan2.safetensors

Of the generator's own pictures it knows the w; of those in DIR it must find one whose picture is alike.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from .. import weights
from ..errors import UsageError
from ..fit import FitSettings, Phase, Run, Task, TensorBatches, cosine, fit
from ..generate.likeness import Likeness
from ..generate.load import Gan, load_gan
from ..generate.project import assessed, typical_distance
from ..nn.inversion import LatentEncoder, LatentEncoderSettings
from . import Trained
from .unsup3d import read_images

ASIDE = 20
"""One picture of so many is kept aside for scores."""
SCORED = 128
"""At most so many of them."""
SHOWN = 8
"""Pictures in a row of the preview."""
NEAR = 0.01
"""Weight of the squared step from the mean w, in deviations, for real pictures, whose w nobody knows."""


@dataclass(frozen=True)
class GanEncoderTraining:
    """The w of a StyleGAN2 for a picture in one look, where projections can start."""

    gan: Path | None = None
    """Weights (.safetensors) of the generator; needed."""
    width: int = 16
    """Channels at first."""
    batch: int = 16
    """Pictures per step, as many of the generator's own as real ones."""
    learning_rate: float = 1e-3
    """Rate of Adam at first; it falls to 0."""
    latent_weight: float = 0.1
    """Weight of the error of w, in deviations, beside that of the pictures."""
    fit: FitSettings = field(default_factory=lambda: FitSettings(steps=20_000, ema=0.998))

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise UsageError(f"--batch: expected 2 or more, got {self.batch}")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"--learning-rate: expected a number above 0, got {self.learning_rate}")
        if not 0 <= self.latent_weight < math.inf:
            raise UsageError(f"--latent-weight: expected 0 or more, got {self.latent_weight}")

    def train(self, data: Path, run: Run | None, log: Callable[[str], None]) -> Trained:
        """Train on all pictures of `data`, cut as the generator's card says, but for those kept aside."""
        if self.gan is None:
            raise UsageError("--gan: name the generator's weights (.safetensors)")
        gan = load_gan(self.gan)
        images, _ = read_images(data, gan.size, "face" if gan.crop == "face" else "centre", log)
        aside = torch.arange(len(images)) % ASIDE == ASIDE - 1
        encoder = train_encoder(gan, images[~aside], self, run, log)
        scores = score(gan, encoder, images[aside][:SCORED]) if aside.any() else {}
        training = asdict(self) | {"gan": str(self.gan)}
        return Trained(dict(encoder.state_dict()), scores, {"network": asdict(encoder.settings), "training": training})


def train_encoder(
    gan: Gan, images: Tensor, settings: GanEncoderTraining, run: Run | None, log: Callable[[str], None]
) -> LatentEncoder:
    """Train on pictures (N, 3, S, S) uint8 of the generator's size."""
    if images.shape[1:] != (3, gan.size, gan.size) or images.dtype != torch.uint8:
        raise UsageError(
            f"encoder: expected pictures (N, 3, {gan.size}, {gan.size}) uint8, got {tuple(images.shape)} {images.dtype}"
        )
    torch.manual_seed(settings.fit.seed)
    task = GanEncoderTask(gan, settings)
    batches = TensorBatches({"image": images}, max(1, settings.batch // 2), settings.fit.seed)
    return fit(task, batches, settings.fit, run, log=log).averaged.encoder.cpu().eval()


class GanEncoderTask(Task):
    """The encoder, and what its w and the pictures of them are compared with."""

    name = "stylegan2-encoder"

    def __init__(self, gan: Gan, settings: GanEncoderTraining) -> None:
        super().__init__()
        self.settings, self.generator = settings, gan.generator
        self.likeness = Likeness.from_file(weights.info("vgg16").path)
        latent = gan.generator.settings.latent
        self.encoder = LatentEncoder(LatentEncoderSettings(gan.size, latent, settings.width))
        with torch.no_grad():
            w = self.generator.mapping(torch.randn(10_000, latent).to(gan.generator.mapping.centre))
            self.encoder.centre.copy_(gan.generator.mapping.centre)
            self.encoder.deviation.copy_((w - self.encoder.centre).square().mean(0).sqrt())

    def train(self, mode: bool = True) -> "GanEncoderTask":
        super().train(mode)
        self.generator.eval()
        return self

    def phases(self) -> dict[str, Phase]:
        adam = Adam(self.encoder.parameters(), lr=self.settings.learning_rate)
        return {"encoder": Phase(adam, cosine(adam, self.settings.fit.steps))}

    def loss(self, phase: str, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        real = batch["image"].float() / 255
        with torch.no_grad():
            w, fake = self._drawn(self.settings.batch - len(real))
        found = self.encoder(torch.cat([fake, real]))
        pictures = self.generator.synthesis(found)
        likeness = self.likeness(pictures, torch.cat([fake, real]))
        made, others = found.split([len(fake), len(real)])
        latent = ((made - w) / self.encoder.deviation).square().mean()
        step_size = ((others - self.encoder.centre) / self.encoder.deviation).square().mean()
        terms = {"own": likeness[: len(fake)].mean(), "real": likeness[len(fake) :].mean(), "latent": latent}
        loss = likeness.mean() + self.settings.latent_weight * latent + NEAR * step_size
        return loss, {name: value.detach() for name, value in terms.items()}

    def _drawn(self, count: int) -> tuple[Tensor, Tensor]:
        """w, truncated by random amounts, and their pictures."""
        mapping = self.generator.mapping
        w = mapping(torch.randn(count, len(mapping.centre), device=mapping.centre.device))
        w = torch.lerp(mapping.centre, w, 0.5 + 0.5 * torch.rand(count, 1, device=w.device))
        return w, self.generator.synthesis(w).clamp(0, 1)

    @torch.no_grad()
    def preview(self, batch: Any) -> dict[str, Tensor]:
        real = batch["image"][:SHOWN].float() / 255
        return {"real": real, "found": self.generator.synthesis(self.encoder(real)).clamp(0, 1)}


@torch.no_grad()
def score(gan: Gan, encoder: LatentEncoder, images: Tensor) -> dict[str, float]:
    """Mean errors of the pictures of what the encoder finds for images (N, 3, S, S) uint8."""
    likeness = Likeness.from_file(weights.info("vgg16").path)
    generator = gan.generator.to("cpu")
    unit, real = typical_distance(generator, likeness), images.float() / 255
    found = assessed(generator, likeness, unit, real, encoder(real))
    return {"rmse": float(found.rmse.mean()), f"distance_{found.features}": float(found.distance.mean())}
