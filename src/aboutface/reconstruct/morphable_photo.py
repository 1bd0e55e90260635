"""A morphable model on a photo, without a network: fitted to the landmarks, then to the colours."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import MissingError
from ..face import Face
from ..images import Photo
from ..morphable import MorphableModel
from ..scene import MorphableFace, Scene
from .deep3d_face import coefficients_of, described, photo_intrinsics, published_part
from .deep3d_frame import ICT_FIVE, crop_from_photo, five_from_68
from .morphable_fit import LandmarkFitter, LandmarkSettings, Placement
from .morphable_refine import Albedo, RefineSettings, refine
from .morphable_scene import SceneBuilder
from .person import Together

MODELS = ("ict", "bfm09", "bfm17", "bfm19", "flame")
"""In the order in which they are taken where none is chosen."""
SHOWN = ("front", "eyes", "eye_socket_left", "eye_socket_right", "mouth_socket")
"""Parts that a photo shows, of a model that has the first of them; of others, everything."""


class MorphableReconstructor:
    """Face -> Scene: the posed model with the photo, less its light, as texture. May be shared by threads.

    The camera is Deep3D's, of its crop of the face, with the photo's pixels.
    """

    name = "morphable"
    weights = "ict"

    def __init__(
        self,
        model: MorphableModel | None = None,
        landmarks: LandmarkSettings | None = None,
        colours: RefineSettings | None = None,
    ) -> None:
        """model: "ict" if missing, else the first one of MODELS that the user has. Raises MissingError for none."""
        whole = _users_model() if model is None else model
        self.model = shown(whole)
        self.fitter = LandmarkFitter(self.model)
        # Colours are compared where the surface is one: between lids and lips much else is seen.
        self.front = self.model.part("front") if "front" in self.model.masks else self.model
        self.settings = landmarks or LandmarkSettings()
        self.colours = colours or RefineSettings()
        self.scene = SceneBuilder(self.model, whole)
        self.told = published_part(whole)

    @classmethod
    def from_file(cls, file: Path) -> "MorphableReconstructor":
        """With a model that `MorphableModel.save` wrote. Raises UsageError for another file."""
        return cls(MorphableModel.load(file))

    def __call__(self, photo: Photo, face: Face) -> Scene:
        return self.together([photo], [face]).scenes[0]

    def together(self, photos: Sequence[Photo], faces: Sequence[Face]) -> Together:
        """See `PersonReconstructor`: one identity and albedo are fitted to the landmarks and colours of all photos."""
        pixels = torch.from_numpy(np.stack([face.landmarks for face in faces]))
        matrices = crop_from_photo(five_from_68(pixels), ICT_FIVE)
        lenses = torch.stack([photo_intrinsics(matrix) for matrix in matrices])
        fit = self.fitter(pixels, lenses, self.settings)
        refined = refine(self.front, fit, [photo.pixels for photo in photos], pixels, self.colours)
        scenes = []
        for i, photo in enumerate(photos):
            placed, light = refined.fit.of(i), refined.light[i]
            scene = self.scene(photo, pixels[i], placed, light)
            scenes.append(replace(scene, morphable=self._described(placed, light, refined.numbers, matrices[i])))
        believed = refined.fit.trust.sum(1)
        shares = believed / believed.sum().clamp_min(1e-12)
        return Together(tuple(scenes), tuple(shares.tolist()), "fitted to the landmarks and colours of all")

    def _described(self, placed: Placement, light: Tensor, numbers: Tensor, matrix: Tensor) -> MorphableFace | None:
        """The fit of one photo as coefficients, of a model with all landmarks; numbers: of the albedo."""
        if len(self.fitter.numbers) < 68:
            return None
        # Spots that stand in for a model's own albedo are no coefficients.
        tex = numbers if self.told.albedo is not None else torch.zeros(0)
        coefficients = coefficients_of(self.told, placed, light, tex)
        return described(self.told, coefficients, matrix, Albedo.of(self.told).of_numbers(numbers))


def shown(model: MorphableModel) -> MorphableModel:
    """The parts that a photo shows."""
    if SHOWN[0] not in model.masks:
        return model
    masks = [model.masks[name] for name in SHOWN if name in model.masks]
    return model.cropped(torch.stack(masks).any(0))


def crop_intrinsics(pixels: Tensor) -> Tensor:
    """Intrinsics (3, 3), float64, photo pixels: those of Deep3D's crop of a face with landmarks (68, 2)."""
    return photo_intrinsics(crop_from_photo(five_from_68(pixels), ICT_FIVE))


@lru_cache(maxsize=1)
def _users_model() -> MorphableModel:
    for name in MODELS:
        try:
            return MorphableModel.load(name)
        except MissingError:
            continue
    raise MissingError(
        "morphable: no face model is on this machine; run: aboutface models download ict (or aboutface models add ict "
        f"PATH; it takes {', '.join(MODELS[1:])} as well), or choose a method that needs none: depthnet or unsup3d"
    )


def users_model() -> str:
    """Which of MODELS is taken where none is chosen. Raises MissingError for none."""
    return _users_model().name
