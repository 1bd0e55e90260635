"""Unsup3d on a photo: the face's crop through the network, and its factors back into the photo's camera."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..data.crop import cut
from ..errors import UsageError
from ..face import Face
from ..filters import blur, guided_upsample, smoothstep
from ..geometry import depth_to_points, grid_faces, rotation_from_angles, unproject
from ..images import Photo, to_tensor
from ..morphable import MeanHead
from ..scene import Camera, Light, Mesh, Pose, Scene
from ..weights import load_file, path
from .face_frame import PIVOT, SIDE, FaceFrame, millimetres_per_unit
from .unsup3d import BORDER, Factors, Unsup3d, View, built

REFINEMENTS = 6
"""Times that a landmark's depth is looked up where the depth before has put it."""
ON_SURFACE = torch.tensor([*[0.0] * 5, 0.3, 0.7, 1.0, 1.0, 1.0, 0.7, 0.3, *[0.0] * 5, *[1.0] * 51])
"""How far each landmark is looked up on the surface: not those of the jaw line but for the chin."""
RELIEF, SMOOTH = 0.5, 12.5
"""Share of what a face is said to differ by from the mean face, and millimetres (standard deviation) over which that is
averaged first: what is finer is photographs' texture rather than shape (measured: docs/unsup3d.md)."""
OFF = 8.0
"""Millimetres from the mean face's landmark within which a face's own is looked for."""
DARKEST = 0.15
"""Least light by which colours are divided: deeper shadows stay in the albedo."""
LARGEST = 1024
"""Largest side, in pixels, of the albedo."""


class Unsup3dReconstructor:
    """Face -> Scene: the canonical depth as a mesh, with the photo, less its light, as texture. Safe in threads.

    The pose is that of the landmarks: the network says how a face is shaped, not in what frame degrees are counted.
    """

    name = "unsup3d"
    weights = "unsup3d"

    def __init__(self, net: Unsup3d | None = None) -> None:
        """net: trained on crops of faces; the shipped one if missing."""
        self.net = net or _shipped()
        self.mean = MeanHead.load()
        self.units = millimetres_per_unit(self.net.K, self.net.settings.size)
        """Millimetres per unit."""

    @classmethod
    def from_file(cls, file: Path) -> "Unsup3dReconstructor":
        """With weights that `aboutface train unsup3d` wrote. Raises UsageError for a file of another form."""
        tensors, card = load_file(file)
        if card.get("settings", {}).get("training", {}).get("crop") == "centre":
            raise UsageError(f"{file}: this network knows whole pictures; photos of faces need one of --crop face")
        return cls(built(tensors, card, file))

    @torch.no_grad()
    def __call__(self, photo: Photo, face: Face) -> Scene:
        size = self.net.settings.size
        frame = FaceFrame.of(torch.from_numpy(face.landmarks)[None])
        photo_from_crop = frame.photo_from_crop(size)[0]
        crop = to_tensor(cut(photo.pixels, photo_from_crop.numpy(), size))
        factors = self.factors(crop)
        pose = Pose(float(frame.yaw), float(frame.pitch), float(frame.roll))
        rotation = pose.rotation()
        camera = _camera(photo, frame, self.units)
        points = depth_to_points(factors.depth, self.net.K)[0].flatten(1).mT
        vertices = _turned(points, rotation)
        light, albedo, uv = self._intrinsic(photo, frame, factors, vertices, camera)
        return Scene(
            surface=Mesh(vertices, grid_faces(size, size), uv),
            albedo=albedo,
            camera=camera,
            light=light,
            pose=pose,
            pivot=_head_origin(rotation, self.units),
            millimetres_per_unit=self.units,
            landmarks=self._landmarks(torch.from_numpy(face.landmarks).float(), factors.depth[0], camera, rotation),
            trust=trust(size),
        )

    def factors(self, crop: Tensor) -> Factors:
        """Of one crop (1, 3, S, S), see `symmetric_factors`; its depth without what is wrong with all faces alike."""
        found = symmetric_factors(self.net, crop)
        if not self.net.settings.mean:
            return found
        mean, size = self.net.start_depth(), self.net.settings.size
        own = found.depth - self.net.drift - mean
        return replace(found, depth=mean + RELIEF * blur(own, SMOOTH * size / SIDE))

    def _landmarks(self, pixels: Tensor, depth: Tensor, camera: Camera, rotation: Tensor) -> Tensor:
        """Points (68, 3), camera space, on the rays of the landmarks (68, 2), as deep as the surface is there.

        The jaw line is as deep as the mean head's: there the surface is steep, and a detector follows the outline.
        """
        mean = (self.mean.landmarks - torch.tensor(PIVOT)) / self.units + _centre()
        at_rest, mean_depth = mean, _turned(mean, rotation)[:, 2]
        on_surface = ON_SURFACE.to(depth)
        points = unproject(pixels, mean_depth, camera.K)
        for _ in range(REFINEMENTS):
            z = _looked_up(depth, at_rest, self.net.K)
            posed = _turned(torch.cat([at_rest[:, :2], z[:, None]], -1), rotation)[:, 2]
            points = unproject(pixels, torch.lerp(mean_depth, posed, on_surface), camera.K)
            off = (points - _centre()) @ rotation + _centre() - mean
            # On a side turned away a little along the ray is far across the face.
            at_rest = mean + off.clamp(-OFF / self.units, OFF / self.units)
        return points

    def _intrinsic(
        self, photo: Photo, frame: FaceFrame, factors: Factors, vertices: Tensor, camera: Camera
    ) -> tuple[Light, Tensor, Tensor]:
        """The light in camera space, the photo less that light (3, H, W), and where in it the vertices are."""
        direction = factors.light.direction
        assert isinstance(direction, Tensor)
        size = self.net.settings.size
        side = int(min(LARGEST, max(size, round(float(frame.scale) * SIDE))))
        colours = to_tensor(cut(photo.pixels, frame.photo_from_crop(side)[0].numpy(), side))[0]
        turned = rotation_from_angles(frame.yaw, frame.pitch, frame.roll)[0] @ direction[0]
        bare = replace(factors, albedo=torch.ones_like(factors.albedo))
        # Seen as in the crop, which is upright, with the landmarks' pose.
        upright = View(frame.yaw, frame.pitch, 0 * frame.roll, torch.zeros(1, 3))
        seen = self.net.reproject(replace(bare, view=upright))
        flat = float(factors.light.ambient) + 0.7 * float(factors.light.diffuse)
        shading = torch.where(seen.valid[:, None], seen.image, flat)[0]
        albedo = colours / guided_upsample(shading, colours).clamp_min(DARKEST)
        crop_from_photo = torch.linalg.inv(frame.photo_from_crop(side)[0])
        pixels = (vertices @ camera.K.mT)[:, :2] / vertices[:, 2:]
        uv = (pixels.double() @ crop_from_photo[:2, :2].mT + crop_from_photo[:2, 2]) / side
        x, y, z = turned.tolist()
        light = Light(float(factors.light.ambient), float(factors.light.diffuse), (x, y, z))
        return light, albedo.clamp(0, 1), uv.float()


@lru_cache(maxsize=1)
def _shipped() -> Unsup3d:
    return built(*load_file(path("unsup3d")), path("unsup3d"))


def symmetric_factors(net: Unsup3d, crop: Tensor) -> Factors:
    """Of one crop (1, 3, S, S): the mean of those of the crop and of its mirror image, so that mirrored photos give
    mirrored shapes exactly."""
    both = net(torch.cat([crop, crop.flip(-1)]))
    direction = both.light.direction
    assert isinstance(direction, Tensor)
    assert isinstance(both.light.ambient, Tensor)
    assert isinstance(both.light.diffuse, Tensor)
    direction = functional.normalize(_agreed(direction, [-1.0, 1.0, 1.0]), dim=-1)
    light = Light(both.light.ambient.mean(0, True), both.light.diffuse.mean(0, True), direction)
    angles = torch.stack([both.view.yaw, both.view.pitch, both.view.roll], -1)
    yaw, pitch, roll = _agreed(angles, [-1.0, 1.0, -1.0]).unbind(-1)
    view = View(yaw, pitch, roll, _agreed(both.view.shift, [-1.0, 1.0, 1.0]))
    depth, albedo = ((maps[:1] + maps[1:].flip(-1)) / 2 for maps in (both.depth, both.albedo))
    return Factors(depth, albedo, view, light)


def trust(size: int) -> Tensor:
    """(size * size,) how far the canonical depth is to be believed: on the face, not beside it."""
    axis = ((torch.arange(size) + 0.5) / size - 0.5) * SIDE
    x, y = axis / 70, (axis[:, None] + PIVOT[1] - 35) / 90
    inside = 1 - smoothstep((x.square() + y.square()).sqrt(), 0.8, 1.0)
    inside[:, : BORDER + 1] = inside[:, -BORDER - 1 :] = 0
    return inside.flatten()


def _camera(photo: Photo, frame: FaceFrame, units: float) -> Camera:
    """The canonical camera, with the photo's pixels."""
    focal = float(frame.scale) * units
    x, y = frame.centre[0].tolist()
    return Camera(torch.tensor([[focal, 0.0, x], [0.0, focal, y], [0.0, 0.0, 1.0]]), photo.height, photo.width)


def _head_origin(rotation: Tensor, units: float) -> tuple[float, float, float]:
    """The mean head's origin, between the ears, in camera space."""
    x, y, z = (_centre() - rotation @ torch.tensor(PIVOT) / units).tolist()
    return x, y, z


def _centre() -> Tensor:
    return torch.tensor([0.0, 0.0, 1.0])


def _turned(points: Tensor, rotation: Tensor) -> Tensor:
    """Points (N, 3) turned about the canonical centre."""
    return (points - _centre()) @ rotation.mT + _centre()


def _looked_up(depth: Tensor, points: Tensor, K: Tensor) -> Tensor:
    """Depth (N,) of a map (S, S) where it shows points (N, 3)."""
    pixels = (points @ K.mT)[:, :2] / points[:, 2:]
    grid = (pixels / len(depth) * 2 - 1)[None, None]
    return functional.grid_sample(depth[None, None], grid, padding_mode="border", align_corners=False)[0, 0, 0]


def _agreed(values: Tensor, signs: list[float]) -> Tensor:
    """Mean (1, n) of what a crop and its mirror image say (2, n)."""
    return (values[:1] + values[1:] * values.new_tensor(signs)) / 2
