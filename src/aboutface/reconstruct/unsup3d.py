"""Unsup3d: one photo to depth, albedo, view and light, learned from photos alone.

Wu, Rupprecht, Vedaldi: Unsupervised Learning of Probably Symmetric Deformable 3D Objects from Images in the Wild, CVPR
2020. The canonical view looks at the object from the front, through a camera of 10 degrees at distance 1.
"""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError
from ..geometry import depth_normals, rotation_from_angles
from ..nn.autoencoder import ConfidenceNet, Encoder, EncoderDecoder, Head
from ..render import shade
from ..render.reproject import Reprojection, reproject
from ..scene import Light

FIELD_OF_VIEW = 10.0
"""Degrees from the first pixel centre to the last one."""
BORDER = 2
"""Columns left and right of the canonical depth that are held at `BORDER_DEPTH`, so that the sheet's sides do not
curl."""
BORDER_SHARE = 0.7
"""Where between the nearest and the farthest depth they are held."""
DOME = 0.45
"""Height of the shape that a learned mean starts from, in half depth ranges."""


@dataclass(frozen=True)
class Unsup3dSettings:
    """Sizes of the networks. The defaults are the published ones."""

    size: int = 64
    """Side of the images, pixels."""
    width: int = 64
    """Channels of the outermost level of the networks that make maps."""
    latent: int = 256
    """Numbers in their neck."""
    encoder_width: int = 32
    """Channels of the outermost level of the networks of view and light."""
    depth_head: Head = "full"
    """How the last level of depth is made, see `EncoderDecoder`."""
    albedo_head: Head = "full"
    """The same of albedo."""
    confidence_width: int = 64
    """The same of the network that says where reconstruction and symmetry fail (equation 3); 0: none."""
    mean: bool = False
    """Learn a mean depth and a mean albedo as maps, to which the networks add what is each image's own. The depth
    starts as a dome, which tells convex from concave."""
    min_depth: float = 0.9
    """Nearest canonical depth."""
    max_depth: float = 1.1
    """Farthest canonical depth."""
    rotation: float = 60.0
    """Largest angle of each axis, degrees."""
    shift: float = 0.1
    """Largest shift across, units."""
    shift_depth: float = 0.0
    """Largest shift along the camera's axis; the published setting for cats is 0.1."""


class View(NamedTuple):
    """Canonical frame to a photo's view."""

    yaw: Tensor
    """(B,) degrees: +yaw turns the face to the image's right."""
    pitch: Tensor
    """(B,) degrees: +pitch looks up."""
    roll: Tensor
    """(B,) degrees, clockwise as seen."""
    shift: Tensor
    """(B, 3) units, after the rotation about (0, 0, 1)."""

    @property
    def rotation(self) -> Tensor:
        """(B, 3, 3)."""
        return rotation_from_angles(self.yaw, self.pitch, self.roll)


@dataclass(frozen=True, eq=False)
class Factors:
    """What an image is made of."""

    depth: Tensor
    """(B, S, S) canonical z."""
    albedo: Tensor
    """(B, 3, S, S) canonical, in [0, 1]."""
    view: View
    light: Light
    """ambient and diffuse (B,), direction (B, 3) towards the light, in the canonical frame."""


class Unsup3d(nn.Module):
    """Images (B, 3, S, S) in [0, 1] -> `Factors`."""

    K: Tensor
    first_depth: Tensor
    drift: Tensor
    """(S, S): how far the mean of all predicted depths has moved from the start, where the start is a measured mean; 0
    elsewhere. What is known of the mean face is better than what shading says of it."""

    def __init__(self, settings: Unsup3dSettings | None = None) -> None:
        super().__init__()
        self.settings = s = settings or Unsup3dSettings()
        self.depth_net = EncoderDecoder(1, s.size, s.width, s.latent, s.depth_head)
        self.albedo_net = EncoderDecoder(3, s.size, s.width, s.latent, s.albedo_head)
        self.view_net = Encoder(6, s.size, s.encoder_width)
        self.light_net = Encoder(4, s.size, s.encoder_width)
        self.confidence_net = ConfidenceNet(s.size, s.confidence_width, s.latent // 2) if s.confidence_width else None
        if s.mean:
            self.register_buffer("first_depth", dome(s.size, DOME))
            self.register_buffer("drift", torch.zeros(s.size, s.size))
            # Coarse, or the noise of single pixels' gradients would stay in them.
            self.mean_depth = nn.Parameter(torch.zeros(1, 1, s.size // 4, s.size // 4))
            self.mean_albedo = nn.Parameter(torch.zeros(1, 3, s.size // 2, s.size // 2))
        self.register_buffer("K", camera(s.size), persistent=False)

    @classmethod
    def tiny(cls, size: int = 32, **changes: Any) -> "Unsup3d":
        small = Unsup3dSettings(size=size, width=4, latent=16, encoder_width=4, confidence_width=4)
        return cls(replace(small, **changes))

    def forward(self, images: Tensor, freedom: float = 1.0) -> Factors:
        """freedom: see `depth`; below 1 in training only."""
        self.check(images)
        x = 2 * images - 1
        return Factors(self.depth(x, freedom), self.albedo(x), self.view(x), self.light(x))

    def check(self, images: Tensor) -> None:
        """Raises UsageError unless images are (B, 3, S, S) of the network's size."""
        size = self.settings.size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise UsageError(
                f"unsup3d: this network takes images (B, 3, {size}, {size}), got {tuple(images.shape)}; "
                "resize them, or train a network of their size (--size)"
            )

    def depth(self, x: Tensor, freedom: float = 1.0) -> Tensor:
        """Canonical depth (B, S, S) of images in [-1, 1]; `freedom`, 0 to 1: how far it leaves what it starts from."""
        raw = self.depth_net(x)[:, 0]
        # Without this the depth's offset would be free, and drift.
        raw = raw - raw.mean((-2, -1), keepdim=True)
        return self._within_range(self._mean_raw(freedom) + freedom * raw if self.settings.mean else raw)

    def mean_shape(self, freedom: float = 1.0) -> Tensor:
        """Canonical depth (1, S, S) to which the network adds what is each image's own, with `freedom` as for `depth`.

        There is none unless the settings have a mean.
        """
        return self._within_range(self._mean_raw(freedom))

    def _mean_raw(self, freedom: float) -> Tensor:
        return self.first_depth + freedom * _enlarged(self.mean_depth, self.settings.size)[:, 0]

    def _within_range(self, raw: Tensor) -> Tensor:
        near, far = self.settings.min_depth, self.settings.max_depth
        depth = (near + far) / 2 + (far - near) / 2 * torch.tanh(raw)
        inner = depth[..., BORDER:-BORDER]
        side = torch.full_like(depth[..., :BORDER], BORDER_SHARE * far + (1 - BORDER_SHARE) * near)
        return torch.cat([side, inner, side], -1)

    def albedo(self, x: Tensor) -> Tensor:
        """Canonical albedo (B, 3, S, S) in [0, 1] of images in [-1, 1]."""
        raw = self.albedo_net(x)
        if self.settings.mean:
            raw = raw + _enlarged(self.mean_albedo, self.settings.size)
        return torch.tanh(raw) / 2 + 0.5

    def own_albedo(self, albedo: Tensor) -> Tensor:
        """What albedo (B, 3, S, S) adds to the learned mean, before the tanh, but for its colour as a whole."""
        raw = torch.atanh((2 * albedo - 1).clamp(-0.999, 0.999)) - _enlarged(self.mean_albedo, self.settings.size)
        return raw - raw.mean((-2, -1), keepdim=True)

    def view(self, x: Tensor) -> View:
        """View of images in [-1, 1]. The published network's first two angles turn the other way."""
        s = self.settings
        raw = torch.tanh(self.view_net(x))
        shift = raw[:, 3:] * raw.new_tensor([s.shift, s.shift, s.shift_depth])
        return View(-raw[:, 1] * s.rotation, -raw[:, 0] * s.rotation, raw[:, 2] * s.rotation, shift)

    def light(self, x: Tensor) -> Light:
        """Light of images in [-1, 1]. The published one names where light goes, and we where it comes from."""
        raw = torch.tanh(self.light_net(x))
        direction = -torch.cat([raw[:, 2:], torch.ones_like(raw[:, :1])], -1)
        return Light(raw[:, 0] / 2 + 0.5, raw[:, 1] / 2 + 0.5, functional.normalize(direction, dim=-1))

    def normals(self, depth: Tensor) -> Tensor:
        """Unit normals (B, 3, S, S) of depth maps (B, S, S), towards the camera."""
        return depth_normals(depth, self.K)

    def texture(self, factors: Factors) -> Tensor:
        """Canonical colours (B, 3, S, S): albedo times light, not clipped."""
        light = factors.light
        assert isinstance(light.ambient, Tensor)
        assert isinstance(light.diffuse, Tensor)
        assert isinstance(light.direction, Tensor)
        each = Light(light.ambient[:, None, None], light.diffuse[:, None, None], light.direction[:, None, None])
        return shade(self.normals(factors.depth), factors.albedo, each, dim=1)

    def start_depth(self) -> Tensor:
        """(S, S): the depth that a learned mean started from."""
        near, far = self.settings.min_depth, self.settings.max_depth
        return (near + far) / 2 + (far - near) / 2 * torch.tanh(self.first_depth)

    @torch.no_grad()
    def start_from_depth(self, depth: Tensor) -> None:
        """Let the mean start as a depth map (S, S), cut to the network's range."""
        near, far = self.settings.min_depth, self.settings.max_depth
        raw = torch.atanh(((depth - (near + far) / 2) / ((far - near) / 2)).clamp(-0.95, 0.95))
        self.first_depth.copy_(raw)

    def reproject(self, factors: Factors, supersample: int = 1) -> Reprojection:
        """The images again, from their factors."""
        return self.warp(self.texture(factors), factors, supersample)

    def warp(self, layers: Tensor, factors: Factors, supersample: int = 1) -> Reprojection:
        """Any canonical layers (B, C, S, S) in the view of the factors."""
        margin = (self.settings.max_depth - self.settings.min_depth) / 2
        limits = self.settings.min_depth - margin, self.settings.max_depth + margin
        view = factors.view
        return reproject(
            layers, factors.depth, view.rotation, view.shift, self.K, limits=limits, supersample=supersample
        )


def _enlarged(maps: Tensor, size: int) -> Tensor:
    return functional.interpolate(maps, size=(size, size), mode="bicubic", align_corners=False)


def camera(size: int) -> Tensor:
    """K (3, 3) of the canonical camera at `size` pixels: 10 degrees between the outermost pixel centres."""
    focal = (size - 1) / 2 / math.tan(math.radians(FIELD_OF_VIEW) / 2)
    return torch.tensor([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]])


def dome(size: int, height: float) -> Tensor:
    """(S, S): -height in the middle, 0 at the rim and in the corners, before the tanh of depth."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    return -height * (1 - axis.square() - axis[:, None].square()).clamp_min(0).square()


def mirrored(factors: Factors) -> Factors:
    """Depth and albedo mirrored, view and light as they are: of a symmetric object, the same image again."""
    return Factors(factors.depth.flip(-1), factors.albedo.flip(-1), factors.view, factors.light)


def joined(first: Factors, second: Factors) -> Factors:
    """Two batches as one."""
    a, b = first, second
    light = [torch.cat([getattr(a.light, f.name), getattr(b.light, f.name)]) for f in fields(Light)]
    view = View(*(torch.cat(pair) for pair in zip(a.view, b.view, strict=True)))
    return Factors(torch.cat([a.depth, b.depth]), torch.cat([a.albedo, b.albedo]), view, Light(*light))


def built(tensors: dict[str, Tensor], card: dict[str, Any], file: Path) -> Unsup3d:
    """The network of a weight file. Raises UsageError for one of another form."""
    try:
        net = Unsup3d(Unsup3dSettings(**card["settings"]["network"]))
        net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"{file}: these are no weights of unsup3d of this version ({reason})") from None
    return net.eval()
