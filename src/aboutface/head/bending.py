"""The mean head bent onto a face: through its landmarks, its outline, and a dense surface where there is one."""

import math
from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..filters import blur, fill, sample, smoothstep
from ..morphable import MeanHead, bend, outline_trust
from ..render import interpolate, rasterize
from ..scene import Mesh, Scene

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


def bent(mean: MeanHead, scene: Scene, mm: float) -> Tensor:
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
