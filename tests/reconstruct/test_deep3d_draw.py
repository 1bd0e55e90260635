"""Coefficients to pictures: against the published formulas, mirror images, and finite differences of coverage."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.geometry import clip, clip_from_camera, grid_faces, project
from aboutface.reconstruct.deep3d import Coefficients, Layout
from aboutface.reconstruct.deep3d_draw import PLAIN, Basis, draw, equal_normals, landmarks, lit, posed
from aboutface.reconstruct.deep3d_frame import ICT_CENTRE, camera, points_to_deep3d
from aboutface.render import interpolate, rasterize

SIDE = 13
"""Vertices along each side of the small face."""
SIZE = 48


def bump() -> Basis:
    """A mask of 13 x 13 vertices bulging towards the camera, mirror-symmetric in all but its second identity."""
    axis = torch.linspace(-1, 1, SIDE, dtype=torch.float64)
    y, x = (part.flatten() for part in torch.meshgrid(axis, axis, indexing="ij"))
    zero, r = torch.zeros_like(x), x * x + y * y
    # Round: an outline without corners or straight pieces.
    x, y = x * (1 - y * y / 2).sqrt(), y * (1 - x * x / 2).sqrt()
    mean = torch.stack([0.08 * x, 0.09 * y, -0.06 * torch.exp(-1.5 * r)], -1)
    identity = torch.stack([torch.stack([0.01 * x, zero, zero], -1), torch.stack([0.004 * y, zero, 0.01 * x], -1)])
    expression = torch.stack([zero, 0.01 * (y > 0.3), zero], -1)[None]
    tint = torch.stack([0.7 + 0.2 * y, 0.5 + 0.2 * x * x, 0.4 - 0.1 * y], -1)
    albedo = torch.stack([0.1 * x * x, zero, 0.1 * y], -1)[None]
    # Columns run from left to right; 68 vertices of which each mirrors its neighbour would need iBUG's table.
    return Basis(
        mean, identity, expression, tint, albedo, grid_faces(SIDE, SIDE), torch.arange(68)[:, None], torch.ones(68, 1)
    )


BASIS = bump()


def some(batch: int = 1, seed: int = 0, size: float = 1.0) -> Coefficients:
    """Poses to about 20 degrees, coloured light."""
    generator = torch.Generator().manual_seed(seed)

    def normal(count: int, deviation: float) -> torch.Tensor:
        return size * deviation * torch.randn(batch, count, generator=generator, dtype=torch.float64)

    return Coefficients(normal(2, 1), normal(1, 0.5), normal(1, 1), normal(3, 0.2), normal(27, 0.1), normal(3, 0.2))


def test_vertices_are_turned_and_shifted_as_published():
    c = some(3)
    theirs = points_to_deep3d(posed(BASIS, c))
    rest = points_to_deep3d(BASIS.shapes(c) + torch.tensor([0.0, 0.0, 1.0]))
    for i in range(3):
        (sx, sy, sz), (cx, cy, cz) = c.angle[i].sin().tolist(), c.angle[i].cos().tolist()
        rx = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]], dtype=torch.float64)
        ry = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]], dtype=torch.float64)
        rz = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]], dtype=torch.float64)
        assert_close(theirs[i], rest[i] @ (rz @ ry @ rx).mT + c.trans[i])


def test_shapes_and_colours_are_sums():
    c = some(2)
    for b in range(2):
        shape = (
            BASIS.mean
            + sum(w * d for w, d in zip(c.id[b], BASIS.identity, strict=True))
            + c.exp[b, 0] * BASIS.expression[0]
        )
        assert_close(BASIS.shapes(c)[b], shape)
        assert_close(BASIS.colours(c)[b], BASIS.albedo_mean + c.tex[b, 0] * BASIS.albedo[0])


def model(**changes: Any) -> Any:
    members: dict[str, Any] = {
        "mean": torch.tensor([[1.0, -5.15, -76.21], [0.0, -5.15, -86.21]]),
        "identity": torch.arange(18.0).view(3, 2, 3),
        "expression": torch.ones(1, 2, 3),
        "expression_kind": "weights",
        "faces": torch.zeros(1, 3, dtype=torch.int64),
        "landmarks68": torch.arange(68) % 2,
    }
    none = dict.fromkeys(("albedo_mean", "albedo", "landmark_corners", "landmark_weights"))
    return SimpleNamespace(**(none | members | changes))


LAYOUT = Layout(2, 1, 0, 3, "weights")


def test_a_model_in_millimetres_becomes_a_basis():
    basis = Basis.of(model(), LAYOUT, ICT_CENTRE)
    assert_close(basis.mean, torch.tensor([[0.001, 0, 0], [0, 0, -0.01]]), atol=1e-7, rtol=0)
    assert_close(basis.identity, torch.arange(12.0).view(2, 2, 3) / 1000)
    assert basis.albedo.shape == (0, 2, 3)
    assert_close(basis.albedo_mean, torch.tensor([PLAIN, PLAIN]))
    vertices = posed(basis, LAYOUT.zeros())
    # Ten millimetres towards the camera, at the distance of a metre.
    assert_close(vertices[0, 1], torch.tensor([0.0, 0.0, 0.99]))
    assert_close(basis.colours(LAYOUT.zeros())[0], basis.albedo_mean)
    assert_close(landmarks(basis, vertices)[0, :2], torch.tensor([[113.015, 112], [112, 112]]))
    assert_close(Basis.of(model(), LAYOUT).mean, model().mean / 1000)


def test_landmarks_may_lie_between_vertices():
    corners = torch.tensor([[0, 1, 1]]).expand(68, -1)
    between = model(
        landmarks68=None, landmark_corners=corners, landmark_weights=torch.tensor([0.5, 0.25, 0.25]).expand(68, -1)
    )
    basis = Basis.of(between, LAYOUT, ICT_CENTRE)
    found = landmarks(basis, posed(basis, LAYOUT.zeros()))
    assert_close(found[0, 7], torch.tensor([112 + 1015 * 0.0005 / 0.995, 112.0]))


@pytest.mark.parametrize(
    ("change", "layout", "message"),
    [
        ({}, Layout(4, 1, 0, 3, "weights"), "expected 4 modes of identity, the model has 3"),
        ({}, Layout(3, 1, 1, 3, "weights"), "expected 1 modes of albedo, the model has 0"),
        ({}, Layout(3, 1, 0), "the model's expressions are weights"),
        ({"landmarks68": None}, LAYOUT, "does not know all 68 landmarks"),
    ],
)
def test_models_that_do_not_fit_the_layout_are_refused(change, layout, message):
    with pytest.raises(UsageError, match=message):
        Basis.of(model(**change), layout)


def test_normals_count_each_triangle_alike():
    vertices = posed(BASIS, some(2))
    found = equal_normals(vertices, BASIS.faces)
    for b in range(2):
        for v in (0, 6, 40, 84, 168):
            total = torch.zeros(3, dtype=torch.float64)
            for face in BASIS.faces[(BASIS.faces == v).any(1)]:
                p, q, r = vertices[b, face]
                total += torch.nn.functional.normalize(torch.linalg.cross(r - p, q - p), dim=0)
            assert_close(found[b, v], total / total.norm())
    # Out of the surface: towards the camera.
    assert (found[..., 2] < 0).all()


def test_colours_are_those_of_the_published_formula():
    c = some(1)
    drawn = draw(BASIS, c, SIZE)
    n = equal_normals(drawn.vertices, BASIS.faces)[0] * torch.tensor([1.0, -1.0, -1.0])
    for v in (0, 84, 100):
        x, y, z = n[v].tolist()
        a, b = 2 * math.pi / math.sqrt(3) * math.sqrt(3 / (4 * math.pi)), 2.427032
        functions = [0.886227, -a * y, a * z, -a * x, b * x * y, -b * y * z, 0.700624 * (3 * z * z - 1), -b * x * z]
        functions.append(1.213516 * (x * x - y * y))
        for channel in range(3):
            gamma = c.gamma[0, 9 * channel : 9 * channel + 9].clone()
            gamma[0] += 0.8
            light = sum(float(g) * f for g, f in zip(gamma, functions, strict=True))
            assert float(drawn.colours[0, v, channel]) == pytest.approx(
                float(drawn.albedo[0, v, channel]) * light, abs=1e-5
            )


def test_a_mirrored_face_gives_the_mirrored_picture():
    c = some(1)
    c = c._replace(id=c.id * torch.tensor([1.0, 0.0]))
    signs = torch.tensor([1, 1, 1, -1, -1, 1, 1, -1, 1], dtype=torch.float64).repeat(3)
    turned = torch.tensor([1.0, -1.0, -1.0])
    mirrored = c._replace(angle=c.angle * turned, gamma=c.gamma * signs, trans=c.trans * torch.tensor([-1.0, 1, 1]))
    here, there = draw(BASIS, c, SIZE), draw(BASIS, mirrored, SIZE)
    # The grid's diagonals all run one way: between them lies a little.
    assert 200 < float(here.alpha.sum()) < 0.8 * SIZE**2
    assert (here.image - here.image.flip(-1)).abs().mean() > 0.01
    assert (there.alpha - here.alpha.flip(-1)).abs().mean() < 0.002
    assert (there.image - here.image.flip(-1)).abs().mean() < 0.002
    first_row = there.landmarks[0, :SIDE].flip(0)
    assert_close(first_row, here.landmarks[0, :SIDE] * torch.tensor([-1.0, 1.0]) + torch.tensor([float(SIZE), 0.0]))


def test_landmarks_are_their_vertices():
    drawn = draw(BASIS, some(2), 224)
    assert_close(drawn.landmarks, project(drawn.vertices[:, :68], camera().K.double()))
    small = draw(BASIS, some(2), 56, supersample=2)
    assert_close(small.landmarks, drawn.landmarks / 4)


def test_a_batch_is_its_faces_one_by_one():
    c = some(3)
    together = draw(BASIS, c, SIZE, supersample=2)
    for i in range(3):
        alone = draw(BASIS, Coefficients(*(part[i : i + 1] for part in c)), SIZE, supersample=2)
        for a, b in zip(together, alone, strict=True):
            assert_close(a[i : i + 1], b)


def test_over_a_photo():
    drawn, photo = draw(BASIS, some(2), SIZE), torch.rand(2, 3, SIZE, SIZE, dtype=torch.float64)
    over = drawn.over(photo)
    outside, inside = (drawn.alpha == 0).expand(-1, 3, -1, -1), (drawn.alpha == 1).expand(-1, 3, -1, -1)
    assert torch.equal(over[outside], photo[outside])
    assert_close(over[inside], drawn.image[inside])
    part = ~outside & ~inside
    assert part.sum() > 60
    # In between, between the two.
    colour = drawn.image / drawn.alpha.clamp_min(1e-9)
    low, high = torch.minimum(colour, photo), torch.maximum(colour, photo)
    assert ((over >= low - 1e-9) & (over <= high + 1e-9))[part].all()


def test_the_mask_marks_a_part_of_the_face():
    c = Coefficients(*(torch.zeros(1, n, dtype=torch.float64) for n in (2, 1, 1, 3, 27, 3)))
    c.angle.requires_grad_()
    right = (torch.arange(SIDE * SIDE) % SIDE >= SIDE // 2).double()
    drawn = draw(BASIS, c, SIZE, vertex_mask=right)
    assert not drawn.mask.requires_grad
    assert float(drawn.mask[..., SIZE // 2 + 1 :].sum()) == pytest.approx(
        float(drawn.alpha[..., SIZE // 2 + 1 :].sum().detach())
    )
    assert float(drawn.mask[..., : SIZE // 2 - 3].sum()) == 0
    assert torch.equal(draw(BASIS, c, SIZE).mask, drawn.alpha.detach())


@pytest.mark.parametrize(("member", "name"), [("id", "identity"), ("exp", "expression"), ("tex", "albedo")])
def test_coefficients_of_another_model_are_refused(member, name):
    c = some(1)
    with pytest.raises(UsageError, match=rf"{name}: this model takes coefficients \(B, \d\), got \(1, 7\)"):
        draw(BASIS, c._replace(**{member: torch.zeros(1, 7)}), SIZE)


def test_impossible_settings_are_refused():
    with pytest.raises(UsageError, match="supersample must be 1 or more"):
        draw(BASIS, some(1), SIZE, supersample=0)
    with pytest.raises(UsageError, match=r"expected a vertex_mask \(169,\)"):
        draw(BASIS, some(1), SIZE, vertex_mask=torch.ones(68))


# Gradients.

FACTOR = 12
"""Supersampling of the truth along each side."""


def moved(c: Coefficients, member: str, index: int, by: float) -> Coefficients:
    value = getattr(c, member).detach().clone()
    value[0, index] += by
    return c._replace(**{member: value})


@torch.no_grad()
def exact(c: Coefficients) -> torch.Tensor:
    """(3 + 1, SIZE, SIZE): picture and coverage, drawn 12 times as large without antialias, and averaged."""
    fine = SIZE * FACTOR
    vertices = posed(BASIS, c)
    corners = clip(vertices, clip_from_camera(camera(fine).K.double(), (fine, fine), 0.4, 2.0))
    fragments = rasterize(corners, BASIS.faces, (fine, fine))
    colours = lit(BASIS, vertices, BASIS.colours(c), c.gamma)
    layers = interpolate(colours, fragments, BASIS.faces).movedim(-1, 1)
    covered = (fragments.triangle_id >= 0).double()[:, None]
    return torch.nn.functional.avg_pool2d(torch.cat([layers, covered], 1) * covered, FACTOR)[0]


PARAMETERS = [("angle", 0), ("angle", 1), ("angle", 2), ("trans", 0), ("trans", 1), ("trans", 2), ("id", 0), ("exp", 0)]


@pytest.mark.parametrize("supersample", [1, 2])
def test_gradients_of_pose_and_shape_are_those_of_finite_differences(supersample):
    c = Coefficients(*(part.requires_grad_() for part in some(1, seed=3)))
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 4, 5, 5, generator=generator, dtype=torch.float64)
    weights = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic", align_corners=False)[0]
    drawn = draw(BASIS, c, SIZE, supersample=supersample)
    value = (torch.cat([drawn.image, drawn.alpha], 1)[0] * weights).sum()
    gradients = dict(zip(Coefficients._fields, torch.autograd.grad(value, c), strict=True))
    found, expected = [], []
    for member, index in PARAMETERS:
        # About half a pixel at the outline.
        step = {"angle": 0.03, "trans": 0.03, "id": 0.2, "exp": 0.2}[member]
        ahead, behind = (exact(moved(c, member, index, sign * step)) for sign in (1, -1))
        expected.append(float(((ahead - behind) * weights).sum()) * 0.5)
        found.append(float(gradients[member][0, index]) * step)
    found, expected = torch.tensor(found), torch.tensor(expected)
    assert torch.cosine_similarity(found, expected, dim=0) > 0.99
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_gradients_of_colours_are_exact():
    c = some(1, seed=4)

    def picture(tex: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        return draw(BASIS, c._replace(tex=tex, gamma=gamma), 8).image

    inputs = [c.tex.requires_grad_(), c.gamma.requires_grad_()]
    assert torch.autograd.gradcheck(picture, inputs)


def test_supersampling_comes_nearer_to_the_truth():
    c = some(1, seed=3)
    goal = exact(c)
    errors = []
    for supersample in (1, 2):
        drawn = draw(BASIS, c, SIZE, supersample=supersample)
        errors.append(float((torch.cat([drawn.image, drawn.alpha], 1)[0] - goal).abs().sum()))
    hard = (goal[3] > 0.5).double()
    assert errors[0] < 0.4 * 4 * float((hard - goal[3]).abs().sum())
    assert errors[1] < 0.7 * errors[0]
