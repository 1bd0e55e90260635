"""Surfaces to pictures, differentiable: verbs on tensors, and `render`, which does all of it for a Scene.

`rasterize` finds the triangle at each pixel, `interpolate` spreads what vertices carry (colours, normals, texture
coordinates), `texture` looks colours up, `shade` lights them, `antialias` smooths outlines, through which gradients
reach the shape. `visibility` says what a photo shows of a surface, and `bake` takes its texture from the photo. Sizes
are (H, W) in pixels; the camera is at 0, x right, y down, z forward, and a face at z = 1: see docs/conventions.md.

    import torch
    from aboutface import render
    from aboutface.geometry import clip, clip_from_camera, depth_to_mesh, intrinsics, vertex_normals
    from aboutface.scene import Light

    size = 96, 128
    K = intrinsics(20, size)                               # (3, 3) pinhole camera, 20 degrees across 128 pixels
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 128), indexing="ij")
    depth = 1 - 0.1 * torch.exp(-4 * (x**2 + y**2))        # (96, 128) z of every pixel: a bump towards the camera
    vertices, faces = depth_to_mesh(depth[None], K)        # (B, V, 3) with B = 1, V = 96 * 128; (F, 3) int64
    vertices = (0.8 * vertices + 0.2 * vertices.mean(1, keepdim=True)).requires_grad_()
    colours = torch.rand(len(vertices[0]), 3)              # (V, 3) RGB from 0 to 1

    corners = clip(vertices, clip_from_camera(K, size))    # (B, V, 4)
    fragments = render.rasterize(corners, faces, size)     # triangle_id (B, H, W), barycentric, depth
    attributes = torch.cat([colours.expand(1, -1, -1), vertex_normals(vertices, faces)], -1)
    rgb, normal = render.interpolate(attributes, fragments, faces).split(3, -1)      # (B, H, W, 3) each
    normal = torch.nn.functional.normalize(normal, dim=-1)
    lit = render.shade(normal, rgb, Light(ambient=0.3, diffuse=0.7, direction=(0.6, 0.0, -0.8)))
    picture = render.antialias(lit.movedim(-1, 1), fragments, corners, faces)        # (B, 3, H, W)
    picture.mean().backward()                              # vertices.grad (B, V, 3)
"""

from .antialias import antialias
from .backends import BACKENDS
from .facewarper import FACEWARPER_TRIANGLES, Case, read_case, warp_face
from .interpolate import interpolate
from .rasterize import Fragments, rasterize
from .render import Render, render
from .shade import sh_basis, shade, shade_sh, sides
from .texture import derivatives, texture
from .visibility import Atlas, bake, visibility, visible_vertices

__all__ = [
    "BACKENDS",
    "FACEWARPER_TRIANGLES",
    "Atlas",
    "Case",
    "Fragments",
    "Render",
    "antialias",
    "bake",
    "derivatives",
    "interpolate",
    "rasterize",
    "read_case",
    "render",
    "sh_basis",
    "shade",
    "shade_sh",
    "sides",
    "texture",
    "visibility",
    "visible_vertices",
    "warp_face",
]
