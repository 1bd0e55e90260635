"""AIGN: 3D keypoints of one face from its 2D keypoints, taught by 3D faces that are other people's.

Tung, Harley, Seto, Fragkiadaki: Adversarial Inverse Graphics Networks, ICCV 2017, as Moniz et al. (Unsupervised Depth
Estimation, 3D Face Rotation and Replacement, NeurIPS 2018) compare DepthNet with it: heat-maps of the keypoints -> a
shape, its rotation and translation, and an orthographic camera. A critic that is shown real 3D faces says whether the
posed shape is one; its projection must be the keypoints that were given.

The sizes are those of the released comparison. What could not be used as it was is not: its heat-maps lose a keypoint
near the border, its rotations are sines and cosines that belong to no angle, and its critic is trained by a binary
cross-entropy of numbers outside 0 to 1, which is undefined. `recipes/aign.py` trains by Wasserstein's losses.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..geometry import rotation_from_angles

REACH = 2.5
"""Half the side of the heat-maps, in root-mean-square radii of a face; its farthest keypoint is at about 2."""


@dataclass(frozen=True)
class AIGNSettings:
    """Sizes of the network; 66 keypoints make the released comparison's 9,720,253 parameters."""

    points: int = 68
    """Keypoints per face."""
    size: int = 128
    """Side of the heat-maps in pixels."""
    filters: tuple[int, ...] = (64, 128, 256)
    """Channels after each further halving of the heat-maps."""
    units: int = 512
    """Of the layer that all heads share."""


@dataclass(frozen=True, eq=False)
class Unit:
    """Keypoints about 0, of unit root-mean-square radius in x and y, and the way back."""

    points: Tensor
    """(B, K, 2 or 3)."""
    centre: Tensor
    """(B, 1, 2 or 3), in the unit of the keypoints given."""
    size: Tensor
    """(B, 1, 1), of one unit."""

    @classmethod
    def of(cls, points: Tensor) -> "Unit":
        """From keypoints (B, K, 2 or 3); those all in one place stay at 0."""
        centre = points.mean(1, keepdim=True)
        size = (points - centre)[..., :2].square().sum(-1).mean(-1).sqrt()[:, None, None]
        return cls((points - centre) / size.clamp_min(torch.finfo(size.dtype).tiny), centre, size)


@dataclass(frozen=True, eq=False)
class Graphics:
    """What the network sees in a face. Camera frame: x right, y down, z forward; unit: root-mean-square radius."""

    shape: Tensor
    """(B, K, 3) before it is posed."""
    rotation: Tensor
    """(B, 3, 3)."""
    points: Tensor
    """(B, K, 3) posed: what the critic judges."""
    focal: Tensor
    """(B, 1, 2), positive: image radii per radius along x and y."""
    centre: Tensor
    """(B, 1, 2): where the camera's axis meets the image."""

    @property
    def reprojected(self) -> Tensor:
        """(B, K, 2): orthographic, one focal length per axis."""
        return self.focal * self.points[..., :2] + self.centre


class AIGN(nn.Module):
    """Keypoints (B, K, 2) as `Unit` has them -> `Graphics`."""

    def __init__(self, settings: AIGNSettings | None = None) -> None:
        super().__init__()
        self.settings = s = settings or AIGNSettings()
        layers, before, side = _conv(s.points, s.points, 2), s.points, (s.size + 1) // 2
        for after in s.filters:
            layers += _conv(before, after, 2) + _conv(after, after, 1)
            before, side = after, (side + 1) // 2
        layers += [nn.Flatten(), nn.Linear(before * side**2, s.units), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        # Three sines, three cosines, the shape, translation, focal lengths, centre.
        self.widths = (3, 3, 3 * s.points, 3, 2, 2)
        self.heads = nn.Linear(s.units, sum(self.widths))

    def forward(self, keypoints: Tensor) -> Graphics:
        if keypoints.shape[1:] != (self.settings.points, 2):
            raise ValueError(f"keypoints: expected (B, {self.settings.points}, 2), got {tuple(keypoints.shape)}")
        maps = heat_maps((keypoints / REACH + 1) / 2 * self.settings.size, self.settings.size)
        sines, cosines, shape, translation, focal, centre = self.heads(self.layers(maps)).split(self.widths, -1)
        # 1 + cosine: an untrained net sees faces at rest. The angle of both together is always one of a rotation.
        yaw, pitch, roll = torch.rad2deg(torch.atan2(sines, 1 + cosines)).unbind(-1)
        rotation, shape = rotation_from_angles(yaw, pitch, roll), shape.unflatten(-1, (-1, 3))
        points = shape @ rotation.mT + translation[:, None]
        return Graphics(shape, rotation, points, focal[:, None].exp(), centre[:, None])

    @torch.no_grad()
    def estimate(self, pixels: Tensor) -> Tensor:
        """Points (B, K, 3) of faces seen at (B, K, 2), in the unit of those: x right, y down, z forward.

        Without z they are the reprojection. z is about 0, as its offset cannot be seen. Call `eval` first.
        """
        unit = Unit.of(pixels.to(self.heads.weight))
        seen = self(unit.points)
        z = seen.points[..., 2:] * seen.focal.mean(-1, keepdim=True)
        xy = seen.reprojected * unit.size + unit.centre
        return torch.cat([xy, (z - z.mean(1, keepdim=True)) * unit.size], -1).to(pixels)

    @classmethod
    def tiny(cls) -> "AIGN":
        """Random weights, heat-maps of 16 pixels, a few channels: for tests."""
        return cls(AIGNSettings(size=16, filters=(8, 16), units=32))


def heat_maps(pixels: Tensor, size: int, sigma: float = 1.0) -> Tensor:
    """Gaussians (B, K, size, size) of sum 1 about keypoints (B, K, 2), pixels whose centres lie on half-integers.

    A keypoint near the border keeps its sum, and one outside lights the nearest border pixels: none vanishes.
    """
    centres = torch.arange(size, dtype=pixels.dtype, device=pixels.device) + 0.5
    along = torch.softmax(-(centres - pixels[..., None]).square() / (2 * sigma**2), -1)
    return along[..., 1, :, None] * along[..., 0, None, :]


def _conv(before: int, after: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
