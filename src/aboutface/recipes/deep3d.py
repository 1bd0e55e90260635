"""Train Deep3D's network: a face's crop to a morphable model's coefficients and 68 landmarks.

Deng et al., CVPR workshops 2019: from photos with landmarks alone, by drawing what the network says. The data are a
folder or tar of face crops with landmarks (as `aboutface data prepare` makes them). The morphable model is the user's
file: see `aboutface models`. The small network is ours; `--network resnet50` is the published one.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError
from ..fit import FitSettings, Phase, Run, Task, TensorBatches, fit
from ..fit.schedules import cosine
from ..metrics.keypoints import landmark_error
from ..morphable import MorphableModel
from ..nn.iresnet import IResNet
from ..nn.mobile import MobileSettings
from ..nn.resnet import ResNet
from ..nn.states import read_state
from ..reconstruct.deep3d import Coefficients, Layout
from ..reconstruct.deep3d_face import published_part
from ..reconstruct.deep3d_frame import SIZE
from ..reconstruct.deep3d_landmarks import ICT_LAYOUT, FaceRegressor, RegressorSettings, ResNetSettings
from . import Trained
from .deep3d_albedo import learn_albedo
from .deep3d_augment import AugmentSettings
from .deep3d_drawing import Drawing, FilterRecognition
from .deep3d_faces import CroppedFaces, middle, moved_about, read_faces, recoloured, worsened
from .deep3d_losses import LossWeights, coefficient_loss, distance

HEAD_RATES = {"angle": 0.1, "trans": 0.1, "gamma": 0.4, "tex": 4.0, "offsets": 0.02}
"""Share of the rate for the heads whose unit does much (a radian, a decimetre, a whole crop, light); a standard
deviation of identity moves landmarks by a pixel or two. Adam's steps are as long for all."""


@dataclass(frozen=True)
class Deep3DTraining:
    """Coefficients of a morphable model, pose, and landmarks of a face, from its crop."""

    network: Literal["mobile", "resnet18", "resnet50"] = "mobile"
    """mobile: the small one. resnet50: as published; resnet18: as the released code has it, too."""
    size: int | None = None
    """Side of the crops, pixels: a multiple of 16 (if missing 112), for a ResNet of 32 (224)."""
    identity: int | None = None
    """Modes of identity; if missing 60 of the ICT model, of others the published 80, or what there are."""
    shift: int = 22
    """Largest shift of a crop in training, pixels of a crop of 224."""
    scale: float = 0.2
    """Largest change of its size."""
    rotation: float = 30.0
    """Largest turn, degrees."""
    model_weight: float = 0.5
    """Weight of the model's own landmarks, beside the annotated ones."""
    coefficients: float = 0.01
    """Weight of the squared coefficients."""
    batch: int = 32
    """Images per step."""
    learning_rate: float = 1e-3
    """Adam's step at the start; it falls to zero along a cosine."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    albedo: int = 0
    """Modes of albedo, the model's own or else learned from the photos before training; light and albedo of each photo
    are then learned by drawing the face (0: landmarks alone)."""
    albedo_faces: int = 1500
    """Photos that they are learned from."""
    photo: float = 10.0
    """Weight of the published losses of the drawn face, together, beside landmarks in pixels."""
    drawn: float = 0.5
    """Share of each batch that is drawn."""
    recognition: Path | None = None
    """Your file of ArcFace's IResNet-50 (backbone.pth): faces drawn over the photo are to look like the same person."""
    stand_in: bool = False
    """Where there is no such file, compare what fixed filters see. Not by default: of drawn faces, found again by their
    pictures, it betters the shape by 0.1 % (1.784 to 1.782 mm) and the albedo by 2 %, and takes 1.6 times as long.
    """
    test_share: float = 0.2
    """Share of the people that are kept out of training and graded; pictures without a name are all trained on."""
    start: Path | None = None
    """Weights to start from: of the same sizes, but for smaller crops or without albedo if need be (.safetensors), or
    the released ones for the BFM (epoch_20.pth)."""
    backbone: Path | None = None
    """Torchvision's weights of the ResNet, learned on ImageNet, to start from (resnet50-0676ba61.pth)."""
    model: Path | None = None
    """A model of `aboutface models` by name, or its file or folder; ict if missing."""
    fit: FitSettings = field(default_factory=lambda: FitSettings(steps=20000, preview_every=2000))

    def __post_init__(self) -> None:
        for name in ("model_weight", "coefficients", "scale", "rotation", "shift", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')}: expected 0 or more, got {getattr(self, name)}")
        if self.batch < 2 or not 0 < self.learning_rate < math.inf or not 0 <= self.test_share < 1:
            raise UsageError(
                f"--batch {self.batch} --learning-rate {self.learning_rate:g} --test-share {self.test_share:g}: "
                "expected 2 or more, above 0, and 0 or more but less than 1"
            )
        if self.scale >= 1:
            raise UsageError(f"--scale: expected less than 1, got {self.scale}")
        if self.albedo < 0 or not 0 < self.drawn <= 1 or not 0 <= self.photo < math.inf:
            raise UsageError(
                f"--albedo {self.albedo} --drawn {self.drawn} --photo {self.photo}: expected 0 or more modes, a share "
                "of the batch above 0, and a weight from 0 on"
            )
        if self.albedo and self.albedo_faces <= self.albedo:
            raise UsageError(
                f"--albedo-faces {self.albedo_faces}: expected more than the modes, --albedo {self.albedo}"
            )
        if (self.recognition or self.stand_in) and not self.albedo:
            raise UsageError("--recognition, --stand-in: faces are drawn only with --albedo; give it some modes")
        if self.backbone and (self.network == "mobile" or self.start):
            raise UsageError("--backbone: it is what a ResNet starts from; give --network resnet50, and no --start")

    def regressor(self, model: MorphableModel) -> RegressorSettings:
        """The network for a model, or the part of it that is drawn."""
        trunk: MobileSettings | ResNetSettings = MobileSettings(size=self.size or MobileSettings.size)
        if self.network != "mobile":
            trunk = ResNetSettings(18 if self.network == "resnet18" else 50, self.size or SIZE)
        learned = bool(self.albedo) and model.albedo is None
        layout = replace(layout_for(model), albedo=self.albedo)
        layout = layout if self.identity is None else replace(layout, identity=self.identity)
        return RegressorSettings(trunk, layout, len(model.mean) if learned else 0)

    def train(self, data: Path, run: Run, log: Callable[[str], None]) -> Trained:
        """Train on all faces of `data` but those of the people kept aside, on whom it is graded."""
        model = published_part(MorphableModel.load(self.model or "ict"))
        net = self.untrained(model)
        faces = read_faces(data, net.settings.trunk.size, log)
        parts = faces.split(self.test_share)
        log(f"{len(parts['train'])} faces to train on, {len(parts['test'])} of other people to test")
        chosen = parts["train"]
        if not len(chosen):
            raise UsageError(f"{data}: everybody is kept aside; take a smaller --test-share or more people")
        if net.settings.vertices and not bool(net.albedo.any()):
            self._learn_albedo(net, model, faces, chosen, log)
        batches = TensorBatches(
            {"image": faces.images[chosen], "points": faces.points[chosen]}, self.batch, self.fit.seed
        )
        task = fit(Deep3DTask(net, self, self.drawing(net, model)), batches, self.fit, run, log=log).averaged
        net = task.net.cpu().eval()
        scores = grade(net, faces.images[parts["test"]], faces.points[parts["test"]]) if len(parts["test"]) else {}
        return Trained(dict(net.state_dict()), scores, {"network": asdict(net.settings), "training": asdict(self)})

    def untrained(self, model: MorphableModel) -> FaceRegressor:
        """The network with what it starts from, and the model's landmarks. Raises UsageError for unsuitable weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.fit.seed)
            net = FaceRegressor(self.regressor(model))
        if self.start is not None:
            start_from(net, read_start(self.start))
        if self.backbone is not None and isinstance(net.rnet.backbone, ResNet):
            net.rnet.backbone.load_torchvision(read_state(self.backbone, f"torchvision's {self.network}"))
        net.set_landmarks(net.basis(model))
        return net

    def drawing(self, net: FaceRegressor, model: MorphableModel) -> Drawing | None:
        """What is drawn and compared; None where only landmarks are learned."""
        if not self.albedo:
            return None
        recognition = FilterRecognition() if self.stand_in else None
        if self.recognition is not None:
            recognition = IResNet.from_file(self.recognition)
        return Drawing.of(net, model, recognition)

    def _learn_albedo(
        self,
        net: FaceRegressor,
        model: MorphableModel,
        faces: CroppedFaces,
        chosen: Tensor,
        log: Callable[[str], None],
    ) -> None:
        some = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(self.fit.seed))]
        some = some[: self.albedo_faces]
        size = net.settings.trunk.size
        learned = learn_albedo(model, faces.images[some], faces.points[some], size, self.albedo, log)
        net.albedo_mean.copy_(learned.mean)
        net.albedo.copy_(learned.modes)


def layout_for(model: MorphableModel) -> Layout:
    """ICT_LAYOUT, or for another model the published counts as far as it has modes; without albedo."""
    if model.name == "ict":
        return ICT_LAYOUT
    most = Layout()
    kind = model.expression_kind
    expression = len(model.expression) if kind == "weights" else min(most.expression, len(model.expression))
    return Layout(min(most.identity, len(model.identity)), expression, 0, expression_kind=kind)


class Deep3DTask(Task):
    """Crops moved about, in changed colours; landmarks, coefficients kept small, and the drawn face."""

    name = "deep3d"

    def __init__(self, net: FaceRegressor, settings: Deep3DTraining, drawing: Drawing | None = None) -> None:
        """drawing: of the network's basis, where light and albedo are learned."""
        super().__init__()
        self.net, self.settings, self.drawing = net, settings, drawing

    def phases(self) -> dict[str, Phase]:
        s = self.settings
        slow = {id(p): share for name, share in HEAD_RATES.items() for p in _head(self.net, name)}
        shares = sorted({1.0, *HEAD_RATES.values()})
        groups = [
            {
                "params": [p for p in self.net.parameters() if slow.get(id(p), 1.0) == share],
                "lr": share * s.learning_rate,
            }
            for share in shares
        ]
        optimiser = torch.optim.AdamW(groups, weight_decay=s.weight_decay)
        return {"all": Phase(optimiser, cosine(optimiser, s.fit.steps), clip=5.0)}

    def loss(self, phase: str, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        s, net = self.settings, self.net
        ranges = AugmentSettings(shift=s.shift, scale=s.scale, rotation=s.rotation)
        images, points = moved_about(batch["image"], batch["points"], ranges, net.settings.trunk.size)
        images = recoloured(images)
        found = net(worsened(images))
        # Weights mean pixels of the published crop.
        scale = SIZE / images.shape[-1]
        terms = {
            "landmarks": distance(found.landmarks, points) * scale,
            "model": distance(found.model_landmarks, points, outline=True) * scale,
            "coefficients": coefficient_loss(found.coefficients, kind=net.settings.layout.expression_kind),
        }
        total = terms["landmarks"] + s.model_weight * terms["model"] + s.coefficients * terms["coefficients"]
        if self.drawing is not None:
            count = max(1, round(s.drawn * len(images)))
            some = Coefficients(*(part[:count] for part in found.coefficients))
            drawn = self.drawing.terms(some, images[:count], points[:count])
            total = total + s.photo * LossWeights().total(drawn)
            terms |= drawn
        with torch.no_grad():
            terms["nme"] = landmark_error(found.landmarks, points).mean()
        return total, terms

    @torch.no_grad()
    def preview(self, batch: Any) -> dict[str, Tensor]:
        size = self.net.settings.trunk.size
        images, points = middle(batch["image"][:8], size) / 255.0, batch["points"][:8]
        border = (batch["image"].shape[-1] - size) / 2
        found = self.net(images)
        shown = {
            "annotated": _dotted(images, points - border),
            "found": _dotted(images, found.landmarks),
            "model": _dotted(images, found.model_landmarks),
        }
        if self.drawing is not None:
            shown["drawn"] = self.drawing(found.coefficients, size).over(images).clamp(0, 1)
        return shown


@torch.no_grad()
def grade(net: FaceRegressor, images: Tensor, points: Tensor) -> dict[str, float]:
    """Normalised mean error in percent on faces with a margin, cut by their true landmarks: the best that can be."""
    size = net.settings.trunk.size
    border = (images.shape[-1] - size) / 2
    found = [net(middle(part, size) / 255.0) for part in images.split(64)]
    truth = points - border
    return {
        "test_faces": float(len(images)),
        "nme": round(float(landmark_error(torch.cat([f.landmarks for f in found]), truth).mean()), 3),
        "model_nme": round(float(landmark_error(torch.cat([f.model_landmarks for f in found]), truth).mean()), 3),
    }


def _head(net: FaceRegressor, name: str) -> list[nn.Parameter]:
    """Parameters of the heads that say one member of `Coefficients`, or the offsets."""
    if name == "offsets":
        return list(net.offsets.parameters())
    member = net.settings.layout.slices[name]
    start, found = 0, []
    for head in net.rnet.final_layers:
        assert isinstance(head, nn.Conv2d)
        if member.start <= start < member.stop:
            found += head.parameters()
        start += head.out_channels
    return found


def read_start(file: Path) -> FaceRegressor:
    """A network that training wrote (.safetensors), or the released one (.pth). Raises UsageError for other files."""
    return FaceRegressor.from_file(file) if file.suffix == ".safetensors" else FaceRegressor.from_released(file)


def start_from(net: FaceRegressor, other: FaceRegressor) -> None:
    """Take over what another network learned: one for smaller crops, or without light and albedo.

    The last depthwise convolution covers the whole map, so that it grows with the crop. Landmarks of the model are not
    taken over. Raises UsageError for a network of other kind, widths or modes.
    """
    state, known = net.state_dict(), other.state_dict()
    heads = {name: _head(other, name) for name in other.settings.layout.sizes}
    whole = "rnet.backbone.gather.0.weight"
    if whole in known and whole in state:
        ratio = known[whole].shape[-1] / state[whole].shape[-1]
        grown = functional.interpolate(known[whole], state[whole].shape[-2:], mode="bicubic", align_corners=True)
        known |= {whole: grown * ratio**2}
    taken = {name: tensor for name, tensor in known.items() if name in state and "final_layers" not in name}
    taken.pop("points", None)
    wrong = [name for name, tensor in taken.items() if tensor.shape != state[name].shape]
    wrong += [name for name in state if "backbone" in name and name not in taken]
    pairs = [(mine, theirs) for name in heads for mine, theirs in zip(_head(net, name), heads[name], strict=False)]
    wrong += [f"a head {tuple(theirs.shape)}" for mine, theirs in pairs if mine.shape != theirs.shape]
    if wrong:
        sizes = other.settings
        raise UsageError(
            f"--start: these are no weights of the same sizes ({', '.join(wrong)[:120]}); they are of {sizes.trunk} "
            f"with {sizes.layout.identity} modes of identity, {sizes.layout.expression} of expression and "
            f"{sizes.layout.albedo} of albedo"
        )
    net.load_state_dict(state | taken)
    with torch.no_grad():
        for mine, theirs in pairs:
            mine.copy_(theirs)


def _dotted(images: Tensor, points: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) with points (B, 68, 2) in green."""
    drawn = images.clone()
    at = points.round().long().clamp(0, images.shape[-1] - 1)
    for image, places in zip(drawn, at, strict=True):
        image[:, places[:, 1], places[:, 0]] = image.new_tensor([0.0, 1.0, 0.0])[:, None]
    return drawn
