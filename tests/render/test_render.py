import math
from dataclasses import fields, replace

import pytest
import torch

import aboutface.render
from aboutface.errors import UsageError
from aboutface.geometry import (
    clip,
    clip_from_affine,
    clip_from_camera,
    clip_from_orthographic,
    depth_to_points,
    face_normals,
    grid_normals,
    intrinsics,
    pixel_centres,
    project,
    stack_meshes,
    unproject,
    vertex_normals,
)
from aboutface.render import Render, antialias, interpolate, rasterize, render, sh_basis, sides
from aboutface.scene import Camera, DepthMap, Light, Mesh, Scene, SphericalHarmonics

pytestmark = pytest.mark.usefixtures("every_backend")

SIZE = (48, 40)


def picture(height: int, width: int) -> torch.Tensor:
    """A smooth texture (3, H, W) without symmetry."""
    x, y = (pixel_centres(height, width) / torch.tensor([width, height])).unbind(-1)
    waves = [torch.sin(5 * x + 2 * y), torch.cos(3 * x - 4 * y), torch.sin(7 * x * y + 1)]
    return torch.stack(waves) * 0.4 + 0.5


def bumpy(size: tuple[int, int] = SIZE, light: Light | SphericalHarmonics | None = None, samples: int = 2) -> Scene:
    """A depth map with an off-centre nose, seen by a camera whose axis is off-centre too."""
    height, width = size[0] * samples, size[1] * samples
    x, y = (pixel_centres(height, width) / torch.tensor([width, height]) - 0.5).unbind(-1)
    depth = 1 - 0.12 * torch.exp(-((x - 0.07) ** 2 + (y + 0.03) ** 2) * 18) + 0.05 * x
    K = intrinsics(25, size)
    K[0, 2] += 1.3
    return Scene(DepthMap(depth), picture(height, width), Camera(K, *size), light)


def ball(radius: float = 0.12, rings: int = 96) -> Mesh:
    """A sphere around (0, 0, 1)."""
    polar = torch.linspace(0, math.pi, rings + 1)[:, None]
    around = torch.arange(2 * rings)[None] * (math.pi / rings)
    unit = torch.stack([polar.sin() * around.cos(), polar.cos().expand(-1, 2 * rings), polar.sin() * around.sin()], -1)
    index = torch.arange(unit[..., 0].numel()).view(rings + 1, 2 * rings)
    a, b, c, d = index[:-1], index[:-1].roll(-1, 1), index[1:], index[1:].roll(-1, 1)
    faces = torch.cat([torch.stack(t, -1).flatten(0, 1) for t in ((a, c, b), (b, c, d))])
    return Mesh(unit.flatten(0, 1) * radius + torch.tensor([0.0, 0.0, 1.0]), faces)


def turn_inside_out(view: Render) -> Render:
    """The picture seen in a mirror."""
    flipped = {f.name: getattr(view, f.name).flip(-1) for f in fields(view)}
    return Render(**{**flipped, "normal": flipped["normal"] * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]})


def test_at_rest_a_depth_map_shows_its_own_albedo():
    for size in ((48, 40), (40, 48), (33, 33)):
        scene = bumpy(size, samples=1)
        view = render(scene)
        assert view.alpha[1:-1, 1:-1].min() == 1
        assert ((view.rgb - scene.albedo).abs() * view.alpha).sum() / (3 * view.alpha.sum()) < 1e-3
        assert isinstance(scene.surface, DepthMap)
        inner = (slice(1, -1), slice(1, -1))
        torch.testing.assert_close(view.depth[inner], scene.surface.depth[inner], rtol=1e-4, atol=1e-4)


def test_the_camera_that_took_the_photo_sees_all_of_it():
    scene = bumpy(samples=1)
    view = render(scene)
    assert isinstance(scene.surface, DepthMap)
    points = depth_to_points(scene.surface.depth, scene.camera.K)
    expected = -(grid_normals(points) * torch.nn.functional.normalize(points, dim=0)).sum(0)
    torch.testing.assert_close(view.visibility[2:-2, 2:-2], expected[2:-2, 2:-2], atol=0.02, rtol=0)


def harmonics(colours: int = 3) -> SphericalHarmonics:
    """Light that differs in every direction, and nowhere is negative."""
    g = torch.Generator().manual_seed(0)
    return SphericalHarmonics(torch.cat([torch.full((1, colours), 3.0), 0.3 * torch.randn(8, colours, generator=g)]))


LIGHTS = [Light(0.4, 0.6, (0.36, -0.48, -0.8)), Light(direction=torch.tensor([0.36, -0.48, -0.8])), harmonics(3)]


@pytest.mark.parametrize("light", LIGHTS, ids=["numbers", "tensor", "harmonics"])
def test_a_mirrored_scene_gives_the_mirrored_picture(light):
    scene = replace(bumpy(light=light), pivot=(0.03, -0.01, 1.02))
    scene = scene.turned(yaw=23, pitch=-8, roll=5)
    expected, found = turn_inside_out(render(scene)), render(scene.mirrored())
    assert torch.equal(found.alpha, expected.alpha)
    assert 0.3 < found.alpha.mean() < 0.95
    for name in ("rgb", "depth", "normal"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=2e-3, rtol=0)
    # What is hidden is decided per pixel, so it may differ along the boundary of the hidden part.
    assert ((found.visibility - expected.visibility).abs() > 1e-3).float().mean() < 0.01


def test_normals_of_a_sphere_are_its_positions():
    camera = Camera(intrinsics(20, (64, 64)), 64, 64)
    scene = Scene(ball(), torch.ones(3, 4, 4), camera).turned(yaw=40)
    view = render(scene)
    points = unproject(pixel_centres(64, 64), view.depth, camera.K)
    expected = (points - torch.tensor([0.0, 0.0, 1.0])) / 0.12
    inside = view.alpha > 0
    share = math.pi * 0.12**2 / (2 * math.tan(math.radians(10))) ** 2
    assert view.alpha.mean() == pytest.approx(share, rel=0.05)
    assert (view.normal.movedim(0, -1)[inside] * expected[inside]).sum(-1).min() > 0.999
    torch.testing.assert_close(expected[inside].norm(dim=-1), torch.ones(int(inside.sum())), atol=5e-3, rtol=0)


def test_twice_gives_the_same_bits():
    scene = bumpy(light=Light()).turned(yaw=-30)
    first, second = render(scene, smooth=True), render(scene, smooth=True)
    assert all(torch.equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(Render))


def test_backends_agree():
    scene = bumpy((12, 10), Light(), samples=1).turned(yaw=20)
    fast, slow = render(scene), render(scene, backend="reference")
    assert torch.equal(fast.alpha, slow.alpha)
    torch.testing.assert_close(fast.rgb, slow.rgb)


def test_a_bigger_picture_is_the_same_view():
    scene = bumpy().turned(yaw=15)
    small, big = render(scene), render(scene, (SIZE[0] * 2, SIZE[1] * 2))
    assert big.rgb.shape == (3, SIZE[0] * 2, SIZE[1] * 2)
    pooled = torch.nn.functional.avg_pool2d(big.rgb[None], 2)[0]
    inside = torch.nn.functional.avg_pool2d(big.alpha[None], 2)[0] == 1
    assert inside.float().mean() > 0.5
    assert ((pooled - small.rgb).abs().amax(0) * inside).mean() < 0.01


def test_what_the_photo_does_not_show_has_no_visibility():
    # Turned by 40 degrees a ball shows 40 degrees of its far side, which the photo did not.
    camera = Camera(intrinsics(20, (96, 96)), 96, 96)
    view = render(Scene(ball(), torch.ones(3, 4, 4), camera).turned(yaw=40))
    # The normal at rest: what is now seen at normal n was, before the turn, at normal R^T n.
    rest = Scene(ball(), torch.ones(3, 4, 4), camera).turned(yaw=-40).turn @ view.normal.flatten(1)
    point = rest * 0.12 + torch.tensor([[0.0], [0.0], [1.0]])
    cosine = -(rest * torch.nn.functional.normalize(point, dim=0)).sum(0).view(96, 96)
    inside = view.alpha > 0
    hidden, shown = inside & (cosine < 0), inside & (cosine > 0.15)
    assert hidden.sum() > 200
    assert (view.visibility[hidden] < 0.02).all()
    torch.testing.assert_close(view.visibility[shown], cosine[shown], atol=0.02, rtol=0)


def test_a_surface_behind_another_was_hidden_in_the_photo():
    # A wall at z = 1.1 and a small plate before it, at 0.9; both fronto-parallel.
    def square(half: float, z: float) -> torch.Tensor:
        return torch.tensor([[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]])

    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    mesh = Mesh(torch.cat([square(0.5, 1.1), square(0.05, 0.9)]), torch.cat([faces, faces + 4]))
    camera = Camera(intrinsics(20, (80, 80)), 80, 80)
    # Only the plate moves away: the wall behind it appears.
    away = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0])
    scene = Scene(mesh, torch.ones(3, 4, 4), camera, rigidity=1 - away, pivot=(0.0, 0.0, 1.1)).turned(yaw=40)
    view = render(scene)
    shadow = project(square(0.05, 0.9), camera.K)
    x, y = pixel_centres(80, 80).unbind(-1)
    wall = view.depth > 1.05
    low, high = shadow.amin(0), shadow.amax(0)
    behind = wall & (x > low[0] + 1) & (x < high[0] - 1) & (y > low[1] + 1) & (y < high[1] - 1)
    beside = wall & ((x < low[0] - 1) | (x > high[0] + 1) | (y < low[1] - 1) | (y > high[1] + 1))
    assert behind.sum() > 100
    assert (view.visibility[behind] == 0).all()
    assert (view.visibility[beside] > 0.95).all()


def test_what_lies_outside_the_photo_has_no_visibility():
    # The camera shows the top left quarter of a surface whose texture tells u and v.
    whole = bumpy()
    mesh = whole.mesh_at_rest()
    u, v = ((pixel_centres(64, 64) / 64)[..., i] for i in (0, 1))
    camera = replace(whole.camera, K=whole.camera.K * torch.tensor([[2.0], [2.0], [1.0]]))
    scene = replace(whole, surface=mesh, albedo=torch.stack([u, v, v]), camera=camera)
    view = render(scene.turned(yaw=-25))
    outside = (view.rgb[0] > 0.505) | (view.rgb[1] > 0.505)
    inside = (view.rgb[0] < 0.495) & (view.rgb[1] < 0.495) & (view.alpha > 0)
    assert outside.sum() > 100
    assert inside.sum() > 1000
    assert (view.visibility[outside] == 0).all()
    assert (view.visibility[inside] > 0).float().mean() > 0.98


def test_without_texture_coordinates_the_albedo_is_the_photo():
    scene = bumpy(samples=1)
    bare = replace(scene, surface=replace(scene.mesh_at_rest(), uv=None))
    torch.testing.assert_close(render(bare).rgb, render(scene).rgb, atol=1e-4, rtol=0)


def test_light_follows_lambert():
    scene = bumpy(light=Light(0.3, 0.7, (0.6, 0.0, -0.8))).turned(yaw=10)
    lit, plain = render(scene), render(replace(scene, light=None))
    factor = 0.3 + 0.7 * (lit.normal * torch.tensor([0.6, 0.0, -0.8])[:, None, None]).sum(0).clamp_min(0)
    torch.testing.assert_close(lit.rgb, plain.rgb * factor)


@pytest.mark.parametrize("colours", [1, 3])
def test_light_follows_its_harmonics(colours):
    light = harmonics(colours)
    scene = bumpy(light=light).turned(yaw=10)
    lit, plain = render(scene), render(replace(scene, light=None))
    factor = (sh_basis(lit.normal.movedim(0, -1)) @ light.coefficients).movedim(-1, 0)
    inside = lit.alpha > 0
    torch.testing.assert_close(lit.rgb[:, inside], (plain.rgb * factor)[:, inside])
    assert (lit.rgb[:, inside] > 0).all()


def test_an_open_surface_is_lit_on_both_sides():
    # The far half of a ball, seen from inside; and the same with its triangles the other way round, so that what was
    # the inside is the outside.
    mesh = ball()
    far = (mesh.vertices[:, 2][mesh.faces] > 0.99).all(-1)
    light = Light(0.1, 0.9, (0.6, 0.0, -0.8))
    camera = Camera(intrinsics(20, (64, 64)), 64, 64)
    bowl = Scene(Mesh(mesh.vertices, mesh.faces[far]), torch.ones(3, 4, 4), camera, light).turned(pitch=20)
    inside = render(bowl)
    outside = render(replace(bowl, surface=Mesh(mesh.vertices, mesh.faces[far].flip(-1))))
    for f in fields(Render):
        torch.testing.assert_close(getattr(inside, f.name), getattr(outside, f.name), atol=1e-6, rtol=0)
    # Towards the camera, that is towards the ball's centre.
    points = unproject(pixel_centres(64, 64), inside.depth, camera.K)
    normal = (torch.tensor([0.0, 0.0, 1.0]) - points) / 0.12
    deep = inside.depth > 1.02
    # At the bowl's rim vertices know half of their surroundings.
    assert deep.sum() > 900
    assert (inside.normal.movedim(0, -1)[deep] * normal[deep]).sum(-1).min() > 0.99
    assert (inside.visibility[deep] > 0.1).float().mean() > 0.9


def test_the_back_of_a_sheet_was_not_in_the_photo():
    scene = bumpy(light=Light(0.0, 1.0))
    behind = render(scene.turned(yaw=180))
    seen = behind.alpha > 0
    assert seen.float().mean() > 0.5
    assert (behind.visibility == 0).all()
    assert (behind.normal[2][seen] < 0).all()
    assert (behind.rgb[:, seen] > 0).all()


def test_closed_surfaces_show_their_outside_only():
    camera = clip_from_camera(intrinsics(20, (64, 64)), (64, 64))
    mesh = ball()
    corners = clip(mesh.vertices, camera)[None]
    fragments = rasterize(corners, mesh.faces, (64, 64))
    side = sides(fragments, corners, mesh.faces)
    assert torch.equal(side, (fragments.triangle_id >= 0).float())
    reversed_faces = mesh.faces.flip(-1)
    both = rasterize(corners.expand(2, -1, -1), torch.stack([mesh.faces, reversed_faces]), (64, 64))
    side = sides(both, corners.expand(2, -1, -1), torch.stack([mesh.faces, reversed_faces]))
    assert torch.equal(side[1], -side[0])


def test_sides_of_a_triangle_that_reaches_behind_the_camera():
    # A floor and a ceiling; C5: clockwise as seen from outside, which is the side that faces the camera's height.
    floor = torch.tensor([[-9.0, 0.3, 9.0], [9.0, 0.3, 9.0], [0.0, 0.3, -5.0]])
    ceiling = floor * torch.tensor([1.0, -1.0, 1.0])
    corners = clip(torch.stack([floor, ceiling]), clip_from_camera(intrinsics(60, (32, 32)), (32, 32)))
    faces = torch.tensor([[0, 1, 2]])
    assert (corners[..., 3] < 0).any()
    fragments = rasterize(corners, faces, (32, 32))
    seen = fragments.triangle_id >= 0
    assert (seen.flatten(1).sum(1) > 200).all()
    outwards = face_normals(torch.stack([floor, ceiling]), faces)[:, 0, 1]
    side = sides(fragments, corners, faces)
    for i, up in enumerate((-1, 1)):
        assert (side[i][seen[i]] == (1 if outwards[i] * up > 0 else -1)).all()
        assert (side[i][~seen[i]] == 0).all()


def test_flat_normals_are_those_of_the_triangles():
    scene = replace(bumpy((20, 18), samples=1), light=Light(0.2, 0.8, (0.6, 0.0, -0.8))).turned(yaw=25)
    view, smooth = render(scene, flat=True), render(scene)
    mesh, camera = scene.mesh(), clip_from_camera(scene.camera.K, (20, 18))
    fragments = rasterize(clip(mesh.vertices, camera)[None], mesh.faces, (20, 18))
    normals = torch.nn.functional.normalize(face_normals(mesh.vertices, mesh.faces), dim=-1)
    ids = fragments.triangle_id[0].long()
    # A sheet that folds over itself shows its back there.
    cosine = (normals[ids] * view.normal.movedim(0, -1)).sum(-1)[ids >= 0]
    torch.testing.assert_close(cosine.abs(), torch.ones_like(cosine))
    assert (view.normal[:, ids < 0] == 0).all()
    assert (view.normal - smooth.normal).abs().max() > 0.01
    assert (view.rgb - smooth.rgb).abs().max() > 0.003
    assert torch.equal(view.depth, smooth.depth)


def test_threads_do_not_change_a_bit():
    # More pixels than PyTorch gives to one thread.
    scene = bumpy((220, 200), LIGHTS[0], samples=1).turned(yaw=20)
    threads = torch.get_num_threads()
    views = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            views += [render(scene), render(replace(scene, light=harmonics()), smooth=True, flat=True)]
    finally:
        torch.set_num_threads(threads)
    for one, two in (views[::2], views[1::2]):
        assert all(torch.equal(getattr(one, f.name), getattr(two, f.name)) for f in fields(Render))


def test_different_meshes_in_one_batch_are_drawn_as_each_alone():
    small, big = bumpy((10, 8)).mesh(), ball(rings=10)
    meshes = [(torch.cat([m.vertices, torch.rand(len(m.vertices), 3)], -1), m.faces) for m in (small, big)]
    K = intrinsics(25, (40, 50))
    matrices = clip_from_camera(K, (40, 50)), clip_from_orthographic(150.0, (40, 50))

    def draw(table: torch.Tensor, faces: torch.Tensor, matrix: torch.Tensor) -> list[torch.Tensor]:
        corners = clip(table[..., :3], matrix)
        fragments = rasterize(corners, faces, (40, 50))
        normals = vertex_normals(table[..., :3], faces)
        values = interpolate(torch.cat([table[..., 3:], normals], -1), fragments, faces)
        side = sides(fragments, corners, faces)
        return [*fragments, side, antialias(values.movedim(-1, 1), fragments, corners, faces)]

    for matrix in matrices:
        together = draw(*stack_meshes(meshes), matrix)
        for i, (table, faces) in enumerate(meshes):
            for found, alone in zip(together, draw(table[None], faces[None], matrix), strict=True):
                assert torch.equal(found[i], alone[0])


@pytest.mark.parametrize("camera", ["perspective", "orthographic", "affine"])
def test_every_kind_of_camera_draws_a_ball_where_it_is(camera):
    size = (90, 120)
    affine = 300 * torch.tensor([[0.8, 0.0, 0.6, -0.4], [0.0, 1.0, 0.0, 0.15]])
    matrix, area, centre = {
        "perspective": (clip_from_camera(intrinsics(30, size), size), None, (60.0, 45.0)),
        "orthographic": (clip_from_orthographic(300.0, size), math.pi * 36**2, (60.0, 45.0)),
        # Looked at from the side by 37 degrees, so still a circle.
        "affine": (clip_from_affine(affine, size, -3.0, 3.0), math.pi * 36**2, (60.0, 45.0)),
    }[camera]
    mesh = ball()
    corners = clip(mesh.vertices, matrix)[None]
    fragments = rasterize(corners, mesh.faces, size)
    seen = fragments.triangle_id[0] >= 0
    if area is None:  # the outline's cone is a little wider than the ball's own radius
        focal = 60 / math.tan(math.radians(15))
        area = math.pi * (focal * 0.12 / math.sqrt(1 - 0.12**2)) ** 2
    assert float(seen.sum()) == pytest.approx(area, rel=0.02)
    middle = pixel_centres(*size)[seen].mean(0)
    torch.testing.assert_close(middle, torch.tensor(centre), rtol=0, atol=0.3)
    # The near side in z.
    depth = interpolate(mesh.vertices[:, 2:], fragments, mesh.faces)[0, ..., 0]
    assert depth[seen].min() == pytest.approx(0.88, abs=2e-3)
    assert depth[45, 60] < 1


def test_the_example_in_the_documentation_runs():
    documented = aboutface.render.__doc__
    assert documented is not None
    lines = [line[4:] for line in documented.splitlines() if line.startswith("    ") or not line]
    found: dict = {}
    exec("\n".join(lines), found)
    assert found["picture"].shape == (1, 3, 96, 128)
    assert 0.2 < float(found["picture"].detach().mean()) < 0.6
    assert found["vertices"].grad.isfinite().all()
    assert (found["vertices"].grad != 0).any()


def test_smooth_outlines_keep_the_surface_colour():
    scene = replace(bumpy(), albedo=torch.full((3, 8, 8), 0.6)).turned(yaw=25)
    hard, soft = render(scene), render(scene, smooth=True)
    partly = (soft.alpha > 1e-3) & (soft.alpha < 1 - 1e-3)
    assert partly.sum() > 40
    torch.testing.assert_close(soft.rgb[:, partly], torch.full_like(soft.rgb[:, partly], 0.6))
    assert torch.equal(hard.alpha, (hard.alpha > 0).float())


def test_painter_order_draws_what_depth_order_hides():
    scene = bumpy().turned(yaw=50)
    depth, painter = render(scene).depth, render(scene, order="painter").depth
    assert (depth <= painter + 1e-6).all()
    assert (depth < painter - 0.01).any()


def test_every_tensor_of_a_scene_gets_a_gradient():
    scene = bumpy((16, 14), Light(0.4, 0.6, (0.36, -0.48, -0.8)), samples=1)
    assert isinstance(scene.surface, DepthMap)
    depth = scene.surface.depth.clone().requires_grad_()
    albedo, K = scene.albedo.clone().requires_grad_(), scene.camera.K.clone().requires_grad_()
    turn = scene.turned(yaw=15).turn.clone().requires_grad_()
    scene = replace(scene, surface=DepthMap(depth), albedo=albedo, camera=replace(scene.camera, K=K), turn=turn)
    view = render(scene, smooth=True)
    (view.rgb.square().sum() + view.depth.sum() + view.normal[0].sum() + view.alpha.sum()).backward()
    for tensor in (depth, albedo, K, turn):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert (tensor.grad != 0).any()


def test_gradient_of_the_picture_to_depth_is_that_of_finite_differences():
    scene = bumpy((8, 7), Light(0.4, 0.6, (0.36, -0.48, -0.8)), samples=1)
    assert isinstance(scene.surface, DepthMap)
    camera = replace(scene.camera, K=scene.camera.K.double())
    turned = replace(scene, albedo=scene.albedo.double(), camera=camera, turn=scene.turned(yaw=5).turn.double())

    def values(depth):
        view = render(replace(turned, surface=DepthMap(depth)))
        return view.rgb, view.depth, view.normal

    assert torch.autograd.gradcheck(values, scene.surface.depth.double().requires_grad_(), eps=1e-7, atol=1e-4)


def test_gradient_of_the_picture_to_light_texture_and_camera():
    scene = bumpy((8, 7), samples=1).turned(yaw=5)
    assert isinstance(scene.surface, DepthMap)
    scene = replace(scene, surface=DepthMap(scene.surface.depth.double()), turn=scene.turn.double())

    def lambert(ambient, diffuse, direction, albedo, K):
        camera = replace(scene.camera, K=K)
        return render(replace(scene, light=Light(ambient, diffuse, direction), albedo=albedo, camera=camera)).rgb

    def by_harmonics(coefficients):
        light = SphericalHarmonics(coefficients)
        return render(
            replace(scene, light=light, albedo=albedo.detach(), camera=replace(scene.camera, K=K.detach()))
        ).rgb

    ambient, diffuse = (torch.tensor(v).double().requires_grad_() for v in (0.4, 0.6))
    direction = torch.tensor([0.36, -0.48, -0.8]).double().requires_grad_()
    albedo, K = scene.albedo[:, :4, :3].double().requires_grad_(), scene.camera.K.double().requires_grad_()
    assert torch.autograd.gradcheck(lambert, (ambient, diffuse, direction, albedo, K), eps=1e-7, atol=1e-4)
    for colours in (1, 3):
        assert torch.autograd.gradcheck(by_harmonics, harmonics(colours).coefficients.double().requires_grad_())


def test_nothing_to_see():
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    camera = Camera(intrinsics(20, (5, 6)), 5, 6)
    for surface in (empty, Mesh(torch.rand(4, 3) - torch.tensor([0.0, 0.0, 3.0]), torch.tensor([[0, 1, 2]]))):
        view = render(Scene(surface, torch.ones(3, 2, 2), camera, Light()), smooth=True)
        for f in fields(Render):
            assert (getattr(view, f.name) == 0).all()
        assert view.rgb.shape == (3, 5, 6)
    with pytest.raises(UsageError, match="albedo"):
        render(Scene(empty, torch.ones(2, 2), camera))
