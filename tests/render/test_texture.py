import pytest
import torch

from aboutface.errors import UsageError
from aboutface.geometry import clip, clip_from_camera, intrinsics, pixel_centres
from aboutface.render import derivatives, interpolate, rasterize, texture
from aboutface.render.texture import _halved


def test_texel_centres_give_the_texels():
    image = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    y, x = torch.meshgrid((torch.arange(4) + 0.5) / 4, (torch.arange(5) + 0.5) / 5, indexing="ij")
    uv = torch.stack([x, y], -1).double().expand(2, -1, -1, -1)
    for wrap in ("clamp", "repeat"):
        torch.testing.assert_close(texture(image, uv, wrap), image, atol=1e-6, rtol=0)
        torch.testing.assert_close(texture(image[:1], uv, wrap)[1], image[0], atol=1e-6, rtol=0)


def test_beyond_the_border():
    image = torch.arange(4.0).view(1, 1, 1, 4)
    uv = torch.tensor([[-0.3, 0.5], [0.0, 0.5], [1.0, 0.5], [1.125, 0.5], [2.375, 7.5], [-0.125, -0.5]])[None, None]
    clamped = texture(image, uv)
    assert clamped.flatten().tolist() == [0, 0, 3, 3, 3, 0]
    repeated = texture(image, uv[:, :, 1:], "repeat")
    # At the border the first and the last texel meet.
    torch.testing.assert_close(repeated.flatten(), torch.tensor([1.5, 1.5, 0.0, 1.0, 3.0]))
    with pytest.raises(UsageError, match="repeat"):
        texture(image, uv, "mirror")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrap", ["clamp", "repeat"])
def test_texture_gradients(wrap):
    g = torch.Generator().manual_seed(1)
    image = torch.rand(1, 2, 3, 4, generator=g).double().requires_grad_()
    uv = (torch.rand(1, 3, 3, 2, generator=g).double() * 0.9 + 0.05).requires_grad_()
    assert torch.autograd.gradcheck(lambda i, p: texture(i, p, wrap), (image, uv))


# ---- mip maps ----


def no_footprint(uv: torch.Tensor) -> torch.Tensor:
    return uv.new_zeros(*uv.shape, 2)


def spread(uv: torch.Tensor, across: float, down: float = 0.0) -> torch.Tensor:
    """A footprint of so much u per pixel to the right, and v per pixel down."""
    return torch.diag(uv.new_tensor([across, down])).expand(*uv.shape, 2)


SIZES = [(8, 8), (5, 7), (1, 1), (1, 9), (13, 1), (32, 20)]


@pytest.mark.parametrize("wrap", ["clamp", "repeat"])
@pytest.mark.parametrize("size", SIZES)
def test_small_footprints_are_bilinear_and_endless_ones_the_mean(size, wrap):
    g = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, *size, generator=g).double()
    uv = torch.rand(2, 6, 5, 2, generator=g).double() * 3 - 1
    expected = texture(image, uv, wrap)
    texel = 1 / max(size)
    for footprint in (no_footprint(uv), spread(uv, texel, texel), spread(uv, -0.3 * texel, 0.9 * texel)):
        torch.testing.assert_close(texture(image, uv, wrap, footprint=footprint), expected, rtol=0, atol=1e-12)
    mean = image.mean((-2, -1))[:, :, None, None].expand(2, 3, 6, 5)
    for wide in (1.0, 5.0, 1e12, torch.inf):
        found = texture(image, uv, wrap, footprint=spread(uv, wide, wide))
        torch.testing.assert_close(found, mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 12, 31])
def test_levels_are_means_of_equal_parts(n):
    row = torch.rand(3, n, generator=torch.Generator().manual_seed(0)).double()
    half = n // 2
    fine = row.repeat_interleave(half, -1)  # n * half cells: each part of the level has n of them
    torch.testing.assert_close(_halved(row), fine.unflatten(-1, (half, n)).mean(-1))
    torch.testing.assert_close(_halved(row).mean(-1), row.mean(-1))


@pytest.mark.parametrize("wrap", ["clamp", "repeat"])
def test_one_colour_stays_one_colour(wrap):
    for colour in (0.1, 0.3, 0.7, 1.0):
        row = torch.full((2, 3, 37), colour)
        assert torch.equal(_halved(row), row[..., :18]), "to the last bit"
        image = torch.full((1, 2, 37, 23), colour)
        uv = torch.rand(1, 20, 20, 2, generator=torch.Generator().manual_seed(0)) * 4 - 2
        for step in (0.01, 0.1, 0.37, 2.0):
            found = texture(image, uv, wrap, footprint=spread(uv, step))
            torch.testing.assert_close(found, torch.full_like(found, colour), rtol=2e-7, atol=0)


def test_between_levels_colours_mix():
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    uv = pixel_centres(8, 8, torch.float64)[None] / 8  # the centres of level 1
    level_1 = torch.nn.functional.avg_pool2d(image, 2)
    torch.testing.assert_close(texture(image, uv, footprint=spread(uv, 0, 2 / 16)), level_1)
    # 2^1.25 texels: a quarter of the way to level 2, which is the same everywhere within its own bilinear reach.
    level_2 = texture(torch.nn.functional.avg_pool2d(image, 4), uv)
    found = texture(image, uv, footprint=spread(uv, 2**1.25 / 16))
    torch.testing.assert_close(found, 0.75 * level_1 + 0.25 * level_2)
    # The longer of the two steps counts, as a length.
    slanted = uv.new_tensor([[0.6 * 2**1.25, 0.1], [0.8 * 2**1.25, 0.0]]).expand(*uv.shape, 2) / 16
    torch.testing.assert_close(texture(image, uv, footprint=slanted), found)


def test_footprints_are_in_texels_of_either_side():
    image = torch.rand(1, 1, 4, 32, generator=torch.Generator().manual_seed(0)).double()
    uv = torch.rand(1, 5, 5, 2, generator=torch.Generator().manual_seed(1)).double()
    by_u, by_v = (texture(image, uv, footprint=spread(uv, *step)) for step in ((4 / 32, 0), (0, 4 / 4)))
    torch.testing.assert_close(by_u, by_v)


@pytest.mark.parametrize("size", [(16, 16), (9, 14), (1, 5)])
def test_a_repeated_texture_has_no_seam_at_any_level(size):
    image = torch.rand(1, 2, *size, generator=torch.Generator().manual_seed(0)).double()
    along = torch.linspace(-1e-9, 1e-9, 2).double()
    v, u = torch.meshgrid(torch.tensor([0.2, 0.6]).double(), along, indexing="ij")
    for uv in (torch.stack([u, v], -1)[None], torch.stack([v, u], -1)[None]):
        for texels in (1, 2, 3, 6, 11, 16):
            found = texture(image, uv, "repeat", footprint=spread(uv, texels / size[1], texels / size[0]))
            torch.testing.assert_close(found[..., 0], found[..., 1], rtol=0, atol=1e-7)
            elsewhere = texture(image, uv + 3, "repeat", footprint=spread(uv, texels / size[1], texels / size[0]))
            torch.testing.assert_close(elsewhere, found, rtol=0, atol=1e-7)


def test_a_batch_is_what_its_items_are_bit_for_bit():
    g = torch.Generator().manual_seed(0)
    images, uv = torch.rand(3, 3, 30, 21, generator=g), torch.rand(3, 40, 50, 2, generator=g) * 2 - 0.5
    footprint = torch.randn(3, 40, 50, 2, 2, generator=g) * 0.1
    threads = torch.get_num_threads()
    try:
        for wrap in ("clamp", "repeat"):
            torch.set_num_threads(1)
            together = texture(images, uv, wrap, footprint=footprint)
            torch.set_num_threads(2)
            assert torch.equal(together, texture(images, uv, wrap, footprint=footprint))
            for i in range(3):
                alone = texture(images[i : i + 1], uv[i : i + 1], wrap, footprint=footprint[i : i + 1])
                assert torch.equal(together[i : i + 1], alone)
            shared = texture(images[:1], uv, wrap, footprint=footprint)
            assert torch.equal(shared[0], together[0])
            assert torch.equal(shared[2:], texture(images[:1], uv[2:], wrap, footprint=footprint[2:]))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("wrap", ["clamp", "repeat"])
def test_mip_map_gradients(wrap):
    g = torch.Generator().manual_seed(1)
    image = torch.rand(1, 2, 6, 7, generator=g).double().requires_grad_()
    uv = (torch.rand(2, 3, 3, 2, generator=g).double() * 0.9 + 0.05).requires_grad_()
    footprint = (torch.randn(2, 3, 3, 2, 2, generator=g).double() * 0.3).requires_grad_()

    def picture(image, uv, footprint):
        return texture(image, uv, wrap, footprint=footprint)

    assert torch.autograd.gradcheck(picture, (image, uv, footprint))
    grads = torch.autograd.grad(picture(image, uv, footprint).square().sum(), (image, uv, footprint))
    assert all((grad != 0).any() for grad in grads)


def test_wrong_sizes_are_refused():
    image, uv = torch.rand(2, 3, 4, 5), torch.rand(3, 6, 6, 2)
    for wrong in (image, image[0], image[:1, :, 0]):
        with pytest.raises(UsageError, match="expected an image"):
            texture(wrong, uv)
    with pytest.raises(UsageError, match="footprint"):
        texture(image[:1], uv, footprint=torch.zeros(3, 6, 6, 2))


# ---- derivatives ----

FACES = torch.tensor([[0, 1, 2]])


def triangle(behind: bool = False) -> torch.Tensor:
    """One triangle (1, 3, 4) that covers most of the picture, with one corner behind the camera or none."""
    corners = [[-0.9, -0.8, 0.2, 1.3], [1.9, -0.5, 0.1, 0.9], [0.2, 2.2, -0.3, 1.1]]
    if behind:
        corners[2] = [0.1, 0.4, -0.2, -0.3]
    return torch.tensor(corners).double()[None]


def moved(clip_vertices: torch.Tensor, x: float, y: float, size: tuple[int, int]) -> torch.Tensor:
    """The picture as pixel centres (x, y) pixels further right and down see it."""
    shift = torch.tensor([-2 * x / size[1], -2 * y / size[0]]).double()
    return torch.cat([clip_vertices[..., :2] + shift * clip_vertices[..., 3:], clip_vertices[..., 2:]], -1)


@pytest.mark.parametrize("behind", [False, True])
def test_derivatives_are_those_of_shifted_pixels(behind):
    size, step = (9, 12), 1 / 512
    corners = triangle(behind)
    values = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)).double()
    fragments = rasterize(corners, FACES, size)
    found = derivatives(values, fragments, corners, FACES)
    assert found.shape == (1, 9, 12, 4, 2)
    for axis in (0, 1):
        ahead, back = (
            rasterize(moved(corners, sign * step * (axis == 0), sign * step * (axis == 1), size), FACES, size)
            for sign in (1, -1)
        )
        both = (ahead.triangle_id == 0) & (back.triangle_id == 0) & (fragments.triangle_id == 0)
        assert both.sum() > 30
        change = (interpolate(values, ahead, FACES) - interpolate(values, back, FACES)) / (2 * step)
        scale = change[both].abs().amax()
        torch.testing.assert_close(found[..., axis][both], change[both], rtol=1e-4, atol=float(1e-4 * scale))
    assert (found[fragments.triangle_id < 0] == 0).all()
    assert (fragments.triangle_id < 0).any()


def test_screen_positions_change_by_one_per_pixel():
    # Clip coordinates are attributes whose quotients are the pixel's position.
    corners, size = triangle(), (9, 12)
    fragments = rasterize(corners, FACES, size)
    seen = fragments.triangle_id == 0
    place, change = interpolate(corners, fragments, FACES)[seen], derivatives(corners, fragments, corners, FACES)[seen]
    quotient = place[:, :2] / place[:, 3:]
    by_pixel = (change[:, :2] - quotient[..., None] * change[:, 3:]) / place[:, 3, None, None]
    pixels = by_pixel * torch.tensor([6.0, 4.5]).double()[:, None]
    torch.testing.assert_close(pixels, torch.eye(2).double().expand(len(pixels), 2, 2))


def test_derivatives_of_batches_and_their_gradients():
    corners = torch.cat([triangle(), moved(triangle(), 1.5, -0.5, (5, 6))])
    values = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    fragments = rasterize(corners, FACES, (5, 6))
    together = derivatives(values, fragments, corners, FACES)
    assert torch.equal(together, derivatives(values, fragments, corners, FACES.expand(2, -1, -1)))
    for i in range(2):
        alone = rasterize(corners[i : i + 1], FACES, (5, 6))
        assert torch.equal(together[i : i + 1], derivatives(values[i], alone, corners[i : i + 1], FACES))
    shared = derivatives(values[0], fragments, corners, FACES)
    assert torch.equal(shared[0], together[0])
    inputs = values.requires_grad_(), corners.requires_grad_()
    assert torch.autograd.gradcheck(lambda v, c: derivatives(v, fragments, c, FACES), inputs)


def floor() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A floor below the camera that reaches from behind it to the horizon: vertices (1, 4, 3), faces, uv (4, 2)."""
    x, z = torch.tensor([-40.0, 40, 40, -40]), torch.tensor([-1.0, -1, 400, 400])
    vertices = torch.stack([x, torch.ones(4), z], -1)
    return vertices[None], torch.tensor([[3, 2, 1], [3, 1, 0]]), torch.stack([x, z], -1) / 8


def floor_picture(size: tuple[int, int], mip_mapped: bool) -> torch.Tensor:
    vertices, faces, uv = floor()
    corners = clip(vertices, clip_from_camera(intrinsics(60, size), size))
    fragments = rasterize(corners, faces, size)
    checks = ((torch.arange(32)[:, None] // 4 + torch.arange(32) // 4) % 2).float()[None, None]
    footprint = derivatives(uv, fragments, corners, faces) if mip_mapped else None
    colours = texture(checks, interpolate(uv, fragments, faces), "repeat", footprint=footprint)
    return colours * (fragments.triangle_id >= 0)[:, None]


def test_a_checkered_floor_to_the_horizon_keeps_its_mean_grey():
    truth = torch.nn.functional.avg_pool2d(floor_picture((48 * 16, 64 * 16), mip_mapped=False), 16)
    plain, mipped = (floor_picture((48, 64), m) for m in (False, True))

    def error(picture: torch.Tensor, rows: slice) -> float:
        return float((picture - truth)[:, :, rows].square().mean().sqrt())

    # Below the horizon at row 24, where several squares fall on each pixel: 0.41 and 0.07.
    far = slice(25, 29)
    assert error(plain, far) > 0.3
    assert error(mipped, far) < error(plain, far) / 4
    # On the whole floor 0.19 and 0.08; near the camera, where texels are magnified, it is the same picture.
    assert error(mipped, slice(24, 48)) < error(plain, slice(24, 48)) / 2
    torch.testing.assert_close(mipped[:, :, 46:], plain[:, :, 46:], rtol=0, atol=1e-5)
