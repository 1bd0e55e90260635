"""Photo to faces: the protocol that every backend follows, and the one door `detect`."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from ..errors import MissingError, NoFaceError, UsageError
from ..face import Face
from .from_file import read_box, read_landmarks

DetectorName = Literal["auto", "network", "dlib", "mediapipe"]


@runtime_checkable
class Detector(Protocol):
    """What finds faces. A backend is free in everything but these three."""

    name: str
    """Short name, as in `--detector`; it is written to `Face.detector`."""
    licence: str
    """Licence of the weights, one line."""

    def faces(self, pixels: np.ndarray) -> list[Face]:
        """All faces of a photo (H, W, 3) uint8 RGB, in any order; an empty list where there is none."""
        ...


def detect(
    pixels: np.ndarray,
    *,
    face: int | str = "largest",
    detector: DetectorName | str | Detector = "auto",
    min_face: float = 20,
    landmarks: str | Path | np.ndarray | None = None,
    box: str | Path | Sequence[float] | None = None,
) -> list[Face]:
    """Find the asked faces of a photo, ordered by size, largest first.

    Args:
        pixels: the photo (H, W, 3) uint8 RGB.
        face: "largest", "all", or a place in the order of size (0 is the largest).
        detector: backend; "auto" prefers mediapipe where its package and model file are present, else network.
        min_face: faces of a smaller `Face.size`, in pixels, are left out.
        landmarks: 68 points instead of detection: an array (68, 2) in photo pixels, or a file (see `read_landmarks`).
        box: left, top, right, bottom in photo pixels instead of detection, or a file; the network places the landmarks.

    Raises:
        NoFaceError: no face, only smaller ones, or fewer than asked for.
        UsageError: an argument has the wrong form.
    """
    wanted = _parse_choice(face)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels: expected (H, W, 3) uint8 RGB, got {pixels.shape} {pixels.dtype}")
    found = _given(pixels, landmarks, box)
    if found is None:
        found = _search(pixels, detector)
    found = sorted(found, key=lambda f: -f.size)
    large = [replace(f, index=i) for i, f in enumerate(found) if f.size >= min_face]
    if not large:
        raise NoFaceError(_why_none(found, pixels.shape, min_face))
    if wanted == "all":
        return large
    if wanted >= len(large):
        count = "1 face was" if len(large) == 1 else f"{len(large)} faces were"
        raise NoFaceError(f"There is no face {wanted}: {count} found, counted from 0, largest first.")
    return [large[wanted]]


def choose(name: DetectorName | str | Detector = "auto") -> Detector:
    """The backend of this name, loaded once. A Detector is passed through.

    Raises:
        UsageError: no backend has this name.
        MissingError: its package or model file is absent.
    """
    return name if isinstance(name, Detector) else _named(name)


@lru_cache(maxsize=8)
def _named(name: str) -> Detector:
    from .dlib_backend import DlibDetector
    from .mediapipe_backend import MediapipeDetector
    from .network_backend import NetworkDetector

    match name:
        case "network":
            return NetworkDetector()
        case "dlib":
            return DlibDetector()
        case "mediapipe":
            return MediapipeDetector()
        case "auto":
            try:
                return _named("mediapipe")
            except MissingError:
                return _named("network")
    raise UsageError(f"Unknown detector {name!r}: choose auto, network, dlib or mediapipe.")


def _parse_choice(face: int | str) -> Literal["all"] | int:
    if face == "all":
        return "all"
    if face == "largest":
        return 0
    try:
        index = int(face)
    except (TypeError, ValueError):
        index = -1
    if isinstance(face, bool | float) or index < 0:
        raise UsageError(f'face: expected "largest", "all" or a number from 0, got {face!r}.')
    return index


def _search(pixels: np.ndarray, detector: str | Detector) -> list[Face]:
    chosen = choose(detector)
    found = chosen.faces(pixels)
    if not found and detector == "auto" and chosen.name != "network":
        # The other detectors know large faces best; dlib also looks for small ones.
        found = choose("network").faces(pixels)
    return found


def _given(pixels: np.ndarray, landmarks, box) -> list[Face] | None:
    """The face that the user describes; None where it is to be found."""
    if landmarks is not None:
        points = read_landmarks(landmarks)
        if not (points.mean(0) > 0).all() or not (points.mean(0) < [pixels.shape[1], pixels.shape[0]]).all():
            raise UsageError(f"The given landmarks lie outside the photo of {pixels.shape[1]} x {pixels.shape[0]} px.")
        limits = _box_in(pixels, box) if box is not None else (*points.min(0).tolist(), *points.max(0).tolist())
        return [Face(points, limits)]
    if box is not None:
        from .network_backend import NetworkDetector

        placing = choose("network")
        assert isinstance(placing, NetworkDetector)
        return [placing.face_in_box(pixels, _box_in(pixels, box))]
    return None


def _box_in(pixels: np.ndarray, box) -> tuple[float, float, float, float]:
    """The given box, whose centre must lie in the photo and which must not dwarf it."""
    left, top, right, bottom = read_box(box)
    height, width = pixels.shape[:2]
    inside = 0 < (left + right) / 2 < width and 0 < (top + bottom) / 2 < height
    if not inside or right - left > 3 * width or bottom - top > 3 * height:
        given = f"{left:g},{top:g},{right:g},{bottom:g}"
        raise UsageError(f"The given box {given} lies outside the photo of {width} x {height} px.")
    return left, top, right, bottom


def _why_none(found: list[Face], shape: tuple[int, ...], min_face: float) -> str:
    if found:
        return f"The largest face is too small ({found[0].size:.0f} px, at least {min_face:g} px are needed)."
    return (
        f"No face was found in this photo of {shape[1]} x {shape[0]} px: "
        "it may be a profile, turned away, covered or too small. "
        "Crop the photo closer, or give --box or --landmarks."
    )
