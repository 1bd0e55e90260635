"""A critic of vectors, and what it is trained with: is this set of numbers one of the real ones?

Sizes of the critic that DepthNet+GAN and its AIGN baseline share (Moniz et al., NeurIPS 2018, as released).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

Norm = Literal["batch", "none", "spectral"]


class Critic(nn.Module):
    """(B, ...) of `inputs` numbers per row -> scores (B,), not squashed: higher means more real.

    norm: "batch" as published, where the score of a row depends on the other rows while training; "spectral" (Miyato
    et al., ICLR 2018) divides each weight by its largest singular value, so that no score changes faster than its
    input; or "none".
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...] = (512, 512, 256, 256), norm: Norm = "batch") -> None:
        super().__init__()
        if norm not in ("batch", "none", "spectral"):
            raise ValueError(f"norm: expected batch, none or spectral, got {norm!r}")
        bounded = spectral_norm if norm == "spectral" else nn.Identity()
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise((inputs, *hidden)):
            layers.append(bounded(nn.Linear(before, after)))
            if norm == "batch":
                layers.append(nn.BatchNorm1d(after))
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers, bounded(nn.Linear((inputs, *hidden)[-1], 1)))

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows)[:, 0]


def wasserstein_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Mean score of fake rows less that of real rows (Arjovsky et al., ICML 2017).

    It has no least value by itself: bound the critic by its norm, by `gradient_penalty`, or by both.
    """
    return fake.mean() - real.mean()


def wasserstein_generator_loss(fake: Tensor) -> Tensor:
    """What the generator makes small: the negative mean score of its rows."""
    return -fake.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Mean over the rows (B, ...) of the squared length of the score's gradient (Mescheder et al., ICML 2018, R1).

    On real rows it pulls the slope there to 0, where training is to end; differentiable by the critic's weights.
    """
    rows = rows.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(critic(rows).sum(), rows, create_graph=True)
    return gradient.flatten(1).square().sum(1).mean()
