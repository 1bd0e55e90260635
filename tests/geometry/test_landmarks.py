"""66 points of 3DFAW and 68 of iBUG: the same but for the inner corners of the mouth."""

import pytest
import torch
from torch.testing import assert_close

from aboutface.geometry import MIRROR_68, landmarks_66_from_68, landmarks_68_from_66
from aboutface.morphable import MeanHead

CORNERS = (60, 64)
OTHERS = [i for i in range(68) if i not in CORNERS]


def numbered(count):
    """Points whose first coordinate is their own index."""
    return torch.stack([torch.arange(count).double(), torch.arange(count).double().square()], -1)


def test_66_points_are_68_without_the_inner_corners_in_their_order():
    assert landmarks_66_from_68(numbered(68))[:, 0].tolist() == OTHERS


def test_68_points_hold_all_66_at_their_places():
    points = torch.randn(66, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(landmarks_68_from_66(points)[OTHERS], points)
    assert torch.equal(landmarks_66_from_68(landmarks_68_from_66(points)), points)


def test_missing_corners_lie_between_their_neighbours_on_the_lips():
    full = landmarks_68_from_66(numbered(66))
    # The outer lips, 48 to 59, have the same number in both sets.
    assert full[60].tolist() == [(49 + 59) / 2, (49**2 + 59**2) / 2]
    assert full[64].tolist() == [(53 + 55) / 2, (53**2 + 55**2) / 2]


def test_a_mouth_gets_its_corners_back_nearly():
    face = MeanHead.load().landmarks
    mouth = (face[48] - face[54]).norm()
    again = landmarks_68_from_66(landmarks_66_from_68(face))
    # They come to lie somewhat nearer to the middle: lips are curved.
    assert (again - face)[list(CORNERS), :2].norm(dim=-1).max() < 0.2 * mouth


def test_left_and_right_are_treated_alike():
    points = torch.randn(5, 66, 2, generator=torch.Generator().manual_seed(1))
    mirror_66 = [OTHERS.index(int(MIRROR_68[i])) for i in OTHERS]
    assert_close(landmarks_68_from_66(points[:, mirror_66]), landmarks_68_from_66(points)[:, MIRROR_68])


def test_all_leading_sizes_and_gradients():
    points = torch.randn(2, 3, 66, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    full = landmarks_68_from_66(points)
    assert full.shape == (2, 3, 68, 2)
    assert torch.equal(full[1, 2], landmarks_68_from_66(points[1, 2]))
    assert torch.autograd.gradcheck(landmarks_68_from_66, points[:1, :1].requires_grad_())


@pytest.mark.parametrize(("convert", "shape"), [(landmarks_66_from_68, (66, 2)), (landmarks_68_from_66, (68, 2))])
def test_another_number_of_points_is_refused(convert, shape):
    for wrong in (shape, shape[:1], (3, *shape)):
        with pytest.raises(ValueError, match=r"expected \(\.\.\., 6[68], D\)"):
            convert(torch.zeros(wrong))
