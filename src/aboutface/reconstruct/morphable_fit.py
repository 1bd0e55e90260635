"""Any morphable model fitted to the landmarks of one photo, or of several of one person; no network.

Maximum a posteriori (Blanz and Vetter, SIGGRAPH 1999, section 4, of landmarks alone): landmarks are seen through a
pinhole camera with an error of so many millimetres, coefficients are drawn from N(0, 1). Scaled orthography gives the
pose to start from, Levenberg and Marquardt's steps do the rest, in double precision.

The jaw of a turned face: annotators and detectors mark its outline there, not a place on it. `Outline` gives the
model's own outline, and a landmark of the side turned away counts by its distance from that curve.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ..geometry import MIRROR_68, orthographic_pose, project, vertex_normals
from ..morphable import POSE_WEIGHTS, MorphableModel

EXPRESSION_SPREAD = 0.25
"""What counts as a standard deviation of a blendshape's weight, which lies in 0...1."""
OUTLINE_FROM = 8.0
"""Degrees of yaw from which the jaw of the side turned away is matched to the outline."""
AVERTED = 0.25
"""Sine of the angle beyond a profile, 15 degrees, from which a face looks away for certain."""
SWAPPED = (
    "landmarks: left and right are swapped in photo {} of {}; expected the iBUG order, where point 36 is the corner "
    "of the eye on the image's left (geometry.MIRROR_68 exchanges them)"
)
"""What is said of such landmarks, of one photo of so many."""
FEWEST = 6
"""Landmarks that a fit needs."""
CENTRE = 33
"""iBUG number about which the slices of the outline lie: under the nose."""
SLICES = 13
"""Of each side, from the jaw's end to the chin."""
PER_SLICE = 10
"""Points of a slice."""
INNERMOST = 0.45
"""Where a slice begins, in distances of the jaw from that centre, seen from the front; it ends at the jaw."""
FACING = 0.2
"""Largest z of the normals of a slice's points: what looks backwards is no outline of the face."""
FAR = 1000.0
"""Millimetres that set back what does not belong into a slice."""
BEHIND = 10.0
"""Millimetres behind the jaw where a slice ends."""
LEAST_DAMPING, MOST_DAMPING = 1e-9, 1e9
"""How far steps are damped, from Gauss and Newton's to the gradient's."""
SMALLEST_STEP = 1e-3
"""Standard deviations below which a step is the last."""
POSE = 6
"""Numbers of a pose: a turn about x, y and z, radians, and a shift, millimetres."""


@dataclass(frozen=True)
class LandmarkSettings:
    """How landmarks are trusted."""

    noise: float = 2.0
    """Standard deviation of a landmark's place, millimetres on the face."""
    outlier: float = 8.0
    """Millimetres: errors beyond it pull less and less (Geman and McClure 1987)."""
    outline: bool = True
    """Whether the jaw's landmarks of the side turned away lie on the outline, as annotators set them."""
    iterations: int = 60
    """Most steps."""

    def __post_init__(self) -> None:
        if not (self.noise > 0 and self.outlier > 0 and self.iterations >= 1):
            raise UsageError(f"fit: expected noise and outlier above 0 and at least 1 iteration, got {self}")


@dataclass(frozen=True, eq=False)
class Placement:
    """One person in N photos: a face in the model's millimetres, and where each camera sees it."""

    identity: Tensor
    """(I,)."""
    expression: Tensor
    """(N, E): standard deviations, or weights in 0...1."""
    rotation: Tensor
    """(N, 3, 3) of the head."""
    translation: Tensor
    """(N, 3) millimetres: camera space is rotation @ vertex + translation."""
    K: Tensor
    """(N, 3, 3) intrinsics in pixels."""
    points: Tensor
    """(N, 68, 3) millimetres, camera space: the model's landmarks; those matched to the outline lie there; NaN where
    the model does not know one."""
    trust: Tensor
    """(N, 68) 0 to 1: how far each landmark is believed; 0 for outliers and those that are not known."""

    def vertices(self, model: MorphableModel) -> Tensor:
        """(N, V, 3) of the model that was fitted or a part of it, millimetres, camera space, float32."""
        count = len(self.expression)
        rest = model.vertices(self.identity.float().expand(count, -1), self.expression.float())
        return rest @ self.rotation.float().mT + self.translation.float()[:, None]

    def of(self, photo: int) -> "Placement":
        """One of the photos, alone."""
        each = (self.expression, self.rotation, self.translation, self.K, self.points, self.trust)
        return Placement(self.identity, *(values[photo : photo + 1] for values in each))


@dataclass(frozen=True, eq=False)
class Fit(Placement):
    """What landmarks say, in float64, and how sure that is."""

    loss: float
    """Half the sum of squared, robust errors in standard deviations, and of the prior's squares."""
    covariance_root: Tensor
    """(P, P): times independent unit normal numbers it gives the uncertainty that landmarks and prior leave in
    (identity, then for each photo turn, shift, expression), by the curvature at the solution."""


class LandmarkFitter:
    """Fits one model. Keeps only the vertices that it looks at; may be shared by threads.

    Args:
        model: one that knows all 68 landmarks, or at least six of them that do not lie on the jaw.
        identities, expressions: how many modes to fit; all if missing.

    Raises UsageError for a model with fewer landmarks.
    """

    def __init__(self, model: MorphableModel, identities: int | None = None, expressions: int | None = None) -> None:
        self.name = model.name
        self.identities = len(model.identity[:identities])
        self.expressions = len(model.expression[:expressions])
        numbers, corners, weights = known_landmarks(model)
        steady = numbers[POSE_WEIGHTS[numbers] == 1]
        if len(steady) < FEWEST:
            raise UsageError(
                f"{model.name}: {len(numbers)} landmarks of the model are known, {len(steady)} of them off the jaw; "
                f"at least {FEWEST} are needed: add it again with a landmarks68.json"
            )
        self.numbers = numbers
        self.outline = Outline.of(model) if len(numbers) == 68 else None
        rows = torch.empty(0, dtype=torch.int64) if self.outline is None else self.outline.vertices
        modes = torch.cat([model.identity[:identities], model.expression[:expressions]])

        def looked_at(values: Tensor) -> Tensor:
            marks = (values[..., corners, :].double() * weights[..., None]).sum(-2)
            return torch.cat([marks, values[..., rows, :].double()], -2).flatten(-2).contiguous()

        self.mean = looked_at(model.mean)
        """(3 (L + C),): the landmarks, then the candidates of the outline."""
        self.modes = looked_at(modes)
        """(I + E, 3 (L + C))."""
        spread = torch.ones(len(modes), dtype=torch.float64)
        self.bounded = model.expression_kind == "weights"
        if self.bounded:
            spread[self.identities :] = EXPRESSION_SPREAD
        self.spread = spread

    @torch.no_grad()
    def __call__(
        self,
        landmarks: Tensor | Sequence[Tensor],
        K: Tensor,
        settings: LandmarkSettings | None = None,
        weights: Tensor | None = None,
    ) -> Fit:
        """Fit one face, or several photos of one person, who then has one identity.

        Args:
            landmarks: (68, 2) pixels, iBUG order, or (N, 68, 2), or N of the former.
            K: (3, 3) intrinsics in pixels, or (N, 3, 3).
            weights: (68,) or (N, 68), 0 or more: how much each landmark counts; all 1 if missing.

        Raises UsageError for other shapes, numbers that are not finite, and landmarks whose left and right are swapped.
        """
        settings = settings or LandmarkSettings()
        pixels, K, weights = _checked(landmarks, K, weights)
        problem = _Problem(self, pixels[:, self.numbers], K, weights[:, self.numbers], settings)
        return problem.solve(self._start(pixels, K, weights))

    def _start(self, pixels: Tensor, K: Tensor, weights: Tensor) -> "_State":
        """The mean face in the pose of scaled orthography."""
        mean = self.mean.view(-1, 3)[: len(self.numbers)]
        trust = POSE_WEIGHTS[self.numbers].double() * weights[:, self.numbers].clamp_min(1e-6)
        seen = pixels[:, self.numbers]
        rotation, scale, shift = orthographic_pose(mean, seen, trust)
        for i in range(len(pixels)):
            if not float(scale[i]) > 1e-9:
                raise UsageError("landmarks: they lie in one place; give those of a face")
            mirrored = pixels[i, torch.from_numpy(MIRROR_68)[self.numbers]]
            if are_swapped(rotation[i], mean, mirrored, trust[i]):
                raise UsageError(SWAPPED.format(i + 1, len(pixels)))
        focal = K[:, [0, 1], [0, 1]].mean(1)
        depth = focal / scale
        at_centre = torch.linalg.solve(K, torch.cat([shift, torch.ones_like(shift[:, :1])], 1)[..., None])[..., 0]
        count = len(pixels)
        return _State(
            torch.zeros(self.identities, dtype=torch.float64),
            torch.zeros(count, self.expressions, dtype=torch.float64),
            rotation,
            at_centre * depth[:, None],
        )

    def coefficients(self, state: "_State") -> Tensor:
        """(N, I + E)."""
        return torch.cat([state.identity.expand(len(state.expression), -1), state.expression], 1)


def are_swapped(rotation: Tensor, mean: Tensor, mirrored: Tensor, trust: Tensor) -> bool:
    """Whether left and right are exchanged in landmarks: a model's points (L, 3) fit them in this pose (3, 3).

    Then they look like a face from behind, and pixels (L, 2) under the mirrored numbers do not; a profile may be a
    little beyond 90 degrees. trust: (L,) of `orthographic_pose`.
    """
    return float(rotation[2, 2]) < -AVERTED and float(orthographic_pose(mean, mirrored, trust)[0][2, 2]) > 0


def known_landmarks(model: MorphableModel) -> tuple[Tensor, Tensor, Tensor]:
    """iBUG numbers (L,), vertices (L, K) between which they lie, and their weights (L, K), of any model."""
    if model.landmark_corners is not None and model.landmark_weights is not None:
        return torch.arange(68), model.landmark_corners, model.landmark_weights.double()
    known = model.partial68 if model.landmarks68 is None else dict(enumerate(model.landmarks68.tolist()))
    numbers = torch.tensor(sorted(known), dtype=torch.int64)
    corners = torch.tensor([known[int(i)] for i in numbers], dtype=torch.int64)[:, None]
    return numbers, corners, torch.ones(corners.shape, dtype=torch.float64)


# ---- the outline ----


class Match(NamedTuple):
    """Where on the outline landmarks lie, for K of them."""

    landmark: Tensor
    """(K,) iBUG numbers."""
    ends: Tensor
    """(K, 2) numbers of the candidates between which the nearest point of the outline lies."""
    share: Tensor
    """(K, 2) of the two."""
    normal: Tensor
    """(K, 2) unit, across the outline, in the image."""


@dataclass(frozen=True, eq=False)
class Outline:
    """Slices of the cheeks, from which the outline of a turned face is taken.

    A slice holds the vertices that lie, seen from the front, in one direction from the base of the nose. In the image
    the one that reaches farthest in that direction is on the outline, and a line through those of all slices is it.
    """

    vertices: Tensor
    """(2 * SLICES * PER_SLICE,) of the model: those of the slices on the left of the image, each from the end of the
    jaw to the chin, then those on the right."""
    directions: Tensor
    """(2, SLICES, 2) unit: where in front view the slices lie."""

    @classmethod
    def of(cls, model: MorphableModel) -> "Outline":
        """Of a model with all 68 landmarks."""
        points = model.mean.double()
        marks = model.landmarks(points)
        allowed = vertex_normals(points, model.faces)[:, 2] < FACING
        if "face" in model.masks:
            allowed &= model.masks["face"]
        flat = points[:, :2] - marks[CENTRE, :2]
        chosen, directions = [], []
        for jaw in (marks[:9], marks[8:17].flip(0)):
            path = _resampled(jaw, SLICES)
            away = path[:, :2] - marks[CENTRE, :2]
            for place, direction in zip(path, away, strict=True):
                usable = allowed & (points[:, 2] < place[2] + BEHIND)
                for share in torch.linspace(INNERMOST, 1.0, PER_SLICE).tolist():
                    apart = (flat - share * direction).square().sum(1)
                    chosen.append(int(torch.where(usable, apart, apart + FAR**2).argmin()))
            directions.append(away / away.norm(dim=1, keepdim=True))
        return cls(torch.tensor(chosen), torch.stack(directions))

    def match(self, rest: Tensor, rotation: Tensor, shift: Tensor, K: Tensor, seen: Tensor) -> Match | None:
        """The outline nearest to the jaw's landmarks (68, 2), pixels, of the side turned away; None near the front.

        rest: (C, 3) the candidates of a face at rest, rotation (3, 3), shift (3,), all millimetres.
        """
        yaw = math.degrees(math.atan2(float(rotation[2, 0]), float(rotation[2, 2])))
        if abs(yaw) < OUTLINE_FROM:
            return None
        side = int(yaw > 0)
        jaw = torch.arange(9, 17) if side else torch.arange(8)
        candidates = torch.arange(len(rest)).view(2, SLICES, PER_SLICE)[side]
        pixels = project(rest[candidates] @ rotation.mT + shift, K)
        reach = (pixels * (self.directions[side] @ rotation[:2, :2].mT)[:, None]).sum(-1)
        best = reach.argmax(1, keepdim=True)
        curve = candidates.gather(1, best)[:, 0]
        line = pixels.gather(1, best[..., None].expand(-1, -1, 2))[:, 0]
        start, along = line[:-1], line[1:] - line[:-1]
        square = along.square().sum(-1).clamp_min(1e-12)
        t = (((seen[jaw, None] - start) * along).sum(-1) / square).clamp(0, 1)
        nearest = (start + t[..., None] * along - seen[jaw, None]).square().sum(-1).argmin(1)
        share = t.gather(1, nearest[:, None])[:, 0]
        direction = along[nearest] / square[nearest].sqrt()[:, None]
        normal = torch.stack([-direction[:, 1], direction[:, 0]], -1)
        return Match(
            jaw, torch.stack([curve[nearest], curve[nearest + 1]], -1), torch.stack([1 - share, share], -1), normal
        )


def _resampled(line: Tensor, count: int) -> Tensor:
    """(count, 3) points spread evenly along a line of corners (N, 3)."""
    length = functional.pad((line[1:] - line[:-1]).norm(dim=1).cumsum(0), (1, 0))
    wanted = torch.linspace(0, 1, count, dtype=line.dtype) * length[-1]
    right = torch.searchsorted(length, wanted).clamp(1, len(line) - 1)
    share = (wanted - length[right - 1]) / (length[right] - length[right - 1])
    return torch.lerp(line[right - 1], line[right], share[:, None])


# ---- the steps ----


class _State(NamedTuple):
    """What is fitted, of N photos."""

    identity: Tensor
    """(I,)."""
    expression: Tensor
    """(N, E)."""
    rotation: Tensor
    """(N, 3, 3)."""
    translation: Tensor
    """(N, 3)."""

    def moved(self, step: Tensor) -> "_State":
        """After a step (I + N * (6 + E),); bounds are not looked at."""
        identities = len(self.identity)
        each = step[identities:].view(len(self.expression), -1)
        return _State(
            self.identity + step[:identities],
            self.expression + each[:, POSE:],
            turned_by(each[:, :3]) @ self.rotation,
            self.translation + each[:, 3:POSE],
        )


def turned_by(turn: Tensor) -> Tensor:
    """Rotations (..., 3, 3) about the axes `turn` (..., 3), by their lengths in radians (Rodrigues)."""
    square = turn.square().sum(-1)[..., None, None]
    # So that a turn by nothing has a gradient.
    angle = (square + 1e-24).sqrt()
    cross = _cross_matrix(turn)
    eye = torch.eye(3, dtype=turn.dtype, device=turn.device)
    return eye + torch.sin(angle) / angle * cross + (1 - torch.cos(angle)) / (angle * angle) * (cross @ cross)


def _cross_matrix(vectors: Tensor) -> Tensor:
    """(..., 3, 3) of vectors (..., 3): times another it is their cross product."""
    x, y, z = vectors.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))


class _Target(NamedTuple):
    """What the landmarks of one photo are compared with: L points of the model, of which some may be on the outline."""

    mean: Tensor
    """(3 L,)."""
    modes: Tensor
    """(I + E, 3 L)."""
    match: Match | None


@dataclass(frozen=True, eq=False)
class _Problem:
    fitter: LandmarkFitter
    seen: Tensor
    """(N, L, 2) pixels."""
    K: Tensor
    weights: Tensor
    """(N, L)."""
    settings: LandmarkSettings

    def solve(self, state: _State) -> Fit:
        # Millimetres on the face per pixel: a constant, else a face could flee from its error into the distance.
        scale = state.translation[:, 2] / self.K[:, [0, 1], [0, 1]].mean(1)
        damping = LEAST_DAMPING
        targets = self.targets(state)
        for step in range(self.settings.iterations):
            # Wide at first: a mouth that is open is no outlier.
            outlier = self.settings.outlier * max(1.0, 8 * 0.6**step)
            cost, gradient, curvature = self.system(state, targets, scale, outlier)
            free, size = self._free(state, gradient), 0.0
            while damping < MOST_DAMPING:
                change = _solved(curvature, gradient, free, damping)
                after = self._bounded(state.moved(change))
                if self.cost(after, targets, scale, outlier) <= cost:
                    size = float((change * curvature.diagonal().sqrt()).abs().max())
                    state, damping = after, max(damping / 8, LEAST_DAMPING)
                    break
                damping *= 8
            if size < SMALLEST_STEP and outlier == self.settings.outlier:
                break
            damping = min(damping, 1.0)
            targets = self.targets(state)
        return self._result(state, targets, scale)

    def targets(self, state: _State) -> list[_Target]:
        """For each photo, with the jaw of the side turned away on the outline, as it is now."""
        f, count = self.fitter, 3 * len(self.fitter.numbers)
        still = _Target(f.mean[:count], f.modes[:, :count], None)
        if f.outline is None or not self.settings.outline:
            return [still] * len(self.seen)
        rest = f.mean[count:] + f.coefficients(state) @ f.modes[:, count:]
        found = []
        for i in range(len(self.seen)):
            match = f.outline.match(
                rest[i].view(-1, 3), state.rotation[i], state.translation[i], self.K[i], self.seen[i]
            )
            found.append(still if match is None else _on_outline(still, match, f.mean[count:], f.modes[:, count:]))
        return found

    def _turned(self, state: _State, targets: list[_Target], i: int) -> Tensor:
        """Landmarks (L, 3) of photo i, turned but not shifted."""
        target, identities = targets[i], self.fitter.identities
        rest = target.mean + state.identity @ target.modes[:identities]
        return (rest + state.expression[i] @ target.modes[identities:]).view(-1, 3) @ state.rotation[i].mT

    def _errors(self, i: int, camera: Tensor, match: Match | None, scale: Tensor) -> Tensor:
        """(L, 2) in standard deviations, of landmarks (L, 3) in camera space."""
        error = (project(camera, self.K[i]) - self.seen[i]) * scale[i] / self.settings.noise
        return error if match is None else _across(error, match)

    def cost(self, state: _State, targets: list[_Target], scale: Tensor, outlier: float) -> float:
        """Half of all squares."""
        spread = self.fitter.spread
        identity, expression = spread.split([self.fitter.identities, self.fitter.expressions])
        total = (state.identity / identity).square().sum() + (state.expression / expression).square().sum()
        for i, target in enumerate(targets):
            camera = self._turned(state, targets, i) + state.translation[i]
            square = self._errors(i, camera, target.match, scale).square().sum(-1)
            total = total + (self.weights[i] * square / (1 + square * (self.settings.noise / outlier) ** 2)).sum()
        return float(total) / 2

    def system(
        self, state: _State, targets: list[_Target], scale: Tensor, outlier: float
    ) -> tuple[float, Tensor, Tensor]:
        """Cost, its gradient (P,) and curvature (P, P) after Gauss and Newton."""
        f, count = self.fitter, len(self.seen)
        identities, own = f.identities, POSE + f.expressions
        precision = f.spread.pow(-2)
        gradient = torch.zeros(identities + count * own, dtype=torch.float64)
        curvature = torch.zeros(len(gradient), len(gradient), dtype=torch.float64)
        gradient[:identities] = state.identity * precision[:identities]
        curvature.diagonal()[:identities] = precision[:identities]
        for i in range(count):
            error, slopes, weight = self._linear(state, targets, i, scale, outlier)
            weighted = (slopes * weight.repeat_interleave(2)[:, None]).mT
            pull, square = weighted @ error.flatten(), weighted @ slopes
            shared, mine = slice(0, identities), slice(identities + i * own, identities + (i + 1) * own)
            gradient[shared] += pull[:identities]
            gradient[mine] = pull[identities:]
            curvature[shared, shared] += square[:identities, :identities]
            curvature[shared, mine] = square[:identities, identities:]
            curvature[mine, shared] = square[identities:, :identities]
            curvature[mine, mine] = square[identities:, identities:]
            gradient[mine][POSE:] += state.expression[i] * precision[identities:]
            curvature.diagonal()[mine][POSE:] += precision[identities:]
        return self.cost(state, targets, scale, outlier), gradient, curvature

    def _linear(
        self, state: _State, targets: list[_Target], i: int, scale: Tensor, outlier: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of photo i: errors (L, 2), slopes (2 L, I + 6 + E) and robust weights (L,)."""
        target, identities, count = targets[i], self.fitter.identities, len(self.fitter.numbers)
        turned = self._turned(state, targets, i)
        camera = turned + state.translation[i]
        homogeneous = camera @ self.K[i].mT
        pixels = homogeneous[:, :2] / homogeneous[:, 2:]
        # Pixels by a step in camera space, (L, 2, 3), then by one in the model's own.
        lens = (self.K[i, :2] - pixels[..., None] * self.K[i, 2]) / homogeneous[:, 2:, None]
        lens = lens * (scale[i] / self.settings.noise)
        if target.match is not None:
            normal = target.match.normal
            across = normal[:, :, None] * normal[:, None]
            lens = lens.index_copy(0, target.match.landmark, across @ lens[target.match.landmark])
        modes = (lens @ state.rotation[i]) @ target.modes.view(-1, count, 3).permute(1, 2, 0)
        pose = torch.cat([-lens @ _cross_matrix(turned), lens], -1)
        slopes = torch.cat([modes[..., :identities], pose, modes[..., identities:]], -1)
        error = self._errors(i, camera, target.match, scale)
        doubt = 1 + error.square().sum(-1) * (self.settings.noise / outlier) ** 2
        return error, slopes.flatten(0, 1), self.weights[i] / doubt.square()

    def _free(self, state: _State, gradient: Tensor) -> Tensor:
        """(P,) bool: not the weights that stand at a bound and would go beyond (Bertsekas 1982)."""
        free = torch.ones_like(gradient, dtype=torch.bool)
        if self.fitter.bounded:
            own = gradient[self.fitter.identities :].view(len(self.seen), -1)[:, POSE:]
            held = ((state.expression <= 0) & (own > 0)) | ((state.expression >= 1) & (own < 0))
            free[self.fitter.identities :].view(len(self.seen), -1)[:, POSE:] = ~held
        return free

    def _bounded(self, state: _State) -> _State:
        return state._replace(expression=state.expression.clamp(0, 1)) if self.fitter.bounded else state

    def _result(self, state: _State, targets: list[_Target], scale: Tensor) -> Fit:
        outlier, numbers = self.settings.outlier, self.fitter.numbers
        cost, _, curvature = self.system(state, targets, scale, outlier)
        points = torch.full((len(self.seen), 68, 3), math.nan, dtype=torch.float64)
        trust = torch.zeros(len(self.seen), 68, dtype=torch.float64)
        for i, target in enumerate(targets):
            points[i, numbers] = self._turned(state, targets, i) + state.translation[i]
            square = self._errors(i, points[i, numbers], target.match, scale).square().sum(-1)
            trust[i, numbers] = (self.weights[i] > 0) / (1 + square * (self.settings.noise / outlier) ** 2).square()
        lower = torch.linalg.cholesky(curvature)
        eye = torch.eye(len(lower), dtype=torch.float64)
        root = torch.linalg.solve_triangular(lower, eye, upper=False).mT
        return Fit(*state, self.K, points, trust, cost, root)


def _on_outline(still: _Target, match: Match, mean: Tensor, modes: Tensor) -> _Target:
    """With matched landmarks between candidates of the outline, whose mean (3 C,) and modes (I + E, 3 C) are given."""
    share = match.share[..., None]
    points = (mean.view(-1, 3)[match.ends] * share).sum(1)
    moves = (modes.unflatten(1, (-1, 3))[:, match.ends] * share).sum(2)
    return _Target(
        still.mean.view(-1, 3).index_copy(0, match.landmark, points).flatten(),
        still.modes.unflatten(1, (-1, 3)).index_copy(1, match.landmark, moves).flatten(1),
        match,
    )


def _solved(curvature: Tensor, gradient: Tensor, free: Tensor, damping: float) -> Tensor:
    """The step (P,), 0 where not free."""
    held = (~free).double()
    matrix = curvature * free * free[:, None]
    matrix = matrix + torch.diag(damping * curvature.diagonal() * free + held)
    factor = torch.linalg.cholesky(matrix)
    return -torch.cholesky_solve((gradient * free)[:, None], factor)[:, 0]


def _across(error: Tensor, match: Match) -> Tensor:
    """Errors (L, 2), those of matched landmarks only across the outline."""
    own = error[match.landmark]
    return error.index_copy(0, match.landmark, (own * match.normal).sum(-1, keepdim=True) * match.normal)


def _checked(landmarks: Tensor | Sequence[Tensor], K: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels (N, 68, 2), K (N, 3, 3) and weights (N, 68), float64."""
    pixels = landmarks if isinstance(landmarks, Tensor) else torch.stack(list(landmarks))
    pixels = (pixels[None] if pixels.ndim == 2 else pixels).double()
    if pixels.ndim != 3 or pixels.shape[1:] != (68, 2) or not len(pixels) or not bool(pixels.isfinite().all()):
        raise UsageError(f"landmarks: expected finite pixels (68, 2) or (N, 68, 2), got {tuple(pixels.shape)}")
    if K.shape[-2:] != (3, 3) or K.ndim > 3 or (K.ndim == 3 and len(K) not in (1, len(pixels))):
        raise UsageError(f"K: expected (3, 3) or ({len(pixels)}, 3, 3), got {tuple(K.shape)}")
    weights = torch.ones(len(pixels), 68) if weights is None else weights
    if weights.shape[-1:] != (68,) or weights.ndim > 2 or not bool((weights >= 0).all()):
        raise UsageError(f"weights: expected (68,) or (N, 68), 0 or more, got {tuple(weights.shape)}")
    count = len(pixels)
    return pixels, K.double().expand(count, 3, 3), weights.double().expand(count, 68)
