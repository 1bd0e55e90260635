"""Landmarks and boxes that the user brings.

All readers return photo pixels in our convention: x right, y down, pixel centres on half-integers, so the photo spans
[0, W] x [0, H].
"""

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import UsageError


def read_landmarks(source: str | Path | np.ndarray) -> np.ndarray:
    """68 landmarks (68, 2) float64, from an array or a file.

    Files, by their ending:
        .txt: 68 lines `x y`.
        .pts: the iBUG format. It counts pixels from 1 (Matlab: the first pixel's centre is 1), ours lies at 0.5, so
            0.5 is subtracted.
        .json: {"landmarks68": ...} or {"landmarks": ...} with 68 pairs; the sidecar file of this tool is one.
        .npy, .npz: an array (68, 2), in .npz under "landmarks68", "landmarks" or as the only entry.

    Raises:
        UsageError: the file is absent or malformed, or holds another number of points.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        return _check_landmarks(_load(path, ("landmarks68", "landmarks")), str(path))
    return _check_landmarks(source, "landmarks")


def read_box(source: str | Path | Sequence[float] | np.ndarray) -> tuple[float, float, float, float]:
    """A box as (left, top, right, bottom), from four numbers or a file.

    Files: .txt with four numbers, .json with {"box": [...]} or a list, .npy, .npz.

    Raises:
        UsageError: the file is absent or malformed, or the box is empty.
    """
    name = "box"
    values: object = source
    if isinstance(source, str | Path):
        name, values = str(source), _load(Path(source), ("box",))
    numbers = _numbers(values, name)
    if numbers.size != 4:
        raise UsageError(f"{name}: expected 4 numbers (left top right bottom), got {numbers.size}.")
    left, top, right, bottom = (float(v) for v in numbers.ravel())
    if right <= left or bottom <= top:
        given = f"{left:g} {top:g} {right:g} {bottom:g}"
        raise UsageError(f"{name}: the box is empty; expected left < right and top < bottom, got {given}.")
    return left, top, right, bottom


def _check_landmarks(values: object, name: str) -> np.ndarray:
    points = _numbers(values, name)
    if points.shape != (68, 2):
        shape = " x ".join(str(n) for n in points.shape)
        raise UsageError(f"{name}: expected 68 landmarks (68 x 2 numbers, iBUG order), got {shape}.")
    if (np.ptp(points, axis=0) <= 0).any():
        raise UsageError(f"{name}: the landmarks lie on one line.")
    return points


def _numbers(values: object, name: str) -> np.ndarray:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"{name}: expected numbers only, each row of the same length.") from None
    if not np.isfinite(array).all():
        raise UsageError(f"{name}: not every number is finite.")
    return array


def _load(path: Path, keys: tuple[str, ...]) -> object:
    readers = {".txt": _text, ".pts": _pts, ".json": _json, ".npy": _numpy, ".npz": _numpy}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{path}: cannot read this kind of file; expected one of {' '.join(readers)}.")
    try:
        return reader(path, keys)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or 'cannot be read'}.") from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: malformed {path.suffix} file.") from None


def _text(path: Path, keys: tuple[str, ...]) -> list[list[float]]:
    return _rows(path.read_text("utf-8-sig").splitlines())


def _pts(path: Path, keys: tuple[str, ...]) -> np.ndarray:
    body = re.search(r"\{(.*)\}", path.read_text("utf-8-sig"), re.DOTALL)
    if body is None:
        raise UsageError(f"{path}: expected the points between braces, as in iBUG's .pts files.")
    return np.array(_rows(body[1].splitlines())) - 0.5


def _rows(lines: list[str]) -> list[list[float]]:
    """Numbers of each line that is neither blank nor a `#` comment; split at blanks or commas."""
    stripped = (line.strip() for line in lines)
    return [[float(v) for v in re.split(r"[,\s]+", line)] for line in stripped if line and not line.startswith("#")]


def _json(path: Path, keys: tuple[str, ...]) -> object:
    content = json.loads(path.read_text("utf-8-sig"))
    if isinstance(content, dict):
        # The sidecar of several faces holds one entry per face.
        faces = content.get("faces")
        if not any(k in content for k in keys) and isinstance(faces, list) and faces and isinstance(faces[0], dict):
            content = faces[0]
        return _entry(content, keys, path)
    return content


def _numpy(path: Path, keys: tuple[str, ...]) -> object:
    content = np.load(path, allow_pickle=False)
    if isinstance(content, np.ndarray):
        return content
    with content:
        if len(content.files) == 1:
            return content[content.files[0]]
        return _entry({k: content[k] for k in content.files if k in keys}, keys, path)


def _entry(content: dict, keys: tuple[str, ...], path: Path) -> object:
    for key in keys:
        if key in content:
            return content[key]
    raise UsageError(f"{path}: expected an entry named {' or '.join(keys)}.")
