"""Pictures of a data set: histograms, and a sheet of examples with their landmarks."""

from collections.abc import Mapping, Sequence
from os import PathLike

import numpy as np

from ..errors import need
from ..files import atomic_path
from ..images import write_image
from .example import Example

TILE = 160
GREEN, DARK = (80, 255, 120), (0, 60, 20)


def draw_histograms(path: str | PathLike[str], values: Mapping[str, Sequence[float] | np.ndarray], title: str) -> None:
    """One panel per named row of numbers, into a PNG. Without numbers a panel says so.

    Raises MissingError without matplotlib, OutputError.
    """
    need("matplotlib", "train")
    from matplotlib.figure import Figure  # its Figure needs no display and no global state

    columns = min(3, len(values))
    rows = -(-len(values) // columns)
    figure = Figure(figsize=(4.2 * columns, 3 * rows + 0.4), layout="constrained")
    figure.suptitle(title)
    panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for panel, (name, row) in zip(panels, values.items(), strict=False):
        _histogram(panel, name, np.asarray(row, np.float64))
    for panel in panels[len(values) :]:
        panel.axis("off")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _histogram(panel, name: str, row: np.ndarray) -> None:
    row = row[np.isfinite(row)]
    panel.set_title(name, fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_yticks([])
    if not len(row):
        panel.set_xticks([])
        panel.text(0.5, 0.5, "none known", ha="center", va="center", transform=panel.transAxes, color="grey")
        return
    panel.hist(row, bins=_bins(row), color="#4878a8")
    panel.axvline(np.median(row), color="#c04040", linewidth=1)
    panel.set_xlabel(f"median {np.median(row):.3g}, 5 to 95 %: {np.percentile(row, 5):.3g} to "
                     f"{np.percentile(row, 95):.3g}", fontsize=8)  # fmt: skip


def _bins(row: np.ndarray) -> np.ndarray:
    """Edges; whole numbers of a small range get a bar each."""
    low, high = row.min(), row.max()
    if (row == row.round()).all() and high - low < 40:
        return np.arange(low - 0.5, high + 1)
    return np.linspace(low, high if high > low else low + 1, 41)


def contact_sheet(examples: Sequence[Example], tile: int = TILE) -> np.ndarray:
    """Examples in a grid, landmarks drawn, the outline of the mask too: (rows * tile, columns * tile, 3) uint8."""
    columns = max(1, int(np.ceil(np.sqrt(len(examples) * 1.5))))
    rows = max(1, -(-len(examples) // columns))
    sheet = np.full((rows * tile, columns * tile, 3), 32, np.uint8)
    for place, example in enumerate(examples):
        row, column = divmod(place, columns)
        sheet[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile] = _tile(example, tile)
    return sheet


def _tile(example: Example, tile: int) -> np.ndarray:
    import cv2

    height, width = example.pixels.shape[:2]
    scale = tile / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(np.ascontiguousarray(example.pixels), size, interpolation=way)
    if example.mask is not None:
        mask = cv2.resize(example.mask, size, interpolation=cv2.INTER_AREA)
        outlines, _ = cv2.findContours((mask > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(small, outlines, -1, (255, 200, 60), 1, cv2.LINE_AA)
    for x, y in () if example.landmarks is None else np.clip(example.landmarks * scale, -tile, 2 * tile):
        centre = (round((float(x) - 0.5) * 16), round((float(y) - 0.5) * 16))
        cv2.circle(small, centre, 24, DARK, -1, cv2.LINE_AA, 4)
        cv2.circle(small, centre, 14, GREEN, -1, cv2.LINE_AA, 4)
    square = np.full((tile, tile, 3), 32, np.uint8)
    top, left = (tile - size[1]) // 2, (tile - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = small
    return square


def write_contact_sheet(path: str | PathLike[str], examples: Sequence[Example]) -> None:
    """`contact_sheet` into a picture file. Raises OutputError."""
    write_image(path, contact_sheet(examples))
