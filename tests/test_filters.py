"""Small picture filters."""

import pytest
import torch
from torch.nn import functional

from aboutface.filters import _affine_windows, blur, fill, guided_upsample, sample, smoothstep
from aboutface.geometry import pixel_centres


def test_filling_keeps_what_is_known_and_never_leaves_its_range():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 37, 50, generator=generator) * 0.5 + 0.25
    weight = (torch.rand(37, 50, generator=generator) < 0.1).float()
    filled = fill(image, weight)
    known = weight.bool().expand_as(image)
    torch.testing.assert_close(filled[known], image[known])
    assert filled.min() >= image[known].min() - 1e-5
    assert filled.max() <= image[known].max() + 1e-5


def test_filling_one_colour_gives_that_colour_everywhere():
    weight = torch.zeros(64, 33)
    weight[5, 7] = 1
    torch.testing.assert_close(fill(torch.full((3, 64, 33), 0.3), weight), torch.full((3, 64, 33), 0.3))


def test_sampling_at_pixel_centres_gives_the_pixels():
    image = torch.rand(2, 5, 9, generator=torch.Generator().manual_seed(1))
    window = (10.0, 20.0, 19.0, 25.0)
    places = pixel_centres(5, 9).flatten(0, 1) + torch.tensor([10.0, 20.0])
    torch.testing.assert_close(sample(image, places, window).view(2, 5, 9), image)


def test_blur_keeps_a_constant_and_flattens_the_rest():
    flat = torch.full((3, 40, 30), 0.7)
    torch.testing.assert_close(blur(flat, 12.0), flat, rtol=0, atol=1e-5)
    noise = torch.rand(3, 80, 60, generator=torch.Generator().manual_seed(2))
    assert blur(noise, 10.0).std() < 0.2 * noise.std()


def test_smoothstep_has_its_ends_and_its_middle():
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0, 3.0])
    torch.testing.assert_close(smoothstep(x, 0.0, 2.0), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))


# ---- upsampling along edges ----


def step_photo(size: int, edge: int) -> torch.Tensor:
    """(3, size, size): dark left of column `edge`, bright from there on, with some texture on either side."""
    noise = 0.02 * torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    return torch.where(torch.arange(size) < edge, 0.2, 0.7) + noise


def test_upsampling_keeps_a_constant():
    photo = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(0))
    for level in (0.0, 0.3, 1000.0):
        up = guided_upsample(torch.full((2, 8, 9), level), photo)
        torch.testing.assert_close(up, torch.full((2, 50, 70), level), rtol=1e-6, atol=1e-6)


def test_upsampling_is_linear_in_the_map():
    generator = torch.Generator().manual_seed(1)
    photo = torch.rand(3, 61, 47, generator=generator)
    a, b = (torch.rand(1, 10, 8, generator=generator) for _ in range(2))
    together = guided_upsample(2 * a - 0.5 * b + 3, photo)
    apart = 2 * guided_upsample(a, photo) - 0.5 * guided_upsample(b, photo) + 3
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-4)
    # And channels do not know of each other.
    torch.testing.assert_close(guided_upsample(torch.cat([a, b]), photo)[1:], guided_upsample(b, photo))


@pytest.mark.parametrize("edge", [125, 128, 133])
def test_a_step_is_where_the_photo_has_it(edge):
    """A depth step that the coarse map has only to a cell of 8 pixels is as sharp as the photo's own edge."""
    photo = step_photo(256, edge)
    truth = torch.where(torch.arange(256) < edge, 0.95, 1.05).expand(1, 256, 256)
    low = functional.avg_pool2d(truth[None], 8)[0]
    up = guided_upsample(low, photo)
    plain = functional.interpolate(low[None], (256, 256), mode="bilinear", align_corners=False)[0]
    near = slice(edge - 12, edge + 12)
    assert (up - truth)[..., near].abs().mean() < 0.25 * (plain - truth)[..., near].abs().mean()
    width = lambda image: int(((image[0, 128] > 0.96) & (image[0, 128] < 1.04)).sum())  # noqa: E731
    assert width(up) <= 1 < 4 < width(plain)


def test_an_even_photo_leaves_a_smooth_map_smooth():
    photo = torch.full((3, 96, 96), 0.5)
    ramp = torch.linspace(0, 1, 12)[None, :, None].expand(1, 12, 12)
    up = guided_upsample(ramp, photo)
    plain = functional.interpolate(ramp[None], (96, 96), mode="bilinear", align_corners=False)[0]
    inner = slice(36, 60)
    torch.testing.assert_close(up[:, inner, inner], plain[:, inner, inner], rtol=0, atol=1e-5)


def test_a_mirrored_map_and_photo_give_the_mirrored_result():
    generator = torch.Generator().manual_seed(2)
    low, photo = torch.rand(2, 9, 11, generator=generator), torch.rand(3, 90, 110, generator=generator)
    mirrored = guided_upsample(low.flip(-1), photo.flip(-1)).flip(-1)
    torch.testing.assert_close(mirrored, guided_upsample(low, photo), rtol=0, atol=1e-5)


def test_coefficients_are_ridge_regressions_in_every_window():
    generator = torch.Generator().manual_seed(3)
    values, colours = torch.rand(2, 6, 7, generator=generator) + 5, torch.rand(3, 6, 7, generator=generator)
    radius, smoothness = 1, 0.01
    slow_factors, slow_rests = torch.zeros(2, 3, 6, 7), torch.zeros(2, 6, 7)
    places = [(y, x) for y in range(6) for x in range(7)]
    around = lambda y, x: (slice(max(y - 1, 0), y + 2), slice(max(x - 1, 0), x + 2))  # noqa: E731
    for y, x in places:
        c = colours[:, *around(y, x)].flatten(1).T.double()
        v = values[:, *around(y, x)].flatten(1).T.double()
        a = torch.cat([c, torch.ones(len(c), 1)], 1)
        ridge = len(c) * smoothness * torch.diag(torch.tensor([1.0, 1, 1, 0]).double())
        solution = torch.linalg.solve(a.T @ a + ridge, a.T @ v).float()
        slow_factors[:, :, y, x], slow_rests[:, y, x] = solution[:3].T, solution[3]
    factors, rests = _affine_windows(values, colours, radius, smoothness)
    for y, x in places:
        torch.testing.assert_close(factors[:, :, y, x], slow_factors[:, :, *around(y, x)].mean((-2, -1)))
        torch.testing.assert_close(rests[:, y, x], slow_rests[:, *around(y, x)].mean((-2, -1)))


@pytest.mark.parametrize(("low", "photo"), [((8, 8), (3, 16, 16)), ((1, 8, 8), (1, 16, 16)), ((1, 8, 8), (3, 4, 16))])
def test_maps_and_photos_that_do_not_fit_are_refused(low, photo):
    with pytest.raises(ValueError, match=r"expected a map \(C, h, w\) and a photo \(3, H, W\)"):
        guided_upsample(torch.zeros(low), torch.zeros(photo))
