"""A face cut out of its photo, and where in the crop the face is."""

import numpy as np
from PIL import Image

FOREHEAD = np.array([0.12, 0.25, 0.33, 0.37, 0.38, 0.38, 0.37, 0.33, 0.25, 0.12])
"""How far the hairline is above each brow point, in lengths from chin to nose bridge: the face's upper third, rounded
towards the temples."""


def cut(pixels: np.ndarray, photo_from_crop: np.ndarray, size: int) -> np.ndarray:
    """Crop (size, size, 3) of a photo (H, W, 3) uint8; photo_from_crop (3, 3) is affine. Beyond the photo edges repeat.

    Shrinking averages, so that fine texture does not turn into patterns.
    """
    import cv2

    scale = float(np.sqrt(abs(np.linalg.det(photo_from_crop[:2, :2]))))
    fine = max(1, int(np.ceil(scale - 1e-6)))
    # OpenCV counts pixels from their centres: its (x, y) is our (x + 0.5, y + 0.5).
    ours_from_cv = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    crop_from_fine = np.diag([1 / fine, 1 / fine, 1.0])
    matrix = np.linalg.inv(ours_from_cv) @ photo_from_crop @ crop_from_fine @ ours_from_cv
    crop = cv2.warpAffine(
        np.ascontiguousarray(pixels),
        matrix[:2],
        (size * fine, size * fine),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return crop if fine == 1 else cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)


def face_mask(landmarks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mask (H, W) uint8, 255 on the face, of iBUG landmarks (68, 2): their hull with an estimated forehead.

    The forehead is where proportions put it; hair before it is not seen.
    """
    import cv2

    up = landmarks[27] - landmarks[8]
    hairline = landmarks[17:27] + FOREHEAD[:, None] * up
    hull = cv2.convexHull(np.concatenate([landmarks, hairline]).astype(np.float32))
    mask = np.zeros(size, np.uint8)
    # Four binary digits of a pixel; corners far outside would overflow OpenCV's 16.16 numbers.
    corners = np.clip((hull - 0.5) * 16, -(2.0**24), 2.0**24)
    cv2.fillConvexPoly(mask, np.round(corners).astype(np.int32), 255, shift=4)
    return mask


def inside_share(photo_from_crop: np.ndarray, size: int, photo: tuple[int, int]) -> float:
    """Share, 0 to 1, of an upright crop that shows the photo (height, width) and not its repeated edges."""
    low = photo_from_crop[:2, 2]
    high = low + size * np.diag(photo_from_crop)[:2]
    seen = np.clip(high, 0, photo[::-1]) - np.clip(low, 0, photo[::-1])
    return float(np.prod(seen) / np.prod(high - low))


def grey_square(pixels: np.ndarray, landmarks: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The whole picture (H, W, 3) uint8 in grey (size, size) uint8, and its landmarks (K, 2) float64 there.

    The longer side becomes `size`; the shorter is centred, with black beside it.
    """
    image = Image.fromarray(pixels).convert("L")
    scale = size / max(image.size)
    shrunk = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    left, top = (size - shrunk[0]) // 2, (size - shrunk[1]) // 2
    canvas = Image.new("L", (size, size))
    canvas.paste(image.resize(shrunk, Image.Resampling.LANCZOS), (left, top))
    return np.array(canvas), landmarks.astype(np.float64) * (np.array(shrunk) / image.size) + [left, top]
