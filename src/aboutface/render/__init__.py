"""Surfaces to pictures: rasterize, interpolate, texture, antialias, shade; and `render`, which does all for a Scene."""

from .antialias import antialias
from .backends import BACKENDS
from .facewarper import FACEWARPER_TRIANGLES, Case, read_case, warp_face
from .interpolate import interpolate
from .rasterize import Fragments, rasterize
from .render import Render, render
from .shade import sh_basis, shade, shade_sh
from .texture import texture

__all__ = [
    "BACKENDS",
    "FACEWARPER_TRIANGLES",
    "Case",
    "Fragments",
    "Render",
    "antialias",
    "interpolate",
    "rasterize",
    "read_case",
    "render",
    "sh_basis",
    "shade",
    "shade_sh",
    "texture",
    "warp_face",
]
