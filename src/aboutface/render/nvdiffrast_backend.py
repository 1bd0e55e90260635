"""Triangle ids by nvdiffrast (Laine et al. 2020), for those who have it; all the rest is the torch backend's.

nvdiffrast is not ours to give: its licence allows non-commercial use only. Where it is installed, this draws with its
CUDA rasteriser and takes nothing but the ids; barycentrics, depth and gradients then are what every backend here has.

What differs from the other backends:
- Vertices are rounded to float32 and then to a fraction of a pixel, so ids differ along edges, and at a pixel whose
  centre lies just outside its triangle a barycentric is a little below 0, or far below on a sliver.
- What lies beyond the far plane is cut away as well.
- There is no order "painter".
"""

import threading
from typing import Any

import nvdiffrast.torch as nvdiffrast  # pyright: ignore[reportMissingImports]
import torch
from torch import Tensor

from ..errors import UsageError
from .screen import LARGEST
from .torch_backend import rasterize_backward as rasterize_backward
from .torch_backend import resolve

STEP = 8
"""Versions before 0.3.2 draw sizes divisible by this only, so that all are given those."""

_contexts: dict[torch.device, Any] = {}
_lock = threading.Lock()


def rasterize(vertices_clip: Tensor, faces: Tensor, size: tuple[int, int], order: str) -> tuple[Tensor, Tensor, Tensor]:
    """Members of Fragments for vertices (B, V, 4) and faces (B, F, 3): see `rasterize` in rasterize.py.

    Raises UsageError for the order "painter".
    """
    if order != "depth":
        raise UsageError("the rendering backend 'nvdiffrast' draws by depth only; for 'painter' use backend='auto'")
    ids = _triangle_ids(vertices_clip.detach(), faces, size)
    barycentric, depth = resolve(vertices_clip, faces, ids)
    # A triangle without area can gain some where nvdiffrast rounds its corners.
    solved = torch.isfinite(barycentric).all(-1) & torch.isfinite(depth)
    ids = torch.where(solved, ids, -1)
    return ids, torch.where(solved[..., None], barycentric, 0.0), torch.where(solved, depth, 1.0)


def _triangle_ids(clip: Tensor, faces: Tensor, size: tuple[int, int]) -> Tensor:
    if clip.numel() == 0 or faces.numel() == 0:
        return torch.full((len(clip), *size), -1, dtype=torch.int32, device=clip.device)
    usable = (clip.abs() <= LARGEST).all(-1)
    if not usable.all():
        item = torch.arange(len(clip), device=clip.device)[:, None, None]
        # A triangle that repeats a vertex is not drawn.
        faces = torch.where(usable[item, faces].all(-1, keepdim=True), faces, 0)
        clip = torch.where(usable[..., None], clip, 0.0)
    elif faces.stride(0) == 0 or len(faces) == 1:
        return _draw(clip, faces[0], size)
    return torch.cat([_draw(clip[i : i + 1], faces[i], size) for i in range(len(clip))])


def _draw(clip: Tensor, faces: Tensor, size: tuple[int, int]) -> Tensor:
    """Ids (B, H, W) of the same triangles (F, 3) with each item's vertices (B, V, 4)."""
    height, width = (-(-length // STEP) * STEP for length in size)
    # The picture lies in the first rows and columns of the larger one; nvdiffrast's first row is y = -1, as ours.
    share = clip.new_tensor([size[1] / width, size[0] / height])
    x_and_y = (clip[..., :2] + clip[..., 3:]) * share - clip[..., 3:]
    position = torch.cat([x_and_y, clip[..., 2:]], -1).float().contiguous()
    triangles = faces.int().contiguous()
    context = _context(clip.device)
    drawn, _ = nvdiffrast.rasterize(context, position, triangles, resolution=[height, width], grad_db=False)
    # The last channel is the triangle's number plus one, 0 where there is none.
    return drawn[:, : size[0], : size[1], 3].int() - 1


def _context(device: torch.device) -> Any:
    with _lock:
        if device not in _contexts:
            _contexts[device] = nvdiffrast.RasterizeCudaContext(device=device)
        return _contexts[device]
