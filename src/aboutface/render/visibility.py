"""What a photo shows of a surface: per vertex, per point, and as a texture taken from it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ..geometry import clip, face_normals, vertex_normals
from ..geometry.mesh import cross, unit
from ..scene import Mesh
from .interpolate import interpolate
from .rasterize import Fragments, rasterize
from .texture import derivatives, texture

ROOM = 0.25
"""Pixels by which a point must lie behind what its pixel shows to count as hidden."""
OWN = 0.5
"""Pixels of the mip map's level up to which what a pixel beside a point shows counts as the point's own surface."""


def visible_vertices(
    vertices: Tensor, faces: Tensor, clip_from_mesh: Tensor, size: tuple[int, int], *, backend: str = "auto"
) -> Tensor:
    """How well a camera sees each vertex, (B, V) or (V,): `visibility` of the vertices with their smooth normals.

    Args:
        vertices: (B, V, 3) or (V, 3); faces, clip_from_mesh, size, backend: as for `visibility`.
    """
    normals = vertex_normals(vertices, faces)
    return visibility(vertices, normals, vertices, faces, clip_from_mesh, size, backend=backend)


@torch.no_grad()
def visibility(
    points: Tensor,
    normals: Tensor,
    vertices: Tensor,
    faces: Tensor,
    clip_from_mesh: Tensor,
    size: tuple[int, int],
    *,
    fragments: Fragments | None = None,
    backend: str = "auto",
) -> Tensor:
    """How well a camera sees points on a surface, (B, ...) from 0 to 1.

    0 for what is hidden, outside the image, behind the camera or its near plane, or turned away; else the cosine
    between the normal and the direction to the camera.

    Args:
        points: (B, ..., 3) in the mesh's space; normals: the same shape, out of the surface, of any length. Points of
            a surface that is seen from its inner side need the normals of that side.
        vertices: (B, V, 3); faces: (F, 3) or (B, F, 3): all that can hide a point. Without a batch, vertices (V, 3)
            and points (..., 3).
        clip_from_mesh: (4, 4) or (B, 4, 4): `geometry.clip_from_camera`, `clip_from_affine`, `clip_from_orthographic`.
        size: (H, W) in pixels at which the surface is drawn to find out what is in front.
        fragments: what `rasterize` made of just these vertices at this size, if that is known already.
        backend: as for `rasterize`.

    A point is hidden if what its pixel shows lies above the point's tangent plane, and the point lies behind the plane
    of the triangle seen there, both by a quarter of a pixel. A comparison of depths, or one of the two alone, would
    call points hidden where the surface is merely steep or bent. No gradient.
    """
    if vertices.ndim == 2:
        found = visibility(
            points[None],
            normals[None],
            vertices[None],
            faces,
            clip_from_mesh,
            size,
            fragments=fragments,
            backend=backend,
        )
        return found[0]
    if points.shape != normals.shape or points.shape[-1] != 3 or len(points) != len(vertices):
        raise UsageError(
            f"visibility: expected points ({len(vertices)}, ..., 3) and as many normals, "
            f"got {tuple(points.shape)} and {tuple(normals.shape)}"
        )
    if fragments is None:
        fragments = rasterize(clip(vertices, clip_from_mesh), faces, size, backend=backend)
    elif (*fragments.triangle_id.shape,) != (len(vertices), *size):
        raise UsageError(f"visibility: expected fragments of size {size}, got {(*fragments.triangle_id.shape,)}")
    shape, points, normals = points.shape[:-1], _listed(points), unit(_listed(normals))
    place = clip(points, clip_from_mesh)
    away, pixel = _view(place, clip_from_mesh, size)
    x, y, z, w = place.unbind(-1)
    inside = (w > 0) & (x.abs() <= w) & (y.abs() <= w) & (z >= -w)
    pixels = _pixels(place, size)
    there, above, behind = _Shown.of(vertices, faces, fragments, backend).beside(points, normals, away, pixels)
    hidden = there & (above > ROOM * pixel) & (behind > ROOM * pixel)
    cosine = -_dot(normals, away)
    return torch.where(inside & ~hidden, cosine.clamp(0, 1), torch.zeros_like(cosine)).view(shape)


def _listed(points: Tensor) -> Tensor:
    """(B, ..., 3) to (B, N, 3)."""
    return points.reshape(len(points), math.prod(points.shape[1:-1]), 3)


def _pixels(place: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels (..., 2) of places (..., 4) in clip space."""
    w = torch.where(place[..., 3:] > 0, place[..., 3:], torch.ones_like(place[..., 3:]))
    return (place[..., :2] / w + 1) * (place.new_tensor([size[1], size[0]]) / 2)


def _view(place: Tensor, clip_from_mesh: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Of points (B, N, 4) in clip space: the unit direction (B, N, 3) away from the camera, and a pixel's size there.

    For any camera: neither x / w nor y / w changes along a ray, and z / w grows.
    """
    rows = clip_from_mesh[..., None, :, :3].unbind(-2)
    x, y, z, w = place[..., None].unbind(-2)
    by_x, by_y, by_z = (rows[i] * w - rows[3] * value for i, value in enumerate((x, y, z)))
    away = unit(torch.stack(cross(by_x.unbind(-1), by_y.unbind(-1)), -1))
    away = torch.where(_dot(away, by_z)[..., None] < 0, -away, away)
    across, down = (_dot(change, change).sqrt() for change in (by_x, by_y))
    return away, 2 * w[..., 0].square() / torch.minimum(across * size[1], down * size[0])


class _Shown(NamedTuple):
    """The surface that a picture shows."""

    there: Tensor
    """(B, H, W): whether the pixel shows anything."""
    front: Tensor
    """(B, H, W, 3): the point it shows."""
    plane: Tensor
    """(B, H, W, 3): the unit normal of the triangle it shows."""

    @classmethod
    def of(cls, vertices: Tensor, faces: Tensor, fragments: Fragments, backend: str) -> "_Shown":
        ids = fragments.triangle_id
        # One more normal, for pixels that show nothing.
        planes = functional.pad(unit(face_normals(vertices, faces)), (0, 0, 0, 1))
        item = torch.arange(len(ids), device=ids.device).view(-1, 1, 1)
        face = ids % planes.shape[1] + item * planes.shape[1]
        plane = planes.flatten(0, 1).index_select(0, face.flatten()).view(*ids.shape, 3)
        return cls(ids >= 0, interpolate(vertices, fragments, faces, backend=backend), plane)

    def beside(self, points: Tensor, normals: Tensor, away: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of points (B, N, 3), and what is shown at pixels (B, N, 2): whether there is anything; how far it lies above
        the point's tangent plane; and how far the point lies behind the plane of the triangle shown.
        """
        batch, height, width = self.there.shape
        column, row = (
            pixels.nan_to_num()[..., i].floor().clamp(0, end - 1).long() for i, end in ((0, width), (1, height))
        )
        index = ((torch.arange(batch, device=row.device)[:, None] * height + row) * width + column).flatten()
        there, front, plane = (values.flatten(0, 2).index_select(0, index) for values in self)
        front, plane = front.view(points.shape), plane.view(points.shape)
        # Towards the camera, whichever side of the triangle is seen.
        plane = torch.where(_dot(plane, away)[..., None] > 0, -plane, plane)
        return there.view(row.shape), _dot(front - points, normals), _dot(front - points, plane)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


class Atlas(NamedTuple):
    """A texture taken from a photo."""

    texture: Tensor
    """(3, S, S) in the photo's values."""
    confidence: Tensor
    """(S, S), 0 to 1: how squarely the photo shows the texel, see `visibility`; 0 where it does not."""


def bake(
    image: Tensor,
    mesh: Mesh,
    clip_from_mesh: Tensor,
    size: int | tuple[int, int],
    *,
    border: int = 4,
    backend: str = "auto",
) -> Atlas:
    """The texture that a photo gives to a surface.

    Args:
        image: (C, H, W), the photo.
        mesh: the surface as in the photo, with texture coordinates. Where two triangles lie on one texel, it belongs to
            the first.
        clip_from_mesh: (4, 4) from the mesh's space to clip space, for the photo's camera: see `visibility`.
        size: of the atlas, S or (rows, columns).
        border: texels by which colours are carried on beyond what the photo shows, so that no empty texel mixes into
            colours sampled at its edge. They keep confidence 0. All other texels that the photo does not show are 0.
        backend: as for `rasterize`.

    Each texel has the photo's colour where its centre lies in the photo, from the photo's mip map where the photo is
    finer than the atlas. A texel whose colour would take in something else, because an outline is that near in the
    photo, counts as not shown. Differentiable in image and, through the places in the photo, in vertices and camera;
    confidence has no gradient. Raises UsageError for a mesh without texture coordinates and images of other shapes.
    """
    if image.ndim != 3 or mesh.uv is None:
        what = "no texture coordinates" if mesh.uv is None else "some"
        raise UsageError(f"bake: expected an image (C, H, W) and a mesh with uv, got {tuple(image.shape)} and {what}")
    vertices, faces = mesh.vertices, mesh.faces
    flat = functional.pad(functional.pad(mesh.uv.to(vertices) * 2 - 1, (0, 1)), (0, 1), value=1.0)[None]
    texels = rasterize(flat, faces, (size, size) if isinstance(size, int) else size, backend=backend)
    in_photo = clip(vertices, clip_from_mesh)
    values = torch.cat([vertices, vertex_normals(vertices, faces), in_photo], -1)
    point, normal, place = interpolate(values, texels, faces, backend=backend).split([3, 3, 4], -1)
    change = derivatives(in_photo, texels, flat, faces)
    photo = image.shape[1], image.shape[2]
    pixels, footprint = _pixels(place, photo), _footprint(place, change, photo)
    extent = pixels.new_tensor([photo[1], photo[0]])
    colours = texture(image[None], pixels / extent, footprint=footprint / extent[:, None])
    drawn = rasterize(in_photo[None], faces, photo, backend=backend)
    seen = visibility(point, normal, vertices[None], faces, clip_from_mesh, photo, fragments=drawn, backend=backend)
    shown = _Shown.of(vertices[None], faces, drawn, backend)
    alone = _unmixed(shown, point, normal, clip_from_mesh, footprint)
    seen = torch.where((texels.triangle_id >= 0) & alone, seen, torch.zeros_like(seen))
    return Atlas(_carried_on(colours, seen > 0, border)[0], seen[0])


def _footprint(place: Tensor, change: Tensor, size: tuple[int, int]) -> Tensor:
    """Change (..., 2, 2) of `_pixels`, from that (..., 4, 2) of places (..., 4) in clip space."""
    w = torch.where(place[..., 3:] > 0, place[..., 3:], torch.ones_like(place[..., 3:]))
    quotient = place[..., :2] / w
    by_step = (change[..., :2, :] - quotient[..., None] * change[..., 3:, :]) / w[..., None]
    return by_step * (place.new_tensor([size[1], size[0]]) / 2)[:, None]


@torch.no_grad()
def _unmixed(shown: _Shown, points: Tensor, normals: Tensor, clip_from_mesh: Tensor, footprint: Tensor) -> Tensor:
    """Whether all pixels that mix into the colours at points (1, ..., 3), sampled by footprint, show their surface."""
    size = shown.there.shape[1], shown.there.shape[2]
    shape, points, normals = points.shape[:-1], points.flatten(1, -2), unit(normals.flatten(1, -2))
    place = clip(points, clip_from_mesh)
    away, pixel = _view(place, clip_from_mesh, size)
    longest = footprint.flatten(1, -3).square().sum(-2).amax(-1)
    # A coarser level that gets a hundredth of the weight does not count.
    step = 2 ** (longest.clamp_min(1).log2() / 2 - 0.01).ceil()
    # The two by two texels, of that level of the mip map, around the place.
    low = step[..., None] * (_pixels(place, size) / step[..., None] - 0.5).floor()
    high = low + 2 * step[..., None] - 1
    alone = torch.ones_like(step, dtype=torch.bool)
    for x in (low[..., 0], high[..., 0]):
        for y in (low[..., 1], high[..., 1]):
            there, above, behind = shown.beside(points, normals, away, torch.stack([x, y], -1))
            alone &= there & (torch.minimum(above.abs(), behind.abs()) < OWN * step * pixel)
    return alone.view(shape)


def _carried_on(image: Tensor, known: Tensor, rings: int) -> Tensor:
    """Image (1, C, H, W) where known (1, H, W); around it, ring by ring, the mean of known neighbours; 0 elsewhere."""
    known = known[:, None].to(image.dtype)
    image = image * known
    for _ in range(rings):
        weight = functional.avg_pool2d(known, 3, 1, 1)
        spread = functional.avg_pool2d(image, 3, 1, 1) / weight.clamp_min(0.1)
        image = torch.where(known > 0, image, spread)
        known = (weight > 0).to(image.dtype)
    return image
