import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aboutface.errors import UsageError
from aboutface.render import Fragments, antialias, rasterize
from aboutface.render.antialias import mesh_edges

pytestmark = pytest.mark.usefixtures("every_backend")
SIZE = 64


def ellipse(rings: int, around: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (V, 2) within an ellipse of half-axes 1 and 0.7, tilted, and faces: a fan, or `rings` rings of quads."""
    angle = torch.arange(around, dtype=torch.float64) * (2 * math.pi / around)
    rim = torch.stack([angle.cos(), 0.7 * angle.sin()], -1) @ torch.tensor([[0.9, 0.44], [-0.44, 0.9]]).double()
    radii = torch.linspace(0, 1, rings + 1, dtype=torch.float64)[1:]
    points = torch.cat([torch.zeros(1, 2, dtype=torch.float64), (radii[:, None, None] * rim).flatten(0, 1)])
    i = torch.arange(around)
    j = (i + 1) % around
    faces = [torch.stack([torch.zeros_like(i), 1 + i, 1 + j], -1)]
    for ring in range(rings - 1):
        a, b = 1 + ring * around, 1 + (ring + 1) * around
        faces += [torch.stack([a + i, b + i, b + j], -1), torch.stack([a + i, b + j, a + j], -1)]
    return points, torch.cat(faces)


def clip_of(points: torch.Tensor, parameters: torch.Tensor, z: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Clip-space vertices (1, V, 4) moved by parameters (tx, ty, scale), all in half-images."""
    xy = points * parameters[2] + parameters[:2]
    z = torch.as_tensor(z, dtype=points.dtype).expand(len(points), 1)
    return torch.cat([xy, z, torch.ones_like(z)], -1)[None]


def hard_coverage(clip: torch.Tensor, faces: torch.Tensor, factor: int) -> torch.Tensor:
    ids = rasterize(clip, faces, (SIZE * factor, SIZE * factor)).triangle_id
    return torch.nn.functional.avg_pool2d((ids >= 0).double(), factor)[0]


def soft_coverage(clip: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    fragments = rasterize(clip, faces, (SIZE, SIZE))
    return antialias((fragments.triangle_id >= 0).double()[:, None], fragments, clip, faces)[0, 0]


def smooth_weights() -> torch.Tensor:
    coarse = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.2
    return torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic", align_corners=False)[0, 0]


# One ring: triangles from the centre to the rim. Forty: most triangles are smaller than a pixel.
@pytest.mark.parametrize("rings", [1, 40])
@pytest.mark.parametrize("scale", [0.8, 0.55])
def test_coverage_and_its_gradient_are_those_of_supersampling(rings, scale):
    points, faces = ellipse(rings)
    start = torch.tensor([0.03, -0.05, scale], dtype=torch.float64, requires_grad=True)
    weights = smooth_weights()
    soft = soft_coverage(clip_of(points, start), faces)
    truth = hard_coverage(clip_of(points, start.detach()), faces, 16)
    hard = hard_coverage(clip_of(points, start.detach()), faces, 1)
    assert (soft - truth).abs().sum() < 0.2 * (hard - truth).abs().sum()

    (gradient,) = torch.autograd.grad((soft * weights).sum(), start)
    step = 1 / SIZE  # half a pixel
    expected = []
    for direction in torch.eye(3, dtype=torch.float64) * step:
        plus, minus = (hard_coverage(clip_of(points, start.detach() + d), faces, 16) for d in (direction, -direction))
        expected.append(((plus - minus) * weights).sum() / (2 * step))
    expected = torch.stack(expected)
    assert torch.cosine_similarity(gradient, expected, dim=0) >= 0.99
    assert 0.9 <= gradient[2] / expected[2] <= 1.1


def test_a_vertical_edge_gives_each_pixel_its_share():
    # The right edge of a square runs over x positions around a pixel column.
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    for right in (40.5, 40.7, 41.0, 41.3, 41.4999):
        pixels = torch.tensor([[-5.0, -5.0], [right, -5.0], [right, 70.0], [-5.0, 70.0]], dtype=torch.float64)
        clip = clip_of(pixels / (SIZE / 2) - 1, torch.tensor([0.0, 0.0, 1.0]))
        row = soft_coverage(clip, faces)[30]
        expected = (right - torch.arange(SIZE, dtype=torch.float64)).clamp(0, 1)
        torch.testing.assert_close(row, expected, atol=1e-9, rtol=0)


def test_the_inside_of_a_surface_stays_as_it_is():
    points, faces = ellipse(12)
    clip = clip_of(points, torch.tensor([0.0, 0.0, 2.5]), 0.3 * points.square().sum(-1, keepdim=True))
    fragments = rasterize(clip, faces, (SIZE, SIZE))
    assert (fragments.triangle_id >= 0).all()
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(antialias(image, fragments, clip.float(), faces), image)


def test_outlines_against_a_farther_surface_are_blended_and_hidden_ones_are_not():
    points, faces = ellipse(4)
    square = torch.tensor([[-2.0, -2.0], [2.0, -2.0], [2.0, 2.0], [-2.0, 2.0]], dtype=torch.float64)
    parameters = torch.tensor([0.0, 0.0, 0.7], dtype=torch.float64)
    both_faces = torch.cat([faces, torch.tensor([[0, 1, 2], [0, 2, 3]]) + len(points)])
    for z, shows in ((0.5, True), (-0.5, False)):
        clip = torch.cat([clip_of(points, parameters), clip_of(square, parameters, z)], 1)
        fragments = rasterize(clip, both_faces, (SIZE, SIZE))
        image = (fragments.triangle_id < len(faces)).double()[:, None]
        blended = antialias(image, fragments, clip, both_faces)[0, 0]
        if shows:
            torch.testing.assert_close(blended, soft_coverage(clip_of(points, parameters), faces))
        else:
            assert torch.equal(blended, image[0, 0])


def plate(left: float, right: float, z: float) -> torch.Tensor:
    """Vertices (1, 4, 4) of a rectangle between two columns, in pixels, taller than the picture."""
    pixels = torch.tensor([[left, -5.0], [right, -5.0], [right, 70.0], [left, 70.0]], dtype=torch.float64)
    return clip_of(pixels / (SIZE / 2) - 1, torch.tensor([0.0, 0.0, 1.0]), z)


PLATES = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])


def test_an_edge_just_behind_another_is_not_blended_too():
    # Both end in pixel 40; where its centre is, the nearer plate hides the farther one and its edge.
    clip = torch.cat([plate(-5, 40.7, 0.0), plate(-5, 40.9, 0.5)], 1)
    fragments = rasterize(clip, PLATES, (SIZE, SIZE))
    near = ((fragments.triangle_id >= 0) & (fragments.triangle_id < 2)).double()[:, None]
    row = antialias(near, fragments, clip, PLATES)[0, 0, 30]
    torch.testing.assert_close(row[39:42], torch.tensor([1.0, 0.7, 0.0], dtype=torch.float64), atol=1e-9, rtol=0)


def test_a_seam_within_a_surface_is_not_blended():
    # Two plates that meet without sharing vertices: both borders are in the mesh, none is in the picture.
    clip = torch.cat([plate(-5, 40.3, 0.0), plate(40.3, 70, 0.0)], 1)
    fragments = rasterize(clip, PLATES, (SIZE, SIZE))
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(antialias(image, fragments, clip, PLATES), image)


def test_the_outline_of_a_round_surface_is_found_between_its_triangles():
    # A ball has no border: its outline are the edges where it turns away.
    rows, columns = 24, 48
    polar = torch.linspace(0, math.pi, rows, dtype=torch.float64)[:, None]
    around = torch.arange(columns, dtype=torch.float64)[None] * (2 * math.pi / columns)
    ball = torch.stack([polar.sin() * around.cos(), polar.sin() * around.sin(), polar.cos().expand(-1, columns)], -1)
    index = torch.arange(rows * columns).view(rows, columns)
    a, b, c, d = index[:-1], index[:-1].roll(-1, 1), index[1:], index[1:].roll(-1, 1)
    faces = torch.cat([torch.stack(t, -1).flatten(0, 1) for t in ((a, b, c), (b, d, c))])
    ball = (
        ball.flatten(0, 1) @ torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2)).double())[0]
    )
    parameters = torch.tensor([0.02, 0.01, 0.7], dtype=torch.float64)
    clip = clip_of(ball[:, :2], parameters, 0.7 * ball[:, 2:])
    soft, hard, truth = soft_coverage(clip, faces), hard_coverage(clip, faces, 1), hard_coverage(clip, faces, 16)
    assert (soft - truth).abs().sum() < 0.25 * (hard - truth).abs().sum()


def test_weights_never_exceed_the_pixel():
    g = torch.Generator().manual_seed(4)
    clip = torch.cat([torch.rand(1, 60, 3, generator=g) * 2 - 1, torch.ones(1, 60, 1)], -1).requires_grad_()
    faces = torch.arange(60).view(20, 3)
    fragments = rasterize(clip, faces, (16, 16))
    blended = antialias((fragments.triangle_id >= 0).float()[:, None], fragments, clip, faces)
    assert blended.min() >= 0
    assert blended.max() <= 1 + 1e-6
    blended.sum().backward()
    assert clip.grad is not None
    assert torch.isfinite(clip.grad).all()


def test_empty_meshes():
    faces = torch.tensor([[0, 1, 2]])
    image = torch.rand(2, 3, 4, 4)
    for clip, triangles in ((torch.zeros(2, 3, 4), faces), (torch.zeros(2, 3, 4), faces[:0])):
        fragments = rasterize(clip, triangles, (4, 4))
        assert torch.equal(antialias(image, fragments, clip, triangles), image)


def soup(seed: int, behind: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Random meshes (2, 40, 4) and (30, 3), some of whose vertices lie behind the camera."""
    g = torch.Generator().manual_seed(seed)
    xyz = torch.rand(2, 40, 3, generator=g, dtype=torch.float64) * 2.4 - 1.2
    w = torch.rand(2, 40, 1, generator=g, dtype=torch.float64) * 2 + (-0.7 if behind else 0.5)
    return torch.cat([xyz, w], -1), torch.randint(0, 40, (30, 3), generator=g)


@given(seed=st.integers(0, 2**31), behind=st.booleans(), separate=st.booleans())
@settings(max_examples=30, deadline=None)
def test_every_backend_blends_alike(seed, behind, separate):
    clip, faces = soup(seed, behind)
    faces = torch.stack([faces, faces.flip(0).roll(1, 1)]) if separate else faces
    fragments = rasterize(clip, faces, (20, 17), backend="torch")
    image = torch.rand(2, 3, 20, 17, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    results = []
    for name in ("torch", "numba"):
        vertices = clip.clone().requires_grad_()
        blended = antialias(image, fragments, vertices, faces, backend=name)
        if blended.requires_grad:
            (blended * image.flip(-1)).sum().backward()
        results.append((blended.detach(), torch.zeros_like(clip) if vertices.grad is None else vertices.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_finite_differences():
    # Also of an edge that the near plane cuts: its far end alone says where it lies on the screen.
    near = torch.tensor([[-0.6, -0.7, 0.1, 1.0], [0.72, -0.55, 0.0, 1.2], [0.1, 0.81, 0.2, 1.1]], dtype=torch.float64)
    cut = torch.tensor([[-0.5, 0.6, 0.9, 1.0], [0.65, 0.7, 0.9, 1.0], [0.1, -1.6, -0.4, -0.3]], dtype=torch.float64)
    clip = torch.cat([near, cut])[None].requires_grad_()
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    fragments = rasterize(clip.detach(), faces, (9, 11))
    assert {0, 1} <= set(fragments.triangle_id.unique().tolist())
    image = torch.rand(1, 2, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    for triangles in (faces[:1], faces):
        fragments = rasterize(clip.detach(), triangles, (9, 11))
        with_gradient = lambda v, i, f=fragments, t=triangles: antialias(i, f, v, t)  # noqa: E731
        assert torch.autograd.gradcheck(with_gradient, (clip, image))


def test_any_split_of_the_batch_gives_the_same_bits():
    clip, faces = soup(7, True)
    clip = clip.float()
    fragments = rasterize(clip, faces, (30, 20))
    image = torch.rand(2, 3, 30, 20, generator=torch.Generator().manual_seed(0))
    together = antialias(image, fragments, clip, faces)
    for i in (0, 1):
        one = slice(i, i + 1)
        alone = antialias(image[one], Fragments(*(member[one] for member in fragments)), clip[one], faces)
        assert torch.equal(alone, together[one])


def test_what_is_known_of_faces_is_forgotten_when_they_are_written_to():
    faces = torch.tensor([[0, 1, 2]])
    assert mesh_edges(faces) is mesh_edges(faces)
    before = mesh_edges(faces).vertices.tolist()
    faces[0] = torch.tensor([0, 1, 3])
    assert mesh_edges(faces).vertices.tolist() != before
    with torch.inference_mode():
        assert mesh_edges(torch.tensor([[0, 1, 2]])).vertices.tolist() == before


def test_sizes_that_do_not_fit_are_named():
    clip, faces = soup(1, False)
    fragments = rasterize(clip, faces, (8, 9))
    with pytest.raises(UsageError, match="antialias: expected an image"):
        antialias(torch.rand(2, 3, 9, 8), fragments, clip, faces)
    for image, vertices in [
        (torch.rand(2, 3, 8, 9), clip[:1]),
        (torch.rand(2, 3, 8, 9), clip[..., :3]),
        (torch.rand(3, 8, 9), clip),
    ]:
        with pytest.raises(UsageError, match="antialias: expected an image"):
            antialias(image, fragments, vertices, faces)
    with pytest.raises(UsageError, match="expected fragments"):
        antialias(torch.rand(2, 3, 8, 9), fragments._replace(depth=fragments.depth[:, :2]), clip, faces)


@pytest.mark.parametrize("half", [16.0, 16.5, 16.25])
def test_outlines_right_on_pixel_borders_and_centres_have_their_gradient(half):
    # A square of side 2 * half pixels around the middle: its area changes by 8 * half per pixel of each side.
    square = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    scale = torch.tensor(half * 2 / SIZE, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros_like(scale)
    clip = clip_of(square, torch.stack([zero, zero, scale]))
    soft = soft_coverage(clip, torch.tensor([[0, 1, 2], [0, 2, 3]]))
    soft.sum().backward()
    assert scale.grad is not None
    # The corners' four pixels are shared by two outlines.
    assert float(scale.grad) == pytest.approx(8 * half * SIZE / 2, rel=0.02)
    assert float(soft.detach().sum()) == pytest.approx((2 * half) ** 2, abs=2)


@pytest.mark.parametrize("turn", [0.0, 1e-9, 0.1])
def test_a_box_seen_from_its_front_has_an_outline(turn):
    # Its sides are seen edge-on, or nearly so.
    corners = torch.tensor([[x, y, z] for z in (-1.0, 1) for y in (-1.0, 1) for x in (-1.0, 1)], dtype=torch.float64)
    faces = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6]]
    faces = torch.tensor([*faces, [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]])
    turned = corners @ torch.tensor(
        [[math.cos(turn), 0, -math.sin(turn)], [0, 1, 0], [math.sin(turn), 0, math.cos(turn)]], dtype=torch.float64
    )
    scale = torch.tensor(0.502, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros_like(scale)
    soft = soft_coverage(clip_of(turned[:, :2], torch.stack([zero, zero, scale]), 0.5 * turned[:, 2:]), faces)
    soft.sum().backward()
    width = 2 * (math.cos(turn) + math.sin(turn))
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(2 * 2 * width * 0.502 * (SIZE / 2) ** 2, rel=0.03)
