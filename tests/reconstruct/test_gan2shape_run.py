"""GAN2Shape from stage to stage: it learns, stops and goes on, and survives numbers that are not finite."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from aboutface.errors import DivergedError, UsageError
from aboutface.generate.load import Gan
from aboutface.images import read_photo
from aboutface.nn.stylegan2 import Discriminator, Generator
from aboutface.reconstruct import gan2shape_steps
from aboutface.reconstruct.gan2shape import GAN2Shape, Target
from aboutface.reconstruct.gan2shape_run import ATTEMPTS, first_shape, optimise
from aboutface.reconstruct.gan2shape_schedule import Schedule, Stage
from aboutface.reconstruct.gan2shape_steps import Losses

SIZE, LATENT = 16, 16
PLAIN = Losses(perceptual=0.0)
SHORT = Schedule(
    (Stage(3, 3, 3), Stage(2, 2, 2)), targets=2, batch=2, samples=3, prior_steps=3, encoder_steps=3, losses=PLAIN
)


@pytest.fixture(autouse=True)
def seeded():
    """Whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture
def gan():
    torch.manual_seed(1)
    networks = Generator.tiny(SIZE), Discriminator.tiny(SIZE)
    for network in networks:
        network.requires_grad_(False).eval()
    return Gan(*networks, {})


@pytest.fixture
def targets(gan):
    w = gan.generator.mapping(torch.randn(2, LATENT))
    images = gan.generator.synthesis(w).clamp(0, 1)
    return [Target(image, one) for image, one in zip(images, w, strict=True)]


def model(**network):
    torch.manual_seed(2)
    tiny = GAN2Shape.tiny(SIZE)
    return GAN2Shape(replace(tiny.settings, network=replace(tiny.settings.network, **network))) if network else tiny


def states_equal(a, b):
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(name == other and torch.equal(one, two) for (name, one), (other, two) in pairs)


def test_it_fits_a_target_and_the_encoder_finds_it(gan, targets):
    schedule = Schedule(
        (Stage(60, 30, 60),),
        batch=3,
        samples=8,
        prior_steps=40,
        learning_rate=1e-2,
        encoder_rate=5e-3,
        losses=PLAIN,
        weight_decay=0.0,
    )
    seen = []
    found = optimise(model(), gan, targets[:1], schedule, progress=seen.append)
    image = targets[0].image[None]
    with torch.no_grad():
        again = found.net.reproject(found(image))
    error = (again.image - image).abs()[again.valid[:, None].expand_as(image)].mean()
    plain = (image - image.mean((-1, -2), keepdim=True)).abs().mean()
    assert float(error) < 0.6 * float(plain)
    for place in ((0, 0), (1, 1), (1, 2), (1, 3)):
        losses = [one.loss for one in seen if (one.stage, one.step) == place and one.loss is not None]
        assert sum(losses[-5:]) < 0.9 * sum(losses[:5]), f"{place} does not learn"
    assert not found.training


def test_a_learned_mean_starts_as_the_prior(gan, targets):
    net = model(mean=True)
    schedule = replace(SHORT, encoder_steps=0)
    prior = first_shape(net, targets, schedule)
    seen = []
    stop = KeyboardInterrupt()

    def after_the_prior(progress):
        seen.append(progress)
        raise stop

    with pytest.raises(KeyboardInterrupt):
        optimise(net, gan, targets, schedule, progress=after_the_prior)
    assert (seen[0].stage, seen[0].step) == (1, 1), "the prior takes no iterations"
    with torch.no_grad():
        depth = net(targets[0].image[None]).depth[0]
    assert_close(depth[:, 2:-2], prior[:, 2:-2], atol=0.01, rtol=0)


def test_progress_tells_every_step_and_shows_every_stage(gan, targets, tmp_path):
    seen = []
    optimise(model(), gan, targets, SHORT, run=tmp_path / "run", progress=seen.append)
    places = list(dict.fromkeys((one.stage, one.step) for one in seen))
    assert places == [(0, 0), (0, 1), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    previews = [one.preview for one in seen if one.preview is not None]
    assert [tuple(one.shape) for one in previews] == [(3, 12 * SIZE, 2 * SIZE)] * 2
    assert all(0 <= float(one.min()) <= float(one.max()) <= 1 for one in previews)
    assert "stage 2/2, all factors 2/2, loss" in [one for one in seen if one.loss is not None][-1].line()
    shown = read_photo(tmp_path / "run" / "stage2.png")
    assert (shown.height, shown.width) == (12 * SIZE, 2 * SIZE)
    assert [file.name for file in (tmp_path / "run").glob("*.safetensors")] == ["stage2-step3.safetensors"]


class Stop:
    """Progress that asks to stop, as Ctrl-C does, at one place."""

    def __init__(self, stage, step):
        self.place = (stage, step, 1)

    def __call__(self, progress):
        if (progress.stage, progress.step, progress.iteration) == self.place:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("place", [(0, 1), (1, 1), (1, 2), (2, 3)])
def test_what_is_interrupted_goes_on_exactly(gan, targets, tmp_path, place):
    whole = optimise(model(), gan, targets, SHORT)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        optimise(model(), gan, targets, SHORT, run=folder, progress=Stop(*place))
    seen = []
    again = optimise(model(), gan, targets, SHORT, run=folder, progress=seen.append)
    assert (seen[0].stage, seen[0].step, seen[0].iteration) == (*place, 2)
    assert states_equal(whole, again)


def test_what_is_finished_is_used_again(gan, targets, tmp_path):
    done = []
    first = optimise(model(), gan, targets, SHORT, run=tmp_path)
    assert states_equal(optimise(model(), gan, targets, SHORT, run=tmp_path, progress=done.append), first)
    assert not done, "nothing was left to do"


def test_a_folder_of_other_work_is_refused(gan, targets, tmp_path):
    optimise(model(), gan, targets, SHORT, run=tmp_path)
    with pytest.raises(UsageError, match="other targets"):
        optimise(model(), gan, targets[:1], SHORT, run=tmp_path)
    masked = [replace(target, mask=torch.ones(SIZE, SIZE)) for target in targets]
    with pytest.raises(UsageError, match="other targets"):
        optimise(model(), gan, masked, SHORT, run=tmp_path)
    other = Gan(Generator.tiny(SIZE).requires_grad_(False).eval(), Discriminator.tiny(SIZE).requires_grad_(False), {})
    with pytest.raises(UsageError, match="other targets"):
        optimise(model(), other, targets, SHORT, run=tmp_path)
    (tmp_path / "progress.json").write_text("{", "utf-8")
    with pytest.raises(UsageError, match="damaged"):
        optimise(model(), gan, targets, SHORT, run=tmp_path)


def test_other_last_bits_of_the_generators_pictures_do_not_matter(gan, targets, tmp_path, monkeypatch):
    """Another number of threads changes them."""
    optimise(model(), gan, targets, SHORT, run=tmp_path)
    anchor = GAN2Shape.anchor
    monkeypatch.setattr(GAN2Shape, "anchor", lambda net, gan, w: anchor(net, gan, w) + 1e-6)
    done = []
    optimise(model(), gan, targets, SHORT, run=tmp_path, progress=done.append)
    assert not done, "nothing was left to do"


class Poison:
    """A step 3 whose loss is not a number the first few times."""

    def __init__(self, times):
        self.left = times
        self.value = gan2shape_steps.RefineStep.value

    def __call__(self, step, chosen):
        terms = self.value(step, chosen)
        if self.left <= 0:
            return terms
        self.left -= 1
        return terms | {"pixels": terms["pixels"] * float("nan")}


@pytest.mark.parametrize("folder", [True, False])
def test_what_is_not_finite_starts_the_stage_again_slower(gan, targets, tmp_path, monkeypatch, folder):
    poison, rates, seen = Poison(1), [], []
    monkeypatch.setattr(gan2shape_steps.RefineStep, "value", lambda step, chosen: poison(step, chosen))
    phases = gan2shape_steps.Step.phases
    monkeypatch.setattr(gan2shape_steps.Step, "phases", lambda step: (rates.append(step.rate), phases(step))[1])
    found = optimise(model(), gan, targets, SHORT, run=tmp_path / "run" if folder else None, progress=seen.append)
    notes = [one.note for one in seen if one.note]
    assert len(notes) == 1
    assert "stage 1 diverged" in notes[0]
    assert "0.3 of its rate" in notes[0]
    # Prior, encoder, three steps; the stage again, slower; and the next one at full rate.
    full, slow = [1e-4] * 5, [3e-5] * 3
    assert rates == pytest.approx([*full, *slow, *[1e-4] * 3])
    assert all(bool(tensor.isfinite().all()) for tensor in found.state_dict().values())


def test_what_never_becomes_finite_fails_clearly(gan, targets, monkeypatch):
    monkeypatch.setattr(
        gan2shape_steps.AlbedoStep, "value", lambda *_: {"pixels": torch.tensor(float("nan"), requires_grad=True)}
    )
    monkeypatch.setattr(gan2shape_steps.AlbedoStep, "moved", lambda step: list(step.model.net.albedo_net.parameters()))
    seen = []
    with pytest.raises(DivergedError, match=f"diverged {ATTEMPTS + 1} times"):
        optimise(model(), gan, targets, SHORT, progress=seen.append)
    assert len([one for one in seen if one.note]) == ATTEMPTS


def test_an_empty_mask_is_refused_before_any_work(gan, targets, tmp_path):
    seen = []
    for mask in (torch.zeros(SIZE, SIZE), torch.full((SIZE, SIZE), 0.4)):
        with pytest.raises(UsageError, match="mask is empty"):
            optimise(model(), gan, [replace(targets[0], mask=mask)], SHORT, run=tmp_path / "x", progress=seen.append)
    assert not seen
    assert not (tmp_path / "x").exists()


def test_the_first_shape_stands_where_the_masks_are(gan, targets):
    mask = torch.zeros(SIZE, SIZE)
    mask[2:10, 6:14] = 1.0
    masked = [replace(target, mask=mask) for target in targets]
    shape = first_shape(model(), masked, SHORT)
    rows, columns = torch.nonzero(shape < 1.02 - 1e-4, as_tuple=True)
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (2, 9, 6, 13)
