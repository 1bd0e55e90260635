"""Train AIGN on 3D faces: half of them give their 2D keypoints, the other half show what 3D faces look like."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..fit import FitSettings, Phase, Task, TensorBatches, fit
from ..geometry import MIRROR_68
from ..nn import Critic, gradient_penalty, wasserstein_critic_loss, wasserstein_generator_loss
from ..nn.critic import Norm
from ..reconstruct.aign import AIGN, AIGNSettings, Unit


@dataclass(frozen=True)
class AIGNTraining:
    """Settings of the recipe."""

    batch: int = 32
    learning_rate: float = 2e-4
    critic_rate: float = 2e-4
    reprojection: float = 100.0
    penalty: float = 0.1
    both: bool = False
    norm: Norm = "batch"
    betas: tuple[float, float] = (0.5, 0.999)
    hidden: tuple[int, ...] = (512, 512, 256, 256)
    split: bool = True


class AIGNTask(Task):
    name = "aign"
    version = 1

    def __init__(self, training: AIGNTraining, settings, steps) -> None:
        super().__init__()
        self.training_settings = training
        self.net = AIGN(settings)
        self.critic = Critic(3 * self.net.settings.points, training.hidden, norm=training.norm)
        self.steps = steps

    def phases(self) -> dict[str, Phase]:
        t = self.training_settings
        g = torch.optim.Adam(self.net.parameters(), t.learning_rate, t.betas)
        c = torch.optim.Adam(self.critic.parameters(), t.critic_rate, t.betas)
        def sched(o): return torch.optim.lr_scheduler.LambdaLR(o, lambda s: max(0.0, min(1.0, 2 - 2*s/self.steps)))
        return {"generator": Phase(g, sched(g)), "critic": Phase(c, sched(c), averaged=False), "penalty": Phase(c, averaged=False)}

    def loss(self, phase: str, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        t = self.training_settings
        x, real = batch["keypoints"], batch["shapes"]
        if phase == "generator":
            g = self.net(x)
            rep = (g.reprojected - x).abs().mean()
            adv = wasserstein_generator_loss(self.critic(g.points))
            return adv + t.reprojection * rep, {"reprojection": rep, "adversarial": adv}
        if phase == "critic":
            with torch.no_grad():
                self.fake = self.net(x).points
            if t.norm == "batch":
                r, f = self.critic(real), self.critic(self.fake)
            else:
                r, f = self.critic(torch.cat([real, self.fake])).chunk(2)
            return wasserstein_critic_loss(r, f), {}
        pts = torch.cat([real, self.fake]) if t.both else real
        return t.penalty * gradient_penalty(self.critic, pts), {}


def train_aign(faces, training=None, settings=None, fit_settings=None, log=print) -> AIGN:
    training = training or AIGNTraining()
    fit_settings = fit_settings or FitSettings()
    gen = torch.Generator().manual_seed(fit_settings.seed)
    faces = faces[torch.randperm(len(faces), generator=gen)].float()
    faces = Unit.of(faces).points
    if faces.shape[1] == 68:
        faces = torch.stack([faces, faces[:, MIRROR_68] * torch.tensor([-1., 1, 1])], 1).flatten(0, 1)
    if training.split:
        n = len(faces)//4*2
        a, b = faces[:n], faces[n:2*n]
    else:
        a, b = faces, faces.roll(len(faces)//2, 0)
    torch.manual_seed(fit_settings.seed)
    task = AIGNTask(training, settings, fit_settings.steps)
    batches = TensorBatches({"keypoints": a[..., :2].contiguous(), "shapes": b}, training.batch, fit_settings.seed)
    return fit(task, batches, fit_settings, log=log).averaged.net.eval()
