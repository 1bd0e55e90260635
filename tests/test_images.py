"""The picture door: every format in, upright sRGB inside, the same type out; files whole or not at all."""

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile, ImageOps

from aboutface.errors import MissingError, OutputError, PhotoError, UsageError
from aboutface.files import atomic_path
from aboutface.images import encode_image, read_photo, to_pixels, to_tensor, write_image

RNG = np.random.default_rng(0)
# No two pixels, rows or columns alike, and not square: no wrong turn can pass.
COLOUR = np.arange(6 * 9 * 3, dtype=np.uint8).reshape(6, 9, 3)
GREY = COLOUR[..., 0]
ALPHA = (255 - GREY * 3).astype(np.uint8)


def smooth(height=24, width=40):
    """A picture that JPEG hardly changes: (H, W, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    channels = [255 * x / width, 255 * y / height, 128 + 0 * x]
    return np.stack(channels, -1).astype(np.uint8)


def coded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def three(grey):
    return np.repeat(grey[..., None], 3, -1)


def photo_of(image, format="PNG", **options):
    return read_photo(coded(image, format, **options))


# ---- formats ----


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "JPEG2000"])
def test_lossless_formats_are_read_exactly(format):
    picture = COLOUR if format != "GIF" else COLOUR // 64 * 64
    options = {"WEBP": {"lossless": True}, "ICO": {"sizes": [(9, 6)]}, "JPEG2000": {"num_resolutions": 1}}
    photo = photo_of(Image.fromarray(picture), format, **options.get(format, {}))
    assert np.array_equal(photo.pixels, picture)
    assert photo.format == format
    assert photo.size == (6, 9) == (photo.height, photo.width)


@pytest.mark.parametrize(("format", "options"), [("JPEG", {}), ("WEBP", {"quality": 95}), ("AVIF", {"quality": 95})])
@pytest.mark.parametrize("progressive", [False, True])
def test_lossy_formats_are_read_closely(format, options, progressive):
    options = options | ({"quality": 95, "progressive": progressive} if format == "JPEG" else {})
    photo = photo_of(Image.fromarray(smooth()), format, **options)
    assert np.abs(photo.pixels.astype(int) - smooth()).mean() < 3


def test_grey_and_one_bit():
    assert np.array_equal(photo_of(Image.fromarray(GREY)).pixels, three(GREY))
    bits = (GREY % 2 * 255).astype(np.uint8)
    assert np.array_equal(photo_of(Image.fromarray(bits).convert("1")).pixels, three(bits))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_alpha_is_kept_and_colour_under_it_untouched(mode):
    rgba = np.dstack([three(GREY), ALPHA])
    image = Image.fromarray(rgba)
    photo = read_photo(image.convert(mode)) if mode == "PA" else photo_of(image.convert(mode))
    assert np.array_equal(photo.pixels, three(GREY))
    assert photo.alpha is not None
    assert np.array_equal(photo.alpha, ALPHA)


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_alpha_is_divided_out(mode):
    image = Image.new("LA" if mode == "La" else "RGBA", (3, 2), (200, 128) if mode == "La" else (200, 200, 200, 128))
    photo = read_photo(image.convert(mode))
    assert np.abs(photo.pixels.astype(int) - 200).max() <= 1
    assert photo.alpha is not None
    assert (photo.alpha == 128).all()


def test_palette_with_transparency():
    image = Image.new("P", (9, 6))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([i % 3 for i in range(54)])
    index = np.arange(54).reshape(6, 9) % 3
    for format, options in [("PNG", {"transparency": bytes([255, 0, 40])}), ("GIF", {"transparency": 1})]:
        photo = photo_of(image, format, **options)
        assert photo.alpha is not None
        assert np.array_equal(photo.alpha, np.array([255, 0, 40 if format == "PNG" else 255])[index])
        assert np.array_equal(photo.pixels, np.eye(3, dtype=np.uint8)[index] * 255)


@pytest.mark.parametrize(("mode", "key", "value"), [("RGB", (1, 2, 3), 3), ("L", 7, 7), ("1", 0, 0), ("I;16", 7, 0)])
def test_a_transparent_colour_key(mode, key, value):
    image = Image.new(mode, (4, 3), key)
    photo = photo_of(image, transparency=key)
    assert (photo.pixels[..., 2] == value).all()
    # Pillow keeps no key of 16-bit grey; what matters is that it reads.
    assert mode == "I;16" or (photo.alpha is not None and (photo.alpha == 0).all())


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "PGM"])
def test_sixteen_bit_grey_is_rounded_not_cut(mode):
    deep = np.linspace(0, 65535, 54).astype(np.uint16).reshape(6, 9)
    if mode == "PGM":
        source: object = b"P5 9 6 65535\n" + deep.astype(">u2").tobytes()
    elif mode == "I;16B":
        source = Image.frombytes("I;16B", (9, 6), deep.astype(">u2").tobytes())
    else:
        source = coded(Image.fromarray(deep))
    expected = np.floor(deep / 257 + 0.5).astype(np.uint8)
    assert np.array_equal(read_photo(source).pixels, three(expected))


def test_sixteen_bit_colour(tmp_path):
    import cv2

    deep = np.arange(6 * 9 * 3, dtype=np.uint16).reshape(6, 9, 3) * 400
    for suffix in (".png", ".tiff"):
        path = tmp_path / f"deep{suffix}"
        assert cv2.imwrite(str(path), deep[..., ::-1])
        assert np.abs(read_photo(path).pixels - deep / 257).max() <= 1


@pytest.mark.parametrize("full", [1, 255, 65535])
def test_float_pictures_of_any_usual_range(full):
    image = Image.fromarray((GREY / 255 * full).astype(np.float32))
    assert np.abs(photo_of(image, "TIFF").pixels.astype(int) - three(GREY)).max() <= (full == 1) * 1
    assert np.array_equal(read_photo(Image.fromarray(GREY).convert("I")).pixels, three(GREY))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 1e6])
def test_float_pictures_out_of_range_are_refused(value):
    array = np.zeros((3, 4), np.float32)
    array[1, 1] = value
    with pytest.raises(PhotoError, match=r"NaN|expected 0 to 65535"):
        photo_of(Image.fromarray(array), "TIFF")


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_has_the_colours_one_sees(format):
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    photo = photo_of(cmyk, format)
    assert np.abs(photo.pixels.astype(int) - [255, 0, 0]).max() <= 3


def test_adobe_inverted_cmyk_jpeg():
    data = coded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    # Pillow writes plain CMYK with an Adobe marker and inverts; without the marker the same numbers mean the opposite.
    assert b"Adobe" in data
    assert read_photo(data).pixels.mean((0, 1)).round().tolist() == pytest.approx([255, 0, 0], abs=3)


def test_lab_and_ycbcr_and_hsv():
    lab = Image.new("LAB", (4, 4), (138, 209, 198))  # L* 54, a* 81, b* 70: red
    assert np.abs(photo_of(lab, "TIFF").pixels.astype(int) - [255, 0, 0]).max() <= 6
    for mode in ("YCbCr", "HSV"):
        image = Image.fromarray(smooth()).convert(mode)
        assert np.abs(read_photo(image).pixels.astype(int) - smooth()).max() <= 6


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_its_first_frame_and_says_so(format):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    photo = photo_of(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert (photo.pixels == [255, 0, 0]).all()
    assert any("only the first" in warning for warning in photo.warnings)
    assert photo_of(frames[0], format).warnings == ()


# ---- orientation and colour ----


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {"quality": 100} if format in ("JPEG", "AVIF") else {}
    data = coded(Image.fromarray(smooth()), format, exif=exif, **options)
    photo = read_photo(data)
    turned = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    mirrored = smooth()[:, ::-1] if orientation in (2, 4, 5, 7) else smooth()
    expected = np.rot90(mirrored, turned)
    assert photo.pixels.shape == expected.shape
    assert np.abs(photo.pixels.astype(int) - expected).mean() < 2
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(photo.pixels, np.asarray(ImageOps.exif_transpose(image).convert("RGB")))


def test_orientation_6_is_a_quarter_turn_clockwise_of_alpha_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = photo_of(Image.fromarray(np.dstack([COLOUR, ALPHA])), exif=exif)
    assert photo.alpha is not None
    assert np.array_equal(photo.pixels, np.rot90(COLOUR, -1))
    assert np.array_equal(photo.alpha, np.rot90(ALPHA, -1))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_broken_exif_is_ignored(exif):
    assert photo_of(Image.fromarray(smooth()), "JPEG", exif=exif).size == (24, 40)


def wide_profile():
    """An RGB profile with other primaries: sRGB's own, its red and green colorant tags exchanged."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = data.index(b"rXYZ"), data.index(b"gXYZ")
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data)


def test_icc_profile_is_applied():
    # In the exchanged profile the code (255, 0, 0) is the colour that sRGB calls (0, 255, 0).
    for format in ("PNG", "JPEG", "TIFF", "WEBP"):
        options = {"lossless": True} if format == "WEBP" else {}
        photo = photo_of(Image.new("RGB", (16, 16), "red"), format, icc_profile=wide_profile(), **options)
        assert np.abs(photo.pixels.astype(int) - [0, 255, 0]).max() <= 3
        assert photo.warnings == ()


def test_icc_profile_keeps_alpha_and_palette():
    rgba = np.dstack([np.zeros_like(COLOUR), ALPHA])
    rgba[..., 0] = 255
    photo = photo_of(Image.fromarray(rgba), icc_profile=wide_profile())
    assert photo.alpha is not None
    assert np.array_equal(photo.alpha, ALPHA)
    assert np.abs(photo.pixels.astype(int) - [0, 255, 0]).max() <= 1
    palette = Image.new("RGB", (4, 4), "red").quantize(4)
    assert np.abs(photo_of(palette, icc_profile=wide_profile()).pixels.astype(int) - [0, 255, 0]).max() <= 1


def test_the_srgb_profile_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = RNG.integers(0, 256, (50, 60, 3), dtype=np.uint8)
    assert np.abs(photo_of(Image.fromarray(noise), icc_profile=profile).pixels.astype(int) - noise).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA"])
def test_broken_or_unfit_profile_is_ignored_with_a_warning(mode):
    image = Image.fromarray(smooth()).convert(mode)
    format = "TIFF" if mode == "CMYK" else "PNG"
    plain = photo_of(image, format)
    profiles = [b"this is no profile" * 20, wide_profile()[:200]] + ([wide_profile()] if mode in ("L", "CMYK") else [])
    for profile in profiles:
        photo = photo_of(image, format, icc_profile=profile)
        assert np.array_equal(photo.pixels, plain.pixels)
        assert any("profile" in warning for warning in photo.warnings)


# ---- HEIC ----


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic(orientation):
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image = Image.fromarray(smooth(64, 96))
    heif.from_pillow(image).save(buffer, quality=95, exif=exif.tobytes())
    photo = read_photo(buffer.getvalue())
    expected = np.rot90(smooth(64, 96), -1 if orientation == 6 else 0)
    assert photo.pixels.shape == expected.shape
    assert np.abs(photo.pixels.astype(int) - expected).mean() < 3


def test_heic_without_the_extra_names_the_line_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingError, match=r"pip install 'aboutface\[heif\]'"):
        read_photo(b"\0\0\0\x18ftypheic" + bytes(100))


# ---- refusals ----


def sentence(error):
    text = str(error.value)
    assert "\n" not in text
    assert 10 < len(text) < 500
    return text


def test_a_bomb_is_refused_before_decoding(monkeypatch):
    # 12 kB that would unfold to 300 MB.
    data = coded(Image.new("1", (10001, 10000)))
    assert len(data) < 20_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(PhotoError, match="limit of 100000000") as error:
        read_photo(data)
    sentence(error)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_the_pixel_limit_is_exact(format):
    data = coded(Image.new("RGB", (20, 10)), format)
    assert read_photo(data, max_pixels=200).size == (10, 20)
    with pytest.raises(PhotoError, match="limit of 199"):
        read_photo(data, max_pixels=199)
    for source in (Image.new("RGB", (20, 10)), np.zeros((10, 20, 3), np.uint8), torch.zeros(3, 10, 20)):
        with pytest.raises(PhotoError, match="limit of 199"):
            read_photo(source, max_pixels=199)


def test_the_limit_may_be_above_pillows_own(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    data = coded(Image.new("RGB", (20, 10)))
    assert read_photo(data).size == (10, 20)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000"])
def test_truncated_files_are_refused_never_half_a_picture(format, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as other libraries leave it
    data = coded(Image.fromarray(RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)), format)
    whole = read_photo(data).pixels
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    refused = 0
    for cut in np.linspace(1, len(data) - 1, 40).astype(int):
        try:
            assert np.array_equal(read_photo(data[:cut]).pixels, whole)
        except PhotoError:
            refused += 1
    assert refused >= 38
    with pytest.raises(PhotoError, match=r"truncated|damaged"):
        read_photo(data[: len(data) * 3 // 4])


def test_files_that_are_no_photo(tmp_path, monkeypatch):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("this is no picture")
    (tmp_path / "vector.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    cases = {
        "empty.jpg": "empty",
        "text.jpg": "not a picture",
        "vector.eps": "not a picture",
        "none.jpg": "no such file",
        ".": "a folder",
        "x" * 300: "cannot be read",
        "nul\0byte": "cannot be read",
    }
    for name, words in cases.items():
        path = os.path.join(tmp_path, name)
        with pytest.raises(PhotoError, match=words) as error:
            read_photo(path)
        assert str(tmp_path) in sentence(error)
    with pytest.raises(PhotoError, match="empty"):
        read_photo("")
    with pytest.raises(PhotoError, match="empty"):
        read_photo(b"")
    for url in ("http://example.com/me.jpg", "HTTPS://example.com/me.jpg", "file:///me.jpg"):
        with pytest.raises(PhotoError, match="downloading is off"):
            read_photo(url)

    def forbidden(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(PhotoError, match="permission"):
        read_photo(tmp_path / "text.jpg")


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="no device files here")
def test_a_device_is_no_photo():
    with pytest.raises(PhotoError, match="device"):
        read_photo("/dev/null")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((5, 0), np.uint8), "no pixels"),
        (np.zeros((5, 5, 2), np.uint8), r"expected an array \(H, W, 3\)"),
        (np.zeros((3, 50, 50), np.uint8), "transpose"),
        (np.zeros((2, 5, 5, 3), np.uint8), "expected an array"),
        (np.array(3, np.uint8), "expected an array"),
        (np.zeros((5, 5, 3), np.int64), "expected uint8"),
        (np.zeros((5, 5, 3), complex), "expected uint8"),
        (np.zeros((5, 5, 3), object), "expected uint8"),
        (np.zeros((5, 5, 3), bool), "expected uint8"),
        (np.full((5, 5, 3), 200.0), r"got 200 to 200"),
        (np.full((5, 5, 3), -0.5), r"\[0, 1\]"),
        (np.full((5, 5, 3), np.nan), "NaN"),
        (np.full((5, 5, 3), np.inf, np.float16), "infinite"),
        (torch.zeros(50, 50, 3), "expected a tensor"),
        (torch.zeros(1, 3, 5, 5), "list"),
        (torch.zeros(3, 0, 5), "no pixels"),
        (torch.zeros(3, 5, 5, dtype=torch.int32), "expected a tensor of uint8"),
        (torch.full((3, 5, 5), float("nan")), "NaN"),
        (torch.full((3, 5, 5), 255.0), "divide by 255"),
        (Image.new("RGB", (0, 5)), "no pixels"),
    ],
)
def test_arrays_that_are_no_photo(array, words):
    with pytest.raises(PhotoError, match=words) as error:
        read_photo(array)
    sentence(error)


@pytest.mark.parametrize("source", [None, 3, 2.5, ["a.jpg"], {"a": 1}, object()])
def test_other_types_are_a_usage_error(source):
    with pytest.raises(UsageError, match=type(source).__name__) as error:
        read_photo(source)
    sentence(error)


def test_a_closed_pillow_image(tmp_path):
    path = tmp_path / "a.png"
    write_image(path, COLOUR)
    image = Image.open(path)
    image.close()
    with pytest.raises(PhotoError, match="damaged"):
        read_photo(image)


def test_pillow_warnings_stay_inside():
    data = bytearray(coded(Image.fromarray(smooth()), "TIFF"))
    palette = Image.fromarray(GREY).convert("P")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        photo_of(palette, "PNG", transparency=bytes(range(200)))
        for place in range(8, len(data), 3):
            broken = bytearray(data)
            broken[place] ^= 0xFF
            try:
                read_photo(bytes(broken))
            except PhotoError:
                continue
    assert seen == []


def test_threads_read_alike_and_the_process_stays_as_it_was():
    from concurrent.futures import ThreadPoolExecutor

    files = [encode_image(np.full((60, 80, 3), i, np.uint8), suffix=".jpg" if i % 2 else ".png") for i in range(40)]
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    with ThreadPoolExecutor(8) as pool:
        photos = list(pool.map(read_photo, files))
    assert [int(photo.pixels[0, 0, 0]) for photo in photos] == list(range(40))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))


# ---- what a Photo is ----


def test_one_pixel():
    assert read_photo(coded(Image.new("RGB", (1, 1), "red"))).pixels.tolist() == [[[255, 0, 0]]]


def test_names_paths_and_hashes(tmp_path):
    path = tmp_path / "my photo.v2.png"
    write_image(path, COLOUR)
    photo = read_photo(path)
    assert (photo.name, photo.path, photo.kind) == ("my photo.v2", path, "path")
    assert photo.sha256 == read_photo(path.read_bytes()).sha256 == read_photo(str(path)).sha256
    assert read_photo(path.read_bytes()).name == read_photo(COLOUR).name == "photo"
    assert read_photo(COLOUR).sha256 == read_photo(torch.tensor(COLOUR).permute(2, 0, 1)).sha256 != photo.sha256
    with Image.open(path) as image:
        assert read_photo(image).name == "my photo.v2"
    assert read_photo(photo) is photo


def test_a_photo_cannot_be_changed_nor_changes_its_source():
    source = np.dstack([COLOUR, ALPHA])
    photo = read_photo(source)
    with pytest.raises(ValueError, match="read-only"):
        photo.pixels[0, 0] = 0
    assert source.flags.writeable
    source[:] = 0
    assert np.array_equal(photo.pixels, COLOUR)
    like = photo.like(photo.pixels)
    like[:] = 0
    assert photo.pixels.any()


def test_standard_input_and_output():
    program = "from aboutface.images import *; p = read_photo('-'); write_image('-', p.pixels[:, ::-1])"
    done = subprocess.run([sys.executable, "-c", program], input=coded(Image.fromarray(COLOUR)), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(read_photo(done.stdout).pixels, COLOUR[:, ::-1])


def test_views_and_byte_orders_of_arrays():
    assert np.array_equal(read_photo(COLOUR[::-1, ::2]).pixels, COLOUR[::-1, ::2])
    deep = (COLOUR.astype(np.uint16) * 257).astype(">u2")
    assert np.array_equal(read_photo(deep).pixels, COLOUR)
    for dtype in (">f4", np.float16, np.float64):
        assert np.array_equal(read_photo((COLOUR / 255).astype(dtype)).pixels, COLOUR)
    assert np.array_equal(read_photo(GREY).pixels, three(GREY))
    assert np.array_equal(read_photo(torch.tensor(GREY)[None]).pixels, three(GREY))


# ---- the same type out ----


@pytest.mark.parametrize("alpha", [False, True])
def test_like_round_trips(alpha, tmp_path):
    array = np.dstack([COLOUR, ALPHA]) if alpha else COLOUR
    path = tmp_path / "a.png"
    path.write_bytes(coded(Image.fromarray(array)))
    sources = [array, torch.tensor(array).permute(2, 0, 1), Image.fromarray(array), path.read_bytes(), path]
    for source in sources:
        photo = read_photo(source)
        out = photo.like(255 - photo.pixels)
        expected_type = Image.Image if isinstance(source, Path) else type(source)
        assert isinstance(out, expected_type)
        again = read_photo(out)
        assert np.array_equal(again.pixels, 255 - COLOUR)
        assert (again.alpha is not None) == alpha
        assert again.alpha is None or np.array_equal(again.alpha, ALPHA)
        cropped = read_photo(photo.like(photo.pixels[1:4, 2:8]))
        assert cropped.size == (3, 6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_like_keeps_the_dtype_of_a_tensor(dtype):
    tensor = torch.tensor(COLOUR).permute(2, 0, 1)
    tensor = tensor if dtype == torch.uint8 else (tensor / 255).to(dtype)
    tensor = tensor.requires_grad_(dtype == torch.float32)
    photo = read_photo(tensor)
    out = photo.like(photo.pixels)
    assert out.dtype == dtype
    assert out.shape == tensor.shape
    assert torch.equal(read_photo(out).tensor, photo.tensor)
    assert (out.double() - tensor.detach().double()).abs().max() < (0.003 if dtype == torch.bfloat16 else 1e-3)


def test_like_of_jpeg_bytes_is_a_jpeg_close_to_the_pixels():
    photo = photo_of(Image.fromarray(smooth()), "JPEG", quality=95)
    out = photo.like(smooth())
    assert out[:3] == b"\xff\xd8\xff"
    assert np.abs(read_photo(out).pixels.astype(int) - smooth()).mean() < 1.5


@pytest.mark.parametrize("pixels", [COLOUR.astype(float), COLOUR[..., 0], COLOUR[:0], np.dstack([COLOUR, ALPHA])])
def test_like_takes_pixels_only(pixels):
    with pytest.raises(UsageError, match="pixels"):
        read_photo(COLOUR).like(pixels)


# ---- tensors ----


def test_tensor_round_trip_is_exact():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)
    tensor = to_tensor(every)
    assert tensor.shape == (1, 3, 16, 16)
    assert tensor.dtype == torch.float32
    assert (float(tensor.min()), float(tensor.max())) == (0.0, 1.0)
    for same in (tensor, tensor[0], tensor.double()):
        assert np.array_equal(to_pixels(same), every)
    assert torch.equal(read_photo(every).tensor, tensor)


def test_to_pixels_rounds_half_up_and_clamps():
    values = torch.tensor([-1.0, 0.5 / 255 - 1e-6, 0.5 / 255 + 1e-6, 127.5 / 255, 2.0, float("nan")])
    tensor = values.expand(3, 1, 6)
    assert to_pixels(tensor)[0, :, 0].tolist() == [0, 0, 1, 128, 255, 0]
    for wrong in (
        torch.zeros(2, 3, 4, 4),
        torch.zeros(1, 4, 4),
        torch.zeros(3, 4, 4, dtype=torch.uint8),
        torch.zeros(()),
    ):
        with pytest.raises(UsageError, match="expected float"):
            to_pixels(wrong)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_any_array_survives_png_and_tensor(height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    photo = read_photo(encode_image(pixels))
    assert np.array_equal(photo.pixels, pixels)
    assert np.array_equal(to_pixels(photo.tensor), pixels)


# ---- writing ----


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".PNG"])
def test_write_lossless(suffix, tmp_path):
    path = tmp_path / "new" / "folder" / f"a{suffix}"
    write_image(path, COLOUR, ALPHA)
    photo = read_photo(path)
    assert np.array_equal(photo.pixels, COLOUR)
    assert photo.alpha is not None
    assert np.array_equal(photo.alpha, ALPHA)
    deep = np.linspace(0, 65535, 54).astype(np.uint16).reshape(6, 9)
    write_image(path, deep)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), deep)
    write_image(path, GREY, ALPHA)
    photo = read_photo(path)
    assert np.array_equal(photo.pixels, three(GREY))
    assert photo.alpha is not None


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_write_lossy(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    write_image(path, smooth(), np.full((24, 40), 200, np.uint8))
    photo = read_photo(path)
    assert np.abs(photo.pixels.astype(int) - smooth()).mean() < 2
    assert (photo.alpha is not None) == (suffix == ".webp")


def test_jpeg_keeps_full_colour_resolution(tmp_path):
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2] = [255, 0, 0]
    stripes[:, 1::2] = [0, 0, 255]
    write_image(tmp_path / "a.jpg", stripes)
    assert np.abs(read_photo(tmp_path / "a.jpg").pixels.astype(int) - stripes).mean() < 8


@pytest.mark.parametrize("name", ["a.bmp", "a.gif", "a", "a.", ".png"])
def test_unknown_suffix_lists_the_known(name, tmp_path):
    with pytest.raises(OutputError, match=r"\.png \.jpg"):
        write_image(tmp_path / name, COLOUR)
    assert list(tmp_path.iterdir()) == []


def test_what_a_format_cannot_hold(tmp_path):
    with pytest.raises(OutputError, match="16 bits"):
        write_image(tmp_path / "a.jpg", np.zeros((4, 4), np.uint16))
    with pytest.raises(OutputError, match="cannot hold 17000 x 2"):
        write_image(tmp_path / "a.webp", np.zeros((2, 17000, 3), np.uint8))
    for pixels, alpha in [(COLOUR / 255, None), (COLOUR, ALPHA[1:]), (COLOUR[:0], None)]:
        with pytest.raises(UsageError):
            write_image(tmp_path / "a.png", pixels, alpha)
    assert list(tmp_path.iterdir()) == []


def test_equal_pixels_give_equal_bytes():
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        assert encode_image(COLOUR, suffix=suffix) == encode_image(COLOUR.copy(), suffix=suffix)


# ---- atomicity ----


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_exception_leaves_everything_as_it_was(error, old, tmp_path):
    path = tmp_path / "a.bin"
    if old is not None:
        path.write_bytes(old)

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise error("stop")

    with pytest.raises(error):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else ["a.bin"])
    assert old is None or path.read_bytes() == old


def test_success_replaces_and_the_temporary_name_has_the_suffix(tmp_path):
    path = tmp_path / "deep" / "a.tar.gz"
    path.parent.mkdir()
    path.write_bytes(b"old")
    with atomic_path(path) as temporary:
        assert temporary.parent.resolve() == path.parent.resolve()
        assert temporary.suffix == ".gz"
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert len(list(path.parent.iterdir())) == 1


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    with atomic_path(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file" / "a.png", tmp_path / ("x" * 300 + ".png"), tmp_path / "nul\0.png"):
        with pytest.raises(OutputError, match="cannot be written"):
            write_image(path, COLOUR) if path != tmp_path else atomic_path(path).__enter__()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    if os.path.exists("/dev/null"):
        with pytest.raises(OutputError, match="device"), atomic_path("/dev/null"):
            pass


def test_a_full_disk_is_an_output_error(tmp_path):
    def fill():
        with atomic_path(tmp_path / "a.png") as temporary:
            temporary.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        fill()
    with pytest.raises(OutputError), atomic_path(tmp_path / "b.png"):
        pass  # nothing was written
    assert list(tmp_path.iterdir()) == []
