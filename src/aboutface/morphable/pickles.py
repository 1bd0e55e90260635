"""Pickles of model files, read without executing anything: only arrays and plain containers come out.

A pickle is a program. Here it may call nothing but what makes numpy arrays, the two kinds of objects in which FLAME's
files keep arrays (chumpy's, scipy's sparse ones), and the tensors of a landmark file; these three become arrays through
stand-ins of our own, so that neither chumpy nor scipy is needed.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..files import reason


def read_pickle(path: Path) -> Any:
    """What the file holds: dicts, lists, numbers, words and numpy arrays.

    Also of an .npy file whose array holds objects. Raises UsageError for a file that is no pickle, or asks for more.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
                return _read_npy(path)
            file.seek(0)
            return _plain(_Reader(file).load())
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    # A damaged pickle makes the reader stumble in every way there is; none of them can do harm.
    except Exception as error:
        raise UsageError(f"{path}: cannot be read as a pickle ({reason(error)}); get the file anew") from None


class _Held:
    """Stand-in for an object that holds an array: its state, until `_plain` makes the array of it."""

    def __init__(self, *given: Any) -> None:
        self.given, self.state = given, {}

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        raise NotImplementedError


class _Chumpy(_Held):
    """chumpy.ch.Ch: a constant array under "x"."""

    def array(self) -> np.ndarray:
        return np.asarray(_plain(self.state["x"]), np.float64)


class _ChumpySelect(_Held):
    """chumpy.reordering.Select: some numbers of another array, in a shape of their own."""

    def array(self) -> np.ndarray:
        chosen = np.asarray(_plain(self.state["a"])).ravel()[np.asarray(_plain(self.state["idxs"]), np.int64)]
        return chosen.reshape(self.state.get("preferred_shape", chosen.shape))


class _Sparse(_Held):
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


def _rebuilt(cls: type, base: type, state: Any) -> Any:
    """What protocol 2 of Python 2 calls for an object of a class, here of stand-ins only."""
    if not (isinstance(cls, type) and issubclass(cls, _Held)) or base is not object:
        raise UsageError("asks for an object that is not a plain array; get the file anew")
    return cls()


def _encoded(text: str, encoding: str = "utf-8") -> bytes:
    """How Python 3 writes bytes for older readers."""
    if encoding != "latin1":
        raise UsageError(f"asks for the encoding {encoding!r}; get the file anew")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How Python 3 writes the empty bytes for older readers."""
    return b""


def _storage(content: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    import torch

    return torch.empty(0, dtype=storage.dtype).set_(storage, offset, size, stride).numpy()


_MULTIARRAY = [f"numpy{core}.multiarray" for core in (".core", "._core")]
_ALLOWED: dict[tuple[str, str], Any] = {
    **{(module, "_reconstruct"): np._core.multiarray._reconstruct for module in _MULTIARRAY},  # pyright: ignore
    **{(module, "scalar"): np._core.multiarray.scalar for module in _MULTIARRAY},  # pyright: ignore
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("chumpy.ch", "Ch"): _Chumpy,
    ("chumpy.reordering", "Select"): _ChumpySelect,
    ("chumpy.ch_ops", "Select"): _ChumpySelect,
    **{(f"scipy.sparse.{module}", "csc_matrix"): _Sparse for module in ("csc", "_csc")},
    **{(f"scipy.sparse.{module}", "csr_matrix"): _SparseRows for module in ("csr", "_csr")},
    ("scipy.sparse._csc", "csc_array"): _Sparse,
    ("scipy.sparse._csr", "csr_array"): _SparseRows,
    ("copy_reg", "_reconstructor"): _rebuilt,
    ("copyreg", "_reconstructor"): _rebuilt,
    ("__builtin__", "object"): object,
    ("builtins", "object"): object,
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): _no_bytes,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
}


class _Reader(pickle.Unpickler):
    def __init__(self, file: Any) -> None:
        # Python 2 wrote bytes where text was meant, and arrays as such bytes: latin1 keeps both.
        super().__init__(file, encoding="latin1", fix_imports=False)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UsageError(
                f"asks for {module}.{name}, which a face model does not need; a pickle can execute anything, "
                "so it was not read; get the file anew from the model's own site"
            ) from None


def _read_npy(path: Path) -> Any:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if not dtype.hasobject:
            return np.load(path, allow_pickle=False)
        held = _plain(_Reader(file).load())
        return held.item() if shape == () and isinstance(held, np.ndarray) else held


def _plain(value: Any) -> Any:
    """The same with all stand-ins made arrays."""
    if isinstance(value, _Held):
        return value.array()
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    if isinstance(value, np.ndarray) and value.dtype == object:
        # One by one: numpy would take entries that are arrays apart.
        plain = np.empty(value.size, object)
        for i, entry in enumerate(value.ravel()):
            plain[i] = _plain(entry)
        return plain.reshape(value.shape)
    return value
