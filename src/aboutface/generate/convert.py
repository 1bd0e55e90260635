"""StyleGAN2 networks to files of ours and of other codes."""

import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..files import atomic_path
from ..nn.stylegan2 import StyleGAN2Settings
from . import names
from .foreign import read_any
from .load import Gan, gan_tensors

TARGETS = (".safetensors", ".pt", ".pkl")
"""Of the files that can be written."""


def convert(source: Path, target: Path) -> tuple[Gan, list[str]]:
    """Read networks of ours or of another code, and write them as the target's suffix says: .safetensors is ours, .pt
    rosinality's, .pkl NVlabs'. In float32. The networks, and what the user should know.

    Raises UsageError as `read_any` does, and for networks that the target's code cannot hold.
    """
    writers = dict(zip(TARGETS, (write_ours, write_rosinality, write_nvlabs), strict=True))
    if target.suffix not in writers:
        raise UsageError(f"-o {target}: expected a file ending in {', '.join(TARGETS)}")
    gan, notes = read_any(source)
    return gan, notes + writers[target.suffix](gan, target)


def write_ours(gan: Gan, file: Path) -> list[str]:
    """Our .safetensors, as `load_gan` reads it."""
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in gan_tensors(gan).items()}
    with atomic_path(file) as part:
        part.write_bytes(save(tensors, metadata={"card": json.dumps(gan.card)}))
    return []


def write_rosinality(gan: Gan, file: Path) -> list[str]:
    """A .pt with `g_ema`, `g` (the same), `latent_avg`, and `d` where there is a critic."""
    settings = gan.generator.settings
    kernels = [{name: _kernel(total) for name, total in group.items()} for group in names.rosinality_kernels(settings)]
    generator = _named(names.rosinality_generator(settings), gan.generator) | kernels[0]
    mean = generator.pop("latent_avg")
    stored = {"g_ema": generator, "g": generator, "latent_avg": mean}
    if gan.discriminator is not None:
        stored["d"] = _named(names.rosinality_discriminator(settings), gan.discriminator) | kernels[1]
    with atomic_path(file) as part:
        # The older container, which every version of PyTorch reads.
        torch.save(stored, part, _use_new_zipfile_serialization=False)
    return _rosinality_notes(settings)


def _rosinality_notes(settings: StyleGAN2Settings) -> list[str]:
    notes = []
    usual = [min(512, 16384 // r) if r <= 32 else 16384 // r for r in settings.resolutions]
    found = [settings.channels(r) for r in settings.resolutions]
    if found not in (usual, [c if r <= 32 else 2 * c for c, r in zip(usual, settings.resolutions, strict=True)]):
        notes.append(f"rosinality's table of channels must be changed to {found} for this network")
    if settings.clamp is not None:
        notes.append(f"rosinality's code has no clamp at {settings.clamp:g}: where that matters its pictures differ")
    return notes


def write_nvlabs(gan: Gan, file: Path) -> list[str]:
    """A .pkl that NVlabs' PyTorch codes (stylegan2-ada-pytorch, stylegan3) load: in the layout of the TensorFlow code,
    three networks (G, D, Gs) of plain arrays, which they convert.

    The layout of the PyTorch code itself would have to contain that code's source.
    """
    settings = gan.generator.settings
    if gan.discriminator is None:
        raise UsageError(f"-o {file}: NVlabs' layout holds a critic, and these weights have none; write a .pt")
    if settings.channel_base % 2:
        raise UsageError(f"-o {file}: NVlabs' layout cannot hold a channel_base of {settings.channel_base}: it is odd")
    common = {
        "resolution": settings.size,
        "num_channels": 3,
        "label_size": 0,
        # There in halves.
        "fmap_base": settings.channel_base // 2,
        "fmap_max": settings.channel_max,
        "conv_clamp": settings.clamp,
        "num_fp16_res": 0,
    }
    sizes = {"latent_size": settings.latent, "dlatent_size": settings.latent, "mapping_layers": settings.mapping_layers}
    group = settings.minibatch_group if settings.minibatch_group < 1 << 30 else None
    generator = _network(
        "G", common | sizes | {"architecture": "skip"}, _named(names.tensorflow_generator(settings), gan.generator)
    )
    critic = _network(
        "D",
        common | {"architecture": "resnet", "mbstd_group_size": group, "mbstd_num_features": 1},
        _named(names.tensorflow_discriminator(settings), gan.discriminator),
    )
    with atomic_path(file) as part:
        part.write_bytes(_three_networks(generator, critic))
    return []


def _network(name: str, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """State of a network object of the TensorFlow code; names of variables say to which sub-network they belong."""
    variables = [(name, tensor.contiguous().numpy()) for name, tensor in tensors.items()]
    return {
        "version": 4,
        "name": name,
        "static_kwargs": options,
        "variables": variables,
        "components": {},
        "build_module_src": "",
        "build_func_name": "",
    }


class _Pickler(pickle.Pickler):
    """Arrays as calls of numpy.ndarray, which every version of numpy has at that place."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            little = obj.astype(obj.dtype.newbyteorder("<"), copy=False)
            return np.ndarray, (obj.shape, little.dtype.str, little.tobytes())
        return NotImplemented


def _three_networks(generator: dict[str, Any], critic: dict[str, Any]) -> bytes:
    """The pickle of (generator, critic, generator), objects of a class that is not here to be pickled.

    Protocol 3 numbers what is repeated, so that one pickle's body may follow another's.
    """
    new = pickle.GLOBAL + b"dnnlib.tflib.network\nNetwork\n" + pickle.EMPTY_TUPLE + pickle.NEWOBJ
    # Beyond all numbers that the bodies use.
    place = (1 << 16).to_bytes(4, "little")
    first = new + _body(generator) + pickle.BUILD + pickle.LONG_BINPUT + place
    second = new + _body(critic) + pickle.BUILD
    return pickle.PROTO + b"\x03" + first + second + pickle.LONG_BINGET + place + pickle.TUPLE3 + pickle.STOP


def _body(value: Any) -> bytes:
    """The pickle without its first two bytes, the protocol, and its last, the end."""
    stream = io.BytesIO()
    _Pickler(stream, 3).dump(value)
    return stream.getvalue()[2:-1]


def _named(layout: names.Layout, network: nn.Module) -> dict[str, Tensor]:
    state = network.state_dict()
    return {kept.name: kept.theirs(state[ours].cpu()).contiguous() for ours, kept in layout.items()}


def _kernel(total: float) -> Tensor:
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return line * line[:, None] * total
