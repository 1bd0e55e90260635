"""Colours of a texture at positions, and how fast the positions change from pixel to pixel."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from .rasterize import Fragments

Wrap = Literal["clamp", "repeat"]


def texture(image: Tensor, uv: Tensor, wrap: Wrap = "clamp", *, footprint: Tensor | None = None) -> Tensor:
    """Colours (B, C, H, W) of a texture at positions; differentiable in image, uv and footprint.

    Bilinear; with a footprint trilinear: from the mip map's level whose texels are as large as the pixel, so that a
    texture seen from afar neither flickers nor lets its gradient fall on single texels. A level is the mean of the
    texels of the one before, two by two (three with partial weights along odd sizes), down to one texel.

    Args:
        image: (B, C, Ht, Wt), or (1, C, Ht, Wt) for all.
        uv: (B, H, W, 2): (0, 0) is the top left corner of the first texel, (1, 1) the bottom right one of the last.
        wrap: beyond the border, "clamp" goes on with the border's texel, "repeat" with the opposite border's.
        footprint: (B, H, W, 2, 2), change of uv (first) per pixel to the right and down (last): see `derivatives`.
            The longer of the two, in texels, chooses the level (the isotropic rule of OpenGL 4.6, 8.14).

    Raises UsageError for another wrap, for sizes that do not fit, and for images in whole numbers.
    """
    if wrap not in ("clamp", "repeat"):
        raise UsageError(f"texture: wrap must be 'clamp' or 'repeat', got {wrap!r}")
    if image.ndim != 4 or uv.ndim != 4 or uv.shape[-1] != 2 or image.shape[0] not in (1, uv.shape[0]):
        raise UsageError(
            "texture: expected an image (B or 1, C, Ht, Wt) and uv (B, H, W, 2), "
            f"got {tuple(image.shape)} and {tuple(uv.shape)}"
        )
    if not image.is_floating_point():
        raise UsageError(f"texture: expected an image in floating point, got {image.dtype}; divide it by 255 first")
    if image.dtype not in (torch.float32, torch.float64):
        # Places in a texture need more digits than half precision has.
        return texture(image.float(), uv, wrap, footprint=footprint).to(image.dtype)
    if footprint is not None:
        if footprint.shape != (*uv.shape, 2):
            raise UsageError(f"texture: expected a footprint {(*uv.shape, 2)}, got {tuple(footprint.shape)}")
        return _mip_mapped(image, uv, wrap, footprint)
    image = image.expand(uv.shape[0], -1, -1, -1)
    if wrap == "repeat":
        extent = uv.new_tensor([image.shape[-1], image.shape[-2]])
        image = F.pad(image, (1, 1, 1, 1), mode="circular")
        uv = ((uv - uv.detach().floor()) * extent + 1) / (extent + 2)
    return F.grid_sample(image, 2 * uv.to(image.dtype) - 1, mode="bilinear", padding_mode="border", align_corners=False)


def _mip_mapped(image: Tensor, uv: Tensor, wrap: Wrap, footprint: Tensor) -> Tensor:
    levels = [image]
    while max(levels[-1].shape[-2:]) > 1:
        levels.append(_halved(_halved(levels[-1]).mT).mT)
    sheet, start, size = _side_by_side(levels, wrap)
    longest = (footprint.to(image) * size[0][:, None]).square().sum(-2).amax(-1)
    level = longest.nan_to_num(0.0).clamp(1, 4.0 ** (len(levels) - 1)).log2() / 2
    finer = level.detach().floor()
    both = torch.cat([finer, finer + 1], 1).long().clamp_max(len(levels) - 1)
    uv = uv.to(image.dtype)
    uv = uv.clamp(0, 1) if wrap == "clamp" else uv - uv.detach().floor()
    place = torch.cat([uv, uv], 1) * size[both] + start[both]
    grid = place * (2 / place.new_tensor([sheet.shape[-1], sheet.shape[-2]])) - 1
    sampled = F.grid_sample(sheet.expand(len(uv), -1, -1, -1), grid, mode="bilinear", align_corners=False)
    height = uv.shape[1]
    return torch.lerp(sampled[:, :, :height], sampled[:, :, height:], (level - finer)[:, None])


def _side_by_side(levels: list[Tensor], wrap: Wrap) -> tuple[Tensor, Tensor, Tensor]:
    """All levels in one picture, so that one call samples them all; where each starts, and its size: (levels, 2).

    Each has a frame of one texel, of what `wrap` says is there.
    """
    height = levels[0].shape[-2] + 2
    mode = "replicate" if wrap == "clamp" else "circular"
    framed = [F.pad(level, (1, 1, 1, 1), mode=mode) for level in levels]
    sheet = torch.cat([F.pad(level, (0, 0, 0, height - level.shape[-2])) for level in framed], -1)
    size = sheet.new_tensor([[level.shape[-1], level.shape[-2]] for level in levels])
    left = (size[:, 0] + 2).cumsum(0) - size[:, 0] - 1
    return sheet, torch.stack([left, torch.ones_like(left)], -1), size


def _halved(image: Tensor) -> Tensor:
    """(..., N) to (..., N // 2): means of equal parts of the row, which for odd N cut through texels."""
    n = image.shape[-1]
    half = n // 2
    if n == 1:
        return image
    a, b = image[..., 0 : 2 * half : 2], image[..., 1 : 2 * half : 2]
    if n % 2 == 0:
        return (a + b) / 2
    c, i = image[..., 2::2], torch.arange(half, dtype=image.dtype, device=image.device)
    return b + (a - b) * ((half - i) / n) + (c - b) * ((i + 1) / n)


def derivatives(attributes: Tensor, fragments: Fragments, vertices_clip: Tensor, faces: Tensor) -> Tensor:
    """Change of interpolated attributes per pixel to the right and down: (B, H, W, C, 2), 0 where nothing is seen.

    Exact for perspective-correct attributes on the triangle seen at the pixel, also if it reaches behind the camera.
    Of texture coordinates it is the footprint that `texture` takes.

    Args:
        attributes: (V, C) or (B, V, C), as for `interpolate`.
        fragments, vertices_clip, faces: what `rasterize` returned and was given.

    Differentiable in attributes and vertices. With corners (x, y, w) in pixels from the pixel's centre, weights are
    e / sum(e), where e are the cross products of two corners' (x, y) each; a step of one pixel changes x by -w.
    """
    batch, height, width = fragments.triangle_id.shape
    ids = fragments.triangle_id.flatten()
    seen = (ids >= 0).nonzero().squeeze(1)
    line = seen.div(width, rounding_mode="floor")
    item = line.div(height, rounding_mode="floor")
    corners = faces.expand(batch, -1, -1)[item, ids[seen].long()]
    X, Y, _, w = _rows(vertices_clip.double(), corners, item).unbind(-1)
    x = (X + w) * (width / 2) - (seen - line * width + 0.5)[:, None] * w
    y = (Y + w) * (height / 2) - (line - item * height + 0.5)[:, None] * w
    e, e_right, e_down = _turns(x, y), _turns(-w, y), _turns(x, -w)
    total = e.sum(-1, keepdim=True)
    # A sliver may have no area to the last bit: no direction either.
    share = torch.where(total == 0, 0.0, 1 / torch.where(total == 0, 1.0, total))
    values = _rows(attributes.double(), corners, item)
    values = values - ((e * share)[..., None] * values).sum(1, keepdim=True)
    change = torch.stack([((d * share)[..., None] * values).sum(1) for d in (e_right, e_down)], -1)
    empty = attributes.new_zeros(len(ids), attributes.shape[-1], 2)
    return empty.index_copy(0, seen, change.to(attributes.dtype)).view(batch, height, width, attributes.shape[-1], 2)


def _rows(table: Tensor, corners: Tensor, item: Tensor) -> Tensor:
    """Rows (N, 3, C) of a table (V, C) or (B, V, C), at corners (N, 3) of item (N,)."""
    if table.ndim == 3:
        corners = corners + (item * table.shape[1])[:, None]
        table = table.flatten(0, 1)
    return table.index_select(0, corners.flatten()).unflatten(0, (-1, 3))


def _turns(x: Tensor, y: Tensor) -> Tensor:
    """Cross products (N, 3): for each of three (x, y) those of the other two."""
    return x.roll(-1, 1) * y.roll(-2, 1) - y.roll(-1, 1) * x.roll(-2, 1)
