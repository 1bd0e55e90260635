"""A sheet of test faces: the image, its true shape, and what each method makes of it."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..files import atomic_path
from ..geometry import depth_normals
from ..metrics import eroded
from .synface_faces import Faces, Prediction

COLUMNS, TILE, LABEL = 10, 128, 190
"""Faces, and pixels of a face and of the names."""


def columns(test: Faces) -> Tensor:
    """Indices of the faces that the sheet shows."""
    return torch.linspace(0, len(test) - 1, min(COLUMNS, len(test))).round().long()


def draw(test: Faces, predictions: list[tuple[str, Prediction]], file: Path) -> None:
    """Write a PNG with one row per method: shape lit from the upper left, of the pixels that are scored.

    predictions: title, and what is said of `columns(test)`.
    """
    shown = columns(test)
    face = eroded(test.mask[shown])
    rows = [("image", test.images[shown].permute(0, 2, 3, 1).float() / 255)]
    rows.append(("true shape", lit(test.depth[shown], face, test.K)))
    for title, prediction in predictions:
        rows.append((title, lit(prediction.depth, face & eroded(prediction.valid), test.K)))
    sheet = Image.new("RGB", (LABEL + TILE * len(shown), TILE * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for y, (title, tiles) in enumerate(rows):
        pen.multiline_text((6, y * TILE + TILE // 3), _wrapped(title), fill="black")
        for x, tile in enumerate(tiles):
            pixels = (255 * tile.clamp(0, 1)).round().byte().numpy()
            sheet.paste(_enlarged(pixels), (LABEL + x * TILE, y * TILE))
    with atomic_path(file) as part:
        sheet.save(part, "PNG")


def lit(depth: Tensor, mask: Tensor, K: Tensor) -> Tensor:
    """(N, S, S, 3) in [0, 1]: depth maps (N, S, S) as grey surfaces, white outside the mask."""
    normals = depth_normals(depth, K)
    light = torch.tensor([-0.35, -0.45, -0.82])
    shade = 0.15 + 0.85 * torch.einsum("ncij,c->nij", normals, light / light.norm()).clamp_min(0)
    return torch.where(mask, shade, 1.0)[..., None].expand(-1, -1, -1, 3)


def _enlarged(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.NEAREST)


def _wrapped(title: str, width: int = 26) -> str:
    lines = [""]
    for word in title.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
