"""Several photos of one person: one identity, whatever their order, and nearer to the truth than of one photo."""

import numpy as np
import pytest
import torch
from torch import nn

from aboutface.errors import UsageError
from aboutface.face import MIRROR_68, Face
from aboutface.images import read_photo
from aboutface.nn.resnet import Stages
from aboutface.reconstruct import PERSON_METHODS, RECONSTRUCTORS, PersonReconstructor, Together
from aboutface.reconstruct.deep3d import combine_identity
from aboutface.reconstruct.deep3d_frame import MILLIMETRES_PER_UNIT
from aboutface.reconstruct.deep3d_landmarks import FaceRegressor, SetConfidence
from aboutface.reconstruct.deep3d_photo import Deep3dReconstructor
from aboutface.reconstruct.morphable_fit import LandmarkSettings
from aboutface.reconstruct.morphable_photo import MorphableReconstructor
from aboutface.reconstruct.morphable_refine import RefineSettings
from ellipsoid_face import DISTANCE, SIZE, K, posed, seen, toy
from ellipsoid_ict import ict, mean_landmarks, net_of

TRUE = torch.tensor([0.9, -1.2, 0.5, 1.0, -0.6, 0.4])
IDENTITY = torch.tensor([[0.8, -1.1, 1.6, 1.2, -0.5, -0.9, 0.7, 0.0]])
YAWS = (-35.0, 5.0, 30.0)


def face_at(landmarks: np.ndarray) -> Face:
    return Face(landmarks, (*landmarks.min(0).tolist(), *landmarks.max(0).tolist()))


def part(together: Together, i: int, name: str) -> torch.Tensor:
    morphable = together.scenes[i].morphable
    assert morphable is not None
    return morphable.coefficients[name]


class Watcher(nn.Module):
    """A trunk that sees how bright a picture is, and how red."""

    features, early_features = 12, 4

    def stages(self, images):
        pooled = torch.zeros(len(images), 12)
        pooled[:, 0] = (images.mean((1, 2, 3)) - 0.5).round(decimals=3)
        pooled[:, 1] = (images[:, 0] - images[:, 2]).mean((1, 2))
        return Stages(torch.zeros(len(images), 4, 8, 8), pooled)

    def forward(self, images):
        return self.stages(images).pooled


@pytest.fixture(scope="module")
def watching() -> FaceRegressor:
    """Its identity is the true one in grey of 0.5, and errs with the brightness; red ones have another expression."""
    net = net_of(ict(), id=TRUE, gamma=torch.full((27,), 0.02))
    net.rnet.backbone = Watcher()  # pyright: ignore[reportAttributeAccessIssue]
    heads = [head.weight for head in net.rnet.final_layers if isinstance(head, nn.Conv2d)]
    with torch.no_grad():
        heads[0][:, 0, 0, 0] = 4.0
        heads[1][:, 1, 0, 0] = 1.0
    return net


def pictures(levels) -> tuple[list, list]:
    """Grey photos, each with another tint, and a face in each, at another place."""
    photos, faces = [], []
    for i, level in enumerate(levels):
        pixels = np.full((240, 260, 3), round(255 * level), np.uint8) + np.array([4 * i, 0, -4 * i])
        photos.append(read_photo(pixels.clip(0, 255).astype(np.uint8)))
        faces.append(face_at(mean_landmarks(ict(), 0.8, (20.0 + 5 * i, 20.0))))
    return photos, faces


LEVELS = (0.3, 0.42, 0.7)


def test_deep3d_shares_the_identity_and_nothing_else(watching):
    made, (photos, faces) = Deep3dReconstructor(watching, ict()), pictures(LEVELS)
    together = made.together(photos, faces)
    alone = [Together((made(photo, face),), (1.0,), "") for photo, face in zip(photos, faces, strict=True)]
    singles = torch.stack([part(one, 0, "id") for one in alone])
    assert float(singles.std(0).min()) > 0.3
    for i, one in enumerate(alone):
        assert float((part(together, i, "id") - combine_identity(singles)).abs().max()) < 1e-6
        for name in ("exp", "angle", "trans"):
            assert torch.allclose(part(together, i, name), part(one, 0, name), atol=1e-6)
        assert together.scenes[i].camera.K.equal(one.scenes[0].camera.K)
        # Of the shape at rest only the identity is new, and it is drawn.
        faced = together.scenes[i].morphable
        assert faced is not None
        before = one.scenes[0].morphable
        assert before is not None
        change = part(together, i, "id") - part(one, 0, "id")
        shift = torch.tensordot(change, ict().part("front").identity[:6], 1)
        assert torch.allclose((faced.shape - before.shape) * MILLIMETRES_PER_UNIT, shift, atol=1e-3)
        # Landmarks stay where the photo has them.
        assert one.scenes[0].landmarks is not None
        rays = (together.scenes[i].landmarks / together.scenes[i].landmarks[:, 2:])[:, :2]  # pyright: ignore
        assert torch.allclose(rays, (one.scenes[0].landmarks / one.scenes[0].landmarks[:, 2:])[:, :2], atol=1e-4)
    assert float((part(together, 0, "exp") - part(together, 2, "exp")).abs().max()) > 1e-3
    assert together.shares == (pytest.approx(1 / 3),) * 3
    assert (together.rule, together.weights) == ("plain mean", None)
    errors = (singles - TRUE).abs().mean(1)
    assert float((part(together, 0, "id") - TRUE).abs().mean()) < float(errors.min())


def test_deep3d_trusts_photos_by_confidence(watching):
    confidence = SetConfidence(watching, 6, 5)
    with torch.no_grad():
        # Dark photos, which are wrong here, are hardly believed.
        confidence.cnet.hidden.weight.zero_()
        confidence.cnet.hidden.bias.zero_()
        confidence.cnet.hidden.weight[0, 6] = -100.0
        confidence.cnet.last.weight[:, 0] = -1.0
    photos, faces = pictures((0.2, 0.5, 0.5))
    plain = Deep3dReconstructor(watching, ict()).together(photos, faces)
    weighted = Deep3dReconstructor(watching, ict(), confidence).together(photos, faces)
    assert weighted.shares[0] < 0.01
    assert sum(weighted.shares) == pytest.approx(1.0)
    assert "confidence" in weighted.rule
    assert float((part(plain, 0, "id") - TRUE).abs().max()) > 0.3
    assert float((part(weighted, 0, "id") - TRUE).abs().max()) < 0.05


@pytest.fixture(scope="module")
def turned():
    """Grey photos of one made face in several poses, with landmarks that err by 3 mm; the method, and what it says."""
    model, faces = toy(), []
    noise = torch.Generator().manual_seed(3)
    for i, yaw in enumerate(YAWS):
        vertices = posed(model.vertices(IDENTITY)[0], yaw, 3.0 * i, -2.0)
        error = torch.randn(68, 2, generator=noise).double() * 3.0 * float(K[0, 0]) / DISTANCE
        faces.append(face_at((seen(model, vertices) + error).numpy()))
    photos = [read_photo(np.full((SIZE, SIZE, 3), 110 + 10 * i, np.uint8)) for i in range(len(YAWS))]
    settings = LandmarkSettings(noise=3.0, outline=False)
    made = MorphableReconstructor(model, settings, RefineSettings(sizes=(32,), steps=(4,)))
    return photos, faces, made, made.together(photos, faces)


def test_the_joint_fit_is_nearer_to_the_truth(turned):
    photos, faces, made, together = turned
    alone = [Together((made(photo, face),), (1.0,), "") for photo, face in zip(photos, faces, strict=True)]
    errors = [float((part(one, 0, "id") - IDENTITY[0]).square().mean().sqrt()) for one in alone]
    joint = float((part(together, 0, "id") - IDENTITY[0]).square().mean().sqrt())
    assert joint < min(errors)
    assert joint < 0.8 * float(np.mean(errors))
    for i, (scene, yaw) in enumerate(zip(together.scenes, YAWS, strict=True)):
        assert part(together, i, "id").equal(part(together, 0, "id"))
        assert scene.pose.yaw == pytest.approx(yaw, abs=4.0)
        assert scene.pose.pitch == pytest.approx(3.0 * i, abs=4.0)
    assert sum(together.shares) == pytest.approx(1.0)
    assert min(together.shares) > 0.25


@pytest.mark.parametrize("method", ["deep3d", "morphable"])
def test_the_order_does_not_matter(method, turned, watching):
    if method == "deep3d":
        (photos, faces), made = pictures(LEVELS), Deep3dReconstructor(watching, ict())
        first = made.together(photos, faces)
    else:
        photos, faces, made, first = turned
    order = [2, 0, 1]
    second = made.together([photos[i] for i in order], [faces[i] for i in order])
    for place, i in enumerate(order):
        assert float((part(second, place, "id") - part(first, i, "id")).abs().max()) < 1e-6
        assert torch.allclose(part(second, place, "angle"), part(first, i, "angle"), atol=1e-5)
        assert second.shares[place] == pytest.approx(first.shares[i], abs=1e-6)


def test_methods_that_can_say_so(turned, watching):
    assert set(PERSON_METHODS) <= {"deep3d", "morphable"}
    assert "morphable" in PERSON_METHODS
    for name, method in RECONSTRUCTORS.items():
        assert issubclass(method, PersonReconstructor) == (name in PERSON_METHODS)
    photos, faces, made, _ = turned
    swapped = face_at(faces[1].landmarks[MIRROR_68])
    with pytest.raises(UsageError, match="left and right are swapped in photo 2 of 3"):
        made.together(photos, [faces[0], swapped, *faces[2:]])
    marks = mean_landmarks(ict())
    with pytest.raises(UsageError, match="left and right are swapped in photo 2 of 2"):
        Deep3dReconstructor(watching, ict()).together(photos[:2], [face_at(marks), face_at(marks[MIRROR_68])])
