"""Small picture filters on float tensors: spreading, blurring, sampling, soft thresholds."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def smoothstep(x: Tensor, low: float, high: float) -> Tensor:
    """0 below `low`, 1 above `high`, smooth between; any shape."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def fill(image: Tensor, weight: Tensor) -> Tensor:
    """Colours (C, H, W) spread from where weight (H, W) is 1 to where it is 0; all 0 where it is 0 everywhere.

    From fine to coarse and back (pull-push; Gortler et al. 1996).
    """
    height, width = weight.shape
    if min(height, width) <= 2:
        mean = (image * weight).sum((-2, -1), keepdim=True) / weight.sum().clamp_min(1e-6)
        return torch.lerp(mean.expand_as(image), image, weight)
    half = ((height + 1) // 2, (width + 1) // 2)
    small_weight = functional.adaptive_avg_pool2d(weight[None, None], half)[0]
    small = functional.adaptive_avg_pool2d((image * weight)[None], half)[0] / small_weight.clamp_min(1e-6)
    coarse = fill(small, (small_weight[0] * 2).clamp(0, 1))
    coarse = functional.interpolate(coarse[None], (height, width), mode="bilinear", align_corners=False)[0]
    return torch.lerp(coarse, image, weight.clamp(0, 1))


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (C, H, W), `sigma` in pixels; wide ones work on a smaller copy."""
    import cv2

    array = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    factor = max(1, min(int(sigma / 4), *array.shape[:2]))
    small = cv2.resize(array, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / factor)
    back = cv2.resize(small, array.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(back.reshape(array.shape)).permute(2, 0, 1)


def sample(image: Tensor, pixels: Tensor, window: tuple[float, float, float, float]) -> Tensor:
    """Values (C, N) of image (C, H, W), which covers `window`, at photo pixels (N, 2); edges repeat."""
    left, top, right, bottom = window
    unit = (pixels - torch.tensor([left, top])) / torch.tensor([right - left, bottom - top])
    grid = (unit * 2 - 1)[None, None]
    return functional.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0, :, 0]
