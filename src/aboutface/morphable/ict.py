"""The light version of ICT-FaceKit, a linear model of head shape and expression (Li et al., CVPR 2020; MIT licence).

The user's own: either the folder `FaceXModel` of obj files as its authors give it, or one npz file, which `convert_ict`
makes of that folder. Its frame (centimetres, y up, the face looks along +z) becomes ours here, and nowhere else.
"""

import json
import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import MissingError, UsageError
from ..files import DAMAGED_NPZ, atomic_path, reason
from .model import MorphableModel

ICT_SOURCE = "https://github.com/ICT-VGL/ICT-FaceKit"
ICT_LICENCE = "MIT, (c) 2020 USC Institute for Creative Technologies"

ICT_FILE = "ict-facekit-light.npz"
NEUTRAL, INDICES = "generic_neutral_mesh.obj", "vertex_indices.json"
IDENTITIES = 100
"""How many identity files the whole model has."""
OBJ_FACES = 26384
"""Faces of each obj file."""

# [first, last) vertices of the obj files, by the table in the model's README. Teeth, tongue, lashes and fluids are left
# out; `narrow_face` is the front of `face`.
OBJ_PARTS = {
    "face": (0, 9409),
    "narrow_face": (0, 6706),
    "head_neck": (9409, 11248),
    "mouth_socket": (11248, 13294),
    "eye_socket_left": (13294, 13678),
    "eye_socket_right": (13678, 14062),
    "eyeball_left": (21451, 23021),
    "eyeball_right": (23021, 24591),
}
OURS_FROM_THEIRS = np.array([10.0, -10.0, -10.0], np.float32)
"""Centimetres, y up, z out of the face, to millimetres, y down, z forward."""


@dataclass(frozen=True, eq=False)
class IctModel:
    """Head shapes as sums: mean + identity + expression. Millimetres, x right, y down, z forward; it looks along -z."""

    mean: Tensor
    """(V, 3) float32."""
    identity: Tensor
    """(I, V, 3): offset per unit of each identity weight; weights of a random person are drawn from N(0, 1)."""
    expression: Tensor
    """(E, V, 3): offset of each expression at weight 1; weights lie in 0...1."""
    expression_names: tuple[str, ...]
    faces: Tensor
    """(F, 3) int64 triangles, clockwise as seen from outside; a quad 0 1 2 3 is cut from 0 to 2."""
    uv: Tensor
    """(U, 2): (0, 0) top left. The face has the square 0...1, the rest of the head the square right of it, and both
    eyeballs lie over the face's square."""
    uv_faces: Tensor
    """(F, 3) int64: rows of `uv` at the corners of `faces`."""
    landmarks68: Tensor
    """(68,) int64: vertices that are the iBUG points."""
    parts: dict[str, tuple[int, int]]
    """Name -> [first, last) vertex."""

    @classmethod
    def load(cls, path: str | PathLike[str] | None = None, *, partial: bool = False) -> "IctModel":
        """The model from an npz file or from the folder of obj files (that, or the one that holds FaceXModel).

        Args:
            path: $ABOUTFACE_DATA/ict-facekit-light.npz if missing.
            partial: take a folder although it lacks identities or expressions, with those it has.

        Raises MissingError where nothing is there, UsageError for broken, foreign or (unless `partial`) missing files.
        """
        path = Path(path) if path else ict_path()
        if not path.exists():
            raise MissingError(
                f"{path}: the ICT face model is not there; download the folder FaceXModel of {ICT_SOURCE} "
                f"({ICT_LICENCE}) and name it"
            )
        arrays = _read_folder(path, partial) if path.is_dir() else _read_npz(path)
        return _model(arrays, path)

    def vertices(self, identity: Tensor, expression: Tensor) -> Tensor:
        """(B, V, 3) of weights (B, I) and (B, E). Raises UsageError for other numbers of weights."""
        if identity.shape[1:] != self.identity.shape[:1] or expression.shape != (
            len(identity),
            len(self.expression),
        ):
            raise UsageError(
                f"vertices: expected weights (B, {len(self.identity)}) and (B, {len(self.expression)}), "
                f"got {tuple(identity.shape)} and {tuple(expression.shape)}"
            )
        offsets = identity @ self.identity.flatten(1) + expression @ self.expression.flatten(1)
        return self.mean + offsets.unflatten(1, self.mean.shape)


def from_ict(model: IctModel) -> MorphableModel:
    """The general form of the ICT model, in its own frame: the origin lies inside the head, between the ears.

    Masks are its parts, and: "front", the narrow face; "eyes", both eyeballs; "skin", the narrow face without brows,
    eyes, nostrils and lips. Eyeballs stay where they are in every expression. Raises UsageError where `check` finds
    something.
    """
    count = len(model.mean)
    masks = {name: torch.zeros(count, dtype=torch.bool) for name in model.parts}
    for name, (first, end) in model.parts.items():
        masks[name][first:end] = True
    if masks.keys() >= {"eyeball_left", "eyeball_right"}:
        masks["eyes"] = masks["eyeball_left"] | masks["eyeball_right"]
    if "narrow_face" in masks:
        masks["front"] = masks["narrow_face"].clone()
        masks["skin"] = masks["narrow_face"] & ~_near_features(model.mean, model.mean[model.landmarks68])
    return MorphableModel(
        name="ict",
        version="ICT-FaceKit light",
        licence=ICT_LICENCE,
        redistributable=True,
        mean=model.mean,
        identity=model.identity,
        expression=model.expression,
        expression_names=model.expression_names,
        expression_kind="weights",
        faces=model.faces,
        uv=model.uv,
        uv_faces=model.uv_faces,
        landmarks68=model.landmarks68,
        masks=masks,
    ).check()


def ict_path() -> Path:
    """Where the npz file is looked for. Raises MissingError where the variable is not set."""
    folder = os.environ.get("ABOUTFACE_DATA")
    if not folder:
        raise MissingError(
            f"the ICT face model: name a file or folder, or set ABOUTFACE_DATA to the folder of {ICT_FILE}; "
            f"the model is at {ICT_SOURCE} ({ICT_LICENCE})"
        )
    return Path(folder) / ICT_FILE


def convert_ict(folder: str | PathLike[str], target: str | PathLike[str], *, partial: bool = False) -> dict[str, Any]:
    """Write the npz file of a folder of obj files, bases in half precision; its counts of vertices, faces and bases.

    Raises what `IctModel.load` does, and OutputError.
    """
    if not Path(folder).is_dir():
        raise MissingError(f"{folder}: expected the folder FaceXModel of {ICT_SOURCE}")
    arrays = _read_folder(Path(folder), partial)
    _model(arrays, Path(folder))
    halves = {name: arrays[name].astype(np.float16) for name in ("identity_basis", "expression_basis")}
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **(arrays | halves))
    counts = {"vertices": "mean", "faces": "faces", "identities": "identity_basis", "expressions": "expression_basis"}
    return {name: len(arrays[array]) for name, array in counts.items()}


FEATURES = {
    "brows": [(17, 22), (22, 27)],
    "nostrils": [(31, 36)],
    "eyes": [(36, 42), (42, 48)],
    "lips": [(48, 60), (60, 68)],
}
"""[first, end) landmarks of the lines that are not skin."""
SKIN_MARGIN = {"brows": 9.0, "nostrils": 7.0, "eyes": 8.0, "lips": 6.0}
"""Millimetres around these lines that are not skin either."""


def _near_features(points: Tensor, marks: Tensor) -> Tensor:
    """(V,) bool: whether points (V, 3) lie on or near brows, eyes, nostrils or lips, by landmarks (68, 3)."""
    near = torch.zeros(len(points), dtype=torch.bool)
    for name, spans in FEATURES.items():
        for first, end in spans:
            line = marks[first:end]
            if name in ("eyes", "lips"):
                # The middle, too: what lies inside a closed line is no skin.
                line = torch.cat([line, line[:1], line.mean(0, keepdim=True)])
            between = torch.linspace(0, 1, 8)[:, None, None]
            dense = (line[:-1] * (1 - between) + line[1:] * between).reshape(-1, 3)
            near |= torch.cdist(points, dense).min(1).values < SKIN_MARGIN[name]
    return near


# ---- files to arrays, in their own frame ----


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    names = ("mean", "identity_basis", "expression_basis", "expression_names", "faces", "uv", "uv_faces", "landmarks68")
    try:
        # A file of our own: numpy leaves one that it cannot read open.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in (*names, "parts")}
    except KeyError as error:
        raise UsageError(f"{path}: is not the ICT model ({reason(error)}); convert the folder anew") from None
    except DAMAGED_NPZ as error:
        raise UsageError(f"{path}: cannot be read ({reason(error)}); convert the folder anew") from None


def _read_folder(folder: Path, partial: bool) -> dict[str, np.ndarray]:
    if (folder / "FaceXModel").is_dir():
        folder = folder / "FaceXModel"
    needed = [name for name in (NEUTRAL, INDICES) if not (folder / name).is_file()]
    if needed:
        raise UsageError(f"{folder}: lacks {' and '.join(needed)}; expected the folder FaceXModel of {ICT_SOURCE}")
    keep, parts = _kept()
    number = np.full(max(last for _, last in OBJ_PARTS.values()), -1)
    number[keep] = np.arange(len(keep))
    try:
        indices = json.loads((folder / INDICES).read_text("utf-8"))
        landmarks = number[np.array(indices["idx_to_landmark_verts"], np.int32)]
        expected = list(indices["expressions"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UsageError(f"{folder / INDICES}: cannot be read ({reason(error)}); download it anew") from None
    identities, expressions = _bases(folder, expected, partial)
    neutral, uv, corners, uv_corners = _read_obj(folder / NEUTRAL)
    _check_count(neutral, number, folder / NEUTRAL)
    if len(corners) != OBJ_FACES:
        raise UsageError(f"{folder / NEUTRAL}: has {len(corners)} faces, expected {OBJ_FACES}; download it anew")
    corners = np.where(corners < 0, -1, np.append(number, np.full(max(len(neutral), 1), -2))[corners])
    whole = (corners != -2).all(1) & (corners[:, :3] >= 0).all(1)
    corners, uv_corners = corners[whole], uv_corners[whole]
    used = np.unique(uv_corners[uv_corners >= 0])
    renumbered = np.full(len(uv) + 1, -1)
    renumbered[used] = np.arange(len(used))
    mean = neutral[keep]

    # Differences are taken before rounding, so that everyone's conversion has the same bits.
    def basis(names: list[str]) -> np.ndarray:
        shapes = []
        for name in names:
            vertices, *_ = _read_obj(folder / f"{name}.obj", only_vertices=True)
            _check_count(vertices, number, folder / f"{name}.obj")
            shapes.append(vertices[keep] - mean)
        return np.array(shapes, np.float32).reshape(-1, *mean.shape)

    return {
        "mean": mean.astype(np.float32),
        "identity_basis": basis(identities),
        "expression_basis": basis(expressions),
        "expression_names": np.array(expressions),
        "faces": corners.astype(np.int32),
        "uv": uv[used],
        "uv_faces": renumbered[uv_corners].astype(np.int32),
        "landmarks68": landmarks.astype(np.int32),
        "parts": np.array(json.dumps(parts)),
    }


def _bases(folder: Path, expected: list[str], partial: bool) -> tuple[list[str], list[str]]:
    """Names of the identity and expression files that are there."""
    names = sorted(path.stem for path in folder.glob("*.obj") if path.name != NEUTRAL)
    identities = [name for name in names if name.startswith("identity")]
    expressions = [name for name in names if not name.startswith("identity")]
    missing = sorted({f"identity{i:03d}" for i in range(IDENTITIES)} - set(identities))
    missing += sorted(set(expected) - set(expressions))
    if missing and not partial:
        some = ", ".join(f"{name}.obj" for name in missing[:4])
        raise UsageError(
            f"{folder}: {len(missing)} files are missing ({some}{' ...' if len(missing) > 4 else ''}); "
            f"download the whole folder from {ICT_SOURCE}, or take what is there (partial)"
        )
    return identities, expressions


def _kept() -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    """Vertices of the obj files that are kept, and the parts in the new numbers."""
    keep = np.concatenate([np.arange(*span) for name, span in OBJ_PARTS.items() if name != "narrow_face"])
    first = {name: int(np.searchsorted(keep, span[0])) for name, span in OBJ_PARTS.items()}
    return keep, {name: (first[name], first[name] + last - start) for name, (start, last) in OBJ_PARTS.items()}


def kept_vertices(path: Path) -> np.ndarray:
    """(V, 3) float64: the kept vertices of one obj file, in its own frame. Raises UsageError."""
    keep, _ = _kept()
    vertices, *_ = _read_obj(path, only_vertices=True)
    if len(vertices) <= keep.max():
        raise UsageError(f"{path}: has {len(vertices)} vertices, expected more than {keep.max()}; download it anew")
    return vertices[keep]


def _check_count(vertices: np.ndarray, number: np.ndarray, path: Path) -> None:
    if len(vertices) < len(number):
        raise UsageError(f"{path}: has {len(vertices)} vertices, expected at least {len(number)}; download it anew")


def _read_obj(path: Path, only_vertices: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V, 3) float64, uv (U, 2), and corners (F, 4) of both, counted from 0, with -1 last for triangles."""
    vertices, uv, corners, uv_corners = [], [], [], []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("v "):
                    vertices.append(line.split()[1:4])
                elif only_vertices:
                    continue
                elif line.startswith("vt "):
                    uv.append(line.split()[1:3])
                elif line.startswith("f "):
                    pairs = [corner.split("/")[:2] for corner in line.split()[1:]] + [["0", "0"]]
                    corners.append([int(pair[0]) - 1 for pair in pairs[:4]])
                    uv_corners.append([int(pair[1]) - 1 for pair in pairs[:4]])
        points = np.array(vertices, np.float64).reshape(-1, 3), np.array(uv, np.float32).reshape(-1, 2)
        rows = np.array(corners, np.int64).reshape(-1, 4), np.array(uv_corners, np.int64).reshape(-1, 4)
        if any(row.max(initial=-1) >= len(point) for row, point in zip(rows, points, strict=True)):
            raise ValueError("a face has corners that are not there")
        return *points, *rows
    except (OSError, ValueError, IndexError) as error:
        raise UsageError(f"{path}: cannot be read as an obj file ({reason(error)}); download it anew") from None


# ---- arrays to the model, in our frame ----


def _model(arrays: dict[str, np.ndarray], path: Path) -> IctModel:
    try:
        _check(arrays)
        parts = {str(name): (int(first), int(last)) for name, (first, last) in json.loads(str(arrays["parts"])).items()}
        triangles, uv_triangles = _triangles(arrays["faces"]), _triangles(arrays["uv_faces"])
        uv = arrays["uv"].astype(np.float32) * np.array([1, -1], np.float32) + np.array([0, 1], np.float32)
        mean, identity, expression = (
            torch.from_numpy(arrays[name].astype(np.float32) * OURS_FROM_THEIRS)
            for name in ("mean", "identity_basis", "expression_basis")
        )
    except (ValueError, TypeError, IndexError) as error:
        again = "download it anew" if path.is_dir() else "convert the folder anew"
        raise UsageError(f"{path}: is not the ICT model ({reason(error)}); {again}") from None
    return IctModel(
        mean=mean,
        identity=identity,
        expression=expression,
        expression_names=tuple(map(str, arrays["expression_names"])),
        faces=triangles,
        uv=torch.from_numpy(uv),
        uv_faces=uv_triangles,
        landmarks68=torch.from_numpy(arrays["landmarks68"].astype(np.int64)),
        parts=parts,
    )


def _check(arrays: dict[str, np.ndarray]) -> None:
    count = len(arrays["mean"])
    shapes = {name: array.shape for name, array in arrays.items()}
    for name in ("identity_basis", "expression_basis"):
        if shapes[name][1:] != (count, 3):
            raise ValueError(f"{name} is {shapes[name]}, expected (..., {count}, 3)")
    if shapes["faces"] != shapes["uv_faces"] or shapes["faces"][1:] != (4,) or shapes["landmarks68"] != (68,):
        raise ValueError(f"faces {shapes['faces']}, uv_faces {shapes['uv_faces']}, landmarks {shapes['landmarks68']}")
    if shapes["expression_names"] != shapes["expression_basis"][:1]:
        raise ValueError(f"{shapes['expression_names']} names of {shapes['expression_basis'][0]} expressions")
    for name in ("mean", "identity_basis", "expression_basis", "uv"):
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} has numbers that are not finite")
    limits = {"faces": count, "uv_faces": len(arrays["uv"]), "landmarks68": count}
    for name, end in limits.items():
        if arrays[name].max() >= end or arrays[name][..., :3].min() < 0:
            raise ValueError(f"{name} goes from {arrays[name].min()} to {arrays[name].max()}, of {end}")


def _triangles(quads: np.ndarray) -> Tensor:
    """(F, 3): theirs run counter-clockwise as seen from outside, ours clockwise."""
    quads = quads.astype(np.int64)
    second = quads[quads[:, 3] >= 0][:, [0, 3, 2]]
    return torch.from_numpy(np.concatenate([quads[:, [0, 2, 1]], second]))
