"""Results for other programs: meshes, depth and normal maps, arrays, sidecars, videos, contact sheets.

Every function writes whole files or none, and raises OutputError where it cannot write.
"""

import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .errors import OutputError, UsageError, need
from .files import atomic_path
from .images import encode_image, to_pixels
from .scene import Mesh, Scene

AnyPath = str | os.PathLike[str]
MESH_SUFFIXES = (".glb", ".obj", ".ply")
VIDEO_SUFFIXES = (".mp4", ".gif", ".webp")
MAX_MESH_BYTES = 10_000_000
# Camera space (x right, y down, z forward) to glTF (x right, y up, z towards the viewer): half a turn about x.
_GLTF_FROM_CAMERA = np.array([1.0, -1.0, -1.0])


# ---- meshes ----


def gltf_from_camera(points: np.ndarray, centre: Sequence[float], metres_per_unit: float) -> np.ndarray:
    """Camera-space points (N, 3) as metres from `centre`, x right, y up, z towards the viewer."""
    return (np.asarray(points, np.float64) - np.asarray(centre, np.float64)) * _GLTF_FROM_CAMERA * metres_per_unit


def save_mesh(
    path: AnyPath,
    surface: Scene | Mesh,
    texture: Tensor | np.ndarray | None = None,
    *,
    landmarks: Tensor | np.ndarray | None = None,
    centre: Sequence[float] = (0.0, 0.0, 1.0),
    metres_per_unit: float | None = None,
) -> list[Path]:
    """Write the surface as it stands as .glb, .obj (with <stem>.mtl and <stem>_albedo.png) or .ply; the files made.

    Metres, x right, y up, z towards the viewer, origin at `centre` (camera space); corners counter-clockwise from
    outside. texture: (3, H, W) float in [0, 1] or (H, W, 3) uint8, a Scene's own by default. The GLB carries normals
    and one rough, non-metallic, two-sided material; its texture is JPEG, or shrunk, where PNG would pass 10 MB. The
    PLY is binary with vertex colours. landmarks (N, 3), camera space, go into the GLB scene's extras.
    metres_per_unit: required where a Scene does not know its own. Raises UsageError, OutputError, MissingError.
    """
    mesh, texture, metres = _mesh_parts(surface, texture, metres_per_unit)
    target = Path(path)
    if target.suffix.lower() not in MESH_SUFFIXES:
        raise OutputError(f"{path}: unknown mesh type; use one of {' '.join(MESH_SUFFIXES)}")
    vertices = gltf_from_camera(_array(mesh.vertices), centre, metres)
    if not len(vertices) or not len(mesh.faces) or not np.isfinite(vertices).all():
        raise UsageError(f"mesh: expected finite vertices and triangles, got {len(vertices)} and {len(mesh.faces)}")
    normals = _array(mesh.normals) * _GLTF_FROM_CAMERA
    normals[np.linalg.norm(normals, axis=1) < 0.5] = [0, 0, 1]  # vertices without a triangle; glTF wants unit length
    geometry = {
        "vertices": vertices,
        "faces": _array(mesh.faces)[:, ::-1],  # ours run clockwise as seen from outside
        "vertex_normals": normals,
    }
    pixels = None if texture is None or mesh.uv is None else _texture_pixels(texture)
    # OpenGL texture coordinates, v up from the bottom: what trimesh, OBJ and PLY mean.
    uv = None if mesh.uv is None else _array(mesh.uv) * [1, -1] + [0, 1]
    if target.suffix.lower() == ".glb":
        points = None if landmarks is None else gltf_from_camera(_array(landmarks), centre, metres)
        files = {target: _glb(geometry, uv, pixels, points)}
    elif target.suffix.lower() == ".ply":
        files = {target: _ply(geometry, uv, pixels)}
    else:
        files = _obj(target, geometry, uv, pixels)
    _write_together(files)
    return list(files)


def _mesh_parts(surface: Scene | Mesh, texture: Any, metres: float | None) -> tuple[Mesh, Any, float]:
    if isinstance(surface, Scene):
        texture = surface.albedo if texture is None else texture
        if metres is None and surface.millimetres_per_unit is not None:
            metres = surface.millimetres_per_unit / 1000
        surface = surface.mesh()
    if metres is None or not (math.isfinite(metres) and metres > 0):
        raise UsageError(f"metres_per_unit: expected the length of one unit of the surface in metres, got {metres}")
    return surface, texture, metres


def _texture_pixels(texture: Tensor | np.ndarray) -> np.ndarray:
    return to_pixels(texture) if isinstance(texture, Tensor) else np.asarray(texture)


def _glb(geometry: dict[str, Any], uv: Any, pixels: np.ndarray | None, landmarks: np.ndarray | None) -> bytes:
    trimesh = need("trimesh", "mesh")
    picture = None
    if pixels is not None:
        # 32 bytes per vertex: position, normal, uv; 12 per triangle.
        used = 32 * len(geometry["vertices"]) + 12 * len(geometry["faces"]) + 10_000
        picture = _texture_within(pixels, max(MAX_MESH_BYTES - used, 1_000_000))
    material = trimesh.visual.material.PBRMaterial(
        name="face", baseColorTexture=picture, metallicFactor=0.0, roughnessFactor=1.0, doubleSided=True
    )
    visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    mesh = trimesh.Trimesh(**geometry, visual=visual, process=False)

    def finish(tree: dict[str, Any]) -> None:
        # Without a sampler the texture repeats, and its edges bleed into each other.
        tree["samplers"] = [{"wrapS": 33071, "wrapT": 33071, "magFilter": 9729, "minFilter": 9987}]
        for texture in tree.get("textures", []):
            texture["sampler"] = 0
        if landmarks is not None:
            tree["scenes"][0]["extras"] = {"landmarks": np.round(landmarks, 7).tolist()}

    return trimesh.Scene({"face": mesh}).export(file_type="glb", include_normals=True, tree_postprocessor=finish)


def _texture_within(pixels: np.ndarray, limit: int) -> Image.Image:
    """Picture that trimesh writes in at most `limit` bytes: PNG, else JPEG, else smaller JPEG."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if len(encode_image(pixels)) <= limit:
        return picture
    while True:
        data = encode_image(np.asarray(picture), suffix=".jpg")
        if len(data) <= limit or min(picture.size) < 2:
            break
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    picture = Image.open(io.BytesIO(data))
    # trimesh would compress the decoded picture a second time, at quality 75.
    picture.save = lambda file, format: file.write(data)  # type: ignore[method-assign]
    return picture


def _ply(geometry: dict[str, Any], uv: np.ndarray | None, pixels: np.ndarray | None) -> bytes:
    trimesh = need("trimesh", "mesh")
    colours = None if pixels is None or uv is None else _sample(pixels, uv)
    mesh = trimesh.Trimesh(**geometry, vertex_colors=colours, process=False)
    return trimesh.exchange.ply.export_ply(mesh, encoding="binary", vertex_normal=True)


def _sample(pixels: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Colours (V, 3) uint8 at OpenGL texture coordinates (V, 2), bilinear, clamped at the edge."""
    image = torch.tensor(pixels).permute(2, 0, 1)[None].float()
    grid = torch.tensor(uv * [2, -2] + [-1, 1], dtype=torch.float32)[None, None]
    colours = torch.nn.functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
    return (colours[0, :, 0].T + 0.5).floor().to(torch.uint8).numpy()


def _obj(target: Path, geometry: dict[str, Any], uv: Any, pixels: np.ndarray | None) -> dict[Path, bytes]:
    """Bytes of the OBJ file first, then of the files that it names."""
    trimesh = need("trimesh", "mesh")
    stem = re.sub(r"\s+", "_", target.stem)  # readers split the names inside the files at spaces
    visual = None
    if pixels is not None:
        white, black = [255, 255, 255, 255], [0, 0, 0, 255]
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        material = trimesh.visual.material.SimpleMaterial(
            image=picture, name=f"{stem}_albedo", ambient=white, diffuse=white, specular=black, glossiness=0.0
        )
        visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    mesh = trimesh.Trimesh(**geometry, visual=visual, process=False)
    text, extra = trimesh.exchange.obj.export_obj(
        mesh, include_normals=True, include_color=False, return_texture=True, mtl_name=f"{stem}.mtl", header=None
    )
    return {target: text.encode()} | {target.with_name(name): data for name, data in extra.items()}


def _write_together(files: Mapping[Path, bytes]) -> None:
    """All files or none. The first takes its place last, so that what it refers to is there."""
    with ExitStack() as stack:
        temporary = [stack.enter_context(atomic_path(path)) for path in files]
        for place, data in zip(temporary, files.values(), strict=True):
            place.write_bytes(data)


def save_coloured_obj(
    path: AnyPath, vertices: Tensor | np.ndarray, colours: Tensor | np.ndarray, faces: Tensor | np.ndarray
) -> None:
    """Write vertices (V, 3) as they are, with colours (V, 3), clipped to 0...1, as an OBJ file without a material.

    Lines `v x y z r g b` of six decimals, an empty one, then `f a b c`, counted from 1; faces (F, 3) as they are. Not
    all programs read such colours; MeshLab and Blender do. Raises UsageError for shapes that do not belong together.
    """
    points, shades, corners = _array(vertices), np.clip(_array(colours), 0, 1), _array(faces)
    if points.shape != shades.shape or points.shape[1:] != (3,) or corners.shape[1:] != (3,) or not len(points):
        raise UsageError(
            f"mesh: expected vertices and colours (V, 3), faces (F, 3), got {points.shape}, {shades.shape}, "
            f"{corners.shape}"
        )
    lines = ["v {:.6f} {:.6f} {:.6f} {:.6f} {:.6f} {:.6f}".format(*row) for row in np.hstack([points, shades]).tolist()]
    lines += ["", *("f {} {} {}".format(*row) for row in (corners + 1).tolist())]
    _write_together({Path(path): ("\n".join(lines) + "\n").encode()})


# ---- maps ----


def save_depth(path: AnyPath, depth: Tensor | np.ndarray) -> dict[str, Any]:
    """Write depth (H, W), scene units, as 16-bit PNG, and unscaled float32 as .npy beside it; what the sidecar needs.

    PNG: 0 is empty (depth not finite or not positive); 1 is `near`, 65535 is `far`, linear between:
    depth = near + (value - 1) / 65534 * (far - near). The .npy holds NaN where empty.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise OutputError(f"{path}: depth is written as 16-bit PNG; name a .png file")
    values = _array(depth).astype(np.float32)
    if values.ndim != 2 or values.size == 0:
        raise UsageError(f"depth: expected (H, W), got {values.shape}")
    full = np.isfinite(values) & (values > 0)
    near, far = (float(values[full].min()), float(values[full].max())) if full.any() else (0.0, 0.0)
    scaled = np.zeros(values.shape, np.uint16)
    scaled[full] = 1 + np.round((values[full].astype(np.float64) - near) / ((far - near) or 1) * 65534)
    buffer = io.BytesIO()
    np.save(buffer, np.where(full, values, np.float32(np.nan)))
    array_path = target.with_suffix(".npy")
    _write_together({target: encode_image(scaled), array_path: buffer.getvalue()})
    return {"near": near, "far": far, "empty": 0, "png": target.name, "npy": array_path.name}


def save_normal(path: AnyPath, normal: Tensor | np.ndarray) -> None:
    """Write unit normals, camera space, (3, H, W) tensor or (H, W, 3) array, as 8-bit picture n * 0.5 + 0.5.

    Red is right, green is up, blue is towards the viewer (the axes of glTF and OpenGL normal maps), so a surface that
    faces the camera is (128, 128, 255). Pixels without a normal (zero or not finite) are black.
    """
    values = _array(normal)
    if isinstance(normal, Tensor) and values.ndim == 3:
        values = values.transpose(1, 2, 0)
    if values.ndim != 3 or values.shape[2] != 3:
        raise UsageError(f"normal: expected a tensor (3, H, W) or an array (H, W, 3), got {_array(normal).shape}")
    full = np.isfinite(values).all(-1) & (np.abs(np.nan_to_num(values)).sum(-1) > 0)
    picture = np.zeros(values.shape, np.uint8)
    picture[full] = np.floor(np.clip(values[full] * _GLTF_FROM_CAMERA * 0.5 + 0.5, 0, 1) * 255 + 0.5)
    _write_together({Path(path): encode_image(picture, suffix=Path(path).suffix or str(path))})


# ---- numbers ----


def save_npz(path: AnyPath, /, **arrays: Any) -> None:
    """Write arrays, tensors, numbers, texts and paths as compressed .npz; equal input gives equal bytes."""
    converted = {name: _npz_array(name, value) for name, value in arrays.items()}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **converted)


def _npz_array(name: str, value: Any) -> np.ndarray:
    array = _array(str(value) if isinstance(value, Path) else value)
    if array.dtype.hasobject:
        raise UsageError(f"{name}: expected an array, number or text, got {type(value).__name__}")
    return array


def save_json(path: AnyPath, content: Mapping[str, Any]) -> None:
    """Write a dictionary as JSON, UTF-8, keys in their order. Arrays become lists, NaN and infinity null."""
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    """The value in terms of JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return _plain(_array(value).tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise UsageError(f"JSON: cannot hold a {type(value).__name__}")


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


# ---- moving pictures ----


def save_video(path: AnyPath, frames: Iterable[np.ndarray], fps: float = 25) -> int:
    """Write frames (H, W, 3) uint8 sRGB, all of one size, as .mp4, .gif or .webp; the number of frames taken.

    .mp4: H.264, 4:2:0, BT.709 limited range, index in front; frames are encoded as they come; odd sides grow by
    repeating the last row or column. .gif: one palette for all frames, at most 50 frames per second. .gif and .webp
    loop forever and hold all frames in memory. Raises OutputError, UsageError, MissingError.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in VIDEO_SUFFIXES:
        raise OutputError(f"{path}: unknown video type; use one of {' '.join(VIDEO_SUFFIXES)}")
    if not 0 < fps <= (50 if suffix == ".gif" else 240):
        raise UsageError(f"fps: expected more than 0 and at most {50 if suffix == '.gif' else 240}, got {fps}")
    writer = {".mp4": _write_mp4, ".gif": _write_gif, ".webp": _write_webp}[suffix]
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise OutputError(f"{path}: no frames to write")
    with atomic_path(path) as temporary:
        return writer(temporary, _same_size(first, frames), fps)


def _same_size(first: np.ndarray, rest: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    for index, frame in enumerate(chain([first], rest)):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != first.shape:
            expected = first.shape if index else "(H, W, 3)"
            raise UsageError(f"frame {index}: expected uint8 {expected}, got {frame.dtype} {frame.shape}")
        yield frame


def _write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    av = need("av", "video")
    bt709, limited = 1, 1
    count = 0
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", Fraction(fps).limit_denominator(1001), options={"crf": "18"})
            for pixels in frames:
                # 4:2:0 needs even sides.
                even = np.pad(pixels, [(0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)], mode="edge")
                if count == 0:
                    context = stream.codec_context
                    context.height, context.width, context.pix_fmt = even.shape[0], even.shape[1], "yuv420p"
                    context.colorspace = context.color_primaries = context.color_trc = bt709
                    context.color_range = limited
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
                frame = frame.reformat(format="yuv420p", dst_colorspace=bt709, dst_color_range=limited)
                frame.pts = count
                container.mux(stream.encode(frame))
                count += 1
            container.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(
            f"video: cannot be encoded as H.264 ({reason}); check space on disk, or name a .gif"
        ) from error
    return count


def _write_gif(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    pictures = [Image.fromarray(frame) for frame in frames]
    palette = _shared_palette(pictures)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for picture in pictures]
    # GIF counts hundredths of a second: rounded ends, not rounded lengths, keep the whole in time.
    ends = [round(100 * index / fps) for index in range(len(indexed) + 1)]
    lengths = [10 * (end - start) for start, end in pairwise(ends)]
    indexed[0].save(path, save_all=True, append_images=indexed[1:], duration=lengths, loop=0, optimize=False)
    return len(indexed)


def _shared_palette(pictures: list[Image.Image]) -> Image.Image:
    """Image with the 256 colours that serve up to 16 frames spread over the video."""
    chosen = pictures[:: math.ceil(len(pictures) / 16)]
    small = [np.asarray(picture)[:: 1 + picture.height // 256, :: 1 + picture.width // 256] for picture in chosen]
    return Image.fromarray(np.concatenate(small)).quantize(256, method=Image.Quantize.MEDIANCUT)


def _write_webp(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    pictures = [Image.fromarray(frame) for frame in frames]
    ends = [round(1000 * index / fps) for index in range(len(pictures) + 1)]
    lengths = [end - start for start, end in pairwise(ends)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=lengths, loop=0, quality=90, method=3)
    return len(pictures)


# ---- overview ----


def contact_sheet(
    images: Sequence[np.ndarray],
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    max_side: int = 320,
) -> np.ndarray:
    """Pictures (H, W, 3) uint8 side by side on white, shrunk to `max_side` pixels, labels below; (H, W, 3) uint8."""
    if not images or (labels is not None and len(labels) != len(images)):
        raise UsageError(
            f"contact sheet: expected as many labels as pictures, at least one, got {len(images)} pictures"
        )
    if columns is None:
        columns = len(images) if len(images) <= 7 else math.ceil(math.sqrt(len(images)))
    pictures = [Image.fromarray(np.ascontiguousarray(image)) for image in images]
    for picture in pictures:
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    gap, strip = 4, 0 if labels is None else 20
    width, height = max(p.width for p in pictures) + gap, max(p.height for p in pictures) + strip + gap
    columns = max(1, min(columns, len(images)))
    sheet = Image.new("RGB", (columns * width + gap, math.ceil(len(images) / columns) * height + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for index, picture in enumerate(pictures):
        left, top = index % columns * width + gap, index // columns * height + gap
        sheet.paste(picture, (left, top))
        if labels is not None:
            text = labels[index]
            while text and draw.textlength(text, font=font) > width - gap:
                text = text[:-1]
            draw.text((left, top + height - strip), text, fill="black", font=font)
    return np.array(sheet)
