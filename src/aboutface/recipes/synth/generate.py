"""A set of synthetic faces in shards: `aboutface data synth faces`.

A shard is made by one process from its first image to its last, and takes its name when it is whole: so a run that was
stopped goes on where shards are missing, and bytes depend on settings and model only, not on the number of processes.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ...data.shards import file_hash, write_tar
from ...data.synthetic import write_members
from ...errors import UsageError
from ...files import atomic_path
from ...morphable import IctModel, ict_path
from ..workers import in_processes, stop_if_interrupted
from .card import make_card, readme
from .faces import FaceMaker
from .settings import SynthSettings

CARD, README, SHARDS = "card.json", "README.md", "shards.json"
GROUP = 20
"""Faces whose shapes are worked out at once."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """One shard."""

    model: str
    settings: SynthSettings
    path: Path
    images: range
    """Numbers of its images."""


def synth_faces(
    target: str | Path,
    settings: SynthSettings | None = None,
    *,
    model: str = "ict",
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make the faces in the folder `target`: train/, val/, test/ with shards, card.json, README.md; its card.

    Args:
        model: "ict" is the file that `IctModel.load` finds by itself; else an npz file or a folder.
        workers: processes.
        overwrite: make anew what `target` holds. Otherwise work that was stopped is continued, finished work is not
            repeated, and other settings or another model raise UsageError.
        progress: called with the number of images done, and of all.

    Raises MissingError without a model, UsageError for one that is broken, OutputError.
    """
    settings, target = settings or SynthSettings(), Path(target)
    if workers < 1:
        raise UsageError(f"--workers {workers}: expected at least 1")
    path = ict_path() if model == "ict" else Path(model)
    face_model = IctModel.load(path)
    card = make_card(settings, face_model)
    _claim(target, card, overwrite)
    jobs = [job for name in settings.ranges() for job in _jobs(str(path), settings, target, name)]
    waiting = [job for job in jobs if not job.path.exists()]
    done = settings.n - sum(len(job.images) for job in waiting)
    if progress:
        progress(done, settings.n)
    for count in in_processes(make_shard, [(job,) for job in waiting], min(workers, len(waiting))):
        done += count
        if progress:
            progress(done, settings.n)
    _report(target, card, jobs)
    return card


def make_shard(job: Job) -> int:
    """Write one shard, whole or not at all; the number of its images. One thread: its sums are then always the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            write_tar(job.path, _members(job))
    finally:
        torch.set_num_threads(threads)
    return len(job.images)


def _members(job: Job) -> Iterator[tuple[str, bytes]]:
    maker = _maker(job.model, job.settings.size, job.settings.seed)
    each, K = job.settings.images_per_identity, maker.K.numpy()
    for first in range(job.images.start, job.images.stop, GROUP):
        stop_if_interrupted()
        numbers = range(first, min(first + GROUP, job.images.stop))
        examples = maker.examples([(number, number // each) for number in numbers])
        for number, example in zip(numbers, examples, strict=True):
            yield from write_members(f"{number:08d}", example, K)


@lru_cache(maxsize=1)
def _maker(model: str, size: int, seed: int) -> FaceMaker:
    return FaceMaker(IctModel.load(model), size, seed)


def _jobs(model: str, settings: SynthSettings, target: Path, name: str) -> list[Job]:
    images = settings.ranges()[name]
    starts = range(images.start, images.stop, settings.shard)
    return [
        Job(model, settings, target / name / f"{i:06d}.tar", range(start, min(start + settings.shard, images.stop)))
        for i, start in enumerate(starts)
    ]


def _claim(target: Path, card: dict[str, Any], overwrite: bool) -> None:
    """Make `target` a place for this card's shards. Raises UsageError where it holds anything else."""
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target}: is no folder; name one")
    old = _read_card(target)
    if old is None:
        # What nobody made with this command is not ours to delete.
        for pattern in ("*.tar", "*/*.tar", CARD, README):
            if other := next(target.glob(pattern), None):
                raise UsageError(f"{target}: holds {other.relative_to(target)} of something else; name another folder")
    elif overwrite:
        _clear(target)
    elif not _same(old, card):
        raise UsageError(f"{target}: {_difference(old, card)}; name another folder or add --overwrite")
    # What a killed process was writing.
    for path in [*target.glob(".aboutface-*"), *target.glob("*/.aboutface-*")]:
        path.unlink(missing_ok=True)
    for name, text in ((CARD, json.dumps(card, indent=1) + "\n"), (README, readme(card))):
        with atomic_path(target / name) as temporary:
            temporary.write_text(text, "utf-8")


def _read_card(target: Path) -> dict[str, Any] | None:
    try:
        card = json.loads((target / CARD).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return card if isinstance(card, dict) and card.get("kind") == "synthetic faces" else None


def _same(old: dict[str, Any], card: dict[str, Any]) -> bool:
    return all(old.get(key) == card[key] for key in ("version", "settings", "model_sha256"))


def _difference(old: dict[str, Any], card: dict[str, Any]) -> str:
    before, now = old.get("settings") or {}, card["settings"]
    changed = [f"{key} {before.get(key)} instead of {value}" for key, value in now.items() if before.get(key) != value]
    return f"holds faces made with {', '.join(changed) or 'another model or version'}"


def _clear(target: Path) -> None:
    for path in target.glob("*/[0-9][0-9][0-9][0-9][0-9][0-9].tar"):
        path.unlink()
    (target / SHARDS).unlink(missing_ok=True)


def _report(target: Path, card: dict[str, Any], jobs: list[Job]) -> None:
    shards = [
        {
            "name": job.path.relative_to(target).as_posix(),
            "examples": len(job.images),
            "bytes": job.path.stat().st_size,
            "sha256": file_hash(job.path),
        }
        for job in jobs
    ]
    with atomic_path(target / SHARDS) as temporary:
        temporary.write_text(json.dumps({"settings": card["settings"], "shards": shards}, indent=1), "utf-8")
