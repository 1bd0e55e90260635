"""`aboutface data ...` and its options. The sentence under a field is its help. Imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg, subcommand

from ..recipes.prepare_settings import PrepareSettings
from ..recipes.synth.settings import SynthSettings
from .talk import Talk


def _path(metavar: str, *aliases: str):
    return arg(metavar=metavar, aliases=list(aliases) or None, help_behavior_hint="")


@dataclass(frozen=True)
class DataPrepare:
    """Photos to shards of face crops with landmarks, masks, pose, quality: `aboutface data prepare photos/ faces/`.

    DST gets 000000.tar ..., report.json, dropped.jsonl, duplicates.jsonl, poses.png, contact.jpg. An interrupted run is
    continued by the same command. The exit code is 1 where a photo could not be read, or no face was kept.
    """

    source: Annotated[Positional[str], arg(metavar="SRC")]
    """A folder with all below it, a .tar, a glob in quotes, or a .txt list of these."""
    target: Annotated[Positional[Path], arg(metavar="DST")]
    """The folder to write."""
    settings: PrepareSettings = field(default_factory=PrepareSettings)
    workers: int = 1
    """Processes. The result does not depend on it."""
    seed: int = 0
    """Chooses the examples on the contact sheet."""
    overwrite: bool = False
    """Make DST anew."""
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .data import prepare

        return prepare(self)


@dataclass(frozen=True)
class DataCheck:
    """Read all of a data set and print one line per problem; exit code 1 if there is any."""

    source: Annotated[Positional[str], arg(metavar="PATH")]
    """A folder of shards, a .tar or a tree of pictures."""
    slack: float = 0.5
    """How far landmarks may lie outside the picture, in its sizes."""
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .data import check

        return check(self)


@dataclass(frozen=True)
class DataStats:
    """Count and draw what is in a data set: table, histograms, contact sheet."""

    source: Annotated[Positional[str], arg(metavar="PATH")]
    """A folder of shards, a .tar or a tree of pictures."""
    output: Annotated[Path | None, _path("DIR", "-o")] = None
    """Folder for stats.json, histograms.png and contact.jpg; outputs/NAME-stats if missing."""
    sheet: int = 48
    """Examples on the contact sheet."""
    seed: int = 0
    """Chooses them."""
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .data import stats

        return stats(self)


@dataclass(frozen=True)
class DataShard:
    """Pack pictures into shards as they are, without looking for faces: `aboutface data shard crops/ shards/`."""

    source: Annotated[Positional[str], arg(metavar="SRC")]
    """A folder with all below it, a .tar, a glob in quotes, or a .txt list of these."""
    target: Annotated[Positional[Path], arg(metavar="DST")]
    """The folder to write."""
    shard: int = 1000
    """Examples per shard."""
    identity: Literal["folder", "lfw", "none"] = "none"
    """What names the person, where no side file does: the picture's folder, or its name First_Last_0001."""
    overwrite: bool = False
    """Make DST anew."""
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .data import shard

        return shard(self)


@dataclass(frozen=True)
class DataSynth:
    """Render faces of a morphable model with exact truth: `aboutface data synth faces --seed 0 --n 10000 --out DIR`.

    DIR gets train/, val/ and test/ with shards 000000.tar ..., card.json, README.md, shards.json. Beside the images lie
    depth, normals, albedo, mask, view, light, 68 landmarks and which are visible. The same options make the same bytes.
    An interrupted run is continued by the same command.
    """

    kind: Positional[Literal["faces"]]
    """What is made."""
    output: Annotated[Path, arg(name="out", metavar="DIR", aliases=["-o", "--output"])]
    """The folder to write."""
    model: Annotated[str, arg(metavar="ict|PATH")] = "ict"
    """The morphable model: ict is $ABOUTFACE_DATA/ict-facekit-light.npz; else such a file, or the folder FaceXModel."""
    settings: SynthSettings = field(default_factory=SynthSettings)
    workers: int = 2
    """Processes. The result does not depend on it."""
    overwrite: bool = False
    """Make DIR anew."""
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .data import synth

        return synth(self)


@dataclass(frozen=True)
class Data:
    """Make, check, describe and pack training data: `aboutface data prepare photos/ faces/`."""

    action: (
        Annotated[DataPrepare, subcommand("prepare", prefix_name=False)]
        | Annotated[DataCheck, subcommand("check", prefix_name=False)]
        | Annotated[DataStats, subcommand("stats", prefix_name=False)]
        | Annotated[DataShard, subcommand("shard", prefix_name=False)]
        | Annotated[DataSynth, subcommand("synth", prefix_name=False)]
    )

    def run(self) -> int:
        return self.action.run()
