"""The command `bench` and its options. Like `commands`, it imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg, subcommand

from .talk import Talk


@dataclass(frozen=True)
class BenchDepthnets:
    """Tables 1 to 3 and Figures 1 to 3 of DepthNets (NeurIPS 2018) on open data: `aboutface bench depthnets`.

    The folder named by ABOUTFACE_DATA holds them: ytf68-train.tar and aflw2000-3d-landmarks.npz.

    Writes results.json, tables.md, tables.tex, the figures and the trained models.
    """

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
        from .bench import bench_depthnets

        return bench_depthnets(self)


@dataclass(frozen=True)
class BenchSynface:
    """Table 1 of Unsup3d and GAN2Shape on synthetic faces with exact truth: `aboutface bench synface --data DIR`.

    DIR is what `aboutface data synth faces` wrote. Compares flat and average depth, a supervised network, Unsup3d as
    published and improved, with and without symmetry and without each change of ours, and any reconstructor.

    Writes results.json, tables.md, tables.tex, faces.png and the trained models. What is interrupted goes on when the
    command is given again.
    """

    data: Annotated[Path, arg(metavar="DIR", help_behavior_hint="")]
    """Folder with the splits train and test."""
    check: bool = False
    """Say of every goal whether it is met; exit code 1 if one is not."""
    method: Annotated[tuple[str, ...], arg(metavar="NAME|FILE ...", help_behavior_hint="")] = ()
    """Reconstructors to compare, or files of weights that train wrote. gan2shape: its rows of Tables 1 and 2, each a
    joint training against --gan."""
    gan: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Weights of a StyleGAN2 of the training images, for --method gan2shape."""
    targets: int = 200
    """Training images that gan2shape learns from; each is projected onto the generator's manifold first."""
    samples: int = 0
    """Let gan2shape learn from so many of the generator's own pictures instead."""
    tuned: int = 0
    """Also fit gan2shape to so many test images one by one, as published: more rows, of these images alone."""
    curve: bool = False
    """Also train its published schedule and ours side by side, scored on the way: curve.png and a table."""
    rows: Annotated[tuple[str, ...], arg(metavar="ROW ...", help_behavior_hint="")] = ()
    """Networks to train and show, by name; all if missing. `--rows flat` trains none."""
    steps: int | None = None
    """Training steps of every network; the recipe's own if missing."""
    width: int | None = None
    """Channels of the networks' outermost level; published are 64."""
    batch: int | None = None
    """Images per training step; published are 64."""
    seeds: int = 1
    """How many initial weights and orders of the images."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    transcription: Annotated[Path | None, arg(metavar="JSON", help_behavior_hint="")] = None
    """Scores of a transcription of the original code on the same test images: its row."""
    quick: bool = False
    """A smoke run on few faces with tiny networks; its numbers mean nothing."""
    retrain: bool = False
    """Train anew what an earlier run has left in the output folder."""
    output: Annotated[Path, arg(metavar="DIR", aliases=["-o"])] = Path("runs/bench/synface")
    """Folder of the results."""
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .bench import bench_synface

        return bench_synface(self)


@dataclass(frozen=True)
class BenchMorphable:
    """How far fitted faces lie from true ones, in millimetres: `aboutface bench morphable --data DIR`.

    DIR is what `aboutface data synth faces` wrote; with --images-per-identity 10 also sets of photos are fitted.
    Compares the mean head, depthnet's, the face model fitted to landmarks, and to colours as well, and with --method
    what the Deep3D network says of it.

    Writes results.json, tables.md and tables.tex.
    """

    data: Annotated[Path, arg(metavar="DIR", help_behavior_hint="")]
    """Folder with the split test."""
    check: bool = False
    """Say of every goal whether it is met; exit code 1 if one is not."""
    faces: int = 100
    """Most people of the split that are fitted."""
    noise: float = 1.5
    """Standard deviation of the landmarks' errors, millimetres on the face."""
    method: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Weights of the small Deep3D network, which join as a row."""
    sets: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Weights of its confidences in the photos of a set, from `aboutface train deep3d-sets`."""
    people: Annotated[Path | None, arg(metavar="TAR|DIR", help_behavior_hint="")] = None
    """Real faces with names and landmarks (ytf68-train.tar): do two sets of photos of a person give one shape?"""
    output: Annotated[Path, arg(metavar="DIR", aliases=["-o"])] = Path("runs/bench/morphable")
    """Folder of the results."""
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .bench import bench_morphable

        return bench_morphable(self)


@dataclass(frozen=True)
class BenchLandmarks:
    """How far found landmarks lie from annotated ones: `aboutface bench landmarks --data TAR`.

    TAR is a folder or tar of face crops with landmarks and names (ytf68-train.tar). People that training keeps aside.

    Writes results.json, tables.md and tables.tex.
    """

    data: Annotated[Path, arg(metavar="TAR|DIR", help_behavior_hint="")]
    """Face crops with 68 landmarks and the names of the people."""
    check: bool = False
    """Say of every goal whether it is met; exit code 1 if one is not. For --method only."""
    method: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Weights of the small Deep3D network, which join as a row."""
    limit: int | None = None
    """At most so many faces."""
    output: Annotated[Path, arg(metavar="DIR", aliases=["-o"])] = Path("runs/bench/landmarks")
    """Folder of the results."""
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .bench import bench_landmarks

        return bench_landmarks(self)


@dataclass(frozen=True)
class BenchIdentity:
    """Table 3 of GAN2Shape: does a turned face stay the same person? `aboutface bench identity`.

    Faces of a generator, turned within 20 degrees by the recovered surface (3D and through the generator), and by walks
    along the generator's own directions (GANSpace, SeFa); the angle between embeddings of the frontal and other views.

    Writes results.json, tables.md, tables.tex and faces.png.
    """

    check: bool = False
    """Say of every goal whether it is met; exit code 1 if one is not."""
    method: Annotated[str, arg(metavar="NAME|FILE", help_behavior_hint="(default: gan2shape)")] = "gan2shape"
    """Weights that aboutface train gan2shape wrote."""
    faces: int = 100
    """Random faces of the generator."""
    quality: Literal["joint", "fast", "paper"] = "joint"
    """joint: the networks as they were trained together; fast, paper: fitted anew to each face."""
    recognition: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """ArcFace's IResNet-50 (backbone.pth), if you have it; else dlib's embedding."""
    rows: Annotated[tuple[str, ...], arg(metavar="ROW ...", help_behavior_hint="")] = ()
    """3d, gan, ganspace, sefa; all if missing."""
    seed: int = 0
    """Of the random faces."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps: where models are fitted."""
    output: Annotated[Path, arg(metavar="DIR", aliases=["-o"])] = Path("runs/bench/identity")
    """Folder of the results."""
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .bench import bench_identity

        return bench_identity(self)


@dataclass(frozen=True)
class Bench:
    """Repeat a published experiment and compare: `aboutface bench depthnets`, `aboutface bench synface --data DIR`."""

    name: (
        Annotated[BenchDepthnets, subcommand("depthnets", prefix_name=False)]
        | Annotated[BenchSynface, subcommand("synface", prefix_name=False)]
        | Annotated[BenchMorphable, subcommand("morphable", prefix_name=False)]
        | Annotated[BenchLandmarks, subcommand("landmarks", prefix_name=False)]
        | Annotated[BenchIdentity, subcommand("identity", prefix_name=False)]
    )

    def run(self) -> int:
        return self.name.run()
