"""Head rotations. Camera frame: x right, y down, z forward; a face at rest looks towards -z.

+yaw turns the face towards the right side of the image, +pitch looks up, +roll is clockwise as seen,
and R = Rz(roll) Ry(yaw) Rx(pitch). Angles are degrees at these doors, radians only inside them.
"""

import torch
from torch import Tensor


def rotation_from_angles(
    yaw: Tensor | float = 0.0, pitch: Tensor | float = 0.0, roll: Tensor | float = 0.0
) -> Tensor:
    """Rotation matrices (..., 3, 3) from angles in degrees that broadcast against each other.

    Differentiable; dtype float32 unless one of the angles is a tensor of another floating type.
    """
    tensors = [a for a in (yaw, pitch, roll) if isinstance(a, Tensor) and a.is_floating_point()]
    like = tensors[0] if tensors else torch.zeros((), dtype=torch.float32)
    yaw, pitch, roll = torch.broadcast_tensors(
        *(torch.deg2rad(torch.as_tensor(a, dtype=like.dtype, device=like.device)) for a in (yaw, pitch, roll))
    )
    # With y down and z forward, "to the right" is a negative turn about y, as the face looks along -z.
    sy, cy = torch.sin(-yaw), torch.cos(yaw)
    # Looking up moves -z towards -y, which is a positive right-handed turn about x seen from +x: see the test.
    sx, cx = torch.sin(-pitch), torch.cos(pitch)
    sz, cz = torch.sin(roll), torch.cos(roll)
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    rz = _matrix(cz, -sz, zero, sz, cz, zero, zero, zero, one)
    ry = _matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    rx = _matrix(one, zero, zero, zero, cx, -sx, zero, sx, cx)
    return rz @ ry @ rx


def angles_from_rotation(rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Yaw, pitch, roll in degrees, each (...), of rotations (..., 3, 3); yaw lies in [-90, 90].

    At yaw = ±90 only roll and pitch together are determined; pitch is then 0.
    """
    # From R = Rz Ry Rx: R[2] = (-sin(-yaw), cos(yaw) sin(-pitch), cos(yaw) cos(pitch)).
    sin_yaw = rotation[..., 2, 0].clamp(-1, 1)
    yaw = torch.atan2(sin_yaw, torch.hypot(rotation[..., 0, 0], rotation[..., 1, 0]))
    locked = torch.hypot(rotation[..., 0, 0], rotation[..., 1, 0]) < 1e-6
    pitch = torch.where(locked, torch.zeros_like(yaw), torch.atan2(-rotation[..., 2, 1], rotation[..., 2, 2]))
    roll = torch.where(
        locked,
        torch.atan2(-rotation[..., 0, 1], rotation[..., 1, 1]),
        torch.atan2(rotation[..., 1, 0], rotation[..., 0, 0]),
    )
    return torch.rad2deg(yaw), torch.rad2deg(pitch), torch.rad2deg(roll)


def nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotation closest to each (..., 3, 3) matrix in the Frobenius norm (never a reflection)."""
    u, _, vt = torch.linalg.svd(matrix)
    sign = torch.det(u @ vt)
    flip = torch.ones_like(matrix[..., 0])
    flip = torch.cat([flip[..., :2], sign[..., None]], -1)
    return u @ (flip[..., None] * vt)


def _matrix(*entries: Tensor) -> Tensor:
    return torch.stack(entries, -1).unflatten(-1, (3, 3))
