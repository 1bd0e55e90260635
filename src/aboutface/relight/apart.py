"""A photo taken apart into albedo and light, and put together under another light."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..filters import blur, fill, smoothstep
from ..head import Head
from ..images import Photo, to_pixels, to_tensor
from ..render import Fragments, interpolate, sh_basis, shade
from ..scene import Light, SphericalHarmonics
from .drawing import Part, draw_head
from .estimate import DARKEST, estimate_light, log_arriving, log_brightness_of, smoothed, soft_normals, unevenness
from .lights import angles_of, harmonics_of
from .matte import matte_of
from .shadows import lamp_at

MAP_SIZE = 640
"""Longest side, in pixels, at which shading is worked out; it is smooth, and applied at the photo's own resolution."""
BRIGHTEST = 4.0
"""Largest factor by which a pixel gets brighter: more would show noise."""


@dataclass(frozen=True, eq=False)
class Relightable:
    """A photo whose head can be lit anew, any number of times."""

    photo: Photo
    head: Head
    light: Light
    """The light found in the photo: ambient and diffuse add up to 1, so a surface that faces it shows its albedo."""
    uneven: Tensor
    """(V,) log of what of the photo's light the smooth one does not explain: shadows that fall on one side only."""
    matte: Tensor
    """(h, w), 0 to 1: where new light goes, the part of the photo that the head's window covers, at the maps' size."""

    @property
    def harmonics(self) -> SphericalHarmonics:
        """The light found in the photo as it is divided out."""
        return harmonics_of(self.light)

    def shading(self) -> Tensor:
        """The light on the head in the photo, (1, H, W) linear multiples of the albedo; 1 where there is no head."""
        values = self._arriving(self.harmonics, False).clamp_min(DARKEST).log() + self.uneven[:, None]
        left, top, right, bottom = self._part
        margins = (left, self.photo.width - right, top, self.photo.height - bottom)
        return functional.pad(self._enlarged(self._pictured(values) * self.matte), margins).exp()

    def albedo(self) -> Tensor:
        """The photo (3, H, W) without its light, linear: albedo * shading is the photo. It may be beyond 1."""
        return decoded(to_tensor(self.photo.pixels)[0]) / self.shading()

    def about(self) -> dict[str, Any]:
        """The light found in the photo, for the record."""
        azimuth, elevation = angles_of(self.light.direction)
        return {
            "azimuth": round(azimuth, 1),
            "elevation": round(elevation, 1),
            "ambient": round(float(self.light.ambient), 3),
            "diffuse": round(float(self.light.diffuse), 3),
            "spherical_harmonics": [round(float(value), 5) for value in self.harmonics.coefficients[:, 0]],
        }

    def relit(self, light: Light | SphericalHarmonics, *, shadows: bool = True) -> np.ndarray:
        """The photo (H, W, 3) uint8 under another light; that of the photo itself gives the photo.

        Args:
            light: in linear multiples of the albedo. A `Light` is a lamp of some size, a `SphericalHarmonics` comes
                from all around.
            shadows: the head casts shadows on itself; from a `Light` only.
        """
        new = self._arriving(light, shadows)
        old = self._arriving(self.harmonics, False)
        gain = new.clamp_min(DARKEST).log() - old.clamp_min(DARKEST).log()
        # Shadows in the photo belong to its light: they leave as far as the light changes.
        change = smoothstep((gain - gain.mean(0))[self._face].square().mean().sqrt(), 0.0, 0.3)
        gain = _soft_limit(gain - change * self.uneven[:, None], math.log(BRIGHTEST))
        left, top, right, bottom = self._part
        gains = self._enlarged(self._pictured(gain) * self.matte)
        window = self.photo.pixels[top:bottom, left:right]
        pixels = self.photo.pixels.copy()
        pixels[top:bottom, left:right] = to_pixels(encoded(_exposed(decoded(to_tensor(window)[0]), gains.exp())))
        return pixels

    def _enlarged(self, picture: Tensor) -> Tensor:
        """Pictures (C, h, w) of the maps' size at the photo's own."""
        left, top, right, bottom = self._part
        return functional.interpolate(picture[None], (bottom - top, right - left), mode="bilinear")[0]

    @property
    def _part(self) -> Part:
        return self.head.grid.within(self.photo)

    @cached_property
    def _face(self) -> Tensor:
        """(V,) bool: the face as far as the photo shows it."""
        return (self.head.face_part > 0.5) & (self.head.seen > 0.3)

    @cached_property
    def _normals(self) -> Tensor:
        return soft_normals(self.head)

    @cached_property
    def _drawn(self) -> tuple[Fragments, Tensor]:
        return draw_head(self.head, self._part, (self.matte.shape[0], self.matte.shape[1]))

    def _arriving(self, light: Light | SphericalHarmonics, shadows: bool) -> Tensor:
        """Light at each vertex (V, 1) or (V, 3)."""
        if isinstance(light, SphericalHarmonics):
            return sh_basis(self._normals) @ light.coefficients.float()
        if not (shadows and light.diffuse):
            return shade(self.head.scene.mesh_at_rest().normals, torch.ones(len(self._normals), 1), light)
        lamp = lamp_at(self.head, torch.as_tensor(light.direction, dtype=torch.float32))
        return light.ambient + light.diffuse * smoothed(self.head, lamp[:, None], 1.0)

    def _pictured(self, values: Tensor) -> Tensor:
        """(C, h, w) at the maps' size from values per vertex (V, C); carried on around the head."""
        fragments, inner = self._drawn
        picture = interpolate(values, fragments, self.head.scene.mesh_at_rest().faces)[0].movedim(-1, 0)
        around = blur(fill(picture, inner), 0.015 * max(inner.shape))
        return torch.lerp(around, picture, inner)


def relightable(photo: Photo, head: Head, start: Light | SphericalHarmonics | None = None) -> Relightable:
    """Take the photo apart: find its light, what shadows it has, and where hair ends and background begins.

    start: a light to start from, where the reconstructor knows one.
    """
    left, top, right, bottom = part = head.grid.within(photo)
    zoom = min(1.0, MAP_SIZE / max(bottom - top, right - left))
    size = (max(1, round((bottom - top) * zoom)), max(1, round((right - left) * zoom)))
    window = to_tensor(photo.pixels[top:bottom, left:right])
    small = functional.interpolate(window, size, mode="area")[0]
    log_brightness = log_brightness_of(decoded(small), head, part)
    light = estimate_light(head, log_brightness, start)
    uneven = unevenness(head, log_brightness - log_arriving(harmonics_of(light), head))
    return Relightable(photo, head, light, uneven, matte_of(small, head, part))


def decoded(image: Tensor) -> Tensor:
    """Linear light from sRGB, both 0 to 1 (IEC 61966-2-1)."""
    return torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)


def encoded(image: Tensor) -> Tensor:
    """sRGB from linear light, both 0 to 1."""
    return torch.where(image <= 0.0031308, image * 12.92, 1.055 * image.clamp_min(0.0031308) ** (1 / 2.4) - 0.055)


def _soft_limit(logarithm: Tensor, most: float) -> Tensor:
    """Unchanged up to half of `most`, then ever closer to it."""
    knee = most / 2
    return torch.where(logarithm > knee, knee + knee * torch.tanh((logarithm - knee) / knee), logarithm)


def _exposed(image: Tensor, gain: Tensor) -> Tensor:
    """Linear image times gain; what gets brighter approaches white on a shoulder and never passes it."""
    brighter = gain.clamp_min(1)
    return image * gain / (1 + image.square() * (brighter.square() - 1)).sqrt()
