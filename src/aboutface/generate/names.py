"""What three codes call the tensors of a StyleGAN2, and in which form each keeps them.

A layout maps each of our names to the other code's. The names are facts about published files: of
rosinality/stylegan2-pytorch, and of NVlabs' PyTorch code (stylegan2-ada-pytorch, stylegan3) and TensorFlow code
(stylegan2, stylegan2-ada).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from ..nn.stylegan2 import SMALLEST, StyleGAN2Settings

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Kept:
    """How another code keeps a tensor."""

    name: str
    ours: Change
    """Theirs -> ours."""
    theirs: Change
    """Ours -> theirs."""


Layout = dict[str, Kept]
"""Our name, within the generator or the discriminator -> how it is kept."""

Form = tuple[Change, Change]
"""Theirs -> ours, ours -> theirs."""
Leaves = dict[str, tuple[str, Form]]
"""Our name within a layer -> theirs, and its form."""

SAME: Form = (lambda t: t, lambda t: t)
BATCH: Form = (lambda t: t[0], lambda t: t[None])
NO_BATCH: Form = (lambda t: t[None], lambda t: t[0])
BATCH_CHANNEL: Form = (lambda t: t[0, 0], lambda t: t[None, None])
BIAS_MAP: Form = (lambda t: t.flatten(), lambda t: t.view(1, -1, 1, 1))
TRANSPOSED: Form = (lambda t: t.mT, lambda t: t.mT)
# TensorFlow keeps height, width, input, output.
KERNEL: Form = (lambda t: t.permute(3, 2, 0, 1), lambda t: t.permute(2, 3, 1, 0))
FLIPPED: Form = (lambda t: t.flip(0, 1).permute(3, 2, 0, 1), lambda t: t.permute(2, 3, 1, 0).flip(0, 1))
# Written in double precision, in which adding 1 again gives the same number.
LESS_ONE: Form = (lambda t: t + 1, lambda t: t.double() - 1)

_DENSE: Leaves = {"weight": ("weight", SAME), "bias": ("bias", SAME)}


def nvlabs_generator(settings: StyleGAN2Settings) -> Layout:
    """NVlabs' PyTorch code."""
    colour = {"style.weight": ("affine.weight", SAME), "style.bias": ("affine.bias", SAME)} | _DENSE
    conv = colour | {"strength": ("noise_strength", SAME), "noise": ("noise_const", SAME)}
    layers = [
        ("", "", {"mapping.centre": ("mapping.w_avg", SAME), "synthesis.constant": ("synthesis.b4.const", NO_BATCH)}),
        *((f"mapping.layers.{i + 1}.", f"mapping.fc{i}.", _DENSE) for i in range(settings.mapping_layers)),
    ]
    for index, (resolution, first) in enumerate(_convs(settings)):
        name = f"synthesis.b{resolution}.conv{0 if first else 1}."
        layers.append((f"synthesis.convs.{index}.", name, conv))
    for index, resolution in enumerate(settings.resolutions):
        layers.append((f"synthesis.colours.{index}.", f"synthesis.b{resolution}.torgb.", colour))
    return _layout(layers)


def nvlabs_discriminator(settings: StyleGAN2Settings) -> Layout:
    """NVlabs' PyTorch code."""
    layers = [("from_rgb.", f"b{settings.size}.fromrgb.", _DENSE)]
    for index, resolution in enumerate(_blocks(settings)):
        for ours, theirs in (("first", "conv0"), ("second", "conv1")):
            layers.append((f"blocks.{index}.{ours}.", f"b{resolution}.{theirs}.", _DENSE))
        layers.append((f"blocks.{index}.skip.", f"b{resolution}.skip.", {"weight": ("weight", SAME)}))
    layers += [(f"{ours}.", f"b4.{theirs}.", _DENSE) for ours, theirs in (("conv", "conv"), ("dense", "fc"))]
    return _layout([*layers, ("out.", "b4.out.", _DENSE)])


def rosinality_generator(settings: StyleGAN2Settings) -> Layout:
    """rosinality's code. `latent_avg` lies beside the state in the file."""
    style = {
        "style.weight": ("conv.modulation.weight", SAME),
        "style.bias": ("conv.modulation.bias", SAME),
        "weight": ("conv.weight", BATCH),
    }
    colour = style | {"bias": ("bias", BIAS_MAP)}
    conv = style | {"bias": ("activate.bias", SAME), "strength": ("noise.weight", BATCH)}
    layers = [
        ("", "", {"mapping.centre": ("latent_avg", SAME), "synthesis.constant": ("input.input", SAME)}),
        *((f"mapping.layers.{i + 1}.", f"style.{i + 1}.", _DENSE) for i in range(settings.mapping_layers)),
    ]
    for index in range(len(_convs(settings))):
        layers.append((f"synthesis.convs.{index}.", f"convs.{index - 1}." if index else "conv1.", conv))
        layers.append((f"synthesis.convs.{index}.", "noises.", {"noise": (f"noise_{index}", BATCH_CHANNEL)}))
    for index in range(len(settings.resolutions)):
        layers.append((f"synthesis.colours.{index}.", f"to_rgbs.{index - 1}." if index else "to_rgb1.", colour))
    return _layout(layers)


def rosinality_discriminator(settings: StyleGAN2Settings) -> Layout:
    """rosinality's code: what is between the numbered layers has no weights but a fixed blur."""

    def pair(first: str, second: str) -> Leaves:
        return {"weight": (first, SAME), "bias": (second, SAME)}

    layers = [("from_rgb.", "convs.0.", pair("0.weight", "1.bias"))]
    for index in range(len(_blocks(settings))):
        ours, theirs = f"blocks.{index}.", f"convs.{index + 1}."
        layers.append((f"{ours}first.", f"{theirs}conv1.", pair("0.weight", "1.bias")))
        layers.append((f"{ours}second.", f"{theirs}conv2.", pair("1.weight", "2.bias")))
        layers.append((f"{ours}skip.", f"{theirs}skip.", {"weight": ("1.weight", SAME)}))
    layers.append(("conv.", "final_conv.", pair("0.weight", "1.bias")))
    return _layout([*layers, ("dense.", "final_linear.0.", _DENSE), ("out.", "final_linear.1.", _DENSE)])


def rosinality_kernels(settings: StyleGAN2Settings) -> tuple[dict[str, float], dict[str, float]]:
    """Its fixed filters, which it stores too, in the generator and in the discriminator: name -> sum."""
    levels = range(len(_blocks(settings)))
    generator = {f"convs.{2 * level}.conv.blur.kernel": 4.0 for level in levels}
    generator |= {f"to_rgbs.{level}.upsample.kernel": 4.0 for level in levels}
    return generator, {f"convs.{level + 1}.{part}.0.kernel": 1.0 for level in levels for part in ("conv2", "skip")}


def tensorflow_generator(settings: StyleGAN2Settings) -> Layout:
    """NVlabs' TensorFlow code; names of sub-networks, `mapping` and `synthesis`, stand before those in them."""
    dense: Leaves = {"weight": ("weight", TRANSPOSED), "bias": ("bias", SAME)}
    colour: Leaves = {
        "style.weight": ("mod_weight", TRANSPOSED),
        "style.bias": ("mod_bias", LESS_ONE),
        "weight": ("weight", KERNEL),
        "bias": ("bias", SAME),
    }
    conv = colour | {"strength": ("noise_strength", SAME)}
    layers = [
        ("", "", {"mapping.centre": ("dlatent_avg", SAME), "synthesis.constant": ("synthesis/4x4/Const/const", SAME)}),
        *((f"mapping.layers.{i + 1}.", f"mapping/Dense{i}/", dense) for i in range(settings.mapping_layers)),
    ]
    for index, (resolution, first) in enumerate(_convs(settings)):
        name = "Conv" if resolution == SMALLEST else "Conv0_up" if first else "Conv1"
        # A transposed convolution there, and a flipped kernel.
        leaves = conv | {"weight": ("weight", FLIPPED)} if first else conv
        layers.append((f"synthesis.convs.{index}.", f"synthesis/{resolution}x{resolution}/{name}/", leaves))
        layers.append((f"synthesis.convs.{index}.", "synthesis/", {"noise": (f"noise{index}", BATCH_CHANNEL)}))
    for index, resolution in enumerate(settings.resolutions):
        layers.append((f"synthesis.colours.{index}.", f"synthesis/{resolution}x{resolution}/ToRGB/", colour))
    return _layout(layers)


def tensorflow_discriminator(settings: StyleGAN2Settings) -> Layout:
    """NVlabs' TensorFlow code."""
    conv: Leaves = {"weight": ("weight", KERNEL), "bias": ("bias", SAME)}
    dense: Leaves = {"weight": ("weight", TRANSPOSED), "bias": ("bias", SAME)}
    layers = [("from_rgb.", f"{settings.size}x{settings.size}/FromRGB/", conv)]
    for index, resolution in enumerate(_blocks(settings)):
        for ours, theirs in (("first", "Conv0"), ("second", "Conv1_down")):
            layers.append((f"blocks.{index}.{ours}.", f"{resolution}x{resolution}/{theirs}/", conv))
        layers.append((f"blocks.{index}.skip.", f"{resolution}x{resolution}/Skip/", {"weight": ("weight", KERNEL)}))
    layers += [("conv.", "4x4/Conv/", conv), ("dense.", "4x4/Dense0/", dense), ("out.", "Output/", dense)]
    return _layout(layers)


def _layout(layers: Iterable[tuple[str, str, Leaves]]) -> Layout:
    """Of (our prefix, their prefix, leaves)."""
    return {
        ours + leaf: Kept(theirs + name, *form)
        for ours, theirs, leaves in layers
        for leaf, (name, form) in leaves.items()
    }


def _convs(settings: StyleGAN2Settings) -> list[tuple[int, bool]]:
    """Of each styled convolution its pixels, and whether it is its level's first one, which doubles the size."""
    return [
        (resolution, first)
        for resolution in settings.resolutions
        for first in ((False,) if resolution == SMALLEST else (True, False))
    ]


def _blocks(settings: StyleGAN2Settings) -> list[int]:
    """Pixels of the critic's levels, from the largest."""
    return [resolution for resolution in reversed(settings.resolutions) if resolution > SMALLEST]
