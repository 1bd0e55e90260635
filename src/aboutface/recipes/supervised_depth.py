"""Depth of the image's own view, learned from true depths: the bound that methods without labels are held against.

Wu et al., CVPR 2020, Table 1 "supervised": the depth network of Unsup3d, trained by L1. Not on the menu of `train`:
real faces come without depth.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..fit import FitSettings, Phase, Run, Task, TensorBatches, cosine, fit
from ..nn.autoencoder import EncoderDecoder

CENTRE, RANGE = 1.0, 0.1
"""Depths lie between 0.9 and 1.1, as Unsup3d's do."""


@dataclass(frozen=True)
class SupervisedDepthTraining:
    """Image to depth in its view, by L1 on the surface. It is to be the bound, so its rate is chosen for a short run:
    published are 1e-4 throughout."""

    width: int = 64
    """Channels of the network's outermost level."""
    latent: int = 256
    """Numbers in its neck."""
    batch: int = 64
    """Images per step; half of them are mirrored, at random."""
    learning_rate: float = 1e-3
    """Adam's at the start; it falls to zero along a cosine."""
    weight_decay: float = 5e-4
    """Adam's, as published."""
    fit: FitSettings = field(default_factory=lambda: FitSettings(steps=20000, log_every=500))


class SupervisedDepth(nn.Module):
    """Images (B, 3, S, S) in [0, 1] -> z-depth (B, S, S) in their own view."""

    def __init__(self, size: int = 64, width: int = 64, latent: int = 256) -> None:
        super().__init__()
        self.size = size
        self.depth_net = EncoderDecoder(1, size, width, latent)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1:] != (3, self.size, self.size):
            raise UsageError(
                f"supervised depth: this network takes images (B, 3, {self.size}, {self.size}), "
                f"got {tuple(images.shape)}; train one of their size"
            )
        return CENTRE + RANGE * torch.tanh(self.depth_net(2 * images - 1)[:, 0])


class SupervisedDepthTask(Task):
    """Batches: `images` (B, 3, S, S) uint8, `depth` (B, S, S), `mask` (B, S, S) bool."""

    name = "supervised-depth"

    def __init__(self, settings: SupervisedDepthTraining, size: int) -> None:
        super().__init__()
        self.settings = settings
        self.net = SupervisedDepth(size, settings.width, settings.latent)

    def phases(self) -> dict[str, Phase]:
        s = self.settings
        optimiser = torch.optim.Adam(self.net.parameters(), s.learning_rate, weight_decay=s.weight_decay)
        return {"net": Phase(optimiser, cosine(optimiser, s.fit.steps))}

    def loss(self, phase: str, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        mirror = torch.rand(len(batch["depth"]), 1, 1, device=batch["depth"].device) < 0.5
        images, depth, mask = (
            torch.where(mirror.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
            for x in (batch["images"], batch["depth"], batch["mask"])
        )
        error = (self.net(images / 255) - depth).abs()
        # The background's depth is a convention, which no score looks at.
        return (error * mask).sum() / mask.sum().clamp_min(1), {}


def train_supervised_depth(
    images: Tensor,
    depth: Tensor,
    mask: Tensor,
    settings: SupervisedDepthTraining | None = None,
    run: Run | None = None,
    log: Callable[[str], None] = print,
) -> SupervisedDepth:
    """The network, in evaluation mode and on the CPU.

    Args:
        images: (N, 3, S, S) uint8; S is 8, 16, 32, 64...
        depth: (N, S, S) z-depth of the image's view, between 0.9 and 1.1 on the surface.
        mask: (N, S, S) bool, where the surface is.

    Raises UsageError for other shapes.
    """
    settings = settings or SupervisedDepthTraining()
    if images.ndim != 4 or images.shape[1] != 3 or {depth.shape, mask.shape} != {images[:, 0].shape}:
        raise UsageError(
            "supervised depth: expected images (N, 3, S, S) and depth and mask (N, S, S), "
            f"got {tuple(images.shape)}, {tuple(depth.shape)} and {tuple(mask.shape)}"
        )
    with torch.random.fork_rng():
        torch.manual_seed(settings.fit.seed)
        task = SupervisedDepthTask(settings, images.shape[-1])
    data = TensorBatches({"images": images, "depth": depth, "mask": mask}, settings.batch, settings.fit.seed)
    return fit(task, data, settings.fit, run, log=log).averaged.net.cpu().eval()
