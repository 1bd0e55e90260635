"""The one training loop: `fit` trains a dataset, alternates the sides of a GAN, and optimises one photo.

docs/training.md shows it at work.
"""

from .checkpoint import read_checkpoint
from .loop import Fitted, fit
from .run import Run
from .settings import FitSettings
from .task import Batches, Phase, Repeated, Task, TensorBatches

__all__ = ["Batches", "FitSettings", "Fitted", "Phase", "Repeated", "Run", "Task", "TensorBatches", "fit"]
__all__ += ["read_checkpoint"]
