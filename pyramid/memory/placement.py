"""How a model lies on the machine, as one value that is replaced as a whole.

    pipe.placement.transformer.device                     # as it was placed last
    wider = replace(pipe.placement, split_guidance=False)
    place(pipe, wider)                                    # pyramid.memory.loading: makes it so

A plan is a placement with an estimate (`pyramid.memory.plan`), a second device makes another one
(`pyramid.memory.parallel.place`), and each rung of `pyramid.memory.ladder` makes the next. Nothing else of a
pipeline says where or how it runs.
"""

from dataclasses import dataclass, replace
from typing import Self

from pyramid.memory.device import MAIN, Device, device_of

BITSANDBYTES = ("int8", "nf4")


@dataclass(frozen=True)
class Part:
    """Where a component lives and how.

    offload: "" stays, "model" comes as a whole, "block" or "leaf" comes layer by layer; text encoders alone:
    "free" goes after use unless it is small, "go" goes in any case. quantized: "", "int8" or "nf4"
    (bitsandbytes), "fp8" (layerwise casting: stored in 8 bit, computed in `dtype`).
    """

    device: str = MAIN
    dtype: str = "float32"
    offload: str = ""
    quantized: str = ""

    @property
    def place(self) -> Device:
        """What it runs on."""
        return device_of(self.device)

    @property
    def fixed(self) -> bool:
        """Whether others hold the weights, which nobody else may then move or convert."""
        return self.offload in ("block", "leaf") or self.quantized in BITSANDBYTES


@dataclass(frozen=True)
class Placement:
    """Where a pipeline's models run, and in which order they work.

    tile: side of the pieces in which frames are decoded and pictures encoded, in pixels; None: whole.
    window: 1, units are decoded as they come; 0, after sampling, all units of one tile, then the next tile
    (with whole frames: one after another all the same). split_guidance: the prompt and the negative prompt
    one after the other, which halves the memory of a step. changes: what was given up since it was planned,
    for people.
    """

    text: Part = Part()
    transformer: Part = Part()
    vae: Part = Part()
    tile: int | None = None
    window: int = 1
    split_guidance: bool = False
    changes: tuple[str, ...] = ()

    @property
    def text_device(self) -> str | None:
        """Where prompts are read, by name; None: where the transformer runs, wherever that is."""
        return None if self.text.device == self.transformer.device else self.text.device

    @property
    def vae_device(self) -> str | None:
        """Where pictures become latents and back, by name; None: where the transformer runs."""
        return None if self.vae.device == self.transformer.device else self.vae.device

    def told(self, change: str) -> Self:
        """The same, which tells that this was given up."""
        return replace(self, changes=(*self.changes, change))


def elsewhere(text: Part, device: str) -> Part:
    """Text encoders that run on `device`. Layer by layer they come to the one that was planned only."""
    moved = text.offload == "leaf" and text.device != device
    return replace(text, device=device, offload="go" if moved else text.offload)


def dtype_name(dtype) -> str:
    """A torch.dtype as plans write it: "float32"."""
    return str(dtype).removeprefix("torch.")
