"""The CPU backend: compiled loops (numba) on a pool of threads of its own.

Numba's own parallel loops are not used: once they have run, a forked process (a DataLoader's worker) dies in them, and
one of their threading layers ends the program when two threads call it at once.
"""

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING

import numba.core.event
import numpy as np
import torch
from torch import Tensor

from . import numba_kernels as kernels

if TYPE_CHECKING:
    from .antialias import Edges

_log = logging.getLogger(__name__)
_pools: dict[int, tuple[int, ThreadPoolExecutor]] = {}
_lock = threading.Lock()

BAND_PIXELS = 1 << 16
"""Backward passes sum each band of about so many pixels by itself, whatever the number of threads."""
MOST_BANDS = 8


class _Announcement(numba.core.event.Listener):
    """Says once why the first call takes long."""

    def __init__(self):
        self.made = False

    def on_start(self, event):
        dispatcher = (event.data or {}).get("dispatcher")
        if not self.made and getattr(dispatcher, "__module__", "") == kernels.__name__:
            self.made = True
            _log.warning(
                "compiling the renderer for this processor: this once, some ten seconds; the result is kept on disk"
            )

    def on_end(self, event):
        pass


numba.core.event.register("numba:compile", _Announcement())


def rasterize(vertices_clip: Tensor, faces: Tensor, size: tuple[int, int], order: str) -> tuple[Tensor, Tensor, Tensor]:
    """Members of Fragments for vertices (B, V, 4) and faces (B, F, 3): see `rasterize` in rasterize.py."""
    batch, (height, width) = len(vertices_clip), size
    clip, corners = _array(vertices_clip), _faces(faces)
    ids = np.empty((batch, height, width), np.int32)
    nearest = np.empty((batch, height, width), np.float32)
    barycentric = np.empty((batch, height, width, 3), clip.dtype)
    depth = nearest if clip.dtype == np.float32 else np.empty((batch, height, width), clip.dtype)

    def work(*part: int) -> None:
        kernels.rasterize(clip, corners, order == "painter", *part, nearest, ids, barycentric, depth)

    _run(work, _parts(batch, height))
    return torch.from_numpy(ids), torch.from_numpy(barycentric), torch.from_numpy(depth)


def rasterize_backward(
    vertices_clip: Tensor, faces: Tensor, ids: Tensor, grad_barycentric: Tensor | None, grad_depth: Tensor | None
) -> Tensor:
    """Gradient (B, V, 4) with respect to `vertices_clip`."""
    _, height, width = ids.shape
    clip, corners, seen = _array(vertices_clip), _faces(faces), _array(ids)
    has = grad_barycentric is not None, grad_depth is not None
    by_barycentric = np.empty((1, 1, 1, 3), clip.dtype) if grad_barycentric is None else _array(grad_barycentric)
    by_depth = np.empty((1, 1, 1), clip.dtype) if grad_depth is None else _array(grad_depth)

    def work(first_item: int, end_item: int, first_row: int, end_row: int, total: np.ndarray) -> None:
        part = first_item, end_item, first_row, end_row
        kernels.rasterize_backward(clip, corners, seen, by_barycentric, by_depth, has, *part, total)

    return torch.from_numpy(_sum_of_bands(work, clip.shape, (height, width), clip.dtype))


def interpolate(attributes: Tensor, ids: Tensor, barycentric: Tensor, faces: Tensor) -> Tensor:
    """Attributes (B or 1, V, C) at every pixel, (B, H, W, C)."""
    batch, height, width = ids.shape
    values, seen, weights, corners = _array(attributes), _array(ids), _array(barycentric), _faces(faces)
    picture = np.empty((batch, height, width, values.shape[-1]), values.dtype)

    def work(*part: int) -> None:
        kernels.interpolate(values, seen, weights, corners, *part, picture)

    _run(work, _parts(batch, height))
    return torch.from_numpy(picture)


def interpolate_backward(
    attributes: Tensor, ids: Tensor, barycentric: Tensor, faces: Tensor, grad: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients with respect to attributes (B or 1, V, C) and barycentric (B, H, W, 3), where wanted."""
    batch, height, width = ids.shape
    values, seen, weights, corners = _array(attributes), _array(ids), _array(barycentric), _faces(faces)
    given = _array(grad)
    by_weight = np.empty(weights.shape if wanted[1] else (1, 1, 1, 3), weights.dtype)

    def work(first_item: int, end_item: int, first_row: int, end_row: int, total: np.ndarray) -> None:
        part = first_item, end_item, first_row, end_row
        kernels.interpolate_backward(values, seen, weights, corners, given, wanted, *part, total, by_weight)

    if wanted[0]:
        total = _sum_of_bands(work, (batch, *values.shape[1:]), (height, width), values.dtype)
        if len(values) == 1 and batch > 1:
            total = total.sum(0, keepdims=True)
    else:
        total = np.empty((1, *values.shape[1:]), values.dtype)
        _run(partial(work, total=total), _parts(batch, height))
    return torch.from_numpy(total) if wanted[0] else None, torch.from_numpy(by_weight) if wanted[1] else None


def find_crossings(
    vertices_clip: Tensor, faces: Tensor, edges: "Edges", ids: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Members of Crossings: see antialias.py."""
    batch, height, width = ids.shape
    clip, corners, seen, depths = _array(vertices_clip), _faces(faces), _array(ids), _array(depth)
    table = _array(edges.vertices)
    found: list[np.ndarray] = [np.empty((0, 6), np.int64)] * batch

    def work(item: int) -> None:
        mine = table if len(edges.first) == 2 else table[edges.first[item] : edges.first[item + 1]]
        triangles = corners[item if len(corners) > 1 else 0]
        offsets = item * clip.shape[1], item * height * width
        found[item] = kernels.find_crossings(clip[item], triangles, mine, seen[item], depths[item], *offsets)

    _run(work, [(item,) for item in range(batch)])
    inner, outer, start, end, line, steep = torch.from_numpy(
        np.concatenate([*found, np.empty((0, 6), np.int64)])
    ).unbind(-1)
    return inner, outer, start, end, line, steep


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _faces(faces: Tensor) -> np.ndarray:
    """(B, F, 3), or (1, F, 3) if all items share theirs."""
    return _array(faces[:1] if faces.stride(0) == 0 else faces)


def _parts(batch: int, height: int) -> list[tuple[int, int, int, int]]:
    """First and end item, first and end row, of pieces of work for as many threads as PyTorch uses."""
    threads = torch.get_num_threads()
    if threads == 1 or batch == 0:
        return [(0, batch, 0, height)]
    if batch >= 2 * threads:
        return [(first, end, 0, height) for first, end in _split(batch, 4 * threads)]
    bands = _split(height, -(-threads // batch))
    return [(i, i + 1, first, end) for i in range(batch) for first, end in bands]


def _split(length: int, pieces: int) -> list[tuple[int, int]]:
    pieces = min(pieces, length)
    return [(i * length // pieces, (i + 1) * length // pieces) for i in range(pieces)]


def _sum_of_bands(
    work: Callable[..., None], shape: tuple[int, ...], size: tuple[int, int], dtype: np.dtype
) -> np.ndarray:
    """Sums (B, ...) that `work(first item, end item, first row, end row, total)` writes into total, over all rows.

    Large images are cut into bands of rows that are summed one by one and then together, in an order that depends on
    the size alone: so the last bit is the same for any number of threads and any batch.
    """
    batch, (height, width) = shape[0], size
    bands = _split(height, max(1, min(MOST_BANDS, height * width // BAND_PIXELS)))
    if len(bands) == 1:
        total = np.empty(shape, dtype)
        pieces = 1 if torch.get_num_threads() == 1 else 4 * torch.get_num_threads()
        _run(lambda first, end: work(first, end, 0, height, total), _split(batch, pieces))
        return total
    totals = np.empty((len(bands), *shape))
    parts = [(band, item) for item in range(batch) for band in range(len(bands))]
    _run(lambda band, item: work(item, item + 1, *bands[band], totals[band]), parts)
    for more in totals[1:]:
        totals[0] += more
    return totals[0].astype(dtype)


def _run(work: Callable[..., None], parts: list[tuple]) -> None:
    """Do all parts, on as many threads as PyTorch uses."""
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) == 1:
        for part in parts:
            work(*part)
        return
    waiting = iter(parts)  # of which each thread takes the next; Python lets only one at a time

    def drain() -> None:
        for part in waiting:
            work(*part)

    futures = [_pool(threads).submit(drain) for _ in range(min(threads, len(parts)) - 1)]
    try:
        # This thread works, too: to wake another takes as long as drawing a small mesh.
        drain()
    finally:
        wait(futures)
    for future in futures:
        future.result()


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads of this process: those of its parent did not come along when it was forked."""
    with _lock:
        known = _pools.get(os.getpid())
        if known is None or known[0] < threads:
            _pools.clear()
            known = threads, ThreadPoolExecutor(threads, "aboutface-render")
            _pools[os.getpid()] = known
        return known[1]


def _forget() -> None:
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    # The lock may have been held by another thread of the parent.
    os.register_at_fork(after_in_child=_forget)
