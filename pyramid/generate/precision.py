"""Steps that overflow in a narrow dtype are taken again in a wider one.

    model = Guarded(GuidedModel(transformer, prompt, negative), tell=notices.append)

float16 has a range of 65,504, and a transformer's activations may leave it in a few steps of a run; the rest
of the run is as good in it. A guarded model is used as the one in it is.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyramid.generate.guidance import GuidedModel, Velocity
from pyramid.memory.placement import dtype_name


@dataclass(frozen=True, eq=False)
class Guarded:
    """A model whose steps with a NaN or an infinity are taken again in float32; `tell` gets a sentence on it.

    Raises FloatingPointError where that cannot be done, or does not help.
    """

    model: GuidedModel
    tell: Callable[[str], None]

    @property
    def device(self) -> torch.device:
        return self.model.device

    def stage(self, unit: int, stage: int, history: Sequence[Tensor], x: Tensor) -> Velocity:
        velocity_of = self.model.stage(unit, stage, history, x)
        step = 0

        def guarded(x: Tensor, timestep: float) -> Tensor:
            nonlocal step
            step += 1
            velocity = velocity_of(x, timestep)
            if torch.isfinite(velocity).all():
                return velocity
            velocity, told = self._again(unit, stage, history, x, timestep)
            self.tell(f"Unit {unit + 1}, stage {stage + 1}, step {step}: {told}.")
            return velocity

        return guarded

    def _again(
        self, unit: int, stage: int, history: Sequence[Tensor], x: Tensor, timestep: float
    ) -> tuple[Tensor, str]:
        """The velocity in a wider dtype, and what was done."""
        model = self.model.of(unit)
        narrow = dtype_name(model.prompt.embeds.dtype)
        with in_float32(model.transformer) as dtype:
            if dtype is None:
                check_weights(model.transformer, "transformer")
                raise FloatingPointError(f"The model overflows in {narrow}: use bfloat16 or float32.")
            negative = model.negative and model.negative.to(dtype)
            wide = replace(model, prompt=model.prompt.to(dtype), negative=negative)
            velocity = wide.stage(unit, stage, history, x)(x, timestep)
            if not torch.isfinite(velocity).all():
                check_weights(model.transformer, "transformer")
        name = dtype_name(dtype)
        if not torch.isfinite(velocity).all():
            raise FloatingPointError(
                f"The model overflows in {narrow} and in {name} too: its weights are damaged."
            )
        return velocity, f"{narrow} overflowed, so this step was taken in {name}"


def check_weights(model: torch.nn.Module, what: str) -> None:
    """Raises FloatingPointError where weights themselves hold a NaN or an infinity: no dtype helps then."""
    bad = []
    for name, weight in model.named_parameters():
        plain = weight.is_floating_point() and weight.element_size() > 1 and not weight.is_meta
        if plain and not torch.isfinite(weight).all():
            bad.append(name)
    if bad:
        more = f" and {len(bad) - 1} others" if len(bad) > 1 else ""
        raise FloatingPointError(
            f"The {what}'s weights hold NaN or infinity ({bad[0]}{more}): the checkpoint is damaged, or its "
            "training failed. Take an earlier one, or download it again."
        )


@contextmanager
def in_float32(model) -> Iterator[torch.dtype | None]:
    """The model in float32 while this lasts, and exactly as it was after it. None where that cannot be done:
    it is in float32 already, or its weights are moved about, or packed, by others.
    """
    narrow = model.dtype
    moved = any(
        getattr(part, "_diffusers_hook", None) and part._diffusers_hook.hooks for part in model.modules()
    )
    if narrow == torch.float32 or moved or getattr(model, "is_quantized", False):
        yield None
        return
    try:
        yield torch.nn.Module.to(model, torch.float32).dtype  # diffusers' own warns of what is meant here
    finally:
        torch.nn.Module.to(model, narrow)
