"""Synthetic faces: truth that fits together, the same bytes whatever happens, and a reader that notices damage."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from aboutface.cli import main
from aboutface.data import SyntheticFaces, open_examples
from aboutface.data.shards import write_tar
from aboutface.errors import UsageError
from aboutface.geometry import depth_normals, project, rotation_from_angles
from aboutface.images import encode_image
from aboutface.morphable import ICT_FILE, IctModel
from aboutface.recipes.synth.albedo import Look
from aboutface.recipes.synth.faces import FAR, FaceMaker, Shot
from aboutface.recipes.synth.generate import synth_faces
from aboutface.recipes.synth.settings import SynthSettings

SIZE = 64
SMALL = SynthSettings(n=10, size=16, shard=3, images_per_identity=2, split="train=0.6,test=0.4")


@pytest.fixture(scope="module")
def model_file(data):
    if not (data / ICT_FILE).is_file():
        pytest.skip(f"no {ICT_FILE} in {data}")
    return data / ICT_FILE


@pytest.fixture(scope="module")
def maker(model_file):
    return FaceMaker(IctModel.load(model_file), SIZE, seed=3)


@pytest.fixture(scope="module")
def made(maker):
    """A batch of 12 examples, as tensors by name."""
    examples = maker.examples([(i, i) for i in range(12)])
    return {name: torch.from_numpy(np.stack([example[name] for example in examples])) for name in examples[0]}


@pytest.fixture(scope="module")
def small(model_file, tmp_path_factory):
    """A set of ten images, made in this process."""
    folder = tmp_path_factory.mktemp("synth") / "small"
    synth_faces(folder, SMALL, model=str(model_file))
    return folder


def hashes(folder) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def inner(made) -> torch.Tensor:
    """(B, H, W): pixels of the head whose neighbours are of the head, too, and of no other depth."""
    outside = (~made["mask"]).float()[:, None]
    away = functional.max_pool2d(outside, 5, 1, 2)[:, 0] == 0
    depth = made["depth"][:, None]
    step = functional.max_pool2d(depth, 3, 1, 1) + functional.max_pool2d(-depth, 3, 1, 1)
    return away & (step[:, 0] < 0.012)


# ---- truth ----


def test_landmarks_lie_on_the_depth_map_where_they_are_visible(made, maker):
    points, pixels = made["landmarks3d"], made["landmarks"]
    torch.testing.assert_close(project(points, maker.K), pixels, rtol=0, atol=1e-3)
    column, row = pixels.floor().long().clamp(0, SIZE - 1).unbind(-1)
    shown = made["depth"][torch.arange(len(pixels))[:, None], row, column]
    behind, visible = points[..., 2] - shown, made["visible"]
    assert visible.float().mean() > 0.6
    # A pixel is 0.0027 wide, and its centre beside the landmark.
    assert behind[visible].abs().quantile(0.9) < 0.006
    inside = ((pixels > 0) & (pixels < SIZE)).all(-1)
    # Some of the hidden ones are just turned away, at the outline.
    assert behind[~visible & inside].median() > 4 * behind[visible].abs().median()
    assert (behind[~visible & inside] > 0.01).any()


def test_normals_are_those_of_the_depth(made, maker):
    expected = depth_normals(made["depth"], maker.K)
    cosine = (expected * made["normal"]).sum(1)[inner(made)].clamp(-1, 1)
    angle = torch.rad2deg(torch.acos(cosine))
    assert angle.median() < 2
    assert angle.quantile(0.9) < 9
    on, off = made["mask"], ~made["mask"]
    length = made["normal"].norm(dim=1)
    torch.testing.assert_close(length[on], torch.ones_like(length[on]), rtol=0, atol=1e-4)
    assert (length[off] == 0).all()


def test_albedo_under_the_light_is_the_image(made):
    light = made["light"]
    ambient, diffuse, direction = light[:, 0, None, None], light[:, 1, None, None], light[:, 2:, None, None]
    lambert = (made["normal"] * direction).sum(1).clamp_min(0)
    expected = (made["albedo"].float() * (ambient + diffuse * lambert)[..., None]).clamp(0, 255)
    error = (expected - made["image"].float()).abs().amax(-1)[inner(made)]
    # The image is the mean of nine samples per pixel, the albedo one.
    assert error.median() < 3
    assert error.quantile(0.9) < 12


def test_the_background_is_far_and_without_truth(made):
    on, off = made["mask"], ~made["mask"]
    assert (made["depth"][off] == FAR).all()
    assert (made["albedo"][off] == 0).all()
    assert made["depth"][on].min() > 0.9
    assert made["depth"][on].max() < FAR
    assert 0.4 < on.float().mean() < 0.85


def test_the_face_fills_three_quarters_of_the_height(made):
    upright = made["view"][:, :3].abs().amax(1) < 25
    marks = made["landmarks"][upright]
    # From nasion to chin, the face being 1.47 times as long.
    height = 1.47 * (marks[:, 8, 1] - marks[:, 27, 1]) / SIZE
    assert 0.6 < height.mean() < 0.85


def test_an_open_mouth_is_shallow(maker):
    names = maker.model.expression_names
    expression = np.zeros(len(names), np.float32)
    expression[names.index("jawOpen")] = 0.4
    changes = {"expression": expression, "yaw": 0.0, "pitch": 0.0, "roll": 0.0}
    example = one_shot(maker, **changes)
    lips = example["landmarks"][[62, 66]]
    column, row = lips.mean(0).astype(int)
    assert lips[1, 1] - lips[0, 1] > 2, "it is open"
    behind = (example["depth"][row, column] - example["landmarks3d"][[62, 66], 2].mean()) * example[
        "millimetres_per_unit"
    ]
    assert 3 < behind < 30


def test_the_mouth_is_seen_between_the_lips_only(made):
    inside = (made["albedo"].int() - torch.tensor([71, 23, 20])).abs().amax(-1) < 3
    item, row, column = inside.nonzero().unbind(1)
    assert len(item) > 10, "some mouths are open"
    lips = made["landmarks"][item, 48:60]
    pixel = torch.stack([column, row], -1) + 0.5
    assert (pixel > lips.amin(1) - 0.5).all()
    assert (pixel < lips.amax(1) + 0.5).all()


def one_shot(maker, **changes) -> dict[str, np.ndarray]:
    """One person, drawn with the same random numbers but for the changes."""
    random = np.random.default_rng(5)
    look, shot = Look.draw(random), Shot.draw(random, maker.model.expression_names)
    weights = torch.from_numpy(random.standard_normal((1, len(maker.model.identity))).astype(np.float32))
    shot = replace(shot, **({"expression": np.zeros_like(shot.expression)} | changes))
    vertices = maker._with_shallow_mouths(maker.model.vertices(weights, torch.from_numpy(shot.expression)[None]))[0]
    rest = vertices[maker.model.landmarks68]
    atlas = maker.painter.paint(look, np.random.default_rng(6))
    return maker._example(vertices, rest, shot, atlas, np.random.default_rng(7))


def test_the_view_is_the_transform_of_the_head(maker):
    still = one_shot(maker, yaw=0.0, pitch=0.0, roll=0.0, translation=(0.0, 0.0, 0.0))
    turned = one_shot(maker, yaw=25.0, pitch=-10.0, roll=5.0, translation=(0.004, -0.003, 0.0))
    pivot = torch.tensor([0.0, 0.0, 1.0])
    rotation = rotation_from_angles(25.0, -10.0, 5.0)
    expected = (
        (torch.from_numpy(still["landmarks3d"]) - pivot) @ rotation.T + pivot + torch.tensor([0.004, -0.003, 0.0])
    )
    torch.testing.assert_close(torch.from_numpy(turned["landmarks3d"]), expected, rtol=0, atol=1e-5)
    assert turned["landmarks"][30, 0] > still["landmarks"][30, 0] + 3, "+yaw turns to the image's right"
    nasion_to_chin = still["landmarks3d"][8] - still["landmarks3d"][27]
    length = np.linalg.norm(nasion_to_chin) * still["millimetres_per_unit"]
    assert 90 < length < 140, "millimetres"


def test_light_comes_from_where_it_is_said_to(maker):
    still = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "translation": (0.0, 0.0, 0.0), "ambient": 0.3, "diffuse": 0.7}
    left = one_shot(maker, **still, direction=(-0.7, 0.0, -0.714))
    right = one_shot(maker, **still, direction=(0.7, 0.0, -0.714))
    mask = left["mask"]
    half = np.arange(SIZE) < SIZE // 2
    difference = (left["image"].astype(float) - right["image"]).mean(-1)
    assert difference[:, half][mask[:, half]].mean() > 10
    assert difference[:, ~half][mask[:, ~half]].mean() < -10
    assert np.array_equal(left["albedo"], right["albedo"]), "albedo does not know the light"


def test_what_is_drawn_follows_the_card():
    shots = [Shot.draw(np.random.default_rng(i), ["jawOpen", "mouthSmile_L"]) for i in range(1000)]
    yaw, pitch = np.array([shot.yaw for shot in shots]), np.array([shot.pitch for shot in shots])
    assert 17 < yaw.std() < 22
    assert np.abs(yaw).max() <= 60
    assert abs(yaw.mean()) < 2
    assert 8.5 < pitch.std() < 11
    assert np.abs(pitch).max() <= 30
    direction = np.array([shot.direction for shot in shots])
    np.testing.assert_allclose(np.linalg.norm(direction, axis=1), 1, atol=1e-6)
    # Unsup3d's dy from -0.3 to 0.8 is light from above, which is -y.
    slope = direction[:, 1] / -direction[:, 2]
    assert slope.min() > -0.81
    assert slope.max() < 0.31
    assert abs(slope.mean() + 0.25) < 0.05
    assert all(shot.expression.min() >= 0 and shot.expression.max() <= 0.55 for shot in shots)


def test_an_example_does_not_depend_on_the_others(maker, made):
    alone = maker.examples([(7, 7)])[0]
    assert np.abs(alone["depth"] - made["depth"][7].numpy()).max() < 1e-5
    assert (alone["image"] == made["image"][7].numpy()).mean() > 0.999


def test_people_look_unlike_each_other(maker):
    atlases = torch.stack([maker.painter.paint(Look.draw(r), r) for r in map(np.random.default_rng, range(6))])
    skin = atlases.flatten(2)[:, :, maker.painter.moles_at].mean(-1)
    assert skin.mean(1).std() > 0.05, "skin tones are spread"
    assert (skin[:, 0] > skin[:, 2]).all(), "skin is redder than blue"
    cheek = atlases[0].flatten(1)[:, maker.painter.moles_at]
    assert cheek.std() > 0.01, "skin is not of one colour"


# ---- sets ----


def test_splits_share_nobody():
    settings = SynthSettings(n=101, images_per_identity=4)
    ranges = settings.ranges()
    assert sum(map(len, ranges.values())) == 101
    people = {name: {image // 4 for image in images} for name, images in ranges.items()}
    assert not people["train"] & people["val"]
    assert not people["val"] & people["test"]
    assert not people["train"] & people["test"]
    assert len(people["train"]) == 21
    assert all(len(images) for images in SynthSettings(n=3).ranges().values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "--n 0: expected at least 1"),
        ({"size": 8}, "--size 8: expected at least 16"),
        ({"split": "train=0.5,test=0.4"}, "add up to 1"),
        ({"split": "train=1,other=0"}, "add up to 1"),
        ({"split": "train=0.5,train=0.5"}, "add up to 1"),
        ({"split": "all"}, "add up to 1"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        SynthSettings(**options)


def test_too_few_people_are_refused():
    with pytest.raises(UsageError, match="2 people are too few for 3 splits"):
        SynthSettings(n=10, images_per_identity=5).ranges()


def test_killed_and_continued_it_has_the_same_bytes(small, model_file, tmp_path):
    # The killed run has two processes, what continues it has one, as the run to compare with.
    options = "--n 10 --size 16 --shard 3 --images-per-identity 2 --split train=0.6,test=0.4 --workers 2 --quiet"
    command = [sys.executable, "-m", "aboutface", "data", "synth", "faces", *options.split()]
    target = tmp_path / "killed"
    process = subprocess.Popen([*command, "--model", str(model_file), "--out", str(target)], start_new_session=True)
    while not list(target.glob("*/0*.tar")) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = [path for path in hashes(target) if path.endswith(".tar") and "/0" in path]
    assert kept
    for half in ("train/.aboutface-0123456789abcdef.tar", ".aboutface-0123456789abcdef.json"):
        (target / half).write_bytes(b"half a file")
    synth_faces(target, SMALL, model=str(model_file))
    assert hashes(target) == hashes(small)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="this system has no such signals")
def test_ctrl_c_ends_shards_that_would_take_an_hour(model_file, tmp_path):
    target = tmp_path / "out"
    # Where this test runs in the background, Ctrl-C is off.
    program = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from aboutface.cli import main\nif __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n"
    (tmp_path / "program.py").write_text(program)
    options = f"--n 200000 --size 16 --shard 100000 --split train=1 --workers 2 --model {model_file} --out {target}"
    command = [sys.executable, str(tmp_path / "program.py"), "data", "synth", "faces", *options.split()]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while len(list(target.glob("train/.aboutface-*"))) < 2 and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "what is done is kept" in error
    assert "Traceback" not in error
    assert sorted(hashes(target)) == ["README.md", "card.json"], "no half file is left"


def test_finished_work_is_not_repeated(small, model_file):
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*.tar")}
    synth_faces(small, SMALL, model=str(model_file))
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*.tar")} == before


def test_other_settings_need_overwrite(small, model_file, tmp_path):
    with pytest.raises(UsageError, match=r"holds faces made with seed 0 instead of 1.*--overwrite"):
        synth_faces(small, replace(SMALL, seed=1), model=str(model_file))


@pytest.mark.parametrize("name", ["train/000000.tar", "000000.tar", "README.md", "card.json"])
def test_what_others_made_is_not_overwritten(model_file, tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=rf"holds {name} of something else; name another folder$"):
            synth_faces(tmp_path, SMALL, model=str(model_file), overwrite=overwrite)
    assert [other for other in tmp_path.rglob("*") if other.is_file()] == [path]
    assert path.read_bytes() == b"mine"


def test_overwrite_makes_another_set(model_file, tmp_path):
    one = SynthSettings(n=2, size=16, shard=1, split="train=1")
    synth_faces(tmp_path, one, model=str(model_file))
    first = hashes(tmp_path)
    synth_faces(tmp_path, replace(one, n=1, seed=1), model=str(model_file), overwrite=True)
    assert not (tmp_path / "train" / "000001.tar").exists()
    assert hashes(tmp_path)["train/000000.tar"] != first["train/000000.tar"], "another seed, another face"


def test_the_command_says_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ABOUTFACE_DATA", raising=False)
    assert main(["data", "synth", "faces", "--out", str(tmp_path)]) == 2
    assert "ABOUTFACE_DATA" in capsys.readouterr().err
    assert main(["data", "synth", "faces", "--model", str(tmp_path / "none.npz"), "-o", str(tmp_path)]) == 2
    assert "ICT-FaceKit" in capsys.readouterr().err


# ---- reading ----


def test_the_reader_gives_back_what_was_made(small, model_file):
    maker = FaceMaker(IctModel.load(model_file), SMALL.size, SMALL.seed)
    expected = maker.examples([(i, i // 2) for i in range(3)])
    faces = SyntheticFaces.open(small / "train")
    assert len(faces) == 6
    for i, truth in enumerate(expected):
        example = faces[i]
        for name in ("image", "albedo", "mask", "visible"):
            assert (getattr(example, name) == truth[name]).mean() > 0.999, name
        assert np.abs(example.depth - truth["depth"]).max() < 1e-5
        assert np.abs(example.normal - truth["normal"]).max() < 1e-3
        for name in ("view", "light", "landmarks", "landmarks3d"):
            np.testing.assert_allclose(getattr(example, name), truth[name], atol=1e-4, err_msg=name)
    tensors = faces.tensors(5)
    assert tensors["image"].shape == (5, 3, 16, 16)
    assert tensors["normal"].shape == (5, 3, 16, 16)
    assert tensors["identity"] == ["00000000", "00000000", "00000001", "00000001", "00000002"]
    assert torch.equal(tensors["image"][4], torch.from_numpy(faces[4].image).movedim(-1, 0))
    torch.testing.assert_close(tensors["K"], maker.K)
    few = faces.tensors(2, ["depth"])
    assert few.keys() == {"depth", "identity", "K"}
    assert torch.equal(few["depth"], tensors["depth"][:2])


def test_other_readers_see_pictures_landmarks_people_and_masks(small):
    example = open_examples(small / "train")[1]
    truth = SyntheticFaces.open(small / "train")[1]
    assert example.landmarks is not None
    assert example.mask is not None
    assert example.pose is not None
    np.testing.assert_allclose(example.landmarks, truth.landmarks)
    np.testing.assert_allclose(example.pose, truth.view[:3])
    assert np.array_equal(example.mask > 0, truth.mask)
    assert example.identity == truth.identity
    assert main(["data", "check", str(small), "--slack", "2", "--quiet"]) == 0


def test_a_truncated_shard_is_refused(small, tmp_path):
    content = (small / "train" / "000000.tar").read_bytes()
    (tmp_path / "000000.tar").write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match="truncated or damaged"):
        SyntheticFaces.open(tmp_path)


def test_damaged_truth_is_refused(small, tmp_path):
    """Wrong bytes in the packed arrays, and arrays of another size than the picture."""
    with tarfile.open(small / "train" / "000000.tar") as tar:
        names = [name for name in tar.getnames() if name.startswith("00000000.")]
        members = {name: (tar.extractfile(name) or io.BytesIO()).read() for name in names}
    random, whole = np.random.default_rng(0), members["00000000.npz"]
    for _ in range(40):
        broken = bytearray(whole)
        broken[random.integers(len(whole))] ^= 1 << random.integers(8)
        write_tar(tmp_path / "a.tar", (members | {"00000000.npz": bytes(broken)}).items())
        faces = SyntheticFaces.open(tmp_path / "a.tar")
        with suppress(UsageError):  # some bytes mean nothing
            assert faces[0].depth.shape == (16, 16)
    with np.load(io.BytesIO(whole)) as file:
        arrays = {name: file[name] for name in file.files}
    other = io.BytesIO()
    np.savez_compressed(other, **(arrays | {"albedo": arrays["albedo"][:8, :8]}))
    write_tar(tmp_path / "a.tar", (members | {"00000000.npz": other.getvalue()}).items())
    with pytest.raises(UsageError, match=r"albedo is \(8, 8, 3\), expected \(16, 16, 3\)"):
        SyntheticFaces.open(tmp_path / "a.tar").tensors()


def test_pictures_without_truth_are_refused(tar_without_truth):
    with pytest.raises(UsageError, match="has no truth beside it"):
        SyntheticFaces.open(tar_without_truth)
    with pytest.raises(UsageError, match="no synthetic faces are in it"):
        SyntheticFaces.open(tar_without_truth.parent / "empty")


@pytest.fixture
def tar_without_truth(tmp_path):
    (tmp_path / "empty").mkdir()
    write_tar(tmp_path / "a.tar", [("a.png", encode_image(np.zeros((16, 16, 3), np.uint8)))])
    return tmp_path / "a.tar"
