"""Values at the pixels of a rasterised mesh: vertex attributes, and textures."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from .rasterize import Fragments
from .torch_backend import in_chunks


def interpolate(attributes: Tensor, fragments: Fragments, faces: Tensor) -> Tensor:
    """Vertex attributes at every pixel, perspective-correct: (B, H, W, C), 0 where nothing is seen.

    Args:
        attributes: (V, C), the same for all items of the batch, or (B, V, C).
        faces: those given to `rasterize`, (F, 3) or (B, F, 3).

    Differentiable with respect to attributes and, through the barycentrics, to the vertices.
    """
    batch, height, width = fragments.triangle_id.shape
    if attributes.ndim not in (2, 3) or (attributes.ndim == 3 and attributes.shape[0] != batch):
        raise UsageError(f"interpolate: expected attributes (V, C) or ({batch}, V, C), got {tuple(attributes.shape)}")
    ids = fragments.triangle_id.flatten()
    weights = fragments.barycentric.reshape(-1, 3).to(attributes.dtype)
    table = attributes.reshape(-1, attributes.shape[-1])
    seen = (ids >= 0).nonzero().squeeze(1)
    values = []
    for part in in_chunks(seen):
        item = part.div(height * width, rounding_mode="floor")
        face = ids.index_select(0, part)
        if faces.ndim == 3:
            face = face + (item % faces.shape[0]) * faces.shape[1]
        corners = faces.reshape(-1, 3).index_select(0, face)
        if attributes.ndim == 3:
            corners = corners + (item * attributes.shape[1])[:, None]
        a, b, c = (table.index_select(0, corners[:, i]) * weights[:, i : i + 1].index_select(0, part) for i in range(3))
        values.append(a + b + c)
    picture = torch.zeros(len(ids), table.shape[-1], dtype=table.dtype, device=table.device)
    return picture.index_copy_(0, seen, torch.cat(values)).view(batch, height, width, -1)


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
