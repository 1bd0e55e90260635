"""Train DepthNet on 2D keypoints alone, in about a minute on one CPU core.

    aboutface train depthnet --data DIR

DIR is a folder or tar of face crops with landmarks (as `aboutface data prepare` makes them), an .npz of landmarks, or a
folder that holds ytf68-train.tar and aflw2000-3d-landmarks.npz (of which x and y are used).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UsageError
from ..face import MIRROR_68
from ..fit import FitSettings, Phase, Run, Task, TensorBatches, fit
from ..geometry import rotation_from_angles
from ..nn import Critic, gradient_penalty, wasserstein_critic_loss, wasserstein_generator_loss
from ..reconstruct.depthnet import DepthNet, DepthNetOutput, DepthNetSettings, mirror, pair_loss
from ..reconstruct.landmark_baselines import to_unit
from ..reconstruct.nonrigid import NonRigidShape

FLAT = 0.02
"""Keypoints that lie within this share of their length of a line show no face."""


@dataclass(frozen=True)
class DepthNetTraining:
    """Settings of the recipe."""

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
    gauge: float = 0.1
    """Weight of staying near the depths that a non-rigid factorisation of all faces gives, or near given ones; 0 is the
    paper, whose depths have no scale, tilt, offset or sign."""
    turn: tuple[float, float, float] = (20.0, 10.0, 15.0)
    """Degrees (standard deviations of yaw, pitch, roll) by which each source face is turned at random, as the gauge's
    depths allow; zeros leave it as it is."""
    adversarial: float = 0.0
    """Weight of DepthNet+GAN's critic, which compares depths with given ones."""
    critic_penalty: float = 0.1
    """Weight of the critic's squared gradient on given depths."""
    fit: FitSettings = field(default_factory=lambda: FitSettings(steps=6000, log_every=500))


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
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.fit.steps)
        phases = {"net": Phase(optimiser, schedule)}
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
        return source, target, z, features

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

    start: a network to go on from (see `with_images`). Depths missing for the gauge are made by `gauge_depth`.
    Raises UsageError where there are no two usable faces.
    """
    training = training or DepthNetTraining()
    net = start or new_net(training)
    if training.gauge and faces.depth is None:
        faces = TrainingFaces(faces.points, gauge_depth(faces.points), faces.images, faces.pairs)
    task = DepthNetTask(net, faces, training)
    pairs = faces.pairs
    index = {"source": torch.arange(len(faces.points))} if pairs is None else dict(source=pairs[:, 0], target=pairs[:, 1])
    if pairs is None and len(faces.points) < 2:
        raise UsageError(f"training needs at least two faces, got {len(faces.points)}")
    averaged = fit(task, TensorBatches(index, training.batch, training.fit.seed), training.fit, run, log=log).averaged
    assert isinstance(averaged, DepthNetTask)
    return averaged.net.cpu().eval()


def new_net(training: DepthNetTraining) -> DepthNet:
    """An untrained network of the recipe's sizes, from its seed."""
    with torch.random.fork_rng():
        torch.manual_seed(training.fit.seed)
        return DepthNet(
            DepthNetSettings(
                hidden=training.hidden, registered=training.registered, affine=training.formulation == "separate"
            )
        )


def gauge_depth(points: Tensor) -> Tensor:
    """Depths (N, K) of faces (N, K, 2) by a factorisation of these faces and their mirror images: no label."""
    return NonRigidShape.fit(torch.cat([points, mirror(points)])).depth(points)


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


def _rows(points: Tensor, depth: Tensor) -> Tensor:
    """What the critic sees: depth on the condition of the keypoints."""
    return torch.cat([depth[..., None], points], -1)


def _flipped(points: Tensor, flip: Tensor) -> Tensor:
    return torch.where(flip[:, None, None], mirror(points), points)


def _flipped_images(images: Tensor, flip: Tensor) -> Tensor:
    return torch.where(flip[:, None, None, None], images.flip(-1), images)
