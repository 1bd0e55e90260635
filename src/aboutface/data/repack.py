"""Pictures as they are, from any source into shards: `aboutface data shard SRC DST`."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import AboutfaceError, UsageError
from ..files import atomic_path
from .example import IdentityRule, check_landmarks, identity_of, read_pixels, read_record
from .shards import ShardWriter, safe_key
from .sources import REPORT, Entry, changed, find_entries

SHARD = "[0-9]" * 6 + ".tar"
DROPPED = "dropped.jsonl"


def repack(
    source: str | PathLike[str] | Sequence[str],
    target: str | PathLike[str],
    *,
    examples: int = 1000,
    identity: IdentityRule = "none",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Pack pictures, their side files and masks into shards of `examples`, bytes unchanged; the report.json.

    What does not decode, or has unusable landmarks, is left out and named in dropped.jsonl. The same work is not done
    twice. Raises UsageError where there are no pictures, `target` holds other shards, or one lies in the other;
    OutputError.
    """
    if examples < 1:
        raise UsageError(f"--shard {examples}: expected at least 1")
    target = Path(target)
    found = find_entries(source)
    if not found.entries:
        raise UsageError(f"{source}: no pictures are in it; give a folder, tar, glob or list of pictures")
    check_apart(source, found.entries, target)
    plan = plan_of(found.entries, {"shard": examples, "identity": identity})
    if done := clear(target, plan, overwrite):
        return done
    writer = ShardWriter(target, examples)
    dropped = [{"name": name, "reason": "damaged", "message": f"{name}: {why}"} for name, why in found.bad.items()]
    for index, entry in enumerate(found.entries):
        try:
            writer.add(safe_key(entry.name), _parts(entry, identity))
        except AboutfaceError as error:
            dropped.append({"name": entry.name, "reason": "unreadable", "message": str(error)})
        if progress:
            progress(index + 1, len(found.entries))
    writer.finish()
    content = {"photos": len(found.entries), "kept": sum(int(shard["examples"]) for shard in writer.shards)}
    return write_report(target, plan, content | {"ignored": dict(found.ignored)}, dropped, writer)


def _parts(entry: Entry, identity: IdentityRule) -> dict[str, bytes]:
    read_pixels(entry)
    record = read_record(entry)
    points = record.get("landmarks68", record.get("landmarks"))
    if points is not None:
        check_landmarks(points, entry.name)
    record = {"source": entry.name} | record | {"identity": identity_of(entry, record, identity)}
    parts = {PurePosixPath(entry.name).suffix[1:].lower(): entry.image.read()}
    parts["json"] = json.dumps(record).encode()
    return parts | ({"mask.png": entry.mask.read()} if entry.mask else {})


# ---- what every command that writes shards does before and after ----


def check_apart(
    source: str | PathLike[str] | Sequence[str | PathLike[str]], entries: Sequence[Entry], target: Path
) -> None:
    """Raises UsageError where shards would be written into the source, or the source be cleared for them."""
    place = target.resolve()
    sources = [source] if isinstance(source, (str, PathLike)) else source
    for folder in map(Path, sources):
        if folder.is_dir() and place.is_relative_to(folder.resolve()):
            raise UsageError(f"{target}: lies inside the source {folder}; choose a folder outside of it")
    if any(folder.resolve() == place for folder in {Path(entry.image.path).parent for entry in entries}):
        raise UsageError(f"{target}: files of the source are in it; choose another folder")


def plan_of(entries: Sequence[Entry], settings: dict[str, Any]) -> str:
    """Hex digest of everything that the shards depend on: names, sizes and times of the files, and settings."""
    files = sorted((Path(path).name, *state) for path, state in changed(entries).items())
    content = json.dumps([[entry.name for entry in entries], files, settings])
    return hashlib.sha256(content.encode()).hexdigest()


def clear(target: Path, plan: str, overwrite: bool, started: bool = False) -> dict[str, Any] | None:
    """The report in `target` if it is that of this plan; None where the work is to be done, the folder then cleared.

    A report whose shards are gone or of another size counts for nothing. `started`: there are traces of this very work,
    so that shards without a report are its own. Raises UsageError where the folder holds other shards and `overwrite`
    is false, or `target` is no folder.
    """
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target}: is no folder; name one")
    report = read_report(target)
    ours = report is not None and report.get("plan") == plan
    if report and ours and not overwrite and _is_whole(target, report):
        return report
    foreign = not ours and (report is not None or (not started and any(target.glob("*.tar"))))
    if foreign and not overwrite:
        raise UsageError(
            f"{target}: holds shards of another source or other options; name another folder or add --overwrite"
        )
    # What kill -9 left half written is of no use, pictures of other work would be untrue.
    stale = [target / name for name in (REPORT, "contact.jpg", "poses.png")]
    for path in [*stale, *target.glob(SHARD), *target.glob(".aboutface-*")]:
        path.unlink(missing_ok=True)
    return None


def _is_whole(target: Path, report: dict[str, Any]) -> bool:
    sizes = {path.name: path.stat().st_size for path in target.glob(SHARD)}
    return sizes == {shard["name"]: shard["bytes"] for shard in report["shards"]} and (target / DROPPED).is_file()


def read_report(target: Path) -> dict[str, Any] | None:
    """report.json of a folder; None where there is none, empty where it is broken."""
    try:
        content = json.loads((target / REPORT).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_report(
    target: Path, plan: str, content: dict[str, Any], dropped: list[dict[str, Any]], writer: ShardWriter
) -> dict[str, Any]:
    """Writes dropped.jsonl, and last report.json, which says that all is done; returns its content."""
    counts = dict(sorted(Counter(row["reason"] for row in dropped).items()))
    report = {"plan": plan} | content | {"dropped": counts, "shards": writer.shards}
    write_lines(target / DROPPED, dropped)
    with atomic_path(target / REPORT) as temporary:
        temporary.write_text(json.dumps(report, indent=1), "utf-8")
    return report


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """JSON lines, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
