"""The networks of StyleGAN2 in one training step: ours beside the grouped formulation, and in either memory order.

python benchmarks/stylegan2_step.py                                          # some minutes
python benchmarks/stylegan2_step.py --write docs/benchmark-stylegan2-step.md
"""

import os

# Waiting threads must not spin: on a shared machine that makes everything many times slower. Read when torch starts.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from aboutface.nn.augment import augmented
from aboutface.nn.stylegan2 import EPSILON, StyledConv, activated, blur
from aboutface.recipes.stylegan2 import StyleGAN2Task, StyleGAN2Training
from render import figure, machine, markdown

CONTESTANTS = GROUPED, OURS, LAST = "grouped", "ours", "ours, channels last"
PHASES = {"generator": 1, "path": 4, "critic": 1, "r1": 16}
"""Phase -> steps between two."""

ABOUT = """\
Ours scales a convolution's input by the style and its output by the demodulation, so that a batch is one convolution; \
the grouped formulation, that of published code, makes weights for each picture and convolves in as many groups as \
there are pictures. Both give the same pictures. Forward and backward of each phase; a step is the generator's and the \
critic's phase, a quarter of path length and a sixteenth of R1, without optimisers and augmentation. Augmentation is \
of a batch at probability 0.5, with its gradient; a step has three or four of it. Medians of one run, in which the \
contestants take turns, and the first turn does not count: trust the ratios."""


class GroupedConv(StyledConv):
    """The same layer with weights of its own for each picture."""

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        batch, inputs, height, width = x.shape
        weight = self.weight * self.scale * self.style(w)[:, None, :, None, None]
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + EPSILON)
        x = x.reshape(1, batch * inputs, height, width)
        if self.up:
            weight = weight.transpose(1, 2).flatten(0, 1)
            x = functional.conv_transpose2d(x, weight, stride=2, groups=batch)
            x = blur(x.unflatten(1, (batch, -1))[0], 1, gain=4)
        else:
            x = functional.conv2d(x, weight.flatten(0, 1), padding=1, groups=batch).unflatten(1, (batch, -1))[0]
        x = x if noise is None else x + noise * self.strength
        return activated(x + self.bias.view(1, -1, 1, 1))


def contestants(settings: StyleGAN2Training) -> dict[str, StyleGAN2Task]:
    found = {name: StyleGAN2Task(settings) for name in CONTESTANTS}
    for task in found.values():
        task.load_state_dict(found[OURS].state_dict())
    for layer in found[GROUPED].generator.synthesis.convs:
        layer.__class__ = GroupedConv
    found[LAST].to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    z = torch.randn(3, settings.latent)
    with torch.no_grad():
        pictures = [task.generator(z) for task in found.values()]
    if max(float((picture - pictures[0]).abs().max()) for picture in pictures) > 1e-3:
        raise RuntimeError("the contestants draw different pictures")
    return found


def phase(task: StyleGAN2Task, name: str, images: Tensor) -> None:
    network = task.generator if name in ("generator", "path") else task.discriminator
    loss, _ = task.loss(name, {"image": images}, 0)
    torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)


def augment(images: Tensor) -> None:
    pictures = (images.float() / 255).requires_grad_()
    torch.autograd.grad(augmented(pictures, 0.5).sum(), pictures)


def measure(settings: StyleGAN2Training, rounds: int) -> dict[tuple[str, str], float]:
    """Contestant and phase -> CPU seconds."""
    images = (255 * torch.rand(settings.batch, 3, settings.size, settings.size)).byte()
    jobs = {
        (racer, name): lambda task=task, name=name: phase(task, name, images)
        for racer, task in contestants(settings).items()
        for name in PHASES
    }
    jobs |= {(racer, "augmentation"): lambda: augment(images) for racer in CONTESTANTS}
    times = {key: [] for key in jobs}
    for _ in range(rounds + 1):
        for key, job in jobs.items():
            start = time.process_time()
            job()
            times[key].append(time.process_time() - start)
    return {key: statistics.median(taken[1:]) for key, taken in times.items()}


def table(times: dict[tuple[str, str], float], batch: int) -> str:
    rows = [[name, *(figure(times[racer, name]) for racer in CONTESTANTS)] for name in (*PHASES, "augmentation")]
    steps = [sum(times[racer, name] / every for name, every in PHASES.items()) for racer in CONTESTANTS]
    rows.append(["**a step**", *(f"**{figure(seconds)}**" for seconds in steps)])
    rows.append(["images per second", *(figure(batch / seconds) for seconds in steps)])
    rows.append(["times as fast as grouped", *(figure(steps[0] / seconds) for seconds in steps)])
    return markdown(["CPU seconds, one thread", *CONTESTANTS], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="side of the pictures, pixels")
    parser.add_argument("--batch", type=int, default=8, help="pictures per step")
    parser.add_argument("--base", type=int, default=4096, help="channel base; configuration E has 16384")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each that count")
    parser.add_argument("--write", type=Path, help="page to write")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = StyleGAN2Training(asked.size, channel_base=asked.base, batch=asked.batch, augment="none")
    size = f"{asked.size} px, batch {asked.batch}, channel base {asked.base}, {asked.rounds} turns."
    origin = f"Written by `python benchmarks/stylegan2_step.py {' '.join(sys.argv[1:])}`; do not edit."
    parts = [machine(), ABOUT, f"## {size}", table(measure(settings, asked.rounds), asked.batch)]
    page = "\n\n".join(["# Benchmark: a training step of StyleGAN2", origin, *parts]) + "\n"
    if asked.write:
        asked.write.write_text(page, "utf-8")
    print(page)


if __name__ == "__main__":
    main()
