"""Fits to landmarks: known faces come back, mirrored ones mirrored; outlines, priors, wrong and few landmarks."""

import math
from dataclasses import replace

import pytest
import torch

from aboutface.errors import UsageError
from aboutface.face import MIRROR_68
from aboutface.geometry import angles_from_rotation, project, rotation_from_angles
from aboutface.morphable import ICT_FILE, MorphableModel
from aboutface.reconstruct.morphable_fit import LandmarkFitter, LandmarkSettings, _Problem, turned_by
from ellipsoid_face import DISTANCE, SIZE, K, posed, seen, toy

EXACT = LandmarkSettings(noise=0.02, outline=False)
IDENTITY = torch.tensor([[0.8, -1.1, 0.6, 1.2, -0.5, -0.9, 0.7, 1.0]])


def angles(rotation: torch.Tensor) -> torch.Tensor:
    return torch.stack(angles_from_rotation(rotation))


@pytest.mark.parametrize("kind", ["gaussian", "weights"])
@pytest.mark.parametrize("pose", [(0.0, 0.0, 0.0), (25.0, -10.0, 8.0), (-50.0, 12.0, -20.0)])
def test_a_known_face_comes_back(kind, pose):
    """Landmarks without noise: pose to 0.1 degree, rays to 0.1 mm, and the face that the landmarks do not show too."""
    model = toy(kind)
    expression = torch.tensor([[0.6, 0.2, 0.0, 0.0, 0.4, 0.4]])
    vertices = posed(model.vertices(IDENTITY, expression)[0], *pose)
    pixels = seen(model, vertices)
    fit = LandmarkFitter(model)(pixels, K, EXACT)
    off = (project(fit.points[0], K) - pixels) * DISTANCE / K[0, 0]
    assert float(off.square().sum(-1).mean().sqrt()) < 0.1
    assert torch.allclose(angles(fit.rotation[0]), torch.tensor(pose, dtype=torch.float64), atol=0.1)
    scale = DISTANCE / float(fit.translation[0, 2])
    # One photo does not tell size from distance: only the ratio is known, and little of it by perspective.
    apart = (fit.vertices(model)[0].double() * scale - vertices).norm(dim=1)
    assert float(apart.median()) < 0.6
    assert fit.trust.min() > 0.9


def test_slopes_are_those_of_the_cost():
    model = toy("weights")
    fitter = LandmarkFitter(model)
    vertices = posed(model.vertices(IDENTITY)[0], 35.0, 5.0, 3.0)
    pixels = seen(model, vertices)[None] + torch.randn(1, 68, 2, generator=torch.Generator().manual_seed(0)).double()
    settings = LandmarkSettings(noise=1.0)
    problem = _Problem(fitter, pixels, K[None], torch.ones(1, 68).double(), settings)
    generator = torch.Generator().manual_seed(1)
    state = fitter._start(pixels, K[None], problem.weights)
    count = 8 + 6 + 6
    state = state.moved(0.1 * torch.randn(count, generator=generator).double())._replace(
        expression=torch.rand(1, 6, generator=generator).double()
    )
    targets, scale = problem.targets(state), torch.tensor([4.0], dtype=torch.float64)
    assert targets[0].match is not None
    _, gradient, _ = problem.system(state, targets, scale, 5.0)
    for number in range(count):
        step = torch.zeros(count, dtype=torch.float64)
        step[number] = 1e-5
        up, down = (problem.cost(state.moved(sign * step), targets, scale, 5.0) for sign in (1, -1))
        assert (up - down) / 2e-5 == pytest.approx(float(gradient[number]), rel=1e-4, abs=1e-3)


def test_a_turn_is_the_rotation_about_its_axis():
    turn = torch.tensor([[0.0, 0.3, 0.0], [0.0, 0.0, 0.0], [0.2, -0.1, 0.4]], dtype=torch.float64)
    assert torch.allclose(turned_by(turn), torch.linalg.matrix_exp(torch.stack([_cross(t) for t in turn])))


def _cross(t):
    x, y, z = t.tolist()
    return torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)


@pytest.mark.parametrize("yaw", [0.0, 30.0, -50.0])
def test_a_mirrored_photo_gives_the_mirrored_fit(yaw):
    model = toy("weights")
    fitter = LandmarkFitter(model)
    generator = torch.Generator().manual_seed(3)
    pixels = seen(model, posed(model.vertices(IDENTITY)[0], yaw, 4.0, 6.0))
    pixels = pixels + 0.8 * torch.randn(68, 2, generator=generator).double()
    mirrored = pixels[torch.from_numpy(MIRROR_68)] * torch.tensor([-1.0, 1.0]) + torch.tensor([float(SIZE), 0.0])
    one, other = fitter(pixels, K), fitter(mirrored, K)
    assert torch.allclose(
        angles(one.rotation[0]) * torch.tensor([-1.0, 1.0, -1.0]), angles(other.rotation[0]), atol=0.02
    )
    flipped = other.vertices(model)[0].view(61, 61, 3).flip(1).flatten(0, 1) * torch.tensor([-1.0, 1.0, 1.0])
    assert float((flipped - one.vertices(model)[0]).norm(dim=1).max()) < 0.3


def outlined(model, vertices, yaw):
    """Landmarks (68, 2), the jaw's of the side turned away where the face ends at the height of each: as annotated."""
    pixels, points = project(vertices, K), seen(model, vertices).clone()
    side = 1.0 if yaw > 0 else -1.0
    # The jaw is an edge in front view, half an ellipse; what lies behind it is throat.
    x, y, z = model.mean.unbind(1)
    face = ((x / 70).square() + ((y - 20).clamp_min(0) / 65).square() < 1.04) & (z < 0)
    faces = model.faces[face[model.faces].all(1)]
    a, b = (pixels[faces[:, corners]].flatten(0, 1) for corners in ([0, 1, 2], [1, 2, 0]))
    for i in range(9, 17) if yaw > 0 else range(8):
        share = (points[i, 1] - a[:, 1]) / (b[:, 1] - a[:, 1])
        crossing = (a + share[:, None] * (b - a))[(share >= 0) & (share <= 1), 0]
        points[i, 0] = side * (side * crossing).max()
    return points


@pytest.mark.parametrize("yaw", [45.0, -45.0])
def test_the_outline_beats_fixed_points_of_the_jaw(yaw):
    model = toy()
    fitter = LandmarkFitter(model)
    errors: dict[str, list[float]] = {"outline": [], "fixed": [], "truth": []}
    for seed in range(4):
        identity = torch.randn(1, 8, generator=torch.Generator().manual_seed(seed))
        vertices = posed(model.vertices(identity)[0], yaw, 3.0, 0.0)
        drawn, true = outlined(model, vertices, yaw), seen(model, vertices)
        for name, pixels in (("outline", drawn), ("fixed", drawn), ("truth", true)):
            fit = fitter(pixels, K, LandmarkSettings(noise=1.0, outline=name == "outline"))
            own = (vertices - vertices.mean(0)) / DISTANCE
            found = fit.vertices(model)[0].double()
            found = (found - found.mean(0)) / float(fit.translation[0, 2])
            errors[name].append(float((own - found).norm(dim=1).mean()) * DISTANCE)
    assert sum(errors["outline"]) < 0.65 * sum(errors["fixed"])
    # Not much worse than if the jaw's own points were seen through the cheek.
    assert sum(errors["outline"]) < 1.5 * sum(errors["truth"])


def test_less_trust_in_landmarks_shrinks_towards_the_mean_face():
    model = toy()
    fitter = LandmarkFitter(model)
    pixels = seen(model, posed(model.vertices(2 * IDENTITY)[0], 15.0))
    sizes = [
        float(fitter(pixels, K, LandmarkSettings(noise=noise, outline=False)).identity.norm())
        for noise in (0.5, 4.0, 30.0)
    ]
    assert sizes[0] > sizes[1] > 2 * sizes[2]
    mean = fitter(seen(model, posed(model.mean)), K, EXACT)
    assert float(mean.identity.norm()) < 1e-3


def test_weights_stay_within_their_bounds():
    model = toy("weights")
    pixels = seen(model, posed(model.vertices(IDENTITY, torch.tensor([[1.6, -0.8, 0.0, 0.0, 0.5, 0.5]]))[0], 10.0))
    expression = LandmarkFitter(model)(pixels, K, EXACT).expression[0]
    assert float(expression.min()) == 0.0
    assert float(expression.max()) <= 1.0
    assert float(expression[0]) > 0.9
    assert float(expression[1]) == 0.0


def test_swapped_landmarks_are_named():
    model = toy()
    pixels = seen(model, posed(model.mean, 20.0))
    with pytest.raises(UsageError, match=r"left and right are swapped.*iBUG"):
        LandmarkFitter(model)(pixels[torch.from_numpy(MIRROR_68)], K)


def test_wrong_landmarks_are_not_believed():
    model = toy()
    pixels = seen(model, posed(model.mean, 20.0, 5.0))
    wrong = pixels.clone()
    # Both eyes exchanged, and a brow far off.
    wrong[36:48] = wrong[torch.from_numpy(MIRROR_68)[36:48]]
    wrong[20] += torch.tensor([12.0, -9.0])
    fit = LandmarkFitter(model)(wrong, K)
    assert float(fit.trust[0, 36:48].max()) < 0.1
    assert float(fit.trust[0, 20]) < 0.1
    assert float(fit.trust[0, [8, 30, 33, 48, 54, 57]].min()) > 0.8
    assert torch.allclose(angles(fit.rotation[0]), torch.tensor([20.0, 5.0, 0.0], dtype=torch.float64), atol=2.0)


def test_a_model_that_knows_few_landmarks():
    whole = toy()
    assert whole.landmarks68 is not None
    known = [8, 30, 31, 35, 36, 39, 42, 45, 48, 54, 57]
    part = replace(whole, landmarks68=None, partial68={i: int(whole.landmarks68[i]) for i in known})
    vertices = posed(whole.vertices(0.5 * IDENTITY)[0], 20.0, -5.0, 4.0)
    pixels = seen(whole, vertices)
    elsewhere = torch.full_like(pixels, 7.0)
    elsewhere[known] = pixels[known]
    fit = LandmarkFitter(part)(elsewhere, K, LandmarkSettings(noise=0.5))
    assert float((project(fit.points[0, known], K) - pixels[known]).norm(dim=-1).max()) < 0.3
    assert int(fit.points[0].isnan().all(1).sum()) == 68 - len(known)
    assert torch.allclose(angles(fit.rotation[0]), torch.tensor([20.0, -5.0, 4.0], dtype=torch.float64), atol=3.0)
    with pytest.raises(UsageError, match=r"4 landmarks.*landmarks68.json"):
        LandmarkFitter(replace(part, partial68={i: part.partial68[i] for i in known[:4]}))


def test_several_photos_tell_one_identity_better_than_one():
    model = toy("weights")
    fitter = LandmarkFitter(model)
    generator = torch.Generator().manual_seed(5)
    poses = [(0.0, 0.0, 0.0), (35.0, 5.0, 0.0), (-40.0, -8.0, 4.0), (15.0, 12.0, -6.0)]
    photos = []
    for pose in poses:
        expression = 0.5 * torch.rand(1, 6, generator=generator)
        pixels = seen(model, posed(model.vertices(IDENTITY, expression)[0], *pose))
        photos.append(pixels + 0.6 * torch.randn(68, 2, generator=generator).double())
    settings = LandmarkSettings(noise=2.0, outline=False)
    alone = [fitter(one, K, settings) for one in photos]
    together = fitter(photos, K, settings)
    shape = model.vertices(IDENTITY)[0]

    def error(fit):
        found = model.vertices(fit.identity[None].float())[0]
        return float((found - found.mean(0) - shape + shape.mean(0)).norm(dim=1).mean())

    assert together.expression.shape == (4, 6)
    assert error(together) < 0.7 * sum(map(error, alone)) / 4
    for i, pose in enumerate(poses):
        assert torch.allclose(angles(together.rotation[i]), torch.tensor(pose, dtype=torch.float64), atol=2.0)


def test_what_is_asked_wrongly():
    model = toy()
    fitter = LandmarkFitter(model)
    pixels = seen(model, posed(model.mean))
    with pytest.raises(UsageError, match="finite pixels"):
        fitter(pixels[:60], K)
    with pytest.raises(UsageError, match="finite pixels"):
        fitter(torch.where(pixels > 100, math.nan, pixels), K)
    with pytest.raises(UsageError, match="one place"):
        fitter(torch.full((68, 2), 5.0), K)
    with pytest.raises(UsageError, match="K: expected"):
        fitter(pixels, K[:2])
    with pytest.raises(UsageError, match="noise"):
        LandmarkSettings(noise=0.0)


def test_random_faces_of_the_real_model(data):
    """The landmarks' rays to 0.1 mm; the pose, which 157 modes can take over, to 2 degrees."""
    if not (data / ICT_FILE).is_file():
        pytest.skip(f"no {ICT_FILE} in {data}")
    model = MorphableModel.load(data / ICT_FILE).part("front")
    fitter = LandmarkFitter(model)
    for seed, yaw in enumerate((0.0, 30.0, -55.0)):
        identity = torch.randn(1, 100, generator=torch.Generator().manual_seed(seed))
        rotation = rotation_from_angles(yaw, 5.0, -3.0).double()
        vertices = model.vertices(identity)[0].double() @ rotation.mT + torch.tensor([0.0, 0.0, DISTANCE])
        pixels = project(model.landmarks(vertices), K)
        fit = fitter(pixels, K, LandmarkSettings(noise=0.1, outline=False))
        off = (project(fit.points[0], K) - pixels) * fit.translation[0, 2] / K[0, 0]
        assert float(off.square().sum(-1).mean().sqrt()) < 0.1
        assert float((angles(fit.rotation[0]) - torch.tensor([yaw, 5.0, -3.0])).abs().max()) < 2.0
