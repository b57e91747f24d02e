"""The adversary of the VAE's training: a small network that scores patches of clips as real or reconstructed.

    adversary = Adversary(Critic(32).to(device), learning_rate=2e-4)
    loss = loss + weight * adversary.judge(made, video, last_layer=…, pixels=…)   # for the VAE
    adversary.learn(made.detach(), video)                                          # for the critic itself

Hinge losses with a weight that balances the gradients at the decoder's last layer, and agreement with the
original in the critic's own features: what a perceptual network's features are to a VAE trained with one,
without its weights (losses: arXiv 2410.05954, appendix B; the balance: VQGAN, arXiv 2012.09841, equation 7;
the features: pix2pixHD, arXiv 1711.11585, equation 4).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class Critic(nn.Module):
    """Scores `(b, 1, t, h/8, w/8)` of patches of clips `(b, 3, t, h, w)`; pictures are clips of one frame.

    Spectral norms keep its slope bounded. In time it looks one frame to each side, beyond the ends at copies.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        self.blocks = nn.ModuleList(
            spectral_norm(nn.Conv3d(into, out, (3, 4, 4), stride=(1, 2, 2)))
            for into, out in zip(widths, widths[1:], strict=False)
        )
        self.score = spectral_norm(nn.Conv3d(widths[-1], 1, (1, 3, 3), padding=(0, 1, 1)))

    def forward(self, video: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The scores, high for real, and the features of each block."""
        x = video
        features = []
        for block in self.blocks:
            x = F.leaky_relu(block(F.pad(x, (1, 1, 1, 1, 1, 1), mode="replicate")), 0.2)
            features.append(x)
        return self.score(x), features


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """The critic's loss: real scores are to be above 1, those of reconstructions below -1."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())


def balance(
    pixels: Tensor, adversarial: Tensor, last_layer: Tensor, *, most: float = 100.0, floor: float = 1e-6
) -> Tensor:
    """The factor that gives the adversarial loss as long a gradient at `last_layer` as the pixels' loss
    has.
    """
    one, two = (torch.autograd.grad(loss, last_layer, retain_graph=True)[0] for loss in (pixels, adversarial))
    return (one.norm() / (two.norm() + floor)).clamp(max=most).detach()


class PatchCritic(nn.Module):
    """The published critic: scores patches of 142 pixels of each frame by itself (pix2pix, arXiv 1611.07004,
    with one layer more and instance norms).
    """

    def __init__(self, width: int = 64, layers: int = 4):
        super().__init__()
        widths = [min(2**index, 8) * width for index in range(layers + 1)]
        blocks: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for index, (into, out) in enumerate(zip(widths, widths[1:], strict=False), start=1):
            blocks.append(nn.Conv2d(into, out, 4, stride=2 if index < layers else 1, padding=1))
            blocks += [nn.InstanceNorm2d(out), nn.LeakyReLU(0.2)]
        self.blocks = nn.Sequential(*blocks, nn.Conv2d(widths[-1], 1, 4, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, video: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The scores of the patches of each frame, high for real; no features."""
        return self.blocks(video.transpose(1, 2).flatten(0, 1)), []


class Adversary:
    """A critic, its optimizer and what it costs the VAE. Give it to `Loop(keep=…)` to be saved with a run.

    most, floor: the largest factor between the gradients of the pixels' and of the adversarial loss, and what
    keeps it finite.
    """

    def __init__(
        self,
        critic: nn.Module,
        *,
        learning_rate: float,
        betas: tuple[float, float] = (0.5, 0.9),
        weight_decay: float = 0.01,
        most: float = 100.0,
        floor: float = 1e-6,
    ):
        self.critic = critic
        self.most = most
        self.floor = floor
        self.optimizer = torch.optim.AdamW(
            critic.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay
        )

    def judge(self, made: Tensor, video: Tensor, *, pixels: Tensor, last_layer: Tensor) -> dict[str, Tensor]:
        """What the VAE is to lower for a reconstruction: `adversarial`, balanced against `pixels`,
        and `features`.
        """
        self.critic.requires_grad_(False)
        score, features = self.critic(made)
        with torch.no_grad():
            _, wanted = self.critic(video)
        adversarial = -score.mean()
        distances = [F.l1_loss(f, w) for f, w in zip(features, wanted, strict=True)]
        distance = sum(distances, made.new_zeros(())) / max(len(distances), 1)
        factor = balance(pixels, adversarial, last_layer, most=self.most, floor=self.floor)
        return {"adversarial": factor * adversarial, "features": distance}

    def learn(self, made: Tensor, video: Tensor) -> Tensor:
        """One step of the critic on originals and reconstructions; returns its loss."""
        self.critic.requires_grad_(True)
        loss = hinge(self.critic(video)[0], self.critic(made.detach())[0])
        self.optimizer.zero_grad()
        loss.backward()
        self._exchange()
        self.optimizer.step()
        return loss.detach()

    def _exchange(self) -> None:
        """The mean of the gradients of all processes, so that their critics stay the same one."""
        if torch.distributed.is_initialized():
            for weight in self.critic.parameters():
                assert weight.grad is not None
                torch.distributed.all_reduce(weight.grad)
                weight.grad /= torch.distributed.get_world_size()

    def state_dict(self) -> dict:
        return {"critic": self.critic.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])
