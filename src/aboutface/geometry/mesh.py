"""Triangle meshes."""

import torch
from torch import Tensor


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Normals (..., F, 3) of length twice the area, of vertices (..., V, 3) and faces (F, 3).

    Corners that run clockwise as seen by the camera (x right, y down) give a normal towards the camera (-z).
    """
    a, b, c = (vertices.index_select(-2, faces[:, i]) for i in range(3))
    return torch.linalg.cross(c - a, b - a, dim=-1)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted unit normals (..., V, 3) of vertices (..., V, 3); zero where no triangle of positive area meets."""
    normals = face_normals(vertices, faces)
    total = torch.zeros_like(vertices)
    for i in range(3):
        total = total.index_add(-2, faces[:, i], normals)
    return unit(total)


def unit(vectors: Tensor) -> Tensor:
    """Vectors (..., D) brought to length 1; zero stays zero, with derivative zero."""
    square = vectors.square().sum(-1, keepdim=True)
    # A division by a tiny length instead would overflow in the derivative.
    return torch.where(square > 0, vectors / torch.where(square > 0, square, 1.0).sqrt(), torch.zeros_like(vectors))
