"""DepthNet against what its paper and its mathematics say, and against faces whose depth is known."""

import json
import tarfile

import numpy as np
import pytest
import torch

from aboutface.errors import UsageError
from aboutface.face import MIRROR_68, Face
from aboutface.geometry import affine_2d_from_3d, project, rotation_from_angles
from aboutface.images import read_photo
from aboutface.morphable import MeanHead
from aboutface.recipes import train
from aboutface.recipes.depthnet import DepthNetTraining, score, train_depthnet
from aboutface.recipes.mean_head import real_landmarks
from aboutface.reconstruct import reconstructor
from aboutface.reconstruct.depthnet import (
    DepthNet,
    Normalised,
    depthnet_loss,
    estimate_depth,
    fix_gauge,
    mirror,
    normalise,
)


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    make = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return make(4, 68, 2), make(4, 68), make(3, 68, 2)


def test_loss_is_what_the_closed_form_affines_leave(pair):
    source, depth, targets = pair
    slow = torch.stack(
        [
            (affine_2d_from_3d(torch.cat([s, z[:, None]], -1), t)[1] - t).square().mean()
            for s, z in zip(source, depth, strict=True)
            for t in targets
        ]
    ).mean()
    torch.testing.assert_close(depthnet_loss(source, depth, targets), slow, rtol=1e-6, atol=0)


def test_detaching_the_affine_changes_no_gradient(pair):
    source, depth, targets = pair
    depth = depth.requires_grad_()
    (through,) = torch.autograd.grad(depthnet_loss(source, depth, targets), depth)
    losses = []
    for s, z in zip(source, depth, strict=True):
        lifted = torch.cat([s, z[:, None]], -1)
        for t in targets:
            matrix, _ = affine_2d_from_3d(lifted.detach(), t)
            losses.append((lifted @ matrix[:, :3].mT + matrix[:, 3] - t).square().mean())
    (detached,) = torch.autograd.grad(torch.stack(losses).mean(), depth)
    torch.testing.assert_close(through, detached, rtol=1e-6, atol=1e-9)


def test_loss_and_fixed_depth_do_not_see_the_gauge(pair):
    source, depth, targets = pair
    regauged = -2.5 * depth + 0.7 * source[..., 0] - 1.3 * source[..., 1] + 4.0
    torch.testing.assert_close(depthnet_loss(source, regauged, targets), depthnet_loss(source, depth, targets))
    expected = torch.randn(4, 68, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(fix_gauge(source, regauged, expected), fix_gauge(source, depth, expected))


def test_fixed_gauge_gives_back_the_truth_it_was_hidden_in(pair):
    source, depth, _ = pair
    hidden = -0.2 * depth + 3 * source[..., 0] + source[..., 1] - 7
    torch.testing.assert_close(fix_gauge(source, hidden, depth), depth)


def test_one_pair_is_overfitted_down_to_its_floor_and_not_below(pair):
    source, _, targets = pair
    source, target = source[:1], targets[:1]
    plane = torch.cat([source, torch.ones_like(source[..., :1])], -1)[0]
    basis, _ = torch.linalg.qr(plane)
    residual = target[0] - basis @ (basis.mT @ target[0])
    floor = torch.linalg.svdvals(residual)[1].square() / (2 * 68)
    torch.manual_seed(0)
    net = DepthNet.tiny().double()
    optimiser = torch.optim.Adam(net.parameters(), 0.05)
    for _ in range(400):
        loss = depthnet_loss(source, net(source, target), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert floor * (1 - 1e-9) <= loss.detach() <= floor * 1.001


def test_mirrored_keypoints_give_mirrored_depth():
    torch.manual_seed(1)
    net, mean = DepthNet.tiny(), MeanHead.load().landmarks
    last = net.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.normal_(last.weight)
    pixels = (mean @ rotation_from_angles(yaw=25.0, pitch=8.0, roll=-12.0).mT)[None, :, :2] + torch.randn(1, 68, 2)
    mirrored = mirror(pixels) + torch.tensor([300.0, 0.0])
    depth = estimate_depth(net, normalise(pixels, mean), mean)
    depth_mirrored = estimate_depth(net, normalise(mirrored, mean), mean)
    torch.testing.assert_close(depth_mirrored[:, MIRROR_68], depth, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(0, 0, 0), (30, 0, 0), (-30, 10, 15), (12, -20, -8)])
def test_degrees_are_degrees_and_points_stay_on_their_pixels(yaw, pitch, roll):
    mean = MeanHead.load().landmarks
    pixels = 1.7 * (mean @ rotation_from_angles(float(yaw), float(pitch), float(roll)).mT)[:, :2] + 250
    photo = read_photo(np.zeros((500, 500, 3), np.uint8))
    scene = reconstructor("depthnet")(photo, Face(pixels.numpy(), (0, 0, 1, 1)))
    assert scene.landmarks is not None
    np.testing.assert_allclose(scene.pose, (yaw, pitch, roll), atol=0.5)
    torch.testing.assert_close(project(scene.landmarks, scene.camera.K), pixels, rtol=0, atol=1e-2)
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
    torch.testing.assert_close(other.landmarks, expected.landmarks, rtol=0, atol=2e-4)


def test_shipped_depth_agrees_with_real_faces(data):
    mean = MeanHead.load().landmarks
    net = reconstructor("depthnet").net  # pyright: ignore[reportAttributeAccessIssue]
    faces = real_landmarks(data)
    order = torch.randperm(len(faces), generator=torch.Generator().manual_seed(0))
    scores = score(net, faces[order[: DepthNetTraining.test_faces]], mean)
    assert scores["depthnet_correlation_mean"] > 0.99
    # A net of random weights, gauge-fixed in the same way, must do much worse, or the gauge alone makes the score.
    torch.manual_seed(0)
    untrained = score(DepthNet(), faces[order[:100]], mean)
    assert untrained["depthnet_correlation_mean"] < 0.93


def test_normalised_points_are_upright_centred_and_of_unit_size():
    mean = MeanHead.load().landmarks
    pixels = (3 * (mean @ rotation_from_angles(15.0, 5.0, 40.0).mT)[None, :, :2]) + 100
    normal: Normalised = normalise(pixels, mean)
    assert abs(float(normal.roll) - 40) < 0.5
    torch.testing.assert_close(normal.points.mean(1), torch.zeros(1, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.points.square().sum(-1).mean(-1), torch.ones(1))


def small_data(folder):
    """A data folder with the two landmark files, made of the turned mean face."""
    generator = torch.Generator().manual_seed(0)
    mean = MeanHead.load().landmarks
    yaw = torch.rand(60, generator=generator) * 80 - 40
    points = mean @ rotation_from_angles(yaw).mT * 2 + torch.randn(60, 68, 3, generator=generator) + 200
    np.savez(folder / "aflw2000-3d-landmarks.npz", points=(points * torch.tensor([1, 1, -1])).numpy(), yaw_deg=-yaw)
    with tarfile.open(folder / "ytf68-train.tar", "w") as tar:
        for i, face in enumerate(points[:20, :, :2].tolist()):
            path = folder / f"{i}.json"
            path.write_text(json.dumps({"identity": "a", "landmarks68": face}))
            tar.add(path, path.name)
    return folder


def test_training_lowers_the_error_of_the_depth(tmp_path):
    lines: list[str] = []
    folder = small_data(tmp_path)
    before = train_depthnet(folder, DepthNetTraining(steps=0, test_faces=20), log=lines.append)[1]
    after = train_depthnet(folder, DepthNetTraining(steps=1000, test_faces=20), log=lines.append)[1]
    assert after["depthnet_error_mean"] < 0.5 * before["depthnet_error_mean"]
    assert any("loss" in line for line in lines)


def test_training_says_what_is_missing(tmp_path):
    with pytest.raises(UsageError, match=r"aflw2000-3d-landmarks\.npz is missing"):
        train("depthnet", tmp_path, tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="unknown method"):
        train("nonsense", tmp_path)
    assert not (tmp_path / "x.safetensors").exists()
