"""The one safe file of any morphable model: tensors and JSON in a safetensors file, in which nothing can execute."""

import json
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import weights
from ..errors import MissingError, UsageError
from ..files import atomic_path, reason
from .ict import IctModel, from_ict, ict_path
from .model import Articulation, MorphableModel

FORMAT, FORMAT_VERSION = "aboutface morphable model", "1"

HALVES = ("identity", "expression", "albedo", "articulation.correctives")
"""What may be stored in half precision: offsets, of which it keeps 11 bits, so 0.016 mm of 32 mm."""
WORDS = ("name", "version", "licence", "redistributable", "expression_names", "expression_kind")


def save_model(model: MorphableModel, path: str | PathLike[str], half: bool = True) -> None:
    """What `MorphableModel.save` does."""
    from safetensors.torch import save_file

    tensors = _tensors(model)
    if half:
        tensors |= {name: tensors[name].half() for name in HALVES if name in tensors}
    facts: dict[str, Any] = {name: getattr(model, name) for name in WORDS}
    facts["partial68"] = {str(i): vertex for i, vertex in model.partial68.items()}
    if model.articulation is not None:
        facts["joints"] = {"names": model.articulation.names, "parents": model.articulation.parents}
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": json.dumps(facts),
        "card": json.dumps({"licence": model.licence, "settings": counts(model)}),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_model(source: str | PathLike[str]) -> MorphableModel:
    """What `MorphableModel.load` does."""
    path = _place(source)
    if path.is_dir() or path.suffix == ".npz":
        return from_ict(IctModel.load(path))
    if not path.exists():
        raise MissingError(f"{path}: no such model; aboutface models list shows those that can be added")
    return _read(path)


def counts(model: MorphableModel) -> dict[str, Any]:
    """What people want to know of a model: its version, and how many it has of what."""
    return {
        "version": model.version,
        "vertices": len(model.mean),
        "faces": len(model.faces),
        "identities": len(model.identity),
        "expressions": len(model.expression),
        "albedos": 0 if model.albedo is None else len(model.albedo),
        "landmarks": len(model.partial68) if model.landmarks68 is None else len(model.landmarks68),
    }


def _place(source: str | PathLike[str]) -> Path:
    record = weights.REGISTRY.get(str(source))
    if record is None or not record.added or Path(source).exists():
        return Path(source)
    if record.name == "ict" and not record.present:
        try:
            if (file := ict_path()).is_file():
                return file
        except MissingError:
            pass  # The record's own remedy is the better advice.
    return weights.path(record.name)


def _read(path: Path) -> MorphableModel:
    from safetensors import SafetensorError, safe_open

    again = "add the model anew: aboutface models add"
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UsageError(f"{path}: is no morphable model of this project; {again}")
            if metadata.get("format_version") != FORMAT_VERSION:
                raise UsageError(
                    f"{path}: has version {metadata.get('format_version')} of the format, expected {FORMAT_VERSION}; "
                    f"{again}"
                )
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return _model(json.loads(metadata["model"]), tensors).check()
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path}: cannot be read ({reason(error)}); {again}") from None
    except UsageError as error:
        raise error if str(error).startswith(str(path)) else UsageError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(f"{path}: is damaged ({reason(error)}); {again}") from None


def _tensors(model: MorphableModel) -> dict[str, Tensor]:
    """Every tensor by its name; those of masks and joints with a dot."""
    owners: dict[str, Any] = {"": vars(model), "masks.": model.masks}
    if model.articulation is not None:
        owners["articulation."] = vars(model.articulation)
    return {
        prefix + name: value.detach().cpu().contiguous()
        for prefix, owner in owners.items()
        for name, value in owner.items()
        if isinstance(value, Tensor)
    }


def _model(facts: dict[str, Any], tensors: dict[str, Tensor]) -> MorphableModel:
    tensors = {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    joints = facts.get("joints")
    known = {part.name for part in fields(MorphableModel)}
    given: dict[str, Any] = {name: facts[name] for name in WORDS}
    given |= {name: tensor for name, tensor in tensors.items() if name in known}
    given["expression_names"] = tuple(facts["expression_names"])
    return MorphableModel(
        **given,
        partial68={int(i): int(vertex) for i, vertex in facts["partial68"].items()},
        masks=under("masks."),
        articulation=None
        if joints is None
        else Articulation(tuple(joints["names"]), tuple(joints["parents"]), **under("articulation.")),
    )
