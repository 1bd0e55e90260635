"""The closed head drawn in its part of the photo."""

import cv2
import numpy as np
import torch
from torch import Tensor

from ..filters import smoothstep
from ..geometry import clip, clip_from_camera
from ..head import Head, window_intrinsics
from ..render import Fragments, rasterize

Part = tuple[int, int, int, int]
"""Left, top, right, bottom in photo pixels."""


def draw_head(head: Head, part: Part, size: tuple[int, int]) -> tuple[Fragments, Tensor]:
    """The head's fragments in that part of the photo, and (h, w) how far they are away from the grazing outline."""
    mesh = head.scene.mesh_at_rest()
    clip_from_scene = clip_from_camera(window_intrinsics(head.scene.camera.K, part, size), size)
    fragments = rasterize(clip(mesh.vertices, clip_from_scene)[None], mesh.faces, size)
    inside = (fragments.triangle_id[0] >= 0).numpy().astype(np.uint8)
    distance = torch.from_numpy(cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, 5)[1:-1, 1:-1])
    # The outermost pixel may show a triangle that is seen edge on, lit as the side that is turned away.
    return fragments, smoothstep((distance - 1) * mm_per_pixel(head, part, size), 0.0, 4.0)


def mm_per_pixel(head: Head, part: Part, size: tuple[int, int]) -> float:
    left, _, right, _ = part
    return (right - left) / size[1] / float(head.scene.camera.K[0, 0]) * head.scene.scale * head.scene.pivot[2]
