"""ArcFace's network: sizes and names as published, and what becomes of other files."""

import pytest
import torch
from torch.nn import functional

from aboutface.errors import UsageError
from aboutface.nn.iresnet import IResNet


def counted() -> int:
    """Parameters of IResNet-50, by hand: a norm has two numbers per channel, a rectifier one."""
    total = 3 * 64 * 9 + 2 * 64 + 64
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 14), (512, 3)):
        total += inputs * width + 2 * width
        for block in range(blocks):
            before = inputs if block == 0 else width
            total += 2 * before + 9 * before * width + 2 * width + width + 9 * width * width + 2 * width
        inputs = width
    return total + 2 * 512 + 512 * 7 * 7 * 512 + 512 + 2 * 512


def test_it_is_the_published_network():
    with torch.device("meta"):
        network = IResNet()
    assert sum(p.numel() for p in network.parameters()) == counted() == 43_590_848
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    expected = {
        "conv1.weight": (64, 3, 3, 3),
        "bn1.running_var": (64,),
        "prelu.weight": (64,),
        "layer1.0.downsample.0.weight": (64, 64, 1, 1),
        "layer1.0.downsample.1.num_batches_tracked": (),
        "layer2.0.bn1.weight": (64,),
        "layer2.0.conv1.weight": (128, 64, 3, 3),
        "layer3.13.prelu.weight": (256,),
        "layer4.2.bn3.bias": (512,),
        "bn2.weight": (512,),
        "fc.weight": (512, 25088),
        "features.running_mean": (512,),
    }
    assert {name: shapes[name] for name in expected} == expected
    assert "layer1.1.downsample.0.weight" not in shapes
    assert not any("dropout" in name for name in shapes)
    # The stride is in the second convolution of a stage's first block, and there are four of them.
    network.layer1[0].conv1.register_forward_hook(lambda _m, _i, out: sizes.append(out.shape[-1]))
    sizes = []
    assert network(torch.zeros(2, 3, 112, 112, device="meta")).shape == (2, 512)
    assert sizes == [112]


def test_it_stays_as_it_is():
    torch.manual_seed(0)
    network = IResNet.tiny().train()
    assert not any(module.training for module in network.modules())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.rand(2, 3, 112, 112, requires_grad=True)
    features = network(images)
    features[:, 0].sum().backward()
    assert images.grad is not None
    assert bool(images.grad.isfinite().all())
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    # One picture has the same features alone.
    torch.testing.assert_close(network(images[:1]), features[:1], atol=1e-5, rtol=1e-4)


def test_a_block_is_what_the_paper_draws():
    torch.manual_seed(0)
    block = IResNet.tiny().layer2[0]
    for norm in (block.bn1, block.bn2, block.bn3, block.downsample[1]):
        norm.running_mean.normal_(std=0.2)
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 4, 8, 8)

    def normed(y, norm):
        scale = norm.weight / (norm.running_var + 1e-5).sqrt()
        return y * scale[:, None, None] + (norm.bias - norm.running_mean * scale)[:, None, None]

    inner = normed(functional.conv2d(normed(x, block.bn1), block.conv1.weight, padding=1), block.bn2)
    inner = torch.where(inner > 0, inner, inner * block.prelu.weight[:, None, None])
    main = normed(functional.conv2d(inner, block.conv2.weight, stride=2, padding=1), block.bn3)
    side = normed(functional.conv2d(x, block.downsample[0].weight, stride=2), block.downsample[1])
    torch.testing.assert_close(block(x), main + side, atol=1e-5, rtol=1e-5)


def test_a_users_file_is_read_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(IResNet, "__init__", _small)
    torch.manual_seed(0)
    state = IResNet().state_dict()
    # Published in half precision.
    torch.save({name: t.half() if t.is_floating_point() else t for name, t in state.items()}, tmp_path / "backbone.pth")
    read = IResNet.from_file(tmp_path / "backbone.pth")
    torch.testing.assert_close(read.fc.weight, state["fc.weight"], atol=1e-3, rtol=1e-3)
    assert read.fc.weight.dtype == torch.float32
    for name, wrong in (
        ("fc.weight", torch.zeros(3)),
        ("fc.bias", torch.full_like(state["fc.bias"], float("nan"))),
        ("more", torch.zeros(1)),
    ):
        torch.save({**state, name: wrong}, tmp_path / "other.pth")
        with pytest.raises(UsageError, match=r"other\.pth"):
            IResNet.from_file(tmp_path / "other.pth")
    (tmp_path / "broken.pth").write_bytes((tmp_path / "backbone.pth").read_bytes()[:1000])
    with pytest.raises(UsageError, match="cannot be read as the weights of ArcFace"):
        IResNet.from_file(tmp_path / "broken.pth")
    (tmp_path / "junk.pth").write_text("junk\n")
    with pytest.raises(UsageError, match=r"no PyTorch file\); give its"):
        IResNet.from_file(tmp_path / "junk.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UsageError, match="found list"):
        IResNet.from_file(tmp_path / "list.pth")
    with pytest.raises(UsageError, match=r"\(B, 3, 112, 112\), got \(1, 3, 64, 64\)"):
        read(torch.zeros(1, 3, 64, 64))


_published = IResNet.__init__


def _small(self, *_args):
    _published(self, (1, 1, 1, 1), 16)
