"""Face replacement."""

import numpy as np
import pytest

from aboutface.edit import Pipeline
from aboutface.errors import ConsentError, UsageError
from aboutface.swap import swap_face


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(int) - b.astype(int))


@pytest.fixture(scope="module")
def tinted(portrait_pixels) -> np.ndarray:
    """The portrait darker, warmer and mirrored: another photo of another light."""
    return (portrait_pixels[:, ::-1] * [0.7, 0.55, 0.45]).astype(np.uint8)


def test_nothing_outside_the_face_changes(portrait, tinted):
    (target,) = Pipeline().portraits(tinted)
    swapped = swap_face(portrait.head, target.photo, target.face)
    assert (swapped.pixels == tinted)[swapped.mask == 0].all()
    points = target.face.landmarks
    height, width = np.nonzero(swapped.mask)[0], np.nonzero(swapped.mask)[1]
    assert points[:, 0].min() - 2 < width.min() < width.max() < points[:, 0].max() + 2
    assert height.max() < points[8, 1] + 2


def test_a_face_put_on_itself_is_itself(portrait):
    swapped = swap_face(portrait.head, portrait.photo, portrait.face)
    inside = swapped.mask > 0.9
    assert difference(swapped.pixels, portrait.photo.pixels)[inside].mean() < 6


def test_colour_and_seam_follow_the_target(portrait, tinted):
    (target,) = Pipeline().portraits(tinted)
    swapped = swap_face(portrait.head, target.photo, target.face)
    inside = swapped.mask > 0.9
    assert difference(swapped.pixels[inside].mean(0), tinted[inside].mean(0)).max() < 12
    ring = (swapped.mask > 0) & (swapped.mask < 0.5)
    assert difference(swapped.pixels, tinted)[ring].mean() < 6


def test_the_source_is_what_is_seen(portrait, data):
    """The identity embedding of the result is nearer to the source than the target's own is."""
    from aboutface.detect import detect, distance, embed
    from aboutface.images import read_photo

    photo = read_photo(data / "photos" / "d3d-000031.jpg")
    result = Pipeline().swap(portrait.photo, photo, consent=True)
    source = embed(portrait.photo.pixels, portrait.face)
    before = embed(photo.pixels, result.portrait.face)
    after = embed(result.image, detect(result.image)[0])
    assert distance(after, source) < 0.6 < distance(before, source)
    assert distance(after, source) < distance(after, before)


def test_without_consent_nothing_happens(portrait, tinted):
    with pytest.raises(ConsentError, match="consent"):
        Pipeline().swap(portrait.photo, tinted)


def test_all_faces_is_refused(portrait, tinted):
    with pytest.raises(UsageError, match="one face"):
        Pipeline().swap(portrait.photo, tinted, consent=True, face="all")


def test_record_names_both_photos_and_the_consent(portrait, tinted):
    record = Pipeline().swap(portrait.photo, tinted, consent=True).to_dict()
    assert record["consent"]["given"] is True
    assert record["source"]["sha256"] == portrait.photo.sha256
    assert record["target"]["sha256"] != record["source"]["sha256"]
    assert "altered" in record
