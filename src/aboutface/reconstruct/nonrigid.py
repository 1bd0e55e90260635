"""A deformable 3D face from 2D keypoints of many faces: no depth label, no image, a minute on a CPU.

Torresani, Hertzmann, Bregler: Nonrigid Structure-from-Motion, PAMI 2008 (section 4, Gaussian deformations by EM), on
photos of different people instead of frames of one. A photo shows scale * (R (mean + sum of codes * basis))[:2] + shift
+ noise, with codes ~ N(0, 1). It begins with the rigid mean of the affine factorisation, which is metric and has the
nose in front; the rest keeps that gauge.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import orthographic_pose
from .landmark_baselines import Factorisation, to_unit

CAUTION = 10.0
"""Noise variance of `depth` over that of the fit. Neighbouring keypoints err alike, so that 68 of them say less than 68
independent ones would; with the fit's own variance the codes follow that shared error into depth. From 4 to 30 the
result hardly changes (DepthCorr of frontal faces by 0.01)."""


FIRST = 600
"""Faces for the rigid mean to begin with, which takes memory by their square."""


class _Seen(NamedTuple):
    """What explains B faces."""

    codes: Tensor
    """(B, D) posterior means."""
    covariance: Tensor
    """(B, D, D)."""
    projection: Tensor
    """(B, 2, 3): scale and rotation, depth dropped."""
    rotation: Tensor
    """(B, 3, 3)."""
    scale: Tensor
    """(B,)."""
    shift: Tensor
    """(B, 2)."""


@dataclass(frozen=True, eq=False)
class NonRigidShape:
    """Mean face and its deformations. Keypoints that it explains are brought to unit root-mean-square size inside."""

    mean: Tensor
    """(K, 3)."""
    basis: Tensor
    """(D, K, 3): one standard deviation each."""
    variance: float
    """Of what it leaves unexplained, per coordinate, in squared units of a face's size."""

    @classmethod
    def fit(cls, points: Tensor, deformations: int = 6, rounds: int = 30, seed: int = 0) -> "NonRigidShape":
        """From keypoints (N, K, 2) of N faces in many poses, any pixel size; in float64. Needs some hundred faces."""
        faces = to_unit(points.double())[0]
        generator = torch.Generator().manual_seed(seed)
        few = torch.randperm(len(faces), generator=generator)[:FIRST]
        mean = Factorisation(faces[few]).mean.shape
        basis = 1e-2 * torch.randn(deformations, *mean.shape, generator=generator, dtype=mean.dtype)
        shape = cls(mean, basis, 0.02**2)
        codes = torch.zeros(len(faces), deformations, dtype=mean.dtype)
        for _ in range(rounds):
            seen = shape._explain(faces, codes, shape.variance)
            codes = seen.codes
            shape = _improved(faces, seen)
        return shape

    def depth(self, points: Tensor, rounds: int = 20) -> Tensor:
        """Depths (B, K) of keypoints (B, K, 2), of mean 0, z forward, in the keypoints' unit."""
        faces, size = to_unit(points.to(self.mean))
        codes = torch.zeros(len(faces), len(self.basis), dtype=faces.dtype)
        for _ in range(rounds):
            seen = self._explain(faces, codes, CAUTION * self.variance)
            codes = seen.codes
        z = seen.scale[:, None] * (self._shapes(codes) @ seen.rotation.mT)[..., 2]
        return ((z - z.mean(1, keepdim=True)) * size[:, None]).to(points)

    def _shapes(self, codes: Tensor) -> Tensor:
        return self.mean + (codes @ self.basis.flatten(1)).unflatten(1, self.mean.shape)

    def _explain(self, faces: Tensor, codes: Tensor, variance: float) -> _Seen:
        """One round: pose for the codes, then codes for the pose."""
        rotation, scale, shift = orthographic_pose(self._shapes(codes), faces, iterations=10)
        projection = scale[:, None, None] * rotation[:, :2]
        effect = _effect(self.basis, projection)
        rest = (faces - shift[:, None] - self.mean @ projection.mT).flatten(1)
        identity = torch.eye(len(self.basis), dtype=faces.dtype)
        covariance = torch.linalg.inv(effect.mT @ effect / variance + identity)
        codes = (covariance @ (effect.mT @ rest[..., None]) / variance)[..., 0]
        return _Seen(codes, covariance, projection, rotation, scale, shift)


def _effect(basis: Tensor, projection: Tensor) -> Tensor:
    """(B, 2K, D): how each code moves the seen keypoints."""
    return torch.einsum("dkc,bxc->bkxd", basis, projection).flatten(1, 2)


def _improved(faces: Tensor, seen: _Seen) -> NonRigidShape:
    """M-step: mean and basis by one linear system that all keypoints share, then the variance."""
    count, (points, _) = len(faces), faces.shape[1:]
    one = torch.ones(count, 1, dtype=faces.dtype)
    codes = torch.cat([one, seen.codes], 1)
    # Second moments of (1, codes): the mean is the basis whose code is always 1.
    second = codes[:, :, None] * codes[:, None]
    second[:, 1:, 1:] += seen.covariance
    centred = faces - seen.shift[:, None]
    gram = seen.projection.mT @ seen.projection
    size = 3 * codes.shape[1]
    system = torch.einsum("bij,bde->diej", gram, second).reshape(size, size)
    seen_from_below = torch.einsum("bd,bkx,bxc->dck", codes, centred, seen.projection).reshape(size, points)
    ridge = 1e-6 * system.diagonal().mean() * torch.eye(size, dtype=faces.dtype)
    mean, *basis = torch.linalg.solve(system + ridge, seen_from_below).unflatten(0, (-1, 3)).mT
    basis, mean = torch.stack(basis), mean - mean.mean(0)
    shown = (mean + (seen.codes @ basis.flatten(1)).unflatten(1, mean.shape)) @ seen.projection.mT
    effect = _effect(basis, seen.projection)
    doubt = ((effect @ seen.covariance) * effect).sum()
    variance = float(((centred - shown).square().sum() + doubt) / faces.numel())
    return NonRigidShape(mean, basis, variance)
