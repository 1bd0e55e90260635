"""Exported files, read back by other programs' readers or by hand."""

import json
import math
import struct
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aboutface.errors import MissingError, OutputError, UsageError
from aboutface.export import contact_sheet, save_depth, save_json, save_mesh, save_normal, save_npz, save_video
from aboutface.images import read_photo
from aboutface.scene import Camera, DepthMap, Mesh, Pose, Scene

SUFFIXES = [".glb", ".obj", ".ply"]
# A bump towards the camera, not symmetric, on a grid where each texel belongs to one vertex.
HEIGHT, WIDTH = 6, 8


def texture():
    """(6, 8, 3) uint8: red grows to the right, green grows downwards, blue is one."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 30 + 10, y * 40 + 10, 0 * x + 200], -1).astype(np.uint8)


def scene():
    camera = Camera(torch.tensor([[20.0, 0, 4], [0, 20, 3], [0, 0, 1]]), HEIGHT, WIDTH)
    y, x = torch.meshgrid(torch.linspace(-1, 1, HEIGHT), torch.linspace(-1, 1, WIDTH), indexing="ij")
    albedo = torch.tensor(texture()).permute(2, 0, 1).float() / 255
    return Scene(DepthMap(1 + 0.05 * (x**2 + y**2)), albedo, camera, millimetres_per_unit=600.0)


def expected_points():
    points = scene().mesh().vertices.double().numpy()
    return np.stack([points[:, 0], -points[:, 1], 1 - points[:, 2]], -1) * 0.6


def glb_parts(path):
    """JSON tree and binary chunk of a GLB, by the letter of its specification."""
    data = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON"
    start = 20 + size
    assert data[start + 4 : start + 8] == b"BIN\0"
    return json.loads(data[20:start]), data[start + 8 :]


def glb_array(tree, binary, index):
    accessor = tree["accessors"][index]
    view = tree["bufferViews"][accessor["bufferView"]]
    dtype = {5126: "<f4", 5125: "<u4"}[accessor["componentType"]]
    width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[accessor["type"]]
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    return np.frombuffer(binary, dtype, accessor["count"] * width, start).reshape(-1, width)


def glb_image(tree, binary):
    view = tree["bufferViews"][tree["images"][0]["bufferView"]]
    return binary[view["byteOffset"] :][: view["byteLength"]]


def read_glb(path):
    """Points, triangles, normals, OpenGL uv and picture, without the writer's library."""
    tree, binary = glb_parts(path)
    primitive = tree["meshes"][0]["primitives"][0]
    names = primitive["attributes"]
    position, normal, uv = (glb_array(tree, binary, names[n]) for n in ("POSITION", "NORMAL", "TEXCOORD_0"))
    faces = glb_array(tree, binary, primitive["indices"]).reshape(-1, 3)
    # glTF counts v from the top.
    return position, faces, normal, uv * [1, -1] + [0, 1], read_photo(glb_image(tree, binary)).pixels


def read_obj(path):
    rows = {"v": [], "vn": [], "vt": [], "f": [], "mtllib": []}
    for line in path.read_text().splitlines():
        key, _, rest = line.partition(" ")
        rows.get(key, []).append(rest.split())
    mtl = path.with_name(rows["mtllib"][0][0])
    image = next(line.split()[1] for line in mtl.read_text().splitlines() if line.startswith("map_Kd"))
    faces = np.array([[[int(i) - 1 for i in corner.split("/")] for corner in face] for face in rows["f"]])
    assert (faces == faces[..., :1]).all()
    v, vn, vt = (np.array(rows[key], float) for key in ("v", "vn", "vt"))
    return v, faces[..., 0], vn, vt, read_photo(path.with_name(image)).pixels


def read_ply(path):
    data = path.read_bytes()
    header, body = data.split(b"end_header\n", 1)
    lines = header.decode().splitlines()
    assert "format binary_little_endian 1.0" in lines
    count, triangles = (int(line.split()[-1]) for line in lines if line.startswith("element"))
    kinds = {"float": "<f4", "uchar": "u1"}
    fields = [
        (name, kinds[kind])
        for _, kind, name in (s.split() for s in lines if s.startswith("property ") and "list" not in s)
    ]
    vertex = np.frombuffer(body, np.dtype(fields), count)
    faces = np.frombuffer(body, np.dtype([("n", "u1"), ("i", "<i4", 3)]), triangles, vertex.nbytes)

    def take(*names):
        return np.stack([vertex[name] for name in names], -1)

    return take("x", "y", "z"), faces["i"], take("nx", "ny", "nz"), None, take("red", "green", "blue")


READERS = {".glb": read_glb, ".obj": read_obj, ".ply": read_ply}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_mesh_is_upright_metric_outward_and_coloured(suffix, tmp_path):
    path = tmp_path / f"me{suffix}"
    files = save_mesh(path, scene())
    assert sorted(files) == sorted(tmp_path.iterdir())
    points, faces, normals, uv, colours = READERS[suffix](path)
    assert np.abs(points - expected_points()).max() < 1e-6
    assert faces.shape == (2 * (HEIGHT - 1) * (WIDTH - 1), 3)
    # Counter-clockwise from outside: the right-hand rule points to the viewer, as the normals do.
    a, b, c = (points[faces[:, i]] for i in range(3))
    crossed = np.cross(b - a, c - a)
    assert (crossed[:, 2] > 0).all()
    assert (np.einsum("fk,fk->f", crossed, normals[faces[:, 0]]) > 0).all()
    assert np.abs(np.linalg.norm(normals, axis=1) - 1).max() < 1e-5
    # The colour where each vertex's uv points is the texel of that vertex.
    if suffix == ".ply":
        found = colours
    else:
        found = colours[((1 - uv[:, 1]) * HEIGHT).astype(int), (uv[:, 0] * WIDTH).astype(int)]
    assert np.array_equal(found, texture().reshape(-1, 3))
    # Red grows to the right and green downwards, also in space.
    right, down = points[faces[0, 0]], points[faces[-1, 0]]
    assert down[1] < right[1]
    assert np.corrcoef(points[:, 0], found[:, 0])[0, 1] > 0.99
    assert np.corrcoef(points[:, 1], found[:, 1])[0, 1] < -0.99


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_mesh_is_read_by_trimesh(suffix, tmp_path):
    import trimesh

    save_mesh(tmp_path / f"me{suffix}", scene())
    mesh = trimesh.load_mesh(tmp_path / f"me{suffix}", process=False)
    assert np.abs(mesh.vertices - expected_points()).max() < 1e-6
    if suffix == ".ply":
        visual: Any = mesh.visual
        assert np.array_equal(np.asarray(visual.vertex_colors)[:, :3], texture().reshape(-1, 3))
    else:
        # trimesh takes the nearest texel of an edge-aligned grid: off by one texel at most.
        visual = mesh.visual
        colours = np.asarray(visual.to_color().vertex_colors)[:, :3]
        assert np.abs(colours.astype(int) - texture().reshape(-1, 3)).max() <= 40


def test_glb_has_one_rough_two_sided_material(tmp_path):
    landmarks = torch.tensor([[0.0, 0.0, 1.0], [0.1, 0.2, 0.9]])
    save_mesh(tmp_path / "me.glb", scene(), landmarks=landmarks)
    tree, binary = glb_parts(tmp_path / "me.glb")
    (material,) = tree["materials"]
    surface = material["pbrMetallicRoughness"]
    assert (surface["metallicFactor"], surface["roughnessFactor"], material["doubleSided"]) == (0, 1, True)
    assert surface.get("baseColorFactor", [1, 1, 1, 1]) == [1, 1, 1, 1]
    (used,) = tree["textures"]
    assert tree["samplers"][used["sampler"]]["wrapS"] == 33071
    assert tree["images"][0]["mimeType"] == "image/png"
    assert glb_image(tree, binary).startswith(b"\x89PNG")
    assert len(tree["meshes"][0]["primitives"]) == 1
    saved = tree["scenes"][0]["extras"]["landmarks"]
    assert np.allclose(saved, [[0, 0, 0], [0.06, -0.12, 0.06]], atol=1e-6)


@pytest.mark.parametrize("side", [1500, 2600])
def test_large_texture_stays_under_ten_megabytes(side, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    smooth = np.repeat(np.repeat(noise[::20, ::20], 20, 0), 20, 1)[:side, :side]
    picture = smooth + noise // 16 if side == 1500 else noise // 2
    save_mesh(tmp_path / "me.glb", scene(), picture)
    assert (tmp_path / "me.glb").stat().st_size < 10_000_000
    tree, binary = glb_parts(tmp_path / "me.glb")
    image = glb_image(tree, binary)
    pixels = read_photo(image).pixels
    if side == 1500:
        assert np.array_equal(pixels, picture)
    else:
        assert tree["images"][0]["mimeType"] == "image/jpeg"
        assert image[:3] == b"\xff\xd8\xff"
        assert pixels.shape[0] in (1300, 2600)
        assert abs(pixels.mean() - picture.mean()) < 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_meshes_give_equal_bytes(suffix, tmp_path):
    for folder in ("a", "b"):
        save_mesh(tmp_path / folder / f"me{suffix}", scene(), landmarks=torch.zeros(68, 3))
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_obj_files_of_two_photos_do_not_collide(tmp_path):
    save_mesh(tmp_path / "a.obj", scene())
    save_mesh(tmp_path / "my b.obj", scene(), 255 - texture())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a.obj", "a.mtl", "a_albedo.png", "my b.obj", "my_b.mtl", "my_b_albedo.png"}
    assert np.array_equal(read_obj(tmp_path / "a.obj")[-1], texture())
    assert np.array_equal(read_obj(tmp_path / "my b.obj")[-1], 255 - texture())
    materials = {line for name in ("a.mtl", "my_b.mtl") for line in (tmp_path / name).read_text().splitlines()[:1]}
    assert len(materials) == 2


def test_a_turned_scene_is_exported_turned(tmp_path):
    turned = scene().turned(yaw=90)
    save_mesh(tmp_path / "me.glb", turned)
    points = read_glb(tmp_path / "me.glb")[0]
    rest = expected_points()
    # The face looked to the viewer (+z); turned to the image's right it looks along +x, and its right side is far.
    assert np.abs(points - np.stack([rest[:, 2], rest[:, 1], -rest[:, 0]], -1)).max() < 1e-6


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bare_mesh_with_its_own_centre_and_unit(suffix, tmp_path):
    mesh = Mesh(torch.tensor([[0.0, 0, 1], [1, 0, 1], [0, 1, 1], [5, 5, 5]]), torch.tensor([[0, 1, 2]]))
    save_mesh(tmp_path / f"me{suffix}", mesh, centre=(1, 0, 1), metres_per_unit=2.0)
    import trimesh

    # The fourth point is in no triangle; it must neither vanish nor have a normal that is not of unit length.
    loaded = trimesh.load_mesh(tmp_path / f"me{suffix}", process=False, maintain_order=True)
    assert np.allclose(loaded.vertices[:3], [[-2, 0, 0], [0, 0, 0], [-2, -2, 0]])
    if suffix == ".glb":
        tree, binary = glb_parts(tmp_path / "me.glb")
        names = tree["meshes"][0]["primitives"][0]["attributes"]
        assert len(glb_array(tree, binary, names["POSITION"])) == 4
        assert np.allclose(np.linalg.norm(glb_array(tree, binary, names["NORMAL"]), axis=1), 1)


def test_meshes_that_cannot_be_written(tmp_path, monkeypatch):
    mesh = scene().mesh()
    with pytest.raises(OutputError, match=r"\.glb \.obj \.ply"):
        save_mesh(tmp_path / "me.stl", scene())
    for unit in (None, 0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="metres"):
            save_mesh(tmp_path / "me.glb", mesh, texture(), metres_per_unit=unit)
    for broken in (replace(mesh, vertices=mesh.vertices * math.nan), replace(mesh, faces=mesh.faces[:0])):
        with pytest.raises(UsageError, match="finite"):
            save_mesh(tmp_path / "me.glb", broken, texture(), metres_per_unit=1.0)
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(MissingError, match=r"pip install 'aboutface\[mesh\]'"):
        save_mesh(tmp_path / "me.obj", scene())
    assert list(tmp_path.iterdir()) == []


def test_obj_appears_whole_or_not_at_all(tmp_path):
    (tmp_path / "me_albedo.png").mkdir()
    (tmp_path / "me.obj").write_text("old")
    with pytest.raises(OutputError, match="a folder"):
        save_mesh(tmp_path / "me.obj", scene())
    assert {path.name for path in tmp_path.iterdir()} == {"me_albedo.png", "me.obj"}
    assert (tmp_path / "me.obj").read_text() == "old"


# ---- maps ----


def test_depth_is_recovered_from_the_png(tmp_path):
    depth = torch.linspace(0.7, 1.3, 60, dtype=torch.float64).reshape(6, 10)
    depth[0, 0], depth[1, 1], depth[2, 2] = math.nan, math.inf, 0
    info = save_depth(tmp_path / "a_depth.png", depth)
    with Image.open(tmp_path / "a_depth.png") as image:
        assert image.mode == "I;16"
        values = np.asarray(image).astype(float)
    full = values > 0
    assert (~full).sum() == 3
    assert not full[0, 0] | full[1, 1] | full[2, 2]
    assert (values.max(), values[full].min()) == (65535, 1)
    back = info["near"] + (values - 1) / 65534 * (info["far"] - info["near"])
    assert np.abs(back - depth.numpy())[full].max() < 0.6 / 65534
    array = np.load(tmp_path / "a_depth.npy")
    assert array.dtype == np.float32
    assert np.array_equal(np.isnan(array), ~full)
    assert np.array_equal(array[full], depth.numpy().astype(np.float32)[full])
    assert {info["png"], info["npy"]} == {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(("value", "expected"), [(1.0, 1), (math.nan, 0)])
def test_flat_and_empty_depth(value, expected, tmp_path):
    save_depth(tmp_path / "a.png", np.full((3, 4), value))
    with Image.open(tmp_path / "a.png") as image:
        assert (np.asarray(image) == expected).all()


def test_depth_refusals(tmp_path):
    with pytest.raises(OutputError, match=r"\.png"):
        save_depth(tmp_path / "a.jpg", np.ones((3, 4)))
    with pytest.raises(UsageError, match="expected"):
        save_depth(tmp_path / "a.png", np.ones((3, 4, 1)))
    assert list(tmp_path.iterdir()) == []


def test_normal_axes(tmp_path):
    directions = {
        (0, 0, -1): (128, 128, 255),
        (1, 0, 0): (255, 128, 128),
        (0, -1, 0): (128, 255, 128),
        (0, 0, 0): (0, 0, 0),
    }
    normal = torch.tensor([list(directions)], dtype=torch.float32)
    for form in (normal.permute(2, 0, 1), normal.numpy()):
        save_normal(tmp_path / "n.png", form)
        assert [tuple(pixel) for pixel in read_photo(tmp_path / "n.png").pixels[0].tolist()] == list(
            directions.values()
        )
    with pytest.raises(UsageError, match="expected"):
        save_normal(tmp_path / "m.png", normal)


# ---- numbers ----


def test_npz_round_trip_and_equal_bytes(tmp_path, monkeypatch):
    arrays = {
        "points": torch.rand(5, 3, requires_grad=True),
        "size": (3, 4),
        "yaw": 30.0,
        "name": "me",
        "path": tmp_path / "a.png",
        "mask": np.array([True, False]),
    }
    save_npz(tmp_path / "a.npz", **arrays)
    monkeypatch.setattr("time.time", lambda: 2e9)
    save_npz(tmp_path / "b.npz", **arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert set(file) == set(arrays)
        assert np.array_equal(file["points"], arrays["points"].detach().numpy())
        assert file["size"].tolist() == [3, 4]
        assert str(file["path"]) == str(tmp_path / "a.png")
    with pytest.raises(UsageError, match="bad"):
        save_npz(tmp_path / "c.npz", bad=object())
    assert not (tmp_path / "c.npz").exists()


def test_json_keeps_order_and_converts(tmp_path):
    content = {
        "z": torch.tensor([[1.0, math.nan]]),
        "a": np.float32(0.5),
        "pose": Pose(1.0, 2.0, 3.0),
        "path": tmp_path,
        "set": {3, 1},
        "deep": [{"name": "Zoë", "flag": np.bool_(True), "none": None, "inf": -math.inf}],
        "count": np.int64(7),
    }
    save_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "Zoë" in text
    loaded = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert list(loaded) == list(content)
    assert loaded["z"] == [[1.0, None]]
    assert loaded["pose"] == {"yaw": 1.0, "pitch": 2.0, "roll": 3.0}
    assert loaded["deep"] == [{"name": "Zoë", "flag": True, "none": None, "inf": None}]
    assert (loaded["a"], loaded["set"], loaded["count"], loaded["path"]) == (0.5, [1, 3], 7, str(tmp_path))
    with pytest.raises(UsageError, match="object"):
        save_json(tmp_path / "b.json", {"a": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


# ---- moving pictures ----


def moving(count=12, height=48, width=64):
    """Frames with a soft picture that slides to the right, each different."""
    y, x = np.mgrid[:height, :width]
    for i in range(count):
        wave = [np.sin((x + 2 * i) / 23 + k) * np.cos(y / 19 + k) for k in range(3)]
        yield (127.5 + 110 * np.stack(wave, -1)).astype(np.uint8)


def decoded(path):
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def psnr(a, b):
    return -10 * math.log10(((a.astype(float) - b) ** 2).mean() / 255**2 + 1e-12)


def top_level_boxes(data):
    place, names = 0, []
    while place < len(data):
        size, name = struct.unpack(">I4s", data[place : place + 8])
        names.append(name.decode())
        place += size
    return names


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 63), (48, 63), (257, 255)])
def test_mp4_plays_everywhere(height, width, tmp_path):
    import av

    path = tmp_path / "turn.mp4"
    frames = list(moving(12, height, width))
    assert save_video(path, iter(frames), fps=30) == 12
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_range, context.color_primaries, context.color_trc) == (1, 1, 1, 1)
        assert (context.height, context.width) == (height + height % 2, width + width % 2)
        assert (stream.frames, stream.average_rate) == (12, 30)
        assert float((stream.duration or 0) * (stream.time_base or 0)) == pytest.approx(12 / 30, abs=1e-3)
    back = decoded(path)
    assert len(back) == 12
    for frame, original in zip(back, frames, strict=True):
        assert psnr(frame[:height, :width], original) > 35
    names = top_level_boxes(path.read_bytes())
    assert names.index("moov") < names.index("mdat")
    assert [p.name for p in tmp_path.iterdir()] == ["turn.mp4"]


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 150, 120), (255, 255, 255)])
def test_colours_survive(suffix, colour, tmp_path):
    path = tmp_path / f"a{suffix}"
    frame = np.full((32, 32, 3), colour, np.uint8)
    save_video(path, [frame] * 3)
    back = decoded(path)[0] if suffix == ".mp4" else read_photo(path).pixels
    assert np.abs(back.astype(int) - colour).max() <= 4


def test_mp4_luma_is_bt709_limited(tmp_path):
    import av

    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    save_video(tmp_path / "a.mp4", [red])
    with av.open(str(tmp_path / "a.mp4")) as container:
        planes = next(container.decode(video=0)).to_ndarray()
    # 16 + 219 * 0.2126; the older BT.601 would give 81, full range 54.
    assert abs(int(planes[5, 5]) - 63) <= 1


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animated_pictures(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    frames = list(moving(20))
    assert save_video(path, iter(frames), fps=30) == 20
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        assert image.size == (64, 48)
        assert getattr(image, "n_frames", 1) == 20
        total = 0
        for index, frame in enumerate(frames):
            image.seek(index)
            image.load()
            total += image.info["duration"]
            assert psnr(np.asarray(image.convert("RGB")), frame) > (25 if suffix == ".gif" else 33)
    assert total == pytest.approx(20 / 30 * 1000, abs=6)


def test_gif_has_one_palette(tmp_path):
    save_video(tmp_path / "a.gif", moving(10))
    data = (tmp_path / "a.gif").read_bytes()
    with Image.open(tmp_path / "a.gif") as image:
        palettes = set()
        for index in range(10):
            image.seek(index)
            palettes.add(bytes(vars(image)["global_palette"].palette))
    assert len(palettes) == 1
    # Flag 0x80 after the size: there is a global colour table.
    assert data[10] & 0x80


def test_one_frame_and_one_pixel(tmp_path):
    for suffix in (".mp4", ".gif", ".webp"):
        assert save_video(tmp_path / f"a{suffix}", [np.full((1, 1, 3), 200, np.uint8)]) == 1
    assert decoded(tmp_path / "a.mp4")[0].shape == (2, 2, 3)


def test_mp4_frames_are_not_kept(tmp_path):
    import weakref

    alive: list[weakref.ref] = []
    most = 0

    def frames():
        nonlocal most
        for frame in moving(30):
            alive.append(weakref.ref(frame))
            most = max(most, sum(ref() is not None for ref in alive))
            yield frame

    assert save_video(tmp_path / "a.mp4", frames()) == 30
    assert most <= 4


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_failing_frames_leave_no_file(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")

    def failing(good):
        yield from moving(good)
        raise KeyboardInterrupt

    for good in (1, 5):
        with pytest.raises(KeyboardInterrupt):
            save_video(path, failing(good))
    wrong = [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)]
    with pytest.raises(UsageError, match="frame 1"):
        save_video(path, wrong)
    with pytest.raises(UsageError, match="frame 0"):
        save_video(path, [np.zeros((4, 4, 3))])
    with pytest.raises(OutputError, match="no frames"):
        save_video(path, [])
    for fps in (0, -1, 1000, math.nan):
        with pytest.raises(UsageError, match="fps"):
            save_video(path, moving(2), fps)
    with pytest.raises(OutputError, match=r"\.mp4 \.gif \.webp"):
        save_video(tmp_path / "a.avi", moving(2))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_missing_video_parts_say_so(tmp_path, monkeypatch):
    import av
    from av.error import EncoderNotFoundError

    def refuse(*args, **kwargs):
        raise EncoderNotFoundError(1, "Encoder not found")

    with monkeypatch.context() as patch:
        patch.setattr(av, "open", refuse)
        with pytest.raises(OutputError, match=r"H\.264 \(Encoder not found\)"):
            save_video(tmp_path / "a.mp4", moving(2))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingError, match=r"pip install 'aboutface\[video\]'"):
        save_video(tmp_path / "a.mp4", moving(2))
    assert list(tmp_path.iterdir()) == []


# ---- overview ----


def test_contact_sheet_places_and_labels():
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]
    images = [np.full((30, 40, 3), colour, np.uint8) for colour in colours]
    bare = contact_sheet(images, columns=3)
    assert bare.dtype == np.uint8
    found = [tuple(bare[4 + 34 * (i // 3) + 15, 4 + 44 * (i % 3) + 20].tolist()) for i in range(5)]
    assert found == colours
    assert tuple(bare[-20, -20]) == (255, 255, 255)
    labelled = contact_sheet(images, ["yaw −45°", "b", "", "a very long label that cannot fit", "e"], columns=3)
    assert labelled.shape == (bare.shape[0] + 40, bare.shape[1], 3)
    strips = [
        labelled[4 + 54 * (i // 3) + 30 : 54 + 54 * (i // 3), 4 + 44 * (i % 3) : 44 + 44 * (i % 3)] for i in range(5)
    ]
    assert [bool((strip < 100).all(-1).any()) for strip in strips] == [True, True, False, True, True]


def test_contact_sheet_shrinks_and_never_enlarges():
    sheet = contact_sheet([np.zeros((900, 600, 3), np.uint8), np.zeros((10, 10, 3), np.uint8)], max_side=90)
    assert sheet.shape == (90 + 8, 2 * 64 + 4, 3)
    black = (sheet == 0).all(-1)
    assert black.sum() == 90 * 60 + 100
    assert contact_sheet([np.zeros((5, 5, 3), np.uint8)] * 30).shape[1] == 6 * 9 + 4
    for images, labels in [([], None), ([np.zeros((5, 5, 3), np.uint8)], ["a", "b"])]:
        with pytest.raises(UsageError, match="contact sheet"):
            contact_sheet(images, labels)


def test_importing_export_brings_no_optional_package():
    import subprocess

    program = "import sys, aboutface.export; print({'trimesh', 'av', 'cv2', 'pillow_heif'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("set()", "")
