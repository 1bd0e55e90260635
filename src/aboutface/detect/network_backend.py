"""Faces by dlib's detectors, with landmarks by the project's own network.

The network is the small one of `reconstruct.deep3d_landmarks`: 68 points of a crop of the face, those that annotators
set, the jaw along the visible outline. dlib's predictor only says where to cut that crop and whether it is a face.
"""

from dataclasses import replace

import numpy as np
import torch

from .. import weights
from ..face import Face
from ..nn.mobile import fused
from ..reconstruct.deep3d_finder import Found, find_landmarks, in_box
from ..reconstruct.deep3d_landmarks import FaceRegressor
from .dlib_backend import CUT_OFF, DlibDetector, cut_off

SURE = 0.03
"""In face sizes: nearer than this the answers of picture and mirror image make a second start needless."""
UNSURE = 0.06
"""In face sizes: beyond it the network does not know this face, and dlib's points stay."""
ASTRAY = 0.5
"""In box sides: so far from the middle of the box the middle of another face may lie."""


class NetworkDetector:
    """dlib's faces with the network's landmarks. One object may be shared by threads."""

    name = "network"
    licence = "boxes: see dlib; landmarks: Apache-2.0, trained on research-only photos"

    def __init__(self, net: FaceRegressor | None = None) -> None:
        """net: the shipped one if missing. Raises MissingError where its file or dlib is absent."""
        self._dlib = DlibDetector()
        net = net or FaceRegressor.from_file(weights.path("deep3d"))
        self._net = fused(net).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def faces(self, pixels: np.ndarray) -> list[Face]:
        """All faces of a photo (H, W, 3) uint8 RGB; `Face.score` is dlib's."""
        return [self._placed(pixels, face) for face in self._dlib.faces(pixels)]

    def face_in_box(self, pixels: np.ndarray, box: tuple[float, float, float, float]) -> Face:
        """The face inside a box (left, top, right, bottom; photo pixels) that the user gives."""
        return self._placed(pixels, self._dlib.face_in_box(pixels, box))

    def _placed(self, pixels: np.ndarray, face: Face) -> Face:
        """The same face with the network's landmarks, where it is sure of them.

        It looks where dlib's points are and, unless that is plain enough, where an upright face would fill the box:
        dlib's predictor loses faces that are turned far.
        """
        left, top, right, bottom = face.box
        found = find_landmarks(self._net, pixels, torch.from_numpy(face.landmarks))
        if not found.apart <= SURE * _size(found):
            other = find_landmarks(self._net, pixels, in_box(face.box))
            found = min(found, other, key=lambda one: one.apart / _size(one))
        away = found.points.mean(0) - torch.tensor([(left + right) / 2, (top + bottom) / 2])
        if not (
            found.apart <= UNSURE * _size(found) and float(away.norm()) <= ASTRAY * max(right - left, bottom - top)
        ):
            return replace(face, detector=self.name)
        points = found.points.numpy()
        others = tuple(warning for warning in face.warnings if warning != CUT_OFF)
        warnings = (*others, *cut_off(points, pixels.shape))
        return replace(face, landmarks=points, detector=self.name, warnings=warnings)


def _size(found: Found) -> float:
    """As `Face.size`, above 0."""
    return max(float((found.points.amax(0) - found.points.amin(0)).prod().sqrt()), 1e-6)
