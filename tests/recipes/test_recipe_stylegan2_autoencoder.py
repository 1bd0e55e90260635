"""A start for StyleGAN2 without a critic: it gives pictures back, and its mapping network knows where their w lie."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aboutface.errors import UsageError
from aboutface.fit import FitSettings
from aboutface.generate import load_gan
from aboutface.metrics.generated import frechet_distance
from aboutface.nn.stylegan2 import Generator
from aboutface.recipes import Trained, write_weights
from aboutface.recipes.stylegan2 import StyleGAN2Task, StyleGAN2Training, train_stylegan2
from aboutface.recipes.stylegan2_autoencoder import (
    StyleGAN2AutoencoderTraining,
    falling,
    latents_of,
    reconstruction_loss,
    train_autoencoder,
    train_mapping,
    whiten,
)

TINY = StyleGAN2AutoencoderTraining(
    size=16,
    latent=16,
    mapping_layers=2,
    channel_base=128,
    channel_max=16,
    encoder_width=8,
    batch=4,
    learning_rate=1e-2,
    fit=FitSettings(steps=150),
)


def silent(_: str) -> None:
    """Nobody listens."""


def blobs(count: int) -> torch.Tensor:
    """Pictures of a bright spot somewhere, uint8."""
    random = torch.Generator().manual_seed(0)
    place = torch.rand(count, 2, 1, 1, generator=random) * 8 + 4
    axis = torch.arange(16.0)
    far = (axis - place[:, 0]).square() + (axis[:, None] - place[:, 1]).square()
    light = torch.exp(-far / 12)
    return (torch.stack([light, light, 1 - light], 1) * 255).byte()


def test_few_pictures_are_given_back():
    images = blobs(4)
    task = train_autoencoder(images, replace(TINY, flip=False), None, silent)
    x = images.float() / 255
    with torch.no_grad():
        again = task.generator.synthesis(task.encoder(x), "none")
    assert float((again - x).abs().mean()) < 0.05
    # Each its own, not all the same one.
    assert float((again - x.flip(0)).abs().mean()) > 2 * float((again - x).abs().mean())


def test_the_mapping_network_learns_where_w_lie():
    torch.manual_seed(0)
    known = torch.randn(2000, 16)
    # Not normal: all on one side of a bent sheet.
    known[:, 0] = known[:, 1].square() - 1
    generator = Generator(TINY.network)
    with torch.no_grad():
        before = frechet_distance(known, generator.mapping(torch.randn(2000, 16)))
    left = train_mapping(generator, known, replace(TINY, mapping_steps=1500), silent)
    assert left < 0.2
    assert left * 16 < 0.3 * before
    assert generator.mapping.centre.abs().max() < 0.3


def test_white_latents_make_the_same_pictures():
    torch.manual_seed(1)
    images = blobs(64)
    task = train_autoencoder(images, replace(TINY, fit=FitSettings(steps=20)), None, silent)
    task.encoder.centre.fill_(0.3)
    task.encoder.deviation.fill_(2.0)
    x = images.float() / 255
    with torch.no_grad():
        before = task.generator.synthesis(task.encoder(x), "none")
        whiten(task, task.encoder(x))
        w = task.encoder(x)
        after = task.generator.synthesis(w, "none")
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(w.mean(0), torch.zeros(16), atol=1e-3, rtol=0)
    variances = torch.linalg.eigvalsh(torch.cov(w.T))
    assert float(variances.max()) == pytest.approx(1.0, abs=0.01)


def test_latents_are_of_pictures_and_their_mirror_images():
    task = train_autoencoder(blobs(4), replace(TINY, fit=FitSettings(steps=1)), None, silent)
    images = blobs(6)
    found = latents_of(task.encoder, images)
    assert found.shape == (12, 16)
    torch.testing.assert_close(found[6:], task.encoder(images.flip(-1).float() / 255))


def test_the_loss_sees_edges_out_of_place_and_is_none_for_equals():
    x = blobs(3).float() / 255
    assert float(reconstruction_loss(x, x)) == 0.0
    assert float(reconstruction_loss(x.roll(1, -1), x)) > float(reconstruction_loss(0.99 * x, x))


def test_the_rate_falls_in_the_end_only():
    assert falling(0.0) == falling(0.7) == 1.0
    assert falling(0.85) == pytest.approx(0.5)
    assert falling(1.0) == pytest.approx(0.0)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file of a few steps, as the recipe writes it."""
    folder = tmp_path_factory.mktemp("start")
    from PIL import Image

    for number, image in enumerate(blobs(6)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    few = replace(TINY, mapping_steps=3, fit=FitSettings(steps=3))
    trained = few.train(folder, None, silent)
    assert set(trained.scores) == {"error", "frechet_distance_w"}
    file = folder / "start.safetensors"
    write_weights(file, "stylegan2-autoencoder", trained)
    return file


def training(**changes: object) -> StyleGAN2Training:
    sizes = {name: getattr(TINY, name) for name in ("size", "latent", "mapping_layers", "channel_base", "channel_max")}
    return replace(StyleGAN2Training(**sizes, batch=4, augment="none", fit=FitSettings(steps=3)), **changes)


def test_stylegan2_starts_there_and_keeps_giving_pictures_back(start):
    gan = load_gan(start)
    assert gan.discriminator is None
    settings = training(start=start, reconstruction=3.0, warm_up=2)
    task = StyleGAN2Task(settings)
    assert task.encoder is not None
    trained = train_stylegan2(blobs(6), settings, None, silent)
    assert trained.encoder is not None
    again = trained.generator.synthesis(trained.encoder(blobs(2).float() / 255))
    assert again.isfinite().all()
    # Half of what the critic sees is made of real pictures: with all of w moved, it must change.
    real = blobs(4).float() / 255
    torch.manual_seed(5)
    one = task._fake(real)
    torch.manual_seed(5)
    other = task._fake(real.flip(0))
    assert torch.equal(one[:2], other[:2])
    assert not torch.equal(one[2:], other[2:])


def test_what_cannot_start_is_refused(start, tmp_path):
    with pytest.raises(UsageError, match="needs --start"):
        training(reconstruction=1.0)
    write_weights(tmp_path / "bare.safetensors", "stylegan2", Trained({}, {}, {"network": {}}))
    with pytest.raises(UsageError, match="holds no encoder"):
        StyleGAN2Task(training(start=tmp_path / "bare.safetensors", reconstruction=1.0))
    with pytest.raises(UsageError, match="of 32 px"):
        StyleGAN2Task(training(start=start, reconstruction=1.0, size=32))
