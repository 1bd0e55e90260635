"""One photo of a face in, every view out.

import aboutface

turned = aboutface.rotate("me.jpg", yaw=30)
aboutface.reconstruct("me.jpg").mesh.save("me.glb")
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Pipeline", "animate", "frontalize", "read_photo", "reconstruct", "render", "rotate", "swap"]

if TYPE_CHECKING:
    from . import render
    from .edit import Pipeline, animate, frontalize, reconstruct, rotate, swap
    from .images import read_photo


def __getattr__(name: str) -> Any:
    # Late, so that `aboutface --help` and `import aboutface` are quick.
    import importlib

    if name in ("Pipeline", "animate", "frontalize", "reconstruct", "rotate", "swap"):
        return getattr(importlib.import_module(".edit", __name__), name)
    if name == "read_photo":
        return importlib.import_module(".images", __name__).read_photo
    raise AttributeError(f"module 'aboutface' has no attribute {name!r}")
