"""What holds for every head of one topology: its parts, its atlas, which vertices are twins."""

from abc import ABC, abstractmethod
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..filters import blur, fill, sample, smoothstep
from ..morphable import MeanHead
from ..render import Fragments, interpolate, rasterize
from ..scene import Mesh, WholeSurface

FINE = 240
"""Side of the pictures of a whole head in which its vertices are smoothed: about 1.5 mm of a face per pixel."""

HAIRLINE = ((0.8, 1.2, 1.45, 1.6, 2.1, 2.3, 2.7, 3.2), (-58.0, -35.0, -2.0, 2.0, -3.0, 15.0, 68.0, 75.0))
"""Azimuths, radians, and the heights there above which hair grows: forehead, temple, before and behind the ear."""
NECKLINE = ((0.8, 1.4, 3.2), (130.0, 112.0, 105.0))
"""The same, from which the neck fades into what the photo shows of it."""


class HeadTemplate(ABC):
    """The average head, in a frame between the ears: millimetres, x right, y down, it looks along -z."""

    mean: Tensor
    """(V, 3) vertices."""
    landmarks: Tensor
    """(68, 3) iBUG points."""
    heights: Tensor
    """(V,) y of each vertex."""
    azimuths: Tensor
    """(V,) radians about the vertical axis, 0 in front, growing towards the image's right."""

    @abstractmethod
    def mesh(self, vertices: Tensor) -> Mesh:
        """A head with these vertices (V, 3); the mirror side of a texel is the one at 1 - u."""

    @abstractmethod
    def mirrored(self, values: Tensor) -> Tensor:
        """(V, ...) values of each vertex's twin on the other side."""

    @abstractmethod
    def pictured(self, values: Tensor, size: int | None = None) -> tuple[Tensor, Tensor]:
        """Values (V, C) in the atlas: (C, h, w), and 1 where it has any, (h, w); `size` is the side, if not its own."""

    @abstractmethod
    def at_vertices(self, picture: Tensor) -> Tensor:
        """(V, C) of a picture (C, h, w) in the atlas of its own size."""

    @abstractmethod
    def reliable(self, shown: Tensor) -> Tensor:
        """(V,) 0 to 1: where the head may stand before the photo, by how well that shows one of its sides (V,)."""

    def solid(self, trusted: Tensor) -> Tensor:
        """(V,) the same after a large turn, when the photo has nothing better to show, from what is `reliable`."""
        return trusted

    @abstractmethod
    def facing(self, mesh: Mesh) -> Tensor:
        """(V,) 0 to 1: how squarely the camera sees the surface of this head at each vertex."""

    @property
    def chin(self) -> float:
        """Height of the chin."""
        return float(self.landmarks[8, 1])

    def face_part(self) -> Tensor:
        """(V,) 1 on the face (brows to chin, cheek to cheek), else 0."""
        brows = float(self.landmarks[17:27, 1].min())
        cheeks = self.azimuths.abs() < 1.1
        return (cheeks & (self.heights > brows - 15) & (self.heights < self.chin)).float()

    def below_jaw(self) -> Tensor:
        """(V,) millimetres below the jaw, or behind it below the ear lobes; less than 0 above."""
        jaw = self.landmarks[8:17]
        # The height of the jaw line at each azimuth, and of the ear lobe behind it.
        line = np.interp(self.azimuths.abs(), torch.atan2(jaw[:, 0], -jaw[:, 2]), jaw[:, 1])
        return self.heights - torch.from_numpy(line.astype(np.float32)).clamp_min(15.0)


class MeanTemplate(HeadTemplate):
    """The mean head: its vertices are a grid, and the grid is the atlas."""

    def __init__(self, head: MeanHead) -> None:
        self.head = head
        self.mean, self.landmarks = head.vertices(), head.landmarks
        self.heights, self.azimuths = head.per_row(head.heights), head.per_column(head.azimuths())

    @classmethod
    @lru_cache(maxsize=1)
    def load(cls) -> "MeanTemplate":
        return cls(MeanHead.load())

    def mesh(self, vertices: Tensor) -> Mesh:
        return Mesh(vertices, self.head.faces(), self.head.uv())

    def mirrored(self, values: Tensor) -> Tensor:
        return values.unflatten(0, self.head.radius.shape).flip(1).flatten(0, 1)

    def pictured(self, values: Tensor, size: int | None = None) -> tuple[Tensor, Tensor]:
        grid = values.T.unflatten(1, self.head.radius.shape)
        if size is not None:
            grid = functional.interpolate(grid[None], (size, size), mode="bilinear", align_corners=False)[0]
        return grid, torch.ones(grid.shape[1:])

    def at_vertices(self, picture: Tensor) -> Tensor:
        return picture.flatten(1).T

    def facing(self, mesh: Mesh) -> Tensor:
        return smoothstep(_cosine(mesh.normals, mesh.vertices), 0.2, 0.55)

    def reliable(self, shown: Tensor) -> Tensor:
        # On the neck and behind the ears people differ too much from the mean head.
        above = (1 - smoothstep(self.below_jaw(), -8.0, 2.0)) * (1 - smoothstep(self.azimuths.abs(), 1.4, 1.8))
        return shown * above


class WholeTemplate(HeadTemplate):
    """A method's own whole head, whose texture coordinates are the atlas."""

    def __init__(self, whole: WholeSurface) -> None:
        self.whole = whole
        # Where the jaw meets the ears, as with the mean head.
        between = whole.landmarks[[0, 16]].mean(0)
        self.mean, self.landmarks = whole.mean - between, whole.landmarks - between
        self.heights = self.mean[:, 1]
        self.azimuths = torch.atan2(self.mean[:, 0], -self.mean[:, 2])

    def mesh(self, vertices: Tensor) -> Mesh:
        return Mesh(vertices, self.whole.mesh.faces, self.uv)

    @property
    def uv(self) -> Tensor:
        assert self.whole.mesh.uv is not None
        return self.whole.mesh.uv

    def mirrored(self, values: Tensor) -> Tensor:
        return values[self.whole.mirror]

    def pictured(self, values: Tensor, size: int | None = None) -> tuple[Tensor, Tensor]:
        fragments = self._fine if size is None else self._drawn(size)
        drawn = interpolate(values, fragments, self.whole.mesh.faces)[0].movedim(-1, 0)
        there = (fragments.triangle_id[0] >= 0).float()
        # Beyond the rim of the neck it goes on, so that smoothing does not pull towards 0.
        return (fill(drawn, there) if size is None else drawn), there

    def at_vertices(self, picture: Tensor) -> Tensor:
        return sample(picture, self.uv, (0.0, 0.0, 1.0, 1.0)).T

    def facing(self, mesh: Mesh) -> Tensor:
        # Lids, lips and nostrils face anywhere; what surrounds them says whether they are seen.
        normals = self.at_vertices(blur(self.pictured(mesh.normals)[0], 4.0))
        cosine = _cosine(functional.normalize(normals, dim=-1), mesh.vertices)
        # Around the skull there is hair, not background.
        hair, ear = self.hair(), self.ear()
        cosine = torch.lerp(cosine, _cosine(mesh.normals, mesh.vertices), ear)
        loose = torch.maximum(hair, ear)
        return torch.lerp(smoothstep(cosine, 0.2, 0.55), smoothstep(cosine, 0.05, 0.25), loose)

    def ear(self) -> Tensor:
        """(V,) 1 on the ears."""
        azimuth = self.azimuths.abs()
        level = smoothstep(self.heights, -8.0, 2.0) * (1 - smoothstep(self.heights, 58.0, 66.0))
        return level * smoothstep(azimuth, 1.65, 1.75) * (1 - smoothstep(azimuth, 2.3, 2.4))

    def hair(self) -> Tensor:
        """(V,) 1 on the skull, where hair grows, 0 on face, ears and neck."""
        line = np.interp(self.azimuths.abs(), *HAIRLINE).astype(np.float32)
        return 1 - smoothstep(self.heights - torch.from_numpy(line), -12.0, 12.0)

    def reliable(self, shown: Tensor) -> Tensor:
        return shown * self.solid(shown)

    def solid(self, trusted: Tensor) -> Tensor:
        line = np.interp(self.azimuths.abs(), *NECKLINE).astype(np.float32)
        return 1 - smoothstep(self.heights - torch.from_numpy(line), 0.0, 14.0)

    @cached_property
    def _fine(self) -> Fragments:
        return self._drawn(FINE)

    def _drawn(self, size: int) -> Fragments:
        flat = torch.cat([self.uv * 2 - 1, torch.zeros(len(self.uv), 1), torch.ones(len(self.uv), 1)], -1)
        return rasterize(flat[None], self.whole.mesh.faces, (size, size))


def _cosine(normals: Tensor, vertices: Tensor) -> Tensor:
    """(V,) of the angle between unit normals and the way to the camera."""
    return -(normals * functional.normalize(vertices, dim=-1)).sum(-1)
