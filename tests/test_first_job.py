"""The benchmark's measuring functions on made-up data, and that a missed goal is named and fails the check."""

import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from aboutface.errors import NoFaceError, PhotoError
from aboutface.face import Face
from aboutface.scene import Pose


def load_script():
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "first_job.py"
    spec = importlib.util.spec_from_file_location("first_job", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up their module by name.
    sys.modules["first_job"] = module
    spec.loader.exec_module(module)
    return module


first_job = load_script()


def face_at(x: float, y: float) -> Face:
    points = np.random.default_rng(0).uniform(-10, 10, (68, 2))
    return Face(points - points.mean(0) + [x, y], (x - 10, y - 10, x + 10, y + 10))


def sample(name: str, group: str = "photos", identity: str = ""):
    return first_job.Sample(name, group, b"", identity)


def looking(name: str, yaw: dict | None = None, distance: dict | None = None, group: str = "photos", **more):
    """A study of a face that looks ahead; what is not said is perfect."""
    exact: dict[float, float | None] = {angle: angle for angle in first_job.TURNS}
    same: dict[float, float | None] = dict.fromkeys(first_job.TURNS, 0.3)
    return first_job.Study(
        sample(name, group), pose=Pose(2, 0, 0), yaw=exact | (yaw or {}), distance=same | (distance or {}), **more
    )


def test_inside_hull_is_the_polygon():
    corners = np.array([[10.5, 20.5], [40.5, 20.5], [40.5, 50.5], [10.5, 50.5], [20, 30]])
    mask = first_job.inside_hull(corners, (60, 80))
    expected = np.zeros((60, 80), bool)
    expected[20:51, 10:41] = True
    assert np.array_equal(mask, expected)
    beyond = first_job.inside_hull(corners + np.array([50, 0]), (60, 80))
    assert beyond[20:51, 60:].all()
    assert beyond.sum() == 31 * 20


def test_mean_levels_counts_only_the_inside_and_does_not_wrap_around():
    a, b = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    mask = np.zeros((4, 4), bool)
    mask[0] = True
    a[0, 0] = 0, 10, 255
    b[0, 0] = 255, 0, 0
    b[3] = 99
    assert first_job.mean_levels(a, b, mask) == pytest.approx((255 + 10 + 255) / 12)
    assert first_job.mean_levels(b, a, mask) == first_job.mean_levels(a, b, mask)


def test_the_same_face_is_chosen_again_by_its_place():
    faces = [face_at(100, 100), face_at(30, 40), face_at(200, 20)]
    assert first_job.nearest_face(faces, np.array([33, 44]), reach=6) is faces[1]
    assert first_job.nearest_face(faces, np.array([33, 44]), reach=4) is None
    assert first_job.nearest_face([], np.array([33, 44]), reach=4) is None


def test_a_face_not_found_again_is_no_match():
    assert first_job.inside_distance([0.1, 0.59, 0.61, None]) == 0.5
    assert first_job.inside_distance([]) == 0


def test_photos_are_judged_by_what_a_person_sees():
    def judged(*studies):
        report = first_job.Report()
        first_job.judge_photos(studies, report)
        return report.goals[0]

    given = first_job.Study(sample("d3d-000006.jpg"))
    assert judged(given, first_job.Study(sample("cat-007_cat.png"), NoFaceError("none"))).met
    # A cat that gives a face is no failure; a person that gives none, and any other error, is.
    assert judged(first_job.Study(sample("cat-007_cat.png"))).met
    assert not judged(given, first_job.Study(sample("d3d-000007.jpg"), NoFaceError("none"))).met
    assert not judged(first_job.Study(sample("cat-007_cat.png"), PhotoError("unreadable"))).met
    # A profile that is taken for a face looking ahead got wrong landmarks.
    assert not judged(first_job.Study(sample("deca-image00181.jpg"), pose=Pose(-9, 0, 0))).met
    assert judged(first_job.Study(sample("deca-image00181.jpg"), pose=Pose(-70, 0, 0))).met
    assert judged(first_job.Study(sample("deca-image00181.jpg"), NoFaceError("none"))).met
    failed = judged(given, first_job.Study(sample("cat-007_cat.png"), ValueError("oops")))
    assert not failed.met
    assert failed.measured == "1 given, 0 refused, 1 failed; 1 wrongly"


def test_yaw_errors_decide_by_the_photos_only():
    report = first_job.Report()
    studies = [
        looking("a.jpg", {-30.0: -20.0, 30.0: 21.0}),
        looking("b.jpg", {30.0: None}),
        looking("c.jpg", dict.fromkeys(first_job.TURNS, 0.0), group="ytf"),
        first_job.Study(sample("away.jpg"), pose=Pose(40, 0, 0)),
    ]
    first_job.judge_pose(studies, report)
    yaw, unturned = report.goals
    assert yaw.measured.startswith("2.71° (2 faces, 7 views, 1 without")
    assert yaw.met
    assert unturned.met
    text = "\n".join(report.details)
    assert "| +30° | 9.00° | -9.00° | 1 |" in text
    assert "| -30° | 5.00° | +5.00° | 2 |" in text
    assert "Farthest off: a.jpg -30° → -20.0°" in text
    assert "No face found: b.jpg +30°" in text

    worse = first_job.Report()
    off = dict.fromkeys(first_job.TURNS, 0.0)
    first_job.judge_pose([looking("a.jpg", off, unturned=0.1), looking("b.jpg", off, unturned=1.2)], worse)
    assert [goal.met for goal in worse.goals] == [False, False]
    assert worse.goals[0].measured.startswith("22.50°")
    assert "1.20/255 at worst (b.jpg)" in worse.goals[1].measured


def test_identity_needs_nine_of_ten_views():
    def judged(count_bad: int):
        report = first_job.Report()
        studies = [looking(f"{i}.jpg", distance={30.0: 0.7 if i < count_bad else 0.3}) for i in range(10)]
        # The ±15° views do not count here.
        studies[-1].distance[15.0] = None
        first_job.judge_identity(studies, report)
        return report.goals[0]

    assert judged(2).met
    assert judged(2).measured.startswith("90.0% of 20 views, mean distance 0.340, 0 without")
    assert not judged(3).met


def test_strangers_are_pairs_of_different_names():
    studies = [looking(str(i)) for i in range(3)]
    for one, name, place in zip(studies, ("A", "A", "B"), (0.0, 1.0, 3.0), strict=True):
        one.sample = sample(one.sample.name, "lfw", name)
        one.embedding = np.full(128, place / np.sqrt(128))
    assert sorted(first_job.distances_of_strangers(studies)) == pytest.approx([2, 3])


def test_tar_samples_are_the_same_every_time(tmp_path):
    path = tmp_path / "some.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(20):
            add(tar, f"Ann_B_{i:04d}.jpg", bytes([i]))
        add(tar, "Ann_B_0003.json", json.dumps({"identity": "Other"}).encode())
    samples = first_job.tar_samples(path, "lfw", 5)
    assert len(samples) == 5
    assert samples == first_job.tar_samples(path, "lfw", 5)
    everything = first_job.tar_samples(path, "lfw", 99)
    assert [s.source for s in everything] == [bytes([i]) for i in range(20)]
    assert {s.identity for s in everything} == {"Ann_B", "Other"}
    assert everything[3].identity == "Other"


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def test_a_folded_face_is_right_in_depth_order_only():
    folded, painter, depth = first_job.folded_errors(60.0)
    assert folded > 300
    assert painter > 30
    assert depth == 0


def picture_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_mutations_differ_and_damage():
    data, rng = picture_bytes(), np.random.default_rng(0)
    made = [first_job.mutated(data, data[::-1], rng) for _ in range(50)]
    assert len(set(made)) > 45
    assert data not in made


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        ("fine", ""),
        ("refuses", ""),
        ("crashes", "KeyError"),
        ("odd code", "exit code 7"),
        ("partial", "unreadable turned.png"),
        ("temporary", "unreadable turned.png.tmp"),
        ("refuses but writes", "exit code 4 with 1 files"),
        ("writes nothing", "exit code 0 with 0 files"),
        ("litters", "a stray file"),
    ],
)
def test_fuzzing_notices(behaviour, problem):
    def run(arguments: list[str]) -> int:
        _, source, _, _, _, output = arguments
        target = Path(output) / "turned.png"
        match behaviour:
            case "refuses":
                return 4
            case "crashes":
                raise KeyError("x")
            case "odd code":
                return 7
            case "writes nothing":
                return 0
            case "litters":
                Path(source).with_suffix(".bak").write_bytes(b"")
        target.write_bytes(picture_bytes()[: 60 if behaviour == "partial" else None])
        if behaviour == "temporary":
            target.with_suffix(".png.tmp").write_bytes(b"half")
        return 4 if behaviour == "refuses but writes" else 0

    _, wrong = first_job.fuzz_once(picture_bytes(), ".png", run)
    assert wrong.startswith(problem)
    assert bool(wrong) == bool(problem)


def test_children_report_their_own_time_memory_and_failure(tmp_path):
    seconds, gigabytes, text = first_job.run_child("import time; time.sleep(0.2); print(sys.argv[2])", "me", tmp_path)
    assert 0.2 < seconds < 20
    assert 0.001 < gigabytes < 0.2
    assert text.strip() == "me"
    _, larger, _ = first_job.run_child("x = bytearray(b'1') * 300_000_000", "me", tmp_path)
    assert 0.25 < larger - gigabytes < 0.35
    with pytest.raises(RuntimeError, match="no such thing"):
        first_job.run_child("raise SystemExit('no such thing')", "me", tmp_path)


def report_of(*met: bool):
    goals = [first_job.Goal("pose", f"goal {i}", f"{i} px", "< 9", one) for i, one in enumerate(met)]
    return first_job.Report(goals, ["Farthest off: me."])


def test_check_names_each_missed_goal_and_ends_with_1(capsys):
    assert first_job.conclude(report_of(True, False, True, False), "Today.", check=True) == 1
    out, err = capsys.readouterr()
    assert "| pose | goal 1 | 1 px | < 9 | **no** |" in out
    assert "| pose | goal 2 | 2 px | < 9 | yes |" in out
    assert [line.split(":")[2].strip() for line in err.splitlines()] == ["goal 1", "goal 3"]
    assert first_job.conclude(report_of(True, True), "Today.", check=True) == 0
    assert capsys.readouterr().err == ""
    assert first_job.conclude(report_of(False), "Today.", check=False) == 0


def test_the_main_program_passes_the_verdict_on_and_writes_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(first_job, "measure", lambda *_: report_of(True, False))
    page = tmp_path / "page.md"
    assert first_job.main(["--data", str(tmp_path), "--check", "--write", str(page)]) == 1
    assert "missed: pose: goal 1" in capsys.readouterr().err
    text = page.read_text("utf-8")
    assert "| pose | goal 1 | 1 px | < 9 | **no** |" in text
    assert "Farthest off: me." in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("arguments", [["--only", "pose,nose"], ["--only", "pose", "--write", "x.md"]])
def test_wrong_arguments_are_refused(tmp_path, arguments, capsys):
    with pytest.raises(SystemExit) as end:
        first_job.main(["--data", str(tmp_path), *arguments])
    assert end.value.code == 2
    assert "error: --" in capsys.readouterr().err


def test_the_face_is_measured_where_the_turned_head_should_be(monkeypatch):
    """`look_at` on a pipeline that finds two faces: the one at the turned landmarks is measured."""
    import torch

    from aboutface.scene import Camera, Mesh, Scene

    K = torch.tensor([[500.0, 0, 50], [0, 500, 50], [0, 0, 1]])
    landmarks = torch.tensor([[0.0, 0.0, 0.96]]).expand(68, 3)
    scene = Scene(
        Mesh(landmarks, torch.tensor([[0, 1, 2]])), torch.zeros(3, 100, 100), Camera(K, 100, 100), landmarks=landmarks
    )
    # The nose side of the head, 0.04 before the pivot, moves to x = 0.04 * sin(30°) at z = 1 - 0.04 * cos(30°).
    x = 50 + 500 * 0.02 / (1 - 0.04 * np.cos(np.pi / 6))
    here, elsewhere = face_at(x, 50), face_at(x - 25, 50)
    monkeypatch.setattr(first_job, "detect", lambda *_, **__: [elsewhere, here])
    monkeypatch.setattr(first_job, "embed", lambda _, face: np.full(128, float(face is here) / np.sqrt(128)))
    pipeline = SimpleNamespace(
        detector="none",
        reconstruct_face=lambda _, face: SimpleNamespace(pose=Pose(28.0 if face is here else 0.0, 0, 0)),
    )
    portrait = SimpleNamespace(scene=scene, face=SimpleNamespace(size=4.0))
    pixels = np.zeros((100, 100, 3), np.uint8)
    yaw, apart = first_job.look_at(pipeline, portrait, pixels, 30.0, np.zeros(128))
    assert yaw == 28.0
    assert apart == pytest.approx(1.0)
    monkeypatch.setattr(first_job, "detect", lambda *_, **__: [elsewhere])
    assert first_job.look_at(pipeline, portrait, pixels, 30.0, np.zeros(128)) == (None, None)
