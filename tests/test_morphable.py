"""The mean head: a closed, symmetric surface through its landmarks, and the way it is bent."""

import math
from collections import Counter

import torch

from aboutface.face import MIRROR_68
from aboutface.geometry import vertex_normals
from aboutface.morphable import MeanHead, bend


def test_the_head_is_its_own_mirror_image():
    head = MeanHead.load()
    flip = torch.tensor([-1.0, 1.0, 1.0])
    vertices = head.vertices().unflatten(0, head.radius.shape)
    torch.testing.assert_close(vertices.flip(1) * flip, vertices, rtol=0, atol=0.02)
    torch.testing.assert_close(head.landmarks[MIRROR_68] * flip, head.landmarks, rtol=0, atol=1e-3)


def test_landmarks_lie_on_the_surface_and_the_face_looks_at_the_camera():
    head = MeanHead.load()
    assert torch.cdist(head.landmarks, head.vertices()).min(1).values.max() < 4
    nose, chin, ears = head.landmarks[30], head.landmarks[8], head.landmarks[[0, 16]]
    assert nose[2] < ears[:, 2].min() - 80
    assert chin[1] > nose[1] > head.landmarks[27, 1]
    assert ears[0, 0] < 0 < ears[1, 0]


def test_the_head_is_closed_except_at_the_neck():
    head = MeanHead.load()
    rows, columns = head.radius.shape
    # Places that coincide (the back seam, the crown) count as one.
    _, place = head.vertices().round(decimals=2).unique(dim=0, return_inverse=True)
    neck = set(place[(rows - 1) * columns :].tolist())
    edges = Counter(
        tuple(sorted((a, b)))
        for face in place[head.faces()].tolist()
        if len(set(face)) == 3
        for a, b in ((face[0], face[1]), (face[1], face[2]), (face[2], face[0]))
    )
    open_edges = [edge for edge, count in edges.items() if count != 2]
    assert all(count <= 2 for count in edges.values())
    assert all(set(edge) <= neck for edge in open_edges)
    assert len(open_edges) == columns - 1


def test_normals_point_outwards():
    head = MeanHead.load()
    vertices = head.vertices()
    outwards = torch.nn.functional.normalize(vertices * torch.tensor([1.0, 0.0, 1.0]), dim=-1)
    facing = (vertex_normals(vertices, head.faces()) * outwards).sum(-1)
    assert (facing > 0).float().mean() > 0.97


def test_columns_and_azimuths_are_inverse():
    head = MeanHead.load()
    columns = head.column_of(head.azimuths().double())
    torch.testing.assert_close(columns, torch.arange(head.radius.shape[1]).double() + 0.5, rtol=0, atol=1e-4)
    assert abs(float(head.column_of(torch.tensor(math.pi, dtype=torch.float64))) - (head.radius.shape[1] - 0.5)) < 1e-6


def test_bending_meets_its_targets_and_leaves_the_far_side_alone():
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(12, 3, generator=generator).double() * 30
    target = source + torch.randn(12, 3, generator=generator).double() * 5
    far = torch.tensor([[500.0, 0.0, 0.0]]).double()
    moved = bend(torch.cat([source, far]), source, target, smoothing=1e-9)
    torch.testing.assert_close(moved[:12], target, rtol=0, atol=1e-5)
    torch.testing.assert_close(moved[12:], far)
    half = bend(source, source, target, weights=torch.full((12,), 1e-9).double())
    torch.testing.assert_close(half, source, rtol=0, atol=1e-3)
