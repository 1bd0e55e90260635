"""A trained StyleGAN2 in use: loading, other codes' files, samples, projection of photos, directions in w."""

from .directions import ganspace, sefa
from .load import Gan, built_gan, gan_tensors, load_gan
from .project import Projection, ProjectionSettings, project
from .sample import Samples, read_latents, sample

__all__ = [
    "Gan",
    "Projection",
    "ProjectionSettings",
    "Samples",
    "built_gan",
    "gan_tensors",
    "ganspace",
    "load_gan",
    "project",
    "read_latents",
    "sample",
    "sefa",
]
