"""`aboutface train` where something is odd: devices, names of data, terminals, weights that do not fit a file."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from aboutface.cli import main
from aboutface.errors import AboutfaceError
from aboutface.fit.record import Recorder
from aboutface.recipes import RECIPES, Trained, write_weights

PROGRAM = """
from dataclasses import dataclass, field
import torch
from aboutface.fit import FitSettings, Phase, Repeated, Task, fit
from aboutface.recipes import Trained

class One(Task):
    name = "one"
    def __init__(self):
        super().__init__()
        self.x = torch.nn.Parameter(torch.ones(()))
    def phases(self):
        return {"all": Phase(torch.optim.SGD(self.parameters(), 0.1))}
    def loss(self, phase, batch, step):
        return self.x.square(), {}

@dataclass(frozen=True)
class OneTraining:
    \"\"\"Squares.\"\"\"
    fit: FitSettings = field(default_factory=lambda: FitSettings(steps=5, device="cpu"))
    def train(self, data, run, log):
        log("reads the data")
        fit(One(), Repeated(None), self.fit, run, log=log)
        return Trained({}, {}, {})
"""


@pytest.fixture(autouse=True)
def one(tmp_path, monkeypatch):
    """A recipe that takes no time, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one_package.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "one_package", raising=False)
    monkeypatch.setitem(RECIPES, "one", "one_package:OneTraining")


def test_a_device_that_is_not_there_is_said_before_anything_is_read_or_made(capsys):
    Path("faces").mkdir()
    for device in ("cuda:99", "quantum"):
        assert main(["train", "one", "--data", "faces", "--device", device]) == 2
        captured = capsys.readouterr()
        assert device in captured.err
        assert "reads the data" not in captured.err
        assert not Path("runs").exists()


def test_folders_whose_names_differ_behind_a_dot_are_different_data(capsys):
    for name in ("faces.64", "faces.128"):
        Path(name).mkdir()
        assert main(["train", "one", "--data", name, "--resume", "auto"]) == 0
        assert "nothing left to do" not in capsys.readouterr().err
        assert list(Path("runs", name, "one").iterdir())


@pytest.mark.parametrize("options", [[], ["--quiet"]])
def test_quiet_draws_no_progress_bar_on_a_terminal(monkeypatch, options):
    drawn = []
    Path("faces").mkdir()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(Recorder, "_open_bar", lambda self: drawn.append(self))
    assert main(["train", "one", "--data", "faces", *options]) == 0
    assert len(drawn) == (0 if options else 1)


def test_a_resumed_run_on_other_data_of_the_same_name_says_so(capsys):
    for place in ("here", "there"):
        Path(place, "faces").mkdir(parents=True)
        assert main(["train", "one", "--data", f"{place}/faces", "--resume", "auto"]) == 0
    err = capsys.readouterr().err
    assert f"changed: data {Path('here/faces').resolve()} -> {Path('there/faces').resolve()}" in err


def test_weights_keep_whole_numbers_and_what_half_precision_cannot_hold_is_refused():
    count, path = torch.tensor(100_003), Path("weights.safetensors")
    write_weights(path, "mine", Trained({"count": count, "w": torch.tensor([0.5])}, {}, {"folder": Path("a/b")}))
    read = load_file(path)
    assert read["count"] == count
    assert read["count"].dtype == torch.int64
    assert read["w"].dtype == torch.float16
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["card"])["settings"] == {"folder": str(Path("a/b"))}
    before = path.read_bytes()
    with pytest.raises(AboutfaceError, match="w: has weights that half precision cannot hold"):
        write_weights(path, "mine", Trained({"w": torch.tensor([1e5])}, {}, {}))
    assert path.read_bytes() == before
