"""The mean head: what a head looks like before anything is known of this one.

    aboutface train mean-head --data DIR

Landmarks are the generalised Procrustes mean of the real faces in aflw2000-3d-landmarks.npz, made symmetric. The
surface around them is averaged from random heads of ict-facekit-light.npz (MIT, (c) 2020 USC Institute for Creative
Technologies), bent so that it passes through those landmarks and resampled in cylinder coordinates of our own.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..face import MIRROR_68
from ..filters import blur, smoothstep
from ..fit import Run
from ..geometry import apply, procrustes, similarity
from ..morphable import MeanHead, bend
from ..render import interpolate, rasterize
from . import Trained


@dataclass(frozen=True)
class MeanHeadTraining:
    """The average head, measured from 3D landmarks and a morphable model; nothing is learned step by step."""

    rows: int = 160
    """Heights at which the head is measured."""
    columns: int = 160
    """Azimuths at which it is measured."""
    heads: int = 200
    """Random heads that are averaged."""
    seed: int = 0
    """Their seed."""

    def train(self, data: Path, run: Run, log: Callable[[str], None]) -> Trained:
        """Measure from the folder `data`, which holds the two files named above."""
        head = train_mean_head(data, self.rows, self.columns, self.heads, self.seed)
        tensors = {"radius": head.radius, "heights": head.heights, "landmarks": head.landmarks}
        return Trained(tensors, {"rows": float(len(head.heights))}, asdict(self))


MIRROR = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
INNER = torch.arange(17, 68)


def train_mean_head(data: Path, rows: int = 160, columns: int = 160, heads: int = 200, seed: int = 0) -> MeanHead:
    """Measure the mean head from the folder `data`. Raises UsageError where it lacks one of the files named above."""
    faces = real_landmarks(data)
    heads_mm, triangles, anchors = _ict_heads(data, heads, seed)
    mean, _ = procrustes(faces)
    mean = _symmetric(mean)
    # Size and upright gaze come from the ICT model: it looks straight ahead, in millimetres.
    landmarks = apply(similarity(mean[INNER], heads_mm[anchors[INNER]]), mean)
    landmarks = (landmarks + landmarks[MIRROR_68] * MIRROR) / 2
    # The two sources place jaw points differently, so the jaw is matched to the nearest point of the surface instead.
    jaw = torch.cdist(landmarks[:17], heads_mm).argmin(1)
    sources = torch.cat([heads_mm[jaw], heads_mm[anchors[INNER]]])
    heads_mm = bend(heads_mm, sources, landmarks, smoothing=0.05, reach=130.0)
    centre = landmarks[[0, 16]].mean(0) * torch.tensor([0.0, 1.0, 1.0]).double()
    vertices, landmarks = heads_mm - centre, landmarks - centre
    return _resample(vertices, triangles, landmarks, rows, columns)


def real_landmarks(data: Path) -> Tensor:
    """Real 3D landmarks (N, 68, 3), pixels, x right, y down, z forward, of faces within 90 degrees of frontal.

    Raises UsageError where the folder lacks aflw2000-3d-landmarks.npz.
    """
    path = Path(data) / "aflw2000-3d-landmarks.npz"
    if not path.is_file():
        raise UsageError(f"{path} is missing: --data takes the folder that holds it")
    file = np.load(path)
    points = torch.from_numpy(file["points"]).double() * torch.tensor([1.0, 1.0, -1.0]).double()
    return points[torch.from_numpy(np.abs(file["yaw_deg"]) <= 90)]


def _ict_heads(data: Path, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of `count` random heads: vertices (V, 3) mm, triangles (F, 3), the vertices (68,) that are landmarks."""
    path = Path(data) / "ict-facekit-light.npz"
    if not path.is_file():
        raise UsageError(f"{path} is missing: --data takes the folder that holds it")
    file = np.load(path)
    weights = np.random.default_rng(seed).standard_normal((count, len(file["identity_basis"]))).astype(np.float32)
    offset = np.tensordot(weights.mean(0), file["identity_basis"].astype(np.float32), 1)
    vertices = torch.from_numpy((file["mean"] + offset) * 10).double() * torch.tensor([1.0, -1.0, -1.0]).double()
    parts = json.loads(str(file["parts"]))
    keep = np.zeros(len(vertices), bool)
    for part in ("face", "head_neck", "eyeball_left", "eyeball_right"):
        keep[slice(*parts[part])] = True
    quads = file["faces"].astype(np.int64)
    quads[:, 3] = np.where(quads[:, 3] < 0, quads[:, 2], quads[:, 3])
    quads = quads[keep[quads].all(1)]
    triangles = torch.from_numpy(np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]))
    return vertices, triangles, torch.from_numpy(file["landmarks68"].astype(np.int64))


def _symmetric(landmarks: Tensor) -> Tensor:
    mirrored = landmarks[MIRROR_68] * MIRROR
    return (apply(similarity(mirrored, landmarks), mirrored) + landmarks) / 2


def _resample(vertices: Tensor, triangles: Tensor, landmarks: Tensor, rows: int, columns: int) -> MeanHead:
    """Outermost radius about the vertical axis, by drawing the surface in (azimuth, height) with radius as depth."""
    top, bottom = vertices[:, 1].min() + 0.5, landmarks[8, 1] + 55.0
    heights = torch.linspace(float(top), float(bottom), rows).double()
    grid = MeanHead.empty(rows, columns)
    azimuth = torch.atan2(vertices[:, 0], -vertices[:, 2])
    radius = vertices[:, [0, 2]].norm(dim=1)
    x = grid.column_of(azimuth) * 2 / columns - 1
    y = (vertices[:, 1] - heights[0]) / (heights[-1] - heights[0]) * (rows - 1) + 0.5
    clip = torch.stack([x, y * 2 / rows - 1, -radius / 1000, torch.ones_like(x)], -1)
    # Triangles across the back seam would span the whole picture.
    corners = azimuth[triangles]
    triangles = triangles[(corners.amax(1) - corners.amin(1)) < np.pi / 2]
    fragments = rasterize(clip[None].float(), triangles, (rows, columns))
    drawn = interpolate(radius[:, None].float(), fragments, triangles)[0, ..., 0].double()
    drawn = _filled(drawn, fragments.triangle_id[0] >= 0)
    drawn = (drawn + drawn.flip(1)) / 2
    # One radius per place cannot hold an ear: it becomes a bump instead of torn steps.
    sideways = grid.azimuths().abs()
    ears = smoothstep(sideways, 1.2, 1.4) * (1 - smoothstep(sideways, 2.2, 2.5))
    drawn = torch.lerp(drawn, blur(drawn[None].float(), 3.0)[0].double(), ears.double())
    drawn[:, [0, -1]] = drawn[:, [0, -1]].mean(1, keepdim=True)
    drawn[0] = 0  # the crown is one point
    return MeanHead(radius=drawn.float(), heights=heights.float(), landmarks=landmarks.float())


def _filled(image: Tensor, known: Tensor) -> Tensor:
    """Empty cells take the nearest known value of their row, or of the row below."""
    for row in reversed(range(len(image))):
        where = known[row].nonzero()[:, 0]
        if len(where) == 0:
            image[row] = image[row + 1] if row + 1 < len(image) else 0
            continue
        nearest = (torch.arange(image.shape[1])[:, None] - where).abs().argmin(1)
        image[row] = image[row, where[nearest]]
    return image
