"""The networks of the experiments on a few made faces: what each sees, and which of them share their weights."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from aboutface.benchmark import learned, methods
from aboutface.benchmark.learned import TABLE1, TABLE3
from aboutface.benchmark.methods import Store
from aboutface.benchmark.protocol import Faces, Split, all_pairs, evaluate
from aboutface.geometry import rotation_from_angles
from aboutface.morphable import MeanHead
from aboutface.recipes.depthnet import new_net, with_images
from aboutface.reconstruct.depthnet import DepthNet, DepthNetSettings
from aboutface.reconstruct.landmark_baselines import carry

SMALL = DepthNetSettings(hidden=(8,), crop=20, filters=(2, 3, 4), units=(8, 6))
MODELS = {"v1": "separate", "v1-cnn": "separate", "v2": "secondary", "v2-cnn": "secondary"}
MODELS |= {"v3": "pseudo-inverse", "v3-cnn": "pseudo-inverse"}


def made(count: int, seed: int, images: bool) -> Faces:
    generator = torch.Generator().manual_seed(seed)
    turn = torch.randn(3, count, generator=generator) * torch.tensor([[25.0], [8.0], [8.0]])
    shapes = MeanHead.load().landmarks + torch.randn(count, 68, 3, generator=generator)
    points = (0.3 * shapes @ rotation_from_angles(*turn).mT + 40).double()
    pictures = torch.rand(count, 1, 20, 20, generator=generator) if images else None
    return Faces(points[..., :2], points[..., 2], images=pictures, identity=torch.arange(count) // 4)


@pytest.fixture
def split() -> Split:
    train = made(24, 0, images=True)
    return Split(0, train, made(6, 1, images=True), made(10, 2, images=False).points)


@pytest.fixture
def small(monkeypatch):
    """Networks of the published kinds, but small."""

    def smaller(asked: DepthNetSettings) -> DepthNetSettings:
        return replace(SMALL, affine=asked.affine, registered=asked.registered, images=asked.images)

    monkeypatch.setattr(learned, "DepthNet", lambda asked: DepthNet(smaller(asked)))
    monkeypatch.setattr(learned, "new_net", lambda training: new_net(replace(training, hidden=SMALL.hidden)))
    monkeypatch.setattr(learned, "with_images", lambda net, asked: with_images(net, smaller(asked)))


def store(folder, lines=None) -> Store:
    return Store(folder, quick=True, log=(lines if lines is not None else []).append)


def seen_by(method: methods.Method, split: Split) -> Split:
    """What the benchmark lets a method see."""
    train = split.train if method.needs_depth else split.train.without_depth()
    return replace(split, train=train, test=split.test.without_depth())


@pytest.mark.parametrize("name", MODELS)
def test_models_of_table1_carry_every_pair(name, split, small, tmp_path):
    method, pairs = TABLE1[name], all_pairs(6)
    assert method.learned
    assert not method.needs_depth
    own = seen_by(method, split)
    errors = evaluate(method.fit(own, store(tmp_path)), own.test, pairs)
    assert errors.mse.shape == (30,)
    assert errors.mse.isfinite().all()
    assert errors.depth is not None
    assert errors.depth.isfinite().all()
    assert (errors.depth.std(1) > 0.1).all(), "no face is flat"
    parts = evaluate(method.fit(own, store(tmp_path)), own.test, pairs, chunk=7)
    assert_close(parts.mse, errors.mse, rtol=1e-4, atol=1e-6)


def test_models_3_and_5_share_a_net_and_differ_in_the_affine(split, small, tmp_path):
    lines: list[str] = []
    kept = store(tmp_path, lines)
    source, target = all_pairs(6)
    predicted, secondary = (TABLE1[name].fit(split, kept)(split.test, source, target) for name in ("v1", "v2"))
    assert sum("training v1-keypoints" in line for line in lines) == 1
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["v1-keypoints-seed0.safetensors"]
    assert predicted.depth is not None
    assert secondary.depth is not None
    assert torch.equal(predicted.depth, secondary.depth)
    assert (predicted.points - secondary.points).abs().max() > 1e-3
    points, goal = split.test.points[source], split.test.points[target]
    assert_close(secondary.points, carry(points, secondary.depth, goal), rtol=0, atol=1e-4)
    # The closed form is the best affine for a depth: it cannot do worse on any pair.
    first, second = ((p.points - goal).square().mean((1, 2)) for p in (predicted, secondary))
    assert (second <= first + 1e-9).all()


def test_models_with_pictures_grow_out_of_those_without(split, small, tmp_path):
    lines: list[str] = []
    kept = store(tmp_path, lines)
    TABLE1["v3-cnn"].fit(split, kept)
    TABLE1["v3"].fit(split, kept)
    assert [line for line in lines if line.startswith("training v3")] == [
        "training v3-pictures, seed 0",
        "training v3-keypoints, seed 0",
    ]
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_pictures_are_needed_where_they_are_seen(split, small, tmp_path):
    predict = TABLE1["v3-cnn"].fit(split, store(tmp_path))
    blind = replace(split.test, images=None)
    with pytest.raises(ValueError, match="sees pictures"):
        predict(blind, *all_pairs(6))


def test_every_face_is_encoded_once(split, small, tmp_path, monkeypatch):
    net = DepthNet(replace(SMALL, images=True))
    last = net.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.normal_(last.weight)
    calls = []
    encode = DepthNet.encode
    monkeypatch.setattr(DepthNet, "encode", lambda self, images: calls.append(len(images)) or encode(self, images))
    source, target = torch.tensor([1, 1, 4]), torch.tensor([4, 2, 1])
    found = learned.depthnet_predictor(net, "pseudo-inverse", chunk=2)(split.test, source, target)
    assert calls == [3]
    images = split.test.images
    assert images is not None
    features = (encode(net, images[source]), encode(net, images[target]))
    points = split.test.points.float()
    assert found.depth is not None
    assert_close(found.depth, net(points[source], points[target], *features).depth.double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["depthnet", "depthnet-gan", "depthnet-depth", "aign"])
def test_models_of_table3_say_depths(name, split, small, tmp_path, monkeypatch):
    method = TABLE3[name]
    assert method.needs_depth == (name != "depthnet")
    own = seen_by(method, split)
    monkeypatch.setattr(learned, "QUICK", 3)
    if name == "depthnet":
        own = replace(own, train=own.train.without_depth())
    errors = evaluate(method.fit(own, store(tmp_path)), own.test, all_pairs(6))
    assert errors.mse.isfinite().all()
    assert errors.depth is not None
    assert errors.depth.isfinite().all()
    assert (errors.depth.std(1) > 0).all()


def test_labels_are_given_to_those_that_ask_alone(split):
    assert learned.training_faces(split).depth is None
    labelled = learned.training_faces(split, labels=True).depth
    assert labelled is not None
    assert torch.equal(labelled, split.train.depth)
    assert learned.training_faces(split).images is None
    assert learned.training_faces(split, images=True).images is not None


def test_people_are_paired_with_themselves_where_they_have_names(split):
    pairs = learned.training_faces(split).pairs
    assert pairs is not None
    identity = split.train.identity
    assert identity is not None
    assert (identity[pairs[:, 0]] == identity[pairs[:, 1]]).all()
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert len(pairs.unique(dim=0)) == len(pairs) == 6 * 4 * 3
    nameless = replace(split, train=replace(split.train, identity=None))
    assert learned.training_faces(nameless).pairs is None


def test_seeds_and_settings_make_other_weights(split, small, tmp_path):
    build = learned.depthnet("x", learned.CLOSED_FORM)
    first = build(split, store(tmp_path / "a")).state_dict()
    again = build(split, store(tmp_path / "b")).state_dict()
    other = build(replace(split, seed=1), store(tmp_path / "a")).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())
    assert len(list((tmp_path / "a").glob("*.safetensors"))) == 2


def test_training_settings_are_the_papers_where_they_must_be():
    """Table 1 has no gauge and no label; Table 3's unlabelled row has no label."""
    for training in (learned.SEPARATE, learned.CLOSED_FORM):
        assert (training.gauge, training.adversarial, training.turn) == (0, 0, (0, 0, 0))
    assert learned.SEPARATE.stretch == 0, "its affine is predicted for the target as it is"
    assert learned.UNLABELLED.adversarial == 0
    assert (learned.ADVERSARIAL.gauge, learned.ADVERSARIAL.adversarial > 0) == (0, True)
