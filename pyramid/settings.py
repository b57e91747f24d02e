"""The settings of one generation: what may be asked, and within which limits.

    settings = Settings.for_model("embedded", prompt="a red ball moves to the right", seed=7).resolved()
    settings.validate()            # SettingsError (a ValueError) with the value, the limit and the way out
    Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings

The fields of `Settings` are the one table of settings: each is declared once, with its type, default, bounds,
choices, label, help, unit and group. `TABLE` is read by the checks here, by the flags of the command line, by
the page's form, by the schema of the endpoints, by the tables that compare results and by docs/settings.md.

    check_value("fps", 8)          # one value by itself: 8, or SettingsError

Sizes and lengths follow the model (arXiv 2410.05954): a unit is 8 frames, the first one 1, so a clip has
1 + 8k frames; the autoencoder divides sizes by 8, a patch by 2, and each stage below the finest by 2 more.
"""

import dataclasses
import difflib
import json
import math
import numbers
import os
import re
import secrets
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pyramid.timeline import Cue, UnitPlan, plan_unit, read_timeline, write_timeline
from pyramid.wording import briefly

FORMAT_VERSION = 1  # of `to_dict`; raised when a field changes its meaning
FRAMES_PER_UNIT = 8
PIXELS_PER_PATCH = 8 * 2  # autoencoder × transformer patch
MAX_STAGES = 4
TRAINED_STAGES = 3
NEAR = 0.68  # of a name to another: "negative" is meant as one of ours, "color" is not meant as "lora"
MAX_SEED = 2**53 - 1  # the largest whole number that survives JSON in a browser
MAX_SIZE = 4096  # pixels a side: ten times the largest trained area is a typing error
MAX_STEPS = 200
MAX_LORA = 4  # strength of a LoRA, in either direction
MAX_UNITS = 256
MAX_DRAFTS = 64  # in a batch
ENDLESS_UNITS = 10_000  # where the history is bounded
CORRECTIONS = ("none", "statistics")
MAX_PROMPT = 2000  # characters; the text encoders read 128 tokens at most
FITS = ("crop", "fit", "pad")
DTYPES = ("auto", "bfloat16", "float16", "float32")
SAMPLERS = ("reference", "even", "multistep")
PHOTOS = "-photos"  # the end of the names of variants that were taught to move a camera over photographs
FAST = "-fast"  # the end of the names of variants that were taught to take few steps
SPEEDS = {  # what `presets.at_speed` makes of them, for people
    "quick": "the least work: the model's fast variant, where it has one, else half of the steps with the "
    "multistep sampler. A seed makes another video than with the reference, and detail may suffer",
    "balanced": "about half of the work: five eighths of the steps with the multistep sampler. A seed makes "
    "nearly the video that it makes with the reference",
    "reference": "the model's own steps, taken as the released models were published",
}
QUANTIZE = ("none", "int8", "nf4", "fp8")  # see `memory.Part`
RELEASED_SUFFIX = ", hyper quality, Ultra HD, 8K"
RELEASED_NEGATIVE = (
    "cartoon style, worst quality, low quality, blurry, absolute black, absolute white, low res, "
    "extra limbs, extra digits, misplaced objects, mutated anatomy, monochrome, horror"
)


class SettingsError(ValueError):
    """A setting that cannot be used: `field` names it, the message says value, limit and way out.

    Where the message begins with the setting's name, `problem` is the rest: a front end calls the setting by
    its own word for it, see `told`. `part` is the stage, where only one of several numbers is wrong.
    """

    def __init__(self, field: str, message: str, *, named: bool = False, part: str = "", before: str = ""):
        self.field = field
        self.problem = message
        self.named = named
        self.part = part
        self.before = before
        super().__init__(self.told(str))

    def told(self, name_of: Callable[[str], str]) -> str:
        """The message with the name that `name_of` gives to the field."""
        if not self.named:
            return self.before + self.problem
        part = f", {self.part}" if self.part else ""
        return f"{self.before}{name_of(self.field)}{part} {self.problem}"

    def within(self, before: str) -> "SettingsError":
        """The same, said of something larger: `before` comes first, such as the name of a file."""
        return SettingsError(
            self.field, self.problem, named=self.named, part=self.part, before=before + self.before
        )


# What settings are called in other programs, on their pages and in their files.
ELSEWHERE = {
    "text": "prompt",
    "caption": "prompt",
    "negative": "negative_prompt",
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "guidance": "guidance_scale",
    "video_guidance": "video_guidance_scale",
    "min_guidance": "min_guidance_scale",
    "steps": "num_inference_steps",
    "num_steps": "num_inference_steps",
    "sampling_steps": "num_inference_steps",
    "video_steps": "video_num_inference_steps",
    "frames": "num_frames",
    "length": "num_frames",
    "video_length": "num_frames",
    "temp": "num_frames",
    "duration": "seconds",
    "frame_rate": "fps",
    "framerate": "fps",
    "init_image": "image",
    "input_image": "image",
    "picture": "image",
    "init_video": "video",
    "input_video": "video",
    "noise_seed": "seed",
    "random_seed": "seed",
    "checkpoint": "model",
    "precision": "dtype",
    "torch_dtype": "dtype",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
}


# -- what models expect
@dataclass(frozen=True)
class Variant:
    """What one set of weights was trained for, and the settings it starts with."""

    name: str
    sizes: tuple[tuple[int, int], ...]  # (width, height), the first is the default
    units: int  # most units it was trained for
    num_frames: int
    fps: int
    steps: tuple[int, ...]
    video_steps: tuple[int, ...]
    guidance_scale: float
    video_guidance_scale: float
    prompt_suffix: str = RELEASED_SUFFIX
    negative_prompt: str = RELEASED_NEGATIVE
    sampler: str = "reference"
    guided_stages: int = 0  # 0: all of them
    photographs: bool = True  # whether it was trained on them, or on drawn scenes alone

    @property
    def width(self) -> int:
        return self.sizes[0][0]

    @property
    def height(self) -> int:
        return self.sizes[0][1]


VARIANTS = {
    v.name: v
    for v in (
        Variant("128p", ((128, 128),), 4, 25, 8, (10, 10, 10), (10, 10, 10), 4, 4, "", ""),
        Variant("384p", ((640, 384),), 16, 121, 24, (20, 20, 20), (10, 10, 10), 7, 5),
        Variant("768p", ((1280, 768),), 31, 121, 24, (20, 20, 20), (10, 10, 10), 9, 5),
        Variant(
            "image", ((1024, 1024), (1280, 768), (768, 1280)), 1, 1, 24, (20, 20, 20), (10, 10, 10), 9, 5
        ),
    )
}
MODELS = {  # short names and the variants each has, the first is the default
    "embedded": ("128p", "128p-fast", "128p-photos"),
    "miniflux": ("384p", "768p", "image"),
    "sd3": ("384p", "768p"),
}


def known_variant(name: str) -> Variant | None:
    """What variant `name` expects. One that was trained on from another, as 128p-fast from 128p, expects what
    that one does; its checkpoint says where it differs.
    """
    known = VARIANTS.get(name) or VARIANTS.get(name.partition("-")[0])
    return known and dataclasses.replace(known, name=name)


def variant_of(name: str) -> Variant:
    """The same; an unknown name (somebody's own training) gets 384p's starting values."""
    return known_variant(name) or dataclasses.replace(VARIANTS["384p"], name=name)


def evaluations(sampler: str, steps: Sequence[int]) -> tuple[int, ...]:
    """How often `sampler` asks the transformer at each stage, where `steps` are wanted.

    The reference's last step crosses a thousandth of a stage: the others leave it out, where it is not one of
    two.
    """
    if sampler == "reference":
        return tuple(steps)
    return tuple(count - 1 if count > 2 else count for count in steps)


# -- pixels, frames and seconds
def size_grid(stages: int) -> int:
    """Pixels that width and height must be multiples of, for `stages` resolutions: 16·2^(stages − 1)."""
    return PIXELS_PER_PATCH * 2 ** (stages - 1)


def units_of(num_frames: int) -> int:
    """Units (latent frames) of a clip of `num_frames` = 1 + 8k frames: 1 + k."""
    return 1 + (num_frames - 1) // FRAMES_PER_UNIT


def frames_of(units: int) -> int:
    """Frames of a clip of `units` units: 1 + 8·(units − 1)."""
    return 1 + FRAMES_PER_UNIT * (units - 1)


def most_given(units: int) -> int:
    """Frames of a given clip that a result of `units` units begins with, at most: half of its units, so
    there is a past to see motion in and room to go on.
    """
    return frames_of(max(1, units // 2))


def frames_for_seconds(seconds: float, fps: int) -> int:
    """The 1 + 8k frames, k ≥ 1, whose duration at `fps` is nearest to `seconds` > 0. 5 s at 24 fps: 121."""
    seconds = plain(seconds)
    if not is_number(seconds):
        shown = "is empty" if seconds is None else f"= {seconds!r}"
        raise SettingsError("seconds", f"{shown}: a number is expected", named=True)
    if not seconds > 0:  # also refuses nan
        problem = f"= {briefly(seconds)}: a length must be greater than 0; a still has 1 frame"
        raise SettingsError("seconds", problem, named=True)
    longest = frames_of(MAX_UNITS)
    most = seconds_of(longest, fps)
    frames = (
        frames_of(1 + max(1, round(seconds * fps / FRAMES_PER_UNIT))) if seconds <= 2 * most else 2 * longest
    )
    if frames > longest:
        problem = f"= {briefly(seconds)}: at most {most:g} s at {fps} frames a second, so give fewer"
        raise SettingsError("seconds", problem, named=True)
    return frames


def seconds_of(num_frames: int, fps: int) -> float:
    """Duration from the first frame to the last: (num_frames − 1) / fps seconds; 0 for a still."""
    return (num_frames - 1) / fps


# -- the table of settings
@dataclass(frozen=True)
class Spec:
    """What the program knows of one setting. `name`, `kind` and `default` are those of the field."""

    label: str  # what people call it
    help: str  # a sentence without its full stop
    group: str  # one of GROUPS
    low: float | None = None
    high: float | None = None  # for text: the most characters
    step: float | None = None  # of a slider
    choices: tuple[str, ...] = ()
    unit: str = ""
    advice: str = ""  # the way out when a value is refused
    rule: Callable[[Any], str | None] | None = None  # what else is wrong with a value, if anything
    blank: bool = True  # whether text may be empty
    short: str = ""  # the label under the title of its group
    flag: str = ""  # where the command line has a shorter word than the name
    metavar: str | None = None
    of_model: str = ""  # the field of `Variant` that a model's settings start with
    tables: bool = False  # whether JSON's lists are taken too, and held as text
    former: tuple[str, ...] = ()  # names in records, presets, lists and flags of earlier versions
    name: str = ""
    kind: Any = str
    default: Any = None

    @property
    def option(self) -> str:
        """The flag of the command line."""
        return "--" + (self.flag or self.name).replace("_", "-")


GROUPS = {  # in the order of pages, help and documents; and the titles there
    "prompt": "Prompt",
    "start": "Picture or video to begin with",
    "length": "Length and size",
    "steps": "Steps",
    "guidance": "Guidance: how closely the words are followed",
    "falling": "Guidance of later units, falling in a line",
    "more": "More",
    "seed": "Seed",
    "variation": "Variation of a seed: its noise, blended with another's",
    "timeline": "Timeline: what is told from which unit on",
    "endless": "Long clips",
    "model": "Model",
    "lora": "LoRA: small changes of the model",
    "machine": "Machine",  # chosen for a machine, not for a video
}


def setting(default: Any, label: str, help: str, group: str, **more: Any) -> Any:
    """A field of `Settings` and its entry in the table; `more` are the further fields of `Spec`."""
    return dataclasses.field(default=default, metadata={"spec": Spec(label, help, group, **more)})


def _text_problem(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"holds bytes that are no text (at {text[: error.start][-20:]!r}): type it again"
    return None


def _length_problem(num_frames: int) -> str | None:
    if (num_frames - 1) % FRAMES_PER_UNIT == 0:
        return None
    below = frames_of(units_of(num_frames))
    return (
        f"= {num_frames} is not 1 more than a multiple of {FRAMES_PER_UNIT}, as the autoencoder needs: "
        f"use {below} or {below + FRAMES_PER_UNIT}"
    )


def loras_at_work(text: str) -> list[tuple[str, float]]:
    """Those of `loras_of` that change anything: their strength is not 0."""
    return [(name, strength) for name, strength in loras_of(text) if strength]


def loras_of(text: str) -> tuple[tuple[str, float], ...]:
    """(name, strength) of each LoRA in "sketch:0.8, slow"; 1 where no strength is said.

    Raises ValueError for an entry without a name, and for a strength outside MAX_LORA.
    """
    found: list[tuple[str, float]] = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name = entry
        strength = 1.0
        before, colon, number = entry.rpartition(":")
        if colon:
            with suppress(ValueError):  # the colon of a Windows drive
                strength = float(number)
                name = before.strip()
        if not name:
            raise ValueError(f"= {text!r}: NAME or NAME:STRENGTH is expected, not {entry!r}")
        if not -MAX_LORA <= strength <= MAX_LORA:  # also refuses nan
            raise ValueError(f"= {text!r}: the strength of {name} is outside -{MAX_LORA} to {MAX_LORA}")
        if any(name == other for other, _ in found):
            raise ValueError(f"= {text!r}: {name} is named twice")
        found.append((name, strength))
    return tuple(found)


def _timeline_problem(text: str) -> str | None:
    """What is wrong with a timeline by itself; `Settings.check_shape` knows how many stages there are."""
    try:
        for cue in read_timeline(text):
            if cue.prompt is not None:
                check_value("prompt", cue.prompt)
            for scale in cue.guidance:
                check_value("video_guidance_scale", scale)
            if cue.steps:
                check_value("video_num_inference_steps", cue.steps)
    except ValueError as error:
        return f"cannot be used: {error}"
    return None


def _lora_problem(text: str) -> str | None:
    try:
        loras_of(text)
    except ValueError as error:
        return str(error)
    return None


def _variant_problem(variant: str) -> str | None:
    if re.fullmatch(r"[A-Za-z0-9._-]+", variant):
        return None
    return f"= {variant!r}: a name like 384p is expected"


def _device_problem(device: str) -> str | None:
    if re.fullmatch(r"auto|cpu|mps|xpu|cuda(:\d+)?", device):
        return None
    return f"= {device!r}: use auto, cpu, mps, xpu, cuda, cuda:1"


PROMPT_LIMITS = {"high": MAX_PROMPT, "rule": _text_problem, "metavar": "TEXT"}
SIZE_LIMITS = {"low": PIXELS_PER_PATCH, "high": MAX_SIZE, "step": 16, "unit": "pixels"}
STEP_LIMITS = {"low": 1, "high": MAX_STEPS, "metavar": "N,N,N", "advice": "10 or 20 steps a stage are usual"}
GUIDANCE_LIMITS = {"low": 1, "high": 30, "step": 0.5, "advice": "1 turns guidance off, 4 to 9 is usual"}


@dataclass(frozen=True)
class Settings:
    """Everything that decides one result. The defaults are the embedded model's; `for_model` gives another's.

    Immutable: `dataclasses.replace(settings, seed=1)` makes a changed copy. `image` and `video` are paths;
    `seed` is None until `resolved()` draws one; `num_frames` counts the whole result, given frames included.
    Guidance 1 turns guidance off. With `guidance_decay` > 0 the guidance of unit u is
    max(video_guidance_scale − guidance_decay·u, min_guidance_scale). With `guided_stages` > 0 it is 1 at the
    stages behind so many; a timeline's guidance is taken as it is.
    """

    prompt: str = setting(
        "",
        "Prompt",
        "what should be seen",
        "prompt",
        blank=False,
        advice='say what to see, such as "a red ball stays still"',
        **PROMPT_LIMITS,
    )
    negative_prompt: str = setting(
        "",
        "Negative prompt",
        "what should not be seen",
        "prompt",
        of_model="negative_prompt",
        **PROMPT_LIMITS,
    )
    prompt_suffix: str = setting(
        "", "Quality words", "words added to the prompt", "prompt", of_model="prompt_suffix", **PROMPT_LIMITS
    )
    image: str | None = setting(
        None, "Picture", "a picture that becomes the first frame", "start", metavar="FILE"
    )
    video: str | None = setting(None, "Video", "a video that is continued", "start", metavar="FILE")
    fit: str = setting(
        "crop",
        "Resize mode",
        "how a given picture comes to the size",
        "start",
        choices=FITS,
        metavar="HOW",
    )
    num_frames: int = setting(
        25,
        "Frames",
        "length as 1 + 8k frames; 1 makes a picture",
        "length",
        low=1,
        high=frames_of(ENDLESS_UNITS),
        rule=_length_problem,
        advice="1 is a still, 1 + 8k (25, 121) a clip",
        of_model="num_frames",
    )
    fps: int = setting(
        8,
        "Frames a second",
        "frames a second of the file",
        "length",
        low=1,
        high=120,
        advice="the released models were trained at 24, the embedded one at 8",
        of_model="fps",
    )
    width: int = setting(
        128,
        "Width",
        "a multiple of 64",
        "length",
        advice="multiples of 64 are usual",
        of_model="width",
        **SIZE_LIMITS,
    )
    height: int = setting(
        128,
        "Height",
        "a multiple of 64",
        "length",
        advice="multiples of 64 are usual",
        of_model="height",
        **SIZE_LIMITS,
    )
    num_inference_steps: tuple[int, ...] = setting(
        VARIANTS["128p"].steps,
        "Steps for the first frame",
        "steps of each stage for the first frame; one number for all alike",
        "steps",
        flag="steps",
        of_model="steps",
        **STEP_LIMITS,
    )
    video_num_inference_steps: tuple[int, ...] = setting(
        VARIANTS["128p"].video_steps,
        "Steps for each later unit",
        "the same for the frames after it, of which a unit has 8",
        "steps",
        flag="video_steps",
        of_model="video_steps",
        **STEP_LIMITS,
    )
    sampler: str = setting(
        "reference",
        "Sampler",
        "reference is the released models', even leaves out a stage's last step, which does next to nothing, "
        "multistep looks back at the step before: less error",
        "steps",
        choices=SAMPLERS,
        of_model="sampler",
    )
    block_cache: float = setting(
        0.0,
        "Block cache",
        "leaves a step's other blocks out where its first one changes by less than this share: faster, and "
        "not the same video; 0 is off, 0.1 to 0.3 saves much",
        "steps",
        low=0,
        high=1,
        step=0.01,
    )
    guidance_scale: float = setting(
        VARIANTS["128p"].guidance_scale,
        "Guidance for the first frame",
        "how closely the first frame follows the prompt; 1 is off",
        "guidance",
        short="First frame",
        flag="guidance",
        of_model="guidance_scale",
        **GUIDANCE_LIMITS,
    )
    video_guidance_scale: float = setting(
        VARIANTS["128p"].video_guidance_scale,
        "Guidance for later units",
        "the same for the frames after it",
        "guidance",
        short="Later units",
        flag="video_guidance",
        of_model="video_guidance_scale",
        **GUIDANCE_LIMITS,
    )
    guidance_decay: float = setting(
        0.0,
        "Guidance decay",
        "how much guidance falls with each unit of 8 frames",
        "falling",
        short="By, each unit",
        low=0,
        high=10,
        step=0.05,
        advice="0 keeps guidance constant",
    )
    min_guidance_scale: float = setting(
        2.0,
        "Minimum guidance",
        "where falling guidance ends",
        "falling",
        short="Minimum",
        flag="min_guidance",
        **GUIDANCE_LIMITS,
    )
    guided_stages: int = setting(
        0,
        "Guided stages",
        "stages with guidance, the coarsest first; a step of the others is one forward, not two; 0 is all",
        "guidance",
        low=0,
        high=MAX_STAGES,
        of_model="guided_stages",
    )
    seed: int | None = setting(
        None,
        "Seed",
        "the same seed makes the same video; random when left out",
        "seed",
        low=0,
        high=MAX_SEED,
        advice="leave it out for a random one",
    )
    variation_seed: int | None = setting(
        None,
        "Variation",
        "a second seed, whose noise is blended into the first unit's: a relative of the seed's video",
        "variation",
        short="Second seed",
        low=0,
        high=MAX_SEED,
        advice="leave it out for the seed's own video",
    )
    variation_strength: float = setting(
        0.3,
        "Variation strength",
        "how far to go from the one noise to the other; 0 is the seed's own video",
        "variation",
        short="Strength",
        low=0,
        high=1,
        step=0.05,
        advice="0.1 to 0.5 keep what the seed shows",
    )
    timeline: str = setting(
        "",
        "Timeline",
        'what is told from which unit on, as JSON: [{"from": 3, "prompt": "it grows", "ease": 2}]',
        "timeline",
        rule=_timeline_problem,
        metavar="FILE",
        tables=True,
        high=100_000,
    )
    history_units: int = setting(
        0,
        "History",
        "how many of the last units are seen when the next one is made; 0 is all of them",
        "endless",
        short="Units that are seen",
        low=0,
        high=MAX_UNITS,
        step=1,
    )
    drift_correction: str = setting(
        "none",
        "Drift correction",
        "statistics brings mean and spread of each channel of the latents back to those of unit 1",
        "endless",
        choices=CORRECTIONS,
    )
    model: str = setting(
        "embedded",
        "Model",
        f"{', '.join(MODELS)}, a folder, or a repository",
        "model",
        blank=False,
        advice=f"give {', '.join(MODELS)}, a folder or a repository",
    )
    variant: str = setting(
        "128p",
        "Variant",
        "which of the model's transformers, such as 384p",
        "model",
        rule=_variant_problem,
        of_model="name",
    )
    lora: str = setting(
        "",
        "LoRA",
        "LoRAs and their strengths, such as sketch:0.8; names in the folder of LoRAs, or files",
        "lora",
        high=2000,
        rule=_lora_problem,
        metavar="NAME[:STRENGTH]",
    )
    dtype: str = setting(
        "auto", "Precision", "of the numbers; auto is what suits the device", "machine", choices=DTYPES
    )
    quantize: str = setting(
        "none",
        "Quantization",
        "weights in fewer bits: int8 or nf4 (bitsandbytes: T5 where it is loaded whole, on a CUDA card the "
        "transformer), fp8 (storage of the transformer)",
        "machine",
        choices=QUANTIZE,
        metavar="HOW",
        former=("quantise",),
    )
    device: str = setting(
        "auto",
        "Device",
        "cpu, cuda, cuda:1, mps; auto is the fastest there is",
        "machine",
        rule=_device_problem,
    )
    preset: str | None = setting(None, "Preset", "settings with a name, or a .toml file", "model")

    def __post_init__(self):
        for spec in TABLE.values():
            object.__setattr__(self, spec.name, typed(spec, getattr(self, spec.name)))

    @classmethod
    def for_model(
        cls, model: str = "embedded", variant: str | None = None, expects: Variant | None = None, **changes
    ) -> Self:
        """Settings that `model`'s `variant` (its first one when None) was made for, then `changes`.

        `expects`: what its checkpoint says of itself (`Checkpoint.defaults`), in place of what is known by
        name.
        """
        variant = variant or MODELS.get(model, ("384p",))[0]
        v = expects or variant_of(variant)
        start = {name: getattr(v, spec.of_model) for name, spec in TABLE.items() if spec.of_model}
        return cls(**(start | {"model": model, "variant": variant} | check_known(changes, "setting")))

    @property
    def stages(self) -> int:  # resolutions of the pyramid: as many as step counts
        return len(self.num_inference_steps)

    @property
    def units(self) -> int:  # latent frames: 1 for a still, then one for each 8 frames
        return units_of(self.num_frames)

    @property
    def seconds(self) -> float:  # from the first frame to the last
        return seconds_of(self.num_frames, self.fps)

    def evaluations(self, unit: int) -> tuple[int, ...]:
        """How often the transformer is asked at each stage of a unit."""
        return evaluations(self.sampler, self.plan_of(unit).steps)

    @property
    def idle(self) -> tuple[str, ...]:
        """Settings without effect on this result, as others switch them off."""
        off = {
            ("guidance_decay", "min_guidance_scale"): not self.guidance_decay,
            ("guided_stages",): not 0 < self.guided_stages < self.stages,
            ("fit",): self.image is None and self.video is None,
            ("variation_strength",): self.variation_seed is None,
            ("history_units",): not self.history_units,
            ("drift_correction",): self.drift_correction == "none",
        }
        return tuple(name for names, is_off in off.items() if is_off for name in names)

    def resolved(self) -> Self:
        """These settings with a seed, drawn now if none was given. Resolve before sampling."""
        return self if self.seed is not None else dataclasses.replace(self, seed=secrets.randbelow(2**31))

    def validate(self, *, skip: Container[str] = ()) -> Self:
        """These settings, if they can be run; else SettingsError with the first thing that is wrong.

        `skip` names those that are not known yet. Files are not opened here: `video.read_picture` and
        `video.read_video` tell what is wrong with those.
        """
        for name in TABLE:
            if name not in skip:
                check_value(name, getattr(self, name))
        self.check_shape()
        self._check_sources()
        if self.model in MODELS:
            check_choice("variant", self.variant, MODELS[self.model], f" for model {self.model!r}")
        return self

    @property
    def cues(self) -> tuple[Cue, ...]:
        """The tables of the timeline. ValueError where it cannot be read."""
        return read_timeline(self.timeline)

    def plan_of(self, unit: int) -> UnitPlan:
        """What a unit is made by: words, guidance, steps and seed."""
        scale = self.video_guidance_scale if unit else self.guidance_scale
        if self.guidance_decay > 0:
            scale = max(scale - self.guidance_decay * unit, self.min_guidance_scale)
        steps = self.video_num_inference_steps if unit else self.num_inference_steps
        return plan_unit(self.cues, UnitPlan.plain(scale, steps, self.guided_stages), unit)

    def check_shape(self) -> None:
        """Raises SettingsError where length, size or steps cannot be made, whatever the rest says."""
        for name in (*SHAPE, "timeline"):
            check_value(name, getattr(self, name))
        if len(self.video_num_inference_steps) != self.stages:
            raise SettingsError(
                "video_num_inference_steps",
                f"has {len(self.video_num_inference_steps)} numbers, one a stage, but the first frame has "
                f"{self.stages}: give equally many",
                named=True,
            )
        if self.units > MAX_UNITS and not self.history_units:
            longest = frames_of(MAX_UNITS)
            problem = f"= {self.num_frames}: at most {longest}, where the history is not bounded"
            raise SettingsError("num_frames", problem, named=True)
        check_size(self.width, self.height, self.stages)
        for cue in self.cues:
            for name, values in (("guidance", cue.guidance), ("steps", cue.steps)):
                if len(values) not in (0, 1, self.stages):
                    said = f"unit {cue.start} has {len(values)} numbers for {name}"
                    problem = f"cannot be used: {said}: give 1 or {self.stages}"
                    raise SettingsError("timeline", problem, named=True)

    def _check_sources(self) -> None:
        if self.image is not None and self.video is not None:
            raise SettingsError("image", "both image and video are given: a clip starts from one of them")
        if (self.image is not None or self.video is not None) and self.num_frames == 1:
            raise SettingsError(
                "num_frames",
                f"= 1 with a given start leaves nothing to make: ask for {frames_of(2)} frames or more",
                named=True,
            )

    def experimental(self, expects: Variant | None = None, *, drawn: bool = False) -> list[str]:
        """What lies outside the range the weights were trained for, a sentence each.
        `expects`: see `for_model`. `drawn`: what it begins with is a drawing, see `media.looks`.
        """
        v = expects or known_variant(self.variant)
        notes = [
            f"timeline: unit {cue.start} is not in this clip, whose last one is {self.units - 1}."
            for cue in self.cues
            if cue.start >= self.units
        ]
        if self.stages != TRAINED_STAGES:
            notes.append(f"{self.stages} stages: the models were trained with {TRAINED_STAGES}.")
        if v and (self.width, self.height) not in v.sizes:
            known = " or ".join(f"{w}×{h}" for w, h in v.sizes)
            notes.append(f"{self.width}×{self.height}: variant {v.name} was trained at {known}.")
        if v and self.units > v.units:
            limit = frames_of(v.units)
            notes.append(
                f"{self.num_frames} frames: variant {v.name} was trained up to {limit} "
                + (f"({seconds_of(limit, v.fps):g} s)." if limit > 1 else "(stills).")
            )
        if v and self.fps != v.fps and self.num_frames > 1:
            notes.append(f"{self.fps} frames a second: variant {v.name} moves as at {v.fps}: wrong speed.")
        if v and v.name.endswith(FAST):
            notes += self._unlike_taught(v)
        if v and not v.photographs and not drawn and self.num_frames > 1 and (self.image or self.video):
            said = (
                f"photographs: variant {v.name} knows drawn scenes. A photo is kept as the first frame only"
            )
            mover = next((name for name in MODELS.get(self.model, ()) if name.endswith(PHOTOS)), None)
            notes.append(f"{said}: {mover} moves it." if mover else f"{said}.")
        return notes

    def _unlike_taught(self, v: Variant) -> list[str]:
        """Where these settings are not those that a variant with few steps was taught with."""
        notes = []
        steps = {self.num_inference_steps, self.video_num_inference_steps} - {v.steps, v.video_steps}
        if steps or self.sampler != v.sampler:
            asked = " and ".join(shown(counts) for counts in sorted(steps)) or shown(v.steps)
            notes.append(
                f"{asked} steps, sampler {self.sampler}: variant {v.name} was taught {shown(v.steps)} steps, "
                f"sampler {v.sampler}; variant {v.name.removesuffix(FAST)} takes any number."
            )
        if (self.guidance_scale, self.video_guidance_scale) != (v.guidance_scale, v.video_guidance_scale):
            notes.append(f"Guidance: variant {v.name} has it in it already, so 1 is what it was taught with.")
        return notes

    def to_dict(self) -> dict[str, Any]:
        """All fields and the format's version, with JSON's types only."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
        return {"version": FORMAT_VERSION} | values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Settings from `to_dict`'s result; left out means default. Raises SettingsError on unknown names."""
        if not isinstance(values, dict):
            raise SettingsError("version", f"settings must be a table of names, not {type(values).__name__}")
        values = renamed(values)
        version = values.pop("version", FORMAT_VERSION)
        if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
            raise SettingsError(
                "version",
                f"these settings have version {version!r}, this program reads "
                f"1 to {FORMAT_VERSION}: update the program",
            )
        return cls(**check_known(values, "setting"))


TABLE: dict[str, Spec] = {
    field.name: dataclasses.replace(
        field.metadata["spec"], name=field.name, kind=field.type, default=field.default
    )
    for field in dataclasses.fields(Settings)
}
FIELDS = tuple(TABLE)
MACHINE = tuple(name for name, spec in TABLE.items() if spec.group == "machine")
SHAPE = ("num_frames", "fps", "width", "height", "num_inference_steps", "video_num_inference_steps")
FORMER_NAMES = {former: name for name, spec in TABLE.items() for former in spec.former}
STEPS = tuple[int, ...]
EXPECTED = {
    str: "text",
    str | None: "text",
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    int | None: "a whole number",
    STEPS: "a list of whole numbers, one a stage,",
}


def values_of(spec: Spec) -> str:
    """What a setting may be, in words: its choices, or its type and bounds."""
    if spec.choices:
        return ", ".join(spec.choices)
    words = EXPECTED[spec.kind].rstrip(",").removeprefix("a ")
    if isinstance(spec.default, str):
        return words if spec.high is None else f"{words} of at most {spec.high} characters"
    if spec.low is not None:
        words += f", {spec.low} to {spec.high}"
    return f"{words}, in {spec.unit}" if spec.unit else words


def default_words(spec: Spec) -> str:
    """What holds where a setting is left out."""
    if spec.of_model:
        return "the model's"
    if spec.default in (None, ""):
        return ""
    return shown(spec.default)


def shown(value: Any) -> str:
    """The value of a setting as people write it."""
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def label_of(name: str) -> str:
    """What people call the setting `name`."""
    return TABLE[name].label if name in TABLE else name.capitalize()


def flag_of(name: str) -> str:
    """What the command line calls the setting `name`."""
    return TABLE[name].option if name in TABLE else "--" + name.replace("_", "-")


# -- checks, one a value
def check_value(name: str, value: Any) -> Any:
    """`value` in the type of setting `name`, if it can be used whatever the others are; else SettingsError.

    Stages count from 1: of (10, 0, 10) "num_inference_steps, stage 2 = 0" is told.
    """
    spec = TABLE[name]
    value = typed(spec, value)
    if value is None:
        return None
    if spec.kind == STEPS:
        _check_counts(spec, value)
    elif spec.choices:
        check_choice(name, value, spec.choices)
    elif isinstance(value, str):
        _check_text(spec, value)
    else:
        _check_range(spec, value)
    problem = spec.rule(value) if spec.rule else None
    if problem:
        raise SettingsError(name, problem, named=True)
    return value


def _check_counts(spec: Spec, counts: tuple[int, ...]) -> None:
    if not 1 <= len(counts) <= MAX_STAGES:
        problem = f"has {len(counts)} numbers (stages): give 1 to {MAX_STAGES}"
        raise SettingsError(spec.name, problem, named=True)
    for stage, count in enumerate(counts, 1):
        _check_range(spec, count, f"stage {stage}")


def _check_text(spec: Spec, text: str) -> None:
    if not spec.blank and not text.strip():
        raise SettingsError(spec.name, f"the {spec.label.lower()} is empty: {spec.advice}")
    if spec.high is not None and len(text) > spec.high:
        problem = f"has {len(text)} characters: use at most {spec.high}"
        raise SettingsError(spec.name, problem, named=True)


def _check_range(spec: Spec, value: float, part: str = "") -> None:
    low = -math.inf if spec.low is None else spec.low
    high = math.inf if spec.high is None else spec.high
    if not low <= value <= high:  # also refuses nan
        problem = f"= {briefly(value)} is outside {low} to {high}" + (
            f": {spec.advice}" if spec.advice else ""
        )
        raise SettingsError(spec.name, problem, named=True, part=part)


def check_size(width: int, height: int, stages: int = TRAINED_STAGES) -> None:
    """Raises SettingsError unless both sides are multiples of `size_grid(stages)`, up to MAX_SIZE."""
    grid = size_grid(stages)
    for name, value in (("width", width), ("height", height)):
        check_value(name, value)
        if value % grid:
            below = value // grid * grid
            above = min(-(-value // grid) * grid, MAX_SIZE)
            nearest = f"{below} or {above}" if below else f"{above}"
            raise SettingsError(
                name,
                f"= {value} is not a multiple of {grid}, as {stages} "
                f"stage{'s' * (stages > 1)} of the pyramid need: use {nearest}",
                named=True,
            )


def check_choice(name: str, value: str, choices: tuple[str, ...], of: str = "") -> None:
    """Raises SettingsError, with the nearest of `choices`, unless `value` is one of them."""
    if value not in choices:
        problem = (
            f"= {briefly(value)} is unknown{of}{_nearest(value, choices)}; choose from {', '.join(choices)}"
        )
        raise SettingsError(name, problem, named=True)


def _nearest(name: Any, choices: Iterable[str]) -> str:
    """What was probably meant: what other programs call it, else the choice with nearly the same letters."""
    known = list(choices)
    word = str(name).lower().replace("-", "_")
    meant = ELSEWHERE.get(word, word)
    close = [meant] if meant in known else difflib.get_close_matches(word, known, n=1, cutoff=NEAR)
    return f", did you mean {close[0]!r}?" if close and close[0] != name else ""


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with today's names in place of former ones."""
    return {FORMER_NAMES.get(name, name): value for name, value in values.items()}


def check_known(values: dict[str, Any], what: str, allowed: tuple[str, ...] | None = None) -> dict[str, Any]:
    allowed = allowed or FIELDS
    for name in values:
        if name not in allowed:
            raise SettingsError(
                str(name),
                f"unknown {what} {briefly(name)}{_nearest(name, allowed)}; known are {', '.join(allowed)}",
            )
    return values


def plain(value: Any) -> Any:
    """A value as Python itself has it: numpy's and torch's numbers as numbers, their rows as lists.

    Whoever calls this from Python draws seeds with `rng.integers` and sweeps with `np.linspace`.
    """
    if not hasattr(value, "dtype") or not hasattr(value, "tolist"):
        return value
    return value.tolist() if len(getattr(value, "shape", ())) <= 1 else value


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a real number; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def at_home(path: str | Path) -> Path:
    """A path as people write it, with a leading `~` as their home folder.

    A shell replaces it only where a word begins with it: not after "=", in quotes, in lists or in presets.
    """
    return Path(os.path.expanduser(path))


def typed(spec: Spec, value: Any) -> Any:
    """`value` in the type of a setting, lists as tuples, whole numbers as floats; else SettingsError."""
    kind = spec.kind
    value = plain(value)
    if value is None and kind in (str | None, int | None):
        return None
    if spec.tables and isinstance(value, list | tuple):
        value = json.dumps(value, default=str)
    if spec.tables and isinstance(value, str):
        with suppress(ValueError):  # what cannot be read is told by its rule
            return write_timeline(read_timeline(value))
    if kind in (str, str | None) and isinstance(value, (str, Path)):
        return str(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind in (int, int | None) and is_whole(value):
        return int(value)
    if kind is float and is_number(value):
        large = isinstance(value, int) and abs(value) >= 10**300  # Python would raise OverflowError
        if large:
            return math.inf if value > 0 else -math.inf
        return float(value)
    if kind == STEPS and isinstance(value, (list, tuple)) and all(is_whole(plain(count)) for count in value):
        return tuple(int(plain(count)) for count in value)
    told = repr(value) if isinstance(value, float) else briefly(value)  # 7.0, which is no 7
    shown = "is empty" if value is None else f"= {told}"
    raise SettingsError(spec.name, f"{shown}: {EXPECTED[kind]} is expected", named=True)
