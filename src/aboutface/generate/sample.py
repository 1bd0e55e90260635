"""Pictures of random latents."""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..files import DAMAGED_NPZ, atomic_path, reason
from ..nn.stylegan2 import Generator

BATCH = 16


class Samples(NamedTuple):
    """Pictures and where they come from."""

    images: Tensor
    """(N, 3, S, S) in [0, 1]."""
    w: Tensor
    """(N, D), truncated."""


@torch.no_grad()
def sample(
    generator: Generator,
    count: int,
    seed: int = 0,
    truncation: float = 0.7,
    noise: Literal["stored", "random", "none"] = "stored",
) -> Samples:
    """`count` pictures of random z. The i-th of a seed has the same w whatever the count.

    truncation: 1 is the full spread, 0 the mean (StyleGAN, section 3). noise: that in the weights, new for each
    picture, or none. Raises UsageError for a count below 1, a negative seed, and a truncation that is not finite.
    """
    if count < 1:
        raise UsageError(f"sample: expected 1 picture or more, got {count}")
    if seed < 0:
        raise UsageError(f"sample: seed: expected 0 or more, got {seed}")
    if not np.isfinite(truncation):
        raise UsageError(f"sample: truncation: expected a number, got {truncation}")
    centre = generator.mapping.centre
    z = np.stack([np.random.default_rng((seed, i)).standard_normal(len(centre)) for i in range(count)])
    w = generator.mapping(torch.from_numpy(z).to(centre), truncation)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        images = torch.cat([generator.synthesis(part, noise).clamp(0, 1).cpu() for part in w.split(BATCH)])
    return Samples(images, w.cpu())


def write_latents(file: Path, names: list[str], w: Tensor) -> None:
    """An .npz of w (N, D), or one per layer (N, L, D), and of the names of their pictures."""
    with atomic_path(file) as part, part.open("wb") as stream:
        np.savez(stream, names=np.array(names), w=w.numpy(), allow_pickle=False)


def read_latents(file: Path) -> dict[str, Tensor]:
    """Name of the picture -> w (D,) or (L, D). Raises UsageError for another kind of file."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            return dict(zip(stored["names"].tolist(), torch.from_numpy(stored["w"]), strict=True))
    # A single array, in an .npy, is no archive: TypeError.
    except (*DAMAGED_NPZ, KeyError, TypeError) as error:
        raise UsageError(f"{file}: expected the latents.npz of aboutface sample ({reason(error)[:100]})") from None
