"""`aboutface models`: the weight files, their licences, and whether they are here."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .. import weights
from ..errors import AboutfaceError, UsageError
from .commands import Models
from .report import Report

if TYPE_CHECKING:
    from ..morphable import MorphableModel


def models(command: Models) -> int:
    report = Report(command.talk)
    if command.action == "list":
        return _list(report)
    if command.action == "verify" and command.name is None:
        return verify_all(report)
    if command.action == "convert":
        return _convert(command, report)
    if command.name is None:
        raise UsageError(f"models {command.action}: name the weights; aboutface models list shows them")
    record = weights.info(command.name)
    if command.files and command.action != "add":
        raise UsageError(f"models {command.action}: takes no files, got {' '.join(command.files)}")
    match command.action:
        case "info":
            return _info(record, report)
        case "path":
            print(weights.path(command.name))
        case "verify":
            digest = weights.verify(command.name)
            report.data({"name": command.name, "status": "verified", "sha256": digest})
            report.say(f"{command.name}: {digest}, as it should be")
        case "add":
            return _add(command.name, command, report)
        case "remove":
            file = weights.remove(command.name)
            report.data({"name": command.name, "status": "removed", "path": str(file)})
            report.say(f"{command.name}: {file} removed")
        case "download" if record.added:
            return _download_model(command.name, report)
        case "download":
            with _progress(report, command.name) as progress:
                file = weights.download(command.name, progress, command.accept_license)
            report.data({"name": command.name, "status": "present", "path": str(file)})
            report.say(f"{command.name}: {file} ({record.licence})")
    return 0


def _add(name: str, command: Models, report: Report) -> int:
    from ..morphable import add_model

    return _say_model(*add_model(name, command.files, partial=command.partial), report)


def _download_model(name: str, report: Report) -> int:
    from ..morphable import download_model

    if weights.info(name).present:
        weights.verify(name)
        report.data({"name": name, "status": "present", "path": str(weights.path(name))})
        report.say(f"{name}: {weights.path(name)}, already here")
        return 0
    with _progress(report, name) as progress:
        model, file = download_model(name, progress)
    return _say_model(model, file, report)


def _say_model(model: "MorphableModel", file: Path, report: Report) -> int:
    from ..morphable import counts

    facts = counts(model)
    report.data({"name": model.name, "status": "present", "path": str(file)} | facts)
    numbers = ", ".join(f"{number} {what}" for what, number in facts.items() if what != "version")
    report.say(f"{model.name}: {file} ({facts['version']}: {numbers})")
    passing = "may be passed on" if model.redistributable else "yours alone, not to be passed on"
    report.say(f"{model.name}: {model.licence}; {passing}")
    return 0


def _convert(command: Models, report: Report) -> int:
    from ..morphable import ICT_FILE, convert_ict

    if command.name is None:
        raise UsageError("models convert: name the folder FaceXModel of ICT-FaceKit, or a file of a StyleGAN2")
    if not Path(command.name).is_dir():
        return _convert_gan(Path(command.name), command.output, report)
    target = command.output or Path(os.environ.get("ABOUTFACE_DATA") or ".") / ICT_FILE
    counts = convert_ict(command.name, target, partial=command.partial)
    report.data({"path": str(target)} | counts)
    report.say(f"{target}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    return 0


def _convert_gan(source: Path, output: str | None, report: Report) -> int:
    from ..generate.convert import convert

    if output is None:
        raise UsageError(f"models convert {source}: name the file to write with -o: .safetensors, .pt or .pkl")
    gan, notes = convert(source, Path(output))
    settings = gan.generator.settings
    report.data({"path": output, "network": asdict(settings), "critic": gan.discriminator is not None, "notes": notes})
    parts = f"generator {'and critic' if gan.discriminator is not None else 'alone'}"
    report.say(
        f"{output}: {parts}, {settings.size} px, {settings.latent} numbers, {settings.mapping_layers} layers to w"
    )
    for note in notes:
        report.say(f"  note: {note}")
    return 0


def verify_all(report: Report) -> int:
    """Hash every file that is here; 1 where one is changed or a file that belongs to a package is absent."""
    code = 0
    for name, record in weights.REGISTRY.items():
        try:
            if record.optional and not record.present:
                status = "not downloaded" if record.url is not None else "not added"
            else:
                weights.verify(name)
                status = "verified"
        except AboutfaceError as error:
            status, code = str(error), 1
        report.data({"name": name, "status": status})
        report.say(f"{name}: {status}")
    return code


def _list(report: Report) -> int:
    if report.talk.json_lines:
        for entry in weights.listing():
            report.data(entry)
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "size", "here", "licence", "pass on", "what it does", box=None, pad_edge=False)
    may = {True: "yes", False: "no", None: ""}
    for entry in weights.listing():
        size = "" if entry["bytes"] is None else size_words(entry["bytes"])
        here, passing = "yes" if entry["present"] else "no", may[entry["redistributable"]]
        table.add_row(entry["name"], size, here, entry["licence"], passing, entry["description"])
    console = Console(file=sys.stdout)
    # A pipe has no width of its own: there each model gets its whole line.
    Console(file=sys.stdout, width=None if console.is_terminal else 250).print(table)
    return 0


def _info(record: weights.Weights, report: Report) -> int:
    facts = asdict(record) | {"present": record.present, "path": str(record.path) if record.path else None}
    if report.talk.json_lines:
        report.data(facts)
        return 0
    for name, value in facts.items():
        if value not in (None, "", (), {}):
            print(f"{name.replace('_', ' ')}: {value}")
    return 0


def size_words(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


@contextmanager
def _progress(report: Report, name: str) -> Iterator[weights.Progress | None]:
    if report.talk.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
