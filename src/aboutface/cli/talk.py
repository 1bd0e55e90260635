"""The options that every command has."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg


@dataclass(frozen=True)
class Talk:
    """What is said about the work."""

    json_lines: Annotated[bool, arg(name="json")] = False
    """Print one JSON object per result on standard output."""
    quiet: bool = False
    """Say nothing but errors."""
    verbose: Annotated[bool, arg(aliases=["-v"])] = False
    """Say more, and show where in the code an unexpected error came from."""
