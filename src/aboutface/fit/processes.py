"""The processes that train together: one, or those that `torchrun` started."""

import atexit
import os
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError, need


class OneProcess:
    """Training alone. What several processes do together is nothing here."""

    rank = 0
    count = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers."""
        return number

    def shared(self, value: Any) -> Any:
        """The value of rank 0. Tensors in it should be on the CPU."""
        return value

    def gathered(self, value: Any) -> list[Any]:
        """The values of all, by rank."""
        return [value]


class TorchrunProcesses(OneProcess):
    """Data parallel under `torchrun`, by Lightning Fabric.

    Gradients are averaged as one flat tensor when a phase has gone backward, without the wrapper of
    DistributedDataParallel: that expects one forward and one backward of the whole module, while phases go through
    parts of it, some of them twice, and accumulate.
    """

    def __init__(self, device: torch.device) -> None:
        fabric = need("lightning_fabric", "train").Fabric(
            accelerator=device.type,
            strategy="ddp",
            devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        )
        fabric.launch()
        # Fabric does so for NCCL only, and gloo's threads abort a process that ends before they have.
        atexit.register(_leave)
        super().__init__(fabric.device)
        self.fabric, self.rank, self.count = fabric, fabric.global_rank, fabric.world_size

    def average(self, tensors: list[Tensor]) -> None:
        if not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        flat = self.fabric.all_reduce(flat, reduce_op="mean")
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    def largest(self, number: int) -> int:
        return int(self.fabric.all_reduce(torch.tensor(number, device=self.device), reduce_op="max"))

    def shared(self, value: Any) -> Any:
        return self.fabric.broadcast(value)

    def gathered(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def start_processes(device: str) -> OneProcess:
    """The processes of this training, on "auto" (cuda, else mps, else cpu), "cpu", "cuda", "cuda:1" or "mps".

    Raises UsageError for a device that is unknown or not there, MissingError under `torchrun` without the train extra.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return OneProcess(find_device(device))
    if device == "auto" and not torch.cuda.is_available():
        device = "cpu"
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device: torchrun gives every process its own; expected auto, cpu or cuda, got {device}")
    return TorchrunProcesses(find_device(device))


def find_device(name: str) -> torch.device:
    """The device of a name that `start_processes` takes. Raises UsageError where it is unknown or not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, present in there.items() if present)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device: expected auto, cpu, cuda, cuda:1 or mps, got {name}") from None
    if not there.get(device.type) or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"--device: there is no {name} here; use auto or cpu")
    return device
