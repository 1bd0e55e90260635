"""The verbs on photos: detect, reconstruct, complete the head, turn, compose. The one place that knows the order."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from PIL import Image

from ..compose import View, degrees_of
from ..detect import Detector, detect
from ..errors import AboutfaceError, ConsentError, UsageError
from ..face import Face
from ..head import complete_head
from ..images import Photo, read_photo
from ..reconstruct import PERSON_METHODS, Effort, PersonReconstructor, Together, object_reconstructor, reconstructor
from ..refine import REFINERS
from ..relight import Asked
from ..scene import Pose, Scene
from ..swap import swap_face
from .objects import ObjectPortrait, ObjectReconstruction, check_no_face, object_portrait, object_reconstruction
from .person import Found, Group, about_person, same_picture
from .result import (
    Portrait,
    Reconstruction,
    Result,
    Subject,
    about_face,
    about_invention,
    about_photo,
    about_weights,
    angles_of,
    make_record,
)

Source = str | Path | bytes | Image.Image | np.ndarray | torch.Tensor | Photo
Choice = str | int
Angle = float | Sequence[float] | None

DEFAULT_METHOD = "depthnet"
"""Of a photo alone, where none is chosen."""
FAR_TURN = 45.0
"""Degrees from the photo's pose beyond which a result is mostly invention."""


class Pipeline:
    """The steps from photo to result with everything loaded once. Safe to use from several threads.

    Args:
        method: a reconstructor's name, see `reconstruct.RECONSTRUCTORS`, or a file that `aboutface train` wrote. One
            trained on other things than faces serves rotate, reconstruct and animate.
        detector: "auto", "network", "dlib", "mediapipe" or an object with the `detect.Detector` protocol.
        effort: how much a method that optimises for each photo, gan2shape, does, and where it keeps that.
    """

    def __init__(
        self, method: str = DEFAULT_METHOD, detector: str | Detector = "auto", effort: Effort | None = None
    ) -> None:
        self.method = method
        self.detector = detector
        self.reconstruct_object = object_reconstructor(method, effort)
        """Of a network that knows other things than faces."""
        self.reconstruct_face = None if self.reconstruct_object else reconstructor(method, effort)

    def portraits(
        self, source: Source, *, face: Choice = "largest", landmarks: Any = None, box: Any = None
    ) -> list[Portrait]:
        """The chosen faces of a photo, reconstructed.

        Args:
            source: path, bytes, PIL image, (H, W, 3) uint8 array, (3, H, W) tensor, or a Photo.
            face: "largest", "all" or an index, 0 being the largest.
            landmarks, box: given instead of detection; see `detect.detect`.

        Raises PhotoError, NoFaceError, UsageError.
        """
        if self.reconstruct_face is None:
            raise UsageError(
                f"{self.method}: knows whole pictures, not faces; rotate, animate and reconstruct work with it, "
                "what needs a face does not"
            )
        start = time.perf_counter()
        photo = read_photo(source)
        read = time.perf_counter()
        faces = detect(photo.pixels, face=face, detector=self.detector, landmarks=landmarks, box=box)
        seconds = {"read": read - start, "detect": time.perf_counter() - read}
        return [self._portrait(photo, one, dict(seconds), len(faces) > 1) for one in faces]

    def subjects(
        self, source: Source, *, face: Choice = "largest", landmarks: Any = None, box: Any = None
    ) -> list[Subject]:
        """The portraits; of a network of other things, the one that the picture shows, where no face may be chosen."""
        if self.reconstruct_object is not None:
            return [self._object(source, face, landmarks, box)]
        return list(self.portraits(source, face=face, landmarks=landmarks, box=box))

    def rotate(
        self,
        source: Source,
        yaw: Angle = None,
        pitch: Angle = None,
        roll: Angle = None,
        *,
        relative: bool = False,
        refiner: str | None = None,
        face: Choice = "largest",
        landmarks: Any = None,
        box: Any = None,
    ) -> list[Result]:
        """The photo with the head turned, one Result per chosen face.

        Args:
            yaw, pitch, roll: degrees, or lists of degrees for several views (the longest sets their number, single
                angles are repeated). The pose afterwards; an angle that is not given stays as it is in the photo.
            relative: the angles are added to the photo's instead.
            refiner: what makes the pictures more natural, see `refine.REFINERS`; "manifold" gives squares of the
                generator's size.
            face, landmarks, box: see `portraits`, which also says what is raised.
        """
        wanted = expand_angles(yaw, pitch, roll)
        return [
            _turned(portrait, wanted, relative, refiner=refiner)
            for portrait in self.subjects(source, face=face, landmarks=landmarks, box=box)
        ]

    def frontalize(
        self,
        source: Source,
        *,
        refiner: str | None = None,
        face: Choice = "largest",
        landmarks: Any = None,
        box: Any = None,
    ) -> list[Result]:
        """The photo with the head looking straight ahead and upright; see `rotate`."""
        return [
            _turned(portrait, [(0.0, 0.0, 0.0)], False, name="frontal", refiner=refiner)
            for portrait in self.portraits(source, face=face, landmarks=landmarks, box=box)
        ]

    def relight(
        self,
        source: Source,
        lights: Sequence[Asked],
        *,
        shadows: bool = True,
        face: Choice = "largest",
        landmarks: Any = None,
        box: Any = None,
    ) -> list[Result]:
        """The photo with other light on the head, one Result per chosen face.

        Args:
            lights: one per picture; see `relight.asked_lights`.
            shadows: whether the head casts shadows on itself.
            face, landmarks, box: see `portraits`, which also says what is raised.
        """
        return [
            _relit(portrait, lights, shadows)
            for portrait in self.portraits(source, face=face, landmarks=landmarks, box=box)
        ]

    def reconstruct(
        self, source: Source, *, face: Choice = "largest", landmarks: Any = None, box: Any = None
    ) -> list[Reconstruction] | list[ObjectReconstruction]:
        """The 3D shape of each chosen face, or of the one other thing."""
        if self.reconstruct_object is not None:
            return [object_reconstruction(self._object(source, face, landmarks, box))]
        results = []
        for portrait in self.portraits(source, face=face, landmarks=landmarks, box=box):
            record = make_record("reconstruct", portrait, portrait.seconds, portrait.warnings)
            results.append(Reconstruction(portrait, portrait.warnings, record))
        return results

    def reconstruct_person(
        self, sources: Sequence[Source], *, face: Choice = "largest", landmarks: Any = None, box: Any = None
    ) -> list[Reconstruction | ObjectReconstruction | AboutfaceError]:
        """The 3D shapes of one person in several photos: one identity, and each photo's pose, expression and light.

        Args:
            sources: see `portraits`. The same picture given twice counts once; one photo is done as by `reconstruct`.
            face: "largest" or an index, in every photo.
            landmarks, box: as for `portraits`, of one photo only.

        Returns an entry per source, in their order: where there is no photo or no face in it, the error. The record
        says under `same_person` how much each photo counted. Raises UsageError for a method that takes each photo by
        itself, for face "all", and for landmarks or a box of several photos.
        """
        return list(self.shapes_of_person(sources, face=face, landmarks=landmarks, box=box))

    def shapes_of_person(
        self, sources: Sequence[Source], *, face: Choice = "largest", landmarks: Any = None, box: Any = None
    ) -> Iterator[Reconstruction | ObjectReconstruction | AboutfaceError]:
        """The same one at a time, so that not all heads are in memory."""
        self.check_person(face, len(sources))
        if len(sources) == 1:
            yield self._alone(sources[0], face, landmarks, box)
            return
        if landmarks is not None or box is not None:
            raise UsageError("landmarks and box belong to one photo: leave them out where several show one person")
        group = Group.of(sources, [self._find(source, face) for source in sources])
        start = time.perf_counter()
        together = self._look(group.counted)
        part = (time.perf_counter() - start) / max(1, len(group.counted))
        about, warnings = about_person(group, together)
        for one, place in zip(group.given, group.places, strict=True):
            if isinstance(one, AboutfaceError):
                yield one
                continue
            twin = group.counted[place]
            said = warnings if twin is one else [same_picture(twin.photo), *warnings]
            yield self._shape(one, together.scenes[place], part, about, said, together.weights)

    def check_person(self, face: Choice, photos: int) -> None:
        """Raises UsageError for face "all", and where the method does not look at so many photos together."""
        if face == "all":
            raise UsageError('face "all": in a photo of one person there is one face; take "largest" or a number')
        if photos > 1 and not isinstance(self.reconstruct_face, PersonReconstructor):
            raise UsageError(
                f"{self.method}: takes each photo by itself; for several photos of one person choose the method "
                f"{' or '.join(PERSON_METHODS)}"
            )

    def frames(self, portrait: Subject, poses: Sequence[Pose]) -> Iterator[View]:
        """Views of one portrait in a row of absolute poses, one at a time."""
        for pose in poses:
            yield portrait.view(pose)

    def swap(
        self,
        source: Source,
        target: Source,
        *,
        consent: bool = False,
        source_face: Choice = "largest",
        face: Choice = "largest",
    ) -> Result:
        """The target photo with the source's face on the chosen face; the Result's portrait is the target's.

        Raises ConsentError unless `consent` states that the people shown agree; else as `portraits`.
        """
        if consent is not True:
            raise ConsentError(
                "swap puts one person's face on another's photo: pass --consent (consent=True) "
                "to state that the people shown have agreed; nothing was written"
            )
        start = time.perf_counter()
        try:
            (portrait,) = self.portraits(source, face=single(source_face, "swap's source"))
        except AboutfaceError as error:
            # Of two photos it must be clear which one is meant.
            path = source.path if isinstance(source, Photo) else source
            name = f", {path}" if isinstance(path, str | Path) and str(path) not in str(error) else ""
            raise type(error)(f"the source of the face{name}: {error}") from None
        (place,) = self.portraits(target, face=single(face, "swap's target"))
        prepared = time.perf_counter()
        swapped = swap_face(portrait.head, place.photo, place.face)
        seconds = {"prepare": prepared - start, "swap": time.perf_counter() - prepared}
        warnings = [*portrait.photo.warnings, *portrait.face.warnings, *place.photo.warnings, *place.face.warnings]
        warnings += about_invention(swapped.invented)
        record = make_record("swap", portrait, seconds, warnings)
        record |= {
            "target": about_photo(place.photo) | {"face": about_face(place.face)},
            "consent": {"given": True, "statement": "The people shown agreed to this edit, as stated by the user."},
            "altered": "AI-altered: the face was replaced",
        }
        name, pose = f"{place.photo.name}_swap", place.scene.pose
        return Result(place, (swapped.pixels,), (name,), (pose,), (swapped.invented,), tuple(warnings), record)

    def _object(self, source: Source, face: Choice, landmarks: Any, box: Any) -> ObjectPortrait:
        check_no_face(self.method, face, landmarks, box)
        assert self.reconstruct_object is not None
        start = time.perf_counter()
        photo = read_photo(source)
        seconds = {"read": time.perf_counter() - start}
        return object_portrait(self.reconstruct_object, photo, self.method, seconds)

    def _portrait(self, photo: Photo, face: Face, seconds: dict[str, float], of_several: bool) -> Portrait:
        start = time.perf_counter()
        assert self.reconstruct_face is not None
        scene = self.reconstruct_face(photo, face)
        return self._completed(photo, face, scene, seconds | {"reconstruct": time.perf_counter() - start}, of_several)

    def _completed(
        self, photo: Photo, face: Face, scene: Scene, seconds: dict[str, float], of_several: bool = False
    ) -> Portrait:
        start = time.perf_counter()
        head = complete_head(photo, face, scene)
        seconds = seconds | {"head": time.perf_counter() - start}
        return Portrait(photo, face, scene, head, self.method, seconds, of_several)

    # ---- several photos of one person ----

    def _alone(
        self, source: Source, face: Choice, landmarks: Any, box: Any
    ) -> Reconstruction | ObjectReconstruction | AboutfaceError:
        try:
            (shape,) = self.reconstruct(source, face=face, landmarks=landmarks, box=box)
        except AboutfaceError as error:
            return error
        warnings = (
            *shape.warnings,
            "same_person: one photo has nothing to share its shape with; it is done as any photo",
        )
        return replace(shape, warnings=warnings, record=shape.record | {"warnings": list(warnings)})

    def _find(self, source: Source, face: Choice) -> Found | AboutfaceError:
        start = time.perf_counter()
        try:
            photo = read_photo(source)
            read = time.perf_counter()
            (found,) = detect(photo.pixels, face=face, detector=self.detector)
        except AboutfaceError as error:
            return error
        return Found(photo, found, {"read": read - start, "detect": time.perf_counter() - read})

    def _look(self, counted: Sequence[Found]) -> Together:
        photos, faces = [one.photo for one in counted], [one.face for one in counted]
        if len(counted) > 1:
            assert isinstance(self.reconstruct_face, PersonReconstructor)
            return self.reconstruct_face.together(photos, faces)
        assert self.reconstruct_face is not None
        scenes = tuple(map(self.reconstruct_face, photos, faces))
        return Together(scenes, (1.0,) * len(scenes), "that of the only photo that counts")

    def _shape(
        self,
        one: Found,
        scene: Scene,
        seconds: float,
        about: dict[str, Any],
        warnings: Sequence[str],
        weights: str | None,
    ) -> Reconstruction | AboutfaceError:
        """In one photo of several."""
        try:
            portrait = self._completed(one.photo, one.face, scene, one.seconds | {"reconstruct": seconds})
        except AboutfaceError as error:
            return error
        said = (*portrait.warnings, *warnings)
        record = make_record("reconstruct", portrait, portrait.seconds, said)
        record["same_person"] = about
        if weights is not None:
            record["weights"].append(dict(about_weights(weights)))
        return Reconstruction(portrait, said, record)


def expand_angles(yaw: Angle, pitch: Angle, roll: Angle) -> list[tuple[float | None, float | None, float | None]]:
    """One (yaw, pitch, roll) per view; lists must have one length. Raises UsageError, also beyond ±180 degrees."""
    columns: list[list[float | None]] = []
    for name, value in (("yaw", yaw), ("pitch", pitch), ("roll", roll)):
        values: list[Any] = list(value) if is_row(value) else [value]
        if not values:
            raise UsageError(f"{name}: expected at least one angle in degrees, got an empty list")
        for angle in values:
            if angle is not None and not (isinstance(angle, int | float | np.number) and -180 <= angle <= 180):
                raise UsageError(f"{name}: expected degrees between -180 and 180, got {angle!r}")
        columns.append([None if angle is None else float(angle) for angle in values])
    count = max(len(column) for column in columns)
    if any(len(column) not in (1, count) for column in columns):
        lengths = ", ".join(str(len(column)) for column in columns)
        raise UsageError(f"yaw, pitch and roll: lists must be equally long or single, got {lengths}")
    spread = [column * count if len(column) == 1 else column for column in columns]
    return list(zip(*spread, strict=True))  # pyright: ignore[reportReturnType]


def is_row(angle: Angle) -> TypeGuard[Sequence[float]]:
    """Whether an angle argument asks for a row of views, even of one."""
    if isinstance(angle, np.ndarray):
        return angle.ndim > 0
    return isinstance(angle, Sequence) and not isinstance(angle, str)


def _turned(
    portrait: Subject,
    wanted: Sequence[tuple[float | None, float | None, float | None]],
    relative: bool,
    name: str | None = None,
    refiner: str | None = None,
) -> Result:
    refine = _refined(portrait, refiner)
    own = portrait.scene.pose
    start = time.perf_counter()
    views, poses, names = [], [], []
    for angles in wanted:
        if relative:
            pose = Pose(*(base + (angle or 0.0) for base, angle in zip(own, angles, strict=True)))
        else:
            pose = Pose(*(base if angle is None else angle for base, angle in zip(own, angles, strict=True)))
        views.append(refine(portrait.view(pose)))
        poses.append(pose)
        names.append(f"{portrait.stem}_{name or pose_name(*angles)}" + (f"_{refiner}" if refiner else ""))
    seconds = portrait.seconds | {"views": time.perf_counter() - start}
    warnings = [*portrait.warnings]
    warnings += about_turn(own, poses)
    warnings += about_invention(max(one.invented for one in views), portrait.kind)
    record = make_record("frontalize" if name else "rotate", portrait, seconds, warnings)
    record["outputs"] = [
        {"name": n, "pose": angles_of(p), "invented": round(v.invented, 3)}
        for n, p, v in zip(names, poses, views, strict=True)
    ]
    return Result(
        portrait,
        tuple(one.pixels for one in views),
        tuple(names),
        tuple(poses),
        tuple(one.invented for one in views),
        tuple(warnings),
        record,
        alphas=tuple(one.alpha for one in views if one.alpha is not None),
    )


def _refined(portrait: Subject, refiner: str | None) -> Callable[[View], View]:
    """What is done to each view. Raises UsageError for a refiner that there is not, or that cannot do this."""
    if refiner is None:
        return lambda one: one
    if refiner not in REFINERS:
        raise UsageError(f"refiner {refiner!r} is not known; there are: {', '.join(REFINERS)}")
    refine, scene = REFINERS[refiner], portrait.scene
    return lambda one: View(refine(one.pixels, scene), one.invented)


def _relit(portrait: Portrait, lights: Sequence[Asked], shadows: bool) -> Result:
    start = time.perf_counter()
    apart = portrait.relightable
    found = time.perf_counter()
    pictures = tuple(apart.relit(one.light, shadows=shadows) for one in lights)
    seconds = portrait.seconds | {"light": found - start, "views": time.perf_counter() - found}
    several = len(lights) > 1
    names = tuple(f"{portrait.stem}_relit" + (f"_{one.name}" if several else "") for one in lights)
    warnings = (*portrait.photo.warnings, *portrait.face.warnings)
    record = make_record("relight", portrait, seconds, warnings)
    record["light"] = apart.about()
    record["outputs"] = [{"name": name, "light": one.about} for name, one in zip(names, lights, strict=True)]
    poses, invented = (portrait.scene.pose,) * len(lights), (0.0,) * len(lights)
    labels = tuple(one.name.replace("_", ", ") for one in lights)
    return Result(portrait, pictures, names, poses, invented, warnings, record, labels)


def pose_name(yaw: float | None, pitch: float | None, roll: float | None) -> str:
    """yaw+030_pitch+000_roll+000; an angle that was not asked for is written as 0."""
    parts = (("yaw", yaw), ("pitch", pitch), ("roll", roll))
    return "_".join(f"{name}{round(angle or 0):+04d}" for name, angle in parts)


def about_turn(own: Pose, poses: Sequence[Pose]) -> list[str]:
    """A warning where a pose is far from the photo's own."""
    farthest = max((float(degrees_of(own.rotation() @ pose.rotation().mT)) for pose in poses), default=0.0)
    if farthest <= FAR_TURN:
        return []
    return [f"turned {farthest:.0f} degrees from the photo's own pose: beyond {FAR_TURN:.0f} much of it is a guess"]


def usual_method(method: str | None, together: int = 1) -> str:
    """The method, if one is chosen; else the usual one of so many photos that are looked at together."""
    return method or (PERSON_METHODS[0] if together > 1 else DEFAULT_METHOD)


def single(face: Choice, role: str) -> Choice:
    """The choice, if it is of one face. Raises UsageError for "all"."""
    if face == "all":
        raise UsageError(f"{role}: takes one face, 'largest' or an index, got 'all'")
    return face
