"""Numbers of one picture: how sharp and bright it is, and a fingerprint that survives resizing and compression."""

from collections import defaultdict
from itertools import pairwise

import numpy as np

SHARPNESS_SIZE = 112
"""Side in pixels at which sharpness is measured, so that it compares between sizes of crops."""
HASH_BITS = 64


def measure(pixels: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Sharpness, brightness and contrast of a square crop (H, W, 3) uint8 where mask (H, W) is 255.

    Brightness and contrast are mean and standard deviation of luma (BT.601), 0 to 1. Sharpness is the variance of the
    Laplacian (Pech-Pacheco et al. 2000) over that of luma, at 112 px: a blurred or enlarged face has less, whatever
    its light; noise has more.
    """
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    inside = mask > 127
    if not inside.any():
        inside[:] = True
    values = grey[inside]
    small = cv2.resize(grey, (SHARPNESS_SIZE,) * 2, interpolation=cv2.INTER_AREA)
    face = cv2.resize(inside.astype(np.uint8), (SHARPNESS_SIZE,) * 2, interpolation=cv2.INTER_NEAREST) > 0
    if not face.any():
        face[:] = True
    laplacian = cv2.Laplacian(small, cv2.CV_32F)
    return {
        "sharpness": float(laplacian[face].var() / max(float(small[face].var()), 1e-6)),
        "brightness": float(values.mean()),
        "contrast": float(values.std()),
    }


def perceptual_hash(pixels: np.ndarray) -> int:
    """64 bits of a picture (H, W, 3) uint8: signs of its 8 x 8 lowest cosine frequencies about their median.

    pHash (Zauner 2010): 32 x 32 grey, DCT, the constant term left out of the median.
    """
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


class NearHashes:
    """Finds the first hash seen that differs in at most `most` of 64 bits.

    Two such hashes agree wholly in one of most + 1 bands of bits (pigeonhole), so only those that share a band are
    compared: a million pictures need some thousand comparisons each, not a million.
    """

    def __init__(self, most: int) -> None:
        if not 0 <= most < HASH_BITS:
            raise ValueError(f"most: expected 0 to {HASH_BITS - 1} bits, got {most}")
        self.most = most
        self._hashes: list[int] = []
        self._names: list[str] = []
        edges = np.linspace(0, HASH_BITS, most + 2).astype(int).tolist()
        self._bands = [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges)]
        self._places: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in self._bands]

    def find(self, value: int) -> tuple[str, int] | None:
        """Name and distance in bits of the nearest hash that was added (the first of equals), if near enough."""
        near = {i for (low, mask), place in self._bands_of() for i in place.get((value >> low) & mask, ())}
        found = min(((value ^ self._hashes[i]).bit_count(), i) for i in near) if near else None
        return (self._names[found[1]], found[0]) if found and found[0] <= self.most else None

    def add(self, value: int, name: str) -> None:
        for (low, mask), place in self._bands_of():
            place[(value >> low) & mask].append(len(self._hashes))
        self._hashes.append(value)
        self._names.append(name)

    def _bands_of(self):
        return zip(self._bands, self._places, strict=True)
