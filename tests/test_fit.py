"""The loop against a plain one, its memory against kills, and every way in which a checkpoint can be bad."""

import errno
import io
import json
import math
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torch.testing import assert_close

from aboutface.errors import AboutfaceError, MissingError, OutputError, UsageError
from aboutface.fit import FitSettings, Phase, Repeated, Run, Task, TensorBatches, cosine, fit, read_checkpoint
from aboutface.fit.record import Recorder
from aboutface.fit.training import to_device

ROOT = Path(__file__).resolve().parents[1]
EXACT: dict[str, Any] = {"rtol": 0, "atol": 0}


class Line(Task):
    """Two numbers that learn y = 3 x + 1."""

    name = "line"

    def __init__(self, rate: float = 0.1):
        super().__init__()
        self.weight, self.bias, self.rate = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(())), rate

    def phases(self):
        return {"all": Phase(torch.optim.SGD(self.parameters(), self.rate))}

    def loss(self, phase, batch, step):
        error = (self.weight * batch["x"] + self.bias - batch["y"]).square().mean()
        return error, {"error": error}


class Net(Task):
    """Batch norm, dropout, Adam and a cosine: everything that has a state."""

    name = "net"

    def __init__(self, dropout: float = 0.3, steps: int = 30):
        super().__init__()
        self.steps = steps
        self.layers = nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 1)
        )

    def phases(self):
        optimiser = torch.optim.Adam(self.parameters(), 0.01)
        return {"all": Phase(optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps))}

    def loss(self, phase, batch, step):
        loss = (self.layers(batch["x"])[:, 0] - batch["y"]).square().mean()
        return loss, {"twice": loss * 2}

    def preview(self, batch):
        assert not self.training
        assert not torch.is_grad_enabled()
        value = (self.layers(batch["x"])[:3, 0] + torch.rand(3)).sigmoid()
        return {"guess": value.view(3, 1, 1, 1).expand(3, 3, 1, 5), "truth": torch.ones(3, 3, 4, 4)}


class TwoSides(Task):
    """Two phases, as in a GAN: each loss depends on the parameters of both sides."""

    name = "two-sides"

    def __init__(self):
        super().__init__()
        self.generator, self.judge = nn.Linear(3, 3), nn.Linear(3, 1)
        self.moves: list[tuple[int, str]] = []

    def phases(self):
        return {
            "judge": Phase(torch.optim.SGD(self.judge.parameters(), 0.1), averaged=False),
            "penalty": Phase(torch.optim.SGD(self.judge.parameters(), 0.1), every=3, averaged=False),
            "generator": Phase(torch.optim.SGD(self.generator.parameters(), 0.1)),
        }

    def loss(self, phase, batch, step):
        self.moves.append((step, phase))
        fake = self.judge(self.generator(batch["x"])).mean()
        return (fake if phase == "generator" else self.judge(batch["x"]).mean() - fake), {"fake": fake}


def points(count=64):
    x = torch.linspace(-1, 1, count)
    return {"x": x, "y": 3 * x + 1}


def table(count=40):
    generator = torch.Generator().manual_seed(3)
    return {"x": torch.randn(count, 4, generator=generator), "y": torch.randn(count, generator=generator)}


def made(kind, **arguments):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return kind(**arguments)


def quiet(_):
    pass


def assert_same(one: nn.Module, other: nn.Module, **tolerance):
    assert_close(dict(one.state_dict()), dict(other.state_dict()), **(tolerance or EXACT))


def new_run(folder):
    return Run.create(folder, "data", "method", {"batch": 8})


def metrics_of(run):
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: v for name, v in line.items() if name not in ("seconds", "examples_per_second")} for line in lines]


# ---- the step ----


def test_the_loop_does_what_ten_plain_lines_do():
    twin, settings = made(Net), FitSettings(steps=30, clip=0.5, ema=0.9, seed=11)
    fitted = fit(made(Net), TensorBatches(table(), 8, seed=2), settings, log=quiet)

    mean = made(Net)
    phase = twin.phases()["all"]
    assert phase.schedule is not None
    twin.train()
    with torch.random.fork_rng():
        torch.manual_seed(11)
        for _, batch in zip(range(30), TensorBatches(table(), 8, seed=2), strict=False):
            phase.optimiser.zero_grad()
            twin.loss("all", batch, 0)[0].backward()
            torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            phase.optimiser.step()
            phase.schedule.step()
            for ours, theirs in zip(mean.parameters(), twin.parameters(), strict=True):
                ours.data.lerp_(theirs.data, 1 - 0.9)
    assert_same(fitted.task, twin)
    for ours, theirs in zip(fitted.averaged.parameters(), mean.parameters(), strict=True):
        assert_close(ours, theirs, **EXACT)
    assert_close(fitted.averaged.layers[1].running_mean, twin.layers[1].running_mean, **EXACT)
    assert not fitted.averaged.training


def test_a_line_is_learnt_and_the_terms_are_those_of_the_end():
    fitted = fit(made(Line), TensorBatches(points(), 16), FitSettings(steps=300), log=quiet)
    assert_close(fitted.task.weight.detach(), torch.tensor(3.0), rtol=0, atol=1e-3)
    assert_close(fitted.task.bias.detach(), torch.tensor(1.0), rtol=0, atol=1e-3)
    assert fitted.step == 300
    assert fitted.averaged is fitted.task
    assert fitted.terms["all/error"] == fitted.terms["all/loss"] < 1e-5
    assert fitted.terms["all/learning_rate"] == 0.1


def test_the_average_has_its_closed_form():
    # A constant gradient of -1 moves the weight by 1 a step: after n steps it is n, and its average, which starts with
    # the first weight, 0, is the sum over k of (1 - d) d^(n - k) k.
    class Steady(Line):
        def phases(self):
            return {"all": Phase(torch.optim.SGD([self.weight], 1.0))}

        def loss(self, phase, batch, step):
            return -self.weight, {}

    fitted = fit(Steady(), Repeated({}), FitSettings(steps=20, ema=0.8), log=quiet)
    assert fitted.task.weight.item() == 20
    expected = sum(0.2 * 0.8 ** (20 - k) * k for k in range(1, 21))
    assert fitted.averaged.weight.item() == pytest.approx(expected, rel=1e-5)
    assert not fitted.averaged.weight.requires_grad


def test_the_average_has_no_copy_of_data_in_buffers_but_one_of_what_is_saved():
    class Holding(Line):
        def __init__(self):
            super().__init__()
            self.register_buffer("faces", torch.ones(3), persistent=False)
            self.seen: torch.Tensor
            self.register_buffer("seen", torch.zeros(()))

        def loss(self, phase, batch, step):
            self.seen += 1
            return super().loss(phase, batch, step)

    fitted = fit(made(Holding), TensorBatches(points(), 8), FitSettings(steps=5, ema=0.9), log=quiet)
    assert fitted.averaged.faces is fitted.task.faces
    assert fitted.averaged.seen is not fitted.task.seen
    assert (fitted.averaged.seen.item(), fitted.task.seen.item()) == (5, 5)


def test_accumulated_batches_equal_one_large_batch():
    large = fit(made(Line), TensorBatches(points(), 32), FitSettings(steps=10, clip=0.7), log=quiet)
    small = fit(made(Line), TensorBatches(points(), 8), FitSettings(steps=10, clip=0.7, accumulate=4), log=quiet)
    assert_same(small.task, large.task, rtol=1e-5, atol=1e-6)
    assert small.terms == pytest.approx(large.terms, rel=1e-5)


def test_a_phase_moves_its_own_parameters_only():
    task, batches = made(TwoSides), Repeated({"x": torch.ones(2, 3)})
    before = {name: value.clone() for name, value in task.state_dict().items()}
    settings = FitSettings(steps=7, ema=0.5)
    fitted = fit(task, batches, settings, log=quiet)
    due = [(s, p) for s in range(7) for p in ("judge", "penalty", "generator") if p != "penalty" or s % 3 == 0]
    assert task.moves == due
    # Closed form of the judge's bias: no loss depends on it but the generator's, whose phase leaves it alone.
    assert_close(task.judge.bias, before["judge.bias"], **EXACT)
    assert not torch.equal(task.generator.weight, before["generator.weight"])
    # What is not averaged is not copied either.
    assert fitted.averaged.judge.weight is task.judge.weight
    assert fitted.averaged.generator.weight is not task.generator.weight
    assert task.judge.weight.requires_grad


def test_each_phase_alone_equals_a_step_by_hand():
    task, twin, x = made(TwoSides), made(TwoSides), torch.ones(2, 3)
    fit(task, Repeated({"x": x}), FitSettings(steps=1), log=quiet)
    for phase, side in (("judge", twin.judge), ("penalty", twin.judge), ("generator", twin.generator)):
        parameters = list(side.parameters())
        gradients = torch.autograd.grad(twin.loss(phase, {"x": x}, 0)[0], parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.data -= 0.1 * gradient
    assert_same(task, twin, rtol=1e-6, atol=1e-7)


def test_a_phase_has_its_own_clip():
    class Steep(Line):
        def phases(self):
            return {"all": Phase(torch.optim.SGD([self.weight], 1.0), clip=0.25)}

        def loss(self, phase, batch, step):
            return 100 * self.weight, {}

    fitted = fit(Steep(), Repeated({}), FitSettings(steps=4, clip=50.0), log=quiet)
    assert fitted.task.weight.item() == pytest.approx(-1.0, rel=1e-5)
    assert fitted.terms["all/gradient_norm"] == 100


def test_the_caller_keeps_modes_and_random_numbers():
    task = made(Net)
    task.layers[1].eval()
    torch.manual_seed(1)
    random.seed(1)
    expected = [torch.rand(1).item(), random.random(), np.random.default_rng(1).random()]
    torch.manual_seed(1)
    random.seed(1)
    fit(task, TensorBatches(table(), 8), FitSettings(steps=2), log=quiet)
    assert [torch.rand(1).item(), random.random(), np.random.default_rng(1).random()] == expected
    assert task.layers[0].training
    assert not task.layers[1].training
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_computes_in_it_and_learns(precision):
    seen = []

    class Half(Net):
        def loss(self, phase, batch, step):
            guess = self.layers(batch["x"])[:, 0]
            seen.append(guess.dtype)
            return (guess.float() - batch["y"]).square().mean(), {}

    settings = FitSettings(steps=30, precision=precision, log_every=1)
    fitted = fit(made(Half, dropout=0), TensorBatches(table(), 20), settings, log=quiet)
    exact = fit(made(Net, dropout=0), TensorBatches(table(), 20), FitSettings(steps=30, log_every=1), log=quiet)
    assert set(seen) == {getattr(torch, precision)}
    assert fitted.task.layers[0].weight.dtype == torch.float32
    assert fitted.terms["all/loss"] == pytest.approx(exact.terms["all/loss"], rel=0.05)


def test_float16_leaves_out_steps_whose_gradient_overflows_and_scales_less():
    class Steep(Line):
        def phases(self):
            optimiser = torch.optim.SGD([self.weight], 1e-3)
            return {"all": Phase(optimiser, torch.optim.lr_scheduler.StepLR(optimiser, 1, 0.5))}

        def loss(self, phase, batch, step):
            return (self.weight * torch.tensor(100.0)).half().float(), {}  # 65536 * 100 is no float16

    fitted = fit(Steep(), Repeated({}), FitSettings(steps=12, precision="float16"), log=quiet)
    taken = round(-math.log2(fitted.terms["all/learning_rate"] / 1e-3))
    assert 0 < taken < 12
    # Geometric: each step taken was half as long as that before, and those left out moved nothing.
    assert fitted.task.weight.item() == pytest.approx(-0.1 * 2 * (1 - 0.5**taken), rel=1e-3)


def test_channels_last_reaches_weights_and_images():
    layouts = []

    class Picture(Task):
        name = "picture"

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def phases(self):
            return {"all": Phase(torch.optim.SGD(self.parameters(), 0.01))}

        def loss(self, phase, batch, step):
            layouts.append(batch["image"].is_contiguous(memory_format=torch.channels_last))
            layouts.append(self.conv.weight.is_contiguous(memory_format=torch.channels_last))
            return self.conv(batch["image"]).square().mean(), {}

    batches = {"image": torch.rand(6, 3, 8, 8)}
    plain = fit(made(Picture), TensorBatches(batches, 2), FitSettings(steps=3), log=quiet)
    assert not any(layouts[::2])
    layouts.clear()
    last = fit(made(Picture), TensorBatches(batches, 2), FitSettings(steps=3, channels_last=True), log=quiet)
    assert layouts == [True] * 6
    assert_same(last.task, plain.task, rtol=1e-5, atol=1e-6)


def test_batches_of_any_nesting_are_moved():
    batch = {"a": [torch.zeros(2), "text"], "b": (torch.ones(1), 3)}
    moved = to_device(batch, torch.device("meta"))
    assert moved["a"][0].device.type == moved["b"][0].device.type == "meta"
    assert (moved["a"][1], moved["b"][1]) == ("text", 3)


# ---- batches ----


def test_every_example_comes_once_per_epoch_in_an_order_of_its_own():
    batches = TensorBatches({"i": torch.arange(10)}, 4, seed=1)
    seen = torch.cat([next(batches)["i"] for _ in range(10)]).view(4, 10)
    assert (seen.sort(1).values == torch.arange(10)).all()
    assert len({tuple(epoch.tolist()) for epoch in seen}) == 4
    assert not torch.equal(seen[0], torch.cat([b["i"] for b, _ in zip(_batches(10, 2), range(5), strict=False)]))


def _batches(count, size, **arguments):
    return TensorBatches({"i": torch.arange(count)}, size, **arguments)


def test_the_position_is_all_that_a_loader_needs():
    batches = _batches(7, 3, seed=4)
    for _ in range(5):
        next(batches)
    other = _batches(7, 3, seed=4)
    other.load_state_dict(batches.state_dict())
    for _ in range(5):
        assert_close(next(other), next(batches), **EXACT)


@pytest.mark.parametrize(("count", "size"), [(7, 3), (5, 64), (8, 4), (1, 6)])
def test_batches_are_the_epochs_end_to_end(count, size):
    batches, expected = _batches(count, size, seed=3), []
    for epoch in range(9 * size):
        expected += np.random.default_rng((3, epoch)).permutation(count).tolist()
    assert torch.cat([next(batches)["i"] for _ in range(9)]).tolist() == expected[: 9 * size]


def test_processes_share_the_same_batch():
    whole, parts = _batches(10, 4), [_batches(10, 4, rank=r, world=2) for r in (0, 1)]
    for _ in range(6):
        assert_close(torch.cat([next(part)["i"] for part in parts]), next(whole)["i"], **EXACT)


@pytest.mark.parametrize("tensors", [{}, {"x": torch.zeros(0, 3)}])
def test_an_empty_set_is_refused(tensors):
    with pytest.raises(UsageError, match="empty"):
        TensorBatches(tensors, 4)


def test_sets_and_batches_that_cannot_be_shared_out_are_refused():
    with pytest.raises(UsageError, match=r"'x': 3, 'y': 4"):
        TensorBatches({"x": torch.zeros(3), "y": torch.zeros(4)}, 1)
    with pytest.raises(UsageError, match="multiple of the number of processes"):
        TensorBatches({"x": torch.zeros(3)}, 3, rank=0, world=2)


# ---- settings ----


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("accumulate", 0),
        ("clip", 0.0),
        ("clip", math.nan),
        ("ema", 1.0),
        ("ema", -0.1),
        ("checkpoint_minutes", -1.0),
        ("keep", 0),
        ("log_every", 0),
        ("preview_every", -1),
        ("precision", "float8"),
        ("seed", -1),
    ],
)
def test_a_wrong_setting_names_its_flag(field, value):
    flag = "--" + field.replace("_", "-")
    with pytest.raises(UsageError, match=f"^{flag}: expected .*, got "):
        FitSettings(**{field: value})


@pytest.mark.parametrize("device", ["cuda:7", "quantum", "mps:3"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(UsageError, match=f"--device: .*{device}"):
        fit(made(Line), TensorBatches(points(), 4), FitSettings(device=device), log=quiet)


# ---- numbers that are not finite ----


class Breaking(Line):
    """Something becomes infinite or NaN at step 7 (the eighth)."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def loss(self, phase, batch, step):
        loss, terms = super().loss(phase, batch, step)
        bad = step == 7
        if self.what == "loss" and bad:
            loss = loss / 0
        if self.what == "term" and bad:
            terms["error"] = loss * math.nan
        if self.what == "gradient" and bad:
            loss = loss + (self.weight - self.weight.detach()).abs().sqrt()  # 0, of infinite slope
        return loss, terms


@pytest.mark.parametrize(("what", "name"), [("loss", "loss"), ("term", "error"), ("gradient", "gradient_norm")])
def test_the_first_number_that_is_not_finite_stops_the_run_before_the_weights_take_it(tmp_path, what, name):
    run, task = new_run(tmp_path), Breaking(what)
    with pytest.raises(AboutfaceError, match=rf"step 8, phase all: {name} is (inf|nan)"):
        fit(task, TensorBatches(points(), 8), FitSettings(checkpoint_minutes=0), run, log=quiet)
    good = fit(Line(), TensorBatches(points(), 8), FitSettings(steps=7), log=quiet)
    assert_same(task, good.task)
    checkpoint = read_checkpoint(run.checkpoints()[0])
    assert checkpoint["step"] == 7
    assert_close(checkpoint["task"], dict(good.task.state_dict()), **EXACT)


def test_weights_that_are_not_finite_do_not_replace_a_checkpoint(tmp_path):
    class Leaping(Line):
        def phases(self):
            return {"all": Phase(torch.optim.SGD([self.weight], 3e38))}

        def loss(self, phase, batch, step):
            return self.weight * (2.0 if step == 2 else 0.0), {}

    run = new_run(tmp_path)
    with pytest.raises(AboutfaceError, match="step 3: the weights are no longer finite"):
        fit(Leaping(), Repeated({}), FitSettings(steps=9, checkpoint_minutes=0), run, log=quiet)
    assert read_checkpoint(run.checkpoints()[0])["task"]["weight"] == 0


def test_a_full_gpu_asks_for_a_smaller_batch():
    class Large(Line):
        def loss(self, phase, batch, step):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(AboutfaceError, match=r"step 1: the memory of cpu is full; take a smaller --batch"):
        fit(Large(), TensorBatches(points(), 8), log=quiet)


def test_a_loss_that_is_no_scalar_is_a_mistake_of_the_task():
    class Wrong(Line):
        def loss(self, phase, batch, step):
            return self.weight * batch["x"], {}

    with pytest.raises(ValueError, match=r"loss of phase 'all': expected a scalar, got \(4,\)"):
        fit(Wrong(), TensorBatches(points(), 4), log=quiet)


# ---- the run's folder ----


def test_a_run_holds_what_it_promises(tmp_path):
    said = []
    config = {"settings": asdict(FitSettings(steps=30)), "size": (3, 4), "data": Path("faces")}
    run = Run.create(tmp_path / "runs", "cats", "net", config)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d{6}", run.folder.name)
    assert run.folder.parent == tmp_path / "runs" / "cats" / "net"
    settings = FitSettings(steps=30, log_every=8, preview_every=12, keep=2, checkpoint_minutes=0, ema=0.9)
    fit(made(Net), TensorBatches(table(), 8), settings, run, log=said.append)

    written = yaml.safe_load((run.folder / "config.yml").read_text())
    assert written == {"settings": asdict(FitSettings(steps=30)), "size": [3, 4], "data": "faces"}
    assert [path.name for path in run.checkpoints()] == ["step_000030.pt", "step_000029.pt"]
    lines = metrics_of(run)
    assert [line["step"] for line in lines] == [8, 16, 24, 30]
    assert lines[0]["all/twice"] == pytest.approx(2 * lines[0]["all/loss"])
    assert sorted(path.name for path in (run.folder / "samples").iterdir()) == [
        "000012.png",
        "000024.png",
        "000030.png",
    ]
    sheet = np.asarray(Image.open(run.folder / "samples" / "000030.png"))
    assert sheet.shape == (5, 15, 3)
    assert (sheet[1:, :12] == 255).all()
    assert (sheet[1:, 12:] == 0).all()
    assert list(run.folder.glob("events.*"))
    assert re.match(r"step 8/30: all/loss [\d.]+, all/twice .* examples/s, \d+ s left\)", said[1])
    assert not list(run.folder.rglob(".*")), "temporary files are gone"


def test_tensorboard_has_the_numbers_of_the_metrics(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = new_run(tmp_path)
    fit(made(Net), TensorBatches(table(), 8), FitSettings(steps=6, log_every=2, preview_every=6), run, log=quiet)
    events = accumulator.EventAccumulator(str(run.folder))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("all/loss")]
    assert shown == [(line["step"], pytest.approx(line["all/loss"])) for line in metrics_of(run)]
    assert set(events.Tags()["images"]) == {"guess", "truth"}


def test_without_tensorboard_a_note_and_the_rest(tmp_path, monkeypatch):
    def missing(module, extra):
        raise MissingError(f"{module} is needed here: pip install 'aboutface[{extra}]'")

    monkeypatch.setattr("aboutface.fit.record.need", missing)
    run, said = new_run(tmp_path), []
    fit(made(Net), TensorBatches(table(), 8), FitSettings(steps=4, log_every=2), run, log=said.append)
    assert len([line for line in said if "no TensorBoard: tensorboard is needed here: pip install" in line]) == 1
    assert len(metrics_of(run)) == 2
    assert not list(run.folder.glob("events.*"))


def test_the_bar_shows_steps_time_left_and_throughput(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    fit(made(Line), TensorBatches(points(), 8), FitSettings(steps=9), new_run(tmp_path), log=quiet)
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", screen.getvalue())
    assert re.search(r"9/9 \d:\d\d:\d\d \d+ examples/s", text), text


def test_two_runs_of_one_second_have_two_folders(tmp_path):
    runs = [new_run(tmp_path) for _ in range(3)]
    assert len({run.folder for run in runs}) == 3
    assert Run.newest(tmp_path, "data", "method") == runs[-1]


def test_watching_does_not_change_the_outcome(tmp_path):
    plain = fit(made(Net), TensorBatches(table(), 8), FitSettings(steps=20, ema=0.9), log=quiet)
    settings = FitSettings(steps=20, ema=0.9, preview_every=3, log_every=1, checkpoint_minutes=0)
    watched = fit(made(Net), TensorBatches(table(), 8), settings, new_run(tmp_path), log=quiet)
    assert_same(watched.task, plain.task)
    assert_same(watched.averaged, plain.averaged)


# ---- resume ----


def stopped(at, kind=Net, **arguments):
    """A task that fails when it comes to a step, as a crash would."""

    class Stopping(kind):
        def loss(self, phase, batch, step):
            if step == at:
                raise RuntimeError("crash")
            return super().loss(phase, batch, step)

    return made(Stopping, **arguments)


def crash(run, at, settings, batches=None):
    with pytest.raises(RuntimeError, match="crash"):
        fit(stopped(at), batches or TensorBatches(table(), 8), settings, run, log=quiet)


def test_a_resumed_run_measures_what_an_unbroken_one_does(tmp_path):
    settings = FitSettings(steps=30, ema=0.9, log_every=4, checkpoint_minutes=0, accumulate=2)
    whole, broken = new_run(tmp_path / "a"), new_run(tmp_path / "b")
    unbroken = fit(made(Net), TensorBatches(table(), 8), settings, whole, log=quiet)
    crash(broken, 10, settings)
    # What an interrupted run may leave: lines beyond the checkpoint, and a half one.
    with open(broken.folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 12, "all/loss": 5}\n{"step": 16, "al')
    half = broken.folder / "checkpoints" / ".aboutface-0123456789abcdef.pt"
    half.write_bytes(b"half")
    said = []
    resumed = fit(made(Net), TensorBatches(table(), 8), settings, broken, log=said.append)
    assert "going on from step 10" in said
    assert not half.exists()
    assert_same(resumed.task, unbroken.task)
    assert_same(resumed.averaged, unbroken.averaged)
    assert metrics_of(broken) == metrics_of(whole)


def test_a_finished_run_says_so_and_goes_on_when_there_are_more_steps(tmp_path):
    run, said, task = new_run(tmp_path), [], made(Line)
    fit(task, TensorBatches(points(), 8), FitSettings(steps=5), run, log=quiet)
    again = fit(made(Line), TensorBatches(points(), 8), FitSettings(steps=5), run, log=said.append)
    assert "nothing left to do: 5 steps are done" in said
    assert_same(again.task, task)
    more = fit(made(Line), TensorBatches(points(), 8), FitSettings(steps=9), run, log=quiet)
    assert more.step == 9
    assert_same(more.task, fit(made(Line), TensorBatches(points(), 8), FitSettings(steps=9), log=quiet).task)


def test_a_cosine_goes_on_to_the_steps_of_the_resumed_run(tmp_path):
    class Falling(Line):
        def __init__(self, steps):
            super().__init__()
            self.steps = steps

        def phases(self):
            optimiser = torch.optim.SGD(self.parameters(), 0.1)
            return {"all": Phase(optimiser, cosine(optimiser, self.steps))}

    def rates(run):
        return {line["step"]: line["all/learning_rate"] for line in metrics_of(run)}

    run, whole = new_run(tmp_path), new_run(tmp_path)
    for steps, where in ((6, run), (12, run), (12, whole)):
        task = Falling(steps)
        fit(task, TensorBatches(points(), 8), FitSettings(steps=steps, log_every=1), where, log=quiet)
    expected = {step: 0.05 * (1 + math.cos(math.pi * step / 12)) for step in range(1, 13)}
    assert rates(whole) == pytest.approx(expected)
    assert {step: rate for step, rate in rates(run).items() if step > 6} == pytest.approx(
        {step: rate for step, rate in expected.items() if step > 6}
    )


def test_settings_that_changed_are_told_and_written_down_once_they_fit(tmp_path):
    def go_on(kind, steps, config):
        said = []
        run = Run.open(tmp_path, "data", "net", config, resume="auto", log=quiet)
        fit(made(kind), TensorBatches(table(), 8), FitSettings(steps=steps), run, log=said.append)
        return run, [line for line in said if line.startswith("changed")]

    first = {"width": 16, "fit": {"steps": 2}, "turn": (1, 2)}
    run, told = go_on(Net, 2, first)
    assert told == go_on(Net, 2, first)[1] == []
    with pytest.raises(UsageError, match="does not fit"):
        go_on(Wider, 4, {**first, "width": 17})
    assert yaml.safe_load((run.folder / "config.yml").read_text())["width"] == 16
    again, told = go_on(Net, 4, {**first, "fit": {"steps": 4}, "new": "x"})
    assert again == run
    assert told == ["changed: fit.steps 2 -> 4, new None -> x; learning rates go on from the checkpoint's"]
    assert yaml.safe_load((run.folder / "config.yml").read_text())["fit"] == {"steps": 4}


def test_resume_auto_takes_the_newest_run_or_a_new_one(tmp_path):
    first = Run.open(tmp_path, "data", "method", {}, resume="auto")
    assert Run.open(tmp_path, "data", "method", {}, resume="auto") == first
    second = Run.open(tmp_path, "data", "method", {})
    assert second != first
    assert Run.open(tmp_path, "data", "method", {}, resume="auto") == second
    assert Run.open(tmp_path, "other", "method", {}, resume="auto").folder.parent.parent.name == "other"
    (first.folder / "checkpoints").mkdir()
    assert Run.open(tmp_path, "data", "method", {}, resume=first.folder) == first
    with pytest.raises(UsageError, match="--resume: expected auto, a run's folder or a checkpoint, got nowhere"):
        Run.open(tmp_path, "data", "method", {}, resume="nowhere")


def test_from_a_checkpoint_a_new_run_goes_on_and_the_old_one_stays(tmp_path):
    old = new_run(tmp_path)
    settings = FitSettings(steps=8, checkpoint_minutes=0, keep=5)
    fit(made(Line), TensorBatches(points(), 8), settings, old, log=quiet)
    before = {path: path.read_bytes() for path in old.checkpoints()}
    new = Run.open(tmp_path, "data", "line", {}, resume=old.checkpoints()[3], log=quiet)
    said = []
    fitted = fit(made(Line), TensorBatches(points(), 8), settings, new, log=said.append)
    assert "going on from step 5" in said
    assert {path: path.read_bytes() for path in old.checkpoints()} == before
    assert_close(dict(fitted.task.state_dict()), read_checkpoint(old.checkpoints()[0])["task"], **EXACT)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(tmp_path, damage):
    run = new_run(tmp_path)
    settings = FitSettings(steps=30, checkpoint_minutes=0)
    crash(run, 10, settings)
    newest = run.checkpoints()[0]
    data = bytearray(newest.read_bytes())
    data[len(data) // 3] ^= 0xFF
    whole = newest.read_bytes()
    newest.write_bytes({"cut": whole[: len(whole) // 2], "flipped": data, "empty": b"", "text": b"hello\n"}[damage])
    said = []
    resumed = fit(made(Net), TensorBatches(table(), 8), settings, run, log=said.append)
    assert re.search(r"step_000010.pt: is damaged.*taking the checkpoint before it", said[0])
    assert "going on from step 9" in said
    assert_same(resumed.task, fit(made(Net), TensorBatches(table(), 8), FitSettings(steps=30), log=quiet).task)


def test_a_run_of_damaged_checkpoints_is_not_begun_anew(tmp_path):
    run = new_run(tmp_path)
    fit(made(Line), TensorBatches(points(), 8), FitSettings(steps=3), run, log=quiet)
    for path in run.checkpoints():
        path.write_bytes(b"")
    with pytest.raises(UsageError, match="none of its checkpoints can be read"):
        fit(made(Line), TensorBatches(points(), 8), FitSettings(steps=3), run, log=quiet)


class Later(Line):
    version = 2


class Wider(Net):
    def __init__(self):
        super().__init__()
        self.layers[0] = nn.Linear(4, 17)


@pytest.mark.parametrize(
    ("first", "second", "settings", "message"),
    [
        (Line, Net, {}, "is a checkpoint of 'line', expected one of 'net'"),
        (Line, Later, {}, "written by version 1 of 'line', which now is version 2"),
        (Net, Wider, {}, r"does not fit this net \(.*size mismatch"),
        (Line, Line, {"ema": 0.9}, r"--ema: expected 0.0 as in the checkpoint, got 0.9"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path, first, second, settings, message):
    run, data = new_run(tmp_path), table() if first is Net else points()
    fit(made(first), TensorBatches(data, 8), FitSettings(steps=2), run, log=quiet)
    with pytest.raises(UsageError, match=message):
        fit(made(second), TensorBatches(data, 8), FitSettings(steps=4, **settings), run, log=quiet)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_an_untrusted_checkpoint_runs_nothing(tmp_path, how):
    path, trap = tmp_path / "step_000001.pt", tmp_path / "sprung"
    content = {"format": "aboutface checkpoint 1", "method": "line", "task": Bomb(trap)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(UsageError, match="nothing in it was run"):
        read_checkpoint(path)
    assert not trap.exists()
    # The trap is a real one.
    torch.load(path, weights_only=False) if how == "torch" else pickle.loads(path.read_bytes())
    assert trap.exists()


def test_files_that_are_no_checkpoints_are_named(tmp_path):
    torch.save({"weights": torch.ones(2)}, tmp_path / "foreign.pt")
    torch.save({"format": "aboutface checkpoint 99"}, tmp_path / "future.pt")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(UsageError, match=r"foreign.pt: expected a file of the format .* got another program's"):
        read_checkpoint(tmp_path / "foreign.pt")
    with pytest.raises(UsageError, match="got aboutface checkpoint 99"):
        read_checkpoint(tmp_path / "future.pt")
    with pytest.raises(UsageError, match=r"none.pt: cannot be read \(No such file"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(UsageError, match=r"folder.pt: cannot be read \(Is a directory"):
        read_checkpoint(tmp_path / "folder.pt")


FIELDS = ("method", "version", "step", "seconds", "settings", "task", "random", "optimisers", "batches", "meter")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", ["../../elsewhere", [1, 2], None, "absent"])
def test_a_checkpoint_with_a_false_part_is_refused_in_one_sentence(tmp_path, field, value):
    run = new_run(tmp_path)
    fit(made(Net), TensorBatches(table(), 8), FitSettings(steps=2), run, log=quiet)
    content = read_checkpoint(run.checkpoints()[0])
    if field == "random" and isinstance(value, list):
        content["random"] = [{"python": "3"}]
    elif value == "absent":
        del content[field]
    else:
        content[field] = value
    torch.save(content, tmp_path / "false.pt")

    def resume():
        new = Run.open(tmp_path, "data", "net", {}, resume=tmp_path / "false.pt", log=quiet)
        fit(made(Net), TensorBatches(table(), 8), FitSettings(steps=4), new, log=quiet)

    with pytest.raises(UsageError, match=r"is damaged|does not fit|is a checkpoint of"):
        resume()
    assert {path.name for path in tmp_path.iterdir()} == {"data", "false.pt"}, "nothing outside"


def test_a_task_that_cannot_be_saved_is_found_at_once(tmp_path):
    class Odd(Line):
        def get_extra_state(self):
            return {"path": Path("somewhere")}

        def set_extra_state(self, state):
            pass

    with pytest.raises(UsageError, match="holds more than tensors and plain values"):
        fit(Odd(), TensorBatches(points(), 8), FitSettings(steps=10**6), new_run(tmp_path), log=quiet)


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from aboutface.errors import OutputError
from aboutface.fit import FitSettings, Phase, Repeated, Run, Task, fit

class Growing(Task):
    name = "growing"
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1000))
    def phases(self):
        return {"all": Phase(torch.optim.SGD(self.parameters(), 0.1, momentum=0.9))}
    def loss(self, phase, batch, step):
        if step == 3:
            size = max(path.stat().st_size for path in run.checkpoints())
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
        return self.weight.sum(), {}

run = Run(Path(sys.argv[1]))
try:
    fit(Growing(), Repeated({}), FitSettings(checkpoint_minutes=0), run, log=lambda text: None)
except OutputError as error:
    print("refused:", error)
"""


def plain_environment():
    return {
        **{name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")},
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }


def python(program, *arguments, timeout=120):
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    return subprocess.run(
        command, env=plain_environment(), capture_output=True, text=True, timeout=timeout, check=False
    )


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(tmp_path):
    run = new_run(tmp_path)
    result = python(FULL_DISK, run.folder)
    assert re.match(r"refused: .*step_000004.pt: cannot be written \(File too large\)", result.stdout), result.stderr
    assert [read_checkpoint(path)["step"] for path in run.checkpoints()] == [3, 2]
    assert [path.name for path in (run.folder / "checkpoints").iterdir() if path.name.startswith(".")] == []


def test_metrics_that_cannot_be_written_are_an_output_error(tmp_path):
    run = new_run(tmp_path)
    (run.folder / "metrics.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"metrics.jsonl: cannot be written"):
        fit(made(Line), TensorBatches(points(), 8), FitSettings(steps=2, log_every=1), run, log=quiet)


@pytest.mark.parametrize("drawn", [Line, Net])
def test_events_that_cannot_be_written_are_an_output_error(tmp_path, monkeypatch, drawn):
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer").RecordWriter
    asked = []

    def fails(*_):
        asked.append(1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, "flush", fails)
    settings = FitSettings(steps=4, log_every=1 if drawn is Line else 9, preview_every=1)
    with pytest.raises(OutputError, match=r"events\.\*: cannot be written \(No space left on device\)"):
        fit(
            made(drawn),
            TensorBatches(points() if drawn is Line else table(), 8),
            settings,
            new_run(tmp_path),
            log=quiet,
        )
    assert asked


def test_a_write_that_fails_half_way_says_what_the_system_said(tmp_path, monkeypatch):
    run = new_run(tmp_path)
    fit(made(Line), TensorBatches(points(), 8), FitSettings(steps=2), run, log=quiet)

    def fails(content, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OutputError, match="No space left on device"):
        fit(made(Line), TensorBatches(points(), 8), FitSettings(steps=4), run, log=quiet)
    assert read_checkpoint(run.checkpoints()[0])["step"] == 2


# ---- signals ----


class Signalled(Line):
    """Sends signals to its own process while it computes."""

    def __init__(self, at: dict[int, tuple[int, ...]]):
        super().__init__()
        self.at = at

    def loss(self, phase, batch, step):
        for number in self.at.get(step, ()):
            os.kill(os.getpid(), number)
        return super().loss(phase, batch, step)


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    """As nohup and shells leave it to programs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        task, batches = Signalled({2: (signal.SIGINT,)}), TensorBatches(points(), 8)
        fitted = fit(task, batches, FitSettings(steps=4), new_run(tmp_path), log=quiet)
        assert fitted.step == 4
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_writes_a_checkpoint_after_the_step_and_is_passed_on(tmp_path):
    run, before = new_run(tmp_path), signal.getsignal(signal.SIGINT)
    settings, said = FitSettings(steps=9), []
    with pytest.raises(KeyboardInterrupt):
        fit(Signalled({4: (signal.SIGINT,)}), TensorBatches(points(), 8), settings, run, log=said.append)
    assert said[-1] == "stopped at step 5; --resume auto goes on from there"
    assert read_checkpoint(run.checkpoints()[0])["step"] == 5
    assert signal.getsignal(signal.SIGINT) is before
    resumed = fit(made(Line), TensorBatches(points(), 8), settings, run, log=quiet)
    assert_same(resumed.task, fit(made(Line), TensorBatches(points(), 8), settings, log=quiet).task)


def test_a_second_interrupt_stops_at_once(tmp_path):
    run = new_run(tmp_path)
    task = Signalled({4: (signal.SIGINT, signal.SIGINT)})
    with pytest.raises(KeyboardInterrupt):
        fit(task, TensorBatches(points(), 8), FitSettings(steps=9), run, log=quiet)
    assert read_checkpoint(run.checkpoints()[0])["step"] == 0


def test_a_signal_while_files_are_closed_is_not_lost(tmp_path, monkeypatch):
    leave = Recorder.__exit__

    def interrupted(self, *error):
        os.kill(os.getpid(), signal.SIGINT)
        leave(self, *error)

    monkeypatch.setattr(Recorder, "__exit__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(made(Line), TensorBatches(points(), 8), FitSettings(steps=3), new_run(tmp_path), log=quiet)


def test_a_termination_reaches_the_handler_that_was_there(tmp_path):
    run, got = new_run(tmp_path), []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        task = Signalled({2: (signal.SIGTERM,)})
        fitted = fit(task, TensorBatches(points(), 8), FitSettings(steps=9), run, log=quiet)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]
    assert fitted.step == read_checkpoint(run.checkpoints()[0])["step"] == 3


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
def test_the_user_signal_writes_and_goes_on(tmp_path):
    run = new_run(tmp_path)
    task = Signalled({3: (signal.SIGUSR1,), 5: (signal.SIGUSR1,)})
    fitted = fit(task, TensorBatches(points(), 8), FitSettings(steps=9, keep=9), run, log=quiet)
    assert [read_checkpoint(path)["step"] for path in run.checkpoints()] == [9, 6, 4, 0]
    assert fitted.step == 9


def test_other_threads_train_without_handlers(tmp_path):
    results = []
    arguments = made(Line), TensorBatches(points(), 8), FitSettings(steps=5), new_run(tmp_path)
    thread = threading.Thread(target=lambda: results.append(fit(*arguments, log=quiet)))
    thread.start()
    thread.join(60)
    assert [result.step for result in results] == [5]


# ---- kill -9 ----

KILLED = """
import os, random, signal, sys, time
import numpy as np, torch
import torch.utils.tensorboard
from pathlib import Path
from aboutface.fit import FitSettings, Phase, Run, Task, TensorBatches, fit

class Noisy(TensorBatches):
    # Python's, NumPy's and torch's global generators all have a part in every batch.
    def __next__(self):
        batch = super().__next__()
        noise = random.random() + np.random.random() + torch.rand(1)
        return {"x": batch["x"] + 0.1 * noise}

class Net(Task):
    name = "net"
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Dropout(0.2), torch.nn.Conv2d(8, 3, 3))
    def phases(self):
        optimiser = torch.optim.Adam(self.parameters(), 0.01)
        return {"all": Phase(optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS))}
    def loss(self, phase, batch, step):
        return (self.net(batch["x"]) - batch["x"][..., 2:-2, 2:-2]).square().mean(), {}
    def preview(self, batch):
        return {"out": self.net(batch["x"])}

STEPS = 150
torch.set_num_threads(1)
torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # the first one imports for a second

def train(run, minutes):
    torch.manual_seed(1)  # the weights of a run that is killed before its first checkpoint
    task = Net()
    generator = torch.Generator().manual_seed(2)
    batches = Noisy({"x": torch.rand(20, 3, 8, 8, generator=generator)}, 6)
    settings = FitSettings(STEPS, ema=0.95, log_every=7, preview_every=40, checkpoint_minutes=minutes, clip=1.0)
    fit(task, batches, settings, run, log=lambda text: None)

def child(run, minutes):
    pid = os.fork()  # the parent never computes, so that forking is safe and torch is imported once
    if pid == 0:
        code = 1
        try:
            train(run, minutes)
            code = 0
        finally:
            os._exit(code)
    return pid

def position():
    return max([int(path.stem[5:]) for path in broken.checkpoints()], default=-1)

root = Path(sys.argv[1])
whole, broken = (Run.create(root / name, "data", "net", {}) for name in ("whole", "broken"))
assert os.waitpid(child(whole, 0.0), 0)[1] == 0
positions = []
for attempt in range(8):
    # Every step writes in half of the attempts, so that kills fall into writing; in the others, steps are lost.
    pid = child(broken, 0.0 if attempt % 2 else 0.03 / 60)
    goal = position() + random.randint(1, 25)
    deadline = time.monotonic() + 60
    while position() < goal and attempt:  # the first is killed before, at or soon after its first checkpoint
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.03))
    os.kill(pid, signal.SIGKILL)
    if os.waitpid(pid, 0)[1] != signal.SIGKILL:
        break  # it was finished before
    positions.append(position())
    if position() > STEPS - 40:
        break
assert os.waitpid(child(broken, 1.0), 0)[1] == 0
print(*positions)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_run_killed_at_any_moment_ends_in_the_same_weights_bit_for_bit(tmp_path):
    result = python(KILLED, tmp_path)
    assert result.returncode == 0, result.stderr
    positions = [int(word) for word in result.stdout.split()]
    assert len(positions) >= 3
    assert all(0 < position < 150 for position in positions[1:])
    whole, broken = (Run.newest(tmp_path / name, "data", "net") for name in ("whole", "broken"))
    assert whole is not None
    assert broken is not None
    ends = [read_checkpoint(run.checkpoints()[0]) for run in (whole, broken)]
    for end in ends:
        end.pop("seconds")
        end.pop("settings")  # how often to write
    assert ends[0]["step"] == 150
    assert_identical(ends[1], ends[0])
    assert metrics_of(broken) == metrics_of(whole)
    assert not list(broken.folder.rglob(".*")), "halves of files"
    for sheet in (whole.folder / "samples").iterdir():
        assert (broken.folder / "samples" / sheet.name).read_bytes() == sheet.read_bytes()


def assert_identical(one, other, where="checkpoint"):
    """Equal in every number of every tensor, dict and list."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_identical(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_identical(first, second, f"{where}/{index}")
    else:
        assert one == other, where


# ---- the page ----


def test_the_programs_of_the_page_run(tmp_path):
    page = (ROOT / "docs" / "training.md").read_text("utf-8")
    programs = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(programs) == 2
    (tmp_path / "faces").mkdir()
    for index in range(10):
        Image.new("RGB", (20, 24), (index * 20, 90, 40)).save(tmp_path / "faces" / f"{index}.png")
    use = 'print(DenoiserTraining().train(Path("faces"), Run.create("runs", "faces", "denoiser", {}), print).scores)'
    command = [sys.executable, "-W", "error", "-c", "\n".join([*programs, use])]
    result = subprocess.run(
        command, env=plain_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "'all/error'" in result.stdout.splitlines()[-1]
    for data in ("noise", "faces"):
        assert list(tmp_path.glob(f"runs/{data}/denoiser/*/checkpoints/step_000040.pt"))


def test_training_alone_needs_no_extra():
    program = """
import sys
for name in ("tensorboard", "lightning_fabric", "webdataset", "matplotlib"):
    sys.modules[name] = None
import torch
from aboutface.fit import FitSettings, Phase, Repeated, Task, fit
class One(Task):
    name = "one"
    def __init__(self):
        super().__init__()
        self.x = torch.nn.Parameter(torch.ones(()))
    def phases(self):
        return {"all": Phase(torch.optim.SGD(self.parameters(), 0.1))}
    def loss(self, phase, batch, step):
        return self.x.square(), {}
print(fit(One(), Repeated(None), FitSettings(steps=100)).task.x.item() < 1e-6)
"""
    result = python(program)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("True\n")
