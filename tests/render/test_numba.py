"""What the CPU backend adds to the common tests: threads, processes, its cache on disk."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from aboutface.geometry import clip_from_camera, depth_to_mesh, intrinsics
from aboutface.render import antialias, interpolate, rasterize


def bumps(batch: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A wavy depth map seen at a slant, (B, V, 4) and (F, 3): parts of it hide others."""
    K = intrinsics(40.0, (size, size))
    y, x = torch.meshgrid(torch.linspace(0, 9, size), torch.linspace(0, 9, size), indexing="ij")
    shift = torch.arange(batch).view(-1, 1, 1)
    vertices, faces = depth_to_mesh(1 + 0.1 * torch.sin(x + shift) * torch.cos(y), K)
    vertices[..., 2] += 0.6 * vertices[..., 0]
    matrix = clip_from_camera(K, (size, size))
    return torch.nn.functional.pad(vertices, (0, 1), value=1.0) @ matrix.mT, faces


def everything(clip: torch.Tensor, faces: torch.Tensor, size: tuple[int, int]) -> list[torch.Tensor]:
    """Values and gradients of every kernel."""
    g = torch.Generator().manual_seed(3)
    clip = clip.clone().requires_grad_()
    attributes = torch.rand(clip.shape[1], 4, generator=g).expand(len(clip), -1, -1).clone().requires_grad_()
    found = rasterize(clip, faces, size, backend="numba")
    picture = interpolate(attributes, found, faces, backend="numba")
    image = torch.cat([picture, found.depth[..., None]], -1).movedim(-1, 1)
    image = antialias(image, found, clip, faces, backend="numba")
    weights = torch.rand(image.shape[1:], generator=g)
    (image * weights).sum().backward()
    assert clip.grad is not None
    assert attributes.grad is not None
    return [*found, picture, image, clip.grad, attributes.grad]


def assert_same_bits(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("batch", "size"), [(1, 40), (2, 300), (5, 40)])
def test_every_bit_is_the_same_for_any_number_of_threads(batch, size, threads):
    clip, faces = bumps(batch, size)
    threads(1)
    expected = everything(clip, faces, (size, size))
    assert expected[5].abs().sum() > 0
    for count in (2, 3, 7):
        threads(count)
        assert_same_bits(everything(clip, faces, (size, size)), expected)


@pytest.mark.parametrize("count", [1, 4])
def test_every_bit_is_the_same_for_any_split_of_the_batch(count, threads):
    threads(count)
    clip, faces = bumps(5, 48)
    together = everything(clip, faces, (48, 48))
    for first, end in [(0, 1), (1, 3), (3, 5)]:
        assert_same_bits(everything(clip[first:end], faces, (48, 48)), [member[first:end] for member in together])


def test_shared_attributes_take_the_gradient_of_the_whole_batch():
    clip, faces = bumps(3, 24)
    found = rasterize(clip, faces, (24, 24))
    shared = torch.rand(clip.shape[1], 2, dtype=torch.float64, requires_grad=True)
    separate = shared.detach().expand(3, -1, -1).clone().requires_grad_()
    weights = torch.rand(3, 24, 24, 2, dtype=torch.float64)
    for attributes in (shared, separate):
        (interpolate(attributes, found, faces, backend="numba") * weights).sum().backward()
    assert shared.grad is not None
    assert separate.grad is not None
    torch.testing.assert_close(shared.grad, separate.grad.sum(0))


def test_many_callers_at_once_do_not_disturb_each_other(threads):
    threads(3)
    cases = [bumps(1 + i % 3, 24 + 8 * i) for i in range(4)]
    sizes = [(24 + 8 * i, 24 + 8 * i) for i in range(4)]
    expected = [everything(*case, size) for case, size in zip(cases, sizes, strict=True)]
    wrong: list[object] = []

    def call(i: int) -> None:
        try:
            for _ in range(5):
                assert_same_bits(everything(*cases[i], sizes[i]), expected[i])
        except BaseException as error:
            wrong.append(error)

    callers = [threading.Thread(target=call, args=(i % 4,)) for i in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=120)
    assert not wrong
    assert not any(caller.is_alive() for caller in callers)


class Renders(Dataset):
    """Draws in whatever process asks."""

    def __init__(self):
        # Not in the worker: PyTorch's own threads do not survive a fork.
        self.mesh = bumps(4, 32)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        torch.set_num_threads(2)
        return rasterize(*self.mesh, (32, 32), backend="numba").depth[index % 4]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_workers_draw_after_their_parent_did(threads):
    threads(2)
    expected = torch.stack([Renders()[i] for i in range(6)])  # starts the parent's threads
    for _ in range(2):
        loader = DataLoader(Renders(), batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=100)
        assert torch.equal(torch.cat(list(loader)), expected)
    assert torch.equal(Renders()[0], expected[0])


DRAW = """
import logging, torch
logging.basicConfig(format="%(message)s")
from aboutface.render import rasterize
clip = torch.tensor([[[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]]])
print(rasterize(clip, torch.tensor([[0, 1, 2]]), (4, 4), backend="numba").triangle_id.unique().tolist())
"""


def test_the_first_call_says_that_it_compiles_and_the_next_process_reads_the_result(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    said = []
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", DRAW], env=environment, capture_output=True, text=True, timeout=300)
        assert run.stdout.strip() == "[0]", run.stderr
        said.append(run.stderr)
    assert said[0].count("compiling the renderer") == 1
    assert "compiling" not in said[1]
    assert list(tmp_path.rglob("*.nbc"))
