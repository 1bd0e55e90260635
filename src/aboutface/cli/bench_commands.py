"""The command `bench` and its options. Like `commands`, it imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from .talk import Talk


@dataclass(frozen=True)
class Bench:
    """Repeat a published experiment and compare: `aboutface bench depthnets`.

    depthnets: Tables 1 to 3 and Figures 1 to 3 of DepthNets (NeurIPS 2018) on open data, which the folder named by
    ABOUTFACE_DATA holds: ytf68-train.tar and aflw2000-3d-landmarks.npz.

    Writes results.json, tables.md, tables.tex, the figures and the trained models.
    """

    name: Positional[Literal["depthnets"]]
    """Which experiment."""
    check: bool = False
    """Say of every goal whether it is met; exit code 1 if one is not."""
    data: Annotated[Path | None, arg(metavar="NPZ|DIR", help_behavior_hint="")] = None
    """Another file of 3D landmarks (points (N, 68, 3), perhaps yaw_deg), or another data folder."""
    only: Literal["table1", "table3", "all"] = "all"
    """One table (table3 includes Table 2)."""
    seeds: int = 3
    """How many splits and initial weights."""
    frame: float = 450.0
    """Side in pixels of the pictures that the 3D landmarks belong to."""
    quick: bool = False
    """A smoke run on few faces; its numbers mean nothing."""
    retrain: bool = False
    """Train anew what an earlier run has left in the output folder."""
    output: Annotated[Path, arg(metavar="DIR", aliases=["-o"])] = Path("runs/bench/depthnets")
    """Folder of the results."""
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .bench import bench

        return bench(self)
