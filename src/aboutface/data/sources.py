"""Where examples lie: trees of pictures, tars and lists become one list of entries. Nothing is unpacked or decoded.

An entry is a picture `KEY.jpg` (or another suffix) and, where they exist, `KEY.json` and `KEY.mask.png` beside it, in a
folder or in a tar (the layout of WebDataset).
"""

import glob
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from ..errors import UsageError
from ..files import reason

PICTURES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".png",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".gif",
        ".heic",
        ".heif",
        ".avif",
        ".jp2",
        ".ppm",
        ".pgm",
    }
)
"""Suffixes that `images` may be able to read."""
LISTS = frozenset({".txt", ".lst", ".list"})
MASK = ".mask.png"
REPORT = "report.json"
"""Marks a folder that `data prepare` or `data shard` finished: only its tars are examples."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a file. Opened for each reading, so that threads and processes may share it."""

    path: str
    offset: int = 0
    size: int = -1
    """Bytes; -1 is the whole file."""

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture and what lies beside it."""

    name: str
    """Unique within its source: path below the folder, or `shard.tar/member`, with slashes."""
    image: Piece
    side: Piece | None = None
    mask: Piece | None = None

    @property
    def key(self) -> str:
        """The name without its suffix."""
        return str(PurePosixPath(self.name).with_suffix(""))


@dataclass
class Found:
    """What a source holds, in the order of its names."""

    entries: list[Entry] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    """Name of a tar, file or member that cannot be used -> why."""
    ignored: Counter[str] = field(default_factory=Counter)
    """How many files of each suffix are neither pictures nor belong to one."""
    others: dict[str, Piece] = field(default_factory=dict)
    """These files, by name."""

    def add(self, other: "Found") -> None:
        self.entries += other.entries
        self.bad |= other.bad
        self.ignored += other.ignored
        self.others |= other.others


def find_entries(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Found:
    """The entries of a folder (with all below it, tars included), a tar, a picture, a glob, a list file, or several.

    A list file (.txt, .lst) names one such source per line, relative to its own folder. Names that begin with a dot
    are left out, links to folders are not followed. What is named twice is there once. Raises UsageError where the
    place does not exist or is nothing of that.
    """
    is_one = isinstance(source, (str, os.PathLike))
    found = _of(Path(source)) if is_one else _joined([Path(part) for part in source])
    found.entries = list({entry.name: entry for entry in found.entries}.values())
    return found


def _joined(paths: Iterable[Path], base: Path | None = None) -> Found:
    """Several sources; each one's names get its own path in front, so that they stay apart."""
    found = Found()
    for path in paths:
        place = base / path if base else path
        part = _of(place)

        def renamed(name: str, path: Path = path, is_folder: bool = place.is_dir()) -> str:
            # Below a file the names begin with its own: a picture's, or a tar's before those of its members.
            return f"{path.as_posix()}/{name}" if is_folder else path.as_posix() + name.removeprefix(path.name)

        part.entries = [replace(entry, name=renamed(entry.name)) for entry in part.entries]
        part.bad = {renamed(name): why for name, why in part.bad.items()}
        part.others = {renamed(name): piece for name, piece in part.others.items()}
        found.add(part)
    return found


def _of(path: Path) -> Found:
    suffix = path.suffix.lower()
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(str(path)) else []
        if not matches:
            raise UsageError(f"{path}: nothing is there; give a folder, a .tar, a glob or a list of pictures")
        return _joined(map(Path, matches))
    if suffix == ".tar":
        return _tar(path, path.name)
    if suffix in LISTS:
        lines = [line.strip() for line in path.read_text("utf-8-sig", errors="surrogateescape").splitlines()]
        return _listed([line for line in lines if line and not line.startswith("#")], path.parent)
    if suffix in PICTURES:
        return _grouped({path.name: Piece(str(path))} | _beside(path))
    if suffix == ".npz":
        raise UsageError(f"{path}: holds no pictures; aboutface.data.load_landmarks reads landmarks")
    raise UsageError(f"{path}: expected a folder, a .tar (not compressed), a list file or a picture, got {suffix!r}")


def _listed(lines: list[str], base: Path) -> Found:
    """The sources of a list file: a line that leads nowhere costs only itself."""
    found = Found()
    for line in lines:
        try:
            found.add(_joined([Path(line)], base))
        except UsageError as error:
            found.bad[line] = str(error)
    return found


def _beside(path: Path) -> dict[str, Piece]:
    others = [path.with_suffix(".json"), path.with_suffix(MASK)]
    return {other.name: Piece(str(other)) for other in others if other.is_file()}


def _folder(folder: Path) -> Found:
    if (folder / REPORT).is_file() and (tars := sorted(folder.glob("[!.]*.tar"))):
        found = Found()
        for tar in tars:
            found.add(_tar(tar, tar.name))
        return found
    pieces: dict[str, Piece] = {}
    found = Found()

    def unreadable(error: OSError) -> None:
        found.bad[str(error.filename)] = f"the folder cannot be read ({reason(error)})"

    for place, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if links := sum(os.path.islink(os.path.join(place, name)) for name in folders):
            found.ignored["(linked folder)"] += links
        for file in sorted(name for name in files if not name.startswith(".")):
            path = Path(place, file)
            name = path.relative_to(folder).as_posix()
            if path.suffix.lower() == ".tar":
                found.add(_tar(path, name))
            else:
                pieces[name] = Piece(str(path))
    found.add(_grouped(pieces))
    found.entries.sort(key=lambda entry: entry.name)
    return found


def _tar(path: Path, name: str) -> Found:
    """The members of a tar; of a damaged one those before the damage."""
    pieces: dict[str, Piece] = {}
    bad: dict[str, str] = {}
    size = end = 0
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if not member.isreg() or PurePosixPath(member.name).name.startswith("."):
                    continue
                label = f"{name}/{member.name.removeprefix('./')}"
                if label in pieces:
                    bad[label] = "the tar has two members of this name; the first one is used"
                elif member.offset_data + member.size <= size:
                    pieces[label] = Piece(str(path), member.offset_data, member.size)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        bad[name] = _damage(end, size, reason(error))
    else:
        # tarfile takes any header it cannot read for the end, without a word.
        if any(Piece(str(path), end, tarfile.BLOCKSIZE).read()) or size < end + tarfile.BLOCKSIZE:
            bad[name] = _damage(end, size, "no end mark where the next member would be")
    found = _grouped(pieces)
    found.bad |= bad
    return found


def _damage(end: int, size: int, why: str) -> str:
    lost = f"its last {size - end} of {size} bytes" if end < size else "its last member"
    return f"the tar is truncated or damaged ({why})" + (f": {lost} cannot be used" if size else "")


def _grouped(pieces: dict[str, Piece]) -> Found:
    """Pictures with what belongs to them."""
    found = Found()
    used: set[str] = set()
    for name, piece in pieces.items():
        path = PurePosixPath(name)
        if path.suffix.lower() in PICTURES and not name.lower().endswith(MASK):
            side, mask = str(path.with_suffix(".json")), str(path.with_suffix(MASK))
            used |= {name, side, mask}
            found.entries.append(Entry(name, piece, pieces.get(side), pieces.get(mask)))
    found.others = {name: piece for name, piece in pieces.items() if name not in used}
    found.ignored.update(PurePosixPath(name).suffix.lower() or "(none)" for name in found.others)
    return found


def changed(entries: Sequence[Entry]) -> dict[str, tuple[int, int]]:
    """Size in bytes and time of change (ns) of every file that holds an entry, by path; zeros for one that is gone."""
    paths = {piece.path for entry in entries for piece in (entry.image, entry.side, entry.mask) if piece}
    states: dict[str, tuple[int, int]] = {}
    for path in sorted(paths):
        try:
            status = os.stat(path)
        except OSError:
            states[path] = (0, 0)
        else:
            states[path] = (status.st_size, status.st_mtime_ns)
    return states
