"""The commands `sample` and `project` and their options. Like `commands`, it imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from .talk import Talk


@dataclass(frozen=True)
class Sample:
    """Pictures of a StyleGAN2: `aboutface sample net.safetensors -o DIR`.

    DIR gets 000000.png and so on, a sheet of all, and latents.npz: their names and w, as gan2shape needs them. -o
    sheet.png writes the sheet alone, and sheet.npz.
    """

    net: Annotated[Positional[str], arg(metavar="NET")]
    """The generator: a .safetensors file, or the name of weights that `aboutface models list` shows (stylegan2...)."""
    output: Annotated[str, arg(metavar="DIR|PNG", aliases=["-o"])] = "outputs/samples"
    """A folder, or a .png."""
    n: int = 16
    """How many."""
    seed: int = 0
    """Of the random numbers: the same seed gives the same pictures."""
    truncation: float = 0.7
    """1: as varied as the generator can; less: closer to the mean picture, and fewer failures; 0: the mean."""
    noise: Literal["stored", "random", "none"] = "stored"
    """What fine detail is made of: the maps in the weights, new ones for each picture, or nothing."""
    grid: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """Pictures in a row of the sheet; as many as make it square if missing."""
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .gan import sample

        return sample(self)


@dataclass(frozen=True)
class Project:
    """Find photos among a StyleGAN2's pictures: `aboutface project net.safetensors me.jpg -o DIR`.

    Of each photo DIR gets NAME.png, the nearest picture; NAME_target.png, what was looked for: the photo's face or
    centred square, as the generator knows it; NAME.npz with w; NAME.json with the errors. Photos to which the
    generator has nothing similar are named.
    """

    net: Annotated[Positional[str], arg(metavar="NET")]
    """The generator: a .safetensors file, or the name of weights that `aboutface models list` shows (stylegan2...)."""
    photos: Annotated[Positional[tuple[str, ...]], arg(metavar="PHOTO")]
    """One or more photos; several are searched at once, which is faster."""
    output: Annotated[str, arg(metavar="DIR", aliases=["-o"])] = "outputs/projected"
    """Folder of the results."""
    steps: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """Steps of the search; 1000 if missing, 100 with --encoder."""
    space: Literal["w", "w+"] = "w"
    """w: one latent per photo; w+: one per layer, which comes nearer and is less of a sample."""
    noise: bool = False
    """Search for the noise maps, too."""
    encoder: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Weights of `aboutface train stylegan2-encoder`: where the search starts."""
    seed: int = 0
    """Of everything random."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    face: Annotated[str, arg(metavar="largest|INDEX")] = "largest"
    """Which face, where the generator makes faces."""
    detector: Literal["auto", "network", "dlib", "mediapipe"] = "auto"
    """What finds the face."""
    talk: Talk = field(default_factory=Talk)

    def run(self) -> int:
        from .gan import project

        return project(self)
