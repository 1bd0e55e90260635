"""Closed-form alignments: similarity (Procrustes), 3D-to-2D affine, orthographic pose."""

import torch
from torch import Tensor

from .rotation import nearest_rotation


def similarity(source: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """target_from_source (..., D+1, D+1): the rotation, scale and shift of least squared distance (Umeyama 1991).

    Args:
        source, target: corresponding points (..., N, D), D = 2 or 3.
        weights: (..., N), nonnegative; all ones if missing.

    Never a reflection. Raises ValueError where shapes differ.
    """
    if source.shape[-2:] != target.shape[-2:]:
        raise ValueError(f"similarity: source {tuple(source.shape)} and target {tuple(target.shape)} must correspond")
    dim = source.shape[-1]
    w = torch.ones_like(source[..., 0]) if weights is None else weights
    w = (w / w.sum(-1, keepdim=True))[..., None]
    source_mean, target_mean = (w * source).sum(-2, keepdim=True), (w * target).sum(-2, keepdim=True)
    a, b = source - source_mean, target - target_mean
    u, s, vt = torch.linalg.svd((w * b).mT @ a)
    sign = torch.det(u @ vt)
    ones = torch.ones_like(s)
    flip = torch.cat([ones[..., :-1], sign[..., None]], -1)
    rotation = u @ (flip[..., None] * vt)
    variance = (w * a * a).sum((-2, -1))
    scale = (s * flip).sum(-1) / variance.clamp_min(torch.finfo(s.dtype).tiny)
    linear = scale[..., None, None] * rotation
    shift = target_mean.mT - linear @ source_mean.mT
    top = torch.cat([linear, shift], -1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom = torch.cat([bottom[..., :dim], torch.ones_like(bottom[..., :1])], -1)
    return torch.cat([top, bottom], -2)


def procrustes(shapes: Tensor, iterations: int = 10) -> tuple[Tensor, Tensor]:
    """Generalised Procrustes superimposition (Gower 1975) of shapes (S, N, D).

    Returns the mean (N, D), centred and of unit root-mean-square size in the frame of the first shape, and
    mean_from_shape (S, D+1, D+1).
    """
    mean = _unit(shapes[0])
    for _ in range(iterations):
        mean_from_shape = similarity(shapes, mean.expand_as(shapes))
        aligned = shapes @ mean_from_shape[:, :-1, :-1].mT + mean_from_shape[:, None, :-1, -1]
        mean = _unit(aligned.mean(0))
    return mean, similarity(shapes, mean.expand_as(shapes))


def affine_2d_from_3d(points: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares affine of 3D points onto 2D points, by QR on centred columns, and the points it fits.

    DepthNets (Moniz et al. 2018, section 2.3) write it as a pseudo-inverse of a (2N x 8) system; that system is two
    copies of one (N x 4) block, so this solves the block: smaller, and without squaring the condition number.

    Args:
        points: (..., N, 3), N >= 4; target: (..., N, 2).

    Returns:
        target_from_points (..., 2, 4), rows (m1 m2 m3 tx) and (m4 m5 m6 ty), and the fitted points (..., N, 2).
        Where points are coplanar, the smallest affine of those that fit is returned and gradients stay finite.
    """
    matrix = affine_2d_from_3d_matrix(points, target)
    return matrix, points @ matrix[..., :3].mT + matrix[..., None, :, 3]


def affine_2d_from_3d_matrix(points: Tensor, target: Tensor) -> Tensor:
    """The matrix (..., 2, 4) of `affine_2d_from_3d`."""
    if points.shape[-1] != 3 or target.shape[-1] != 2 or points.shape[-2] != target.shape[-2]:
        raise ValueError(
            f"affine_2d_from_3d: expected points (..., N, 3) and target (..., N, 2), "
            f"got {tuple(points.shape)} and {tuple(target.shape)}"
        )
    mean, target_mean = points.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    centred = points - mean
    # Columns are brought to unit size, then a tiny ridge (rows below the system) keeps coplanar faces solvable.
    size = centred.square().mean(-2, keepdim=True).sqrt().clamp_min(torch.finfo(points.dtype).eps)
    ridge = torch.finfo(points.dtype).eps ** 0.5 * points.shape[-2] ** 0.5
    eye = torch.eye(3, dtype=points.dtype, device=points.device).expand(*points.shape[:-2], 3, 3)
    q, r = torch.linalg.qr(torch.cat([centred / size, ridge * eye], -2))
    rhs = torch.cat([target - target_mean, torch.zeros_like(eye[..., :2])], -2)
    linear = torch.linalg.solve_triangular(r, q.mT @ rhs, upper=True).mT / size
    shift = target_mean.mT - linear @ mean.mT
    return torch.cat([linear, shift], -1)


def orthographic_pose(
    points: Tensor, pixels: Tensor, weights: Tensor | None = None, iterations: int = 20
) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled-orthographic pose of known 3D points seen at pixels: pixels ~ scale * (R points)[:2] + shift.

    Starts from the affine solution and refines it by alternating Procrustes (the missing depths are filled with the
    model's own), which has no step size and does not diverge.

    Args:
        points: (..., N, 3); pixels: (..., N, 2); weights: (..., N).

    Returns:
        rotation (..., 3, 3), scale (...), shift (..., 2).
    """
    affine = affine_2d_from_3d_matrix(points, pixels)[..., :3]
    third = torch.linalg.cross(affine[..., 0, :], affine[..., 1, :], dim=-1)
    third = third / third.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    norm = affine.norm(dim=-1).mean(-1)[..., None, None].clamp_min(1e-12)
    rotation = nearest_rotation(torch.cat([affine / norm, third[..., None, :]], -2))
    w = torch.ones_like(pixels[..., 0]) if weights is None else weights
    w = (w / w.sum(-1, keepdim=True))[..., None]
    centre, pixel_centre = (w * points).sum(-2, keepdim=True), (w * pixels).sum(-2, keepdim=True)
    a, b = points - centre, pixels - pixel_centre
    scale = torch.ones_like(a[..., 0, 0])
    for _ in range(iterations):
        turned = a @ rotation.mT
        scale = (w * turned[..., :2] * b).sum((-2, -1)) / (w * turned[..., :2].square()).sum((-2, -1))
        full = torch.cat([b / scale[..., None, None], turned[..., 2:]], -1)
        rotation = nearest_rotation((w * full).mT @ a)
    turned = a @ rotation.mT
    scale = (w * turned[..., :2] * b).sum((-2, -1)) / (w * turned[..., :2].square()).sum((-2, -1))
    shift = pixel_centre[..., 0, :] - scale[..., None] * (centre @ rotation.mT)[..., 0, :2]
    return rotation, scale, shift


def _unit(shape: Tensor) -> Tensor:
    centred = shape - shape.mean(-2, keepdim=True)
    return centred / centred.square().sum(-1).mean().sqrt()
