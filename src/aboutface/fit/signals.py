"""Signals become requests that the loop answers at the end of a step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

WRITE = 1
"""Write a checkpoint and go on. Larger requests are numbers of signals, at which to write and stop."""
STOPS = (signal.SIGINT, signal.SIGTERM)
assert min(STOPS) > WRITE


class Requests:
    """What the signals so far ask for."""

    def __init__(self) -> None:
        self.pending = 0

    def take(self) -> int:
        """The request, which is then forgotten unless it is to stop."""
        request = self.pending
        if request == WRITE:
            self.pending = 0
        return request

    def _stop(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.pending == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: now
        self.pending = number

    def _write(self, _number: int, _: FrameType | None) -> None:
        self.pending = self.pending or WRITE


@contextmanager
def requests(wanted: bool = True) -> Iterator[Requests]:
    """Catch SIGINT, SIGTERM and, where it exists, SIGUSR1 during the block; the earlier handlers return after it.

    Only the main thread may set handlers: in others, or where not `wanted`, nothing is ever requested.
    """
    caught = Requests()
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield caught
        return
    handlers: dict[int, Any] = dict.fromkeys(STOPS, caught._stop)
    if hasattr(signal, "SIGUSR1"):  # Windows has none
        handlers[signal.SIGUSR1] = caught._write
    # What is ignored stays so: shells do that to Ctrl-C for programs that they start in the background.
    heard = {number: handler for number, handler in handlers.items() if signal.getsignal(number) != signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in heard.items()}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            # None: set by something other than Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
