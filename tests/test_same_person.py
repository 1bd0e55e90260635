"""Several photos of one person, from files to files: what counts, what is left out, what is said."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

import aboutface
import ellipsoid_ict as made_up
from aboutface import detect
from aboutface.cli import main
from aboutface.edit import Pipeline, Reconstruction, person, result
from aboutface.errors import MissingError, NoFaceError, PhotoError
from aboutface.recipes import Trained, write_weights
from aboutface.reconstruct import PERSON_METHODS, deep3d_photo
from aboutface.reconstruct.deep3d_landmarks import FaceRegressor, SetConfidence
from aboutface.weights import REGISTRY, Weights, digest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PORTRAIT = Image.fromarray(astronaut()[0:260, 100:360]).resize((150, 150), Image.Resampling.LANCZOS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two photos of one person, the first one twice, an empty wall, no picture at all; the user's model and weights."""
    folder = tmp_path_factory.mktemp("person")
    (folder / "home" / "weights").mkdir(parents=True)
    model = made_up.ict()
    model.save(folder / "home" / "weights" / "ict.safetensors", half=False)
    torch.manual_seed(0)
    net = made_up.net_of(model, gamma=torch.full((27,), 0.02))
    for head in [*net.rnet.final_layers][:2]:
        assert isinstance(head, torch.nn.Conv2d)
        torch.nn.init.normal_(head.weight, std=0.3)
    made_up.save(net, folder / "small.safetensors")
    PORTRAIT.save(folder / "a.png")
    PORTRAIT.point([round(0.6 * level) for level in range(256)] * 3).crop((8, 4, 148, 144)).save(folder / "b.png")
    shutil.copy(folder / "a.png", folder / "copy.png")
    Image.new("RGB", (16, 16), (120, 130, 140)).save(folder / "wall.png")
    (folder / "notes.png").write_text("no picture")
    return folder


@pytest.fixture(autouse=True)
def home(folder, monkeypatch):
    monkeypatch.setenv("ABOUTFACE_HOME", str(folder / "home"))
    monkeypatch.delenv("ABOUTFACE_DATA", raising=False)
    monkeypatch.chdir(folder)
    deep3d_photo._users_ict.cache_clear()
    yield
    deep3d_photo._users_ict.cache_clear()


@pytest.fixture(scope="module")
def pipeline(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABOUTFACE_HOME", str(folder / "home"))
        made = Pipeline(str(folder / "small.safetensors"))
    deep3d_photo._users_ict.cache_clear()
    return made


def of(shape) -> Reconstruction:
    assert isinstance(shape, Reconstruction)
    return shape


def test_the_command_from_end_to_end(folder, tmp_path, pipeline, capsys):
    names = ["a.png", "notes.png", "b.png", "wall.png", "a.png"]
    options = ["--same-person", "--method", "small.safetensors", "-o", f"{tmp_path}/", "--json"]
    assert main(["reconstruct", *names, *options]) == 1
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [(line["input"], line["status"]) for line in lines] == [
        ("a.png", "done"),
        ("notes.png", "failed"),
        ("b.png", "done"),
        ("wall.png", "failed"),
        ("a.png", "done"),
    ]
    assert "aboutface: notes.png: is not a picture" in said.err
    assert "aboutface: wall.png: No face was found" in said.err
    assert "3 done, 2 failed" in said.err
    files = {path.name for path in tmp_path.iterdir()}
    for name in ("a", "b", "a-2"):
        assert {f"{name}.glb", f"{name}.npz", f"{name}.json", f"{name}_mesh.obj", f"{name}_preview.jpg"} <= files
    assert not any(name.startswith(("notes", "wall")) for name in files)

    arrays = {name: np.load(tmp_path / f"{name}.npz") for name in ("a", "b", "a-2")}
    alone = [of(pipeline.reconstruct(folder / name)[0]).arrays() for name in ("a.png", "b.png")]
    assert np.abs(alone[0]["coeff_id"] - alone[1]["coeff_id"]).max() > 1e-3
    # Of three files two are one picture: it counts once.
    mean = (alone[0]["coeff_id"] + alone[1]["coeff_id"]) / 2
    for name in arrays:
        assert np.abs(arrays[name]["coeff_id"] - mean).max() < 1e-6
        own = alone[name == "b"]
        for other in ("coeff_exp", "coeff_angle", "landmarks", "camera_matrix"):
            assert np.allclose(arrays[name][other], own[other], atol=1e-5), (name, other)
    assert np.array_equal(arrays["a"]["vertices"], arrays["a-2"]["vertices"])
    assert not np.array_equal(arrays["a"]["coeff_exp"], arrays["b"]["coeff_exp"])

    records = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in arrays}
    about = records["b"]["same_person"]
    assert all(record["same_person"] == about for record in records.values())
    assert about["identity"] == "plain mean"
    assert [photo["name"] for photo in about["photos"]] == ["a", "b"]
    assert [photo["share"] for photo in about["photos"]] == [0.5, 0.5]
    assert about["photos"][0]["sha256"] == records["a"]["source"]["sha256"]
    assert about["photos"][0]["distance"] == about["photos"][1]["distance"] < detect.SAME_PERSON
    left_out = {entry["name"]: entry["reason"] for entry in about["left_out"]}
    assert set(left_out) == {"notes", "wall", "a-2"}
    assert "No face was found" in left_out["wall"]
    assert about["embedding"]["name"] == "dlib-embedding"
    assert about["embedding"]["one_person_below"] == detect.SAME_PERSON
    twice = "the same picture as a: it counts once"
    assert left_out["a-2"] == twice
    assert [twice in records[name]["warnings"] for name in arrays] == [False, False, True]
    assert records["a-2"]["source"]["name"] == "a-2"
    text = (DOCS / "outputs.md").read_text("utf-8")
    section = text[text.index("### Several photos") : text.index("## The numbers")]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(about)


def test_the_order_does_not_matter(pipeline):
    photos = ["a.png", "b.png", "copy.png"]
    first = [of(shape) for shape in pipeline.reconstruct_person(photos)]
    assert ["it counts once" in " ".join(shape.warnings) for shape in first] == [False, False, True]
    second = [of(shape) for shape in pipeline.reconstruct_person(photos[::-1])][::-1]
    for one, other in zip(first, second, strict=True):
        assert np.abs(one.arrays()["coeff_id"] - other.arrays()["coeff_id"]).max() < 1e-6
        assert one.portrait.photo.name == other.portrait.photo.name
    assert first[0].portrait.scene is first[2].portrait.scene


def test_confidences_that_ship_are_taken_and_told(folder, monkeypatch):
    home = folder / "home" / "weights"
    shutil.copy(folder / "small.safetensors", home / "deep3d.safetensors")
    net = FaceRegressor.from_file(home / "deep3d.safetensors")
    torch.manual_seed(1)
    confidence = SetConfidence(net, 6, 5)
    torch.nn.init.normal_(confidence.cnet.last.weight, std=2.0)
    trained = Trained(dict(confidence.state_dict()), {}, {"sets": confidence.card})
    write_weights(home / "deep3d-sets.safetensors", "deep3d-sets", trained)
    for name in ("deep3d", "deep3d-sets"):
        record = Weights(name, f"{name}.safetensors", "none", url="https://example.org/")
        monkeypatch.setitem(REGISTRY, name, record)
    result.about_weights.cache_clear()
    result.about_model.cache_clear()
    try:
        record = of(Pipeline("deep3d").reconstruct_person(["a.png", "b.png"])[0]).record
        alone = of(Pipeline("deep3d").reconstruct_person(["a.png", "wall.png"])[0]).record
    finally:
        result.about_weights.cache_clear()
        result.about_model.cache_clear()
    assert "confidence" in record["same_person"]["identity"]
    shares = [photo["share"] for photo in record["same_person"]["photos"]]
    assert sum(shares) == pytest.approx(1.0)
    assert abs(shares[0] - 0.5) > 1e-3
    (told,) = [weights for weights in record["weights"] if weights["name"] == "deep3d-sets"]
    assert told["sha256"] == digest(home / "deep3d-sets.safetensors")
    assert "deep3d-sets" not in str(alone)


def test_strangers_are_named_with_their_distance(pipeline, monkeypatch):
    """Embeddings are put in by hand, by the width of the photo."""
    places = {150: 0.0, 140: 0.1, 160: 0.9}

    def embed(pixels, face):
        return np.array([places[pixels.shape[1]], *[0.0] * 127], np.float32)

    monkeypatch.setattr(person, "embed", embed)
    stranger = PORTRAIT.resize((160, 160))
    shapes = [of(shape) for shape in pipeline.reconstruct_person(["a.png", stranger, "b.png"])]
    about = shapes[0].record["same_person"]
    assert [photo["distance"] for photo in about["photos"]] == [0.1, 0.8, 0.1]
    for shape in shapes:
        (warning,) = [text for text in shape.warnings if "one person" in text]
        assert warning.startswith("perhaps not all of one person: photo (0.80); ")
        assert warning in shape.record["warnings"]
    # Of two nobody can tell who is the stranger.
    (warning, *_) = of(pipeline.reconstruct_person(["a.png", stranger])[0]).warnings[-1:]
    assert "a (0.90), photo (0.90)" in warning
    assert not [text for text in of(pipeline.reconstruct_person(["a.png", "b.png"])[0]).warnings if "person" in text]


def test_without_the_embedding_the_record_says_so(pipeline, monkeypatch):
    def missing(pixels, face):
        raise MissingError("dlib is needed to find faces: pip install dlib-bin")

    monkeypatch.setattr(person, "embed", missing)
    shape = of(pipeline.reconstruct_person(["a.png", "b.png"])[0])
    about = shape.record["same_person"]
    assert about["embedding"] == {"missing": "dlib is needed to find faces: pip install dlib-bin"}
    assert all("distance" not in photo for photo in about["photos"])
    assert not [text for text in shape.warnings if "person" in text]


def test_real_people_are_told_apart(data, monkeypatch):
    photos = [data / "photos" / f"lfw-{name}.jpg" for name in ("Norah_Jones_0003", "Hugo_Chavez_0033")]
    if not all(photo.is_file() for photo in photos):
        pytest.skip(f"no such photos in {data}")
    found = []
    for photo in photos:
        pixels = np.array(Image.open(photo).convert("RGB"))
        for image in (pixels, pixels[5:-5, 5:-5] // 2 + 40):
            (face,) = detect.detect(image, detector="dlib")
            found.append(person.Found(aboutface.read_photo(image), face, {}))
    apart = person.distances([*found[:2], found[2]])
    assert max(apart[:2]) < detect.SAME_PERSON < apart[2]
    # Two of each: everyone is far from most of the others.
    assert min(person.distances(found)) > detect.SAME_PERSON


def test_one_photo_is_done_as_without(pipeline, tmp_path, capsys):
    assert main(["reconstruct", "a.png", "--same-person", "-o", str(tmp_path / "x.npz")]) == 0
    assert main(["reconstruct", "a.png", "-o", str(tmp_path / "y.npz")]) == 0
    said = capsys.readouterr().err
    assert said.count("same_person: one photo has nothing to share its shape with") == 1
    one, other = np.load(tmp_path / "x.npz"), np.load(tmp_path / "y.npz")
    assert all(np.array_equal(one[name], other[name]) for name in other.files)
    # Where only one of several counts, it says that.
    shapes = pipeline.reconstruct_person(["wall.png", "a.png", "none.png", "copy.png"])
    assert [type(shape) for shape in shapes] == [NoFaceError, Reconstruction, PhotoError, Reconstruction]
    shape = of(shapes[1])
    assert shape.warnings[-1] == "a is the only photo that counts: the shape is that of this photo alone"
    assert [photo["share"] for photo in shape.record["same_person"]["photos"]] == [1.0]
    alone = of(pipeline.reconstruct("a.png")[0])
    assert np.array_equal(shape.arrays()["vertices"], alone.arrays()["vertices"])


def test_the_verb_gives_a_list_and_keeps_the_order(folder):
    method = str(folder / "small.safetensors")
    failed, b, a = aboutface.reconstruct(["wall.png", "b.png", "a.png"], same_person=True, method=method)
    assert isinstance(failed, NoFaceError)
    assert (b.portrait.photo.name, a.portrait.photo.name) == ("b", "a")
    assert np.array_equal(a.arrays()["coeff_id"], b.arrays()["coeff_id"])
    assert isinstance(aboutface.reconstruct("a.png", same_person=True, method=method), Reconstruction)
    with pytest.raises(PhotoError):
        aboutface.reconstruct("none.png", same_person=True, method=method)
    assert aboutface.reconstruct([], same_person=True, method=method) == []
    assert all(
        isinstance(one, PhotoError) for one in aboutface.reconstruct(["x", "y"], same_person=True, method=method)
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "depthnet"], f"depthnet: takes each photo by itself; .* choose .* {' or '.join(PERSON_METHODS)}"),
        (["--method", "small.safetensors", "--face", "all"], 'face "all": in a photo of one person there is one face'),
        (["--method", "small.safetensors", "-o", "x.glb"], "2 photos do not fit into one file"),
        (["--method", "small.safetensors", "--box", "1,2,30,40"], "belong to one photo"),
    ],
)
def test_mistakes_are_found_before_anything_is_read(options, words, capsys):
    assert main(["reconstruct", "none.png", "nothing.png", "--same-person", *options]) == 2
    said = capsys.readouterr().err
    assert re.search(words, said)
    assert "no such file" not in said


def test_several_photos_of_one_person_choose_a_method_that_can(monkeypatch, capsys):
    chosen = []

    class Chosen(Exception):
        pass

    def pipeline(method, *_):
        chosen.append(method)
        raise Chosen

    monkeypatch.setattr("aboutface.cli.work.Pipeline", pipeline)
    for arguments in (["a.png", "b.png", "--same-person"], ["a.png", "--same-person"], ["a.png", "b.png"]):
        assert main(["reconstruct", *arguments]) == 1
    assert chosen == [PERSON_METHODS[0], "depthnet", "depthnet"]
    assert main(["reconstruct", "--help"]) == 0
    assert "--same-person" in capsys.readouterr().out
