"""StyleGAN2's networks against slow twins that follow the paper word by word, and what they promise."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.nn.stylegan2 import (
    Conv,
    Dense,
    Discriminator,
    Generator,
    StyledConv,
    StyleGAN2Settings,
    ToRGB,
    blur,
    spread,
    tiny_settings,
    upsampled,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def counted(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def lively(network):
    """Every bias and noise strength away from 0, where a mistake would not show."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim < 2:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


# Slow twins.


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x) * 2**0.5


def zeros_between(x):
    """Every second row and column is 0, the last ones too."""
    wide = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    wide[..., ::2, ::2] = x
    return wide


def filtered(x, before, after, gain):
    """The filter 1, 3, 3, 1 as a sum of shifted pictures."""
    x = functional.pad(x, (before, after, before, after))
    height, width = x.shape[2] - 3, x.shape[3] - 3
    taps = [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    shifted = [
        taps[row] * taps[column] * x[..., row : row + height, column : column + width]
        for row in range(4)
        for column in range(4)
    ]
    return gain * torch.stack(shifted).sum(0)


def twin_dense(layer, x):
    weight = layer.weight * layer.rate / math.sqrt(layer.weight.shape[1])
    y = x @ weight.T + layer.rate * layer.bias
    return leaky(y) if layer.active else y


def twin_styled(layer, x, w, noise):
    """One picture after the other, with weights of its own: equations 1 and 3 of the paper."""
    found = []
    for picture, vector in zip(x, w, strict=True):
        style = twin_dense(layer.style, vector[None])[0]
        weight = layer.weight * style[None, :, None, None] / math.sqrt(layer.weight[0].numel())
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if layer.up:
            wide = functional.pad(zeros_between(picture[None])[..., :-1, :-1], (2, 2, 2, 2))
            made = filtered(functional.conv2d(wide, weight.flip(2, 3)), 1, 1, 4)
        else:
            made = functional.conv2d(picture[None], weight, padding=1)
        found.append(leaky(made + layer.strength * noise + layer.bias[:, None, None]))
    return torch.cat(found)


def twin_discriminator(net, images):
    def convolved(layer, x):
        weight = layer.weight / math.sqrt(layer.weight[0].numel())
        if layer.down:
            pad = 2 if layer.kernel == 3 else 1
            x = functional.conv2d(filtered(x, pad, pad, 1), weight)[..., ::2, ::2]
        else:
            x = functional.conv2d(x, weight, padding=layer.kernel // 2)
        return x if layer.bias is None else leaky(x + layer.bias[:, None, None])

    x = convolved(net.from_rgb, 2 * images - 1)
    for block in net.blocks:
        x = (convolved(block.second, convolved(block.first, x)) + convolved(block.skip, x)) / 2**0.5
    maps, count = [], len(x) // net.settings.minibatch_group
    for index in range(len(x)):
        group = x[index % count :: count]
        deviation = ((group - group.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
        maps.append(deviation.expand(1, 4, 4))
    x = convolved(net.conv, torch.cat([x, torch.stack(maps)], 1))
    return twin_dense(net.out, twin_dense(net.dense, x.flatten(1)))[:, 0]


@pytest.mark.parametrize("up", [False, True])
def test_the_modulated_convolution_is_that_of_the_paper(up):
    layer = lively(StyledConv(5, 7, 6, 8, up, None))
    x, w = torch.randn(3, 5, 4, 4), torch.randn(3, 6)
    size = 8 if up else 4
    noise = torch.randn(size, size)
    assert_close(layer(x, w, noise), twin_styled(layer, x, w, noise), atol=2e-5, rtol=1e-5)


def test_what_goes_in_louder_comes_out_as_loud():
    """Demodulation: the scale of a style is lost, that of a part of it is not."""
    layer = StyledConv(5, 7, 6, 8, False, None)
    with torch.no_grad():
        layer.style.bias.zero_()
    x, w = torch.randn(2, 5, 8, 8), torch.randn(2, 6)
    assert_close(layer(x, 3 * w, None), layer(x, w, None), atol=1e-4, rtol=1e-4)
    tilted = torch.cat([3 * w[:, :3], w[:, 3:]], 1)
    assert float((layer(x, tilted, None) - layer(x, w, None)).detach().abs().max()) > 0.1


def test_colours_are_modulated_and_not_demodulated():
    layer = lively(ToRGB(5, 6, None))
    x, w = torch.randn(2, 5, 4, 4), torch.randn(2, 6)
    style = twin_dense(layer.style, w)
    wanted = torch.einsum("oi,bi,bihw->bohw", layer.weight[:, :, 0, 0] / 5**0.5, style, x)
    assert_close(layer(x, w), wanted + layer.bias[:, None, None], atol=1e-5, rtol=1e-5)


def test_pictures_are_enlarged_by_zeros_and_the_filter():
    rgb = torch.randn(2, 3, 5, 6)
    assert_close(upsampled(rgb), filtered(zeros_between(rgb), 2, 1, 4), atol=1e-6, rtol=1e-5)
    # A constant stays one but at the border, and a slope has no steps.
    assert_close(upsampled(torch.ones(1, 1, 4, 4))[..., 1:-1, 1:-1], torch.ones(1, 1, 6, 6))
    slope = upsampled(torch.arange(8.0).expand(1, 1, 8, 8))[0, 0, 4]
    assert_close(slope[2:-2].diff(), torch.full((11,), 0.5))


@pytest.mark.parametrize(("padding", "stride"), [(1, 1), (2, 1), (1, 2)])
def test_the_blur_is_the_filter(padding, stride):
    x = torch.randn(2, 3, 9, 8)
    wanted = filtered(x, padding, padding, 4)[..., ::stride, ::stride]
    assert_close(blur(x, padding, stride, 4), wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [8, 32])
def test_the_critic_is_its_twin(size):
    net = lively(Discriminator.tiny(size))
    images = torch.rand(8, 3, size, size)
    assert_close(net(images), twin_discriminator(net, images), atol=1e-4, rtol=1e-4)


def test_the_generator_is_its_twin():
    net = lively(Generator.tiny(16))
    z = torch.randn(3, 16)
    w = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for layer in list(net.mapping.layers)[1:]:
        w = twin_dense(layer, w)
    s = net.synthesis
    noises = s.stored_noise()
    x = twin_styled(s.convs[0], s.constant.expand(3, -1, -1, -1), w, noises[0])
    rgb = s.colours[0](x, w)
    for level in (1, 2):
        for index in (2 * level - 1, 2 * level):
            x = twin_styled(s.convs[index], x, w, noises[index])
        rgb = s.colours[level](x, w) + filtered(zeros_between(rgb), 2, 1, 4)
    assert_close(net(z), rgb / 2 + 0.5, atol=1e-4, rtol=1e-4)


def test_each_layer_listens_to_its_own_w():
    """The styles 0 to L - 1 belong to the 4 px convolution, then two convolutions per size, and the last colours."""
    net = Generator.tiny(16).synthesis
    w = torch.randn(1, 6, 16, requires_grad=True)
    heard = []
    for layer in (*net.convs, *net.colours):
        layer.get_submodule("style").register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    net(w)
    # As they are called: a convolution and its colours at 4 px, then two and their colours.
    for found, index in zip(heard, [0, 1, 1, 2, 3, 3, 4, 5], strict=True):
        assert torch.equal(found, w[:, index])


# What is promised.


@pytest.mark.parametrize(
    ("size", "base", "generator", "critic"),
    [
        (64, 16384, 23_819_544, 23_407_361),
        (128, 16384, 24_525_213, 23_882_369),
        (128, 32768, 29_328_669, 28_389_121),
    ],
)
def test_published_sizes_have_as_many_parameters(size, base, generator, critic):
    settings = StyleGAN2Settings(size=size, channel_base=base)
    with torch.device("meta"):
        assert counted(Generator(settings)) == generator
        assert counted(Discriminator(settings)) == critic


@pytest.mark.parametrize("size", [8, 64, 1024])
def test_levels_and_styles_of_every_size(size):
    settings = tiny_settings(size)
    levels = int(math.log2(size)) - 1
    assert settings.styles == 2 * math.log2(size) - 2 == 2 * levels
    net = Generator(settings)
    assert len(net.synthesis.stored_noise()) == 2 * levels - 1
    with torch.inference_mode():
        images = net(torch.randn(1, 16))
        assert images.shape == (1, 3, size, size)
        assert Discriminator(settings)(images).shape == (1,)


def test_a_picture_is_the_same_in_any_company():
    generator, critic = lively(Generator.tiny(16)), lively(Discriminator.tiny(16, minibatch_group=1))
    z = torch.randn(4, 16)
    images = generator(z).clamp(0, 1)
    assert_close(generator(z[2:3]).clamp(0, 1), images[2:3], atol=1e-5, rtol=1e-5)
    assert_close(critic(images[2:3]), critic(images)[2:3], atol=1e-5, rtol=1e-5)
    for alone, together in zip(critic.features(images[2:3], 2), critic.features(images, 2), strict=True):
        assert_close(alone, together[2:3], atol=1e-5, rtol=1e-5)


def test_the_critic_sees_how_unlike_a_group_is():
    x = torch.randn(8, 5, 4, 4)
    maps = spread(x, 4)
    # Picture i is with i + 2, i + 4 and i + 6.
    assert_close(maps[0], maps[2])
    assert not torch.allclose(maps[0], maps[1])
    assert_close(maps[1, 0, 0, 0], (x[1::2].var(0, correction=0) + 1e-8).sqrt().mean())
    assert float(spread(x[:1].expand(4, -1, -1, -1), 4).max()) == pytest.approx(1e-4, rel=1e-3)
    assert spread(x[:3], 4).shape == (3, 1, 4, 4)


def test_numbers_neither_grow_nor_vanish_on_the_way():
    """Equalised weights and demodulation keep the mean square near 1; blurs take some of it."""
    net = Generator(StyleGAN2Settings(size=32, latent=128, channel_base=4096, channel_max=128))
    w = net.mapping(torch.randn(64, 128))
    assert 0.3 < float(w.detach().square().mean()) < 3
    seen = []
    for layer in net.synthesis.convs:
        layer.register_forward_hook(lambda *given: seen.append(float(given[2].detach().square().mean())))
    net.synthesis(w[:4])
    assert all(0.15 < one < 2 for one in seen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_memory_orders_and_halves_give_the_same_picture(dtype):
    generator, critic = lively(Generator.tiny(16)), lively(Discriminator.tiny(16))
    z = torch.randn(4, 16)
    wanted = generator(z)
    scores = critic(wanted)
    for net in (generator, critic):
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        found = generator(z)
        judged = critic(found)
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    assert_close(found.float(), wanted, atol=tolerance, rtol=tolerance)
    assert_close(judged.float(), scores, atol=2 * tolerance, rtol=2 * tolerance)
    (slope,) = torch.autograd.grad(judged.float().sum(), generator.synthesis.constant)
    assert slope.isfinite().all()
    assert slope.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_for_the_inner_maps_only(dtype):
    """w, and sums of colours, in halves would have steps that a critic can see; maps are where the time goes."""
    generator, critic = lively(Generator.tiny(16)), lively(Discriminator.tiny(16))
    z = torch.randn(4, 16)
    exact, wanted = generator.mapping(z, 0.7), generator(z)
    maps = []
    for layer in (*generator.synthesis.convs, critic.from_rgb, critic.blocks[0]):
        layer.register_forward_hook(lambda *given: maps.append(given[2].dtype))
    with torch.autocast("cpu", dtype):
        w, images = generator.mapping(z, 0.7), generator(z)
        critic(images)
    assert torch.equal(w, exact)
    assert set(maps) == {dtype}
    assert images.dtype == torch.float32
    # Black differs from nearly black: halves of bfloat16 begin at 1 / 512 of full brightness, and here is no such grid.
    grid = 512 * images.detach()
    assert float((grid - grid.round()).abs().mean()) == pytest.approx(0.25, abs=0.02)
    assert_close(images, wanted, atol=0.1, rtol=0.1)


def test_equal_pictures_have_a_slope_in_half_precision():
    x = torch.ones(4, 2, 4, 4, dtype=torch.float16, requires_grad=True)
    spread(x, 4).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences():
    generator, critic = Generator.tiny(8).double(), lively(Discriminator.tiny(8)).double()
    w = torch.randn(2, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(generator.synthesis, (w,), fast_mode=True)
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    # Leaky ReLU has corners, where the second derivative by differences is nothing: none is near.
    assert torch.autograd.gradcheck(critic, (images,), fast_mode=True)
    assert torch.autograd.gradgradcheck(critic, (images,), fast_mode=True, atol=1e-4)


def test_truncation_draws_towards_the_centre():
    net = Generator.tiny(8)
    radius = net.mapping.measure_centre()
    z = torch.randn(500, 16)
    full, none, half = (net.mapping(z, psi) for psi in (1.0, 0.0, 0.5))
    assert_close(none, net.mapping.centre.expand(500, -1))
    assert_close(half - net.mapping.centre, (full - net.mapping.centre) / 2)
    away = (full - net.mapping.centre).square().sum(1).mean().sqrt()
    assert float(away.detach()) == pytest.approx(radius, rel=0.05)
    assert float((full.mean(0) - net.mapping.centre).detach().norm()) < 0.15 * radius


def test_noise_is_what_is_asked_for():
    net = lively(Generator.tiny(8))
    z = torch.randn(2, 16)
    stored = net(z)
    assert torch.equal(stored, net(z, noise=net.synthesis.stored_noise()))
    assert not torch.equal(net(z, noise="random"), net(z, noise="random"))
    silent = net(z, noise="none")
    assert_close(silent, net(z, noise=[torch.zeros_like(one) for one in net.synthesis.stored_noise()]))
    maps = [torch.randn(2, 1, *one.shape) for one in net.synthesis.stored_noise()]
    assert not torch.allclose(net(z, noise=maps), silent)


def test_clamping_cuts_what_convolutions_give():
    plain, cut = lively(Generator.tiny(8)), Generator.tiny(8, clamp=0.5)
    cut.load_state_dict(plain.state_dict())
    seen = []
    for layer in cut.synthesis.convs:
        layer.register_forward_hook(lambda *given: seen.append(float(given[2].detach().abs().max())))
    z = torch.randn(2, 16)
    assert float((cut(z) - plain(z)).detach().abs().max()) > 0.01
    assert max(seen) == 0.5
    wide = Generator.tiny(8, clamp=1e6)
    wide.load_state_dict(plain.state_dict())
    assert torch.equal(wide(z), plain(z))
    assert float(Conv(3, 4, 3, clamp=0.5)(9 * torch.randn(1, 3, 8, 8)).detach().abs().max()) == 0.5


def test_layers_learn_as_fast_whatever_their_width():
    """One step of Adam moves the output of equalised layers as far: rates are in the scale, not in the drawing."""
    moved = []
    for width, rate in ((16, 1.0), (256, 1.0), (256, 0.01)):
        layer, x = Dense(width, 8, rate), torch.randn(64, width)
        assert float(layer(x).detach().std()) == pytest.approx(1, rel=0.35)
        before = layer(x).detach()
        optimiser = torch.optim.Adam(layer.parameters(), lr=0.01)
        layer(x).square().mean().backward()
        optimiser.step()
        moved.append(float((layer(x) - before).detach().abs().mean()))
    assert moved[2] < 0.1 * moved[1]


def test_a_generator_learns_a_picture_by_heart():
    net = Generator.tiny(16, channel_base=512, channel_max=32)
    z = torch.randn(1, 16)
    axis = torch.linspace(0, 1, 16)
    picture = torch.stack([axis[None].expand(16, 16), axis[:, None].expand(16, 16), axis[None] * axis[:, None]])
    optimiser = torch.optim.Adam(net.parameters(), 0.01, (0.0, 0.99))
    for _ in range(120):
        loss = (net(z)[0] - picture).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float((net(z)[0] - picture).detach().abs().mean()) < 0.06


# What is refused.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 48}, "8, 16, 32"),
        ({"size": 4}, "8, 16, 32"),
        ({"size": 2048}, "8, 16, 32"),
        ({"latent": 0}, "latent"),
        ({"mapping_layers": 0}, "mapping_layers"),
        ({"minibatch_group": 0}, "minibatch_group"),
        ({"channel_base": 32}, "channel_base"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        replace(StyleGAN2Settings(), **changes)


def test_latents_and_noise_of_other_shapes_are_refused():
    net = Generator.tiny(8)
    with pytest.raises(UsageError, match=r"expected w \(B, 16\) or \(B, 4, 16\), got \(1, 3, 16\)"):
        net.synthesis(torch.zeros(1, 3, 16))
    with pytest.raises(UsageError, match="3 maps"):
        net(torch.zeros(1, 16), noise=[torch.zeros(4, 4)])
    with pytest.raises(UsageError, match="stored, random, none"):
        net(torch.zeros(1, 16), noise="loud")  # pyright: ignore[reportArgumentType]
