"""The three steps of GAN2Shape, each a task for `fit`: albedo; the generator's pictures; all factors anew."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from ..errors import UsageError
from ..fit import Phase, Task
from ..generate.load import Gan
from ..geometry import depth_to_points
from ..nn.perceptual import FilterFeatures, VGG16Features
from ..render.reproject import CENTRE, Reprojection
from ..scene import Light
from .gan2shape import ANGLES, GAN2Shape, Target, resized, towards
from .unsup3d import Factors, View, joined, mirrored

CRITIC_LEVELS = 4
"""Levels of the discriminator in whose features pictures are compared, as published."""
AT_ONCE = 32
"""Pictures that are made at once where there is no gradient."""

Features = VGG16Features | FilterFeatures
Report = Callable[[int, float], None]
"""Told the iterations done, and the loss."""


@dataclass(frozen=True)
class Lights:
    """The light in which pseudo samples are drawn: each number uniform in its range (section 10 of the published code's
    description; the paper has no numbers)."""

    x: tuple[float, float] = (-1.0, 1.0)
    y: tuple[float, float] = (-0.8, 0.2)
    """Of the direction towards the light, whose z is -1: y below 0 is from above."""
    strength: tuple[float, float] = (-0.1, 0.6)
    """What is added to the diffuse light."""
    ambient: float = -0.6
    """Of that, what is added to the ambient light."""


LIGHTS = {"synface": Lights((-0.9, 0.9), (-0.8, 0.3), (-0.1, 0.7), -0.4), "other": Lights()}


@dataclass(frozen=True)
class Losses:
    """Weights; images are counted in [-1, 1], as published."""

    perceptual: float = 0.5
    """Of the difference of features, beside the plain one. Published are LPIPS' features of VGG16 with learned weights;
    here VGG16's relu3_3 where you have it, else fixed filters."""
    smoothness: float = 0.01
    """Of the second differences of depth and of diffuse light."""
    offset: float = 0.01
    """Of the mean squared offset in w."""
    critic: float = 1.0
    """Of the discriminator's features in step 2."""
    symmetry: float = 1.0
    """Of the mirrored reconstruction, in stages that have one."""
    bending: float = 0.0
    """Of the second differences of depth as shares of its range: ours; the published smoothness is hundreds of times
    less."""


@dataclass(eq=False)
class Material:
    """The targets as the steps need them, on one device."""

    images: Tensor
    """(N, 3, S, S)."""
    w: Tensor
    """(N, D)."""
    anchors: Tensor
    """(N, 3, S, S): the generator's own picture of each."""
    masks: Tensor | None
    """(N, S, S)."""

    def __len__(self) -> int:
        return len(self.images)


@torch.no_grad()
def prepare(model: GAN2Shape, gan: Gan, targets: list[Target], masked: bool, device: torch.device) -> Material:
    """Raises UsageError, before any work, for a target or a generator that does not fit the model, and an empty mask.

    masked: use the masks for more than the first shape.
    """
    model.check_gan(gan)
    if gan.discriminator is None:
        raise UsageError(
            "gan2shape: the generator's file holds no discriminator, whose features step 2 compares; "
            "convert it again with its discriminator"
        )
    if not targets:
        raise UsageError("gan2shape: expected one target or more, got none")
    for number, target in enumerate(targets):
        _check(target, number, model)
    images = torch.stack([target.image for target in targets]).float().to(device)
    w = torch.stack([target.w for target in targets]).float().to(device)
    anchors = torch.cat([model.anchor(gan, part) for part in w.split(AT_ONCE)])
    masks = None
    if masked and any(target.mask is not None for target in targets):
        whole = torch.ones(images.shape[-2:])
        masks = torch.stack([whole if t.mask is None else t.mask.float().cpu() for t in targets]).to(device)
    return Material(images, w, anchors, masks)


def _check(target: Target, number: int, model: GAN2Shape) -> None:
    size, latent = model.size, model.settings.latent
    about = f"gan2shape: target {number}"
    if tuple(target.image.shape) != (3, size, size):
        raise UsageError(f"{about}: expected an image (3, {size}, {size}), got {tuple(target.image.shape)}; resize it")
    if tuple(target.w.shape) != (latent,):
        raise UsageError(
            f"{about}: expected w ({latent},), got {tuple(target.w.shape)}; one w for all layers is needed: "
            "project the picture into W, not W+"
        )
    if target.mask is None:
        return
    if tuple(target.mask.shape) != (size, size):
        raise UsageError(f"{about}: expected a mask ({size}, {size}), got {tuple(target.mask.shape)}")
    if not bool((target.mask > 0.5).any()):
        raise UsageError(f"{about}: its mask is empty: no object to reconstruct; give another mask, or none")


# ---- what the steps share ----


class Step(Task):
    """A step: it moves some networks of the model, towards the targets numbered in a batch."""

    number = 0

    def __init__(
        self,
        model: GAN2Shape,
        material: Material,
        losses: Losses,
        rate: float,
        decay: float,
        report: Report,
        every: int,
    ) -> None:
        """report: told of every `every`-th iteration."""
        super().__init__()
        self.name = "gan2shape"
        self.model, self.losses = model, losses
        self.material, self.rate, self.decay = material, rate, decay
        self.report, self.every = report, every

    def moved(self) -> list[nn.Parameter]:
        """What the step's optimiser moves."""
        raise NotImplementedError

    def value(self, chosen: Tensor) -> dict[str, Tensor]:
        """Terms of the loss, each with its weight, for the targets `chosen` (T,)."""
        raise NotImplementedError

    def phases(self) -> dict[str, Phase]:
        # One optimiser per network, as published, would do the same.
        return {"all": Phase(Adam(self.moved(), lr=self.rate, betas=(0.9, 0.999), weight_decay=self.decay))}

    def loss(self, phase: str, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        terms = self.value(batch["target"])
        total = torch.stack(list(terms.values())).sum()
        if (step + 1) % self.every == 0:
            self.report(step + 1, float(total.detach()))
        return total, terms


class PriorStep(Step):
    """Before the stages: depth becomes the prior (mean squared difference, on the targets)."""

    prior: Tensor

    def __init__(self, prior: Tensor, *rest: Any) -> None:
        """prior: (S, S)."""
        super().__init__(*rest)
        s = self.model.settings.network
        self.span = s.max_depth - s.min_depth
        self.register_buffer("prior", prior, persistent=False)

    def moved(self) -> list[nn.Parameter]:
        return self.model.net.parts()["depth"]

    def value(self, chosen: Tensor) -> dict[str, Tensor]:
        net = self.model.net
        depth = net.depth(2 * self.material.images[chosen] - 1)
        # The columns that are held at the border say nothing.
        difference = (depth - self.prior)[..., 2:-2] / self.span
        return {"prior": difference.square().mean()}


class EncoderStep(Step):
    """Before the stages, ours: the encoder learns the generator by itself, on pictures between the targets and random
    samples, which cost no drawing. What it learns serves every shape that comes later."""

    def __init__(self, gan: Gan, samples: int, *rest: Any) -> None:
        """samples: per target and iteration."""
        super().__init__(*rest)
        self.gan, self.samples = (gan,), samples

    def moved(self) -> list[nn.Parameter]:
        return list(self.model.encoder.parameters())

    def value(self, chosen: Tensor) -> dict[str, Tensor]:
        (gan,) = self.gan
        each = chosen.repeat_interleave(self.samples)
        w = self.material.w[each]
        with torch.no_grad():
            other = gan.generator.mapping(torch.randn_like(w))
            pictures = gan.generator.synthesis(torch.lerp(w, other, torch.rand_like(w[:, :1]))).clamp(0, 1)
            pictures = resized(pictures, self.model.size)
        masks = torch.ones_like(pictures[:, 0])
        return imitation(self.model, gan, self.material, each, pictures, masks, self.losses)


class AlbedoStep(Step):
    """Step 1: the albedo that, on the shape there is, gives the picture."""

    number = 1

    def __init__(self, features: Features | None, flip: bool, *rest: Any) -> None:
        super().__init__(*rest)
        # In a tuple: networks that are not trained do not belong into checkpoints.
        self.features, self.flip = (features,), flip

    def moved(self) -> list[nn.Parameter]:
        return self.model.net.parts()["albedo"]

    def value(self, chosen: Tensor) -> dict[str, Tensor]:
        images, net = self.material.images[chosen], self.model.net
        x = 2 * images - 1
        with torch.no_grad():
            depth, view, light = net.depth(x), net.view(x), net.light(x)
        factors = Factors(depth, net.albedo(x), view, light)
        return reconstruction(self.model, factors, images, None, self.flip, self.losses, *self.features)


class ProjectionStep(Step):
    """Step 2: the encoder learns to bring drawings of the targets, from other sides and in other light, to the
    generator's pictures next to them."""

    number = 2

    def __init__(self, gan: Gan, stock: "Stock", samples: int, *rest: Any) -> None:
        """samples: drawings per target and iteration."""
        super().__init__(*rest)
        self.gan, self.stock, self.samples = (gan,), stock, samples

    def moved(self) -> list[nn.Parameter]:
        return list(self.model.encoder.parameters())

    def value(self, chosen: Tensor) -> dict[str, Tensor]:
        (gan,) = self.gan
        model, material = self.model, self.material
        each = chosen.repeat_interleave(self.samples)
        with torch.no_grad():
            drawings, masks = self.stock.draw(model, each)
        return imitation(model, gan, material, each, drawings, masks, self.losses)


def imitation(
    model: GAN2Shape, gan: Gan, material: Material, each: Tensor, drawings: Tensor, masks: Tensor, losses: Losses
) -> dict[str, Tensor]:
    """Weighted terms of the difference between drawings (B, 3, S, S) of the targets `each` (B,) and what the generator
    makes of them (equation 2; the plain difference is of the published code), where masks (B, S, S) are."""
    offset = model.offset(gan, drawings, material.anchors[each])
    made = resized(gan.generator.synthesis(material.w[each] + offset).clamp(0, 1), model.size)
    return {
        "pixels": 2 * masked_mean((made - drawings).abs().mean(1), masks),
        "critic": losses.critic * critic_difference(gan, made, drawings, masks),
        "offset": losses.offset * offset.square().mean(),
    }


class RefineStep(Step):
    """Step 3: all factors anew, so that one shape and one albedo give the target and all of its projected samples."""

    number = 3

    def __init__(
        self, features: Features | None, flip: bool, collection: "Collection", samples: int, *rest: Any
    ) -> None:
        """samples: projected samples per target and iteration."""
        super().__init__(*rest)
        self.features, self.flip, self.collection, self.samples = (features,), flip, collection, samples

    def moved(self) -> list[nn.Parameter]:
        return list(self.model.net.parameters())

    def value(self, chosen: Tensor) -> dict[str, Tensor]:
        images, net = self.material.images[chosen], self.model.net
        own = net(images)
        terms = reconstruction(self.model, own, images, None, self.flip, self.losses, *self.features)
        samples, masks = self.collection.some(chosen, self.samples)
        x = 2 * samples - 1
        # The views and lights they were drawn in are forgotten: the generator may have changed them.
        many = Factors(
            own.depth.repeat_interleave(self.samples, 0),
            own.albedo.repeat_interleave(self.samples, 0),
            net.view(x),
            net.light(x),
        )
        light = replace(self.losses, smoothness=0.0, bending=0.0)
        of_samples = reconstruction(self.model, many, samples, masks, self.flip, light, *self.features)
        return terms | {f"sample_{name}": of_samples[name] for name in ("pixels", "features")}


def reconstruction(
    model: GAN2Shape,
    factors: Factors,
    images: Tensor,
    masks: Tensor | None,
    flip: bool,
    losses: Losses,
    features: Features | None,
) -> dict[str, Tensor]:
    """Weighted terms of the difference between images (B, 3, S, S) and what their factors give (section 3.1; weights of
    the published code); with `flip` that of the mirrored factors is added."""
    seen = model.net.reproject(joined(factors, mirrored(factors)) if flip else factors)
    weight = _valid(seen, len(images))
    if masks is not None:
        weight = weight * masks
    zero = images.new_zeros(())
    pixels, different = zero, zero
    for twin, image in enumerate(seen.image.clamp(0, 1).split(len(images))):
        share = losses.symmetry if twin else 1.0
        pixels = pixels + 2 * share * masked_mean((image - images).abs().mean(1), weight)
        if features is not None and losses.perceptual:
            hidden = weight[:, None]
            difference = (features(image * hidden) - features(images * hidden)).square().mean()
            different = different + losses.perceptual * share * difference
    terms = {"pixels": pixels, "features": different}
    if losses.smoothness:
        rough = roughness(factors.depth) + roughness(diffuse(model, factors))
        terms["smoothness"] = losses.smoothness * rough
    if losses.bending:
        s = model.settings.network
        terms["bending"] = losses.bending * roughness(factors.depth[..., 2:-2] / (s.max_depth - s.min_depth))
    return terms


def _valid(seen: Reprojection, count: int) -> Tensor:
    """(B, S, S): where all of an image's reconstructions have a surface."""
    return seen.valid.view(-1, count, *seen.valid.shape[1:]).all(0).float()


def critic_difference(gan: Gan, made: Tensor, wanted: Tensor, masks: Tensor) -> Tensor:
    """Difference (B, 3, S, S) of pictures in the discriminator's first levels; of `wanted` without a gradient."""
    critic = gan.discriminator
    assert critic is not None
    count = min(CRITIC_LEVELS, len(critic.blocks), made.shape[-1].bit_length() - 1)
    with torch.no_grad():
        targets = critic.features(wanted, count)
    total = made.new_zeros(())
    for feature, target in zip(critic.features(made, count), targets, strict=True):
        weight = functional.adaptive_avg_pool2d(masks, (feature.shape[-2], feature.shape[-1]))
        total = total + masked_mean((feature - target).abs().mean(1), weight)
    return total


def roughness(maps: Tensor) -> Tensor:
    """Mean absolute second differences of maps (B, H, W), in all four orders, summed."""
    x, y = maps.diff(dim=-1), maps.diff(dim=-2)
    return x.diff(dim=-1).abs().mean() + 2 * x.diff(dim=-2).abs().mean() + y.diff(dim=-2).abs().mean()


def diffuse(model: GAN2Shape, factors: Factors) -> Tensor:
    """(B, S, S): the cosine between the surface and the light, 0 in its own shadow."""
    direction = factors.light.direction
    assert isinstance(direction, Tensor)
    return (model.net.normals(factors.depth) * direction[:, :, None, None]).sum(1).clamp_min(0)


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of values under weights of the same shape; 0 where all weights are 0."""
    return (values * weight).sum() / weight.sum().clamp_min(1.0)


# ---- pseudo samples, and what the generator makes of them ----


@dataclass(frozen=True, eq=False)
class Stock:
    """What pseudo samples are drawn from: the targets' factors as they stand before step 2."""

    depth: Tensor
    """(N, S, S)."""
    albedo: Tensor
    """(N, 3, S, S)."""
    ambient: Tensor
    diffuse: Tensor
    """(N,) each."""
    masks: Tensor
    """(N, S, S): the targets' masks in the canonical frame."""
    lights: Lights
    yaw_scale: float

    def draw(self, model: GAN2Shape, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Drawings (B, 3, S, S) in [0, 1] of the targets `chosen` (B,), each from a side and in a light of its own, and
        their masks (B, S, S)."""
        net = model.net
        view = sampled_views(model, len(chosen), self.yaw_scale)
        light = sampled_lights(self.lights, self.ambient[chosen], self.diffuse[chosen])
        factors = Factors(self.depth[chosen], self.albedo[chosen], view, light)
        # Beyond the texture's rim grid_sample gives 0.5 here: told as (1 + mask) / 2, the mask is 0 there.
        layers = torch.cat([net.texture(factors), (1 + self.masks[chosen][:, None]) / 2], 1)
        seen = net.warp(layers, factors)
        return seen.image[:, :3].clamp(0, 1), (2 * seen.image[:, 3] - 1).clamp(0, 1)


@torch.no_grad()
def collect_stock(model: GAN2Shape, material: Material, lights: Lights, yaw_scale: float) -> Stock:
    """One pass over all targets."""
    parts = []
    for first in range(0, len(material), AT_ONCE):
        images = material.images[first : first + AT_ONCE]
        factors = model(images)
        own = None if material.masks is None else material.masks[first : first + AT_ONCE]
        masks = torch.ones_like(factors.depth) if own is None else canonical_mask(model, factors, own)
        parts.append((factors.depth, factors.albedo, factors.light.ambient, factors.light.diffuse, masks))
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return Stock(*columns, lights=lights, yaw_scale=yaw_scale)


def sampled_views(model: GAN2Shape, count: int, yaw_scale: float) -> View:
    """Views from the normal distribution of the model's statistics; yaw, its mean included, times `yaw_scale`."""
    covariance = model.view_covariance
    # Not Cholesky's root: what never varies has no variance. On the CPU: not every device has doubles.
    values, vectors = torch.linalg.eigh(covariance.cpu().double())
    root = (vectors * values.clamp_min(0).sqrt()).to(covariance)
    numbers = model.view_mean + torch.randn(count, len(covariance), device=covariance.device) @ root.mT
    yaw, pitch, roll = numbers[:, :ANGLES].unbind(1)
    return View(yaw * yaw_scale, pitch, roll, numbers[:, ANGLES:])


def sampled_lights(lights: Lights, ambient: Tensor, diffuse: Tensor) -> Light:
    """A light for each target's own ambient and diffuse light (B,)."""
    x, y, strength = (
        low + (high - low) * torch.rand_like(ambient) for low, high in (lights.x, lights.y, lights.strength)
    )
    return Light(ambient + lights.ambient * strength, diffuse + strength, towards(torch.stack([x, y], 1)))


def canonical_mask(model: GAN2Shape, factors: Factors, masks: Tensor) -> Tensor:
    """Masks (B, S, S) of images, told on the canonical map: the mask where each of its points is seen."""
    net, size = model.net, masks.shape[-1]
    centre = masks.new_tensor([[0.0], [0.0], [CENTRE]])
    points = depth_to_points(factors.depth, net.K).flatten(2)
    moved = factors.view.rotation @ (points - centre) + centre + factors.view.shift[..., None]
    x, y = (moved[:, i] / moved[:, 2] * net.K[i, i] + net.K[i, 2] for i in range(2))
    grid = (torch.stack([x, y], -1) * (2 / size) - 1).view(len(masks), size, size, 2)
    return functional.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]


@dataclass(frozen=True, eq=False)
class Collection:
    """Projected samples of every target."""

    pictures: Tensor
    """(N, m, 3, S, S) uint8."""
    masks: Tensor
    """(N, m, S, S) uint8: 255 counts fully."""
    device: torch.device

    def some(self, chosen: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """`count` random ones for each target `chosen` (T,): (T count, 3, S, S) in [0, 1], and their masks."""
        rows = chosen.cpu().repeat_interleave(count)
        columns = torch.randint(self.pictures.shape[1], (len(rows),))
        pictures, masks = self.pictures[rows, columns], self.masks[rows, columns]
        return pictures.to(self.device) / 255, masks.to(self.device) / 255


@torch.no_grad()
def collect(model: GAN2Shape, gan: Gan, material: Material, stock: Stock, count: int) -> Collection:
    """`count` fresh drawings of every target, as the generator makes them; kept on the CPU."""
    device = material.images.device
    numbers = torch.arange(len(material), device=device).repeat_interleave(count)
    pictures, masks = [], []
    for each in numbers.split(AT_ONCE):
        drawings, shown = stock.draw(model, each)
        made = model.project(gan, drawings, material.w[each], material.anchors[each])
        pictures.append(_bytes(resized(made, model.size)))
        masks.append(_bytes(shown))
    shape = (len(material), count)
    return Collection(torch.cat(pictures).unflatten(0, shape), torch.cat(masks).unflatten(0, shape), device)


def _bytes(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
