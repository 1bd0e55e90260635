"""Lights as people ask for them: angles, names, spherical harmonics in files."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ..render import sh_basis
from ..scene import Light, SphericalHarmonics

HARMONIC_OF_COSINE = torch.tensor([math.pi] + 3 * [2 * math.pi / 3] + 5 * [math.pi / 4])
"""The clamped cosine in spherical harmonics of degree 0 to 2 (Ramamoorthi and Hanrahan 2001)."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


@dataclass(frozen=True)
class Lamp:
    """A light as it is asked for: one lamp and light from everywhere, in linear multiples of the albedo."""

    azimuth: float = 45.0
    """Degrees, -180 to 180: 0 from the camera, + from the image's right, 180 from behind."""
    elevation: float = 20.0
    """Degrees, -90 to 90: + from above."""
    intensity: float = 1.15
    """Strength of the lamp, 0 or more: what a surface that faces it gets."""
    ambient: float = 0.2
    """Light from everywhere, 0 or more."""

    def __post_init__(self) -> None:
        for name, limit in (("azimuth", 180), ("elevation", 90)):
            value = getattr(self, name)
            if not (_is_number(value) and -limit <= value <= limit):
                raise UsageError(f"{name}: expected degrees between -{limit} and {limit}, got {value!r}")
        for name in ("intensity", "ambient"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value <= 20):
                raise UsageError(f"{name}: expected a number from 0 to 20, got {value!r}")

    def light(self) -> Light:
        return Light(self.ambient, self.intensity, direction_of(self.azimuth, self.elevation))


PRESETS: Mapping[str, Lamp] = MappingProxyType(
    {
        "front": Lamp(0, 0, 0.8, 0.3),
        "left": Lamp(-70, 10),
        "right": Lamp(70, 10),
        "top": Lamp(0, 65),
        "bottom": Lamp(0, -50, 1.0, 0.2),
        "top-left": Lamp(-50, 40),
        "top-right": Lamp(50, 40),
        "butterfly": Lamp(0, 45, 1.0, 0.2),
        "rembrandt": Lamp(-50, 35, 1.0, 0.12),
        "split": Lamp(90, 0, 1.0, 0.08),
        "rim-left": Lamp(-125, 25, 1.8, 0.4),
        "rim-right": Lamp(125, 25, 1.8, 0.4),
        "flat": Lamp(0, 0, 0.0, 1.0),
    }
)
"""Lights with a name; left and right as one sees the picture."""


def direction_of(azimuth: float, elevation: float) -> tuple[float, float, float]:
    """Unit vector towards a light, camera space; degrees as in `Lamp`."""
    a, e = math.radians(azimuth), math.radians(elevation)
    return math.sin(a) * math.cos(e), -math.sin(e), -math.cos(a) * math.cos(e)


def angles_of(direction: Any) -> tuple[float, float]:
    """Azimuth and elevation, degrees, of a direction (3,) towards a light; the inverse of `direction_of`."""
    x, y, z = (float(value) for value in direction)
    return math.degrees(math.atan2(x, -z)) + 0.0, math.degrees(math.atan2(-y, math.hypot(x, z))) + 0.0


def harmonics_of(light: Light) -> SphericalHarmonics:
    """The same light in spherical harmonics, white: smooth where Lambert has an edge, and wrong by at most a tenth."""
    direction = torch.as_tensor(light.direction, dtype=torch.float32)
    coefficients = HARMONIC_OF_COSINE * sh_basis(direction) * light.diffuse
    coefficients[0] += light.ambient / 0.28209479177387814
    return SphericalHarmonics(coefficients[:, None])


def main_direction(light: Light | SphericalHarmonics) -> Tensor:
    """(3,) unit vector to where most light comes from; of spherical harmonics, by those of degree 1."""
    if isinstance(light, SphericalHarmonics):
        vector = light.coefficients.mean(-1)[[3, 1, 2]]
    else:
        vector = torch.as_tensor(light.direction)
    return functional.normalize(vector.detach().float().reshape(3), dim=0)


def light_from_dpr(numbers: Any) -> SphericalHarmonics:
    """Light given as Deep Single-Image Portrait Relighting (Zhou et al. 2019) writes it.

    numbers: 9, or 9 x 3 for red, green and blue. Their order is ours; their axes are x right, y away from the viewer
    and z up, and the clamped cosine (1, 2/3, 1/4 of pi) is not in them.
    Raises UsageError for anything else.
    """
    values = _coefficients(numbers)
    if values is None:
        raise UsageError(
            f"light: expected 9 or 9 x 3 finite numbers (spherical harmonics as DPR writes them), got {_shown(numbers)}"
        )
    incoming = HARMONIC_OF_COSINE[:, None] * values.view(9, -1)
    # Both span the same functions of the normal, which tells the coefficients apart once there are enough normals.
    normals = functional.normalize(torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    theirs = torch.stack([normals[:, 0], normals[:, 2], -normals[:, 1]], -1)
    return SphericalHarmonics(torch.linalg.lstsq(sh_basis(normals), sh_basis(theirs) @ incoming).solution)


def _coefficients(numbers: Any) -> Tensor | None:
    """(9,), (9, 1) or (9, 3) finite numbers as a tensor; None where they are anything else."""
    try:
        values = torch.tensor(np.asarray(numbers, np.float64), dtype=torch.float32)
    except (TypeError, ValueError):
        return None
    return values if values.shape in ((9,), (9, 1), (9, 3)) and values.isfinite().all() else None


def light_of(content: Any) -> SphericalHarmonics:
    """The light in a JSON file: DPR's 9 or 9 x 3 numbers, or a record of this tool with the light of its photo.

    Raises UsageError for anything else.
    """
    if not isinstance(content, dict):
        return light_from_dpr(content)
    light = content.get("light")
    numbers = light.get("spherical_harmonics") if isinstance(light, dict) else None
    values = _coefficients(numbers)
    if values is None:
        raise UsageError(
            f"light: expected a record with light.spherical_harmonics (9 or 9 x 3 numbers), got keys {list(content)}"
        )
    return SphericalHarmonics(values.view(9, -1))


class Asked(NamedTuple):
    """One light that was asked for."""

    name: str
    """For the file's name and the sheet: a preset's, or its angles."""
    light: Light | SphericalHarmonics
    about: dict[str, Any]
    """For the record."""

    @classmethod
    def lamp(cls, lamp: Lamp, name: str | None = None) -> "Asked":
        angles = f"azimuth{round(lamp.azimuth):+04d}_elevation{round(lamp.elevation):+03d}"
        preset = {} if name is None else {"preset": name}
        return cls(name or angles, lamp.light(), preset | asdict(lamp))

    @classmethod
    def harmonics(cls, light: SphericalHarmonics, name: str = "light") -> "Asked":
        return cls(name, light, {"spherical_harmonics": light.coefficients.tolist()})


def asked_lights(
    azimuth: Any = None, elevation: Any = None, *, light: Any = None, intensity: Any = None, ambient: Any = None
) -> list[Asked]:
    """The lights that the arguments of `relight` mean.

    Args:
        azimuth, elevation: degrees or lists of them, equally long or single; as in `Lamp`.
        light: instead of angles: the name of a preset, a list of names, a .json file (see `light_of`) or DPR's .txt,
            the numbers themselves, a `Light` or a `SphericalHarmonics`.
        intensity, ambient: of the lamp; the preset's, or those of `Lamp`, if missing.

    Raises UsageError.
    """
    strength = {name: value for name, value in (("intensity", intensity), ("ambient", ambient)) if value is not None}
    if light is None:
        return [Asked.lamp(Lamp(**angles, **strength)) for angles in _angle_rows(azimuth, elevation)]
    if azimuth is not None or elevation is not None:
        raise UsageError("a light is given by its angles or as a whole, not both: leave out the angles or the light")
    if isinstance(light, str | Path):
        light = [light]
    if isinstance(light, list | tuple) and light and all(isinstance(one, str | Path) for one in light):
        return [_named(one, strength) for one in light]
    if strength:
        raise UsageError("intensity and ambient belong to a lamp, not to this light: leave them out")
    if isinstance(light, Light):
        towards = tuple(main_direction(light).tolist())
        angles = dict(zip(("azimuth", "elevation"), (round(a, 1) for a in angles_of(towards)), strict=True))
        about = angles | {"intensity": float(light.diffuse), "ambient": float(light.ambient)}
        return [Asked("light", light, about)]
    return [Asked.harmonics(light if isinstance(light, SphericalHarmonics) else light_of(light))]


def _angle_rows(azimuth: Any, elevation: Any) -> list[dict[str, float]]:
    """The angles that are given, per light."""
    if azimuth is None and elevation is None:
        raise UsageError("say where the light comes from, for example azimuth=60 (--light-azimuth 60)")
    columns = {}
    for name, value in (("azimuth", azimuth), ("elevation", elevation)):
        if value is not None:
            columns[name] = list(value) if isinstance(value, list | tuple | range | np.ndarray) else [value]
    count = max(map(len, columns.values()))
    if count == 0 or any(len(column) not in (1, count) for column in columns.values()):
        raise UsageError("azimuth and elevation: expected single angles or lists that are equally long, and not empty")
    return [{name: column[i % len(column)] for name, column in columns.items()} for i in range(count)]


def _named(name: str | Path, strength: dict[str, float]) -> Asked:
    """The light of a preset, or in a file."""
    if str(name) in PRESETS:
        return Asked.lamp(replace(PRESETS[str(name)], **strength), str(name))
    path = Path(name)
    if path.suffix.lower() not in (".json", ".txt"):
        raise UsageError(f"light: unknown preset {str(name)!r}; there are {', '.join(PRESETS)}, or name a .json file")
    if strength:
        raise UsageError(f"{path}: intensity and ambient belong to a lamp, not to this light: leave them out")
    try:
        text = path.read_text("utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else [float(number) for number in text.split()]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); name a file with 9 or 9 x 3 numbers") from None
    except ValueError:
        raise UsageError(f"{path}: no light; expected 9 or 9 x 3 numbers, or the record of a result") from None
    return Asked.harmonics(light_of(content), path.stem)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
