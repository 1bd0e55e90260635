"""Settings of `aboutface data synth faces`, in a module of their own: the command line reads them without torch."""

import math
from dataclasses import dataclass

from ...errors import UsageError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SynthSettings:
    """Which faces are made."""

    n: int = 10000
    """Images in all."""
    size: int = 64
    """Side of the images in pixels."""
    seed: int = 0
    """Another seed makes other people."""
    images_per_identity: int = 1
    """Images of each person, with another expression, view, light and background each."""
    split: str = "train=0.8,val=0.1,test=0.1"
    """Shares of train, val and test; nobody is in two of them."""
    shard: int = 500
    """Images per shard: what is lost at most, per process, when the work is stopped."""

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("size", 16), ("seed", 0), ("images_per_identity", 1), ("shard", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at least {least}")
        if self.size > 1024:
            raise UsageError(f"--size {self.size}: expected at most 1024 pixels")
        self.shares()

    def shares(self) -> dict[str, float]:
        """Share of each split."""
        try:
            pairs = [part.split("=") for part in self.split.split(",")]
            shares = {name.strip(): float(value) for name, value in pairs}
        except ValueError:
            shares = {}
        sound = all(0 <= share <= 1 for share in shares.values()) and math.isclose(
            sum(shares.values()), 1, abs_tol=1e-6
        )
        if not shares or len(shares) != self.split.count("=") or not set(shares) <= set(SPLITS) or not sound:
            raise UsageError(f"--split {self.split}: expected shares that add up to 1, as train=0.8,val=0.1,test=0.1")
        return {name: shares[name] for name in SPLITS if shares.get(name)}

    def ranges(self) -> dict[str, range]:
        """Numbers of the images of each split. Raises UsageError where there are too few people for all splits."""
        shares = self.shares()
        people = -(-self.n // self.images_per_identity)
        if people < len(shares):
            raise UsageError(
                f"--n {self.n}: {people} people are too few for {len(shares)} splits; make more or one split"
            )
        ends = [round(people * sum(list(shares.values())[: i + 1])) for i in range(len(shares))]
        # Nobody goes without anyone.
        for i in range(len(ends)):
            ends[i] = max(ends[i], (ends[i - 1] if i else 0) + 1)
        ends[-1] = people
        for i in reversed(range(len(ends) - 1)):
            ends[i] = min(ends[i], ends[i + 1] - 1)
        images = [min(end * self.images_per_identity, self.n) for end in ends]
        return {name: range(first, end) for name, first, end in zip(shares, [0, *images], images, strict=False)}
