"""How well one photo becomes every view: goals, measured figures, bounds; `--check` exits 1 naming each missed goal.

    python benchmarks/first_job.py                                    # everything, some minutes
    python benchmarks/first_job.py --only pose,identity --limit 10    # while tuning
    python benchmarks/first_job.py --sheets sheets/                   # pictures to look at
    python benchmarks/first_job.py --check --write docs/benchmark-first-job.md

The pictures come from `--data`, else the variable ABOUTFACE_DATA, else `shared/data` beside the checkout.
"""

import os

# Waiting threads must not spin: on a shared machine that makes everything many times slower. Read when torch starts.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

import aboutface
from aboutface.detect import SAME_PERSON, detect, distance, embed
from aboutface.edit import Pipeline, Portrait
from aboutface.errors import AboutfaceError, NoFaceError
from aboutface.face import Face
from aboutface.geometry import project, rotation_from_angles
from aboutface.images import read_photo
from aboutface.morphable import MeanHead
from aboutface.render import FACEWARPER_TRIANGLES, read_case, warp_face
from aboutface.scene import Pose

METHOD = "depthnet"
"""The reconstructor that the verbs use where none is named."""

PARTS = ("photos", "pose", "identity", "facewarper", "time", "fuzz")
SUFFIXES = (".png", ".jpg")

# What a person sees in each picture of data/photos, looked at one by one: a human face everywhere but here. Drawings
# far from any photo, and the one full profile, may be refused; so may cats.
MAY_BE_REFUSED = (
    "cat-",
    "crop-032",
    "crop-034",
    "crop-035",
    "crop-036",
    "crop-038",
    "crop-042",
    "crop-043",
    "crop-045",
    "deca-image00181",
)
# A full profile is turned as one or refused; landmarks of a face that looks ahead are wrong there.
PROFILES = ("deca-image00181",)
PROFILE_YAW = 45.0

YAW_ERROR = 5.0
UNTURNED_LEVELS = 1.0
SAME_SHARE = 0.9
FIRST_SECONDS, VIEW_SECONDS, MEMORY_GB = 6.0, 1.0, 1.5
FUZZ_COUNT = 200
FUZZ_EXITS = (0, 1, 4)
SMALL_YAW = 15.0
TURNS = (-30.0, -15.0, 15.0, 30.0)


@dataclass
class Goal:
    """One line of the table."""

    part: str
    goal: str
    measured: str
    bound: str
    met: bool


@dataclass
class Report:
    """The table and what stands below it."""

    goals: list[Goal] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    """Markdown, one paragraph or list each."""

    def missed(self) -> list[Goal]:
        return [goal for goal in self.goals if not goal.met]

    def table(self) -> str:
        lines = ["| part | goal | measured | bound | met |", "| --- | --- | --- | --- | --- |"]
        lines += [
            f"| {g.part} | {g.goal} | {g.measured} | {g.bound} | {'yes' if g.met else '**no**'} |" for g in self.goals
        ]
        return "\n".join(lines)


# Measuring functions: arrays in, numbers out.


def inside_hull(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mask (H, W) bool of the pixels within the convex hull of points (N, 2), whose pixel centres are half-integers."""
    mask = np.zeros(size, np.uint8)
    hull = cv2.convexHull(np.round(np.asarray(points) - 0.5).astype(np.int32))
    return cv2.fillConvexPoly(mask, hull, 1).astype(bool)


def mean_levels(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """Mean absolute difference of two pictures (H, W, 3) uint8 within a mask, in levels of 0 to 255."""
    if not mask.any():
        return 0.0
    return float(np.abs(a[mask].astype(int) - b[mask].astype(int)).mean())


def nearest_face(faces: Sequence[Face], centre: np.ndarray, reach: float) -> Face | None:
    """The face whose landmarks' mean (2,) is nearest to `centre`, within `reach` pixels of it."""
    found = sorted(faces, key=lambda one: float(np.linalg.norm(one.landmarks.mean(0) - centre)))
    if not found or np.linalg.norm(found[0].landmarks.mean(0) - centre) > reach:
        return None
    return found[0]


def inside_distance(distances: Sequence[float | None]) -> float:
    """Share of distances that mean one person; a face that was not found again (None) does not."""
    return float(np.mean([d is not None and d < SAME_PERSON for d in distances])) if distances else 0.0


def mutated(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A damaged file: some bytes changed, then perhaps cut off, spliced with another, or with a piece left out."""
    broken = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        # The head of a file decides most, so it is hit more often than the rest.
        reach = len(broken) if rng.random() < 0.7 else min(len(broken), 80)
        broken[int(rng.integers(reach))] = int(rng.choice([0, 255, int(rng.integers(256))]))
    cut, other_cut = int(rng.integers(1, len(data))), int(rng.integers(1, len(other)))
    return {
        "cut": bytes(broken[:cut]),
        "splice": data[:cut] + other[other_cut:],
        "gap": data[:cut] + data[cut + int(rng.integers(1, 60)) :],
        "flips": bytes(broken),
    }[str(rng.choice(["cut", "splice", "gap", "flips", "flips", "flips"]))]


def unreadable(folder: Path) -> list[str]:
    """Names of the files below a folder that are not whole pictures or JSON."""
    bad = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text("utf-8"))
            else:
                with Image.open(path) as picture:
                    picture.load()
        except Exception:
            bad.append(path.name)
    return bad


def table_of_errors(errors: dict[float, list[float]]) -> str:
    """Per angle: mean absolute error, mean signed error, how many."""
    lines = ["| turned to | mean abs. error | mean error | views |", "| --- | --- | --- | --- |"]
    for angle, values in sorted(errors.items()):
        if values:
            size, bias = np.abs(values).mean(), np.mean(values)
            lines.append(f"| {angle:+.0f}° | {size:.2f}° | {bias:+.2f}° | {len(values)} |")
    return "\n".join(lines)


# Samples and what is done with each of them.


@dataclass(frozen=True)
class Sample:
    name: str
    group: str
    """ "photos", "drawings" (and cats), "ytf" or "lfw"."""
    source: Path | bytes
    identity: str = ""


@dataclass
class Study:
    """What came of one sample."""

    sample: Sample
    error: Exception | None = None
    pose: Pose | None = None
    unturned: float = 0.0
    """Mean difference inside the face when it is rendered at its own pose, levels of 0 to 255."""
    embedding: np.ndarray | None = None
    yaw: dict[float, float | None] = field(default_factory=dict)
    """Yaw found in the result, per yaw asked for; None where the detector finds no face there."""
    distance: dict[float, float | None] = field(default_factory=dict)
    row: Image.Image | None = None
    """Its row on the contact sheet."""

    @property
    def looks_ahead(self) -> bool:
        return self.pose is not None and abs(self.pose.yaw) < SMALL_YAW


def may_be_refused(name: str) -> bool:
    return name.startswith(MAY_BE_REFUSED)


def photo_samples(data: Path, limit: int | None) -> list[Sample]:
    paths = sorted(p for p in (data / "photos").iterdir() if p.suffix in SUFFIXES)[:limit]
    return [Sample(p.name, "drawings" if may_be_refused(p.name) else "photos", p) for p in paths]


def tar_samples(path: Path, group: str, count: int, seed: int = 0) -> list[Sample]:
    """Some pictures of a tar, the same ones every time; identity from the JSON beside, else First_Last of the key."""
    with tarfile.open(path) as tar:
        names = sorted(name for name in tar.getnames() if name.endswith(".jpg"))
        chosen = np.random.default_rng(seed).choice(len(names), min(count, len(names)), replace=False)
        samples = []
        for name in (names[i] for i in sorted(chosen)):
            try:
                identity = json.loads(_member(tar, name.removesuffix(".jpg") + ".json"))["identity"]
            except KeyError:
                identity = Path(name).stem.rpartition("_")[0]
            samples.append(Sample(name, group, _member(tar, name), identity))
    return samples


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


def study(pipeline: Pipeline, sample: Sample, measure: bool, sheet: bool) -> Study:
    """Turn a sample to yaw -30, 0, 30 and measure the results; where it looks ahead, also ±15."""
    result = Study(sample)
    try:
        (turned,) = pipeline.rotate(sample.source, yaw=[-30.0, 0.0, 30.0])
    except Exception as error:
        # Every exception is an outcome to report here; which are allowed is judged later.
        result.error = error
        result.row = refused_row(sample, error) if sheet else None
        return result
    portrait = turned.portrait
    pixels, pose = portrait.photo.pixels, portrait.scene.pose
    result.pose = pose
    views = dict(zip((-30.0, 0.0, 30.0), turned.images, strict=True))
    if measure:
        result.embedding = embed(pixels, portrait.face)
        (same,) = pipeline.frames(portrait, [pose])
        result.unturned = mean_levels(same.pixels, pixels, inside_hull(portrait.face.landmarks, pixels.shape[:2]))
        if result.looks_ahead:
            sides = [pose._replace(yaw=yaw) for yaw in TURNS if yaw not in views]
            views |= {p.yaw: v.pixels for p, v in zip(sides, pipeline.frames(portrait, sides), strict=True)}
            for yaw in TURNS:
                result.yaw[yaw], result.distance[yaw] = look_at(pipeline, portrait, views[yaw], yaw, result.embedding)
    if sheet:
        result.row = given_row(sample, portrait, [views[yaw] for yaw in (-30.0, 0.0, 30.0)])
    return result


def look_at(
    pipeline: Pipeline, portrait: Portrait, pixels: np.ndarray, yaw: float, original: np.ndarray
) -> tuple[float | None, float | None]:
    """Yaw and embedding distance of the turned face, found anew by the detector; (None, None) if it finds none."""
    scene = portrait.scene.posed(*portrait.scene.pose._replace(yaw=yaw))
    assert scene.landmarks is not None
    pivot = torch.tensor(scene.pivot)
    expected = project((scene.landmarks - pivot) @ scene.turn.mT + pivot, scene.camera.K).mean(0).numpy()
    try:
        faces = detect(pixels, face="all", detector=pipeline.detector)
    except NoFaceError:
        return None, None
    face = nearest_face(faces, expected, 0.5 * portrait.face.size)
    if face is None:
        return None, None
    assert pipeline.reconstruct_face is not None
    return pipeline.reconstruct_face(read_photo(pixels), face).pose.yaw, distance(original, embed(pixels, face))


# Contact sheets.

CELL = 290
SHEET_HEIGHT = 920


def given_row(sample: Sample, portrait: Portrait, views: Sequence[np.ndarray]) -> Image.Image:
    """The whole photo; then the head: as it is, turned to -30, 0, +30."""
    photo_from_crop = portrait.face.photo_from_crop(CELL, margin=0.9)
    left, top = photo_from_crop[:2, 2]
    side = photo_from_crop[0, 0] * CELL
    height, width = portrait.photo.size
    box = round(max(left, 0)), round(max(top, 0)), round(min(left + side, width)), round(min(top + side, height))
    heads = [ImageOps.contain(Image.fromarray(p).crop(box), (CELL, CELL)) for p in (portrait.photo.pixels, *views)]
    whole = ImageOps.contain(Image.fromarray(portrait.photo.pixels), (CELL, CELL))
    pose = " ".join(f"{name} {angle:+.0f}" for name, angle in portrait.scene.pose._asdict().items())
    return _row([whole, *heads], f"{sample.name}   {pose}   face {portrait.face.size:.0f} px")


def refused_row(sample: Sample, error: Exception) -> Image.Image:
    """A small picture and why there is no other."""
    whole = ImageOps.contain(Image.fromarray(read_photo(sample.source).pixels), (CELL // 3, CELL // 3))
    return _row([whole], f"{sample.name}   {type(error).__name__}: {error}")


def _row(pictures: Sequence[Image.Image], label: str) -> Image.Image:
    row = Image.new("RGB", (5 * (CELL + 4), max(picture.height for picture in pictures) + 16), "white")
    for place, picture in enumerate(pictures):
        row.paste(picture, (place * (CELL + 4), 14))
    ImageDraw.Draw(row).text((2, 1), label, fill="black")
    return row


def save_sheets(studies: Sequence[Study], folder: Path) -> None:
    """As many rows on a sheet as a screen shows at full size."""
    folder.mkdir(parents=True, exist_ok=True)
    sheets: list[list[Image.Image]] = [[]]
    for row in (s.row for s in studies if s.row is not None):
        if sum(one.height for one in sheets[-1]) + row.height > SHEET_HEIGHT:
            sheets.append([])
        sheets[-1].append(row)
    for index, rows in enumerate(sheets):
        sheet = Image.new("RGB", (5 * (CELL + 4), sum(row.height for row in rows)), "white")
        for place, row in enumerate(rows):
            sheet.paste(row, (0, sum(above.height for above in rows[:place])))
        sheet.save(folder / f"sheet-{index:02d}.png")


# Judging the studies.


def judge_photos(studies: Sequence[Study], report: Report) -> None:
    """Every photo gives a result, or NoFaceError where no photo-like face is to be seen; a profile is seen as one."""
    wrong = []
    for one in studies:
        if isinstance(one.error, NoFaceError) and may_be_refused(one.sample.name):
            continue
        if one.error is not None:
            wrong.append(f"{one.sample.name} ({type(one.error).__name__}: {one.error})")
        elif one.sample.name.startswith(PROFILES) and one.pose is not None and abs(one.pose.yaw) < PROFILE_YAW:
            wrong.append(f"{one.sample.name} (a profile, taken for yaw {one.pose.yaw:+.0f}°)")
    refused = [s.sample.name for s in studies if isinstance(s.error, AboutfaceError)]
    given = sum(s.error is None for s in studies)
    failed = len(studies) - given - len(refused)
    measured = f"{given} given, {len(refused)} refused, {failed} failed; {len(wrong)} wrongly"
    goal = f"{len(studies)} pictures give a result or a correct clear refusal"
    report.goals.append(Goal("photos", goal, measured, "0 wrongly", not wrong))
    report.details.append(f"Refused: {', '.join(refused) or 'none'}. Wrong: {'; '.join(wrong) or 'none'}.")


def judge_pose(studies: Sequence[Study], report: Report) -> None:
    """Yaw of the turned faces; the photos decide, the other groups are told beside them."""
    for group in ("photos", "drawings", "ytf", "lfw"):
        chosen = [s for s in studies if s.sample.group == group and s.looks_ahead]
        if not chosen:
            continue
        errors = yaw_errors(chosen)
        flat = [e for values in errors.values() for e in values]
        mean = float(np.abs(flat).mean()) if flat else float("inf")
        lost = len(chosen) * len(TURNS) - len(flat)
        measured = f"{mean:.2f}° ({len(chosen)} faces, {len(flat)} views, {lost} without a face found)"
        if group == "photos":
            goal = "turned to ±15° and ±30°: mean absolute yaw error"
            report.goals.append(Goal("pose", goal, measured, f"< {YAW_ERROR:g}°", mean < YAW_ERROR))
        report.details.append(f"Yaw, {group}: {measured}\n\n{table_of_errors(errors)}\n\n{worst_yaws(chosen)}")
    judge_unturned(studies, report)


def yaw_errors(studies: Sequence[Study]) -> dict[float, list[float]]:
    """Found minus asked, per angle asked for, where a face was found."""
    return {angle: [found - angle for s in studies if (found := s.yaw[angle]) is not None] for angle in TURNS}


def worst_yaws(studies: Sequence[Study], count: int = 5) -> str:
    entries = [
        (abs(found - angle), f"{s.sample.name} {angle:+.0f}° → {found:+.1f}°")
        for s in studies
        for angle, found in s.yaw.items()
        if found is not None
    ]
    entries.sort(reverse=True)
    lost = [f"{s.sample.name} {angle:+.0f}°" for s in studies for angle, found in s.yaw.items() if found is None]
    text = f"Farthest off: {'; '.join(text for _, text in entries[:count])}."
    return f"{text} No face found: {'; '.join(lost)}." if lost else text


def judge_unturned(studies: Sequence[Study], report: Report) -> None:
    chosen = [s for s in studies if s.sample.group == "photos" and s.error is None]
    if not chosen:
        return
    worst = max(chosen, key=lambda s: s.unturned)
    mean = np.mean([s.unturned for s in chosen])
    over = sum(s.unturned >= UNTURNED_LEVELS for s in chosen)
    measured = (
        f"{worst.unturned:.2f}/255 at worst ({worst.sample.name}), {mean:.2f}/255 in the mean of {len(chosen)}, "
        f"{over} over the bound"
    )
    goal = "not turned: difference from the photo inside the face"
    report.goals.append(Goal("pose", goal, measured, "< 1/255 each", worst.unturned < UNTURNED_LEVELS))


def judge_identity(studies: Sequence[Study], report: Report) -> None:
    """Distance of the face embedding between photo and ±30° views."""
    for group in ("photos", "drawings", "ytf", "lfw"):
        chosen = [s for s in studies if s.sample.group == group and s.looks_ahead]
        if not chosen:
            continue
        distances = [s.distance[yaw] for s in chosen for yaw in (-30.0, 30.0)]
        found = [d for d in distances if d is not None]
        share = inside_distance(distances)
        mean = np.mean(found) if found else float("nan")
        lost = len(distances) - len(found)
        measured = f"{share:.1%} of {len(distances)} views, mean distance {mean:.3f}, {lost} without a face found"
        if group == "photos":
            goal = f"±30° views: embedding distance to the photo under {SAME_PERSON}"
            report.goals.append(Goal("identity", goal, measured, f"≥ {SAME_SHARE:.0%}", share >= SAME_SHARE))
        far = sorted(
            ((d, f"{s.sample.name} {y:+.0f}° {d:.2f}") for s in chosen for y in (-30.0, 30.0) if (d := s.distance[y])),
            reverse=True,
        )
        report.details.append(f"Identity, {group}: {measured}. Farthest: {'; '.join(t for _, t in far[:5])}.")
    others = distances_of_strangers(studies)
    if len(others):
        low, middle = np.percentile(others, [1, 50])
        report.details.append(
            f"For scale, {len(others)} pairs of different people (unturned, ytf and lfw): nearest {others.min():.2f}, "
            f"1 % below {low:.2f}, median {middle:.2f}, {np.mean(others < SAME_PERSON):.2%} under {SAME_PERSON}."
        )


def distances_of_strangers(studies: Sequence[Study]) -> np.ndarray:
    known = [s for s in studies if s.sample.identity and s.embedding is not None]
    pairs = [(a, b) for i, a in enumerate(known) for b in known[:i] if a.sample.identity != b.sample.identity]
    return np.array([distance(a.embedding, b.embedding) for a, b in pairs])  # pyright: ignore[reportArgumentType]


# FaceWarper.


def measure_facewarper(data: Path, report: Report) -> None:
    """The original program's pictures, and a face that covers itself."""
    folder = data / "facewarper-cases"
    stems = sorted(path.stem for path in (folder / "affine").glob("*.txt"))
    uncovered, levels = 0, 0
    for stem in stems:
        case = read_case(folder, stem)
        assert case.expected is not None
        picture, covered = warp_face(case.image, case.keypoints, case.depth, case.affine)
        uncovered += int((covered != case.expected.any(-1)).sum())
        levels = max(levels, int(np.abs(picture.astype(int) - case.expected).max()))
    goal = f"{len(stems)} cases of the original: coverage"
    report.goals.append(Goal("facewarper", goal, f"{uncovered} pixels differ", "identical", uncovered == 0))
    goal = f"{len(stems)} cases of the original, painter's order: largest difference"
    report.goals.append(Goal("facewarper", goal, f"{levels} grey levels", "≤ 1", levels <= 1))
    counts = [folded_errors(yaw) for yaw in (-60.0, 60.0)]
    folded, painter, depth = (sum(column) for column in zip(*counts, strict=True))
    goal = "mean face turned to ±60°: pixels with several layers that show a hidden one, depth order"
    measured = f"{depth} of {folded} (painter's order: {painter})"
    report.goals.append(Goal("facewarper", goal, measured, "0, painter > 0", depth == 0 < painter))


def folded_errors(yaw: float, size: int = 120) -> tuple[int, int, int]:
    """Pixels where a turned face lies several times over itself, and how many are wrong in each order.

    Returns (folded, wrong in painter's order, wrong in depth order). The truth is the nearest of all triangles over a
    pixel centre, each by its own plane.
    """
    points = MeanHead.load().landmarks.double().numpy()
    points = (points - points.mean(0)) * (0.7 * size / np.ptp(points[:, 0]))
    keypoints, depth = points[:, :2] + size / 2, points[:, 2]
    turned = points @ rotation_from_angles(yaw=torch.tensor(yaw, dtype=torch.float64)).numpy().T + [
        size / 2,
        size / 2,
        0,
    ]
    affine = np.linalg.lstsq(np.column_stack([keypoints, depth, np.ones(68)]), turned[:, :2], rcond=None)[0].T
    y, x = np.mgrid[:size, :size]
    image = np.stack([2 * x, 2 * y, np.full_like(x, 255)], -1).astype(np.uint8)
    pictures = [warp_face(image, keypoints, depth, affine, order=order)[0] for order in ("painter", "depth")]

    corners = turned[FACEWARPER_TRIANGLES]
    flat = np.concatenate([corners[..., :2], np.ones((len(corners), 3, 1))], -1)
    drawn = np.abs(np.linalg.det(flat)) > 1e-6
    centres = np.stack([x.ravel() + 0.5, y.ravel() + 0.5, np.ones(size * size)])
    weights = np.linalg.inv(flat[drawn].swapaxes(1, 2)) @ centres
    over = (weights > 0).all(1)
    away = np.where(over, np.einsum("tkp,tk->tp", weights, corners[drawn][..., 2]), np.inf)
    source = np.einsum("tkp,tk->tp", weights, keypoints[FACEWARPER_TRIANGLES][drawn][..., 0])
    nearest = np.argsort(away, 0)[:2]
    first, second = np.take_along_axis(away, nearest, 0)
    shown, hidden = np.take_along_axis(source, nearest, 0)
    # Layers that nearly touch, or show nearly the same, decide nothing.
    folded = (
        np.isfinite(second) & (np.where(np.isfinite(second), second, 0) - first > 0.5) & (np.abs(shown - hidden) > 3)
    )
    wrong = [int((np.abs(p[..., 0].ravel() - 2 * (shown - 0.5)) > 1.5)[folded].sum()) for p in pictures]
    return int(folded.sum()), wrong[0], wrong[1]


# Time and memory.

_PEAK = """
import atexit, pathlib, re, resource, sys
def _peak():
    # Not ru_maxrss where it can be helped: on Linux that includes what the parent used before exec.
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        kilobytes = int(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1])
    else:
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pathlib.Path(sys.argv[1]).write_text(str(kilobytes))
atexit.register(_peak)
"""
_COMMAND = """
from aboutface.cli import main
sys.exit(main(["rotate", sys.argv[2], "--yaw", "30"]))
"""
_VERB = """
import aboutface
aboutface.rotate(sys.argv[2], yaw=30).save("turned.png")
"""
_VIEWS = """
import json, time
from aboutface.edit import Pipeline
pipeline = Pipeline()
(portrait,) = pipeline.portraits(sys.argv[2])
poses = [portrait.scene.pose._replace(yaw=yaw) for yaw in (30.0, -30.0, -15.0, 0.0, 15.0, 45.0)]
frames, seconds = pipeline.frames(portrait, poses), []
while True:
    start = time.perf_counter()
    if next(frames, None) is None:
        break
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds))
"""


def has_command() -> bool:
    """Whether this version has the command line."""
    return importlib.util.find_spec("aboutface.cli") is not None


def run_child(code: str, photo: Path, folder: Path) -> tuple[float, float, str]:
    """Wall seconds, peak gigabytes and output of a fresh Python process. Raises RuntimeError where it fails."""
    source = str(Path(aboutface.__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    peak = folder / "peak.txt"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _PEAK + code, str(peak), str(photo)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"the command ended with {done.returncode}: {done.stderr[-2000:]}")
    return seconds, int(peak.read_text()) / 1024**2, done.stdout


@contextlib.contextmanager
def two_cores() -> Iterator[None]:
    """Children started here run on two cores at most, where the system can bind them."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:2]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure_time(report: Report) -> None:
    """Fresh processes on a portrait of one megapixel."""
    from skimage import data as skimage_data

    load = f" (under load: {os.getloadavg()[0]:.1f} at start)" if os.getloadavg()[0] > 0.5 else ""
    code = _COMMAND if has_command() else _VERB
    with tempfile.TemporaryDirectory() as name, two_cores():
        folder = Path(name)
        photo = folder / "astronaut.jpg"
        Image.fromarray(skimage_data.astronaut()).resize((1024, 1024)).save(photo, quality=95)
        runs = [run_child(code, photo, folder) for _ in range(4)]
        _, views_peak, text = run_child(_VIEWS, photo, folder)
    first, (*later,) = runs[0][0], (seconds for seconds, _, _ in runs[1:])
    views = json.loads(text)
    median, view = float(np.median(later)), float(np.median(views[1:]))
    peak = max(views_peak, *(gigabytes for _, gigabytes, _ in runs))
    verb = "aboutface rotate" if has_command() else "aboutface.rotate in Python"
    measured = f"{median:.2f} s, the very first {first:.2f} s{load}"
    goal = f"1-megapixel photo, 2 cores: `{verb}` from cold, median of 3 processes"
    report.goals.append(Goal("time", goal, measured, f"< {FIRST_SECONDS:g} s", median < FIRST_SECONDS))
    measured = f"{view:.2f} s, the first {views[0]:.2f} s{load}"
    goal = f"each further view in one process, median of {len(views) - 1}"
    report.goals.append(Goal("time", goal, measured, f"< {VIEW_SECONDS:g} s", view < VIEW_SECONDS))
    report.goals.append(Goal("time", "peak memory", f"{peak:.2f} GB", f"< {MEMORY_GB:g} GB", peak < MEMORY_GB))
    report.details.append(
        f"Time: processes {', '.join(f'{seconds:.2f}' for seconds, _, _ in runs)} s; "
        f"views {', '.join(f'{seconds:.2f}' for seconds in views)} s."
    )


# Fuzzing.


def fuzz_seeds(data: Path) -> list[bytes]:
    """Small real files with a face, and one picture in many codings; half are JPEG, which survives the most."""
    folder = data / "photos"
    real = [*sorted(folder.glob("lfw-*.jpg")), *sorted(folder.glob("crop-0*_face.png"))]
    with Image.open(real[-1]) as picture:
        small = picture.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 8
    deep = np.asarray(small.convert("L")).astype(np.uint16) * 257
    codings: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (small, "JPEG", {}),
        (small, "JPEG", {"progressive": True}),
        (small, "JPEG", {"exif": exif}),
        (small.convert("CMYK"), "JPEG", {}),
        (small.convert("L"), "JPEG", {}),
        (small.convert("RGBA"), "PNG", {}),
        (small.quantize(32), "PNG", {}),
        (Image.fromarray(deep), "PNG", {}),
        (small, "WEBP", {}),
        (small, "GIF", {}),
        (small, "BMP", {}),
        (small, "TIFF", {}),
    ]
    coded = []
    for picture, kind, options in codings:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        coded.append(buffer.getvalue())
    return [path.read_bytes() for path in real] + coded


def command(arguments: list[str]) -> int:
    """Exit code of the command run in this process. Raises RuntimeError where it reports a bug instead of a reason."""
    main = importlib.import_module("aboutface.cli").main
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        try:
            # -v: the command turns an unexpected exception into a sentence and exit code 1, but then shows it too.
            code = main([*arguments, "-v"])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    text = told.getvalue()
    if "Traceback" in text and "this is a bug" in text:
        raise RuntimeError(text.strip().splitlines()[-1])
    return int(code or 0)


def verb(arguments: list[str]) -> int:
    """The same through the Python verb, while there is no command."""
    _, source, _, yaw, _, output = arguments
    try:
        aboutface.rotate(source, yaw=float(yaw)).save(Path(output) / "turned.png")
    except AboutfaceError as error:
        return error.exit_code
    return 0


def fuzz_once(data: bytes, suffix: str, run: Callable[[list[str]], int]) -> tuple[str, str]:
    """(exit code or exception's name, what is wrong or "") of one damaged file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, output = folder / f"in/photo{suffix}", folder / "out"
        source.parent.mkdir()
        output.mkdir()
        source.write_bytes(data)
        try:
            code = run(["rotate", str(source), "--yaw", "20", "-o", f"{output}{os.sep}"])
        except Exception as error:
            return type(error).__name__, f"{type(error).__name__}: {error}"
        left = [path for path in output.rglob("*") if path.is_file()]
        if code not in FUZZ_EXITS:
            return str(code), f"exit code {code}"
        if bad := unreadable(output):
            return str(code), f"unreadable {', '.join(bad)}"
        if (code == 0) != bool(left):
            return str(code), f"exit code {code} with {len(left)} files"
        if [path.name for path in source.parent.iterdir()] != [source.name]:
            return str(code), "a stray file beside the photo"
        return str(code), ""


def measure_fuzz(data: Path, report: Report, count: int) -> None:
    run = command if has_command() else verb
    seeds, rng = fuzz_seeds(data), np.random.default_rng(0)
    codes: Counter[str] = Counter()
    wrong = []
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        for index in range(count):
            damaged = mutated(seeds[index % len(seeds)], seeds[int(rng.integers(len(seeds)))], rng)
            code, problem = fuzz_once(damaged, (".jpg", ".png")[index % 2], run)
            codes[code] += 1
            if problem:
                wrong.append(f"number {index}: {problem}")
    goal = f"{count} damaged files through `rotate`: no crash, no partial file"
    told = ", ".join(f"{n} × {code}" for code, n in sorted(codes.items()))
    report.goals.append(Goal("fuzz", goal, f"exit codes {told}; {len(wrong)} wrong", "0 wrong", not wrong))
    if wrong:
        report.details.append(f"Fuzz, wrong: {'; '.join(wrong)}.")
    if shown:
        texts = sorted({str(w.message).splitlines()[0] for w in shown})
        report.details.append(f"Fuzz: Python warnings shown: {'; '.join(texts[:5])}.")


# The program.


def machine() -> str:
    """One paragraph: when, on what, with which versions."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    root = Path(__file__).resolve().parents[1]
    git = ["git", "-C", str(root)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False).stdout
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit.strip() or 'unknown'}{' with changes' if status else ''}, "
        f"{cpu}, {os.cpu_count()} cores, load average at start {os.getloadavg()[0]:.2f}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, aboutface {aboutface.__version__}."
    )


def document(report: Report, about: str) -> str:
    """The page for docs/."""
    return (
        "\n\n".join(
            [
                "# Benchmark: one photo in, every view out",
                "Written by `python benchmarks/first_job.py --check --write docs/benchmark-first-job.md`; do not edit.",
                about,
                report.table(),
                "Yaw is measured on the results by the landmark detector and the pose fit of the reconstructor; "
                "photos that look ahead (|yaw| < 15°) are turned, pitch and roll kept. Drawings and cats, and crops of "
                "two public sets, are told beside the photos; the photos decide. A face that the detector does not "
                "find again counts against identity.",
                "## Details",
                *report.details,
            ]
        )
        + "\n"
    )


def data_folder(given: Path | None) -> Path:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return given or Path(os.environ.get("ABOUTFACE_DATA") or default)


def measure(
    data: Path,
    parts: Sequence[str],
    limit: int | None = None,
    sheets: Path | None = None,
    method: str = METHOD,
) -> Report:
    """Run the parts; the table follows their order in PARTS."""
    report = Report()
    if "time" in parts:
        # First, before this process itself makes load.
        measure_time(report)
    measuring = "pose" in parts or "identity" in parts
    if measuring or "photos" in parts:
        samples = photo_samples(data, limit)
        if measuring:
            samples += tar_samples(data / "ytf68-train.tar", "ytf", min(60, limit or 60))
            samples += tar_samples(data / "lfw150-train.tar", "lfw", min(40, limit or 40))
        pipeline, studies = Pipeline(method), []
        for index, sample in enumerate(samples):
            on_sheet = sheets is not None and sample.group in ("photos", "drawings")
            studies.append(study(pipeline, sample, measuring, on_sheet))
            if sys.stderr.isatty():
                print(f"\r{index + 1} of {len(samples)} pictures", end="", file=sys.stderr, flush=True)
        if sheets is not None:
            save_sheets(studies, sheets)
        photos = [s for s in studies if s.sample.group in ("photos", "drawings")]
        for part, judge, chosen in (
            ("photos", judge_photos, photos),
            ("pose", judge_pose, studies),
            ("identity", judge_identity, studies),
        ):
            if part in parts:
                judge(chosen, report)
    if "facewarper" in parts:
        measure_facewarper(data, report)
    if "fuzz" in parts:
        measure_fuzz(data, report, min(FUZZ_COUNT, limit or FUZZ_COUNT))
    report.goals.sort(key=lambda goal: PARTS.index(goal.part))
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the pictures")
    parser.add_argument("--check", action="store_true", help="exit 1, naming each missed goal")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the page; for a whole run only")
    parser.add_argument("--only", metavar="PARTS", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--sheets", type=Path, metavar="DIR", help="write contact sheets of all photos")
    parser.add_argument(
        "--method", default=METHOD, help=f"the reconstructor, or a file of its weights; {METHOD} if missing"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="at most N pictures of each kind")
    asked = parser.parse_args(arguments)
    parts = asked.only.split(",") if asked.only else list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only: {', '.join(sorted(unknown))} is not among {', '.join(PARTS)}")
    if asked.write and (asked.only or asked.limit):
        parser.error("--write needs the whole run: leave --only and --limit out")
    data = data_folder(asked.data)
    if not data.is_dir():
        parser.error(f"no data at {data}: give --data or set ABOUTFACE_DATA")
    about = machine()
    report = measure(data, parts, asked.limit, asked.sheets, asked.method)
    if asked.write:
        asked.write.write_text(document(report, about), "utf-8")
    return conclude(report, about, asked.check)


def conclude(report: Report, about: str, check: bool) -> int:
    """Print everything; the exit code is 1 where goals are missed and that was asked for."""
    print(about, report.table(), *report.details, sep="\n\n")
    missed = report.missed()
    if not check:
        return 0
    for goal in missed:
        print(f"missed: {goal.part}: {goal.goal}: {goal.measured}, wanted {goal.bound}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
