import math

import pytest
import torch

from aboutface.render import sh_basis, shade, shade_sh
from aboutface.scene import Light


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


@pytest.mark.parametrize("kind", ["lambert", "harmonics"])
def test_shade_gradients(kind):
    normals = random_normals(6).requires_grad_()
    albedo = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    light = Light(0.3, 0.7, (0.36, -0.48, -0.8))
    if kind == "lambert":
        assert torch.autograd.gradcheck(lambda n, a: shade(n, a, light), (normals, albedo))
    else:
        coefficients = torch.rand(9, 3, generator=torch.Generator().manual_seed(2)).double().requires_grad_()
        assert torch.autograd.gradcheck(shade_sh, (normals, albedo, coefficients))
