"""Pure functions on tensors: rotations, transforms, cameras, alignment, meshes, depth maps. See docs/conventions.md."""

from .align import affine_2d_from_3d, affine_2d_from_3d_matrix, orthographic_pose, procrustes, similarity
from .camera import (
    clip,
    clip_from_affine,
    clip_from_camera,
    clip_from_orthographic,
    intrinsics,
    pixel_centres,
    project,
    unproject,
)
from .depth import depth_normals, depth_to_mesh, depth_to_points, grid_faces, grid_normals
from .landmarks import MIRROR_68, landmarks_66_from_68, landmarks_68_from_66
from .mesh import face_normals, stack_meshes, vertex_normals
from .rotation import angles_from_rotation, nearest_rotation, rotation_from_angles
from .transform import apply, compose, invert, scaling, translation

__all__ = [
    "MIRROR_68",
    "affine_2d_from_3d",
    "affine_2d_from_3d_matrix",
    "angles_from_rotation",
    "apply",
    "clip",
    "clip_from_affine",
    "clip_from_camera",
    "clip_from_orthographic",
    "compose",
    "depth_normals",
    "depth_to_mesh",
    "depth_to_points",
    "face_normals",
    "grid_faces",
    "grid_normals",
    "intrinsics",
    "invert",
    "landmarks_66_from_68",
    "landmarks_68_from_66",
    "nearest_rotation",
    "orthographic_pose",
    "pixel_centres",
    "procrustes",
    "project",
    "rotation_from_angles",
    "scaling",
    "similarity",
    "stack_meshes",
    "translation",
    "unproject",
    "vertex_normals",
]
