"""Deep3D's frame and ours: where a face is cut out, how it is seen, and what the numbers mean.

Theirs (Deng et al., CVPR workshops 2019, and its two code bases): decimetres, x right, y up, z towards the camera,
which stands at (0, 0, 10) and sees 224 pixels through a focal length of 1015; the rows of its images count upwards, and
angles are radians, right-handed, R = Rz Ry Rx. Ours: the camera at 0, x right, y down, z forward, the face at z = 1. A
unit of ours is thus 10 of their decimetres, one metre, and the face turns about the same point in both.
"""

import math
from dataclasses import dataclass
from os import PathLike
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import UsageError, need
from ..files import atomic_path
from ..geometry import affine_2d_from_3d_matrix, apply, rotation_from_angles
from ..scene import Camera, Pose, SphericalHarmonics
from .deep3d import Coefficients

SIZE = 224
"""Side of the published crops, pixels."""
FOCAL = 1015.0
"""Pixels, of a crop of that size."""
DISTANCE = 10.0
"""Decimetres from the camera to the origin of the face."""
MILLIMETRES_PER_UNIT = 1000.0
"""Of our units: DISTANCE is one."""
CROP_SCALE = 102.0
"""Pixels per decimetre to which a face is brought in a crop of SIZE; FOCAL / DISTANCE is 101.5."""

BFM_FIVE = torch.tensor(
    [
        [-0.3115, 0.2904, 0.1338],
        [0.3098, 0.2897, 0.1318],
        [0.0033, -0.0462, 0.5524],
        [-0.2522, -0.3813, 0.2241],
        [0.2485, -0.3813, 0.2224],
    ],
    dtype=torch.float64,
)
"""(5, 3): eye left and right in the image, tip of the nose, corners of the mouth of the BFM's mean face; decimetres."""
ICT_FIVE = torch.tensor(
    [
        [-0.315, 0.283, 0.128],
        [0.315, 0.283, 0.128],
        [0, -0.011, 0.545],
        [-0.253, -0.403, 0.257],
        [0.253, -0.403, 0.257],
    ],
    dtype=torch.float64,
)
"""The same of ICT-FaceKit's neutral face, less ICT_CENTRE."""
ICT_CENTRE = torch.tensor([0.0, -5.15, -76.21])
"""(3,) millimetres in our frame: this point of ICT-FaceKit's model belongs into the origin of Deep3D's frame.

Its landmarks other than the jaw's then lie 4 mm (root mean square) from those of the BFM's mean face.
"""

_FLIP = (1.0, -1.0, -1.0)
"""Their axes in ours; the other way round it is the same."""


# ---- points, cameras, poses ----


def points_from_deep3d(points: Tensor) -> Tensor:
    """Our camera space (..., 3) of points (..., 3) in Deep3D's world, decimetres."""
    return points * points.new_tensor(_FLIP) / DISTANCE + points.new_tensor([0.0, 0.0, 1.0])


def points_to_deep3d(points: Tensor) -> Tensor:
    """Deep3D's world (..., 3), decimetres, of points (..., 3) in our camera space."""
    return (points - points.new_tensor([0.0, 0.0, 1.0])) * points.new_tensor(_FLIP) * DISTANCE


def shift_from_deep3d(trans: Tensor) -> Tensor:
    """Our shift (..., 3), in units, of Deep3D's translation (..., 3), decimetres."""
    return trans * trans.new_tensor(_FLIP) / DISTANCE


def camera(size: int = SIZE) -> Camera:
    """Deep3D's camera as one of ours, for crops of `size` pixels."""
    focal = FOCAL * size / SIZE
    return Camera(torch.tensor([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]]), size, size)


def angles_from_deep3d(angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Our yaw, pitch, roll (...), degrees, of Deep3D's angles (..., 3) about x, y, z, radians.

    Their pitch looks down and their roll is counter-clockwise where they are positive; yaw has the same sign.
    """
    x, y, z = torch.rad2deg(angle).unbind(-1)
    return y, -x, -z


def angles_to_deep3d(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """Deep3D's angles (..., 3), radians, of ours in degrees."""
    return torch.deg2rad(torch.stack([-pitch, yaw, -roll], -1))


def rotation_from_deep3d(angle: Tensor) -> Tensor:
    """Rotation (..., 3, 3) of a face in our frame, of Deep3D's angles (..., 3)."""
    return rotation_from_angles(*angles_from_deep3d(angle))


def pose_from_deep3d(angle: Tensor) -> Pose:
    """The pose of one face, of Deep3D's angles (3,)."""
    return Pose(*(float(a) for a in angles_from_deep3d(angle)))


def rows_up(pixels: Tensor, size: int = SIZE) -> Tensor:
    """Our pixels (..., 2) of positions whose y counts upwards from the bottom edge of `size` rows; and back."""
    return torch.stack([pixels[..., 0], size - pixels[..., 1]], -1)


# ---- light ----

_BANDS = (math.pi, *[2 * math.pi / math.sqrt(3)] * 3, *[2 * math.pi / math.sqrt(8)] * 5)
"""What a clamped cosine leaves of each degree, up to their choice of a constant."""
# x, y, z of their normals are x, -y, -z of ours, and their functions of odd order have a minus.
_SIGNS = (1, 1, -1, -1, -1, -1, 1, 1, 1)
_FIRST = 0.8
"""Added to the first number of each channel."""


def light_from_gamma(gamma: Tensor) -> SphericalHarmonics:
    """Our light, (..., 9, C), of gamma (..., 9 * C) for C = 3 channels or 1; gamma 0 is even light of 0.709.

    Raises UsageError for other lengths.
    """
    if gamma.shape[-1] not in (9, 27):
        raise UsageError(f"gamma: expected 27 numbers for RGB or 9 for white light, got {tuple(gamma.shape)}")
    numbers = gamma.unflatten(-1, (-1, 9))
    numbers = torch.cat([numbers[..., :1] + _FIRST, numbers[..., 1:]], -1)
    return SphericalHarmonics((numbers * _factors(gamma)).mT)


def gamma_from_light(light: SphericalHarmonics) -> Tensor:
    """gamma (..., 9 * C) of our light with coefficients (..., 9, C)."""
    numbers = light.coefficients.mT / _factors(light.coefficients)
    return torch.cat([numbers[..., :1] - _FIRST, numbers[..., 1:]], -1).flatten(-2)


def _factors(like: Tensor) -> Tensor:
    return like.new_tensor(_BANDS) * like.new_tensor(_SIGNS)


# ---- five points, and where to cut ----


def five_from_68(points: Tensor) -> Tensor:
    """Five points (..., 5, D) of iBUG's 68 (..., 68, D): eye left and right in the image, nose, corners of the mouth.

    An eye is halfway between its two corners. Works for pixels and for points of a model alike.
    """
    if points.ndim < 2 or points.shape[-2] != 68:
        raise UsageError(f"five_from_68: expected points (..., 68, D), got {tuple(points.shape)}")
    left, right = points[..., [36, 39], :].mean(-2), points[..., [42, 45], :].mean(-2)
    return torch.stack([left, right, *(points[..., i, :] for i in (30, 48, 54))], -2)


def five_of_model(landmarks: Tensor, centre: Tensor) -> Tensor:
    """The five points (5, 3), decimetres in Deep3D's frame, of a model's 68 (68, 3) in our frame, millimetres.

    centre (3,): the point of the model that belongs into the origin of Deep3D's frame.
    """
    return five_from_68((landmarks - centre) * landmarks.new_tensor(_FLIP) / 100).double()


def crop_from_photo(five: Tensor, standard: Tensor = BFM_FIVE, size: int = SIZE) -> Tensor:
    """Matrix (..., 3, 3) float64 from photo pixels to those of the crop that Deep3D's networks see.

    The published alignment without its truncations to whole pixels, in positions where pixel centres are half-integers:
    an affine camera is fitted to the five points by least squares, the mean length of its two rows becomes 102 pixels
    per decimetre (of 224), and the place where it sees the model's origin the middle of the crop. No rotation is taken
    out.

    Args:
        five: (..., 5, 2) pixels: see `five_from_68`.
        standard: (5, 3), where a face at rest has them: BFM_FIVE, ICT_FIVE, or those of `five_of_model`.
        size: side of the crop.

    Raises UsageError for other shapes, and for points that have no size.
    """
    s, centre = _scale_and_centre(five.double(), standard.double())
    scale = CROP_SCALE * size / SIZE / s
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    x, y = (size / 2 - scale[..., None] * centre).unbind(-1)
    return torch.stack([scale, zero, x, zero, scale, y, zero, zero, one], -1).unflatten(-1, (3, 3))


def _scale_and_centre(five: Tensor, standard: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels per decimetre (...) and the pixel (..., 2) of the model's origin; y of pixels may count up or down."""
    if five.shape[-2:] != (5, 2) or standard.shape != (5, 3) or not bool(five.isfinite().all()):
        raise UsageError(
            f"alignment: expected five finite points (..., 5, 2) and a standard (5, 3), "
            f"got {tuple(five.shape)} and {tuple(standard.shape)}"
        )
    affine = affine_2d_from_3d_matrix(standard, five)
    s = affine[..., :3].norm(dim=-1).mean(-1)
    if bool((s < 1e-6).any()):
        raise UsageError("alignment: the five points lie in one place; give a face's own")
    return s, affine[..., 3]


class PublishedAlignment(NamedTuple):
    """What the published code does to one photo. Pixels count from 0 at their centres, and `ty` upwards, as there."""

    scale: float
    """Resized by so much, before the truncation."""
    tx: float
    """Column of the model's origin in the photo."""
    ty: float
    """Its row, counted upwards."""
    size: tuple[int, int]
    """Width and height of the resized photo."""
    corner: tuple[int, int]
    """Left and top edge of the crop in it."""
    five: np.ndarray
    """(5, 2) in the crop, column and row, without the truncations: up to a pixel from where the crop shows them."""
    crop_from_photo: np.ndarray
    """(3, 3), what really happens to the photo, in our positions."""


def align_published(
    five: np.ndarray, photo: tuple[int, int], standard: Tensor = BFM_FIVE, size: int = SIZE
) -> PublishedAlignment:
    """The alignment as published, with its truncations.

    Args:
        five: (5, 2) column and row, pixel centres on whole numbers (ours less 0.5); photo: (H, W).
        standard, size: as for `crop_from_photo`.
    """
    height, width = photo
    up = torch.from_numpy(np.stack([five[:, 0], height - 1 - five[:, 1]], -1)).double()
    s, centre = _scale_and_centre(up, standard.double())
    scale, (tx, ty) = CROP_SCALE * size / SIZE / float(s), centre.tolist()
    w, h = int(width * scale), int(height * scale)
    if min(w, h) < 1:
        raise UsageError(f"alignment: the photo would be {w} x {h} pixels; are the five points those of its face?")
    half = size / 2
    left = int(w / 2 - half + (tx - width / 2) * scale)
    top = int(h / 2 - half + (height / 2 - ty) * scale)
    moved = (up.numpy() - centre.numpy() + [width / 2, height / 2]) * scale - np.array([w / 2 - half, h / 2 - half])
    moved[:, 1] = size - 1 - moved[:, 1]
    matrix = np.array([[w / width, 0, -left], [0, h / height, -top], [0, 0, 1.0]])
    return PublishedAlignment(scale, tx, ty, (w, h), (left, top), moved, matrix)


def crop_published(pixels: np.ndarray, alignment: PublishedAlignment, size: int = SIZE) -> np.ndarray:
    """The crop (size, size, 3) uint8 of a photo (H, W, 3) uint8 as published: bicubic, black beyond the photo."""
    resized = Image.fromarray(pixels).resize(alignment.size, Image.Resampling.BICUBIC)
    left, top = alignment.corner
    return np.array(resized.crop((left, top, left + size, top + size)))


# ---- the published .mat file ----


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """One face in our conventions: what `published_fields` translates."""

    crop: Tensor
    """(3, S, S) RGB in [0, 1]: what the network saw."""
    image: Tensor
    """(3, S, S): the drawn face on black, in the same pixels; may exceed 1."""
    alpha: Tensor
    """(S, S) in [0, 1]."""
    coefficients: Coefficients
    """Of one face (B = 1)."""
    vertices: Tensor
    """(V, 3) camera space, turned and shifted."""
    albedo: Tensor
    """(V, 3) RGB, 1 is white."""
    colours: Tensor
    """(V, 3): the albedo in its light."""
    landmarks: Tensor
    """(68, 2) pixels of the crop."""
    five: Tensor
    """(5, 2) pixels of the crop: the points by which it was cut."""


def published_fields(face: Reconstruction) -> dict[str, np.ndarray]:
    """The fields of the published .mat file, in its units.

    cropped_img (S, S, 3) uint8, RGB. recon_img (S, S, 4) float32: RGB 0..255, clipped, on black, then alpha 0..1. coeff
    (1, N) float32, with N = 257 for the BFM. face_shape (V, 3) float32: decimetres, y up, z towards the camera, after
    rotation and translation. face_texture (V, 3) float32: albedo, 0..255. face_color (V, 3) float32: lit, 0..255, not
    clipped. lm_68p (68, 2) and lm_5p (5, 2) float32: column and row in cropped_img, counted from 0 at the centre of the
    top left pixel. (The published code writes lm_68p half a pixel right of and above what it draws.)

    Raises UsageError where shapes do not belong together.
    """
    _check(face)
    image = face.image.clamp(0, 1) * 255
    fields = {
        "cropped_img": (face.crop.clamp(0, 1) * 255).round().movedim(0, -1),
        "recon_img": torch.cat([image, face.alpha[None].clamp(0, 1)]).movedim(0, -1),
        "coeff": face.coefficients.flat(),
        "face_shape": points_to_deep3d(face.vertices),
        "face_texture": face.albedo * 255,
        "face_color": face.colours * 255,
        "lm_68p": face.landmarks - 0.5,
        "lm_5p": face.five - 0.5,
    }
    arrays = {name: value.detach().cpu().numpy().astype(np.float32) for name, value in fields.items()}
    return arrays | {"cropped_img": arrays["cropped_img"].astype(np.uint8)}


def _check(face: Reconstruction) -> None:
    size, count = face.crop.shape[-1], len(face.vertices)
    wanted = {
        "crop": (3, size, size),
        "image": (3, size, size),
        "alpha": (size, size),
        "vertices": (count, 3),
        "albedo": (count, 3),
        "colours": (count, 3),
        "landmarks": (68, 2),
        "five": (5, 2),
    }
    for name, shape in wanted.items():
        found = tuple(getattr(face, name).shape)
        if found != shape:
            raise UsageError(f"published_fields: expected {name} {shape}, got {found}")
    if len(face.coefficients.id) != 1:
        raise UsageError(f"published_fields: expected the coefficients of one face, got {len(face.coefficients.id)}")


def write_mat(path: str | PathLike[str], fields: dict[str, np.ndarray]) -> None:
    """Write fields as a MATLAB file (version 5). Raises OutputError, and MissingError where scipy is not installed."""
    savemat = need("scipy.io", "morphable").savemat
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        savemat(file, fields, do_compression=True)


def to_photo(points: Tensor, matrix: Tensor) -> Tensor:
    """Photo pixels (..., N, 2) of crop pixels, by the crop_from_photo matrix (..., 3, 3) that cut it."""
    return apply(torch.linalg.inv(matrix.to(points)), points)
