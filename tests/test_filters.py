"""Small picture filters."""

import torch

from aboutface.filters import blur, fill, sample, smoothstep
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
