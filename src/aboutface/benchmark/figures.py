"""The paper's figures of our runs: histogram (Table 1), heat maps (Fig. 2), depths (Fig. 3), sweep (Fig. 1)."""

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import need
from ..files import atomic_path
from ..geometry import affine_2d_from_3d_matrix, rotation_from_angles
from ..metrics import centred, keypoint_correlations
from ..morphable import MeanHead
from ..reconstruct.landmark_baselines import Template
from ..render.facewarper import FACEWARPER_TRIANGLES, warp_face
from . import learned
from .methods import Method
from .protocol import POSES, Faces, measured_yaw, pose_of, read_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .depthnets import Trial

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.4",
    "legend.frameon": False,
    "savefig.dpi": 160,
}
SWEEP = tuple(range(-45, 46, 15))
"""Degrees of the camera sweep's views."""
VARIANTS = ("template-depth", "template-map", "gt-depth-centred")
"""Left out of the histograms: nearly the same as their neighbours."""
SAME_DEPTH = ("template", "template-map", "gt-depth-centred")
"""Methods whose depth is that of another: drawn once."""
# One line per part of the face, to be read at a glance: jaw, brows, nose, eyes, lips; closed where it is a ring.
OUTLINES = [
    [*range(17)],
    [*range(17, 22)],
    [*range(22, 27)],
    [*range(27, 31)],
    [*range(31, 36)],
    [*range(36, 42), 36],
    [*range(42, 48), 42],
    [*range(48, 60), 48],
    [*range(60, 68), 60],
]


def ready() -> None:
    """Raises MissingError now rather than after an hour of training."""
    need("matplotlib", "train")


def draw(trials: "dict[str, Trial]", folder: Path, videos: Path | None) -> list[Path]:
    """All figures of the trials that were run; their files."""
    import matplotlib

    made: dict[str, Figure] = {}
    with matplotlib.rc_context(STYLE):
        if trial := trials.get("table1"):
            made["table1-histogram"] = histogram(trial, learned.TABLE1, 1.0, "MSE, px² of an 80 px crop")
            assert videos is not None
            made["fig1-camera-sweep"] = camera_sweep(trial, videos)
        if trial := trials.get("table3"):
            made["table3-histogram"] = histogram(trial, learned.TABLE3, 1e5, "MSE, 1e-5 of the picture's side squared")
            made["fig2-heatmaps"] = heatmaps(trial)
            made["fig3-depths"] = depth_pictures(trial)
        return [_save(figure, folder / f"{name}.png") for name, figure in made.items()]


def histogram(trial: "Trial", compared: dict[str, Method], unit: float, label: str) -> "Figure":
    """Overlaid histograms of the pairs' MSE, in the paper's colours (Table 1, right)."""
    figure = _figure(6.4, 3.8)
    axes = figure.subplots()
    shown = {name: (errors.mse * unit).numpy() for name, errors in trial.errors.items() if name not in VARIANTS}
    # The long tail of the plain affine would press everything else against the axis.
    limit = 1.5 * max(float(np.quantile(values, 0.9)) for name, values in shown.items() if name != "affine-2d")
    bins = np.linspace(0, limit, 61).tolist()
    for name, values in shown.items():
        method = compared[name]
        beyond = f", {100 * (values > limit).mean():.0f} % beyond" if (values > limit).mean() >= 0.005 else ""
        title = f"{method.row} " if method.row else ""
        look: dict[str, Any] = {"linestyle": "--"} if method.sees_truth else {"fill": True, "alpha": 0.3}
        axes.hist(values, bins, histtype="step", color=method.colour, label=f"{title}{method.title}{beyond}", **look)
    axes.set(xlabel=label, ylabel="pairs", xlim=(0, limit))
    axes.legend(fontsize=8)
    return figure


def heatmaps(trial: "Trial") -> "Figure":
    """Predicted against true depth, all keypoints and pairs, hexagonal bins (Fig. 2)."""
    true = trial.split.test.depth
    assert true is not None
    chosen = {name: depth for name, depth in _depths(trial).items() if not learned.TABLE3[name].sees_truth}
    figure, grid = _panels(len(chosen), 2.7, 2.6, 4)
    x = true[trial.pairs.source]
    window = _window(x)
    for axes, (name, depth) in zip(grid, chosen.items(), strict=False):
        low, high = _window(depth)
        axes.hexbin(
            x.flatten(), depth.flatten(), gridsize=40, bins="log", cmap="magma_r", mincnt=1,
            extent=(*window, low, high), linewidths=0.1,
        )  # fmt: skip
        mean = float(keypoint_correlations(depth, x).mean())
        axes.set(xlim=window, ylim=(low, high), title=f"{learned.TABLE3[name].title}\nDepthCorr/68 = {mean:.2f}")
        axes.set(xlabel="true z", ylabel="predicted z")
    return figure


def depth_pictures(trial: "Trial") -> "Figure":
    """Keypoints in 3D, elevation 30, azimuth 75 degrees, one face of each pose; colour is depth (Fig. 3)."""
    test = trial.split.test
    assert test.depth is not None
    assert test.yaw is not None
    depths = _depths(trial)
    chosen = [int(torch.nonzero(pose_of(test.yaw) == number)[0]) for number in range(len(POSES))]
    figure = _figure(2.0 * (len(depths) + 1), 2.1 * len(chosen), constrained=False)
    for row, face in enumerate(chosen):
        points, true = test.points[face], centred(test.depth[face])
        axes = figure.add_subplot(len(chosen), len(depths) + 1, row * (len(depths) + 1) + 1)
        _outlines(axes, points)
        axes.set_title("keypoints" if row == 0 else "")
        axes.text(-0.02, 0.5, POSES[row], transform=axes.transAxes, rotation=90, va="center", ha="right")
        for column, (name, depth) in enumerate(depths.items()):
            # A raw depth has no scale of its own: it gets the true one's spread, and keeps its sign.
            z = centred(depth[torch.nonzero(trial.pairs.source == face)[0, 0]])
            z = z * true.std() / z.std().clamp_min(1e-12)
            place = row * (len(depths) + 1) + column + 2
            solid = figure.add_subplot(len(chosen), len(depths) + 1, place, projection="3d")
            _solid(solid, points, z, true)
            solid.set_title(fill(learned.TABLE3[name].title, 18) if row == 0 else "", y=0.98)
    figure.subplots_adjust(0.03, 0.01, 0.99, 0.94, 0.05, 0.02)
    return figure


def camera_sweep(trial: "Trial", videos: Path) -> "Figure":
    """A test photo seen from -45 to 45 degrees: keypoints lifted by each model, carried by its closed form (Fig. 1)."""
    mean = Template(MeanHead.load().landmarks.double())
    points = trial.split.test.points.double()
    face = _good_photo(trial.split.test, measured_yaw(mean.posed(points)).abs())
    picture, pixels = read_picture(videos, trial.split.test.keys[face])
    # A turned head may reach beyond the crop.
    margin = max(picture.shape) // 3
    picture = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)
    pixels = pixels + margin
    chosen = [name for name, errors in trial.errors.items() if errors.depth is not None and name not in SAME_DEPTH]
    figure = _figure(1.25 * (len(SWEEP) + 1), 1.3 * len(chosen) + 0.25, constrained=False)
    grid = figure.subplots(len(chosen), len(SWEEP) + 1, squeeze=False)
    targets = _turned(mean, points[face])
    scene = Faces(torch.cat([points[face][None], targets]), images=_repeated(trial.split.test.images, face))
    source, target = torch.zeros(len(SWEEP), dtype=torch.int64), torch.arange(1, len(SWEEP) + 1)
    size = (pixels[:, 0].max() - pixels[:, 0].min()) / float(points[face, :, 0].max() - points[face, :, 0].min())
    offset = pixels.mean(0) - points[face].mean(0).numpy() * size
    for axes, name in zip(grid, chosen, strict=True):
        with torch.no_grad():
            depth = trial.predictors[name](scene, source, target).depth
        assert depth is not None
        _picture(axes[0], picture, pixels)
        axes[0].set_ylabel(fill(learned.TABLE1[name].title, 16), fontsize=8)
        for panel, yaw, z, goal in zip(axes[1:], SWEEP, depth.double(), targets, strict=True):
            lifted = torch.cat([torch.from_numpy(pixels), z[:, None]], 1)
            affine = affine_2d_from_3d_matrix(lifted, goal * size + torch.from_numpy(offset))
            warped, covered = warp_face(picture, pixels, z.numpy(), affine.numpy(), order="depth", wrap="clamp")
            _picture(panel, np.where(covered[..., None], warped, 255), pixels)
            panel.set_title(f"{yaw:+d}°" if panel in grid[0] else "")
    grid[0, 0].set_title("photo")
    figure.subplots_adjust(0.05, 0.01, 0.995, 0.93, 0.03, 0.03)
    return figure


def _good_photo(faces: Faces, turn: Tensor) -> int:
    """Of the twenty faces turned least (N,), the one with the sharpest picture."""
    assert faces.images is not None
    frontal = turn.argsort()[:20]
    edges = faces.images[frontal].diff(dim=-1).square().flatten(1).mean(1)
    return int(frontal[edges.argmax()])


def _turned(mean: Template, points: Tensor) -> Tensor:
    """Keypoints (V, K, 2) of the mean face in the place of points (K, 2), turned to the views of the sweep."""
    posed = mean.posed(points)
    centre = posed.mean(0)
    rotation = rotation_from_angles(yaw=torch.tensor(SWEEP, dtype=points.dtype))
    return ((posed - centre) @ rotation.mT + centre)[..., :2]


def _repeated(images: Tensor | None, face: int) -> Tensor | None:
    """There is no photo of the views to come: networks that want one see the source's."""
    return None if images is None else images[face].expand(len(SWEEP) + 1, -1, -1, -1)


def _depths(trial: "Trial") -> dict[str, Tensor]:
    """Depths (P, K) of the methods that have any of their own."""
    found = {name: errors.depth for name, errors in trial.errors.items() if name not in SAME_DEPTH}
    return {name: depth for name, depth in found.items() if depth is not None}


def _window(values: Tensor) -> tuple[float, float]:
    """What holds nearly all values, without the far ones that would squeeze the rest."""
    sample = values.flatten()[:: max(1, values.numel() // 100_000)]
    low, high = sample.quantile(torch.tensor([0.002, 0.998], dtype=sample.dtype)).tolist()
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _outlines(axes: Any, points: Tensor) -> None:
    for line in OUTLINES:
        axes.plot(points[line, 0], points[line, 1], color="0.2", linewidth=0.9)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_axis_off()


def _solid(axes: Any, points: Tensor, z: Tensor, true: Tensor) -> None:
    x, y = centred(points[:, 0]), centred(points[:, 1])
    limit = float(torch.stack([x.abs().max(), y.abs().max(), true.abs().max()]).max())
    # Depth runs into the page: matplotlib's second axis; its third points up, y of the picture points down.
    axes.plot_trisurf(x, z, -y, triangles=FACEWARPER_TRIANGLES, color="0.85", alpha=0.35, linewidth=0)
    axes.scatter(x, z, -y, c=z, cmap="viridis_r", s=7, depthshade=False, vmin=-limit * 0.7, vmax=limit * 0.7)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), zlim=(-limit, limit))
    axes.set_axis_off()
    axes.view_init(elev=30, azim=-75)
    axes.set_box_aspect((1, 1, 1), zoom=1.3)


def _picture(axes: Any, picture: np.ndarray, pixels: np.ndarray) -> None:
    axes.imshow(picture, interpolation="bilinear")
    (left, top), (right, bottom) = pixels.min(0), pixels.max(0)
    side = 0.72 * max(right - left, bottom - top)
    x, y = (left + right) / 2, (top + bottom) / 2
    axes.set(xlim=(x - side, x + side), ylim=(y + side, y - side), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _panels(count: int, width: float, height: float, across: int) -> "tuple[Figure, list[Any]]":
    """A figure of `count` panels; empty places stay white."""
    columns = min(across, max(count, 1))
    rows = -(-max(count, 1) // columns)
    figure = _figure(width * columns, height * rows)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, grid


def _figure(width: float, height: float, constrained: bool = True) -> "Figure":
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained" if constrained else None)


def _save(figure: "Figure", path: Path) -> Path:
    with atomic_path(path) as part:
        figure.savefig(part)
    return path
