"""Who is compared: flat and average depth, a supervised network, Unsup3d and what its changes bring, reconstructors."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import AboutfaceError
from ..face import Face
from ..fit import Run, find_device, read_checkpoint
from ..head import complete_head
from ..images import read_photo
from ..nn.autoencoder import parameter_count
from ..recipes.supervised_depth import SupervisedDepth, SupervisedDepthTraining, train_supervised_depth
from ..recipes.unsup3d import VARIANTS, Unsup3dTask, Unsup3dTraining, train_unsup3d
from ..reconstruct import Reconstructor, reconstructor
from ..reconstruct.unsup3d import Unsup3d
from ..render import render
from ..scene import Light, Scene
from .methods import keep, restored, seconds_of
from .synface_faces import Faces, Prediction

Training = TypeVar("Training", Unsup3dTraining, SupervisedDepthTraining)

BATCH = 32
"""Images that a network sees at once when it is tested."""
QUICK_STEPS = 5
LANDMARKS_ONLY = 68
"""A surface of no more vertices is one of landmarks. A head completes it, as it does one of a face alone (`trust`)."""


@dataclass(frozen=True)
class Place:
    """Where networks are trained and kept."""

    folder: Path
    steps: int | None = None
    """Of every network; the recipe's own if missing."""
    device: str = "auto"
    quick: bool = False
    retrain: bool = False
    log: Callable[[str], None] = print
    variants: dict[str, Unsup3dTraining] = field(default_factory=lambda: VARIANTS)
    """What of Unsup3d is compared. The supervised network has the size and the batches of the first."""


@dataclass(frozen=True)
class Outcome:
    """One seed of one row."""

    prediction: Prediction
    parameters: int | None = None
    steps: int | None = None
    seconds: float | None = None
    """By the clock, of its training."""
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    name: str
    title: str
    run: Callable[[Faces, Faces, int, Place], Outcome]
    """Train split, test split (of which it may look at the images only, and at the landmarks if it is a reconstructor),
    seed."""
    symmetry: str = "–"
    seeded: bool = False
    """Whether another seed is another result."""
    unsupervised: bool = False
    first: int | None = None
    """Scored on so many of the test images only; all if missing."""


# ---- without a network ----


def flat_depth(train: Faces, test: Faces, seed: int, place: Place) -> Outcome:
    """A plane that faces the camera."""
    return _everywhere(torch.ones_like(test.depth))


def average_depth(train: Faces, test: Faces, seed: int, place: Place) -> Outcome:
    """The mean of the training images' depth maps, background and all, as published."""
    return _everywhere(train.depth.double().mean(0).float().expand_as(test.depth))


def average_face_depth(train: Faces, test: Faces, seed: int, place: Place) -> Outcome:
    """The same over the faces alone: without the background it is the better guess. 1 where no face ever was."""
    sums, counts = (train.depth.double() * train.mask).sum(0), train.mask.sum(0)
    return _everywhere(torch.where(counts > 0, sums / counts.clamp_min(1), 1.0).float().expand_as(test.depth))


def _everywhere(depth: Tensor) -> Outcome:
    return Outcome(Prediction(depth, torch.ones_like(depth, dtype=torch.bool)))


# ---- networks ----


def supervised(train: Faces, test: Faces, seed: int, place: Place) -> Outcome:
    """The network of `recipes.supervised_depth`."""
    like = next(iter(place.variants.values()))
    training = SupervisedDepthTraining(width=like.width, latent=like.latent, batch=like.batch)
    training = _for_place(training, seed, place)
    net, seconds = _trained(
        "supervised",
        SupervisedDepth(train.size, training.width, training.latent),
        lambda run: train_supervised_depth(train.images, train.depth, train.mask, training, run, place.log),
        {"training": _words(training)},
        train,
        seed,
        place,
    )
    predicted = in_batches(net, test.images, place.device, lambda net, images: (net(images),))
    return Outcome(_everywhere(predicted[0]).prediction, parameter_count(net), training.fit.steps, seconds)


@dataclass(frozen=True)
class TrainedUnsup3d:
    """A network of `recipes.unsup3d`, and what its training was."""

    net: Unsup3d
    steps: int
    seconds: float
    features: str
    """Those of its perceptual loss."""


def trained_unsup3d(name: str, train: Faces, seed: int, place: Place) -> TrainedUnsup3d:
    """A variant, which sees the training images alone; kept from an earlier run where there is one."""
    training = _for_place(replace(place.variants[name], size=train.size), seed, place)
    task = Unsup3dTask(training)
    features = "none" if task.features is None else task.features.name
    net, seconds = _trained(
        name,
        task.net,
        lambda run: train_unsup3d(train.images, training, run, place.log),
        {"training": _words(training), "features": features},
        train,
        seed,
        place,
    )
    assert isinstance(net, Unsup3d)
    return TrainedUnsup3d(net, training.fit.steps, seconds, features)


def unsup3d(name: str) -> Callable[[Faces, Faces, int, Place], Outcome]:
    """A variant of `recipes.unsup3d`."""

    def run(train: Faces, test: Faces, seed: int, place: Place) -> Outcome:
        found = trained_unsup3d(name, train, seed, place)
        depth, valid, view, light = in_batches(found.net, test.images, place.device, unsup3d_batch)
        prediction = Prediction(depth, valid, view, light)
        notes = {"features": found.features}
        return Outcome(prediction, parameter_count(found.net), found.steps, found.seconds, notes)

    return run


def unsup3d_batch(net: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Depth, validity, view and light in the images' own view, as `Prediction` has them."""
    assert isinstance(net, Unsup3d)
    factors = net(images)
    seen = net.reproject(factors)
    view, light = factors.view.rotation, factors.light
    # The network lights the canonical face; the truth is told in the camera's frame.
    direction = (view @ light.direction[..., None])[..., 0]
    return seen.depth, seen.valid, view, torch.cat([light.ambient[:, None], light.diffuse[:, None], direction], 1)


@torch.no_grad()
def in_batches(
    net: nn.Module, images: Tensor, device: str, step: Callable[[nn.Module, Tensor], tuple[Tensor, ...]]
) -> list[Tensor]:
    """What `step` makes of images (N, 3, S, S) uint8 given to it as floats in [0, 1], joined, on the CPU."""
    place = find_device(device)
    net = net.to(place).eval()
    parts = [[x.cpu() for x in step(net, part.to(place) / 255)] for part in images.split(BATCH)]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _for_place(training: Training, seed: int, place: Place) -> Training:
    """The settings with this seed, steps and device; tiny in a smoke run."""
    steps = place.steps or (QUICK_STEPS if place.quick else training.fit.steps)
    fit = replace(training.fit, steps=steps, seed=seed, device=place.device)
    tiny = {"width": 4, "latent": 16, "batch": 8} if place.quick else {}
    return replace(training, fit=fit, **tiny)


def _words(training: Unsup3dTraining | SupervisedDepthTraining) -> str:
    """The settings, but for the device: weights do not depend on it by intent."""
    return repr(replace(training, fit=replace(training.fit, device="auto")))


def _trained(
    name: str,
    net: nn.Module,
    train: Callable[[Run], nn.Module],
    settings: dict[str, str],
    faces: Faces,
    seed: int,
    place: Place,
) -> tuple[nn.Module, float]:
    """The network, trained now or taken from an earlier run of the same settings and images, and its seconds.

    A training that was interrupted goes on from its checkpoint.
    """
    stem = f"{name.replace(' ', '_')}-seed{seed}"
    file = place.folder / "models" / f"{stem}.safetensors"
    card = settings | {"images": fingerprint(faces)}
    digest = hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()[:8]
    run = Run(place.folder / "training" / f"{stem}-{digest}")
    if place.retrain:
        shutil.rmtree(run.folder, ignore_errors=True)
    if place.retrain or not restored(net, file, card):
        place.log(f"training {name}, seed {seed}")
        trained = train(run)
        seconds = read_checkpoint(run.checkpoints()[0])["seconds"]
        keep(trained, file, card, seconds)
        # The curves stay; what is needed to go on is as large as three networks.
        shutil.rmtree(run.folder / "checkpoints")
        net.load_state_dict(trained.state_dict())
    return net.eval(), seconds_of(file)


def fingerprint(faces: Faces) -> str:
    """Tells one training set from another."""
    pixels = hashlib.sha256(faces.images.numpy().tobytes()).hexdigest()[:16]
    return f"{len(faces)} of {faces.size} pixels, sha256 {pixels}, depth {float(faces.depth.double().mean()):.9f}"


# ---- reconstructors ----


def reconstructed(method: str) -> Callable[[Faces, Faces, int, Place], Outcome]:
    """A method from the menu, or a file of weights, given each test image as a photo with its true landmarks."""
    reconstruct = reconstructor(method)

    def run(train: Faces, test: Faces, seed: int, place: Place) -> Outcome:
        found = [_reconstruct(reconstruct, test, index) for index in range(len(test))]
        for index, one in enumerate(found):
            if isinstance(one, AboutfaceError):
                place.log(f"{method}: test image {index}: {one}")
        depth, valid = torch.ones_like(test.depth), torch.zeros_like(test.mask)
        view = torch.full((len(test), 3, 3), torch.nan)
        light = torch.full((len(test), 5), torch.nan)
        for index, scene in enumerate(found):
            if isinstance(scene, Scene):
                depth[index], valid[index] = drawn(scene, float(test.K[0, 0]))
                view[index] = scene.pose.rotation()
                light[index] = _light(scene)
        known = None if light.isnan().all() else light
        return Outcome(Prediction(depth, valid, view, known))

    return run


def _reconstruct(reconstruct: Reconstructor, faces: Faces, index: int) -> Scene | AboutfaceError:
    """The surface at rest in the photo; the error where there is none."""
    points = faces.landmarks[index].double().numpy()
    photo = read_photo(faces.images[index].permute(1, 2, 0).contiguous().numpy())
    face = Face(points, (*points.min(0).tolist(), *points.max(0).tolist()))
    try:
        scene = reconstruct(photo, face)
        if scene.trust is not None or len(scene.mesh_at_rest().vertices) <= LANDMARKS_ONLY:
            light = scene.light
            scene = replace(complete_head(photo, face, scene).scene, light=light)
    except AboutfaceError as error:
        return error
    return scene


@torch.no_grad()
def drawn(scene: Scene, focal: float) -> tuple[Tensor, Tensor]:
    """Depth (H, W) and validity (H, W) of a scene at rest, told for a camera of `focal` pixels.

    A photo does not say through what lens it was taken, and each method assumes one of its own: the same nose, as many
    pixels deep, is more or less deep in units of the distance. Relief in pixels, (z - 1) * focal, is what a method
    really says, so that is kept.
    """
    seen = render(replace(scene, light=None))
    own = float(scene.camera.K[0, 0])
    return 1 + (seen.depth - 1) * own / focal, seen.alpha > 0.5


def _light(scene: Scene) -> Tensor:
    if not isinstance(scene.light, Light):
        return torch.full((5,), torch.nan)
    light = scene.light
    return torch.cat([torch.as_tensor(x).flatten().float() for x in (light.ambient, light.diffuse, light.direction)])


# ---- the menu ----


TITLES = {
    "original": "Unsup3d, as published",
    "original-nosym": "Unsup3d, as published",
    "improved": "Unsup3d, improved",
    "improved-nosym": "Unsup3d, improved",
}


def rows(variants: dict[str, Unsup3dTraining]) -> dict[str, Row]:
    """Every row but the reconstructors, in the order of the table."""
    chosen = [
        Row("supervised", "supervised", supervised, "no", seeded=True),
        Row("flat", "constant null depth", flat_depth),
        Row("average", "average depth", average_depth),
        Row("average-face", "average depth of the faces alone", average_face_depth),
    ]
    for name, training in variants.items():
        symmetry = "yes" if training.symmetry else "no"
        chosen.append(Row(name, TITLES.get(name, name), unsup3d(name), symmetry, seeded=True, unsupervised=True))
    return {row.name: row for row in chosen}


def method_row(method: str) -> Row:
    """The row of a reconstructor. Raises UsageError for one that is not there."""
    name = Path(method).stem if method.endswith(".safetensors") else method
    return Row(f"method {name}", f"{name} (photo and true landmarks)", reconstructed(method))
