"""The closed surface of a morphable model's whole head: skin from crown to throat, with eyes and mouth filled in.

Eyeballs, sockets and the inside of the mouth are left out. A photo shows of them what stands in the openings of the
skin, and on a surface across these it turns with the face, without gaps and without texture dragged into the depth.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageError
from ..geometry import vertex_normals
from .model import CHIN, MorphableModel

PARTS = ("face", "head_neck")
"""Masks of the model that together are its skin."""
THROAT = 62.0
"""Millimetres below the chin where the surface ends."""
RINGS = (0.8, 0.55, 0.28)
"""Where the rings of vertices in an opening lie, in distances of its rim from its middle."""
BULGE = 5.5
"""Millimetres by which an open eye stands before the middle of its rim."""
MIRRORED = 1.0
"""Most millimetres from a mirrored vertex to its twin."""
ROUNDS = 6
"""How often the springs of the atlas are adjusted."""
SWEEPS, OVER = 150, 1.95
"""Sweeps over all vertices in each round, and the factor by which each goes beyond its place of rest."""
FACE_SHARE = 8.0
"""How many times larger the face is in the atlas than the back of the head, by area."""


@dataclass(frozen=True, eq=False)
class WholeHead:
    """How the closed head of one model is made, and what holds for every face of it. May be shared by threads."""

    skin: MorphableModel
    """The model of the vertices that are skin."""
    openings: tuple[Tensor, ...]
    """Rims (R,) of eyes and mouth: vertices of the skin in the order in which they are joined."""
    bulges: tuple[float, ...]
    """Millimetres by which the middle of each opening stands out when it is as open as in the mean face."""
    faces: Tensor
    """(F, 3) int64 triangles, clockwise as seen from outside; open at the neck only."""
    mirror: Tensor
    """(V,) int64: each vertex's twin on the other side."""
    mean: Tensor
    """(V, 3) of the mean face, millimetres, symmetric."""
    uv: Tensor
    """(V, 2) an atlas without seams in which twins lie at (u, v) and (1 - u, v); no two places share a texel."""

    @classmethod
    def of(cls, model: MorphableModel) -> "WholeHead":
        """Raises UsageError for a model that `has_whole_head` denies, or whose sides are no mirror images."""
        if not has_whole_head(model):
            raise UsageError(f"{model.name}: has no whole head; expected masks {' and '.join(PARTS)} and 68 landmarks")
        skin = model.cropped(torch.stack([model.masks[name] for name in PARTS]).any(0))
        chin = float(skin.landmarks(skin.mean)[CHIN, 1])
        skin = skin.cropped(skin.mean[:, 1] < chin + THROAT)
        rims = sorted(_rims(skin.faces), key=lambda rim: float(skin.mean[rim, 1].mean()))
        openings, neck = rims[:-1], rims[-1]
        eyes = float(skin.landmarks(skin.mean)[36:48, 1].mean())
        bulges = tuple(BULGE if abs(float(skin.mean[rim, 1].mean()) - eyes) < 15 else 0.0 for rim in openings)
        faces = _filled(len(skin.mean), skin.faces, openings)
        mirror = _with_openings(_twins(skin), openings)
        mean = _closed(skin.mean[None], openings, bulges, skin.mean)[0]
        mean = (mean + mean[mirror] * torch.tensor([-1.0, 1.0, 1.0])) / 2
        return cls(skin, tuple(openings), bulges, faces, mirror, mean, _atlas(mean, faces, mirror, neck))

    def vertices(self, identity: Tensor, expression: Tensor) -> Tensor:
        """(B, V, 3) millimetres of coefficients as `MorphableModel.vertices` takes them."""
        return _closed(self.skin.vertices(identity, expression), self.openings, self.bulges, self.skin.mean)


def has_whole_head(model: MorphableModel) -> bool:
    """Whether the model is one of the whole head, with parts that tell skin from what lies behind it."""
    return set(PARTS) <= model.masks.keys() and model.landmarks68 is not None


# ---- the surface ----


def _rims(faces: Tensor) -> list[Tensor]:
    """Closed lines of vertices (R,) where a surface ends, each in the order of its triangles' corners."""
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    count = int(faces.max()) + 1
    lonely = ~torch.isin(edges[:, 0] * count + edges[:, 1], edges[:, 1] * count + edges[:, 0])
    following = dict(edges[lonely].tolist())
    rims = []
    while following:
        start = next(iter(following))
        rim = [start]
        while (vertex := following.pop(rim[-1])) != start:
            rim.append(vertex)
        rims.append(torch.tensor(rim))
    return rims


def _filled(count: int, faces: Tensor, openings: list[Tensor]) -> Tensor:
    """Triangles with rings and a middle in each opening, numbered on from `count` as `_closed` appends them."""
    parts = [faces]
    for rim in openings:
        size = len(rim)
        rings = [rim, *(count + k * size + torch.arange(size) for k in range(len(RINGS)))]
        middle = torch.full((size,), count + len(RINGS) * size)
        for outer, inner in zip(rings, [*rings[1:], None], strict=True):
            # Against the rim's direction, which is that of the triangles around it.
            a, b = outer, outer.roll(-1)
            if inner is None:
                parts.append(torch.stack([b, a, middle], 1))
            else:
                parts += [torch.stack([b, a, inner], 1), torch.stack([b, inner, inner.roll(-1)], 1)]
        count += len(RINGS) * size + 1
    return torch.cat(parts)


def _closed(
    skin: Tensor, openings: tuple[Tensor, ...] | list[Tensor], bulges: tuple[float, ...], mean: Tensor
) -> Tensor:
    """Vertices (B, V, 3) of skin (B, S, 3) followed by those in its openings; an eye that shuts stands out no more."""
    parts = [skin]
    for rim, bulge in zip(openings, bulges, strict=True):
        line = skin[:, rim]
        middle = line.mean(1, keepdim=True)
        opened = (_opening(line) / _opening(mean[None, rim]))[:, None, None].square().clamp_max(1.2)
        forward = torch.tensor([0.0, 0.0, -bulge]) * opened
        parts += [torch.lerp(middle, line, share) + forward * (1 - share**2) for share in RINGS]
        parts.append(middle + forward)
    return torch.cat(parts, 1)


def _opening(line: Tensor) -> Tensor:
    """(B,) the area, mm^2, that closed lines (B, R, 3) span as seen from the front."""
    x, y = line[..., 0], line[..., 1]
    return (x * y.roll(-1, 1) - y * x.roll(-1, 1)).sum(1).abs() / 2


def _twins(skin: MorphableModel) -> Tensor:
    """(S,) each vertex's twin on the other side."""
    points, height = skin.mean, skin.mean[:, 1]
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0])
    twins, distance = torch.zeros(len(points), dtype=torch.int64), torch.zeros(len(points))
    # Twins are equally high: few have to be compared.
    for some in height.argsort().split(512):
        low, high = height[some].aminmax()
        near = ((height > low - MIRRORED) & (height < high + MIRRORED)).nonzero().flatten()
        distance[some], nearest = torch.cdist(mirrored[some], points[near]).min(1)
        twins[some] = near[nearest]
    if float(distance.max()) > MIRRORED or not torch.equal(twins[twins], torch.arange(len(twins))):
        raise UsageError(f"{skin.name}: the two sides of its head are no mirror images; expected a symmetric mean face")
    return twins


def _with_openings(twins: Tensor, openings: list[Tensor]) -> Tensor:
    """Twins (V,) of all vertices, those in the openings too, from those of the skin (S,)."""
    parts, count = [twins], len(twins)
    starts = {}
    for rim in openings:
        for place, vertex in enumerate(rim.tolist()):
            starts[vertex] = (count, len(rim), place)
        count += len(RINGS) * len(rim) + 1
    for rim in openings:
        found = [starts[vertex] for vertex in twins[rim].tolist()]
        start, size, _ = found[0]
        places = torch.tensor([place for _, _, place in found])
        parts += [start + k * size + places for k in range(len(RINGS))]
        parts.append(torch.tensor([start + len(RINGS) * size]))
    return torch.cat(parts)


# ---- the atlas ----


def _atlas(mean: Tensor, faces: Tensor, mirror: Tensor, neck: Tensor) -> Tensor:
    """(V, 2) texture coordinates: the neck's rim becomes a circle, all else lies within it.

    Edges are springs (Tutte 1963): no triangle folds over, whatever their strengths, as long as these are positive.
    Strengths are weakened again and again where triangles came out too small (Yoshizawa et al., SMI 2004).
    """
    points = mean.double()
    angle = torch.atan2(points[neck, 0], -points[neck, 2] + points[neck, 2].mean())
    # The throat comes to the bottom, the nape to the top.
    circle = torch.stack([torch.sin(angle), torch.cos(angle)], -1)
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    numbers = (edges.amin(1) * len(mean) + edges.amax(1)).unique()
    edges = torch.stack([numbers // len(mean), numbers % len(mean)], 1)
    springs = 1 / (points[edges[:, 0]] - points[edges[:, 1]]).norm(dim=1)
    wanted = _areas(points, faces) * _importance(points, faces)
    wanted = wanted / wanted.sum() * math.pi
    uv = torch.zeros(len(points), 2, dtype=torch.float64)
    uv[neck] = circle
    for _ in range(ROUNDS):
        uv = _at_rest(uv, edges, springs, neck)
        uv = (uv + uv[mirror] * torch.tensor([-1.0, 1.0], dtype=torch.float64)) / 2
        too_small = (wanted / _areas(uv, faces).clamp_min(1e-12)).sqrt()
        of_vertex = torch.zeros(len(points), dtype=torch.float64).index_add(
            0, faces.flatten(), too_small.repeat_interleave(3)
        )
        of_vertex = of_vertex / torch.bincount(faces.flatten(), minlength=len(points))
        springs = springs / (of_vertex[edges].mean(1)).clamp(0.2, 5.0)
    return ((uv + 1) / 2).float()


def _importance(points: Tensor, faces: Tensor) -> Tensor:
    """(F,) how densely each triangle is wanted: more where the head faces forward, above the throat."""
    normals = vertex_normals(points, faces)[:, 2]
    front = ((-points[:, 2] - 20) / 60).clamp(0, 1) * (normals < 0.5)
    return 1 + (FACE_SHARE - 1) * front[faces].mean(1)


def _areas(points: Tensor, faces: Tensor) -> Tensor:
    """(F,) of triangles in space (V, 3) or in the plane (V, 2)."""
    a, b, c = points[faces].unbind(1)
    if points.shape[1] == 2:
        u, v = b - a, c - a
        return (u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).abs() / 2
    return torch.linalg.cross(b - a, c - a).norm(dim=1) / 2


def _at_rest(places: Tensor, edges: Tensor, springs: Tensor, held: Tensor) -> Tensor:
    """Places (V, 2) where springs (E,) along edges (E, 2) are in balance, those `held` unmoved.

    Successive over-relaxation (Young 1954), started from `places`.
    """
    from .relaxation import relax

    rows, columns = torch.cat([edges, edges.flip(1)]).T
    order = rows.argsort(stable=True)
    first = torch.searchsorted(rows[order], torch.arange(len(places) + 1))
    free = torch.ones(len(places), dtype=torch.bool)
    free[held] = False
    moved = places.clone()
    spring = springs.repeat(2)[order]
    relax(moved.numpy(), first.numpy(), columns[order].numpy(), spring.numpy(), free.numpy(), SWEEPS, OVER)
    return moved
