"""GAN2Shape's second rendering: the picture of its generator that is nearest to a drawing of the turned object."""

import numpy as np
import torch

from ..data.crop import cut
from ..errors import UsageError
from ..images import to_pixels, to_tensor
from ..scene import Scene


@torch.no_grad()
def manifold(pixels: np.ndarray, scene: Scene) -> np.ndarray:
    """A photo (H, W, 3) uint8 in which the scene's head or object has been turned -> (G, G, 3) uint8: the generator's
    picture of it (Pan et al., ICLR 2021, equation 2), a square of its size G around the object, upright.

    Raises UsageError for a scene of a method without a generator.
    """
    if scene.manifold is None:
        raise UsageError("refiner manifold: works with the method gan2shape, whose generator it asks")
    crop = cut(pixels, scene.manifold.photo_from_crop.numpy(), scene.manifold.size)
    return to_pixels(scene.manifold.project(to_tensor(crop))[0])
