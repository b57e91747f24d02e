"""What a run is asked for, and the check that turns it into a job with nothing left to default.

    request = Request("a red ball moves to the right", num_frames=25)
    job = check(request, variant_of("128p"), channels=16, text_widths=(256, 256), has_text=True)

`Request` has the arguments of `PyramidFlowPipeline`, `Job` what the pipeline works from. Limits of sizes,
lengths, steps and guidance are those of `Settings`; here is added what only Python callers can pass:
embeddings, noise, generators, pictures in memory, callbacks. Whatever is wrong is a ValueError with the
value, the limit and the way out.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyramid.events import Unit
from pyramid.generate.sampler import Guidance
from pyramid.media.video import fit_picture, read_picture, read_video
from pyramid.settings import FRAMES_PER_UNIT, Settings, Variant, frames_of, units_of
from pyramid.text.encoders import PromptEmbeds

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
EMBEDDINGS = ("prompt_embeds", "prompt_attention_mask", "pooled_prompt_embeds")
CALLBACK_TENSORS = ("latents",)
MAX_TOKENS = 512  # what T5 was trained on


@dataclass(frozen=True, eq=False)
class Request:
    """The arguments of `PyramidFlowPipeline`. None means the checkpoint's own default, or none at all."""

    prompt: str | list[str] | None = None
    negative_prompt: str | list[str] | None = None
    image: Any = None  # the first frame: a path, PIL, (h, w, 3) array or (3, h, w) tensor
    video: Any = None  # a clip to continue: a path, or a list, array or tensor of frames
    fit: str = "crop"  # how given pictures come to the size: crop, fit or pad
    history_frames: int | None = None  # of `video`, the last so many, 1 + 8k; None: at most half the result
    num_frames: int | None = None  # of the result, given frames included: 1 + 8k; 1 is text-to-image
    height: int | None = None
    width: int | None = None
    num_inference_steps: int | list[int] | None = None  # unit 0, for each stage: 1 to 4, trained were 3
    video_num_inference_steps: int | list[int] | None = None  # later units
    guidance_scale: float | None = None  # unit 0; 1 is off
    video_guidance_scale: float | None = None  # later units
    min_guidance_scale: float = 2.0  # with guidance_decay > 0 unit u gets max(scale - decay * u, minimum)
    guidance_decay: float = 0.0
    seed: int | None = None  # sample j of a batch is what seed + j alone gives
    generator: torch.Generator | list[torch.Generator] | None = None  # draws the seed
    latents: Tensor | None = None  # (b, c, units to sample, h/8, w/8) initial noise at full resolution
    block_noise: list[Tensor] | None = None  # the noise of all jumps in order of use
    finished: list[Unit | Tensor] | None = (
        None  # the first units of a run that ended early: not sampled again
    )
    prompt_embeds: Tensor | None = None  # (b, l, d)
    prompt_attention_mask: Tensor | None = None  # (b, l)
    pooled_prompt_embeds: Tensor | None = None  # (b, p)
    negative_prompt_embeds: Tensor | None = None
    negative_prompt_attention_mask: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None
    prompt_suffix: str | None = None  # added to every prompt, not to the negative ones
    max_sequence_length: int = 128  # tokens of a prompt that are read
    output_type: str = "pil"  # pil, np, pt, or latent (in the transformer's space)
    callback_on_step_end: Callable | None = None  # (pipe, step, timestep, {"latents": x}) -> dict or None
    callback_on_step_end_tensor_inputs: tuple[str, ...] = CALLBACK_TENSORS


@dataclass(frozen=True, eq=False)
class Job:
    """A checked request."""

    request: Request
    settings: Settings  # sizes, steps, guidance, seed
    seeds: tuple[int, ...]  # one a sample
    pictures: np.ndarray | None  # the given frames at the target size, (1 + 8k, h, w, 3) uint8
    finished: tuple[
        Unit, ...
    ] = ()  # of a run that ended early; those made of pictures among them, or none of those

    @property
    def guidance(self) -> Guidance:
        s = self.settings
        return Guidance(s.guidance_scale, s.video_guidance_scale, s.min_guidance_scale, s.guidance_decay)

    @property
    def given(self) -> int:
        """How many units were made of pictures: in this run, or in the one that ended early."""
        before = sum(unit.given for unit in self.finished)
        return before or (0 if self.pictures is None else units_of(len(self.pictures)))

    @property
    def known(self) -> int:
        """How many units need no sampling."""
        return self.given + sum(not unit.given for unit in self.finished)

    @property
    def guided(self) -> bool:
        """Whether any unit needs the negative prompt."""
        return any(self.guidance.at(unit) != 1 for unit in range(self.known, self.settings.units))


def check(
    request: Request, defaults: Variant, *, channels: int, text_widths: tuple[int, int], has_text: bool
) -> Job:
    """The job of a request to a checkpoint. Raises ValueError.

    Of the checkpoint it needs the defaults, the latents' channels, the widths of the text embeddings and of
    the pooled ones, and whether there are text encoders.
    """
    settings = _settings(request, defaults)
    if request.output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type = {request.output_type!r}: choose from {', '.join(OUTPUT_TYPES)}.")
    unknown = sorted(set(request.callback_on_step_end_tensor_inputs) - set(CALLBACK_TENSORS))
    if unknown:
        raise ValueError(f"callback_on_step_end_tensor_inputs has {unknown}: only {CALLBACK_TENSORS} exist.")
    if not 1 <= request.max_sequence_length <= MAX_TOKENS:
        raise ValueError(
            f"max_sequence_length = {request.max_sequence_length}: 1 to {MAX_TOKENS}, usually 128."
        )
    batch = _batch_of(request)
    seed, seeds = _seeds_of(request, batch)
    finished = tuple(u if isinstance(u, Unit) else Unit(0, 0, u) for u in request.finished or ())
    job = Job(request, replace(settings, seed=seed), seeds, _given_pictures(request, settings), finished)
    for which in ("", "negative_") if job.guided else ("",):
        _check_text(request, which, batch, has_text)
        _check_embeddings(request, which, batch, text_widths)
    _check_noise(job, channels)
    _check_finished(job, channels)
    return job


def _settings(r: Request, d: Variant) -> Settings:
    """Sizes, lengths, steps and guidance with the defaults filled in, held to the limits of `Settings`."""
    steps = _per_stage(r.num_inference_steps, d.steps)
    # With another number of stages than the default's, later units take as many steps as the first.
    video_default = d.video_steps if len(d.video_steps) == len(steps) else steps
    asked = dict(
        num_frames=r.num_frames,
        height=r.height,
        width=r.width,
        guidance_scale=r.guidance_scale,
        video_guidance_scale=r.video_guidance_scale,
    )
    start = dict(
        num_frames=d.num_frames,
        width=d.sizes[0][0],
        height=d.sizes[0][1],
        fps=d.fps,
        guidance_scale=d.guidance_scale,
        video_guidance_scale=d.video_guidance_scale,
    )
    return Settings(
        prompt="checked apart",
        image=None if r.image is None else "given",
        video=None if r.video is None else "given",
        fit=r.fit,
        seed=r.seed,
        num_inference_steps=steps,
        video_num_inference_steps=_per_stage(r.video_num_inference_steps, video_default),
        min_guidance_scale=r.min_guidance_scale,
        guidance_decay=r.guidance_decay,
        **start | {name: value for name, value in asked.items() if value is not None},
    ).validate()


def _per_stage(steps: int | list[int] | None, default: tuple[int, ...]) -> tuple[int, ...]:
    """Step counts, one a stage; one number stands for as many equal ones as the default has."""
    if steps is None:
        return default
    return (steps,) * len(default) if isinstance(steps, int) else tuple(steps)


def as_list(text: str | list[str]) -> list[str]:
    """A prompt, or several, as a list."""
    return [text] if isinstance(text, str) else list(text)


def _batch_of(r: Request) -> int:
    """How many samples a request makes."""
    if r.prompt_embeds is not None:
        return len(r.prompt_embeds)
    if r.prompt is None:
        raise ValueError("There is neither prompt nor prompt_embeds: say what should be seen.")
    texts = as_list(r.prompt) if isinstance(r.prompt, (str, list, tuple)) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"prompt = {r.prompt!r}: a text is expected, or a list of texts.")
    return len(texts)


def _seeds_of(r: Request, batch: int) -> tuple[int, tuple[int, ...]]:
    """The seed to report and one for each sample. A generator gives one by being drawn from."""
    if r.generator is None:
        seed = secrets.randbelow(2**31) if r.seed is None else r.seed
        return seed, tuple(seed + sample for sample in range(batch))
    if r.seed is not None:
        raise ValueError("Both seed and generator are given: leave one out.")
    generators = list(r.generator) if isinstance(r.generator, (list, tuple)) else [r.generator]
    if odd := next((g for g in generators if not isinstance(g, torch.Generator)), None):
        raise ValueError(
            f"generator = {odd!r}: a torch.Generator, or a list of them, is expected; a number is a seed."
        )
    if len(generators) not in (1, batch):
        raise ValueError(f"{len(generators)} generators for {batch} prompts: one each, or one.")
    drawn = [int(torch.randint(2**31, (1,), generator=g, device=g.device)) for g in generators]
    return drawn[0], tuple(drawn) if len(drawn) == batch else tuple(drawn[0] + j for j in range(batch))


def _check_text(r: Request, which: str, batch: int, has_text: bool) -> None:
    """Prompt or embeddings, `which` = "" or "negative_": one of the two, complete, for the whole batch."""
    names = [which + name for name in EMBEDDINGS]
    text, given = getattr(r, which + "prompt"), [name for name in names if getattr(r, name) is not None]
    if given and len(given) < len(names):
        missing = ", ".join(name for name in names if name not in given)
        raise ValueError(f"{given[0]} is given without {missing}: embeddings come as all three.")
    if given and text is not None:
        raise ValueError(f"Both {which}prompt and {which}prompt_embeds are given: leave one out.")
    if not given and not has_text:
        way_out = ", or guidance scales of 1, which need no negative prompt." if which else "."
        raise ValueError(f"This checkpoint has no text encoders: pass {', '.join(names)}{way_out}")
    if text is not None and len(as_list(text)) not in (1, batch):
        raise ValueError(
            f"{len(as_list(text))} {which}prompts for a batch of {batch}: one each, or one for all."
        )


def _check_embeddings(r: Request, which: str, batch: int, text_widths: tuple[int, int]) -> None:
    """ValueError unless passed embeddings fit each other, the batch,
    the checkpoint and the prompt's length.
    """
    if getattr(r, which + EMBEDDINGS[0]) is None:
        return
    shapes = [tuple(getattr(r, which + name).shape) for name in EMBEDDINGS]
    length = shapes[0][1] if len(shapes[0]) == 3 else 0
    if which:  # both texts go through the model in one batch
        length = r.max_sequence_length if r.prompt_embeds is None else r.prompt_embeds.shape[1]
    wanted = [(length, text_widths[0]), (length,), (text_widths[1],)]
    for name, shape, ending in zip(EMBEDDINGS, shapes, wanted, strict=True):
        if shape[1:] != ending or shape[0] not in (1, batch):
            raise ValueError(f"{which}{name} has shape {shape}: this checkpoint needs {(batch, *ending)}.")


def embeddings(r: Request, which: str) -> PromptEmbeds | None:
    """The embeddings that were passed, `which` = "" or "negative_"; None where there are none."""
    given = [getattr(r, which + name) for name in EMBEDDINGS]
    return None if given[0] is None else PromptEmbeds(*given)


def _check_noise(job: Job, channels: int) -> None:
    """ValueError unless given noise has the shapes that sampling will use."""
    s, r, sampled = job.settings, job.request, job.settings.units - job.given
    batch, size = len(job.seeds), (s.height // 8, s.width // 8)
    if r.latents is not None:
        shape, wanted = tuple(r.latents.shape), (batch, channels, sampled, *size)
        # more frames than needed are welcome: the noise of a text-to-video run serves image-to-video too
        if len(shape) != 5 or shape[2] < sampled or shape[:2] + shape[3:] != wanted[:2] + wanted[3:]:
            raise ValueError(
                f"latents have shape {shape}: noise of shape {wanted} is needed "
                "(batch, channels, units to sample, height / 8, width / 8)."
            )
    if r.block_noise is not None:
        shapes = [tuple(noise.shape) for noise in r.block_noise]
        wanted = [(batch, channels, 1, *(side >> k for side in size)) for k in reversed(range(s.stages - 1))]
        if shapes != wanted * sampled:
            raise ValueError(
                f"block_noise has the shapes {shapes}: {wanted} are needed for each of {sampled} units."
            )


def _check_finished(job: Job, channels: int) -> None:
    """ValueError unless the units of an earlier run are this run's first ones."""
    s, pictures = job.settings, 0 if job.pictures is None else units_of(len(job.pictures))
    wanted = (len(job.seeds), channels, 1, s.height // 8, s.width // 8)
    for index, unit in enumerate(job.finished):
        if tuple(unit.latents.shape) != wanted:
            raise ValueError(
                f"finished unit {index} has shape {tuple(unit.latents.shape)}: this run's have {wanted}."
            )
        if not torch.isfinite(unit.latents).all():
            raise ValueError(f"finished unit {index} is not finite: leave it out, and those after it.")
    flags = [unit.given for unit in job.finished]
    if pictures and any(flags) and pictures != sum(flags) or flags != sorted(flags, reverse=True):
        raise ValueError(
            f"finished has {sum(flags)} given units, the picture or clip makes {pictures}: given "
            "units come first, as many as there were."
        )
    if job.known > s.units:
        raise ValueError(
            f"finished has {job.known} units with the given ones: num_frames = {s.num_frames} are "
            f"only {s.units}."
        )


def _given_pictures(r: Request, s: Settings) -> np.ndarray | None:
    """The given first frame, or the given clip's last frames, at the target size: (1 + 8k, h, w, 3) uint8."""
    size = (s.width, s.height)
    if r.image is not None:
        return np.array(fit_picture(_picture(r.image), *size, s.fit))[None]
    if r.video is None:
        return None
    # Half of the result at most: there is a past to see motion in, and room to go on.
    count = frames_of(max(1, s.units // 2)) if r.history_frames is None else r.history_frames
    if not 1 <= count < s.num_frames or count % FRAMES_PER_UNIT != 1:
        raise ValueError(
            f"history_frames = {count}: 1 + 8k are needed, fewer than the {s.num_frames} of the result."
        )
    if isinstance(r.video, (str, Path)):
        return read_video(r.video, *size, fps=s.fps, num_frames=count, fit=s.fit)
    if len(r.video) == 0:
        raise ValueError("video has no frames: give at least one.")
    count = frames_of(units_of(min(count, len(r.video))))
    return np.stack([np.asarray(fit_picture(_picture(frame), *size, s.fit)) for frame in r.video[-count:]])


def check_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype, or its name, that models can be loaded in: else ValueError."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype = {dtype!r}: use float32, bfloat16 or float16")
    return found


def _picture(frame: Any) -> Image.Image:
    """A frame as a PIL picture. Colour is an array's last axis, a tensor's first; floats are in [0, 1]."""
    if isinstance(frame, Image.Image):
        return frame
    if isinstance(frame, (str, Path)):
        return read_picture(frame)
    if isinstance(frame, Tensor):
        frame = frame.detach().cpu().movedim(0, -1)
        frame = frame.float() if frame.is_floating_point() else frame  # numpy has no bfloat16
    array = np.asarray(frame)
    if array.ndim != 3 or array.shape[-1] != 3 or not array.size:
        raise ValueError(
            f"A picture of shape {np.shape(frame)}: an array (h, w, 3) or a tensor (3, h, w) is needed."
        )
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # also refuses nan
            raise ValueError(f"A picture of values {array.min():g} to {array.max():g}: floats are in [0, 1].")
        array = (array * 255).round()
    elif array.dtype == np.uint16:
        array = array // 257
    elif array.dtype == bool:
        array = array * 255
    elif array.min() < 0 or array.max() > 255:
        raise ValueError(
            f"A picture of {array.dtype} values {array.min()} to {array.max()}: whole numbers are in 0 to "
            "255, or uint16."
        )
    return Image.fromarray(array.astype(np.uint8))
