"""Deep3D's frame against ours: the published golden values, signs, half pixels, light, and the .mat file."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from aboutface.data.crop import cut
from aboutface.errors import OutputError, UsageError
from aboutface.geometry import apply, project, rotation_from_angles
from aboutface.reconstruct.deep3d import Layout
from aboutface.reconstruct.deep3d_frame import (
    BFM_FIVE,
    ICT_CENTRE,
    ICT_FIVE,
    Reconstruction,
    align_published,
    angles_from_deep3d,
    angles_to_deep3d,
    camera,
    crop_from_photo,
    crop_published,
    five_from_68,
    five_of_model,
    gamma_from_light,
    light_from_gamma,
    points_from_deep3d,
    points_to_deep3d,
    pose_from_deep3d,
    published_fields,
    rotation_from_deep3d,
    rows_up,
    shift_from_deep3d,
    to_photo,
    write_mat,
)
from aboutface.render import shade_sh
from aboutface.scene import SphericalHarmonics

FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
# Detections in a photo of 423 x 594 (width, height), pixel centres on whole numbers.
GOLDEN = np.array([(142.84, 207.18), (222.02, 203.90), (159.24, 253.57), (146.59, 290.93), (227.52, 284.74)])


def normals(count: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=-1)


# Points and the camera.


def test_points_go_there_and_back():
    points = normals(50) * 2
    assert_close(points_from_deep3d(points_to_deep3d(points)), points)
    assert_close(points_to_deep3d(points_from_deep3d(points)), points)
    assert_close(points_from_deep3d(torch.zeros(3)), torch.tensor([0.0, 0.0, 1.0]))


def test_the_camera_is_theirs():
    x, y, z = points = (normals(50) * 0.9).unbind(-1)
    u, v_up = 1015 * x / (10 - z) + 112, 1015 * y / (10 - z) + 112
    ours = project(points_from_deep3d(torch.stack(points, -1)), camera().K.double())
    assert_close(rows_up(ours), torch.stack([u, v_up], -1))
    assert_close(rows_up(rows_up(ours)), ours)
    half = project(points_from_deep3d(torch.stack(points, -1)), camera(112).K.double())
    assert_close(half, ours / 2)


def test_golden_projection_of_the_mean_face():
    found = project(points_from_deep3d(BFM_FIVE), camera().K.double())
    # Published as column and 223 - v_up.
    published = torch.stack([found[:, 0], 223 - rows_up(found)[:, 1]], -1)
    expected = [(79.955, 81.129), (143.865, 81.201), (112.350, 115.961), (85.818, 150.593), (137.793, 150.580)]
    assert_close(published, torch.tensor(expected, dtype=torch.float64), atol=0.01, rtol=0)


# Angles.


def elementary(x: float, y: float, z: float) -> torch.Tensor:
    """Rz Ry Rx of their frame, written out."""
    rx = [[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]]
    ry = [[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]]
    rz = [[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]]
    return torch.tensor(rz).double() @ torch.tensor(ry).double() @ torch.tensor(rx).double()


@pytest.mark.parametrize("angles", [(0.3, 0, 0), (0, 0.3, 0), (0, 0, 0.3), (0.2, -0.7, 0.4), (-0.5, 1.1, -2.0)])
def test_a_face_moves_as_theirs_does(angles):
    shape, trans = normals(20), torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    theirs = points_from_deep3d(shape @ elementary(*angles).mT + trans)
    rotation = rotation_from_deep3d(torch.tensor(angles).double())
    ahead = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    ours = (shape @ FLIP / 10) @ rotation.mT + shift_from_deep3d(trans) + ahead
    assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("angles", "where", "what"),
    [
        ((0.3, 0, 0), (0, 1), (0, -1, 0)),  # their pitch looks down, so ours is negative
        ((0, 0.3, 0), (1, 0), (1, 0, 0)),  # yaw to the right in both
        ((0, 0, 0.3), (0, 0), (0, 0, -1)),  # their roll is counter-clockwise, ours clockwise
    ],
)
def test_signs_of_angles(angles, where, what):
    degrees = math.degrees(0.3)
    yaw, pitch, roll = pose_from_deep3d(torch.tensor(angles))
    assert (yaw, pitch, roll) == pytest.approx([sign * degrees for sign in what], abs=1e-4)
    rotation = rotation_from_deep3d(torch.tensor(angles).double())
    nose = rotation @ torch.tensor([0.0, 0, -1], dtype=torch.float64)
    assert nose[:2].sign().tolist() == list(where)
    if roll:
        # The top of the head, y up in the image, goes to the left.
        assert float((rotation @ torch.tensor([0.0, -1, 0], dtype=torch.float64))[0]) < -0.2


def test_angles_go_there_and_back():
    angles = torch.randn(30, 3, dtype=torch.float64)
    assert_close(angles_to_deep3d(*angles_from_deep3d(angles)), angles)
    ours = rotation_from_angles(torch.tensor([20.0]), torch.tensor([-10.0]), torch.tensor([5.0])).double()
    theirs = angles_to_deep3d(torch.tensor([20.0]), torch.tensor([-10.0]), torch.tensor([5.0]))
    assert_close(rotation_from_deep3d(theirs).double(), ours, atol=1e-6, rtol=0)


# Light.


def published_shading(numbers: np.ndarray, x: float, y: float, z: float) -> float:
    """One channel, from the published constants; the normal in their frame."""
    a0, a1, a2 = math.pi, 2 * math.pi / math.sqrt(3), 2 * math.pi / math.sqrt(8)
    c0, c1 = 1 / math.sqrt(4 * math.pi), math.sqrt(3) / math.sqrt(4 * math.pi)
    c2 = 3 * math.sqrt(5) / math.sqrt(12 * math.pi)
    basis = [
        a0 * c0,
        -a1 * c1 * y,
        a1 * c1 * z,
        -a1 * c1 * x,
        a2 * c2 * x * y,
        -a2 * c2 * y * z,
        a2 * c2 * 0.5 / math.sqrt(3) * (3 * z * z - 1),
        -a2 * c2 * x * z,
        a2 * c2 * 0.5 * (x * x - y * y),
    ]
    return sum((g + (0.8 if k == 0 else 0)) * b for k, (g, b) in enumerate(zip(numbers, basis, strict=True)))


def test_both_formulas_give_the_same_colours():
    gamma = torch.randn(27, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theirs = normals(40)
    expected = [[published_shading(gamma.numpy()[9 * c : 9 * c + 9], *n) for c in range(3)] for n in theirs.tolist()]
    light = light_from_gamma(gamma)
    assert light.coefficients.shape == (9, 3)
    found = shade_sh(theirs @ FLIP, torch.ones(40, 3).double(), light.coefficients)
    assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_published_factors():
    # Each number of gamma alone, where its function is known: the first column of the published table.
    factors = [0.886227, 1.772454, 1.772454, 1.772454, 2.427032, 2.427032, 0.700624, 2.427032, 1.213516]
    x, y, z = 0.48, 0.64, 0.6
    functions = [1, -y, z, -x, x * y, -y * z, 3 * z * z - 1, -x * z, x * x - y * y]
    normal = torch.tensor([x, -y, -z], dtype=torch.float64)
    for k in range(9):
        gamma = torch.zeros(9, dtype=torch.float64)
        gamma[0] = -0.8
        gamma[k] += 1
        found = shade_sh(normal, torch.ones(1).double(), light_from_gamma(gamma).coefficients)
        assert float(found) == pytest.approx(factors[k] * functions[k], abs=2e-6)


def test_gamma_zero_is_even_light():
    for numbers in (9, 27):
        found = shade_sh(
            normals(), torch.ones(numbers // 9).double(), light_from_gamma(torch.zeros(numbers)).coefficients
        )
        assert_close(found, torch.full_like(found, 0.708982), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(27,), (9,), (4, 27), (2, 3, 9)])
def test_gamma_comes_back(shape):
    gamma = torch.randn(shape, dtype=torch.float64)
    assert_close(gamma_from_light(light_from_gamma(gamma)), gamma)
    with pytest.raises(UsageError, match="expected 27 numbers for RGB or 9"):
        light_from_gamma(gamma[..., :-1])


def test_mirrored_light_is_mirrored_light():
    gamma = torch.randn(27, dtype=torch.float64)
    light = light_from_gamma(gamma)
    mirrored = light_from_gamma(gamma_from_light(SphericalHarmonics(light.coefficients).mirrored()))
    n = normals()
    white = torch.ones(3).double()
    expected = shade_sh(n * torch.tensor([-1.0, 1, 1]), white, light.coefficients)
    assert_close(shade_sh(n, white, mirrored.coefficients), expected)


# Alignment.


def test_five_of_68():
    points = torch.stack([torch.arange(68.0), 100 + torch.arange(68.0)], -1)
    expected = [(36 + 39) / 2, (42 + 45) / 2, 30, 48, 54]
    assert five_from_68(points)[:, 0].tolist() == expected
    assert five_from_68(points)[:, 1].tolist() == [100 + x for x in expected]
    with pytest.raises(UsageError, match=r"expected points \(..., 68, D\)"):
        five_from_68(points[:66])


def test_golden_alignment():
    found = align_published(GOLDEN, (594, 423))
    assert found.tx == pytest.approx(196.6142, abs=0.01)
    assert found.ty == pytest.approx(355.0627, abs=0.01)
    assert 102 / found.scale == pytest.approx(139.8459, abs=0.005)
    assert found.scale == pytest.approx(0.729374, abs=3e-5)
    assert found.size == (308, 433)
    assert found.corner == (31, 62)
    expected = [(73.041, 88.442), (130.793, 86.050), (85.003, 122.278), (75.776, 149.527), (134.805, 145.013)]
    np.testing.assert_allclose(found.five, expected, atol=0.012)


def ideal(scale: float, x: float, y: float, turn: float = 0.0, standard: torch.Tensor = BFM_FIVE) -> torch.Tensor:
    """Pixels (5, 2) where an orthographic camera sees the five points, turned in the image."""
    turned = standard @ FLIP @ rotation_from_angles(roll=turn).double().mT
    return turned[:, :2] * scale + torch.tensor([x, y], dtype=torch.float64)


def test_an_aligned_face_stays_where_it_is():
    assert_close(crop_from_photo(ideal(102, 112, 112)), torch.eye(3, dtype=torch.float64))
    # Roll is left to the network.
    assert_close(crop_from_photo(ideal(102, 112, 112, turn=25)), torch.eye(3, dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [224, 112, 128])
def test_the_crop_brings_any_face_to_its_size_and_place(size):
    matrix = crop_from_photo(ideal(37.5, 301.25, 90.75, 10), size=size)
    scale = 102 / 37.5 * size / 224
    expected = [[scale, 0, size / 2 - scale * 301.25], [0, scale, size / 2 - scale * 90.75], [0, 0, 1]]
    assert_close(matrix, torch.tensor(expected, dtype=torch.float64))


def test_batches_are_aligned_one_by_one():
    points = torch.stack([ideal(40, 50, 60), ideal(90, 300, 200, 30)])
    found = crop_from_photo(points)
    assert_close(found[0], crop_from_photo(points[0]))
    assert_close(found[1], crop_from_photo(points[1]))


def test_half_pixels_of_a_mirrored_photo():
    """Mirrored, the exact crop is the mirrored crop; the published one, whose pixels count from 0, is not."""
    noise = np.random.default_rng(0).normal(0, 2, (5, 2))
    five, width = ideal(80, 150, 140, standard=ICT_FIVE).numpy() + noise, 320
    mirrored = (five * [-1, 1] + [width, 0])[[1, 0, 2, 4, 3]]
    here, there = (
        crop_from_photo(torch.from_numpy(five), ICT_FIVE),
        crop_from_photo(torch.from_numpy(mirrored), ICT_FIVE),
    )
    flip = torch.tensor([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    flip_crop = torch.tensor([[-1.0, 0, 224], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    assert_close(there @ flip, flip_crop @ here)
    published = [align_published(p - 0.5, (240, width), ICT_FIVE).crop_from_photo for p in (five, mirrored)]
    assert np.abs(published[1] @ flip.numpy() - flip_crop.numpy() @ published[0])[0, 2] > 0.3


def test_published_truncations_cost_up_to_two_pixels():
    rng = np.random.default_rng(1)
    for _ in range(50):
        width, height = rng.integers(200, 900, 2)
        x, y = rng.uniform(80, 400, 2)
        five = ideal(rng.uniform(40, 150), x, y, rng.uniform(-30, 30)).numpy()
        matrix = align_published(five - 0.5, (int(height), int(width))).crop_from_photo
        exact = crop_from_photo(torch.from_numpy(five))
        off = apply(torch.from_numpy(matrix), torch.from_numpy(five)) - apply(exact, torch.from_numpy(five))
        assert off.abs().max() < 2.5
        assert off.abs().max() > 0.01


def spot(pixels: np.ndarray) -> np.ndarray:
    """Centre of brightness (x, y), our positions."""
    weight = pixels[..., 0].astype(np.float64)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]] + 0.5
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


def test_what_is_cut_lies_where_the_matrix_says():
    photo = np.zeros((300, 400, 3), np.uint8)
    y, x = np.mgrid[:300, :400] + 0.5
    photo[:] = (200 * np.exp(-((x - 170) ** 2 + (y - 130) ** 2) / 200))[..., None]
    five = ideal(70, 190, 140)
    matrix = crop_from_photo(five)
    crop = cut(photo, torch.linalg.inv(matrix).numpy(), 224)
    np.testing.assert_allclose(spot(crop), apply(matrix, torch.tensor([[170.0, 130.0]]).double())[0], atol=0.1)
    alignment = align_published(five.numpy() - 0.5, (300, 400))
    expected = alignment.crop_from_photo @ [170, 130, 1]
    np.testing.assert_allclose(spot(crop_published(photo, alignment)), expected[:2], atol=0.1)


def test_beyond_the_photo_the_published_crop_is_black():
    photo = np.full((100, 100, 3), 255, np.uint8)
    alignment = align_published(ideal(102, 20, 50).numpy(), (100, 100))
    crop = crop_published(photo, alignment)
    assert crop.shape == (224, 224, 3)
    left = -alignment.corner[0]
    assert left > 50
    assert crop[:, : left - 1].max() == 0
    assert crop[112, left + 2 : left + 50].min() == 255


def test_points_go_back_to_the_photo():
    matrix = crop_from_photo(ideal(61, 250, 333))
    points = torch.rand(68, 2) * 224
    back = to_photo(points, matrix)
    assert_close(apply(matrix.float(), back), points, atol=1e-3, rtol=0)
    assert_close(to_photo(torch.tensor([[112.0, 112.0]]), matrix), torch.tensor([[250.0, 333.0]]))


@pytest.mark.parametrize("five", [torch.full((5, 2), 7.0), torch.full((5, 2), torch.nan), torch.zeros(4, 2)])
def test_points_that_are_no_face_are_refused(five):
    with pytest.raises(UsageError, match="alignment: "):
        crop_from_photo(five)


def test_a_photo_that_would_vanish_is_refused():
    with pytest.raises(UsageError, match="would be 0 x 0 pixels"):
        align_published(ideal(90000, 5, 5).numpy(), (10, 10))


def test_the_ict_model_has_the_stated_points(data):
    from aboutface.morphable import IctModel

    if not (data / "ict-facekit-light.npz").is_file():
        pytest.skip("no ict-facekit-light.npz")
    model = IctModel.load(data / "ict-facekit-light.npz")
    found = five_of_model(model.mean[model.landmarks68], ICT_CENTRE)
    assert_close(found, ICT_FIVE, atol=6e-4, rtol=0)


# The .mat file.


def reconstruction(**changes: Any) -> Reconstruction:
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    values: dict[str, Any] = {
        "crop": some(3, 224, 224),
        "image": 1.3 * some(3, 224, 224),
        "alpha": some(224, 224).round(),
        "coefficients": Layout().split(torch.randn(1, 257, generator=generator)),
        "vertices": some(50, 3),
        "albedo": some(50, 3),
        "colours": 2 * some(50, 3) - 0.5,
        "landmarks": 224 * some(68, 2),
        "five": 224 * some(5, 2),
    }
    return Reconstruction(**(values | changes))


def test_fields_are_the_published_ones():
    face = reconstruction()
    fields = published_fields(face)
    assert {name: (array.shape, str(array.dtype)) for name, array in fields.items()} == {
        "cropped_img": ((224, 224, 3), "uint8"),
        "recon_img": ((224, 224, 4), "float32"),
        "coeff": ((1, 257), "float32"),
        "face_shape": ((50, 3), "float32"),
        "face_texture": ((50, 3), "float32"),
        "face_color": ((50, 3), "float32"),
        "lm_68p": ((68, 2), "float32"),
        "lm_5p": ((5, 2), "float32"),
    }
    np.testing.assert_allclose(fields["cropped_img"] / 255, face.crop.movedim(0, -1), atol=0.5 / 255 + 1e-6)
    assert fields["recon_img"][..., :3].max() == 255
    assert set(np.unique(fields["recon_img"][..., 3])) == {0, 1}
    assert fields["face_color"].min() < 0
    assert fields["face_color"].max() > 255
    np.testing.assert_allclose(points_from_deep3d(torch.from_numpy(fields["face_shape"])), face.vertices, atol=1e-6)
    np.testing.assert_array_equal(fields["coeff"], face.coefficients.flat())


def test_landmarks_of_the_file_point_at_its_pixels():
    crop = torch.zeros(3, 224, 224)
    crop[:, 70, 40] = 1
    points = torch.zeros(68, 2)
    points[5] = torch.tensor([40.5, 70.5])
    fields = published_fields(reconstruction(crop=crop, landmarks=points))
    column, row = fields["lm_68p"][5]
    assert (column, row) == (40, 70)
    assert fields["cropped_img"][int(row), int(column)].tolist() == [255, 255, 255]
    # As published the same point is written half a pixel to the right and above.
    u, v_up = rows_up(points[5])
    assert (float(u) - column, 223 - float(v_up) - row) == (0.5, -0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", torch.zeros(1, 224, 224)), ("albedo", torch.zeros(49, 3)), ("coefficients", Layout().zeros(2))],
)
def test_values_that_do_not_belong_together_are_refused(name, value):
    with pytest.raises(UsageError, match="published_fields: expected"):
        published_fields(reconstruction(**{name: value}))


def test_the_file_is_what_was_given(tmp_path):
    io = pytest.importorskip("scipy.io")
    fields = published_fields(reconstruction())
    write_mat(tmp_path / "face.mat", fields)
    read = {name: value for name, value in io.loadmat(tmp_path / "face.mat").items() if not name.startswith("__")}
    assert read.keys() == fields.keys()
    for name, value in fields.items():
        assert read[name].dtype == value.dtype
        np.testing.assert_array_equal(read[name], value)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    pytest.importorskip("scipy.io")
    file = tmp_path / "face.mat"
    write_mat(file, {"a": np.ones(3)})
    before = file.read_bytes()
    with pytest.raises(TypeError):
        write_mat(file, {"a": np.ones(3), "b": None})  # pyright: ignore[reportArgumentType]
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(OutputError, match="it is a folder"):
        write_mat(tmp_path, {"a": np.ones(3)})
