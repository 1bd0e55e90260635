"""Colours of faces that nobody has: skin, lips, brows, eyes and hair, painted where the ICT model has them.

The model has no albedo, so all of this is invented. Everything is a function of the place on the model's mean head, in
millimetres, evaluated at the texels of an atlas: so nothing jumps at the seams of the texture. Skin is a pale ground
under two absorbing layers, melanin and haemoglobin (after Tsumura et al. 2003), whose densities add up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.nn import functional

from ...filters import smoothstep
from ...morphable import IctModel
from ...render import interpolate, rasterize

SCLERA = 770
"""The first vertices of an eyeball: its outer layer. The inner one, iris and lens, is painted onto it."""
ATLAS = 1.5
"""Width of the atlas in heights: the face's square, and right of it the head's, and two for the eyes."""

CELLS = 64
"""Period of the noise, in grains; a power of two."""
NOISE_GAIN = np.float32(1.7)

Colour = Sequence[float]
GROUND: Colour = (0.10, 0.29, 0.41)
"""Optical density (minus the logarithm of the reflected share) of the palest skin, for red, green and blue."""
MELANIN: Colour = (1.00, 1.26, 1.42)
HAEMOGLOBIN: Colour = (0.05, 0.34, 0.27)
# Black, brown, light, red.
HAIR = ((0.07, 0.06, 0.06), (0.19, 0.12, 0.08), (0.42, 0.30, 0.18), (0.38, 0.17, 0.08))
GREY: Colour = (0.55, 0.54, 0.53)
# Brown, hazel, blue, green.
IRIS = ((0.26, 0.14, 0.07), (0.38, 0.29, 0.14), (0.33, 0.45, 0.58), (0.33, 0.42, 0.30))


@dataclass(frozen=True, eq=False)
class Wedges:
    """The model as the renderer takes it: a vertex for every pair of vertex and place in the atlas."""

    vertex: Tensor
    """(C,) int64: the model's vertex."""
    uv: Tensor
    """(C, 2): place in the atlas."""
    faces: Tensor
    """(F, 3) int64: rows of the two above. Without the eyes' inner layers."""


def wedges(model: IctModel) -> Wedges:
    """The model's surface with an atlas in which nothing overlaps."""
    outer = torch.ones(len(model.mean), dtype=torch.bool)
    tile = torch.zeros(len(model.mean), dtype=torch.int64)
    for number, name in ((2, "eyeball_left"), (3, "eyeball_right")):
        first, end = model.parts[name]
        outer[first + SCLERA : end] = False
        tile[first:end] = number
    keep = outer[model.faces].all(1)
    faces, uv_faces = model.faces[keep], model.uv_faces[keep]
    pairs, rows = (faces * len(model.uv) + uv_faces).unique(return_inverse=True)
    vertex, uv = pairs // len(model.uv), model.uv[pairs % len(model.uv)]
    return Wedges(vertex, _in_atlas(uv, tile[vertex]), rows)


def _in_atlas(uv: Tensor, tile: Tensor) -> Tensor:
    """Places in the atlas: the face on the left, the head upper right, the eyes lower right."""
    tile = torch.where((tile == 0) & (uv[:, 0] > 1), 1, tile)
    corner = uv.new_tensor([[0, 0], [1, 0], [1, 0.5], [1, 0.75]])[tile]
    size = uv.new_tensor([1, 0.5, 0.25, 0.25])[tile, None]
    inside = uv - (tile == 1)[:, None] * uv.new_tensor([1.0, 0.0])
    return (corner + inside * size) / uv.new_tensor([ATLAS, 1.0])


@dataclass(frozen=True)
class Look:
    """What one person looks like, drawn at random. Lengths in millimetres."""

    melanin: float
    """0 the palest, 1 the darkest skin."""
    haemoglobin: float
    hair: tuple[float, float, float]
    """Colour of hair, brows and beard."""
    iris: tuple[float, float, float]
    lips: float
    """How much redder and darker the lips are."""
    brows: float
    """Density, 0 to 1."""
    brow_width: float
    scalp: float
    """Density of the hair on the head, 0 to 1."""
    hairline: float
    """How far it lies above the usual one."""
    beard: float
    """Density, 0 to 1."""
    freckles: float
    under_eyes: float
    flush: tuple[float, float, float, float]
    """Redness of left and right cheek, nose, ears."""
    mottle: float
    """Strength of what is uneven."""

    @classmethod
    def draw(cls, random: np.random.Generator) -> "Look":
        melanin = float(random.uniform(0, 1) ** 1.7)
        cheek = random.gamma(2, 0.14)
        return cls(
            melanin=melanin,
            haemoglobin=float(random.uniform(0, 0.6)),
            hair=_hair(random, melanin),
            iris=_iris(random, melanin),
            lips=float(random.uniform(0.35, 1.1)),
            brows=float(random.uniform(0.5, 0.95)),
            brow_width=float(random.uniform(3.4, 5.6)),
            scalp=float(random.uniform(0.75, 1) if random.random() < 0.85 else random.uniform(0, 0.25)),
            hairline=float(random.normal(0, 6)),
            beard=float(random.uniform(0.15, 0.75) if random.random() < 0.35 else random.uniform(0, 0.06)),
            freckles=float(random.uniform(0.3, 1) if random.random() < 0.3 * (1 - melanin) + 0.05 else 0),
            under_eyes=float(random.uniform(0, 1)),
            flush=(
                float(cheek * random.uniform(0.75, 1.25)),
                float(cheek * random.uniform(0.75, 1.25)),
                float(random.gamma(2, 0.07)),
                float(random.gamma(2, 0.07)),
            ),
            mottle=float(random.uniform(0.5, 1.4)),
        )


def _hair(random: np.random.Generator, melanin: float) -> tuple[float, float, float]:
    light = max(0.0, 1 - 2.5 * melanin)
    weights = np.array([0.35 + 3 * melanin, 0.5, 0.45 * light, 0.12 * light])
    colour = np.array(HAIR[random.choice(4, p=weights / weights.sum())])
    grey = random.uniform(0.2, 1) if random.random() < 0.18 else 0.0
    colour = (colour * random.uniform(0.75, 1.3)) * (1 - grey) + np.array(GREY) * grey * random.uniform(0.8, 1.2)
    r, g, b = colour.clip(0.03, 0.8).tolist()
    return r, g, b


def _iris(random: np.random.Generator, melanin: float) -> tuple[float, float, float]:
    light = max(0.0, 1 - 2.5 * melanin)
    weights = np.array([0.6, 0.15 + 0.25 * light, 0.6 * light, 0.25 * light])
    colour = np.array(IRIS[random.choice(4, p=weights / weights.sum())])
    r, g, b = (colour * random.uniform(0.75, 1.2)).clip(0.04, 0.9).tolist()
    return r, g, b


class Painter:
    """Paints atlases of one size; what all faces share is worked out once."""

    def __init__(self, model: IctModel, rows: int) -> None:
        """Args: rows: height of the atlas in texels."""
        self.size = rows, round(rows * ATLAS)
        surface = wedges(model)
        place = model.mean[surface.vertex]
        parts = [_is_in(model, surface.vertex, name) for name in ("eyeball", "mouth_socket", "eye_socket")]
        parts = torch.stack([*parts, _is_ear(surface)])
        flat = functional.pad(functional.pad(surface.uv * 2 - 1, (0, 1)), (0, 1), value=1.0)[None]
        fragments = rasterize(flat, surface.faces, self.size)
        drawn = interpolate(torch.cat([place, parts.float().T], -1)[None], fragments, surface.faces)[0]
        drawn, known = _widened(drawn, fragments.triangle_id[0] >= 0, 3)
        self.texels = known.flatten().nonzero()[:, 0]
        values = drawn.flatten(0, 1)[self.texels]
        self.place = values[:, :3].contiguous()
        eyeball, mouth, socket, ear = (values[:, 3:] > 0.5).T
        self.eyeball, self.mouth, self.socket = eyeball.nonzero()[:, 0], mouth, socket
        self.regions = _Regions.of(self.place, model.mean[model.landmarks68], ear.float())
        self.hairy = self.regions.hairy().nonzero()[:, 0]
        self.eyes = _Eye.of(self.place[self.eyeball], model)
        self.volume = np.random.default_rng(20201).standard_normal((CELLS, CELLS, CELLS, 2), np.float32)
        self.moles_at = ((self.place[:, 2] < -60) & ~eyeball & ~mouth & ~socket).nonzero()[:, 0]

    def paint(self, look: Look, random: np.random.Generator) -> Tensor:
        """An atlas (3, H, W), RGB from 0 to 1; texels outside the surface are 0."""
        texels = self._skin(look, random)
        self._paint_hair(texels, look, random)
        texels = torch.where(self.mouth[:, None], texels.new_tensor([0.28, 0.09, 0.08]), texels)
        texels = torch.where(self.socket[:, None], texels * texels.new_tensor([0.75, 0.55, 0.5]), texels)
        texels[self.eyeball] = self._eyes(look, random)
        atlas = texels.new_zeros(self.size[0] * self.size[1], 3)
        atlas[self.texels] = texels.clamp(0.01, 0.97)
        return atlas.T.reshape(3, *self.size).contiguous()

    def _noise(self, random: np.random.Generator, grain: float, place: Tensor, stretch: Colour | None = None) -> Tensor:
        """(N, 2) at places (N, 3): two noises of standard deviation about 1, `grain` millimetres fine.

        Turned at random; or fixed and along the axes times `stretch`, as strands are.
        """
        cells = np.eye(3) if stretch else _random_rotation(random)
        cells = cells / (grain * np.array(stretch or (1.0, 1.0, 1.0)))[:, None]
        offset = random.uniform(0, CELLS, 3)
        return torch.from_numpy(
            _between(self.volume, place.numpy(), cells.astype(np.float32), offset.astype(np.float32))
        )

    def _skin(self, look: Look, random: np.random.Generator) -> Tensor:
        regions = self.regions
        coarse, middle, fine = (self._noise(random, grain, self.place) for grain in (28.0, 8.0, 2.2))
        uneven = look.mottle * (0.5 * coarse + 0.35 * middle + 0.35 * fine)
        left, right, nose, ears = look.flush
        blood = look.haemoglobin + 0.16 * uneven[:, 1]
        blood = blood + left * regions.cheek_left + right * regions.cheek_right
        blood = blood + nose * regions.nose + ears * regions.ears + 0.12 * regions.chin
        shade = 0.045 * uneven[:, 0] * (0.5 + look.melanin)
        shade = shade + (0.05 + 0.13 * look.under_eyes) * regions.under_eyes + 0.10 * regions.lids
        shade = shade - 0.035 * regions.forehead
        melanin = look.melanin + shade
        if look.freckles:
            spots = smoothstep(fine[:, 0] + 0.4 * middle[:, 1], 1.1, 1.9) * regions.freckles
            melanin = melanin + 0.28 * look.freckles * spots
        melanin = melanin + self._moles(random)
        lips = regions.lips * (1 + 0.12 * middle[:, 0] + 0.1 * fine[:, 1])
        blood = blood + 1.35 * look.lips * lips
        melanin = melanin + (0.07 + 0.16 * look.melanin) * look.lips * lips
        melanin = melanin + 0.35 * regions.mouth_line
        blood = blood + 0.55 * regions.rims + 0.5 * regions.mouth_line
        density = melanin.clamp_min(0)[:, None] * melanin.new_tensor(MELANIN)
        density = density + blood.clamp_min(-0.2)[:, None] * blood.new_tensor(HAEMOGLOBIN) + blood.new_tensor(GROUND)
        return (-density - 0.9 * regions.nostrils[:, None]).exp()

    def _moles(self, random: np.random.Generator) -> Tensor:
        total = self.place.new_zeros(len(self.place))
        for _ in range(random.poisson(2.5)):
            centre = self.place[self.moles_at[random.integers(len(self.moles_at))]]
            radius = random.uniform(0.7, 2.0)
            distance = (self.place - centre).norm(dim=1)
            total += random.uniform(0.25, 0.8) * (1 - smoothstep(distance, 0.6 * radius, 1.4 * radius))
        return total

    def _paint_hair(self, texels: Tensor, look: Look, random: np.random.Generator) -> None:
        """Hair, beard, brows and lashes onto texels (N, 3), in place."""
        regions, at = self.regions, self.hairy
        strands = self._noise(random, 1.1, self.place[at], (1.0, 0.8, 3.0))
        rough = self._noise(random, 9.0, self.place[at])
        hair, skin = texels.new_tensor(look.hair), texels[at]
        # Hair on the head: a line that is not straight, then nearly closed.
        score = regions.hair[at] - look.hairline + 3.0 * rough[:, 0] + 1.2 * strands[:, 1]
        scalp = look.scalp * smoothstep(score, -3, 9) * (1 - 0.2 * smoothstep(strands[:, 0], 0.2, 2.0))
        shine = (1 + 0.16 * strands[:, 1] + 0.12 * rough[:, 1])[:, None]
        skin = torch.lerp(skin, hair * shine, scalp[:, None].clamp(0, 0.96))
        # A beard is skin seen through short hair: it hides more where it is long.
        cover = look.beard * regions.beard[at] * (0.75 + 0.25 * strands[:, 1] + 0.15 * rough[:, 0])
        skin = torch.lerp(skin, 0.75 * hair + 0.05, cover[:, None].clamp(0, 0.85))
        for side in (0, 1):
            width = look.brow_width * random.uniform(0.9, 1.1)
            across, along = regions.brow_distance[side, at] - random.normal(0, 0.4), regions.brow_along[side, at]
            thick = width * (1 - 0.6 * smoothstep(along, 0.55, 1.05)) * smoothstep(along, -0.12, 0.15)
            inner, outer = 0.4 * thick - 0.3, 1.15 * thick + 0.8
            share = (across + 0.35 * strands[:, 0] - inner) / (outer - inner)
            dense = 1 - smoothstep(share, 0, 1)
            dense = look.brows * dense * (0.85 + 0.15 * strands[:, 1]) * smoothstep(thick, 0.2, 1.0)
            skin = torch.lerp(skin, hair * 0.9, dense[:, None].clamp(0, 0.95))
        lashes = regions.lashes[at] * (0.45 + 0.4 * float(random.random()))
        texels[at] = torch.lerp(skin, hair * 0.4, lashes[:, None])

    def _eyes(self, look: Look, random: np.random.Generator) -> Tensor:
        eye = self.eyes
        noise = self._noise(random, 3.0, self.place[self.eyeball])
        white = eye.radius.new_tensor([0.86, 0.83, 0.80]) * (0.92 + 0.08 * float(random.random()))
        veins = smoothstep(eye.radius, 6.0, 13.0)[:, None] * eye.radius.new_tensor([0.06, 0.22, 0.22])
        white = white - veins - 0.015 * noise[:, :1]
        iris_radius, pupil_radius = random.uniform(5.6, 6.2), random.uniform(1.5, 2.8)
        phase, count = random.uniform(0, 6.28, 2), random.integers(9, 17, 2)
        rays = torch.sin(eye.angle * count[0] + phase[0]) + torch.sin(eye.angle * (count[1] + 9) + phase[1])
        inner = smoothstep(eye.radius, pupil_radius, iris_radius)
        colour = eye.radius.new_tensor(look.iris) * (1.12 - 0.3 * inner + 0.10 * rays + 0.06 * noise[:, 0])[:, None]
        ring = smoothstep(eye.radius, 0.78 * iris_radius, iris_radius)[:, None]
        iris = colour * (1 - 0.55 * ring)
        iris = torch.lerp(iris, torch.full_like(iris, 0.02), _inside(eye.radius, pupil_radius, 0.25)[:, None])
        return torch.lerp(white, iris, _inside(eye.radius, iris_radius, 0.3)[:, None])


@dataclass(frozen=True, eq=False)
class _Regions:
    """How much each texel (N,) belongs to a region, 0 to 1, or its distance in millimetres."""

    cheek_left: Tensor
    cheek_right: Tensor
    nose: Tensor
    ears: Tensor
    chin: Tensor
    forehead: Tensor
    freckles: Tensor
    under_eyes: Tensor
    lids: Tensor
    rims: Tensor
    lashes: Tensor
    lips: Tensor
    mouth_line: Tensor
    nostrils: Tensor
    beard: Tensor
    hair: Tensor
    """Millimetres behind the usual hairline."""
    brow_distance: Tensor
    """(2, N) from the brow's line."""
    brow_along: Tensor
    """(2, N): 0 at its inner end, 1 at the outer one."""

    @classmethod
    def of(cls, place: Tensor, marks: Tensor, ears: Tensor) -> "_Regions":
        """Of places (N, 3) on the mean head, with its landmarks (68, 3); ears (N,) is 1 on them."""
        x, y, z = place.unbind(1)
        front = smoothstep(-z, 30, 60)

        def blob(centre: Tensor, size: Sequence[float]) -> Tensor:
            return (-0.5 * ((place - centre) / place.new_tensor(size)).square().sum(1)).exp()

        def offset(point: Tensor, dx: float, dy: float, dz: float) -> Tensor:
            return point + place.new_tensor([dx, dy, dz])

        cheeks = [blob(offset(marks[i], dx, 14, 20), (15, 13, 25)) for i, dx in ((41, -4.0), (46, 4.0))]
        sockets = [(marks[a:b].mean(0), sign) for a, b, sign in ((36, 42, -1.0), (42, 48, 1.0))]
        under = sum(blob(offset(c, -sign * 3, 11, 0), (11, 4.5, 14)) for c, sign in sockets)
        lids = sum(blob(offset(c, 0, -7, 0), (12, 4, 14)) for c, _ in sockets)
        rims, lashes = torch.zeros_like(x), torch.zeros_like(x)
        for eye in (marks[36:42], marks[42:48]):
            rims = torch.maximum(rims, 1 - smoothstep(_to_line(place, _rounded(eye, closed=True)), 0.6, 2.0))
            lashes = torch.maximum(lashes, 1 - smoothstep(_to_line(place, _rounded(eye[:4])), 0.5, 1.5))
        outline = _rounded(marks[48:60], closed=True)
        lips = smoothstep(_inside_of(place, outline), -1.0, 1.0) * front * smoothstep(-z, 85, 92)
        # The model's inner lip points lie where the lips meet.
        meeting = [_to_line(place, _rounded(marks[which])) for which in ([60, 61, 62, 63, 64], [64, 65, 66, 67, 60])]
        gap = 1 - smoothstep(torch.minimum(*meeting), 0.4, 1.6)
        nostrils = sum(blob(offset((marks[a] + marks[33]) / 2, 0, -1.5, 1.5), (3.0, 2.0, 3.5)) for a in (31, 35))
        base, chin = marks[33, 1] + 3.0, marks[8]
        side = (x.abs() - 24).clamp_min(0)
        low = float(chin[1])
        below = smoothstep(y - (base - 0.55 * side), -3, 6) * (1 - smoothstep(y, low + 6, low + 34))
        mouth = blob(marks[48:60].mean(0), (19, 6.5, 30))
        cheek = 1 - blob(offset(marks[48], -16, -6, 0), (12, 12, 25)) - blob(offset(marks[54], 16, -6, 0), (12, 12, 25))
        beard = below * (1 - smoothstep(mouth, 0.35, 0.75)) * cheek.clamp(0, 1) * smoothstep(-z, 15, 38) * (1 - ears)
        brows = [marks[[21, 20, 19, 18, 17]], marks[[22, 23, 24, 25, 26]]]
        lines = [_rounded(brow) for brow in brows]
        # A plane through the middle of the hairline and the front of the ears; not on ears and nape.
        behind = ((z + 97) * 0.772 - (y + 97) * 0.636) * (1 - ears) - 30 * ears - 2 * (y - 35).clamp_min(0)
        return cls(
            cheek_left=cheeks[0],
            cheek_right=cheeks[1],
            nose=blob(offset(marks[30], 0, 2, 6), (10, 9, 12)),
            ears=ears,
            chin=blob(offset(chin, 0, -12, 4), (12, 9, 16)),
            forehead=blob(offset(marks[27], 0, -38, 0), (36, 18, 24)),
            freckles=smoothstep(cheeks[0] + cheeks[1] + blob(marks[29], (20, 14, 20)), 0.15, 0.7),
            under_eyes=torch.as_tensor(under) * front,
            lids=torch.as_tensor(lids) * front,
            rims=rims,
            lashes=lashes,
            lips=lips,
            mouth_line=gap * front,
            nostrils=torch.as_tensor(nostrils).clamp(0, 1),
            beard=beard,
            hair=behind,
            brow_distance=torch.stack([_to_line(place, line) for line in lines]),
            brow_along=torch.stack([_share_along(place, brow) for brow in brows]),
        )

    def hairy(self) -> Tensor:
        """(N,) where hair of any kind may grow."""
        brows = (self.brow_distance < 9).any(0)
        return (self.hair > -40) | (self.beard > 0.01) | brows | (self.lashes > 0)


@dataclass(frozen=True, eq=False)
class _Eye:
    """Of texels (N,) on the eyeballs: distance from the line of sight, millimetres, and angle about it."""

    radius: Tensor
    angle: Tensor

    @classmethod
    def of(cls, place: Tensor, model: IctModel) -> "_Eye":
        left, right = (_axis(model, name) for name in ("eyeball_left", "eyeball_right"))
        centre = torch.where((place[:, :1] > 0) == (left[0] > 0), left, right)
        offset = place[:, :2] - centre
        front = place[:, 2] < float(model.mean[slice(*model.parts["eyeball_left"]), 2].mean())
        radius = torch.where(front, offset.norm(dim=1), torch.full_like(place[:, 0], 15.0))
        return cls(radius, torch.atan2(offset[:, 1], offset[:, 0]))


def _axis(model: IctModel, name: str) -> Tensor:
    """(2,) x and y of an eye's line of sight: the middle of its foremost 2 mm."""
    first = model.parts[name][0]
    outer = model.mean[first : first + SCLERA]
    cap = outer[outer[:, 2] < outer[:, 2].min() + 2]
    return (cap[:, :2].amin(0) + cap[:, :2].amax(0)) / 2


def _is_in(model: IctModel, vertex: Tensor, prefix: str) -> Tensor:
    inside = torch.zeros_like(vertex, dtype=torch.bool)
    for name, (first, end) in model.parts.items():
        if name.startswith(prefix):
            inside |= (vertex >= first) & (vertex < end)
    return inside


def _is_ear(surface: Wedges) -> Tensor:
    """(C,): the model's layout has the ears at both sides of the face's square."""
    u, v = (surface.uv * surface.uv.new_tensor([ATLAS, 1.0])).unbind(1)
    return (((u - 0.5).abs() - 0.5).abs() < 0.11) & (v > 0.31) & (v < 0.55) & (u < 1)


def _widened(values: Tensor, known: Tensor, rings: int) -> tuple[Tensor, Tensor]:
    """Values (H, W, C) carried on by so many texels beyond where they are known, and where they are known then."""
    image, weight = (values * known[..., None]).movedim(-1, 0)[None], known[None, None].float()
    for _ in range(rings):
        share = functional.avg_pool2d(weight, 3, 1, 1)
        spread = functional.avg_pool2d(image, 3, 1, 1) / share.clamp_min(0.1)
        image = torch.where(weight > 0, image, spread * (share > 0))
        weight = (share > 0).float()
    return image[0].movedim(0, -1), weight[0, 0] > 0


@njit(nogil=True, cache=True)
def _between(volume: Any, place: Any, cells: Any, offset: Any) -> Any:
    """(N, 2) values of a periodic grid (CELLS, CELLS, CELLS, 2) at cells @ place + offset, place (N, 3)."""
    result = np.empty((place.shape[0], 2), np.float32)
    for n in range(place.shape[0]):
        x, y, z = place[n, 0], place[n, 1], place[n, 2]
        u = cells[0, 0] * x + cells[0, 1] * y + cells[0, 2] * z + offset[0]
        v = cells[1, 0] * x + cells[1, 1] * y + cells[1, 2] * z + offset[1]
        w = cells[2, 0] * x + cells[2, 1] * y + cells[2, 2] * z + offset[2]
        i, j, k = int(np.floor(u)), int(np.floor(v)), int(np.floor(w))
        a, b, c = u - i, v - j, w - k
        i0, j0, k0 = i & (CELLS - 1), j & (CELLS - 1), k & (CELLS - 1)
        i1, j1, k1 = (i + 1) & (CELLS - 1), (j + 1) & (CELLS - 1), (k + 1) & (CELLS - 1)
        for channel in range(2):
            near = volume[i0, j0, k0, channel] * (1 - c) + volume[i0, j0, k1, channel] * c
            far = volume[i0, j1, k0, channel] * (1 - c) + volume[i0, j1, k1, channel] * c
            first = near * (1 - b) + far * b
            near = volume[i1, j0, k0, channel] * (1 - c) + volume[i1, j0, k1, channel] * c
            far = volume[i1, j1, k0, channel] * (1 - c) + volume[i1, j1, k1, channel] * c
            # Between the grid's points, where eight values are averaged, there is less of it.
            result[n, channel] = NOISE_GAIN * (first * (1 - a) + (near * (1 - b) + far * b) * a)
    return result


def _random_rotation(random: np.random.Generator) -> np.ndarray:
    q, _ = np.linalg.qr(random.standard_normal((3, 3)))
    return q


def _inside(distance: Tensor, radius: float, soft: float) -> Tensor:
    return 1 - smoothstep(distance, radius - soft, radius + soft)


def _rounded(line: Tensor, closed: bool = False) -> Tensor:
    """A polyline (K, 3) with its corners cut twice (Chaikin 1974); its ends stay."""
    for _ in range(2):
        after = line.roll(-1, 0) if closed else line[1:]
        before = line if closed else line[:-1]
        cut = torch.stack([0.75 * before + 0.25 * after, 0.25 * before + 0.75 * after], 1).flatten(0, 1)
        line = cut if closed else torch.cat([line[:1], cut[1:-1], line[-1:]])
    return torch.cat([line, line[:1]]) if closed else line


def _to_line(place: Tensor, line: Tensor) -> Tensor:
    """(N,) distance of places (N, 3) from a polyline (K, 3)."""
    nearest = torch.full_like(place[:, 0], torch.inf)
    for start, end in pairwise(line):
        along = end - start
        share = ((place - start) @ along / along.square().sum().clamp_min(1e-12)).clamp(0, 1)
        nearest = torch.minimum(nearest, (place - start - share[:, None] * along).norm(dim=1))
    return nearest


def _share_along(place: Tensor, line: Tensor) -> Tensor:
    """(N,): 0 at the first, 1 at the last point of a line, along the straight between them."""
    along = line[-1] - line[0]
    return (place - line[0]) @ along / along.square().sum()


def _inside_of(place: Tensor, outline: Tensor) -> Tensor:
    """(N,) millimetres inside (outside: negative) a closed outline, both seen from the front."""
    flat, ring = place * place.new_tensor([1, 1, 0]), outline * outline.new_tensor([1, 1, 0])
    odd = torch.zeros_like(place[:, 0], dtype=torch.bool)
    for (x0, y0, _), (x1, y1, _) in zip(ring[:-1].tolist(), ring[1:].tolist(), strict=True):
        if y0 != y1:
            crosses = (flat[:, 1] < y0) != (flat[:, 1] < y1)
            odd ^= crosses & (flat[:, 0] < x0 + (flat[:, 1] - y0) * ((x1 - x0) / (y1 - y0)))
    distance = _to_line(flat, ring)
    return torch.where(odd, distance, -distance)
