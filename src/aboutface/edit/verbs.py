"""The verbs as plain functions: a photo in any form in, the same form out; a list in, a list out.

A path stands for its picture, which comes back as a PIL image. In a list, a photo that fails leaves its error (a
`PhotoError`, `NoFaceError`...) in its place and the others go on; a single photo raises it.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from ..errors import AboutfaceError, UsageError
from ..export import save_video
from ..images import read_photo
from ..relight import asked_lights
from ..scene import Pose
from .pipeline import Angle, Choice, Pipeline, Source, is_row, single, usual_method
from .result import Subject

T = TypeVar("T")


def rotate(
    photo: Source | Sequence[Source],
    yaw: Angle = None,
    pitch: Angle = None,
    roll: Angle = None,
    *,
    relative: bool = False,
    refiner: str | None = None,
    face: Choice = "largest",
    landmarks: Any = None,
    box: Any = None,
    method: str = "depthnet",
) -> Any:
    """The photo with the head turned to so many degrees.

    Args:
        photo: path, bytes, PIL image, (H, W, 3) uint8 array, (3, H, W) tensor, or a list of these.
        yaw, pitch, roll: +yaw turns the face to the image's right, +pitch looks up, +roll is clockwise as seen.
            Absolute; what is not given stays as it is in the photo. A list gives a list of pictures.
        relative: add the angles to the photo's own pose.
        refiner: "manifold": a square picture of the generator of the method gan2shape, the nearest to the turned one.
        face: "largest", an index (0 is the largest), or "all": a list with one entry per face.
        landmarks, box: (68, 2) points or (left, top, right, bottom), or files of them, instead of detection.

    Returns the same type as came in. Raises PhotoError, NoFaceError, UsageError.
    """
    if yaw is None and pitch is None and roll is None:
        raise UsageError("rotate: say where the head turns to, for example yaw=30")
    several_views = any(is_row(angle) for angle in (yaw, pitch, roll))

    def one(source: Source) -> Any:
        opened = read_photo(source)
        results = _pipeline(method).rotate(
            opened, yaw, pitch, roll, relative=relative, refiner=refiner, face=face, landmarks=landmarks, box=box
        )
        views = [[result.like(index) for index in range(len(result.images))] for result in results]
        pictures = views if several_views else [entry[0] for entry in views]
        return pictures if face == "all" else pictures[0]

    return _each(photo, one)


def frontalize(
    photo: Source | Sequence[Source],
    *,
    refiner: str | None = None,
    face: Choice = "largest",
    landmarks: Any = None,
    box: Any = None,
    method: str = "depthnet",
) -> Any:
    """The photo with the head upright and looking straight ahead; see `rotate` for everything else."""
    return rotate(photo, 0.0, 0.0, 0.0, refiner=refiner, face=face, landmarks=landmarks, box=box, method=method)


def relight(
    photo: Source | Sequence[Source],
    azimuth: Angle = None,
    elevation: Angle = None,
    *,
    light: Any = None,
    intensity: float | None = None,
    ambient: float | None = None,
    shadows: bool = True,
    face: Choice = "largest",
    landmarks: Any = None,
    box: Any = None,
    method: str = "depthnet",
) -> Any:
    """The photo with other light on the head.

    Args:
        azimuth, elevation: where the lamp is, degrees: +azimuth to the image's right (-180 to 180, beyond 90 from
            behind), +elevation above (-90 to 90); both 0 is the camera. A list gives a list of pictures.
        light: instead of the angles: a preset ("left", "right", "top", ... see `relight.PRESETS`), a list of presets,
            a .json file with DPR's 9 or 9 x 3 numbers or the record of another result, or such numbers.
        intensity, ambient: of the lamp and of the light from everywhere, in multiples of the albedo.
        shadows: whether the head casts shadows on itself.

    See `rotate` for everything else.
    """
    lights = asked_lights(azimuth, elevation, light=light, intensity=intensity, ambient=ambient)
    several = len(lights) > 1 or is_row(azimuth) or is_row(elevation) or _of_texts(light)

    def one(source: Source) -> Any:
        opened = read_photo(source)
        results = _pipeline(method).relight(opened, lights, shadows=shadows, face=face, landmarks=landmarks, box=box)
        views = [[opened.like(image) for image in result.images] for result in results]
        pictures = views if several else [entry[0] for entry in views]
        return pictures if face == "all" else pictures[0]

    return _each(photo, one)


def _of_texts(light: Any) -> bool:
    return isinstance(light, list | tuple) and bool(light) and isinstance(light[0], str | Path)


def reconstruct(
    photo: Source | Sequence[Source],
    *,
    face: Choice = "largest",
    landmarks: Any = None,
    box: Any = None,
    same_person: bool = False,
    method: str | None = None,
) -> Any:
    """The 3D shape of the face: a `Reconstruction` with `mesh.save("me.glb")`, `pose`, `landmarks`, `arrays()`.

    By a network of other things than faces an `ObjectReconstruction`, which lacks the landmarks.

    Args:
        same_person: the photos of a list show one person, who gets one shape; each photo has its own pose, expression
            and light. See `Pipeline.reconstruct_person`, which also says what is raised.
        method: depthnet if missing; where same_person holds of several photos, the first of
            `reconstruct.PERSON_METHODS`.
    """
    if same_person:
        sources: list[Any] = list(photo) if isinstance(photo, list | tuple) else [photo]
        pipeline = _pipeline(usual_method(method, len(sources)))
        shapes = pipeline.reconstruct_person(sources, face=face, landmarks=landmarks, box=box)
        if isinstance(photo, list | tuple):
            return shapes
        if isinstance(shapes[0], AboutfaceError):
            raise shapes[0]
        return shapes[0]

    def one(source: Source) -> Any:
        shapes = _pipeline(usual_method(method)).reconstruct(source, face=face, landmarks=landmarks, box=box)
        return shapes if face == "all" else shapes[0]

    return _each(photo, one)


def swap(
    source: Source, target: Source, *, consent: bool = False, source_face: Choice = "largest", face: Choice = "largest"
) -> Any:
    """`target` with the face of `source` on its chosen face; the type of `target` comes back.

    `consent=True` states that the people shown agree; without it ConsentError is raised.
    """
    opened = read_photo(target) if consent is True else target
    result = _pipeline("depthnet").swap(source, opened, consent=consent, source_face=source_face, face=face)
    return result.portrait.photo.like(result.image)


def animate(
    photo: Source,
    output: str | Path,
    sweep: dict[str, tuple[float, float]] | None = None,
    *,
    seconds: float = 4.0,
    fps: float = 25.0,
    there_and_back: bool = True,
    face: Choice = "largest",
    method: str = "depthnet",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """A video (.mp4, .gif, .webp) of the head turning; returns its path.

    Args:
        sweep: from and to, degrees, per angle; {"yaw": (-40, 40)} if missing. Other angles stay as in the photo.
        seconds: length. there_and_back: ends where it began, so that it loops.
        progress: called with frames done and frames in all.

    Raises PhotoError, NoFaceError, OutputError, and UsageError for an unknown angle, fewer than two frames, face "all".
    """
    pipeline = _pipeline(method)
    (portrait,) = pipeline.subjects(photo, face=single(face, "animate"))
    poses = sweep_poses(portrait, sweep or {"yaw": (-40.0, 40.0)}, round(seconds * fps), there_and_back)

    def frames() -> Any:
        for done, view in enumerate(pipeline.frames(portrait, poses)):
            if progress:
                progress(done + 1, len(poses))
            yield view.flat

    save_video(output, frames(), fps)
    return Path(output)


def sweep_poses(
    portrait: Subject, sweep: dict[str, tuple[float, float]], count: int, there_and_back: bool
) -> list[Pose]:
    """Absolute poses along a sweep. Raises UsageError for unknown angles or fewer than two frames."""
    times = sweep_times(count, there_and_back)
    own = portrait.scene.pose._asdict()
    for name, ends in sweep.items():
        if name not in own or len(ends) != 2 or not all(-180 <= end <= 180 for end in ends):
            raise UsageError(f"sweep: expected yaw, pitch or roll with two angles in degrees, got {name}={ends}")
    return [Pose(**(own | {name: low + (high - low) * t for name, (low, high) in sweep.items()})) for t in times]


def sweep_times(count: int, there_and_back: bool) -> list[float]:
    """How far along a sweep each frame is, 0 to 1. Raises UsageError for fewer than two frames."""
    if count < 2:
        raise UsageError(f"a video needs at least 2 frames, got {count}: ask for more seconds or frames per second")
    if there_and_back:
        # Slow at both ends, and the last frame is the one before the first.
        return [0.5 - 0.5 * math.cos(2 * math.pi * i / count) for i in range(count)]
    return [i / (count - 1) for i in range(count)]


def _each(photo: Any, one: Callable[[Any], T]) -> T | list[T | AboutfaceError]:
    if not isinstance(photo, list | tuple):
        return one(photo)
    results: list[T | AboutfaceError] = []
    for item in photo:
        try:
            results.append(one(item))
        except AboutfaceError as error:
            results.append(error)
    return results


@lru_cache(maxsize=4)
def _pipeline(method: str) -> Pipeline:
    return Pipeline(method)
