"""Train Unsup3d on photos of one kind of thing, without any label.

    aboutface train unsup3d --data DIR

DIR is a folder or tar of square crops. Where they have landmarks of faces (as `aboutface data prepare` makes them),
faces are cut out by them, and `--anchor` ties the view to degrees.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..data import Examples, open_examples
from ..data.crop import cut
from ..errors import AboutfaceError, UsageError
from ..fit import FitSettings, Phase, Run, Task, TensorBatches, fit
from ..fit.schedules import cosine
from ..nn.autoencoder import Head
from ..nn.perceptual import perceptual_features
from ..reconstruct.face_frame import FaceFrame, mean_face_depth
from ..reconstruct.unsup3d import BORDER, Factors, Unsup3d, Unsup3dSettings, View, built, joined, mirrored
from ..render.reproject import Reprojection
from ..weights import info, load_file
from . import Trained

EPSILON = 1e-7
ENOUGH = 2000
"""Faces whose mean is that of all."""
CALIBRATED_AT_ONCE = 50
Crop = Literal["auto", "face", "centre"]


@dataclass(frozen=True)
class Unsup3dTraining:
    """Depth, albedo, view and light of one kind of thing, from photos alone (Unsup3d, CVPR 2020, improved).

    `published()` has the settings of the paper.
    """

    size: int = 64
    """Side of the images, pixels: 32, 64, 128."""
    width: int = 64
    """Channels of the outermost level of the networks; the published number is 4096 / size."""
    latent: int = 256
    """Numbers in the neck of the networks."""
    depth_head: Head = "smooth"
    """Last level of depth: full (published), or smooth: made at half size."""
    albedo_head: Head = "sharp"
    """Last level of albedo: full (published), or sharp: a single convolution at full size."""
    mean: Literal["auto", "none", "dome", "face"] = "auto"
    """Learn a mean shape and a mean albedo as maps, to which the networks add what differs; the shape starts as a dome,
    which tells convex from concave, or as the mean head; auto: as the head for crops by landmarks."""
    hold: float = 0.2
    """Share of the steps in which the shape is held at its start while views are learned; then it is let go as slowly.
    A turned flat face and a little turned deep one look alike: a plausible depth at the start settles which it is."""
    confidence: int = 32
    """Channels of the outermost level of the network that says where reconstruction and symmetry fail; 0: none."""
    symmetry: float = 0.5
    """Weight of the mirrored reconstruction; 0 uses no symmetry."""
    perceptual: float = 0.0
    """Weight of the difference of features."""
    features: Literal["auto", "vgg16", "filters"] = "auto"
    """Which features: VGG16 where you have it (see models list), else fixed filters."""
    multiscale: float = 1.0
    """Weight of the difference of the pictures at a half and at a quarter of their size."""
    smoothness: float = 0.0
    """Weight of the differences of neighbouring depths."""
    bending: float = 0.05
    """Weight of the differences of neighbouring slopes."""
    prior: float = 30.0
    """Weight of the squared difference of depth and the mean shape, as shares of the depth range: what all images agree
    on is free, and what one image alone says is doubted. Ignored without a mean shape."""
    albedo_prior: float = 0.0
    """The same of albedo, before its tanh. Without symmetry a free albedo shows each view by itself: 100 then."""
    shift_depth: float = 0.0
    """Largest shift along the camera's axis; the published setting for cats is 0.1."""
    crop: Crop = "auto"
    """face: by landmarks; centre: the largest centred square; auto: face where most images have landmarks."""
    anchor: float = 1.0
    """With face crops: weight of the difference between the view and the landmarks' pose."""
    batch: int = 64
    """Images per step."""
    learning_rate: float = 1e-3
    """Rate of Adam."""
    mean_rate: float = 3e-3
    """Rate for the mean maps."""
    weight_decay: float = 0.0
    """Weight decay of Adam (published 5e-4). With --hold it must be 0: where there is no gradient, Adam takes whole
    steps towards 0, and a network that was held is gone when it is let go."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """How the rate goes on."""
    start: Path | None = None
    """Weights (.safetensors) to start from: of the same settings, or of half the size."""
    fit: FitSettings = field(default_factory=lambda: FitSettings(steps=30000, preview_every=1000))

    def __post_init__(self) -> None:
        for name in (
            "symmetry",
            "perceptual",
            "multiscale",
            "smoothness",
            "bending",
            "prior",
            "albedo_prior",
            "anchor",
            "shift_depth",
            "weight_decay",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')}: expected 0 or more, got {getattr(self, name)}")
        for name in ("learning_rate", "mean_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')}: expected a number above 0, got {getattr(self, name)}")
        if not 0 <= self.hold <= 0.5:
            raise UsageError(f"--hold: expected 0 to 0.5 of the steps, got {self.hold}")
        if self.hold and self.weight_decay:
            raise UsageError(
                f"--hold {self.hold:g} --weight-decay {self.weight_decay:g}: "
                "what is held would decay to 0; make one of them 0"
            )
        if self.batch < 1:
            raise UsageError(f"--batch: expected 1 or more, got {self.batch}")
        if self.size < 32 or self.size & (self.size - 1):
            raise UsageError(f"--size: expected 32, 64, 128 or 256, got {self.size}")

    @property
    def network(self) -> Unsup3dSettings:
        """The networks that are trained."""
        return Unsup3dSettings(
            size=self.size,
            width=self.width,
            latent=self.latent,
            encoder_width=max(4, self.width // 2),
            depth_head=self.depth_head,
            albedo_head=self.albedo_head,
            mean=self.mean != "none",
            confidence_width=self.confidence,
            shift_depth=self.shift_depth,
        )

    def train(self, data: Path, run: Run | None, log: Callable[[str], None]) -> Trained:
        """Train on all images of `data`."""
        images, views = read_images(data, self.size, self.crop, log)
        # The card says what was decided: it tells networks of objects from those of faces.
        settings = replace(self, crop="centre" if views is None else "face")
        if self.mean == "auto":
            settings = replace(settings, mean="dome" if views is None else "face")
        if settings.mean == "face" and views is None:
            raise UsageError(f"--mean face: {data} has no landmarks to cut faces by; aboutface data prepare finds them")
        net = train_unsup3d(images, settings, run, log, views if self.anchor else None)
        return Trained(dict(net.state_dict()), {}, {"network": asdict(net.settings), "training": asdict(settings)})


def train_unsup3d(
    images: Tensor,
    settings: Unsup3dTraining,
    run: Run | None,
    log: Callable[[str], None],
    views: Tensor | None = None,
) -> Unsup3d:
    """Train on images (N, 3, S, S) uint8; `views` (N, 2): yaw and pitch in degrees where they are known.

    Returns the network on the CPU, in evaluation mode. Raises UsageError for images of another size.
    """
    if images.ndim != 4 or images.shape[1:] != (3, settings.size, settings.size) or images.dtype != torch.uint8:
        raise UsageError(
            f"unsup3d: expected uint8 images (N, 3, {settings.size}, {settings.size}), got {_about(images)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.fit.seed)
        task = Unsup3dTask(settings)
    if settings.start is not None:
        start_from(task.net, settings.start)
    log(f"perceptual loss: {task.features.name if task.features is not None else 'none'}")
    tensors = {"image": images} | ({} if views is None else {"view": views.float()})
    batches = TensorBatches(tensors, settings.batch, settings.fit.seed)
    net = fit(task, batches, settings.fit, run, log=log).averaged.net.cpu().eval()
    if settings.mean == "face":
        # From all over: neighbours may be frames of one video.
        calibrate(net, images[:: max(1, len(images) // ENOUGH)])
    return net


@torch.no_grad()
def calibrate(net: Unsup3d, images: Tensor) -> None:
    """Set the network's `drift` from images (N, 3, S, S) uint8 of many faces, whose mean shape is the mean head."""
    means = torch.stack([net(part / 255).depth.mean(0) * len(part) for part in images.split(CALIBRATED_AT_ONCE)])
    mean = means.sum(0) / len(images)
    net.drift.copy_((mean + mean.flip(-1)) / 2 - net.start_depth())


class Unsup3dTask(Task):
    """Section 3 of the paper; its weights are in section 7 of the supplement."""

    name = "unsup3d"

    def __init__(self, settings: Unsup3dTraining) -> None:
        super().__init__()
        self.settings = settings
        self.net = Unsup3d(settings.network)
        if settings.mean == "face":
            self.net.start_from_depth(mean_face_depth(self.net.K, settings.size))
        self.features = perceptual_features(settings.features, info("vgg16").path) if settings.perceptual else None
        if self.features is not None:
            self.features.requires_grad_(False)

    def phases(self) -> dict[str, Phase]:
        s = self.settings
        means = [p for name, p in self.net.named_parameters() if name.startswith("mean_")]
        others = [p for name, p in self.net.named_parameters() if not name.startswith("mean_")]
        groups: list[dict[str, Any]] = [{"params": others, "lr": s.learning_rate, "weight_decay": s.weight_decay}]
        if means:
            groups.append({"params": means, "lr": s.mean_rate})
        # One optimiser per network, as published, would do the same.
        optimiser = torch.optim.Adam(groups, betas=(0.9, 0.999))
        schedule = cosine(optimiser, s.fit.steps) if s.schedule == "cosine" else None
        return {"all": Phase(optimiser, schedule)}

    def loss(self, phase: str, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        images, views = _mirrored_at_random(batch)
        freedom = self._freedom(step)
        factors = self.net(images, freedom)
        scales = self._scales(images)
        both = joined(factors, mirrored(factors)) if self.settings.symmetry else factors
        seen = self.net.reproject(both)
        # A pixel counts where both reconstructions have one.
        valid = seen.valid.view(-1, *images.shape[:1], *seen.valid.shape[1:]).all(0)
        terms = self._reconstruction(seen, images, valid, scales)
        total = terms["pixels"] + self.settings.perceptual * terms["features"] + terms["multiscale"]
        span = self.net.settings.max_depth - self.net.settings.min_depth
        terms["smooth"], terms["bending"] = smoothness(factors.depth, span), bending(factors.depth, span)
        total = total + self.settings.smoothness * terms["smooth"] + self.settings.bending * terms["bending"]
        if self.net.settings.mean:
            terms["prior"] = departure(factors.depth, self.net.mean_shape(freedom), span)
            terms["albedo_prior"] = self.net.own_albedo(factors.albedo).square().mean()
            total = total + self.settings.prior * terms["prior"] + self.settings.albedo_prior * terms["albedo_prior"]
        if views is not None:
            terms["view"] = anchor_loss(factors.view, views)
            total = total + self.settings.anchor * terms["view"]
        return total, terms | _spread(factors)

    def _freedom(self, step: int) -> float:
        held = self.settings.hold * self.settings.fit.steps
        return min(max(step / held - 1, 0.0), 1.0) if held and self.settings.mean != "none" else 1.0

    def _scales(self, images: Tensor) -> tuple[Tensor, Tensor] | None:
        return None if self.net.confidence_net is None else self.net.confidence_net(2 * images - 1)

    def _reconstruction(
        self, seen: Reprojection, images: Tensor, valid: Tensor, scales: tuple[Tensor, Tensor] | None
    ) -> dict[str, Tensor]:
        """Each term: that of the reconstruction, plus `symmetry` times that of its mirrored twin."""
        wanted = None if self.features is None else self.features(images)
        zero = images.new_zeros(())
        terms = {"pixels": zero, "features": zero, "multiscale": zero}
        for twin, image in enumerate(seen.image.split(len(images))):
            weight = self.settings.symmetry if twin else 1.0
            pixel_scale, feature_scale = (None, None) if scales is None else (s[:, twin] for s in scales)
            terms["pixels"] = terms["pixels"] + weight * pixel_loss(image, images, valid, pixel_scale)
            if self.features is not None and wanted is not None:
                difference = feature_loss(self.features(image), wanted, valid, feature_scale)
                terms["features"] = terms["features"] + weight * difference
            if self.settings.multiscale:
                difference = self.settings.multiscale * multiscale_loss(image, images, valid)
                terms["multiscale"] = terms["multiscale"] + weight * difference
        return terms

    @torch.no_grad()
    def preview(self, batch: Any) -> dict[str, Tensor]:
        images = batch["image"].float() / 255
        factors = self.net(images)
        side = replace(factors, view=View(*(0 * angle for angle in factors.view)))
        side = replace(side, view=side.view._replace(yaw=side.view.yaw + 30))
        normals = self.net.normals(factors.depth)
        shape = (normals * normals.new_tensor([0.35, -0.5, -0.79]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        return {
            "image": images,
            "reconstruction": self.net.reproject(factors).image.clamp(0, 1),
            "albedo": factors.albedo,
            "shape": shape.clamp(0, 1).expand(-1, 3, -1, -1),
            "normals": (normals * normals.new_tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1) + 1) / 2,
            "turned": self.net.reproject(side).image.clamp(0, 1),
        }


def pixel_loss(image: Tensor, wanted: Tensor, valid: Tensor, scale: Tensor | None) -> Tensor:
    """Negative log of the Laplace likelihood (equation 3) of images (B, 3, H, W), over the pixels that are `valid`
    (B, H, W); `scale` (B, H, W), plain L1 without it. Counted in [-1, 1], as published."""
    difference = 2 * (image - wanted).abs().mean(1)
    if scale is not None:
        difference = math.sqrt(2) * difference / (scale + EPSILON) + (scale + EPSILON).log()
    return masked_mean(difference, valid.to(difference))


def feature_loss(features: Tensor, wanted: Tensor, valid: Tensor, scale: Tensor | None) -> Tensor:
    """Negative log of the Gaussian likelihood (equation 7) of features (B, C, h, w), `scale` (B, h, w)."""
    square = (features - wanted).square().mean(1)
    if scale is not None:
        square = square / (2 * scale.square() + EPSILON) + (scale + EPSILON).log()
    return masked_mean(square, functional.adaptive_avg_pool2d(valid.to(square), (square.shape[1], square.shape[2])))


def multiscale_loss(image: Tensor, wanted: Tensor, valid: Tensor) -> Tensor:
    """L1 in [-1, 1] at a half and at a quarter of the size: it draws a view into place from farther away."""
    weight = valid[:, None].to(image)
    total = image.new_zeros(())
    difference = 2 * (image - wanted) * weight
    for _ in range(2):
        difference, weight = functional.avg_pool2d(difference, 2), functional.avg_pool2d(weight, 2)
        total = total + difference.abs().sum() / (3 * weight.sum()).clamp_min(1.0)
    return total / 2


def smoothness(depth: Tensor, span: float) -> Tensor:
    """Mean absolute difference of neighbouring depths (B, H, W), without the held border, as a share of `span`."""
    inner = depth[..., BORDER:-BORDER] / span
    return inner.diff(dim=-1).abs().mean() + inner.diff(dim=-2).abs().mean()


def bending(depth: Tensor, span: float) -> Tensor:
    """The same of the second differences: slopes are free, corrugations are not."""
    inner = depth[..., BORDER:-BORDER] / span
    return inner.diff(n=2, dim=-1).abs().mean() + inner.diff(n=2, dim=-2).abs().mean()


def departure(depth: Tensor, mean: Tensor, span: float) -> Tensor:
    """Mean square of how far depth (B, H, W) is from `mean` (1, H, W), as a share of `span`."""
    return ((depth - mean)[..., BORDER:-BORDER] / span).square().mean()


def anchor_loss(view: View, known: Tensor) -> Tensor:
    """Mean squared difference, in radians, of a view and known yaw and pitch (B, 2), in degrees, of an upright face."""
    off = torch.stack([view.yaw - known[:, 0], view.pitch - known[:, 1], view.roll], -1)
    return torch.deg2rad(off).square().sum(-1).mean()


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of values under weights of the same shape; 0 where all weights are 0."""
    return (values * weight).sum() / weight.sum().clamp_min(1.0)


def _mirrored_at_random(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    images, views = batch["image"].float() / 255, batch.get("view")
    flip = torch.rand(len(images), device=images.device) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    if views is not None:
        views = torch.where(flip[:, None], views * views.new_tensor([-1.0, 1.0]), views)
    return images, views


@torch.no_grad()
def _spread(factors: Factors) -> dict[str, Tensor]:
    """What tells a training that has collapsed: how far views differ, and how deep the shape is."""
    return {"yaw_spread": factors.view.yaw.std(correction=0), "depth_spread": factors.depth[..., 2:-2].std()}


def read_images(data: Path, size: int, crop: Crop, log: Callable[[str], None]) -> tuple[Tensor, Tensor | None]:
    """All images (N, 3, size, size) uint8 of a source, and (N, 2) yaw and pitch if faces are cut out by landmarks.

    Images that cannot be read, or lack the landmarks that most others have, are left out and named. Raises UsageError
    where none is left.
    """
    examples = open_examples(data)
    if crop == "auto":
        crop = "face" if _with_landmarks(examples) > len(examples) / 2 else "centre"
    log(f"{len(examples)} images in {data}, cut {'by landmarks' if crop == 'face' else 'to their centred squares'}")
    bad = dict(examples.bad)
    found: list[np.ndarray] = []
    views: list[tuple[float, float]] = []
    for index, entry in enumerate(examples.entries):
        try:
            image, view = _one(examples, index, size, crop)
        except AboutfaceError as error:
            bad[entry.name] = str(error)
            continue
        found.append(image)
        if view is not None:
            views.append(view)
    for why in list(bad.values())[:10]:
        log(f"left out: {why}")
    if len(bad) > 10:
        log(f"left out: {len(bad) - 10} more")
    if not found:
        raise UsageError(f"{data}: no image that can be used; give a folder or tar of crops")
    tensor = torch.from_numpy(np.stack(found)).movedim(-1, 1).contiguous()
    return tensor, torch.tensor(views) if crop == "face" else None


def _with_landmarks(examples: Examples) -> int:
    count = 0
    for index in range(len(examples)):
        with contextlib.suppress(AboutfaceError):
            examples.landmarks(index)
            count += 1
    return count


def _one(examples: Examples, index: int, size: int, crop: Crop) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Picture (size, size, 3) uint8, and its yaw and pitch where it was cut out by landmarks."""
    example = examples[index]
    if crop == "centre":
        return centre_square(example.pixels, size), None
    if example.landmarks is None:
        raise UsageError(f"{example.key}: no landmarks to cut by; aboutface data prepare finds them")
    frame = FaceFrame.of(torch.from_numpy(example.landmarks)[None])
    pixels = cut(example.pixels, frame.photo_from_crop(size)[0].numpy(), size)
    return pixels, (float(frame.yaw), float(frame.pitch))


def centre_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """The largest centred square of a picture (H, W, 3) uint8, as (size, size, 3)."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    step = side / size
    corner = np.array([[step, 0, (width - side) / 2], [0, step, (height - side) / 2], [0, 0, 1.0]])
    return cut(pixels, corner, size)


def start_from(net: Unsup3d, file: Path) -> None:
    """Copy what fits from weights of the same settings, or of half the size and twice the width.

    A network of half the size is the inner part of ours: its outermost level and what follows are new. Raises
    UsageError for weights of anything else.
    """
    tensors, card = load_file(file)
    small = built(tensors, card, file)
    ours, theirs = net.settings, small.settings
    if ours == theirs:
        net.load_state_dict(small.state_dict())
        return
    if (theirs.size * 2, theirs.width, theirs.encoder_width) != (ours.size, ours.width * 2, ours.encoder_width * 2):
        raise UsageError(
            f"--start {file}: weights for {theirs.size} px of width {theirs.width}; expected the settings of this "
            f"training, or {ours.size // 2} px of width {ours.width * 2}"
        )
    for name in ("depth_net", "albedo_net", "view_net", "light_net"):
        _copy_inner(getattr(small, name).layers, getattr(net, name).layers)
    if small.confidence_net is not None and net.confidence_net is not None:
        _copy_inner(small.confidence_net.trunk, net.confidence_net.trunk)
    if theirs.mean and ours.mean:
        for name in ("mean_depth", "mean_albedo"):
            mean = getattr(small, name).detach()
            getattr(net, name).data.copy_(functional.interpolate(mean, scale_factor=2, mode="bilinear"))
        first = functional.interpolate(small.first_depth[None, None], scale_factor=2, mode="bilinear")
        net.first_depth.copy_(first[0, 0])


def _copy_inner(small: nn.Sequential, large: nn.Sequential) -> None:
    """From the neck to both ends as far as the layers are of one shape."""
    centres = [_neck(layers) for layers in (small, large)]
    for step in (-1, 1):
        first, second = centres if step < 0 else (centre + 1 for centre in centres)
        while 0 <= first < len(small) and 0 <= second < len(large):
            source, target = small[first].state_dict(), large[second].state_dict()
            if type(small[first]) is not type(large[second]) or any(
                name not in target or source[name].shape != target[name].shape for name in source
            ):
                break
            large[second].load_state_dict(source)
            first, second = first + step, second + step


def _neck(layers: nn.Sequential) -> int:
    """The convolution from 4 x 4 to a single place."""
    return next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d) and layer.padding == (0, 0))


def _about(images: Tensor) -> str:
    return f"{tuple(images.shape)} {images.dtype}"


def published() -> Unsup3dTraining:
    """The settings of the paper's supplement."""
    return Unsup3dTraining(
        depth_head="full",
        albedo_head="full",
        mean="none",
        hold=0.0,
        confidence=64,
        perceptual=1.0,
        multiscale=0.0,
        bending=0.0,
        prior=0.0,
        anchor=0.0,
        weight_decay=5e-4,
        learning_rate=1e-4,
        schedule="constant",
    )


def variants(width: int = 16, batch: int = 32) -> dict[str, Unsup3dTraining]:
    """What the benchmark compares, by name: the published recipe, ours, and ours without one change each.

    Of `width` and `batch`; published are 64 and 64. Rates of the published recipe are kept.
    """
    original = replace(published(), width=width, latent=4 * width, confidence=width, batch=batch)
    improved = Unsup3dTraining(
        width=width, latent=4 * width, confidence=width // 2, mean="dome", anchor=0.0, batch=batch
    )
    return {
        "original": original,
        "original-nosym": replace(original, symmetry=0.0),
        "improved": improved,
        # Without symmetry nothing but the mean albedo says what is a view.
        "improved-nosym": replace(improved, symmetry=0.0, albedo_prior=100.0, multiscale=4.0),
        "improved - held mean shape": replace(improved, mean="none"),
        "improved - holding": replace(improved, hold=0.0),
        "improved - half-size heads": replace(improved, depth_head="full", albedo_head="full"),
        "improved - multiscale": replace(improved, multiscale=0.0),
        "improved - prior": replace(improved, prior=0.0),
        "improved - bending": replace(improved, bending=0.0),
        "improved - confidence": replace(improved, confidence=0),
        "improved - rate": replace(improved, learning_rate=1e-4, schedule="constant"),
        "improved + features": replace(improved, perceptual=1.0),
    }


VARIANTS = variants()
