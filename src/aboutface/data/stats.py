"""What is in a data set: counts, histograms, a contact sheet, the mean of the landmarks."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AboutfaceError, MissingError, UsageError
from ..files import atomic_path
from .example import Example, Examples, open_examples
from .pictures import draw_histograms, write_contact_sheet

Pose = tuple[float, float, float]
AXES = ("yaw", "pitch", "roll")


@dataclass
class Seen:
    """What is remembered of all examples: numbers, no pictures."""

    columns: dict[str, list[float]] = field(default_factory=dict)
    """Numbers by name: width, height, yaw, sharpness..."""
    identities: Counter[str] = field(default_factory=Counter)
    landmarks_sum: np.ndarray = field(default_factory=lambda: np.zeros((68, 2)))
    with_landmarks: int = 0
    with_mask: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    sheet: list[Example] = field(default_factory=list)

    def note(self, name: str, value: float) -> None:
        self.columns.setdefault(name, []).append(value)


def stats(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    pose_of: Callable[[np.ndarray], Pose] | None = None,
    sheet: int = 48,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Describe a data set; the content of stats.json, which is written to `output` with the pictures.

    contact.jpg shows a sample chosen by the seed, histograms.png the numbers (needs matplotlib). `pose_of` finds yaw,
    pitch and roll of landmarks (68, 2) where no side file has them. Examples that cannot be read are counted and named.
    Raises UsageError where there are no pictures, OutputError.
    """
    if min(sheet, seed) < 0:
        raise UsageError(f"--sheet {sheet}, --seed {seed}: expected at least 0")
    examples, output = open_examples(source), Path(output)
    seen = _look(examples, pose_of, sheet, seed, progress)
    summary = _summary(examples, seen)
    if seen.sheet:
        write_contact_sheet(output / "contact.jpg", seen.sheet)
    per_identity = list(map(float, seen.identities.values()))
    try:
        draw_histograms(output / "histograms.png", seen.columns | {"examples per person": per_identity}, str(source))
    except MissingError as error:
        summary["notes"].append(f"histograms.png was not drawn: {error}")
    with atomic_path(output / "stats.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1), "utf-8")
    return summary


def _look(
    examples: Examples,
    pose_of: Callable[[np.ndarray], Pose] | None,
    sheet: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Seen:
    seen = Seen(bad=dict(examples.bad))
    chosen = set(np.random.default_rng(seed).permutation(len(examples))[:sheet].tolist())
    for index, entry in enumerate(examples.entries):
        try:
            example = examples[index]
        except AboutfaceError as error:
            seen.bad[entry.name] = str(error)
        else:
            _note(seen, example, pose_of)
            if index in chosen:
                seen.sheet.append(example)
        if progress:
            progress(index + 1, len(examples))
    return seen


def _note(seen: Seen, example: Example, pose_of: Callable[[np.ndarray], Pose] | None) -> None:
    height, width = example.pixels.shape[:2]
    seen.note("width (px)", width)
    seen.note("height (px)", height)
    pose = example.pose
    if example.landmarks is not None:
        seen.with_landmarks += 1
        seen.landmarks_sum += example.landmarks / [width, height]
        pose = pose or (pose_of(example.landmarks) if pose_of else None)
    for axis, angle in zip(AXES, pose or (), strict=False):
        seen.note(f"{axis} (degrees)", angle)
    for name, value in example.quality.items():
        seen.note(name, value)
    if example.identity is not None:
        seen.identities[example.identity] += 1
    seen.with_mask += example.mask is not None


def _summary(examples: Examples, seen: Seen) -> dict[str, Any]:
    count = len(seen.columns.get("width (px)", []))
    mean = seen.landmarks_sum / seen.with_landmarks if seen.with_landmarks else None
    return {
        "entries": len(examples),
        "examples": count,
        "unusable": len(seen.bad),
        "with_landmarks": seen.with_landmarks,
        "with_mask": seen.with_mask,
        "with_identity": sum(seen.identities.values()),
        "identities": len(seen.identities),
        "numbers": {name: _quantiles(values) for name, values in seen.columns.items()}
        | {"examples per person": _quantiles(list(seen.identities.values()))},
        "mean_landmarks": None if mean is None else mean.round(4).tolist(),
        "bad": seen.bad,
        "notes": [],
    }


def _quantiles(values: list[float] | list[int]) -> dict[str, float]:
    """Mean, and the least, 5 %, median, 95 % and largest value; empty where there is none."""
    if not values:
        return {}
    row = np.asarray(values, np.float64)
    low, five, half, most, high = np.percentile(row, [0, 5, 50, 95, 100])
    named = {"mean": row.mean(), "min": low, "p5": five, "median": half, "p95": most, "max": high}
    return {name: round(float(value), 5) for name, value in named.items()}
