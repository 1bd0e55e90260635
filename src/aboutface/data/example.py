"""One example of a data set, and data sets as lists of them with random access."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from ..errors import AboutfaceError, PhotoError, UsageError
from ..files import reason
from ..images import read_photo
from .sources import Entry, find_entries

IdentityRule = Literal["auto", "folder", "lfw", "none"]
MOST_FLAT = 0.01
"""Landmarks whose spread across is this share of that along are a line; a face, of any pose, has above 0.2."""


@dataclass(frozen=True, eq=False)
class Example:
    """A picture of a face and what is known of it."""

    key: str
    """Unique within the data set."""
    pixels: np.ndarray
    """(H, W, 3) uint8 sRGB, upright."""
    landmarks: np.ndarray | None = None
    """iBUG 68 points (68, 2) float32, pixels, x right, y down; they may lie outside the picture."""
    identity: str | None = None
    mask: np.ndarray | None = None
    """(H, W) uint8, 255 on the face."""
    pose: tuple[float, float, float] | None = None
    """Yaw, pitch, roll in degrees."""
    quality: dict[str, float] = field(default_factory=dict)
    """Measures of the picture by name, as `data prepare` writes them."""


class Examples:
    """The examples of a source. `examples[i]` reads and decodes one; nothing is kept.

    `examples[i]` raises PhotoError for a picture and UsageError for a side file that cannot be used. `bad` names what
    was unusable already when the source was indexed (damaged tars), with the reason. May be shared by processes.
    """

    def __init__(self, entries: Sequence[Entry], bad: dict[str, str] | None = None, identity: IdentityRule = "none"):
        self.entries = list(entries)
        self.bad = dict(bad or {})
        self.identity: IdentityRule = identity

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Example:
        entry = self.entries[index]
        return read_example(entry, read_record(entry), self.identity)

    def landmarks(self, index: int) -> np.ndarray:
        """Landmarks (68, 2) float32 of one example, read without its picture. Raises UsageError where it has none."""
        entry = self.entries[index]
        record = read_record(entry)
        values = record.get("landmarks68", record.get("landmarks"))
        if values is None:
            raise UsageError(f"{entry.name}: no landmarks; aboutface data prepare finds them")
        return check_landmarks(values, entry.name)

    @cached_property
    def identities(self) -> list[str | None]:
        """Of every example, without decoding pictures; None where it is unknown or its side file is broken."""
        return [self._identity(entry) for entry in self.entries]

    def _identity(self, entry: Entry) -> str | None:
        try:
            return identity_of(entry, read_record(entry), self.identity)
        except AboutfaceError:
            return None

    def subset(self, indices: Iterable[int]) -> "Examples":
        """Some of the examples, in the given order; takes a tensor of indices, too."""
        return Examples([self.entries[int(index)] for index in indices], self.bad, self.identity)


def open_examples(
    source: str | PathLike[str] | Sequence[str | PathLike[str]], identity: IdentityRule = "auto"
) -> Examples:
    """The examples of a folder of shards, a tar, a tree of pictures, a glob, a list file, or several of these.

    Args:
        source: see `find_entries`.
        identity: what names the person where the side file does not: "folder" the folder of the picture, "lfw" the
            file name `First_Last_0001`, "none" nothing, "auto" is "lfw" where the source's name begins with lfw.

    Raises UsageError where the source does not exist or has no pictures.
    """
    found = find_entries(source)
    if not found.entries:
        why = "; ".join(f"{name}: {text}" for name, text in list(found.bad.items())[:3])
        raise UsageError(f"{source}: no pictures are in it{f' ({why})' if why else ''}; give another place")
    if identity == "auto":
        is_lfw = isinstance(source, (str, PathLike)) and Path(source).name.lower().startswith("lfw")
        identity = "lfw" if is_lfw else "none"
    return Examples(found.entries, found.bad, identity)


def read_example(entry: Entry, record: dict[str, Any], identity: IdentityRule = "none") -> Example:
    """The example of an entry and its side file's content. Raises PhotoError, UsageError."""
    pixels = read_pixels(entry)
    points = record.get("landmarks68", record.get("landmarks"))
    return Example(
        key=entry.key,
        pixels=pixels,
        landmarks=None if points is None else check_landmarks(points, entry.name),
        identity=identity_of(entry, record, identity),
        mask=_mask(entry, pixels.shape[:2]),
        pose=_pose(record, entry.name),
        quality=_quality(record, entry.name),
    )


def read_pixels(entry: Entry) -> np.ndarray:
    """(H, W, 3) uint8. Raises PhotoError, whose sentence begins with the entry's name."""
    return _decoded(entry.name, entry.image.read)


def _decoded(name: str, read: Any) -> np.ndarray:
    try:
        return read_photo(read()).pixels
    except PhotoError as error:
        raise PhotoError(f"{name}: {str(error).removeprefix('the given bytes: ')}") from None
    except OSError as error:
        raise PhotoError(f"{name}: cannot be read ({reason(error)})") from None


def read_record(entry: Entry) -> dict[str, Any]:
    """The content of the entry's side file; empty where there is none. Raises UsageError for a broken one."""
    if entry.side is None:
        return {}
    try:
        record = json.loads(entry.side.read())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{entry.name}: its .json cannot be read ({reason(error)}); mend or remove it") from None
    if not isinstance(record, dict):
        raise UsageError(f"{entry.name}: its .json holds a {type(record).__name__}, expected an object")
    return record


def check_landmarks(values: Any, name: str) -> np.ndarray:
    """Values as (68, 2) float32 pixels.

    Raises UsageError for another number of points, for NaN or infinity, and where all lie in one line.
    """
    try:
        with np.errstate(over="ignore"):  # infinity, which is refused below
            points = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name}: landmarks: expected 68 pairs of numbers, got something else") from None
    if points.shape == (66, 2):
        raise UsageError(
            f"{name}: landmarks: expected 68 points, got 66; aboutface.geometry.landmarks_68_from_66 converts them"
        )
    if points.shape != (68, 2):
        shape = " x ".join(map(str, points.shape)) or "a number"
        raise UsageError(f"{name}: landmarks: expected 68 x 2 pixels (iBUG order), got {shape}; detect them anew")
    if not np.isfinite(points).all():
        count = int((~np.isfinite(points)).any(1).sum())
        raise UsageError(f"{name}: landmarks: {count} of 68 points are NaN or infinite; detect them anew")
    length, width = np.linalg.svd((points - points.mean(0, dtype=np.float64)), compute_uv=False)
    if width <= MOST_FLAT * length:
        raise UsageError(f"{name}: landmarks: all 68 points lie in one line; detect them anew")
    return points


def identity_of(entry: Entry, record: dict[str, Any], rule: IdentityRule) -> str | None:
    """Who is shown: what the side file says, else what the rule takes from the name."""
    if record.get("identity") is not None:
        return str(record["identity"])
    path = PurePosixPath(entry.name)
    if rule == "lfw":
        match = re.fullmatch(r"(.*\D)_\d{4}", path.stem)
        return match[1] if match else None
    if rule == "folder" and path.parent.suffix != ".tar":
        return path.parent.name or None
    return None


def _mask(entry: Entry, size: tuple[int, int]) -> np.ndarray | None:
    if entry.mask is None:
        return None
    mask = _decoded(f"{entry.key}.mask.png", entry.mask.read)[..., 0]
    if mask.shape != size:
        raise PhotoError(f"{entry.name}: its mask has {mask.shape} pixels (height, width), the picture {size}")
    return mask


def _quality(record: dict[str, Any], name: str) -> dict[str, float]:
    try:
        quality = {key: float(value) for key, value in (record.get("quality") or {}).items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise UsageError(f"{name}: quality: expected numbers by name, got {record['quality']!r}") from None
    if not all(map(math.isfinite, quality.values())):
        raise UsageError(f"{name}: quality: expected finite numbers, got {quality}")
    return quality


def _pose(record: dict[str, Any], name: str) -> tuple[float, float, float] | None:
    pose = record.get("pose")
    if pose is None:
        return None
    try:
        yaw, pitch, roll = (float(pose[axis]) for axis in ("yaw", "pitch", "roll"))
    except (TypeError, KeyError, ValueError):
        raise UsageError(f"{name}: pose: expected yaw, pitch and roll in degrees, got {pose!r}") from None
    if not all(map(math.isfinite, (yaw, pitch, roll))):
        raise UsageError(f"{name}: pose: expected finite degrees, got {pose!r}")
    return yaw, pitch, roll
