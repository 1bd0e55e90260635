"""GAN2Shape: its networks, priors, samples, and what each step moves."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.generate.load import Gan
from aboutface.nn.autoencoder import parameter_count
from aboutface.nn.stylegan2 import Discriminator, Generator, Mapping, tiny_settings
from aboutface.reconstruct.gan2shape import (
    FactorNet,
    GAN2Shape,
    GAN2ShapeSettings,
    Target,
    ViewLightStatistics,
    built,
    card,
    measure,
    published,
    resized,
    through_mapping,
    towards,
)
from aboutface.reconstruct.gan2shape_priors import Box, default_box, object_box, prior_depth
from aboutface.reconstruct.gan2shape_schedule import Schedule, Stage, paper, without_symmetry
from aboutface.reconstruct.gan2shape_steps import (
    AlbedoStep,
    Collection,
    EncoderStep,
    Lights,
    Losses,
    PriorStep,
    ProjectionStep,
    RefineStep,
    canonical_mask,
    collect,
    collect_stock,
    critic_difference,
    prepare,
    reconstruction,
    sampled_lights,
    sampled_views,
)
from aboutface.reconstruct.unsup3d import Factors, Unsup3d, View, mirrored
from aboutface.scene import Light

SIZE, LATENT = 16, 16
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seeded():
    """Whatever ran before."""
    torch.manual_seed(0)


def make_gan(size=SIZE, critic=True):
    torch.manual_seed(1)
    generator, discriminator = Generator.tiny(size), Discriminator.tiny(size) if critic else None
    for network in (generator, discriminator):
        if network is not None:
            network.requires_grad_(False).eval()
    return Gan(generator, discriminator, {})


def make_targets(gan, count=2, size=SIZE, mask=None):
    w = gan.generator.mapping(torch.randn(count, LATENT))
    images = resized(gan.generator.synthesis(w).clamp(0, 1), size)
    return [Target(image, one, mask) for image, one in zip(images, w, strict=True)]


@pytest.fixture
def gan():
    return make_gan()


@pytest.fixture
def model():
    torch.manual_seed(2)
    return GAN2Shape.tiny(SIZE)


def still(count, yaw=0.0):
    zero = torch.zeros(count)
    return View(zero + yaw, zero, zero, torch.zeros(count, 3))


# ---- networks ----


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        (64, (12_979_648, 12_982_848, 6_952_960, 6_951_936, 3_565_504)),
        (128, (12_947_680, 12_949_280, 6_984_192, 6_983_168, 13_789_632)),
    ],
)
def test_parameters_are_the_published_ones(size, counts):
    with torch.device("meta"):
        settings = published(size)
        net = FactorNet(settings.network)
        parts = [sum(p.numel() for p in part) for part in net.parts().values()]
    assert (*parts, parameter_count(GAN2Shape(settings).encoder)) == counts
    assert sum(parts) == parameter_count(net)


def test_an_untrained_network_answers_with_the_means():
    known = ViewLightStatistics(
        torch.tensor([5.0, -3.0, 1.0, 0.01, -0.02, 0.0]), torch.eye(6), torch.tensor([0.7, 0.3, 0.2, -0.4])
    )
    torch.manual_seed(0)
    model = GAN2Shape.tiny(SIZE, known)
    found = model(torch.rand(3, 3, SIZE, SIZE))
    assert_close(found.view.yaw, torch.full((3,), 5.0), atol=3.0, rtol=0)
    assert_close(found.view.shift, known.view_mean[3:].expand(3, 3), atol=0.005, rtol=0)
    assert_close(found.light.direction, towards(torch.tensor([[0.2, -0.4]])).expand(3, 3), atol=0.05, rtol=0)
    assert_close(found.light.ambient, torch.full((3,), 0.7), atol=0.03, rtol=0)


def test_it_starts_from_unsup3d_as_it_is(model):
    trained = Unsup3d.tiny(SIZE, confidence_width=0)
    model.start_from(trained)
    images = torch.rand(2, 3, SIZE, SIZE)
    ours, theirs = model(images), trained(images)
    assert_close(ours.depth, theirs.depth)
    assert_close(ours.view.rotation, theirs.view.rotation)
    assert_close(ours.light.direction, theirs.light.direction)
    assert_close(ours.light.ambient, theirs.light.ambient)
    with pytest.raises(UsageError, match="networks"):
        model.start_from(Unsup3d.tiny(32))


def test_a_learned_mean_belongs_to_its_part():
    net = FactorNet(replace(GAN2Shape.tiny(SIZE).settings.network, mean=True))
    named = {id(p): name for name, p in net.named_parameters()}
    assert "mean_depth" in [named[id(p)] for p in net.parts()["depth"]]
    assert "mean_albedo" in [named[id(p)] for p in net.parts()["albedo"]]


def test_weights_come_back(model, tmp_path):
    again = built(model.state_dict(), {"settings": card(model.settings)}, tmp_path / "x.safetensors")
    images = torch.rand(1, 3, SIZE, SIZE)
    assert_close(again(images).depth, model(images).depth)
    assert_close(again.view_covariance, model.view_covariance)
    with pytest.raises(UsageError, match=r"x\.safetensors"):
        built({}, {}, tmp_path / "x.safetensors")


# ---- the mapping network ----


def test_offsets_pass_as_many_layers_as_published():
    torch.manual_seed(0)
    mapping, step = Mapping(tiny_settings()), torch.randn(3, LATENT)
    zero = torch.zeros(1, LATENT)
    whole = mapping.layers
    assert len(whole) == 9
    # d = 8: PixelNorm and all eight. d = 2: the last three.
    assert_close(through_mapping(mapping, step, 8), whole(step) - whole(zero))
    middle = zero
    for layer in list(whole)[:6]:
        middle = layer(middle)
    tail = step + middle
    for layer in list(whole)[6:]:
        tail = layer(tail)
    assert_close(through_mapping(mapping, step, 2), tail - whole(zero))
    assert_close(through_mapping(mapping, step, -1), step)


def test_an_offset_through_the_whole_network_has_no_size():
    """PixelNorm leaves the direction alone (section 9.2)."""
    torch.manual_seed(0)
    mapping, step = Mapping(tiny_settings()), torch.randn(2, LATENT)
    assert_close(through_mapping(mapping, step, 8), through_mapping(mapping, 10 * step, 8), atol=1e-5, rtol=1e-4)


def test_a_short_mapping_network_is_passed_whole():
    mapping, step = Mapping(tiny_settings(mapping_layers=2)), torch.randn(2, LATENT)
    assert_close(through_mapping(mapping, step, 8), through_mapping(mapping, step, 2))


def test_the_target_itself_is_projected_to_itself(model, gan):
    """Relative: no difference, no offset. With PixelNorm that is a point of its own, so without it here."""
    targets = make_targets(gan)
    w = torch.stack([target.w for target in targets])
    own = model.anchor(gan, w)
    relative = GAN2Shape(replace(model.settings, mapping_depth=2))
    assert_close(relative.project(gan, own, w, own), gan.generator.synthesis(w).clamp(0, 1))
    absolute = GAN2Shape(replace(model.settings, mapping_depth=2, relative=False))
    assert not torch.allclose(absolute.project(gan, own, w, own), gan.generator.synthesis(w).clamp(0, 1))


def test_another_size_of_generator_is_brought_to_the_models(model):
    large = make_gan(32)
    targets = make_targets(large)
    material = prepare(model, large, targets, False, CPU)
    assert material.anchors.shape == (2, 3, SIZE, SIZE)
    assert model.project(large, material.images, material.w, material.anchors).shape == (2, 3, 32, 32)
    small = torch.rand(1, 3, 8, 8)
    assert_close(resized(resized(small, 16), 16), resized(small, 16))
    assert_close(resized(small.repeat_interleave(4, -1).repeat_interleave(4, -2), 8), small)


# ---- what is refused ----


def test_what_does_not_fit_is_told_before_any_work(model, gan):
    (target, _) = make_targets(gan)
    with pytest.raises(UsageError, match="no discriminator"):
        prepare(model, make_gan(critic=False), [target], False, CPU)
    with pytest.raises(UsageError, match="numbers in w"):
        prepare(GAN2Shape(GAN2ShapeSettings(model.settings.network, 32, 4)), gan, [target], False, CPU)
    with pytest.raises(UsageError, match="mask is empty"):
        prepare(model, gan, [replace(target, mask=torch.zeros(SIZE, SIZE))], True, CPU)
    with pytest.raises(UsageError, match="one target or more"):
        prepare(model, gan, [], False, CPU)
    with pytest.raises(UsageError, match="W, not"):
        prepare(model, gan, [replace(target, w=target.w.expand(6, -1))], False, CPU)
    with pytest.raises(UsageError, match="expected an image"):
        prepare(model, gan, [replace(target, image=torch.rand(3, 32, 32))], False, CPU)


# ---- priors ----


def test_the_ellipsoid_is_a_cap_of_a_sphere():
    depth = prior_depth(64, Box(16, 16, 48, 48)).double()
    axis = (torch.arange(64).double() + 0.5 - 32) / 16
    square = axis.square() + axis.square()[:, None]
    inside = square < 1
    rim = (0.4**2 - (0.4 - 0.11) ** 2) ** 0.5
    radius = (square[inside] * rim**2 + (depth[inside] - 0.91 - 0.4).square()).sqrt()
    assert_close(radius, torch.full_like(radius, 0.4), atol=1e-6, rtol=0)
    assert bool((depth[~inside] == depth.max()).all())
    assert float(depth.max()) == pytest.approx(1.02)
    assert float(prior_depth(65, Box(16, 16, 49, 49))[32, 32]) == pytest.approx(0.91)


def test_an_ellipsoid_is_as_high_as_its_box():
    depth = prior_depth(64, Box(22, 12, 42, 52))
    near = depth < 1.02 - 1e-4
    rows, columns = torch.nonzero(near, as_tuple=True)
    assert (int(rows.min()), int(rows.max())) == (12, 51)
    assert (int(columns.min()), int(columns.max())) == (22, 41)
    assert_close(depth, depth.flip(-1))
    assert_close(depth[12:52], depth[12:52].flip(0))


def test_variants_of_the_prior():
    box = Box(18, 8, 46, 56)
    plain = prior_depth(64, box)
    skew = prior_depth(64, box, "asymmetric")
    assert_close(skew[:, 32:], plain[:, 32:])
    assert_close(skew[:, 8:32], prior_depth(64, Box(8, 8, 56, 56))[:, 8:32])
    assert not torch.allclose(skew, skew.flip(-1))
    quarter = prior_depth(64, box, "shift-4")
    assert_close(quarter[:, 16:], plain[:, :-16])
    sixth = prior_depth(96, Box(27, 12, 69, 84), "shift-6")
    assert_close(sixth[:, 16:], prior_depth(96, Box(27, 12, 69, 84))[:, :-16])
    weak = prior_depth(65, Box(18, 8, 47, 57), "weak")
    assert 1.02 - float(weak.min()) == pytest.approx(0.055, abs=1e-6)
    assert torch.equal(prior_depth(64, box, "flat"), torch.ones(64, 64))
    assert float(prior_depth(64, box, category="church").max()) == pytest.approx(1.0)
    with pytest.raises(UsageError, match="ellipsoid"):
        prior_depth(64, box, "sphere")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="area"):
        prior_depth(64, Box(4, 4, 4, 8))


def test_boxes_of_masks():
    mask = torch.zeros(64, 64)
    mask[20:44, 16:40] = 1.0
    mask[10:20] = 0.5
    assert object_box(mask) == (16, 20, 40, 44)
    assert object_box(mask, "synface") == (16, 16, 40, 44)
    assert object_box(mask, "face") == (18, 20, 38, 64)
    assert object_box(mask, "car") == (16, 20, 40, 48)
    with pytest.raises(UsageError, match="empty"):
        object_box(torch.full((64, 64), 0.6))
    whole = default_box(64)
    assert whole.left == pytest.approx(64 - whole.right)


# ---- samples ----


def test_views_have_the_measured_statistics(model):
    torch.manual_seed(0)
    root = torch.randn(6, 6) * torch.tensor([20.0, 10.0, 5.0, 0.01, 0.01, 0.0])[:, None]
    mean = torch.tensor([4.0, -2.0, 1.0, 0.01, 0.0, 0.0])
    model.view_mean.copy_(mean)
    model.view_covariance.copy_(root @ root.mT)
    count = 40_000
    view = sampled_views(model, count, 1.2)
    numbers = torch.cat([torch.stack([view.yaw / 1.2, view.pitch, view.roll], 1), view.shift], 1)
    again = ViewLightStatistics.measured(numbers, torch.tensor([[0.5, 0.5, 0.0, 0.0, -1.0]]).expand(count, 5))
    spread = model.view_covariance.diagonal().sqrt()
    assert bool(((again.view_mean - mean).abs() <= 5 * spread / count**0.5 + 1e-7).all())
    error = (again.view_covariance - model.view_covariance).abs()
    assert bool((error <= 0.06 * spread * spread[:, None] + 1e-9).all())
    assert bool((view.shift[:, 2] == 0).all())


def test_lights_stay_in_their_ranges():
    lights = Lights(x=(-0.9, 0.9), y=(-0.8, 0.3), strength=(-0.1, 0.7), ambient=-0.4)
    ambient, diffuse = torch.full((500,), 0.6), torch.full((500,), 0.3)
    found = sampled_lights(lights, ambient, diffuse)
    assert isinstance(found.direction, torch.Tensor)
    assert isinstance(found.diffuse, torch.Tensor)
    slopes = found.direction[:, :2] / -found.direction[:, 2:]
    assert -0.9 <= float(slopes[:, 0].min()) < -0.85 < 0.85 < float(slopes[:, 0].max()) <= 0.9
    assert -0.8 <= float(slopes[:, 1].min()) < -0.75 < 0.25 < float(slopes[:, 1].max()) <= 0.3
    assert_close(found.ambient - ambient, -0.4 * (found.diffuse - diffuse))
    assert 0.2 <= float(found.diffuse.min()) < 0.25 < 0.95 < float(found.diffuse.max()) <= 1.0 + 1e-6
    assert_close(found.direction.norm(dim=1), torch.ones(500))


def test_statistics_of_a_light_come_back():
    slopes = torch.tensor([[0.5, -0.25], [0.1, -0.75]])
    lights = torch.cat([torch.tensor([[0.4, 0.6], [0.6, 0.2]]), towards(slopes)], 1)
    found = ViewLightStatistics.measured(torch.randn(2, 6), lights)
    assert_close(found.light_mean, torch.tensor([0.5, 0.4, 0.3, -0.5]))
    with pytest.raises(UsageError, match="2 views"):
        ViewLightStatistics.measured(torch.zeros(1, 6), lights[:1])


def test_measuring_a_network_is_measuring_what_it_says(model):
    images = torch.randint(0, 256, (5, 3, SIZE, SIZE), dtype=torch.uint8)
    with torch.no_grad():
        found = model(images / 255)
    known = measure(model.net, images, at_once=2)
    assert_close(known.view_mean[0], found.view.yaw.mean())
    assert_close(known.view_covariance[1, 1], found.view.pitch.var())
    assert_close(known.light_mean[1], found.light.diffuse.mean())


def test_a_drawing_from_the_front_in_its_own_light_is_the_texture(model, gan):
    model.view_covariance.zero_()
    model.view_mean.zero_()
    material = prepare(model, gan, make_targets(gan), False, CPU)
    stock = collect_stock(model, material, Lights((0.3, 0.3), (-0.2, -0.2), (0.0, 0.0), 0.0), 1.2)
    drawings, masks = stock.draw(model, torch.tensor([1, 0, 1]))
    own = model(material.images[[1, 0, 1]])
    lit = Light(own.light.ambient, own.light.diffuse, towards(torch.tensor([[0.3, -0.2]])).expand(3, 3))
    factors = Factors(own.depth, own.albedo, still(3), lit)
    valid = model.net.reproject(factors).valid
    wanted = model.net.texture(factors).clamp(0, 1)
    assert_close((drawings - wanted) * valid[:, None], torch.zeros_like(wanted), atol=1e-4, rtol=0)
    assert float((masks * valid).min(-1).values.min()) >= 0
    assert bool((masks[valid] > 0.99).all())


def test_masks_go_to_the_canonical_map_and_back(model):
    torch.manual_seed(0)
    size = 32
    wide = GAN2Shape.tiny(size)
    mask = torch.zeros(1, size, size)
    mask[:, 8:24, 10:22] = 1.0
    depth = prior_depth(size, Box(4, 4, 28, 28))[None]
    light = Light(torch.ones(1), torch.zeros(1), torch.tensor([[0.0, 0.0, -1.0]]))
    front = Factors(depth, torch.ones(1, 3, size, size), still(1), light)
    assert_close(canonical_mask(wide, front, mask), mask, atol=1e-4, rtol=0)
    aside = replace(front, view=still(1, 15.0))
    told = canonical_mask(wide, aside, mask)
    back = wide.net.warp(told[:, None], aside)
    assert not torch.allclose(told, mask, atol=0.2)
    error = (back.image[:, 0] - mask).abs()[back.valid]
    assert float(error.mean()) < 0.05, "only the mask's outline is blurred"


def test_samples_belong_to_their_targets():
    pictures = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1, 1).expand(3, 4, 3, 8, 8).contiguous()
    store = Collection(pictures, torch.full((3, 4, 8, 8), 255, dtype=torch.uint8), CPU)
    found, masks = store.some(torch.tensor([2, 0]), 3)
    assert_close(found[:, 0, 0, 0] * 255, torch.tensor([2.0, 2, 2, 0, 0, 0]))
    assert_close(masks, torch.ones(6, 8, 8))


# ---- losses and steps ----


def test_symmetric_factors_cost_twice_as_much_with_the_mirrored_copy(model):
    images = torch.rand(1, 3, SIZE, SIZE)
    found = model(images)
    even = replace(found, depth=(found.depth + found.depth.flip(-1)) / 2, albedo=mirrored(found).albedo)
    even = replace(even, albedo=(found.albedo + found.albedo.flip(-1)) / 2)
    one = reconstruction(model, even, images, None, False, Losses(), None)
    two = reconstruction(model, even, images, None, True, Losses(), None)
    assert_close(two["pixels"], 2 * one["pixels"])
    assert_close(two["smoothness"], one["smoothness"])


def test_hidden_pixels_cost_nothing(model, gan):
    images, mask = torch.rand(2, 3, SIZE, SIZE), torch.zeros(2, SIZE, SIZE)
    mask[:, 4:12, 4:12] = 1.0
    factors = model(images)
    spoilt = torch.where(mask[:, None] > 0, images, 1 - images)
    values = [reconstruction(model, factors, x, mask, True, Losses(), None)["pixels"] for x in (images, spoilt)]
    assert_close(*values)
    assert float(critic_difference(gan, images, images, mask)) == 0
    assert float(critic_difference(gan, images, spoilt, mask)) > 0


def steps(model, gan, material):
    common = (model, material, Losses(), 1e-2, 0.0, lambda *_: None, 1)
    stock = collect_stock(model, material, Lights(), 1.2)
    collection = collect(model, gan, material, stock, 3)
    return {
        "prior": (PriorStep(torch.ones(SIZE, SIZE), *common), "net.depth_net"),
        "albedo": (AlbedoStep(None, False, *common), "net.albedo_net"),
        "encoder": (EncoderStep(gan, 2, *common), "encoder"),
        "projection": (ProjectionStep(gan, stock, 2, *common), "encoder"),
        "all": (RefineStep(None, True, collection, 2, *common), "net"),
    }


@pytest.mark.parametrize("name", ["prior", "encoder", "albedo", "projection", "all"])
def test_a_step_moves_what_it_should_and_nothing_else(model, gan, name):
    material = prepare(model, gan, make_targets(gan), False, CPU)
    step, moved = steps(model, gan, material)[name]
    before = {key: tensor.clone() for key, tensor in step.model.state_dict().items()}
    fixed = {key: tensor.clone() for key, tensor in gan.generator.state_dict().items()}
    phase = step.phases()["all"]
    loss, _ = step.loss("all", {"target": torch.arange(2)}, 0)
    loss.backward(inputs=phase.parameters)
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in phase.parameters)
    phase.optimiser.step()
    changed = {key for key, tensor in step.model.state_dict().items() if not torch.equal(tensor, before[key])}
    parameters = {key for key, _ in step.model.named_parameters() if key.startswith(moved)}
    assert changed == parameters
    assert all(torch.equal(tensor, fixed[key]) for key, tensor in gan.generator.state_dict().items())
    assert not any("generator" in key or "features" in key for key in step.state_dict())


def test_views_and_lights_of_samples_come_from_the_samples(model, gan):
    """Step 3 forgets what they were drawn in: other samples, another gradient of the view network."""
    material = prepare(model, gan, make_targets(gan), False, CPU)
    step, _ = steps(model, gan, material)["all"]
    torch.manual_seed(0)
    own = step.value(torch.arange(2))["sample_pixels"]
    step.collection = replace(step.collection, pictures=255 - step.collection.pictures)
    torch.manual_seed(0)
    assert not torch.allclose(own, step.value(torch.arange(2))["sample_pixels"])


# ---- schedules ----


@pytest.mark.parametrize(
    ("category", "joint", "iterations"),
    [
        ("car", False, 5300),
        ("face", False, 4600),
        ("cat", True, 12_600),
        ("synface", False, 1200),
        ("synface", True, 23_400),
    ],
)
def test_published_schedules_have_the_published_lengths(category, joint, iterations):
    assert paper(category, joint).iterations == iterations


def test_published_symmetry():
    assert [stage.flip for stage in paper("face").stages] == [True, False, False, False]
    assert [stage.flip_albedo for stage in paper("cat", True).stages] == [False, True, True, True]
    assert not any(stage.flip or stage.flip_albedo for stage in without_symmetry(paper("synface", True)).stages)
    with pytest.raises(UsageError, match="no published joint"):
        paper("car", joint=True)


def test_schedules_without_work_are_refused():
    with pytest.raises(UsageError, match="at least one iteration"):
        Schedule((Stage(1, 0, 1),))
    with pytest.raises(UsageError, match="batch"):
        Schedule((Stage(1, 1, 1),), batch=0)
