"""The head of a morphable model all around: its surface and atlas, its scene, its views to the profile."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from aboutface.compose import view
from aboutface.detect import detect
from aboutface.geometry import clip, clip_from_camera, intrinsics, project, rotation_from_angles
from aboutface.head import MeanTemplate, WholeTemplate, complete_head
from aboutface.head.hair import RAYS, hair_outline
from aboutface.head.hidden import carried_on
from aboutface.images import read_photo, to_pixels
from aboutface.morphable import ICT_FILE, MorphableModel, WholeHead
from aboutface.reconstruct.morphable_fit import LandmarkFitter
from aboutface.reconstruct.morphable_photo import shown
from aboutface.reconstruct.morphable_scene import SceneBuilder
from aboutface.relight import relightable
from aboutface.render import interpolate, rasterize
from aboutface.scene import Mesh

SIZE = 320
DISTANCE = 1100.0
K = intrinsics(16.0, (SIZE, SIZE))
FLIP = torch.tensor([-1.0, 1.0, 1.0])
SKIN, WALL = torch.tensor([0.8, 0.6, 0.5]), torch.tensor([0.3, 0.45, 0.6])


@pytest.fixture(scope="module")
def model(data) -> MorphableModel:
    file = data / ICT_FILE
    if not file.is_file():
        pytest.skip(f"no ICT model at {file}")
    return MorphableModel.load(file)


@pytest.fixture(scope="module")
def whole(model) -> WholeHead:
    return WholeHead.of(model)


@pytest.fixture(scope="module")
def photo(whole):
    """The mean face, the same on both sides, before a wall: skin with brows, mouth and dark hair."""
    camera_space = whole.mean + torch.tensor([0.0, 30.0, DISTANCE])
    clip_space = clip(camera_space[None], clip_from_camera(K, (SIZE, SIZE), 300.0, 3000.0))
    fragments = rasterize(clip_space, whole.faces, (SIZE, SIZE))
    x, y = whole.mean[:, 0].abs(), whole.mean[:, 1]
    tone = 0.75 + 0.25 * torch.cos(x / 6) * torch.cos(y / 7)
    hair = ((y < -100) | (whole.mean[:, 2] > -20) & (y < -30)).float()[:, None]
    colours = torch.lerp(SKIN * tone[:, None], torch.tensor([0.15, 0.1, 0.08]), hair)
    drawn = interpolate(colours, fragments, whole.faces)[0]
    picture = torch.where((fragments.triangle_id[0] >= 0)[..., None], drawn, WALL).movedim(-1, 0)
    # The triangles are not quite the same on both sides.
    picture = (picture + picture.flip(-1)) / 2
    return read_photo(to_pixels(picture))


@pytest.fixture(scope="module")
def builder(model) -> SceneBuilder:
    return SceneBuilder(shown(model), model)


def scene_of(builder: SceneBuilder, photo, pixels: torch.Tensor):
    """The scene of landmarks (68, 2), in even light, and the face."""
    fit = LandmarkFitter(builder.model)(pixels, K)
    light = torch.zeros(9, 3)
    light[0] = 1 / 0.282095
    face = detect(photo.pixels, face="largest", landmarks=pixels.numpy())[0]
    return builder(photo, torch.from_numpy(face.landmarks), fit, light), face


@pytest.fixture(scope="module")
def made(builder, whole, photo):
    """Scene, face and head of the photo."""
    marks = whole.skin.landmarks(whole.mean[: len(whole.skin.mean)]) + torch.tensor([0.0, 30.0, DISTANCE])
    scene, face = scene_of(builder, photo, project(marks, K).double())
    return scene, face, complete_head(photo, face, scene)


# ---- surface and atlas ----


def test_the_surface_is_closed_but_for_the_neck(whole):
    edges = torch.cat([whole.faces[:, [0, 1]], whole.faces[:, [1, 2]], whole.faces[:, [2, 0]]])
    # Neighbours run along their common edge in opposite ways, each edge once.
    assert len(edges.unique(dim=0)) == len(edges)
    undirected, count = edges.sort(1).values.unique(dim=0, return_counts=True)
    assert count.max() == 2
    rim = undirected[count == 1].unique()
    chin = whole.skin.landmarks(whole.mean[: len(whole.skin.mean)])[8, 1]
    assert (whole.mean[rim, 1] > chin + 30).all()
    # A disc: V - E + F = 1, no handle and no second rim.
    assert len(whole.mean) - len(undirected) + len(whole.faces) == 1
    assert whole.faces.unique().numel() == len(whole.mean)


def test_twins_are_mirror_images(whole):
    assert torch.equal(whole.mirror[whole.mirror], torch.arange(len(whole.mirror)))
    torch.testing.assert_close(whole.mean[whole.mirror] * FLIP, whole.mean, rtol=0, atol=1e-4)
    middle = whole.mirror == torch.arange(len(whole.mirror))
    assert whole.mean[middle, 0].abs().max() < 0.1
    torch.testing.assert_close(whole.uv[whole.mirror] * FLIP[:2] + torch.tensor([1.0, 0.0]), whole.uv)


def test_no_two_places_share_a_texel_and_the_face_has_most_of_them(whole):
    a, b, c = whole.uv[whole.faces].unbind(1)
    u, v = b - a, c - a
    areas = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    assert (areas > 0).all()
    # No triangle folds over, and together they fill the polygon of the rim: none lies over another.
    assert areas.sum() / 2 == pytest.approx(np.pi / 4, rel=0.02)
    assert whole.uv.min() >= -1e-6
    assert whole.uv.max() <= 1 + 1e-6
    middles = whole.mean[whole.faces].mean(1)
    face = (middles[:, 2] < -60) & (middles[:, 1] < 75)
    size = torch.linalg.cross(*(whole.mean[whole.faces[:, i]] - whole.mean[whole.faces[:, 0]] for i in (1, 2)))
    density = areas / size.norm(dim=1)
    assert density[face].median() > 2 * density[~face].median()


def test_an_eye_that_shuts_stands_out_no_more(whole):
    """The filling of an opening follows its rim."""
    names = whole.skin.expression_names
    shut = torch.zeros(1, len(names))
    for index, name in enumerate(names):
        if name.startswith("eyeBlink"):
            shut[0, index] = 1
    assert shut.sum() == 2
    none = torch.zeros(1, 0)
    opened, closed = whole.vertices(none, none)[0], whole.vertices(none, shut)[0]
    first = len(whole.skin.mean)
    eyes = ((whole.faces >= first) & (whole.faces < first + 2 * (3 * len(whole.openings[0]) + 1))).all(1)

    def seen(vertices: torch.Tensor) -> int:
        """Pixels in which eyes are seen from the front."""
        ahead = clip((vertices + torch.tensor([0.0, 30.0, DISTANCE]))[None], clip_from_camera(K, (SIZE, SIZE)))
        ids = rasterize(ahead, whole.faces, (SIZE, SIZE)).triangle_id[0]
        return int(eyes[ids[ids >= 0]].sum())

    assert whole.bulges[:2] == (whole.bulges[0], whole.bulges[0])
    assert whole.bulges[2] == 0
    assert seen(opened) > 150
    assert seen(closed) < 0.1 * seen(opened)


# ---- the scene ----


def test_the_head_passes_through_the_landmarks_that_were_found(builder, whole, photo, made):
    _, face, _ = made
    noise = torch.randn(68, 2, generator=torch.Generator().manual_seed(0)).double() * 2
    moved, _ = scene_of(builder, photo, torch.from_numpy(face.landmarks).double() + noise)
    assert moved.landmarks is not None
    assert moved.whole is not None
    wanted = project(moved.landmarks, moved.camera.K)
    # Between the chin and the brows; the surface of the model alone is off by as much as landmarks are noisy.
    inner = slice(17, 68)
    own = project(moved.mesh_at_rest().vertices[builder.model.landmarks68], moved.camera.K)
    bent = project(moved.whole.mesh.vertices[whole.skin.landmarks68], moved.camera.K)
    off = [(places - wanted)[inner].norm(dim=1).mean() for places in (own, bent)]
    assert off[1] < 0.75 * off[0]


def test_a_mirrored_scene_has_the_mirrored_head(made):
    scene, _, _ = made
    mirrored = scene.mirrored()
    whole, other = scene.whole.mesh.vertices, mirrored.whole.mesh.vertices
    torch.testing.assert_close(other[scene.whole.mirror] * FLIP, whole)
    torch.testing.assert_close(mirrored.mirrored().whole.mesh.vertices, whole)
    # Triangles look outwards still.
    nose = int((whole[:, 2]).argmin())
    assert mirrored.whole.mesh.normals[scene.whole.mirror[nose], 2] < -0.5


def test_methods_without_a_whole_head_keep_the_mean_head(made, photo):
    scene, face, head = made
    assert isinstance(head.template, WholeTemplate)
    plain = complete_head(photo, face, replace(scene, whole=None))
    assert isinstance(plain.template, MeanTemplate)
    assert torch.equal(plain.solid, plain.trusted)
    assert (head.solid >= 0).all()


# ---- views ----


def drawn_at(head, yaw: float, size: int = 240):
    """Triangles (size, size) of the closed head turned by so many degrees, -1 beside it."""
    scene = head.scene
    pivot = torch.tensor(scene.pivot)
    vertices = (scene.mesh_at_rest().vertices - pivot) @ rotation_from_angles(yaw).mT + pivot
    clip_space = clip(vertices[None], clip_from_camera(scene.camera.resized(size, size).K, (size, size)))
    return rasterize(clip_space, scene.mesh_at_rest().faces, (size, size)).triangle_id[0]


@pytest.mark.parametrize("yaw", [-90.0, 90.0])
def test_a_profile_hides_the_far_side_and_has_no_holes(made, whole, yaw):
    _, _, head = made
    ids = drawn_at(head, yaw)
    visible = torch.zeros(len(whole.faces), dtype=torch.bool)
    visible[ids[ids >= 0]] = True
    # Turned to the right of the image it shows the side that was on its left.
    near = -np.sign(yaw)
    places = whole.mean[whole.faces].mean(1)
    side, height = places[:, 0] * near, places[:, 1]
    ear = head.template.ear()[whole.faces].amin(1) > 0.9
    first = len(whole.skin.mean)
    eyes = ((whole.faces >= first) & (whole.faces < first + 2 * (3 * 42 + 1))).all(1)
    cheek = (side.abs() > 30) & (places[:, 2] < -40) & (height > -20) & (height < 60)
    neck = (height > 95) & (places[:, 2] > -30)
    skull = (height < -60) & (places[:, 2] > 30)
    for part in (cheek, eyes, ear):
        assert visible[part & (side < -8)].sum() == 0
        assert visible[part & (side > 8)].sum() > 0.1 * (part & (side > 8)).sum()
    for part in (neck, skull):
        assert visible[part & (side > 5)].float().mean() > 0.35
    # No background shows through: what lies beside the head hangs together.
    beside = (ids < 0).numpy().astype(np.uint8)
    assert 0.2 < beside.mean() < 0.9
    assert cv2.connectedComponents(beside, connectivity=4)[0] == 2


@pytest.mark.parametrize("yaw", [60.0, 90.0])
def test_a_symmetric_photo_gives_mirror_images(made, photo, yaw):
    _, _, head = made
    one, other = (view(photo, head, rotation_from_angles(angle)).pixels.astype(int) for angle in (yaw, -yaw))
    apart = np.abs(one - other[:, ::-1])
    assert apart.mean() < 1.5
    assert np.quantile(apart, 0.95) < 12
    assert np.abs(one - one[:, ::-1]).mean() > 8


def test_at_rest_it_is_the_photo_and_a_profile_shows_skin_ear_and_hair(made, photo):
    _, _, head = made
    assert np.abs(view(photo, head, torch.eye(3)).pixels.astype(int) - photo.pixels).max() <= 1
    picture = view(photo, head, rotation_from_angles(90.0)).pixels.astype(float) / 255
    vertices = head.scene.mesh_at_rest().vertices
    pivot = torch.tensor(head.scene.pivot)
    pixels = project((vertices - pivot) @ rotation_from_angles(90.0).mT + pivot, head.scene.camera.K)

    def colour(where: torch.Tensor) -> np.ndarray:
        x, y = pixels[where & (head.template.mean[:, 0] < 0)].median(0).values.long().tolist()
        return picture[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1))

    ear, mean = colour(head.template.ear() > 0.9), head.template.mean
    crown = colour((mean[:, 1] < -60) & (mean[:, 2] > 40) & (mean[:, 2] < 80))
    assert ear[0] > 1.15 * ear[2]
    assert crown.max() < 0.35
    assert view(photo, head, rotation_from_angles(90.0)).invented > 0.05


def test_it_can_be_lit_anew(made, photo):
    """The light is found without the mean head's grid, and the photo's own light gives back the photo."""
    _, _, head = made
    apart = relightable(photo, head)
    assert np.abs(apart.relit(apart.harmonics).astype(int) - photo.pixels).max() <= 2


# ---- what the photo hides ----


def rings(hair_mm: float, wall: torch.Tensor | None = None):
    """A head of 60 mm with hair of so many millimetres around it in a photo of 300 x 300 mm, a pixel each."""
    y, x = torch.meshgrid(torch.arange(300) - 149.5, torch.arange(300) - 149.5, indexing="ij")
    away = (x.square() + y.square()).sqrt()
    brown, blue = torch.tensor([0.3, 0.18, 0.1]), torch.tensor([0.3, 0.5, 0.9]) if wall is None else wall
    picture = torch.where((away < 60)[..., None], SKIN, torch.where((away < 60 + hair_mm)[..., None], brown, blue))
    inside = (away < 60).float()
    drawn = torch.stack([inside, inside, torch.zeros_like(inside)])
    window, none = (0.0, 0.0, 300.0, 300.0), torch.zeros(3, 0)
    return hair_outline(picture.movedim(-1, 0).float(), window, drawn, window, 1.0, SKIN, None, (none, none), 0.0)


def test_hair_is_found_around_a_skull_and_the_wall_is_not_hair():
    found = rings(15.0)
    torch.testing.assert_close(found.centre, torch.tensor([150.0, 150.0]), rtol=0, atol=1.0)
    assert (found.known > 0.9).all()
    assert len(found.radius) == RAYS
    assert (found.radius - 60).abs().max() < 2.5
    assert (found.thickness - 15).abs().max() < 3
    places, known = found.lookup(torch.tensor([[150.0, 120.0], [170.0, 150.0]]), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(places, torch.tensor([[150.0, 90.0], [224.0, 150.0]]), rtol=0, atol=4.0)
    assert (known > 0.9).all()
    # Without hair there is the wall, which goes on and on.
    assert (rings(0.0).known < 0.1).all()


def test_unknown_pixels_take_the_nearest_known_colour():
    known = torch.zeros(40, 60, dtype=torch.bool)
    known[:, :10], known[:, 50:] = True, True
    picture = torch.zeros(3, 40, 60)
    picture[:, :, :10], picture[:, :, 50:] = 0.25, 0.75
    carried = carried_on(picture, known)
    torch.testing.assert_close(carried[:, known], picture[:, known])
    assert (carried[:, :, 10:16] < 0.3).all()
    assert (carried[:, :, 44:50] > 0.7).all()
    assert carried[:, :, 29:31].mean() == pytest.approx(0.5, abs=0.02)
    blank = torch.rand(3, 5, 5)
    assert torch.equal(carried_on(blank, torch.zeros(5, 5, dtype=torch.bool)), blank)


def test_a_mesh_of_the_template_is_that_of_the_scene(made):
    scene, _, head = made
    mesh = head.template.mesh(scene.whole.mesh.vertices)
    assert isinstance(mesh, Mesh)
    assert torch.equal(mesh.faces, scene.whole.mesh.faces)
    # Pictures in the atlas and values at its vertices belong together.
    values = head.template.mean / 100
    again = head.template.at_vertices(head.template.pictured(values)[0])
    assert (again - values).norm(dim=1).median() < 0.01
