"""The recipe of DepthNet: what it reads, what a step of it does, and that training finds the depth of made faces."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close

from aboutface.errors import AboutfaceError, UsageError
from aboutface.face import MIRROR_68
from aboutface.fit import FitSettings, Run
from aboutface.geometry import rotation_from_angles, similarity
from aboutface.geometry.transform import apply
from aboutface.metrics import centred
from aboutface.morphable import MeanHead
from aboutface.recipes.depthnet import (
    DepthNetTask,
    DepthNetTraining,
    TrainingFaces,
    gauge_depth,
    new_net,
    read_faces,
    score,
    train_depthnet,
    usable,
    with_images,
)
from aboutface.reconstruct.depthnet import DepthNet, DepthNetOutput, DepthNetSettings, left_over, mirror, pair_loss
from aboutface.reconstruct.landmark_baselines import best_pair_depth, carry, to_unit

STILL = (0.0, 0.0, 0.0)
PICTURES = DepthNetSettings(hidden=(8,), crop=20, filters=(2, 3, 4), units=(8, 6), images=True)


def heads(count: int, seed: int = 0) -> torch.Tensor:
    """(count, 68, 3): the mean face in many poses with noise in all directions, seen without perspective in a photo."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.randn(3, count, generator=generator) * torch.tensor([[25.0], [8.0], [8.0]])
    shapes = MeanHead.load().landmarks + torch.randn(count, 68, 3, generator=generator)
    return 2 * shapes @ rotation_from_angles(*turn).mT + torch.tensor([250.0, 200.0, 0.0])


def quick(steps: int = 20, **settings: Any) -> DepthNetTraining:
    few = replace(DepthNetTraining(hidden=(8,), batch=16), **settings)
    return replace(few, fit=FitSettings(steps=steps, log_every=1000, device="cpu"))


def silent(_: str) -> None:
    """Nobody listens."""


def faces(count: int = 40, labels: bool = True) -> TrainingFaces:
    points = heads(count)
    return TrainingFaces(points[..., :2], points[..., 2] if labels else None)


def within(guess: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return torch.cosine_similarity(centred(guess), centred(truth), dim=1)


def shown(source: torch.Tensor, target: torch.Tensor, net: DepthNet) -> torch.Tensor:
    with torch.no_grad():
        return net(source, target).depth


# ---- reading ----


def side_files(folder: Path, points: torch.Tensor, picture: bytes = b"never decoded") -> Path:
    folder.mkdir()
    for index, face in enumerate(points.tolist()):
        (folder / f"{index:03}.jpg").write_bytes(picture)
        (folder / f"{index:03}.json").write_text(json.dumps({"landmarks68": face}))
    return folder


def test_folder_tar_and_npz_hold_the_same_faces(tmp_path):
    points = heads(5)
    folder = side_files(tmp_path / "faces", points[..., :2])
    with tarfile.open(tmp_path / "faces.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    np.savez(tmp_path / "flat.npz", points=points[..., :2].numpy())
    np.savez(tmp_path / "solid.npz", points=points.numpy())
    for name in ("faces", "faces.tar", "flat.npz", "solid.npz"):
        lines: list[str] = []
        found, depth, *_ = read_faces(tmp_path / name, lines.append)
        assert_close(found, points[..., :2])
        assert "5 faces" in lines[-1]
        if name == "solid.npz":
            assert_close(depth, points[..., 2])
        else:
            assert depth.isnan().all()


def test_a_folder_with_the_known_files_gives_both(tmp_path):
    points = heads(4)
    np.savez(tmp_path / "aflw2000-3d-landmarks.npz", points=(points * torch.tensor([1, 1, -1])).numpy())
    with tarfile.open(tmp_path / "ytf68-train.tar", "w") as tar:
        for name, content in (("a.jpg", b""), ("a.json", json.dumps({"landmarks68": points[0, :, :2].tolist()}))):
            info, data = tarfile.TarInfo(name), content.encode() if isinstance(content, str) else content
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    found, depth, *_ = read_faces(tmp_path, silent)
    assert_close(found, torch.cat([points, points[:1]])[..., :2])
    assert_close(depth[:4], points[..., 2])
    assert depth[4].isnan().all()


def test_faces_that_are_none_are_left_out_and_counted(tmp_path):
    points = heads(6)[..., :2]
    points[1] = torch.arange(68.0)[:, None] * torch.tensor([1.0, 0.5])
    points[2] = 7.0
    folder = side_files(tmp_path / "faces", points)
    (folder / "003.json").write_text("{")
    (folder / "004.json").write_text(json.dumps({"landmarks68": points[4, :66].tolist()}))
    lines: list[str] = []
    found = read_faces(folder, lines.append).points
    assert_close(found, points[[0, 5]])
    assert lines[-1] == "2 faces with keypoints"
    assert sum(line.startswith("left out: ") for line in lines) == 4
    assert any("004" in line and "landmarks_68_from_66" in line for line in lines)


@pytest.mark.parametrize(
    ("shape", "words"),
    [((4, 66, 2), "landmarks_68_from_66"), ((4, 21, 2), "expected 68 landmarks per face, got 21")],
)
def test_other_numbers_of_landmarks_are_said(tmp_path, shape, words):
    np.savez(tmp_path / "other.npz", points=np.random.default_rng(0).normal(0, 50, shape))
    with pytest.raises(UsageError, match=words):
        read_faces(tmp_path / "other.npz", silent)


def test_less_than_two_faces_are_too_few(tmp_path):
    np.savez(tmp_path / "one.npz", points=heads(1).numpy())
    with pytest.raises(UsageError, match="no two faces"):
        read_faces(tmp_path / "one.npz", silent)


def test_usable_faces_are_finite_and_not_flat():
    points = heads(6)[..., :2]
    points[1, 5, 0] = torch.nan
    points[2, 7, 1] = torch.inf
    points[3] = 1.0
    points[4] = torch.arange(68.0)[:, None] * torch.tensor([1.0, -2.0]) + 1e-3 * points[4]
    assert usable(points).tolist() == [True, False, False, False, False, True]
    profile = heads(1)[..., :2] * torch.tensor([0.3, 1.0])
    assert usable(profile).all(), "narrow is not flat"


# ---- scores ----


class Oracle(nn.Module):
    """Knows the depth of the faces that it is asked for, by their place in the batch."""

    def __init__(self, points: torch.Tensor, sign: float) -> None:
        super().__init__()
        unit, size = to_unit(points[..., :2])
        self.unit, self.depth, self.sign = unit, sign * centred(points[..., 2]) / size[:, None], sign

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> DepthNetOutput:
        unit, size = to_unit(source)
        known = torch.cat([self.unit, mirror(self.unit)])
        nearest = torch.cdist(unit.flatten(1), known.flatten(1)).argmin(1)
        depth = torch.cat([self.depth, self.depth[:, MIRROR_68]])[nearest]
        return DepthNetOutput(depth * size[:, None], None)


def test_scores_of_the_truth_and_of_its_opposite():
    points = heads(12)
    right, wrong = (score(Oracle(points, sign), points[..., :2], points[..., 2] + 9) for sign in (1.0, -1.0))  # pyright: ignore[reportArgumentType]
    assert right["test_faces"] == 12
    for name in ("network", "photo"):
        assert right[f"{name}_correlation"] == pytest.approx(1, abs=1e-4)
        assert right[f"{name}_error"] == pytest.approx(0, abs=1e-4)
        assert wrong[f"{name}_correlation"] == pytest.approx(-1, abs=1e-4)
    assert right["mean_face_correlation"] == wrong["mean_face_correlation"] > 0.97
    truth = centred(points[..., 2]) / to_unit(points[..., :2])[1][:, None]
    assert wrong["network_error"] == pytest.approx(float(2 * truth.square().mean(1).sqrt().mean()), rel=1e-3)


# ---- a step ----


def task_of(training: DepthNetTraining, data: TrainingFaces | None = None) -> DepthNetTask:
    return DepthNetTask(new_net(training), data or faces(), training)


def test_the_gauge_needs_depths():
    for training in (quick(gauge=0.1), quick(gauge=0.0, adversarial=0.1)):
        with pytest.raises(ValueError, match="need depths"):
            task_of(training, faces(labels=False))
    task_of(quick(gauge=0.0), faces(labels=False))


def test_the_data_are_no_part_of_a_checkpoint():
    task = task_of(quick(adversarial=0.1))
    assert all(name.startswith(("net.", "critic.")) for name in task.state_dict())


def test_turned_faces_are_the_same_heads_from_elsewhere():
    """The turned face with its depth is a similar body, and turning it back gives back the points."""
    points = heads(30)
    unit, size = to_unit(points[..., :2])
    depth = centred(points[..., 2]) / size[:, None]
    task = task_of(quick())
    torch.manual_seed(0)
    turned, turned_depth = task._turned(unit, depth)
    before, after = (torch.cat([p, z[..., None]], -1).double() for p, z in ((unit, depth), (turned, turned_depth)))
    back = similarity(after, before)
    assert_close(apply(back, after), before, rtol=0, atol=1e-5)
    assert_close(to_unit(turned)[1], torch.ones(30))
    angle = torch.rad2deg(torch.acos((back[:, 2, 2] / back[:, :3, :3].det().pow(1 / 3)).clamp(-1, 1)))
    assert angle.max() > 25
    assert angle.mean() > 8


def test_turned_by_yaw_alone_keeps_heights():
    points = heads(30)
    unit, size = to_unit(points[..., :2])
    task = task_of(quick(turn=(30.0, 0.0, 0.0)))
    turned, _ = task._turned(unit, centred(points[..., 2]) / size[:, None])
    assert (torch.cosine_similarity(turned[..., 1], unit[..., 1], dim=1) > 1 - 1e-5).all()
    assert (torch.cosine_similarity(turned[..., 0], unit[..., 0], dim=1) < 0.99).any()


def test_stretched_faces_need_the_same_depth():
    """Views of one head: what carries one to the other still does, though both look different."""
    turn = torch.tensor([[0.0, 30.0, -40.0, 15.0], [0.0, 10.0, -5.0, 20.0], [0.0, 20.0, -10.0, 5.0]])
    head = MeanHead.load().landmarks @ rotation_from_angles(*turn).mT
    task = task_of(quick(gauge=0.0, stretch=0.3), TrainingFaces(head[..., :2]))
    unit = to_unit(head[..., :2])[0]
    torch.manual_seed(0)
    source, target, _, _ = task._pairs({"source": torch.arange(4), "target": torch.arange(4).roll(1)})
    straight = (source - unit).abs().amax((1, 2)).minimum((source - mirror(unit)).abs().amax((1, 2)))
    assert (straight > 0.02).all()
    assert_close(to_unit(source)[1], torch.ones(4))
    flipped = left_over(unit, source).abs().amax((1, 2)) > 1e-3
    assert (left_over(mirror(unit), source).abs().amax((1, 2)) < 1e-4)[flipped].all()
    depth = torch.where(flipped[:, None], head[:, MIRROR_68, 2], head[..., 2])
    assert pair_loss(source, target, DepthNetOutput(depth, None), "pseudo-inverse") < 1e-8
    assert pair_loss(source, target, DepthNetOutput(depth.square(), None), "pseudo-inverse") > 1e-4


def test_pairs_are_mirrored_whole():
    """Source, target, depth and pictures of a pair are flipped together, about half of the pairs."""
    data = faces(20)
    images = torch.rand(20, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    task = DepthNetTask(DepthNet(PICTURES), replace(data, images=images), quick(turn=STILL))
    torch.manual_seed(1)
    index = {"source": torch.arange(20), "target": torch.arange(20).roll(3)}
    source, target, depth, features = task._pairs(index)
    unit, size = to_unit(data.points)
    assert data.depth is not None
    truth = centred(data.depth) / size[:, None]
    flipped = (source - mirror(unit)).abs().amax((1, 2)) < 1e-6
    assert 4 <= int(flipped.sum()) <= 16
    for i, flip in enumerate(flipped.tolist()):
        j = int(index["target"][i])
        for found, straight, mirrored in (
            (source[i], unit[i], mirror(unit[i])),
            (target[i], unit[j], mirror(unit[j])),
            (depth[i], truth[i], truth[i, MIRROR_68]),
            (features[0][i], task.net.encode(images[i : i + 1])[0], task.net.encode(images[i : i + 1].flip(-1))[0]),
            (features[1][i], task.net.encode(images[j : j + 1])[0], task.net.encode(images[j : j + 1].flip(-1))[0]),
        ):
            assert_close(found, mirrored if flip else straight, rtol=0, atol=1e-5)


def test_loss_is_pair_plus_weighted_gauge():
    training = quick(turn=STILL, gauge=0.7)
    task = task_of(training)
    index = {"source": torch.arange(10), "target": torch.arange(10).roll(1)}
    torch.manual_seed(5)
    loss, terms = task.loss("net", index, 0)
    torch.manual_seed(5)
    source, target, depth, _ = task._pairs(index)
    out = task.net(source, target)
    assert_close(terms["pair"], pair_loss(source, target, out, "pseudo-inverse"))
    assert_close(terms["gauge"], (out.depth - depth).square().mean())
    assert_close(loss, terms["pair"] + 0.7 * terms["gauge"])


def test_each_phase_moves_its_own_weights():
    task = task_of(quick(adversarial=0.5, gauge=0.0))
    assert task.critic is not None
    index = {"source": torch.arange(16)}
    phases = task.phases()
    owned = {name: {id(p) for p in phase.parameters} for name, phase in phases.items()}
    assert owned["net"] == {id(p) for p in task.net.parameters()}
    assert owned["critic"] == {id(p) for p in task.critic.parameters()}
    # The critic's loss does not even reach the net; the net's does go through the critic.
    loss, _ = task.loss("critic", index, 0)
    loss.backward()
    assert all(p.grad is None for p in task.net.parameters())
    loss, terms = task.loss("net", index, 0)
    plain = task_of(quick(gauge=0.0)).loss("net", index, 0)[1]
    assert terms.keys() - plain.keys() == {"adversarial"}
    assert_close(loss, terms["pair"] + 0.5 * terms["adversarial"])


def test_the_critic_learns_to_tell_depths_and_the_net_to_please_it():
    training = quick(steps=1, adversarial=1.0, gauge=0.0, learning_rate=3e-3, critic_penalty=0.5)
    task = task_of(training)
    index = {"source": torch.arange(40)}
    critic, net = (task.phases()[name].optimiser for name in ("critic", "net"))

    def step(phase: str, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        loss, terms = task.loss(phase, index, 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return terms

    first = step("critic", critic)["distance"]
    for _ in range(40):
        last = step("critic", critic)["distance"]
    assert last < first - 0.05, "real faces score higher by and by"
    before = step("net", net)["adversarial"]
    for _ in range(40):
        after = step("net", net)["adversarial"]
    assert after < before - 0.01


def test_image_sheets_show_near_points_brighter(monkeypatch):
    task = task_of(quick(turn=STILL))
    monkeypatch.setattr(task.net, "forward", lambda source, target: DepthNetOutput(source[..., 0], None))
    sheets = task.preview({"source": torch.arange(16)})
    for sheet in sheets.values():
        assert sheet.shape == (8, 3, 96, 96)
        assert sheet.isfinite().all()
        assert 0 <= sheet.min() < 0.05
        assert 0.9 < sheet.max() <= 1
    # The further right, the deeper.
    left, right = sheets["depth"].chunk(2, -1)
    assert (left.sum((1, 2, 3)) > 1.2 * right.sum((1, 2, 3))).all()


# ---- training ----


def test_one_pair_is_overfitted_to_its_floor():
    data = faces(2)
    pair = TrainingFaces(data.points, pairs=torch.tensor([[0, 1]]))
    training = quick(steps=600, gauge=0.0, turn=STILL, learning_rate=1e-2, batch=8, hidden=(32,))
    net = train_depthnet(pair, training, log=silent)
    source, target = to_unit(data.points[:1])[0], to_unit(data.points[1:])[0]
    floor = (carry(source, best_pair_depth(source, target), target) - target).square().mean()
    affine = (carry(source, torch.zeros(1, 68), target) - target).square().mean()
    for x, y in ((source, target), (mirror(source), mirror(target))):
        loss = pair_loss(x, y, net(x, y), "pseudo-inverse").detach()
        assert floor * (1 - 1e-3) <= loss < floor + 0.02 * (affine - floor)


def test_the_gauge_is_what_gives_scale_tilt_and_sign():
    """Both nets carry well; only one says where things are."""
    data, others = faces(60), heads(30, seed=9)
    source, target = others[:, :, :2], others[:, :, :2].roll(1, 0)
    found = {}
    for gauge in (0.0, 1.0):
        training = quick(steps=400, gauge=gauge, turn=STILL, batch=60, hidden=(64,), learning_rate=3e-3)
        net = train_depthnet(data, training, log=silent)
        found[gauge] = shown(source, target, net)
    truth = centred(others[..., 2])
    assert within(found[1.0], truth).mean() > 0.95
    assert within(found[0.0], truth).mean() < 0.8
    error = (centred(found[1.0]) - truth).square().mean().sqrt() / truth.square().mean().sqrt()
    assert error < 0.3, "in pixels, too"
    # The gauge of an inside-out world is followed as well: it comes from the depths alone.
    assert data.depth is not None
    inside_out = replace(data, depth=-data.depth)
    training = quick(steps=400, gauge=1.0, turn=STILL, batch=60, hidden=(64,), learning_rate=3e-3)
    assert within(shown(source, target, train_depthnet(inside_out, training, log=silent)), truth).mean() < -0.95


def test_depth_is_learned_without_any_depth():
    data, others = faces(200, labels=False), heads(30, seed=9)
    net = train_depthnet(data, quick(steps=300, batch=64, hidden=(64,), learning_rate=3e-3), log=silent)
    depth = shown(others[..., :2], others[:, :, :2].roll(1, 0), net)
    assert within(depth, others[..., 2]).mean() > 0.9


def test_gauge_depths_need_no_label_and_know_the_sign():
    points = heads(200)
    assert within(gauge_depth(points[..., :2]), points[..., 2]).mean() > 0.98


def test_depth_labels_alone_reach_the_net_through_the_critic():
    """DepthNet+GAN: no gauge, and yet the sign is right."""
    data, others = faces(80), heads(30, seed=9)
    training = quick(steps=250, gauge=0.0, adversarial=0.05, critic_penalty=1.0, batch=32, hidden=(64,))
    depth = shown(others[..., :2], others[:, :, :2].roll(1, 0), train_depthnet(data, training, log=silent))
    assert within(depth, others[..., 2]).mean() > 0.8


def test_separate_training_learns_the_affine_too():
    data = faces(40)
    training = quick(steps=400, formulation="separate", gauge=0.0, turn=STILL, batch=40, hidden=(64,))
    training = replace(training, learning_rate=3e-3)
    torch.manual_seed(0)
    source, target = data.points, data.points.roll(1, 0)
    before, after = (
        float(pair_loss(source, target, net(source, target), "separate").detach())
        for net in (new_net(training), train_depthnet(data, training, log=silent))
    )
    assert after < 0.3 * before


def test_the_same_seed_gives_the_same_weights_and_another_gives_others():
    state = torch.get_rng_state()
    one, again = (train_depthnet(faces(), quick(), log=silent).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers are left alone"
    torch.manual_seed(99)
    late = train_depthnet(faces(), quick(), log=silent).state_dict()
    torch.set_rng_state(state)
    training = quick()
    other = replace(training, fit=replace(training.fit, seed=1))
    different = train_depthnet(faces(), other, log=silent).state_dict()
    for name, tensor in one.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, late[name])
        assert not torch.equal(tensor, different[name])


def test_the_net_is_ready_to_use():
    net = train_depthnet(faces(), quick(steps=2), log=silent)
    assert not net.training
    assert all(p.device.type == "cpu" for p in net.parameters())


def test_too_few_faces_and_nan_are_refused():
    with pytest.raises(UsageError, match="at least two others"):
        train_depthnet(faces(1), quick(gauge=0.0), log=silent)
    points = heads(20)[..., :2]
    points[3, 0, 0] = torch.nan
    with pytest.raises(AboutfaceError):
        train_depthnet(TrainingFaces(points), quick(gauge=0.0), log=silent)


def test_a_face_that_is_its_own_target_does_no_harm():
    data = faces(8)
    pairs = torch.tensor([[0, 0], [1, 1], [2, 3], [4, 4]])
    net = train_depthnet(replace(data, pairs=pairs), quick(steps=30), log=silent)
    assert all(p.isfinite().all() for p in net.parameters())


# ---- pictures ----


def learned() -> DepthNet:
    return train_depthnet(faces(), quick(steps=30), log=silent)


@pytest.mark.parametrize("affine", [False, True])
def test_a_net_grown_for_pictures_answers_as_before_whatever_they_show(affine):
    net = train_depthnet(faces(), quick(steps=30, formulation="separate" if affine else "pseudo-inverse"), log=silent)
    grown = with_images(net, replace(PICTURES, affine=affine))
    points = heads(6)[..., :2]
    expected = net(points, points.roll(1, 0))
    for seed in range(2):
        pictures = torch.rand(2, 6, 1, 20, 20, generator=torch.Generator().manual_seed(seed))
        found = grown(points, points.roll(1, 0), *map(grown.encode, pictures))
        assert_close(found.depth, expected.depth, rtol=0, atol=1e-4)
        if affine:
            assert_close(found.affine, expected.affine, rtol=0, atol=1e-4)


def test_pictures_that_tell_the_depth_are_listened_to():
    """Trained on, it no longer answers alike, and where pictures show what keypoints do not, it does better."""
    data = faces(30)
    assert data.depth is not None
    unit_depth = centred(data.depth)
    flatter = torch.arange(30) % 2 == 0
    depth = torch.where(flatter[:, None], 0.3 * unit_depth, unit_depth)
    images = flatter.float()[:, None, None, None].expand(-1, 1, 20, 20)
    training = quick(steps=300, gauge=1.0, turn=STILL, batch=30, learning_rate=5e-3)
    told = replace(data, depth=depth, images=images)
    blind = train_depthnet(replace(told, images=None), training, log=silent)
    torch.manual_seed(0)
    seeing = train_depthnet(told, training, log=silent, start=with_images(blind, PICTURES))
    points = data.points
    shown_flat, shown_deep = (
        seeing(points, points.roll(1, 0), *2 * (seeing.encode(torch.full((30, 1, 20, 20), v)),)).depth.detach()
        for v in (1.0, 0.0)
    )
    assert shown_flat.std() < 0.6 * shown_deep.std()


def test_growing_for_pictures_starts_all_else_at_random():
    """Were the first weights of the pictures' own layers zero as well, nothing could ever be learned."""
    grown = with_images(learned(), PICTURES)
    assert all(p.abs().max() > 0 for name, p in grown.named_parameters() if name.endswith("weight"))


# ---- the recipe ----


def test_trained_tensors_fit_the_settings_that_come_with_them(tmp_path):
    np.savez(tmp_path / "faces.npz", points=heads(60).numpy())
    lines: list[str] = []
    run = Run.create(tmp_path, "faces", "depthnet", {})
    trained = quick(steps=200, learning_rate=5e-3, hidden=(16, 8)).train(tmp_path / "faces.npz", run, lines.append)
    sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in trained.settings["network"].items()}
    DepthNet(DepthNetSettings(**sizes)).load_state_dict(trained.tensors)
    assert trained.settings["training"]["fit"]["steps"] == 200
    assert trained.scores["test_faces"] == 12
    assert trained.scores["network_correlation"] > 0.8
    assert any("60 faces" in line for line in lines)


def test_tested_faces_are_not_trained_on(tmp_path, monkeypatch):
    points = heads(20)
    np.savez(tmp_path / "faces.npz", points=points.numpy())
    seen = {}

    def spy(data, training, run, log):
        seen["train"] = data
        return new_net(training)

    def grade(net, points, depth):
        seen["test"] = points
        return {}

    monkeypatch.setattr("aboutface.recipes.depthnet.train_depthnet", spy)
    monkeypatch.setattr("aboutface.recipes.depthnet.score", grade)
    run = Run.create(tmp_path, "faces", "depthnet", {})
    quick(test_share=0.25).train(tmp_path / "faces.npz", run, silent)
    both = torch.cat([seen["train"].points, seen["test"]])
    assert len(seen["test"]) == 5
    assert len(both) == len(both.flatten(1).unique(dim=0)) == 20
    assert seen["train"].depth is None, "no label without a critic"
    quick(adversarial=0.1).train(tmp_path / "faces.npz", run, silent)
    assert_close(
        seen["train"].depth,
        points[:, :, 2][torch.cdist(seen["train"].points.flatten(1), points[..., :2].flatten(1)).argmin(1)],
    )


def test_without_known_depth_nothing_is_graded_and_no_critic_taught(tmp_path):
    np.savez(tmp_path / "flat.npz", points=heads(30)[..., :2].numpy())
    run = Run.create(tmp_path, "flat", "depthnet", {})
    assert quick(steps=2).train(tmp_path / "flat.npz", run, silent).scores == {}
    with pytest.raises(UsageError, match=r"--adversarial.*lacks the depth"):
        quick(adversarial=0.1).train(tmp_path / "flat.npz", run, silent)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gauge": -0.1}, "--gauge: expected 0 or more"),
        ({"gauge": float("nan")}, "--gauge"),
        ({"adversarial": float("inf")}, "--adversarial"),
        ({"critic_penalty": -1.0}, "--critic-penalty"),
        ({"stretch": -0.1}, "--stretch: expected 0 or more"),
        ({"stretch": 0.1}, "add --gauge 0"),
        ({"stretch": 0.1, "gauge": 0.0, "adversarial": 0.1}, "no depth to compare"),
        ({"batch": 1}, "--batch 1"),
        ({"learning_rate": 0.0}, "--learning-rate 0"),
        ({"test_share": 1.0}, "--test-share 1"),
        ({"hidden": ()}, "--hidden"),
        ({"hidden": (8, 0)}, "--hidden"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        DepthNetTraining(**settings)


def test_pictures_and_people_are_taken_from_the_data(tmp_path):
    """Case A from files: pictures beside landmarks, pairs of one person only, and the network that they make."""
    with tarfile.open(tmp_path / "faces.tar", "w") as tar:
        for number, face in enumerate(heads(6)):
            picture = io.BytesIO()
            Image.new("RGB", (500, 400), (40 * number, 0, 0)).save(picture, "png")
            record = json.dumps({"identity": f"person {number // 2}", "landmarks68": face[:, :2].tolist()})
            for name, content in ((f"{number}.png", picture.getvalue()), (f"{number}.json", record.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    known = read_faces(tmp_path / "faces.tar", silent, pictures=True)
    assert known.images is not None
    assert known.images.shape == (6, 1, 80, 80)
    # 500 x 400 becomes 80 x 64 with 8 black rows above and below.
    assert_close(known.points, heads(6)[..., :2] * 0.16 + torch.tensor([0.0, 8.0]))
    assert float(known.images[5, 0, :8].max()) == 0
    assert float(known.images[5, 0, 9:70].min()) > 0.1
    assert known.names == [f"person {i // 2}" for i in range(6)]
    training = replace(quick(steps=1), pictures=True, pairs="person", batch=2)
    run = Run.create(tmp_path / "runs", "faces", "depthnet", {})
    trained = training.train(tmp_path / "faces.tar", run, silent)
    assert trained.settings["network"]["images"]
    assert "encoder.layers.0.weight" in trained.tensors
    np.savez(tmp_path / "faces.npz", points=heads(6).numpy())
    with pytest.raises(UsageError, match="no two pictures of one person"):
        replace(quick(), pairs="person").train(tmp_path / "faces.npz", run, silent)
    with pytest.raises(UsageError, match="--pictures"):
        replace(quick(), pictures=True).train(tmp_path / "faces.npz", run, silent)
