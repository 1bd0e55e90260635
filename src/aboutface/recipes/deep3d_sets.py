"""Train Deep3D's confidences: how far each of several pictures of a person is to be trusted about the face's shape.

Deng et al., CVPR workshops 2019 (C-Net). The network that sees one picture is frozen. Of a set of pictures of one
person, identities are averaged by confidence; every picture keeps its own expression, pose and light, and what the
shared identity then gives is compared with all of them. There is no regulariser: confidences count by ratio only.

As published, pictures of a set differ by themselves. Frames of videos hardly do: here some are blurred, hidden in part
or darkened, so that there is something to distrust.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ..fit import FitSettings, Phase, Run, Task, TensorBatches, fit
from ..fit.schedules import cosine
from ..metrics.keypoints import landmark_error
from ..morphable import MorphableModel
from ..reconstruct.deep3d import Coefficients, combine_identity
from ..reconstruct.deep3d_face import published_part
from ..reconstruct.deep3d_frame import MILLIMETRES_PER_UNIT, SIZE
from ..reconstruct.deep3d_landmarks import FaceRegressor, SetConfidence, look_at_person
from . import Trained
from .deep3d_augment import AugmentSettings
from .deep3d_drawing import Drawing
from .deep3d_faces import CroppedFaces, middle, moved_about, read_faces, recoloured
from .deep3d_losses import LossWeights, distance

FEWEST_TO_GRADE = 4
"""Pictures of a person who is graded: two sets of two."""


@dataclass(frozen=True)
class Deep3DSetsTraining:
    """How far each picture of a person is to be trusted about the face's shape."""

    start: Path | None = None
    """Needed: the network for single pictures that aboutface train deep3d wrote (.safetensors). It stays as it is."""
    most: int = 8
    """Pictures of the largest sets; the smallest have 2."""
    sets: int = 8
    """Sets per step."""
    spoiled: float = 0.4
    """Share of the pictures that are blurred, hidden in part or dark."""
    width: int = 64
    """Channels of the convolutions; published 256."""
    hidden: int = 256
    """Units of the last layer but one; published 512."""
    shift: int = 12
    """Largest shift of a crop in training, pixels of a crop of 224."""
    scale: float = 0.1
    """Largest change of its size."""
    rotation: float = 10.0
    """Largest turn, degrees."""
    photo: float = 10.0
    """Weight of the published photometric loss of the drawn face, where the network has albedo, beside landmarks in
    pixels; 0 draws nothing."""
    drawn: int = 4
    """Pictures that are drawn per step."""
    learning_rate: float = 1e-3
    """Adam's step at the start; it falls to zero along a cosine."""
    test_share: float = 0.2
    """Share of the people that are kept out of training and graded."""
    model: Path | None = None
    """A model of `aboutface models` by name, or its file or folder; ict if missing. Only what is drawn needs it."""
    fit: FitSettings = field(default_factory=lambda: FitSettings(steps=2000, preview_every=0))

    def __post_init__(self) -> None:
        for name in ("shift", "scale", "rotation", "photo"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"--{name}: expected 0 or more, got {getattr(self, name)}")
        if min(self.sets, self.drawn, self.width, self.hidden) < 1 or self.most < 2 or not 0 < self.learning_rate < 1:
            raise UsageError(
                f"--sets {self.sets} --drawn {self.drawn} --width {self.width} --hidden {self.hidden} "
                f"--most {self.most} --learning-rate {self.learning_rate:g}: expected 1 or more each, sets of 2 or "
                "more, and a rate between 0 and 1"
            )
        if not 0 <= self.spoiled < 1 or not 0 <= self.test_share < 1 or self.scale >= 1:
            raise UsageError(
                f"--spoiled {self.spoiled} --test-share {self.test_share} --scale {self.scale}: expected shares from 0 "
                "on and less than 1"
            )

    def train(self, data: Path, run: Run, log: Callable[[str], None]) -> Trained:
        """Train on the people of `data` but those kept aside, on whom it is graded."""
        if self.start is None:
            raise UsageError(
                "deep3d-sets: needs the network it belongs to: --start FILE that aboutface train deep3d wrote"
            )
        net = FaceRegressor.from_file(self.start).requires_grad_(False)
        faces = read_faces(data, net.settings.trunk.size, log)
        parts = faces.split(self.test_share)
        people, others = people_of(faces, parts["train"], 2), people_of(faces, parts["test"], FEWEST_TO_GRADE)
        if not len(people):
            raise UsageError(f"{data}: nobody has two pictures; give a folder whose faces have identities")
        log(f"{len(people)} people to train on, {len(others)} others to test")
        drawing = None
        if self.photo and net.settings.layout.albedo:
            model = published_part(MorphableModel.load(self.model or "ict"))
            drawing = Drawing.of(net, model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.fit.seed)
            confidence = SetConfidence(net, self.width, self.hidden)
        task = SetsTask(net, confidence, faces, self, drawing)
        fitted = fit(task, TensorBatches({"person": people}, self.sets, self.fit.seed), self.fit, run, log=log)
        confidence = fitted.averaged.confidence.cpu().eval()
        scores = grade(net.cpu(), confidence, faces, others, self.spoiled) if len(others) else {}
        card = {"sets": confidence.card, "training": asdict(self)}
        return Trained(dict(confidence.state_dict()), scores, card)


def people_of(faces: CroppedFaces, chosen: Tensor, fewest: int) -> Tensor:
    """(P, M) indices of the pictures of each person who has so many, filled up with -1."""
    groups: dict[str, list[int]] = {}
    for i in chosen.tolist():
        name = faces.names[i]
        if name is not None:
            groups.setdefault(name, []).append(i)
    rows = [group for group in groups.values() if len(group) >= fewest]
    table = torch.full((len(rows), max(map(len, rows), default=0)), -1)
    for row, group in zip(table, rows, strict=True):
        row[: len(group)] = torch.tensor(group)
    return table


class SetsTask(Task):
    """Sets of crops, some of them spoiled: one identity for all, and what it says of every picture."""

    name = "deep3d-sets"
    images: Tensor
    points: Tensor

    def __init__(
        self,
        net: FaceRegressor,
        confidence: SetConfidence,
        faces: CroppedFaces,
        settings: Deep3DSetsTraining,
        drawing: Drawing | None = None,
    ) -> None:
        super().__init__()
        self.net, self.confidence, self.settings, self.drawing = net, confidence, settings, drawing
        self.register_buffer("images", faces.images, persistent=False)
        self.register_buffer("points", faces.points, persistent=False)

    def train(self, mode: bool = True) -> "SetsTask":
        super().train(mode)
        self.net.eval()
        return self

    def phases(self) -> dict[str, Phase]:
        optimiser = torch.optim.Adam(self.confidence.parameters(), self.settings.learning_rate)
        return {"all": Phase(optimiser, cosine(optimiser, self.settings.fit.steps), clip=5.0)}

    def loss(self, phase: str, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        s = self.settings
        indices = drawn_sets(batch["person"], int(torch.randint(2, s.most + 1, ())))
        there = indices >= 0
        flat = indices.clamp_min(0).flatten()
        ranges = AugmentSettings(shift=s.shift, scale=s.scale, rotation=s.rotation)
        size = self.net.settings.trunk.size
        images, points = moved_about(self.images[flat], self.points[flat], ranges, size)
        images = recoloured(images)
        seen, bad = spoiled(images, s.spoiled)
        with torch.no_grad():
            stages = self.net.rnet.backbone.stages(seen)
            each = self.net.rnet.read(stages.pooled)
        trust = self.confidence(stages)
        of_sets = trust.unflatten(0, indices.shape) * there[..., None]
        identity = combine_identity(each.id.unflatten(0, indices.shape), of_sets)
        shared = each._replace(id=identity[:, None].expand(*indices.shape, -1).flatten(0, 1))
        shared = Coefficients(*(part[there.flatten()] for part in shared))
        images, points, bad = images[there.flatten()], points[there.flatten()], bad[there.flatten()]
        trust = trust[there.flatten()].detach()
        terms = {"model": distance(self.net.project(shared, size), points, outline=True) * (SIZE / size)}
        total = terms["model"]
        if self.drawing is not None:
            some = torch.randperm(len(images))[: s.drawn].to(images.device)
            drawn = self.drawing.terms(Coefficients(*(part[some] for part in shared)), images[some], points[some])
            # Light and albedo are the pictures' own, and stay as they are.
            terms["photo"] = drawn["photo"]
            total = total + s.photo * LossWeights().photo * drawn["photo"]
        terms["clean"] = trust[~bad].sum() / max(1, trust[~bad].numel())
        terms["worse"] = trust[bad].sum() / max(1, trust[bad].numel())
        return total, terms


def drawn_sets(people: Tensor, count: int) -> Tensor:
    """(S, count) different pictures, at random, of rows of `people_of` (S, M); -1 where a person has fewer."""
    order = torch.rand(people.shape).to(people.device).masked_fill(people < 0, 2.0).argsort(1)
    return people.gather(1, order)[:, :count]


def spoiled(images: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, S, S) in [0, 1], some of them blurred, hidden in part or dark; and which, (B,) bool."""
    count, size = len(images), images.shape[-1]
    bad = torch.rand(count) < share
    how = torch.randint(3, (count,))

    def those(kind: int) -> Tensor:
        return (bad & (how == kind))[:, None, None, None].to(images.device)

    step = max(2, size // 10)
    coarse = functional.adaptive_avg_pool2d(images, max(2, size // step))
    images = torch.where(those(0), functional.interpolate(coarse, size=(size, size), mode="bilinear"), images)
    axis = (torch.arange(size) + 0.5) / size
    middle_x, middle_y = 0.3 + 0.4 * torch.rand(count, 1), 0.3 + 0.4 * torch.rand(count, 1)
    reach = 0.2 + 0.15 * torch.rand(count, 1)
    inside_x, inside_y = (axis - middle_x).abs() < reach, (axis - middle_y).abs() < reach
    patch = (inside_y[:, None, :, None] & inside_x[:, None, None, :]).to(images.device)
    images = torch.where(those(1) & patch, torch.rand(count, 3, 1, 1).to(images), images)
    dark = (0.06 + 0.1 * torch.rand(count, 1, 1, 1)).to(images)
    # What is left of a dark picture is coarse in brightness, too.
    images = torch.where(those(2), (images * dark * 64).round() / 64, images)
    return images, bad.to(images.device)


@torch.no_grad()
def grade(
    net: FaceRegressor, confidence: SetConfidence, faces: CroppedFaces, people: Tensor, share: float
) -> dict[str, float]:
    """Confidences against the plain mean, on people (P, M) whose pictures are split into two sets each.

    Of pictures of which `share` are spoiled: the spread is the mean distance, millimetres, of the two faces' landmarks
    at rest; "nme" the model's error in percent on the person's good pictures, with what each says of pose and
    expression and the identity of a set. "clean" spreads are those of the same sets unspoiled.
    """
    size = net.settings.trunk.size
    border = (faces.images.shape[-1] - size) / 2
    spreads: dict[str, list[Tensor]] = {}
    errors: dict[str, list[Tensor]] = {"confident": [], "plain": []}
    trusts: list[Tensor] = []
    bads: list[Tensor] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for row in people:
            chosen = row[row >= 0]
            chosen = chosen[torch.randperm(len(chosen))]
            images = middle(faces.images[chosen], size) / 255.0
            truth = faces.points[chosen] - border
            worse, bad = spoiled(images, share)
            # Both halves have as many.
            half = len(chosen) // 2
            sets = slice(0, half), slice(half, 2 * half)
            own = look_at_person(net, images).each
            for name, how in (("confident", confidence), ("plain", None)):
                found = [look_at_person(net, worse[part], how) for part in sets]
                good = [look_at_person(net, images[part], how).identity for part in sets]
                spreads.setdefault(name, []).append(_apart(net, *(person.identity for person in found)))
                spreads.setdefault(f"clean_{name}", []).append(_apart(net, *good))
                for person in found:
                    shared = own._replace(id=person.identity.expand(len(chosen), -1))
                    errors[name].append(landmark_error(net.project(shared, size), truth).mean())
                if how is not None:
                    trusts += [person.confidences for person in found]
                    bads += [bad[part] for part in sets]
    trust, worst = torch.cat(trusts).mean(1), torch.cat(bads)
    scores = {"test_people": float(len(people))}
    for name in ("confident", "plain"):
        scores |= {
            f"nme_{name}": _rounded(torch.stack(errors[name])),
            f"spread_{name}": _rounded(torch.stack(spreads[name])),
            f"clean_spread_{name}": _rounded(torch.stack(spreads[f"clean_{name}"])),
        }
    if bool(worst.any()) and not bool(worst.all()):
        scores |= {"confidence_clean": _rounded(trust[~worst]), "confidence_spoiled": _rounded(trust[worst])}
    return scores


def _rounded(values: Tensor) -> float:
    return round(float(values.mean()), 4)


def _apart(net: FaceRegressor, one: Tensor, other: Tensor) -> Tensor:
    """Mean distance of the landmarks of two identities (I,) at rest, millimetres."""
    modes = net.points[1 : 1 + len(one)]
    return torch.einsum("i,ilk->lk", one - other, modes).norm(dim=-1).mean() * MILLIMETRES_PER_UNIT
