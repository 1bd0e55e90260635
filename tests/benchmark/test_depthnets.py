"""The DepthNets benchmark: protocol, files that are not as they should be, tables, goals, and a whole small run."""

import io
import json
import math
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close

from aboutface.benchmark import depthnets, goals, learned, methods, protocol, tables
from aboutface.benchmark.statistics import Number
from aboutface.cli.bench import bench_depthnets
from aboutface.cli.bench_commands import BenchDepthnets
from aboutface.cli.commands import Talk
from aboutface.errors import MissingError, UsageError
from aboutface.geometry import rotation_from_angles
from aboutface.morphable import MeanHead
from aboutface.reconstruct.landmark_baselines import carry


@pytest.fixture(autouse=True)
def baselines_alone(monkeypatch):
    """The networks would all be trained here."""
    monkeypatch.setattr(learned, "TABLE1", methods.BASELINES1)
    monkeypatch.setattr(learned, "TABLE3", methods.BASELINES3)


def heads(count, seed=0):
    """3D faces (N, 68, 3) in a 450 px picture, z towards the camera as in AFLW2000-3D, and their yaws."""
    generator = torch.Generator().manual_seed(seed)
    yaw = torch.tensor([-50.0, 0.0, 50.0]).repeat(count)[:count] + 4 * torch.randn(count, generator=generator)
    shape = MeanHead.load().landmarks + torch.randn(count, 68, 3, generator=generator)
    turned = shape @ rotation_from_angles(-yaw, 5 * torch.randn(count, generator=generator)).mT
    return (turned * torch.tensor([1.0, 1.0, -1.0]) + torch.tensor([225.0, 225.0, 30.0])).numpy(), yaw.numpy()


@pytest.fixture(scope="module")
def landmark_file(tmp_path_factory):
    points, yaw = heads(60)
    file = tmp_path_factory.mktemp("landmarks") / "faces.npz"
    np.savez(file, points=points, yaw_deg=yaw)
    return file


@pytest.fixture(scope="module")
def video_file(tmp_path_factory):
    """Ten people with four frames each, and two examples that cannot be used."""
    points, _ = heads(40, seed=1)
    file = tmp_path_factory.mktemp("videos") / "ytf68-train.tar"
    jpeg = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 100, 3), dtype=np.uint8)).save(jpeg, "jpeg")
    with tarfile.open(file, "w") as tar:

        def add(name, content):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        for number, face in enumerate(points):
            record = {"identity": f"person {number // 4}", "landmarks68": ((face[:, :2] - 225) / 4 + 50).tolist()}
            add(f"face{number:02}.jpg", jpeg.getvalue())
            add(f"face{number:02}.json", json.dumps(record).encode())
        add("broken.jpg", b"not a picture")
        add("broken.json", json.dumps({"identity": "x", "landmarks68": [[0, 0]] * 68}).encode())
        add("few.jpg", jpeg.getvalue())
        add("few.json", json.dumps({"identity": "x", "landmarks68": [[0, 0]] * 66}).encode())
    return file


# ---- reading ----


def test_depth_is_turned_forward_and_scaled(landmark_file):
    faces, dropped = protocol.read_landmarks(landmark_file)
    points, yaw = heads(60)
    assert dropped == {}
    assert_close(faces.points, torch.from_numpy(points[..., :2]).double() / 450)
    assert faces.depth is not None
    assert_close(faces.depth, -torch.from_numpy(points[..., 2]).double() / 450)
    assert_close(faces.yaw, torch.from_numpy(yaw).double())


def test_z_forward_is_left_as_it_is(tmp_path):
    points, yaw = heads(12)
    np.savez(tmp_path / "forward.npz", points=points * [1, 1, -1], yaw_deg=yaw)
    np.savez(tmp_path / "towards.npz", points=points, yaw_deg=yaw)
    forward, _ = protocol.read_landmarks(tmp_path / "forward.npz")
    towards, _ = protocol.read_landmarks(tmp_path / "towards.npz")
    assert_close(forward.depth, towards.depth)


def test_yaw_is_measured_where_the_file_has_none(tmp_path):
    points, yaw = heads(30)
    np.savez(tmp_path / "faces.npz", points=points)
    faces, _ = protocol.read_landmarks(tmp_path / "faces.npz")
    assert faces.yaw is not None
    assert (faces.yaw - torch.from_numpy(yaw)).abs().max() < 3


def test_positive_yaw_moves_the_nose_to_smaller_x(landmark_file):
    faces, _ = protocol.read_landmarks(landmark_file)
    assert faces.yaw is not None
    side = faces.points[:, 30, 0] - faces.points[:, [0, 16], 0].mean(1)
    assert (side[faces.yaw > 30] < 0).all()
    assert (side[faces.yaw < -30] > 0).all()


def test_bad_rows_are_dropped_and_counted(tmp_path):
    points, yaw = heads(12)
    points[0, 3, 1], yaw[1], points[2] = np.nan, 200.0, 5.0
    points[3] = np.arange(68)[:, None] * [1.0, 2.0, 3.0]
    yaw[4] = np.nan
    np.savez(tmp_path / "faces.npz", points=points, yaw_deg=yaw)
    faces, dropped = protocol.read_landmarks(tmp_path / "faces.npz")
    assert len(faces) == 7
    assert dropped == {"not finite": 1, "yaw beyond 90 degrees": 2, "all points in one line or place": 2}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"points": np.zeros((5, 66, 3))}, "landmarks_68_from_66"),
        ({"points": np.zeros((5, 68, 2))}, r"expected 3D points \(N, 68, 3\)"),
        ({"other": np.zeros(3)}, "other|expected"),
        ({"points": np.zeros((5, 68, 3)), "yaw_deg": np.zeros(4)}, "yaw_deg"),
        ({"points": np.zeros((0, 68, 3)), "yaw_deg": np.zeros(0)}, "no face is usable"),
        ({"points": np.full((5, 68, 3), np.nan)}, "5 with NaN"),
        ({"points": np.array([{}])}, "cannot be read"),
    ],
)
def test_a_wrong_file_is_named_with_what_was_expected(tmp_path, arrays, words):
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(UsageError, match=words) as error:
        protocol.read_landmarks(tmp_path / "wrong.npz")
    assert "wrong.npz" in str(error.value)


def test_no_npz_at_all(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UsageError, match="cannot be read"):
        protocol.read_landmarks(tmp_path / "text.npz")


def test_videos_are_scaled_into_the_crop_with_their_keypoints(video_file):
    faces, dropped = protocol.read_videos(video_file)
    assert len(faces) == 40
    assert sum(dropped.values()) == 2
    assert faces.images is not None
    assert faces.images.shape == (40, 1, 80, 80)
    # 100 x 120 becomes 67 x 80, with 6 black columns on the left.
    assert float(faces.images[:, :, :, :6].max()) == 0
    assert float(faces.images[:, :, :, 7:72].mean()) > 0.3
    _, pixels = protocol.read_picture(video_file, faces.keys[5])
    assert_close(faces.points[5].numpy(), pixels * [67 / 100, 80 / 120] + [6, 0])
    assert faces.identity is not None
    assert faces.identity.tolist() == [i // 4 for i in range(40)]


# ---- protocol ----


def test_pairs_are_the_papers():
    pairs = protocol.all_pairs(225)
    assert len(pairs.source) == 50_400
    assert not (pairs.source == pairs.target).any()
    same = protocol.same_identity(torch.tensor([0, 0, 0, 1, 1, 2]))
    assert len(same.source) == 3 * 2 + 2
    assert (same.source.diff() >= 0).all()


def test_the_split_by_pose_is_seeded_and_keeps_training_apart(landmark_file):
    faces, _ = protocol.read_landmarks(landmark_file)
    split, again, other = (protocol.split_by_pose(faces, seed, per_pose=5) for seed in (0, 0, 1))
    assert_close(split.test.points, again.test.points)
    assert not torch.equal(split.test.points, other.test.points)
    assert split.test.yaw is not None
    assert protocol.pose_of(split.test.yaw).tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert len(split.train) == len(faces) - 15
    assert torch.cdist(split.train.points.flatten(1), split.test.points.flatten(1)).min() > 0
    assert len(split.shapes) == len(split.train)


def test_too_few_faces_of_a_pose_are_said(landmark_file):
    faces, _ = protocol.read_landmarks(landmark_file)
    with pytest.raises(UsageError, match="looking left"):
        protocol.split_by_pose(faces, 0)


def test_the_split_by_identity_shares_nobody(video_file):
    faces, _ = protocol.read_videos(video_file)
    split = protocol.split_by_identity(faces, torch.zeros(1, 68, 3), seed=0)
    assert split.train.identity is not None
    assert split.test.identity is not None
    assert 0 < len(split.test) < 20
    assert len(split.test) + len(split.train) == 40
    assert not set(split.train.identity.tolist()) & set(split.test.identity.tolist())


def test_methods_without_depth_labels_cannot_see_any(landmark_file, tmp_path, monkeypatch):
    """And nobody but the references sees the tested faces' depth."""
    seen = {}

    def spy(name):
        def fit(split, store):
            predict = methods.fit_affine(split, store)

            def watched(faces, source, target):
                seen[name] = (split.train.depth is not None, faces.depth is not None)
                return predict(faces, source, target)

            return watched

        return fit

    monkeypatch.setattr(
        learned,
        "TABLE3",
        {
            "a": methods.Method("a", "a", spy("a")),
            "b": methods.Method("b", "b", spy("b"), needs_depth=True),
            "c": methods.Method("c", "c", spy("c"), needs_depth=True, sees_truth=True),
        },
    )
    monkeypatch.setattr("aboutface.benchmark.figures.draw", lambda *_: [])
    options = depthnets.Options(landmark_file, None, tmp_path, seeds=1, only="table3", quick=True)
    depthnets.run(options, log=lambda _: None)
    assert seen == {"a": (False, False), "b": (True, False), "c": (True, True)}


def test_evaluation_in_parts_is_the_same_and_refuses_nan(landmark_file):
    faces, _ = protocol.read_landmarks(landmark_file)
    pairs = protocol.all_pairs(10)
    split = protocol.split_by_pose(faces, 0, per_pose=5)
    predict = methods.fit_template_depth(split, methods.Store(landmark_file.parent))
    whole, parts = (protocol.evaluate(predict, faces, pairs, chunk) for chunk in (1000, 7))
    assert_close(whole.mse, parts.mse)
    assert_close(whole.depth, parts.depth)

    def broken(faces, source, target):
        return protocol.Prediction(faces.points[target] * math.nan, None)

    with pytest.raises(ValueError, match="not finite"):
        protocol.evaluate(broken, faces, pairs)


def test_the_template_as_written_forgets_the_source_and_its_variant_does_not(landmark_file):
    faces, _ = protocol.read_landmarks(landmark_file)
    split = protocol.split_by_pose(faces, 0, per_pose=5)
    store = methods.Store(landmark_file.parent)
    source, target = torch.tensor([0, 1]), torch.tensor([2, 2])
    literal = methods.fit_template(split, store)(split.test, source, target)
    assert_close(literal.points[0], literal.points[1])
    for fit in (methods.fit_template_depth, methods.fit_template_map):
        other = fit(split, store)(split.test, source, target)
        assert (other.points[0] - other.points[1]).abs().max() > 1e-4
        assert_close(other.depth, literal.depth)


# ---- networks ----


class Tiny(nn.Module):
    """Depths from both faces by one layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4 * 68, 68)

    def depth(self, source, target):
        return self.layer(torch.cat([source, target], 1).flatten(1).float()).double()


def tiny_predictor(net):
    def predict(faces, source, target):
        points, goal = faces.points[source], faces.points[target]
        depth = net.depth(points, goal)
        return protocol.Prediction(carry(points, depth, goal), depth)

    return predict


def tiny_method(trainings, settings=""):
    def train(net, split, store):
        trainings.append(split.seed)
        generator = torch.Generator().manual_seed(split.seed)
        optimiser = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(3):
            source, target = torch.randint(len(split.train), (2, 16), generator=generator)
            points, goal = split.train.points[source], split.train.points[target]
            loss = (carry(points, net.depth(points, goal), goal) - goal).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    net_for = methods.kept("tiny", Tiny, train, settings)
    return lambda split, store: tiny_predictor(net_for(split, store))


def test_a_network_is_kept_and_shared_and_trained_anew_only_when_it_must(landmark_file, tmp_path):
    faces, _ = protocol.read_landmarks(landmark_file)
    split = protocol.split_by_pose(faces, 0, per_pose=5)
    pairs, trainings = protocol.all_pairs(15), []
    fit, store = tiny_method(trainings), methods.Store(tmp_path)
    first = protocol.evaluate(fit(split, store), split.test, pairs)
    again = protocol.evaluate(fit(split, store), split.test, pairs)
    assert trainings == [0]
    assert torch.equal(first.mse, again.mse)
    anew = methods.Store(tmp_path, retrain=True)
    twice = [protocol.evaluate(fit(split, anew), split.test, pairs) for _ in range(2)]
    assert trainings == [0, 0], "methods that share a network train it once per run"
    assert torch.equal(first.mse, twice[1].mse), "training is reproducible"
    fit(replace(split, train=split.train[torch.arange(20)]), store)
    tiny_method(trainings, "more steps")(split, store)
    assert trainings == [0] * 4, "other data or settings: other weights"


def test_damaged_kept_weights_are_said(landmark_file, tmp_path):
    faces, _ = protocol.read_landmarks(landmark_file)
    split = protocol.split_by_pose(faces, 0, per_pose=5)
    (tmp_path / "tiny-seed0.safetensors").write_bytes(b"12345")
    with pytest.raises(UsageError, match="--retrain"):
        tiny_method([])(split, methods.Store(tmp_path))
    tiny_method([])(split, methods.Store(tmp_path, retrain=True))


# ---- tables and goals ----


def number(value):
    return Number(value, 0.1, value, 10, (value - 1, value + 1), [value])


def test_goals_are_checked_both_ways():
    chosen = [
        goals.Goal("table1", "low", lambda scores: scores["a"]["mse"].mean, 0.6),
        goals.Goal("table1", "high", lambda scores: scores["a"]["mse"].mean, 0.6, ">="),
        goals.Goal("table1", "absent", lambda scores: scores["b"]["mse"].mean, 0.6),
        goals.Goal("table3", "not run", lambda scores: 0.0, 0.6),
    ]
    verdicts = goals.check(chosen, {"table1": {"a": {"mse": number(0.5)}}})
    assert [verdict.met for verdict in verdicts] == [True, False, False]
    assert verdicts[0].line.startswith("met")
    assert "0.500 <= 0.60, by 0.100" in verdicts[0].line
    assert "'b'" not in verdicts[2].line
    assert "b was not measured" in verdicts[2].line
    (nothing,) = goals.check(chosen[:1], {"table1": {"a": {"mse": number(math.nan)}}})
    assert not nothing.met


def test_every_learned_row_of_table1_has_to_beat_both_baselines():
    v1 = methods.Method("v1", "V1", methods.fit_affine, learned=True)
    names = [goal.name for goal in goals.goals({**methods.BASELINES1, "v1": v1}, {})]
    assert sum(name.startswith("v1 below") for name in names) == 2
    scores = {name: {"mse_norm": number(value)} for name, value in (("v1", 2.0), ("affine-2d", 3.0), ("template", 2.0))}
    verdicts = goals.check(goals.goals({"v1": v1}, {}), {"table1": scores})
    assert [verdict.met for verdict in verdicts[:2]] == [True, False], "equal is not below"


def test_tables_carry_numbers_in_every_form():
    table = tables.Table("A 5 % title", ["model", "MSE_norm ± std"], [["a & b", "1.0 ± 2.0"]], ["A note."])
    assert "| a & b | 1.0 ± 2.0 |" in table.markdown()
    assert r"a \& b & 1.0 $\pm$ 2.0 \\" in table.latex()
    assert r"5 \% title" in table.latex()
    assert "1.0 ± 2.0" in table.text()


# ---- the whole ----


def test_a_small_run_writes_everything(landmark_file, video_file, tmp_path, monkeypatch, capsys):
    trainings = []
    tiny = methods.Method("v3", "V3, keypoints", tiny_method(trainings), learned=True, row=7, colour="orange")
    monkeypatch.setattr(learned, "TABLE1", {**learned.TABLE1, "v3": tiny})
    monkeypatch.setattr(learned, "TABLE3", {**learned.TABLE3, "depthnet": replace(tiny, name="depthnet")})
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / video_file.name).symlink_to(video_file)
    (folder / "aflw2000-3d-landmarks.npz").symlink_to(landmark_file)
    output = tmp_path / "out"
    command = BenchDepthnets(check=True, data=folder, seeds=2, quick=True, output=output, talk=Talk(json_lines=True))
    assert bench_depthnets(command) == 1, "no network with labels was measured"
    assert trainings == [0, 1, 0, 1]
    made = {path.name for path in output.iterdir()}
    pictures = {
        "fig1-camera-sweep.png",
        "fig2-heatmaps.png",
        "fig3-depths.png",
        "table1-histogram.png",
        "table3-histogram.png",
    }
    assert made == pictures | {"results.json", "tables.md", "tables.tex", "models"}
    for name in pictures:
        with Image.open(output / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5, f"{name} is blank"
    record = json.loads((output / "results.json").read_text())
    assert record["config"]["seeds"] == 2
    mse = record["results"]["table3"]["gt-depth"]["mse"]
    assert mse["ci"][0] < mse["mean"] < mse["ci"][1]
    assert len(mse["seeds"]) == 2
    assert mse["n"] == 24 * 23
    assert record["results"]["table3"]["gt-depth"]["depth_corr_left"]["mean"] == pytest.approx(68)
    assert record["results"]["table1"]["floor"]["mse"]["mean"] < record["results"]["table1"]["v3"]["mse"]["mean"]
    assert record["dropped"][video_file.name] == {
        "picture, landmarks or identity missing or broken": 2,
    }
    out, err = capsys.readouterr()
    assert any("depthnet-depth" in name for name in json.loads(out)["missed"])
    assert "Table 3" in err
    assert "missed  v3-cnn / v3" in err
    # Kept networks are used again.
    before = (output / "results.json").read_text()
    assert bench_depthnets(command) == 1
    assert trainings == [0, 1, 0, 1]
    assert json.loads((output / "results.json").read_text())["results"] == json.loads(before)["results"]


def test_a_missing_file_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setenv("ABOUTFACE_DATA", str(tmp_path))
    with pytest.raises(MissingError, match=r"ytf68-train\.tar not found: set ABOUTFACE_DATA"):
        bench_depthnets(BenchDepthnets())
    with pytest.raises(UsageError, match="--seeds 0"):
        bench_depthnets(BenchDepthnets(seeds=0))


def test_the_real_faces_give_the_known_numbers(data, tmp_path, monkeypatch):
    """Reference values measured apart from this code, within what another split changes."""
    monkeypatch.setattr("aboutface.benchmark.figures.draw", lambda *_: [])
    monkeypatch.setattr(depthnets.Options, "draws", 20)
    monkeypatch.setattr(depthnets.Options, "per_pose", 30)
    file = data / "aflw2000-3d-landmarks.npz"
    outcome = depthnets.run(depthnets.Options(file, None, tmp_path, 1, "table3"), log=lambda _: None)
    scores = outcome.results["table3"]
    for name, expected in (
        ("affine-2d", 273),
        ("gt-depth", 7.91),
        ("template-depth", 6.70),
        ("factorisation", 6.70),
        ("floor", 4.22),
        ("template", 3.78),
    ):
        assert scores[name]["mse"].mean == pytest.approx(expected, rel=0.2), name
    assert scores["factorisation"]["depth_corr"].mean > 57
    assert scores["factorisation"]["similarity_correlation"].median > 0.99
    assert outcome.dropped[file.name] == {"yaw beyond 90 degrees": 6}
