"""What is trained, and on what: the two things that a caller of `fit` brings."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..errors import UsageError


@dataclass
class Phase:
    """One part of a step: its optimiser moves its own parameters and leaves all others alone."""

    optimiser: Optimizer
    schedule: LRScheduler | None = None
    """Stepped after every step of the optimiser."""
    every: int = 1
    """The phase runs at steps 0, `every`, 2 `every`..."""
    clip: float | None = None
    """Largest gradient norm, instead of that of the settings."""
    averaged: bool = True
    """Whether the moving average follows these parameters. A discriminator's are not worth the memory."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves, without what is frozen at this moment."""
        return [p for group in self.optimiser.param_groups for p in group["params"] if p.requires_grad]


class Task(nn.Module):
    """A network and its losses. `fit` calls nothing but the four methods below and those of nn.Module.

    The state dict of the task, and of its optimisers and schedules, must consist of tensors and plain values.
    Networks that are only measured with should be frozen, and kept in evaluation mode by overriding `train`. Data may
    lie in buffers that are not persistent: they are neither saved nor copied for the average.
    """

    name: str = ""
    """The method. It is written into checkpoints, and those of another method are refused."""
    version: int = 1
    """To be raised when older checkpoints no longer fit."""

    def phases(self) -> dict[str, Phase]:
        """The phases of a step, in their order. Called once, when the weights are on their device."""
        raise NotImplementedError

    def loss(self, phase: str, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise, and named scalars to log (the same names at every step of a phase).

        step: optimiser steps done before this one.
        """
        raise NotImplementedError

    def preview(self, batch: Any) -> dict[str, Tensor]:
        """Named images (B, 3, H, W) in [0, 1] of the first batch, each a row of the sheet. No gradients here."""
        return {}


class Batches(Protocol):
    """Endless batches that can say where they are.

    Under `torchrun` each process yields its share of the same global batch, and the position is that of all.
    """

    size: int
    """Examples per batch, over all processes."""

    def __iter__(self) -> Iterator[Any]: ...

    def __next__(self) -> Any:
        """Tensors in any nesting of dict, list and tuple."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position: numbers, strings, lists, dicts and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the position."""
        ...


class TensorBatches:
    """Random batches of tensors in memory: each epoch visits every example once, in an order of its own.

    Batch k is made of the places k * size to (k + 1) * size of the epochs put end to end, and the order of an epoch is
    a pure function of (seed, epoch): the position is k alone. No example is left out where `size` does not divide
    their number.
    """

    def __init__(
        self,
        tensors: dict[str, Tensor],
        size: int,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        """tensors: equal first dimensions (N, ...). size: examples per batch over all processes.

        rank, world: which process of how many; those of `torchrun` where None. Raises UsageError for an empty set, for
        tensors of unequal length, and for a size that the processes cannot share equally.
        """
        self.rank = _from_torchrun("RANK", 0) if rank is None else rank
        self.world = _from_torchrun("WORLD_SIZE", 1) if world is None else world
        lengths = {name: len(tensor) for name, tensor in tensors.items()}
        if not lengths or 0 in lengths.values():
            raise UsageError("the data set is empty; give at least one example")
        if len(set(lengths.values())) > 1:
            raise UsageError(f"the data set: expected as many examples of everything, got {lengths}")
        if size < 1 or size % self.world:
            raise UsageError(f"--batch: expected a multiple of the number of processes ({self.world}), got {size}")
        self.tensors, self.size, self.seed = tensors, size, seed
        self.count = next(iter(lengths.values()))
        self.done = 0
        self._order = (-1, np.empty(0, np.int64))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return self

    def __next__(self) -> dict[str, Tensor]:
        share = self.size // self.world
        first = self.done * self.size + self.rank * share
        indices = torch.from_numpy(self._examples(first, first + share))
        self.done += 1
        return {name: tensor[indices.to(tensor.device)] for name, tensor in self.tensors.items()}

    def _examples(self, first: int, end: int) -> np.ndarray:
        """Indices of the examples at the places `first` to `end`, which may lie in several epochs."""
        parts: list[np.ndarray] = []
        while first < end:
            epoch, rest = divmod(first, self.count)
            if self._order[0] != epoch:
                self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.count)
            parts.append(self._order[1][rest : rest + end - first])
            first += len(parts[-1])
        return np.concatenate(parts)

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = state["batches"]


class Repeated:
    """The same batch for ever: what optimising one photo needs."""

    def __init__(self, batch: Any, size: int = 1) -> None:
        self.batch, self.size = batch, size

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.batch

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is only one position."""


def _from_torchrun(variable: str, alone: int) -> int:
    return int(os.environ.get(variable, alone))
