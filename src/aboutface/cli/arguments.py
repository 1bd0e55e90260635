"""Texts of the command line to values. Every function raises UsageError with what was expected."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError

AXES = ("yaw", "pitch", "roll")
LIGHT_AXES = ("azimuth", "elevation")
DEFAULT_STEP = 15.0
MOST_VIEWS = 1000


def parse_angles(text: str | None, name: str) -> list[float] | None:
    """Degrees from `30`, `-45,0,45`, `-60:60:30` (from, to, step; both ends included) or a mixture of these."""
    if text is None:
        return None
    angles: list[float] = []
    for part in text.split(","):
        angles += _range(part, name) if ":" in part else [_degrees(part, name)]
        if len(angles) > MOST_VIEWS:
            raise UsageError(f"--{name} {text}: more than {MOST_VIEWS} views; take larger steps")
    return angles


@dataclass(frozen=True)
class Sweep:
    """A turn from one angle to another, per axis."""

    ends: dict[str, tuple[float, float]]
    step: float | None
    """Degrees from view to view; None where it was not given."""

    def angles(self) -> dict[str, list[float]]:
        """The views, per axis."""
        count = max(len(_steps(*ends, self.step or DEFAULT_STEP, "sweep")) for ends in self.ends.values())
        return {
            axis: [low + (high - low) * i / max(count - 1, 1) for i in range(count)]
            for axis, (low, high) in self.ends.items()
        }


def parse_sweep(text: str, axes: Sequence[str] = AXES) -> Sweep:
    """`yaw=-40:40`, `yaw=-60:60:2`, `yaw=-40:40,pitch=-10:10`; `axes`: the names there are."""
    ends: dict[str, tuple[float, float]] = {}
    steps: list[float] = []
    for part in text.split(","):
        axis, _, range_text = part.partition("=")
        limits = range_text.split(":")
        axis = axis.strip().lower()
        if axis not in axes or len(limits) not in (2, 3):
            example = f"{axes[0]}=-40:40"
            raise UsageError(f"--sweep {text}: expected axis=from:to or axis=from:to:step, for example {example}")
        ends[axis] = (_degrees(limits[0], "sweep"), _degrees(limits[1], "sweep"))
        if len(limits) == 3:
            # Checks the step, too.
            _steps(*ends[axis], _degrees(limits[2], "sweep", limit=False), "sweep")
            steps.append(abs(_degrees(limits[2], "sweep", limit=False)))
    return Sweep(ends, min(steps, default=None))


def parse_face(text: str) -> int | str:
    """`largest`, `all` or a number from 0."""
    if text in ("largest", "all"):
        return text
    if not re.fullmatch(r"\d{1,6}", text):
        raise UsageError(f"--face {text}: expected largest, all or a number from 0 (the largest face)")
    return int(text)


def parse_box(text: str | None) -> tuple[float, ...] | str | None:
    """`left,top,right,bottom` in pixels, or the name of a file."""
    if text is None or not re.fullmatch(r"[-−+\d.,eE\s]+", text):
        return text
    try:
        left, top, right, bottom = (float(part.replace("−", "-")) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--box {text}: expected left,top,right,bottom in pixels, or a file") from None
    return left, top, right, bottom


def check_device(text: str) -> str:
    """Where to compute; only the CPU so far."""
    if text in ("auto", "cpu"):
        return "cpu"
    if re.fullmatch(r"(cuda|mps)(:\d+)?", text):
        raise UsageError(f"--device {text}: this version computes on the CPU; leave the option out")
    raise UsageError(f"--device {text}: expected auto or cpu")


def _degrees(text: str, name: str, limit: bool = True) -> float:
    try:
        angle = float(text.strip().replace("−", "-").removesuffix("°"))
    except ValueError:
        angle = math.nan
    if not math.isfinite(angle) or (limit and abs(angle) > 180):
        raise UsageError(f"--{name} {text}: expected degrees between -180 and 180, as 30 or -45,0,45 or -60:60:30")
    return angle


def _range(text: str, name: str) -> list[float]:
    limits = text.split(":")
    if len(limits) not in (2, 3):
        raise UsageError(f"--{name} {text}: expected from:to:step, for example -60:60:30")
    start, stop = _degrees(limits[0], name), _degrees(limits[1], name)
    step = _degrees(limits[2], name, limit=False) if len(limits) == 3 else DEFAULT_STEP
    return _steps(start, stop, step, name)


def _steps(start: float, stop: float, step: float, name: str) -> list[float]:
    if step == 0 or abs(stop - start) / abs(step) > MOST_VIEWS:
        raise UsageError(f"--{name}: a step of {step:g} from {start:g} to {stop:g} never ends; take a larger one")
    step = math.copysign(step, stop - start)
    count = math.floor((stop - start) / step + 1e-9) + 1
    return [round(start + step * i, 6) for i in range(count)]
