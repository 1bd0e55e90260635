"""Scene to pictures."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageError
from ..geometry import clip_from_camera, project, unproject, vertex_normals
from ..scene import Camera, Mesh, Scene
from .antialias import antialias
from .interpolate import interpolate
from .rasterize import Fragments, Order, rasterize
from .shade import shade
from .texture import texture


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
    """(3, H, W): unit length, camera space, out of the surface."""
    visibility: Tensor
    """(H, W), 0 to 1: how well the photo shows this point of the surface; 0 if it was hidden or outside.

    In between it is the cosine between the surface's normal and the ray to the camera, both at rest.
    """


def render(
    scene: Scene,
    size: tuple[int, int] | None = None,
    *,
    backend: str = "auto",
    order: Order = "depth",
    smooth: bool = False,
) -> Render:
    """Draw a scene through its camera.

    Args:
        size: (H, W) of the result; the camera's if missing.
        backend, order: see `rasterize`.
        smooth: antialias silhouettes in rgb and alpha, which lets gradients of coverage reach the surface. The colours
            are those of the surface alone, not mixed with the empty background.

    Differentiable with respect to every tensor of the scene, but for visibility. A mesh without texture coordinates
    takes the places where its vertices project at rest.
    """
    camera = scene.camera if size is None else scene.camera.resized(*size)
    rest, mesh = scene.mesh_at_rest(), scene.mesh()
    if rest.vertices.ndim != 2 or scene.albedo.ndim != 3:
        raise UsageError("render: expected a mesh of vertices (V, 3) and an albedo (3, H, W)")
    clip, fragments = _draw(mesh, camera, backend, order)
    # What was seen in the photo is a matter of depth, whatever the order in which this view is drawn.
    unturned = order == "depth" and torch.equal(scene.turn, torch.eye(3).to(scene.turn))
    fragments_at_rest = fragments if unturned else _draw(rest, camera, backend, "depth")[1]
    attributes = [
        _texture_coordinates(rest, scene.camera),
        vertex_normals(mesh.vertices, mesh.faces),
        mesh.vertices[:, 2:],
        rest.vertices.detach(),
        vertex_normals(rest.vertices, rest.faces).detach(),
    ]
    values = interpolate(torch.cat(attributes, -1), fragments, mesh.faces)
    uv, normal, depth, point_at_rest, normal_at_rest = values.split([2, 3, 1, 3, 3], -1)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    rgb = texture(scene.albedo.to(uv)[None], uv)
    if scene.light is not None:
        rgb = shade(normal, rgb.movedim(1, -1), scene.light).movedim(-1, 1)
    alpha = (fragments.triangle_id >= 0).to(rgb.dtype)[:, None]
    rgb = rgb * alpha
    if smooth:
        blended = antialias(torch.cat([rgb, alpha], 1), fragments, clip, mesh.faces)
        rgb, alpha = blended[:, :-1] / blended[:, -1:].clamp_min(1e-6), blended[:, -1:]
    seen = _seen_in_photo(point_at_rest, normal_at_rest, fragments_at_rest, rest, camera)
    visibility = torch.where(fragments.triangle_id >= 0, seen, torch.zeros_like(seen))
    return Render(rgb[0], alpha[0, 0], depth[0, ..., 0], normal[0].movedim(-1, 0), visibility[0])


def _draw(mesh: Mesh, camera: Camera, backend: str, order: Order) -> tuple[Tensor, Fragments]:
    """Vertices in clip space, and what of them is seen."""
    size = camera.height, camera.width
    homogeneous = torch.nn.functional.pad(mesh.vertices, (0, 1), value=1.0)
    clip = homogeneous @ clip_from_camera(camera.K.to(mesh.vertices), size).mT
    return clip[None], rasterize(clip[None], mesh.faces, size, backend=backend, order=order)


def _texture_coordinates(rest: Mesh, camera: Camera) -> Tensor:
    if rest.uv is not None:
        return rest.uv.to(rest.vertices)
    extent = torch.tensor([camera.width, camera.height]).to(rest.vertices)
    return project(rest.vertices, camera.K.to(rest.vertices)) / extent


@torch.no_grad()
def _seen_in_photo(points: Tensor, normals: Tensor, fragments: Fragments, rest: Mesh, camera: Camera) -> Tensor:
    """Visibility (B, H, W) in the photo of surface points (B, H, W, 3), given the fragments of the surface at rest."""
    height, width = camera.height, camera.width
    K = camera.K.to(points)
    z = torch.where(points[..., 2:] > 0, points[..., 2:], torch.ones_like(points[..., 2:]))
    pixels = project(torch.cat([points[..., :2], z], -1), K)
    inside = ((pixels >= 0) & (pixels <= pixels.new_tensor([width, height]))).all(-1) & (points[..., 2] > 0)
    column = pixels[..., 0].floor().clamp(0, width - 1)
    row = pixels[..., 1].floor().clamp(0, height - 1)
    index = (row * width + column).long()
    depth = interpolate(rest.vertices[:, 2:], fragments, rest.faces)[0, ..., 0].flatten()[index]
    centre = torch.stack([column, row], -1) + 0.5
    front = unproject(centre.flatten(0, -2), depth.flatten(), K).view_as(points)
    # What the photo's pixel shows hides the point if it lies above the point's tangent plane: a comparison of plain
    # depths would call surfaces hidden that the photo shows at a slant. Two pixels of room for curvature.
    above = (normals * (front - points)).sum(-1)
    hidden = (depth > 0) & (above > 2 * z[..., 0] / K[0, 0])
    cosine = -(torch.nn.functional.normalize(normals, dim=-1) * torch.nn.functional.normalize(points, dim=-1)).sum(-1)
    return torch.where(inside & ~hidden, cosine.clamp(0, 1), torch.zeros_like(cosine))
