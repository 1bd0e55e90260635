"""One photo of a face in, every view out.

import aboutface

turned = aboutface.rotate("me.jpg", yaw=30)
aboutface.reconstruct("me.jpg").mesh.save("me.glb")
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Pipeline", "animate", "frontalize", "read_photo", "reconstruct", "relight", "render", "rotate", "swap"]

if TYPE_CHECKING:
    from . import render
    from .edit import Pipeline, animate, frontalize, reconstruct, relight, rotate, swap
    from .images import read_photo

_EDIT = ("Pipeline", "animate", "frontalize", "reconstruct", "relight", "rotate", "swap")


class _Package(ModuleType):
    """Keeps verbs from being hidden by the parts of the same name (reconstruct, relight, swap), once imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _EDIT or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    # Late, so that `aboutface --help` and `import aboutface` are quick.
    import importlib

    if name in _EDIT:
        return getattr(importlib.import_module(".edit", __name__), name)
    if name == "read_photo":
        return importlib.import_module(".images", __name__).read_photo
    if name == "render":
        return importlib.import_module(".render", __name__)
    raise AttributeError(f"module 'aboutface' has no attribute {name!r}")
