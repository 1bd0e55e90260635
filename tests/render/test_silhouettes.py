"""Gradients of coverage of a real face, whose triangles are smaller than pixels, against finite differences."""

import json

import numpy as np
import pytest
import torch

from aboutface.geometry import clip, clip_from_camera, intrinsics, rotation_from_angles
from aboutface.render import antialias, rasterize

FACTOR = 16
"""Supersampling of the truth along each side."""


@pytest.fixture(scope="module")
def face(data):
    """Vertices (V, 3), float64, of the ICT model's neutral face in camera axes, within 1 of the origin, and faces."""
    with np.load(data / "ict-facekit-light.npz") as file:
        first, end = json.loads(str(file["parts"]))["face"]
        vertices, quads = torch.from_numpy(file["mean"][first:end]).double(), torch.from_numpy(file["faces"]).long()
    quads = quads[((quads < end) & (quads.roll(1, -1) < end)).all(-1) & (quads[:, :3] >= first).all(-1)]
    faces = torch.cat([quads[:, :3], quads[quads[:, 3] >= 0][:, [0, 2, 3]]])
    assert len(faces) == 18460
    vertices = (vertices - vertices.mean(0)) * torch.tensor([1.0, -1.0, -1.0])
    return vertices / vertices.abs().max(), faces


def orthographic(vertices: torch.Tensor, parameters: torch.Tensor, size: int) -> torch.Tensor:
    """Clip space (1, V, 4) after moves in x and y, scaling, and a turn in the image plane (radians)."""
    x, y, scale, roll = parameters
    turn = torch.stack([torch.stack([roll.cos(), -roll.sin()]), torch.stack([roll.sin(), roll.cos()])])
    xy = vertices[:, :2] @ turn.mT * scale + torch.stack([x, y])
    return torch.cat([xy, vertices[:, 2:] * 0.5, torch.ones_like(vertices[:, :1])], -1)[None]


def perspective(vertices: torch.Tensor, parameters: torch.Tensor, size: int) -> torch.Tensor:
    """Clip space (1, V, 4) before a close camera: moves in x, y and z, yaw, pitch (radians), focal length."""
    x, y, z, yaw, pitch, zoom = parameters
    zero = torch.zeros_like(yaw)
    points = vertices @ rotation_from_angles(torch.rad2deg(yaw), torch.rad2deg(pitch), zero).mT
    points = points + torch.stack([x, y, z + 3])
    matrix = clip_from_camera(intrinsics(30.0, (size, size)).double(), (size, size))
    one = torch.ones_like(zoom)
    return clip(points, matrix)[None] * torch.stack([zoom, zoom, one, one])


CAMERAS = [(orthographic, (0.02, -0.03, 0.8, 0.1)), (perspective, (0.05, -0.02, 0.0, 0.3, -0.1, 1.0))]


def coverage(corners: torch.Tensor, faces: torch.Tensor, size: int) -> torch.Tensor:
    """The truth (size, size), by supersampling."""
    ids = rasterize(corners, faces, (size * FACTOR, size * FACTOR)).triangle_id
    return torch.nn.functional.avg_pool2d((ids >= 0).float(), FACTOR)[0].double()


@pytest.mark.parametrize("size", [128, 224])
@pytest.mark.parametrize(("camera", "start"), CAMERAS)
def test_the_gradient_of_coverage_is_that_of_supersampling(face, size, camera, start):
    vertices, faces = face
    start = torch.tensor(start, dtype=torch.float64)
    coarse = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.2
    weights = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)[0, 0]

    scale_like = 2 if camera is orthographic else 5

    def truth(parameters: torch.Tensor) -> torch.Tensor:
        return coverage(camera(vertices, parameters, size), faces, size)

    parameters = start.clone().requires_grad_()
    posed = camera(vertices, parameters, size)
    fragments = rasterize(posed, faces, (size, size))
    covered = (fragments.triangle_id >= 0).double()[:, None]
    soft = antialias(covered, fragments, posed, faces)[0, 0]
    (gradient,) = torch.autograd.grad((soft * weights).sum(), parameters)
    step = 1 / size  # half a pixel in x and y, and about as much at the outline by all others
    moved = torch.eye(len(start), dtype=torch.float64) * step
    expected = [((truth(start + d) - truth(start - d)) * weights).sum() / (2 * step) for d in moved]
    expected = torch.stack(expected)
    exact = truth(start)
    assert (soft.detach() - exact).abs().sum() < 0.15 * (covered[0, 0] - exact).abs().sum()
    assert torch.cosine_similarity(gradient, expected, dim=0) >= 0.995
    assert 0.95 <= gradient[scale_like] / expected[scale_like] <= 1.05


@pytest.mark.parametrize("size", [128, 224])
@pytest.mark.parametrize(("camera", "start"), CAMERAS)
def test_each_part_of_the_outline_has_its_gradient(face, size, camera, start):
    # What the two sides of a face do to the gradient of a shift nearly cancels; so here each block is compared.
    vertices, faces = face
    start = torch.tensor(start, dtype=torch.float64)
    blocks = size // 32
    clip_ = camera(vertices, start, size)
    fragments = rasterize(clip_, faces, (size, size))

    def soft(parameters: torch.Tensor) -> torch.Tensor:
        covered = (fragments.triangle_id >= 0).double()[:, None]
        return antialias(covered, fragments, camera(vertices, parameters, size), faces)[0, 0]

    def summed(picture: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(picture[None, None], size // blocks, divisor_override=1).flatten()

    found = torch.autograd.functional.jacobian(lambda p: summed(soft(p)), start).T
    step = 1 / size
    for row, direction in zip(found, torch.eye(len(start), dtype=torch.float64) * step, strict=True):
        plus, minus = (coverage(camera(vertices, start + d, size), faces, size) for d in (direction, -direction))
        expected = summed(plus - minus) / (2 * step)
        assert (row - expected).abs().sum() <= 0.15 * expected.abs().sum()
