"""`data prepare`: what is kept is right, what is dropped is named, and stopping changes nothing."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest_data import add, jpeg, made_landmarks, mask_of, points_of, put, side_of
from PIL import Image

from aboutface.data import check, open_examples, repack, stats
from aboutface.data.crop import cut, face_mask
from aboutface.data.quality import NearHashes, measure, perceptual_hash
from aboutface.data.shards import ShardWriter, safe_key
from aboutface.errors import OutputError, UsageError
from aboutface.geometry import apply
from aboutface.recipes.prepare import CHUNK, PARTS, PrepareSettings, prepare

SMALL = PrepareSettings(size=64, shard=5)


def dropped(target: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (target / "dropped.jsonl").read_text().splitlines()]
    assert all(row["message"].startswith(row["name"]) for row in rows)
    return {row["name"]: row["reason"] for row in rows}


def shards(target: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(target.glob("*.tar"))}


def test_crops_landmarks_poses_and_identities_are_right(people, tmp_path):
    report = prepare(people, tmp_path / "out", PrepareSettings(size=64, shard=5, identity="folder"))
    assert (report["kept"], report["dropped"], report["identities"]) == (12, {}, 4)
    assert [shard["examples"] for shard in report["shards"]] == [5, 5, 2]
    made, before = open_examples(tmp_path / "out"), open_examples(people)
    for index in range(12):
        example, record = made[index], side_of(made.entries[index])
        assert record["source"] == before.entries[index].name
        assert example.identity == f"person{index // 3}"
        assert example.pose == pytest.approx((-30 + 6 * index, 5, -4), abs=0.05)
        photo_from_crop = torch.tensor(record["photo_from_crop"], dtype=torch.float64)
        back = apply(photo_from_crop, torch.tensor(points_of(example)).double())
        assert np.abs(back.numpy() - points_of(before[index])).max() < 0.01
        assert example.pixels.shape == (64, 64, 3)
        assert (mask_of(example)[[0, 63], [0, 63]] == 0).all()
        assert all(mask_of(example)[int(y), int(x)] == 255 for x, y in points_of(example)[27:68])
    assert sum(report["pose"]["yaw"]) == sum(report["pose"]["roll"]) == 12
    assert report["pose"]["yaw"][report["pose"]["edges"].index(30)] == 2  # 30 and 36 degrees
    assert list(check(tmp_path / "out")) == []
    assert (tmp_path / "out" / "contact.jpg").stat().st_size > 1000
    assert (tmp_path / "out" / "poses.png").stat().st_size > 1000
    assert not (tmp_path / "out" / PARTS).exists()


def test_every_dropped_photo_has_its_reason(people, tmp_path):
    good = made_landmarks()
    (people / "zero.jpg").write_bytes(b"")
    (people / "text.jpg").write_text("no picture")
    (people / "half.jpg").write_bytes(jpeg(50)[:2000])
    put(people, "nan.jpg", 51, landmarks68=[[float("nan"), 1.0]] * 68)
    put(people, "few.jpg", 52, landmarks68=good[:66].tolist())
    put(people, "away.jpg", 53, landmarks68=(good + 500).tolist())
    put(people, "tiny.jpg", 54, landmarks68=(100 + (good - 100) / 5).tolist())
    put(people, "turned.jpg", 55, landmarks68=made_landmarks(yaw=50).tolist())
    put(people, "point.jpg", 56, landmarks68=[[5.0, 5.0]] * 68)
    put(people, "line.jpg", 58, landmarks68=[[20 + 2 * i, 30.1 + 2 * i] for i in range(68)])
    put(people, "edge.jpg", 57, landmarks68=made_landmarks(centre=(20, 20)).tolist())
    put(people, "again.jpg", 4, landmarks68=good.tolist())  # the pixels of person1/photo 1.jpg
    (people / "notes.md").write_text("hello")
    settings = PrepareSettings(size=64, max_yaw=45, near=0)
    report = prepare(people, tmp_path / "out", settings)
    assert dropped(tmp_path / "out") == {
        "zero.jpg": "unreadable",
        "text.jpg": "unreadable",
        "half.jpg": "unreadable",
        "nan.jpg": "side-file",
        "few.jpg": "side-file",
        "away.jpg": "outside",
        "tiny.jpg": "small-face",
        "turned.jpg": "turned",
        "point.jpg": "side-file",
        "line.jpg": "side-file",
        "person1/photo 1.jpg": "duplicate",
    }
    assert "landmarks_68_from_66" in (tmp_path / "out" / "dropped.jsonl").read_text()
    assert report["photos"] == 24
    assert report["kept"] == 13
    assert report["ignored"] == {".md": 1}
    assert list(check(tmp_path / "out")) == []


def test_a_broken_tar_among_the_photos_is_named_and_the_rest_is_used(people, tmp_path):
    with tarfile.open(people / "more.tar", "w") as tar:
        for index in range(3):
            add(tar, f"a.{index}.jpg", jpeg(90 + index))
            add(tar, f"a.{index}.json", json.dumps({"landmarks68": made_landmarks().tolist()}).encode())
    content = (people / "more.tar").read_bytes()
    with tarfile.open(people / "more.tar") as tar:
        (people / "more.tar").write_bytes(content[: tar.getmember("a.2.jpg").offset_data + 700])
    report = prepare(people, tmp_path / "out", SMALL)
    assert report["kept"] == 14
    assert dropped(tmp_path / "out") == {"more.tar": "damaged"}


@pytest.mark.parametrize("kind", ["folder", "list"])
def test_an_empty_source_is_refused_and_nothing_is_written(tmp_path, kind):
    (tmp_path / "src").mkdir()
    (tmp_path / "list.txt").write_text("")
    with pytest.raises(UsageError, match="no pictures"):
        prepare(tmp_path / ("src" if kind == "folder" else "list.txt"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_where_no_face_is_kept_the_report_says_so(tmp_path):
    put(tmp_path / "src", "a.jpg", 1, landmarks68=(made_landmarks() / 20).tolist())
    report = prepare(tmp_path / "src", tmp_path / "out", SMALL)
    assert (report["kept"], report["shards"], report["dropped"]) == (0, [], {"small-face": 1})


def test_two_processes_write_the_bytes_of_one(people, tmp_path):
    for index in range(CHUNK):
        put(people, f"z/{index}.jpg", 100 + index, landmarks68=made_landmarks(yaw=index).tolist())
    one = prepare(people, tmp_path / "one", SMALL)
    two = prepare(people, tmp_path / "two", SMALL, workers=2)
    assert one == two
    assert len(shards(tmp_path / "one")) == 9
    assert shards(tmp_path / "one") == shards(tmp_path / "two")
    for name in ("dropped.jsonl", "duplicates.jsonl", "report.json", "contact.jpg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


PROGRAM = """
import sys
from aboutface.recipes.prepare import PrepareSettings, prepare
if __name__ == "__main__":
    prepare(sys.argv[1], sys.argv[2], PrepareSettings(size=64, shard=5), workers=2)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
def test_kill_9_and_run_again_gives_the_bytes_of_an_unbroken_run(tmp_path):
    source, killed, unbroken = tmp_path / "src", tmp_path / "killed", tmp_path / "unbroken"
    for index in range(4 * CHUNK):
        put(source, f"{index}.jpg", index, 500, landmarks68=made_landmarks(yaw=index % 40, scale=1.0).tolist())
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen([sys.executable, tmp_path / "program.py", source, killed])
    deadline = time.monotonic() + 60
    while not list(killed.glob(f"{PARTS}/*/[0-9]*.tar")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    workers = _children(process.pid)
    process.kill()
    process.wait()
    while any(Path(f"/proc/{pid}/task").exists() for pid in workers):
        assert time.monotonic() < deadline, "workers outlive the killed parent"
        time.sleep(0.01)
    assert not (killed / "report.json").exists(), "it was too quick to be killed"
    assert shards(killed) == {}
    # What the workers were at is finished whole or not there.
    kept = sorted(killed.glob(f"{PARTS}/*/[0-9]*.tar"))
    assert 1 <= len(kept) < 4
    half = kept[0].with_name(".aboutface-0123456789abcdef.tar")
    half.write_bytes(b"what a killed process was writing")
    (killed / half.name).write_bytes(b"here, too")
    times = [path.stat().st_mtime_ns for path in kept]
    calls = []
    resumed = prepare(source, killed, SMALL, progress=lambda done, of: calls.append((done, of, _times(kept))))
    assert calls[0][0] >= (len(kept) + 1) * CHUNK, "finished parts were done again"
    assert calls[0][2] == times
    assert resumed == prepare(source, unbroken, SMALL)
    assert shards(killed) == shards(unbroken)
    assert len(shards(killed)) == -(-4 * CHUNK // 5)
    assert not (killed / half.name).exists()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no process groups")
def test_ctrl_c_while_workers_start_makes_no_noise_and_no_half_file(tmp_path):
    source, target = tmp_path / "src", tmp_path / "out"
    for index in range(2 * CHUNK):
        put(source, f"{index}.jpg", index, landmarks68=made_landmarks().tolist())
    # Where this test runs in the background, Ctrl-C is off.
    (tmp_path / "program.py").write_text(
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)" + PROGRAM
    )
    program = [sys.executable, tmp_path / "program.py", source, target]
    process = subprocess.Popen(program, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(_children(process.pid)) < 3 and not target.exists():  # two workers, and Python's own helper of them
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(0.4)  # they are at their imports now; Ctrl-C goes to all of the group
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate()[1]
    assert error.count("Traceback") == 1, error
    assert process.returncode != 0
    assert not [path for path in target.rglob("*") if path.is_file() and not path.name[0].isdigit()]


def _children(pid: int) -> list[str]:
    """Process ids, where the system tells them."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return file.read_text().split() if file.exists() else []


def _times(paths):
    return [path.stat().st_mtime_ns for path in paths]


def test_stopped_between_shards_leaves_whole_shards_and_goes_on(people, tmp_path, monkeypatch):
    whole = prepare(people, tmp_path / "whole", SMALL)
    real = ShardWriter.finish

    def stopped(self):
        if self.shards:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(ShardWriter, "finish", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare(people, tmp_path / "out", SMALL)
    assert list(shards(tmp_path / "out")) == ["000000.tar"]
    monkeypatch.undo()
    assert prepare(people, tmp_path / "out", SMALL) == whole
    assert shards(tmp_path / "out") == shards(tmp_path / "whole")


def test_the_same_work_is_not_done_twice_and_other_work_is_not_overwritten(people, tmp_path, monkeypatch):
    first = prepare(people, tmp_path / "out", SMALL)
    monkeypatch.setattr(sys.modules["aboutface.recipes.prepare"], "prepare_chunk", None)
    assert prepare(people, tmp_path / "out", SMALL) == first
    monkeypatch.undo()
    before = shards(tmp_path / "out")
    with pytest.raises(UsageError, match="--overwrite"):
        prepare(people, tmp_path / "out", PrepareSettings(size=32))
    put(people, "new.jpg", 77, landmarks68=made_landmarks().tolist())
    with pytest.raises(UsageError, match="--overwrite"):
        prepare(people, tmp_path / "out", SMALL)
    assert shards(tmp_path / "out") == before
    assert prepare(people, tmp_path / "out", PrepareSettings(size=32), overwrite=True)["kept"] == 13
    assert list(shards(tmp_path / "out")) == ["000000.tar"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "000000.tar").write_bytes(b"my own")
    with pytest.raises(UsageError, match="holds shards of another source"):
        prepare(people, tmp_path / "mine", SMALL)
    assert (tmp_path / "mine" / "000000.tar").read_bytes() == b"my own"


def test_source_and_target_are_apart(people, tmp_path):
    with pytest.raises(UsageError, match="inside the source"):
        prepare(people, people / "out", SMALL)
    prepare(people, tmp_path / "out", SMALL)
    before = shards(tmp_path / "out")
    for source in (tmp_path / "out" / "000000.tar", f"{tmp_path}/out/*.tar", tmp_path / "out"):
        for work in (prepare, repack):
            with pytest.raises(UsageError, match=r"inside the source|files of the source"):
                work(source, tmp_path / "out", overwrite=True)
    assert shards(tmp_path / "out") == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is no folder"):
        prepare(people, tmp_path / "file", SMALL)


@pytest.mark.parametrize("gone", ["000001.tar", "dropped.jsonl"])
def test_finished_work_of_which_a_file_is_gone_is_done_again(people, tmp_path, gone):
    report = prepare(people, tmp_path / "out", SMALL)
    before = shards(tmp_path / "out")
    (tmp_path / "out" / gone).unlink()
    assert prepare(people, tmp_path / "out", SMALL) == report
    assert shards(tmp_path / "out") == before
    assert dropped(tmp_path / "out") == {}


def test_pictures_of_replaced_work_go_with_it(people, tmp_path):
    prepare(people, tmp_path / "out", SMALL)
    prepare(people, tmp_path / "out", PrepareSettings(min_face=999), overwrite=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.json", "dropped.jsonl", "duplicates.jsonl"}


def test_odd_names_and_dead_links(people, tmp_path):
    for name in ("a\udcff.jpg", "new\nline ü.jpg"):
        put(people, name, len(name) + 60, landmarks68=made_landmarks().tolist())
    (people / "dead.jpg").symlink_to("nowhere")
    (people / "dead.tar").symlink_to("nowhere")
    (people / ".half.tar").write_bytes(b"half")
    expected = {"dead.jpg": "unreadable", "dead.tar": "damaged"}
    for work in (prepare, repack):
        assert work(people, tmp_path / work.__name__)["kept"] == 14
        assert dropped(tmp_path / work.__name__) == expected
        assert list(check(tmp_path / work.__name__)) == []
        sources = {side_of(entry)["source"] for entry in open_examples(tmp_path / work.__name__).entries}
        assert {"a\udcff.jpg", "new\nline ü.jpg"} < sources
    stats(people, tmp_path / "stats")


def test_what_is_named_twice_is_there_once(people, tmp_path):
    (tmp_path / "list.txt").write_text("people/person0\npeople/person0/photo 1.jpg\npeople/person0\n")
    assert prepare(tmp_path / "list.txt", tmp_path / "out", SMALL)["kept"] == 3
    assert list(check(tmp_path / "out")) == []


def test_a_photo_that_needs_a_missing_package_costs_only_itself(people, tmp_path, monkeypatch):
    (people / "new.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    report = prepare(people, tmp_path / "out", SMALL)
    assert (report["kept"], report["dropped"]) == (12, {"unreadable": 1})
    assert "aboutface[heif]" in (tmp_path / "out" / "dropped.jsonl").read_text()


def test_near_duplicates_are_listed_and_dropped_if_asked(tmp_path):
    source = tmp_path / "src"
    for index in range(4):
        put(source, f"{index}.jpg", index, landmarks68=made_landmarks().tolist())
    smaller = Image.open(source / "2.jpg").resize((150, 150), Image.Resampling.LANCZOS)
    smaller.save(source / "9.jpg", quality=60)
    (source / "9.json").write_text(json.dumps({"landmarks68": (made_landmarks() * 0.75).tolist()}))
    listed = prepare(source, tmp_path / "listed", SMALL)
    assert (listed["kept"], listed["duplicates"]) == (5, {"exact": 0, "near": 1})
    row = json.loads((tmp_path / "listed" / "duplicates.jsonl").read_text())
    assert (row["name"], row["same_as"], row["exact"]) == ("9.jpg", "2.jpg", False)
    fewer = prepare(source, tmp_path / "fewer", PrepareSettings(size=64, drop_near_duplicates=True))
    assert fewer["kept"] == 4
    assert dropped(tmp_path / "fewer") == {"9.jpg": "near-duplicate"}


def test_detected_faces_agree_with_the_given_photo(portrait_pixels, tmp_path):
    (tmp_path / "src").mkdir()
    Image.fromarray(portrait_pixels).save(tmp_path / "src" / "eileen.png")
    Image.fromarray(portrait_pixels[400:, :150]).save(tmp_path / "src" / "none.png")
    report = prepare(tmp_path / "src", tmp_path / "out", PrepareSettings(faces="all"))
    assert report["dropped"] == {"no-face": 1}
    example = open_examples(tmp_path / "out")[0]
    assert example.key.endswith("-f0")
    record = side_of(open_examples(tmp_path / "out").entries[0])
    photo_from_crop = torch.tensor(record["photo_from_crop"])
    eyes = apply(photo_from_crop, torch.tensor(points_of(example)[36:48])).reshape(2, 6, 2).mean(1)
    assert torch.allclose(eyes, torch.tensor([[203.0, 107.0], [247.0, 110.0]]), atol=8)
    assert example.quality["inside"] == 1
    assert example.quality["face_px"] == pytest.approx(100, abs=30)


def test_aligned_crops_stay_as_they_are(tmp_path):
    put(tmp_path / "src", "a.jpg", 1, landmarks68=made_landmarks().tolist())
    prepare(tmp_path / "src", tmp_path / "out", PrepareSettings(size=200, aligned=True))
    example = open_examples(tmp_path / "out")[0]
    before = np.asarray(Image.open(tmp_path / "src" / "a.jpg")).astype(int)
    assert np.abs(example.pixels - before).mean() < 1.5
    assert np.allclose(points_of(example), made_landmarks(), atol=1e-3)


def test_shards_are_read_by_webdataset(people, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    prepare(people, tmp_path / "out", PrepareSettings(size=64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the tar to the garbage collector
        rows = list(webdataset.WebDataset(str(tmp_path / "out" / "000000.tar"), shardshuffle=False).decode("rgb8"))
    assert len(rows) == 12
    ours = open_examples(tmp_path / "out")
    for row, example in zip(rows, (ours[i] for i in range(12)), strict=True):
        assert f"000000.tar/{row['__key__']}" == example.key
        assert {key for key in row if not key.startswith("__")} == {"jpg", "json", "mask.png"}
        assert np.array_equal(row["jpg"], example.pixels)
        assert np.array_equal(row["mask.png"][..., 0], mask_of(example))
        assert np.allclose(row["json"]["landmarks68"], points_of(example))


# ---- the parts ----


def test_cut_agrees_with_the_obvious_loop():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (40, 50, 3), np.uint8)
    whole = np.array([[1, 0, 7], [0, 1, 5], [0, 0, 1.0]])
    assert np.array_equal(cut(pixels, whole, 20), pixels[5:25, 7:27])
    thirds = np.array([[3, 0, 2], [0, 3, 4], [0, 0, 1.0]])
    obvious = pixels[4:34, 2:32].reshape(10, 3, 10, 3, 3).mean((1, 3))
    assert np.abs(cut(pixels, thirds, 10) - obvious).max() <= 0.51
    beyond = cut(pixels, np.array([[1, 0, -10], [0, 1, -10], [0, 0, 1.0]]), 15)
    assert (beyond[:10, :10] == pixels[0, 0]).all()
    assert np.array_equal(beyond[10:, 10:], pixels[:5, :5])


def test_mask_covers_the_landmarks_and_a_forehead_and_follows_a_mirror():
    points = made_landmarks(yaw=20)
    mask = face_mask(points, (200, 200))
    assert (mask > 0).sum() == pytest.approx(mask.astype(float).sum() / 255)
    top = np.nonzero(mask.any(1))[0][0]
    brow, chin = points[19, 1], points[8, 1]
    assert 0.2 < (brow - top) / (chin - brow) < 0.6
    from aboutface.geometry import MIRROR_68

    mirrored = face_mask(points[MIRROR_68] * [-1, 1] + [200, 0], (200, 200))
    assert (mirrored[:, ::-1] != mask).mean() < 0.005
    assert face_mask(points + 1e9, (50, 50)).sum() == 0


def test_sharpness_falls_with_blur_and_not_with_light():
    import cv2

    pixels = np.asarray(Image.open(io.BytesIO(jpeg(1, 224, 60))))
    mask = np.full((224, 224), 255, np.uint8)
    sharp = measure(pixels, mask)
    blurred = [measure(cv2.GaussianBlur(pixels, (0, 0), s), mask)["sharpness"] for s in (1, 2, 4, 8)]
    assert sorted([sharp["sharpness"], *blurred], reverse=True) == [sharp["sharpness"], *blurred]
    assert blurred[2] < 0.2 * sharp["sharpness"]
    dark = measure((pixels // 2).astype(np.uint8), mask)
    assert dark["sharpness"] == pytest.approx(sharp["sharpness"], rel=0.02)
    assert dark["brightness"] == pytest.approx(sharp["brightness"] / 2, rel=0.02)
    assert dark["contrast"] == pytest.approx(sharp["contrast"] / 2, rel=0.02)


def test_perceptual_hash_survives_compression_and_tells_pictures_apart():
    hashes = [perceptual_hash(np.asarray(Image.open(io.BytesIO(jpeg(i))))) for i in range(40)]
    distances = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > 10
    assert 28 < np.mean(distances) < 36
    worse = io.BytesIO()
    Image.open(io.BytesIO(jpeg(3))).resize((120, 120)).save(worse, "JPEG", quality=30)
    assert (perceptual_hash(np.asarray(Image.open(worse))) ^ hashes[3]).bit_count() <= 4


@pytest.mark.parametrize("most", [0, 3, 6])
def test_near_hashes_agree_with_comparing_all(most):
    random = np.random.default_rng(most)
    near, seen = NearHashes(most), []
    for i in range(600):
        value = int(random.integers(0, 2**63)) * 2 + int(random.integers(2))
        if seen and i % 3:  # a relative of an earlier one
            value = seen[int(random.integers(len(seen)))]
            for bit in random.choice(64, int(random.integers(0, most + 3)), replace=False):
                value ^= 1 << int(bit)
        distances = [(value ^ other).bit_count() for other in seen]
        wanted = min(distances) if distances and min(distances) <= most else None
        found = near.find(value)
        assert (None if found is None else found[1]) == wanted
        if found:
            assert (seen[int(found[0])] ^ value).bit_count() == wanted
        near.add(value, str(i))
        seen.append(value)


def test_keys_are_safe_and_differ():
    names = ["a/b.jpg", "a-b.jpg", "a_b.jpg", "ä.jpg", "ö.jpg", "x" * 300 + ".jpg", "../up.v1.jpg", "\udcff.jpg"]
    keys = [safe_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert all(key.replace("-", "").replace("_", "").isalnum() and key.isascii() and len(key) < 80 for key in keys)
    assert safe_key("a/b.jpg") == keys[0]


class DeadPool:
    """A pool whose workers were killed by the system."""

    def __init__(self, *_, **__):
        pass

    def submit(self, *_):
        future = Future()
        future.set_exception(BrokenProcessPool("gone"))
        return future

    def shutdown(self, **_):
        pass


def test_a_dead_worker_is_said_in_one_sentence(people, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["aboutface.recipes.workers"], "ProcessPoolExecutor", DeadPool)
    for index in range(CHUNK):
        put(people, f"z/{index}.jpg", index, landmarks68=made_landmarks().tolist())
    with pytest.raises(OutputError, match="fewer --workers"):
        prepare(people, tmp_path / "out", SMALL, workers=2)


def test_repack_keeps_bytes_and_leaves_out_what_is_broken(people, tmp_path):
    (people / "zero.jpg").write_bytes(b"")
    report = repack(people, tmp_path / "out", examples=5, identity="folder")
    assert (report["kept"], report["dropped"]) == (12, {"unreadable": 1})
    made, before = open_examples(tmp_path / "out"), open_examples(people, "folder")
    for index in range(12):
        assert made.entries[index].image.read() == before.entries[index].image.read()
        assert np.array_equal(points_of(made[index]), points_of(before[index]))
    assert made.identities == before.identities[:12]
    assert list(check(tmp_path / "out")) == []
    assert repack(people, tmp_path / "out", examples=5, identity="folder") == report
    with pytest.raises(UsageError, match="--overwrite"):
        repack(people, tmp_path / "out", examples=6)
