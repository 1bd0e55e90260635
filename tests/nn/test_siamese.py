"""The image half of DepthNet's case A: published sizes, shared weights, known start."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from aboutface.nn import ImagePair, SiameseEncoder


def parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return SiameseEncoder()


def test_parameters_are_those_of_the_paper(encoder):
    keypoint_layers = (784 * 256 + 256) + (256 * 68 + 68)
    assert parameters(encoder, ImagePair()) == 18_073_556 - keypoint_layers


def test_features_see_all_but_the_last_pixels(encoder):
    """8 x 8 places of 64 features; floor pooling leaves the last 5 rows and columns of 80 unseen, as published."""
    image = torch.rand(1, 1, 80, 80, requires_grad=True)
    features = encoder(image)
    assert features.shape == (1, encoder.features) == (1, 4096)
    (seen,) = torch.autograd.grad(features.square().sum(), image)
    touched = (seen[0, 0] != 0).nonzero()
    assert touched.amin(0).tolist() == [0, 0]
    assert touched.amax(0).tolist() == [74, 74]


def test_start_is_glorot_with_the_gain_of_a_relu(encoder):
    pair = ImagePair(4096)
    layers = [m for module in (encoder, pair) for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 5
    for layer in layers:
        assert layer.bias is not None
        assert not layer.bias.any()
        outputs, inputs = layer.weight.shape[:2]
        place = layer.weight[0, 0].numel()
        bound = 2**0.5 * (6 / ((inputs + outputs) * place)) ** 0.5
        assert layer.weight.abs().max() <= bound
        assert layer.weight.abs().max() > 0.97 * bound


def test_mid_grey_is_zero(encoder):
    """Zero biases: nothing comes of a picture of 0.5, and the features of x and of 0.5 + a (x - 0.5) are in ratio a."""
    assert (encoder(torch.full((1, 1, 80, 80), 0.5)) == 0).all()
    image = torch.rand(1, 1, 80, 80)
    assert_close(encoder(0.5 + 0.25 * (image - 0.5)), 0.25 * encoder(image), rtol=1e-4, atol=1e-6)


def test_pair_tells_source_from_target():
    torch.manual_seed(1)
    encoder, pair = SiameseEncoder.tiny(), ImagePair.tiny()
    first, second = encoder(torch.rand(2, 3, 1, 20, 20).flatten(0, 1)).unflatten(0, (2, 3))
    together = pair(first, second)
    assert together.shape == (3, 6)
    assert not torch.allclose(together, pair(second, first))
    swapped = ImagePair.tiny()
    swapped.load_state_dict(pair.state_dict())
    with torch.no_grad():
        weight = swapped.get_parameter("layers.0.weight")
        weight.copy_(weight.roll(4, 1))
    assert_close(swapped(second, first), together)


def test_gradients_in_double():
    torch.manual_seed(2)
    encoder, pair = SiameseEncoder.tiny().double(), ImagePair.tiny().double()
    images = torch.rand(4, 1, 20, 20, dtype=torch.float64, requires_grad=True)

    def both(images):
        features = encoder(images)
        return pair(features[:2], features[2:])

    assert both(images).abs().sum() > 0, "dead units would make this test pass by luck"
    assert torch.autograd.gradcheck(both, images)


def test_the_least_size_is_enforced():
    assert SiameseEncoder(19, (1, 1, 1)).features == 1
    with pytest.raises(ValueError, match="19 pixels or more, got 18"):
        SiameseEncoder(18)
    with pytest.raises(ValueError, match=r"\(B, 1, 20, 20\), got \(2, 3, 20, 20\)"):
        SiameseEncoder.tiny()(torch.zeros(2, 3, 20, 20))
