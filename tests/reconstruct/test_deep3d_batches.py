"""Many faces at once: the same answers as one by one, in order, and no more pictures than needed."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from aboutface.data.crop import cut
from aboutface.errors import UsageError
from aboutface.images import to_tensor
from aboutface.morphable import MeanHead
from aboutface.reconstruct.deep3d_batches import FaceIn, look
from aboutface.reconstruct.deep3d_landmarks import FaceRegressor


def some_faces(count: int) -> list[FaceIn]:
    points = MeanHead.load().landmarks[:, :2]
    points = (points - points.amin(0)) * 0.4 + 30
    draw = np.random.default_rng(0)
    return [FaceIn(draw.integers(0, 256, (120 + 7 * i, 140, 3), dtype=np.uint8), points + 3 * i) for i in range(count)]


def network() -> FaceRegressor:
    torch.manual_seed(0)
    net = FaceRegressor.tiny().eval()
    net.points[0] = (MeanHead.load().landmarks - MeanHead.load().landmarks.mean(0)) / 1000
    for head in net.rnet.final_layers.parameters():
        torch.nn.init.normal_(head, std=0.02)
    return net


def test_a_batch_says_what_each_alone_says():
    net, faces = network(), some_faces(7)
    together = list(look(net, faces, 3))
    assert [len(part.landmarks) for part in together] == [3, 3, 1]
    landmarks = torch.cat([part.landmarks for part in together])
    for face, points in zip(faces, landmarks, strict=True):
        (alone,) = look(net, [face], 1)
        assert_close(alone.landmarks[0], points, rtol=1e-5, atol=1e-3)
        matrix = alone.crop_from_photo[0]
        crop = to_tensor(cut(face.pixels, torch.linalg.inv(matrix).numpy(), 32))
        with torch.inference_mode():
            found = net(crop).landmarks[0].double()
        assert_close(found, points @ matrix[:2, :2].T + matrix[:2, 2], rtol=1e-5, atol=1e-3)


def test_faces_are_drawn_a_batch_at_a_time():
    drawn = []

    def stream():
        for number, face in enumerate(some_faces(6)):
            drawn.append(number)
            yield face

    answers = look(network(), stream(), 2)
    next(answers)
    assert drawn == [0, 1]
    next(answers)
    assert drawn == [0, 1, 2, 3]


def test_no_face_is_no_answer_and_no_batch_an_error():
    assert list(look(network(), [], 4)) == []
    with pytest.raises(UsageError, match="batch"):
        list(look(network(), some_faces(1), 0))
