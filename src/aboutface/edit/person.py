"""Several photos of one person: which of them count, whether they show one person, and what the record says of that."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..detect import SAME_PERSON, distance, embed
from ..errors import AboutfaceError, MissingError
from ..face import Face
from ..images import Photo
from ..reconstruct import Together
from .result import about_weights

EMBEDDING = "dlib-embedding"
"""Weights that tell people apart."""


@dataclass(frozen=True, eq=False)
class Found:
    """A photo, and the chosen face in it."""

    photo: Photo
    face: Face
    seconds: dict[str, float]
    """Time that reading and finding took."""


@dataclass(frozen=True, eq=False)
class Group:
    """Photos of one person, of which the same picture counts once."""

    given: tuple[Found | AboutfaceError, ...]
    """In the order of the sources, with names that differ; an error where there is no photo or no face in it."""
    counted: tuple[Found, ...]
    places: tuple[int, ...]
    """Of each given one: which of those that count is the same picture; -1 of an error."""
    left_out: tuple[tuple[str, str], ...]
    """Names of photos that do not count, and why."""

    @classmethod
    def of(cls, sources: Sequence[Any], found: Sequence[Found | AboutfaceError]) -> "Group":
        names = distinct_names([_name(source, one) for source, one in zip(sources, found, strict=True)])
        given: list[Found | AboutfaceError] = []
        counted: list[Found] = []
        places: list[int] = []
        left_out: list[tuple[str, str]] = []
        first: dict[Any, int] = {}
        for one, name in zip(found, names, strict=True):
            if isinstance(one, AboutfaceError):
                given.append(one)
                places.append(-1)
                left_out.append((name, " ".join(str(one).split())))
                continue
            one = replace(one, photo=replace(one.photo, name=name))
            given.append(one)
            places.append(first.setdefault(_print(one.photo), len(counted)))
            if places[-1] == len(counted):
                counted.append(one)
            else:
                left_out.append((name, same_picture(counted[places[-1]].photo)))
        return cls(tuple(given), tuple(counted), tuple(places), tuple(left_out))


def _name(source: Any, found: Found | AboutfaceError) -> str:
    if isinstance(found, Found):
        return found.photo.name
    return (Path(source).stem.strip(". ") if isinstance(source, str | Path) and source != "-" else "") or "photo"


def _print(photo: Photo) -> tuple[Any, ...]:
    """Equal for the same pixels."""
    return photo.pixels.shape, hashlib.sha256(photo.pixels.tobytes()).digest()


def same_picture(photo: Photo) -> str:
    """Why another photo with the same pixels does not count."""
    return f"the same picture as {photo.name}: it counts once"


def distinct_names(names: Sequence[str]) -> list[str]:
    """A new name for each that another one has before it, whatever the case: me and me become me and me-2."""
    seen: Counter[str] = Counter()
    taken = {name.casefold() for name in names}
    distinct: list[str] = []
    for name in names:
        key, new = name.casefold(), name
        seen[key] += 1
        while seen[key] > 1 and (new := f"{name}-{seen[key]}").casefold() in taken:
            seen[key] += 1
        taken.add(new.casefold())
        distinct.append(new)
    return distinct


def distances(photos: Sequence[Found]) -> list[float]:
    """How far the embedding of each of several faces is from those of the others: the lower median.

    Raises MissingError where dlib or its embedding is absent.
    """
    found = [embed(one.photo.pixels, one.face) for one in photos]
    rows = [sorted(distance(a, b) for j, b in enumerate(found) if j != i) for i, a in enumerate(found)]
    # The lower one, so that of two people in three photos only the one with one photo is far from the others.
    return [row[(len(row) - 1) // 2] for row in rows]


def about_person(group: Group, together: Together) -> tuple[dict[str, Any], list[str]]:
    """What the record says under `same_person`, and sentences for the user."""
    photos = [
        {"name": one.photo.name, "sha256": one.photo.sha256, "share": round(share, 4)}
        for one, share in zip(group.counted, together.shares, strict=True)
    ]
    about: dict[str, Any] = {"identity": together.rule, "photos": photos}
    about["left_out"] = [{"name": name, "reason": reason} for name, reason in group.left_out]
    if len(photos) == 1:
        return about, [f"{photos[0]['name']} is the only photo that counts: the shape is that of this photo alone"]
    try:
        apart = distances(group.counted)
    except MissingError as error:
        return about | {"embedding": {"missing": str(error)}}, []
    about["embedding"] = dict(about_weights(EMBEDDING)) | {"one_person_below": SAME_PERSON}
    for photo, far in zip(photos, apart, strict=True):
        photo["distance"] = round(far, 3)
    strangers = [f"{photo['name']} ({far:.2f})" for photo, far in zip(photos, apart, strict=True) if far >= SAME_PERSON]
    if not strangers:
        return about, []
    return about, [
        f"perhaps not all of one person: {', '.join(strangers)}; so far is the face's embedding from the others', "
        f"which for one person is less than {SAME_PERSON}"
    ]
