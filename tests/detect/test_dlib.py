"""dlib on real photos. Landmarks are compared in percent of the face's size."""

import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from aboutface.detect import SAME_PERSON, detect, distance, embed
from aboutface.errors import NoFaceError
from aboutface.face import MIRROR_68

RNG_SEED = 7


def photo(data, name: str) -> np.ndarray:
    return np.array(ImageOps.exif_transpose(Image.open(data / "photos" / name)).convert("RGB"))


def off(points: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance of landmarks in percent of the face's size."""
    return float(100 * np.linalg.norm(points - truth, axis=1).mean() / np.sqrt(np.prod(np.ptp(truth, axis=0))))


def turned(points: np.ndarray, shape: tuple[int, ...], quarters: int) -> np.ndarray:
    """Where points of a photo go when np.rot90 turns it counter-clockwise."""
    height, width = shape[:2]
    for _ in range(quarters % 4):
        points = np.stack([points[:, 1], width - points[:, 0]], -1)
        height, width = width, height
    return points


@pytest.fixture(scope="module")
def crops(data) -> list[tuple[np.ndarray, np.ndarray]]:
    """60 video crops (H, W, 3) of different people with their 68 annotated points."""
    with tarfile.open(data / "ytf68-train.tar") as tar:
        keys = sorted(name[:-4] for name in tar.getnames() if name.endswith(".jpg"))
        chosen = np.random.default_rng(RNG_SEED).choice(keys, 60, replace=False)
        return [(_picture(tar, f"{key}.jpg"), _points(tar, f"{key}.json")) for key in chosen]


def _picture(tar: tarfile.TarFile, name: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(_bytes(tar, name))).convert("RGB"))


def _points(tar: tarfile.TarFile, name: str) -> np.ndarray:
    return np.array(json.loads(_bytes(tar, name))["landmarks68"])


def _bytes(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(name)
    assert member is not None
    return member.read()


def test_landmarks_of_video_crops_are_near_the_annotation(crops):
    errors = []
    for pixels, truth in crops:
        try:
            errors.append(off(detect(pixels, detector="dlib")[0].landmarks, truth))
        except NoFaceError:
            continue
    assert len(errors) >= 58
    assert np.mean(errors) < 4.2
    # Few faces may be bad while the mean is good.
    assert np.percentile(errors, 90) < 6


def test_the_mirror_image_gets_the_mirrored_landmarks(data):
    for name in ("d3d-000007.jpg", "lfw-Julianne_Moore_0012.jpg", "wild-img27.jpg"):
        pixels = photo(data, name)
        (face,), (other,) = detect(pixels, detector="dlib"), detect(pixels[:, ::-1], detector="dlib")
        back = other.mirrored(pixels.shape[1])
        assert off(back.landmarks, face.landmarks) < 0.7
        assert abs((back.landmarks - face.landmarks).mean(0)).max() < 0.003 * face.size
        # Without the exchange of left and right the points would be far off.
        assert off(back.landmarks[MIRROR_68], face.landmarks) > 20


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_photo_has_its_landmarks_turned(data, quarters):
    for name in ("wild-img27.jpg", "deca-8.jpg"):
        pixels = photo(data, name)
        (face,) = detect(pixels, detector="dlib")
        (other,) = detect(np.rot90(pixels, quarters), detector="dlib")
        assert off(other.landmarks, turned(face.landmarks, pixels.shape, quarters)) < 1.5


def test_a_tilted_head_is_found(data):
    picture = Image.open(data / "photos" / "wild-img27.jpg").convert("RGB")
    (upright,) = detect(np.array(picture), detector="dlib")
    (tilted,) = detect(np.array(picture.rotate(50, Image.Resampling.BICUBIC)), detector="dlib")
    centre = np.array(picture.size) / 2
    angle = np.deg2rad(-50)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert off(tilted.landmarks, (upright.landmarks - centre) @ rotation.T + centre) < 3


def test_scaling_the_photo_scales_the_landmarks(data):
    picture = Image.open(data / "photos" / "d3d-000007.jpg").convert("RGB")
    (face,) = detect(np.array(picture), detector="dlib")
    for factor in (0.25, 0.5, 3, 8):
        size = [round(s * factor) for s in picture.size]
        (other,) = detect(np.array(picture.resize(size, Image.Resampling.LANCZOS)), detector="dlib")
        assert off(other.landmarks / factor, face.landmarks) < 2


def test_two_people_are_ordered_by_size(data):
    pixels = photo(data, "ddfa-trump_hillary.jpg")
    largest, second = detect(pixels, face="all", detector="dlib")
    assert (largest.index, second.index) == (0, 1)
    assert largest.size >= second.size
    centres = sorted(f.landmarks[:, 0].mean() for f in (largest, second))
    assert centres[0] < 500 < 1000 < centres[1]
    (chosen,) = detect(pixels, face=1, detector="dlib")
    np.testing.assert_array_equal(chosen.landmarks, second.landmarks)
    with pytest.raises(NoFaceError, match="2 faces were found"):
        detect(pixels, face=2, detector="dlib")


def test_a_small_face_in_a_large_photo_is_found_and_a_tiny_one_is_named(data):
    face = Image.open(data / "photos" / "d3d-000007.jpg").convert("RGB")
    wall = Image.new("RGB", (1000, 700), (120, 130, 140))
    wall.paste(face.resize((100, 150), Image.Resampling.LANCZOS), (600, 300))
    (found,) = detect(np.array(wall), detector="dlib")
    assert 40 < found.size < 60
    assert 600 < found.landmarks[:, 0].mean() < 700
    with pytest.raises(NoFaceError, match=r"too small \(\d\d px"):
        detect(np.array(wall), detector="dlib", min_face=90)


def test_what_is_no_face_is_refused(data):
    noise = np.random.default_rng(0).integers(0, 255, (1, 90, 3), dtype=np.uint8)
    for pixels in (photo(data, "cat-019_cat.png"), noise):
        with pytest.raises(NoFaceError, match="No face was found"):
            detect(pixels, detector="dlib")


def test_a_full_profile_is_refused_with_a_clear_word(data):
    # Its landmarks would be those of a frontal face: no result is better than a wrong one.
    with pytest.raises(NoFaceError, match="profile"):
        detect(photo(data, "deca-image00181.jpg"), detector="dlib")


def test_a_face_cut_by_the_border_is_found_with_a_warning(data):
    pixels = photo(data, "d3d-015270.jpg")
    (whole,) = detect(pixels, detector="dlib")
    assert whole.warnings == ()
    chin = int(whole.landmarks[57, 1] + 0.12 * whole.size)
    (cut,) = detect(pixels[:chin], detector="dlib")
    assert any("cut off by the border" in w for w in cut.warnings)
    assert off(cut.landmarks[17:], whole.landmarks[17:]) < 3


def test_a_drawing_is_found_with_a_warning_or_refused(data):
    try:
        faces = detect(photo(data, "crop-042_abstract.png"), detector="dlib")
    except NoFaceError:
        return
    assert any("unsure" in w for w in faces[0].warnings)


def test_a_box_places_the_landmarks(data):
    pixels = photo(data, "d3d-000007.jpg")
    (face,) = detect(pixels, detector="dlib")
    low, high = face.landmarks.min(0), face.landmarks.max(0)
    for grow in (0.0, 0.15):
        box = (*(low - grow * face.size), *(high + grow * face.size))
        (given,) = detect(pixels, box=box)
        assert off(given.landmarks, face.landmarks) < 2
        assert given.box == pytest.approx(box)
        assert given.warnings == ()
    (elsewhere,) = detect(pixels, box=(10, 350, 100, 440))
    assert "uncertain" in elsewhere.warnings[0]


def test_threads_share_the_detector(data):
    pixels = photo(data, "lfw-Amber_Tamblyn_0001.jpg")
    pixels.setflags(write=False)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: detect(pixels, detector="dlib")[0].landmarks, range(8)))
    for points in found[1:]:
        np.testing.assert_array_equal(points, found[0])


def test_the_embedding_knows_a_person_again(data):
    def identity(pixels: np.ndarray) -> np.ndarray:
        return embed(pixels, detect(pixels, detector="dlib")[0])

    someone = photo(data, "d3d-000007.jpg")
    same = identity(someone)
    assert same.shape == (128,)
    assert same.dtype == np.float32
    assert distance(same, same) == 0
    mirrored = identity(someone[:, ::-1])
    turned_over = identity(np.rot90(someone, 2))
    others = [identity(photo(data, name)) for name in ("lfw-Vitali_Klitschko_0003.jpg", "wild-img27.jpg")]
    assert distance(same, mirrored) < SAME_PERSON
    assert distance(same, turned_over) < 0.2
    assert min(distance(same, other) for other in others) > SAME_PERSON
