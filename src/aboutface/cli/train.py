"""`aboutface train METHOD`: the method's settings are options, and defaults come from --config or a resumed run."""

import argparse
import inspect
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, field, fields, is_dataclass, make_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import UsageError
from ..recipes import SUMMARIES, recipe, recipes, write_weights
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
    command.__doc__ = f"{inspect.getdoc(Train)}\n\n{method}: {inspect.getdoc(settings)}"
    parsed = parse(command, f"train {method}", rest)
    return 0 if parsed is None else _train(method, parsed, parsed.settings)


def _train(method: str, command: Train, settings: Any) -> int:
    from ..fit import FitSettings, Run, find_device

    # Of the processes of torchrun, the first one speaks and writes.
    first = os.environ.get("RANK", "0") == "0"
    report = Report(command.talk if first else Talk(quiet=True))
    data, start = Path(command.data), time.perf_counter()
    if not data.exists():
        raise UsageError(f"--data {data}: no such file or folder")
    for setting in vars(settings).values():
        if isinstance(setting, FitSettings):
            find_device(setting.device)  # not after minutes of reading
    config = {"method": method, "data": str(data.resolve()), **asdict(settings)}
    run = Run.open(command.runs, _name(command.data), method, config, command.resume, report.say)
    report.say(f"run: {run.folder}")
    trained = settings.train(data, replace(run, bar=not command.talk.quiet), report.say)
    if not first:
        return 0
    file = Path(command.output or run.folder / f"{method.replace('-', '_')}.safetensors")
    write_weights(file, method, trained)
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
        return from_mapping(settings, _read(Path(known.config), method), known.config)
    run = _resumed(known, method)
    if run is not None and (run / "config.yml").is_file():
        return from_mapping(settings, _read(run / "config.yml", method), str(run / "config.yml"))
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
    path = Path(data).resolve()
    return (path.name if path.is_dir() else path.stem) or "data"


def _read(path: Path, method: str) -> dict[str, Any]:
    """The settings in the file, which may say that they are of this method."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected settings as `name: value`, got {type(content).__name__}")
    if content.get("method", method) != method:
        raise UsageError(f"{path}: is of {content['method']!r}, expected settings of {method!r}")
    return {key: value for key, value in content.items() if key not in ("method", "data")}


def from_mapping(settings: Any, values: dict[str, Any], source: str) -> Any:
    """The settings with some fields replaced; nested dataclasses take mappings.

    Raises UsageError for unknown names and for values of another kind. Whole numbers stand for fractions, lists for
    tuples, and text like 1e-3 for the number that YAML does not see in it.
    """
    known = {f.name: getattr(settings, f.name) for f in fields(settings)}
    kinds = get_type_hints(type(settings))
    changed: dict[str, Any] = {}
    for name, value in values.items():
        key = str(name).replace("-", "_")
        if key not in known:
            close = get_close_matches(key, known, 1)
            raise UsageError(
                f"{source}: unknown setting {name}" + (f" (perhaps you meant {close[0]})" if close else "")
            )
        old = known[key]
        if not is_dataclass(old):
            try:
                changed[key] = _converted(kinds[key], value)
            except (TypeError, ValueError):
                raise UsageError(f"{source}: {name}: expected {_named(kinds[key], old)}, got {value!r}") from None
        elif isinstance(value, dict):
            changed[key] = from_mapping(old, value, source)
        else:
            raise UsageError(f"{source}: {name}: expected settings as `name: value`, got {value!r}")
    return replace(settings, **changed)


def _converted(kind: Any, value: Any) -> Any:
    """The value as a field of this kind has it. Raises TypeError or ValueError where it cannot be one."""
    parts = get_args(kind)
    if _is(kind, UnionType) or _is(kind, Union):
        kind = type(None) if value is None else next(part for part in parts if part is not type(None))
        return _converted(kind, value)
    if _is(kind, tuple) and isinstance(value, list):
        each = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(_converted(part, item) for part, item in zip(each, value, strict=True))
    if kind in (float, Path) and not isinstance(value, bool):
        return kind(value)
    if value not in parts if _is(kind, Literal) else type(value) is not (get_origin(kind) or kind):
        raise TypeError
    return value


def _named(kind: Any, old: Any) -> str:
    """What a field of this kind takes, for people."""
    if _is(kind, Literal):
        return " or ".join(map(str, get_args(kind)))
    return str(kind) if old is None else f"a value like {old!r}"


def _is(kind: Any, origin: Any) -> bool:
    return get_origin(kind) is origin


def _overview() -> str:
    lines = ["usage: aboutface train METHOD --data PATH [options]", "", "Methods:", ""]
    lines += [f"  {name:<12} {SUMMARIES.get(name, target)}" for name, target in recipes().items()]
    lines += [
        "",
        "  aboutface train METHOD --help     its settings",
        "  aboutface train depthnet --data faces/ --resume auto",
    ]
    return "\n".join(lines)
