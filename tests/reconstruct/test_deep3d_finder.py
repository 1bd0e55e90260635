"""Landmarks by the small network go with the photo: moved, mirrored, turned upside down."""

import numpy as np
import pytest
import torch
from PIL import Image

from aboutface.face import MIRROR_68
from aboutface.morphable import MeanHead
from aboutface.reconstruct.deep3d_finder import find_landmarks, in_box
from aboutface.reconstruct.deep3d_landmarks import FaceRegressor

BOX = (40.0, 40.0, 110.0, 120.0)


@pytest.fixture(scope="module")
def net():
    """One that sees something in everything."""
    torch.manual_seed(0)
    made = FaceRegressor.tiny().eval()
    made.points[0] = (MeanHead.load().landmarks - MeanHead.load().landmarks.mean(0)) / 1000
    torch.nn.init.normal_(made.offsets.weight, std=0.01)
    return made


@pytest.fixture(scope="module")
def picture():
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 255, (10, 10, 3), np.uint8))
    return np.asarray(coarse.resize((160, 160), Image.Resampling.BICUBIC))


def test_the_mean_face_fills_the_box():
    points = in_box((10.0, 20.0, 110.0, 140.0))
    torch.testing.assert_close(points.amin(0), torch.tensor([10.0, 20.0]))
    torch.testing.assert_close(points.amax(0), torch.tensor([110.0, 140.0]))
    assert points[36, 0] < points[45, 0]
    assert points[8, 1] == points[:, 1].max()


def test_a_moved_photo_has_moved_landmarks(net, picture):
    wide = np.pad(picture, ((7, 0), (12, 0), (0, 0)), mode="edge")
    first = find_landmarks(net, picture, in_box(BOX)).points
    second = find_landmarks(net, wide, in_box(BOX) + torch.tensor([12.0, 7.0])).points
    torch.testing.assert_close(second - torch.tensor([12.0, 7.0]).double(), first, atol=0.5, rtol=0)
    once = find_landmarks(net, picture, in_box(BOX), passes=1).points
    assert not torch.allclose(once, first, atol=0.1)


def test_the_mirror_image_has_mirrored_landmarks_as_sure(net, picture):
    start = in_box(BOX)
    mirrored = (torch.tensor([160.0, 0.0]) + start * torch.tensor([-1.0, 1.0]))[MIRROR_68]
    here = find_landmarks(net, picture, start, passes=1)
    there = find_landmarks(net, np.ascontiguousarray(picture[:, ::-1]), mirrored, passes=1)
    back = (torch.tensor([160.0, 0.0]).double() + there.points * torch.tensor([-1.0, 1.0]).double())[MIRROR_68]
    torch.testing.assert_close(back, here.points, atol=0.05, rtol=0)
    assert here.apart > 0.3
    assert there.apart == pytest.approx(here.apart, abs=0.05)


def test_a_photo_upside_down_has_landmarks_upside_down(net, picture):
    start = in_box(BOX)
    here = find_landmarks(net, picture, start)
    there = find_landmarks(net, np.ascontiguousarray(picture[::-1, ::-1]), 160.0 - start)
    torch.testing.assert_close(160.0 - there.points, here.points, atol=0.05, rtol=0)
    assert there.apart == pytest.approx(here.apart, abs=0.02)
