"""The verbs: rotate, frontalize, relight, animate, reconstruct, swap; as a Pipeline, and as functions."""

from .pipeline import Pipeline, expand_angles
from .result import Portrait, Reconstruction, Result
from .verbs import animate, frontalize, reconstruct, relight, rotate, swap

__all__ = [
    "Pipeline",
    "Portrait",
    "Reconstruction",
    "Result",
    "animate",
    "expand_angles",
    "frontalize",
    "reconstruct",
    "relight",
    "rotate",
    "swap",
]
