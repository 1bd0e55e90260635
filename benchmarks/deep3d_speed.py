"""From a photo and its landmarks to a face in 3D: our small network beside the published R-Net, on one machine.

    python benchmarks/deep3d_speed.py                             # two minutes
    python benchmarks/deep3d_speed.py --model FILE.safetensors --check --write docs/benchmark-deep3d-speed.md

Sizes decide, not weights: R-Net has random ones, and a model of the size of Deep3D's Basel face with random modes
stands for the licensed one. `--check` exits 1 naming each missed goal.
"""

import os

# Waiting threads must not spin: on a shared machine that makes everything many times slower. Read when torch starts.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aboutface.data.crop import cut
from aboutface.images import to_tensor
from aboutface.morphable import MeanHead, MorphableModel
from aboutface.nn.mobile import fused
from aboutface.nn.resnet import resnet50
from aboutface.reconstruct.deep3d import Coefficients, Layout, RNet
from aboutface.reconstruct.deep3d_batches import FaceIn, look
from aboutface.reconstruct.deep3d_draw import Basis, landmarks, lit, posed
from aboutface.reconstruct.deep3d_frame import (
    ICT_FIVE,
    align_published,
    crop_from_photo,
    crop_published,
    five_from_68,
)
from aboutface.reconstruct.deep3d_landmarks import FaceRegressor
from render import Report, figure, machine, markdown, shortest, take_turns

NETWORK_GOAL, MESH_GOAL, RATIO_GOAL, GROWTH_GOAL = 12.0, 2.0, 5.0, 16.0
BASEL = (35709, 70789)
"""Vertices and triangles of the published crop of the Basel face."""
FOLDER, BATCHES = 512, (1, 8, 32)

Job = Callable[[], object]


@dataclass(frozen=True, eq=False)
class Contestant:
    """The steps from a photo with landmarks to a coloured mesh before the camera, with its 68 landmarks in the crop."""

    crop: Callable[[FaceIn], Tensor]
    network: Callable[[Tensor], Coefficients]
    basis: Basis

    def mesh(self, found: Coefficients) -> Tensor:
        return posed(self.basis, found)

    def rest(self, found: Coefficients, vertices: Tensor) -> tuple[Tensor, Tensor]:
        return lit(self.basis, vertices, self.basis.colours(found), found.gamma), landmarks(self.basis, vertices)

    def whole(self, face: FaceIn) -> tuple[Tensor, Tensor]:
        found = self.network(self.crop(face))
        return self.rest(found, self.mesh(found))

    def jobs(self, face: FaceIn) -> dict[str, Job]:
        crop = self.crop(face)
        found = self.network(crop)
        vertices = self.mesh(found)
        return {
            "crop": lambda: self.crop(face),
            "network": lambda: self.network(crop),
            "mesh": lambda: self.mesh(found),
            "colours and landmarks": lambda: self.rest(found, vertices),
            "whole": lambda: self.whole(face),
        }


def contestants(net: FaceRegressor, model: MorphableModel | None) -> dict[str, Contestant]:
    basis = random_basis(net.settings.layout, 6706, 13120) if model is None else net.basis(model)
    quick = fused(net).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    size = net.settings.trunk.size

    def own_crop(face: FaceIn) -> Tensor:
        matrix = torch.linalg.inv(crop_from_photo(five_from_68(face.landmarks.double()), ICT_FIVE, size))
        return to_tensor(cut(face.pixels, matrix.numpy(), size)).contiguous(memory_format=torch.channels_last)

    def published_crop(face: FaceIn) -> Tensor:
        five = (five_from_68(face.landmarks.double()) - 0.5).numpy()
        return to_tensor(crop_published(face.pixels, align_published(five, face.pixels.shape[:2])))

    published = RNet(resnet50()).eval()
    quick_published = fused(published).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    basel = random_basis(Layout(), *BASEL)
    return {
        "ours": Contestant(own_crop, lambda x: quick(x).coefficients, basis),
        "published": Contestant(published_crop, published, basel),
        "published, fused": Contestant(
            lambda face: published_crop(face).contiguous(memory_format=torch.channels_last), quick_published, basel
        ),
    }


def random_basis(layout: Layout, vertices: int, faces: int) -> Basis:
    """A model of these sizes."""
    draw = torch.Generator().manual_seed(0)

    def values(*shape: int) -> Tensor:
        return 0.01 * torch.randn(*shape, generator=draw)

    return Basis(
        mean=values(vertices, 3),
        identity=values(layout.identity, vertices, 3),
        expression=values(layout.expression, vertices, 3),
        albedo_mean=torch.full((vertices, 3), 0.5),
        albedo=values(layout.albedo, vertices, 3),
        faces=torch.randint(vertices, (faces, 3), generator=draw),
        landmark_corners=torch.randint(vertices, (68, 1), generator=draw),
        landmark_weights=torch.ones(68, 1),
    )


def some_face(size: int = 512) -> FaceIn:
    """A photo of noise, with the mean face's landmarks in its middle."""
    points = MeanHead.load().landmarks[:, :2]
    low, high = points.amin(0), points.amax(0)
    points = (points - (low + high) / 2) * (0.5 * size / float((high - low).max())) + size / 2
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return FaceIn(pixels, points)


def measure_one(report: Report, racers: dict[str, Contestant]) -> None:
    face = some_face()
    jobs = {f"{name} {part}": job for name, racer in racers.items() for part, job in racer.jobs(face).items()}
    with torch.inference_mode():
        torch.set_num_threads(1)
        one = take_turns(jobs)
        torch.set_num_threads(2)
        two = shortest(jobs)
    ratios = {f"than {name}": two[f"{name} whole"] / two["ours whole"] for name in racers if name != "ours"}
    cpu = {f"than {name}": one[f"{name} whole"] / one["ours whole"] for name in racers if name != "ours"}
    ahead = 1e3 * (two["ours crop"] + two["ours network"])
    report.judge("network", "ms from the photo's crop to coefficients, 2 threads", {"ours": ahead}, high=NETWORK_GOAL)
    report.judge(
        "mesh", "ms from coefficients to the posed mesh, 2 threads", {"": 1e3 * two["ours mesh"]}, high=MESH_GOAL
    )
    report.judge("whole", "times as fast as R-Net, wall clock, 2 threads", ratios, RATIO_GOAL)
    report.judge("whole", "times as fast as R-Net, CPU, 1 thread", cpu, RATIO_GOAL)
    rows = [
        [part, *(figure(1e3 * seconds[f"{name} {part}"]) for name in racers for seconds in (two, one))]
        for part in ("crop", "network", "mesh", "colours and landmarks", "whole")
    ]
    head = ["ms", *(f"{name}, {what}" for name in racers for what in ("2 threads", "CPU of 1"))]
    text = (
        "A photo of 512 x 512 with landmarks. On two threads the shortest wall-clock time of many runs, on one the "
        "median CPU time. Published: resize and crop by Pillow, ResNet-50 at 224 px in PyTorch, the Basel face's "
        "35,709 vertices; fused: the same with batch norms folded and channels last, as ours."
    )
    report.details.append(f"## One photo\n\n{text}\n\n{markdown(head, rows)}")


def measure_folder(report: Report, net: FaceRegressor) -> None:
    quick = fused(net).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    torch.set_num_threads(2)
    face, rows, growth = some_face(256), [], {}

    def folder() -> Iterator[FaceIn]:
        """Pixels are made anew for each, as if they were read."""
        for _ in range(FOLDER):
            yield face._replace(pixels=face.pixels.copy())

    for batch in BATCHES:
        seen, sizes, start = 0, [], time.perf_counter()
        for answer in look(quick, folder(), batch):
            seen += len(answer.landmarks)
            sizes.append(resident())
        seconds = time.perf_counter() - start
        assert seen == FOLDER
        growth[f"batch {batch}"] = max(sizes) - max(sizes[: max(1, len(sizes) // 4)])
        rows.append([str(batch), figure(FOLDER / seconds), figure(max(sizes)), figure(growth[f"batch {batch}"])])
    report.judge("folder", "MiB that memory grows by after a quarter of it", growth, high=GROWTH_GOAL)
    head = ["batch", "photos per second", "most memory, MiB", "growth, MiB"]
    text = f"{FOLDER} photos of 256 x 256 in memory: crop, network, coefficients and landmarks, on two threads."
    report.details.append(f"## Many photos\n\n{text}\n\n{markdown(head, rows)}")


def resident() -> float:
    """MiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def document(report: Report, about: str, command: str) -> str:
    """The page for docs/."""
    title = "# Benchmark: from a photo to a face in 3D"
    origin = f"Written by `python benchmarks/deep3d_speed.py {command}`; do not edit."
    return "\n\n".join([title, origin, about, report.table(), *report.details]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="weights of the small network; random ones of its sizes if missing")
    parser.add_argument("--ict", type=Path, help="the ICT model; a random one of its size if missing")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parser.add_argument("--write", type=Path, help="page to write")
    asked = parser.parse_args(arguments)
    net = FaceRegressor().eval() if asked.model is None else FaceRegressor.from_file(asked.model)
    model = None if asked.ict is None else MorphableModel.load(asked.ict).part("front")
    about, report = machine(), Report()
    measure_one(report, contestants(net, model))
    measure_folder(report, net)
    if asked.write:
        command = " ".join(sys.argv[1:] if arguments is None else arguments)
        asked.write.write_text(document(report, about, command), "utf-8")
    print(about, report.table(), *report.details, sep="\n\n")
    missed = report.missed() if asked.check else []
    for goal in missed:
        print(f"missed: {goal.part}: {goal.goal}: {goal.measured}, wanted {goal.bound}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
