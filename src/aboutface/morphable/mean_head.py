"""The mean head, and how it is bent onto the landmarks of one face."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..geometry import grid_faces
from ..weights import load

POSE_WEIGHTS = torch.tensor([1e-3] * 7 + [1.0] * 3 + [1e-3] * 7 + [1.0] * 51)
"""Trust in each landmark for the pose: detectors let the jaw line slide along the outline as a head turns, which pulls
a pose towards the front by a quarter; chin, brows, eyes, nose and mouth stay on the face."""


def outline_trust(yaw: Tensor) -> Tensor:
    """(..., 68): 1, but towards 0.02 for the jaw points of the side turned away, which mark the outline; yaw (...)."""
    trust = torch.ones(*yaw.shape, 68, dtype=yaw.dtype)
    hidden = (1 - yaw.abs() / 30).clamp_min(0.02)[..., None]
    left, right = (yaw < 0)[..., None], (yaw > 0)[..., None]
    trust[..., :8] = torch.where(left, hidden, trust[..., :8])
    trust[..., 9:17] = torch.where(right, hidden, trust[..., 9:17])
    return trust


@dataclass(frozen=True, eq=False)
class MeanHead:
    """A closed head in cylinder coordinates about the vertical axis through the ears.

    Millimetres; x right, y down, z forward; it looks along -z. Columns run from the back over the image's left side,
    the face in the middle, and the right side to the back again, denser in front; rows run from the crown to the neck.
    The first and the last column are the same places, so that texture coordinates need not jump at the back.
    """

    radius: Tensor
    """(rows, columns) distance from the axis."""
    heights: Tensor
    """(rows,) the y of each row."""
    landmarks: Tensor
    """(68, 3) iBUG points."""

    FRONT = 0.4
    """Azimuth = pi * (FRONT * s + (1 - FRONT) * s^3) at column s in [-1, 1]: 2.5 times denser in front."""

    @classmethod
    @lru_cache(maxsize=1)
    def load(cls) -> "MeanHead":
        tensors = load("mean_head")
        return cls(**{name: tensors[name].float() for name in ("radius", "heights", "landmarks")})

    @classmethod
    def empty(cls, rows: int, columns: int) -> "MeanHead":
        """All zeros: its columns can be asked for before there is a head."""
        return cls(torch.zeros(rows, columns), torch.zeros(rows), torch.zeros(68, 3))

    def azimuths(self) -> Tensor:
        """(columns,) radians, 0 in front, growing towards the image's right."""
        s = torch.linspace(-1, 1, self.radius.shape[1])
        return math.pi * (self.FRONT * s + (1 - self.FRONT) * s**3)

    def column_of(self, azimuth: Tensor) -> Tensor:
        """Column position (pixel convention: the first column's centre is 0.5) of azimuths in radians."""
        a, b = self.FRONT, 1 - self.FRONT
        # The one real root of b s^3 + a s - t (Cardano; a, b > 0).
        t = azimuth / math.pi
        p, q = a / b, t / b
        root = torch.sqrt(q * q / 4 + p**3 / 27)
        s = _cbrt(q / 2 + root) + _cbrt(q / 2 - root)
        return (s + 1) / 2 * (self.radius.shape[1] - 1) + 0.5

    def vertices(self) -> Tensor:
        """(rows * columns, 3) row-major."""
        azimuth = self.azimuths()
        x = self.radius * torch.sin(azimuth)
        z = -self.radius * torch.cos(azimuth)
        return torch.stack([x, self.heights[:, None].expand_as(x), z], -1).flatten(0, 1)

    def per_row(self, values: Tensor) -> Tensor:
        """(rows * columns,) per vertex, from one value per row (rows,)."""
        return values[:, None].expand_as(self.radius).flatten()

    def per_column(self, values: Tensor) -> Tensor:
        """(rows * columns,) per vertex, from one value per column (columns,)."""
        return values[None].expand_as(self.radius).flatten()

    def faces(self) -> Tensor:
        """(F, 3) triangles, clockwise seen from outside; open at the neck only."""
        return grid_faces(*self.radius.shape)

    def uv(self) -> Tensor:
        """(rows * columns, 2) texture coordinates of the vertices: the grid itself."""
        rows, columns = self.radius.shape
        v, u = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
        return torch.stack([u, v], -1).flatten(0, 1)


def bend(
    points: Tensor,
    source: Tensor,
    target: Tensor,
    smoothing: float = 0.02,
    reach: float = 90.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Points (N, 3) moved smoothly so that `source` (K, 3) lands on `target` (K, 3), by radial basis functions.

    The kernel (Wendland 1995, C2, support `reach`, same unit as the points) leaves points farther than `reach` from
    all sources where they are. `smoothing` trades exactness for smoothness; `weights` (K,) in (0, 1] trust some less.
    """
    trust = torch.ones_like(source[:, 0]) if weights is None else weights
    kernel = _wendland(torch.cdist(source, source) / reach)
    system = kernel + torch.diag(smoothing / trust)
    coefficients = torch.linalg.solve(system, target - source)
    return points + _wendland(torch.cdist(points, source) / reach) @ coefficients


def _wendland(r: Tensor) -> Tensor:
    return (1 - r).clamp_min(0) ** 4 * (4 * r + 1)


def _cbrt(x: Tensor) -> Tensor:
    return torch.sign(x) * x.abs() ** (1 / 3)
