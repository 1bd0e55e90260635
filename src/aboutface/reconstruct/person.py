"""Several photos of one person: what a method that looks at all of them says."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from ..face import Face
from ..images import Photo
from ..scene import Scene


class Together(NamedTuple):
    """One person in N photos."""

    scenes: tuple[Scene, ...]
    """One per photo, each in its own pose, expression and light, with the coefficients of one identity."""
    shares: tuple[float, ...]
    """How much each photo counted for that identity, 0 to 1; they add up to 1. For the record."""
    rule: str
    """How one identity was made of them, in words."""
    weights: str | None = None
    """Name of the record, in `aboutface models list`, of what said how much each photo counts."""


@runtime_checkable
class PersonReconstructor(Protocol):
    """What a `Reconstructor` offers besides, if it can look at several photos of one person together."""

    def together(self, photos: Sequence[Photo], faces: Sequence[Face]) -> Together:
        """Photos of one person, and the person's face in each. Their order does not matter.

        Raises UsageError and NoFaceError as for a photo alone. Must be safe to call from several threads.
        """
        ...
