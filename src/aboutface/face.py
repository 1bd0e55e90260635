"""Face: one face in one photo, its crop, and the way back to the photo."""

from dataclasses import dataclass, field

import numpy as np

# Mirror image of each iBUG 68 point (0-based): landmark i of a mirrored face is landmark MIRROR_68[i] of the face.
MIRROR_68 = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46]
    + [39, 38, 37, 36, 41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)


@dataclass(frozen=True)
class Face:
    """One face found in a photo. Everything is in photo pixels unless the name says otherwise."""

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
    warnings: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        landmarks = np.asarray(self.landmarks, dtype=np.float64)
        if landmarks.shape != (68, 2) or not np.isfinite(landmarks).all():
            raise ValueError(f"landmarks: expected (68, 2) finite pixels as (x, y), got {landmarks.shape}")
        object.__setattr__(self, "landmarks", landmarks)

    @property
    def size(self) -> float:
        """Side of the square that has the area of the landmarks' bounding box, in pixels."""
        width, height = np.ptp(self.landmarks, axis=0)
        return float(np.sqrt(width * height))

    def photo_from_crop(self, size: int, margin: float = 0.5) -> np.ndarray:
        """Transform (3, 3) from the pixels of an upright square crop of side `size` to photo pixels.

        The crop is centred on the landmarks' box and wider than its longer side by `margin` on each side.
        """
        low, high = self.landmarks.min(0), self.landmarks.max(0)
        side = float((high - low).max()) * (1 + 2 * margin)
        scale = side / size
        left, top = (low + high) / 2 - side / 2
        return np.array([[scale, 0, left], [0, scale, top], [0, 0, 1.0]])

    def mirrored(self, width: float) -> "Face":
        """The same face in the mirrored photo of `width` pixels."""
        points = self.landmarks[MIRROR_68] * [-1, 1] + [width, 0]
        left, top, right, bottom = self.box
        return Face(points, (width - right, top, width - left, bottom), self.score, self.detector, self.index)
