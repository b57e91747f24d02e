"""PyramidFlow: a sentence, a picture or a clip becomes a video, with torch alone.

`pyramid.generate.for_diffusers.PyramidFlowPipeline` is the same as one of diffusers' pipelines, which can be
called, saved and given LoRAs.

    for event in pipe.stream(settings, Inputs(image=picture, preview_every=1)):          # pyramid.events
        ...
    for event in pipe.stream(*pipe.request("a blue star spins", seed=1)):  # diffusers' arguments
        ...

`stream` does the work, as a generator: prompt to embeddings, given pictures to latents, then sampling and
decoding unit by unit. A pipeline keeps no state of a run, so several may be open at once, and one that was
stopped, closed or failed leaves nothing behind. `pipe.vae.enable_tiling()` bounds a decode's memory; where
one model leaves when the other comes, frames are made after all sampling.

Precision: the models run in their own dtype (bfloat16 or float32); noise, jumps, guidance, Euler steps and
latent scales are float32.
"""

import importlib
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyramid.events import Finished, Frames, Notice, Preview, Status, Unit
from pyramid.generate.guidance import Control, Guidance, GuidedModel, Prompt, blend
from pyramid.generate.latents import denormalize, normalize
from pyramid.generate.precision import Guarded, check_weights
from pyramid.generate.request import (
    CALLBACK_TENSORS,
    Inputs,
    Task,
    check,
    signature_of,
    to_request,
)
from pyramid.generate.sampler import Noise, Sampling, StepCallback, Stop, sample, sample_coarse
from pyramid.hub.checkpoints import Checkpoint
from pyramid.hub.families import GRID, RELEASES, LatentScales, family_of
from pyramid.memory import loading
from pyramid.memory.device import device_of
from pyramid.memory.placement import Placement, dtype_name
from pyramid.memory.plan import Plan
from pyramid.settings import FRAMES_PER_UNIT, Settings, Variant, variant_of
from pyramid.text.cache import PromptEmbeds
from pyramid.text.vocabulary import Vocabulary
from pyramid.wording import briefly

Event = Status | Notice | Preview | Unit | Frames | Finished
SLOW_BFLOAT16 = (
    "This processor has no bfloat16, and takes many times as long to make it up: use float32 "
    "(dtype=torch.float32, or --dtype float32)."
)
Prompts = tuple[Prompt, Prompt | None]  # the prompt and the negative one


class Alone:
    """The executor of a process that works by itself; `memory.parallel.Joined` is that of several."""

    def once(self, function: Callable, *arguments: Any) -> Any:
        """The result of `function`, which one process computes for all."""
        return function(*arguments)

    def stop(self, stop: Stop) -> Stop:
        """What tells all processes to end at the same step."""
        return stop


class Cut(Exception):
    """A stop came while all frames were decoded at once."""


class PyramidFlow:
    """Text-to-video, image-to-video, continuation and text-to-image with a published or an own checkpoint.

    It runs with torch alone, where its models are. `pyramid.generate.for_diffusers.PyramidFlowPipeline` is
    the same as a pipeline of diffusers, which can move them about.

    `text` makes embeddings of prompts (`pyramid.text.encoders.TextEncoders`); without it they have to be
    passed. `defaults` are what a run takes where nothing is asked for; `checkpoint` says where all came from,
    if from files.
    """

    transformer: Any
    vae: Any

    def __init__(
        self,
        transformer,
        vae,
        text=None,
        defaults: Variant | None = None,
        checkpoint: Checkpoint | None = None,
    ):
        self.register_modules(transformer=transformer, vae=vae)
        self.text = text
        self.defaults = defaults or (checkpoint.defaults if checkpoint else variant_of("384p"))
        self.checkpoint = checkpoint
        self.vocabulary = Vocabulary.of(checkpoint.details) if checkpoint else None
        self.scales = _scales_of(transformer, vae)
        self.placement = Placement()  # replaced as a whole, by `pyramid.memory.loading.place`
        self.executor = Alone()
        self._runs: list[Running] = []  # those that are open
        self._latest = (0, self.defaults.guidance_scale)  # steps and guidance of the last run

    # What diffusers' pipelines have of their own, where nothing moves the models.

    def register_modules(self, **modules: Any) -> None:
        for name, module in modules.items():
            setattr(self, name, module)

    @property
    def _execution_device(self) -> torch.device:
        return self.transformer.device

    def remove_all_hooks(self) -> None:
        """There are none."""

    def maybe_free_model_hooks(self) -> None:
        """There are none."""

    @property
    def plan(self) -> Plan | None:
        """The placement, with what was given up since, where a plan made it."""
        return self.placement if isinstance(self.placement, Plan) else None

    # -- running

    def request(self, prompt: str | list[str] | None = None, **arguments: Any) -> tuple[Settings, Inputs]:
        """The settings and inputs of a call with these arguments: see `to_request`. Raises ValueError."""
        return to_request(self.defaults, prompt, **arguments)

    def stream(self, settings: Settings, inputs: Inputs | None = None) -> Iterator[Event]:
        """Generate, as an iterator of `pyramid.events`.

        `inputs`: what is not JSON. `pipe.stop()`, or `inputs.stop`, ends the run before its next step. Both
        are checked here, with ValueError; the work begins with the first `next`. Raises FloatingPointError on
        overflow.
        """
        return self._run(self._checked(settings, inputs or Inputs()))

    def _checked(self, settings: Settings, inputs: Inputs) -> Task:
        """What is to be done, if it can be. Raises ValueError."""
        family = family_of(self.transformer.published)
        release = RELEASES.get(settings.model)
        if release is not None and release.family != family.name:
            raise ValueError(
                f"model = {settings.model!r}: the weights of this pipeline are of the family {family.name}; "
                "make the settings for it, or load that model."
            )
        reads = self.transformer.config
        return check(
            settings,
            inputs,
            channels=self.vae.config.decoder_in_channels,
            text_widths=(reads.joint_attention_dim, reads.pooled_projection_dim),
            has_text=self.text is not None,
        )

    def stop(self) -> None:
        """End all open runs before their next step, from any thread. Later runs are not affected."""
        for run in list(self._runs):
            run.stop.set()

    # What callbacks for diffusers' pipelines read and set: of the run that calls them, else of the last one.

    @property
    def interrupt(self) -> bool:
        """Whether an open run was told to stop."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """All steps of the run, over all units and stages; 0 before the first run."""
        run = self._current_run()
        return run.steps if run else self._latest[0]

    @property
    def guidance_scale(self) -> float:
        """The guidance of the unit that is made, as a callback may have set it."""
        run = self._current_run()
        return run.guidance_scale if run else self._latest[1]

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self.guidance_scale > 1

    @property
    def _guidance_scale(self) -> float:
        return self.guidance_scale

    @_guidance_scale.setter
    def _guidance_scale(self, value: float) -> None:
        if (run := self._current_run()) is None:
            raise AttributeError("guidance is an argument of a call: pipe(prompt, guidance_scale=…)")
        run.control.scale = float(value)

    def _current_run(self) -> "Running | None":
        run = calling.get()
        if run in self._runs:
            return run
        return self._runs[-1] if self._runs else None

    @property
    def _interrupt(self) -> bool:
        return any(run.stop.is_set() for run in self._runs)

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        if value:  # the way in which callbacks for diffusers' pipelines stop a run
            self.stop()

    def _run(self, task: Task) -> Iterator[Event]:
        """The whole run. No gradient mode may be entered around a `yield`: a consumer may change threads."""
        clock = Clock()
        units: list[Unit] = []
        count = 0
        kept = not task.endless
        cut = False  # whether a stop ended the decoding
        stop = task.inputs.stop or threading.Event()
        run = Running(stop, Guidance.of(task.settings))
        self._runs.append(run)
        threads = device_of(self._execution_device).threads()
        try:
            threads.adapt()
            prompts = yield from self._read(task, clock, run)
            given = yield from self._begin(task, clock)
            decode = self._decoder(task)
            for event in clock.each("sample", self._sample(task, prompts, given, run)):
                yield event
                threads.adapt()
                if isinstance(event, Unit):
                    count += 1
                    units += [event] * kept
                    self._retell(task, run, prompts, event.index)
                    if decode and not (self._decodes_late and kept):
                        self._bring(self.vae)
                        yield from clock.timed("decode", decode, event)
                        self._bring(self.transformer)
            if decode and self._decodes_late and kept:
                cut = yield from self._decode_late(units, decode, clock, stop)
        finally:
            threads.restore()
            self._runs.remove(run)
            self._latest = run.steps, run.guidance_scale
            self.maybe_free_model_hooks()
        # After the clearing up: who has got this event may never ask for another.
        latents = torch.cat([unit.latents for unit in units], dim=2) if units else None  # b c t h w
        short = cut or count < task.settings.units
        yield Finished(latents, clock.total(), task.seeds[0], stopped=short)

    def _read(self, task: Task, clock: "Clock", run: "Running") -> Generator[Event, None, Prompts | None]:
        """The prompts as the transformer reads them; None where nothing is left to sample."""
        if task.known == task.settings.units:
            return None
        yield Status("text", "Reading the prompt")
        prompt, negative, cut = clock.timed("text", self._prompts, task)
        run.told = clock.timed("text", self._told, task, prompt)
        if cut:
            yield Notice("prompt", cut)
        if self.vocabulary and (unknown := self.vocabulary.notice(self._all_words(task))):
            yield Notice("words", unknown)
        return prompt, negative

    def _begin(self, task: Task, clock: "Clock") -> Generator[Event, None, list[Tensor]]:
        """The given pictures as units, and the transformer in its place."""
        if device_of(self._execution_device).makes_up(dtype_name(self.transformer.dtype)):
            yield Notice("precision", SLOW_BFLOAT16)
        if task.pictures is not None and not any(unit.given for unit in task.finished):
            yield Status("encode", f"Encoding {len(task.pictures)} given frame{'s' * (task.given > 1)}")
        given = clock.timed("encode", self._encode, task)
        left = task.settings.units - task.known
        if left:
            yield Status("sample", f"Sampling {task.known} of {task.settings.units} units")
            self._bring(self.transformer)
        return given

    def _sample(
        self, task: Task, prompts: Prompts | None, given: list[Tensor], running: "Running"
    ) -> Iterator[Notice | Preview | Unit]:
        s = task.settings
        inputs = task.inputs
        finished = [unit.latents.to(self._execution_device) for unit in task.finished if not unit.given]
        shape = (self.vae.config.decoder_in_channels, *GRID.latent_shape(s.width, s.height))
        jumps = inputs.block_noise and inputs.block_noise[len(finished) * (s.stages - 1) :]
        drawn: dict[str, Any] = {"variation": task.variation, "unit_seeds": task.unit_seeds}
        noise = Noise(shape, task.seeds, latents=inputs.latents, jumps=jumps, first=len(given), **drawn)
        run = Sampling(
            units=s.units,
            steps=s.num_inference_steps,
            video_steps=s.video_num_inference_steps,
            sampler=s.sampler,
            given=given,
            finished=finished,
            preview_every=inputs.preview_every,
            on_step_end=self._callback(inputs, prompts, running),
            stop=self.executor.stop(running.stop),
            begun=task.begun,
            unit_steps=task.unit_steps,
            history_units=s.history_units,
            correct=s.drift_correction != "none",
        )
        running.steps = run.steps_before(run.units)
        told: list[str] = []
        split = self.placement.split_guidance
        how: dict[str, Any] = {
            "split": split,
            "control": running.control,
            "told": running.told,
            "block_cache": s.block_cache,
        }
        guided = prompts and GuidedModel(self.transformer, *prompts, task.guidance, **how)
        sampled = sample_coarse if inputs.coarse else sample
        for event in sampled(guided and Guarded(guided, told.append), noise, run):
            yield from (Notice("precision", sentence) for sentence in told)
            told.clear()
            yield event

    @property
    def _decodes_late(self) -> bool:
        """Whether frames are made after all sampling. With model offload one model leaves when the other
        comes: it is changed once then, not twice a unit.
        """
        return bool(getattr(self, "_all_hooks", None)) or self.placement.window == 0

    def _decode_late(
        self, units: list[Unit], decode: Callable[[Unit], list[Frames]], clock: "Clock", stop: Stop
    ) -> Generator[Event, None, bool]:
        """The frames of all units, after sampling. Whether a stop ended it: one that came while the last unit
        was sampled does not, as what is finished is to be seen.
        """
        stopped_before = stop.is_set()

        def stopped() -> bool:
            return stop.is_set() and not stopped_before

        if self.placement.window == 0 and self.vae.use_tiling and units:
            yield Status("decode", f"Decoding {len(units)} units, tile by tile")
            try:
                decode = self._frames_by(clock.timed("decode", self._decode_by_tiles, units, stopped))
            except Cut:
                return True
        for done, unit in enumerate(units):
            if stopped():
                return True
            yield Status("decode", f"Decoding unit {done + 1} of {len(units)}", done / len(units))
            self._bring(self.vae)
            yield from clock.timed("decode", decode, unit)
        return False

    def _callback(self, inputs: Inputs, prompts: Prompts | None, run: "Running") -> StepCallback | None:
        """The callback of diffusers' form in the sampler's form."""
        callback = inputs.callback_on_step_end
        done = 0
        if callback is None or prompts is None:
            return None

        def on_step_end(unit, stage, step, timestep, x):
            nonlocal done
            run.unit = unit
            embeds = run.embeds(prompts)
            named = {"latents": x, "prompt_embeds": embeds}
            tensors = {name: named[name] for name in inputs.callback_on_step_end_tensor_inputs}
            mark = calling.set(run)
            try:
                returned = changes_of(callback(self, done, timestep, tensors), x)
            finally:
                calling.reset(mark)
            done += 1
            if (changed := returned.get("prompt_embeds")) is not None and changed is not embeds:
                run.change(prompts, changed)
            return returned.get("latents")

        return on_step_end

    def _encode(self, task: Task) -> list[Tensor]:
        """The given pictures as units (b, c, 1, h, w) in the transformer's space, float32."""
        before = [unit.latents for unit in task.finished if unit.given]
        if not before and task.pictures is not None:
            before = self.executor.once(self._encode_pictures, task)
        return [latents.to(self._execution_device) for latents in before]

    @torch.no_grad()
    def _encode_pictures(self, task: Task) -> list[Tensor]:
        self._bring(self.vae)
        pixels = torch.from_numpy(task.pictures).to(self.placement.vae_device or self._execution_device)
        video = pixels.permute(3, 0, 1, 2)[None].float() / 127.5 - 1  # 1 3 f h w
        vae_latents = self.vae.encode(video.to(self.vae.dtype)).latent_dist.mode()
        latents = normalize(vae_latents.float(), self.scales).expand(len(task.seeds), -1, -1, -1, -1)
        return list(latents.split(1, dim=2))

    @torch.no_grad()
    def _decode_by_tiles(self, units: list[Unit], stopped: Callable[[], bool]) -> Callable[[Tensor], Tensor]:
        """All frames of `units`, as something that hands them out unit by unit. Raises Cut once `stopped`."""

        def look(*_) -> None:
            if stopped():
                raise Cut

        self._bring(self.vae)
        latents = [denormalize(unit.latents, self.scales, first=unit.index == 0) for unit in units]
        hook = self.vae.post_quant_conv.register_forward_pre_hook(look)  # of each unit of each tile
        try:
            frames = self.vae.decode(
                torch.cat(latents, dim=2).to(self.placement.vae_device, self.vae.dtype)
            ).sample
        finally:
            hook.remove()
        pieces = iter([frames[:, :, :1], *frames[:, :, 1:].split(FRAMES_PER_UNIT, dim=2)])
        return lambda _latents: next(pieces)

    def _decoder(self, task: Task) -> Callable[[Unit], list[Frames]] | None:
        """What makes the frames of a run; None where latents are wanted."""
        if task.inputs.output_type == "latent":
            return None
        return self._frames_by(
            self.vae.stream() if not self.vae.use_slicing else self._one_by_one(len(task.seeds))
        )

    def _frames_by(self, decoder: Callable[[Tensor], Tensor]) -> Callable[[Unit], list[Frames]]:
        """From each unit in turn to its new frames, one event a sample."""

        @torch.no_grad()
        def decode(unit: Unit) -> list[Frames]:
            vae_latents = denormalize(unit.latents, self.scales, first=unit.index == 0)
            video = decoder(vae_latents.to(self.placement.vae_device, self.vae.dtype)).float()
            if not torch.isfinite(video).all():  # it would be black
                check_weights(self.vae, "autoencoder")
                raise FloatingPointError(
                    f"Unit {unit.index} overflows in {self.vae.dtype} when it is decoded."
                )
            pixels = (video * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
            arrays = pixels.permute(0, 2, 3, 4, 1).cpu().numpy()  # b f h w 3
            return [Frames(unit.index, np.ascontiguousarray(a), i, unit.given) for i, a in enumerate(arrays)]

        return decode

    def _one_by_one(self, samples: int) -> Callable[[Tensor], Tensor]:
        """A decoder that makes the frames of one sample after the other's."""
        streams = [self.vae.stream() for _ in range(samples)]
        return lambda latents: torch.cat(
            [stream(row) for stream, row in zip(streams, latents.split(1), strict=True)]
        )

    def _bring(self, module) -> None:
        """Model offload acts on `forward`; other methods are called here, so its hook is called by hand.
        It sends away the model before in its order only, and a picture is encoded before all else:
        so all others go first."""
        for other in getattr(self, "_all_hooks", None) or ():
            if other.model is not module:
                other.offload()
        if getattr(module, "_hf_hook", None) is not None:
            module._hf_hook.pre_forward(module)

    # -- text

    def _prompts(self, task: Task) -> tuple[Prompt, Prompt | None, str]:
        """Embeddings of the prompts and, where needed, the negative ones, and a sentence on what was cut."""
        inputs = task.inputs
        wanted = inputs.embeddings("") or self._embed(task.texts, inputs.max_sequence_length)
        if not task.guided:
            return self._prompt(task, wanted), None, wanted.notice
        length = wanted.prompt_embeds.shape[1]  # both go through the model in one batch
        unwanted = inputs.embeddings("negative_") or self._embed(task.negative_texts, length)
        return self._prompt(task, wanted), self._prompt(task, unwanted), wanted.notice or unwanted.notice

    def _told(self, task: Task, own: Prompt) -> dict[int, Prompt]:
        """The prompts of a timeline, by unit: each text is read once."""
        known: dict[str | None, Prompt] = {None: own}
        for text in dict.fromkeys(text for words in task.told.values() for text, _ in words):
            if text is not None:
                embeds = self._embed([text + task.settings.prompt_suffix], own.embeds.shape[1])
                known[text] = self._prompt(task, embeds)
        return {u: blend([(known[text], share) for text, share in words]) for u, words in task.told.items()}

    def _retell(self, task: Task, run: "Running", prompts: Prompts | None, done: int) -> None:
        """What the unit after `done` is told, where that is asked for while a run is under way."""
        unit = done + 1
        if task.inputs.words is None or prompts is None or not task.known <= unit < task.settings.units:
            return
        words = task.inputs.words(unit)
        texts: dict[str | None, Prompt] = {None: prompts[0]}
        for text, _ in words:
            if text is not None:  # the cache has it after the first time
                embeds = self._embed([text + task.settings.prompt_suffix], prompts[0].embeds.shape[1])
                texts[text] = self._prompt(task, embeds)
        run.told.pop(done, None)
        run.told[unit] = blend([(texts[text], share) for text, share in words])

    def _all_words(self, task: Task) -> list[str]:
        """What is asked for anywhere in a run."""
        told = [text for words in task.told.values() for text, _ in words if text is not None]
        return [*task.prompts, *dict.fromkeys(told)]

    def _embed(self, texts: Sequence[str], length: int) -> PromptEmbeds:
        return self.executor.once(self._encode_text, list(texts), length)

    def _encode_text(self, texts: list[str], length: int) -> PromptEmbeds:
        device = self.placement.text_device or self._execution_device
        return self.text.to(device).encode(texts, max_sequence_length=length)

    def _prompt(self, task: Task, embeds: PromptEmbeds) -> Prompt:
        """Embeddings as the transformer reads them: a row for each sample, on its device, in its dtype."""
        tensors = embeds.prompt_embeds, embeds.attention_mask, embeds.pooled
        device = self._execution_device
        dtype = self.transformer.dtype
        states, mask, pooled = (x.to(device).expand(len(task.seeds), *x.shape[1:]) for x in tensors)
        return Prompt(states.to(dtype), mask, pooled.to(dtype))


# ------------------------------------------------------------------------------------------------------------
# Small parts of the above

calling: ContextVar["Running | None"] = ContextVar(
    "calling", default=None
)  # the run whose callback is at work


@dataclass(eq=False)
class Running:
    """A run that is open: how far it is, and what callbacks change of it."""

    stop: threading.Event
    guidance: Guidance
    control: Control = field(default_factory=Control)
    steps: int = 0
    unit: int = 0
    told: dict[int, Prompt] = field(default_factory=dict)  # of a timeline

    @property
    def guidance_scale(self) -> float:
        return self.guidance.at(self.unit) if self.control.scale is None else self.control.scale

    def embeds(self, prompts: Prompts) -> Tensor:
        """The embeddings as diffusers has them: the negative ones first, where there is guidance."""
        prompt = self.control.prompt or prompts[0]
        negative = self.control.negative or prompts[1]
        if negative is None or self.guidance_scale <= 1:
            return prompt.embeds
        return torch.cat([negative.embeds, prompt.embeds])

    def change(self, prompts: Prompts, embeds: Tensor) -> None:
        """Other embeddings from the next step on. ValueError where they do not fit."""
        prompt = self.control.prompt or prompts[0]
        negative = self.control.negative or prompts[1]
        rows = len(prompt.embeds)
        if embeds.shape[1:] != prompt.embeds.shape[1:] or len(embeds) not in (rows, 2 * rows):
            raise ValueError(
                f"The callback returned prompt_embeds of shape {tuple(embeds.shape)}: {rows} rows of "
                f"{tuple(prompt.embeds.shape[1:])} are needed, or twice as many, negative ones first."
            )
        if len(embeds) == 2 * rows and negative is not None:
            self.control.negative = replace(negative, embeds=embeds[:rows])
        if not torch.equal(embeds[-rows:], prompt.embeds):
            self.control.prompt = replace(prompt, embeds=embeds[-rows:])


class Clock:
    """Seconds by phase."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.began = time.perf_counter()

    def timed(self, phase: str, function: Callable, *arguments):
        """`function(*arguments)`, its time added to `phase`."""
        before = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - before

    def each(self, phase: str, items: Iterator) -> Iterator:
        """`items`, the time it takes to make them, and not their consumer's, added to `phase`."""
        while (item := self.timed(phase, next, items, None)) is not None:
            yield item

    def total(self) -> dict[str, float]:
        return self.seconds | {"total": time.perf_counter() - self.began}


def changes_of(returned: Any, x: Tensor) -> Mapping[str, Tensor]:
    """The tensors that a callback returned in place of its own, by name. ValueError for what is no such
    mapping, and for latents that cannot stand for `x`.
    """
    if returned is None:
        return {}
    if not isinstance(returned, Mapping):
        raise ValueError(
            f"The callback returned {briefly(returned)}: a dict of tensors, or None, is expected."
        )
    for name, value in returned.items():
        if name in CALLBACK_TENSORS and value is not None and not isinstance(value, Tensor):
            raise ValueError(f"The callback returned {name} = {briefly(value)}: a tensor is expected.")
    latents = returned.get("latents")
    if latents is not None and latents.shape != x.shape:
        raise ValueError(
            f"The callback returned latents of shape {tuple(latents.shape)}: {tuple(x.shape)} is needed."
        )
    if latents is not None and not torch.isfinite(latents).all():
        raise ValueError("The callback returned latents that hold NaN or infinity: return finite numbers.")
    return returned


def _scales_of(transformer, vae) -> LatentScales:
    """The latent scales that the VAE's configuration states, else those of the transformer's family."""
    return LatentScales.stated(vae.config) or family_of(transformer.published).scales


def placed(kind: Callable, checkpoint: Checkpoint, plan: Plan) -> Any:
    """A pipeline of that `kind`, PyramidFlow or that of diffusers, as a plan for memory says."""
    transformer, vae, text = loading.load(checkpoint, plan, plain=kind is PyramidFlow)
    pipe = kind(transformer, vae, text, checkpoint=checkpoint)
    loading.place(pipe, plan)
    return pipe


_request: Any = PyramidFlow.request
_request.__signature__ = signature_of(_request)


def __getattr__(name: str):
    """PyramidFlowPipeline and its output: loaded with diffusers, when they are asked for."""
    if name not in ("PyramidFlowPipeline", "PyramidFlowPipelineOutput"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("pyramid.generate.for_diffusers"), name)
