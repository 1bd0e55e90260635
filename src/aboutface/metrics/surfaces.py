"""Scores of depth maps, as Unsup3d (Wu et al., CVPR 2020) and GAN2Shape (Pan et al., ICLR 2021) measure them.

Both maps are of one camera, in the view of the input image. The pixels that count are those of
`eroded(mask) & eroded(valid)`: mask where there is a true surface, valid where there is a predicted one. Leading
dimensions are free; the result has one number per map. It is NaN where no pixel counts: that is no error of 0, and a
mean over images must not overlook it.
"""

import torch
from torch import Tensor
from torch.nn import functional


def eroded(mask: Tensor) -> Tensor:
    """Pixels of boolean masks (..., H, W) whose eight neighbours are in the mask, too; never those of the frame.

    There central differences see the surface alone.
    """
    # A zero beyond the frame: with it no 3 x 3 mean there is 1.
    share = functional.avg_pool2d(mask.float().reshape(-1, 1, *mask.shape[-2:]), 3, stride=1, padding=1)
    return (share > 0.99).view(mask.shape)


def side(depth: Tensor, true_depth: Tensor, mask: Tensor) -> Tensor:
    """Scale-invariant depth error (...) of depths (..., H, W) above 0, over the mask: no unit; tables print it x 100.

    Standard deviation of the difference of natural logarithms (Eigen et al. 2014, as Unsup3d uses it). No scale of
    either map changes it.
    """
    error = torch.where(mask, depth, 1).log() - torch.where(mask, true_depth, 1).log()
    centre = masked_mean(error, mask)[..., None, None]
    return masked_mean((error - centre).square(), mask).sqrt()


def mad(normals: Tensor, true_normals: Tensor, mask: Tensor) -> Tensor:
    """Mean angle deviation (...) in degrees of unit normals (..., 3, H, W), over the mask (..., H, W).

    Take both from depth maps by one camera (`geometry.depth_normals`), as Unsup3d does.
    """
    cosine = (normals * true_normals).sum(-3).clamp(-1, 1)
    return masked_mean(torch.rad2deg(torch.acos(cosine)), mask)


def depth_mae(depth: Tensor, true_depth: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error (...) of depths (..., H, W), in their unit. It counts offset and scale."""
    return masked_mean((depth - true_depth).abs(), mask)


def depth_mse(depth: Tensor, true_depth: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error (...) of depths (..., H, W), in their unit's square. It counts offset and scale."""
    return masked_mean((depth - true_depth).square(), mask)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean (...) of values (..., H, W) over the mask (..., H, W); NaN for an empty one.

    What lies outside may be anything, also infinite.
    """
    return torch.where(mask, values, 0).sum((-2, -1)) / mask.sum((-2, -1))
