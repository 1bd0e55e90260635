"""Faces, pairs and predictors of the DepthNets experiments, and the one way in which all models are scored."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .. import data
from ..data import grey_square, load_landmarks, open_examples
from ..errors import AboutfaceError, UsageError
from ..geometry import angles_from_rotation, similarity
from ..metrics import mse, mse_norm
from ..morphable import MeanHead

KEYPOINTS = 68
CROP = 80
"""Side of the face crops of Table 1, pixels."""
FRAME = 450.0
"""Side of AFLW2000-3D's pictures, pixels: Table 3 is in fractions of it."""
POSES = ("left", "front", "right")
"""Yaw below -30, within 10, above 30 degrees, where + moves the nose to smaller x (the sign of AFLW2000-3D)."""


@dataclass(frozen=True, eq=False)
class Faces:
    """N faces. What a method must not see is None."""

    points: Tensor
    """(N, K, 2), x right and y down: pixels of an 80 x 80 crop (Table 1) or fractions of the picture (Table 3)."""
    depth: Tensor | None = None
    """(N, K) in the same unit, z forward (the nose has the smallest), not centred."""
    yaw: Tensor | None = None
    """(N,) degrees."""
    images: Tensor | None = None
    """(N, 1, 80, 80) grey, 0 to 1."""
    identity: Tensor | None = None
    """(N,) int64: frames of one person share a number."""
    keys: tuple[str, ...] = ()
    """Names of the examples."""

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: Tensor) -> "Faces":
        others = {name: getattr(self, name) for name in ("depth", "yaw", "images", "identity")}
        chosen = {name: None if value is None else value[index] for name, value in others.items()}
        keys = tuple(self.keys[i] for i in index.tolist()) if self.keys else ()
        return Faces(self.points[index], **chosen, keys=keys)

    def without_depth(self) -> "Faces":
        """The same faces for methods that claim to need no depth label."""
        return replace(self, depth=None)


class Prediction(NamedTuple):
    """What a model says of P pairs."""

    points: Tensor
    """(P, K, 2): the source's keypoints carried to the target."""
    depth: Tensor | None
    """(P, K): the source's depths, or None for a model without."""


class Predictor(Protocol):
    """A model ready to be scored."""

    def __call__(self, faces: Faces, source: Tensor, target: Tensor) -> Prediction:
        """Carry the faces numbered source (P,) to those numbered target (P,).

        Pairs come in order of their sources, so a network for images may encode `faces.images` once.
        """
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """One seed's training and test faces."""

    seed: int
    train: Faces
    test: Faces
    shapes: Tensor
    """(M, K, 3): 3D faces for the average template, none of them tested."""


class Pairs(NamedTuple):
    source: Tensor
    """(P,) int64 into the test faces, not decreasing."""
    target: Tensor


class Errors(NamedTuple):
    """Errors of P pairs, and the depths they were made with."""

    mse: Tensor
    """(P,) in the square of the faces' unit."""
    mse_norm: Tensor
    """(P,) percent."""
    depth: Tensor | None
    """(P, K)."""


@torch.no_grad()
def evaluate(predictor: Predictor, faces: Faces, pairs: Pairs, chunk: int = 8400) -> Errors:
    """Errors of all pairs, in float64, a part at a time. Raises ValueError where a prediction is not finite."""
    parts: list[Errors] = []
    for source, target in zip(pairs.source.split(chunk), pairs.target.split(chunk), strict=True):
        points, depth = predictor(faces, source, target)
        if not points.isfinite().all():
            raise ValueError(f"{type(predictor).__name__}: predicted points that are not finite")
        truth = faces.points[target].double()
        depth = None if depth is None else depth.double()
        parts.append(Errors(mse(points.double(), truth), mse_norm(points.double(), truth), depth))
    depths = [part.depth for part in parts if part.depth is not None]
    return Errors(
        torch.cat([part.mse for part in parts]),
        torch.cat([part.mse_norm for part in parts]),
        torch.cat(depths) if depths else None,
    )


def all_pairs(count: int) -> Pairs:
    """Every ordered pair of `count` faces but those of a face with itself."""
    return Pairs(*torch.nonzero(~torch.eye(count, dtype=torch.bool), as_tuple=True))


def same_identity(identity: Tensor) -> Pairs:
    """Every ordered pair of two faces of one person."""
    same = identity[:, None] == identity
    return Pairs(*torch.nonzero(same & ~torch.eye(len(identity), dtype=torch.bool), as_tuple=True))


def pose_of(yaw: Tensor) -> Tensor:
    """(N,) 0, 1, 2 for left, front, right; -1 for the poses in between, which are not tested."""
    pose = torch.full_like(yaw, -1, dtype=torch.int64)
    for number, chosen in enumerate((yaw < -30, yaw.abs() < 10, yaw > 30)):
        pose[chosen] = number
    return pose


def split_by_pose(faces: Faces, seed: int, per_pose: int = 75) -> Split:
    """`per_pose` faces of each pose to test (left, front, right, in this order), the rest to train: Tables 2 and 3.

    Raises UsageError where a pose has too few faces to leave one for training.
    """
    assert faces.yaw is not None
    assert faces.depth is not None
    generator = torch.Generator().manual_seed(seed)
    chosen: list[Tensor] = []
    for number, name in enumerate(POSES):
        pool = torch.nonzero(pose_of(faces.yaw) == number)[:, 0]
        if len(pool) <= per_pose:
            raise UsageError(
                f"the landmark file has {len(pool)} faces looking {name}, the test takes {per_pose} and training the "
                "rest: give a file with more faces"
            )
        chosen.append(pool[torch.randperm(len(pool), generator=generator)[:per_pose]])
    test = torch.cat(chosen)
    rest = torch.ones(len(faces), dtype=torch.bool)
    rest[test] = False
    train = faces[torch.nonzero(rest)[:, 0]]
    assert train.depth is not None
    return Split(seed, train, faces[test], torch.cat([train.points, train.depth[..., None]], -1))


def split_by_identity(faces: Faces, shapes: Tensor, seed: int) -> Split:
    """About a fifth of the people to test, the others to train: Table 1."""
    assert faces.identity is not None
    parts = data.split_by_identity([str(person) for person in faces.identity.tolist()], seed=seed)
    if not all(len(part) for part in parts.values()):
        raise UsageError(f"too few people to train and test: {len(faces.identity.unique())}; give a set with more")
    return Split(seed, faces[parts["train"]], faces[parts["test"]], shapes)


def read_landmarks(path: Path, frame: float = FRAME) -> tuple[Faces, dict[str, int]]:
    """3D landmarks of an NPZ file (see `data.load_landmarks`), and how many faces were dropped for which reason.

    Where the file has no yaw, it is measured with the mean face. `frame`: pixels of unit length.

    Raises UsageError where the file cannot be read, is of another form or holds no usable face.
    """
    found = load_landmarks(path)
    points, dropped = found.points.double(), {reason: count for reason, count in found.dropped.items() if count}
    if points.shape[1:] != (KEYPOINTS, 3):
        raise UsageError(f"{path}: expected 3D points (N, {KEYPOINTS}, 3), got {tuple(points.shape)}")
    spread = torch.linalg.svdvals(points[..., :2] - points[..., :2].mean(1, keepdim=True))
    good = spread[:, 1] > 1e-3 * spread[:, 0]
    if not good.all():
        dropped["all points in one line or place"] = int((~good).sum())
    points, yaw = points[good], None if found.yaw is None else found.yaw[good].double()
    yaw = measured_yaw(points) if yaw is None else yaw
    if not len(points):
        raise UsageError(f"{path}: no usable face ({_list(dropped)})")
    return Faces(points[..., :2] / frame, points[..., 2] / frame, yaw), dropped


def measured_yaw(points: Tensor) -> Tensor:
    """Yaw (N,) in degrees of 3D faces (N, 68, 3), z forward, by the mean face; the sign is that of `POSES`."""
    mean = MeanHead.load().landmarks.to(points)
    linear = similarity(mean, points)[:, :3, :3]
    rotation = linear / torch.linalg.det(linear).abs().pow(1 / 3)[:, None, None]
    # Ours counts a face that looks to the right side of the picture as positive.
    return -angles_from_rotation(rotation)[0]


def read_videos(path: Path, limit: int | None = None) -> tuple[Faces, dict[str, int]]:
    """Face crops with keypoints and identities (see `data.open_examples`), scaled into 80 x 80; counts of dropped.

    The longer side becomes 80 pixels; the shorter is centred, with black beside it. `limit`: people, the first ones.
    Raises UsageError where the file cannot be read or holds no usable face.
    """
    source = open_examples(path)
    names = list(dict.fromkeys(name for name in source.identities if name is not None))[:limit]
    numbers = {name: number for number, name in enumerate(names)}
    found: list[tuple[str, int, np.ndarray, np.ndarray]] = []
    dropped: dict[str, int] = {"damaged": len(source.bad)} if source.bad else {}
    for index, name in enumerate(source.identities):
        if limit is not None and name not in numbers:
            continue
        try:
            example = source[index]
            if example.landmarks is None or name is None:
                raise UsageError("without landmarks or identity")
            found.append((example.key, numbers[name], *grey_square(example.pixels, example.landmarks, CROP)))
        except AboutfaceError:
            dropped[reason] = dropped.get(reason := "picture, landmarks or identity missing or broken", 0) + 1
    if not found:
        raise UsageError(f"{path}: no usable face ({_list(dropped)})")
    keys, people, pictures, points = zip(*found, strict=True)
    images = torch.from_numpy(np.stack(pictures))[:, None].float() / 255
    faces = Faces(torch.from_numpy(np.stack(points)), images=images, identity=torch.tensor(people), keys=keys)
    return faces, dropped


def read_picture(path: Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    """The colour crop (H, W, 3) uint8 of one example of a source, and its keypoints (68, 2) in its own pixels."""
    source = open_examples(path)
    example = next(source[index] for index, entry in enumerate(source.entries) if entry.key == key)
    assert example.landmarks is not None
    return example.pixels, example.landmarks.astype(np.float64)


def _list(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count} dropped: {reason}" for reason, count in dropped.items())
