"""Imports only point up the table of levels, and `import aboutface` stays light."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
PACKAGE = "aboutface"

# A part imports parts of smaller levels only; parts of one level do not import each other.
LEVELS = [
    {"errors"},
    {"files"},
    {"images", "geometry", "filters", "skin", "nn", "fit", "weights", "pickles"},
    {"face", "scene", "metrics"},
    {"render", "morphable", "data", "generate"},
    {"reconstruct", "refine", "head", "export"},
    {"compose", "relight", "swap", "detect"},
    {"edit", "recipes"},
    {"benchmark", "batch"},
    {"cli", "web"},
]
# The package itself shows the verbs of all parts but the shells, which nobody imports; `python -m` starts a shell.
SHELLS = LEVELS[-1]
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
ROOT, MAIN = "", "__main__"
# What any part may take from the package itself.
ROOT_NAMES = {"__version__"}

HEAVY = ["cv2", "dlib", "trimesh", "av", "tyro", "numba", "warp", "scipy", "matplotlib"]


def part_of(module: str) -> str:
    """`aboutface.render.shade` belongs to `render`; the package itself to the empty part."""
    return module.partition(".")[2].partition(".")[0]


def imported(module: str, is_package: bool, source: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every module of the package that `source` imports, wherever the statement stands."""
    here = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            # `from .. import x` takes a module x or a name of the package: both are looked at as `aboutface.x`.
            names = [f"{base}.{alias.name}" for alias in node.names] if base == PACKAGE else [base]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            text = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
            dots = len(str(text)) - len(str(text).lstrip("."))
            base = here[: len(here) - dots + 1] if dots else []
            names = [".".join([*base, str(text).lstrip(".")])]
        else:
            continue
        for name in names:
            if name.split(".")[0] == PACKAGE:
                yield node.lineno, name


def wrong(importer: str, name: str) -> str | None:
    """Why the part `importer` may not import the module `name`; None where it may."""
    part = part_of(name)
    if part == importer or part in ROOT_NAMES:
        return None
    if importer == MAIN:
        return None
    if part in SHELLS:
        return f"nobody imports {part}"
    if importer == ROOT:
        return None
    if part not in LEVEL:
        return f"{part or 'the package itself'} has no level: import from where it is defined, or add it to the table"
    if LEVEL[part] == LEVEL[importer]:
        return f"{part} is a sibling"
    return f"{part} is further down" if LEVEL[part] > LEVEL[importer] else None


def modules() -> Iterator[tuple[str, bool, Path]]:
    for path in sorted((SOURCE / PACKAGE).rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield ".".join(parts[:-1] if is_package else parts), is_package, path


def test_every_part_has_a_level():
    parts = {part_of(module) for module, _, _ in modules()} - {ROOT, MAIN}
    assert parts <= LEVEL.keys(), f"add to the table: {sorted(parts - LEVEL.keys())}"
    assert sum(map(len, LEVELS)) == len(LEVEL), "a part stands in two levels"


def test_imports_point_up_the_table():
    found = []
    for module, is_package, path in modules():
        for line, name in imported(module, is_package, path.read_text("utf-8")):
            reason = wrong(part_of(module), name)
            if reason:
                found.append(f"{path.relative_to(SOURCE)}:{line} imports {name}: {reason}")
    assert not found, "\n".join(found)


def test_the_walk_sees_the_package():
    seen = {name for m, p, path in modules() for _, name in imported(m, p, path.read_text("utf-8"))}
    assert "aboutface.geometry" in seen, "scene.py imports geometry"
    assert "aboutface.geometry.rotation" in seen, "align.py imports rotation"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("aboutface.geometry.align", "from ..scene import Scene"),
        ("aboutface.geometry.align", "from .. import scene"),
        ("aboutface.geometry.align", "import aboutface.scene as s"),
        ("aboutface.geometry.align", "from aboutface import scene"),
        ("aboutface.geometry.align", "from aboutface.scene import Scene"),
        ("aboutface.scene", "from . import face"),
        ("aboutface.scene", "from .face import Face"),
        ("aboutface.scene", "def f():\n    from .render import render"),
        ("aboutface.scene", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .edit import rotate"),
        ("aboutface.scene", "import importlib\nimportlib.import_module('.edit', __package__)"),
        ("aboutface.scene", "import importlib\nimportlib.import_module('aboutface.edit')"),
        ("aboutface.scene", "from . import rotate"),
        ("aboutface.scene", "import aboutface"),
        ("aboutface.errors", "from . import images"),
        ("aboutface.benchmark", "from .cli import main"),
        ("aboutface.cli", "from . import web"),
    ],
)
def test_a_wrong_import_is_found(module, source):
    assert any(wrong(part_of(module), name) for _, name in imported(module, False, source))


@pytest.mark.parametrize(
    ("module", "is_package", "source"),
    [
        ("aboutface.scene", False, "from .geometry import apply\nfrom .errors import UsageError\nimport torch"),
        ("aboutface.geometry", True, "from .align import similarity"),
        ("aboutface.geometry.align", False, "from . import rotation\nfrom .rotation import nearest_rotation"),
        ("aboutface.detect.network_backend", False, "from ..reconstruct.deep3d_frame import ICT_FIVE"),
        ("aboutface.cli", False, "from . import __version__, edit, errors"),
        ("aboutface", True, "def __getattr__(name):\n    from . import edit\n    return getattr(edit, name)"),
        ("aboutface.__main__", False, "from .cli import main"),
    ],
)
def test_a_right_import_is_let_through(module, is_package, source):
    assert not [name for _, name in imported(module, is_package, source) if wrong(part_of(module), name)]


def test_the_package_itself_does_not_import_a_shell():
    assert wrong(part_of("aboutface"), "aboutface.cli")


def test_importing_the_package_stays_light():
    program = f"import sys, aboutface; print(*[m for m in {HEAVY} if m in sys.modules])"
    path = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
