"""R-Net and C-Net: the published layout and sizes, what they say untrained, and the released checkpoint's form."""

from itertools import permutations

import pytest
import torch
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.nn.mobile import MobileNet
from aboutface.nn.resnet import ResNet, resnet18, resnet50
from aboutface.reconstruct.deep3d import (
    CNet,
    Coefficients,
    Layout,
    RNet,
    combine_identity,
    load_released,
    read_released,
    squashed,
)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def random_state(network: RNet, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = network.state_dict()
    return {
        name: 0.1 + 0.1 * torch.rand(t.shape, generator=generator) if t.is_floating_point() else t.clone()
        for name, t in state.items()
    }


# Layout.


def test_the_published_layout():
    layout = Layout()
    assert layout.total == 257
    assert {name: (part.start, part.stop) for name, part in layout.slices.items()} == {
        "id": (0, 80),
        "exp": (80, 144),
        "tex": (144, 224),
        "angle": (224, 227),
        "gamma": (227, 254),
        "trans": (254, 257),
    }


@pytest.mark.parametrize("layout", [Layout(), Layout(100, 53, 0, 1, "weights"), Layout(3, 0, 2)])
def test_split_and_flat_undo_each_other(layout):
    rows = torch.randn(2, layout.total)
    assert torch.equal(layout.split(rows).flat(), rows)
    with pytest.raises(UsageError, match=f"expected rows of {layout.total}"):
        layout.split(rows[:, :-1])


@pytest.mark.parametrize("wrong", [{"identity": -1}, {"sh_channels": 2}, {"expression_kind": "other"}])
def test_impossible_layouts_are_refused(wrong):
    with pytest.raises(UsageError, match="layout: expected"):
        Layout(**wrong)


# Expression weights.


def test_squashed_numbers_are_weights():
    raw = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    weights = squashed(raw)
    assert 0 <= weights.min() < 1e-9
    assert 1 - 1e-9 < weights.max() <= 1
    assert (weights.diff() >= 0).all()
    middle = (raw > 0.55) & (raw < 0.95)
    # Away from the corners the identity, a quarter to the left.
    assert_close(weights[middle], raw[middle] - 0.25, atol=0.006, rtol=0)


def test_an_untrained_expression_is_neutral_and_can_learn():
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    weight = squashed(zero)
    weight.backward()
    assert float(weight.detach()) == pytest.approx(0.0079, abs=1e-4)
    assert zero.grad is not None
    assert float(zero.grad) == pytest.approx(0.0759, abs=1e-4)


# R-Net.


def test_sizes_are_the_published_ones():
    with torch.device("meta"):
        network = RNet(resnet50())
    assert count(network.backbone) == 23_508_032
    assert count(network.final_layers) == 526_593
    assert [tuple(head.get_parameter("weight").shape[:2]) for head in network.final_layers] == [
        (n, 2048) for n in (80, 64, 80, 3, 27, 2, 1)
    ]


@pytest.mark.parametrize("layout", [Layout(), Layout(9, 5, 0, 1, "weights")])
def test_an_untrained_network_says_the_mean_face(layout):
    network = RNet(MobileNet.tiny(), layout)
    said = network(torch.rand(3, 3, 32, 32))
    assert said.flat().shape == (3, layout.total)
    expected = layout.zeros(3)
    if layout.expression_kind == "weights":
        expected = expected._replace(exp=squashed(expected.exp))
    assert_close(said.flat(), expected.flat())


@pytest.mark.parametrize("trunk", [MobileNet, ResNet])
def test_heads_stand_in_the_published_order(trunk):
    torch.manual_seed(0)
    network = RNet(trunk.tiny(), Layout(4, 3, 2)).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        pooled = network.backbone(images)
        for number, head in enumerate(network.final_layers):
            head.get_parameter("bias").fill_(number)
        said = network(images)
    assert_close(network.read(pooled).flat(), said.flat())
    for name, values in zip(Coefficients._fields, ([0], [1], [2], [3], [4], [5, 5, 6]), strict=True):
        member = getattr(said, name)
        assert_close(member, torch.tensor(values).float().expand_as(member))


def test_it_learns_where_a_spot_is():
    torch.manual_seed(0)
    network = RNet.tiny()
    x, y = torch.meshgrid(torch.arange(6.0, 27, 4), torch.arange(6.0, 27, 4), indexing="xy")
    places = torch.stack([x.flatten(), y.flatten()], -1)
    pixel = torch.stack(torch.meshgrid(torch.arange(32), torch.arange(32), indexing="xy"), -1) + 0.5
    images = torch.exp(-(pixel - places[:, None, None]).square().sum(-1) / 18)[:, None].expand(-1, 3, -1, -1)
    truth = (places - 16) / 10
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(80):
        loss = (network(images).trans[:, :2] - truth).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        error = (network.eval()(images).trans[:, :2] - truth).norm(dim=-1)
    # Tenths of a pixel, where the spots are 4 apart.
    assert float(error.mean()) * 10 < 1


# C-Net.


def test_the_size_of_c_net_is_the_published_one():
    with torch.device("meta"):
        assert count(CNet(resnet50())) == 2_991_440


@pytest.mark.parametrize("trunk", [MobileNet, ResNet])
def test_confidences_start_equal_and_can_learn(trunk):
    torch.manual_seed(0)
    network = RNet(trunk.tiny(), Layout(4, 3, 2))
    confidence = CNet.tiny(network.backbone)
    stages = network.backbone.stages(torch.rand(3, 3, 32, 32))
    said = confidence(stages)
    assert_close(said, torch.full((3, 4), 0.5))
    combine_identity(torch.arange(12.0).view(1, 3, 4), said[None]).sum().backward()
    assert confidence.last.weight.grad is not None
    assert confidence.last.weight.grad.abs().max() > 0
    with torch.no_grad():
        confidence.last.weight.normal_()
        assert float(confidence(stages).std()) > 0.01


def test_combined_is_the_weighted_mean_of_each_number():
    alphas, confidences = torch.randn(2, 5, 3).double(), torch.rand(2, 5, 3).double()
    found = combine_identity(alphas, confidences)
    for b in range(2):
        for i in range(3):
            weights = [float(c) for c in confidences[b, :, i]]
            expected = sum(w * float(a) for w, a in zip(weights, alphas[b, :, i], strict=True)) / sum(weights)
            assert float(found[b, i]) == pytest.approx(expected)


def test_order_does_not_matter_and_one_picture_is_itself():
    alphas, confidences = torch.randn(3, 4).double(), torch.rand(3, 4).double()
    expected = combine_identity(alphas, confidences)
    for order in permutations(range(3)):
        assert_close(combine_identity(alphas[list(order)], confidences[list(order)]), expected)
    assert_close(combine_identity(alphas[:1], confidences[:1]), alphas[0])
    assert_close(combine_identity(alphas), alphas.mean(0))


def test_confidence_of_nothing_is_the_plain_mean():
    alphas = torch.randn(3, 4)
    assert_close(combine_identity(alphas, torch.zeros(3, 4)), alphas.mean(0))


@pytest.mark.parametrize(("alphas", "confidences"), [((0, 4), (0, 4)), ((3, 4), (3, 1)), ((4,), (4,))])
def test_sets_that_do_not_fit_are_refused(alphas, confidences):
    with pytest.raises(UsageError, match="at least one picture"):
        combine_identity(torch.ones(alphas), torch.ones(confidences))


# The released checkpoint.


@pytest.fixture(scope="module")
def checkpoint():
    """In the released form, with ResNet-18, random."""
    return {"net_recon": random_state(RNet(resnet18())), "opt_00": {"state": {}}, "sched_00": {"last_epoch": 20}}


def test_a_released_checkpoint_goes_in(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "epoch_20.pth")
    network = read_released(tmp_path / "epoch_20.pth")
    assert not network.training
    assert network.layout == Layout()
    state = network.state_dict()
    assert state.keys() == checkpoint["net_recon"].keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in checkpoint["net_recon"].items())
    with torch.no_grad():
        assert network(torch.rand(1, 3, 64, 64)).flat().shape == (1, 257)


def changed(checkpoint: dict, **tensors: torch.Tensor | None) -> dict:
    state = checkpoint["net_recon"] | {name.replace("__", "."): value for name, value in tensors.items()}
    return checkpoint | {"net_recon": {name: value for name, value in state.items() if value is not None}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"state_dict": {}}, r"expected a checkpoint with net_recon, found \['state_dict'\]"),
        (lambda c: [1], "expected a checkpoint with net_recon, found list"),
        (lambda c: changed(c, backbone__fc__weight=torch.ones(257, 512)), "--use_last_fc"),
        (lambda c: changed(c, final_layers__6__bias=None), r"expected final_layers.6.bias \(1,\), found nothing"),
        (lambda c: changed(c, final_layers__2__bias=torch.ones(79)), r"final_layers.2.bias \(80,\), found \(79,\)"),
        (lambda c: changed(c, final_layers__7__bias=torch.ones(1)), "does not know final_layers.7.bias"),
        (lambda c: changed(c, final_layers__6__bias=torch.full((1,), torch.inf)), "not finite"),
    ],
)
def test_checkpoints_of_another_form_are_refused(checkpoint, change, message):
    with pytest.raises(UsageError, match=message):
        load_released(change(checkpoint))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off"])
def test_files_that_are_no_checkpoint_are_refused(tmp_path, content):
    file = tmp_path / "epoch_20.pth"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"epoch_20.pth: cannot be read as a PyTorch checkpoint"):
        read_released(file)
