"""Training the small Deep3D network: crops and points stay together, it learns, people are kept apart."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from aboutface.errors import UsageError
from aboutface.face import MIRROR_68
from aboutface.fit import FitSettings, TensorBatches, fit
from aboutface.morphable import MeanHead
from aboutface.recipes.deep3d import (
    CroppedFaces,
    Deep3DTask,
    Deep3DTraining,
    crop_face,
    distance,
    grade,
    kept_side,
    middle,
    read_faces,
    recoloured,
)
from aboutface.reconstruct.deep3d_landmarks import FaceRegressor

SIZE = 32
SETTINGS = replace(
    Deep3DTraining(),
    size=SIZE,
    batch=4,
    shift=0,
    scale=0.0,
    rotation=0.0,
    coefficients=0.0,
    learning_rate=5e-3,
    fit=FitSettings(steps=150, preview_every=0, log_every=1000, device="cpu"),
)


def quiet(_line):
    """Nothing is said."""


def drawn_face(size=200, left=60.0, top=55.0, scale=0.5):
    """A grey picture with a white dot at each landmark, and the landmarks."""
    points = MeanHead.load().landmarks[:, :2]
    points = (points - points.amin(0)) * scale + torch.tensor([left, top])
    axis = torch.arange(size) + 0.5
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    near = (grid[None] - points[:, None, None]).square().sum(-1).amin(0)
    picture = 60 + 190 * torch.exp(-near / 4)
    return picture[..., None].expand(-1, -1, 3).round().byte().numpy(), points.numpy()


def net():
    torch.manual_seed(0)
    made = FaceRegressor.tiny()
    model = (MeanHead.load().landmarks - MeanHead.load().landmarks.mean(0)) / 1000
    made.points[0] = model
    return made


def brightness(images, points):
    """Brightness (B,) of pictures (B, 3, S, S) at points (B, 68, 2) that lie inside, the mean of them."""
    grid = points[:, None] / images.shape[-1] * 2 - 1
    values = torch.nn.functional.grid_sample(images, grid, align_corners=False)[:, 0, 0]
    inside = (grid[:, 0].abs() < 0.95).all(-1)
    return (values * inside).sum(1) / inside.sum(1)


def test_points_stay_on_what_they_mark():
    image, points = drawn_face()
    picture, moved = crop_face(image, points, 112)
    assert picture.shape == (kept_side(112),) * 2 + (3,)
    pictures = torch.from_numpy(picture).movedim(-1, 0)[None].float() / 255
    assert float(brightness(pictures, moved[None])) > 0.8
    task = Deep3DTask(net(), replace(SETTINGS, size=112, shift=20, scale=0.2, rotation=30.0))
    batch = {"image": torch.from_numpy(picture).movedim(-1, 0)[None].expand(16, -1, -1, -1), "points": moved[None]}
    batch["points"] = moved[None].expand(16, -1, -1)
    torch.manual_seed(0)
    # Colours change; the dots stay far brighter than what is between them.
    seen, where = task.changed(batch)
    on, off = brightness(seen, where), brightness(seen, where + 5.0)
    assert int((on > off).sum()) >= 14
    flips = (where[:, 36, 0] - where[:, 45, 0]) < 0
    assert flips.all(), "landmark 36 is on the image's left after every mirroring"
    assert not torch.allclose(where[0], where[1])


def test_the_middle_of_what_is_kept_is_the_crop():
    image, points = drawn_face()
    picture, moved = crop_face(image, points, 112)
    assert middle(torch.from_numpy(picture).movedim(-1, 0)[None], 112).shape == (1, 3, 112, 112)
    centre = moved.mean(0) - (kept_side(112) - 112) / 2
    assert 30 < float(centre[0]) < 82
    assert 30 < float(centre[1]) < 90


def test_a_jaw_point_may_slide_along_the_jaw():
    truth = torch.from_numpy(drawn_face()[1])[None]
    along, across = truth.clone(), truth.clone()
    step = torch.nn.functional.normalize(truth[:, 5] - truth[:, 3], dim=-1)
    along[:, 4] += 10 * step
    across[:, 4] += 10 * step.flip(-1) * torch.tensor([-1.0, 1.0])
    assert float(distance(along, truth)) == pytest.approx(float(distance(across, truth)), rel=1e-3)
    assert float(distance(along, truth, outline=True)) < 0.35 * float(distance(across, truth, outline=True))
    mirrored = torch.tensor([-1.0, 1.0])
    assert float(distance(along, truth, outline=True)) == pytest.approx(
        float(distance((along * mirrored)[:, MIRROR_68], (truth * mirrored)[:, MIRROR_68], outline=True)), rel=1e-4
    )


def test_overfits_one_photo():
    image, points = drawn_face()
    picture, moved = crop_face(image, points, SIZE)
    images = torch.from_numpy(picture).movedim(-1, 0)[None].repeat(8, 1, 1, 1)
    task = Deep3DTask(net(), SETTINGS)
    before = grade(task.net.eval(), images, moved[None].repeat(8, 1, 1))
    batches = TensorBatches({"image": images, "points": moved[None].repeat(8, 1, 1)}, 4, 0)
    after = grade(fit(task.train(), batches, SETTINGS.fit).averaged.net.eval(), images, moved[None].repeat(8, 1, 1))
    assert after["nme"] < 0.35 * before["nme"]


def test_colours_change_and_stay_colours():
    torch.manual_seed(0)
    images = torch.rand(16, 3, 32, 32)
    changed = recoloured(images)
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    assert not torch.allclose(changed, images)


def test_nobody_is_in_both_parts_and_the_nameless_are_trained_on():
    names = [f"p{i % 25}" if i % 5 else None for i in range(100)]
    faces = CroppedFaces(torch.zeros(100, 3, 4, 4, dtype=torch.uint8), torch.zeros(100, 68, 2), names)
    parts = faces.split(0.3)
    who = {part: {names[i] for i in index.tolist()} for part, index in parts.items()}
    assert None in who["train"]
    assert who["test"]
    assert not who["train"] & who["test"]
    assert sum(map(len, parts.values())) == 100


def test_what_cannot_be_used_is_named(tmp_path):
    image, points = drawn_face()
    Image.fromarray(image).save(tmp_path / "good.png")
    (tmp_path / "good.json").write_text(json.dumps({"landmarks68": points.tolist(), "identity": "a"}))
    Image.fromarray(image).save(tmp_path / "bare.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    said = []
    faces = read_faces(tmp_path, SIZE, said.append)
    assert len(faces.images) == 1
    assert faces.names == ["a"]
    assert any("bare" in line for line in said)
    assert any("broken" in line for line in said)
    (tmp_path / "good.json").unlink()
    with pytest.raises(UsageError, match="no face that can be used"):
        read_faces(tmp_path, SIZE, quiet)


@pytest.mark.parametrize("wrong", [{"scale": 1.0}, {"batch": 1}, {"test_share": 1.0}, {"model_weight": -1.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match="expected"):
        replace(SETTINGS, **wrong)


def test_training_on_real_faces_writes_what_can_be_loaded(data, tmp_path):
    from aboutface.fit import Run

    image, points = drawn_face()
    for i in range(6):
        Image.fromarray(np.roll(image, i, 0)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.json").write_text(
            json.dumps({"landmarks68": (points + np.array([0, i])).tolist(), "identity": f"p{i}"})
        )
    training = replace(
        SETTINGS, model=data / "ict-facekit-light.npz", test_share=0.5, fit=replace(SETTINGS.fit, steps=2), batch=2
    )
    trained = training.train(tmp_path, Run.create(tmp_path / "runs", "faces", "deep3d", {}), quiet)
    other = FaceRegressor(training.network)
    other.load_state_dict(trained.tensors)
    # The landmarks of the mean face, in Deep3D's frame: the outer eye corners are 89 mm apart.
    apart = (other.points[0, 36] - other.points[0, 45]).norm()
    assert float(apart) == pytest.approx(0.0892, abs=2e-4)
    assert set(trained.scores) == {"test_faces", "nme", "model_nme"}
