"""Pictures at the outer door: any photo in, upright 8-bit sRGB inside, the same type out; files whole or not at all."""

import hashlib
import io
import os
import re
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError
from torch import Tensor

from .errors import AboutfaceError, OutputError, PhotoError, UsageError, need
from .files import atomic_path, reason, what

Kind = Literal["path", "bytes", "pil", "numpy", "torch"]
MAX_PIXELS = 100_000_000
MAX_BYTES = 2**30
# Pillow's other readers start programs (EPS), have no signature (TGA) or are no photo formats.
READABLE = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "ICO", "PPM", "JPEG2000", "AVIF", "HEIF")
WRITABLE: dict[str, tuple[str, dict[str, Any]]] = {
    # Level 3 costs half the time of Pillow's default for a tenth more bytes.
    ".png": ("PNG", {"compress_level": 3}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_ORIENTATION = 0x0112
_ADVICE = "give a JPEG, PNG, WebP, TIFF, GIF, BMP, AVIF or HEIC photo"
_DECODING = threading.RLock()


@dataclass(frozen=True, eq=False)
class Photo:
    """One picture as everything behind the door sees it, and what is needed to answer in the caller's type."""

    pixels: np.ndarray
    """(H, W, 3) uint8 sRGB, upright, read-only."""
    alpha: np.ndarray | None
    """(H, W) uint8, 255 opaque, read-only; None where the source has no transparency."""
    kind: Kind
    """What the source was."""
    name: str = "photo"
    """Stem for output names."""
    path: Path | None = None
    sha256: str = ""
    """Hex digest of the file's bytes; of `pixels` where a decoded picture came in."""
    warnings: tuple[str, ...] = ()
    format: str | None = None
    """Pillow's name of the file format, where there was a file."""
    like_tensor: Tensor | None = None
    """Empty tensor of the dtype and device that came in."""

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def tensor(self) -> Tensor:
        """(1, 3, H, W) float32 in [0, 1]."""
        return to_tensor(self.pixels)

    def like(self, pixels: np.ndarray) -> Any:
        """Pixels (H, W, 3) uint8 in the type that came in, with the photo's alpha where the size is the photo's.

        bytes: JPEG bytes for JPEG, else PNG bytes. Path and Pillow: Pillow image, RGB or RGBA. numpy: (H, W, 3 or 4)
        uint8. torch: (3 or 4, H, W), uint8 or float in [0, 1] in the dtype and on the device that came in.
        """
        pixels = _checked_pixels(pixels)
        alpha = self.alpha if self.alpha is not None and self.alpha.shape == pixels.shape[:2] else None
        if self.kind == "bytes":
            return encode_image(pixels, alpha, ".jpg" if self.format in ("JPEG", "MPO") else ".png")
        joined = pixels if alpha is None else np.dstack([pixels, alpha])
        if self.kind == "numpy":
            return joined.copy()
        if self.kind == "torch":
            assert self.like_tensor is not None
            tensor = torch.tensor(np.ascontiguousarray(joined)).permute(2, 0, 1)
            scaled = tensor / 255 if self.like_tensor.is_floating_point() else tensor
            return scaled.to(self.like_tensor).contiguous()
        return Image.fromarray(np.ascontiguousarray(joined))


def read_photo(source: Any, *, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a photo: upright by its EXIF orientation, sRGB by its ICC profile, 8 bits per channel.

    source: path ("-" is standard input), bytes of a file, Pillow image, numpy (H, W), (H, W, 1 | 3 | 4) or torch
    (1 | 3 | 4, H, W); arrays are sRGB, uint8, uint16 (numpy only, 0 to 65535) or float in [0, 1]. Of an animation the
    first frame is taken. `max_pixels` is checked before decoding.
    Raises PhotoError for a picture that cannot be read, UsageError for another type, MissingError for HEIC without
    pillow-heif.
    """
    if isinstance(source, Photo):
        return source
    try:
        if isinstance(source, (str, os.PathLike)):
            return _read_path(os.fspath(source), max_pixels)
        if isinstance(source, (bytes, bytearray, memoryview)):
            return _read_bytes(bytes(source), "the given bytes", "bytes", max_pixels)
        if isinstance(source, Image.Image):
            return _read_pil(source, max_pixels)
        if isinstance(source, np.ndarray):
            return _from_array(source, "numpy", max_pixels)
        if isinstance(source, Tensor):
            return _read_tensor(source, max_pixels)
    except MemoryError:
        raise PhotoError("the picture does not fit into memory; give a smaller one") from None
    raise UsageError(
        f"photo: expected a path, bytes, a Pillow image, numpy (H, W, 3) or torch (3, H, W), "
        f"got {type(source).__name__}"
    )


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 to (1, 3, H, W) float32 in [0, 1]."""
    # torch.tensor copies: from_numpy warns about read-only arrays.
    return torch.tensor(np.ascontiguousarray(_checked_pixels(pixels))).permute(2, 0, 1)[None].float() / 255


def to_pixels(tensor: Tensor) -> np.ndarray:
    """(1, 3, H, W) or (3, H, W) float to (H, W, 3) uint8: clamped to [0, 1], rounded half up; NaN is black."""
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or tensor.shape[0] != 3 or not tensor.is_floating_point():
        raise UsageError(f"image: expected float (1, 3, H, W) in [0, 1], got {tensor.dtype} {tuple(tensor.shape)}")
    scaled = tensor.detach().float().nan_to_num(0.0, 1.0, 0.0).clamp(0, 1) * 255
    return (scaled + 0.5).floor().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()


# ---- writing ----


def write_image(path: str | os.PathLike[str], pixels: np.ndarray, alpha: np.ndarray | None = None) -> None:
    """Write (H, W, 3) or (H, W) uint8, or (H, W) uint16, taken as sRGB, in the format of the suffix, atomically.

    .png .tif lossless, .webp and .jpg quality 95 (4:4:4). `alpha` (H, W) uint8 is dropped where the format has none:
    .jpg. "-" writes PNG to standard output. Raises OutputError, UsageError.
    """
    if os.fspath(path) == "-":
        data = encode_image(pixels, alpha, ".png")
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except OSError as error:
            raise OutputError(f"standard output: cannot be written ({reason(error)})") from None
        return
    data = encode_image(pixels, alpha, Path(path).suffix or str(path))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def encode_image(pixels: np.ndarray, alpha: np.ndarray | None = None, suffix: str = ".png") -> bytes:
    """The bytes of the file that `write_image` makes, by suffix."""
    if suffix.lower() not in WRITABLE:
        raise OutputError(f"{suffix}: unknown picture type; use one of {' '.join(WRITABLE)}")
    format, options = WRITABLE[suffix.lower()]
    pixels = np.ascontiguousarray(_checked_pixels(pixels, grey=True))
    deep = pixels.dtype == np.uint16
    if deep and format not in ("PNG", "TIFF"):
        raise OutputError(f"{suffix}: cannot hold 16 bits per pixel; use .png or .tif")
    if alpha is not None and format != "JPEG":
        if alpha.shape != pixels.shape[:2] or alpha.dtype != np.uint8 or deep:
            raise UsageError(f"alpha: expected uint8 {pixels.shape[:2]}, got {alpha.dtype} {alpha.shape}")
        pixels = np.dstack([pixels, alpha])
    if pixels.ndim == 3 and pixels.shape[2] == 2:
        pixels = np.dstack([pixels[..., :1]] * 3 + [pixels[..., 1:]])
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, format=format, **options)
    except (OSError, ValueError, SystemError) as error:
        height, width = pixels.shape[:2]
        raise OutputError(f"{suffix}: cannot hold {width} x {height} pixels ({reason(error)}); use .png") from None
    return buffer.getvalue()


def _checked_pixels(pixels: np.ndarray, grey: bool = False) -> np.ndarray:
    colour = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    flat = grey and pixels.ndim == 2 and pixels.dtype in (np.uint8, np.uint16)
    if not (colour or flat) or pixels.size == 0:
        raise UsageError(f"pixels: expected uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
    return pixels


# ---- reading ----


def _read_path(text: str, max_pixels: int) -> Photo:
    if text == "-":
        stream = getattr(sys.stdin, "buffer", None)  # none in notebooks and services
        data = b"" if stream is None else stream.read(MAX_BYTES + 1)
        return _read_bytes(data, "standard input", "path", max_pixels)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise PhotoError(f"{text}: downloading is off; save the photo to a file and give its path")
    if not text:
        raise PhotoError("photo: the path is empty; give the path of a photo")
    path = Path(text)
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise PhotoError(f"{text}: is {what(path)}, not a photo; name a file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise PhotoError(f"{text}: no such file; check the path") from None
    except PermissionError:
        raise PhotoError(f"{text}: may not be read (permission denied); change its permissions") from None
    except (OSError, ValueError) as error:
        raise PhotoError(f"{text}: cannot be read ({reason(error)}); check the path") from None
    return _read_bytes(data, text, "path", max_pixels, path)


def _read_bytes(data: bytes, label: str, kind: Kind, max_pixels: int, path: Path | None = None) -> Photo:
    if not data:
        raise PhotoError(f"{label}: is empty (0 bytes); {_ADVICE}")
    if len(data) > MAX_BYTES:
        raise PhotoError(f"{label}: is larger than {MAX_BYTES >> 20} MiB; {_ADVICE}")
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and b"avif" not in data[:64]:
        # Pillow knows no HEIC by itself; registering twice is harmless.
        need("pillow_heif", "heif").register_heif_opener()
    with _guarded(label, max_pixels), Image.open(io.BytesIO(data), formats=_readable()) as image:
        pixels, alpha, notes = _decode(image, label, max_pixels)
        format = image.format
    name = path.stem.strip(". ") if path else ""
    digest = hashlib.sha256(data).hexdigest()
    return Photo(pixels, alpha, kind, name or "photo", path, digest, notes, format)


def _read_pil(image: Image.Image, max_pixels: int) -> Photo:
    with _guarded("the given Pillow image", max_pixels):
        pixels, alpha, notes = _decode(image, "the given Pillow image", max_pixels)
    filename = getattr(image, "filename", "")
    name = Path(filename).stem.strip(". ") if isinstance(filename, str) else ""
    return Photo(pixels, alpha, "pil", name or "photo", None, _digest(pixels), notes, image.format)


def _read_tensor(tensor: Tensor, max_pixels: int) -> Photo:
    shape = tuple(tensor.shape)
    if tensor.ndim != 3 or shape[0] not in (1, 3, 4):
        raise PhotoError(f"photo: expected a tensor (3, H, W), got {shape}; give a batch as a list of tensors")
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise PhotoError(f"photo: expected a tensor of uint8 or of float in [0, 1], got {tensor.dtype}; convert it")
    plain = tensor.detach().permute(1, 2, 0).cpu()
    array = (plain if tensor.dtype == torch.uint8 else plain.float()).numpy()
    return _from_array(array, "torch", max_pixels, tensor.new_empty(0))


def _from_array(array: np.ndarray, kind: Kind, max_pixels: int, like_tensor: Tensor | None = None) -> Photo:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise PhotoError(
            f"photo: expected an array (H, W, 3), got {array.shape}; for (3, H, W) call .transpose(1, 2, 0)"
        )
    height, width, channels = array.shape
    _check_size(f"the given {kind} array", width, height, max_pixels)
    array = _eight_bits_of_array(array)
    pixels = np.repeat(array, 3, axis=2) if channels == 1 else np.array(array[..., :3], order="C")
    alpha = array[..., 3].copy() if channels == 4 else None
    _freeze(pixels, alpha)
    return Photo(pixels, alpha, kind, sha256=_digest(pixels), like_tensor=like_tensor)


def _eight_bits_of_array(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return _eight_bits(array, 65535)
    if array.dtype.kind != "f":
        raise PhotoError(f"photo: expected uint8, uint16 or float in [0, 1], got {array.dtype}; convert with .astype")
    low, high = float(array.min()), float(array.max())
    if not np.isfinite(low + high):
        raise PhotoError("photo: some values are NaN or infinite; expected float in [0, 1]")
    # Half a grey level of overshoot, as resampling leaves it, is no mistake of the caller.
    if low < -0.5 / 255 or high > 1 + 0.5 / 255:
        raise PhotoError(f"photo: expected float in [0, 1], got {low:.4g} to {high:.4g}; divide by 255 or use uint8")
    return _eight_bits(array, 1)


def _eight_bits(array: np.ndarray, full: float) -> np.ndarray:
    """Values 0 to `full` to uint8, rounded half up."""
    return (np.clip(array.astype(np.float32) / full, 0, 1) * 255 + 0.5).astype(np.uint8)


def _decode(image: Image.Image, label: str, max_pixels: int) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Pixels, alpha and warnings of an opened image. Only inside `_guarded`."""
    _check_size(label, image.width, image.height, max_pixels)
    image.load()
    orientation = _orientation(image)
    rgb, alpha, notes = _srgb_and_alpha(image, label)
    pixels = _upright(np.asarray(rgb), orientation)
    mask = None if alpha is None else _upright(np.asarray(alpha), orientation)
    _freeze(pixels, mask)
    if _is_animated(image):
        notes += ("the file holds several pictures: only the first one is used",)
    return pixels, mask, notes


def _srgb_and_alpha(image: Image.Image, label: str) -> tuple[Image.Image, Image.Image | None, tuple[str, ...]]:
    profile = image.info.get("icc_profile")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_grey_levels(np.asarray(image), label))
    if image.mode == "La":
        image = image.convert("LA")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    bases = {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK", "LAB": "LAB"}
    if alpha is not None and image.mode not in bases:
        image = image.convert("RGBA")  # unpremultiplies, and applies the palette
    image = image.convert(bases.get(image.mode, "RGB"))
    if image.mode == "LAB":
        # ICC profiles of Lab files are rare and describe the same space.
        return ImageCms.profileToProfile(image, _profile("LAB"), _profile("sRGB"), outputMode="RGB"), alpha, ()  # type: ignore[return-value]
    if profile:
        try:
            return _to_srgb(image, profile), alpha, ()
        except Exception:
            # Profiles are foreign bytes: littlecms refuses them in many ways, and each means "as if there were none".
            return image.convert("RGB"), alpha, ("the colour profile is broken or does not fit: it was ignored",)
    return image.convert("RGB"), alpha, ()


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(
        image,
        source,
        _profile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None
    return converted


def _profile(name: Literal["LAB", "sRGB"]) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name))


def _grey_levels(array: np.ndarray, label: str) -> np.ndarray:
    """uint8 of a deep grey picture. Its range is 0 to 65535, or what else its values can only mean."""
    low, high = float(array.min()), float(array.max())
    if not np.isfinite(low + high):
        raise PhotoError(f"{label}: some pixels are NaN or infinite; save it as 8- or 16-bit picture")
    if low < 0 or high > 65535:
        raise PhotoError(f"{label}: grey levels run from {low:.4g} to {high:.4g}, expected 0 to 65535; rescale it")
    if array.dtype.kind == "f" and high <= 1:
        return _eight_bits(array, 1)
    # Pillow widens 8-bit grey to mode I and F without rescaling; a 16-bit photo is never that dark.
    wide = array.dtype.itemsize == 4 and high <= 255
    return _eight_bits(array, 255 if wide else 65535)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # Damaged EXIF is common and says nothing about the pixels.
        return 1


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """A contiguous copy turned by the EXIF orientation 1 to 8."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.array(array, order="C")


def _is_animated(image: Image.Image) -> bool:
    # MPO is left out: phones append a gain map or a second eye to an ordinary photo.
    if image.format not in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:
        return False


def _check_size(label: str, width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise PhotoError(f"{label}: has no pixels ({width} x {height}); {_ADVICE}")
    if width * height > max_pixels:
        raise PhotoError(
            f"{label}: {width} x {height} pixels are more than the limit of {max_pixels}; "
            "shrink the picture or raise max_pixels"
        )


@contextmanager
def _guarded(label: str, max_pixels: int) -> Iterator[None]:
    """Every failure of a decoder becomes a PhotoError, its warnings stay inside, and its limits are ours.

    Pillow's limits and Python's warning filters belong to the whole process, hence the lock.
    """
    with _DECODING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, False
        try:
            yield
        except AboutfaceError:
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            message = f"{label}: more pixels than the limit of {max_pixels}; shrink the picture or raise max_pixels"
            raise PhotoError(message) from None
        except UnidentifiedImageError:
            raise PhotoError(
                f"{label}: is not a picture that can be read, or its header is damaged; {_ADVICE}"
            ) from None
        except Exception as error:
            # Decoders fail with OSError, SyntaxError, struct.error, TypeError, IndexError...: all mean bad bytes.
            message = f"{label}: the picture is truncated or damaged ({reason(error)}); copy or download it again"
            raise PhotoError(message) from None
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _readable() -> list[str]:
    Image.init()
    return [name for name in READABLE if name in Image.OPEN]


def _freeze(*arrays: np.ndarray | None) -> None:
    for array in arrays:
        if array is not None:
            array.setflags(write=False)


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()
