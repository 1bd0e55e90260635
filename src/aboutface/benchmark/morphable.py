"""How far fitted faces lie from true ones, in millimetres: `aboutface bench morphable --data DIR`.

As the NoW challenge (Sanyal et al., CVPR 2019) measures: each true point's distance from the predicted surface, after
the similarity that brings seven landmarks together and then the surface to the points. The faces are those of
`aboutface data synth faces`. They come from the very model that is fitted: what is found here is how well a photo
tells its coefficients, not how well the model knows people.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.synthetic import SyntheticExample, SyntheticFaces
from ..errors import UsageError
from ..face import Face
from ..geometry import apply, pixel_centres, similarity, unproject
from ..head import complete_head
from ..images import read_photo
from ..morphable import MeanHead, MorphableModel
from ..reconstruct import DepthNetReconstructor, MorphableReconstructor
from ..reconstruct.deep3d_batches import FaceIn, cropped
from ..reconstruct.deep3d_landmarks import FaceRegressor, SetConfidence, look_at_person
from ..reconstruct.morphable_fit import LandmarkSettings
from ..reconstruct.morphable_photo import crop_intrinsics
from ..reconstruct.morphable_refine import RefineSettings, refine
from . import consistency
from .goals import Goal, Verdict, check
from .results import commit, write_results
from .statistics import Number
from .tables import Scores, Table

SEVEN = [36, 39, 42, 45, 33, 48, 54]
"""iBUG numbers by which NoW aligns: corners of the eyes and of the mouth, and the base of the nose."""
REACH = 80.0
"""Millimetres about the tip of the nose within which true points count."""
POINTS = 600
"""About so many of them count: every so many pixels one."""
NEAREST = 4
"""Vertices whose triangles are tried for a point."""
SETS = (1, 2, 5, 10)
"""Photos of one person."""
TABLE = "morphable"
TITLES = {
    "mean head": "mean head, no photo",
    "depthnet": "depthnet's head",
    "landmarks": "fit to landmarks",
    "synthesis": "fit to landmarks, then colours",
    "network": "deep3d's network",
    "confidence": "deep3d's network, sets by confidence",
}


@dataclass(frozen=True)
class Options:
    """What is measured."""

    data: Path
    """Folder with the split test, as `aboutface data synth faces` wrote it."""
    output: Path
    """Folder of the results."""
    faces: int = 100
    """Most faces, and most people whose photos are fitted together."""
    noise: float = 1.5
    """Standard deviation of the landmarks' errors, millimetres on the face."""
    model: MorphableModel | None = None
    """The user's if missing."""
    colours: RefineSettings = field(default_factory=RefineSettings)
    """Of the fit to colours."""
    method: Path | None = None
    """Weights of the small Deep3D network, which joins."""
    sets: Path | None = None
    """Weights of its confidences in photos of a set."""
    people: Path | None = None
    """Folder or tar of real faces with names and landmarks, for the consistency of sets."""

    def __post_init__(self) -> None:
        if self.sets is not None and self.method is None:
            raise UsageError(f"--sets {self.sets}: belongs to a network; give it as --method FILE.safetensors")


@dataclass(frozen=True)
class Report:
    tables: list[Table]
    verdicts: list[Verdict]


# ---- scores ----


def point_to_surface(points: Tensor, vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (N,) of points (N, 3) from triangles (F, 3) of vertices (V, 3), and the nearest points (N, 3) on them.

    Of each point the triangles about its nearest vertices are tried; of a mesh of even triangles that is all.
    """
    table = _incident(faces, len(vertices))
    # Single precision is enough to choose, about the points' own centre.
    centre = points.mean(0)
    apart = torch.cdist((points - centre).float(), (vertices - centre).float())
    tried = table[apart.topk(min(NEAREST, len(vertices)), largest=False).indices].flatten(1)
    corners = vertices[faces[tried.clamp_min(0)]]
    nearest = nearest_on_triangles(points[:, None].expand(-1, tried.shape[1], -1), corners)
    distance = (nearest - points[:, None]).norm(dim=-1).masked_fill(tried < 0, torch.inf)
    least, which = distance.min(1)
    return least, nearest[torch.arange(len(points)), which]


def _incident(faces: Tensor, count: int) -> Tensor:
    """(V, D) numbers of the triangles at each vertex, filled up with -1."""
    vertex, order = faces.flatten().sort(stable=True)
    number = torch.bincount(vertex, minlength=count)
    rank = torch.arange(len(vertex)) - (number.cumsum(0) - number)[vertex]
    table = torch.full((count, int(number.max())), -1)
    table[vertex, rank] = order // 3
    return table


def nearest_on_triangles(points: Tensor, corners: Tensor) -> Tensor:
    """The nearest points (..., 3) to points (..., 3) on triangles (..., 3, 3): within, else on the nearest edge."""
    a, b, c = corners.unbind(-2)
    ab, ac, ap = b - a, c - a, points - a
    d00, d01, d11 = ((x * y).sum(-1) for x, y in ((ab, ab), (ab, ac), (ac, ac)))
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    area = d00 * d11 - d01 * d01
    safe = area.clamp_min(1e-12)
    v, w = (d11 * d20 - d01 * d21) / safe, (d00 * d21 - d01 * d20) / safe
    inside = (v >= 0) & (w >= 0) & (v + w <= 1) & (area > 1e-12)
    within = a + v[..., None] * ab + w[..., None] * ac
    edges = torch.stack([_on_edge(points, x, y) for x, y in ((a, b), (b, c), (c, a))], -2)
    apart = (edges - points[..., None, :]).square().sum(-1)
    edge = edges.gather(-2, apart.argmin(-1)[..., None, None].expand(*apart.shape[:-1], 1, 3))[..., 0, :]
    return torch.where(inside[..., None], within, edge)


def _on_edge(points: Tensor, start: Tensor, end: Tensor) -> Tensor:
    along = end - start
    t = ((points - start) * along).sum(-1) / along.square().sum(-1).clamp_min(1e-12)
    return start + t.clamp(0, 1)[..., None] * along


def surface_errors(
    vertices: Tensor, faces: Tensor, marks: Tensor, points: Tensor, true_marks: Tensor, rounds: int = 5
) -> Tensor:
    """Distances (N,) of true points (N, 3) from a predicted surface, in the unit of the points.

    Args:
        vertices: (V, 3), faces: (F, 3): the prediction, in any frame and scale.
        marks, true_marks: (68, 3) landmarks of both.
        rounds: of the refinement: the similarity of nearest points, again and again; distances beyond three times the
            median do not count in it.
    """
    points, true_marks = points.double(), true_marks.double()
    true_from_own = similarity(marks[SEVEN].double(), true_marks[SEVEN])
    vertices, faces = _about(apply(true_from_own, vertices.double()), faces, points)
    for _ in range(rounds):
        distance, nearest = point_to_surface(points, vertices, faces)
        fair = distance <= 3 * distance.median() + 1e-9
        vertices = apply(similarity(nearest[fair], points[fair]), vertices)
    return point_to_surface(points, vertices, faces)[0]


def _about(vertices: Tensor, faces: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The part of a surface about points: the back of a head takes time and is nearest to nothing."""
    centre = points.mean(0)
    near = (vertices - centre).norm(dim=1) < 1.5 * (points - centre).norm(dim=1).max()
    kept = faces[near[faces].any(1)]
    used, renumbered = kept.unique(return_inverse=True)
    return vertices[used], renumbered


def true_points(example: SyntheticExample) -> tuple[Tensor, Tensor]:
    """What is seen of the true face within REACH of its nose (N, 3), and its landmarks (68, 3): millimetres."""
    depth = torch.from_numpy(example.depth).double()
    height, width = depth.shape
    points = unproject(pixel_centres(height, width, torch.float64), depth, torch.from_numpy(example.K).double())
    points = points[torch.from_numpy(example.mask)] * example.millimetres_per_unit
    marks = torch.from_numpy(example.landmarks3d).double() * example.millimetres_per_unit
    points = points[(points - marks[30]).norm(dim=1) < REACH]
    return points[:: max(1, len(points) // POINTS)], marks


# ---- what is compared ----


def noisy_landmarks(example: SyntheticExample, noise: float, seed: int) -> np.ndarray:
    """(68, 2) pixels: the true ones with errors of so many millimetres; hidden ones, too."""
    pixels = noise * float(example.K[0, 0]) / example.millimetres_per_unit
    return example.landmarks + pixels * np.random.default_rng(seed).standard_normal((68, 2))


@dataclass(frozen=True, eq=False)
class _Seen:
    """A picture, and what is said of where its landmarks are."""

    example: SyntheticExample
    landmarks: np.ndarray

    def errors(self, vertices: Tensor, faces: Tensor, marks: Tensor) -> dict[str, float]:
        points, true_marks = true_points(self.example)
        distance = surface_errors(vertices, faces, marks, points, true_marks)
        return {"median": float(distance.median()), "mean": float(distance.mean())}


class _Methods:
    """Everything that is compared, loaded once."""

    def __init__(self, options: Options) -> None:
        # The landmarks of synthetic faces are places on the jaw, not points of its outline.
        self.morphable = MorphableReconstructor(options.model, LandmarkSettings(outline=False), options.colours)
        self.net = None if options.method is None else FaceRegressor.from_file(options.method)
        self.confidence = None
        if self.net is not None and options.sets is not None:
            self.confidence = SetConfidence.from_file(options.sets, self.net)
        self.depthnet = DepthNetReconstructor()
        self.mean = MeanHead.load()

    def without_model(self, seen: _Seen) -> dict[str, dict[str, float]]:
        """Errors of the mean head and of depthnet's."""
        photo = read_photo(seen.example.image)
        low, high = seen.landmarks.min(0), seen.landmarks.max(0)
        face = Face(seen.landmarks, (*low.tolist(), *high.tolist()))
        scene = self.depthnet(photo, face)
        head = complete_head(photo, face, scene).scene.mesh_at_rest()
        assert scene.landmarks is not None
        return {
            "mean head": seen.errors(self.mean.vertices(), self.mean.faces(), self.mean.landmarks),
            "depthnet": seen.errors(head.vertices, head.faces, scene.landmarks),
        }

    def fitted(self, photos: Sequence[_Seen]) -> dict[str, dict[str, float]]:
        """Errors at the first of a person's photos, fitted together."""
        m = self.morphable
        pixels = torch.stack([torch.from_numpy(seen.landmarks) for seen in photos])
        fit = m.fitter(pixels, torch.stack([crop_intrinsics(one) for one in pixels]), m.settings)
        after = refine(m.front, fit, [seen.example.image for seen in photos], pixels, m.colours).fit
        return {
            name: photos[0].errors(one.vertices(m.model)[0], m.model.faces, m.model.landmarks(one.vertices(m.model)[0]))
            for name, one in (("landmarks", fit), ("synthesis", after))
        }

    def regressed(self, photos: Sequence[_Seen]) -> dict[str, dict[str, float]]:
        """The same of what the network says, where there is one: the mean of its identities, and by confidence."""
        if self.net is None:
            return {}
        model, found = self.morphable.front, {}
        faces = [FaceIn(seen.example.image, torch.from_numpy(seen.landmarks)) for seen in photos]
        crops, _ = cropped(faces, self.net.settings.trunk.size)
        for name, confidence in (("network", None), ("confidence", self.confidence)):
            if name == "network" or confidence is not None:
                person = look_at_person(self.net, crops, confidence)
                vertices = model.vertices(person.identity[None], person.each.exp[:1])[0]
                found[name] = photos[0].errors(vertices, model.faces, model.landmarks(vertices))
        return found


def run(options: Options, log: Callable[[str], None] = print) -> Report:
    """Score, and write results.json and tables.md into `options.output`. Raises UsageError, MissingError."""
    if options.faces < 1 or not options.noise >= 0:
        raise UsageError(f"--faces {options.faces} --noise {options.noise:g}: expected at least 1, and 0 or more")
    if not (options.data / "test").is_dir():
        raise UsageError(f"--data {options.data}: no folder test in it; aboutface data synth faces --out DIR makes one")
    faces, methods = SyntheticFaces.open(options.data / "test"), _Methods(options)
    people: dict[str, list[_Seen]] = {}
    for index in range(len(faces)):
        example = faces[index]
        if example.identity not in people and len(people) == options.faces:
            break
        seen = _Seen(example, noisy_landmarks(example, options.noise, index))
        people.setdefault(example.identity, []).append(seen)
    single: dict[str, list[dict[str, float]]] = {}
    sets: dict[str, list[dict[str, float]]] = {}
    for number, photos in enumerate(people.values()):
        for name, errors in methods.without_model(photos[0]).items():
            single.setdefault(name, []).append(errors)
        for count in (count for count in SETS if count <= len(photos)):
            for name, errors in (methods.fitted(photos[:count]) | methods.regressed(photos[:count])).items():
                # One photo has nothing to be weighed against.
                if count == 1 and name != "confidence":
                    single.setdefault(name, []).append(errors)
                sets.setdefault(f"{name}, {count}", []).append(errors)
        if (number + 1) % 10 == 0:
            log(f"{number + 1} of {len(people)} people")
    scores = {name: _numbers(errors) for name, errors in (single | sets).items()}
    most = max(map(len, people.values()))
    tables, goals = _tables(scores, list(single), options, len(people), most), _goals(most, list(single))
    found: dict[str, Scores] = {TABLE: scores}
    if options.people is not None:
        # On photos the jaw's landmarks follow the outline.
        fitted = MorphableReconstructor(options.model)
        found[consistency.TABLE] = real = consistency.measured(
            options.people, fitted, methods.net, methods.confidence, options.faces, log
        )
        tables.append(consistency.table(real, fitted.front))
        goals += consistency.goals(real)
    report = Report(tables, check(goals, found))
    _write(report, options, found, len(people))
    return report


def _numbers(errors: list[dict[str, float]]) -> dict[str, Number]:
    found = {}
    for name in errors[0]:
        values = torch.tensor([each[name] for each in errors], dtype=torch.float64)
        half = 1.96 * float(values.std(correction=0)) / len(values) ** 0.5
        mean = float(values.mean())
        found[name] = Number(
            mean, float(values.std(correction=0)), float(values.median()), len(values), (mean - half, mean + half)
        )
    return found


def _goals(most: int, methods: list[str]) -> list[Goal]:
    """What must be better than what."""

    def ratio(name: str, other: str, bound: float) -> Goal:
        def value(scores: Scores) -> float:
            return scores[name]["median"].mean / scores[other]["median"].mean

        return Goal(TABLE, f"{name} / {other}, median", value, bound)

    chosen = [ratio("landmarks", "mean head", 0.8), ratio("synthesis", "landmarks", 1.0)]
    sizes = [count for count in SETS if count <= most]
    chosen += [ratio(f"landmarks, {after}", f"landmarks, {before}", 1.0) for before, after in pairwise(sizes)]
    if "network" in methods:
        chosen += [ratio("network", "mean head", 1.0)]
        chosen += [ratio(f"network, {after}", f"network, {before}", 1.0) for before, after in pairwise(sizes)]
    return chosen


def _tables(scores: Scores, single: list[str], options: Options, people: int, most: int) -> list[Table]:
    def cells(numbers: dict[str, Number]) -> list[str]:
        low, high = numbers["median"].ci
        return [f"{numbers['median'].mean:.2f}", f"{low:.2f}–{high:.2f}", f"{numbers['mean'].mean:.2f}"]

    columns = ["median, mm", "95 %", "mean, mm"]
    notes = [
        f"Distances of true points from the surface, averaged over {people} people; landmarks err by "
        f"{options.noise:g} mm.",
        "The faces come from the model that is fitted: an inverse crime. Real faces lie farther off.",
    ]
    first = [[TITLES[name], *cells(scores[name])] for name in single]
    tables = [Table("Point to surface", ["shape", *columns], first, notes)]
    if most > 1:
        rows = [
            [f"{TITLES[name]}; {count} photo{'s' * (count > 1)}", *cells(scores[f"{name}, {count}"])]
            for name in ("landmarks", "synthesis", "network", "confidence")
            for count in SETS
            if f"{name}, {count}" in scores
        ]
        tables.append(Table("Several photos of one person, measured at the first", ["shape", *columns], rows, notes))
    return tables


def _write(report: Report, options: Options, found: dict[str, Scores], people: int) -> None:
    record: dict[str, Any] = {
        "benchmark": "morphable",
        "commit": commit(),
        "config": {
            "data": str(options.data),
            "faces": options.faces,
            "noise": options.noise,
            "method": None if options.method is None else str(options.method),
            "sets": None if options.sets is None else str(options.sets),
            "people": None if options.people is None else str(options.people),
        },
        "people": people,
        "goals": [asdict(verdict) for verdict in report.verdicts],
        "results": {
            table: {name: {key: asdict(number) for key, number in row.items()} for name, row in scores.items()}
            for table, scores in found.items()
        },
    }
    write_results(options.output, record, report.tables, report.verdicts)
