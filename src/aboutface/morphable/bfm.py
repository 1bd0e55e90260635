"""The Basel Face Models: 2009 (Paysan et al., AVSS 2009) and 2017 / 2019 (Gerig et al., FG 2018); the user's own files.

2009 is a .mat file in micrometres. Deep3DFaceReconstruction (Deng et al., CVPRW 2019) crops it, adds expressions from
FaceWarehouse data (Guo et al., PAMI 2018), and keeps the result in a .mat file of its own, in decimetres: both are
read. 2017 and 2019 are .h5 files of the Statismo library, in millimetres.
"""

import json
import zlib
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError, need
from ..files import reason
from .given import (
    IGNORE_OVERFLOW,
    Paths,
    columns,
    given_files,
    landmarks_file,
    numbers_as_names,
    points,
    shape_problem,
    terms,
)
from .model import NOSE, MorphableModel, oriented

DEEP3D_SIZES = (80, 64, 80)
"""Modes of identity, expression and albedo that the 257 coefficients of Deep3D have."""

# fmt: off
LANDMARKS_2009 = (
    22148, 22424, 21928, 21311, 43511, 45193, 46441, 47410, 48189,
    48970, 49942, 51199, 52888, 33953, 33280, 32744, 32984,
    38970, 39667, 40057, 40262, 40429, 41168, 41334, 41542, 41936, 42642,
    8290, 8306, 8316, 8321, 6525, 7300, 8333, 9364, 10137,
    2215, 3886, 4920, 5828, 4801, 3640, 10730, 11628, 12658, 14341, 12928, 11767,
    5522, 6025, 7570, 8344, 9118, 10669, 11070, 9792, 9019, 8374, 7729, 6954,
    5909, 7450, 8352, 9256, 10812, 9012, 8367, 7722,
)
"""iBUG points of the whole mesh of 2009, those of Deep3D, counted from 0; other lists of this mesh differ in some."""
# fmt: on
VERTICES_2009 = 53490

NAMED_68 = {
    8: "center.chin.tip",
    30: "center.nose.tip",
    33: "center.nose.attachement_to_philtrum",
    36: "right.eye.corner_outer",
    39: "right.eye.corner_inner",
    42: "left.eye.corner_inner",
    45: "left.eye.corner_outer",
    48: "right.lips.corner",
    51: "center.lips.upper.outer",
    54: "left.lips.corner",
    57: "center.lips.lower.outer",
}
"""iBUG points that the landmark list inside the .h5 files names, by sides of the person."""
SNAP = 10.0
"""Millimetres from a named landmark to its vertex, beyond which the mesh has no such place."""

PARTIAL_H5 = {
    53149: {
        **{8: 47846, 30: 8156, 36: 2602, 39: 5830, 42: 10390, 45: 13481},
        **{48: 5522, 51: 8181, 54: 10857, 57: 8199, 62: 8190, 66: 8191},
    }
}
"""Number of vertices -> iBUG points of that mesh, as eos (github.com/patrikhuber/eos) publishes them for 2017."""

VERTICES_H5 = {"bfm17": (53149, 28588), "bfm19": (58203, 47439, 27657)}
"""Of the published meshes, by which a file of the other year is told."""

# What scipy raises for files with wrong bytes in them.
_DAMAGED_MAT = (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, MemoryError, zlib.error)

_FULL = ("shapeMU", "shapePC", "shapeEV", "texMU", "texPC", "texEV", "tl")
_READY = ("meanshape", "meantex", "idBase", "exBase", "texBase")
_MASKS = ("tri", "keypoints", "skinmask", "frontmask2_idx", "tri_mask2")
_INDICES = ("select_id", "idx", "trimIndex")


# ---- 2009 ----


@IGNORE_OVERFLOW
def load_bfm09(*paths: str | PathLike[str]) -> MorphableModel:
    """The model of 2009 from files or a folder of them, told by what is inside.

    `BFM_model_front.mat` is taken as it is. Else `01_MorphableModel.mat` is needed. With `facemodel_info.mat` and
    `select_vertex_id.mat` (or `BFM_exp_idx.mat` and `BFM_front_idx.mat`) it is cropped as Deep3D does, with 80
    identities and albedos; without, it is the whole mesh with all its modes. With `Exp_Pca.bin`, `std_exp.txt` and
    `BFM_exp_idx.mat` (for the crop also `BFM_front_idx.mat`) it has expressions: 64 on the crop, all on the whole. The
    mean expression in `Exp_Pca.bin` is left out, as everyone does who uses it. A `landmarks68.json` replaces the list.

    Raises MissingError, UsageError.
    """
    files = given_files(paths, (".mat", ".bin", ".txt", ".json"))
    tables = {file: _read_mat(file) for file in files if file.suffix == ".mat"}
    ready = next((table for table in tables.values() if "idBase" in table), None)
    # A folder often holds both what Deep3D made and what it was made of.
    merged = ready if ready is not None else {name: t[name] for t in tables.values() for name in t}
    with_expression = next((file for file in files if file.suffix == ".bin"), None)
    deviations = next((file for file in files if file.suffix == ".txt"), None)
    where = ", ".join(map(str, paths))
    try:
        if ready is not None:
            model = _deep3d_ready(merged)
        elif "shapeMU" in merged:
            model = _from_2009(merged, with_expression, deviations)
        else:
            raise UsageError("expected 01_MorphableModel.mat (shapeMU, ...) or BFM_model_front.mat (idBase, ...)")
        own = next((file for file in files if file.suffix == ".json"), None)
        if own is not None:
            model = replace(model, landmarks68=landmarks_file(own, len(model.mean)))
        return model.check()
    except KeyError as error:
        raise UsageError(f"{where}: lacks {reason(error)}; give the file that holds it, too") from None
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _deep3d_ready(table: dict[str, np.ndarray]) -> MorphableModel:
    for name in _READY:
        table[name]  # KeyError says which one is missing.
    count = table["meanshape"].size // 3
    for name in ("idBase", "exBase", "texBase"):
        _expect(name, table[name], (3 * count, None))
    _expect("meantex", table["meantex"].ravel(), (3 * count,))
    shape = points(table["meanshape"].reshape(-1), 100.0)
    # Rounded to float32 in the file already.
    identity, expression = (points(columns(table[name]), 100.0) for name in ("idBase", "exBase"))
    albedo = torch.from_numpy((columns(table["texBase"]).reshape(-1, count, 3) / 255).astype(np.float32))
    return _deep3d_model(shape, identity, expression, _colours(table["meantex"]), albedo, table)


def _from_2009(table: dict[str, np.ndarray], expressions: Path | None, deviations: Path | None) -> MorphableModel:
    count = table["shapeMU"].size // 3
    identity, albedo = (_scaled_2009(table, kind, count) for kind in ("shape", "tex"))
    shape, texture = points(table["shapeMU"].reshape(-1), 1e-3), _colours(table["texMU"])
    identity, albedo = points(identity, 1e-3), torch.from_numpy((albedo / 255).astype(np.float32)).unflatten(1, (-1, 3))
    crop = _crop(table, count)
    expression = torch.zeros(0, count if crop is None else len(crop), 3)
    if expressions is not None:
        expression = _expressions_2009(expressions, deviations, table, count, crop is not None)
    if crop is not None:
        identities, most, albedos = DEEP3D_SIZES
        return _deep3d_model(
            shape[crop],
            identity[:identities, crop],
            expression[:most],
            texture[crop],
            albedo[:albedos, crop],
            table,
        )
    own = torch.tensor(LANDMARKS_2009) if count == VERTICES_2009 else None
    return MorphableModel(
        **terms("bfm09"),
        version="2009",
        mean=shape - shape.mean(0),
        identity=identity,
        expression=expression,
        expression_names=numbers_as_names(expression),
        expression_kind="gaussian",
        faces=oriented(shape, _rows(table["tl"], count, "tl"), None if own is None else int(own[NOSE])),
        albedo_mean=texture,
        albedo=albedo,
        landmarks68=own,
    )


def _deep3d_model(
    shape: Tensor, identity: Tensor, expression: Tensor, texture: Tensor, albedo: Tensor, table: dict[str, np.ndarray]
) -> MorphableModel:
    """The crop of Deep3D, centred as there: on the centre of gravity of the cropped mean shape."""
    count = len(shape)
    faces = _rows(table["tri"], count, "tri")
    landmarks = _from_one(table["keypoints"], count, "keypoints")
    masks = {}
    if "skinmask" in table:
        _expect("skinmask", table["skinmask"].ravel(), (count,))
        masks["skin"] = torch.from_numpy(table["skinmask"].ravel() > 0)
    if "frontmask2_idx" in table:
        front = _from_one(table["frontmask2_idx"], count, "frontmask2_idx")
        masks["front"] = torch.zeros(count, dtype=torch.bool)
        masks["front"][front] = True
        if "tri_mask2" in table:
            _check_front(faces, front, _rows(table["tri_mask2"], len(front), "tri_mask2"))
    return MorphableModel(
        **terms("bfm09"),
        version="2009, cropped as Deep3D does",
        mean=shape - shape.double().mean(0).float(),
        identity=identity,
        expression=expression,
        expression_names=numbers_as_names(expression),
        expression_kind="gaussian",
        faces=oriented(shape, faces, int(landmarks[NOSE])),
        albedo_mean=texture,
        albedo=albedo,
        landmarks68=landmarks,
        masks=masks,
    )


def _check_front(faces: Tensor, front: Tensor, rows: Tensor) -> None:
    """The front region's triangles number its own vertices, not the mesh's; then each is one of the mesh."""
    known = {frozenset(row) for row in faces.tolist()}
    foreign = sum(frozenset(row) not in known for row in front[rows].tolist())
    if foreign:
        raise UsageError(
            f"{foreign} of {len(rows)} rows of tri_mask2, read as numbers within frontmask2_idx, are no triangles of "
            "tri; the index files belong to different models"
        )


def _scaled_2009(table: dict[str, np.ndarray], kind: str, count: int) -> np.ndarray:
    """(K, 3V) per standard deviation: unit columns times EV, which are standard deviations despite their name."""
    basis, deviations = table[f"{kind}PC"], table[f"{kind}EV"].reshape(-1)
    _expect(f"{kind}PC", basis, (3 * count, len(deviations)))
    _expect(f"{kind}MU", table[f"{kind}MU"].reshape(-1), (3 * count,))
    _check_unit(f"{kind}PC", np.linalg.norm(columns(basis), axis=1))
    return columns(basis) * deviations[:, None]


def _check_unit(name: str, lengths: np.ndarray) -> None:
    if not np.allclose(lengths, 1, atol=0.01):
        raise UsageError(
            f"the columns of {name} have lengths from {lengths.min():.3g} to {lengths.max():.3g}, expected 1; "
            "give the file as published"
        )


def _crop(table: dict[str, np.ndarray], count: int) -> Tensor | None:
    """(N,) vertices of the whole mesh that Deep3D keeps; None where it is not to be cropped."""
    if "tri" not in table:
        return None
    if "select_id" in table:
        return _from_one(table["select_id"], count, "select_id")
    middle = _from_one(table["trimIndex"], count, "trimIndex")
    return middle[_from_one(table["idx"], len(middle), "idx")]


def _expressions_2009(
    path: Path, deviations: Path | None, table: dict[str, np.ndarray], count: int, cropped: bool
) -> Tensor:
    """(K, V, 3) on the crop, or on the whole mesh, where vertices that the expressions do not know stay still."""
    if deviations is None:
        raise UsageError(f"{path.name} needs std_exp.txt, the standard deviations of its modes; give it, too")
    basis = _read_exp_pca(path)
    try:
        scale = np.array(deviations.read_text("utf-8").split(), np.float64)
    except (OSError, ValueError) as error:
        raise UsageError(f"{deviations}: cannot be read as numbers ({reason(error)})") from None
    if scale.shape != (len(basis),):
        raise UsageError(f"{deviations}: has {scale.size} numbers, expected {len(basis)}, one per mode of {path.name}")
    moved = points((basis * scale[:, None, None]).reshape(len(basis), -1), 1e-3)
    known = len(moved[0])
    if cropped:
        return moved[:, _from_one(table["idx"], known, "idx")]
    places = _from_one(table["trimIndex"], count, "trimIndex")
    _expect("trimIndex", places, (known,))
    whole = torch.zeros(len(moved), count, 3)
    whole[:, places] = moved
    return whole


def _read_exp_pca(path: Path) -> np.ndarray:
    """(K, N, 3) micrometres per unit: the file has K as int32, the mean (3N), the basis (K, 3N), float32."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({reason(error)})") from None
    modes = int(np.frombuffer(content[:4], "<i4")[0]) if len(content) >= 4 else 0
    size = len(content) - 4
    if not 0 < modes <= 1000 or size % (12 * (modes + 1)):
        raise UsageError(f"{path}: {len(content)} bytes do not hold {modes} modes and a mean; get Exp_Pca.bin anew")
    numbers = np.frombuffer(content, "<f4", offset=4).reshape(modes + 1, -1, 3)
    return numbers[1:].astype(np.float64)


def _colours(mean: np.ndarray) -> Tensor:
    """(V, 3) in 0...1 of 0...255."""
    return torch.from_numpy((np.asarray(mean, np.float64).reshape(-1, 3) / 255).astype(np.float32))


def _rows(values: np.ndarray, end: int, name: str) -> Tensor:
    _expect(name, values, (None, 3))
    return _from_one(values, end, name).view(-1, 3)


def _from_one(values: np.ndarray, end: int, name: str) -> Tensor:
    """(N,) int64 counted from 0, of numbers counted from 1, which the files mostly keep as floats."""
    values = np.asarray(values, np.float64).ravel()
    whole = np.isfinite(values) & (values == np.round(values))
    if not len(values) or not whole.all() or values.min() < 1 or values.max() > end:
        least, most = (values.min(), values.max()) if len(values) else (0, 0)
        raise UsageError(
            f"{name} goes from {least:g} to {most:g}, expected whole numbers from 1 to {end}; "
            "the index files belong to different models"
        )
    return torch.from_numpy(values.astype(np.int64) - 1)


def _expect(name: str, array: Any, shape: tuple[int | None, ...]) -> None:
    problem = shape_problem(name, array.shape, shape)
    if problem:
        raise UsageError(f"{problem}; the files belong to different models")


def _read_mat(path: Path) -> dict[str, np.ndarray]:
    io = need("scipy.io", "morphable")
    try:
        table = io.loadmat(path, variable_names=[*_FULL, *_READY, *_MASKS, *_INDICES])
    except NotImplementedError:
        raise UsageError(
            f"{path}: has MATLAB's format 7.3, expected 5 or 7 as published; in MATLAB: load it, then save with '-v7'"
        ) from None
    except (*_DAMAGED_MAT, io.matlab.MatReadError) as error:
        raise UsageError(f"{path}: cannot be read as a .mat file ({reason(error)}); get it anew") from None
    table = {name: value for name, value in table.items() if not name.startswith("__")}
    for name, value in table.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
            raise UsageError(f"{path}: {name} holds no numbers; get the file anew")
    return table


# ---- 2017 and 2019 ----


def load_bfm17(*paths: str | PathLike[str]) -> MorphableModel:
    """A mesh of the model of 2017 from its .h5 file; a `landmarks68.json` beside it gives the iBUG points.

    Raises MissingError, UsageError.
    """
    return _load_h5("bfm17", paths)


def load_bfm19(*paths: str | PathLike[str]) -> MorphableModel:
    """A mesh of the model of 2019, as `load_bfm17`."""
    return _load_h5("bfm19", paths)


@IGNORE_OVERFLOW
def _load_h5(name: str, paths: Paths) -> MorphableModel:
    files = given_files(paths, (".h5", ".json"))
    models = [file for file in files if file.suffix == ".h5"]
    if len(models) != 1:
        raise UsageError(f"{', '.join(map(str, paths))}: holds {len(models)} .h5 files, expected one; name the one")
    own = next((file for file in files if file.suffix == ".json"), None)
    h5py = need("h5py", "morphable")
    try:
        with h5py.File(models[0], "r") as file:
            model = _from_h5(name, file, models[0].stem)
    except KeyError as error:
        raise UsageError(f"{models[0]}: is not a model of this kind ({reason(error)})") from None
    # h5py has RuntimeError for damage inside an open file.
    except (OSError, TypeError, AttributeError, RuntimeError) as error:
        raise UsageError(f"{models[0]}: cannot be read as an .h5 model ({reason(error)}); get it anew") from None
    except ValueError as error:
        raise UsageError(f"{models[0]}: {reason(error)}") from None
    if own is not None:
        model = replace(model, landmarks68=landmarks_file(own, len(model.mean)), partial68={})
    try:
        return model.check()
    except UsageError as error:
        raise UsageError(f"{models[0]}: {error}") from None


def _from_h5(name: str, file: Any, version: str) -> MorphableModel:
    shape, count = _mean_h5(file, "shape"), file["shape/model/mean"].size // 3
    for other, counts in VERTICES_H5.items():
        if other != name and count in counts:
            raise UsageError(f"has the {count} vertices of a mesh of {other}; run: aboutface models add {other}")
    expression = np.zeros((0, 3 * count), np.float32)
    if "expression" in file:
        # Of the neutral face, too: the mean of expressions is no neutral one.
        shape, expression = shape + _mean_h5(file, "expression"), _basis_h5(file, "expression", count)
    albedo_mean = albedo = None
    if "color" in file:
        albedo_mean = torch.from_numpy(_mean_h5(file, "color").reshape(-1, 3).astype(np.float32))
        albedo = torch.from_numpy(_basis_h5(file, "color", count).astype(np.float32)).unflatten(1, (-1, 3))
    mean, moved = points(shape, 1.0), points(expression, 1.0)
    marks = _marks_h5(file, count)
    faces = file["shape/representer/cells"][()]
    if faces.ndim != 2 or len(faces) != 3 or faces.min(initial=0) < 0 or faces.max(initial=0) >= count:
        raise UsageError(f"its cells are {faces.shape}, expected (3, any) with numbers from 0 to {count - 1}")
    return MorphableModel(
        **terms(name),
        version=version,
        mean=mean - mean.double().mean(0).float(),
        identity=points(_basis_h5(file, "shape", count), 1.0),
        expression=moved,
        expression_names=numbers_as_names(moved),
        expression_kind="gaussian",
        faces=oriented(mean, torch.from_numpy(faces.T.astype(np.int64)), marks.get(NOSE)),
        albedo_mean=albedo_mean,
        albedo=albedo,
        partial68=PARTIAL_H5.get(count, {}) | marks,
    )


def _mean_h5(file: Any, group: str) -> np.ndarray:
    return file[f"{group}/model/mean"][()].astype(np.float64).ravel()


def _basis_h5(file: Any, group: str, count: int) -> np.ndarray:
    """(K, 3V) per standard deviation."""
    basis, variance = columns(file[f"{group}/model/pcaBasis"][()]), file[f"{group}/model/pcaVariance"][()].ravel()
    _expect(f"{group}/model/pcaBasis", basis, (len(variance), 3 * count))
    if not (variance > 0).all():
        raise UsageError(f"{group}/model/pcaVariance has entries that are not above 0; the file is damaged")
    deviations = np.sqrt(variance)
    lengths = np.linalg.norm(basis, axis=1)
    # Early files of the library have the deviations in the basis already: then its columns have these lengths. Where
    # one is 1 they cannot be told apart, and need not be.
    if np.allclose(lengths, deviations, rtol=0.01):
        return basis
    _check_unit(f"{group}/model/pcaBasis", lengths)
    return basis * deviations[:, None]


def _marks_h5(file: Any, count: int) -> dict[int, int]:
    """iBUG number -> nearest vertex of the points that the file's own list names."""
    text = file.get("metadata/landmarks")
    text = text["json"] if text is not None and hasattr(text, "keys") and "json" in text else text
    if text is None or hasattr(text, "keys"):
        return {}
    content = text[()]
    content = content.ravel()[0] if isinstance(content, np.ndarray) else content
    try:
        listed = json.loads(content)
        places = {str(entry["id"]): np.array(entry["coordinates"], np.float64) for entry in listed}
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"its landmarks cannot be read ({reason(error)}); the file is damaged") from None
    vertices = file["shape/representer/points"][()]
    vertices = vertices.T if vertices.shape == (3, count) else vertices
    _expect("shape/representer/points", vertices, (count, 3))
    found = {}
    for number, name in NAMED_68.items():
        if name in places and places[name].shape == (3,):
            distances = np.linalg.norm(vertices - places[name], axis=1)
            if distances.min() <= SNAP:
                found[number] = int(distances.argmin())
    return found
