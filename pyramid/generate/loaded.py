"""What opens a pipeline under a plan for memory, and the one that holds it.

    pipe = load_for(settings)                                    # the fastest plan that fits this machine
    pipe = load_pipeline(checkpoint, make_plan(checkpoint, settings, wanted="low"))

    holder = ModelHolder()                                       # for a program that makes many videos
    loaded = holder.bring(settings, memory="auto")               # mostly it is there already
    for event in loaded.stream(settings, inputs):                # steps down when memory runs out
        ...

Importing this loads no torch: that comes with the first model.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from PIL import Image

from pyramid.events import Notice, Preview
from pyramid.hub.checkpoints import Checkpoint, find, identity, verify
from pyramid.hub.loras import find_loras
from pyramid.memory import ladder
from pyramid.memory.machine import in_use, keep_freed_memory
from pyramid.memory.placement import dtype_name
from pyramid.memory.plan import Plan, make_plan
from pyramid.memory.threads import Threads
from pyramid.settings import Settings, loras_at_work

SMALL = 256 * 2**20  # bytes of a transformer that takes a step in a moment, wherever it is

if TYPE_CHECKING:
    from pyramid.generate.drafts import Drafting
    from pyramid.generate.for_diffusers import PyramidFlowPipeline
    from pyramid.generate.pipeline import Event, PyramidFlow
    from pyramid.generate.request import Inputs
    from pyramid.hub.families import LatentScales


def load_pipeline(checkpoint: Checkpoint, plan: Plan) -> "PyramidFlowPipeline":
    """The pipeline of a checkpoint, placed as `plan` says; the plan is its attribute `plan`."""
    from pyramid.generate.for_diffusers import PyramidFlowPipeline

    prepare(plan)
    return PyramidFlowPipeline.from_pretrained(checkpoint.folder, checkpoint.variant, plan=plan)


def load_for(settings: Settings, memory: str = "auto") -> "PyramidFlowPipeline":
    """The pipeline that `settings` need on this machine, with their LoRAs at work. ValueError where
    checkpoint, device, plan or a LoRA cannot be used.
    """
    checkpoint = find(settings.model, settings.variant)
    pipeline = load_pipeline(checkpoint, make_plan(checkpoint, settings, wanted=memory))
    bring_loras(pipeline, settings.lora)
    return pipeline


def load_quickly(settings: Settings, memory: str = "auto") -> "PyramidFlow":
    """What runs `settings`, as `load_for` raises: with torch alone where that is enough, as diffusers takes
    twice as long to load as torch. It streams, and is not called.
    """
    from pyramid.generate.pipeline import PyramidFlow, placed
    from pyramid.memory.loading import is_plain

    checkpoint = find(settings.model, settings.variant)
    verify(checkpoint, text=checkpoint.has_text)
    plan = make_plan(checkpoint, settings, wanted=memory)
    if takes_loras(settings) or not is_plain(checkpoint, plan):
        return load_pipeline(checkpoint, plan)
    prepare(plan)
    return placed(PyramidFlow, checkpoint, plan)


def bring_loras(pipeline: "PyramidFlowPipeline", lora: str) -> None:
    """Have the LoRAs of a setting at work in a pipeline that has none. ValueError for one that is not there,
    or of another model: then there are none.
    """
    wanted = loras_at_work(lora)
    try:
        for place, (name, _) in enumerate(wanted):
            pipeline.load_lora_weights(name, adapter_name=f"lora-{place}")
    except ValueError:
        pipeline.unload_lora_weights()
        raise
    if wanted:
        names = [f"lora-{place}" for place in range(len(wanted))]
        pipeline.set_adapters(names, [strength for _, strength in wanted])


def takes_loras(settings: Settings) -> bool:
    """Whether a LoRA is at work, which diffusers' models take by peft."""
    return bool(loras_at_work(settings.lora))


def prepare(plan: Plan) -> None:
    """Main memory is kept for the next step where a plan computes in it, and the load is looked at."""
    Threads.watch()
    if not plan.transformer.place.is_card and "PYRAMID_RETURN_MEMORY" not in os.environ:
        keep_freed_memory()


@dataclass
class Loaded:
    """A model on its device."""

    key: tuple  # what it was loaded for, see `key_of`
    plan: Plan  # that was wanted; memory may have run out since, see `changes`
    pipeline: Any  # a PyramidFlow, or the PyramidFlowPipeline of `pyramid.generate.for_diffusers`
    identity: dict[str, Any]  # of the checkpoint, as results carry it
    note: str = ""  # what loading had to change, for people
    changes: tuple[str, ...] = ()  # what was given up since, as memory ran out: it holds for later runs too
    lora: str = ""  # the LoRAs that are at work, as the settings say them
    joined: bool = False  # one of several processes that make one video together

    @property
    def notes(self) -> tuple[str, ...]:
        """What results of this model have to say of it."""
        return (self.note, *self.changes) if self.note else self.changes

    @property
    def device(self) -> str:
        """The kind of device that the transformer runs on, such as "cuda"."""
        return self.pipeline._execution_device.type

    @property
    def speed_key(self) -> str:
        """What seconds of a step are remembered by."""
        dtype = dtype_name(self.pipeline.transformer.dtype)
        return f"{self.identity['identity']} {self.pipeline._execution_device} {dtype}"

    @property
    def scales(self) -> "LatentScales":
        """What leads from the transformer's latents to the autoencoder's."""
        return self.pipeline.scales

    @property
    def memory_bytes(self) -> int:
        """Memory that is in use now."""
        return in_use()

    @cached_property
    def colors(self):
        """What turns latents into small pictures (`preview.LatentColors`); fitting it takes a moment."""
        from pyramid.media.preview import latent_colors

        return latent_colors(self.pipeline.vae)

    def picture(self, event: Preview) -> Image.Image:
        """What the clean estimate of a step looks like, of the first sample."""
        return picture_of(event, self.scales, self.colors)

    def warm_up(self, settings: Settings) -> None:
        """Take a step of a small model, which nobody sees: what comes with the first one, such as modules and
        text encoders, is there then before somebody waits for it.
        """
        from pyramid.generate.request import Inputs

        pipe = self.pipeline
        weights = sum(weight.nbytes for weight in pipe.transformer.parameters())
        if pipe.text is None or not pipe.text.small or weights > SMALL:
            return
        pipe.text.load_small()
        Image.preinit()  # the forms of pictures that a page shows
        events = pipe.stream(replace(settings, prompt="a", seed=0), Inputs(preview_every=1))
        with closing(events):
            for event in events:
                if isinstance(event, Preview):
                    self.picture(event)
                    break

    def cuts_otherwise(self, plan: Plan) -> bool:
        """Whether a plan has frames decoded in other pieces, or in another order."""
        return (self.plan.tile, self.plan.window) != (plan.tile, plan.window)

    def serves(self, settings: Settings, plan: Plan) -> bool:
        """Whether a run by this plan can use what is loaded. What was given up holds for runs by the same
        plan; for another one it may be too much or too little.
        """
        if takes_loras(settings) and not hasattr(self.pipeline, "load_lora_weights"):
            return False
        return self.key == key_of(settings, plan) and not (self.changes and self.cuts_otherwise(plan))

    def place(self, plan: Plan) -> None:
        """As another plan says, which asks for the same weights, before anything was given up."""
        from pyramid.memory.loading import place

        place(self.pipeline, plan)
        self.plan = plan

    def adapt(self, lora: str) -> None:
        """Let the LoRAs be at work that settings ask for. ValueError for one that is not there, or of another
        model: then there are none.
        """
        if lora == self.lora or not (self.lora or loras_at_work(lora)):
            return
        if self.lora:
            self.pipeline.unload_lora_weights()
            self.lora = ""
        bring_loras(self.pipeline, lora)
        self.lora = lora

    def spread(self, others: str) -> None:
        """Text encoders and VAE go to a second device. ValueError for one that is not there."""
        from pyramid.memory.parallel import place

        place(self.pipeline, self.pipeline.placement.transformer.device, others)

    def join(self) -> None:
        """Make one video together with the other processes of a launcher, after `parallel.begin`."""
        from pyramid.memory.parallel import join

        join(self.pipeline)
        self.joined = True

    def drafting(self, wanted: Sequence[Settings], whole: bool, inputs: "Inputs") -> "Drafting":
        """The making of drafts, see `drafts.Drafting`."""
        from pyramid.generate.drafts import Drafting

        return Drafting(self.pipeline, wanted, whole=whole, inputs=inputs)

    def stream(self, settings: Settings, inputs: "Inputs") -> "Iterator[Event]":
        """The events of a run, which steps down when memory runs out. Raises as `pipeline.stream` does.

        Joined processes do not step down: one of them cannot do something else alone.
        """
        if self.joined or settings.history_units:  # what is let go could not be gone on from
            return self.pipeline.stream(settings, inputs)
        return self._remembered(ladder.stream(self.pipeline, settings, inputs))

    def _remembered(self, events: "Iterator[Event]") -> "Iterator[Event]":
        for event in events:
            if isinstance(event, Notice) and event.kind == "memory":
                self.changes += (event.message,)
            yield event


def picture_of(event: Preview, scales: "LatentScales", colors: Any) -> Image.Image:
    """What the clean estimate of a step looks like, of the first sample."""
    from pyramid.generate.latents import denormalize
    from pyramid.media.preview import latent_preview

    assert event.clean is not None
    first = event.unit == 0
    vae_latents = denormalize(event.clean[:1], scales, first=first)
    return Image.fromarray(latent_preview(vae_latents, colors, first=first)[0, 0])


class ModelHolder:
    """The one model in memory. Used by one thread; `loaded` may be read from any."""

    def __init__(self):
        self.loaded: Loaded | None = None

    def has(self, settings: Settings, memory: str = "auto") -> bool:
        """Whether `bring` would load nothing. Raises ValueError, as that does."""
        plan = make_plan(find(settings.model, settings.variant), settings, wanted=memory)
        return self.loaded is not None and self.loaded.serves(settings, plan)

    def bring(
        self, settings: Settings, memory: str = "auto", say: Callable[[str], Any] | None = None
    ) -> Loaded:
        """The model of `settings`, by the plan for memory that suits their size and length.

        Where it is another one than the last, the old one is freed before it is loaded, which `say` tells;
        what does not fit is loaded so that it needs less, which is its `note`. Raises ValueError for what
        cannot be loaded, DoesNotFit (one too) where memory does not suffice.
        """
        checkpoint = find(settings.model, settings.variant)
        plan = make_plan(checkpoint, settings, wanted=memory)
        if self.loaded is None or not self.loaded.serves(settings, plan):
            find_loras(settings.lora)  # what is not there is told before minutes go into loading
            self.unload()
            if say:
                say("Loading the model")
            pipeline, note = ladder.load(load_quickly, settings, memory)
            self.loaded = Loaded(key_of(settings, plan), plan, pipeline, identity(checkpoint), note)
        elif self.loaded.cuts_otherwise(plan):
            self.loaded.place(plan)
        self.loaded.adapt(settings.lora)
        return self.loaded

    def unload(self) -> None:
        """Let go of the model, and of the memory that it took."""
        if self.loaded is not None:
            self.loaded = None
            ladder.free()


def key_of(settings: Settings, plan: Plan) -> tuple:
    """Runs with the same key share what is loaded: the weights, where they are, and how."""
    weights = settings.model, settings.variant, settings.dtype, settings.device
    return *weights, plan.text, plan.transformer, plan.vae
