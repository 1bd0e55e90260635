"""Models of the user's own: foreign files in, the one safe file in the user's folder out."""

import shutil
from collections.abc import Callable
from os import PathLike
from pathlib import Path

from .. import weights
from ..errors import UsageError
from . import ict_download
from .bfm import load_bfm09, load_bfm17, load_bfm19
from .flame import load_flame
from .given import Paths
from .ict import IctModel, from_ict
from .model import MorphableModel


def load_ict(*paths: str | PathLike[str], partial: bool = False) -> MorphableModel:
    """The ICT model from its npz file or the folder of obj files. Raises MissingError, UsageError."""
    if len(paths) != 1:
        raise UsageError(f"ict: expected one npz file or folder, got {len(paths)}")
    return from_ict(IctModel.load(paths[0], partial=partial))


LOADERS: dict[str, Callable[..., MorphableModel]] = {
    "bfm09": load_bfm09,
    "bfm17": load_bfm17,
    "bfm19": load_bfm19,
    "flame": load_flame,
    "ict": load_ict,
}


def add_model(name: str, paths: Paths, *, partial: bool = False) -> tuple[MorphableModel, Path]:
    """Check the files of a model, keep them as the one safe file, and say where; an older one is replaced.

    Args:
        name: one of LOADERS.
        partial: for ict, take a folder that lacks identities or expressions.

    Raises UsageError for other names and what the loader finds, MissingError, OutputError.
    """
    if name not in LOADERS:
        raise UsageError(f"models add: unknown model {name!r}: choose one of {', '.join(LOADERS)}")
    if not paths:
        raise UsageError(f"models add {name}: name its files; {weights.REGISTRY[name].added}")
    if partial and name != "ict":
        raise UsageError(f"models add {name}: --partial is for ict")
    model = LOADERS[name](*paths, **({"partial": True} if partial else {}))
    file = weights.kept_file(name)
    model.save(file)
    weights.note_digest(name)
    return model, file


def download_model(name: str, progress: weights.Progress | None = None) -> tuple[MorphableModel, Path]:
    """Get a model that its authors offer to anyone, and keep it as `add_model` does; "ict" is the one.

    Raises UsageError for other names, MissingError where no network is allowed, AboutfaceError.
    """
    if name != "ict":
        raise UsageError(f"models download {name}: it has no free address; {weights.REGISTRY[name].added}")
    folder = weights.home() / "downloads" / "ict"
    ict_download.download_ict(folder, progress)
    # Every file was checked: that the folder is whole, too.
    model, file = add_model(name, [folder], partial=True)
    shutil.rmtree(folder)
    return model, file
