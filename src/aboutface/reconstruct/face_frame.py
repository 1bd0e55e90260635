"""The frame in which networks that look at face pictures see a face: always the same size, in the middle, upright."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import angles_from_rotation, orthographic_pose
from ..morphable import POSE_WEIGHTS, MeanHead
from ..render.reproject import FAR, draw_depth

SIDE = 200.0
"""Millimetres of the mean head across the crop: from the hairline to below the chin."""
PIVOT = (0.0, 20.0, -60.0)
"""The point of the mean head, millimetres in its own frame, in the middle of the crop: between nose, ears and chin, so
that a face that turns stays in its place."""


class FaceFrame(NamedTuple):
    """Where a face is in its photo, from its landmarks."""

    scale: Tensor
    """(B,) photo pixels per millimetre."""
    centre: Tensor
    """(B, 2) photo pixels of `PIVOT`."""
    yaw: Tensor
    """(B,) degrees."""
    pitch: Tensor
    """(B,) degrees."""
    roll: Tensor
    """(B,) degrees; crops are upright, so that there it is 0."""

    @classmethod
    def of(cls, landmarks: Tensor) -> "FaceFrame":
        """From iBUG landmarks (B, 68, 2) in photo pixels, by the pose of the mean head."""
        rotation, scale, shift = orthographic_pose(MeanHead.load().landmarks, landmarks.float(), POSE_WEIGHTS)
        pivot = rotation @ torch.tensor(PIVOT)
        centre = shift + scale[:, None] * pivot[:, :2]
        return cls(scale, centre, *angles_from_rotation(rotation))

    def photo_from_crop(self, size: int) -> Tensor:
        """Transforms (B, 3, 3), float64, from the pixels of the square crop of side `size` to photo pixels."""
        roll = torch.deg2rad(self.roll.double())
        step = self.scale.double() * SIDE / size
        sine, cosine = step * torch.sin(roll), step * torch.cos(roll)
        linear = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
        corner = self.centre.double() - linear @ torch.full((2,), size / 2, dtype=torch.float64)
        bottom = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand(len(roll), 1, 3)
        return torch.cat([torch.cat([linear, corner[..., None]], -1), bottom], -2)


def millimetres_per_unit(K: Tensor, size: int) -> float:
    """Of a camera K (3, 3) at distance 1 that sees the crop as `size` pixels."""
    return SIDE / size * float(K[0, 0])


def mean_face_depth(K: Tensor, size: int) -> Tensor:
    """z-depth (size, size) of the mean head at rest in the crop, seen by a camera K (3, 3) at distance 1.

    Where the head is not, that of the crop's farthest point of the head.
    """
    head = MeanHead.load()
    vertices = (head.vertices() - torch.tensor(PIVOT)) / millimetres_per_unit(K, size)
    drawn = draw_depth((vertices + torch.tensor([0.0, 0.0, 1.0]))[None], head.faces(), K, (size, size))[0]
    return drawn.clamp_max(float(drawn[drawn < FAR].max()))
