"""`aboutface models add|download|remove` and how the list shows what they bring."""

import hashlib
import json
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from aboutface import weights
from aboutface.cli import main
from aboutface.morphable import ICT_FILE, MorphableModel, ict_download

sys.path.insert(0, str(Path(__file__).with_name("morphable")))
toy = pytest.importorskip("toy_face")
pytest.importorskip("scipy", reason="needs the extra morphable")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ABOUTFACE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ABOUTFACE_OFFLINE", raising=False)
    return tmp_path / "home"


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_model_is_added_listed_verified_and_removed(home, tmp_path, capsys):
    toy.write_deep3d(tmp_path)
    assert main(["models", "add", "bfm09", str(tmp_path / "BFM_model_front.mat")]) == 0
    said = capsys.readouterr().err
    assert "1044 vertices" in said
    assert "not to be passed on" in said
    file = home / "weights" / "bfm09.safetensors"
    assert torch.equal(MorphableModel.load("bfm09").mean, MorphableModel.load(file).mean)

    assert main(["models", "list", "--json"]) == 0
    (entry,) = (entry for entry in lines(capsys) if entry["name"] == "bfm09")
    assert (entry["present"], entry["redistributable"], entry["bytes"]) == (True, False, file.stat().st_size)
    assert main(["models", "list"]) == 0
    (row,) = (row for row in capsys.readouterr().out.splitlines() if row.startswith("bfm09"))
    assert "yes" in row
    assert "no passing on" in row
    assert main(["models", "info", "bfm09", "--json"]) == 0
    (facts,) = lines(capsys)
    assert facts["settings"] == {
        "version": "2009, cropped as Deep3D does",
        "vertices": 1044,
        "faces": len(toy.crop_faces()),
        "identities": 80,
        "expressions": 64,
        "albedos": 80,
        "landmarks": 68,
    }
    assert main(["models", "verify", "bfm09"]) == 0
    assert main(["models", "path", "bfm09"]) == 0
    assert capsys.readouterr().out.strip() == str(file)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert main(["models", "verify", "bfm09"]) == 2
    assert main(["models", "remove", "bfm09"]) == 0
    assert not list(file.parent.iterdir())
    assert main(["models", "remove", "bfm09"]) == 2
    assert "aboutface models add bfm09" in capsys.readouterr().err


def test_adding_again_replaces_and_a_failure_leaves_the_old_one(home, tmp_path, capsys):
    toy.write_deep3d(tmp_path)
    assert main(["models", "add", "bfm09", str(tmp_path)]) == 0
    before = weights.digest(home / "weights" / "bfm09.safetensors")
    toy.write_deep3d(tmp_path, keypoints=toy.crop_landmarks()[None, ::-1] + 1)
    assert main(["models", "add", "bfm09", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert weights.verify("bfm09") == before
    toy.write_deep3d(tmp_path, skinmask=None)
    assert main(["models", "add", "bfm09", str(tmp_path)]) == 0
    assert weights.verify("bfm09") != before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add"], "name the weights"),
        (["add", "bfm09"], "name its files; aboutface models add bfm09 01_MorphableModel.mat"),
        (["add", "depthnet", "x"], "unknown model 'depthnet': choose one of bfm09, bfm17, bfm19, flame, ict"),
        (["add", "bfm21", "x"], "Unknown weights 'bfm21'"),
        (["add", "bfm17", "none.h5"], "none.h5: no such file or folder"),
        (["add", "flame", "none.pkl", "--partial"], "--partial is for ict"),
        (["add", "ict", "a", "b"], "expected one npz file or folder, got 2"),
        (["add", "ict", "none"], "the ICT face model is not there"),
        (["info", "bfm09", "x"], "takes no files"),
        (["remove", "depthnet"], "come with aboutface and stay"),
        (["download", "bfm19"], "it has no free address; aboutface models add bfm19"),
        (["path", "ict"], "run: aboutface models download ict, or: aboutface models add ict"),
    ],
)
def test_mistakes(arguments, words, capsys):
    assert main(["models", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_absent_models_are_no_fault(capsys):
    code = main(["models", "verify"])
    said = capsys.readouterr().err
    assert "flame: not added" in said
    assert code == 0 or "dlib" in said
    assert weights.REGISTRY["ict"].redistributable
    assert not any(weights.REGISTRY[name].redistributable for name in ("bfm09", "bfm17", "bfm19", "flame"))
    with pytest.raises(weights.UsageError, match="made of the user's own files"):
        weights.download("ict")


def test_the_ict_file_is_added_and_found_by_name(data, home, capsys, monkeypatch):
    if not (data / ICT_FILE).is_file():
        pytest.skip(f"no {ICT_FILE} in {data}")
    monkeypatch.setenv("ABOUTFACE_DATA", str(data))
    # Not added yet: the file that other commands use is taken.
    assert MorphableModel.load("ict").mean.shape == (17202, 3)
    monkeypatch.delenv("ABOUTFACE_DATA")
    assert main(["models", "path", "ict"]) == 2
    assert main(["models", "add", "ict", str(data / ICT_FILE)]) == 0
    assert "may be passed on" in capsys.readouterr().err
    assert MorphableModel.load("ict").mean.shape == (17202, 3)


def test_ict_is_downloaded_checked_and_converted(data, home, tmp_path, capsys, monkeypatch):
    """The authors' own files, four of them, from a server on this machine, against the prints that ship."""
    sample = data / "ict-facekit-obj-sample.tar.xz"
    if not sample.is_file():
        pytest.skip(f"no {sample.name} in {data}")
    with tarfile.open(sample) as tar:
        tar.extractall(tmp_path / "web", filter="data")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    names = ("vertex_indices", "generic_neutral_mesh", "identity000", "jawOpen")
    monkeypatch.setattr(ict_download, "ICT_PRINTS", {name: ict_download.ICT_PRINTS[name] for name in names})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "web")) as server:
        monkeypatch.setattr(ict_download, "ICT_ADDRESS", f"http://127.0.0.1:{server.server_port}/FaceXModel/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert main(["models", "download", "ict"]) == 0
        finally:
            server.shutdown()
            thread.join()
    assert "17202 vertices" in capsys.readouterr().err
    model = MorphableModel.load("ict")
    assert model.expression_names == ("jawOpen",)
    assert not (home / "downloads" / "ict").exists()
    file = home / "weights" / "ict.safetensors"
    assert weights.verify("ict") == hashlib.sha256(file.read_bytes()).hexdigest()
    # Here, it is not downloaded again: the server is gone.
    assert main(["models", "download", "ict"]) == 0
    assert "already here" in capsys.readouterr().err
