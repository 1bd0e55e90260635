"""A run's folder: what was asked for, where it stands, what it measured and what it looks like."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import OutputError, UsageError
from ..files import atomic_path, reason
from .checkpoint import check_method, read_checkpoint, write_checkpoint

Log = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One training in `ROOT/DATA/METHOD/YYYY-MM-DD_HHMMSS/`.

    It holds config.yml, checkpoints/, metrics.jsonl, samples/000500.png and TensorBoard's events. Under `torchrun` only
    rank 0 makes, finds and reads it; the folder of the others is a mere name.
    """

    folder: Path
    config: dict[str, Any] | None = field(default=None, compare=False)
    """What is asked for of a run that goes on. config.yml takes it when the checkpoint has turned out to fit."""
    bar: bool = field(default=True, compare=False)
    """Whether a progress bar is drawn where standard error is a terminal."""
    board: bool = field(default=True, compare=False)
    """Whether TensorBoard's events are written."""

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str],
        data: str,
        method: str,
        config: dict[str, Any],
        resume: str | os.PathLike[str] | None = None,
        log: Log = print,
    ) -> "Run":
        """The run that `--resume` asks for; `fit` goes on from its newest checkpoint.

        resume: None for a new run; "auto" for the newest run of this data and method, a new one where there is none; a
        run's folder; or a checkpoint, from which a new run goes on so that nothing of the old one is lost.
        Raises UsageError where there is no such run or checkpoint, OutputError where no folder can be made.
        """
        if not _first():
            return cls(Path(root))
        if resume is None:
            return cls.create(root, data, method, config)
        if os.fspath(resume) == "auto":
            newest = cls.newest(root, data, method)
            return replace(newest, config=config) if newest else cls.create(root, data, method, config)
        path = Path(resume)
        if path.is_file():
            content = read_checkpoint(path)
            check_method(content, method, None, str(path))
            run = cls.create(root, data, method, config)
            run.save(content, keep=1)
            log(f"a new run goes on from {path}: {run.folder}")
            return run
        if not (path / "checkpoints").is_dir():
            raise UsageError(f"--resume: expected auto, a run's folder or a checkpoint, got {path}")
        return cls(path, config)

    @classmethod
    def create(cls, root: str | os.PathLike[str], data: str, method: str, config: dict[str, Any]) -> "Run":
        """A new folder with `config` in it, which must consist of plain values. Raises OutputError."""
        parent = Path(root) / data / method
        if not _first():
            return cls(parent)
        folder = _new_folder(parent / time.strftime("%Y-%m-%d_%H%M%S"))
        cls(folder)._write(config)
        return cls(folder)

    @classmethod
    def newest(cls, root: str | os.PathLike[str], data: str, method: str) -> "Run | None":
        """The newest run of the data and the method, finished or not."""
        # config.yml is written last: a folder without it is what a kill left of the making.
        folders = sorted(path.parent for path in (Path(root) / data / method).glob("*/config.yml"))
        return cls(folders[-1]) if folders else None

    def renew(self, log: Log = print) -> None:
        """Put `config` into config.yml, and tell what is new in it."""
        if self.config is None:
            return
        path = self.folder / "config.yml"
        old = _flat(yaml.safe_load(path.read_text("utf-8")) or {}) if path.is_file() else {}
        new = _flat(_plain(self.config))
        changed = [f"{name} {old.get(name)} -> {new.get(name)}" for name in old | new if old.get(name) != new.get(name)]
        if changed:
            log(f"changed: {', '.join(changed)}; learning rates go on from the checkpoint's")
            self._write(self.config)

    def _write(self, config: dict[str, Any]) -> None:
        with atomic_path(self.folder / "config.yml") as temporary:
            temporary.write_text(yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True), "utf-8")

    def checkpoints(self) -> list[Path]:
        """Newest first."""
        return sorted((self.folder / "checkpoints").glob("step_*.pt"), key=_step, reverse=True)

    def save(self, content: dict[str, Any], keep: int) -> Path:
        """Write the checkpoint of `content["step"]`; of the older ones, only the newest stay: `keep` in all."""
        path = self.folder / "checkpoints" / f"step_{content['step']:06d}.pt"
        write_checkpoint(path, content)
        for old in self.checkpoints()[keep:]:
            old.unlink(missing_ok=True)
        return path

    def load(self, log: Log = print) -> dict[str, Any] | None:
        """The newest checkpoint that can be read; a damaged one is told and passed over. None where none was written.

        Raises UsageError where there are checkpoints and all are damaged.
        """
        for half in self.folder.rglob(".aboutface-*"):
            half.unlink(missing_ok=True)  # what a kill left of a file that was being written
        paths = self.checkpoints()
        for path in paths:
            try:
                return read_checkpoint(path)
            except UsageError as error:
                log(f"{error}; taking the checkpoint before it")
        if paths:
            raise UsageError(f"{self.folder}: none of its checkpoints can be read; train anew, without --resume")
        return None

    def add_metrics(self, line: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        with writing(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def drop_metrics_after(self, step: int) -> None:
        """Take back the lines of steps that a resumed run does again."""
        path = self.folder / "metrics.jsonl"
        if path.is_file():
            lines = path.read_text("utf-8").splitlines(keepends=True)
            with atomic_path(path) as temporary:
                temporary.write_text("".join(line for line in lines if _step_of_line(line) <= step), "utf-8")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """For files that grow: OSError in the block becomes OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({reason(error)}); free space") from None


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _new_folder(wanted: Path) -> Path:
    """Make the folder; two runs that begin in one second get two."""
    folder, number = wanted, 1
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
                folder = wanted.with_name(f"{wanted.name}-{number}")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({reason(error)}); choose another place for runs") from None


def _step(path: Path) -> int:
    digits = path.stem.removeprefix("step_")
    return int(digits) if digits.isdigit() else -1


def _step_of_line(line: str) -> float:
    """The step of a line of metrics; beyond all steps where a kill cut the line short."""
    try:
        return json.loads(line)["step"] if line.endswith("\n") else float("inf")
    except ValueError:
        return float("inf")


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"fit": {"steps": 3}} as {"fit.steps": 3}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _plain(value: Any) -> Any:
    """Tuples as lists and paths as text, which YAML has no words for."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
