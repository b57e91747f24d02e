"""When memory runs out: let go of what can be spared, change the plan a little,
go on from the last finished unit.

    for event in stream(pipe, settings, inputs):    # as pipe.stream, and it does not end for want of memory
        ...                                          # Notice("memory", …) tells each change
    pipe, note = load(loaded.load_for, settings)     # the same while a model is loaded

`tighten` is the ladder: for the phase that failed it takes the first rung that is still to be had. A rung
makes of a placement a tighter one: it changes how a video is computed, not what is asked for. After it, the
run equals a run with the tighter pipeline from the last finished unit on. Where there is none left,
DoesNotFit says what to do.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyramid.events import Finished, Frames, Notice, Preview, Status, Unit
from pyramid.memory.device import MAIN, empty_caches
from pyramid.memory.placement import Part, Placement, elsewhere
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
    began = time.perf_counter()
    lost = 0.0
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
# The rungs: each makes a tighter placement and a sentence on it, or None where there is nothing to give up.
# They do nothing: `place` does


@dataclass(frozen=True)
class Run:
    """What a rung may ask of the run that failed: the longer side of its frames in pixels, and whether
    weights of text encoders are in memory.
    """

    side: int
    texts: bool = False


Step = tuple[Placement, str]
Rung = Callable[[Placement, Run], Step | None]


def tighten(pipe, phase: str, settings: Settings | None = None) -> str | None:
    """Take the first rung of `phase` that is left. Returns what was changed, for people; None at the bottom.

    The pipeline's placement tells it from then on.
    """
    from pyramid.memory.loading import as_it_is, place

    size = (settings.width, settings.height) if settings else pipe.defaults.sizes[0]
    run = Run(max(size), texts=pipe.text is not None and bool(pipe.text.loaded))
    now = as_it_is(pipe)
    step = next((step for rung in RUNGS[phase] if (step := rung(now, run))), None)
    if step is None:
        return None
    tighter, change = step
    place(pipe, tighter.told(change))
    return change


def read_on_processor(now: Placement, run: Run) -> Step | None:
    """The text encoders leave the card."""
    if not now.text.place.is_card:
        return None
    change = "prompts are read on the processor from here on"
    return replace(now, text=elsewhere(now.text, MAIN)), change


def release_text(now: Placement, run: Run) -> Step | None:
    """After encoding, the encoders that were kept for the next prompt."""
    if not run.texts or now.text.offload in ("go", "leaf"):
        return None
    change = "the text encoders leave memory once they are not needed"
    return replace(now, text=replace(now.text, offload="go")), change


def narrow_text(now: Placement, run: Run) -> Step | None:
    """Half the bytes for the text encoders."""
    if now.text.dtype != "float32":
        return None
    change = "prompts are read in bfloat16 instead of float32"
    return replace(now, text=replace(now.text, dtype="bfloat16")), change


def split_guidance(now: Placement, run: Run) -> Step | None:
    """Half the batch."""
    if now.split_guidance:
        return None
    change = "the prompt and the negative prompt go through the model one after the other"
    return replace(now, split_guidance=True), change


def smaller_tiles(now: Placement, run: Run) -> Step | None:
    """At most half the side, a power of two, down to SMALLEST_TILE;
    the frame itself counts as the first tile.
    """
    side = min(now.tile or run.side, run.side)
    tile = 1 << (side // 2).bit_length() - 1
    if tile < SMALLEST_TILE:
        return None
    return replace(now, tile=tile), f"frames are decoded in tiles of {tile} pixels"


def into_tiles(now: Placement, run: Run) -> Step | None:
    """The first tiles. Smaller ones than these free little as long as each keeps its cache."""
    return None if now.tile else smaller_tiles(now, run)


def tile_by_tile(now: Placement, run: Run) -> Step | None:
    """As frames come, every tile keeps its cache until the end: here one tile's is held at a time."""
    if now.window == 0 or not now.tile:
        return None
    change = "frames are decoded at the end, all units of a tile before the next tile"
    return replace(now, window=0), change


def offload_models(now: Placement, run: Run) -> Step | None:
    """One model at a time on the card, which all of them share from here on."""
    card = now.transformer.device
    if now.transformer.fixed or now.transformer.offload or not now.transformer.place.is_card:
        return None
    tighter = replace(
        now,
        text=elsewhere(now.text, card),
        transformer=replace(now.transformer, offload="model"),
        vae=replace(now.vae, device=card, offload="model"),
    )
    return tighter, "only the model that is at work stays on the card"


def offload_leaves(now: Placement, run: Run) -> Step | None:
    """Weights wait in main memory: in float32, where a step that overflows in float16 could not be taken
    again.
    """
    card = now.transformer.device
    if now.transformer.fixed or not now.transformer.place.is_card:
        return None
    wider = now.transformer.dtype == "float16"
    dtype = "float32" if wider else now.transformer.dtype
    tighter = replace(
        now,
        transformer=replace(now.transformer, dtype=dtype, offload="block"),
        vae=replace(now.vae, device=card, offload="leaf"),
    )
    return tighter, "the weights come to the card layer by layer, which is slow" + ", and in float32" * wider


def narrow_transformer(now: Placement, run: Run) -> Step | None:
    """Half the bytes for the transformer, and for what it computes."""
    if not (part := narrowed(now.transformer)):
        return None
    return replace(now, transformer=part), "the transformer computes in bfloat16 instead of float32"


def narrow_vae(now: Placement, run: Run) -> Step | None:
    """Half the bytes for the autoencoder, and for what it computes."""
    if not (part := narrowed(now.vae)):
        return None
    return replace(now, vae=part), "the autoencoder computes in bfloat16 instead of float32"


def narrowed(part: Part) -> Part | None:
    """The part in bfloat16; None where it is, or has to stay as it is."""
    free = part.dtype == "float32" and not part.fixed and not part.quantized
    return replace(part, dtype="bfloat16") if free else None


RUNGS: dict[str, tuple[Rung, ...]] = {
    "text": (offload_models, read_on_processor, narrow_text),
    "encode": (smaller_tiles, release_text, offload_models, offload_leaves, narrow_vae),
    "sample": (split_guidance, release_text, offload_models, offload_leaves, narrow_transformer),
    "decode": (
        into_tiles,
        tile_by_tile,
        smaller_tiles,
        release_text,
        offload_models,
        offload_leaves,
        narrow_vae,
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
    tried: tuple[Any, str, str] | None = (settings, memory, "")
    less: Iterator[tuple[Any, str, str]] | None = None
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
