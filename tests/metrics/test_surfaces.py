"""SIDE, MAD and their mask on surfaces whose values are known; errors of landmarks, views and light."""

import math

import pytest
import torch
from torch.testing import assert_close

from aboutface import metrics
from aboutface.geometry import depth_normals, intrinsics, pixel_centres, rotation_from_angles

SIZE = 48
K = intrinsics(10.0, (SIZE, SIZE)).double()


def rays():
    """(3, H, W): points at depth 1."""
    centres = pixel_centres(SIZE, SIZE, torch.float64)
    homogeneous = torch.cat([centres, torch.ones_like(centres[..., :1])], -1)
    return (homogeneous @ torch.linalg.inv(K).mT).permute(2, 0, 1)


def plane(normal):
    """Depth (H, W) of the plane through (0, 0, 1) with this normal (3,)."""
    normal = torch.as_tensor(normal, dtype=torch.float64)
    return normal[2] / (normal[:, None, None] * rays()).sum(0)


def sphere(radius, z=1.0):
    """Depth (H, W) of a ball at (0, 0, z), its true normals (3, H, W) and its mask (H, W)."""
    ray = rays()
    a, b, c = ray.square().sum(0), ray[2] * z, z * z - radius * radius
    mask = b * b - a * c > 0
    depth = (b - (b * b - a * c).clamp_min(0).sqrt()) / a
    points = ray * depth
    points[2] -= z
    return torch.where(mask, depth, 1.1), points / points.norm(dim=0), mask


def blob():
    """An irregular mask with a hole."""
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[0:30, 5:40] = True
    mask[10:44, 12:20] = True
    mask[12:15, 30:33] = False
    return mask


def slow_eroded(mask):
    height, width = mask.shape
    result = torch.zeros_like(mask)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            result[y, x] = all(mask[y + i, x + j] for i in (-1, 0, 1) for j in (-1, 0, 1))
    return result


def slow_scores(depth, true, normals, true_normals, mask):
    errors, angles = [], []
    for y in range(SIZE):
        for x in range(SIZE):
            if mask[y, x]:
                errors.append(math.log(depth[y, x]) - math.log(true[y, x]))
                cosine = sum(float(normals[i, y, x] * true_normals[i, y, x]) for i in range(3))
                angles.append(math.degrees(math.acos(max(-1.0, min(1.0, cosine)))))
    mean = sum(errors) / len(errors)
    return math.sqrt(sum((e - mean) ** 2 for e in errors) / len(errors)), sum(angles) / len(angles)


def test_a_loop_over_pixels_gives_the_same():
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 2, SIZE, SIZE, generator=generator, dtype=torch.float64)
    depth, true = 0.9 + 0.2 * noise
    masks = torch.stack([blob(), blob().flip(1)])
    kept = metrics.eroded(masks)
    normals, true_normals = depth_normals(depth, K), depth_normals(true, K)
    found = metrics.side(depth, true, kept), metrics.mad(normals, true_normals, kept)
    for i in range(2):
        assert torch.equal(kept[i], slow_eroded(masks[i]))
        slow = slow_scores(depth[i], true[i], normals[i], true_normals[i], kept[i])
        assert_close(torch.stack([found[0][i], found[1][i]]), torch.tensor(slow, dtype=torch.float64))


def test_erosion_keeps_its_leading_dimensions_and_drops_the_frame():
    whole = torch.ones(2, 3, 5, 6, dtype=torch.bool)
    kept = metrics.eroded(whole)
    assert kept.shape == whole.shape
    assert int(kept.sum()) == 6 * 3 * 4
    assert not metrics.eroded(whole[0, 0])[[0, -1]].any()


def test_side_of_a_known_field_is_its_standard_deviation():
    """depth * exp(field): the field's standard deviation over the mask, whatever the depth is."""
    true, _, mask = sphere(0.06)
    x = torch.arange(SIZE, dtype=torch.float64) - (SIZE - 1) / 2
    field = (0.02 * torch.sin(x))[:, None] + 0.001 * x[None, :] + 0.3
    expected = field[mask].std(correction=0)
    assert expected > 0.01
    assert_close(metrics.side(true * field.exp(), true, mask), expected)
    assert_close(metrics.side(true, true * field.exp(), mask), expected)
    # Spread evenly over a full rectangle, a ramp of n steps has the variance (n² - 1) / 12 steps².
    ramp = (0.001 * x).expand(SIZE, SIZE)
    whole = torch.ones_like(mask)
    assert_close(
        metrics.side(ramp.exp(), torch.ones_like(ramp), whole),
        torch.tensor(0.001 * math.sqrt((SIZE**2 - 1) / 12), dtype=torch.float64),
    )


def test_side_knows_no_scale_but_an_offset():
    true, _, mask = sphere(0.06)
    depth = true + 0.01 * rays()[0]
    mask = metrics.eroded(mask)
    base = metrics.side(depth, true, mask)
    assert_close(metrics.side(3.7 * depth, 0.2 * true, mask), base)
    assert metrics.side(3.7 * true, true, mask) < 1e-12
    assert metrics.side(true + 0.5, true, mask) > 1e-3


def test_mad_of_a_tilted_plane_is_its_angle():
    flat = plane([0.0, 0.0, -1.0])
    assert_close(flat, torch.ones_like(flat))
    mask = metrics.eroded(torch.ones(SIZE, SIZE, dtype=torch.bool))
    for yaw, pitch in ((25.0, 0.0), (0.0, -40.0), (-15.0, 15.0)):
        normal = -rotation_from_angles(*torch.tensor([yaw, pitch], dtype=torch.float64))[:, 2]
        angle = math.degrees(math.acos(-float(normal[2])))
        found = metrics.mad(depth_normals(plane(normal), K), depth_normals(flat, K), mask)
        assert found == pytest.approx(angle, abs=1e-6)
        assert metrics.side(plane(normal), flat, mask) > 1e-3, "a tilt is an error of depth, too"


def test_mad_of_a_sphere_against_its_own_normals_is_small_inside_the_eroded_mask():
    depth, normals, mask = sphere(0.06)
    found = depth_normals(depth, K)
    inside, rim = metrics.eroded(mask), mask & ~metrics.eroded(mask)
    assert metrics.mad(found, normals, inside) < 1.5
    assert metrics.mad(found, normals, rim) > 10, "differences across the outline are no normals: why masks are eroded"


def test_constant_depth_is_scored_by_the_truth_alone():
    true, _, mask = sphere(0.06)
    inside = metrics.eroded(mask)
    flat = torch.ones_like(true)
    assert_close(metrics.side(flat, true, inside), true[inside].log().std(correction=0))
    tilt = torch.rad2deg(torch.acos(-depth_normals(true, K)[2][inside])).mean()
    assert_close(metrics.mad(depth_normals(flat, K), depth_normals(true, K), inside), tilt)


def test_mirrored_maps_have_the_same_scores():
    true, _, mask = sphere(0.06)
    depth = true * (1 + 0.1 * rays()[0] + 0.05 * rays()[1].square())
    mask = metrics.eroded(mask) & blob()

    def scores(first, second, where):
        a, b = depth_normals(first, K), depth_normals(second, K)
        return torch.stack([metrics.side(first, second, where), metrics.mad(a, b, where)])

    mirrored = scores(depth.flip(-1), true.flip(-1), mask.flip(-1))
    assert_close(mirrored, scores(depth, true, mask))


def test_what_lies_outside_the_mask_does_not_count():
    true, _, mask = sphere(0.06)
    wild = torch.where(mask, true, math.inf)
    zero = torch.where(mask, true, 0)
    assert metrics.side(wild, zero, mask) == 0
    assert metrics.depth_mae(wild, zero, mask) == 0


def test_mae_and_mse_by_hand():
    mask = torch.tensor([[[True, True], [False, True]], [[False, False], [True, True]]])
    true = torch.ones(2, 2, 2)
    depth = true + torch.tensor([[[0.1, -0.2], [9.0, 0.3]], [[9.0, 9.0], [0.5, 0.5]]])
    assert_close(metrics.depth_mae(depth, true, mask), torch.tensor([0.2, 0.5]))
    assert_close(metrics.depth_mse(depth, true, mask), torch.tensor([0.14 / 3, 0.25]))


def test_an_empty_mask_has_no_score():
    depth = torch.ones(3, 8, 8)
    mask = torch.zeros(3, 8, 8, dtype=torch.bool)
    mask[1] = True
    normals = depth_normals(depth, K.float())
    for score in (
        metrics.side(depth, depth, mask),
        metrics.mad(normals, normals, mask),
        metrics.depth_mae(depth, depth, mask),
    ):
        assert score.isnan().tolist() == [True, False, True]


# ---- landmarks, views, light ----


def test_landmark_error_is_percent_of_the_box():
    true = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 9.0], [0.0, 9.0]])
    moved = true + torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 0.0], [3.0, 0.0]])
    assert_close(metrics.landmark_error(moved, true), torch.tensor(100 * (1 + 3) / 4 / 6))
    visible = torch.tensor([True, True, True, False])
    assert_close(metrics.landmark_error(moved, true, visible), torch.tensor(100 / 3 / 6))
    assert_close(metrics.landmark_error(7 * moved, 7 * true), metrics.landmark_error(moved, true))
    assert metrics.landmark_error(moved, true, ~visible & visible).isnan()


def test_view_error_is_the_angle_between_poses():
    true = torch.tensor([[20.0, 0.0, 0.0], [0.0, -30.0, 0.0], [10.0, 20.0, 179.0]], dtype=torch.float64)
    moved = true + torch.tensor([[15.0, 0.0, 0.0], [0.0, 50.0, 0.0], [0.0, 0.0, 2.0]])
    error = metrics.view_error(moved, true)
    assert_close(error.rotation, torch.tensor([15.0, 50.0, 2.0], dtype=torch.float64))
    assert_close(error.yaw, torch.tensor([15.0, 0.0, 0.0], dtype=torch.float64))
    wrapped = metrics.view_error(moved - torch.tensor([0.0, 0.0, 360.0]), true)
    assert_close(wrapped.roll, torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64))
    assert_close(wrapped.rotation, error.rotation)
    opposite = metrics.view_error(torch.tensor([180.0, 0.0, 0.0]), torch.zeros(3))
    assert float(opposite.rotation) == pytest.approx(180, abs=0.1)


def test_both_of_a_pair_turned_alike_keep_their_error():
    generator = torch.Generator().manual_seed(0)
    angles = 20 * torch.randn(2, 30, 3, generator=generator, dtype=torch.float64)
    mirror = torch.tensor([-1.0, 1.0, -1.0])
    assert_close(metrics.view_error(*(mirror * angles)).rotation, metrics.view_error(*angles).rotation)
    assert_close(metrics.view_error(*angles.flip(0)).rotation, metrics.view_error(*angles).rotation)


def test_the_gauge_is_found_and_a_turn_of_each_face_is_not():
    generator = torch.Generator().manual_seed(0)
    true = rotation_from_angles(*(20 * torch.randn(3, 50, generator=generator, dtype=torch.float64)))
    own = rotation_from_angles(*torch.tensor([5.0, -12.0, 3.0], dtype=torch.float64))
    assert_close(metrics.view_gauge(true @ own.mT, true), own)
    noisy = true @ rotation_from_angles(*(20 * torch.randn(3, 50, generator=generator, dtype=torch.float64)))
    assert (noisy @ metrics.view_gauge(noisy, true) - true).abs().mean() > 0.1


def test_light_error_by_hand():
    true = torch.tensor([0.4, 0.6, 0.0, 0.0, -1.0], dtype=torch.float64)
    light = torch.tensor([0.2, 0.3, 0.0, -3.0, -3.0], dtype=torch.float64)
    error = metrics.light_error(light, true)
    assert_close(error.direction, torch.tensor(45.0, dtype=torch.float64))
    assert_close(torch.stack([error.ambient, error.diffuse]), torch.tensor([0.2, 0.3], dtype=torch.float64))
    assert error.share < 1e-12, "half the light on twice the albedo is the same picture"
    assert metrics.light_error(torch.tensor([0.2, 0.3, 0.0, 0.0, 0.0]), true.float()).direction.isnan()
