"""The networks of a StyleGAN2's weight file."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..nn.inversion import LatentEncoder, LatentEncoderSettings
from ..nn.stylegan2 import Discriminator, Generator, StyleGAN2Settings
from ..weights import load_file

FOREIGN = (".pt", ".pth", ".pkl")
"""Suffixes of other codes' files."""


@dataclass(frozen=True)
class Gan:
    """A generator and, where it came with one, its critic: float32, evaluation mode, nothing wants a gradient."""

    generator: Generator
    discriminator: Discriminator | None
    card: dict[str, Any]
    """What the file says of itself: `settings.network`, and how it was trained or converted."""

    @property
    def size(self) -> int:
        """Side of the pictures, pixels."""
        return self.generator.settings.size

    @property
    def crop(self) -> str:
        """face: its pictures are crops by landmarks; centre: centred squares."""
        return self.card.get("settings", {}).get("training", {}).get("crop", "centre")


def load_gan(file: Path) -> Gan:
    """The networks in a .safetensors that `aboutface train stylegan2` or `aboutface models convert` wrote.

    Raises UsageError where the file cannot be read, or holds anything else or weights of another version.
    """
    file = Path(file)
    if file.suffix in FOREIGN and file.is_file():
        raise UsageError(
            f"{file}: is another code's file; make it one of ours by aboutface models convert {file} -o net.safetensors"
        )
    return built_gan(*load_file(file), file)


def built_gan(tensors: dict[str, Tensor], card: dict[str, Any], file: Path) -> Gan:
    """The networks of named tensors (`generator.*`, `discriminator.*`) and their card. Raises UsageError as above."""
    try:
        settings = StyleGAN2Settings(**card["settings"]["network"])
        generator, discriminator = Generator(settings), None
        _fill(generator, tensors, "generator.")
        if any(name.startswith("discriminator.") for name in tensors):
            discriminator = Discriminator(settings)
            _fill(discriminator, tensors, "discriminator.")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(
            f"{file}: these are no weights of stylegan2 of this version ({reason}); another code's file becomes one by "
            f"aboutface models convert {file} -o net.safetensors"
        ) from None
    return Gan(generator, discriminator, card)


def load_encoder(file: Path, gan: Gan) -> LatentEncoder:
    """The encoder in a .safetensors that `aboutface train stylegan2-encoder` wrote for this generator.

    Raises UsageError for a file of another form, and for an encoder of another generator: its mean w is another.
    """
    tensors, card = load_file(Path(file))
    try:
        encoder = LatentEncoder(LatentEncoderSettings(**card["settings"]["network"]))
        _fill(encoder, tensors, "")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"{file}: these are no weights of stylegan2-encoder of this version ({reason})") from None
    ours, theirs = gan.generator.mapping.centre.cpu(), encoder.centre
    # Both files keep half of the digits.
    if encoder.settings.size != gan.size or ours.shape != theirs.shape or not torch.allclose(ours, theirs, 0.01, 0.01):
        raise UsageError(f"{file}: this encoder was trained for another generator; train one with --gan")
    return encoder


def gan_tensors(gan: Gan) -> dict[str, Tensor]:
    """The named tensors that `built_gan` takes."""
    named = {f"generator.{name}": tensor for name, tensor in gan.generator.state_dict().items()}
    if gan.discriminator is not None:
        named |= {f"discriminator.{name}": tensor for name, tensor in gan.discriminator.state_dict().items()}
    return named


def network_card(settings: StyleGAN2Settings) -> dict[str, Any]:
    """The least that a card must say."""
    return {"settings": {"network": asdict(settings)}}


def _fill(network: nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    stored = {name.removeprefix(prefix): tensor.float() for name, tensor in tensors.items() if name.startswith(prefix)}
    network.load_state_dict(stored)
    network.requires_grad_(False).eval()
