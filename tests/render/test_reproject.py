"""The warp from the canonical frame into a view: against planes and spheres that can be worked out."""

import math

import pytest
import torch

from aboutface.errors import UsageError
from aboutface.geometry import project, rotation_from_angles
from aboutface.reconstruct.unsup3d import camera
from aboutface.render.reproject import draw_depth, reproject

SIZE = 32
K = camera(SIZE)
STILL = torch.eye(3)[None]
NO_SHIFT = torch.zeros(1, 3)


def bump(size=SIZE, height=0.05):
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    return (1 - height * torch.exp(-3 * (axis.square() + 0.7 * axis[:, None].square())))[None]


def stripes(size=SIZE):
    x = torch.arange(size) + 0.5
    waves = [torch.sin(x * 0.4), torch.cos(x[:, None] * 0.3), torch.sin((x + x[:, None]) * 0.2)]
    return torch.stack([(w.expand(size, size) + 1) / 2 for w in waves])[None]


def test_at_rest_the_picture_is_the_texture():
    seen = reproject(stripes(), bump(), STILL, NO_SHIFT, K)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(seen.image[inner], stripes()[inner], atol=2e-4, rtol=0)
    torch.testing.assert_close(seen.depth[:, 1:-1, 1:-1], bump()[:, 1:-1, 1:-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("yaw", "pitch"), [(25.0, 0.0), (-25.0, 0.0), (0.0, 15.0), (10.0, -10.0)])
def test_a_plane_turned_is_the_plane_worked_out(yaw, pitch):
    rotation = rotation_from_angles(torch.tensor([yaw]), torch.tensor([pitch]))
    seen = reproject(stripes(), torch.ones(1, SIZE, SIZE), rotation, NO_SHIFT, K)
    # Points p with n (p - c) = 0, n the turned axis: on the ray z (x, y, 1), z = n_z / (n . ray).
    normal = rotation[0, :, 2]
    u = (torch.arange(SIZE) + 0.5 - SIZE / 2) / K[0, 0]
    wanted = normal[2] / (normal[0] * u + normal[1] * u[:, None] + normal[2])
    torch.testing.assert_close(seen.depth[seen.valid], wanted[None][seen.valid], atol=1e-5, rtol=0)
    assert 0.7 < float(seen.valid.float().mean()) <= 1


def test_a_bright_spot_goes_where_its_point_projects():
    row, column, yaw = 12, 20, 20.0
    texture = torch.zeros(1, 1, SIZE, SIZE)
    texture[..., row - 1 : row + 2, column - 1 : column + 2] = 1
    rotation, shift = rotation_from_angles(torch.tensor([yaw])), torch.tensor([[0.01, -0.02, 0.0]])
    seen = reproject(texture, bump(), rotation, shift, K)
    depth = bump()[0, row, column]
    ray = torch.tensor([(column + 0.5 - SIZE / 2) / K[0, 0], (row + 0.5 - SIZE / 2) / K[1, 1], 1.0])
    centre = torch.tensor([0.0, 0.0, 1.0])
    pixel = project((rotation[0] @ (ray * depth - centre) + centre + shift[0])[None], K)[0]
    weight = seen.image[0, 0].clamp_min(0) * seen.valid[0]
    axis = torch.arange(SIZE) + 0.5
    found = torch.stack([(weight.sum(0) * axis).sum(), (weight.sum(1) * axis).sum()]) / weight.sum()
    torch.testing.assert_close(found, pixel, atol=0.15, rtol=0)


def test_mirrored_surfaces_in_mirrored_views_are_mirrored_pictures():
    rotation = rotation_from_angles(torch.tensor([17.0]), torch.tensor([4.0]), torch.tensor([3.0]))
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    shift = torch.tensor([[0.01, 0.02, 0.0]])
    depth = bump() - 0.01 * stripes()[:, 0]
    seen = reproject(stripes(), depth, rotation, shift, K)
    other = reproject(stripes().flip(-1), depth.flip(-1), mirror @ rotation @ mirror, shift @ mirror, K)
    agree = seen.valid & other.valid.flip(-1)
    assert float(agree.float().mean()) > 0.7
    assert float((seen.valid == other.valid.flip(-1)).float().mean()) > 0.99
    # The other diagonal of each cell is drawn.
    difference = (seen.image - other.image.flip(-1)).abs().amax(1)[agree]
    assert float(difference.mean()) < 2e-3


def test_gradients_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    texture, K64 = stripes().double(), K.double()
    weight = torch.rand(1, 3, SIZE, SIZE, generator=generator).double()

    def loss(depth, yaw, shift):
        seen = reproject(texture, depth, rotation_from_angles(yaw), shift, K64)
        inner = torch.zeros_like(weight)
        inner[..., 8:-8, 8:-8] = 1
        return (seen.image * weight * inner).sum() + (seen.depth * weight[:, 0] * inner[:, 0]).sum()

    depth, yaw = bump().double().requires_grad_(), torch.tensor([9.0], dtype=torch.float64, requires_grad=True)
    shift = NO_SHIFT.double().requires_grad_()
    loss(depth, yaw, shift).backward()
    assert depth.grad is not None
    assert yaw.grad is not None
    assert shift.grad is not None
    step = 1e-4
    with torch.no_grad():
        # A smooth change of the depth, so that many pixels take part.
        direction = torch.sin(torch.arange(SIZE, dtype=torch.float64) * 0.3).expand(1, SIZE, SIZE)
        numeric = (loss(depth + 1e-6 * direction, yaw, shift) - loss(depth - 1e-6 * direction, yaw, shift)) / 2e-6
        assert float((depth.grad * direction).sum()) == pytest.approx(float(numeric), rel=1e-2)
        numeric = (loss(depth, yaw + step, shift) - loss(depth, yaw - step, shift)) / (2 * step)
        assert float(yaw.grad) == pytest.approx(float(numeric), rel=1e-2)
        move = torch.tensor([[1e-6, 0.0, 0.0]], dtype=torch.float64)
        numeric = (loss(depth, yaw, shift + move) - loss(depth, yaw, shift - move)) / 2e-6
        assert float(shift.grad[0, 0]) == pytest.approx(float(numeric), rel=1e-2)


def test_what_leaves_the_limits_is_not_valid():
    seen = reproject(stripes(), torch.ones(1, SIZE, SIZE), STILL, torch.tensor([[0.05, 0.0, 0.0]]), K)
    gone = math.floor(0.05 * float(K[0, 0]))
    assert not seen.valid[:, :, : gone - 1].any()
    assert seen.valid[:, 1:-1, gone + 1 : -1].all()
    assert float(seen.depth.max()) == pytest.approx(1.2)


def test_supersampling_voids_the_outline():
    arguments = stripes(), bump(), rotation_from_angles(torch.tensor([30.0])), NO_SHIFT, K
    once, twice = (reproject(*arguments, supersample=n) for n in (1, 2))
    assert int((twice.valid & ~once.valid).sum()) <= 2
    both = once.valid & twice.valid
    torch.testing.assert_close(once.depth[both], twice.depth[both], atol=2e-3, rtol=0)


def test_backends_agree():
    rotation = rotation_from_angles(torch.tensor([12.0]))
    one, other = (reproject(stripes(), bump(), rotation, NO_SHIFT, K, backend=b) for b in ("torch", "reference"))
    assert torch.equal(one.valid, other.valid)
    torch.testing.assert_close(one.image, other.image, atol=1e-4, rtol=0)


def test_wrong_shapes_are_named():
    with pytest.raises(UsageError, match="rotation of shape"):
        reproject(stripes(), bump(), torch.eye(3), NO_SHIFT, K)
    with pytest.raises(UsageError, match="texture of shape"):
        reproject(stripes(16), bump(), STILL, NO_SHIFT, K)


def test_depth_of_a_mesh_without_surface():
    drawn = draw_depth(torch.zeros(1, 3, 3), torch.zeros(1, 3, dtype=torch.int64), K, (8, 8))
    assert bool((drawn == 100).all())
