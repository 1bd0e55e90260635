"""The ICT model: npz and obj folder agree, its frame is ours, and what cannot be read says so."""

import json
import random
import tarfile

import numpy as np
import pytest
import torch

from aboutface.errors import MissingError, UsageError
from aboutface.face import MIRROR_68
from aboutface.geometry import face_normals
from aboutface.morphable import ICT_FILE, IctModel, convert_ict


@pytest.fixture(scope="module")
def model(data):
    if not (data / ICT_FILE).is_file():
        pytest.skip(f"no {ICT_FILE} in {data}")
    return IctModel.load(data / ICT_FILE)


@pytest.fixture(scope="module")
def obj_folder(data, tmp_path_factory):
    """The model's own files, but only one identity and one expression of them."""
    sample = data / "ict-facekit-obj-sample.tar.xz"
    if not sample.is_file():
        pytest.skip(f"no {sample.name} in {data}")
    folder = tmp_path_factory.mktemp("ict")
    with tarfile.open(sample) as tar:
        tar.extractall(folder, filter="data")
    return folder


def assert_same_model(a: IctModel, b: IctModel, offsets: float):
    torch.testing.assert_close(a.mean, b.mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(a.uv, b.uv, rtol=0, atol=1e-6)
    for name in ("faces", "uv_faces", "landmarks68"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert a.parts == b.parts
    jaw = [model.expression[model.expression_names.index("jawOpen")] for model in (a, b)]
    torch.testing.assert_close(*jaw, rtol=0, atol=offsets)
    torch.testing.assert_close(a.identity[0], b.identity[0], rtol=0, atol=offsets)


def test_npz_and_obj_folder_are_the_same_model(model, obj_folder):
    # Offsets of up to 38 mm are in half precision in the npz.
    assert_same_model(IctModel.load(obj_folder, partial=True), model, 0.02)
    assert_same_model(IctModel.load(obj_folder / "FaceXModel", partial=True), model, 0.02)


def test_the_converter_writes_what_the_folder_holds(obj_folder, tmp_path):
    counts = convert_ict(obj_folder, tmp_path / "one.npz", partial=True)
    assert (counts["identities"], counts["expressions"]) == (1, 1)
    converted = IctModel.load(tmp_path / "one.npz")
    assert_same_model(converted, IctModel.load(obj_folder, partial=True), 0.02)
    assert converted.expression_names == ("jawOpen",)


def test_a_folder_that_lacks_files_says_which(obj_folder, tmp_path):
    with pytest.raises(UsageError, match=r"151 files are missing \(identity001.obj, identity002.obj.*ICT-FaceKit"):
        IctModel.load(obj_folder)
    (tmp_path / "generic_neutral_mesh.obj").write_text("v 0 0 0\n")
    with pytest.raises(UsageError, match=r"lacks vertex_indices.json"):
        IctModel.load(tmp_path)


def test_a_broken_obj_is_named(obj_folder, tmp_path):
    for path in (obj_folder / "FaceXModel").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (tmp_path / "jawOpen.obj").read_text()
    (tmp_path / "jawOpen.obj").write_text(whole[: whole.index("\n", len(whole) // 8)])
    with pytest.raises(UsageError, match=r"jawOpen.obj: has \d+ vertices, expected at least"):
        IctModel.load(tmp_path, partial=True)
    (tmp_path / "jawOpen.obj").write_text("v one two three\n")
    with pytest.raises(UsageError, match=r"jawOpen.obj: cannot be read as an obj file"):
        IctModel.load(tmp_path, partial=True)
    neutral = tmp_path / "generic_neutral_mesh.obj"
    neutral.write_bytes(neutral.read_bytes()[:-1000])
    with pytest.raises(UsageError, match=r"generic_neutral_mesh.obj: has \d+ faces, expected 26384"):
        IctModel.load(tmp_path, partial=True)
    with neutral.open("a") as file:
        file.write("\nf 1/1 2/2 99999999/3\n")
    with pytest.raises(UsageError, match=r"generic_neutral_mesh.obj: cannot be read .*corners that are not there"):
        IctModel.load(tmp_path, partial=True)


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        ([99999999] * 68, "vertex_indices.json: cannot be read .*out of bounds"),
        (list(range(60)), r"landmarks \(60,\)\); download it anew"),
    ],
)
def test_foreign_landmarks_are_refused_and_nothing_is_written(obj_folder, tmp_path, landmarks, message):
    folder = tmp_path / "FaceXModel"
    folder.mkdir()
    for path in (obj_folder / "FaceXModel").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    content = json.loads((folder / "vertex_indices.json").read_text())
    (folder / "vertex_indices.json").write_text(json.dumps(content | {"idx_to_landmark_verts": landmarks}))
    with pytest.raises(UsageError, match=message):
        convert_ict(folder, tmp_path / "one.npz", partial=True)
    assert not (tmp_path / "one.npz").exists()


def test_the_frame_is_ours(model):
    marks = model.mean[model.landmarks68]
    nose, chin, nasion, ends = marks[30], marks[8], marks[27], marks[[0, 16]]
    assert nose[2] < ends[:, 2].min() - 60, "it looks along -z, in millimetres"
    assert chin[1] > nose[1] > nasion[1], "y is down"
    assert ends[0, 0] < -50, "landmark 0 is on the image's left"
    assert ends[1, 0] > 50
    flip = torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(marks[MIRROR_68] * flip, marks, rtol=0, atol=0.5)


def test_triangles_are_clockwise_seen_from_outside(model):
    first, end = model.parts["narrow_face"]
    front = model.faces[((model.faces >= first) & (model.faces < end)).all(1)]
    normals = face_normals(model.mean, front)
    # Area turned towards the camera against area turned away, nostrils and lips.
    assert normals[:, 2].clamp_max(0).sum() < -20 * normals[:, 2].clamp_min(0).sum()


def test_texture_coordinates_have_the_forehead_above_the_chin(model):
    rows = dict(zip(model.faces.flatten().tolist(), model.uv_faces.flatten().tolist(), strict=True))
    brow, chin = (model.uv[rows[int(model.landmarks68[i])]] for i in (19, 8))
    assert brow[1] < chin[1]
    assert model.uv.min() >= 0


def test_vertices_add_up(model):
    identity, expression = torch.zeros(2, 100), torch.zeros(2, len(model.expression))
    identity[1, 3], expression[1, 5] = 2.0, 0.5
    made = model.vertices(identity, expression)
    torch.testing.assert_close(made[0], model.mean)
    expected = model.mean + 2 * model.identity[3] + 0.5 * model.expression[5]
    torch.testing.assert_close(made[1], expected, rtol=0, atol=1e-3)
    with pytest.raises(UsageError, match=r"expected weights \(B, 100\)"):
        model.vertices(identity[:, :7], expression)


def test_where_there_is_no_model_it_says_where_to_get_it(tmp_path, monkeypatch):
    with pytest.raises(MissingError, match=r"github\.com/ICT-VGL/ICT-FaceKit"):
        IctModel.load(tmp_path / "none.npz")
    monkeypatch.delenv("ABOUTFACE_DATA", raising=False)
    with pytest.raises(MissingError, match="ABOUTFACE_DATA"):
        IctModel.load()
    with pytest.raises(MissingError, match="FaceXModel"):
        convert_ict(tmp_path / "none", tmp_path / "out.npz")


def small_arrays() -> dict[str, np.ndarray]:
    """An npz of the right form, with four vertices."""
    return {
        "mean": np.zeros((4, 3), np.float32),
        "identity_basis": np.zeros((2, 4, 3), np.float16),
        "expression_basis": np.zeros((1, 4, 3), np.float16),
        "expression_names": np.array(["jawOpen"]),
        "faces": np.array([[0, 1, 2, 3], [0, 1, 2, -1]], np.int32),
        "uv": np.zeros((4, 2), np.float32),
        "uv_faces": np.array([[0, 1, 2, 3], [0, 1, 2, -1]], np.int32),
        "landmarks68": np.zeros(68, np.int32),
        "parts": np.array('{"face": [0, 4]}'),
    }


def test_quads_become_two_triangles_and_triangles_one(tmp_path):
    np.savez(tmp_path / "small.npz", allow_pickle=False, **small_arrays())
    model = IctModel.load(tmp_path / "small.npz")
    assert model.faces.tolist() == [[0, 2, 1], [0, 2, 1], [0, 3, 2]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity_basis": np.zeros((2, 5, 3))}, r"identity_basis is \(2, 5, 3\), expected \(..., 4, 3\)"),
        ({"faces": np.array([[0, 1, 2, 4], [0, 1, 2, -1]])}, "faces goes from -1 to 4, of 4"),
        ({"landmarks68": np.zeros(60, np.int32)}, r"landmarks \(60,\)"),
        ({"expression_names": np.array(["a", "b"])}, "names of 1 expressions"),
        ({"parts": np.array("{")}, "is not the ICT model"),
        ({"mean": None}, "is not the ICT model.*mean"),
        ({"mean": np.full((4, 3), np.nan)}, "mean has numbers that are not finite"),
    ],
)
def test_a_foreign_npz_is_refused(tmp_path, change, message):
    arrays = {name: array for name, array in (small_arrays() | change).items() if array is not None}
    np.savez(tmp_path / "other.npz", allow_pickle=False, **arrays)
    with pytest.raises(UsageError, match=message):
        IctModel.load(tmp_path / "other.npz")


def test_a_truncated_npz_is_refused(tmp_path):
    np.savez(tmp_path / "cut.npz", allow_pickle=False, **small_arrays())
    content = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match="cannot be read"):
        IctModel.load(tmp_path / "cut.npz")


def test_wrong_bytes_in_an_npz_are_no_crash(tmp_path):
    file, refused = tmp_path / "bad.npz", 0
    np.savez_compressed(file, allow_pickle=False, **small_arrays())
    whole, generator = file.read_bytes(), random.Random(0)
    for _ in range(150):
        content = bytearray(whole)
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        file.write_bytes(content)
        try:
            IctModel.load(file)
        except UsageError:
            refused += 1
    assert refused > 50
