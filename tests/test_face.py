"""Face: landmarks, mirror order, the crop and the way back."""

import json
import tarfile
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aboutface.face import MIRROR_68, Face
from aboutface.geometry import apply, invert


def some_face(seed: int = 0, **fields) -> Face:
    points = np.random.default_rng(seed).uniform(50, 250, (68, 2))
    return Face(points, box=(40.0, 30.0, 260.0, 270.0), **fields)


def test_mirror_order_pairs_the_points():
    assert sorted(MIRROR_68) == list(range(68))
    np.testing.assert_array_equal(MIRROR_68[MIRROR_68], np.arange(68))
    on_the_midline = np.flatnonzero(np.arange(68) == MIRROR_68)
    np.testing.assert_array_equal(on_the_midline, [8, 27, 28, 29, 30, 33, 51, 57, 62, 66])


def test_mirror_order_fits_real_faces(data):
    # The mean of many aligned faces is symmetric; any wrong pair would be off by the width of a feature.
    points = np.load(data / "aflw2000-3d-landmarks.npz")
    frontal = points["points"][np.abs(points["yaw_deg"]) < 10][..., :2]
    frontal = frontal - frontal.mean(1, keepdims=True)
    mean = (frontal / np.ptp(frontal[..., 0], 1)[:, None, None]).mean(0)
    assert np.abs(mean[MIRROR_68] * [-1, 1] - mean).max() < 0.03
    others = [p for p in range(68) if p != MIRROR_68[36]]
    assert all(np.abs(mean[p] * [-1, 1] - mean[36]).max() > 0.04 for p in others)


def test_a_mirrored_real_face_has_its_left_eye_on_the_left(data):
    with tarfile.open(data / "ytf68-train.tar") as tar:
        name = next(n for n in tar.getnames() if n.endswith(".json"))
        member = tar.extractfile(name)
        assert member is not None
        face = Face(json.load(member)["landmarks68"], box=(0, 0, 1, 1))
    for one in (face, face.mirrored(200)):
        eyes = one.landmarks[36:42].mean(0), one.landmarks[42:48].mean(0)
        assert eyes[0][0] < eyes[1][0]
        assert one.landmarks[8, 1] > one.landmarks[27, 1]


@given(st.floats(1, 5000), st.integers(0, 100))
@settings(deadline=None)
def test_mirrored_twice_is_the_same_face(width, seed):
    face = some_face(seed, score=0.7, detector="dlib", index=3, warnings=("a profile",))
    twice = face.mirrored(width).mirrored(width)
    np.testing.assert_allclose(twice.landmarks, face.landmarks, atol=1e-9)
    np.testing.assert_allclose(twice.box, face.box, atol=1e-9)
    assert (twice.score, twice.detector, twice.index, twice.warnings) == (0.7, "dlib", 3, ("a profile",))


def test_the_mirrored_box_is_where_the_mirrored_face_is():
    face = some_face().mirrored(300)
    assert face.box == (40.0, 30.0, 260.0, 270.0)
    left, top, right, bottom = Face(some_face().landmarks, (10.0, 20.0, 100.0, 110.0)).mirrored(300).box
    assert (left, top, right, bottom) == (200.0, 20.0, 290.0, 110.0)


@given(st.integers(1, 1000), st.floats(0, 2), st.integers(0, 100))
@settings(deadline=None)
def test_from_crop_to_photo_and_back(size, margin, seed):
    face = some_face(seed)
    photo_from_crop = torch.from_numpy(face.photo_from_crop(size, margin))
    landmarks = torch.from_numpy(face.landmarks)
    in_crop = apply(invert(photo_from_crop), landmarks)
    torch.testing.assert_close(apply(photo_from_crop, in_crop), landmarks)
    assert in_crop.min() > -1e-6
    assert in_crop.max() < size + 1e-6


@pytest.mark.parametrize("margin", [0.0, 0.25, 0.5])
def test_the_crop_is_square_centred_and_as_wide_as_asked(margin):
    face = some_face()
    low, high = face.landmarks.min(0), face.landmarks.max(0)
    corners = torch.tensor([[0.0, 0.0], [64.0, 64.0]], dtype=torch.float64)
    first, last = apply(torch.from_numpy(face.photo_from_crop(64, margin)), corners).numpy()
    np.testing.assert_allclose((first + last) / 2, (low + high) / 2)
    np.testing.assert_allclose(last - first, (high - low).max() * (1 + 2 * margin))


def test_size_is_that_of_the_square_of_equal_area():
    points = np.zeros((68, 2))
    points[1:] = [4, 9]
    assert Face(points, (0, 0, 4, 9)).size == pytest.approx(6.0)


@pytest.mark.parametrize("size", [0, -3])
def test_a_crop_without_pixels_is_refused(size):
    with pytest.raises(ValueError, match="no area"):
        some_face().photo_from_crop(size)


def test_a_crop_of_a_single_point_is_refused():
    with pytest.raises(ValueError, match="no area"):
        Face(np.ones((68, 2)), (0, 0, 1, 1)).photo_from_crop(64)


@pytest.mark.parametrize("shape", [(66, 2), (68, 3), (2, 68), (68,)])
def test_other_shapes_are_refused_by_name(shape):
    with pytest.raises(ValueError, match=r"landmarks: expected \(68, 2\)"):
        Face(np.zeros(shape), (0, 0, 1, 1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(value):
    points = np.zeros((68, 2))
    points[5, 1] = value
    with pytest.raises(ValueError, match="finite"):
        Face(points, (0, 0, 1, 1))


def test_a_face_is_a_value():
    points = np.ones((68, 2))
    face = Face(points, (0, 0, 1, 1))
    points[:] = 7
    assert (face.landmarks == 1).all()
    assert Face(points.astype(np.float32), (0, 0, 1, 1)).landmarks.dtype == np.float64
    with pytest.raises(FrozenInstanceError):
        face.score = 2.0  # pyright: ignore[reportAttributeAccessIssue]
    same = face
    assert face == same
    assert face != Face(np.ones((68, 2)), (0, 0, 1, 1))
    assert len({face, face.mirrored(10)}) == 2
