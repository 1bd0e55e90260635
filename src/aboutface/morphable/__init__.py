"""Faces as data and functions: the mean head of our own, and the ICT model, which the user has."""

from .ict import ICT_FILE, ICT_LICENCE, ICT_SOURCE, IctModel, convert_ict, ict_path
from .mean_head import POSE_WEIGHTS, MeanHead, bend, outline_trust

__all__ = [
    "ICT_FILE",
    "ICT_LICENCE",
    "ICT_SOURCE",
    "POSE_WEIGHTS",
    "IctModel",
    "MeanHead",
    "bend",
    "convert_ict",
    "ict_path",
    "outline_trust",
]
