"""A morphable model placed in a photo -> Scene: the photo, less its light, becomes the texture."""

import math

import numpy as np
import torch
from torch import Tensor

from ..data.crop import cut
from ..filters import guided_upsample, smoothstep
from ..geometry import clip, clip_from_camera, project, unproject, vertex_normals
from ..images import Photo, to_tensor
from ..morphable import POSE_WEIGHTS, MeanHead, MorphableModel, WholeHead, bend, has_whole_head
from ..render import interpolate, rasterize, sh_basis
from ..scene import Camera, Mesh, Pose, Scene, SphericalHarmonics, WholeSurface
from .morphable_fit import Placement, known_landmarks

LARGEST = 2048
"""Largest side, in pixels, of the texture."""
SHADING_SIZE = 256
"""Side of the picture of the light that is divided out of the texture."""
DARKEST = 0.15
"""Least light by which colours are divided: deeper shadows stay in the texture."""
TRUSTED = (0.85, 1.0)
"""Where trust begins to end and where it ends, in radii of an ellipse over the face."""
REACH = 90.0
"""Millimetres from a landmark up to which the head is bent towards where it was found."""
BELIEVED = (0.05, 0.3)
"""Of the trust in a landmark: below the first it is an outlier, above the second it is not."""


class SceneBuilder:
    """Builds scenes of one model. May be shared by threads."""

    def __init__(self, model: MorphableModel, whole: MorphableModel | None = None) -> None:
        """model: the part that a photo shows; whole: all of it, if a head shall be made of more than that part."""
        self.model = model
        self.head = WholeHead.of(whole) if whole is not None and has_whole_head(whole) else None
        self.mean_head = MeanHead.load()
        self.trust = _trust(model)

    @torch.no_grad()
    def __call__(self, photo: Photo, pixels: Tensor, placed: Placement, light: Tensor) -> Scene:
        """What a photo shows.

        Args:
            pixels: (68, 2) landmarks that were found in it.
            placed: the first of its photos is this one; see `Placement.of`.
            light: (9, 3) spherical harmonics of what arrives, camera space.
        """
        points = self._points(pixels, placed)
        # The face's centre comes to z = 1.
        unit = float(points[:, 2].mean())
        points, rotation, K = (points / unit).float(), placed.rotation[0].float(), placed.K[0].float()
        vertices = placed.vertices(self.model)[0] / unit
        lens = Camera(K, photo.height, photo.width)
        albedo, uv = self._texture(photo, vertices, light, K)
        return Scene(
            surface=Mesh(vertices, self.model.faces, uv),
            albedo=albedo,
            camera=lens,
            light=SphericalHarmonics(light),
            pose=Pose.of(rotation),
            pivot=self._pivot(points, rotation, unit),
            millimetres_per_unit=unit,
            landmarks=points,
            trust=self.trust,
            whole=None if self.head is None else self._whole(self.head, placed, points, unit),
        )

    def _whole(self, head: WholeHead, placed: Placement, points: Tensor, unit: float) -> WholeSurface:
        """The fitted head, bent so that its landmarks lie where the scene's do (68, 3)."""
        rest = head.vertices(placed.identity[None].float(), placed.expression[:1].float())[0]
        vertices = (rest @ placed.rotation[0].float().mT + placed.translation[0].float()) / unit
        own = (placed.points[0] / unit).float()
        known = own.isfinite().all(1)
        vertices = bend(vertices, own[known], points[known], smoothing=0.05, reach=REACH / unit)
        landmarks = head.skin.landmarks(head.skin.mean)
        return WholeSurface(Mesh(vertices, head.faces, head.uv), head.mirror, head.mean, landmarks)

    def _points(self, pixels: Tensor, placed: Placement) -> Tensor:
        """Landmarks (68, 3), millimetres: as deep as the model's, on the rays of those that were found.

        Those that count as outliers stay the model's; those that it does not know are as deep as the mean head's.
        """
        known = placed.points[0].isfinite().all(1)
        own = placed.points[0]
        if not bool(known.all()):
            head = self.mean_head.landmarks.double() @ placed.rotation[0].mT
            own = torch.where(known[:, None], own, head + (own[known] - head[known]).mean(0))
        depth = own[:, 2]
        rays = unproject(pixels, depth, placed.K[0])
        trust = smoothstep(torch.where(known, placed.trust[0], 1.0), *BELIEVED)
        return torch.lerp(own, rays, trust[:, None])

    def _pivot(self, points: Tensor, rotation: Tensor, unit: float) -> tuple[float, float, float]:
        """The mean head's origin, between the ears, where its landmarks best meet these (68, 3)."""
        head = self.mean_head.landmarks @ rotation.mT / unit
        x, y, z = (((points - head) * POSE_WEIGHTS[:, None]).sum(0) / POSE_WEIGHTS.sum()).tolist()
        return x, y, z

    def _texture(self, photo: Photo, vertices: Tensor, light: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
        """The photo about the face less its light (3, S, S), and where in it the vertices are (V, 2)."""
        seen = project(vertices, K)
        low, high = seen.amin(0), seen.amax(0)
        side = float((high - low).max()) * 1.02
        left, top = ((low + high) / 2 - side / 2).tolist()
        size = max(16, min(LARGEST, math.ceil(side)))
        photo_from_texture = np.array([[side / size, 0, left], [0, side / size, top], [0, 0, 1.0]])
        colours = to_tensor(cut(photo.pixels, photo_from_texture, size))[0]
        small = min(size, SHADING_SIZE)
        to_small = torch.tensor([[small / side, 0, -left * small / side], [0, small / side, -top * small / side]])
        shading = self._shading(vertices, light, torch.cat([to_small @ K, K[2:]]), small)
        albedo = colours / guided_upsample(shading, colours).clamp_min(DARKEST)
        return albedo.clamp(0, 1), (seen - torch.tensor([left, top])) / side

    def _shading(self, vertices: Tensor, light: Tensor, K: Tensor, size: int) -> Tensor:
        """(3, size, size) light that arrives at what is seen; its mean beside the face."""
        arriving = sh_basis(vertex_normals(vertices, self.model.faces)) @ light
        corners = clip(vertices[None], clip_from_camera(K, (size, size), 0.3, 3.0))
        fragments = rasterize(corners, self.model.faces, (size, size))
        drawn = interpolate(arriving, fragments, self.model.faces)[0].movedim(-1, 0)
        covered = fragments.triangle_id[0] >= 0
        mean = drawn[:, covered].mean(1) if bool(covered.any()) else torch.ones(3)
        return torch.where(covered, drawn, mean[:, None, None])


def _trust(model: MorphableModel) -> Tensor:
    """(V,) 1 on the face from brows to chin, 0 towards the rim, and on what lies within the head."""
    _, corners, shares = known_landmarks(model)
    marks = (model.mean[corners] * shares.to(model.mean)[..., None]).sum(1)
    low, high = marks[:, :2].amin(0), marks[:, :2].amax(0)
    radii = (high - low) * torch.tensor([0.5, 0.6])
    away = ((model.mean[:, :2] - (low + high) / 2) / radii).norm(dim=1)
    trust = 1 - smoothstep(away, *TRUSTED)
    inside = model.masks.get("front", torch.ones(len(model.mean), dtype=torch.bool))
    return trust * inside
