"""`aboutface train stylegan2-encoder`: it learns, is written, and shortens a search."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from aboutface.cli import main
from aboutface.errors import UsageError
from aboutface.fit import FitSettings
from aboutface.generate import Gan, likeness, load_gan, sample
from aboutface.generate.convert import write_ours
from aboutface.generate.load import load_encoder, network_card
from aboutface.nn.perceptual import FilterFeatures
from aboutface.nn.stylegan2 import Generator
from aboutface.recipes.gan_encoder import GanEncoderTraining, score, train_encoder


@pytest.fixture(autouse=True)
def few_filters(monkeypatch):
    """Instead of all of them, or VGG16 where it lies on the machine."""
    monkeypatch.setattr(likeness, "perceptual_features", lambda *_: FilterFeatures.tiny())


def tiny_gan():
    torch.manual_seed(0)
    generator = Generator.tiny()
    generator.mapping.measure_centre()
    for colour in generator.synthesis.colours:
        colour.get_parameter("weight").data.mul_(0.3)
    return Gan(generator.requires_grad_(False).eval(), None, network_card(generator.settings))


def test_it_finds_own_samples_better_than_the_mean_does():
    gan = tiny_gan()
    pictures = sample(gan.generator, 32, 1, truncation=0.8).images
    settings = GanEncoderTraining(
        width=8, batch=12, learning_rate=5e-3, fit=FitSettings(steps=50, log_every=1000, preview_every=0)
    )
    before = {name: tensor.clone() for name, tensor in gan.generator.state_dict().items()}
    encoder = train_encoder(gan, (pictures * 255).byte(), settings, None, lambda _: None)
    for name, tensor in gan.generator.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert torch.equal(encoder.centre, gan.generator.mapping.centre)
    others = (sample(gan.generator, 32, 2, truncation=0.8).images * 255).round().byte()
    found = score(gan, encoder, others)

    def mean(images):
        return gan.generator.mapping.centre.expand(len(images), -1)

    blind = score(gan, mean, others)  # pyright: ignore[reportArgumentType]
    assert found["rmse"] < 0.7 * blind["rmse"]
    assert found["distance_filters"] < 0.9 * blind["distance_filters"]


def test_the_command(tmp_path):
    gan = tiny_gan()
    write_ours(gan, tmp_path / "net.safetensors")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, image in enumerate(sample(gan.generator, 24, 3).images):
        Image.fromarray((image.permute(1, 2, 0) * 255).byte().numpy()).resize((32, 32)).save(folder / f"{index}.png")
    out = tmp_path / "encoder.safetensors"
    arguments = ["--data", str(folder), "--gan", str(tmp_path / "net.safetensors"), "-o", str(out), "--quiet"]
    short = ["--steps", "3", "--batch", "4", "--width", "8", "--runs", str(tmp_path / "runs")]
    assert main(["train", "stylegan2-encoder", *arguments, *short]) == 0
    encoder = load_encoder(out, load_gan(tmp_path / "net.safetensors"))
    assert encoder(torch.rand(1, 3, 16, 16)).isfinite().all()


def test_wrong_settings(tmp_path):
    with pytest.raises(UsageError, match="--gan"):
        GanEncoderTraining().train(tmp_path, None, lambda _: None)
    for wrong in ({"batch": 1}, {"learning_rate": 0.0}, {"latent_weight": -1.0}):
        with pytest.raises(UsageError, match="--"):
            replace(GanEncoderTraining(), **wrong)
    with pytest.raises(UsageError, match="encoder: expected pictures"):
        train_encoder(tiny_gan(), torch.zeros(2, 3, 8, 8), GanEncoderTraining(), None, lambda _: None)
