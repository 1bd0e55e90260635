"""Train the small Deep3D network: a face's crop to a morphable model's coefficients and 68 landmarks.

The data are a folder or tar of face crops with landmarks (as `aboutface data prepare` makes them). The ICT model is the
user's file: see `aboutface models info ict`. Not on the menu of `aboutface train` until a reconstructor uses it.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..data import open_examples, split_by_identity
from ..data.crop import cut
from ..errors import AboutfaceError, UsageError
from ..fit import FitSettings, Phase, Run, Task, TensorBatches, fit
from ..fit.schedules import cosine
from ..geometry import apply
from ..metrics.keypoints import landmark_error
from ..morphable import MorphableModel
from ..nn.mobile import MobileSettings
from ..reconstruct.deep3d_draw import Basis
from ..reconstruct.deep3d_frame import ICT_CENTRE, ICT_FIVE, SIZE, crop_from_photo, five_from_68
from ..reconstruct.deep3d_landmarks import ICT_LAYOUT, FaceRegressor, RegressorSettings
from ..weights import load_file
from . import Trained
from .deep3d_augment import Augmentation, AugmentSettings, random_augmentation
from .deep3d_losses import coefficient_loss

MARGIN = 1.5
"""Side of the pictures that are kept, in sides of the network's crop: room to move the crop about."""
JAW = slice(0, 17)
HEAD_RATES = {"angle": 0.1, "trans": 0.1, "offsets": 0.02}
"""Share of the rate for the heads whose unit moves landmarks far (a radian, a decimetre, a whole crop); a standard
deviation of identity moves them by a pixel or two. Adam's steps are as long for all."""


@dataclass(frozen=True)
class Deep3DTraining:
    """Coefficients of a morphable model, pose, and landmarks of a face, from its crop."""

    size: int = 112
    """Side of the crops, pixels: a multiple of 16."""
    identity: int = ICT_LAYOUT.identity
    """Modes of identity."""
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
    test_share: float = 0.2
    """Share of the people that are kept out of training and graded; pictures without a name are all trained on."""
    start: Path | None = None
    """Weights (.safetensors) of the same sizes to start from."""
    model: Path | None = None
    """The ICT model, file or folder; that of `aboutface models add ict` if missing."""
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

    @property
    def network(self) -> RegressorSettings:
        return RegressorSettings(MobileSettings(size=self.size), replace(ICT_LAYOUT, identity=self.identity))

    def train(self, data: Path, run: Run, log: Callable[[str], None]) -> Trained:
        """Train on all faces of `data` but those of the people kept aside, on whom it is graded."""
        faces = read_faces(data, self.size, log)
        parts = faces.split(self.test_share)
        log(f"{len(parts['train'])} faces to train on, {len(parts['test'])} of other people to test")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.fit.seed)
            net = FaceRegressor(self.network)
        if self.start is not None:
            _start_from(net, self.start)
        else:
            model = MorphableModel.load(self.model or "ict")
            net.set_landmarks(Basis.of(model, self.network.layout, ICT_CENTRE))
        chosen = parts["train"]
        batches = TensorBatches(
            {"image": faces.images[chosen], "points": faces.points[chosen]}, self.batch, self.fit.seed
        )
        task = fit(Deep3DTask(net, self), batches, self.fit, run, log=log).averaged
        net = task.net.cpu().eval()
        scores = grade(net, faces.images[parts["test"]], faces.points[parts["test"]]) if len(parts["test"]) else {}
        return Trained(dict(net.state_dict()), scores, {"network": asdict(net.settings), "training": asdict(self)})


@dataclass(frozen=True, eq=False)
class CroppedFaces:
    """N faces, cut out by their landmarks with a margin."""

    images: Tensor
    """(N, 3, B, B) uint8; the network's crop lies in the middle."""
    points: Tensor
    """(N, 68, 2) pixels of these."""
    names: list[str | None]

    def split(self, share: float) -> dict[str, Tensor]:
        """Indices of train and test; nobody is in both, and who has no name is in train."""
        named = [i for i, name in enumerate(self.names) if name is not None]
        nameless = torch.tensor([i for i, name in enumerate(self.names) if name is None], dtype=torch.int64)
        parts = split_by_identity([self.names[i] for i in named], {"train": 1 - share, "test": share})
        chosen = {part: torch.tensor(named, dtype=torch.int64)[index] for part, index in parts.items()}
        return {"train": torch.cat([chosen["train"], nameless]), "test": chosen["test"]}


def read_faces(data: Path, size: int, log: Callable[[str], None]) -> CroppedFaces:
    """All faces of a source, for a network of crops of `size`. What cannot be used is left out and named.

    Raises UsageError where nothing is left.
    """
    examples = open_examples(data)
    bad = dict(examples.bad)
    images, points, names = [], [], []
    for index, entry in enumerate(examples.entries):
        try:
            example = examples[index]
            if example.landmarks is None:
                raise UsageError(f"{example.key}: no landmarks; aboutface data prepare finds them")
            image, moved = crop_face(example.pixels, example.landmarks, size)
        except AboutfaceError as error:
            bad[entry.name] = str(error)
            continue
        images.append(image)
        points.append(moved)
        names.append(example.identity)
    for why in list(bad.values())[:10]:
        log(f"left out: {why}")
    if len(bad) > 10:
        log(f"left out: {len(bad) - 10} more")
    if not images:
        raise UsageError(f"{data}: no face that can be used; give a folder or tar of crops with landmarks")
    return CroppedFaces(torch.from_numpy(np.stack(images)).movedim(-1, 1).contiguous(), torch.stack(points), names)


def crop_face(pixels: np.ndarray, landmarks: np.ndarray, size: int) -> tuple[np.ndarray, Tensor]:
    """The crop of `size` with its margin (B, B, 3) uint8, and landmarks (68, 2) there."""
    points = torch.from_numpy(landmarks).double()
    crop = crop_from_photo(five_from_68(points), ICT_FIVE, size)
    border = (kept_side(size) - size) / 2
    crop[:2, 2] += border
    return cut(pixels, torch.linalg.inv(crop).numpy(), kept_side(size)), apply(crop, points).float()


def kept_side(size: int) -> int:
    """Side of the pictures that are kept; an even number of pixels more than the crop."""
    return size + 2 * round(size * (MARGIN - 1) / 2)


class Deep3DTask(Task):
    """Crops moved about, in changed colours; landmarks, and coefficients kept small."""

    name = "deep3d"

    def __init__(self, net: FaceRegressor, settings: Deep3DTraining) -> None:
        super().__init__()
        self.net, self.settings = net, settings

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
        images, points = self.changed(batch)
        found = self.net(images)
        scale = SIZE / self.settings.size
        terms = {
            "landmarks": distance(found.landmarks, points) * scale,
            "model": distance(found.model_landmarks, points, outline=True) * scale,
            "coefficients": coefficient_loss(found.coefficients, kind="weights"),
        }
        s = self.settings
        total = terms["landmarks"] + s.model_weight * terms["model"] + s.coefficients * terms["coefficients"]
        with torch.no_grad():
            terms["nme"] = landmark_error(found.landmarks, points).mean()
        return total, terms

    def changed(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Crops (B, 3, S, S) and their landmarks, changed at random."""
        images, points = batch["image"].float() / 255, batch["points"]
        s = self.settings
        ranges = AugmentSettings(shift=s.shift, scale=s.scale, rotation=s.rotation)
        seed = int(torch.randint(2**31, ()))
        change = random_augmentation(len(images), ranges, torch.Generator().manual_seed(seed), s.size)
        border = (images.shape[-1] - s.size) / 2
        moved = change.landmarks(points - border)
        return recoloured(_moved(images, change, s.size)), moved

    @torch.no_grad()
    def preview(self, batch: Any) -> dict[str, Tensor]:
        images, points = middle(batch["image"][:8], self.settings.size) / 255.0, batch["points"][:8]
        border = (batch["image"].shape[-1] - self.settings.size) / 2
        found = self.net(images)
        return {
            "annotated": _dotted(images, points - border),
            "found": _dotted(images, found.landmarks),
            "model": _dotted(images, found.model_landmarks),
        }


def distance(found: Tensor, truth: Tensor, outline: bool = False) -> Tensor:
    """Mean distance of points (B, 68, 2). With `outline` a jaw point counts only across the jaw line: on the surface it
    is a fixed place, and annotators follow the outline."""
    off = found - truth
    if outline:
        along = functional.normalize(truth[:, 2:17] - truth[:, :15], dim=-1)
        along = torch.cat([along[:, :1], along, along[:, -1:]], 1)
        jaw = off[:, JAW]
        off = torch.cat([jaw - 0.8 * (jaw * along).sum(-1, keepdim=True) * along, off[:, 17:]], 1)
    return (off.square().sum(-1) + 1e-6).sqrt().mean()


def _moved(images: Tensor, change: Augmentation, size: int) -> Tensor:
    """Crops (B, 3, S, S) of pictures with a margin, changed."""
    side = images.shape[-1]
    pixels = torch.tensor([[size / 2, 0, size / 2], [0, size / 2, size / 2], [0, 0, 1.0]], dtype=torch.float64)
    kept = torch.tensor([[2 / side, 0, -size / side], [0, 2 / side, -size / side], [0, 0, 1.0]], dtype=torch.float64)
    unit = (kept @ torch.linalg.inv(change.matrix) @ pixels)[:, :2].to(images)
    grid = functional.affine_grid(unit, [len(images), 3, size, size], align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def middle(images: Tensor, size: int) -> Tensor:
    """The crops (B, C, S, S) in the middle of pictures with a margin."""
    border = (images.shape[-1] - size) // 2
    return images[..., border : border + size, border : border + size]


def recoloured(images: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) in [0, 1] with other contrast, brightness and tint; some in grey, some coarse, some with a
    patch hidden, each at random."""
    count, size = len(images), images.shape[-1]

    def some(share: float) -> Tensor:
        return (torch.rand(count, 1, 1, 1) < share).to(images.device)

    def spread(*shape: int) -> Tensor:
        return (2 * torch.rand(*shape) - 1).to(images)

    grey = images.mean(1, keepdim=True).expand_as(images)
    images = torch.where(some(0.15), grey, images)
    mean = images.mean((1, 2, 3), keepdim=True)
    gain = (0.4 * spread(count, 1, 1, 1) + 0.1 * spread(count, 3, 1, 1)).exp()
    images = ((images - mean) * (0.4 * spread(count, 1, 1, 1)).exp() + mean) * gain
    coarse = functional.interpolate(functional.avg_pool2d(images, 4), size=(size, size), mode="bilinear")
    images = torch.where(some(0.1), coarse, images)
    axis = torch.arange(size, device=images.device) / size
    middle_x, middle_y, reach = torch.rand(count, 1), torch.rand(count, 1), 0.05 + 0.15 * torch.rand(count, 1)
    inside_x = ((axis - middle_x.to(axis)).abs() < reach.to(axis))[:, None, None, :]
    inside_y = ((axis - middle_y.to(axis)).abs() < reach.to(axis))[:, None, :, None]
    hidden = inside_x & inside_y & some(0.3)
    return torch.where(hidden, torch.rand(count, 3, 1, 1).to(images), images).clamp(0, 1)


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


def _start_from(net: FaceRegressor, file: Path) -> None:
    tensors, _ = load_file(file)
    try:
        net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"--start {file}: these are no weights of the same sizes ({reason})") from None


def _dotted(images: Tensor, points: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) with points (B, 68, 2) in green."""
    drawn = images.clone()
    at = points.round().long().clamp(0, images.shape[-1] - 1)
    for image, places in zip(drawn, at, strict=True):
        image[:, places[:, 1], places[:, 0]] = image.new_tensor([0.0, 1.0, 0.0])[:, None]
    return drawn
