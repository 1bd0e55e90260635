"""Writing shards: tars of a thousand examples, the same bytes each time, each written whole or not at all."""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

from ..files import atomic_path

Members = Sequence[tuple[str, bytes]]
"""Names in the tar and contents."""


def write_tar(path: str | PathLike[str], members: Iterable[tuple[str, bytes]]) -> None:
    """A tar without time, owner or other accidents, so that equal contents make equal files. Raises OutputError."""
    with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def safe_key(name: str) -> str:
    """A key of letters, digits, - and _ from a name with any characters; different names have different keys.

    WebDataset takes what follows the first dot for the suffix, so a key has none.
    """
    words = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60]
    return f"{words}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:10]}"


class ShardWriter:
    """Fills 000000.tar, 000001.tar ... of a folder. Call `finish` at the end; it holds one shard in memory."""

    def __init__(self, folder: str | PathLike[str], examples: int = 1000, most_bytes: int = 2**28) -> None:
        """Args: examples, most_bytes: a shard is full when it has so many of either."""
        if examples < 1:
            raise ValueError(f"examples: expected at least 1 per shard, got {examples}")
        self.folder = Path(folder)
        self.examples, self.most_bytes = examples, most_bytes
        self.shards: list[dict[str, str | int]] = []
        """Name, number of examples, bytes and sha256 of every shard that is written."""
        self._members: list[tuple[str, bytes]] = []
        self._count = self._bytes = 0

    def add(self, key: str, parts: dict[str, bytes]) -> None:
        """One example: contents by suffix, as {"jpg": ..., "json": ...}."""
        self._members += [(f"{key}.{suffix}", content) for suffix, content in sorted(parts.items())]
        self._count += 1
        self._bytes += sum(map(len, parts.values()))
        if self._count >= self.examples or self._bytes >= self.most_bytes:
            self.finish()

    def finish(self) -> None:
        """Write what is left."""
        if not self._count:
            return
        path = self.folder / f"{len(self.shards):06d}.tar"
        write_tar(path, self._members)
        self.shards.append(
            {"name": path.name, "examples": self._count, "bytes": path.stat().st_size, "sha256": file_hash(path)}
        )
        self._members = []
        self._count = self._bytes = 0


def file_hash(path: str | PathLike[str]) -> str:
    """sha256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
