"""Checkpoints: files of tensors and plain values, written whole or not at all and read without running anything."""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import UsageError
from ..files import atomic_path, reason

FORMAT = "aboutface checkpoint 1"
LAYOUT = {"method": str, "version": int, "step": int, "seconds": float, "settings": dict, "task": dict, "random": list}
"""What `fit` itself relies on, whoever made the file."""


def write_checkpoint(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write `content` with the mark of the format. Raises OutputError, and then an older file is as it was."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save({"format": FORMAT, **content}, file)
        except RuntimeError as error:
            # torch hides what the system said (disk full, for example) behind an error of its own.
            raise error.__context__ if isinstance(error.__context__, OSError) else OSError(reason(error)) from error


def read_checkpoint(
    path: str | os.PathLike[str], method: str | None = None, version: int | None = None
) -> dict[str, Any]:
    """A checkpoint, tensors on the CPU: `method`, `version`, `step`, state dicts `task` and `average` (or None)...

    method, version: what it must be of; anything where None. Nothing in the file is executed, whoever made it.
    Raises UsageError for a file that is missing, damaged, not made by `fit`, or of another method or version.
    """
    content = _load(Path(path))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format", "another program's") if isinstance(content, dict) else "another program's"
        raise UsageError(f"{path}: expected a file of the format {FORMAT!r}, got {found}; name a checkpoint of a run")
    if wrong := [name for name, kind in LAYOUT.items() if not isinstance(content.get(name), kind)]:
        raise UsageError(f"{path}: is damaged: {', '.join(wrong)} cannot be what `fit` wrote; name another checkpoint")
    check_method(content, method, version, str(path))
    return content


def check_method(content: dict[str, Any], method: str | None, version: int | None, source: str) -> None:
    """Raise UsageError unless the checkpoint is of the method and the version."""
    if method is not None and content["method"] != method:
        raise UsageError(f"{source}: is a checkpoint of {content['method']!r}, expected one of {method!r}")
    if version is not None and content["version"] != version:
        raise UsageError(
            f"{source}: was written by version {content['version']} of {content['method']!r}, which now is version "
            f"{version}; train anew, or go on with the aboutface that wrote it"
        )


def _load(path: Path) -> Any:
    try:
        # torch compares no checksums: a flipped bit would become another weight.
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({reason(error)}); name a checkpoint") from None
    except Exception as error:
        # Damaged bytes fail with RuntimeError, EOFError, ValueError, KeyError...; foreign objects with UnpicklingError.
        raise UsageError(
            f"{path}: is damaged, or holds more than tensors and plain values ({reason(error)[:100]}): it is not used, "
            "nothing in it was run; name another checkpoint"
        ) from None
