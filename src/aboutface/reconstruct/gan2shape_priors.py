"""The shape that GAN2Shape starts from: an ellipsoid about the object, and those of the paper's Table 2."""

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..errors import UsageError

Prior = Literal["ellipsoid", "asymmetric", "shift-6", "shift-4", "weak", "flat"]
Category = Literal["face", "synface", "cat", "car", "church", "object"]

RADIUS = 0.4
"""Of the sphere whose cap the ellipsoid is, units."""
NEAR, FAR = 0.91, 1.02
"""Depth of its middle, and of its rim and all around it."""
CHURCH_FAR = 1.0
INSIDE = 0.7
"""A pixel belongs to the object where the mask has more."""


class Box(NamedTuple):
    """A rectangle in pixels of the image, (0, 0) its upper left corner."""

    left: float
    top: float
    right: float
    bottom: float


def object_box(mask: Tensor, category: Category = "object") -> Box:
    """The rectangle about a mask (S, S) in [0, 1], moved as the published code does it for its categories.

    Raises UsageError for a mask that is nowhere above 0.7.
    """
    rows, columns = torch.nonzero(mask >= INSIDE, as_tuple=True)
    if len(rows) == 0:
        raise UsageError("gan2shape: the mask is empty: no object to reconstruct; give another mask, or none")
    left, top = float(columns.min()), float(rows.min())
    right, bottom = float(columns.max()) + 1, float(rows.max()) + 1
    width, height = right - left, bottom - top
    if category == "synface":
        top -= height / 6
    elif category == "face":
        left, right, bottom = left + width / 12, right - width / 12, float(mask.shape[0])
    elif category in ("car", "church"):
        bottom += height / 6
    return Box(left, top, right, bottom)


def default_box(size: int, category: Category = "object") -> Box:
    """Where an object is of which nothing is known: an upright ellipse in the middle, which for faces, whose crops cut
    off neck and crown, goes on above and below."""
    if category in ("face", "synface"):
        return Box(size / 16, -size / 4, size * 15 / 16, size * 5 / 4)
    return Box(0.15 * size, 0.05 * size, 0.85 * size, 0.95 * size)


def prior_depth(size: int, box: Box, prior: Prior = "ellipsoid", category: Category = "object") -> Tensor:
    """Canonical depth (size, size) of a prior about `box`.

    ellipsoid: a cap of a sphere of radius 0.4, stretched to the box: 0.91 in the middle, 1.02 at the rim and outside
    (churches 1.0). The variants of Table 2, whose exact form the paper leaves open: asymmetric: its left half reaches
    as far across as it does up and down; shift-6, shift-4: moved to the right by a sixth or a quarter of the image;
    weak: half as high; flat: a plane at 1. The published code scales rows about the image's centre, which displaces a
    box that is elsewhere; here they are scaled about the box's own.

    Raises UsageError for another prior, and for a box without area.
    """
    if prior not in get_args(Prior):
        raise UsageError(f"gan2shape: prior: expected {', '.join(get_args(Prior))}, got {prior!r}")
    if not (box.right > box.left and box.bottom > box.top):
        raise UsageError(f"gan2shape: expected a box with an area, got {tuple(box)}")
    if prior == "flat":
        return torch.ones(size, size)
    far = CHURCH_FAR if category == "church" else FAR
    height = (far - NEAR) / 2 if prior == "weak" else far - NEAR
    shift = {"shift-6": size / 6, "shift-4": size / 4}.get(prior, 0.0)
    across, up = (box.right - box.left) / 2, (box.bottom - box.top) / 2
    pixels = torch.arange(size) + 0.5
    x = pixels - (box.left + box.right) / 2 - shift
    y = (pixels - (box.top + box.bottom) / 2)[:, None]
    reach = torch.where(x < 0, up, across) if prior == "asymmetric" else across
    return far - height + _cap((x / reach).square() + (y / up).square(), height)


def _cap(square: Tensor, height: float) -> Tensor:
    """Fall of the sphere from its top to a squared distance of `square`: 1 is the rim, where it is `height`."""
    rim = math.sqrt(RADIUS**2 - (RADIUS - height) ** 2)
    return RADIUS - (RADIUS**2 - square.clamp(max=1.0) * rim**2).sqrt()


__all__ = ["Box", "Category", "Prior", "default_box", "object_box", "prior_depth"]
