"""Adaptive augmentation: its filter from its definition, each change by its statistics, places to parts of a pixel,
and the probability that follows the critic."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from aboutface.nn.augment import (
    CENTRE,
    SYM6,
    Controller,
    augmented,
    coloured,
    drawn_colours,
    drawn_geometry,
    sampled,
    warped,
)

SIZE = 32
MANY = 4000


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def noise(*shape, dtype=torch.float32):
    return torch.rand(*shape, dtype=dtype)


def blob(x, y, deviation=2.0):
    """(1, 3, S, S): a spot whose centre is (x, y) pixels from that of the picture."""
    axis = torch.arange(SIZE) + 0.5 - SIZE / 2
    square = (axis - x).square()[None, :] + (axis - y).square()[:, None]
    return torch.exp(-square / (2 * deviation**2)).expand(1, 3, -1, -1)


def centre(image):
    """x and y of the centre of mass, pixels from that of the picture."""
    axis = torch.arange(SIZE) + 0.5 - SIZE / 2
    mass = image[0, 0] / image[0, 0].sum()
    return torch.stack([(mass.sum(0) * axis).sum(), (mass.sum(1) * axis).sum()])


# The filter.


def test_the_filter_is_an_orthogonal_wavelets_with_six_vanishing_moments():
    taps, places = np.array(SYM6), np.arange(12)
    assert taps.sum() == pytest.approx(2**0.5, abs=1e-12)
    for lag in range(6):
        assert taps[2 * lag :] @ taps[: 12 - 2 * lag] == pytest.approx(float(lag == 0), abs=1e-12)
    for moment in range(6):
        assert (taps * (-1.0) ** places * places**moment).sum() == pytest.approx(0, abs=1e-7)
    assert pytest.approx((taps * places).sum() / taps.sum()) == CENTRE


def test_of_all_such_filters_it_is_the_least_asymmetric():
    # Daubechies: 1 - y to the 6th times this polynomial; of each pair of roots z, 1 / z one is free to choose.
    polynomial = [math.comb(5 + k, k) for k in range(6)]
    pairs = [np.roots([1, 4 * y - 2, 1]) for y in np.roots(polynomial[::-1]) if y.imag > -1e-9]
    found = []
    for chosen in itertools.product(*pairs):
        roots = [-1] * 6 + [r for z in chosen for r in ([z, z.conj()] if abs(z.imag) > 1e-9 else [z])]
        taps = np.poly(roots).real
        taps *= 2**0.5 / taps.sum()
        frequency = np.linspace(0, 0.9 * np.pi, 500)
        phase = np.unwrap(np.angle(np.exp(-1j * np.outer(frequency, np.arange(12))) @ taps))
        bend = phase - frequency * (phase @ frequency) / (frequency @ frequency)
        found.append((round(np.abs(bend).max(), 9), taps))
    least = min(bend for bend, _ in found)
    assert len(found) == 8
    assert min(np.abs(taps - SYM6).max() for bend, taps in found if bend == least) < 1e-9


# The whole.


def test_strength_0_gives_the_same_tensor():
    images = noise(2, 3, SIZE, SIZE)
    assert augmented(images, 0.0) is images
    assert augmented(images, torch.zeros(())) is images


def test_pictures_change_as_often_as_asked():
    images = noise(200, 3, 16, 16)
    changed = (augmented(images, 0.05) - images).abs().mean((1, 2, 3)) > 0.02
    # Of its 12 changes two are half a chance and a quarter's: about 11 chances of 0.05.
    assert 0.3 < float(changed.float().mean()) < 0.55


def test_each_picture_is_changed_alone():
    images = noise(3, 3, 16, 16)
    others = torch.cat([noise(2, 3, 16, 16), images[2:]])
    torch.manual_seed(5)
    together = augmented(images, 0.9)
    torch.manual_seed(5)
    other = augmented(others, 0.9)
    assert torch.equal(together[2], other[2])
    assert not torch.equal(together[1], other[1])


def test_the_gradient_is_that_of_finite_differences_and_has_one():
    images = noise(2, 3, 8, 8, dtype=torch.float64).requires_grad_()
    geometry, colours = drawn_geometry(2, 1.0, 8).double(), drawn_colours(2, 1.0).double()

    def change(x):
        return coloured(warped(x, geometry), colours)

    assert torch.autograd.gradcheck(change, (images,), fast_mode=True)
    # R1 needs the second: of something that is not linear in the pictures.
    assert torch.autograd.gradgradcheck(lambda x: change(x).pow(3), (images,), fast_mode=True)


def test_sampling_is_grid_sample():
    images, grid = noise(2, 3, 8, 9), 3 * noise(2, 5, 6, 2) - 1.5
    wanted = torch.nn.functional.grid_sample(images, grid, align_corners=False)
    assert torch.equal(sampled(images, grid), wanted)


# Places.


def test_what_stays_in_place_stays_as_it_is():
    images = noise(2, 3, SIZE, 24)
    found = warped(images, torch.eye(3).repeat(2, 1, 1))
    assert_close(found[..., 4:-4, 4:-4], images[..., 4:-4, 4:-4], atol=1e-5, rtol=0)
    # At the edges the mirror is not quite one, as the filter is not symmetric.
    assert float((found - images).abs().max()) < 0.05


@pytest.mark.parametrize(
    ("matrix", "at"),
    [
        ([[1, 0, 0], [0, 1, 0]], (4.3, -2.7)),
        ([[-1, 0, 0], [0, 1, 0]], (-4.3, -2.7)),
        ([[0, -1, 0], [1, 0, 0]], (-2.7, -4.3)),
        ([[-1, 0, 0], [0, -1, 0]], (-4.3, 2.7)),
        ([[1, 0, 1.3], [0, 1, -2.0]], (3.0, -0.7)),
        ([[0.8, 0, 0], [0, 0.8, 0]], (5.375, -3.375)),
        ([[0.5**0.5, -(0.5**0.5), 0], [0.5**0.5, 0.5**0.5, 0]], (1.6 * 0.5**0.5, -7 * 0.5**0.5)),
    ],
    ids=["stays", "mirror", "quarter", "half turn", "shift", "larger", "eighth"],
)
def test_a_spot_moves_to_where_the_matrix_says(matrix, at):
    """Half a pixel off, at either size, would show."""
    found = warped(blob(4.3, -2.7), torch.tensor([[*matrix, [0.0, 0.0, 1.0]]]))
    assert_close(centre(found), torch.tensor(at), atol=0.01, rtol=0)


def test_whole_pixels_are_shifted_exactly_and_mirrored_at_the_edge():
    images = noise(1, 3, SIZE, SIZE)
    # The new picture's place x is looked up at x + 5.
    found = warped(images, torch.tensor([[[1.0, 0, 5], [0, 1, 0], [0, 0, 1]]]))
    assert_close(found[..., 4:-4, 4:22], images[..., 4:-4, 9:27], atol=1e-5, rtol=0)
    smooth = blob(-9, 3, 3.0)
    far = torch.tensor([[[1.0, 0, 2.0 * SIZE], [0, 1, 0], [0, 0, 1]], [[1.0, 0, SIZE], [0, 1, 0], [0, 0, 1]]])
    twice, once = warped(smooth.expand(2, -1, -1, -1), far)
    # Two mirrors on is the picture itself, one is its mirror image.
    assert_close(twice, smooth[0], atol=0.01, rtol=0)
    assert_close(once, smooth[0].flip(-1), atol=0.01, rtol=0)


def test_fine_stripes_do_not_pose_as_coarse_ones():
    """A picture made smaller, whose stripes cannot be shown any more, turns grey."""
    stripes = (torch.arange(SIZE) % 2).float().expand(1, 3, SIZE, SIZE)
    matrix = torch.diag(torch.tensor([1.5, 1.5, 1.0]))[None]
    found = warped(stripes, matrix)
    grid = torch.nn.functional.affine_grid(matrix[:, :2], [1, 3, SIZE, SIZE], align_corners=False)
    naive = sampled(stripes, grid)
    assert float(found[..., 8:-8, 8:-8].std()) < 0.35 * float(naive[..., 8:-8, 8:-8].std())


# Statistics of what is drawn.


def test_geometry_is_drawn_as_published():
    matrix = drawn_geometry(MANY, 1.0, SIZE)
    area = torch.linalg.det(matrix[:, :2, :2])
    # Mirrors half of the time; scale has the only say in the area, with twice its deviation.
    assert float((area < 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(area.abs().log2().std()) == pytest.approx(0.4, rel=0.05)
    assert float(area.abs().log2().mean()) == pytest.approx(0, abs=0.03)
    singular = torch.linalg.svdvals(matrix[:, :2, :2])
    # The stretch has a deviation of 0.2 in one direction and its inverse in the other.
    assert float((singular[:, 0] / singular[:, 1]).log2().square().mean().sqrt()) == pytest.approx(0.4, rel=0.05)
    assert_close(matrix[:, 2], torch.tensor([0.0, 0, 1]).expand(MANY, 3))


def test_shifts_are_drawn_as_published():
    matrix = drawn_geometry(MANY, 1.0, 64)
    shift = torch.linalg.solve(matrix[:, :2, :2], matrix[:, :2, 2:])[..., 0]
    # Fractions of deviation 8, and whole pixels within 8, which scale and stretch change a little.
    uniform = 17 * 17 / 12
    assert float(shift.square().mean().sqrt()) == pytest.approx((64 + uniform * 1.1) ** 0.5, rel=0.05)


def test_each_change_alone_happens_with_its_probability():
    matrix = drawn_geometry(MANY, 0.3, SIZE)
    mirrored = torch.linalg.det(matrix[:, :2, :2]) < 0
    assert float(mirrored.float().mean()) == pytest.approx(0.15, abs=0.02)
    scaled = (torch.linalg.det(matrix[:, :2, :2]).abs() - 1).abs() > 1e-5
    assert float(scaled.float().mean()) == pytest.approx(0.3, abs=0.03)
    # Of pictures that are not stretched: a turn that is no multiple of a quarter, before or after.
    round_ = torch.linalg.svdvals(matrix[:, :2, :2])
    plain = matrix[(round_[:, 0] / round_[:, 1] - 1).abs() < 1e-5]
    angle = torch.atan2(plain[:, 1, 0], plain[:, 1, 1]) / (math.pi / 2)
    assert float(((angle - angle.round()).abs() > 1e-4).float().mean()) == pytest.approx(0.3, abs=0.03)


def test_colours_are_drawn_as_published():
    matrix = drawn_colours(MANY, 1.0)
    grey = torch.ones(3) / 3**0.5
    # Along grey: contrast, and half of the time a flip; hue and saturation leave it alone.
    along = matrix[:, :3, :3] @ grey
    assert_close(along, (along @ grey)[:, None] * grey, atol=1e-4, rtol=1e-4)
    assert float((along @ grey < 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    contrast = (along @ grey).abs().log2()
    assert float(contrast.std()) == pytest.approx(0.5, rel=0.05)
    # Across it: contrast and saturation, and hue all around.
    red = torch.tensor([2.0, -1, -1]) / 6**0.5
    other = torch.tensor([0.0, 1, -1]) / 2**0.5
    turned = matrix[:, :3, :3] @ red
    assert float((turned.norm(dim=1).log2() - contrast).std()) == pytest.approx(1.0, rel=0.05)
    hue = torch.atan2(turned @ other, turned @ red)
    counts = torch.histc(hue, 6, -math.pi, math.pi) / MANY
    assert float((counts - 1 / 6).abs().max()) < 0.03
    # Brightness is added before the contrast, and its deviation is 0.2 of colours in [-1, 1].
    lift = torch.linalg.solve(matrix[:, :3, :3], matrix[:, :3, 3:])[..., 0]
    assert_close(lift, lift[:, :1].expand(-1, 3), atol=1e-3, rtol=1e-3)
    assert float(lift[:, 0].std()) == pytest.approx(0.2, rel=0.05)


def test_colours_are_multiplied_in_a_range_about_grey():
    images = noise(1, 3, 4, 4)
    matrix = torch.eye(4)[None].clone()
    matrix[:, :3] *= -1
    assert_close(coloured(images, matrix), 1 - images)


# The probability.


def scores(share):
    """(100,): this share of them above 0."""
    return torch.where(torch.arange(100) < 100 * share, 1.0, -1.0)


def run(controller, share, steps, start=0):
    for step in range(start, start + steps):
        controller.adjust(step, 32)
        controller.observe(scores(share))
    return float(controller.strength)


def test_the_probability_rises_for_a_critic_that_knows_all_and_falls_back_to_0():
    controller = Controller(images=32 * 400)
    risen = run(controller, 0.95, 201)
    assert risen == pytest.approx(0.5, abs=1e-5)
    # A mean sign of 0.6 is a share of 0.8.
    assert run(controller, 0.75, 100, 201) == pytest.approx(0.25, abs=0.02)
    assert run(controller, 0.75, 400, 301) == 0


def test_the_probability_never_passes_1():
    assert run(Controller(images=32 * 40), 1.0, 100) == 1


def test_it_changes_every_fourth_step_and_once_a_step():
    controller = Controller(start=0.5, images=32 * 400)
    for step in range(4):
        for _ in range(2):
            controller.adjust(step, 32)
            controller.observe(scores(1.0))
        assert float(controller.strength) == 0.5
    for _ in range(2):
        controller.adjust(4, 32)
        controller.observe(scores(0.0))
    assert float(controller.strength) == pytest.approx(0.51)
    assert float(controller.running_mean) == -1


def test_its_state_is_all_there_is():
    one = Controller(images=32 * 400)
    run(one, 0.95, 30)
    other = Controller(images=32 * 400)
    other.load_state_dict(one.state_dict())
    assert run(one, 0.9, 31, 30) == run(other, 0.9, 31, 30) > 0
