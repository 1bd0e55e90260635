"""Results kept as long as the tensor from which they were made lives."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

Result = TypeVar("Result")


def per_tensor(function: Callable[[Tensor], Result]) -> Callable[[Tensor], Result]:
    """Make `function` remember its result for a tensor until the tensor dies or is written to."""
    known: WeakIdKeyDictionary = WeakIdKeyDictionary()

    @wraps(function)
    def remembering(tensor: Tensor) -> Result:
        if tensor.is_inference():  # has no version that would tell whether it was written to
            return function(tensor)
        found: tuple[int, Result] | None = known.get(tensor)
        if found is None or found[0] != tensor._version:
            found = tensor._version, function(tensor)
            known[tensor] = found
        return found[1]

    return remembering
