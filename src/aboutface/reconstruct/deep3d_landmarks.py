"""A small network that says everything about a face's crop at once: coefficients, and where its 68 landmarks are.

A morphable model's landmarks are fixed points of its surface; people who annotate photos follow what they see, the
outline of the cheek for instance. So the network also says how far each landmark is from the model's point.
"""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..morphable import MorphableModel
from ..nn.mobile import MobileNet, MobileSettings
from ..nn.resnet import BasicBlock, Bottleneck, ResNet, Stages
from ..weights import load_file
from .deep3d import CNet, Coefficients, Layout, RNet, combine_identity, read_released
from .deep3d_draw import Basis, landmarks, posed
from .deep3d_frame import (
    ICT_CENTRE,
    ICT_FIVE,
    MILLIMETRES_PER_UNIT,
    SIZE,
    five_of_model,
    shift_from_deep3d,
)

ICT_LAYOUT = Layout(identity=60, expression=57, albedo=0, sh_channels=3, expression_kind="weights")
"""What a network for the ICT model says by default; its albedo is learned from photos, where there is one."""


@dataclass(frozen=True)
class ResNetSettings:
    """The published trunk and its smaller sibling."""

    depth: Literal[18, 50] = 50
    """Layers, as the papers count."""
    size: int = SIZE
    """Side of the pictures, pixels: a multiple of 32."""
    width: int = 64
    """Channels of the first stage; fewer than the published 64 are for tests."""

    def __post_init__(self) -> None:
        if self.depth not in (18, 50) or self.size < 32 or self.size % 32:
            raise UsageError(f"deep3d: expected a ResNet of depth 18 or 50 and a size that 32 divides, got {self}")

    def build(self) -> ResNet:
        """The trunk, random."""
        if self.depth == 18:
            return ResNet((2, 2, 2, 2), BasicBlock, self.width)
        return ResNet((3, 4, 6, 3), Bottleneck, self.width)


@dataclass(frozen=True)
class RegressorSettings:
    """Sizes of the network."""

    trunk: MobileSettings | ResNetSettings = field(default_factory=MobileSettings)
    layout: Layout = ICT_LAYOUT
    vertices: int = 0
    """Of the part of the model whose albedo was learned; 0 where none was: albedo is then the model's own."""

    def __post_init__(self) -> None:
        if self.vertices and not self.layout.albedo:
            raise UsageError(f"deep3d: expected modes of the albedo that was learned of vertices, got {self}")


class Regressed(NamedTuple):
    """What is said of B crops."""

    coefficients: Coefficients
    landmarks: Tensor
    """(B, 68, 2) pixels of the crop, as annotated."""
    model_landmarks: Tensor
    """(B, 68, 2): the projected points of the morphable model alone."""


class FaceRegressor(nn.Module):
    """Crops (B, 3, S, S), RGB in [0, 1], cut as `deep3d_frame.crop_from_photo` says -> `Regressed`.

    It holds the 68 landmarks of the morphable model, not the model: landmarks can be had without the user's file. And
    it holds the albedo that was learned for a model that has none.
    """

    points: Tensor
    """(1 + I + E, 68, 3): mean, then modes, of the landmarks, units, about the origin of Deep3D's frame."""
    albedo_mean: Tensor
    """(V, 3) RGB of the vertices of the model's part "front", where `settings.vertices` is not 0."""
    albedo: Tensor
    """(A, V, 3) per standard deviation, likewise."""

    def __init__(self, settings: RegressorSettings | None = None) -> None:
        super().__init__()
        self.settings = s = settings or RegressorSettings()
        trunk = s.trunk.build() if isinstance(s.trunk, ResNetSettings) else MobileNet(s.trunk)
        self.rnet = RNet(trunk, s.layout)
        self.offsets = nn.Linear(trunk.features, 136)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)
        self.register_buffer("points", torch.zeros(1 + s.layout.identity + s.layout.expression, 68, 3))
        if s.vertices:
            self.register_buffer("albedo_mean", torch.zeros(s.vertices, 3))
            self.register_buffer("albedo", torch.zeros(s.layout.albedo, s.vertices, 3))

    def set_landmarks(self, basis: Basis) -> None:
        """Take over the landmarks of a model with as many modes as the layout has."""
        parts = basis.mean[None], basis.identity, basis.expression
        weights = basis.landmark_weights[..., None]
        self.points.copy_(torch.cat([(part[:, basis.landmark_corners] * weights).sum(2) for part in parts]))

    def basis(self, model: MorphableModel) -> Basis:
        """The model as this network speaks of it, with the learned albedo. model: its part "front", or all of it.

        Raises UsageError for a model with fewer modes or, where there is a learned albedo, with other vertices.
        """
        layout = self.settings.layout
        if not self.settings.vertices:
            return Basis.of(model, layout, centre_of(model))
        made = Basis.of(model, replace(layout, albedo=0), centre_of(model))
        if len(made.mean) != self.settings.vertices:
            raise UsageError(
                f"deep3d: these weights have the albedo of {self.settings.vertices} vertices, the model's part has "
                f"{len(made.mean)}; expected the front of ICT-FaceKit's face"
            )
        return replace(made, albedo_mean=self.albedo_mean, albedo=self.albedo)

    def forward(self, images: Tensor) -> Regressed:
        return self.read(self.rnet.backbone(images), images.shape[-1])

    def read(self, pooled: Tensor, size: int) -> Regressed:
        """The same of features (B, F) that the trunk has of crops of `size` pixels."""
        coefficients = self.rnet.read(pooled)
        model = self.project(coefficients, size)
        return Regressed(coefficients, model + size * self.offsets(pooled).unflatten(1, (68, 2)), model)

    def project(self, coefficients: Coefficients, size: int) -> Tensor:
        """The model's landmarks (B, 68, 2), pixels of a crop of `size`."""
        basis = self._basis()
        return landmarks(basis, posed(basis, coefficients), size)

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
            kind = ResNetSettings if "depth" in trunk else MobileSettings
            net = cls(RegressorSettings(kind(**trunk), Layout(**sizes["layout"]), sizes.get("vertices", 0)))
            net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UsageError(f"{file}: these are no weights of deep3d of this version ({reason})") from None
        return net.eval()

    @classmethod
    def from_released(cls, file: Path) -> "FaceRegressor":
        """The released PyTorch model, for the BFM 2009; `set_landmarks` is yet to be called, and offsets are 0.

        Raises UsageError as `deep3d.read_released` does.
        """
        released = read_released(file)
        depth: Literal[18, 50] = 18 if released.backbone.features == 512 else 50
        net = cls(RegressorSettings(ResNetSettings(depth), released.layout))
        net.rnet = released
        return net.eval()

    @classmethod
    def tiny(cls, trunk: MobileSettings | ResNetSettings | None = None) -> "FaceRegressor":
        """Random weights, pictures of 32 pixels unless a trunk is given: for tests."""
        trunk = trunk or MobileSettings(32, 4, (4, 6, 8), (1, 2, 1), (2, 2, 2), 12)
        return cls(RegressorSettings(trunk, Layout(4, 3, 0, expression_kind="weights")))


def centre_of(model: MorphableModel) -> Tensor:
    """The point (3,), millimetres, of a model that belongs into the origin of Deep3D's frame.

    ICT_CENTRE for ICT's, the model's origin for the BFM 2009, as published; of others the one that brings the mean of
    the five points of the alignment to where ICT's are. Raises UsageError for a model without all 68 landmarks.
    """
    if model.name == "ict":
        return ICT_CENTRE
    if model.name == "bfm09":
        return torch.zeros(3)
    off = (five_of_model(model.landmarks(model.mean), torch.zeros(3)) - ICT_FIVE).mean(0)
    return (shift_from_deep3d(off) * MILLIMETRES_PER_UNIT).float()


# ---- several pictures of one person ----


class SetConfidence(nn.Module):
    """How far each picture of a person is to be trusted about the face's shape, by what a `FaceRegressor` sees there.

    Deng et al.'s C-Net. It belongs to one network, whose trunk it reads and does not hold.
    """

    def __init__(self, net: FaceRegressor, width: int = 64, hidden: int = 256) -> None:
        """width, hidden: see `CNet`; the published ones are 256 and 512."""
        super().__init__()
        self.width, self.hidden = width, hidden
        self.cnet = CNet(net.rnet.backbone, net.settings.layout.identity, width, hidden)
        self.network = fingerprint(net)

    def forward(self, stages: Stages) -> Tensor:
        """Confidences (B, I), 0 to 1, of what the trunk's `stages` have of B crops; only their ratios mean anything."""
        return self.cnet(stages)

    @property
    def card(self) -> dict[str, Any]:
        """What `from_file` wants to know."""
        return {"width": self.width, "hidden": self.hidden, "network": self.network}

    @classmethod
    def from_file(cls, file: Path, net: FaceRegressor) -> "SetConfidence":
        """With weights that training wrote, for the network as `FaceRegressor.from_file` gives it.

        Raises UsageError for a file of another form, and for one that was trained over another network.
        """
        tensors, card = load_file(file)
        try:
            sizes = card["settings"]["sets"]
            made, wanted = cls(net, sizes["width"], sizes["hidden"]), sizes["network"]
            if made.network == wanted:
                made.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UsageError(f"{file}: these are no weights of deep3d-sets of this version ({reason})") from None
        if made.network != wanted:
            raise UsageError(
                f"{file}: belongs to the network {wanted[:12]}, got {made.network[:12]}; give the file that was "
                "trained over this one, or train anew: aboutface train deep3d-sets --start"
            )
        return made.eval()


def fingerprint(net: FaceRegressor) -> str:
    """SHA-256 of the weights that make coefficients, in half precision as files hold them."""
    found = hashlib.sha256()
    for name, tensor in sorted(net.rnet.state_dict().items()):
        stored = tensor.half() if tensor.is_floating_point() else tensor
        found.update(name.encode() + stored.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


class Person(NamedTuple):
    """What N pictures say of one person."""

    identity: Tensor
    """(I,)."""
    confidences: Tensor
    """(N, I)."""
    each: Coefficients
    """Of every picture by itself, (N, ...)."""
    landmarks: Tensor
    """(N, 68, 2) pixels of each picture, as annotated."""


@torch.no_grad()
def look_at_person(net: FaceRegressor, crops: Tensor, confidence: SetConfidence | None = None) -> Person:
    """One identity of crops (N, 3, S, S) of a person: by confidence, the plain mean if missing."""
    stages = net.rnet.backbone.stages(crops)
    found = net.read(stages.pooled, crops.shape[-1])
    each = found.coefficients
    trust = torch.ones_like(each.id) if confidence is None else confidence(stages)
    return Person(combine_identity(each.id, trust), trust, each, found.landmarks)
