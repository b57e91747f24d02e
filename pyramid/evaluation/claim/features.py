"""Our own classifier of latents, whose features a Fréchet distance is measured on.

    net = train_classifier(latents, labels, answers, seed=0)
    distance = frechet(net.features(made), net.features(real))               # of pyramid.evaluation.frechet

The features that FID and FVD are measured on come from networks of the world outside; those of a small
classifier of the toy world's shapes, colors, backgrounds and motions see what matters there.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 16


class Classifier(nn.Module):
    """Latents `(b, c, t, h, w)` of whole clips to one row of logits for each of several questions."""

    def __init__(self, channels: int, units: int, answers: Sequence[int], width: int = 48):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels * units, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, stride=2),
            nn.GELU(),
            nn.Flatten(),
            nn.LazyLinear(FEATURES),
            nn.Tanh(),  # bounded, so that one odd clip does not decide a covariance
        )
        self.heads = nn.ModuleList(nn.Linear(FEATURES, count) for count in answers)

    def features(self, latents: Tensor) -> Tensor:
        """`(b, FEATURES)`."""
        return self.body(latents.flatten(1, 2))

    def forward(self, latents: Tensor) -> list[Tensor]:
        features = self.features(latents)
        return [head(features) for head in self.heads]


def train_classifier(
    latents: Tensor, labels: Tensor, answers: Sequence[int], *, seed: int, steps: int = 400, batch: int = 64
) -> Classifier:
    """A classifier of `latents (n, c, t, h, w)` by `labels (n, questions)`, each smaller than its `answers`.

    A label of -1 is not asked. Noise on the latents keeps it from learning single clips.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Classifier(latents.shape[1], latents.shape[2], answers)
        net(latents[:1])  # which sizes the lazy layer
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
        for _ in range(steps):
            rows = torch.randint(len(latents), (batch,))
            seen = latents[rows] + 0.2 * torch.randn_like(latents[rows])
            pairs = zip(net(seen), labels[rows].T, strict=True)
            loss = torch.stack([F.cross_entropy(made, asked, ignore_index=-1) for made, asked in pairs]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


@torch.no_grad()
def answers_right(net: Classifier, latents: Tensor, labels: Tensor) -> Tensor:
    """Bool `(n, questions)`: what the classifier says is what the labels say."""
    return torch.stack([logits.argmax(1) for logits in net(latents)], dim=1) == labels
