"""Face: one face in one photo, its crop, and the way back to the photo."""

from dataclasses import dataclass, replace

import numpy as np

from .geometry import MIRROR_68

__all__ = ["MIRROR_68", "Face"]


@dataclass(frozen=True, eq=False)
class Face:
    """One face found in a photo. Everything is in photo pixels unless the name says otherwise.

    Raises ValueError unless the landmarks are 68 finite points. Two faces are equal only if they are the same object.
    """

    landmarks: np.ndarray
    """iBUG 68 points (68, 2) float64, x right, y down; pixel centres lie on half-integers."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom of the detector's box."""
    score: float = 1.0
    """The detector's confidence; larger is surer, its range is the detector's own."""
    detector: str = "file"
    """Name of the backend that found it."""
    index: int = 0
    """Place among the faces of the photo, ordered by size, largest first."""
    warnings: tuple[str, ...] = ()
    """What the user should know about this detection, one sentence each."""

    def __post_init__(self) -> None:
        # A copy: the caller's array may change, a Face may not.
        landmarks = np.array(self.landmarks, dtype=np.float64)
        if landmarks.shape != (68, 2):
            raise ValueError(f"landmarks: expected (68, 2) pixels as (x, y), got {landmarks.shape}")
        if not np.isfinite(landmarks).all():
            raise ValueError(f"landmarks: expected finite numbers, got {landmarks[~np.isfinite(landmarks)][0]}")
        object.__setattr__(self, "landmarks", landmarks)

    @property
    def size(self) -> float:
        """Side of the square that has the area of the landmarks' bounding box, in pixels."""
        width, height = np.ptp(self.landmarks, axis=0)
        return float(np.sqrt(width * height))

    def photo_from_crop(self, size: int, margin: float = 0.5) -> np.ndarray:
        """Transform (3, 3) from the pixels of an upright square crop of side `size` to photo pixels.

        The crop is centred on the landmarks' box and wider than its longer side by `margin` of it on each side; it may
        reach beyond the photo. Raises ValueError where that leaves no area.
        """
        low, high = self.landmarks.min(0), self.landmarks.max(0)
        side = float((high - low).max()) * (1 + 2 * margin)
        if side <= 0 or size <= 0:
            raise ValueError(f"photo_from_crop: no area, with landmarks {side:g} pixels wide and a crop of {size}")
        scale = side / size
        left, top = (low + high) / 2 - side / 2
        return np.array([[scale, 0, left], [0, scale, top], [0, 0, 1.0]])

    def mirrored(self, width: float) -> "Face":
        """The same face in the mirrored photo of `width` pixels."""
        left, top, right, bottom = self.box
        return replace(
            self,
            landmarks=self.landmarks[MIRROR_68] * [-1, 1] + [width, 0],
            box=(width - right, top, width - left, bottom),
        )
