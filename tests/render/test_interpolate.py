import pytest
import torch

from aboutface.errors import UsageError
from aboutface.render import antialias, interpolate, rasterize

pytestmark = pytest.mark.usefixtures("every_backend")
FACES = torch.tensor([[0, 1, 2], [1, 3, 2]])


def quad(batch: int = 1) -> torch.Tensor:
    """Two triangles (B, 4, 4) at different depths that cover most of the picture."""
    clip = torch.tensor([[-0.9, -0.8, 0.2, 1.3], [1.1, -0.5, 0.1, 0.9], [0.2, 1.2, -0.3, 1.1], [0.9, 0.95, 0.4, 1.0]])
    return clip.double().expand(batch, -1, -1).clone()


def test_attributes_that_are_positions_come_back_as_the_pixels_ray():
    # Perspective-correct: clip coordinates themselves, interpolated, must project to the pixel's centre.
    clip = quad()
    found = interpolate(clip, rasterize(clip, FACES, (7, 9)), FACES)
    row, column = (found[0, ..., 3] > 0).nonzero().unbind(-1)
    assert len(row) > 20
    x, y, _, w = found[0, row, column].unbind(-1)
    torch.testing.assert_close((x / w + 1) * 4.5, column + 0.5, check_dtype=False)
    torch.testing.assert_close((y / w + 1) * 3.5, row + 0.5, check_dtype=False)
    empty = rasterize(clip, FACES, (7, 9)).triangle_id < 0
    assert empty.any()
    assert (found[empty] == 0).all()


def test_shared_and_separate_attributes_and_faces_agree():
    clip = quad(2)
    clip[1, :, 0] += 0.2
    values = torch.rand(4, 5, generator=torch.Generator().manual_seed(0)).double()
    fragments = rasterize(clip, FACES, (6, 8))
    shared = interpolate(values, fragments, FACES)
    both_faces = FACES.expand(2, -1, -1)
    assert torch.equal(shared, interpolate(values.expand(2, -1, -1), fragments, both_faces))
    other = torch.stack([values, values + 1])
    shifted = interpolate(other, fragments, both_faces)
    seen = (fragments.triangle_id[1] >= 0).double()[..., None]
    torch.testing.assert_close(shifted[1], shared[1] + seen)
    # Different faces per item: the second item's triangles are listed backwards.
    mixed = torch.stack([FACES, FACES.flip(0)])
    torch.testing.assert_close(interpolate(values, rasterize(clip, mixed, (6, 8)), mixed), shared)
    with pytest.raises(UsageError, match="attributes"):
        interpolate(torch.rand(3, 4, 5), fragments, FACES)


def test_interpolate_gradients():
    values = torch.rand(4, 2, generator=torch.Generator().manual_seed(0)).double().requires_grad_()

    def picture(clip, attributes):
        return interpolate(attributes, rasterize(clip, FACES, (5, 6)), FACES)

    assert torch.autograd.gradcheck(picture, (quad().requires_grad_(), values))


def test_what_does_not_belong_together_is_named():
    fragments = rasterize(quad(), FACES, (6, 8))
    for attributes, faces, message in [
        (torch.rand(3, 2), FACES, "faces name vertices 0 to 3, but they go from 0 to 2"),
        (torch.rand(4, 2), FACES[:1], "fragments show triangle 1, but there are 1 faces"),
        (torch.ones(4, 2, dtype=torch.int64), FACES, "floating point"),
        (torch.rand(4, 2), FACES[:, :2], r"faces \(F, 3\)"),
        (torch.rand(4, 2), FACES.int(), "int64"),
    ]:
        with pytest.raises(UsageError, match=message):
            interpolate(attributes, fragments, faces)
    mixed = fragments._replace(barycentric=fragments.barycentric[:, :1, :1])
    with pytest.raises(UsageError, match="expected fragments"):
        interpolate(torch.rand(4, 2), mixed, FACES)
    image = torch.rand(1, 3, 6, 8)
    with pytest.raises(UsageError, match="antialias: fragments show triangle 1"):
        antialias(image, fragments, quad(), FACES[:1])
    with pytest.raises(UsageError, match="antialias: faces name vertices"):
        antialias(image, fragments, quad()[:, :3], FACES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_back_as_it_was(dtype):
    clip = quad().float()
    fragments = rasterize(clip, FACES, (6, 8))
    values = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    picture = interpolate(values, fragments, FACES)
    assert picture.dtype == dtype
    torch.testing.assert_close(picture, interpolate(values.detach().float(), fragments, FACES).to(dtype))
    picture.float().sum().backward()
    assert values.grad is not None
    assert values.grad.dtype == dtype


def test_an_empty_batch_gives_an_empty_picture():
    clip = quad()[:0].requires_grad_()
    fragments = rasterize(clip, FACES, (6, 8))
    picture = interpolate(torch.rand(4, 5, dtype=torch.float64), fragments, FACES)
    assert picture.shape == (0, 6, 8, 5)
    smooth = antialias(picture.movedim(-1, 1), fragments, clip, FACES)
    assert smooth.shape == (0, 5, 6, 8)
    smooth.sum().backward()
