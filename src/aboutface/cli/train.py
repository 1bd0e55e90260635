"""`aboutface train METHOD`: the method's settings are options, and defaults come from --config or a resumed run."""

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, field, fields, is_dataclass, make_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..recipes import recipe, recipes, write_weights
from .commands import Train
from .report import Report
from .talk import Talk


def train(arguments: Sequence[str]) -> int:
    """Parse and run; 0 when trained."""
    from . import parse

    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else UsageError.exit_code
    method, rest = arguments[0], list(arguments[1:])
    if method.startswith("-"):
        raise UsageError(f"train: say what to train first, as in aboutface train {next(iter(recipes()))} --data DIR")
    settings = recipe(method)
    defaults = _defaults(settings(), method, rest)
    command = make_dataclass(
        "TrainMethod", [("settings", settings, field(default=defaults))], bases=(Train,), frozen=True, kw_only=True
    )
    command.__doc__ = f"{Train.__doc__}\n\n{method}: {settings.__doc__}"
    parsed = parse(command, f"train {method}", rest)
    return 0 if parsed is None else _train(method, parsed, parsed.settings)


def _train(method: str, command: Train, settings: Any) -> int:
    from ..fit import Run

    # Of the processes of torchrun, the first one speaks and writes.
    first = os.environ.get("RANK", "0") == "0"
    report = Report(command.talk if first else Talk(quiet=True))
    data, start = Path(command.data), time.perf_counter()
    if not data.exists():
        raise UsageError(f"--data {data}: no such file or folder")
    config = {"method": method, "data": str(data.resolve()), **asdict(settings)}
    run = Run.open(command.runs, _name(command.data), method, config, command.resume, report.say)
    report.say(f"run: {run.folder}")
    trained = settings.train(data, run, report.say)
    if not first:
        return 0
    file = Path(command.output or run.folder / f"{method.replace('-', '_')}.safetensors")
    write_weights(file, trained)
    seconds = round(time.perf_counter() - start, 1)
    report.data(
        {"method": method, "file": str(file), "run": str(run.folder), "scores": trained.scores, "seconds": seconds}
    )
    for name, value in trained.scores.items():
        report.say(f"  {name.replace('_', ' ')}: {value:g}")
    report.say(f"{file} after {seconds:.0f} s")
    return 0


def _defaults(settings: Any, method: str, arguments: list[str]) -> Any:
    """The settings that the command line starts from: those of --config, of the resumed run, or the recipe's own."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--data", "--config", "--resume", "--runs"):
        early.add_argument(name)
    try:
        known, _ = early.parse_known_args(arguments)
    except argparse.ArgumentError:
        return settings  # the real parser will say what is wrong
    if known.config is not None:
        return from_mapping(settings, _read(Path(known.config)), known.config)
    run = _resumed(known, method)
    if run is not None and (run / "config.yml").is_file():
        return from_mapping(settings, _read(run / "config.yml"), str(run / "config.yml"))
    return settings


def _resumed(known: argparse.Namespace, method: str) -> Path | None:
    """Folder of the run that --resume means; None for none."""
    if known.resume is None or known.data is None:
        return None
    if known.resume != "auto":
        path = Path(known.resume)
        return path.parent.parent if path.is_file() else path
    from ..fit import Run

    newest = Run.newest(known.runs or "runs", _name(known.data), method)
    return None if newest is None else newest.folder


def _name(data: str) -> str:
    """What runs on these data are filed under."""
    return Path(data).resolve().stem or "data"


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected settings as `name: value`, got {type(content).__name__}")
    return {key: value for key, value in content.items() if key not in ("method", "data")}


def from_mapping(settings: Any, values: dict[str, Any], source: str) -> Any:
    """The settings with some fields replaced; nested dataclasses take mappings. Raises UsageError for unknown names.

    Values of another type are refused, but for whole numbers where a fraction is expected and lists for tuples.
    """
    known = {f.name: getattr(settings, f.name) for f in fields(settings)}
    changed: dict[str, Any] = {}
    for name, value in values.items():
        key = str(name).replace("-", "_")
        if key not in known:
            close = get_close_matches(key, known, 1)
            raise UsageError(
                f"{source}: unknown setting {name}" + (f" (perhaps you meant {close[0]})" if close else "")
            )
        old = known[key]
        if is_dataclass(old) and isinstance(value, dict):
            changed[key] = from_mapping(old, value, source)
        else:
            changed[key] = _like(old, value, f"{source}: {name}")
    return replace(settings, **changed)


def _like(old: Any, value: Any, where: str) -> Any:
    if isinstance(old, tuple) and isinstance(value, list) and old:
        return tuple(_like(old[0], item, where) for item in value)
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if old is not None and (not isinstance(value, type(old)) or isinstance(value, bool) != isinstance(old, bool)):
        raise UsageError(f"{where}: expected {type(old).__name__} like {old!r}, got {value!r}")
    return value


def _overview() -> str:
    lines = ["usage: aboutface train METHOD --data PATH [options]", "", "Methods:", ""]
    lines += [f"  {name:<12} {target}" for name, target in recipes().items()]
    lines += [
        "",
        "  aboutface train METHOD --help     its settings",
        "  aboutface train depthnet --data faces/ --resume auto",
    ]
    return "\n".join(lines)
