"""Scene: the algebra of turns, poses and mirrors; depth maps on the rays of their pixels."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from aboutface.face import MIRROR_68
from aboutface.geometry import angles_from_rotation, intrinsics, pixel_centres, project, rotation_from_angles
from aboutface.scene import Camera, DepthMap, Light, Mesh, Pose, Scene

angle = st.floats(-80, 80)


def some_scene(seed: int = 0, **fields) -> Scene:
    """A scene without any symmetry, in which every field is set."""
    generator = torch.Generator().manual_seed(seed)
    vertices = torch.randn(68, 3, generator=generator) * 0.2 + torch.tensor([0.0, 0.0, 1.0])
    faces = torch.randint(0, 68, (40, 3), generator=generator)
    K = intrinsics(20, (40, 60))
    K[0, 1], K[0, 2] = 2.0, 27.0
    values = {
        "surface": Mesh(vertices, faces, torch.rand(68, 2, generator=generator)),
        "albedo": torch.rand(3, 8, 12, generator=generator),
        "camera": Camera(K, 40, 60),
        "light": Light(0.3, 0.6, (0.6, 0.0, -0.8)),
        "pose": Pose(12.0, -5.0, 3.0),
        "pivot": (0.05, -0.02, 1.1),
        "landmarks": vertices.clone(),
    }
    return Scene(**(values | fields))


def depth_scene() -> Scene:
    depth = 1 + 0.05 * torch.rand(6, 9, generator=torch.Generator().manual_seed(1))
    return some_scene(surface=DepthMap(depth), landmarks=None)


def same(a: Scene, b: Scene, atol: float = 1e-5) -> None:
    assert_close(a.mesh().vertices, b.mesh().vertices, rtol=0, atol=atol)
    assert_close(a.current_pose, b.current_pose, rtol=0, atol=1e-3)


@given(angle, angle, angle)
@settings(deadline=None)
def test_pose_to_matrix_and_back(yaw, pitch, roll):
    pose = Pose(yaw, pitch, roll)
    assert_close(Pose.of(pose.rotation()), pose, rtol=0, atol=1e-3)
    assert_close(pose.rotation(), rotation_from_angles(*pose))


def test_turned_twice_means_twice():
    scene = some_scene()
    for axis in ("yaw", "pitch", "roll"):
        same(scene.turned(**{axis: 15}).turned(**{axis: 15}), scene.turned(**{axis: 30}))
        same(scene.turned(**{axis: 40}).turned(**{axis: -40}), scene)


@given(angle, angle, angle)
@settings(deadline=None, max_examples=20)
def test_posed_is_absolute(yaw, pitch, roll):
    scene = some_scene().turned(20, 10, -30)
    posed = scene.posed(yaw, pitch, roll)
    assert_close(posed.current_pose, Pose(yaw, pitch, roll), rtol=0, atol=1e-3)
    same(posed.posed(yaw, pitch, roll), posed)
    same(some_scene().posed(yaw, pitch, roll), posed)


def test_posed_as_in_the_photo_is_at_rest():
    scene = some_scene()
    same(scene.turned(33, 4, 5).posed(*scene.pose), scene)


def test_turned_is_about_the_cameras_axes():
    scene = some_scene().turned(yaw=10, pitch=20, roll=30)
    rotation = rotation_from_angles(10, 20, 30) @ scene.pose.rotation()
    assert_close(scene.current_pose, Pose.of(rotation), rtol=0, atol=1e-3)


def test_360_turns_stay_a_rotation():
    scene = some_scene()
    for _ in range(360):
        scene = scene.turned(1, 1, 1)
    assert_close(scene.turn @ scene.turn.mT, torch.eye(3), rtol=0, atol=2e-5)


def test_a_turn_makes_a_new_scene_and_leaves_the_old():
    scene = some_scene()
    before = scene.mesh_at_rest().vertices.clone()
    turned = scene.turned(yaw=30)
    assert turned is not scene
    assert_close(scene.mesh_at_rest().vertices, before, rtol=0, atol=0)
    assert_close(scene.mesh().vertices, before)
    assert (turned.mesh().vertices - before).abs().max() > 0.1
    assert_close(turned.mesh_at_rest().vertices, before, rtol=0, atol=0)


def test_the_pivot_stays_where_it_is_and_distances_to_it_are_kept():
    pivot = torch.tensor([0.05, -0.02, 1.1])
    scene = some_scene()
    moved = scene.turned(40, 50, 60).mesh().vertices
    assert_close((moved - pivot).norm(dim=-1), (scene.mesh().vertices - pivot).norm(dim=-1))
    at_pivot = replace(scene, surface=Mesh(pivot[None], torch.zeros(0, 3, dtype=torch.int64)))
    assert_close(at_pivot.turned(70, 10, 5).mesh().vertices, pivot[None])


def test_rigidity_goes_from_staying_to_following():
    rest = some_scene()
    rigidity = torch.zeros(68)
    rigidity[10:20] = 1
    rigidity[20:30] = 0.25
    free = rest.turned(yaw=30).mesh().vertices
    held = replace(rest, rigidity=rigidity).turned(yaw=30).mesh().vertices
    start = rest.mesh_at_rest().vertices
    assert_close(held[:10], start[:10], rtol=0, atol=0)
    assert_close(held[10:20], free[10:20])
    assert_close(held[20:30], 0.75 * start[20:30] + 0.25 * free[20:30])


# --- depth maps


@pytest.mark.parametrize("size", [(6, 9), (9, 6), (40, 60)])
def test_the_mesh_of_a_depth_map_projects_to_the_pixel_centres(size):
    camera = Camera(intrinsics(20, (40, 60)), 40, 60)
    depth = 1 + 0.1 * torch.rand(size)
    mesh = DepthMap(depth).mesh(camera)
    height, width = size
    cell = torch.tensor([60 / width, 40 / height])
    centres = (pixel_centres(height, width) * cell).flatten(0, 1)
    assert_close(project(mesh.vertices, camera.K), centres, rtol=0, atol=1e-4)
    assert_close(mesh.vertices[:, 2].view(size), depth)
    assert mesh.uv is not None
    assert_close(mesh.uv * torch.tensor([60.0, 40.0]), centres)


def test_uv_of_a_depth_map_reads_the_pixel_itself():
    albedo, camera = torch.rand(3, 6, 9), Camera(intrinsics(20, (6, 9)), 6, 9)
    uv = DepthMap(torch.ones(6, 9)).mesh(camera).uv
    assert uv is not None
    read = torch.nn.functional.grid_sample(albedo[None], uv.view(1, 6, 9, 2) * 2 - 1, align_corners=False)
    assert_close(read[0], albedo)


def test_normals_of_a_depth_map_look_at_the_camera():
    normals = depth_scene().mesh().normals
    assert (normals[:, 2] < 0).all()
    assert_close(normals.norm(dim=-1), torch.ones(54))


def test_a_double_precision_depth_map_keeps_its_precision():
    mesh = DepthMap(torch.ones(3, 4, dtype=torch.float64)).mesh(Camera(intrinsics(20, (3, 4)), 3, 4))
    assert mesh.vertices.dtype == torch.float64


def test_a_resized_camera_sees_the_same():
    camera = some_scene().camera
    points = some_scene().mesh().vertices
    resized = camera.resized(80, 30)
    assert (resized.height, resized.width) == (80, 30)
    assert_close(project(points, resized.K), project(points, camera.K) * torch.tensor([30 / 60, 80 / 40]))


# --- mirror


def mirrored_pixels(points: Tensor, scene: Scene) -> Tensor:
    seen = project(points, scene.camera.K)
    return torch.stack([scene.camera.width - seen[:, 0], seen[:, 1]], -1)


@pytest.mark.parametrize("make", [some_scene, depth_scene])
def test_the_mirrored_scene_is_seen_mirrored_in_every_turn(make):
    scene = make()
    for seen, mirror in (
        (scene, scene.mirrored()),
        (scene.turned(10, 20, 30), scene.mirrored().turned(-10, 20, -30)),
        (scene.turned(10, 20, 30), scene.turned(10, 20, 30).mirrored()),
        (scene.posed(40, -10, 5), scene.mirrored().posed(-40, -10, -5)),
    ):
        pixels = project(mirror.mesh().vertices, mirror.camera.K)
        assert_close(pixels, mirrored_pixels(seen.mesh().vertices, seen), rtol=0, atol=1e-3)
        yaw, pitch, roll = seen.current_pose
        assert_close(mirror.current_pose, Pose(-yaw, pitch, -roll), rtol=0, atol=1e-3)
        flip = torch.tensor([-1.0, 1.0, 1.0])
        assert_close(mirror.mesh().normals, seen.mesh().normals * flip, rtol=0, atol=1e-4)


def test_the_mirrored_texture_is_read_at_the_mirrored_place():
    scene = some_scene()
    mirror = scene.mirrored()

    def colours(one: Scene) -> Tensor:
        uv = one.mesh().uv
        assert uv is not None
        return torch.nn.functional.grid_sample(one.albedo[None], uv[None, None] * 2 - 1, align_corners=False)

    assert_close(colours(mirror), colours(scene))
    assert mirror.light == Light(0.3, 0.6, (-0.6, 0.0, -0.8))


def test_mirrored_landmarks_keep_their_meaning():
    scene = some_scene()
    mirror = scene.mirrored()
    assert scene.landmarks is not None
    assert mirror.landmarks is not None
    assert_close(mirror.landmarks, (scene.landmarks * torch.tensor([-1.0, 1.0, 1.0]))[MIRROR_68])


@pytest.mark.parametrize("make", [some_scene, depth_scene])
def test_mirrored_twice_is_the_same_scene(make):
    scene = make().turned(10, 20, 30)
    twice = scene.mirrored().mirrored()
    for a, b in [(twice.mesh(), scene.mesh()), (twice.mesh_at_rest(), scene.mesh_at_rest())]:
        assert_close(a.vertices, b.vertices)
        assert torch.equal(a.faces, b.faces)
        assert_close(a.uv, b.uv)
    assert torch.equal(twice.albedo, scene.albedo)
    assert_close(twice.camera.K, scene.camera.K)
    assert_close(twice.turn, scene.turn)
    if scene.landmarks is not None:
        assert_close(twice.landmarks, scene.landmarks)
    assert (twice.light, twice.pose, twice.pivot) == (scene.light, scene.pose, scene.pivot)


def test_current_pose_at_the_profile():
    assert_close(some_scene(pose=Pose(0.0, 0.0, 0.0)).turned(yaw=90).current_pose, Pose(90.0, 0.0, 0.0))
    assert_close(angles_from_rotation(Pose(-90.0, 0.0, 0.0).rotation())[0], torch.tensor(-90.0))
