"""The network of coefficients and landmarks: what it says before it has learned, and what it holds of the model."""

import torch

from aboutface.reconstruct.deep3d import Layout
from aboutface.reconstruct.deep3d_draw import Basis, landmarks, posed
from aboutface.reconstruct.deep3d_landmarks import FaceRegressor

LAYOUT = Layout(4, 3, 0, expression_kind="weights")


def basis(vertices=90):
    """A made-up model of scattered vertices, with landmarks between two of them each."""
    draw = torch.Generator().manual_seed(0)
    mean = torch.randn(vertices, 3, generator=draw) * 0.05
    corners = torch.randint(vertices, (68, 2), generator=draw)
    return Basis(
        mean=mean,
        identity=torch.randn(4, vertices, 3, generator=draw) * 0.01,
        expression=torch.randn(3, vertices, 3, generator=draw) * 0.01,
        albedo_mean=torch.ones(vertices, 3),
        albedo=torch.zeros(0, vertices, 3),
        faces=torch.tensor([[0, 1, 2]]),
        landmark_corners=corners,
        landmark_weights=torch.tensor([0.25, 0.75]).expand(68, 2),
    )


def test_its_own_landmarks_are_those_of_the_model():
    torch.manual_seed(0)
    model, net = basis(), FaceRegressor.tiny().eval()
    net.set_landmarks(model)
    for head in net.rnet.final_layers.parameters():
        torch.nn.init.normal_(head, std=0.02)
    with torch.no_grad():
        found = net(torch.rand(2, 3, 32, 32))
        expected = landmarks(model, posed(model, found.coefficients), 32)
    assert float(found.coefficients.id.abs().max()) > 0
    torch.testing.assert_close(found.model_landmarks, expected, atol=1e-3, rtol=0)
    # Not trained yet, annotated landmarks are the model's.
    assert torch.equal(found.landmarks, found.model_landmarks)


def test_the_state_holds_all_that_is_needed():
    torch.manual_seed(0)
    net, other = FaceRegressor.tiny().eval(), FaceRegressor.tiny().eval()
    net.set_landmarks(basis())
    other.load_state_dict(net.state_dict())
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(net(images).landmarks, other(images).landmarks)
