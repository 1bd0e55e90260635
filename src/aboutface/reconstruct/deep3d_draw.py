"""Coefficients to a picture, differentiable: shape, pose, spherical-harmonic light and outline.

The published renderers (Deng et al., CVPR workshops 2019) give no gradient to outlines; ours blends the pixels there by
how far the face covers them, so that a shape also learns where it ends.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ..geometry import clip, clip_from_camera, face_normals, project
from ..geometry.mesh import unit
from ..render import antialias, interpolate, rasterize, shade_sh
from .deep3d import Coefficients, ExpressionKind, Layout
from .deep3d_frame import MILLIMETRES_PER_UNIT, SIZE, camera, light_from_gamma, rotation_from_deep3d, shift_from_deep3d

NEAR, FAR = 0.4, 2.0
"""Planes of the drawing, units: close to the face, so that depth keeps its digits."""
PLAIN = (0.74, 0.58, 0.49)
"""Albedo of a model that has none."""


class Morphable(Protocol):
    """What is needed of a morphable model: millimetres, x right, y down, z forward, looking along -z.

    Members mean what they do in `morphable.MorphableModel`.
    """

    @property
    def mean(self) -> Tensor: ...
    @property
    def identity(self) -> Tensor: ...
    @property
    def expression(self) -> Tensor: ...
    @property
    def expression_kind(self) -> ExpressionKind: ...
    @property
    def albedo_mean(self) -> Tensor | None: ...
    @property
    def albedo(self) -> Tensor | None: ...
    @property
    def faces(self) -> Tensor: ...
    @property
    def landmarks68(self) -> Tensor | None: ...
    @property
    def landmark_corners(self) -> Tensor | None: ...
    @property
    def landmark_weights(self) -> Tensor | None: ...


@dataclass(frozen=True, eq=False)
class Basis:
    """A morphable model as it is drawn: in our units, about the origin of Deep3D's frame."""

    mean: Tensor
    """(V, 3)."""
    identity: Tensor
    """(I, V, 3): offset per standard deviation."""
    expression: Tensor
    """(E, V, 3): offset per standard deviation, or of a weight of 1."""
    albedo_mean: Tensor
    """(V, 3) RGB, 1 is white."""
    albedo: Tensor
    """(A, V, 3); A may be 0."""
    faces: Tensor
    """(F, 3) int64, clockwise as seen from outside."""
    landmark_corners: Tensor
    """(68, K) int64: the vertices between which a landmark lies; K = 1 where each is a vertex."""
    landmark_weights: Tensor
    """(68, K), of sum 1."""

    @classmethod
    def of(cls, model: Morphable, layout: Layout, centre: Tensor | None = None) -> "Basis":
        """The first modes of a model, as many as the layout has.

        centre (3,) millimetres: the point of the model that goes into the origin of Deep3D's frame: ICT_CENTRE for
        ICT's, (0, 0, 0), the default, for the BFM as Deep3D crops it. Raises UsageError for a model that has fewer
        modes, no landmarks, or expressions of the other kind.
        """
        mean = model.mean
        if model.expression_kind != layout.expression_kind:
            raise UsageError(f"basis: the model's expressions are {model.expression_kind}, not as in {layout}")
        corners, weights = _landmarks(model)
        centre = torch.zeros(3) if centre is None else centre
        none = mean.new_zeros(0, *mean.shape)
        return cls(
            (mean - centre.to(mean)) / MILLIMETRES_PER_UNIT,
            _first("identity", model.identity, layout.identity) / MILLIMETRES_PER_UNIT,
            _first("expression", model.expression, layout.expression) / MILLIMETRES_PER_UNIT,
            mean.new_tensor(PLAIN).repeat(len(mean), 1) if model.albedo_mean is None else model.albedo_mean,
            _first("albedo", none if model.albedo is None else model.albedo, layout.albedo),
            model.faces,
            corners,
            weights.to(mean),
        )

    def shapes(self, coefficients: Coefficients) -> Tensor:
        """Faces at rest (B, V, 3), units, about the origin."""
        identity = _combined("identity", coefficients.id, self.identity)
        return self.mean + identity + _combined("expression", coefficients.exp, self.expression)

    def colours(self, coefficients: Coefficients) -> Tensor:
        """Albedo (B, V, 3), not clipped."""
        return self.albedo_mean + _combined("albedo", coefficients.tex, self.albedo)


def _landmarks(model: Morphable) -> tuple[Tensor, Tensor]:
    if model.landmark_corners is not None and model.landmark_weights is not None:
        return model.landmark_corners, model.landmark_weights
    if model.landmarks68 is None:
        raise UsageError("basis: the model does not know all 68 landmarks; add it again with a landmarks68.json")
    return model.landmarks68[:, None], torch.ones(68, 1)


def _first(name: str, modes: Tensor, count: int) -> Tensor:
    if len(modes) < count:
        raise UsageError(f"basis: expected {count} modes of {name}, the model has {len(modes)}; take another layout")
    return modes[:count]


def _combined(name: str, weights: Tensor, basis: Tensor) -> Tensor:
    if weights.ndim != 2 or weights.shape[1] != len(basis):
        raise UsageError(f"{name}: this model takes coefficients (B, {len(basis)}), got {tuple(weights.shape)}")
    return (weights @ basis.flatten(1)).unflatten(1, basis.shape[1:])


class Drawn(NamedTuple):
    """B faces, drawn."""

    image: Tensor
    """(B, 3, S, S) on black, premultiplied by alpha; not clipped."""
    alpha: Tensor
    """(B, 1, S, S), 0 to 1: how much of a pixel the face covers."""
    mask: Tensor
    """(B, 1, S, S), 0 to 1: the same of the part of the face that `vertex_mask` marks, without a gradient."""
    landmarks: Tensor
    """(B, 68, 2) pixels of the crop. Each is a fixed point of the face: the jaw's do not slide along the outline."""
    vertices: Tensor
    """(B, V, 3) camera space."""
    albedo: Tensor
    """(B, V, 3)."""
    colours: Tensor
    """(B, V, 3): lit, not clipped."""

    def over(self, photo: Tensor) -> Tensor:
        """The faces before a photo (B, 3, S, S): what a photo is compared with."""
        return self.image + (1 - self.alpha) * photo


def posed(basis: Basis, coefficients: Coefficients) -> Tensor:
    """Vertices (B, V, 3) in camera space: the shape, turned about the origin, shifted, a unit before the camera."""
    rotation, shift = rotation_from_deep3d(coefficients.angle), shift_from_deep3d(coefficients.trans)
    ahead = shift.new_tensor([0.0, 0.0, 1.0])
    return basis.shapes(coefficients) @ rotation.mT + (shift + ahead)[:, None]


def landmarks(basis: Basis, vertices: Tensor, size: int = SIZE) -> Tensor:
    """The 68 landmarks (B, 68, 2), pixels of a crop, of posed vertices (B, V, 3)."""
    points = (vertices[:, basis.landmark_corners] * basis.landmark_weights.to(vertices)[..., None]).sum(2)
    return project(points, camera(size).K.to(vertices))


def equal_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals (B, V, 3) as the published code has them: each triangle at a vertex counts alike, whatever its area.

    vertices (B, V, 3), faces (F, 3); zero where no triangle of positive area meets.
    """
    batch, count = vertices.shape[:2]
    # One row per triangle for all items, so that they are added up at once.
    each = unit(face_normals(vertices, faces)).movedim(1, 0).flatten(1)
    total = each.new_zeros(count, 3 * batch)
    for corner in faces.unbind(1):
        total = total.index_add(0, corner, each)
    return unit(total.view(count, batch, 3).movedim(0, 1))


def lit(basis: Basis, vertices: Tensor, albedo: Tensor, gamma: Tensor) -> Tensor:
    """Colours (B, V, 3) of vertices in camera space under gamma (B, 9 * C), not clipped."""
    light = light_from_gamma(gamma).coefficients[:, None]
    return shade_sh(equal_normals(vertices, basis.faces), albedo, light)


def draw(
    basis: Basis,
    coefficients: Coefficients,
    size: int = SIZE,
    *,
    supersample: int = 1,
    vertex_mask: Tensor | None = None,
    backend: str = "auto",
) -> Drawn:
    """Draw B faces through Deep3D's camera into crops of `size` pixels.

    Args:
        supersample: draw at so many times the size, and average.
        vertex_mask: (V,), 0 to 1: what counts in a photometric loss; everything if missing.
        backend: see `render.rasterize`.

    Differentiable in all coefficients and the basis, through colours and, by `antialias`, through outlines.
    Raises UsageError for coefficients that do not fit the basis.
    """
    if supersample < 1:
        raise UsageError(f"draw: supersample must be 1 or more, got {supersample}")
    vertices, albedo = posed(basis, coefficients), basis.colours(coefficients)
    colours = lit(basis, vertices, albedo, coefficients.gamma)
    fine = size * supersample
    corners = clip(vertices, clip_from_camera(camera(fine).K.to(vertices), (fine, fine), NEAR, FAR))
    fragments = rasterize(corners, basis.faces, (fine, fine), backend=backend)
    values = colours if vertex_mask is None else torch.cat([colours, _column(vertex_mask, colours)], -1)
    layers = interpolate(values, fragments, basis.faces, backend=backend).movedim(-1, 1)
    covered = (fragments.triangle_id >= 0).to(layers)[:, None]
    layers = torch.cat([layers, covered], 1) * covered
    layers = antialias(layers, fragments, corners, basis.faces, backend=backend)
    if supersample > 1:
        layers = functional.avg_pool2d(layers, supersample)
    alpha = layers[:, -1:]
    mask = (alpha if vertex_mask is None else layers[:, 3:4]).detach()
    return Drawn(layers[:, :3], alpha, mask, landmarks(basis, vertices, size), vertices, albedo, colours)


def _column(mask: Tensor, like: Tensor) -> Tensor:
    if mask.shape != like.shape[1:2]:
        raise UsageError(f"draw: expected a vertex_mask ({like.shape[1]},), got {tuple(mask.shape)}")
    return mask.to(like)[None, :, None].expand(len(like), -1, -1)
