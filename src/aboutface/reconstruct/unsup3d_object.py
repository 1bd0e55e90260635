"""Unsup3d on pictures of other things than faces: a network trained on whole pictures, and no landmarks."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..data.crop import cut
from ..errors import PhotoError
from ..filters import fill, guided_upsample, smoothstep
from ..geometry import grid_faces, unproject
from ..images import Photo, to_tensor
from ..scene import Camera, Light, Mesh, Pose, Scene
from ..weights import load_file
from .unsup3d import BORDER, Factors, Unsup3d, built
from .unsup3d_photo import DARKEST, symmetric_factors

LARGEST, SMALLEST = 2048, 16
"""Sides of a crop, pixels: larger ones are shrunk, smaller ones refused."""
FINEST = 256
"""Largest number of vertices along a side."""
MARGIN = 0.1
"""Around an object cut out by its transparency, on each side, as a share of its longer side."""
OPAQUE = 128
JUMP = (0.01, 0.03)
"""Differences of depth within 3 x 3 pixels of the network, units: where an outline begins, and where it is sure."""


@dataclass(frozen=True, eq=False)
class ObjectShape:
    """What is in a picture, taken apart."""

    crop: Photo
    """The square that the network has seen, at its full resolution; alpha where the picture has transparency."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom of the square in the picture, beyond which it may reach."""
    scene: Scene
    """The visible surface in a camera whose pixels are the crop's; the albedo still carries the light."""
    light: Light
    """The light found, camera space."""
    shading: Tensor
    """(side, side): the factor by which that light brightens the crop's values."""


class ObjectReconstructor:
    """Photo -> ObjectShape, by weights that `aboutface train unsup3d` wrote for whole pictures. Safe in threads."""

    def __init__(self, net: Unsup3d) -> None:
        self.net = net

    @classmethod
    def from_file(cls, file: Path) -> "ObjectReconstructor | None":
        """None for weights of another kind. Raises UsageError for a file that is none of ours."""
        tensors, card = load_file(file)
        training = card.get("settings", {}).get("training", {})
        if card.get("method") != "unsup3d" or not isinstance(training, dict) or training.get("crop") != "centre":
            return None
        return cls(built(tensors, card, file))

    @torch.no_grad()
    def __call__(self, photo: Photo) -> ObjectShape:
        """Of the largest centred square, or of what is not transparent. Raises PhotoError where that is too small."""
        crop, box = cut_object(photo)
        net, size, side = self.net, self.net.settings.size, crop.width
        factors = self.factors(to_tensor(resized_square(crop.pixels, size)))
        # Lit but white: what is seen is the light.
        white = replace(factors, depth=without_border(factors.depth), albedo=torch.ones_like(factors.albedo))
        seen = net.reproject(white)
        valid = seen.valid[0].float()
        count = max(size, min(side, FINEST))
        depth = along_edges(fill(seen.depth, valid)[0], to_tensor(resized_square(crop.pixels, count))[0])
        shading = functional.interpolate(
            fill(seen.image[0, :1], valid)[None], (side, side), mode="bilinear", align_corners=False
        )[0, 0]
        view = factors.view
        pose = Pose(float(view.yaw), float(view.pitch), float(view.roll))
        camera = Camera(net.K * torch.tensor([[side / size], [side / size], [1.0]]), side, side)
        x, y, z = view.shift[0].tolist()
        scene = Scene(_mesh(depth, camera, crop.alpha), _colours(crop), camera, pose=pose, pivot=(x, y, 1 + z))
        direction = factors.light.direction
        assert isinstance(direction, Tensor)
        x, y, z = (pose.rotation() @ direction[0]).tolist()
        light = Light(float(factors.light.ambient), float(factors.light.diffuse), (x, y, z))
        return ObjectShape(crop, box, scene, light, shading.clamp_min(DARKEST))

    def factors(self, image: Tensor) -> Factors:
        """Of one image (1, 3, S, S)."""
        return symmetric_factors(self.net, image)


def cut_object(photo: Photo) -> tuple[Photo, tuple[int, int, int, int]]:
    """The square around what is not transparent, else the largest centred one, and its box in the picture.

    Beyond the picture its edge is repeated, transparent. Raises PhotoError where nothing is left, or too little.
    """
    alpha = photo.alpha
    if alpha is None or alpha.min() >= OPAQUE:
        alpha, side = None, min(photo.size)
        left, top = (photo.width - side) // 2, (photo.height - side) // 2
    else:
        rows, columns = (np.flatnonzero((alpha >= OPAQUE).any(axis)) for axis in (1, 0))
        if not len(rows):
            raise PhotoError("the picture is transparent everywhere; give one that shows something")
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        side = int(np.ceil(max(height, width) * (1 + 2 * MARGIN)))
        left, top = int(columns[0] - (side - width) // 2), int(rows[0] - (side - height) // 2)
    if side < SMALLEST:
        raise PhotoError(f"the object is {side} pixels large, expected {SMALLEST} or more; give a larger picture")
    y, x = np.arange(top, top + side), np.arange(left, left + side)
    place = np.ix_(y.clip(0, photo.height - 1), x.clip(0, photo.width - 1))
    pixels = photo.pixels[place]
    if alpha is not None:
        inside = ((y >= 0) & (y < photo.height))[:, None] & (x >= 0) & (x < photo.width)
        alpha = alpha[place] * inside
    warnings = photo.warnings
    if side > LARGEST:
        pixels, alpha = (None if part is None else resized_square(part, LARGEST) for part in (pixels, alpha))
        warnings = (*warnings, f"the square of {side} pixels was shrunk to {LARGEST}")
    assert pixels is not None
    return replace(photo, pixels=pixels, alpha=alpha, warnings=warnings), (left, top, left + side, top + side)


def without_border(depth: Tensor) -> Tensor:
    """Canonical depths (B, S, S) whose held columns go on as those beside them, or they would be walls."""
    return functional.pad(depth[..., BORDER:-BORDER], (BORDER, BORDER), mode="replicate")


def along_edges(depth: Tensor, guide: Tensor) -> Tensor:
    """A depth map (h, w), units, at the size of a photo (3, H, W): smooth, and where it jumps along the photo's edges.

    The guided filter everywhere would give smooth surfaces the photo's texture; docs/unsup3d.md has the figures.
    """
    size = (guide.shape[1], guide.shape[2])
    planes = depth[None, None]
    smooth = functional.interpolate(planes, size, mode="bilinear", align_corners=False)[0, 0]
    range_around = functional.max_pool2d(planes, 3, 1, 1) + functional.max_pool2d(-planes, 3, 1, 1)
    if float(range_around.max()) <= JUMP[0]:
        return smooth
    range_around = functional.interpolate(range_around, size, mode="bilinear", align_corners=False)[0, 0]
    guided = guided_upsample(depth[None], guide, radius=1, smoothness=1e-4)[0]
    return torch.lerp(smooth, guided, smoothstep(range_around, *JUMP))


def _mesh(depth: Tensor, camera: Camera, alpha: np.ndarray | None) -> Mesh:
    """The depth map (N, N) as a surface over the whole crop, or over what is not transparent in it."""
    count = len(depth)
    axis = (torch.arange(count) + 0.5) / count
    # Pixel centres, but to the very edge.
    axis[0], axis[-1] = 0.0, 1.0
    uv = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).flatten(0, 1)
    vertices, faces = unproject(uv * camera.width, depth.flatten(), camera.K), grid_faces(count, count)
    if alpha is not None:
        opaque = functional.adaptive_max_pool2d(torch.tensor(alpha)[None].float(), count) >= OPAQUE
        # A cell more all around, in which the texture's transparency makes a smooth outline.
        faces = faces[opaque.flatten()[faces].any(-1)]
        used, faces = faces.unique(return_inverse=True)
        vertices, uv = vertices[used], uv[used]
    return Mesh(vertices, faces, uv)


def _colours(crop: Photo) -> Tensor:
    """(3, side, side); what is transparent has the colours beside it."""
    colours = to_tensor(crop.pixels)[0]
    return colours if crop.alpha is None else fill(colours, torch.tensor(crop.alpha) / 255)


def resized_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """A square picture (side, side[, 3]) uint8 at another size."""
    step = len(pixels) / size
    return pixels if step == 1 else cut(pixels, np.diag([step, step, 1.0]), size)
