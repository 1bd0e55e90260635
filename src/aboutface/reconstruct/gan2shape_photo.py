"""GAN2Shape on a photo: onto the generator's manifold, optimised there, and back as any other reconstruction.

Faces are seen in the frame of Unsup3d's (`face_frame`), other things as centred squares; which of the two is for the
generator to say, by its card.
"""

import hashlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from ..data.crop import cut
from ..errors import UsageError
from ..face import Face
from ..files import atomic_path
from ..generate import Gan, Projection, ProjectionSettings, load_gan, project
from ..geometry import scaling
from ..images import Photo, to_tensor
from ..scene import Manifold, Scene
from ..weights import load_file, path
from .face_frame import PIVOT, SIDE, FaceFrame
from .gan2shape import GAN2Shape, GAN2ShapeSettings, Target, published
from .gan2shape_file import read
from .gan2shape_priors import Category
from .gan2shape_run import Progress, optimise
from .gan2shape_schedule import PAPER_MAPPING, Quality, fast, paper
from .unsup3d import Factors, Unsup3dSettings
from .unsup3d_object import ObjectReconstructor, ObjectShape, cut_object, resized_square
from .unsup3d_photo import Unsup3dReconstructor

FACE = (75.0, 95.0, 35.0)
"""Millimetres of the mean head: half the width and height of the ellipse of its face, and how far below the head's
origin its middle is."""

SEARCHED: dict[Quality, int] = {"fast": 300, "paper": 1000}
"""Steps in which a picture is looked for among the generator's."""
ALIKE = 0.5 / 255
"""Mean difference of two crops that are of one photo."""
NARROW = 16
"""Channels of the outermost level of networks that nothing was taught, at the quality fast."""


@dataclass(frozen=True)
class Effort:
    """How much work a method that optimises for each photo does, and who is told."""

    quality: Quality = "fast"
    folder: Path | None = None
    """Where NAME/gan2shape_QUALITY_KEY/ keeps what is done, so that what was stopped goes on and what is finished is
    used again; None: nothing is kept."""
    progress: Callable[[str], None] | None = None
    """Takes a line of text for people."""
    device: str = "cpu"
    """Where it computes: auto, cpu, cuda, cuda:1 or mps. What comes of it is on the CPU."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A model for one picture."""

    model: GAN2Shape
    gan: Gan
    projection: Projection
    anchor: Tensor
    """(1, 3, S, S): the generator's own picture of the target."""
    about: dict[str, Any]
    warnings: tuple[str, ...]

    @torch.no_grad()
    def project(self, drawings: Tensor) -> Tensor:
        """The generator's pictures (B, 3, G, G) nearest to drawings (B, 3, S, S) of the target."""
        many = len(drawings)
        w, anchors = self.projection.w[:1].expand(many, -1), self.anchor.expand(many, -1, -1, -1)
        return self.model.project(self.gan, drawings, w, anchors)

    def manifold(self, photo_from_crop: Tensor) -> Manifold:
        return Manifold(self.project, photo_from_crop, self.model.size, self.about, self.warnings)


class Fitter:
    """Pictures to models of their own, from a generator and, if there is one, a model that knows its kind of thing."""

    def __init__(self, gan: Gan, model: GAN2Shape | None, category: Category, effort: Effort) -> None:
        """model: pre-trained; without it shapes grow from an ellipsoid. Raises UsageError without a critic."""
        if gan.discriminator is None:
            raise UsageError(
                "gan2shape: this generator came without its critic, whose features it compares; convert it "
                "again from a file that has both"
            )
        self.gan, self.effort = gan, effort
        self.category: Category = category
        self.start = model
        self.search = ProjectionSettings(steps=SEARCHED[effort.quality], device=effort.device)
        self.schedule = paper(category) if effort.quality == "paper" else fast(category)
        if model is not None:
            self.schedule = replace(self.schedule, prior=None)
        self.size = model.size if model is not None else 128 if gan.size >= 128 and effort.quality == "paper" else 64

    def __call__(self, image: Tensor, mask: Tensor | None, name: str) -> Fitted:
        """Of an image (3, S, S) with the mask (S, S) of the object, if it is known. `name`: of the photo."""
        say = self.effort.progress or _silent
        folder, image = self._folder(image, mask, name)
        projection = self._projection(image, folder, say)
        model = deepcopy(self.start) if self.start is not None else self._untaught()
        target = Target(image, projection.w[0], mask)
        warnings = [] if projection.line is None else [f"gan2shape: {projection.line}"]

        def told(progress: Progress) -> None:
            if progress.note:
                warnings.append(progress.note)
            say(progress.line())

        run = None if folder is None else folder / "run"
        try:
            optimise(model, self.gan, [target], self.schedule, run=run, progress=told, device=self.effort.device)
        except KeyboardInterrupt:
            if run is not None:
                say(f"stopped; the same command goes on from {run}")
            raise
        finally:
            for part in (model, self.gan.generator, self.gan.discriminator):
                if part is not None:
                    part.cpu()
        with torch.no_grad():
            anchor = model.anchor(self.gan, projection.w[:1])
        about: dict[str, Any] = {
            "quality": self.effort.quality,
            "iterations": self.schedule.iterations,
            "pre-trained": self.start is not None,
            "generator": {"size": self.gan.size},
            "inversion": projection.about(),
        }
        if folder is not None:
            about["folder"] = str(folder)
        return Fitted(model, self.gan, projection, anchor, about, tuple(warnings))

    def _untaught(self) -> GAN2Shape:
        """A model to grow from an ellipsoid: the published one, or a narrow one with a mean shape, which takes the
        ellipsoid at once."""
        mapping = PAPER_MAPPING[self.category]
        latent = self.gan.generator.settings.latent
        changes = {"mapping_depth": mapping.mapping_depth, "relative": mapping.relative}
        settings = self._untaught_settings(latent, changes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return GAN2Shape(settings)

    def _untaught_settings(self, latent: int, changes: dict[str, Any]) -> GAN2ShapeSettings:
        if self.effort.quality == "paper":
            return published(self.size, latent, **changes)
        network = Unsup3dSettings(
            size=self.size,
            width=NARROW,
            latent=4 * NARROW,
            encoder_width=NARROW,
            depth_head="smooth",
            albedo_head="sharp",
            confidence_width=0,
            mean=True,
        )
        return GAN2ShapeSettings(network, latent, offset_width=NARROW, **changes)

    def _projection(self, image: Tensor, folder: Path | None, say: Callable[[str], None]) -> Projection:
        """Onto the manifold; kept, so that a second run has the very same w."""
        file = None if folder is None else folder / "projection.safetensors"
        if file is not None and file.is_file():
            return Projection.read(file)
        say("finding the photo among the generator's pictures")
        found = project(self.gan, image[None], self.search)
        if file is not None:
            found.write(file)
        return found

    def _folder(self, image: Tensor, mask: Tensor | None, name: str) -> tuple[Path | None, Tensor]:
        """Where work on this image is kept, and the image as it was when that began: landmarks, and so crops, differ in
        their last bits with the number of threads."""
        if self.effort.folder is None:
            return None, image
        base = self.effort.folder / name / f"gan2shape_{self.effort.quality}_{self._digest()}"
        target = {"image": image.contiguous()} | ({} if mask is None else {"mask": mask.contiguous()})
        for number in count(1):
            folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
            file = folder / "target.safetensors"
            if not file.is_file():
                with atomic_path(file) as part:
                    part.write_bytes(save(target))
                return folder, image
            begun = load_file(file)[0]
            if begun.keys() == target.keys() and all(_alike(begun[key], target[key]) for key in target):
                return folder, begun["image"]
        raise AssertionError("there is always another number")

    def _digest(self) -> str:
        """Of the networks."""
        key = hashlib.sha256()
        for part in [self.gan.generator] if self.start is None else [self.gan.generator, self.start]:
            for tensor in part.state_dict().values():
                key.update(tensor.cpu().numpy().tobytes())
        return key.hexdigest()[:8]


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and float((one - other).abs().mean()) < ALIKE


def fitter(file: Path, effort: Effort) -> Fitter:
    """For a weight file of `aboutface train gan2shape`, or, to start from an ellipsoid, of a StyleGAN2.

    Raises UsageError for a file of another form.
    """
    if load_file(file)[1].get("method") == "gan2shape":
        model, gan = read(file)
        return Fitter(gan, model, category_of(gan), effort)
    gan = load_gan(file)
    return Fitter(gan, None, category_of(gan), effort)


def category_of(gan: Gan) -> Category:
    """What the generator's card says of its pictures."""
    return "face" if gan.crop == "face" else "object"


class GAN2ShapeReconstructor:
    """Face -> Scene. Every photo is optimised by itself: minutes, not milliseconds. Safe in threads."""

    name = "gan2shape"
    weights = "gan2shape"

    def __init__(self, fit: Fitter | None = None, effort: Effort | None = None) -> None:
        """fit: the shipped generator and model if missing, with so much `effort`."""
        self.fit = fit or fitter(path("gan2shape"), effort or Effort())

    @classmethod
    def from_file(cls, file: Path, effort: Effort | None = None) -> "GAN2ShapeReconstructor":
        """With weights of `aboutface train gan2shape` or `train stylegan2`. Raises UsageError for another file."""
        found = fitter(file, effort or Effort())
        if found.category != "face":
            raise UsageError(f"{file}: this generator knows whole pictures; photos of faces need one of --crop face")
        return cls(found)

    def __call__(self, photo: Photo, face: Face) -> Scene:
        size = self.fit.size
        frame = FaceFrame.of(torch.from_numpy(face.landmarks)[None])
        photo_from_crop = frame.photo_from_crop(size)[0]
        crop = to_tensor(cut(photo.pixels, photo_from_crop.numpy(), size))
        name = photo.name if face.index == 0 else f"{photo.name}_face{face.index}"
        fitted = self.fit(crop[0], face_mask(size), name)
        scene = _FittedFace(fitted.model.net)(photo, face)
        return replace(scene, manifold=fitted.manifold(photo_from_crop))


class _FittedFace(Unsup3dReconstructor):
    """The networks of one photo, seen as Unsup3d's."""

    @torch.no_grad()
    def factors(self, crop: Tensor) -> Factors:
        """As they are: they were fitted to this very crop, and know nothing of its mirror image."""
        return self.net(crop)


class _FittedObject(ObjectReconstructor):
    def factors(self, image: Tensor) -> Factors:
        return self.net(image)


@lru_cache(maxsize=4)
def face_mask(size: int) -> Tensor:
    """(S, S): 1 on the mean head's face in the crop, whatever its pose: what the ellipsoid is put over."""
    axis = ((torch.arange(size) + 0.5) / size - 0.5) * SIDE
    x, y = axis / FACE[0], (axis[:, None] + PIVOT[1] - FACE[2]) / FACE[1]
    return (x.square() + y.square() <= 1).float()


class GAN2ShapeObjects(ObjectReconstructor):
    """Photo -> ObjectShape, by a generator of whole pictures. The picture's transparency is the mask."""

    def __init__(self, fit: Fitter) -> None:
        self.fit = fit

    @classmethod
    def from_file(cls, file: Path, effort: Effort | None = None) -> "GAN2ShapeObjects | None":
        """None for a generator of faces cut out by landmarks. Raises UsageError for another file."""
        found = fitter(file, effort or Effort())
        return None if found.category == "face" else cls(found)

    def __call__(self, photo: Photo) -> ObjectShape:
        crop, _ = cut_object(photo)
        size, side = self.fit.size, crop.width
        image = to_tensor(resized_square(crop.pixels, size))
        mask = None
        if crop.alpha is not None:
            mask = functional.adaptive_avg_pool2d(torch.tensor(crop.alpha)[None].float() / 255, size)[0]
        fitted = self.fit(image[0], mask, photo.name)
        shape = _FittedObject(fitted.model.net)(photo)
        manifold = fitted.manifold(scaling(side / size, side / size).double())
        return replace(shape, scene=replace(shape.scene, manifold=manifold))


def _silent(_: str) -> None:
    """Nobody listens."""
