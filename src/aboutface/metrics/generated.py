"""How far a set of generated pictures is from a set of real ones, in the features of some network.

What the numbers mean depends on the network and on how many pictures there are: both belong beside them.
"""

import torch
from torch import Tensor

from ..errors import UsageError


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance of the Gaussians with the means and covariances of features (N, D) and (M, D); FID, where the
    features are Inception's "pool3" (Heusel et al., NeurIPS 2017).

    It is too large by an amount that shrinks with N and M: compare equal counts only. Covariances need no inverse and
    no further regularisation where there are fewer pictures than features: the trace of the root of their product is
    the sum of the singular values of the one set's centred features times the other's, computed in float64.
    Raises UsageError for other shapes, fewer than two rows, and what is not finite.
    """
    _check(real, fake)
    real, fake = real.double(), fake.double()
    shift = (real.mean(0) - fake.mean(0)).square().sum()
    one, other = _root(real), _root(fake)
    common = torch.linalg.svdvals(one @ other.mT).sum()
    distance = shift + one.square().sum() + other.square().sum() - 2 * common
    return max(float(distance), 0.0)


def _root(features: Tensor) -> Tensor:
    """R (min(N, D), D) with R' R the covariance."""
    centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
    return torch.linalg.qr(centred, "r").R


def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean squared discrepancy of features (N, D) and (M, D) under the kernel (x . y / D + 1)^3, and the standard
    deviation over subsets; KID, where the features are Inception's "pool3" (Binkowski et al., ICLR 2018).

    The mean over random subsets of `size` rows, or of as many as both have. Unbiased: about 0 for sets from one source,
    sometimes below; means of different counts can be compared.
    Raises UsageError for other shapes, fewer than two rows, and what is not finite.
    """
    _check(real, fake)
    if subsets < 1 or size < 2:
        raise UsageError(f"kernel distance: expected 1 subset or more, of 2 rows or more; got {subsets}, {size}")
    random = torch.Generator().manual_seed(seed)
    size = min(size, len(real), len(fake))
    found = []
    for _ in range(subsets):
        one, other = (
            features[torch.randperm(len(features), generator=random)[:size].to(features.device)].double()
            for features in (real, fake)
        )
        found.append(discrepancy(one, other))
    distances = torch.stack(found)
    return float(distances.mean()), float(distances.std(correction=0))


def discrepancy(one: Tensor, other: Tensor) -> Tensor:
    """Unbiased estimate of the squared maximum mean discrepancy of (N, D) and (M, D), cubic kernel (equation 4 of
    Gretton et al., JMLR 2012, for sets of any two sizes)."""
    across = _kernel(one, other).mean()
    return _mean_of_others(_kernel(one, one)) + _mean_of_others(_kernel(other, other)) - 2 * across


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other.mT / one.shape[1] + 1) ** 3


def _mean_of_others(kernel: Tensor) -> Tensor:
    """Mean without the diagonal: a row's likeness to itself would be the bias."""
    count = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (count * (count - 1))


def _check(real: Tensor, fake: Tensor) -> None:
    shapes = tuple(real.shape), tuple(fake.shape)
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise UsageError(f"distance of sets: expected features (N, D) and (M, D), two rows or more, got {shapes}")
    if not (real.isfinite().all() and fake.isfinite().all()):
        raise UsageError("distance of sets: expected finite features, got NaN or infinite ones")
