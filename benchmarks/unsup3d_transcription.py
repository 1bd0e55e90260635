"""The published training step of Unsup3d, transcribed: what our own model is measured against.

Wu, Rupprecht, Vedaldi: Unsupervised Learning of Probably Symmetric Deformable 3D Objects from Images in the Wild, CVPR
2020. Deliberately literal and plain, in the conventions of the original and not in those of this project: images in
[-1, 1]; pixel centres on whole numbers, from 0 to N - 1; `align_corners=True`; normals that point away from the camera;
depth drawn at twice the size and averaged, with a background at 100; networks in the original's order. Only the
rasteriser is ours.

    python benchmarks/unsup3d_transcription.py --data DIR --steps 3750 --out transcription.json

trains it on the faces that `aboutface data synth faces` wrote into DIR, and scores it on DIR/test, for
`aboutface bench synface --transcription transcription.json`. By hand:

    model = Unsup3d(width=64)            # the original's size; 16 is a sixteenth of the work
    state = State(model, features)       # features: a module, images [0, 1] -> (B, C, N/4, N/4)
    losses = step(state, images)         # images (B, 3, 64, 64) in [-1, 1]
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aboutface import weights
from aboutface.data.synthetic import SyntheticFaces
from aboutface.files import atomic_path
from aboutface.geometry import clip_from_camera, depth_normals, grid_faces
from aboutface.metrics import eroded, mad, side
from aboutface.nn.perceptual import perceptual_features
from aboutface.render import rasterize

FOV = 10.0
MIN_DEPTH, MAX_DEPTH = 0.9, 1.1
BORDER_DEPTH = 0.7 * MAX_DEPTH + 0.3 * MIN_DEPTH
ROTATION_RANGE, TRANSLATION_RANGE = 60.0, 0.1
CENTRE = 1.0
NEAR, FAR = 0.1, 100.0
EPS = 1e-7
LAMBDA_FLIP, LAMBDA_PERCEPTUAL = 0.5, 1.0

# Networks at 64 pixels. `nf` is the width of the original, 64, or less; a group has 4 channels throughout.


def encoder_layers(nf: int, neck: int) -> list[nn.Module]:
    return [
        *(nn.Conv2d(3, nf, 4, 2, 1, bias=False), nn.GroupNorm(nf // 4, nf), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(nf, nf * 2, 4, 2, 1, bias=False), nn.GroupNorm(nf // 2, nf * 2), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(nf * 2, nf * 4, 4, 2, 1, bias=False), nn.GroupNorm(nf, nf * 4), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(nf * 4, nf * 8, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(nf * 8, neck, 4, 1, 0, bias=False), nn.ReLU()),
    ]


class EncoderDecoder(nn.Module):
    """netD and netA."""

    def __init__(self, cout: int, nf: int, activation: Callable[[Tensor], Tensor] | None):
        super().__init__()
        layers = encoder_layers(nf, nf * 4)
        layers += [nn.ConvTranspose2d(nf * 4, nf * 8, 4, 1, 0, bias=False), nn.ReLU()]
        layers += [nn.Conv2d(nf * 8, nf * 8, 3, 1, 1, bias=False), nn.ReLU()]
        for before, after in ((nf * 8, nf * 4), (nf * 4, nf * 2), (nf * 2, nf)):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.GroupNorm(after // 4, after)]
            layers += [nn.ReLU(), nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.GroupNorm(after // 4, after)]
            layers += [nn.ReLU()]
        layers += [nn.Upsample(scale_factor=2, mode="nearest")]
        layers += [nn.Conv2d(nf, nf, 3, 1, 1, bias=False), nn.GroupNorm(nf // 4, nf), nn.ReLU()]
        layers += [nn.Conv2d(nf, nf, 5, 1, 2, bias=False), nn.GroupNorm(nf // 4, nf), nn.ReLU()]
        layers += [nn.Conv2d(nf, cout, 5, 1, 2, bias=False)]
        self.network = nn.Sequential(*layers)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        out = self.network(x)
        return out if self.activation is None else self.activation(out)


class Encoder(nn.Module):
    """netV and netL; half as wide."""

    def __init__(self, cout: int, nf: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((3, nf, nf * 2, nf * 4, nf * 8)):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.ReLU()]
        layers += [nn.Conv2d(nf * 8, nf * 8, 4, 1, 0, bias=False), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Conv2d(nf * 8, cout, 1, 1, 0, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.network(x)).reshape(x.size(0), -1)


class ConfNet(nn.Module):
    """netC: scales of the errors of pixels (B, 2, 64, 64), and of features (B, 2, 16, 16)."""

    def __init__(self, nf: int):
        super().__init__()
        layers = encoder_layers(nf, nf * 2)
        layers += [nn.ConvTranspose2d(nf * 2, nf * 8, 4, 1, 0, bias=False), nn.ReLU()]
        for before, after in ((nf * 8, nf * 4), (nf * 4, nf * 2)):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.GroupNorm(after // 4, after)]
            layers += [nn.ReLU()]
        self.network = nn.Sequential(*layers)
        self.out_net1 = nn.Sequential(
            *(nn.ConvTranspose2d(nf * 2, nf, 4, 2, 1, bias=False), nn.GroupNorm(nf // 4, nf), nn.ReLU()),
            *(nn.ConvTranspose2d(nf, nf, 4, 2, 1, bias=False), nn.GroupNorm(nf // 4, nf), nn.ReLU()),
            *(nn.Conv2d(nf, 2, 5, 1, 2, bias=False), nn.Softplus()),
        )
        self.out_net2 = nn.Sequential(nn.Conv2d(nf * 2, 2, 3, 1, 1, bias=False), nn.Softplus())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.network(x)
        return self.out_net1(out), self.out_net2(out)


# The renderer. Depth maps are (B, N, N), grids of points (B, N, N, 3), all channels last.


def camera(size: int) -> Tensor:
    """K for pixel centres on whole numbers."""
    f = (size - 1) / 2 / math.tan(math.radians(FOV) / 2)
    c = (size - 1) / 2
    return torch.tensor([[f, 0.0, c], [0.0, f, c], [0.0, 0.0, 1.0]])


def depth_to_3d_grid(depth: Tensor) -> Tensor:
    size = depth.shape[-1]
    index = torch.arange(size).to(depth)
    y, x = torch.meshgrid(index, index, indexing="ij")
    grid = torch.stack([x, y, torch.ones_like(x)], -1)[None]
    return depth.unsqueeze(-1) * grid.matmul(torch.inverse(camera(size).to(depth)).t())


def normals_from_depth(depth: Tensor) -> Tensor:
    """(B, N, N, 3), pointing away from the camera; the outermost frame is (0, 0, 1)."""
    batch, size, _ = depth.shape
    points = depth_to_3d_grid(depth)
    tu = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    tv = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    normal = torch.cross(tu, tv, dim=3)
    ahead = torch.tensor([0.0, 0.0, 1.0]).to(depth)
    column, row = ahead.repeat(batch, size - 2, 1, 1), ahead.repeat(batch, 1, size, 1)
    normal = torch.cat([row, torch.cat([column, normal, column], 2), row], 1)
    return normal / (((normal**2).sum(3, keepdim=True)) ** 0.5 + EPS)


def transform_matrices(view: Tensor) -> tuple[Tensor, Tensor]:
    """R (B, 3, 3) = Rz Ry Rx, and T (B, 1, 3), of view (B, 6): angles in radians, then the translation."""
    batch = len(view)
    rx, ry, rz = view[:, 0], view[:, 1], view[:, 2]
    zero, one = torch.zeros_like(rx), torch.ones_like(rx)
    m_x = torch.stack([one, zero, zero, zero, rx.cos(), -rx.sin(), zero, rx.sin(), rx.cos()], 1).view(batch, 3, 3)
    m_y = torch.stack([ry.cos(), zero, ry.sin(), zero, one, zero, -ry.sin(), zero, ry.cos()], 1).view(batch, 3, 3)
    m_z = torch.stack([rz.cos(), -rz.sin(), zero, rz.sin(), rz.cos(), zero, zero, zero, one], 1).view(batch, 3, 3)
    return m_z.matmul(m_y).matmul(m_x), view[:, None, 3:]


def warp_canon_depth(
    depth: Tensor, rotation: Tensor, translation: Tensor, backend: str, half_pixel: bool = True
) -> Tensor:
    """Depth in the view (B, N, N), clamped to half the depth range more than that on both sides.

    As neural_renderer draws it: K's pixels, which lie on whole numbers, are taken for positions from 0 to N, so that
    pixel (i, j) has the depth at (i + 0.5, j + 0.5); at twice the size, averaged, so that a pixel which touches the
    background (100) ends at the upper bound. Without `half_pixel`, pixel (i, j) has the depth at (i, j).
    """
    batch, size, _ = depth.shape
    centre = torch.tensor([0.0, 0.0, CENTRE]).to(depth)
    points = depth_to_3d_grid(depth).reshape(batch, -1, 3) - centre
    points = points.matmul(rotation.transpose(2, 1)) + centre + translation
    K = camera(size).to(depth)
    if not half_pixel:
        K = K + K.new_tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    matrix = clip_from_camera(K, (size, size), NEAR, FAR)
    clip = torch.cat([points, torch.ones_like(points[..., :1])], 2).matmul(matrix.t())
    fragments = rasterize(clip, grid_faces(size, size, depth.device), (2 * size, 2 * size), backend=backend)
    drawn = 2 * NEAR * FAR / (FAR + NEAR - fragments.depth * (FAR - NEAR))
    drawn = torch.where(fragments.triangle_id >= 0, drawn, torch.full_like(drawn, FAR))
    drawn = F.avg_pool2d(drawn.unsqueeze(1), 2).squeeze(1)
    margin = (MAX_DEPTH - MIN_DEPTH) / 2
    return drawn.clamp(min=MIN_DEPTH - margin, max=MAX_DEPTH + margin)


def inverse_warp_grid(depth: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    """Where each pixel of the view lies in the canonical picture, (B, N, N, 2) in [-1, 1]."""
    batch, size, _ = depth.shape
    centre = torch.tensor([0.0, 0.0, CENTRE]).to(depth)
    points = depth_to_3d_grid(depth).reshape(batch, -1, 3)
    points = (points - translation - centre).matmul(rotation) + centre
    pixels = (points / points[..., 2:]).matmul(camera(size).to(depth).t())[..., :2]
    return (pixels / (size - 1) * 2 - 1).view(batch, size, size, 2)


# The model.


class Unsup3d(nn.Module):
    """All networks, and one pass through them."""

    def __init__(self, width: int = 64, backend: str = "reference", half_pixel: bool = True):
        """width: 64 as published; a multiple of 8. backend: of the project's rasteriser. half_pixel: see
        `warp_canon_depth`."""
        super().__init__()
        self.netD = EncoderDecoder(1, width, None)
        self.netA = EncoderDecoder(3, width, torch.tanh)
        self.netV = Encoder(6, width // 2)
        self.netL = Encoder(4, width // 2)
        self.netC = ConfNet(width)
        self.backend, self.half_pixel = backend, half_pixel

    def forward(self, images: Tensor, flip: bool = True) -> dict[str, Tensor]:
        """Everything made of images (B, 3, 64, 64) in [-1, 1]; the first B of each are plain, the others mirrored.

        depth (2B, N, N) canonical, albedo (2B, 3, N, N) in [-1, 1], light (2B, 4) raw, view (2B, 6) in radians and
        units, recon_depth (2B, N, N), mask (2B, 1, N, N), image (2B, 3, N, N) in [-1, 1], conf (B, 2, N, N) and
        conf_features (B, 2, N/4, N/4). Without `flip` there are B instead of 2B.
        """
        batch, _, size, _ = images.shape
        copies = 2 if flip else 1

        depth_raw = self.netD(images).squeeze(1)
        depth = depth_raw - depth_raw.view(batch, -1).mean(1).view(batch, 1, 1)
        depth = depth.tanh()
        depth = (1 + depth) / 2 * MAX_DEPTH + (1 - depth) / 2 * MIN_DEPTH
        border = F.pad(torch.zeros(1, size, size - 4).to(depth), (2, 2), value=1.0)
        depth = depth * (1 - border) + border * BORDER_DEPTH
        albedo = self.netA(images)
        if flip:
            depth = torch.cat([depth, depth.flip(2)])
            albedo = torch.cat([albedo, albedo.flip(3)])
        conf, conf_features = self.netC(images)

        light = self.netL(images).repeat(copies, 1)
        ambient, diffuse = light[:, :1] / 2 + 0.5, light[:, 1:2] / 2 + 0.5
        direction = torch.cat([light[:, 2:], torch.ones_like(light[:, :1])], 1)
        direction = direction / ((direction**2).sum(1, keepdim=True)) ** 0.5
        lambert = (normals_from_depth(depth) * direction.view(-1, 1, 1, 3)).sum(3).clamp(min=0).unsqueeze(1)
        shading = ambient.view(-1, 1, 1, 1) + diffuse.view(-1, 1, 1, 1) * lambert
        canon_image = (albedo / 2 + 0.5) * shading * 2 - 1

        view = self.netV(images).repeat(copies, 1)
        scale = [math.radians(ROTATION_RANGE)] * 3 + [TRANSLATION_RANGE] * 2 + [0.0]
        view = view * torch.tensor(scale).to(view)
        rotation, translation = transform_matrices(view)
        recon_depth = warp_canon_depth(depth, rotation, translation, self.backend, self.half_pixel)
        grid = inverse_warp_grid(recon_depth, rotation, translation)
        image = F.grid_sample(canon_image, grid, mode="bilinear", align_corners=True)

        margin = (MAX_DEPTH - MIN_DEPTH) / 2
        mask = (recon_depth < MAX_DEPTH + margin).to(image).unsqueeze(1).detach()
        if flip:
            mask = (mask[:batch] * mask[batch:]).repeat(2, 1, 1, 1)
        return {
            **{"depth": depth, "albedo": albedo, "light": light, "view": view, "recon_depth": recon_depth},
            **{"mask": mask, "image": image * mask, "conf": conf, "conf_features": conf_features},
        }


# The losses.


def masked_mean(loss: Tensor, mask: Tensor) -> Tensor:
    mask = mask.expand_as(loss)
    return (loss * mask).sum() / mask.sum()


def photometric_loss(image: Tensor, target: Tensor, mask: Tensor, sigma: Tensor) -> Tensor:
    """Laplace's negative log likelihood."""
    loss = (image - target).abs() * 2**0.5 / (sigma + EPS) + (sigma + EPS).log()
    return masked_mean(loss, mask)


def perceptual_loss(features: nn.Module, image: Tensor, target: Tensor, mask: Tensor, sigma: Tensor) -> Tensor:
    """A Gaussian's, in features."""
    one, other = features(torch.cat([image, target]) / 2 + 0.5).chunk(2)
    loss = (one - other) ** 2 / (2 * sigma**2 + EPS) + (sigma + EPS).log()
    pool = image.shape[2] // one.shape[2]
    return masked_mean(loss, F.avg_pool2d(mask, pool))


class Losses(NamedTuple):
    """Parts of the total: with and without flip, of pixels and of features."""

    total: Tensor
    pixels: Tensor
    pixels_flipped: Tensor
    features: Tensor
    features_flipped: Tensor


def losses_of(features: nn.Module, images: Tensor, made: dict[str, Tensor], lambda_flip: float = LAMBDA_FLIP) -> Losses:
    batch = len(images)
    mask, conf, conf_features = made["mask"][:batch], made["conf"], made["conf_features"]
    recon, flipped = made["image"][:batch], made["image"][batch:]
    pixels = photometric_loss(recon, images, mask, conf[:, :1])
    perceptual = perceptual_loss(features, recon, images, mask, conf_features[:, :1])
    if not len(flipped):
        none = torch.zeros_like(pixels)
        return Losses(pixels + LAMBDA_PERCEPTUAL * perceptual, pixels, none, perceptual, none)
    pixels_flipped = photometric_loss(flipped, images, mask, conf[:, 1:])
    perceptual_flipped = perceptual_loss(features, flipped, images, mask, conf_features[:, 1:])
    total = pixels + lambda_flip * pixels_flipped
    total = total + LAMBDA_PERCEPTUAL * (perceptual + lambda_flip * perceptual_flipped)
    return Losses(total, pixels, pixels_flipped, perceptual, perceptual_flipped)


# Training.


class State:
    """Model, features and one optimiser per network."""

    def __init__(self, model: Unsup3d, features: nn.Module):
        self.model, self.features = model, features
        nets = (model.netD, model.netA, model.netV, model.netL, model.netC)
        self.optimisers = [
            torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=5e-4) for net in nets
        ]


def step(state: State, images: Tensor, flip: bool = True) -> Losses:
    """One training step on images (B, 3, 64, 64) in [-1, 1]; without `flip`, no mirrored copies (no symmetry)."""
    losses = losses_of(state.features, images, state.model(images, flip))
    for optimiser in state.optimisers:
        optimiser.zero_grad()
    losses.total.backward()
    for optimiser in state.optimisers:
        optimiser.step()
    return losses


def train(state: State, images: Tensor, steps: int, batch: int, flip: bool = True) -> None:
    """On images (N, 3, 64, 64) uint8, in random order, each mirrored at random; seeded by torch."""
    device = next(state.model.parameters()).device
    order = torch.randperm(0)
    for done in range(steps):
        if len(order) < min(batch, len(images)):
            order = torch.randperm(len(images))
        chosen, order = order[:batch], order[batch:]
        some = images[chosen].to(device).float() / 127.5 - 1
        mirror = (torch.rand(len(some)) < 0.5).to(device)
        losses = step(state, torch.where(mirror[:, None, None, None], some.flip(3), some), flip)
        if done % 100 == 0 or done + 1 == steps:
            print(f"step {done}: " + ", ".join(f"{k} {float(v.detach()):.4f}" for k, v in losses._asdict().items()))


@torch.no_grad()
def score(
    model: Unsup3d, images: Tensor, depth: Tensor, mask: Tensor, K: Tensor, batch: int = 32
) -> dict[str, list[float]]:
    """SIDE (no unit) and MAD (degrees) of each of images (N, 3, 64, 64) uint8, as `aboutface bench synface` takes them.

    depth, mask: (N, 64, 64), what is true, through K. What is compared is `recon_depth`, with its half pixel, where the
    plain copy is valid. The original's own normals are not used, since the 1e-7 beside their length of 3e-5 leaves
    them 0.3 % short: then the angle between two equal ones counts as 6.4 degrees.
    """
    device = next(model.parameters()).device
    sides, mads = [], []
    for some, true, seen in zip(*(part.split(batch) for part in (images, depth, mask)), strict=True):
        true = true.to(device)
        found = model(some.to(device).float() / 127.5 - 1, flip=False)
        recon = found["recon_depth"]
        where = eroded(seen.to(device)) & eroded(found["mask"][:, 0] > 0)
        normals = [depth_normals(one, K) for one in (recon, true)]
        sides.append(side(recon, true, where).cpu())
        mads.append(mad(normals[0], normals[1], where).cpu())
    return {"side": torch.cat(sides).tolist(), "mad": torch.cat(mads).tolist()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--out", type=Path, required=True, help="scores, JSON")
    parser.add_argument("--steps", type=int, default=3750, help="of training (published: 30 epochs)")
    parser.add_argument("--batch", type=int, default=64, help="images per step (published: 64)")
    parser.add_argument("--width", type=int, default=64, help="of the networks (published: 64)")
    parser.add_argument("--limit", type=int, help="images of each part; all if missing")
    parser.add_argument("--features", choices=("auto", "vgg16", "filters"), default="auto")
    parser.add_argument("--no-symmetry", action="store_true", help="train without mirrored copies")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="auto", help="of the rasteriser")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    torch.manual_seed(asked.seed)
    pictures = SyntheticFaces.open(asked.data / "train").tensors(asked.limit, ["image"])["image"]
    features = perceptual_features(asked.features, weights.info("vgg16").path).to(asked.device)
    state = State(Unsup3d(asked.width, asked.backend).to(asked.device), features)
    start = time.perf_counter()
    train(state, pictures, asked.steps, asked.batch, not asked.no_symmetry)
    seconds = time.perf_counter() - start
    truth = SyntheticFaces.open(asked.data / "test").tensors(asked.limit, ["image", "depth", "mask"])
    scores = score(state.model.eval(), truth["image"], truth["depth"], truth["mask"], truth["K"])
    kind = ", no symmetry" if asked.no_symmetry else ""
    about = {
        "title": f"Unsup3d, transcribed ({features.name}{kind})",
        "parameters": sum(p.numel() for p in state.model.parameters()),
        **{"steps": asked.steps, "batch": asked.batch, "width": asked.width, "seconds": seconds},
    }
    with atomic_path(asked.out) as part:
        part.write_text(json.dumps(about | scores), "utf-8")
    means = [sum(values) / len(values) for values in scores.values()]
    print(f"{seconds:.0f} s; SIDE x 100 {100 * means[0]:.3f}, MAD {means[1]:.2f} degrees; {asked.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
