"""New light on a head in its photo.

The photo is taken apart into albedo times shading: the light that explains the face's brightness best is found on the
closed head's normals, and the photo divided by its shading keeps every pore as albedo. Light is added and multiplied in
linear values, where it really adds; pictures are sRGB.
"""

from .apart import Relightable, decoded, encoded, relightable
from .estimate import estimate_light
from .lights import PRESETS, Asked, Lamp, angles_of, asked_lights, direction_of, harmonics_of, light_from_dpr, light_of
from .shadows import lamp_at

__all__ = [
    "PRESETS",
    "Asked",
    "Lamp",
    "Relightable",
    "angles_of",
    "asked_lights",
    "decoded",
    "direction_of",
    "encoded",
    "estimate_light",
    "harmonics_of",
    "lamp_at",
    "light_from_dpr",
    "light_of",
    "relightable",
]
