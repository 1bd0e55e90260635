"""`aboutface train`: options, settings files, going on, what a run leaves, and recipes of other packages."""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from aboutface.cli import main
from aboutface.cli.train import from_mapping
from aboutface.fit import Run
from aboutface.geometry import rotation_from_angles
from aboutface.morphable import MeanHead
from aboutface.recipes import RECIPES, recipe
from aboutface.recipes.depthnet import DepthNetTask, DepthNetTraining
from aboutface.reconstruct.depthnet import DepthNet, DepthNetSettings

SMALL = ["--steps", "6", "--hidden", "8", "--batch", "8", "--gauge", "0", "--turn", "0", "0", "0", "--device", "cpu"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def faces() -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    turn = torch.randn(3, 24, generator=generator) * torch.tensor([[25.0], [8.0], [8.0]])
    shapes = MeanHead.load().landmarks + torch.randn(24, 68, 3, generator=generator)
    return (shapes @ rotation_from_angles(*turn).mT + 100).numpy()


@pytest.fixture
def npz(faces) -> str:
    np.savez("faces.npz", points=faces)
    return "faces.npz"


def side_files(folder: Path, points: np.ndarray) -> Path:
    folder.mkdir()
    for index, face in enumerate(points.tolist()):
        (folder / f"{index:03}.jpg").write_bytes(b"never decoded")
        (folder / f"{index:03}.json").write_text(json.dumps({"landmarks68": face}))
    return folder


def trained(*arguments: str) -> Path:
    """The folder of the run that a successful call has made or gone on with."""
    before = {path: path.stat().st_mtime_ns for path in Path("runs").glob("*/*/*/*.safetensors")}
    assert main(["train", *arguments]) == 0
    written = [p for p in Path("runs").glob("*/*/*/*.safetensors") if before.get(p) != p.stat().st_mtime_ns]
    assert len(written) == 1
    return written[0].parent


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(str(run / "depthnet.safetensors"))


def steps_of(run: Path) -> int:
    content = Run(run).load()
    assert content is not None
    return content["step"]


def refused(capsys, *arguments: str) -> str:
    """The one sentence of a call that fails for bad usage and leaves nothing."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main(["train", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert sorted(Path().rglob("*")) == before
    return captured.err


# ---- what a run leaves ----


def test_a_run_leaves_settings_checkpoints_metrics_and_weights(npz, capsys):
    run = trained("depthnet", "--data", npz, *SMALL, "--log-every", "3", "--json")
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert Path(record["run"]) == run
    assert Path(record["file"]) == run / "depthnet.safetensors"
    assert record["method"] == "depthnet"
    assert "network_correlation" in record["scores"]
    assert run.parts[-4:-1] == ("runs", "faces", "depthnet")
    config = yaml.safe_load((run / "config.yml").read_text())
    assert config["method"] == "depthnet"
    assert config["hidden"] == [8]
    assert config["turn"] == [0, 0, 0]
    assert config["fit"]["steps"] == 6
    assert config["learning_rate"] == DepthNetTraining().learning_rate, "defaults stand there, too"
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step_000000.pt", "step_000006.pt"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert all(np.isfinite(line["net/loss"]) for line in lines)


def test_the_weights_open_elsewhere_and_say_what_they_are(npz):
    run = trained("depthnet", "--data", npz, *SMALL)
    with safe_open(str(run / "depthnet.safetensors"), "pt") as file:
        card = json.loads(file.metadata()["card"])
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"torch.float16"}  # noqa: SIM118
    sizes: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in card["settings"]["network"].items()
    }
    net = DepthNet(DepthNetSettings(**sizes))
    net.load_state_dict({name: tensor.float() for name, tensor in tensors(run).items()})
    assert card["settings"]["training"]["batch"] == 8
    assert card["scores"]["test_faces"] == 5


def test_output_names_the_file(npz):
    assert main(["train", "depthnet", "--data", npz, *SMALL, "-o", "mine.safetensors", "--runs", "elsewhere"]) == 0
    assert load_file("mine.safetensors")["layers.0.weight"].shape[0] == 8
    assert not Path("runs").exists()
    assert list(Path("elsewhere/faces/depthnet").iterdir())


def test_folders_and_tars_of_side_files_train_alike(faces):
    folder = side_files(Path("crops"), faces[..., :2])
    with tarfile.open("crops.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    first = tensors(trained("depthnet", "--data", "crops", *SMALL))
    second = tensors(trained("depthnet", "--data", "crops.tar", *SMALL))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_every_setting_is_an_option(npz):
    few = ["--no-registered", "--formulation", "separate", "--test-share", "0.5", "--seed", "3", "--ema", "0.5"]
    run = trained("depthnet", "--data", npz, *SMALL, *few)
    config = yaml.safe_load((run / "config.yml").read_text())
    found = (config["registered"], config["formulation"], config["test_share"], config["fit"]["seed"])
    assert found == (False, "separate", 0.5, 3)
    weights = tensors(run)
    assert weights["layers.0.weight"].shape == (8, 4 * 68)
    assert weights["layers.2.weight"].shape == (68 + 8, 8)


def test_quiet_is_silent(npz, capsys):
    trained("depthnet", "--data", npz, *SMALL, "--quiet")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


# ---- settings files ----


def test_settings_files_give_defaults_and_options_go_before_them(npz):
    config = {"hidden": [5, 4], "batch": 6, "gauge": 0, "learning-rate": "1e-2", "turn": [0, 0, 0]}
    Path("small.yml").write_text(yaml.safe_dump({**config, "fit": {"steps": 3, "clip": 1}}))
    run = trained("depthnet", "--data", npz, "--config", "small.yml", "--hidden", "7", "--steps", "2")
    written = yaml.safe_load((run / "config.yml").read_text())
    assert (written["hidden"], written["batch"], written["learning_rate"]) == ([7], 6, 0.01)
    assert (written["fit"]["steps"], written["fit"]["clip"]) == (2, 1.0)
    assert isinstance(written["gauge"], float)


def test_a_runs_own_file_repeats_it(npz):
    run = trained("depthnet", "--data", npz, *SMALL, "--seed", "5")
    again = trained("depthnet", "--data", npz, "--config", str(run / "config.yml"))
    assert again != run
    assert all(torch.equal(tensor, tensors(again)[name]) for name, tensor in tensors(run).items())
    assert (again / "config.yml").read_text() == (run / "config.yml").read_text()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("batsh: 3", "unknown setting batsh (perhaps you meant batch)"),
        ("fit: {stepz: 3}", "unknown setting stepz (perhaps you meant steps)"),
        ("batch: three", "batch: expected a value like 256, got 'three'"),
        ("batch: 3.5", "batch: expected a value like 256, got 3.5"),
        ("batch: true", "batch: expected a value like 256, got True"),
        ("batch: null", "batch: expected a value like 256, got None"),
        ("gauge: true", "gauge: expected"),
        ("registered: 1", "registered: expected a value like True"),
        ("hidden: 8", "hidden: expected a value like (256,)"),
        ("hidden: [8, x]", "hidden: expected a value like (256,)"),
        ("turn: [1, 2]", "turn: expected a value like (20.0"),
        ("fit: 3", "fit: expected settings as `name: value`"),
        ("fit: {clip: much}", "clip: expected float | None, got 'much'"),
        ("formulation: magic", "formulation: expected separate or pseudo-inverse, got 'magic'"),
        ("batch: 1", "--batch 1"),
        ("fit: {steps: 0}", "--steps: expected 1 or more"),
        ("method: aign", "is of 'aign', expected settings of 'depthnet'"),
        ("- 3", "expected settings as `name: value`, got list"),
        ("{", "cannot be read as YAML"),
        ("\tbatch: 3", "cannot be read as YAML"),
    ],
)
def test_settings_that_cannot_be_are_named(npz, capsys, content, words):
    Path("bad.yml").write_text(content)
    assert words in refused(capsys, "depthnet", "--data", npz, "--config", "bad.yml")


def test_settings_files_that_are_not_text(npz, capsys):
    Path("bad.yml").write_bytes(b"\xff\xfe\x00")
    for name in ("bad.yml", "nowhere.yml", "."):
        assert name in refused(capsys, "depthnet", "--data", npz, "--config", name)


def test_settings_may_not_run_anything():
    Path("evil.yml").write_text("batch: !!python/object/apply:os.mkdir [made]")
    assert main(["train", "depthnet", "--data", ".", "--config", "evil.yml"]) == 2
    assert not Path("made").exists()


def test_values_become_what_the_settings_have():
    settings = from_mapping(DepthNetTraining(), {"hidden": [4], "gauge": 1, "fit": {"ema": "5e-1", "clip": None}}, "x")
    assert settings.hidden == (4,)
    assert settings.gauge == 1.0
    assert isinstance(settings.gauge, float)
    assert settings.fit.ema == 0.5
    assert settings.fit.clip is None
    assert settings.batch == DepthNetTraining().batch


# ---- going on ----


@pytest.fixture
def interrupted(npz, monkeypatch):
    """A run that was stopped after 3 of its 6 steps as Ctrl-C stops it, and one that was not."""
    whole = trained("depthnet", "--data", npz, *SMALL, "--ema", "0.9", "--runs", "runs")
    calm = DepthNetTask.loss

    def loss(self, phase, batch, step):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return calm(self, phase, batch, step)

    monkeypatch.setattr(DepthNetTask, "loss", loss)
    assert main(["train", "depthnet", "--data", npz, *SMALL, "--ema", "0.9"]) == 130
    monkeypatch.setattr(DepthNetTask, "loss", calm)
    run = Run.newest("runs", "faces", "depthnet")
    assert run is not None
    assert run.folder != whole
    assert steps_of(run.folder) == 3
    return whole, run.folder


def same(first: Path, second: Path) -> bool:
    return all(torch.equal(tensor, tensors(second)[name]) for name, tensor in tensors(first).items())


def test_resume_auto_ends_as_the_unbroken_run_did(interrupted, npz, capsys):
    whole, run = interrupted
    assert trained("depthnet", "--data", npz, "--resume", "auto") == run, "settings come from the run"
    assert "going on from step 3" in capsys.readouterr().err
    assert steps_of(run) == 6
    assert same(whole, run)
    assert (run / "depthnet.safetensors").read_bytes() == (whole / "depthnet.safetensors").read_bytes()


def test_resume_takes_a_runs_folder_or_a_checkpoint(interrupted, npz):
    whole, run = interrupted
    checkpoint = run / "checkpoints" / "step_000003.pt"
    new = trained("depthnet", "--data", npz, "--resume", str(checkpoint))
    assert new not in interrupted, "from a checkpoint, a new run goes on"
    assert same(whole, new)
    assert steps_of(run) == 3
    assert trained("depthnet", "--data", npz, f"--resume={run}") == run
    assert same(whole, run)


def test_options_go_before_a_resumed_runs_settings(interrupted, npz, capsys):
    _, run = interrupted
    trained("depthnet", "--data", npz, "--resume", str(run), "--steps", "4")
    assert steps_of(run) == 4
    capsys.readouterr()
    assert main(["train", "depthnet", "--data", npz, "--resume", str(run), "--hidden", "9"]) == 2
    assert "does not fit this depthnet" in capsys.readouterr().err


def test_resume_auto_of_nothing_begins(npz):
    assert steps_of(trained("depthnet", "--data", npz, *SMALL, "--resume", "auto")) == 6


def test_resume_of_what_is_none_is_said(npz, capsys):
    assert "--resume: expected auto, a run's folder or a checkpoint" in refused(
        capsys, "depthnet", "--data", npz, "--resume", "nowhere"
    )
    Path("junk.pt").write_bytes(b"junk")
    assert "damaged" in refused(capsys, "depthnet", "--data", npz, "--resume", "junk.pt")


def test_resume_of_another_method_is_said(interrupted, npz, capsys):
    _, run = interrupted
    words = "'depthnet', expected"
    assert words in refused(capsys, "aign", "--data", npz, "--resume", str(run))
    checkpoint = run / "checkpoints" / "step_000003.pt"
    assert words in refused(capsys, "aign", "--data", npz, "--resume", str(checkpoint))
    Path("alone").mkdir()
    checkpoint.rename("alone/step_000003.pt")
    assert words in refused(capsys, "aign", "--data", npz, "--resume", "alone/step_000003.pt")


# ---- what cannot be trained ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["depthnets", "--data", "."], "unknown method 'depthnets'; there are: mean-head, depthnet, aign"),
        (["--data", "."], "say what to train first"),
        (["depthnet"], "--data"),
        (["depthnet", "--data", "nowhere"], "--data nowhere: no such file or folder"),
        (["depthnet", "--data", ".", "--stepz", "3"], "--steps"),
        (["depthnet", "--data", ".", "--steps", "many"], "--steps"),
        (["depthnet", "--data", ".", "--formulation", "magic"], "--formulation"),
        (["depthnet", "--data", ".", "--gauge", "-1"], "--gauge: expected 0 or more"),
        (["depthnet", "--data", ".", "--steps", "0"], "--steps: expected 1 or more"),
        (["depthnet", "--data", ".", "--resume"], "--resume"),
    ],
)
def test_mistakes(capsys, arguments, words):
    assert words in refused(capsys, *arguments)


def test_data_without_faces_are_said(capsys, faces):
    def words(data: str) -> str:
        capsys.readouterr()
        assert main(["train", "depthnet", "--data", data, *SMALL, "--quiet"]) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert not list(Path().rglob("*.safetensors"))
        return captured.err

    Path("empty").mkdir()
    assert "no pictures" in words("empty")
    np.savez("other.npz", points=faces[:, :66])
    assert "landmarks_68_from_66" in words("other.npz")
    Path("broken.npz").write_bytes(b"PK")
    assert "cannot be read" in words("broken.npz")
    np.savez("nan.npz", points=faces * np.nan)
    assert "no face is usable" in words("nan.npz")
    Path("bare").mkdir()
    Path("bare/a.jpg").write_bytes(b"")
    assert "no two faces" in words("bare")


def test_66_landmarks_in_side_files_name_the_converter(capsys, faces):
    folder = side_files(Path("crops"), faces[:, :66, :2])
    assert main(["train", "depthnet", "--data", str(folder), *SMALL]) == 2
    err = capsys.readouterr().err
    assert "landmarks_68_from_66" in err
    assert "left out: 14 more" in err


def test_a_place_that_cannot_be_written_is_said_at_once(npz, capsys):
    Path("file").touch()
    assert main(["train", "depthnet", "--data", npz, *SMALL, "--runs", "file"]) == 1
    assert "cannot be made" in capsys.readouterr().err


# ---- help ----


def test_help_names_the_methods_and_their_settings(capsys):
    assert main(["train", "--help"]) == 0
    overview = capsys.readouterr().out
    for name in RECIPES:
        assert name in overview
        assert main(["train", name, "--help"]) == 0
        assert "--data" in capsys.readouterr().out
    assert main(["train", "depthnet", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--formulation", "--gauge", "--steps", "--ema", "--resume"):
        assert option in text
    assert "Pairs per step." in text, "the sentences under the fields are there"
    assert main(["train"]) == 2


def test_every_method_on_the_menu_has_settings_with_defaults():
    for name in RECIPES:
        settings = recipe(name)()
        assert callable(settings.train)


@pytest.mark.parametrize("arguments", [["train", "--help"], ["train", "nonsense"], ["train"]])
def test_the_menu_does_not_need_torch(arguments):
    program = (
        "import sys; from aboutface.cli import main; main(sys.argv[1:]);"
        "print('heavy:', *[m for m in ('torch', 'safetensors', 'numba') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env=os.environ,
    )
    assert done.stdout.strip().splitlines()[-1].strip() == "heavy:"


# ---- other packages ----

MINE = '''
from dataclasses import dataclass, field

import torch
from torch import nn

from aboutface.fit import FitSettings, Phase, Task, TensorBatches, fit
from aboutface.recipes import Trained


@dataclass(frozen=True)
class MyTraining:
    """Finds the mean of numbers."""

    rate: float = 0.1
    """How fast."""
    fit: FitSettings = field(default_factory=lambda: FitSettings(steps=40, device="cpu"))

    def train(self, data, run, log):
        numbers = torch.tensor([float(line) for line in data.read_text().split()])
        task = Mean(self.rate)
        fit(task, TensorBatches({"x": numbers}, 4), self.fit, run, log=log)
        return Trained({"mean": task.mean.detach()}, {"mean": float(task.mean.detach())}, {"rate": self.rate})


class Mean(Task):
    name = "mine"

    def __init__(self, rate):
        super().__init__()
        self.rate, self.mean = rate, nn.Parameter(torch.zeros(()))

    def phases(self):
        return {"mean": Phase(torch.optim.SGD([self.mean], self.rate))}

    def loss(self, phase, batch, step):
        return (batch["x"] - self.mean).square().mean(), {}
'''


@pytest.fixture
def mine(monkeypatch, tmp_path):
    """Another package with a recipe."""
    (tmp_path / "their_package.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_package", raising=False)
    return announced(monkeypatch, "mine", "their_package:MyTraining")


def announced(monkeypatch, name: str, value: str) -> None:
    points = importlib.metadata.entry_points

    def entry_points(**wanted):
        if wanted == {"group": "aboutface.recipes"}:
            return importlib.metadata.EntryPoints([importlib.metadata.EntryPoint(name, value, wanted["group"])])
        return points(**wanted)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def test_a_recipe_of_another_package_is_on_the_menu_and_trains(mine, capsys):
    assert main(["train", "--help"]) == 0
    assert "their_package:MyTraining" in capsys.readouterr().out
    assert main(["train", "mine", "--help"]) == 0
    assert "How fast." in capsys.readouterr().out
    Path("numbers.txt").write_text("1 2 3 6")
    run = trained("mine", "--data", "numbers.txt", "--rate", "0.2", "--json")
    assert json.loads(capsys.readouterr().out)["scores"]["mean"] == pytest.approx(3, abs=1e-3)
    assert float(load_file(str(run / "mine.safetensors"))["mean"]) == pytest.approx(3, abs=2e-3)
    assert yaml.safe_load((run / "config.yml").read_text())["rate"] == 0.2
    assert steps_of(run) == 40


def test_a_recipe_that_cannot_be_loaded_is_said(monkeypatch, capsys):
    for value in ("no_such_package:X", "json:NoSuchClass"):
        announced(monkeypatch, "mine", value)
        assert f"mine ({value}) cannot be loaded" in refused(capsys, "mine", "--data", ".")


def test_another_package_does_not_replace_a_method(monkeypatch):
    announced(monkeypatch, "depthnet", "json:Evil")
    assert recipe("depthnet") is DepthNetTraining
