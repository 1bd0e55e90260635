"""The verbs on pictures of other things than faces: cut out, reconstruct, turn. Nothing is detected or completed."""

import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..compose import View
from ..errors import UsageError
from ..export import save_mesh
from ..filters import fill
from ..images import Photo, to_pixels, to_tensor
from ..reconstruct import ObjectReconstructor, ObjectShape
from ..relight.apart import decoded
from ..relight.lights import angles_of as angles_of_light
from ..relight.lights import harmonics_of
from ..render import Render, render
from ..scene import FRONTAL, Pose, Scene
from .result import about_photo, make_record

WIDTH = 0.2
"""Metres across the picture in a mesh: a photo does not tell the size of what it shows."""
BARELY = 0.2
"""Cosine of surface and ray in the photo below which a part is stretched rather than shown."""


@dataclass(frozen=True, eq=False)
class ObjectPortrait:
    """What one picture shows, reconstructed, ready to be turned any number of times."""

    source: Photo
    """The whole picture."""
    shape: ObjectShape
    method: str
    seconds: dict[str, float]
    kind: str = "object"

    @property
    def photo(self) -> Photo:
        """The square around it; results have its size."""
        return self.shape.crop

    @property
    def scene(self) -> Scene:
        return self.shape.scene

    @property
    def stem(self) -> str:
        """Start of the names of all files made from it."""
        return self.source.name

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the user, whatever is done with it."""
        found = self.scene.manifold
        return (*self.photo.warnings, *(found.warnings if found else ()))

    def about(self) -> dict[str, Any]:
        """What the record says of the object itself."""
        manifold = {} if self.scene.manifold is None else {"gan2shape": self.scene.manifold.about}
        crop = {"box": list(self.shape.box), "size": self.photo.width}
        return {"source": about_photo(self.source), "crop": crop} | manifold

    def view(self, pose: Pose) -> View:
        """The square with the object in this pose.

        Where it has transparency, what is uncovered is transparent; else it has the colours beside it, blurred.
        """
        scene = self.scene.posed(*pose)
        drawn = render(scene, smooth=True)
        covered = drawn.alpha
        if self.photo.alpha is not None:
            covered = covered * _drawn_alpha(scene, self.photo.alpha)
        shown = float((covered * (drawn.visibility > BARELY)).sum())
        if self.photo.alpha is None:
            return View(to_pixels(fill(drawn.rgb, covered)), 1 - shown / covered.numel())
        alpha = (covered * 255).round().byte().numpy()
        return View(to_pixels(fill(drawn.rgb, covered)), 1 - shown / max(1.0, float(covered.sum())), alpha)

    @cached_property
    def apart(self) -> "ObjectApart":
        """The square taken apart into albedo and light."""
        return ObjectApart(self.shape)


@dataclass(frozen=True, eq=False)
class ObjectApart:
    """Albedo and light of an object, in linear values. The network has found them in the picture's own, sRGB ones."""

    shape: ObjectShape

    def shading(self) -> Tensor:
        """(1, H, W) linear multiples of the albedo."""
        return decoded(self.shape.shading)[None]

    def albedo(self) -> Tensor:
        """The picture (3, H, W) without its light: albedo * shading is the picture. It may be beyond 1."""
        return decoded(to_tensor(self.shape.crop.pixels)[0]) / self.shading()

    def about(self) -> dict[str, Any]:
        """The light, for the record."""
        light = self.shape.light
        azimuth, elevation = angles_of_light(light.direction)
        return {
            "azimuth": round(azimuth, 1),
            "elevation": round(elevation, 1),
            "ambient": round(float(light.ambient), 3),
            "diffuse": round(float(light.diffuse), 3),
            "spherical_harmonics": [round(float(c), 5) for c in harmonics_of(light).coefficients[:, 0]],
        }


@dataclass(frozen=True, eq=False)
class ObjectMesh:
    """The visible surface as an object: seen from the front, textured."""

    portrait: ObjectPortrait

    def save(self, path: str | Path) -> list[Path]:
        """Write .glb, .obj (with .mtl and _albedo.png) or .ply: y up, facing +z, the picture 0.2 m wide; the files."""
        scene = self.portrait.scene.posed(*FRONTAL)
        metres = WIDTH * float(scene.camera.K[0, 0]) / scene.camera.width
        return save_mesh(path, scene, centre=scene.pivot, metres_per_unit=metres)


@dataclass(frozen=True, eq=False)
class ObjectReconstruction:
    """The 3D shape of what one picture shows."""

    portrait: ObjectPortrait
    warnings: tuple[str, ...]
    record: dict[str, Any] = field(repr=False)
    unit: str = "distances of the object's centre from the camera"

    @property
    def mesh(self) -> ObjectMesh:
        """The surface as a mesh; `mesh.save("cat.glb")`."""
        return ObjectMesh(self.portrait)

    @property
    def pose(self) -> Pose:
        """Pose in the picture, degrees, as the network counts it."""
        return self.portrait.scene.pose

    @property
    def apart(self) -> ObjectApart:
        """Albedo and light."""
        return self.portrait.apart

    @property
    def texture(self) -> Tensor:
        """(3, T, T): what the uv of the mesh refer to."""
        return self.portrait.scene.albedo

    def maps(self) -> Render:
        """The surface drawn as it is in the picture, at the square's size."""
        scene, alpha = self.portrait.scene, self.portrait.photo.alpha
        drawn = render(scene)
        return drawn if alpha is None else replace(drawn, alpha=drawn.alpha * _drawn_alpha(scene, alpha))

    def depth(self, maps: Render | None = None) -> Tensor:
        """(H, W) distance from the camera along its axis, in `unit`; 0 where nothing is. `maps`: if drawn."""
        return (maps or self.maps()).depth

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything needed to draw it again, under the names documented in docs/outputs.md."""
        scene, light = self.portrait.scene, self.portrait.shape.light
        mesh = scene.mesh_at_rest()
        assert mesh.uv is not None
        return {
            "vertices": mesh.vertices.numpy(),
            "faces": mesh.faces.numpy().astype(np.int32),
            "uv": mesh.uv.numpy(),
            "texture": to_pixels(scene.albedo),
            "camera_matrix": scene.camera.K.numpy(),
            "image_size": np.array([scene.camera.height, scene.camera.width], np.int32),
            "pose_degrees": np.array(scene.pose, np.float64),
            "pivot": np.array(scene.pivot, np.float64),
            "light_direction": np.array(light.direction, np.float32),
            "light_ambient": np.array(light.ambient, np.float32),
            "light_diffuse": np.array(light.diffuse, np.float32),
            "light_harmonics": harmonics_of(light).coefficients[:, 0].numpy(),
        }

    def to_dict(self) -> dict[str, Any]:
        """The sidecar's content."""
        return self.record


def object_portrait(
    reconstruct: ObjectReconstructor, photo: Photo, method: str, seconds: dict[str, float]
) -> ObjectPortrait:
    """What the picture shows. Raises PhotoError where that is too small."""
    start = time.perf_counter()
    shape = reconstruct(photo)
    return ObjectPortrait(photo, shape, method, seconds | {"reconstruct": time.perf_counter() - start})


def check_no_face(method: str, face: int | str, landmarks: Any, box: Any) -> None:
    """Raises UsageError where a face is chosen for a network that knows none."""
    if face not in ("largest", "all", 0) or landmarks is not None or box is not None:
        raise UsageError(f"{method}: knows whole pictures, not faces: leave face, landmarks and box out")


def object_reconstruction(portrait: ObjectPortrait) -> ObjectReconstruction:
    record = make_record("reconstruct", portrait, portrait.seconds, portrait.warnings)
    return ObjectReconstruction(portrait, portrait.warnings, record)


def _drawn_alpha(scene: Scene, alpha: np.ndarray) -> Tensor:
    """(H, W), 0 to 1: the transparency, turned with the surface."""
    planes = (torch.tensor(alpha) / 255).expand(3, -1, -1)
    # Not antialiased: beyond the mesh's rim that would go on with the colour, here the opacity, of the pixel inside.
    return render(replace(scene, albedo=planes)).rgb[0]
