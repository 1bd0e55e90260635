"""Networks that methods share. They know tensors only: no photo, no face, no data set."""

from .critic import Critic, gradient_penalty, wasserstein_critic_loss, wasserstein_generator_loss
from .siamese import ImagePair, SiameseEncoder

__all__ = ["Critic", "ImagePair", "SiameseEncoder", "gradient_penalty"]
__all__ += ["wasserstein_critic_loss", "wasserstein_generator_loss"]
