"""Deep3D on a photo: where coefficients put a face, what light it has, and what is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from aboutface.errors import MissingError, NoFaceError, UsageError
from aboutface.face import MIRROR_68, Face
from aboutface.geometry import apply, project, rotation_from_angles
from aboutface.head import complete_head
from aboutface.images import read_photo
from aboutface.morphable import ICT_FILE, MorphableModel
from aboutface.reconstruct import METHODS, RECONSTRUCTORS, deep3d_photo, reconstructor
from aboutface.reconstruct.deep3d import Layout
from aboutface.reconstruct.deep3d_face import coefficients_of as coefficients_of_fit
from aboutface.reconstruct.deep3d_face import photo_intrinsics, placement, reconstruction
from aboutface.reconstruct.deep3d_frame import ICT_FIVE, crop_from_photo, five_from_68
from aboutface.reconstruct.deep3d_landmarks import FaceRegressor
from aboutface.reconstruct.deep3d_photo import Deep3dReconstructor
from aboutface.reconstruct.morphable_fit import LandmarkFitter, LandmarkSettings, Outline
from aboutface.reconstruct.morphable_photo import MorphableReconstructor
from aboutface.reconstruct.morphable_refine import RefineSettings
from aboutface.scene import Scene, SphericalHarmonics
from aboutface.weights import REGISTRY
from ellipsoid_face import toy
from ellipsoid_ict import (
    LAYOUT,
    SIZE,
    coefficients_of,
    ict,
    mean_landmarks,
    net_of,
    picture,
    save,
    their_pixels,
    their_points,
)

TURNED: dict[str, Any] = {
    "id": torch.tensor([0.9, -1.2, 0.5, 1.0, -0.6, 0.4]),
    "exp": torch.tensor([0.7, 0.1, 0.9, -0.2]),
    "angle": torch.tensor([0.12, -0.5, 0.2]),
    "trans": torch.tensor([0.2, -0.1, 0.4]),
}
"""Deep3D's pitch looks down and its roll is counter-clockwise."""
ONE_SIDED = torch.tensor([0.1, 0.0, 0.2, -0.15, 0.0, 0.0, 0.0, 0.0, 0.0]).repeat(3)


def face_at(landmarks: np.ndarray) -> Face:
    return Face(landmarks, (*landmarks.min(0).tolist(), *landmarks.max(0).tolist()))


def light_of(scene: Scene) -> torch.Tensor:
    assert isinstance(scene.light, SphericalHarmonics)
    return scene.light.coefficients


def marks_of(scene: Scene) -> torch.Tensor:
    assert scene.landmarks is not None
    return scene.landmarks


def grey(width=260, height=240):
    return read_photo(np.full((height, width, 3), 128, np.uint8))


@pytest.fixture(scope="module")
def model():
    return ict()


@pytest.fixture(scope="module")
def real(data):
    if not (data / ICT_FILE).is_file():
        pytest.skip(f"no {ICT_FILE} in {data}")
    return MorphableModel.load(data / ICT_FILE)


@pytest.fixture(scope="module")
def turned(model):
    """Network, reconstructor, face and scene."""
    torch.manual_seed(0)
    net = net_of(model, **TURNED)
    net.offsets.bias.data.copy_(torch.linspace(-0.01, 0.02, 136))
    made, face = Deep3dReconstructor(net, model), face_at(mean_landmarks(model, 0.8, (30.0, 20.0)))
    return net, made, face, made(grey(), face)


def test_the_face_is_where_the_published_formulas_put_it(model, turned):
    net, _, face, scene = turned
    said = [part[0].numpy() for part in coefficients_of(net)]
    theirs = their_points(model.part("front"), said[0], said[1], said[3], said[5])
    photo_from_crop = torch.linalg.inv(crop_from_photo(five_from_68(torch.from_numpy(face.landmarks)), ICT_FIVE))
    expected = apply(photo_from_crop, torch.from_numpy(their_pixels(theirs)))
    surface = scene.mesh_at_rest()
    found = project(surface.vertices, scene.camera.K)
    assert float((found.double() - expected).abs().max()) < 0.01
    # Distances are millimetres, whatever the unit is; the camera stands a metre before the origin.
    ours = torch.from_numpy((theirs - [0, 0, 10]) * [1, -1, -1] * 100)
    assert float((surface.vertices.double() * scene.scale - ours).abs().max()) < 0.01
    pitch, yaw, roll = np.degrees(said[3])
    assert scene.pose == pytest.approx((yaw, -pitch, -roll), abs=1e-3)
    assert (scene.camera.width, scene.camera.height) == (260, 240)


def test_landmarks_are_those_that_are_seen_and_as_deep_as_the_models(model, turned):
    net, _, face, scene = turned
    matrix = crop_from_photo(five_from_68(torch.from_numpy(face.landmarks)), ICT_FIVE, SIZE)
    with torch.no_grad():
        seen = net(torch.zeros(1, 3, SIZE, SIZE)).landmarks[0].double()
    expected = apply(torch.linalg.inv(matrix), seen)
    assert float((project(marks_of(scene), scene.camera.K).double() - expected).abs().max()) < 0.01
    part = model.part("front")
    assert part.landmarks68 is not None
    own = scene.mesh_at_rest().vertices[part.landmarks68]
    # The face is turned to the left, and its left jaw away.
    off = (marks_of(scene)[:, 2] - own[:, 2]).abs()
    assert float(off[8:].max()) < 1e-4
    assert float(off[:4].min()) * scene.scale > 5.0
    # The offsets have moved them.
    assert float((marks_of(scene) - own).abs().max()) * scene.scale > 1.0


def test_the_folded_network_says_the_same(model):
    torch.manual_seed(1)
    net = net_of(model)
    for parameter in net.rnet.final_layers.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    net.train()
    with torch.no_grad():
        for _ in range(5):
            net(torch.rand(8, 3, SIZE, SIZE))
        net.eval()
        images = torch.rand(4, 3, SIZE, SIZE)
        plain = net(images)
        folded = Deep3dReconstructor(net, model).net(images.contiguous(memory_format=torch.channels_last))
    assert float(plain.coefficients.id.std(0).max()) > 1e-3
    torch.testing.assert_close(folded.coefficients.flat(), plain.coefficients.flat(), atol=1e-5, rtol=0)
    torch.testing.assert_close(folded.landmarks, plain.landmarks, atol=1e-3, rtol=0)


def test_a_fit_and_its_coefficients_have_the_same_points(model):
    """Those of the jaw turned away, which lie on the outline, too."""
    part = model.part("front")
    said = [part[0].numpy() for part in coefficients_of(net_of(model, **TURNED))]
    theirs = their_pixels(their_points(part, *(said[i] for i in (0, 1, 3, 5))))
    pixels, K = torch.from_numpy(theirs[part.landmarks68.numpy()]), photo_intrinsics(torch.eye(3))
    fit = LandmarkFitter(part)(pixels, K)
    coefficients = coefficients_of_fit(part, fit, torch.zeros(9, 3), torch.zeros(0))
    assert bool((fit.trust > 0.5).all())
    for outline in (None, Outline.of(part)):
        placed = placement(part, coefficients, K, pixels, outline)
        assert float((placed.translation - fit.translation).abs().max()) < 1e-3
        off = (placed.points - fit.points)[0].norm(dim=1)
        assert float(off[8:].max()) < 0.01
        assert (float(off[:8].max()) < 0.1) == (outline is not None)


@pytest.mark.parametrize(("scale", "shift"), [(0.12, (5.0, 8.0)), (1.0, (0.0, 0.0)), (2.5, (-90.0, 40.0))])
def test_the_untrained_network_puts_the_mean_face_on_the_face(scale, shift, real):
    model, net = real, net_of(real, Layout(10, 5, 0, expression_kind="weights"))
    made, face = Deep3dReconstructor(net, model), face_at(mean_landmarks(model, scale, shift))
    scene = made(grey(600, 500), face)
    off = project(marks_of(scene), scene.camera.K).double() - torch.from_numpy(face.landmarks)
    # Five points are aligned as if there were no perspective, which is an error of 2 % in size.
    assert float(off.norm(dim=1).mean()) < 0.01 * face.size
    assert scene.pose == pytest.approx((0, 0, 0), abs=1e-4)
    assert model.landmarks68 is not None
    eyes = model.mean[model.landmarks68[[36, 45]]]
    width = float((marks_of(scene)[45] - marks_of(scene)[36]).norm()) * scene.scale
    assert width == pytest.approx(float((eyes[1] - eyes[0]).norm()), abs=0.5)


# ---- light ----


def test_light_is_found_in_the_photo(model):
    net = net_of(model)
    said = coefficients_of(net)._replace(gamma=ONE_SIDED[None].double())
    pixels = picture(model, said)
    made, face = Deep3dReconstructor(net, model), face_at(mean_landmarks(model))
    scene = made(read_photo(pixels), face)
    found = reconstruction(scene, read_photo(pixels), face.landmarks)
    inside = (found.alpha > 0.99).expand(3, -1, -1)
    assert 0.1 < float(inside.float().mean()) < 0.9
    assert float((found.image - found.crop)[inside].abs().mean()) < 0.02
    # Light from the right of the picture comes from the left in a mirror.
    mirrored = made(read_photo(pixels[:, ::-1].copy()), face.mirrored(pixels.shape[1]))
    expected = SphericalHarmonics(light_of(scene)).mirrored().coefficients
    assert float(light_of(scene)[3].abs().min()) > 0.1
    assert float((light_of(mirrored) - expected).abs().max()) < 0.02


def test_learned_albedo_is_found_in_the_photo(model):
    """By the modes that the weights bring; what the network says of light and albedo is not asked."""
    front = model.part("front")
    count, layout = len(front.mean), replace(LAYOUT, albedo=2)
    net = net_of(model, layout, count, tex=torch.tensor([5.0, 5.0]), gamma=torch.ones(27))
    height = (front.mean[:, 1] / 60).clamp(-1, 1)
    net.albedo_mean.copy_(torch.tensor([0.6, 0.45, 0.4]).expand(count, 3))
    # Bands too narrow to be a light's doing: a moustache, and eyes.
    bands = torch.stack([torch.exp(-(((height - place) / 0.15) ** 2)) for place in (0.4, -0.3)])
    net.albedo.copy_(-0.1 * bands[..., None].expand(-1, -1, 3))
    given = torch.tensor([[1.2, -0.8]]).double()
    said = coefficients_of(net)._replace(tex=given, gamma=ONE_SIDED[None].double())
    photo, face = read_photo(picture(model, said, net=net)), face_at(mean_landmarks(model))
    scene = Deep3dReconstructor(net, model)(photo, face)
    assert scene.morphable is not None
    found = scene.morphable.coefficients["tex"]
    assert float((found - given[0]).abs().max()) < 0.35
    torch.testing.assert_close(
        scene.morphable.albedo, net.albedo_mean + found[0] * net.albedo[0] + found[1] * net.albedo[1]
    )
    drawn = reconstruction(scene, photo, face.landmarks)
    inside = (drawn.alpha > 0.99).expand(3, -1, -1)
    assert float((drawn.image - drawn.crop)[inside].abs().mean()) < 0.02
    with pytest.raises(UsageError, match=f"albedo of 7 vertices, the model's part has {count}"):
        Deep3dReconstructor(net_of(model, layout, 7), model)


# ---- what else may come ----


@pytest.mark.parametrize("case", ["profile", "closed eyes", "tiny", "partly outside"])
def test_it_survives(case, model):
    made = Deep3dReconstructor(net_of(model, **TURNED), model)
    marks = mean_landmarks(model, 0.8, (30.0, 20.0))
    photo = grey()
    if case == "profile":
        assert model.landmarks68 is not None
        rest = model.mean[model.landmarks68].double().numpy()
        for yaw in (-95, -85, 85, 95):
            turn = rotation_from_angles(float(yaw), 0.0, 0.0).double().numpy()
            side = face_at((rest @ turn.T)[:, :2] * 0.7 + [130, 120])
            assert bool(marks_of(made(photo, side)).isfinite().all())
        return
    if case == "closed eyes":
        for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46)):
            marks[[upper, lower]] = marks[[upper, lower]].mean(0)
    elif case == "tiny":
        marks = mean_landmarks(model, 0.06, (5.0, 4.0))
    else:
        marks = marks - [100.0, 60.0]
    scene = made(photo, face_at(marks))
    surface = scene.mesh_at_rest()
    assert bool(surface.vertices.isfinite().all())
    assert bool(scene.albedo.isfinite().all())
    assert bool(light_of(scene).isfinite().all())
    head = complete_head(photo, face_at(marks), scene)
    assert bool(head.scene.mesh_at_rest().vertices.isfinite().all())


def test_a_grey_photo_is_a_photo(model):
    made, face = Deep3dReconstructor(net_of(model), model), face_at(mean_landmarks(model))
    values = picture(model, coefficients_of(net_of(model, gamma=ONE_SIDED)))[..., 1]
    grey_scene = made(read_photo(values), face)
    colour_scene = made(read_photo(np.repeat(values[..., None], 3, 2)), face)
    assert torch.equal(grey_scene.albedo, colour_scene.albedo)
    assert torch.equal(light_of(grey_scene), light_of(colour_scene))


def test_swapped_landmarks_are_refused_with_the_same_words_as_by_the_fit(model):
    made = Deep3dReconstructor(net_of(model), model)
    swapped = mean_landmarks(model)[MIRROR_68]
    with pytest.raises(UsageError, match="left and right are swapped in photo 1 of 1") as said:
        made(grey(), face_at(swapped))
    lens = torch.tensor([[1015.0, 0, 112], [0, 1015.0, 112], [0, 0, 1]])
    with pytest.raises(UsageError) as fitted:
        LandmarkFitter(model)(torch.from_numpy(swapped), lens)
    assert str(said.value) == str(fitted.value)


def test_points_outside_the_photo_or_in_one_place_are_refused(model):
    made = Deep3dReconstructor(net_of(model), model)
    with pytest.raises(NoFaceError, match=r"lie outside the photo of 260 x 240 px, the nose at \(9\d\d, "):
        made(grey(), face_at(mean_landmarks(model, 1.0, (800.0, 0.0))))
    with pytest.raises(UsageError, match="lie in one place"):
        made(grey(), face_at(np.full((68, 2), 100.0)))


def test_weights_of_another_model_are_refused(model):
    with pytest.raises(UsageError, match="expected 9 modes of identity, the model has 8"):
        Deep3dReconstructor(_wide(model, 9), model)
    with pytest.raises(UsageError, match="expressions are weights"):
        Deep3dReconstructor(FaceRegressor(replace(net_of(model).settings, layout=Layout(6, 4, 0))), model)
    other = replace(model, identity=model.identity.flip(0))
    with pytest.raises(UsageError, match=r"trained with another model: landmarks differ by up to \d+\.\d mm"):
        Deep3dReconstructor(net_of(other), model)
    # Half precision, as weights and models are kept, is no other model.
    halved = net_of(model)
    halved.points.copy_(halved.points.half().float())
    Deep3dReconstructor(halved, model)


def _wide(model: MorphableModel, modes: int) -> FaceRegressor:
    wide = replace(model, identity=torch.cat([model.identity, model.identity])[:modes])
    return net_of(wide, replace(LAYOUT, identity=modes))


def test_the_users_model_is_loaded_by_name(model, monkeypatch, tmp_path):
    monkeypatch.setenv("ABOUTFACE_HOME", str(tmp_path))
    monkeypatch.delenv("ABOUTFACE_DATA", raising=False)
    file = save(net_of(model, **TURNED), tmp_path / "mine.safetensors")
    deep3d_photo._users_ict.cache_clear()
    try:
        with pytest.raises(
            MissingError, match=r"models download ict.*models add ict PATH.*depthnet or unsup3d"
        ) as said:
            reconstructor(str(file))
        assert "\n" not in str(said.value)
        (tmp_path / "weights").mkdir()
        replace(toy(), name="bfm09").save(tmp_path / "weights" / "ict.safetensors")
        with pytest.raises(UsageError, match=r"expected the model ict, got bfm09; .*models add ict"):
            reconstructor(str(file))
        deep3d_photo._users_ict.cache_clear()
        model.save(tmp_path / "weights" / "ict.safetensors")
        made = reconstructor(str(file))
    finally:
        deep3d_photo._users_ict.cache_clear()
    scene = made(grey(), face_at(mean_landmarks(model)))
    assert scene.morphable is not None
    torch.testing.assert_close(scene.morphable.coefficients["id"], TURNED["id"], atol=1e-3, rtol=0)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(UsageError):
        Deep3dReconstructor.from_file(broken)


def test_it_is_on_the_menu_once_there_are_weights():
    assert METHODS["deep3d"] is Deep3dReconstructor
    assert ("deep3d" in RECONSTRUCTORS) == ("deep3d" in REGISTRY)


# ---- the fit without a network, in the same words ----


@pytest.mark.parametrize("coloured", [False, True])
def test_the_fit_has_coefficients_too(coloured, model):
    """Of the posed face they are those that Deep3D would say."""
    if coloured:
        modes = 0.03 * torch.randn(3, 1, 3, generator=torch.Generator().manual_seed(3)).expand(-1, len(model.mean), -1)
        plain = torch.tensor([0.7, 0.5, 0.4]).repeat(len(model.mean), 1)
        model = replace(model, name="bfm09", albedo_mean=plain, albedo=modes)
    said = coefficients_of(net_of(ict(), **TURNED, gamma=ONE_SIDED))
    pixels = picture(ict(), said)
    points = their_points(ict(), *(said[i][0].numpy() for i in (0, 1, 3, 5)))
    assert model.landmarks68 is not None
    face = face_at(their_pixels(points[model.landmarks68.numpy()]))
    made = MorphableReconstructor(model, LandmarkSettings(outline=False), RefineSettings(sizes=(32,), steps=(3,)))
    scene = made(read_photo(pixels), face)
    told = scene.morphable
    assert told is not None
    numbers = {name: value.double().numpy() for name, value in told.coefficients.items()}
    assert numbers["tex"].shape == ((3,) if coloured else (0,))
    centre = np.zeros(3) if coloured else None
    part = model if coloured else model.part("front")
    theirs = their_points(part, *(numbers[name] for name in ("id", "exp", "angle", "trans")), centre=centre)
    ours = torch.from_numpy((theirs - [0, 0, 10]) * [1, -1, -1] * 100)
    front = ours[model.masks["front"]] if coloured else ours
    assert float((scene.mesh_at_rest().vertices.double() * scene.scale - front).abs().max()) < 0.02
    assert len(told.albedo) == len(theirs)
    if coloured:
        assert model.albedo is not None
        assert model.albedo_mean is not None
        expected = model.albedo_mean + torch.tensordot(told.coefficients["tex"], model.albedo, 1)
        torch.testing.assert_close(told.albedo, expected)
    drawn = reconstruction(scene, read_photo(pixels), face.landmarks)
    inside = (drawn.alpha > 0.99).expand(3, -1, -1)
    assert float((drawn.image - drawn.crop)[inside].abs().mean()) < 0.06
