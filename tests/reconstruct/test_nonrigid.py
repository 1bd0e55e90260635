"""The deformable face from 2D keypoints alone, on faces whose depth is known."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from aboutface.geometry import MIRROR_68, rotation_from_angles
from aboutface.metrics import centred, depth_corr
from aboutface.morphable import MeanHead
from aboutface.recipes.depthnet import gauge_depth
from aboutface.reconstruct.depthnet import mirror
from aboutface.reconstruct.landmark_baselines import Factorisation
from aboutface.reconstruct.nonrigid import NonRigidShape


def people(count: int, seed: int = 0, noise: float = 0.5) -> torch.Tensor:
    """(count, 68, 3): heads of different breadth, jaw and nose within 60 degrees, of any size, somewhere in a photo."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mean = MeanHead.load().landmarks.double()
    x, y, z = (mean / mean.abs().amax()).unbind(-1)
    fields = [(x * y, 0 * y, x**2), (0 * x, y**2, y**2), (0 * x, 0 * y, z**2)]
    basis = torch.stack([torch.stack(field, -1) for field in fields])
    shapes = mean + 7 * (normal(count, 3) @ basis.flatten(1)).unflatten(1, mean.shape)
    yaw = 120 * torch.rand(count, generator=generator, dtype=torch.float64) - 60
    turned = shapes @ rotation_from_angles(yaw, 10 * normal(count), 10 * normal(count)).mT
    size = 1 + torch.rand(count, 1, 1, generator=generator, dtype=torch.float64)
    faces = size * turned + 100 * normal(count, 1, 3)
    faces[..., :2] += noise * normal(count, 68, 2)
    return faces


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    return people(300)


@pytest.fixture(scope="module")
def shape(faces) -> NonRigidShape:
    return NonRigidShape.fit(faces[..., :2], rounds=15)


def within(guess: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Correlation of depth within each face: its sign counts."""
    return torch.cosine_similarity(centred(guess), centred(truth), dim=1)


def error(guess: torch.Tensor, truth: torch.Tensor) -> float:
    return float((centred(guess) - centred(truth)).square().mean().sqrt())


def test_depth_is_found_with_its_sign_and_size(faces, shape):
    depth = shape.depth(faces[..., :2])
    correlation = within(depth, faces[..., 2])
    assert correlation.mean() > 0.998
    assert correlation.min() > 0.98
    # In pixels: no scale has been fitted to the truth.
    assert error(depth, faces[..., 2]) < 0.1 * centred(faces[..., 2]).square().mean().sqrt()


def test_faces_that_were_not_fitted_have_depth_too(shape):
    others = people(60, seed=7)
    assert within(shape.depth(others[..., :2]), others[..., 2]).mean() > 0.99


def test_deformations_beat_the_rigid_mean(faces, shape):
    rigid = Factorisation(faces[..., :2]).mean.posed(faces[..., :2])[..., 2]
    assert error(shape.depth(faces[..., :2]), faces[..., 2]) < 0.9 * error(rigid, faces[..., 2])


def test_what_it_cannot_explain_is_the_noise():
    """Two coordinates of each keypoint carry noise of 0.5 pixels at a face of known size."""
    variances = [NonRigidShape.fit(people(300, noise=noise)[..., :2], rounds=15).variance for noise in (0.5, 2.0)]
    faces = people(300)
    size = (faces - faces.mean(1, keepdim=True))[..., :2].square().sum(-1).mean(-1)
    expected = [float((noise**2 / size).mean()) for noise in (0.5, 2.0)]
    assert variances[0] == pytest.approx(expected[0], rel=0.3)
    assert variances[1] == pytest.approx(expected[1], rel=0.3)


def test_depth_follows_size_and_ignores_place(faces, shape):
    points = faces[:20, :, :2]
    depth = shape.depth(points)
    assert_close(shape.depth(2.5 * points - 300), 2.5 * depth, rtol=1e-6, atol=1e-6)
    assert_close(depth.mean(1), torch.zeros(20).double(), rtol=0, atol=1e-9)


def test_depth_has_the_type_of_the_keypoints(faces, shape):
    depth = shape.depth(faces[:5, :, :2].float())
    assert depth.dtype == torch.float32
    assert_close(depth.double(), shape.depth(faces[:5, :, :2]), rtol=0, atol=0.05)


def test_a_face_does_not_depend_on_the_others_it_is_asked_with(faces, shape):
    points = faces[:8, :, :2]
    assert_close(shape.depth(points)[3:4], shape.depth(points[3:4]))


def test_the_same_seed_gives_the_same_shape(faces, shape):
    again = NonRigidShape.fit(faces[..., :2], rounds=15)
    assert torch.equal(again.mean, shape.mean)
    assert torch.equal(again.basis, shape.basis)
    other = NonRigidShape.fit(faces[..., :2], rounds=15, seed=1)
    assert not torch.equal(other.basis, shape.basis)
    # Another start, nearly the same faces.
    points = faces[:40, :, :2]
    assert within(other.depth(points), shape.depth(points)).min() > 0.99


def test_mirrored_faces_have_mirrored_depth(faces):
    points = faces[:150, :, :2]
    depth = gauge_depth(points)
    assert within(depth, faces[:150, :, 2]).mean() > 0.99
    mirrored = gauge_depth(mirror(points))
    assert within(mirrored[:, MIRROR_68], depth).min() > 0.99
    # Without the exchange of left and right it is another depth: the test above is no accident of symmetric faces.
    assert within(mirrored, depth).min() < 0.5


def test_faces_of_other_numbers_of_keypoints(faces):
    """Nothing but the nose and the jaw's ends needs to be the 68's."""
    some = faces[:, :48]
    shape = NonRigidShape.fit(some[..., :2], rounds=10)
    assert within(shape.depth(some[..., :2]), some[..., 2]).mean() > 0.98


@pytest.mark.parametrize("kind", ["line", "point"])
def test_faces_without_a_face_stay_finite(shape, kind):
    points = torch.arange(68).double()[:, None] * torch.tensor([1.0, 0.5]).double()
    points = points[None] if kind == "line" else torch.ones(1, 68, 2).double()
    assert shape.depth(points).isfinite().all()


def test_real_faces_of_every_pose(data):
    """No label is used: per keypoint, DepthCorr is what tables call 0.85 of 68."""
    file = np.load(data / "aflw2000-3d-landmarks.npz")
    yaw = torch.from_numpy(file["yaw_deg"])
    points = torch.from_numpy(file["points"])[yaw.abs() <= 90].double()
    yaw = yaw[yaw.abs() <= 90]
    depth = NonRigidShape.fit(points[..., :2], rounds=10).depth(points[..., :2], rounds=8)
    truth = -points[..., 2]  # the file's z points towards the camera
    for chosen in (yaw < -30, yaw.abs() < 10, yaw > 30):
        assert depth_corr(centred(depth[chosen]), centred(truth[chosen])) > 0.85 * 68
        assert within(depth[chosen], truth[chosen]).median() > 0.98
