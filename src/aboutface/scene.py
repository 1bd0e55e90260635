"""Scene: a surface, its colour, light and camera. Values are frozen; turning a head makes a new one.

Values that hold tensors are equal only if they are the same object.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .geometry import (
    MIRROR_68,
    angles_from_rotation,
    depth_to_mesh,
    pixel_centres,
    rotation_from_angles,
    vertex_normals,
)


class Pose(NamedTuple):
    """Head pose in degrees: +yaw turns to the image's right, +pitch looks up, +roll is clockwise as seen."""

    yaw: float
    pitch: float
    roll: float

    @classmethod
    def of(cls, rotation: Tensor) -> "Pose":
        """The pose into which `rotation` (3, 3) turns a face at rest; yaw lies in [-90, 90]."""
        return cls(*(float(a) for a in angles_from_rotation(rotation.double())))

    def rotation(self) -> Tensor:
        """Matrix (3, 3) that turns a face at rest (looking along -z) into this pose."""
        return self._rotation64().float()

    def _rotation64(self) -> Tensor:
        return rotation_from_angles(*(torch.tensor(a, dtype=torch.float64) for a in self))


FRONTAL = Pose(0.0, 0.0, 0.0)
"""A face at rest: it looks at the camera."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles in camera space (x right, y down, z forward)."""

    vertices: Tensor
    """(V, 3) float32."""
    faces: Tensor
    """(F, 3) int64; corners run clockwise as seen from outside."""
    uv: Tensor | None = None
    """(V, 2) texture coordinates: (0, 0) is the texture's top left corner, (1, 1) its bottom right."""

    @property
    def normals(self) -> Tensor:
        """Unit vertex normals (V, 3), pointing out of the surface."""
        return vertex_normals(self.vertices, self.faces)


@dataclass(frozen=True, eq=False)
class DepthMap:
    """One z-depth per pixel of the scene's camera."""

    depth: Tensor
    """(H, W) float32."""

    def mesh(self, camera: "Camera") -> Mesh:
        """The same surface as triangles; texture coordinates are the pixel centres."""
        height, width = self.depth.shape
        vertices, faces = depth_to_mesh(self.depth, camera.resized(height, width).K.to(self.depth))
        uv = pixel_centres(height, width) / torch.tensor([width, height])
        return Mesh(vertices, faces, uv.flatten(0, 1).to(self.depth))


@dataclass(frozen=True, eq=False)
class Camera:
    """Pinhole camera at the origin, looking along +z."""

    K: Tensor
    """Intrinsics (3, 3) in pixels."""
    height: int
    """Rows of the image."""
    width: int
    """Columns of the image."""

    def resized(self, height: int, width: int) -> "Camera":
        """The same view with another number of pixels."""
        scale = torch.tensor([width / self.width, height / self.height, 1.0]).to(self.K)
        return Camera(self.K * scale[:, None], height, width)


@dataclass(frozen=True)
class Light:
    """Ambient and one directional light, white, in linear multiples of the albedo (Lambert).

    Numbers, or tensors where gradients or a batch are wanted: those of a batch have its sizes (see `render.shade`).
    """

    ambient: float | Tensor = 0.5
    """Light from everywhere, 0 or more; a tensor ()."""
    diffuse: float | Tensor = 0.5
    """Strength of the directional light, 0 or more; a tensor ()."""
    direction: tuple[float, float, float] | Tensor = (0.0, 0.0, -1.0)
    """Unit vector from the surface towards the light, camera space; a tensor (3,)."""

    def mirrored(self) -> "Light":
        """The light as seen in a mirror: left and right exchanged."""
        if isinstance(self.direction, Tensor):
            return replace(self, direction=self.direction * self.direction.new_tensor([-1.0, 1.0, 1.0]))
        x, y, z = self.direction
        return replace(self, direction=(-x, y, z))


@dataclass(frozen=True, eq=False)
class SphericalHarmonics:
    """Light from all around, given by spherical harmonics of degree 0 to 2, in linear multiples of the albedo."""

    coefficients: Tensor
    """(9, 3) for red, green and blue, or (9, 1) for white light, in the order of `render.sh_basis`: of the light that
    arrives at a surface, which means that the clamped cosine is already in them."""

    def mirrored(self) -> "SphericalHarmonics":
        """The light as seen in a mirror: left and right exchanged."""
        # x, xy and xz change their sign.
        signs = self.coefficients.new_tensor([1, 1, 1, -1, -1, 1, 1, -1, 1])
        return SphericalHarmonics(self.coefficients * signs[:, None])


@dataclass(frozen=True, eq=False)
class MorphableFace:
    """The face as the coefficients of a morphable model, as in the photo: in Deep3D's frame, see docs/deep3d.md."""

    model: str
    """Its name in `aboutface models list`."""
    licence: str
    """The model's."""
    coefficients: Mapping[str, Tensor]
    """"id", "exp", "tex", "angle", "gamma", "trans", (N,) each: see `reconstruct.deep3d.Coefficients`."""
    crop_from_photo: Tensor
    """(3, 3) float64: photo pixels to those of the crop of 224 pixels that Deep3D's camera sees."""
    shape: Tensor
    """(V, 3) the face before it is turned and shifted, metres, about the origin of Deep3D's frame; axes as in ours."""
    albedo: Tensor
    """(V, 3) RGB, 1 is white."""
    faces: Tensor
    """(F, 3) int64; corners run clockwise as seen from outside."""
    landmark_corners: Tensor
    """(68, K) int64: the vertices between which a landmark lies."""
    landmark_weights: Tensor
    """(68, K), of sum 1."""


@dataclass(frozen=True, eq=False)
class WholeSurface:
    """A head all around, and which of its vertices are twins."""

    mesh: Mesh
    """At rest, camera space; open at the neck only. Its texture coordinates have no seams, and twins lie at (u, v) and
    (1 - u, v)."""
    mirror: Tensor
    """(V,) int64: each vertex's twin on the other side."""
    mean: Tensor
    """(V, 3) of the average head, symmetric; millimetres, its own frame as the camera's of a face at rest."""
    landmarks: Tensor
    """(68, 3) points of the average head, in its frame."""

    def mirrored(self) -> "WholeSurface":
        """As seen in a mirror: every vertex takes the place of its twin's picture."""
        flip = torch.tensor([-1.0, 1.0, 1.0])
        return replace(self, mesh=replace(self.mesh, vertices=self.mesh.vertices[self.mirror] * flip))


@dataclass(frozen=True, eq=False)
class Manifold:
    """The pictures of a generator about this one: what the refiner `manifold` goes to."""

    project: Callable[[Tensor], Tensor]
    """Pictures (B, 3, S, S) in [0, 1] of the crop -> the generator's nearest ones (B, 3, G, G)."""
    photo_from_crop: Tensor
    """(3, 3), pixels of the crop of side `size` to the photo's."""
    size: int
    """S, pixels."""
    about: dict[str, Any]
    """How the shape was found, for the record."""
    warnings: tuple[str, ...] = ()
    """Sentences for the user."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What a reconstructor makes of a Face. `turned` is relative and adds up; `posed` is absolute."""

    surface: Mesh | DepthMap
    """At rest, that is as in the photo; camera space, the face centre at z = 1."""
    albedo: Tensor
    """Texture (3, H, W), float RGB in [0, 1]."""
    camera: Camera
    light: Light | SphericalHarmonics | None = None
    """None: the albedo already carries the photo's light."""
    pose: Pose = FRONTAL
    """Head pose as in the photo, before any turn."""
    turn: Tensor = field(default_factory=lambda: torch.eye(3))
    """Rotation (3, 3) applied to the surface about `pivot` since it was at rest."""
    pivot: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """The point, camera space, about which the head turns."""
    rigidity: Tensor | None = None
    """Per vertex (V,), 0 to 1: how far it follows the turn. 1 on the head, 0 on the background. None: all 1."""
    millimetres_per_unit: float | None = None
    """Length of one unit, where the method knows it."""
    landmarks: Tensor | None = None
    """68 points (68, 3) of the surface at rest, camera space."""
    trust: Tensor | None = None
    """Per vertex (V,), 0 to 1: how far the surface is to be believed where it differs from a mean head bent onto the
    landmarks. None: only the landmarks are."""
    whole: WholeSurface | None = None
    """The same face's whole head, where the method knows one."""
    morphable: MorphableFace | None = None
    """The same face as coefficients, where the method knows a morphable model with all 68 landmarks."""
    manifold: Manifold | None = None
    """The generator that has taught the shape, where the method works with one."""

    def turned(self, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> "Scene":
        """Turned by so many degrees from where it is now, about the camera's axes. Twice means twice."""
        return self._turned_to(Pose(yaw, pitch, roll)._rotation64() @ self._turn64)

    def posed(self, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> "Scene":
        """Turned until the head has this pose, in degrees, whatever it was."""
        return self._turned_to(Pose(yaw, pitch, roll)._rotation64() @ self.pose._rotation64().mT)

    @property
    def current_pose(self) -> Pose:
        """Head pose after all turns."""
        return Pose.of(self._turn64 @ self.pose._rotation64())

    @property
    def _turn64(self) -> Tensor:
        return self.turn.cpu().double()

    def _turned_to(self, turn: Tensor) -> "Scene":
        return replace(self, turn=turn.to(self.turn))

    @property
    def scale(self) -> float:
        """Millimetres per unit. Raises ValueError where the method does not know it."""
        if self.millimetres_per_unit is None:
            raise ValueError("this scene has no size: its reconstructor sets no millimetres_per_unit")
        return self.millimetres_per_unit

    def mesh_at_rest(self) -> Mesh:
        """The surface as in the photo, as triangles."""
        return self.surface if isinstance(self.surface, Mesh) else self.surface.mesh(self.camera)

    def mesh(self) -> Mesh:
        """The surface after all turns: each vertex goes `rigidity` of the way from rest to turned."""
        rest = self.mesh_at_rest()
        pivot = torch.tensor(self.pivot).to(rest.vertices)
        moved = (rest.vertices - pivot) @ self.turn.to(rest.vertices).mT + pivot
        if self.rigidity is not None:
            moved = torch.lerp(rest.vertices, moved, self.rigidity[:, None].to(moved))
        return replace(rest, vertices=moved)

    def mirrored(self) -> "Scene":
        """The scene seen in a mirror: left and right exchanged in everything. A depth map becomes its mesh.

        No coefficients come along: models need not be closed under mirroring.
        """
        mesh = self.mesh_at_rest()
        flip = torch.tensor([-1.0, 1.0, 1.0])
        uv = None if mesh.uv is None else torch.stack([1 - mesh.uv[:, 0], mesh.uv[:, 1]], -1)
        K = self.camera.K.clone()
        K[0, 1] = -K[0, 1]
        K[0, 2] = self.camera.width - K[0, 2]
        landmarks = self.landmarks
        if landmarks is not None:
            # A mirrored left eye is a right eye.
            landmarks = landmarks[..., torch.from_numpy(MIRROR_68), :] * flip.to(landmarks)
        mirror = torch.diag(flip).to(self.turn)
        return replace(
            self,
            # Reversed corners: in a mirror, clockwise runs the other way.
            surface=Mesh(mesh.vertices * flip.to(mesh.vertices), mesh.faces.flip(-1), uv),
            albedo=self.albedo.flip(-1),
            camera=replace(self.camera, K=K),
            light=None if self.light is None else self.light.mirrored(),
            pose=Pose(-self.pose.yaw, self.pose.pitch, -self.pose.roll),
            turn=mirror @ self.turn @ mirror,
            pivot=(-self.pivot[0], *self.pivot[1:]),
            landmarks=landmarks,
            whole=None if self.whole is None else self.whole.mirrored(),
            morphable=None,
        )
