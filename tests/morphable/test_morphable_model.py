"""The general model: sums, crops, joints, the safe file, and what `check` finds."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_face as toy
from safetensors.torch import load_file, save_file

from aboutface.errors import MissingError, UsageError
from aboutface.geometry import face_normals, rotation_from_angles
from aboutface.morphable import Articulation, MorphableModel


def tensor(values, dtype=torch.float32):
    return torch.tensor(np.asarray(values), dtype=dtype)


def basis(modes, seed, scale=1.0):
    return tensor(toy.ours(toy.unit_basis(modes, seed) * toy.deviations(modes)) * scale)


def articulation(modes=(6, 4), joints=3):
    random = torch.Generator().manual_seed(3)
    weights = torch.rand(toy.COUNT, joints, generator=random)
    return Articulation(
        names=("head", "jaw", "tip")[:joints],
        parents=(-1, 0, 1)[:joints],
        mean=torch.randn(joints, 3, generator=random) * 30,
        identity=torch.randn(modes[0], joints, 3, generator=random),
        expression=torch.randn(modes[1], joints, 3, generator=random),
        weights=weights / weights.sum(1, keepdim=True),
        correctives=torch.randn(9 * (joints - 1), toy.COUNT, 3, generator=random),
    )


@pytest.fixture(scope="module")
def model():
    mean = tensor(toy.ours(toy.shape()))
    corners = torch.tensor(toy.landmarks())[:, None].repeat(1, 3)
    corners[:, 1] = (corners[:, 1] + 1) % toy.COUNT
    return MorphableModel(
        name="toy",
        version="1",
        licence="MIT",
        redistributable=True,
        mean=mean,
        identity=basis(6, 1),
        expression=basis(4, 2),
        expression_names=("a", "b", "c", "d"),
        expression_kind="weights",
        faces=torch.tensor(toy.faces()[:, [0, 2, 1]]),
        albedo_mean=torch.full((toy.COUNT, 3), 0.5),
        albedo=basis(5, 4, 0.01),
        uv=(mean[:, :2] + 100) / 200,
        uv_faces=torch.tensor(toy.faces()[:, [0, 2, 1]]),
        landmarks68=torch.tensor(toy.landmarks()),
        landmark_corners=corners,
        landmark_weights=torch.tensor([[0.7, 0.2, 0.1]]).repeat(68, 1),
        masks={"left": mean[:, 0] < 0, "lower": mean[:, 1] > -80},
        articulation=articulation(),
    )


def test_it_is_well(model):
    assert model.check() is model


def test_vertices_are_the_sum_that_a_loop_makes(model):
    identity, expression = torch.randn(2, 6), torch.rand(2, 4)
    made = model.vertices(identity, expression)
    for b in range(2):
        expected = model.mean.clone()
        for weight, mode in zip(identity[b], model.identity, strict=True):
            expected += weight * mode
        for weight, mode in zip(expression[b], model.expression, strict=True):
            expected += weight * mode
        torch.testing.assert_close(made[b], expected, rtol=0, atol=1e-4)
    fewer = model.vertices(identity[:, :3])
    padded = model.vertices(torch.nn.functional.pad(identity[:, :3], (0, 3)), torch.zeros(2, 4))
    torch.testing.assert_close(fewer, padded)
    torch.testing.assert_close(model.vertices(torch.zeros(1, 0))[0], model.mean)


def test_the_derivative_of_a_vertex_is_the_basis(model):
    identity, expression = torch.zeros(1, 6, requires_grad=True), torch.zeros(1, 4, requires_grad=True)
    model.vertices(identity, expression)[0, 17, 2].backward()
    torch.testing.assert_close(identity.grad, model.identity[None, :, 17, 2])
    torch.testing.assert_close(expression.grad, model.expression[None, :, 17, 2])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.zeros(1, 7),), r"identity coefficients are \(1, 7\), expected \(1, at most 6\)"),
        ((torch.zeros(1, 6), torch.zeros(2, 4)), r"expression coefficients are \(2, 4\), expected \(1, at most 4\)"),
        ((torch.zeros(6),), "identity coefficients are"),
        ((torch.zeros(1, 6), None, torch.zeros(1, 2, 3, 3)), r"expected \(1, 3, 3, 3\): rotations of head, jaw, tip"),
    ],
)
def test_wrong_coefficients_are_refused(model, arguments, words):
    with pytest.raises(UsageError, match=words):
        model.vertices(*arguments)


def test_colours(model):
    weights = torch.tensor([[1.0, -2.0]])
    expected = model.albedo_mean + model.albedo[0] - 2 * model.albedo[1]
    torch.testing.assert_close(model.colours(weights)[0], expected)
    with pytest.raises(UsageError, match="has no albedo; learn one from photos"):
        replace(model, albedo=None, albedo_mean=None).colours(weights)


def test_landmarks_lie_between_corners_or_on_vertices(model):
    points = model.landmarks(model.mean[None])
    a, b, c = model.mean[model.landmark_corners].unbind(1)
    torch.testing.assert_close(points[0], 0.7 * a + 0.2 * b + 0.1 * c)
    plain = replace(model, landmark_corners=None, landmark_weights=None)
    assert torch.equal(plain.landmarks(model.mean), model.mean[model.landmarks68])
    with pytest.raises(UsageError, match="only 1 of the 68 landmarks are known"):
        replace(plain, landmarks68=None, partial68={30: 4}).landmarks(model.mean)


def test_normals_point_outwards(model):
    normals = model.normals(model.mean)
    outside = torch.nn.functional.normalize(model.mean / torch.tensor([100.0, 140, 90]) ** 2, dim=1)
    flat = (model.mean[:, :2].norm(dim=1) > 40) & (model.mean[:, 0].abs() < 60) & (model.mean[:, 1].abs() < 80)
    assert (normals * outside).sum(1)[flat].min() > 0.98


def test_a_crop_is_the_same_face_with_fewer_vertices(model):
    mask = model.masks["lower"]
    cropped = model.part("lower")
    identity, expression = torch.randn(1, 6), torch.rand(1, 4)
    pose = rotation_from_angles(torch.tensor([[5.0, -10.0, 20.0]]), torch.tensor([[3.0, 8.0, -4.0]]))
    whole, part = (m.vertices(identity, expression, pose) for m in (model, cropped))
    torch.testing.assert_close(part, whole[:, mask])
    torch.testing.assert_close(cropped.landmarks(part), model.landmarks(whole))
    torch.testing.assert_close(cropped.colours(torch.ones(1, 5)), model.colours(torch.ones(1, 5))[:, mask])
    kept = mask[model.faces].all(1)
    torch.testing.assert_close(face_normals(cropped.mean, cropped.faces), face_normals(model.mean, model.faces[kept]))
    assert torch.equal(cropped.uv[cropped.uv_faces], model.uv[model.uv_faces[kept]])
    assert len(cropped.uv) == len(cropped.uv_faces.unique())
    assert torch.equal(cropped.masks["left"], model.masks["left"][mask])
    assert cropped.check() is cropped


def test_a_crop_without_some_landmarks_knows_the_others(model):
    half = model.part("left")
    assert half.landmarks68 is None
    assert half.landmark_corners is None
    assert 36 in half.partial68
    assert 45 not in half.partial68
    assert torch.equal(half.mean[half.partial68[36]], model.mean[model.landmarks68[36]])
    with pytest.raises(UsageError, match="choose one of left, lower"):
        model.part("nose")
    for wrong in (torch.zeros(toy.COUNT, dtype=torch.bool), torch.ones(3, dtype=torch.bool), torch.ones(toy.COUNT)):
        with pytest.raises(UsageError, match="expected a bool mask of 1073"):
            model.cropped(wrong)


def test_joints_turn_what_hangs_on_them(model):
    """A rigid turn of the first joint turns everything about it; a joint that no vertex follows turns nothing."""
    still = model.articulation
    free = replace(still, correctives=torch.zeros_like(still.correctives))
    jointed = replace(model, articulation=free)
    identity = torch.randn(1, 6)
    turn = torch.eye(3).repeat(1, 3, 1, 1)
    torch.testing.assert_close(jointed.vertices(identity, pose=turn), model.vertices(identity), rtol=0, atol=1e-4)
    turn[:, 0] = rotation_from_angles(30.0, 10.0, -5.0)
    joint = still.mean[0] + torch.einsum("i,ix->x", identity[0], still.identity[:, 0])
    expected = (model.vertices(identity)[0] - joint) @ turn[0, 0].mT + joint
    torch.testing.assert_close(jointed.vertices(identity, pose=turn)[0], expected, rtol=0, atol=1e-4)
    alone = replace(free, weights=torch.tensor([[1.0, 0, 0]]).repeat(toy.COUNT, 1))
    turn = torch.eye(3).repeat(1, 3, 1, 1)
    turn[:, 1] = rotation_from_angles(0.0, 40.0, 0.0)
    unmoved = replace(model, articulation=alone).vertices(identity, pose=turn)
    torch.testing.assert_close(unmoved, model.vertices(identity), rtol=0, atol=1e-4)
    with pytest.raises(UsageError, match="has no joints"):
        replace(model, articulation=None).vertices(identity, pose=turn)


def test_bases_are_kept_in_the_order_of_reading(model):
    turned = replace(model, identity=model.identity.permute(2, 1, 0).contiguous().permute(2, 1, 0))
    assert turned.identity.is_contiguous()


def test_every_tensor_goes_to_the_device(model):
    there = model.to("meta")
    assert {t.device.type for t in (there.mean, there.masks["left"], there.articulation.weights, there.uv)} == {"meta"}
    assert there.expression_names == model.expression_names


# ---- the safe file ----


def assert_same(a: MorphableModel, b: MorphableModel, offsets: float):
    for name in ("name", "version", "licence", "redistributable", "expression_names", "expression_kind", "partial68"):
        assert getattr(a, name) == getattr(b, name), name
    for name in ("mean", "faces", "albedo_mean", "uv", "uv_faces", "landmarks68", "landmark_corners"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in ("identity", "expression", "albedo"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=offsets, atol=offsets * 1e-3)
    assert a.masks.keys() == b.masks.keys()
    assert all(torch.equal(a.masks[name], b.masks[name]) for name in a.masks)
    assert a.articulation is not None
    assert b.articulation is not None
    assert (a.articulation.names, a.articulation.parents) == (b.articulation.names, b.articulation.parents)
    for name in ("mean", "identity", "expression", "weights"):
        assert torch.equal(getattr(a.articulation, name), getattr(b.articulation, name))


def test_what_is_saved_is_loaded(model, tmp_path):
    model.save(tmp_path / "whole.safetensors", half=False)
    assert_same(MorphableModel.load(tmp_path / "whole.safetensors"), model, 0.0)
    model.save(tmp_path / "half.safetensors")
    loaded = MorphableModel.load(tmp_path / "half.safetensors")
    # Half precision keeps 11 bits.
    assert_same(loaded, model, 2.0**-11)
    assert loaded.identity.dtype == torch.float32
    whole, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half"))
    halved = (model.identity, model.expression, model.albedo, model.articulation.correctives)
    assert whole - half == pytest.approx(2 * sum(t.numel() for t in halved), abs=200)
    partial = replace(model, landmarks68=None, landmark_corners=None, landmark_weights=None, partial68={30: 4, 8: 5})
    partial.save(tmp_path / "partial.safetensors")
    assert MorphableModel.load(tmp_path / "partial.safetensors").partial68 == {30: 4, 8: 5}


def test_damaged_and_foreign_files_are_refused(model, tmp_path):
    file = tmp_path / "a.safetensors"
    model.save(file)
    whole = file.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(UsageError, match=r"cannot be read .*aboutface models add"):
            MorphableModel.load(file)
    save_file({"a": torch.zeros(3)}, file)
    with pytest.raises(UsageError, match="is no morphable model of this project"):
        MorphableModel.load(file)
    with pytest.raises(MissingError, match="no such model"):
        MorphableModel.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("facts", "dropped", "words"),
    [
        ({"format_version": "2"}, None, "has version 2 of the format, expected 1"),
        ({"model": "{"}, None, "is damaged"),
        ({"model": "{}"}, None, "is damaged"),
        ({}, "mean", "is damaged"),
        ({}, "articulation.weights", "is damaged"),
    ],
)
def test_other_versions_and_missing_parts_are_told(model, tmp_path, facts, dropped, words):
    from safetensors import safe_open

    file = tmp_path / "a.safetensors"
    model.save(file)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = {name: value for name, value in load_file(file).items() if name != dropped}
    save_file(tensors, file, metadata | facts)
    with pytest.raises(UsageError, match=words):
        MorphableModel.load(file)


def test_the_file_carries_its_card(model, tmp_path):
    from aboutface.weights import load_file as with_card

    model.save(tmp_path / "a.safetensors")
    _, card = with_card(tmp_path / "a.safetensors")
    assert card["licence"] == "MIT"
    assert card["settings"]["vertices"] == toy.COUNT
    assert json.dumps(card)


# ---- check ----


def spoil(t, value):
    t = t.clone().contiguous()
    t.view(-1)[3] = value
    return t


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: {"mean": spoil(m.mean, float("nan"))}, "mean has numbers that are not finite"),
        (lambda m: {"identity": m.identity[:, :-1]}, r"identity is \(6, 1072, 3\), expected \(any, 1073, 3\)"),
        (lambda m: {"expression_names": ("a",)}, r"expression is \(4, 1073, 3\), expected \(1, 1073, 3\)"),
        (lambda m: {"faces": spoil(m.faces, 1073)}, "faces goes from 0 to 1073, expected 0 to 1072"),
        (lambda m: {"faces": m.faces[:0], "uv_faces": m.faces[:0]}, "has no triangles"),
        (lambda m: {"uv_faces": spoil(m.uv_faces, -1)}, "uv_faces goes from -1"),
        (lambda m: {"landmarks68": spoil(m.landmarks68, 9999)}, "landmarks68 goes from .* to 9999"),
        (lambda m: {"landmarks68": m.landmarks68[:60]}, r"landmarks68 is \(60,\), expected \(68,\)"),
        (lambda m: {"masks": {"skin": torch.ones(3)}}, r"masks\[skin\] is \(3,\)"),
        (lambda m: {"mean": m.mean / 10}, "outer corners of its eyes are 9 mm apart, expected 80 to 100"),
        (lambda m: {"mean": m.mean * torch.tensor([-1.0, 1, 1])}, "36 and 45 stand left for right"),
        (lambda m: {"mean": m.mean * torch.tensor([1.0, 1, -1])}, "nose lies behind its eyes"),
        (lambda m: {"mean": m.mean * torch.tensor([1.0, -1, 1])}, "chin lies above its eyes"),
        (lambda m: {"faces": m.faces[:, [0, 2, 1]]}, "triangles look inwards"),
        (lambda m: {"identity": m.identity**2 * 50}, "largest identity mode is .* per standard deviation"),
        (lambda m: {"identity": m.identity / 1000}, "is the basis multiplied by standard deviations"),
        (lambda m: {"expression": m.expression * 100}, "largest expression mode"),
        (lambda m: {"albedo": m.albedo * 255}, "largest albedo mode"),
        (lambda m: {"albedo_mean": m.albedo_mean * 255}, "goes up to 128, expected 0 to 1; divide it by 255"),
        (lambda m: {"albedo_mean": m.albedo_mean - 1}, "goes down to -0.5"),
        (lambda m: {"articulation": replace(m.articulation, parents=(-1, 2, 0))}, "parents .* do not come before"),
        (
            lambda m: {"articulation": replace(m.articulation, weights=m.articulation.weights[1:])},
            "articulation.weights",
        ),
    ],
)
def test_check_says_what_is_wrong(model, change, words):
    with pytest.raises(UsageError, match=words):
        replace(model, **change(model)).check()


def test_triangles_are_judged_without_landmarks_too(model):
    bare = replace(model, landmarks68=None, landmark_corners=None, landmark_weights=None)
    bare.check()
    with pytest.raises(UsageError, match="look inwards"):
        replace(bare, faces=bare.faces[:, [0, 2, 1]]).check()
