"""`aboutface bench`. Importing this imports torch."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..benchmark import depthnets
from ..benchmark.goals import Verdict
from ..benchmark.tables import Table
from ..errors import MissingError, UsageError
from .bench_commands import BenchDepthnets, BenchIdentity, BenchLandmarks, BenchMorphable, BenchSynface
from .report import Report

LANDMARKS, VIDEOS = "aflw2000-3d-landmarks.npz", "ytf68-train.tar"


def bench_depthnets(command: BenchDepthnets) -> int:
    """0, or 1 where --check finds a goal missed."""
    if command.seeds < 1 or not command.frame > 0:
        raise UsageError(f"--seeds {command.seeds} --frame {command.frame:g}: expected at least 1, and more than 0")
    report = Report(command.talk)
    options = depthnets.Options(
        *_files(command),
        output=command.output,
        seeds=command.seeds,
        only=None if command.only == "all" else command.only,
        quick=command.quick,
        retrain=command.retrain,
        frame=command.frame,
    )
    outcome = depthnets.run(options, report.say)
    return _said("depthnets", command, report, outcome.tables, outcome.verdicts, "figures")


def bench_synface(command: BenchSynface) -> int:
    """0, or 1 where --check finds a goal missed."""
    # Not before it is asked for: it brings every recipe.
    from ..benchmark import synface

    for name in ("steps", "width", "batch", "seeds", "targets"):
        value = getattr(command, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: expected 1 or more")
    if command.samples < 0 or command.tuned < 0:
        raise UsageError(f"--samples {command.samples} --tuned {command.tuned}: expected 0 or more")
    report = Report(command.talk)
    options = synface.Options(
        command.data,
        command.output,
        command.method,
        command.rows,
        command.steps,
        command.width,
        command.batch,
        command.seeds,
        command.device,
        command.gan,
        command.targets,
        command.samples,
        command.tuned,
        command.curve,
        command.transcription,
        command.quick,
        command.retrain,
    )
    outcome = synface.run(options, report.say)
    return _said("synface", command, report, outcome.tables, outcome.verdicts, "faces.png")


def bench_morphable(command: BenchMorphable) -> int:
    """0, or 1 where --check finds a goal missed."""
    from ..benchmark import morphable

    report = Report(command.talk)
    options = morphable.Options(
        command.data,
        command.output,
        command.faces,
        command.noise,
        method=command.method,
        sets=command.sets,
        people=command.people,
    )
    outcome = morphable.run(options, report.say)
    return _said("morphable", command, report, outcome.tables, outcome.verdicts)


def bench_landmarks(command: BenchLandmarks) -> int:
    """0, or 1 where --check finds a goal missed."""
    from ..benchmark import landmarks

    if command.check and command.method is None:
        raise UsageError("--check judges a network: give its weights, --method FILE")
    if command.limit is not None and command.limit < 1:
        raise UsageError(f"--limit {command.limit}: expected at least 1")
    report = Report(command.talk)
    outcome = landmarks.run(landmarks.Options(command.data, command.output, command.method, command.limit), report.say)
    return _said("landmarks", command, report, outcome.tables, outcome.verdicts)


def bench_identity(command: BenchIdentity) -> int:
    """0, or 1 where --check finds a goal missed."""
    from ..benchmark import identity

    report = Report(command.talk)
    options = identity.Options(
        command.method,
        command.output,
        command.faces,
        command.quality,
        command.recognition,
        command.rows,
        command.seed,
        command.device,
    )
    outcome = identity.run(options, report.say)
    return _said("identity", command, report, outcome.tables, outcome.verdicts, "faces.png")


def _said(
    name: str,
    command: BenchDepthnets | BenchSynface | BenchMorphable | BenchLandmarks | BenchIdentity,
    report: Report,
    tables: Sequence[Table],
    verdicts: Sequence[Verdict],
    pictures: str | None = None,
) -> int:
    """Print tables and verdicts; the exit code."""
    for table in tables:
        report.say("\n" + table.text())
    for verdict in verdicts if command.check else []:
        report.say(verdict.line)
    missed = [verdict.name for verdict in verdicts if not verdict.met]
    report.data({"benchmark": name, "folder": str(command.output), "missed": missed})
    files = [str(command.output / "results.json"), "tables.md", "tables.tex", *([pictures] if pictures else [])]
    report.say(f"{', '.join(files[:-1])} and {files[-1]}")
    if command.check:
        report.say(f"{len(verdicts) - len(missed)} of {len(verdicts)} goals met")
    return 1 if command.check and missed else 0


def _files(command: BenchDepthnets) -> tuple[Path, Path | None]:
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
