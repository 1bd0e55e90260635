"""Where new light goes: the head with its hair, and how it ends in the background."""

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..filters import blur, smoothstep
from ..head import Head
from .drawing import Part, draw_head, mm_per_pixel

FALLOFF = 60.0
"""Millimetres outside the head over which new light fades, as far as colours go on that are the head's."""


def matte_of(small: Tensor, head: Head, part: Part) -> Tensor:
    """(h, w), 0 to 1, of the photo's part at the maps' size: the head with its hair, neck and, fading, the shoulders.

    The head's inside and what is far from it teach two histograms of colours; between them each pixel is judged by
    its colour and its place, and the result follows the photo's edges (guided filter; He et al. 2010).
    """
    size = (small.shape[1], small.shape[2])
    fragments, _ = draw_head(head, part, size)
    mm = mm_per_pixel(head, part, size)
    inside = (fragments.triangle_id[0] >= 0).numpy().astype(np.uint8)
    padded = np.pad(inside, 1, mode="edge")
    distance = cv2.distanceTransform(1 - padded, cv2.DIST_L2, 5) - cv2.distanceTransform(padded, cv2.DIST_L2, 5)
    outside = torch.from_numpy(distance[1:-1, 1:-1]) * mm
    ours, theirs = _histogram(small, outside < -5), _histogram(small, outside > 75)
    likely = ours / (ours + theirs + 1e-6)
    likely = blur(likely[None], 2 / mm)[0]
    near = 1 - smoothstep(outside, -6.0, FALLOFF)
    # Colours decide in a band around the outline; well inside and far outside the place does.
    judged = near * smoothstep(likely, 0.3, 0.7)
    inner = 1 - smoothstep(outside, -14.0, -6.0)
    matte = torch.lerp(judged, torch.ones_like(judged), inner)
    return _guided(matte, small, max(1, round(6 / mm))).clamp(0, 1)


def _histogram(image: Tensor, where: Tensor) -> Tensor:
    """(h, w) how frequent each pixel's colour is among the pixels `where`, over 16 x 16 x 16 smoothed cells."""
    cells = (image * 15.999).long()
    index = (cells[0] * 16 + cells[1]) * 16 + cells[2]
    counts = torch.bincount(index[where], minlength=4096).float().view(1, 1, 16, 16, 16)
    kernel = torch.tensor([1.0, 2, 3, 2, 1])
    kernel = kernel[:, None, None] * kernel[:, None] * kernel
    smooth = functional.conv3d(counts, (kernel / kernel.sum())[None, None], padding=2).flatten()
    return smooth[index] / counts.sum().clamp_min(1)


def _guided(matte: Tensor, image: Tensor, radius: int) -> Tensor:
    """`matte` (h, w) smoothed so that its edges are those of the image's luminance (guided filter; He et al. 2010)."""
    guide = image.mean(0).numpy()
    target = np.ascontiguousarray(matte.numpy())

    def box(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, (2 * radius + 1, 2 * radius + 1))

    guide_mean, target_mean = box(guide), box(target)
    slope = (box(guide * target) - guide_mean * target_mean) / (box(guide * guide) - guide_mean**2 + 1e-3)
    return torch.from_numpy(box(slope) * guide + box(target_mean - slope * guide_mean))
