"""One test per numbered sentence of docs/conventions.md; the number is in the test's name."""

import ast
import json
import math
import re
import tarfile
from collections import Counter
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from aboutface import detect, errors
from aboutface.detect import dlib_backend
from aboutface.export import gltf_from_camera, save_mesh
from aboutface.face import MIRROR_68, Face
from aboutface.geometry import (
    angles_from_rotation,
    apply,
    clip_from_camera,
    compose,
    face_normals,
    grid_faces,
    intrinsics,
    invert,
    pixel_centres,
    project,
    rotation_from_angles,
    scaling,
    translation,
    unproject,
)
from aboutface.images import to_pixels, to_tensor
from aboutface.scene import Camera, DepthMap, Light, Mesh, Pose, Scene

ROOT = Path(__file__).resolve().parents[1]
FORWARD = torch.tensor([0.0, 0.0, -1.0])
"""Where a face at rest looks."""
SIZE = 40, 60


def face_scene(**values) -> Scene:
    """One triangle: nose tip, and two points behind it."""
    vertices = torch.tensor([[0.0, 0.0, 0.9], [0.1, 0.1, 1.0], [-0.1, 0.1, 1.0]])
    K = intrinsics(20, SIZE)
    defaults = {
        "surface": Mesh(vertices, torch.tensor([[0, 1, 2]])),
        "albedo": torch.rand(3, 4, 4),
        "camera": Camera(K, *SIZE),
    }
    return Scene(**(defaults | values))


def looks(**angles: float) -> Tensor:
    return rotation_from_angles(**angles) @ FORWARD


def test_every_sentence_has_one_test_and_every_test_its_sentence():
    promised = re.findall(r"^- \*\*C(\d+)\*\*", (ROOT / "docs" / "conventions.md").read_text("utf-8"), re.MULTILINE)
    tree = ast.parse(Path(__file__).read_text("utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    tested = [m[1] for name in names if (m := re.match(r"test_c(\d+)_", name))]
    assert Counter(promised) == Counter(tested)
    assert promised == [str(i + 1) for i in range(len(promised))], "numbers run from 1 without a gap"


# --- space


def test_c1_x_right_y_down_z_forward():
    K = intrinsics(20, SIZE)
    centre, right, down = project(torch.tensor([[0.0, 0, 1], [0.1, 0, 1], [0, 0.1, 1]]), K)
    assert right[0] > centre[0]
    assert right[1] == centre[1]
    assert down[1] > centre[1]
    assert down[0] == centre[0]
    clip = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, -1.0, 1.0]]) @ clip_from_camera(K, SIZE).mT
    assert clip[0, 3] > 0 > clip[1, 3], "w tells the front from the back"


def test_c2_a_face_at_rest_looks_at_the_camera():
    assert_close(Pose(0.0, 0.0, 0.0).rotation() @ FORWARD, FORWARD)
    # The nose of a face at rest is nearer than its cheeks, and its normal points to the camera.
    assert (face_scene().mesh().normals @ FORWARD > 0).all()


def test_c3_the_centre_of_the_face_is_at_depth_1():
    assert face_scene().pivot == (0.0, 0.0, 1.0)
    K = intrinsics(20, SIZE)
    # Distances are relative: everything twice as far and twice as large looks the same.
    points = face_scene().mesh().vertices
    assert_close(project(2 * points, K), project(points, K))


def test_c4_millimetres_per_unit_is_known_or_none():
    assert face_scene().millimetres_per_unit is None
    known = face_scene(millimetres_per_unit=600.0).turned(yaw=20)
    assert known.millimetres_per_unit == 600.0


def test_c5_corners_run_clockwise_seen_from_outside():
    clockwise = torch.tensor([[0.0, 0, 1], [1, 0, 1], [0, 1, 1]])  # on the screen: to the right, then down and back
    assert_close(face_normals(clockwise, torch.tensor([[0, 1, 2]])), FORWARD[None])
    grid = torch.cat([pixel_centres(3, 4), torch.ones(3, 4, 1)], -1).flatten(0, 1)
    normals = face_normals(grid, grid_faces(3, 4))
    assert_close(normals, FORWARD.expand_as(normals))


# --- angles


def test_c6_angles_are_degrees():
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert_close(rotation_from_angles(roll=90), quarter)
    assert_close(Pose(0.0, 0.0, 90.0).rotation(), quarter)
    assert_close(face_scene().turned(roll=90).turn, quarter)
    assert_close(face_scene().posed(roll=90).turn, quarter)
    assert_close(angles_from_rotation(quarter)[2], torch.tensor(90.0))
    assert_close(Pose.of(quarter), Pose(0.0, 0.0, 90.0))
    assert_close(intrinsics(90, (2, 2))[0, 0], torch.tensor(1.0))


def test_c7_positive_yaw_faces_the_right_of_the_image():
    x, y, z = looks(yaw=30)
    assert_close(x, torch.tensor(0.5))
    assert y == 0
    assert z < 0
    nose = project(face_scene().turned(yaw=30).mesh().vertices, face_scene().camera.K)[0]
    assert nose[0] > SIZE[1] / 2


def test_c8_positive_pitch_looks_up():
    x, y, z = looks(pitch=30)
    assert_close(y, torch.tensor(-0.5))
    assert x == 0
    assert z < 0
    nose = project(face_scene().turned(pitch=30).mesh().vertices, face_scene().camera.K)[0]
    assert nose[1] < SIZE[0] / 2


def test_c9_positive_roll_is_clockwise_as_seen():
    top = rotation_from_angles(roll=30) @ torch.tensor([0.0, -1.0, 0.0])
    assert top[0] > 0 > top[1], "the crown moves to the right"


def test_c10_order_of_rotations():
    product = rotation_from_angles(roll=20) @ rotation_from_angles(yaw=30) @ rotation_from_angles(pitch=40)
    assert_close(rotation_from_angles(30, 40, 20), product)
    other = rotation_from_angles(pitch=40) @ rotation_from_angles(yaw=30) @ rotation_from_angles(roll=20)
    assert (other - product).abs().max() > 0.1
    axes = torch.eye(3)
    for i, angle in enumerate(("pitch", "yaw", "roll")):
        assert_close(rotation_from_angles(**{angle: 50}) @ axes[i], axes[i])


def test_c11_range_of_yaw_and_the_lock():
    generator = torch.Generator().manual_seed(0)
    angles = torch.rand(3, 500, generator=generator, dtype=torch.float64) * 720 - 360
    rotation = rotation_from_angles(*angles)
    yaw, pitch, roll = angles_from_rotation(rotation)
    assert yaw.abs().max() <= 90
    assert_close(rotation_from_angles(yaw, pitch, roll), rotation)
    for side in (-90.0, 90.0):
        found = angles_from_rotation(rotation_from_angles(torch.tensor(side, dtype=torch.float64), 30, 40))
        assert_close(found[0], torch.tensor(side, dtype=torch.float64))
        assert abs(found[1]) < 1e-6


def test_c12_the_head_turns_about_the_pivot():
    pivot = torch.tensor([[0.02, 0.03, 1.2]])
    scene = face_scene(surface=Mesh(pivot, torch.zeros(0, 3, dtype=torch.int64)), pivot=(0.02, 0.03, 1.2))
    assert_close(scene.turned(50, 20, 10).mesh().vertices, pivot)


def test_c13_posed_is_absolute():
    scene = face_scene(pose=Pose(20.0, 5.0, -3.0)).turned(10, 20, 30)
    for _ in range(2):
        scene = scene.posed(yaw=15, pitch=-10, roll=5)
        assert_close(scene.current_pose, Pose(15.0, -10.0, 5.0), rtol=0, atol=1e-3)


def test_c14_turned_is_relative():
    scene = face_scene(pose=Pose(20.0, 0.0, 0.0)).turned(yaw=10).turned(yaw=15)
    assert_close(scene.current_pose, Pose(45.0, 0.0, 0.0), rtol=0, atol=1e-3)
    tilted = face_scene(pose=Pose(0.0, 0.0, 90.0))
    # About the camera's axes: a head lying on its side still looks to the right of the image.
    assert_close(tilted.turned(yaw=30).turn @ tilted.pose.rotation() @ FORWARD, looks(yaw=30), rtol=0, atol=1e-6)


# --- pixels


def test_c15_pixel_centres_are_half_integers():
    centres = pixel_centres(2, 3)
    assert_close(centres[0, 0], torch.tensor([0.5, 0.5]))
    assert_close(centres[1, 2], torch.tensor([2.5, 1.5]))


def test_c16_the_image_spans_0_to_its_size():
    height, width = SIZE
    mirrored = pixel_centres(height, width).flip(1) * torch.tensor([-1.0, 1.0]) + torch.tensor([width, 0.0])
    assert_close(mirrored, pixel_centres(height, width))
    points = face_scene().mesh().vertices
    camera = face_scene().camera
    assert_close(project(points, camera.resized(2 * height, 2 * width).K), 2 * project(points, camera.K))
    landmarks = np.random.default_rng(0).uniform(0, 60, (68, 2))
    flipped = Face(landmarks, (0, 0, 1, 1)).mirrored(width).landmarks
    np.testing.assert_allclose(flipped[:, 0], width - landmarks[MIRROR_68, 0])


def test_c17_points_are_x_y_and_sizes_are_h_w():
    assert pixel_centres(2, 5).shape == (2, 5, 2)
    assert_close(pixel_centres(2, 5)[-1, -1], torch.tensor([4.5, 1.5]))
    assert_close(intrinsics(20, (40, 60))[:2, 2], torch.tensor([30.0, 20.0]))


def test_c18_grid_sample_never_aligns_corners():
    sampled = 0
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "grid_sample":
                given = {k.arg: k.value for k in node.keywords}
                assert "align_corners" in given, f"{path.name}:{node.lineno}"
                value = given["align_corners"]
                assert isinstance(value, ast.Constant), f"{path.name}:{node.lineno}"
                assert value.value is False, f"{path.name}:{node.lineno}"
                sampled += 1
    assert sampled, "the walk finds nothing: has the layout changed?"
    image = torch.rand(1, 3, *SIZE)
    uv = pixel_centres(*SIZE) / torch.tensor([SIZE[1], SIZE[0]])
    read = torch.nn.functional.grid_sample(image, uv[None] * 2 - 1, align_corners=False)
    assert_close(read, image)


def test_c19_texture_starts_at_the_top_left():
    uv = DepthMap(torch.ones(SIZE)).mesh(face_scene().camera).uv
    assert uv is not None
    uv = uv.view(*SIZE, 2)
    assert_close(uv[0, 0], torch.tensor([0.5 / SIZE[1], 0.5 / SIZE[0]]))
    assert_close(1 - uv[-1, -1], torch.tensor([0.5 / SIZE[1], 0.5 / SIZE[0]]))


def test_c20_depth_is_z():
    depth = 1 + torch.rand(SIZE)
    mesh = DepthMap(depth).mesh(face_scene().camera)
    assert_close(mesh.vertices[:, 2].view(SIZE), depth)
    assert (mesh.vertices.norm(dim=-1).view(SIZE)[0, 0] - depth[0, 0]).abs() > 1e-3, "a corner's ray is longer"
    assert_close(project(mesh.vertices, face_scene().camera.K), pixel_centres(*SIZE).flatten(0, 1), rtol=0, atol=1e-4)


# --- cameras


def test_c21_k_takes_camera_space_to_pixels():
    K = torch.tensor([[50.0, 2, 30], [0, 60, 20], [0, 0, 1]])
    x, y, z = point = torch.tensor([0.3, -0.2, 2.0])
    expected = torch.stack([(50 * x + 2 * y + 30 * z) / z, (60 * y + 20 * z) / z])
    assert_close(project(point[None], K)[0], expected)
    assert_close(unproject(expected[None], z[None], K)[0], point)
    assert_close(project(torch.tensor([[0.0, 0.0, 1.0]]), intrinsics(33, SIZE))[0], torch.tensor([30.0, 20.0]))


def test_c22_field_of_view_spans_the_longer_side():
    edge = math.tan(math.radians(25 / 2))
    assert_close(project(torch.tensor([[edge, 0, 1]]), intrinsics(25, (40, 60)))[0, 0], torch.tensor(60.0))
    assert_close(project(torch.tensor([[0, edge, 1]]), intrinsics(25, (60, 40)))[0, 1], torch.tensor(60.0))


def test_c23_edges_of_clip_space():
    K = intrinsics(20, SIZE)
    corners = unproject(torch.tensor([[0.0, 0.0], [60.0, 40.0]]), torch.tensor([1.0, 2.0]), K)
    clip = apply(clip_from_camera(K, SIZE), corners)
    assert_close(clip[:, :2], torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))


def test_c24_depth_in_clip_space():
    matrix = clip_from_camera(intrinsics(20, SIZE), SIZE, near=0.5, far=3.0)
    points = torch.tensor([[0.1, 0.1, 0.5], [0.1, 0.1, 3.0]])
    assert_close(apply(matrix, points)[:, 2], torch.tensor([-1.0, 1.0]))
    assert_close((points @ matrix[:, :3].mT + matrix[:, 3])[:, 3], points[:, 2])


# --- images


def test_c25_images_are_float_rgb_from_0_to_1():
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 2] = [255, 51, 0]
    tensor = to_tensor(pixels)
    assert (tensor.dtype, tensor.shape) == (torch.float32, (1, 3, 2, 3))
    assert_close(tensor[0, :, 0, 2], torch.tensor([1.0, 0.2, 0.0]))
    back = to_pixels(tensor)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, pixels)


# --- landmarks


def test_c26_landmarks_are_ibug_68(data):
    with pytest.raises(ValueError, match=r"\(68, 2\)"):
        Face(np.zeros((66, 2)), (0, 0, 1, 1))
    with tarfile.open(data / "ytf68-train.tar") as tar:
        members = [m for m in tar.getmembers() if m.name.endswith(".json")][:100]
        points = np.array([json.load(tar.extractfile(m))["landmarks68"] for m in members])  # pyright: ignore
    mean = ((points - points.mean(1, keepdims=True)) / points.std((1, 2), keepdims=True)).mean(0)
    x, y = mean.T
    assert np.argmin(x) in (0, 1)
    assert np.argmax(x) in (15, 16)
    assert np.argmax(y) == 8
    assert x[36:42].max() < x[30] < x[42:48].min()
    assert y[19] < y[36:48].min() < y[30] < y[48:68].min()
    assert np.ptp(x[[8, 27, 30, 33, 51, 57]]) < 0.2, "the midline is upright"


def test_c27_mirrored_landmarks_keep_their_meaning():
    landmarks = np.random.default_rng(1).uniform(0, 60, (68, 2))
    mirrored = Face(landmarks, (0, 0, 1, 1)).mirrored(100).landmarks
    np.testing.assert_allclose(mirrored, landmarks[MIRROR_68] * [-1, 1] + [100, 0])
    points = torch.rand(68, 3)
    of_scene = face_scene(landmarks=points).mirrored().landmarks
    assert_close(of_scene, points[MIRROR_68] * torch.tensor([-1.0, 1.0, 1.0]))
    assert (MIRROR_68[36], MIRROR_68[8], MIRROR_68[0]) == (45, 8, 16)


def test_c28_faces_are_numbered_from_0_largest_first():
    class Fixed:
        name, licence = "fixed", "none"

        def faces(self, pixels: np.ndarray) -> list[Face]:
            unit = np.random.default_rng(0).uniform(0, 1, (68, 2))
            return [Face(unit * side, (0, 0, side, side)) for side in (50, 90, 70)]

    found = detect.detect(np.zeros((100, 100, 3), np.uint8), face="all", detector=Fixed())
    assert [f.index for f in found] == [0, 1, 2]
    assert found[0].size > found[1].size > found[2].size


# --- transforms


def test_c29_transforms_are_named_by_both_ends():
    landmarks = np.random.default_rng(2).uniform(100, 200, (68, 2))
    photo_from_crop = torch.from_numpy(Face(landmarks, (0, 0, 1, 1)).photo_from_crop(64, margin=0.0))
    in_photo = apply(photo_from_crop, torch.tensor([[32.0, 32.0]], dtype=torch.float64))
    assert_close(in_photo[0], torch.from_numpy((landmarks.min(0) + landmarks.max(0)) / 2))


def test_c30_composition_is_cancellation():
    c_from_b, b_from_a = scaling(2, 2), translation(10, 0)
    point = torch.tensor([[1.0, 1.0]])
    assert_close(apply(c_from_b @ b_from_a, point), torch.tensor([[22.0, 2.0]]))
    assert_close(compose(c_from_b, b_from_a), c_from_b @ b_from_a)
    assert_close(compose(invert(c_from_b), c_from_b, b_from_a), b_from_a)


# --- foreign frames


def test_c31_exported_meshes_are_in_metres_y_up_z_to_the_viewer(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    centre, right, up, nearer = gltf_from_camera(
        np.array([[0, 0, 1.0], [0.1, 0, 1], [0, -0.1, 1], [0, 0, 0.9]]), (0, 0, 1), 0.5
    )
    np.testing.assert_allclose([centre, right, up, nearer], [[0, 0, 0], [0.05, 0, 0], [0, 0.05, 0], [0, 0, 0.05]])
    save_mesh(tmp_path / "face.ply", face_scene(millimetres_per_unit=500.0))
    mesh = trimesh.load_mesh(tmp_path / "face.ply", process=False)
    ours = face_scene().mesh()
    np.testing.assert_allclose(mesh.vertices[0], [0, 0, 0.05], atol=1e-6)
    # trimesh takes counter-clockwise corners for outside.
    np.testing.assert_allclose(mesh.face_normals[0][2] > 0, bool(face_normals(ours.vertices, ours.faces)[0, 2] < 0))


def test_c32_exported_texture_coordinates_start_at_the_bottom(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    uv = torch.tensor([[0.1, 0.2], [0.5, 0.7], [0.9, 1.0]])
    scene = face_scene(millimetres_per_unit=500.0)
    scene = replace(scene, surface=replace(scene.mesh(), uv=uv))
    save_mesh(tmp_path / "face.obj", scene)
    written = trimesh.load_mesh(tmp_path / "face.obj", process=False).visual.uv
    np.testing.assert_allclose(written, uv.numpy() * [1, -1] + [0, 1], atol=1e-6)


def test_c33_dlib_counts_centres_on_integers(monkeypatch):
    dlib = pytest.importorskip("dlib")
    points = [dlib.point(3 * i, 2 * i) for i in range(68)]
    predicted = dlib.full_object_detection(dlib.rectangle(0, 0, 200, 200), points)
    monkeypatch.setattr(dlib_backend, "load_model", lambda kind: lambda *_: predicted)
    chip = np.zeros((160, 160, 3), np.uint8)
    found = dlib_backend._points(chip, 80.0, 80.0, 1.0)
    np.testing.assert_allclose(found, [(3 * i + 0.5, 2 * i + 0.5) for i in range(68)])
    shape = dlib_backend.to_dlib_shape(Face(found, (0, 0, 200, 140)))
    assert [(p.x, p.y) for p in shape.parts()] == [(3 * i, 2 * i) for i in range(68)]


def test_c34_pts_files_count_from_1(tmp_path):
    file = tmp_path / "face.pts"
    rows = "\n".join(f"{i + 1} {2 * i + 1}" for i in range(68))
    file.write_text(f"version: 1\nn_points: 68\n{{\n{rows}\n}}\n")
    # The first pixel's centre is (1, 1) there and (0.5, 0.5) here.
    expected = [(i + 0.5, 2 * i + 0.5) for i in range(68)]
    np.testing.assert_allclose(detect.from_file.read_landmarks(file), expected)


# --- values and errors


def test_c35_values_are_frozen():
    face = Face(np.random.default_rng(0).uniform(0, 9, (68, 2)), (0, 0, 9, 9))
    scene = face_scene(light=Light())
    for value in (face, scene, scene.camera, scene.light, scene.surface, DepthMap(torch.ones(2, 2))):
        assert is_dataclass(value)
        assert not isinstance(value, type)
        for field in fields(value):
            with pytest.raises(FrozenInstanceError):
                setattr(value, field.name, None)
    before, landmarks = scene.mesh_at_rest().vertices.clone(), face.landmarks.copy()
    scene.turned(30).mirrored().posed(10).mesh()
    face.mirrored(100)
    assert_close(scene.mesh_at_rest().vertices, before, rtol=0, atol=0)
    assert_close(scene.turn, torch.eye(3), rtol=0, atol=0)
    np.testing.assert_array_equal(face.landmarks, landmarks)


def test_c36_errors_carry_the_exit_code():
    expected = {
        "PhotoError": 1,
        "OutputError": 1,
        "UsageError": 2,
        "MissingError": 2,
        "ConsentError": 3,
        "NoFaceError": 4,
    }
    found = {
        name: value.exit_code
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.AboutfaceError)
    }
    assert expected.items() <= found.items()
    assert set(found.values()) <= {1, 2, 3, 4}
