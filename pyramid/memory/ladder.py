"""When memory runs out: let go of what can be spared, change the plan a little,
go on from the last finished unit.

    for event in stream(pipe, settings, inputs):    # as pipe.stream, and it does not end for want of memory
        ...                                          # Notice("memory", …) tells each change
    pipe, note = load(loaded.load_for, settings)     # the same while a model is loaded

`tighten` is the ladder: for the phase that failed it takes the first rung that is still to be had. Rungs
change how a video is computed, not what is asked for: after one, the run equals a run with the tighter
pipeline from the last finished unit on. Where there is none left, DoesNotFit says what to do.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from pyramid.events import Finished, Frames, Notice, Preview, Status, Unit
from pyramid.memory.device import MAIN, device_of, empty_caches
from pyramid.settings import Settings

SMALLEST_TILE = 64  # pixels
WORDS = (  # of the allocators that have no exception of their own
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "could not create a memory",
    "could not create a primitive",
    "alloc_failed",
    "failed to allocate",
    "unable to find an engine",
    "unable to find a valid cudnn",  # cuDNN, where no workspace is to be had
)


class DoesNotFit(ValueError):
    """Memory ran out, and there is nothing left to give up."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out: torch's, the CPU allocator's, Python's, the system's,
    or an error because of those.
    """
    if error is None:
        return False
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    known = isinstance(error, (RuntimeError, OSError)) or type(error).__name__ == "SafetensorError"
    if known and any(words in str(error).lower() for words in WORDS):
        return True
    return is_out_of_memory(error.__cause__)


def stream(pipe, settings: Settings, inputs) -> Iterator[Any]:
    """The events of `pipe.stream(settings, inputs)`, each once, however often memory runs out on the way.

    The settings need a seed, as what is made again has to be the same. Raises DoesNotFit when no rung is
    left, and whatever else `pipe.stream` raises.
    """
    assert settings.seed is not None, "the seed is resolved before sampling"
    pipe.stream(settings, inputs)  # what is wrong with the request is told here, not at the first `next`
    return _stream(pipe, settings, inputs)


def _stream(pipe, settings: Settings, inputs) -> Iterator[Any]:
    began, lost = time.perf_counter(), 0.0
    told = Told(inputs.finished)
    while True:
        since = time.perf_counter()
        try:
            for event in pipe.stream(settings, replace(inputs, finished=told.finished())):
                if isinstance(event, Finished) and lost:
                    total = time.perf_counter() - began
                    event = replace(event, timings=event.timings | {"lost to memory": lost, "total": total})
                if told.is_new(event):
                    yield event
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Outside of `except`: the error, whose traceback holds on to the tensors, is gone here.
        free()
        lost += time.perf_counter() - since
        change = tighten(pipe, told.phase, settings)
        if change is None:
            raise DoesNotFit(
                f"Memory ran out while {DOING[told.phase]}, and nothing is left to give up: ask for a "
                "smaller size or fewer frames, or close other programs."
            )
        yield Notice("memory", f"Memory ran out while {DOING[told.phase]}: {change}.")


DOING = {
    "text": "the prompt was read",
    "encode": "the picture was encoded",
    "sample": "a unit was sampled",
    "decode": "a unit was decoded",
    "load": "the model was loaded",
}


class Told:
    """What of a run has been told already, and in which phase it is."""

    def __init__(self, before: Sequence[Any]):
        self.before = before
        self.units: list[Unit] = []
        self.frames: set[tuple[int, int]] = set()
        self.notices: set[str] = set()
        self.phase = "text"

    def finished(self) -> Sequence[Any]:
        """The units to go on from. Given ones alone may not be all: those are made again."""
        return list(self.units) if any(not unit.given for unit in self.units) else self.before

    def is_new(self, event: Any) -> bool:
        match event:
            case Status() if event.phase in DOING:
                self.phase = event.phase
            case Notice():
                if event.message in self.notices:
                    return False
                self.notices.add(event.message)
            case Preview():
                self.phase = "sample"
            case Unit():
                self.phase = "decode"
                if event.index < len(self.units):
                    return False
                self.units.append(event)
            case Frames():
                self.phase = "sample"
                if (event.unit, event.sample) in self.frames:
                    return False
                self.frames.add((event.unit, event.sample))
        return True


def free() -> None:
    """Give back what nobody uses."""
    gc.collect()
    empty_caches()


# ------------------------------------------------------------------------------------------------------------
# The rungs: each changes the pipeline and says what it did, or returns None where it has nothing to give


def tighten(pipe, phase: str, settings: Settings | None = None) -> str | None:
    """Take the first rung of `phase` that is left. Returns what was changed, for people; None at the bottom.

    A plan that the pipeline has tells it from then on.
    """
    change = next((change for rung in RUNGS[phase] if (change := rung(pipe, settings))), None)
    if change:
        pipe.placement = pipe.placement.told(change)
    return change


def _read_on_cpu(pipe, settings) -> str | None:
    if pipe.text is None or not device_of(pipe.placement.text_device or pipe._execution_device).is_card:
        return None
    pipe.text.free()
    pipe.placement = replace(pipe.placement, text_device=MAIN)
    return "prompts are read on the processor from here on"


def _release_text(pipe, settings) -> str | None:
    """After encoding, the encoders that were kept for the next prompt."""
    if pipe.text is None or pipe.text.keep is False:
        return None
    had = bool(pipe.text.loaded)
    pipe.text.keep = False
    pipe.text.free()
    return "the text encoders leave memory once they are not needed" if had else None


def _narrow_text(pipe, settings) -> str | None:
    import torch

    if pipe.text is None or pipe.text.dtype != torch.float32:
        return None
    pipe.text.free()
    pipe.text.dtype = torch.bfloat16
    return "prompts are read in bfloat16 instead of float32"


def _split_guidance(pipe, settings) -> str | None:
    if pipe.placement.split_guidance:
        return None
    pipe.placement = replace(pipe.placement, split_guidance=True)
    return "the prompt and the negative prompt go through the model one after the other"


def _smaller_tiles(pipe, settings) -> str | None:
    """At most half the side, a power of two, down to SMALLEST_TILE;
    the frame itself counts as the first tile.
    """
    vae = pipe.vae
    side = max((settings.width, settings.height) if settings else pipe.defaults.sizes[0])
    now = min(vae.tile_size, side) if vae.use_tiling else side
    tile = 1 << (now // 2).bit_length() - 1
    if tile < SMALLEST_TILE:
        return None
    vae.enable_tiling(tile)
    return f"frames are decoded in tiles of {tile} pixels"


def _into_tiles(pipe, settings) -> str | None:
    """The first tiles. Smaller ones than these free little as long as each keeps its cache."""
    return None if pipe.vae.use_tiling else _smaller_tiles(pipe, settings)


def _tile_by_tile(pipe, settings) -> str | None:
    """As frames come, every tile keeps its cache until the end: here one tile's is held at a time."""
    if pipe.placement.tile_first or not pipe.vae.use_tiling:
        return None
    pipe.placement = replace(pipe.placement, tile_first=True)
    return "frames are decoded at the end, all units of a tile before the next tile"


def _offload_models(pipe, settings) -> str | None:
    held = getattr(pipe, "_all_hooks", None) or _hooked(pipe.transformer)
    if held or not device_of(pipe._execution_device).is_card:
        return None
    device = pipe._execution_device
    pipe.to(MAIN)
    # All share one card from here on.
    pipe.placement = replace(pipe.placement, text_device=None, vae_device=None)
    pipe.enable_model_cpu_offload(device=device)
    return "only the model that is at work stays on the card"


def _offload_leaves(pipe, settings) -> str | None:
    device = pipe._execution_device
    if not device_of(device).is_card or _hooked(pipe.transformer):
        return None
    import torch

    from pyramid.memory.loading import lift, place_model
    from pyramid.memory.plan import Part

    lift(pipe)
    pipe.placement = replace(pipe.placement, vae_device=None)
    wider = pipe.transformer.dtype == torch.float16  # in which a step that overflows could not be taken again
    if wider:
        torch.nn.Module.to(pipe.transformer.to(MAIN), torch.float32)
    for model, kind in ((pipe.transformer, "block"), (pipe.vae, "leaf")):
        place_model(model, Part(str(device), str(model.dtype).removeprefix("torch."), kind))
    return "the weights come to the card layer by layer, which is slow" + ", and in float32" * wider


def _narrow_transformer(pipe, settings) -> str | None:
    return _narrow(pipe.transformer, "the transformer")


def _narrow_vae(pipe, settings) -> str | None:
    return _narrow(pipe.vae, "the autoencoder")


def _narrow(model, name: str) -> str | None:
    """bfloat16 in place, weight by weight, so that there are never two copies of the model."""
    import torch

    from pyramid.memory.loading import is_cast

    if model.dtype != torch.float32 or _hooked(model) or is_cast(model):
        return None
    torch.nn.Module.to(model, torch.bfloat16)  # diffusers' own warns of what is meant here
    return f"{name} computes in bfloat16 instead of float32"


def _hooked(model) -> bool:
    """Whether others hold this model's weights: diffusers' group offload, or bitsandbytes.
    They must not be moved.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        return True
    registries = (getattr(part, "_diffusers_hook", None) for part in model.modules())
    return any(
        registry is not None and set(registry.hooks) - {"layerwise_casting"} for registry in registries
    )


RUNGS: dict[str, tuple[Callable[[Any, dict], str | None], ...]] = {
    "text": (_offload_models, _read_on_cpu, _narrow_text),
    "encode": (_smaller_tiles, _release_text, _offload_models, _offload_leaves, _narrow_vae),
    "sample": (_split_guidance, _release_text, _offload_models, _offload_leaves, _narrow_transformer),
    "decode": (
        _into_tiles,
        _tile_by_tile,
        _smaller_tiles,
        _release_text,
        _offload_models,
        _offload_leaves,
        _narrow_vae,
    ),
}


# ------------------------------------------------------------------------------------------------------------
# Loading


def load(loader: Callable[[Any, str], Any], settings, memory: str = "auto") -> tuple[Any, str]:
    """`loader(settings, memory)`, and where that does not fit with what needs less;
    with a sentence on it, or "".

    First bfloat16 in place of float32, then, on a card, one tighter plan after the other. Raises DoesNotFit
    when none of them fits either.
    """
    tried, less = (settings, memory, ""), None
    while tried:
        now, plan, told = tried
        try:
            return loader(now, plan), f"Memory ran out while {DOING['load']}: {told}." if told else ""
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        free()
        less = less or _less(settings, memory)
        tried = next(less, None)
    raise DoesNotFit(
        f"Memory ran out while {DOING['load']}: python -m pyramid doctor says what fits this machine."
    )


def _less(settings, memory: str) -> Iterator[tuple[Any, str, str]]:
    """(settings, plan, what is different, for people) that need less, one after the other."""
    from pyramid.hub.checkpoints import find
    from pyramid.memory.plan import make_plan, plans

    checkpoint = find(settings.model, settings.variant)
    plan = make_plan(checkpoint, settings, wanted=memory)
    card = plan.transformer.place.is_card
    if plan.transformer.dtype == "float32" or settings.dtype != "bfloat16" and not card:
        settings = replace(settings, dtype="bfloat16")
        yield settings, memory, "it computes in bfloat16"
    names = [other.name for other in plans(checkpoint, settings)]
    for name in names[names.index(plan.name) + 1 :]:
        yield settings, name, f"the plan is {name} instead of {plan.name}"
