"""Table 1 of Unsup3d and GAN2Shape on open data with exact truth: `aboutface bench synface`.

The papers measure on renders of the licensed Basel face model. Here the faces are those of
`aboutface data synth faces`, which anyone makes again. Networks see its train split, scores are of its test split.
"""

import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..fit import find_device
from ..recipes.unsup3d import VARIANTS, variants
from . import synface_curve, synface_gan2shape, synface_tables
from .goals import Verdict, check
from .results import commit, write_results
from .statistics import Bootstrap, Number, interval, weighted_mean
from .synface_faces import Faces, Prediction, read_faces, score
from .synface_goals import GOALS, goals
from .synface_picture import columns, draw
from .synface_rows import Outcome, Place, Row, method_row, rows
from .synface_tables import Result
from .tables import Scores, Table

TRANSCRIPTION = "transcription"
DRAWS = 500


@dataclass(frozen=True)
class Options:
    """What is run on what."""

    data: Path
    """What `aboutface data synth faces` wrote."""
    output: Path = Path("runs/bench/synface")
    methods: tuple[str, ...] = ()
    """Reconstructors, by name or file."""
    rows: tuple[str, ...] = ()
    """Networks to train; all if none is named. What needs no training is always there."""
    steps: int | None = None
    """Of every network; the recipe's own if missing."""
    width: int | None = None
    """Channels of the networks' outermost level; the recipe's own if missing."""
    batch: int | None = None
    """Images per step; the recipe's own if missing."""
    seeds: int = 1
    device: str = "auto"
    gan: Path | None = None
    """Weights of a StyleGAN2 of the training images, for the method gan2shape."""
    targets: int = 200
    """Training images that gan2shape learns from."""
    samples: int = 0
    """Or so many of the generator's own pictures."""
    tuned: int = 0
    """Test images to which gan2shape is also fitted one by one, as published."""
    curve: bool = False
    """Also compare the schedules of gan2shape on the way: curve.png, and a table."""
    transcription: Path | None = None
    """JSON with the scores of a transcription of the original, see `read_transcription`."""
    quick: bool = False
    retrain: bool = False

    @property
    def limit(self) -> int | None:
        return 64 if self.quick else None


@dataclass
class Report:
    """All that a run found."""

    results: dict[str, Result]
    verdicts: list[Verdict]
    tables: list[Table]


def run(options: Options, log: Callable[[str], None] = print) -> Report:
    """Train, score, and write results.json, tables.md, tables.tex and faces.png into `options.output`.

    Raises UsageError where an option, the data or the transcription's file is wrong, before any training.
    """
    compared = {"width": options.width, "batch": options.batch}
    given = {name: value for name, value in compared.items() if value is not None}
    chosen = variants(**given) if given else VARIANTS
    place = Place(options.output, options.steps, options.device, options.quick, options.retrain, log, chosen)
    find_device(options.device)
    asked = _rows(options, place)
    given = None if options.transcription is None else read_transcription(options.transcription)
    train, test = read_faces(options.data, options.limit)
    log(f"{len(train)} images to train, {len(test)} to test, {test.size} pixels")
    results: dict[str, Result] = {}
    shown, sample = [], columns(test)
    for row in asked:
        seen = test if row.first is None else test.first(row.first)
        result, first = measure(row, train, seen, place, options.seeds)
        results[row.name] = result
        log(f"{row.name}: {result.line()}")
        if row.first is not None:
            continue
        title = f"{row.title}, no symmetry" if row.unsupervised and row.symmetry == "no" else row.title
        shown.append((title, Prediction(first.prediction.depth[sample], first.prediction.valid[sample])))
    if given is not None:
        results[TRANSCRIPTION] = given
    report = Report(results, *_judged(results))
    if options.curve:
        curves = synface_curve.measure_curves(_teaching(options), train, test.first(synface_curve.SCORED), place)
        report.tables.append(synface_curve.curve_table(curves))
        synface_curve.draw_curves(curves, options.output / "curve.png")
    _write(report, options, train, test)
    draw(test, shown, options.output / "faces.png")
    return report


def _rows(options: Options, place: Place) -> list[Row]:
    """What is compared, in the order of the table."""
    known = rows(place.variants)
    methods = list(options.methods)
    if synface_gan2shape.NAME in methods:
        methods.remove(synface_gan2shape.NAME)
        known |= _gan2shape(options, place)
    elif options.gan is not None or options.curve:
        raise UsageError("--gan and --curve are for the method gan2shape; add --method gan2shape")
    wrong = [name for name in options.rows if name not in known]
    if wrong:
        raise UsageError(f"--rows: there is no {', '.join(map(repr, wrong))}; there are: {', '.join(known)}")
    wanted = [row for row in known.values() if not row.seeded or not options.rows or row.name in options.rows]
    return [*wanted, *map(method_row, methods)]


def _gan2shape(options: Options, place: Place) -> dict[str, Row]:
    like = place.variants[synface_gan2shape.TEACHER]
    return synface_gan2shape.gan2shape_rows(_teaching(options), like.width, like.batch)


def _teaching(options: Options) -> synface_gan2shape.Teaching:
    if options.gan is None:
        raise UsageError("--method gan2shape: expected a generator; give --gan FILE, which train stylegan2 writes")
    return synface_gan2shape.Teaching(options.gan, options.targets, options.samples, options.tuned)


def measure(row: Row, train: Faces, test: Faces, place: Place, seeds: int = 1) -> tuple[Result, Outcome]:
    """The scores of a row, and what its first seed predicted."""
    blind, bootstrap = test.without_truth(), faces_drawn(test.identity)
    outcomes: list[Outcome] = []
    found: list[dict[str, Tensor]] = []
    start = time.perf_counter()
    for seed in range(seeds if row.seeded else 1):
        outcome = row.run(train, blind, seed, place)
        found.append(score(outcome.prediction, test))
        outcomes.append(outcome if seed == 0 else replace(outcome, prediction=outcomes[0].prediction))
    spent = time.perf_counter() - start
    first = outcomes[0]
    seconds = [one.seconds for one in outcomes if one.seconds is not None]
    result = Result(
        row.title,
        row.symmetry,
        row.unsupervised,
        {name: number([one[name] for one in found], bootstrap) for name in found[0]},
        first.parameters,
        first.steps,
        max(seconds) if seconds else None,
        spent,
        first.notes,
    )
    return result, first


def faces_drawn(identity: Tensor) -> Bootstrap:
    """Draws of people, each with all of its images."""
    faces = torch.arange(len(identity))
    return Bootstrap(faces, faces, identity.unique(return_inverse=True)[1], draws=DRAWS)


def number(seeds: list[Tensor], bootstrap: Bootstrap) -> Number:
    """One score (N,) of each seed, joined. Images without a number are left out; `n` tells how many are left."""
    known = torch.stack(seeds).isfinite().all(0)
    values = [seed[known] for seed in seeds]
    count = int(known.sum())
    if count == 0:
        return Number(math.nan, math.nan, math.nan, 0, (math.nan, math.nan), [math.nan] * len(seeds))
    means = [float(value.mean()) for value in values]
    index = torch.nonzero(known)[:, 0]
    draws = [bootstrap.distribution(weighted_mean(value.double()), index) for value in values]
    return Number(
        sum(means) / len(means),
        sum(float(value.std(correction=0)) for value in values) / len(values),
        sum(float(value.median()) for value in values) / len(values),
        count,
        interval(draws),
        means,
    )


def read_transcription(file: Path) -> Result:
    """Scores of another program on the same test images: JSON {"side": ..., "mad": ..., "title", "parameters", "steps",
    "seconds"}, the first two a list with one number per image, or their mean, as `metrics.side` and `metrics.mad` give.

    Raises UsageError for anything else.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
        values = {name: torch.as_tensor(content[name], dtype=torch.float64).flatten() for name in ("side", "mad")}
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f'--transcription {file}: expected JSON with "side" and "mad" ({reason})') from None
    if not all(len(value) and value.isfinite().all() for value in values.values()):
        raise UsageError(f"--transcription {file}: expected finite numbers for side and mad")
    if values["side"].mean() > 0.2:
        raise UsageError(f"--transcription {file}: side is {float(values['side'].mean()):g}; give it without the x 100")
    values["side"] = 100 * values["side"]
    scores = {
        name: number([value], faces_drawn(torch.arange(len(value)))) if len(value) > 1 else _single(float(value))
        for name, value in values.items()
    }
    return Result(
        str(content.get("title", "Unsup3d, transcribed")),
        "yes",
        False,
        scores,
        content.get("parameters"),
        content.get("steps"),
        content.get("seconds"),
    )


def _single(value: float) -> Number:
    return Number(value, math.nan, value, 1, (math.nan, math.nan), [value])


def _judged(results: dict[str, Result]) -> tuple[list[Verdict], list[Table]]:
    scores: Scores = {name: result.scores for name, result in results.items()}
    wanted = goals([name for name, result in results.items() if result.unsupervised])
    return check(wanted, {GOALS: scores}), synface_tables.tables(results)


def _write(report: Report, options: Options, train: Faces, test: Faces) -> None:
    record: dict[str, Any] = {
        "benchmark": "synface",
        "commit": commit(),
        "config": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()},
        "machine": machine(options.device),
        "images": {"train": len(train), "test": len(test), "size": test.size},
        "goals": [asdict(verdict) for verdict in report.verdicts],
        "results": {name: asdict(result) for name, result in report.results.items()},
    }
    about = (
        f"{len(train)} images to train, {len(test)} to test, {test.size} pixels; {record['machine']}; "
        f"commit {record['commit']}.\n"
    )
    write_results(options.output, record, report.tables, report.verdicts, about + "\n")


def machine(device: str) -> str:
    """What computed it, in words."""
    place = find_device(device)
    if place.type == "cuda":
        name = torch.cuda.get_device_name(place)
    else:
        name = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{place.type} ({name}), PyTorch {torch.__version__}"
