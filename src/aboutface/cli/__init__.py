"""The command `aboutface`: arguments in, exit code out. Nothing here imports torch; the verbs do, when they run."""

import contextlib
import difflib
import inspect
import io
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..errors import AboutfaceError, UsageError

ALIASES = {"frontalise": "frontalize", "shape": "reconstruct", "replace": "swap"}
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 failed, 2 bad usage or something missing, 3 refused, 4 no face, 130 interrupted."""
    # OpenMP's threads otherwise spin while they wait, which on a busy machine makes everything ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A console without our frames and degree signs shows question marks, and does not fail.
            stream.reconfigure(errors="replace")
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("aboutface: interrupted; the file in work was not written", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Who reads our output has seen enough; Python would complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        if {"-v", "--verbose"} & set(arguments):
            traceback.print_exc()
        print(f"aboutface: {describe(error)}", file=sys.stderr)
        return exit_code(error)


def describe(error: Exception) -> str:
    """One sentence for the user."""
    if isinstance(error, AboutfaceError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "not enough memory; give a smaller photo"
    text = " ".join(str(error).split()) or "no message"
    return f"this is a bug in aboutface, please report it ({type(error).__name__}: {text}); -v shows where"


def exit_code(error: Exception) -> int:
    return error.exit_code if isinstance(error, AboutfaceError) else 1


def _run(arguments: list[str]) -> int:
    from .commands import COMMANDS

    if not arguments:
        print(_overview(COMMANDS), file=sys.stderr)
        return UsageError.exit_code
    name, rest = ALIASES.get(arguments[0], arguments[0]), arguments[1:]
    if name in ("-h", "--help", "help"):
        print(_overview(COMMANDS))
        return 0
    if name in ("-V", "--version"):
        print(f"aboutface {__version__}")
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, [*COMMANDS, *ALIASES], n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {name!r}; {hint} See aboutface --help")
    if name == "train":
        from .train import train

        return train(rest)
    command = parse(COMMANDS[name], name, rest)
    return 0 if command is None else command.run()


def parse(command: type, name: str, arguments: list[str]) -> Any:
    """The command with its arguments; None where help was asked for and given."""
    import tyro

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                command,
                prog=f"aboutface {name}",
                description=inspect.getdoc(command),
                args=join_values(arguments),
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if not stop.code:
            return None
        raise UsageError(f"{_sentence(errors.getvalue())}; see aboutface {name} --help") from None


def join_values(arguments: Sequence[str]) -> list[str]:
    """`--yaw -45,-30` as `--yaw=-45,-30`: without the sign of equality a value may not begin with a minus."""
    joined: list[str] = []
    for index, argument in enumerate(arguments):
        before = arguments[index - 1] if index else ""
        if re.match(r"[-−][\d.]", argument) and before.startswith("--") and len(before) > 2 and "=" not in before:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _sentence(framed: str) -> str:
    """What tyro says inside a frame, as one line. Where the console has no frames, rules and spaces stand for them."""
    parts: list[list[str]] = [[]]
    for line in (line.strip().strip("│").strip() for line in framed.splitlines()):
        # Rules part the title (which stands in the frame, if there is one), message, hints and the place of the help.
        if re.search(r"[─-]{4,}|[╭╰]", line):
            parts.append([])
        elif line:
            parts[-1].append(line)
    blocks = [part for part in parts if part]
    block = blocks[0 if "╭" in framed else 1] if len(blocks) > 1 else ["the arguments cannot be understood"]
    required = [name for line in block if line.startswith("-") for name in re.findall(r"--[\w-]+", line)[:1]]
    if block[0].startswith("Missing from") and required:
        return f"missing: {', '.join(required)}"
    hints = " ".join(line for part in blocks for line in part)
    similar = re.search(r"Perhaps you meant: (?:-\w(?: \w+)?, )?(--[\w-]+)", hints)
    # Settings check themselves, and name the option: where they stand in the command says nothing to the user.
    said = re.sub(r"^Error parsing [\w.]+: ", "", " ".join(block).rstrip(". "))
    return said + (f" (perhaps you meant {similar[1]})" if similar else "")


def _overview(commands: dict[str, type]) -> str:
    also = {verb: alias for alias, verb in ALIASES.items()}
    lines = ["usage: aboutface COMMAND ...", "", "One photo of a face in, its 3D shape and every view out.", ""]
    for name, command in commands.items():
        summary = (command.__doc__ or "").splitlines()[0]
        lines.append(f"  {name:<12} {summary}" + (f" (also: {also[name]})" if name in also else ""))
    lines += [
        "",
        "  aboutface COMMAND --help     its options",
        "  aboutface --version          the version",
        "",
        "  aboutface rotate me.jpg --yaw 30",
        "  aboutface rotate me.jpg --yaw -45,-30,-15,0,15,30,45 -o out/",
        "  aboutface animate me.jpg --sweep yaw=-40:40 -o turn.mp4",
        "  aboutface relight me.jpg --light-azimuth 60 --light-elevation 20",
        "  aboutface reconstruct me.jpg -o me.glb",
        "",
        "Exit codes: 0 done, 1 failed, 2 bad usage or something missing, 3 refused, 4 no face, 130 interrupted.",
    ]
    return "\n".join(lines)
