"""`aboutface doctor`: does everything work on this machine, and if not, which line mends it."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .. import __version__, weights
from ..errors import AboutfaceError
from .commands import Doctor
from .report import Report, device_words

EXTRAS = {
    "mesh": ("trimesh",),
    "video": ("av",),
    "heif": ("pillow_heif",),
    "mediapipe": ("mediapipe",),
    "train": ("tensorboard", "lightning_fabric", "matplotlib"),
    "web": ("gradio",),
    "batch": ("ray",),
    "cuda": ("warp",),
    "onnx": ("onnxruntime",),
    "morphable": ("scipy", "h5py"),
}
"""Modules of each extra in pyproject.toml."""
LEAST_SPACE = 200_000_000

Finding = tuple[bool | None, str]
"""Whether it is well (None: neither, only worth knowing), and what to say."""


def doctor(command: Doctor) -> int:
    report = Report(command.talk)
    wrong = 0
    for check in (versions, device, models, extras, space, renderer, reconstruction):
        for good, text in _careful(check):
            wrong += good is False
            report.data({"check": check.__name__, "ok": good, "message": text})
            if not report.talk.json_lines and (good is False or not report.talk.quiet):
                print(f"{ {True: 'ok  ', False: 'BAD ', None: '-   '}[good] } {text}")
    report.say("everything works" if not wrong else f"{wrong} thing{'s' if wrong > 1 else ''} to mend, marked BAD")
    return 1 if wrong else 0


def _careful(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check that breaks is a finding, too."""
    try:
        yield from check()
    except Exception as error:
        yield False, f"{check.__name__}: {type(error).__name__}: {error}"


def versions() -> Iterator[Finding]:
    yield True, f"aboutface {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    packages = (
        "torch",
        "numpy",
        "numba",
        "pillow",
        "opencv-python-headless",
        "dlib-bin",
        "safetensors",
        "tyro",
        "rich",
    )
    found, absent = [], []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            absent.append(package)
    yield True, ", ".join(found)
    for module in ("cv2", "dlib"):
        # They may be there under other names of the package, and be broken although they are there.
        importlib.import_module(module)
    if absent:
        yield None, f"not installed under this name: {', '.join(absent)}"


def device() -> Iterator[Finding]:
    import torch

    yield True, f"computes on the {device_words('cpu')}, of {os.cpu_count()} processors"
    if torch.cuda.is_available():
        yield None, f"there is a GPU ({torch.cuda.get_device_name(0)}); this version does not use it"


def models() -> Iterator[Finding]:
    for name, record in weights.REGISTRY.items():
        if record.optional and not record.present:
            yield None, f"weights {name}: not here; {record.remedy}"
            continue
        try:
            digest = weights.verify(name)
        except AboutfaceError as error:
            yield False, str(error)
            continue
        yield True, f"weights {name}: sha256 {digest[:12]}, {record.licence}"


def extras() -> Iterator[Finding]:
    for extra, modules in EXTRAS.items():
        absent = [module for module in modules if importlib.util.find_spec(module) is None]
        if absent:
            yield None, f"extra {extra}: {', '.join(absent)} absent; pip install 'aboutface[{extra}]'"
        else:
            yield True, f"extra {extra}: {', '.join(modules)}"


def space() -> Iterator[Finding]:
    for what, folder in (("folder for downloads", weights.home()), ("this folder", Path())):
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            remedy = "set ABOUTFACE_HOME to another one" if folder != Path() else "work in another one, or use -o"
            yield False, f"{what} {folder.absolute()}: cannot be written ({error.strerror}); {remedy}"
            continue
        free = shutil.disk_usage(existing).free
        enough = True if free > LEAST_SPACE else None
        yield enough, f"{what} {folder.absolute()}: writable, {free / 1e9:.1f} GB free"


def renderer() -> Iterator[Finding]:
    """A square of known size, drawn."""
    import torch

    from ..render import backends, render
    from ..scene import Camera, Mesh, Scene

    corners = torch.tensor([[-0.25, -0.25, 1.0], [0.25, -0.25, 1.0], [-0.25, 0.25, 1.0], [0.25, 0.25, 1.0]])
    camera = Camera(torch.tensor([[64.0, 0, 32], [0, 64, 32], [0, 0, 1]]), 64, 64)
    square = Mesh(corners, torch.tensor([[0, 1, 2], [2, 1, 3]]), corners[:, :2] * 2 + 0.5)
    drawn = render(Scene(square, torch.full((3, 4, 4), 0.5), camera))
    expected = torch.zeros(64, 64)
    expected[16:48, 16:48] = 1
    good = torch.equal(drawn.alpha, expected) and bool((drawn.depth - expected).abs().max() < 1e-5)
    name = backends.choose("auto", torch.device("cpu"))
    yield good, f"self-test: the renderer ({name}) draws a square " + ("as it should be" if good else "wrongly")


def reconstruction() -> Iterator[Finding]:
    """The mean face, seen at known poses, gets these poses from the network's path."""
    import numpy as np

    from ..face import Face
    from ..images import read_photo
    from ..morphable import MeanHead
    from ..reconstruct import reconstructor
    from ..scene import Pose

    photo = read_photo(np.full((400, 400, 3), 128, np.uint8))
    method = reconstructor("depthnet")
    mean = MeanHead.load().landmarks
    farthest = 0.0
    for pose in (Pose(0, 0, 0), Pose(20, 0, 0), Pose(-20, 10, 5)):
        points = ((mean @ pose.rotation().mT)[:, :2] + 200).double().numpy()
        box = (*points.min(0).tolist(), *points.max(0).tolist())
        found = method(photo, Face(points, box)).pose
        farthest = max(farthest, *(abs(a - b) for a, b in zip(found, pose, strict=True)))
    yield farthest < 1, f"self-test: the mean face's pose is found within {farthest:.2f} degrees"
