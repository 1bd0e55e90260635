"""Shared fixtures. Tests that need the project's data skip, with the reason, where it is absent."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real images and landmarks: variable ABOUTFACE_DATA, else `shared/data` beside the checkout."""
    folder = Path(os.environ.get("ABOUTFACE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}: set ABOUTFACE_DATA to run this test")
    return folder
