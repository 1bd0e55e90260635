"""The encoder of GAN2Shape: a picture to a step in a generator's latent space.

Pan, Dai, Liu, Loy, Luo: Do 2D GANs Know 3D Shape?, ICLR 2021, appendix; sizes other than 128 as its code scales them.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from .autoencoder import _channels


class OffsetEncoder(nn.Module):
    """Images (B, 3, size, size) in [-1, 1] -> numbers (B, `outputs`), not bounded.

    Raises UsageError, when it is made, for sizes that are no power of 2 and for a width that 4 does not divide.
    """

    def __init__(self, outputs: int, size: int = 64, width: int = 32) -> None:
        """width: channels of the first layer; they double per level. Published are 512 outputs and a width of 32."""
        super().__init__()
        channels = _channels(size, width)
        last = channels[-1]
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1, bias=False),
            *(Halving(before, after) for before, after in pairwise(channels)),
            *(nn.ReLU(), nn.Conv2d(last, 2 * last, 4, bias=False)),
            *(nn.ReLU(), nn.Conv2d(2 * last, outputs, 1, bias=False), nn.Flatten()),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)

    @classmethod
    def tiny(cls, outputs: int = 16, size: int = 16) -> "OffsetEncoder":
        return cls(outputs, size, width=4)


class Halving(nn.Module):
    """Maps (B, `inputs`, H, W) -> (B, `outputs`, H / 2, W / 2): two convolutions, and a way past them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            *(nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)),
        )
        self.past = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        # The paper's table has the way past on x itself; its code rectifies x in place, so that both ways see that.
        x = functional.relu(x)
        return self.body(x) + self.past(functional.avg_pool2d(x, 2))


__all__ = ["OffsetEncoder"]
