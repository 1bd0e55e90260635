"""Train DepthNet on 2D keypoints alone, in about a minute on one CPU core.

    aboutface train depthnet --data DIR

DIR is a folder or tar of face crops with landmarks (as `aboutface data prepare` makes them), an .npz of landmarks, or a
folder that holds ytf68-train.tar and aflw2000-3d-landmarks.npz (of which x and y are used).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data import Examples, grey_square, load_landmarks, open_examples, same_identity_pairs
from ..errors import AboutfaceError, UsageError
from ..face import MIRROR_68
from ..fit import FitSettings, Phase, Run, Task, TensorBatches, fit
from ..fit.schedules import cosine
from ..geometry import rotation_from_angles
from ..metrics import centred
from ..morphable import MeanHead
from ..nn import Critic, gradient_penalty, wasserstein_critic_loss, wasserstein_generator_loss
from ..reconstruct.depthnet import (
    DepthNet,
    DepthNetOutput,
    DepthNetSettings,
    canonical_targets,
    carried,
    estimate_depth,
    mirror,
    normalise,
    pair_loss,
    posed_mean,
)
from ..reconstruct.landmark_baselines import to_unit
from ..reconstruct.nonrigid import NonRigidShape
from . import Trained

LANDMARKS, VIDEOS = "aflw2000-3d-landmarks.npz", "ytf68-train.tar"

CROP = 80
"""Side of the pictures of case A, pixels."""
ENOUGH = 2000
"""Faces that a few deformations can be learned from; more take longer and change nothing that can be seen."""
FLAT = 0.02
"""Keypoints that lie within this share of their length of a line show no face."""


@dataclass(frozen=True)
class DepthNetTraining:
    """Depth of 68 keypoints from 2D keypoints alone, of your own faces (section 2.3 of DepthNets) with a gauge."""

    formulation: Literal["separate", "pseudo-inverse"] = "pseudo-inverse"
    """Where the affine comes from in training: the network (section 2.1 of the paper), or the closed form (2.3)."""
    hidden: tuple[int, ...] = (256,)
    """Units of the hidden layers."""
    registered: bool = True
    """Show the network also what a 2D registration leaves over."""
    batch: int = 256
    """Pairs per step."""
    learning_rate: float = 1e-3
    """Adam's step at the start; it falls to zero along a cosine."""
    gauge: float = 0.25
    """Weight of staying near the depths that a non-rigid factorisation of all faces gives, or near given ones; 0 is the
    paper, whose depths have no scale, tilt, offset or sign."""
    turn: tuple[float, float, float] = (20.0, 10.0, 25.0)
    """Degrees (standard deviations of yaw, pitch, roll) by which each source face is turned at random, where it has a
    depth and no picture; zeros leave it as it is."""
    stretch: float = 0.0
    """Standard deviation of the entries of a random 2 x 2 map that each face goes through, which changes nothing that
    depth has to explain; without gauge and pictures only."""
    adversarial: float = 0.0
    """Weight of DepthNet+GAN's critic, which compares depths with given ones."""
    critic_penalty: float = 0.1
    """Weight of the critic's squared gradient on given depths."""
    pictures: bool = field(default=False, repr=False)
    """See the pictures, too (case A): 18 million weights, which want a GPU."""
    pairs: Literal["any", "person"] = field(default="any", repr=False)
    """Which faces become pairs: any two, or two of one person, as in the paper's first experiment."""
    test_share: float = 0.2
    """Share of the faces with known depth that is kept out of training and graded."""
    fit: FitSettings = field(default_factory=lambda: FitSettings(steps=6000, log_every=500))

    def __post_init__(self) -> None:
        for name in ("gauge", "adversarial", "critic_penalty", "stretch"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')}: expected 0 or more, got {getattr(self, name)}")
        if self.stretch and (self.gauge or self.adversarial):
            raise UsageError(f"--stretch {self.stretch:g}: stretched faces have no depth to compare; add --gauge 0")
        if self.batch < 2 or not self.learning_rate > 0 or not 0 <= self.test_share < 1:
            raise UsageError(
                f"--batch {self.batch} --learning-rate {self.learning_rate:g} --test-share {self.test_share:g}: "
                "expected 2 or more, above 0, and 0 or more but less than 1"
            )
        if not self.hidden or min(self.hidden) < 1:
            raise UsageError(f"--hidden {self.hidden}: expected one or more sizes above 0")

    def train(self, data: Path, run: Run, log: Callable[[str], None]) -> Trained:
        """Train on the 2D keypoints of `data`; scores on faces kept aside, where their depth is known."""
        points, depth, names, images = read_faces(data, log, self.pictures)
        known = torch.nonzero(depth.isfinite().all(1))[:, 0]
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(self.fit.seed))
        test = known[order[: round(self.test_share * len(known))]]
        rest = torch.ones(len(points), dtype=torch.bool)
        rest[test] = False
        labels = depth[rest] if self.adversarial else None
        if labels is not None and not labels.isfinite().all():
            raise UsageError(f"--adversarial: {data} lacks the depth of some faces; give an .npz of (N, 68, 3) points")
        pairs = None
        if self.pairs == "person":
            pairs = same_identity_pairs([name for name, chosen in zip(names, rest.tolist(), strict=True) if chosen])
            if not len(pairs):
                raise UsageError(
                    f"--pairs person: no two pictures of one person in {data}; see --identity of data prepare"
                )
        net = train_depthnet(TrainingFaces(points[rest], labels, images, pairs), self, run, log)
        scores = score(net, points[test], depth[test]) if len(test) else {}
        sizes = asdict(net.settings)
        return Trained(dict(net.state_dict()), scores, {"network": sizes, "training": asdict(self)})


class KnownFaces(NamedTuple):
    """What is known of N faces."""

    points: Tensor
    """(N, 68, 2) pixels."""
    depth: Tensor
    """(N, 68) pixels, NaN where it is unknown."""
    names: list[str | None]
    """Who is shown."""
    images: Tensor | None
    """(N, 1, 80, 80) grey in [0, 1], where they were asked for; then points are pixels of these."""


def read_faces(data: Path, log: Callable[[str], None], pictures: bool = False) -> KnownFaces:
    """Faces of a file or folder as named above.

    Those that are not finite or lie in a line are left out and counted. Raises UsageError where no two are left.
    """
    known = [data / name for name in (LANDMARKS, VIDEOS) if data.is_dir() and (data / name).is_file()]
    if pictures:
        known = [path for path in known if path.name != LANDMARKS]
    parts = [_read(path, pictures) for path in known or [data]]
    points, depth = torch.cat([part[0].points for part in parts]), torch.cat([part[0].depth for part in parts])
    names = [name for part in parts for name in part[0].names]
    images = [part[0].images for part in parts if part[0].images is not None]
    keep = usable(points)
    bad = {name: why for part in parts for name, why in part[1].items()}
    for why in list(bad.values())[:10]:
        log(f"left out: {why}")
    if len(bad) > 10:
        log(f"left out: {len(bad) - 10} more")
    flat = "" if keep.all() else f"; {int((~keep).sum())} left out as not finite or in a line"
    log(f"{int(keep.sum())} faces with keypoints{flat}")
    if keep.sum() < 2:
        raise UsageError(f"{data}: no two faces with usable landmarks; aboutface data prepare finds them in photos")
    names = [name for name, kept in zip(names, keep.tolist(), strict=True) if kept]
    return KnownFaces(points[keep], depth[keep], names, torch.cat(images)[keep] if images else None)


def _read(path: Path, pictures: bool) -> tuple[KnownFaces, dict[str, str]]:
    """Faces, and what could not be read."""
    if path.suffix == ".npz":
        if pictures:
            raise UsageError(f"--pictures: {path} has none; give a folder or tar of face crops")
        file = load_landmarks(path)
        if file.points.shape[1] != 68:
            raise UsageError(f"{path}: expected 68 landmarks per face, got {file.points.shape[1]}")
        points = file.points
        depth = points[..., 2] if points.shape[-1] == 3 else torch.full(points.shape[:2], math.nan)
        dropped = {reason: f"{path}: {count} faces, {reason}" for reason, count in file.dropped.items() if count}
        return KnownFaces(points[..., :2], depth, [None] * len(points), None), dropped
    examples = open_examples(path)
    found: list[tuple[np.ndarray, str | None, np.ndarray | None]] = []
    bad = dict(examples.bad)
    for index, entry in enumerate(examples.entries):
        try:
            found.append(_face(examples, index, pictures))
        except AboutfaceError as error:
            bad[entry.name] = str(error)
    points = torch.from_numpy(np.array([face[0] for face in found], np.float32).reshape(-1, 68, 2))
    grey = [face[2] for face in found if face[2] is not None]
    images = torch.from_numpy(np.stack(grey))[:, None].float() / 255 if grey else None
    return KnownFaces(points, torch.full(points.shape[:2], math.nan), [face[1] for face in found], images), bad


def _face(examples: Examples, index: int, pictures: bool) -> tuple[np.ndarray, str | None, np.ndarray | None]:
    """Landmarks (68, 2), name, and a grey picture if asked; without it no picture is decoded."""
    if not pictures:
        return examples.landmarks(index), examples.identities[index], None
    example = examples[index]
    if example.landmarks is None:
        raise UsageError(f"{example.key}: no landmarks; aboutface data prepare finds them")
    grey, points = grey_square(example.pixels, example.landmarks, CROP)
    return points, example.identity, grey


@torch.no_grad()
def score(net: DepthNet, points: Tensor, depth: Tensor) -> dict[str, float]:
    """Depth against truth on faces (N, 68, 2) with depths (N, 68), each face less its mean.

    Errors are root mean squares within a face over its root-mean-square keypoint radius; correlations are within a
    face. `network` is one forward pass towards a frontal face; `photo` is what it says of a photo (`estimate_depth`);
    `mean_face` is the measured mean face in the fitted pose, which knows 3D.
    """
    mean_face = MeanHead.load().landmarks
    points, truth = points.float(), centred(depth.float())
    size = to_unit(points)[1]
    normal = normalise(points, mean_face)
    frontal = canonical_targets(mean_face)[:1].expand(len(points), -1, -1)
    guesses = {
        "network": net(points, frontal).depth / size[:, None],
        "photo": estimate_depth(net, normal, mean_face),
        "mean_face": posed_mean(mean_face, normal.rotation)[..., 2],
    }
    result = {"test_faces": float(len(points))}
    truth = truth / size[:, None]
    for name, guess in guesses.items():
        guess = centred(guess)
        result[f"{name}_correlation"] = round(torch.cosine_similarity(guess, truth, dim=1).mean().item(), 4)
        result[f"{name}_error"] = round((guess - truth).square().mean(1).sqrt().mean().item(), 4)
    return result


@dataclass(frozen=True, eq=False)
class TrainingFaces:
    """N faces to train on."""

    points: Tensor
    """(N, K, 2), any unit."""
    depth: Tensor | None = None
    """(N, K) in that unit, z forward, where it is known or meant to be the gauge."""
    images: Tensor | None = None
    """(N, 1, crop, crop) grey in [0, 1]: for networks of case A."""
    pairs: Tensor | None = None
    """(P, 2) int64 source and target; every face with every other where None."""


class DepthNetTask(Task):
    """Pairs of faces, mirrored at random; the source turned at random where its depth is known."""

    name = "depthnet"

    def __init__(self, net: DepthNet, faces: TrainingFaces, training: DepthNetTraining) -> None:
        super().__init__()
        self.net, self.training_settings = net, training
        points, size = to_unit(faces.points.float())
        depth = None if faces.depth is None else faces.depth.float() / size[:, None]
        if (training.gauge or training.adversarial) and depth is None:
            raise ValueError("gauge and adversarial need depths: give them, or gauge_depth(points)")
        # Not persistent: a checkpoint is no place for the data.
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("depth", None if depth is None else depth - depth.mean(1, keepdim=True), persistent=False)
        self.register_buffer("images", faces.images, persistent=False)
        self.critic = Critic(3 * net.settings.points, norm="none") if training.adversarial else None

    def phases(self) -> dict[str, Phase]:
        settings = self.training_settings
        optimiser = torch.optim.Adam(self.net.parameters(), settings.learning_rate)
        phases = {"net": Phase(optimiser, cosine(optimiser, settings.fit.steps))}
        if self.critic is not None:
            critic = torch.optim.Adam(self.critic.parameters(), settings.learning_rate, betas=(0.5, 0.999))
            phases["critic"] = Phase(critic, averaged=False)
        return phases

    def loss(self, phase: str, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        source, target, depth, features = self._pairs(batch)
        with torch.set_grad_enabled(phase == "net"):
            out = self.net(source, target, *features)
        if phase == "critic":
            return self._critic_loss(source, out, depth)
        settings = self.training_settings
        total = pair = pair_loss(source, target, out, settings.formulation)
        terms = {"pair": pair.detach()}
        if settings.gauge:
            gauge = (out.depth - depth).square().mean()
            total, terms["gauge"] = total + settings.gauge * gauge, gauge.detach()
        if self.critic is not None:
            adversarial = wasserstein_generator_loss(self.critic(_rows(source, out.depth)))
            total, terms["adversarial"] = total + settings.adversarial * adversarial, adversarial.detach()
        return total, terms

    def preview(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sources, the nearer the brighter; and targets in green with the carried sources in red."""
        source, target, _, features = self._pairs({name: index[:8] for name, index in batch.items()})
        out = self.net(source, target, *features)
        near = -centred(out.depth)
        grey = (near - near.amin(1, keepdim=True)) / (near.amax(1, keepdim=True) - near.amin(1, keepdim=True) + 1e-9)
        fitted = carried(source, target, out, self.training_settings.formulation)
        both = torch.stack([_dots(fitted), _dots(target), torch.zeros_like(_dots(target))], 1)
        return {
            "depth": _dots(source, 0.15 + 0.85 * grey)[:, None].expand(-1, 3, -1, -1),
            "target and carried source": both,
        }

    def _critic_loss(self, source: Tensor, out: DepthNetOutput, depth: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.critic is not None
        real, fake = _rows(source, depth), _rows(source, out.depth)
        distance = wasserstein_critic_loss(self.critic(real), self.critic(fake))
        penalty = gradient_penalty(self.critic, real)
        terms = {"distance": distance.detach(), "penalty": penalty.detach()}
        return distance + self.training_settings.critic_penalty * penalty, terms

    def _pairs(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Any, tuple[Tensor, ...]]:
        """Source, target (B, K, 2), the source's depth (B, K) or None, and features of both where there are images."""
        first = batch["source"]
        second = batch["target"] if "target" in batch else first[torch.randperm(len(first), device=first.device)]
        points, depth, images = self.points, self.depth, self.images
        assert isinstance(points, Tensor)
        source, target = points[first], points[second]
        z = depth[first] if isinstance(depth, Tensor) else None
        flip = torch.rand(len(first), device=first.device) < 0.5
        source, target = _flipped(source, flip), _flipped(target, flip)
        z = None if z is None else torch.where(flip[:, None], z[:, MIRROR_68], z)
        features: tuple[Tensor, ...] = ()
        if isinstance(images, Tensor):
            features = tuple(self.net.encode(_flipped_images(images[index], flip)) for index in (first, second))
        elif z is not None and any(self.training_settings.turn):
            source, z = self._turned(source, z)
        elif self.training_settings.stretch:
            source, target = self._stretched(source), self._stretched(target)
        return source, target, z, features

    def _stretched(self, points: Tensor) -> Tensor:
        """Faces (B, K, 2) through random linear maps, of unit size again."""
        noise = torch.randn(len(points), 2, 2, device=points.device)
        maps = torch.eye(2, device=points.device) + self.training_settings.stretch * noise
        return to_unit(points @ maps.mT)[0]

    def _turned(self, points: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """Faces (B, K, 2) with depths (B, K) seen from somewhere else, of unit size again."""
        spread = torch.tensor(self.training_settings.turn, device=points.device)
        yaw, pitch, roll = (torch.randn(len(points), 3, device=points.device) * spread).unbind(1)
        turned = torch.cat([points, depth[..., None]], -1) @ rotation_from_angles(yaw, pitch, roll).mT
        unit, size = to_unit(turned[..., :2])
        return unit, (turned[..., 2] - turned[..., 2].mean(1, keepdim=True)) / size[:, None]


def train_depthnet(
    faces: TrainingFaces,
    training: DepthNetTraining | None = None,
    run: Run | None = None,
    log: Callable[[str], None] = print,
    start: DepthNet | None = None,
) -> DepthNet:
    """The trained network, in evaluation mode on the CPU.

    start: a network to go on from (see `with_images`), which is trained in place. Depths missing for the gauge are made
    by `gauge_depth`. Raises UsageError where a face is not `usable`, or there are no two.
    """
    training = training or DepthNetTraining()
    useless = int((~usable(faces.points)).sum())
    if useless or len(faces.points) < 2:
        raise UsageError(
            f"training: {useless} of {len(faces.points)} faces are not finite or lie in a line; leave them out, and "
            "give at least two others"
        )
    net = start or new_net(training)
    if training.gauge and faces.depth is None:
        faces = TrainingFaces(faces.points, gauge_depth(faces.points, training.fit.seed), faces.images, faces.pairs)
    task = DepthNetTask(net, faces, training)
    pairs = faces.pairs
    index = {"source": torch.arange(len(faces.points))}
    if pairs is not None:
        index = {"source": pairs[:, 0], "target": pairs[:, 1]}
    averaged = fit(task, TensorBatches(index, training.batch, training.fit.seed), training.fit, run, log=log).averaged
    assert isinstance(averaged, DepthNetTask)
    return averaged.net.cpu().eval()


def new_net(training: DepthNetTraining) -> DepthNet:
    """An untrained network of the recipe's sizes, from its seed."""
    sizes = DepthNetSettings(
        hidden=training.hidden,
        registered=training.registered,
        affine=training.formulation == "separate",
        images=training.pictures,
        crop=CROP,
    )
    with torch.random.fork_rng():
        torch.manual_seed(training.fit.seed)
        return DepthNet(sizes)


def gauge_depth(points: Tensor, seed: int = 0) -> Tensor:
    """Depths (N, K) of faces (N, K, 2) by a factorisation of these faces and their mirror images: no label.

    Of more than `ENOUGH` faces, so many random ones make the shape.
    """
    chosen = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:ENOUGH]]
    shape = NonRigidShape.fit(torch.cat([chosen, mirror(chosen)]), seed=seed)
    return torch.cat([shape.depth(part) for part in points.split(ENOUGH)])


def with_images(net: DepthNet, settings: DepthNetSettings) -> DepthNet:
    """A network of case A that answers as `net` of case B does, whatever the pictures show: where training begins.

    The weights from the pictures to the first layer start at zero, all others are those of `net` or random.
    """
    grown = DepthNet(settings)
    own, known = grown.state_dict(), net.state_dict()
    width = settings.units[-1]
    first = next(name for name in known if name.endswith("weight"))
    for name, tensor in known.items():
        own[name] = torch.cat([torch.zeros(len(tensor), width), tensor], 1) if name == first else tensor
    grown.load_state_dict(own)
    return grown


def usable(points: Tensor) -> Tensor:
    """Which faces (N, K, 2) are finite and do not lie in a line: (N,) bool."""
    finite = points.isfinite().all(-1).all(-1)
    spread = torch.linalg.svdvals(to_unit(points.nan_to_num())[0])
    return finite & (spread[:, 1] > FLAT * spread[:, 0])


def _dots(points: Tensor, brightness: Tensor | None = None, size: int = 96) -> Tensor:
    """Pictures (B, size, size) in [0, 1] of unit faces (B, K, 2), each keypoint a dot as bright as (B, K) says."""
    centres = (points / 5 + 0.5) * size
    axis = torch.arange(size, device=points.device) + 0.5
    x, y = (torch.exp(-((axis - centres[..., i, None]) ** 2) / 2) for i in (0, 1))
    lit = y if brightness is None else y * brightness[..., None]
    return (lit[..., :, None] * x[..., None, :]).amax(1)


def _rows(points: Tensor, depth: Tensor) -> Tensor:
    """What the critic sees: depth on the condition of the keypoints."""
    return torch.cat([depth[..., None], points], -1)


def _flipped(points: Tensor, flip: Tensor) -> Tensor:
    return torch.where(flip[:, None, None], mirror(points), points)


def _flipped_images(images: Tensor, flip: Tensor) -> Tensor:
    return torch.where(flip[:, None, None, None], images.flip(-1), images)
