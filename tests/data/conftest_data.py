"""Photos whose faces are known because they were made: the mean head's landmarks in known poses."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aboutface.data.example import Example
from aboutface.data.sources import Entry
from aboutface.geometry import rotation_from_angles
from aboutface.morphable import MeanHead


def made_landmarks(yaw=0.0, pitch=0.0, roll=0.0, centre=(100.0, 100.0), scale=0.6):
    """Landmarks (68, 2) pixels of the mean head in a pose."""
    rotation = rotation_from_angles(*(torch.tensor(float(a)) for a in (yaw, pitch, roll)))
    return (scale * MeanHead.load().landmarks @ rotation.mT)[:, :2].numpy() + np.array(centre, np.float32)


def jpeg(seed: int, size: int = 200, blocks: int = 10) -> bytes:
    """A picture that is nobody else's: random blocks."""
    small = np.random.default_rng(seed).integers(0, 256, (blocks, blocks, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def points_of(example: Example) -> np.ndarray:
    """The landmarks of an example that has some."""
    assert example.landmarks is not None
    return example.landmarks


def mask_of(example: Example) -> np.ndarray:
    assert example.mask is not None
    return example.mask


def side_of(entry: Entry) -> dict:
    """The content of an entry's side file."""
    assert entry.side is not None
    return json.loads(entry.side.read())


def put(folder: Path, name: str, seed: int, size: int = 200, **record) -> Path:
    """A picture with side file in a folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(seed, size))
    if record:
        path.with_suffix(".json").write_text(json.dumps(record))
    return path


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def people(tmp_path):
    """A tree of 12 photos with landmarks: 4 people, yaw from -30 to 36 degrees, the same file names in every folder."""
    folder = tmp_path / "people"
    for index in range(12):
        points = made_landmarks(yaw=-30 + 6 * index, pitch=5, roll=-4)
        put(folder, f"person{index // 3}/photo {index % 3}.jpg", index, landmarks68=points.tolist())
    return folder


@pytest.fixture
def tar_of_ten(tmp_path):
    """A WebDataset tar: 10 examples of 3 people."""
    path = tmp_path / "ten.tar"
    with tarfile.open(path, "w") as tar:
        for index in range(10):
            record = {"identity": f"p{index % 3}", "landmarks68": made_landmarks(yaw=index).tolist()}
            add(tar, f"k{index}.jpg", jpeg(index, 64))
            add(tar, f"k{index}.json", json.dumps(record).encode())
    return path
