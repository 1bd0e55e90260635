"""dlib: works offline on a plain install.

Weights: `face_recognition_models` 0.3. Its 68-point predictor was trained on iBUG 300-W, whose licence allows
non-commercial research only; detectors and embedding are free (public domain, CC0). Methods: HOG templates (Dalal and
Triggs 2005), max-margin CNN (King 2015), ensemble of regression trees (Kazemi and Sullivan 2014).

The HOG detector is quick and knows upright faces only; the CNN takes seconds and knows more. So the photo is tried as
it is, then larger, then turned, then by the CNN, and the first sure answer ends the search. How sure is measured by
the landmarks themselves: predicted from slightly moved boxes and from the mirror image, the points of a real face
fall on the same places, and on anything else they scatter.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import hypot
from threading import Lock
from typing import Any

import numpy as np

from .. import weights
from ..errors import MissingError
from ..face import MIRROR_68, Face

_LOADERS = {
    "dlib-landmarks": "shape_predictor",
    "dlib-cnn": "cnn_face_detection_model_v1",
    "dlib-embedding": "face_recognition_model_v1",
}

_SHORTEST = 320
"""A photo is enlarged until its shorter side has so many pixels: HOG sees faces from 80 px on."""
_ENLARGE_MOST = 5.0
"""More would only look for faces of less than 16 px."""
_LONGEST, _LONGEST_RETRY = 1300, 2600
"""Longer side at which HOG looks first, and again for small faces."""
_LONGEST_CNN, _LONGEST_CNN_TURNED = 640, 320
"""The CNN takes 4 s per megapixel."""
_RIGHT_TURNS, _SLANTED_TURNS = (180, 90, -90), (45, -45, 135, -135)
_HOG_LEAST, _CNN_LEAST = -0.3, 0.7

_CHIP = 160
"""Side in pixels of the detector's box in the chip that the landmark predictor sees."""
_MARGIN = 0.5
"""The chip reaches beyond the box by so many sides."""
_JITTER = ((0.0, 0.0, 1.0), (0.04, 0.0, 1.05), (-0.04, 0.0, 1.05))
"""Moved boxes (x, y, size), in sides: three views, and as many of the mirror image."""
_BOX_DOWN, _BOX_SIDE = -0.03, 3.41
"""HOG box by the 51 inner points: centre below their mean, and side, in their RMS radius (medians of 396 crops)."""
_CNN_DOWN, _CNN_SIDE = 0.065, 1.065
"""From the CNN's box to HOG's: shift down in sides, and growth (medians of 120 crops)."""
CUT_OFF = "The face is cut off by the border of the photo: what lies outside is guessed."
"""A warning of `Face.warnings`."""


@dataclass(frozen=True)
class _Hit:
    """A square box, of the HOG detector's kind, of a face turned clockwise by `angle` degrees; photo pixels."""

    x: float
    y: float
    side: float
    angle: float = 0.0
    score: float = 1.0
    by_hog: bool = True

    def chip_from_photo(self, size: float) -> np.ndarray:
        """Matrix (2, 3) to an upright chip in which this box is `size` px wide and has its margin around it."""
        angle = np.deg2rad(self.angle)
        linear = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * (size / self.side)
        return np.column_stack([linear, size * (0.5 + _MARGIN) - linear @ [self.x, self.y]])


@dataclass(frozen=True)
class _Guess:
    """A hit with its landmarks, and how much these scatter, in box sides.

    Measured: on 250 real faces 98 % scatter less than 0.021; in 175 boxes without a face 99 % scatter more than 0.0227.
    Upside-down faces taken for upright ones have scores up to 0.61 with scatter from 0.012 on.
    """

    hit: _Hit
    points: np.ndarray
    scatter: float

    @property
    def sure(self) -> bool:
        if not self.hit.by_hog:
            return self.scatter < 0.018
        return self.hit.score >= 1.0 or (self.hit.score >= 0.7 and self.scatter < 0.035)

    @property
    def likely(self) -> bool:
        if self.sure:
            return self.scatter < 0.06
        if not self.hit.by_hog:
            # Turned far, where the predictor is weak: what the CNN is sure of may scatter more; a profile is too much.
            return self.scatter < (0.035 if self.hit.score >= 0.95 else 0.03)
        return self.scatter < (0.025 if self.hit.score >= 0.3 else 0.018)

    @property
    def rank(self) -> float:
        return self.hit.score - 20 * self.scatter + 0.1 * (abs(self.hit.angle) < 45)


class DlibDetector:
    """HOG and CNN detectors with the 68-point predictor. One object may be shared by threads: they take turns."""

    name = "dlib"
    licence = "detectors: public domain (CC0); landmarks: non-commercial research (iBUG 300-W)"

    def __init__(self) -> None:
        weights.path("dlib-landmarks")
        self._hog = _dlib().get_frontal_face_detector()
        # dlib's detectors keep buffers between calls: one thread at a time.
        self._lock = Lock()

    def faces(self, pixels: np.ndarray) -> list[Face]:
        """All faces of a photo (H, W, 3) uint8 RGB; `Face.score` is HOG's (from -0.3) or the CNN's (0.7 to 1.1)."""
        pixels = np.ascontiguousarray(pixels)
        with self._lock:
            return [_face(guess, pixels.shape) for guess in self._search(pixels)]

    def face_in_box(self, pixels: np.ndarray, box: tuple[float, float, float, float]) -> Face:
        """The face inside a box (left, top, right, bottom; photo pixels) that the user gives."""
        left, top, right, bottom = box
        hit = _Hit((left + right) / 2, (top + bottom) / 2, ((right - left) * (bottom - top)) ** 0.5)
        with self._lock:
            guess = _landmarks(np.ascontiguousarray(pixels), hit)
        warnings = cut_off(guess.points, pixels.shape)
        if guess.scatter > 0.025:
            warnings += ("The landmarks are uncertain: the given box may not hold an upright face.",)
        return Face(guess.points, box, 1.0, self.name, 0, warnings)

    def _search(self, pixels: np.ndarray) -> list[_Guess]:
        """Distinct faces, best first: each stage is tried only where the ones before found nothing sure."""
        found: list[_Guess] = []
        for longest in (_LONGEST, _LONGEST_RETRY):
            found += self._likely(pixels, self._hog_hits(pixels, longest, 0))
            if any(guess.sure and guess.likely for guess in found):
                return _distinct(found)
        # A weak hit may be a turned face taken for an upright one, so turning goes before believing it.
        for angle in _RIGHT_TURNS + _SLANTED_TURNS:
            found += self._likely(pixels, self._hog_hits(pixels, _LONGEST, angle))
        if found:
            return _distinct(found)
        for angle in _RIGHT_TURNS:
            found += self._likely(pixels, self._hog_hits(pixels, _LONGEST_RETRY, angle))
        for angle in (0, *_RIGHT_TURNS):
            if not found:
                longest = _LONGEST_CNN_TURNED if angle else _LONGEST_CNN
                found += self._likely(pixels, self._cnn_hits(pixels, longest, angle))
        return _distinct(found)

    def _likely(self, pixels: np.ndarray, hits: Iterable[_Hit]) -> list[_Guess]:
        return [guess for hit in hits if (guess := _landmarks(pixels, hit)).likely]

    def _hog_hits(self, pixels: np.ndarray, longest: float, angle: float) -> list[_Hit]:
        view, photo_from_view = _view(pixels, longest, angle)
        boxes, scores, _ = self._hog.run(view, 0, _HOG_LEAST)
        return [_hit(box, photo_from_view, angle, score) for box, score in zip(boxes, scores, strict=True)]

    def _cnn_hits(self, pixels: np.ndarray, longest: float, angle: float) -> list[_Hit]:
        view, photo_from_view = _view(pixels, longest, angle)
        found = [f for f in load_model("dlib-cnn")(view, 0) if f.confidence >= _CNN_LEAST]
        return [_hit(f.rect, photo_from_view, angle, f.confidence, by_hog=False) for f in found]


def _view(pixels: np.ndarray, longest: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """The photo as a detector gets it: scaled, turned back by `angle`, padded; and the matrix (2, 3) back."""
    import cv2

    height, width = pixels.shape[:2]
    enlarge = _ENLARGE_MOST if longest > _LONGEST else max(_SHORTEST / min(height, width), 1.0)
    scale = min(enlarge, longest / max(height, width), _ENLARGE_MOST)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    # Padding lets HOG see faces that the border cuts, and keeps narrow photos wide enough for the CNN's filters.
    pad = max(0.15 * min(size), 40)
    a = np.deg2rad(angle)
    linear = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    columns, rows = (round(v + 2 * pad) for v in np.abs(linear) @ size)
    matrix = np.column_stack([linear, np.array([columns, rows]) / 2 - linear @ np.array(size) / 2])
    view = _warp(small, matrix, columns, rows)
    matrix[:, :2] *= np.array(size) / [width, height]
    return view, cv2.invertAffineTransform(matrix)


def _hit(box: Any, photo_from_view: np.ndarray, angle: float, score: float, by_hog: bool = True) -> _Hit:
    """A detector's rectangle (corner pixels inclusive) as a box in the photo, of the HOG kind."""
    side = box.right() - box.left() + 1.0
    x, y = (box.left() + box.right() + 1) / 2, (box.top() + box.bottom() + 1) / 2
    if not by_hog:
        y, side = y + _CNN_DOWN * side, side * _CNN_SIDE
    scale = abs(np.linalg.det(photo_from_view[:, :2])) ** 0.5
    x, y = photo_from_view @ [x, y, 1]
    return _Hit(float(x), float(y), float(side * scale), angle, float(score), by_hog)


def _landmarks(pixels: np.ndarray, hit: _Hit) -> _Guess:
    """Landmarks in two rounds: the first ones give a better box, upright and of the usual size, for the second."""
    first, _ = _predict(pixels, hit, _JITTER[:1])
    inner = first[17:]
    centre = inner.mean(0)
    radius = float(np.sqrt(((inner - centre) ** 2).sum(1).mean()))
    right, down = first[42:48].mean(0) - first[36:42].mean(0)
    length = max(hypot(right, down), 1e-6)
    x, y = centre + _BOX_DOWN * radius / length * np.array([-down, right])
    angle = float(np.rad2deg(np.arctan2(down, right)))
    better = _Hit(float(x), float(y), max(_BOX_SIDE * radius, 1.0), angle, hit.score, hit.by_hog)
    return _Guess(better, *_predict(pixels, better, _JITTER))


def _predict(pixels: np.ndarray, hit: _Hit, jitter: tuple[tuple[float, float, float], ...]) -> tuple[np.ndarray, float]:
    """Mean landmarks (68, 2) over moved boxes and the mirror image, and their scatter in box sides."""
    import cv2

    size = round(_CHIP * (1 + 2 * _MARGIN))
    # Large faces are drawn larger first and then averaged, as a plain warp would skip pixels.
    fine = 2 ** max(0, int(np.log2(max(hit.side / _CHIP, 1))))
    chip = _warp(pixels, hit.chip_from_photo(_CHIP * fine), size * fine, size * fine)
    if fine > 1:
        chip = cv2.resize(chip, (size, size), interpolation=cv2.INTER_AREA)
    mirrored = np.ascontiguousarray(chip[:, ::-1])
    views = [_points(chip, x, y, scale) for x, y, scale in jitter]
    views += [_points(mirrored, -x, y, scale)[MIRROR_68] * [-1, 1] + [size, 0] for x, y, scale in jitter]
    mean = np.mean(views, 0)
    scatter = np.sqrt(((np.array(views) - mean) ** 2).sum(-1).mean()) / _CHIP
    photo_from_chip = cv2.invertAffineTransform(hit.chip_from_photo(_CHIP))
    return mean @ photo_from_chip[:, :2].T + photo_from_chip[:, 2], float(scatter)


def _points(chip: np.ndarray, x: float, y: float, scale: float) -> np.ndarray:
    """Landmarks (68, 2) of a chip, for a box moved by (x, y) and scaled."""
    centre_x, centre_y = chip.shape[1] / 2 + x * _CHIP, chip.shape[0] / 2 + y * _CHIP
    half = _CHIP * scale / 2
    low, high = (round(centre_x - half), round(centre_y - half)), (round(centre_x + half), round(centre_y + half))
    # dlib's rectangles name their last pixel; its pixel (x, y) is our (x + 0.5, y + 0.5).
    shape = load_model("dlib-landmarks")(chip, _dlib().rectangle(*low, high[0] - 1, high[1] - 1))
    return np.array([(p.x, p.y) for p in shape.parts()], np.float64) + 0.5


def _warp(pixels: np.ndarray, matrix: np.ndarray, width: int, height: int) -> np.ndarray:
    """`pixels` moved by a matrix (2, 3) between half-integer pixel coordinates, into (height, width, 3)."""
    import cv2

    integer = matrix.copy()
    integer[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5
    return cv2.warpAffine(pixels, integer, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _distinct(guesses: list[_Guess]) -> list[_Guess]:
    """One guess per face, best first: of two with near centres the better stays."""
    kept: list[_Guess] = []
    for guess in sorted(guesses, key=lambda g: -g.rank):
        if not any(_same(guess.hit, other.hit) for other in kept):
            kept.append(guess)
    return kept


def _same(a: _Hit, b: _Hit) -> bool:
    return hypot(a.x - b.x, a.y - b.y) < 0.5 * max(a.side, b.side)


def _face(guess: _Guess, shape: tuple[int, ...]) -> Face:
    hit = guess.hit
    warnings = cut_off(guess.points, shape)
    if not guess.sure or guess.scatter > 0.025:
        warnings += (
            f"Detector and landmarks are unsure of this face (score {hit.score:.2f}, "
            f"scatter {100 * guess.scatter:.1f} % of its size): is it a profile, covered or drawn?",
        )
    half = hit.side / 2
    box = (hit.x - half, hit.y - half, hit.x + half, hit.y + half)
    return Face(guess.points, box, hit.score, DlibDetector.name, 0, warnings)


def cut_off(points: np.ndarray, shape: tuple[int, ...]) -> tuple[str, ...]:
    """CUT_OFF where landmarks (68, 2) lie clearly outside a photo of shape (H, W, ...)."""
    slack = 0.02 * np.ptp(points, axis=0).max()
    outside = (points < -slack) | (points > np.array([shape[1], shape[0]]) + slack)
    return (CUT_OFF,) if outside.any() else ()


@lru_cache
def load_model(name: str) -> Any:
    """A dlib model by its name in `weights`, read once: "dlib-landmarks" (0.7 s), "dlib-cnn" or "dlib-embedding"."""
    return getattr(_dlib(), _LOADERS[name])(str(weights.path(name)))


def _dlib() -> Any:
    try:
        import dlib
    except ImportError:
        raise MissingError("dlib is needed to find faces: pip install dlib-bin") from None
    return dlib


def to_dlib_shape(face: Face) -> Any:
    """A face as dlib passes it on: a box and 68 whole pixels."""
    dlib = _dlib()
    points = [dlib.point(int(x), int(y)) for x, y in np.floor(face.landmarks)]
    return dlib.full_object_detection(dlib.rectangle(*(int(v) for v in face.box)), points)
