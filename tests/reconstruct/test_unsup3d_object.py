"""Networks of other things than faces: what they make of a picture, and what the verbs make of that."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image, ImageDraw

import aboutface
from aboutface.cli import main
from aboutface.edit import Pipeline
from aboutface.errors import NoFaceError, PhotoError, UsageError
from aboutface.face import Face
from aboutface.fit import FitSettings
from aboutface.geometry import project
from aboutface.images import read_photo
from aboutface.recipes import Trained, write_weights
from aboutface.recipes.unsup3d import Unsup3dTraining
from aboutface.reconstruct import object_reconstructor, reconstructor
from aboutface.reconstruct.unsup3d import Unsup3d
from aboutface.reconstruct.unsup3d_object import along_edges, cut_object
from aboutface.relight.apart import decoded


def written(path, crop):
    torch.manual_seed(1)
    net = Unsup3d.tiny(mean=True)
    # Noise would be no surface to stand on: what is left is nearly the dome.
    last = net.depth_net.layers[-1].weight
    assert isinstance(last, torch.Tensor)
    last.data *= 0.05
    card = {"network": asdict(net.settings), "training": {"crop": crop}}
    write_weights(path, "unsup3d", Trained(dict(net.state_dict()), {}, card))
    return str(path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return written(tmp_path_factory.mktemp("weights") / "cups.safetensors", "centre")


@pytest.fixture(scope="module")
def pipeline(weights):
    return Pipeline(weights)


def picture(width=96, height=64):
    """Smooth colours, with a bright dot in the middle."""
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    colours = np.stack([0.4 + 0.2 * x, 0.4 + 0.2 * y, 0.3 + 0.1 * x * y], -1)
    colours += 0.5 * np.exp(-((x * width / height) ** 2 + y**2) / 0.01)[..., None]
    return (colours.clip(0, 1) * 255).round().astype(np.uint8)


def cut_out(size=96):
    """A disc of 40 pixels left of the middle, on nothing."""
    image = Image.fromarray(picture(size, size)).convert("RGBA")
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).ellipse((20, 28, 59, 67), fill=255)
    image.putalpha(mask)
    return image


def dot(pixels):
    """Where the dot is: (x, y)."""
    bright = pixels.astype(float).sum(-1)
    bright = (bright - np.quantile(bright, 0.98)).clip(0)
    y, x = np.mgrid[: len(bright), : bright.shape[1]] + 0.5
    return (bright * x).sum() / bright.sum(), (bright * y).sum() / bright.sum()


def test_training_on_a_folder_says_on_the_card_what_was_cut(tmp_path):
    folder = tmp_path / "cups"
    folder.mkdir()
    for index in range(2):
        Image.fromarray(picture(40 + index, 32)).save(folder / f"{index}.png")
    fit = FitSettings(steps=1, preview_every=0, log_every=1000, device="cpu")
    settings = Unsup3dTraining(size=32, width=4, latent=8, confidence=4, batch=2, fit=fit)
    trained = settings.train(folder, None, lambda _line: None)
    assert trained.settings["training"]["crop"] == "centre"
    file = tmp_path / "cups.safetensors"
    write_weights(file, "unsup3d", trained)
    assert object_reconstructor(str(file)) is not None
    with pytest.raises(UsageError, match="knows whole pictures"):
        reconstructor(str(file))


def test_the_picture_at_its_own_pose_is_the_centred_square(pipeline):
    pixels = picture()
    (result,) = pipeline.rotate(pixels, yaw=0, relative=True)
    assert result.image.shape == (64, 64, 3)
    assert np.abs(result.image.astype(int) - pixels[:, 16:80]).max() <= 1
    assert result.record["crop"] == {"box": [16, 0, 80, 64], "size": 64}
    assert result.record["source"]["width"] == 96


def test_what_is_near_moves_to_where_it_is_turned(pipeline):
    (result,) = pipeline.rotate(picture(), yaw=[-25, 25, 0, 0], pitch=[0, 0, 25, -25], relative=True)
    left, right, up, down = (dot(image) for image in result.images)
    assert left[0] < 32 - 1.5 < 32 + 1.5 < right[0]
    assert up[1] < 32 - 1.5 < 32 + 1.5 < down[1]


def test_absolute_angles_count_from_the_front(pipeline):
    (portrait,) = pipeline.subjects(picture())
    own = portrait.scene.pose
    (absolute,) = pipeline.rotate(picture(), yaw=own.yaw + 20)
    (relative,) = pipeline.rotate(picture(), yaw=20, relative=True)
    assert absolute.poses[0].yaw == pytest.approx(relative.poses[0].yaw, abs=1e-4)
    assert np.abs(absolute.image.astype(int) - relative.image).max() <= 1


def test_mirrored_pictures_turn_the_other_way(pipeline):
    pixels = picture()
    pixels[10:20, 20:40] = 250
    (one,) = pipeline.rotate(pixels, yaw=20, relative=True)
    (other,) = pipeline.rotate(pixels[:, ::-1].copy(), yaw=-20, relative=True)
    assert np.abs(one.image.astype(int) - other.image[:, ::-1]).mean() < 1
    assert np.abs(one.image.astype(int) - other.image).mean() > 4, "it is not symmetric"


def test_transparency_limits_the_mesh_and_turns_with_it(pipeline):
    image = cut_out()
    (result,) = pipeline.rotate(image, yaw=[0, 30], relative=True)
    portrait = result.portrait
    # The disc spans 40 pixels, and a tenth of that lies beside it on each side.
    assert portrait.shape.box == (16, 24, 64, 72)
    assert portrait.photo.alpha is not None
    assert np.abs(result.alphas[0].astype(int) - portrait.photo.alpha).max() <= 1
    assert 0.6 < (result.alphas[1] > 127).sum() / (result.alphas[0] > 127).sum() < 0.95
    mesh = portrait.scene.mesh_at_rest()
    pixels = project(mesh.vertices, portrait.scene.camera.K)
    assert float((pixels - 24).norm(dim=-1).max()) < 20 + 2.5, "a cell beyond the disc's radius at most"
    assert len(mesh.vertices) == int(mesh.faces.max()) + 1
    turned = aboutface.rotate(image, yaw=30, method=pipeline.method)
    assert turned.mode == "RGBA"
    assert turned.size == (48, 48)
    corner = np.asarray(turned)[:4, :4, 3]
    assert not corner.any()


def test_beyond_the_picture_nothing_is_opaque():
    pixels = np.zeros((40, 60, 4), np.uint8)
    pixels[:, :30] = 255
    crop, box = cut_object(read_photo(pixels))
    assert box == (-9, -4, 39, 44)
    assert crop.alpha is not None
    opaque = np.flatnonzero(crop.alpha.any(0)), np.flatnonzero(crop.alpha.any(1))
    assert (opaque[0][0], opaque[0][-1], opaque[1][0], opaque[1][-1]) == (9, 38, 4, 43)


def test_opaque_alpha_is_none():
    crop, box = cut_object(read_photo(np.full((40, 60, 4), 255, np.uint8)))
    assert crop.alpha is None
    assert box == (10, 0, 50, 40)


def test_too_little_is_said(pipeline):
    with pytest.raises(PhotoError, match="10 pixels large, expected 16"):
        pipeline.rotate(picture(30, 10), yaw=3)
    with pytest.raises(PhotoError, match="transparent everywhere"):
        pipeline.rotate(np.zeros((40, 40, 4), np.uint8), yaw=3)


def test_depth_jumps_along_the_photos_edge():
    """A step between two pixels of the coarse map, where the photo has it to the pixel."""
    fine = torch.full((64, 64), 1.1)
    fine[:, 29:] = 0.95
    guide = torch.full((3, 64, 64), 0.2)
    guide[:, :, 29:] = 0.8
    coarse = torch.nn.functional.avg_pool2d(fine[None], 2)[0]
    smooth = torch.nn.functional.interpolate(coarse[None, None], (64, 64), mode="bilinear")[0, 0]
    found = along_edges(coarse, guide)
    near = slice(27, 31)
    assert float((found - fine)[:, near].abs().mean()) < 0.3 * float((smooth - fine)[:, near].abs().mean())
    even = 1 + 0.002 * torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.interpolate(even[None, None], (64, 64), mode="bilinear")[0, 0]
    assert torch.equal(along_edges(even, torch.rand(3, 64, 64)), plain), "texture leaves no trace in the surface"


def test_what_needs_a_face_is_refused(pipeline, weights):
    for verb in (pipeline.frontalize, pipeline.portraits):
        with pytest.raises(UsageError, match="not faces"):
            verb(picture())
    with pytest.raises(UsageError, match="not faces"):
        pipeline.relight(picture(), [])
    with pytest.raises(UsageError, match="not faces"):
        pipeline.swap(picture(), picture(), consent=True)
    for options in ({"face": 1}, {"landmarks": np.zeros((68, 2))}, {"box": (0, 0, 9, 9)}):
        with pytest.raises(UsageError, match="leave face, landmarks and box out"):
            pipeline.rotate(picture(), yaw=3, **options)


def test_a_network_of_faces_still_wants_one(tmp_path):
    class Nobody:
        name, licence = "nobody", "none"

        def faces(self, pixels: np.ndarray) -> list[Face]:
            return []

    faces = Pipeline(written(tmp_path / "faces.safetensors", "face"), Nobody())
    with pytest.raises(NoFaceError):
        faces.rotate(picture(), yaw=3)


def test_reconstruct_writes_everything(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture()).save("cup.png")
    assert main(["reconstruct", "cup.png", "--method", weights, "-v"]) == 0
    assert "cups.safetensors" in capsys.readouterr().err
    endings = [
        ".glb",
        ".json",
        ".npz",
        *(f"_{name}.png" for name in ("depth", "normal", "mask", "albedo", "shading", "uv")),
    ]
    assert {p.name for p in (tmp_path / "outputs/cup").iterdir()} == {
        *(f"cup{ending}" for ending in endings),
        "cup_depth.npy",
        "cup_preview.jpg",
    }
    folder = tmp_path / "outputs/cup"
    mesh = trimesh.load_mesh(folder / "cup.glb")
    assert np.ptp(mesh.vertices[:, 0]) == pytest.approx(0.2, rel=0.15)
    assert abs(mesh.vertices[:, 2].argmax() - len(mesh.vertices) // 2) < 0.2 * len(mesh.vertices), (
        "the dome is in front"
    )
    record = json.loads((folder / "cup.json").read_text())
    assert record["model"]["name"] == "cups.safetensors"
    assert record["depth"]["unit"].startswith("distances")
    assert "face" not in record
    assert 0.85 < record["depth"]["near"] < record["depth"]["far"] < 1.15
    assert set(record["light"]) >= {"azimuth", "elevation", "ambient", "diffuse"}


def test_albedo_times_shading_is_the_picture(pipeline):
    (shape,) = pipeline.reconstruct(picture())
    product = shape.apart.albedo() * shape.apart.shading()
    wanted = decoded(torch.from_numpy(picture()[:, 16:80].copy()).permute(2, 0, 1) / 255)
    torch.testing.assert_close(product, wanted, atol=1e-5, rtol=0)
    assert float(shape.apart.shading().std()) > 0


def test_animate_makes_a_video(weights, tmp_path):
    file = aboutface.animate(cut_out(), tmp_path / "turn.gif", seconds=0.2, fps=20, method=weights)
    with Image.open(file) as frames:
        assert getattr(frames, "n_frames", 1) == 4
        assert frames.size == (48, 48)


def test_large_pictures_are_shrunk_and_that_is_said():
    photo = read_photo(np.zeros((2100, 2101, 3), np.uint8))
    crop, box = cut_object(photo)
    assert crop.size == (2048, 2048)
    assert box == (0, 0, 2100, 2100)
    assert any("shrunk" in warning for warning in crop.warnings)
    assert not any(
        "shrunk" in warning for warning in cut_object(replace(photo, pixels=photo.pixels[:2048]))[0].warnings
    )
