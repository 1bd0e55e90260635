"""GAN2Shape against a generator whose pictures are drawn from a known shape: does it find that shape?"""

import pytest
import torch
from torch import Tensor, nn

from aboutface.generate.load import Gan
from aboutface.geometry import depth_normals, rotation_from_angles
from aboutface.nn.stylegan2 import Discriminator, PixelNorm, tiny_settings
from aboutface.reconstruct.gan2shape import GAN2Shape, GAN2ShapeSettings, Target, ViewLightStatistics, towards
from aboutface.reconstruct.gan2shape_run import first_shape, optimise
from aboutface.reconstruct.gan2shape_schedule import Schedule, Stage
from aboutface.reconstruct.gan2shape_steps import Lights, Losses
from aboutface.reconstruct.unsup3d import Unsup3dSettings, camera
from aboutface.render.reproject import reproject

SIZE, LATENT = 16, 16
ANGLES = torch.tensor([20.0, 10.0, 5.0])


class Hill(nn.Module):
    """w -> pictures of one shape, a steep hill: its view, its light and its colours are in w."""

    K: Tensor
    depth: Tensor
    patterns: Tensor

    def __init__(self) -> None:
        super().__init__()
        axis = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
        x, y = axis[None], axis[:, None]
        depth = 1.04 - 0.11 * torch.exp(-(x**2) / 0.25 - y**2 / 0.5)
        random = torch.Generator().manual_seed(0)
        half = nn.functional.interpolate(torch.randn(6, 3, 5, 3, generator=random), (SIZE, SIZE // 2), mode="bilinear")
        self.register_buffer("K", camera(SIZE))
        self.register_buffer("depth", depth)
        self.register_buffer("patterns", torch.cat([half, half.flip(-1)], -1))

    def forward(self, w: Tensor) -> Tensor:
        rotation = rotation_from_angles(*(w[:, :3] * ANGLES).unbind(1))
        direction = towards(0.4 * w[:, 3:5] + torch.tensor([0.0, -0.25]))
        normals = depth_normals(self.depth[None], self.K)[0]
        shading = 0.4 + 0.5 * torch.einsum("chw,bc->bhw", normals, direction).clamp_min(0)
        albedo = torch.sigmoid(torch.einsum("bk,kchw->bchw", w[:, 6:12], self.patterns) + 0.5)
        depth = self.depth.expand(len(w), -1, -1)
        return reproject(albedo * shading[:, None], depth, rotation, torch.zeros(len(w), 3), self.K).image


class Known(nn.Module):
    """The generator of these: w is what is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.settings, self.synthesis, self.mapping = tiny_settings(SIZE), Hill(), nn.Module()
        self.mapping.layers = nn.Sequential(PixelNorm())


@pytest.fixture
def gan():
    torch.manual_seed(0)
    critic = Discriminator.tiny(SIZE).requires_grad_(False).eval()
    return Gan(Known().requires_grad_(False), critic, {})  # type: ignore[arg-type]


def error(depth: Tensor, wanted: Tensor) -> Tensor:
    """(B,): standard deviation of the difference to the known shape (S, S), inside."""
    inside = (..., slice(2, -2), slice(2, -2))
    return (depth[inside] - wanted[inside]).flatten(1).std(1)


def test_it_finds_a_shape_that_it_never_saw(gan):
    """From a cap half as high as the hill; 0.58 of its error is left, and the yaws correlate by 0.91."""
    torch.manual_seed(1)
    synthesis = gan.generator.synthesis
    w = torch.randn(12, LATENT)
    targets = [Target(image, one) for image, one in zip(synthesis(w), w, strict=True)]
    spread = torch.cat([ANGLES, torch.full((3,), 1e-3)])
    statistics = ViewLightStatistics(torch.zeros(6), torch.diag(spread.square()), torch.tensor([0.4, 0.5, 0.0, -0.25]))
    network = Unsup3dSettings(
        size=SIZE, width=8, latent=16, encoder_width=8, confidence_width=0, mean=True, depth_head="smooth",
        albedo_head="sharp",
    )  # fmt: skip
    model = GAN2Shape(GAN2ShapeSettings(network, LATENT, 8, mapping_depth=-1), statistics)
    schedule = Schedule(
        (Stage(5, 30, 70), Stage(5, 15, 70, True)), targets=4, batch=3, samples=8, prior="weak", learning_rate=2e-3,
        encoder_rate=2e-3, weight_decay=0.0, losses=Losses(perceptual=0.0, bending=0.05),
        lights=Lights((-0.4, 0.4), (-0.6, 0.1), (-0.1, 0.2), 0.0),
    )  # fmt: skip
    start = float(error(first_shape(model, targets, schedule)[None], synthesis.depth))
    optimise(model, gan, targets, schedule)
    with torch.no_grad():
        found = model(torch.stack([target.image for target in targets]))
    yaw = torch.corrcoef(torch.stack([found.view.yaw, w[:, 0]]))[0, 1]
    assert float(error(found.depth, synthesis.depth).mean()) < 0.8 * start
    assert float(yaw) > 0.8
