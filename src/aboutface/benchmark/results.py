"""What a benchmark leaves in its folder: results.json, tables.md, tables.tex."""

import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import atomic_path
from .goals import Verdict
from .tables import Table


def write_results(
    folder: Path, record: Mapping[str, Any], tables: Sequence[Table], verdicts: Sequence[Verdict], about: str = ""
) -> None:
    """Write all three, each whole or not at all; `about` opens tables.md. Raises OutputError."""
    lines = "\n".join(f"- {verdict.line}" for verdict in verdicts)
    texts = {
        "results.json": json.dumps(plain(dict(record)), indent=1, allow_nan=False) + "\n",
        "tables.md": about + "\n".join(table.markdown() for table in tables) + f"\n### Goals\n\n{lines}\n",
        "tables.tex": "\n".join(table.latex() for table in tables),
    }
    for name, text in texts.items():
        with atomic_path(folder / name) as part:
            part.write_text(text, "utf-8")


def plain(value: object) -> object:
    """JSON knows no NaN: null says that there is no number."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def commit() -> str | None:
    """The commit of the source that runs, with + where it was changed since; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
