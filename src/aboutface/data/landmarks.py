"""Sets of landmarks without pictures, from NPZ files."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..files import reason

NAMES = ("points", "landmarks68", "landmarks")


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Landmarks of N faces."""

    points: Tensor
    """(N, K, 2 or 3) float32 pixels, x right, y down, z forward; K = 68 (iBUG) or 21 (AFLW)."""
    visible: Tensor
    """(N, K) bool; a point that is not visible has no place: one of its numbers is -1."""
    yaw: Tensor | None
    """(N,) degrees as the file says, where it does."""
    dropped: dict[str, int]
    """How many faces of the file were left out, by reason."""


def load_landmarks(path: str | PathLike[str]) -> Landmarks:
    """Landmarks of aflw2000-3d-landmarks.npz, aflw-21-landmarks.npz, or any NPZ of (N, 68, 2 or 3).

    The array is the entry `points`, `landmarks68` or `landmarks`, or the only one; `yaw_deg` (N,) may stand beside it.
    Faces with NaN or a yaw beyond 90 degrees (junk in these files) are left out and counted. Points of AFLW that are
    not visible (-1) are marked. Where z points towards the camera (as in AFLW2000-3D: the noses tell), it is turned
    round. Raises UsageError where the file is absent, broken, has no usable face or holds another number of points.
    """
    path = Path(path)
    points, yaw = _load(path)
    visible = (points != -1).all(-1) if points.shape[1] == 21 else np.ones(points.shape[:2], bool)
    finite = np.isfinite(points).all((1, 2))
    straight = np.ones(len(points), bool) if yaw is None else np.abs(yaw) <= 90  # NaN is not, either
    keep = finite & straight
    if not keep.any():
        raise UsageError(f"{path}: no face is usable: {len(points)} in all, {int((~finite).sum())} with NaN")
    points = _z_forward(points[keep])
    return Landmarks(
        torch.from_numpy(points),
        torch.from_numpy(visible[keep]),
        None if yaw is None else torch.from_numpy(yaw[keep]),
        {"not finite": int((~finite).sum()), "yaw beyond 90 degrees": int((finite & ~straight).sum())},
    )


def _z_forward(points: np.ndarray) -> np.ndarray:
    """Points (N, 68, 3) with most nose tips nearer to the camera than the jaw's ends; others as they are."""
    if points.shape[1:] == (68, 3) and np.mean(points[:, 30, 2] > points[:, [0, 16], 2].mean(1)) > 0.5:
        return points * np.array([1, 1, -1], np.float32)
    return points


def _load(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        # Opened here: numpy leaves a file open that is not a whole zip.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            name = next((name for name in NAMES if name in file), file.files[0] if len(file.files) == 1 else None)
            if name is None:
                raise UsageError(f"{path}: expected an entry {', '.join(NAMES)}, got {', '.join(file.files)}")
            with np.errstate(over="ignore"):  # infinity, which is left out
                points = np.asarray(file[name], np.float32)
                yaw = np.asarray(file["yaw_deg"], np.float32) if "yaw_deg" in file else None
    except UsageError:
        raise
    except Exception as error:
        # OSError, ValueError, BadZipFile, zlib.error, TypeError (an .npy), TokenError...: all mean bad bytes.
        raise UsageError(f"{path}: cannot be read as .npz ({reason(error)}); check the path") from None
    shape = tuple(points.shape)
    if points.ndim == 3 and shape[1] == 66:
        raise UsageError(f"{path}: expected 68 points, got 66; aboutface.geometry.landmarks_68_from_66 converts them")
    if points.ndim != 3 or shape[1:] not in ((68, 2), (68, 3), (21, 2)):
        raise UsageError(f"{path}: expected (N, 68, 2 or 3) or AFLW's (N, 21, 2), got {shape}")
    if yaw is not None and yaw.shape != shape[:1]:
        raise UsageError(f"{path}: yaw_deg: expected ({shape[0]},), got {yaw.shape}")
    return points, yaw
