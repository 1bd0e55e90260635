"""One training step of Unsup3d at its published size, ours beside its transcription; and one pass of the 128 px model.

    python benchmarks/unsup3d_step.py                             # about a quarter of an hour
    python benchmarks/unsup3d_step.py --batch 4 --width 16 --rounds 1 --features filters      # a quick look
    python benchmarks/unsup3d_step.py --check --write docs/benchmark-unsup3d-step.md

Ours draws with the default renderer, the transcription (unsup3d_transcription.py) with the reference renderer; it is
also timed with the default one, which tells the renderer's part of the difference from the rest. Features are VGG16's
(weights of no meaning, which take the same time) or the fixed filters, the same for all. `--check` exits 1 naming each
missed goal.
"""

import os

# Waiting threads must not spin: on a shared machine that makes everything many times slower. Read when torch starts.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import functools
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import unsup3d_transcription as transcription
from aboutface.nn.perceptual import FilterFeatures, VGG16Features
from aboutface.recipes.unsup3d import Unsup3dTask, variants
from aboutface.reconstruct.unsup3d import Unsup3d, Unsup3dSettings
from aboutface.render import reproject
from aboutface.weights import load_file
from render import Report, figure, machine, markdown, shortest, take_turns

STEP_GOAL, PASS_GOAL = 2.0, 60.0

OURS, REFERENCE, DEFAULT = "ours", "transcription, reference renderer", "transcription, default renderer"
STAGES = {
    "networks forward": "the five networks",
    "networks backward": "",
    "drawing forward": "depth maps of the turned surfaces, and of their mirrored twins",
    "drawing backward": "",
    "features forward": "of the reconstructions and the images",
    "features backward": "",
    "optimiser": "",
}
REST = "all else"

Clock = Callable[[], float]


# Watching the parts of a step.


class Watch:
    """CPU seconds of the parts of a step, by name. The backward pass of one part runs in a piece."""

    def __init__(self, clock: Clock = time.process_time) -> None:
        self.clock = clock
        self.spent: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = self.clock()
        yield
        self.spent[stage] += self.clock() - start

    def begin(self, stage: str) -> None:
        self.spent[stage] -= self.clock()

    def end(self, stage: str) -> None:
        self.spent[stage] += self.clock()


class Mark(torch.autograd.Function):
    """Leaves values as they are, and tells when their gradient arrives."""

    @staticmethod
    def forward(ctx: Any, tell: Callable[[], None], value: Tensor) -> Tensor:
        ctx.tell = tell
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        ctx.tell()
        return None, grads[0]


def watch_function(watch: Watch, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The rasteriser, watched: its first argument wants a gradient, which comes from its `depth`."""

    @functools.wraps(function)
    def watched(first: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return function(first, *args, **kwargs)
        first = Mark.apply(lambda: watch.end(f"{part} backward"), first)  # pyright: ignore[reportAssignmentType]
        with watch(f"{part} forward"):
            made = function(first, *args, **kwargs)
        return made._replace(depth=Mark.apply(lambda: watch.begin(f"{part} backward"), made.depth))

    return watched


def watch_module(watch: Watch, part: str, module: nn.Module) -> None:
    """Forward, and backward from when the output's gradient is there until the input's is, or the first weight's."""
    module.register_forward_pre_hook(lambda *_: watch.begin(f"{part} forward"))
    module.register_forward_hook(lambda *_: watch.end(f"{part} forward"))
    first = next(iter(module.parameters()), None)
    if first is None or not first.requires_grad:
        module.register_full_backward_pre_hook(lambda *_: watch.begin(f"{part} backward"))
        module.register_full_backward_hook(lambda *_: watch.end(f"{part} backward"))
        return

    def begin(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        # Once for both maps of the confidence net, which branch off late: from the one whose gradient comes first.
        arrived: list[bool] = []

        def tell() -> None:
            if not arrived:
                arrived.append(True)
                watch.begin(f"{part} backward")

        if isinstance(output, tuple):
            return tuple(Mark.apply(tell, one) for one in output)
        return Mark.apply(tell, output)

    module.register_forward_hook(begin)
    first.register_post_accumulate_grad_hook(lambda _: watch.end(f"{part} backward"))


# Contestants.


class Contestant(NamedTuple):
    """A training step, and the seconds of its parts."""

    step: Callable[[Tensor], None]
    """Of images (B, 3, 64, 64) uint8."""
    watch: Watch


def features_of(name: str) -> nn.Module:
    return VGG16Features() if name == "vgg16" else FilterFeatures()


def ours(width: int, features: str) -> Contestant:
    watch = Watch()
    task = Unsup3dTask(replace(variants(width=width)["original"], features="filters"))
    task.features = features_of(features)  # pyright: ignore[reportAttributeAccessIssue]
    for net in (task.net.depth_net, task.net.albedo_net, task.net.view_net, task.net.light_net):
        watch_module(watch, "networks", net)
    assert task.net.confidence_net is not None
    watch_module(watch, "networks", task.net.confidence_net)
    watch_module(watch, "features", task.features)  # pyright: ignore[reportArgumentType]
    optimiser = task.phases()["all"].optimiser
    draw = watch_function(watch, "drawing", reproject.rasterize)

    def step(images: Tensor) -> None:
        with replaced(reproject, "rasterize", draw):
            loss, _ = task.loss("all", {"image": images}, 0)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
        with watch("optimiser"):
            optimiser.step()

    return Contestant(step, watch)


def original(width: int, features: str, backend: str) -> Contestant:
    watch = Watch()
    state = transcription.State(transcription.Unsup3d(width, backend), features_of(features))
    for net in state.model.children():
        watch_module(watch, "networks", net)
    watch_module(watch, "features", state.features)
    for optimiser in state.optimisers:
        optimiser.register_step_pre_hook(lambda *_: watch.begin("optimiser"))
        optimiser.register_step_post_hook(lambda *_: watch.end("optimiser"))
    draw = watch_function(watch, "drawing", transcription.rasterize)

    def step(images: Tensor) -> None:
        with replaced(transcription, "rasterize", draw):
            transcription.step(state, images.float() / 127.5 - 1)

    return Contestant(step, watch)


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def contestants(width: int, features: str) -> dict[str, Contestant]:
    torch.manual_seed(0)
    return {
        OURS: ours(width, features),
        REFERENCE: original(width, features, "reference"),
        DEFAULT: original(width, features, "auto"),
    }


def some_images(batch: int) -> Tensor:
    """(batch, 3, 64, 64) uint8, soft blobs."""
    noise = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (nn.functional.interpolate(noise, (64, 64), mode="bilinear") * 255).byte()


# Measuring.


class Times(NamedTuple):
    """CPU seconds of one step."""

    whole: float
    parts: dict[str, float]
    """By the names of STAGES, and REST."""


def measure(
    racers: dict[str, Contestant], images: Tensor, rounds: int, clock: Clock = time.process_time
) -> dict[str, Times]:
    """Medians over rounds in which they take turns."""
    for racer in racers.values():
        # What is compiled or made at the first use does not count.
        racer.step(images[:2])
    found: dict[str, list[Times]] = {name: [] for name in racers}
    for _ in range(rounds):
        for name, racer in racers.items():
            racer.watch.spent.clear()
            start = clock()
            racer.step(images)
            whole = clock() - start
            print(f"{name}: {whole:.1f} s", file=sys.stderr, flush=True)
            parts = {stage: racer.watch.spent.get(stage, 0.0) for stage in STAGES}
            found[name].append(Times(whole, parts | {REST: whole - sum(parts.values())}))
    return {name: median(times) for name, times in found.items()}


def median(times: Sequence[Times]) -> Times:
    parts = {stage: statistics.median(t.parts[stage] for t in times) for stage in times[0].parts}
    return Times(statistics.median(t.whole for t in times), parts)


def table(results: dict[str, Times]) -> str:
    rows = []
    for stage in (*STAGES, REST):
        rows.append([stage, *(figure(times.parts[stage]) for times in results.values())])
    rows.append(["**whole step**", *(f"**{figure(times.whole)}**" for times in results.values())])
    reference = results[REFERENCE].whole
    rows.append(["times as fast", *(figure(reference / times.whole) for times in results.values())])
    return markdown(["CPU seconds, one thread", *results], rows)


def measure_steps(report: Report, batch: int, width: int, features: str, rounds: int) -> None:
    torch.set_num_threads(1)
    results = measure(contestants(width, features), some_images(batch), rounds)
    ratio = results[REFERENCE].whole / results[OURS].whole
    if (batch, width) == (64, 64):
        report.judge(
            "step", "times as fast as the transcription on the reference renderer", {features: ratio}, STEP_GOAL
        )
    report.details.append(
        f"## A step with {features}\n\nBatch {batch} at 64 px, width {width}, {rounds} rounds.\n\n{table(results)}"
    )


def measure_pass(report: Report, model: Path | None) -> None:
    """One forward pass of the 128 px networks: by the wall clock on two threads, and by the CPU's on one."""
    nets = {
        "published sizes": Unsup3d(Unsup3dSettings(size=128, width=32)),
        "lighter heads": Unsup3d(Unsup3dSettings(128, 32, depth_head="smooth", albedo_head="sharp")),
    }
    if model is not None:
        nets = {model.name: load(model), **nets}
    rows, times = [], {}
    for name, net in nets.items():
        image = torch.rand(1, 3, net.settings.size, net.settings.size)
        jobs = {
            "factors": lambda net=net, x=image: net(x),
            "all": lambda net=net, x=image: net.reproject(net(x)),
        }
        with torch.inference_mode():
            torch.set_num_threads(1)
            one = take_turns(jobs)
            torch.set_num_threads(2)
            two = shortest(jobs)
        times[name] = 1e3 * two["factors"]
        rows.append([name, *(figure(1e3 * seconds) for seconds in (*two.values(), *one.values()))])
    judged = dict(list(times.items())[:1])
    report.judge("pass", "ms of one forward pass at 128 px on 2 threads", judged, high=PASS_GOAL)
    text = (
        "One image to depth, albedo, view and light; and drawn again. On two threads the shortest wall-clock time of "
        "many runs, which a busy machine lengthens; on one the median CPU time. The goal is judged on the first row."
    )
    head = ["ms", *("two threads", "and drawn"), *("one thread, CPU", "and drawn")]
    report.details.append(f"## One pass at 128 px\n\n{text}\n\n{markdown(head, rows)}")


def load(file: Path) -> Unsup3d:
    """The network that `aboutface train unsup3d` wrote."""
    tensors, card = load_file(file)
    net = Unsup3d(Unsup3dSettings(**card["settings"]["network"]))
    net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return net


# The program.

ABOUT = """\
The published step (Wu et al., CVPR 2020): five networks, one supersampled depth map per image and one per mirrored \
twin, confidence maps, features of VGG16 at relu3_3, Adam. Ratios are of medians of one run, in which the contestants \
take turns, after a small step of each that does not count: trust them, not the seconds. Ours draws each depth map at \
the size of the image and not at twice the size, and computes the features of the images once and not twice; the \
networks are the same. VGG16 has random weights here, which take the same time. The third column tells how much of the \
difference is the renderer's."""


def document(report: Report, about: str, command: str) -> str:
    """The page for docs/."""
    title = "# Benchmark: a training step of Unsup3d"
    origin = f"Written by `python benchmarks/unsup3d_step.py {command}`; do not edit."
    return "\n\n".join([title, origin, about, report.table(), ABOUT, *report.details]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="images per step (published: 64)")
    parser.add_argument("--width", type=int, default=64, help="width of the networks (published: 64)")
    parser.add_argument("--rounds", type=int, default=2, help="steps of each that count")
    parser.add_argument("--features", nargs="+", choices=("vgg16", "filters"), default=("vgg16", "filters"))
    parser.add_argument("--model", type=Path, help="weights (.safetensors) whose pass is timed; else published sizes")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parser.add_argument("--write", type=Path, help="page to write")
    asked = parser.parse_args(arguments)
    if min(asked.batch, asked.rounds) < 1 or asked.width < 8 or asked.width % 8:
        parser.error("--batch and --rounds are from 1 on, --width is 8, 16, 24...")
    about, report = machine(), Report()
    for features in asked.features:
        measure_steps(report, asked.batch, asked.width, features, asked.rounds)
    measure_pass(report, asked.model)
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
