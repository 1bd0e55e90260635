"""Training Unsup3d: it learns, it resumes, it takes any folder, and says what it cannot take."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from aboutface.errors import AboutfaceError, UsageError
from aboutface.fit import FitSettings, Run
from aboutface.geometry import rotation_from_angles
from aboutface.morphable import MeanHead
from aboutface.recipes import write_weights
from aboutface.recipes.unsup3d import (
    Unsup3dTask,
    anchor_loss,
    bending,
    centre_square,
    departure,
    feature_loss,
    multiscale_loss,
    pixel_loss,
    published,
    read_images,
    smoothness,
    train_unsup3d,
    variants,
)
from aboutface.reconstruct.unsup3d import View

TINY = replace(
    published(),
    size=32,
    width=4,
    latent=8,
    confidence=4,
    perceptual=0.0,
    batch=4,
    learning_rate=3e-3,
    fit=FitSettings(steps=3, preview_every=0, log_every=1000, device="cpu"),
)


def quiet(_line):
    """Nothing is said."""


def pictures(count=6, size=32, seed=0):
    """Smooth coloured pictures (N, 3, S, S) uint8, symmetric but for a shift."""
    random = np.random.default_rng(seed)
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    result = []
    for _ in range(count):
        x = axis[None] - random.uniform(-0.2, 0.2)
        bright = np.exp(-2 * (x**2 + axis[:, None] ** 2)) + 0.3 * np.cos(6 * x) * (axis[:, None] > 0)
        result.append(np.stack([bright * c for c in random.uniform(0.3, 0.9, 3)]))
    return torch.from_numpy((np.clip(result, 0, 1) * 255).astype(np.uint8))


def test_laplace_and_gaussian_terms_are_negative_log_likelihoods():
    generator = torch.Generator().manual_seed(0)
    image, wanted = torch.rand(2, 1, 4, 4, generator=generator), torch.rand(2, 1, 4, 4, generator=generator)
    valid, scale = torch.ones(2, 4, 4, dtype=torch.bool), 0.1 + torch.rand(2, 4, 4, generator=generator)
    laplace = torch.distributions.Laplace(2 * wanted[:, 0] - 1, scale / 2**0.5)
    likelihood = laplace.log_prob(2 * image[:, 0] - 1)
    # Equation 3 has sqrt(2) sigma before the exponential: ours leaves out the constant.
    expected = -(likelihood + torch.log(torch.tensor(2.0)) - torch.log(torch.tensor(2.0)) / 2).mean()
    assert float(pixel_loss(image, wanted, valid, scale)) == pytest.approx(float(expected), abs=1e-4)
    normal = torch.distributions.Normal(wanted[:, 0], scale)
    expected = -(normal.log_prob(image[:, 0]) + 0.5 * torch.log(torch.tensor(2 * torch.pi))).mean()
    assert float(feature_loss(image, wanted, valid, scale)) == pytest.approx(float(expected), abs=1e-4)


def test_what_is_not_valid_counts_for_nothing():
    image, wanted = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    valid[:, :4] = False
    other = image.clone()
    other[:, :, :4] = 7
    for loss in (pixel_loss, feature_loss):
        assert torch.equal(loss(image, wanted, valid, None), loss(other, wanted, valid, None))
    assert torch.equal(multiscale_loss(image, wanted, valid), multiscale_loss(other, wanted, valid))
    nothing = torch.zeros_like(valid)
    assert float(pixel_loss(image, wanted, nothing, None)) == 0
    assert float(multiscale_loss(image, wanted, nothing)) == 0


def test_slopes_bend_nothing():
    slope = (torch.arange(32) * 0.002).expand(1, 32, 32)
    assert float(bending(slope, 0.2)) == pytest.approx(0, abs=1e-6)
    assert float(smoothness(slope, 0.2)) == pytest.approx(0.01, rel=1e-3)
    wave = slope + 0.002 * (torch.arange(32) % 2)
    assert float(bending(wave, 0.2)) == pytest.approx(0.02, rel=1e-3)


def test_what_all_images_share_costs_nothing():
    mean = torch.rand(1, 32, 32) * 0.1 + 0.95
    assert float(departure(mean.expand(3, 32, 32), mean, 0.2)) == 0
    assert float(departure(mean + 0.02, mean, 0.2)) == pytest.approx(0.01, rel=1e-4)
    alone = Unsup3dTask(replace(TINY, mean="dome"))
    with torch.no_grad():
        alone.net.mean_depth.add_(0.3)
        for p in alone.net.depth_net.parameters():
            p.zero_()
        shape = alone.net.mean_shape()
        assert float((shape - alone.net.start_depth())[..., 2:-2].abs().min()) > 0
        assert float(departure(alone.net(pictures(2) / 255).depth, shape, 0.2)) == 0
    task = Unsup3dTask(replace(TINY, mean="dome", prior=1e6))
    images = pictures(2)
    total, terms = task.loss("all", {"image": images}, 0)
    assert float(total.detach()) > 1e5 * float(terms["prior"].detach()) > 0
    assert "prior" not in Unsup3dTask(replace(TINY, prior=1.0)).loss("all", {"image": images}, 0)[1]


def test_the_anchor_is_zero_at_the_known_view_only():
    view = View(torch.tensor([20.0]), torch.tensor([-5.0]), torch.tensor([0.0]), torch.zeros(1, 3))
    assert float(anchor_loss(view, torch.tensor([[20.0, -5.0]]))) == 0
    assert float(anchor_loss(view, torch.tensor([[10.0, -5.0]]))) == pytest.approx(
        float(torch.deg2rad(torch.tensor(10.0))) ** 2
    )


def test_overfits_one_photo():
    image = pictures(1)
    # At random mirrored: of one photo, two pictures.
    settings = replace(TINY, mean="dome", learning_rate=1e-2, mean_rate=2e-2, multiscale=1.0, batch=2)
    before = train_unsup3d(image, settings, None, quiet)
    after = train_unsup3d(image, replace(settings, fit=replace(settings.fit, steps=150)), None, quiet)
    wanted = image.float() / 255

    def error(net):
        with torch.no_grad():
            seen = net.reproject(net(wanted))
        return float(((seen.image - wanted).abs().mean(1) * seen.valid).sum() / seen.valid.sum())

    assert error(after) < 0.25 * error(before)
    assert error(after) < 0.04


def test_the_same_seed_trains_the_same_network_and_resumes_it(tmp_path):
    images = pictures()
    settings = replace(TINY, fit=replace(TINY.fit, steps=6, checkpoint_minutes=0.0))
    whole = train_unsup3d(images, settings, None, quiet)
    run = Run.create(tmp_path / "runs", "data", "unsup3d", {})
    train_unsup3d(images, replace(settings, fit=replace(settings.fit, steps=3)), run, quiet)
    resumed = train_unsup3d(images, settings, run, quiet)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_without_symmetry_nothing_is_mirrored():
    images = pictures(2)
    task = Unsup3dTask(replace(TINY, symmetry=0.0))
    calls = []
    reproject = task.net.reproject
    task.net.reproject = lambda factors, supersample=1: calls.append(len(factors.depth)) or reproject(factors)
    task.loss("all", {"image": images}, 0)
    assert calls == [2]
    task.settings = TINY
    task.loss("all", {"image": images}, 0)
    assert calls == [2, 4]


def test_a_held_shape_is_let_go_slowly():
    settings = replace(TINY, mean="dome", hold=0.25, weight_decay=0.0, fit=replace(TINY.fit, steps=100))
    task = Unsup3dTask(settings)
    assert [task._freedom(step) for step in (0, 25, 50, 99)] == [0, 0, 1, 1]
    images = pictures(2).float() / 255
    held, free = (task.net(images, task._freedom(step)).depth for step in (0, 60))
    assert not torch.equal(held, free)
    assert torch.equal(held[0], held[1])


def test_an_albedo_of_the_mean_in_another_colour_is_not_doubted():
    task = Unsup3dTask(replace(TINY, mean="dome", albedo_prior=1e6))
    images = pictures(3)
    total, terms = task.loss("all", {"image": images}, 0)
    assert float(total.detach()) > 1e5 * float(terms["albedo_prior"].detach()) > 0
    with torch.no_grad():
        task.net.mean_albedo.normal_(std=0.3)
        for p in task.net.albedo_net.layers[-1].parameters():
            p.zero_()
        mean = task.net(images / 255).albedo
        tinted = torch.tanh(torch.atanh(2 * mean - 1) + torch.rand(3, 3, 1, 1) - 0.5) / 2 + 0.5
        assert float(task.net.own_albedo(tinted).abs().max()) < 1e-4
        patched = mean.clone()
        patched[..., :8] = 0.5
        assert float(task.net.own_albedo(patched).abs().max()) > 0.1


def test_a_network_that_was_held_is_alive_when_it_is_let_go():
    # Half of the steps without any gradient of depth.
    settings = replace(TINY, mean="dome", hold=0.5, weight_decay=0.0, fit=replace(TINY.fit, steps=60))
    task = Unsup3dTask(settings)
    net = train_unsup3d(pictures(), settings, None, quiet)
    size = sum(float(p.detach().square().sum()) for p in net.depth_net.parameters())
    before = sum(float(p.detach().square().sum()) for p in task.net.depth_net.parameters())
    assert size > 0.9 * before
    with torch.no_grad():
        depth = net(pictures().float() / 255).depth
    assert float(depth.std(0).mean()) > 0
    with pytest.raises(UsageError, match="decay to 0"):
        replace(settings, weight_decay=5e-4)


def test_the_mean_of_calibrated_faces_is_the_mean_head():
    images = pictures(12)
    net = train_unsup3d(images, replace(TINY, mean="face", fit=replace(TINY.fit, steps=4)), None, quiet)
    with torch.no_grad():
        mean = net(images / 255).depth.mean(0)
        mean = (mean + mean.flip(-1)) / 2
    torch.testing.assert_close(mean - net.drift, net.start_depth(), atol=1e-6, rtol=0)
    assert float(net.drift.abs().max()) > 0


def test_training_that_diverges_stops_and_says_so():
    settings = replace(TINY, learning_rate=1e12, fit=replace(TINY.fit, steps=50))
    with pytest.raises(AboutfaceError, match=r"loss is nan|not finite"):
        train_unsup3d(pictures(), settings, None, quiet)


def test_images_of_another_size_or_type_are_refused():
    with pytest.raises(UsageError, match=r"uint8 images \(N, 3, 32, 32\), got \(6, 3, 64, 64\)"):
        train_unsup3d(pictures(size=64), TINY, None, quiet)
    with pytest.raises(UsageError, match="uint8"):
        train_unsup3d(pictures().float(), TINY, None, quiet)


def save(folder, name, pixels):
    folder.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / name)


def test_a_folder_of_mixed_sizes_grey_images_and_no_faces_trains(tmp_path):
    random = np.random.default_rng(0)
    folder = tmp_path / "cats"
    for i, (height, width) in enumerate([(40, 60), (100, 33), (32, 32)]):
        save(folder, f"{i}.png", random.integers(0, 255, (height, width, 3), dtype=np.uint8))
    save(folder, "grey.png", random.integers(0, 255, (50, 50), dtype=np.uint8))
    (folder / "broken.png").write_bytes(b"no picture")
    lines = []
    images, views = read_images(folder, 32, "auto", lines.append)
    assert images.shape == (4, 3, 32, 32)
    assert views is None
    assert any("broken.png" in line for line in lines)
    trained = replace(TINY, symmetry=0.0).train(folder, None, quiet)
    assert all(bool(tensor.isfinite().all()) for tensor in trained.tensors.values())


def test_a_folder_of_one_image_trains(tmp_path):
    save(tmp_path / "one", "only.png", np.full((40, 40, 3), 120, np.uint8))
    trained = TINY.train(tmp_path / "one", None, quiet)
    assert trained.settings["network"]["size"] == 32


def test_an_empty_or_unusable_folder_is_named(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match="no image that can be used"):
        read_images(tmp_path / "none", 32, "auto", quiet)
    save(tmp_path / "some", "a.png", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(UsageError, match="no image that can be used"):
        read_images(tmp_path / "some", 32, "face", quiet)


def test_faces_are_cut_by_landmarks_where_most_images_have_them(tmp_path):
    mean = MeanHead.load().landmarks
    folder = tmp_path / "faces"
    random = np.random.default_rng(0)
    for i, yaw in enumerate([0.0, 25.0, -25.0]):
        turned = mean @ rotation_from_angles(torch.tensor(yaw)).mT
        save(folder, f"{i}.png", random.integers(0, 255, (200, 200, 3), dtype=np.uint8))
        points = (0.6 * turned[:, :2] + 100).tolist()
        (folder / f"{i}.json").write_text(json.dumps({"landmarks68": points}))
    save(folder, "none.png", random.integers(0, 255, (90, 90, 3), dtype=np.uint8))
    lines = []
    images, views = read_images(folder, 32, "auto", lines.append)
    assert images.shape == (3, 3, 32, 32)
    assert any("none" in line and "no landmarks" in line for line in lines)
    assert views is not None
    torch.testing.assert_close(views, torch.tensor([[0.0, 0.0], [25.0, 0.0], [-25.0, 0.0]]), atol=0.5, rtol=0)
    settings = replace(TINY, anchor=1.0, mean="auto")
    trained = settings.train(folder, None, quiet)
    assert trained.settings["training"]["mean"] == "face"


def test_the_centre_square_is_the_middle():
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 18:62] = 200
    assert (centre_square(pixels, 32) >= 190).all()


def test_growing_keeps_the_inner_network(tmp_path):
    small = replace(TINY, width=16, confidence=16, mean="dome", depth_head="smooth", albedo_head="sharp")
    file = tmp_path / "small.safetensors"
    (tmp_path / "data").mkdir()
    for i, image in enumerate(pictures()):
        Image.fromarray(image.movedim(0, -1).numpy()).save(tmp_path / "data" / f"{i}.png")
    trained = small.train(tmp_path / "data", None, quiet)
    write_weights(file, "unsup3d", trained)
    grown = replace(small, size=64, width=8, confidence=8, start=file, fit=replace(TINY.fit, steps=1))
    # A step of size zero: what was copied can be seen.
    tiny_step = replace(grown, learning_rate=1e-20, mean_rate=1e-20, weight_decay=0.0)
    net = train_unsup3d(pictures(size=64), tiny_step, None, quiet)
    source = {name: tensor.half().float() for name, tensor in trained.tensors.items()}
    shared = [
        tensor.numel() for tensor in source.values() if any(torch.equal(tensor, t) for t in net.state_dict().values())
    ]
    assert sum(shared) > 0.8 * sum(tensor.numel() for name, tensor in source.items() if "mean" not in name)
    with pytest.raises(UsageError, match="expected the settings of this training"):
        train_unsup3d(pictures(), replace(TINY, start=file), None, quiet)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"symmetry": -1.0}, "--symmetry"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"size": 48}, "--size"),
        ({"batch": 0}, "--batch"),
        ({"hold": 0.7, "weight_decay": 0.0}, "--hold"),
    ],
)
def test_impossible_settings_are_named(changes, word):
    with pytest.raises(UsageError, match=word):
        replace(TINY, **changes)


def test_every_variant_takes_a_step():
    images = pictures(2, 64)
    for name, settings in variants(8, 2).items():
        task = Unsup3dTask(settings)
        loss, terms = task.loss("all", {"image": images}, 0)
        assert bool(loss.isfinite()), name
        assert all(bool(term.isfinite()) for term in terms.values()), name
        sheet = task.preview({"image": images})
        assert all(picture.shape == (2, 3, 64, 64) for picture in sheet.values())
