"""Deep3D on a photo: the face's crop through the small network, and its coefficients as a scene."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..data.crop import cut
from ..errors import MissingError, NoFaceError, UsageError
from ..face import MIRROR_68, Face
from ..geometry import orthographic_pose
from ..images import Photo, to_tensor
from ..morphable import POSE_WEIGHTS, MorphableModel
from ..nn.mobile import fused
from ..scene import Scene, SphericalHarmonics
from ..weights import REGISTRY, path
from .deep3d import Coefficients
from .deep3d_face import described, photo_intrinsics, placement, published_part
from .deep3d_frame import (
    ICT_FIVE,
    MILLIMETRES_PER_UNIT,
    SIZE,
    crop_from_photo,
    five_from_68,
    gamma_from_light,
    to_photo,
)
from .deep3d_landmarks import FaceRegressor, SetConfidence, look_at_person
from .morphable_fit import SWAPPED, Outline, Placement, are_swapped
from .morphable_photo import shown
from .morphable_refine import Albedo, light_and_albedo
from .morphable_scene import SceneBuilder
from .person import Together

ADD = "bring the ICT model: aboutface models download ict, or aboutface models add ict PATH"
FOREIGN = 1.0
"""Millimetres: no landmark of the user's model, and no mode of one, may be farther from what the network was trained
with. Half precision errs by less than a tenth of it."""


class Deep3dReconstructor:
    """Face -> Scene: coefficients in one look, the photo, less its light, as texture. May be shared by threads.

    Deng et al., CVPR workshops 2019, with a small network of our own and the ICT model. Camera and crop are Deep3D's,
    with the photo's pixels; the crop is cut by five of the face's landmarks. The scene's landmarks are those that the
    network sees, as deep as the model's; those of the jaw on the side turned away as deep as its outline.
    """

    name = "deep3d"
    weights = "deep3d"
    sets = "deep3d-sets"
    """Name of the record of its confidences in photos of one person."""

    def __init__(
        self,
        net: FaceRegressor | None = None,
        model: MorphableModel | None = None,
        confidence: SetConfidence | None = None,
    ) -> None:
        """net: the shipped one if missing; model: the ICT model, whole; the user's if missing.

        confidence: in each of several photos of one person. If missing, that of the shipped net where there is one;
        else all count alike. Raises MissingError where net or model is not there, UsageError where they do not belong
        together.
        """
        shipped = net is None
        net = net or FaceRegressor.from_file(path(self.weights))
        self.confidence, self.confidence_weights = confidence, None
        if confidence is None and shipped and self.sets in REGISTRY:
            self.confidence = SetConfidence.from_file(path(self.sets), net)
            self.confidence_weights = self.sets
        whole = _users_ict() if model is None else model
        if whole.name != "ict":
            raise UsageError(f"deep3d: expected the model ict, got {whole.name}; {ADD}")
        part = published_part(whole)
        self.net = fused(net).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        _take_landmarks(self.net, part)
        learned = {"albedo_mean": net.albedo_mean, "albedo": net.albedo} if net.settings.vertices else {}
        self.model = replace(part, **learned)
        self.size = net.settings.trunk.size
        self.albedo = Albedo.of(self.model)
        self.outline = Outline.of(self.model)
        self.scene = SceneBuilder(shown(whole), whole)

    @classmethod
    def from_file(cls, file: Path) -> "Deep3dReconstructor":
        """With weights that `aboutface train deep3d` wrote. Raises UsageError for a file of another form."""
        return cls(FaceRegressor.from_file(file))

    @torch.no_grad()
    def __call__(self, photo: Photo, face: Face) -> Scene:
        matrix = self._crop(photo, face)
        found = self.net(self._look(photo, matrix))
        return self._scene(photo, matrix, found.coefficients, found.landmarks[0])

    @torch.no_grad()
    def together(self, photos: Sequence[Photo], faces: Sequence[Face]) -> Together:
        """See `PersonReconstructor`: the mean identity that the network says; all else is each photo's own."""
        count = len(photos)
        matrices = [
            self._crop(photo, face, i + 1, count) for i, (photo, face) in enumerate(zip(photos, faces, strict=True))
        ]
        crops = torch.cat([self._look(photo, matrix) for photo, matrix in zip(photos, matrices, strict=True)])
        person = look_at_person(self.net, crops, self.confidence)
        scenes = []
        for i, (photo, matrix) in enumerate(zip(photos, matrices, strict=True)):
            own = Coefficients(*(part[i : i + 1] for part in person.each))
            shared = own._replace(id=person.identity[None])
            scenes.append(self._scene(photo, matrix, shared, person.landmarks[i]))
        shares = (person.confidences / person.confidences.sum(0).clamp_min(1e-12)).mean(1)
        rule = "plain mean" if self.confidence is None else "mean weighted by confidence, for each coefficient"
        return Together(tuple(scenes), tuple(shares.tolist()), rule, self.confidence_weights)

    def _scene(self, photo: Photo, matrix: Tensor, coefficients: Coefficients, landmarks: Tensor) -> Scene:
        """matrix (3, 3): photo pixels to those of the crop; landmarks (68, 2) pixels of that crop."""
        pixels = to_photo(landmarks.double(), matrix)
        K = photo_intrinsics(matrix, self.size)
        placed = placement(self.model, coefficients, K, pixels, self.outline)
        coefficients, light, albedo = self._colours(photo, coefficients, placed, pixels)
        scene = self.scene(photo, pixels, placed, light)
        # The published crop is the same one with more pixels.
        larger = torch.diag(torch.tensor([SIZE / self.size, SIZE / self.size, 1.0], dtype=torch.float64))
        morphable = described(self.model, coefficients, larger @ matrix, albedo)
        return replace(scene, morphable=morphable)

    def _crop(self, photo: Photo, face: Face, number: int = 1, count: int = 1) -> Tensor:
        """(3, 3): the pixels of a photo, one of `count`, to those of the network's crop of the face.

        Raises as `_check`.
        """
        landmarks = torch.from_numpy(face.landmarks)
        self._check(photo, landmarks, number, count)
        return crop_from_photo(five_from_68(landmarks), ICT_FIVE, self.size)

    def _check(self, photo: Photo, landmarks: Tensor, number: int, count: int) -> None:
        """Raises UsageError where left and right are exchanged, NoFaceError where none of the five is in the photo."""
        mean, trust = self.net.points[0].double(), POSE_WEIGHTS.double()
        rotation, *_ = orthographic_pose(mean, landmarks, trust)
        if are_swapped(rotation, mean, landmarks[torch.from_numpy(MIRROR_68)], trust):
            raise UsageError(SWAPPED.format(number, count))
        five = five_from_68(landmarks)
        if not bool(((five >= 0) & (five <= torch.tensor([photo.width, photo.height]))).all(1).any()):
            raise NoFaceError(
                f"deep3d: eyes, nose and mouth lie outside the photo of {photo.width} x {photo.height} px, "
                f"the nose at ({five[2, 0]:.0f}, {five[2, 1]:.0f})"
            )

    def _look(self, photo: Photo, matrix: Tensor) -> Tensor:
        """The crop (1, 3, S, S) as the network takes it."""
        crop = to_tensor(cut(photo.pixels, torch.linalg.inv(matrix).numpy(), self.size))
        return crop.contiguous(memory_format=torch.channels_last)

    def _colours(
        self, photo: Photo, coefficients: Coefficients, placed: Placement, pixels: Tensor
    ) -> tuple[Coefficients, Tensor, Tensor]:
        """The coefficients with light and albedo, that light (9, 3) as it arrives, and the albedo (V, 3).

        Both explain the photo best, in closed form, for the shape that the network says: in one look it is too
        cautious about them.
        """
        lights, numbers = light_and_albedo(self.model, placed, [photo.pixels], pixels[None], self.albedo)
        found = coefficients._replace(gamma=gamma_from_light(SphericalHarmonics(lights)))
        if self.model.albedo is not None:
            found = found._replace(tex=numbers[None])
        return found, lights[0], self.albedo.of_numbers(numbers)


def _take_landmarks(net: FaceRegressor, model: MorphableModel) -> None:
    """The user's model's landmarks. Raises UsageError where they are not those that the network has learned with."""
    learned = net.points.clone()
    net.set_landmarks(net.basis(model))
    off = float((net.points - learned).norm(dim=-1).max()) * MILLIMETRES_PER_UNIT
    if not off <= FOREIGN:
        raise UsageError(
            f"deep3d: the weights were trained with another model: landmarks differ by up to {off:.1f} mm; {ADD}"
        )


@lru_cache(maxsize=1)
def _users_ict() -> MorphableModel:
    try:
        return MorphableModel.load("ict")
    except MissingError:
        raise MissingError(
            "deep3d: the ICT face model is not on this machine; run: aboutface models download ict (or aboutface "
            "models add ict PATH), or choose a method that works without it: depthnet or unsup3d"
        ) from None
