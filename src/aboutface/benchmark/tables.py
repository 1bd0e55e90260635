"""The paper's tables with our numbers beside them, as text, Markdown, LaTeX and JSON."""

import math
from dataclasses import dataclass

from .methods import Method
from .protocol import POSES
from .statistics import Number

Scores = dict[str, dict[str, Number]]
"""Method to the name of a score to its number."""

PUBLISHED_TABLE1 = {
    "affine-2d": (1.562, 9.547),
    "template": (0.724, 7.486),
    "v1": (0.568, 6.292),
    "v1-cnn": (0.539, 6.115),
    "v2": (0.400, 5.184),
    "v2-cnn": (0.399, 5.175),
    "v3": (0.357, 4.932),
    "v3-cnn": (0.349, 4.891),
}
"""MSE and MSE_norm, on VGG faces."""
PUBLISHED_TABLE2 = {
    "depthnet": ((24.67, 27.71, 29.70), (25.54, 27.22, 26.19), (21.66, 21.48, 23.87)),
    "depthnet-gan": ((59.78, 59.67, 59.63), (58.77, 58.67, 58.61), (59.97, 59.70, 59.60)),
}
"""DepthCorr of 66, rows source pose, columns target pose, on 3DFAW."""
PUBLISHED_TABLE3 = {
    "gt-depth": (8.86, 6.55, 66, 66, 66),
    "aign": (9.06, 6.61, 44.08, 50.81, 49.04),
    "mofa": (8.75, 6.33, 11.14, 15.97, 17.54),
    "depthnet": (7.65, 6.97, 27.36, 26.32, 22.34),
    "depthnet-gan": (8.74, 6.24, 59.69, 58.68, 59.76),
}
"""MSE and its deviation in 1e-5, DepthCorr of 66 by source pose, on 3DFAW."""


@dataclass(frozen=True)
class Table:
    """Cells of text."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", _line(self.columns), _line(["---", *["--:"] * (len(self.columns) - 1)])]
        return "\n".join([*lines, *map(_line, self.rows), "", *(f"{note}  " for note in self.notes)]).rstrip() + "\n"

    def latex(self) -> str:
        """A booktabs table."""
        rows = [" & ".join(map(_tex, cells)) + r" \\" for cells in [self.columns, *self.rows]]
        columns = "l" + "r" * (len(self.columns) - 1)
        body = [rows[0], r"\midrule", *rows[1:]]
        lines = [r"\begin{table}", rf"\caption{{{_tex(self.title)}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
        return "\n".join([*lines, *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"

    def text(self, width: int = 200) -> str:
        """Drawn with lines, for a terminal."""
        from rich.console import Console
        from rich.table import Table as Drawn

        table = Drawn(title=self.title, title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        console = Console(width=width, color_system=None)
        with console.capture() as capture:
            console.print(table)
        return capture.get() + "".join(f"{note}\n" for note in self.notes)


def table1(scores: Scores, methods: dict[str, Method]) -> Table:
    """Keypoint errors on pairs of one identity."""
    rows = []
    for name, numbers in scores.items():
        method, paper = methods[name], PUBLISHED_TABLE1.get(name)
        rows.append(
            [
                f"{method.row or '–'}  {method.title}",
                _spread(numbers["mse"], 3),
                _interval(numbers["mse"], 3),
                _plain(numbers["mse_norm"].mean, 3),
                _interval(numbers["mse_norm"], 3),
                *((f"{paper[0]:.3f}", f"{paper[1]:.3f}") if paper else ("", "")),
            ]
        )
    return Table(
        "Table 1: keypoint errors on pairs of one identity",
        ["model", "MSE ± std, px²", "95 %", "MSE_norm, %", "95 %", "paper MSE", "paper MSE_norm"],
        rows,
        [
            "MSE: mean over both coordinates, pixels of an 80 px crop. MSE_norm: mean distance / outer eye distance.",
            "Intervals draw identities anew; std is over pairs. The paper's faces are VGG's: compare ratios.",
        ],
    )


def table2(scores: Scores, methods: dict[str, Method]) -> Table:
    """DepthCorr by source and target pose."""
    rows = []
    for name, numbers in scores.items():
        if "depth_corr" not in numbers:
            continue
        for number, pose in enumerate(POSES):
            values = [numbers[f"depth_corr_{pose}_{target}"].mean for target in POSES]
            paper = PUBLISHED_TABLE2.get(name)
            printed = " / ".join(f"{value:.1f}" for value in paper[number]) if paper else ""
            mean = sum(values) / len(values)
            rows.append([methods[name].title, pose, *(_plain(value, 1) for value in values), _plain(mean, 1), printed])
    return Table(
        "Table 2: DepthCorr (of 68) by the pose of source (row) and target (column)",
        ["model", "source", *POSES, "average", "paper, of 66"],
        rows,
        ["A depth that does not look at the target has the same number in every column."],
    )


def table3(scores: Scores, methods: dict[str, Method]) -> Table:
    """Errors and DepthCorr on faces of different people."""
    rows = []
    for name, numbers in scores.items():
        method, paper = methods[name], PUBLISHED_TABLE3.get(name)
        corr = [_corr(numbers, f"depth_corr_{pose}") for pose in POSES]
        printed = (
            f"{paper[0]:.2f} ± {paper[1]:.2f}; " + " / ".join(f"{value:g}" for value in paper[2:]) if paper else ""
        )
        needs = "its own" if method.sees_truth else "yes" if method.needs_depth else "no"
        rows.append([method.title, needs, _spread(numbers["mse"], 2), _interval(numbers["mse"], 2), *corr, printed])
    for name in ("mofa",):
        value = PUBLISHED_TABLE3[name]
        rows.append(
            [
                "MOFA (not run: no code)",
                "no",
                "",
                "",
                "",
                "",
                "",
                f"{value[0]} ± {value[1]}; {value[2]} / {value[3]} / {value[4]}",
            ]
        )
    return Table(
        "Table 3: keypoint error and DepthCorr (of 68) on pairs of different people",
        ["model", "depth labels", "MSE ± std, 1e-5", "95 %", *POSES, "paper (3DFAW, of 66)"],
        rows,
        [
            "MSE in squares of the picture's side; intervals draw faces anew, std is over pairs.",
            "DepthCorr compares each keypoint across faces, raw z with raw z; noise reaches 6, a face's shape "
            "does not enter.",
            "GT depth, centred: what is left to a perfect depth without each face's offset, which no keypoint shows.",
            "The floor holds for depths of the source's own keypoints; the template as written has others.",
        ],
    )


def shape_table(scores: Scores, methods: dict[str, Method]) -> Table:
    """What DepthCorr does not say: the shape within each face."""
    rows = []
    for name, numbers in scores.items():
        if "depth_corr" not in numbers:
            continue
        centred = [_corr(numbers, f"depth_corr_centred_{pose}") for pose in POSES]
        shape = [
            _plain(numbers[key].mean, digits)
            for key, digits in (
                ("similarity_correlation", 4),
                ("similarity_error", 2),
                ("gauge_correlation", 4),
                ("gauge_error", 2),
            )
        ]
        rows.append([methods[name].title, *shape, *centred])
    columns = ["model", "similarity r", "error, %", "gauge r", "error, %", *(f"DepthCorr-c {pose}" for pose in POSES)]
    return Table(
        "Depth within a face",
        columns,
        rows,
        [
            "similarity: after the best scale (positive) and offset of each face: is the depth right as it stands?",
            "gauge: after the best a z + b x + c y + d: is what keypoints can determine right? Errors in percent of "
            "the 3D face's root-mean-square radius.",
            "DepthCorr-c: DepthCorr of depths less each face's mean, which no keypoint shows.",
        ],
    )


def _corr(numbers: dict[str, Number], key: str) -> str:
    return _plain(numbers[key].mean, 1) if key in numbers else "–"


def _spread(number: Number, digits: int) -> str:
    return f"{number.mean:.{digits}f} ± {number.std:.{digits}f}"


def _interval(number: Number, digits: int) -> str:
    low, high = number.ci
    return f"{low:.{digits}f}–{high:.{digits}f}"


def _plain(value: float, digits: int) -> str:
    return "constant" if math.isnan(value) else f"{value:.{digits}f}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _tex(text: str) -> str:
    for plain, escaped in (("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("±", r"$\pm$"), ("–", "--"), ("²", "$^2$")):
        text = text.replace(plain, escaped)
    return text
