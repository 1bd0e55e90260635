"""GAN2Shape's weight file: the model, and the generator that has taught it, since neither works alone."""

from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UsageError
from ..generate import Gan, built_gan, gan_tensors, load_gan
from ..weights import REGISTRY, load_file, path
from .gan2shape import GAN2Shape, built, card

GAN = "gan."
"""Before the names of the generator's and the critic's tensors."""


def gan_of(name: str) -> Gan:
    """The networks of a generator's file, or of weights by name. Raises UsageError, MissingError."""
    return load_gan(path(name) if name in REGISTRY else Path(name))


def tensors_of(model: GAN2Shape, gan: Gan, name: str) -> dict[str, Tensor]:
    """All tensors by name; not the generator's if `name` is one of `weights`, where anybody has them."""
    theirs = {} if name in REGISTRY else gan_tensors(gan)
    return dict(model.state_dict()) | {GAN + key: tensor for key, tensor in theirs.items()}


def settings_of(model: GAN2Shape, gan: Gan, name: str, training: dict[str, Any]) -> dict[str, Any]:
    """What the card says: the networks' sizes, the generator (by name, or its own card), and how it was trained."""
    return card(model.settings) | {"gan": name if name in REGISTRY else gan.card, "training": training}


def read(file: Path) -> tuple[GAN2Shape, Gan]:
    """Both, as `aboutface train gan2shape` wrote them. Raises UsageError for a file of another form."""
    tensors, content = load_file(Path(file))
    gan = content.get("settings", {}).get("gan")
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(GAN)}
    theirs = {name.removeprefix(GAN): tensor for name, tensor in tensors.items() if name.startswith(GAN)}
    if isinstance(gan, str) and gan in REGISTRY:
        return built(own, content, file), gan_of(gan)
    if not theirs or not isinstance(gan, dict):
        raise UsageError(f"{file}: these are no weights of gan2shape; make some by aboutface train gan2shape")
    return built(own, content, file), built_gan(theirs, gan, file)
