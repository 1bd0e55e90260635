"""The CUDA backend: kernels of NVIDIA's Warp, on the tensors' own memory and on PyTorch's current stream.

Nothing here waits for the device, and all scratch memory is PyTorch's. Gradients are summed by atomics in float64;
their order changes from run to run on CUDA, which seldom shows once the sums are rounded to float32. Where
`torch.use_deterministic_algorithms` asks for more, gradients are the torch backend's.

On the CPU Warp runs one thread: there it is for tests, and numba is the backend to draw with.
"""

import logging
import os
import threading
from typing import Any

import torch
import warp as wp
from torch import Tensor

from ..errors import UsageError
from . import torch_backend
from . import warp_kernels as kernels

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_ready: set[torch.device] = set()

GROUPS = {"cuda": 512, "cpu": 1}
"""Groups of threads that draw large triangles together; more than a GPU runs at once are of no use."""
LANES = {"cuda": kernels.BLOCK, "cpu": 1}


def check_device(device_type: str) -> None:
    """Raises UsageError, with the reason, if Warp cannot run on this kind of device, "cpu" or "cuda"."""
    with _lock, _Quiet():
        try:
            wp.init()
        except (OSError, RuntimeError) as error:
            raise UsageError(f"the rendering backend 'warp' cannot start: {error}") from error
    if device_type == "cpu" and not wp.is_cpu_available():
        raise UsageError("the rendering backend 'warp' came without its compiler for the CPU; use backend='auto'")
    if device_type == "cuda" and wp.get_cuda_device_count() == 0:
        driver, own = (_dotted(v) for v in (wp.get_cuda_driver_version(), wp.get_cuda_toolkit_version()))
        raise UsageError(
            f"the rendering backend 'warp' finds no CUDA device: warp-lang {wp.__version__} is made for CUDA {own}, "
            f"the driver for {driver}; update the driver, or use backend='torch'"
        )


def _dotted(version: tuple[int, int] | None) -> str:
    return "none" if version is None else ".".join(map(str, version))


def rasterize(vertices_clip: Tensor, faces: Tensor, size: tuple[int, int], order: str) -> tuple[Tensor, Tensor, Tensor]:
    """Members of Fragments for vertices (B, V, 4) and faces (B, F, 3): see `rasterize` in rasterize.py."""
    device, dtype = vertices_clip.device, vertices_clip.dtype
    (batch, count), (height, width) = faces.shape[:2], size
    launch = _Launcher(device)
    clip = _array(vertices_clip.detach().double(), wp.vec4d)
    screen = _array(torch.empty(vertices_clip.shape, dtype=torch.float64, device=device), wp.vec4d)
    triangles, half = _faces(faces), (width / 2, height / 2)
    launch(kernels.project, vertices_clip.shape[:2], clip, *half, screen)
    keys = torch.full((batch, height, width), kernels.NO_BID, dtype=torch.int64, device=device)
    bids = count if order == "painter" else 0, _array(keys)
    if batch * count:
        clipped = _array(torch.empty(batch * count, 2, dtype=torch.int32, device=device), wp.vec2i)
        queue = _queue(batch * count, device)
        groups, lanes = GROUPS[device.type], LANES[device.type]
        launch(kernels.draw, (batch, count), screen, *triangles, width, height, *bids, clipped, *queue)
        threads = groups * lanes
        launch(kernels.queue_clipped, (threads,), clip, *triangles, *half, width, height, clipped, *queue, threads)
        launch(kernels.draw_queued, (groups, lanes), clip, screen, *triangles, *half, *bids, *queue, groups, lanes)
    ids = torch.empty(batch, height, width, dtype=torch.int32, device=device)
    barycentric = torch.empty(batch, height, width, 3, dtype=dtype, device=device)
    depth = torch.empty(batch, height, width, dtype=dtype, device=device)
    seen = _array(ids), _array(barycentric), _array(depth)
    launch(kernels.resolve[_real(dtype)], ids.shape, clip, screen, *triangles, *half, *bids, *seen)
    return ids, barycentric, depth


def rasterize_backward(
    vertices_clip: Tensor, faces: Tensor, ids: Tensor, grad_barycentric: Tensor | None, grad_depth: Tensor | None
) -> Tensor:
    """Gradient (B, V, 4) with respect to `vertices_clip`."""
    if torch.are_deterministic_algorithms_enabled():
        return torch_backend.rasterize_backward(vertices_clip, faces, ids, grad_barycentric, grad_depth)
    dtype = vertices_clip.dtype
    by_barycentric = vertices_clip.new_empty(0, 0, 0, 3) if grad_barycentric is None else grad_barycentric.to(dtype)
    by_depth = vertices_clip.new_empty(0, 0, 0) if grad_depth is None else grad_depth.to(dtype)
    total = torch.zeros(vertices_clip.shape, dtype=torch.float64, device=ids.device)
    given = _array(by_barycentric), _array(by_depth), int(grad_barycentric is not None), int(grad_depth is not None)
    mesh = _array(vertices_clip.detach().double(), wp.vec4d), *_faces(faces), ids.shape[2] / 2, ids.shape[1] / 2
    launch = _Launcher(ids.device)
    launch(kernels.rasterize_backward[_real(dtype)], ids.shape, *mesh, _array(ids), *given, _array(total))
    return total.to(dtype)


def interpolate(attributes: Tensor, ids: Tensor, barycentric: Tensor, faces: Tensor) -> Tensor:
    """Attributes (B or 1, V, C) at every pixel, (B, H, W, C)."""
    values, weights = _as_real(attributes), barycentric.to(_as_real(attributes).dtype)
    picture = torch.empty(*ids.shape, values.shape[-1], dtype=values.dtype, device=ids.device)
    arguments = _array(values), int(len(values) > 1), _array(ids), _array(weights), *_faces(faces), _array(picture)
    _Launcher(ids.device)(kernels.interpolate[_real(values.dtype)], picture.shape, *arguments)
    return picture.to(attributes.dtype)


def interpolate_backward(
    attributes: Tensor, ids: Tensor, barycentric: Tensor, faces: Tensor, grad: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients with respect to attributes (B or 1, V, C) and barycentric (B, H, W, 3), where wanted."""
    if torch.are_deterministic_algorithms_enabled():
        return torch_backend.interpolate_backward(attributes, ids, barycentric, faces, grad, wanted)
    values = _as_real(attributes)
    real, own, corners = _real(values.dtype), int(len(values) > 1), _faces(faces)
    given, weights = _array(grad.to(values.dtype)), barycentric.to(values.dtype)
    launch = _Launcher(ids.device)
    by_attribute = by_weight = None
    if wanted[0]:
        total = torch.zeros(values.shape, dtype=torch.float64, device=ids.device)
        arguments = own, _array(ids), _array(weights), *corners, given, _array(total)
        launch(kernels.by_attributes[real], grad.shape, *arguments)
        by_attribute = total.to(attributes.dtype)
    if wanted[1]:
        by_weight = torch.empty_like(weights, memory_format=torch.contiguous_format)
        arguments = _array(values), own, _array(ids), *corners, given, _array(by_weight)
        launch(kernels.by_weights[real], ids.shape, *arguments)
        by_weight = by_weight.to(barycentric.dtype)
    return by_attribute, by_weight


class _Launcher:
    """Launches kernels on a device, in the order of PyTorch's current stream; compiles them first where necessary."""

    def __init__(self, device: torch.device):
        if device not in _ready:
            _prepare(device)
        self.device = wp.device_from_torch(device)
        self.stream = wp.stream_from_torch(device) if device.type == "cuda" else None

    def __call__(self, kernel: Any, threads: tuple[int, ...], *arguments: Any) -> None:
        wp.launch(kernel, threads, arguments, device=self.device, stream=self.stream, block_dim=kernels.BLOCK)


def _prepare(device: torch.device) -> None:
    check_device(device.type)
    with _lock, _Quiet():
        at, block = wp.device_from_torch(device), kernels.BLOCK if device.type == "cuda" else 1
        name = wp.get_module(kernels.__name__).get_module_identifier(block)
        if not os.path.isdir(os.path.join(str(wp.config.kernel_cache_dir), name)):
            _log.warning("compiling the renderer for %s: once, some seconds, then kept on disk", at)
        wp.load_module(kernels, device=at, block_dim=block)
        _ready.add(device)


class _Quiet:
    """Keeps Warp from printing what it has found and loaded."""

    def __enter__(self) -> None:
        self.level = wp.config.log_level
        wp.config.log_level = max(self.level, wp.LOG_WARNING)

    def __exit__(self, *_: object) -> None:
        wp.config.log_level = self.level


def _queue(triangles: int, device: torch.device) -> tuple[Any, ...]:
    """Scratch memory of the kernel `queue`: unit, counter, starts, boxes, owners."""
    # So many triangles fit above the unit; their chunks fit below it in any drawing that comes to an end.
    unit = 1 << (63 - triangles.bit_length())
    counter = torch.zeros(2, dtype=torch.int64, device=device)
    starts = torch.empty(triangles, dtype=torch.int64, device=device)
    boxes = torch.empty(triangles, 4, dtype=torch.int32, device=device)
    owners = torch.empty(triangles, 2, dtype=torch.int32, device=device)
    return unit, _array(counter), _array(starts), _array(boxes, wp.vec4i), _array(owners, wp.vec2i)


def _faces(faces: Tensor) -> tuple[Any, int]:
    """Faces as (B, F, 3) and 1, or as (1, F, 3) and 0 if all items share theirs."""
    shared = faces.stride(0) == 0 or len(faces) == 1
    return _array(faces[:1] if shared else faces), int(not shared)


def _array(tensor: Tensor, dtype: Any = None) -> Any:
    """The tensor's memory as Warp's kernels take it; its last dimension may become a vector."""
    return wp.from_torch(tensor.detach().contiguous(), dtype=dtype, requires_grad=False, return_ctype=True)


def _real(dtype: torch.dtype) -> type:
    return wp.float64 if dtype == torch.float64 else wp.float32


def _as_real(attributes: Tensor) -> Tensor:
    """Float32 or float64: Warp has no kernels here for what autocast makes of attributes."""
    return attributes if attributes.dtype in (torch.float32, torch.float64) else attributes.float()
