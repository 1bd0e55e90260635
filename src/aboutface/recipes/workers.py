"""Work in several processes that end when they should."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing import connection
from typing import Any, TypeVar

import torch

from ..errors import OutputError

T = TypeVar("T")

_interrupted = threading.Event()
"""In a worker: set once the parent waits for no more results."""


def in_processes(function: Callable[..., T], jobs: Sequence[tuple[Any, ...]], workers: int) -> Iterator[T]:
    """Results of `function(*job)` as they come; in this process where `workers` is 1 or less.

    Processes compute with one thread each. Ctrl-C is for this process alone: it then waits for the jobs that run, which
    `stop_if_interrupted` makes shorter. Its death ends the others. Raises OutputError where one of those dies.
    """
    if workers <= 1:
        yield from (function(*job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        hear, tell = map(stack.enter_context, context.Pipe(duplex=False))
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(hear,))
        stack.callback(pool.shutdown, cancel_futures=True)
        stack.callback(tell.close)
        try:
            with _deaf():
                futures = [pool.submit(function, *job) for job in jobs]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise OutputError(
                "a worker process died (out of memory?); run again with fewer --workers: what is done is kept"
            ) from None


def stop_if_interrupted() -> None:
    """For jobs that take long, between their parts: raises KeyboardInterrupt where nobody waits for the result."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started here never hear Ctrl-C, not even before `_start_worker` is loaded; this one does afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(hear: connection.Connection) -> None:
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    threading.Thread(target=_watch_parent, args=(hear,), daemon=True).start()


def _watch_parent(hear: connection.Connection) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    # Its other end closes where the parent is interrupted, fails or is done.
    connection.wait([parent.sentinel, hear])
    _interrupted.set()
    # A killed parent cannot say that no more work comes: its workers would wait for ever.
    connection.wait([parent.sentinel])
    os._exit(1)
