"""How far found landmarks lie from annotated ones: `aboutface bench landmarks --data TAR`.

The people are those that training keeps aside (`recipes.deep3d`, a fifth of all names). Every method is given the box
of the true landmarks, so that detectors are not compared. The error is that of AFLW2000-3D (Zhu et al., CVPR 2016): the
mean distance in percent of the square root of that box's area.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import keep_aside, open_examples
from ..detect.dlib_backend import DlibDetector
from ..errors import AboutfaceError, UsageError
from ..metrics.keypoints import landmark_error
from ..nn.mobile import fused
from ..reconstruct.deep3d_finder import find_landmarks, in_box
from ..reconstruct.deep3d_landmarks import FaceRegressor
from ..reconstruct.face_frame import FaceFrame
from .goals import Goal, Verdict, check
from .results import commit, write_results
from .statistics import Number
from .tables import Scores, Table

Box = tuple[float, float, float, float]
Finder = Callable[[np.ndarray, Box], Tensor]
TABLE = "landmarks"
BINS = {"all": (0, 90), "0-15": (0, 15), "15-30": (15, 30), "30-60": (30, 60)}
"""Degrees of |yaw|, by the pose fit on the true landmarks."""
BOUNDS = {"all": 3.15, "0-15": 2.9, "15-30": 3.4, "30-60": 4.0}
"""What a network must reach, in percent."""


@dataclass(frozen=True)
class Options:
    """What is measured."""

    data: Path
    """Folder or tar of face crops with landmarks and names."""
    output: Path
    """Folder of the results."""
    method: Path | None = None
    """Weights of the small network."""
    limit: int | None = None
    """At most so many faces."""


@dataclass(frozen=True)
class Report:
    tables: list[Table]
    verdicts: list[Verdict]


def run(options: Options, log: Callable[[str], None] = print) -> Report:
    """Score, and write results.json and tables.md into `options.output`. Raises UsageError."""
    detector = DlibDetector()
    finders: dict[str, tuple[str, Finder]] = {
        "mean": ("mean face, filling the box", lambda _, box: in_box(box)),
        "dlib": (
            "dlib's predictor",
            lambda pixels, box: torch.from_numpy(detector.face_in_box(pixels, square(box)).landmarks),
        ),
    }
    if options.method is not None:
        net = fused(FaceRegressor.from_file(options.method))
        finders["network"] = (
            "small network, two passes",
            lambda pixels, box: find_landmarks(net, pixels, in_box(box)).points.float(),
        )
    yaw, errors = measured(options, {name: finder for name, (_, finder) in finders.items()}, log)
    scores: Scores = {name: binned(values, yaw) for name, values in errors.items()}
    goals = [Goal(TABLE, f"network, |yaw| {name}", _value(name), BOUNDS[name]) for name in BINS if "network" in finders]
    titles = {name: title for name, (title, _) in finders.items()}
    report = Report([_table(scores, titles, len(yaw))], check(goals, {TABLE: scores}))
    _write(report, options, scores, len(yaw))
    return report


def measured(
    options: Options, finders: dict[str, Finder], log: Callable[[str], None]
) -> tuple[Tensor, dict[str, Tensor]]:
    """|yaw| (N,), degrees, and the error (N,), percent, of each finder on the people kept aside."""
    examples = open_examples(options.data)
    if not any(examples.identities):
        raise UsageError(
            f"--data {options.data}: no face has a name, so nobody can be kept aside; give ytf68-train.tar"
        )
    chosen = keep_aside(examples.identities)["test"].tolist()[: options.limit]
    yaw: list[float] = []
    errors: dict[str, list[Tensor]] = {name: [] for name in finders}
    for number, index in enumerate(chosen):
        try:
            example = examples[index]
        except AboutfaceError as error:
            log(f"left out: {error}")
            continue
        if example.landmarks is None:
            continue
        truth = torch.from_numpy(example.landmarks)
        left, top, right, bottom = (*truth.amin(0).tolist(), *truth.amax(0).tolist())
        yaw.append(abs(float(FaceFrame.of(truth[None]).yaw)))
        for name, finder in finders.items():
            errors[name].append(landmark_error(finder(example.pixels, (left, top, right, bottom)), truth))
        if (number + 1) % 100 == 0:
            log(f"{number + 1} of {len(chosen)} faces")
    if not yaw:
        raise UsageError(f"--data {options.data}: none of the people kept aside has a face with landmarks")
    return torch.tensor(yaw), {name: torch.stack(values) for name, values in errors.items()}


def square(box: Box) -> Box:
    """The square about a box, with its longer side: what dlib's detector gives of a profile, too."""
    left, top, right, bottom = box
    half = max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return (x - half, y - half, x + half, y + half)


def binned(errors: Tensor, yaw: Tensor) -> dict[str, Number]:
    """Mean error (N,) over each of BINS of |yaw| (N,); bins without a face are left out."""
    found = {}
    for name, (low, high) in BINS.items():
        values = errors[(yaw >= low) & ((yaw < high) | (high == 90))].double()
        if len(values):
            mean, spread = float(values.mean()), float(values.std(correction=0))
            half = 1.96 * spread / len(values) ** 0.5
            found[name] = Number(mean, spread, float(values.median()), len(values), (mean - half, mean + half))
    return found


def _value(name: str) -> Callable[[Scores], float]:
    return lambda scores: scores["network"][name].mean


def _table(scores: Scores, titles: dict[str, str], count: int) -> Table:
    rows = [
        [
            titles[method],
            *(f"{found[name].mean:.2f}" if name in found else "–" for name in BINS),
            f"{found['all'].median:.2f}",
        ]
        for method, found in scores.items()
    ]
    numbers = next(iter(scores.values()))
    sizes = ", ".join(f"{name}: {numbers[name].n}" for name in BINS if name in numbers)
    notes = [
        f"Mean distance in percent of the square root of the true box's area, {count} faces of people kept aside; "
        f"faces by |yaw|, degrees: {sizes}.",
        "All get the box of the true landmarks.",
    ]
    return Table("68 landmarks", ["method", *BINS, "median"], rows, notes)


def _write(report: Report, options: Options, scores: Scores, count: int) -> None:
    record: dict[str, Any] = {
        "benchmark": "landmarks",
        "commit": commit(),
        "config": {"data": str(options.data), "method": None if options.method is None else str(options.method)},
        "faces": count,
        "goals": [asdict(verdict) for verdict in report.verdicts],
        "results": {name: {key: asdict(number) for key, number in row.items()} for name, row in scores.items()},
    }
    write_results(options.output, record, report.tables, report.verdicts)
