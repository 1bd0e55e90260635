"""Who is in which part, and who is the same: identities to index tensors."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ..errors import UsageError

PARTS = {"train": 0.8, "test": 0.2}


def split_by_identity(
    identities: Sequence[str | None], fractions: Mapping[str, float] = PARTS, seed: int = 0
) -> dict[str, Tensor]:
    """Indices (n,) int64 of the examples in each part, ascending; no identity is in two parts.

    A hash of seed and identity decides, so a person stays in the part when examples are added, removed or reordered.
    Sizes are therefore only near `fractions` (which sum to 1): the share of identities has a standard deviation of
    sqrt(p (1 - p) / identities). Raises UsageError where an identity is unknown: it could be anybody's.
    """
    if abs(sum(fractions.values()) - 1) > 1e-6 or min(fractions.values()) < 0:
        raise ValueError(f"fractions: expected shares that sum to 1, got {dict(fractions)}")
    unknown = sum(identity is None for identity in identities)
    if unknown:
        raise UsageError(
            f"split: {unknown} of {len(identities)} examples have no identity; name a rule for it, or give their keys "
            "as identities if each shows another person"
        )
    parts: dict[str, list[int]] = {name: [] for name in fractions}
    for index, identity in enumerate(identities):
        parts[_part(str(identity), fractions, seed)].append(index)
    return {name: torch.tensor(indices, dtype=torch.int64) for name, indices in parts.items()}


def keep_aside(identities: Sequence[str | None], share: float = PARTS["test"], seed: int = 0) -> dict[str, Tensor]:
    """Indices of "train" and "test", which has a `share` of the people; who has no name is in "train".

    As in `split_by_identity`, nobody is in both and a person's part is always the same: what training and benchmarks
    call kept aside.
    """
    named = [index for index, name in enumerate(identities) if name is not None]
    nameless = [index for index, name in enumerate(identities) if name is None]
    parts = split_by_identity([identities[index] for index in named], {"train": 1 - share, "test": share}, seed)
    train, test = (torch.tensor(named, dtype=torch.int64)[parts[part]] for part in ("train", "test"))
    return {"train": torch.cat([train, torch.tensor(nameless, dtype=torch.int64)]), "test": test}


def _part(identity: str, fractions: Mapping[str, float], seed: int) -> str:
    digest = hashlib.sha256(f"{seed}/{identity}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    names = [name for name, fraction in fractions.items() if fraction > 0]
    ends = accumulate(fractions[name] for name in names)
    # Rounding may leave the last end a little below 1.
    return next((name for name, end in zip(names, ends, strict=True) if place < end), names[-1])


def same_identity_pairs(identities: Sequence[str | None], seed: int | None = None, ordered: bool = True) -> Tensor:
    """All pairs (P, 2) int64 of two different examples of one person; with `ordered` (i, j) and (j, i).

    A seed shuffles them. Examples without identity are in no pair.
    """
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, identity in enumerate(identities):
        if identity is not None:
            groups[identity].append(index)
    pairs = [torch.combinations(torch.tensor(group)) for group in groups.values() if len(group) > 1]
    joined = torch.cat(pairs) if pairs else torch.empty(0, 2, dtype=torch.int64)
    if ordered:
        joined = torch.cat([joined, joined.flip(1)])
    if seed is None:
        return joined
    return joined[torch.randperm(len(joined), generator=torch.Generator().manual_seed(seed))]
