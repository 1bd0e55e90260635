"""GAN2Shape on photos: from a weight file to a Scene, kept and used again, with both renderings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aboutface import weights
from aboutface.edit import Pipeline
from aboutface.edit.result import Reconstruction
from aboutface.errors import UsageError
from aboutface.generate import Gan, ProjectionSettings, gan_tensors
from aboutface.morphable import MeanHead
from aboutface.nn.stylegan2 import Discriminator, Generator
from aboutface.recipes import Trained, write_weights
from aboutface.reconstruct import Effort, GAN2ShapeReconstructor, gan2shape_photo, object_reconstructor, reconstructor
from aboutface.reconstruct.gan2shape import GAN2Shape
from aboutface.reconstruct.gan2shape_file import read, settings_of, tensors_of
from aboutface.reconstruct.gan2shape_photo import Fitter, face_mask
from aboutface.reconstruct.gan2shape_schedule import Schedule, Stage
from aboutface.reconstruct.gan2shape_steps import Losses
from aboutface.refine import manifold

SIDE = 96
SHORT = Schedule((Stage(2, 2, 2),), batch=2, samples=3, prior_steps=2, losses=Losses(perceptual=0.0))


def made_gan(crop: str) -> Gan:
    torch.manual_seed(3)
    generator, discriminator = Generator.tiny(), Discriminator.tiny()
    generator.mapping.measure_centre(draws=200)
    for network in (generator, discriminator):
        network.requires_grad_(False).eval()
    settings = {"network": vars(generator.settings), "training": {"crop": crop}}
    return Gan(generator, discriminator, {"method": "stylegan2", "settings": settings})


@pytest.fixture
def files(tmp_path: Path):
    """Of a generator of faces, of one of other things, and of a model with the former."""
    faces, things = made_gan("face"), made_gan("centre")
    for name, gan in (("faces", faces), ("things", things)):
        trained = Trained(gan_tensors(gan), {}, gan.card["settings"])
        write_weights(tmp_path / f"{name}.safetensors", "stylegan2", trained)
    torch.manual_seed(4)
    model = GAN2Shape.tiny()
    settings = settings_of(model, faces, "faces.safetensors", {"crop": "face"})
    trained = Trained(tensors_of(model, faces, "faces.safetensors"), {}, settings)
    write_weights(tmp_path / "model.safetensors", "gan2shape", trained)
    return tmp_path


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A few steps of everything."""
    monkeypatch.setattr(gan2shape_photo, "fast", lambda category: replace(SHORT, category=category))
    monkeypatch.setattr(gan2shape_photo, "SEARCHED", {"fast": 3, "paper": 3})
    monkeypatch.setattr(gan2shape_photo, "NARROW", 4)


def photo(alpha: bool = False) -> np.ndarray:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (12, 12, 3), dtype=np.uint8)
    large = np.array(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    if not alpha:
        return large
    opaque = np.zeros((SIDE, SIDE, 1), np.uint8)
    opaque[20:70, 30:80] = 255
    return np.concatenate([large, opaque], -1)


def landmarks() -> np.ndarray:
    """The mean head, frontal, in the photo."""
    return (MeanHead.load().landmarks[:, :2] * 0.35 + SIDE / 2).numpy()


def test_a_file_holds_the_model_and_its_generator(files):
    model, gan = read(files / "model.safetensors")
    assert gan.crop == "face"
    assert gan.discriminator is not None
    torch.manual_seed(4)
    z = torch.randn(2, 16)
    assert torch.allclose(gan.generator(z), made_gan("face").generator(z), atol=2e-2)
    assert torch.allclose(model(torch.rand(1, 3, 16, 16)).depth, torch.ones(1, 16, 16), atol=0.2)


def test_a_generator_that_everybody_has_is_named_and_not_copied(files, monkeypatch):
    record = replace(weights.REGISTRY["unsup3d"], name="stylegan2-toy", file="faces.safetensors")
    monkeypatch.setitem(weights.REGISTRY, "stylegan2-toy", record)
    monkeypatch.setattr(weights, "_PACKAGE", files)
    gan, model = made_gan("face"), GAN2Shape.tiny()
    tensors = tensors_of(model, gan, "stylegan2-toy")
    assert not any(name.startswith("gan.") for name in tensors)
    write_weights(
        files / "named.safetensors", "gan2shape", Trained(tensors, {}, settings_of(model, gan, "stylegan2-toy", {}))
    )
    assert read(files / "named.safetensors")[1].crop == "face"


def test_a_photo_becomes_a_shape_that_is_kept(files, monkeypatch):
    said: list[str] = []
    effort = Effort("fast", files / "out", said.append)
    pipeline = Pipeline(str(files / "model.safetensors"), effort=effort)
    (shape,) = pipeline.reconstruct(photo(), landmarks=landmarks())
    assert isinstance(shape, Reconstruction)
    assert any(line.startswith("stage 1/1, projection") for line in said)
    about = shape.record["gan2shape"]
    assert about["pre-trained"] is True
    assert about["inversion"]["rmse"] > 0
    # A tiny random generator has no such picture, and says so.
    assert any("the generator has no picture much like the photo" in warning for warning in shape.warnings)
    scene = shape.portrait.scene
    assert scene.manifold is not None
    assert scene.millimetres_per_unit is not None

    def never(*_, **__):
        raise AssertionError("it was found before")

    monkeypatch.setattr(gan2shape_photo, "project", never)
    (again,) = Pipeline(str(files / "model.safetensors"), effort=effort).reconstruct(photo(), landmarks=landmarks())
    assert isinstance(again, Reconstruction)
    assert torch.equal(again.portrait.scene.mesh_at_rest().vertices, scene.mesh_at_rest().vertices)


def test_who_stops_it_is_told_that_it_goes_on(files, monkeypatch):
    said: list[str] = []

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(gan2shape_photo, "optimise", stopped)
    for folder in (None, files / "out"):
        fit = GAN2ShapeReconstructor.from_file(files / "model.safetensors", Effort("fast", folder, said.append)).fit
        with pytest.raises(KeyboardInterrupt):
            fit(torch.zeros(3, fit.size, fit.size), None, "photo")
    assert [line for line in said if "goes on" in line] == [said[-1]], "only where something is kept"
    assert str(files / "out" / "photo") in said[-1]


def test_the_callers_random_numbers_stay_as_they_are(files):
    fit = GAN2ShapeReconstructor.from_file(files / "faces.safetensors").fit
    image = torch.rand(3, fit.size, fit.size)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    fit(image, None, "photo")
    assert torch.equal(torch.rand(3), wanted)


def test_both_renderings_of_a_turned_face(files):
    pipeline = Pipeline(str(files / "model.safetensors"))
    (drawn,) = pipeline.rotate(photo(), yaw=15.0, landmarks=landmarks())
    (natural,) = pipeline.rotate(photo(), yaw=15.0, refiner="manifold", landmarks=landmarks())
    assert drawn.image.shape == (SIDE, SIDE, 3)
    assert natural.image.shape == (16, 16, 3)
    assert natural.names[0].endswith("_manifold")
    found = natural.portrait.scene.manifold
    assert found is not None
    assert np.array_equal(natural.image, manifold(drawn.image, drawn.portrait.scene))


def test_a_generator_alone_is_enough_for_faces_and_for_other_things(files):
    faces = reconstructor(str(files / "faces.safetensors"))
    assert isinstance(faces, GAN2ShapeReconstructor)
    assert faces.fit.start is None
    assert object_reconstructor(str(files / "faces.safetensors")) is None
    things = Pipeline(str(files / "things.safetensors"))
    (shape,) = things.reconstruct(photo(alpha=True))
    assert shape.record["gan2shape"]["pre-trained"] is False
    assert shape.record["crop"]["box"]
    (turned,) = things.rotate(photo(alpha=True), yaw=10.0, refiner="manifold")
    assert turned.image.shape == (16, 16, 3)


def test_a_generator_of_whole_pictures_is_none_of_faces(files):
    with pytest.raises(UsageError, match="whole pictures"):
        GAN2ShapeReconstructor.from_file(files / "things.safetensors")


def test_without_a_critic_there_is_nothing_to_compare_by():
    gan = replace(made_gan("face"), discriminator=None)
    with pytest.raises(UsageError, match="without its critic"):
        Fitter(gan, None, "face", Effort())


def test_the_refiner_needs_a_scene_of_gan2shape():
    pipeline = Pipeline("depthnet")
    with pytest.raises(UsageError, match="works with the method gan2shape"):
        pipeline.rotate(photo(), yaw=10.0, refiner="manifold", landmarks=landmarks())
    with pytest.raises(UsageError, match="there are: manifold"):
        pipeline.rotate(photo(), yaw=10.0, refiner="magic", landmarks=landmarks())


def test_another_photo_and_another_quality_are_kept_apart(files):
    model, gan = read(files / "model.safetensors")
    fits = [Fitter(gan, model, "face", Effort(quality, files / "out")) for quality in ("fast", "paper")]
    image = torch.rand(3, 16, 16)
    folders = {fit._folder(picture, None, "me")[0] for fit in fits for picture in (image, 1 - image)}
    assert len(folders) == 4
    # A last bit, of landmarks for instance, makes no other photo of it.
    nearly = (image + 1e-4).clamp(0, 1)
    folder, begun = fits[0]._folder(nearly, None, "me")
    assert folder in folders
    assert torch.equal(begun, image)
    assert fits[0]._folder(image, torch.ones(16, 16), "me")[0] not in folders


def test_the_mask_covers_the_face_and_is_symmetric():
    mask = face_mask(64)
    assert torch.equal(mask, mask.flip(-1))
    marks = MeanHead.load().landmarks
    # The frame's middle is 20 mm below the head's origin.
    inner = marks[17:, :2]
    pixels = (inner - torch.tensor([0.0, 20.0])) / 200 * 64 + 32
    assert all(mask[int(y), int(x)] == 1 for x, y in pixels)


def test_projection_settings_follow_the_quality():
    assert isinstance(Fitter(made_gan("face"), None, "face", Effort()).search, ProjectionSettings)
