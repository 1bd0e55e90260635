"""Errors of head rotations and of light."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import nearest_rotation, rotation_from_angles


class ViewError(NamedTuple):
    """Degrees, each (...)."""

    rotation: Tensor
    """The angle of the one turn that leads from the predicted to the true pose, 0 to 180."""
    yaw: Tensor
    """Absolute differences of the angles by themselves, 0 to 180. Far from the front they overlap: a sum of them says
    nothing."""
    pitch: Tensor
    roll: Tensor


class LightError(NamedTuple):
    """Each (...)."""

    direction: Tensor
    """Degrees between the directions, 0 to 180; NaN where one has no length."""
    ambient: Tensor
    """Absolute differences. Half the light on twice the albedo is the same image: they hold a method's choice, too."""
    diffuse: Tensor
    share: Tensor
    """Absolute difference of ambient / (ambient + diffuse), which that choice does not touch."""


def view_error(angles: Tensor, true_angles: Tensor) -> ViewError:
    """Errors of yaw, pitch, roll (..., 3) in degrees, as `geometry.rotation_from_angles` takes them."""
    difference = (angles - true_angles + 180).remainder(360) - 180
    first, second = (rotation_from_angles(*x.unbind(-1)) for x in (angles, true_angles))
    return ViewError(_geodesic(first, second), *difference.abs().unbind(-1))


def view_gauge(rotations: Tensor, true_rotations: Tensor) -> Tensor:
    """The rotation Q (3, 3) that brings predictions R (N, 3, 3) nearest to the truth as R Q (least squares).

    A method that learns without labels chooses for itself what it calls a face at rest. Q is that choice, and
    `view_error` of R Q is what remains.
    """
    return nearest_rotation((rotations.mT @ true_rotations).mean(0))


def light_error(light: Tensor, true_light: Tensor) -> LightError:
    """Errors of light (..., 5): ambient, diffuse, and the direction from the surface towards the light, of any length.

    Both directions must be of one frame: turn that of a canonical face into the camera's first.
    """
    directions = [x[..., 2:] / x[..., 2:].norm(dim=-1, keepdim=True) for x in (light, true_light)]
    chord = (directions[0] - directions[1]).norm(dim=-1)
    ambient, diffuse = (light[..., :2] - true_light[..., :2]).abs().unbind(-1)
    shares = [x[..., 0] / (x[..., 0] + x[..., 1]) for x in (light, true_light)]
    # By the chord: the arc cosine of a float32 product is off by 0.03 degrees where directions agree.
    return LightError(_arc(chord / 2), ambient, diffuse, (shares[0] - shares[1]).abs())


def _geodesic(first: Tensor, second: Tensor) -> Tensor:
    """Degrees (...) between rotations (..., 3, 3): their distance in the Frobenius norm is sqrt(8) sin(angle / 2)."""
    return _arc((first - second).square().sum((-2, -1)).sqrt() / 8**0.5)


def _arc(half_sine: Tensor) -> Tensor:
    return 2 * torch.rad2deg(torch.asin(half_sine.clamp(max=1)))
