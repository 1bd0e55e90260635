"""A face as a sum: mean + identity + expression, and albedo likewise (Blanz and Vetter, SIGGRAPH 1999).

Every foreign model comes into the one form of this class by a loader of its own (`bfm`, `flame`, `ict`), so that nobody
else has to know whose model it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UsageError
from ..geometry import face_normals, vertex_normals
from .given import shape_problem

LEFT_EYE, RIGHT_EYE, NOSE, CHIN = 36, 45, 30, 8
"""iBUG numbers: the outer corners of the eyes (left and right in the image), the tips of nose and chin."""

INTEROCULAR = (80.0, 100.0)
"""Between the outer corners of the mean face's eyes, in millimetres; BFM 86.3, ICT 89.2, Surrey 92.4."""
IDENTITY_SIZE = (0.3, 20.0)
"""Root mean square displacement of the largest identity mode, in millimetres per standard deviation; ICT 3.7."""
EXPRESSION_SIZE = (0.03, 60.0)
"""The same of the largest expression mode."""
ALBEDO_SIZE = (0.002, 0.5)
"""The same of the largest albedo mode, where white is 1."""


@dataclass(frozen=True, eq=False)
class Articulation:
    """Joints about which parts of a model turn: FLAME's linear blend skinning (Li et al., SIGGRAPH Asia 2017, eq. 2-5).

    The joints are linear in the coefficients as the vertices are, so that a cropped model keeps them.
    """

    names: tuple[str, ...]
    """J joints, the first being the whole head."""
    parents: tuple[int, ...]
    """(J,) the joint that each one hangs on, which stands before it; -1 for the first."""
    mean: Tensor
    """(J, 3) of the mean face, millimetres."""
    identity: Tensor
    """(I, J, 3)."""
    expression: Tensor
    """(E, J, 3)."""
    weights: Tensor
    """(V, J): how far each vertex follows each joint, of sum 1."""
    correctives: Tensor
    """(9 * (J - 1), V, 3): offsets per element (row by row) of rotation minus identity matrix, joint by joint."""

    def __post_init__(self) -> None:
        _in_order(self, "mean", "identity", "expression", "weights", "correctives")

    def posed(self, vertices: Tensor, joints: Tensor, pose: Tensor) -> Tensor:
        """Vertices (B, V, 3) turned about joints (B, J, 3) by rotations (B, J, 3, 3), each relative to its parent."""
        turns = (pose[:, 1:] - torch.eye(3, dtype=pose.dtype, device=pose.device)).flatten(1)
        vertices = vertices + (turns @ self.correctives.flatten(1)).unflatten(1, vertices.shape[1:])
        rotations, places = [pose[:, 0]], [joints[:, 0]]
        for joint, parent in list(enumerate(self.parents))[1:]:
            arm = (joints[:, joint] - joints[:, parent])[..., None]
            places.append(places[parent] + (rotations[parent] @ arm)[..., 0])
            rotations.append(rotations[parent] @ pose[:, joint])
        rotation, place = torch.stack(rotations, 1), torch.stack(places, 1)
        shift = place - (rotation @ joints[..., None])[..., 0]
        blended = torch.einsum("vj,bjkl->bvkl", self.weights, rotation)
        return (blended @ vertices[..., None])[..., 0] + self.weights @ shift


@dataclass(frozen=True, eq=False)
class MorphableModel:
    """Millimetres, x right, y down, z forward; the model looks along -z. Coefficients count standard deviations.

    The origin is ICT's own for that model, else the centre of gravity of the mean face's vertices (of the cropped mean
    face, for BFM 2009 as Deep3D crops it). `cropped` and `part` leave it where it is.
    """

    name: str
    """What `aboutface models` calls it: bfm09, bfm17, bfm19, flame, ict."""
    version: str
    licence: str
    redistributable: bool
    """Whether the licence lets anyone pass the file on."""
    mean: Tensor
    """(V, 3) float32."""
    identity: Tensor
    """(I, V, 3): offset per standard deviation of each mode."""
    expression: Tensor
    """(E, V, 3): offset per standard deviation, or of a weight of 1."""
    expression_names: tuple[str, ...]
    """E names; numbers as words where the modes have no names."""
    expression_kind: Literal["gaussian", "weights"]
    """gaussian: coefficients are drawn from N(0, 1). weights: they lie in 0...1, as those of blendshapes."""
    faces: Tensor
    """(F, 3) int64 triangles, clockwise as seen from outside."""
    albedo_mean: Tensor | None = None
    """(V, 3) RGB, 0...1, in sRGB as the files have it."""
    albedo: Tensor | None = None
    """(A, V, 3): offset per standard deviation."""
    uv: Tensor | None = None
    """(U, 2): (0, 0) top left; beyond 0...1 where parts have tiles of their own."""
    uv_faces: Tensor | None = None
    """(F, 3) int64: rows of `uv` at the corners of `faces`."""
    landmarks68: Tensor | None = None
    """(68,) int64: the vertices that are, or are nearest to, the iBUG points."""
    landmark_corners: Tensor | None = None
    """(68, 3) int64: vertices between which the points lie, for a model that has them inside triangles."""
    landmark_weights: Tensor | None = None
    """(68, 3): barycentric weights of these."""
    partial68: dict[int, int] = field(default_factory=dict)
    """iBUG number -> vertex, for a model that knows only some of the points; empty where `landmarks68` is there."""
    masks: dict[str, Tensor] = field(default_factory=dict)
    """Name -> (V,) bool: "face", "front", "skin", "eyes", ..., as far as the model tells."""
    articulation: Articulation | None = None

    def __post_init__(self) -> None:
        _in_order(self, "mean", "identity", "expression", "albedo_mean", "albedo")

    @classmethod
    def load(cls, source: str | PathLike[str]) -> "MorphableModel":
        """A model that `aboutface models add` has stored (its name), a file that `save` wrote, or ICT's npz or folder.

        Raises MissingError where nothing is there, UsageError for broken, foreign, or other versions' files.
        """
        from .storage import load_model

        return load_model(source)

    def save(self, path: str | PathLike[str], *, half: bool = True) -> None:
        """Write the one safe file (safetensors), whole or not at all; bases in half precision if `half`.

        Raises OutputError where it cannot be written.
        """
        from .storage import save_model

        save_model(self, path, half)

    def vertices(self, identity: Tensor, expression: Tensor | None = None, pose: Tensor | None = None) -> Tensor:
        """(B, V, 3) millimetres, differentiable.

        Args:
            identity: (B, up to I); modes without a coefficient stay at 0.
            expression: (B, up to E); none if missing.
            pose: (B, J, 3, 3) rotations of the joints of `articulation`, each relative to its parent, in our frame.

        Raises UsageError for more coefficients than modes, for other shapes, for a pose of a model without joints.
        """
        self._check_coefficients("identity", identity, self.identity, len(identity))
        expression = identity[:, :0] if expression is None else expression
        self._check_coefficients("expression", expression, self.expression, len(identity))
        vertices = _sum(self.mean, (identity, self.identity), (expression, self.expression))
        if pose is None:
            return vertices
        joints = self.articulation
        if joints is None:
            raise UsageError(f"{self.name}: has no joints that a pose could turn; turn the vertices as a whole")
        if pose.shape != (len(identity), len(joints.names), 3, 3):
            raise UsageError(
                f"{self.name}: pose is {tuple(pose.shape)}, expected ({len(identity)}, {len(joints.names)}, 3, 3): "
                f"rotations of {', '.join(joints.names)}"
            )
        places = _sum(joints.mean, (identity, joints.identity), (expression, joints.expression))
        return joints.posed(vertices, places, pose)

    def colours(self, albedo: Tensor) -> Tensor:
        """(B, V, 3) albedo of coefficients (B, up to A); not clamped, so a few standard deviations may leave 0...1.

        Raises UsageError for a model without albedo, or more coefficients than modes.
        """
        if self.albedo_mean is None or self.albedo is None:
            raise UsageError(f"{self.name}: has no albedo; learn one from photos")
        self._check_coefficients("albedo", albedo, self.albedo, len(albedo))
        return _sum(self.albedo_mean, (albedo, self.albedo))

    def landmarks(self, vertices: Tensor) -> Tensor:
        """(..., 68, 3) iBUG points of vertices (..., V, 3). Raises UsageError for a model without all 68."""
        if self.landmark_corners is not None and self.landmark_weights is not None:
            return (vertices[..., self.landmark_corners, :] * self.landmark_weights[..., None]).sum(-2)
        if self.landmarks68 is None:
            known = f"only {len(self.partial68)} of the" if self.partial68 else "none of the"
            raise UsageError(f"{self.name}: {known} 68 landmarks are known; add it again with a landmarks68.json")
        return vertices[..., self.landmarks68, :]

    def normals(self, vertices: Tensor) -> Tensor:
        """(..., V, 3) outward unit normals of vertices (..., V, 3), area-weighted."""
        return vertex_normals(vertices, self.faces)

    def part(self, name: str) -> "MorphableModel":
        """The model of the vertices of one mask. Raises UsageError for a mask that it does not have."""
        if name not in self.masks:
            raise UsageError(f"{self.name}: has no part {name!r}; choose one of {', '.join(self.masks) or 'none'}")
        return self.cropped(self.masks[name])

    def cropped(self, mask: Tensor) -> "MorphableModel":
        """The model of the vertices in a mask (V,), with the triangles that lie in it whole.

        `landmarks68` is kept only if all its vertices are; of fewer, those left are in `partial68`.
        """
        if mask.shape != self.mean.shape[:1] or mask.dtype != torch.bool or not mask.any():
            raise UsageError(
                f"cropped: expected a bool mask of {len(self.mean)} vertices, some of them true, got "
                f"{mask.dtype} {tuple(mask.shape)}"
            )
        keep = mask.nonzero().flatten()
        number = torch.full((len(self.mean),), -1, device=mask.device)
        number[keep] = torch.arange(len(keep), device=mask.device)
        faces = number[self.faces]
        whole = (faces >= 0).all(1)
        return replace(
            self,
            mean=self.mean[keep],
            faces=faces[whole],
            **{
                name: basis[:, keep]
                for name in ("identity", "expression")
                if (basis := getattr(self, name)) is not None
            },
            albedo_mean=None if self.albedo_mean is None else self.albedo_mean[keep],
            albedo=None if self.albedo is None else self.albedo[:, keep],
            **self._cropped_uv(whole),
            **self._cropped_landmarks(number),
            masks={name: old[keep] for name, old in self.masks.items()},
            articulation=self.articulation
            and replace(
                self.articulation,
                weights=self.articulation.weights[keep],
                correctives=self.articulation.correctives[:, keep],
            ),
        )

    def to(self, device: torch.device | str) -> "MorphableModel":
        """The same model with all tensors there."""
        return _moved(self, device)

    def check(self) -> "MorphableModel":
        """The model itself. Raises UsageError that says what is wrong with it, and what to do."""
        for problem in _problems(self):
            raise UsageError(f"{self.name}: {problem}")
        return self

    def _check_coefficients(self, kind: str, given: Tensor, basis: Tensor, count: int) -> None:
        if given.ndim != 2 or len(given) != count or given.shape[1] > len(basis):
            raise UsageError(
                f"{self.name}: {kind} coefficients are {tuple(given.shape)}, expected ({count}, at most {len(basis)})"
            )

    def _cropped_uv(self, whole: Tensor) -> dict[str, Tensor]:
        if self.uv is None or self.uv_faces is None:
            return {}
        used, faces = self.uv_faces[whole].unique(return_inverse=True)
        return {"uv": self.uv[used], "uv_faces": faces}

    def _cropped_landmarks(self, number: Tensor) -> dict[str, Any]:
        inside = self.landmark_corners is None or bool((number[self.landmark_corners] >= 0).all())
        known = {i: new for i, old in _marks(self).items() if (new := int(number[old])) >= 0}
        if self.landmarks68 is not None and len(known) == len(self.landmarks68) and inside:
            corners = None if self.landmark_corners is None else number[self.landmark_corners]
            return {"landmarks68": number[self.landmarks68], "landmark_corners": corners}
        none = dict.fromkeys(("landmarks68", "landmark_corners", "landmark_weights"))
        return {**none, "partial68": known}


def outward(mean: Tensor, faces: Tensor, nose: int | None = None) -> bool:
    """Whether triangles (F, 3) of vertices (V, 3) in our frame are clockwise as seen from outside.

    Asked of the surface within 15 mm of the vertex `nose`, which must look towards the viewer (-z); without a nose, of
    the whole surface, which must look away from its middle.
    """
    normals = face_normals(mean, faces)
    middles = mean[faces].mean(1)
    if nose is None:
        return bool(((middles - mean.mean(0)) * normals).sum() > 0)
    near = (middles - mean[nose]).norm(dim=1) < 15
    return bool(normals[near, 2].sum() < 0)


def oriented(mean: Tensor, faces: Tensor, nose: int | None = None) -> Tensor:
    """Triangles (F, 3), each with two corners swapped if they are not `outward`."""
    return faces if outward(mean, faces, nose) else faces[:, [0, 2, 1]]


def mode_sizes(basis: Tensor) -> Tensor:
    """(K,) root mean square displacement of the vertices per unit of each mode (K, V, 3)."""
    return basis.square().sum(-1).mean(1).sqrt()


def _in_order(owner: Any, *names: str) -> None:
    """Lay tensors out as they are read when a face is made, from end to end; else that takes ten times as long."""
    for name in names:
        tensor = getattr(owner, name)
        if tensor is not None:
            object.__setattr__(owner, name, tensor.contiguous())


def _sum(mean: Tensor, *terms: tuple[Tensor, Tensor]) -> Tensor:
    total = mean.reshape(1, -1)
    for coefficients, basis in terms:
        total = torch.addmm(total, coefficients, basis[: coefficients.shape[1]].flatten(1))
    return total.view(-1, *mean.shape)


def _marks(model: MorphableModel) -> dict[int, int]:
    """iBUG number -> vertex."""
    return model.partial68 if model.landmarks68 is None else dict(enumerate(model.landmarks68.tolist()))


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(entry, device) for key, entry in value.items()}
    if isinstance(value, (MorphableModel, Articulation)):
        return replace(value, **{part.name: _moved(getattr(value, part.name), device) for part in fields(value)})
    return value


# ---- what can be wrong with a model ----


def _problems(model: MorphableModel) -> Iterator[str]:
    # In this order: each question takes it that those before it were answered well.
    yield from _wrong_shapes(model)
    yield from _wrong_numbers(model)
    yield from _wrong_face(model)
    yield from _wrong_modes(model)


def _wrong_shapes(model: MorphableModel) -> Iterator[str]:
    count, faces = len(model.mean), len(model.faces)
    identities, expressions = len(model.identity), len(model.expression_names)
    expected: dict[str, tuple[int | None, ...]] = {
        "mean": (count, 3),
        "identity": (None, count, 3),
        "expression": (expressions, count, 3),
        "faces": (faces, 3),
        "albedo_mean": (count, 3),
        "albedo": (None, count, 3),
        "uv": (None, 2),
        "uv_faces": (faces, 3),
        "landmarks68": (68,),
        "landmark_corners": (68, 3),
        "landmark_weights": (68, 3),
    }
    tensors = {name: getattr(model, name) for name in expected}
    for name, mask in model.masks.items():
        expected[f"masks[{name}]"], tensors[f"masks[{name}]"] = (count,), mask
    joints = model.articulation
    if joints is not None:
        number = len(joints.names)
        shapes = {
            "mean": (number, 3),
            "identity": (identities, number, 3),
            "expression": (expressions, number, 3),
            "weights": (count, number),
            "correctives": (9 * (number - 1), count, 3),
        }
        expected |= {f"articulation.{name}": shape for name, shape in shapes.items()}
        tensors |= {f"articulation.{name}": getattr(joints, name) for name in shapes}
        if any(not -1 < parent < joint for joint, parent in list(enumerate(joints.parents))[1:]):
            yield f"parents {joints.parents} of the joints {joints.names} do not come before them; get the file anew"
    for name, shape in expected.items():
        problem = None if tensors[name] is None else shape_problem(name, tensors[name].shape, shape)
        if problem:
            yield f"{problem}; the parts belong to different models"


def _wrong_numbers(model: MorphableModel) -> Iterator[str]:
    for name in ("mean", "identity", "expression", "albedo_mean", "albedo", "uv", "landmark_weights"):
        tensor = getattr(model, name)
        if tensor is not None and not tensor.isfinite().all():
            yield f"{name} has numbers that are not finite; the file is damaged, get it anew"
    if not len(model.faces):
        yield "has no triangles; the file is damaged, get it anew"
    marks = torch.tensor(list(model.partial68.values()), dtype=torch.int64)
    ends = {
        "faces": (model.faces, len(model.mean)),
        "uv_faces": (model.uv_faces, 0 if model.uv is None else len(model.uv)),
        "landmarks68": (model.landmarks68, len(model.mean)),
        "landmark_corners": (model.landmark_corners, len(model.mean)),
        "partial68": (marks, len(model.mean)),
    }
    for name, (tensor, end) in ends.items():
        if tensor is not None and len(tensor) and not 0 <= int(tensor.min()) <= int(tensor.max()) < end:
            yield (
                f"{name} goes from {int(tensor.min())} to {int(tensor.max())}, expected 0 to {end - 1}; "
                "the parts belong to different models"
            )


def _wrong_face(model: MorphableModel) -> Iterator[str]:
    marks = {i: model.mean[vertex] for i, vertex in _marks(model).items()}
    if marks.keys() >= {LEFT_EYE, RIGHT_EYE}:
        left, right = marks[LEFT_EYE], marks[RIGHT_EYE]
        if left[0] > right[0]:
            yield "landmarks 36 and 45 stand left for right; give the iBUG order, 36 on the image's left"
        apart = float((left - right).norm())
        if not INTEROCULAR[0] <= apart <= INTEROCULAR[1]:
            yield (
                f"the outer corners of its eyes are {apart:.4g} mm apart, expected {INTEROCULAR[0]:.0f} to "
                f"{INTEROCULAR[1]:.0f}; the unit or the landmarks are another model's"
            )
        if NOSE in marks and marks[NOSE][2] > torch.minimum(left[2], right[2]):
            yield "its nose lies behind its eyes; the axes or the landmarks are another model's"
        if CHIN in marks and marks[CHIN][1] < torch.maximum(left[1], right[1]):
            yield "its chin lies above its eyes; the axes or the landmarks are another model's"
    nose = _marks(model).get(NOSE)
    if not outward(model.mean, model.faces, nose):
        yield "its triangles look inwards; swap two corners of each"


def _wrong_modes(model: MorphableModel) -> Iterator[str]:
    limits = {"identity": IDENTITY_SIZE, "expression": EXPRESSION_SIZE, "albedo": ALBEDO_SIZE}
    for name, (least, most) in limits.items():
        basis = getattr(model, name)
        if basis is None or not len(basis):
            continue
        size = float(mode_sizes(basis).max())
        if not least <= size <= most:
            yield (
                f"its largest {name} mode is {size:.3g} per standard deviation, expected {least:g} to {most:g}; "
                "is the basis multiplied by standard deviations, once, and in millimetres (albedo: white is 1)?"
            )
    if model.albedo_mean is not None and float(model.albedo_mean.min()) < -0.05:
        yield f"its mean albedo goes down to {float(model.albedo_mean.min()):.3g}, expected 0 to 1"
    if model.albedo_mean is not None and float(model.albedo_mean.max()) > 1.05:
        yield f"its mean albedo goes up to {float(model.albedo_mean.max()):.3g}, expected 0 to 1; divide it by 255"
