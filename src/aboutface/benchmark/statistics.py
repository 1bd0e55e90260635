"""Means over pairs of faces, and how far they would move with other faces.

Pairs share faces, so 50,400 pairs of 225 faces are far from 50,400 observations: an interval that drew pairs would be
many times too narrow. Here faces are drawn anew (with replacement), and every pair counts as often as its two faces
together were drawn. Faces that belong together (frames of one person) are drawn together.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Statistic = Callable[[Tensor], Tensor]
"""Weights of pairs (B, P) to one number per row (B,)."""


@dataclass(frozen=True)
class Number:
    """One entry of a table."""

    mean: float
    """Mean over the seeds of the per-seed value."""
    std: float
    """Standard deviation over the pairs (errors) or over the faces (shape scores); NaN where there is none."""
    median: float
    n: int
    """Pairs (or faces) of one seed."""
    ci: tuple[float, float]
    """95 % interval of `mean` under other test faces; the seeds' training sets and initial weights are as they were."""
    seeds: list[float] = field(default_factory=list)
    """The value of each seed: their spread shows split and initial weights together."""


class Bootstrap:
    """Draws of faces, made once and shared by all numbers, so that these can be compared."""

    def __init__(
        self,
        source: Tensor,
        target: Tensor,
        groups: Tensor,
        strata: Tensor | None = None,
        draws: int = 500,
        seed: int = 0,
    ) -> None:
        """Pairs (P,), (P,) of faces; groups (N,) numbers what is drawn together.

        Strata (N,): each keeps its number of groups in every draw (then a group must not lie in two of them).
        """
        self.source, self.target, self.groups = source, target, groups
        generator = torch.Generator().manual_seed(seed)
        self.counts = torch.zeros(draws, int(groups.max()) + 1, dtype=torch.float64)
        parts = [groups] if strata is None else [groups[strata == value] for value in strata.unique()]
        for members in (part.unique() for part in parts):
            drawn = members[torch.randint(len(members), (draws, len(members)), generator=generator)]
            self.counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))

    def weights(self, pairs: Tensor | slice = slice(None), rows: slice = slice(None)) -> Tensor:
        """How often each pair was drawn, (B, P). A pair within one group comes with the group."""
        first, second = self.groups[self.source[pairs]], self.groups[self.target[pairs]]
        counts = self.counts[rows]
        return torch.where(first == second, counts[:, first], counts[:, first] * counts[:, second])

    def distribution(self, statistic: Statistic, pairs: Tensor | slice = slice(None), chunk: int = 50) -> Tensor:
        """The statistic of the chosen pairs in every draw (draws,)."""
        rows = (slice(start, start + chunk) for start in range(0, len(self.counts), chunk))
        return torch.cat([statistic(self.weights(pairs, part)) for part in rows])


def weighted_mean(values: Tensor) -> Statistic:
    """Statistic: mean of values (P,)."""
    return lambda weights: (weights @ values) / weights.sum(1)


def weighted_depth_corr(predicted: Tensor, true: Tensor) -> Statistic:
    """Statistic: DepthCorr (`metrics.depth_corr`) of depths (P, K), by matrix products over all draws at once."""
    a, b = predicted - predicted.mean(0), true - true.mean(0)
    products = torch.cat([a, b, a * a, b * b, a * b], 1)

    def statistic(weights: Tensor) -> Tensor:
        ma, mb, aa, bb, ab = ((weights / weights.sum(1, keepdim=True)) @ products).chunk(5, 1)
        return ((ab - ma * mb).abs() / ((aa - ma * ma) * (bb - mb * mb)).sqrt()).sum(1)

    return statistic


def interval(distributions: list[Tensor]) -> tuple[float, float]:
    """2.5 and 97.5 percentile of the seeds' mean, from each seed's draws (draws,). NaN where a draw is NaN."""
    low, high = torch.stack(distributions).mean(0).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)
