"""Training GAN2Shape jointly: from a folder and a generator to weights that come back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.fit import Run
from aboutface.generate.load import Gan, gan_tensors, load_gan, network_card
from aboutface.nn.stylegan2 import Discriminator, Generator
from aboutface.recipes import Trained, write_weights
from aboutface.recipes.gan2shape import GAN2ShapeTraining, measured, sampled_targets, train_gan2shape
from aboutface.reconstruct.gan2shape import ViewLightStatistics
from aboutface.reconstruct.gan2shape_file import read
from aboutface.reconstruct.unsup3d import Unsup3d

SIZE, LATENT = 16, 16


@pytest.fixture(autouse=True)
def seeded():
    """Whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def gan_file(tmp_path_factory):
    torch.manual_seed(0)
    gan = Gan(Generator.tiny(SIZE), Discriminator.tiny(SIZE), {})
    file = tmp_path_factory.mktemp("gan") / "gan.safetensors"
    write_weights(file, "stylegan2", Trained(gan_tensors(gan), {}, network_card(gan.generator.settings)["settings"]))
    return file


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for name in "abc":
        Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8)).save(tmp_path / "data" / f"{name}.png")
    return tmp_path / "data"


def settings(gan_file, **changes):
    tiny = GAN2ShapeTraining(
        gan=str(gan_file),
        size=SIZE,
        width=4,
        latent=8,
        offset_width=4,
        samples=3,
        iterations=12,
        at_once=2,
        batch=2,
        collected=2,
        device="cpu",
    )
    return replace(tiny, mean=True, **changes)


def test_weights_of_a_training_come_back(gan_file, folder, tmp_path):
    lines = []
    trained = settings(gan_file).train(folder, Run(tmp_path / "run"), lines.append)
    file = tmp_path / "gan2shape.safetensors"
    write_weights(file, "gan2shape", trained)
    model, gan = read(file)
    assert gan.discriminator is not None
    images = torch.rand(1, 3, SIZE, SIZE)
    (target,) = sampled_targets(load_gan(gan_file), 1, SIZE)
    assert model.settings == settings(gan_file).settings(LATENT)
    for name, tensor in model.state_dict().items():
        assert_close(tensor, trained.tensors[name].half().float(), msg=name)
    assert model(images).depth.shape == (1, SIZE, SIZE)
    assert target.w.shape == (LATENT,)
    assert 0 < trained.scores["reconstruction_error"] < 1
    assert any("usual ones are taken" in line for line in lines)
    assert any("stage 3/3, all factors" in line for line in lines)
    assert (tmp_path / "run" / "stages" / "stage3.png").is_file()


def test_targets_of_a_run_are_found_once(gan_file, tmp_path, monkeypatch):
    gan, plain, images = load_gan(gan_file), settings(gan_file), torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    run = Run(tmp_path / "run")
    first = plain.kept(gan, images, run, print)
    other = sampled_targets(gan, 3, SIZE, seed=9)
    monkeypatch.setattr(GAN2ShapeTraining, "found", lambda *_: other)
    again = plain.kept(gan, images, run, print)
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.image, two.image)
        assert torch.equal(one.w, two.w)
    assert len(replace(plain, samples=2).kept(gan, images, run, print)) == 3, "another number: found anew"
    (tmp_path / "run" / "targets.safetensors").write_bytes(b"no")
    with pytest.raises(UsageError, match="delete it"):
        plain.kept(gan, images, run, print)


def test_samples_are_the_generators_own(gan_file):
    gan = load_gan(gan_file)
    targets = sampled_targets(gan, 5, SIZE, seed=3)
    with torch.no_grad():
        again = gan.generator.synthesis(torch.stack([target.w for target in targets])).clamp(0, 1)
    assert_close(torch.stack([target.image for target in targets]), again)
    assert len({tuple(target.w.tolist()) for target in targets}) == 5
    halves = sampled_targets(gan, 2, SIZE, truncation=0.5, seed=3)
    whole = sampled_targets(gan, 2, SIZE, truncation=1.0, seed=3)
    centre = gan.generator.mapping.centre
    assert_close(halves[0].w - centre, (whole[0].w - centre) / 2)


def test_it_starts_from_unsup3d(gan_file):
    torch.manual_seed(0)
    start = Unsup3d.tiny(SIZE, confidence_width=0)
    gan = load_gan(gan_file)
    targets = sampled_targets(gan, 2, SIZE)
    still = settings(gan_file, quality="paper")
    images = torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8)
    known = measured(start, images, SIZE, lambda _: None)
    model = train_gan2shape(gan, targets, still, known, start, log=lambda _: None)
    with torch.no_grad():
        before, after = start(images / 255), model(images / 255)
    # A few small iterations later it is still nearly that, and no ellipsoid.
    assert_close(after.depth, before.depth, atol=0.02, rtol=0)
    assert_close(model.view_mean, known.view_mean)
    with pytest.raises(UsageError, match="got one of 16"):
        measured(start, images, 32)


def test_changes_reach_the_schedule(gan_file):
    plain = settings(gan_file)
    assert plain.schedule.iterations == pytest.approx(12, abs=3)
    assert plain.schedule.targets == 2
    assert not any(stage.flip or stage.flip_albedo for stage in replace(plain, symmetry=False).schedule.stages)
    assert any(stage.flip for stage in plain.schedule.stages)
    free = replace(plain, regularised=False)
    assert free.schedule.losses.offset == 0
    assert free.settings(LATENT).mapping_depth == -1
    assert plain.settings(LATENT).mapping_depth == 2
    assert replace(plain, category="synface").settings(LATENT).mapping_depth == 8
    assert replace(plain, prior="flat").schedule.prior == "flat"
    assert replace(plain, quality="paper", iterations=None).schedule.iterations == 12_600


def test_what_is_missing_is_told(folder):
    with pytest.raises(UsageError, match="--gan"):
        GAN2ShapeTraining().train(folder, None, print)
    with pytest.raises(UsageError, match="--targets"):
        GAN2ShapeTraining(targets=0)
    with pytest.raises(UsageError, match="--at-once"):
        GAN2ShapeTraining(at_once=0)


def test_usual_statistics_vary_most_in_yaw():
    spread = ViewLightStatistics.usual().view_covariance.diagonal()
    assert float(spread[0]) == float(spread.max())
    assert float(spread[5]) == 0
