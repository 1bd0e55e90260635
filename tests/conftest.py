"""Shared fixtures. Tests that need the project's data skip, with the reason, where it is absent."""

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Before torch is imported: threads that spin while they wait make a busy machine ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A shell that starts the tests in the background has Ctrl-C ignored; some tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real images and landmarks: variable ABOUTFACE_DATA, else `shared/data` beside the checkout."""
    folder = Path(os.environ.get("ABOUTFACE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}: set ABOUTFACE_DATA to run this test")
    return folder


@pytest.fixture(scope="session")
def portrait_pixels():
    """A public-domain portrait of 512 x 512 pixels (NASA's photo of Eileen Collins, shipped by scikit-image)."""
    return pytest.importorskip("skimage.data").astronaut()


@pytest.fixture(scope="session")
def portrait(portrait_pixels):
    """The portrait, detected, reconstructed and ready to be turned."""
    from aboutface.edit import Pipeline

    return Pipeline().portraits(portrait_pixels)[0]
