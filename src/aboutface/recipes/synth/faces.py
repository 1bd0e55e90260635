"""One synthetic face after another: what is drawn at random, and its picture with all that is true of it.

Distributions: see card.py, which is what the data set says about itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...filters import smoothstep
from ...geometry import clip, clip_from_camera, intrinsics, project, rotation_from_angles, vertex_normals
from ...geometry.mesh import unit
from ...morphable import IctModel
from ...render import Fragments, interpolate, rasterize, shade, texture, visibility
from ...scene import Light
from .albedo import Look, Painter, wedges
from .background import draw_background

FIELD_OF_VIEW = 10.0
FACE_HEIGHT = 0.75
"""Height of the mean pose's face, chin to hairline, in heights of the image."""
FAR = 1.1
"""Depth of the background, a wall, as in the BFM set of Unsup3d."""
SAMPLES = 3
"""Samples along each side of a pixel; as it is odd, one lies on the pixel's centre."""

# Expressions that a calm face shows, in groups that move together, with the largest weight of each.
EXPRESSIONS = (
    (("mouthSmile_L", "mouthSmile_R"), 0.55),
    (("mouthFrown_L", "mouthFrown_R"), 0.4),
    (("mouthStretch_L", "mouthStretch_R"), 0.3),
    (("mouthPress_L", "mouthPress_R"), 0.4),
    (("mouthPucker",), 0.35),
    (("jawOpen",), 0.22),
    (("mouthLeft",), 0.2),
    (("mouthRight",), 0.2),
    (("browInnerUp_L", "browInnerUp_R"), 0.5),
    (("browDown_L", "browDown_R"), 0.5),
    (("browOuterUp_L", "browOuterUp_R"), 0.5),
    (("cheekSquint_L", "cheekSquint_R"), 0.5),
    (("eyeSquint_L", "eyeSquint_R"), 0.5),
    (("eyeWide_L", "eyeWide_R"), 0.4),
    (("eyeBlink_L", "eyeBlink_R"), 0.45),
    (("eyeLookDown_L", "eyeLookDown_R"), 0.4),
    (("eyeLookUp_L", "eyeLookUp_R"), 0.4),
    (("eyeLookIn_L", "eyeLookOut_R"), 0.5),
    (("eyeLookOut_L", "eyeLookIn_R"), 0.5),
    (("noseSneer_L", "noseSneer_R"), 0.3),
)


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture of a person: all that is random in it but the background."""

    expression: np.ndarray
    """(E,) weights."""
    yaw: float
    pitch: float
    roll: float
    """Degrees."""
    translation: tuple[float, float, float]
    """Camera distances."""
    zoom: float
    """Relative size of the face."""
    ambient: float
    diffuse: float
    direction: tuple[float, float, float]
    """Unit vector from the face towards the light, camera space."""

    @classmethod
    def draw(cls, random: np.random.Generator, names: Sequence[str]) -> "Shot":
        x, y = random.uniform(-0.9, 0.9), random.uniform(-0.3, 0.8)
        length = math.sqrt(x * x + y * y + 1)
        strength, ambient = random.uniform(0.9, 1.15), random.uniform(0.3, 0.65)
        shift = (0.004 * random.standard_normal(2)).clip(-0.01, 0.01)
        return cls(
            expression=_expression(random, names),
            yaw=_cut_normal(random, 20, 60),
            pitch=_cut_normal(random, 10, 30),
            roll=_cut_normal(random, 5, 20),
            translation=(float(shift[0]), float(shift[1]), 0.0),
            zoom=float(random.uniform(0.94, 1.06)),
            ambient=float(strength * ambient),
            diffuse=float(strength * (1 - ambient)),
            # Unsup3d's (dx, dy, 1) is where light goes, ours where it comes from.
            direction=(float(-x / length), float(-y / length), float(-1 / length)),
        )


def _cut_normal(random: np.random.Generator, deviation: float, most: float) -> float:
    """From a normal distribution about 0, drawn again until it lies within +-most."""
    while True:
        value = float(random.normal(0, deviation))
        if abs(value) <= most:
            return value


def _expression(random: np.random.Generator, names: Sequence[str]) -> np.ndarray:
    """(E,) weights: one to four groups at part of their strength, left and right not quite alike."""
    weights = dict.fromkeys(names, 0.0)
    for index in random.permutation(len(EXPRESSIONS))[: random.integers(1, 5)]:
        group, most = EXPRESSIONS[index]
        strength = random.uniform(0, most)
        for name in group:
            if name in weights:
                weights[name] = float(strength * random.uniform(0.8, 1.0))
    return np.array(list(weights.values()), np.float32)


class FaceMaker:
    """Makes pictures of one size of random faces. Keeps the model's tensors; not for several threads at once."""

    def __init__(self, model: IctModel, size: int, seed: int) -> None:
        """Args: size: side of the pictures in pixels. seed: of all that is random."""
        self.model, self.size, self.seed = model, size, seed
        self.K = intrinsics(FIELD_OF_VIEW, (size, size))
        fine = size * SAMPLES
        self.clip_from_camera = clip_from_camera(intrinsics(FIELD_OF_VIEW, (fine, fine)), (fine, fine))
        self.surface = wedges(model)
        self.triangles = self.surface.vertex[self.surface.faces]
        self.painter = Painter(model, atlas_rows(size))

    def examples(self, images: Sequence[tuple[int, int]]) -> list[dict[str, np.ndarray]]:
        """Pictures by (number of the image, number of the person); see `SyntheticExample` for what is in each.

        An example does not depend on the others.
        """
        people = [np.random.default_rng((self.seed, 1, person)) for _, person in images]
        shots = [np.random.default_rng((self.seed, 2, image)) for image, _ in images]
        identity = np.stack([random.standard_normal(len(self.model.identity)) for random in people])
        drawn = [Shot.draw(random, self.model.expression_names) for random in shots]
        neutral = torch.from_numpy(identity.astype(np.float32))
        expression = torch.from_numpy(np.stack([shot.expression for shot in drawn]))
        rest = self._landmarks_at_rest(neutral)
        vertices = self._with_shallow_mouths(self.model.vertices(neutral, expression))
        return [
            self._example(vertices[i], rest[i], drawn[i], self.painter.paint(Look.draw(people[i]), people[i]), shots[i])
            | {"identity": np.array(person)}
            for i, (_, person) in enumerate(images)
        ]

    def _with_shallow_mouths(self, vertices: Tensor) -> Tensor:
        """Vertices (B, V, 3) whose mouths are an eighth as deep, as if there were teeth: the model's reach to the
        throat, and between parted lips a few pixels would be as far away as the ears.
        """
        socket = slice(*self.model.parts["mouth_socket"])
        lips = vertices[:, self.model.landmarks68[60:68]]
        corners, centre = lips[:, [0, 4], 2].mean(1)[:, None], lips[..., :2].mean(1)[:, None]
        flat, z = vertices[:, socket, :2], vertices[:, socket, 2]
        behind = (z - corners).clamp_min(0)
        # What comes forward becomes narrower, too, or it would come out of the cheeks.
        narrow = 1 - 0.5 * smoothstep(behind, 0, 6)[..., None]
        vertices[:, socket, :2] = centre + (flat - centre) * narrow
        vertices[:, socket, 2] = z - 0.875 * behind
        return vertices

    def _landmarks_at_rest(self, identity: Tensor) -> Tensor:
        marks = self.model.landmarks68
        return self.model.mean[marks] + (identity @ self.model.identity[:, marks].flatten(1)).unflatten(1, (68, 3))

    def _example(
        self, vertices: Tensor, rest: Tensor, shot: Shot, atlas: Tensor, random: np.random.Generator
    ) -> dict[str, np.ndarray]:
        pivot, millimetres = frame(rest, shot.zoom)
        rotation = rotation_from_angles(shot.yaw, shot.pitch, shot.roll)
        shift = torch.tensor(shot.translation) + torch.tensor([0.0, 0.0, 1.0])
        vertices = ((vertices - pivot) / millimetres) @ rotation.T + shift
        normals = vertex_normals(vertices, self.model.faces)
        fine = self.size * SAMPLES
        corners = clip(vertices, self.clip_from_camera)[self.surface.vertex][None]
        fragments = rasterize(corners, self.surface.faces, (fine, fine))
        attributes = torch.cat([normals[self.surface.vertex], vertices[self.surface.vertex, 2:], self.surface.uv], -1)
        normal, depth, uv = interpolate(attributes[None], fragments, self.surface.faces).split([3, 1, 2], -1)
        # The background is a wall: it hides what of the shoulders lies behind it.
        normal, covered = unit(normal), (fragments.triangle_id >= 0) & (depth[..., 0] < FAR)
        albedo = texture(atlas[None], uv)
        light = Light(shot.ambient, shot.diffuse, shot.direction)
        rgb = shade(normal.movedim(-1, 1), albedo, light, dim=1)
        rgb = torch.where(covered[:, None], rgb, draw_background(random, fine))
        image = functional.avg_pool2d(rgb.clamp(0, 1), SAMPLES)[0]
        marks = self.model.landmarks68
        visible = self._visible(vertices, normals, fragments)
        mask = _centres(covered)[0]
        return {
            "image": (image.movedim(0, -1) * 255).round().to(torch.uint8).numpy(),
            "depth": torch.where(mask, _centres(depth[..., 0])[0], torch.tensor(FAR)).numpy(),
            "normal": (_centres(normal.movedim(-1, 1))[0] * mask).numpy(),
            "albedo": ((_centres(albedo)[0] * mask).movedim(0, -1) * 255).round().to(torch.uint8).numpy(),
            "mask": mask.numpy(),
            "view": np.array([shot.yaw, shot.pitch, shot.roll, *shot.translation], np.float32),
            "light": np.array([shot.ambient, shot.diffuse, *shot.direction], np.float32),
            "landmarks": project(vertices[marks], self.K).numpy(),
            "landmarks3d": vertices[marks].numpy(),
            "visible": visible.numpy(),
            "millimetres_per_unit": np.array(millimetres, np.float32),
        }

    def _visible(self, vertices: Tensor, normals: Tensor, fragments: Fragments) -> Tensor:
        """(68,) whether nothing hides a landmark and it lies in the picture."""
        marks = self.model.landmarks68
        size = self.size * SAMPLES
        seen = visibility(
            vertices[marks][None],
            normals[marks][None],
            vertices[None],
            self.triangles,
            self.clip_from_camera,
            (size, size),
            fragments=fragments,
        )
        return seen[0] > 0


def frame(rest: Tensor, zoom: float) -> tuple[Tensor, float]:
    """The model's point (3,) that lies at z = 1, and millimetres per camera distance, of landmarks at rest (68, 3).

    The point is in the face's middle: across between the jaw's ends, in height between chin and hairline (which is put
    0.47 of the way from chin to nasion above that), in depth between nasion and the jaw's ends.
    """
    ends, chin, nasion = rest[[0, 16]].mean(0), rest[8], rest[27]
    height = 1.47 * float(chin[1] - nasion[1])
    pivot = torch.stack([ends[0], chin[1] - height / 2, (nasion[2] + ends[2]) / 2])
    image = 2 * math.tan(math.radians(FIELD_OF_VIEW) / 2)
    return pivot, height / (FACE_HEIGHT * zoom * image)


def atlas_rows(size: int) -> int:
    """Height of the atlas for pictures of this size: two or three texels to a pixel."""
    return max(160, min(1024, int(2.5 * size)))


def _centres(samples: Tensor) -> Tensor:
    """The samples (..., H, W) at the pixels' centres."""
    middle = SAMPLES // 2
    return samples[..., middle::SAMPLES, middle::SAMPLES]
