"""Light on a surface: Lambert, and spherical harmonics."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ..geometry.mesh import cross
from ..scene import Light, SphericalHarmonics
from .rasterize import Fragments, check_mesh


def shade(normals: Tensor, albedo: Tensor, light: Light | SphericalHarmonics, *, dim: int = -1) -> Tensor:
    """Colours of a matt surface: albedo * (ambient + diffuse * max(0, normal · direction)), or those of `shade_sh`.

    Args:
        normals: (..., 3), unit length, camera space; albedo: (..., 3).
        light: its tensors, if it has any, broadcast against the normals' leading sizes: for normals (B, H, W, 3) a
            light for each item has ambient and diffuse (B, 1, 1) and direction (B, 1, 1, 3).
        dim: where normals and albedo have their 3. With (B, 3, H, W) and dim=1 no layout is changed, which is faster;
            the leading sizes are then (B, H, W).

    Returns colours of the albedo's layout, not clipped: strong light goes beyond 1. Differentiable in everything.
    """
    if isinstance(light, SphericalHarmonics):
        return shade_sh(normals, albedo, light.coefficients, dim=dim)
    direction, ambient, diffuse = (
        torch.as_tensor(value, dtype=normals.dtype, device=normals.device)
        for value in (light.direction, light.ambient, light.diffuse)
    )
    x, y, z = normals.unbind(dim)
    lambert = (x * direction[..., 0] + y * direction[..., 1] + z * direction[..., 2]).clamp_min(0)
    return albedo * (ambient + diffuse * lambert).unsqueeze(dim)


def shade_sh(normals: Tensor, albedo: Tensor, coefficients: Tensor, *, dim: int = -1) -> Tensor:
    """Colours under light given by spherical harmonics of degree 0 to 2 (Ramamoorthi and Hanrahan 2001).

    Args:
        normals: (..., 3), unit length, camera space; albedo: (..., 3).
        coefficients: (..., 9, 3), of the light that arrives at a surface (the clamped cosine is already in them), one
            column per colour, in the order of `sh_basis`; (..., 9, 1) or (..., 9) for white light. Leading sizes
            broadcast against those of `normals`: for normals (B, H, W, 3) a light for each item is (B, 1, 1, 9, 3).
        dim: as for `shade`.

    Raises UsageError for coefficients of another shape.
    """
    if coefficients.shape[-1] == 9:
        coefficients = coefficients[..., None]
    if coefficients.ndim < 2 or coefficients.shape[-2] != 9 or coefficients.shape[-1] not in (1, 3):
        raise UsageError(
            f"shade_sh: expected coefficients (..., 9, 3), (..., 9, 1) or (..., 9), got {tuple(coefficients.shape)}"
        )
    basis, coefficients = _harmonics(*normals.unbind(dim)), coefficients.to(normals)
    return albedo * torch.stack([_sum(basis, colour.unbind(-1)) for colour in coefficients.unbind(-1)], dim)


def sides(fragments: Fragments, vertices_clip: Tensor, faces: Tensor) -> Tensor:
    """Which side of the surface each pixel shows, (B, H, W): 1 the outside, -1 the inside, 0 where nothing is seen.

    Interpolated normals times this point towards the camera's side of an open surface, as two-sided shading wants.
    `fragments`, `vertices_clip` and `faces` are what `rasterize` returned and was given. No gradient.
    """
    check_mesh("sides", faces, vertices_clip, fragments)
    batch, count = len(vertices_clip), vertices_clip.shape[1]
    ids = fragments.triangle_id
    with torch.no_grad():
        item = torch.arange(batch, device=ids.device).view(-1, 1, 1)
        rows = (faces.expand(batch, -1, -1) + item * count).flatten(0, 1)
        table = vertices_clip.detach()[..., [0, 1, 3]].double().flatten(0, 1)
        a, b, c = (table.index_select(0, column).unbind(-1) for column in rows.unbind(1))
        # The determinant of the corners' (x, y, w) tells on which side of the triangle's plane the camera is, also
        # for triangles that reach behind it.
        normal = cross(b, c)
        sign = (a[0] * normal[0] + a[1] * normal[1] + a[2] * normal[2]).sign().view(batch, faces.shape[-2])
        # One more, for pixels that show nothing.
        sign = functional.pad(sign, (0, 1)).to(vertices_clip.dtype)
        face = ids % sign.shape[1] + item * sign.shape[1]
        return sign.flatten().index_select(0, face.flatten()).view(ids.shape)


def sh_basis(normals: Tensor) -> Tensor:
    """Orthonormal real spherical harmonics (..., 9): 1, y, z, x, xy, yz, 3z²-1, xz, x²-y², each with its constant."""
    return torch.stack(_harmonics(*normals.unbind(-1)), -1)


def _harmonics(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    return [
        torch.full_like(x, 0.28209479177387814),
        0.4886025119029199 * y,
        0.4886025119029199 * z,
        0.4886025119029199 * x,
        1.0925484305920792 * x * y,
        1.0925484305920792 * y * z,
        0.31539156525252005 * (3 * z * z - 1),
        1.0925484305920792 * x * z,
        0.5462742152960396 * (x * x - y * y),
    ]


def _sum(basis: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    # Written out, not a matrix product: its rounding depends on how many numbers it is given at once.
    total = basis[0] * weights[0]
    for function, weight in zip(basis[1:], weights[1:], strict=True):
        total = total + function * weight
    return total
