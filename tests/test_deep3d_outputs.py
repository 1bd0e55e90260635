"""What `aboutface reconstruct` writes of a face with coefficients: the published .mat and _mesh.obj, npz and record.

The files are read back as a stranger would: by the layout that docs/deep3d.md tells, in numpy.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ellipsoid_ict as made_up
from aboutface.cli import main
from aboutface.edit import Pipeline, result
from aboutface.errors import UsageError
from aboutface.export import save_coloured_obj
from aboutface.reconstruct import deep3d_photo
from aboutface.reconstruct.deep3d_face import reconstruction
from aboutface.weights import digest

loadmat = pytest.importorskip("scipy.io", reason="needs the extra morphable").loadmat

FIELDS = {
    "cropped_img": ((224, 224, 3), "uint8"),
    "recon_img": ((224, 224, 4), "float32"),
    "coeff": ((1, 43), "float32"),
    "face_shape": ((-1, 3), "float32"),
    "face_texture": ((-1, 3), "float32"),
    "face_color": ((-1, 3), "float32"),
    "lm_68p": ((68, 2), "float32"),
    "lm_5p": ((5, 2), "float32"),
}
PARTS = {"id": 6, "exp": 4, "tex": 0, "angle": 3, "gamma": 27, "trans": 3}
SAID: dict[str, Any] = {
    "id": torch.tensor([0.9, -1.2, 0.5, 1.0, -0.6, 0.4]),
    "exp": torch.tensor([0.7, 0.1, 0.9, -0.2]),
    "angle": torch.tensor([0.1, -0.3, 0.15]),
    "trans": torch.tensor([0.1, -0.1, 0.2]),
}
SIZE = 280


@pytest.fixture(scope="module")
def model():
    return made_up.ict()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """The user's model, weights, a photo and its landmarks."""
    folder = tmp_path_factory.mktemp("deep3d")
    (folder / "home" / "weights").mkdir(parents=True)
    model.save(folder / "home" / "weights" / "ict.safetensors", half=False)
    net = made_up.net_of(model, **SAID)
    made_up.save(net, folder / "small.safetensors")
    face = made_up.picture(model, made_up.coefficients_of(made_up.net_of(model, gamma=torch.full((27,), 0.02))))
    canvas = Image.new("RGB", (SIZE, SIZE), (128, 128, 128))
    canvas.paste(Image.fromarray(face), (30, 20))
    canvas.save(folder / "me.png")
    np.save(folder / "me.npy", made_up.mean_landmarks(model, 1.0, (30.0, 20.0)))
    return folder


@pytest.fixture(autouse=True)
def home(folder, monkeypatch):
    monkeypatch.setenv("ABOUTFACE_HOME", str(folder / "home"))
    monkeypatch.delenv("ABOUTFACE_DATA", raising=False)
    for kept in (deep3d_photo._users_ict, result.about_weights):
        kept.cache_clear()
    yield
    for kept in (deep3d_photo._users_ict, result.about_weights):
        kept.cache_clear()


@pytest.fixture
def shape(folder):
    """`aboutface reconstruct` of the photo."""

    def run(*options: str) -> int:
        photo, marks = str(folder / "me.png"), str(folder / "me.npy")
        return main(
            ["reconstruct", photo, "--landmarks", marks, "--method", str(folder / "small.safetensors"), *options]
        )

    return run


def split(coeff: np.ndarray) -> dict[str, np.ndarray]:
    """By name, in the documented order."""
    found, start = {}, 0
    for name, count in PARTS.items():
        found[name] = coeff[0, start : start + count].astype(np.float64)
        start += count
    assert start == coeff.shape[1]
    return found


def read_obj(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, colours and faces counted from 0."""
    text = file.read_text()
    number = r"-?\d+\.\d{6}"
    assert re.fullmatch(rf"(v( {number}){{6}}\n)+\n(f( \d+){{3}}\n)+", text)
    above, below = text.split("\n\n")
    rows = np.array([line.split()[1:] for line in above.splitlines()], float)
    return rows[:, :3], rows[:, 3:], np.array([line.split()[1:] for line in below.splitlines()], int) - 1


@pytest.fixture(scope="module")
def out(folder, tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@pytest.fixture
def made(shape, out):
    """Everything that a folder gets."""
    if not (out / "me.mat").exists():
        assert shape("-o", f"{out}/") == 0
    return out


def test_the_fields_are_the_published_ones(made, model):
    fields = {name: value for name, value in loadmat(made / "me.mat").items() if not name.startswith("__")}
    assert set(fields) == set(FIELDS)
    count = int(model.masks["front"].sum())
    for name, (wanted, dtype) in FIELDS.items():
        assert fields[name].shape == tuple(count if side < 0 else side for side in wanted), name
        assert fields[name].dtype == dtype, name
    for name, numbers in SAID.items():
        if name != "exp":
            assert split(fields["coeff"])[name] == pytest.approx(numbers.numpy(), abs=2e-3)


def test_coefficients_alone_give_the_shape_the_landmarks_and_the_colours(made, model):
    fields, front = loadmat(made / "me.mat"), model.part("front")
    said = split(fields["coeff"])
    shape = made_up.their_points(front, said["id"], said["exp"], said["angle"], said["trans"])
    assert np.abs(fields["face_shape"] - shape).max() < 1e-4
    # Published positions count from 0 at the centre of the first pixel.
    landmarks = made_up.their_pixels(shape[front.landmarks68.numpy()]) - 0.5
    assert np.abs(fields["lm_68p"] - landmarks).max() < 1e-3
    # Their light: nine functions of the normal for each channel, of which the first has 0.8 more.
    corners = shape[front.faces.flip(1).numpy()]
    each = np.cross(corners[:, 0] - corners[:, 1], corners[:, 1] - corners[:, 2])
    each /= np.linalg.norm(each, axis=1, keepdims=True)
    normals = np.zeros_like(shape)
    for corner in range(3):
        np.add.at(normals, front.faces.flip(1).numpy()[:, corner], each)
    x, y, z = (normals / np.linalg.norm(normals, axis=1, keepdims=True)).T
    one, three = np.ones_like(x), 3 * z * z - 1
    basis = [0.886227 * one, -1.772454 * y, 1.772454 * z, -1.772454 * x, 2.427032 * x * y, -2.427032 * y * z]
    basis += [0.700624 * three, -2.427032 * x * z, 1.213516 * (x * x - y * y)]
    gamma = said["gamma"].reshape(3, 9)
    gamma[:, 0] += 0.8
    lit = fields["face_texture"] * (gamma @ np.array(basis)).T
    assert np.abs(fields["face_color"] - lit).max() < 0.05
    assert np.abs(gamma[:, 1:]).max() > 1e-3


def test_the_pictures_are_those_of_the_crop(made, folder):
    fields = loadmat(made / "me.mat")
    # The crop of this photo is a piece of it.
    photo = np.array(Image.open(folder / "me.png"))
    off = np.abs(fields["cropped_img"].astype(int) - photo[20:244, 30:254])
    assert off.max() <= 1
    alpha, colours = fields["recon_img"][..., 3], fields["recon_img"][..., :3]
    assert alpha.min() == 0.0
    assert alpha.max() == 1.0
    assert colours.min() == 0.0
    assert 100 < colours.max() <= 255
    assert not colours[alpha == 0].any()
    # It lies where its vertices do.
    rows, columns = np.nonzero(alpha > 0.5)
    seen = made_up.their_pixels(fields["face_shape"].astype(float))
    assert [columns.min(), columns.max() + 1] == pytest.approx([seen[:, 0].min(), seen[:, 0].max()], abs=1.5)
    assert [rows.min(), rows.max() + 1] == pytest.approx([seen[:, 1].min(), seen[:, 1].max()], abs=1.5)
    marks = np.load(folder / "me.npy") - [30, 20] - 0.5
    five = [marks[[36, 39]].mean(0), marks[[42, 45]].mean(0), marks[30], marks[48], marks[54]]
    assert np.abs(fields["lm_5p"] - five).max() < 1e-3


def test_the_mesh_is_posed_coloured_and_looks_outwards(made, model):
    fields = loadmat(made / "me.mat")
    vertices, colours, faces = read_obj(made / "me_mesh.obj")
    assert np.abs(vertices - fields["face_shape"]).max() < 1e-6
    assert np.abs(colours - (fields["face_color"] / 255).clip(0, 1)).max() < 1e-6
    front = model.part("front")
    assert len(faces) == len(front.faces)
    # y is up and z towards the camera; corners run counter-clockwise as seen from there.
    marks = vertices[front.landmarks68.numpy()]
    assert marks[8, 1] < marks[27, 1]
    assert marks[30, 2] > marks[36, 2]
    nose = (faces == int(front.landmarks68[30])).any(1)
    first, second, third = vertices[faces[nose]].transpose(1, 0, 2)
    assert (np.cross(second - first, third - first)[:, 2] > 0).all()


def test_numbers_and_record(made, folder):
    arrays, record = np.load(made / "me.npz"), json.loads((made / "me.json").read_text())
    coeff = loadmat(made / "me.mat")["coeff"]
    for name, numbers in split(coeff).items():
        assert arrays[f"coeff_{name}"] == pytest.approx(numbers, abs=1e-7)
    assert arrays["crop_from_photo"] == pytest.approx(np.array([[1, 0, -30], [0, 1, -20], [0, 0, 1.0]]), abs=1e-9)
    assert arrays["landmarks"] == pytest.approx(np.load(folder / "me.npy"))
    about = record["morphable"]
    assert (about["model"], about["licence"], about["coefficients"]) == ("ict", "none", PARTS)
    assert about["crop"]["size"] == 224
    assert np.allclose(about["crop"]["crop_from_photo"], arrays["crop_from_photo"])
    assert record["model"]["name"] == "small.safetensors"
    (used,) = [weights for weights in record["weights"] if weights["name"] == "ict"]
    assert used["sha256"] == digest(folder / "home" / "weights" / "ict.safetensors")
    kinds = {output["file"]: output["kind"] for output in record["outputs"]}
    assert (kinds["me.mat"], kinds["me_mesh.obj"]) == ("fields", "published mesh")
    assert {"me.glb", "me.npz", "me_depth.png", "me_preview.jpg"} <= set(kinds)
    assert all((made / name).is_file() for name in kinds)
    # Landmarks in the photo's own pixels.
    seen = arrays["landmarks_3d"] @ arrays["camera_matrix"].T
    crop = made_up.their_pixels(_marks_of(coeff))
    assert np.abs(seen[:, :2] / seen[:, 2:] - crop - [30, 20]).max() < 0.02
    assert arrays["pose_degrees"] == pytest.approx(np.degrees([-0.3, -0.1, -0.15]), abs=0.1)


def _marks_of(coeff: np.ndarray) -> np.ndarray:
    said, model = split(coeff), made_up.ict()
    assert model.landmarks68 is not None
    points = made_up.their_points(model, said["id"], said["exp"], said["angle"], said["trans"])
    return points[model.landmarks68.numpy()]


def test_a_named_mat_comes_alone(shape, made, tmp_path):
    assert shape("-o", str(tmp_path / "x.mat")) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"x.mat", "x.json"}
    alone, other = loadmat(tmp_path / "x.mat"), loadmat(made / "me.mat")
    assert all(np.array_equal(alone[name], other[name]) for name in FIELDS)
    assert [o["file"] for o in json.loads((tmp_path / "x.json").read_text())["outputs"]] == ["x.mat"]


def test_methods_without_coefficients_say_so(folder, tmp_path, capsys):
    photo, marks = str(folder / "me.png"), str(folder / "me.npy")
    assert main(["reconstruct", photo, "--landmarks", marks, "-o", str(tmp_path / "x.mat")]) == 2
    said = capsys.readouterr().err
    assert "depthnet has no coefficients of a morphable model; choose --method morphable or deep3d" in said
    assert not list(tmp_path.iterdir())
    assert main(["reconstruct", photo, "--landmarks", marks, "-o", f"{tmp_path}/"]) == 0
    assert not {"me.mat", "me_mesh.obj"} & {path.name for path in tmp_path.iterdir()}
    assert "morphable" not in json.loads((tmp_path / "me.json").read_text())


def test_without_scipy_a_folder_gets_the_rest(shape, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    assert shape("-o", f"{tmp_path}/") == 0
    assert (tmp_path / "me_mesh.obj").exists()
    assert not (tmp_path / "me.mat").exists()
    (warning,) = json.loads((tmp_path / "me.json").read_text())["warnings"]
    assert warning == "me.mat was not written: scipy.io is needed here: pip install 'aboutface[morphable]'"
    assert warning in capsys.readouterr().err
    assert shape("-o", str(tmp_path / "y.mat")) == 2
    assert "pip install 'aboutface[morphable]'" in capsys.readouterr().err
    assert not (tmp_path / "y.json").exists()


def test_the_mesh_has_clipped_colours_and_its_parts_fit(tmp_path):
    triangle = np.array([[0, 0, 0], [1, 0, 0], [0, 1.0, 0]])
    save_coloured_obj(tmp_path / "t.obj", triangle, triangle * 3 - 1, np.array([[0, 1, 2]]))
    vertices, colours, faces = read_obj(tmp_path / "t.obj")
    assert vertices.tolist() == triangle.tolist()
    assert colours.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert faces.tolist() == [[0, 1, 2]]
    with pytest.raises(UsageError, match=r"vertices and colours \(V, 3\)"):
        save_coloured_obj(tmp_path / "t.obj", triangle, triangle[:2], np.array([[0, 1, 2]]))


def test_a_scene_in_a_mirror_has_no_coefficients(folder):
    pipeline = Pipeline(str(folder / "small.safetensors"))
    (portrait,) = pipeline.portraits(folder / "me.png", landmarks=str(folder / "me.npy"))
    assert portrait.scene.morphable is not None
    # Turning the head changes nothing of what the photo shows.
    assert portrait.scene.posed(40, 0, 0).morphable is portrait.scene.morphable
    mirrored = portrait.scene.mirrored()
    assert mirrored.morphable is None
    with pytest.raises(UsageError, match="no coefficients"):
        reconstruction(mirrored, portrait.photo, portrait.face.landmarks)
