"""The loop. `fit` prepares, `_train` goes round, and `Training.advance` is one step."""

import signal
import time
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from ..errors import AboutfaceError, UsageError
from ..files import reason
from .checkpoint import read_checkpoint
from .processes import start_processes
from .randomness import deterministic_on_cpu, random_state, random_state_kept, seed_all, set_random_state
from .record import Recorder
from .run import Log, Run
from .settings import FitSettings
from .signals import WRITE, Requests, requests
from .task import Batches, Task
from .training import Training, modes_kept

SomeTask = TypeVar("SomeTask", bound=Task)


@dataclass(frozen=True)
class Fitted(Generic[SomeTask]):
    """What training leaves."""

    task: SomeTask
    """With the trained weights, on the device of the training."""
    averaged: SomeTask
    """With the moving average of the weights, in evaluation mode; the task itself where the settings ask for none."""
    step: int
    """Steps done, those before a resume included."""
    terms: dict[str, float]
    """The last means logged, by `phase/name`; empty where there was nothing left to do."""


def fit(
    task: SomeTask,
    batches: Batches,
    settings: FitSettings | None = None,
    run: Run | None = None,
    *,
    log: Log = print,
) -> Fitted[SomeTask]:
    """Train `task` on `batches`, going on from the newest checkpoint of `run` where there is one.

    batches: at its first position; each batch is moved to the device of the settings. run: the folder to write into;
    None writes no file, and leaves signals alone. Random numbers of the caller are as before afterwards.
    SIGINT and SIGTERM write a checkpoint at the end of the step and then act as they would have without `fit`; a second
    SIGINT acts at once. SIGUSR1 writes a checkpoint, and training goes on.
    Raises DivergedError at the first loss, term or gradient that is not finite; AboutfaceError where the GPU's memory
    is full; UsageError for a checkpoint that does not fit the task; OutputError for a folder that cannot be written.
    """
    settings = settings or FitSettings()
    processes = start_processes(settings.device)
    log = log if processes.rank == 0 else _silent
    with random_state_kept(), modes_kept(task), deterministic_on_cpu(processes.device):
        seed_all(settings.seed + processes.rank)
        training = Training(task, batches, settings, processes)
        example = _example(training, run)
        seconds = _begin(training, run, log)
        size = batches.size * settings.accumulate
        own_run = run if processes.rank == 0 else None
        with (
            requests(run is not None) as asked,
            Recorder(own_run, settings, training.step, seconds, size, log) as record,
        ):
            stop = _train(training, run, asked, record, example)
    # One that came after the last look, while files were closed, is not lost.
    stop = max(stop, asked.take())
    if stop > WRITE:
        log(f"stopped at step {training.step}; --resume auto goes on from there")
        # To whoever listened before: KeyboardInterrupt, or the end of the process.
        signal.raise_signal(stop)
    return Fitted(task, cast(SomeTask, training.averaged), training.step, record.means)


def _train(training: Training, run: Run | None, asked: Requests, record: Recorder, example: Any) -> int:
    """Go round until all steps are done or a signal stops the run: the last request."""
    settings, processes = training.settings, training.processes
    written, request = time.monotonic(), 0
    while training.step < settings.steps and request <= WRITE:
        training.advance()
        step, last = training.step, training.step == settings.steps
        record.step_done(step)
        if step % settings.log_every == 0 or last:
            record.metrics(step, training.terms())
        if example is not None and (step % settings.preview_every == 0 or last):
            record.preview(step, training.preview(example))
        if run is not None:
            due = processes.rank == 0 and time.monotonic() - written >= settings.checkpoint_minutes * 60
            # All processes must agree, and of their clocks the first one's counts.
            request = processes.largest(max(asked.take(), WRITE if due else 0))
            if request or last:
                _save(training, run, record.seconds)
                written = time.monotonic()
    return request


def _example(training: Training, run: Run | None) -> Any:
    """The fixed batch of the image sheets; None where none are drawn."""
    drawn = type(training.task).preview is not Task.preview and training.settings.preview_every
    return training.example() if run is not None and drawn and training.processes.rank == 0 else None


def _begin(training: Training, run: Run | None, log: Log) -> float:
    """Go to where the run stands; seconds trained so far. A new run writes its first checkpoint."""
    processes = training.processes
    checkpoint = processes.shared(run.load(log) if run is not None and processes.rank == 0 else None)
    log(f"training {training.task.name} on {training.device}, {processes.count} process(es)")
    if checkpoint is not None:
        _go_on(training, checkpoint, log)
        if run is not None and processes.rank == 0:
            run.renew(log)
        left = training.settings.steps - training.step
        log(
            f"going on from step {training.step}" if left > 0 else f"nothing left to do: {training.step} steps are done"
        )
        return checkpoint["seconds"]
    if processes.count > 1:
        weights = training.task.state_dict()
        training.task.load_state_dict(processes.shared({name: tensor.cpu() for name, tensor in weights.items()}))
        if training.settings.ema:
            training.averaged.load_state_dict(training.task.state_dict())
    if run is not None:
        # So that a place that cannot be written, and a task that cannot be saved, show now and not after minutes.
        path = _save(training, run, 0.0)
        if path is not None:
            read_checkpoint(path)
    return 0.0


def _go_on(training: Training, checkpoint: dict[str, Any], log: Log) -> None:
    """Raises UsageError where anything in the checkpoint does not fit."""
    try:
        training.load_state_dict(checkpoint)
        _restore_random_state(checkpoint["random"], training, log)
    except AboutfaceError:
        raise
    except Exception as error:
        # Other networks, phases and kinds of values fail with RuntimeError, ValueError, KeyError, TypeError...
        raise UsageError(
            f"the checkpoint does not fit this {training.task.name} ({reason(error)[:200]}); "
            "take the settings that it was made with, or train anew"
        ) from error


def _restore_random_state(states: list[dict[str, Any]], training: Training, log: Log) -> None:
    processes = training.processes
    if len(states) != processes.count:
        log(f"the checkpoint is of {len(states)} process(es), here are {processes.count}: random numbers will differ")
    if processes.rank < len(states):
        set_random_state(states[processes.rank])
    else:
        # Not the numbers of step 0 again.
        seed_all(training.settings.seed + processes.rank + processes.count * training.step)


def _save(training: Training, run: Run, seconds: float) -> Any:
    """Write a checkpoint: its path, None where another process writes it."""
    states = training.processes.gathered(random_state())
    if training.processes.rank:
        return None
    return run.save({**training.state_dict(), "random": states, "seconds": seconds}, training.settings.keep)


def _silent(_: str) -> None:
    """Only the first process speaks."""
