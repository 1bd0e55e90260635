"""What `aboutface data ...` does. Importing this imports torch."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..data import check as find_problems
from ..data import repack
from ..data import stats as describe_data
from ..data.repack import DROPPED
from ..recipes.prepare import pose_of
from ..recipes.prepare import prepare as run_prepare
from ..recipes.synth.generate import synth_faces
from .data_commands import DataCheck, DataPrepare, DataShard, DataStats, DataSynth
from .report import Report

FAILURES = ("unreadable", "damaged", "side-file", "error")
"""Reasons that are nobody's choice: the exit code is 1 if there is one."""


def prepare(command: DataPrepare) -> int:
    report = Report(command.talk)
    try:
        with _progress(command.talk.quiet, "photos") as progress:
            result = run_prepare(
                command.source,
                command.target,
                command.settings,
                workers=command.workers,
                seed=command.seed,
                overwrite=command.overwrite,
                progress=progress,
            )
    except KeyboardInterrupt:
        report.say(f"{command.target}: what is done is kept; the same command without --overwrite goes on")
        raise
    same = result["duplicates"]
    also = [f"known people: {result['identities']}", f"duplicates: {same['exact']} exact, {same['near']} near"]
    return _finish(report, "faces", command.target, result, [*also, *result["notes"]])


def shard(command: DataShard) -> int:
    with _progress(command.talk.quiet, "pictures") as progress:
        result = repack(
            command.source,
            command.target,
            examples=command.shard,
            identity=command.identity,
            overwrite=command.overwrite,
            progress=progress,
        )
    return _finish(Report(command.talk), "pictures", command.target, result, [])


def synth(command: DataSynth) -> int:
    report = Report(command.talk)
    try:
        with _progress(command.talk.quiet, "images") as progress:
            card = synth_faces(
                command.output,
                command.settings,
                model=command.model,
                workers=command.workers,
                overwrite=command.overwrite,
                progress=progress,
            )
    except KeyboardInterrupt:
        report.say(f"{command.output}: what is done is kept; the same command without --overwrite goes on")
        raise
    report.data({"folder": str(command.output)} | card)
    report.say(f"{command.output}: {_counts(card['images'])} images of {card['settings']['size']} px")
    return 0


def check(command: DataCheck) -> int:
    report = Report(command.talk)
    count = 0
    with _progress(command.talk.quiet, "examples") as progress:
        for problem in find_problems(command.source, slack=command.slack, progress=progress):
            count += 1
            report.data({"name": problem.name, "problem": problem.message})
            _print_line(f"{problem.name}: {problem.message}")
    report.say(f"{command.source}: {count or 'no'} problem{'' if count == 1 else 's'}")
    return 1 if count else 0


def stats(command: DataStats) -> int:
    output = command.output or Path("outputs") / f"{Path(command.source).resolve().stem}-stats"
    report = Report(command.talk)
    with _progress(command.talk.quiet, "examples") as progress:
        result = describe_data(
            command.source, output, pose_of=pose_of, sheet=command.sheet, seed=command.seed, progress=progress
        )
    report.data(result | {"folder": str(output)})
    if not command.talk.quiet:
        _print_table(command.source, result)
    _name_failures(f"{name}: {why.removeprefix(f'{name}: ')}" for name, why in result["bad"].items())
    for note in result["notes"]:
        report.say(f"note: {note}")
    report.say(f"-> {output}")
    return 1 if result["bad"] else 0


def _finish(report: Report, unit: str, target: Path, result: dict[str, Any], lines: list[str]) -> int:
    """Says what became of the photos; the exit code. `unit`: what is counted as kept."""
    dropped = result["dropped"]
    report.data({"folder": str(target)} | result)
    report.say(f"{target}: {result['kept']} {unit} of {result['photos']} photos; shards: {len(result['shards'])}")
    if dropped:
        report.say(f"  dropped: {_counts(dropped)}; see {target / DROPPED}")
    if result["ignored"]:
        report.say(f"  ignored: {_counts(result['ignored'])}")
    for line in lines:
        report.say(f"  {line}")
    with (target / DROPPED).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    _name_failures(row["message"] for row in rows if row["reason"] in FAILURES)
    return 1 if not result["kept"] or any(reason in dropped for reason in FAILURES) else 0


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in numbers.items())


def _name_failures(messages: Iterable[str]) -> None:
    for message in messages:
        _print_line(f"aboutface: {message}")


def _print_line(text: str) -> None:
    """One line, whatever is in a file's name."""
    print(" ".join(text.splitlines()), file=sys.stderr)


def _print_table(source: str, result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{source}: {result['examples']} examples, {result['identities']} people"
    table = Table(title=title, caption=_caption(result))
    for name in ("", "min", "5 %", "median", "95 %", "max"):
        table.add_column(name, justify="left" if not name else "right")
    for name, numbers in result["numbers"].items():
        if numbers:
            table.add_row(name, *(f"{numbers[key]:.4g}" for key in ("min", "p5", "median", "p95", "max")))
    Console(stderr=True).print(table)


def _caption(result: dict[str, Any]) -> str:
    known = ", ".join(f"{result[f'with_{name}']} {name}" for name in ("landmarks", "mask", "identity"))
    return f"with {known}; {result['unusable']} unusable"


@contextmanager
def _progress(quiet: bool, unit: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar with the time left on standard error, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
