"""Synthetic faces with their truth, and the scores of whoever predicts it: specs of Unsup3d's evaluation."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from ..data.synthetic import SyntheticFaces
from ..errors import UsageError
from ..geometry import angles_from_rotation, depth_normals, rotation_from_angles
from ..metrics import depth_mae, depth_mse, eroded, light_error, mad, side, view_error, view_gauge

CHUNK = 256
"""Images that are scored at once: more would only take memory."""


@dataclass(frozen=True)
class Faces:
    """Images and what is true of them, in the image's own view."""

    images: Tensor
    """(N, 3, S, S) uint8."""
    depth: Tensor
    """(N, S, S) float32, z."""
    mask: Tensor
    """(N, S, S) bool: where there is a face."""
    view: Tensor
    """(N, 6): yaw, pitch, roll in degrees, and a shift."""
    light: Tensor
    """(N, 5): ambient, diffuse, and the unit vector towards the light, in the camera's frame."""
    landmarks: Tensor
    """(N, 68, 2) pixels."""
    identity: Tensor
    """(N,) numbers: who it is."""
    K: Tensor
    """The camera (3, 3) of the images and of all depths that are compared."""

    def __post_init__(self) -> None:
        size = self.images.shape[-1]
        if self.images.shape[1:] != (3, size, size) or self.images[:, 0].shape != self.depth.shape:
            raise UsageError(
                f"synface: expected square images with a depth per pixel, got {tuple(self.images.shape)} and "
                f"{tuple(self.depth.shape)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        return self.images.shape[-1]

    def first(self, count: int) -> "Faces":
        """Only so many."""
        return replace(self, **{f.name: getattr(self, f.name)[:count] for f in fields(self) if f.name != "K"})

    def without_truth(self) -> "Faces":
        """Images, landmarks and identities alone: what whoever is tested may see."""
        unknown = {name: torch.full_like(getattr(self, name), torch.nan) for name in ("depth", "view", "light")}
        return replace(self, mask=torch.zeros_like(self.mask), **unknown)

    @classmethod
    def read(cls, split: Path, limit: int | None = None) -> "Faces":
        """A split that `aboutface data synth faces` wrote, or its first examples. Raises UsageError."""
        names = ("depth", "mask", "view", "light", "landmarks")
        tensors = SyntheticFaces.open(split).tensors(limit, ("image", *names))
        people = {name: number for number, name in enumerate(dict.fromkeys(tensors["identity"]))}
        identity = torch.tensor([people[name] for name in tensors["identity"]])
        known = {name: tensors[name] for name in (*names, "K")}
        return cls(images=tensors["image"], identity=identity, **known)


@dataclass(frozen=True)
class Prediction:
    """What a method says of N images, in the view of each image. None: it says nothing of the kind."""

    depth: Tensor
    """(N, S, S) z-depth above 0, up to one scale per image."""
    valid: Tensor
    """(N, S, S) bool: where it has a surface."""
    view: Tensor | None = None
    """(N, 3, 3): the rotation from a face at rest to the head's pose."""
    light: Tensor | None = None
    """(N, 5) as `Faces.light`."""


def read_faces(folder: Path, limit: int | None = None) -> tuple[Faces, Faces]:
    """Train and test split of what `aboutface data synth faces` wrote.

    Raises UsageError where there is none, or where the splits differ in size.
    """
    for split in ("train", "test"):
        if not (folder / split).is_dir():
            raise UsageError(
                f"--data {folder}: no folder {split} in it; make one by: aboutface data synth faces --out {folder}"
            )
    train, test = (Faces.read(folder / split, limit) for split in ("train", "test"))
    if train.size != test.size:
        raise UsageError(
            f"--data {folder}: images of {train.size} pixels to train and of {test.size} to test; "
            "networks know one size: make both alike"
        )
    return train, test


def score(predicted: Prediction, faces: Faces) -> dict[str, Tensor]:
    """Every score (N,) that the prediction allows; NaN where no pixel can be compared.

    side (times 100), mad (degrees), mae, mse: over pixels that lie inside the face and the predicted surface, one pixel
    from both outlines (as published: `metrics.eroded`). coverage: percent of the face's such pixels that are predicted.
    view, yaw, pitch, roll, light: degrees. own_zero: `view` after the one rotation, for all images, that a method
    without labels may choose freely. ambient, diffuse, share: see `metrics.LightError`.
    """
    shape = faces.depth.shape
    if predicted.depth.shape != shape or predicted.valid.shape != shape:
        raise UsageError(
            f"synface: expected depth and valid {tuple(shape)} for the test images, got "
            f"{tuple(predicted.depth.shape)} and {tuple(predicted.valid.shape)}"
        )
    parts = [
        _surface_scores(predicted.depth[part], predicted.valid[part], faces.depth[part], faces.mask[part], faces.K)
        for part in torch.arange(len(faces)).split(CHUNK)
    ]
    scores = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if predicted.view is not None and not predicted.view.isnan().all():
        scores |= _view_scores(predicted.view.double(), faces.view[:, :3].double())
    if predicted.light is not None:
        error = light_error(predicted.light.double(), faces.light.double())
        scores |= {"light": error.direction, "ambient": error.ambient, "diffuse": error.diffuse, "share": error.share}
    return scores


def _surface_scores(depth: Tensor, valid: Tensor, true: Tensor, mask: Tensor, K: Tensor) -> dict[str, Tensor]:
    face = eroded(mask)
    both = face & eroded(valid)
    # Outside the surface a depth may be anything, and a normal of it as well.
    normals, true_normals = (
        depth_normals(torch.where(where, x, 1.0), K) for x, where in ((depth, valid), (true, mask))
    )
    depth, true = depth.double(), true.double()
    return {
        "side": 100 * side(depth, true, both),
        "mad": mad(normals, true_normals, both).double(),
        "mae": depth_mae(depth, true, both),
        "mse": depth_mse(depth, true, both),
        "coverage": 100 * both.sum((-2, -1)).double() / face.sum((-2, -1)),
    }


def _view_scores(rotation: Tensor, true: Tensor) -> dict[str, Tensor]:
    known = rotation.isfinite().all(-1).all(-1)
    gauge = view_gauge(rotation[known], rotation_from_angles(*true[known].unbind(-1)))
    plain, own = (view_error(torch.stack(angles_from_rotation(r), -1), true) for r in (rotation, rotation @ gauge))
    return {
        "view": plain.rotation,
        "own_zero": own.rotation,
        "yaw": plain.yaw,
        "pitch": plain.pitch,
        "roll": plain.roll,
    }
