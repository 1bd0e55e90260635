"""Supervised depth: it learns depths that follow from the image, mirrored ones too, and refuses other sizes."""

from dataclasses import replace

import pytest
import torch

from aboutface.errors import UsageError
from aboutface.fit import FitSettings
from aboutface.recipes.supervised_depth import SupervisedDepthTraining, train_supervised_depth

SMALL = SupervisedDepthTraining(width=8, latent=16, batch=16, learning_rate=3e-3, fit=FitSettings(steps=150))


def domes(count: int, size: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bright domes on black, at random places: the image says the depth. The background's depth is nonsense."""
    generator = torch.Generator().manual_seed(count)
    centre = 4 + (size - 8) * torch.rand(count, 2, 1, 1, generator=generator)
    axis = torch.arange(size) + 0.5
    square = ((axis - centre[:, 0]) ** 2 + (axis[:, None] - centre[:, 1]) ** 2) / 25
    mask = square < 1
    depth = torch.where(mask, 0.95 + 0.08 * square, 17.0)
    bright = torch.where(mask, 255 * (1 - square), 0)
    return bright[:, None].expand(-1, 3, -1, -1).to(torch.uint8), depth, mask


def test_it_learns_what_the_image_tells():
    net = train_supervised_depth(*domes(256), SMALL, log=lambda _: None)
    images, depth, mask = domes(64)
    assert not net.training
    with torch.no_grad():
        found = net(images / 255)
    error = (found - depth)[mask].abs().mean()
    flat = (depth[mask] - depth[mask].median()).abs().mean()
    assert error < 0.4 * flat
    assert found.min() > 0.9
    assert found.max() < 1.1


def test_half_of_the_images_are_mirrored_with_their_truth():
    """A dome on the left only, in training: on the right it is found by its mirrored twins."""
    images, depth, mask = domes(256)
    left = mask.float().mean(1).flatten(1).argmax(1) < 8
    net = train_supervised_depth(images[left], depth[left], mask[left], SMALL, log=lambda _: None)
    with torch.no_grad():
        right = ~left
        error = (net(images[right] / 255) - depth[right])[mask[right]].abs().mean()
    assert error < 0.5 * (depth[mask] - depth[mask].median()).abs().mean()


def test_the_same_seed_gives_the_same_network_and_another_does_not():
    short = replace(SMALL, fit=FitSettings(steps=3))
    nets = [
        train_supervised_depth(*domes(16), replace(short, fit=replace(short.fit, seed=seed)), log=lambda _: None)
        for seed in (0, 0, 1)
    ]
    first, again, other = (next(net.parameters()) for net in nets)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_other_sizes_are_refused():
    images, depth, mask = domes(4)
    with pytest.raises(UsageError, match="depth and mask"):
        train_supervised_depth(images, depth[:, :8], mask, SMALL)
    net = train_supervised_depth(images, depth, mask, replace(SMALL, fit=FitSettings(steps=1)), log=lambda _: None)
    with pytest.raises(UsageError, match="train one of their size"):
        net(torch.zeros(1, 3, 32, 32))
