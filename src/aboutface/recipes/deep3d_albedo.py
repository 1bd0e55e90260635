"""A linear albedo basis for a morphable model that has none, learned from photos with landmarks.

The model is fitted to each photo's landmarks; light and albedo of the vertices that are seen follow in turn, as the
mean albedo and the photos' own colours suggest. Both sides of a face count as one, so that light from the side does
not become albedo, and the main directions in which people then differ are the modes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from ..geometry import clip, clip_from_camera, project, vertex_normals
from ..morphable import MorphableModel
from ..reconstruct.deep3d_frame import camera
from ..reconstruct.morphable_fit import LandmarkFitter, LandmarkSettings
from ..render import rasterize, sh_basis
from ..skin import skin_attention

PLAIN = (0.74, 0.58, 0.49)
"""Mean colour of skin: the brightness of all albedo is a convention, a photo does not tell it from the light's."""
TONE_SHARE = 0.5
"""Of how much brighter or redder a whole face is than the mean, as much counts as albedo; the rest is light."""
LIGHT_SPREAD = 0.3
"""Standard deviation of the light's numbers but the first, in units of even light's first."""
FACING = (0.15, 0.5)
"""Cosine to the camera below which a vertex does not count, and above which it does fully."""
FEWEST_SEEN = 0.3
"""Share of the vertices that a photo must show, it or their mirror twins."""
LARGEST_OFF = 0.4
"""By which a colour may differ from the mean: farther off are hair, glasses and highlights."""
IDENTITIES, STEPS = 30, 12
"""Modes of identity and most steps of the fit to landmarks: three times as fast as all of them to the end, and colours
are taken 4/1000 elsewhere in brightness."""
ROUNDS = 3
"""Of light and mean albedo in turn."""


class AlbedoBasis(NamedTuple):
    """Colours of V vertices: mean + sum of numbers times modes; RGB, 1 is white."""

    mean: Tensor
    """(V, 3)."""
    modes: Tensor
    """(A, V, 3) per standard deviation."""


class Seen(NamedTuple):
    """What N photos show of V vertices."""

    colours: Tensor
    """(N, V, 3)."""
    weights: Tensor
    """(N, V), 0 to 1."""
    normals: Tensor
    """(N, V, 3) unit, camera space."""


@dataclass(frozen=True, eq=False)
class FittedFaces:
    """A model on photos by their landmarks alone."""

    model: MorphableModel
    """The part that is drawn."""
    fitter: LandmarkFitter

    @torch.no_grad()
    def seen(self, images: Tensor, points: Tensor, size: int) -> Seen:
        """Of crops (N, 3, B, B) uint8 with a margin about `size` pixels, with landmarks (N, 68, 2) there.

        Of landmarks that the fit refuses all weights are 0.
        """
        side = images.shape[-1]
        K = camera(size).K.double()
        K[:2, 2] += (side - size) / 2
        found = [self._one(image.float() / 255, marks, K) for image, marks in zip(images, points, strict=True)]
        return Seen(*(torch.stack(parts) for parts in zip(*found, strict=True)))

    def _one(self, image: Tensor, points: Tensor, K: Tensor) -> Seen:
        try:
            fit = self.fitter(points, K, LandmarkSettings(iterations=STEPS))
        except UsageError:
            nothing = torch.zeros(len(self.model.mean), 3)
            return Seen(nothing, nothing[:, 0], nothing)
        vertices = fit.vertices(self.model)[0]
        normals = vertex_normals(vertices, self.model.faces)
        side = image.shape[-1]
        depth = vertices[:, 2]
        lens = clip_from_camera(K.float(), (side, side), 0.5 * float(depth.min()), 2 * float(depth.max()))
        fragments = rasterize(clip(vertices, lens)[None], self.model.faces, (side, side))
        drawn = fragments.triangle_id[0]
        in_front = torch.zeros(len(vertices))
        in_front[self.model.faces[drawn[drawn >= 0]].flatten()] = 1.0
        cosine = -(normals * torch.nn.functional.normalize(vertices, dim=-1)).sum(-1)
        facing = ((cosine - FACING[0]) / (FACING[1] - FACING[0])).clamp(0, 1)
        pixels = project(vertices, K.float())
        inside = ((pixels > 1) & (pixels < side - 1)).all(-1)
        grid = (2 * pixels / side - 1)[None, None]
        layers = torch.cat([image, skin_attention(image[None])[0]])[None]
        taken = torch.nn.functional.grid_sample(layers, grid, mode="bilinear", align_corners=False)[0, :, 0].T
        # Lips, brows and beards are no skin by their colour, and are albedo all the same.
        attention = 0.2 + 0.8 * taken[:, 3]
        return Seen(taken[:, :3], in_front * facing * inside * attention, normals)


def learn_albedo(
    model: MorphableModel,
    images: Tensor,
    points: Tensor,
    size: int,
    modes: int,
    log: Callable[[str], None] = lambda _: None,
) -> AlbedoBasis:
    """The basis of a model with all 68 landmarks, symmetric.

    Args:
        model: the part of it that is drawn, for ICT `model.part("front")`; alike on both sides.
        images: (N, 3, B, B) uint8, crops of `size` pixels with a margin, see `recipes.deep3d.crop_face`.
        points: (N, 68, 2) landmarks in them.
        modes: how many; the photos must be more.

    Raises UsageError for a model whose sides differ, and for too few photos that show enough of a face.
    """
    if len(images) <= modes:
        raise UsageError(f"albedo: expected more photos than the {modes} modes, got {len(images)}; give more faces")
    twins = mirror_vertices(model)
    faces = FittedFaces(model, LandmarkFitter(model, min(IDENTITIES, len(model.identity))))
    albedos, mean = [], model.mean.new_tensor(PLAIN).repeat(len(model.mean), 1)
    parts = [faces.seen(a, b, size) for a, b in zip(images.split(64), points.split(64), strict=True)]
    seen = Seen(*(torch.cat(part) for part in zip(*parts, strict=True)))
    shown = torch.maximum(seen.weights, seen.weights[:, twins]) > 0.1
    enough = shown.float().mean(1) >= FEWEST_SEEN
    if int(enough.sum()) <= modes:
        raise UsageError(
            f"albedo: {int(enough.sum())} of {len(images)} photos show enough of a face, expected more than the "
            f"{modes} modes; give more faces or ask for fewer modes"
        )
    seen = Seen(*(part[enough] for part in seen))
    for _ in range(ROUNDS):
        albedos, weights = _albedos(seen, mean, twins)
        total = weights.sum(0)[:, None]
        mean = (weights[..., None] * albedos).sum(0) / total.clamp_min(1e-6)
        # Of what is hardly ever seen the mean says nothing.
        mean = torch.where(total > 0.01 * len(albedos), mean, mean.new_tensor(PLAIN))
        mean = mean * (mean.new_tensor(PLAIN) / _level(mean, model))
    albedos, weights = _albedos(seen, mean, twins)
    off = weights[..., None] * (albedos - mean).clamp(-LARGEST_OFF, LARGEST_OFF)
    # It draws random numbers; a run that is resumed must find the same modes again.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, sizes, directions = torch.svd_lowrank(off.flatten(1), q=min(modes + 10, len(off)), niter=4)
    spread = sizes[:modes] / len(off) ** 0.5
    explained = float(sizes[:modes].square().sum() / off.square().sum())
    log(f"albedo: {modes} modes of {len(off)} photos hold {100 * explained:.0f} % of how they differ")
    return AlbedoBasis(mean, (directions[:, :modes].T * spread[:, None]).unflatten(1, mean.shape))


def mirror_vertices(model: MorphableModel) -> Tensor:
    """(V,) which vertex is the mirror twin of each. Raises UsageError for a model whose sides differ."""
    mirrored = model.mean * model.mean.new_tensor([-1.0, 1.0, 1.0])
    nearest = torch.cat([torch.cdist(part, model.mean).argmin(1) for part in mirrored.split(2048)])
    if not torch.equal(nearest[nearest], torch.arange(len(nearest))):
        raise UsageError(f"{model.name}: its vertices are not alike on both sides; choose a model with albedo")
    return nearest


def _albedos(seen: Seen, mean: Tensor, twins: Tensor) -> tuple[Tensor, Tensor]:
    """Albedo (N, V, 3) of each photo, by the light that suits the mean (V, 3), alike on both sides; weight (N, V)."""
    basis = sh_basis(seen.normals)
    even = 1 / float(basis[0, 0, 0])
    weight = seen.weights[..., None]
    light = basis.new_zeros(len(basis), 9, 3)
    light[:, 0] = even
    prior = torch.full((9,), 1 / (even * LIGHT_SPREAD) ** 2)
    prior[0] = 0.1 / even**2
    for channel in range(3):
        row = basis * mean[:, channel, None]
        left = (row * weight).mT @ row + torch.diag(100 * prior)
        start = torch.einsum("nvk,nk->nv", row, light[..., channel])
        right = ((row * weight).mT @ (seen.colours[..., channel] - start)[..., None])[..., 0]
        light[..., channel] += torch.linalg.solve(left, right)
    shading = (basis @ light).clamp_min(0.15)
    tone = (seen.weights[..., None] * shading).sum(1) / seen.weights.sum(1).clamp_min(1e-6)[:, None]
    albedo = (seen.colours / shading * tone[:, None].clamp(0.2, 3.0) ** TONE_SHARE).clamp(0, 1.2)
    weights = seen.weights + seen.weights[:, twins]
    both = seen.weights[..., None] * albedo + (seen.weights[..., None] * albedo)[:, twins]
    return both / weights.clamp_min(1e-6)[..., None], weights.clamp(max=1)


def _level(albedo: Tensor, model: MorphableModel) -> Tensor:
    """(3,) mean colour of the skin."""
    skin = model.masks.get("skin", torch.ones(len(albedo), dtype=torch.bool))
    return albedo[skin].mean(0)
