"""A face in a photo as Deep3D's coefficients: from them and to them, and what the published files hold of it."""

import numpy as np
import torch
from torch import Tensor

from ..data.crop import cut
from ..errors import UsageError
from ..geometry import apply
from ..images import Photo, to_tensor
from ..morphable import MorphableModel
from ..scene import MorphableFace, Pose, Scene, SphericalHarmonics
from .deep3d import Coefficients
from .deep3d_draw import Basis, draw
from .deep3d_frame import (
    ICT_CENTRE,
    MILLIMETRES_PER_UNIT,
    SIZE,
    Reconstruction,
    angles_to_deep3d,
    camera,
    five_from_68,
    gamma_from_light,
    points_from_deep3d,
    points_to_deep3d,
    rotation_from_deep3d,
)
from .morphable_fit import Outline, Placement, known_landmarks

SUPERSAMPLE = 2
"""Times that the published picture is finer when it is drawn."""


def origin_of(model: MorphableModel) -> Tensor:
    """The point (3,), millimetres, of a model that belongs into the origin of Deep3D's frame: its own but for ICT's."""
    return ICT_CENTRE if model.name == "ict" else torch.zeros(3)


def published_part(model: MorphableModel) -> MorphableModel:
    """The vertices of which coefficients are told: of ICT's whole head the front, as Deep3D's is a face; else all."""
    return model.part("front") if model.name == "ict" and "front" in model.masks else model


def photo_intrinsics(crop_from_photo: Tensor, size: int = SIZE) -> Tensor:
    """Intrinsics (3, 3), float64, photo pixels, of Deep3D's camera through crops of `size`."""
    return torch.linalg.inv(crop_from_photo.double()) @ camera(size).K.double()


# ---- coefficients to a place, and back ----


def shape_of(model: MorphableModel, identity: Tensor, expression: Tensor) -> Tensor:
    """(V, 3) of a face (I,), (E,) at rest, metres, about the origin of Deep3D's frame."""
    vertices = model.vertices(identity.float()[None], expression.float()[None])[0]
    return (vertices - origin_of(model)) / MILLIMETRES_PER_UNIT


def placement(
    model: MorphableModel, coefficients: Coefficients, K: Tensor, pixels: Tensor, outline: Outline | None = None
) -> Placement:
    """Where coefficients of one face (B = 1) put a model that has all landmarks.

    Args:
        K: (3, 3), see `photo_intrinsics`; pixels: (68, 2), where the landmarks were found.
        outline: of the model. Then the jaw's points on the side turned away are those of the face's outline that are
            nearest to the landmarks found there.
    """
    rotation = rotation_from_deep3d(coefficients.angle.double())
    ahead = points_from_deep3d(coefficients.trans.double()) * MILLIMETRES_PER_UNIT
    shift = ahead - rotation[0] @ origin_of(model).double()
    rest = model.vertices(coefficients.id, coefficients.exp)[0].double()
    points = model.landmarks(rest) @ rotation[0].mT + shift
    if outline is not None:
        slices = rest[outline.vertices]
        match = outline.match(slices, rotation[0], shift[0], K.double(), pixels.double())
        if match is not None:
            between = (slices[match.ends] * match.share[..., None]).sum(1)
            points = points.index_copy(0, match.landmark, between @ rotation[0].mT + shift)
    return Placement(
        identity=coefficients.id[0].double(),
        expression=coefficients.exp.double(),
        rotation=rotation,
        translation=shift,
        K=K.double()[None],
        points=points[None],
        trust=torch.ones(1, 68, dtype=torch.float64),
    )


def coefficients_of(model: MorphableModel, placed: Placement, light: Tensor, albedo: Tensor) -> Coefficients:
    """The coefficients (B = 1) of the first photo of a placed face whose K is that of `photo_intrinsics`.

    light (9, 3) that arrives, camera space; albedo (A,) in standard deviations.
    """
    rotation = placed.rotation[0].double()
    at = (placed.translation[0].double() + rotation @ origin_of(model).double()) / MILLIMETRES_PER_UNIT
    found = Coefficients(
        placed.identity,
        placed.expression[0],
        albedo,
        angles_to_deep3d(*(torch.tensor(angle, dtype=torch.float64) for angle in Pose.of(rotation))),
        gamma_from_light(SphericalHarmonics(light)),
        points_to_deep3d(at),
    )
    return Coefficients(*(numbers.float()[None] for numbers in found))


def described(model: MorphableModel, coefficients: Coefficients, matrix: Tensor, albedo: Tensor) -> MorphableFace:
    """What a scene says of a face (B = 1).

    model: what `published_part` gives; matrix (3, 3): photo pixels to those of the crop of SIZE; albedo (V, 3).
    """
    _, corners, weights = known_landmarks(model)
    return MorphableFace(
        model=model.name,
        licence=model.licence,
        coefficients={name: numbers[0] for name, numbers in coefficients._asdict().items()},
        crop_from_photo=matrix.double(),
        shape=shape_of(model, coefficients.id[0], coefficients.exp[0]),
        albedo=albedo,
        faces=model.faces,
        landmark_corners=corners,
        landmark_weights=weights.to(albedo),
    )


# ---- the published files ----


@torch.no_grad()
def reconstruction(scene: Scene, photo: Photo, landmarks: np.ndarray) -> Reconstruction:
    """The face of a scene as the published files have it, drawn into its crop; landmarks (68, 2), pixels, cut it out.

    Raises UsageError for a scene without coefficients.
    """
    face = scene.morphable
    if face is None:
        raise UsageError("this scene has no coefficients of a morphable model: methods deep3d and morphable have some")
    given = Coefficients(**{name: numbers[None] for name, numbers in face.coefficients.items()})
    # The shape and albedo are made already.
    none = torch.zeros(1, 0)
    drawn = draw(_still(face), given._replace(id=none, exp=none, tex=none), SIZE, supersample=SUPERSAMPLE)
    crop = cut(photo.pixels, torch.linalg.inv(face.crop_from_photo).numpy(), SIZE)
    return Reconstruction(
        crop=to_tensor(crop)[0],
        image=drawn.image[0],
        alpha=drawn.alpha[0, 0],
        coefficients=given,
        vertices=drawn.vertices[0],
        albedo=drawn.albedo[0],
        colours=drawn.colours[0],
        landmarks=drawn.landmarks[0],
        five=apply(face.crop_from_photo, five_from_68(torch.from_numpy(landmarks).double())),
    )


def _still(face: MorphableFace) -> Basis:
    """The face as a model of no modes."""
    none = face.shape.new_zeros(0, *face.shape.shape)
    return Basis(
        mean=face.shape,
        identity=none,
        expression=none,
        albedo_mean=face.albedo,
        albedo=none,
        faces=face.faces,
        landmark_corners=face.landmark_corners,
        landmark_weights=face.landmark_weights,
    )
