"""Head rotations. Camera frame: x right, y down, z forward; a face at rest looks towards -z.

+yaw turns the face towards the right side of the image, +pitch looks up, +roll is clockwise as seen,
and R = Rz(roll) Ry(yaw) Rx(pitch). Angles are degrees at these doors, radians only inside them.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rotation_from_angles(yaw: Tensor | float = 0.0, pitch: Tensor | float = 0.0, roll: Tensor | float = 0.0) -> Tensor:
    """Rotation matrices (..., 3, 3) from angles in degrees that broadcast against each other.

    Differentiable. Dtype and device are those of the first floating tensor among the angles, else float32 on the CPU.
    """
    tensors = [a for a in (yaw, pitch, roll) if isinstance(a, Tensor) and a.is_floating_point()]
    like = tensors[0] if tensors else torch.zeros((), dtype=torch.float32)
    yaw_, pitch_, roll_ = torch.broadcast_tensors(
        *(torch.deg2rad(torch.as_tensor(a, dtype=like.dtype, device=like.device)) for a in (yaw, pitch, roll))
    )
    # The camera frame is right-handed and the face looks along -z: a right-handed turn about y moves -z to the left,
    # and one about x moves it down. Both signs are therefore reversed.
    sy, cy = torch.sin(-yaw_), torch.cos(yaw_)
    sx, cx = torch.sin(-pitch_), torch.cos(pitch_)
    sz, cz = torch.sin(roll_), torch.cos(roll_)
    zero, one = torch.zeros_like(yaw_), torch.ones_like(yaw_)
    rz = _matrix(cz, -sz, zero, sz, cz, zero, zero, zero, one)
    ry = _matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    rx = _matrix(one, zero, zero, zero, cx, -sx, zero, sx, cx)
    return rz @ ry @ rx


def angles_from_rotation(rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Yaw, pitch, roll in degrees, each (...), of rotations (..., 3, 3); yaw lies in [-90, 90].

    `rotation_from_angles` gives the same rotation back, also near yaw = ±90. There only roll and pitch together are
    determined: pitch is then 0 and the derivative of yaw, which has none, counts as 0.
    """
    # From R = Rz Ry Rx: R[:, 0] = (cos(roll) cos(yaw), sin(roll) cos(yaw), sin(yaw)).
    cosine = rotation[..., 0, 0].square() + rotation[..., 1, 0].square()
    locked = cosine < 1e-12
    cosine = torch.where(locked, torch.zeros_like(cosine), torch.where(locked, 1.0, cosine).sqrt())
    yaw = torch.atan2(rotation[..., 2, 0], cosine)
    sine_roll = torch.where(locked, -rotation[..., 0, 1], rotation[..., 1, 0])
    cosine_roll = torch.where(locked, rotation[..., 1, 1], rotation[..., 0, 0])
    roll = torch.atan2(sine_roll, cosine_roll)
    # Row 1 of Rz(-roll) R = Ry Rx is (0, cos(pitch), sin(pitch)). Taken after the roll, it makes up for whatever the
    # roll lost to rounding; taken from row 2, which vanishes at yaw = ±90, it would not.
    sine, cosine = torch.sin(roll), torch.cos(roll)
    pitch = torch.atan2(
        cosine * rotation[..., 1, 2] - sine * rotation[..., 0, 2],
        cosine * rotation[..., 1, 1] - sine * rotation[..., 0, 1],
    )
    return torch.rad2deg(yaw), torch.rad2deg(pitch), torch.rad2deg(roll)


def nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotation closest to each (..., D, D) matrix in the Frobenius norm (never a reflection).

    Differentiable once, also where singular values are equal, as they are for every rotation. Where the nearest
    rotation is not unique, one of them is returned and the undetermined part of the derivative counts as 0.
    """
    return _NearestRotation.apply(matrix)  # pyright: ignore[reportReturnType]


class _NearestRotation(torch.autograd.Function):
    """The derivative in closed form: the one of SVD divides by differences of singular values, this one by sums."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        u, s, vt = torch.linalg.svd(matrix)
        sign = torch.where(torch.linalg.det(u @ vt) < 0, -1.0, 1.0)
        flip = torch.cat([torch.ones_like(s[..., 1:]), sign[..., None].to(s)], -1)
        rotation = u @ (flip[..., None] * vt)
        ctx.save_for_backward(rotation, flip * s, vt)
        return rotation

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # M = R V S V' with R'dR = V W V' skew: W_ij (s_i + s_j) is the skew part of V'R'dM V.
        rotation, s, vt = ctx.saved_tensors
        right = rotation @ vt.mT
        skew = right.mT @ grads[0] @ vt.mT
        sums = s[..., :, None] + s[..., None, :]
        unique = sums > torch.finfo(s.dtype).eps * s[..., :1, None]
        skew = torch.where(unique, (skew - skew.mT) / torch.where(unique, sums, 1.0), 0.0)
        return right @ skew @ vt


def _matrix(*entries: Tensor) -> Tensor:
    return torch.stack(entries, -1).unflatten(-1, (3, 3))
