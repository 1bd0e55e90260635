"""StyleGAN2 files of other codes: the same pictures and scores, the same bits back, and nothing executed."""

import argparse
import collections
import os
import pickle
import sys
import types
from typing import Any

import numpy as np
import pytest
import stylegan2_transcription as other
import torch
from safetensors.torch import save_file
from torch import nn

from aboutface.cli import main
from aboutface.errors import UsageError
from aboutface.generate.convert import convert, write_nvlabs, write_ours, write_rosinality
from aboutface.generate.foreign import read_any
from aboutface.generate.load import Gan, gan_tensors, load_gan, network_card
from aboutface.nn.stylegan2 import Discriminator, Generator, tiny_settings

LEVELS, LAYERS = 3, 3


def gan(clamp=None, critic=True, seed=0, **changes):
    """All tensors random, also those that begin as zeros."""
    torch.manual_seed(seed)
    settings = tiny_settings(mapping_layers=LAYERS, clamp=clamp, minibatch_group=2, **changes)
    networks = [Generator(settings), Discriminator(settings)]
    for network in networks:
        for tensor in network.state_dict().values():
            tensor.add_(0.3 * torch.randn_like(tensor))
        network.requires_grad_(False).eval()
    return Gan(networks[0], networks[1] if critic else None, network_card(settings))


def critic_of(networks):
    assert networks.discriminator is not None
    return networks.discriminator


def same_bits(first, second):
    theirs = gan_tensors(second)
    assert gan_tensors(first).keys() == theirs.keys()
    for name, tensor in gan_tensors(first).items():
        assert torch.equal(tensor, theirs[name]), name


def examples():
    torch.manual_seed(1)
    return torch.randn(4, 16), torch.rand(4, 3, 16, 16)


def assert_equal_outputs(networks, pictures, scores):
    z, images = examples()
    ours = networks.generator(z) * 2 - 1
    assert ours.std() > 0.1
    torch.testing.assert_close(pictures(z), ours, atol=1e-5, rtol=1e-5)
    expected = networks.discriminator(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(scores(2 * images - 1), expected, atol=1e-5, rtol=1e-5)


# ---- rosinality ----


def test_rosinality_gives_the_same_pictures_and_scores(tmp_path):
    networks = gan()
    file = tmp_path / "net.pt"
    notes = write_rosinality(networks, file)
    assert any("channels" in note for note in notes)
    stored = torch.load(file, weights_only=True)
    assert stored.keys() == {"g_ema", "g", "d", "latent_avg"}
    assert_equal_outputs(
        networks,
        lambda z: other.rosinality_picture(stored["g_ema"], z, LAYERS, LEVELS),
        lambda images: other.rosinality_score(stored["d"], images, LEVELS, 2),
    )
    # Fixed filters, which a strict load asks for.
    for name, total in (("convs.0.conv.blur", 4), ("to_rgbs.1.upsample", 4)):
        torch.testing.assert_close(stored["g_ema"][f"{name}.kernel"], other.FILTER * total)
    torch.testing.assert_close(stored["d"]["convs.1.conv2.0.kernel"], other.FILTER)
    again, notes = read_any(file)
    assert not notes
    # How many pictures' spread is taken is no part of the file.
    assert again.generator.settings == tiny_settings(mapping_layers=LAYERS, minibatch_group=4)
    same_bits(networks, again)


def test_a_training_file_of_rosinality(tmp_path):
    """With options of the run in it, but without mean w."""
    networks = gan()
    write_rosinality(networks, tmp_path / "net.pt")
    stored = torch.load(tmp_path / "net.pt", weights_only=True)
    del stored["latent_avg"]
    stored |= {"g_optim": {"state": {}}, "args": argparse.Namespace(size=16, path="x"), "ada_aug_p": 0.2}
    torch.save(stored, tmp_path / "000100.pt")
    again, notes = read_any(tmp_path / "000100.pt")
    assert notes == ["the file has no mean w: it was measured"]
    w = again.generator.mapping(torch.randn(4000, 16))
    assert (w.mean(0) - again.generator.mapping.centre).norm() < 0.2 * w.std(0).norm()
    again.generator.mapping.centre.copy_(networks.generator.mapping.centre)
    same_bits(networks, again)


# ---- NVlabs, TensorFlow's layout ----


class LegacyNetwork(dict):
    """What NVlabs' loader puts in the place of a TensorFlow network."""


class LegacyUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) == ("dnnlib.tflib.network", "Network"):
            return LegacyNetwork
        assert (module, name) == ("numpy", "ndarray")  # in every version of numpy
        return super().find_class(module, name)


KNOWN = {
    *("latent_size", "label_size", "dlatent_size", "resolution", "num_channels", "mapping_layers", "fmap_base"),
    *("fmap_max", "num_fp16_res", "conv_clamp", "architecture", "mbstd_group_size", "mbstd_num_features"),
}
"""Options that its loader accepts; it refuses others."""


@pytest.mark.parametrize("clamp", [None, 0.5])
def test_nvlabs_loader_reads_the_same_pictures_and_scores(tmp_path, clamp):
    networks = gan(clamp)
    file = tmp_path / "net.pkl"
    assert write_nvlabs(networks, file) == []
    with file.open("rb") as stream:
        generator, critic, averaged = LegacyUnpickler(stream).load()
    assert averaged is generator
    for network in (generator, critic):
        assert network.version == 4
        assert network.components == {}
        assert network.static_kwargs.keys() <= KNOWN
        assert network.static_kwargs["conv_clamp"] == clamp
    assert generator.static_kwargs["fmap_base"] * 2 == networks.generator.settings.channel_base
    assert critic.static_kwargs["mbstd_group_size"] == 2
    g, d = ({k: torch.tensor(v).float() for k, v in dict(net.variables).items()} for net in (generator, critic))
    assert_equal_outputs(
        networks,
        lambda z: other.tensorflow_picture(g, z, LAYERS, LEVELS, clamp),
        lambda images: other.tensorflow_score(d, images, LEVELS, 2, clamp),
    )
    again, notes = read_any(file)
    assert not notes
    assert again.generator.settings == networks.generator.settings
    same_bits(networks, again)


def test_nvlabs_needs_a_critic(tmp_path):
    with pytest.raises(UsageError, match="holds a critic"):
        write_nvlabs(gan(critic=False), tmp_path / "net.pkl")
    assert not list(tmp_path.iterdir())


def tensorflow_pickle(monkeypatch, networks, change):
    """Networks with parts, as the TensorFlow code itself writes them."""
    module = types.ModuleType("dnnlib.tflib.network")

    class Network:
        def __init__(self, **state):
            self.__dict__ |= state

    Network.__module__, Network.__qualname__ = module.__name__, "Network"
    setattr(module, "Network", Network)  # noqa: B010
    for name in ("dnnlib", "dnnlib.tflib"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    from aboutface.generate.names import tensorflow_discriminator, tensorflow_generator

    made = []
    for network, layout in (
        (networks.generator, tensorflow_generator),
        (networks.discriminator, tensorflow_discriminator),
    ):
        state = network.state_dict()
        found = {k.name: k.theirs(state[ours]).float().numpy() for ours, k in layout(network.settings).items()}
        parts = {
            part: Network(
                variables=[
                    (name.removeprefix(f"{part}/"), v) for name, v in found.items() if name.startswith(f"{part}/")
                ],
                components={},
                version=4,
                static_kwargs={},
            )
            for part in ("mapping", "synthesis")
        }
        own = [(n, v) for n, v in found.items() if not n.startswith(("mapping/", "synthesis/"))]
        made.append(Network(version=4, variables=own, components=parts, static_kwargs=dict(change)))
    raw = pickle.dumps((made[0], made[1], made[0]), 4)
    for name in ("dnnlib", "dnnlib.tflib", "dnnlib.tflib.network"):
        monkeypatch.delitem(sys.modules, name)
    return raw


def test_tensorflow_networks_with_parts(tmp_path, monkeypatch):
    networks = gan()
    (tmp_path / "tf.pkl").write_bytes(tensorflow_pickle(monkeypatch, networks, {"mbstd_group_size": 2}))
    again, _ = read_any(tmp_path / "tf.pkl")
    z, images = examples()
    torch.testing.assert_close(again.generator(z), networks.generator(z), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(critic_of(again)(images), critic_of(networks)(images), atol=1e-5, rtol=1e-5)
    (tmp_path / "tf.pkl").write_bytes(tensorflow_pickle(monkeypatch, networks, {"label_size": 10}))
    with pytest.raises(UsageError, match="class-conditional"):
        read_any(tmp_path / "tf.pkl")


# ---- NVlabs, PyTorch ----


def nvlabs_pickle(monkeypatch, g, d, clamp, extra=None):
    """Modules stored through the hook, as the PyTorch code writes them, with source that must not run."""
    names = ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    modules = {name: types.ModuleType(name) for name in names}
    hook = modules["torch_utils.persistence"]

    def _reconstruct_persistent_obj(meta):
        raise AssertionError

    class EasyDict(dict):
        pass

    for obj, module in ((_reconstruct_persistent_obj, hook), (EasyDict, modules["dnnlib.util"])):
        obj.__module__, obj.__qualname__ = module.__name__, obj.__name__
        setattr(module, obj.__name__, obj)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)

    class Stored(nn.Module):
        def __reduce__(self):
            source = "import os\nos.environ['ABOUTFACE_EXECUTED'] = '1'\n"
            state = dict(self.__dict__)
            meta = {"type": "class", "version": 6, "module_src": source, "class_name": "Any", "state": state}
            return _reconstruct_persistent_obj, (meta,)

    def tree(tensors, attributes):
        root: Any = Stored()
        root.__dict__["_init_kwargs"] = EasyDict(size=np.float64(0.5), nested=EasyDict())
        for name, tensor in tensors.items():
            *path, leaf = name.split(".")
            here = root
            for part in path:
                if part not in here._modules:
                    here.add_module(part, Stored())
                here = here._modules[part]
            if leaf in ("noise_const", "w_avg"):
                here.register_buffer(leaf, tensor)
            else:
                setattr(here, leaf, nn.Parameter(tensor))
                here.register_buffer("resample_filter", other.FILTER.clone())
        for name, value in attributes.items():
            *path, leaf = name.split(".")
            here = root
            for part in path:
                if part not in here._modules:
                    here.add_module(part, Stored())
                here = here._modules[part]
            setattr(here, leaf, value)
        return root

    generator = tree(g, {"synthesis.b4.conv1.conv_clamp": clamp, "synthesis.b8.architecture": "skip"} | (extra or {}))
    critic = tree(d, {"b4.conv.conv_clamp": clamp, "b4.mbstd.group_size": 2})
    content = {"G": generator, "D": critic, "G_ema": generator, "training_set_kwargs": EasyDict(class_name="x.Y")}
    raw = pickle.dumps(content)
    for name in modules:
        monkeypatch.delitem(sys.modules, name)
    return raw


def nvlabs_tensors(networks):
    """Random tensors with NVlabs' names, made by shape alone: they come from nothing of ours."""
    settings = networks.generator.settings
    torch.manual_seed(5)
    width = {4: 16, 8: 16, 16: 8}
    latent, g, d = settings.latent, {}, {}

    def layer(into, prefix, out, inside, kernel, style=True):
        into[f"{prefix}.weight"], into[f"{prefix}.bias"] = torch.randn(out, inside, kernel, kernel), torch.randn(out)
        if style:
            into[f"{prefix}.affine.weight"] = torch.randn(inside, latent)
            into[f"{prefix}.affine.bias"] = torch.randn(inside)

    for i in range(LAYERS):
        g[f"mapping.fc{i}.weight"], g[f"mapping.fc{i}.bias"] = 100 * torch.randn(latent, latent), torch.randn(latent)
    g["mapping.w_avg"], g["synthesis.b4.const"] = torch.randn(latent), torch.randn(16, 4, 4)
    before = 16
    for size, out in width.items():
        parts = [("conv1", out)] if size == 4 else [("conv0", before), ("conv1", out)]
        for part, inside in parts:
            layer(g, f"synthesis.b{size}.{part}", out, inside, 3)
            g[f"synthesis.b{size}.{part}.noise_const"] = torch.randn(size, size)
            g[f"synthesis.b{size}.{part}.noise_strength"] = torch.randn(())
        layer(g, f"synthesis.b{size}.torgb", 3, out, 1)
        before = out
    layer(d, "b16.fromrgb", 8, 3, 1, style=False)
    for size, inside in ((16, 8), (8, 16)):
        layer(d, f"b{size}.conv0", inside, inside, 3, style=False)
        layer(d, f"b{size}.conv1", 16, inside, 3, style=False)
        d[f"b{size}.skip.weight"] = torch.randn(16, inside, 1, 1)
    layer(d, "b4.conv", 16, 17, 3, style=False)
    d["b4.fc.weight"], d["b4.fc.bias"] = torch.randn(16, 256), torch.randn(16)
    d["b4.out.weight"], d["b4.out.bias"] = torch.randn(1, 16), torch.randn(1)
    return g, d


@pytest.mark.parametrize("clamp", [None, 0.5])
def test_nvlabs_pickles_are_read_and_their_source_is_not_run(tmp_path, monkeypatch, clamp):
    g, d = nvlabs_tensors(gan())
    monkeypatch.delenv("ABOUTFACE_EXECUTED", raising=False)
    (tmp_path / "net.pkl").write_bytes(nvlabs_pickle(monkeypatch, g, d, clamp))
    networks, notes = convert(tmp_path / "net.pkl", tmp_path / "net.safetensors")
    assert not notes
    assert "ABOUTFACE_EXECUTED" not in os.environ
    assert networks.generator.settings == tiny_settings(mapping_layers=LAYERS, clamp=clamp, minibatch_group=2)
    assert networks.card["converted"] == {"file": "net.pkl", "format": "nvlabs"}
    again = load_gan(tmp_path / "net.safetensors")
    same_bits(networks, again)
    assert_equal_outputs(
        again,
        lambda z: other.nvlabs_picture(g, z, LAYERS, LEVELS, clamp),
        lambda images: other.nvlabs_score(d, images, LEVELS, 2, clamp),
    )
    assert torch.equal(again.generator.mapping.centre, g["mapping.w_avg"])


def test_named_tensors_without_a_card(tmp_path):
    g, d = nvlabs_tensors(gan())
    named = {f"G_ema.{name}": t for name, t in g.items()} | {f"D.{name}": t for name, t in d.items()}
    save_file(named, tmp_path / "dump.safetensors")
    networks, _ = read_any(tmp_path / "dump.safetensors")
    assert networks.generator.settings.clamp == 256
    assert_equal_outputs(
        networks,
        lambda z: other.nvlabs_picture(g, z, LAYERS, LEVELS, 256),
        lambda images: other.nvlabs_score(d, images, LEVELS, 4, 256),
    )
    save_file(g, tmp_path / "alone.safetensors")
    alone, notes = read_any(tmp_path / "alone.safetensors")
    assert alone.discriminator is None
    assert "critic" in notes[0]
    assert torch.equal(alone.generator.synthesis.constant[0], g["synthesis.b4.const"])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"mapping.embed.weight": 1}, "class-conditional"),
        ({"synthesis.b8.architecture": "resnet"}, "architecture"),
        ({"synthesis.b4.conv1.activation": "relu"}, "expected lrelu"),
        ({"filter": 1}, "another filter"),
        ({"lacking": 1}, r"lacks synthesis\.b16\.torgb\.bias"),
        ({"clamp": 1}, "clamped differently"),
    ],
)
def test_other_networks_are_refused(tmp_path, monkeypatch, extra, message):
    g, d = nvlabs_tensors(gan())
    name = next(iter(extra))
    if name == "mapping.embed.weight":
        g[name], extra = torch.randn(3, 3), {}
    elif name == "filter":
        monkeypatch.setattr(other, "FILTER", torch.ones(4, 4) / 16)
        extra = {}
    elif name == "lacking":
        del g["synthesis.b16.torgb.bias"]
        extra = {}
    elif name == "clamp":
        extra = {"synthesis.b4.conv1.conv_clamp": 3.0}
    (tmp_path / "net.pkl").write_bytes(nvlabs_pickle(monkeypatch, g, d, None, extra))
    with pytest.raises(UsageError, match=message):
        read_any(tmp_path / "net.pkl")


# ---- files that want to do something, and broken ones ----


class Command:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("suffix", [".pkl", ".pt"])
@pytest.mark.parametrize(
    "wrap", [lambda c: c, lambda c: {"g_ema": {"x": c}}, lambda c: collections.OrderedDict(G_ema=c)]
)
def test_a_pickle_cannot_execute(tmp_path, suffix, wrap):
    evidence = tmp_path / "executed"
    content = wrap(Command(evidence))
    file = tmp_path / f"net{suffix}"
    if suffix == ".pt":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(UsageError, match="execute"):
        read_any(file)
    assert not evidence.exists()
    # The same bytes do execute where they are trusted.
    if suffix == ".pkl":
        pickle.loads(file.read_bytes())
        assert evidence.exists()


@pytest.mark.parametrize("suffix", [".pkl", ".pt", ".safetensors"])
def test_damaged_files(tmp_path, suffix):
    file = tmp_path / f"net{suffix}"
    writer = {".pkl": write_nvlabs, ".pt": write_rosinality, ".safetensors": write_ours}[suffix]
    writer(gan(), file)
    whole = file.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], bytes(100) + whole[100:]):
        file.write_bytes(content)
        with pytest.raises(UsageError, match="net"):
            read_any(file)
    with pytest.raises(UsageError, match="no-such"):
        read_any(tmp_path / f"no-such{suffix}")


def test_bytes_of_another_protocol_are_refused_without_a_warning(tmp_path):
    (tmp_path / "net.pt").write_bytes(pickle.PROTO + b"\xc5" + 100 * b"x")
    with pytest.raises(UsageError, match="cannot be read as tensors"):
        read_any(tmp_path / "net.pt")


def test_the_right_names_over_the_wrong_things(tmp_path):
    torch.save({"g_ema": gan().generator.state_dict(), "d": 3}, tmp_path / "net.pt")
    with pytest.raises(UsageError, match="lacks the mapping"):
        read_any(tmp_path / "net.pt")
    write_rosinality(gan(), tmp_path / "net.pt")
    stored = torch.load(tmp_path / "net.pt", weights_only=True)
    torch.save(stored | {"d": [1, 2]}, tmp_path / "net.pt")
    with pytest.raises(UsageError, match="something else than tensors"):
        read_any(tmp_path / "net.pt")


def test_load_gan(tmp_path):
    networks = gan()
    write_ours(networks, tmp_path / "net.safetensors")
    again = load_gan(tmp_path / "net.safetensors")
    same_bits(networks, again)
    assert not again.generator.training
    assert not any(p.requires_grad for net in (again.generator, critic_of(again)) for p in net.parameters())
    write_ours(gan(critic=False), tmp_path / "alone.safetensors")
    assert load_gan(tmp_path / "alone.safetensors").discriminator is None
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="no weights of stylegan2"):
        load_gan(tmp_path / "other.safetensors")
    write_rosinality(networks, tmp_path / "net.pt")
    with pytest.raises(UsageError, match="models convert"):
        load_gan(tmp_path / "net.pt")


def test_the_command(tmp_path, capsys):
    write_ours(gan(), tmp_path / "net.safetensors")
    assert main(["models", "convert", str(tmp_path / "net.safetensors"), "-o", str(tmp_path / "net.pt")]) == 0
    assert "16 px" in capsys.readouterr().err
    assert main(["models", "convert", str(tmp_path / "net.pt"), "-o", str(tmp_path / "net.pkl")]) == 0
    assert main(["models", "convert", str(tmp_path / "net.pkl"), "-o", str(tmp_path / "back.safetensors")]) == 0
    same_bits(load_gan(tmp_path / "net.safetensors"), load_gan(tmp_path / "back.safetensors"))
    capsys.readouterr()
    assert main(["models", "convert", str(tmp_path / "net.pt")]) == 2
    assert "-o" in capsys.readouterr().err
    assert main(["models", "convert", str(tmp_path / "net.pt"), "-o", str(tmp_path / "net.txt")]) == 2
