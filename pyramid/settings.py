"""The settings of one generation: what may be asked, and within which limits.

    settings = Settings.for_model("embedded", prompt="a red ball moves to the right", seed=7).resolved()
    settings.validate()            # SettingsError (a ValueError) with the value, the limit and the way out
    Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings

Sizes and lengths follow the model (arXiv 2410.05954): a unit is 8 frames, the first one 1, so a clip has
1 + 8k frames; the autoencoder divides sizes by 8, a patch by 2, and each stage below the finest by 2 more.
"""

import dataclasses
import difflib
import math
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

FORMAT_VERSION = 1  # of `to_dict`; raised when a field changes its meaning
FRAMES_PER_UNIT = 8
PIXELS_PER_PATCH = 8 * 2  # autoencoder × transformer patch
MAX_STAGES = 4
TRAINED_STAGES = 3
MAX_SEED = 2**53 - 1  # the largest whole number that survives JSON in a browser
MAX_SIZE = 4096  # pixels a side: ten times the largest trained area is a typing error
MAX_STEPS = 200
MAX_UNITS = 256
MAX_PROMPT = 2000  # characters; the text encoders read 128 tokens at most
FITS = ("crop", "fit", "pad")
DTYPES = ("auto", "bfloat16", "float16", "float32")
QUANTIZE = ("none", "int8", "nf4", "fp8")  # see `memory.Part`
MACHINE = ("dtype", "quantize", "device")  # settings that are chosen for a machine, not for a video
RELEASED_SUFFIX = ", hyper quality, Ultra HD, 8K"
RELEASED_NEGATIVE = (
    "cartoon style, worst quality, low quality, blurry, absolute black, absolute white, low res, "
    "extra limbs, extra digits, misplaced objects, mutated anatomy, monochrome, horror"
)


FORMER_NAMES = {"quantise": "quantize"}  # in records, presets and lists of earlier versions


class SettingsError(ValueError):
    """A setting that cannot be used: `field` names it, the message says value, limit and way out."""

    def __init__(self, field: str, message: str):
        super().__init__(message)
        self.field = field


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
    photographs: bool = True  # whether it was trained on them, or on drawn scenes alone


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
    "embedded": ("128p",),
    "miniflux": ("384p", "768p", "image"),
    "sd3": ("384p", "768p"),
}


def variant_of(name: str) -> Variant:
    """What variant `name` expects; an unknown name (somebody's own training) gets 384p's starting values."""
    return VARIANTS.get(name) or dataclasses.replace(VARIANTS["384p"], name=name)


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


def frames_for_seconds(seconds: float, fps: int) -> int:
    """The 1 + 8k frames, k ≥ 1, whose duration at `fps` is nearest to `seconds` > 0. 5 s at 24 fps: 121."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise SettingsError(
            "num_frames",
            f"seconds = {seconds:g}: a length must be greater than 0; for a still ask for num_frames = 1",
        )
    frames, longest = frames_of(1 + max(1, round(seconds * fps / FRAMES_PER_UNIT))), frames_of(MAX_UNITS)
    if frames > longest:
        raise SettingsError("num_frames", f"seconds = {seconds:g}: at most {seconds_of(longest, fps):g} s")
    return frames


def seconds_of(num_frames: int, fps: int) -> float:
    """Duration from the first frame to the last: (num_frames − 1) / fps seconds; 0 for a still."""
    return (num_frames - 1) / fps


# -- settings
@dataclass(frozen=True)
class Settings:
    """Everything that decides one result. The defaults are the embedded model's; `for_model` gives another's.

    Immutable: `dataclasses.replace(settings, seed=1)` makes a changed copy. `image` and `video` are paths;
    `seed` is None until `resolved()` draws one; `num_frames` counts the whole result, given frames included.
    Guidance 1 turns guidance off. With `guidance_decay` > 0 the guidance of unit u is
    max(video_guidance_scale − guidance_decay·u, min_guidance_scale).
    """

    prompt: str = ""
    negative_prompt: str = ""
    prompt_suffix: str = ""
    image: str | None = None
    video: str | None = None
    fit: str = "crop"
    num_frames: int = 25
    fps: int = 8
    width: int = 128
    height: int = 128
    num_inference_steps: tuple[int, ...] = VARIANTS["128p"].steps
    video_num_inference_steps: tuple[int, ...] = VARIANTS["128p"].video_steps
    guidance_scale: float = VARIANTS["128p"].guidance_scale
    video_guidance_scale: float = VARIANTS["128p"].video_guidance_scale
    guidance_decay: float = 0.0
    min_guidance_scale: float = 2.0
    seed: int | None = None
    model: str = "embedded"
    variant: str = "128p"
    dtype: str = "auto"
    quantize: str = "none"
    device: str = "auto"
    preset: str | None = None

    def __post_init__(self):
        for spec in dataclasses.fields(self):
            object.__setattr__(self, spec.name, _typed(spec, getattr(self, spec.name)))

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
        start = dict(
            model=model,
            variant=variant,
            num_frames=v.num_frames,
            fps=v.fps,
            width=v.sizes[0][0],
            height=v.sizes[0][1],
            num_inference_steps=v.steps,
            video_num_inference_steps=v.video_steps,
            guidance_scale=v.guidance_scale,
            video_guidance_scale=v.video_guidance_scale,
            prompt_suffix=v.prompt_suffix,
            negative_prompt=v.negative_prompt,
        )
        return cls(**(start | check_known(changes, "setting")))

    @property
    def stages(self) -> int:  # resolutions of the pyramid: as many as step counts
        return len(self.num_inference_steps)

    @property
    def units(self) -> int:  # latent frames: 1 for a still, then one for each 8 frames
        return units_of(self.num_frames)

    @property
    def seconds(self) -> float:  # from the first frame to the last
        return seconds_of(self.num_frames, self.fps)

    def resolved(self) -> Self:
        """These settings with a seed, drawn now if none was given. Resolve before sampling."""
        return self if self.seed is not None else dataclasses.replace(self, seed=secrets.randbelow(2**31))

    def validate(self) -> Self:
        """These settings, if they can be run; else SettingsError with the first thing that is wrong.

        Files are not opened here: `video.read_picture` and `video.read_video` tell what is wrong with those.
        """
        self._check_text()
        self._check_steps()
        check_size(self.width, self.height, self.stages)
        check_num_frames(self.num_frames)
        self._check_sources()
        for name in ("guidance_scale", "video_guidance_scale", "min_guidance_scale"):
            _check_range(name, getattr(self, name), 1, 30, "1 turns guidance off, 4 to 9 is usual")
        _check_range("guidance_decay", self.guidance_decay, 0, 10, "0 keeps guidance constant")
        _check_range("fps", self.fps, 1, 120, "the released models were trained at 24, the embedded one at 8")
        if self.seed is not None:
            _check_range("seed", self.seed, 0, MAX_SEED, "leave it out for a random one")
        self._check_names()
        return self

    def _check_text(self) -> None:
        if not self.prompt.strip():
            raise SettingsError(
                "prompt", 'the prompt is empty: say what to see, such as "a red ball stays still"'
            )
        for name in ("prompt", "negative_prompt", "prompt_suffix"):
            try:
                getattr(self, name).encode()
            except UnicodeEncodeError as error:
                before = getattr(self, name)[: error.start][-20:]
                raise SettingsError(
                    name,
                    f"the {name.replace('_', ' ')} holds bytes that are no text (at {before!r}): "
                    "type it again",
                ) from None
            if (length := len(getattr(self, name))) > MAX_PROMPT:
                raise SettingsError(name, f"{name} has {length} characters: use at most {MAX_PROMPT}")

    def _check_steps(self) -> None:
        for name in ("num_inference_steps", "video_num_inference_steps"):
            steps = getattr(self, name)
            if not 1 <= len(steps) <= MAX_STAGES:
                raise SettingsError(name, f"{name} has {len(steps)} numbers (stages): give 1 to {MAX_STAGES}")
            for count in steps:
                _check_range(name, count, 1, MAX_STEPS, "10 or 20 steps a stage are usual")
        if len(self.video_num_inference_steps) != self.stages:
            raise SettingsError(
                "video_num_inference_steps",
                f"num_inference_steps has {self.stages} numbers (stages) "
                f"but video_num_inference_steps has {len(self.video_num_inference_steps)}: give equally many",
            )

    def _check_sources(self) -> None:
        if self.image is not None and self.video is not None:
            raise SettingsError("image", "both image and video are given: a clip starts from one of them")
        if (self.image is not None or self.video is not None) and self.num_frames == 1:
            raise SettingsError(
                "num_frames",
                "num_frames = 1 with a given start leaves nothing to make: "
                f"ask for {frames_of(2)} frames or more",
            )
        check_choice("fit", self.fit, FITS)

    def _check_names(self) -> None:
        if not self.model.strip():
            raise SettingsError("model", f"no model: give {', '.join(MODELS)}, a folder or a repository")
        if self.model in MODELS:
            check_choice("variant", self.variant, MODELS[self.model], f" of model {self.model!r}")
        if not re.fullmatch(r"[A-Za-z0-9._-]+", self.variant):
            raise SettingsError("variant", f"variant = {self.variant!r}: a name like 384p is expected")
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("quantize", self.quantize, QUANTIZE)
        if not re.fullmatch(r"auto|cpu|mps|xpu|cuda(:\d+)?", self.device):
            raise SettingsError("device", f"device = {self.device!r}: use auto, cpu, mps, xpu, cuda, cuda:1")

    def experimental(self, expects: Variant | None = None) -> list[str]:
        """What lies outside the range the weights were trained for, a sentence each.
        `expects`: see `for_model`.
        """
        v = expects or VARIANTS.get(self.variant)
        notes = []
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
        if v and not v.photographs and self.num_frames > 1 and (self.image or self.video):
            notes.append(
                f"photographs: variant {v.name} knows drawn scenes. A photo is kept as the first frame only."
            )
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


EXPECTED = {
    str: "text",
    str | None: "text",
    float: "a number",
    int: "a whole number",
    int | None: "a whole number",
    tuple[int, ...]: "a list of whole numbers, one a stage,",
}
FIELDS = tuple(spec.name for spec in dataclasses.fields(Settings))


# -- checks, one a value
def check_size(width: int, height: int, stages: int = TRAINED_STAGES) -> None:
    """Raises SettingsError unless both sides are multiples of `size_grid(stages)`, up to MAX_SIZE."""
    grid = size_grid(stages)
    for name, value in (("width", width), ("height", height)):
        _check_range(name, value, 1, MAX_SIZE, f"multiples of {grid} are used")
        if value % grid:
            below, above = value // grid * grid, min(-(-value // grid) * grid, MAX_SIZE)
            nearest = f"{below} or {above}" if below else f"{above}"
            raise SettingsError(
                name,
                f"{name} = {value} is not a multiple of {grid}, as {stages} "
                f"stage{'s' * (stages > 1)} of the pyramid need: use {nearest}",
            )


def check_num_frames(num_frames: int) -> None:
    """Raises SettingsError unless `num_frames` is 1 + 8k, from 1 to 1 + 8·(MAX_UNITS − 1)."""
    _check_range("num_frames", num_frames, 1, frames_of(MAX_UNITS), "1 is a still, 1 + 8k (25, 121) a clip")
    if (num_frames - 1) % FRAMES_PER_UNIT:
        below = frames_of(units_of(num_frames))
        raise SettingsError(
            "num_frames",
            f"num_frames = {num_frames} is not 1 more than a multiple of 8, as "
            f"the autoencoder needs: use {below} or {below + FRAMES_PER_UNIT}",
        )


def _check_range(name: str, value: float, low: float, high: float, way_out: str) -> None:
    if not low <= value <= high:  # also refuses nan
        shown = f"{value:g}" if isinstance(value, float) else value
        raise SettingsError(name, f"{name} = {shown} is outside {low} to {high}: {way_out}")


def check_choice(name: str, value: str, choices: tuple[str, ...], of: str = "") -> None:
    if value not in choices:
        raise SettingsError(
            name, f"unknown {name} {value!r}{of}{_nearest(value, choices)}; choose from {', '.join(choices)}"
        )


def _nearest(name: str, choices) -> str:
    close = difflib.get_close_matches(str(name), list(choices), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with today's names in place of former ones."""
    return {FORMER_NAMES.get(name, name): value for name, value in values.items()}


def check_known(values: dict[str, Any], what: str, allowed: tuple[str, ...] | None = None) -> dict[str, Any]:
    allowed = allowed or FIELDS
    for name in values:
        if name not in allowed:
            raise SettingsError(
                str(name), f"unknown {what} {name!r}{_nearest(name, allowed)}; known are {', '.join(allowed)}"
            )
    return values


def _typed(spec: dataclasses.Field, value: Any) -> Any:
    """`value` in the type of field `spec`, lists as tuples, whole numbers as floats; else SettingsError."""
    kind, name = spec.type, spec.name
    if value is None and kind in (str | None, int | None):
        return None
    if kind in (str, str | None) and isinstance(value, (str, Path)):
        return str(value)
    if kind in (int, int | None) and type(value) is int:  # a bool is an int too
        return value
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind == tuple[int, ...] and isinstance(value, (list, tuple)) and {*map(type, value)} <= {int}:
        return tuple(value)
    raise SettingsError(name, f"{name} = {value!r}: {EXPECTED[kind]} is expected")
