"""Inception as FID uses it: its size and names, its odd pooling, and files that do not fit."""

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.nn.inception import SIZE, InceptionFeatures


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return InceptionFeatures.tiny()


def test_it_has_the_published_number_of_parameters():
    """Keras's InceptionV3 has 23,817,352 that can be trained, without the norms' scales (17,216); less the classifier
    of 1000 classes."""
    with torch.device("meta"):
        network = InceptionFeatures()
    assert sum(parameter.numel() for parameter in network.parameters()) == 23_817_352 + 17_216 - 1000 * 2049
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Conv2d_1a_3x3.conv.weight", (32, 3, 3, 3)),
        ("Mixed_5b.branch5x5_2.conv.weight", (64, 48, 5, 5)),
        ("Mixed_5c.branch_pool.bn.running_var", (64,)),
        ("Mixed_6b.branch7x7dbl_2.conv.weight", (128, 128, 7, 1)),
        ("Mixed_6d.branch7x7_3.conv.weight", (192, 160, 7, 1)),
        ("Mixed_6e.branch7x7_2.conv.weight", (192, 192, 1, 7)),
        ("Mixed_7a.branch7x7x3_4.conv.weight", (192, 192, 3, 3)),
        ("Mixed_7b.branch3x3dbl_1.conv.weight", (448, 1280, 1, 1)),
        ("Mixed_7c.branch3x3dbl_3b.conv.weight", (384, 384, 3, 1)),
    ],
)
def test_names_and_shapes_are_those_of_the_ported_file(name, shape):
    with torch.device("meta"):
        assert tuple(InceptionFeatures().state_dict()[name].shape) == shape


def test_pictures_of_any_size_give_features(tiny):
    images = torch.rand(2, 3, 20, 30)
    found = tiny(images)
    assert found.shape == (2, 256)
    resized = functional.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False)
    assert_close(tiny(resized), found)
    assert_close(tiny(images[1:]), found[1:], atol=1e-5, rtol=1e-4)
    with pytest.raises(UsageError, match=r"\(B, 3, H, W\)"):
        tiny(images[:, :1])


def test_it_stays_in_evaluation_mode(tiny):
    assert not tiny.train().training
    assert not any(part.training for part in tiny.modules())


def test_averages_leave_the_padding_out_and_the_last_block_takes_a_maximum(tiny):
    """The pooled branch of a constant map is constant to the edge where padding does not count."""
    for block, inputs in ((tiny.Mixed_5b, 24), (tiny.Mixed_6c, 96), (tiny.Mixed_7b, 160), (tiny.Mixed_7c, 256)):
        branch = block(torch.rand(1, inputs, 1, 1).expand(1, inputs, 9, 9))[:, -block.branch_pool.conv.out_channels :]
        assert_close(branch, branch[..., 4:5, 4:5].expand_as(branch), atol=1e-5, rtol=1e-4)
    peak = torch.zeros(1, 256, 9, 9)
    peak[..., 4, 4] = 1
    level = tiny.Mixed_7c.branch_pool(peak)[..., 4, 4]
    seen = tiny.Mixed_7c(peak)[:, -24:]
    # A maximum carries the whole peak to its neighbours; the average of the block before carries a ninth.
    assert_close(seen[..., 3:6, 3:6], level[..., None, None].expand(1, 24, 3, 3))


def test_files_are_read_and_those_that_do_not_fit_are_refused(tmp_path, monkeypatch, tiny):
    monkeypatch.setattr(InceptionFeatures, "__init__", lambda self, shrink=8: ORIGINAL(self, 8))
    state = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    counted = {name for name in state if name.endswith("num_batches_tracked")}
    file = tmp_path / "inception.pth"
    torch.save({name: state[name] for name in state if name not in counted} | {"fc.weight": torch.zeros(8, 256)}, file)
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(InceptionFeatures.from_file(file)(images), tiny(images))
    del state["Mixed_7c.branch_pool.conv.weight"]
    torch.save(state, file)
    with pytest.raises(UsageError, match=r"Mixed_7c\.branch_pool\.conv.*found nothing.*models download inception"):
        InceptionFeatures.from_file(file)
    file.write_text("no weights")
    with pytest.raises(UsageError, match="inception"):
        InceptionFeatures.from_file(file)


ORIGINAL = InceptionFeatures.__init__
