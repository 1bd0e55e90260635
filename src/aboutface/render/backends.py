"""Which code draws: one small interface, chosen by device and overridable."""

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UsageError

BACKENDS = {
    "reference": "reference",
    "torch": "torch_backend",
    "numba": "numba_backend",
    "warp": "warp_backend",
    "nvdiffrast": "nvdiffrast_backend",
}
"""Name of each backend, and its module. A module has

- `rasterize(vertices_clip (B, V, 4), faces (B, F, 3), size, order)`: the members of Fragments; and may have
- `rasterize_backward(vertices_clip, faces, ids, grad_barycentric | None, grad_depth | None)`: (B, V, 4),
- `interpolate(attributes (B or 1, V, C), ids, barycentric, faces)`: (B, H, W, C),
- `interpolate_backward(attributes, ids, barycentric, faces, grad, wanted)`: by attributes, by barycentric,
- `find_crossings(...)`: see antialias.py,
- `check_device(device_type)`: raises UsageError if what it needs cannot be used there, though it is installed.

Those it lacks are the torch backend's; without `rasterize_backward` its `rasterize` is differentiable as it is.
"""

DEVICES = {"reference": ["cpu"], "numba": ["cpu"], "warp": ["cpu", "cuda"], "nvdiffrast": ["cuda"]}
"""Kinds of device that a backend draws on, if not on all."""

SOURCES = {
    "numba": "if it finds no place to keep what it compiles, let NUMBA_CACHE_DIR name a folder that can be written to",
    "warp": "pip install 'aboutface[cuda]'",
    "nvdiffrast": "see https://github.com/NVlabs/nvdiffrast, and mind that its licence is for non-commercial use",
}
"""What to do if a backend cannot be loaded."""

VARIABLE = "ABOUTFACE_RENDERER"
"""Environment variable that names the backend for every call that does not."""

_log = logging.getLogger(__name__)


def choose(name: str, device: torch.device) -> str:
    """The backend's name for "auto" or for a name that must fit the device.

    "auto" is the variable ABOUTFACE_RENDERER if set; else numba on the CPU, warp on CUDA, torch elsewhere and where
    those are missing or cannot run, which is logged once.
    """
    if name == "auto":
        name = os.environ.get(VARIABLE) or "auto"
    if name == "auto":
        return _best(device.type)
    if name not in BACKENDS:
        source = f" in {VARIABLE}" if name == os.environ.get(VARIABLE) else ""
        raise UsageError(f"unknown rendering backend {name!r}{source}, choose from auto, {', '.join(BACKENDS)}")
    if device.type not in DEVICES.get(name, [device.type]):
        kinds = " or ".join(DEVICES[name])
        raise UsageError(
            f"the backend {name!r} draws on {kinds}, got tensors on {device}; "
            f"use backend='auto', with {VARIABLE} not set"
        )
    return name


@cache
def _best(device_type: str) -> str:
    if device_type == "mps":
        raise UsageError("the renderer computes in float64, which the device 'mps' has not: move vertices to the CPU")
    wanted = {"cpu": "numba", "cuda": "warp"}.get(device_type, "torch")
    if wanted == "torch":
        return wanted
    try:
        check = getattr(load(wanted), "check_device", None)
        if check:
            check(device_type)
    except UsageError as error:
        _log.warning("drawing with PyTorch on %s, which is slower: %s", device_type, error)
        return "torch"
    return wanted


def load(name: str) -> ModuleType:
    """The module of a backend. Raises UsageError, with the line to type, if what it needs is not installed."""
    try:
        return importlib.import_module(f".{BACKENDS[name]}", __package__)
    # numba raises RuntimeError where it finds no folder for what it compiles.
    except (ImportError, OSError, RuntimeError) as error:
        source = f"; {SOURCES[name]}" if name in SOURCES else ""
        raise UsageError(f"the rendering backend {name!r} cannot be loaded: {error}{source}") from error


def function(name: str, verb: str) -> Callable[..., Any]:
    """A verb of a backend, or the torch backend's where it has none of its own."""
    return getattr(load(name), verb, None) or getattr(load("torch"), verb)


class Rasterize(torch.autograd.Function):
    """Members of Fragments by a backend with a backward of its own."""

    @staticmethod
    def forward(ctx, vertices_clip: Tensor, faces: Tensor, size: tuple[int, int], order: str, backend: str):
        ids, barycentric, depth = load(backend).rasterize(vertices_clip, faces, size, order)
        ctx.backend = backend
        ctx.save_for_backward(vertices_clip, faces, ids)
        ctx.mark_non_differentiable(ids)
        ctx.set_materialize_grads(False)
        return ids, barycentric, depth

    @staticmethod
    @once_differentiable
    def backward(ctx, _, grad_barycentric, grad_depth):  # pyright: ignore[reportIncompatibleMethodOverride]
        if grad_barycentric is None and grad_depth is None:
            return None, None, None, None, None
        backward = load(ctx.backend).rasterize_backward
        return backward(*ctx.saved_tensors, grad_barycentric, grad_depth), None, None, None, None


class Interpolate(torch.autograd.Function):
    """Attributes at every pixel."""

    @staticmethod
    def forward(ctx, attributes: Tensor, ids: Tensor, barycentric: Tensor, faces: Tensor, backend: str):
        ctx.backend = backend
        ctx.save_for_backward(attributes, ids, barycentric, faces)
        return function(backend, "interpolate")(attributes, ids, barycentric, faces)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[2]
        by_attribute, by_weight = function(ctx.backend, "interpolate_backward")(*ctx.saved_tensors, grad, wanted)
        return by_attribute, None, by_weight, None, None
