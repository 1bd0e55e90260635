"""A photo under other light: what must come out whatever the photo is."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

import aboutface
from aboutface.edit import Pipeline
from aboutface.edit.save import PREVIEW_SIDE, _shown, crop_square
from aboutface.errors import NoFaceError, UsageError
from aboutface.geometry import MIRROR_68
from aboutface.images import to_tensor
from aboutface.morphable import MeanHead
from aboutface.relight import (
    PRESETS,
    Lamp,
    angles_of,
    asked_lights,
    decoded,
    direction_of,
    encoded,
    estimate_light,
    harmonics_of,
    lamp_at,
)
from aboutface.relight.apart import _exposed
from aboutface.relight.drawing import draw_head
from aboutface.scene import Light, SphericalHarmonics

PORTRAIT = np.array(Image.fromarray(astronaut()[0:260, 100:360]).resize((200, 200), Image.Resampling.LANCZOS))


@pytest.fixture(scope="module")
def small():
    """PORTRAIT, reconstructed."""
    return Pipeline().portraits(PORTRAIT)[0]


@pytest.fixture(scope="module")
def apart(small):
    return small.relightable


@pytest.fixture(scope="module")
def landmarks(small) -> np.ndarray:
    return small.face.landmarks


def luminance(pixels: np.ndarray) -> np.ndarray:
    return decoded(to_tensor(pixels)[0]).mean(0).numpy()


def cheeks(pixels: np.ndarray, landmarks: np.ndarray) -> tuple[float, float]:
    """Linear brightness of the cheek on the left of the image, and of that on the right."""
    bright = luminance(pixels)
    places = [landmarks[[2, 31]].mean(0), landmarks[[14, 35]].mean(0)]
    left, right = (float(bright[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5].mean()) for x, y in places)
    return left, right


class TestParts:
    def test_srgb_round_trip(self):
        levels = torch.arange(256) / 255
        torch.testing.assert_close(encoded(decoded(levels)), levels, atol=1e-6, rtol=0)
        assert float(decoded(torch.tensor(0.5))) == pytest.approx(0.21404, abs=1e-5)

    def test_the_shoulder(self):
        image, gain = torch.linspace(0, 1, 101)[:, None], torch.logspace(-2, 2, 81)
        exposed = _exposed(image, gain)
        assert exposed.max() <= 1 + 1e-6
        torch.testing.assert_close(_exposed(image, torch.ones(1)), image)
        assert (exposed.diff(dim=0) > 0).all(), "brighter places stay brighter"
        assert (exposed[1:-1].diff(dim=1) > 0).all(), "more light is brighter"

    def test_a_lamp_is_a_cosine_where_nothing_is_in_its_way(self, small):
        mean, normals = MeanHead.load(), small.head.scene.mesh_at_rest().normals
        direction = torch.tensor(direction_of(50, 20))
        lit = lamp_at(small.head, direction)
        cosine = normals @ direction
        forehead = int(
            (mean.vertices() - torch.tensor([0.0, float(mean.landmarks[27, 1]) - 35, -90])).norm(dim=1).argmin()
        )
        assert float(lit[forehead]) == pytest.approx(float(cosine[forehead]), abs=0.05)
        assert lit.min() >= 0
        # No lamp of 14 degrees reaches farther than 14 degrees beyond the terminator.
        assert not lit[cosine < -math.sin(math.radians(15))].any()

    def test_the_nose_casts_a_shadow(self, small):
        mean = MeanHead.load()
        beside_nose = (mean.landmarks[31] + mean.landmarks[2]) / 2 * 0.35 + mean.landmarks[31] * 0.65
        vertex = int((mean.vertices() - beside_nose).norm(dim=1).argmin())
        towards = [torch.tensor(direction_of(azimuth, 10)) for azimuth in (80, -80)]
        shadowed, lit = (float(lamp_at(small.head, direction)[vertex]) for direction in towards)
        assert shadowed < 0.1
        assert lit > 0.3


class TestEstimate:
    def test_a_known_light_is_found(self, small):
        """On this head under lamps with its own shadows, with dark brows and lips and an uneven albedo."""
        mean, generator = MeanHead.load(), torch.Generator().manual_seed(0)
        features = mean.landmarks[[*range(17, 27), *range(36, 68)]]
        dark = (torch.cdist(mean.vertices(), features).amin(1) < 7).float()
        errors, ambients = [], []
        for azimuth, elevation, ambient in [(0, 20, 0.4), (50, 30, 0.3), (-60, 0, 0.4), (30, -15, 0.5), (-40, 50, 0.3)]:
            light = Light(ambient, 1 - ambient, direction_of(azimuth, elevation))
            shading = light.ambient + light.diffuse * lamp_at(small.head, torch.tensor(light.direction))
            albedo = math.log(0.4) + 0.1 * waves(mean, generator) - 0.7 * dark
            found = estimate_light(small.head, albedo + shading.log())
            errors.append(math.degrees(math.acos(np.dot(found.direction, light.direction).clip(-1, 1))))
            ambients.append(abs(float(found.ambient) - ambient))
        assert np.mean(errors) < 10, errors
        assert max(errors) < 20, errors
        assert np.mean(ambients) < 0.12, ambients

    def test_nothing_to_see_gives_a_usual_light(self, small):
        blind = replace(small.head, seen=torch.zeros_like(small.head.seen))
        light = estimate_light(blind, torch.zeros(len(blind.seen)))
        assert light.ambient == 0.5
        known = Light(0.2, 0.8, direction_of(70, 0))
        towards = estimate_light(blind, torch.zeros(len(blind.seen)), known).direction
        assert angles_of(towards) == pytest.approx((70, 0), abs=1e-3)

    def test_a_start_pulls(self, small):
        flat = torch.zeros(len(small.head.seen))
        from_left, from_right = (
            angles_of(estimate_light(small.head, flat, Light(0.5, 0.5, direction_of(azimuth, 0))).direction)[0]
            for azimuth in (-60, 60)
        )
        assert from_left < from_right


def waves(mean: MeanHead, generator: torch.Generator) -> torch.Tensor:
    """(V,) smooth noise of spread 1 over the head, a fifth of it different on both sides."""
    vertices = mean.vertices()
    total = torch.zeros(len(vertices))
    for side, strength in (("both", 1.0), ("one", 0.25)):
        points = torch.cat([vertices[:, :1].abs(), vertices[:, 1:]], 1) if side == "both" else vertices
        part = torch.zeros(len(vertices))
        for _ in range(6):
            frequency, phase = torch.randn(3, generator=generator) / 25, torch.rand(1, generator=generator) * 6.3
            part += torch.sin(points @ frequency + phase)
        total += strength * (part - part.mean()) / part.std()
    return total


class TestRelit:
    def test_the_photos_own_light_gives_the_photo(self, small, apart):
        same = apart.relit(apart.harmonics).astype(int)
        assert np.abs(same - small.photo.pixels).max() <= 1

    def test_albedo_times_shading_is_the_photo(self, small, apart):
        product = encoded(apart.albedo() * apart.shading())
        torch.testing.assert_close(product, to_tensor(small.photo.pixels)[0], atol=1e-5, rtol=0)
        assert apart.shading().shape == (1, 200, 200)
        assert apart.shading().std() > 0.02

    def test_directions_as_one_sees_them(self, apart, landmarks):
        left, right = cheeks(apart.relit(Lamp(-70, 10).light()), landmarks)
        assert left > 1.6 * right
        left, right = cheeks(apart.relit(Lamp(70, 10).light()), landmarks)
        assert right > 1.6 * left
        above, below = (luminance(apart.relit(Lamp(0, elevation).light())) for elevation in (60, -60))
        places = [tuple(landmarks[27].astype(int) - [0, 12]), tuple(landmarks[[57, 8]].mean(0).astype(int))]
        forehead, chin = (np.s_[y - 3 : y + 4, x - 4 : x + 5] for x, y in places)
        assert above[forehead].mean() > 1.3 * below[forehead].mean()
        assert above[forehead].mean() / above[chin].mean() > 1.4 * below[forehead].mean() / below[chin].mean()

    def test_a_mirrored_photo_under_the_mirrored_light(self, apart, landmarks):
        photo = np.ascontiguousarray(PORTRAIT[:, ::-1])
        mirrored = (landmarks * [-1, 1] + [200, 0])[MIRROR_68]
        expected = apart.relit(PRESETS["top-left"].light())
        other = aboutface.relight(photo, light="top-right", landmarks=mirrored)[:, ::-1]
        difference = np.abs(other.astype(int) - expected)
        assert difference.mean() < 0.8
        assert np.percentile(difference, 99.5) <= 10
        assert np.abs(expected.astype(int) - PORTRAIT).mean() > 5, "the light does change the photo"

    def test_the_background_stays(self, small, apart):
        picture = apart.relit(PRESETS["split"].light())
        # The flag and the shuttle behind the astronaut, away from her hair; half a level of gain is rounding.
        changed = np.abs(picture.astype(int) - small.photo.pixels).max(-1)
        assert (changed[:60, :25] <= 2).all()
        assert changed[60:140, 80:120].mean() > 10

    @pytest.mark.parametrize(
        "light",
        [
            Lamp(0, 0, 20, 20).light(),
            Lamp(90, 0, 0, 0).light(),
            Lamp(180, 90, 20, 0).light(),
            Lamp(0, -90, 5, 0).light(),
            SphericalHarmonics(torch.full((9, 3), -5.0)),
            SphericalHarmonics(torch.randn(9, 3, generator=torch.Generator().manual_seed(0)) * 10),
        ],
    )
    def test_extreme_lights(self, apart, landmarks, light):
        picture = apart.relit(light)
        assert picture.dtype == np.uint8
        face = picture[int(landmarks[19, 1]) : int(landmarks[8, 1]), int(landmarks[2, 0]) : int(landmarks[14, 0])]
        # Not a hole, and not a lamp: the face is still told apart.
        assert face.std() > 1.5
        assert (face == 255).all(-1).mean() < 0.05

    def test_coloured_light(self, apart, landmarks):
        coefficients = harmonics_of(Lamp(0, 0).light()).coefficients * torch.tensor([1.0, 0.6, 0.3])
        before, after = (
            decoded(to_tensor(p)[0])[:, 60:140, 80:120].mean((1, 2))
            for p in (PORTRAIT, apart.relit(SphericalHarmonics(coefficients)))
        )
        ratio = after / before
        assert ratio[0] > 1.2 * ratio[1] > 1.2 * 1.2 * ratio[2]

    def test_shadows_only_take_light_away(self, apart):
        light = Lamp(80, 20).light()
        with_shadows, without = (luminance(apart.relit(light, shadows=shadows)) for shadows in (True, False))
        assert (with_shadows < without - 0.02).any()
        # A lamp of some size also reaches a little around the terminator.
        assert np.mean(with_shadows > without + 0.02) < 0.02

    def test_equal_calls_are_equal(self, apart):
        light = PRESETS["left"].light()
        np.testing.assert_array_equal(apart.relit(light), apart.relit(light))


@pytest.mark.parametrize("side", [30, 200])
def test_pixels_on_the_outline_count_for_nothing(small, apart, side):
    """However coarse the picture: they may show triangles that are turned away, which made dark dots."""
    fragments, inner = draw_head(small.head, apart._part, (side, side))
    inside = fragments.triangle_id[0] >= 0
    padded = torch.nn.functional.pad(inside, (1, 1, 1, 1))
    surrounded = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    assert not inner[inside & ~surrounded].any()
    assert inner.max() == 1


def test_a_sheet_shows_no_more_than_the_photo(small):
    """A photo that is a close crop has no streaks of its edge around it."""
    square = small.face.photo_from_crop(PREVIEW_SIDE, margin=3)
    for ramp in (
        np.tile(np.arange(200, dtype=np.uint8), (200, 1)),
        np.tile(np.arange(200, dtype=np.uint8), (200, 1)).T,
    ):
        cut = crop_square(np.dstack([ramp] * 3), square, PREVIEW_SIDE)[_shown(small, square)]
        assert cut.shape[0] == pytest.approx(200 / square[0, 0], abs=1)
        assert cut.shape[1] == pytest.approx(200 / square[0, 0], abs=1)
        assert cut.min() <= 3
        assert cut.max() >= 196
    inside = small.face.photo_from_crop(PREVIEW_SIDE, margin=0)
    assert _shown(small, inside) == (slice(0, PREVIEW_SIDE), slice(0, PREVIEW_SIDE))


class TestVerb:
    def test_types_and_lists(self, landmarks, apart):
        one = aboutface.relight(Image.fromarray(PORTRAIT), 60, 20, landmarks=landmarks)
        assert isinstance(one, Image.Image)
        np.testing.assert_array_equal(np.array(one), apart.relit(Lamp(60, 20).light()))
        row = aboutface.relight(PORTRAIT, [-60, 60], landmarks=landmarks)
        assert [picture.shape for picture in row] == [PORTRAIT.shape] * 2
        failed, listed = aboutface.relight(["missing.jpg", PORTRAIT], light=["left"], landmarks=landmarks)
        assert "no such file" in str(failed)
        assert len(listed) == 1

    def test_grey_and_transparent(self, landmarks):
        grey = PORTRAIT.mean(-1).astype(np.uint8)
        result = aboutface.relight(np.dstack([grey] * 3), 60, landmarks=landmarks)
        assert (np.ptp(result.astype(int), axis=-1) == 0).all(), "grey stays grey"
        alpha = np.full(grey.shape, 100, np.uint8)
        result = aboutface.relight(np.dstack([PORTRAIT, alpha]), 60, landmarks=landmarks)
        np.testing.assert_array_equal(result[..., 3], alpha)

    def test_a_tiny_face(self, landmarks):
        tiny = np.array(Image.fromarray(PORTRAIT).resize((60, 60)))
        result = aboutface.relight(tiny, 80, landmarks=landmarks * 60 / 200)
        assert result.shape == tiny.shape
        assert np.abs(result.astype(int) - tiny).max() > 10

    def test_failures(self, landmarks):
        with pytest.raises(NoFaceError):
            aboutface.relight(PORTRAIT, 60, landmarks=landmarks, face=3)
        with pytest.raises(UsageError, match="say where the light comes from"):
            aboutface.relight("missing.jpg")

    def test_the_record(self, landmarks):
        lights = asked_lights(light="left")
        (result,) = Pipeline().relight(PORTRAIT, lights, landmarks=landmarks)
        assert result.names == ("photo_relit",)
        record = result.to_dict()
        assert record["verb"] == "relight"
        assert record["light"].keys() == {"azimuth", "elevation", "ambient", "diffuse", "spherical_harmonics"}
        assert record["outputs"][0]["light"]["preset"] == "left"
