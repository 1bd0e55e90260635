import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aboutface.errors import UsageError
from aboutface.render import backends, rasterize
from aboutface.render.backends import BACKENDS, DEVICES, VARIABLE, choose, function, load

SOURCE = Path(__file__).resolve().parents[2] / "src"
CPU, CUDA, XPU = (torch.device(kind) for kind in ("cpu", "cuda", "xpu"))
HEAVY = ["numba", "warp", "nvdiffrast"]


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No variable set, and nothing known yet of what is installed."""
    monkeypatch.delenv(VARIABLE, raising=False)
    backends._best.cache_clear()
    yield
    backends._best.cache_clear()


def without(monkeypatch, package: str, *modules: str) -> None:
    """As if a package were not installed, and the backend's modules that need it not yet imported."""
    monkeypatch.setitem(sys.modules, package, None)
    for module in modules:
        monkeypatch.delitem(sys.modules, f"aboutface.render.{module}", raising=False)


def test_the_best_backend_of_each_device(monkeypatch):
    monkeypatch.setattr(backends, "load", lambda name: None)
    assert [choose("auto", device) for device in (CPU, CUDA, XPU)] == ["numba", "warp", "torch"]


def test_a_name_is_taken_as_it_is():
    for name in BACKENDS:
        if "cpu" in DEVICES.get(name, ["cpu"]):
            assert choose(name, CPU) == name


def test_the_variable_stands_for_auto_only(monkeypatch):
    monkeypatch.setenv(VARIABLE, "reference")
    assert choose("auto", CPU) == "reference"
    assert choose("torch", CPU) == "torch"
    monkeypatch.setenv(VARIABLE, "auto")
    assert choose("auto", XPU) == "torch"
    monkeypatch.setenv(VARIABLE, "")
    assert choose("auto", XPU) == "torch"
    monkeypatch.setenv(VARIABLE, "gl")
    with pytest.raises(UsageError, match="'gl' in ABOUTFACE_RENDERER, choose from auto, reference"):
        choose("auto", CPU)


def test_the_variable_reaches_the_verbs(monkeypatch):
    used = []
    original = load("torch").rasterize
    monkeypatch.setattr(load("torch"), "rasterize", lambda *arguments: used.append(1) or original(*arguments))
    monkeypatch.setenv(VARIABLE, "torch")
    clip = torch.tensor([[-1.0, -1.0, 0.0, 1.0], [3.0, -1.0, 0.0, 1.0], [-1.0, 3.0, 0.0, 1.0]])[None]
    assert (rasterize(clip, torch.tensor([[0, 1, 2]]), (2, 2)).triangle_id == 0).all()
    assert used == [1]


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("numba", CUDA, "draws on cpu, got tensors on cuda"),
        ("reference", CUDA, "draws on cpu"),
        ("warp", XPU, "draws on cpu or cuda, got tensors on xpu"),
        ("auto", torch.device("mps"), "move vertices to the CPU"),
        ("nvdiffrast", CPU, "draws on cuda, got tensors on cpu"),
        ("opengl", CPU, "'opengl', choose from auto, reference, torch, numba, warp, nvdiffrast"),
    ],
)
def test_a_wrong_choice_says_what_to_do(name, device, message):
    with pytest.raises(UsageError, match=message):
        choose(name, device)


@pytest.mark.parametrize(
    ("device", "package", "modules"),
    [(CPU, "numba", ["numba_backend", "numba_kernels"]), (CUDA, "warp", ["warp_backend", "warp_kernels"])],
)
def test_a_missing_package_means_torch_and_one_line(monkeypatch, caplog, device, package, modules):
    without(monkeypatch, package, *modules)
    with caplog.at_level(logging.WARNING, logger="aboutface"):
        assert [choose("auto", device) for _ in range(3)] == ["torch"] * 3
    (record,) = caplog.records
    assert package in record.getMessage()
    assert device.type in record.getMessage()


def test_a_driver_that_warp_cannot_use_means_torch_and_one_line(monkeypatch, caplog):
    wp = pytest.importorskip("warp")
    monkeypatch.setattr(wp, "get_cuda_device_count", lambda: 0)
    with caplog.at_level(logging.WARNING, logger="aboutface"):
        assert [choose("auto", CUDA) for _ in range(3)] == ["torch"] * 3
    (record,) = caplog.records
    assert "no CUDA device" in record.getMessage()
    monkeypatch.setattr(wp, "get_cuda_device_count", lambda: 1)
    backends._best.cache_clear()
    assert choose("auto", CUDA) == "warp"


def test_a_missing_package_that_was_asked_for_is_an_error_with_its_source(monkeypatch):
    without(monkeypatch, "warp", "warp_backend", "warp_kernels")
    with pytest.raises(UsageError, match=r"pip install 'aboutface\[cuda\]'"):
        rasterize(torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]]), (2, 2), backend="warp")
    without(monkeypatch, "nvdiffrast", "nvdiffrast_backend")
    with pytest.raises(UsageError, match=r"github\.com/NVlabs/nvdiffrast.*non-commercial"):
        load("nvdiffrast")


def test_verbs_that_a_backend_lacks_are_those_of_torch():
    assert function("reference", "interpolate") is load("torch").interpolate
    assert function("reference", "rasterize") is load("reference").rasterize
    assert function("torch", "find_crossings") is load("torch").find_crossings


@pytest.mark.parametrize(
    "program",
    [
        "import aboutface.render",
        "import aboutface.render\nfrom aboutface.render.backends import choose\n"
        "import torch\nchoose('warp', torch.device('cuda'))",
        "import contextlib, io\nfrom aboutface.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n    assert main(['--help']) == 0",
    ],
)
def test_accelerators_are_imported_when_they_draw(program):
    program += f"\nimport sys; print(*[m for m in {HEAVY} if m in sys.modules])"
    path = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
