"""The table of Unsup3d and GAN2Shape with our numbers, and what each change of ours brings."""

import math
from dataclasses import dataclass, field
from typing import Any

from .statistics import Number
from .tables import Table

PUBLISHED = {
    "supervised": (0.419, 10.83),
    "flat": (2.723, 43.22),
    "average": (1.978, 22.99),
    "original": (0.807, 16.34),
    "original-nosym": (1.334, 33.79),
    "gan2shape-noreg": (0.925, 16.42),
    "gan2shape": (0.756, 14.81),
    "gan2shape-nosym": (1.023, 17.09),
}
"""SIDE x 100 and MAD of Table 1 of GAN2Shape, on the first 500 test images of its BFM set."""
ELSEWHERE = {
    "gan2shape": ("GAN2Shape (not run here)", "yes"),
    "gan2shape-nosym": ("GAN2Shape (not run here)", "no"),
}
PRIORS = {
    "gan2shape": ("ellipsoid", 0.756, 14.81),
    "gan2shape-asymmetric": ("asymmetric", 0.769, 14.95),
    "gan2shape-shift-6": ("shifted by W/6", 0.767, 14.93),
    "gan2shape-shift-4": ("shifted by W/4", 0.775, 15.07),
    "gan2shape-weak": ("half as high", 0.764, 14.97),
    "gan2shape-flat": ("flat", 1.021, 20.46),
}
"""Title, SIDE x 100 and MAD of GAN2Shape's Table 2."""
ABLATED = "improved"
FIRST = "gan2shape"


@dataclass(frozen=True)
class Result:
    """One row, measured."""

    title: str
    symmetry: str
    unsupervised: bool
    scores: dict[str, Number]
    parameters: int | None = None
    steps: int | None = None
    seconds: float | None = None
    """By the clock, of the training; of the slowest seed."""
    total_seconds: float | None = None
    """Training (if it was not kept) and test, of all seeds."""
    notes: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """For people who wait."""
        side, mad = self.scores["side"], self.scores["mad"]
        return f"SIDE {side.mean:.3f} e-2, MAD {mad.mean:.2f} degrees, {side.n} images"


def tables(results: dict[str, Result]) -> list[Table]:
    """The main table, and where there are any, views and light, and the ablation."""
    changes = {name: result for name, result in results.items() if name.startswith(f"{ABLATED} - ")}
    priors = {name: result for name, result in results.items() if name in PRIORS}
    main = {name: r for name, r in results.items() if name not in changes and (name not in priors or name == FIRST)}
    made = [depth_table(main)]
    if (views := view_table(results)).rows:
        made.append(views)
    if changes and ABLATED in results:
        made.append(ablation_table(results[ABLATED], changes))
    if len(priors) > 1:
        made.append(prior_table(priors))
    return made


def depth_table(results: dict[str, Result]) -> Table:
    """Depth and normals, the papers' numbers beside ours."""
    rows = []
    for name, result in results.items():
        side, mad = result.scores["side"], result.scores["mad"]
        cells = [result.title, result.symmetry, _millions(result.parameters), _training(result)]
        cells += [_spread(side, 3), _interval(side, 3), _spread(mad, 2), _interval(mad, 2), _coverage(result)]
        rows.append([*cells, *_published(PUBLISHED.get(name))])
    for name, (title, symmetry) in ELSEWHERE.items():
        if name not in results:
            rows.append([title, symmetry, "", "", "", "", "", "", "", *_published(PUBLISHED[name])])
    return Table(
        "Table 1: depth and normals of synthetic faces",
        [
            "method",
            "symmetry",
            "parameters, M",
            "training",
            "SIDE ± std, 1e-2",
            "95 %",
            "MAD ± std, °",
            "95 %",
            "covered, %",
            "BFM: SIDE",
            "BFM: MAD",
        ],
        rows,
        [
            "± is the spread over images; intervals draw people anew. Lower is better.",
            "BFM: what the papers print for their own set, renders of another face model, 160,000 to train. "
            "It is another data set: compare proportions only.",
            "Covered: share of the face's pixels that a method has a surface for; others are left out of its scores.",
            *_features(results),
        ],
    )


def view_table(results: dict[str, Result]) -> Table:
    """Head pose and light, of whoever tells them."""
    rows = []
    for result in results.values():
        scores = result.scores
        if "view" in scores or "light" in scores:
            names = ("view", "own_zero", "yaw", "pitch", "roll", "light", "share")
            cells = [_plain(scores[name], 3 if name == "share" else 1) if name in scores else "–" for name in names]
            rows.append([result.title, result.symmetry, *cells])
    return Table(
        "View and light, mean errors",
        ["method", "symmetry", "view, °", "own zero, °", "yaw, °", "pitch, °", "roll, °", "light, °", "ambient share"],
        rows,
        [
            "view: the angle of the turn from the predicted to the true pose. Own zero: after the one rotation, the "
            "same for all images, that a method without labels chooses freely (found on the test images: 3 numbers).",
            "light: between the directions, in the camera's frame. Ambient share: of ambient / (ambient + diffuse).",
        ],
    )


def ablation_table(whole: Result, changes: dict[str, Result]) -> Table:
    """What each change of ours brings: all but one of them."""
    rows = [
        [
            "improved, all changes",
            _training(whole),
            _plain(whole.scores["side"], 3),
            "",
            _plain(whole.scores["mad"], 2),
            "",
        ]
    ]
    for name, result in changes.items():
        cells = [f"without {name.removeprefix(f'{ABLATED} - ')}", _training(result)]
        for score, digits in (("side", 3), ("mad", 2)):
            value, base = result.scores[score], whole.scores[score]
            cells += [_plain(value, digits), f"{100 * (value.mean / base.mean - 1):+.1f} %"]
        rows.append(cells)
    return Table(
        "Ablation: improved Unsup3d without one change each",
        ["method", "training", "SIDE, 1e-2", "change", "MAD, °", "change"],
        rows,
        ["A positive change says that what is left out helped."],
    )


def prior_table(results: dict[str, Result]) -> Table:
    """What GAN2Shape makes of other first shapes."""
    rows = []
    for name, (title, *paper) in PRIORS.items():
        if name in results:
            side, mad = results[name].scores["side"], results[name].scores["mad"]
            cells = [title, _training(results[name]), _spread(side, 3), _interval(side, 3)]
            rows.append([*cells, _spread(mad, 2), _interval(mad, 2), *_published((paper[0], paper[1]))])
    return Table(
        "Table 2: first shapes of GAN2Shape",
        ["first shape", "training", "SIDE ± std, 1e-2", "95 %", "MAD ± std, °", "95 %", "BFM: SIDE", "BFM: MAD"],
        rows,
        ["Here after joint training alone; the paper fine-tunes to every test image as well."],
    )


def _features(results: dict[str, Result]) -> list[str]:
    used = sorted({str(result.notes["features"]) for result in results.values() if "features" in result.notes})
    return [f"Features of the perceptual loss: {', '.join(used)}."] if used else []


def _training(result: Result) -> str:
    """Steps and time."""
    if result.steps is None:
        return "–"
    time = "" if result.seconds is None else f", {_duration(result.seconds)}"
    return f"{result.steps} steps{time}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _millions(parameters: int | None) -> str:
    return "–" if parameters is None else f"{parameters / 1e6:.2f}"


def _coverage(result: Result) -> str:
    coverage = result.scores.get("coverage")
    return "" if coverage is None else f"{coverage.mean:.1f}"


def _published(numbers: tuple[float, float] | None) -> list[str]:
    return ["", ""] if numbers is None else [f"{numbers[0]:.3f}", f"{numbers[1]:.2f}"]


def _spread(number: Number, digits: int) -> str:
    text = _plain(number, digits)
    return text if math.isnan(number.std) else f"{text} ± {number.std:.{digits}f}"


def _interval(number: Number, digits: int) -> str:
    low, high = number.ci
    return "" if math.isnan(low) else f"{low:.{digits}f}–{high:.{digits}f}"


def _plain(number: Number, digits: int) -> str:
    return "no number" if math.isnan(number.mean) else f"{number.mean:.{digits}f}"
