"""Back into the photo: a turned head over its surroundings, at the photo's full resolution."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .filters import smoothstep
from .geometry import clip, clip_from_camera, project
from .head import Grid, Head, window_intrinsics
from .images import Photo, to_pixels
from .render import interpolate, rasterize, texture
from .scene import Scene

MAP_SIZE = 900
"""Longest side, in pixels, at which it is worked out where each pixel's colour comes from; colours are taken at the
photo's own resolution."""


FREE_TURN = 30.0
"""Degrees up to which the surroundings of the head follow its turn."""
LARGE_TURN = (30.0, 50.0)
"""Degrees between which a closed head that is known all around takes the place of the stretched sheet."""


@dataclass(frozen=True, eq=False)
class View:
    """One view of a head in its photo."""

    pixels: np.ndarray
    """(H, W, 3) uint8, the photo's size."""
    invented: float
    """Share of the visible face, 0 to 1, that the photo does not show: mirrored from the other side or filled in."""
    alpha: np.ndarray | None = None
    """(H, W) uint8, where it is not the photo's: transparency has turned with the object."""

    @property
    def flat(self) -> np.ndarray:
        """The pixels, on white where they are transparent."""
        return self.pixels if self.alpha is None else on_white(self.pixels, self.alpha)


@dataclass(frozen=True, eq=False)
class _Layer:
    """A mesh drawn at the size of the maps."""

    uv: Tensor
    """(1, h, w, 2)."""
    depth: Tensor
    """(h, w) camera depth."""
    drawn: Tensor
    """(h, w) bool."""
    values: Tensor
    """(h, w, C) whatever was given per vertex."""


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """What is transparent (alpha (H, W) uint8) in white; (H, W, 3) uint8."""
    return (255 - (255.0 - pixels) * (alpha[..., None] / 255)).round().astype(np.uint8)


def view(photo: Photo, head: Head, turn: Tensor) -> View:
    """The photo with the head turned by the rotation `turn` (3, 3) from where it is in the photo."""
    left, top, right, bottom = head.grid.within(photo)
    height, width = bottom - top, right - left
    zoom = _zoom(max(height, width))
    size = (max(1, round(height * zoom)), max(1, round(width * zoom)))
    clip_from_scene = clip_from_camera(window_intrinsics(head.scene.camera.K, (left, top, right, bottom), size), size)
    degrees = degrees_of(turn)
    surroundings = _held_back(head, degrees)
    crisp = _crispness(surroundings, head.grid, turn)
    sheet = _draw(surroundings, turn, clip_from_scene, size, torch.stack([crisp, head.around], -1))
    trusted = torch.lerp(head.trusted, head.solid, smoothstep(degrees, *LARGE_TURN))
    closed = _draw(head.scene, turn, clip_from_scene, size, torch.stack([trusted, head.seen, head.face_part], -1))
    share = _share(sheet, closed, head.scene.scale, degrees)
    fine = (height, width)
    rgb = torch.lerp(
        _colours(head.sheet.albedo, sheet, fine), _colours(head.scene.albedo, closed, fine), _resized(share, fine)
    )
    pixels = photo.pixels.copy()
    pixels[top:bottom, left:right] = to_pixels(rgb)
    face = closed.drawn & (closed.values[..., 2] > 0.5)
    unseen = (closed.values[..., 1] < 0.05) & face
    return View(pixels, float(unseen.sum()) / max(1.0, float(face.sum())))


def _zoom(longest: int) -> float:
    """Map pixels per photo pixel: 2 to 4 for small faces, whose edges would be jagged, less than 1 for huge ones."""
    whole = min(4, 500 // longest)
    return float(whole) if whole >= 2 else min(1.0, MAP_SIZE / longest)


def _share(sheet: _Layer, closed: _Layer, millimetres_per_unit: float, degrees: Tensor) -> Tensor:
    """(h, w), 0 to 1: how far the closed head is shown in place of the sheet.

    It is where it is plainly in front, and where both are at about the same place but the sheet is stretched; and only
    as far as the photo shows that part of the head, or its mirror twin. Close to the photo's own pose there is nothing
    to replace.
    """
    crisp, around = sheet.values.unbind(-1)
    behind = (sheet.depth - closed.depth) * millimetres_per_unit
    # What is beside the head in the photo (background, mostly) never comes in front of it.
    behind = torch.lerp(behind, behind.clamp_min(20.0), around)
    plain = smoothstep(behind, 6.0, 14.0)
    level = smoothstep(behind, -40.0, -25.0) * (1 - crisp)
    share = torch.where(sheet.drawn, torch.maximum(plain, level), torch.ones_like(plain))
    return share * closed.drawn * closed.values[..., 0] * smoothstep(degrees, 1.0, 10.0)


def _held_back(head: Head, degrees: Tensor) -> Scene:
    """The sheet, of which what is beside the head follows a turn up to FREE_TURN degrees and no further.

    Up to there hair and ears must go along; beyond it the closed head covers their place, and walls would bend.
    """
    assert head.sheet.rigidity is not None
    follow = torch.lerp(torch.ones_like(head.around), (FREE_TURN / degrees).clamp_max(1), head.around)
    return replace(head.sheet, rigidity=head.sheet.rigidity * follow)


def _crispness(sheet: Scene, grid: Grid, turn: Tensor) -> Tensor:
    """(V,) of the sheet: 1 where the turn keeps the photo's detail, 0 where it stretches it, hides it, or has none."""
    mesh = replace(sheet, turn=turn).mesh()
    turned = project(mesh.vertices, sheet.camera.K).view(grid.rows, grid.columns, 2)
    places = grid.pixels()
    dy, dx = torch.gradient(turned, dim=(0, 1))
    jacobian = torch.stack([dx, dy], -1) / (places[1, 0] - places[0, 0])
    # The larger singular value of each 2 x 2 matrix, in closed form.
    determinant = torch.det(jacobian)
    half = jacobian.square().sum((-2, -1)) / 2
    stretch = (half + (half.square() - determinant.square()).clamp_min(0).sqrt()).sqrt()
    assert mesh.uv is not None
    in_photo = ((mesh.uv >= 0) & (mesh.uv <= 1)).all(-1)
    return (smoothstep(1 / stretch, 0.3, 0.65) * (determinant > 0)).flatten() * in_photo


def degrees_of(rotation: Tensor) -> Tensor:
    """The angle () by which a rotation (3, 3) turns, 0 to 180."""
    cosine = (rotation.diagonal().sum() - 1) / 2
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))


def _draw(scene: Scene, turn: Tensor, clip_from_scene: Tensor, size: tuple[int, int], values: Tensor) -> _Layer:
    mesh = replace(scene, turn=turn).mesh()
    fragments = rasterize(clip(mesh.vertices, clip_from_scene)[None], mesh.faces, size)
    assert mesh.uv is not None
    drawn = interpolate(torch.cat([mesh.uv, mesh.vertices[:, 2:], values], -1), fragments, mesh.faces)
    return _Layer(drawn[..., :2], drawn[0, ..., 2], fragments.triangle_id[0] >= 0, drawn[0, ..., 3:])


def _colours(albedo: Tensor, layer: _Layer, size: tuple[int, int]) -> Tensor:
    """The layer's colours (3, *size)."""
    if layer.uv.shape[1:3] == size:
        return texture(albedo[None], _reflected(layer.uv))[0]
    drawn = layer.drawn.float()
    # Beyond the layer's edge there is no place to take colours from: only drawn neighbours count.
    uv = torch.stack([_resized(layer.uv[0, ..., i] * drawn, size) for i in range(2)], -1)
    uv = uv / _resized(drawn, size).clamp_min(1e-6)[..., None]
    rgb = texture(albedo[None], _reflected(uv)[None])[0]
    if layer.uv.shape[1] <= size[0]:
        return rgb
    # Where the finer map jumps within a pixel, at the edge of one part before another, its colours are averaged.
    planes = layer.uv[0].permute(2, 0, 1)[None]
    spread = functional.adaptive_max_pool2d(planes, size) + functional.adaptive_max_pool2d(-planes, size)
    texels = (spread[0] * torch.tensor([albedo.shape[2], albedo.shape[1]])[:, None, None]).amax(0)
    averaged = functional.adaptive_avg_pool2d(texture(albedo[None], _reflected(layer.uv)), size)[0]
    return torch.lerp(rgb, averaged, smoothstep(texels, 1.5, 3.0))


def _reflected(uv: Tensor) -> Tensor:
    """Texture coordinates brought into 0 to 1: beyond the photo's edge, where nothing is known, it is mirrored."""
    low, high = (float(end) for end in uv.aminmax())
    return uv if low >= 0 and high <= 1 else 1 - (1 - uv.abs()).abs()


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    if image.shape == size:
        return image
    if image.shape[0] > size[0]:
        return functional.adaptive_avg_pool2d(image[None, None], size)[0, 0]
    return functional.interpolate(image[None, None], size, mode="bilinear", align_corners=False)[0, 0]
