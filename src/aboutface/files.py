"""Files that are written whole or not at all."""

import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import AboutfaceError, OutputError

DAMAGED_NPZ = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What numpy raises for npz files with wrong bytes in them."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Path of a temporary file beside `path`, with its suffix, that takes its place only if the block succeeds.

    Parent folders are made. After any exception the temporary file is gone and an older file is as it was. A link is
    written through. OSError becomes OutputError.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.is_dir() or (target.exists() and not target.is_file()):
            raise OutputError(f"{path}: cannot be written, it is {what(target)}; name a file")
        target.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be written ({reason(error)}); choose another place with -o") from None
    temporary = target.with_name(f".aboutface-{secrets.token_hex(8)}{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, AboutfaceError):
            message = f"{path}: cannot be written ({reason(error)}); free space or choose another place with -o"
            raise OutputError(message) from error
        raise


def reason(error: BaseException) -> str:
    """What the system says went wrong, on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def what(path: Path) -> str:
    """What lies where a plain file was expected."""
    return "a folder" if path.is_dir() else "a device or socket"
