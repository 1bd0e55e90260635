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


def guided_upsample(low: Tensor, guide: Tensor, radius: int = 2, smoothness: float = 1e-3) -> Tensor:
    """A coarse map (C, h, w), of depth or colour, at the size of a photo (3, H, W) and along its edges: (C, H, W).

    The fast guided filter (He, Sun: Fast Guided Filter, 2015; He, Sun, Tang: Guided Image Filtering, PAMI 2013): in
    each window of the coarse map it is an affine function of the photo's colour, by least squares; the coefficients
    are upsampled, not the map. Linear in `low`. Colour that has nothing to do with the map is left out as far as the
    window shows that.

    Args:
        low: float, any range; its pixels cover the same area as the photo.
        guide: float RGB in [0, 1], at least as large as `low`.
        radius: of the windows, in pixels of `low`: 1 or more.
        smoothness: variance of colour, in units of squared range, below which a window counts as even (eps in the
            paper); above 0.

    Raises ValueError for other shapes.
    """
    import cv2

    if (
        low.ndim != 3
        or guide.ndim != 3
        or len(guide) != 3
        or low.shape[1] > guide.shape[1]
        or low.shape[2] > guide.shape[2]
    ):
        raise ValueError(
            f"guided_upsample: expected a map (C, h, w) and a photo (3, H, W) at least as large, "
            f"got {tuple(low.shape)} and {tuple(guide.shape)}"
        )
    channels, small = len(low), (low.shape[2], low.shape[1])
    colours = np.ascontiguousarray(guide.permute(1, 2, 0).numpy())
    size = colours.shape[1::-1]
    coarse = torch.from_numpy(cv2.resize(colours, small, interpolation=cv2.INTER_AREA)).permute(2, 0, 1)
    factors, rest = _affine_windows(low, coarse, radius, smoothness)
    out = np.empty((channels, *guide.shape[1:]), np.float32)
    for c in range(channels):
        # One plane at a time: all coefficients of a large photo at once would be gigabytes.
        out[c] = cv2.resize(rest[c].numpy(), size, interpolation=cv2.INTER_LINEAR)
        for k in range(3):
            out[c] += cv2.resize(factors[c, k].numpy(), size, interpolation=cv2.INTER_LINEAR) * colours[..., k]
    return torch.from_numpy(out)


def _affine_windows(values: Tensor, colours: Tensor, radius: int, smoothness: float) -> tuple[Tensor, Tensor]:
    """Factors (C, 3, h, w) and rests (C, h, w) that give values (C, h, w) from colours (3, h, w) around each pixel."""

    def mean(planes: Tensor) -> Tensor:
        """Over the window, as far as it lies in the picture."""
        kernel = 2 * radius + 1
        flat = planes.flatten(0, -3)[None]
        averaged = functional.avg_pool2d(flat, kernel, stride=1, padding=radius, count_include_pad=False)
        return averaged[0].unflatten(0, planes.shape[:-2])

    # Around the middle: differences of squares of large numbers would be rounding.
    centre = values.mean((1, 2), keepdim=True)
    v, c = (values - centre).double(), colours.double()
    v_mean, c_mean = mean(v), mean(c)
    covariance = mean(c[:, None] * c[None]) - c_mean[:, None] * c_mean[None]
    system = covariance.permute(2, 3, 0, 1) + smoothness * torch.eye(3, dtype=c.dtype)
    mixed = mean(v[:, None] * c[None]) - v_mean[:, None] * c_mean[None]
    factors = torch.linalg.solve(system, mixed.permute(2, 3, 1, 0)).permute(3, 2, 0, 1)
    rests = v_mean - (factors * c_mean).sum(1)
    return mean(factors).to(values), mean(rests).to(values) + centre
