"""Confidences in pictures of one person: who is in a set, what is spoiled, what is learned, whose file it is."""

from dataclasses import replace

import pytest
import torch

from aboutface.errors import UsageError
from aboutface.fit import FitSettings, Run, TensorBatches, fit
from aboutface.morphable import MeanHead
from aboutface.nn.mobile import MobileSettings
from aboutface.recipes import Trained, write_weights
from aboutface.recipes.deep3d_faces import CroppedFaces, kept_side
from aboutface.recipes.deep3d_sets import (
    Deep3DSetsTraining,
    SetsTask,
    drawn_sets,
    grade,
    people_of,
    spoiled,
)
from aboutface.reconstruct.deep3d import Layout
from aboutface.reconstruct.deep3d_landmarks import (
    FaceRegressor,
    RegressorSettings,
    SetConfidence,
    fingerprint,
    look_at_person,
)

SIZE = 32
LAYOUT = Layout(2, 1, 0, expression_kind="weights")
SETTINGS = replace(
    Deep3DSetsTraining(),
    sets=4,
    most=4,
    shift=0,
    scale=0.0,
    rotation=0.0,
    width=6,
    hidden=16,
    learning_rate=1e-2,
    fit=FitSettings(steps=60, preview_every=0, log_every=1000, device="cpu"),
)


def net(seed: int = 0) -> FaceRegressor:
    """It says of the identity what the trunk happens to see; its modes move all landmarks apart."""
    torch.manual_seed(seed)
    made = FaceRegressor(RegressorSettings(MobileSettings(SIZE, 4, (4, 6, 8), (1, 2, 1), (2, 2, 2), 12), LAYOUT))
    points = (MeanHead.load().landmarks - MeanHead.load().landmarks.mean(0)) / 1000
    made.points[0] = points
    made.points[1] = points * torch.tensor([0.06, 0.0, 0.0])
    made.points[2] = points * torch.tensor([0.0, 0.06, 0.0])
    made.points[3] = 0.001
    return made.eval().requires_grad_(False)


def test_people_are_those_with_enough_pictures():
    faces = CroppedFaces(torch.zeros(7, 3, 4, 4), torch.zeros(7, 68, 2), ["a", "b", "a", None, "c", "c", "a"])
    table = people_of(faces, torch.arange(7), 2)
    assert sorted(sorted(row[row >= 0].tolist()) for row in table) == [[0, 2, 6], [4, 5]]
    assert table.shape == (2, 3)
    assert len(people_of(faces, torch.tensor([0, 1, 3]), 2)) == 0


def test_sets_hold_different_pictures_of_one_person():
    torch.manual_seed(0)
    people = torch.tensor([[0, 1, 2, 3, 4], [5, 6, -1, -1, -1]])
    seen = set()
    for _ in range(30):
        sets = drawn_sets(people, 3)
        assert sets.shape == (2, 3)
        first, second = sets[0].tolist(), [i for i in sets[1].tolist() if i >= 0]
        assert len(set(first)) == 3
        assert set(first) <= {0, 1, 2, 3, 4}
        assert sorted(second) == [5, 6]
        seen.add(tuple(sorted(first)))
    assert len(seen) > 5


def test_what_is_spoiled_is_marked_and_the_rest_is_not_touched():
    torch.manual_seed(0)
    images = torch.rand(64, 3, SIZE, SIZE)
    changed, bad = spoiled(images, 0.5)
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    off = (changed - images).abs().mean((1, 2, 3))
    assert torch.equal(off > 0.02, bad)
    assert 20 < int(bad.sum()) < 44
    assert not bool(spoiled(images, 0.0)[1].any())


def noisy_net() -> FaceRegressor:
    """In bright pictures it sees the truth, in dark ones another shape: what the trunk sees is put in by hand."""
    made = net()
    made.rnet.backbone = _Brightness()  # pyright: ignore[reportAttributeAccessIssue]
    state = made.state_dict()
    # 2 where the picture is dark, 0 where it is bright. The state's tensors are the network's own.
    state["rnet.final_layers.0.weight"].zero_()[:, 0] = -2.0
    state["rnet.final_layers.0.bias"].fill_(2.0)
    return made


class _Brightness(torch.nn.Module):
    features, early_features = 12, 4

    def stages(self, images):
        from aboutface.nn.resnet import Stages

        bright = (images.mean((1, 2, 3)) > 0.3).float()
        pooled = torch.zeros(len(images), 12)
        pooled[:, 0] = bright
        return Stages(torch.zeros(len(images), 4, 8, 8) + bright[:, None, None, None], pooled)

    def forward(self, images):
        return self.stages(images).pooled


def people(count: int, each: int) -> CroppedFaces:
    """Grey pictures of the mean face's landmarks as the network projects them."""
    made = net()
    border = (kept_side(SIZE) - SIZE) / 2
    points = made.project(LAYOUT.zeros(), SIZE) + border
    side = kept_side(SIZE)
    pictures = torch.full((count * each, 3, side, side), 200, dtype=torch.uint8)
    names: list[str | None] = [f"p{i // each}" for i in range(count * each)]
    return CroppedFaces(pictures, points.expand(count * each, -1, -1).contiguous(), names)


def test_it_learns_to_distrust_what_misleads(monkeypatch):
    """Dark pictures say another identity; the truth is the mean face."""

    def darkened(images, share):
        bad = torch.rand(len(images)) < share
        return torch.where(bad[:, None, None, None], images * 0.1, images), bad

    monkeypatch.setattr("aboutface.recipes.deep3d_sets.spoiled", darkened)
    monkeypatch.setattr("aboutface.recipes.deep3d_sets.recoloured", lambda images: images)
    watched, faces = noisy_net(), people(6, 8)
    confidence = SetConfidence(watched, 6, 16)
    table = people_of(faces, torch.arange(48), 2)
    before = grade(watched, confidence, faces, table, 0.4)
    # Untrained, all are trusted alike.
    assert before["nme_confident"] == pytest.approx(before["nme_plain"], abs=1e-3)
    frozen = {name: tensor.clone() for name, tensor in watched.state_dict().items()}
    task = SetsTask(watched, confidence, faces, SETTINGS)
    fitted = fit(task.train(), TensorBatches({"person": table}, 4, 0), SETTINGS.fit)
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in watched.state_dict().items())
    after = grade(watched, fitted.averaged.confidence.eval(), faces, table, 0.4)
    assert after["nme_plain"] == before["nme_plain"]
    # Of a set that is dark as a whole nothing can be learned.
    assert after["nme_confident"] < 0.8 * after["nme_plain"]
    assert after["spread_confident"] < 0.9 * after["spread_plain"]
    assert after["confidence_spoiled"] < 0.5 * after["confidence_clean"]


def test_the_order_of_pictures_does_not_matter():
    torch.manual_seed(0)
    watched = net()
    for head in watched.rnet.final_layers.parameters():
        torch.nn.init.normal_(head, std=0.1)
    confidence = SetConfidence(watched, 6, 16).eval()
    torch.nn.init.normal_(confidence.cnet.last.weight)
    crops = torch.rand(5, 3, SIZE, SIZE)
    person, other = look_at_person(watched, crops, confidence), look_at_person(watched, crops.flip(0), confidence)
    torch.testing.assert_close(person.identity, other.identity, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(person.confidences, other.confidences.flip(0), atol=1e-5, rtol=1e-4)
    assert float((person.identity - look_at_person(watched, crops).identity).abs().max()) > 1e-3
    # A picture by itself is believed whatever its confidence.
    alone = look_at_person(watched, crops[:1], confidence)
    torch.testing.assert_close(alone.identity, alone.each.id[0])


def test_a_file_belongs_to_its_network(tmp_path):
    watched = net()
    for head in watched.rnet.final_layers.parameters():
        torch.nn.init.normal_(head, std=0.1)
    confidence = SetConfidence(watched, 6, 16)
    torch.nn.init.normal_(confidence.cnet.last.weight)
    file = tmp_path / "sets.safetensors"
    write_weights(file, "deep3d-sets", Trained(confidence.state_dict(), {}, {"sets": confidence.card}))
    read = SetConfidence.from_file(file, watched)
    torch.testing.assert_close(read.cnet.last.weight, confidence.cnet.last.weight, atol=2e-3, rtol=1e-3)
    with pytest.raises(UsageError, match="belongs to the network"):
        SetConfidence.from_file(file, net(1))
    write_weights(tmp_path / "other.safetensors", "deep3d", Trained(watched.state_dict(), {}, {}))
    with pytest.raises(UsageError, match="no weights of deep3d-sets"):
        SetConfidence.from_file(tmp_path / "other.safetensors", watched)
    # A network has the same name before it is written and when it is read again.
    halved = net()
    halved.load_state_dict(
        {name: t.half().float() if t.is_floating_point() else t for name, t in net().state_dict().items()}
    )
    assert fingerprint(halved) == fingerprint(net())


def test_a_small_file():
    confidence = SetConfidence(FaceRegressor())
    # Half precision.
    assert 2 * sum(p.numel() for p in confidence.parameters()) < 1_000_000


@pytest.mark.parametrize("wrong", [{"most": 1}, {"spoiled": 1.0}, {"sets": 0}, {"scale": -0.1}, {"learning_rate": 0.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match="expected"):
        replace(SETTINGS, **wrong)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(UsageError, match="--start FILE"):
        SETTINGS.train(tmp_path, Run(tmp_path), lambda _: None)
