"""The encoder of offsets: published sizes, and what its blocks see."""

import pytest
import torch
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.nn.autoencoder import parameter_count
from aboutface.nn.offset import Halving, OffsetEncoder


@pytest.fixture(autouse=True)
def seeded():
    """Whatever ran before."""
    torch.manual_seed(0)


@pytest.mark.parametrize(("size", "count"), [(64, 3_565_504), (128, 13_789_632)])
def test_parameters_are_the_published_ones(size, count):
    assert parameter_count(OffsetEncoder(512, size)) == count


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_any_size_gives_as_many_numbers(size):
    assert OffsetEncoder.tiny(5, size)(torch.rand(2, 3, size, size)).shape == (2, 5)


def test_both_ways_of_a_block_see_what_is_rectified():
    torch.manual_seed(0)
    block, x = Halving(4, 6), torch.randn(2, 4, 8, 8)
    assert_close(block(x), block(x.clamp_min(0)))
    assert not torch.allclose(block(x), block(x.abs()))
    assert block(x).shape == (2, 6, 4, 4)


def test_other_sizes_are_refused():
    with pytest.raises(UsageError, match="64"):
        OffsetEncoder(16, 48)
