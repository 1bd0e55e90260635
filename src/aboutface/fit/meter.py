"""Means of what is logged, and the check that all of it is finite."""

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import DivergedError


class Meter:
    """Adds up named scalars. Values stay on their device until `drain`, so that a GPU need not wait for the CPU."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self._pending: list[tuple[int, str, list[str], Tensor]] = []

    def add(self, step: int, phase: str, names: list[str], values: Tensor) -> None:
        """values: (len(names),), those of one phase in one step, `loss` first."""
        self._pending.append((step, phase, names, values))
        if values.device.type == "cpu":
            self.drain()

    def drain(self) -> None:
        """Raise DivergedError if any value is not finite; else add them up."""
        pending, self._pending = self._pending, []
        for step, phase, names, values in pending:
            for name, value in zip(names, values.tolist(), strict=True):
                if not math.isfinite(value):
                    raise DivergedError(
                        f"step {step + 1}, phase {phase}: {name} is {value}; the last good checkpoint is kept; try a "
                        "smaller learning rate, --clip or --precision float32"
                    )
                key = f"{phase}/{name}"
                self.sums[key] = self.sums.get(key, 0.0) + value
                self.counts[key] = self.counts.get(key, 0) + 1

    def means(self) -> dict[str, float]:
        """The mean of each since the last call, `phase/name`."""
        self.drain()
        means = {key: total / self.counts[key] for key, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        self.drain()
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])


def check_weights(step: int, weights: list[Tensor]) -> None:
    """Raise DivergedError if a weight is not finite: such weights must not replace those of an earlier checkpoint."""
    if not all(torch.stack([weight.isfinite().all() for weight in weights]).tolist()):
        raise DivergedError(
            f"step {step}: the weights are no longer finite, although losses and gradients were; the last good "
            "checkpoint is kept; try a smaller learning rate"
        )
