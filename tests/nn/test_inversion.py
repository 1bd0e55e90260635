"""The encoder of pictures to w: its form, and that it can learn what a generator does."""

import pytest
import torch

from aboutface.errors import UsageError
from aboutface.nn.inversion import LatentEncoder, LatentEncoderSettings


def test_w_is_a_step_from_the_mean_in_deviations():
    torch.manual_seed(0)
    encoder, images = LatentEncoder.tiny(), torch.rand(5, 3, 16, 16)
    step = encoder(images)
    assert step.shape == (5, 16)
    assert step.std(0).min() > 0
    encoder.centre.fill_(7.0)
    encoder.deviation.copy_(torch.linspace(1, 4, 16))
    torch.testing.assert_close(encoder(images), 7 + step * torch.linspace(1, 4, 16), atol=1e-5, rtol=1e-5)
    # No picture knows of the others.
    torch.testing.assert_close(encoder(images[2:3]), encoder(images)[2:3], atol=1e-5, rtol=1e-5)


def test_large_pictures_are_reduced():
    encoder = LatentEncoder.tiny(128)
    images = torch.rand(1, 3, 64, 64).repeat_interleave(2, 2).repeat_interleave(2, 3)
    small = LatentEncoder.tiny(64)
    small.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder(images), small(images[..., ::2, ::2]), atol=1e-5, rtol=1e-5)


def test_wrong_sizes():
    with pytest.raises(UsageError, match="expected images"):
        LatentEncoder.tiny()(torch.rand(1, 3, 32, 32))
    for wrong in ({"size": 24}, {"size": 4}, {"width": 0}):
        with pytest.raises(UsageError, match="encoder"):
            LatentEncoderSettings(**wrong)
