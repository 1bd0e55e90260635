"""What the learned models must reach, as data, and the check."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .methods import Method
from .protocol import KEYPOINTS, POSES
from .tables import Scores

COMPARE = {"<": operator.lt, "<=": operator.le, ">=": operator.ge}

TRAINING_SECONDS = 300


@dataclass(frozen=True)
class Goal:
    """One bound on the results."""

    table: str
    name: str
    value: Callable[[Scores], float]
    bound: float
    comparison: Literal["<", "<=", ">="] = "<="


@dataclass(frozen=True)
class Verdict:
    name: str
    met: bool
    line: str
    """One line for people: value, bound, and by how much."""


def goals(table1: dict[str, Method], table3: dict[str, Method]) -> list[Goal]:
    """All goals for the methods that are compared."""
    chosen: list[Goal] = []
    for name in (name for name, method in table1.items() if method.learned):
        for baseline in ("affine-2d", "template"):
            title = f"{name} below {baseline}, MSE_norm ratio"
            chosen.append(Goal("table1", title, _ratio(name, baseline, "mse_norm"), 1.0, "<"))
    chosen += [
        Goal("table1", "v3 / template, MSE_norm (paper 0.66)", _ratio("v3", "template", "mse_norm"), 0.60),
        Goal("table1", "v3 / affine-2d, MSE_norm (paper 0.52)", _ratio("v3", "affine-2d", "mse_norm"), 0.45),
        Goal("table1", "v3-cnn / v3, MSE_norm (paper 0.99)", _ratio("v3-cnn", "v3", "mse_norm"), 1.0, "<"),
        Goal("table3", "depthnet / gt-depth, MSE (paper 0.86)", _ratio("depthnet", "gt-depth", "mse"), 0.80),
    ]
    for name, paper, bound in (("depthnet", 0.40, 0.85), ("depthnet-depth", 0.89, 0.93)):
        for pose in POSES:
            # Centred: a face's own offset, which no keypoint shows, alone takes raw depths below these bounds.
            title = f"{name} DepthCorr per keypoint, centred, {pose} (paper {paper:.2f})"
            chosen.append(Goal("table3", title, _per_keypoint(name, f"depth_corr_centred_{pose}"), bound, ">="))
    return chosen


def check(chosen: list[Goal], results: dict[str, Scores]) -> list[Verdict]:
    """A verdict on every goal of the tables that were made. What was not measured is not met."""
    return [_judge(goal, results[goal.table]) for goal in chosen if goal.table in results]


def training_time(seconds: dict[str, float]) -> list[Verdict]:
    """A verdict on each network of keypoints: five minutes on two cores, here by the processor's time on one."""
    verdicts = []
    for name, spent in seconds.items():
        if name.endswith("pictures") or name == "aign":
            continue
        met, title = spent < TRAINING_SECONDS, f"training {name}, CPU seconds"
        word = "met   " if met else "missed"
        verdicts.append(Verdict(title, met, f"{word}  {title}: {spent:.0f} < {TRAINING_SECONDS}"))
    return verdicts


def _judge(goal: Goal, scores: Scores) -> Verdict:
    try:
        value = goal.value(scores)
    except KeyError as missing:
        return Verdict(goal.name, False, f"missed  {goal.name}: {missing.args[0]} was not measured")
    if math.isnan(value):
        return Verdict(goal.name, False, f"missed  {goal.name}: no number")
    met = COMPARE[goal.comparison](value, goal.bound)
    word, by = "met   " if met else "missed", abs(value - goal.bound)
    return Verdict(goal.name, met, f"{word}  {goal.name}: {value:.3f} {goal.comparison} {goal.bound:.2f}, by {by:.3f}")


def _ratio(name: str, other: str, score: str) -> Callable[[Scores], float]:
    return lambda scores: scores[name][score].mean / scores[other][score].mean


def _per_keypoint(name: str, score: str) -> Callable[[Scores], float]:
    return lambda scores: scores[name][score].mean / KEYPOINTS
