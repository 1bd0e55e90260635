"""Two real processes under torchrun: the same weights on both, and those of one process with the same global batch."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from aboutface.fit import FitSettings, Run, fit, read_checkpoint

pytest.importorskip("lightning_fabric")
ROOT = Path(__file__).resolve().parents[1]

# Written into a file of its own, since both sides of the comparison import it.
TASK = """
import torch
from torch import nn
from aboutface.fit import Phase, Task, TensorBatches

class Pair(Task):
    name = "pair"
    def __init__(self, seed, dropout=0.0):
        super().__init__()
        self.dropout = dropout
        torch.manual_seed(seed)
        self.left = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2))
        self.right, self.unused = nn.Linear(2, 1), nn.Linear(1, 1)
    def phases(self):
        right = [*self.right.parameters(), *self.unused.parameters()]
        return {"left": Phase(torch.optim.Adam(self.left.parameters(), 0.01)),
                "right": Phase(torch.optim.SGD(right, 0.1), every=2)}
    def loss(self, phase, batch, step):
        # The statistics of a share are not those of the whole: batch norm is only read where the two are compared.
        self.left[1].train(self.dropout > 0)
        guess = self.right(self.left(batch["x"]))[:, 0]
        error = (guess - batch["y"]).square().mean()
        return error, {"error": error, "guess": guess.mean()}

def batches():
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(48, 4, generator=generator)
    return TensorBatches({"x": x, "y": x.sum(1)}, 8, seed=3)
"""

PROGRAM = """
import os, sys, torch
from pathlib import Path
from task import Pair, batches
from aboutface.fit import FitSettings, Run, fit

folder, steps, dropout, resume = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
rank = int(os.environ["RANK"])
run = Run.open(folder, "data", "pair", {"dropout": dropout}, resume=resume)
settings = FitSettings(steps, ema=0.9, clip=1.0, log_every=5, checkpoint_minutes=float(sys.argv[5]), keep=100)
# Start weights differ by rank: those of rank 0 must win.
fitted = fit(Pair(rank, dropout), batches(), settings, run)
state = {"task": fitted.task.state_dict(), "average": fitted.averaged.state_dict(), "terms": fitted.terms}
torch.save(state, folder / f"rank{rank}.pt")
"""


def environment(folder):
    path = os.pathsep.join([str(ROOT / "src"), str(folder), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(folder, steps, *, processes=2, dropout=0.0, resume="auto", minutes=5.0):
    (folder / "task.py").write_text(TASK)
    (folder / "program.py").write_text(PROGRAM)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    arguments = [folder / "program.py", folder, steps, dropout, resume, minutes]
    return subprocess.Popen(
        [*torchrun, *map(str, arguments)],
        env=environment(folder),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def ends(folder):
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def only_run(folder):
    (config,) = folder.glob("data/pair/*/config.yml")
    return Run(config.parent)


def test_two_processes_end_in_the_same_weights_which_are_those_of_one(tmp_path, monkeypatch):
    out = finish(start(tmp_path, 20))
    first, second = ends(tmp_path)
    assert_close(second, first, rtol=0, atol=0)
    assert len(re.findall("^step 20/20", out, re.MULTILINE)) == 1, "only one process speaks"

    monkeypatch.syspath_prepend(tmp_path)
    import task  # pyright: ignore[reportMissingImports]

    alone = fit(task.Pair(0), task.batches(), FitSettings(20, ema=0.9, clip=1.0, log_every=5), log=lambda text: None)
    assert_close(first["task"], dict(alone.task.state_dict()), rtol=1e-4, atol=1e-5)
    assert_close(first["average"], dict(alone.averaged.state_dict()), rtol=1e-4, atol=1e-5)
    assert first["terms"] == pytest.approx(alone.terms, rel=1e-4, abs=1e-6)
    # The comparison can fail: another order of the same data leads elsewhere.
    batches = task.batches()
    batches.seed = 4
    other = fit(task.Pair(0), batches, FitSettings(20, clip=1.0), log=lambda text: None)
    assert (other.task.state_dict()["right.weight"] - first["task"]["right.weight"]).abs().max() > 1e-3


def test_a_pair_that_is_terminated_resumes_exactly_and_its_checkpoint_loads_in_one_process(tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    processes = [start(whole, 100, dropout=0.4), start(broken, 100, dropout=0.4, minutes=0)]
    deadline = time.monotonic() + 60
    while not list(broken.glob("data/pair/*/checkpoints/step_00001*.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    processes[1].communicate(timeout=60)
    finish(processes[0])
    stopped = read_checkpoint(only_run(broken).checkpoints()[0])
    assert 10 <= stopped["step"] < 100
    assert len(stopped["random"]) == 2
    assert not torch.equal(stopped["random"][0]["torch"], stopped["random"][1]["torch"])

    out = finish(start(broken, 100, dropout=0.4, minutes=5))
    assert f"going on from step {stopped['step']}" in out
    first, second = ends(whole)
    assert_close(ends(broken), [first, second], rtol=0, atol=0)
    assert_close(second, first, rtol=0, atol=0)
    assert first["task"]["left.1.running_mean"].abs().max() > 0, "statistics were collected, and shared"

    monkeypatch.syspath_prepend(tmp_path / "whole")
    sys.modules.pop("task", None)
    import task  # pyright: ignore[reportMissingImports]

    said = []
    more = fit(task.Pair(0, 0.4), task.batches(), FitSettings(110, ema=0.9, clip=1.0), only_run(whole), log=said.append)
    assert more.step == 110
    assert "the checkpoint is of 2 process(es), here are 1: random numbers will differ" in said
