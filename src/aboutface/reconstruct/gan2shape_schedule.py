"""How long each step of GAN2Shape is, and on how much: the published settings, and ours."""

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from ..errors import UsageError
from .gan2shape_priors import Category, Prior
from .gan2shape_steps import LIGHTS, Lights, Losses

Quality = Literal["fast", "paper"]


class Stage(NamedTuple):
    """Iterations of the three steps, and whether steps 1 and 3 use symmetry."""

    albedo: int
    projection: int
    refinement: int
    flip_albedo: bool = False
    flip: bool = True

    @property
    def iterations(self) -> int:
        return self.albedo + self.projection + self.refinement


@dataclass(frozen=True)
class Schedule:
    """What `optimise` does. The defaults that are not lengths are published."""

    stages: tuple[Stage, ...]
    targets: int = 1
    """Targets per iteration, of several that are optimised together."""
    batch: int = 16
    """Pseudo samples, or projected ones, of each of them per iteration."""
    samples: int = 1600
    """Projected samples that are collected of each target after step 2."""
    prior: Prior | None = "ellipsoid"
    """The shape to start from; None: that which the model has."""
    prior_steps: int = 1000
    """Iterations that bring depth there; none are needed by networks with a learned mean shape."""
    encoder_steps: int = 0
    """Iterations that acquaint the encoder with the generator before the first stage; ours. In short schedules the
    iterations are better spent on step 3."""
    category: Category = "object"
    masked: bool = False
    """Leave what is outside of the masks out of steps 2 and 3."""
    yaw_scale: float = 1.0
    """Of sampled views."""
    lights: Lights = LIGHTS["other"]
    losses: Losses = field(default_factory=Losses)
    features: Literal["auto", "vgg16", "filters"] = "auto"
    learning_rate: float = 1e-4
    encoder_rate: float = 1e-4
    """That of step 2."""
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        for name in ("targets", "batch", "samples", "prior_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"gan2shape: {name}: expected 1 or more, got {getattr(self, name)}")
        if not self.stages or any(min(stage[:3]) < 1 for stage in self.stages):
            raise UsageError("gan2shape: expected a stage or more, each of at least one iteration of every step")

    @property
    def iterations(self) -> int:
        """Of all steps of all stages, and of the encoder before them."""
        return self.encoder_steps + sum(stage.iterations for stage in self.stages)


STEP_NAMES = Stage._fields[:3]
SINGLE_LENGTHS = ((80, 100, 60), (40, 60, 50))
JOINT_LENGTHS = ((40, 100, 300), (20, 80, 300), (20, 80, 300))
"""Most iterations where all factors move: what step 1 brings, step 3 brings as well."""


class Mapping(NamedTuple):
    """How a category's offsets reach w: `GAN2ShapeSettings.mapping_depth` and `.relative`."""

    mapping_depth: int
    relative: bool


PAPER_MAPPING: dict[Category, Mapping] = {
    "face": Mapping(2, True),
    "synface": Mapping(8, True),
    "cat": Mapping(2, True),
    "car": Mapping(2, False),
    "church": Mapping(2, False),
    "object": Mapping(2, True),
}


def paper(category: Category = "face", joint: bool = False) -> Schedule:
    """The published schedule: for one target, or for joint pre-training on about 200.

    Of the released configurations, with the batches of all their processes together. For cars and churches nothing was
    pre-trained. Raises UsageError for that.
    """
    if joint:
        return _paper_joint(category)
    if category in ("car", "church", "object"):
        stages = (Stage(700, 700, 600, flip=False), *[Stage(200, 500, 400, flip=False)] * 3)
        return Schedule(stages, batch=32, samples=3200, masked=True, category=category)
    if category == "synface":
        return Schedule((Stage(500, 500, 200),), yaw_scale=1.2, category=category, lights=LIGHTS["synface"])
    stages = (Stage(600, 600, 400), *[Stage(200, 500, 300, flip=False)] * 3)
    return Schedule(stages, yaw_scale=1.2, category=category)


def _paper_joint(category: Category) -> Schedule:
    first, later = Stage(1500, 1500, 1500), Stage(700, 1000, 1000, flip_albedo=True)
    if category == "synface":
        lights = LIGHTS["synface"]
        return Schedule((first, *[later] * 7), 8, 12, 480, yaw_scale=1.2, category=category, lights=lights)
    if category in ("car", "church", "object"):
        raise UsageError(f"gan2shape: there is no published joint training of {category}; take that of face or cat")
    return Schedule((first, *[later] * 3), 8, 8, 256, yaw_scale=1.2, category=category)


def fast(category: Category = "face", joint: bool = False) -> Schedule:
    """Ours: fewer iterations at a higher rate, with slopes that are kept smooth instead of many steps that smooth them.

    For one target, or for joint pre-training, where several targets share an iteration.
    """
    like = _paper_joint(category if category in ("face", "cat", "synface") else "face") if joint else paper(category)
    flips = [(stage.flip_albedo, stage.flip) for stage in like.stages]
    lengths = JOINT_LENGTHS if joint else SINGLE_LENGTHS
    # The last published stages go over the same ground again.
    stages = tuple(Stage(*three, *flips[min(i, len(flips) - 1)]) for i, three in enumerate(lengths))
    losses = replace(like.losses, bending=0.05)
    sizes = (8, 4, 32) if joint else (1, 8, 160)
    return replace(
        like,
        stages=stages,
        targets=sizes[0],
        batch=sizes[1],
        samples=sizes[2],
        category=category,
        losses=losses,
        learning_rate=1e-3 if joint else 3e-4,
        encoder_rate=1e-3 if joint else 3e-4,
        weight_decay=0.0,
    )


def scaled(schedule: Schedule, iterations: int) -> Schedule:
    """The same in about so many iterations in all, each step in proportion, at least one."""
    share = iterations / schedule.iterations
    stages = tuple(
        stage._replace(**{name: max(1, round(share * getattr(stage, name))) for name in STEP_NAMES})
        for stage in schedule.stages
    )
    return replace(schedule, stages=stages, encoder_steps=round(share * schedule.encoder_steps))


def without_symmetry(schedule: Schedule) -> Schedule:
    """The same, with no mirrored reconstruction in any step."""
    stages = tuple(stage._replace(flip_albedo=False, flip=False) for stage in schedule.stages)
    return replace(schedule, stages=stages)
