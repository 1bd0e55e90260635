"""Vertex attributes at the pixels of a rasterised mesh."""

import torch
from torch import Tensor

from ..errors import UsageError
from .backends import Interpolate, choose
from .rasterize import Fragments, check_mesh


def interpolate(attributes: Tensor, fragments: Fragments, faces: Tensor, *, backend: str = "auto") -> Tensor:
    """Vertex attributes at every pixel, perspective-correct: (B, H, W, C), 0 where nothing is seen.

    Args:
        attributes: (V, C), the same for all items of the batch, or (B, V, C); any number of attributes C.
        faces: those given to `rasterize`, (F, 3) or (B, F, 3).
        backend: as for `rasterize`.

    Differentiable with respect to attributes and, through the barycentrics, to the vertices. Raises UsageError for
    attributes, faces and fragments that do not belong together.
    """
    batch = len(fragments.triangle_id)
    if attributes.ndim not in (2, 3) or (attributes.ndim == 3 and attributes.shape[0] != batch):
        raise UsageError(f"interpolate: expected attributes (V, C) or ({batch}, V, C), got {tuple(attributes.shape)}")
    if not attributes.is_floating_point():
        raise UsageError(f"interpolate: expected attributes in floating point, got {attributes.dtype}")
    check_mesh("interpolate", faces, attributes.expand(batch, -1, -1), fragments)
    if attributes.dtype not in (torch.float32, torch.float64):
        return interpolate(attributes.float(), fragments, faces, backend=backend).to(attributes.dtype)
    if attributes.ndim == 2:
        attributes = attributes[None]
    name = choose(backend, attributes.device)
    faces = faces.expand(batch, -1, -1)
    return Interpolate.apply(attributes, fragments.triangle_id, fragments.barycentric, faces, name)
