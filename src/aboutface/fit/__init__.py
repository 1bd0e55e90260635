"""The one training loop: `fit` trains a dataset, alternates the sides of a GAN, and optimises one photo.

docs/training.md shows it at work.
"""

from .checkpoint import read_checkpoint
from .loop import Fitted, fit
from .processes import find_device
from .run import Run
from .schedules import cosine
from .settings import FitSettings
from .task import Batches, Phase, Repeated, Task, TensorBatches

__all__ = ["Batches", "FitSettings", "Fitted", "Phase", "Repeated", "Run", "Task", "TensorBatches"]
__all__ += ["cosine", "find_device", "fit", "read_checkpoint"]
