"""Data sets: where examples lie, reading them, batches, splits, and shards. See docs/data.md."""

from .batches import Batches, Resized
from .check import Problem, check
from .crop import grey_square
from .example import Example, Examples, open_examples
from .landmarks import Landmarks, load_landmarks
from .repack import repack
from .shards import ShardWriter
from .sources import find_entries
from .splits import keep_aside, same_identity_pairs, split_by_identity
from .stats import stats
from .synthetic import SyntheticExample, SyntheticFaces

__all__ = [
    "Batches",
    "Example",
    "Examples",
    "Landmarks",
    "Problem",
    "Resized",
    "ShardWriter",
    "SyntheticExample",
    "SyntheticFaces",
    "check",
    "find_entries",
    "grey_square",
    "keep_aside",
    "load_landmarks",
    "open_examples",
    "repack",
    "same_identity_pairs",
    "split_by_identity",
    "stats",
]
