"""Pickles of model files, read without executing anything: only arrays and plain containers come out.

Beside arrays these hold two kinds of objects in which FLAME's files keep arrays (chumpy's, scipy's sparse ones); they
become arrays through stand-ins of our own, so that neither chumpy nor scipy is needed.
"""

from pathlib import Path
from typing import Any

import numpy as np

from .. import pickles
from ..pickles import Held, plain


def read_pickle(path: Path) -> Any:
    """What the file holds: dicts, lists, numbers, words and numpy arrays.

    Also of an .npy file whose array holds objects. Raises UsageError for a file that is no pickle, or asks for more.
    """
    return pickles.read_pickle(path, _STAND_INS, "a face model")


class _Chumpy(Held):
    """chumpy.ch.Ch: a constant array under "x"."""

    def array(self) -> np.ndarray:
        return np.asarray(plain(self.state["x"]), np.float64)


class _ChumpySelect(Held):
    """chumpy.reordering.Select: some numbers of another array, in a shape of their own."""

    def array(self) -> np.ndarray:
        chosen = np.asarray(plain(self.state["a"])).ravel()[np.asarray(plain(self.state["idxs"]), np.int64)]
        return chosen.reshape(self.state.get("preferred_shape", chosen.shape))


class _Sparse(Held):
    """scipy's compressed sparse matrix, by columns."""

    def shape(self) -> tuple[int, int]:
        rows, columns = self.state["_shape" if "_shape" in self.state else "shape"]
        return int(rows), int(columns)

    def array(self) -> np.ndarray:
        rows, columns = self.shape()
        values, places, starts = (np.asarray(self.state[name]) for name in ("data", "indices", "indptr"))
        dense = np.zeros((columns, rows), values.dtype)
        dense[np.repeat(np.arange(columns), np.diff(starts)), places] = values
        return dense.T


class _SparseRows(_Sparse):
    """The same by rows."""

    def array(self) -> np.ndarray:
        return super().array().T

    def shape(self) -> tuple[int, int]:
        rows, columns = super().shape()
        return columns, rows


_STAND_INS: dict[tuple[str, str], Any] = {
    ("chumpy.ch", "Ch"): _Chumpy,
    ("chumpy.reordering", "Select"): _ChumpySelect,
    ("chumpy.ch_ops", "Select"): _ChumpySelect,
    **{(f"scipy.sparse.{module}", "csc_matrix"): _Sparse for module in ("csc", "_csc")},
    **{(f"scipy.sparse.{module}", "csr_matrix"): _SparseRows for module in ("csr", "_csr")},
    ("scipy.sparse._csc", "csc_array"): _Sparse,
    ("scipy.sparse._csr", "csr_array"): _SparseRows,
}
