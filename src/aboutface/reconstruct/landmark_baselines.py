"""Depth of keypoints without a network: what DepthNet has to beat (Moniz et al. 2018, section 3), and its limits.

Each function takes 2D keypoints (..., K, 2), x right and y down, of any unit, and gives depths (..., K), z forward
(away from the camera), in that unit. `carry` then brings a face to a target by the closed form of section 2.3.

Depths are determined by keypoints only up to a z + b x + c y + d, and `carry` does not depend on those four.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry import affine_2d_from_3d, orthographic_pose, procrustes

NOSE_TIP, JAW_ENDS = 30, (0, 16)


def carry(points: Tensor, depth: Tensor, target: Tensor) -> Tensor:
    """Points (..., K, 2) with depths (..., K), moved by the affine that brings them closest to target (..., K, 2).

    Depth 0 gives the paper's model 1, the best affine in the plane.
    """
    return affine_2d_from_3d(torch.cat([points, depth[..., None]], -1), target)[1]


def best_pair_depth(points: Tensor, target: Tensor) -> Tensor:
    """The depths (..., K) that carry points to this one target best: no network can have a smaller error on the pair.

    The 2D affine leaves a residual R (K x 2); a depth can explain one direction of it, and its first left singular
    vector explains the most: s2(R)² / (2 K) of mean squared error remains. It is a floor, not a face: it bends the
    source's depth to the target's expression.
    """
    residual = target - carry(points, torch.zeros_like(points[..., 0]), target)
    _, directions = torch.linalg.eigh(residual.mT @ residual)
    return (residual @ directions[..., -1:])[..., 0]


@dataclass(frozen=True)
class Template:
    """The average 3D face (the paper's model 2)."""

    shape: Tensor
    """(K, 3), centred, root-mean-square size 1."""

    @classmethod
    def fit(cls, shapes: Tensor) -> "Template":
        """The generalised Procrustes mean of 3D faces (N, K, 3)."""
        return cls(procrustes(shapes)[0])

    def posed(self, points: Tensor) -> Tensor:
        """The template (..., K, 3) in the pose, size and place in which its x and y best meet the points (..., K, 2).

        Its depth is the source's under this model. Section 3 fits it by "Procrustes" without saying how a 3D shape is
        fitted to 2D points; this is the scaled orthographic pose.
        """
        rotation, scale, shift = orthographic_pose(self.shape, points)
        posed = scale[..., None, None] * (self.shape @ rotation.mT)
        return torch.cat([posed[..., :2] + shift[..., None, :], posed[..., 2:]], -1)


class Factorisation:
    """One depth per face from many other faces' 2D keypoints, in closed form: no network and no depth label.

    DepthNet's loss of one source against many targets X_t (K x 2) is least for the z that explains most of what the 2D
    affines leave over: the first eigenvector of P (sum of X_t X_t') P, with P = I - projection on [x y 1]. This is
    affine factorisation (Tomasi and Kanade 1992) with two of its three dimensions given.

    Scale and tilt then follow from the targets being photos of rigid faces, that is from their 2 x 3 maps M having
    orthogonal rows of equal length in the true metric: M Q M' ~ I with Q = [[1 0 c] [0 1 d] [c d e]] (Tomasi and
    Kanade's metric constraints), and z' = (z - c x - d y) / sqrt(e - c² - d²). The sign, which no affine view shows,
    is the one that agrees with the mean of all targets' own shapes, each turned to have its nose before its jaw.
    """

    def __init__(self, targets: Tensor) -> None:
        """Targets (T, K, 2): the more, the better. Each is centred and of unit size, so that all count alike."""
        self.targets, _ = to_unit(targets)
        # All coordinates of one keypoint in a row: (K, 2 T).
        self.wide = self.targets.transpose(0, 1).flatten(1)
        self.scatter = self.wide @ self.wide.mT
        own = nose_first(self.targets, self.metric(self.targets, self.raw(self.targets)))
        self.mean = Template.fit(torch.cat([self.targets, own[..., None]], -1))

    def __call__(self, points: Tensor) -> Tensor:
        """Depths (B, K) of faces (B, K, 2), of mean 0, scale and tilt fixed, nose in front."""
        depth = self.metric(points, self.raw(points))
        agreement = (depth * self.mean.posed(points)[..., 2]).sum(-1, keepdim=True)
        return torch.where(agreement < 0, -depth, depth)

    def raw(self, points: Tensor) -> Tensor:
        """Depths (B, K) before the gauge is fixed: orthogonal to x, y and 1, of length 1, of either sign."""
        basis = _plane_basis(points)
        remover = torch.eye(points.shape[-2], dtype=points.dtype, device=points.device) - basis @ basis.mT
        _, vectors = torch.linalg.eigh(remover @ self.scatter @ remover)
        return vectors[..., -1]

    def metric(self, points: Tensor, depth: Tensor) -> Tensor:
        """Depths (B, K) with the scale and tilt that the targets' maps ask for."""
        unit, size = to_unit(points)
        lifted = torch.cat([unit, depth[..., None] * points.shape[-2] ** 0.5], -1)
        # Rows p and q (B, T, 3) of the map to each target.
        p, q = (torch.linalg.pinv(lifted) @ self.wide).mT.unflatten(-2, (-1, 2)).unbind(-2)
        c, d, e = _metric(p, q).unbind(-1)
        # Noise can leave no real scale; then a tenth of a typical relief keeps the depth finite.
        scale = (e - c.square() - d.square()).clamp_min(1e-2).sqrt()
        tilted = lifted[..., 2] - c[:, None] * lifted[..., 0] - d[:, None] * lifted[..., 1]
        return size[:, None] * tilted / scale[:, None]


def nose_first(points: Tensor, depth: Tensor) -> Tensor:
    """Depths (..., K), turned over where the nose tip would lie behind the jaw's ends once the best plane is gone."""
    basis = _plane_basis(points)
    relief = depth - (basis @ (basis.mT @ depth[..., None]))[..., 0]
    behind = relief[..., NOSE_TIP] > relief[..., JAW_ENDS].mean(-1)
    return torch.where(behind[..., None], -depth, depth)


def _metric(p: Tensor, q: Tensor) -> Tensor:
    """(c, d, e) (B, 3) of least squares: p Q q' = 0 and p Q p' = q Q q' for rows p, q (B, T, 3) of every map."""

    def form(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """a Q b': the factors (B, T, 3) of c, d and e, and the rest (B, T)."""
        tilt = a[..., :2] * b[..., 2:] + a[..., 2:] * b[..., :2]
        return torch.cat([tilt, a[..., 2:] * b[..., 2:]], -1), (a[..., :2] * b[..., :2]).sum(-1)

    (pq, pq0), (pp, pp0), (qq, qq0) = form(p, q), form(p, p), form(q, q)
    # Twice the first: then the residual of a map does not change when its target is turned in the plane.
    rows, rhs = torch.cat([2 * pq, pp - qq], -2), -torch.cat([2 * pq0, pp0 - qq0], -1)
    return (torch.linalg.pinv(rows) @ rhs[..., None])[..., 0]


def to_unit(points: Tensor) -> tuple[Tensor, Tensor]:
    """Points (..., K, 2) centred and of unit root-mean-square size, and that size (...)."""
    centred = points - points.mean(-2, keepdim=True)
    size = centred.square().sum(-1).mean(-1).sqrt().clamp_min(torch.finfo(points.dtype).tiny)
    return centred / size[..., None, None], size


def _plane_basis(points: Tensor) -> Tensor:
    """Orthonormal basis (..., K, 3) of the columns x, y and 1; a column is 0 where points in a line leave it out."""
    plane = torch.cat([points - points.mean(-2, keepdim=True), torch.ones_like(points[..., :1])], -1)
    plane = plane / plane.norm(dim=-2, keepdim=True).amax(-1, keepdim=True)
    u, s, _ = torch.linalg.svd(plane, full_matrices=False)
    return u * (s > points.shape[-2] * torch.finfo(s.dtype).eps * s[..., :1])[..., None, :]
