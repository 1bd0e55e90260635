"""The loop in which springs come to rest."""

import numba
import numpy as np


@numba.njit(cache=True)
def relax(
    places: np.ndarray,
    first: np.ndarray,
    neighbours: np.ndarray,
    springs: np.ndarray,
    free: np.ndarray,
    sweeps: int,
    over: float,
) -> None:
    """Move free places (V, 2) in turn, each `over` times the way to where its springs are in balance.

    Vertex v hangs on `neighbours` and `springs` from `first[v]` to `first[v + 1]`.
    """
    for _ in range(sweeps):
        for v in range(len(places)):
            if not free[v]:
                continue
            x = y = total = 0.0
            for k in range(first[v], first[v + 1]):
                x += springs[k] * places[neighbours[k], 0]
                y += springs[k] * places[neighbours[k], 1]
                total += springs[k]
            places[v, 0] += over * (x / total - places[v, 0])
            places[v, 1] += over * (y / total - places[v, 1])
