"""Training StyleGAN2: its losses, that it learns, resumes and grows, and what is measured in the end."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.fit import FitSettings, Run
from aboutface.nn.stylegan2 import Generator
from aboutface.recipes import picture_features, stylegan2, write_weights
from aboutface.recipes.stylegan2 import StyleGAN2Task, StyleGAN2Training, set_distances, start_from, train_stylegan2
from aboutface.weights import load_file

TINY = StyleGAN2Training(
    size=8,
    latent=8,
    mapping_layers=2,
    channel_base=64,
    channel_max=8,
    batch=4,
    score=0,
    fit=FitSettings(steps=3, ema=0.9, preview_every=0, log_every=1000, device="cpu"),
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def double():
    """Everything that is drawn is so in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def quiet(_line):
    """Nothing is said."""


def pictures(count=6, size=8):
    """(N, 3, S, S) uint8: slopes of random colours."""
    slope = torch.linspace(0, 1, size).expand(size, size)
    colours = torch.rand(count, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    return (255 * (slope * colours + (1 - slope.mT) * (1 - colours))).byte()


def batch(count=4):
    return {"image": pictures(count)}


# Training.


def test_one_picture_is_learned_by_heart():
    axis = torch.linspace(0, 1, 8)
    picture = torch.stack([axis.expand(8, 8), axis[:, None].expand(8, 8), (axis > axis[:, None]) * 0.8])
    settings = replace(
        TINY,
        latent=16,
        channel_base=256,
        channel_max=32,
        batch=2,
        flip=False,
        augment="none",
        learning_rate=0.02,
        r1=0.1,
        path_length=0.0,
        fit=replace(TINY.fit, steps=120),
    )
    task = train_stylegan2((255 * picture[None]).byte(), settings, None, quiet)
    with torch.no_grad():
        images = task.generator(torch.randn(16, 16))
    # A plain colour is 0.25 away.
    assert float((images - picture).abs().mean()) < 0.15


def test_half_the_run_and_the_rest_give_the_same_bits(tmp_path):
    """Two optimisers serve two phases each, the probability of augmentation moves, and weights are averaged."""
    settings = replace(TINY, path_every=2, r1_every=2, augment_strength=0.3, augment_images=200)
    settings = replace(settings, fit=replace(settings.fit, steps=6))
    whole = train_stylegan2(pictures(), settings, None, quiet)
    run = Run.create(tmp_path / "runs", "data", "stylegan2", {})
    train_stylegan2(pictures(), replace(settings, fit=replace(settings.fit, steps=3)), run, quiet)
    resumed = train_stylegan2(pictures(), settings, run, quiet)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert int(whole.controller.last) == 4
    assert float(whole.controller.strength) != pytest.approx(0.3)


@pytest.mark.parametrize("augment", ["adaptive", "fixed", "none"])
def test_every_phase_moves_its_own_network(augment):
    task = StyleGAN2Task(replace(TINY, augment=augment, augment_strength=0.5))
    for name, phase in task.phases().items():
        task.zero_grad()
        loss, _ = task.loss(name, batch(), 0)
        loss.backward(inputs=phase.parameters)
        ours, others = task.generator, task.discriminator
        if name in ("critic", "r1"):
            ours, others = others, ours
        assert all(p.grad is None for p in others.parameters())
        # R1 and path length have no say in what is only added at the end.
        moved = sum(float(p.grad.abs().sum()) > 0 for p in ours.parameters() if p.grad is not None)
        assert moved > 0.6 * len(list(ours.parameters()))


def test_lazy_regularisation_corrects_rates_and_memory():
    """Appendix B: with a step of its own every k steps, rate and betas are those of k / (k + 1) steps."""
    phases = StyleGAN2Task(replace(TINY, path_every=4, r1_every=16, learning_rate=0.002)).phases()
    for name, k in (("generator", 4), ("path", 4), ("critic", 16), ("r1", 16)):
        group = phases[name].optimiser.param_groups[0]
        assert group["lr"] == pytest.approx(0.002 * k / (k + 1))
        assert group["betas"] == pytest.approx((0.0, 0.99 ** (k / (k + 1))))
    assert phases["generator"].optimiser is phases["path"].optimiser
    assert phases["critic"].optimiser is phases["r1"].optimiser
    assert (phases["path"].every, phases["r1"].every) == (4, 16)
    alone = StyleGAN2Task(replace(TINY, path_length=0.0, r1=0.0, learning_rate=0.002)).phases()
    assert list(alone) == ["generator", "critic"]
    assert alone["critic"].optimiser.param_groups[0]["betas"] == (0.0, 0.99)


# Losses.


class Slope(nn.Module):
    """A critic whose slope is known: the sum of colours in [-1, 1], times `by`."""

    def __init__(self, by):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, images):
        return self.by * (2 * images - 1).sum((1, 2, 3))


def test_r1_is_half_gamma_times_the_squared_slope_in_the_networks_own_range():
    task = StyleGAN2Task(replace(TINY, r1=10.0, r1_every=16, augment="none"))
    critic = Slope(0.5)
    task.discriminator = critic  # pyright: ignore[reportAttributeAccessIssue]
    loss, terms = task.loss("r1", batch(), 0)
    assert float(terms["slope"].detach()) == pytest.approx(3 * 64 * 0.25, rel=1e-5)
    assert float(loss.detach()) == pytest.approx(16 * 5 * 3 * 64 * 0.25, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, critic.by)
    assert float(gradient) == pytest.approx(16 * 5 * 3 * 64 * 2 * 0.5, rel=1e-5)


@pytest.mark.parametrize(("phase", "parameter"), [("r1", "discriminator.blocks.0.second.weight"), ("path", "constant")])
def test_gradients_of_regularisers_are_those_of_finite_differences(phase, parameter, double):
    """Through the critic, augmentation included, and through the generator: both are second derivatives.

    The mean length, of which a hundredth is this batch's, counts as a constant."""
    task = StyleGAN2Task(replace(TINY, augment="fixed", augment_strength=0.8)).double()
    found = next(p for name, p in task.named_parameters() if name.endswith(parameter))

    def loss():
        torch.manual_seed(3)
        task.mean_path.fill_(0.2)
        return (task._r1(pictures(4).double() / 255) if phase == "r1" else task._path(4))[0]

    (gradient,) = torch.autograd.grad(loss(), found)
    way, step = gradient / gradient.norm(), 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            found.add_(sign * step * way)
        values.append(float(loss().detach()))
        with torch.no_grad():
            found.sub_(sign * step * way)
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.02)


@pytest.mark.parametrize("phase", ["generator", "path", "critic", "r1"])
def test_every_phase_in_half_precision_is_about_the_same(phase):
    """Second derivatives through autocast, augmentation and channels-last order included. Of three networks the middle
    one: where a unit of so few is near its corner, it may fall on the other side."""
    settings = replace(
        TINY, size=16, latent=16, channel_base=256, channel_max=16, augment="fixed", augment_strength=0.5
    )
    ratios, cosines = [], []
    for _ in range(3):
        task = StyleGAN2Task(settings)
        task.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        optimised = task.phases()[phase].parameters
        losses, slopes = [], []
        for half in (False, True):
            torch.manual_seed(2)
            task.mean_path.fill_(0.1)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss, _ = task.loss(phase, {"image": pictures(4, 16)}, 0)
            found = torch.autograd.grad(loss, optimised, allow_unused=True)
            losses.append(float(loss.detach()))
            slopes.append(torch.cat([one.flatten() for one in found if one is not None]))
        ratios.append(losses[1] / losses[0])
        cosines.append(float(functional.cosine_similarity(*slopes, dim=0)))
        torch.manual_seed(len(ratios) + 10)
    assert sorted(ratios)[1] == pytest.approx(1, abs=0.05)
    assert sorted(cosines)[1] > 0.98


def test_path_length_grows_with_what_a_step_in_w_changes():
    task = StyleGAN2Task(replace(TINY, mixing=0.0))
    torch.manual_seed(1)
    _, terms = task.loss("path", batch(), 0)
    assert float(task.mean_path) == pytest.approx(0.01 * float(terms["length"].detach()))
    with torch.no_grad():
        for colour in task.generator.synthesis.colours:
            for parameter in colour.parameters(False):
                parameter.mul_(3)
    torch.manual_seed(1)
    assert float(task.loss("path", batch(), 0)[1]["length"].detach()) == pytest.approx(
        3 * float(terms["length"].detach()), rel=1e-4
    )
    # A length that is the mean costs nothing.
    task.generator.synthesis.forward = lambda w, noise="none": w.sum((1, 2))[:, None, None, None].expand(-1, 3, 8, 8)
    torch.manual_seed(1)
    loss, terms = task.loss("path", {"image": pictures(2)}, 0)
    task.mean_path.copy_(terms["length"])
    torch.manual_seed(1)
    assert float(task.loss("path", {"image": pictures(2)}, 0)[0].detach()) < 1e-6 * float(loss.detach())


def test_both_regularisers_count_as_often_as_they_are_left_out():
    for phase, name in (("r1", "r1_every"), ("path", "path_every")):
        losses = []
        for every in (1, 8):
            torch.manual_seed(0)
            task = StyleGAN2Task(replace(TINY, **{name: every}))
            torch.manual_seed(1)
            losses.append(float(task.loss(phase, batch(), 0)[0].detach()))
        assert losses[1] == pytest.approx(8 * losses[0], rel=1e-5)


def test_mixing_gives_finer_layers_another_w():
    task = StyleGAN2Task(replace(TINY, mixing=0.9))
    with torch.no_grad():
        w = task._latents(2000)
    changes = (w.diff(dim=1).abs().sum(2) > 1e-6).sum(1)
    assert set(changes.tolist()) == {0, 1}
    assert float(changes.float().mean()) == pytest.approx(0.9, abs=0.03)
    # All places of the change are as likely.
    where = (w.diff(dim=1).abs().sum(2) > 1e-6)[changes == 1].float().mean(0)
    assert_close(where, torch.full((3,), 1 / 3), atol=0.04, rtol=0)
    plain = StyleGAN2Task(replace(TINY, mixing=0.0))._latents(4)
    assert torch.equal(plain[:, 0], plain[:, -1])


def test_all_that_the_critic_sees_is_augmented_alike(monkeypatch):
    seen = []
    monkeypatch.setattr(stylegan2, "augmented", lambda x, strength: seen.append(float(strength)) or x)
    task = StyleGAN2Task(replace(TINY, augment="fixed", augment_strength=0.25))
    for phase, count in (("generator", 1), ("critic", 2), ("r1", 1), ("path", 0)):
        seen.clear()
        task.loss(phase, batch(), 0)
        assert seen == [0.25] * count
    assert float(task.controller.strength) == 0.25


def test_the_probability_follows_the_critic(monkeypatch):
    settings = replace(TINY, augment_images=160)
    task = StyleGAN2Task(settings)
    task.discriminator = Slope(0.0)  # pyright: ignore[reportAttributeAccessIssue]
    task.discriminator.forward = lambda images: torch.ones(len(images)) * 0.5  # pyright: ignore[reportAttributeAccessIssue]
    strengths = [float(task.loss("critic", batch(), step)[1]["augmentation"]) for step in range(9)]
    assert strengths == pytest.approx([0.0] * 4 + [0.1] * 4 + [0.2])
    assert float(StyleGAN2Task(replace(settings, augment="none", augment_strength=0.5)).controller.strength) == 0
    assert StyleGAN2Task(TINY).controller.images == 500_000
    assert StyleGAN2Task(replace(TINY, start="weights")).controller.images == 100_000


# Starting from other weights.


def saved(path, task, settings):
    tensors = {name: value for name, value in task.state_dict().items() if not name.startswith("controller.")}
    trained = stylegan2.Trained(tensors, {}, {"network": asdict(settings.network)})
    write_weights(path, "stylegan2", trained)
    return path


def test_a_grown_generator_begins_with_the_enlarged_picture(tmp_path):
    small = StyleGAN2Task(replace(TINY, channel_base=512))
    file = saved(tmp_path / "small.safetensors", small, small.settings)
    grown = StyleGAN2Task(replace(small.settings, size=16))
    start_from(grown, file)
    z = torch.randn(8, 8)
    with torch.no_grad():
        # The inner levels are the same, so that their pictures are; the new level adds a little.
        wanted = functional.interpolate(small.generator(z, noise="none"), scale_factor=2, mode="bilinear")
        found = grown.generator(z, noise="none")
        fresh = StyleGAN2Task(grown.settings).generator(z, noise="none")
    error = float((found - wanted).abs().mean())
    assert error < 0.3 * float(wanted.std())
    assert error < 0.3 * float((fresh - wanted).abs().mean())
    # The critic's levels are counted from the largest: its inner ones, and all after them, are the small one's.
    ours, theirs = grown.discriminator.state_dict(), small.discriminator.state_dict()
    for name in theirs:
        if name.startswith("from_rgb"):
            continue
        moved = name.replace("blocks.0.", "blocks.1.")
        assert_close(ours[moved], theirs[name], atol=1e-2, rtol=1e-3)


def test_weights_of_the_same_size_are_taken_over_whole(tmp_path):
    first = StyleGAN2Task(TINY)
    first.mean_path.fill_(0.5)
    second = StyleGAN2Task(replace(TINY, augment_strength=0.25))
    start_from(second, saved(tmp_path / "first.safetensors", first, TINY))
    for name, tensor in first.state_dict().items():
        if not name.startswith("controller."):
            assert torch.equal(second.state_dict()[name], tensor.half().float()), name
    assert float(second.controller.strength) == 0.25


def test_other_weights_are_refused(tmp_path):
    file = saved(tmp_path / "first.safetensors", StyleGAN2Task(TINY), TINY)
    for changes in ({"size": 32}, {"latent": 4}, {"mapping_layers": 3}):
        with pytest.raises(UsageError, match="or half its size"):
            start_from(StyleGAN2Task(replace(TINY, **changes)), file)
    trained = stylegan2.Trained({"a": torch.zeros(1)}, {}, {})
    write_weights(tmp_path / "other.safetensors", "other", trained)
    with pytest.raises(UsageError, match="no weights of stylegan2"):
        start_from(StyleGAN2Task(TINY), tmp_path / "other.safetensors")


# The whole recipe.


def test_a_folder_becomes_a_weight_file_with_scores(tmp_path, monkeypatch):
    monkeypatch.setattr(stylegan2, "picture_features", lambda: Corners())
    folder = tmp_path / "data"
    folder.mkdir()
    for number, image in enumerate(pictures(5, 12)):
        Image.fromarray(image.movedim(0, -1).numpy()).save(folder / f"{number}.png")
    said = []
    run = Run.create(tmp_path / "runs", "data", "stylegan2", {})
    settings = replace(TINY, score=100, augment_strength=0.5, augment="fixed", fit=replace(TINY.fit, preview_every=2))
    trained = settings.train(folder, run, said.append)
    write_weights(tmp_path / "gan.safetensors", "stylegan2", trained)
    tensors, card = load_file(tmp_path / "gan.safetensors")
    assert {name.partition(".")[0] for name in tensors} == {"generator", "discriminator", "mean_path"}
    assert card["settings"]["network"]["size"] == 8
    assert card["settings"]["training"]["crop"] == "centre"
    assert set(card["scores"]) == {
        "augmentation",
        "compared_pictures",
        "frechet_distance_corners",
        "kernel_distance_corners",
    }
    assert card["scores"]["compared_pictures"] == 5
    assert card["scores"]["augmentation"] == 0.5
    assert any("in features of corners" in line for line in said)
    assert (run.folder / "samples" / "000002.png").is_file()
    json.dumps(card)


class Corners(nn.Module):
    """Pictures to their values at three places."""

    name = "corners"

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, images):
        return self.scale * torch.cat([images[..., 0, 0], images[..., -1, -1], images[..., 4, 4]], 1)


def test_a_generators_own_pictures_are_nearer_to_it_than_others(monkeypatch):
    monkeypatch.setattr(stylegan2, "picture_features", lambda: Corners())
    generator = Generator(TINY.network)
    with torch.no_grad():
        own = (generator(torch.randn(300, 8), noise="random").clamp(0, 1) * 255).round().byte()
    near = set_distances(generator, own, 300, quiet, seed=5)
    far = set_distances(generator, 255 - own // 2, 300, quiet, seed=5)
    assert near["frechet_distance_corners"] < 0.1 * far["frechet_distance_corners"]
    assert near["kernel_distance_corners"] < 0.1 * far["kernel_distance_corners"]
    assert near == set_distances(generator, own, 300, quiet, seed=5)


def test_features_are_inceptions_where_they_are_and_deep3ds_else(tmp_path, monkeypatch):
    monkeypatch.setenv("ABOUTFACE_HOME", str(tmp_path))
    shipped = picture_features.picture_features()
    assert shipped.name == "deep3d"
    found = picture_features.described(shipped, pictures(3, 16))
    assert found.shape == (3, 768)
    assert_close(picture_features.described(shipped, pictures(3, 16).float() / 255), found)
    assert float((found[0] - found[1]).abs().max()) > 0.01
    assert not any(parameter.requires_grad for parameter in shipped.parameters())
    file = tmp_path / "weights" / "pt_inception-2015-12-05-6726825d.pth"
    file.parent.mkdir()
    file.touch()
    monkeypatch.setattr(picture_features.InceptionFeatures, "from_file", lambda given: ("inception", given))
    assert picture_features.picture_features() == ("inception", file)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path_length": -1.0}, "--path-length"),
        ({"mixing": 1.5}, "--mixing"),
        ({"r1": -1.0}, "--r1"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"batch": 0}, "--batch"),
        ({"r1_every": 0}, "--r1-every"),
        ({"augment": "some"}, "--augment: expected adaptive or fixed or none"),
        ({"augment_strength": 1.1}, "--augment-strength"),
        ({"augment_images": 0}, "--augment-images"),
        ({"score": 1}, "--score"),
        ({"size": 20}, "8, 16, 32"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        replace(TINY, **changes)


def test_pictures_of_another_size_or_kind_are_refused():
    for images in (pictures(4, 16), pictures().float()):
        with pytest.raises(UsageError, match="uint8, got"):
            train_stylegan2(images, TINY, None, quiet)


def test_the_critic_may_have_a_rate_of_its_own():
    phases = StyleGAN2Task(replace(TINY, learning_rate=1e-3, critic_rate=1e-2, path_length=0.0, r1=0.0)).phases()
    rates = {name: phase.optimiser.param_groups[0]["lr"] for name, phase in phases.items()}
    assert rates == {"generator": 1e-3, "critic": 1e-2}
    with pytest.raises(UsageError, match="--critic-rate"):
        replace(TINY, critic_rate=0.0)
