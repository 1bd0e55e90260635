"""FLAME: values, joints against a slow loop in FLAME's own frame, pickles that may do nothing, and broken files."""

import codecs
import importlib
import io
import json
import os
import pickle
import struct
import sys
import types

import numpy as np
import pytest
import torch
import toy_face as toy

from aboutface.errors import UsageError
from aboutface.morphable import MorphableModel, load_flame
from aboutface.morphable.pickles import read_pickle

sparse = pytest.importorskip("scipy.sparse", reason="needs the extra morphable")

OURS = np.array([1.0, -1.0, -1.0])


def flame(**changes):
    """What generic_model.pkl holds: metres, y up, modes per standard deviation, the head high above the origin."""
    random = np.random.default_rng(7)
    sizes = np.concatenate([toy.deviations(300), toy.deviations(100)]) / 1000
    modes = (toy.unit_basis(400, 1) * sizes).reshape(toy.COUNT, 3, 400).astype(np.float32)
    template = (toy.shape() + np.array([5, 1400, 20])) / 1000
    weights = random.uniform(size=(toy.COUNT, 5)) ** 4
    regressor = np.zeros((5, toy.COUNT))
    for joint, (x, y) in enumerate([(0, -80), (0, -60), (0, -20), (30, 30), (-30, 30)]):
        regressor[joint, toy.vertex(x, y) + np.arange(4)] = [0.4, 0.3, 0.2, 0.101]
    content = {
        "v_template": template,
        "f": toy.faces().astype(np.uint32),
        "shapedirs": modes,
        "posedirs": random.normal(size=(toy.COUNT, 3, 36)) / 1000,
        "J_regressor": sparse.csc_matrix(regressor),
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([[4294967295, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.int64),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }
    return {name: value for name, value in (content | changes).items() if value is not None}


def write(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_flame(write(tmp_path_factory.mktemp("flame") / "generic_model.pkl", flame()))


def close(found, expected, atol=2e-5):
    torch.testing.assert_close(found, torch.from_numpy(np.asarray(expected)).to(found.dtype), rtol=0, atol=atol)


def test_shape_and_expression(model):
    content = flame()
    template = content["v_template"]
    close(model.mean, (template - template.mean(0)) * 1000 * OURS)
    modes = content["shapedirs"].transpose(2, 0, 1) * 1000 * OURS
    close(model.identity, modes[:300])
    close(model.expression, modes[300:])
    assert model.expression_kind == "gaussian"
    assert (model.articulation.parents, model.albedo) == ((-1, 0, 1, 1, 1), None)
    assert model.articulation.names == ("head", "neck", "jaw", "eye_left", "eye_right"), "its left has x > 0"
    assert torch.equal(model.masks["eyes"], torch.from_numpy(content["weights"][:, 3:].sum(1) > 0.5))


def rotation(axis_angle):
    """Rodrigues' formula, (3, 3)."""
    angle = np.linalg.norm(axis_angle)
    x, y, z = axis_angle / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def flame_slowly(content, coefficients, pose):
    """(V, 3) metres in FLAME's frame: its five steps, vertex by vertex, with axis-angle pose (5, 3)."""
    vertices = content["v_template"] + content["shapedirs"] @ coefficients
    joints = content["J_regressor"] @ vertices
    turns = [rotation(axis_angle) for axis_angle in pose]
    feature = np.concatenate([(turn - np.eye(3)).ravel() for turn in turns[1:]])
    vertices = vertices + content["posedirs"] @ feature
    frames = []
    for joint, parent in enumerate([-1, 0, 1, 1, 1]):
        frame = np.eye(4)
        frame[:3, :3] = turns[joint]
        frame[:3, 3] = joints[joint] - (joints[parent] if parent >= 0 else 0)
        frames.append(frame if parent < 0 else frames[parent] @ frame)
    made = []
    for vertex, weights in zip(vertices, content["weights"], strict=True):
        total = np.zeros(4)
        for joint, weight in enumerate(weights):
            at_rest = np.append(vertex - joints[joint], 1)
            total += weight * (frames[joint] @ at_rest)
        made.append(total[:3])
    return np.array(made)


def test_joints_turn_as_in_a_slow_loop(model):
    content, random = flame(), np.random.default_rng(8)
    coefficients = random.normal(size=400)
    pose = random.normal(size=(5, 3)) * 0.4
    slow = flame_slowly(content, coefficients, pose)
    expected = (slow - content["v_template"].mean(0)) * 1000 * OURS
    # The same turns in our axes.
    turns = np.stack([np.diag(OURS) @ rotation(axis_angle) @ np.diag(OURS) for axis_angle in pose])
    identity, expression = torch.from_numpy(coefficients).float()[None].split([300, 100], 1)
    made = model.vertices(identity, expression, torch.from_numpy(turns).float()[None])
    close(made[0], expected, 2e-3)
    assert (made - model.vertices(identity, expression)).norm(dim=-1).mean() > 10


def test_pose_can_be_fitted(model):
    pose = torch.eye(3).repeat(1, 5, 1, 1).requires_grad_()
    model.vertices(torch.zeros(1, 2), pose=pose).square().sum().backward()
    assert pose.grad is not None
    assert pose.grad.abs().amax((0, 2, 3)).gt(0).all()


def test_the_safe_file_keeps_the_joints(model, tmp_path):
    model.save(tmp_path / "flame.safetensors", half=False)
    again = MorphableModel.load(tmp_path / "flame.safetensors")
    pose = torch.eye(3).repeat(1, 5, 1, 1)
    pose[0, 2] = torch.tensor(rotation(np.array([0.3, 0.1, 0.0])))
    assert torch.equal(again.vertices(torch.ones(1, 5), pose=pose), model.vertices(torch.ones(1, 5), pose=pose))


# ---- forms of the same file ----


def test_npz_and_older_pickles_are_the_same_model(model, tmp_path, monkeypatch):
    content = flame()
    dense = content | {"J_regressor": content["J_regressor"].toarray()}
    np.savez(tmp_path / "flame.npz", allow_pickle=False, **dense)
    again = load_flame(tmp_path / "flame.npz")
    assert again.articulation is not None
    assert torch.equal(again.articulation.mean, model.articulation.mean)

    # chumpy's objects, scipy's old module names, a matrix by rows.
    chumpy, reordering = types.ModuleType("chumpy.ch"), types.ModuleType("chumpy.reordering")

    class Ch:
        def __init__(self, x):
            self.x = x

    class Select:
        def __init__(self, a, idxs, preferred_shape):
            self.a, self.idxs, self.preferred_shape = a, idxs, preferred_shape

    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    for module, cls in ((chumpy, Ch), (reordering, Select)):
        cls.__module__, cls.__qualname__ = module.__name__, cls.__name__
        setattr(module, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    order = np.random.default_rng(0).permutation(3 * toy.COUNT)
    shuffled = np.empty(3 * toy.COUNT)
    shuffled[order] = content["v_template"].ravel()
    wrapped = content | {
        "v_template": Select(Ch(shuffled), order, (toy.COUNT, 3)),
        "shapedirs": Ch(content["shapedirs"]),
        "J_regressor": content["J_regressor"].tocsr(),
    }
    raw = pickle.dumps(wrapped, 2).replace(b"scipy.sparse._csr\n", b"scipy.sparse.csr\n")
    (tmp_path / "old.pkl").write_bytes(raw)
    for name in ("chumpy", "chumpy.ch", "chumpy.reordering"):
        monkeypatch.delitem(sys.modules, name)
    old = load_flame(tmp_path / "old.pkl")
    assert old.articulation is not None
    assert torch.equal(old.mean, model.mean)
    assert torch.equal(old.identity, model.identity)
    assert torch.equal(old.articulation.mean, model.articulation.mean)


def test_a_pickle_of_python_2(tmp_path):
    """Written by hand: Python 2 keeps an array's bytes as a plain string, which latin1 must bring through."""
    numbers = np.array([1.5, -2.0, 1e300])
    string = lambda content: b"T" + struct.pack("<i", len(content)) + content  # noqa: E731
    dtype = b"cnumpy\ndtype\n(U\x02f8K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    state = b"(K\x01(K\x03t" + dtype + b"I00\n" + string(numbers.tobytes()) + b"tb"
    (tmp_path / "two.pkl").write_bytes(b"\x80\x02}U\x01x" + array + state + b"s.")
    assert read_pickle(tmp_path / "two.pkl")["x"].tolist() == numbers.tolist()


def test_landmarks_inside_triangles(model, tmp_path):
    """An .npy of a pickled dict, in one form with arrays and in another with tensors."""
    rows = np.arange(68) * 11
    weights = np.random.default_rng(1).dirichlet((1, 1, 1), 68)
    vertices = toy.shape()[toy.faces()[rows]]
    expected = (vertices * weights[..., None]).sum(1) - toy.shape().mean(0)
    write(tmp_path / "generic_model.pkl", flame())
    arrays = {
        "full_lmk_faces_idx": rows[None],
        "full_lmk_bary_coords": weights[None],
        "static_lmk_faces_idx": rows[:51],
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    for content in (arrays, tensors):
        np.save(tmp_path / "landmark_embedding.npy", np.array(content, dtype=object), allow_pickle=True)
        # These are no face's landmarks: read, they must be found wrong as such.
        with pytest.raises(UsageError, match=r"outer corners of its eyes|stand left|nose|chin"):
            load_flame(tmp_path)
        table = read_pickle(tmp_path / "landmark_embedding.npy")
        assert all(isinstance(array, np.ndarray) for array in table.values())
        assert table["full_lmk_bary_coords"].tolist() == weights[None].tolist()
    # A real face's: each in a triangle at its vertex.
    rows = np.array([np.flatnonzero((toy.faces() == vertex).any(1))[0] for vertex in toy.landmarks()])
    weights = np.where(toy.faces()[rows] == toy.landmarks()[:, None], 0.8, 0.1)
    content = {"full_lmk_faces_idx": rows[None], "full_lmk_bary_coords": weights[None]}
    np.save(tmp_path / "landmark_embedding.npy", np.array(content, dtype=object), allow_pickle=True)
    marked = load_flame(tmp_path)
    expected = (toy.shape()[toy.faces()[rows]] * weights[..., None]).sum(1) - toy.shape().mean(0)
    close(marked.landmarks(marked.mean), expected * OURS, 1e-4)
    assert marked.landmarks68 is not None
    assert marked.landmarks68.tolist() == toy.landmarks().tolist()
    lower = marked.cropped(marked.mean[:, 1] > -80)
    close(lower.landmarks(lower.mean), expected * OURS, 1e-4)
    content["full_lmk_faces_idx"] = rows[None] + 5000
    np.save(tmp_path / "landmark_embedding.npy", np.array(content, dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="the embedding belongs to another model"):
        load_flame(tmp_path)


def test_masks_and_landmarks_of_ones_own(tmp_path):
    write(tmp_path / "generic_model.pkl", flame())
    write(tmp_path / "FLAME_masks.pkl", {"face": np.arange(500), "scalp": np.arange(500, 700)})
    (tmp_path / "landmarks68.json").write_text(json.dumps(toy.landmarks().tolist()))
    model = load_flame(tmp_path)
    assert model.part("scalp").mean.shape == (200, 3)
    assert model.landmarks68 is not None
    assert model.landmarks68.tolist() == toy.landmarks().tolist()


# ---- what must not happen ----


class Calls:
    """Pickled, it asks for a call when it is read."""

    def __init__(self, function, *arguments):
        self.asked = function, arguments

    def __reduce__(self):
        return self.asked


def test_nothing_in_a_pickle_is_executed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("here")
    stored = io.BytesIO()
    torch.save(Calls(os.remove, str(victim)), stored)
    asks = {
        "os.remove": Calls(os.remove, str(victim)),
        "eval": Calls(eval, f"__import__('os').remove({str(victim)!r})"),
        "getattr": Calls(getattr, "abc", "upper"),
        "numpy": Calls(np.load, str(victim), None, True),
        "torch": Calls(torch.storage._load_from_bytes, stored.getvalue()),
        "nested": {"v_template": [Calls(os.remove, str(victim))]},
    }
    for name, ask in asks.items():
        for protocol in (0, 2, 4):
            file = write(tmp_path / "bad.pkl", {"v_template": np.zeros(3), "bs_style": ask}, protocol)
            with pytest.raises(UsageError, match=r"asks for|cannot be read as a pickle") as caught:
                load_flame(file)
            assert victim.is_file(), (name, caught.value)
        np.save(tmp_path / "bad.npy", np.array({"full_lmk_faces_idx": ask}, dtype=object), allow_pickle=True)
        with pytest.raises(UsageError, match=r"asks for|cannot be read as a pickle"):
            read_pickle(tmp_path / "bad.npy")
        assert victim.is_file(), name
    # That the files would do it, read by pickle itself.
    pickle.loads(pickle.dumps(asks["os.remove"]))
    assert not victim.is_file()


def test_the_reader_makes_only_its_own_stand_ins(tmp_path):
    rebuild = getattr(importlib.import_module("copyreg"), "_reconstructor")  # noqa: B009

    file = tmp_path / "a.pkl"
    for wrong in (
        Calls(rebuild, np.ndarray, object, None),
        Calls(rebuild, dict, dict, {}),
    ):
        write(file, wrong)
        with pytest.raises(UsageError):
            read_pickle(file)
    write(file, Calls(codecs.encode, "abc", "rot13"))
    with pytest.raises(UsageError, match="asks for the encoding 'rot13'"):
        read_pickle(file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"v_template": None}, "holds 0 files with v_template"),
        ({"weights": None}, "lacks 'weights'"),
        ({"shapedirs": np.zeros((toy.COUNT, 3, 10))}, r"shapedirs is \(1073, 3, 10\), expected \(1073, 3, 400\)"),
        ({"J_regressor": sparse.csc_matrix(np.zeros((24, toy.COUNT)))}, r"J_regressor is \(24, 1073\)"),
        ({"f": toy.faces() + 1}, "numbers from 0 to 1072"),
        ({"f": toy.faces()[:, :2]}, r"expected \(any, 3\)"),
        ({"v_template": np.full((toy.COUNT, 3), np.nan)}, "not finite"),
        ({"weights": np.array([["a"] * 5] * toy.COUNT)}, "weights holds no numbers"),
        ({"kintree_table": np.array([[-1, 0, 1, 4, 1], [0, 1, 2, 3, 4]])}, "do not come before"),
    ],
)
def test_a_wrong_model_is_told(tmp_path, change, words):
    file = write(tmp_path / "generic_model.pkl", flame(**change))
    with pytest.raises(UsageError, match=words) as caught:
        load_flame(file)
    assert str(file) in str(caught.value)


def test_broken_files_are_told(tmp_path):
    file = write(tmp_path / "generic_model.pkl", flame())
    whole = file.read_bytes()
    for content in (b"", b"no pickle", whole[:1000], whole[: len(whole) // 2], whole[:-1]):
        file.write_bytes(content)
        with pytest.raises(UsageError, match=r"generic_model.pkl: cannot be read as a pickle"):
            load_flame(file)
    write(file, [1, 2])
    with pytest.raises(UsageError, match="holds list, expected names with arrays"):
        load_flame(file)
    write(file, flame())
    write(tmp_path / "b.pkl", flame())
    with pytest.raises(UsageError, match="holds 2 files with v_template"):
        load_flame(tmp_path)
    (tmp_path / "c.npz").write_bytes(b"PK nothing")
    with pytest.raises(UsageError, match="cannot be read"):
        load_flame(tmp_path / "c.npz")
