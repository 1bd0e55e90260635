"""The menu of reconstructors: Photo and Face in, Scene out. A new method is one file and one line here."""

from pathlib import Path
from typing import Protocol

from ..errors import UsageError
from ..face import Face
from ..images import Photo
from ..scene import Scene
from ..weights import load_file
from .depthnet import DepthNetReconstructor
from .morphable_photo import MorphableReconstructor, users_model
from .unsup3d_object import ObjectReconstructor, ObjectShape
from .unsup3d_photo import Unsup3dReconstructor


class Reconstructor(Protocol):
    """What every method offers to the verbs, the command line and the benchmarks."""

    name: str
    weights: str
    """Name of its record in `aboutface models list`."""

    @classmethod
    def from_file(cls, file: Path) -> "Reconstructor":
        """With the user's own weights. Raises UsageError."""
        ...

    def __call__(self, photo: Photo, face: Face) -> Scene:
        """The face's surface at rest, on the CPU, in a camera whose pixels are the photo's.

        Sets pose, pivot, 3D landmarks and millimetres_per_unit. Must be safe to call from several threads.
        """
        ...


RECONSTRUCTORS: dict[str, type[Reconstructor]] = {
    "depthnet": DepthNetReconstructor,
    "unsup3d": Unsup3dReconstructor,
    "morphable": MorphableReconstructor,
}


def reconstructor(method: str) -> Reconstructor:
    """A ready reconstructor, by name or by a .safetensors file that `aboutface train` wrote.

    Raises UsageError for a name that is not on the menu, and for a file that is no such weights.
    """
    if method.endswith(".safetensors"):
        _, card = load_file(Path(method))
        if card.get("method") not in RECONSTRUCTORS:
            raise UsageError(f"{method}: weights of {card.get('method')!r}, expected {' or '.join(RECONSTRUCTORS)}")
        return RECONSTRUCTORS[card["method"]].from_file(Path(method))
    if method not in RECONSTRUCTORS:
        raise UsageError(
            f"method {method!r} is not known; there are: {', '.join(RECONSTRUCTORS)}, or give a .safetensors file"
        )
    return RECONSTRUCTORS[method]()


def weights_of(method: str) -> str:
    """Name of the record, in `aboutface models list`, of what a method on the menu works with."""
    return users_model() if method == MorphableReconstructor.name else RECONSTRUCTORS[method].weights


def object_reconstructor(method: str) -> ObjectReconstructor | None:
    """The door for pictures of other things than faces; None for methods of faces.

    A .safetensors file is one of objects where `aboutface train unsup3d` cut its images to centred squares. Raises
    UsageError for a file that is no such weights.
    """
    return ObjectReconstructor.from_file(Path(method)) if method.endswith(".safetensors") else None


__all__ = [
    "RECONSTRUCTORS",
    "DepthNetReconstructor",
    "MorphableReconstructor",
    "ObjectReconstructor",
    "ObjectShape",
    "Reconstructor",
    "Unsup3dReconstructor",
    "object_reconstructor",
    "reconstructor",
    "weights_of",
]
