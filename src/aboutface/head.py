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

from .errors import NoFaceError
from .face import Face
from .filters import blur, fill, sample, smoothstep
from .geometry import clip, clip_from_camera, grid_faces, project, unproject
from .images import Photo, to_tensor
from .morphable import MeanHead, bend, outline_trust
from .render import interpolate, rasterize
from .scene import Camera, Mesh, Scene

FALLOFF = 45.0
"""Millimetres outside the skull and jaw over which the turn fades out."""
REACH = (190.0, 190.0, 190.0, 210.0)
"""Millimetres of photo left, above, right and below the head's centre that the sheet covers."""
SHEET_STEP = 1 / 180
"""Spacing of the sheet's vertices, as a share of its longer side."""
GAIN_SIZE = 256
"""Largest side, in pixels, at which the light of both halves of a face is compared."""

CELL = 1.5
"""Millimetres between the points at which the head meets a dense surface: as fine as the head's own grid."""
CELLS = 128
"""Such points from side to side; a power of two, so that pictures of them stay symmetric when halved."""
GROSS = 20.0
"""Millimetres by which no face lies off a mean head bent onto its landmarks."""
RIM = 50.0
"""Millimetres beyond the rim of a dense surface within which the head follows less and less."""
SPIKE = 4.0
"""Millimetres off its surroundings at which a point of a dense surface keeps a quarter of its weight."""


@dataclass(frozen=True, eq=False)
class Head:
    """A head in its photo, ready to be turned."""

    scene: Scene
    """The closed head; its albedo is the baked atlas."""
    sheet: Scene
    """The photo around and under the head as a surface.

    Its albedo is the part of the window that lies in the photo; texture coordinates run beyond 0 and 1 where the window
    reaches over the photo's edge.
    """
    seen: Tensor
    """(V,) of the closed head, 0 to 1: how well the photo shows this point."""
    trusted: Tensor
    """(V,) of the closed head, 0 to 1: how well the photo shows this point or its mirror twin; 0 on the neck."""
    face_part: Tensor
    """(V,) of the closed head, 1 on the face (brows to chin, cheek to cheek), else 0."""
    around: Tensor
    """(V,) of the sheet: 1 beside the head, 0 on it, between within the outermost millimetres of its outline."""
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

    def pixels(self) -> Tensor:
        """(rows * columns, 2) photo pixels of the points, row by row."""
        left, top, right, bottom = self.window
        y, x = torch.linspace(top, bottom, self.rows), torch.linspace(left, right, self.columns)
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)

    def within(self, photo: Photo) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the part of the window that lies in the photo."""
        left, top, right, bottom = self.window
        return (max(left, 0), max(top, 0), min(right, photo.width), min(bottom, photo.height))


def complete_head(photo: Photo, face: Face, scene: Scene) -> Head:
    """Extend a reconstructed face to a head in its surroundings.

    Args:
        photo: the photo; face: the face in it.
        scene: any reconstructor's result for them: camera in photo pixels, pose, pivot, size and 3D landmarks are used,
            and its surface where it says how far that is to be trusted.

    Raises ValueError for a scene that lacks one of these, NoFaceError where the face has no area in the photo.
    """
    _check(photo, scene)
    mean = MeanHead.load()
    mm = 1 / scene.scale
    vertices = _bent(mean, scene, mm)
    mesh = Mesh(vertices, mean.faces(), mean.uv())
    grid = Grid.over(_window(photo, scene, mm))
    chin = float(mean.landmarks[8, 1])
    height = mean.per_row(mean.heights)
    depth, inside, drawn_height = _depth_at_rest(mesh, height, scene.camera, grid)
    # Necks and collars differ too much for the mean head's: below the chin the sheet falls back to the head's axis.
    below = smoothstep(drawn_height, chin, chin + 50)
    sheet_depth = torch.where(inside, torch.lerp(depth, torch.full_like(depth, scene.pivot[2]), below), depth)
    sheet, rigidity = _sheet(photo, scene, grid, sheet_depth, inside & (drawn_height < chin), inside)
    part = grid.within(photo)
    seen = _shrunk(_seen(mesh, depth, scene.camera, grid, part, mm), mean)
    atlas_size = int(min(2048, max(256, 2 ** math.ceil(math.log2(max(1.0, 3 * face.size))))))
    atlas = _bake(sheet.albedo, part, mesh, mean, scene.camera, seen, atlas_size)
    trusted = torch.maximum(seen, _mirror_columns(seen, mean)) * _above_jaw(mean)
    pixels = project(vertices, scene.camera.K)
    head_rigidity = torch.where(
        height > chin, sample(rigidity[None], pixels, grid.covers)[0], torch.ones(len(vertices))
    )
    # The photo's light is in its colours already.
    closed = replace(scene, surface=mesh, albedo=atlas, rigidity=head_rigidity, light=None, trust=None)
    # The outermost millimetres of the outline are as likely background as head.
    on_head = inside.numpy().astype(np.uint8)
    distance = cv2.distanceTransform(1 - on_head, cv2.DIST_L2, 5) - cv2.distanceTransform(on_head, cv2.DIST_L2, 5)
    around = smoothstep(torch.from_numpy(distance) * _mm_per_cell(scene, grid), -9.0, -2.0)
    brows = float(mean.landmarks[17:27, 1].min())
    cheeks = mean.per_column(mean.azimuths()).abs() < 1.1
    face_part = (cheeks & (height > brows - 15) & (height < chin)).float()
    return Head(closed, sheet, seen, trusted, face_part, around.flatten(), grid)


def _check(photo: Photo, scene: Scene) -> None:
    if scene.landmarks is None or scene.millimetres_per_unit is None:
        raise ValueError("complete_head: the scene needs landmarks and millimetres_per_unit from its reconstructor")
    if (scene.camera.height, scene.camera.width) != photo.size:
        raise ValueError(
            f"complete_head: expected a camera of the photo's {photo.height} x {photo.width} pixels, "
            f"got {scene.camera.height} x {scene.camera.width}"
        )


def _bent(mean: MeanHead, scene: Scene, mm: float) -> Tensor:
    """The mean head's vertices (V, 3) in camera space, through the scene's landmarks; `mm`: a millimetre there."""
    assert scene.landmarks is not None
    rotation, pivot = scene.pose.rotation(), torch.tensor(scene.pivot)
    # Landmarks in the mean head's own frame, millimetres.
    own = (scene.landmarks - pivot) @ rotation / mm
    # On the side turned away a detector follows the outline, not the jaw bone.
    yaw = scene.pose.yaw
    away = torch.arange(0, 8) if yaw < 0 else torch.arange(9, 17)
    trust = outline_trust(torch.tensor(yaw))
    vertices = bend(mean.vertices(), mean.landmarks, own, smoothing=0.05, weights=trust)
    if abs(yaw) > 8:
        vertices = _to_outline(vertices, mean, scene, own[away], rotation)
    if scene.trust is not None:
        rest = scene.mesh_at_rest()
        vertices = onto_surface(
            vertices, mean, replace(rest, vertices=(rest.vertices - pivot) @ rotation / mm), scene.trust
        )
    return vertices * mm @ rotation.mT + pivot


def _to_outline(vertices: Tensor, mean: MeanHead, scene: Scene, outline: Tensor, rotation: Tensor) -> Tensor:
    """Bend the side turned away so that its silhouette passes through the outline points (K, 3), all in millimetres."""
    side = 1.0 if scene.pose.yaw > 0 else -1.0
    posed, wanted = vertices @ rotation.mT, outline @ rotation.mT
    jaw = mean.per_row(mean.heights) < float(mean.landmarks[8, 1])
    front = mean.per_column(mean.azimuths()).abs() < 1.8
    near = (posed[:, 1] - wanted[:, 1:2]).abs() < 3
    reach = torch.where(near & jaw & front, side * posed[:, 0], torch.full_like(posed[:, 0], -torch.inf))
    extreme, silhouette = reach.max(1)
    found = extreme > -torch.inf
    source = vertices[silhouette[found]]
    target = posed[silhouette[found]].clone()
    target[:, 0] = wanted[found, 0]
    strength = min(1.0, (abs(scene.pose.yaw) - 8) / 12)
    return bend(vertices, source, torch.lerp(source, target @ rotation, strength), smoothing=0.2, reach=60.0)


def onto_surface(vertices: Tensor, mean: MeanHead, dense: Mesh, trust: Tensor) -> Tensor:
    """Move the face of a bent head along the head's own z until it meets a dense surface.

    What both differ by on the whole is taken out first, for one photo does not tell where along z a face begins; so
    are spikes. Scale and tilt stay: the landmarks know them less well than a method that was calibrated. Holes, the
    head's sides and what lies beyond the surface's rim go smoothly with the rest, less and less towards ears, hairline
    and throat. On the face the shift depends on x and y alone, so it cannot fold.

    Args:
        vertices: (V, 3) of the mean head, bent; the head's own frame, millimetres.
        dense: the surface in that frame; it may be open, and have holes and vertices that are not finite.
        trust: per vertex of `dense`, 0 to 1: the share of the way that the head goes.

    Returns vertices (V, 3); the very same where all trust is 0. Raises ValueError for a trust of another size.
    """
    if trust.shape != dense.vertices.shape[:1]:
        raise ValueError(
            f"trust: expected one value for each of the surface's {len(dense.vertices)} vertices, "
            f"got {tuple(trust.shape)}"
        )
    window = _face_window(mean)
    top, bottom = float(mean.landmarks[17:27, 1].min()) - 70, float(mean.landmarks[8, 1]) + 30
    rows = math.ceil((bottom - top) / CELL)
    area = (-CELLS * CELL / 2, top, CELLS * CELL / 2, top + rows * CELL)
    # What is trusted nowhere must not stand before what is.
    sound = dense.vertices.isfinite().all(-1) & trust.isfinite()
    shown = sound[dense.faces].all(-1) & (trust[dense.faces] > 0).any(-1)
    known = torch.where(sound, trust.clamp(0, 1), torch.zeros_like(trust))
    there = torch.where(sound[:, None], dense.vertices, torch.zeros_like(dense.vertices))
    depth, believed, on_surface = _front(there, dense.faces[shown], known, area, rows)
    own_depth, on_face, on_head = _front(vertices, mean.faces(), window, area, rows)
    weight = on_surface * on_head * believed * on_face * _facing(own_depth, on_head)
    if not weight.any():
        return vertices
    apart = depth - own_depth
    shift = _towards(apart - _weighted_median(apart, weight), weight > 0.01, believed)
    return vertices + functional.pad((window * sample(shift[None], vertices[:, :2], area)[0])[:, None], (2, 0))


def _face_window(mean: MeanHead) -> Tensor:
    """(V,) 1 on the face, falling to 0 before the ears, under the hair and in the throat."""
    brows, chin = float(mean.landmarks[17:27, 1].min()), float(mean.landmarks[8, 1])
    rows = smoothstep(mean.heights, brows - 70, brows - 20) * (1 - smoothstep(mean.heights, chin, chin + 30))
    return mean.per_row(rows) * mean.per_column(1 - smoothstep(mean.azimuths().abs(), 0.75, 1.5))


def _front(
    vertices: Tensor, faces: Tensor, values: Tensor, area: tuple[float, float, float, float], rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Depth, value and presence (rows, CELLS) of the foremost surface in an area of x and y, seen along z.

    vertices (V, 3), values (V,).
    """
    left, top, right, bottom = area
    x = (vertices[:, 0] - left) / (right - left) * 2 - 1
    y = (vertices[:, 1] - top) / (bottom - top) * 2 - 1
    clip_space = torch.stack([x, y, vertices[:, 2] / 1000, torch.ones_like(x)], -1)
    fragments = rasterize(clip_space[None], faces, (rows, CELLS))
    drawn = interpolate(torch.stack([vertices[:, 2], values], -1), fragments, faces)[0]
    return drawn[..., 0], drawn[..., 1], fragments.triangle_id[0] >= 0


def _facing(depth: Tensor, known: Tensor) -> Tensor:
    """(rows, CELLS) 1 in front, 0 on the sides of the head, where a little of x is much of z."""
    slope = torch.gradient(blur(fill(depth[None], known.float()), 6.0)[0], spacing=CELL, dim=1)[0].abs()
    return 1 - smoothstep(slope, 0.8, 1.8)


def _weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """The value () with half of the weight on either side, of any shape."""
    ordered, order = values.flatten().sort()
    below = weights.flatten()[order].cumsum(0)
    return ordered[torch.searchsorted(below, below[-1:] / 2)[0]]


def _towards(apart: Tensor, known: Tensor, trust: Tensor) -> Tensor:
    """Millimetres (rows, CELLS) to go: what is `apart` where it is `known`, times trust, without spikes.

    Elsewhere it is carried on from there, less and less.
    """
    fair = (known & (apart.abs() < GROSS)).float()
    weight = fair
    for _ in range(5):
        total, share = blur(torch.stack([apart * weight, weight]), 4.0)
        off = apart - total / share.clamp_min(1e-6)
        weight = fair * (SPIKE**2 / (SPIKE**2 + off.square())).square()
    # Rims are where masks end and cells are torn.
    whole = cv2.morphologyEx(known.numpy().astype(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    inner = torch.from_numpy(cv2.erode(whole, np.ones((5, 5), np.uint8))).float()
    weight = weight * inner
    share = blur(weight[None], 5.0)[0]
    rough = fill(torch.stack([apart, trust]), weight)
    fine, wide = blur(rough, 1.5), blur(rough, 8.0)
    to_go, believed = torch.lerp(wide, fine, smoothstep(share, 0.3, 0.8))
    outwards = cv2.distanceTransform(1 - inner.numpy().astype(np.uint8), cv2.DIST_L2, 5)
    return to_go * believed * (1 - smoothstep(torch.from_numpy(outwards) * CELL, 0.0, RIM))


def _window(photo: Photo, scene: Scene, mm: float) -> tuple[int, int, int, int]:
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


def _depth_at_rest(mesh: Mesh, height: Tensor, camera: Camera, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """On the grid: camera depth (0 outside), whether the head is there, its height (mm) on the mean head."""
    size = (grid.rows, grid.columns)
    clip_from_scene = clip_from_camera(window_intrinsics(camera.K, grid.covers, size), size)
    fragments = rasterize(clip(mesh.vertices, clip_from_scene)[None], mesh.faces, size)
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
    """The sheet, and its rigidity as a picture on the grid; `depth`, `skull` and `inside` are such pictures too."""
    mm_per_cell = _mm_per_cell(scene, grid)
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


def _seen(mesh: Mesh, depth: Tensor, camera: Camera, grid: Grid, part: tuple[int, int, int, int], mm: float) -> Tensor:
    """(V,) 0 to 1: how squarely the camera sees each vertex at rest.

    0 where the head is in front of it, and outside the `part` (left, top, right, bottom) that is in the photo.
    """
    to_camera = -functional.normalize(mesh.vertices, dim=-1)
    cosine = (mesh.normals * to_camera).sum(-1)
    pixels = project(mesh.vertices, camera.K)
    front = sample(depth[None], pixels, grid.covers)[0]
    hidden = (front > 0) & (mesh.vertices[:, 2] > front + 8 * mm)
    outside = ((pixels < torch.tensor(part[:2])) | (pixels > torch.tensor(part[2:]))).any(-1)
    return torch.where(hidden | outside, torch.zeros_like(cosine), smoothstep(cosine, 0.2, 0.55))


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


def _bake(
    picture: Tensor,
    part: tuple[int, int, int, int],
    mesh: Mesh,
    mean: MeanHead,
    camera: Camera,
    seen: Tensor,
    size: int,
) -> Tensor:
    """Atlas (3, size, size): the photo where it shows the head, else its mirror side, else filled in.

    picture: (3, h, w), the `part` (left, top, right, bottom) of the photo.
    """
    rows, columns = mean.radius.shape

    def to_atlas(values: Tensor) -> Tensor:
        grid = values.T.unflatten(1, (rows, columns))[None]
        return functional.interpolate(grid, size=(size, size), mode="bilinear", align_corners=False)[0]

    pixels = project(to_atlas(mesh.vertices).flatten(1).T, camera.K)
    own = sample(picture, pixels, part).view(3, size, size)
    weight = to_atlas(seen[:, None])[0]
    mirrored, mirrored_weight = own.flip(-1), weight.flip(-1)
    mirrored = (mirrored * _gain(own, mirrored, weight * mirrored_weight)).clamp(0, 1)
    # A face is not its own mirror image: its own side serves unless the other is seen much better.
    known = torch.lerp(own, mirrored, smoothstep(mirrored_weight - weight, 0.1, 0.5))
    total = torch.maximum(weight, mirrored_weight)
    return fill(known, total)


def _gain(own: Tensor, mirrored: Tensor, both: Tensor) -> Tensor:
    """(3, h, w) factors that give the mirror side the colour of this side, which is lit differently.

    Measured where both are well seen (`both`, (h, w), near 1), and carried on smoothly to where only one is.
    """
    # Nothing finer than the blur is left in the factors: a small copy has it all.
    size = (min(both.shape[0], GAIN_SIZE), min(both.shape[1], GAIN_SIZE))
    weighted = (own * both, mirrored * both, both[None])
    sums = torch.cat([functional.adaptive_avg_pool2d(image[None], size)[0] for image in weighted])
    sums = blur(sums, size[1] / 40)
    ratio = (sums[:3] + 1e-3) / (sums[3:6] + 1e-3)
    logarithm = fill(torch.log(ratio.clamp(0.25, 4)), smoothstep(sums[6], 0.2, 0.6))
    return torch.exp(functional.interpolate(logarithm[None], both.shape, mode="bilinear", align_corners=False)[0])


def _mirror_columns(values: Tensor, mean: MeanHead) -> Tensor:
    return values.view(mean.radius.shape).flip(1).flatten()
