"""The landmark benchmark: bins, a small run, and what it refuses."""

import json
from dataclasses import asdict

import pytest
import torch
from PIL import Image

from aboutface.benchmark.landmarks import BINS, Options, binned, run
from aboutface.cli.bench import bench_landmarks
from aboutface.cli.bench_commands import BenchLandmarks
from aboutface.cli.talk import Talk
from aboutface.errors import UsageError
from aboutface.recipes import Trained, write_weights
from aboutface.reconstruct.deep3d_landmarks import FaceRegressor


def network():
    torch.manual_seed(0)
    net = FaceRegressor.tiny().eval()
    net.points.normal_(std=0.03)
    torch.nn.init.normal_(net.offsets.weight, std=0.01)
    return net


def quiet(_line):
    """Nothing is said."""


def test_each_face_counts_in_the_bin_of_its_yaw():
    errors = torch.tensor([1.0, 3.0, 10.0, 20.0])
    found = binned(errors, torch.tensor([0.0, 14.0, 16.0, 88.0]))
    assert {name: (number.mean, number.n) for name, number in found.items()} == {
        "all": (8.5, 4),
        "0-15": (2.0, 2),
        "15-30": (10.0, 1),
    }


def test_a_small_run(data, tmp_path):
    net = network()
    weights = tmp_path / "net.safetensors"
    card = {"network": asdict(net.settings), "training": {}}
    write_weights(weights, "deep3d", Trained(dict(net.state_dict()), {}, card))
    options = Options(data / "ytf68-train.tar", tmp_path / "out", weights, limit=6)
    report = run(options, quiet)
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    results = {name: row["all"]["mean"] for name, row in record["results"].items()}
    # dlib's predictor finds faces; the mean face in a box is far off, a random network farther.
    assert results["dlib"] < 6 < results["mean"] < results["network"]
    assert len(report.verdicts) == len(BINS)
    assert not report.verdicts[0].met
    assert report.tables[0].rows[1][0] == "dlib's predictor"


def test_what_is_asked_wrongly(tmp_path):
    talk = Talk(quiet=True)
    with pytest.raises(UsageError, match="--method FILE"):
        bench_landmarks(BenchLandmarks(tmp_path, check=True, talk=talk))
    with pytest.raises(UsageError, match="--limit 0"):
        bench_landmarks(BenchLandmarks(tmp_path, limit=0, talk=talk))
    write_weights(tmp_path / "x.safetensors", "deep3d", Trained({"a": torch.zeros(1)}, {}, {}))
    with pytest.raises(UsageError, match="no weights of deep3d"):
        FaceRegressor.from_file(tmp_path / "x.safetensors")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="no face has a name"):
        run(Options(tmp_path, tmp_path / "out"), quiet)
