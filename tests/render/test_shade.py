import math

import pytest
import torch

from aboutface.errors import UsageError
from aboutface.render import sh_basis, shade, shade_sh
from aboutface.scene import Light, SphericalHarmonics


def random_normals(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(
        torch.randn(*shape, 3, generator=torch.Generator().manual_seed(0)).double(), dim=-1
    )


def test_lambert_by_hand():
    light = Light(ambient=0.2, diffuse=0.6, direction=(0.0, 0.0, -1.0))
    normals = torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0], [math.sin(1.0), 0.0, -math.cos(1.0)]])
    factor = torch.tensor([0.8, 0.2, 0.2 + 0.6 * math.cos(1.0)])
    albedo = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(shade(normals, albedo, light), factor[:, None] * albedo)


def test_harmonics_are_orthonormal():
    # Quadrature on the sphere: Gauss-Legendre points in z, equal steps around.
    z = torch.tensor([-0.9061798459, -0.5384693101, 0.0, 0.5384693101, 0.9061798459], dtype=torch.float64)
    share = torch.tensor([0.2369268851, 0.4786286705, 0.5688888889, 0.4786286705, 0.2369268851]).double()
    angle = torch.arange(12, dtype=torch.float64) * (2 * math.pi / 12)
    radius = (1 - z.square()).sqrt()[:, None]
    around = torch.stack([radius * angle.cos(), radius * angle.sin(), z[:, None].expand(-1, 12)], -1)
    basis = sh_basis(around)
    products = torch.einsum("iak,ial,i->kl", basis, basis, share) * (2 * math.pi / 12)
    torch.testing.assert_close(products, torch.eye(9).double(), atol=1e-6, rtol=0)


def test_harmonics_reproduce_ambient_and_directional_light():
    normals = random_normals(4, 5)
    albedo = torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(1)).double()
    direction = torch.tensor([0.36, -0.48, -0.8]).double()
    coefficients = torch.zeros(9, 3).double()
    coefficients[0] = 0.5 / sh_basis(direction)[0]
    # Degree 1 holds any linear function of the normal: here 0.3 times its cosine to the direction.
    coefficients[1:4] = (0.3 * direction[[1, 2, 0]] / 0.4886025119029199)[:, None]
    expected = albedo * (0.5 + 0.3 * (normals @ direction))[..., None]
    torch.testing.assert_close(shade_sh(normals, albedo, coefficients), expected)
    per_pixel = coefficients.expand(4, 5, 9, 3)
    torch.testing.assert_close(shade_sh(normals, albedo, per_pixel), expected)


def test_white_harmonics_light_all_colours_alike():
    normals, albedo = random_normals(4, 5), torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(1)).double()
    white = torch.rand(9, 1, generator=torch.Generator().manual_seed(2)).double()
    expected = shade_sh(normals, albedo, white.expand(9, 3))
    assert torch.equal(shade_sh(normals, albedo, white), expected)
    assert torch.equal(shade_sh(normals, albedo, white[:, 0]), expected)
    torch.testing.assert_close(expected, albedo * (sh_basis(normals) @ white))
    for wrong in (torch.rand(4, 3), torch.rand(9, 2), torch.rand(8)):
        with pytest.raises(UsageError, match="expected coefficients"):
            shade_sh(normals, albedo, wrong)


def test_harmonics_are_the_matrix_product_with_their_basis():
    normals, albedo = (
        random_normals(2, 4, 5),
        torch.rand(2, 4, 5, 3, generator=torch.Generator().manual_seed(1)).double(),
    )
    coefficients = torch.randn(2, 1, 1, 9, 3, generator=torch.Generator().manual_seed(2)).double()
    expected = albedo * (sh_basis(normals)[..., None, :] @ coefficients)[..., 0, :]
    found = shade_sh(normals, albedo, coefficients)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found, shade(normals, albedo, SphericalHarmonics(coefficients)))
    # One item alone, bit for bit.
    assert torch.equal(found[1], shade_sh(normals[1], albedo[1], coefficients[1, 0, 0]))


@pytest.mark.parametrize("light", [Light(0.3, 0.7, (0.36, -0.48, -0.8)), SphericalHarmonics(torch.rand(9, 3).double())])
def test_channels_may_come_first(light):
    normals, albedo = (
        random_normals(2, 4, 5),
        torch.rand(2, 4, 5, 3, generator=torch.Generator().manual_seed(1)).double(),
    )
    first = shade(normals.movedim(-1, 1), albedo.movedim(-1, 1), light, dim=1)
    assert torch.equal(first.movedim(1, -1), shade(normals, albedo, light))


def test_a_light_for_each_item_of_a_batch():
    normals, albedo = (
        random_normals(2, 4, 5),
        torch.rand(2, 4, 5, 3, generator=torch.Generator().manual_seed(1)).double(),
    )
    direction = random_normals(2)
    light = Light(
        torch.tensor([0.1, 0.4]).view(2, 1, 1), torch.tensor([0.9, 0.6]).view(2, 1, 1), direction.view(2, 1, 1, 3)
    )
    found = shade(normals, albedo, light)
    for i, (ambient, diffuse) in enumerate([(0.1, 0.9), (0.4, 0.6)]):
        alone = Light(torch.tensor(ambient), torch.tensor(diffuse), direction[i])
        assert torch.equal(found[i], shade(normals[i], albedo[i], alone))
        x, y, z = direction[i].tolist()
        torch.testing.assert_close(found[i], shade(normals[i], albedo[i], Light(ambient, diffuse, (x, y, z))))


def test_a_mirrored_light_lights_mirrored_normals_alike():
    normals = random_normals(50)
    flipped = normals * torch.tensor([-1.0, 1, 1])
    g = torch.Generator().manual_seed(3)
    lights = [
        Light(0.2, 0.8, (0.36, -0.48, -0.8)),
        Light(0.2, 0.8, random_normals()),
        SphericalHarmonics(torch.randn(9, 3, generator=g).double()),
        SphericalHarmonics(torch.randn(9, 1, generator=g).double()),
    ]
    for light in lights:
        white = torch.ones(50, 3).double()
        there, here = shade(flipped, white, light.mirrored()), shade(normals, white, light)
        torch.testing.assert_close(there, here)
        assert (shade(normals, white, light.mirrored()) - here).abs().max() > 0.05
        torch.testing.assert_close(shade(normals, white, light.mirrored().mirrored()), here)


@pytest.mark.parametrize("kind", ["lambert", "harmonics", "white"])
def test_shade_gradients(kind):
    normals = random_normals(6).requires_grad_()
    albedo = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    if kind == "lambert":
        parts = [torch.tensor(v).double().requires_grad_() for v in (0.3, 0.7, (0.36, -0.48, -0.8))]
        assert torch.autograd.gradcheck(lambda n, a, *light: shade(n, a, Light(*light)), (normals, albedo, *parts))
    else:
        colours = 1 if kind == "white" else 3
        coefficients = torch.rand(9, colours, generator=torch.Generator().manual_seed(2)).double().requires_grad_()
        assert torch.autograd.gradcheck(shade_sh, (normals, albedo, coefficients))
