"""The verbs: rotate, frontalize, animate, reconstruct, swap; as a Pipeline, and as functions of one photo or a list."""

from .pipeline import Pipeline, expand_angles
from .result import Portrait, Reconstruction, Result
from .verbs import animate, frontalize, reconstruct, rotate, swap

__all__ = [
    "Pipeline",
    "Portrait",
    "Reconstruction",
    "Result",
    "animate",
    "expand_angles",
    "frontalize",
    "reconstruct",
    "rotate",
    "swap",
]
