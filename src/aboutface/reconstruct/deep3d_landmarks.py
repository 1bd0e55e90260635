"""A small network that says everything about a face's crop at once: coefficients, and where its 68 landmarks are.

A morphable model's landmarks are fixed points of its surface; people who annotate photos follow what they see, the
outline of the cheek for instance. So the network also says how far each landmark is from the model's point.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..data.crop import cut
from ..errors import UsageError
from ..images import to_tensor
from ..morphable import MeanHead
from ..nn.mobile import MobileNet, MobileSettings
from ..weights import load_file
from .deep3d import Coefficients, Layout, RNet
from .deep3d_draw import Basis, landmarks, posed
from .deep3d_frame import ICT_FIVE, crop_from_photo, five_from_68, to_photo

ICT_LAYOUT = Layout(identity=60, expression=57, albedo=0, sh_channels=3, expression_kind="weights")
"""What a network for the ICT model says by default; its albedo is learned from photos, where there is one."""


@dataclass(frozen=True)
class RegressorSettings:
    """Sizes of the network."""

    trunk: MobileSettings = field(default_factory=MobileSettings)
    layout: Layout = ICT_LAYOUT


class Regressed(NamedTuple):
    """What is said of B crops."""

    coefficients: Coefficients
    landmarks: Tensor
    """(B, 68, 2) pixels of the crop, as annotated."""
    model_landmarks: Tensor
    """(B, 68, 2): the projected points of the morphable model alone."""


class FaceRegressor(nn.Module):
    """Crops (B, 3, S, S), RGB in [0, 1], cut as `deep3d_frame.crop_from_photo` says -> `Regressed`.

    It holds the 68 landmarks of the morphable model, not the model: landmarks can be had without the user's file.
    """

    points: Tensor
    """(1 + I + E, 68, 3): mean, then modes, of the landmarks, units, about the origin of Deep3D's frame."""

    def __init__(self, settings: RegressorSettings | None = None) -> None:
        super().__init__()
        self.settings = s = settings or RegressorSettings()
        trunk = MobileNet(s.trunk)
        self.rnet = RNet(trunk, s.layout)
        self.offsets = nn.Linear(trunk.features, 136)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)
        self.register_buffer("points", torch.zeros(1 + s.layout.identity + s.layout.expression, 68, 3))

    def set_landmarks(self, basis: Basis) -> None:
        """Take over the landmarks of a model with as many modes as the layout has."""
        parts = basis.mean[None], basis.identity, basis.expression
        weights = basis.landmark_weights[..., None]
        self.points.copy_(torch.cat([(part[:, basis.landmark_corners] * weights).sum(2) for part in parts]))

    def forward(self, images: Tensor) -> Regressed:
        size = images.shape[-1]
        features = self.rnet.backbone(images)
        coefficients = self.rnet.read(features)
        model = landmarks(self._basis(), posed(self._basis(), coefficients), size)
        return Regressed(coefficients, model + size * self.offsets(features).unflatten(1, (68, 2)), model)

    def _basis(self) -> Basis:
        identity = self.settings.layout.identity
        mean = self.points[0]
        corners = torch.arange(68, device=mean.device)[:, None]
        return Basis(
            mean=mean,
            identity=self.points[1 : 1 + identity],
            expression=self.points[1 + identity :],
            albedo_mean=torch.zeros_like(mean),
            albedo=mean.new_zeros(0, 68, 3),
            faces=corners.new_zeros(0, 3),
            landmark_corners=corners,
            landmark_weights=mean.new_ones(68, 1),
        )

    @classmethod
    def from_file(cls, file: Path) -> "FaceRegressor":
        """With weights that training wrote, ready to be asked. Raises UsageError for a file of another form."""
        tensors, card = load_file(file)
        try:
            sizes = card["settings"]["network"]
            trunk: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in sizes["trunk"].items()
            }
            net = cls(RegressorSettings(MobileSettings(**trunk), Layout(**sizes["layout"])))
            net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UsageError(f"{file}: these are no weights of deep3d of this version ({reason})") from None
        return net.eval()

    @classmethod
    def tiny(cls) -> "FaceRegressor":
        """Random weights, pictures of 32 pixels: for tests."""
        trunk = MobileSettings(32, 4, (4, 6, 8), (1, 2, 1), (2, 2, 2), 12)
        return cls(RegressorSettings(trunk, Layout(4, 3, 0, expression_kind="weights")))


@torch.no_grad()
def find_landmarks(
    net: FaceRegressor, pixels: np.ndarray, box: tuple[float, float, float, float], passes: int = 2
) -> Tensor:
    """Landmarks (68, 2) of the face in a box (left, top, right, bottom) about them; photo pixels (H, W, 3) uint8.

    The first crop is cut for a face that looks ahead and fills the box, each further one by what the one before found.
    """
    points = in_box(box)
    size = net.settings.trunk.size
    for _ in range(passes):
        matrix = crop_from_photo(five_from_68(points.double()), ICT_FIVE, size)
        crop = to_tensor(cut(pixels, torch.linalg.inv(matrix).numpy(), size))
        points = to_photo(net(crop).landmarks[0].double(), matrix)
    return points.float()


def in_box(box: tuple[float, float, float, float]) -> Tensor:
    """The mean face's landmarks (68, 2), seen from the front, filling a box."""
    flat = MeanHead.load().landmarks[:, :2]
    low, high = flat.amin(0), flat.amax(0)
    corner, end = torch.tensor(box[:2]), torch.tensor(box[2:])
    return (flat - low) / (high - low) * (end - corner) + corner
