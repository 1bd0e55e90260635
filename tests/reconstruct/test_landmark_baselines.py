"""Baselines without a network: exact on exact data, and their published relations."""

import pytest
import torch
from torch.testing import assert_close

from aboutface.geometry import apply, rotation_from_angles, similarity
from aboutface.metrics import gauge_score, mse, similarity_score, without_plane
from aboutface.morphable import MeanHead
from aboutface.reconstruct.landmark_baselines import Factorisation, Template, best_pair_depth, carry, nose_first


@pytest.fixture(scope="module")
def mean_face():
    return MeanHead.load().landmarks.double()


@pytest.fixture(scope="module")
def faces(mean_face):
    """(60, 68, 3): heads of slightly different people in many poses, sizes and places, as seen without perspective."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rotation = rotation_from_angles(25 * normal(60), 10 * normal(60), 10 * normal(60))
    shapes = mean_face + 1.0 * normal(60, 68, 3)
    return (1 + 0.2 * normal(60, 1, 1)) * (shapes @ rotation.mT) + 30 * normal(60, 1, 3)


@pytest.fixture(scope="module")
def views(mean_face):
    """(40, 68, 3): one rigid head."""
    generator = torch.Generator().manual_seed(1)
    angles = torch.randn(3, 40, generator=generator, dtype=torch.float64) * torch.tensor([[25.0], [12.0], [15.0]])
    return mean_face @ rotation_from_angles(*angles.double()).mT


def pairs(count):
    return torch.nonzero(~torch.eye(count, dtype=torch.bool), as_tuple=True)


def test_carry_does_not_depend_on_the_gauge(faces):
    source, target, z = faces[:30, :, :2], faces[30:, :, :2], faces[:30, :, 2]
    changed = -3 * z + source @ torch.tensor([2.0, 0.5]).double() + 70
    assert_close(carry(source, changed, target), carry(source, z, target), atol=1e-7, rtol=0)


def test_depth_zero_is_the_best_affine_in_the_plane(faces):
    source, target = faces[0, :, :2], faces[1, :, :2]
    columns = torch.cat([source, torch.ones(68, 1, dtype=torch.float64)], 1)
    expected = columns @ torch.linalg.lstsq(columns, target).solution
    assert_close(carry(source, torch.zeros(68).double(), target), expected, atol=1e-6, rtol=0)


def test_no_depth_beats_the_pairs_own(faces):
    source, target = pairs(20)
    points, goal = faces[source, :, :2], faces[target, :, :2]
    floor = mse(carry(points, best_pair_depth(points, goal), goal), goal)
    # Its value in closed form: the smaller singular value of what the plane's affine leaves over.
    left = goal - carry(points, torch.zeros_like(points[..., 0]), goal)
    assert_close(floor, torch.linalg.svdvals(left)[:, 1].square() / (2 * 68), rtol=1e-6, atol=1e-12)
    assert (floor <= mse(carry(points, faces[source, :, 2], goal), goal) + 1e-12).all()
    generator = torch.Generator().manual_seed(3)
    for step in (0.1, 1.0):
        best = best_pair_depth(points, goal)
        moved = best + step * best.std() * torch.randn(best.shape, generator=generator, dtype=torch.float64)
        assert (floor < mse(carry(points, moved, goal), goal)).all()


def test_the_template_finds_its_own_depth(mean_face, views):
    template = Template.fit(apply(similarity(mean_face, views), mean_face))
    posed = template.posed(views[..., :2])
    assert_close(posed - posed.mean(1, keepdim=True), views - views.mean(1, keepdim=True), atol=1e-2, rtol=0)


def test_the_template_fitted_to_the_target_forgets_the_source(faces):
    """What the paper's words describe: any source gives the same points."""
    template = Template.fit(faces[:40])
    posed = template.posed(faces[40:44, :, :2])
    target = faces[50, :, :2].expand(4, -1, -1)
    fitted = carry(posed[..., :2], posed[..., 2], target)
    assert_close(fitted, fitted[:1].expand_as(fitted), atol=1e-7, rtol=0)


def test_factorisation_recovers_a_rigid_head_exactly(views):
    """No label, no template: scale, tilt and sign come from the views alone."""
    depth = Factorisation(views[1:, :, :2])(views[:1, :, :2])
    true = views[:1, :, 2] - views[:1, :, 2].mean()
    assert_close(depth, true, atol=1e-6 * float(true.abs().max()), rtol=0)


def test_factorisation_of_different_faces_is_close_to_their_depth(faces):
    depth = Factorisation(faces[20:, :, :2])(faces[:20, :, :2])
    assert similarity_score(depth, faces[:20, :, 2]).correlation.min() > 0.98
    scale = depth.std(1) / faces[:20, :, 2].std(1)
    assert scale.sub(1).abs().max() < 0.1


def test_factorisation_minimises_the_loss_over_all_targets(faces):
    """The raw depth is the best single depth of a source for all targets of unit size."""
    factorisation = Factorisation(faces[1:, :, :2])
    source = faces[0, :, :2]
    raw = factorisation.raw(source[None])[0]

    def loss(z):
        points = source.expand(len(factorisation.targets), -1, -1)
        fitted = carry(points, z.expand(len(points), -1), factorisation.targets)
        return mse(fitted, factorisation.targets).mean()

    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        step = 0.01 * without_plane(source, torch.randn(68, generator=generator, dtype=torch.float64))
        assert loss(raw) < loss(raw + step)
    assert loss(raw) < loss(faces[0, :, 2])


def test_factorisation_does_not_depend_on_place_and_unit(faces):
    factorisation = Factorisation(faces[20:, :, :2])
    moved = Factorisation(faces[20:, :, :2] / 450 + 3)
    points = faces[:20, :, :2]
    assert_close(moved(points / 450 - 1), factorisation(points) / 450, atol=1e-6, rtol=0)


def test_nose_first_turns_over_what_is_inside_out(faces):
    points, z = faces[..., :2], faces[..., 2]
    tilt = points @ torch.tensor([0.3, -0.2]).double()
    assert_close(nose_first(points, tilt - z), nose_first(points, z - tilt))
    assert (similarity_score(nose_first(points, -z), z).correlation > 0.99).all()


def test_points_in_one_line_stay_finite(faces):
    flat = faces[:6, :, :2].clone()
    flat[..., 1] = 2 * flat[..., 0]
    flat[0] = 1.0
    depth = Factorisation(faces[10:, :, :2])(flat)
    assert depth.isfinite().all()
    for z in (depth, best_pair_depth(flat, faces[10:16, :, :2])):
        assert carry(flat, z, faces[10:16, :, :2]).isfinite().all()


def test_on_real_faces_the_known_order_holds(data):
    """Floor < factorisation and template < the true depth < the plane's affine."""
    from aboutface.recipes.mean_head import real_landmarks

    faces = real_landmarks(data) / 450
    test, train = faces[::17], torch.cat([faces[i::17] for i in range(1, 17)])
    source, target = pairs(len(test))
    xy, goal = test[source, :, :2], test[target, :, :2]
    factorised = Factorisation(train[..., :2])(test[..., :2])
    depths = {
        "affine": torch.zeros_like(test[..., 2]),
        "truth": test[..., 2],
        "template": Template.fit(train).posed(test[..., :2])[..., 2],
        "factorisation": factorised,
    }
    error = {name: float(mse(carry(xy, z[source], goal), goal).mean()) for name, z in depths.items()}
    error["floor"] = float(mse(carry(xy, best_pair_depth(xy, goal), goal), goal).mean())
    assert error["floor"] < 0.8 * min(error["factorisation"], error["template"])
    assert max(error["factorisation"], error["template"]) < 0.95 * error["truth"]
    assert error["truth"] < 0.1 * error["affine"]
    assert similarity_score(factorised, test[..., 2]).correlation.median() > 0.99
    assert gauge_score(test[..., :2], factorised, test[..., 2]).correlation.median() > 0.995
