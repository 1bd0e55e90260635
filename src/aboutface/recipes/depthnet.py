"""Train DepthNet on real landmarks, in about a minute on one CPU core.

    aboutface train depthnet --data DIR

Reads `ytf68-train.tar` and `aflw2000-3d-landmarks.npz` of the data folder (x and y only: no depth is used in training).
Depths of faces kept aside grade the result.
"""

import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..geometry import angles_from_rotation
from ..morphable import MeanHead
from ..reconstruct.depthnet import (
    DepthNet,
    DepthNetSettings,
    depthnet_loss,
    estimate_depth,
    mirror,
    normalise,
    posed_mean,
)
from .mean_head import real_landmarks


@dataclass(frozen=True)
class DepthNetTraining:
    """Settings of the recipe."""

    steps: int = 6000
    """Optimiser steps."""
    batch: int = 64
    """Source faces per step."""
    targets: int = 16
    """Target faces per step. Every source is carried to all, so its depth cannot fit the expression of one."""
    learning_rate: float = 1e-3
    """Adam's step at the start; it falls to zero along a cosine."""
    test_faces: int = 340
    """Faces with known depth that are kept out of training."""
    seed: int = 0
    """Seed of everything random."""


def train_depthnet(
    data: Path,
    training: DepthNetTraining | None = None,
    settings: DepthNetSettings | None = None,
    log: Callable[[str], None] = print,
) -> tuple[DepthNet, dict[str, float]]:
    """The trained net and its scores (see `score`). Raises UsageError where the data folder lacks a file."""
    training = training or DepthNetTraining()
    mean_face = MeanHead.load().landmarks
    with_depth = real_landmarks(data)
    generator = torch.Generator().manual_seed(training.seed)
    order = torch.randperm(len(with_depth), generator=generator)
    test, rest = with_depth[order[: training.test_faces]], with_depth[order[training.test_faces :]]
    pixels = torch.cat([rest[..., :2], video_landmarks(data)])
    faces = normalise(pixels, mean_face.double()).points.float()
    faces = torch.cat([faces, mirror(faces)])
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        net = DepthNet(settings)
    optimiser = torch.optim.Adam(net.parameters(), training.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, training.steps)
    for step in range(training.steps):
        source = faces[torch.randint(len(faces), (training.batch,), generator=generator)]
        targets = faces[torch.randint(len(faces), (training.targets,), generator=generator)]
        seen = targets[torch.randint(training.targets, (training.batch,), generator=generator)]
        loss = depthnet_loss(source, net(source, seen), targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % 1000 == 0:
            log(f"step {step + 1}/{training.steps}: loss {loss.item():.5f}")
    net.eval()
    return net, score(net, test, mean_face)


@torch.no_grad()
def score(net: DepthNet, faces: Tensor, mean_face: Tensor) -> dict[str, float]:
    """Gauge-fixed depth against truth on faces (N, 68, 3): within-face correlation and error, beside the mean face's.

    Errors are root mean squares over a face's points after removing each face's mean, in units of the face's
    root-mean-square keypoint radius.
    """
    normal = normalise(faces[..., :2], mean_face.double())
    truth = (faces[..., 2] / normal.scale[:, None]).float()
    truth = truth - truth.mean(1, keepdim=True)
    normal = replace(normal, points=normal.points.float(), rotation=normal.rotation.float())
    depth = estimate_depth(net, normal, mean_face)
    template = posed_mean(mean_face, normal.rotation)[..., 2]
    template = template - template.mean(1, keepdim=True)
    yaw = angles_from_rotation(normal.rotation)[0].abs()
    result = {"test_faces": float(len(faces))}
    for name, guess in (("depthnet", depth), ("mean_face", template)):
        correlation = torch.nn.functional.cosine_similarity(guess, truth, dim=1)
        error = (guess - truth).square().mean(1).sqrt()
        result |= {
            f"{name}_correlation_mean": round(correlation.mean().item(), 4),
            f"{name}_correlation_below_30_degrees": round(correlation[yaw < 30].mean().item(), 4),
            f"{name}_error_mean": round(error.mean().item(), 4),
        }
    return result


def video_landmarks(data: Path) -> Tensor:
    """Keypoints (N, 68, 2) of every face in ytf68-train.tar, pixels. Raises UsageError where it is missing."""
    path = Path(data) / "ytf68-train.tar"
    if not path.is_file():
        raise UsageError(f"{path} is missing: --data takes the folder that holds it")
    with tarfile.open(path) as tar:
        points = [
            json.load(file)["landmarks68"]
            for member in tar
            if member.name.endswith(".json") and (file := tar.extractfile(member)) is not None
        ]
    return torch.from_numpy(np.array(points, dtype=np.float64))
