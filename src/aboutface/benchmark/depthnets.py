"""Tables 1 to 3 and the figures of DepthNets (Moniz et al. 2018) on open data: `aboutface bench depthnets`.

Table 1 takes pairs of one identity of `ytf68-train.tar`, 80 % of the people to train. Tables 2 and 3 take 75 left, 75
front and 75 right faces of a 3D landmark file, all 50,400 ordered pairs of them, and train on the rest.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..metrics import centred, gauge_score, similarity_score
from . import learned, tables
from .goals import Verdict, check, goals, training_time
from .methods import Method, Store
from .protocol import (
    FRAME,
    POSES,
    Errors,
    Faces,
    Pairs,
    Predictor,
    Split,
    all_pairs,
    evaluate,
    pose_of,
    read_landmarks,
    read_videos,
    same_identity,
    split_by_identity,
    split_by_pose,
)
from .results import commit, write_results
from .statistics import Bootstrap, Number, Statistic, interval, weighted_depth_corr, weighted_mean


@dataclass(frozen=True)
class Options:
    """What is run on what."""

    landmarks: Path
    """NPZ file of 3D landmarks, see `protocol.read_landmarks`."""
    videos: Path | None
    """Tar of faces with identities; not needed for Table 3 alone."""
    output: Path = Path("runs/bench/depthnets")
    seeds: int = 3
    """Each draws another split and other initial weights."""
    only: Literal["table1", "table3"] | None = None
    quick: bool = False
    """A smoke run on few faces, whose numbers mean nothing."""
    retrain: bool = False
    frame: float = FRAME
    """Pixels of the pictures' side in the landmark file."""

    @property
    def per_pose(self) -> int:
        return 8 if self.quick else 75

    @property
    def people(self) -> int | None:
        return 12 if self.quick else None

    @property
    def draws(self) -> int:
        return 40 if self.quick else 500


@dataclass
class Trial:
    """One seed of one experiment: what the figures need."""

    split: Split
    pairs: Pairs
    predictors: dict[str, Predictor] = field(default_factory=dict)
    errors: dict[str, Errors] = field(default_factory=dict)


@dataclass
class Outcome:
    """All that a run found."""

    results: dict[str, tables.Scores]
    verdicts: list[Verdict]
    tables: list[tables.Table]
    trials: dict[str, Trial]
    """The first seed of each experiment."""
    dropped: dict[str, dict[str, int]]
    seconds: dict[str, float]
    """CPU seconds of training, by network."""


Part = tuple[float, Tensor, float, float, int]
"""One seed's value, its bootstrap distribution, standard deviation, median and count."""


def run(options: Options, log: Callable[[str], None] = print) -> Outcome:
    """Train, score, and write results.json, tables.md, tables.tex and the figures into `options.output`."""
    from . import figures

    figures.ready()
    landmarks, dropped_landmarks = read_landmarks(options.landmarks, options.frame)
    dropped = {options.landmarks.name: dropped_landmarks}
    found: dict[str, tuple[tables.Scores, Trial]] = {}

    seconds: dict[str, float] = {}

    def store(table: str) -> Store:
        return Store(options.output / "models" / table, options.retrain, options.quick, log, seconds=seconds)

    if options.only != "table3":
        assert options.videos is not None
        videos, dropped[options.videos.name] = read_videos(options.videos, limit=options.people)
        splits = _identity_splits(videos, landmarks, options)
        found["table1"] = _experiment(learned.TABLE1, splits, _score_pairs, store("table1"), options.draws)
    if options.only != "table1":
        splits = (split_by_pose(landmarks, seed, options.per_pose) for seed in range(options.seeds))
        found["table3"] = _experiment(learned.TABLE3, splits, _score_depth, store("table3"), options.draws)
    for name, counts in dropped.items():
        for reason, count in counts.items():
            log(f"{name}: {count} faces dropped: {reason}")
    results = {name: scores for name, (scores, _) in found.items()}
    outcome = Outcome(
        results,
        [*check(goals(learned.TABLE1, learned.TABLE3), results), *training_time(seconds)],
        _tables(results),
        {name: trial for name, (_, trial) in found.items()},
        dropped,
        seconds,
    )
    _write(outcome, options)
    figures.draw(outcome.trials, options.output, options.videos)
    return outcome


def _identity_splits(videos: Faces, landmarks: Faces, options: Options) -> Iterator[Split]:
    """Table 1's splits. The template comes from the 3D landmarks that Table 3 trains on, as the paper took 3DFAW's."""
    for seed in range(options.seeds):
        yield split_by_identity(videos, split_by_pose(landmarks, seed, options.per_pose).shapes, seed)


def _experiment(
    compared: dict[str, Method],
    splits: Iterable[Split],
    score: Callable[[Errors, Split, Pairs, Bootstrap], dict[str, Part]],
    store: Store,
    draws: int,
) -> tuple[tables.Scores, Trial]:
    """Every method on every split: the numbers, and the first split's predictions."""
    parts: dict[str, list[dict[str, Part]]] = {name: [] for name in compared}
    first: Trial | None = None
    for split in splits:
        trial = _pairs(split)
        bootstrap = _bootstrap(trial, draws)
        hidden = Split(split.seed, split.train.without_depth(), split.test, split.shapes)
        for name, method in compared.items():
            predictor = method.fit(split if method.needs_depth else hidden, store)
            faces = split.test if method.sees_truth else split.test.without_depth()
            errors = evaluate(predictor, faces, trial.pairs)
            parts[name].append(score(errors, split, trial.pairs, bootstrap))
            store.log(f"seed {split.seed}: {method.title}: MSE_norm {float(errors.mse_norm.mean()):.3f} %")
            if first is None:
                trial.predictors[name], trial.errors[name] = predictor, errors
        first = first or trial
    assert first is not None
    return {name: _numbers(seeds) for name, seeds in parts.items()}, first


def _pairs(split: Split) -> Trial:
    identity = split.test.identity
    return Trial(split, all_pairs(len(split.test)) if identity is None else same_identity(identity))


def _bootstrap(trial: Trial, draws: int) -> Bootstrap:
    """Draws people, or faces within each pose."""
    test = trial.split.test
    if test.identity is not None:
        return Bootstrap(*trial.pairs, test.identity.unique(return_inverse=True)[1], draws=draws)
    assert test.yaw is not None
    return Bootstrap(*trial.pairs, torch.arange(len(test)), pose_of(test.yaw), draws)


def _score_pairs(errors: Errors, split: Split, pairs: Pairs, bootstrap: Bootstrap) -> dict[str, Part]:
    return {name: _mean(getattr(errors, name), bootstrap) for name in ("mse", "mse_norm")}


def _score_depth(errors: Errors, split: Split, pairs: Pairs, bootstrap: Bootstrap) -> dict[str, Part]:
    """Table 3's errors in 1e-5, and all scores of depth."""
    result = {"mse": _mean(errors.mse * 1e5, bootstrap), "mse_norm": _mean(errors.mse_norm, bootstrap)}
    if errors.depth is None:
        return result
    test = split.test
    assert test.depth is not None
    assert test.yaw is not None
    true, pose = test.depth[pairs.source], pose_of(test.yaw)
    for kind, change in (("", lambda z: z), ("_centred", centred)):
        blocks = {}
        for i, source in enumerate(POSES):
            for j, target in enumerate(POSES):
                rows = torch.nonzero((pose[pairs.source] == i) & (pose[pairs.target] == j))[:, 0]
                statistic = weighted_depth_corr(change(errors.depth[rows]), change(true[rows]))
                value, draws = _statistic(statistic, bootstrap, rows)
                blocks[source, target] = (value, draws)
                result[f"depth_corr{kind}_{source}_{target}"] = (value, draws, math.nan, value, len(rows))
            row = [blocks[source, target] for target in POSES]
            result[f"depth_corr{kind}_{source}"] = _average(row, len(pairs.source) // len(POSES))
        value, draws = _statistic(weighted_depth_corr(change(errors.depth), change(true)), bootstrap)
        result[f"depth_corr{kind}"] = (value, draws, math.nan, value, len(true))
    return result | _shape_scores(errors.depth, split.test, pairs, bootstrap)


def _shape_scores(depth: Tensor, test: Faces, pairs: Pairs, bootstrap: Bootstrap) -> dict[str, Part]:
    """Within-face scores: the mean over a face's pairs, then over faces."""
    assert test.depth is not None
    points, true = test.points[pairs.source].double(), test.depth[pairs.source]
    solid = torch.cat([test.points, test.depth[..., None]], -1)
    radius = (solid - solid.mean(1, keepdim=True)).square().sum(-1).mean(-1).sqrt()[pairs.source]
    faces = torch.arange(len(test))
    by_face = Bootstrap(faces, faces, bootstrap.groups, draws=1)
    by_face.counts = bootstrap.counts
    result: dict[str, Part] = {}
    for name, score in (("similarity", similarity_score(depth, true)), ("gauge", gauge_score(points, depth, true))):
        for key, values in (("correlation", score.correlation), ("error", 100 * score.error / radius)):
            sums = torch.zeros(len(test), dtype=values.dtype).index_add_(0, pairs.source, values)
            result[f"{name}_{key}"] = _mean(sums / pairs.source.bincount(minlength=len(test)), by_face)
    return result


def _mean(values: Tensor, bootstrap: Bootstrap) -> Part:
    draws = bootstrap.distribution(weighted_mean(values))
    return float(values.mean()), draws, float(values.std()), float(values.median()), len(values)


def _statistic(statistic: Statistic, bootstrap: Bootstrap, pairs: Tensor | slice = slice(None)) -> tuple[float, Tensor]:
    """Its value on the pairs as they are, and in every draw."""
    count = len(bootstrap.source[pairs])
    return float(statistic(torch.ones(1, count, dtype=torch.float64))), bootstrap.distribution(statistic, pairs)


def _average(parts: list[tuple[float, Tensor]], count: int) -> Part:
    values, draws = [value for value, _ in parts], torch.stack([draws for _, draws in parts]).mean(0)
    return sum(values) / len(values), draws, math.nan, sorted(values)[len(values) // 2], count


def _numbers(seeds: list[dict[str, Part]]) -> dict[str, Number]:
    """The seeds of one method, joined."""
    joined: dict[str, Number] = {}
    for key in seeds[0]:
        values, draws, stds, medians, counts = zip(*(seed[key] for seed in seeds), strict=True)
        mean = [sum(column) / len(column) for column in (values, stds, medians)]
        joined[key] = Number(mean[0], mean[1], mean[2], counts[0], interval(list(draws)), list(values))
    return joined


def _tables(results: dict[str, tables.Scores]) -> list[tables.Table]:
    made: list[tables.Table] = []
    if scores := results.get("table1"):
        made.append(tables.table1(scores, learned.TABLE1))
    if scores := results.get("table3"):
        made += [table(scores, learned.TABLE3) for table in (tables.table2, tables.table3, tables.shape_table)]
    return made


def _write(outcome: Outcome, options: Options) -> None:
    record = {
        "benchmark": "depthnets",
        "commit": commit(),
        "config": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()},
        "dropped": outcome.dropped,
        "training_cpu_seconds": outcome.seconds,
        "goals": [asdict(verdict) for verdict in outcome.verdicts],
        "results": {
            table: {name: {key: asdict(number) for key, number in numbers.items()} for name, numbers in scores.items()}
            for table, scores in outcome.results.items()
        },
    }
    write_results(options.output, record, outcome.tables, outcome.verdicts)
