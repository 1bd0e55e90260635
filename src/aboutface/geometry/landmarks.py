"""The order of the iBUG 68 landmarks (300-W): which index mirrors which."""

import numpy as np

# Mirror image of each point (0-based): landmark i of a mirrored face is landmark MIRROR_68[i] of the face.
MIRROR_68 = np.array(
    [
        *range(16, -1, -1),  # jaw
        *range(26, 16, -1),  # brows
        *[27, 28, 29, 30, 35, 34, 33, 32, 31],  # nose
        *[45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40],  # eyes
        *[54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55],  # lips, outside
        *[64, 63, 62, 61, 60, 67, 66, 65],  # lips, inside
    ]
)
