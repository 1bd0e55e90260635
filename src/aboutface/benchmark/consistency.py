"""Whether photos of one person give one face: `aboutface bench morphable --people TAR`.

Nobody knows the true shapes of the people in photos. But two sets of photos of one person that share none must give
the same shape, and the more of them the better; faces of two people must not. Told in millimetres between the
vertices of two neutral faces after the best similarity, and as a share of what two people differ by.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from ..data import keep_aside, open_examples
from ..errors import AboutfaceError, UsageError
from ..geometry import apply, similarity
from ..morphable import MorphableModel
from ..reconstruct import MorphableReconstructor
from ..reconstruct.deep3d_batches import FaceIn, cropped
from ..reconstruct.deep3d_landmarks import FaceRegressor, SetConfidence, look_at_person
from ..reconstruct.morphable_photo import crop_intrinsics
from .goals import Goal
from .statistics import Number
from .tables import Scores, Table

SETS = (1, 2, 5)
"""Photos in each of the two sets."""
TABLE = "consistency"
TITLES = {
    "landmarks": "fit to landmarks",
    "network": "deep3d's network",
    "confidence": "deep3d's network, by confidence",
}


@dataclass(frozen=True, eq=False)
class _Photos:
    """N photos of one person."""

    landmarks: Tensor
    """(N, 68, 2) pixels of each."""
    crops: Tensor
    """(N, 3, S, S) as the network wants them; no pixels without one."""

    def chosen(self, index: slice) -> "_Photos":
        return _Photos(self.landmarks[index], self.crops[index])


def measured(
    people: Path,
    morphable: MorphableReconstructor,
    net: FaceRegressor | None,
    confidence: SetConfidence | None,
    most: int,
    log: Callable[[str], None],
) -> Scores:
    """Scores of up to `most` people of a folder or tar of faces with names and landmarks.

    Named "METHOD, PHOTOS", each with "same" and "other", millimetres, and "share", the first over the mean of the
    second. Raises UsageError where fewer than two people have enough photos.
    """
    photos = list(people_kept_aside(people, net, most).values())
    if len(photos) < 2:
        raise UsageError(f"--people {people}: expected two people kept aside or more with {2 * SETS[-1]} photos each")
    model = morphable.front
    shapes: dict[str, list[list[Tensor]]] = defaultdict(lambda: [[], []])
    for number, one in enumerate(photos):
        for count in SETS:
            for half, start in enumerate((0, SETS[-1])):
                part = one.chosen(slice(start, start + count))
                for name, identity in _identities(part, morphable, net, confidence).items():
                    neutral = model.vertices(identity.float()[None])[0]
                    shapes[f"{name}, {count}"][half].append(neutral)
        if (number + 1) % 10 == 0:
            log(f"{number + 1} of {len(photos)} people")
    return {name: _scores(first, second) for name, (first, second) in shapes.items()}


def people_kept_aside(source: Path, net: FaceRegressor | None, most: int) -> dict[str, _Photos]:
    """The people kept aside of whom there are enough photos."""
    examples = open_examples(source)
    if not any(examples.identities):
        raise UsageError(f"--people {source}: no face has a name; give ytf68-train.tar")
    found: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    whole: dict[str, _Photos] = {}
    for index in keep_aside(examples.identities)["test"].tolist():
        name = str(examples.identities[index])
        if len(whole) == most:
            break
        if name in whole:
            continue
        try:
            example = examples[index]
        except AboutfaceError:
            continue
        if example.landmarks is None:
            continue
        face = FaceIn(example.pixels, torch.from_numpy(example.landmarks).double())
        crop = torch.zeros(3, 0, 0) if net is None else cropped([face], net.settings.trunk.size)[0][0]
        found[name].append((face.landmarks, crop))
        if len(found[name]) == 2 * SETS[-1]:
            rows = found.pop(name)
            # Frames of one video follow each other; shuffled, sets of one hold moments as far apart as larger sets.
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(len(whole))).tolist()
            landmarks, crops = zip(*(rows[i] for i in order), strict=True)
            whole[name] = _Photos(torch.stack(landmarks), torch.stack(crops))
    return whole


def _identities(
    photos: _Photos, morphable: MorphableReconstructor, net: FaceRegressor | None, confidence: SetConfidence | None
) -> dict[str, Tensor]:
    """(I,) of each method."""
    lens = torch.stack([crop_intrinsics(one) for one in photos.landmarks])
    found = {"landmarks": morphable.fitter(photos.landmarks, lens, morphable.settings).identity}
    if net is not None:
        found["network"] = look_at_person(net, photos.crops).identity
        if confidence is not None:
            found["confidence"] = look_at_person(net, photos.crops, confidence).identity
    return found


def _scores(first: list[Tensor], second: list[Tensor]) -> dict[str, Number]:
    """Of the shapes (V, 3) of the same people by two sets of photos."""
    same = torch.tensor([_apart(a, b) for a, b in zip(first, second, strict=True)])
    # Each person's first set beside the next one's second.
    other = torch.tensor([_apart(a, b) for a, b in zip(first, second[1:] + second[:1], strict=True)])
    return {"same": _number(same), "other": _number(other), "share": _number(same / other.mean())}


def _apart(a: Tensor, b: Tensor) -> float:
    """Millimetres."""
    a, b = a.double(), b.double()
    return float((apply(similarity(a, b), a) - b).norm(dim=1).mean())


def _number(values: Tensor) -> Number:
    values = values.double()
    mean, spread = float(values.mean()), float(values.std(correction=0))
    half = 1.96 * spread / len(values) ** 0.5
    return Number(mean, spread, float(values.median()), len(values), (mean - half, mean + half))


def goals(scores: Scores) -> list[Goal]:
    """More photos of a person, less apart; and always less than two people."""
    found = []
    for method in TITLES:
        counts = [count for count in SETS if f"{method}, {count}" in scores]
        for before, after in pairwise(counts):
            found.append(
                Goal(TABLE, f"{method}: {after} photos / {before}, same person", _ratio(method, after, before), 1.0)
            )
        if counts:
            name = f"{method}, {counts[-1]}"
            found.append(
                Goal(
                    TABLE,
                    f"{method}: same person / another, {counts[-1]} photos",
                    lambda s, n=name: s[n]["share"].mean,
                    0.9,
                )
            )
    return found


def _ratio(method: str, after: int, before: int) -> Callable[[Scores], float]:
    return lambda scores: scores[f"{method}, {after}"]["same"].mean / scores[f"{method}, {before}"]["same"].mean


def table(scores: Scores, model: MorphableModel) -> Table:
    rows = [
        [
            TITLES[method],
            str(count),
            f"{found['same'].mean:.2f}",
            f"{found['same'].ci[0]:.2f}–{found['same'].ci[1]:.2f}",
            f"{found['other'].mean:.2f}",
            f"{found['share'].mean:.2f}",
        ]
        for method in TITLES
        for count in SETS
        if (found := scores.get(f"{method}, {count}"))
    ]
    notes = [
        f"Mean distance of the {len(model.mean):,} vertices of two neutral faces after the best similarity, by two "
        f"sets of photos that share none; {next(iter(scores.values()))['same'].n} people kept aside from training.",
    ]
    head = ["shape", "photos", "same person, mm", "95 %", "another, mm", "same / another"]
    return Table("Consistency on photos", head, rows, notes)
