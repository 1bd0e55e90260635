"""Lights as they are asked for: what angles, names, numbers and files mean."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from aboutface.errors import UsageError
from aboutface.relight import (
    PRESETS,
    Lamp,
    angles_of,
    asked_lights,
    direction_of,
    harmonics_of,
    light_from_dpr,
    light_of,
)
from aboutface.relight.lights import main_direction
from aboutface.render import sh_basis, shade
from aboutface.scene import Light

NORMALS = functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(1)), dim=-1)


def test_directions():
    # x right, y down, z away from the camera.
    for angles, direction in {
        (0, 0): (0, 0, -1),
        (90, 0): (1, 0, 0),
        (-90, 0): (-1, 0, 0),
        (0, 90): (0, -1, 0),
        (180, 0): (0, 0, 1),
    }.items():
        np.testing.assert_allclose(direction_of(*angles), direction, atol=1e-12)


@pytest.mark.parametrize("angles", [(60, 20), (-135, -45), (10, 80), (-179, 0)])
def test_angles_come_back(angles):
    assert angles_of(direction_of(*angles)) == pytest.approx(angles, abs=1e-9)


def test_harmonics_are_nearly_lambert():
    light = Lamp(40, 30, intensity=0.7, ambient=0.3).light()
    smooth = sh_basis(NORMALS) @ harmonics_of(light).coefficients
    exact = shade(NORMALS, torch.ones(500, 1), light)
    # The clamped cosine cut off at degree 2 is off by 1/16 at its pole, and by 3/32 at most.
    assert (smooth - exact).abs().max() < 0.7 * 3 / 32 + 1e-5
    # Degree 0 is exact: so is the mean over the sphere.
    index = torch.arange(20000) + 0.5
    z, turn = 1 - index / 10000, index * math.pi * (3 - math.sqrt(5))
    sphere = torch.stack([(1 - z * z).sqrt() * turn.cos(), (1 - z * z).sqrt() * turn.sin(), z], -1)
    assert float((sh_basis(sphere) @ harmonics_of(light).coefficients).mean()) == pytest.approx(0.3 + 0.7 / 4, abs=1e-4)


def dpr_shading(numbers: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """As DPR draws it, in its own axes: x right, y away from the viewer, z up."""
    x, y, z = normals[:, 0], normals[:, 2], -normals[:, 1]
    first, second = 2 * math.pi / 3, math.pi / 4
    basis = [
        math.pi * 0.5 / math.sqrt(math.pi) * torch.ones_like(x),
        *(first * math.sqrt(3) / 2 / math.sqrt(math.pi) * axis for axis in (y, z, x)),
        second * math.sqrt(15) / 2 / math.sqrt(math.pi) * y * x,
        second * math.sqrt(15) / 2 / math.sqrt(math.pi) * y * z,
        second * math.sqrt(5) / 4 / math.sqrt(math.pi) * (3 * z * z - 1),
        second * math.sqrt(15) / 2 / math.sqrt(math.pi) * x * z,
        second * math.sqrt(15) / 4 / math.sqrt(math.pi) * (x * x - y * y),
    ]
    return torch.stack(basis, -1) @ numbers


@pytest.mark.parametrize("colours", [None, 3])
def test_numbers_of_dpr(colours):
    numbers = torch.randn(9, *([colours] if colours else []), generator=torch.Generator().manual_seed(2))
    ours = sh_basis(NORMALS) @ light_from_dpr(numbers.tolist()).coefficients
    torch.testing.assert_close(ours, dpr_shading(numbers.view(9, -1), NORMALS), atol=1e-4, rtol=1e-4)


def test_axes_of_dpr():
    # Degree 1, in its order: y, z, x. Light from the camera has a negative y, as all of DPR's example lights.
    for place, sign, direction in ((1, -1, (0, 0, -1)), (2, 1, (0, -1, 0)), (3, 1, (1, 0, 0))):
        numbers = [1.0] + [0.0] * 8
        numbers[place] = sign
        np.testing.assert_allclose(main_direction(light_from_dpr(numbers)), direction, atol=1e-5)


def test_a_record_brings_its_light():
    light = harmonics_of(Light(0.4, 0.6, direction_of(30, 10)))
    content = {"light": {"spherical_harmonics": light.coefficients[:, 0].tolist()}}
    torch.testing.assert_close(light_of(content).coefficients, light.coefficients)


@pytest.mark.parametrize(
    "content", [[1, 2], "left", None, [math.nan] * 9, {}, {"light": 3}, {"light": {"spherical_harmonics": [1]}}]
)
def test_what_is_no_light(content):
    with pytest.raises(UsageError, match=r"9 or 9 x 3"):
        light_of(content)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"azimuth": 181}, "azimuth"),
        ({"elevation": 91}, "elevation"),
        ({"elevation": -91}, "elevation"),
        ({"azimuth": math.nan}, "azimuth"),
        ({"azimuth": "60"}, "azimuth"),
        ({"azimuth": 0, "intensity": -1}, "intensity"),
        ({"azimuth": 0, "ambient": math.inf}, "ambient"),
        ({}, "azimuth=60"),
        ({"azimuth": []}, "not empty"),
        ({"azimuth": [1, 2], "elevation": [1, 2, 3]}, "equally long"),
        ({"azimuth": 0, "light": "left"}, "not both"),
        ({"light": "lefty"}, "top-left"),
        ({"light": "missing.json"}, "missing.json"),
        ({"light": [1.0] * 9, "ambient": 1}, "leave them out"),
        ({"light": [1.0] * 8}, "9 or 9 x 3"),
    ],
)
def test_mistakes(arguments, word):
    with pytest.raises(UsageError, match=word):
        asked_lights(**arguments)


def test_lists():
    lights = asked_lights([-60, 60], 20, ambient=0.5)
    assert [one.name for one in lights] == ["azimuth-060_elevation+20", "azimuth+060_elevation+20"]
    assert lights[0].light == Lamp(-60, 20, ambient=0.5).light()
    assert [one.about["preset"] for one in asked_lights(light=["left", "top"])] == ["left", "top"]
    assert asked_lights(light="left", intensity=0.5)[0].about["intensity"] == 0.5


def test_files(tmp_path):
    numbers = torch.randn(9, generator=torch.Generator().manual_seed(3))
    (tmp_path / "a.json").write_text(json.dumps(numbers.tolist()))
    (tmp_path / "b.txt").write_text("\n".join(f"{value:.18e}" for value in numbers.tolist()))
    (tmp_path / "c.json").write_text("{")
    expected = light_from_dpr(numbers.tolist()).coefficients
    for name in ("a.json", "b.txt"):
        (one,) = asked_lights(light=str(tmp_path / name))
        torch.testing.assert_close(one.light.coefficients, expected)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UsageError, match="no light"):
        asked_lights(light=str(tmp_path / "c.json"))


def test_left_and_right_presets_are_mirror_images():
    for name in ("left", "top-left", "rim-left"):
        left, right = PRESETS[name], PRESETS[name.replace("left", "right")]
        assert left.light().mirrored() == right.light()
        assert left.azimuth < 0 < right.azimuth
