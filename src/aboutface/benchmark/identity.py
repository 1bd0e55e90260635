"""Table 3 of GAN2Shape: does a face that is turned stay the same person? `aboutface bench identity`.

Faces of a generator are turned from -20 to 20 degrees of yaw in 20 steps, and the angle between the embedding of the
frontal face and of each other view is measured (spec of the paper, section 4.3: no code was released). A method is
something that turns a face of the generator, given by its w. Walks along directions in W are as long as they must be
for the angle that a network of views measures.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ..generate import Gan, ganspace, sefa
from ..images import to_pixels, write_image
from ..reconstruct.gan2shape import GAN2Shape, Target, resized
from ..reconstruct.gan2shape_file import read
from ..reconstruct.gan2shape_photo import category_of
from ..reconstruct.gan2shape_run import optimise
from ..reconstruct.gan2shape_schedule import fast, paper
from ..reconstruct.unsup3d import Factors, Unsup3d, View, built
from ..reconstruct.unsup3d_photo import symmetric_factors
from ..scene import Light
from ..weights import load_file, path
from .goals import Goal, Verdict, check
from .identity_embedding import Embedding, embedding
from .results import commit, write_results
from .statistics import Number
from .tables import Scores, Table

TABLE = "identity"
FARTHEST, STEPS = 20.0, 20
"""Degrees to both sides, and views."""
TRIED = 8
"""Directions of each kind of which that is taken which turns faces farthest."""
TRIALS = 24
"""Other faces on which it is chosen."""
WALK, PLACES = 4.0, 33
"""How far along a direction is walked to both sides, in spreads of w, and in how many places that is looked at."""
TRUNCATION = 0.7
SHOWN = 4
PUBLISHED = {"ganspace": (41.17, 58.93), "sefa": (41.79, 60.73), "3d": (28.93, 43.02), "gan": (39.85, 57.21)}
"""Mean and largest angle, degrees, by ArcFace."""
TITLES = {"3d": "GAN2Shape, 3D", "gan": "GAN2Shape, GAN", "ganspace": "GANSpace", "sefa": "SeFa"}

Views = Callable[[Tensor], Tensor]
"""Pictures (B, 3, S, S) -> yaw (B,), degrees."""


class Turned(NamedTuple):
    """One face in several views."""

    frontal: Tensor
    """(3, S, S)."""
    views: Tensor
    """(N, 3, S, S); N is less than asked for where a method cannot turn a face so far."""
    yaw: Tensor
    """(N,) degrees that were asked for."""


Turner = Callable[[Tensor, Tensor], Turned]
"""w (D,) of a face and yaws (N,), degrees -> that face turned."""


@dataclass(frozen=True)
class Options:
    """What is run on what."""

    method: str = "gan2shape"
    """Weights of GAN2Shape: shipped, or a file."""
    output: Path = Path("runs/bench/identity")
    faces: int = 100
    quality: Literal["joint", "fast", "paper"] = "joint"
    """joint: the model as it is; else what it is fitted to each face by."""
    recognition: Path | None = None
    """ArcFace's weights."""
    rows: tuple[str, ...] = ()
    """All if there are none."""
    seed: int = 0
    device: str = "auto"
    """Where models are fitted."""


@dataclass(frozen=True)
class Report:
    scores: Scores
    verdicts: list[Verdict]
    tables: list[Table]


def run(options: Options, log: Callable[[str], None] = print) -> Report:
    """Measure and write results.json, tables.md, tables.tex and faces.png into `options.output`.

    Raises UsageError where an option or a file is wrong, MissingError where weights are absent.
    """
    wrong = [name for name in options.rows if name not in TITLES]
    if options.faces < 2 or wrong:
        raise UsageError(
            f"--faces {options.faces}: expected 2 or more"
            if not wrong
            else f"--rows: there is no {', '.join(map(repr, wrong))}; there are: {', '.join(TITLES)}"
        )
    method = options.method
    model, gan = read(Path(method) if method.endswith(".safetensors") else path(method))
    embedded = embedding(options.recognition)
    views, measured_by = _views(model, gan)
    turners = gan2shape_turners(model, gan, _tuned(model, gan, options)) | walkers(gan, views, options.seed)
    chosen = {name: turn for name, turn in turners.items() if not options.rows or name in options.rows}
    found, shown = measured(chosen, sampled(gan, options.faces, options.seed), embedded, log)
    config = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    return finish(found, shown, embedded, measured_by, options.output, config)


def _views(model: GAN2Shape, gan: Gan) -> tuple[Views, str]:
    """What says how far a picture is turned, and its name."""
    if gan.crop == "face":
        return views_of(built(*load_file(path("unsup3d")), path("unsup3d"))), "the shipped network of Unsup3d"
    return views_of(model.net), "the model's own network of views"


def _tuned(model: GAN2Shape, gan: Gan, options: Options) -> Callable[[Tensor, Tensor], GAN2Shape]:
    if options.quality == "joint":
        return lambda w, picture: model
    category = category_of(gan)
    schedule = replace(fast(category) if options.quality == "fast" else paper(category), prior=None)

    def fitted(w: Tensor, picture: Tensor) -> GAN2Shape:
        own = optimise(deepcopy(model), gan, [Target(picture, w)], schedule, device=options.device).cpu()
        for part in (gan.generator, gan.discriminator):
            if part is not None:
                part.cpu()
        return own

    return fitted


def asked_yaws() -> Tensor:
    """(20,) degrees, from side to side; 0 is not among them."""
    return torch.linspace(-FARTHEST, FARTHEST, STEPS)


def sampled(gan: Gan, count: int, seed: int) -> Tensor:
    """w (N, D) of random faces, truncated."""
    z = torch.randn(count, gan.generator.settings.latent, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return gan.generator.mapping(z, TRUNCATION)


# ---- walks along directions ----


def walker(gan: Gan, direction: Tensor, views: Views) -> Turner:
    """Turn by going along a direction (D,) as far as `views` say."""
    step = spread(gan) * WALK * torch.linspace(-1, 1, PLACES)

    @torch.no_grad()
    def turn(w: Tensor, yaw: Tensor) -> Turned:
        found = views(pictures(gan, w + step[:, None] * direction))
        places, reached = crossings(found, torch.cat([yaw.new_zeros(1), yaw]))
        if not reached[0]:
            # It is turned away however far one goes: the best there is.
            places[0] = float(found.abs().argmin())
        at = torch.cat([places[:1], places[1:][reached[1:]]])
        shown = pictures(gan, w + _between(step, at)[:, None] * direction)
        return Turned(shown[0], shown[1:], yaw[reached[1:]])

    return turn


def crossings(values: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Where a row of values (P,) first takes each wanted one (N,), seen from its middle: places (N,) between 0 and
    P - 1, linearly between two of them, and whether (N,) there is one."""
    low, high = torch.minimum(values[:-1], values[1:]), torch.maximum(values[:-1], values[1:])
    inside = (low <= wanted[:, None]) & (wanted[:, None] <= high)
    share = (wanted[:, None] - values[:-1]) / (values[1:] - values[:-1]).where(
        values[1:] != values[:-1], torch.ones(())
    )
    places = torch.arange(len(values) - 1) + share.clamp(0, 1)
    far = (places - (len(values) - 1) / 2).abs().where(inside, torch.tensor(torch.inf))
    nearest, index = far.min(1)
    return places.gather(1, index[:, None])[:, 0], nearest.isfinite()


def best_direction(gan: Gan, directions: Tensor, views: Views, seed: int) -> Tensor:
    """Of directions (K, D) the one along which the yaw of other faces changes farthest on average."""
    w = sampled(gan, TRIALS, seed)
    reach = spread(gan) * WALK / 2
    ends = [torch.stack([views(pictures(gan, w + sign * reach * one)) for sign in (-1, 1)]) for one in directions]
    return directions[torch.stack([(end[1] - end[0]).mean().abs() for end in ends]).argmax()]


def spread(gan: Gan) -> float:
    """How far w are from their centre along a random direction: a root of the mean square."""
    w = sampled(gan, 1000, seed=1) - gan.generator.mapping.centre
    return float(w.square().mean().sqrt()) / TRUNCATION


@torch.no_grad()
def pictures(gan: Gan, w: Tensor) -> Tensor:
    """Of w (B, D), in [0, 1]."""
    return torch.cat([gan.generator.synthesis(part) for part in w.split(32)]).clamp(0, 1)


def _between(line: Tensor, places: Tensor) -> Tensor:
    """Values of a row (P,) at places (N,) that need not be whole."""
    low = places.floor().long().clamp(0, len(line) - 2)
    return torch.lerp(line[low], line[low + 1], places - low)


def walkers(gan: Gan, views: Views, seed: int) -> dict[str, Turner]:
    """The rows that need nothing but the generator."""
    found = {"ganspace": ganspace(gan.generator, TRIED), "sefa": sefa(gan.generator, TRIED)}
    return {name: walker(gan, best_direction(gan, all_, views, seed + 1), views) for name, all_ in found.items()}


# ---- GAN2Shape ----


def gan2shape_turners(model: GAN2Shape, gan: Gan, tuned: Callable[[Tensor, Tensor], GAN2Shape]) -> dict[str, Turner]:
    """ "3d": the recovered surface, drawn in its own light; "gan": these drawings through the generator.

    tuned: a face's w (D,) and picture (3, S, S) -> the model for it, which may be `model` itself.
    """
    kept: dict[bytes, tuple[GAN2Shape, Factors]] = {}

    @torch.no_grad()
    def surface(w: Tensor) -> tuple[GAN2Shape, Factors]:
        key = w.numpy().tobytes()
        if key not in kept:
            # Both rows ask for one face after the other.
            kept.clear()
            picture = model.anchor(gan, w[None])
            with torch.enable_grad():
                own = tuned(w, picture[0]).eval()
            kept[key] = own, symmetric_factors(own.net, picture)
        return kept[key]

    @torch.no_grad()
    def drawn(w: Tensor, yaw: Tensor) -> Turned:
        own, factors = surface(w)
        angles = torch.cat([yaw.new_zeros(1), yaw])
        seen = own.net.reproject(turned(factors, angles)).image.clamp(0, 1)
        return Turned(seen[0], seen[1:], yaw)

    @torch.no_grad()
    def projected(w: Tensor, yaw: Tensor) -> Turned:
        own, _ = surface(w)
        one = drawn(w, yaw)
        drawings = torch.cat([one.frontal[None], one.views])
        many = w.expand(len(drawings), -1)
        natural = own.project(gan, drawings, many, own.anchor(gan, w[None]).expand(len(drawings), -1, -1, -1))
        return Turned(natural[0], natural[1:], yaw)

    return {"3d": drawn, "gan": projected}


def turned(factors: Factors, yaw: Tensor) -> Factors:
    """One face's factors (1, ...) seen from yaws (B,), degrees, in its own pitch, roll and place; lit as it is."""
    count = len(yaw)
    view, light = factors.view, factors.light
    assert isinstance(light.ambient, Tensor)
    assert isinstance(light.diffuse, Tensor)
    assert isinstance(light.direction, Tensor)
    return Factors(
        factors.depth.expand(count, -1, -1),
        factors.albedo.expand(count, -1, -1, -1),
        View(yaw, view.pitch.expand(count), view.roll.expand(count), view.shift.expand(count, -1)),
        Light(light.ambient.expand(count), light.diffuse.expand(count), light.direction.expand(count, -1)),
    )


def views_of(net: Unsup3d) -> Views:
    """The yaw that a network of views finds, half from the picture and half from its mirror image."""

    @torch.no_grad()
    def views(pictures: Tensor) -> Tensor:
        x = 2 * resized(pictures, net.settings.size) - 1
        return torch.cat([(net.view(part).yaw - net.view(part.flip(-1)).yaw) / 2 for part in x.split(64)])

    return views


# ---- scores ----


def measured(
    turners: dict[str, Turner], faces: Tensor, embedded: Embedding, log: Callable[[str], None]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, list[Turned]]]:
    """Of each row, for faces (N, D): "mean" and "max" angle in degrees, "reached", the share of the views that there
    are; NaN where no view was recognised as a face. And the first faces' pictures."""
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in turners}
    shown: dict[str, list[Turned]] = {name: [] for name in turners}
    for number, w in enumerate(faces):
        for name, turn in turners.items():
            one = turn(w, asked_yaws())
            rows[name].append(_angles(one, embedded))
            if number < SHOWN:
                shown[name].append(one)
        if (number + 1) % 10 == 0:
            log(f"{number + 1} of {len(faces)} faces")
    found: dict[str, dict[str, Tensor]] = {}
    for name, row in rows.items():
        mean, most, reached = torch.tensor(row, dtype=torch.float64).unbind(1)
        found[name] = {"mean": mean, "max": most, "reached": reached}
    return found, shown


def _angles(turned: Turned, embedded: Embedding) -> tuple[float, float, float]:
    features = embedded(torch.cat([turned.frontal[None], turned.views]))
    angles = angles_between(features[:1], features[1:])
    angles = angles[angles.isfinite()]
    if not len(angles):
        return float("nan"), float("nan"), 0.0
    return float(angles.mean()), float(angles.max()), len(angles) / STEPS


def angles_between(first: Tensor, others: Tensor) -> Tensor:
    """Degrees between embeddings (1, D) and (N, D)."""
    cosine = functional.cosine_similarity(first.double(), others.double(), dim=-1)
    return torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))


def to_scores(found: dict[str, dict[str, Tensor]]) -> Scores:
    return {name: {score: _number(values) for score, values in row.items()} for name, row in found.items()}


def _number(values: Tensor) -> Number:
    values = values[values.isfinite()]
    if not len(values):
        nan = float("nan")
        return Number(nan, nan, nan, 0, (nan, nan))
    mean, deviation = float(values.mean()), float(values.std(correction=0))
    half = 1.96 * deviation / len(values) ** 0.5
    return Number(mean, deviation, float(values.median()), len(values), (mean - half, mean + half))


def goals() -> list[Goal]:
    """What the paper's figures give 0.70 and 0.69 for, and what is in every picture there is to see."""

    def ratio(other: str) -> Callable[[Scores], float]:
        return lambda scores: scores["3d"]["mean"].mean / scores[other]["mean"].mean

    return [
        Goal(TABLE, "3D / GANSpace, mean angle (paper 0.70)", ratio("ganspace"), 0.70),
        Goal(TABLE, "3D / SeFa, mean angle (paper 0.69)", ratio("sefa"), 0.70),
    ]


def table(scores: Scores, embedded: Embedding, views: str) -> Table:
    """Table 3 with the paper's numbers beside ours."""
    rows = []
    for name, row in scores.items():
        paper = PUBLISHED.get(name)
        low, high = row["mean"].ci
        rows.append(
            [
                TITLES.get(name, name),
                f"{row['mean'].mean:.2f}",
                f"{low:.2f}–{high:.2f}",
                f"{row['max'].mean:.2f}",
                f"{100 * row['reached'].mean:.0f}",
                *([f"{value:.2f}" for value in paper] if paper else ["", ""]),
            ]
        )
    count = max(row["mean"].n for row in scores.values())
    notes = [
        f"Angle in degrees between the embeddings ({embedded.name}) of the frontal face and of {STEPS} views within "
        f"±{FARTHEST:g}° of yaw; mean and largest of each face, averaged over {count} faces of the generator.",
        f"Yaw of the walks along directions is measured by {views}. Reached: the share of the views that a method can "
        "make and in which there is a face to embed; angles are over these.",
        "The paper's are ArcFace angles on its own generator: compare ratios.",
    ]
    columns = ["method", "mean, °", "95 %", "max, °", "reached, %", "paper mean", "paper max"]
    return Table("Table 3: change of identity under turns", columns, rows, notes)


def finish(
    found: dict[str, dict[str, Tensor]],
    shown: dict[str, list[Turned]],
    embedded: Embedding,
    views: str,
    output: Path,
    config: dict[str, Any],
) -> Report:
    """Write results.json, tables.md, tables.tex and faces.png. Raises OutputError."""
    scores = to_scores(found)
    verdicts, tables = check(goals(), {TABLE: scores}), [table(scores, embedded, views)]
    record = {
        "benchmark": "identity",
        "commit": commit(),
        "config": config,
        "embedding": embedded.name,
        "views": views,
        "goals": [asdict(verdict) for verdict in verdicts],
        "results": {name: {score: asdict(one) for score, one in row.items()} for name, row in scores.items()},
    }
    write_results(output, record, tables, verdicts)
    write_image(output / "faces.png", to_pixels(sheet(shown)))
    return Report(scores, verdicts, tables)


def sheet(shown: dict[str, list[Turned]], columns: int = 7) -> Tensor:
    """(3, H, W): a row per face and method, from left to right; grey where a view could not be made."""
    yaws = asked_yaws()
    wanted = yaws[torch.linspace(0, len(yaws) - 1, columns).round().long()]
    rows = []
    for turned in (one for several in shown.values() for one in several):
        cells = [torch.full_like(turned.frontal, 0.5) for _ in wanted]
        for place, yaw in enumerate(wanted):
            index = torch.nonzero(turned.yaw == yaw)[:, 0]
            if len(index):
                cells[place] = turned.views[int(index[0])]
        cells.insert(columns // 2, turned.frontal)
        rows.append(torch.cat(cells, -1))
    return torch.cat(rows, -2)
