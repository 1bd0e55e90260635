"""Scores of keypoints and of their depths. Functions of tensors: they know no method and no data set.

Which number means what (Moniz et al. 2018 = the DepthNets paper):

- `mse`, `mse_norm`: how well the points that a model carries to a target meet it. A small one says little about depth:
  a depth that bends with the target's expression beats the true one.
- `depth_corr`: the paper's score of depth. It looks at each keypoint across faces and never at one face's shape, takes
  every sign and scale per keypoint, and random depths of n faces already reach K sqrt(2 / (pi (n - 1))).
- `similarity_score`: is this face's depth right, up to one scale and an offset? The one to trust for gauge-fixed depth.
- `gauge_score`: is it right as far as affine keypoints can tell, up to a z + b x + c y + d? Fair to a raw network,
  whose tilt and sign nothing determines.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

OUTER_EYE_CORNERS = (36, 45)
"""Of the iBUG 68 points: their distance is the inter-ocular distance of 300-W."""


class ShapeScore(NamedTuple):
    """One number per face."""

    correlation: Tensor
    """(...), -1 to 1; NaN where one of the depths is constant (or, for `gauge_score`, a plane)."""
    error: Tensor
    """(...), root mean square over the keypoints, in the unit of the true depth."""


def mse(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean (...) of the squared errors of the 2 K coordinates of points (..., K, 2), as the paper's code counts."""
    return (predicted - target).square().mean((-2, -1))


def mse_norm(predicted: Tensor, target: Tensor) -> Tensor:
    """100 * mean distance of points (..., 68, 2) / the target's inter-ocular distance: percent, (...).

    The paper's Table 1 gives no formula. Its column grows as the square root of the MSE, which this does; between the
    outer eye corners (36 and 45) is our choice of inter-ocular distance. Infinite where they coincide.
    """
    first, second = OUTER_EYE_CORNERS
    distance = (target[..., first, :] - target[..., second, :]).norm(dim=-1)
    return 100 * (predicted - target).norm(dim=-1).mean(-1) / distance


def landmark_error(points: Tensor, true_points: Tensor, visible: Tensor | None = None) -> Tensor:
    """Normalised mean error (...) of points (..., K, D): mean distance in percent of the size of the true points.

    Their size is the square root of the area of their bounding box in x and y, as for AFLW2000-3D (Zhu et al., CVPR
    2016): a profile keeps its size, while the distance of its eyes shrinks.

    Args:
        visible: (..., K) bool, the points that count; NaN where none does. The size is that of all points.
    """
    box = true_points[..., :2].amax(-2) - true_points[..., :2].amin(-2)
    distance = (points - true_points).norm(dim=-1)
    weights = torch.ones_like(distance) if visible is None else visible.to(distance)
    return 100 * (distance * weights).sum(-1) / weights.sum(-1) / box.prod(-1).sqrt()


def correlation(first: Tensor, second: Tensor, dim: int, weights: Tensor | None = None) -> Tensor:
    """Pearson's correlation along one dimension; NaN where either is constant. Weights broadcast, nonnegative."""
    w = torch.ones_like(first) if weights is None else weights.expand_as(first)
    w = w / w.sum(dim, keepdim=True)
    a, b = (x - (w * x).sum(dim, keepdim=True) for x in (first, second))
    squares = [(w * x.square()).sum(dim) for x in (a, b)]
    # What is left of a constant after its mean is taken away is rounding.
    flat = [
        s <= (16 * torch.finfo(x.dtype).eps * x.abs().amax(dim)).square()
        for s, x in zip(squares, (first, second), strict=True)
    ]
    r = (w * a * b).sum(dim) / (squares[0] * squares[1]).sqrt()
    return torch.where(flat[0] | flat[1], torch.nan, r.clamp(-1, 1))


def keypoint_correlations(predicted: Tensor, true: Tensor, weights: Tensor | None = None) -> Tensor:
    """|Pearson| (K,) of each keypoint's depth across n rows (n, K); NaN for a keypoint whose depth never changes.

    Args:
        weights: (n,) of the rows; all ones if missing.
    """
    return correlation(predicted, true, 0, None if weights is None else weights[:, None]).abs()


def depth_corr(predicted: Tensor, true: Tensor) -> float:
    """DepthCorr (section 3.2 of the paper): sum over the keypoints of |Pearson| across n rows (n, K); at most K.

    Rows are pairs in the paper, each source as often as it has targets. NaN as soon as one keypoint's depth is
    constant: it has no correlation, and leaving it out would not show.
    """
    return float(keypoint_correlations(predicted, true).sum())


def depth_corr_centred(predicted: Tensor, true: Tensor) -> float:
    """DepthCorr of depths (n, K) less each face's own mean: the offset of a face cannot be seen in its keypoints."""
    return depth_corr(centred(predicted), centred(true))


def random_depth_corr(rows: int, keypoints: int) -> float:
    """DepthCorr that noise is expected to reach: K sqrt(2 / (pi (n - 1)))."""
    return keypoints * math.sqrt(2 / (math.pi * (rows - 1)))


def similarity_score(predicted: Tensor, true: Tensor) -> ShapeScore:
    """Within a face: depths (..., K) compared after the best a z + d with a >= 0.

    The correlation keeps its sign: a face that is inside out gets -1, and its error is that of a flat face.
    """
    r = correlation(predicted, true, -1)
    spread = centred(true).square().mean(-1)
    return ShapeScore(r, (spread * (1 - r.nan_to_num(0).clamp_min(0).square())).sqrt())


def gauge_score(points: Tensor, predicted: Tensor, true: Tensor) -> ShapeScore:
    """Within a face: depths (..., K) compared after the best a z + b x + c y + d, of whatever sign.

    The closed form of section 2.3 cannot tell depths that differ by such a change: they carry the points (..., K, 2)
    to the same places. The correlation is that of what no plane through the points explains, so
    a flat prediction has none (NaN), and tilting a wrong depth does not help it.
    """
    a, b = without_plane(points, predicted), without_plane(points, true)
    size = predicted - predicted.mean(-1, keepdim=True)
    flat = a.square().sum(-1) <= 1e-3 * torch.finfo(a.dtype).eps * size.square().sum(-1).clamp_min(
        torch.finfo(a.dtype).tiny
    )
    r = torch.where(flat, torch.nan, correlation(a, b, -1).abs())
    return ShapeScore(r, (b.square().mean(-1) * (1 - r.nan_to_num(0).square())).sqrt())


def without_plane(points: Tensor, depth: Tensor) -> Tensor:
    """Depths (..., K) less the plane b x + c y + d that fits them best over points (..., K, 2)."""
    plane = points - points.mean(-2, keepdim=True)
    # Singular values below the cut are rounding: points in a line, or all in one place, span less than a plane.
    u, s, _ = torch.linalg.svd(plane, full_matrices=False)
    cut = points.shape[-2] * torch.finfo(s.dtype).eps * points.abs().amax((-2, -1), keepdim=True)[..., 0]
    basis = u * (s > cut)[..., None, :]
    z = centred(depth)
    return z - (basis @ (basis.mT @ z[..., None]))[..., 0]


def centred(depth: Tensor) -> Tensor:
    """Depths (..., K) less each face's mean."""
    return depth - depth.mean(-1, keepdim=True)
