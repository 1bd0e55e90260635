"""The benchmark on synthetic faces: scores on made ellipsoids, what methods are shown, tables, goals, a small run."""

import io
import json
import math
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close

from aboutface.benchmark import synface, synface_rows
from aboutface.benchmark.goals import check
from aboutface.benchmark.statistics import Number
from aboutface.benchmark.synface_faces import Faces, Prediction, read_faces, score
from aboutface.benchmark.synface_goals import GOALS, goals
from aboutface.benchmark.synface_rows import Outcome, Place, Row, rows
from aboutface.benchmark.synface_tables import PUBLISHED, Result, tables
from aboutface.cli.bench import bench_synface
from aboutface.cli.bench_commands import BenchSynface
from aboutface.cli.commands import Talk
from aboutface.data.synthetic import write_members
from aboutface.errors import UsageError
from aboutface.geometry import depth_normals, intrinsics, pixel_centres, project, rotation_from_angles, unproject
from aboutface.metrics import eroded
from aboutface.morphable import MeanHead
from aboutface.recipes.unsup3d import VARIANTS
from aboutface.reconstruct.unsup3d import Unsup3d
from aboutface.render.reproject import draw_depth
from aboutface.scene import Camera, DepthMap, Scene

RADII = torch.tensor([0.05, 0.065, 0.04])


def ellipsoids(count: int, size: int = 32, seed: int = 0) -> Faces:
    """Ellipsoids at z = 1, turned and lit at random; two images of each."""
    generator = torch.Generator().manual_seed(seed)
    angles = torch.randn(count, 3, generator=generator) * torch.tensor([20.0, 10.0, 5.0])
    rotation = rotation_from_angles(*angles.T)
    K = intrinsics(10.0, (size, size))
    ray = unproject(pixel_centres(size, size).flatten(0, 1), torch.ones(size * size), K)
    # In the ellipsoid's own frame, scaled to a ball: |o + t d| = 1.
    d = ray @ rotation / RADII
    o = -(rotation.mT @ torch.tensor([0.0, 0.0, 1.0]))[:, None] / RADII
    a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
    root = b * b - a * c
    mask = (root > 0).view(count, size, size)
    depth = torch.where(mask, ((-b - root.clamp_min(0).sqrt()) / a).view(count, size, size), 1.1)
    direction = torch.cat([torch.randn(count, 2, generator=generator) / 2, -torch.ones(count, 1)], 1)
    light = torch.cat([torch.full((count, 2), 0.5), nn.functional.normalize(direction, dim=1)], 1)
    shading = 0.5 + 0.5 * torch.einsum("ncij,nc->nij", depth_normals(depth, K), light[:, 2:]).clamp_min(0)
    grey = torch.where(mask, 220 * shading, 60.0).round().byte()
    view = torch.cat([angles, torch.zeros(count, 3)], 1)
    landmarks = torch.zeros(count, 68, 2)
    images = grey[:, None].expand(-1, 3, -1, -1).contiguous()
    return Faces(images, depth, mask, view, light, landmarks, torch.arange(count) // 2, K)


def perfect(faces: Faces) -> Prediction:
    view = rotation_from_angles(*faces.view[:, :3].T)
    return Prediction(faces.depth, torch.ones_like(faces.mask), view, faces.light)


@pytest.fixture
def faces() -> Faces:
    return ellipsoids(12)


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path, quick=True, device="cpu", log=lambda _: None)


# ---- scores ----


def test_the_truth_scores_nothing(faces):
    scores = score(perfect(faces), faces)
    for name in ("side", "mae", "mse"):
        assert_close(scores[name], torch.zeros(12, dtype=torch.float64))
    for name in ("mad", "view", "own_zero", "light", "ambient", "share"):
        assert scores[name].abs().max() < 0.1, name
    assert_close(scores["coverage"], torch.full((12,), 100.0, dtype=torch.float64))


def test_scale_is_free_and_a_bend_is_not(faces):
    truth = perfect(faces)
    scaled = score(replace(truth, depth=2.5 * faces.depth), faces)
    assert scaled["side"].max() < 1e-4
    assert scaled["mad"].max() < 0.1
    assert scaled["mae"].min() > 1
    inside_out = score(replace(truth, depth=2 - faces.depth), faces)
    flat = score(replace(truth, depth=torch.ones_like(faces.depth)), faces)
    assert (inside_out["side"] > 1.9 * flat["side"]).all(), "convex for concave is twice as wrong as flat"
    inside = eroded(faces.mask[0])
    assert_close(flat["side"][0], 100 * faces.depth[0][inside].double().log().std(correction=0))


def test_only_what_is_predicted_counts_and_its_share_is_told(faces):
    truth = perfect(faces)
    left = torch.zeros_like(faces.mask)
    left[..., :16] = True
    wrong_elsewhere = torch.where(left, faces.depth, 7.0)
    scores = score(replace(truth, depth=wrong_elsewhere, valid=left), faces)
    assert scores["side"].max() == 0
    assert (scores["coverage"] - 50).abs().max() < 20
    nothing = score(replace(truth, valid=torch.zeros_like(left)), faces)
    assert nothing["side"].isnan().all()
    assert (nothing["coverage"] == 0).all()


def test_mirrored_faces_and_predictions_have_the_same_scores(faces):
    flip = torch.tensor([-1.0, 1.0, -1.0, -1.0, 1.0, 1.0])
    mirror = replace(
        faces,
        depth=faces.depth.flip(-1),
        mask=faces.mask.flip(-1),
        view=faces.view * flip,
        light=faces.light * torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0]),
    )
    other = ellipsoids(12, seed=1)
    flipped = Prediction(
        other.depth.flip(-1),
        other.mask.flip(-1),
        rotation_from_angles(*(other.view * flip)[:, :3].T),
        other.light * torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0]),
    )
    here = score(Prediction(other.depth, other.mask, perfect(other).view, other.light), faces)
    there = score(flipped, mirror)
    for name, values in here.items():
        assert_close(there[name], values, atol=2e-4, rtol=1e-4, msg=name)


def test_a_zero_of_ones_own_is_free_and_each_faces_pose_is_not(faces):
    truth = perfect(faces)
    assert truth.view is not None
    own = rotation_from_angles(torch.tensor(0.0), torch.tensor(12.0))
    shifted = score(replace(truth, view=truth.view @ own), faces)
    assert (shifted["view"] - 12).abs().max() < 0.05
    assert shifted["own_zero"].max() < 0.05
    shuffled = score(replace(truth, view=truth.view.flip(0)), faces)
    assert shuffled["own_zero"].mean() > 5


def test_another_size_is_refused(faces):
    with pytest.raises(UsageError, match="expected depth and valid"):
        score(Prediction(faces.depth[:, :16], faces.mask[:, :16]), faces)


# ---- rows ----


def test_baselines_by_hand(faces, place):
    train = ellipsoids(6, seed=3)
    menu = rows(VARIANTS)
    found = {
        name: menu[name].run(train, faces.without_truth(), 0, place).prediction
        for name in ("flat", "average", "average-face")
    }
    assert (found["flat"].depth == 1).all()
    assert_close(found["average"].depth[3], train.depth.mean(0))
    rim = tuple(torch.nonzero(train.mask.any(0) & ~train.mask.all(0))[0])
    faces_alone = train.depth[:, *rim][train.mask[:, *rim]].mean()
    assert_close(found["average-face"].depth[5, *rim], faces_alone)
    assert found["average"].depth[5, *rim] > faces_alone + 0.01, "there the background counts"
    side = {name: float(score(one, faces)["side"].mean()) for name, one in found.items()}
    assert side["average-face"] < side["flat"]


def test_nobody_is_shown_the_tested_truth(faces, place):
    shown = []

    def spy(train, test, seed, place):
        shown.append((train, test))
        return synface_rows.flat_depth(train, test, seed, place)

    result, _ = synface.measure(Row("spy", "spy", spy, seeded=True), ellipsoids(4), faces, place, seeds=2)
    assert result.scores["side"].mean > 0
    for train, test in shown:
        assert not train.depth.isnan().any()
        assert torch.equal(test.images, faces.images)
        for hidden in (test.depth, test.view, test.light):
            assert hidden.isnan().all()
        assert not test.mask.any()


def test_unsup3d_tells_its_light_in_the_cameras_frame(faces):
    torch.manual_seed(0)
    net = Unsup3d.tiny(32)
    # An untrained network looks straight ahead; three hundred times its weights do not.
    *_, last = net.view_net.parameters()
    last.data *= 300
    images = faces.images / 255
    with torch.no_grad():
        depth, valid, view, light = synface_rows.unsup3d_batch(net, images)
        factors = net(images)
    turn = rotation_from_angles(factors.view.yaw, factors.view.pitch, factors.view.roll)
    assert (turn - torch.eye(3)).abs().max() > 0.1
    assert_close(view, turn)
    back = torch.linalg.solve(turn, light[:, 2:, None])[..., 0]
    assert_close(back, factors.light.direction, atol=1e-5, rtol=1e-5)
    seen = net.reproject(factors)
    assert_close(depth, seen.depth)
    assert torch.equal(valid, seen.valid)


def test_batches_are_joined_in_order(faces):
    many = faces.images.repeat(4, 1, 1, 1)
    (means,) = synface_rows.in_batches(nn.Identity(), many, "cpu", lambda net, images: (net(images).mean((1, 2, 3)),))
    assert_close(means, many.float().mean((1, 2, 3)) / 255)


def test_a_scene_of_another_lens_is_told_for_ours(faces):
    """Relief in pixels is kept: depths of a camera of 40 degrees become those of 10."""
    size, wide = 32, intrinsics(40.0, (32, 32))
    focal = float(faces.K[0, 0])
    told = 1 + (faces.depth[0] - 1) * focal / float(wide[0, 0])
    scene = Scene(DepthMap(told), torch.ones(3, size, size), Camera(wide, size, size))
    depth, valid = synface_rows.drawn(scene, focal)
    both = valid & eroded(eroded(faces.mask[0]))
    assert both.sum() > 100
    # Triangles between pixel centres hold the centres' depths, but for rounding.
    assert_close(depth[both], faces.depth[0][both], atol=2e-4, rtol=0)


def heads(count: int = 3, size: int = 64) -> Faces:
    """The mean head of the package itself, as truth, at a few poses."""
    head, K = MeanHead.load(), intrinsics(10.0, (size, size))
    angles = torch.tensor([[0.0, 0.0, 0.0], [20.0, 5.0, 3.0], [-25.0, -8.0, 0.0]])[:count]
    rotation = rotation_from_angles(*angles.T)
    centre, unit = torch.tensor([0.0, 0.0, 1.0]), 0.0008

    def placed(points: torch.Tensor) -> torch.Tensor:
        return unit * points @ rotation.mT + centre

    drawn = draw_depth(placed(head.vertices()), head.faces(), K, (size, size))
    mask = drawn < 2
    landmarks = project(placed(head.landmarks), K)
    images = torch.where(mask, 180, 90).byte()[:, None].expand(-1, 3, -1, -1).contiguous()
    light = torch.tensor([0.5, 0.5, 0.0, 0.0, -1.0]).expand(count, -1)
    view = torch.cat([angles, torch.zeros(count, 3)], 1)
    return Faces(images, torch.where(mask, drawn, 1.1), mask, view, light, landmarks, torch.arange(count), K)


def test_a_reconstructor_knows_the_mean_head_and_its_pose(place):
    truth = heads()
    outcome = synface_rows.method_row("depthnet").run(truth, truth.without_truth(), 0, place)
    scores = score(outcome.prediction, truth)
    flat = score(synface_rows.flat_depth(truth, truth, 0, place).prediction, truth)
    assert (scores["side"] < 0.4 * flat["side"]).all()
    assert (scores["mad"] < 0.5 * flat["mad"]).all()
    assert (scores["coverage"] > 85).all()
    assert (scores["view"] < 5).all()
    assert "light" not in scores, "depthnet tells no light"


def test_a_face_that_cannot_be_reconstructed_is_left_out_and_told(place):
    truth = heads(2)
    truth.landmarks[1] += 1000
    lines = []
    result, first = synface.measure(
        synface_rows.method_row("depthnet"), truth, truth, replace(place, log=lines.append), seeds=3
    )
    assert not first.prediction.valid[1].any()
    assert result.scores["side"].n == 1
    assert result.scores["coverage"].n == 2
    assert result.scores["coverage"].mean < 60
    assert any("test image 1" in line for line in lines)
    assert result.scores["side"].seeds == [result.scores["side"].mean], "nothing in it is random: one run is enough"


# ---- numbers, tables, goals ----


def test_a_number_joins_seeds_and_draws_people():
    people = torch.arange(40) // 4
    bootstrap = synface.faces_drawn(people)
    same = people.double()
    joined = synface.number([same, same + 2], bootstrap)
    assert joined.mean == pytest.approx(5.5)
    assert joined.seeds == pytest.approx([4.5, 6.5])
    assert joined.std == pytest.approx(float(same.std(correction=0)))
    # Ten people, not forty images: the mean's deviation is that of a person / sqrt(10).
    width = (joined.ci[1] - joined.ci[0]) / 2
    assert width == pytest.approx(1.96 * float(same.std(correction=0)) / math.sqrt(10), rel=0.15)
    holes = same.clone()
    holes[:4] = math.nan
    assert synface.number([holes], bootstrap).n == 36
    assert math.isnan(synface.number([torch.full((40,), math.nan)], bootstrap).mean)


def made(side: float, mad: float, **more) -> Result:
    def number(value: float) -> Number:
        return Number(value, 0.1, value, 10, (value - 0.1, value + 0.1), [value])

    scores = {"side": number(side), "mad": number(mad), "coverage": number(100.0)}
    return Result("a title", "yes", more.pop("unsupervised", False), scores, **more)


def verdicts(**changes: tuple[float, float]) -> dict[str, bool]:
    """Every goal's verdict, on numbers that meet all of them but for the changes."""
    numbers = {
        "supervised": (0.4, 10.0),
        "flat": (2.7, 43.0),
        "average": (2.0, 23.0),
        "average-face": (1.9, 22.0),
        "original": (0.8, 16.0),
        "original-nosym": (1.3, 30.0),
        "improved": (0.5, 12.0),
        "improved-nosym": (0.6, 14.0),
        "transcription": (0.79, 15.8),
    } | {name.replace("_", "-"): value for name, value in changes.items()}
    scores = {name: made(*value).scores for name, value in numbers.items()}
    wanted = goals(["original", "original-nosym", "improved", "improved-nosym"])
    return {verdict.name: verdict.met for verdict in check(wanted, {GOALS: scores})}


def missed(**changes: tuple[float, float]) -> set[str]:
    return {name for name, met in verdicts(**changes).items() if not met}


def test_each_goal_can_be_missed():
    assert missed() == set()
    assert missed(improved=(0.601, 12.0)) == {"improved / original, SIDE"}
    assert missed(improved=(0.5, 12.9)) == {"improved / original, MAD"}
    assert missed(improved_nosym=(0.801, 14.0)) == {"improved's loss of SIDE without symmetry / original's"}
    assert missed(transcription=(0.76, 15.8)) == {"original / transcription, SIDE"}
    assert missed(average=(2.0, 16.0)) == {"original / average, MAD"}
    assert missed(average_face=(0.7, 22.0)) == {"original / average-face, SIDE"}
    assert missed(supervised=(0.55, 10.0)) == {"supervised / improved, SIDE"}


def test_no_loss_without_symmetry_is_no_fault_of_ours_and_none_of_the_originals_is():
    name = "improved's loss of SIDE without symmetry / original's"
    assert missed(original_nosym=(0.7, 30.0)) == {name}, "only ours loses"
    assert missed(original_nosym=(0.7, 30.0), improved_nosym=(0.45, 14.0)) == set()


def test_what_was_not_measured_is_said():
    scores = {"original": made(0.8, 16.0).scores}
    found = check(goals([]), {GOALS: scores})
    assert not any(verdict.met for verdict in found)
    assert any("transcription was not measured" in verdict.line for verdict in found)


def test_tables_carry_numbers_papers_and_changes():
    results = {
        "original": made(0.8, 16.0, parameters=26_000_000, steps=300, seconds=600.0, notes={"features": "filters"}),
        "improved": made(0.5, 12.0),
        "improved - multiscale": made(0.6, 11.4),
    }
    depth, ablation = tables(results)
    first = depth.rows[0]
    assert first[2:5] == ["26.00", "300 steps, 10 min", "0.800 ± 0.100"]
    assert first[-2:] == [f"{PUBLISHED['original'][0]:.3f}", f"{PUBLISHED['original'][1]:.2f}"]
    assert all("multiscale" not in row[0] for row in depth.rows)
    assert any("filters" in note for note in depth.notes)
    assert any("another data set" in note for note in depth.notes)
    assert ablation.rows[1] == ["without multiscale", "–", "0.600", "+20.0 %", "11.40", "-5.0 %"]


def test_a_transcriptions_file_is_read_and_a_wrong_one_refused(tmp_path):
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({"side": [0.008, 0.010], "mad": [15.0, 17.0], "steps": 300}))
    result = synface.read_transcription(file)
    assert result.scores["side"].mean == pytest.approx(0.9)
    assert result.scores["mad"].n == 2
    assert result.steps == 300
    file.write_text(json.dumps({"side": 0.008, "mad": 16.0}))
    assert synface.read_transcription(file).scores["side"].mean == pytest.approx(0.8)
    for wrong, words in (
        ("{", "expected JSON"),
        ("[1]", "expected JSON"),
        ('{"side": 0.008}', "mad"),
        ('{"side": [], "mad": []}', "finite"),
        ('{"side": 0.8, "mad": 16}', "without the x 100"),
    ):
        file.write_text(wrong)
        with pytest.raises(UsageError, match=words):
            synface.read_transcription(file)
    with pytest.raises(UsageError, match="absent"):
        synface.read_transcription(tmp_path / "absent.json")


# ---- the whole ----


def written(faces: Faces, folder: Path) -> Path:
    """The faces as the generator writes them."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "000000.tar", "w") as tar:
        for index in range(len(faces)):
            example = {
                "image": faces.images[index].permute(1, 2, 0),
                "albedo": faces.images[index].permute(1, 2, 0),
                "normal": depth_normals(faces.depth[index], faces.K),
                "landmarks3d": torch.zeros(68, 3),
                "visible": torch.ones(68, dtype=torch.bool),
                "millimetres_per_unit": torch.tensor(1000.0),
            }
            example |= {name: getattr(faces, name)[index] for name in ("depth", "mask", "view", "light", "landmarks")}
            example["identity"] = faces.identity[index]
            arrays = {name: value.numpy().copy(order="C") for name, value in example.items()}
            for name, content in write_members(f"{index:06d}", arrays, faces.K.numpy()):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return folder


@pytest.fixture
def folder(tmp_path):
    written(ellipsoids(16, seed=5), tmp_path / "faces" / "train")
    written(ellipsoids(12), tmp_path / "faces" / "test")
    return tmp_path / "faces"


def test_a_split_is_read_as_it_was_written(folder):
    found, made = Faces.read(folder / "test"), ellipsoids(12)
    for name in ("images", "depth", "mask", "view", "light", "identity", "K"):
        assert_close(getattr(found, name), getattr(made, name), msg=name)
    train, test = read_faces(folder, 5)
    assert (len(train), len(test)) == (5, 5)


def test_wrong_data_is_said(folder, tmp_path):
    with pytest.raises(UsageError, match="aboutface data synth faces"):
        read_faces(tmp_path)
    written(ellipsoids(2, size=16), tmp_path / "other" / "test")
    (tmp_path / "other" / "train").symlink_to(folder / "train")
    with pytest.raises(UsageError, match="32 pixels to train and of 16 to test"):
        read_faces(tmp_path / "other")


def test_a_small_run_writes_everything_and_keeps_its_networks(folder, tmp_path, capsys):
    transcription = tmp_path / "scores.json"
    transcription.write_text(json.dumps({"side": 0.008, "mad": 16.0}))
    without = next(name for name in VARIANTS if name.startswith("improved - "))
    command = BenchSynface(
        folder,
        check=True,
        rows=("supervised", "original", "improved", without),
        seeds=2,
        quick=True,
        device="cpu",
        transcription=transcription,
        output=tmp_path / "out",
        talk=Talk(json_lines=True),
    )
    assert bench_synface(command) == 1, "tiny networks meet no goal"
    out, err = capsys.readouterr()
    output = tmp_path / "out"
    assert {path.name for path in output.iterdir()} == {
        "results.json",
        "tables.md",
        "tables.tex",
        "faces.png",
        "models",
        "training",
    }
    assert "supervised / original, SIDE" in json.loads(out)["missed"] or "met     supervised / original, SIDE" in err
    assert "Ablation" in err
    assert "missed  improved's loss of SIDE without symmetry / original's: original-nosym was not measured" in err
    record = json.loads((output / "results.json").read_text())
    results = record["results"]
    assert list(results)[:4] == ["supervised", "flat", "average", "average-face"]
    assert results["original"]["steps"] == 5
    assert results["original"]["seconds"] > 0
    assert len(set(results["original"]["scores"]["side"]["seeds"])) == 2, "seeds differ"
    assert results["flat"]["scores"]["side"]["seeds"] == [results["flat"]["scores"]["side"]["mean"]]
    assert results["transcription"]["scores"]["side"]["mean"] == pytest.approx(0.8)
    assert "view" in results["original"]["scores"]
    assert not list((output / "training").rglob("*.pt")), "checkpoints of a finished training are gone"
    with Image.open(output / "faces.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 20
    # Kept networks are used again; another seed, step number or image is another network.
    assert bench_synface(command) == 1
    assert ", seed " not in capsys.readouterr().err
    again = json.loads((output / "results.json").read_text())["results"]
    assert {name: one["scores"] for name, one in again.items()} == {
        name: one["scores"] for name, one in results.items()
    }
    assert bench_synface(replace(command, steps=2, rows=("original",), seeds=1)) == 1
    assert "training original, seed 0" in capsys.readouterr().err


def test_a_training_that_was_interrupted_goes_on(folder, tmp_path, monkeypatch):
    train, test = read_faces(folder)
    lines: list[str] = []

    def outcome(output: str, steps: int) -> Outcome:
        place = Place(tmp_path / output, steps, "cpu", quick=True, log=lines.append)
        return synface_rows.supervised(train, test.without_truth(), 0, place)

    whole = outcome("whole", 6)
    real = synface_rows.train_supervised_depth

    def broken(*arguments, **options):
        real(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(synface_rows, "train_supervised_depth", broken)
    with pytest.raises(KeyboardInterrupt):
        outcome("broken", 6)
    monkeypatch.setattr(synface_rows, "train_supervised_depth", real)
    assert torch.equal(outcome("broken", 6).prediction.depth, whole.prediction.depth)
    assert any("nothing left to do" in line for line in lines), "it was taken from the checkpoint"


def test_wrong_requests_are_refused_before_any_training(folder, tmp_path):
    options = synface.Options(folder, tmp_path / "out")
    for change, words in (
        ({"rows": ("improvd",)}, "there is no 'improvd'; there are: supervised, flat"),
        ({"methods": ("nobody",)}, "nobody"),
        ({"device": "abacus"}, "abacus"),
        ({"transcription": tmp_path / "absent.json"}, "absent.json"),
    ):
        with pytest.raises(UsageError, match=words):
            synface.run(replace(options, **change), log=lambda _: None)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="--seeds 0"):
        bench_synface(BenchSynface(folder, seeds=0))
