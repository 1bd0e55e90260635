"""ResNet trunks: torchvision's names and sizes, and the network written out by hand."""

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.nn.resnet import BasicBlock, ResNet, resnet18, resnet50


def trained(network: ResNet, seed: int = 0) -> ResNet:
    """With batch norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if "bn" in name and tensor.is_floating_point():
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network.eval()


@pytest.mark.parametrize(
    ("build", "parameters", "entries", "features"),
    [(resnet18, 11_176_512, 122, 512), (resnet50, 23_508_032, 320, 2048)],
)
def test_sizes_are_the_published_ones(build, parameters, entries, features):
    with torch.device("meta"):
        network = build()
    assert sum(p.numel() for p in network.parameters()) == parameters
    # torchvision's states have two entries more: weight and bias of fc.
    assert len(network.state_dict()) == entries - 2
    assert network.features == features
    early, pooled = network.stages(torch.zeros(2, 3, 224, 224, device="meta"))
    assert early.shape == (2, network.early_features, 56, 56)
    assert pooled.shape == (2, features)


def test_names_are_those_of_torchvision():
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in resnet50().state_dict().items()}
    expected = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer2.0.conv1.weight": (128, 256, 1, 1),
        "layer2.0.downsample.1.num_batches_tracked": (),
        "layer3.5.conv2.weight": (256, 256, 3, 3),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
        "layer4.2.bn3.bias": (2048,),
    }
    assert {name: shapes[name] for name in expected} == expected
    assert "layer1.1.downsample.0.weight" not in shapes


def norm(x: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    numbers = (state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias"))
    mean, variance, weight, bias = numbers
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def written_out(state: dict[str, torch.Tensor], images: torch.Tensor, convolutions: int) -> torch.Tensor:
    """One block per stage. The stride is in the second of three convolutions, in the first of two."""
    x = norm(functional.conv2d(images, state["conv1.weight"], stride=2, padding=3), state, "bn1").relu()
    x = functional.max_pool2d(x, 3, 2, 1)
    for stage in range(1, 5):
        block, y, stride = f"layer{stage}.0", x, 2 if stage > 1 else 1
        for i in range(1, convolutions + 1):
            weight = state[f"{block}.conv{i}.weight"]
            strided = stride if i == convolutions - 1 else 1
            y = functional.conv2d(y, weight, stride=strided, padding=weight.shape[-1] // 2)
            y = norm(y, state, f"{block}.bn{i}")
            y = y.relu() if i < convolutions else y
        if f"{block}.downsample.0.weight" in state:
            x = functional.conv2d(x, state[f"{block}.downsample.0.weight"], stride=stride)
            x = norm(x, state, f"{block}.downsample.1")
        x = (x + y).relu()
    return x.mean((2, 3))


@pytest.mark.parametrize(
    ("network", "convolutions"), [(ResNet.tiny(), 3), (ResNet((1, 1, 1, 1), BasicBlock, 4), 2)], ids=["50", "18"]
)
def test_it_is_the_network_written_out(network, convolutions):
    network = trained(network).double()
    images = torch.rand(2, 3, 64, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_close(network(images), written_out(network.state_dict(), images, convolutions))


def test_weights_of_torchvision_go_in():
    source, target = trained(ResNet.tiny(), 1), ResNet.tiny().eval()
    images = torch.rand(1, 3, 32, 32)
    file = source.state_dict() | {"fc.weight": torch.zeros(1000, 128), "fc.bias": torch.zeros(1000)}
    with torch.no_grad():
        assert not torch.equal(source(images), target(images))
        target.load_torchvision(file)
        assert torch.equal(source(images), target(images))


def without(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "bn1.weight"), r"expected bn1.weight \(4,\), found nothing"),
        (lambda s: s | {"bn1.weight": torch.ones(5)}, r"expected bn1.weight \(4,\), found \(5,\)"),
        (lambda s: s | {"layer5.0.conv1.weight": torch.ones(5)}, r"does not know layer5.0.conv1.weight"),
        (lambda s: s | {"bn1.bias": torch.full((4,), torch.nan)}, r"bn1.bias has numbers that are not finite"),
    ],
)
def test_other_weights_are_refused(change, message):
    network = ResNet.tiny()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UsageError, match=message):
        network.load_torchvision(change(network.state_dict()))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
