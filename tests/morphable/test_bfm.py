"""The Basel Face Models: known values out of small files of each format, and every trap of these formats."""

import json
from typing import Any

import numpy as np
import pytest
import torch
import toy_face as toy

from aboutface.errors import MissingError, UsageError
from aboutface.morphable import bfm, load_bfm09, load_bfm17, load_bfm19

savemat = pytest.importorskip("scipy.io", reason="needs the extra morphable").savemat
h5py = pytest.importorskip("h5py", reason="needs the extra morphable")

CLOCKWISE = toy.faces()[:, [0, 2, 1]]


def close(found, expected, atol=2e-5):
    expected = torch.from_numpy(np.asarray(expected)).to(found.dtype)
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def triangles(faces):
    """Each with its least corner first: comparable, and with its winding."""
    rows = [np.roll(row, -int(np.argmin(row))).tolist() for row in np.asarray(faces)]
    return sorted(map(tuple, rows))


# ---- 2009 ----

MODES = 90
EXPRESSIONS = 70


def basel(**changes):
    """The fields of 01_MorphableModel.mat: micrometres, unit columns, EV standard deviations, tl from 1, clockwise."""
    content = {
        "shapeMU": toy.shape().reshape(-1, 1) * 1000,
        "shapePC": toy.unit_basis(MODES, 1),
        "shapeEV": toy.deviations(MODES)[:, None] * 1000,
        "texMU": np.tile([[200.0], [150.0], [100.0]], (toy.COUNT, 1)),
        "texPC": toy.unit_basis(MODES, 3),
        "texEV": toy.deviations(MODES)[:, None] * 4,
        "tl": CLOCKWISE + 1.0,
        "segbin": np.zeros((toy.COUNT, 4)),
    }
    return {name: np.asarray(array, np.float32) for name, array in (content | changes).items() if array is not None}


def write_expressions(folder, middle):
    """Exp_Pca.bin and std_exp.txt; the offset of the vertex v in mode k is a known function of v and k."""
    vertices = np.asarray(middle)[:, 0].astype(int) - 1
    steps = np.arange(1, EXPRESSIONS + 1)[:, None, None]
    modes = np.sin(vertices[None, :, None] * 0.01 * steps + np.arange(3)) / steps
    mean = np.full(3 * len(vertices), 7e3)
    numbers = np.concatenate([mean, modes.ravel()]).astype("<f4").tobytes()
    (folder / "Exp_Pca.bin").write_bytes(np.array(EXPRESSIONS, "<i4").tobytes() + numbers)
    (folder / "std_exp.txt").write_text(" ".join(f"{3000 + k}" for k in range(EXPRESSIONS)))


def expected_expression(vertices, mode):
    offset = np.sin(np.asarray(vertices)[:, None] * 0.01 * (mode + 1) + np.arange(3)) / (mode + 1)
    return toy.ours(offset * (3000 + mode) / 1000)


@pytest.fixture
def folder(tmp_path):
    """As Deep3D's folder BFM: the model, the expressions, and the index files."""
    savemat(tmp_path / "01_MorphableModel.mat", basel(), do_compression=True)
    tables = toy.deep3d_indices()
    savemat(tmp_path / "BFM_exp_idx.mat", {"trimIndex": tables["trimIndex"]})
    savemat(tmp_path / "BFM_front_idx.mat", {"idx": tables["idx"]})
    savemat(tmp_path / "select_vertex_id.mat", {"select_id": tables["select_id"]})
    names = ("tri", "keypoints", "frontmask2_idx", "tri_mask2", "skinmask")
    savemat(tmp_path / "facemodel_info.mat", {name: tables[name] for name in names})
    savemat(tmp_path / "similarity_Lm3D_all.mat", {"lm": np.zeros((68, 3))})
    write_expressions(tmp_path, tables["trimIndex"])
    return tmp_path


def test_the_whole_model_of_2009(folder):
    model = load_bfm09(folder / "01_MorphableModel.mat")
    close(model.mean, toy.ours(toy.shape() - toy.shape().mean(0)))
    close(model.identity, toy.ours(toy.unit_basis(MODES, 1) * toy.deviations(MODES)))
    assert model.expression.shape == (0, toy.COUNT, 3)
    close(model.albedo_mean, np.tile([200, 150, 100], (toy.COUNT, 1)) / 255)
    albedo = (toy.unit_basis(MODES, 3) * toy.deviations(MODES) * 4).T.reshape(MODES, -1, 3) / 255
    close(model.albedo, albedo, 1e-6)
    assert triangles(model.faces) == triangles(CLOCKWISE), "counted from 1, and left clockwise"
    assert model.landmarks68 is None, "the list of the whole mesh is for its 53490 vertices only"
    assert (model.name, model.redistributable, model.expression_kind) == ("bfm09", False, "gaussian")


def test_a_list_the_other_way_round_is_turned(tmp_path):
    savemat(tmp_path / "a.mat", basel(tl=toy.faces() + 1.0))
    assert triangles(load_bfm09(tmp_path / "a.mat").faces) == triangles(CLOCKWISE)


def test_the_crop_of_deep3d(folder):
    model = load_bfm09(folder)
    kept = toy.crop()
    shape = toy.shape()[kept]
    close(model.mean, toy.ours(shape - shape.mean(0)))
    assert model.albedo is not None
    assert (len(model.identity), len(model.expression), len(model.albedo)) == (80, 64, 80)
    identity = toy.ours(toy.unit_basis(MODES, 1) * toy.deviations(MODES))
    close(model.identity, identity[:80, kept])
    for mode in (0, 3, 63):
        close(model.expression[mode], expected_expression(kept, mode))
    assert triangles(model.faces) == triangles(toy.crop_faces()[:, [0, 2, 1]])
    assert model.landmarks68 is not None
    assert torch.equal(model.landmarks68, torch.from_numpy(toy.crop_landmarks()))
    assert torch.equal(model.masks["front"], torch.from_numpy(np.abs(shape[:, 0]) <= 40))
    assert torch.equal(model.masks["skin"], torch.arange(len(kept)) % 3 == 0)
    apart = model.mean[model.landmarks68[45]] - model.mean[model.landmarks68[36]]
    assert float(apart.norm()) == pytest.approx(90, abs=1e-3)


def test_the_mean_expression_is_left_out(folder):
    """Another mean in Exp_Pca.bin makes no other face (the one of the fixture is the same everywhere)."""
    content = np.fromfile(folder / "Exp_Pca.bin", "<f4", offset=4)
    before = load_bfm09(folder)
    content[: len(content) // (EXPRESSIONS + 1)] = np.random.default_rng(0).normal(
        size=len(content) // (EXPRESSIONS + 1)
    )
    (folder / "Exp_Pca.bin").write_bytes(np.array(EXPRESSIONS, "<i4").tobytes() + content.tobytes())
    after = load_bfm09(folder)
    assert torch.equal(before.mean, after.mean)
    assert torch.equal(before.expression, after.expression)


def test_select_id_and_the_two_tables_agree(folder):
    direct = load_bfm09(folder)
    (folder / "select_vertex_id.mat").unlink()
    assert torch.equal(load_bfm09(folder).mean, direct.mean)


def test_the_whole_mesh_takes_expressions_too(folder):
    model = load_bfm09(
        *(folder / n for n in ("01_MorphableModel.mat", "Exp_Pca.bin", "std_exp.txt", "BFM_exp_idx.mat"))
    )
    known = toy.deep3d_indices()["trimIndex"][:, 0].astype(int) - 1
    assert model.expression.shape == (EXPRESSIONS, toy.COUNT, 3)
    close(model.expression[2, known], expected_expression(known, 2))
    still = sorted(set(range(toy.COUNT)) - set(known))
    assert len(still) == 10
    assert not model.expression[:, still].any()


def test_deep3ds_own_file_comes_first(folder):
    toy.write_deep3d(folder)
    model = load_bfm09(folder)
    kept = toy.crop()
    shape = toy.shape()[kept]
    close(model.mean, toy.ours(shape - shape.mean(0)))
    close(model.identity, toy.ours(toy.unit_basis(80, 1) * toy.deviations(80))[:, kept])
    close(model.expression, toy.ours(toy.unit_basis(64, 2) * toy.deviations(64))[:, kept])
    close(model.albedo_mean, np.full((len(kept), 3), 128 / 255))
    assert triangles(model.faces) == triangles(toy.crop_faces()[:, [0, 2, 1]])
    assert model.masks["front"].sum() == (np.abs(shape[:, 0]) <= 40).sum()


def test_tri_mask2_counts_inside_the_front_region(tmp_path):
    """Read as numbers of the whole mesh its rows would be other triangles, and mostly none at all."""
    tables = toy.deep3d_indices()
    front = tables["frontmask2_idx"][:, 0].astype(int) - 1
    as_global = front[tables["tri_mask2"].astype(int) - 1] + 1
    toy.write_deep3d(tmp_path)
    load_bfm09(tmp_path)
    toy.write_deep3d(tmp_path, frontmask2_idx=np.sort(tables["frontmask2_idx"], 0))
    with pytest.raises(UsageError, match="rows of tri_mask2, read as numbers within frontmask2_idx, are no triangles"):
        load_bfm09(tmp_path)
    toy.write_deep3d(tmp_path, tri_mask2=as_global)
    with pytest.raises(UsageError, match="tri_mask2"):
        load_bfm09(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tri": toy.crop_faces()}, "tri goes from 0 to .*expected whole numbers from 1"),
        ({"keypoints": toy.landmarks()[None] + 1}, "keypoints goes from|outer corners|stand left|nose lies|chin lies"),
        ({"keypoints": toy.crop_landmarks()[None, ::-1] + 1}, "outer corners|stand left|nose|chin"),
        ({"idBase": np.zeros((3 * len(toy.crop()) - 3, 80))}, r"idBase is \(3129, 80\), expected \(3132, any\)"),
        ({"meantex": None}, "lacks 'meantex'"),
        ({"keypoints": None}, "lacks 'keypoints'"),
        ({"tri": toy.crop_faces() + 1.5}, "expected whole numbers"),
        ({"idBase": np.full((3 * len(toy.crop()), 80), 3e38)}, "identity has numbers that are not finite"),
        ({"skinmask": np.ones((1, 7))}, r"skinmask is \(7,\)"),
        ({"meanshape": np.full((1, 3 * len(toy.crop())), np.nan)}, "not finite|look inwards"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, change, words):
    toy.write_deep3d(tmp_path, **change)
    with pytest.raises(UsageError, match=words) as caught:
        load_bfm09(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shapeEV": (toy.deviations(MODES)[:, None] * 1000) ** 2}, "is the basis multiplied by standard deviations"),
        ({"shapePC": toy.unit_basis(MODES, 1) * 30}, "columns of shapePC have lengths from 30 to 30, expected 1"),
        ({"texPC": toy.unit_basis(MODES, 1)[:-3]}, r"texPC is \(3216, 90\), expected \(3219, 90\)"),
        ({"shapeMU": toy.shape().reshape(-1, 1)[:-6] * 1000}, "shapePC is"),
        ({"tl": CLOCKWISE * 1.0}, "tl goes from 0"),
        ({"texMU": None}, "lacks 'texMU'"),
        ({"shapeMU": None}, "expected 01_MorphableModel.mat"),
    ],
)
def test_a_wrong_field_of_2009_is_named(tmp_path, change, words):
    savemat(tmp_path / "a.mat", basel(**change))
    with pytest.raises(UsageError, match=words):
        load_bfm09(tmp_path / "a.mat")


def test_what_is_missing_beside_the_model_is_named(folder):
    (folder / "std_exp.txt").write_text("1 2 3")
    with pytest.raises(UsageError, match="has 3 numbers, expected 70"):
        load_bfm09(folder)
    (folder / "std_exp.txt").unlink()
    with pytest.raises(UsageError, match=r"Exp_Pca.bin needs std_exp.txt"):
        load_bfm09(folder)
    (folder / "Exp_Pca.bin").unlink()
    assert len(load_bfm09(folder).expression) == 0
    (folder / "select_vertex_id.mat").unlink()
    (folder / "BFM_front_idx.mat").unlink()
    with pytest.raises(UsageError, match="lacks 'idx'; give the file that holds it"):
        load_bfm09(folder)


def test_a_truncated_expression_file_is_refused(folder):
    whole = (folder / "Exp_Pca.bin").read_bytes()
    for length in (0, 3, 5, len(whole) - 1, len(whole) // 2 + 1):
        (folder / "Exp_Pca.bin").write_bytes(whole[:length])
        with pytest.raises(UsageError, match=r"Exp_Pca.bin: \d+ bytes do not hold"):
            load_bfm09(folder)


def test_files_that_are_no_mat_files(tmp_path):
    file = tmp_path / "01_MorphableModel.mat"
    with pytest.raises(MissingError, match="no such file or folder"):
        load_bfm09(file)
    with pytest.raises(UsageError, match=r"expected files that end in .mat"):
        load_bfm09(tmp_path)
    savemat(file, basel(), do_compression=True)
    whole = file.read_bytes()
    for length in (0, 60, 130, 5000, len(whole) // 2):
        file.write_bytes(whole[:length])
        with pytest.raises(UsageError, match=r"cannot be read as a .mat file|lacks|expected 01_Morph"):
            load_bfm09(file)
    with h5py.File(file, "w", userblock_size=512) as made:
        made["shapeMU"] = np.zeros(3)
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    file.write_bytes(header + file.read_bytes()[len(header) :])
    with pytest.raises(UsageError, match=r"has MATLAB's format 7.3, expected 5 or 7 .*save with '-v7'"):
        load_bfm09(file)
    savemat(file, {"shapeMU": "words"})
    with pytest.raises(UsageError, match="shapeMU holds no numbers"):
        load_bfm09(file)
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(UsageError, match=r"expected a file that ends in .mat or"):
        load_bfm09(tmp_path / "a.h5")


def test_wrong_bytes_in_a_mat_file_are_no_crash(tmp_path):
    toy.write_deep3d(tmp_path)
    file, random = tmp_path / "BFM_model_front.mat", np.random.default_rng(0)
    whole = np.fromfile(file, np.uint8)
    refused = 0
    for _ in range(25):
        spoiled = whole.copy()
        # Headers lie at the beginning, and one before each field.
        spoiled[random.integers(128, 400, 3)] ^= random.integers(1, 256, 3, dtype=np.uint8)
        spoiled.tofile(file)
        try:
            load_bfm09(file)
        except UsageError:
            refused += 1
    assert refused > 5


def test_landmarks_of_ones_own(folder):
    (folder / "landmarks68.json").write_text(json.dumps(toy.landmarks().tolist()))
    model = load_bfm09(folder / "01_MorphableModel.mat", folder / "landmarks68.json")
    assert model.landmarks68 is not None
    assert model.landmarks68.tolist() == toy.landmarks().tolist()
    for wrong in ([1, 2], [[0]], {}, [*toy.landmarks().tolist()[:-1], toy.COUNT], [0.5] * 68):
        (folder / "landmarks68.json").write_text(json.dumps(wrong))
        with pytest.raises(UsageError, match=f"expected a JSON list of 68 vertices from 0 to {toy.COUNT - 1}"):
            load_bfm09(folder / "01_MorphableModel.mat", folder / "landmarks68.json")


def test_the_published_list_is_symmetric_in_number():
    assert len(set(bfm.LANDMARKS_2009)) == 68
    assert max(bfm.LANDMARKS_2009) < bfm.VERTICES_2009


# ---- 2017 and 2019 ----


def write_h5(file, landmarks=True, scaled=False, **changes):
    """Statismo's layout: millimetres, unit columns, variances, one triangle per column from 0, counter-clockwise."""
    deviations = toy.deviations(8)
    smile = np.random.default_rng(4).normal(size=(toy.COUNT, 3)) * 0.2
    neutral = toy.shape() + np.array([3, 5, -7])
    content = {
        "shape/model/mean": neutral.ravel() - smile.ravel(),
        "shape/model/pcaBasis": toy.unit_basis(8, 1) * (deviations if scaled else 1),
        "shape/model/pcaVariance": deviations**2,
        "shape/representer/points": neutral.T,
        "shape/representer/cells": toy.faces().T.astype(np.int32),
        "expression/model/mean": smile.ravel(),
        "expression/model/pcaBasis": toy.unit_basis(6, 2),
        "expression/model/pcaVariance": toy.deviations(6) ** 2,
        "color/model/mean": np.full(3 * toy.COUNT, 0.4),
        "color/model/pcaBasis": toy.unit_basis(5, 3),
        "color/model/pcaVariance": (toy.deviations(5) / 50) ** 2,
    }
    if landmarks:
        # A little beside their vertices, in the axes of the points.
        places = [
            {"id": name, "coordinates": (neutral[toy.landmarks()[number]] + 0.4).tolist()}
            for number, name in bfm.NAMED_68.items()
        ]
        places.append({"id": "left.ear.helix.center", "coordinates": [82.0, 1.0, -7.0]})
        content["metadata/landmarks/json"] = np.array([json.dumps(places).encode()], dtype=object)
    with h5py.File(file, "w") as made:
        for name, value in (content | changes).items():
            if value is None:
                continue
            if isinstance(value, np.ndarray) and value.dtype == object:
                made.create_dataset(name, data=value, dtype=h5py.string_dtype())
            else:
                made[name] = value
    return file


def test_a_model_of_2017(tmp_path):
    model = load_bfm17(write_h5(tmp_path / "model2017-1_bfm_nomouth.h5"))
    # The mean expression belongs to the neutral face.
    close(model.mean, toy.ours(toy.shape() - toy.shape().mean(0)))
    close(model.identity, toy.ours(toy.unit_basis(8, 1) * toy.deviations(8)))
    close(model.expression, toy.ours(toy.unit_basis(6, 2) * toy.deviations(6)))
    close(model.albedo_mean, np.full((toy.COUNT, 3), 0.4))
    close(model.albedo, (toy.unit_basis(5, 3) * toy.deviations(5) / 50).T.reshape(5, -1, 3))
    assert triangles(model.faces) == triangles(CLOCKWISE), "counted from 0, transposed, and turned"
    assert model.landmarks68 is None
    assert model.partial68 == {number: int(toy.landmarks()[number]) for number in bfm.NAMED_68}
    assert (model.name, model.version) == ("bfm17", "model2017-1_bfm_nomouth")
    with pytest.raises(UsageError, match="only 11 of the 68"):
        model.landmarks(model.mean)


def test_bases_that_are_scaled_already_stay(tmp_path):
    model = load_bfm19(write_h5(tmp_path / "a.h5", scaled=True))
    close(model.identity, toy.ours(toy.unit_basis(8, 1) * toy.deviations(8)))
    assert model.name == "bfm19"


def test_landmarks_and_groups_may_be_absent(tmp_path):
    groups = [f"{g}/model/{n}" for g in ("expression", "color") for n in ("mean", "pcaBasis", "pcaVariance")]
    bare: dict[str, Any] = dict.fromkeys(groups)
    model = load_bfm17(write_h5(tmp_path / "a.h5", landmarks=False, **bare))
    assert (model.expression.shape[0], model.albedo, model.partial68) == (0, None, {})
    (tmp_path / "landmarks68.json").write_text(json.dumps(toy.landmarks().tolist()))
    model = load_bfm17(tmp_path)
    assert model.landmarks68 is not None
    assert model.landmarks68.tolist() == toy.landmarks().tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape/model/pcaBasis": toy.unit_basis(8, 1) * 3}, "lengths from 3 to 3, expected 1"),
        ({"shape/model/pcaVariance": toy.deviations(8) ** 4}, "is the basis multiplied by standard deviations"),
        ({"shape/model/pcaVariance": toy.deviations(7) ** 2}, r"pcaBasis is \(8, 3219\), expected \(7, 3219\)"),
        ({"shape/model/pcaVariance": -toy.deviations(8)}, "not above 0"),
        ({"shape/model/pcaVariance": None}, "is not a model of this kind"),
        ({"shape/representer/cells": toy.faces().astype(np.int32)}, "its cells are"),
        ({"shape/representer/cells": toy.faces().T + 1}, "expected .* numbers from 0 to 1072"),
        ({"shape/model/mean": np.full(3 * toy.COUNT, 1e300)}, "mean has numbers that are not finite"),
        ({"expression/model/mean": np.zeros(9)}, "broadcast|expected"),
        ({"metadata/landmarks/json": np.array([b"{"], object)}, "its landmarks cannot be read"),
    ],
)
def test_a_wrong_h5_is_told(tmp_path, change, words):
    file = write_h5(tmp_path / "a.h5", **change)
    with pytest.raises(UsageError, match=words) as caught:
        load_bfm17(file)
    assert str(file) in str(caught.value)


def test_points_known_from_elsewhere_fill_the_gaps(tmp_path, monkeypatch):
    """A published table is for one mesh, and yields to the file's own landmarks."""
    monkeypatch.setattr(bfm, "PARTIAL_H5", {toy.COUNT: {30: 0, 31: 5}, 7: {1: 2}})
    model = load_bfm17(write_h5(tmp_path / "a.h5"))
    assert model.partial68[31] == 5
    assert model.partial68[30] == toy.landmarks()[30]
    assert 1 not in model.partial68


def test_a_model_of_the_other_year_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(bfm, "VERTICES_H5", {"bfm17": (5,), "bfm19": (toy.COUNT,)})
    file = write_h5(tmp_path / "a.h5")
    with pytest.raises(UsageError, match="vertices of a mesh of bfm19; run: aboutface models add bfm19"):
        load_bfm17(file)
    load_bfm19(file)


def test_files_that_are_no_h5_files(tmp_path):
    file = write_h5(tmp_path / "a.h5")
    whole = file.read_bytes()
    for length in (0, 10, 1000, len(whole) // 2):
        file.write_bytes(whole[:length])
        with pytest.raises(UsageError, match=r"cannot be read as an \.h5 model|is not a model"):
            load_bfm17(file)
    with h5py.File(file, "w") as made:
        made["something"] = 1
    with pytest.raises(UsageError, match="is not a model of this kind"):
        load_bfm17(file)
    write_h5(tmp_path / "b.h5")
    with pytest.raises(UsageError, match=r"holds 2 \.h5 files, expected one"):
        load_bfm17(tmp_path)


def test_without_its_library_it_says_what_to_install(tmp_path, monkeypatch):
    import sys

    file = write_h5(tmp_path / "a.h5")
    toy.write_deep3d(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    for load, path in ((load_bfm17, file), (load_bfm09, tmp_path)):
        with pytest.raises(MissingError, match=r"is needed here: pip install 'aboutface\[morphable\]'"):
            load(path)
