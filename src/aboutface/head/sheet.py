"""The photo around and under a head as a surface."""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from ..errors import NoFaceError
from ..filters import smoothstep
from ..geometry import grid_faces, project, unproject
from ..images import Photo, to_tensor
from ..scene import Mesh, Scene

FALLOFF = 45.0
"""Millimetres outside the skull and jaw over which the turn fades out."""
REACH = (190.0, 190.0, 190.0, 210.0)
"""Millimetres of photo left, above, right and below the head's centre that the sheet covers."""
SHEET_STEP = 1 / 180
"""Spacing of the sheet's vertices, as a share of its longer side."""


@dataclass(frozen=True)
class Grid:
    """Points spread evenly over a window of the photo, the outermost on its edge."""

    window: tuple[int, int, int, int]
    """Left, top, right, bottom in photo pixels; it may reach over the photo's edge."""
    rows: int
    columns: int

    @classmethod
    def over(cls, window: tuple[int, int, int, int]) -> "Grid":
        left, top, right, bottom = window
        step = max(right - left, bottom - top) * SHEET_STEP
        return cls(window, math.ceil((bottom - top) / step) + 1, math.ceil((right - left) / step) + 1)

    @property
    def covers(self) -> tuple[float, float, float, float]:
        """The window of an image whose pixel centres are the grid's points."""
        left, top, right, bottom = self.window
        x, y = (right - left) / (self.columns - 1) / 2, (bottom - top) / (self.rows - 1) / 2
        return (left - x, top - y, right + x, bottom + y)

    def pixels(self) -> Tensor:
        """(rows * columns, 2) photo pixels of the points, row by row."""
        left, top, right, bottom = self.window
        y, x = torch.linspace(top, bottom, self.rows), torch.linspace(left, right, self.columns)
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)

    def within(self, photo: Photo) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the part of the window that lies in the photo."""
        left, top, right, bottom = self.window
        return (max(left, 0), max(top, 0), min(right, photo.width), min(bottom, photo.height))


def window_around(photo: Photo, scene: Scene, mm: float) -> tuple[int, int, int, int]:
    K = scene.camera.K
    pixels_per_mm = float(K[0, 0]) * mm
    x, y = project(torch.tensor([scene.pivot]), K)[0].tolist()
    left, above, right, below = (r * pixels_per_mm for r in REACH)
    sides = (x - left, y - above, x + right, y + below)
    if all(math.isfinite(side) for side in sides):
        window = (round(sides[0]), round(sides[1]), round(sides[2]), round(sides[3]))
        if max(window[0], 0) < min(window[2], photo.width) and max(window[1], 0) < min(window[3], photo.height):
            return window
    raise NoFaceError(
        f"The face has no area in the photo of {photo.width} x {photo.height} px: its head would lie in "
        f"({', '.join(f'{side:.1f}' for side in sides)})."
    )


def window_intrinsics(K: Tensor, window: tuple[float, float, float, float], size: tuple[int, int]) -> Tensor:
    """Intrinsics of a window of the photo drawn at `size` (rows, columns)."""
    left, top, right, bottom = window
    window_from_photo = torch.tensor([[1.0, 0, -left], [0, 1, -top], [0, 0, 1]])
    scale = torch.tensor([size[1] / (right - left), size[0] / (bottom - top), 1.0])
    return scale[:, None] * (window_from_photo @ K)


def sheet_of(
    photo: Photo, scene: Scene, grid: Grid, depth: Tensor, skull: Tensor, inside: Tensor
) -> tuple[Scene, Tensor]:
    """The sheet, and its rigidity as a picture on the grid; `depth`, `skull` and `inside` are such pictures too."""
    mm_per_cell = mm_per_cell_of(scene, grid)
    distance = cv2.distanceTransform((~skull).numpy().astype(np.uint8), cv2.DIST_L2, 5)
    rigidity = 1 - smoothstep(torch.from_numpy(distance) * mm_per_cell, 0.0, FALLOFF)
    # Sheet and photo meet at the window's edge, which therefore stays where it is.
    rigidity[[0, -1]] = 0
    rigidity[:, [0, -1]] = 0
    full_depth = _extended(depth, inside, scene.pivot[2], 1 / mm_per_cell, scene.scale)
    vertices = unproject(grid.pixels(), full_depth.flatten(), scene.camera.K)
    left, top, right, bottom = grid.within(photo)
    albedo = to_tensor(photo.pixels[top:bottom, left:right])[0]
    uv = (grid.pixels() - torch.tensor([left, top])) / torch.tensor([right - left, bottom - top])
    mesh = Mesh(vertices, grid_faces(grid.rows, grid.columns), uv)
    sheet = replace(scene, surface=mesh, albedo=albedo, rigidity=rigidity.flatten(), light=None, trust=None)
    return sheet, rigidity


def mm_per_cell_of(scene: Scene, grid: Grid) -> float:
    left, _, right, _ = grid.window
    return (right - left) / (grid.columns - 1) / float(scene.camera.K[0, 0]) * scene.scale


def _extended(depth: Tensor, inside: Tensor, far: float, cells_per_mm: float, mm_per_unit: float) -> Tensor:
    """Depth everywhere: the head's own, then over 20 mm from its rim to the depth of the head's axis."""
    outside = (~inside).numpy().astype(np.uint8)
    distance, labels = cv2.distanceTransformWithLabels(outside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    labels = torch.from_numpy(labels.astype(np.int64))
    nearest = torch.zeros(int(labels.max()) + 1)
    nearest[labels[inside]] = depth[inside]
    rim = nearest[labels]
    blend = smoothstep(torch.from_numpy(distance), 0.0, 20 * cells_per_mm)
    full = torch.where(inside, depth, torch.lerp(rim, torch.full_like(rim, far), blend))
    # Steps (jaw over neck, nose over cheek) become slopes, or they would tear into teeth when turned.
    sigma = 6 * cells_per_mm
    smooth = torch.from_numpy(cv2.GaussianBlur(full.numpy(), (0, 0), sigma))
    step = cv2.morphologyEx(full.numpy(), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    steep = smoothstep(torch.from_numpy(step) * mm_per_unit, 12.0, 20.0)
    steep = cv2.GaussianBlur(cv2.dilate(steep.numpy(), np.ones((5, 5), np.uint8)), (0, 0), sigma / 2)
    return torch.lerp(full, smooth, torch.from_numpy(steep))
