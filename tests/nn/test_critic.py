"""The critic: published size, bounds, and gradients of gradients."""

from typing import get_args

import pytest
import torch
from torch.testing import assert_close

from aboutface.nn import Critic, gradient_penalty, wasserstein_critic_loss, wasserstein_generator_loss
from aboutface.nn.critic import Norm


def test_parameters_are_those_of_the_released_code():
    assert sum(p.numel() for p in Critic(198).parameters()) == 564_993


def test_points_are_flattened_in_their_order():
    torch.manual_seed(0)
    critic, points = Critic(12, (8,), "none"), torch.randn(5, 4, 3)
    assert_close(critic(points), critic(points.flatten(1)))
    assert critic(points).shape == (5,)


def test_scores_are_not_squashed():
    """A ReLU network without biases is positively homogeneous; a sigmoid would not be."""
    torch.manual_seed(0)
    critic, rows = Critic(6, (8, 8), "none"), torch.randn(5, 6)
    with torch.no_grad():
        for name, parameter in critic.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    assert_close(critic(1000 * rows), 1000 * critic(rows), rtol=1e-4, atol=1e-4)
    assert critic(1000 * rows).abs().max() > 1


def test_spectral_scores_change_no_faster_than_their_input():
    torch.manual_seed(0)
    critic = Critic(6, (32, 32), "spectral")
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(10)
        for _ in range(50):
            critic(torch.zeros(1, 6))  # power iterations
    first, second = torch.randn(2, 200, 6).double()
    critic.eval().double()
    slope = (critic(first) - critic(second)).abs() / (first - second).norm(dim=1)
    assert slope.max() <= 1 + 1e-6
    assert slope.max() > 1e-3


def test_only_batch_norm_lets_rows_see_each_other():
    torch.manual_seed(0)
    rows = torch.randn(8, 6)
    batch, none = Critic(6, (8,), "batch"), Critic(6, (8,), "none")
    assert not torch.allclose(batch(rows)[:4], batch(rows[:4]), atol=1e-3)
    assert_close(none(rows)[:4], none(rows[:4]))


def test_wasserstein_losses_by_hand():
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 0.0, 4.0])
    assert wasserstein_critic_loss(real, fake) == 1 - 2
    assert wasserstein_generator_loss(fake) == -1


def test_losses_pull_both_ways():
    """One step of each side moves the scores where it should."""
    torch.manual_seed(0)
    critic = Critic(6, (8,), "none")
    real, fake = torch.randn(16, 6) + 1, (torch.randn(16, 6) - 1).requires_grad_()
    before = critic(real).mean() - critic(fake).mean()
    (down,) = torch.autograd.grad(wasserstein_generator_loss(critic(fake)), fake)
    assert critic(fake - 0.1 * down).mean() > critic(fake).mean()
    wasserstein_critic_loss(critic(real), critic(fake)).backward()
    torch.optim.SGD(critic.parameters(), 0.01).step()
    assert critic(real).mean() - critic(fake).mean() > before


def test_penalty_of_a_plane_is_its_squared_slope():
    plane = Critic(4, (), "none").double()
    rows = torch.randn(7, 2, 2, dtype=torch.float64)
    weight = plane.get_parameter("layers.1.weight")
    assert_close(gradient_penalty(plane, rows), weight.square().sum())


def test_penalty_is_the_mean_over_rows_of_squared_finite_differences():
    torch.manual_seed(0)
    critic, rows = Critic(3, (16, 16), "none").double(), torch.randn(5, 3, dtype=torch.float64)
    step = 1e-6
    moves = step * torch.eye(3, dtype=torch.float64)
    with torch.no_grad():
        slopes = torch.stack([(critic(rows + move) - critic(rows - move)) / (2 * step) for move in moves], 1)
    assert_close(gradient_penalty(critic, rows), slopes.square().sum(1).mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", get_args(Norm))
def test_penalty_has_the_right_gradient_in_every_weight(norm):
    torch.manual_seed(0)
    critic = Critic(3, (5, 4), norm).double()
    rows = torch.randn(6, 3, dtype=torch.float64)
    if norm == "spectral":
        critic.eval()  # the power iteration goes on in every training step
    weights = dict(critic.named_parameters())

    def penalty(*values):
        state = dict(zip(weights, values, strict=True))
        return gradient_penalty(lambda x: torch.func.functional_call(critic, state, x), rows)

    assert torch.autograd.gradcheck(penalty, tuple(weights.values()))


def test_penalty_works_where_gradients_are_off_and_leaves_its_rows_alone():
    critic, rows = Critic(3, (4,), "none"), torch.randn(2, 3)
    with torch.no_grad():
        assert gradient_penalty(critic, rows) > 0
    assert not rows.requires_grad
    gradient_penalty(critic, rows).backward()
    assert rows.grad is None
    assert critic.get_parameter("layers.1.weight").grad is not None


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="batch, none or spectral, got 'layer'"):
        Critic(3, norm="layer")  # pyright: ignore[reportArgumentType]
