"""Deep3D's networks: a face crop to the coefficients of a morphable model, of a pose and of a light.

Deng, Yang, Xu, Chen, Jia, Tong: Accurate 3D Face Reconstruction with Weakly-Supervised Learning, CVPR workshops 2019
(arXiv 1903.08527). `RNet` sees one picture; `CNet` says how far each picture of a set is to be trusted about the
person's shape. What the numbers mean in space is told in deep3d_frame.py, and how they are drawn in deep3d_draw.py.
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError
from ..files import reason
from ..nn.mobile import MobileNet
from ..nn.resnet import ResNet, Stages, check_state, resnet18, resnet50

ExpressionKind = Literal["gaussian", "weights"]

SQUASH_SHARPNESS, SQUASH_START = 10.0, 0.25
"""How `squashed` rounds its two corners, and at which of its arguments a zero lies before the first of them."""


class Coefficients(NamedTuple):
    """What is said of B faces: everything but `gamma`, `angle` and `trans` is without a unit."""

    id: Tensor
    """(B, I): identity, in standard deviations."""
    exp: Tensor
    """(B, E): expression, in standard deviations, or for "weights" from 0 to 1."""
    tex: Tensor
    """(B, A): albedo, in standard deviations."""
    angle: Tensor
    """(B, 3): rotations about x, y and z of Deep3D's frame, radians: see `deep3d_frame.angles_from_deep3d`."""
    gamma: Tensor
    """(B, 9 * C): light, all numbers of a channel together: see `deep3d_frame.light_from_gamma`."""
    trans: Tensor
    """(B, 3): shift in Deep3D's frame, decimetres."""

    def flat(self) -> Tensor:
        """All in one row (B, N), in the published order."""
        return torch.cat(self, -1)


@dataclass(frozen=True)
class Layout:
    """How many numbers of each kind; the defaults are those of the BFM 2009, 257 in all."""

    identity: int = 80
    expression: int = 64
    albedo: int = 80
    """0 for a model without."""
    sh_channels: int = 3
    """3: a light of its own for red, green and blue, as released. 1: white light, as in the paper."""
    expression_kind: ExpressionKind = "gaussian"
    """"weights": blend shapes, whose raw numbers `RNet` squashes to 0...1."""

    def __post_init__(self) -> None:
        if min(self.identity, self.expression, self.albedo) < 0 or self.sh_channels not in (1, 3):
            raise UsageError(f"layout: expected counts from 0 on and 1 or 3 channels of light, got {self}")
        if self.expression_kind not in ("gaussian", "weights"):
            raise UsageError(f"layout: expected expressions gaussian or weights, got {self.expression_kind!r}")

    @property
    def sizes(self) -> dict[str, int]:
        """Name of each member of `Coefficients` -> how many numbers it has."""
        counts = self.identity, self.expression, self.albedo, 3, 9 * self.sh_channels, 3
        return dict(zip(Coefficients._fields, counts, strict=True))

    @property
    def slices(self) -> dict[str, slice]:
        """Name of a member -> where it lies in the row of all."""
        found, start = {}, 0
        for name, size in self.sizes.items():
            found[name] = slice(start, start + size)
            start += size
        return found

    @property
    def total(self) -> int:
        """Numbers in all."""
        return sum(self.sizes.values())

    def split(self, flat: Tensor) -> Coefficients:
        """The members of rows (..., `total`), as they are. Raises UsageError for rows of another length."""
        if flat.shape[-1] != self.total:
            raise UsageError(f"coefficients: expected rows of {self.total} for {self}, got {tuple(flat.shape)}")
        return Coefficients(*(flat[..., part] for part in self.slices.values()))

    def zeros(self, batch: int = 1) -> Coefficients:
        """The mean face, neutral, from the front, in the light that gamma 0 stands for."""
        return self.split(torch.zeros(batch, self.total))


def squashed(raw: Tensor) -> Tensor:
    """Expression weights in (0, 1) of any numbers: the identity between two rounded corners, 0.25 to the left.

    (softplus(10 x - 2.5) - softplus(10 x - 12.5)) / 10. At 0, where an untrained head stands, that is 0.0079 with a
    slope of 0.076: a face that is all but neutral, and can learn. A sigmoid is either half of every expression there,
    or has hardly a slope.
    """
    x = SQUASH_SHARPNESS * (raw - SQUASH_START)
    return (functional.softplus(x) - functional.softplus(x - SQUASH_SHARPNESS)) / SQUASH_SHARPNESS


class Trunk(Protocol):
    """What `RNet` and `CNet` want to know of a network: nn.resnet and nn.mobile have some."""

    features: int
    early_features: int

    def stages(self, images: Tensor) -> Stages: ...


class RNet(nn.Module):
    """Face crops (B, 3, S, S), RGB in [0, 1] without ImageNet's mean and deviation -> `Coefficients`.

    Seven heads that start at zero, so that the untrained network says: the mean face, from the front. The names of the
    state are those of the released PyTorch model ("backbone.conv1.weight", "final_layers.0.weight").
    """

    def __init__(self, trunk: ResNet | MobileNet, layout: Layout | None = None) -> None:
        super().__init__()
        self.layout = layout or Layout()
        self.backbone = trunk
        *sizes, shift = self.layout.sizes.values()
        # The shift has two heads: x and y, then z.
        sizes = [size for size in (*sizes, 2, shift - 2) if size]
        self.final_layers = nn.ModuleList(nn.Conv2d(trunk.features, size, 1) for size in sizes)
        for head in self.final_layers.parameters():
            nn.init.zeros_(head)

    def forward(self, images: Tensor) -> Coefficients:
        return self.read(self.backbone(images))

    def read(self, pooled: Tensor) -> Coefficients:
        """Coefficients of features (B, F) of the trunk."""
        column = pooled[..., None, None]
        rows = torch.cat([head(column) for head in self.final_layers], 1)[..., 0, 0]
        found = self.layout.split(rows)
        return found._replace(exp=squashed(found.exp)) if self.layout.expression_kind == "weights" else found

    @classmethod
    def tiny(cls, layout: Layout | None = None) -> "RNet":
        """Random weights, a trunk of 32 pixels: for tests."""
        return cls(MobileNet.tiny(), layout or Layout(4, 3, 2))


class CNet(nn.Module):
    """Confidences (B, I), 0 to 1, in what `RNet` says of each number of the identity, for sets of pictures.

    It reads the trunk of R-Net, which is not trained with it: the map after its first stage through three convolutions,
    then both together through two layers. The last one starts at zero, so that all confidences are equal at first.
    """

    def __init__(self, trunk: Trunk, identity: int = 80, width: int = 256, hidden: int = 512) -> None:
        """width: channels of the convolutions; hidden: units before the last layer.

        With ResNet-50 2,991,440 parameters.
        """
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (trunk.early_features, width, width):
            layers += [nn.Conv2d(inputs, width, 3, 2, 1), nn.ReLU(inplace=True)]
        self.convolutions = nn.Sequential(*layers)
        self.hidden = nn.Linear(width + trunk.features, hidden)
        self.last = nn.Linear(hidden, identity)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, stages: Stages) -> Tensor:
        seen = torch.cat([self.convolutions(stages.early).mean((2, 3)), stages.pooled], 1)
        return torch.sigmoid(self.last(functional.relu(self.hidden(seen))))

    @classmethod
    def tiny(cls, trunk: Trunk, identity: int = 4) -> "CNet":
        """Random weights, 6 channels: for tests."""
        return cls(trunk, identity, 6, 5)


def combine_identity(alphas: Tensor, confidences: Tensor | None = None) -> Tensor:
    """One identity (..., I) of N pictures of a person: the mean of alphas (..., N, I), weighted for each number.

    confidences (..., N, I), 0 or more; all alike if missing, or where all are 0. The order of the pictures does not
    matter. Raises UsageError for other shapes, and for no picture.
    """
    if confidences is None:
        confidences = torch.ones_like(alphas)
    if alphas.ndim < 2 or alphas.shape[-2] == 0 or confidences.shape != alphas.shape:
        raise UsageError(
            f"combine_identity: expected alphas and confidences (..., N, I) of at least one picture, "
            f"got {tuple(alphas.shape)} and {tuple(confidences.shape)}"
        )
    weight = confidences + 1e-12
    return (weight * alphas).sum(-2) / weight.sum(-2)


# ---- the released model ----


def load_released(checkpoint: Mapping[str, Any]) -> RNet:
    """The network of a released PyTorch checkpoint (sicxu/Deep3DFaceRecon_pytorch, for instance epoch_20.pth).

    Args:
        checkpoint: what torch.load gives: "net_recon" holds the state; the optimiser beside it is ignored.

    Returns the network in evaluation mode; ResNet-50 or ResNet-18, by the size of its heads.
    Raises UsageError for a checkpoint of another form, and for missing, further, misshapen or infinite tensors.
    """
    what = "released Deep3D model"
    state = checkpoint.get("net_recon") if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping):
        found = sorted(map(str, checkpoint))[:4] if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise UsageError(f"{what}: expected a checkpoint with net_recon, found {found}; give its file epoch_20.pth")
    if "backbone.fc.weight" in state:
        raise UsageError(f"{what}: this one was trained with --use_last_fc; give one with seven heads, as released")
    head = state.get("final_layers.0.weight")
    features = head.shape[1] if isinstance(head, Tensor) and head.ndim == 4 else 2048
    network = RNet(resnet18() if features == 512 else resnet50())
    check_state(what, state, network.state_dict())
    network.load_state_dict(dict(state))
    return network.eval()


def read_released(file: Path) -> RNet:
    """`load_released` of a file. Raises UsageError where it cannot be read as a PyTorch file of tensors, too."""
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        raise UsageError(f"{file}: cannot be read as a PyTorch checkpoint ({reason(error)[:120]})") from None
    try:
        return load_released(checkpoint)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None
