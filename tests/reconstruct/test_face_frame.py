"""The frame of face crops: where the mean head is seen, whatever its pose and place in the photo."""

import pytest
import torch

from aboutface.geometry import rotation_from_angles
from aboutface.morphable import MeanHead
from aboutface.reconstruct.face_frame import PIVOT, SIDE, FaceFrame, mean_face_depth, millimetres_per_unit
from aboutface.reconstruct.unsup3d import camera


def seen(yaw, pitch, roll, scale=1.7, shift=(310.0, 220.0)):
    rotation = rotation_from_angles(torch.tensor(yaw), pitch, roll)
    return (scale * (MeanHead.load().landmarks @ rotation.mT)[:, :2] + torch.tensor(shift))[None]


@pytest.mark.parametrize("pose", [(0.0, 0.0, 0.0), (30.0, 5.0, 20.0), (-25.0, -10.0, -75.0), (10.0, 0.0, 160.0)])
def test_crops_are_upright_centred_and_of_one_size(pose):
    points = seen(*pose)
    frame = FaceFrame.of(points)
    assert [float(a) for a in (frame.yaw, frame.pitch)] == pytest.approx(pose[:2], abs=0.1)
    assert float(frame.roll) == pytest.approx(pose[2], abs=0.1)
    size = 128
    photo_from_crop = frame.photo_from_crop(size)[0]
    in_crop = torch.linalg.inv(photo_from_crop) @ torch.cat([points[0].double().T, torch.ones(1, 68).double()])
    # The same head with no roll, its pivot in the middle, SIDE millimetres across.
    rest = (MeanHead.load().landmarks - torch.tensor(PIVOT)) @ rotation_from_angles(torch.tensor(pose[0]), pose[1]).mT
    wanted = rest[:, :2] * size / SIDE + size / 2
    torch.testing.assert_close(in_crop[:2].T.float(), wanted, atol=0.2, rtol=0)


def test_a_mirrored_face_has_a_mirrored_frame():
    from aboutface.geometry import MIRROR_68

    points = seen(20.0, 4.0, 12.0)
    points = points + torch.randn(points.shape, generator=torch.Generator().manual_seed(0))
    flipped = points[:, MIRROR_68] * torch.tensor([-1.0, 1.0]) + torch.tensor([640.0, 0.0])
    one, other = FaceFrame.of(points), FaceFrame.of(flipped)
    assert float(one.yaw) == pytest.approx(-float(other.yaw), abs=0.01)
    assert float(one.roll) == pytest.approx(-float(other.roll), abs=0.01)
    assert float(one.centre[0, 0]) == pytest.approx(640 - float(other.centre[0, 0]), abs=0.01)


@pytest.mark.parametrize("size", [64, 128])
def test_the_mean_heads_depth_has_its_millimetres(size):
    K = camera(size)
    depth = mean_face_depth(K, size)
    units = millimetres_per_unit(K, size)
    nose = MeanHead.load().landmarks[30]
    row, column = (int((nose[i] - PIVOT[i]) * size / SIDE + size / 2) for i in (1, 0))
    assert float(depth[row, column] - 1) * units == pytest.approx(float(nose[2]) - PIVOT[2], abs=3.0)
    assert float(depth.max()) < 1.1
    assert float((depth - depth.flip(-1)).abs().median()) < 1e-4
