"""A lamp of some size, and the shadows that a head casts on itself under it."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..geometry import clip_from_orthographic
from ..head import Head
from ..render import visible_vertices

SHADOW_SIZE = 320
"""Pixels of the pictures, as seen from the light, by which cast shadows are found."""
LAMP_RADIUS = 14.0
"""Degrees of the lamp as seen from the face: how soft shadows are."""


def lamp_at(head: Head, direction: Tensor) -> Tensor:
    """(V,) 0 to 1: what each vertex gets of a lamp of strength 1 in that direction, the head's own shadows included."""
    mesh, pivot = head.scene.mesh_at_rest(), torch.tensor(head.scene.pivot)
    size = 400 / head.scene.scale
    clip_from_lamp = clip_from_orthographic(SHADOW_SIZE / size, (SHADOW_SIZE, SHADOW_SIZE), near=-size, far=size)
    points = torch.stack([(mesh.vertices - pivot) @ _towards(d).mT for d in _lamp_points(direction)])
    lit = visible_vertices(points, mesh.faces, clip_from_lamp.expand(len(points), -1, -1), (SHADOW_SIZE, SHADOW_SIZE))
    return lit.mean(0)


def _lamp_points(direction: Tensor) -> Tensor:
    """(16, 3) directions spread evenly over the lamp (a sunflower's seeds)."""
    index = torch.arange(16.0)
    radius = torch.sqrt((index + 0.5) / 16) * math.tan(math.radians(LAMP_RADIUS))
    turn = index * math.pi * (3 - math.sqrt(5))
    frame = _towards(direction)
    offset = radius[:, None] * (torch.cos(turn)[:, None] * frame[0] + torch.sin(turn)[:, None] * frame[1])
    return functional.normalize(direction + offset, dim=-1)


def _towards(direction: Tensor) -> Tensor:
    """Rotation (3, 3) into a camera's space that looks along the light, from the lamp: its z is -direction."""
    z = -functional.normalize(direction, dim=-1)
    aside = torch.tensor([0.0, 1.0, 0.0]) if abs(float(z[1])) < 0.9 else torch.tensor([0.0, 0.0, 1.0])
    x = functional.normalize(torch.linalg.cross(aside, z), dim=-1)
    return torch.stack([x, torch.linalg.cross(z, x), z])
