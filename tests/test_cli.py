"""The command, as a user types it: files, words and exit codes."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image, ImageSequence
from skimage.data import astronaut

from aboutface import __version__, weights
from aboutface.cli import ALIASES, join_values, main
from aboutface.cli.arguments import parse_angles, parse_box, parse_face, parse_sweep
from aboutface.errors import UsageError

SOURCE = Path(__file__).resolve().parents[1] / "src"
DOCS = Path(__file__).resolve().parents[1] / "docs"
VERBS = (
    "rotate",
    "frontalize",
    "relight",
    "animate",
    "reconstruct",
    "swap",
    "sample",
    "project",
    "models",
    "doctor",
    "train",
)
VIEW = "me_yaw+020_pitch+000_roll+000.png"
# 260 pixels around the face of NASA's portrait, shrunk.
PORTRAIT = astronaut()[0:260, 100:360]


def portrait(size: int = 200) -> Image.Image:
    return Image.fromarray(PORTRAIT).resize((size, size), Image.Resampling.LANCZOS)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder with one photo, me.png."""
    monkeypatch.chdir(tmp_path)
    portrait().save("me.png")
    return tmp_path


@pytest.fixture(scope="session")
def landmarks_file(tmp_path_factory) -> str:
    """Landmarks of me.png, so that most runs need no detection."""
    folder = tmp_path_factory.mktemp("landmarks")
    portrait().save(folder / "me.png")
    assert main(["reconstruct", str(folder / "me.png"), "-o", str(folder / "shape.npz"), "--quiet"]) == 0
    return str(folder / "shape.json")


@pytest.fixture(scope="session")
def made(tmp_path_factory, landmarks_file) -> Path:
    """Everything that reconstruct writes into a folder."""
    folder = tmp_path_factory.mktemp("shape")
    portrait().save(folder / "me.png")
    arguments = ["--landmarks", landmarks_file, "-o", f"{folder}/out", "--quiet"]
    assert main(["reconstruct", str(folder / "me.png"), *arguments]) == 0
    return folder / "out"


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.is_file()}


def record(name: str | Path) -> dict:
    return json.loads(Path(name).read_text())


def pixels(name: str | Path) -> np.ndarray:
    with Image.open(name) as image:
        return np.array(image)


def run(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        timeout=120,
        check=False,
    )


class TestHelp:
    def test_help_and_version_do_not_import_torch(self):
        program = (
            "import sys, io, contextlib; from aboutface.cli import main\n"
            "with contextlib.redirect_stdout(io.StringIO()):\n"
            "    codes = [main(['--help']), main(['--version']), main(['rotate', '--help'])]\n"
            "print(codes, [m for m in ('torch', 'numpy', 'cv2', 'PIL', 'rich') if m in sys.modules])"
        )
        result = run("-c", program)
        assert result.stdout.split(b"\n")[0] == b"[0, 0, 0] []", result

    def test_help_is_quick(self):
        timed = "import time; start = time.perf_counter(); from aboutface.cli import main; main(['--help'])\n"
        timed += "print(time.perf_counter() - start)"
        # The best of three: other work on the machine only ever slows a run down.
        assert min(float(run("-c", timed).stdout.split()[-1]) for _ in range(3)) < 0.5

    def test_the_module_is_the_command(self):
        result = run("-m", "aboutface", "--version")
        assert (result.returncode, result.stdout.decode().strip()) == (0, f"aboutface {__version__}")

    @pytest.mark.parametrize(
        "verb",
        # train lists methods, which have options: see test_cli_train.py.
        [*(verb for verb in VERBS if verb != "train"), *ALIASES],
    )
    def test_every_verb_explains_itself(self, verb, capsys):
        assert main([verb, "--help"]) == 0
        captured = capsys.readouterr()
        assert "usage: aboutface" in captured.out
        assert "--json" in captured.out
        assert captured.err == ""
        assert "None" not in captured.out

    def test_the_overview_names_every_verb(self, capsys):
        assert main(["--help"]) == 0
        text = capsys.readouterr().out
        for verb in VERBS:
            assert re.search(rf"^  {verb} ", text, re.MULTILINE)


class TestUsage:
    """Exit code 2, and one sentence that names the mistake."""

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([], "usage"),
            (["rotat", "me.png"], "did you mean rotate"),
            (["rotate", "me.png", "--yaww", "3"], "--yaww, 3 (perhaps you meant --yaw)"),
            (["rotate", "me.png"], "--yaw 30"),
            (["rotate", "--yaw", "30"], "at least one photo"),
            (["rotate", "me.png", "--yaw"], "Missing value"),
            (["rotate", "me.png", "--yaw", "abc"], "--yaw abc: expected degrees"),
            (["rotate", "me.png", "--yaw", "181"], "between -180 and 180"),
            (["rotate", "me.png", "--yaw", "nan"], "expected degrees"),
            (["rotate", "me.png", "--yaw", "0:30:0"], "never ends"),
            (["rotate", "me.png", "--yaw", "1,2", "--pitch", "1,2,3"], "equally long"),
            (["rotate", "me.png", "--yaw", "1", "--sweep", "yaw=0:30"], "leave --yaw"),
            (["rotate", "me.png", "--sweep", "jaw=0:30"], "axis=from:to"),
            (["rotate", "me.png", "--yaw", "1", "--face", "first"], "largest, all or a number"),
            (["rotate", "me.png", "--yaw", "1", "--device", "cuda"], "this version computes on the CPU"),
            (["rotate", "me.png", "--yaw", "1", "--device", "tpu"], "auto or cpu"),
            (["rotate", "me.png", "--yaw", "1", "--method", "magic"], "there are: depthnet"),
            (["rotate", "me.png", "--yaw", "1", "--detector", "magic"], "Expected one of"),
            (["rotate", "me.png", "--yaw", "1", "--format", "bmp"], "Expected one of"),
            (["rotate", "me.png", "--yaw", "1", "--landmarks", "none.json"], "none.json"),
            (["rotate", "me.png", "--yaw", "1", "--box", "1,2,3"], "left,top,right,bottom"),
            (["rotate", "me.png", "--yaw", "1", "-o", "x.bmp"], "unknown file type"),
            (["rotate", "me.png", "--yaw", "1,2", "-o", "x.png"], "do not fit into one file"),
            (["rotate", "me.png", "me.png", "--yaw", "1", "-o", "x.png"], "do not fit into one file"),
            (["rotate", "me.png", "me.png", "--yaw", "1", "--box", "1,2,3,4"], "one photo"),
            (["rotate", "-", "-", "--yaw", "1"], "once only"),
            (["rotate", "me.png", "--yaw", "1", "-o", "-", "--json"], "standard output is taken"),
            (["frontalize", "me.png", "--crop", "--size", "1"], "16 to 4096"),
            (["animate", "me.png", "-o", "x.avi"], "unknown file type"),
            (["animate", "me.png", "-o", "-"], "needs a file"),
            (["animate", "me.png", "--face", "all"], "one face"),
            (["animate", "me.png", "--fps", "0"], "frames"),
            (["animate", "me.png", "--sweep", "yaw"], "axis=from:to"),
            (["reconstruct", "me.png", "-o", "x.png"], "unknown file type"),
            (["swap", "-t", "me.png"], "--source"),
            (["models", "info"], "name the weights"),
            (["models", "info", "magic"], "Unknown weights"),
            (["models", "destroy"], "Expected one of"),
            (["train", "depthnet"], "--data"),
            (["train", "depthnet", "--data", "nowhere"], "nowhere: no such file or folder"),
        ],
    )
    def test_mistakes(self, arguments, words, capsys, landmarks_file):
        before = files()
        if "do not fit" in words and arguments.count("me.png") == 1:
            arguments = [*arguments, "--landmarks", landmarks_file]
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert words in " ".join(captured.err.split())
        assert captured.out == ""
        assert "Traceback" not in captured.err
        if arguments:
            assert captured.err.count("\n") == 1, "one sentence"
        assert files() == before

    def test_a_missing_detector_is_a_missing_prerequisite(self, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "mediapipe", None)
        assert main(["rotate", "me.png", "--yaw", "1", "--detector", "mediapipe"]) == 2
        assert "pip install" in capsys.readouterr().err


class TestFailures:
    def test_unreadable_photos(self, capsys):
        Path("empty.jpg").touch()
        Path("text.jpg").write_text("no picture")
        Path("cut.png").write_bytes(Path("me.png").read_bytes()[:3000])
        Path("folder").mkdir()
        before = files()
        for name, word in {
            "none.jpg": "no such file",
            "empty.jpg": "is empty",
            "text.jpg": "not a picture",
            "cut.png": "truncated",
            "folder": "is a folder",
        }.items():
            assert main(["rotate", name, "--yaw", "1"]) == 1
            error = capsys.readouterr().err
            assert error.startswith(f"aboutface: {name}: ")
            assert word in error
            assert error.count("\n") == 1
        assert files() == before

    def test_no_face_is_4_alone_and_1_among_others(self, capsys):
        Image.new("RGB", (100, 100), "green").save("grass.png")
        assert main(["frontalize", "grass.png"]) == 4
        assert "grass.png: No face was found" in capsys.readouterr().err
        assert main(["frontalize", "grass.png", "me.png", "none.png", "--json"]) == 1
        captured = capsys.readouterr()
        lines = [json.loads(line) for line in captured.out.splitlines()]
        assert [line["status"] for line in lines] == ["failed", "done", "failed"]
        assert [line["exit_code"] for line in lines] == [4, 0, 1]
        assert [line.get("error") for line in lines] == ["NoFaceError", None, "PhotoError"]
        assert "1 done, 2 failed" in captured.err
        assert Path("outputs/me/me_frontal.png").is_file()

    def test_no_such_face(self, capsys):
        assert main(["frontalize", "me.png", "--face", "5"]) == 4
        assert "no face 5" in capsys.readouterr().err

    def test_a_bug_is_one_line_and_with_v_a_traceback(self, capsys, monkeypatch, landmarks_file):
        def broken(*_args, **_options):
            raise ZeroDivisionError("oh")

        monkeypatch.setattr("aboutface.edit.result.view", broken)
        arguments = ["rotate", "me.png", "--yaw", "20", "--landmarks", landmarks_file]
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert "this is a bug" in error
        assert "ZeroDivisionError: oh" in error
        assert error.count("\n") == 1
        assert main([*arguments, "-v"]) == 1
        assert "Traceback" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("place", "arguments"),
        [
            ("aboutface.edit.result.view", ["rotate", "me.png", "--yaw", "20", "-o", "new/"]),
            ("aboutface.images.os.replace", ["rotate", "me.png", "--yaw", "20", "-o", "x.png"]),
            ("aboutface.images.os.replace", ["reconstruct", "me.png", "-o", "x.glb"]),
            ("aboutface.images.os.replace", ["reconstruct", "me.png", "-o", "x.obj"]),
            ("aboutface.edit.result.view", ["animate", "me.png", "--seconds", "0.2", "-o", "x.mp4"]),
            ("aboutface.images.os.replace", ["animate", "me.png", "--seconds", "0.2", "-o", "x.gif"]),
        ],
    )
    def test_interrupted_leaves_nothing(self, place, arguments, capsys, monkeypatch, landmarks_file):
        def stop(*_args, **_options):
            raise KeyboardInterrupt

        before = files()
        monkeypatch.setattr(place, stop)
        assert main([*arguments, "--landmarks", landmarks_file]) == 130
        assert "interrupted" in capsys.readouterr().err
        assert files() == before

    def test_output_that_cannot_be_written(self, capsys, landmarks_file):
        Path("taken").write_text("a file")
        assert main(["rotate", "me.png", "--yaw", "20", "-o", "taken/x.png", "--landmarks", landmarks_file]) == 1
        assert "cannot be written" in capsys.readouterr().err

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
    def test_unwritable_folder(self, capsys, landmarks_file):
        Path("closed").mkdir(mode=0o500)
        assert main(["rotate", "me.png", "--yaw", "20", "-o", "closed/x.png", "--landmarks", landmarks_file]) == 1
        assert "cannot be written" in capsys.readouterr().err

    @pytest.mark.parametrize("arguments", [["-o", "me.png"], ["-o", "./me.png"], ["-o", "link.png"]])
    def test_the_photo_is_never_overwritten(self, arguments, capsys, landmarks_file):
        os.symlink("me.png", "link.png")
        before = Path("me.png").read_bytes()
        assert main(["rotate", "me.png", "--yaw", "20", "--landmarks", landmarks_file, *arguments]) == 2
        assert "overwrite the input" in capsys.readouterr().err
        assert Path("me.png").read_bytes() == before

    def test_a_foreign_json_is_never_overwritten(self, capsys, landmarks_file):
        Path("package.json").write_text('{"name": "mine"}')
        before = files()
        assert main(["rotate", "me.png", "--yaw", "20", "--landmarks", landmarks_file, "-o", "package.png"]) == 1
        assert "no record of this tool" in capsys.readouterr().err
        assert Path("package.json").read_text() == '{"name": "mine"}'
        assert files() == before


class TestRotate:
    def test_one_view_goes_to_outputs(self, capsys):
        assert main(["rotate", "me.png", "--yaw", "20", "--pitch", "0", "--roll", "0"]) == 0
        captured = capsys.readouterr()
        folder = Path("outputs/me")
        assert {path.name for path in folder.iterdir()} == {VIEW, "me.json"}
        assert captured.out == ""
        assert str(folder / VIEW) in captured.err
        for word in ("CPU", "read", "detect", "reconstruct", "head", "views", "write"):
            assert word in captured.err
        assert pixels(f"outputs/me/{VIEW}").shape == (200, 200, 3)
        content = record("outputs/me/me.json")
        (output,) = content["outputs"]
        assert output["pose"] == {"yaw": 20, "pitch": 0, "roll": 0}
        assert output["sha256"] == hashlib.sha256((folder / VIEW).read_bytes()).hexdigest()
        assert content["source"]["sha256"] == hashlib.sha256(Path("me.png").read_bytes()).hexdigest()
        assert content["seconds"]["read"] > 0

    def test_several_views_and_their_contact_sheet(self, landmarks_file):
        arguments = ["rotate", "me.png", "--yaw", "-20,0,20", "--landmarks", landmarks_file, "-o", "views"]
        assert main(arguments) == 0
        views = [f"me_yaw{yaw}_pitch+000_roll+000.png" for yaw in ("-020", "+000", "+020")]
        assert {path.name for path in Path("views").iterdir()} == {*views, "me_contact.png", "me.json"}
        outputs = record("views/me.json")["outputs"]
        assert [output["file"] for output in outputs] == [*views, "me_contact.png"]
        for output in outputs:
            assert output["sha256"] == hashlib.sha256(Path("views", output["file"]).read_bytes()).hexdigest()
        assert len({output["sha256"] for output in outputs}) == 4
        assert pixels("views/me_contact.png").shape[1] > 3 * 200

    def test_views_that_share_a_name_are_all_kept(self, landmarks_file):
        assert main(["rotate", "me.png", "--yaw", "20,20.3", "--landmarks", landmarks_file, "-o", "v"]) == 0
        assert len(list(Path("v").glob("me_yaw+020*.png"))) == 2

    def test_a_named_file_is_exactly_that_file(self, landmarks_file):
        arguments = ["rotate", "me.png", "--yaw", "20", "--landmarks", landmarks_file]
        assert main([*arguments, "-o", "deep/er/x.jpg"]) == 0
        assert files() == {"me.png", "deep/er/x.jpg", "deep/er/x.json"}
        assert Path("deep/er/x.jpg").read_bytes()[:2] == b"\xff\xd8"
        assert main([*arguments, "--format", "webp", "-o", "w/"]) == 0
        assert Path(f"w/{VIEW[:-4]}.webp").read_bytes()[8:12] == b"WEBP"

    def test_again_overwrites_with_the_same_bytes(self, landmarks_file):
        arguments = ["rotate", "me.png", "--yaw", "20", "--landmarks", landmarks_file, "-o", "x.png"]
        assert main(arguments) == 0
        first = Path("x.png").read_bytes()
        assert main(arguments) == 0
        assert Path("x.png").read_bytes() == first

    def test_landmarks_of_the_sidecar_give_the_same_picture(self):
        assert main(["rotate", "me.png", "--yaw", "20", "-o", "a.png"]) == 0
        assert main(["rotate", "me.png", "--yaw", "20", "--landmarks", "a.json", "-o", "b.png"]) == 0
        assert record("b.json")["face"]["detector"] == "file"
        np.testing.assert_array_equal(pixels("a.png"), pixels("b.png"))

    def test_a_box_instead_of_detection(self):
        assert main(["rotate", "me.png", "--yaw", "20", "-o", "a.png"]) == 0
        box = ",".join(str(side) for side in record("a.json")["face"]["box"])
        assert main(["rotate", "me.png", "--yaw", "20", "--box", box, "-o", "b.png"]) == 0
        a, b = (np.array(record(name)["landmarks"]) for name in ("a.json", "b.json"))
        assert np.abs(a - b).max() < 8

    def test_relative_adds_to_the_pose(self, landmarks_file):
        arguments = ["rotate", "me.png", "--yaw", "10", "--landmarks", landmarks_file, "--relative", "-o", "x.png"]
        assert main(arguments) == 0
        content = record("x.json")
        assert content["outputs"][0]["pose"]["yaw"] == pytest.approx(content["pose"]["yaw"] + 10, abs=0.02)
        assert content["outputs"][0]["pose"]["roll"] == pytest.approx(content["pose"]["roll"], abs=0.02)

    def test_a_sweep_is_a_row_of_views(self, landmarks_file):
        arguments = ["rotate", "me.png", "--sweep", "yaw=-20:20:20", "--landmarks", landmarks_file, "-o", "s"]
        assert main(arguments) == 0
        yaws = [output["pose"]["yaw"] for output in record("s/me.json")["outputs"] if "pose" in output]
        assert yaws == [-20, 0, 20]

    def test_a_sweep_into_a_video(self, landmarks_file):
        arguments = ["rotate", "me.png", "--sweep", "yaw=-20:20:10", "--landmarks", landmarks_file, "-o", "turn.gif"]
        assert main(arguments) == 0
        with Image.open("turn.gif") as video:
            assert len(list(ImageSequence.Iterator(video))) == 8  # -20 -10 0 10 20 10 0 -10
            assert video.size == (200, 200)

    def test_photos_of_one_name_do_not_collide(self, capsys):
        Path("a").mkdir()
        Path("b").mkdir()
        portrait().save("a/me.png")
        portrait(180).save("b/me.png")
        assert main(["rotate", "a/me.png", "b/me.png", "--yaw", "20", "-o", "out"]) == 0
        assert pixels(f"out/{VIEW}").shape == (200, 200, 3)
        assert pixels(f"out/{VIEW.replace('me', 'me-2', 1)}").shape == (180, 180, 3)
        assert "2 done, 0 failed" in capsys.readouterr().err

    def test_all_faces(self):
        pair = Image.new("RGB", (400, 200))
        pair.paste(portrait(), (0, 0))
        pair.paste(portrait(180), (210, 0))
        pair.save("two.png")
        assert main(["rotate", "two.png", "--yaw", "20", "--face", "all", "-o", "out"]) == 0
        names = {path.name for path in Path("out").iterdir()}
        assert names == {f"two_face{i}{rest}" for i in (0, 1) for rest in ("_yaw+020_pitch+000_roll+000.png", ".json")}
        assert main(["rotate", "two.png", "--yaw", "20", "--face", "all", "-o", "x.png"]) == 2
        assert not Path("x.png").exists()


class TestPhotos:
    def test_transparency_is_kept(self, landmarks_file):
        image = portrait()
        alpha = np.full((200, 200), 255, np.uint8)
        alpha[:30] = 40
        image.putalpha(Image.fromarray(alpha))
        image.save("clear.png")
        assert main(["rotate", "clear.png", "--yaw", "20", "--landmarks", landmarks_file, "-o", "x.png"]) == 0
        assert pixels("x.png").shape == (200, 200, 4)
        np.testing.assert_array_equal(pixels("x.png")[..., 3], alpha)
        assert main(["frontalize", "clear.png", "--crop", "--landmarks", landmarks_file, "-o", "c.png"]) == 0
        assert pixels("c.png").shape == (224, 224, 4)

    def test_a_phone_photo_lying_on_its_side(self, landmarks_file):
        exif = Image.Exif()
        exif[0x0112] = 6
        portrait().transpose(Image.Transpose.ROTATE_90).save("phone.png", exif=exif)
        arguments = ["--yaw", "20", "--landmarks", landmarks_file]
        assert main(["rotate", "phone.png", *arguments, "-o", "a.png"]) == 0
        assert main(["rotate", "me.png", *arguments, "-o", "b.png"]) == 0
        np.testing.assert_array_equal(pixels("a.png"), pixels("b.png"))

    def test_standard_input_and_output(self, capsysbinary, monkeypatch, landmarks_file):
        data = Path("me.png").read_bytes()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        arguments = ["--yaw", "20", "--landmarks", landmarks_file]
        assert main(["rotate", "-", *arguments, "-o", "-"]) == 0
        picture = Image.open(io.BytesIO(capsysbinary.readouterr().out))
        assert files() == {"me.png"}
        assert main(["rotate", "me.png", *arguments, "-o", "x.png"]) == 0
        np.testing.assert_array_equal(np.array(picture), pixels("x.png"))


class TestFrontalize:
    def test_it_is_frontal_and_named_so(self, landmarks_file):
        assert main(["frontalise", "me.png", "--landmarks", landmarks_file]) == 0
        assert {path.name for path in Path("outputs/me").iterdir()} == {"me_frontal.png", "me_frontal.json"}
        content = record("outputs/me/me_frontal.json")
        assert content["outputs"][0]["pose"] == {"yaw": 0, "pitch": 0, "roll": 0}

    def test_the_crop_is_a_square_around_the_face(self, landmarks_file):
        arguments = ["frontalize", "me.png", "--landmarks", landmarks_file, "--crop"]
        assert main([*arguments, "--size", "160", "-o", "c.png"]) == 0
        assert pixels("c.png").shape == (160, 160, 3)
        from aboutface.detect import detect

        (face,) = detect(np.array(Image.fromarray(pixels("c.png")).resize((320, 320))))
        low, high = face.landmarks.min(0) / 320, face.landmarks.max(0) / 320
        # Half of the longer side of the landmarks' box on each side of it: the box is the middle half.
        assert abs((low + high) / 2 - 0.5).max() < 0.05
        assert (high - low).max() == pytest.approx(0.5, abs=0.07)
        assert abs(face.landmarks[36:42].mean(0)[1] - face.landmarks[42:48].mean(0)[1]) < 10


class TestReconstruct:
    def test_files(self, made):
        endings = (".glb", ".json", ".npz", "_depth.png", "_depth.npy", "_normal.png", "_mask.png")
        endings += ("_albedo.png", "_shading.png", "_uv.png", "_preview.jpg")
        assert {path.name for path in made.iterdir()} == {f"me{ending}" for ending in endings}
        listed = {output["file"]: output["sha256"] for output in record(made / "me.json")["outputs"]}
        assert listed == {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in made.iterdir()
            if path.suffix != ".json"
        }

    def test_maps_agree_with_each_other(self, made):
        depth = np.load(made / "me_depth.npy")
        about = record(made / "me.json")["depth"]
        levels = pixels(made / "me_depth.png").astype(float)
        mask = pixels(made / "me_mask.png") > 0
        assert depth.shape == (200, 200)
        np.testing.assert_array_equal(mask, np.isfinite(depth))
        np.testing.assert_array_equal(mask, pixels(made / "me_normal.png").any(-1))
        decoded = about["near"] + (levels - 1) / 65534 * (about["far"] - about["near"])
        assert np.abs(decoded - depth)[mask].max() < 0.01
        assert 80 < about["far"] - about["near"] < 300, "millimetres of a head"
        assert 0.1 < mask.mean() < 0.7

    def test_albedo_times_shading_is_the_photo(self, made):
        from aboutface.relight import decoded, encoded

        albedo, shading = (torch.from_numpy(pixels(made / f"me_{name}.png") / 255) for name in ("albedo", "shading"))
        product = encoded(decoded(albedo) * decoded(shading)[..., None]).numpy() * 255
        # Where the albedo is not white; both are rounded to 8 bits.
        sound = (albedo < 1).all(-1).numpy() & (shading < 1).numpy()
        assert np.abs(product - pixels("me.png"))[sound].max() < 4
        assert sound.mean() > 0.1
        light = record(made / "me.json")["light"]
        with np.load(made / "me.npz") as arrays:
            assert arrays["light_harmonics"].tolist() == pytest.approx(light["spherical_harmonics"], abs=1e-5)
            assert float(arrays["light_ambient"] + arrays["light_diffuse"]) == pytest.approx(1)

    def test_the_mesh_is_a_coloured_head_in_metres(self, made):
        mesh = trimesh.load_mesh(made / "me.glb")
        assert 0.2 < mesh.extents[1] < 0.45
        texture = getattr(mesh.visual, "material").baseColorTexture  # noqa: B009 (trimesh's types do not know it)
        assert np.asarray(texture).std() > 10
        assert (made / "me.glb").stat().st_size < 10_000_000

    def test_the_snippet_of_the_docs_draws_the_view(self, made):
        text = (DOCS / "outputs.md").read_text("utf-8")
        (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        assert code.count("\n") - code.count("\n\n") <= 15
        assert set(re.findall(r"import (\w+)", code)) == {"numpy"}
        names: dict = {}
        exec(code.replace("me.npz", str(made / "me.npz")), names)
        from aboutface.geometry import project
        from aboutface.scene import Camera, Mesh, Pose, Scene

        face = names["face"]
        tensors = {name: torch.from_numpy(face[name]) for name in face.files if face[name].ndim}
        height, width = face["image_size"].tolist()
        camera = Camera(tensors["camera_matrix"], height, width)
        surface = Mesh(tensors["vertices"], tensors["faces"].long(), tensors["uv"])
        scene = Scene(
            surface,
            torch.zeros(3, 1, 1),
            camera,
            pose=Pose(*face["pose_degrees"].tolist()),
            pivot=tuple(face["pivot"].tolist()),
            rigidity=tensors["rigidity"],
        )
        expected = project(scene.posed(30, 0, 0).mesh().vertices, camera.K).numpy()
        assert np.abs(names["pixels"] - expected).max() < 0.01
        at_rest = face["landmarks_3d"] @ face["camera_matrix"].T
        assert np.abs(at_rest[:, :2] / at_rest[:, 2:] - face["landmarks"]).max() < 0.01

    def test_the_documented_keys_are_those_of_the_file(self, made):
        text = (DOCS / "outputs.md").read_text("utf-8")
        section = text[text.index("## The numbers") :]
        rows = dict(re.findall(r"^\| `(\w+)` \| (\([^)]*\) \w+) \|", section, re.MULTILINE))
        arrays = np.load(made / "me.npz")
        assert set(rows) == set(arrays.files)
        for name, documented in rows.items():
            shape, dtype = documented.rsplit(" ", 1)
            assert arrays[name].dtype == dtype, name
            wanted = [part for part in shape.strip("()").replace(" ", "").split(",") if part]
            assert len(wanted) == arrays[name].ndim, name
            assert all(not part.isdigit() or int(part) == n for part, n in zip(wanted, arrays[name].shape, strict=True))

    def test_the_record_has_the_documented_keys(self, made):
        text = (DOCS / "outputs.md").read_text("utf-8")
        section = text[text.index("## The record") : text.index("With `--json`")]
        documented = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| ([^|]*) \|", section, re.MULTILINE))))
        assert set(record(made / "me.json")) == documented - {"target", "consent", "altered", "same_person"}

    @pytest.mark.parametrize(
        ("name", "others"),
        [("x.glb", []), ("x.ply", []), ("x.npz", []), ("x.obj", ["x_albedo.png", "x.mtl"])],
    )
    def test_a_named_file_comes_alone(self, name, others, landmarks_file):
        assert main(["shape", "me.png", "--landmarks", landmarks_file, "-o", name]) == 0
        assert files() == {"me.png", name, "x.json", *others}
        assert [output["file"] for output in record("x.json")["outputs"]] == [name, *others]

    def test_two_people_in_one_folder(self, landmarks_file):
        for name in ("a", "b"):
            assert main(["shape", "me.png", "--landmarks", landmarks_file, "-o", f"{name}.obj"]) == 0
        assert {"a.obj", "a.mtl", "a_albedo.png", "b.obj", "b.mtl", "b_albedo.png"} <= files()
        assert "a.mtl" in Path("a.obj").read_text()

    def test_maps_beside_a_named_file(self, landmarks_file):
        assert main(["shape", "me.png", "--landmarks", landmarks_file, "-o", "x.obj", "--maps"]) == 0
        assert {"x_depth.png", "x_normal.png", "x.npz", "x_preview.jpg"} <= files()
        names = [output["file"] for output in record("x.json")["outputs"]]
        assert len(names) == len(set(names))


class TestRelight:
    def test_files_and_record(self, landmarks_file, capsys):
        arguments = ["--landmarks", landmarks_file, "-o", "out", "--json"]
        assert main(["relight", "me.png", "--light-azimuth", "-60", "--light-elevation", "20", *arguments]) == 0
        assert files() == {"me.png", *(f"out/me_relit{ending}" for ending in (".png", "_sheet.png", ".json"))}
        line = json.loads(capsys.readouterr().out)
        assert line["outputs"][0]["light"] == {"azimuth": -60, "elevation": 20, "intensity": 1.15, "ambient": 0.2}
        assert line["outputs"][1]["kind"] == "sheet"
        assert pixels("out/me_relit.png").shape == (200, 200, 3)
        assert record("out/me_relit.json")["light"]["ambient"] > 0

    def test_several_and_a_file(self, landmarks_file):
        arguments = ["--landmarks", landmarks_file, "-o"]
        assert main(["relight", "me.png", "--light", "left,top", *arguments, "out"]) == 0
        assert {"out/me_relit_left.png", "out/me_relit_top.png", "out/me_relit_sheet.png"} <= files()
        assert main(["relight", "me.png", "--light", "left", *arguments, "x.png"]) == 0
        np.testing.assert_array_equal(pixels("x.png"), pixels("out/me_relit_left.png"))
        assert "x.json" in files()
        # The light of a record: that of the photo itself gives the photo.
        assert main(["relight", "me.png", "--light", "x.json", *arguments, "y.png"]) == 0
        assert np.abs(pixels("y.png").astype(int) - pixels("me.png")).max() <= 1

    @pytest.mark.parametrize("ending", ["gif", "mp4", "webp"])
    def test_sweep(self, ending, landmarks_file):
        arguments = ["--sweep", "azimuth=-80:80:80", "--light-elevation", "10", "--landmarks", landmarks_file]
        assert main(["relight", "me.png", *arguments, "-o", f"light.{ending}"]) == 0
        (output,) = record("light.json")["outputs"]
        assert (output["kind"], output["frames"]) == ("video", 4), "there and back: -80, 0, 80, 0"
        assert output["first"]["light"]["azimuth"] == -80
        if ending != "mp4":
            with Image.open(f"light.{ending}") as video:
                frames = [np.array(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(video)]
            assert len(frames) == 4
            assert np.abs(frames[0] - frames[2]).mean() > 4

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([], "--light-azimuth 60"),
            (["--light", "lefty"], "top-left"),
            (["--light", "none.json"], "none.json"),
            (["--light", "left", "--light-azimuth", "3"], "not both"),
            (["--light-elevation", "91"], "elevation"),
            (["--ambient", "-1", "--light-azimuth", "3"], "ambient"),
            (["--sweep", "yaw=-8:8"], "azimuth=-40:40"),
            (["--sweep", "elevation=-100:8"], "elevation"),
            (["--sweep", "azimuth=-8:8", "--light", "left"], "no --light"),
            (["--sweep", "azimuth=-8:8", "--light-azimuth", "3"], "does not move"),
            (["--sweep", "azimuth=-8:8", "--face", "all"], "one face"),
        ],
    )
    def test_mistakes(self, arguments, words, capsys):
        assert main(["relight", "me.png", *arguments]) == 2
        assert words in capsys.readouterr().err
        assert files() == {"me.png"}


class TestAnimate:
    def test_mp4_of_an_odd_size(self, landmarks_file, capsys):
        portrait().crop((0, 0, 199, 197)).save("odd.png")
        arguments = ["--landmarks", landmarks_file, "--seconds", "0.4", "--fps", "10"]
        assert main(["animate", "odd.png", *arguments, "-o", "turn.mp4"]) == 0
        with av.open("turn.mp4") as video:
            stream = video.streams.video[0]
            assert stream.codec_context.pix_fmt == "yuv420p"
            assert (stream.width, stream.height) == (200, 198)
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
        assert len(frames) == 4
        assert np.abs(frames[0].astype(int) - frames[2]).mean() > 1, "the head moves"
        (output,) = record("turn.json")["outputs"]
        assert output["frames"] == 4
        assert output["sha256"] == hashlib.sha256(Path("turn.mp4").read_bytes()).hexdigest()
        assert "\x1b" not in capsys.readouterr().err, "no progress bar where nobody looks"

    def test_default_name(self, landmarks_file):
        assert main(["animate", "me.png", "--landmarks", landmarks_file, "--seconds", "0.1"]) == 0
        assert files() == {"me.png", "outputs/me/me_turn.mp4", "outputs/me/me_turn.json"}

    def test_there_without_back(self, landmarks_file):
        arguments = ["--landmarks", landmarks_file, "--sweep", "yaw=-10:10:10", "--no-there-and-back"]
        assert main(["animate", "me.png", *arguments, "-o", "turn.webp"]) == 0
        with Image.open("turn.webp") as video:
            assert len(list(ImageSequence.Iterator(video))) == 3
        assert record("turn.json")["outputs"][0]["first"]["yaw"] == -10


class TestSwap:
    def test_without_consent_nothing_happens(self, capsys):
        before = files()
        assert main(["swap", "-s", "me.png", "-t", "other.png", "-o", "c.png"]) == 3
        error = capsys.readouterr().err
        assert "--consent" in error
        assert error.count("\n") == 1
        assert files() == before

    def test_with_consent(self, capsys):
        portrait(180).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("other.png")
        assert main(["replace", "-s", "me.png", "-t", "other.png", "-o", "c.png", "--consent", "--json"]) == 0
        content = record("c.json")
        assert content["source"]["sha256"] == hashlib.sha256(Path("me.png").read_bytes()).hexdigest()
        assert content["target"]["sha256"] == hashlib.sha256(Path("other.png").read_bytes()).hexdigest()
        assert content["consent"]["given"] is True
        assert "AI-altered" in content["altered"]
        assert pixels("c.png").shape == (180, 180, 3)
        assert not np.array_equal(pixels("c.png"), pixels("other.png"))
        line = json.loads(capsys.readouterr().out)
        assert line["files"] == ["c.png", "c.json"]
        assert main(["swap", "-s", "me.png", "-t", "other.png", "-o", "me.png", "--consent"]) == 2

    def test_default_names(self):
        assert main(["swap", "-s", "me.png", "-t", "me.png", "--consent"]) == 0
        assert files() == {"me.png", "outputs/me/me_swap.png", "outputs/me/me_swap.json"}


class TestTalk:
    def test_quiet_is_silent(self, capsys, landmarks_file):
        assert main(["rotate", "me.png", "--yaw", "20", "--landmarks", landmarks_file, "--quiet"]) == 0
        assert capsys.readouterr() == ("", "")

    def test_verbose_says_more(self, capsys, landmarks_file):
        assert main(["rotate", "me.png", "--yaw", "20", "--landmarks", landmarks_file, "-v"]) == 0
        assert "model: depthnet" in capsys.readouterr().err

    def test_json_is_the_record_in_one_line(self, capsys, landmarks_file):
        arguments = ["rotate", "me.png", "--yaw", "20", "--landmarks", landmarks_file, "-o", "x.png", "--json"]
        assert main(arguments) == 0
        line = json.loads(capsys.readouterr().out)
        assert line.items() >= record("x.json").items()
        assert line["input"] == "me.png"
        assert line["files"] == ["x.png", "x.json"]

    def test_warnings_are_said_and_written(self, capsys, landmarks_file):
        assert main(["rotate", "me.png", "--yaw", "80", "--landmarks", landmarks_file, "-o", "x.png"]) == 0
        (first, *_) = record("x.json")["warnings"]
        assert "a guess" in first
        assert first in capsys.readouterr().err


class TestModels:
    def test_list(self, capsys):
        assert main(["models", "list"]) == 0
        text = capsys.readouterr().out
        for name, entry in weights.REGISTRY.items():
            assert name in text
            assert entry.licence[:20] in text

    def test_list_for_programs(self, capsys):
        assert main(["models", "list", "--json"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["name"] for line in lines] == list(weights.REGISTRY)

    def test_info_path_verify(self, capsys):
        assert main(["models", "info", "depthnet"]) == 0
        assert "NeurIPS 2018" in capsys.readouterr().out
        assert main(["models", "path", "depthnet"]) == 0
        file = Path(capsys.readouterr().out.strip())
        assert file.is_file()
        assert main(["models", "verify", "depthnet"]) == 0
        assert hashlib.sha256(file.read_bytes()).hexdigest() in capsys.readouterr().err

    def test_a_changed_file_is_found(self, capsys, monkeypatch, tmp_path):
        (tmp_path / "w.bin").write_bytes(b"changed")
        changed = weights.Weights("depthnet", str(tmp_path / "w.bin"), "none", sha256="0" * 64)
        monkeypatch.setitem(weights.REGISTRY, "depthnet", changed)
        assert main(["models", "verify", "depthnet"]) == 2
        assert "changed" in capsys.readouterr().err
        assert main(["models", "verify"]) == 1

    def test_download_is_refused_offline(self, capsys, monkeypatch, tmp_path):
        monkeypatch.setenv("ABOUTFACE_OFFLINE", "1")
        monkeypatch.setenv("ABOUTFACE_HOME", str(tmp_path))
        assert main(["models", "download", "mediapipe-face-landmarker"]) == 2
        assert "ABOUTFACE_OFFLINE" in capsys.readouterr().err
        assert main(["models", "path", "mediapipe-face-landmarker"]) == 2
        assert "aboutface models download" in capsys.readouterr().err


class TestDoctor:
    def test_well(self, capsys):
        assert main(["doctor"]) == 0
        captured = capsys.readouterr()
        for word in ("Python", "torch", "thread", "dlib-landmarks", "GB free", "(numba) draws a square as", "within 0"):
            assert word in captured.out
        assert "BAD" not in captured.out
        assert "everything works" in captured.err

    def test_ill(self, capsys, monkeypatch):
        monkeypatch.setattr(sys.modules["aboutface.reconstruct"], "reconstructor", lambda _: None)
        assert main(["doctor", "--json"]) == 1
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["check"] for line in lines if line["ok"] is False] == ["reconstruction"]

    def test_the_extras_are_those_of_the_package(self):
        import tomllib

        from aboutface.cli.doctor import EXTRAS

        project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text("utf-8"))["project"]
        assert set(EXTRAS) == set(project["optional-dependencies"]) - {"all", "dev"}


class TestArguments:
    def test_values_with_a_minus(self):
        given = ["me.png", "--yaw", "-45,-30", "-o", "-", "--pitch", "-.5", "--relative", "-v"]
        assert join_values(given) == ["me.png", "--yaw=-45,-30", "-o", "-", "--pitch=-.5", "--relative", "-v"]

    @pytest.mark.parametrize(
        ("text", "angles"),
        [
            ("30", [30]),
            ("-45, 0,45", [-45, 0, 45]),
            ("-60:60:30", [-60, -30, 0, 30, 60]),
            ("60:-60:60", [60, 0, -60]),
            ("0:1:0.1", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
            ("0:10:4", [0, 4, 8]),
            ("0:30", [0, 15, 30]),
            ("5,-10:10:10", [5, -10, 0, 10]),
            ("−30°", [-30]),
        ],
    )
    def test_angles(self, text, angles):
        assert parse_angles(text, "yaw") == angles

    @pytest.mark.parametrize("text", ["", ",", "1,", "a", "inf", "200", "1:2:3:4", "0:180:1e-9", "1e400"])
    def test_bad_angles(self, text):
        with pytest.raises(UsageError, match="--yaw"):
            parse_angles(text, "yaw")

    def test_sweeps(self):
        sweep = parse_sweep("yaw=-40:40,pitch=10:-10:10")
        assert sweep.ends == {"yaw": (-40, 40), "pitch": (10, -10)}
        assert sweep.step == 10
        assert sweep.angles()["pitch"][0] == 10
        assert len(sweep.angles()["yaw"]) == len(sweep.angles()["pitch"]) == 9

    def test_faces_and_boxes(self):
        assert [parse_face(text) for text in ("largest", "all", "2")] == ["largest", "all", 2]
        assert parse_box("1,2.5,-3,4e1") == (1, 2.5, -3, 40)
        assert parse_box("box.txt") == "box.txt"
        with pytest.raises(UsageError):
            parse_face("-1")
