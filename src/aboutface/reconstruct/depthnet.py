"""DepthNet: the depth of keypoints from their 2D positions in two photos, learned without any depth label.

Moniz, Beckham, Rajotte, Honari, Pal: Unsupervised Depth Estimation, 3D Face Rotation and Replacement, NeurIPS 2018.
A network sees the keypoints of a source and a target face (case B), and their pictures if asked (case A), and says how
deep each source keypoint lies. An affine then carries the lifted source to the target: predicted by the network, too
(section 2.1, "separate"), or in closed form, after training (2.2, "secondary") or within it (2.3, "pseudo-inverse").

The loss, what the affine leaves over, cannot see a*z + b*x + c*y + d: it says nothing about scale, tilt, offset and
sign of the depth. The recipe therefore adds a gauge: depths near those of `NonRigidShape`, again without a label.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..face import MIRROR_68, Face
from ..geometry import angles_from_rotation, orthographic_pose, rotation_from_angles, unproject
from ..images import Photo, to_tensor
from ..morphable import POSE_WEIGHTS, MeanHead, outline_trust
from ..nn import ImagePair, SiameseEncoder
from ..nn.siamese import glorot_
from ..render.facewarper import FACEWARPER_TRIANGLES
from ..scene import Camera, Mesh, Pose, Scene
from ..weights import info, load, load_file
from .landmark_baselines import carry, to_unit

FIELD_OF_VIEW = 10.0
"""Degrees across the face crop. DepthNet is affine: a long lens is the nearest pinhole camera."""
RESIDUAL_GAIN = 5.0
"""Residuals of a 2D registration are about a fifth of a face; a network learns faster from inputs of equal size."""

UPRIGHT = 45.0
"""Degrees of roll that a face may keep."""

Formulation = Literal["separate", "secondary", "pseudo-inverse"]


@dataclass(frozen=True)
class DepthNetSettings:
    """Sizes of the network."""

    points: int = 68
    """Keypoints per face."""
    hidden: tuple[int, ...] = (256,)
    """Units of the hidden layers; the paper's network has one layer of 256."""
    affine: bool = False
    """Predict the affine, too (section 2.1)."""
    registered: bool = True
    """Show the network also what a 2D registration of source to target leaves over, which the paper does not."""
    images: bool = False
    """See the pictures, too (case A)."""
    crop: int = 80
    """Side of these pictures, pixels."""
    filters: tuple[int, int, int] = (32, 48, 64)
    """Filters of the three convolutions."""
    units: tuple[int, ...] = (2048, 512)
    """Units of the layers between pictures and keypoints."""


class DepthNetOutput(NamedTuple):
    """What the network says of B pairs, in the units of the keypoints it was given."""

    depth: Tensor
    """(B, K), z forward, of the source."""
    affine: Tensor | None
    """(B, 2, 4) target_from_source, where the network predicts it."""


class DepthNet(nn.Module):
    """Keypoints of source and target (B, K, 2) of any size and place -> DepthNetOutput.

    Each face is centred and brought to unit root-mean-square size first, so depth grows with the source.
    """

    def __init__(self, settings: DepthNetSettings | None = None) -> None:
        super().__init__()
        s = self.settings = settings or DepthNetSettings()
        inputs = (6 if s.registered else 4) * s.points
        if s.images:
            self.encoder = SiameseEncoder(s.crop, s.filters)
            self.image_pair = ImagePair(self.encoder.features, s.units)
            inputs += s.units[-1]
        sizes = [inputs, *s.hidden]
        hidden = nn.Sequential(*(layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())))
        # Section 3 of the supplement: the untrained net is one random depth vector, never a flat face, for which the
        # closed form would be singular, and the identity.
        last = nn.Linear(sizes[-1], s.points + 8 * s.affine)
        nn.init.zeros_(last.weight)
        nn.init.normal_(last.bias, 0.0, 0.5)
        if s.affine:
            last.bias.data[s.points :] = torch.eye(2, 4).flatten()
        self.layers = nn.Sequential(*hidden.apply(glorot_), last)

    def encode(self, images: Tensor) -> Tensor:
        """Features (B, F) of grey crops (B, 1, crop, crop) in [0, 1]: once per face, for all its pairs."""
        return self.encoder(images)

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_features: Tensor | None = None,
        target_features: Tensor | None = None,
    ) -> DepthNetOutput:
        """Raises ValueError where a network of case A gets no features, or keypoints have another number."""
        s = self.settings
        if source.shape[1:] != (s.points, 2) or source.shape != target.shape:
            raise ValueError(
                f"keypoints: expected (B, {s.points}, 2) twice, got {tuple(source.shape)} and {tuple(target.shape)}; "
                "aboutface.geometry.landmarks_68_from_66 converts 66 points"
            )
        (x, x_size), (y, y_size) = to_unit(source), to_unit(target)
        inputs = [x.flatten(1), y.flatten(1)]
        if s.registered:
            inputs.append(RESIDUAL_GAIN * left_over(x, y).flatten(1))
        if s.images:
            if source_features is None or target_features is None:
                raise ValueError("this network sees pictures: give the features (see encode) of both faces")
            inputs.insert(0, self.image_pair(source_features, target_features))
        out = self.layers(torch.cat(inputs, 1))
        depth, affine = out[:, : s.points] * x_size[:, None], None
        if s.affine:
            affine = self._in_pixels(out[:, s.points :].unflatten(1, (2, 4)), source, target, y_size / x_size, y_size)
        return DepthNetOutput(depth, affine)

    @staticmethod
    def _in_pixels(affine: Tensor, source: Tensor, target: Tensor, growth: Tensor, size: Tensor) -> Tensor:
        """From an affine between unit faces to one between the faces as given."""
        linear = affine[..., :3] * growth[:, None, None]
        shift = affine[..., 3] * size[:, None] + target.mean(1)
        shift = shift - (linear[..., :2] @ source.mean(1)[..., None])[..., 0]
        return torch.cat([linear, shift[..., None]], -1)

    @classmethod
    def tiny(cls, **settings: bool) -> "DepthNet":
        """Random weights, 8 hidden units, pictures of 20 pixels: for tests."""
        return cls(DepthNetSettings(hidden=(8,), crop=20, filters=(2, 3, 4), units=(8, 6), **settings))


def left_over(source: Tensor, target: Tensor) -> Tensor:
    """What the best affine of points (B, K, 2 or 3) leaves of target points (B, K, 2).

    Of flat points it is what depth has to explain; of lifted ones, what the closed form of section 2.3 cannot. Points
    in a line (or, lifted, in a plane) are fitted as far as they go, but have no gradient.
    """
    basis, _ = torch.linalg.qr(torch.cat([source, torch.ones_like(source[..., :1])], -1))
    return target - basis @ (basis.mT @ target)


def carried(source: Tensor, target: Tensor, output: DepthNetOutput, formulation: Formulation) -> Tensor:
    """The source's keypoints (B, K, 2), carried to the target by the affine of the formulation.

    Raises ValueError for "separate" where the network predicts no affine.
    """
    if formulation != "separate":
        return carry(source, output.depth, target)
    if output.affine is None:
        raise ValueError("separate: this network predicts no affine; build it with affine=True")
    lifted = torch.cat([source, output.depth[..., None], torch.ones_like(source[..., :1])], -1)
    return lifted @ output.affine.mT


def pair_loss(source: Tensor, target: Tensor, output: DepthNetOutput, formulation: Formulation) -> Tensor:
    """Mean squared error of the carried keypoints (equation 1), in units of the target's size.

    The closed form is the affine of least error, so its error needs no affine at all, and whether gradients flow
    through the affine makes no difference (a test shows it).
    """
    size = to_unit(target)[1][:, None, None]
    if formulation == "separate":
        return ((carried(source, target, output, formulation) - target) / size).square().mean()
    x, x_size = to_unit(source)
    lifted = torch.cat([x, (output.depth / x_size[:, None])[..., None]], -1)
    return left_over(lifted, to_unit(target)[0]).square().mean()


@dataclass(frozen=True, eq=False)
class Normalised:
    """Keypoints brought near upright, centred and to unit size, and the way back."""

    points: Tensor
    """(B, K, 2)."""
    rotation: Tensor
    """(B, 3, 3) head rotation of the face in `points`."""
    roll: Tensor
    """(B,) degrees that were taken out."""
    scale: Tensor
    """(B,) pixels per unit."""
    centre: Tensor
    """(B, 2) pixels."""


def normalise(pixels: Tensor, mean_face: Tensor) -> Normalised:
    """Take position, size and all roll beyond `UPRIGHT` out of keypoints (B, 68, 2).

    The roll is that of the fitted mean face (68, 3). The network knows smaller ones better than this fit does.
    """
    rotation, _, _ = orthographic_pose(mean_face, pixels, POSE_WEIGHTS.to(pixels))
    _, _, roll = angles_from_rotation(rotation)
    roll = roll - roll.clamp(-UPRIGHT, UPRIGHT)
    upright = rotation_from_angles(roll=-roll)
    centre = pixels.mean(1, keepdim=True)
    points, scale = to_unit((pixels - centre) @ upright[:, :2, :2].mT)
    return Normalised(points, upright @ rotation, roll, scale, centre[:, 0])


def mirror(points: Tensor) -> Tensor:
    """Keypoints (..., 68, 2) of the mirrored face."""
    return points[..., MIRROR_68, :] * torch.tensor([-1.0, 1.0], dtype=points.dtype)


def canonical_targets(mean_face: Tensor) -> Tensor:
    """Keypoints (3, 68, 2) of the mean face seen from the front and turned to both sides: targets for one photo."""
    turned = mean_face @ rotation_from_angles(yaw=torch.tensor([0.0, 30.0, -30.0])).mT
    return to_unit(turned[..., :2])[0]


def posed_mean(mean_face: Tensor, rotation: Tensor) -> Tensor:
    """The mean face (68, 3) in poses (B, 3, 3): (B, 68, 3), its x and y of unit root-mean-square size."""
    posed = mean_face @ rotation.mT
    return posed / to_unit(posed[..., :2])[1][..., None, None]


def estimate_depth(net: DepthNet, face: Normalised, mean_face: Tensor) -> Tensor:
    """Depth (B, K), zero mean, in the unit of `face.points`; exactly mirror-symmetric in its input.

    The mean over three targets and their mirror images, which stand in for the photo that there is not.
    """
    targets = canonical_targets(mean_face)
    batch, count = len(face.points), len(targets)

    def raw(points: Tensor, towards: Tensor) -> Tensor:
        source = points[:, None].expand(-1, count, -1, -1).flatten(0, 1)
        target = towards[None].expand(batch, -1, -1, -1).flatten(0, 1)
        return net(source, target).depth.unflatten(0, (batch, count)).mean(1)

    depth = (raw(face.points, targets) + raw(mirror(face.points), mirror(targets))[:, MIRROR_68]) / 2
    return depth - depth.mean(1, keepdim=True)


def fix_gauge(points: Tensor, depth: Tensor, expected: Tensor, weights: Tensor) -> Tensor:
    """Depth (B, K) with the scale, sign, tilt and offset of `expected` (B, K); points (B, K, 2), weights (B, K).

    What neither is affine in x and y is compared: it is scaled to the size it has in `expected` (and turned over where
    they disagree in sign); the affine part, of which the loss says nothing, is that of `expected`.
    """
    plane = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    root = weights.sqrt()
    # Points in a line have many affine parts; the pseudo-inverse takes the smallest.
    slopes = torch.linalg.pinv(root[..., None] * plane)

    def affine_part(z: Tensor) -> Tensor:
        return (plane @ (slopes @ (root * z)[..., None]))[..., 0]

    shape, wanted = depth - affine_part(depth), expected - affine_part(expected)
    size, wanted_size = (root * shape).norm(dim=-1), (root * wanted).norm(dim=-1)
    sign = torch.where((weights * shape * wanted).sum(-1) < 0, -1.0, 1.0).to(depth)
    factor = sign * wanted_size / size.clamp_min(1e-9)
    return factor[:, None] * shape + affine_part(expected)


def depth_in_pose(net: DepthNet, face: Normalised, mean_face: Tensor) -> Tensor:
    """`estimate_depth` (B, K) with the gauge of the mean face in the face's pose.

    The network knows tilt better than the mean face, but the pose that a scene tells is the mean face's. A head whose
    depth is tilted against its pose has a forehead that juts out or falls back once it is turned.
    """
    yaw, _, _ = angles_from_rotation(face.rotation)
    expected = posed_mean(mean_face, face.rotation)[..., 2]
    depth = fix_gauge(face.points, estimate_depth(net, face, mean_face), expected, outline_trust(yaw))
    return depth - depth.mean(1, keepdim=True)


class DepthNetReconstructor:
    """Face -> Scene: a mesh of the 68 keypoints, textured by the photo around them. May be shared by threads."""

    name = "depthnet"
    weights = "depthnet"

    def __init__(self, net: DepthNet | None = None) -> None:
        self.net = net or _shipped()
        self.mean = MeanHead.load()

    @classmethod
    def from_file(cls, file: Path) -> "DepthNetReconstructor":
        """With weights that `aboutface train depthnet` wrote. Raises UsageError for a file of another form."""
        tensors, card = load_file(file)
        try:
            net = _built(tensors, card["settings"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UsageError(f"{file}: these are no weights of depthnet of this version ({reason})") from None
        if net.settings.images:
            raise UsageError(f"{file}: this network compares two pictures (case A); photos need one of keypoints")
        return cls(net)

    @torch.no_grad()
    def __call__(self, photo: Photo, face: Face) -> Scene:
        pixels = torch.from_numpy(face.landmarks)[None].float()
        normal = normalise(pixels, self.mean.landmarks)
        depth = depth_in_pose(self.net, normal, self.mean.landmarks)[0] * normal.scale[0]
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
    return _built(load("depthnet"), info("depthnet").settings)


def _built(tensors: dict[str, Tensor], settings: dict[str, Any]) -> DepthNet:
    sizes: dict[str, Any] = dict(settings["network"])
    # JSON has no tuples.
    sizes |= {key: tuple(value) for key, value in sizes.items() if isinstance(value, list)}
    net = DepthNet(DepthNetSettings(**sizes))
    net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return net.eval()
