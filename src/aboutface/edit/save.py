"""Results to files: their names, their formats, and the record (sidecar) that lists each of them with its hash.

The files and the keys are described in docs/outputs.md.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..compose import on_white
from ..errors import MissingError, OutputError, UsageError
from ..export import contact_sheet, save_coloured_obj, save_depth, save_json, save_normal, save_npz, save_video
from ..geometry import project
from ..images import WRITABLE, encode_image, to_pixels, write_image
from ..reconstruct.deep3d_frame import Reconstruction as PublishedFace
from ..reconstruct.deep3d_frame import points_to_deep3d, published_fields, write_mat
from ..relight import Asked, encoded
from ..render import Render, render
from ..scene import Camera, Pose
from ..weights import digest
from .objects import ObjectReconstruction
from .pipeline import about_turn
from .result import Portrait, Reconstruction, Result, Subject, about_invention, angles_of, make_record

PICTURE_SUFFIXES = tuple(WRITABLE)
SHAPE_SUFFIXES = (".glb", ".obj", ".ply", ".npz", ".mat")
STANDARD_OUTPUT = "-"
PREVIEW_YAWS = (-30.0, 0.0, 30.0)
PREVIEW_SIDE = 320


@dataclass(frozen=True)
class Place:
    """Where results go: into a folder under their own names, to one named file, or to standard output."""

    folder: Path
    file: Path | None = None
    """The one file that was asked for."""
    stream: bool = False
    """Standard output."""

    @classmethod
    def of(cls, output: str | None, suffixes: Sequence[str]) -> "Place | None":
        """What `--output` means; None where it is missing, so that each photo gets its own folder.

        A name that ends in one of `suffixes` is a file; an existing folder, or a name without an ending, a folder.
        Raises UsageError for any other ending.
        """
        if output is None:
            return None
        if output == STANDARD_OUTPUT:
            return cls(Path(), stream=True)
        path = Path(output)
        if not output or output.endswith(("/", "\\")) or path.is_dir() or not path.suffix:
            return cls(path)
        if path.suffix.lower() not in suffixes:
            raise UsageError(
                f"-o {output}: unknown file type here; use one of {' '.join(suffixes)}, or end a folder's name with /"
            )
        return cls(path.parent, path)


@dataclass(frozen=True)
class Saved:
    """What was written for one face of one photo."""

    folder: Path
    files: tuple[Path, ...]
    """All files, the most wanted one first, the sidecar last."""
    record: dict[str, Any] = field(repr=False)
    """The sidecar's content."""


@dataclass(frozen=True)
class _Output:
    path: Path
    kind: str
    about: Mapping[str, Any] = field(default_factory=dict)


def save_result(
    result: Result,
    place: Place,
    *,
    format: str = "png",
    sidecar: str | None = None,
    crop: int | None = None,
    keep: Sequence[Path | None] = (),
    seconds: Mapping[str, float] | None = None,
) -> Saved:
    """Write the pictures of a result, a contact sheet where there are several, and the sidecar.

    Of other light, in a folder, there is a sheet of before and after.

    Args:
        format: "png", "jpg", "webp" or "tif", where `place` is no file.
        sidecar: its stem in a folder; the photo's if missing.
        crop: side in pixels of an upright square around the face that is written instead of the whole picture.
        keep: files that must not be overwritten: the inputs.
        seconds: further steps for the record.

    Raises UsageError where several pictures should go into one file, OutputError where nothing can be written.
    """
    start = time.perf_counter()
    pictures = list(_pictures(result, crop))
    record = result.record | {"seconds": result.record["seconds"] | dict(seconds or {})}
    if (place.file or place.stream) and len(pictures) > 1:
        raise UsageError(f"{len(pictures)} pictures do not fit into one file: name a folder with -o")
    if place.stream:
        _to_standard_output(encode_image(*pictures[0], f".{format}"))
        return Saved(place.folder, (), record)
    stem = place.file.stem if place.file else sidecar or result.portrait.stem
    sidecar_path = _ours(place.folder / f"{stem}.json", keep)
    names = [place.file.name] if place.file else [f"{name}.{format}" for name in _distinct(result.names)]
    about = result.record.get("outputs") or [{}]
    outputs = []
    for (pixels, alpha), name, facts in zip(pictures, names, about, strict=True):
        path = _free(place.folder / name, keep)
        write_image(path, pixels, alpha)
        outputs.append(_Output(path, "picture", {key: value for key, value in facts.items() if key != "name"}))
    if result.record["verb"] == "relight" and place.file is None:
        path = _free(place.folder / f"{result.portrait.stem}_relit_sheet.png", keep)
        write_image(path, relit_sheet(result))
        outputs.append(_Output(path, "sheet"))
    elif len(pictures) > 1:
        path = _free(place.folder / f"{result.portrait.stem}_contact.png", keep)
        write_image(path, contact_sheet([pixels for pixels, _ in pictures], pose_labels(result.poses)))
        outputs.append(_Output(path, "contact sheet"))
    return _with_sidecar(record, sidecar_path, outputs, start)


def save_reconstruction(
    shape: Reconstruction | ObjectReconstruction,
    place: Place,
    *,
    format: str = "glb",
    maps: bool = False,
    keep: Sequence[Path | None] = (),
    seconds: Mapping[str, float] | None = None,
) -> Saved:
    """Write the mesh, the sidecar and, in a folder or with `maps`, depth, normals, mask, albedo, arrays and a preview.

    Of a face with coefficients of a morphable model, these are followed by the published .mat and _mesh.obj.

    format: "glb", "obj", "ply" or "npz", where `place` is no file. For the rest see `save_result`. Raises UsageError
    for a .mat of a method without coefficients, MissingError for one where scipy is not installed.
    """
    start = time.perf_counter()
    if place.stream:
        raise UsageError("a shape cannot go to standard output: name a file or a folder with -o")
    target = place.file or place.folder / f"{shape.portrait.stem}.{format}"
    stem = target.stem
    _free(target, keep)
    sidecar = _ours(target.parent / f"{stem}.json", keep)
    if target.suffix.lower() == ".npz":
        save_npz(target, **shape.arrays())
        outputs = [_Output(target, "arrays")]
    elif target.suffix.lower() == ".mat":
        write_mat(target, published_fields(_published(shape, target)))
        outputs = [_Output(target, "fields")]
    else:
        # An OBJ brings its material and its texture; the file that was asked for comes first.
        kinds = {target.suffix.lower(): "mesh", ".mtl": "material", ".png": "texture"}
        outputs = [_Output(path, kinds[path.suffix.lower()]) for path in shape.mesh.save(target)]
    record = shape.record | {"seconds": shape.record["seconds"] | dict(seconds or {})}
    record["light"] = shape.apart.about()
    if maps or place.file is None:
        drawn = shape.maps()
        more, depth = _save_maps(shape, drawn, target.parent / stem, {output.path for output in outputs}, keep)
        outputs += more
        record["depth"] = depth
        if isinstance(shape, Reconstruction) and shape.portrait.scene.morphable is not None:
            more, warnings = _save_published(shape, target.parent / stem, {output.path for output in outputs}, keep)
            outputs += more
            record["warnings"] = [*record["warnings"], *warnings]
    return _with_sidecar(record, sidecar, outputs, start)


def save_light_sweep(
    portrait: Portrait,
    lights: Sequence[Asked],
    file: Path,
    *,
    fps: float = 25.0,
    shadows: bool = True,
    keep: Sequence[Path | None] = (),
    seconds: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Saved:
    """Write a video (.mp4, .gif, .webp) of the head under one light after the other, and the sidecar."""
    sidecar = _ours(_free(file, keep).with_name(f"{file.stem}.json"), keep)
    start = time.perf_counter()
    apart = portrait.relightable
    found = time.perf_counter()

    def frames() -> Iterator[np.ndarray]:
        for done, one in enumerate(lights):
            picture = apart.relit(one.light, shadows=shadows)
            if progress:
                progress(done + 1, len(lights))
            yield picture

    count = save_video(file, frames(), fps)
    steps = portrait.seconds | dict(seconds or {}) | {"light": found - start, "views": time.perf_counter() - found}
    record = make_record("relight", portrait, steps, [*portrait.photo.warnings, *portrait.face.warnings])
    record["light"] = apart.about()
    outputs = [_Output(file, "video", {"frames": count, "fps": fps, "first": {"light": lights[0].about}})]
    return _with_sidecar(record, sidecar, outputs, time.perf_counter())


def save_turntable(
    portrait: Subject,
    poses: Sequence[Pose],
    file: Path,
    *,
    fps: float = 25.0,
    keep: Sequence[Path | None] = (),
    seconds: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Saved:
    """Write a video (.mp4, .gif, .webp) of the head going through the poses, and the sidecar."""
    sidecar = _ours(_free(file, keep).with_name(f"{file.stem}.json"), keep)
    start = time.perf_counter()
    invented = [0.0]

    def frames() -> Iterator[np.ndarray]:
        for done, pose in enumerate(poses):
            drawn = portrait.view(pose)
            invented.append(drawn.invented)
            if progress:
                progress(done + 1, len(poses))
            yield drawn.flat

    count = save_video(file, frames(), fps)
    steps = portrait.seconds | dict(seconds or {}) | {"views": time.perf_counter() - start}
    warnings = [*portrait.warnings]
    warnings += about_turn(portrait.scene.pose, poses) + about_invention(max(invented), portrait.kind)
    record = make_record("animate", portrait, steps, warnings)
    ends = {"frames": count, "fps": fps, "first": angles_of(poses[0]), "invented": round(max(invented), 3)}
    outputs = [_Output(file, "video", ends)]
    return _with_sidecar(record, sidecar, outputs, time.perf_counter())


# ---- what is in the files ----


def crop_square(pixels: np.ndarray, photo_from_crop: np.ndarray, size: int) -> np.ndarray:
    """The upright square of side `size` that `Face.photo_from_crop(size)` describes; (size, size[, 3]) uint8.

    Where it reaches beyond the photo, the photo's edge is repeated.
    """
    side, (left, top) = photo_from_crop[0, 0] * size, photo_from_crop[:2, 2]
    first_row, first_column = math.floor(top), math.floor(left)
    rows = np.arange(first_row, math.ceil(top + side)).clip(0, pixels.shape[0] - 1)
    columns = np.arange(first_column, math.ceil(left + side)).clip(0, pixels.shape[1] - 1)
    x, y = left - first_column, top - first_row
    window = Image.fromarray(pixels[rows][:, columns])
    box = (x, y, min(x + side, window.width), min(y + side, window.height))
    return np.array(window.resize((size, size), Image.Resampling.LANCZOS, box=box))


def landmarks_in(portrait: Portrait, pose: Pose) -> np.ndarray:
    """(68, 2) photo pixels of the landmarks after the head is turned to `pose`."""
    return project(portrait.landmarks(pose), portrait.scene.camera.K).double().numpy()


def preview(shape: Reconstruction) -> np.ndarray:
    """One picture to judge a reconstruction by: input, shape, three views; (H, W, 3) uint8."""
    portrait = shape.portrait
    square = portrait.face.photo_from_crop(PREVIEW_SIDE, margin=0.55)
    views = {"input": crop_square(portrait.photo.pixels, square, PREVIEW_SIDE), "shape": _shape_in(shape, square)}
    for yaw in PREVIEW_YAWS:
        turned = portrait.view(Pose(yaw, 0.0, 0.0))
        views[f"yaw {yaw:+.0f}°" if yaw else "frontal"] = crop_square(turned.pixels, square, PREVIEW_SIDE)
    shown = _shown(portrait, square)
    return contact_sheet([pixels[shown] for pixels in views.values()], list(views))


def object_preview(shape: ObjectReconstruction) -> np.ndarray:
    """The same of another thing than a face."""
    portrait = shape.portrait
    photo, views = portrait.photo, {}
    views["input"] = photo.pixels if photo.alpha is None else on_white(photo.pixels, photo.alpha)
    views["shape"] = shaded(render(portrait.scene))
    for yaw in PREVIEW_YAWS:
        views[f"yaw {yaw:+.0f}°" if yaw else "frontal"] = portrait.view(Pose(yaw, 0.0, 0.0)).flat
    square = np.diag([photo.width / PREVIEW_SIDE, photo.width / PREVIEW_SIDE, 1.0])
    return contact_sheet([crop_square(pixels, square, PREVIEW_SIDE) for pixels in views.values()], list(views))


def relit_sheet(result: Result) -> np.ndarray:
    """Before, after each light, and the albedo and shading that the photo was taken apart into; (H, W, 3) uint8."""
    portrait = result.portrait
    square = portrait.face.photo_from_crop(PREVIEW_SIDE, margin=0.55)
    apart = portrait.relightable
    pictures = {"before": portrait.photo.pixels}
    pictures |= dict(zip(result.labels, result.images, strict=True))
    pictures |= {"albedo": linear_pixels(apart.albedo()), "shading": linear_pixels(apart.shading())}
    shown = _shown(portrait, square)
    crops = [crop_square(pixels, square, PREVIEW_SIDE)[shown] for pixels in pictures.values()]
    return contact_sheet(crops, list(pictures))


def _shown(portrait: Portrait, photo_from_crop: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the preview's square that lie in the photo: beyond it there is only a repeated edge."""
    sides = ((photo_from_crop[1, 2], portrait.photo.height), (photo_from_crop[0, 2], portrait.photo.width))
    step = photo_from_crop[0, 0]
    rows, columns = (
        slice(max(0, round(-first / step)), min(PREVIEW_SIDE, round((length - first) / step)))
        for first, length in sides
    )
    return rows, columns


def linear_pixels(image: torch.Tensor) -> np.ndarray:
    """(H, W, 3) uint8 sRGB of linear light (1 or 3, H, W); what is beyond 1 is white."""
    return to_pixels(encoded(image.clamp(0, 1)).expand(3, -1, -1))


def _shape_in(shape: Reconstruction, photo_from_crop: np.ndarray) -> np.ndarray:
    """The bare shape in the preview's square. Drawn for it at twice its size: small faces would look like stairs."""
    scene, side = shape.portrait.head.scene, 2 * PREVIEW_SIDE
    crop_from_photo = np.diag([2.0, 2.0, 1.0]) @ np.linalg.inv(photo_from_crop)
    camera = Camera(torch.from_numpy(crop_from_photo).to(scene.camera.K) @ scene.camera.K, side, side)
    picture = Image.fromarray(shaded(render(replace(scene, camera=camera))))
    return np.array(picture.resize((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.BOX))


def shaded(drawn: Render) -> np.ndarray:
    """The bare shape (H, W, 3) uint8 in grey, lit from the upper left, on white."""
    towards_light = torch.tensor([-0.45, -0.55, -0.7])
    cosine = (drawn.normal * (towards_light / towards_light.norm())[:, None, None]).sum(0).clamp_min(0)
    return to_pixels(torch.lerp(torch.ones_like(cosine), 0.18 + 0.72 * cosine, drawn.alpha).expand(3, -1, -1))


def pose_labels(poses: Sequence[Pose]) -> list[str]:
    """A short label per pose: the angles in which they differ."""
    differing = [name for name in Pose._fields if len({round(getattr(pose, name), 1) for pose in poses}) > 1]
    axes = differing or ["yaw"]
    return [", ".join(f"{name} {_degrees(getattr(pose, name))}" for name in axes) for pose in poses]


def _degrees(angle: float) -> str:
    # No "-0".
    return f"{round(angle, 1) + 0.0:+g}°" if round(angle, 1) else "0°"


def _pictures(result: Result, crop: int | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Pixels and alpha of each picture."""
    alpha = result.portrait.photo.alpha
    alphas = result.alphas or (alpha,) * len(result.images)
    for pixels, pose, alpha in zip(result.images, result.poses, alphas, strict=True):
        if crop is None:
            yield pixels, alpha if alpha is not None and alpha.shape == pixels.shape[:2] else None
            continue
        face = replace(result.portrait.face, landmarks=landmarks_in(result.portrait, pose))
        square = face.photo_from_crop(crop)
        yield crop_square(pixels, square, crop), None if alpha is None else crop_square(alpha, square, crop)


def _save_maps(
    shape: Reconstruction | ObjectReconstruction,
    drawn: Render,
    base: Path,
    made: set[Path],
    keep: Sequence[Path | None],
) -> tuple[list[_Output], dict[str, Any]]:
    """Write everything that describes the shape pixel by pixel; the depth's own description too."""

    def at(ending: str) -> Path:
        return _free(base.with_name(base.name + ending), keep)

    if isinstance(shape, Reconstruction):
        depth = save_depth(at("_depth.png"), shape.depth_mm(drawn)) | {"unit": "millimetres from the camera"}
    else:
        depth = save_depth(at("_depth.png"), shape.depth(drawn)) | {"unit": shape.unit}
    outputs = [_Output(at("_depth.png"), "depth"), _Output(at("_depth.npy"), "depth")]
    save_normal(at("_normal.png"), drawn.normal)
    outputs.append(_Output(at("_normal.png"), "normals"))
    write_image(at("_mask.png"), (drawn.alpha * 255).round().byte().numpy())
    outputs.append(_Output(at("_mask.png"), "mask"))
    apart = shape.apart
    # An OBJ's texture has the name that the view's albedo has elsewhere.
    textured = at("_albedo.png") in made
    pictures = {
        ("_albedo_view.png" if textured else "_albedo.png"): ("albedo", linear_pixels(apart.albedo())),
        "_shading.png": ("shading", linear_pixels(apart.shading())[..., 0]),
    }
    if not textured:
        pictures["_uv.png"] = ("texture", to_pixels(shape.texture))
    for ending, (kind, pixels) in pictures.items():
        write_image(at(ending), pixels)
        outputs.append(_Output(at(ending), kind))
    if at(".npz") not in made:
        save_npz(at(".npz"), **shape.arrays())
        outputs.append(_Output(at(".npz"), "arrays"))
    write_image(at("_preview.jpg"), preview(shape) if isinstance(shape, Reconstruction) else object_preview(shape))
    outputs.append(_Output(at("_preview.jpg"), "preview"))
    return outputs, depth


def _published(shape: Reconstruction | ObjectReconstruction, target: Path) -> PublishedFace:
    """What the .mat `target` is to hold. Raises UsageError for a shape without coefficients."""
    if not isinstance(shape, Reconstruction) or shape.portrait.scene.morphable is None:
        raise UsageError(
            f"{target}: {shape.portrait.method} has no coefficients of a morphable model; choose --method morphable or "
            "deep3d, with a model whose 68 landmarks are known, or name one of "
            f"{' '.join(suffix for suffix in SHAPE_SUFFIXES if suffix != '.mat')}"
        )
    return shape.published()


def _save_published(
    shape: Reconstruction, base: Path, made: set[Path], keep: Sequence[Path | None]
) -> tuple[list[_Output], list[str]]:
    """Write the published .mat, unless it is there, and _mesh.obj; what is to be said of that, too."""
    mat, obj = (_free(base.with_name(base.name + ending), keep) for ending in (".mat", "_mesh.obj"))
    outputs, warnings = [], []
    face, morphable = shape.published(), shape.portrait.scene.morphable
    assert morphable is not None
    if mat not in made:
        try:
            write_mat(mat, published_fields(face))
            outputs.append(_Output(mat, "fields"))
        except MissingError as error:
            warnings.append(f"{mat.name} was not written: {error}")
    # Ours run clockwise as seen from outside, theirs do not.
    save_coloured_obj(obj, points_to_deep3d(face.vertices), face.colours, morphable.faces.flip(1))
    outputs.append(_Output(obj, "published mesh"))
    return outputs, warnings


# ---- names and the sidecar ----


def _distinct(names: Sequence[str]) -> list[str]:
    """Angles closer than a degree share a name: the second one gets `_2`."""
    result: list[str] = []
    for name in names:
        candidate, number = name, 2
        while candidate in result:
            candidate, number = f"{name}_{number}", number + 1
        result.append(candidate)
    return result


def _free(path: Path, keep: Sequence[Path | None]) -> Path:
    """The path, if it is none of the files to keep."""
    for kept in keep:
        if kept is not None and kept.exists() and path.exists() and path.samefile(kept):
            raise UsageError(f"{path}: would overwrite the input photo; choose another name with -o")
    return path


def _with_sidecar(record: dict[str, Any], sidecar: Path, outputs: Sequence[_Output], start: float) -> Saved:
    """Write the sidecar, which lists the outputs; `start` is when writing began."""
    record["outputs"] = [
        {"file": output.path.name, "kind": output.kind, "sha256": digest(output.path), **output.about}
        for output in outputs
    ]
    record["seconds"] = {name: round(value, 3) for name, value in record["seconds"].items()}
    record["seconds"]["write"] = round(time.perf_counter() - start, 3)
    save_json(sidecar, record)
    return Saved(sidecar.parent, (*(output.path for output in outputs), sidecar), record)


def _ours(sidecar: Path, keep: Sequence[Path | None]) -> Path:
    """The path, if nothing of the user's is there: a `package.json` beside `package.png` stays as it is."""
    if not _free(sidecar, keep).exists():
        return sidecar
    try:
        content = json.loads(sidecar.read_text("utf-8"))
        ours = isinstance(content, dict) and str(content.get("tool", "")).startswith("aboutface ")
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise OutputError(f"{sidecar}: is there already and no record of this tool; choose another name with -o")
    return sidecar


def _to_standard_output(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputError(f"standard output: cannot be written ({error.strerror})") from None
