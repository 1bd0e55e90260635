"""The light that is in a photo, found on the face."""

import torch
from torch import Tensor
from torch.nn import functional

from ..filters import blur, sample
from ..geometry import project
from ..head import Head, HeadTemplate
from ..render import sh_basis
from ..scene import Light, SphericalHarmonics
from .drawing import Part, mm_per_pixel
from .lights import direction_of, main_direction

FIT_POINTS = 700
"""How many vertices the light is found from."""
DARKEST = 0.04
"""The least light, old or new, in multiples of the albedo."""


def estimate_light(head: Head, log_brightness: Tensor, start: Light | SphericalHarmonics | None = None) -> Light:
    """The light that explains the brightness of a face, up to the albedo's own: ambient and diffuse add up to 1.

    Skin has about one albedo, and mirrored places have the same one: the first says how brightness may vary over the
    face at all, the second how it may differ from left to right, whatever beard or hair do. Both are held robustly
    (Geman and McClure 1987): some places are no skin.

    Args:
        log_brightness: (V,) log of linear luminance at the vertices of the closed head.
        start: where a method knows the light already: the search stays near it.
    """
    towards = None if start is None else main_direction(start)
    template = head.template
    weight = head.seen * head.face_part * _skin(template)
    both = torch.minimum(weight, template.mirrored(weight))
    normals = soft_normals(head)
    pick = torch.nonzero(weight > 0.3)[:, 0]
    if len(pick) < 50:
        return Light(0.5, 0.5, direction_of(0, 15) if towards is None else towards)
    # Shading is smooth: a few hundred places say as much as all.
    pick = pick[:: max(1, len(pick) // FIT_POINTS)]
    twins = template.mirrored(torch.arange(len(weight)))[pick]
    y, y_twin, w, w_both = log_brightness[pick], log_brightness[twins], weight[pick], both[pick]
    n, n_twin = normals[pick], normals[twins]

    def cost(candidates: Tensor) -> Tensor:
        """(K,) of (K, 3): azimuth, elevation in degrees, share of the lamp."""
        azimuth, elevation, share = candidates.T
        a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
        direction = torch.stack([a.sin() * e.cos(), -e.sin(), -a.cos() * e.cos()], -1)
        s, s_twin = (_log_shading(normal @ direction.mT, share) for normal in (n, n_twin))
        albedo = y[:, None] - s
        albedo = albedo - albedo.median(0).values
        even = (w[:, None] * _robust(albedo, 0.4)).sum(0) / w.sum()
        twin = y[:, None] - y_twin[:, None] - (s - s_twin)
        alike = (w_both[:, None] * _robust(twin, 0.4)).sum(0) / w.sum()
        usual = ((elevation - 20) / 40).square() + (azimuth / 70).square() + ((share - 0.55) / 0.25).square()
        if towards is not None:
            usual = usual + 4 * (1 - direction @ towards)
        return even + alike + 0.008 * usual

    axes = (torch.arange(-150.0, 151.0, 15.0), torch.arange(-60.0, 81.0, 20.0), torch.arange(0.05, 0.9, 0.16))
    candidates = torch.cartesian_prod(*axes)
    step = torch.tensor([7.5, 10.0, 0.075])
    best = candidates[0]
    for _ in range(6):
        best = candidates[int(cost(candidates).argmin())]
        around = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 3) * step + best
        candidates = torch.stack([around[:, 0], around[:, 1].clamp(-89, 89), around[:, 2].clamp(0, 0.9)], -1)
        step = step / 1.7
    azimuth, elevation, share = best.tolist()
    return Light(1 - share, share, direction_of(azimuth, elevation))


def _log_shading(cosine: Tensor, share: Tensor) -> Tensor:
    """Log of ambient plus the clamped cosine as spherical harmonics of degree 2 give it."""
    smooth = 0.25 + 0.5 * cosine + 5 / 32 * (3 * cosine.square() - 1)
    return (1 - share + share * smooth).clamp_min(DARKEST).log()


def _robust(x: Tensor, scale: float) -> Tensor:
    squared = (x / scale).square()
    return squared / (1 + squared)


def unevenness(head: Head, log_albedo: Tensor) -> Tensor:
    """(V,) log of light that one side of the face lacks and its mirror side has, smooth; 0 where either is not seen.

    What differs very much is taken for albedo: a strand of hair, a mole.
    """
    template = head.template
    weight = head.seen * head.face_part
    both = torch.minimum(weight, template.mirrored(weight))
    difference = (log_albedo - template.mirrored(log_albedo)) / 2
    weight = both / (1 + (difference / 0.35).square()).square()
    total, share, known = smoothed(head, torch.stack([difference * weight, weight, both], -1), 5.0).unbind(-1)
    # Little evidence, little correction.
    return (total / (share + 0.1)).clamp(-0.8, 0.8) * known


def log_brightness_of(linear: Tensor, head: Head, part: Part) -> Tensor:
    """(V,) log of the photo's luminance (ITU-R BT.709) at each vertex, from its linear window (3, h, w)."""
    luminance = (linear * torch.tensor([0.2126, 0.7152, 0.0722])[:, None, None]).sum(0, keepdim=True)
    sigma = 3.0 / mm_per_pixel(head, part, (linear.shape[1], linear.shape[2]))
    pixels = project(head.scene.mesh_at_rest().vertices, head.scene.camera.K)
    return sample(blur(luminance, sigma), pixels, part)[0].clamp_min(2e-3).log()


def soft_normals(head: Head) -> Tensor:
    """(V, 3) unit normals of the closed head without its finest relief, which is the mean head's and not this one's."""
    return functional.normalize(smoothed(head, head.scene.mesh_at_rest().normals, 2.5), dim=-1)


def smoothed(head: Head, values: Tensor, sigma: float) -> Tensor:
    """Values per vertex of the closed head (V, C) blurred over its atlas, about 1.5 mm of the face per unit."""
    return head.template.at_vertices(blur(head.template.pictured(values)[0], sigma))


def log_arriving(light: SphericalHarmonics, head: Head) -> Tensor:
    return (sh_basis(soft_normals(head)) @ light.coefficients)[:, 0].clamp_min(DARKEST).log()


@torch.no_grad()
def _skin(template: HeadTemplate) -> Tensor:
    """(V,) 1 on bare skin, 0 within a centimetre of brows, eyes, nostrils and lips."""
    features = template.landmarks[[*range(17, 27), *range(31, 68)]]
    return (torch.cdist(template.mean, features).amin(1) > 9).float()
