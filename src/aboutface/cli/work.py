"""The verbs behind the commands. Importing this imports torch."""

import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..detect import choose
from ..edit import Pipeline, expand_angles
from ..edit.objects import check_no_face
from ..edit.person import distinct_names
from ..edit.pipeline import usual_method
from ..edit.result import Subject
from ..edit.save import (
    PICTURE_SUFFIXES,
    SHAPE_SUFFIXES,
    Place,
    Saved,
    save_light_sweep,
    save_reconstruction,
    save_result,
    save_turntable,
)
from ..edit.verbs import sweep_poses, sweep_times
from ..errors import AboutfaceError, ConsentError, PhotoError, UsageError
from ..export import VIDEO_SUFFIXES
from ..fit import find_device
from ..images import Photo, read_photo
from ..reconstruct import Effort, optimises
from ..relight import Asked, asked_lights
from ..scene import Pose
from .arguments import LIGHT_AXES, Sweep, check_device, parse_angles, parse_box, parse_face, parse_sweep
from .commands import Animate, Find, Frontalize, Reconstruct, Relight, Rotate, Swap
from .report import Report
from .talk import Talk

OUTPUTS = Path("outputs")
LARGEST_CROP = 4096

Job = Callable[[Photo, Place, dict[str, float]], Iterable[Saved]]
"""Does one photo: what it is, where results go, seconds so far; one Saved per face."""


def rotate(command: Rotate) -> int:
    sweep = None if command.sweep is None else parse_sweep(command.sweep)
    if sweep and Path(command.output or "").suffix.lower() in VIDEO_SUFFIXES:
        return _rotate_as_video(command, sweep)
    yaw, pitch, roll = (parse_angles(text, axis) for axis, text in _asked(command).items())
    if sweep:
        if _given(command):
            raise UsageError("--sweep sets the angles: leave --yaw, --pitch and --roll out")
        yaw, pitch, roll = (sweep.angles().get(axis) for axis in ("yaw", "pitch", "roll"))
    elif not _given(command):
        raise UsageError("say where the head turns to, for example --yaw 30 (see aboutface rotate --help)")
    expand_angles(yaw, pitch, roll)  # fails before any photo is read
    pipeline, options = _prepare(command.find, command.photos, command.talk)

    def job(photo: Photo, place: Place, seconds: dict[str, float]) -> Iterator[Saved]:
        results = pipeline.rotate(
            photo, yaw, pitch, roll, relative=command.relative, refiner=command.refiner, **options
        )
        _check_count(place, len(results))
        for result in results:
            yield save_result(result, place, format=command.format, keep=[photo.path], seconds=seconds)

    return _each(command.photos, command.output, PICTURE_SUFFIXES, job, command.talk)


def frontalize(command: Frontalize) -> int:
    if not 16 <= command.size <= LARGEST_CROP:
        raise UsageError(f"--size {command.size}: expected 16 to {LARGEST_CROP} pixels")
    crop = command.size if command.crop else None
    if crop and command.refiner:
        raise UsageError(f"--crop: the refiner {command.refiner} gives a square already; leave one of them out")
    pipeline, options = _prepare(command.find, command.photos, command.talk)

    def job(photo: Photo, place: Place, seconds: dict[str, float]) -> Iterator[Saved]:
        results = pipeline.frontalize(photo, refiner=command.refiner, **options)
        _check_count(place, len(results))
        for result in results:
            sidecar = result.names[0]
            keep = [photo.path]
            yield save_result(
                result, place, format=command.format, sidecar=sidecar, crop=crop, keep=keep, seconds=seconds
            )

    return _each(command.photos, command.output, PICTURE_SUFFIXES, job, command.talk)


def reconstruct(command: Reconstruct) -> int:
    if command.same_person:
        return _reconstruct_person(command)
    pipeline, options = _prepare(command.find, command.photos, command.talk)

    def job(photo: Photo, place: Place, seconds: dict[str, float]) -> Iterator[Saved]:
        shapes = pipeline.reconstruct(photo, **options)
        _check_count(place, len(shapes))
        for shape in shapes:
            keep = [photo.path]
            yield save_reconstruction(
                shape, place, format=command.format, maps=command.maps, keep=keep, seconds=seconds
            )

    return _each(command.photos, command.output, SHAPE_SUFFIXES, job, command.talk)


def _reconstruct_person(command: Reconstruct) -> int:
    pipeline, options = _prepare(command.find, command.photos, command.talk, together=True)
    place, report = _begin(command.photos, command.output, SHAPE_SUFFIXES, command.talk)
    pipeline.check_person(options["face"], len(command.photos))
    shapes = pipeline.shapes_of_person(command.photos, **options)
    keep = [None if text == "-" else Path(text) for text in command.photos]
    for text, shape in zip(command.photos, shapes, strict=True):
        with _one(report, text):
            if isinstance(shape, AboutfaceError):
                raise shape
            own = place or Place(OUTPUTS / shape.portrait.stem)
            saved = save_reconstruction(shape, own, format=command.format, maps=command.maps, keep=keep)
            report.done(text, saved)
    return report.finish()


def animate(command: Animate) -> int:
    sweep = parse_sweep(command.sweep)
    _check_length(command.seconds, command.fps)
    pipeline, options = _prepare(command.find, [command.photo], command.talk)
    if options["face"] == "all":
        raise UsageError("--face all: a video shows one face turning; take largest or a number")

    def job(photo: Photo, place: Place, seconds: dict[str, float]) -> Iterator[Saved]:
        (portrait,) = pipeline.subjects(photo, **options)
        poses = _video_poses(portrait, sweep, command)
        file = place.file or place.folder / f"{portrait.stem}_turn.mp4"
        with _progress(command.talk, len(poses)) as progress:
            yield save_turntable(
                portrait, poses, file, fps=command.fps, keep=[photo.path], seconds=seconds, progress=progress
            )

    return _each([command.photo], command.output, VIDEO_SUFFIXES, job, command.talk, streams=False)


def relight(command: Relight) -> int:
    if command.sweep is not None:
        return _relight_as_video(command)
    asked = {
        "azimuth": parse_angles(command.light_azimuth, "light-azimuth"),
        "elevation": parse_angles(command.light_elevation, "light-elevation"),
    }
    light = None if command.light is None else [name.strip() for name in command.light.split(",")]
    # Fails before any photo is read.
    lights = asked_lights(**asked, light=light, intensity=command.light_intensity, ambient=command.ambient)
    pipeline, options = _prepare(command.find, command.photos, command.talk)

    def job(photo: Photo, place: Place, seconds: dict[str, float]) -> Iterator[Saved]:
        results = pipeline.relight(photo, lights, shadows=command.shadows, **options)
        _check_count(place, len(results))
        for result in results:
            sidecar = f"{result.portrait.stem}_relit"
            keep = [photo.path]
            yield save_result(result, place, format=command.format, sidecar=sidecar, keep=keep, seconds=seconds)

    return _each(command.photos, command.output, PICTURE_SUFFIXES, job, command.talk)


def _relight_as_video(command: Relight) -> int:
    assert command.sweep is not None
    sweep = parse_sweep(command.sweep, LIGHT_AXES)
    _check_length(command.seconds, command.fps)
    if len(command.photos) != 1 or command.light is not None:
        raise UsageError("a light sweep takes one photo, and no --light")
    lights = _sweep_lights(sweep, command)
    pipeline, options = _prepare(command.find, command.photos, command.talk)
    if options["face"] == "all":
        raise UsageError("--face all: a video shows one face; take largest or a number")

    def job(photo: Photo, place: Place, seconds: dict[str, float]) -> Iterator[Saved]:
        (portrait,) = pipeline.portraits(photo, **options)
        file = place.file or place.folder / f"{portrait.stem}_relit.mp4"
        about = {"fps": command.fps, "shadows": command.shadows, "keep": [photo.path], "seconds": seconds}
        with _progress(command.talk, len(lights)) as progress:
            yield save_light_sweep(portrait, lights, file, **about, progress=progress)

    return _each(command.photos, command.output, VIDEO_SUFFIXES, job, command.talk, streams=False)


def _sweep_lights(sweep: Sweep, command: Relight) -> list[Asked]:
    fixed: dict[str, float] = {}
    for name, text in (("azimuth", command.light_azimuth), ("elevation", command.light_elevation)):
        angles = parse_angles(text, f"light-{name}")
        if angles is not None and (len(angles) != 1 or name in sweep.ends):
            raise UsageError(f"--light-{name} {text}: with --sweep, one angle of the axis that does not move")
        fixed |= {name: angles[0]} if angles else {}
    if sweep.step is None:
        times = sweep_times(round(command.seconds * command.fps), command.there_and_back)
        rows = [{name: low + (high - low) * t for name, (low, high) in sweep.ends.items()} for t in times]
    else:
        rows = [dict(zip(sweep.ends, row, strict=True)) for row in zip(*sweep.angles().values(), strict=True)]
        rows += rows[-2:0:-1] if command.there_and_back else []
    strength = {"intensity": command.light_intensity, "ambient": command.ambient}
    return [light for row in rows for light in asked_lights(**(fixed | row), **strength)]


def swap(command: Swap) -> int:
    check_device(command.device)
    source_face, face = parse_face(command.source_face), parse_face(command.face)
    if not command.consent:
        raise ConsentError(
            "swap puts one person's face on another's photo: add --consent to state that the people shown have "
            "agreed; nothing was done"
        )
    if command.source == command.target == "-":
        raise UsageError("only one of -s and -t can be standard input")
    choose(command.detector)
    pipeline = Pipeline(command.method, command.detector)
    source = _read(command.source)

    def job(photo: Photo, place: Place, seconds: dict[str, float]) -> Iterator[Saved]:
        result = pipeline.swap(source, photo, consent=command.consent, source_face=source_face, face=face)
        keep = [photo.path, source.path]
        yield save_result(result, place, format=command.format, sidecar=result.names[0], keep=keep, seconds=seconds)

    return _each([command.target], command.output, PICTURE_SUFFIXES, job, command.talk)


# ---- shared by the verbs ----


def _prepare(find: Find, photos: Sequence[str], talk: Talk, together: bool = False) -> tuple[Pipeline, dict]:
    """The pipeline and the options that choose the face, checked before any photo is read.

    together: whether the photos are to be looked at together.
    """
    options = {"face": parse_face(find.face), "landmarks": find.landmarks, "box": parse_box(find.box)}
    if len(photos) > 1 and (find.landmarks or find.box):
        raise UsageError("--landmarks and --box belong to one photo: give one photo at a time")
    method = usual_method(find.method, len(photos) if together else 1)
    device = find_device(find.device) if optimises(method) else check_device(find.device)
    effort = Effort(find.quality, OUTPUTS, None if talk.quiet else _Teller(), str(device))
    pipeline = Pipeline(method, find.detector, effort)
    if pipeline.reconstruct_object is not None:
        check_no_face(pipeline.method, **options)
    elif not find.landmarks:
        choose("network" if find.box else find.detector)
    return pipeline, options


class _Teller:
    """Of work that takes minutes: a line on standard error now and then."""

    seconds = 3.0

    def __init__(self) -> None:
        self.last, self.subject = -math.inf, ""

    def __call__(self, line: str) -> None:
        subject, now = re.sub(r"[\d.]+", "", line), time.monotonic()
        if subject != self.subject or now - self.last >= self.seconds:
            print(line, file=sys.stderr, flush=True)
            self.last, self.subject = now, subject


def _each(
    photos: Sequence[str],
    output: str | None,
    suffixes: Sequence[str],
    job: Job,
    talk: Talk,
    streams: bool = True,
) -> int:
    """Do the job for every photo; what fails is said, and the others go on."""
    place, report = _begin(photos, output, suffixes, talk, streams)
    for text, stem in zip(photos, _stems(photos), strict=True):
        with _one(report, text):
            start = time.perf_counter()
            photo = _read(text, stem)
            seconds = {"read": time.perf_counter() - start}
            for saved in job(photo, place or Place(OUTPUTS / photo.name), seconds):
                report.done(text, saved)
    return report.finish()


def _begin(
    photos: Sequence[str], output: str | None, suffixes: Sequence[str], talk: Talk, streams: bool = True
) -> tuple[Place | None, Report]:
    """Where results go, None for a folder of each photo's own, and who says how it goes."""
    if not photos:
        raise UsageError("give at least one photo (- is standard input)")
    if photos.count("-") > 1:
        raise UsageError("standard input (-) can be given once only")
    place = Place.of(output, suffixes)
    if place and (place.file or place.stream) and len(photos) > 1:
        raise UsageError(f"-o {output}: {len(photos)} photos do not fit into one file: name a folder")
    if place and place.stream and (talk.json_lines or not streams):
        raise UsageError("-o -: standard output is taken by --json" if streams else "-o -: a video needs a file")
    return place, Report(talk, several=len(photos) > 1)


@contextmanager
def _one(report: Report, text: str) -> Iterator[None]:
    """What is done for one photo: what fails is said, and goes no further."""
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:
        report.failed(text, error)


def _read(text: str, stem: str | None = None) -> Photo:
    if text != "-" and Path(text).is_dir():
        raise PhotoError(
            f"{text}: is a folder; give photos, as {text.rstrip('/')}/*.jpg (a command for whole folders follows)"
        )
    photo = read_photo(text)
    return replace(photo, name=stem) if stem else photo


def _stems(photos: Sequence[str]) -> list[str | None]:
    """A new name for each photo whose name another one before it has; a/me.jpg and b/me.jpg become me and me-2."""
    stems = [Path(text).stem.strip(". ") for text in photos]
    return [None if new == stem else new for stem, new in zip(stems, distinct_names(stems), strict=True)]


def _check_count(place: Place, faces: int) -> None:
    if faces > 1 and (place.file or place.stream):
        raise UsageError(f"{faces} faces do not fit into one file: name a folder with -o")


def _check_length(seconds: float, fps: float) -> None:
    """Of a video."""
    if not (0 < seconds <= 600 and 0 < fps <= 240):
        raise UsageError(f"--seconds {seconds:g} --fps {fps:g}: expected up to 600 seconds and up to 240 frames each")


def _asked(command: Rotate) -> dict[str, str | None]:
    return {"yaw": command.yaw, "pitch": command.pitch, "roll": command.roll}


def _given(command: Rotate) -> bool:
    return any(text is not None for text in _asked(command).values())


def _rotate_as_video(command: Rotate, sweep: Sweep) -> int:
    if len(command.photos) != 1 or _given(command) or command.relative or command.refiner:
        raise UsageError(
            "a video takes one photo and --sweep, without --yaw, --pitch, --roll, --relative and --refiner"
        )
    assert command.sweep is not None
    return animate(
        Animate(command.photos[0], command.sweep, output=command.output, find=command.find, talk=command.talk)
    )


def _video_poses(portrait: Subject, sweep: Sweep, command: Animate) -> list[Pose]:
    if sweep.step is None:
        count = round(command.seconds * command.fps)
        return sweep_poses(portrait, sweep.ends, count, command.there_and_back)
    own = portrait.scene.pose
    rows = zip(*sweep.angles().values(), strict=True)
    poses = [own._replace(**dict(zip(sweep.ends, row, strict=True))) for row in rows]
    return poses + poses[-2:0:-1] if command.there_and_back else poses


@contextmanager
def _progress(talk: Talk, total: int) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error, where that is a terminal."""
    if talk.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("frames", total=total)
        yield lambda done, _: bar.update(task, completed=done)
