"""Hair that a photo shows around a skull, and where each place of the skull takes its own from."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..filters import sample, smoothstep

RAYS = 360
"""Directions in which the head's outline is looked for."""
FARTHEST = 70.0
"""Millimetres beyond the outline after which what goes on unchanged is background."""
THICKEST = 25
"""Most millimetres of hair that are laid over the skull."""
INSET = 6.0
"""Millimetres within the outline at which the search begins: a skull may be too large."""
BEYOND = 10
"""Millimetres from there at which hair begins that has the colour of skin."""
SKIN = 12.0
"""Distance in CIE Lab, lightness counting a quarter, up to which a colour is skin; fair hair is not far."""
STRAND = 18.0
"""Distance in CIE Lab up to which a colour belongs to the same hair."""
OTHER = 26.0
"""The same, lightness counting half, from which on it is not this person's hair."""
EARS = 9
"""Rays to either side of an ear that may show it."""
FAR = 15
"""Millimetres before FARTHEST that show the background."""
FEWEST = 12
"""Vertices of an ear that tell what is there."""
TURNED = 20.0
"""Degrees of yaw from which one side of a head is shown alone."""
LONG = (3.0, 20.0)
"""Millimetres beside a cheek between which hair that hides the ear is looked for."""


@dataclass(frozen=True, eq=False)
class HairOutline:
    """Where hair stands around a head in its photo, seen from a point within the skull."""

    centre: Tensor
    """(2,) photo pixels."""
    radius: Tensor
    """(RAYS,) photo pixels from there to where hair begins; the first ray points up, the next to its right."""
    thickness: Tensor
    """(RAYS,) photo pixels of hair from there outwards."""
    known: Tensor
    """(RAYS,) 0 to 1: whether hair was found, around the skull or a side that it covers."""
    colour: Tensor
    """(3,) RGB of the hair."""
    covered: tuple[float, float]
    """0 to 1: whether hair hides the ear and what is around it, on the left and on the right of the photo."""

    def lookup(self, pixels: Tensor, behind: Tensor) -> tuple[Tensor, Tensor]:
        """Photo pixels (N, 2) where places seen at `pixels` (N, 2) take their hair from, and how well it is known (N,).

        behind: (N,) 0 on the outline, 1 at the back of the head.
        """
        away = pixels - self.centre
        turn = torch.atan2(away[:, 0], -away[:, 1]) / (2 * math.pi) * RAYS
        low = turn.floor().long()
        radius, thickness, known = (
            torch.lerp(values[low % RAYS], values[(low + 1) % RAYS], turn - low)
            for values in (self.radius, self.thickness, self.known)
        )
        reach = radius + behind * thickness
        return self.centre + away * (reach / away.norm(dim=1).clamp_min(1e-6))[:, None], known


def hair_outline(
    window: Tensor,
    part: tuple[float, float, float, float],
    drawn: Tensor,
    covers: tuple[float, float, float, float],
    pixels_per_mm: float,
    skin: Tensor,
    hair: Tensor | None,
    ears: tuple[Tensor, Tensor],
    yaw: float,
) -> HairOutline:
    """Look for hair around a head.

    Args:
        window: (3, h, w), the `part` (left, top, right, bottom) of the photo.
        drawn: (3, rows, columns), of which pixel centres span `covers` in the photo: 1 where the head is; 1 where
            on it hair grows; its height on the average head, millimetres below the ears' upper end.
        skin: (3,) RGB of bare skin; hair: (3,) of hair where the photo shows it on the skull for certain.
        ears: (3, N) and (3, M) colours that the photo shows where the left and the right ear are.
        yaw: of the head, degrees.
    """
    centre = _middle(drawn[1], covers)
    angle = torch.arange(RAYS) / RAYS * 2 * math.pi
    direction = torch.stack([torch.sin(angle), -torch.cos(angle)], -1)
    rim, grows, height = _rim(drawn, covers, centre, direction, 4 * pixels_per_mm)
    radius = _even(rim, 3) - INSET * pixels_per_mm
    start, thickness, found, colours = _strands(window, part, centre, direction, radius, pixels_per_mm, skin)
    if hair is None:
        above = (found > 0) & (direction[:, 1] < -0.5)
        hair = colours[:, above].median(1).values if bool(above.any()) else skin
    found = found * alike(colours[:, None], hair)[0]
    # Beside the ears it is ears that stand around the skull.
    grows = -functional.max_pool1d(-torch.cat([grows[-EARS:], grows, grows[:EARS]])[None], 2 * EARS + 1, 1)[0]
    beside = (height > 15) & (height < 85)
    sides = [beside & (direction[:, 0] * sign > 0) for sign in (-1, 1)]
    long = _beside(window, part, centre, direction, rim, pixels_per_mm, hair)
    left, right = (float(smoothstep(long[side].mean(), 0.4, 0.6)) if bool(side.any()) else 0.0 for side in sides)
    left, right = (
        _covered(*side, skin, hair) for side in ((left, ears[0], yaw > TURNED), (right, ears[1], yaw < -TURNED))
    )
    # Of a turned head the far side's outline is that of the face: hair behind it tells nothing.
    left, right = (left, left) if yaw > TURNED else (right, right) if yaw < -TURNED else (left, right)
    covered = torch.where(direction[:, 0] < 0, left, right) * (height < 100)
    known = smoothstep(_even(torch.maximum(grows, covered) * found, 5), 0.3, 0.7)
    start, thickness = _even(start, 7) * pixels_per_mm, _even(thickness, 7) * pixels_per_mm
    return HairOutline(centre, radius + start, thickness, known, hair, (left, right))


def bareness(image: Tensor, skin: Tensor) -> Tensor:
    """(h, w) 1 where colours (3, h, w) are those of skin (3,), in light or shade, 0 where they are others."""
    return 1 - smoothstep(_apart(_lab(image), _lab(skin[:, None, None]), 0.25), SKIN - 3, SKIN + 3)


def alike(image: Tensor, hair: Tensor) -> Tensor:
    """(h, w) 1 where colours (3, h, w) may be those of hair (3,), in light or shade, 0 where they are others."""
    return 1 - smoothstep(_apart(_lab(image), _lab(hair[:, None, None]), 0.5), OTHER - 5, OTHER + 5)


def _middle(grows: Tensor, covers: tuple[float, float, float, float]) -> Tensor:
    """(2,) photo pixels: the middle of where hair grows, or of the whole picture (rows, columns) where none does."""
    left, top, right, bottom = covers
    size = torch.tensor([grows.shape[1], grows.shape[0]])
    places = (grows > 0.5).nonzero().float().flip(1) + 0.5
    middle = places.mean(0) if len(places) else size / 2
    return middle / size * torch.tensor([right - left, bottom - top]) + torch.tensor([left, top])


def _rim(
    drawn: Tensor, covers: tuple[float, float, float, float], centre: Tensor, direction: Tensor, inset: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(RAYS,) photo pixels to the head's outline, and the other pictures' values `inset` pixels within it."""
    left, _, right, _ = covers
    cell = (right - left) / drawn.shape[2]
    steps = torch.arange(max(drawn.shape[1:])) * cell
    along = sample(drawn, (centre + steps[:, None, None] * direction).flatten(0, 1), covers).view(3, len(steps), RAYS)
    last = ((along[0] > 0.5).long() * torch.arange(len(steps))[:, None]).amax(0)
    within = (last - math.ceil(inset / cell)).clamp_min(0)
    grows, height = (values.gather(0, within[None])[0] for values in along[1:])
    return steps[last], grows, height


def _strands(
    window: Tensor,
    part: tuple[float, float, float, float],
    centre: Tensor,
    direction: Tensor,
    radius: Tensor,
    pixels_per_mm: float,
    skin: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(RAYS,) millimetres beyond `radius` at which hair begins, over which it goes on, 1 where there is any; its RGB.

    Hair is what comes after the skin, unless it is the background, which goes on and on.
    """
    steps = torch.arange(0, FARTHEST)
    places = centre + (radius + steps[:, None] * pixels_per_mm)[..., None] * direction
    rgb = sample(window, places.flatten(0, 1), part).view(3, len(steps), RAYS)
    lab = _lab(rgb)
    bare = (bareness(rgb, skin) > 0.5).long().cumprod(0).sum(0)
    start = torch.where(bare < THICKEST, bare, BEYOND)
    # Where it begins it is mixed with what is before it.
    first = torch.where(start > 0, start + 2, 0)
    colour = lab.gather(0, first[None, :, None].expand(1, -1, 3))
    in_photo = ((places >= torch.tensor(part[:2])) & (places <= torch.tensor(part[2:]))).all(-1)
    over = (((lab - colour).norm(dim=-1) > STRAND) | ~in_photo) & (steps[:, None] > first)
    end = torch.where(over.any(0), over.long().argmax(0), len(steps))
    found = (end < len(steps)) & in_photo.gather(0, first[None])[0]
    # A wall with something on it ends, too, but comes back.
    found &= (colour[0] - lab[-FAR:].median(0).values).norm(dim=-1) > STRAND
    colours = rgb.gather(1, first[None, None].expand(3, 1, -1))[:, 0]
    return start.float(), (end - 1 - start).clamp(0, THICKEST).float(), found.float(), colours


def _beside(
    window: Tensor,
    part: tuple[float, float, float, float],
    centre: Tensor,
    direction: Tensor,
    rim: Tensor,
    pixels_per_mm: float,
    hair: Tensor,
) -> Tensor:
    """(RAYS,) 1 where what stands right beside the outline has the hair's colour (3,), and what is far away has not."""

    def share(low: float, high: float) -> Tensor:
        steps = torch.arange(low, high)[:, None] * pixels_per_mm
        places = centre + (rim + steps)[..., None] * direction
        rgb = sample(window, places.flatten(0, 1), part).view(3, len(steps), RAYS)
        inside = ((places >= torch.tensor(part[:2])) & (places <= torch.tensor(part[2:]))).all(-1)
        return (alike(rgb, hair) * inside).mean(0)

    return ((share(*LONG) > 0.55) & (share(FARTHEST - FAR, FARTHEST) < 0.5)).float()


def _covered(beside: float, ear: Tensor, squarely: bool, skin: Tensor, hair: Tensor) -> float:
    """0 to 1: whether hair hides an ear, by what is `beside` it and the colours (3, N) in its place."""
    if ear.shape[1] < FEWEST:
        return beside
    bare = bareness(ear[:, None], skin).mean()
    grown = alike(ear[:, None], hair).mean() if squarely else torch.zeros(())
    hidden = max(beside, float(smoothstep(grown, 0.6, 0.8)))
    return hidden * (1 - float(smoothstep(bare, 0.25, 0.5)))


def _even(values: Tensor, reach: int) -> Tensor:
    """(RAYS,) the median of each with its neighbours up to `reach` away, then the mean of those."""
    index = (torch.arange(RAYS)[:, None] + torch.arange(-reach, reach + 1)) % RAYS
    return values[index].median(1).values[index].mean(1)


def _apart(one: Tensor, other: Tensor, lightness: float) -> Tensor:
    """(...,) distance of colours (..., 3) in CIE Lab, of which lightness, which shade changes, counts less."""
    return ((one - other) * torch.tensor([lightness, 1.0, 1.0])).norm(dim=-1)


def _lab(image: Tensor) -> Tensor:
    """(h, w, 3) CIE Lab of (3, h, w) RGB."""
    return torch.from_numpy(cv2.cvtColor(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2LAB))
