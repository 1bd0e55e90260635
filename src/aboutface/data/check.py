"""Looks at every byte of a data set and names what is wrong with it."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import AboutfaceError
from ..files import reason
from .example import Example, Examples, open_examples
from .shards import file_hash
from .sources import REPORT

PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Words at the start of a shard's or folder's name that say which part of the data it is."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    name: str
    """Of the shard or the example."""
    message: str


def check(
    source: str | PathLike[str], *, slack: float = 0.5, progress: Callable[[int, int], None] | None = None
) -> Iterator[Problem]:
    """Everything that is wrong with a data set, one problem at a time; nothing comes of a sound one.

    Damaged tars, shards that differ from report.json, pictures that do not decode, side files that do not parse,
    landmarks that are not 68 finite points or lie farther outside the picture than `slack` of its size, masks of
    another size, one key twice, one person in two parts (folders or shards named train, val, test).
    Raises UsageError where there are no pictures at all.
    """
    examples = open_examples(source)
    yield from (Problem(name, why) for name, why in examples.bad.items())
    yield from _check_report(Path(source), len(examples))
    yield from _check_keys(examples)
    for index, entry in enumerate(examples.entries):
        try:
            yield from (Problem(entry.name, why) for why in _wrong(examples[index], slack))
        except AboutfaceError as error:
            yield Problem(entry.name, str(error).removeprefix(f"{entry.name}: "))
        if progress:
            progress(index + 1, len(examples))
    yield from _check_parts(examples)


def _wrong(example: Example, slack: float) -> Iterator[str]:
    if example.landmarks is None:
        return
    height, width = example.pixels.shape[:2]
    size = np.array([width, height])
    outside = ((example.landmarks < -slack * size) | (example.landmarks > (1 + slack) * size)).any(1)
    if outside.any():
        worst = example.landmarks[np.abs(example.landmarks / size - 0.5).max(1).argmax()].round(1).tolist()
        yield f"{outside.sum()} of 68 landmarks are far outside the {width} x {height} pixels, as {worst}"


def _check_report(folder: Path, count: int) -> Iterator[Problem]:
    """Shards against the report of the command that wrote them."""
    path = folder / REPORT
    if not path.is_file():
        return
    try:
        report: dict[str, Any] = json.loads(path.read_text("utf-8"))
        shards = {str(shard["name"]): shard for shard in report["shards"]}
        kept = int(report["kept"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield Problem(REPORT, f"cannot be read ({reason(error)})")
        return
    if kept != count:
        yield Problem(REPORT, f"says {kept} examples, {count} are there")
    for name in sorted({path.name for path in folder.glob("[!.]*.tar")} ^ shards.keys()):
        yield Problem(name, "is missing" if name in shards else f"is not in {REPORT}")
    for name, shard in shards.items():
        if (folder / name).is_file() and file_hash(folder / name) != shard.get("sha256"):
            yield Problem(name, f"its bytes have another sha256 than {REPORT} says")


def _check_keys(examples: Examples) -> Iterator[Problem]:
    """WebDataset's key is what stands before the first dot, without the shard."""
    first: dict[str, str] = {}
    for entry in examples.entries:
        shard, _, member = entry.name.partition(".tar/")
        path = PurePosixPath(member or shard)
        key = str(path.parent / path.name.partition(".")[0])
        other = first.setdefault(key, entry.name)
        if other != entry.name:
            yield Problem(entry.name, f"has the key of {other}: {key}")


def _check_parts(examples: Examples) -> Iterator[Problem]:
    parts: defaultdict[str, set[str]] = defaultdict(set)
    for entry, identity in zip(examples.entries, examples.identities, strict=True):
        part = _part(entry.name)
        if identity is not None and part:
            parts[identity].add(part)
    for identity in sorted(name for name, seen in parts.items() if len(seen) > 1):
        yield Problem(identity, f"this person is in {' and '.join(sorted(parts[identity]))}")


def _part(name: str) -> str | None:
    """`train-000001.tar/key.jpg` and `train/b/key.jpg` are of the part train."""
    for folder in PurePosixPath(name).parts[:-1]:
        word = folder.lower().partition(".")[0].rstrip("0123456789").rstrip("-_")
        if word in PARTS:
            return PARTS[word]
    return None
