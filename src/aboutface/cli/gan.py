"""`aboutface sample` and `aboutface project`. Importing this imports torch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import generate, weights
from ..data.crop import cut
from ..detect import detect
from ..edit.person import distinct_names
from ..errors import AboutfaceError, UsageError
from ..export import contact_sheet, save_json, save_npz
from ..generate.load import load_encoder
from ..generate.sample import write_latents
from ..images import read_photo, to_pixels, to_tensor, write_image
from ..reconstruct.face_frame import FaceFrame
from ..reconstruct.unsup3d_object import cut_object, resized_square
from .arguments import parse_face
from .gan_commands import Project, Sample
from .report import Report

FEW_STEPS = 100
"""Of a search that starts where an encoder says."""


def sample(command: Sample) -> int:
    if command.grid is not None and command.grid < 1:
        raise UsageError(f"--grid {command.grid}: expected 1 or more pictures in a row")
    report, target = Report(command.talk), Path(command.output)
    alone = target.suffix.lower() == ".png"
    if target.suffix and not alone:
        raise UsageError(f"-o {target}: expected a folder or a .png file")
    gan = generate.load_gan(net_file(command.net))
    found = generate.sample(gan.generator, command.n, command.seed, command.truncation, command.noise)
    names = [f"{index:06}.png" for index in range(command.n)]
    pictures = list(map(to_pixels, found.images))
    folder = target.parent if alone else target
    if not alone:
        for name, picture in zip(names, pictures, strict=True):
            write_image(folder / name, picture)
    sheet = target if alone else folder / "sheet.png"
    write_image(sheet, contact_sheet(pictures, columns=command.grid or -(-command.n // round(command.n**0.5))))
    latents = target.with_suffix(".npz") if alone else folder / "latents.npz"
    write_latents(latents, names, found.w)
    report.data({"files": [str(sheet), str(latents)], "pictures": command.n, "truncation": command.truncation})
    report.say(f"{sheet}: {command.n} pictures of {gan.size} pixels; their w in {latents}")
    return 0


def project(command: Project) -> int:
    if not command.photos:
        raise UsageError("project: name one photo or more")
    report = Report(command.talk, several=len(command.photos) > 1)
    gan = generate.load_gan(net_file(command.net))
    settings = generate.ProjectionSettings(
        space=command.space, noise=command.noise, seed=command.seed, device=command.device
    )
    encoder = None if command.encoder is None else load_encoder(Path(command.encoder), gan)
    if encoder is not None:
        # It begins near: nothing has to be explored.
        settings = replace(settings, steps=FEW_STEPS, exploration=0.0)
    if command.steps is not None:
        settings = replace(settings, steps=command.steps)
    targets: list[tuple[str, Tensor]] = []
    for text in command.photos:
        try:
            targets.append(_target(text, gan, command))
        except AboutfaceError as error:
            report.failed(text, error)
    if targets:
        names, images = distinct_names([name for name, _ in targets]), torch.stack([image for _, image in targets])
        folder = Path(command.output)
        for name, image in zip(names, images, strict=True):
            # First of all: a place that cannot be written shows now and not after the search.
            write_image(folder / f"{name}_target.png", to_pixels(image))
        with torch.no_grad():
            start = None if encoder is None else encoder(images)

        def told(done: int, count: int) -> None:
            report.say(f"{done} of {count} photos found")

        found = generate.project(gan, images, settings, start, told)
        for index, name in enumerate(names):
            _write(folder, name, found.only(index), settings, report)
            report.done_count += 1
    return report.finish()


def net_file(text: str) -> Path:
    """The weight file of an argument NET. Raises UsageError for an unknown name, MissingError for an absent file."""
    if Path(text).suffix:
        return Path(text)
    if text not in weights.REGISTRY or not text.startswith("stylegan2"):
        known = [name for name in weights.REGISTRY if name.startswith("stylegan2")]
        raise UsageError(f"{text}: expected a .safetensors file" + (f" or one of {', '.join(known)}" if known else ""))
    return weights.path(text)


def _target(text: str, gan: generate.Gan, command: Project) -> tuple[str, Tensor]:
    """Name of a photo, and what of it the generator can make (3, S, S)."""
    photo = read_photo(text)
    if gan.crop == "face":
        face = parse_face(command.face)
        if face == "all":
            raise UsageError("--face all: one face of each photo; take largest or a number")
        (found,) = detect(photo.pixels, face=face, detector=command.detector)
        frame = FaceFrame.of(torch.from_numpy(found.landmarks)[None])
        pixels = cut(photo.pixels, frame.photo_from_crop(gan.size)[0].numpy(), gan.size)
    else:
        pixels = resized_square(cut_object(photo)[0].pixels, gan.size)
    return photo.name, to_tensor(pixels)[0]


def _write(
    folder: Path,
    stem: str,
    found: generate.Projection,
    settings: generate.ProjectionSettings,
    report: Report,
) -> None:
    files = [folder / f"{stem}{end}" for end in (".png", "_target.png", ".npz", ".json")]
    write_image(files[0], to_pixels(found.images[0]))
    arrays: dict[str, np.ndarray] = {"w": found.w[0].numpy()}
    arrays |= {f"noise_{index}": map_[0, 0].numpy() for index, map_ in enumerate(found.noise)}
    save_npz(files[2], **arrays)
    record: dict[str, Any] = found.about() | {"steps": settings.steps, "space": settings.space}
    warnings = [found.line] if found.line else []
    save_json(files[3], record | {"warnings": warnings})
    report.data({"input": stem, "status": "done", "files": list(map(str, files)), "warnings": warnings} | record)
    report.say(f"{stem} -> {files[0]}: {float(found.psnr):.1f} dB, {float(found.distance):.0%} of a typical distance")
    for warning in warnings:
        report.say(f"  note: {warning}")
