"""StyleGAN2's forward passes in the other formulation, keyed by the names of other codes' files.

Written from the formulas: weights are modulated and demodulated per picture, as one grouped convolution; upsampling
inserts zeros; groups of the minibatch deviation are looped over.
"""

import math

import torch
from torch.nn import functional

FILTER = torch.tensor([1.0, 3.0, 3.0, 1.0])[:, None] * torch.tensor([1.0, 3.0, 3.0, 1.0]) / 64


def lrelu(x, clamp=None, gain=2**0.5):
    x = torch.where(x < 0, 0.2 * x, x) * gain
    return x if clamp is None else x.clamp(-clamp * gain / math.sqrt(2), clamp * gain / math.sqrt(2))


def filtered(x, before, after):
    batch, channels, height, width = x.shape
    padded = functional.pad(x.reshape(-1, 1, height, width), (before, after, before, after))
    return functional.conv2d(padded, FILTER[None, None]).unflatten(0, (batch, channels)).squeeze(2)


def zeros_between(x):
    """(B, C, H, W) -> (B, C, 2 H, 2 W), values at even places."""
    spaced = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    spaced[:, :, ::2, ::2] = x
    return spaced


def modulated(x, weight, styles, demodulate, up=False, flip=True):
    """flip: the kernel of an upsampling layer is turned by 180 degrees first."""
    batch, (out, into, kernel, _) = len(x), weight.shape
    w = weight[None] * styles[:, None, :, None, None] / math.sqrt(into * kernel * kernel)
    if demodulate:
        w = w / (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    padding = kernel // 2
    if up:
        x = zeros_between(x)[:, :, :-1, :-1]
        w = w.flip(3, 4) if flip else w
        padding = 2
    x = functional.conv2d(x.flatten(0, 1)[None], w.flatten(0, 1), padding=padding, groups=batch)
    x = x[0].unflatten(0, (batch, out))
    return 4 * filtered(x, 1, 1) if up else x


def mapped(dense, z):
    """dense: (weight, bias) of each layer."""
    x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for weight, bias in dense:
        x = lrelu(x @ weight.T * (0.01 / math.sqrt(len(weight))) + bias * 0.01)
    return x


def synthesised(constant, convs, colours, w, clamp=None, flip=True):
    """convs: (weight, affine weight, affine bias, noise, strength, bias) each; colours: the same without noise."""

    def affine(weight, bias):
        return w @ weight.T / math.sqrt(weight.shape[1]) + bias

    x, rgb = constant.expand(len(w), -1, -1, -1), None
    for level, colour in enumerate(colours):
        for conv in convs[:1] if level == 0 else convs[2 * level - 1 : 2 * level + 1]:
            weight, style, style_bias, noise, strength, bias = conv
            up = noise.shape[-1] > x.shape[-1]
            x = modulated(x, weight, affine(style, style_bias), True, up, flip)
            x = lrelu(x + noise * strength + bias[:, None, None], clamp)
        weight, style, style_bias, bias = colour
        y = modulated(x, weight, affine(style, style_bias), False) + bias[:, None, None]
        y = y if clamp is None else y.clamp(-clamp, clamp)
        rgb = y if rgb is None else y + 4 * filtered(zeros_between(rgb), 2, 1)
    return rgb


def scored(from_rgb, blocks, conv, dense, out, images, group, clamp=None):
    """Every layer is (weight, bias); a block is two of them and the skip's weight."""

    def equalised(x, weight, padding=0, stride=1):
        gain = 1 / math.sqrt(weight[0].numel())
        return functional.conv2d(x, weight * gain, padding=padding, stride=stride)

    x = lrelu(equalised(images, from_rgb[0]) + from_rgb[1][:, None, None], clamp)
    for first, second, skip in blocks:
        y = lrelu(equalised(x, first[0], 1) + first[1][:, None, None], clamp)
        # The gain of the root of a half, before the sum.
        y = lrelu(equalised(filtered(y, 2, 2), second[0], stride=2) + second[1][:, None, None], clamp, gain=1.0)
        x = y + equalised(filtered(x, 1, 1), skip, stride=2) * math.sqrt(0.5)
    count = len(x) // group
    deviations = torch.zeros(len(x))
    for i in range(count):
        members = x[i::count]
        deviations[i::count] = (members.var(0, correction=0) + 1e-8).sqrt().mean()
    x = torch.cat([x, deviations[:, None, None, None].expand(-1, 1, 4, 4)], 1)
    x = lrelu(equalised(x, conv[0], 1) + conv[1][:, None, None], clamp)
    x = lrelu(x.flatten(1) @ dense[0].T / math.sqrt(dense[0].shape[1]) + dense[1])
    return (x @ out[0].T / math.sqrt(out[0].shape[1]) + out[1])[:, 0]


def rosinality_picture(g, z, layers, levels):
    w = mapped([(g[f"style.{i}.weight"], g[f"style.{i}.bias"]) for i in range(1, layers + 1)], z)

    def conv(prefix, index):
        style = [g[f"{prefix}.conv.modulation.{leaf}"] for leaf in ("weight", "bias")]
        noise = g[f"noises.noise_{index}"]
        return g[f"{prefix}.conv.weight"][0], *style, noise, g[f"{prefix}.noise.weight"], g[f"{prefix}.activate.bias"]

    def colour(prefix):
        style = [g[f"{prefix}.conv.modulation.{leaf}"] for leaf in ("weight", "bias")]
        return g[f"{prefix}.conv.weight"][0], *style, g[f"{prefix}.bias"].flatten()

    convs = [conv("conv1", 0), *(conv(f"convs.{i}", i + 1) for i in range(2 * levels - 2))]
    colours = [colour("to_rgb1"), *(colour(f"to_rgbs.{i}") for i in range(levels - 1))]
    return synthesised(g["input.input"], convs, colours, w)


def rosinality_score(d, images, levels, group):
    def pair(first, second):
        return d[first], d[second]

    blocks = [
        (
            pair(f"convs.{i}.conv1.0.weight", f"convs.{i}.conv1.1.bias"),
            pair(f"convs.{i}.conv2.1.weight", f"convs.{i}.conv2.2.bias"),
            d[f"convs.{i}.skip.1.weight"],
        )
        for i in range(1, levels)
    ]
    last = [pair(f"final_linear.{i}.weight", f"final_linear.{i}.bias") for i in (0, 1)]
    first, conv = pair("convs.0.0.weight", "convs.0.1.bias"), pair("final_conv.0.weight", "final_conv.1.bias")
    return scored(first, blocks, conv, last[0], last[1], images, group)


def nvlabs_picture(g, z, layers, levels, clamp=None):
    w = mapped([(g[f"mapping.fc{i}.weight"], g[f"mapping.fc{i}.bias"]) for i in range(layers)], z)
    sizes = [4 << level for level in range(levels)]

    def part(prefix, *leaves):
        return [g[f"synthesis.{prefix}.{leaf}"] for leaf in ("weight", "affine.weight", "affine.bias", *leaves, "bias")]

    parts = ["b4.conv1", *(f"b{size}.conv{i}" for size in sizes[1:] for i in (0, 1))]
    convs = [part(prefix, "noise_const", "noise_strength") for prefix in parts]
    colours = [part(f"b{size}.torgb") for size in sizes]
    return synthesised(g["synthesis.b4.const"][None], convs, colours, w, clamp)


def nvlabs_score(d, images, levels, group, clamp=None):
    def pair(prefix):
        return d[f"{prefix}.weight"], d[f"{prefix}.bias"]

    sizes = [4 << level for level in reversed(range(1, levels))]
    blocks = [(pair(f"b{size}.conv0"), pair(f"b{size}.conv1"), d[f"b{size}.skip.weight"]) for size in sizes]
    last = [pair(f"b4.{name}") for name in ("conv", "fc", "out")]
    return scored(pair(f"b{sizes[0]}.fromrgb"), blocks, last[0], last[1], last[2], images, group, clamp)


def tensorflow_picture(g, z, layers, levels, clamp=None):
    """g: float arrays as tensors. Kernels are height, width, input, output; dense weights input, output; the style's
    bias counts from 1; an upsampling layer's kernel is not turned."""
    w = mapped([(g[f"mapping/Dense{i}/weight"].T, g[f"mapping/Dense{i}/bias"]) for i in range(layers)], z)

    def part(prefix):
        kernel = g[f"synthesis/{prefix}/weight"].permute(3, 2, 0, 1)
        return kernel, g[f"synthesis/{prefix}/mod_weight"].T, g[f"synthesis/{prefix}/mod_bias"] + 1

    names = ["4x4/Conv"]
    for size in (4 << level for level in range(1, levels)):
        names += [f"{size}x{size}/Conv0_up", f"{size}x{size}/Conv1"]
    convs = [
        (
            *part(name),
            g[f"synthesis/noise{index}"][0, 0],
            g[f"synthesis/{name}/noise_strength"],
            g[f"synthesis/{name}/bias"],
        )
        for index, name in enumerate(names)
    ]
    rgb = [f"{4 << level}x{4 << level}/ToRGB" for level in range(levels)]
    colours = [(*part(name), g[f"synthesis/{name}/bias"]) for name in rgb]
    return synthesised(g["synthesis/4x4/Const/const"], convs, colours, w, clamp, flip=False)


def tensorflow_score(d, images, levels, group, clamp=None):
    def pair(prefix):
        weight = d[f"{prefix}/weight"]
        return weight.permute(3, 2, 0, 1) if weight.ndim == 4 else weight.T, d[f"{prefix}/bias"]

    sizes = [4 << level for level in reversed(range(1, levels))]
    blocks = []
    for size in sizes:
        at = f"{size}x{size}"
        skip = d[f"{at}/Skip/weight"].permute(3, 2, 0, 1)
        blocks.append((pair(f"{at}/Conv0"), pair(f"{at}/Conv1_down"), skip))
    last = [pair(name) for name in ("4x4/Conv", "4x4/Dense0", "Output")]
    return scored(pair(f"{sizes[0]}x{sizes[0]}/FromRGB"), blocks, last[0], last[1], last[2], images, group, clamp)
