"""The verbs in Python: the same type in and out, lists in order, failures typed."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

import aboutface
from aboutface.edit import Reconstruction
from aboutface.errors import AboutfaceError, ConsentError, NoFaceError, PhotoError, UsageError

PORTRAIT = np.array(Image.fromarray(astronaut()[0:260, 100:360]).resize((200, 200), Image.Resampling.LANCZOS))


@pytest.fixture(scope="module")
def landmarks() -> np.ndarray:
    """Those of PORTRAIT, so that most runs need no detection."""
    return aboutface.reconstruct(PORTRAIT).landmarks


@pytest.fixture(scope="module")
def turned(landmarks) -> np.ndarray:
    return aboutface.rotate(PORTRAIT, yaw=20, landmarks=landmarks)


def encoded(format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PORTRAIT).save(buffer, format=format)
    return buffer.getvalue()


def test_the_verbs_are_not_hidden_by_the_parts_of_their_names():
    import aboutface.reconstruct
    import aboutface.swap

    for name in ("animate", "frontalize", "reconstruct", "rotate", "swap"):
        assert getattr(aboutface, name).__module__ == "aboutface.edit.verbs"
    for name in aboutface.__all__:
        assert getattr(aboutface, name) is not None


class TestTypes:
    def test_array(self, turned):
        assert isinstance(turned, np.ndarray)
        assert turned.dtype == np.uint8
        assert turned.shape == PORTRAIT.shape
        assert np.abs(turned.astype(int) - PORTRAIT).mean() > 2

    def test_path_gives_a_picture(self, tmp_path, landmarks, turned):
        Image.fromarray(PORTRAIT).save(tmp_path / "me.png")
        for path in (tmp_path / "me.png", str(tmp_path / "me.png")):
            picture = aboutface.rotate(path, yaw=20, landmarks=landmarks)
            assert isinstance(picture, Image.Image)
            np.testing.assert_array_equal(np.array(picture), turned)

    def test_pil(self, landmarks, turned):
        picture = aboutface.rotate(Image.fromarray(PORTRAIT), yaw=20, landmarks=landmarks)
        assert isinstance(picture, Image.Image)
        np.testing.assert_array_equal(np.array(picture), turned)

    @pytest.mark.parametrize(("format", "start"), [("PNG", b"\x89PNG"), ("JPEG", b"\xff\xd8")])
    def test_bytes(self, format, start, landmarks):
        data = aboutface.rotate(encoded(format), yaw=20, landmarks=landmarks)
        assert isinstance(data, bytes)
        assert data.startswith(start)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    def test_tensor(self, dtype, landmarks, turned):
        tensor = torch.from_numpy(PORTRAIT).permute(2, 0, 1)
        tensor = tensor if dtype == torch.uint8 else tensor / 255
        result = aboutface.rotate(tensor, yaw=20, landmarks=landmarks)
        assert result.dtype == dtype
        assert result.shape == tensor.shape
        levels = result.float() * (1 if dtype == torch.uint8 else 255)
        assert torch.equal(levels.round().byte().permute(1, 2, 0), torch.from_numpy(turned))

    def test_transparency(self, landmarks, turned):
        alpha = np.arange(200, dtype=np.uint8)[:, None].repeat(200, 1)
        result = aboutface.rotate(np.dstack([PORTRAIT, alpha]), yaw=20, landmarks=landmarks)
        np.testing.assert_array_equal(result, np.dstack([turned, alpha]))

    def test_nothing_else(self):
        with pytest.raises(UsageError, match="expected a path"):
            aboutface.rotate(42, yaw=20)  # pyright: ignore[reportArgumentType]


class TestLists:
    def test_order_is_kept_and_failures_stay_in_place(self, landmarks, turned):
        results = aboutface.rotate([PORTRAIT, "missing.jpg", Image.fromarray(PORTRAIT)], yaw=20, landmarks=landmarks)
        assert [type(result) for result in results] == [np.ndarray, PhotoError, Image.Image]
        np.testing.assert_array_equal(results[0], turned)
        np.testing.assert_array_equal(np.array(results[2]), turned)
        (failure,) = aboutface.frontalize([PORTRAIT], face=5)
        assert isinstance(failure, NoFaceError)
        assert failure.exit_code == 4

    def test_an_empty_list(self):
        assert aboutface.rotate([], yaw=20) == []

    def test_angles_in_a_list_give_a_list(self, landmarks, turned):
        views = aboutface.rotate(PORTRAIT, yaw=[-20, 20], landmarks=landmarks)
        assert len(views) == 2
        np.testing.assert_array_equal(views[1], turned)
        assert not np.array_equal(views[0], views[1])
        ((one,),) = aboutface.rotate([PORTRAIT], yaw=[20], landmarks=landmarks)
        np.testing.assert_array_equal(one, turned)

    def test_all_faces_give_a_list(self, landmarks, turned):
        (one,) = aboutface.rotate(PORTRAIT, yaw=20, landmarks=landmarks, face="all")
        np.testing.assert_array_equal(one, turned)


class TestFailures:
    def test_a_single_photo_raises(self):
        with pytest.raises(PhotoError, match="no such file"):
            aboutface.rotate("missing.jpg", yaw=20)
        with pytest.raises(NoFaceError, match="No face"):
            aboutface.reconstruct(np.zeros((64, 64, 3), np.uint8))
        with pytest.raises(PhotoError, match="downloading is off"):
            aboutface.rotate("https://example.org/me.jpg", yaw=20)
        assert issubclass(UsageError, AboutfaceError)
        assert issubclass(UsageError, ValueError)

    @pytest.mark.parametrize(
        "arguments",
        [{"yaw": 181}, {"yaw": float("nan")}, {"yaw": "30"}, {"yaw": []}, {"yaw": [1, 2], "roll": [1, 2, 3]}],
    )
    def test_bad_angles(self, arguments, landmarks):
        with pytest.raises(UsageError, match=r"yaw|expected"):
            aboutface.rotate(PORTRAIT, landmarks=landmarks, **arguments)

    @pytest.mark.parametrize("arguments", [{"face": "first"}, {"face": -1}, {"landmarks": np.zeros((5, 2))}])
    def test_bad_faces(self, arguments):
        with pytest.raises(UsageError):
            aboutface.rotate(PORTRAIT, yaw=20, **arguments)

    def test_unknown_method(self):
        with pytest.raises(UsageError, match="depthnet"):
            aboutface.rotate(PORTRAIT, yaw=20, method="magic")

    def test_no_such_face(self):
        with pytest.raises(NoFaceError, match="no face 3"):
            aboutface.rotate(PORTRAIT, yaw=20, face=3)

    def test_swap_needs_consent_before_anything_is_read(self):
        with pytest.raises(ConsentError, match="consent=True"):
            aboutface.swap("missing.jpg", "missing.jpg")


class TestMeaning:
    def test_twice_is_the_same_and_the_input_is_untouched(self, landmarks, turned):
        photo = PORTRAIT.copy()
        np.testing.assert_array_equal(aboutface.rotate(photo, yaw=20, landmarks=landmarks), turned)
        np.testing.assert_array_equal(photo, PORTRAIT)

    def test_no_turn_is_the_photo(self, landmarks):
        same = aboutface.rotate(PORTRAIT, yaw=0, relative=True, landmarks=landmarks).astype(int)
        assert np.abs(same - PORTRAIT).mean() < 1

    def test_relative_and_absolute_agree(self, landmarks, turned):
        yaw = aboutface.reconstruct(PORTRAIT, landmarks=landmarks).pose.yaw
        relative = aboutface.rotate(PORTRAIT, yaw=20 - yaw, relative=True, landmarks=landmarks).astype(int)
        assert np.abs(relative - turned).mean() < 0.05

    def test_frontalize_is_pose_zero(self, landmarks):
        frontal = aboutface.frontalize(PORTRAIT, landmarks=landmarks)
        np.testing.assert_array_equal(frontal, aboutface.rotate(PORTRAIT, 0, 0, 0, landmarks=landmarks))

    def test_a_mirrored_photo_turned_the_other_way_is_the_mirrored_result(self, landmarks, turned):
        from aboutface.geometry import MIRROR_68

        mirrored = (landmarks * [-1, 1] + [200, 0])[MIRROR_68]
        other = aboutface.rotate(np.ascontiguousarray(PORTRAIT[:, ::-1]), yaw=-20, landmarks=mirrored)
        assert np.abs(other[:, ::-1].astype(int) - turned).mean() < 1

    def test_the_face_turns_to_the_asked_pose(self, turned):
        assert aboutface.reconstruct(turned).pose.yaw == pytest.approx(20, abs=8)


class TestOtherVerbs:
    def test_reconstruct(self, tmp_path, landmarks):
        face = aboutface.reconstruct(PORTRAIT, landmarks=landmarks)
        assert isinstance(face, Reconstruction)
        np.testing.assert_array_equal(face.landmarks, landmarks)
        assert abs(face.pose.yaw) < 10
        assert face.mesh.save(tmp_path / "me.glb") == [tmp_path / "me.glb"]
        assert face.to_dict()["verb"] == "reconstruct"
        depth = face.depth_mm()
        assert depth.shape == (200, 200)
        assert depth[0, 0] == 0
        assert depth.max() > 500

    def test_animate(self, tmp_path, landmarks):
        done = []
        path = aboutface.animate(
            PORTRAIT,
            tmp_path / "turn.gif",
            {"yaw": (-10, 10)},
            seconds=0.4,
            fps=10,
            progress=lambda *counts: done.append(counts),
        )
        assert path == Path(tmp_path / "turn.gif")
        assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
        with Image.open(path) as video:
            assert video.n_frames == 4  # pyright: ignore[reportAttributeAccessIssue]

    @pytest.mark.parametrize("sweep", [{"jaw": (0, 1)}, {"yaw": (0, 500)}, {"yaw": (0,)}])
    def test_animate_refuses_other_sweeps(self, sweep, tmp_path):
        with pytest.raises(UsageError, match="sweep"):
            aboutface.animate(PORTRAIT, tmp_path / "x.gif", sweep)
        assert not list(tmp_path.iterdir())

    def test_swap_answers_in_the_type_of_the_target(self):
        target = Image.fromarray(PORTRAIT[:, ::-1])
        result = aboutface.swap(PORTRAIT, target, consent=True)
        assert isinstance(result, Image.Image)
        assert result.size == target.size
        changed = np.abs(np.array(result).astype(int) - np.array(target)).max(-1) > 2
        assert 0.01 < changed.mean() < 0.5, "the face, and only the face"
        assert not changed[0].any()

    def test_a_pipeline_is_loaded_once_and_reused(self, landmarks, turned):
        pipeline = aboutface.Pipeline()
        for _ in range(2):
            (result,) = pipeline.rotate(PORTRAIT, yaw=20, landmarks=landmarks)
            np.testing.assert_array_equal(result.image, turned)
        assert result.names == ("photo_yaw+020_pitch+000_roll+000",)
        assert result.to_dict()["verb"] == "rotate"
