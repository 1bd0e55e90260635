"""A small face of known shape and bases, in the axes of the published files (y up, +z towards the viewer), millimetres.

The loaders' tests write it in each file format. It is a piece of an ellipsoid with a nose, 29 x 37 vertices.
"""

from functools import lru_cache

import numpy as np

COLUMNS, ROWS = 29, 37
COUNT = COLUMNS * ROWS


def shape() -> np.ndarray:
    """(V, 3)."""
    x, y = np.meshgrid(np.linspace(-70, 70, COLUMNS), np.linspace(90, -90, ROWS))
    z = 90 * np.sqrt(1 - (x / 100) ** 2 - (y / 140) ** 2) + 20 * np.exp(-(x**2 + y**2) / 200)
    return np.stack([x, y, z], -1).reshape(-1, 3)


def faces() -> np.ndarray:
    """(F, 3) from 0, counter-clockwise as seen from outside."""
    corner = np.arange(COUNT).reshape(ROWS, COLUMNS)
    a, b, c, d = (corner[i : ROWS - 1 + i, j : COLUMNS - 1 + j].ravel() for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
    return np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])


def vertex(x: float, y: float) -> int:
    """The vertex nearest to a place in front."""
    return int(np.linalg.norm(shape()[:, :2] - (x, y), axis=1).argmin())


def landmarks() -> np.ndarray:
    """(68,) vertices: a plausible face, mirror symmetric, with the outer eye corners 90 mm apart."""
    jaw = [(70 * np.sin(t), -70 * np.cos(t)) for t in np.linspace(-np.pi / 2, np.pi / 2, 17)]
    brows = [(x, 45) for x in (-50, -40, -30, -20, -10, 10, 20, 30, 40, 50)]
    nose = [(0, y) for y in (30, 20, 10, 0)] + [(x, -15) for x in (-15, -10, 0, 10, 15)]
    left = [(-45, 30), (-40, 35), (-30, 35), (-20, 30), (-30, 25), (-40, 25)]
    right = [(20, 30), (30, 35), (40, 35), (45, 30), (40, 25), (30, 25)]
    outer = [(25 * np.cos(t), -40 + 10 * np.sin(t)) for t in np.linspace(np.pi, -np.pi, 13)[:-1]]
    inner = [(15 * np.cos(t), -40 + 5 * np.sin(t)) for t in np.linspace(np.pi, -np.pi, 9)[:-1]]
    return np.array([vertex(*place) for place in jaw + brows + nose + left + right + outer + inner])


@lru_cache(maxsize=8)
def unit_basis(modes: int, seed: int, count: int = COUNT) -> np.ndarray:
    """(3V, K) with orthonormal columns."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(3 * count, modes)))[0]


def deviations(modes: int, count: int = COUNT) -> np.ndarray:
    """(K,) standard deviations, so that the first mode moves vertices by 3 mm, and the others less."""
    return 3 * np.sqrt(count) / np.arange(1, modes + 1)


def ours(values: np.ndarray) -> np.ndarray:
    """(..., V, 3) in the project's axes, of (..., V, 3) or (3V, K) in the files' axes, both in millimetres."""
    values = values if values.shape[-1] == 3 else values.T.reshape(values.shape[1], -1, 3)
    return values * (1.0, -1.0, -1.0)


def crop() -> np.ndarray:
    """The vertices that the toy's Deep3D keeps: all but the uppermost row, in an order of their own."""
    return np.random.default_rng(5).permutation(np.arange(COLUMNS, COUNT))


def crop_faces() -> np.ndarray:
    """(F, 3) from 0, in the numbers of `crop`, counter-clockwise as seen from outside."""
    number = np.full(COUNT, -1)
    number[crop()] = np.arange(len(crop()))
    rows = number[faces()]
    return rows[(rows >= 0).all(1)]


def crop_landmarks() -> np.ndarray:
    """(68,) in the numbers of `crop`."""
    number = np.full(COUNT, -1)
    number[crop()] = np.arange(len(crop()))
    return number[landmarks()]


def deep3d_indices() -> dict[str, np.ndarray]:
    """The index tables of Deep3D for the toy, counted from 1 and in float32, as theirs."""
    random, kept = np.random.default_rng(6), crop()
    # Expressions know all but ten vertices of the uppermost row, in an order of their own.
    middle = random.permutation(np.arange(10, COUNT))
    position = np.empty(COUNT, int)
    position[middle] = np.arange(len(middle))
    front = random.permutation(np.flatnonzero(np.abs(shape()[kept, 0]) <= 40))
    local = np.full(len(kept), -1)
    local[front] = np.arange(len(front))
    rows = local[crop_faces()]
    tables = {
        "trimIndex": middle[:, None] + 1,
        "idx": position[kept][:, None] + 1,
        "select_id": kept[:, None] + 1,
        "tri": crop_faces() + 1,
        "keypoints": crop_landmarks()[None] + 1,
        "frontmask2_idx": front[:, None] + 1,
        "tri_mask2": rows[(rows >= 0).all(1)] + 1,
        "skinmask": (np.arange(len(kept)) % 3 == 0)[None],
    }
    return {name: table.astype(np.float32) for name, table in tables.items()}


def write_deep3d(folder, **changes) -> None:
    """BFM_model_front.mat of the toy: decimetres, 0...255, bases per standard deviation, numbers from 1 as floats."""
    from scipy.io import savemat

    kept, tables = crop(), deep3d_indices()
    rows = (3 * kept[:, None] + np.arange(3)).ravel()
    content = {
        "meanshape": shape().reshape(1, -1)[:, rows] / 100,
        "meantex": np.full((1, len(rows)), 128.0),
        "idBase": (unit_basis(80, 1) * deviations(80))[rows] / 100,
        "exBase": (unit_basis(64, 2) * deviations(64))[rows] / 100,
        "texBase": (unit_basis(80, 3) * deviations(80))[rows] * 4,
        **{name: tables[name] for name in ("tri", "keypoints", "frontmask2_idx", "tri_mask2", "skinmask")},
    }
    content = {name: np.asarray(array, np.float32) for name, array in (content | changes).items() if array is not None}
    savemat(folder / "BFM_model_front.mat", content)
