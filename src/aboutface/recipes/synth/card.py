"""What a set of synthetic faces says about itself: card.json for programs, README.md for people."""

import hashlib
from dataclasses import asdict
from typing import Any

import numpy as np

from ...geometry import intrinsics
from ...morphable import ICT_LICENCE, ICT_SOURCE, IctModel
from .faces import FAR, FIELD_OF_VIEW, SAMPLES
from .settings import SynthSettings

VERSION = 2
"""Of what is drawn: raise it whenever the same settings make other bytes."""


def make_card(settings: SynthSettings, model: IctModel) -> dict[str, Any]:
    """Settings, model, counts and camera: what says which set this is."""
    digest = hashlib.sha256()
    for tensor in (model.mean, model.identity, model.expression, model.faces, model.uv, model.uv_faces):
        digest.update(tensor.contiguous().numpy().tobytes())
    ranges = settings.ranges()
    return {
        "kind": "synthetic faces",
        "version": VERSION,
        "settings": asdict(settings),
        "model": f"ICT-FaceKit light, {ICT_SOURCE}, {ICT_LICENCE}",
        "model_sha256": digest.hexdigest(),
        "images": {name: len(images) for name, images in ranges.items()},
        "camera": {
            "fov_degrees": FIELD_OF_VIEW,
            "K": intrinsics(FIELD_OF_VIEW, (settings.size, settings.size)).numpy().astype(np.float64).tolist(),
        },
        "background_depth": FAR,
        "samples_per_pixel": SAMPLES**2,
    }


def readme(card: dict[str, Any]) -> str:
    """The data card in Markdown."""
    settings = card["settings"]
    command = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in settings.items())
    counts = ", ".join(f"{name} {count}" for name, count in card["images"].items())
    return TEXT.format(
        command=command, counts=counts, sources=_table(SOURCES), members=_table(MEMBERS), far=FAR, **card | settings
    )


def _table(rows: tuple[tuple[str, ...], ...]) -> str:
    """Rows of a name and the parts of a sentence."""
    lines = [f"| {name} | {' '.join(parts)} |" for name, *parts in rows]
    return "\n".join([lines[0], "| --- | --- |", *lines[1:]])


SOURCES = (
    ("", "where it comes from"),
    ("identity", "the model's: 100 weights from N(0, 1); its mouth, which has no teeth, made an eighth as deep"),
    (
        "expression",
        "invented: one to four groups of blendshapes (smile, brows, gaze ...) at up to about half their strength",
    ),
    (
        "albedo",
        "invented, all of it, for the model has none: melanin and haemoglobin layers, lips, brows, irises, lashes,",
        "beard, hair painted on the scalp, freckles, moles, noise of 28, 8 and 2 mm grain, left and right unlike",
    ),
    (
        "view",
        "a stand-in, as the statistics of the BFM set of Unsup3d are not public: yaw, pitch, roll from normal",
        "distributions of 20, 10 and 5 degrees about 0, cut at 60, 30 and 20; translation in x and y from N(0, 0.004),",
        "cut at 0.01, none in z; size of the face varied by 6 %",
    ),
    (
        "light",
        "direction (dx, dy, 1) with dx from U(-0.9, 0.9) and dy from U(-0.3, 0.8), as GAN2Shape samples it for the BFM",
        "set; the rest is invented: ambient + diffuse from U(0.9, 1.15), of which 30 to 65 % are ambient",
    ),
    (
        "shading",
        "as in Unsup3d: albedo * (ambient + diffuse * max(0, normal . direction)), cut to 0 ... 1; no gamma, shadow",
        "or gloss",
    ),
    ("background", "invented: plain, shaded, cloudy, striped or cluttered, unlit"),
    (
        "camera",
        "as in Unsup3d: 10 degrees across the image, a face at z = 1, the background at 1.1, a wall that hides what of",
        "the shoulders lies behind it. The face, from chin to hairline, is about 0.75 of the image's height",
    ),
)
MEMBERS = (
    ("member", "what"),
    ("KEY.png", "the image: nine samples per pixel, averaged"),
    ("KEY.mask.png", "255 where the pixel's centre shows the head"),
    (
        "KEY.json",
        "identity, landmarks68 (pixels), landmarks68_visible (0 or 1), landmarks68_xyz, pose (yaw, pitch, roll),",
        "translation, light (ambient, diffuse, direction towards the light), millimetres_per_unit, camera (K)",
    ),
    (
        "KEY.npz",
        "depth (S, S) float32, z at the pixel's centre, 1.1 in the background; normal (3, S, S) float16, unit, out of",
        "the surface, smooth between vertices, 0 in the background; albedo (S, S, 3) uint8 at the pixel's centre, 0 in",
        "the background",
    ),
)
TEXT = """\
# Synthetic faces with exact truth

{n} images of {size} x {size} pixels ({counts}; nobody is in two splits), made by

    aboutface data synth faces {command} --out DIR

Shapes are those of a morphable model; no photo of a person is in this set. The model: {model}. The same command makes
the same bytes on the same kind of machine.

{sources}

## An example

Camera space: x right, y down, z forward; pixel centres on half-integers; angles in degrees, + is towards the image's
right, up, clockwise; lengths in camera distances. `aboutface.data.SyntheticFaces` reads all of it.

{members}

A point p of the head at rest, in camera distances from its pivot, is seen at R p + (0, 0, 1) + translation, with
R = Rz(roll) Ry(yaw) Rx(pitch). The pivot lies in the middle across, midway between chin and hairline in height, and
midway between nasion and the ends of the jaw in depth. Unsup3d's light (dx, dy, 1) is minus ours, and its rotations
about x and y are minus pitch and minus yaw. A landmark is a vertex of the model: those of the jaw stay on it and do not
slide along the outline.
"""
