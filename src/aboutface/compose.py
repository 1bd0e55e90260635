"""Back into the photo: a turned head over its surroundings, at the photo's full resolution."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .filters import smoothstep
from .geometry import clip_from_camera, project
from .head import Head, window_intrinsics
from .images import Photo, to_pixels
from .render import interpolate, rasterize, texture
from .scene import Scene


@dataclass(frozen=True)
class View:
    """One view of a head in its photo."""

    pixels: np.ndarray
    """(H, W, 3) uint8, the photo's size."""
    invented: float
    """Share of the visible face, 0 to 1, that the photo does not show: mirrored from the other side or filled in."""
    depth: Tensor
    """(H, W) camera depth of head and sheet, 0 outside."""


@dataclass(frozen=True)
class _Layer:
    rgb: Tensor
    depth: Tensor
    drawn: Tensor
    values: Tensor


def view(photo: Photo, head: Head, turn: Tensor) -> View:
    """The photo with the head turned by the rotation `turn` (3, 3) from where it is in the photo."""
    left, top, right, bottom = head.grid.window
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, photo.width), min(bottom, photo.height)
    size = (bottom - top, right - left)
    K = window_intrinsics(head.scene.camera.K, (left, top, right, bottom), size)
    clip = clip_from_camera(K, size)
    sheet = _draw(head.sheet, turn, clip, size, torch.stack([_crispness(head, turn), head.around], -1))
    closed = _draw(head.scene, turn, clip, size, torch.stack([head.trusted, head.seen], -1))
    # The closed head replaces the sheet where it is plainly in front of it, and where both are at the same place but the
    # sheet is stretched; and only as far as the photo shows that part of the head, or its mirror twin. Close to the
    # photo's own pose there is nothing to replace.
    behind = (sheet.depth - closed.depth) * head.scene.millimetres_per_unit
    # What is beside the head in the photo (background, mostly) never comes in front of it.
    behind = torch.lerp(behind, behind.clamp_min(20.0), sheet.values[..., 1])
    plain = smoothstep(behind, 6.0, 14.0)
    level = smoothstep(behind, -40.0, -25.0) * (1 - sheet.values[..., 0])
    share = torch.where(sheet.drawn, torch.maximum(plain, level), torch.ones_like(plain))
    share = share * closed.drawn * closed.values[..., 0] * smoothstep(_degrees(turn), 1.0, 10.0)
    rgb = torch.lerp(sheet.rgb, closed.rgb, share)
    pixels = photo.pixels.copy()
    pixels[top:bottom, left:right] = to_pixels(rgb)
    return View(pixels, 0.0, closed.depth)


def _degrees(rotation: Tensor) -> Tensor:
    """The angle of a rotation (3, 3)."""
    cosine = (rotation.diagonal().sum() - 1) / 2
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))


def _crispness(head: Head, turn: Tensor) -> Tensor:
    """(V,) of the sheet: 1 where the turn keeps the photo's detail, towards 0 where it stretches it or turns it away."""
    grid, mesh = head.grid, replace(head.sheet, turn=turn).mesh()
    turned = project(mesh.vertices, head.sheet.camera.K).view(grid.rows, grid.columns, 2)
    step = grid.pixels().view(grid.rows, grid.columns, 2)
    step = float(step[0, 1, 0] - step[0, 0, 0])
    dy, dx = torch.gradient(turned, dim=(0, 1))
    jacobian = torch.stack([dx, dy], -1) / step
    determinant = torch.det(jacobian)
    half = jacobian.square().sum((-2, -1)) / 2
    stretch = (half + (half.square() - determinant.square()).clamp_min(0).sqrt()).sqrt()
    return (smoothstep(1 / stretch, 0.3, 0.65) * (determinant > 0)).flatten()


def _draw(scene: Scene, turn: Tensor, clip_from_scene: Tensor, size: tuple[int, int], values: Tensor) -> _Layer:
    mesh = replace(scene, turn=turn).mesh()
    homogeneous = torch.cat([mesh.vertices, torch.ones_like(mesh.vertices[:, :1])], -1)
    fragments = rasterize((homogeneous @ clip_from_scene.mT)[None], mesh.faces, size)
    assert mesh.uv is not None
    drawn = interpolate(torch.cat([mesh.uv, mesh.vertices[:, 2:], values], -1), fragments, mesh.faces)
    rgb = texture(scene.albedo[None], drawn[..., :2])[0]
    return _Layer(rgb, drawn[0, ..., 2], fragments.triangle_id[0] >= 0, drawn[0, ..., 3:])
