"""Directions in w along which pictures change most, as closed forms: no labels, no training."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UsageError
from ..nn.stylegan2 import Generator


@torch.no_grad()
def ganspace(generator: Generator, count: int, samples: int = 10_000, seed: int = 0) -> Tensor:
    """The `count` principal directions (count, D) of w of random z, unit vectors, widest first.

    Härkönen et al., GANSpace: Discovering Interpretable GAN Controls, NeurIPS 2020, section 2.1. Raises UsageError for
    more directions than w has numbers.
    """
    _check(generator, count)
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(samples, generator.settings.latent, generator=random).to(generator.mapping.centre)
    w = generator.mapping(z).double()
    return _widest((w - w.mean(0)).mT @ (w - w.mean(0)), count)


@torch.no_grad()
def sefa(generator: Generator, count: int, layers: Sequence[int] | None = None) -> Tensor:
    """The `count` directions (count, D) that change the styles of the given convolutions most, unit vectors.

    Eigenvectors of the sum of A^T A over the weights A of the style layers, that of the largest eigenvalue first.
    Shen and Zhou, Closed-Form Factorization of Latent Semantics in GANs, CVPR 2021, section 3.2. layers: 0 is the
    convolution at 4 pixels, then two per size; all if missing. Raises UsageError for layers that are not there, and for
    more directions than w has numbers.
    """
    _check(generator, count)
    convs = generator.synthesis.convs
    layers = range(len(convs)) if layers is None else layers
    if not layers or min(layers) < 0 or max(layers) >= len(convs):
        raise UsageError(f"sefa: expected layers from 0 to {len(convs) - 1}, got {list(layers)}")
    weights = torch.cat([convs[layer].get_submodule("style").get_parameter("weight") for layer in layers]).double()
    return _widest(weights.mT @ weights, count)


def _widest(covariance: Tensor, count: int) -> Tensor:
    """Eigenvectors of the largest eigenvalues; of the two signs that which makes the largest number positive."""
    vectors = torch.linalg.eigh(covariance)[1].mT.flip(0)[:count]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return (vectors * largest.sign()).float()


def _check(generator: Generator, count: int) -> None:
    size = generator.settings.latent
    if not 1 <= count <= size:
        raise UsageError(f"directions: expected 1 to {size}, got {count}")
