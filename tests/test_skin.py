"""Skin attention: against the published mixture written out pixel by pixel, and colours everyone can name."""

import math

import pytest
import torch
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.skin import _OTHER, _SKIN, skin_attention


def slowly(r: float, g: float, b: float) -> float:
    """One pixel, RGB 0..255, as published."""
    y = 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
    cb = 128 + (-37.797 * r - 74.203 * g + 112 * b) / 255
    cr = 128 + (112 * r - 93.786 * g - 18.214 * b) / 255
    densities = []
    for mixture in (_SKIN, _OTHER):
        total = 0.0
        for weight, mean, determinant, (yy, bb, rr, yb, yr, br) in mixture:
            d = [y - mean[0], cb - mean[1], cr - mean[2]]
            inverse = [[yy, yb, yr], [yb, bb, br], [yr, br, rr]]
            square = sum(d[i] * inverse[i][j] * d[j] for i in range(3) for j in range(3))
            total += weight * math.exp(-square / 2) / ((2 * math.pi) ** 1.5 * math.sqrt(determinant))
        densities.append(total)
    skin, other = densities
    return 0.8 * skin / (0.8 * skin + 0.2 * other)


@pytest.mark.parametrize("mixture", [_SKIN, _OTHER])
def test_the_mixtures_agree_with_themselves(mixture):
    """Determinants are those of the inverses, and weights sum to 1: no digit is out of place."""
    assert sum(part.weight for part in mixture) == pytest.approx(1, abs=1e-5)
    for part in mixture:
        yy, bb, rr, yb, yr, br = part.inverse
        inverse = torch.tensor([[yy, yb, yr], [yb, bb, br], [yr, br, rr]], dtype=torch.float64)
        assert (torch.linalg.eigvalsh(inverse) > 0).all()
        assert 1 / float(torch.linalg.det(inverse)) == pytest.approx(part.determinant, rel=1e-3)


def test_it_is_the_published_posterior():
    levels = torch.randint(0, 256, (3, 8, 9), generator=torch.Generator().manual_seed(0)).double()
    found = skin_attention(levels / 255)
    assert found.shape == (1, 8, 9)
    for row in range(8):
        for column in range(9):
            assert float(found[0, row, column]) == pytest.approx(slowly(*levels[:, row, column].tolist()), abs=1e-9)


@pytest.mark.parametrize(
    ("colour", "low", "high"),
    [
        ((224, 172, 140), 0.9, 1),  # light skin
        ((141, 85, 60), 0.9, 1),  # dark skin
        ((0, 255, 0), 0, 0.01),
        ((0, 0, 255), 0, 0.01),
        ((128, 128, 128), 0, 0.1),
        ((255, 255, 255), 0, 0.5),
    ],
)
def test_colours_with_names(colour, low, high):
    assert low <= float(skin_attention(torch.tensor(colour).view(3, 1, 1) / 255)) <= high


def test_every_colour_has_a_probability():
    axis = torch.linspace(0, 1, 18)
    cube = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).view(3, 18, 324)
    for kind in (torch.float32, torch.float64):
        found = skin_attention(cube.to(kind)[None])
        assert found.shape == (1, 1, 18, 324)
        assert found.dtype == kind
        assert ((found >= 0) & (found <= 1)).all()
        assert found.max() > 0.9
    assert_close(skin_attention(cube).double(), skin_attention(cube.double()), atol=1e-3, rtol=0)


def test_the_papers_threshold():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    plain, cut = skin_attention(images), skin_attention(images, 0.5)
    above = plain > 0.5
    assert 0 < above.sum() < above.numel()
    assert (cut[above] == 1).all()
    assert torch.equal(cut[~above], plain[~above])


def test_pixels_do_not_know_each_other():
    images = torch.rand(2, 3, 5, 6)
    assert torch.equal(skin_attention(images)[1].flip(-1), skin_attention(images[1].flip(-1)))


@pytest.mark.parametrize("shape", [(3, 4), (4, 4, 3), (1, 4, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(UsageError, match=r"expected images \(..., 3, H, W\)"):
        skin_attention(torch.zeros(shape))
