import numpy as np
import pytest
from PIL import Image

from aboutface.errors import UsageError
from aboutface.render import FACEWARPER_TRIANGLES, read_case, warp_face

pytestmark = pytest.mark.usefixtures("every_backend")

IDENTITY = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]])


def face(depth_sign: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (68, 2) of a plain face in a 120-pixel image and depths (68,): a half-ball with a nose."""
    angle = np.linspace(0, np.pi, 17)
    jaw = np.stack([-np.cos(angle), 1.15 * np.sin(angle)], 1)
    brows = np.stack([np.r_[np.linspace(-0.8, -0.2, 5), np.linspace(0.2, 0.8, 5)], np.full(10, -0.45)], 1)
    bridge = np.stack([np.zeros(4), np.linspace(-0.2, 0.2, 4)], 1)
    base = np.stack([np.linspace(-0.16, 0.16, 5), np.full(5, 0.32)], 1)
    ring = np.linspace(-np.pi, np.pi, 7)[:-1]
    eye = np.stack([0.16 * np.cos(ring), 0.06 * np.sin(ring)], 1)
    outer, inner = (np.linspace(-np.pi, np.pi, n + 1)[:-1] for n in (12, 8))
    mouth = [np.stack([r * np.cos(a), 0.4 * r * np.sin(a) + 0.65], 1) for r, a in ((0.3, outer), (0.2, inner))]
    points = np.concatenate([jaw, brows, bridge, base, eye - (0.42, 0.2), eye - (-0.42, 0.2), *mouth])
    depth = -np.sqrt(np.clip(1.6 - (points**2).sum(1), 0, None))
    depth[27:31] -= np.linspace(0.05, 0.5, 4)
    depth[31:36] -= 0.15
    return points * 45 + 60, depth * 45 * depth_sign


def turned(yaw: float, depth_sign: float = 1.0) -> np.ndarray:
    """Affine (2, 4) that turns a face of depth 0 on pixel 60 about its vertical axis."""
    angle = np.deg2rad(yaw)
    rows = np.array([[np.cos(angle), 0, -np.sin(angle) * depth_sign], [0, 1, 0]])
    return np.column_stack([rows, [60 - 60 * np.cos(angle), 0]])


def position_picture() -> np.ndarray:
    """An image (120, 120, 3) whose red tells x and whose green tells y."""
    y, x = np.mgrid[:120, :120]
    return np.stack([2 * x, 2 * y, np.full_like(x, 255)], -1).astype(np.uint8)


def test_the_triangles_are_a_face():
    assert FACEWARPER_TRIANGLES.shape == (107, 3)
    assert set(FACEWARPER_TRIANGLES.flatten()) == set(range(68))
    edges = np.sort(np.concatenate([FACEWARPER_TRIANGLES[:, [i, (i + 1) % 3]] for i in range(3)]), 1)
    unique, count = np.unique(edges, axis=0, return_counts=True)
    assert len(unique) == 174
    border = unique[count == 1]
    assert count.max() == 2
    assert len(border) == 27
    assert set(border.flatten()) == set(range(27))


@pytest.mark.parametrize("order", ["painter", "depth"])
def test_the_original_programs_pictures(data, order):
    folder = data / "facewarper-cases"
    stems = sorted(path.stem for path in (folder / "affine").glob("*.txt"))
    assert len(stems) >= 3
    for stem in stems:
        case = read_case(folder, stem)
        assert case.expected is not None
        picture, covered = warp_face(case.image, case.keypoints, case.depth, case.affine, order=order)
        assert np.array_equal(covered, case.expected.any(-1)), stem
        assert np.abs(picture.astype(int) - case.expected).max() <= 1, stem


def test_at_rest_the_picture_stays():
    keypoints, depth = face()
    image = np.random.default_rng(0).integers(1, 256, (120, 120, 3), dtype=np.uint8)
    picture, covered = warp_face(image, keypoints, depth, IDENTITY)
    assert 0.2 < covered.mean() < 0.6
    assert np.array_equal(picture, np.where(covered[..., None], image, 0))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("yaw", [-60, 60])
def test_depth_order_shows_the_nearer_surface_and_painter_order_does_not(yaw, sign):
    keypoints, depth = face(sign)
    image = position_picture()
    affine = turned(yaw, sign)
    near, covered = warp_face(image, keypoints, depth, affine, order="depth")
    painted, same = warp_face(image, keypoints, depth, affine, order="painter")
    assert np.array_equal(covered, same)
    # Independent of the rasteriser: of all triangles over a pixel centre the nearest, by its own plane.
    true_depth = sign * depth
    angle = np.deg2rad(yaw)
    x = (keypoints[:, 0] - 60) * np.cos(angle) - true_depth * np.sin(angle) + 60
    z = (keypoints[:, 0] - 60) * np.sin(angle) + true_depth * np.cos(angle)
    corners = np.stack([x, keypoints[:, 1], np.ones(68), z, keypoints[:, 0]], 1)[FACEWARPER_TRIANGLES]
    corners = corners[np.abs(np.linalg.det(corners[..., :3])) > 1e-6]
    weights_of = np.linalg.inv(corners[..., :3].swapaxes(1, 2))
    overlapping, wrong = 0, {"depth": 0, "painter": 0}
    for row, column in np.argwhere(covered):
        weights = weights_of @ [column + 0.5, row + 0.5, 1.0]
        over = (weights >= 0).all(1)
        found = sorted((w @ c[:, 3], w @ c[:, 4]) for w, c in zip(weights[over], corners[over], strict=True))
        if len(found) < 2 or abs(found[0][1] - found[-1][1]) < 3 or found[1][0] - found[0][0] < 0.2:
            continue
        overlapping += 1
        expected = 2 * (found[0][1] - 0.5)
        wrong["depth"] += abs(near[row, column, 0] - expected) > 1.5
        wrong["painter"] += abs(painted[row, column, 0] - expected) > 1.5
    assert overlapping > 50
    assert wrong["depth"] == 0
    assert wrong["painter"] > 10


def test_depth_order_does_not_care_about_the_depths_scale_and_tilt():
    # DepthNets' depths are only known up to z -> a z + b x + c y + d; the affine then makes up for it.
    keypoints, depth = face()
    affine = turned(60)
    expected, _ = warp_face(position_picture(), keypoints, depth, affine, order="depth")
    for a, b, c, d in ((0.01, 0.0, 0.0, 3.0), (-2.0, 0.3, -0.2, 0.0), (0.5, -1.5, 0.7, -40.0)):
        other = a * depth + keypoints @ [b, c] + d
        changed = affine.copy()
        changed[:, 2] = affine[:, 2] / a
        changed[:, :2] -= changed[:, 2:3] * [b, c]
        changed[:, 3] -= changed[:, 2] * d
        found, _ = warp_face(position_picture(), keypoints, other, changed, order="depth")
        assert (np.abs(found.astype(int) - expected).max(-1) > 1).mean() < 0.001


def test_another_size_and_the_border():
    keypoints, depth = face()
    image = position_picture()
    picture, covered = warp_face(image, keypoints, depth, IDENTITY, size=(80, 100))
    assert picture.shape == (80, 100, 3)
    whole, whole_covered = warp_face(image, keypoints, depth, IDENTITY)
    assert np.array_equal(picture, whole[:80, :100])
    assert np.array_equal(covered, whole_covered[:80, :100])
    # Keypoints that begin 10 pixels left of the image show its right end there, or its left border.
    left = np.ceil(keypoints[:, 0].min()) + 10
    moved = IDENTITY.copy()
    moved[0, 3] = left
    repeated, seen = warp_face(image, keypoints - [left, 0], depth, moved)
    clamped, _ = warp_face(image, keypoints - [left, 0], depth, moved, wrap="clamp")
    beyond = seen & (np.arange(120) < left - 1)
    assert beyond.sum() > 100
    assert (repeated[beyond][:, 0] > 2 * 108).all()
    assert (clamped[beyond][:, 0] == 0).all()


def test_wrong_arguments_are_named():
    keypoints, depth = face()
    image = position_picture()
    for arguments, message in [
        ((image[..., 0], keypoints, depth, IDENTITY), "image"),
        ((image / 255, keypoints, depth, IDENTITY), "uint8"),
        ((image, keypoints[:66], depth, IDENTITY), "keypoints"),
        ((image, keypoints, depth[:, None], IDENTITY), "depth"),
        ((image, keypoints, depth * np.nan, IDENTITY), "finite"),
        ((image, keypoints, depth, IDENTITY[:, :3]), "affine"),
    ]:
        with pytest.raises(UsageError, match=message):
            warp_face(*arguments)


def write_case(folder) -> None:
    keypoints, depth = face()
    for name in ("source", "keypoints", "depth", "affine"):
        (folder / name).mkdir(exist_ok=True)
    Image.fromarray(position_picture()).save(folder / "source" / "a.png")
    np.savetxt(folder / "keypoints" / "a.txt", keypoints)
    np.savetxt(folder / "depth" / "a.txt", depth)
    np.savetxt(folder / "affine" / "a.txt", IDENTITY)


def test_cases_are_read(tmp_path):
    write_case(tmp_path)
    case = read_case(tmp_path, "a")
    keypoints, depth = face()
    np.testing.assert_allclose(case.keypoints, keypoints)
    np.testing.assert_allclose(case.depth, depth)
    assert np.array_equal(case.affine, IDENTITY)
    assert case.expected is None
    # The last line counts without a newline too: the original program lost it.
    text = (tmp_path / "affine" / "a.txt").read_text().rstrip("\n")
    (tmp_path / "affine" / "a.txt").write_text(text)
    assert np.array_equal(read_case(tmp_path, "a").affine, IDENTITY)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("keypoints/a.txt", None),
        ("keypoints/a.txt", b""),
        ("keypoints/a.txt", b"1 2\n" * 67),
        ("keypoints/a.txt", b"1 2\n" * 67 + b"1\n"),
        ("keypoints/a.txt", b"1 x\n" * 68),
        ("depth/a.txt", b"1\n" * 67 + b"nan\n"),
        ("depth/a.txt", b"\xff\xfe\x00"),
        ("affine/a.txt", b"1 0 0 0\n0 1 0 0\n0 0 1 0\n"),
        ("source/a.png", None),
        ("source/a.png", b"\x89PNG\r\n\x1a\n broken"),
    ],
)
def test_malformed_files_are_named(tmp_path, name, content):
    write_case(tmp_path)
    path = tmp_path / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        read_case(tmp_path, "a")
