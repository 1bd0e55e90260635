"""The identity protocol: walks that stop at the asked angle, angles between embeddings, and the table."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from aboutface.benchmark import identity
from aboutface.benchmark.identity import Turned, angles_between, asked_yaws, crossings, measured, to_scores
from aboutface.errors import UsageError
from aboutface.generate import Gan
from aboutface.nn.stylegan2 import Discriminator, Generator
from aboutface.recipes import Trained, write_weights
from aboutface.reconstruct.gan2shape import GAN2Shape
from aboutface.reconstruct.gan2shape_file import read, settings_of, tensors_of
from aboutface.reconstruct.unsup3d_photo import symmetric_factors


def test_a_crossing_is_found_between_two_places_nearest_to_the_middle() -> None:
    values = torch.tensor([5.0, -30.0, -10.0, 10.0, 30.0, 20.0, -40.0])
    places, reached = crossings(values, torch.tensor([0.0, -20.0, 20.0, 31.0]))
    assert reached.tolist() == [True, True, True, False]
    assert places[:3].tolist() == pytest.approx([2.5, 1.5, 3.5])


def test_the_asked_yaws_are_symmetric_and_within_twenty_degrees() -> None:
    yaws = asked_yaws()
    assert len(yaws) == 20
    assert torch.allclose(yaws, -yaws.flip(0))
    assert float(yaws.max()) == 20.0


def test_angles_between_embeddings_are_degrees_whatever_their_lengths() -> None:
    first = torch.tensor([[2.0, 0.0]])
    others = torch.tensor([[3.0, 0.0], [0.0, 0.1], [-1.0, 1.0]])
    assert angles_between(first, others).tolist() == pytest.approx([0.0, 90.0, 135.0])


def _gan() -> Gan:
    torch.manual_seed(0)
    generator = Generator.tiny().eval().requires_grad_(False)
    generator.mapping.measure_centre(draws=500)
    return Gan(generator, None, {})


def _brightness(pictures: Tensor) -> Tensor:
    """A stand-in for a network of views that is smooth in the picture."""
    return 400 * (pictures.mean((1, 2, 3)) - 0.5)


def test_a_walk_stops_where_the_views_are_the_asked_ones() -> None:
    gan = _gan()
    direction = torch.nn.functional.normalize(torch.randn(16), dim=0)
    w = gan.generator.mapping.centre.clone()
    step = identity.spread(gan) * identity.WALK * torch.linspace(-1, 1, identity.PLACES)
    along = _brightness(identity.pictures(gan, w + step[:, None] * direction))
    middle = float(along[len(along) // 2])

    def views(pictures: Tensor) -> Tensor:
        return _brightness(pictures) - middle

    # What it can reach at all, and something it cannot.
    reach = min(float(along.max()) - middle, middle - float(along.min())) * 0.5
    yaw = torch.tensor([-reach, reach / 2, 1e6])
    turned = identity.walker(gan, direction, views)(w, yaw)
    assert turned.yaw.tolist() == pytest.approx(yaw[:2].tolist())
    found = views(turned.views)
    assert torch.allclose(found, yaw[:2], atol=0.1 * reach)
    assert float(views(turned.frontal[None])) == pytest.approx(0.0, abs=0.1 * reach)


def test_of_several_directions_that_is_taken_which_changes_the_view_most() -> None:
    gan = _gan()
    wide = torch.zeros(16)
    wide[3] = 1.0
    directions = torch.stack([1e-3 * wide, wide, 1e-2 * wide])
    assert torch.equal(identity.best_direction(gan, directions, _brightness, seed=0), wide)


class _Known:
    """An embedding that turns by as many degrees as the picture says in its first pixel."""

    name = "known"

    def __call__(self, pictures: Tensor) -> Tensor:
        angle = torch.deg2rad(100 * pictures[:, 0, 0, 0])
        return torch.stack([torch.cos(angle), torch.sin(angle)], -1)


def _turner(per_degree: float, most: float = 90.0):
    def turn(w: Tensor, yaw: Tensor) -> Turned:
        yaw = yaw[yaw.abs() <= most]
        views = torch.zeros(len(yaw), 3, 4, 4)
        views[:, 0, 0, 0] = per_degree * yaw.abs() / 100
        return Turned(torch.zeros(3, 4, 4), views, yaw)

    return turn


def test_scores_are_mean_and_largest_angle_and_what_is_out_of_reach() -> None:
    found, shown = measured(
        {"3d": _turner(1.0), "sefa": _turner(2.0, most=10.0)}, torch.zeros(3, 16), _Known(), lambda _: None
    )
    scores = to_scores(found)
    assert scores["3d"]["mean"].mean == pytest.approx(float(asked_yaws().abs().mean()), abs=1e-4)
    assert scores["3d"]["max"].mean == pytest.approx(20.0, abs=1e-4)
    assert scores["3d"]["reached"].mean == 1.0
    near = asked_yaws().abs() <= 10
    assert scores["sefa"]["reached"].mean == pytest.approx(float(near.double().mean()))
    assert scores["sefa"]["mean"].mean == pytest.approx(2 * float(asked_yaws()[near].abs().mean()), abs=1e-4)
    assert [len(rows) for rows in shown.values()] == [3, 3]


def test_the_results_say_what_is_met_and_show_what_was_measured(tmp_path: Path) -> None:
    turners = {"3d": _turner(1.0), "gan": _turner(1.5), "ganspace": _turner(1.6), "sefa": _turner(1.2)}
    found, shown = measured(turners, torch.zeros(4, 16), _Known(), lambda _: None)
    report = identity.finish(found, shown, _Known(), "a known network", tmp_path, {})
    assert [verdict.met for verdict in report.verdicts] == [True, False]
    for name in ("results.json", "tables.md", "tables.tex", "faces.png"):
        assert (tmp_path / name).stat().st_size > 0
    text = report.tables[0].text()
    assert "known" in text
    assert "41.17" in text


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Of a tiny model and its generator of centred squares."""
    torch.manual_seed(2)
    generator, discriminator = Generator.tiny(), Discriminator.tiny()
    generator.mapping.measure_centre(draws=200)
    gan = Gan(generator, discriminator, {"settings": {"network": vars(generator.settings)}})
    model = GAN2Shape.tiny()
    file = tmp_path / "model.safetensors"
    settings = settings_of(model, gan, "none", {})
    write_weights(file, "gan2shape", Trained(tensors_of(model, gan, "none"), {}, settings))
    return file


def test_all_rows_from_a_weight_file(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "embedding", lambda _: _Known())
    said: list[str] = []
    options = identity.Options(str(weights), tmp_path / "out", faces=2)
    report = identity.run(options, said.append)
    assert list(report.scores) == ["3d", "gan", "ganspace", "sefa"]
    assert report.scores["3d"]["reached"].mean == 1.0
    assert (tmp_path / "out" / "results.json").is_file()
    first = report.scores["3d"]["mean"].mean
    again = identity.run(options, said.append)
    assert again.scores["3d"]["mean"].mean == first
    only = identity.run(replace(options, rows=("sefa",)), said.append)
    assert list(only.scores) == ["sefa"]
    assert not any(verdict.met for verdict in only.verdicts)


def test_the_face_that_is_drawn_at_its_own_yaw_is_its_reconstruction(weights):
    model, gan = read(weights)
    w = identity.sampled(gan, 1, seed=3)[0]
    turners = identity.gan2shape_turners(model, gan, lambda w, picture: model)
    with torch.no_grad():
        factors = symmetric_factors(model.net, model.anchor(gan, w[None]))
        wanted = model.net.reproject(factors).image.clamp(0, 1)
    turned = turners["3d"](w, factors.view.yaw)
    torch.testing.assert_close(turned.views, wanted)
    assert turners["gan"](w, factors.view.yaw).views.shape == (1, 3, 16, 16)


@pytest.mark.parametrize(("changes", "words"), [({"faces": 1}, "2 or more"), ({"rows": ("best",)}, "there are: 3d")])
def test_wrong_options_are_named_before_any_work(changes, words):
    with pytest.raises(UsageError, match=words):
        identity.run(replace(identity.Options("absent.safetensors"), **changes))


def test_a_method_that_makes_no_face_has_no_number() -> None:
    class Blind:
        name = "blind"

        def __call__(self, pictures: Tensor) -> Tensor:
            return torch.full((len(pictures), 4), math.nan)

    found, _ = measured({"3d": _turner(1.0)}, torch.zeros(2, 16), Blind(), lambda _: None)
    assert math.isnan(to_scores(found)["3d"]["mean"].mean)
    assert float(found["3d"]["reached"].sum()) == 0.0
