"""What the loaders of the users' files share: which files were given, and numbers of another world made ours."""

import json
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import weights
from ..errors import MissingError, UsageError
from ..files import reason

IGNORE_OVERFLOW = np.errstate(over="ignore", invalid="ignore")
"""Around a loader: what damaged numbers overflow to is found by the model's `check`, and told there."""

Paths = Sequence[str | PathLike[str]]

AXES = np.array([1.0, -1.0, -1.0])
"""x right, y up, z towards the viewer, to ours: y down, z forward."""


def given_files(paths: Paths, suffixes: Iterable[str]) -> list[Path]:
    """The files among `paths`, and those of the folders among them, that end in one of the suffixes; sorted in folders.

    Raises MissingError for what is not there, UsageError where nothing is left or a file has another suffix.
    """
    suffixes, found = tuple(suffixes), []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(file for file in path.iterdir() if file.suffix in suffixes and file.is_file())
        elif not path.exists():
            raise MissingError(f"{path}: no such file or folder")
        elif path.suffix not in suffixes:
            raise UsageError(f"{path}: expected a file that ends in {' or '.join(suffixes)}")
        else:
            found.append(path)
    if not found:
        words = ", ".join(map(str, paths)) or "nothing given"
        raise UsageError(f"{words}: expected files that end in {' or '.join(suffixes)}, or a folder of them")
    return found


def landmarks_file(path: Path, count: int) -> Tensor:
    """(68,) int64 of a JSON list of 68 vertices, counted from 0, of a model with `count`. Raises UsageError."""
    try:
        numbers = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as JSON ({reason(error)})") from None
    whole = isinstance(numbers, list) and all(isinstance(n, int) and 0 <= n < count for n in numbers)
    if not whole or len(numbers) != 68:
        raise UsageError(f"{path}: expected a JSON list of 68 vertices from 0 to {count - 1}, in the iBUG order")
    return torch.tensor(numbers)


def terms(name: str) -> dict[str, Any]:
    """What a model's record says of it: its name, its licence, whether it may be passed on."""
    record = weights.REGISTRY[name]
    return {"name": name, "licence": record.licence, "redistributable": bool(record.redistributable)}


def shape_problem(name: str, found: Sequence[int], expected: Sequence[int | None]) -> str | None:
    """What is wrong with a shape; None where it fits. None stands for any size."""
    if len(found) == len(expected) and all(e in (None, f) for e, f in zip(expected, found, strict=True)):
        return None
    words = str(tuple("any" if size is None else size for size in expected)).replace("'", "")
    return f"{name} is {tuple(found)}, expected {words}"


def points(values: Any, unit: float) -> Tensor:
    """(..., V, 3) millimetres in our axes of numbers (..., 3V) or (..., V, 3) in theirs, of `unit` millimetres each."""
    values = _floats(values)
    values = values if values.shape[-1] == 3 else values.reshape(*values.shape[:-1], values.shape[-1] // 3, 3)
    return torch.from_numpy((values * (unit * AXES).astype(values.dtype)).astype(np.float32, copy=False))


def columns(values: Any) -> np.ndarray:
    """(K, 3V) of a basis (3V, K), as files have it."""
    return _floats(values).T


def numbers_as_names(basis: Tensor) -> tuple[str, ...]:
    """Names for modes (K, V, 3) that have none: "0", "1", ..."""
    return tuple(map(str, range(len(basis))))


def _floats(values: Any) -> np.ndarray:
    """As they are where they are floats: large bases in double precision would not fit into small machines."""
    values = np.asarray(values)
    return values.astype(np.result_type(values.dtype, np.float32), copy=False)
