"""Changed crops and their landmarks stay together, also mirrored, where the published code is a pixel off."""

import math

import pytest
import torch
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.geometry import MIRROR_68
from aboutface.recipes.deep3d_augment import AugmentSettings, augmentation, random_augmentation

NONE, BOTH = torch.tensor([False]), torch.tensor([False, True])


def spots(points: torch.Tensor, size: int = 224) -> torch.Tensor:
    """Pictures (N, 1, size, size), each of one smooth spot at a point (N, 2)."""
    axis = torch.arange(size) + 0.5
    pixel = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    return torch.exp(-(pixel - points[:, None, None]).square().sum(-1) / 32)[:, None]


def centres(pictures: torch.Tensor) -> torch.Tensor:
    """Centre of brightness (N, 2)."""
    axis = torch.arange(pictures.shape[-1]) + 0.5
    weight = pictures[:, 0].double()
    x, y = (weight.sum(-2) * axis).sum(-1), (weight.sum(-1) * axis).sum(-1)
    return torch.stack([x, y], -1) / weight.sum((1, 2))[:, None]


def test_a_mirrored_crop_is_the_mirrored_picture():
    crops = torch.rand(1, 3, 32, 32)
    change = augmentation(torch.zeros(1, 2), torch.ones(1), torch.zeros(1), torch.tensor([True]), 32)
    assert_close(change.images(crops), crops.flip(-1), atol=1e-5, rtol=0)


def test_mirrored_landmarks_lie_on_the_mirrored_picture():
    """The trap: about x = 112 on whole-numbered pixels, 224 - x, they are a pixel beside it."""
    generator = torch.Generator().manual_seed(0)
    points = 60 + 100 * torch.rand(1, 68, 2, generator=generator)
    change = augmentation(torch.zeros(1, 2), torch.ones(1), torch.zeros(1), torch.tensor([True]))
    moved = change.landmarks(points)
    for i in (0, 8, 17, 30, 36, 41, 60):
        seen = centres(change.images(spots(points[:, i])))
        assert_close(moved[:, MIRROR_68[i]], seen.float(), atol=1e-2, rtol=0)
        index = points[0, i, 0] - 0.5
        published = 224 - index
        assert float((published + 0.5) - seen[0, 0]) == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_landmarks_lie_on_the_changed_picture(flipped, seed):
    settings = AugmentSettings(flip=float(flipped))
    change = random_augmentation(1, settings, torch.Generator().manual_seed(seed))
    points = torch.full((1, 68, 2), 112.0)
    points[0, 36], points[0, 57] = torch.tensor([80.25, 90.5]), torch.tensor([130.0, 160.75])
    moved = change.landmarks(points)
    for i in (36, 57):
        seen = centres(change.images(spots(points[:, i])))
        assert_close(moved[:, MIRROR_68[i] if flipped else i], seen.float(), atol=2e-2, rtol=0)


def test_the_order_is_the_published_one():
    """To the middle, mirrored, shifted, turned, scaled, back."""
    shift, scale, rotation = torch.tensor([[7.0, -4.0]]), torch.tensor([1.1]), torch.tensor([10.0])
    points = 224 * torch.rand(1, 68, 2, dtype=torch.float64)
    for flipped in (False, True):
        change = augmentation(shift, scale, rotation, torch.tensor([flipped]))
        x, y = (points - 112).unbind(-1)
        x = (-x if flipped else x) + 7
        y = y - 4
        c, s = math.cos(math.radians(10)), math.sin(math.radians(10))
        expected = 1.1 * torch.stack([c * x - s * y, s * x + c * y], -1) + 112
        found = change.landmarks(points)
        assert_close(found[:, MIRROR_68] if flipped else found, expected, rtol=1e-6, atol=1e-4)


def test_a_turn_is_clockwise_as_seen():
    change = augmentation(torch.zeros(1, 2), torch.ones(1), torch.tensor([90.0]), NONE)
    up = torch.tensor([112.0, 50.0]).expand(1, 68, 2)
    assert_close(change.landmarks(up)[0, 0], torch.tensor([174.0, 112.0]), atol=1e-3, rtol=0)


def test_twice_mirrored_is_as_it_was():
    change = augmentation(torch.zeros(2, 2), torch.ones(2), torch.zeros(2), BOTH)
    points = 224 * torch.rand(2, 68, 2)
    assert_close(change.landmarks(change.landmarks(points)), points, atol=1e-4, rtol=0)
    assert not torch.allclose(change.landmarks(points)[1], points[1], atol=1)
    assert_close(change.landmarks(points)[0], points[0], atol=1e-4, rtol=0)


def test_random_changes_keep_to_their_settings():
    settings = AugmentSettings()
    found = random_augmentation(4000, settings, torch.Generator().manual_seed(0))
    linear = found.matrix[:, :2, :2]
    scale = linear.det().abs().sqrt()
    mirror = torch.where(found.flipped, -1.0, 1.0).double()
    angle = torch.rad2deg(torch.atan2(linear[:, 1, 0] * mirror, linear[:, 0, 0] * mirror))
    assert torch.equal(linear.det() < 0, found.flipped)
    assert 0.9 <= scale.min() < 0.902
    assert 1.098 < scale.max() <= 1.1
    assert -10 <= angle.min() < -9.9
    assert 9.9 < angle.max() <= 10
    assert abs(float(found.flipped.double().mean()) - 0.5) < 0.04
    middle = (found.matrix @ torch.tensor([112.0, 112, 1]).double())[:, :2] - 112
    shift = torch.linalg.solve(linear * torch.stack([mirror, torch.ones_like(mirror)], -1)[:, None], middle[..., None])
    assert_close(shift, shift.round(), atol=1e-9, rtol=0)
    assert set(shift.round().flatten().tolist()) == set(range(-10, 11))


def test_the_same_seed_gives_the_same_changes():
    first, second, other = (
        random_augmentation(5, AugmentSettings(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.matrix, second.matrix)
    assert not torch.equal(first.matrix, other.matrix)


def test_small_crops_are_changed_as_the_large_ones_are():
    large, small = (
        random_augmentation(3, AugmentSettings(), torch.Generator().manual_seed(4), size) for size in (224, 112)
    )
    points = 224 * torch.rand(3, 68, 2, dtype=torch.float64)
    assert_close(small.landmarks(points / 2), large.landmarks(points) / 2)


def test_images_stay_in_their_range_and_are_black_outside():
    change = augmentation(torch.tensor([[100.0, 0.0]]), torch.ones(1), torch.zeros(1), NONE)
    found = change.images((torch.rand(1, 3, 224, 224) > 0.5).float())
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert float(found[..., :98].abs().max()) == 0
    assert float(found[..., 102:].mean()) > 0.4


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 3, 32, 24), (3, 32, 32)])
def test_other_pictures_are_refused(shape):
    change = augmentation(torch.zeros(1, 2), torch.ones(1), torch.zeros(1), NONE)
    with pytest.raises(UsageError, match=r"expected 1 squares \(B, C, S, S\)"):
        change.images(torch.zeros(shape))
