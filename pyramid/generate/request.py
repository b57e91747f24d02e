"""What a run is given beside its settings, and the check that leaves nothing to default.

    settings, inputs = to_request(variant_of("128p"), "a red ball moves to the right", num_frames=25,
    image=picture) task = check(settings, inputs, channels=16, text_widths=(256, 256), has_text=True)

`Settings` hold all that is JSON and know its limits. `Inputs` is what only Python callers can pass: pictures
in memory, embeddings, noise, callbacks. `to_request` makes both of the arguments that diffusers' pipelines
have. Whatever is wrong is a ValueError with the value, the limit and the way out.
"""

import dataclasses
import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyramid.events import Unit
from pyramid.generate.arguments import known_arguments
from pyramid.generate.given import frames_of_video, picture_of
from pyramid.generate.guidance import Guidance
from pyramid.generate.sampler import Begun, Variation
from pyramid.hub.families import GRID
from pyramid.media.pictures import fit_picture
from pyramid.media.video_reader import read_given, read_video
from pyramid.settings import (
    FIELDS,
    FRAMES_PER_UNIT,
    MACHINE,
    Settings,
    Variant,
    check_value,
    frames_of,
    is_whole,
    most_given,
    plain,
    units_of,
)
from pyramid.text.cache import PromptEmbeds
from pyramid.wording import briefly

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
EMBEDDINGS = ("prompt_embeds", "prompt_attention_mask", "pooled_prompt_embeds")
NEGATIVE = tuple(f"negative_{name}" for name in EMBEDDINGS)
CALLBACK_TENSORS = ("latents", "prompt_embeds")
COUNTED = ("history_frames", "max_sequence_length", "preview_every")  # of `Inputs`: whole numbers
Words = Sequence[tuple[str | None, float]]  # prompts with weights that add up to 1; None is the run's own
MAX_TOKENS = 512  # what T5 was trained on


@dataclass(frozen=True, eq=False)
class Inputs:
    """What is not JSON. None means that the settings say it, or none at all."""

    prompts: Sequence[str] | None = None  # several samples at once, in place of the settings' prompt
    negative_prompts: Sequence[str] | None = None  # one each, or one for all
    image: Any = None  # the first frame, in any form that `given.picture_of` takes
    video: Any = None  # a clip to continue: a path, or frames as `given.frames_of_video` takes them
    history_frames: int | None = None  # of `video`, the last so many, 1 + 8k; None: at most half the result
    seeds: Sequence[int] | None = None  # one a sample; of one, or with None the settings', sample j has + j
    latents: Tensor | None = None  # (b, c, units to sample, h/8, w/8) initial noise at full resolution
    block_noise: list[Tensor] | None = None  # the noise of all jumps in order of use
    finished: Sequence[Unit | Tensor] = ()  # the first units of a run that ended early: not sampled again
    prompt_embeds: Tensor | None = None  # (b, l, d)
    prompt_attention_mask: Tensor | None = None  # (b, l)
    pooled_prompt_embeds: Tensor | None = None  # (b, p)
    negative_prompt_embeds: Tensor | None = None
    negative_prompt_attention_mask: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None
    max_sequence_length: int = 128  # tokens of a prompt that are read
    output_type: str = "pil"  # pil, np, pt, or latent (in the transformer's space)
    callback_on_step_end: Callable | None = None  # (pipe, step, timestep, {"latents": x}) -> dict or None
    callback_on_step_end_tensor_inputs: Sequence[str] = CALLBACK_TENSORS[:1]
    preview_every: int = 0  # n > 0: each n-th step of a stage, and its last, carries a denoised estimate
    stop: threading.Event | None = None  # ends the run before its next step when set
    variation_seeds: Sequence[int] | None = None  # one a sample, in place of the settings' own
    draft: Tensor | None = None  # (b, c, 1, h, w): the first sampled unit's coarsest stage, see `drafts`
    begun: Begun | None = None  # where an earlier run left a unit: its stages until there are not made again
    words: Callable[[int], Words] | None = None  # asked before each unit after the first for what it is told
    coarse: bool = False  # each unit's coarsest stage alone: units and frames are that small

    def embeddings(self, which: str) -> PromptEmbeds | None:
        """The embeddings that were passed, `which` = "" or "negative_"; None where there are none."""
        embeds, mask, pooled = (getattr(self, which + name) for name in EMBEDDINGS)
        return None if embeds is None else PromptEmbeds(embeds, mask, pooled)


# ----------------------------------------------------------------------------------------------------------
# The arguments of diffusers' pipelines

INPUTS = tuple(field.name for field in dataclasses.fields(Inputs))
OWN = ("generator", "num_videos_per_prompt")  # of `to_request`
OTHERWISE_SAID = {"prompt", "image", "video", "model", "variant", "lora", "preset", *MACHINE}
ARGUMENTS = tuple(name for name in FIELDS if name not in OTHERWISE_SAID)  # of `Settings`


def to_request(
    defaults: Variant,
    prompt: str | list[str] | None = None,
    generator: Any = None,
    num_videos_per_prompt: int = 1,
    **arguments: Any,
) -> tuple[Settings, Inputs]:
    """Settings, with a seed, and inputs of a call. What is None is as `defaults` say.

    `arguments`: fields of `Settings` and of `Inputs`. A list of prompts is a batch, and
    `num_videos_per_prompt` makes so many of each, beside each other; one step count stands for all stages;
    `generator`, a torch.Generator or a list of them, draws the seeds. A `PipelineCallback` names its tensors
    itself. Raises ValueError, and TypeError for an unknown name. `check` says whether they can be run.
    """
    arguments = known_arguments(arguments, (*ARGUMENTS, *INPUTS), "PyramidFlowPipeline()")
    inputs = _inputs_of(arguments)
    asked = {name: arguments[name] for name in ARGUMENTS if arguments.get(name) is not None}
    negative = asked.pop("negative_prompt", None)
    texts = _texts(prompt, inputs)
    several = isinstance(prompt, list | tuple)
    if (copies := plain(num_videos_per_prompt)) not in (None, 1):
        texts, negative, inputs = _copied(copies, texts, negative, inputs)
        several = True
    seeds = _seeds(asked.get("seed"), inputs.seeds, generator, len(texts))
    if seeds:
        asked["seed"] = seeds[0]
    if negative is not None and inputs.negative_prompt_embeds is not None:
        raise ValueError("Both negative_prompt and negative_prompt_embeds are given: leave one out.")
    if isinstance(negative, list | tuple):
        inputs = dataclasses.replace(inputs, negative_prompts=list(negative))
    elif negative is not None:
        asked["negative_prompt"] = negative
    sources = {name: "given" for name in ("image", "video") if getattr(inputs, name) is not None}
    settings = Settings.for_model(
        "given", defaults.name, defaults, prompt=texts[0], **sources, **asked | _steps(asked, defaults)
    )
    inputs = dataclasses.replace(inputs, prompts=texts if several else None, seeds=seeds)
    return settings.resolved(), inputs


def _inputs_of(arguments: dict[str, Any]) -> Inputs:
    """Those of the arguments that are inputs. A callback that names its tensors is taken at its word.
    ValueError for one of another type than its own.
    """
    given = {name: arguments[name] for name in INPUTS if arguments.get(name) is not None}
    if named := getattr(given.get("callback_on_step_end"), "tensor_inputs", None):
        given["callback_on_step_end_tensor_inputs"] = tuple(named)
    counted = {name: plain(given[name]) for name in (*COUNTED, "seeds", "variation_seeds") if name in given}
    inputs = Inputs(**given | counted)
    _check_kinds(inputs)
    return inputs


def _copied(copies: Any, texts: list[str], negative: Any, inputs: Inputs) -> tuple[list[str], Any, Inputs]:
    """Prompts, negative prompts and inputs for `copies` videos of each prompt. ValueError for no number."""
    if not is_whole(copies) or copies < 1:
        raise ValueError(f"num_videos_per_prompt = {copies!r}: a whole number above 0 is expected.")
    count = len(texts)
    if isinstance(negative, list | tuple) and len(negative) == count > 1:
        negative = [text for text in negative for _ in range(copies)]
    rows = {}
    for name in (*EMBEDDINGS, *NEGATIVE):
        tensor = getattr(inputs, name)
        if tensor is not None and (len(tensor) == count or not name.startswith("negative_")):
            rows[name] = tensor.repeat_interleave(copies, dim=0)
    texts = [text for text in texts for _ in range(copies)]
    return texts, negative, dataclasses.replace(inputs, **rows)


def signature_of(function: Callable) -> inspect.Signature:
    """What `help`, editors and `inspect.signature` are to show of a function that passes **arguments to
    `to_request`.
    """
    own = [p for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD]
    kind = inspect.Parameter.KEYWORD_ONLY
    settings = [inspect.Parameter(name, kind, default=None) for name in (*ARGUMENTS, *OWN)]
    inputs = [p.replace(kind=kind) for p in inspect.signature(Inputs).parameters.values()]
    return inspect.Signature([*own, *settings, *inputs])


def _texts(prompt: Any, inputs: Inputs) -> list[str]:
    """The prompts; of embeddings, as many words that stand for them."""
    if inputs.prompt_embeds is not None:
        complete = all(getattr(inputs, name) is not None for name in EMBEDDINGS)
        if prompt is not None and complete:  # `check` tells what is missing
            raise ValueError("Both prompt and prompt_embeds are given: leave one out.")
        return ["given as prompt_embeds"] * max(1, len(inputs.prompt_embeds))  # `check` refuses none
    if prompt is None:
        raise ValueError("There is neither prompt nor prompt_embeds: say what should be seen.")
    texts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"prompt = {prompt!r}: a text is expected, or a list of texts.")
    return list(texts)


def _steps(asked: dict[str, Any], defaults: Variant) -> dict[str, Any]:
    """Step counts, one a stage; one number stands for as many equal ones as the defaults have.

    With another number of stages than the defaults', later units take as many steps as the first.
    """

    def per_stage(steps: Any) -> Any:
        steps = plain(steps)
        return (steps,) * len(defaults.steps) if is_whole(steps) else steps

    steps = per_stage(asked.get("num_inference_steps", defaults.steps))
    fits = isinstance(steps, list | tuple) and len(defaults.video_steps) == len(steps)
    later = defaults.video_steps if fits else steps
    later = per_stage(asked.get("video_num_inference_steps", later))
    return {"num_inference_steps": steps, "video_num_inference_steps": later}


def _seeds(seed: Any, seeds: Any, generator: Any, batch: int) -> list[int] | None:
    """One seed a sample, as `seeds` has them or as generators give them by being drawn from. None where
    there are neither, and where `seed` says it. ValueError for more than one of the three.
    """
    ways = {"seed": seed, "seeds": seeds, "generator": generator}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"Both {given[0]} and {given[1]} are given: leave one out.")
    if seeds is not None:
        return _one_each(seeds, batch)
    if generator is None:
        return None
    generators = list(generator) if isinstance(generator, list | tuple) else [generator]
    if odd := next((g for g in generators if not isinstance(g, torch.Generator)), None):
        raise ValueError(
            f"generator = {odd!r}: a torch.Generator, or a list of them, is expected; a number is a seed."
        )
    if len(generators) not in (1, batch):
        raise ValueError(f"{len(generators)} generators for {batch} prompts: one each, or one.")
    drawn = [int(torch.randint(2**31, (1,), generator=g, device=g.device)) for g in generators]
    return drawn if len(drawn) == batch else _in_a_row(drawn[0], batch)


def _in_a_row(seed: int, batch: int) -> list[int]:
    """The seeds of a batch that begins with `seed`."""
    return [seed + sample for sample in range(batch)]


def _one_each(seeds: Sequence[int], batch: int) -> list[int]:
    """Given seeds, one a sample; of a single one those that follow it. ValueError for others than that."""
    if len(seeds) not in (1, batch):
        raise ValueError(
            f"{len(seeds)} seeds for a batch of {batch}: one each, or one; num_videos_per_prompt makes "
            "several videos of a prompt."
        )
    checked = [check_value("seed", seed) for seed in seeds]
    return checked if len(checked) == batch else _in_a_row(checked[0], batch)


# ----------------------------------------------------------------------------------------------------------
# The check


@dataclass(frozen=True, eq=False)
class Task:
    """Settings and inputs that were checked, with nothing left to default."""

    settings: Settings
    inputs: Inputs
    prompts: tuple[str, ...]  # empty where embeddings were passed
    seeds: tuple[int, ...]  # one a sample
    pictures: np.ndarray | None  # the given frames at the target size, (1 + 8k, h, w, 3) uint8
    finished: tuple[Unit, ...] = ()  # of a run that ended early: all of its given units, or none of them

    @property
    def texts(self) -> list[str]:
        """What the text encoders read."""
        return [prompt + self.settings.prompt_suffix for prompt in self.prompts]

    @property
    def negative_texts(self) -> list[str]:
        """The same of the negative prompts: one each, or one for all."""
        return list(self.inputs.negative_prompts or [self.settings.negative_prompt])

    @property
    def guidance(self) -> Guidance:
        return Guidance.of(self.settings)

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
    def variation(self) -> Variation | None:
        """What the noise of the first unit is blended with."""
        s = self.settings
        seeds = self.inputs.variation_seeds
        if seeds is None and s.variation_seed is not None:
            seeds = [s.variation_seed] * len(self.seeds)
        return None if seeds is None else Variation(seeds, s.variation_strength)

    @property
    def begun(self) -> Begun | None:
        """Where an earlier run, or a draft, left a unit that is to be sampled."""
        if self.inputs.begun is not None:
            return self.inputs.begun if self.inputs.begun.unit >= self.known else None
        draft = self.inputs.draft
        return None if draft is None else Begun(self.given, 0, draft)

    @property
    def endless(self) -> bool:
        """Whether units are let go once they are decoded and out of sight."""
        return self.settings.history_units > 0 and self.inputs.output_type != "latent"

    @property
    def guided(self) -> bool:
        """Whether any unit needs the negative prompt."""
        guidance = self.guidance
        s = self.settings
        sampled = range(self.known, s.units)
        return any(guidance.at(unit, stage) != 1 for unit in sampled for stage in range(s.stages))

    @property
    def told(self) -> dict[int, tuple[tuple[str | None, float], ...]]:
        """By unit, the prompts that a timeline has there, and their weights; None is the request's own."""
        plans = {unit: self.settings.plan_of(unit) for unit in self._directed}
        return {unit: plan.words for unit, plan in plans.items() if plan.words != ((None, 1.0),)}

    @property
    def unit_steps(self) -> dict[int, tuple[int, ...]]:
        """By unit, the steps that a timeline has there."""
        return {unit: self.settings.plan_of(unit).steps for unit in self._directed}

    @property
    def unit_seeds(self) -> dict[int, list[int]]:
        """By unit, the seeds that a timeline has there, one a sample."""
        seeds = {unit: self.settings.plan_of(unit).seed for unit in self._directed}
        batch = len(self.seeds)
        return {unit: _in_a_row(seed, batch) for unit, seed in seeds.items() if seed is not None}

    @property
    def _directed(self) -> range:
        return range(self.known, self.settings.units) if self.settings.cues else range(0)


def check(
    settings: Settings, inputs: Inputs, *, channels: int, text_widths: tuple[int, int], has_text: bool
) -> Task:
    """The task of a request to a checkpoint. Raises ValueError.

    Of the checkpoint it needs the latents' channels, the widths of the text embeddings and of the pooled
    ones, and whether there are text encoders.
    """
    settings = settings.resolved().validate()
    _check_kinds(inputs)
    _check_options(inputs)
    _check_each_text(inputs)
    prompts = tuple(inputs.prompts or [settings.prompt]) if inputs.prompt_embeds is None else ()
    batch = len(prompts) if inputs.prompt_embeds is None else max(1, len(inputs.prompt_embeds))
    assert settings.seed is not None, "resolved settings have one"
    seeds = _in_a_row(settings.seed, batch) if inputs.seeds is None else _one_each(inputs.seeds, batch)
    finished = tuple(u if isinstance(u, Unit) else Unit(0, 0, u) for u in inputs.finished)
    task = Task(
        settings, inputs, prompts, tuple(seeds), _given_pictures(settings, inputs, finished), finished
    )
    for which in ("", "negative_") if task.guided else ("",):
        _check_text(inputs, which, batch, has_text)
        _check_embeddings(inputs, which, batch, text_widths)
    _check_noise(task, channels)
    _check_finished(task, channels)
    _check_draft(task, channels)
    return task


def _list_of(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(isinstance(each, kinds) for each in value)


def _are_whole(value: Any) -> bool:
    return isinstance(value, Sequence) and all(is_whole(plain(each)) for each in value)


TENSOR = (lambda value: isinstance(value, Tensor), "a tensor of torch (torch.as_tensor makes one of numbers)")
FUNCTION = (callable, "a function")
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {  # of `Inputs`, beside what `given` reads
    **dict.fromkeys(("latents", "draft", *EMBEDDINGS, *NEGATIVE), TENSOR),
    "block_noise": (_list_of(Tensor), "a list of tensors"),
    "seeds": (_are_whole, "a list of whole numbers; one number by itself is seed"),
    "variation_seeds": (_are_whole, "a list of whole numbers; one number by itself is variation_seed"),
    "finished": (_list_of(Unit, Tensor), "a list of Unit events, or of tensors"),
    "begun": (lambda value: isinstance(value, Begun), "a Begun of pyramid.generate.sampler"),
    "callback_on_step_end": FUNCTION,
    "callback_on_step_end_tensor_inputs": (_list_of(str), 'a list of names, such as ["latents"]'),
    "words": FUNCTION,
    "stop": (lambda value: hasattr(value, "is_set"), "a threading.Event"),
    "prompts": (_list_of(str), "a list of texts"),
    "negative_prompts": (_list_of(str), "a list of texts"),
}


def _check_kinds(inputs: Inputs) -> None:
    """ValueError for an input of another type than its own, and for tensors with a NaN or an infinity."""
    for name, (is_one, words) in KINDS.items():
        value = getattr(inputs, name)
        if value is None:
            continue
        if not is_one(value):
            raise ValueError(f"{name} = {briefly(value)}: give {words}.")
        parts = value if name == "block_noise" else [value]
        if not all(torch.isfinite(part).all() for part in parts if isinstance(part, Tensor)):
            raise ValueError(f"{name} holds NaN or infinity: use finite numbers, or leave it out.")


def _check_each_text(inputs: Inputs) -> None:
    """SettingsError for a text of a batch that would be refused by itself."""
    for name, texts in (("prompt", inputs.prompts), ("negative_prompt", inputs.negative_prompts)):
        for text in texts or ():
            check_value(name, text)


def _check_options(inputs: Inputs) -> None:
    if inputs.output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type = {inputs.output_type!r}: choose from {', '.join(OUTPUT_TYPES)}.")
    for name in COUNTED:
        value = getattr(inputs, name)
        if value is not None and not is_whole(value):
            raise ValueError(f"{name} = {value!r}: a whole number is expected.")
    unknown = sorted(set(inputs.callback_on_step_end_tensor_inputs) - set(CALLBACK_TENSORS))
    if unknown:
        raise ValueError(f"callback_on_step_end_tensor_inputs has {unknown}: only {CALLBACK_TENSORS} exist.")
    if not 1 <= inputs.max_sequence_length <= MAX_TOKENS:
        raise ValueError(
            f"max_sequence_length = {inputs.max_sequence_length}: 1 to {MAX_TOKENS}, usually 128."
        )
    if inputs.preview_every < 0:
        raise ValueError(
            f"preview_every = {inputs.preview_every}: 0 for none, n for each n-th step of a stage."
        )


def _check_text(inputs: Inputs, which: str, batch: int, has_text: bool) -> None:
    """Texts or embeddings, `which` = "" or "negative_": one of the two, complete, for the whole batch."""
    names = [which + name for name in EMBEDDINGS]
    given = [name for name in names if getattr(inputs, name) is not None]
    if given and len(given) < len(names):
        missing = ", ".join(name for name in names if name not in given)
        raise ValueError(f"{given[0]} is given without {missing}: embeddings come as all three.")
    if not given and not has_text:
        way_out = ", or guidance scales of 1, which need no negative prompt." if which else "."
        raise ValueError(f"This checkpoint has no text encoders: pass {', '.join(names)}{way_out}")
    texts = inputs.negative_prompts if which else inputs.prompts
    if texts is not None and len(texts) not in (1, batch):
        raise ValueError(f"{len(texts)} {which}prompts for a batch of {batch}: one each, or one for all.")


def _check_embeddings(inputs: Inputs, which: str, batch: int, text_widths: tuple[int, int]) -> None:
    """ValueError unless passed embeddings fit each other, the batch,
    the checkpoint and the prompt's length.
    """
    if getattr(inputs, which + EMBEDDINGS[0]) is None:
        return
    shapes = [tuple(getattr(inputs, which + name).shape) for name in EMBEDDINGS]
    length = shapes[0][1] if len(shapes[0]) == 3 else 0
    if which:  # both texts go through the model in one batch
        positive = inputs.prompt_embeds
        length = inputs.max_sequence_length if positive is None else positive.shape[1]
    wanted = [(length, text_widths[0]), (length,), (text_widths[1],)]
    for name, shape, ending in zip(EMBEDDINGS, shapes, wanted, strict=True):
        if shape[1:] != ending or shape[0] not in (1, batch):
            raise ValueError(f"{which}{name} has shape {shape}: this checkpoint needs {(batch, *ending)}.")


def _check_noise(task: Task, channels: int) -> None:
    """ValueError unless given noise has the shapes that sampling will use."""
    s = task.settings
    given = task.inputs
    sampled = s.units - task.given
    batch = len(task.seeds)
    size = GRID.latent_shape(s.width, s.height)
    if given.latents is not None:
        shape = tuple(given.latents.shape)
        needed = (batch, channels, sampled, *size)
        # more frames than needed are welcome: the noise of a text-to-video run serves image-to-video too
        if len(shape) != 5 or shape[2] < sampled or shape[:2] + shape[3:] != needed[:2] + needed[3:]:
            raise ValueError(
                f"latents have shape {shape}: noise of shape {needed} is needed "
                "(batch, channels, units to sample, height / 8, width / 8)."
            )
    if given.block_noise is not None:
        shapes = [tuple(noise.shape) for noise in given.block_noise]
        wanted = [(batch, channels, 1, *(side >> k for side in size)) for k in reversed(range(s.stages - 1))]
        if shapes != wanted * sampled:
            raise ValueError(
                f"block_noise has the shapes {shapes}: {wanted} are needed for each of {sampled} units."
            )


def _check_finished(task: Task, channels: int) -> None:
    """ValueError unless the units of an earlier run are this run's first ones."""
    s = task.settings
    pictures = 0 if task.pictures is None else units_of(len(task.pictures))
    wanted = (len(task.seeds), channels, 1, *GRID.latent_shape(s.width, s.height))
    for index, unit in enumerate(task.finished):
        if tuple(unit.latents.shape) != wanted:
            raise ValueError(
                f"finished unit {index} has shape {tuple(unit.latents.shape)}: this run's have {wanted}."
            )
        if not torch.isfinite(unit.latents).all():
            raise ValueError(f"finished unit {index} is not finite: leave it out, and those after it.")
    flags = [unit.given for unit in task.finished]
    if pictures and any(flags) and pictures != sum(flags) or flags != sorted(flags, reverse=True):
        raise ValueError(
            f"finished has {sum(flags)} given units, the picture or clip makes {pictures}: given "
            "units come first, as many as there were."
        )
    if task.known > s.units:
        raise ValueError(
            f"finished has {task.known} units with the given ones: num_frames = {s.num_frames} are "
            f"only {s.units}."
        )


def _check_draft(task: Task, channels: int) -> None:
    """ValueError unless what is there of a unit is of its stage's shape, and variations have a seed each."""
    s = task.settings
    inputs = task.inputs
    begun = task.begun
    if begun is not None:
        name = "draft" if inputs.begun is None else "begun"
        if not 0 <= begun.stage < s.stages:
            raise ValueError(f"{name} is of stage {begun.stage}: there are {s.stages}, which count from 0.")
        height, width = (
            side >> (s.stages - 1 - begun.stage) for side in GRID.latent_shape(s.width, s.height)
        )
        wanted = (len(task.seeds), channels, 1, height, width)
        if tuple(begun.latents.shape) != wanted:
            raise ValueError(f"{name} has shape {tuple(begun.latents.shape)}: {wanted} is needed.")
    if inputs.variation_seeds is not None and len(inputs.variation_seeds) != len(task.seeds):
        raise ValueError(
            f"{len(inputs.variation_seeds)} variation_seeds for {len(task.seeds)} samples: one each."
        )
    for seed in inputs.variation_seeds or ():
        check_value("variation_seed", seed)


def _given_pictures(s: Settings, inputs: Inputs, finished: Sequence[Unit]) -> np.ndarray | None:
    """The given first frame, or the given clip's last frames, at the target size: (1 + 8k, h, w, 3) uint8."""
    size = (s.width, s.height)
    image = inputs.image
    video = inputs.video
    if inputs.history_frames is not None and video is None and s.video is None:
        raise ValueError(
            f"history_frames = {inputs.history_frames} is of a video, and none is given: give video, or "
            "leave it out."
        )
    if image is None and video is None and not any(unit.given for unit in finished):
        read = read_given(s)
        image = read.get("image")
        video = read.get("video")
    if image is not None:
        return np.array(fit_picture(picture_of(image), *size, s.fit))[None]
    if video is None:
        return None
    count = most_given(s.units) if inputs.history_frames is None else inputs.history_frames
    if not 1 <= count < s.num_frames or count % FRAMES_PER_UNIT != 1:
        raise ValueError(
            f"history_frames = {count}: 1 + 8k are needed, fewer than the {s.num_frames} of the result."
        )
    if isinstance(video, str) and video.startswith(("http://", "https://")):
        raise ValueError(f"{video!r} is an address: nothing is fetched here; save the video first.")
    if isinstance(video, str | Path):
        return read_video(video, *size, fps=s.fps, num_frames=count, fit=s.fit)
    frames = frames_of_video(video)
    count = frames_of(units_of(min(count, len(frames))))
    return np.stack([np.asarray(fit_picture(picture_of(frame), *size, s.fit)) for frame in frames[-count:]])


def check_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype, or its name, that models can be loaded in: else ValueError."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype = {dtype!r}: use float32, bfloat16 or float16")
    return found
