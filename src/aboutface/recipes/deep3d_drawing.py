"""The face that coefficients describe, drawn and compared with its photo: colours, and whose face it looks like."""

from dataclasses import fields

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..geometry import similarity
from ..morphable import MorphableModel
from ..nn.iresnet import FACE_SIZE, FIVE
from ..nn.perceptual import FilterFeatures
from ..reconstruct.deep3d import Coefficients
from ..reconstruct.deep3d_draw import Basis, Drawn, draw
from ..reconstruct.deep3d_frame import five_from_68
from ..reconstruct.deep3d_landmarks import FaceRegressor
from ..skin import skin_attention
from .deep3d_losses import gamma_loss, perceptual_loss, photometric_loss, reflectance_loss


class Drawing(nn.Module):
    """A basis that is drawn. Its tensors are buffers: they move with the module and are in no checkpoint."""

    skin: Tensor
    front: Tensor | None

    def __init__(
        self,
        basis: Basis,
        skin: Tensor | None = None,
        front: Tensor | None = None,
        recognition: nn.Module | None = None,
    ) -> None:
        """Args:
        skin: (V,) where the albedo is nearly of one colour; everywhere if missing.
        front: (V,) bool, whose colours are compared; everything if missing.
        recognition: by whose features the face, drawn before the photo, is compared with the photo; not if missing.
            (B, 3, 112, 112) in [0, 1] to (B, F): `nn.iresnet.IResNet`, or `FilterRecognition`.
        """
        super().__init__()
        for part in fields(Basis):
            self.register_buffer(part.name, getattr(basis, part.name), persistent=False)
        skin = torch.ones(len(basis.mean)) if skin is None else skin.float()
        self.register_buffer("skin", skin, persistent=False)
        self.register_buffer("front", None if front is None else front.float(), persistent=False)
        self.recognition = recognition

    @classmethod
    def of(cls, net: FaceRegressor, model: MorphableModel, recognition: nn.Module | None = None) -> "Drawing":
        """What a network says of a model."""
        front = model.masks.get("front")
        front = None if front is None or bool(front.all()) else front
        return cls(net.basis(model), model.masks.get("skin"), front, recognition)

    @property
    def basis(self) -> Basis:
        """What is drawn, where the module is."""
        return Basis(**{part.name: getattr(self, part.name) for part in fields(Basis)})

    def forward(self, coefficients: Coefficients, size: int) -> Drawn:
        return draw(self.basis, coefficients, size, vertex_mask=self.front)

    def terms(self, coefficients: Coefficients, images: Tensor, points: Tensor) -> dict[str, Tensor]:
        """Losses by the names of `LossWeights`, of coefficients of B photos (B, 3, S, S) with landmarks (B, 68, 2)."""
        drawn = self(coefficients, images.shape[-1])
        over, attention = drawn.over(images), skin_attention(images)
        terms = {
            "photo": photometric_loss(over, images, drawn.mask, attention, per_image=True, robust=0.5),
            # How skin varies in the mean is known; what is each face's own is to be of one colour.
            "reflectance": reflectance_loss(drawn.albedo - self.basis.albedo_mean, self.skin),
            "gamma": gamma_loss(coefficients.gamma),
        }
        if self.recognition is not None:
            with torch.no_grad():
                wanted = self.recognition(face_crops(images, points))
            found = self.recognition(face_crops(over, drawn.landmarks))
            terms["perceptual"] = perceptual_loss(found, wanted)
        return terms


class FilterRecognition(nn.Module):
    """The stand-in where no face-recognition network is given: what fixed filters see at half the size.

    Pictures (B, 3, 112, 112) in [0, 1] -> (B, F). It knows edges and their contrast, not people.
    """

    def __init__(self) -> None:
        super().__init__()
        self.filters = FilterFeatures(scales=2, directions=2)

    def forward(self, images: Tensor) -> Tensor:
        return self.filters(functional.avg_pool2d(images, 2)).flatten(1)


def face_crops(images: Tensor, points: Tensor) -> Tensor:
    """Faces (B, 3, 112, 112) of pictures (B, 3, S, S) by their landmarks (B, 68, 2), as ArcFace wants them.

    The similarity of least squares from five points to the template; no gradient goes through where they lie.
    """
    # In our positions, which count from the corner of the first pixel.
    template = FIVE.to(points) + 0.5
    face_from_image = similarity(five_from_68(points.detach()), template)
    unit_from_image, face_from_unit = torch.linalg.inv(_from_unit(images.shape[-1])), _from_unit(FACE_SIZE)
    matrix = unit_from_image.to(points) @ torch.linalg.inv(face_from_image) @ face_from_unit.to(points)
    grid = functional.affine_grid(matrix[:, :2], [len(images), 3, FACE_SIZE, FACE_SIZE], align_corners=False)
    return functional.grid_sample(images, grid.to(images), mode="bilinear", align_corners=False)


def _from_unit(size: int) -> Tensor:
    """Pixels of a square from -1...1, as grid_sample counts between its outer edges."""
    return torch.tensor([[size / 2, 0, size / 2], [0, size / 2, size / 2], [0, 0, 1.0]])
