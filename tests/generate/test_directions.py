"""GANSpace and SeFa: closed forms against what they are the solutions of."""

import pytest
import torch

from aboutface.errors import UsageError
from aboutface.generate import ganspace, sefa
from aboutface.nn.stylegan2 import Dense, Generator


def orthonormal(directions):
    torch.testing.assert_close(directions @ directions.T, torch.eye(len(directions)), atol=1e-5, rtol=0)


class Planted(torch.nn.Module):
    """z -> w of a known covariance."""

    def __init__(self, basis, deviations):
        super().__init__()
        self.register_buffer("centre", torch.full((16,), 3.0))
        self.mix = basis.T * deviations

    def forward(self, z):
        return self.centre + z @ self.mix.T


def test_ganspace_finds_a_planted_covariance():
    torch.manual_seed(0)
    generator = Generator.tiny()
    basis = torch.linalg.qr(torch.randn(16, 16))[0]
    deviations = 2.0 ** -torch.arange(16)
    generator.mapping = Planted(basis, deviations)  # pyright: ignore[reportAttributeAccessIssue]
    found = ganspace(generator, 4, samples=20_000)
    orthonormal(found)
    assert (found @ basis[:4].T).diagonal().abs().min() > 0.999
    # Signs are those that make the largest number positive.
    assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()


def test_sefa_maximises_the_change_of_styles():
    torch.manual_seed(0)
    generator = Generator.tiny().requires_grad_(False)
    convs = [conv.get_submodule("style") for conv in generator.synthesis.convs]
    found = sefa(generator, 16)
    orthonormal(found)

    def change(direction, layers):
        """Squared change of all styles, by the layers themselves."""
        w = torch.randn(1, 16)
        styles = [style for index, style in enumerate(convs) if index in layers]
        assert all(isinstance(style, Dense) for style in styles)
        return float(sum((style(w + direction) - style(w)).square().sum() for style in styles))

    every = range(len(convs))
    changes = [change(direction, every) for direction in found]
    assert changes == sorted(changes, reverse=True)
    others = torch.nn.functional.normalize(torch.randn(200, 16), dim=1)
    assert all(change(direction, every) < changes[0] for direction in others)
    assert all(change(direction, every) > changes[-1] for direction in others)
    coarse = sefa(generator, 1, range(2))[0]
    assert all(change(direction, range(2)) <= change(coarse, range(2)) for direction in [*others, found[0]])
    assert abs(float(coarse @ found[0])) < 0.999


def test_more_than_there_are():
    generator = Generator.tiny()
    for wrong in (lambda: ganspace(generator, 17), lambda: sefa(generator, 0), lambda: sefa(generator, 1, [9])):
        with pytest.raises(UsageError, match="expected"):
            wrong()
