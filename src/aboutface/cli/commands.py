"""The commands and their options. The sentence under a field is its help; `run` hands over to the parts that work.

This module is all that `--help` needs, so it imports nothing heavy.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from .bench_commands import Bench
from .data_commands import Data
from .gan_commands import Project, Sample
from .talk import Talk


def _value(metavar: str, *aliases: str) -> Any:
    """How a value that may be missing is shown: as its metavar, without "default: None"."""
    return arg(metavar=metavar, aliases=list(aliases) or None, help_behavior_hint=_no_none)


def _no_none(hint: str) -> str:
    return "" if "None" in hint or hint.strip() in ("(default: )", "(optional)") else hint


Photos = Annotated[Positional[tuple[str, ...]], _value("PHOTO")]
Output = Annotated[str | None, _value("PATH", "-o")]


@dataclass(frozen=True)
class Find:
    """Which face is meant, and what looks at it."""

    face: Annotated[str, arg(metavar="largest|all|INDEX")] = "largest"
    """Which face: the largest, all of them, or a number in the order of size, 0 being the largest."""
    landmarks: Annotated[str | None, _value("FILE")] = None
    """68 landmarks to use instead of detection: .txt, .pts, .npy, .npz, or the .json of an earlier result."""
    box: Annotated[str | None, _value("L,T,R,B|FILE")] = None
    """Box of the face in pixels (left, top, right, bottom), or a file of it, instead of detection."""
    detector: Literal["auto", "network", "dlib", "mediapipe"] = "auto"
    """What finds the face; auto is mediapipe where it is installed, else network (dlib's boxes)."""
    method: Annotated[str | None, _value("NAME|FILE")] = None
    """What makes the shape: a method, depthnet if missing, or a .safetensors file that aboutface train wrote."""
    quality: Literal["fast", "paper"] = "fast"
    """Of the method gan2shape, which works on each photo for minutes: ours, or the published schedule (hours on a CPU).
    What is stopped goes on, and what is done is kept, in outputs/NAME/."""
    device: Annotated[str, arg(metavar="auto|cpu|cuda")] = "auto"
    """Where gan2shape computes; all other methods compute on the CPU."""


@dataclass(frozen=True)
class Rotate:
    """Turn the head in a photo: `aboutface rotate me.jpg --yaw 30`.

        --yaw -30    --yaw 30     --pitch 20   --pitch -20  --roll 20
          .---.        .---.        .---.        .---.        .---.
         |- -  |      |  - -|      | - - |      |     |      |  / /|
         |<    |      |    >|      |  ^  |      | - - |      |   / |
         |=    |      |    =|      |  =  |      |  v  |      |=/   |
           '---'        '---'        '---'        '---'        '---'

    Degrees, as you see the picture: +yaw turns the face to your right, +pitch makes it look up, +roll tilts it
    clockwise. They say where the head is afterwards; an angle that is not given stays as it is in the photo.

    Pictures have the photo's size and go to outputs/NAME/. Existing files are overwritten.
    """

    photos: Photos = ()
    """One or more photos; - is standard input."""
    yaw: Annotated[str | None, _value("DEGREES")] = None
    """To your right (+) or left (-): 30, or several as -45,0,45 or -60:60:30 (from:to:step)."""
    pitch: Annotated[str | None, _value("DEGREES")] = None
    """Up (+) or down (-)."""
    roll: Annotated[str | None, _value("DEGREES")] = None
    """Clockwise (+) or counter-clockwise (-)."""
    relative: bool = False
    """Add the angles to the head's own pose."""
    sweep: Annotated[str | None, _value("AXIS=FROM:TO[:STEP]")] = None
    """A row of views, as yaw=-60:60:30; with -o turn.mp4, .gif or .webp a video."""
    refiner: Annotated[Literal["manifold"] | None, _value("manifold")] = None
    """manifold: the picture nearest to it that gan2shape's generator makes, a square of the generator's size."""
    output: Output = None
    """A file for one picture, else a folder; - is standard output."""
    format: Literal["png", "jpg", "webp", "tif"] = "png"
    """Type of the pictures, where -o names no file."""
    find: Find = field(default_factory=Find)
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .work import rotate

        return rotate(self)


@dataclass(frozen=True)
class Frontalize:
    """Turn the head to look straight ahead, upright: `aboutface frontalize me.jpg`.

    The picture has the photo's size and goes to outputs/NAME/. Existing files are overwritten.
    """

    photos: Photos = ()
    """One or more photos; - is standard input."""
    crop: bool = False
    """Write only an upright square around the face."""
    size: int = 224
    """Side of that square in pixels."""
    refiner: Annotated[Literal["manifold"] | None, _value("manifold")] = None
    """manifold: the picture nearest to it that gan2shape's generator makes, a square of the generator's size."""
    output: Output = None
    """A file for one picture, else a folder; - is standard output."""
    format: Literal["png", "jpg", "webp", "tif"] = "png"
    """Type of the pictures, where -o names no file."""
    find: Find = field(default_factory=Find)
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .work import frontalize

        return frontalize(self)


@dataclass(frozen=True)
class Animate:
    """Make a video of the head turning: `aboutface animate me.jpg -o turn.mp4`.

    An existing file is overwritten.
    """

    photo: Annotated[Positional[str], arg(metavar="PHOTO")]
    """The photo; - is standard input."""
    sweep: Annotated[str, arg(metavar="AXIS=FROM:TO[:STEP]")] = "yaw=-40:40"
    """From where to where, degrees; several axes as yaw=-40:40,pitch=-10:10. With STEP each frame is one step on."""
    seconds: float = 4.0
    """Length of the video, where the sweep has no STEP."""
    fps: float = 25.0
    """Frames per second."""
    there_and_back: bool = True
    """End where it began, so that the video can loop."""
    output: Output = None
    """A .mp4, .gif or .webp file, or a folder."""
    find: Find = field(default_factory=Find)
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .work import animate

        return animate(self)


@dataclass(frozen=True)
class Relight:
    """Put other light on the head in a photo: `aboutface relight me.jpg --light-azimuth 60 --light-elevation 20`.

    Degrees, as you see the picture: +azimuth is light from your right (90 from the side, beyond it from behind),
    +elevation light from above; both 0 is light from the camera. Or a light with a name: --light left.

    front, left, right, top, bottom, top-left, top-right, butterfly, rembrandt, split, rim-left, rim-right, flat

    Pictures have the photo's size and go to outputs/NAME/, with a sheet of before and after; what is around the head
    stays as it is. Existing files are overwritten.
    """

    photos: Photos = ()
    """One or more photos; - is standard input."""
    light_azimuth: Annotated[str | None, _value("DEGREES")] = None
    """From your right (+) or left (-), -180 to 180: 60, or several as -60,0,60 or -80:80:40 (from:to:step)."""
    light_elevation: Annotated[str | None, _value("DEGREES")] = None
    """From above (+) or below (-), -90 to 90."""
    light: Annotated[str | None, _value("NAME|FILE")] = None
    """A named light, several as left,right, a .json of 9 or 9 x 3 spherical harmonics (as DPR writes them), or the
    record of another result, whose photo's light is taken."""
    light_intensity: Annotated[float | None, _value("FLOAT")] = None
    """Strength of the lamp, 1.15 being usual."""
    ambient: Annotated[float | None, _value("FLOAT")] = None
    """Light from everywhere: how bright shadows are, 0.2 being usual."""
    shadows: bool = True
    """Let nose and brows cast shadows."""
    sweep: Annotated[str | None, _value("AXIS=FROM:TO[:STEP]")] = None
    """A video of the light moving, as azimuth=-80:80 or elevation=-40:80; -o names a .mp4, .gif or .webp file."""
    seconds: float = 4.0
    """Length of the video, where the sweep has no STEP."""
    fps: float = 25.0
    """Frames per second of the video."""
    there_and_back: bool = True
    """End the video where it began, so that it can loop."""
    output: Output = None
    """A file for one picture, else a folder; - is standard output."""
    format: Literal["png", "jpg", "webp", "tif"] = "png"
    """Type of the pictures, where -o names no file."""
    find: Find = field(default_factory=Find)
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .work import relight

        return relight(self)


@dataclass(frozen=True)
class Reconstruct:
    """Make the 3D shape: `aboutface reconstruct me.jpg -o me.glb`.

    Without -o, outputs/NAME/ also gets depth, normals, mask, albedo, shading, all numbers (.npz) and a preview. With
    a file's name, that file and its record are all that is written. Existing files are overwritten.

    Several photos of one person: `aboutface reconstruct a.jpg b.jpg c.jpg --same-person`. All get one shape, in which
    the photos count by how much they tell; each has its own pose, expression and light, and its own files.
    """

    photos: Photos = ()
    """One or more photos; - is standard input."""
    same_person: bool = False
    """All photos show one person, who has one shape. Methods: deep3d (unless another is named) and morphable."""
    output: Output = None
    """A .glb, .obj, .ply or .npz file for one face, or a .mat of the methods morphable and deep3d, else a folder."""
    format: Literal["glb", "obj", "ply", "npz"] = "glb"
    """Type of the shape, where -o names no file."""
    maps: bool = False
    """Beside a file that -o names, write depth, normals, mask, albedo, shading, numbers and preview, too."""
    find: Find = field(default_factory=Find)
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .work import reconstruct

        return reconstruct(self)


@dataclass(frozen=True)
class Swap:
    """Put one person's face on another photo: `aboutface swap -s a.jpg -t b.jpg -o c.png --consent`.

    The consent is written into the record beside the picture. An existing file is overwritten.
    """

    source: Annotated[str, arg(metavar="PHOTO", aliases=["-s"])]
    """The photo that the face comes from."""
    target: Annotated[str, arg(metavar="PHOTO", aliases=["-t"])]
    """The photo that is changed."""
    consent: bool = False
    """State that the people shown have agreed. Without it nothing is done."""
    source_face: Annotated[str, arg(metavar="largest|INDEX")] = "largest"
    """Which face of the source."""
    face: Annotated[str, arg(metavar="largest|INDEX")] = "largest"
    """Which face of the target."""
    output: Output = None
    """A file, else a folder; - is standard output."""
    format: Literal["png", "jpg", "webp", "tif"] = "png"
    """Type of the picture, where -o names no file."""
    detector: Literal["auto", "network", "dlib", "mediapipe"] = "auto"
    """What finds the faces; auto is mediapipe where it is installed, else network (dlib's boxes)."""
    method: Annotated[str, arg(metavar="NAME|FILE")] = "depthnet"
    """What makes the shape: a method, or a .safetensors file that aboutface train wrote."""
    device: Annotated[str, arg(metavar="auto|cpu")] = "auto"
    """Where to compute. This version has the CPU only."""
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .work import swap

        return swap(self)


@dataclass(frozen=True)
class Models:
    """Weights: what there is, under which licence, and whether it is here."""

    action: Positional[Literal["list", "info", "path", "verify", "download", "add", "remove", "convert"]]
    """list: all. info, path: of one. verify: hash of one, or of all that are here. download: get one. add: check a face
    model's own files (bfm09, bfm17, bfm19, flame, ict) and keep them as one. remove: delete one that was downloaded or
    added. convert: make one npz file of a face model's folder of obj files; or of another code's StyleGAN2 (.pt of
    rosinality, .pkl of NVlabs, .safetensors), and the other way."""
    name: Annotated[Positional[str | None], _value("NAME")] = None
    """Name of the weights, as in the list; for convert the folder FaceXModel of ICT-FaceKit, or a StyleGAN2's file."""
    files: Annotated[Positional[tuple[str, ...]], _value("FILE")] = ()
    """For add: the model's files, or a folder of them."""
    output: Output = None
    """For convert: the file to write: of a StyleGAN2 .safetensors, .pt (rosinality) or .pkl (NVlabs); of a face model
    .npz, ict-facekit-light.npz in $ABOUTFACE_DATA, else here, if missing."""
    partial: bool = False
    """For convert and add ict: take a folder that lacks identities or expressions."""
    accept_license: Annotated[tuple[str, ...], _value("NAME")] = ()
    """Names of weights whose licence you have read and accept."""
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .models import models

        return models(self)


@dataclass(frozen=True)
class Doctor:
    """Say whether everything works here: versions, models, folders, a self-test."""

    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .doctor import doctor

        return doctor(self)


@dataclass(frozen=True)
class Train:
    """Train a method on your own data: `aboutface train depthnet --data DIR`.

    Goes to runs/DATA/METHOD/DATE/: config.yml, checkpoints, metrics.jsonl, TensorBoard's events, and at the end the
    weights. Ctrl-C writes a checkpoint first; --resume auto goes on from it.
    """

    data: Annotated[str, arg(metavar="PATH")]
    """The training data: a folder, a tar, an .npz of landmarks; each method says what it reads."""
    config: Annotated[str | None, _value("FILE")] = None
    """A .yml file with settings, as in a run's config.yml; options on the command line go before it."""
    resume: Annotated[str | None, _value("auto|RUN|FILE")] = None
    """Go on: auto the newest run of this method and data, else a run's folder or a checkpoint."""
    runs: Annotated[str, arg(metavar="DIR")] = "runs"
    """Folder of all runs."""
    output: Output = None
    """The .safetensors file to write; in the run's folder if missing."""
    talk: Talk = field(default_factory=Talk)


COMMANDS: dict[str, type] = {
    "rotate": Rotate,
    "frontalize": Frontalize,
    "relight": Relight,
    "animate": Animate,
    "reconstruct": Reconstruct,
    "swap": Swap,
    "sample": Sample,
    "project": Project,
    "models": Models,
    "doctor": Doctor,
    "data": Data,
    "train": Train,
    "bench": Bench,
}
