"""How soon GAN2Shape's shapes are right: SIDE against iterations, of the published schedule and of ours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import need
from ..files import atomic_path
from ..recipes.gan2shape import measured, train_gan2shape
from ..reconstruct.gan2shape import GAN2Shape
from ..reconstruct.gan2shape_run import Progress
from ..reconstruct.gan2shape_schedule import Schedule
from .synface_faces import Faces, Prediction, score
from .synface_gan2shape import NAME, TEACHER, Teaching, settings_for, targets_for, variants
from .synface_rows import Place, in_batches, trained_unsup3d, unsup3d_batch
from .tables import Table

COMPARED = (f"{NAME}-paper", NAME)
POINTS = 24
"""Of a curve, about; each is a test of all images that are scored."""
SCORED = 128
"""Of the test images, the first so many."""


@dataclass
class Curve:
    """A score against the iterations done, of all steps."""

    title: str
    iterations: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def reaches(self, value: float) -> int | None:
        """The first iteration with a score of at most `value`; None: never."""
        found = (done for done, one in zip(self.iterations, self.values, strict=True) if one <= value)
        return next(found, None)


def follow(curve: Curve, schedule: Schedule, points: int, value: Callable[[], float]) -> Callable[[Progress], None]:
    """What to call with progress, so that `curve` gets about `points` points: where the stages begin, evenly in their
    steps 3, which alone move the shape, and where they end."""
    every = max(1, schedule.iterations // points)

    def watch(progress: Progress) -> None:
        first = progress.stage == 1 and progress.step == 1 and not curve.iterations
        if progress.note or not (first or (progress.stage and progress.step == 3)):
            return
        stages = schedule.stages[: progress.stage]
        done = schedule.encoder_steps + sum(stage.iterations for stage in stages) - stages[-1].refinement
        done = schedule.encoder_steps if first else done + progress.iteration
        # The model's last update comes after the last report of its loss, and before the stage's sheet.
        ended = progress.iteration == stages[-1].refinement and not first
        if first or progress.preview is not None or (not ended and done - curve.iterations[-1] >= every):
            curve.iterations.append(done)
            curve.values.append(value())

    return watch


def side_of(model: GAN2Shape, faces: Faces, device: str) -> float:
    """Mean SIDE x 100 of what the model says of the images."""
    depth, valid, *_ = in_batches(model.net, faces.images, device, unsup3d_batch)
    return float(score(Prediction(depth, valid), faces)["side"].nanmean())


def measure_curves(
    teaching: Teaching, train: Faces, scored: Faces, place: Place, names: Sequence[str] = COMPARED
) -> list[Curve]:
    """Train these variants anew, beginning to end, and score them on the way. The truth of `scored` is only scored by.

    Not resumed: points of what was done before are gone.
    """
    gan = teaching.check()
    like = place.variants[TEACHER]
    statistics = measured(trained_unsup3d(TEACHER, train, 0, place).net, train.images, train.size, place.log)
    found = []
    for name in names:
        title, settings = variants(like.width, like.batch)[name]
        own = settings_for(settings, train.size, 0, place, teaching)
        curve = Curve(title)
        place.log(f"the curve of {name}")

        def value(model: GAN2Shape) -> float:
            return side_of(model, scored, place.device)

        targets = targets_for(own, gan, train, place)
        train_gan2shape(gan, targets, own, statistics, log=place.log, watch=_watch(curve, own.schedule, value))
        found.append(curve)
    return found


def _watch(
    curve: Curve, schedule: Schedule, value: Callable[[GAN2Shape], float]
) -> Callable[[GAN2Shape, Progress], None]:
    def watch(model: GAN2Shape, progress: Progress) -> None:
        follow(curve, schedule, POINTS, lambda: value(model))(progress)

    return watch


def curve_table(curves: Sequence[Curve]) -> Table:
    """Where each curve ends, and when it has reached what the first one ends with."""
    goal = curves[0].values[-1]
    rows = []
    for curve in curves:
        reached = curve.reaches(goal)
        share = "never" if reached is None else f"{reached}, {100 * reached / curves[0].iterations[-1]:.0f} %"
        cells = [f"{curve.values[0]:.3f}", str(curve.iterations[-1]), f"{curve.values[-1]:.3f}", share]
        rows.append([curve.title, *cells])
    return Table(
        "Schedules of GAN2Shape",
        ["schedule", "SIDE at first, 1e-2", "iterations", "SIDE at last, 1e-2", f"reaches {goal:.3f} after"],
        rows,
        ["Iterations of all steps; the share is of the first schedule's. As many images in each."],
    )


def draw_curves(curves: Sequence[Curve], file: Path) -> None:
    """A picture of them. Raises MissingError without matplotlib."""
    need("matplotlib", "train")
    from matplotlib.figure import Figure

    figure = Figure((6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for curve in curves:
        axes.plot(curve.iterations, curve.values, marker="o", markersize=3, label=curve.title)
    axes.axhline(curves[0].values[-1], color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="iterations of all steps", ylabel="SIDE, 1e-2")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(file) as part:
        figure.savefig(part, dpi=150)
