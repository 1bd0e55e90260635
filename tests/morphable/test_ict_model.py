"""The ICT model as a morphable model: its published numbers, its crop, and its way through the safe file."""

import pytest
import torch

from aboutface.face import MIRROR_68
from aboutface.morphable import ICT_FILE, IctModel, MorphableModel

# Centimetres, y up: a few of the landmarks that its documentation lists.
PUBLISHED = {
    0: (1225, -7.36, 3.68, 3.66),
    8: (966, 0.00, -7.57, 10.43),
    19: (1914, -3.79, 6.26, 9.83),
    30: (4857, 0.00, 0.41, 13.07),
    33: (1147, 0.00, -1.20, 11.57),
    36: (1507, -4.46, 3.43, 8.60),
    45: (3721, 4.46, 3.43, 8.60),
    48: (5708, -2.53, -3.52, 10.19),
    66: (5517, 0.00, -3.40, 11.25),
}


@pytest.fixture(scope="module")
def model(data):
    if not (data / ICT_FILE).is_file():
        pytest.skip(f"no {ICT_FILE} in {data}")
    return MorphableModel.load(data / ICT_FILE)


def test_its_size_and_terms(model):
    assert (model.mean.shape, len(model.identity), len(model.expression)) == ((17202, 3), 100, 57)
    assert (model.name, model.redistributable, model.expression_kind) == ("ict", True, "weights")
    assert model.albedo is None
    assert model.masks["eyes"].sum() == 2 * 1570


def test_landmarks_are_where_its_table_has_them(model):
    marks = model.landmarks(model.mean)
    for number, (vertex, x, y, z) in PUBLISHED.items():
        assert int(model.landmarks68[number]) == vertex
        torch.testing.assert_close(marks[number], torch.tensor([x, -y, -z]) * 10, rtol=0, atol=0.06)
    assert float((marks[45] - marks[36]).norm()) == pytest.approx(89.18, abs=0.01)


def test_modes_have_their_published_sizes(model):
    """Root mean square on the narrow face, from the table: 0.3053, 0.1469, 0.0262 cm."""
    narrow = model.part("narrow_face")
    sizes = narrow.identity.square().sum(-1).mean(1).sqrt()
    torch.testing.assert_close(sizes[[0, 1, 9]], torch.tensor([3.053, 1.469, 0.262]), rtol=0, atol=0.002)
    longest = model.expression[model.expression_names.index("jawOpen")].norm(dim=1).max()
    assert float(longest) == pytest.approx(42.0, abs=0.1)


def test_the_narrow_face_is_a_slice(model):
    narrow = model.part("narrow_face")
    assert (len(narrow.mean), len(narrow.faces)) == (6706, 13120)
    assert torch.equal(narrow.mean, model.mean[:6706])
    assert torch.equal(narrow.landmarks68, model.landmarks68)
    assert torch.equal(narrow.uv[narrow.uv_faces], model.uv[model.uv_faces[(model.faces < 6706).all(1)]])
    assert narrow.check() is narrow
    assert model.part("eyes").landmarks68 is None
    assert model.part("front").mean.shape == narrow.mean.shape


def test_the_neutral_face_and_its_skin_are_mirror_symmetric(model):
    narrow = model.part("narrow_face")
    flip = torch.tensor([-1.0, 1.0, 1.0])
    distance, twin = torch.cdist(narrow.mean * flip, narrow.mean).min(1)
    assert distance.max() < 0.5
    skin = narrow.masks["skin"]
    assert (skin != skin[twin]).float().mean() < 0.01
    marks = model.landmarks(model.mean)
    torch.testing.assert_close(marks[MIRROR_68] * flip, marks, rtol=0, atol=0.5)


def test_skin_leaves_out_brows_eyes_nostrils_and_lips(model):
    skin = model.masks["skin"]
    assert 0.5 < skin.sum() / 6706 < 0.7
    assert not skin[model.landmarks68[17:27]].any()
    assert not skin[model.landmarks68[31:68]].any()
    assert skin[model.landmarks68[27:31]].all(), "the ridge of the nose is skin"
    assert not skin[6706:].any()


def test_it_agrees_with_the_loader_of_its_own(data, model):
    own = IctModel.load(data / ICT_FILE)
    identity, expression = torch.randn(2, 100), torch.rand(2, 57)
    torch.testing.assert_close(
        model.vertices(identity, expression), own.vertices(identity, expression), rtol=0, atol=1e-3
    )
    jaw = torch.zeros(1, 57)
    jaw[0, model.expression_names.index("jawOpen")] = 1
    opened = model.vertices(identity[:1], jaw) - model.vertices(identity[:1])
    assert not opened[:, model.masks["eyes"]].any(), "eyeballs never move"


def test_half_precision_moves_no_vertex_by_a_thirtieth_of_a_millimetre(model, tmp_path):
    model.save(tmp_path / "ict.safetensors")
    again = MorphableModel.load(tmp_path / "ict.safetensors")
    assert torch.equal(again.mean, model.mean)
    random = torch.Generator().manual_seed(0)
    identity, expression = torch.randn(4, 100, generator=random), torch.rand(4, 57, generator=random)
    apart = (again.vertices(identity, expression) - model.vertices(identity, expression)).norm(dim=-1)
    assert apart.max() < 1 / 30
    assert (tmp_path / "ict.safetensors").stat().st_size < 19e6
