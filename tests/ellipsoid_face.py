"""A morphable model of a made face, closed under mirroring: half an ellipsoid with a nose, and smooth modes."""

import numpy as np
import torch

from aboutface.face import MIRROR_68
from aboutface.geometry import grid_faces, intrinsics, project, rotation_from_angles
from aboutface.morphable import MorphableModel
from aboutface.morphable.model import oriented

ROWS, COLUMNS = 61, 61
RADII = np.array([75.0, 110.0, 95.0])
SIZE = 256
K = intrinsics(10.0, (SIZE, SIZE)).double()
DISTANCE = 1300.0


def _shape() -> np.ndarray:
    """(V, 3) millimetres, x right, y down, z forward."""
    azimuth, height = np.meshgrid(np.linspace(-1.9, 1.9, COLUMNS), np.linspace(-1.2, 1.2, ROWS))
    unit = np.stack([np.sin(azimuth) * np.cos(height), np.sin(height), -np.cos(azimuth) * np.cos(height)], -1)
    points = (unit * RADII).reshape(-1, 3)
    nose = np.exp(-((points[:, 0] / 12) ** 2) - ((points[:, 1] - 5) / 18) ** 2) * (points[:, 2] < 0)
    return points - nose[:, None] * [0.0, 0.0, 22.0]


def _landmarks(points: np.ndarray) -> np.ndarray:
    """(68,) vertices."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 17)
    jaw = [(70 * np.sin(t), 20 + 65 * np.cos(t)) for t in angle]
    brows = [(x, -45) for x in (-50, -40, -30, -20, -10, 10, 20, 30, 40, 50)]
    nose = [(0, y) for y in (-30, -18, -6, 6)] + [(x, 18) for x in (-14, -7, 0, 7, 14)]
    left = [(-45, -30), (-39, -34), (-27, -34), (-20, -30), (-27, -26), (-39, -26)]
    right = [(20, -30), (27, -34), (39, -34), (45, -30), (39, -26), (27, -26)]
    outer = [(25 * np.cos(t), 45 + 10 * np.sin(t)) for t in np.linspace(np.pi, 3 * np.pi, 13)[:-1]]
    inner = [(15 * np.cos(t), 45 + 5 * np.sin(t)) for t in np.linspace(np.pi, 3 * np.pi, 9)[:-1]]
    wanted = np.array(jaw + brows + nose + left + right + outer + inner)
    front = np.where(points[:, 2] < 0, 0.0, 1000.0)
    found = np.array([(np.linalg.norm(points[:, :2] - place, axis=1) + front).argmin() for place in wanted])
    # Rounding must not choose differently on either side.
    twin = np.arange(len(points)).reshape(ROWS, COLUMNS)[:, ::-1].ravel()
    later = np.arange(68) < MIRROR_68
    found[MIRROR_68[later]] = twin[found[later]]
    return found


def _bump(points: np.ndarray, place: tuple[float, float], width: float, move: tuple[float, float, float]) -> np.ndarray:
    """(V, 3): a smooth movement about a place in front view."""
    near = np.exp(-(((points[:, :2] - place) / width) ** 2).sum(1)) * (points[:, 2] < 40)
    return near[:, None] * np.array(move)


def _pair(points: np.ndarray, place: tuple[float, float], width: float, move: tuple[float, float, float]) -> np.ndarray:
    """(2, V, 3): the movement on the left and on the right."""
    (x, y), (a, b, c) = place, move
    return np.stack([_bump(points, (x, y), width, (a, b, c)), _bump(points, (-x, y), width, (-a, b, c))])


def toy(kind: str = "gaussian") -> MorphableModel:
    """Eight identities, of which two are differences of sides, and six expressions in three pairs.

    The last identity fills the hollows beside the nose, where no landmark is.
    """
    points = _shape()
    jaws = _pair(points, (-55, 60), 35, (-6, 3, 0))
    cheeks = _pair(points, (-50, 10), 30, (-4, 0, -3))
    hollows = _pair(points, (-33, 5), 14, (0, 0, -5))
    identity = [
        points * [0.06, 0, 0],
        points * [0, 0.05, 0],
        _bump(points, (0, 5), 20, (0, 2, -6)),
        *(part for left, right in (jaws, cheeks) for part in (left + right, left - right)),
        hollows.sum(0),
    ]
    expression = np.concatenate(
        [
            _pair(points, (-25, 45), 12, (-6, -4, 0)),
            _pair(points, (-30, -30), 10, (0, 5, 0)),
            _pair(points, (-30, -48), 12, (0, -6, 0)),
        ]
    )
    mean = torch.from_numpy(points).float()
    return MorphableModel(
        name="toy",
        version="1",
        licence="none",
        redistributable=True,
        mean=mean,
        identity=torch.from_numpy(np.stack(identity)).float(),
        expression=torch.from_numpy(expression).float(),
        expression_names=tuple("abcdef"),
        expression_kind=kind,  # pyright: ignore
        faces=oriented(mean, grid_faces(ROWS, COLUMNS), None),
        landmarks68=torch.from_numpy(_landmarks(points)),
    )


def posed(vertices: torch.Tensor, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> torch.Tensor:
    """Vertices (V, 3) before the camera K, millimetres, float64."""
    rotation = rotation_from_angles(yaw, pitch, roll).double()
    return vertices.double() @ rotation.mT + torch.tensor([4.0, -6.0, DISTANCE], dtype=torch.float64)


def seen(model: MorphableModel, vertices: torch.Tensor) -> torch.Tensor:
    """(68, 2) pixels of posed vertices (V, 3)."""
    return project(model.landmarks(vertices), K)
