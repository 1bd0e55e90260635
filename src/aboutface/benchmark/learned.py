"""The networks of the experiments, trained when first asked for: models 3 to 8, and those of Tables 2 and 3.

Models 3 and 5 share a network, 4 and 6 another: they differ in the affine at test time only. Networks of case A begin
as those of case B, blind to the pictures (`with_images`), and train on: 18 million weights from nothing would take
hours on a CPU.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..fit import FitSettings
from ..recipes.aign import AIGNTraining, train_aign
from ..recipes.depthnet import DepthNetTraining, TrainingFaces, new_net, train_depthnet, with_images
from ..reconstruct.aign import AIGN
from ..reconstruct.depthnet import DepthNet, DepthNetSettings, Formulation, carried
from .methods import BASELINES1, BASELINES3, Method, Store, from_depth, kept, menu
from .protocol import Faces, Prediction, Predictor, Split, same_identity

SEPARATE = DepthNetTraining(
    "separate", hidden=(512,), gauge=0.0, turn=(0.0, 0.0, 0.0), fit=FitSettings(steps=12000, log_every=4000)
)
"""Table 1: the paper's loss and nothing else. 512 hidden units instead of its 256: they cost little."""
CLOSED_FORM = replace(SEPARATE, formulation="pseudo-inverse", stretch=0.2)
"""The closed form lets faces be stretched at random, so that the network meets ever new ones."""
PICTURES = {"batch": 64, "learning_rate": 2e-4, "stretch": 0.0, "fit": FitSettings(steps=200, log_every=50)}
"""What follows with pictures."""
UNLABELLED = DepthNetTraining()
"""Tables 2 and 3: the recipe as it is shipped."""
LABELLED = DepthNetTraining(hidden=(512,), gauge=1.0)
"""With the training faces' own depth in place of the gauge."""
ADVERSARIAL = DepthNetTraining(
    hidden=(512,), gauge=0.0, adversarial=0.01, critic_penalty=1.0, fit=FitSettings(steps=4000, log_every=1000)
)
"""The paper's DepthNet+GAN: labels reach the network through the critic alone."""
QUICK = 20
"""Steps of a smoke run."""


def depthnet_predictor(net: DepthNet, formulation: Formulation, chunk: int = 2048) -> Predictor:
    """The network as the benchmark asks it."""

    def predict(faces: Faces, source: Tensor, target: Tensor) -> Prediction:
        features = None
        if net.settings.images:
            if faces.images is None:
                raise ValueError("this network sees pictures, and these faces have none")
            used, place = torch.cat([source, target]).unique(return_inverse=True)
            features = net.encode(faces.images[used].float())
            first, second = place.split(len(source))
        points, depths = [], []
        for part in torch.arange(len(source)).split(chunk):
            x, y = faces.points[source[part]], faces.points[target[part]]
            seen = () if features is None else (features[first[part]], features[second[part]])
            out = net(x.float(), y.float(), *seen)
            out = out._replace(depth=out.depth.double(), affine=None if out.affine is None else out.affine.double())
            points.append(carried(x.double(), y.double(), out, formulation))
            depths.append(out.depth)
        return Prediction(torch.cat(points), torch.cat(depths))

    return predict


def depthnet(weights: str, training: DepthNetTraining, labels: bool = False) -> Callable[[Split, Store], DepthNet]:
    """A network of case B for a split, trained or taken from the store."""

    def settings(split: Split, store: Store) -> DepthNetTraining:
        steps = QUICK if store.quick else training.fit.steps
        return replace(training, fit=replace(training.fit, steps=steps, seed=split.seed))

    def train(net: DepthNet, split: Split, store: Store) -> None:
        chosen = settings(split, store)
        trained = train_depthnet(training_faces(split, labels), chosen, log=store.log, start=net)
        net.load_state_dict(trained.state_dict())

    return kept(weights, lambda: new_net(training), train, repr(training))


def with_pictures(
    weights: str, start: Callable[[Split, Store], DepthNet], training: DepthNetTraining
) -> Callable[[Split, Store], DepthNet]:
    """The network of case A that grows out of one of case B."""
    settings = DepthNetSettings(hidden=training.hidden, affine=training.formulation == "separate", images=True)

    def train(net: DepthNet, split: Split, store: Store) -> None:
        net.load_state_dict(with_images(start(split, store), settings).state_dict())
        steps = 2 if store.quick else training.fit.steps
        chosen = replace(training, fit=replace(training.fit, steps=steps, seed=split.seed))
        train_depthnet(training_faces(split, images=True), chosen, log=store.log, start=net)

    return kept(weights, lambda: DepthNet(settings), train, repr(training))


def aign(split: Split, store: Store) -> AIGN:
    """AIGN for a split: 2D keypoints of half the training faces, 3D shapes of the other half."""
    training = AIGNTraining()

    def train(net: AIGN, split: Split, store: Store) -> None:
        assert split.train.depth is not None, "AIGN learns from 3D shapes"
        solid = torch.cat([split.train.points, split.train.depth[..., None]], -1)
        steps = QUICK if store.quick else training.fit.steps
        chosen = replace(training, fit=replace(training.fit, steps=steps, seed=split.seed))
        net.load_state_dict(train_aign(solid, chosen, log=store.log).state_dict())

    return kept("aign", lambda: AIGN(training.network), train, repr(training))(split, store)


def _aign_predictor(split: Split, store: Store) -> Predictor:
    net = aign(split, store)
    return from_depth(lambda faces: net.estimate(faces.points)[..., 2])


def training_faces(split: Split, labels: bool = False, images: bool = False) -> TrainingFaces:
    """A split's training faces for the recipe; pairs of one person where the faces have names."""
    faces = split.train
    pairs = None if faces.identity is None else torch.stack(tuple(same_identity(faces.identity)), 1)
    return TrainingFaces(
        faces.points.float(),
        faces.depth if labels else None,
        faces.images.float() if images and faces.images is not None else None,
        pairs,
    )


def _method(
    name: str, title: str, net: Callable[[Split, Store], DepthNet], formulation: Formulation, **more: object
) -> Method:
    def fit(split: Split, store: Store) -> Predictor:
        return depthnet_predictor(net(split, store), formulation)

    return Method(name, title, fit, learned=True, **more)  # pyright: ignore[reportArgumentType]


_V1, _V3 = depthnet("v1-keypoints", SEPARATE), depthnet("v3-keypoints", CLOSED_FORM)
_V1_CNN = with_pictures("v1-pictures", _V1, replace(SEPARATE, **PICTURES))
_V3_CNN = with_pictures("v3-pictures", _V3, replace(CLOSED_FORM, **PICTURES))

TABLE1 = BASELINES1 | menu(
    _method("v1", "DepthNet, affine predicted", _V1, "separate", row=3, colour="brown"),
    _method("v1-cnn", "3 with Siamese CNN", _V1_CNN, "separate", row=4, colour="violet"),
    _method("v2", "secondary least squares on 3", _V1, "secondary", row=5, colour="red"),
    _method("v2-cnn", "secondary least squares on 4", _V1_CNN, "secondary", row=6, colour="green"),
    _method("v3", "DepthNet, pseudo-inverse", _V3, "pseudo-inverse", row=7, colour="orange"),
    _method("v3-cnn", "7 with Siamese CNN", _V3_CNN, "pseudo-inverse", row=8, colour="blue"),
)
"""Rows of Table 1."""

TABLE3 = BASELINES3 | menu(
    _method("depthnet", "DepthNet", depthnet("depthnet", UNLABELLED), "pseudo-inverse", colour="orange"),
    _method(
        "depthnet-gan",
        "DepthNet+GAN",
        depthnet("depthnet-gan", ADVERSARIAL, labels=True),
        "pseudo-inverse",
        needs_depth=True,
        colour="seagreen",
    ),
    _method(
        "depthnet-depth",
        "DepthNet, depth labels",
        depthnet("depthnet-depth", LABELLED, labels=True),
        "pseudo-inverse",
        needs_depth=True,
        colour="royalblue",
    ),
    Method("aign", "AIGN", _aign_predictor, needs_depth=True, learned=True, colour="firebrick"),
)
"""Rows of Tables 2 and 3."""
