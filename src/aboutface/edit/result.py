"""What the verbs return: pictures or a shape, and the record that goes beside them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

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
from ..reconstruct import RECONSTRUCTORS
from ..relight import Relightable, relightable
from ..render import Render, render
from ..scene import FRONTAL, Camera, Pose, Scene
from ..weights import digest, info


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
class Result:
    """Pictures made from one face, and everything worth knowing about them."""

    portrait: Portrait
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

    @property
    def image(self) -> np.ndarray:
        """The first picture."""
        return self.images[0]

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

    def maps(self) -> Render:
        """The closed head drawn as it is in the photo, at the photo's size; its depth is in scene units."""
        head, photo = self.portrait.head, self.portrait.photo
        # The head lies in its window: drawing all of a large photo would take gigabytes.
        left, top, right, bottom = part = head.grid.within(photo)
        size = (bottom - top, right - left)
        drawn = render(replace(head.scene, camera=Camera(window_intrinsics(head.scene.camera.K, part, size), *size)))
        margins = (left, photo.width - right, top, photo.height - bottom)
        return Render(**{name: functional.pad(picture, margins) for name, picture in vars(drawn).items()})

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
        }

    def to_dict(self) -> dict[str, Any]:
        """The sidecar's content."""
        return self.record


def about_invention(share: float) -> list[str]:
    """A warning where much of a picture's face is not the photo's."""
    if share < 0.3:
        return []
    return [f"{share:.0%} of the visible face is not in the photo: it was taken from the mirror side or filled in"]


def make_record(verb: str, portrait: Portrait, seconds: dict[str, float], warnings: Sequence[str]) -> dict[str, Any]:
    """What the sidecar says of any verb, under the names documented in docs/outputs.md."""
    scene = portrait.scene
    return {
        "tool": f"aboutface {__version__}",
        "verb": verb,
        "source": about_photo(portrait.photo),
        "face": about_face(portrait.face),
        "pose": angles_of(scene.pose),
        # Unrounded: given back with --landmarks they make the same picture.
        "landmarks": portrait.face.landmarks.tolist(),
        "camera": {
            "K": np.round(scene.camera.K.tolist(), 3).tolist(),
            "millimetres_per_unit": scene.millimetres_per_unit,
        },
        "model": dict(about_model(portrait.method)),
        "weights": [
            dict(about_weights(name)) for name in ("mean_head", *DETECTOR_WEIGHTS.get(portrait.face.detector, ()))
        ],
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


def angles_of(pose: Pose) -> dict[str, float]:
    return {name: round(angle, 2) for name, angle in zip(("yaw", "pitch", "roll"), pose, strict=True)}


DETECTOR_WEIGHTS = {"dlib": ("dlib-landmarks",), "mediapipe": ("mediapipe-face-landmarker",)}
"""Weights behind each detector's landmarks."""


@lru_cache(maxsize=8)
def about_model(method: str) -> dict[str, str]:
    """The same of a reconstructor, by name or by the user's own file."""
    if method in RECONSTRUCTORS:
        return about_weights(RECONSTRUCTORS[method].weights)
    return {"name": Path(method).name, "sha256": digest(Path(method)), "licence": "the user's own weights"}


@lru_cache(maxsize=8)
def about_weights(name: str) -> dict[str, str]:
    """Name, hash and licence of a weight file that touched the result."""
    weights = info(name)
    known = weights.sha256 or (digest(weights.path) if weights.path and weights.present else "")
    return {"name": weights.name, "sha256": known, "licence": weights.licence}
