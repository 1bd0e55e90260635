"""DepthNet against what its paper and its mathematics say, and against faces whose depth is known."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.face import MIRROR_68, Face
from aboutface.geometry import affine_2d_from_3d, affine_2d_from_3d_matrix, project, rotation_from_angles
from aboutface.images import read_photo
from aboutface.morphable import MeanHead
from aboutface.recipes import Trained, write_weights
from aboutface.recipes.depthnet import score
from aboutface.recipes.mean_head import real_landmarks
from aboutface.reconstruct import reconstructor
from aboutface.reconstruct.depthnet import (
    UPRIGHT,
    DepthNet,
    DepthNetOutput,
    DepthNetReconstructor,
    DepthNetSettings,
    carried,
    depth_in_pose,
    estimate_depth,
    fix_gauge,
    left_over,
    mirror,
    normalise,
    pair_loss,
)
from aboutface.reconstruct.landmark_baselines import to_unit


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Source (4, 68, 2), its depth (4, 68) and target (4, 68, 2) of no face in particular."""
    generator = torch.Generator().manual_seed(3)
    make = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return 30 * make(4, 68, 2) + 200, 30 * make(4, 68), 7 * make(4, 68, 2) - 50


def speaking(net: DepthNet, seed: int = 0) -> DepthNet:
    """A net in float64 whose last layer says something else of every pair: an untrained one does not."""
    last = net.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.normal_(last.weight, std=0.2, generator=torch.Generator().manual_seed(seed))
    return net.double()


def said(depth: torch.Tensor) -> DepthNetOutput:
    return DepthNetOutput(depth, None)


def refitted(
    source: torch.Tensor, depth: torch.Tensor, target: torch.Tensor, power: int, detach: bool = False
) -> torch.Tensor:
    """The slow loss: solve for the affine, apply it, mean error to a power, in units of the target's size."""
    lifted = torch.cat([source, depth[..., None]], -1)
    matrix = affine_2d_from_3d_matrix(lifted.detach() if detach else lifted, target)
    fitted = lifted @ matrix[..., :3].mT + matrix[..., None, :, 3]
    return ((fitted - target) / to_unit(target)[1][:, None, None]).abs().pow(power).mean()


# ---- the loss ----


def test_loss_is_what_the_closed_form_affine_leaves(pair):
    source, depth, target = pair
    assert_close(pair_loss(source, target, said(depth), "pseudo-inverse"), refitted(source, depth, target, 2))
    _, fitted = affine_2d_from_3d(torch.cat([source, depth[..., None]], -1), target)
    assert_close(carried(source, target, said(depth), "pseudo-inverse"), fitted)
    lifted = torch.cat([source, depth[..., None]], -1)
    assert_close(left_over(lifted, target), target - fitted, rtol=0, atol=1e-9)


def test_secondary_and_pseudo_inverse_are_one_affine_at_test_time(pair):
    source, depth, target = pair
    affine = torch.randn(4, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    output = DepthNetOutput(depth, affine)
    one, other, predicted = (carried(source, target, output, f) for f in ("pseudo-inverse", "secondary", "separate"))
    assert_close(one, other)
    lifted = torch.cat([source, depth[..., None], torch.ones(4, 68, 1).double()], -1)
    assert_close(predicted, torch.einsum("bij,bkj->bki", affine, lifted))
    # And the closed form is the best of all affines.
    assert pair_loss(source, target, output, "secondary") < pair_loss(source, target, output, "separate")


def test_separate_loss_is_the_mean_squared_error_in_target_sizes(pair):
    source, depth, target = pair
    output = DepthNetOutput(depth, torch.eye(2, 4, dtype=torch.float64).expand(4, -1, -1))
    expected = torch.stack([(s - t).square().mean() / to_unit(t)[1] ** 2 for s, t in zip(source, target, strict=True)])
    assert_close(pair_loss(source, target, output, "separate"), expected.mean())


@pytest.mark.parametrize("formulation", ["secondary", "pseudo-inverse"])
def test_loss_does_not_see_scale_sign_tilt_and_offset(pair, formulation):
    source, depth, target = pair
    loss = pair_loss(source, target, said(depth), formulation)
    for a in (-2.5, 0.03):
        regauged = a * depth + 0.7 * source[..., 0] - 1.3 * source[..., 1] + 40.0
        assert_close(pair_loss(source, target, said(regauged), formulation), loss)
    other = depth + 0.1 * source[..., 0] * source[..., 1]
    assert abs(pair_loss(source, target, said(other), formulation) - loss) > 1e-4, "but it does see any other change"


def test_loss_has_no_gradient_along_the_gauge(pair):
    source, depth, target = pair
    depth.requires_grad_()
    (gradient,) = torch.autograd.grad(pair_loss(source, target, said(depth), "pseudo-inverse"), depth)
    for along in (depth, source[..., 0], source[..., 1], torch.ones_like(depth)):
        cosine = torch.cosine_similarity(gradient, along, dim=1)
        assert cosine.abs().max() < 1e-9


def test_loss_does_not_depend_on_sizes_and_places(pair):
    source, depth, target = pair
    loss = pair_loss(source, target, said(depth), "pseudo-inverse")
    assert_close(pair_loss(5 * source - 3, 0.1 * target + 9, said(5 * depth), "pseudo-inverse"), loss)


def test_detaching_the_affine_changes_no_gradient_of_squares_but_of_absolute_values(pair):
    source, depth, target = pair
    depth.requires_grad_()
    (gradient,) = torch.autograd.grad(pair_loss(source, target, said(depth), "pseudo-inverse"), depth)
    for detach in (False, True):
        (slow,) = torch.autograd.grad(refitted(source, depth, target, 2, detach), depth)
        assert_close(gradient, slow, rtol=1e-6, atol=1e-12)
    through, detached = (torch.autograd.grad(refitted(source, depth, target, 1, d), depth)[0] for d in (False, True))
    assert (through - detached).norm() > 0.05 * through.norm()


def test_gradient_is_that_of_the_residual(pair):
    source, depth, target = pair
    depth.requires_grad_()
    (gradient,) = torch.autograd.grad(pair_loss(source, target, said(depth), "pseudo-inverse"), depth)
    with torch.no_grad():
        matrix, fitted = affine_2d_from_3d(torch.cat([source, depth[..., None]], -1), target)
        residual = target - fitted
        size = to_unit(target)[1][:, None]
        along = (matrix[:, None, :, 2] * residual).sum(-1)
    # Per pair: -(m3 rx + m6 ry) / K; here the mean of four pairs, in target sizes.
    assert_close(gradient, -along / (68 * 4 * size.square()), rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("formulation", ["separate", "pseudo-inverse"])
def test_gradient_by_differences(formulation):
    generator = torch.Generator().manual_seed(5)
    source, target = torch.randn(2, 2, 7, 2, generator=generator, dtype=torch.float64)
    depth = torch.randn(2, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    affine = torch.randn(2, 2, 4, generator=generator, dtype=torch.float64, requires_grad=True)

    def loss(depth: torch.Tensor, affine: torch.Tensor) -> torch.Tensor:
        return pair_loss(source, target, DepthNetOutput(depth, affine), formulation) + 0 * affine.sum()

    assert torch.autograd.gradcheck(loss, (depth, affine))


def test_one_pair_is_overfitted_down_to_its_floor_and_not_below(pair):
    source, target = pair[0][:1], to_unit(pair[2][:1])[0]
    plane = torch.cat([source, torch.ones_like(source[..., :1])], -1)[0]
    residual = target[0] - plane @ torch.linalg.lstsq(plane, target[0]).solution
    floor = torch.linalg.svdvals(residual)[1].square() / (2 * 68)
    torch.manual_seed(0)
    net = DepthNet.tiny().double()
    optimiser = torch.optim.Adam(net.parameters(), 0.05)
    for _ in range(400):
        loss = pair_loss(source, target, net(source, target), "pseudo-inverse")
        assert loss >= floor * (1 - 1e-9)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss <= floor * 1.001


def test_points_in_a_line_and_a_face_on_itself_have_a_finite_loss(pair):
    source, depth, target = pair
    line = torch.arange(68).double()[:, None] * torch.tensor([1.0, 0.5]).double() + torch.zeros(4, 68, 2).double()
    for s, t in ((line, target), (source, line), (line, line), (source, source), (source, torch.ones_like(source))):
        assert pair_loss(s, t, said(depth), "pseudo-inverse").isfinite()
    depth.requires_grad_()
    own = pair_loss(source, source, said(depth), "pseudo-inverse")
    assert own < 1e-24
    assert torch.autograd.grad(own, depth)[0].isfinite().all()
    # As far as they go: a line carried to a line is met.
    assert left_over(line, 3 * line[..., :1].expand(-1, -1, 2) + 2).abs().max() < 1e-9


# ---- the network ----


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (DepthNetSettings(registered=False), 87_364),
        (DepthNetSettings(registered=False, affine=True), 89_420),
        (DepthNetSettings(registered=False, images=True), 18_073_556),
    ],
)
def test_parameters_are_the_papers(settings, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in DepthNet(settings).parameters()) == count


def test_untrained_net_is_one_random_relief_and_the_identity(pair):
    source, _, target = pair
    torch.manual_seed(0)
    net = DepthNet.tiny(affine=True).double()
    output = net(source, target)
    size, target_size = to_unit(source)[1], to_unit(target)[1]
    relief = output.depth / size[:, None]
    assert_close(relief, relief[:1].expand(4, -1))
    assert 0.3 < relief[0].std() < 0.7
    # The affine brings the source's frame to the target's, and does not look at depth.
    expected = to_unit(source)[0] * target_size[:, None, None] + target.mean(1, keepdim=True)
    assert_close(carried(source, target, output, "separate"), expected)
    assert output.affine is not None
    assert (output.affine[..., 2] == 0).all()


@pytest.mark.parametrize("registered", [False, True])
def test_depth_grows_with_the_source_and_the_affine_follows_both(pair, registered):
    source, _, target = pair
    net = speaking(DepthNet.tiny(affine=True, registered=registered))
    output = net(source, target)
    assert (output.depth[0] - output.depth[1]).abs().max() > 1e-2, "it looks at its faces"
    near, moved = 0.2 * source + torch.tensor([5.0, -70.0]), 3 * target + torch.tensor([900.0, 4.0])
    other = net(near, moved)
    assert_close(other.depth, 0.2 * output.depth)
    expected = 3 * carried(source, target, output, "separate") + torch.tensor([900.0, 4.0])
    assert_close(carried(near, moved, other, "separate"), expected)
    assert_close(pair_loss(near, moved, other, "pseudo-inverse"), pair_loss(source, target, output, "pseudo-inverse"))


def test_only_a_registered_net_is_told_the_residual(pair):
    """Two targets that a 2D affine makes equal differ in what they leave over by that affine alone."""
    source, _, target = pair
    net = speaking(DepthNet.tiny())
    first, second = net.layers[0], DepthNet.tiny(registered=False).layers[0]
    assert isinstance(first, torch.nn.Linear)
    assert isinstance(second, torch.nn.Linear)
    assert first.in_features - second.in_features == 2 * 68
    with torch.no_grad():
        first.weight[:, : 4 * 68] = 0  # all but the residual
    flat = source @ torch.tensor([[1.2, 0.3], [-0.2, 0.8]]).double() + 4
    assert_close(net(source, flat).depth[0], net(source, source).depth[0])
    assert (net(source, target).depth[0] - net(source, flat).depth[0]).abs().max() > 1e-3


def test_other_numbers_of_keypoints_are_told_what_to_do(pair):
    source, _, target = pair
    net = DepthNet.tiny().double()
    for first, second in ((source[:, :66], target[:, :66]), (source, target[:3]), (source, target[:, :66])):
        with pytest.raises(ValueError, match="landmarks_68_from_66"):
            net(first, second)
    assert DepthNet(DepthNetSettings(points=66, hidden=(4,)))(*torch.randn(2, 3, 66, 2)).depth.shape == (3, 66)


def test_a_net_of_case_a_needs_pictures_and_looks_at_both(pair):
    source, _, target = pair
    net = speaking(DepthNet.tiny(images=True))
    with pytest.raises(ValueError, match="pictures"):
        net(source, target)
    first, second = torch.rand(2, 4, 1, 20, 20, generator=torch.Generator().manual_seed(0)).double()
    with pytest.raises(ValueError, match="pictures"):
        net(source, target, net.encode(first))
    depth = net(source, target, net.encode(first), net.encode(second)).depth
    for other in ((first, first), (second, second), (second, first)):
        changed = net(source, target, *map(net.encode, other)).depth
        assert (changed - depth).abs().max() > 1e-6
    # A face's features do not depend on whom it is encoded with.
    assert_close(net.encode(first)[2:3], net.encode(first[2:3]))


def test_rows_do_not_see_each_other(pair):
    source, _, target = pair
    net = speaking(DepthNet.tiny(affine=True))
    whole, alone = net(source, target), net(source[2:3], target[2:3])
    assert_close(whole.depth[2:3], alone.depth)
    assert whole.affine is not None
    assert_close(whole.affine[2:3], alone.affine)


# ---- faces of photos ----


def test_mirrored_keypoints_give_mirrored_depth():
    torch.manual_seed(1)
    net, mean = speaking(DepthNet.tiny()).float(), MeanHead.load().landmarks
    pixels = (mean @ rotation_from_angles(yaw=25.0, pitch=8.0, roll=-12.0).mT)[None, :, :2] + torch.randn(1, 68, 2)
    mirrored = mirror(pixels) + torch.tensor([300.0, 0.0])
    depth = estimate_depth(net, normalise(pixels, mean), mean)
    depth_mirrored = estimate_depth(net, normalise(mirrored, mean), mean)
    assert_close(depth_mirrored[:, MIRROR_68], depth, rtol=0, atol=2e-3)
    assert (depth_mirrored - depth).abs().max() > 0.1


@pytest.mark.parametrize("roll", [-170.0, -60.0, -40.0, 0.0, 44.0, 70.0, 120.0])
def test_normalised_points_are_nearly_upright_centred_and_of_unit_size(roll):
    mean = MeanHead.load().landmarks
    pixels = (3 * (mean @ rotation_from_angles(15.0, 5.0, roll).mT)[None, :, :2]) + 100
    normal = normalise(pixels, mean)
    left = min(max(roll, -UPRIGHT), UPRIGHT)
    assert float(normal.roll) == pytest.approx(roll - left, abs=0.5)
    assert_close(normal.rotation[0], rotation_from_angles(15.0, 5.0, left), rtol=0, atol=0.01)
    assert_close(normal.points.mean(1), torch.zeros(1, 2), atol=1e-5, rtol=0)
    assert_close(normal.points.square().sum(-1).mean(-1), torch.ones(1))
    # The way back.
    turned = normal.points * normal.scale @ rotation_from_angles(roll=normal.roll)[0, :2, :2].mT
    assert_close(turned + normal.centre[:, None], pixels, rtol=0, atol=1e-2)


def test_depth_does_not_see_where_and_how_large_a_face_is():
    torch.manual_seed(2)
    net, mean = speaking(DepthNet.tiny()).float(), MeanHead.load().landmarks
    pixels = (mean @ rotation_from_angles(-20.0, 4.0, 10.0).mT)[None, :, :2] + torch.randn(1, 68, 2)
    depth = estimate_depth(net, normalise(pixels, mean), mean)
    other = normalise(3.5 * pixels + 80, mean)
    assert_close(estimate_depth(net, other, mean), depth, rtol=0, atol=2e-3)
    assert abs(depth.mean()) < 1e-5
    assert depth.std() > 0.05


def test_fixed_gauge_gives_back_the_truth_it_was_hidden_in(pair):
    points, depth, _ = pair
    ones = torch.ones_like(depth)
    hidden = -0.2 * depth + 3 * points[..., 0] + points[..., 1] - 7
    assert_close(fix_gauge(points, hidden, depth, ones), depth)
    # Of any other depth it does not see the gauge either, only the rest; points of no weight do not vote.
    expected = torch.randn(4, 68, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    assert_close(fix_gauge(points, hidden, expected, ones), fix_gauge(points, depth, expected, ones))
    weights = ones.clone()
    weights[:, :8] = 1e-9
    spoilt = torch.cat([expected[:, :8] + 50, expected[:, 8:]], 1)
    fixed, spoilt_fixed = (fix_gauge(points, hidden, e, weights) for e in (expected, spoilt))
    assert_close(fixed, spoilt_fixed, rtol=0, atol=1e-2)


def test_depth_in_pose_is_tilted_as_the_pose_says():
    """A network of any tilt: in its own frame the face is as upright as the mean face."""
    torch.manual_seed(3)
    net, mean = speaking(DepthNet.tiny()).float(), MeanHead.load().landmarks
    pixels = (mean @ rotation_from_angles(0.0, 12.0, 5.0).mT)[None, :, :2] + 0.5 * torch.randn(1, 68, 2)
    normal = normalise(pixels, mean)

    def slopes(depth: torch.Tensor) -> torch.Tensor:
        plane = torch.cat([normal.points[0], torch.ones(68, 1)], 1)
        off = depth[0] - (posed := mean @ normal.rotation[0].mT)[:, 2] / to_unit(posed[:, :2])[1]
        return torch.linalg.lstsq(plane, off[:, None]).solution[:2, 0]

    assert slopes(depth_in_pose(net, normal, mean)).abs().max() < 5e-3
    assert slopes(estimate_depth(net, normal, mean)).abs().max() > 0.02


# ---- the reconstructor ----


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(0, 0, 0), (30, 0, 0), (-30, 10, 15), (12, -20, -8)])
def test_degrees_are_degrees_and_points_stay_on_their_pixels(yaw, pitch, roll):
    mean = MeanHead.load().landmarks
    pixels = 1.7 * (mean @ rotation_from_angles(float(yaw), float(pitch), float(roll)).mT)[:, :2] + 250
    photo = read_photo(np.zeros((500, 500, 3), np.uint8))
    scene = reconstructor("depthnet")(photo, Face(pixels.numpy(), (0, 0, 1, 1)))
    assert scene.landmarks is not None
    np.testing.assert_allclose(scene.pose, (yaw, pitch, roll), atol=0.5)
    assert_close(project(scene.landmarks, scene.camera.K), pixels, rtol=0, atol=1e-2)
    size = (scene.landmarks[16] - scene.landmarks[0]).norm() * scene.scale
    assert abs(size - (mean[16] - mean[0]).norm()) < 0.1 * size
    # The whole face, not only its pose: turned back to the front it looks like the mean face, to a few per cent.
    front = (scene.landmarks - torch.tensor(scene.pivot)) @ scene.pose.rotation() * scene.scale
    assert (front - mean).square().mean().sqrt() < 7.0


def test_mirrored_photo_gives_the_mirrored_scene():
    mean = MeanHead.load().landmarks
    pixels = (2 * (mean @ rotation_from_angles(20.0, -5.0, 9.0).mT)[:, :2] + 250).numpy().astype(np.float64)
    pixels += np.random.default_rng(0).normal(0, 2, pixels.shape)
    face = Face(pixels, (0, 0, 1, 1))
    pixels_of_photo = np.random.default_rng(1).integers(0, 255, (500, 480, 3), np.uint8)
    scene = reconstructor("depthnet")(read_photo(pixels_of_photo), face)
    other = reconstructor("depthnet")(read_photo(pixels_of_photo[:, ::-1].copy()), face.mirrored(480))
    expected = scene.mirrored()
    np.testing.assert_allclose(other.pose, expected.pose, atol=0.02)
    np.testing.assert_allclose(other.pivot, expected.pivot, atol=1e-4)
    assert_close(other.landmarks, expected.landmarks, rtol=0, atol=2e-4)


def test_a_line_of_landmarks_does_not_fail_and_nan_is_refused():
    photo = read_photo(np.zeros((100, 100, 3), np.uint8))
    line = np.arange(68.0)[:, None] * [1.0, 0.5] + 10
    scene = DepthNetReconstructor(DepthNet.tiny())(photo, Face(line, (0, 0, 1, 1)))
    assert scene.landmarks is not None
    assert scene.landmarks.isfinite().all()
    with pytest.raises(ValueError, match="finite"):
        Face(line * np.nan, (0, 0, 1, 1))


def test_shipped_depth_agrees_with_real_faces(data):
    """On the faces that the recipe keeps aside: the network alone in one pass, and what a photo gets."""
    faces = real_landmarks(data)
    order = torch.randperm(len(faces), generator=torch.Generator().manual_seed(0))
    test = faces[order[: round(0.2 * len(faces))]]
    net = reconstructor("depthnet").net  # pyright: ignore[reportAttributeAccessIssue]
    scores = score(net, test[..., :2], test[..., 2])
    assert scores["photo_correlation"] > 0.99
    assert scores["network_correlation"] > 0.98
    assert scores["network_error"] < 0.12
    # A net of random weights, gauge-fixed in the same way, must do much worse, or the gauge alone makes the score.
    torch.manual_seed(0)
    untrained = score(DepthNet(), test[:100, :, :2], test[:100, :, 2])
    assert untrained["photo_correlation"] < 0.93
    assert abs(untrained["network_correlation"]) < 0.3


def test_weights_that_the_user_trained_make_the_shape(tmp_path):
    """The shipped network, written as `aboutface train` writes, gives the shipped network's scene again."""
    shipped = reconstructor("depthnet")
    net = shipped.net  # pyright: ignore[reportAttributeAccessIssue]
    mine = tmp_path / "mine.safetensors"
    settings = {"network": asdict(net.settings)}
    write_weights(mine, "depthnet", Trained(dict(net.state_dict()), {}, settings))
    mean = MeanHead.load().landmarks
    face = Face((2 * (mean @ rotation_from_angles(20.0, -5.0, 9.0).mT)[:, :2] + 250).numpy(), (0, 0, 1, 1))
    photo = read_photo(np.zeros((500, 500, 3), np.uint8))
    torch.testing.assert_close(
        reconstructor(str(mine))(photo, face).landmarks, shipped(photo, face).landmarks, rtol=0, atol=0
    )
    write_weights(mine, "aign", Trained(dict(net.state_dict()), {}, settings))
    with pytest.raises(UsageError, match="weights of 'aign'"):
        reconstructor(str(mine))
    write_weights(mine, "depthnet", Trained({"x": torch.zeros(1)}, {}, settings))
    with pytest.raises(UsageError, match="no weights of depthnet"):
        reconstructor(str(mine))
    mine.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot be read as weights"):
        reconstructor(str(mine))
    with pytest.raises(UsageError, match="cannot be read as weights"):
        reconstructor(str(tmp_path / "absent.safetensors"))
