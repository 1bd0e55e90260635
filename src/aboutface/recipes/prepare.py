"""Any photos to a data set: `aboutface data prepare SRC DST`.

Two stages, so that stopping at any moment loses little and changes nothing. First, chunks of CHUNK photos are done in
parallel, in any order; each becomes a file in DST/.parts, whole or not at all. Then the parts are read in the order of
the photos' names, duplicates are left out, and shards written. A second run finds the parts of the first; the shards
have the same bytes whatever the number of processes and however often the work was stopped.
"""

import hashlib
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data import Example, Examples, find_entries
from ..data.crop import cut, face_mask, inside_share
from ..data.example import check_landmarks, identity_of, read_pixels, read_record
from ..data.pictures import draw_histograms, write_contact_sheet
from ..data.quality import NearHashes, measure, perceptual_hash
from ..data.repack import SHARD, check_apart, clear, plan_of, write_lines, write_report
from ..data.shards import ShardWriter, safe_key, write_tar
from ..data.sources import Entry, Found
from ..detect import choose, detect
from ..errors import AboutfaceError, MissingError, NoFaceError, PhotoError, UsageError
from ..face import Face
from ..files import reason
from ..geometry import orthographic_pose
from ..images import encode_image
from ..morphable import POSE_WEIGHTS, MeanHead
from ..scene import Pose
from .prepare_settings import PrepareSettings
from .workers import in_processes

CHUNK = 32
"""Photos per part: what a stop costs at most, per process."""
PARTS = ".parts"
SHEET = 48
"""Examples on the contact sheet."""

Progress = Callable[[int, int], None]


@dataclass
class Outcome:
    """What became of one photo."""

    name: str
    sha256: str = ""
    """Of its pixels; empty where it has none."""
    phash: int = 0
    kept: list[dict[str, Any]] = field(default_factory=list)
    """The records (.json) of its faces."""
    dropped: list[tuple[str, str]] = field(default_factory=list)
    """Reason in one word, and the sentence."""


Packed = list[tuple[dict[str, Any], dict[str, bytes]]]
"""Records, and contents by suffix."""


def prepare(
    source: str | Path | Sequence[str | Path],
    target: str | Path,
    settings: PrepareSettings | None = None,
    *,
    workers: int = 1,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Photos to shards of crops in the folder `target`; the content of its report.json.

    Args:
        source: see `aboutface.data.find_entries`.
        workers: processes. seed: chooses the examples on the contact sheet.
        overwrite: make anew what `target` holds already. Otherwise, the same work finished before is not repeated, an
            interrupted one is continued, and other work's shards raise UsageError.
        progress: called with the number of photos done, and of all.

    Raises UsageError where there is no photo, `target` holds something else, or one lies in the other; OutputError.
    """
    settings, target = settings or PrepareSettings(), Path(target)
    if workers < 1 or seed < 0:
        raise UsageError(f"--workers {workers}, --seed {seed}: expected at least 1 and 0")
    found = find_entries(source)
    found.entries = found.entries[: settings.limit or None]
    if not found.entries:
        raise UsageError(f"{source}: no pictures are in it; give a folder, tar, glob or list of photos")
    check_apart(source, found.entries, target)
    choose(settings.detector)  # a missing model is said once and now, not for every photo
    plan = plan_of(found.entries, asdict(settings))
    parts = target / PARTS / plan[:16]
    if overwrite:
        shutil.rmtree(target / PARTS, ignore_errors=True)
    if done := clear(target, plan, overwrite, started=parts.is_dir()):
        return done
    _run_chunks(found.entries, settings, parts, workers, progress)
    report = _assemble(found, settings, target, parts, plan, seed)
    shutil.rmtree(target / PARTS, ignore_errors=True)
    return report


# ---- first stage: chunks of photos to parts ----


def _run_chunks(
    entries: Sequence[Entry], settings: PrepareSettings, parts: Path, workers: int, progress: Progress | None
) -> None:
    starts = range(0, len(entries), CHUNK)
    chunks = [(entries[i : i + CHUNK], settings, parts / f"{i // CHUNK:08d}.tar") for i in starts]
    waiting = [chunk for chunk in chunks if not chunk[2].exists()]
    done = len(entries) - sum(len(chunk[0]) for chunk in waiting)
    for count in in_processes(prepare_chunk, waiting, min(workers, len(waiting))):
        done += count
        if progress:
            progress(done, len(entries))


def prepare_chunk(entries: Sequence[Entry], settings: PrepareSettings, part: Path) -> int:
    """Do some photos and write their part: outcomes.json, and the files of every face. Returns how many photos."""
    outcomes: list[dict[str, Any]] = []
    members: list[tuple[str, bytes]] = []
    for entry in entries:
        outcome, files = prepare_photo(entry, settings)
        outcomes.append(asdict(outcome))
        for record, contents in zip(outcome.kept, files, strict=True):
            members += [(f"{record['key']}.{suffix}", content) for suffix, content in contents.items()]
    write_tar(part, [("outcomes.json", json.dumps(outcomes).encode()), *members])
    return len(entries)


def prepare_photo(entry: Entry, settings: PrepareSettings) -> tuple[Outcome, list[dict[str, bytes]]]:
    """What becomes of one photo, and for every record kept the files by suffix. Never raises for a bad photo."""
    outcome = Outcome(entry.name)
    try:
        pixels = read_pixels(entry)
        outcome.sha256 = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        outcome.phash = perceptual_hash(pixels)
        record = read_record(entry)
        return outcome, _prepare_faces(outcome, entry, pixels, record, settings)
    except (PhotoError, MissingError) as error:  # HEIC needs a package
        outcome.dropped.append(("unreadable", str(error)))
    except NoFaceError as error:
        outcome.dropped.append(("no-face", str(error)))
    except AboutfaceError as error:
        outcome.dropped.append(("side-file", str(error)))
    except Exception as error:
        # One photo that an unknown bug trips over must not cost the other million.
        outcome.dropped.append(("error", f"{entry.name}: {type(error).__name__}: {reason(error)}"))
    outcome.kept.clear()
    return outcome, []


def _prepare_faces(
    outcome: Outcome, entry: Entry, pixels: np.ndarray, record: dict[str, Any], settings: PrepareSettings
) -> list[dict[str, bytes]]:
    files: list[dict[str, bytes]] = []
    identity = identity_of(entry, record, settings.identity)
    for index, face in enumerate(_faces(entry, pixels, record, settings)):
        why = _unfit_face(face, pixels, settings)
        if why is None:
            key = safe_key(entry.name) + (f"-f{index}" if settings.faces == "all" else "")
            made, contents = _crop(face, pixels, settings)
            why = _unfit_crop(made, settings)
            if why is None:
                about = {"key": key, "source": entry.name, "identity": identity}
                outcome.kept.append(about | made | {"sha256": outcome.sha256, "phash": f"{outcome.phash:016x}"})
                files.append(contents)
                continue
        outcome.dropped.append((why[0], f"{entry.name}: {why[1]}"))
    return files


def _faces(entry: Entry, pixels: np.ndarray, record: dict[str, Any], settings: PrepareSettings) -> list[Face]:
    points = record.get("landmarks68", record.get("landmarks"))
    if settings.landmarks == "keep" and points is not None:
        given = check_landmarks(points, entry.name).astype(np.float64)
        left, top, right, bottom = (*given.min(0).tolist(), *given.max(0).tolist())
        return [Face(given, (left, top, right, bottom))]
    try:
        # Small faces are counted apart from missing ones.
        return detect(pixels, face=settings.faces, detector=settings.detector, min_face=0)
    except NoFaceError as error:
        raise NoFaceError(f"{entry.name}: {error}") from None


def _unfit_face(face: Face, pixels: np.ndarray, settings: PrepareSettings) -> tuple[str, str] | None:
    centre, (height, width) = face.landmarks.mean(0), pixels.shape[:2]
    if not (0 <= centre[0] <= width and 0 <= centre[1] <= height):
        return "outside", f"the face's centre {centre.round(1).tolist()} is outside the {width} x {height} pixels"
    if face.size < max(settings.min_face, 1):
        return "small-face", f"the face has {face.size:.0f} px, at least {settings.min_face:g} are asked for"
    return None


def _unfit_crop(record: dict[str, Any], settings: PrepareSettings) -> tuple[str, str] | None:
    yaw, sharpness = record["pose"]["yaw"], record["quality"]["sharpness"]
    if abs(yaw) > settings.max_yaw:
        return "turned", f"the face is turned by {yaw:.0f} degrees, up to {settings.max_yaw:g} are asked for"
    if sharpness < settings.min_sharpness:
        return "blurred", f"the sharpness is {sharpness:.3g}, at least {settings.min_sharpness:g} is asked for"
    return None


def _crop(face: Face, pixels: np.ndarray, settings: PrepareSettings) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Record and files of one face."""
    size = settings.size
    transform = _whole(pixels, size) if settings.aligned else face.photo_from_crop(size, settings.margin)
    points = (face.landmarks - transform[:2, 2]) / np.diag(transform)[:2]
    crop = cut(pixels, transform, size)
    mask = face_mask(points, (size, size))
    yaw, pitch, roll = pose_of(points)
    inside = inside_share(transform, size, (pixels.shape[0], pixels.shape[1]))
    quality = {"face_px": face.size, "score": face.score, "inside": inside} | measure(crop, mask)
    record = {
        "landmarks68": points.round(3).tolist(),
        "photo_from_crop": transform.round(9).tolist(),
        "pose": {"yaw": round(yaw, 2), "pitch": round(pitch, 2), "roll": round(roll, 2)},
        "quality": {name: round(value, 5) for name, value in quality.items()},
        "landmarks_by": face.detector,
    }
    return record, {"jpg": encode_image(crop, suffix=".jpg"), "mask.png": encode_image(mask, suffix=".png")}


def _whole(pixels: np.ndarray, size: int) -> np.ndarray:
    """photo_from_crop of the largest centred square."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    return np.array([[side / size, 0, (width - side) / 2], [0, side / size, (height - side) / 2], [0, 0, 1.0]])


def pose_of(landmarks: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch, roll in degrees of landmarks (68, 2): those of the mean head fitted to them."""
    points = torch.from_numpy(np.asarray(landmarks, np.float32))[None]
    rotation, _, _ = orthographic_pose(MeanHead.load().landmarks, points, POSE_WEIGHTS)
    yaw, pitch, roll = Pose.of(rotation[0])
    return float(yaw), float(pitch), float(roll)


# ---- second stage: parts to shards and report ----


@dataclass
class _Tally:
    """What is counted while parts become shards."""

    dropped: list[dict[str, Any]] = field(default_factory=list)
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    poses: list[tuple[float, float, float]] = field(default_factory=list)
    identities: Counter[str] = field(default_factory=Counter)
    seen: dict[str, str] = field(default_factory=dict)
    """Digest of pixels -> first name with it."""

    def drop(self, name: str, why: str, message: str) -> None:
        self.dropped.append({"name": name, "reason": why, "message": message})


def _assemble(
    found: Found, settings: PrepareSettings, target: Path, parts: Path, plan: str, seed: int
) -> dict[str, Any]:
    tally, near = _Tally(), NearHashes(settings.near)
    for name, why in found.bad.items():
        tally.drop(name, "damaged", f"{name}: {why}")
    writer = ShardWriter(target, settings.shard)
    for part in sorted(parts.glob("[0-9]*.tar")):
        for outcome, packed in _read_part(part):
            if _is_new(outcome, tally, near, settings):
                for record, contents in packed:
                    _keep(record, contents, writer, tally)
            for why, message in outcome.dropped:
                tally.drop(outcome.name, why, message)
    writer.finish()
    return _write_report(found, settings, target, writer, tally, plan, seed)


def _read_part(part: Path) -> Iterator[tuple[Outcome, Packed]]:
    with tarfile.open(part, "r:") as tar:

        def content(name: str) -> bytes:
            file = tar.extractfile(name)
            assert file is not None
            return file.read()

        for row in json.loads(content("outcomes.json")):
            outcome = Outcome(**row)
            files = [{s: content(f"{record['key']}.{s}") for s in ("jpg", "mask.png")} for record in outcome.kept]
            yield outcome, list(zip(outcome.kept, files, strict=True))


def _is_new(outcome: Outcome, tally: _Tally, near: NearHashes, settings: PrepareSettings) -> bool:
    """False for a photo with the pixels of an earlier one that gave a face; near duplicates as the settings say."""
    if not outcome.kept:
        return False
    first, distance = tally.seen.setdefault(outcome.sha256, outcome.name), 0
    is_copy = first != outcome.name
    if not is_copy:
        like = near.find(outcome.phash)
        if like is None:
            near.add(outcome.phash, outcome.name)
            return True
        first, distance = like
    tally.duplicates.append({"name": outcome.name, "same_as": first, "bits": distance, "exact": is_copy})
    if is_copy or settings.drop_near_duplicates:
        why = "duplicate" if is_copy else "near-duplicate"
        tally.drop(outcome.name, why, f"{outcome.name}: {why.replace('-', ' ')} of {first}")
        return False
    return True


def _keep(record: dict[str, Any], contents: dict[str, bytes], writer: ShardWriter, tally: _Tally) -> None:
    pose = record["pose"]
    tally.poses.append((pose["yaw"], pose["pitch"], pose["roll"]))
    tally.identities[record["identity"] or ""] += 1
    writer.add(record["key"], contents | {"json": json.dumps(record).encode()})


def _write_report(
    found: Found,
    settings: PrepareSettings,
    target: Path,
    writer: ShardWriter,
    tally: _Tally,
    plan: str,
    seed: int,
) -> dict[str, Any]:
    exact = sum(row["exact"] for row in tally.duplicates)
    notes: list[str] = []
    if tally.poses:
        notes = _draw(target, tally, seed)
    content = {
        "settings": asdict(settings),
        "photos": len(found.entries),
        "kept": len(tally.poses),
        "ignored": dict(sorted(found.ignored.items())),
        "identities": len(tally.identities.keys() - {""}),
        "duplicates": {"exact": exact, "near": len(tally.duplicates) - exact},
        "pose": pose_histogram(tally.poses),
        "notes": notes,
    }
    write_lines(target / "duplicates.jsonl", tally.duplicates)
    return write_report(target, plan, content, tally.dropped, writer)


def _draw(target: Path, tally: _Tally, seed: int) -> list[str]:
    """Draws poses.png and contact.jpg; what could not be drawn, and why."""
    examples = _shards_of(target)
    chosen = np.random.default_rng(seed).permutation(len(examples))[:SHEET]
    sheet: list[Example] = [examples[int(index)] for index in np.sort(chosen)]
    write_contact_sheet(target / "contact.jpg", sheet)
    columns = dict(zip(("yaw", "pitch", "roll"), zip(*tally.poses, strict=True), strict=True))
    values = {f"{axis} (degrees)": column for axis, column in columns.items()}
    try:
        draw_histograms(target / "poses.png", values, f"Pose of {len(tally.poses)} faces")
    except MissingError as error:
        return [f"poses.png was not drawn: {error}"]
    return []


def _shards_of(target: Path) -> Examples:
    return Examples(find_entries(sorted(target.glob(SHARD))).entries)


def pose_histogram(poses: Sequence[tuple[float, float, float]]) -> dict[str, Any]:
    """Counts per 10 degrees of yaw, pitch and roll, from -180 to 180."""
    edges = np.arange(-180, 181, 10)
    columns = np.array(poses, np.float64).reshape(-1, 3).T
    counts = {a: np.histogram(c, edges)[0].tolist() for a, c in zip(("yaw", "pitch", "roll"), columns, strict=True)}
    return {"edges": edges.tolist()} | counts
