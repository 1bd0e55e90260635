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
from aboutface.nn.mobile import MobileSettings
from aboutface.recipes import write_weights
from aboutface.recipes.deep3d import Deep3DTask, Deep3DTraining, grade, layout_for, read_start, start_from
from aboutface.recipes.deep3d_augment import AugmentSettings
from aboutface.recipes.deep3d_faces import (
    CroppedFaces,
    crop_face,
    kept_side,
    middle,
    moved_about,
    read_faces,
    recoloured,
    worsened,
)
from aboutface.recipes.deep3d_losses import distance
from aboutface.reconstruct.deep3d import Layout
from aboutface.reconstruct.deep3d_frame import ICT_CENTRE, ICT_FIVE, five_of_model
from aboutface.reconstruct.deep3d_landmarks import FaceRegressor, RegressorSettings, ResNetSettings, centre_of
from ellipsoid_face import toy

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


def net(trunk=None):
    torch.manual_seed(0)
    made = FaceRegressor.tiny(trunk)
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
    images = torch.from_numpy(picture).movedim(-1, 0)[None].expand(16, -1, -1, -1)
    torch.manual_seed(0)
    # Colours change; the dots stay far brighter than what is between them.
    ranges = AugmentSettings(shift=20, scale=0.2, rotation=30.0)
    moved_images, where = moved_about(images, moved[None].expand(16, -1, -1), ranges, 112)
    seen = worsened(recoloured(moved_images))
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


@pytest.mark.parametrize("trunk", [None, ResNetSettings(18, SIZE, 4)])
def test_overfits_one_photo(trunk):
    image, points = drawn_face()
    picture, moved = crop_face(image, points, SIZE)
    images = torch.from_numpy(picture).movedim(-1, 0)[None].repeat(8, 1, 1, 1)
    steps = 150 if trunk is None else 80
    settings = replace(SETTINGS, fit=replace(SETTINGS.fit, steps=steps))
    task = Deep3DTask(net(trunk), settings)
    before = grade(task.net.eval(), images, moved[None].repeat(8, 1, 1))
    batches = TensorBatches({"image": images, "points": moved[None].repeat(8, 1, 1)}, 4, 0)
    after = grade(fit(task.train(), batches, settings.fit).averaged.net.eval(), images, moved[None].repeat(8, 1, 1))
    assert after["nme"] < 0.35 * before["nme"]


def test_colours_change_and_stay_colours():
    torch.manual_seed(0)
    images = torch.rand(16, 3, 32, 32)
    for changed in (recoloured(images), worsened(images)):
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
    for name, wrong in (("swapped", points[MIRROR_68]), ("nowhere", 0 * points + 50)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.json").write_text(json.dumps({"landmarks68": wrong.tolist(), "identity": "b"}))
    said = []
    faces = read_faces(tmp_path, SIZE, said.append)
    assert len(faces.images) == 1
    assert faces.names == ["a"]
    assert any("bare" in line for line in said)
    assert any("broken" in line for line in said)
    assert any("swapped" in line and "left and right" in line for line in said)
    assert any("nowhere" in line or "one place" in line for line in said)
    (tmp_path / "good.json").unlink()
    with pytest.raises(UsageError, match="no face that can be used"):
        read_faces(tmp_path, SIZE, quiet)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 1.0},
        {"batch": 1},
        {"test_share": 1.0},
        {"model_weight": -1.0},
        {"albedo": 5, "albedo_faces": 5},
    ],
)
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
    write_weights(tmp_path / "net.safetensors", "deep3d", trained)
    other = FaceRegressor.from_file(tmp_path / "net.safetensors")
    assert other.settings.layout == replace(Layout(60, 57, 0), expression_kind="weights")
    # The landmarks of the mean face, in Deep3D's frame: the outer eye corners are 89 mm apart.
    apart = (other.points[0, 36] - other.points[0, 45]).norm()
    assert float(apart) == pytest.approx(0.0892, abs=2e-4)
    assert set(trained.scores) == {"test_faces", "nme", "model_nme"}


# ---- what a network starts from ----


def small(size=32, layout=None, vertices=0, width=4):
    """A network of random heads."""
    layout = layout or Layout(4, 3, 0, expression_kind="weights")
    made = FaceRegressor(
        RegressorSettings(MobileSettings(size, 4, (4, width, 8), (1, 2, 1), (2, 2, 2), 12), layout, vertices)
    )
    for tensor in made.parameters():
        torch.nn.init.normal_(tensor, std=0.1)
    made.points.normal_(std=0.05)
    return made.eval()


GATHER = "rnet.backbone.gather.0.weight"


def head(network, number):
    """Weights of one of the heads."""
    return network.state_dict()[f"rnet.final_layers.{number}.weight"]


def test_a_grown_network_sees_the_larger_picture_as_the_small_one_did():
    torch.manual_seed(0)
    old, new = small(64), small(112)
    start_from(new, old)
    kernels = [network.state_dict()[GATHER] for network in (old, new)]
    assert [kernel.shape[-1] for kernel in kernels] == [4, 7]
    # A map gives about the same sum at both sizes, be it even or sloped.
    for ends in (torch.ones(2), torch.tensor([-1.0, 1.0])):
        sums = []
        for kernel in kernels:
            row = torch.nn.functional.interpolate(ends[None, None], kernel.shape[-1], mode="linear", align_corners=True)
            sums.append((kernel * row[0, 0]).sum((1, 2, 3)))
        assert torch.corrcoef(torch.stack(sums))[0, 1] > 0.9
    for (name, mine), theirs in zip(new.named_parameters(), old.parameters(), strict=True):
        if "gather.0" not in name:
            assert torch.equal(mine, theirs), name
    assert not torch.equal(new.points, old.points), "landmarks are the model's, not the file's"


def test_a_constant_map_is_gathered_alike():
    old, new = small(64), small(112)
    old.state_dict()[GATHER].fill_(0.5)
    start_from(new, old)
    sums = [float(grown.state_dict()[GATHER].sum()) for grown in (old, new)]
    assert sums[1] == pytest.approx(sums[0], rel=1e-5)


def test_albedo_is_learned_on_top_of_what_knows_none():
    old = small()
    new = small(layout=Layout(4, 3, 2, expression_kind="weights"), vertices=5)
    said = head(new, 2).clone()
    start_from(new, old)
    assert torch.equal(head(new, 2), said), "the head of albedo is its own"
    for mine, theirs in ((0, 0), (1, 1), (3, 2), (4, 3), (5, 4), (6, 5)):
        assert torch.equal(head(new, mine), head(old, theirs))
    new.albedo.fill_(0.25)
    newer = small(64, layout=Layout(4, 3, 2, expression_kind="weights"), vertices=5)
    start_from(newer, new)
    assert float(newer.albedo.min()) == 0.25


@pytest.mark.parametrize(
    "other",
    [
        small(width=6),
        small(layout=Layout(5, 3, 0, expression_kind="weights")),
        FaceRegressor.tiny(ResNetSettings(18, 32, 4)),
    ],
)
def test_a_network_of_other_sizes_is_refused(other):
    with pytest.raises(UsageError, match=r"--start: these are no weights of the same sizes.*modes of identity"):
        start_from(small(), other)


@pytest.mark.parametrize("trunk", [ResNetSettings(18, 64, 4), ResNetSettings(50, 32, 8)])
def test_resnets_are_written_and_read(trunk, tmp_path):
    from dataclasses import asdict

    from aboutface.recipes import Trained

    torch.manual_seed(0)
    made = FaceRegressor.tiny(trunk).eval()
    made.points.normal_(std=0.05)
    write_weights(
        tmp_path / "r.safetensors", "deep3d", Trained(made.state_dict(), {}, {"network": asdict(made.settings)})
    )
    read = FaceRegressor.from_file(tmp_path / "r.safetensors")
    assert read.settings == made.settings
    images = torch.rand(2, 3, trunk.size, trunk.size)
    with torch.no_grad():
        torch.testing.assert_close(read(images).landmarks, made(images).landmarks, atol=0.05, rtol=0)


def test_the_released_network_is_trained_on(tmp_path):
    """A made checkpoint of the released form, with ResNet-18; the model is a made one of the BFM's counts."""
    from aboutface.nn.resnet import resnet18
    from aboutface.reconstruct.deep3d import RNet

    torch.manual_seed(0)
    released = RNet(resnet18())
    for head in released.final_layers.parameters():
        torch.nn.init.normal_(head, std=0.05)
    torch.save({"net_recon": released.state_dict()}, tmp_path / "epoch_20.pth")
    model = counted(80, 64, 80)
    assert layout_for(model) == Layout(80, 64, 0)
    settings = replace(SETTINGS, network="resnet18", size=224, albedo=80, start=tmp_path / "epoch_20.pth")
    started = settings.untrained(model)
    assert started.settings == RegressorSettings(ResNetSettings(18), Layout())
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        mine, theirs = started.eval().rnet(image), released.eval()(image)
    for found, expected in zip(mine, theirs, strict=True):
        assert torch.equal(found, expected)
    assert float(started.points.abs().max()) > 0
    with pytest.raises(UsageError, match="--start"):
        replace(settings, albedo=40).untrained(model)
    assert read_start(tmp_path / "epoch_20.pth").settings.trunk == ResNetSettings(18)


def test_a_resnet_starts_from_torchvisions_weights(tmp_path):
    from aboutface.nn.resnet import resnet18

    torch.manual_seed(1)
    state = dict(resnet18().state_dict()) | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "resnet18.pth")
    settings = replace(SETTINGS, network="resnet18", size=64, backbone=tmp_path / "resnet18.pth")
    started = settings.untrained(counted(3, 2, 0))
    taken = started.state_dict()["rnet.backbone.layer1.0.conv1.weight"]
    assert torch.equal(taken, state["layer1.0.conv1.weight"])
    del state["layer1.0.conv1.weight"]
    torch.save(state, tmp_path / "resnet18.pth")
    with pytest.raises(UsageError, match=r"expected layer1\.0\.conv1\.weight"):
        settings.untrained(counted(3, 2, 0))
    with pytest.raises(UsageError, match="--network resnet50"):
        replace(SETTINGS, backbone=tmp_path / "resnet18.pth")


def counted(identity, expression, albedo):
    """The made face as a model of the BFM's kind with so many modes, all of them noise."""
    made = toy()
    draws = torch.Generator().manual_seed(0)
    shape = len(made.mean), 3
    return replace(
        made,
        identity=torch.randn(identity, *shape, generator=draws),
        expression=torch.randn(expression, *shape, generator=draws),
        expression_names=tuple(str(i) for i in range(expression)),
        albedo_mean=torch.full(shape, 0.5),
        albedo=0.01 * torch.randn(albedo, *shape, generator=draws),
    )


def test_any_models_face_lies_where_the_crop_has_it():
    """An untrained network puts the face where the five points were aligned to."""
    model = replace(toy(), mean=toy().mean + torch.tensor([3.0, -40.0, 55.0]))
    off = five_of_model(model.landmarks(model.mean), centre_of(model)) - ICT_FIVE
    assert float(off.mean(0).abs().max()) < 1e-4
    assert float(centre_of(replace(model, name="bfm09")).abs().max()) == 0
    assert torch.equal(centre_of(replace(model, name="ict")), ICT_CENTRE)


@pytest.mark.parametrize(("wrong", "said"), [({"stand_in": True}, "--albedo"), ({"recognition": "x.pth"}, "--albedo")])
def test_what_only_drawing_can_use_is_refused_without(wrong, said):
    with pytest.raises(UsageError, match=said):
        replace(SETTINGS, **wrong)


@pytest.mark.parametrize("own", [True, False])
def test_any_model_is_drawn_in_training(own, tmp_path, monkeypatch):
    """One of the BFM's kind, with an albedo of its own or learned; faces are compared by a recognition network."""
    from aboutface.fit import Run
    from aboutface.nn.iresnet import IResNet

    monkeypatch.setattr(IResNet, "from_file", lambda file: IResNet.tiny())
    made = counted(3, 2, 4)
    made = made if own else replace(made, albedo_mean=None, albedo=None)
    made.save(tmp_path / "model.safetensors")
    image, points = drawn_face()
    (tmp_path / "faces").mkdir()
    for i in range(8):
        Image.fromarray(np.roll(image, i, 0)).save(tmp_path / "faces" / f"{i}.png")
        (tmp_path / "faces" / f"{i}.json").write_text(
            json.dumps({"landmarks68": (points + np.array([0, i])).tolist(), "identity": f"p{i}"})
        )
    training = replace(
        SETTINGS,
        model=tmp_path / "model.safetensors",
        albedo=2,
        test_share=0.0,
        batch=2,
        recognition=tmp_path / "backbone.pth",
        fit=replace(SETTINGS.fit, steps=2),
    )
    run = Run.create(tmp_path / "runs", "faces", "deep3d", {})
    trained = training.train(tmp_path / "faces", run, quiet)
    settings = FaceRegressor(training.regressor(made)).settings
    assert settings.layout == Layout(3, 2, 2)
    assert settings.vertices == (0 if own else len(made.mean))
    assert ("albedo" in trained.tensors) == (not own), "a model's own albedo is not written into the weights"
    assert all(bool(tensor.isfinite().all()) for tensor in trained.tensors.values())
    assert not any("recognition" in name for name in trained.tensors)
    line = (run.folder / "metrics.jsonl").read_text()
    assert "perceptual" in line
