"""What Deep3D is trained by: a drawn face against a photo, landmarks against landmarks, and what keeps faces plausible.

Deng et al., CVPR workshops 2019, and its released codes; each function says where ours may differ, and does so only
when asked. Pictures are compared on a scale of 0 to 1, landmarks in pixels of a crop of 224.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ..reconstruct.deep3d import Coefficients, ExpressionKind

EPSILON = 1e-6
"""Added to squared differences of colour: a root has no slope at 0."""
LANDMARK_WEIGHTS = torch.ones(68)
"""(68,): 20 for the bridge and tip of the nose (28 to 30) and the inner lips (60 to 67), 1 elsewhere."""
LANDMARK_WEIGHTS[[28, 29, 30, *range(60, 68)]] = 20.0
JAW = slice(0, 17)
EXPRESSION_SPREAD = 0.25
"""What counts as one standard deviation of an expression whose weights lie in 0...1."""


@dataclass(frozen=True)
class LossWeights:
    """How much each loss counts. The defaults are those of both released codes."""

    photo: float = 1.92
    """Of `photometric_loss`."""
    landmark: float = 1.6e-3
    """Of `landmark_loss`, whose unit is a squared pixel."""
    perceptual: float = 0.2
    """Of `perceptual_loss`."""
    coefficients: float = 3e-4
    """Of `coefficient_loss`."""
    reflectance: float = 5.0
    """Of `reflectance_loss`."""
    gamma: float = 10.0
    """Of `gamma_loss`; the paper, whose light is white, has none."""
    identity: float = 1.0
    """Within `coefficient_loss`."""
    expression: float = 0.8
    """Within `coefficient_loss`."""
    albedo: float = 1.7e-2
    """Within `coefficient_loss`; the paper prints a tenth of it."""

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum of terms, by the names above. Raises UsageError for a name that has no weight of its own."""
        names = ("photo", "landmark", "perceptual", "coefficients", "reflectance", "gamma")
        if not terms or not set(terms) <= set(names):
            raise UsageError(f"losses: expected some of {', '.join(names)}, got {', '.join(terms) or 'none'}")
        return torch.stack([getattr(self, name) * term for name, term in terms.items()]).sum()


def photometric_loss(
    drawn: Tensor,
    photo: Tensor,
    mask: Tensor,
    attention: Tensor | None = None,
    *,
    per_image: bool = False,
    robust: float | None = None,
) -> Tensor:
    """Mean length of the difference in colour of pictures (B, 3, H, W), where the face is drawn and the photo skin.

    Args:
        drawn, photo: RGB, 1 is white.
        mask: (B, 1, H, W), 0 to 1, where the face is drawn. As published it has no gradient, see `Drawn.mask`.
        attention: (B, 1, H, W), 0 to 1: see `skin.skin_attention`; 1 everywhere if missing.
        per_image: average over the pixels of each picture first, so that large faces count no more than small ones. As
            published, all pixels of the batch are averaged at once.
        robust: a length r; differences d then count r * d / (r + d), never more than r, so that what hides a face
            pulls less. As published there is none.
    """
    weight = mask if attention is None else mask * attention
    length = ((drawn - photo).square().sum(1, keepdim=True) + EPSILON).sqrt()
    if robust is not None:
        length = robust * length / (robust + length)
    if not per_image:
        return (weight * length).sum() / weight.sum().clamp_min(1)
    return ((weight * length).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1)).mean()


def landmark_loss(found: Tensor, truth: Tensor, weights: Tensor = LANDMARK_WEIGHTS) -> Tensor:
    """Mean over all points of the weighted squared distance of (B, 68, 2); not divided by the sum of the weights."""
    return (weights.to(found) * (found - truth).square().sum(-1)).mean()


def distance(found: Tensor, truth: Tensor, outline: bool = False) -> Tensor:
    """Mean distance of points (B, 68, 2). With `outline` a jaw point counts only across the jaw line: on the surface it
    is a fixed place, and annotators follow the outline."""
    off = found - truth
    if outline:
        along = functional.normalize(truth[:, 2:17] - truth[:, :15], dim=-1)
        along = torch.cat([along[:, :1], along, along[:, -1:]], 1)
        jaw = off[:, JAW]
        off = torch.cat([jaw - 0.8 * (jaw * along).sum(-1, keepdim=True) * along, off[:, 17:]], 1)
    return (off.square().sum(-1) + 1e-6).sqrt().mean()


def perceptual_loss(drawn: Tensor, photo: Tensor) -> Tensor:
    """Mean of 1 less the cosine of features (B, F) that a face-recognition network has of two pictures; 0 to 2."""
    return (1 - functional.cosine_similarity(drawn, photo, dim=-1)).mean()


def coefficient_loss(
    coefficients: Coefficients, weights: LossWeights | None = None, kind: ExpressionKind = "gaussian"
) -> Tensor:
    """Weighted squared length of identity, expression and albedo, the mean over the batch.

    Expressions of kind "weights" count in units of EXPRESSION_SPREAD, so that the published weight keeps its meaning.
    """
    w = weights or LossWeights()
    expression = coefficients.exp / EXPRESSION_SPREAD if kind == "weights" else coefficients.exp
    parts = ((w.identity, coefficients.id), (w.expression, expression), (w.albedo, coefficients.tex))
    return torch.stack([weight * part.square().sum(-1) for weight, part in parts]).sum(0).mean()


def reflectance_loss(albedo: Tensor, skin: Tensor) -> Tensor:
    """Variance of the albedo (B, V, 3) over the skin (V,), 0 to 1, summed over the channels: skin is nearly of one
    colour.

    The variance is about each picture's own mean colour, and the mean over the batch.
    """
    share = (skin / skin.sum().clamp_min(1e-9)).to(albedo)[:, None]
    mean = (share * albedo).sum(1, keepdim=True)
    # As published the mask is squared with the difference; it is 0 or 1 there.
    return ((skin.to(albedo)[:, None] * share) * (albedo - mean).square()).sum((1, 2)).mean()


def gamma_loss(gamma: Tensor) -> Tensor:
    """Mean squared difference of gamma (B, 27) from the mean of its three channels: light is nearly white.

    0 for white light, (B, 9).
    """
    channels = gamma.unflatten(-1, (-1, 9))
    return (channels - channels.mean(-2, keepdim=True)).square().mean()
