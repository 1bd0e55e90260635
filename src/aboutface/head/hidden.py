"""What no photo shows of a whole head: the sides behind the cheeks, ears, nape, and the back of the skull."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..filters import blur, sample, smoothstep
from ..geometry import project
from ..scene import Camera
from .hair import HairOutline, alike, bareness
from .template import WholeTemplate

SIZE = 512
"""Side of the atlas in which it is made up: 0.7 mm of a face per texel."""


@dataclass(frozen=True, eq=False)
class Hidden:
    """Makes up the colours of one head where its photo has none."""

    template: WholeTemplate
    vertices: Tensor
    """(V, 3), camera space."""
    camera: Camera
    window: Tensor
    """(3, h, w), the `part` of the photo."""
    part: tuple[int, int, int, int]
    """Left, top, right, bottom in photo pixels."""
    skin: Tensor
    """(3,) RGB of bare skin."""
    outline: HairOutline

    def colours(self, known: Tensor, weight: Tensor) -> Tensor:
        """(3, SIZE, SIZE) in the atlas.

        Args:
            known: (3, h, w) atlas of what the photo shows of the head or its mirror side; weight: (h, w) how well.
        """
        hair = self.hair()
        grows = self.template.pictured(hair[:, None])[0][0]
        fine = (grows.shape[0], grows.shape[1])
        share = functional.adaptive_avg_pool2d(weight[None], fine)[0]
        colours = functional.adaptive_avg_pool2d(known * weight, fine) / share.clamp_min(1e-6)
        strands, combed = self._strands(hair)
        # Collars, and what stands behind an ear, are not carried on over bare skin.
        bare = (share > 0.5) & (grows < 0.5) & (bareness(colours, self.skin) > 0.5)
        skin = carried_on(colours, bare if bool(bare.any()) else share > 0.5)
        small = functional.adaptive_avg_pool2d(torch.cat([strands * combed, combed[None]])[None], fine)[0]
        rough = torch.lerp(small[:3] / small[3].clamp_min(1e-6), colours, share)
        locks = (torch.maximum(share, small[3]) > 0.5) & (grows > 0.5) & (alike(rough, self.outline.colour) > 0.5)
        locks = carried_on(rough, locks) if bool(locks.any()) else self.outline.colour[:, None, None].expand_as(rough)
        shape = torch.stack([hair, self._shade()], -1)
        zone, shade = self.template.pictured(shape, SIZE)[0]
        skin, locks = functional.interpolate(torch.stack([skin, locks]), (SIZE, SIZE), mode="bilinear").unbind(0)
        return torch.lerp(skin * shade, torch.lerp(locks, strands, combed), zone).clamp(0, 1)

    def hair(self) -> Tensor:
        """(V,) 1 where hair grows or hangs, 0 on face, ears and neck."""
        template = self.template
        left, right = self.outline.covered
        side = torch.where(template.mean[:, 0] < 0, left, right)
        hangs = smoothstep(template.azimuths.abs(), 1.15, 1.5) * (1 - smoothstep(template.heights, 90.0, 115.0))
        return torch.maximum(template.hair(), side * hangs)

    def _strands(self, hair: Tensor) -> tuple[Tensor, Tensor]:
        """Hair taken from around the outline (3, SIZE, SIZE), and where in the atlas it is known (SIZE, SIZE)."""
        normals = self.template.mesh(self.vertices).normals
        away = (normals * functional.normalize(self.vertices, dim=-1)).sum(-1)
        values = torch.cat([self.vertices, smoothstep(away, -0.25, 0.75)[:, None], hair[:, None]], -1)
        drawn, there = self.template.pictured(values, SIZE)
        places = torch.where(there > 0, drawn[:3], self.vertices[0, :, None, None])
        pixels = project(places.flatten(1).T, self.camera.K)
        pixels, known = self.outline.lookup(pixels, drawn[3].flatten())
        own = sample(self.window, pixels, self.part).view(3, SIZE, SIZE)
        weight = known.view(SIZE, SIZE) * drawn[4] * there * alike(own, self.outline.colour)
        mirrored, mirrored_weight = own.flip(-1), weight.flip(-1)
        total = torch.maximum(weight, mirrored_weight)
        return torch.lerp(own, mirrored, smoothstep(mirrored_weight - weight, 0.1, 0.5)), total

    def _shade(self) -> Tensor:
        """(V,) factors: an ear in one colour is none, so its hollows are darker."""
        template = self.template
        around = template.at_vertices(blur(template.pictured(template.mean)[0], 5.0))
        hollow = ((around - template.mean) * template.mesh(template.mean).normals).sum(-1)
        return torch.exp(-0.07 * hollow.clamp(-2, 6) * template.ear())


def carried_on(picture: Tensor, known: Tensor) -> Tensor:
    """A picture (C, h, w) whose unknown pixels take the colour of the nearest known ones (h, w).

    The farther, the softer. The picture itself where nothing is known.
    """
    if not bool(known.any()):
        return picture
    unknown = (~known).numpy().astype(np.uint8)
    distance, labels = cv2.distanceTransformWithLabels(unknown, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    labels = torch.from_numpy(labels.astype(np.int64))
    nearest = torch.zeros(len(picture), int(labels.max()) + 1)
    nearest[:, labels[known]] = picture[:, known]
    result, away = nearest[:, labels], torch.from_numpy(distance)
    for sigma in (2.0, 6.0, 18.0):
        result = torch.lerp(result, blur(result, sigma), smoothstep(away, 0.0, 2 * sigma))
    return result
