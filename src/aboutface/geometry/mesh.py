"""Triangle meshes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UsageError


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Normals (..., F, 3) of length twice the area, of vertices (..., V, 3) and faces (F, 3).

    Corners that run clockwise as seen by the camera (x right, y down) give a normal towards the camera (-z).
    Vertices (B, V, 3) may have faces of their own each, (B, F, 3).
    """
    if faces.ndim == 3:
        faces = faces.expand(len(vertices), -1, -1)
        return face_normals(vertices.flatten(0, 1), _joined(faces, vertices.shape[1])).unflatten(0, faces.shape[:2])
    table = _rows(vertices)
    normals = _face_normals(table, faces)
    return normals.view(len(faces), *vertices.shape[:-2], 3).movedim(0, -2)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted unit normals (..., V, 3) of vertices (..., V, 3); zero where no triangle of positive area meets.

    Faces are (F, 3), or (B, F, 3) for vertices (B, V, 3).
    """
    if faces.ndim == 3:
        faces = faces.expand(len(vertices), -1, -1)
        joined = vertex_normals(vertices.flatten(0, 1), _joined(faces, vertices.shape[1]))
        return joined.unflatten(0, vertices.shape[:2])
    table = _rows(vertices)
    normals, total = _face_normals(table, faces), torch.zeros_like(table)
    for column in faces.unbind(1):
        total = total.index_add(0, column, normals)
    return unit(total.view(vertices.shape[-2], *vertices.shape[:-2], 3).movedim(0, -2))


def stack_meshes(meshes: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """A batch for the renderer of B different meshes: vertices (B, V, C) and faces (B, F, 3).

    Args:
        meshes: vertices (V_i, C), with the same C for all, and faces (F_i, 3). C is 3 for positions alone; put
            attributes (colours, texture coordinates) into further columns to have them padded alike.

    Short meshes are filled up with copies of their first vertex, and with triangles (0, 0, 0), which are never drawn.
    Raises UsageError for no meshes, or for ones that do not fit together.
    """
    shapes = [(tuple(vertices.shape), tuple(faces.shape)) for vertices, faces in meshes]
    if not shapes or any(len(v) != 2 or len(f) != 2 or v[1] != shapes[0][0][1] or f[1] != 3 for v, f in shapes):
        raise UsageError(
            f"stack_meshes: expected pairs of vertices (V, C), one C for all, and faces (F, 3), got {shapes}"
        )
    most_vertices, most_faces = max(v[0] for v, _ in shapes), max(f[0] for _, f in shapes)
    rows, triangles = [], []
    for vertices, faces in meshes:
        # Where there is no vertex to copy, nothing is drawn either.
        filling = vertices[:1] if len(vertices) else vertices.new_zeros(1, vertices.shape[1])
        rows.append(torch.cat([vertices, filling.expand(most_vertices - len(vertices), -1)]))
        triangles.append(torch.cat([faces, faces.new_zeros(most_faces - len(faces), 3)]))
    return torch.stack(rows), torch.stack(triangles)


def unit(vectors: Tensor) -> Tensor:
    """Vectors (..., D) brought to length 1; zero stays zero, with derivative zero."""
    square = vectors.square().sum(-1, keepdim=True)
    # A division by a tiny length instead would overflow in the derivative.
    return torch.where(square > 0, vectors / torch.where(square > 0, square, 1.0).sqrt(), torch.zeros_like(vectors))


def cross(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    """Cross product of vectors given as three tensors each: several times as fast as one on a last dimension of 3."""
    return [a[i - 2] * b[i - 1] - a[i - 1] * b[i - 2] for i in range(3)]


def _rows(vertices: Tensor) -> Tensor:
    """(V, N * 3): one row holds a vertex of all N items, so that all are gathered and added up at once."""
    return vertices.movedim(-2, 0).flatten(1)


def _face_normals(table: Tensor, faces: Tensor) -> Tensor:
    a, b, c = (table.index_select(0, column).view(len(faces), table.shape[1] // 3, 3) for column in faces.unbind(1))
    return torch.stack(cross((c - a).unbind(-1), (b - a).unbind(-1)), -1).flatten(1)


def _joined(faces: Tensor, count: int) -> Tensor:
    """Faces (B * F, 3) of all items as one mesh, of (B, F, 3) with `count` vertices each."""
    return (faces + torch.arange(len(faces), device=faces.device).view(-1, 1, 1) * count).flatten(0, 1)
