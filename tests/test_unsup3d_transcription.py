"""The transcription of Unsup3d: its size, its parts by analytic truth, and that our model is the same where it should.

Ours differs on purpose in one thing: the original's renderer takes K's pixels, whose centres lie on whole numbers, for
positions from 0 to N, so that what it draws at a pixel is the depth half a pixel to the right of and below its centre;
ours draws the depth at the centre. `half_pixel=False` takes that out of the transcription, and then the two agree.
"""

import importlib.util
import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from aboutface.benchmark.synface import read_transcription
from aboutface.nn.perceptual import FilterFeatures
from aboutface.recipes.unsup3d import Unsup3dTask, variants
from aboutface.reconstruct.unsup3d import Factors, Unsup3d, camera, joined, mirrored


def load_script():
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "unsup3d_transcription.py"
    spec = importlib.util.spec_from_file_location("unsup3d_transcription", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["unsup3d_transcription"] = module
    spec.loader.exec_module(module)
    return module


script = load_script()

WIDTH = 8
SETTINGS = replace(variants(width=WIDTH)["original"], features="filters")


def blobs(count: int, seed: int = 0) -> torch.Tensor:
    """Soft pictures (count, 3, 64, 64) in [0, 1]."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(noise, (64, 64), mode="bilinear", align_corners=False)


# Sizes.


def test_parameters_are_as_many_as_published():
    with torch.device("meta"):
        model = script.Unsup3d(64)
    found = {name: sum(p.numel() for p in net.parameters()) for name, net in model.named_children()}
    assert found == {
        **{"netD": 12_979_648, "netA": 12_982_848, "netV": 1_739_776, "netL": 1_739_264},
        **{"netC": 7_678_208},
    }


# Parts.


def plane(size: int, slope: tuple[float, float], z: float = 1.0) -> torch.Tensor:
    """Depth (1, size, size) at the pixels of the plane through (0, 0, z) with dz/dx, dz/dy = slope."""
    return plane_at(size, slope, z, 0.0)


def plane_at(size: int, slope: tuple[float, float], z: float, shift: float) -> torch.Tensor:
    inverse = torch.inverse(script.camera(size).double())
    v, u = torch.meshgrid(*[torch.arange(size).double() + shift] * 2, indexing="ij")
    ray = torch.stack([u, v, torch.ones_like(u)], -1) @ inverse.T
    return (z / (1 - slope[0] * ray[..., 0] - slope[1] * ray[..., 1]))[None].float()


def test_the_field_of_view_is_ten_degrees():
    assert float(script.camera(64)[0, 0]) == pytest.approx(360.047, abs=1e-3)
    corners = script.depth_to_3d_grid(torch.ones(1, 64, 64))[0]
    angle = 2 * math.degrees(math.atan(float(corners[0, -1, 0])))
    assert angle == pytest.approx(10, abs=1e-4)
    assert_close(corners[0, 0, :2], -corners[-1, -1, :2])


def test_normals_of_a_plane_point_away_from_the_camera():
    slope = (0.6, -0.3)
    normal = script.normals_from_depth(plane(32, slope))[0]
    wanted = torch.tensor([-slope[0], -slope[1], 1.0])
    assert_close(normal[1:-1, 1:-1], (wanted / wanted.norm()).expand(30, 30, 3), atol=2e-3, rtol=0)
    assert_close(normal[0], torch.tensor([0.0, 0.0, 1.0]).expand(32, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("half_pixel", "shift"), [(True, 0.5), (False, 0.0)])
def test_depth_is_drawn_half_a_pixel_off(half_pixel, shift):
    """One pixel of this plane is 0.0028 deep; the average of four places on it is right to 1e-5."""
    still = torch.eye(3)[None], torch.zeros(1, 1, 3)
    drawn = script.warp_canon_depth(plane(16, (0.25, 0.1)), *still, "reference", half_pixel)
    wanted = plane_at(16, (0.25, 0.1), 1.0, shift)
    assert_close(drawn[:, 1:-1, 1:-1], wanted[:, 1:-1, 1:-1], atol=2e-5, rtol=0)


def test_without_a_turn_only_the_last_row_and_column_are_not_valid():
    still = torch.eye(3)[None], torch.zeros(1, 1, 3)
    drawn = script.warp_canon_depth(plane(16, (0.1, 0.0)), *still, "reference")
    valid = drawn[0] < 1.2
    assert bool(valid[:-1, :-1].all())
    assert not bool(valid[-1].any())
    assert not bool(valid[:, -1].any())
    # The way back does not depend on depth there: nothing moves.
    grid = script.inverse_warp_grid(drawn, *still)
    v, u = torch.meshgrid(*[torch.arange(16) / 15 * 2 - 1] * 2, indexing="ij")
    assert_close(grid[0], torch.stack([u, v], -1), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("angle", "moves"),
    [(0, (0, 1)), (1, (-1, 0))],
)
def test_turns_move_what_is_in_front_as_the_original_says(angle, moves):
    """A point before the centre goes down with rx > 0 and to the left with ry > 0."""
    view = torch.zeros(1, 6)
    view[0, angle] = 0.3
    rotation, _ = script.transform_matrices(view)
    x, y, _ = rotation[0] @ torch.tensor([0.0, 0.0, -0.1])
    assert_close(torch.stack([x, y]).sign(), torch.tensor(moves, dtype=torch.float32), atol=1e-6, rtol=0)


def test_likelihoods_by_hand():
    image, target = torch.tensor([1.0, 0.0, 5.0]).view(1, 1, 1, 3), torch.zeros(1, 1, 1, 3)
    mask, sigma = torch.tensor([1.0, 1.0, 0.0]).view(1, 1, 1, 3), torch.full((1, 1, 1, 3), 0.5)
    wanted = (math.sqrt(2) / 0.5) / 2 + math.log(0.5)
    assert float(script.photometric_loss(image, target, mask, sigma)) == pytest.approx(wanted, rel=1e-5)
    one = image.view(1, 1, 3, 1).repeat(1, 1, 1, 3)
    found = script.perceptual_loss(nn.Identity(), one, 0 * one, torch.ones(1, 1, 3, 3), torch.full((1, 1, 3, 3), 0.5))
    # Identity sees images in [0, 1], so that differences are halved.
    wanted = ((1 + 25) / 4 / 3) / (2 * 0.25) + math.log(0.5)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_a_step_moves_every_network_and_training_fits_a_few_pictures():
    torch.manual_seed(0)
    state = script.State(script.Unsup3d(WIDTH, "numba"), FilterFeatures.tiny())
    for optimiser in state.optimisers:
        optimiser.param_groups[0]["lr"] = 5e-3
    images = blobs(2) * 2 - 1
    before = [p.clone() for p in state.model.parameters()]
    first = float(script.step(state, images).pixels.detach())
    assert not any(torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True))
    for _ in range(7):
        last = script.step(state, images)
    assert float(last.pixels.detach()) < first - 0.3
    assert float(last.pixels_flipped.detach()) < first


def test_without_flip_there_is_no_mirrored_copy():
    torch.manual_seed(0)
    model, images = script.Unsup3d(WIDTH, "numba"), blobs(2) * 2 - 1
    with torch.no_grad():
        both, plain = model(images), model(images, flip=False)
        assert plain["image"].shape == (2, 3, 64, 64)
        assert_close(plain["recon_depth"], both["recon_depth"][:2])
        assert_close(both["depth"][2:], both["depth"][:2].flip(2))
        losses = script.losses_of(FilterFeatures.tiny(), images, plain)
    assert losses.total == losses.pixels + losses.features


class Oracle(nn.Module):
    """Draws given depth maps, in turn, times `scale`."""

    def __init__(self, depth: torch.Tensor, scale: float):
        super().__init__()
        self.parameter, self.depth = nn.Parameter(torch.ones(1)), list(scale * depth)

    def forward(self, images, flip):
        assert not flip
        depth = torch.stack([self.depth.pop(0) for _ in images])
        return {"recon_depth": depth, "mask": torch.ones_like(depth)[:, None]}


def test_equal_normals_of_the_original_are_six_degrees_apart():
    """Why scores take others."""
    normal = script.normals_from_depth(plane(64, (0.2, 0.1)))[0, 1:-1, 1:-1]
    angle = (normal * normal).sum(-1).clamp(-1, 1).acos().rad2deg()
    assert 5 < float(angle.min()) < float(angle.max()) < 7


def test_scores_are_those_of_a_known_surface():
    """SIDE does not see scale; a tilt by an angle is that angle in MAD."""
    truth, images = plane(64, (0.0, 0.0)).repeat(5, 1, 1), torch.zeros(5, 3, 64, 64, dtype=torch.uint8)
    mask, K = torch.ones(5, 64, 64, dtype=torch.bool), camera(64)
    scores = script.score(Oracle(truth, 1.05), images, truth, mask, K, batch=2)
    assert scores["side"] == pytest.approx([0.0] * 5, abs=1e-6)
    assert scores["mad"] == pytest.approx([0.0] * 5, abs=0.05)
    tilted = plane(64, (math.tan(math.radians(20)), 0.0)).repeat(5, 1, 1)
    scores = script.score(Oracle(tilted, 1.0), images, truth, mask, K, batch=2)
    assert scores["mad"] == pytest.approx([20.0] * 5, abs=0.1)
    inside = (slice(None), slice(1, -1), slice(1, -1))
    spread = (tilted.log() - truth.log())[inside].flatten(1).std(1, correction=0)
    assert scores["side"] == pytest.approx(spread.tolist(), rel=1e-3)


def test_the_program_trains_scores_and_tells(monkeypatch, tmp_path, capsys):
    class Faces:
        def __init__(self, count):
            self.count = count

        def tensors(self, limit, names):
            shape = (min(self.count, limit), 64, 64)
            mask = torch.ones(shape, dtype=torch.bool)
            return {
                "image": (blobs(shape[0]) * 255).byte(),
                "depth": plane(64, (0.1, 0.0)).expand(shape),
                "mask": mask,
                "K": camera(64),
            }

    counts = {"train": 5, "test": 3}
    monkeypatch.setattr(script.SyntheticFaces, "open", lambda path: Faces(counts[path.name]))
    out = tmp_path / "scores.json"
    small = ["--data", str(tmp_path), "--out", str(out), "--width", "8", "--features", "filters"]
    assert script.main([*small, "--steps", "2", "--batch", "2", "--limit", "4"]) == 0
    found = read_transcription(out)
    assert found.title == "Unsup3d, transcribed (filters)"
    assert found.steps == 2
    assert found.parameters == sum(p.numel() for p in script.Unsup3d(8).parameters())
    assert found.scores["side"].n == found.scores["mad"].n == 3
    assert "MAD" in capsys.readouterr().out


# Our own model beside it.


NETS = {"depth_net": "netD", "albedo_net": "netA", "view_net": "netV", "light_net": "netL", "confidence_net": "netC"}


@pytest.fixture(scope="module")
def pair():
    """Our model of the published kind, and the transcription with the same weights; lively ones, or nothing moves."""
    torch.manual_seed(0)
    ours = Unsup3d(SETTINGS.network)
    x = 2 * blobs(4) - 1
    with torch.no_grad():
        for net, wanted in ((ours.view_net, 0.3), (ours.light_net, 0.5), (ours.depth_net, 0.3)):
            list(net.parameters())[-1].mul_(wanted / net(x).std())
    theirs = script.Unsup3d(WIDTH, "numba", half_pixel=False)
    copy_weights(ours, theirs)
    return ours, theirs


def copy_weights(ours: Unsup3d, theirs) -> None:
    """Layers come in the same order under other names."""
    for name, other in NETS.items():
        source, target = getattr(ours, name).state_dict(), getattr(theirs, other).state_dict()
        assert [v.shape for v in source.values()] == [v.shape for v in target.values()]
        getattr(theirs, other).load_state_dict(dict(zip(target, source.values(), strict=True)))


@torch.no_grad()
def test_ours_has_the_same_factors(pair):
    ours, theirs = pair
    images = blobs(4)
    factors, made = ours(images), theirs(2 * images - 1)
    both = joined(factors, mirrored(factors))
    assert_close(both.depth, made["depth"], atol=1e-6, rtol=0)
    assert both.depth.std() > 0.01
    assert_close(both.albedo, made["albedo"] / 2 + 0.5, atol=1e-6, rtol=0)
    rotation, shift = script.transform_matrices(made["view"])
    assert_close(both.view.rotation, rotation, atol=1e-5, rtol=0)
    assert_close(both.view.shift, shift[:, 0])
    assert both.view.yaw.abs().max() > 10
    assert both.view.pitch.abs().max() > 10
    direction = torch.as_tensor(both.light.direction)
    # Its normals, 3e-5 long, are divided by their length and 1e-7, so that they end 0.3 % short.
    lambert = (script.normals_from_depth(made["depth"]).movedim(-1, 1) * -direction[..., None, None]).sum(1)
    light = made["light"] / 2 + 0.5
    shading = light[:, :1, None] + light[:, 1:2, None] * lambert.clamp_min(0)
    assert_close(ours.texture(both), both.albedo * shading[:, None], atol=4e-3, rtol=0)


@torch.no_grad()
def test_ours_has_the_same_reconstruction_once_the_half_pixel_is_out(pair):
    """At the original's two subpixels. Tolerances: depth is float32 from clip space (2e-7) of one rounding more;
    colours by the original's slightly short normals."""
    ours, theirs = pair
    images = blobs(4)
    factors, made = ours(images), theirs(2 * images - 1)
    seen = ours.reproject(joined(factors, mirrored(factors)), supersample=2)
    valid = seen.valid.view(2, 4, 64, 64).all(0).repeat(2, 1, 1)
    assert torch.equal(valid, made["mask"][:, 0] > 0)
    assert valid.float().mean() > 0.25
    assert_close(seen.depth[valid], made["recon_depth"][valid], atol=5e-6, rtol=0)
    one, other = (image.movedim(1, -1)[valid] for image in (seen.image, made["image"] / 2 + 0.5))
    assert_close(one, other, atol=5e-3, rtol=0)
    assert (one - other).abs().mean() < 2e-4


def test_ours_has_the_same_losses_and_gradients(pair):
    """But that the original also blackens, before features are compared, what is not valid in the reconstruction."""
    ours, theirs = pair
    images = blobs(4)
    task = Unsup3dTask(SETTINGS)
    task.net.load_state_dict(ours.state_dict())
    task.net.reproject = partial(task.net.reproject, supersample=2)  # pyright: ignore[reportAttributeAccessIssue]
    assert task.features is not None
    torch.manual_seed(7)
    flipped = torch.rand(4) < 0.5
    assert 0 < flipped.sum() < 4
    torch.manual_seed(7)
    total, _ = task.loss("all", {"image": (images * 255).round().byte()}, 0)
    total.backward()
    images = (images * 255).round() / 255
    images = torch.where(flipped[:, None, None, None], images.flip(-1), images) * 2 - 1
    theirs.zero_grad()
    losses = script.losses_of(task.features, images, theirs(images))
    losses.total.backward()
    assert float(total.detach()) == pytest.approx(float(losses.total.detach()), abs=0.02)
    for name, other in NETS.items():
        one, two = (
            torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
            for net in (getattr(task.net, name), getattr(theirs, other))
        )
        assert float(torch.cosine_similarity(one, two, dim=0)) > 0.98, name
        assert float(one.norm() / two.norm()) == pytest.approx(1, abs=0.1), name


@torch.no_grad()
def test_as_it_is_ours_draws_what_the_original_draws_half_a_pixel_away():
    """A bowl under a turn: our depth at (i, j) lies between the original's at (i, j) and (i - 1, j - 1)."""
    ours = Unsup3d(SETTINGS.network)
    axis = torch.linspace(-1, 1, 64)
    bowl = (0.95 + 0.05 * (axis**2 + axis[:, None] ** 2))[None]
    view = torch.tensor([[0.05, -0.1, 0.03, 0.001, 0.0, 0.0]])
    rotation, shift = script.transform_matrices(view)
    plain = ours(blobs(1))
    turned = plain.view._replace(
        yaw=-view[:, 1].rad2deg(), pitch=-view[:, 0].rad2deg(), roll=view[:, 2].rad2deg(), shift=shift[:, 0]
    )
    assert_close(turned.rotation, rotation, atol=1e-6, rtol=0)
    found = ours.reproject(Factors(bowl, plain.albedo, turned, plain.light)).depth
    drawn = script.warp_canon_depth(bowl, rotation, shift, "numba")
    between = (drawn[:, 1:, 1:] + drawn[:, :-1, :-1]) / 2
    inside = (slice(None), slice(8, -8), slice(8, -8))
    assert (drawn[:, 1:, 1:] - drawn[:, :-1, :-1])[inside].abs().mean() > 1e-3
    assert_close(found[:, 1:, 1:][inside], between[inside], atol=1.5e-4, rtol=0)


# The benchmark of a step.


@pytest.fixture
def benchmark(monkeypatch):
    folder = Path(__file__).resolve().parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    module = importlib.import_module("unsup3d_step")
    yield module
    for name in ("unsup3d_step", "render"):
        sys.modules.pop(name, None)


def test_the_parts_of_a_step_are_watched_and_watching_changes_nothing(benchmark):
    racers = benchmark.contestants(WIDTH, "filters")
    del racers[benchmark.REFERENCE]
    for name, times in benchmark.measure(racers, benchmark.some_images(2), 1).items():
        assert min(times.parts.values()) > 0, name
        assert sum(times.parts.values()) == pytest.approx(times.whole)
        assert times.parts["networks backward"] < times.whole

    def weights_after_a_step(watched: bool):
        torch.manual_seed(1)
        state = script.State(script.Unsup3d(WIDTH, "numba"), FilterFeatures.tiny())
        if watched:
            watch = benchmark.Watch()
            for module in (*state.model.children(), state.features):
                benchmark.watch_module(watch, "part", module)
            assert not watch.spent
        script.step(state, 2 * blobs(2) - 1)
        return list(state.model.parameters())

    assert_close(weights_after_a_step(True), weights_after_a_step(False), atol=0, rtol=0)


def test_parts_of_a_step_are_timed_by_the_clock(benchmark):
    """Each part of a made-up step takes seconds of its own, forward and backward."""
    now = [0.0]
    watch = benchmark.Watch(lambda: now[0])

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, forward, backward):
            now[0] += forward
            ctx.seconds = backward
            return x.clone()

        @staticmethod
        def backward(ctx, *grads):
            now[0] += ctx.seconds
            return grads[0], None, None

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return Slow.apply(self.weight * x, 1.0, 2.0)

    class Features(nn.Module):
        def forward(self, x):
            return Slow.apply(x, 4.0, 8.0)

    class Drawn(NamedTuple):
        depth: torch.Tensor

    net, features = Net(), Features()
    benchmark.watch_module(watch, "networks", net)
    benchmark.watch_module(watch, "features", features)
    draw = benchmark.watch_function(watch, "drawing", lambda x: Drawn(Slow.apply(x, 16.0, 32.0)))
    x = Slow.apply(net(torch.ones(1)), 64.0, 128.0)
    features(draw(x).depth).sum().backward()
    assert watch.spent == {
        **{"networks forward": 1, "networks backward": 2, "features forward": 4, "features backward": 8},
        **{"drawing forward": 16, "drawing backward": 32},
    }
    assert now[0] == 255


def test_the_goal_of_the_step_is_judged_at_its_published_size_only(benchmark, monkeypatch):
    parts = dict.fromkeys([*benchmark.STAGES, benchmark.REST], 1.0)
    times = {benchmark.OURS: 10.0, benchmark.REFERENCE: 19.0, benchmark.DEFAULT: 11.0}
    monkeypatch.setattr(benchmark, "contestants", lambda *_: {})
    monkeypatch.setattr(
        benchmark, "measure", lambda *_: {name: benchmark.Times(whole, parts) for name, whole in times.items()}
    )
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    report = benchmark.Report()
    benchmark.measure_steps(report, 4, 64, "filters", 1)
    assert not report.goals
    benchmark.measure_steps(report, 64, 64, "filters", 1)
    assert [goal.met for goal in report.goals] == [False]
    assert "| times as fast | 1.9 | 1 | 1.73 |" in report.details[0]
