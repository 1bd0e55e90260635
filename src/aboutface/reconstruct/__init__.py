"""The menu of reconstructors: Photo and Face in, Scene out. A new method is one file and one line here."""

from typing import Protocol

from ..errors import UsageError
from ..face import Face
from ..images import Photo
from ..scene import Scene
from .depthnet import DepthNetReconstructor


class Reconstructor(Protocol):
    """What every method offers to the verbs, the command line and the benchmarks."""

    name: str
    weights: str
    """Name of its record in `aboutface models list`."""

    def __call__(self, photo: Photo, face: Face) -> Scene:
        """The face's surface at rest, on the CPU, in a camera whose pixels are the photo's.

        Sets pose, pivot, 3D landmarks and millimetres_per_unit. Must be safe to call from several threads.
        """
        ...


RECONSTRUCTORS: dict[str, type[Reconstructor]] = {"depthnet": DepthNetReconstructor}


def reconstructor(method: str) -> Reconstructor:
    """A ready reconstructor by name. Raises UsageError for a name that is not on the menu."""
    if method not in RECONSTRUCTORS:
        raise UsageError(f"method {method!r} is not known; there are: {', '.join(RECONSTRUCTORS)}")
    return RECONSTRUCTORS[method]()


__all__ = ["RECONSTRUCTORS", "DepthNetReconstructor", "Reconstructor", "reconstructor"]
