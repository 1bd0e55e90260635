"""The small trunk: its sizes, its folded copy, and that it knows where things are."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.nn.mobile import MobileNet, MobileSettings, fused


def used(network: MobileNet) -> MobileNet:
    """With batch norms that have seen something."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                assert isinstance(tensor, torch.Tensor)
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network.eval()


def test_sizes():
    network = MobileNet()
    assert sum(p.numel() for p in network.parameters()) == 1_988_784
    early, pooled = network.eval().stages(torch.zeros(1, 3, 112, 112))
    assert early.shape == (1, network.early_features, 28, 28)
    assert pooled.shape == (1, network.features)
    larger = MobileNet(MobileSettings(size=128)).eval()
    assert larger(torch.zeros(1, 3, 128, 128)).shape == (1, network.features)


@pytest.mark.parametrize("shape", [(1, 3, 48, 48), (3, 32, 32), (1, 1, 32, 32)])
def test_pictures_of_another_size_are_refused(shape):
    with pytest.raises(UsageError, match=r"takes pictures \(B, 3, 32, 32\), got"):
        MobileNet.tiny()(torch.zeros(shape))


@pytest.mark.parametrize("size", [0, 100, 120])
def test_sizes_that_do_not_halve_are_refused(size):
    with pytest.raises(UsageError, match=f"multiple of 16 pixels, got {size}"):
        MobileSettings(size=size)


def test_the_folded_copy_says_the_same():
    network = used(MobileNet.tiny()).double()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    copy = fused(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    with torch.no_grad():
        expected = network(images)
        assert expected.std() > 0.1
        assert_close(copy(images), expected)
        # A batch norm that sees only these two pictures gives something else.
        assert not torch.allclose(network.train()(images), expected)
    assert_close(copy(images.to(memory_format=torch.channels_last)), expected)


def test_folding_makes_an_evaluating_copy_also_of_a_training_network():
    network = MobileNet.tiny().train()
    copy = fused(network)
    assert network.training
    assert not copy.training
    assert not any(p.requires_grad for p in copy.parameters())


def test_it_knows_where_things_are():
    """The last layer tells two halves of a picture apart, which a mean over the map cannot."""
    torch.manual_seed(0)
    network = used(MobileNet.tiny())
    with torch.no_grad():
        maps = torch.rand(1, 12, 2, 2)
        assert (network.gather(maps) - network.gather(maps.flip(-1))).abs().max() > 0.05
        next(network.gather.parameters()).fill_(0.25)
        assert_close(network.gather(maps), network.gather(maps.flip(-1)))
