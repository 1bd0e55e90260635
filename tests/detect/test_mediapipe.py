"""The package is not needed: a stand-in records what the backend asks of it."""

from types import SimpleNamespace

import numpy as np
import pytest

from aboutface.detect import choose, detect, mediapipe_backend
from aboutface.detect.mediapipe_backend import IBUG_FROM_MESH, MediapipeDetector
from aboutface.errors import MissingError
from aboutface.face import MIRROR_68

# Mirror images in the mesh, from its documented outlines (image left, image right).
OVAL = [(127, 356), (234, 454), (93, 323), (132, 361), (58, 288), (136, 365), (150, 379), (176, 400)]
BROWS = [(70, 300), (63, 293), (105, 334), (66, 296), (107, 336)]
EYES = [(33, 263), (160, 387), (158, 385), (133, 362), (153, 380), (144, 373)]
LIPS = [(61, 291), (39, 269), (37, 267), (84, 314), (181, 405), (78, 308), (82, 312), (87, 317)]
NOSE = [(98, 327), (97, 326)]
MIDDLE = [152, 168, 197, 5, 4, 2, 0, 17, 13, 14]


def test_each_of_the_68_points_has_its_own_vertex():
    assert IBUG_FROM_MESH.shape == (68,)
    assert len(set(IBUG_FROM_MESH.tolist())) == 68
    assert IBUG_FROM_MESH.max() < 468


def test_the_mapping_is_its_own_mirror_image():
    mirror = {m: m for m in MIDDLE}
    for left, right in OVAL + BROWS + EYES + LIPS + NOSE:
        mirror |= {left: right, right: left}
    assert [mirror[v] for v in IBUG_FROM_MESH.tolist()] == IBUG_FROM_MESH[MIRROR_68].tolist()


class FakeMediapipe:
    """The part of the package that the backend touches; it sees the given meshes in every photo."""

    class ImageFormat:
        SRGB = "srgb"

    def __init__(self, *meshes: np.ndarray) -> None:
        faces = [[SimpleNamespace(x=x, y=y, z=0.0) for x, y in mesh] for mesh in meshes]
        landmarker = SimpleNamespace(detect=lambda image: SimpleNamespace(face_landmarks=faces))
        self.options = SimpleNamespace()
        vision = SimpleNamespace(
            FaceLandmarkerOptions=lambda **options: vars(self.options).update(options) or self.options,
            FaceLandmarker=SimpleNamespace(create_from_options=lambda options: landmarker),
        )
        self.tasks = SimpleNamespace(vision=vision, BaseOptions=lambda **options: options)
        self.Image = lambda image_format, data: SimpleNamespace(format=image_format, data=data)


@pytest.fixture
def model(tmp_path, monkeypatch):
    """An empty model file in the cache."""
    monkeypatch.setenv("ABOUTFACE_HOME", str(tmp_path))
    file = tmp_path / "weights" / "face_landmarker.task"
    file.parent.mkdir()
    file.write_bytes(b"model")
    return file


def test_a_mesh_becomes_68_points_in_photo_pixels(model, monkeypatch):
    mesh = np.random.default_rng(0).uniform(0.2, 0.8, (478, 2))
    fake = FakeMediapipe(mesh)
    monkeypatch.setattr(mediapipe_backend, "_package", lambda: fake)
    (face,) = detect(np.zeros((100, 200, 3), np.uint8), detector=MediapipeDetector())
    np.testing.assert_allclose(face.landmarks, mesh[IBUG_FROM_MESH] * [200, 100])
    assert face.detector == "mediapipe"
    assert fake.options.base_options == {"model_asset_path": str(model)}
    assert fake.options.num_faces > 1


def test_without_package_or_file_both_commands_are_named(model, monkeypatch):
    monkeypatch.setattr(mediapipe_backend, "_package", lambda: None)
    with pytest.raises(MissingError, match=r"pip install 'aboutface\[mediapipe\]' and then: aboutface models download"):
        MediapipeDetector()
    monkeypatch.setattr(mediapipe_backend, "_package", FakeMediapipe)
    assert MediapipeDetector().name == "mediapipe"
    model.unlink()
    with pytest.raises(MissingError, match="models download mediapipe-face-landmarker"):
        choose("mediapipe")
    with pytest.raises(MissingError):
        MediapipeDetector(model)


def test_auto_prefers_mediapipe_only_where_it_is_complete(model, monkeypatch):
    from aboutface.detect import detector

    detector._named.cache_clear()
    monkeypatch.setattr(mediapipe_backend, "_package", lambda: None)
    assert choose("auto").name == "network"
    detector._named.cache_clear()
    monkeypatch.setattr(mediapipe_backend, "_package", FakeMediapipe)
    assert choose("auto").name == "mediapipe"
    detector._named.cache_clear()
