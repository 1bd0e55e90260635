"""Settings of `aboutface data prepare`, in a module of their own: the command line reads them without the machinery."""

from dataclasses import dataclass
from typing import Literal

from ..errors import UsageError


@dataclass(frozen=True)
class PrepareSettings:
    """What becomes of the photos."""

    size: int = 224
    """Side of the crops in pixels."""
    margin: float = 0.4
    """How much wider than the landmarks' box the crop is on each side, in sides of that box."""
    min_face: float = 32
    """Drop faces smaller than this many pixels."""
    max_yaw: float = 180
    """Drop faces turned farther than this many degrees."""
    min_sharpness: float = 0
    """Drop faces less sharp than this; look at the histogram of `data stats` first."""
    faces: Literal["largest", "all"] = "largest"
    """Which faces of a photo are taken."""
    landmarks: Literal["keep", "detect"] = "keep"
    """keep: use the landmarks in KEY.json beside KEY.jpg, detect where there are none."""
    aligned: bool = False
    """The photos are crops already: take their largest centred square."""
    identity: Literal["folder", "lfw", "none"] = "none"
    """What names the person, where no side file does: the photo's folder, or its name First_Last_0001."""
    detector: Literal["network", "dlib", "mediapipe"] = "network"
    """What finds the faces."""
    drop_near_duplicates: bool = False
    """Leave near duplicates out instead of listing them only; exact ones are always left out."""
    near: int = 4
    """Bits of 64 in which the perceptual hashes of near duplicates may differ."""
    shard: int = 1000
    """Examples per shard."""
    limit: int = 0
    """Take only the first so many photos; 0 takes all."""

    def __post_init__(self) -> None:
        for name, least in (("size", 8), ("shard", 1), ("limit", 0)):
            value = getattr(self, name)
            if value < least:
                raise UsageError(f"--{name} {value}: expected at least {least}")
        for name in ("min_face", "max_yaw", "min_sharpness"):
            if not getattr(self, name) >= 0:  # NaN is not, either
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name):g}: expected at least 0")
        if not 0 <= self.margin <= 5:
            raise UsageError(f"--margin {self.margin:g}: expected 0 to 5 sides of the face's box")
        if not 0 <= self.near < 32:
            raise UsageError(f"--near {self.near}: expected 0 to 31 bits")
