"""MediaPipe Face Landmarker (>= 1.2): the detector that is most robust to pose, where one download is possible.

Weights: `face_landmarker.task`, Apache-2.0. Method: Kartynnik et al., Real-time Facial Surface Geometry from Monocular
Video on Mobile GPUs, 2019. Its jaw line is the outline of a 3D mesh and not iBUG's visible contour, so what uses the
jaw says which detector it was calibrated with.
"""

import importlib
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from .. import weights
from ..errors import MissingError
from ..face import Face

IBUG_FROM_MESH = np.array(
    # jaw, from the image's left ear over the chin
    [
        *(127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356),
        *(70, 63, 105, 66, 107),
        *(336, 296, 334, 293, 300),
        *(168, 197, 5, 4),
        *(98, 97, 2, 326, 327),
        *(33, 160, 158, 133, 153, 144),
        *(362, 385, 387, 263, 373, 380),
        *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),
        *(78, 82, 13, 312, 308, 317, 14, 87),
    ]
)
"""Mesh vertex (of 478) that lies at each iBUG 68 point: jaw, brows, nose, eyes, outer and inner lips."""

_MOST_FACES = 32
_WEIGHTS = "mediapipe-face-landmarker"


class MediapipeDetector:
    """Faces by MediaPipe. One object may be shared by threads: they take turns."""

    name = "mediapipe"
    licence = "Apache-2.0"

    def __init__(self, model: str | Path | None = None) -> None:
        """Args: model: the .task file; None takes it from the cache.

        Raises:
            MissingError: the package or the file is absent.
        """
        file = Path(model) if model is not None else _cached()
        mediapipe = _package()
        if file is None or mediapipe is None or not file.is_file():
            raise MissingError(
                "The detector mediapipe needs its package and its model file; run: pip install 'aboutface[mediapipe]' "
                f"and then: aboutface models download {_WEIGHTS}"
            )
        vision = mediapipe.tasks.vision
        options = vision.FaceLandmarkerOptions(
            base_options=mediapipe.tasks.BaseOptions(model_asset_path=str(file)), num_faces=_MOST_FACES
        )
        self._landmarker = vision.FaceLandmarker.create_from_options(options)
        self._image = lambda pixels: mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
        self._lock = Lock()

    def faces(self, pixels: np.ndarray) -> list[Face]:
        """All faces of a photo (H, W, 3) uint8 RGB. MediaPipe tells no score: `Face.score` is 1."""
        height, width = pixels.shape[:2]
        with self._lock:
            found = self._landmarker.detect(self._image(np.ascontiguousarray(pixels)))
        meshes = [np.array([(p.x, p.y) for p in mesh], np.float64) for mesh in found.face_landmarks]
        return [_face(mesh * [width, height]) for mesh in meshes]


def _face(mesh: np.ndarray) -> Face:
    """Face of a mesh (478, 2) in photo pixels. MediaPipe's 0 to 1 spans the image, as our 0 to W does."""
    low, high = mesh.min(0), mesh.max(0)
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return Face(mesh[IBUG_FROM_MESH], box, 1.0, MediapipeDetector.name)


def _cached() -> Path | None:
    try:
        return weights.path(_WEIGHTS)
    except MissingError:
        return None


def _package() -> Any:
    try:
        return importlib.import_module("mediapipe")
    except ImportError:
        return None
