"""StyleGAN2 files of other codes, read without executing anything in them.

rosinality's .pt, NVlabs' .pkl (PyTorch and TensorFlow), and .safetensors with NVlabs' names.
"""

import argparse
import pickle
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import weights
from ..errors import UsageError
from ..files import reason
from ..nn.stylegan2 import StyleGAN2Settings
from ..pickles import read_pickle
from . import names
from .load import FOREIGN, Gan, built_gan, network_card

SUFFIXES = (*FOREIGN, ".safetensors")
"""Of the files that can be read."""
ADA_CLAMP = 256.0
"""At which networks of NVlabs' PyTorch code are clamped where a file does not say."""


@dataclass(frozen=True)
class Dialect:
    """How a code names its tensors, and where its sizes can be seen."""

    title: str
    generator: Callable[[StyleGAN2Settings], names.Layout]
    discriminator: Callable[[StyleGAN2Settings], names.Layout]
    mapping: str
    """Pattern of the mapping layers' weights."""
    noise: str
    """Pattern of the noise maps, the largest of which has the picture's size."""


ROSINALITY = Dialect(
    "rosinality",
    names.rosinality_generator,
    names.rosinality_discriminator,
    r"style\.\d+\.weight",
    r"noises\.noise_\d+",
)
NVLABS = Dialect(
    "nvlabs",
    names.nvlabs_generator,
    names.nvlabs_discriminator,
    r"mapping\.fc\d+\.weight",
    r"synthesis\.b\d+\.conv\d\.noise_const",
)
TENSORFLOW = Dialect(
    "nvlabs-tensorflow",
    names.tensorflow_generator,
    names.tensorflow_discriminator,
    r"mapping/Dense\d+/weight",
    r"synthesis/noise\d+",
)


@dataclass(frozen=True)
class Foreign:
    """Named tensors of another code's networks."""

    dialect: Dialect
    generator: dict[str, Tensor]
    discriminator: dict[str, Tensor] | None
    clamp: float | None = None
    group: int | None = 4
    """Pictures whose spread the critic sees; None: all of a batch."""


def read_any(file: Path) -> tuple[Gan, list[str]]:
    """The networks in a file of ours or of another code, and what the user should know of them.

    Raises UsageError for a file that cannot be read or holds something else, for a pickle that asks for anything but
    tensors, and for networks that are built otherwise: class-conditional ones, other architectures or filters.
    """
    file = Path(file)
    try:
        match file.suffix:
            case ".pt" | ".pth":
                foreign = _read_pt(file)
            case ".pkl":
                foreign = _read_pkl(file)
            case ".safetensors":
                tensors, card = weights.load_file(file)
                if "network" in card.get("settings", {}):
                    return built_gan(tensors, card, file), []
                foreign = _read_named(tensors)
            case _:
                raise UsageError(f"expected a file ending in {', '.join(SUFFIXES)}")
        return _translated(foreign, file)
    except UsageError as error:
        text = str(error)
        raise UsageError(text if text.startswith(str(file)) else f"{file}: {text}") from None
    # Names are those of networks, and what stands under them is something else.
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{file}: its networks are built of something else than tensors ({reason(error)[:100]})"
        ) from None


def _read_pt(file: Path) -> Foreign:
    try:
        # Training files hold the options of the run, too.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # About damaged files it warns before it fails.
            warnings.simplefilter("ignore")
            stored = torch.load(file, "cpu", weights_only=True)
    # A damaged file makes the reader stumble in many ways.
    except (OSError, ValueError, RuntimeError, LookupError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        raise UsageError(f"cannot be read as tensors ({reason(error)[:200]}); nothing in it was executed") from None
    state = stored.get("g_ema", stored.get("g")) if isinstance(stored, dict) else None
    if not isinstance(state, dict):
        raise UsageError("expected rosinality's dict with g_ema, and with d for the critic")
    generator = dict(state)
    if isinstance(stored.get("latent_avg"), Tensor):
        generator["latent_avg"] = stored["latent_avg"].flatten()
    return Foreign(ROSINALITY, generator, stored.get("d"))


class _Module:
    """Stand-in for a module in a pickle of NVlabs' PyTorch code, whose source, which comes along, is left unread."""

    def __init__(self, meta: dict[str, Any]) -> None:
        self.state: dict[str, Any] = meta["state"]

    def flat(self, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Parameters and buffers, and all other attributes, with dotted names."""
        tensors, others = {}, {}
        for name, value in {**self.state.get("_parameters", {}), **self.state.get("_buffers", {})}.items():
            if value is not None:
                tensors[prefix + name] = torch.from_numpy(value)
        others |= {prefix + name: value for name, value in self.state.items() if not name.startswith("_")}
        for name, module in self.state.get("_modules", {}).items():
            if isinstance(module, _Module):
                inner = module.flat(f"{prefix}{name}.")
                tensors |= inner[0]
                others |= inner[1]
        return tensors, others


class _Network:
    """Stand-in for a network in a pickle of NVlabs' TensorFlow code."""

    state: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state

    def flat(self, prefix: str = "") -> dict[str, Tensor]:
        named = {prefix + name: torch.from_numpy(np.array(value)) for name, value in self.state["variables"]}
        for name, part in self.state["components"].items():
            named |= part.flat(f"{prefix}{name}/")
        return named


def _parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data


_STAND_INS = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Module,
    ("dnnlib.tflib.network", "Network"): _Network,
    ("dnnlib.util", "EasyDict"): dict,
    ("dnnlib", "EasyDict"): dict,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}


def _read_pkl(file: Path) -> Foreign:
    stored = read_pickle(file, _STAND_INS, "a StyleGAN2")
    if isinstance(stored, tuple) and len(stored) == 3 and all(isinstance(part, _Network) for part in stored):
        return _tensorflow(stored[2], stored[1])
    stored = stored if isinstance(stored, dict) else {}
    generator, critic = stored.get("G_ema", stored.get("G")), stored.get("D")
    if not isinstance(generator, _Module):
        raise UsageError("expected NVlabs' dict with G_ema, or its TensorFlow code's three networks")
    tensors, attributes = generator.flat()
    critic_tensors, critic_attributes = critic.flat() if isinstance(critic, _Module) else (None, {})
    _check_built(tensors | (critic_tensors or {}), attributes, critic_attributes)
    return Foreign(
        NVLABS,
        tensors,
        critic_tensors,
        attributes.get("synthesis.b4.conv1.conv_clamp"),
        critic_attributes.get("b4.mbstd.group_size", 4),
    )


def _check_built(tensors: dict[str, Tensor], generator: dict[str, Any], critic: dict[str, Any]) -> None:
    """Raises UsageError for what gives other pictures with the same names of tensors."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    for name, tensor in tensors.items():
        if name.endswith("resample_filter") and (
            tensor.numel() != 16 or not torch.allclose(tensor, line * line[:, None])
        ):
            raise UsageError(f"{name}: another filter than 1, 3, 3, 1; such networks cannot be converted")
    for attributes, expected in ((generator, "skip"), (critic, "resnet")):
        for name, value in attributes.items():
            if name.endswith(".architecture") and value != expected:
                raise UsageError(f"{name}: {value}; expected {expected}, the architecture of configurations E and F")
            if name.endswith(".activation") and value not in ("lrelu", "linear"):
                raise UsageError(f"{name}: {value}; expected lrelu")
    clamps = {a.get(name) for a, name in ((generator, "synthesis.b4.conv1.conv_clamp"), (critic, "b4.conv.conv_clamp"))}
    if critic and len(clamps) > 1:
        raise UsageError(f"generator and critic are clamped differently ({clamps}); such networks cannot be converted")


_TENSORFLOW_USUAL = {
    "architecture": ("skip", "resnet"),
    "nonlinearity": ("lrelu",),
    "mapping_nonlinearity": ("lrelu",),
    "resample_kernel": ([1, 3, 3, 1],),
    "num_channels": (3,),
    "use_noise": (True,),
    "label_size": (0,),
    "mapping_lrmul": (0.01,),
}
"""What options of TensorFlow's networks must be where they are given."""


def _tensorflow(generator: _Network, critic: _Network) -> Foreign:
    for network in (generator, critic):
        if network.state.get("version", 0) < 4:
            raise UsageError("is older than StyleGAN2; such networks cannot be converted")
        for name, usual in _TENSORFLOW_USUAL.items():
            value = network.state["static_kwargs"].get(name, usual[0])
            if value not in usual:
                raise UsageError(
                    f"{_conditional if name == 'label_size' else f'{name} is {value}'}; expected {usual[0]}"
                )
    options = critic.state["static_kwargs"]
    clamp = generator.state["static_kwargs"].get("conv_clamp")
    return Foreign(TENSORFLOW, generator.flat(), critic.flat(), clamp, options.get("mbstd_group_size"))


_conditional = "this network is class-conditional, which is not supported"


def _read_named(tensors: dict[str, Tensor]) -> Foreign:
    """NVlabs' names, with the networks' own names before them where there are several."""
    for prefix in ("G_ema.", "G.", ""):
        generator = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        if any(re.fullmatch(NVLABS.mapping, name) for name in generator):
            break
    else:
        raise UsageError("expected weights of stylegan2, or tensors with NVlabs' names (mapping.fc0.weight)")
    critic = {name.removeprefix("D."): t for name, t in tensors.items() if name.startswith("D.")}
    return Foreign(NVLABS, generator, critic or None, ADA_CLAMP)


def _translated(foreign: Foreign, file: Path) -> tuple[Gan, list[str]]:
    settings = _inferred(foreign)
    try:
        tensors = _renamed(foreign.dialect.generator(settings), foreign.generator, "generator.")
        if foreign.discriminator is not None:
            tensors |= _renamed(foreign.dialect.discriminator(settings), foreign.discriminator, "discriminator.")
    except (IndexError, RuntimeError) as error:
        raise UsageError(f"a tensor has an unexpected form ({reason(error)[:100]})") from None
    notes = []
    measured = "generator.mapping.centre" not in tensors
    if measured:
        tensors["generator.mapping.centre"] = torch.zeros(settings.latent)
    card = network_card(settings)
    card |= {"method": "stylegan2", "converted": {"file": file.name, "format": foreign.dialect.title}}
    gan = built_gan(tensors, card, file)
    if measured:
        gan.generator.mapping.measure_centre()
        notes.append("the file has no mean w: it was measured")
    if gan.discriminator is None:
        notes.append("the file has no critic, which gan2shape needs")
    return gan, notes


def _inferred(foreign: Foreign) -> StyleGAN2Settings:
    """The sizes, which most files only show by the forms of tensors."""
    tensors, dialect = foreign.generator, foreign.dialect
    layers = sum(re.fullmatch(dialect.mapping, name) is not None for name in tensors)
    maps = [tensor.shape[-1] for name, tensor in tensors.items() if re.fullmatch(dialect.noise, name)]
    if not layers or not maps:
        raise UsageError(f"lacks the mapping or the noise maps of a generator with the names of {dialect.title}")
    if any("embed" in name.lower() for name in tensors):
        raise UsageError(_conditional)
    layout = dialect.generator(StyleGAN2Settings(max(maps), mapping_layers=layers))

    def width(name: str) -> int:
        return len(_found(tensors, layout[name].name))

    last = width(f"synthesis.convs.{len(maps) - 1}.bias")
    return StyleGAN2Settings(
        max(maps),
        width("mapping.layers.1.bias"),
        layers,
        last * max(maps),
        width("synthesis.convs.0.bias"),
        foreign.clamp,
        # A number that divides no batch means all of it.
        foreign.group or 1 << 30,
    )


def _renamed(layout: names.Layout, tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """In our names and forms; a mean w may be missing."""
    return {
        prefix + ours: kept.ours(_found(tensors, kept.name)).float().contiguous()
        for ours, kept in layout.items()
        if ours != "mapping.centre" or kept.name in tensors
    }


def _found(tensors: dict[str, Tensor], name: str) -> Tensor:
    if not isinstance(tensors.get(name), Tensor):
        raise UsageError(f"lacks {name}: not the architecture of StyleGAN2's configurations E and F")
    return tensors[name]
