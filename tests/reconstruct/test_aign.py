"""AIGN: its heat-maps, its camera, and that it learns depth from a critic that never saw that depth."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from aboutface.fit import FitSettings
from aboutface.geometry import rotation_from_angles
from aboutface.metrics import centred, correlation, similarity_score
from aboutface.morphable import MeanHead
from aboutface.recipes.aign import AIGNTask, AIGNTraining, mirror, train_aign, unpaired
from aboutface.reconstruct.aign import AIGN, AIGNSettings, Unit, heat_maps

TINY = AIGNTraining(network=AIGN.tiny().settings)
INSIDE_OUT = torch.tensor([1.0, 1.0, -1.0])


def heads(count, seed=0):
    """(count, 68, 3): slightly different people in many poses, as seen without perspective, somewhere in a photo."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.randn(3, count, generator=generator) * torch.tensor([[25.0], [10.0], [10.0]])
    shapes = MeanHead.load().landmarks + torch.randn(count, 68, 3, generator=generator)
    return shapes @ rotation_from_angles(*turn).mT + 30 * torch.randn(count, 1, 3, generator=generator)


@pytest.fixture
def net():
    """Untrained, but all of its heads speak: at the start they say next to nothing."""
    torch.manual_seed(0)
    net = AIGN.tiny().eval()
    with torch.no_grad():
        net.heads.weight.mul_(10)
    return net


def test_parameters_are_those_of_the_released_code():
    assert sum(p.numel() for p in AIGN(AIGNSettings(points=66)).parameters()) == 9_720_253


def test_maps_have_the_sum_and_the_centre_of_their_keypoint():
    pixels = 5 + 10 * torch.rand(3, 7, 2, dtype=torch.float64)
    maps = heat_maps(pixels, 20)
    assert maps.shape == (3, 7, 20, 20)
    assert_close(maps.sum((-2, -1)), torch.ones(3, 7).double())
    centres = torch.arange(20).double() + 0.5
    x, y = (maps.sum(-2) * centres).sum(-1), (maps.sum(-1) * centres).sum(-1)
    assert_close(torch.stack([x, y], -1), pixels, atol=1e-4, rtol=0)


def test_maps_match_the_obvious_loop():
    pixels = torch.tensor([[[3.2, 4.9], [0.1, 7.5]]], dtype=torch.float64)
    maps = heat_maps(pixels, 8)
    for k, (x, y) in enumerate(pixels[0].tolist()):
        square = [[((column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2) for column in range(8)] for row in range(8)]
        slow = torch.exp(-torch.tensor(square, dtype=torch.float64) / 2)
        assert_close(maps[0, k], slow / slow.sum())


def test_no_keypoint_vanishes():
    pixels = torch.tensor([[[0.0, 0.0], [8.0, 3.0], [-40.0, 3.0], [4.0, 900.0]]])
    maps = heat_maps(pixels, 8)
    assert_close(maps.sum((-2, -1)), torch.ones(1, 4))
    brightest = [divmod(int(m.argmax()), 8) for m in maps[0]]
    assert brightest[0] == (0, 0)
    assert brightest[1][1] == 7
    assert brightest[2][1] == 0
    assert brightest[3][0] == 7


def test_a_unit_is_centred_sized_and_can_be_put_back():
    faces = heads(5)
    for points in (faces, faces[..., :2]):
        unit = Unit.of(points)
        assert_close(unit.points.mean(1), torch.zeros(5, points.shape[-1]), atol=1e-6, rtol=0)
        assert_close(unit.points[..., :2].square().sum(-1).mean(1), torch.ones(5))
        assert_close(unit.points * unit.size + unit.centre, points, rtol=1e-4, atol=1e-4)
    assert_close(Unit.of(faces).points[..., :2], Unit.of(faces[..., :2]).points)


def test_shapes_are_posed_by_real_rotations_and_projected_along_z(net):
    seen = net(Unit.of(heads(6)[..., :2]).points)
    identity = torch.eye(3).expand(6, 3, 3)
    assert_close(seen.rotation @ seen.rotation.mT, identity, atol=1e-5, rtol=0)
    assert_close(torch.linalg.det(seen.rotation), torch.ones(6))
    assert (seen.rotation - identity).abs().amax() > 0.05
    moved = seen.points - (seen.rotation @ seen.shape.mT).mT
    assert_close(moved, moved[:, :1].expand(-1, 68, -1), atol=1e-5, rtol=0)
    assert (seen.focal > 0).all()
    expected = [seen.focal[..., a] * seen.points[..., a] + seen.centre[..., a] for a in (0, 1)]
    assert_close(seen.reprojected, torch.stack(expected, -1))


def test_every_weight_gets_a_gradient(net):
    """Points alone teach shape and pose; the reprojection also the camera. None may be NaN."""
    seen = net.train()(Unit.of(heads(6)[..., :2]).points)
    (seen.reprojected.square().mean() + seen.points.pow(3).mean()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert net.heads.bias.grad.ne(0).all()


def test_estimates_move_and_grow_with_their_keypoints(net):
    pixels = heads(4)[..., :2]
    points = net.estimate(pixels)
    assert points.shape == (4, 68, 3)
    assert_close(points[..., 2].mean(1), torch.zeros(4), atol=1e-4, rtol=0)
    shift = torch.tensor([300.0, -20.0])
    expected = 3 * points + torch.tensor([300.0, -20.0, 0.0])
    assert_close(net.estimate(3 * pixels + shift), expected, rtol=1e-3, atol=0.02)


def test_estimates_without_depth_are_the_reprojection(net):
    unit = Unit.of(heads(4)[..., :2])
    xy = net.estimate(heads(4)[..., :2])[..., :2]
    assert_close(xy, net(unit.points).reprojected * unit.size + unit.centre)


def test_estimates_are_finite_and_of_the_type_given(net):
    pixels = heads(3)[..., :2].double()
    pixels[0] = 40.0
    points = net.estimate(pixels)
    assert points.dtype == torch.float64
    assert points.isfinite().all()
    assert_close(points[0, :, 2], torch.zeros(68).double())


def test_other_keypoints_are_refused():
    with pytest.raises(ValueError, match=r"expected \(B, 68, 2\), got \(2, 66, 2\)"):
        AIGN.tiny()(torch.zeros(2, 66, 2))
    with pytest.raises(ValueError, match=r"expected \(4 or more, 68, 3\), got \(3, 68, 3\)"):
        train_aign(heads(3), TINY)


@pytest.mark.parametrize("count", [10, 11])
def test_no_face_gives_both_its_keypoints_and_its_depth(count):
    faces = heads(count)
    sets = unpaired(faces)
    assert [len(s) for s in sets.values()] == [10, 10], "5 faces and their mirror images in each half"
    units = Unit.of(faces).points
    images = torch.cat([units, mirror(units)])[..., :2].flatten(1)
    person = {
        name: set((torch.cdist(points[..., :2].flatten(1), images).argmin(1) % count).tolist())
        for name, points in sets.items()
    }
    assert len(person["keypoints"]) == len(person["shapes"]) == 5
    assert not person["keypoints"] & person["shapes"]
    assert not torch.equal(unpaired(faces, 1)["shapes"], sets["shapes"])


def test_a_mirrored_face_is_the_face_of_the_mirrored_head():
    mean = MeanHead.load().landmarks
    left, right = (mean @ rotation_from_angles(yaw, 5.0, 10 * s).mT for yaw, s in ((20.0, 1), (-20.0, -1)))
    assert_close(mirror(left), right, atol=1e-3, rtol=0)
    assert_close(mirror(mirror(left)), left)


def test_phases_move_their_own_side():
    torch.manual_seed(0)
    task = AIGNTask(TINY)
    phases = task.phases()
    assert list(phases) == ["generator", "critic", "penalty"]
    batch = {name: points[:8] for name, points in unpaired(heads(16)).items()}
    sides = {"generator": task.net, "critic": task.critic, "penalty": task.critic}
    for name, phase in phases.items():
        assert {id(p) for p in phase.parameters} == {id(p) for p in sides[name].parameters()}
        loss, _ = task.loss(name, batch, 0)
        gradients = torch.autograd.grad(loss, phase.parameters, allow_unused=True)
        assert any(g is not None and g.abs().sum() > 0 for g in gradients), name
    loss, _ = task.loss("critic", batch, 0)
    unused = torch.autograd.grad(loss, list(task.net.parameters()), allow_unused=True)
    assert all(g is None for g in unused), "the critic's step must not go through the generator"


def test_weights_of_the_losses_count():
    torch.manual_seed(0)
    batch = {name: points[:8] for name, points in unpaired(heads(16)).items()}
    task = AIGNTask(TINY)
    task.net.eval()
    loss, terms = task.loss("generator", batch, 0)
    assert_close(loss, terms["adversarial"] + 10 * terms["reprojection"])
    seen = task.net(batch["keypoints"])
    assert_close(terms["reprojection"], (seen.reprojected - batch["keypoints"]).abs().mean())
    assert_close(terms["adversarial"], -task.critic(seen.points).mean())
    once, _ = task.loss("penalty", batch, 0)
    task.settings = replace(TINY, penalty=3.0)
    thrice, _ = task.loss("penalty", batch, 0)
    assert_close(thrice, 3 * once)


def test_depth_is_what_the_shown_faces_say():
    """A critic that was shown hollow masks makes faces hollow: nothing but the critic knows which way is in front.

    Keypoints do not tell the two apart, and no depth of the faces that give keypoints is ever shown.
    """
    settings = FitSettings(steps=240, ema=0.97, log_every=240, device="cpu")
    net = train_aign(heads(400) * INSIDE_OUT, replace(TINY, batch=16, fit=settings), log=lambda _: None)
    test = heads(100, seed=1) * INSIDE_OUT
    depth, truth = net.estimate(test[..., :2])[..., 2], centred(test[..., 2])
    # Within a face: one depth for all would reach 0.69 in nine of ten, a net without a critic -0.59.
    assert similarity_score(depth, truth).correlation.quantile(0.1) > 0.8
    # Across faces, with its sign: one depth for all has none.
    assert correlation(depth, truth, 0).mean() > 0.5


def test_training_repeats_itself():
    training = replace(TINY, fit=FitSettings(steps=3, ema=0.99, log_every=3, device="cpu"))
    nets = [train_aign(heads(12), training, log=lambda _: None) for _ in range(2)]
    assert not nets[0].training
    for first, second in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True):
        assert torch.equal(first, second)
