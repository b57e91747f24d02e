"""How unlike two pictures look, for training and measuring an autoencoder: LPIPS, or a stand-in for it.

    distance = make_perceptual(("vgg16.pth", "lpips.pth"), device)   # LPIPS with weights of one's own
    distance = make_perceptual((), device)                           # the stand-in, which needs none
    distance(made, wanted)                                           # (n, 3, h, w) in [-1, 1] -> (n,)

LPIPS (arXiv 1801.03924) compares the features of VGG-16 after five of its layers, of length 1 at every
place, weighted by what people answered. Its weights are not shipped here. They are read from one file or two:
those of torchvision's VGG-16 (`features.0.weight`, …) and LPIPS's own (`lin0.model.1.weight`, …), or both in
one (`net.slice1.0.weight`, …). torchvision itself is not needed.

The stand-in compares edges, corners and blobs (derivatives of the first and second order, of lightness and of
two pairs of opposite colors) at four sizes, divided by how strong all of them are around: so a faint texture
that is lost counts as much as a strong one, as with LPIPS, and a gain in contrast counts little. It knows
nothing of what people see, and its numbers are its own: compare them with one another only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pyramid.models.network import load_saved

LAYERS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # of VGG-16, by size
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # from [-1, 1] to what VGG was trained on
SIZES = 4  # that the stand-in looks at, each half of the one before
NOISE = 0.05  # strength of what the stand-in takes for nothing
OPPOSITES = (
    (0.30, 0.59, 0.11),
    (0.50, -0.50, 0.0),
    (-0.25, -0.25, 0.50),
)  # lightness, red-green, blue-yellow


def make_perceptual(paths: Sequence[str], device: torch.device | str = "cpu") -> nn.Module:
    """LPIPS with the weights of these files, or the stand-in without any; nothing in it is trained.

    Raises ValueError for a file that cannot be read, and for weights that are missing.
    """
    model: nn.Module = LPIPS(read_weights(paths)) if paths else StandIn()
    return model.requires_grad_(False).eval().to(device)


def read_weights(paths: Sequence[str]) -> dict[str, Tensor]:
    """All tensors of some files, `.safetensors` or torch's, of which only tensors are read."""
    weights: dict[str, Tensor] = {}
    for path in paths:
        if not Path(path).is_file():
            raise ValueError(f"[vae] perceptual: there is no file {path}")
        try:
            found = load_file(path) if path.endswith(".safetensors") else load_saved(Path(path))
        except (ValueError, OSError, SafetensorError) as error:
            raise ValueError(f"[vae] perceptual: {path} cannot be read: {error}") from None
        if not isinstance(found, dict):
            raise ValueError(f"[vae] perceptual: {path} holds no weights by name")
        weights |= {name: value for name, value in found.items() if isinstance(value, Tensor)}
    return weights


class LPIPS(nn.Module):
    """The distance of arXiv 1801.03924 on VGG-16, without dropout."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        self.sizes = nn.ModuleList()
        before, place = 3, 0
        found = {_plain(name): value for name, value in weights.items()}
        for widths in LAYERS:
            size = nn.ModuleList()
            for width in widths:
                size.append(nn.Conv2d(before, width, 3, padding=1))
                own = size[-1].state_dict().items()
                size[-1].load_state_dict({k: _taken(found, f"vgg.{place}.{k}", v.numel()) for k, v in own})
                before, place = width, place + 2
            self.sizes.append(size)
            place += 1
        self.answers = nn.ParameterList(
            _taken(found, f"lin.{index}", widths[-1]).flatten() for index, widths in enumerate(LAYERS)
        )

    def forward(self, made: Tensor, wanted: Tensor) -> Tensor:
        """`(n, 3, h, w)` in [-1, 1], twice -> the distance of each pair, `(n,)`."""
        x = torch.cat([made, wanted])
        shift, scale = x.new_tensor(SHIFT)[:, None, None], x.new_tensor(SCALE)[:, None, None]
        x = (x - shift) / scale
        total = x.new_zeros(len(made))
        for index, (size, weight) in enumerate(zip(self.sizes, self.answers, strict=True)):
            x = F.max_pool2d(x, 2) if index else x
            for conv in size:  # type: ignore[attr-defined]  # a list of layers
                x = F.relu(conv(x))
            unit = x / (x.norm(dim=1, keepdim=True) + 1e-10)
            one, two = unit.chunk(2)
            total = total + torch.einsum("nchw,c->nhw", (one - two).square(), weight).mean((1, 2))
        return total


def _plain(name: str) -> str:
    """A weight's name in one of the known layouts as `vgg.28.bias` or `lin.4`, others as they are."""
    if match := re.fullmatch(r"(?:features|net\.slice\d)\.(\d+)\.(weight|bias)", name):
        return f"vgg.{match[1]}.{match[2]}"
    if match := re.fullmatch(r"lin(\d)\.model\.\d\.weight", name):
        return f"lin.{match[1]}"
    return name


def _taken(weights: dict[str, Tensor], name: str, numbers: int) -> Tensor:
    """The weight of that name, of so many numbers. Raises ValueError."""
    if name not in weights or weights[name].numel() != numbers:
        what = (
            "VGG-16's (features.0.weight, …)"
            if name.startswith("vgg")
            else "LPIPS's (lin0.model.1.weight, …)"
        )
        lack = "are missing in the files, or those of another network"
        raise ValueError(f"[vae] perceptual: {what} weights {lack}, {name} the first")
    return weights[name]


class StandIn(nn.Module):
    """The distance that needs no weights (see above)."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.tensor([1.0, 4, 6, 4, 1]) / 16
        slope = torch.tensor([-1.0, -2, 0, 2, 1]) / 8
        bend = torch.tensor([1.0, 0, -2, 0, 1]) / 4
        pairs = ((flat, slope), (slope, flat), (flat, bend), (bend, flat), (slope, slope))
        self.filters: Tensor
        self.colors: Tensor
        self.register_buffer("filters", torch.stack([torch.outer(a, b) for a, b in pairs])[:, None])
        self.register_buffer("colors", torch.tensor(OPPOSITES))

    def forward(self, made: Tensor, wanted: Tensor) -> Tensor:
        """As LPIPS's."""
        apart = []
        for found in self.features(torch.cat([made, wanted])):
            power = F.avg_pool2d(found.square().sum(1, keepdim=True), 3, stride=1, padding=1)
            one, two = (found / (power + NOISE**2).sqrt()).chunk(2)
            apart.append((one - two).square().sum(1).mean((1, 2)))
        return torch.stack(apart).mean(0)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """What is found in `(n, 3, h, w)`, at each size: `(n, colors × filters, h, w)`."""
        x = torch.einsum("nchw,dc->ndhw", pictures, self.colors)
        made: list[Tensor] = []
        while len(made) < SIZES and min(x.shape[-2:]) >= 4:
            n, c, h, w = x.shape
            found = F.conv2d(F.pad(x.reshape(n * c, 1, h, w), (2, 2, 2, 2), mode="replicate"), self.filters)
            made.append(found.reshape(n, c * len(self.filters), h, w))
            x = F.avg_pool2d(x, 2)
        return made
