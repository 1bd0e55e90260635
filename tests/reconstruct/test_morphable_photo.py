"""Analysis by synthesis, and the reconstructor: drawn faces of a made model with known light, seen again."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from aboutface.errors import MissingError, UsageError
from aboutface.face import Face
from aboutface.geometry import clip, clip_from_camera, project, vertex_normals
from aboutface.head import complete_head
from aboutface.images import read_photo, to_tensor
from aboutface.morphable import ICT_FILE, MorphableModel
from aboutface.reconstruct import RECONSTRUCTORS, morphable_photo, reconstructor
from aboutface.reconstruct.morphable_fit import LandmarkFitter, LandmarkSettings
from aboutface.reconstruct.morphable_photo import MorphableReconstructor
from aboutface.reconstruct.morphable_refine import Albedo, RefineSettings, refine
from aboutface.render import interpolate, rasterize, sh_basis
from ellipsoid_face import DISTANCE, SIZE, K, posed, seen, toy

IDENTITY = torch.tensor([[0.8, -1.1, 1.6, 1.2, -0.5, -0.9, 0.7, 1.0]])
LIGHT = torch.tensor([3.0, -0.25, -0.5, 0.45, 0.0, 0.0, 0.0, 0.05, 0.0])
SMALL = RefineSettings(sizes=(48,), steps=(15,))


def drawn(model: MorphableModel, vertices: torch.Tensor) -> np.ndarray:
    """(SIZE, SIZE, 3) uint8: skin in LIGHT before grey, twice as fine and averaged."""
    fine = 2 * SIZE
    lens = torch.diag(torch.tensor([2.0, 2.0, 1.0])) @ K.float()
    vertices = vertices.float()
    corners = clip(vertices[None], clip_from_camera(lens, (fine, fine), 500.0, 3000.0))
    fragments = rasterize(corners, model.faces, (fine, fine))
    normals = interpolate(vertex_normals(vertices, model.faces), fragments, model.faces)[0]
    shading = sh_basis(functional.normalize(normals, dim=-1)) @ LIGHT
    colours = torch.tensor([0.80, 0.56, 0.45]) * shading[..., None]
    image = torch.where((fragments.triangle_id[0] >= 0)[..., None], colours, torch.tensor([0.45, 0.5, 0.5]))
    image = functional.avg_pool2d(image.clamp(0, 1).movedim(-1, 0)[None], 2)[0]
    return (image.movedim(0, -1) * 255).round().byte().numpy()


@pytest.fixture(scope="module")
def picture():
    """The model, its vertices before the camera, the picture, and landmarks that err by 1.5 mm."""
    model = toy()
    vertices = posed(model.vertices(IDENTITY)[0], 20.0, 4.0, 3.0)
    noise = torch.randn(68, 2, generator=torch.Generator().manual_seed(2)).double() * 1.5 * float(K[0, 0]) / DISTANCE
    return model, vertices, drawn(model, vertices), seen(model, vertices) + noise


def shape_error(vertices: torch.Tensor, true: torch.Tensor) -> float:
    """Mean distance of the vertices, millimetres, after the best shift and scale."""
    found, wanted = vertices.double() - vertices.double().mean(0), true - true.mean(0)
    found = found * (found * wanted).sum() / found.square().sum()
    return float((found - wanted).norm(dim=1).mean())


@pytest.mark.parametrize("hollow", [2.0, -2.0])
def test_colours_tell_what_landmarks_do_not(hollow):
    """Shading shows how full the cheeks are beside the nose; the landmarks leave it at the mean."""
    model = toy()
    identity = IDENTITY.clone()
    identity[0, 7] = hollow
    vertices = posed(model.vertices(identity)[0], 20.0, 4.0, 3.0)
    pixels, landmarks = drawn(model, vertices), seen(model, vertices)
    fit = LandmarkFitter(model)(landmarks, K, LandmarkSettings(noise=1.5, outline=False))
    settings = RefineSettings(sizes=(40,), steps=(24,), pixels=500.0)
    refined = refine(model, fit, [pixels], landmarks[None], settings)
    assert refined.losses[1] < 0.8 * refined.losses[0]
    assert abs(float(fit.identity[7])) < 0.2
    assert float(refined.fit.identity[7]) * hollow > 1.6
    assert shape_error(refined.fit.vertices(model)[0], vertices) < shape_error(fit.vertices(model)[0], vertices)
    # Landmarks went along with the face.
    marks = model.landmarks(refined.fit.vertices(model)[0].double())
    assert float((refined.fit.points[0] - marks).norm(dim=1).max()) < 0.01
    again = refine(model, fit, [pixels], landmarks[None], settings)
    assert torch.equal(again.fit.identity, refined.fit.identity)
    # The picture is albedo times light; which is which a picture does not tell.
    normals = vertex_normals(refined.fit.vertices(model)[0], model.faces)
    front = normals[:, 2] < -0.5
    arriving = (refined.albedo * (sh_basis(normals) @ refined.light[0]))[front]
    true = (torch.tensor([0.80, 0.56, 0.45]) * (sh_basis(normals) @ LIGHT)[:, None])[front]
    assert float((arriving - true).abs().mean()) < 0.04


def test_a_fit_that_colours_do_not_help_stays(picture):
    model, _, _, landmarks = picture
    fit = LandmarkFitter(model)(landmarks, K)
    # Nothing but noise: no shape explains it, but steps were made.
    noise = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    refined = refine(model, fit, [noise], landmarks[None], replace(SMALL, learning_rate=5.0, steps=(3,)))
    assert refined.losses[1] <= refined.losses[0]
    if refined.losses[1] == refined.losses[0]:
        assert torch.equal(refined.fit.identity, fit.identity)


def test_albedo_of_a_model_without_is_alike_on_both_sides():
    albedo = Albedo.of(toy())
    both = albedo.modes.view(-1, 61, 61, 3)
    assert torch.allclose(both, both.flip(2), atol=1e-5)
    own = replace(toy(), albedo_mean=torch.full((3721, 3), 0.5), albedo=torch.randn(2, 3721, 3))
    assert Albedo.of(own).modes is own.albedo


def test_refine_says_what_does_not_fit(picture):
    model, _, pixels, landmarks = picture
    fit = LandmarkFitter(model)(landmarks, K)
    with pytest.raises(UsageError, match="1 photos, got 2"):
        refine(model, fit, [pixels, pixels], landmarks[None], SMALL)
    with pytest.raises(UsageError, match="as many sizes"):
        RefineSettings(sizes=(64,), steps=(1, 2))


@pytest.fixture(scope="module")
def scene(picture):
    model, _, pixels, landmarks = picture
    low, high = landmarks.amin(0), landmarks.amax(0)
    face = Face(landmarks.numpy(), (*low.tolist(), *high.tolist()))
    photo = read_photo(pixels)
    return photo, face, MorphableReconstructor(model, LandmarkSettings(outline=False), SMALL)(photo, face)


def test_the_scene_is_that_of_the_photo(picture, scene):
    _, vertices, _, landmarks = picture
    photo, _, found = scene
    assert (found.camera.height, found.camera.width) == photo.size
    assert found.landmarks is not None
    assert abs(float(found.landmarks[:, 2].mean()) - 1) < 0.02
    # Landmarks lie on the rays of those that were found.
    assert float((project(found.landmarks, found.camera.K) - landmarks).norm(dim=1).max()) < 1.0
    assert torch.allclose(torch.tensor(found.pose), torch.tensor([20.0, 4.0, 3.0]), atol=2.5)
    surface = found.mesh_at_rest()
    assert shape_error(surface.vertices, vertices) < 3.0
    # Distances on the model are millimetres: between the corners of the eyes.
    width = float((found.landmarks[45] - found.landmarks[36]).norm()) * found.scale
    assert width == pytest.approx(float((vertices[_mark(45)] - vertices[_mark(36)]).norm()), abs=8.0)


def _mark(number: int) -> int:
    marks = toy().landmarks68
    assert marks is not None
    return int(marks[number])


def test_texture_times_light_is_the_photo(scene):
    photo, _, found = scene
    surface = found.mesh_at_rest()
    assert surface.uv is not None
    front = surface.normals[:, 2] < -0.6
    uv = surface.uv[front]
    texture = functional.grid_sample(found.albedo[None], uv[None, None] * 2 - 1, align_corners=False)[0, :, 0].mT
    colours = texture * (sh_basis(surface.normals[front]) @ found.light.coefficients)
    at = project(surface.vertices[front], found.camera.K) / SIZE * 2 - 1
    wanted = functional.grid_sample(to_tensor(photo.pixels), at[None, None], align_corners=False)[0, :, 0].mT
    assert float((colours - wanted).abs().mean()) < 0.02


def test_the_head_follows_the_surface(scene):
    photo, face, found = scene
    assert found.trust is not None
    assert 0.0 == float(found.trust.min()) < float(found.trust.max()) == 1.0
    with_surface = complete_head(photo, face, found).scene.mesh_at_rest().vertices
    without = complete_head(photo, face, replace(found, trust=None)).scene.mesh_at_rest().vertices
    moved = (with_surface - without).norm(dim=1) * found.scale
    assert 0.5 < float(moved.max()) < 25.0


def test_it_is_on_the_menu_and_says_what_it_lacks(monkeypatch, tmp_path):
    assert RECONSTRUCTORS["morphable"] is MorphableReconstructor
    monkeypatch.setenv("ABOUTFACE_HOME", str(tmp_path))
    monkeypatch.delenv("ABOUTFACE_DATA", raising=False)
    morphable_photo._users_model.cache_clear()
    with pytest.raises(MissingError, match=r"models download ict.*models add ict.*depthnet") as raised:
        reconstructor("morphable")
    assert "\n" not in str(raised.value)


def test_it_takes_the_users_model_and_a_file(monkeypatch, tmp_path):
    model = replace(toy(), name="flame")
    (tmp_path / "weights").mkdir()
    model.save(tmp_path / "weights" / "flame.safetensors")
    monkeypatch.setenv("ABOUTFACE_HOME", str(tmp_path))
    monkeypatch.delenv("ABOUTFACE_DATA", raising=False)
    morphable_photo._users_model.cache_clear()
    try:
        assert reconstructor("morphable").model.name == "flame"  # pyright: ignore
    finally:
        morphable_photo._users_model.cache_clear()
    given = MorphableReconstructor.from_file(tmp_path / "weights" / "flame.safetensors")
    assert given.model.mean.shape == model.mean.shape


def test_of_the_real_model_the_front_is_shown(data):
    if not (data / ICT_FILE).is_file():
        pytest.skip(f"no {ICT_FILE} in {data}")
    model = MorphableModel.load(data / ICT_FILE)
    made = MorphableReconstructor(model)
    assert len(made.front.mean) == 6706 < len(made.model.mean) < len(model.mean)
    assert made.model.masks["eyes"].sum() == model.masks["eyes"].sum()
    assert float(made.scene.trust[made.model.masks["eyes"]].max()) == 0.0
    assert float(made.scene.trust[made.model.landmarks68[30]]) == 1.0  # pyright: ignore
