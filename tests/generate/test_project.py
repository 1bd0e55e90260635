"""Samples, and pictures found again among a generator's own."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from aboutface.cli import main
from aboutface.errors import UsageError
from aboutface.generate import Gan, Projection, ProjectionSettings, likeness, load_gan, project, read_latents, sample
from aboutface.generate.convert import write_ours
from aboutface.generate.likeness import Likeness
from aboutface.generate.load import load_encoder, network_card
from aboutface.generate.project import assessed, noise_regulariser, rate, spread, typical_distance
from aboutface.nn.inversion import LatentEncoder
from aboutface.nn.perceptual import FilterFeatures, VGG16Features
from aboutface.nn.stylegan2 import Discriminator, Generator


@pytest.fixture(autouse=True)
def few_filters(monkeypatch):
    """Instead of all of them, or VGG16 where it lies on the machine."""
    monkeypatch.setattr(likeness, "perceptual_features", lambda *_: FilterFeatures.tiny())


@pytest.fixture(scope="module")
def gan():
    torch.manual_seed(0)
    generator, critic = Generator.tiny(), Discriminator.tiny()
    generator.mapping.measure_centre()
    for conv in generator.synthesis.convs:
        conv.get_parameter("strength").data.fill_(0.3)
    # Of about the range of photos.
    for colour in generator.synthesis.colours:
        colour.get_parameter("weight").data.mul_(0.3)
    for network in (generator, critic):
        network.requires_grad_(False).eval()
    return Gan(generator, critic, network_card(generator.settings))


# ---- samples ----


def test_a_sample_does_not_depend_on_the_others(gan):
    few, many = sample(gan.generator, 3, seed=4), sample(gan.generator, 20, seed=4)
    torch.testing.assert_close(few.w, many.w[:3], atol=1e-5, rtol=0)
    torch.testing.assert_close(few.images, many.images[:3], atol=1e-5, rtol=0)
    assert not torch.equal(sample(gan.generator, 3, seed=5).w, few.w)
    assert few.images.min() >= 0
    assert few.images.max() <= 1


def test_truncation_and_noise(gan):
    generator = gan.generator
    full, half, none = (sample(generator, 4, truncation=t) for t in (1.0, 0.5, 0.0))
    centre = generator.mapping.centre
    torch.testing.assert_close(half.w - centre, (full.w - centre) / 2)
    torch.testing.assert_close(none.w, centre.expand(4, -1))
    torch.testing.assert_close(none.images[0], none.images[1], atol=1e-5, rtol=0)
    random = sample(generator, 4, truncation=0, noise="random")
    assert (random.images[0] - random.images[1]).abs().max() > 0.01
    torch.testing.assert_close(random.images, sample(generator, 4, truncation=0, noise="random").images)
    with pytest.raises(UsageError, match="1 picture"):
        sample(generator, 0)
    with pytest.raises(UsageError, match="seed"):
        sample(generator, 1, seed=-1)


def test_latents_are_read_from_an_archive_only(tmp_path):
    np.save(tmp_path / "latents.npy", np.zeros((2, 16), np.float32))
    with pytest.raises(UsageError, match=r"latents\.npz"):
        read_latents(tmp_path / "latents.npy")


# ---- distances and schedule ----


@pytest.mark.parametrize("features", [FilterFeatures(), VGG16Features.tiny("relu5_3")])
def test_likeness(features):
    torch.manual_seed(0)
    measure = Likeness(features)
    images = torch.rand(3, 3, 32, 32)
    wanted = measure.described(images)
    assert torch.equal(measure(images, images, wanted), torch.zeros(3))
    little, much = ((images + size * torch.randn_like(images)).clamp(0, 1) for size in (0.02, 0.3))
    near, far = measure.perceptual(little, wanted), measure.perceptual(much, wanted)
    assert (near > 0).all()
    assert (far > 2 * near).all()
    # One picture's distance is its own.
    torch.testing.assert_close(measure(much[1:2], images[1:2])[0], measure(much, images)[1])
    large = torch.rand(1, 3, 512, 512)
    assert measure.described(large)[0].shape[-1] <= 256


def test_the_learning_rate_follows_the_published_curve():
    """Values of the formula, worked out by hand."""
    assert rate(0, 1000) == 0
    assert rate(25, 1000) == pytest.approx(0.5)
    assert rate(50, 1000) == rate(750, 1000) == pytest.approx(1)
    assert rate(875, 1000) == pytest.approx(0.5)
    assert rate(1000, 1000) == pytest.approx(0)


def test_spread(gan):
    w = gan.generator.mapping(torch.randn(4000, 16))
    assert spread(gan.generator) == pytest.approx(float(w.var(0).sum().sqrt()), rel=0.05)


def test_the_noise_regulariser_against_loops():
    torch.manual_seed(0)
    noise = torch.randn(2, 1, 16, 16)
    expected = 0.0
    for one in noise[:, 0].double().numpy():
        while True:
            size = len(one)
            for dy, dx in ((0, 1), (1, 0)):
                products = [one[y, x] * one[(y + dy) % size, (x + dx) % size] for y in range(size) for x in range(size)]
                expected += (sum(products) / size**2) ** 2
            if size == 8:
                break
            one = one.reshape(size // 2, 2, size // 2, 2).mean((1, 3))
    assert float(noise_regulariser([noise])) == pytest.approx(expected, rel=1e-4)
    smooth = torch.nn.functional.avg_pool2d(noise, 3, 1, 1) * 3
    assert noise_regulariser([smooth]) > 10 * noise_regulariser([noise])


def test_the_unit_of_errors(gan):
    """That of all pairs at once; of a generator that makes one picture only, not 0."""
    measure = Likeness(FilterFeatures.tiny())
    z = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    one, other = gan.generator(z).clamp(0, 1).split(32)
    median = measure.perceptual(one, measure.described(other)).median()
    assert typical_distance(gan.generator, measure) == pytest.approx(float(median), rel=1e-4)
    stuck = Generator.tiny().requires_grad_(False)
    for colour in stuck.synthesis.colours:
        colour.get_parameter("weight").zero_()
    assert 0 < typical_distance(stuck, measure) < 1e-8


# ---- projection ----


def test_own_samples_are_found_again(gan):
    wanted = sample(gan.generator, 2, seed=1, truncation=0.8)
    measure = Likeness.from_file(None)
    unit = typical_distance(gan.generator, measure)
    centre = gan.generator.mapping.centre.expand(2, -1)
    before = assessed(gan.generator, measure, unit, wanted.images, centre)
    seen = []
    found = project(gan, wanted.images, ProjectionSettings(steps=40), progress=lambda *done: seen.append(done))
    assert seen == [(2, 2)]
    assert found.w.shape == (2, 16)
    assert (found.rmse < 0.5 * before.rmse).all()
    assert (found.distance < 0.5 * before.distance).all()
    torch.testing.assert_close(gan.generator.synthesis(found.w).clamp(0, 1), found.images, atol=1e-5, rtol=0)
    errors = (found.images - wanted.images).square().mean((1, 2, 3))
    torch.testing.assert_close(found.rmse, errors.sqrt())
    torch.testing.assert_close(found.psnr, -10 * errors.log10())
    assert not found.poor.any()
    assert found.line is None
    # Begun where it is, it stays there.
    again = project(gan, wanted.images, ProjectionSettings(steps=5, exploration=0), start=wanted.w)
    assert (again.distance < found.distance + 1e-3).all()


def test_pictures_do_not_know_of_each_other(gan):
    images = sample(gan.generator, 3, seed=2).images
    settings = ProjectionSettings(steps=6, exploration=0)
    together, alone = project(gan, images, settings), project(gan, images[1:2], settings)
    torch.testing.assert_close(together.w[1:2], alone.w, atol=1e-3, rtol=0)
    one = together.only(1)
    assert torch.equal(one.w, together.w[1:2])
    assert one.about()["rmse"] == pytest.approx(float(together.rmse[1]), abs=1e-5)
    assert len(together.about()["rmse"]) == 3


def test_more_freedom_comes_nearer(gan):
    """One w per layer, and noise maps, which keep mean 0 and deviation 1."""
    torch.manual_seed(3)
    image = torch.rand(1, 3, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    plain, per_layer, noise = (
        project(gan, image, replace(ProjectionSettings(steps=20, exploration=0), **more))
        for more in ({}, {"space": "w+"}, {"noise": True})
    )
    assert per_layer.w.shape == (1, 6, 16)
    assert per_layer.rmse < plain.rmse
    assert len(noise.noise) == 5
    for map_ in noise.noise:
        assert map_.shape[:2] == (1, 1)
        assert abs(float(map_.mean())) < 1e-5
        assert float(map_.std(correction=0)) == pytest.approx(1, abs=1e-4)
    repeated = gan.generator.synthesis(noise.w, list(noise.noise)).clamp(0, 1)
    torch.testing.assert_close(repeated, noise.images, atol=1e-5, rtol=0)


def test_what_the_generator_does_not_know_is_said_to_be_poor(gan, tmp_path):
    """Stripes that no picture of it has; of another size, too."""
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::8] = stripes[..., 1::8] = stripes[..., 2::8] = stripes[..., 3::8] = 1
    found = project(gan, stripes, ProjectionSettings(steps=10))
    assert found.images.shape == (1, 3, 16, 16)
    assert found.poor.all()
    assert found.line is not None
    assert f"{float(found.rmse):.3f}" in found.line
    assert found.about()["poor"] is True
    found.write(tmp_path / "found.safetensors")
    again = Projection.read(tmp_path / "found.safetensors")
    assert torch.equal(again.w, found.w)
    assert again.line == found.line
    # Either error is enough.
    for distance, rmse, poor in ((0.1, 0.1, False), (0.3, 0.1, True), (0.1, 0.2, True)):
        one = replace(found, distance=torch.tensor([distance]), rmse=torch.tensor([rmse]))
        assert bool(one.poor) is poor
        assert (one.line is not None) is poor
    (tmp_path / "found.safetensors").write_bytes(b"x")
    with pytest.raises(UsageError, match="no projection"):
        Projection.read(tmp_path / "found.safetensors")


def test_wrong_arguments(gan):
    for wrong in ({"steps": 0}, {"space": "z"}, {"learning_rate": -1}):
        with pytest.raises(UsageError, match="project"):
            replace(ProjectionSettings(), **wrong)
    with pytest.raises(UsageError, match="square"):
        project(gan, torch.zeros(1, 3, 8, 16))


def test_an_encoder_belongs_to_its_generator(gan, tmp_path):
    from safetensors.torch import save_file

    encoder = LatentEncoder.tiny()
    encoder.centre.copy_(gan.generator.mapping.centre)
    card = json.dumps({"settings": {"network": vars(encoder.settings)}})
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors", {"card": card})
    again = load_encoder(tmp_path / "encoder.safetensors", gan)
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(again(images), encoder.eval()(images))
    other = Generator.tiny()
    other.mapping.centre.add_(1)
    with pytest.raises(UsageError, match="another generator"):
        load_encoder(tmp_path / "encoder.safetensors", Gan(other, None, {}))


# ---- commands ----


def opened(file):
    """A picture (3, H, W) in [0, 1]."""
    with Image.open(file) as picture:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def test_the_commands(gan, tmp_path, capsys):
    net, out = tmp_path / "net.safetensors", tmp_path / "out"
    write_ours(gan, net)
    assert main(["sample", str(net), "-o", str(out), "--n", "3", "--seed", "2", "--truncation", "0.5"]) == 0
    expected = sample(gan.generator, 3, 2, 0.5)
    latents = read_latents(out / "latents.npz")
    assert list(latents) == ["000000.png", "000001.png", "000002.png"]
    assert torch.equal(torch.stack(list(latents.values())), expected.w)
    torch.testing.assert_close(opened(out / "000001.png"), expected.images[1], atol=0.003, rtol=0)
    assert main(["sample", str(net), "-o", str(tmp_path / "s.png"), "--n", "4", "--grid", "4", "--json"]) == 0
    _, height, width = opened(tmp_path / "s.png").shape
    assert width > 3 * height
    assert len(read_latents(tmp_path / "s.npz")) == 4
    capsys.readouterr()
    for arguments in (["-o", str(tmp_path / "s.txt")], ["--grid", "0"], ["--n", "0"]):
        assert main(["sample", str(net), *arguments]) == 2
    assert main(["sample", "no-such-net"]) == 2
    assert "no-such-net" in capsys.readouterr().err


def test_projecting_photos(gan, tmp_path, capsys):
    net, photo = tmp_path / "net.safetensors", tmp_path / "me.png"
    write_ours(gan, net)
    target = sample(gan.generator, 1, 3).images[0]
    pixels = (target.permute(1, 2, 0) * 255).round().byte().numpy()
    wide = np.concatenate([np.zeros((128, 40, 3), np.uint8), np.kron(pixels, np.ones((8, 8, 1), np.uint8))] * 1, 1)
    wide = np.concatenate([wide, np.zeros((128, 40, 3), np.uint8)], 1)
    Image.fromarray(wide).save(photo)
    out = tmp_path / "out"
    missing = str(tmp_path / "missing.png")
    assert main(["project", str(net), str(photo), missing, "-o", str(out), "--steps", "12", "--json"]) == 1
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert {line["status"] for line in lines} == {"failed", "done"}
    assert "missing.png" in captured.err
    wanted = opened(out / "me_target.png")
    torch.testing.assert_close(wanted, target, atol=0.01, rtol=0)
    record = json.loads((out / "me.json").read_text())
    with np.load(out / "me.npz") as stored:
        w = torch.from_numpy(stored["w"])
    again = load_gan(net).generator.synthesis(w[None]).clamp(0, 1)[0]
    torch.testing.assert_close(opened(out / "me.png"), again, atol=0.003, rtol=0)
    assert record["steps"] == 12
    assert record["rmse"] == pytest.approx(float((again - wanted).square().mean().sqrt()), abs=1e-3)
    assert main(["project", str(net), str(photo), "--space", "z"]) == 2


def test_a_place_that_cannot_be_written_shows_before_the_search(gan, tmp_path, capsys, monkeypatch):
    write_ours(gan, tmp_path / "net.safetensors")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "me.png")
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setattr("aboutface.generate.project", lambda *_: pytest.fail("searched"))
    arguments = ["project", str(tmp_path / "net.safetensors"), str(tmp_path / "me.png"), "-o", str(tmp_path / "taken")]
    assert main(arguments) == 1
    assert "taken" in capsys.readouterr().err
