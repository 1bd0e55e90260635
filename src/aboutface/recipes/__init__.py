"""What is trained with what: one file per method, started by `aboutface train METHOD --data DIR`.

A recipe is a frozen dataclass of settings with a method `train`; the sentence under a field is its help. One line in
`RECIPES` puts it on the menu, or, from another package, an entry point in the group `aboutface.recipes`:

    [project.entry-points."aboutface.recipes"]
    mine = "my_package.my_module:MyTraining"
"""

import importlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import AboutfaceError, MissingError, UsageError
from ..files import atomic_path

# Nothing heavy at import: `aboutface train --help` lists the menu.
if TYPE_CHECKING:
    from torch import Tensor

    from ..fit import Run

RECIPES = {
    "mean-head": "aboutface.recipes.mean_head:MeanHeadTraining",
    "depthnet": "aboutface.recipes.depthnet:DepthNetTraining",
    "aign": "aboutface.recipes.aign:AIGNTraining",
    "unsup3d": "aboutface.recipes.unsup3d:Unsup3dTraining",
    "stylegan2": "aboutface.recipes.stylegan2:StyleGAN2Training",
    "stylegan2-autoencoder": "aboutface.recipes.stylegan2_autoencoder:StyleGAN2AutoencoderTraining",
    "stylegan2-encoder": "aboutface.recipes.gan_encoder:GanEncoderTraining",
    "gan2shape": "aboutface.recipes.gan2shape:GAN2ShapeTraining",
    "deep3d": "aboutface.recipes.deep3d:Deep3DTraining",
    "deep3d-sets": "aboutface.recipes.deep3d_sets:Deep3DSetsTraining",
}
SUMMARIES = {
    "mean-head": "the average head that photos are completed with, from 3D landmarks and a morphable model",
    "depthnet": "depth of 68 landmarks, from 2D landmarks of your own faces; no label needed",
    "aign": "a baseline: the same from 3D landmarks of other faces, adversarially",
    "unsup3d": "depth, albedo, view and light of one kind of thing, from photos alone",
    "stylegan2": "pictures of one kind of thing out of random numbers, and a critic of them",
    "stylegan2-autoencoder": "a start for stylegan2 where there is no GPU: its generator as a decoder",
    "stylegan2-encoder": "which w of a StyleGAN2 gives a picture: where projections start",
    "gan2shape": "depth, albedo, view, light and a generator's offsets, from many pictures and a StyleGAN2 of them",
    "deep3d": "coefficients of a morphable model, pose, light and landmarks of a face, from faces with landmarks",
    "deep3d-sets": "how far each of several pictures of a person is to be trusted about the face's shape",
}
"""A line for the menu; it shows without loading the recipe."""
GROUP = "aboutface.recipes"


@dataclass(frozen=True)
class Trained:
    """What a recipe leaves."""

    tensors: "dict[str, Tensor]"
    """The weights, by name."""
    scores: dict[str, float]
    """What was measured on data kept aside; empty where nothing could be."""
    settings: dict[str, Any]
    """What is needed to build the network again, and to train it again."""


class Recipe(Protocol):
    """A dataclass whose fields have defaults; `fit: FitSettings` among them where it trains by `fit`."""

    def train(self, data: Path, run: "Run", log: Callable[[str], None]) -> Trained:
        """Train on `data`, keeping checkpoints in `run`. Raises UsageError where the data do not suit."""
        ...


def recipes() -> dict[str, str]:
    """Name -> `module:class`, other packages' included."""
    found = importlib.metadata.entry_points(group=GROUP)
    return RECIPES | {point.name: point.value for point in found if point.name not in RECIPES}


def recipe(method: str) -> Any:
    """The settings class of a method. Raises UsageError for an unknown one, MissingError where it cannot be loaded."""
    known = recipes()
    if method not in known:
        raise UsageError(f"train: unknown method {method!r}; there are: {', '.join(known)}")
    module, _, name = known[method].partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        if method in RECIPES:
            raise
        raise MissingError(f"train: {method} ({known[method]}) cannot be loaded: {error}") from error


def write_weights(path: Path, method: str, trained: Trained) -> None:
    """A safetensors file with method, settings and scores on its card; fractions are in half precision.

    Raises AboutfaceError where a number is too large for that.
    """
    from safetensors.torch import save

    half = {name: _half(name, tensor.detach().cpu()) for name, tensor in trained.tensors.items()}
    card = json.dumps({"method": method, "settings": trained.settings, "scores": trained.scores}, default=str)
    with atomic_path(path) as part:
        part.write_bytes(save(half, metadata={"card": card}))


def _half(name: str, tensor: "Tensor") -> "Tensor":
    if not tensor.is_floating_point():
        return tensor.contiguous()
    half = tensor.half().contiguous()
    if not half.isfinite().all():
        raise AboutfaceError(f"{name}: has weights that half precision cannot hold; train anew with a smaller rate")
    return half
