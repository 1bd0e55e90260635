"""The texture of a closed head: the photo where it shows the head, its mirror side, and what is filled in."""

import torch
from torch import Tensor
from torch.nn import functional

from ..filters import blur, fill, sample, smoothstep
from ..geometry import project
from ..scene import Camera
from .hidden import Hidden
from .template import HeadTemplate

GAIN_SIZE = 256
"""Largest side, in pixels, at which the light of both halves of a face is compared."""


def bake(
    picture: Tensor,
    part: tuple[int, int, int, int],
    vertices: Tensor,
    template: HeadTemplate,
    camera: Camera,
    seen: Tensor,
    size: int,
    hidden: Hidden | None = None,
) -> Tensor:
    """Atlas (3, size, size): the photo where it shows the head, else its mirror side, else filled in.

    picture: (3, h, w), the `part` (left, top, right, bottom) of the photo; hidden: fills in, if not what lies around.
    """
    drawn, inside = template.pictured(torch.cat([vertices, seen[:, None]], -1), size)
    places = torch.where(inside > 0, drawn[:3], vertices[0, :, None, None])
    pixels = project(places.flatten(1).T, camera.K)
    own = sample(picture, pixels, part).view(3, size, size)
    weight = drawn[3] * inside
    mirrored, mirrored_weight = own.flip(-1), weight.flip(-1)
    mirrored = (mirrored * _gain(own, mirrored, weight * mirrored_weight)).clamp(0, 1)
    # A face is not its own mirror image: its own side serves unless the other is seen much better.
    known = torch.lerp(own, mirrored, smoothstep(mirrored_weight - weight, 0.1, 0.5))
    total = torch.maximum(weight, mirrored_weight)
    if hidden is None:
        return fill(known, total)
    made_up = hidden.colours(known, total)
    made_up = functional.interpolate(made_up[None], (size, size), mode="bilinear", align_corners=False)[0]
    return torch.lerp(made_up, known, total)


def _gain(own: Tensor, mirrored: Tensor, both: Tensor) -> Tensor:
    """(3, h, w) factors that give the mirror side the colour of this side, which is lit differently.

    Measured where both are well seen (`both`, (h, w), near 1), and carried on smoothly to where only one is.
    """
    # Nothing finer than the blur is left in the factors: a small copy has it all.
    size = (min(both.shape[0], GAIN_SIZE), min(both.shape[1], GAIN_SIZE))
    weighted = (own * both, mirrored * both, both[None])
    sums = torch.cat([functional.adaptive_avg_pool2d(image[None], size)[0] for image in weighted])
    sums = blur(sums, size[1] / 40)
    ratio = (sums[:3] + 1e-3) / (sums[3:6] + 1e-3)
    logarithm = fill(torch.log(ratio.clamp(0.25, 4)), smoothstep(sums[6], 0.2, 0.6))
    return torch.exp(functional.interpolate(logarithm[None], both.shape, mode="bilinear", align_corners=False)[0])
