"""Scene to pictures."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ..geometry import clip, clip_from_camera, face_normals, vertex_normals
from ..geometry.mesh import unit
from ..scene import Camera, Mesh, Scene
from .antialias import antialias
from .interpolate import interpolate
from .rasterize import Fragments, Order, rasterize
from .shade import shade, sides
from .texture import texture
from .visibility import visibility


@dataclass(frozen=True)
class Render:
    """One view of a scene. Everything is 0 where nothing is seen."""

    rgb: Tensor
    """(3, H, W): albedo times light; from 0 to 1 unless the light is strong."""
    alpha: Tensor
    """(H, W): 1 where the surface is, 0 elsewhere."""
    depth: Tensor
    """(H, W): camera-space z."""
    normal: Tensor
    """(3, H, W): unit length, camera space, out of the surface; where its inner side is seen, out of that side."""
    visibility: Tensor
    """(H, W), 0 to 1: how well the photo shows this point of the surface; 0 if it was hidden or outside.

    In between it is the cosine between the surface's normal and the ray to the camera, both at rest; of the side that
    is seen now.
    """


def render(
    scene: Scene,
    size: tuple[int, int] | None = None,
    *,
    backend: str = "auto",
    order: Order = "depth",
    smooth: bool = False,
    flat: bool = False,
) -> Render:
    """Draw a scene through its camera.

    Args:
        size: (H, W) of the result; the camera's if missing.
        backend, order: see `rasterize`.
        smooth: antialias silhouettes in rgb and alpha, which lets gradients of coverage reach the surface. The colours
            are those of the surface alone, not mixed with the empty background.
        flat: give each triangle its own normal, so that facets show, instead of normals smoothed over the vertices.

    Differentiable with respect to every tensor of the scene, but for visibility. A mesh without texture coordinates
    takes the places where its vertices project at rest.
    """
    if smooth and order != "depth":
        raise UsageError("render: outlines are smoothed in depth order only, got smooth=True and order='painter'")
    camera = scene.camera if size is None else scene.camera.resized(*size)
    rest, mesh = scene.mesh_at_rest(), scene.mesh()
    if rest.vertices.ndim != 2 or scene.albedo.ndim != 3:
        raise UsageError("render: expected a mesh of vertices (V, 3) and an albedo (3, H, W)")
    corners, fragments = _draw(mesh, camera, backend, order)
    attributes = [
        _texture_coordinates(rest, camera),
        vertex_normals(mesh.vertices, mesh.faces),
        mesh.vertices[:, 2:],
    ]
    values = interpolate(torch.cat(attributes, -1), fragments, mesh.faces, backend=backend)
    uv, normal, depth = values.split([2, 3, 1], -1)
    side = sides(fragments, corners, mesh.faces)
    normal = (_flat_normals(mesh, fragments) if flat else unit(normal)) * side[..., None]
    normal = normal.movedim(-1, 1)
    rgb = texture(scene.albedo.to(uv)[None], uv)
    if scene.light is not None:
        rgb = shade(normal, rgb, scene.light, dim=1)
    alpha = (fragments.triangle_id >= 0).to(rgb.dtype)[:, None]
    rgb = rgb * alpha
    if smooth:
        blended = antialias(torch.cat([rgb, alpha], 1), fragments, corners, mesh.faces, backend=backend)
        rgb, alpha = blended[:, :-1] / blended[:, -1:].clamp_min(1e-6), blended[:, -1:]
    # What was seen in the photo is a matter of depth, whatever the order in which this view is drawn.
    unturned = order == "depth" and torch.equal(scene.turn, torch.eye(3).to(scene.turn))
    in_photo = fragments if unturned else _draw(rest, camera, backend, "depth")[1]
    seen = _seen_in_photo(rest, camera, fragments, side, in_photo, backend)
    return Render(rgb[0], alpha[0, 0], depth[0, ..., 0], normal[0], seen[0])


def _draw(mesh: Mesh, camera: Camera, backend: str, order: Order) -> tuple[Tensor, Fragments]:
    """Vertices (1, V, 4) in clip space, and what of them is seen."""
    corners = clip(mesh.vertices, _clip_from(camera, mesh))[None]
    return corners, rasterize(corners, mesh.faces, (camera.height, camera.width), backend=backend, order=order)


def _clip_from(camera: Camera, mesh: Mesh) -> Tensor:
    return clip_from_camera(camera.K.to(mesh.vertices), (camera.height, camera.width))


def _texture_coordinates(rest: Mesh, camera: Camera) -> Tensor:
    if rest.uv is not None:
        return rest.uv.to(rest.vertices)
    corners = clip(rest.vertices, _clip_from(camera, rest))
    return (corners[:, :2] / corners[:, 3:] + 1) / 2


def _flat_normals(mesh: Mesh, fragments: Fragments) -> Tensor:
    """Unit normals (1, H, W, 3) of the triangles seen, 0 where there are none."""
    # One more, for pixels that show nothing.
    normals = functional.pad(unit(face_normals(mesh.vertices, mesh.faces)), (0, 0, 0, 1))
    ids = fragments.triangle_id
    return normals.index_select(0, (ids % len(normals)).flatten()).view(*ids.shape, 3)


@torch.no_grad()
def _seen_in_photo(
    rest: Mesh, camera: Camera, fragments: Fragments, side: Tensor, in_photo: Fragments, backend: str
) -> Tensor:
    """Visibility (1, H, W), at rest, of the points of which `fragments` show that side."""
    values = torch.cat([rest.vertices, vertex_normals(rest.vertices, rest.faces)], -1)
    points, normals = interpolate(values, fragments, rest.faces, backend=backend).split(3, -1)
    size = camera.height, camera.width
    seen = visibility(
        points,
        normals * side[..., None],
        rest.vertices[None],
        rest.faces,
        _clip_from(camera, rest),
        size,
        fragments=in_photo,
        backend=backend,
    )
    return torch.where(fragments.triangle_id >= 0, seen, torch.zeros_like(seen))
