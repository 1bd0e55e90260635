"""What the verbs return: pictures or a shape, and the record that goes beside them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .. import __version__
from ..compose import View, view
from ..export import save_mesh
from ..face import Face
from ..head import Head, window_intrinsics
from ..images import Photo
from ..reconstruct import RECONSTRUCTORS, models_of, weights_of
from ..reconstruct.deep3d_face import reconstruction
from ..reconstruct.deep3d_frame import SIZE
from ..reconstruct.deep3d_frame import Reconstruction as PublishedFace
from ..relight import Relightable, relightable
from ..render import Render, render
from ..scene import FRONTAL, Camera, MorphableFace, Pose, Scene
from ..weights import digest, info


class Subject(Protocol):
    """What verbs turn: a face (`Portrait`), or another thing (`objects.ObjectPortrait`)."""

    @property
    def photo(self) -> Photo:
        """Results have its size, type and name."""
        ...

    @property
    def scene(self) -> Scene: ...

    @property
    def method(self) -> str: ...

    @property
    def seconds(self) -> dict[str, float]: ...

    @property
    def kind(self) -> str:
        """What it is called in sentences."""
        ...

    @property
    def stem(self) -> str: ...

    @property
    def warnings(self) -> tuple[str, ...]: ...

    def about(self) -> dict[str, Any]:
        """What the record says of this kind alone."""
        ...

    def view(self, pose: Pose) -> View: ...


S = TypeVar("S", bound=Subject)


@dataclass(frozen=True, eq=False)
class Portrait:
    """One face of one photo, reconstructed, ready to be turned any number of times."""

    photo: Photo
    face: Face
    scene: Scene
    head: Head
    method: str
    seconds: dict[str, float]
    """Time that each step took."""
    of_several: bool = False
    """Whether other faces of the same photo are processed too."""
    kind: str = "face"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the user, whatever is done with it."""
        found = self.scene.manifold
        return (*self.photo.warnings, *self.face.warnings, *(found.warnings if found else ()))

    def about(self) -> dict[str, Any]:
        """What the record says of the face itself."""
        return {
            "face": about_face(self.face),
            # Unrounded: given back with --landmarks they make the same picture.
            "landmarks": self.face.landmarks.tolist(),
            "weights": [
                dict(about_weights(name))
                for name in ("mean_head", *DETECTOR_WEIGHTS.get(self.face.detector, ()), *_models_of(self.method))
            ],
            **({} if self.scene.morphable is None else {"morphable": about_morphable(self.scene.morphable)}),
            **({} if self.scene.manifold is None else {"gan2shape": self.scene.manifold.about}),
        }

    @property
    def stem(self) -> str:
        """Start of the names of all files made from it."""
        return f"{self.photo.name}_face{self.face.index}" if self.of_several else self.photo.name

    def view(self, pose: Pose) -> View:
        """The photo with the head in this pose."""
        return view(self.photo, self.head, self.scene.posed(*pose).turn)

    @cached_property
    def relightable(self) -> Relightable:
        """The photo taken apart into albedo and light."""
        return relightable(self.photo, self.head, self.scene.light)

    def landmarks(self, pose: Pose) -> Tensor:
        """68 points (68, 3), camera space, of the head in this pose."""
        scene = self.scene.posed(*pose)
        assert scene.landmarks is not None
        pivot = torch.tensor(scene.pivot)
        return (scene.landmarks - pivot) @ scene.turn.mT + pivot


@dataclass(frozen=True, eq=False)
class Result(Generic[S]):
    """Pictures made from one face or other thing, and everything worth knowing about them."""

    portrait: S
    images: tuple[np.ndarray, ...]
    """(H, W, 3) uint8, the photo's size."""
    names: tuple[str, ...]
    """File stem of each picture."""
    poses: tuple[Pose, ...]
    """Head pose of each picture."""
    invented: tuple[float, ...]
    """Share of the visible face in each picture that the photo does not show."""
    warnings: tuple[str, ...]
    """Sentences for the user."""
    record: dict[str, Any] = field(repr=False, default_factory=dict)
    """What the sidecar file says."""
    labels: tuple[str, ...] = ()
    """What the pictures are called on a sheet, where it is not their poses."""
    alphas: tuple[np.ndarray, ...] = ()
    """(H, W) uint8 of each picture, where they are not the photo's."""

    @property
    def image(self) -> np.ndarray:
        """The first picture."""
        return self.images[0]

    def like(self, index: int = 0) -> Any:
        """A picture in the type that the photo came in."""
        photo = self.portrait.photo
        return (replace(photo, alpha=self.alphas[index]) if self.alphas else photo).like(self.images[index])

    def to_dict(self) -> dict[str, Any]:
        """The sidecar's content: photo, face, pose, outputs, model, seconds, warnings."""
        return self.record


@dataclass(frozen=True, eq=False)
class HeadMesh:
    """The closed head as an object: frontal, upright, textured."""

    portrait: Portrait

    def save(self, path: str | Path) -> list[Path]:
        """Write .glb, .obj (with .mtl and _albedo.png) or .ply: metres, y up, facing +z; returns the files made."""
        # As an object all of it turns, the neck too.
        scene = replace(self.portrait.head.scene, rigidity=None).posed(*FRONTAL)
        return save_mesh(path, scene, landmarks=self.portrait.landmarks(FRONTAL), centre=scene.pivot)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """The 3D shape of one face."""

    portrait: Portrait
    warnings: tuple[str, ...]
    record: dict[str, Any] = field(repr=False)

    @property
    def mesh(self) -> HeadMesh:
        """The head as a mesh; `mesh.save("me.glb")`."""
        return HeadMesh(self.portrait)

    @property
    def pose(self) -> Pose:
        """Head pose in the photo, degrees."""
        return self.portrait.scene.pose

    @property
    def landmarks(self) -> np.ndarray:
        """(68, 2) photo pixels."""
        return self.portrait.face.landmarks

    @property
    def apart(self) -> Relightable:
        """The photo taken apart into albedo and light."""
        return self.portrait.relightable

    @property
    def texture(self) -> Tensor:
        """(3, T, T): what the uv of the mesh refer to."""
        return self.portrait.head.scene.albedo

    def maps(self) -> Render:
        """The closed head drawn as it is in the photo, at the photo's size; its depth is in scene units."""
        head, photo = self.portrait.head, self.portrait.photo
        # The head lies in its window: drawing all of a large photo would take gigabytes.
        left, top, right, bottom = part = head.grid.within(photo)
        size = (bottom - top, right - left)
        drawn = render(replace(head.scene, camera=Camera(window_intrinsics(head.scene.camera.K, part, size), *size)))
        margins = (left, photo.width - right, top, photo.height - bottom)
        return Render(**{name: functional.pad(picture, margins) for name, picture in vars(drawn).items()})

    def published(self) -> PublishedFace:
        """The face as the files of the published Deep3D have it, see docs/deep3d.md.

        Raises UsageError for a method that has no coefficients of a morphable model.
        """
        return reconstruction(self.portrait.scene, self.portrait.photo, self.portrait.face.landmarks)

    def depth_mm(self, maps: Render | None = None) -> Tensor:
        """(H, W) distance from the camera along its axis in millimetres; 0 where the head is not. `maps`: if drawn."""
        maps = maps or self.maps()
        return maps.depth * self.portrait.scene.scale

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything needed to draw it again, under the names documented in docs/outputs.md."""
        scene = self.portrait.head.scene
        mesh = scene.mesh_at_rest()
        assert mesh.uv is not None
        assert scene.landmarks is not None
        assert scene.rigidity is not None
        light = self.portrait.relightable.light
        return {
            "vertices": mesh.vertices.numpy(),
            "faces": mesh.faces.numpy().astype(np.int32),
            "uv": mesh.uv.numpy(),
            "texture": (scene.albedo * 255).round().byte().permute(1, 2, 0).numpy(),
            "seen": self.portrait.head.seen.numpy(),
            "rigidity": scene.rigidity.numpy(),
            "landmarks": self.portrait.face.landmarks,
            "landmarks_3d": scene.landmarks.numpy(),
            "camera_matrix": scene.camera.K.numpy(),
            "image_size": np.array([scene.camera.height, scene.camera.width], np.int32),
            "pose_degrees": np.array(scene.pose, np.float64),
            "pivot": np.array(scene.pivot, np.float64),
            "millimetres_per_unit": np.array(scene.millimetres_per_unit, np.float64),
            "light_direction": np.array(light.direction, np.float32),
            "light_ambient": np.array(light.ambient, np.float32),
            "light_diffuse": np.array(light.diffuse, np.float32),
            "light_harmonics": self.portrait.relightable.harmonics.coefficients[:, 0].numpy(),
            **self._coefficients(),
        }

    def _coefficients(self) -> dict[str, np.ndarray]:
        """Those of a morphable model, under the names documented in docs/deep3d.md."""
        face = self.portrait.scene.morphable
        if face is None:
            return {}
        numbers = {f"coeff_{name}": value.numpy() for name, value in face.coefficients.items()}
        return numbers | {"crop_from_photo": face.crop_from_photo.numpy()}

    def to_dict(self) -> dict[str, Any]:
        """The sidecar's content."""
        return self.record


def about_invention(share: float, kind: str = "face") -> list[str]:
    """A warning where much of a picture's face is not the photo's."""
    if share < 0.3:
        return []
    source = "taken from the mirror side" if kind == "face" else "stretched"
    return [f"{share:.0%} of the visible {kind} is not in the photo: it was {source} or filled in"]


def make_record(verb: str, portrait: Subject, seconds: dict[str, float], warnings: Sequence[str]) -> dict[str, Any]:
    """What the sidecar says of any verb, under the names documented in docs/outputs.md."""
    scene, about = portrait.scene, portrait.about()
    weights = about.pop("weights", [])
    return {
        "tool": f"aboutface {__version__}",
        "verb": verb,
        "source": about_photo(portrait.photo),
        "pose": angles_of(scene.pose),
        **about,
        "camera": {
            "K": np.round(scene.camera.K.tolist(), 3).tolist(),
            "millimetres_per_unit": scene.millimetres_per_unit,
        },
        "model": dict(about_model(portrait.method)),
        "weights": weights,
        "device": "cpu",
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "warnings": list(warnings),
    }


def about_photo(photo: Photo) -> dict[str, Any]:
    return {"name": photo.name, "sha256": photo.sha256, "width": photo.width, "height": photo.height}


def about_face(face: Face) -> dict[str, Any]:
    return {
        "index": face.index,
        "box": [round(side, 1) for side in face.box],
        "score": round(face.score, 3),
        "detector": face.detector,
    }


def about_morphable(face: MorphableFace) -> dict[str, Any]:
    """The model that a face's coefficients are of, how many there are, and the crop that they were seen in."""
    return {
        "model": face.model,
        "licence": face.licence,
        "coefficients": {name: len(numbers) for name, numbers in face.coefficients.items()},
        "crop": {"size": SIZE, "crop_from_photo": face.crop_from_photo.tolist()},
    }


def angles_of(pose: Pose) -> dict[str, float]:
    return {name: round(angle, 2) for name, angle in zip(("yaw", "pitch", "roll"), pose, strict=True)}


DETECTOR_WEIGHTS = {
    "network": ("dlib-landmarks", "deep3d"),
    "dlib": ("dlib-landmarks",),
    "mediapipe": ("mediapipe-face-landmarker",),
}
"""Weights behind each detector's landmarks."""


@lru_cache(maxsize=8)
def about_model(method: str) -> dict[str, str]:
    """The same of a reconstructor, by name or by the user's own file."""
    if method in RECONSTRUCTORS:
        return about_weights(weights_of(method))
    return {"name": Path(method).name, "sha256": digest(Path(method)), "licence": "the user's own weights"}


_models_of = lru_cache(maxsize=8)(models_of)
"""Once per method: of a file it reads all of it."""


@lru_cache(maxsize=8)
def about_weights(name: str) -> dict[str, str]:
    """Name, hash and licence of a weight file that touched the result."""
    weights = info(name)
    known = weights.sha256 or (digest(weights.path) if weights.path and weights.present else "")
    return {"name": weights.name, "sha256": known, "licence": weights.licence}
