"""Whose face is it? Embeddings for `bench identity`: ArcFace's where the user has its weights, else dlib's."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..detect import detect, embed
from ..errors import NoFaceError
from ..face import Face
from ..images import to_pixels, to_tensor
from ..nn.iresnet import IResNet
from ..recipes.deep3d_drawing import face_crops

LARGE = 256
"""Pixels to which pictures are enlarged: detectors and dlib's network want no fewer."""
MIDDLE = 0.14
"""Share of the side that is beside the face, in pictures cut as generators see them."""


class Embedding(Protocol):
    name: str
    """For the table."""

    def __call__(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) of one face each -> (B, D); NaN where none is found."""
        ...


class DlibEmbedding:
    """128 numbers by `detect.embed`."""

    name = "dlib"

    def __call__(self, pictures: Tensor) -> Tensor:
        rows = []
        for pixels, face in _with_faces(pictures):
            rows.append(torch.full((128,), torch.nan) if face is None else torch.from_numpy(embed(pixels, face)))
        return torch.stack(rows)


class ArcFaceEmbedding:
    """512 numbers by IResNet-50, of the user's file."""

    name = "ArcFace, IResNet-50"

    def __init__(self, file: Path) -> None:
        """Raises UsageError for another file."""
        self.net = IResNet.from_file(file)

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        found = torch.full((len(pictures), 512), torch.nan)
        for row, (pixels, face) in enumerate(_with_faces(pictures)):
            if face is not None:
                found[row] = self.net(face_crops(to_tensor(pixels), torch.from_numpy(face.landmarks)[None].float()))[0]
        return found


def embedding(recognition: Path | None) -> Embedding:
    """That of the user's ArcFace file, if there is one. Raises UsageError, MissingError."""
    return DlibEmbedding() if recognition is None else ArcFaceEmbedding(recognition)


def _with_faces(pictures: Tensor) -> list[tuple[np.ndarray, Face | None]]:
    """Each picture (3, S, S), enlarged, as pixels, and the face in its middle."""
    large = functional.interpolate(pictures, (LARGE, LARGE), mode="bicubic", align_corners=False).clamp(0, 1)
    box = (MIDDLE * LARGE, MIDDLE * LARGE, (1 - MIDDLE) * LARGE, (1 - MIDDLE) * LARGE)
    found: list[tuple[np.ndarray, Face | None]] = []
    for picture in large:
        pixels = to_pixels(picture)
        try:
            found.append((pixels, detect(pixels, box=box)[0]))
        except NoFaceError:
            found.append((pixels, None))
    return found
