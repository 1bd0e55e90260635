"""Unsup3d: its frames and signs, its symmetry, and that it learns."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from aboutface.errors import UsageError
from aboutface.reconstruct.unsup3d import Factors, Unsup3d, View, camera, dome, joined, mirrored
from aboutface.reconstruct.unsup3d_photo import Unsup3dReconstructor, trust
from aboutface.scene import Light


def factors(size=32, yaw=0.0, direction=(0.0, 0.0, -1.0), depth=None):
    one = torch.ones(1)
    view = View(one * yaw, 0 * one, 0 * one, torch.zeros(1, 3))
    return Factors(
        torch.ones(1, size, size) if depth is None else depth,
        torch.full((1, 3, size, size), 0.5),
        view,
        Light(0.3 * one, 0.6 * one, torch.tensor([direction])),
    )


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Unsup3d.tiny().eval()


def test_outputs_lie_in_their_ranges(net):
    with torch.no_grad():
        found = net(torch.rand(3, 3, 32, 32))
    assert found.depth.shape == (3, 32, 32)
    assert 0.9 < float(found.depth.min()) <= float(found.depth.max()) < 1.1
    assert 0 < float(found.albedo.min()) <= float(found.albedo.max()) < 1
    assert torch.equal(found.depth[..., :2], torch.full((3, 32, 2), 1.04))
    assert torch.equal(found.depth[..., -2:], torch.full((3, 32, 2), 1.04))
    torch.testing.assert_close(found.light.direction.norm(dim=-1), torch.ones(3))
    assert bool((found.light.direction[:, 2] < 0).all()), "light comes from the camera's side"
    assert bool((found.view.shift[:, 2] == 0).all())


def test_the_depths_offset_is_not_free(net):
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    before = net.depth(x)
    last = net.depth_net.layers[-1]

    def lifted(_module, _inputs, output):
        return output + 3

    handle = last.register_forward_hook(lifted)
    torch.testing.assert_close(net.depth(x), before, atol=1e-6, rtol=0)
    handle.remove()


def test_published_signs_of_view_and_light(net):
    """Raw (rx, ry, rz, ...) of the published network: ry > 0 turns a nose to the image's left, rx > 0 down; light
    (lx > 0) travels to the right, that is comes from the left (specs of section 2 and 5.1)."""
    raw = torch.zeros(1, 6)

    class Fixed(torch.nn.Module):
        def __init__(self, values):
            super().__init__()
            self.values = values

        def forward(self, images):
            return self.values

    changed = Unsup3d.tiny()
    raw[0, :3] = torch.atanh(torch.tensor([0.1, 0.2, 0.05]))
    setattr(changed, "view_net", Fixed(raw))  # noqa: B010
    setattr(changed, "light_net", Fixed(torch.atanh(torch.tensor([[0.0, 0.5, 0.6, 0.0]]))))  # noqa: B010
    found = changed(torch.rand(1, 3, 32, 32))
    nose = found.view.rotation[0] @ torch.tensor([0.0, 0.0, -1.0])
    assert float(nose[0]) < 0 < float(nose[1])
    assert float(found.view.roll) == pytest.approx(3.0, abs=1e-4)
    assert float(found.light.ambient) == pytest.approx(0.5)
    assert float(found.light.diffuse) == pytest.approx(0.75)
    assert float(found.light.direction[0, 0]) < 0


def test_shading_of_a_plane_is_lamberts():
    net = Unsup3d.tiny()
    direction = torch.tensor([0.6, 0.0, -0.8])
    texture = net.texture(factors(direction=tuple(direction.tolist())))
    torch.testing.assert_close(texture, torch.full_like(texture, 0.5 * (0.3 + 0.6 * 0.8)))


def test_a_symmetric_surface_is_its_own_twin():
    net = Unsup3d.tiny()
    depth = 1 + 0.1 * torch.tanh(dome(32, 0.5))[None]
    one = factors(yaw=20.0, depth=depth)
    both = net.reproject(joined(one, mirrored(one)))
    agree = both.valid.all(0)
    # The other diagonal of each cell is drawn.
    assert float((both.image[0] - both.image[1]).abs().mean(0)[agree].mean()) < 2e-3
    assert float((both.depth[0] - both.depth[1]).abs()[agree].mean()) < 1e-4


def test_mean_maps_start_as_a_dome_towards_the_camera():
    net = Unsup3d.tiny(mean=True)
    depth = net(torch.rand(4, 3, 32, 32)).depth.detach()
    middle, rim = depth[:, 14:18, 14:18].mean(), depth[:, :2, 4:-4].mean()
    assert float(middle) < float(rim) - 0.03
    start = 0.95 + 0.05 * torch.rand(32, 32)
    net.start_from_depth(start)
    torch.nn.init.zeros_(list(net.depth_net.parameters())[-1])
    torch.testing.assert_close(net(torch.rand(1, 3, 32, 32)).depth[0, :, 2:-2], start[:, 2:-2], atol=1e-6, rtol=0)


def test_images_of_another_size_are_refused(net):
    with pytest.raises(UsageError, match=r"takes images \(B, 3, 32, 32\), got \(1, 3, 64, 64\)"):
        net(torch.rand(1, 3, 64, 64))


def test_the_cameras_outermost_pixels_span_ten_degrees():
    for size in (32, 64, 128):
        K = camera(size)
        ray = (torch.tensor([0.5, size - 0.5]) - K[0, 2]) / K[0, 0]
        assert float(torch.rad2deg(torch.atan(ray)).diff()) == pytest.approx(10.0, abs=1e-4)
    assert float(camera(64)[0, 0]) == pytest.approx(360.047, abs=1e-3)


def test_gradients_reach_every_network(net):
    for p in net.parameters():
        p.grad = None
    images = torch.rand(2, 3, 32, 32)
    found = net(images)
    seen = net.reproject(joined(found, mirrored(found)))
    (seen.image - images.repeat(2, 1, 1, 1)).abs().mean().backward()
    for part in ("depth_net", "albedo_net", "view_net", "light_net"):
        assert any(bool(p.grad.any()) for p in getattr(net, part).parameters() if p.grad is not None), part


def test_view_rotation_is_the_projects():
    view = View(torch.tensor([30.0]), torch.zeros(1), torch.zeros(1), torch.zeros(1, 3))
    nose = view.rotation[0] @ torch.tensor([0.0, 0.0, -1.0])
    assert float(nose[0]) == pytest.approx(0.5, abs=1e-6)


def test_factors_can_be_replaced():
    one = factors()
    other = replace(one, depth=one.depth + 0.01)
    assert not torch.equal(one.depth, other.depth)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from aboutface.recipes import Trained, write_weights

    torch.manual_seed(1)
    net = Unsup3d.tiny(mean=True)
    # Noise would be no surface to stand on.
    list(net.depth_net.parameters())[-1].data *= 0.05
    file = tmp_path_factory.mktemp("weights") / "own.safetensors"
    from dataclasses import asdict

    card = {"network": asdict(net.settings), "training": {"crop": "face"}}
    write_weights(file, "unsup3d", Trained(dict(net.state_dict()), {}, card))
    return file


def test_a_file_of_another_form_is_refused(tmp_path):
    from aboutface.reconstruct import reconstructor

    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors", {"card": '{"method": "unsup3d", "settings": {}}'})
    with pytest.raises(UsageError, match="no weights of unsup3d"):
        reconstructor(str(tmp_path / "a.safetensors"))


def test_the_shipped_network_tells_faces_apart_and_none_by_much(portrait):
    from aboutface.reconstruct import reconstructor

    method = reconstructor("unsup3d")
    assert isinstance(method, Unsup3dReconstructor)
    size = method.net.settings.size
    assert size == 128
    scene = method(portrait.photo, portrait.face)
    mesh = scene.mesh_at_rest().vertices.view(size, size, 3)
    mean = method.net.start_depth()
    inside = trust(size).view(size, size) > 0.5
    off = (mesh[..., 2] - mean)[inside] * method.units
    # More than rounding, less than another face would have: a network of which nothing is left gives the mean head.
    assert 0.3 < float(off.square().mean().sqrt()) < 8
    with torch.no_grad():
        dark, bright = (method.factors(torch.full((1, 3, size, size), grey)).depth for grey in (0.2, 0.7))
    assert not torch.allclose(dark, bright, atol=1e-5)


def test_own_weights_reconstruct_a_photo_and_its_mirror_image(weights, portrait):
    from aboutface.images import read_photo
    from aboutface.reconstruct import reconstructor

    method = reconstructor(str(weights))
    photo, face = portrait.photo, portrait.face
    scene = method(photo, face)
    flipped = read_photo(photo.pixels[:, ::-1].copy())
    other = method(flipped, face.mirrored(photo.width)).mirrored()
    assert scene.pose.yaw == pytest.approx(other.pose.yaw, abs=0.02)
    torch.testing.assert_close(scene.landmarks, other.landmarks, atol=2e-4, rtol=0)
    mine, theirs = (s.mesh_at_rest().vertices.view(32, 32, 3) for s in (scene, other))
    torch.testing.assert_close(mine, theirs.flip(1), atol=2e-4, rtol=0)
    assert isinstance(scene.light, Light)
    assert isinstance(other.light, Light)
    assert scene.light.direction[0] == pytest.approx(other.light.direction[0], abs=1e-3)


def test_landmarks_lie_on_their_rays_and_on_the_surface(weights, portrait):
    from aboutface.geometry import project
    from aboutface.reconstruct import reconstructor
    from aboutface.render import render

    scene = reconstructor(str(weights))(portrait.photo, portrait.face)
    assert scene.landmarks is not None
    pixels = project(scene.landmarks, scene.camera.K)
    torch.testing.assert_close(pixels, torch.from_numpy(portrait.face.landmarks).float(), atol=1e-2, rtol=0)
    drawn = render(scene).depth
    inner = list(range(17, 68))
    x, y = pixels[inner].long().unbind(-1)
    apart = (drawn[y, x] - scene.landmarks[inner, 2]).abs() * scene.scale
    assert float(apart.median()) < 2.0, "millimetres"


def test_the_albedo_times_the_light_is_the_photo(weights, portrait):
    from aboutface.reconstruct import reconstructor
    from aboutface.render import render

    scene = reconstructor(str(weights))(portrait.photo, portrait.face)
    drawn = render(scene)
    photo = torch.from_numpy(portrait.photo.pixels.copy()).permute(2, 0, 1).float() / 255
    x, y = portrait.face.landmarks[27:48].mean(0).astype(int)
    part = (slice(None), slice(y - 10, y + 10), slice(x - 10, x + 10))
    assert float((drawn.rgb[part] - photo[part]).abs().mean()) < 0.04
