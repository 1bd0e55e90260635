"""What is compared: baselines without a network, and how trained networks join them."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..files import atomic_path
from ..geometry import affine_2d_from_3d_matrix
from ..metrics import centred
from ..reconstruct.landmark_baselines import Factorisation, Template, best_pair_depth, carry
from .protocol import Faces, Prediction, Predictor, Split

Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Store:
    """Where trained networks are kept."""

    folder: Path
    retrain: bool = False
    """Train even what is there already (once per run: methods may share a network)."""
    quick: bool = False
    """A smoke run: a few steps are enough."""
    log: Callable[[str], None] = print
    fresh: set[Path] = field(default_factory=set)
    """What this run has trained."""
    seconds: dict[str, float] = field(default_factory=dict)
    """CPU seconds that training each network took, when it was trained; of its slowest seed."""


@dataclass(frozen=True)
class Method:
    """One row of a table."""

    name: str
    title: str
    fit: Callable[[Split, Store], Predictor]
    """Trains on `split.train` (which has no depth unless `needs_depth`) and must not look at `split.test`."""
    needs_depth: bool = False
    """Whether it sees depth labels of training faces."""
    sees_truth: bool = False
    """Whether it sees the tested faces' own depth: a reference, not a competitor."""
    learned: bool = False
    row: int | None = None
    """Number in the paper's Table 1."""
    colour: str = "black"
    """In the histogram: the paper's, where it has one."""


def from_depth(depth: Callable[[Faces], Tensor]) -> Predictor:
    """The predictor that carries by the closed form with depths (N, K) of the source alone, made once per face."""

    def predict(faces: Faces, source: Tensor, target: Tensor) -> Prediction:
        used, place = source.unique(return_inverse=True)
        z = depth(faces[used])[place]
        return Prediction(carry(faces.points[source], z, faces.points[target]), z)

    return predict


def fit_affine(split: Split, store: Store) -> Predictor:
    """The paper's model 1: the best 2D affine."""

    def predict(faces: Faces, source: Tensor, target: Tensor) -> Prediction:
        points = faces.points[source]
        return Prediction(carry(points, torch.zeros_like(points[..., 0]), faces.points[target]), None)

    return predict


def fit_template(split: Split, store: Store) -> Predictor:
    """The paper's model 2, as written: template onto source (f), then the best 3D affine from f to the target.

    f is an invertible image of the template, so the second fit undoes the first: the points do not depend on the
    source at all. They are those of the template; the depth is that of f.
    """
    template = Template.fit(split.shapes)

    def predict(faces: Faces, source: Tensor, target: Tensor) -> Prediction:
        flat, z = template.shape[:, :2], template.shape[:, 2]
        points = carry(flat.expand(len(target), -1, -1), z.expand(len(target), -1), faces.points[target])
        return Prediction(points, template.posed(faces.points[source])[..., 2])

    return predict


def fit_template_depth(split: Split, store: Store) -> Predictor:
    """Model 2 as it would be useful: the source keeps its x and y and borrows the depth of the posed template."""
    template = Template.fit(split.shapes)
    return from_depth(lambda faces: template.posed(faces.points)[..., 2])


def fit_template_map(split: Split, store: Store) -> Predictor:
    """Model 2 read as a registration: the map of f to the target, found with the template alone, moves the source."""
    template = Template.fit(split.shapes)

    def predict(faces: Faces, source: Tensor, target: Tensor) -> Prediction:
        points = faces.points[source]
        posed = template.posed(points)
        matrix = affine_2d_from_3d_matrix(posed, faces.points[target])
        lifted = torch.cat([points, posed[..., 2:], torch.ones_like(posed[..., 2:])], -1)
        return Prediction(lifted @ matrix.mT, posed[..., 2])

    return predict


def fit_factorisation(split: Split, store: Store) -> Predictor:
    """Our baseline: depth by affine factorisation against the training faces' 2D keypoints."""
    factorisation = Factorisation(split.train.points)
    return from_depth(lambda faces: factorisation(faces.points))


def fit_truth(split: Split, store: Store) -> Predictor:
    """The measured depth of the source."""

    def depth(faces: Faces) -> Tensor:
        assert faces.depth is not None
        return faces.depth

    return from_depth(depth)


def fit_centred_truth(split: Split, store: Store) -> Predictor:
    """The measured depth less each face's mean: the DepthCorr that is left to whoever sees keypoints only."""

    def depth(faces: Faces) -> Tensor:
        assert faces.depth is not None
        return centred(faces.depth)

    return from_depth(depth)


def fit_floor(split: Split, store: Store) -> Predictor:
    """The depth that suits each pair best, found by looking at the answer: what no depth can go below."""

    def predict(faces: Faces, source: Tensor, target: Tensor) -> Prediction:
        z = best_pair_depth(faces.points[source], faces.points[target])
        return Prediction(carry(faces.points[source], z, faces.points[target]), None)

    return predict


def kept(
    weights: str, build: Callable[[], Net], train: Callable[[Net, Split, Store], None], settings: str = ""
) -> Callable[[Split, Store], Net]:
    """A network per split: built and trained under the split's seed, kept, and taken from there the next time.

    Args:
        weights: name of its file; methods that give the same name share one network (the paper's models 3 and 5).
        build: the untrained network. train: trains it in place.
        settings: whatever else the weights depend on; kept weights of other settings are not used.
    """

    def fit(split: Split, store: Store) -> Net:
        with torch.random.fork_rng():
            torch.manual_seed(split.seed)
            net = build()
            file = store.folder / f"{weights}-seed{split.seed}.safetensors"
            card = {"net": repr(net), "data": fingerprint(split), "settings": f"{settings} quick={store.quick}"}
            if (store.retrain and file not in store.fresh) or not restored(net, file, card):
                store.log(f"training {weights}, seed {split.seed}")
                # On a busy machine the processor's time says more than the clock.
                start = time.process_time()
                train(net, split, store)
                keep(net, file, card, time.process_time() - start)
                store.fresh.add(file)
            store.seconds[weights] = max(seconds_of(file), store.seconds.get(weights, 0.0))
        return net.eval()

    return fit


def fingerprint(split: Split) -> str:
    """Tells one training set from another."""
    train = split.train
    parts = [train.points, train.depth, train.images, train.identity]
    sums = [0.0 if part is None else float(part.double().std()) for part in parts]
    return f"seed {split.seed}, {len(train)} faces, " + " ".join(f"{value:.9g}" for value in sums)


def restored(net: nn.Module, file: Path, card: dict[str, str]) -> bool:
    """Whether the file held this network, trained on this very data; if so, the weights are in place."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return False
    try:
        with safe_open(str(file), "pt") as stored:
            if json.loads((stored.metadata() or {}).get("card", "{}")) != card:
                return False
            net.load_state_dict({name: stored.get_tensor(name) for name in stored.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"{file}: kept weights cannot be used ({error}); --retrain makes them anew") from None
    return True


def seconds_of(file: Path) -> float:
    """How long the training of kept weights took."""
    from safetensors import safe_open

    with safe_open(str(file), "pt") as stored:
        return float(stored.metadata()["seconds"])


def keep(net: nn.Module, file: Path, card: dict[str, str], seconds: float) -> None:
    from safetensors.torch import save

    tensors = {name: tensor.detach().contiguous() for name, tensor in net.state_dict().items()}
    with atomic_path(file) as part:
        part.write_bytes(save(tensors, metadata={"card": json.dumps(card), "seconds": f"{seconds:.1f}"}))


AFFINE = Method("affine-2d", "2D affine", fit_affine, row=1, colour="grey")
TEMPLATE = Method("template", "3D affine, average template", fit_template, needs_depth=True, row=2, colour="purple")
TEMPLATE_DEPTH = Method(
    "template-depth", "source x, y + template's depth", fit_template_depth, needs_depth=True, colour="deeppink"
)
TEMPLATE_MAP = Method(
    "template-map", "source moved by the template's map", fit_template_map, needs_depth=True, colour="orchid"
)
FACTORISATION = Method("factorisation", "factorisation, no network", fit_factorisation, colour="teal")
FLOOR = Method("floor", "best depth per pair (floor)", fit_floor, sees_truth=True, colour="black")
TRUTH = Method("gt-depth", "GT depth", fit_truth, needs_depth=True, sees_truth=True, colour="firebrick")

TRUTH_CENTRED = Method("gt-depth-centred", "GT depth, centred", fit_centred_truth, needs_depth=True, sees_truth=True)


def menu(*rows: Method) -> dict[str, Method]:
    """The rows by name."""
    return {row.name: row for row in rows}


BASELINES1 = menu(AFFINE, TEMPLATE, TEMPLATE_DEPTH, TEMPLATE_MAP, FACTORISATION, FLOOR)
"""Rows of Table 1 without a network."""
BASELINES3 = menu(TRUTH, TRUTH_CENTRED, AFFINE, TEMPLATE, TEMPLATE_DEPTH, FACTORISATION, FLOOR)
"""Rows of Tables 2 and 3 without a network."""
