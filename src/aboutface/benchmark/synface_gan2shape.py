"""GAN2Shape's rows of Tables 1 and 2, on synthetic faces: `aboutface bench synface --method gan2shape --gan FILE`.

Each row is a joint training on images of the train split, or on the generator's own pictures; test images are then
taken apart by the trained networks alone. The published numbers are after fine-tuning to every test image.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import UsageError
from ..files import atomic_path
from ..generate.load import Gan, load_gan
from ..nn.autoencoder import parameter_count
from ..recipes.gan2shape import GAN2ShapeTraining, measured, train_gan2shape
from ..reconstruct.gan2shape import GAN2Shape, Target
from .methods import keep, restored, seconds_of
from .synface_faces import Faces, Prediction
from .synface_rows import Outcome, Place, Row, fingerprint, in_batches, trained_unsup3d, unsup3d_batch

NAME = "gan2shape"
TEACHER = "improved"
"""The row whose network measures how views and lights vary; it sees the training images, as all others."""
QUICK = {"targets": 2, "iterations": 12, "at_once": 2, "batch": 2, "collected": 2}


@dataclass(frozen=True)
class Teaching:
    """What GAN2Shape learns from."""

    gan: Path
    """Weights of a StyleGAN2 of the training images."""
    targets: int = 200
    """Training images, projected onto its manifold."""
    samples: int = 0
    """Or so many of its own pictures."""

    def check(self) -> Gan:
        """The generator. Raises UsageError for a file that cannot be used, before anything is trained."""
        gan = load_gan(self.gan)
        if gan.discriminator is None:
            raise UsageError(f"--gan {self.gan}: holds no discriminator, whose features gan2shape compares")
        return gan


def variants(width: int, batch: int) -> dict[str, tuple[str, GAN2ShapeTraining]]:
    """Title and settings by name, of networks as wide as the others' and about as many images per step."""
    together = max(1, batch // 4)
    ours = GAN2ShapeTraining(
        category="synface",
        width=width,
        latent=4 * width,
        offset_width=max(4, width // 2),
        depth_head="smooth",
        albedo_head="sharp",
        mean=True,
        at_once=together,
        batch=4,
    )
    published = replace(ours, quality="paper", depth_head="full", albedo_head="full", mean=False)
    chosen = {
        NAME: ("GAN2Shape", ours),
        f"{NAME}-paper": ("GAN2Shape, published networks and rates", published),
        f"{NAME}-noreg": ("GAN2Shape without offset regularisation", replace(ours, regularised=False)),
        f"{NAME}-nosym": ("GAN2Shape", replace(ours, symmetry=False)),
    }
    for prior in ("asymmetric", "shift-6", "shift-4", "weak", "flat"):
        chosen[f"{NAME}-{prior}"] = (f"GAN2Shape, prior {prior}", replace(ours, prior=prior))
    return chosen


def gan2shape_rows(teaching: Teaching, width: int, batch: int) -> dict[str, Row]:
    """All of them, in the order of the tables, and one that starts from Unsup3d."""
    gan = teaching.check()
    found = {}
    for name, (title, settings) in variants(width, batch).items():
        found[name] = _row(name, title, settings, teaching, gan)
    warm = variants(width, batch)[NAME][1]
    found[f"{NAME}-warm"] = _row(f"{NAME}-warm", "GAN2Shape, from improved Unsup3d", warm, teaching, gan, warm=True)
    return found


def _row(name: str, title: str, settings: GAN2ShapeTraining, teaching: Teaching, gan: Gan, warm: bool = False) -> Row:
    symmetry = "yes" if settings.symmetry else "no"
    run = _runner(name, settings, teaching, gan, warm)
    return Row(name, title, run, symmetry, seeded=True, unsupervised=True)


def _runner(
    name: str, settings: GAN2ShapeTraining, teaching: Teaching, gan: Gan, warm: bool
) -> Callable[[Faces, Faces, int, Place], Outcome]:
    def run(train: Faces, test: Faces, seed: int, place: Place) -> Outcome:
        teacher = trained_unsup3d(TEACHER, train, seed, place).net
        statistics = measured(teacher, train.images, train.size, place.log)
        own = settings_for(settings, train.size, seed, place, teaching)
        start = teacher if warm else None
        words = repr(replace(own, device="auto", gan=None))
        about = {
            "training": words,
            "start": TEACHER if warm else "prior",
            "gan": _digest(teaching.gan),
            "images": fingerprint(train),
        }
        network = None if start is None else start.settings
        model = GAN2Shape(own.settings(gan.generator.settings.latent, network), statistics)
        stem = f"{name}-seed{seed}"
        file = place.folder / "models" / f"{stem}.safetensors"
        folder = place.folder / "training" / f"{stem}-{_short(about)}"
        if place.retrain:
            shutil.rmtree(folder, ignore_errors=True)
        if place.retrain or not restored(model, file, about):
            place.log(f"training {name}, seed {seed}")
            targets = targets_for(own, gan, train, place)
            begun = time.perf_counter()
            trained = train_gan2shape(gan, targets, own, statistics, start, folder, place.log)
            keep(trained, file, about, time.perf_counter() - begun)
            model.load_state_dict(trained.state_dict())
            for weights in folder.glob("*.safetensors"):
                weights.unlink()
        depth, valid, view, light = in_batches(model.net, test.images, place.device, unsup3d_batch)
        steps = own.schedule.iterations
        notes: dict[str, Any] = {"generator": gan.size, "targets": own.samples or own.targets}
        return Outcome(Prediction(depth, valid, view, light), parameter_count(model), steps, seconds_of(file), notes)

    return run


def settings_for(
    settings: GAN2ShapeTraining, size: int, seed: int, place: Place, teaching: Teaching
) -> GAN2ShapeTraining:
    given = {"gan": teaching.gan, "targets": teaching.targets, "samples": teaching.samples}
    own = replace(settings, size=size, seed=seed, device=place.device, iterations=place.steps, **given)
    if not place.quick:
        return own
    return replace(own, width=4, latent=16, offset_width=4, **QUICK, samples=QUICK["targets"])


def targets_for(settings: GAN2ShapeTraining, gan: Gan, train: Faces, place: Place) -> list[Target]:
    """Kept on disk: all rows share them, and projecting takes long."""
    from safetensors.torch import load_file, save

    assert settings.gan is not None
    number = f"{settings.targets}, {settings.samples}, {settings.truncation}, {settings.seed}"
    about = {"gan": _digest(settings.gan), "images": fingerprint(train), "number": number}
    file = place.folder / "training" / f"targets-{_short(about)}.safetensors"
    if not file.is_file() or place.retrain:
        found = settings.found(gan, train.images, place.log)
        stacked = {
            "image": torch.stack([target.image for target in found]).contiguous(),
            "w": torch.stack([target.w for target in found]).contiguous(),
        }
        with atomic_path(file) as part:
            part.write_bytes(save(stacked))
    stored = load_file(file)
    return [Target(image, w) for image, w in zip(stored["image"], stored["w"], strict=True)]


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _short(about: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
