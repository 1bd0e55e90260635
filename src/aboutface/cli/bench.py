"""`aboutface bench`. Importing this imports torch."""

import os
from pathlib import Path

from ..benchmark.depthnets import Options, run
from ..errors import MissingError, UsageError
from .bench_commands import Bench
from .report import Report

LANDMARKS, VIDEOS = "aflw2000-3d-landmarks.npz", "ytf68-train.tar"


def bench(command: Bench) -> int:
    """0, or 1 where --check finds a goal missed."""
    if command.seeds < 1 or not command.frame > 0:
        raise UsageError(f"--seeds {command.seeds} --frame {command.frame:g}: expected at least 1, and more than 0")
    report = Report(command.talk)
    options = Options(
        *_files(command),
        output=command.output,
        seeds=command.seeds,
        only=None if command.only == "all" else command.only,
        quick=command.quick,
        retrain=command.retrain,
        frame=command.frame,
    )
    outcome = run(options, report.say)
    for table in outcome.tables:
        report.say("\n" + table.text())
    for verdict in outcome.verdicts if command.check else []:
        report.say(verdict.line)
    missed = [verdict.name for verdict in outcome.verdicts if not verdict.met]
    report.data({"benchmark": command.name, "folder": str(command.output), "missed": missed})
    report.say(f"{command.output / 'results.json'}, tables.md, tables.tex and figures")
    if command.check:
        report.say(f"{len(outcome.verdicts) - len(missed)} of {len(outcome.verdicts)} goals met")
    return 1 if command.check and missed else 0


def _files(command: Bench) -> tuple[Path, Path | None]:
    """The landmark file and the tar of faces (None where it is not needed), all there before any work begins."""
    folder = Path(os.environ.get("ABOUTFACE_DATA") or "data")
    given = command.data
    if given is not None and given.is_dir():
        folder, given = given, None
    landmarks = given or folder / LANDMARKS
    videos = None if command.only == "table3" else folder / VIDEOS
    absent = [str(path) for path in (landmarks, videos) if path is not None and not path.is_file()]
    if absent:
        raise MissingError(
            f"{' and '.join(absent)} not found: set ABOUTFACE_DATA (or --data) to the folder with {LANDMARKS} and "
            f"{VIDEOS}, or --data to an NPZ file of points (N, 68, 3) for --only table3"
        )
    return landmarks, videos
