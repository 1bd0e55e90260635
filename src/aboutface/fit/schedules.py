"""Learning rates over a run."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine(optimiser: Optimizer, steps: int) -> LambdaLR:
    """From the optimiser's learning rate to 0 along half a cosine, then 0.

    A pure function of the step: a run that is resumed with more steps goes down the longer curve from where it stands.
    (PyTorch's CosineAnnealingLR brings its old length back from the checkpoint, and climbs again.)
    """
    return LambdaLR(optimiser, lambda step: (1 + math.cos(math.pi * min(1.0, step / steps))) / 2)
