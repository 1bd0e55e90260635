"""Light on a surface: Lambert, and spherical harmonics."""

import torch
from torch import Tensor

from ..scene import Light


def shade(normals: Tensor, albedo: Tensor, light: Light) -> Tensor:
    """Colours (..., 3) of a matt surface: albedo * (ambient + diffuse * max(0, normal · direction)).

    Args:
        normals: (..., 3), unit length, camera space; albedo: (..., 3).

    Colours are not clipped: strong light goes beyond 1.
    """
    direction = torch.tensor(light.direction, dtype=normals.dtype, device=normals.device)
    lambert = (normals * direction).sum(-1, keepdim=True).clamp_min(0)
    return albedo * (light.ambient + light.diffuse * lambert)


def shade_sh(normals: Tensor, albedo: Tensor, coefficients: Tensor) -> Tensor:
    """Colours (..., 3) under light given by spherical harmonics of degree 0 to 2 (Ramamoorthi and Hanrahan 2001).

    Args:
        normals: (..., 3), unit length, camera space; albedo: (..., 3).
        coefficients: (..., 9, 3), of the light that arrives at a surface (the clamped cosine is already in them), one
            column per colour, in the order of `sh_basis`. Leading sizes broadcast against those of `normals`.
    """
    return albedo * (sh_basis(normals)[..., None, :] @ coefficients).squeeze(-2)


def sh_basis(normals: Tensor) -> Tensor:
    """Orthonormal real spherical harmonics (..., 9): 1, y, z, x, xy, yz, 3z²-1, xz, x²-y², each with its constant."""
    x, y, z = normals.unbind(-1)
    return torch.stack(
        [
            torch.full_like(x, 0.28209479177387814),
            0.4886025119029199 * y,
            0.4886025119029199 * z,
            0.4886025119029199 * x,
            1.0925484305920792 * x * y,
            1.0925484305920792 * y * z,
            0.31539156525252005 * (3 * z * z - 1),
            1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ],
        -1,
    )
