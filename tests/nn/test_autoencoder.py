"""The networks of Unsup3d: their sizes are those published."""

import pytest
import torch

from aboutface.errors import UsageError
from aboutface.nn.autoencoder import ConfidenceNet, Encoder, EncoderDecoder, parameter_count


@pytest.mark.parametrize(
    ("net", "count"),
    [
        (lambda: EncoderDecoder(1), 12_979_648),
        (lambda: EncoderDecoder(3), 12_982_848),
        (lambda: EncoderDecoder(1, 128, 32), 12_947_680),
        (lambda: EncoderDecoder(3, 128, 32), 12_949_280),
        (lambda: Encoder(6), 1_739_776),
        (lambda: Encoder(4), 1_739_264),
        (lambda: Encoder(6, 64, 64), 6_952_960),
        (lambda: Encoder(4, 128, 32), 6_983_168),
        (lambda: ConfidenceNet(), 7_678_208),
    ],
)
def test_published_parameter_counts(net, count):
    with torch.device("meta"):
        assert parameter_count(net()) == count


@pytest.mark.parametrize("head", ["full", "smooth", "sharp"])
@pytest.mark.parametrize("size", [32, 64])
def test_maps_have_the_images_size(head, size):
    net = EncoderDecoder(3, size, 4, 8, head)
    images = torch.rand(2, 3, size, size)
    assert net(images).shape == images.shape


def test_confidence_is_positive_at_both_sizes():
    pixels, features = ConfidenceNet.tiny(32)(torch.randn(3, 3, 32, 32))
    assert pixels.shape == (3, 2, 32, 32)
    assert features.shape == (3, 2, 8, 8)
    assert min(pixels.min(), features.min()) > 0


def test_every_weight_of_the_tiny_ones_is_trained():
    images = torch.rand(2, 3, 32, 32)
    for net in (EncoderDecoder.tiny(1, 32), Encoder.tiny(4, 32), ConfidenceNet.tiny(32)):
        result = net(images)
        parts = result if isinstance(result, tuple) else (result,)
        torch.cat([part.flatten() for part in parts]).square().sum().backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in net.parameters())


@pytest.mark.parametrize("arguments", [(48, 16), (64, 6), (4, 16), (64, 2)])
def test_impossible_sizes_are_named(arguments):
    with pytest.raises(UsageError, match="expected images of"):
        EncoderDecoder(1, *arguments)
    if arguments[1] == 16 and arguments[0] < 32:
        with pytest.raises(UsageError):
            ConfidenceNet(*arguments)
