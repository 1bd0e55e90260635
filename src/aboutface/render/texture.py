"""Colours of a texture at positions."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError


def texture(image: Tensor, uv: Tensor, wrap: Literal["clamp", "repeat"] = "clamp") -> Tensor:
    """Colours (B, C, H, W) of a texture at positions, bilinear; differentiable in both.

    Args:
        image: (B, C, Ht, Wt), or (1, C, Ht, Wt) for all.
        uv: (B, H, W, 2): (0, 0) is the top left corner of the first texel, (1, 1) the bottom right one of the last.
        wrap: beyond the border, "clamp" goes on with the border's texel, "repeat" with the opposite border's.
    """
    if wrap not in ("clamp", "repeat"):
        raise UsageError(f"texture: wrap must be 'clamp' or 'repeat', got {wrap!r}")
    image = image.expand(uv.shape[0], -1, -1, -1)
    if wrap == "repeat":
        extent = uv.new_tensor([image.shape[-1], image.shape[-2]])
        image = F.pad(image, (1, 1, 1, 1), mode="circular")
        uv = ((uv - uv.detach().floor()) * extent + 1) / (extent + 2)
    return F.grid_sample(image, 2 * uv.to(image.dtype) - 1, mode="bilinear", padding_mode="border", align_corners=False)
