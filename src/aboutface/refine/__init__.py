"""The menu of refiners: a picture of a turned head in, a more natural one out."""

from .manifold import manifold

__all__ = ["REFINERS", "manifold"]

REFINERS = {"manifold": manifold}
