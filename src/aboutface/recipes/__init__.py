"""What is trained with what: one command each. `aboutface train METHOD --data DIR`."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UsageError
from ..files import atomic_path

METHODS = ("mean-head", "depthnet")
"""In this order: DepthNet's gauge is fixed against the mean head."""


def train(
    method: str, data: Path, output: Path | None = None, log: Callable[[str], None] = print
) -> tuple[Path, dict[str, float]]:
    """Train a method from the data folder; the weight file written (fp16 safetensors) and its scores.

    Raises UsageError for an unknown method or where the folder lacks a file.
    """
    # Late: training needs parts that `aboutface --help` does not.
    from .depthnet import DepthNetTraining, train_depthnet
    from .mean_head import train_mean_head

    output = output or Path("runs") / method.replace("-", "_") / f"{method.replace('-', '_')}.safetensors"
    if method == "mean-head":
        head = train_mean_head(Path(data))
        tensors = {"radius": head.radius, "heights": head.heights, "landmarks": head.landmarks}
        scores: dict[str, float] = {"rows": float(len(head.heights))}
        settings: dict[str, Any] = {"rows": head.radius.shape[0], "columns": head.radius.shape[1], "seed": 0}
    elif method == "depthnet":
        training = DepthNetTraining()
        net, scores = train_depthnet(Path(data), training, log=log)
        tensors = dict(net.state_dict())
        settings = asdict(net.settings) | asdict(training)
    else:
        raise UsageError(f"train: unknown method {method!r}; there are: {', '.join(METHODS)}")
    _save(output, tensors, {"settings": settings, "scores": scores})
    return output, scores


def _save(path: Path, tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    from safetensors.torch import save

    half = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as part:
        part.write_bytes(save(half, metadata={"card": json.dumps(card)}))
