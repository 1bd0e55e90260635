"""FLAME (Li et al., Learning a model of facial shape and expression from 4D scans, SIGGRAPH Asia 2017).

The user's own files. Metres in the body's frame, y up, +z in front; the head turns at neck, jaw and eyes. The files are
pickles, which are read with an allow-list (`pickles`), or .npz.
"""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..files import DAMAGED_NPZ, reason
from .given import AXES, IGNORE_OVERFLOW, given_files, landmarks_file, numbers_as_names, points, terms
from .model import NOSE, Articulation, MorphableModel, oriented
from .pickles import read_pickle

IDENTITIES, EXPRESSIONS = 300, 100
JOINTS = 5
"""The whole head, neck, jaw, and the two eyes."""

_MODEL = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")


@IGNORE_OVERFLOW
def load_flame(*paths: str | PathLike[str]) -> MorphableModel:
    """The model from generic_model.pkl, FLAME2020's or 2023's, or an .npz with the same names.

    Further files, told by what is inside: landmark_embedding.npy (its 68 points of the whole face at rest, which lie
    inside triangles), FLAME_masks.pkl (parts by name), landmarks68.json (68 vertices).

    Raises MissingError, UsageError.
    """
    files = given_files(paths, (".pkl", ".npz", ".npy", ".json"))
    tables = {file: _read(file) for file in files if file.suffix != ".json"}
    models = [file for file, table in tables.items() if "v_template" in table]
    if len(models) != 1:
        words = ", ".join(map(str, paths))
        raise UsageError(f"{words}: holds {len(models)} files with v_template, expected one; name the model's file")
    table, where = tables[models[0]], models[0]
    embedding = next((t for t in tables.values() if "full_lmk_faces_idx" in t), None)
    parts = next((t for t in tables.values() if "face" in t and "scalp" in t), {})
    own = next((file for file in files if file.suffix == ".json"), None)
    try:
        count, faces = _check(table)
        marks: dict[str, Any] = {} if embedding is None else _landmarks(embedding, faces)
        if own is not None:
            marks = {"landmarks68": landmarks_file(own, count)}
        return _model(table, faces, marks, _masks(parts, table["weights"]), where.stem).check()
    except KeyError as error:
        raise UsageError(f"{where}: lacks {reason(error)}; get the file anew") from None
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    except (ValueError, TypeError, IndexError) as error:
        raise UsageError(f"{where}: is not FLAME ({reason(error)}); get the file anew") from None


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".npz":
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return {name: file[name] for name in file.files if file[name].dtype.kind in "fiub"}
        except DAMAGED_NPZ as error:
            raise UsageError(f"{path}: cannot be read ({reason(error)}); get the file anew") from None
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path}: holds {type(content).__name__}, expected names with arrays; get the file anew")
    return content


def _check(table: dict[str, Any]) -> tuple[int, np.ndarray]:
    """Number of vertices, and the triangles; UsageError where arrays do not fit together."""
    arrays = {name: np.asarray(table[name]) for name in _MODEL}
    count = len(arrays["v_template"])
    expected = {
        "v_template": (count, 3),
        "shapedirs": (count, 3, IDENTITIES + EXPRESSIONS),
        "posedirs": (count, 3, 9 * (JOINTS - 1)),
        "J_regressor": (JOINTS, count),
        "weights": (count, JOINTS),
        "kintree_table": (2, JOINTS),
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise UsageError(f"{name} is {arrays[name].shape}, expected {shape}; get the file anew")
        if arrays[name].dtype.kind not in "fiub":
            raise UsageError(f"{name} holds no numbers; get the file anew")
    faces = arrays["f"].astype(np.int64)
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.min(initial=0) < 0 or faces.max(initial=0) >= count:
        raise UsageError(f"f is {faces.shape}, expected (any, 3) with numbers from 0 to {count - 1}; get the file anew")
    return count, faces


def _model(
    table: dict[str, Any], faces: np.ndarray, marks: dict[str, Any], masks: dict[str, Tensor], version: str
) -> MorphableModel:
    metre = 1000.0
    template, shapes = np.asarray(table["v_template"], np.float64), np.asarray(table["shapedirs"], np.float64)
    regressor = np.asarray(table["J_regressor"], np.float64)
    centre = template.mean(0)
    modes = shapes.transpose(2, 0, 1)
    # Joints are regressed from the shaped face: linear in the same coefficients, so once for all. The regressor's rows
    # sum to 1 only nearly, so it meets the template before that is centred.
    joints, joint_modes = points(regressor @ template - centre, metre), points(regressor @ modes, metre)
    mean, basis = points(template - centre, metre), points(modes, metre)
    expression = basis[IDENTITIES:]
    nose = marks.get("landmarks68")
    return MorphableModel(
        **terms("flame"),
        version=version,
        mean=mean,
        identity=basis[:IDENTITIES],
        expression=expression,
        expression_names=numbers_as_names(expression),
        expression_kind="gaussian",
        faces=oriented(mean, torch.from_numpy(faces), None if nose is None else int(nose[NOSE])),
        masks=masks,
        articulation=Articulation(
            names=_joint_names(joints),
            parents=_parents(np.asarray(table["kintree_table"])),
            mean=joints,
            identity=joint_modes[:IDENTITIES],
            expression=joint_modes[IDENTITIES:],
            weights=torch.from_numpy(np.asarray(table["weights"], np.float32)),
            correctives=_correctives(np.asarray(table["posedirs"], np.float64)),
        ),
        **marks,
    )


def _correctives(theirs: np.ndarray) -> Tensor:
    """(36, V, 3) of (V, 3, 36): both the offsets and the rotations' elements that scale them change their axes."""
    # A rotation R is S R S in our axes, S = diag(AXES): element (i, j) changes its sign with AXES[i] * AXES[j].
    signs = np.tile(np.outer(AXES, AXES).ravel(), JOINTS - 1)
    return points(theirs.transpose(2, 0, 1) * signs[:, None, None], 1000.0)


def _parents(tree: np.ndarray) -> tuple[int, ...]:
    # The first one's parent is -1, stored without a sign.
    return (-1, *(int(parent) for parent in tree[0, 1:]))


def _joint_names(joints: Tensor) -> tuple[str, ...]:
    """Sides of the person: its left is on the image's right."""
    sides = ("eye_left", "eye_right") if joints[3, 0] > joints[4, 0] else ("eye_right", "eye_left")
    return ("head", "neck", "jaw", *sides)


def _landmarks(table: dict[str, Any], faces: np.ndarray) -> dict[str, Tensor]:
    rows = np.asarray(table["full_lmk_faces_idx"]).reshape(-1).astype(np.int64)
    weights = np.asarray(table["full_lmk_bary_coords"], np.float32).reshape(-1, 3)
    if rows.shape != (68,) or weights.shape != (68, 3) or rows.min() < 0 or rows.max() >= len(faces):
        raise UsageError(
            f"landmarks: {rows.shape} triangles from {rows.min(initial=0)} to {rows.max(initial=0)} with weights "
            f"{weights.shape}, expected 68 of {len(faces)}; the embedding belongs to another model"
        )
    corners = torch.from_numpy(faces[rows])
    nearest = corners.gather(1, torch.from_numpy(weights).argmax(1, keepdim=True))[:, 0]
    return {"landmarks68": nearest, "landmark_corners": corners, "landmark_weights": torch.from_numpy(weights)}


def _masks(parts: dict[str, Any], weights: Any) -> dict[str, Tensor]:
    weights = np.asarray(weights)
    masks = {}
    for name, numbers in parts.items():
        mask = np.zeros(len(weights), bool)
        mask[np.asarray(numbers).astype(np.int64)] = True
        masks[str(name)] = torch.from_numpy(mask)
    # What follows the eyes' joints more than half.
    return masks | {"eyes": torch.from_numpy(weights[:, 3:].sum(1) > 0.5)}
