"""GAN2Shape: one picture to depth, albedo, view and light, taught by a generator of such pictures.

Pan, Dai, Liu, Loy, Luo: Do 2D GANs Know 3D Shape? Unsupervised 3D Shape Reconstruction from 2D Image GANs, ICLR 2021.
A first shape, an ellipsoid, is drawn from other sides and in other light; the generator turns these drawings into
natural pictures close by, which are of the same object; and the shape is fitted anew to all of them.

The networks are here, `gan2shape_steps` has the three steps, `gan2shape_run` goes through their stages:

    model = GAN2Shape(published(64), statistics)                    # or built(*load_file(file), file)
    target = Target(image, w, mask)                                 # (3, S, S) in [0, 1], (D,), (S, S) or None
    optimise(model, gan, [target], fast(), run=folder, progress=show)
    factors = model(image[None])                                    # `Factors`, as Unsup3d has them
    seen = model.net.reproject(turned(factors))                     # 3D
    pictures = model.project(gan, seen.image, w[None], anchors)     # the same through the generator
"""

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError
from ..generate.load import Gan
from ..nn.offset import OffsetEncoder
from ..nn.stylegan2 import Mapping
from ..scene import Light
from .unsup3d import Factors, Unsup3d, Unsup3dSettings, View

WITHOUT_REGULARISATION = -1
"""The depth in the mapping network at which an offset is added to w itself."""
ANGLES = 3
"""Of the numbers of a view, as many are degrees, and as many a shift."""
NO_LIGHT_MEAN = [0.5, 0.5, 0.0, 0.0]
"""With this mean the network's light is that of Unsup3d."""


@dataclass(frozen=True)
class GAN2ShapeSettings:
    """Sizes of the networks, and how the encoder's offsets reach w. The defaults are the published ones at 64 px."""

    network: Unsup3dSettings = field(default_factory=lambda: published_networks(64))
    """Those of depth, albedo, view and light."""
    latent: int = 512
    """Numbers in the generator's w."""
    offset_width: int = 32
    """Channels of the encoder's first level."""
    mapping_depth: int = 8
    """How far before w the offset enters the mapping network (`F1_d` of the published code): it passes as many layers
    and one more, so that 8 has it pass the whole network, and w stays where the generator's pictures are natural. 2 for
    cats, cars and churches; -1 adds it to w itself, without that regularisation."""
    relative: bool = True
    """Take the encoder's answer to a drawing less that to the target: one encoder then serves many targets."""

    def __post_init__(self) -> None:
        if self.network.confidence_width:
            raise UsageError("gan2shape: its networks have no confidence; expected confidence_width 0")
        if not WITHOUT_REGULARISATION <= self.mapping_depth <= 64:
            raise UsageError(f"gan2shape: mapping_depth: expected -1 (none), 0, 1, 2 ..., got {self.mapping_depth}")


def published_networks(size: int) -> Unsup3dSettings:
    """The published sizes at `size` pixels: 64 (BFM) or 128; their width is 4096 / size."""
    width = max(4096 // size, 16)
    return Unsup3dSettings(size=size, width=width, encoder_width=width, confidence_width=0)


def published(size: int = 64, latent: int = 512, **changes: Any) -> GAN2ShapeSettings:
    return replace(GAN2ShapeSettings(published_networks(size), latent), **changes)


@dataclass(frozen=True, eq=False)
class ViewLightStatistics:
    """From where, and in what light, the pictures of a set show their objects. Any measurement will do that is right
    by its order of size (section 10 of the spec's source: the authors' own words)."""

    view_mean: Tensor
    """(6,): yaw, pitch, roll in degrees, and a shift in units."""
    view_covariance: Tensor
    """(6, 6) of the same."""
    light_mean: Tensor
    """(4,): ambient, diffuse, and x and y of the direction towards the light, whose z is -1."""

    @classmethod
    def measured(cls, views: Tensor, lights: Tensor) -> "ViewLightStatistics":
        """Of views (N, 6) and lights (N, 5): ambient, diffuse, unit direction towards the light. N is 2 or more."""
        if len(views) < 2:
            raise UsageError(f"gan2shape: expected 2 views or more to measure how they vary, got {len(views)}")
        slopes = lights[:, 2:4] / -lights[:, 4:].clamp(max=-0.2)
        light = torch.cat([lights[:, :2], slopes], 1).mean(0)
        return cls(views.mean(0), torch.cov(views.T), light)

    @classmethod
    def usual(cls) -> "ViewLightStatistics":
        """Of nothing in particular: yaw, pitch and roll vary by 20, 10 and 4 degrees; light comes from the front."""
        spread = torch.tensor([20.0, 10.0, 4.0, 0.004, 0.004, 0.0])
        return cls(torch.zeros(6), torch.diag(spread.square()), torch.tensor([0.6, 0.4, 0.0, 0.0]))


@torch.no_grad()
def measure(net: Unsup3d, images: Tensor, at_once: int = 64) -> ViewLightStatistics:
    """What a trained Unsup3d says of images (N, 3, S, S) in [0, 1], or uint8, of a set."""
    views, lights = [], []
    for part in images.split(at_once):
        part = part / 255 if part.dtype == torch.uint8 else part
        net.check(part)
        x = 2 * part.to(net.K) - 1
        view, light = net.view(x), net.light(x)
        views.append(torch.cat([torch.stack(view[:ANGLES], 1), view.shift], 1))
        assert isinstance(light.ambient, Tensor)
        assert isinstance(light.diffuse, Tensor)
        assert isinstance(light.direction, Tensor)
        lights.append(torch.cat([light.ambient[:, None], light.diffuse[:, None], light.direction], 1))
    return ViewLightStatistics.measured(torch.cat(views).cpu(), torch.cat(lights).cpu())


@dataclass(frozen=True, eq=False)
class Target:
    """A picture to reconstruct."""

    image: Tensor
    """(3, S, S) in [0, 1]."""
    w: Tensor
    """(D,): where the generator makes nearly this picture."""
    mask: Tensor | None = None
    """(S, S) in [0, 1]: where the object is; everywhere if there is none."""


class FactorNet(Unsup3d):
    """Unsup3d whose view and light are about given means: an untrained network answers with these."""

    view_mean: Tensor
    light_mean: Tensor

    def __init__(self, settings: Unsup3dSettings) -> None:
        super().__init__(settings)
        self.register_buffer("view_mean", torch.zeros(6))
        self.register_buffer("light_mean", torch.tensor(NO_LIGHT_MEAN))

    def view(self, x: Tensor) -> View:
        found, mean = super().view(x), self.view_mean
        yaw, pitch, roll = (angle + mean[i] for i, angle in enumerate(found[:ANGLES]))
        return View(yaw, pitch, roll, found.shift + mean[ANGLES:])

    def light(self, x: Tensor) -> Light:
        raw, mean = torch.tanh(self.light_net(x)), self.light_mean
        return Light(raw[:, 0] / 2 + mean[0], raw[:, 1] / 2 + mean[1], towards(mean[2:] - raw[:, 2:]))

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by what they make: depth, albedo, view, light."""
        names = ("depth", "albedo", "view", "light")
        found: dict[str, list[nn.Parameter]] = {name: [] for name in names}
        for name, parameter in self.named_parameters():
            owner = next(part for part in names if name.startswith((f"{part}_net", f"mean_{part}")))
            found[owner].append(parameter)
        return found


def towards(slopes: Tensor) -> Tensor:
    """Unit directions (..., 3) towards a light, of their x and y (..., 2) where z is -1."""
    return functional.normalize(torch.cat([slopes, -torch.ones_like(slopes[..., :1])], -1), dim=-1)


class GAN2Shape(nn.Module):
    """Images (B, 3, S, S) in [0, 1] -> `Factors`; and drawings of them -> what a generator makes of these."""

    view_mean: Tensor
    view_covariance: Tensor
    light_mean: Tensor

    def __init__(
        self, settings: GAN2ShapeSettings | None = None, statistics: ViewLightStatistics | None = None
    ) -> None:
        """statistics: those of the generator's pictures, `ViewLightStatistics.usual()` if missing; the networks of view
        and light start from their means."""
        super().__init__()
        self.settings = s = settings or GAN2ShapeSettings()
        known = statistics or ViewLightStatistics.usual()
        self.net = FactorNet(s.network)
        self.encoder = OffsetEncoder(s.latent, s.network.size, s.offset_width)
        for item in fields(ViewLightStatistics):
            self.register_buffer(item.name, getattr(known, item.name).float().clone())
        self.net.view_mean.copy_(self.view_mean)
        self.net.light_mean.copy_(self.light_mean)

    @classmethod
    def tiny(cls, size: int = 16, statistics: ViewLightStatistics | None = None, **changes: Any) -> "GAN2Shape":
        """For tests; goes with `Generator.tiny()`."""
        network = Unsup3dSettings(size=size, width=4, latent=16, encoder_width=4, confidence_width=0)
        return cls(replace(GAN2ShapeSettings(network, 16, 4), **changes), statistics)

    @property
    def size(self) -> int:
        """Side of the images, pixels."""
        return self.settings.network.size

    @property
    def statistics(self) -> ViewLightStatistics:
        return ViewLightStatistics(self.view_mean, self.view_covariance, self.light_mean)

    def forward(self, images: Tensor) -> Factors:
        return self.net(images)

    def start_from(self, net: Unsup3d) -> None:
        """Take depth, albedo, view and light from a trained Unsup3d. Raises UsageError for one of other sizes."""
        ours = self.settings.network
        theirs = replace(net.settings, confidence_width=0)
        if theirs != ours:
            raise UsageError(f"gan2shape: expected networks of {ours} to start from, got {theirs}")
        own = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith("confidence_net.")}
        self.net.load_state_dict(own, strict=False)
        # Its view and light need no other mean.
        self.net.view_mean.zero_()
        self.net.light_mean.copy_(self.net.light_mean.new_tensor(NO_LIGHT_MEAN))

    def check_gan(self, gan: Gan) -> None:
        """Raises UsageError for a generator whose w are of another length."""
        latent = gan.generator.settings.latent
        if latent != self.settings.latent:
            raise UsageError(
                f"gan2shape: this model is for generators with {self.settings.latent} numbers in w, this one has "
                f"{latent}; take the generator that it was trained with, or train a model for this one"
            )

    def offset(self, gan: Gan, drawings: Tensor, anchors: Tensor) -> Tensor:
        """How far (B, D) from a target's w the generator makes what drawings (B, 3, S, S) of the target show.

        anchors: (B, 3, S, S), the generator's own picture of each target, `anchor`. Equation 2 and section 3.2.
        """
        step = self.encoder(2 * drawings - 1)
        if self.settings.relative:
            step = step - self.encoder(2 * anchors - 1)
        return through_mapping(gan.generator.mapping, step, self.settings.mapping_depth)

    def project(self, gan: Gan, drawings: Tensor, w: Tensor, anchors: Tensor) -> Tensor:
        """Natural pictures (B, 3, G, G) in [0, 1], of the generator's size G, of what drawings (B, 3, S, S) show.

        w: (B, D) or (1, D), of the target; anchors: as many, see `offset`.
        """
        return gan.generator.synthesis(w + self.offset(gan, drawings, anchors)).clamp(0, 1)

    def anchor(self, gan: Gan, w: Tensor) -> Tensor:
        """The generator's pictures (B, 3, S, S) of w (B, D), at the model's size."""
        return resized(gan.generator.synthesis(w).clamp(0, 1), self.size)


def through_mapping(mapping: Mapping, step: Tensor, depth: int) -> Tensor:
    """What a step (B, D), taken inside the mapping network before its last `depth` + 1 layers, moves in w (B, D).

    The published F1_d: PixelNorm is the first layer, the dense ones follow; the step is about the image of z = 0. Of a
    network with fewer layers than `depth` it passes all. -1: the step itself.
    """
    layers = mapping.layers
    cut = max(len(layers) - (depth + 1), 0)
    zero = step.new_zeros(1, step.shape[1])
    middle = layers[:cut](zero)
    return layers[cut:](step + middle) - layers(zero)


def resized(images: Tensor, size: int) -> Tensor:
    """Images (B, C, H, W) at `size` pixels: larger bilinearly, smaller by the mean of what falls into a pixel."""
    if images.shape[-1] == size and images.shape[-2] == size:
        return images
    if images.shape[-1] > size:
        return functional.interpolate(images, (size, size), mode="area")
    return functional.interpolate(images, (size, size), mode="bilinear", align_corners=False)


def card(settings: GAN2ShapeSettings) -> dict[str, Any]:
    """What the card of a weight file says of the networks, for `built`."""
    return {"network": asdict(settings)}


def built(tensors: dict[str, Tensor], card: dict[str, Any], file: Path) -> GAN2Shape:
    """The model of a weight file, encoder and statistics included. Raises UsageError for one of another form."""
    try:
        network = dict(card["settings"]["network"])
        network["network"] = Unsup3dSettings(**network["network"])
        model = GAN2Shape(GAN2ShapeSettings(**network))
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"{file}: these are no weights of gan2shape of this version ({reason})") from None
    return model.eval()
