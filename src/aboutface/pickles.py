"""Pickles read without executing anything: only arrays, plain containers and stand-ins for named objects come out.

A pickle is a program. Here it may call nothing but what makes numpy arrays and tensors (which become arrays), and what
the caller lists: stand-ins of our own for objects of other codes, so that those need not be installed.
"""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UsageError
from .files import reason

Allowed = Mapping[tuple[str, str], Any]
"""(module, name) that a pickle may ask for -> what it gets."""


def read_pickle(path: Path, allowed: Allowed, use: str) -> Any:
    """What the file holds: dicts, lists, numbers, words, numpy arrays, and the stand-ins of `allowed`.

    Also of an .npy file whose array holds objects. Stand-ins that are `Held` become arrays.

    Args:
        use: what the file is for, as in "which a face model does not need".

    Raises UsageError for a file that is no pickle, or asks for more.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
                return _read_npy(path, allowed, use)
            file.seek(0)
            return plain(_Reader(file, allowed, use).load())
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    # A damaged pickle makes the reader stumble in every way there is; none of them can do harm.
    except Exception as error:
        raise UsageError(f"{path}: cannot be read as a pickle ({reason(error)}); get the file anew") from None


class Held:
    """Stand-in for an object that holds an array: its state, until `array` makes the array of it."""

    def __init__(self, *given: Any) -> None:
        self.given, self.state = given, {}

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        raise NotImplementedError


def _rebuilt(cls: type, base: type, state: Any) -> Any:
    """What protocol 2 of Python 2 calls for an object of a class, here of stand-ins only."""
    if not (isinstance(cls, type) and issubclass(cls, Held)) or base is not object:
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
_ARRAYS: dict[tuple[str, str], Any] = {
    **{(module, "_reconstruct"): np._core.multiarray._reconstruct for module in _MULTIARRAY},  # pyright: ignore
    **{(module, "scalar"): np._core.multiarray.scalar for module in _MULTIARRAY},  # pyright: ignore
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
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
    def __init__(self, file: Any, allowed: Allowed, use: str) -> None:
        # Python 2 wrote bytes where text was meant, and arrays as such bytes: latin1 keeps both.
        super().__init__(file, encoding="latin1", fix_imports=False)
        self.allowed, self.use = {**_ARRAYS, **allowed}, use

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.allowed[module, name]
        except KeyError:
            raise UsageError(
                f"asks for {module}.{name}, which {self.use} does not need; a pickle can execute anything, "
                "so it was not read; get the file anew from the model's own site"
            ) from None


def _read_npy(path: Path, allowed: Allowed, use: str) -> Any:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if not dtype.hasobject:
            return np.load(path, allow_pickle=False)
        held = plain(_Reader(file, allowed, use).load())
        return held.item() if shape == () and isinstance(held, np.ndarray) else held


def plain(value: Any) -> Any:
    """The same with all stand-ins that hold arrays made arrays."""
    if isinstance(value, Held):
        return value.array()
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    if isinstance(value, np.ndarray) and value.dtype == object:
        # One by one: numpy would take entries that are arrays apart.
        entries = np.empty(value.size, object)
        for i, entry in enumerate(value.ravel()):
            entries[i] = plain(entry)
        return entries.reshape(value.shape)
    return value
