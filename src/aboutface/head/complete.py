"""The rest of the head: from a reconstructed face to everything that turns with it."""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from ..face import Face
from ..filters import sample, smoothstep
from ..geometry import clip, clip_from_camera, project
from ..images import Photo
from ..morphable import MeanHead
from ..render import interpolate, rasterize
from ..scene import Camera, Mesh, Scene
from .bending import bent
from .hair import bareness, hair_outline
from .hidden import Hidden
from .sheet import Grid, mm_per_cell_of, sheet_of, window_around, window_intrinsics
from .template import HeadTemplate, MeanTemplate, WholeTemplate
from .texture import bake

FEWEST = 40
"""Vertices that say what colour something has."""


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
    solid: Tensor
    """(V,) of the closed head, 0 to 1, at least `trusted`: how far it may stand before the sheet after a large turn."""
    face_part: Tensor
    """(V,) of the closed head, 1 on the face (brows to chin, cheek to cheek), else 0."""
    around: Tensor
    """(V,) of the sheet: 1 beside the head, 0 on it, between within the outermost millimetres of its outline."""
    grid: Grid
    """The places of the sheet's vertices in the photo."""
    template: HeadTemplate
    """What holds for every closed head of these vertices."""


def complete_head(photo: Photo, face: Face, scene: Scene) -> Head:
    """Extend a reconstructed face to a head in its surroundings.

    Args:
        photo: the photo; face: the face in it.
        scene: any reconstructor's result for them: camera in photo pixels, pose, pivot, size and 3D landmarks are used,
            and its whole head where it has one, else its surface where it says how far that is to be trusted.

    Raises ValueError for a scene that lacks one of these, NoFaceError where the face has no area in the photo.
    """
    _check(photo, scene)
    mm = 1 / scene.scale
    template, vertices = _closed(scene, mm)
    mesh, height, chin = template.mesh(vertices), template.heights, template.chin
    grid = Grid.over(window_around(photo, scene, mm))
    depth, inside, drawn_height = _depth_at_rest(mesh, height, scene.camera, grid)
    # Necks and collars differ too much for the mean head's: below the chin the sheet falls back to the head's axis.
    below = smoothstep(drawn_height, chin, chin + 50)
    sheet_depth = torch.where(inside, torch.lerp(depth, torch.full_like(depth, scene.pivot[2]), below), depth)
    sheet, rigidity = sheet_of(photo, scene, grid, sheet_depth, inside & (drawn_height < chin), inside)
    part = grid.within(photo)
    facing = template.facing(mesh)
    in_sight = _seen(vertices, facing, depth, scene.camera, grid, part, mm)
    seen = _shrunk(in_sight, template)
    atlas_size = int(min(2048, max(256, 2 ** math.ceil(math.log2(max(1.0, 3 * face.size))))))
    hidden = None
    if isinstance(template, WholeTemplate):
        hidden = _hidden(template, vertices, scene, grid, inside, sheet.albedo, part, seen, in_sight)
    atlas = bake(sheet.albedo, part, vertices, template, scene.camera, seen, atlas_size, hidden)
    trusted = template.reliable(torch.maximum(seen, template.mirrored(seen)))
    pixels = project(vertices, scene.camera.K)
    head_rigidity = torch.where(
        height > chin, sample(rigidity[None], pixels, grid.covers)[0], torch.ones(len(vertices))
    )
    # The photo's light is in its colours already.
    closed = replace(scene, surface=mesh, albedo=atlas, rigidity=head_rigidity, light=None, trust=None)
    # The outermost millimetres of the outline are as likely background as head.
    on_head = inside.numpy().astype(np.uint8)
    distance = cv2.distanceTransform(1 - on_head, cv2.DIST_L2, 5) - cv2.distanceTransform(on_head, cv2.DIST_L2, 5)
    around = smoothstep(torch.from_numpy(distance) * mm_per_cell_of(scene, grid), -9.0, -2.0)
    return Head(
        closed, sheet, seen, trusted, template.solid(trusted), template.face_part(), around.flatten(), grid, template
    )


def _closed(scene: Scene, mm: float) -> tuple[HeadTemplate, Tensor]:
    """The closed head's template and vertices (V, 3), camera space; `mm`: a millimetre there."""
    if scene.whole is not None:
        return WholeTemplate(scene.whole), scene.whole.mesh.vertices
    return MeanTemplate.load(), bent(MeanHead.load(), scene, mm)


def _check(photo: Photo, scene: Scene) -> None:
    if scene.landmarks is None or scene.millimetres_per_unit is None:
        raise ValueError("complete_head: the scene needs landmarks and millimetres_per_unit from its reconstructor")
    if (scene.camera.height, scene.camera.width) != photo.size:
        raise ValueError(
            f"complete_head: expected a camera of the photo's {photo.height} x {photo.width} pixels, "
            f"got {scene.camera.height} x {scene.camera.width}"
        )


def _depth_at_rest(mesh: Mesh, height: Tensor, camera: Camera, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """On the grid: camera depth (0 outside), whether the head is there, its height (mm) on the mean head."""
    size = (grid.rows, grid.columns)
    clip_from_scene = clip_from_camera(window_intrinsics(camera.K, grid.covers, size), size)
    fragments = rasterize(clip(mesh.vertices, clip_from_scene)[None], mesh.faces, size)
    drawn = interpolate(torch.stack([mesh.vertices[:, 2], height], -1), fragments, mesh.faces)[0]
    return drawn[..., 0], fragments.triangle_id[0] >= 0, drawn[..., 1]


def _seen(
    vertices: Tensor,
    facing: Tensor,
    depth: Tensor,
    camera: Camera,
    grid: Grid,
    part: tuple[int, int, int, int],
    mm: float,
) -> Tensor:
    """(V,) 0 to 1: how well the camera sees each vertex at rest, which is so far `facing` it.

    0 where the head is in front of it, and outside the `part` (left, top, right, bottom) that is in the photo.
    """
    pixels = project(vertices, camera.K)
    front = sample(depth[None], pixels, grid.covers)[0]
    hidden = (front > 0) & (vertices[:, 2] > front + 8 * mm)
    outside = ((pixels < torch.tensor(part[:2])) | (pixels > torch.tensor(part[2:]))).any(-1)
    return torch.where(hidden | outside, torch.zeros_like(facing), facing)


def _shrunk(seen: Tensor, template: HeadTemplate) -> Tensor:
    """`seen` drawn back from its edges, where an outline a little off would let the background in."""
    picture = template.pictured(seen[:, None])[0][0].numpy()
    picture = cv2.GaussianBlur(cv2.erode(picture, np.ones((5, 5), np.uint8)), (0, 0), 1.0)
    return template.at_vertices(torch.from_numpy(picture)[None])[:, 0]


def _hidden(
    template: WholeTemplate,
    vertices: Tensor,
    scene: Scene,
    grid: Grid,
    inside: Tensor,
    window: Tensor,
    part: tuple[int, int, int, int],
    seen: Tensor,
    in_sight: Tensor,
) -> Hidden:
    """What fills in the head whose outline is `inside`, on the grid, by the `part` of the photo that is `window`.

    seen, in_sight: (V,) how well the photo shows each vertex, with and without a margin to the outline.
    """
    mesh, camera = template.mesh(vertices), scene.camera
    colours = sample(window, project(vertices, camera.K), part)
    skin = _typical(colours, seen * template.face_part())
    skin = torch.full((3,), 0.5) if skin is None else skin
    grown = _typical(colours, seen * template.hair() * (1 - bareness(colours[:, None], skin)[0]))
    _, _, grows = _depth_at_rest(mesh, template.hair(), camera, grid)
    _, _, height = _depth_at_rest(mesh, template.heights, camera, grid)
    drawn = torch.stack([inside.float(), grows, height])
    pixels_per_mm = float(camera.K[0, 0]) / scene.scale
    shown = (template.ear() > 0.5) & (in_sight > 0.3)
    left, right = (colours[:, shown & (template.mean[:, 0] * side > 0)] for side in (-1, 1))
    outline = hair_outline(window, part, drawn, grid.covers, pixels_per_mm, skin, grown, (left, right), scene.pose.yaw)
    return Hidden(template, vertices, camera, window, part, skin, outline)


def _typical(colours: Tensor, weight: Tensor) -> Tensor | None:
    """(3,) the median of colours (3, V) of large weight (V,); None where these are few."""
    chosen = weight > 0.5
    return colours[:, chosen].median(1).values if int(chosen.sum()) >= FEWEST else None
