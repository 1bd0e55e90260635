"""The head around a face: its shape, its texture, the sheet that it is set into."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from aboutface.compose import _reflected
from aboutface.edit import Pipeline, Portrait
from aboutface.errors import NoFaceError
from aboutface.filters import sample, smoothstep
from aboutface.geometry import grid_faces, pixel_centres, project, rotation_from_angles
from aboutface.head import Grid, complete_head, onto_surface
from aboutface.head.sheet import FALLOFF
from aboutface.head.texture import _gain
from aboutface.images import read_photo, to_pixels
from aboutface.morphable import MeanHead
from aboutface.render import interpolate, rasterize, render, texture
from aboutface.scene import Camera, DepthMap, Light, Mesh, Scene

PIXELS_PER_MM = 1.2
SIZE = 480


def posed_points(points: torch.Tensor, yaw: float) -> torch.Tensor:
    """Points (N, 3) of the mean head, millimetres, as pixels (N, 2) of a square photo of the turned head."""
    return (points @ rotation_from_angles(yaw).mT)[:, :2] * PIXELS_PER_MM + SIZE / 2


def in_grey(scene: Scene, values: torch.Tensor) -> torch.Tensor:
    """(3, H, W): the scene's mesh with values (V,), 0 to 1, as its colour."""
    mesh = replace(scene.mesh_at_rest(), uv=torch.stack([values, torch.full_like(values, 0.5)], -1))
    ramp = torch.linspace(0, 1, 256)[None, None].expand(3, 1, -1)
    return render(replace(scene, surface=mesh, albedo=ramp)).rgb


def head_photo(yaw: float, colours: torch.Tensor, landmarks: np.ndarray | None = None) -> Portrait:
    """A photo on which vertex i of the turned mean head has the grey level colours[i], before a black wall."""
    mean = MeanHead.load()
    points = posed_points(mean.landmarks, yaw).numpy()
    blank = Pipeline().portraits(np.zeros((SIZE, SIZE, 3), np.uint8), landmarks=points)[0]
    picture = to_pixels(in_grey(blank.head.scene, colours))
    return Pipeline().portraits(picture, landmarks=points if landmarks is None else landmarks)[0]


def distance_mm(portrait: Portrait, points: torch.Tensor) -> torch.Tensor:
    """(K,) from points (K, 3), camera space, to the nearest vertex of the closed head."""
    scene = portrait.head.scene
    return torch.cdist(points, scene.mesh_at_rest().vertices).amin(1) * scene.scale


# ---- the closed head ----


def test_the_closed_head_passes_through_the_landmarks(portrait):
    own = distance_mm(portrait, portrait.scene.landmarks)
    assert own.mean() < 2.5
    # A nose 15 mm longer: the head follows, and the head as it was would not do.
    moved = portrait.scene.landmarks.clone()
    moved[27:36] += portrait.scene.pose.rotation() @ torch.tensor([0.0, 0.0, -15.0]) / portrait.scene.scale
    longer = replace(
        portrait, head=complete_head(portrait.photo, portrait.face, replace(portrait.scene, landmarks=moved))
    )
    assert distance_mm(portrait, moved[30:31]) > 8
    assert distance_mm(longer, moved[30:31]) < 5


def test_at_rest_the_texture_gives_back_the_photo_where_it_is_seen(portrait):
    head, photo = portrait.head, portrait.photo
    drawn = render(head.scene)
    seen = in_grey(head.scene, head.seen)[0]
    where = seen > 0.95
    assert where.sum() > 0.4 * portrait.face.size**2
    apart = (drawn.rgb - photo.tensor[0]).abs().mean(0)
    assert apart[where].mean() < 0.02
    # It is this photo in this place: two pixels away it fits far worse.
    assert (drawn.rgb - photo.tensor[0].roll(2, -1)).abs().mean(0)[where].mean() > 2 * apart[where].mean()


@pytest.mark.parametrize("yaw", [-35.0, 35.0])
def test_the_outline_of_a_turned_face_follows_the_jaw_points_of_the_far_side(yaw):
    mean = MeanHead.load()
    side = 1 if yaw > 0 else -1
    far = slice(10, 15) if yaw > 0 else slice(2, 7)

    def outline(landmarks: np.ndarray) -> np.ndarray:
        """x of the head's edge at the heights of the far jaw points."""
        scene = head_photo(yaw, torch.zeros(mean.radius.numel()), landmarks).head.scene
        mask = render(scene).alpha.numpy() > 0
        rows = [np.flatnonzero(mask[int(y)]) for y in landmarks[far, 1]]
        return np.array([row.max() + 1 if side > 0 else row.min() for row in rows])

    points = posed_points(mean.landmarks, yaw).numpy().astype(float)
    # What a detector marks there is the outline, not the jaw bone behind it.
    points[far, 0] = outline(points)
    wider = points.copy()
    wider[far, 0] += side * 12
    edge = outline(wider)
    assert np.abs(edge - wider[far, 0]).mean() < 3
    moved = side * (edge - outline(points))
    assert moved.min() >= 6
    assert moved.max() <= 14


# ---- the texture ----


def test_the_atlas_of_a_symmetric_picture_is_symmetric(portrait_pixels):
    half = portrait_pixels[:300, 225:375]
    picture = np.concatenate([half[:, ::-1], half], 1)
    mean = MeanHead.load().landmarks
    points = mean[:, :2].numpy() * 1.1 + [150, 120]
    (portrait,) = Pipeline().portraits(picture, landmarks=points)
    atlas = portrait.head.scene.albedo
    assert (atlas - atlas.flip(-1)).abs().mean() < 2e-3
    assert (atlas - atlas.roll(8, -1)).abs().mean() > 0.01
    seen = portrait.head.seen.view(MeanHead.load().radius.shape)
    assert (seen - seen.flip(1)).abs().mean() < 2e-3


def test_the_hidden_side_takes_the_light_of_its_own_side():
    """A face lit from one side, the dark cheek turned away: what replaces it is dark, though it is the bright one's."""
    mean = MeanHead.load()
    azimuth = mean.per_column(mean.azimuths())
    light = 0.8 - 0.4 * smoothstep(azimuth, -0.15, 0.15)
    # Both cheeks have a birthmark, so that there is something to take over.
    skin = 1 - 0.5 * smoothstep(0.15 - (azimuth.abs() - 0.95).abs(), 0.0, 0.1)
    portrait = head_photo(25.0, light * skin)
    size = portrait.head.scene.albedo.shape[-1]
    nose = mean.landmarks[30, 1]
    row = int((mean.heights < nose).float().mean() * size)
    right = int(mean.column_of(torch.tensor(0.95)) / mean.radius.shape[1] * size)
    column = mean.radius.shape[1] * right // size
    seen = portrait.head.seen.view(mean.radius.shape)[int((mean.heights < nose).sum())]
    assert seen[column] < 0.1 < 0.9 < seen[mean.radius.shape[1] - 1 - column]
    level = portrait.head.scene.albedo[:, row].mean(0)
    assert abs(level[size - 1 - right] - 0.4) < 0.03
    assert abs(level[right] - 0.2) < 0.05
    # Beside it the cheek is twice as bright.
    assert abs(level[int(right * 1.06)] - 0.4) < 0.08


@pytest.mark.parametrize("size", [64, 300])
def test_the_gain_is_the_quotient_of_the_light_where_both_sides_are_seen_and_goes_on_beyond(size):
    x = torch.linspace(-1, 1, size).expand(size, -1)
    light = 0.4 + 0.4 * smoothstep(x, -0.25, 0.25)
    pattern = 0.75 + 0.25 * torch.cos(20 * x)
    own = (light * pattern).expand(3, -1, -1)
    gain = _gain(own, own.flip(-1), smoothstep(0.6 - x.abs(), 0.0, 0.1))
    expected = light / light.flip(-1)
    settled = (x.abs() > 0.4).expand(3, -1, -1)
    torch.testing.assert_close(gain[settled], expected.expand(3, -1, -1)[settled], rtol=0.06, atol=0)
    # The pattern, the same on both sides, is none of its business.
    torch.testing.assert_close(gain * gain.flip(-1), torch.ones_like(gain), rtol=0.06, atol=0)


# ---- the sheet ----


def test_the_skull_follows_the_turn_and_the_edge_of_the_window_stays(portrait):
    head = portrait.head
    rigidity = head.sheet.rigidity.view(head.grid.rows, head.grid.columns)
    edge = torch.cat([rigidity[0], rigidity[-1], rigidity[:, 0], rigidity[:, -1]])
    assert (edge == 0).all()
    assert 0 <= rigidity.min() < rigidity.max() <= 1
    inner = torch.from_numpy(portrait.face.landmarks[17:48]).float()
    assert (sample(rigidity[None], inner, head.grid.covers) > 1 - 1e-4).all()
    pixels_per_mm = float(head.scene.camera.K[0, 0]) / head.scene.scale
    outline = project(head.scene.mesh_at_rest().vertices, head.scene.camera.K)
    away = torch.cdist(head.grid.pixels(), outline).amin(1) / pixels_per_mm
    assert (head.sheet.rigidity[away > FALLOFF + 3] == 0).all()
    assert (away > FALLOFF + 3).float().mean() > 0.2
    mean = MeanHead.load()
    above_chin = mean.per_row(mean.heights) <= mean.landmarks[8, 1]
    assert (head.scene.rigidity[above_chin] == 1).all()
    assert head.scene.rigidity.min() < 1


def test_grid_points_are_the_pixel_centres_of_what_it_covers():
    grid = Grid.over((-13, 7, 200, 95))
    left, top, right, bottom = grid.covers
    cell = torch.tensor([(right - left) / grid.columns, (bottom - top) / grid.rows])
    centres = pixel_centres(grid.rows, grid.columns).flatten(0, 1) * cell + torch.tensor([left, top])
    torch.testing.assert_close(grid.pixels(), centres, rtol=0, atol=1e-3)
    torch.testing.assert_close(grid.pixels()[[0, -1]], torch.tensor([[-13.0, 7.0], [200.0, 95.0]]))
    assert cell.max() <= 213 / 180 + 1e-4
    photo = read_photo(np.zeros((50, 300, 3), np.uint8))
    assert grid.within(photo) == (0, 7, 200, 50)


def test_the_sheet_lies_on_the_photo(portrait):
    """Drawn at rest in its place every vertex shows the photo's pixel; none of them moved."""
    sheet, grid, photo = portrait.head.sheet, portrait.head.grid, portrait.photo
    places = project(sheet.mesh_at_rest().vertices, sheet.camera.K)
    torch.testing.assert_close(places, grid.pixels(), rtol=0, atol=0.01)
    uv = sheet.mesh_at_rest().uv
    inside = ((uv > 0) & (uv < 1)).all(-1)
    assert 0.5 < inside.float().mean() < 1
    left, top, right, bottom = grid.within(photo)
    whole = (0.0, 0.0, float(photo.width), float(photo.height))
    extent = torch.tensor([right - left, bottom - top])
    colours = sample(sheet.albedo, uv[inside] * extent, (0.0, 0.0, float(right - left), float(bottom - top)))
    torch.testing.assert_close(colours, sample(photo.tensor[0], places[inside], whole), rtol=0, atol=0.02)


def test_beyond_its_edge_the_photo_is_mirrored():
    image = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    padded = torch.from_numpy(np.pad(image[0].numpy(), ((0, 0), (5, 5), (5, 5)), "symmetric"))[None]
    uv = pixel_centres(30, 40)[None] / torch.tensor([40, 30]) * 2 - 0.5
    extent = torch.tensor([8, 6])
    torch.testing.assert_close(
        texture(image, _reflected(uv)), texture(padded, (uv * extent + 5) / (extent + 10)), rtol=0, atol=1e-5
    )


def test_half_a_face_at_the_edge_of_the_photo_is_completed_from_the_other_half(portrait, portrait_pixels):
    landmarks = portrait.face.landmarks
    cut = int(landmarks[30, 0]) - 6
    pipeline = Pipeline()
    part = pipeline.rotate(portrait_pixels[:300, cut:].copy(), yaw=30, landmarks=landmarks - np.array([cut, 0]))[0]
    whole = pipeline.rotate(portrait_pixels[:300].copy(), yaw=30, landmarks=landmarks)[0]
    head = part.portrait.head
    x = project(head.scene.mesh_at_rest().vertices, head.scene.camera.K)[:, 0]
    assert head.seen[x < 0].max() < 0.05
    assert ((x < 0) & (head.trusted > 0.9)).sum() > 1000
    assert part.invented[0] > whole.invented[0] + 0.2
    # Brows, eyes, nose and mouth are where the whole photo has them; the edge mirrored outwards would reach 0.2.
    rows = slice(int(landmarks[19, 1]), int(landmarks[8, 1]) - 10)
    expected, completed = whole.image[rows, cut : cut + 30].mean(-1), part.image[rows, :30].mean(-1)
    assert np.corrcoef(expected.ravel(), completed.ravel())[0, 1] > 0.65


# ---- scenes of other methods ----


def test_only_camera_pose_size_and_landmarks_of_a_scene_are_used(portrait):
    """A dense depth map with a light of its own makes the same head; the photo's light is not put on twice."""
    photo = portrait.photo
    dense = replace(
        portrait.scene,
        surface=DepthMap(torch.ones(40, 40)),
        albedo=torch.rand(3, 8, 8),
        light=Light(),
    )
    head = complete_head(photo, portrait.face, dense)
    assert head.scene.light is None
    assert head.sheet.light is None
    # Made now: sums may be split over another number of threads than when the portrait was.
    plain = complete_head(photo, portrait.face, portrait.scene)
    torch.testing.assert_close(head.scene.mesh_at_rest().vertices, plain.scene.mesh_at_rest().vertices)
    torch.testing.assert_close(head.scene.albedo, plain.scene.albedo)


def test_scenes_that_cannot_be_completed_are_refused_in_words(portrait):
    photo, face, scene = portrait.photo, portrait.face, portrait.scene
    for lacking in (replace(scene, landmarks=None), replace(scene, millimetres_per_unit=None)):
        with pytest.raises(ValueError, match="needs landmarks and millimetres_per_unit"):
            complete_head(photo, face, lacking)
    with pytest.raises(ValueError, match="expected a camera of the photo's 512 x 512 pixels, got 256 x 512"):
        complete_head(photo, face, replace(scene, camera=Camera(scene.camera.K, 256, 512)))
    K = scene.camera.K.clone()
    K[0, 2] += 5000
    for away in (K, scene.camera.K * torch.tensor([[1e-6], [1e-6], [1.0]]), scene.camera.K * torch.nan):
        with pytest.raises(NoFaceError, match="no area in the photo of 512 x 512 px"):
            complete_head(photo, face, replace(scene, camera=replace(scene.camera, K=away)))


# ---- dense surfaces ----


def bump(points: torch.Tensor) -> torch.Tensor:
    """(N,) millimetres by which the true face lies before the mean head at points (N, 3): cheek, temple, chin."""
    places = ((-42.0, 42.0, 8.0, 16.0), (30.0, -25.0, -6.0, 18.0), (0.0, 85.0, 5.0, 14.0))
    squares = [((points[:, :2] - torch.tensor([x, y])).square().sum(-1), size, width) for x, y, size, width in places]
    return sum(
        (size * torch.exp(-square / (2 * width**2)) for square, size, width in squares), torch.zeros(len(points))
    )


def true_head() -> torch.Tensor:
    """(V, 3): the mean head with bumps, millimetres, own frame."""
    vertices = MeanHead.load().vertices()
    return vertices - torch.stack([*torch.zeros(2, len(vertices)), bump(vertices)], -1)


def drawn_from_the_front(vertices: torch.Tensor, cells: int, half: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth of a head (V, 3) on a square grid (cells, cells), `half` millimetres to each side, and where it has any."""
    scaled = vertices / torch.tensor([half, half, 1000.0])
    faces = MeanHead.load().faces()
    fragments = rasterize(torch.cat([scaled, torch.ones(len(scaled), 1)], -1)[None], faces, (cells, cells))
    return interpolate(vertices[:, 2:].contiguous(), fragments, faces)[0, ..., 0], fragments.triangle_id[0] >= 0


def seen_from_the_front(vertices: torch.Tensor, cells: int = 96, half: float = 95.0) -> tuple[Mesh, torch.Tensor]:
    """Depth of a head (V, 3) on a square grid, and 1 where it has any: what a network of canonical depth would give.

    Beside the head lies a wall; the step to it is a torn border as such networks have it.
    """
    depth, there = drawn_from_the_front(vertices, cells, half)
    places = (pixel_centres(cells, cells) / cells * 2 - 1) * half
    points = torch.cat([places, torch.where(there, depth, 60.0)[..., None]], -1).flatten(0, 1)
    return Mesh(points, grid_faces(cells, cells)), there.flatten().float()


def off_the_truth(vertices: torch.Tensor) -> torch.Tensor:
    """(N,) millimetres along z from a bent mean head to the true one, its free offset out, all over the face."""
    mean, (depth, there) = MeanHead.load(), drawn_from_the_front(vertices, 120, 60.0)
    truth, _ = drawn_from_the_front(true_head(), 120, 60.0)
    brows, chin = mean.landmarks[19, 1], mean.landmarks[8, 1]
    y = torch.linspace(-59.5, 59.5, 120)[:, None]
    where = there & (y > brows - 20) & (y < chin - 5)
    off = (depth - truth)[where]
    return (off - off.median()).abs()


@pytest.fixture(scope="module")
def dense() -> tuple[Mesh, torch.Tensor]:
    """The true head's front, 30 mm too far away, and its trust."""
    mesh, trust = seen_from_the_front(true_head())
    return replace(mesh, vertices=mesh.vertices + torch.tensor([0.0, 0.0, 30.0])), trust


def test_the_face_meets_a_trusted_surface(dense):
    mean = MeanHead.load()
    whole = onto_surface(mean.vertices(), mean, *dense)
    assert off_the_truth(mean.vertices()).mean() > 1
    assert off_the_truth(whole).mean() < 0.2 * off_the_truth(mean.vertices()).mean()
    half = onto_surface(mean.vertices(), mean, dense[0], dense[1] / 2)
    torch.testing.assert_close(half, (mean.vertices() + whole) / 2, rtol=0, atol=0.1)


def test_only_the_face_moves_and_only_along_its_own_axis(dense):
    mean = MeanHead.load()
    moved = onto_surface(mean.vertices(), mean, *dense) - mean.vertices()
    assert (moved[:, :2] == 0).all()
    azimuth = mean.per_column(mean.azimuths()).abs()
    throat = mean.per_row(mean.heights) > mean.landmarks[8, 1] + 30
    crown = mean.per_row(mean.heights) < mean.landmarks[17:27, 1].min() - 70
    assert (moved[(azimuth > 1.5) | throat | crown] == 0).all()
    # Between there is no step: neighbours on the head move nearly alike.
    grid = moved[:, 2].view(mean.radius.shape)
    for along in (0, 1):
        apart = mean.vertices().view(*mean.radius.shape, 3).diff(dim=along).norm(dim=-1)
        steep = grid.diff(dim=along).abs() / apart.clamp_min(0.5)
        assert steep.max() < 1.2


def test_a_mirrored_surface_gives_the_mirrored_head(dense):
    mean, (mesh, trust) = MeanHead.load(), dense
    flip = torch.tensor([-1.0, 1.0, 1.0])
    uneven = trust * (0.5 + 0.5 * torch.rand(len(trust), generator=torch.Generator().manual_seed(0)))
    one = onto_surface(mean.vertices(), mean, mesh, uneven)
    other = onto_surface(mean.vertices(), mean, Mesh(mesh.vertices * flip, mesh.faces.flip(-1)), uneven)
    back = other.view(*mean.radius.shape, 3).flip(1).flatten(0, 1) * flip
    # The head's own triangles are no mirror images: a nose differs by as much.
    torch.testing.assert_close(back, one, rtol=0, atol=0.4)
    assert (back - one).abs().mean() < 0.01
    assert (other - one).abs().max() > 3


def test_spikes_holes_and_torn_rims_do_no_harm(dense):
    mean, (mesh, trust) = MeanHead.load(), dense
    generator = torch.Generator().manual_seed(0)
    vertices, believed = mesh.vertices.clone(), trust.clone()
    spikes = torch.randperm(len(vertices), generator=generator)[: len(vertices) // 30]
    vertices[spikes, 2] += 40 * torch.randn(len(spikes), generator=generator)
    vertices[spikes[:40], 2] = torch.nan
    # A hole over a cheek, and a rim that falls back.
    hole = (vertices[:, :2] - torch.tensor([35.0, 40.0])).norm(dim=-1) < 9
    believed[hole] = 0
    vertices[hole, 2] -= 90
    vertices[vertices[:, 0].abs() > 60, 2] += 25
    clean = off_the_truth(onto_surface(mean.vertices(), mean, mesh, trust))
    rough = off_the_truth(onto_surface(mean.vertices(), mean, replace(mesh, vertices=vertices), believed))
    assert rough.mean() < clean.mean() + 0.3
    assert rough.mean() < 0.5 * off_the_truth(mean.vertices()).mean()
    assert rough.max() < off_the_truth(mean.vertices()).max() + 1
    # A surface that is nothing but spikes: the head stays near where it was.
    noise = mesh.vertices.clone()
    noise[:, 2] += 60 * torch.randn(len(noise), generator=generator)
    moved = onto_surface(mean.vertices(), mean, replace(mesh, vertices=noise), trust) - mean.vertices()
    assert moved.abs().mean() < 2


def with_surface(portrait: Portrait, dense: tuple[Mesh, torch.Tensor], trust: float = 1.0) -> Scene:
    """The portrait's scene with the dense surface, of the head's own frame, put into camera space."""
    scene = portrait.scene
    vertices = dense[0].vertices / scene.scale @ scene.pose.rotation().mT + torch.tensor(scene.pivot)
    return replace(scene, surface=replace(dense[0], vertices=vertices), trust=dense[1] * trust)


@pytest.mark.parametrize("yaw", [0.0, -25.0])
def test_a_head_with_a_dense_surface_is_nearer_to_the_truth(yaw, dense):
    mean = MeanHead.load()
    portrait = head_photo(yaw, torch.full((mean.radius.numel(),), 0.6))
    follows = complete_head(portrait.photo, portrait.face, with_surface(portrait, dense))

    def off(scene: Scene) -> torch.Tensor:
        own = (scene.mesh_at_rest().vertices - torch.tensor(scene.pivot)) @ scene.pose.rotation() * scene.scale
        return off_the_truth(own).mean()

    assert off(portrait.head.scene) > 1
    assert off(follows.scene) < 0.4 * off(portrait.head.scene)
    # What lies around goes with it, and none of the parts claims to have the surface that was given.
    assert follows.scene.trust is None
    assert follows.sheet.trust is None
    assert not torch.equal(follows.sheet.mesh_at_rest().vertices, portrait.head.sheet.mesh_at_rest().vertices)


def test_a_surface_of_no_trust_changes_nothing(portrait, dense):
    head = complete_head(portrait.photo, portrait.face, with_surface(portrait, dense, trust=0.0))
    plain = complete_head(portrait.photo, portrait.face, portrait.scene)
    for part, expected in ((head.scene, plain.scene), (head.sheet, plain.sheet)):
        assert torch.equal(part.mesh_at_rest().vertices, expected.mesh_at_rest().vertices)
        assert torch.equal(part.albedo, expected.albedo)
        assert part.rigidity is not None
        assert expected.rigidity is not None
        assert torch.equal(part.rigidity, expected.rigidity)


def test_at_rest_a_head_on_a_dense_surface_still_gives_back_the_photo(portrait, dense):
    """The texture is the photo's at its own resolution, whatever shape it lies on."""
    head = complete_head(portrait.photo, portrait.face, with_surface(portrait, dense))
    assert head.scene.albedo.shape == portrait.head.scene.albedo.shape
    where = in_grey(head.scene, head.seen)[0] > 0.95
    apart = (render(head.scene).rgb - portrait.photo.tensor[0]).abs().mean(0)
    assert where.sum() > 0.4 * portrait.face.size**2
    assert apart[where].mean() < 0.02


def test_a_depth_map_may_be_trusted_and_trust_has_the_size_of_the_surface(portrait):
    scene, cells = portrait.scene, 60
    flat = replace(scene, surface=DepthMap(torch.ones(cells, cells)), trust=torch.ones(cells * cells))
    head = complete_head(portrait.photo, portrait.face, flat)
    assert head.scene.mesh_at_rest().vertices.isfinite().all()
    assert not torch.equal(head.scene.mesh_at_rest().vertices, portrait.head.scene.mesh_at_rest().vertices)
    with pytest.raises(ValueError, match="one value for each of the surface's 3600 vertices, got \\(7,\\)"):
        complete_head(portrait.photo, portrait.face, replace(flat, trust=torch.ones(7)))
