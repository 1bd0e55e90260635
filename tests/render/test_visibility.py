"""What a photo shows, against analytic scenes and a brute-force ray caster; baking there and back."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from aboutface.errors import UsageError
from aboutface.geometry import (
    clip,
    clip_from_affine,
    clip_from_camera,
    clip_from_orthographic,
    depth_to_mesh,
    grid_faces,
    intrinsics,
    pixel_centres,
    project,
    rotation_from_angles,
    vertex_normals,
)
from aboutface.render import bake, interpolate, rasterize, render, texture, visibility, visible_vertices
from aboutface.scene import Camera, Mesh, Scene

SIZE = (120, 150)


def sphere(radius: float = 0.2, rings: int = 60) -> tuple[Tensor, Tensor]:
    """Vertices of a ball around (0, 0, 1), and its triangles."""
    polar, around = torch.linspace(0, math.pi, rings + 1), torch.linspace(0, 2 * math.pi, 2 * rings + 1)
    p, t = torch.meshgrid(polar, around, indexing="ij")
    unit = torch.stack([p.sin() * t.sin(), -p.cos(), -p.sin() * t.cos()], -1).flatten(0, 1)
    return unit * radius + torch.tensor([0.0, 0.0, 1.0]), grid_faces(rings + 1, 2 * rings + 1)


def square(half: float, z: float, x: float = 0.0) -> Tensor:
    """A plate that faces the camera: corners (4, 3)."""
    return torch.tensor([[x - half, -half, z], [x + half, -half, z], [x + half, half, z], [x - half, half, z]])


SQUARE = torch.tensor([[0, 1, 2], [0, 2, 3]])
CAMERAS = {
    "perspective": clip_from_camera(intrinsics(30, SIZE), SIZE),
    "orthographic": clip_from_orthographic(250.0, SIZE),
    # Seen from the left, by 30 degrees, the depth being measured along z all the same.
    "affine": clip_from_affine(
        250.0 * torch.tensor([[math.cos(0.5), 0, -math.sin(0.5), 0.78], [0, 1, 0, 0.24]]), SIZE, -3.0, 5.0
    ),
}


def towards(points: Tensor, camera: str) -> Tensor:
    """Unit vectors from points (..., 3) to the camera."""
    if camera == "perspective":
        return -functional.normalize(points, dim=-1)
    angle = 0.5 if camera == "affine" else 0.0
    return torch.tensor([-math.sin(angle), 0.0, -math.cos(angle)]).expand_as(points)


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_near_side_of_a_ball_is_seen_at_its_cosine(camera):
    vertices, faces = sphere()
    normals = functional.normalize(vertices - torch.tensor([0.0, 0.0, 1.0]), dim=-1)
    expected = (normals * towards(vertices, camera)).sum(-1)
    found = visibility(vertices, 3 * normals, vertices, faces, CAMERAS[camera], SIZE)
    assert (found[expected < 0] == 0).all()
    clear = expected > 0.1
    assert clear.float().mean() > 0.25
    torch.testing.assert_close(found[clear], expected[clear], rtol=0, atol=1e-4)
    smooth = visible_vertices(vertices, faces, CAMERAS[camera], SIZE)
    # Its own normals are less sure at the seam, where each vertex knows one side.
    assert ((smooth - found).abs() < 0.06).float().mean() > 0.97


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_plate_hides_what_is_behind_it(camera):
    wall, plate = square(0.5, 1.3), square(0.1, 0.9)
    vertices, faces = torch.cat([wall, plate]), torch.cat([SQUARE, SQUARE + 4])
    x, y = torch.meshgrid(torch.linspace(-0.26, 0.26, 40), torch.linspace(-0.2, 0.2, 30), indexing="xy")
    points = torch.stack([x, y, torch.full_like(x, 1.3)], -1)
    normals = torch.tensor([0.0, 0.0, -1.0]).expand_as(points)
    found = visibility(points, normals, vertices, faces, CAMERAS[camera], SIZE)
    assert found.shape == (30, 40)
    # Where the way to the camera passes the plate's depth.
    way = towards(points, camera)
    crossing = points + way * ((0.9 - 1.3) / way[..., 2:])
    inside = (crossing[..., :2].abs() < 0.1).all(-1)
    edge = ((crossing[..., :2].abs() - 0.1).abs() < 0.01).any(-1)
    assert inside.sum() > 60
    assert (found[inside & ~edge] == 0).all()
    expected = (normals * way).sum(-1)
    place = clip(points, CAMERAS[camera])
    in_picture = (place[..., :2].abs() < 0.98 * place[..., 3:]).all(-1)
    shown = ~inside & ~edge & in_picture
    assert shown.sum() > 400
    torch.testing.assert_close(found[shown], expected[shown], rtol=0, atol=1e-5)


def test_a_second_skin_just_behind_the_first_is_hidden():
    # Two plates, 1 pixel apart in depth, seen at a slant: tangent planes alone would not tell.
    size, camera = (64, 64), clip_from_orthographic(64.0, (64, 64))
    x, y = torch.meshgrid(torch.linspace(-0.4, 0.4, 9), torch.linspace(-0.4, 0.4, 9), indexing="xy")
    front = torch.stack([x, y, 1 + 1.5 * x], -1).flatten(0, 1)
    faces = grid_faces(9, 9)
    back = front + torch.tensor([-0.0, 0.0, 0.03])
    found = visible_vertices(torch.cat([front, back]), torch.cat([faces, faces + 81]), camera, size)
    cosine = 1 / math.sqrt(1 + 1.5**2)
    torch.testing.assert_close(found[:81], torch.full((81,), cosine))
    assert (found[81:] == 0).all()


def test_a_mirrored_camera_sees_the_same():
    vertices, faces = sphere(rings=20)
    for camera in CAMERAS.values():
        mirrored = camera * torch.tensor([-1.0, 1.0, 1.0, 1.0])[:, None]
        normals = vertex_normals(vertices, faces)
        there = visibility(vertices, normals, vertices, faces, mirrored, SIZE)
        here = visibility(vertices, normals, vertices, faces, camera, SIZE)
        assert (here > 0.5).any()
        # Pixels are cut at their other side, which decides on a few points at the outline.
        assert ((there - here).abs() > 1e-5).float().mean() < 0.01


def test_nothing_is_seen_outside_the_picture_or_behind_the_camera():
    camera = CAMERAS["perspective"]
    near = torch.tensor([[0.0, 0, -1], [0, 0, 0], [0, 0, 0.04], [10, 0, 1], [0, -10, 1], [torch.nan, 0, 1]])
    points = torch.cat([near, torch.tensor([[0.0, 0.0, 0.5]])])
    normals = torch.tensor([0.0, 0.0, -1.0]).expand_as(points)
    empty = torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)
    for vertices, faces in ((square(0.1, 2.0), SQUARE), empty):
        found = visibility(points, normals, vertices, faces, camera, SIZE)
        assert found[:-1].tolist() == [0.0] * 6
        assert found[-1] == 1
        # What is turned away, or has no normal.
        assert (visibility(points, -normals, vertices, faces, camera, SIZE) == 0).all()
        assert (visibility(points, 0 * normals, vertices, faces, camera, SIZE) == 0).all()


def test_a_batch_is_what_its_items_are():
    vertices, faces = sphere(rings=12)
    other = vertices * torch.tensor([1.3, 0.8, 1.0])
    batch, cameras = torch.stack([vertices, other]), torch.stack([CAMERAS["perspective"], CAMERAS["affine"]])
    together = visible_vertices(batch, faces, cameras, (40, 40))
    own_faces = visible_vertices(batch, torch.stack([faces, faces]), cameras, (40, 40))
    for i in range(2):
        alone = visible_vertices(batch[i], faces, cameras[i], (40, 40))
        assert 0.2 < (alone > 0).float().mean() < 0.6
        assert torch.equal(together[i], alone)
        assert torch.equal(own_faces[i], alone)
    drawn = rasterize(clip(batch, cameras), faces, (40, 40))
    normals = vertex_normals(batch, faces)
    assert torch.equal(visibility(batch, normals, batch, faces, cameras, (40, 40), fragments=drawn), together)
    with pytest.raises(UsageError, match="fragments of size"):
        visibility(batch, normals, batch, faces, cameras, (30, 40), fragments=drawn)
    with pytest.raises(UsageError, match="as many normals"):
        visibility(batch, normals[:, :-1], batch, faces, cameras, (40, 40))


def hidden_by_rays(points: Tensor, corners: Tensor) -> Tensor:
    """(N,): whether the way from points (N, 3) to the origin meets a triangle (F, 3, 3); Möller and Trumbore 1997."""
    a, b, c = corners.unbind(1)
    e1, e2 = b - a, c - a
    hidden = []
    for point in points:
        way = (-point).expand_as(e2)
        p, t = torch.linalg.cross(way, e2, dim=-1), point - a
        q = torch.linalg.cross(t, e1, dim=-1)
        scale = 1 / (p * e1).sum(-1)
        u, v, distance = (p * t).sum(-1) * scale, (q * way).sum(-1) * scale, (q * e2).sum(-1) * scale
        hidden.append(((u >= 0) & (v >= 0) & (u + v <= 1) & (distance > 1e-6) & (distance < 1)).any())
    return torch.stack(hidden)


@pytest.mark.parametrize("yaw", [0, 30, 60])
def test_a_head_agrees_with_rays(yaw, data):
    with np.load(data / "ict-facekit-light.npz") as file:
        part = json.loads(str(file["parts"]))["head_neck"][1]  # face, head and neck; the rest lies inside
        # Centimetres, y up, z out of the face, to a head of a third of a unit around z = 1.
        vertices = torch.from_numpy(file["mean"]).double() * torch.tensor([0.01, -0.01, -0.01])
        quads = torch.from_numpy(file["faces"]).long()
    faces = torch.cat([quads[:, :3], quads[quads[:, 3] >= 0][:, [0, 2, 3]]]).flip(-1)
    turn = rotation_from_angles(torch.tensor(float(yaw)).double(), 0, 0)
    vertices = vertices @ turn.mT + torch.tensor([0.0, 0.0, 1.0])
    size, K = (256, 256), intrinsics(25, (256, 256)).double()
    found = visible_vertices(vertices, faces, clip_from_camera(K, size), size)
    some = torch.randperm(part, generator=torch.Generator().manual_seed(yaw))[:500]
    points, normals = vertices[some], vertex_normals(vertices, faces)[some]
    cosine = -(normals * functional.normalize(points, dim=-1)).sum(-1)
    shown = ~hidden_by_rays(points, vertices[faces]) & (cosine > 0)
    # Away from outlines: the surface is not seen edge-on, and the depths around the pixel do not jump.
    fragments = rasterize(clip(vertices, clip_from_camera(K, size))[None], faces, size)
    depth = interpolate(vertices[:, 2:], fragments, faces)[..., 0]
    depth = torch.where(fragments.triangle_id >= 0, depth, 9.0)
    jump = functional.max_pool2d(depth, 3, 1, 1) + functional.max_pool2d(-depth, 3, 1, 1)
    column, row = project(points, K).long().unbind(-1)
    away = (cosine.abs() > 0.15) & (jump[0, row, column] < 8 * points[:, 2] / K[0, 0])
    agree = (found[some] > 0) == shown
    assert away.sum() > 350
    assert agree[away].double().mean() >= 0.99
    assert agree.double().mean() >= 0.97
    both = (found[some] > 0) & shown
    torch.testing.assert_close(found[some][both], cosine[both])


# ---- baking ----


def smooth_picture(height: int, width: int) -> Tensor:
    x, y = (pixel_centres(height, width) / torch.tensor([width, height])).unbind(-1)
    waves = [torch.sin(5 * x + 2 * y), torch.cos(3 * x - 4 * y), torch.sin(7 * x * y + 1)]
    return torch.stack(waves) * 0.4 + 0.5


def relief(size: tuple[int, int], texels: int) -> Scene:
    """A textured bump."""
    height, width = size
    x, y = (pixel_centres(height, width) / torch.tensor([width, height]) - 0.5).unbind(-1)
    depth = 1 - 0.12 * torch.exp(-((x - 0.07) ** 2 + (y + 0.03) ** 2) * 18) + 0.05 * x
    K = intrinsics(25, size)
    vertices, faces = depth_to_mesh(depth, K)
    uv = (pixel_centres(height, width) / torch.tensor([width, height])).flatten(0, 1)
    return Scene(Mesh(vertices, faces, uv), smooth_picture(texels, texels), Camera(K, *size))


@pytest.mark.parametrize(("size", "texels"), [((96, 80), 64), ((48, 40), 64), ((200, 160), 64)])
@pytest.mark.parametrize("yaw", [20, 45])
def test_a_baked_texture_is_the_one_that_was_drawn(size, texels, yaw):
    scene = relief(size, texels).turned(yaw=yaw)
    view, mesh = render(scene), scene.mesh()
    atlas = bake(view.rgb, mesh, clip_from_camera(scene.camera.K, size), texels)
    assert atlas.texture.shape == (3, texels, texels)
    assert atlas.confidence.shape == (texels, texels)
    sure = atlas.confidence > 0.3
    assert sure.float().mean() > (0.8 if yaw == 20 else 0.6)
    error = (atlas.texture - scene.albedo).abs().amax(0)
    # Measured: 0.009 at most on average, 0.026 at worst; a background of 0 that leaked in would show as 0.3 and more.
    assert error[sure].mean() < 0.003
    assert error[sure].max() < 0.04
    # There and back: the photo again, where the atlas knows it.
    again = render(replace(scene, albedo=atlas.texture)).rgb
    known = render(replace(scene, albedo=atlas.confidence.expand(3, -1, -1))).rgb[0] > 0.3
    change = (again - view.rgb).abs().amax(0)[known]
    assert known.sum() > 0.8 * view.alpha.sum()
    assert change.mean() < 0.003
    assert change.max() < 0.05


def test_confidence_is_the_visibility_of_the_texels():
    scene = relief((60, 50), 40)
    mesh = scene.mesh()
    atlas = bake(scene.albedo.new_ones(3, 60, 50), mesh, clip_from_camera(scene.camera.K, (60, 50)), (60, 50))
    # One texel per pixel and per vertex: each texel's centre is a vertex.
    expected = visible_vertices(mesh.vertices, mesh.faces, clip_from_camera(scene.camera.K, (60, 50)), (60, 50))
    inner = (slice(2, -2), slice(2, -2))
    torch.testing.assert_close(atlas.confidence[inner], expected.view(60, 50)[inner], rtol=0, atol=1e-4)
    assert atlas.confidence.max() <= 1


def two_charts(hidden: bool = False) -> Mesh:
    """Two plates side by side, or one behind the other, on the left and the right of the atlas with room between."""
    vertices = torch.cat([square(0.1, 1.0, 0.0 if hidden else -0.15), square(0.1, 1.2, 0.0 if hidden else 0.18)])
    corner = torch.tensor([[0.0, 0.0], [1, 0], [1, 1], [0, 1]])
    uv = torch.cat([corner * 0.3 + 0.1, corner * 0.3 + torch.tensor([0.6, 0.1])])
    return Mesh(vertices, torch.cat([SQUARE, SQUARE + 4]), uv)


def test_colours_are_carried_over_the_edges_of_charts():
    image = torch.zeros(3, *SIZE)
    image[0, :, :75], image[1, :, 75:] = 1, 1  # the left plate is red, the right one green
    atlas = bake(image, two_charts(), CAMERAS["perspective"], 100, border=3)
    known = atlas.confidence > 0
    assert known[12:38, 12:38].all()
    assert known[12:38, 62:88].all()
    near = functional.max_pool2d(known[None].float(), 7, 1, 3)[0] > 0
    colour = torch.zeros(3, 100, 100)
    colour[0, :, :50], colour[1, :, 50:] = 1, 1
    torch.testing.assert_close(atlas.texture, colour * near)
    assert (atlas.confidence[~known] == 0).all()
    # So sampling at the very edge of a chart mixes in nothing else.
    v, u = torch.meshgrid(torch.linspace(0.1, 0.4, 30), torch.linspace(0.1, 0.4, 30), indexing="ij")
    found = texture(atlas.texture[None], torch.stack([u, v], -1)[None])
    torch.testing.assert_close(found[0], colour[:, :1, :1].expand(3, 30, 30))
    bare = bake(image, two_charts(), CAMERAS["perspective"], 100, border=0)
    assert (bare.texture[:, ~known] == 0).all()


def test_a_photo_finer_than_the_atlas_is_averaged():
    # Stripes of one pixel: a texel of 20 pixels shows their mean, where one sample would show one stripe.
    photo = torch.arange(600).remainder(2).float().expand(1, 480, 600)
    camera = clip_from_camera(intrinsics(30, (480, 600)), (480, 600))
    atlas = bake(photo, two_charts(), camera, 36)
    known = atlas.confidence > 0
    assert known.sum() > 100
    torch.testing.assert_close(atlas.texture[:, known], torch.full((1, int(known.sum())), 0.5), rtol=0, atol=0.02)


def test_what_is_hidden_is_not_baked():
    atlas = bake(torch.ones(1, *SIZE), two_charts(hidden=True), CAMERAS["perspective"], 100)
    assert (atlas.confidence[12:38, 12:38] > 0.9).all()
    assert (atlas.confidence[:, 50:] == 0).all()
    assert (atlas.texture[:, :, 55:] == 0).all()
    behind = replace(two_charts(), vertices=two_charts().vertices * torch.tensor([1.0, 1.0, -1.0]))
    assert all((part == 0).all() for part in bake(torch.ones(1, *SIZE), behind, CAMERAS["perspective"], 20))


def test_baking_is_differentiable():
    scene = relief((12, 10), 8).turned(yaw=10)
    mesh, K = scene.mesh(), scene.camera.K.double()
    mesh = replace(mesh, vertices=mesh.vertices.double())
    g = torch.Generator().manual_seed(0)
    image = torch.rand(2, 12, 10, generator=g).double().requires_grad_()

    def taken(image: Tensor, K: Tensor) -> Tensor:
        return bake(image, mesh, clip_from_camera(K, (12, 10)), 8).texture

    assert torch.autograd.gradcheck(lambda image: taken(image, K), image)
    # The camera's own pixels move under the texels.
    K = K.requires_grad_()
    assert torch.autograd.gradcheck(lambda K: taken(image.detach(), K), K, eps=1e-8, atol=1e-4)


def test_wrong_input_is_refused():
    mesh = two_charts()
    with pytest.raises(UsageError, match="no texture coordinates"):
        bake(torch.ones(3, *SIZE), replace(mesh, uv=None), CAMERAS["perspective"], 8)
    with pytest.raises(UsageError, match="expected an image"):
        bake(torch.ones(1, 3, *SIZE), mesh, CAMERAS["perspective"], 8)
