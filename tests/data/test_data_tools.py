"""check, stats and the command line."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest_data import add, jpeg, made_landmarks, points_of, put
from PIL import Image

from aboutface import cli
from aboutface.cli import commands
from aboutface.cli.data_commands import Data
from aboutface.data import check, open_examples, stats
from aboutface.data.example import Example
from aboutface.data.pictures import contact_sheet
from aboutface.data.synthetic import write_members
from aboutface.images import read_photo
from aboutface.recipes.prepare import PrepareSettings, pose_of, prepare

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"


@pytest.fixture
def prepared(people, tmp_path):
    prepare(people, tmp_path / "prepared", PrepareSettings(size=64, shard=5, identity="folder"))
    return tmp_path / "prepared"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `aboutface data ...`: exit code, standard output, standard error."""
    monkeypatch.setitem(commands.COMMANDS, "data", Data)

    def run(*arguments):
        code = cli.main(["data", *map(str, arguments)])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def problems(path):
    return {problem.name: problem.message for problem in check(path)}


def test_check_names_what_is_wrong_with_a_tree(tmp_path):
    good = made_landmarks().tolist()
    put(tmp_path, "fine.jpg", 1, landmarks68=good)
    put(tmp_path, "outside.jpg", 2, landmarks68=[*good[:67], [900.0, 100.0]])
    put(tmp_path, "few.jpg", 3, landmarks68=good[:66])
    put(tmp_path, "half.jpg", 4).write_bytes(jpeg(4)[:1000])
    put(tmp_path, "mask.jpg", 5)
    Image.new("L", (10, 10)).save(tmp_path / "mask.mask.png")
    put(tmp_path, "twice.jpg", 6)
    put(tmp_path, "twice.b.jpg", 7)
    put(tmp_path, "train/a.jpg", 8, identity="Ann")
    put(tmp_path, "test/b.jpg", 9, identity="Ann")
    put(tmp_path, "test/c.jpg", 10, identity="Bob")
    found = problems(tmp_path)
    assert set(found) == {"outside.jpg", "few.jpg", "half.jpg", "mask.jpg", "twice.jpg", "Ann"}
    assert "1 of 68 landmarks are far outside the 200 x 200 pixels, as [900.0, 100.0]" in found["outside.jpg"]
    assert "landmarks_68_from_66" in found["few.jpg"]
    assert found["Ann"] == "this person is in test and train"
    assert "has the key of twice.b.jpg" in found["twice.jpg"]


def test_check_compares_shards_with_their_report(prepared):
    assert problems(prepared) == {}
    content = bytearray((prepared / "000001.tar").read_bytes())
    content[-600] ^= 1  # in the zeros at the end: everything still reads
    (prepared / "000001.tar").write_bytes(content)
    assert problems(prepared) == {"000001.tar": "its bytes have another sha256 than report.json says"}
    (prepared / "000000.tar").unlink()
    shutil.copy(prepared / "000002.tar", prepared / "extra.tar")
    found = problems(prepared)
    assert found["000000.tar"] == "is missing"
    assert found["extra.tar"] == "is not in report.json"
    assert sum("has the key of 000002.tar" in why for why in found.values()) == 2


def test_keys_in_two_shards_are_found(tmp_path):
    for name in ("a.tar", "b.tar"):
        with tarfile.open(tmp_path / name, "w") as tar:
            add(tar, "same.jpg", jpeg(1, 32))
            add(tar, f"{name[0]}.jpg", jpeg(2, 32))
    assert list(problems(tmp_path)) == ["b.tar/same.jpg"]


def test_stats_count_and_measure(prepared, tmp_path):
    result = stats(prepared, tmp_path / "s", sheet=6, seed=1)
    assert (result["examples"], result["identities"], result["with_mask"], result["unusable"]) == (12, 4, 12, 0)
    assert result["numbers"]["yaw (degrees)"]["min"] == pytest.approx(-30, abs=0.05)
    assert result["numbers"]["yaw (degrees)"]["median"] == pytest.approx(3, abs=0.05)
    assert result["numbers"]["examples per person"]["max"] == 3
    examples = open_examples(prepared)
    mean = np.mean([points_of(examples[i]) for i in range(12)], 0) / 64
    assert np.allclose(result["mean_landmarks"], mean, atol=1e-4)
    assert json.loads((tmp_path / "s" / "stats.json").read_text()) == result
    assert read_photo(tmp_path / "s" / "contact.jpg").size == (320, 480)
    assert read_photo(tmp_path / "s" / "histograms.png").width > 1000


def test_stats_of_plain_pictures_find_poses_and_survive_bad_ones(people, tmp_path):
    (people / "zero.jpg").write_bytes(b"")
    result = stats(people, tmp_path / "s", pose_of=pose_of)
    assert result["numbers"]["yaw (degrees)"]["max"] == pytest.approx(36, abs=0.05)
    assert list(result["bad"]) == ["zero.jpg"]
    assert result["identities"] == 0


def test_contact_sheet_shows_every_example_once_with_its_landmarks():
    colours = [(255, 0, 0), (0, 0, 255), (255, 255, 0)]
    points = np.full((68, 2), 10, np.float32)
    examples = [Example(str(i), np.full((40, 20, 3), c, np.uint8), points) for i, c in enumerate(colours)]
    sheet = contact_sheet(examples, tile=80)
    assert sheet.shape == (80, 240, 3)
    for place, colour in enumerate(colours):
        tile = sheet[:, place * 80 : place * 80 + 80]
        assert (tile[60, 40] == colour).all()
        assert (tile[:, :19] == 32).all()
        # Its landmark (10, 10) is at twice that, and 20 to the right as the picture stands in the middle.
        y, x = np.nonzero((tile[:, 20:60] != colour).any(-1))
        assert len(y) >= 9
        assert x.mean() + 20.5 == pytest.approx(40, abs=0.3)
        # OpenCV itself draws such a small circle up to half a pixel low: asked for y = 19.5, its own has 20.0.
        assert y.mean() + 0.5 == pytest.approx(20, abs=0.5)


# ---- the command line ----


def test_prepare_check_stats_and_shard_from_the_command_line(run, people, tmp_path):
    target = tmp_path / "out"
    code, out, err = run("prepare", people, target, "--size", 64, "--identity", "folder", "--json")
    assert code == 0
    assert "12 faces of 12 photos; shards: 1" in err
    line = json.loads(out)
    assert (line["kept"], line["identities"]) == (12, 4)
    code, _, err = run("check", target)
    assert (code, err) == (0, f"{target}: no problems\n")
    code, out, err = run("stats", target, "-o", tmp_path / "s", "--json")
    assert code == 0
    assert json.loads(out)["examples"] == 12
    assert "12 examples, 4 people" in " ".join(err.split())
    code, _, err = run("shard", people, tmp_path / "shards", "--shard", 5)
    assert code == 0
    assert "12 pictures of 12 photos; shards: 3" in err


def test_one_line_per_failure_and_exit_code_1(run, people, tmp_path):
    (people / "zero.jpg").write_bytes(b"")
    code, _, err = run("prepare", people, tmp_path / "out", "--size", 64)
    assert code == 1
    assert sum(line.startswith("aboutface: zero.jpg: ") for line in err.splitlines()) == 1
    code, _, err = run("prepare", people, tmp_path / "out", "--size", 64, "--quiet")
    assert (code, len(err.splitlines())) == (1, 1)
    code, _, err = run("check", people)
    assert code == 1
    assert err.splitlines()[0].startswith("zero.jpg: ")
    assert err.splitlines()[-1] == f"{people}: 1 problem"


def test_a_failure_is_one_line_whatever_the_name_and_what_is_ignored_is_said(run, people, tmp_path):
    (people / "new\nline.jpg").write_bytes(b"")
    (people / "notes.md").write_text("hello")
    (people / "link").symlink_to(people / "person0", target_is_directory=True)
    code, _, err = run("prepare", people, tmp_path / "out", "--size", 64)
    assert code == 1
    assert "  ignored: 1 (linked folder), 1 .md" in err.splitlines()
    assert sum(line.startswith("aboutface: new line.jpg: ") for line in err.splitlines()) == 1
    assert "new line.jpg: " in run("check", people)[2].splitlines()[0]


def test_ctrl_c_says_how_to_go_on(run, people, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["aboutface.recipes.prepare"], "prepare_chunk", stopped)
    code, _, err = run("prepare", people, tmp_path / "out")
    assert code == 130
    assert "what is done is kept" in err


def test_dropping_what_is_not_wanted_is_no_failure(run, people, tmp_path):
    assert run("prepare", people, tmp_path / "some", "--size", 64, "--max-yaw", 20)[0] == 0
    assert run("prepare", people, tmp_path / "none", "--size", 64, "--min-face", 900)[0] == 1


def test_a_damaged_tar_is_named(run, people, tmp_path):
    (people / "zero.tar").write_bytes(b"")
    for words in (["prepare", people, tmp_path / "a"], ["shard", people, tmp_path / "b"], ["stats", people]):
        code, _, err = run(*words, *(["-o", tmp_path / "c"] if words[0] == "stats" else []))
        assert code == 1
        assert "aboutface: zero.tar: the tar is truncated or damaged (empty file)" in err.splitlines()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prepare", "nowhere", "out"], "nothing is there"),
        (["prepare", "empty", "out"], "no pictures"),
        (["prepare", "people", "out", "--size", "4"], "--size 4: expected at least 8"),
        (["prepare", "people", "out", "--margin", "-1"], "--margin"),
        (["prepare", "people", "out", "--min-face", "nan"], "--min-face nan: expected at least 0"),
        (["prepare", "people", "out", "--seed", "-1"], "--seed -1"),
        (["prepare", "people", "out", "--workers", "0"], "--workers 0"),
        (["stats", "people", "--sheet", "-1"], "--sheet -1"),
        (["shard", "people", "out", "--shard", "0"], "--shard 0"),
        (["shard", "people", "people"], "inside the source"),
        (["prepare", "people", "people/person0/photo 0.jpg"], "inside the source"),
        (["prepare", "people"], "DST"),
        (["check", "empty"], "no pictures"),
        (["stats", "nowhere"], "nothing is there"),
        (["mend", "people"], "mend"),
    ],
)
def test_bad_usage_is_exit_code_2_and_one_line(run, people, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, _, err = run(*arguments)
    assert code == 2
    assert words in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_help_is_light():
    program = "import sys, aboutface.cli.data_commands; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def synthetic(folder, size):
    """One grey example with the members that `data synth faces` writes."""
    grey = np.full((size, size, 3), 128, np.uint8)
    example = {
        "image": grey,
        "albedo": grey,
        "depth": np.full((size, size), 1.1, np.float32),
        "normal": np.zeros((3, size, size), np.float32),
        "mask": np.zeros((size, size), bool),
        "view": np.zeros(6, np.float32),
        "light": np.array([0.5, 0.5, 0, 0, -1], np.float32),
        "landmarks": np.zeros((68, 2), np.float32),
        "landmarks3d": np.zeros((68, 3), np.float32),
        "visible": np.zeros(68, bool),
        "identity": np.array(1),
        "millimetres_per_unit": np.array(1200.0),
    }
    folder.mkdir(parents=True)
    with tarfile.open(folder / "000000.tar", "w") as tar:
        for name, data in write_members("one", example, np.eye(3)):
            add(tar, name, data)


def test_the_page_runs_as_it_stands(people, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(people, "faces", PrepareSettings(size=64, identity="folder"))
    synthetic(Path("synth/train"), 8)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    names: dict = {"__name__": "page"}
    for block in blocks:
        exec(block, names)
    assert names["batch"]["image"].shape[1:] == (3, 64, 64)
