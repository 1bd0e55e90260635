"""A fit to landmarks, refined by drawing the face and comparing it with the photo: analysis by synthesis.

Blanz and Vetter, SIGGRAPH 1999, section 4, by gradients through the renderer, outlines included. What the landmarks
and the prior say stays in the loss: half the squared distance from their solution, in the standard deviations that
they leave (their curvature at the solution, after Gauss and Newton). Light (27 spherical harmonics) and albedo follow
in closed form every few steps: the model's albedo modes where it has some, else one colour and smooth spots about the
landmarks, alike on both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.crop import cut
from ..errors import UsageError
from ..geometry import MIRROR_68, clip, clip_from_camera, vertex_normals
from ..geometry.mesh import unit
from ..images import to_tensor
from ..morphable import MorphableModel
from ..render import antialias, interpolate, rasterize, sh_basis
from ..skin import skin_attention
from .morphable_fit import POSE, Fit, Placement, known_landmarks, turned_by

PLAIN = (0.74, 0.58, 0.49)
"""Albedo to start from where the model has none."""
SPOT = 14.0
"""Millimetres: width of a spot of albedo about a landmark."""
SPOT_SPREAD = 0.15
"""Standard deviation of a spot's colour."""
LIGHT_SPREAD = (2.0, 0.8, 0.8, 0.8, 0.3, 0.3, 0.3, 0.3, 0.3)
"""Standard deviations of the light's nine numbers about even light of 1."""
EVEN = 3.5449077
"""The first number of even light of 1: one over the first harmonic."""
COLOUR_NOISE = 0.06
"""Standard deviation of a pixel's colour, white being 1."""
ROUNDS = 2
"""Of light and albedo in turn."""
MEMORY = (0.8, 0.95)
"""Adam's two decay rates, for few steps."""


@dataclass(frozen=True)
class RefineSettings:
    """How much is done."""

    sizes: tuple[int, ...] = (64, 128)
    """Sides of the crops, pixels, from coarse to fine."""
    steps: tuple[int, ...] = (40, 20)
    """Gradient steps at each."""
    learning_rate: float = 0.3
    """Of Adam, in standard deviations of what the landmarks leave."""
    pixels: float = 150.0
    """How many independent pixels a photo is worth."""
    margin: float = 0.2
    """Of the landmarks' box, on each side of it in the crops."""
    refresh: int = 10
    """Steps between two looks at light and albedo."""

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.steps) or not self.sizes or min(self.sizes) < 8 or min(self.steps) < 1:
            raise UsageError(f"refine: expected as many sizes (8 or more) as steps (1 or more), got {self}")


@dataclass(frozen=True, eq=False)
class Refined:
    """A fit, and the colours that came with it."""

    fit: Fit
    light: Tensor
    """(N, 9, 3) spherical harmonics of the light that arrives, camera space, see `scene.SphericalHarmonics`."""
    albedo: Tensor
    """(V, 3) of the model's vertices, not clipped."""
    numbers: Tensor
    """(A,) of the modes of `Albedo.of` the model."""
    losses: tuple[float, float]
    """Before and after, at the finest size: photo and landmarks together."""


class Albedo(NamedTuple):
    """Colours of B modes: mean + sum of numbers times modes."""

    mean: Tensor
    """(V, 3)."""
    modes: Tensor
    """(A, V, 3) per standard deviation."""

    def of_numbers(self, numbers: Tensor) -> Tensor:
        """(V, 3), not clipped, of numbers (A,)."""
        return self.mean + torch.tensordot(numbers, self.modes, 1)

    @classmethod
    def of(cls, model: MorphableModel) -> "Albedo":
        """The model's own, else spots about its landmarks."""
        if model.albedo_mean is not None and model.albedo is not None and len(model.albedo):
            return cls(model.albedo_mean, model.albedo)
        mean = model.mean.new_tensor(PLAIN).expand(len(model.mean), 3)
        numbers, corners, weights = known_landmarks(model)
        places = (model.mean[corners] * weights.to(model.mean)[..., None]).sum(1)
        spots = torch.exp(-torch.cdist(model.mean, places).square() / (2 * SPOT**2)).mT
        # A pair of landmarks has one colour, and so has the whole face.
        partner = torch.from_numpy(MIRROR_68)
        first = torch.minimum(numbers, partner[numbers])
        pairs = torch.stack([spots[first == i].sum(0) for i in first.unique()])
        shapes = torch.cat([torch.ones_like(pairs[:1]), pairs]) * SPOT_SPREAD
        colours = torch.eye(3)
        return cls(mean, (shapes[:, None, :, None] * colours[:, None]).flatten(0, 1))


def refine(
    model: MorphableModel,
    fit: Fit,
    photos: Sequence[np.ndarray],
    landmarks: Tensor,
    settings: RefineSettings | None = None,
) -> Refined:
    """A better fit, or the same one where none is found.

    Args:
        model: what was fitted or a part of it; what is drawn.
        fit: of N photos; photos: their pixels (H, W, 3) uint8; landmarks: (N, 68, 2) pixels, which say where to cut.

    The same result for the same input, on the CPU. Raises UsageError for numbers of photos that differ.
    """
    settings = settings or RefineSettings()
    if len(photos) != len(fit.expression) or landmarks.shape != (len(photos), 68, 2):
        raise UsageError(
            f"refine: the fit is of {len(fit.expression)} photos, got {len(photos)} and landmarks "
            f"{tuple(landmarks.shape)}"
        )
    albedo = Albedo.of(model)
    free = torch.zeros(len(fit.covariance_root))
    found, first = free, 0.0
    for size, steps in zip(settings.sizes, settings.steps, strict=True):
        view = _View.of(model, fit, photos, landmarks, size, settings, albedo)
        first, _ = view.best(torch.zeros_like(free), 0)
        _, found = view.best(found, steps)
    view = _View.of(model, fit, photos, landmarks, settings.sizes[-1], settings, albedo)
    last = view.loss_at(found)
    if not last < first:
        found, last = free, first
    result = _moved(model, fit, found.double())
    light, numbers = view.colours(found)
    return Refined(result, light, albedo.of_numbers(numbers), numbers, (first, last))


def light_and_albedo(
    model: MorphableModel,
    placed: Placement,
    photos: Sequence[np.ndarray],
    landmarks: Tensor,
    albedo: Albedo | None = None,
    settings: RefineSettings | None = None,
) -> tuple[Tensor, Tensor]:
    """Light (N, 9, 3), as in `Refined`, and albedo (A,), in standard deviations of its modes, that explain photos best
    of a face that stays as it is.

    Args as of `refine`; albedo: `Albedo.of` the model if missing. They are found at the coarsest size.
    """
    settings = settings or RefineSettings()
    albedo = albedo or Albedo.of(model)
    count = len(placed.identity) + placed.expression.numel() + POSE * len(photos)
    # No direction is left in which it could move.
    p, none = placed, torch.zeros(count, 0)
    still = Fit(p.identity, p.expression, p.rotation, p.translation, p.K, p.points, p.trust, 0.0, none)
    view = _View.of(model, still, photos, landmarks, settings.sizes[0], settings, albedo)
    return view.colours(torch.zeros(0))


def _moved(model: MorphableModel, fit: Fit, free: Tensor) -> Fit:
    """The fit, so many of its standard deviations away; its landmarks go where the model's go."""
    identity, expression, rotation, translation = _placed(fit, free, model.expression_kind == "weights")
    moved = replace(fit, identity=identity, expression=expression, rotation=rotation, translation=translation)
    numbers, before = _landmarks(model, fit)
    _, after = _landmarks(model, moved)
    return replace(moved, points=fit.points.index_add(1, numbers, after - before))


def _landmarks(model: MorphableModel, fit: Fit) -> tuple[Tensor, Tensor]:
    """iBUG numbers (L,) and points (N, L, 3) of the model's own landmarks, camera space."""
    numbers, corners, weights = known_landmarks(model)
    return numbers, (fit.vertices(model).double()[:, corners] * weights[..., None]).sum(2)


def _placed(fit: Fit, free: Tensor, bounded: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Identity (I,), expression (N, E), rotation (N, 3, 3), translation (N, 3) in the dtype of `free` (P,)."""
    step = fit.covariance_root.to(free) @ free
    identities = len(fit.identity)
    each = step[identities:].view(len(fit.expression), -1)
    expression = fit.expression.to(free) + each[:, POSE:]
    return (
        fit.identity.to(free) + step[:identities],
        expression.clamp(0, 1) if bounded else expression,
        turned_by(each[:, :3]) @ fit.rotation.to(free),
        fit.translation.to(free) + each[:, 3:POSE],
    )


@dataclass(frozen=True, eq=False)
class _View:
    """The photos at one size, and the face drawn into them."""

    model: MorphableModel
    fit: Fit
    albedo: Albedo
    settings: RefineSettings
    images: Tensor
    """(N, 3, S, S)."""
    skin: Tensor
    """(N, S, S): how far each pixel counts where the face is drawn."""
    K: Tensor
    """(N, 3, 3) of the crops."""

    @classmethod
    def of(
        cls,
        model: MorphableModel,
        fit: Fit,
        photos: Sequence[np.ndarray],
        landmarks: Tensor,
        size: int,
        settings: RefineSettings,
        albedo: Albedo,
    ) -> "_View":
        images, cameras = [], []
        for pixels, marks, K in zip(photos, landmarks.double(), fit.K, strict=True):
            low, high = marks.amin(0), marks.amax(0)
            side = float((high - low).max()) * (1 + 2 * settings.margin)
            left, top = ((low + high) / 2 - side / 2).tolist()
            photo_from_crop = np.array([[side / size, 0, left], [0, side / size, top], [0, 0, 1.0]])
            images.append(to_tensor(cut(pixels, photo_from_crop, size))[0])
            cameras.append(torch.from_numpy(np.linalg.inv(photo_from_crop)) @ K)
        stack = torch.stack(images)
        return cls(model, fit, albedo, settings, stack, skin_attention(stack)[:, 0], torch.stack(cameras).float())

    def best(self, start: Tensor, steps: int) -> tuple[float, Tensor]:
        """The least loss on the way from `start` (P,), and where it is."""
        free = start.clone().requires_grad_()
        mean, square = torch.zeros_like(start), torch.zeros_like(start)
        least, place, colours = float("inf"), start, self.colours(start)
        for step in range(steps):
            if step % self.settings.refresh == 0:
                colours = self.colours(free.detach())
            loss = self._loss(free, colours)
            if loss.detach() < least:
                least, place = float(loss.detach()), free.detach().clone()
            (gradient,) = torch.autograd.grad(loss, free)
            # Adam (Kingma and Ba 2015) written out: the first use of torch.optim takes three seconds.
            mean, square = mean.lerp(gradient, 1 - MEMORY[0]), square.lerp(gradient.square(), 1 - MEMORY[1])
            slope = mean / (1 - MEMORY[0] ** (step + 1))
            size = (square / (1 - MEMORY[1] ** (step + 1))).sqrt() + 1e-8
            free = (free.detach() - self.settings.learning_rate * slope / size).requires_grad_()
        end = self.loss_at(free.detach())
        return (end, free.detach()) if end < least else (least, place)

    @torch.no_grad()
    def loss_at(self, free: Tensor) -> float:
        """With the light and albedo that suit it best."""
        return float(self._loss(free, self.colours(free)))

    def _loss(self, free: Tensor, colours: tuple[Tensor, Tensor]) -> Tensor:
        """Half of all squares: of the colours, robust, and of the landmarks and the prior."""
        light, numbers = colours
        vertices = self._vertices(free)
        shading = torch.einsum("nvk,nkc->nvc", sh_basis(vertex_normals(vertices, self.model.faces)), light)
        albedo = self.albedo.of_numbers(numbers)
        drawn, alpha = self._drawn(vertices, albedo * shading)
        picture = drawn + (1 - alpha) * self.images
        square = (picture - self.images).square().mean(1) / COLOUR_NOISE**2
        weight = self.skin * alpha[:, 0].detach()
        photo = (weight * square / (1 + square / 9)).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1)
        return (self.settings.pixels * photo.sum() + free.square().sum()) / 2

    def _vertices(self, free: Tensor) -> Tensor:
        """(N, V, 3) camera space, millimetres."""
        identity, expression, rotation, translation = _placed(self.fit, free, self.model.expression_kind == "weights")
        rest = self.model.vertices(identity.expand(len(expression), -1), expression)
        return rest @ rotation.mT + translation[:, None]

    def _drawn(self, vertices: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values (N, V, C) as pictures (N, C, S, S) on black, and how far they cover each pixel (N, 1, S, S)."""
        size = self.images.shape[-1]
        nearest, farthest = float(vertices[..., 2].detach().min()), float(vertices[..., 2].detach().max())
        lens = clip_from_camera(self.K, (size, size), max(0.5 * nearest, 1e-3), 2 * farthest)
        corners = clip(vertices, lens)
        fragments = rasterize(corners, self.model.faces, (size, size))
        layers = interpolate(values, fragments, self.model.faces).movedim(-1, 1)
        covered = (fragments.triangle_id >= 0).to(layers)[:, None]
        layers = torch.cat([layers * covered, covered], 1)
        layers = antialias(layers, fragments, corners, self.model.faces)
        return layers[:, :-1], layers[:, -1:]

    @torch.no_grad()
    def colours(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """Light (N, 9, 3) and albedo (A,) that explain the photos best: each in turn, by robust least squares."""
        vertices = self._vertices(free)
        normals = vertex_normals(vertices, self.model.faces)
        count, size = len(vertices), self.images.shape[-1]
        modes = self.albedo.modes.permute(1, 0, 2).flatten(1)
        values = torch.cat([normals, *(x.expand(count, -1, -1) for x in (self.albedo.mean, modes))], -1)
        drawn, alpha = self._drawn(vertices, values)
        every = max(1, size // 64)
        # As many pixels as there are at the coarsest size: light and albedo are smooth.
        thin = (slice(None), slice(None), slice(None, None, every), slice(None, None, every))
        inside = (alpha[thin][:, 0] > 0.99) & (self.skin[thin[1:]] > 0.1)
        maps = drawn[thin].movedim(1, -1)[inside]
        photo, weight = self.images[thin].movedim(1, -1)[inside], self.skin[thin[1:]][inside]
        item = inside.nonzero()[:, 0]
        basis = sh_basis(unit(maps[:, :3]))
        mean, own = maps[:, 3:6], maps[:, 6:].unflatten(1, (-1, 3))
        numbers = maps.new_zeros(own.shape[1])
        light = maps.new_zeros(count, 9, 3)
        light[:, 0] = EVEN
        for _ in range(ROUNDS):
            light = _light(basis, mean + torch.einsum("pac,a->pc", own, numbers), photo, weight, item, count)
            shading = torch.einsum("pk,pkc->pc", basis, light[item])
            numbers = _numbers(own, mean, shading, photo, weight, self.settings.pixels)
        light = _light(basis, mean + torch.einsum("pac,a->pc", own, numbers), photo, weight, item, count)
        return light, numbers


def _light(basis: Tensor, albedo: Tensor, photo: Tensor, weight: Tensor, item: Tensor, count: int) -> Tensor:
    """(N, 9, 3) of P pixels: basis (P, 9), albedo and photo (P, 3), weight and photo number (P,)."""
    spread = basis.new_tensor(LIGHT_SPREAD)
    light = basis.new_zeros(count, 9, 3)
    for i in range(count):
        mine = item == i
        for channel in range(3):
            rows = basis[mine] * albedo[mine, channel, None]
            start = rows[:, 0] * EVEN
            light[i, :, channel] = _ridge(rows * spread, photo[mine, channel] - start, weight[mine]) * spread
            light[i, 0, channel] += EVEN
    return light


def _numbers(own: Tensor, mean: Tensor, shading: Tensor, photo: Tensor, weight: Tensor, pixels: float) -> Tensor:
    """(A,) albedo: modes own (P, A, 3), mean, shading and photo (P, 3), weight (P,)."""
    rows = (own * shading[:, None]).movedim(1, -1).flatten(0, 1)
    rest = (photo - mean * shading).flatten()
    return _ridge(rows, rest, weight.repeat_interleave(3), pixels)


def _ridge(rows: Tensor, target: Tensor, weight: Tensor, worth: float = 150.0) -> Tensor:
    """Numbers (K,) of N(0, 1) that make rows (P, K) the target (P,), twice: the second time without outliers."""
    found = rows.new_zeros(rows.shape[1])
    eye = torch.eye(rows.shape[1], dtype=rows.dtype)
    for turn in range(2):
        square = (rows @ found - target).square() / COLOUR_NOISE**2
        trust = weight / (1 + square / 9).square() if turn else weight
        # Neighbouring pixels err alike: all together they are worth so many.
        trust = trust * worth / weight.sum().clamp_min(1) / COLOUR_NOISE**2
        found = torch.linalg.solve((rows * trust[:, None]).mT @ rows + eye, (rows * trust[:, None]).mT @ target)
    return found
