"""DepthNet: the depth of 68 keypoints from their 2D positions, learned without any depth label.

Moniz, Beckham, Rajotte, Honari, Pal: Unsupervised Depth Estimation, 3D Face Rotation and Replacement, NeurIPS 2018,
case B (keypoints only) of section 2.3: the network gives depths only, the affine that carries source points to target
points is the closed form, and the loss is what that affine leaves over.

That loss cannot see a*z + b*x + c*y + d, so the network's raw depth has no scale, tilt, offset or sign of its own.
They are taken from the measured mean face in the face's own pose (`fix_gauge`), which makes 30 degrees 30 degrees.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..face import MIRROR_68, Face
from ..geometry import angles_from_rotation, orthographic_pose, rotation_from_angles, unproject
from ..images import Photo, to_tensor
from ..morphable import POSE_WEIGHTS, MeanHead, outline_trust
from ..render.facewarper import FACEWARPER_TRIANGLES
from ..scene import Camera, Mesh, Pose, Scene
from ..weights import load

FIELD_OF_VIEW = 10.0
"""Degrees across the face crop. DepthNet is affine: a long lens is the nearest pinhole camera."""


@dataclass(frozen=True)
class DepthNetSettings:
    """Sizes of the network."""

    points: int = 68
    """Keypoints per face."""
    hidden: tuple[int, ...] = (256,)
    """Units of the hidden layers; the paper's case B has one layer of 256."""


class DepthNet(nn.Module):
    """Source and target keypoints (B, K, 2), upright, centred, of unit root-mean-square size -> depths (B, K)."""

    def __init__(self, settings: DepthNetSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or DepthNetSettings()
        sizes = [4 * self.settings.points, *self.settings.hidden]
        layers: list[nn.Module] = []
        for size, following in pairwise(sizes):
            linear = nn.Linear(size, following)
            nn.init.xavier_uniform_(linear.weight, nn.init.calculate_gain("relu"))
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ReLU()]
        # Section 3 of the paper's supplement: the untrained net is one random depth vector, never a flat face, for
        # which the closed form would be singular.
        last = nn.Linear(sizes[-1], self.settings.points)
        nn.init.zeros_(last.weight)
        nn.init.normal_(last.bias, 0.0, 0.5)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.layers(torch.cat([source, target], -2).flatten(-2))

    @classmethod
    def tiny(cls) -> "DepthNet":
        """Random weights, 8 hidden units: for tests."""
        return cls(DepthNetSettings(hidden=(8,)))


def depthnet_loss(source: Tensor, depth: Tensor, targets: Tensor) -> Tensor:
    """Mean squared distance that the best affines of the lifted source leave to the targets (section 2.3).

    Args:
        source: (B, K, 2); depth: (B, K); targets: (T, K, 2), every source is fitted to every target.

    One orthonormal basis of [x y z 1] per source serves all targets: what it cannot express is the residual.
    """
    lifted = torch.cat([source, depth[..., None], torch.ones_like(depth[..., None])], -1)
    basis, _ = torch.linalg.qr(lifted)
    wanted = targets.transpose(0, 1).flatten(1)
    return (basis @ (basis.mT @ wanted) - wanted).square().mean()


@dataclass(frozen=True, eq=False)
class Normalised:
    """Keypoints brought upright, centred and to unit size, and the way back."""

    points: Tensor
    """(B, K, 2)."""
    rotation: Tensor
    """(B, 3, 3) head rotation of the upright face: no roll left."""
    roll: Tensor
    """(B,) degrees that were taken out."""
    scale: Tensor
    """(B,) pixels per unit."""
    centre: Tensor
    """(B, 2) pixels."""


def normalise(pixels: Tensor, mean_face: Tensor) -> Normalised:
    """Take position, size and roll out of keypoints (B, 68, 2); the roll is that of the fitted mean face (68, 3)."""
    rotation, _, _ = orthographic_pose(mean_face, pixels, POSE_WEIGHTS.to(pixels))
    _, _, roll = angles_from_rotation(rotation)
    upright = rotation_from_angles(roll=-roll)
    centre = pixels.mean(1, keepdim=True)
    points = (pixels - centre) @ upright[:, :2, :2].mT
    scale = _size(points)
    return Normalised(points / scale[:, None, None], upright @ rotation, roll, scale, centre[:, 0])


def mirror(points: Tensor) -> Tensor:
    """Keypoints (..., 68, 2) of the mirrored face."""
    return points[..., MIRROR_68, :] * torch.tensor([-1.0, 1.0], dtype=points.dtype)


def fix_gauge(points: Tensor, depth: Tensor, expected: Tensor, weights: Tensor | None = None) -> Tensor:
    """Depth (B, K) with the scale, sign, tilt and offset of `expected` (B, K); points (B, K, 2), weights (B, K).

    What neither is affine in x and y is compared: it is scaled to the size it has in `expected` (and turned over where
    they disagree in sign); the affine part, of which the loss says nothing, is that of `expected`.
    """
    plane = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    root = torch.ones_like(depth) if weights is None else weights.sqrt()
    basis, triangle = torch.linalg.qr(root[..., None] * plane)

    def affine_part(z: Tensor) -> Tensor:
        slopes = torch.linalg.solve_triangular(triangle, basis.mT @ (root * z)[..., None], upper=True)
        return (plane @ slopes)[..., 0]

    shape, wanted = depth - affine_part(depth), expected - affine_part(expected)
    size, wanted_size = (root * shape).norm(dim=-1), (root * wanted).norm(dim=-1)
    sign = torch.where((root.square() * shape * wanted).sum(-1) < 0, -1.0, 1.0).to(depth)
    factor = sign * wanted_size / size.clamp_min(1e-9)
    return factor[:, None] * shape + affine_part(expected)


def canonical_targets(mean_face: Tensor) -> Tensor:
    """Keypoints (3, 68, 2) of the mean face seen from the front and turned to both sides: targets for one photo."""
    turned = mean_face @ rotation_from_angles(yaw=torch.tensor([0.0, 30.0, -30.0])).mT
    points = turned[..., :2] - turned[..., :2].mean(1, keepdim=True)
    return points / _size(points)[:, None, None]


def posed_mean(mean_face: Tensor, rotation: Tensor) -> Tensor:
    """The mean face (68, 3) in poses (B, 3, 3): (B, 68, 3), its x and y of unit root-mean-square size."""
    posed = mean_face @ rotation.mT
    return posed / _size(posed[..., :2] - posed[..., :2].mean(-2, keepdim=True))[..., None, None]


def _size(centred: Tensor) -> Tensor:
    """Root-mean-square distance (...) of centred points (..., K, 2) from 0."""
    return centred.square().sum(-1).mean(-1).sqrt()


def estimate_depth(net: DepthNet, face: Normalised, mean_face: Tensor) -> Tensor:
    """Gauge-fixed depth (B, K), zero mean, in the unit of `face.points`; exactly mirror-symmetric in its input."""
    targets = canonical_targets(mean_face)
    batch, count = len(face.points), len(targets)

    def raw(points: Tensor, towards: Tensor) -> Tensor:
        source = points[:, None].expand(-1, count, -1, -1).flatten(0, 1)
        target = towards[None].expand(batch, -1, -1, -1).flatten(0, 1)
        return net(source, target).unflatten(0, (batch, count)).mean(1)

    depth = raw(face.points, targets) + raw(mirror(face.points), mirror(targets))[:, MIRROR_68]
    yaw, _, _ = angles_from_rotation(face.rotation)
    fixed = fix_gauge(face.points, depth, posed_mean(mean_face, face.rotation)[..., 2], outline_trust(yaw))
    return fixed - fixed.mean(1, keepdim=True)


class DepthNetReconstructor:
    """Face -> Scene: a mesh of the 68 keypoints, textured by the photo around them. May be shared by threads."""

    name = "depthnet"
    weights = "depthnet"

    def __init__(self, net: DepthNet | None = None) -> None:
        self.net = net or _shipped()
        self.mean = MeanHead.load()

    @torch.no_grad()
    def __call__(self, photo: Photo, face: Face) -> Scene:
        pixels = torch.from_numpy(face.landmarks)[None].float()
        normal = normalise(pixels, self.mean.landmarks)
        depth = estimate_depth(self.net, normal, self.mean.landmarks)[0] * normal.scale[0]
        rotation, scale, shift = (t[0] for t in orthographic_pose(self.mean.landmarks, pixels, POSE_WEIGHTS))
        crop = float(face.photo_from_crop(1)[0, 0])
        focal = crop / 2 / math.tan(math.radians(FIELD_OF_VIEW / 2))
        centre = normal.centre[0]
        K = torch.tensor([[focal, 0.0, centre[0]], [0.0, focal, centre[1]], [0.0, 0.0, 1.0]])
        camera = Camera(K, photo.height, photo.width)
        landmarks = unproject(pixels[0], 1 + depth / focal, K)
        # The axis of the mean head, put where its landmarks best meet these.
        pivot_depth = (depth - scale * (self.mean.landmarks @ rotation.mT)[:, 2]).mean()
        pivot = unproject(shift[None], 1 + pivot_depth[None] / focal, K)[0]
        left, top, right, bottom = _around(pixels[0], photo)
        uv = (pixels[0] - torch.tensor([left, top])) / torch.tensor([right - left, bottom - top])
        return Scene(
            surface=Mesh(landmarks, torch.as_tensor(FACEWARPER_TRIANGLES, dtype=torch.int64), uv),
            # The rest of the photo would only take memory: 12 bytes per pixel.
            albedo=to_tensor(photo.pixels[top:bottom, left:right])[0],
            camera=camera,
            pose=Pose.of(rotation),
            pivot=(float(pivot[0]), float(pivot[1]), float(pivot[2])),
            millimetres_per_unit=float(focal / scale),
            landmarks=landmarks,
        )


def _around(points: Tensor, photo: Photo) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the photo's part around points (K, 2), at least one pixel."""
    (left, top), (right, bottom) = points.amin(0).int().tolist(), points.amax(0).int().tolist()
    left, top = max(0, min(left - 1, photo.width - 1)), max(0, min(top - 1, photo.height - 1))
    return left, top, max(left + 1, min(right + 2, photo.width)), max(top + 1, min(bottom + 2, photo.height))


@lru_cache(maxsize=1)
def _shipped() -> DepthNet:
    net = DepthNet()
    tensors = {name: tensor.float() for name, tensor in load("depthnet").items()}
    net.load_state_dict(tensors)
    return net.eval()
