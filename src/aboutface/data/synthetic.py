"""Synthetic faces with all that is true of them, as `aboutface data synth faces` writes them."""

import io
import json
from collections.abc import Container, Iterable
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from ..errors import UsageError
from ..files import DAMAGED_NPZ, reason
from ..images import encode_image, read_photo
from .sources import Piece, find_entries

ARRAYS = ("depth", "normal", "albedo")


@dataclass(frozen=True, eq=False)
class SyntheticExample:
    """A picture of S x S pixels and its truth. Camera space, lengths in camera distances, angles in degrees."""

    image: np.ndarray
    """(S, S, 3) uint8."""
    depth: np.ndarray
    """(S, S) float32: z at each pixel's centre; 1.1 in the background."""
    normal: np.ndarray
    """(3, S, S) float32: unit, out of the surface; 0 in the background."""
    albedo: np.ndarray
    """(S, S, 3) uint8: RGB without light; 0 in the background."""
    mask: np.ndarray
    """(S, S) bool: where the head is."""
    view: np.ndarray
    """(6,) float32: yaw, pitch, roll about (0, 0, 1), and translation x, y, z after that."""
    light: np.ndarray
    """(5,) float32: ambient, diffuse, and the unit vector towards the light."""
    landmarks: np.ndarray
    """(68, 2) float32, pixels."""
    landmarks3d: np.ndarray
    """(68, 3) float32, camera space."""
    visible: np.ndarray
    """(68,) bool: neither hidden nor outside the image."""
    identity: str
    millimetres_per_unit: float
    K: np.ndarray
    """(3, 3) float32, pixels."""


@dataclass(frozen=True)
class _Files:
    name: str
    image: Piece
    side: Piece
    mask: Piece
    arrays: Piece


class SyntheticFaces:
    """A split, read in place; may be shared by processes."""

    def __init__(self, files: list[_Files]) -> None:
        self._files = files

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "SyntheticFaces":
        """The faces in a folder of shards (DIR/train), or in one shard.

        Raises UsageError where there are none, a shard is damaged, or an example lacks a part.
        """
        found = find_entries(path)
        for name, why in found.bad.items():
            raise UsageError(f"{path}: {name}: {why}; make it anew")
        files = []
        for entry in found.entries:
            arrays = found.others.get(f"{entry.key}.npz")
            if entry.side is None or entry.mask is None or arrays is None:
                raise UsageError(f"{path}: {entry.name} has no truth beside it; expected what data synth faces writes")
            files.append(_Files(entry.name, entry.image, entry.side, entry.mask, arrays))
        if not files:
            raise UsageError(f"{path}: no synthetic faces are in it; aboutface data synth faces makes some")
        return cls(files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> SyntheticExample:
        return _read(self._files[index])

    def tensors(self, count: int | None = None, names: Container[str] | None = None) -> dict[str, Any]:
        """All examples, or the first `count`, in memory, as CPU tensors by name (identity is a list of str).

        With `names`, only these, and identity and K: normals and albedo take most of the memory.

        image (N, 3, S, S) uint8; depth (N, S, S), normal (N, 3, S, S) and view (N, 6), light (N, 5), landmarks
        (N, 68, 2), landmarks3d (N, 68, 3), millimetres_per_unit (N,) float32; albedo (N, 3, S, S) uint8; mask
        (N, S, S) and visible (N, 68) bool; K (3, 3) float32, common to all. Raises UsageError for pictures of several
        sizes, and what reading raises.
        """
        import torch

        count = len(self) if count is None else min(count, len(self))
        first, stacks, identity = self[0], {}, []
        for index in range(count):
            example = self[index] if index else first
            if example.image.shape != first.image.shape:
                sizes = f"{first.image.shape[0]} and {example.image.shape[0]}"
                raise UsageError(
                    f"{self._files[index].name}: pictures of {sizes} pixels in one set; open one at a time"
                )
            identity.append(example.identity)
            for name, value in vars(example).items():
                if name in ("identity", "K") or (names is not None and name not in names):
                    continue
                value = np.asarray(value, np.float32) if isinstance(value, float) else value
                if name not in stacks:
                    stacks[name] = np.empty((count, *value.shape), value.dtype)
                stacks[name][index] = value
        result: dict[str, Any] = {name: torch.from_numpy(stack) for name, stack in stacks.items()}
        for name in {"image", "albedo"} & result.keys():
            result[name] = result[name].permute(0, 3, 1, 2).contiguous()
        return result | {"identity": identity, "K": torch.from_numpy(first.K)}


def write_members(key: str, example: dict[str, np.ndarray], K: np.ndarray) -> Iterable[tuple[str, bytes]]:
    """Members of a tar of one example, by the names of `SyntheticExample`."""
    yaw, pitch, roll, *translation = example["view"].tolist()
    ambient, diffuse, *direction = example["light"].tolist()
    record = {
        "identity": f"{int(example['identity']):08d}",
        "landmarks68": example["landmarks"].astype(np.float64).round(4).tolist(),
        "landmarks68_visible": example["visible"].astype(int).tolist(),
        "landmarks68_xyz": example["landmarks3d"].astype(np.float64).round(7).tolist(),
        "pose": {"yaw": yaw, "pitch": pitch, "roll": roll},
        "translation": translation,
        "light": {"ambient": ambient, "diffuse": diffuse, "direction": direction},
        "millimetres_per_unit": float(example["millimetres_per_unit"]),
        "camera": K.astype(np.float64).tolist(),
    }
    buffer = io.BytesIO()
    arrays = {"depth": example["depth"], "normal": example["normal"].astype(np.float16), "albedo": example["albedo"]}
    np.savez_compressed(buffer, **arrays)
    yield f"{key}.json", json.dumps(record).encode()
    yield f"{key}.mask.png", encode_image(example["mask"].astype(np.uint8) * 255)
    yield f"{key}.npz", buffer.getvalue()
    yield f"{key}.png", encode_image(example["image"])


def _read(files: _Files) -> SyntheticExample:
    try:
        record = json.loads(files.side.read())
        with np.load(io.BytesIO(files.arrays.read()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS}
        pose, light = record["pose"], record["light"]
        example = SyntheticExample(
            image=read_photo(files.image.read()).pixels.copy(),
            depth=arrays["depth"],
            normal=arrays["normal"].astype(np.float32),
            albedo=arrays["albedo"],
            mask=read_photo(files.mask.read()).pixels[..., 0] > 127,
            view=np.array([pose["yaw"], pose["pitch"], pose["roll"], *record["translation"]], np.float32),
            light=np.array([light["ambient"], light["diffuse"], *light["direction"]], np.float32),
            landmarks=np.array(record["landmarks68"], np.float32),
            landmarks3d=np.array(record["landmarks68_xyz"], np.float32),
            visible=np.array(record["landmarks68_visible"], bool),
            identity=str(record["identity"]),
            millimetres_per_unit=float(record["millimetres_per_unit"]),
            K=np.array(record["camera"], np.float32),
        )
        _check(example)
    except (*DAMAGED_NPZ, KeyError, TypeError) as error:
        raise UsageError(f"{files.name}: its truth cannot be read ({reason(error)}); make the set anew") from None
    return example


def _check(example: SyntheticExample) -> None:
    size = example.depth.shape
    shapes = {"image": (*size, 3), "normal": (3, *size), "albedo": (*size, 3), "mask": size, "view": (6,)}
    shapes |= {"light": (5,), "landmarks": (68, 2), "landmarks3d": (68, 3), "visible": (68,), "K": (3, 3)}
    for name, shape in shapes.items():
        found = getattr(example, name).shape
        if found != shape:
            raise ValueError(f"{name} is {found}, expected {shape}")
