"""What a command says: people read standard error, programs read JSON lines on standard output."""

import json
import sys
import traceback
from typing import TYPE_CHECKING, Any

from . import describe, exit_code
from .commands import Talk

if TYPE_CHECKING:
    from ..edit.save import Saved

STEPS = ("read", "detect", "reconstruct", "head", "prepare", "swap", "light", "views", "write")
"""The order in which seconds are listed."""


class Report:
    """Says how the work goes, and remembers what failed."""

    def __init__(self, talk: Talk, several: bool = False) -> None:
        self.talk = talk
        self.several = several
        self.done_count = 0
        self.codes: list[int] = []

    def say(self, text: str) -> None:
        """A line for people."""
        if not self.talk.quiet:
            print(text, file=sys.stderr)

    def data(self, content: dict[str, Any]) -> None:
        """A line for programs."""
        if self.talk.json_lines:
            print(json.dumps(content), flush=True)

    def done(self, source: str, saved: "Saved") -> None:
        self.done_count += 1
        record = saved.record
        files = [str(path) for path in saved.files]
        self.data(
            {"input": source, "status": "done", "exit_code": 0, "folder": str(saved.folder), "files": files} | record
        )
        if saved.files:
            self.say(f"{source} -> {_listing(saved)}")
        pose = record["pose"]
        self.say("  pose in the photo: " + ", ".join(f"{axis} {angle:+.0f}°" for axis, angle in pose.items()))
        if self.talk.verbose:
            if "face" in record:
                face = record["face"]
                self.say(f"  face {face['index']} by {face['detector']}, box {face['box']}")
            self.say(f"  model: {record['model']['name']}, {record['model']['licence']}")
        for warning in record["warnings"]:
            self.say(f"  note: {warning}")
        self.say(f"  on the {device_words(record['device'])}: {_durations(record['seconds'])}")

    def failed(self, source: str, error: Exception) -> None:
        self.codes.append(exit_code(error))
        message = describe(error)
        self.data(
            {
                "input": source,
                "status": "refused" if exit_code(error) == 3 else "failed",
                "exit_code": exit_code(error),
                "error": type(error).__name__,
                "message": message,
            }
        )
        if self.talk.verbose:
            traceback.print_exception(error)
        print(f"aboutface: {message if message.startswith(source) else f'{source}: {message}'}", file=sys.stderr)

    def finish(self) -> int:
        """The exit code: that of the only photo, else 1 where any failed."""
        if not self.several:
            return self.codes[0] if self.codes else 0
        self.say(f"{self.done_count} done, {len(self.codes)} failed")
        return 1 if self.codes else 0


def device_words(device: str) -> str:
    import torch

    count = torch.get_num_threads()
    return f"{device.upper()} ({count} thread{'s' if count > 1 else ''})"


def _listing(saved: "Saved") -> str:
    """The path of the most wanted file, and what lies beside it."""
    first, *others = saved.files
    if len(others) > 3:
        return f"{first} and {len(others)} more files in {saved.folder}"
    return ", ".join([str(first), *(path.name for path in others)])


def _durations(seconds: dict[str, float]) -> str:
    steps = sorted(seconds, key=lambda name: STEPS.index(name) if name in STEPS else len(STEPS))
    parts = [f"{name} {seconds[name]:.2f}" for name in steps]
    return ", ".join(parts) + f"; together {sum(seconds.values()):.2f} s"
