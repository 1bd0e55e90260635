"""What people see of a run: lines, a progress bar, metrics.jsonl, TensorBoard and image sheets."""

import sys
import time
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import MissingError, need
from ..files import atomic_path
from .run import Log, Run, writing
from .settings import FitSettings

COLUMNS = 8
"""Images in a row of a sheet, at most."""


class Recorder:
    """Writes into the folder of `run`, and tells `log`. Without a run there is `log` alone."""

    def __init__(self, run: Run | None, settings: FitSettings, step: int, seconds: float, size: int, log: Log) -> None:
        """step, seconds: done before, in a run that goes on. size: examples per step."""
        self.run, self.settings, self.size, self.log = run, settings, size, log
        self.began, self.before, self.first = time.monotonic(), seconds, step
        self.means: dict[str, float] = {}
        self.bar: Any = None
        self.board: Any = None
        self.drawn = 0.0

    def __enter__(self) -> "Recorder":
        self.stack = ExitStack()
        if self.run is not None:
            self.run.drop_metrics_after(self.first)
            if self.run.board:
                self._open_board(self.run)
            if self.run.bar and sys.stderr.isatty():
                self._open_bar()
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    @property
    def seconds(self) -> float:
        """Seconds of training, those before a resume included."""
        return self.before + time.monotonic() - self.began

    def step_done(self, step: int) -> None:
        """Move the bar, ten times a second at most: drawing it takes longer than a small step."""
        if self.bar is not None and (time.monotonic() - self.drawn > 0.1 or step == self.settings.steps):
            self.drawn = time.monotonic()
            self.bar.update(self.task, completed=step, rate=f"{self._rate(step):.0f} examples/s")

    def metrics(self, step: int, means: dict[str, float]) -> None:
        """Means since the last call."""
        self.means = means
        rate = self._rate(step)
        left = (self.settings.steps - step) * self.size / rate
        text = ", ".join(f"{name} {value:.4g}" for name, value in means.items())
        self.log(f"step {step}/{self.settings.steps}: {text} ({rate:.0f} examples/s, {left:.0f} s left)")
        if self.run is None:
            return
        timing = {"seconds": round(self.seconds, 3), "examples_per_second": round(rate, 1)}
        self.run.add_metrics({"step": step, **means, **timing})
        if self.board is not None:
            with writing(self.run.folder / "events.*"):
                for name, value in {**means, "examples_per_second": rate}.items():
                    self.board.add_scalar(name, value, step)
                self.board.flush()

    def preview(self, step: int, rows: dict[str, Tensor]) -> None:
        """Write the rows, each (B, 3, H, W) in [0, 1], as one sheet."""
        if self.run is None or not rows:
            return
        pictures = {name: _row(name, images) for name, images in rows.items()}
        with atomic_path(self.run.folder / "samples" / f"{step:06d}.png") as temporary:
            Image.fromarray(_stacked(list(pictures.values()))).save(temporary)
        if self.board is not None:
            with writing(self.run.folder / "events.*"):
                for name, picture in pictures.items():
                    self.board.add_image(name, picture, step, dataformats="HWC")
                self.board.flush()

    def _rate(self, step: int) -> float:
        return max(step - self.first, 1) * self.size / max(time.monotonic() - self.began, 1e-9)

    def _open_board(self, run: Run) -> None:
        try:
            need("tensorboard", "train")
        except MissingError as error:
            self.log(f"no TensorBoard: {error}; metrics.jsonl has the same numbers")
            return
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted run wrote after its checkpoint is hidden: it is done again.
        with writing(run.folder / "events.*"):
            self.board = SummaryWriter(str(run.folder), purge_step=self.first + 1)
        # All was flushed before; a disk that is full has been told, and would only be told again.
        self.stack.enter_context(suppress(OSError))
        self.stack.callback(self.board.close)

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[rate]}"))
        self.bar = self.stack.enter_context(Progress(*columns, console=Console(stderr=True)))
        self.task = self.bar.add_task("", total=self.settings.steps, completed=self.first, rate="")


def _row(name: str, images: Tensor) -> np.ndarray:
    """(H, B W, 3) uint8, the images side by side."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"preview {name!r}: expected images (B, 3, H, W), got {tuple(images.shape)}")
    row = torch.cat(list(images[:COLUMNS].detach().float().cpu()), dim=2)
    return (row.nan_to_num(0.0).clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).numpy()


def _stacked(rows: list[np.ndarray]) -> np.ndarray:
    """The rows below each other, black to the right of the shorter ones."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])
