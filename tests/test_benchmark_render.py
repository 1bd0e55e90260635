"""The renderer's benchmark: its judgement on made-up figures, and that what it times computes the right thing."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import torch

from aboutface import render


def load_script():
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "render.py"
    spec = importlib.util.spec_from_file_location("benchmark_render", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up their module by name.
    sys.modules["benchmark_render"] = module
    spec.loader.exec_module(module)
    return module


script = load_script()


@pytest.fixture
def report():
    return script.Report()


# Judgement.


def test_one_value_out_of_bounds_misses_the_goal(report):
    report.judge("speed", "fast", {"a": 10.0, "b": 4.0}, low=5.0)
    report.judge("speed", "slow", {"a": 1.0, "b": 1.3}, high=1.3)
    report.judge("speed", "absent", {}, low=5.0)
    assert [goal.met for goal in report.goals] == [False, True, None]
    assert [goal.goal for goal in report.missed()] == ["fast"]
    assert "| fast | a 10, b 4 | ≥ 5 each | **no** |" in report.table()
    assert "| absent | – | ≥ 5 | not measured |" in report.table()


def test_check_names_what_is_missed_and_what_was_not_measured(report, capsys):
    report.judge("speed", "absent", {}, low=5.0)
    assert script.conclude(report, "here", check=True) == 0
    assert "not measured: speed: absent" in capsys.readouterr().err
    report.judge("step", "small", {"x": 0.7}, high=0.6)
    assert script.conclude(report, "here", check=False) == 0
    assert capsys.readouterr().err == ""
    assert script.conclude(report, "here", check=True) == 1
    assert "missed: step: small: x 0.7, wanted ≤ 0.6" in capsys.readouterr().err


def test_speed_goals_compare_times_of_one_case(report):
    fast = {"forward": 0.001, "backward": 0.001, "whole": 0.0015}
    slow = {"forward": 0.005, "backward": 0.005, "whole": 0.02}
    times = {"numba": fast, "torch": slow, "C++": {**fast, "forward": 0.0008}, "PyTorch3D": {**slow, "backward": 0.9}}
    times["PyTorch3D"]["forward"] = 2.5
    script.judge_speed(report, {"face224-b1": times}, ["torch", "numba"], {"torch": 0, "numba": 1})
    met = {goal.goal: goal.met for goal in report.goals}
    assert met == {
        "triangle ids that differ from the torch backend's": False,
        "faces forward: numba, times as fast as PyTorch3D": True,
        "faces forward: torch, times as fast as PyTorch3D": True,
        "faces forward: numba's time over that of our C++": True,
        "grids forward: numba, times as fast as PyTorch3D": None,
        "grids forward: torch, times as fast as PyTorch3D": None,
        "grids forward: numba's time over that of our C++": None,
        "backward: numba, times as fast as PyTorch3D": False,
        "backward: torch, times as fast as PyTorch3D": True,
        "raster and interpolate, forward and backward, over the forward alone, numba": True,
    }
    rows = script.table_of_times({"face224-b1": times}).splitlines()
    assert "| PyTorch3D forward | 2,500 |" in rows


@pytest.mark.parametrize(
    ("megabytes", "met"),
    [
        (lambda count, pixels: 5 + 2e-4 * count + 8e-5 * pixels, [True, True, True]),
        (lambda count, pixels: 1e-7 * count**2 + 8e-5 * pixels, [False, True, True]),
        (lambda count, pixels: 2e-4 * count + 1e-10 * pixels**2, [True, False, True]),
        (lambda count, pixels: 1e-9 * count * pixels, [True, True, False]),
    ],
)
def test_memory_goals_see_what_is_not_linear(report, megabytes, met):
    found = {point: megabytes(script.triangles(point[0]), point[1] ** 2) for point in script.sweep()}
    script.judge_growth(report, {"one": found})
    assert [goal.met for goal in report.goals] == met


def test_turns_are_taken_and_the_median_counts_without_the_first_run_of_each():
    now, order = [0.0], []

    def job(name, *seconds):
        # The first run of each turn is long and does not count.
        seconds = iter([s for second in seconds for s in (50.0, second)])

        def run():
            order.append(name)
            now[0] += next(seconds)

        return run

    jobs = {"a": job("a", 3.0, 1.0, 2.0, 9.0, 8.0), "b": job("b", *[4.0] * 5)}
    assert script.take_turns(jobs, lambda: now[0]) == {"a": 3.0, "b": 4.0}
    assert order == ["a", "a", "b", "b"] * 5


def test_fast_jobs_run_more_often_in_a_turn(monkeypatch):
    now, runs = [0.0], [0]
    monkeypatch.setattr(script, "BUDGET", 0.0)
    monkeypatch.setattr(script, "TURN", 1.0)

    def fast():
        now[0] += 0.25
        runs[0] += 1

    assert script.take_turns({"fast": fast}, lambda: now[0]) == {"fast": 0.25}
    assert runs[0] == 5 * (1 + 1 + 4)


def test_the_shortest_run_counts(monkeypatch):
    seconds = iter([0.0, 5.0, 5.0, 5.0, 5.0, 5.0, 0.0, 5.0, 3.0, 5.0, 5.0, 5.0, *[5.0] * 12])
    monkeypatch.setattr(script, "STRETCH", 0.0)
    monkeypatch.setattr(script, "timed", lambda job, clock: next(seconds) or 9.0)
    assert script.shortest({"a": lambda: None}) == {"a": 3.0}


# The program.


def test_without_a_gpu_it_says_so(capsys):
    with pytest.raises(SystemExit) as stopped:
        script.main(["--device", "cuda"])
    assert stopped.value.code == 2
    assert "no GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "spede"], "spede"),
        (["--cases", "face224-b1,cat"], "cat is not among face224-b1"),
        (["--only", "step", "--write", "x.md"], "whole run"),
    ],
)
def test_wrong_arguments_are_told(arguments, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.main(arguments)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


def test_the_memory_of_a_small_picture_is_told(monkeypatch, capsys):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not tell the peak memory of a process")
    monkeypatch.setattr(script, "sweep", lambda: [(9, 16)])
    script.print_memory("torch")
    side, size, megabytes = capsys.readouterr().out.split()
    assert (side, size) == ("9", "16")
    assert 0 <= float(megabytes) < 100


# What is timed.


@pytest.fixture(scope="module")
def yardstick():
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    return script.Yardstick()


def steep_scene():
    """Triangles of a few pixels each, in perspective, partly outside the picture, many hiding others."""
    scene = script.grid_scene(9, 3, 24)
    generator = torch.Generator().manual_seed(3)
    clip = scene.clip + 0.3 * torch.randn(scene.clip.shape, generator=generator) * torch.tensor([1.0, 1.0, 0.2, 0.0])
    return scene._replace(clip=clip.contiguous())


def orthographic_scene():
    """Corners on pixel centres and edges through them, where only the top-left rule decides."""
    scene = script.grid_scene(9, 2, 16)
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    flat = torch.stack([(2 * x + 0.5) / 8 - 1, (2 * y + 0.5) / 8 - 1, 0.1 * x - 0.05 * y, torch.ones_like(x)], -1)
    return scene._replace(clip=flat.view(1, 81, 4).repeat(2, 1, 1), perspective=False)


@pytest.mark.parametrize("make", [steep_scene, orthographic_scene])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_yardstick_keeps_the_contract(yardstick, make, threads):
    scene = make()
    size = scene.size, scene.size
    clip = scene.clip.clone().requires_grad_()
    values = script.attributes_of(scene).requires_grad_()
    ours = render.rasterize(clip, scene.faces, size, backend="torch")
    theirs = yardstick.rasterize(scene, threads)
    assert torch.equal(theirs.triangle_id.long(), ours.triangle_id.long())
    assert (theirs.triangle_id >= 0).float().mean() > 0.5
    torch.testing.assert_close(theirs.barycentric, ours.barycentric.detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(theirs.depth, ours.depth.detach(), atol=1e-6, rtol=0)

    grads = script.upstream(scene, 3), script.upstream(scene, 1)[..., 0].contiguous()
    (wanted,) = torch.autograd.grad((ours.barycentric, ours.depth), clip, grads, retain_graph=True)
    found = yardstick.rasterize_backward(scene, theirs.triangle_id, *grads, threads)
    torch.testing.assert_close(found, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=1e-4)

    picture = render.interpolate(values, ours, scene.faces, backend="torch")
    torch.testing.assert_close(yardstick.interpolate(scene, values, theirs, threads), picture.detach())
    wanted = torch.autograd.grad(picture, (values, ours.barycentric), grads[0])
    found = yardstick.interpolate_backward(scene, values, theirs, grads[0], threads)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_yardstick_refuses_what_it_would_draw_wrong(yardstick):
    scene = steep_scene()
    scene.clip[0, 40, 3] = -1.0
    with pytest.raises(RuntimeError, match="left out"):
        yardstick.rasterize(scene)


class Kernels:
    """Stands in for PyTorch3D: says what it was given, and sees triangle 1 of each mesh everywhere."""

    def __init__(self):
        self.items = []

    def rasterize_meshes(self, corners, first, counts, neighbours, size, *rest):
        self.items.append(len(first))
        self.corners = corners
        shape = len(first), *size, 1
        ids = (first + 1).view(-1, 1, 1, 1).expand(shape)
        return ids, torch.ones(shape), torch.ones(*shape, 3), torch.zeros(shape)

    def rasterize_meshes_backward(self, corners, ids, by_depth, by_weight, by_distance, *rest):
        assert by_weight.shape == (*ids.shape, 3)
        return torch.zeros_like(corners)


def test_pytorch3d_is_run_once_or_told_from_one_item(monkeypatch):
    scene, kernels = steep_scene(), Kernels()
    *_, ids, note = script.pytorch3d_times(scene, kernels)
    assert kernels.items == [1, 3]
    assert note == ""
    assert ids.shape == (3, 24, 24)
    assert (ids == 1).all()
    # Its x points left and its y up.
    corner = scene.clip[0, scene.faces[0, 0]]
    torch.testing.assert_close(kernels.corners[0, 0], torch.stack([-corner[0], -corner[1], corner[3] ** 2]) / corner[3])
    monkeypatch.setattr(script, "SLOW", -1.0)
    *_, ids, note = script.pytorch3d_times(scene, kernels)
    assert kernels.items == [1, 3, 1]
    assert note == "one item's time times 3"


@pytest.mark.parametrize("finer", [1, 2])
def test_both_steps_give_the_same_pictures_and_gradients(finer):
    step, draw = script.make_step(2, 24, finer), script.drawing_depth("torch")
    plain, ours = script.plain_step(step, draw, 0.0), script.our_step(step, draw)
    for one, other in zip(plain, ours, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    # A step in which little is seen would agree too easily.
    assert (plain.depth < 1.15).float().mean() > 0.5
    pairs = (torch.autograd.grad(script.step_loss(pictures, step), step.factors) for pictures in (plain, ours))
    for one, other in zip(*pairs, strict=True):
        assert float(torch.cosine_similarity(one.flatten(), other.flatten(), dim=0)) > 0.9999
        assert float(one.norm() / other.norm()) == pytest.approx(1, abs=1e-3)


def test_watching_the_rasteriser_tells_both_passes():
    spent: list[float] = []
    step = script.make_step(1, 12, 1)
    script.step_job(step, script.our_step, script.watched(script.drawing_depth("torch"), spent))()
    assert len(spent) == 2
    assert min(spent) > 0


def test_scenes_are_those_of_the_goals(data):
    scenes = {scene.name: scene for scene in script.scenes(data)}
    assert list(scenes) == [
        *("face224-b1", "face256-b1", "face224-b8", "face256-b8", "grid64-b16", "grid64-b64", "grid128-b16"),
    ]
    face = scenes["face224-b8"]
    assert face.clip.shape == (8, 9409, 4)
    assert face.faces.shape == (18460, 3)
    assert bool((face.clip[..., :2].abs() < 1).all())
    seen = render.rasterize(face.clip[:1], face.faces, (224, 224), backend="torch").triangle_id >= 0
    assert 0.3 < float(seen.float().mean()) < 0.45
