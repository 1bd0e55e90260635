"""The menu of reconstructors: Photo and Face in, Scene out. A new method is one file and one line here."""

from pathlib import Path
from typing import Protocol

from ..errors import UsageError
from ..face import Face
from ..images import Photo
from ..scene import Scene
from ..weights import REGISTRY, load_file
from .deep3d_photo import Deep3dReconstructor
from .depthnet import DepthNetReconstructor
from .gan2shape_photo import Effort, GAN2ShapeObjects, GAN2ShapeReconstructor
from .morphable_photo import MorphableReconstructor, users_model
from .person import PersonReconstructor, Together
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


METHODS: dict[str, type[Reconstructor]] = {
    "depthnet": DepthNetReconstructor,
    "unsup3d": Unsup3dReconstructor,
    "deep3d": Deep3dReconstructor,
    "morphable": MorphableReconstructor,
    "gan2shape": GAN2ShapeReconstructor,
}
GENERATORS = ("gan2shape", "stylegan2")
"""Methods of training whose weight files GAN2Shape works with."""
RECONSTRUCTORS = {name: method for name, method in METHODS.items() if method.weights in REGISTRY}
"""The menu: those for which there are weights that all users can have."""
PERSON_METHODS = tuple(name for name, method in RECONSTRUCTORS.items() if issubclass(method, PersonReconstructor))
"""Those on the menu that look at several photos of one person together; the first is taken where none is chosen."""


def reconstructor(method: str, effort: Effort | None = None) -> Reconstructor:
    """A ready reconstructor, by name or by a .safetensors file that `aboutface train` wrote.

    effort: of a method that optimises for each photo. Raises UsageError for a name that is not on the menu, and for a
    file that is no such weights.
    """
    made = _class_of(method)
    if made is GAN2ShapeReconstructor:
        return made.from_file(Path(method), effort) if method.endswith(".safetensors") else made(effort=effort)
    return made.from_file(Path(method)) if method.endswith(".safetensors") else made()


def _class_of(method: str) -> type[Reconstructor]:
    if method.endswith(".safetensors"):
        kind = _method_of(Path(method))
        if kind in GENERATORS:
            return GAN2ShapeReconstructor
        if kind not in METHODS:
            raise UsageError(f"{method}: weights of {kind!r}, expected {' or '.join([*METHODS, 'stylegan2'])}")
        return METHODS[kind]
    if method not in RECONSTRUCTORS:
        raise UsageError(
            f"method {method!r} is not known; there are: {', '.join(RECONSTRUCTORS)}, or give a .safetensors file"
        )
    return RECONSTRUCTORS[method]


def optimises(method: str) -> bool:
    """Whether a method, by name or file, works on each photo for minutes, see `Effort`. Raises UsageError."""
    return _class_of(method) is GAN2ShapeReconstructor


def _method_of(file: Path) -> str:
    return str(load_file(file)[1].get("method"))


def weights_of(method: str) -> str:
    """Name of the record, in `aboutface models list`, of what a method on the menu works with."""
    return users_model() if method == MorphableReconstructor.name else RECONSTRUCTORS[method].weights


def models_of(method: str) -> tuple[str, ...]:
    """Names of the records of the user's face models that a method, by name or file, works with besides its weights."""
    return ("ict",) if _class_of(method) is Deep3dReconstructor else ()


def object_reconstructor(method: str, effort: Effort | None = None) -> ObjectReconstructor | None:
    """The door for pictures of other things than faces; None for methods of faces.

    A .safetensors file is one of objects where its training (unsup3d, stylegan2, gan2shape) cut its images to centred
    squares. Raises UsageError for a file that is no such weights.
    """
    if not method.endswith(".safetensors"):
        return None
    if _method_of(Path(method)) in GENERATORS:
        return GAN2ShapeObjects.from_file(Path(method), effort)
    return ObjectReconstructor.from_file(Path(method))


__all__ = [
    "METHODS",
    "PERSON_METHODS",
    "RECONSTRUCTORS",
    "Deep3dReconstructor",
    "DepthNetReconstructor",
    "Effort",
    "GAN2ShapeReconstructor",
    "MorphableReconstructor",
    "ObjectReconstructor",
    "ObjectShape",
    "PersonReconstructor",
    "Reconstructor",
    "Together",
    "Unsup3dReconstructor",
    "models_of",
    "object_reconstructor",
    "optimises",
    "reconstructor",
    "weights_of",
]
