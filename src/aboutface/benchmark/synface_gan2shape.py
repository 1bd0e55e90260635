"""GAN2Shape's rows of Tables 1 and 2, on synthetic faces: `aboutface bench synface --method gan2shape --gan FILE`.

Each row is a joint training on images of the train split, or on the generator's own pictures; test images are then
taken apart by the trained networks alone. The published numbers are after fine-tuning to every test image: `--tuned`
makes such rows, of some test images.
"""

import hashlib
import json
import shutil
import time
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UsageError
from ..generate.load import Gan, load_gan
from ..nn.autoencoder import parameter_count
from ..recipes.gan2shape import (
    GAN2ShapeTraining,
    measured,
    projected_targets,
    read_targets,
    train_gan2shape,
    write_targets,
)
from ..reconstruct.gan2shape import GAN2Shape, Target
from ..reconstruct.gan2shape_run import optimise
from ..reconstruct.gan2shape_schedule import Schedule, fast, paper, scaled, without_symmetry
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
    tuned: int = 0
    """Test images to which models are fitted one by one; 0: there are no such rows."""

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
        found[name] = _row(Joint(name, settings, teaching, gan), title)
    warm = variants(width, batch)[NAME][1]
    found[f"{NAME}-warm"] = _row(Joint(f"{NAME}-warm", warm, teaching, gan, True), "GAN2Shape, from improved Unsup3d")
    if teaching.tuned:
        for name in (NAME, f"{NAME}-nosym"):
            title, settings = variants(width, batch)[name]
            row = _row(Joint(name, settings, teaching, gan), f"{title}, before", f"{name}-untuned")
            found[row.name] = replace(row, first=teaching.tuned)
            row = _row(Joint(name, settings, teaching, gan), f"{title}, fitted to each image", f"{name}-tuned", True)
            found[row.name] = replace(row, first=teaching.tuned)
    return found


@dataclass(frozen=True)
class Joint:
    """A joint training, by which rows are measured."""

    name: str
    settings: GAN2ShapeTraining
    teaching: Teaching
    gan: Gan
    warm: bool = False
    """From the Unsup3d that measures the statistics, instead of from the prior."""

    def model(self, train: Faces, seed: int, place: Place) -> tuple[GAN2Shape, GAN2ShapeTraining, float | None]:
        """Trained, or taken from the folder; how, and seconds."""
        teacher = trained_unsup3d(TEACHER, train, seed, place).net
        statistics = measured(teacher, train.images, train.size, place.log)
        own = settings_for(self.settings, train.size, seed, place, self.teaching)
        start = teacher if self.warm else None
        words = repr(replace(own, device="auto", gan=None))
        about = {
            "training": words,
            "start": TEACHER if self.warm else "prior",
            "gan": _digest(self.teaching.gan),
            "images": fingerprint(train),
        }
        network = None if start is None else start.settings
        model = GAN2Shape(own.settings(self.gan.generator.settings.latent, network), statistics)
        stem = f"{self.name}-seed{seed}"
        file = place.folder / "models" / f"{stem}.safetensors"
        folder = place.folder / "training" / f"{stem}-{_short(about)}"
        if place.retrain:
            shutil.rmtree(folder, ignore_errors=True)
        if place.retrain or not restored(model, file, about):
            place.log(f"training {self.name}, seed {seed}")
            targets = targets_for(own, self.gan, train, place)
            begun = time.perf_counter()
            trained = train_gan2shape(self.gan, targets, own, statistics, start, folder, place.log)
            keep(trained, file, about, time.perf_counter() - begun)
            model.load_state_dict(trained.state_dict())
            for weights in folder.glob("*.safetensors"):
                weights.unlink()
        return model, own, seconds_of(file)


def _row(joint: Joint, title: str, name: str | None = None, tuned: bool = False) -> Row:
    def run(train: Faces, test: Faces, seed: int, place: Place) -> Outcome:
        model, own, seconds = joint.model(train, seed, place)
        steps, notes = own.schedule.iterations, {"generator": joint.gan.size, "targets": own.samples or own.targets}
        if tuned:
            schedule = single(own, place.quick)
            steps, notes = schedule.iterations, notes | {"joint steps": steps}
            parts = fitted_one_by_one(model, joint.gan, test.images, schedule, place)
        else:
            parts = in_batches(model.net, test.images, place.device, unsup3d_batch)
        depth, valid, view, light = parts
        return Outcome(Prediction(depth, valid, view, light), parameter_count(model), steps, seconds, notes)

    symmetry = "yes" if joint.settings.symmetry else "no"
    return Row(name or joint.name, title, run, symmetry, seeded=True, unsupervised=name is None)


def single(settings: GAN2ShapeTraining, quick: bool) -> Schedule:
    """For one test image, from a model that was trained jointly by `settings`."""
    schedule = paper(settings.category) if settings.quality == "paper" else fast(settings.category)
    schedule = replace(schedule, prior=None)
    if quick:
        schedule = scaled(replace(schedule, batch=2, samples=2), QUICK["iterations"])
    if not settings.regularised:
        schedule = replace(schedule, losses=replace(schedule.losses, offset=0.0))
    return schedule if settings.symmetry else without_symmetry(schedule)


def fitted_one_by_one(
    model: GAN2Shape, gan: Gan, images: Tensor, schedule: Schedule, place: Place
) -> tuple[Tensor, ...]:
    """As `unsup3d_batch`, of images (N, 3, S, S) uint8, to each of which a copy of the model is fitted first."""
    targets = projected_targets(gan, images / 255, place.log, place.device)
    parts = []
    for number, target in enumerate(targets):
        own = optimise(deepcopy(model), gan, [target], schedule, device=place.device).cpu()
        with torch.no_grad():
            parts.append(unsup3d_batch(own.net.eval(), target.image[None]))
        place.log(f"fitted to {number + 1} of {len(targets)} test images")
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def settings_for(
    settings: GAN2ShapeTraining, size: int, seed: int, place: Place, teaching: Teaching
) -> GAN2ShapeTraining:
    given = {"gan": str(teaching.gan), "targets": teaching.targets, "samples": teaching.samples}
    own = replace(settings, size=size, seed=seed, device=place.device, iterations=place.steps, **given)
    if not place.quick:
        return own
    return replace(own, width=4, latent=16, offset_width=4, **QUICK, samples=QUICK["targets"])


def targets_for(settings: GAN2ShapeTraining, gan: Gan, train: Faces, place: Place) -> list[Target]:
    """Kept on disk: all rows share them, and projecting takes long."""
    assert settings.gan is not None
    number = f"{settings.targets}, {settings.samples}, {settings.truncation}, {settings.seed}"
    about = {"gan": _digest(Path(settings.gan)), "images": fingerprint(train), "number": number}
    file = place.folder / "training" / f"targets-{_short(about)}.safetensors"
    if not file.is_file() or place.retrain:
        write_targets(file, settings.found(gan, train.images, place.log))
    return read_targets(file)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _short(about: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
