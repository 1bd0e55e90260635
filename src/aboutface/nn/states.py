"""Weight files that others wrote: named tensors, and nothing in them is executed."""

import pickle
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UsageError
from ..files import reason


def read_state(file: Path, what: str) -> dict[str, Tensor]:
    """Named tensors of a PyTorch file (.pth) or a .safetensors; `what` says in errors whose they should be.

    Raises UsageError where it cannot be read, or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        EOFError,
        AttributeError,
        pickle.UnpicklingError,
        SafetensorError,
    ) as error:
        # Of a file that is no pickle, torch names the first bytes as a number.
        why = "no PyTorch file" if isinstance(error, KeyError) else reason(error)[:120]
        raise UsageError(
            f"{file}: cannot be read as the weights of {what} ({why}); give its .pth or .safetensors file"
        ) from None
    if not isinstance(stored, dict):
        raise UsageError(f"{file}: expected the named tensors of {what}, found {type(stored).__name__}")
    return stored
