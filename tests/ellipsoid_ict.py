"""The made face in the place of ICT's model, small networks that always say the same of it, and pictures of it.

What coefficients mean is written out here a second time, in numpy, from the page docs/deep3d.md.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aboutface.geometry import apply
from aboutface.morphable import MorphableModel
from aboutface.nn.mobile import MobileSettings
from aboutface.recipes import Trained, write_weights
from aboutface.reconstruct.deep3d import Coefficients, Layout
from aboutface.reconstruct.deep3d_draw import Basis, draw
from aboutface.reconstruct.deep3d_frame import ICT_CENTRE, ICT_FIVE, crop_from_photo, five_from_68
from aboutface.reconstruct.deep3d_landmarks import FaceRegressor, RegressorSettings
from ellipsoid_face import toy

SIZE = 32
CENTRE = np.array([0.0, -5.15, -76.21])
LAYOUT = Layout(6, 4, 0, expression_kind="weights")


def ict() -> MorphableModel:
    """Named and placed as ICT's; its front is a part of it."""
    model = toy("weights")
    mean = model.mean + torch.tensor([0.0, 0.0, -20.0])
    masks = {"front": model.mean[:, 2] < 15.0}
    return replace(model, name="ict", mean=mean, masks=masks).check()


def net_of(model: MorphableModel, layout: Layout = LAYOUT, vertices: int = 0, **said: Any) -> FaceRegressor:
    """A network that says the same of all pictures: numbers by the names of `Coefficients`, before `squashed`."""
    net = FaceRegressor(
        RegressorSettings(MobileSettings(SIZE, 4, (4, 6, 8), (1, 2, 1), (2, 2, 2), 12), layout, vertices)
    )
    net.set_landmarks(Basis.of(model, replace(layout, albedo=0), ICT_CENTRE))
    flat = torch.zeros(layout.total)
    for name, numbers in said.items():
        flat[layout.slices[name]] = numbers
    start = 0
    for head in net.rnet.final_layers:
        bias = head.bias
        assert isinstance(bias, torch.Tensor)
        bias.data.copy_(flat[start : start + len(bias)])
        start += len(bias)
    return net.eval()


def save(net: FaceRegressor, file: Path) -> Path:
    write_weights(file, "deep3d", Trained(dict(net.state_dict()), {}, {"network": asdict(net.settings)}))
    return file


def coefficients_of(net: FaceRegressor) -> Coefficients:
    """What it says, in float64."""
    with torch.no_grad():
        found = net(torch.zeros(1, 3, SIZE, SIZE)).coefficients
    return Coefficients(*(part.double() for part in found))


def their_points(model: MorphableModel, id, exp, angle, trans, centre=None) -> np.ndarray:
    """(V, 3) decimetres, y up, z towards the camera, of rows of numbers in numpy; centre: ICT's if missing."""
    offsets = np.tensordot(id, model.identity[: len(id)].double().numpy(), 1)
    offsets = offsets + np.tensordot(exp, model.expression[: len(exp)].double().numpy(), 1)
    rest = (model.mean.double().numpy() + offsets - (CENTRE if centre is None else centre)) * [1, -1, -1] / 100
    (a, b, c), (p, q, r) = np.cos(angle), np.sin(angle)
    rx, ry = np.array([[1, 0, 0], [0, a, -p], [0, p, a]]), np.array([[b, 0, q], [0, 1, 0], [-q, 0, b]])
    rz = np.array([[c, -r, 0], [r, c, 0], [0, 0, 1]])
    return rest @ (rz @ ry @ rx).T + trans


def their_pixels(points: np.ndarray) -> np.ndarray:
    """(V, 2) positions in a crop of 224, y down from its upper edge."""
    x, y, z = points.T
    return np.stack([1015 * x / (10 - z) + 112, 224 - (1015 * y / (10 - z) + 112)], -1)


def mean_landmarks(model: MorphableModel, scale: float = 1.0, shift=(0.0, 0.0)) -> np.ndarray:
    """(68, 2): the mean face as Deep3D's camera sees it in its crop; that crop is a photo, or is enlarged and moved."""
    points = their_points(model, *(np.zeros(count) for count in (0, 0, 3, 3)))
    assert model.landmarks68 is not None
    marks = torch.from_numpy(their_pixels(points[model.landmarks68.numpy()]))
    return apply(crop_from_photo(five_from_68(marks), ICT_FIVE), marks).numpy() * scale + shift


def picture(model: MorphableModel, said: Coefficients, size: int = 224, net: FaceRegressor | None = None) -> np.ndarray:
    """(S, S, 3) uint8: the front of the face before grey; in the albedo that `net` has learned, where it has one."""
    layout = replace(LAYOUT, identity=said.id.shape[1], expression=said.exp.shape[1])
    basis = Basis.of(model.part("front"), layout, ICT_CENTRE) if net is None else net.basis(model.part("front"))
    drawn = draw(basis, Coefficients(*(part.float() for part in said)), size, supersample=2)
    image = drawn.over(torch.full((1, 3, size, size), 0.5)).clamp(0, 1)[0]
    return (image.movedim(0, -1) * 255).round().byte().numpy()
