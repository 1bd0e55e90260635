"""Every kind of place that holds pictures, whole and broken."""

import io
import tarfile

import numpy as np
import pytest
import torch
from conftest_data import add, jpeg, made_landmarks, points_of, put
from PIL import Image

from aboutface.data import load_landmarks, open_examples
from aboutface.errors import PhotoError, UsageError


def test_a_tar_is_read_without_unpacking_and_gives_what_was_put_in(tar_of_ten):
    examples = open_examples(tar_of_ten)
    assert len(examples) == 10
    assert examples.bad == {}
    example = examples[7]
    assert example.key == "ten.tar/k7"
    assert np.array_equal(example.pixels, np.asarray(Image.open(io.BytesIO(jpeg(7, 64)))))
    assert np.allclose(points_of(example), made_landmarks(yaw=7), atol=1e-4)
    assert examples.identities == [f"p{i % 3}" for i in range(10)]


def test_equal_names_in_nested_folders_stay_apart(people):
    examples = open_examples(people)
    keys = [examples[i].key for i in range(len(examples))]
    assert len(set(keys)) == 12
    assert keys[0] == "person0/photo 0"


def test_folder_rule_and_lfw_rule_name_people(people, tmp_path):
    assert open_examples(people, "folder").identities == [f"person{i // 3}" for i in range(12)]
    put(tmp_path / "lfw", "Jean-Luc_Picard_0012.jpg", 1)
    put(tmp_path / "lfw", "Madonna_0001.jpg", 2)
    put(tmp_path / "lfw", "000017.jpg", 3)
    assert open_examples(tmp_path / "lfw").identities == [None, "Jean-Luc_Picard", "Madonna"]
    put(tmp_path / "camera", "IMG_0001.jpg", 1)
    assert open_examples(tmp_path / "camera").identities == [None]


def test_list_glob_single_picture_and_several_sources(people, tmp_path, tar_of_ten):
    paths = sorted(people.rglob("*.jpg"))
    (tmp_path / "list.txt").write_text(f"# mine\n{paths[0].relative_to(tmp_path)}\n\nten.tar\nnowhere.jpg\n")
    listed = open_examples(tmp_path / "list.txt")
    assert len(listed) == 11
    assert list(listed.bad) == ["nowhere.jpg"]
    assert listed[0].landmarks is not None
    assert len(open_examples(f"{people}/*/photo 1.jpg")) == 4
    assert len(open_examples(paths[3])) == 1
    both = open_examples([people, tar_of_ten])
    assert len({both[i].key for i in range(len(both))}) == 22


def test_a_folder_in_a_folder_of_its_name_stays_apart(tmp_path, monkeypatch):
    put(tmp_path, "p/x.jpg", 1)
    put(tmp_path, "p/p/x.jpg", 2)
    monkeypatch.chdir(tmp_path)
    assert [entry.name for entry in open_examples(["p"]).entries] == ["p/p/x.jpg", "p/x.jpg"]


def test_an_empty_tar_is_named_in_a_true_sentence(tmp_path):
    (tmp_path / "zero.tar").write_bytes(b"")
    with pytest.raises(UsageError, match=r"\(zero\.tar: the tar is truncated or damaged \(empty file\)\)"):
        open_examples(tmp_path)


@pytest.mark.parametrize("damage", ["member", "boundary", "header"])
def test_a_broken_tar_gives_what_precedes_the_damage_and_is_named(tar_of_ten, damage):
    with tarfile.open(tar_of_ten) as tar:
        sixth = tar.getmember("k6.jpg")
    content = bytearray(tar_of_ten.read_bytes())
    if damage == "member":
        content = content[: sixth.offset_data + 100]
    elif damage == "boundary":
        content = content[: sixth.offset]
    else:
        content[sixth.offset : sixth.offset + 512] = b"x" * 512
    tar_of_ten.write_bytes(content)
    examples = open_examples(tar_of_ten)
    assert [examples[i].key for i in range(len(examples))] == [f"ten.tar/k{i}" for i in range(6)]
    assert list(examples.bad) == ["ten.tar"]
    assert "truncated or damaged" in examples.bad["ten.tar"]


@pytest.mark.parametrize("content", [b"", b"this is a text", None])
def test_bad_pictures_are_named(tmp_path, content):
    data = jpeg(0)[:900] if content is None else content
    put(tmp_path, "a.jpg", 1).write_bytes(data)
    with pytest.raises(PhotoError, match=r"^a\.jpg: "):
        open_examples(tmp_path)[0]


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (made_landmarks()[:66].tolist(), "aboutface.geometry.landmarks_68_from_66"),
        ([*made_landmarks()[:67].tolist(), [float("nan"), 1.0]], "1 of 68 points are NaN"),
        (made_landmarks()[:5].tolist(), "got 5 x 2"),
        ("many", "68 pairs of numbers"),
        ([[1, 2], [3]], "68 pairs of numbers"),
        ([[10**400, 1]] * 68, "68 pairs of numbers"),
        ([[1e300, 1]] * 68, "68 of 68 points are NaN or infinite"),
        ([[i, 100] for i in range(68)], "in one line"),
        ([[i, i + i % 2 / 10] for i in range(68)], "in one line"),
    ],
)
def test_bad_landmarks_say_what_to_do(tmp_path, points, words):
    put(tmp_path, "a.jpg", 1, landmarks68=points)
    with pytest.raises(UsageError, match=words):
        open_examples(tmp_path)[0]


def test_points_outside_the_picture_are_kept(tmp_path):
    points = made_landmarks(centre=(-20, 190))
    put(tmp_path, "a.jpg", 1, landmarks68=points.tolist())
    assert np.allclose(points_of(open_examples(tmp_path)[0]), points, atol=1e-4)


def test_broken_json_and_pose_are_errors_of_that_example(tmp_path):
    put(tmp_path, "a.jpg", 1).with_suffix(".json").write_text("{")
    put(tmp_path, "b.jpg", 2).with_suffix(".json").write_text("[1]")
    put(tmp_path, "c.jpg", 3, pose={"yaw": float("nan"), "pitch": 0, "roll": 0})
    put(tmp_path, "d.jpg", 4).with_suffix(".json").write_text("[" * 100_000)
    put(tmp_path, "e.jpg", 5, quality=0.5)
    put(tmp_path, "f.jpg", 6, quality={"sharpness": "good"})
    put(tmp_path, "g.jpg", 7, quality={"sharpness": float("nan")})
    put(tmp_path, "h.jpg", 8)
    examples = open_examples(tmp_path)
    errors = ["cannot be read", "expected an object", "finite degrees", "cannot be read"]
    for index, words in enumerate([*errors, "numbers by name", "numbers by name", "finite numbers"]):
        with pytest.raises(UsageError, match=words):
            examples[index]
    assert examples[7].key == "h"
    assert examples.identities == [None] * 8


def test_a_place_without_pictures_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "note.txt").write_text("no picture")
    (tmp_path / "data.tar.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "x.tar").write_bytes(b"not a tar at all" * 100)
    for place, words in [("empty", "no pictures"), ("nowhere", "nothing is there"), ("data.tar.gz", "not compressed")]:
        with pytest.raises(UsageError, match=words):
            open_examples(tmp_path / place)
    with pytest.raises(UsageError, match="truncated or damaged"):
        open_examples(tmp_path / "x.tar")


def test_two_members_of_one_name_are_reported(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        add(tar, "a.jpg", jpeg(1))
        add(tar, "a.jpg", jpeg(2))
    examples = open_examples(tmp_path / "t.tar")
    assert len(examples) == 1
    assert np.array_equal(examples[0].pixels, np.asarray(Image.open(io.BytesIO(jpeg(1)))))
    assert list(examples.bad) == ["t.tar/a.jpg"]


def test_the_project_data_is_read(data):
    assert len(open_examples(data / "lfw150-train.tar")) == 5884
    faces = open_examples(data / "ytf68-train.tar")
    assert len(faces) == 2979
    assert len(set(faces.identities)) == 300
    example = faces[1234]
    assert example.landmarks is not None
    assert max(example.pixels.shape) <= 208
    assert open_examples(data / "lfw150-train.tar").identities[0] == "AJ_Lamas"


def test_landmark_files_of_the_project(data):
    deep = load_landmarks(data / "aflw2000-3d-landmarks.npz")
    assert deep.points.shape[1:] == (68, 3)
    assert deep.dropped["yaw beyond 90 degrees"] == 1700 - len(deep.points)
    # z is forward: the nose tip of a face that is no profile is nearer to the camera than the jaw's ends.
    assert deep.yaw is not None
    faces = deep.points[deep.yaw.abs() < 60]
    assert len(faces) > 1000
    assert (faces[:, 30, 2] < faces[:, [0, 16], 2].mean(1)).all()
    flat = load_landmarks(data / "aflw-21-landmarks.npz")
    assert flat.points.shape[1:] == (21, 2)
    assert 0.5 < flat.visible.float().mean() < 0.95
    assert (flat.points[flat.visible] > -1).float().mean() > 0.99
    assert torch.equal(flat.visible, (flat.points != -1).all(-1))


def test_landmark_files_leave_out_nan_and_name_the_converter(tmp_path):
    points = np.stack([made_landmarks(yaw=y) for y in range(4)])
    points[2, 5, 1] = np.nan
    np.savez(tmp_path / "mine.npz", landmarks=points)
    mine = load_landmarks(tmp_path / "mine.npz")
    assert mine.dropped["not finite"] == 1
    assert np.array_equal(mine.points.numpy(), points[[0, 1, 3]])
    np.savez(tmp_path / "short.npz", points=points[:, :66])
    with pytest.raises(UsageError, match="landmarks_68_from_66"):
        load_landmarks(tmp_path / "short.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    np.save(tmp_path / "plain.npy", points)
    np.savez_compressed(tmp_path / "bent.npz", points=points)
    bent = bytearray((tmp_path / "bent.npz").read_bytes())
    bent[200:260] = bytes(60)
    (tmp_path / "bent.npz").write_bytes(bent)
    for name in ("broken.npz", "plain.npy", "bent.npz"):
        with pytest.raises(UsageError, match=r"cannot be read as \.npz"):
            load_landmarks(tmp_path / name)
