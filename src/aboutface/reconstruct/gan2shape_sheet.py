"""A sheet of what GAN2Shape has made of some targets: for eyes only."""

from dataclasses import replace

import torch
from torch import Tensor

from ..generate.load import Gan
from .gan2shape import GAN2Shape, resized
from .gan2shape_steps import Material, Stock
from .unsup3d import Factors, View

SHOWN = 8
"""Targets, at most: a column each."""
YAWS = (-30.0, 30.0)
FRONT = (0.15, -0.3, -0.94)
"""Towards the light in which the shape is shown."""


@torch.no_grad()
def sheet(model: GAN2Shape, gan: Gan, material: Material, stock: Stock) -> Tensor:
    """(3, H, W) in [0, 1], a column per target. Rows: the target, its reconstruction, albedo, shape, the shape and the
    picture turned by 30 degrees to either side, the latter's projections, a pseudo sample and its projection."""
    images, w, anchors = (x[:SHOWN] for x in (material.images, material.w, material.anchors))
    factors = model(images)
    front = replace(factors, view=View(*(0 * angle for angle in factors.view)))
    shape = _shape(model, front)
    rows = [images, model.net.reproject(factors).image, factors.albedo, shape]
    turned = [_turned(front, yaw) for yaw in YAWS]
    rows += [_drawn(model, shape, each) for each in turned]
    seen = [_drawn(model, model.net.texture(each), each) for each in turned]
    rows += seen + [resized(model.project(gan, each, w, anchors), model.size) for each in seen]
    drawings, _ = stock.draw(model, torch.arange(len(images), device=images.device))
    rows += [drawings, resized(model.project(gan, drawings, w, anchors), model.size)]
    return torch.cat([torch.cat(list(row.clamp(0, 1).cpu()), -1) for row in rows], -2)


def _shape(model: GAN2Shape, factors: Factors) -> Tensor:
    normals = model.net.normals(factors.depth)
    return (normals * normals.new_tensor(FRONT).view(1, 3, 1, 1)).sum(1, keepdim=True).clamp(0, 1).expand(-1, 3, -1, -1)


def _turned(factors: Factors, yaw: float) -> Factors:
    return replace(factors, view=factors.view._replace(yaw=factors.view.yaw + yaw))


def _drawn(model: GAN2Shape, layers: Tensor, factors: Factors) -> Tensor:
    """Canonical layers in the factors' view, white where the surface ends."""
    seen = model.net.warp(layers, factors)
    return torch.where(seen.valid[:, None], seen.image, 1.0).clamp(0, 1)
