"""The network's landmarks in dlib's boxes, on real photos of people that it was not trained on."""

import numpy as np
import pytest
import torch

from aboutface.data import open_examples, split_by_identity
from aboutface.detect import choose, detect
from aboutface.detect.dlib_backend import CUT_OFF
from aboutface.detect.network_backend import NetworkDetector
from aboutface.morphable import MeanHead
from aboutface.reconstruct.deep3d_finder import Found
from aboutface.reconstruct.deep3d_landmarks import FaceRegressor


def off(points: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance of landmarks in percent of the face's size."""
    return float(100 * np.linalg.norm(points - truth, axis=1).mean() / np.sqrt(np.prod(np.ptp(truth, axis=0))))


@pytest.fixture(scope="module")
def crops(data) -> list[tuple[np.ndarray, np.ndarray]]:
    """30 video crops (H, W, 3) of people whom training keeps aside, with their 68 annotated points."""
    examples = open_examples(data / "ytf68-train.tar")
    aside = split_by_identity(examples.identities, {"train": 0.8, "test": 0.2})["test"]
    chosen = [examples[int(i)] for i in aside[:: len(aside) // 30][:30]]
    assert all(example.landmarks is not None for example in chosen)
    return [(example.pixels, np.asarray(example.landmarks)) for example in chosen]


def test_it_is_the_default_and_nearer_to_the_annotation_than_dlib(crops):
    errors = {"auto": [], "dlib": []}
    for pixels, truth in crops:
        box = (*truth.min(0).tolist(), *truth.max(0).tolist())
        for name, found in errors.items():
            detector = choose("network" if name == "auto" else name)
            assert isinstance(detector, NetworkDetector) or name == "dlib"
            found.append(off(detector.face_in_box(pixels, box).landmarks, truth))  # pyright: ignore
    assert choose("auto").name in ("network", "mediapipe")
    assert np.mean(errors["auto"]) < np.mean(errors["dlib"])
    assert np.median(errors["auto"]) < 4


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_photo_has_turned_landmarks(crops, quarters):
    pixels, _ = crops[0]
    (upright,) = detect(pixels, detector="network")
    (turned,) = detect(np.ascontiguousarray(np.rot90(pixels, quarters)), detector="network")
    height, width = pixels.shape[:2]
    expected = upright.landmarks
    for _ in range(quarters):
        expected = np.stack([expected[:, 1], width - expected[:, 0]], -1)
        height, width = width, height
    assert off(turned.landmarks, expected) < 1.5
    assert turned.detector == "network"


def test_a_network_that_is_unsure_leaves_dlibs_points(crops):
    torch.manual_seed(0)
    confused = FaceRegressor.tiny().eval()
    confused.points[0] = (MeanHead.load().landmarks - MeanHead.load().landmarks.mean(0)) / 1000
    torch.nn.init.normal_(confused.offsets.weight, std=0.1)
    pixels, _ = crops[0]
    (kept,) = NetworkDetector(confused).faces(pixels)
    (dlib,) = detect(pixels, detector="dlib")
    assert np.array_equal(kept.landmarks, dlib.landmarks)
    assert kept.box == dlib.box


def test_the_border_is_told_of_by_the_networks_points(crops, monkeypatch):
    pixels, truth = crops[0]
    box = (*truth.min(0).tolist(), *truth.max(0).tolist())
    detector = choose("network")
    assert isinstance(detector, NetworkDetector)
    assert CUT_OFF not in detector.face_in_box(pixels, box).warnings
    # What is left of the photo begins within the face; then dlib's points are cut off and the network's are not.
    left = round(box[0] + 0.15 * (box[2] - box[0]))
    narrow, moved = np.ascontiguousarray(pixels[:, left:]), (box[0] - left, box[1], box[2] - left, box[3])
    outside = detector.face_in_box(narrow, moved)
    assert (CUT_OFF in outside.warnings) == bool(outside.landmarks[:, 0].min() < -0.02 * np.ptp(truth, 0).max())
    inside = Found(torch.from_numpy(truth - [left, 0]).clamp_min(1), 0.0)
    monkeypatch.setattr("aboutface.detect.network_backend.find_landmarks", lambda *_: inside)
    assert CUT_OFF not in detector.face_in_box(narrow, moved).warnings
    assert CUT_OFF in choose("dlib").face_in_box(narrow, moved).warnings  # pyright: ignore


def test_a_box_by_hand_and_nothing_found(crops):
    pixels, truth = crops[1]
    box = [*truth.min(0).tolist(), *truth.max(0).tolist()]
    (face,) = detect(pixels, box=box)
    assert face.detector == "network"
    assert off(face.landmarks, truth) < 6
    assert choose("network").faces(np.full((200, 200, 3), 127, np.uint8)) == []
