import json

import numpy as np
import pytest

from aboutface.detect import read_box, read_landmarks
from aboutface.errors import UsageError

POINTS = np.random.default_rng(0).uniform(10, 90, (68, 2)).round(3)


def lines(points) -> str:
    return "\n".join(f"{x} {y}" for x, y in points)


def test_all_formats_say_the_same(tmp_path):
    files = {
        "a.txt": "# x y\n" + lines(POINTS) + "\n\n",
        "comma.txt": "\n".join(f"{x}, {y}" for x, y in POINTS),
        "a.json": json.dumps({"identity": "x", "landmarks68": POINTS.tolist()}),
        "sidecar.json": json.dumps({"landmarks": POINTS.tolist(), "box": [1, 2, 3, 4]}),
        "several.json": json.dumps({"faces": [{"landmarks": POINTS.tolist(), "box": [1, 2, 3, 4]}]}),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    np.save(tmp_path / "a.npy", POINTS)
    np.savez(tmp_path / "one.npz", POINTS)
    np.savez(tmp_path / "named.npz", landmarks=POINTS, pose=np.zeros(3))
    for name in [*files, "a.npy", "one.npz", "named.npz"]:
        np.testing.assert_array_equal(read_landmarks(tmp_path / name), POINTS, err_msg=name)
        np.testing.assert_array_equal(read_landmarks(str(tmp_path / name)), POINTS, err_msg=name)
    np.testing.assert_array_equal(read_landmarks(POINTS), POINTS)


def test_the_first_pixel_of_a_pts_file_is_1_and_its_centre_is_ours_at_a_half(tmp_path):
    file = tmp_path / "a.pts"
    points = np.vstack([[1.0, 1.0], POINTS[1:]])
    file.write_text(f"version: 1\nn_points:  68\n{{\n{lines(points)}\n}}\n")
    read = read_landmarks(file)
    assert read[0].tolist() == [0.5, 0.5]
    np.testing.assert_allclose(read[1:], POINTS[1:] - 0.5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("five.txt", lines(POINTS[:5]), "expected 68 landmarks .* got 5 x 2"),
        ("three.txt", "\n".join("1 2 3" for _ in range(68)), "got 68 x 3"),
        ("ragged.txt", "1 2\n3\n", "each row of the same length"),
        ("words.txt", "left eye\n", "malformed"),
        ("nan.txt", lines(np.vstack([[np.nan, 1], POINTS[1:]])), "finite"),
        ("empty.txt", "", "expected 68 landmarks"),
        ("flat.txt", lines(POINTS * [1, 0]), "on one line"),
        ("open.pts", lines(POINTS), "braces"),
        ("cut.json", '{"landmarks": [[1, 2],', "malformed"),
        ("other.json", '{"points": []}', "entry named landmarks68 or landmarks"),
        ("null.json", "null", "finite"),
        ("bad.npy", "no array", "malformed"),
        ("bad.npz", "no archive", "malformed"),
        ("a.csv", "", "this kind of file"),
    ],
)
def test_what_cannot_be_landmarks_is_refused_in_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_landmarks(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_pickle_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"none\.txt: No such file"):
        read_landmarks(tmp_path / "none.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UsageError, match="directory"):
        read_landmarks(tmp_path / "folder.txt")
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="malformed"):
        read_landmarks(tmp_path / "pickle.npy")


def test_binary_text_is_refused(tmp_path):
    (tmp_path / "photo.txt").write_bytes(bytes(range(256)))
    with pytest.raises(UsageError, match="malformed"):
        read_landmarks(tmp_path / "photo.txt")


def test_boxes(tmp_path):
    (tmp_path / "a.txt").write_text("10 20 30 45.5\n")
    (tmp_path / "b.txt").write_text("10\n20\n30\n45.5\n")
    (tmp_path / "a.json").write_text('{"box": [10, 20, 30, 45.5], "landmarks": []}')
    (tmp_path / "b.json").write_text("[10, 20, 30, 45.5]")
    for source in [*sorted(tmp_path.iterdir()), (10, 20, 30, 45.5), np.array([10, 20, 30, 45.5])]:
        assert read_box(source) == (10, 20, 30, 45.5)


@pytest.mark.parametrize("box", [(10, 20, 30), (30, 20, 10, 40), (10, 20, 30, 20), (0, 0, float("inf"), 9), ("a",) * 4])
def test_what_cannot_be_a_box_is_refused(box):
    with pytest.raises(UsageError, match="box"):
        read_box(box)
