"""The rest of the head: from a reconstructed face to everything that turns with it.

Any reconstructor gives a pose and 3D landmarks. The mean head is bent onto them (`bending`), unless the method knows
the whole head itself (`Scene.whole`). Either is textured from the photo (`texture`: what the photo hides comes from the
mirror side, what both hide is filled in, see `hidden` and `hair`), and set into a sheet that covers the photo around it
(`sheet`): hair, neck and shoulders follow the turn less and less, and the background not at all.
"""

from .bending import onto_surface
from .complete import Head, complete_head
from .sheet import Grid, window_intrinsics
from .template import HeadTemplate, MeanTemplate, WholeTemplate

__all__ = [
    "Grid",
    "Head",
    "HeadTemplate",
    "MeanTemplate",
    "WholeTemplate",
    "complete_head",
    "onto_surface",
    "window_intrinsics",
]
