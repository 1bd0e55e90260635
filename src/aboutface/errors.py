"""Everything that can go wrong on purpose. Each error carries the exit code that the command ends with."""

import importlib
from typing import Any


class AboutfaceError(Exception):
    """Base of all expected failures: the message is one sentence for the user, never a traceback."""

    exit_code = 1


class PhotoError(AboutfaceError):
    """The input is not a picture that can be read: missing, empty, truncated, a directory, too large."""


class NoFaceError(AboutfaceError):
    """No face was found, or not the face that was asked for."""

    exit_code = 4


class OutputError(AboutfaceError):
    """The result could not be written: folder not writable, disk full, unknown file type."""


class UsageError(AboutfaceError, ValueError):
    """An argument has the wrong form or value."""

    exit_code = 2


class DivergedError(AboutfaceError):
    """Training left the finite numbers: a loss, a gradient or a weight."""


class MissingError(AboutfaceError, ImportError):
    """A prerequisite is absent: an optional package, a model file."""

    exit_code = 2


class ConsentError(AboutfaceError):
    """Refused for safety: the operation needs a consent that was not given."""

    exit_code = 3


def need(module: str, extra: str) -> Any:
    """The module, imported now; MissingError with the line that installs it where it is absent."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingError(f"{module} is needed here: pip install 'aboutface[{extra}]'") from None
