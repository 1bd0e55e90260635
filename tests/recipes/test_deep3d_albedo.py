"""The albedo basis learned from photos: of drawn faces whose albedo and light are known."""

from dataclasses import replace

import pytest
import torch

from aboutface.errors import UsageError
from aboutface.face import MIRROR_68
from aboutface.recipes.deep3d_albedo import PLAIN, learn_albedo, mirror_vertices
from aboutface.reconstruct.deep3d import Layout
from aboutface.reconstruct.deep3d_draw import Basis, draw
from aboutface.reconstruct.deep3d_landmarks import centre_of
from ellipsoid_face import toy

SIZE, FACES = 96, 40
LAYOUT = Layout(8, 6, 2)


@pytest.fixture(scope="module")
def model():
    """With a mean of dark lips, and two modes that are alike on both sides: cheeks and a beard.

    Both are smaller than what light does to a face: a face that is darker below may be lit from above.
    """
    model = toy()
    x, y, _ = model.mean.unbind(1)
    lips = torch.exp(-((x / 25) ** 2) - ((y - 45) / 12) ** 2)
    mean = torch.tensor(PLAIN) - lips[:, None] * torch.tensor([0.15, 0.25, 0.2])
    mean = mean + (torch.tensor(PLAIN) - mean.mean(0))
    cheeks = torch.exp(-(((x.abs() - 40) / 14) ** 2) - ((y - 10) / 16) ** 2)
    ring = ((x / 32) ** 2 + ((y - 45) / 24) ** 2).sqrt()
    beard = torch.exp(-(((ring - 1) / 0.35) ** 2))
    modes = torch.stack(
        [cheeks[:, None] * torch.tensor([0.02, -0.12, -0.1]), beard[:, None] * torch.tensor([-0.12, -0.1, -0.06])]
    )
    return replace(model, albedo_mean=mean, albedo=modes)


@pytest.fixture(scope="module")
def photos(model):
    """(N, 3, S, S) uint8 and (N, 68, 2), under lights from all sides."""
    draws = torch.Generator().manual_seed(0)

    def some(count, spread):
        return spread * torch.randn(FACES, count, generator=draws)

    gamma = (some(9, 0.05)[:, None] + some(27, 0.01).unflatten(1, (3, 9))) * torch.ones(3, 1)
    # Each light is as bright as the convention has it: how bright skin is cannot be told from how bright light is.
    gamma[..., 0] = 1 / 0.8862269 - 0.8
    zero = LAYOUT.zeros(FACES)
    said = zero._replace(
        id=some(8, 0.3), tex=some(2, 1.0), angle=some(3, 0.25), gamma=gamma.flatten(1), trans=some(3, 0.05)
    )
    with torch.no_grad():
        drawn = draw(Basis.of(model, LAYOUT, centre_of(model)), said, SIZE, supersample=2)
    images = (drawn.over(torch.full((FACES, 3, SIZE, SIZE), 0.3)).clamp(0, 1) * 255).round().byte()
    return images, drawn.landmarks


def test_what_was_drawn_is_found_again(model, photos):
    said = []
    bare = replace(model, albedo_mean=None, albedo=None)
    found = learn_albedo(bare, photos[0], photos[1], SIZE, 6, said.append)
    assert "6 modes of 40 photos" in said[0]
    # What no picture shows is not asked for.
    front = model.mean[:, 2] < -30
    true = torch.linalg.qr(model.albedo[:, front].flatten(1).T).Q
    learned = torch.linalg.qr(found.modes[:, front].flatten(1).T).Q
    # Principal angles of the two spaces; how bright a face is and what is left of its light are the other modes.
    angles = torch.rad2deg(torch.linalg.svdvals(true.T @ learned).clamp(max=1).acos())
    assert float(angles.max()) < 18
    assert float((found.mean - model.albedo_mean)[front].abs().mean()) < 0.02
    lips = (model.mean - torch.tensor([0.0, 45.0, -90.0])).norm(dim=1) < 15
    assert float((found.mean - torch.tensor(PLAIN))[lips, 1].mean()) < -0.1


def test_both_sides_are_alike(model, photos):
    found = learn_albedo(model, photos[0], photos[1], SIZE, 2)
    twins = mirror_vertices(model)
    assert torch.equal(twins[twins], torch.arange(len(twins)))
    assert not torch.equal(twins, torch.arange(len(twins)))
    torch.testing.assert_close(found.mean[twins], found.mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.modes[:, twins], found.modes, atol=1e-4, rtol=0)


def test_too_few_photos_are_refused(model, photos):
    images, points = photos
    with pytest.raises(UsageError, match=r"more photos than the 2 modes, got 2"):
        learn_albedo(model, images[:2], points[:2], SIZE, 2)
    # Landmarks that the fit refuses are no photo.
    swapped = torch.cat([points[:2], points[2:3, MIRROR_68]])
    with pytest.raises(UsageError, match=r"2 of 3 photos.*more than the 2 modes"):
        learn_albedo(model, images[:3], swapped, SIZE, 2)


def test_it_neither_takes_nor_changes_anybodys_random_numbers(model, photos):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(learn_albedo(model, photos[0][:8], photos[1][:8], SIZE, 3).modes)
        after = torch.rand(3)
        torch.manual_seed(seed)
        assert torch.equal(after, torch.rand(3))
    assert torch.equal(*found)


def test_a_model_of_two_different_sides_is_refused(model, photos):
    bent = model.mean.clone()
    bent[model.mean[:, 0] > 10] *= torch.tensor([1.0, 0.6, 1.0])
    with pytest.raises(UsageError, match="not alike on both sides"):
        learn_albedo(replace(model, mean=bent), photos[0], photos[1], SIZE, 2)
