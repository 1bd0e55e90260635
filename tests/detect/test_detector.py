"""The door `detect`: choice of faces, messages, given landmarks and boxes. No model is needed."""

import numpy as np
import pytest

from aboutface.detect import choose, detect
from aboutface.detect.detector import Detector
from aboutface.errors import NoFaceError, UsageError
from aboutface.face import Face

PHOTO = np.zeros((200, 300, 3), np.uint8)


def square_face(x: float, side: float) -> Face:
    """68 points along two sides of a square, so that Face.size is `side`."""
    ramp = np.linspace(0, side, 68)
    return Face(np.stack([x + ramp, 20 + ramp[::-1]], -1), (x, 20, x + side, 20 + side), detector="fake")


class Fake:
    name = "fake"
    licence = "none"

    def __init__(self, *faces: Face) -> None:
        self.found = list(faces)

    def faces(self, pixels: np.ndarray) -> list[Face]:
        return self.found


TWO = Fake(square_face(10, 40), square_face(150, 90), square_face(80, 12))


def test_the_largest_face_comes_first_and_is_numbered_0():
    assert isinstance(TWO, Detector)
    (largest,) = detect(PHOTO, detector=TWO)
    assert (largest.size, largest.index) == (pytest.approx(90), 0)
    everyone = detect(PHOTO, face="all", detector=TWO)
    assert [round(f.size) for f in everyone] == [90, 40]
    assert [f.index for f in everyone] == [0, 1]


@pytest.mark.parametrize("choice", [1, "1", np.int64(1)])
def test_a_face_is_chosen_by_its_place(choice):
    (face,) = detect(PHOTO, face=choice, detector=TWO)
    assert (round(face.size), face.index) == (40, 1)


def test_a_place_that_no_face_has_is_answered_with_the_number_of_faces():
    with pytest.raises(NoFaceError, match="no face 2: 2 faces were found"):
        detect(PHOTO, face=2, detector=TWO)
    with pytest.raises(NoFaceError, match="no face 1: 1 face was found"):
        detect(PHOTO, face=1, detector=TWO, min_face=60)


def test_a_small_face_is_named_with_its_size():
    with pytest.raises(NoFaceError, match=r"too small \(18 px"):
        detect(PHOTO, detector=Fake(square_face(3, 18)))


def test_no_face_says_what_to_do():
    with pytest.raises(NoFaceError, match="--box or --landmarks") as caught:
        detect(PHOTO, detector=Fake())
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("choice", ["left", "-1", -1, 1.5, True, None, ""])
def test_a_choice_of_the_wrong_form_is_a_usage_error(choice):
    with pytest.raises(UsageError, match="largest"):
        detect(PHOTO, face=choice, detector=TWO)


def test_an_unknown_detector_is_a_usage_error():
    with pytest.raises(UsageError, match="dlib or mediapipe"):
        choose("retina")


@pytest.mark.parametrize("pixels", [PHOTO[..., 0], PHOTO.astype(np.float32), PHOTO[..., :2]])
def test_pixels_of_another_form_are_refused(pixels):
    with pytest.raises(ValueError, match="uint8 RGB"):
        detect(pixels, detector=TWO)


def test_given_landmarks_replace_detection():
    points = square_face(30, 50).landmarks
    (face,) = detect(PHOTO, landmarks=points)
    np.testing.assert_array_equal(face.landmarks, points)
    assert face.detector == "file"
    np.testing.assert_allclose(face.box, (30, 20, 80, 70))
    assert detect(PHOTO, landmarks=points, box=[1, 2, 90, 95])[0].box == (1, 2, 90, 95)


def test_given_landmarks_outside_the_photo_are_refused():
    with pytest.raises(UsageError, match="outside the photo of 300 x 200"):
        detect(PHOTO, landmarks=square_face(400, 50).landmarks)
