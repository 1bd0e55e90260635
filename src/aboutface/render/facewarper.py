"""The FaceWarper of DepthNets (Moniz et al. 2018): 68 keypoints with depth, moved by an affine, draw a photo anew.

The triangle list below is data of the DepthNets project (github.com/joelmoniz/DepthNets), MIT licence, copyright its
authors; their notice is kept in the file NOTICE. The code is ours.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..errors import UsageError
from .interpolate import interpolate
from .rasterize import Order, rasterize
from .texture import texture

_CORNERS = """
    0-36-17 0-1-36 1-41-36 1-2-41 2-31-41 2-49-31 2-3-49 3-48-49 3-4-48 4-5-48 5-6-48 6-59-48 6-7-59 7-58-59 7-8-58
    8-57-58 8-56-57 8-9-56 9-55-56 9-10-55 10-11-55 11-54-55 11-12-54 12-13-54 13-53-54 13-14-53 14-35-53 14-46-35
    14-15-46 15-45-46 15-16-45 16-26-45 26-25-45 25-44-45 25-24-44 24-43-44 24-23-43 23-42-43 23-22-42 22-27-42
    22-21-27 21-39-27 21-20-39 20-38-39 20-19-38 19-37-38 19-18-37 18-36-37 18-17-36 36-41-37 37-41-38 38-41-40
    38-40-39 42-47-43 43-47-46 43-46-44 44-46-45 48-59-60 60-59-67 59-58-67 67-58-66 58-57-66 57-56-66 56-65-66
    56-55-65 55-64-65 55-54-64 54-53-64 53-63-64 53-52-63 52-62-63 52-51-62 51-50-62 50-61-62 50-49-61 49-60-61
    49-48-60 60-67-61 61-67-62 62-67-66 62-66-65 62-65-63 63-65-64 39-28-27 39-29-28 39-40-29 40-31-29 40-41-31
    29-31-30 30-31-32 30-32-33 30-33-34 30-34-35 30-35-29 35-46-47 29-35-47 29-47-42 29-42-28 28-42-27 31-49-50
    31-50-32 32-50-51 32-51-33 33-51-34 34-51-52 35-34-52 35-52-53
"""
FACEWARPER_TRIANGLES = np.array(_CORNERS.replace("-", " ").split(), dtype=np.int64).reshape(107, 3)
"""(107, 3) int64 on the iBUG 68 points, in drawing order: jaw to brows; eyes and mouth are filled."""


class Case(NamedTuple):
    """One face in the FaceWarper's files."""

    image: np.ndarray
    """(H, W, 3) uint8."""
    keypoints: np.ndarray
    """(68, 2) float64: x, y in pixels; whole numbers name the top left corner of their pixel."""
    depth: np.ndarray
    """(68,) float64, unit arbitrary."""
    affine: np.ndarray
    """(2, 4) float64: result pixels from (x, y, depth, 1)."""
    expected: np.ndarray | None
    """(H, W, 3) uint8 of the original program, black outside the face; None if there is no such file."""


def warp_face(
    image: np.ndarray,
    keypoints: np.ndarray,
    depth: np.ndarray,
    affine: np.ndarray,
    size: tuple[int, int] | None = None,
    order: Order = "painter",
    wrap: Literal["clamp", "repeat"] = "repeat",
) -> tuple[np.ndarray, np.ndarray]:
    """Move the 68 keypoints by affine @ (x, y, depth, 1) and stretch the photo between them.

    Args:
        image: (H, W, 3) uint8; keypoints: (68, 2); depth: (68,); affine: (2, 4): see `Case`.
        size: (H, W) of the result; the image's if missing.
        order: "painter", as the original: where the face covers itself, the triangle later in the list is seen.
            "depth": the nearer surface is seen, see below.
        wrap: what is sampled beyond the image's border; the original repeats the image.

    Returns the picture (H, W, 3) uint8, black outside the face, and the coverage (H, W) bool.

    The affine says where points go, not which is in front. Points that fall on one pixel differ by multiples of the
    cross product n of the affine's rows, so n · (x, y, depth) orders them, whatever the scale and tilt of the depths
    (neither of which DepthNets determines). Its sign comes from the face at rest: there the nose tip (point 30) must
    lie nearer than the middle of the jaw's ends (0 and 16), once the best plane through all points is taken away.
    """
    image, keypoints, depth, affine = _checked(image, keypoints, depth, affine)
    height, width = image.shape[:2]
    points = np.concatenate([keypoints, depth[:, None]], 1)
    target = points @ affine[:, :3].T + affine[:, 3]
    out_height, out_width = size or (height, width)
    away = np.zeros(68) if order == "painter" else _distance_away(points, affine)
    clip = np.stack([target[:, 0] * 2 / out_width - 1, target[:, 1] * 2 / out_height - 1, away, np.ones(68)], 1)
    faces = torch.from_numpy(FACEWARPER_TRIANGLES)
    fragments = rasterize(torch.from_numpy(clip)[None], faces, (out_height, out_width), order=order)
    uv = interpolate(torch.from_numpy(keypoints / [width, height]), fragments, faces)
    texels = torch.from_numpy(image).double().movedim(-1, 0)[None]
    covered = (fragments.triangle_id[0] >= 0).numpy()
    colours = texture(texels, uv, wrap)[0].movedim(0, -1).numpy()
    result = np.floor(colours + 0.5).clip(0, 255).astype(np.uint8)
    return np.where(covered[..., None], result, 0).astype(np.uint8), covered


def read_case(folder: str | Path, stem: str) -> Case:
    """Read source/<stem>.png, keypoints/, depth/ and affine/<stem>.txt, and expected_result/<stem>.png if it is there.

    Raises UsageError that names the file if one is missing, unreadable, or not of the form in `Case`.
    """
    folder = Path(folder)
    expected = folder / "expected_result" / f"{stem}.png"
    return Case(
        _read_image(folder / "source" / f"{stem}.png"),
        _read_numbers(folder / "keypoints" / f"{stem}.txt", (68, 2)),
        _read_numbers(folder / "depth" / f"{stem}.txt", (68, 1))[:, 0],
        _read_numbers(folder / "affine" / f"{stem}.txt", (2, 4)),
        _read_image(expected) if expected.exists() else None,
    )


def _distance_away(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(68,) from -1 (nearest) to 1, in the direction in which the affine looks at points (68, 3)."""
    direction = np.cross(affine[0, :3], affine[1, :3])
    plane = np.concatenate([points[:, :2], np.ones((68, 1))], 1)
    shape = points[:, 2] - plane @ np.linalg.lstsq(plane, points[:, 2], rcond=None)[0]
    if shape[30] > shape[[0, 16]].mean():
        direction = -direction
    away = points @ direction
    away = away - (away.max() + away.min()) / 2
    return away / max(np.abs(away).max(), np.finfo(float).tiny)


def _checked(image, keypoints, depth, affine) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise UsageError(f"warp_face: expected an image (H, W, 3) in uint8, got {image.shape} {image.dtype}")
    arrays = []
    for name, value, shape in (("keypoints", keypoints, (68, 2)), ("depth", depth, (68,)), ("affine", affine, (2, 4))):
        array = np.asarray(value, dtype=np.float64)
        if array.shape != shape or not np.isfinite(array).all():
            raise UsageError(f"warp_face: expected {name} {shape} of finite numbers, got {array.shape}")
        arrays.append(array)
    return image, *arrays


def _read_image(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path}: not a picture that can be read ({error})") from None


def _read_numbers(path: Path, shape: tuple[int, int]) -> np.ndarray:
    form = f"expected {shape[0]} lines of {shape[1]} number{'s' if shape[1] > 1 else ''}"
    try:
        lines = [line.split() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as text ({error})") from None
    if len(lines) != shape[0] or any(len(line) != shape[1] for line in lines):
        raise UsageError(f"{path}: {form}, got {len(lines)} lines of {sorted({len(line) for line in lines})}")
    try:
        numbers = np.array([[float(word) for word in line] for line in lines])
    except ValueError as error:
        raise UsageError(f"{path}: {form} ({error})") from None
    if not np.isfinite(numbers).all():
        raise UsageError(f"{path}: {form}, got one that is not finite")
    return numbers
