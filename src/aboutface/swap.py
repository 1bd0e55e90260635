"""Face replacement: one person's face carried to another's landmarks, colour and photo.

The way of the DepthNets paper (section 2.3 and its figures): lift the source's keypoints, solve the closed-form affine
to the target's keypoints, warp. Here the whole front of the closed head goes through that affine, the jaw line is then
drawn onto the target's, and colour and light are taken over at the seam.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from .errors import NoFaceError
from .face import Face
from .filters import fill
from .geometry import affine_2d_from_3d_matrix
from .head import Head
from .images import Photo, to_pixels, to_tensor
from .morphable import bend
from .render import interpolate, rasterize, texture

INNER_FIT = 0.35
"""How far brows, eyes, nose and mouth move from the affine's place towards the target's: 0 keeps the source's shape."""


@dataclass(frozen=True, eq=False)
class Swapped:
    """The target photo with the source's face."""

    pixels: np.ndarray
    """(H, W, 3) uint8, the target photo's size."""
    mask: np.ndarray
    """(H, W) float32, 0 to 1: how far each pixel was replaced."""
    invented: float
    """Share of the replaced face that the source photo does not show."""


def swap_face(source: Head, target_photo: Photo, target: Face) -> Swapped:
    """The front of `source` warped to the landmarks of `target` and blended into its photo.

    Raises NoFaceError where these lie outside the photo.
    """
    box = _box(target, target_photo)
    left, top, right, bottom = box
    size = (bottom - top, right - left)
    if min(size) < 1:
        height, width = target_photo.size
        raise NoFaceError(f"The target's face lies outside its photo of {width} x {height} px.")
    mesh = source.scene.mesh_at_rest()
    assert mesh.uv is not None
    fragments = rasterize(_clip(_retarget(source, target, box), size)[None], mesh.faces, size)
    drawn = interpolate(torch.cat([mesh.uv, source.seen[:, None]], -1), fragments, mesh.faces)
    rgb = texture(source.scene.albedo[None], drawn[..., :2])[0]
    there = to_tensor(target_photo.pixels[top:bottom, left:right])[0]
    mask = _mask(target, box) * (fragments.triangle_id[0] >= 0)
    mask_soft = _feathered(mask, target.size / 40)
    blended = torch.lerp(there, _in_the_light_of(rgb, there, mask, target.size), mask_soft)
    pixels = target_photo.pixels.copy()
    pixels[top:bottom, left:right] = to_pixels(blended)
    full_mask = np.zeros(pixels.shape[:2], np.float32)
    full_mask[top:bottom, left:right] = mask_soft.numpy()
    unseen = (drawn[0, ..., 2] < 0.1)[mask > 0.5]
    return Swapped(pixels, full_mask, float(unseen.float().mean()) if unseen.numel() else 0.0)


def _box(face: Face, photo: Photo) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the photo around the face, cut at its edges."""
    (left, top), (right, bottom) = face.landmarks.min(0), face.landmarks.max(0)
    margin = 0.25 * max(right - left, bottom - top)
    return (
        max(0, int(left - margin)),
        max(0, int(top - margin)),
        min(photo.width, int(right + margin) + 1),
        min(photo.height, int(bottom + margin) + 1),
    )


def _retarget(source: Head, target: Face, box: tuple[int, int, int, int]) -> Tensor:
    """The source head's vertices (V, 3): x, y in pixels of the box, z growing away from the viewer."""
    scene = source.scene
    assert scene.landmarks is not None
    goal = torch.from_numpy(target.landmarks).float() - torch.tensor([box[0], box[1]])
    affine = affine_2d_from_3d_matrix(scene.landmarks, goal)
    # The affine says nothing about depth order; it is taken as seen along the direction that it flattens.
    along = torch.linalg.cross(affine[0, :3], affine[1, :3], dim=-1)
    along = along / along.norm() * affine[:, :3].norm(dim=1).mean()
    full = torch.cat([affine[:, :3], along[None]])
    shift = torch.cat([affine[:, 3], torch.zeros(1)])
    vertices = scene.mesh_at_rest().vertices @ full.mT + shift
    landmarks = scene.landmarks @ full.mT + shift
    wanted = landmarks.clone()
    strength = torch.full((68, 1), INNER_FIT)
    strength[:17] = 1.0
    wanted[:, :2] = torch.lerp(landmarks[:, :2], goal, strength)
    return bend(vertices, landmarks, wanted, smoothing=0.1, reach=0.6 * target.size)


def _clip(vertices: Tensor, size: tuple[int, int]) -> Tensor:
    """Orthographic clip space (V, 4) of vertices (V, 3) in pixels."""
    depth = vertices[:, 2] - vertices[:, 2].mean()
    depth = depth / depth.abs().max().clamp_min(1e-6) * 0.9
    scale = torch.tensor([2 / size[1], 2 / size[0]])
    return torch.cat([vertices[:, :2] * scale - 1, depth[:, None], torch.ones_like(depth)[:, None]], -1)


def _mask(target: Face, box: tuple[int, int, int, int]) -> Tensor:
    """(h, w) 1 inside the target's face: the jaw line and the brows, lifted a little so that they are inside."""
    points = target.landmarks - [box[0], box[1]]
    upwards = points[27] - points[8]
    brows = points[17:27] + 0.18 * upwards
    outline = np.concatenate([points[:17], brows[::-1]])
    mask = np.zeros((box[3] - box[1], box[2] - box[0]), np.uint8)
    cv2.fillPoly(mask, [np.round((outline - 0.5) * 16).astype(np.int32)], 255, shift=4)
    inset = max(1, round(target.size / 40))
    mask = cv2.erode(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * inset + 1, 2 * inset + 1)))
    return torch.from_numpy(mask).float() / 255


def _feathered(mask: Tensor, width: float) -> Tensor:
    """1 well inside, falling to 0 at the mask's own edge over `width` pixels."""
    distance = cv2.distanceTransform((mask > 0.5).numpy().astype(np.uint8), cv2.DIST_L2, 5)
    return torch.from_numpy(distance / max(width, 1.0)).clamp(0, 1)


def _in_the_light_of(face: Tensor, photo: Tensor, mask: Tensor, size: float) -> Tensor:
    """The face (3, h, w) with the photo's colour.

    First its mean and spread inside the mask in CIE Lab (Reinhard et al. 2001), then the difference left over along the
    seam is spread over the inside, which is what a gradient-domain blend does (Perez et al. 2003).
    """
    inside = mask > 0.5
    lab_face, lab_photo = _lab(face), _lab(photo)
    for channel in range(3):
        a, b = lab_face[..., channel][inside.numpy()], lab_photo[..., channel][inside.numpy()]
        if a.size:
            spread = np.clip((b.std() + 1e-3) / (a.std() + 1e-3), 0.6, 1.6)
            lab_face[..., channel] = (lab_face[..., channel] - a.mean()) * spread + b.mean()
    matched = torch.from_numpy(cv2.cvtColor(lab_face, cv2.COLOR_LAB2RGB)).permute(2, 0, 1).clamp(0, 1)
    ring = inside.float() - torch.from_numpy(
        cv2.erode(inside.numpy().astype(np.uint8), np.ones((3, 3), np.uint8), iterations=max(2, round(size / 60)))
    )
    difference = fill((photo - matched).clamp(-0.25, 0.25), ring)
    return (matched + difference).clamp(0, 1)


def _lab(image: Tensor) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2LAB)
