"""How long and how to train; what does not depend on the method."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import UsageError

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class FitSettings:
    """Settings of `fit`; the sentence under a field is its help on the command line."""

    steps: int = 1000
    """Optimiser steps of the whole run; a resumed run counts those already done."""
    accumulate: int = 1
    """Batches per optimiser step: their gradients are averaged."""
    clip: float | None = None
    """Largest norm of the gradient of a phase; a larger one is scaled down to it."""
    precision: Precision = "float32"
    """Number format of the forward pass (autocast); float16 scales the loss so that gradients do not vanish."""
    channels_last: bool = False
    """Keep images and convolutions in channels-last memory order, which GPUs with tensor cores like."""
    ema: float = 0.0
    """Decay per step of the exponential moving average of the weights, 0.999 for example; 0 keeps none."""
    checkpoint_minutes: float = 5.0
    """Minutes between two checkpoints."""
    keep: int = 2
    """How many checkpoints stay."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    preview_every: int = 500
    """Steps between two image sheets; 0 draws none."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("accumulate", 1), ("keep", 1), ("log_every", 1), ("preview_every", 0)):
            _check(getattr(self, name) >= least, name, getattr(self, name), f"{least} or more")
        _check(self.clip is None or 0 < self.clip < math.inf, "clip", self.clip, "a number above 0")
        _check(0 <= self.ema < 1, "ema", self.ema, "0 or more and less than 1")
        _check(self.checkpoint_minutes >= 0, "checkpoint_minutes", self.checkpoint_minutes, "0 or more")
        _check(self.precision in get_args(Precision), "precision", self.precision, " or ".join(get_args(Precision)))
        _check(0 <= self.seed < 2**31, "seed", self.seed, "0 to 2147483647")


def _check(right: bool, field: str, value: object, expected: str) -> None:
    if not right:
        raise UsageError(f"--{field.replace('_', '-')}: expected {expected}, got {value}")
