"""GAN2Shape from stage to stage: told as it goes, kept after every step, gone on with after any interruption."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DivergedError, UsageError
from ..files import atomic_path
from ..fit import FitSettings, Run, TensorBatches, find_device, fit
from ..generate.load import Gan
from ..images import to_pixels, write_image
from ..nn.perceptual import perceptual_features
from ..weights import info
from .gan2shape import GAN2Shape, Target
from .gan2shape_priors import default_box, object_box, prior_depth
from .gan2shape_schedule import Schedule
from .gan2shape_sheet import sheet
from .gan2shape_steps import (
    AlbedoStep,
    EncoderStep,
    Features,
    Material,
    PriorStep,
    ProjectionStep,
    RefineStep,
    Step,
    collect,
    collect_stock,
    prepare,
)

ATTEMPTS = 3
"""Restarts of one stage before giving up."""
SLOWER = 0.3
"""Each with so much of the rate before."""
REPORTS = 50
"""Of progress, per step."""
STEPS = ("first shape", "albedo", "projection", "all factors")
Position = tuple[int, int]
"""Stage and step. (0, 0) is the first shape, (0, 1) the encoder's first lesson; then stages and steps count from 1."""
BEGUN = (0, 1)
"""What must be done before the first stage."""
NOTHING = (-1, 0)


@dataclass(frozen=True, eq=False)
class Progress:
    """Where the work stands."""

    stage: int
    """0 while the first shape is made, then 1 to `stages`."""
    stages: int
    step: int
    """1 albedo, 2 projection, 3 all factors; before the stages 0 for the first shape, 1 for the encoder."""
    iteration: int
    iterations: int
    """Done, and in all, of this step."""
    loss: float | None = None
    note: str = ""
    """What a person should know: a restart, for example."""
    preview: Tensor | None = None
    """(3, H, W) in [0, 1]: a sheet of what a stage has left, rows as `gan2shape_sheet` names them."""

    def line(self) -> str:
        """For people who wait."""
        if self.note:
            return self.note
        where = f"stage {self.stage}/{self.stages}, {STEPS[self.step]}"
        if self.stage == 0:
            where = "encoder" if self.step else STEPS[0]
        loss = "" if self.loss is None else f", loss {self.loss:.4f}"
        return f"{where} {self.iteration}/{self.iterations}{loss}"


def optimise(
    model: GAN2Shape,
    gan: Gan,
    targets: Sequence[Target],
    schedule: Schedule,
    *,
    run: Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    device: str = "auto",
    seed: int = 0,
) -> GAN2Shape:
    """Fit the model, in place, to targets: one, or many at once (joint pre-training). Returns it in evaluation mode, on
    `device`.

    run: a folder. The model is kept there after every step, with sheets of every stage; called again with the same
    model, targets, schedule and seed, work goes on where it was interrupted (SIGINT and SIGTERM write a checkpoint at
    the end of the iteration). Without it nothing is written.
    A loss that is not finite restarts the stage from the last good one at a smaller rate, a few times, and says so.
    Raises UsageError, before any work, for targets, masks or a generator that do not fit, and for a folder with another
    run; DivergedError where restarts did not help.
    """
    place = find_device(device)
    model.to(place)
    gan.generator.to(place)
    if gan.discriminator is not None:
        gan.discriminator.to(place)
    material = prepare(model, gan, list(targets), schedule.masked, place)
    prior = None if schedule.prior is None else first_shape(model, targets, schedule)
    journal = Journal(run, model, _key(model, gan, material, _masks(targets), schedule, seed))
    work = _Work(model, gan, material, schedule, journal, progress, device, seed)
    work.go(prior)
    return model.eval()


def first_shape(model: GAN2Shape, targets: Sequence[Target], schedule: Schedule) -> Tensor:
    """The prior (S, S) about the targets' mean mask; about the middle of the image where none has a mask.

    Raises UsageError for a mask that is empty, or covers nothing that most targets share.
    """
    masks = _masks(targets)
    size = model.size
    box = object_box(torch.stack(masks).mean(0), schedule.category) if masks else default_box(size, schedule.category)
    return prior_depth(size, box, schedule.prior or "ellipsoid", schedule.category)


def _masks(targets: Sequence[Target]) -> list[Tensor]:
    """Those (S, S) that there are."""
    return [target.mask.float().cpu() for target in targets if target.mask is not None]


class _Work:
    """One call of `optimise`."""

    def __init__(
        self,
        model: GAN2Shape,
        gan: Gan,
        material: Material,
        schedule: Schedule,
        journal: "Journal",
        progress: Callable[[Progress], None],
        device: str,
        seed: int,
    ) -> None:
        self.model, self.gan, self.material, self.schedule = model, gan, material, schedule
        self.journal, self.progress, self.device, self.seed = journal, progress, device, seed
        self.features: Features | None = None
        if schedule.losses.perceptual:
            self.features = perceptual_features(schedule.features, info("vgg16").path).to(material.images.device)

    def go(self, prior: Tensor | None) -> None:
        stages = len(self.schedule.stages)
        for stage in range(stages + 1):
            self._stage(stage, prior)

    def _stage(self, stage: int, prior: Tensor | None) -> None:
        """A stage, again and slower as long as it diverges."""
        while True:
            try:
                if stage == 0:
                    self._first_shape(prior)
                    self._first_lesson()
                else:
                    self._three_steps(stage)
                return
            except DivergedError as error:
                if self.journal.attempts == ATTEMPTS:
                    raise DivergedError(
                        f"gan2shape: stage {stage} diverged {ATTEMPTS + 1} times, last at {self.journal.rate:.3g} of "
                        f"its rate ({error}); take a smaller learning rate, or other targets"
                    ) from error
                self.journal.restart(stage)
                self._note(
                    stage, f"stage {stage} diverged ({error}); it starts again at {self.journal.rate:.3g} of its rate"
                )

    def _first_shape(self, prior: Tensor | None) -> None:
        if self.journal.done((0, 0)):
            return
        net = self.model.net
        if prior is not None and net.settings.mean:
            # A learned mean takes any shape at once; what is each image's own begins as little.
            prior = prior.to(net.K.device)
            net.start_from_depth(prior)
            with torch.no_grad():
                net.mean_depth.zero_()
                last = next(layer for layer in reversed(net.depth_net.layers) if isinstance(layer, torch.nn.Conv2d))
                last.weight.mul_(0.1)
        elif prior is not None:
            self._fit((0, 0), PriorStep(prior.to(net.K.device), *self._common((0, 0))), self.schedule.prior_steps)
        self.journal.keep((0, 0))

    def _first_lesson(self) -> None:
        if self.journal.done(BEGUN):
            return
        if self.schedule.encoder_steps:
            step = EncoderStep(self.gan, self.schedule.batch, *self._common(BEGUN))
            self._fit(BEGUN, step, self.schedule.encoder_steps)
        self.journal.keep(BEGUN)

    def _three_steps(self, number: int) -> None:
        s, stage, model = self.schedule, self.schedule.stages[number - 1], self.model
        samples = s.batch
        first, second, third = ((number, step) for step in (1, 2, 3))
        if self.journal.done(third):
            return
        if not self.journal.done(first):
            self._fit(first, AlbedoStep(self.features, stage.flip_albedo, *self._common(first)), stage.albedo)
            self.journal.keep(first)
        stock = collect_stock(model, self.material, s.lights, s.yaw_scale)
        if not self.journal.done(second):
            step = ProjectionStep(self.gan, stock, samples, *self._common(second))
            self._fit(second, step, stage.projection)
            self.journal.keep(second)
        # Of a step 3 that goes on these are the same as before: numbers are drawn anew from the same seed.
        with _seeded(self._seed(second) + 4, self.material.images.device):
            collection = collect(model, self.gan, self.material, stock, s.samples)
        self._fit(
            third, RefineStep(self.features, stage.flip, collection, samples, *self._common(third)), stage.refinement
        )
        self.journal.keep(third)
        with _seeded(self.seed, self.material.images.device):
            picture = sheet(model, self.gan, self.material, stock)
        self.journal.picture(number, picture)
        lengths = (stage.refinement, stage.refinement)
        self.progress(Progress(number, len(s.stages), 3, *lengths, preview=picture))

    def _common(self, position: Position) -> tuple[Any, ...]:
        """The arguments that all steps take."""
        s = self.schedule
        rate = (s.encoder_rate if position == BEGUN or position[1] == 2 else s.learning_rate) * self.journal.rate
        before = {(0, 0): s.prior_steps, BEGUN: s.encoder_steps}
        length = before[position] if position in before else int(s.stages[position[0] - 1][position[1] - 1])

        def report(iteration: int, loss: float) -> None:
            self.progress(Progress(position[0], len(s.stages), position[1], iteration, length, loss))

        return self.model, self.material, s.losses, rate, s.weight_decay, report, max(1, length // REPORTS)

    def _fit(self, position: Position, step: Step, iterations: int) -> None:
        """Fresh optimisers for every step, as published."""
        count = len(self.material)
        seed = self._seed(position)
        batches = TensorBatches({"target": torch.arange(count)}, min(self.schedule.targets, count), seed)
        settings = FitSettings(
            steps=iterations,
            device=self.device,
            seed=seed,
            log_every=iterations,
            preview_every=0,
            keep=1,
            checkpoint_minutes=2.0,
        )
        fit(step, batches, settings, self.journal.run(position), log=lambda _: None)

    def _seed(self, position: Position) -> int:
        return (self.seed * 7919 + self.journal.attempts * 1000 + position[0] * 10 + position[1]) % (2**31 - 10)

    def _note(self, stage: int, text: str) -> None:
        self.progress(Progress(stage, len(self.schedule.stages), 0, 0, 0, note=f"gan2shape: {text}"))


class Journal:
    """What is done, and the model as it then was: in a folder, or in memory without one.

    The folder holds the weights after the newest step and after the last whole stage (stage2-step3.safetensors), the
    checkpoints of the step that is under way, sheets, and progress.json.
    """

    def __init__(self, folder: Path | None, model: GAN2Shape, key: str) -> None:
        """key: tells this work from any other. Raises UsageError for a folder with another one's."""
        self.folder, self.model, self.key = folder, model, key
        self.attempts, self.rate = 0, 1.0
        self.begin = _copy(model)
        self.good = self.begin
        self.newest: Position = NOTHING
        if folder is not None and (folder / "progress.json").is_file():
            self._go_on(folder)
        elif folder is not None:
            self._note(folder)

    def done(self, position: Position) -> bool:
        return position <= self.newest

    def keep(self, position: Position) -> None:
        """The step is done. Raises DivergedError where it left weights that are not finite."""
        if not all(bool(tensor.isfinite().all()) for tensor in self.model.state_dict().values()):
            raise DivergedError(f"the weights after step {position[1]} are no longer finite")
        self.newest = position
        if position == _last_whole(position):
            self.good, self.attempts, self.rate = _copy(self.model), 0, 1.0
        if self.folder is None:
            return
        with atomic_path(self.folder / f"{_name(position)}.safetensors") as part:
            from safetensors.torch import save

            part.write_bytes(save({name: tensor.contiguous() for name, tensor in _copy(self.model).items()}))
        self._note(self.folder)
        shutil.rmtree(self.folder / _name(position), ignore_errors=True)
        whole = _last_whole(position)
        for file in self.folder.glob("stage*-step*.safetensors"):
            if file.stem not in (_name(position), _name(whole)):
                file.unlink(missing_ok=True)

    def restart(self, stage: int) -> None:
        """Back to the end of the stage before, and slower."""
        self.attempts += 1
        self.rate *= SLOWER
        self.newest = _before(stage)
        self.model.load_state_dict(self.good)
        if self.folder is None:
            return
        # First what says where the work stands: a kill in between leaves files too many, not too few.
        self._note(self.folder)
        for step in range(4):
            shutil.rmtree(self.folder / _name((stage, step)), ignore_errors=True)
            (self.folder / f"{_name((stage, step))}.safetensors").unlink(missing_ok=True)

    def run(self, position: Position) -> Run | None:
        """Where `fit` keeps checkpoints of the step."""
        if self.folder is None:
            return None
        folder = self.folder / _name(position)
        folder.mkdir(parents=True, exist_ok=True)
        return Run(folder, bar=False, board=False)

    def picture(self, stage: int, picture: Tensor) -> None:
        if self.folder is not None:
            write_image(self.folder / f"stage{stage}.png", to_pixels(picture[None]))

    def _note(self, folder: Path) -> None:
        state = {"key": self.key, "newest": self.newest, "attempts": self.attempts, "rate": self.rate}
        with atomic_path(folder / "progress.json") as part:
            part.write_text(json.dumps(state), "utf-8")

    def _go_on(self, folder: Path) -> None:
        try:
            state = json.loads((folder / "progress.json").read_text("utf-8"))
            key, self.newest = state["key"], (int(state["newest"][0]), int(state["newest"][1]))
            self.attempts, self.rate = int(state["attempts"]), float(state["rate"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{folder / 'progress.json'}: is damaged ({error}); remove the folder") from None
        if key != self.key:
            raise UsageError(
                f"{folder}: holds the work on other targets, or with other settings; give another folder, or remove it"
            )
        if self.newest == NOTHING:
            return
        whole = _last_whole(self.newest)
        if whole != NOTHING:
            self.good = self._read(folder, whole)
        self.model.load_state_dict(self._read(folder, self.newest))

    def _read(self, folder: Path, position: Position) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        file = folder / f"{_name(position)}.safetensors"
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{file}: cannot be read ({error}); remove the folder and begin anew") from None


def _last_whole(position: Position) -> Position:
    """The end of the last whole stage, at or before a position; nothing is whole before the first shape."""
    return position if position == BEGUN or position[1] == 3 else _before(position[0])


def _before(stage: int) -> Position:
    """The end of the stage before."""
    if stage == 0:
        return NOTHING
    return (stage - 1, 3) if stage > 1 else BEGUN


def _name(position: Position) -> str:
    return f"stage{position[0]}-step{position[1]}"


def _copy(model: GAN2Shape) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _key(model: GAN2Shape, gan: Gan, material: Material, masks: list[Tensor], schedule: Schedule, seed: int) -> str:
    """Tells work apart: the model as it is at the start is not part of it, for it changes as the work goes on.

    masks: (S, S) each, of the targets that have one.
    """
    digest = hashlib.sha256(repr((model.settings, gan.generator.settings, schedule, seed)).encode())
    # Not the generator's pictures: another number of threads, or another device, changes their last bits.
    for tensor in (material.images, material.w, *masks, *gan.generator.state_dict().values()):
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


class _seeded:
    """Random numbers in the block start from a seed; afterwards they go on as if it had not been."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed = seed
        self.fork = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])

    def __enter__(self) -> None:
        self.fork.__enter__()
        torch.manual_seed(self.seed)

    def __exit__(self, *error: Any) -> None:
        self.fork.__exit__(*error)


__all__ = ["Journal", "Progress", "first_shape", "optimise"]
