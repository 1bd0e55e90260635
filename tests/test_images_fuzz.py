"""Whatever bytes come, a Photo or a PhotoError comes back, and nothing is left on disk."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aboutface.errors import PhotoError
from aboutface.images import Photo, read_photo

FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "AVIF", "JPEG2000"]


def seed_pictures() -> list[bytes]:
    """Small files of every format, with EXIF, alpha, palettes and several frames among them."""
    noise = np.random.default_rng(1).integers(0, 256, (23, 37, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    variants: list[tuple[Image.Image, str, dict]] = [(picture, format, {}) for format in FORMATS]
    variants += [
        (picture, "JPEG", {"progressive": True, "exif": exif}),
        (picture.convert("CMYK"), "JPEG", {}),
        (picture.convert("L"), "JPEG", {}),
        (picture.convert("RGBA"), "PNG", {"exif": exif}),
        (picture.quantize(16), "PNG", {"transparency": bytes(range(16))}),
        (picture.convert("I;16"), "PNG", {}),
        (picture, "GIF", {"save_all": True, "append_images": [picture.rotate(180)]}),
        (picture, "WEBP", {"save_all": True, "append_images": [picture.rotate(180)]}),
        (picture, "WEBP", {"lossless": True, "exif": exif}),
        (picture.convert("F"), "TIFF", {}),
        (picture, "TIFF", {"compression": "tiff_lzw", "exif": exif}),
        (picture, "TIFF", {"compression": "jpeg"}),
        (picture.convert("1"), "TIFF", {"compression": "group4"}),
    ]
    return [coded(*variant) for variant in variants] + heic_pictures(picture)


def coded(image: Image.Image, format: str, options: dict) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def heic_pictures(picture: Image.Image) -> list[bytes]:
    """One HEIC file where the extra is installed."""
    try:
        import pillow_heif
    except ImportError:
        return []
    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture.resize((64, 48))).save(buffer)
    return [buffer.getvalue()]


SEEDS = seed_pictures()


def mutated(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Flip bytes, cut, repeat, or splice with another file; headers are hit more often than the rest."""
    broken = bytearray(data)
    for _ in range(rng.integers(1, 12)):
        end = len(broken) if rng.random() < 0.5 else min(len(broken), 64)
        broken[rng.integers(end)] = (0, 255, 127, int(rng.integers(256)))[rng.integers(4)]
    cut, other_cut = rng.integers(1, len(data)), rng.integers(1, len(other))
    kind = rng.integers(6)
    if kind == 0:
        return bytes(broken[:cut])
    if kind == 1:
        return data[:cut] + other[other_cut:]
    if kind == 2:
        return bytes(broken[:cut] + broken[cut // 2 :])
    if kind == 3:
        return data[:cut] + rng.bytes(40) + data[cut:]
    return bytes(broken)


def outcome(data: bytes) -> Photo | PhotoError:
    try:
        photo = read_photo(data, max_pixels=4_000_000)
    except PhotoError as error:
        return error
    height, width = photo.size
    assert 0 < height * width <= 4_000_000
    assert photo.pixels.shape == (height, width, 3)
    assert photo.pixels.dtype == np.uint8
    assert photo.alpha is None or photo.alpha.shape == photo.size
    return photo


def test_the_seeds_themselves_are_read():
    assert all(isinstance(outcome(data), Photo) for data in SEEDS)


def test_mutated_files(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)
    results = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for index in range(1500):
            data = mutated(SEEDS[index % len(SEEDS)], SEEDS[rng.integers(len(SEEDS))], rng)
            results.append(outcome(data))
    assert all("\n" not in str(result) for result in results if isinstance(result, PhotoError))
    assert seen == []
    assert list(tmp_path.iterdir()) == []
    # libtiff writes a line of its own to stderr now and then; Python must not.
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    # The mutations must reach both outcomes, else they are too weak or too strong.
    photos = sum(isinstance(result, Photo) for result in results)
    assert 150 < photos < 1200


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.sampled_from([b"", *{data[:30] for data in SEEDS}]))
def test_random_bytes_after_a_true_header(noise, header):
    outcome(header + noise)


@pytest.mark.parametrize("index", range(len(SEEDS)))
def test_every_prefix_is_the_whole_picture_or_refused(index):
    data = SEEDS[index]
    whole = outcome(data)
    assert isinstance(whole, Photo)
    for cut in np.linspace(1, len(data) - 1, 60).astype(int):
        result = outcome(data[:cut])
        assert isinstance(result, PhotoError) or np.array_equal(result.pixels, whole.pixels), (cut, len(data))
