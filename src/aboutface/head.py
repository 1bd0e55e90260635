"""The rest of the head: from a face's 68 points to everything that turns with them.

Any reconstructor gives a pose and 3D landmarks. Here the mean head is bent onto them, textured from the photo (what the
photo hides comes from the mirror side, what both hide is filled in), and set into a sheet that covers the photo around
it: hair, neck and shoulders follow the turn less and less, and the background not at all.
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .face import Face
from .filters import blur, fill, sample, smoothstep
from .geometry import clip_from_camera, grid_faces, project, unproject
from .images import Photo
from .morphable import MeanHead, bend, outline_trust
from .render import interpolate, rasterize
from .scene import Camera, Mesh, Scene

FALLOFF = 45.0
"""Millimetres outside the skull and jaw over which the turn fades out."""
REACH = (190.0, 190.0, 190.0, 210.0)
"""Millimetres of photo left, above, right and below the head's centre that the sheet covers."""
SHEET_STEP = 1 / 180
"""Spacing of the sheet's vertices, as a share of its longer side."""


@dataclass(frozen=True)
class Head:
    """A head in its photo, ready to be turned."""

    scene: Scene
    """The closed head; its albedo is the baked atlas."""
    sheet: Scene
    """The photo around and under the head as a surface; its albedo is the photo's window."""
    seen: Tensor
    """(V,) of the closed head, 0 to 1: how well the photo shows this point."""
    trusted: Tensor
    """(V,) 0 to 1: how well the photo shows this point or its mirror twin."""
    face_part: Tensor
    """(V,) of the closed head, 1 on the face (brows to chin, cheek to cheek), else 0."""
    around: Tensor
    """(V,) of the sheet, 0 to 1: whether this is beside the head, not on it."""
    grid: "Grid"
    """The places of the sheet's vertices in the photo."""


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

    def uv(self) -> Tensor:
        """(rows * columns, 2) places in the window, 0 to 1."""
        v, u = torch.meshgrid(torch.linspace(0, 1, self.rows), torch.linspace(0, 1, self.columns), indexing="ij")
        return torch.stack([u, v], -1).flatten(0, 1)

    def pixels(self) -> Tensor:
        """(rows * columns, 2) photo pixels."""
        left, top, right, bottom = self.window
        return self.uv() * torch.tensor([right - left, bottom - top]) + torch.tensor([left, top])


def complete_head(photo: Photo, face: Face, scene: Scene) -> Head:
    """Extend a reconstructed face to a head in its surroundings.

    Args:
        photo: the photo; face: the face in it.
        scene: any reconstructor's result for them: camera in photo pixels, pose, pivot and 3D landmarks are used.
    """
    mean = MeanHead.load()
    unit = 1 / scene.scale
    vertices = _bent(mean, scene, unit)
    mesh = Mesh(vertices, mean.faces(), mean.uv())
    window = _window(scene, unit)
    grid = Grid.over(window)
    chin = float(mean.landmarks[8, 1])
    height = mean.heights[:, None].expand_as(mean.radius).flatten()
    depth, inside, drawn_height = _depth_at_rest(mesh, height, scene.camera, grid)
    # Necks and collars differ too much for the mean head's: below the chin the sheet falls back to the head's axis.
    below = smoothstep(drawn_height, chin, chin + 50)
    sheet_depth = torch.where(inside, torch.lerp(depth, torch.full_like(depth, scene.pivot[2]), below), depth)
    sheet, rigidity = _sheet(photo, scene, grid, sheet_depth, inside & (drawn_height < chin), inside)
    seen = _shrunk(_seen(mesh, depth, scene.camera, grid, unit), mean)
    atlas_size = int(min(2048, max(256, 2 ** math.ceil(math.log2(3 * face.size)))))
    atlas = _bake(photo, mesh, mean, scene.camera, seen, atlas_size)
    trusted = torch.maximum(seen, _mirror_columns(seen, mean)) * _above_jaw(mean)
    pixels = project(vertices, scene.camera.K)
    head_rigidity = torch.where(
        height > chin, sample(rigidity[None], pixels, grid.covers)[0], torch.ones(len(vertices))
    )
    closed = replace(scene, surface=mesh, albedo=atlas, rigidity=head_rigidity)
    # The outermost millimetres of the outline are as likely background as head.
    outside = inside.numpy().astype(np.uint8)
    distance = cv2.distanceTransform(1 - outside, cv2.DIST_L2, 5) - cv2.distanceTransform(outside, cv2.DIST_L2, 5)
    around = smoothstep(torch.from_numpy(distance) * _mm_per_cell(scene, grid), -9.0, -2.0)
    brows = float(mean.landmarks[17:27, 1].min())
    cheeks = (mean.azimuths().abs() < 1.1)[None].expand_as(mean.radius).flatten()
    face_part = (cheeks & (height > brows - 15) & (height < chin)).float()
    return Head(closed, sheet, seen, trusted, face_part, around.flatten(), grid)


def _bent(mean: MeanHead, scene: Scene, unit: float) -> Tensor:
    """The mean head's vertices in camera space, through the scene's landmarks."""
    assert scene.landmarks is not None
    rotation, pivot = scene.pose.rotation(), torch.tensor(scene.pivot)
    # Landmarks in the mean head's own frame, millimetres.
    own = (scene.landmarks - pivot) @ rotation / unit
    # On the side turned away a detector follows the outline, not the jaw bone.
    yaw = scene.pose.yaw
    away = torch.arange(0, 8) if yaw < 0 else torch.arange(9, 17)
    trust = outline_trust(torch.tensor(yaw))
    vertices = bend(mean.vertices(), mean.landmarks, own, smoothing=0.05, weights=trust)
    if abs(yaw) > 8:
        vertices = _to_outline(vertices, mean, scene, own[away], rotation, unit)
    return vertices * unit @ rotation.mT + pivot


def _to_outline(
    vertices: Tensor, mean: MeanHead, scene: Scene, outline: Tensor, rotation: Tensor, unit: float
) -> Tensor:
    """Bend the side turned away so that its silhouette passes through the outline points (K, 3), all in millimetres."""
    side = 1.0 if scene.pose.yaw > 0 else -1.0
    posed, wanted = vertices @ rotation.mT, outline @ rotation.mT
    jaw = mean.heights[:, None].expand_as(mean.radius).flatten() < float(mean.landmarks[8, 1])
    rows, columns = mean.radius.shape
    front = (mean.azimuths().abs() < 1.8)[None].expand(rows, columns).flatten()
    near = (posed[:, 1] - wanted[:, 1:2]).abs() < 3
    reach = torch.where(near & jaw & front, side * posed[:, 0], torch.full_like(posed[:, 0], -torch.inf))
    extreme, silhouette = reach.max(1)
    found = extreme > -torch.inf
    source = vertices[silhouette[found]]
    target = posed[silhouette[found]].clone()
    target[:, 0] = wanted[found, 0]
    strength = min(1.0, (abs(scene.pose.yaw) - 8) / 12)
    return bend(vertices, source, torch.lerp(source, target @ rotation, strength), smoothing=0.2, reach=60.0)


def _window(scene: Scene, unit: float) -> tuple[int, int, int, int]:
    K = scene.camera.K
    pixels_per_mm = float(K[0, 0]) * unit
    x, y = project(torch.tensor([scene.pivot]), K)[0].tolist()
    left, above, right, below = (r * pixels_per_mm for r in REACH)
    return (round(x - left), round(y - above), round(x + right), round(y + below))


def _depth_at_rest(mesh: Mesh, height: Tensor, camera: Camera, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """On the grid: camera depth (0 outside), whether the head is there, its height (mm) on the mean head."""
    size = (grid.rows, grid.columns)
    clip_from_scene = clip_from_camera(window_intrinsics(camera.K, grid.covers, size), size)
    ones = torch.ones_like(mesh.vertices[:, :1])
    fragments = rasterize((torch.cat([mesh.vertices, ones], -1) @ clip_from_scene.mT)[None], mesh.faces, size)
    drawn = interpolate(torch.stack([mesh.vertices[:, 2], height], -1), fragments, mesh.faces)[0]
    return drawn[..., 0], fragments.triangle_id[0] >= 0, drawn[..., 1]


def window_intrinsics(K: Tensor, window: tuple[float, float, float, float], size: tuple[int, int]) -> Tensor:
    """Intrinsics of a window of the photo drawn at `size` (rows, columns)."""
    left, top, right, bottom = window
    window_from_photo = torch.tensor([[1.0, 0, -left], [0, 1, -top], [0, 0, 1]])
    scale = torch.tensor([size[1] / (right - left), size[0] / (bottom - top), 1.0])
    return scale[:, None] * (window_from_photo @ K)


def _sheet(
    photo: Photo, scene: Scene, grid: Grid, depth: Tensor, skull: Tensor, inside: Tensor
) -> tuple[Scene, Tensor]:
    """The sheet, and its rigidity as a picture on the grid."""
    mm_per_cell = _mm_per_cell(scene, grid)
    distance = cv2.distanceTransform((~skull).numpy().astype(np.uint8), cv2.DIST_L2, 5)
    rigidity = 1 - smoothstep(torch.from_numpy(distance) * mm_per_cell, 0.0, FALLOFF)
    # Sheet and photo meet at the window's edge, which therefore stays where it is.
    rigidity[[0, -1]] = 0
    rigidity[:, [0, -1]] = 0
    full_depth = _extended(depth, inside, scene.pivot[2], 1 / mm_per_cell, scene.scale)
    vertices = unproject(grid.pixels(), full_depth.flatten(), scene.camera.K)
    albedo = torch.from_numpy(_window_of(photo.pixels, grid.window)).permute(2, 0, 1).float() / 255
    mesh = Mesh(vertices, grid_faces(grid.rows, grid.columns), grid.uv())
    return replace(scene, surface=mesh, albedo=albedo, rigidity=rigidity.flatten()), rigidity


def _mm_per_cell(scene: Scene, grid: Grid) -> float:
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


def _seen(mesh: Mesh, depth: Tensor, camera: Camera, grid: Grid, unit: float) -> Tensor:
    """(V,) 0 to 1: how squarely the camera sees each vertex at rest; 0 where the head is in front of it."""
    to_camera = -functional.normalize(mesh.vertices, dim=-1)
    cosine = (mesh.normals * to_camera).sum(-1)
    front = sample(depth[None], project(mesh.vertices, camera.K), grid.covers)[0]
    hidden = (front > 0) & (mesh.vertices[:, 2] > front + 8 * unit)
    return torch.where(hidden, torch.zeros_like(cosine), smoothstep(cosine, 0.2, 0.55))


def _above_jaw(mean: MeanHead) -> Tensor:
    """(V,) 1 on face and skull, 0 on the neck and behind the ears, where people differ too much from the mean head."""
    jaw = mean.landmarks[8:17]
    azimuth = mean.azimuths().abs()
    # The height of the jaw line at each azimuth, and of the ear lobe behind it.
    line = np.interp(azimuth, torch.atan2(jaw[:, 0], -jaw[:, 2]), jaw[:, 1])
    below = mean.heights[:, None] - torch.from_numpy(line.astype(np.float32)).clamp_min(15.0)
    return ((1 - smoothstep(below, -8.0, 2.0)) * (1 - smoothstep(azimuth, 1.4, 1.8))).flatten()


def _shrunk(seen: Tensor, mean: MeanHead) -> Tensor:
    """`seen` drawn back from its edges, where an outline a little off would let the background in."""
    picture = seen.view(mean.radius.shape).numpy()
    picture = cv2.GaussianBlur(cv2.erode(picture, np.ones((5, 5), np.uint8)), (0, 0), 1.0)
    return torch.from_numpy(picture).flatten()


def _bake(photo: Photo, mesh: Mesh, mean: MeanHead, camera: Camera, seen: Tensor, size: int) -> Tensor:
    """Atlas (3, size, size): the photo where it shows the head, else its mirror side, else filled in."""
    rows, columns = mean.radius.shape

    def to_atlas(values: Tensor) -> Tensor:
        grid = values.T.unflatten(1, (rows, columns))[None]
        return functional.interpolate(grid, size=(size, size), mode="bilinear", align_corners=False)[0]

    pixels = project(to_atlas(mesh.vertices).flatten(1).T, camera.K)
    within = ((pixels >= 0) & (pixels <= torch.tensor([photo.width, photo.height]))).all(-1).view(size, size)
    own = sample(photo.tensor[0], pixels, (0, 0, photo.width, photo.height)).view(3, size, size)
    weight = to_atlas(seen[:, None])[0] * within
    mirrored, mirrored_weight = own.flip(-1), weight.flip(-1)
    mirrored = (mirrored * _gain(own, mirrored, weight * mirrored_weight)).clamp(0, 1)
    # A face is not its own mirror image: its own side serves unless the other is seen much better.
    known = torch.lerp(own, mirrored, smoothstep(mirrored_weight - weight, 0.1, 0.5))
    total = torch.maximum(weight, mirrored_weight)
    return fill(known, total)


def _gain(own: Tensor, mirrored: Tensor, both: Tensor) -> Tensor:
    """(3, h, w) factors that give the mirror side the colour of this side, which is lit differently.

    Measured where both are well seen (`both` near 1), and carried on smoothly to where only one is.
    """
    sigma = own.shape[-1] / 40
    reliable = smoothstep(blur(both[None], sigma), 0.2, 0.6)[0]
    ratio = (blur(own * both, sigma) + 1e-3) / (blur(mirrored * both, sigma) + 1e-3)
    return torch.exp(fill(torch.log(ratio.clamp(0.25, 4)), reliable))


def _window_of(pixels: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """The photo's pixels in a window, reflected where it reaches over the edge."""
    left, top, right, bottom = window
    height, width = pixels.shape[:2]
    columns = _reflected(np.arange(left, right), width)
    rows = _reflected(np.arange(top, bottom), height)
    return np.ascontiguousarray(pixels[rows][:, columns])


def _reflected(index: np.ndarray, size: int) -> np.ndarray:
    index = index % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)


def _mirror_columns(values: Tensor, mean: MeanHead) -> Tensor:
    return values.view(mean.radius.shape).flip(1).flatten()
