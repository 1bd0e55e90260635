"""Endless batches whose content is a pure function of the seed and the position, whatever loads them.

Sample number s of the stream is in epoch s // N; each epoch is a permutation drawn from (seed, epoch), and the random
numbers for one example are drawn from (seed, epoch, index). So neither the number of worker processes, nor that of
parallel processes, nor stopping and resuming changes what is trained on.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, default_collate

from ..errors import AboutfaceError, UsageError
from ..geometry import MIRROR_68
from .example import Example

MOST_BAD = 1000
"""So many unusable examples in a row end the work: the data is wrong, not an example."""


class Source(Protocol):
    """Anything with random access: `Examples`, a list, one's own pairs."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


Transform = Callable[[Any, np.random.Generator], Any]
"""An example and its own random numbers to tensors (nested in dicts, lists, tuples) of the same shapes for all."""


class Batches:
    """Endless iterator over batches of transformed examples. `state_dict` is the exact position.

    Examples that cannot be read are replaced by the next good one of the source, and `bad` says which and why.
    Raises UsageError for an empty source, and while iterating where none of the next MOST_BAD can be read.
    """

    def __init__(
        self,
        examples: Source,
        transform: Transform,
        size: int,
        seed: int = 0,
        *,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Args:
        transform: called in the worker processes; takes all its random numbers from the generator it is given.
        size: examples per batch over all `world` parallel processes; this one gets its `rank`-th share.
        workers: processes that load ahead; 0 loads in this one.
        """
        if len(examples) == 0:
            raise UsageError("the data set is empty: give one with at least one example")
        if size < 1 or size % world:
            raise UsageError(f"batch size {size}: expected a positive multiple of the {world} parallel processes")
        if not 0 <= rank < world:
            raise ValueError(f"rank: expected 0 to {world - 1}, got {rank}")
        self.size = size
        self.seed = seed
        self.bad: dict[str, str] = dict(getattr(examples, "bad", {}))
        self._draws = _Draws(examples, transform, seed)
        self._workers = workers
        self._rank, self._world = rank, world
        self._samples = 0
        self._stream: Iterator[tuple[Any, dict[str, str]]] | None = None

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        if self._stream is None:
            self._stream = iter(self._loader())
        batch, bad = next(self._stream)
        self.bad |= bad
        if batch is None:
            raise UsageError(f"{len(bad)} examples in a row cannot be used; the first: {next(iter(bad.values()))}")
        self._samples += self.size
        return batch

    def state_dict(self) -> dict[str, int]:
        """Counts batches that were handed out; what workers loaded ahead is not in it."""
        return {"samples": self._samples, "seed": self.seed, "examples": len(self._draws)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken. Raises UsageError where it is that of other data or another seed."""
        for name, ours in (("seed", self.seed), ("examples", len(self._draws))):
            if state[name] != ours:
                raise UsageError(f"resume: the data had {name} {state[name]}, now {ours}; give the same data and seed")
        self._samples = state["samples"]
        self._stream = None

    def _loader(self) -> DataLoader:
        # The own generator keeps DataLoader from drawing a number from the global one, which would make a resumed
        # run's dropout differ from an unbroken one's.
        share = self.size // self._world
        return DataLoader(
            self._draws,
            batch_sampler=_numbers(self._samples + self._rank * share, share, self.size),  # pyright: ignore[reportArgumentType]
            num_workers=self._workers,
            collate_fn=_collate,
            generator=torch.Generator(),
        )


def _numbers(first: int, count: int, step: int) -> Iterator[list[int]]:
    """Sample numbers of one process's share of every batch, for ever.

    A function, as a method would make a cycle of loader and Batches: the garbage collector stops workers only after
    their timeouts, a reference count that falls to zero stops them at once.
    """
    while True:
        yield list(range(first, first + count))
        first += step


class _Draws(Dataset):
    """Sample numbers of the endless stream to (transformed example, what was bad on the way)."""

    def __init__(self, examples: Source, transform: Transform, seed: int) -> None:
        self.examples, self.transform, self.seed = examples, transform, seed
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, number: int) -> tuple[Any, dict[str, str]]:
        epoch, place = divmod(number, len(self))
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self))
        index = int(self._order[1][place])
        bad: dict[str, str] = {}
        for step in range(min(len(self), MOST_BAD)):
            here = (index + step) % len(self)
            random = np.random.default_rng([self.seed, epoch, index])
            try:
                return self.transform(self.examples[here], random), bad
            except (AboutfaceError, OSError) as error:
                bad[self._name(here)] = str(error)
        return None, bad

    def _name(self, index: int) -> str:
        entries = getattr(self.examples, "entries", None)
        return entries[index].name if entries else f"example {index}"


def _collate(draws: list[tuple[Any, dict[str, str]]]) -> tuple[Any, dict[str, str]]:
    bad = {name: why for _, part in draws for name, why in part.items()}
    samples = [sample for sample, _ in draws]
    return (None if any(sample is None for sample in samples) else default_collate(samples)), bad


class Resized:
    """The plain transform: {"image": (3, size, size) float32 in [0, 1], "landmarks": (68, 2) float32 pixels of it}.

    Pictures that are not square are squeezed. "landmarks" is there if `landmarks` is true; examples without them then
    raise UsageError. `mirror` is the share of examples that are mirrored.
    """

    def __init__(self, size: int, mirror: float = 0.5, landmarks: bool = False) -> None:
        self.size, self.mirror, self.landmarks = size, mirror, landmarks

    def __call__(self, example: Example, random: np.random.Generator) -> dict[str, Tensor]:
        image = torch.tensor(example.pixels).permute(2, 0, 1).float() / 255
        if image.shape[1:] != (self.size, self.size):
            image = functional.interpolate(image[None], (self.size,) * 2, mode="bilinear", antialias=True)[0]
        flip = random.random() < self.mirror
        result = {"image": (image.flip(-1) if flip else image).clamp(0, 1)}
        if self.landmarks:
            result["landmarks"] = self._points(example, flip)
        return result

    def _points(self, example: Example, flip: bool) -> Tensor:
        if example.landmarks is None:
            raise UsageError(f"{example.key}: has no landmarks; run aboutface data prepare on the data first")
        height, width = example.pixels.shape[:2]
        points = torch.tensor(example.landmarks) * torch.tensor([self.size / width, self.size / height])
        return points[MIRROR_68] * torch.tensor([-1.0, 1.0]) + torch.tensor([self.size, 0.0]) if flip else points
