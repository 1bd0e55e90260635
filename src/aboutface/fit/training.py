"""What a step is: `Training.advance`. Everything else here feeds it or takes it down."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..errors import AboutfaceError, UsageError
from .checkpoint import check_method
from .meter import Meter, check_weights
from .processes import OneProcess
from .randomness import random_state_kept
from .settings import FitSettings
from .task import Batches, Phase, Task


class Training:
    """Everything that changes while training, but for the random numbers."""

    def __init__(self, task: Task, batches: Batches, settings: FitSettings, processes: OneProcess) -> None:
        self.batches, self.settings, self.processes = batches, settings, processes
        self.device = processes.device
        self.task = task.to(self.device)
        if settings.channels_last:
            self.task.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.task.train()
        self.phases = task.phases()
        self.scalers = {name: GradScaler(self.device.type, enabled=self._half) for name in self.phases}
        self.meter = Meter()
        self.step = 0
        # Each process would otherwise keep the statistics of its own share, and the weights' buffers would differ.
        self.statistics = [tensor for module in task.modules() for tensor in _running_statistics(module)]
        self.averaged = task
        self._update_average: Callable[[], None] = _nothing
        if settings.ema:
            self._start_average()

    @property
    def _half(self) -> bool:
        return self.settings.precision == "float16"

    def advance(self) -> None:
        """One step: every phase that is due, on the same batches."""
        try:
            batches = [self._next_batch() for _ in range(self.settings.accumulate)]
            for name, phase in self.phases.items():
                if self.step % phase.every == 0:
                    self._optimise(name, phase, batches)
        except torch.OutOfMemoryError as error:
            raise AboutfaceError(
                f"step {self.step + 1}: the memory of {self.device} is full; take a smaller --batch and make up for it "
                "with --accumulate, or --precision bfloat16"
            ) from error
        if self.processes.count > 1:
            self.processes.average(self.statistics)
        self._update_average()
        self.step += 1

    def _optimise(self, name: str, phase: Phase, batches: list[Any]) -> None:
        """Loss, gradient, check, step of the optimiser."""
        parameters, scaler = phase.parameters, self.scalers[name]
        phase.optimiser.zero_grad(set_to_none=True)
        terms, values = self._backward(name, parameters, batches)
        if self.processes.count > 1:
            for parameter in parameters:
                # One process may have used a parameter that another has not, and all must average the same list.
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            self.processes.average([*(p.grad for p in parameters if p.grad is not None), values])
        scaler.unscale_(phase.optimiser)
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        limit = self.settings.clip if phase.clip is None else phase.clip
        if limit is not None:
            clip_grads_with_norm_(parameters, limit, norm)
        # The scaler meets infinite gradients by leaving out the step and scaling less: no reason to stop.
        shown = norm.nan_to_num(0.0, 0.0, 0.0) if self._half else norm
        values = torch.cat([values, shown.detach().to(values)[None]])
        self.meter.add(self.step, name, [*terms, "gradient_norm"], values)
        if self._step_optimiser(name, phase) and phase.schedule is not None:
            phase.schedule.step()

    def _backward(self, name: str, parameters: list[nn.Parameter], batches: list[Any]) -> tuple[list[str], Tensor]:
        """Gradients of the mean loss, and that loss and its terms (scaled by nothing)."""
        rows = []
        terms: dict[str, Tensor] = {}
        for batch in batches:
            with self._autocast():
                loss, terms = self.task.loss(name, batch, self.step)
            if loss.ndim:
                raise ValueError(f"loss of phase {name!r}: expected a scalar, got {tuple(loss.shape)}")
            share = loss / len(batches) if len(batches) > 1 else loss
            # Only the phase's parameters: others keep their gradient, and none is computed for them.
            self.scalers[name].scale(share).backward(inputs=parameters)
            rows.append(torch.stack([value.detach().float() for value in (loss, *terms.values())]))
        return ["loss", *terms], rows[0] if len(rows) == 1 else torch.stack(rows).mean(0)

    def _step_optimiser(self, name: str, phase: Phase) -> bool:
        """False where the scaler left the step out."""
        scaler = self.scalers[name]
        if not self._half:
            phase.optimiser.step()
            return True
        before = scaler.get_scale()
        scaler.step(phase.optimiser)
        scaler.update()
        if scaler.get_scale() < 1e-4:
            raise AboutfaceError(
                f"step {self.step + 1}, phase {name}: gradients overflow float16 however little the loss is scaled; "
                "the last good checkpoint is kept; use --precision bfloat16 or float32"
            )
        return scaler.get_scale() >= before

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.settings.precision))

    def _next_batch(self) -> Any:
        return to_device(next(self.batches), self.device, self.settings.channels_last)

    def example(self) -> Any:
        """The next batch. Neither the position nor the random numbers move."""
        with random_state_kept():
            position = deepcopy(self.batches.state_dict())
            batch = self._next_batch()
            self.batches.load_state_dict(position)
        return batch

    def preview(self, batch: Any) -> dict[str, Tensor]:
        """The task's sheets, with averaged weights where there are any. Training goes on as if nothing had been."""
        with random_state_kept(), modes_kept(self.averaged), torch.no_grad():
            return self.averaged.eval().preview(batch)

    def terms(self) -> dict[str, float]:
        """Means since the last call, and the learning rates."""
        rates = {
            f"{name}/learning_rate": float(phase.optimiser.param_groups[0]["lr"]) for name, phase in self.phases.items()
        }
        return self.meter.means() | rates

    def _start_average(self) -> None:
        """Weights that are frozen or not to be averaged, and data in buffers that are not saved, are not copied."""
        copied = {id(p) for phase in self.phases.values() if phase.averaged for p in phase.parameters}
        saved = {id(tensor) for tensor in self.task.state_dict(keep_vars=True).values()}
        copied |= {id(buffer) for buffer in self.task.buffers()} & saved
        shared = {id(t): t for t in (*self.task.parameters(), *self.task.buffers()) if id(t) not in copied}
        self.averaged = deepcopy(self.task, shared).eval()
        pairs = [
            (mean, now)
            for mean, now in zip(self.averaged.parameters(), self.task.parameters(), strict=True)
            if mean is not now
        ]
        means: list[Tensor] = [mean.requires_grad_(False) for mean, _ in pairs]
        nows: list[Tensor] = [now for _, now in pairs]
        update = get_ema_multi_avg_fn(self.settings.ema)

        def update_average() -> None:
            update(means, nows, 0)
            for mean, now in zip(self.averaged.buffers(), self.task.buffers(), strict=True):
                if mean is not now:
                    mean.copy_(now)

        self._update_average = update_average

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors. Raises AboutfaceError where something in it is not finite."""
        self.meter.drain()
        check_weights(self.step, [p for phase in self.phases.values() for p in phase.parameters])
        return {
            "method": self.task.name,
            "version": self.task.version,
            "step": self.step,
            "settings": asdict(self.settings),
            "task": self.task.state_dict(),
            "average": self.averaged.state_dict() if self.settings.ema else None,
            "optimisers": {name: phase.optimiser.state_dict() for name, phase in self.phases.items()},
            "schedules": {name: p.schedule.state_dict() for name, p in self.phases.items() if p.schedule},
            "scalers": {name: scaler.state_dict() for name, scaler in self.scalers.items()},
            "batches": self.batches.state_dict(),
            "meter": self.meter.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UsageError for the state of another method, and whatever torch raises for other networks or phases."""
        check_method(state, self.task.name, self.task.version, "the checkpoint")
        if (state.get("average") is None) == bool(self.settings.ema):
            raise UsageError(
                f"--ema: expected {state['settings']['ema']} as in the checkpoint, got {self.settings.ema}"
            )
        self.task.load_state_dict(state["task"])
        if self.settings.ema:
            self.averaged.load_state_dict(state["average"])
        for name, phase in self.phases.items():
            phase.optimiser.load_state_dict(state["optimisers"][name])
            if phase.schedule:
                phase.schedule.load_state_dict(state["schedules"][name])
            if self._half and state["scalers"][name]:
                self.scalers[name].load_state_dict(state["scalers"][name])
        self.batches.load_state_dict(state["batches"])
        self.meter.load_state_dict(state["meter"])
        self.step = state["step"]


def to_device(batch: Any, device: torch.device, channels_last: bool = False) -> Any:
    """The batch with its tensors on the device, those of four dimensions in channels-last order where asked for."""
    if isinstance(batch, Tensor):
        order = torch.channels_last if channels_last and batch.ndim == 4 else torch.preserve_format
        return batch.to(device, non_blocking=True, memory_format=order)
    if isinstance(batch, dict):
        return {key: to_device(value, device, channels_last) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        values = [to_device(value, device, channels_last) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    return batch


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Every part of the module is in training or evaluation mode after the block as it was before."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _running_statistics(module: nn.Module) -> list[Tensor]:
    """Means and variances that normalisation layers collect."""
    tensors = [getattr(module, name, None) for name in ("running_mean", "running_var")]
    return [tensor for tensor in tensors if isinstance(tensor, Tensor)]


def _nothing() -> None:
    """There is no average to update."""
