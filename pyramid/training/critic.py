"""The adversary of the VAE's training: a small network that scores patches of clips as real or reconstructed.

    adversary = Adversary(width=32, learning_rate=2e-4, device=device)
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


def balance(pixels: Tensor, adversarial: Tensor, last_layer: Tensor, *, most: float = 100.0) -> Tensor:
    """The factor that gives the adversarial loss as long a gradient at `last_layer` as the pixels' loss
    has.
    """
    one, two = (torch.autograd.grad(loss, last_layer, retain_graph=True)[0] for loss in (pixels, adversarial))
    return (one.norm() / (two.norm() + 1e-6)).clamp(max=most).detach()


class Adversary:
    """A critic, its optimizer and what it costs the VAE. Give it to `Loop(keep=…)` to be saved with a run."""

    def __init__(self, *, width: int, learning_rate: float, device: torch.device):
        self.critic = Critic(width).to(device)
        self.optimizer = torch.optim.AdamW(self.critic.parameters(), lr=learning_rate, betas=(0.5, 0.9))

    def judge(self, made: Tensor, video: Tensor, *, pixels: Tensor, last_layer: Tensor) -> dict[str, Tensor]:
        """What the VAE is to lower for a reconstruction: `adversarial`, balanced against `pixels`,
        and `features`.
        """
        self.critic.requires_grad_(False)
        score, features = self.critic(made)
        with torch.no_grad():
            _, wanted = self.critic(video)
        adversarial = -score.mean()
        distance = sum(F.l1_loss(f, w) for f, w in zip(features, wanted, strict=True)) / len(features)
        return {"adversarial": balance(pixels, adversarial, last_layer) * adversarial, "features": distance}

    def learn(self, made: Tensor, video: Tensor) -> Tensor:
        """One step of the critic on originals and reconstructions; returns its loss."""
        self.critic.requires_grad_(True)
        loss = hinge(self.critic(video)[0], self.critic(made.detach())[0])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict:
        return {"critic": self.critic.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])
