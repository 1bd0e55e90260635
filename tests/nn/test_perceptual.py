"""Perceptual features: the layers of VGG16 against themselves written out, the filters against what they promise."""

from itertools import pairwise

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional
from torch.testing import assert_close

from aboutface.errors import UsageError
from aboutface.nn.perceptual import VGG16_LAYERS, FilterFeatures, VGG16Features, perceptual_features

# Positions of the convolutions in torchvision's `vgg16().features`, which the file names by.
TORCHVISION = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


def pictures(count: int = 2, side: int = 64, seed: int = 0) -> torch.Tensor:
    """Smooth blobs and stripes of all orientations, colours in [0.2, 0.8]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, side, side, generator=generator)
    smooth = functional.avg_pool2d(functional.pad(noise, (2,) * 4, mode="circular"), 5, stride=1)
    return 0.2 + 0.6 * torch.sigmoid(6 * smooth)


def moved(images: torch.Tensor, pixels: int) -> torch.Tensor:
    return images.roll(pixels, -1)


def distance(features, one: torch.Tensor, other: torch.Tensor) -> float:
    with torch.no_grad():
        return float((features(one) - features(other)).square().mean())


BOTH = pytest.mark.parametrize("features", [VGG16Features.tiny(), FilterFeatures()], ids=["vgg16", "filters"])


@BOTH
def test_features_are_a_quarter_of_the_size(features):
    found = features(pictures(2, 64)[:, :, :48])
    assert found.shape == (2, features.channels, 12, 16)


@BOTH
def test_the_gradient_is_that_of_finite_differences(features):
    features = type(features).tiny().double()
    images = pictures(1, 16, seed=3).double()
    weights = torch.randn(1, features.channels, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    images.requires_grad_()
    (gradient,) = torch.autograd.grad((features(images) * weights).sum(), images)
    way = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    step = 1e-6
    with torch.no_grad():
        ahead, behind = (float((features(images + s * way) * weights).sum()) for s in (step, -step))
    assert float((gradient * way).sum()) == pytest.approx((ahead - behind) / (2 * step), rel=1e-5)


@BOTH
def test_nothing_in_them_is_trained(features):
    assert not any(parameter.requires_grad for parameter in features.parameters())


@BOTH
@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 8, 64)])
def test_images_of_another_form_are_refused(features, shape):
    with pytest.raises(UsageError, match=r"expected images \(B, 3, H, W\) of 16 pixels or more, got \("):
        features(torch.rand(shape))


# VGG16.


def test_vgg_layers_are_the_network_written_out():
    torch.manual_seed(0)
    network, images = VGG16Features("relu5_3", shrink=16), pictures()
    found = network.layers(images, VGG16_LAYERS)
    state = network.state_dict()
    x = (images - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    for index, layer in zip(TORCHVISION, VGG16_LAYERS, strict=True):
        if layer in ("relu2_1", "relu3_1", "relu4_1", "relu5_1"):
            x = functional.max_pool2d(x, 2)
        x = functional.conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1).relu()
        assert_close(found[layer], x)
    assert len(state) == 2 * len(TORCHVISION)
    assert_close(network(images), found["relu5_3"])


def test_vgg_has_the_published_widths():
    with torch.device("meta"):
        state = VGG16Features("relu5_3").state_dict()
    shapes = [tuple(tensor.shape) for key, tensor in state.items() if key.endswith("weight")]
    widths = [3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6]
    assert shapes == [(after, before, 3, 3) for before, after in pairwise(widths)]


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_vgg_is_read_from_a_file_that_holds_more(tmp_path, suffix):
    torch.manual_seed(0)
    theirs = VGG16Features("relu4_1")
    # torchvision's file also has the classifier.
    stored = {**theirs.state_dict(), "classifier.0.weight": torch.zeros(2, 2)}
    file = tmp_path / f"vgg.{suffix}"
    save_file(stored, file) if suffix == "safetensors" else torch.save(stored, file)
    ours = VGG16Features.from_file(file)
    assert_close(ours(pictures()), theirs.layers(pictures(), ["relu3_3"])["relu3_3"])
    assert perceptual_features("auto", file).name == perceptual_features("vgg16", file).name == "vgg16"
    assert perceptual_features("filters", file).name == "filters"


def test_vgg_files_that_do_not_fit_are_told(tmp_path):
    file = tmp_path / "vgg.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, file)
    with pytest.raises(UsageError, match=r"expected features.0.bias \(64,\) of torchvision's vgg16, found nothing"):
        VGG16Features.from_file(file)
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, file)
    with pytest.raises(UsageError, match=r"expected features.0.weight \(64, 3, 3, 3\) .* found \(64, 1, 3, 3\)"):
        VGG16Features.from_file(file)
    torch.save([1, 2], file)
    with pytest.raises(UsageError, match="expected the named tensors of vgg16, found list"):
        VGG16Features.from_file(file)
    for content in (b"", b"no weights", file.read_bytes()[:300]):
        file.write_bytes(content)
        with pytest.raises(UsageError, match="cannot be read as the weights of vgg16"):
            VGG16Features.from_file(file)
        file.replace(broken := file.with_suffix(".safetensors"))
        with pytest.raises(UsageError, match="cannot be read as the weights of vgg16"):
            VGG16Features.from_file(broken)
    with pytest.raises(UsageError, match="cannot be read as the weights of vgg16"):
        VGG16Features.from_file(tmp_path / "absent.pth")


class Intruder:
    """Would run a command when unpickled."""

    def __reduce__(self):
        return eval, ("1 / 0",)


def test_a_file_that_wants_to_run_something_is_refused(tmp_path):
    torch.save({"features.0.weight": Intruder()}, tmp_path / "vgg.pth")
    with pytest.raises(UsageError, match="cannot be read as the weights of vgg16"):
        VGG16Features.from_file(tmp_path / "vgg.pth")


def test_vgg_layers_that_are_not_there_are_told():
    with pytest.raises(UsageError, match="no layer 'relu3_4': choose one of relu1_1"):
        VGG16Features("relu3_4")
    with pytest.raises(UsageError, match="relu4_1 lies beyond the last layer here, relu3_3"):
        VGG16Features.tiny().layers(pictures(), ["relu4_1", "relu1_1"])


def test_which_features_are_used_is_said(tmp_path, caplog):
    caplog.set_level("INFO", "aboutface.nn.perceptual")
    for vgg16 in (None, tmp_path / "absent.pth"):
        assert perceptual_features("auto", vgg16).name == "filters"
        with pytest.raises(UsageError, match=r"need their weights.*aboutface models download vgg16"):
            perceptual_features("vgg16", vgg16)
    assert "filters, since there are no vgg16 weights" in caplog.text
    with pytest.raises(UsageError, match="expected auto, vgg16 or filters, got 'lpips'"):
        perceptual_features("lpips")  # pyright: ignore[reportArgumentType]


# Filters.


def test_filters_do_not_see_brightness_and_hardly_see_contrast():
    features, images = FilterFeatures(), pictures()
    scale = float(features(images).square().mean())
    assert distance(features, images, images + 0.1) < 1e-8 * scale
    assert distance(features, images, 0.5 + 0.8 * (images - 0.5)) < 0.01 * scale
    assert distance(features, images, pictures(seed=1)) > 0.3 * scale


def test_filters_see_nothing_in_a_plain_picture():
    plain = torch.tensor([0.9, 0.2, 0.4])[:, None, None].expand(1, 3, 32, 32)
    assert FilterFeatures()(plain).amax() - 1e-3 < 1e-4


def test_filters_grow_with_misalignment():
    features, images = FilterFeatures(), pictures(4)
    found = [distance(features, images, moved(images, pixels)) for pixels in range(5)]
    assert found[0] == 0
    assert all(later > 1.1 * earlier for earlier, later in pairwise(found[1:]))


def test_filters_prefer_a_sharp_guess_where_pixels_prefer_a_blurred_one():
    """What a perceptual term is for: by pixels, grey is nearer to stripes than the same stripes moved a little."""
    stripes = 0.5 + 0.3 * torch.sin(torch.arange(64) * (2 * torch.pi / 8)).expand(1, 3, 64, 64)
    grey, late = torch.full_like(stripes, 0.5), stripes.roll(2, -1)
    assert (stripes - grey).square().mean() < 0.6 * (stripes - late).square().mean()
    features = FilterFeatures()
    assert distance(features, stripes, late) < 0.7 * distance(features, stripes, grey)


def test_filters_of_a_mirrored_picture_are_mirrored():
    """Filters of a horizontal stripe are even in x, so their maps are those of the picture, mirrored."""
    features = FilterFeatures(directions=2)
    # Direction 1 is vertical: the last two of four filters, among the positive and negative ones of the finest scale.
    maps, images = [2, 3, 6, 7], pictures()
    assert_close(features(images.flip(-1))[:, maps], features(images)[:, maps].flip(-1), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(features(images.flip(-1))[:, :2], features(images)[:, :2].flip(-1), atol=0.1)


def test_each_direction_answers_most_to_its_own_stripes():
    features = FilterFeatures(scales=1)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    for direction in range(4):
        angle = torch.tensor(torch.pi * direction / 4)
        wave = 0.5 + 0.2 * torch.sin((x * angle.cos() + y * angle.sin()) * (2 * torch.pi / 4.4))
        energy = features(wave.expand(1, 3, 64, 64))[..., 4:-4, 4:-4].mean((0, 2, 3))
        assert energy[:16].view(2, 4, 2).sum((0, 2)).argmax() == direction
        assert energy[16:].argmax() == direction


def test_fine_stripes_do_not_pose_as_coarse_ones():
    """Stripes of 2.5 pixels fold to 5 when every other pixel is dropped, unless they are blurred away before."""
    stripes = (0.5 + 0.3 * torch.cos(torch.arange(64) * (2 * torch.pi / 2.5))).expand(1, 3, 64, 64)
    from aboutface.nn.perceptual import _halved

    assert _halved(stripes)[..., 2:-2].std() < 0.15 * stripes.std()
    assert stripes[..., ::2].std() > 0.9 * stripes.std()
