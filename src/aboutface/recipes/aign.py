"""Train AIGN on 3D faces: half of them give their 2D keypoints, the other half show what 3D faces look like.

No face gives both, so the depth that the network learns to give a face was never shown for that face.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Adam

from ..data import load_landmarks
from ..errors import UsageError
from ..fit import FitSettings, Phase, Run, Task, TensorBatches, fit
from ..fit.schedules import cosine
from ..geometry import MIRROR_68
from ..nn import Critic, gradient_penalty, wasserstein_critic_loss, wasserstein_generator_loss
from ..nn.critic import Norm
from ..reconstruct.aign import AIGN, AIGNSettings, Unit
from . import Trained

LANDMARKS = "aflw2000-3d-landmarks.npz"

SMALL = AIGNSettings(size=32, filters=(32, 64, 128))
"""For a CPU. A Gaussian also tells where in its pixel its centre lies, so far fewer pixels than published will do."""


@dataclass(frozen=True)
class AIGNTraining:
    """A baseline: adversarial inverse graphics, from 3D faces and 2D keypoints of others, in two CPU minutes."""

    network: AIGNSettings = SMALL
    """Sizes of the network."""
    norm: Norm = "none"
    """Normalisation of the critic, whose slope the penalty bounds already."""
    batch: int = 32
    """Faces per step, and as many others that are shown to the critic."""
    learning_rate: float = 1e-3
    """Adam's step at the start; it falls to zero along a cosine."""
    critic_rate: float = 5e-4
    """The same of the critic."""
    reprojection: float = 10.0
    """Weight of the mean distance along x and y, in face radii, of the reprojection from the keypoints."""
    penalty: float = 1.0
    """Weight of the critic's mean squared slope at real faces."""
    fit: FitSettings = field(default_factory=lambda: FitSettings(steps=1200, ema=0.99, log_every=200))

    def train(self, data: Path, run: Run, log: Callable[[str], None]) -> Trained:
        """Train on an .npz of 3D landmarks, or a folder with aflw2000-3d-landmarks.npz in it.

        Raises UsageError where there are none.
        """
        points = load_landmarks(data / LANDMARKS if data.is_dir() else data).points
        if points.shape[-1] != 3:
            raise UsageError(f"{data}: expected 3D landmarks (N, 68, 3), got {tuple(points.shape)}")
        if len(points) < 4:
            raise UsageError(f"{data}: expected 4 or more faces, got {len(points)}")
        net = train_aign(points, self, run, log)
        return Trained(dict(net.state_dict()), {}, asdict(self))


class AIGNTask(Task):
    """Batches: `keypoints` (B, K, 2) and `shapes` (B, K, 3) of other faces, both as `Unit` has them."""

    name = "aign"

    def __init__(self, training: AIGNTraining) -> None:
        super().__init__()
        self.settings = training
        self.net = AIGN(training.network)
        self.critic = Critic(3 * training.network.points, norm=training.norm)

    def phases(self) -> dict[str, Phase]:
        # Momentum of 0.5: what the critic said many steps ago was about other shapes.
        net = Adam(self.net.parameters(), self.settings.learning_rate, (0.5, 0.999))
        critic = Adam(self.critic.parameters(), self.settings.critic_rate, (0.5, 0.999))
        return {
            "generator": Phase(net, cosine(net, self.settings.fit.steps)),
            "critic": Phase(critic, cosine(critic, self.settings.fit.steps), averaged=False),
            # A step of its own, as released, by the same optimiser: Adam would undo the weight of one by itself.
            "penalty": Phase(critic, averaged=False),
        }

    def loss(self, phase: str, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        keypoints, real = batch["keypoints"], batch["shapes"]
        if phase == "generator":
            return self._generator_loss(keypoints)
        if phase == "penalty":
            return self.settings.penalty * gradient_penalty(self.critic, real), {}
        with torch.no_grad():
            fake = self.net(keypoints).points
        return wasserstein_critic_loss(self.critic(real), self.critic(fake)), {}

    def _generator_loss(self, keypoints: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        seen = self.net(keypoints)
        adversarial = wasserstein_generator_loss(self.critic(seen.points))
        reprojection = (seen.reprojected - keypoints).abs().mean()
        loss = adversarial + self.settings.reprojection * reprojection
        return loss, {"adversarial": adversarial, "reprojection": reprojection}


def train_aign(
    faces: Tensor,
    training: AIGNTraining | None = None,
    run: Run | None = None,
    log: Callable[[str], None] = print,
) -> AIGN:
    """The network, with averaged weights, in evaluation mode and on the CPU, trained on faces (N, K, 3).

    faces: orthographic, x right, y down, z forward, in any unit; 4 or more, of 68 keypoints if they are to be mirrored.
    """
    training = training or AIGNTraining()
    points = training.network.points
    if faces.ndim != 3 or faces.shape[1:] != (points, 3) or len(faces) < 4:
        raise ValueError(f"faces: expected (4 or more, {points}, 3), got {tuple(faces.shape)}")
    with torch.random.fork_rng():
        torch.manual_seed(training.fit.seed)
        task = AIGNTask(training)
    batches = TensorBatches(unpaired(faces, training.fit.seed), training.batch, training.fit.seed)
    averaged = fit(task, batches, training.fit, run, log=log).averaged
    assert isinstance(averaged, AIGNTask)
    return averaged.net.cpu().eval()


def unpaired(faces: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """`keypoints` (M, K, 2) of one random half of the faces (N, K, 3), `shapes` (M, K, 3) of the other, as units.

    Faces of 68 keypoints come mirrored too, in their own half.
    """
    order = torch.randperm(len(faces), generator=torch.Generator().manual_seed(seed)).to(faces.device)
    half = len(faces) // 2
    seen, shown = Unit.of(faces[order[: 2 * half]]).points.float().split(half)
    if faces.shape[1] == len(MIRROR_68):
        seen, shown = torch.cat([seen, mirror(seen)]), torch.cat([shown, mirror(shown)])
    return {"keypoints": seen[..., :2], "shapes": shown}


def mirror(faces: Tensor) -> Tensor:
    """Faces (..., 68, 3) as in a mirror."""
    return faces[..., MIRROR_68, :] * torch.tensor([-1.0, 1.0, 1.0], dtype=faces.dtype, device=faces.device)
