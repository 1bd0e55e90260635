"""How fast the renderer is, against others and against itself; `--check` exits 1 naming each missed goal.

    python benchmarks/render.py                                   # everything, about a quarter of an hour
    python benchmarks/render.py --only step                       # one part
    python benchmarks/render.py --only speed --cases face224-b1   # one case
    python benchmarks/render.py --check --write docs/benchmark-render.md
    python benchmarks/render.py --device cuda                     # GPU times; no goals

PyTorch3D (`pytorch3d`) and Sim3DR (`Sim3DR_Cython`) are measured if they can be imported, warp if it is installed, and
yardstick.cpp, our own C++, if there is g++. The face comes from `--data`, else the variable ABOUTFACE_DATA, else
`shared/data` beside the checkout.
"""

import os

# Waiting threads must not spin: on a shared machine that makes everything many times slower. Read when torch starts.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import contextlib
import ctypes
import importlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import aboutface
from aboutface import render
from aboutface.errors import AboutfaceError
from aboutface.geometry import clip_from_camera, depth_normals, grid_faces, intrinsics

PARTS = ("speed", "threads", "start", "step", "growth")

FACE_FORWARD = {"numba": 2000, "torch": 300}
GRID_FORWARD = {"numba": 500, "torch": 100}
BACKWARD = {"numba": 1000, "torch": 150}
FACE_YARDSTICK, GRID_YARDSTICK = 1.3, 1.6
TWO_THREADS, WHOLE_OVER_FORWARD = 1.6, 2.0
RASTER_SHARE = {1: 0.20, 2: 0.35}
STEP_RATIO = 0.6

BUDGET = 6.0
"""Seconds for which contestants take turns in one case; each has at least 5 turns and at most 60."""
TURN = 0.01
"""Seconds in a row for which a fast job runs in its turn, up to eleven times."""
STRETCH = 0.3
"""Seconds in a row for which each job runs where wall-clock time is taken."""
SLOW = 120.0
"""A PyTorch3D batch that would take longer than these seconds is told as its first item's time times the batch."""


@dataclass
class Goal:
    """One line of the table. `met` is None where it could not be measured."""

    part: str
    goal: str
    measured: str
    bound: str
    met: bool | None


@dataclass
class Report:
    """The table and what stands below it."""

    goals: list[Goal] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    """Markdown, one paragraph or table each."""

    def missed(self) -> list[Goal]:
        return [goal for goal in self.goals if goal.met is False]

    def table(self) -> str:
        said = {True: "yes", False: "**no**", None: "not measured"}
        lines = ["| part | goal | measured | bound | met |", "| --- | --- | --- | --- | --- |"]
        lines += [f"| {g.part} | {g.goal} | {g.measured} | {g.bound} | {said[g.met]} |" for g in self.goals]
        return "\n".join(lines)

    def judge(self, part: str, goal: str, values: dict[str, float], low: float = 0.0, high: float = np.inf) -> None:
        """A goal that every one of some named figures must reach; not measured if there are none."""
        bound = f"≥ {figure(low)}" if low else f"≤ {figure(high)}"
        measured = ", ".join(f"{name} {figure(value)}" for name, value in values.items())
        met = all(low <= value <= high for value in values.values()) if values else None
        self.goals.append(Goal(part, goal, measured or "–", bound + (" each" if len(values) > 1 else ""), met))


def figure(value: float) -> str:
    """Three digits are as many as these measurements have."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


# Taking time.

Job = Callable[[], Any]


def take_turns(jobs: dict[str, Job], clock: Callable[[], float] = time.process_time) -> dict[str, float]:
    """Median seconds of each job. They take turns, so that a change of the machine's mood meets all of them alike.

    In its turn a job runs some times in a row, the first of which does not count: what the one before it left in caches
    and heap is not its own doing.
    """

    def turn(job: Job) -> list[float]:
        job()
        first = timed(job, clock)
        return [first, *(timed(job, clock) for _ in range(int(TURN / max(first, TURN / 10))))]

    # The very first run compiles.
    times = {name: turn(job) for name, job in jobs.items()}
    turns = int(np.clip(BUDGET / max(sum(sum(t) + t[0] for t in times.values()), 1e-9), 5, 60))
    for _ in range(turns - 1):
        for name, job in jobs.items():
            times[name] += turn(job)
    return {name: statistics.median(taken) for name, taken in times.items()}


def shortest(jobs: dict[str, Job]) -> dict[str, float]:
    """Shortest wall-clock seconds of each job, in some turns of many runs: a second core takes a while to wake up."""
    times = dict.fromkeys(jobs, np.inf)
    for _ in range(4):
        for name, job in jobs.items():
            runs = int(np.clip(STRETCH / timed(job, time.perf_counter), 5, 200))
            times[name] = min(times[name], *(timed(job, time.perf_counter) for _ in range(runs)))
    return times


def timed(job: Job, clock: Callable[[], float] = time.process_time) -> float:
    start = clock()
    job()
    return clock() - start


# Scenes.


class Scene(NamedTuple):
    """Something to draw."""

    name: str
    clip: Tensor
    """(B, V, 4) float32 vertices in clip space."""
    faces: Tensor
    """(F, 3) int64."""
    size: int
    """Height and width of the picture in pixels."""
    perspective: bool


def face_scene(data: Path, size: int, batch: int) -> Scene:
    """The ICT neutral face (9,409 vertices, 18,460 triangles), orthographic, yaw up to ±0.5 rad."""
    model = np.load(data / "ict-facekit-light.npz")
    first, last = 0, 9409
    quads = model["faces"][((model["faces"] >= first) & (model["faces"] < last)).all(1)]
    faces = torch.from_numpy(np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])).long().contiguous()
    points = torch.from_numpy(model["mean"][first:last]) * torch.tensor([1.0, -1.0, -1.0])
    points = points - (points.amax(0) + points.amin(0)) / 2
    # As tall as nine tenths of the picture, which it then fills by 37 %.
    points = turned(points * (0.9 / points[:, 1].max()), 0.5, batch)
    clip = F.pad(points * torch.tensor([1.0, 1.0, 0.5]), (0, 1), value=1.0)
    return Scene(f"face{size}-b{batch}", clip.contiguous(), faces, size, perspective=False)


def grid_scene(side: int, batch: int, size: int | None = None) -> Scene:
    """A relief of side x side points, field of view 10 degrees, yaw up to ±0.6 rad, drawn at side x side pixels."""
    size = size or side
    depth = relief(side, 1)
    centres = (torch.arange(side) + 0.5) / side * 2 - 1
    slope = float(np.tan(np.radians(5.0)))
    y, x = torch.meshgrid(centres * slope, centres * slope, indexing="ij")
    points = torch.stack([x * depth[0], y * depth[0], depth[0] - 1], -1).flatten(0, 1)
    points = turned(points, 0.6, batch) + torch.tensor([0.0, 0.0, 1.0])
    matrix = clip_from_camera(intrinsics(10.0, (size, size)), (size, size), near=0.5, far=10.0)
    clip = F.pad(points, (0, 1), value=1.0) @ matrix.mT
    return Scene(f"grid{side}-b{batch}", clip.contiguous(), grid_faces(side, side), size, perspective=True)


def relief(side: int, batch: int) -> Tensor:
    """Depth maps (B, side, side) between 0.9 and 1.1: a bump as of a face, with some waves, different in each."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    phase = torch.arange(batch).view(-1, 1, 1) * 0.7
    bump = torch.exp(-3 * (x**2 + 0.7 * y**2))
    return 1.04 - 0.1 * bump + 0.01 * torch.sin(7 * x + phase) * torch.sin(9 * y - phase)


def turned(points: Tensor, limit: float, batch: int) -> Tensor:
    """Points (V, 3) turned about the y axis by `batch` random angles up to ±limit rad: (B, V, 3)."""
    angle = (torch.rand(batch, generator=torch.Generator().manual_seed(0)) * 2 - 1) * limit
    return points @ yaw_matrix(angle).mT


def yaw_matrix(angle: Tensor) -> Tensor:
    """(B, 3, 3)."""
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    rows = [angle.cos(), zero, angle.sin(), zero, one, zero, -angle.sin(), zero, angle.cos()]
    return torch.stack(rows, -1).view(-1, 3, 3)


CASES = ("face224-b1", "face256-b1", "face224-b8", "face256-b8", "grid64-b16", "grid64-b64", "grid128-b16")
"""Kind, pixels a side and batch."""


def scenes(data: Path, cases: Sequence[str] = CASES) -> Iterator[Scene]:
    for name in cases:
        side, batch = map(int, name[4:].split("-b"))
        yield face_scene(data, side, batch) if name.startswith("face") else grid_scene(side, batch)


# Contestants. Each gives the jobs "forward" (ids, barycentrics, depth), "backward" (barycentrics and depth to vertices)
# and "whole": both, with three interpolated attributes and their gradient.

CHANNELS = 3


def attributes_of(scene: Scene) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(*scene.clip.shape[:2], CHANNELS, generator=generator)


def upstream(scene: Scene, channels: int) -> Tensor:
    """A gradient (B, H, W, C) that arrives from a loss."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(len(scene.clip), scene.size, scene.size, channels, generator=generator)


def our_jobs(scene: Scene, backend: str) -> dict[str, Job]:
    """One of this package's backends, through the public functions."""
    size = scene.size, scene.size
    clip = scene.clip.clone().requires_grad_()
    values = attributes_of(scene).requires_grad_()
    grads = upstream(scene, 3), upstream(scene, 1)[..., 0]
    fragments = render.rasterize(clip, scene.faces, size, backend=backend)

    def backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad((fragments.barycentric, fragments.depth), clip, grads, retain_graph=True)

    def whole() -> tuple[Tensor, ...]:
        found = render.rasterize(clip, scene.faces, size, backend=backend)
        picture = render.interpolate(values, found, scene.faces, backend=backend)
        return torch.autograd.grad(picture, (clip, values), grads[0])

    def forward() -> render.Fragments:
        return render.rasterize(scene.clip, scene.faces, size, backend=backend)

    return {"forward": forward, "backward": backward, "whole": whole}


class Shape(ctypes.Structure):
    """Counts that the yardstick is told."""

    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "vertices", "faces", "height", "width")]


class Yardstick:
    """yardstick.cpp, compiled for this machine."""

    def __init__(self) -> None:
        source = Path(__file__).with_name("yardstick.cpp")
        compiler = shutil.which("g++")
        if compiler is None:
            raise OSError("there is no g++")
        flags = ["-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC", "-pthread"]
        # Once loaded it needs its file no more.
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "yardstick.so"
            subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
            self.library = ctypes.CDLL(str(library))
        self.library.yardstick_rasterize.restype = ctypes.c_int64

    def rasterize(self, scene: Scene, threads: int = 1) -> render.Fragments:
        shape = len(scene.clip), scene.size, scene.size
        found = render.Fragments(torch.empty(shape, dtype=torch.int32), torch.empty(*shape, 3), torch.empty(shape))
        left_out = self._call("rasterize", scene, scene.clip, scene.faces, *found, threads=threads)
        if left_out:
            raise RuntimeError(f"the yardstick left out {left_out} triangles of {scene.name} behind the camera")
        return found

    def rasterize_backward(
        self, scene: Scene, ids: Tensor, by_weight: Tensor, by_depth: Tensor, threads: int = 1
    ) -> Tensor:
        grad = torch.empty_like(scene.clip)
        self._call(
            "rasterize_backward", scene, scene.clip, scene.faces, ids, by_weight, by_depth, grad, threads=threads
        )
        return grad

    def interpolate(self, scene: Scene, values: Tensor, found: render.Fragments, threads: int = 1) -> Tensor:
        picture = torch.empty(*found.depth.shape, CHANNELS)
        given = values, scene.faces, found.triangle_id, found.barycentric, picture
        self._call("interpolate", scene, *given, threads=threads, channels=CHANNELS)
        return picture

    def interpolate_backward(
        self, scene: Scene, values: Tensor, found: render.Fragments, grad: Tensor, threads: int = 1
    ) -> tuple[Tensor, Tensor]:
        by_value, by_weight = torch.empty_like(values), torch.empty_like(found.barycentric)
        given = values, scene.faces, found.triangle_id, found.barycentric, grad, by_value, by_weight
        self._call("interpolate_backward", scene, *given, threads=threads, channels=CHANNELS)
        return by_value, by_weight

    def _call(self, verb: str, scene: Scene, *tensors: Tensor, threads: int, channels: int | None = None) -> int:
        shape = Shape(len(scene.clip), scene.clip.shape[1], len(scene.faces), scene.size, scene.size)
        assert all(tensor.is_contiguous() for tensor in tensors)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        counts = [] if channels is None else [ctypes.c_int64(channels)]
        function = getattr(self.library, f"yardstick_{verb}")
        return function(ctypes.byref(shape), *counts, *pointers, ctypes.c_int64(threads))

    def jobs(self, scene: Scene, threads: int = 1) -> dict[str, Job]:
        values = attributes_of(scene)
        grads = upstream(scene, 3), upstream(scene, 1)[..., 0].contiguous()
        ids = self.rasterize(scene).triangle_id
        flat = torch.zeros_like(grads[1])

        def whole() -> tuple[Tensor, ...]:
            found = self.rasterize(scene, threads)
            self.interpolate(scene, values, found, threads)
            by_value, by_weight = self.interpolate_backward(scene, values, found, grads[0], threads)
            return by_value, self.rasterize_backward(scene, found.triangle_id, by_weight, flat, threads)

        return {
            "forward": lambda: self.rasterize(scene, threads),
            "backward": lambda: self.rasterize_backward(scene, ids, *grads, threads),
            "whole": whole,
        }


def pytorch3d_times(scene: Scene, kernels: Any) -> tuple[float, float, Tensor, str]:
    """Seconds forward and backward, triangle ids, and how they were measured ("" or a note).

    Its CPU path tries every triangle at every pixel and takes seconds to minutes, so it runs once. It does a little
    more than the others: it also finds the distance to the triangle's edge.
    """
    batch, count = len(scene.clip), len(scene.faces)

    def run(items: int) -> tuple[float, float, Tensor]:
        corners = pytorch3d_corners(scene._replace(clip=scene.clip[:items]))
        first, counts = torch.arange(items) * count, torch.full((items,), count)
        neighbours = torch.full((items * count,), -1)
        size = scene.size, scene.size
        found: list[Tensor] = []
        forward = timed(
            lambda: found.extend(
                kernels.rasterize_meshes(
                    corners, first, counts, neighbours, size, 0.0, 1, 0, 0, scene.perspective, False, False
                )
            )
        )
        ids, depth, weights, distance = found
        grads = torch.ones_like(depth), torch.ones_like(weights), torch.zeros_like(distance)
        backward = timed(lambda: kernels.rasterize_meshes_backward(corners, ids, *grads, scene.perspective, False))
        return forward, backward, torch.where(ids[..., 0] < 0, -1, ids[..., 0] % count)

    forward, backward, ids = run(1)
    if batch == 1:
        return forward, backward, ids, ""
    if forward * batch > SLOW:
        return forward * batch, backward * batch, ids, f"one item's time times {batch}"
    return *run(batch), ""


def pytorch3d_corners(scene: Scene) -> Tensor:
    """(B * F, 3, 3): x to the left and y up, 1 at the border of the square picture; z in front of the camera."""
    x, y, z, w = scene.clip.unbind(-1)
    points = torch.stack([-x / w, -y / w, w if scene.perspective else z + 2], -1)
    return points[:, scene.faces].flatten(0, 1).contiguous()


def sim3dr_job(scene: Scene, module: Any) -> Job:
    """Sim3DR's triangle ids, weights and depth, one mesh after the other; it has no gradients."""
    half = scene.size / 2
    x, y, z, w = scene.clip.unbind(-1)
    # The nearest has the largest depth there; its pixel centres are whole numbers.
    points = torch.stack([(x / w + 1) * half - 0.5, (y / w + 1) * half - 0.5, -z / w], -1).contiguous().numpy()
    triangles = scene.faces.int().numpy()

    def draw() -> None:
        for vertices in points:
            depth = np.full((scene.size, scene.size), -np.inf, np.float32)
            ids = np.full((scene.size, scene.size), -1, np.int32)
            weights = np.zeros((scene.size, scene.size * 3), np.float32)
            module.rasterize_triangles(vertices, triangles, depth, ids, weights, len(triangles), scene.size, scene.size)

    return draw


def optional(name: str) -> ModuleType | None:
    """A module, None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def backends() -> list[str]:
    """Ours, without the slow reference and what is not installed or needs a GPU."""
    found = []
    tiny = torch.tensor([[[-1.0, -1.0, 0.0, 1.0], [1.0, -1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]]])
    for name in ("torch", "numba", "warp"):
        with contextlib.suppress(AboutfaceError):
            render.rasterize(tiny, torch.tensor([[0, 1, 2]]), (2, 2), backend=name)
            found.append(name)
    return found


def yardstick(report: Report) -> Yardstick | None:
    try:
        return Yardstick()
    except (OSError, subprocess.CalledProcessError) as error:
        report.details.append(f"No C++ yardstick: {error}.")
        return None


# Part "speed".

VERBS = ("forward", "backward", "whole")
Times = dict[str, dict[str, float]]
"""Seconds of each contestant (or None where it has no such verb), by verb."""


def measure_speed(report: Report, data: Path, cpp: Yardstick | None, cases: Sequence[str]) -> None:
    """Every contestant on every case; the ratios are those of one case, taken in turns."""
    torch.set_num_threads(1)
    ours, kernels = backends(), optional("pytorch3d._C")
    results: dict[str, Times] = {}
    unequal: dict[str, float] = {}
    theirs: list[str] = []
    for scene in scenes(data, cases):
        truth = render.rasterize(scene.clip, scene.faces, (scene.size, scene.size), backend="torch").triangle_id
        times = results[scene.name] = case_times(scene, ours, cpp, truth, unequal)
        if kernels is not None:
            forward, backward, ids, note = pytorch3d_times(scene, kernels)
            times["PyTorch3D"] = {"forward": forward, "backward": backward}
            share = 100 * float((ids != truth[: len(ids)]).float().mean())
            theirs.append(f"{scene.name} {share:.3f} %{note and f' ({note})'}")
    judge_speed(report, results, ours, unequal)
    if theirs:
        version = getattr(optional("pytorch3d"), "__version__", "of unknown version")
        told = f"PyTorch3D {version}, share of pixels with another triangle id than ours: "
        report.details.append(told + ", ".join(theirs) + ".")
    report.details.append("Milliseconds of CPU time on one thread, median:\n\n" + table_of_times(results))


def case_times(
    scene: Scene, ours: Sequence[str], cpp: Yardstick | None, truth: Tensor, unequal: dict[str, float]
) -> Times:
    """Times; and adds to `unequal` how many of a contestant's ids are not the true ones (B, H, W)."""
    contestants = {name: our_jobs(scene, name) for name in ours}
    if cpp is not None:
        contestants["C++"] = cpp.jobs(scene)
    for name, jobs in contestants.items():
        unequal[name] = unequal.get(name, 0) + int((jobs["forward"]().triangle_id != truth).sum())
    if module := optional("Sim3DR_Cython"):
        contestants["Sim3DR"] = {"forward": sim3dr_job(scene, module)}
    taken = take_turns({f"{name} {verb}": job for name, jobs in contestants.items() for verb, job in jobs.items()})
    return {name: {verb: taken[f"{name} {verb}"] for verb in jobs} for name, jobs in contestants.items()}


def judge_speed(report: Report, results: dict[str, Times], ours: Sequence[str], unequal: dict[str, float]) -> None:
    def ratios(kind: str, slow: str, fast: str, verb: str = "forward") -> dict[str, float]:
        return {
            case: times[slow][verb] / times[fast][verb]
            for case, times in results.items()
            if case.startswith(kind) and slow in times and fast in times
        }

    report.judge("speed", "triangle ids that differ from the torch backend's", unequal, high=0.0)
    for kind, bounds, yardstick_bound in (
        ("face", FACE_FORWARD, FACE_YARDSTICK),
        ("grid", GRID_FORWARD, GRID_YARDSTICK),
    ):
        for name, low in bounds.items():
            goal = f"{kind}s forward: {name}, times as fast as PyTorch3D"
            report.judge("speed", goal, ratios(kind, "PyTorch3D", name), low=low)
        goal = f"{kind}s forward: numba's time over that of our C++"
        report.judge("speed", goal, ratios(kind, "numba", "C++"), high=yardstick_bound)
    for name, low in BACKWARD.items():
        goal = f"backward: {name}, times as fast as PyTorch3D"
        report.judge("speed", goal, ratios("", "PyTorch3D", name, "backward"), low=low)
    name = "numba" if "numba" in ours else "torch"
    whole = {case: times[name]["whole"] / times[name]["forward"] for case, times in results.items()}
    goal = f"raster and interpolate, forward and backward, over the forward alone, {name}"
    report.judge("speed", goal, whole, high=WHOLE_OVER_FORWARD)


def table_of_times(results: dict[str, Times]) -> str:
    names = list(dict.fromkeys(name for times in results.values() for name in times))
    rows = []
    for verb in VERBS:
        for name in names:
            cells = [times.get(name, {}).get(verb) for times in results.values()]
            if any(cell is not None for cell in cells):
                rows.append([f"{name} {verb}", *("–" if cell is None else figure(1e3 * cell) for cell in cells)])
    return markdown(["", *results], rows)


# Part "threads".


def measure_threads(report: Report, data: Path, cpp: Yardstick | None) -> None:
    """Wall-clock time on two threads and on one: the shortest, or what else runs on the machine would be measured."""
    goal = "batch 8 forward: numba on 2 threads, times as fast as on 1"
    # Warp draws on one thread of the CPU.
    ours = [name for name in backends() if name != "warp"]
    rows, gained = [], dict[str, dict[str, float]]()
    for scene in (face_scene(data, 224, 8), face_scene(data, 256, 8), grid_scene(64, 16)):
        jobs: dict[str, Job] = {}
        for threads in (1, 2):
            for name in ours:
                for verb, job in our_jobs(scene, name).items():
                    jobs[f"{name} {verb} {threads}"] = on_threads(job, threads)
            if cpp is not None:
                jobs |= {f"C++ {verb} {threads}": job for verb, job in cpp.jobs(scene, threads).items()}
        times = shortest(jobs)
        for name in [*ours, "C++"] if cpp else ours:
            row = [scene.name, name]
            for verb in VERBS:
                one, two = times[f"{name} {verb} 1"], times[f"{name} {verb} 2"]
                row.append(f"{figure(1e3 * one)} → {figure(1e3 * two)} ({one / two:.2f})")
                if verb == "forward" and scene.name.startswith("face"):
                    gained.setdefault(name, {})[scene.name] = one / two
            rows.append(row)
    torch.set_num_threads(1)
    report.judge("threads", goal, gained.get("numba", {}), low=TWO_THREADS)
    ceiling = min(gained.get("C++", {"": np.inf}).values())
    if report.goals[-1].met is False and ceiling < TWO_THREADS:
        report.goals[-1].met = None
        report.goals[-1].measured += f"; our C++ {figure(ceiling)}: the second core was not free"
    head = ["case", "contestant", *VERBS]
    told = "Wall-clock milliseconds on one and on two threads, the shortest of many runs, and their ratio:\n\n"
    report.details.append(told + markdown(head, rows))


# Part "start": the first call of a process.

FIRST_CALL = """
import time, torch
from aboutface import render
clip = torch.tensor([[[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]]], requires_grad=True)
faces = torch.tensor([[0, 1, 2]])
start = time.perf_counter()
fragments = render.rasterize(clip, faces, (8, 8), backend="numba")
picture = render.interpolate(torch.rand(3, 3), fragments, faces, backend="numba").movedim(-1, 1)
render.antialias(picture, fragments, clip, faces, backend="numba").sum().backward()
print(time.perf_counter() - start)
"""
FIRST_CALL_SECONDS = 2.0


def measure_start(report: Report) -> None:
    """Every kernel, forward and backward, in a process that has to compile it and in others that find it compiled."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}

        def seconds() -> float:
            command = [sys.executable, "-c", FIRST_CALL]
            run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            return float(run.stdout.split()[-1])

        compiling, found = seconds(), [seconds() for _ in range(3)]
    goal = "seconds of a process's first calls of all kernels, forward and backward, compiled by an earlier one"
    report.judge("start", goal, {"numba": statistics.median(found)}, high=FIRST_CALL_SECONDS)
    report.details.append(f"The very first process, which compiles them: {figure(compiling)} s.")


def on_threads(job: Job, threads: int) -> Job:
    def run() -> None:
        torch.set_num_threads(threads)
        job()

    return run


# Part "step": what Unsup3d (Wu et al., CVPR 2020) does around its networks, once as it is written there, once ours.

FIELD_OF_VIEW = 10.0
NEAR, FAR = 0.5, 10.0
"""Planes of the clip space: nothing comes nearer, and the background is so far that a mixed pixel is out of range."""
DEPTHS = 0.8, 1.2
"""Depths of a pixel that shows the surface; others are clamped to these."""

DrawDepth = Callable[[Tensor, Tensor, tuple[int, int]], Tensor]
"""(vertices_clip, faces, size) to depth (B, H, W) as `rasterize` gives it."""


class Step(NamedTuple):
    """What networks would give for a batch of photos, N x N pixels each."""

    depth: Tensor
    """(B, N, N), about 1."""
    albedo: Tensor
    """(B, 3, N, N), -1 to 1."""
    light: Tensor
    """(B, 4): ambient, diffuse, and x and y of the direction (x, y, 1) in which the light travels."""
    rotation: Tensor
    """(B, 3, 3), about (0, 0, 1)."""
    shift: Tensor
    """(B, 3)."""
    photo: Tensor
    """(B, 3, N, N), -1 to 1; no gradient."""
    finer: int
    """The depth is drawn so many times finer and then averaged."""

    @property
    def factors(self) -> tuple[Tensor, ...]:
        return self[:5]


class Pictures(NamedTuple):
    """What comes out of a step."""

    image: Tensor
    """(B, 3, N, N)."""
    depth: Tensor
    """(B, N, N), in the photo's view."""
    normal: Tensor
    """(B, 3, N, N), away from the camera, of the depth map that came in."""
    seen_normal: Tensor
    """The same, of the depth in the photo's view."""


def make_step(batch: int, side: int, finer: int) -> Step:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) * 2 - 1

    albedo = F.interpolate(0.8 * random(batch, 3, 8, 8), (side, side), mode="bilinear")
    light = torch.tensor([0.4, 0.6, 0.3, -0.2]) + 0.1 * random(batch, 4)
    factors = relief(side, batch), albedo, light, yaw_matrix(0.6 * random(batch)), 0.01 * random(batch, 3)
    depth, albedo, light, rotation, shift = (factor.requires_grad_() for factor in factors)
    return Step(depth, albedo, light, rotation, shift, random(batch, 3, side, side), finer)


def camera_matrix(side: int, centre: float) -> Tensor:
    focal = (side - 1) / 2 / np.tan(np.radians(FIELD_OF_VIEW / 2))
    return torch.tensor([[focal, 0.0, centre], [0.0, focal, centre], [0.0, 0.0, 1.0]], dtype=torch.float32)


def camera_depth(depth: Tensor) -> Tensor:
    """z in camera space of z / w in clip space."""
    return 2 * FAR * NEAR / ((FAR + NEAR) - depth * (FAR - NEAR))


def step_loss(pictures: Pictures, step: Step) -> Tensor:
    return (pictures.image - step.photo).abs().mean() + (pictures.depth - step.depth.detach()).abs().mean()


def plain_step(step: Step, draw: DrawDepth, epsilon: float = 1e-7) -> Pictures:
    """The original's operations in the original's layout, channels last. Pixel centres are whole numbers in it."""
    batch, side, _ = step.depth.shape
    K = camera_matrix(side, (side - 1) / 2)
    inverse = torch.inverse(K)
    normal = plain_normals(step.depth, inverse, epsilon)
    direction = torch.cat([step.light[:, 2:], torch.ones(batch, 1)], 1)
    direction = direction / (direction**2).sum(1, keepdim=True) ** 0.5
    lambert = (normal * direction.view(-1, 1, 1, 3)).sum(3).clamp(min=0).unsqueeze(1)
    shading = step.light[:, 0].view(-1, 1, 1, 1) + step.light[:, 1].view(-1, 1, 1, 1) * lambert
    texture = (step.albedo / 2 + 0.5) * shading * 2 - 1

    centre = torch.tensor([0.0, 0.0, 1.0]).view(1, 1, 3)
    points = plain_points(step.depth, inverse).view(batch, -1, 3)
    moved = (points - centre).matmul(step.rotation.transpose(2, 1)) + centre + step.shift.unsqueeze(1)
    size = side * step.finer, side * step.finer
    matrix = clip_from_camera(scaled(camera_matrix(side, side / 2), step.finer), size, NEAR, FAR)
    clip = torch.cat([moved, torch.ones_like(moved[..., :1])], 2).matmul(matrix.t())
    depth = camera_depth(draw(clip, grid_faces(side, side), size))
    if step.finer > 1:
        depth = F.avg_pool2d(depth.unsqueeze(1), step.finer).squeeze(1)
    depth = depth.clamp(*DEPTHS)
    seen_normal = plain_normals(depth, inverse, epsilon)

    seen = plain_points(depth, inverse).view(batch, -1, 3)
    back = (seen - step.shift.unsqueeze(1) - centre).matmul(step.rotation) + centre
    pixels = (back / back[..., 2:]).matmul(K.t())[..., :2]
    grid = (pixels / (side - 1) * 2 - 1).view(batch, side, side, 2)
    image = F.grid_sample(texture, grid, mode="bilinear", align_corners=True)
    return Pictures(image, depth, normal.permute(0, 3, 1, 2), seen_normal.permute(0, 3, 1, 2))


def plain_points(depth: Tensor, inverse: Tensor) -> Tensor:
    """Camera-space points (B, N, N, 3)."""
    y, x = torch.meshgrid(*[torch.arange(side).float() for side in depth.shape[1:]], indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1).unsqueeze(0)
    return pixels.matmul(inverse.t()) * depth.unsqueeze(-1)


def plain_normals(depth: Tensor, inverse: Tensor, epsilon: float) -> Tensor:
    """(B, N, N, 3); (0, 0, 1) at the border."""
    points = plain_points(depth, inverse)
    along = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    normal = torch.cross(along, down, dim=3)
    batch, side, _ = depth.shape
    ahead = torch.tensor([0.0, 0.0, 1.0])
    column, row = ahead.repeat(batch, side - 2, 1, 1), ahead.repeat(batch, 1, side, 1)
    normal = torch.cat([row, torch.cat([column, normal, column], 2), row], 1)
    return normal / ((normal**2).sum(3, keepdim=True) ** 0.5 + epsilon)


def our_step(step: Step, draw: DrawDepth) -> Pictures:
    """The same pictures, channels first. From depth map to clip space, and back to the map, is one matrix per item."""
    batch, side, _ = step.depth.shape
    K = camera_matrix(side, side / 2)
    inverse = torch.linalg.inv(K)
    normal = depth_normals(step.depth, K)
    direction = F.normalize(F.pad(step.light[:, 2:], (0, 1), value=1.0), dim=1)
    # Ours point towards the camera, the original's away from it.
    lambert = (-direction[:, None] @ normal.flatten(2)).view(batch, 1, side, side).clamp_min(0)
    ambient, diffuse = step.light[:, :2, None, None, None].unbind(1)
    texture = (step.albedo + 1) * torch.addcmul(ambient, lambert, diffuse) - 1

    centre = torch.tensor([0.0, 0.0, 1.0])
    size = side * step.finer, side * step.finer
    matrix = clip_from_camera(scaled(K, step.finer), size, NEAR, FAR)
    clip_from_map = matrix[:, :3] @ step.rotation @ inverse
    offset = (centre + step.shift - step.rotation[:, :, 2]) @ matrix[:, :3].mT + matrix[:, 3]
    clip = mapped(step.depth, clip_from_map, offset).mT.contiguous()
    depth = camera_depth(draw(clip, grid_faces(side, side), size))
    if step.finer > 1:
        depth = F.avg_pool2d(depth[:, None], step.finer)[:, 0]
    depth = depth.clamp(*DEPTHS)
    seen_normal = depth_normals(depth, K)

    # Positions from -1 to 1 as grid_sample takes them.
    unit = scaled(K, 2 / side) - torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    offset = (centre - ((step.shift + centre)[:, None] @ step.rotation)[:, 0]) @ unit.mT
    places, away = mapped(depth, unit @ step.rotation.mT @ inverse, offset).split([2, 1], 1)
    grid = (places / away).view(batch, 2, side, side).permute(0, 2, 3, 1)
    image = F.grid_sample(texture, grid, mode="bilinear", align_corners=False)
    return Pictures(image, depth, -normal, -seen_normal)


def scaled(K: Tensor, factor: float) -> Tensor:
    return K * torch.tensor([[factor], [factor], [1.0]])


def mapped(depth: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """matrix (B, C, 3) @ (pixel * depth) + offset (B, C), for all pixels of depth maps (B, N, N): (B, C, N * N)."""
    side = depth.shape[-1]
    centres = torch.arange(side) + 0.5
    pixels = torch.stack([centres.repeat(side), centres.repeat_interleave(side), torch.ones(side * side)])
    return torch.baddbmm(offset[..., None], matrix, depth.flatten(1)[:, None] * pixels)


def drawing_depth(backend: str) -> DrawDepth:
    return lambda clip, faces, size: render.rasterize(clip, faces, size, backend=backend).depth


def watched(draw: DrawDepth, spent: list[float]) -> DrawDepth:
    """The same, noting the seconds of each forward and backward pass."""

    def drawn(clip: Tensor, faces: Tensor, size: tuple[int, int]) -> Tensor:
        start = time.process_time()
        depth = draw(clip, faces, size)
        spent.append(time.process_time() - start)
        begun: list[float] = []
        depth.register_hook(lambda grad: begun.append(time.process_time()))
        clip.register_hook(lambda grad: spent.append(time.process_time() - begun.pop()))
        return depth

    return drawn


def measure_step(report: Report, sizes: Sequence[tuple[int, int, int]]) -> None:
    """Batch, side, supersampling: the step forward and backward, as the original has it and ours."""
    torch.set_num_threads(1)
    backend = "numba" if "numba" in backends() else "torch"
    draw = drawing_depth(backend)
    rows, ratios, differences = [], {}, {}
    shares: dict[int, dict[str, float]] = {1: {}, 2: {}}
    for batch, side, finer in sizes:
        step, name = make_step(batch, side, finer), f"B{batch} {side} px {finer}x"
        exact, ours = plain_step(step, draw, 0.0), our_step(step, draw)
        differences[name] = max(float((a - b).detach().abs().max()) for a, b in zip(exact, ours, strict=True))
        rounded = float((plain_step(step, draw).image - ours.image).detach().abs().max())
        jobs: dict[str, Job] = {}
        spent: dict[str, list[float]] = {"plain": [], "ours": []}
        for kind, function in (("plain", plain_step), ("ours", our_step)):
            jobs[kind] = step_job(step, function, draw)
            jobs[f"{kind} watched"] = step_job(step, function, watched(draw, spent[kind]))
        times = take_turns(jobs)
        raster = {
            kind: statistics.median(f + b for f, b in zip(seconds[::2], seconds[1::2], strict=True))
            for kind, seconds in spent.items()
        }
        ratios[name] = times["ours"] / times["plain"]
        shares[finer][name] = raster["plain"] / times["plain"]
        cells = [1e3 * times["plain"], 1e3 * times["ours"], ratios[name], 1e3 * raster["ours"]]
        cells += [100 * raster[kind] / times[kind] for kind in ("plain", "ours")]
        rows.append([name, *map(figure, cells), f"{differences[name]:.1e}", f"{rounded:.1e}"])
    report.judge("step", "largest difference between the two steps' pictures", differences, high=1e-3)
    for finer, high in RASTER_SHARE.items():
        goal = f"rasterisation's share of an Unsup3d-style step, {finer}x supersampling, {backend}"
        report.judge("step", goal, shares[finer], high=high)
    report.judge("step", "our step's time over that of its transcription", ratios, high=STEP_RATIO)
    head = ["case", "transcription ms", "ours ms", "ratio", "raster ms in ours", "raster % of transcription"]
    head += ["raster % of ours", "difference", "difference with 1e-7"]
    report.details.append(STEP_TOLD.format(backend=backend) + "\n\n" + markdown(head, rows))


STEP_TOLD = """\
The step: shade the canonical depth by its normals, move it into the photo's view, rasterise ({backend}), normals of \
that depth, warp the texture with it, L1 to a photo and to a depth; forward, and backward to depth, albedo, light and \
view; no networks. The transcription keeps the original's operations and layout and uses the same rasteriser. \
"Difference" is the largest one of any picture without the original's 1e-7 in the length of a normal, the last column \
that of the image with it: it makes normals up to 1.5 % short."""


def step_job(step: Step, function: Callable[[Step, DrawDepth], Pictures], draw: DrawDepth) -> Job:
    return lambda: torch.autograd.grad(step_loss(function(step, draw), step), step.factors)


# Part "growth".

SWEEP_SIDES, SWEEP_SIZES = (33, 57, 101, 174, 317), (64, 128, 256, 512, 1024)
"""Points along each side of a relief: 2,048 to 199,712 triangles; and pixels along each side of its picture."""
MIDDLE_SIDE, MIDDLE_SIZE = 101, 256
EXTRA = 1.2
"""How much more memory than twice as much for twice as many is let pass: allocators round."""
PRODUCT = 2.0
"""The like for many triangles and pixels at once: backward passes sum up to eight bands of rows by themselves. A buffer
of pixels x triangles, one bit each, would be some hundred times over this."""


def sweep() -> list[tuple[int, int]]:
    """(side, size): both sweeps and the corners."""
    points = [(side, MIDDLE_SIZE) for side in SWEEP_SIDES] + [(MIDDLE_SIDE, size) for size in SWEEP_SIZES]
    points += [(side, size) for side in (SWEEP_SIDES[0], SWEEP_SIDES[-1]) for size in (SWEEP_SIZES[0], SWEEP_SIZES[-1])]
    return sorted(set(points))


def measure_growth(report: Report, cpp: Yardstick | None, pictures: Path | None) -> None:
    """Time, and in a process of its own memory, of forward and backward passes."""
    torch.set_num_threads(1)
    ours = backends()
    seconds: dict[str, dict[tuple[int, int], float]] = {}
    for side, size in sweep():
        scene = grid_scene(side, 1, size)
        jobs = {name: our_jobs(scene, name)["whole"] for name in ours}
        if cpp is not None:
            jobs["C++"] = cpp.jobs(scene)["whole"]
        for name, value in take_turns(jobs).items():
            seconds.setdefault(name, {})[side, size] = value
    megabytes = {name: found for name in ours if (found := memory_in_child(name))}
    judge_growth(report, megabytes)
    told = (
        "One relief, raster and interpolation, forward and backward; milliseconds on one thread and megabytes at most:"
    )
    rows = []
    for side, size in sweep():
        row = [f"{triangles(side):,}", str(size)]
        row += [figure(1e3 * found[side, size]) for found in seconds.values()]
        row += [figure(found[side, size]) for found in megabytes.values()]
        rows.append(row)
    head = ["triangles", "pixels a side", *(f"{name} ms" for name in seconds), *(f"{name} MB" for name in megabytes)]
    report.details.append(told + "\n\n" + markdown(head, rows))
    if pictures is not None:
        draw_growth(report, pictures, seconds, megabytes)


def triangles(side: int) -> int:
    return 2 * (side - 1) ** 2


def judge_growth(report: Report, megabytes: dict[str, dict[tuple[int, int], float]]) -> None:
    """Linear in each, and no term with their product: then no buffer of pixels x triangles can be there."""
    few, many = SWEEP_SIDES[0], SWEEP_SIDES[-1]
    small, large = SWEEP_SIZES[0], SWEEP_SIZES[-1]
    checks: dict[str, tuple[dict[str, float], float]] = {
        f"memory, {triangles(MIDDLE_SIDE):,} → {triangles(many):,} triangles": (
            {name: found[many, MIDDLE_SIZE] / found[MIDDLE_SIDE, MIDDLE_SIZE] for name, found in megabytes.items()},
            EXTRA * triangles(many) / triangles(MIDDLE_SIDE),
        ),
        f"memory, {MIDDLE_SIZE}² → {large}² pixels": (
            {name: found[MIDDLE_SIDE, large] / found[MIDDLE_SIDE, MIDDLE_SIZE] for name, found in megabytes.items()},
            EXTRA * (large / MIDDLE_SIZE) ** 2,
        ),
        "memory of many triangles and pixels over that of many of each alone": (
            {name: f[many, large] / (f[many, small] + f[few, large]) for name, f in megabytes.items()},
            PRODUCT,
        ),
    }
    for goal, (values, high) in checks.items():
        report.judge("growth", goal, values, high=high)


def memory_in_child(backend: str) -> dict[tuple[int, int], float]:
    """Megabytes at most of every point of the sweep; empty where the system does not tell."""
    command = [sys.executable, __file__, "--memory-of", backend]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    return {(int(side), int(size)): float(value) for side, size, value in map(str.split, filter(None, lines))}


def print_memory(backend: str) -> None:
    """One line for each point: side, size, megabytes. Prints nothing where there is no /proc."""
    torch.set_num_threads(1)
    if not Path("/proc/self/clear_refs").exists():
        return
    with contextlib.suppress(OSError, AttributeError):
        # Large blocks go back to the system when they are freed, or the peak would hide in what is kept.
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 16)
        libc.mallopt(-1, 0)
    our_jobs(grid_scene(SWEEP_SIDES[0], 1, SWEEP_SIZES[0]), backend)["whole"]()
    for side, size in sweep():
        job = our_jobs(grid_scene(side, 1, size), backend)["whole"]
        Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmRSS")
        job()
        print(side, size, memory("VmHWM") - before)


def memory(kind: str) -> float:
    """A line of this process's status in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) * 1024 / 1e6


def draw_growth(
    report: Report, folder: Path, seconds: dict[str, Any], megabytes: dict[str, dict[tuple[int, int], float]]
) -> None:
    """render-growth-time.png and render-growth-memory.png."""
    pyplot = optional("matplotlib.pyplot")
    if pyplot is None:
        report.details.append("No plots: matplotlib is not installed.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    for kind, unit, found, factor in (("time", "ms", seconds, 1e3), ("memory", "MB", megabytes, 1.0)):
        plot, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True)
        for name, points in found.items():
            up = [(triangles(side), factor * points[side, MIDDLE_SIZE]) for side in SWEEP_SIDES]
            wide = [(size * size, factor * points[MIDDLE_SIDE, size]) for size in SWEEP_SIZES]
            for axis, line in zip(axes, (up, wide), strict=True):
                axis.loglog(*zip(*line, strict=True), marker="o", label=name)
        axes[0].set(xlabel=f"triangles ({MIDDLE_SIZE} x {MIDDLE_SIZE} pixels)", ylabel=f"{kind}, {unit}")
        axes[1].set(xlabel=f"pixels ({triangles(MIDDLE_SIDE):,} triangles)")
        for axis in axes:
            axis.grid(alpha=0.3)
            axis.legend()
        plot.tight_layout()
        plot.savefig(folder / f"render-growth-{kind}.png", dpi=100)
        pyplot.close(plot)
        report.details.append(f"![{kind}](images/render-growth-{kind}.png)")


# On a GPU.

GPU_SIZES, GPU_BATCHES = (64, 256, 1024), (1, 8, 64)
GPU_TURNS = 20


def measure_cuda(report: Report, data: Path) -> None:
    """Milliseconds forward and backward of every contestant that runs on the GPU; there are no goals."""
    rows, names = [], list[str]()
    for size in GPU_SIZES:
        for batch in GPU_BATCHES:
            scene = face_scene(data, size, batch)
            times = {name: cuda_times(jobs) for name, jobs in cuda_jobs(report, scene)}
            names = list(dict.fromkeys([*names, *times]))
            rows.append((scene.name, times))
    cells = [[name, *(times.get(contestant, "–") for contestant in names)] for name, times in rows]
    told = f"{torch.cuda.get_device_name()}: milliseconds forward / backward, median of {GPU_TURNS}:\n\n"
    report.details.append(told + markdown(["case", *names], cells))


def cuda_jobs(report: Report, scene: Scene) -> Iterator[tuple[str, dict[str, Job]]]:
    there = scene._replace(clip=scene.clip.cuda(), faces=scene.faces.cuda())
    for name in ("torch", "warp", "nvdiffrast"):
        try:
            yield name, our_jobs(there, name)
        except AboutfaceError as error:
            note = f"{name}: {error}."
            if note not in report.details:
                report.details.append(note)
    if kernels := optional("pytorch3d._C"):
        yield "PyTorch3D", pytorch3d_cuda_jobs(there, kernels)


def pytorch3d_cuda_jobs(scene: Scene, kernels: Any) -> dict[str, Job]:
    """With the bins and their room that its own Python chooses for such sizes."""
    batch, count = len(scene.clip), len(scene.faces)
    corners = pytorch3d_corners(scene)
    first, counts = torch.arange(batch).cuda() * count, torch.full((batch,), count).cuda()
    neighbours = torch.full((batch * count,), -1).cuda()
    bins = 8 if scene.size <= 64 else 2 ** int(max(np.ceil(np.log2(scene.size)) - 4, 4))
    room = max(10000, batch * count // 5)
    tail = (0.0, 1, bins, room, scene.perspective, False, False)

    def forward() -> tuple[Tensor, ...]:
        return kernels.rasterize_meshes(corners, first, counts, neighbours, (scene.size, scene.size), *tail)

    ids, depth, weights, distance = forward()
    grads = torch.ones_like(depth), torch.ones_like(weights), torch.zeros_like(distance)

    def backward() -> Tensor:
        return kernels.rasterize_meshes_backward(corners, ids, *grads, scene.perspective, False)

    return {"forward": forward, "backward": backward}


def cuda_times(jobs: dict[str, Job]) -> str:
    try:
        return " / ".join(figure(1e3 * cuda_time(jobs[verb])) for verb in ("forward", "backward"))
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return "out of memory"


def cuda_time(job: Job) -> float:
    """Median seconds between two events on the GPU."""
    taken = []
    for turn in range(GPU_TURNS + 3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        job()
        end.record()
        end.synchronize()
        if turn >= 3:
            taken.append(start.elapsed_time(end) / 1e3)
    return statistics.median(taken)


# The program.


def machine() -> str:
    """One paragraph: when, on what, with which versions."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    git = ["git", "-C", str(Path(__file__).resolve().parents[1])]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False).stdout
    numba = optional("numba")
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit.strip() or 'unknown'}{' with changes' if status else ''}, "
        f"{cpu}, {os.cpu_count()} cores, load average at start {os.getloadavg()[0]:.2f}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"numba {numba.__version__ if numba else 'absent'}, aboutface {aboutface.__version__}."
    )


ABOUT = """\
Ratios are of medians of one run, in which the contestants take turns (some runs in a row, the first does not count): \
trust them, not the milliseconds. Forward: triangle ids, barycentrics and depth; backward: from those two to the \
vertices; whole: both, with three interpolated attributes and their gradient. Times of one thread are CPU time. \
PyTorch3D runs once for each case; its CPU path tries every triangle at every pixel. C++ is benchmarks/yardstick.cpp, \
compiled here with -O3 -march=native. A face is the ICT neutral one, 18,460 triangles, orthographic, yaw up to \
±0.5 rad; a grid is a relief of as many points as pixels, field of view 10°, yaw up to ±0.6 rad."""


def document(report: Report, about: str) -> str:
    """The page for docs/."""
    title = "# Benchmark: the renderer"
    origin = "Written by `python benchmarks/render.py --check --write docs/benchmark-render.md`; do not edit."
    return "\n\n".join([title, origin, about, report.table(), ABOUT, "## Details", *report.details]) + "\n"


def data_folder(given: Path | None) -> Path:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return given or Path(os.environ.get("ABOUTFACE_DATA") or default)


STEP_SIZES = ((16, 64, 1), (64, 64, 1), (16, 128, 1), (16, 64, 2), (64, 64, 2))


def measure(data: Path, parts: Sequence[str], cases: Sequence[str] = CASES, pictures: Path | None = None) -> Report:
    """Run the parts; the table follows their order in PARTS."""
    report = Report()
    cpp = yardstick(report)
    if "speed" in parts:
        measure_speed(report, data, cpp, cases)
    if "threads" in parts:
        measure_threads(report, data, cpp)
    if "start" in parts:
        measure_start(report)
    if "step" in parts:
        measure_step(report, STEP_SIZES)
    if "growth" in parts:
        measure_growth(report, cpp, pictures)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the face model")
    parser.add_argument("--check", action="store_true", help="exit 1, naming each missed goal")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the page; for a whole run only")
    parser.add_argument("--only", metavar="PARTS", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--cases", metavar="NAMES", help=f"of part speed, some of {','.join(CASES)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: times on a GPU instead")
    parser.add_argument("--memory-of", metavar="BACKEND", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.memory_of:
        print_memory(asked.memory_of)
        return 0
    parts = asked.only.split(",") if asked.only else PARTS
    cases = asked.cases.split(",") if asked.cases else CASES
    for option, given, known in (("--only", parts, PARTS), ("--cases", cases, CASES)):
        if unknown := set(given) - set(known):
            parser.error(f"{option}: {', '.join(sorted(unknown))} is not among {', '.join(known)}")
    if asked.write and (asked.only or asked.cases or asked.device == "cuda"):
        parser.error("--write needs the whole run: leave --only, --cases and --device out")
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU that PyTorch can use")
    data = data_folder(asked.data)
    if not (data / "ict-facekit-light.npz").is_file():
        parser.error(f"no ict-facekit-light.npz at {data}: give --data or set ABOUTFACE_DATA")
    about = machine()
    if asked.device == "cuda":
        report = Report()
        measure_cuda(report, data)
        return conclude(report, about, asked.check)
    pictures = asked.write.parent / "images" if asked.write else None
    report = measure(data, parts, cases, pictures)
    if asked.write:
        asked.write.write_text(document(report, about), "utf-8")
    return conclude(report, about, asked.check)


def conclude(report: Report, about: str, check: bool) -> int:
    """Print everything; the exit code is 1 where goals are missed and that was asked for."""
    print(about, report.table(), *report.details, sep="\n\n")
    if not check:
        return 0
    missed = report.missed()
    for goal in missed:
        print(f"missed: {goal.part}: {goal.goal}: {goal.measured}, wanted {goal.bound}", file=sys.stderr)
    for goal in (goal for goal in report.goals if goal.met is None):
        print(f"not measured: {goal.part}: {goal.goal}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
