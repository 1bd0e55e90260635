"""Faces as data and functions: the mean head of our own, and morphable models, which the user has."""

from .bfm import load_bfm09, load_bfm17, load_bfm19
from .flame import load_flame
from .ict import ICT_FILE, ICT_LICENCE, ICT_SOURCE, IctModel, convert_ict, from_ict, ict_path
from .ict_download import download_ict
from .mean_head import POSE_WEIGHTS, MeanHead, bend, outline_trust
from .model import Articulation, MorphableModel
from .storage import counts
from .user_models import LOADERS, add_model, download_model, load_ict
from .whole_head import WholeHead, has_whole_head

__all__ = [
    "ICT_FILE",
    "ICT_LICENCE",
    "ICT_SOURCE",
    "LOADERS",
    "POSE_WEIGHTS",
    "Articulation",
    "IctModel",
    "MeanHead",
    "MorphableModel",
    "WholeHead",
    "add_model",
    "bend",
    "convert_ict",
    "counts",
    "download_ict",
    "download_model",
    "from_ict",
    "has_whole_head",
    "ict_path",
    "load_bfm09",
    "load_bfm17",
    "load_bfm19",
    "load_flame",
    "load_ict",
    "outline_trust",
]
