"""The benchmark of fitted faces: distances on spheres, planes and triangles, alignment, and a small run."""

import json
import math
from dataclasses import asdict

import pytest
import torch
from PIL import Image

from aboutface.benchmark.consistency import people_kept_aside
from aboutface.benchmark.morphable import (
    Options,
    nearest_on_triangles,
    noisy_landmarks,
    point_to_surface,
    run,
    surface_errors,
    true_points,
)
from aboutface.cli.bench import bench_morphable
from aboutface.cli.bench_commands import BenchMorphable
from aboutface.cli.commands import Talk
from aboutface.data import split_by_identity
from aboutface.data.synthetic import SyntheticFaces
from aboutface.errors import UsageError
from aboutface.geometry import grid_faces, project, rotation_from_angles
from aboutface.morphable import ICT_FILE, MeanHead, MorphableModel
from aboutface.recipes import Trained, write_weights
from aboutface.recipes.synth.generate import synth_faces
from aboutface.recipes.synth.settings import SynthSettings
from aboutface.reconstruct.deep3d import Layout
from aboutface.reconstruct.deep3d_landmarks import FaceRegressor, RegressorSettings
from aboutface.reconstruct.morphable_refine import RefineSettings


def ball(radius: float, rows: int = 60, columns: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    """Half a ball about 0 that looks along -z: vertices (V, 3) and faces."""
    angle, height = torch.linspace(-1.5, 1.5, columns).double(), torch.linspace(-1.4, 1.4, rows).double()
    height, angle = torch.meshgrid(height, angle, indexing="ij")
    unit = torch.stack([angle.sin() * height.cos(), height.sin(), -angle.cos() * height.cos()], -1)
    return radius * unit.flatten(0, 1), grid_faces(rows, columns)


def test_distance_from_a_plane_is_the_height():
    x, y = torch.meshgrid(torch.arange(10.0), torch.arange(8.0), indexing="xy")
    vertices = torch.stack([x, y, 0 * x], -1).flatten(0, 1)
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 7.0, 4.0])
    distance, nearest = point_to_surface(points, vertices, grid_faces(8, 10))
    torch.testing.assert_close(distance, points[:, 2])
    torch.testing.assert_close(nearest, points * torch.tensor([1.0, 1.0, 0.0]))
    beside, _ = point_to_surface(torch.tensor([[12.0, 3.0, 4.0]]), vertices, grid_faces(8, 10))
    assert float(beside) == pytest.approx(5.0)


def test_distance_from_a_sphere_is_the_difference_of_radii():
    vertices, faces = ball(80.0)
    directions, _ = ball(1.0, 17, 23)
    for radius in (70.0, 80.0, 91.0):
        distance, _ = point_to_surface(radius * directions[23:-23], vertices, faces)
        # Triangles lie within the sphere by up to 0.03.
        torch.testing.assert_close(distance, torch.full_like(distance, abs(radius - 80)), rtol=0, atol=0.06)


def test_nearest_points_of_a_triangle_are_those_of_many_samples():
    generator = torch.Generator().manual_seed(1)
    corners, points = torch.randn(40, 3, 3, generator=generator), 2 * torch.randn(40, 3, generator=generator)
    share = torch.rand(40000, 2, generator=generator)
    share = torch.where(share.sum(1, keepdim=True) > 1, 1 - share, share)
    weights = torch.cat([share, 1 - share.sum(1, keepdim=True)], 1)
    sampled = torch.einsum("sk,nkd->nsd", weights, corners)
    least = (sampled - points[:, None]).norm(dim=-1).min(1).values
    exact = (nearest_on_triangles(points, corners) - points).norm(dim=-1)
    assert bool((exact <= least + 1e-5).all())
    torch.testing.assert_close(exact, least, rtol=0, atol=0.03)


def test_only_the_nearest_triangles_matter():
    """The tried triangles give what all of them give."""
    vertices, faces = ball(50.0, 14, 20)
    vertices = vertices + 2 * torch.randn(vertices.shape, generator=torch.Generator().manual_seed(2)).double()
    points, _ = ball(55.0, 9, 11)
    every = nearest_on_triangles(
        points[:, None].expand(-1, len(faces), -1), vertices[faces].expand(len(points), -1, -1, -1)
    )
    slow = (every - points[:, None]).norm(dim=-1).min(1).values
    torch.testing.assert_close(point_to_surface(points, vertices, faces)[0], slow)


def test_errors_know_neither_place_nor_size_and_count_in_the_truths_millimetres():
    vertices, faces = ball(80.0, 30, 60)
    # No ball: else any turn fits.
    vertices = vertices * torch.tensor([0.9, 1.3, 1.0]).double() + torch.tensor([0.0, 0.0, -1.0]) * (
        20 * torch.exp(-vertices[:, :2].square().sum(1) / 400)
    ).unsqueeze(1)
    marks = vertices[torch.linspace(180, len(vertices) - 180, 68).long()]
    points = vertices[::3] + 0.3 * torch.tensor([0.0, 0.0, -1.0])
    rotation = rotation_from_angles(20.0, -5.0, 3.0).double()
    moved, moved_marks = (0.01 * x @ rotation.mT + torch.tensor([1.0, 2.0, 3.0]).double() for x in (vertices, marks))
    assert float(surface_errors(moved, faces, moved_marks, vertices[::3], marks).max()) < 1e-4
    # A shift along z is aligned away.
    assert float(surface_errors(moved, faces, moved_marks, points, marks).median()) < 0.05
    bumpy = vertices.clone()
    bumpy[:, 2] += 2.0 * torch.sin(vertices[:, 0] / 6)
    found = surface_errors(0.01 * bumpy, faces, 0.01 * marks, vertices[::3], marks).median()
    assert 0.3 < float(found) < 1.5


@pytest.fixture(scope="module")
def faces(data, tmp_path_factory):
    if not (data / ICT_FILE).is_file():
        pytest.skip(f"no {ICT_FILE} in {data}")
    folder = tmp_path_factory.mktemp("synth")
    synth_faces(folder, SynthSettings(n=2, size=48, images_per_identity=2, split="test=1"), model=str(data / ICT_FILE))
    return folder, MorphableModel.load(data / ICT_FILE)


def test_truth_and_noise(faces):
    example = SyntheticFaces.open(faces[0] / "test")[0]
    points, marks = true_points(example)
    assert 300 < len(points) < 48 * 48
    # The landmarks that are seen lie on the surface that is seen, up to a pixel's slope.
    seen = torch.from_numpy(example.visible)
    near = torch.cdist(marks[seen], points).min(1).values
    assert float(near.median()) < 4.0
    torch.testing.assert_close(
        project(marks, torch.from_numpy(example.K).double()).float(),
        torch.from_numpy(example.landmarks),
        atol=1e-3,
        rtol=0,
    )
    off = torch.from_numpy(noisy_landmarks(example, 2.0, 0) - example.landmarks)
    millimetres = off * example.millimetres_per_unit / float(example.K[0, 0])
    assert float(millimetres.square().mean().sqrt()) == pytest.approx(2.0, rel=0.2)
    assert (noisy_landmarks(example, 2.0, 0) == noisy_landmarks(example, 2.0, 0)).all()


def test_a_small_run(faces, tmp_path):
    folder, model = faces
    quick = RefineSettings(sizes=(24,), steps=(2,))
    report = run(Options(folder, tmp_path, faces=1, noise=1.0, model=model, colours=quick), lambda _: None)
    assert [row[0] for row in report.tables[0].rows] == [
        "mean head, no photo",
        "depthnet's head",
        "fit to landmarks",
        "fit to landmarks, then colours",
    ]
    assert len(report.tables[1].rows) == 4
    assert len(report.verdicts) == 3
    record = json.loads((tmp_path / "results.json").read_text())
    for name in ("mean head", "depthnet", "landmarks", "synthesis", "landmarks, 2"):
        assert 0.05 < record["results"]["morphable"][name]["median"]["mean"] < 4.0
    assert "inverse crime" in (tmp_path / "tables.md").read_text()
    assert math.isfinite(record["results"]["morphable"]["synthesis, 2"]["mean"]["mean"])


def test_a_network_joins_and_sets_of_photos_are_compared(faces, data, tmp_path):
    folder, model = faces
    front = model.part("front")
    settings = RegressorSettings(FaceRegressor.tiny().settings.trunk, Layout(4, 57, 0, expression_kind="weights"))
    torch.manual_seed(0)
    net = FaceRegressor(settings)
    net.set_landmarks(net.basis(front))
    torch.nn.init.normal_(next(net.rnet.final_layers[0].parameters()), std=0.3)
    card = {"network": asdict(settings), "training": {}}
    weights = tmp_path / "net.safetensors"
    write_weights(weights, "deep3d", Trained(dict(net.state_dict()), {}, card))
    quick = RefineSettings(sizes=(24,), steps=(1,))
    tar = data / "ytf68-train.tar"
    options = Options(folder, tmp_path / "out", 2, model=model, colours=quick, method=weights, people=tar)
    report = run(options, lambda _: None)
    titles = [row[0] for row in report.tables[0].rows]
    assert titles[-1] == "deep3d's network"
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert {"network, 1", "network, 2", "landmarks, 5"} <= set(results["morphable"]) | set(results["consistency"])
    found = results["consistency"]["landmarks, 5"]
    # Two people are farther apart than two sets of photos of one.
    assert 0 < found["same"]["mean"] < found["other"]["mean"]
    assert found["same"]["n"] == 2
    with pytest.raises(UsageError, match="--sets"):
        Options(folder, tmp_path, sets=weights)


def test_what_is_asked_wrongly(tmp_path):
    with pytest.raises(UsageError, match="no folder test"):
        bench_morphable(BenchMorphable(tmp_path, output=tmp_path / "out", talk=Talk(quiet=True)))
    with pytest.raises(UsageError, match="--faces 0"):
        run(Options(tmp_path, tmp_path, faces=0))


def test_people_are_found_whatever_the_order_of_their_photos(tmp_path):
    """Frames of twenty people take turns; those with too few photos are passed over."""
    points = MeanHead.load().landmarks[:, :2] * 0.2 + 30
    names = [f"p{i}" for i in range(20)]
    aside = {names[i] for i in split_by_identity(names)["test"].tolist()}
    assert len(aside) > 2
    few = min(aside)
    for name in names:
        for i in range(3 if name == few else 11):
            Image.new("RGB", (60, 60)).save(tmp_path / f"{i:02}-{name}.png")
            side = {"landmarks68": (points + i).tolist(), "identity": name}
            (tmp_path / f"{i:02}-{name}.json").write_text(json.dumps(side))
    found = people_kept_aside(tmp_path, None, 2)
    assert len(found) == 2
    assert set(found) <= aside - {few}
    for photos in found.values():
        # Ten different frames, shuffled.
        frames = (photos.landmarks[:, 30, 0] - points[30, 0]).round().tolist()
        assert sorted(frames) == list(range(10)) != frames
