"""Settings with a name, one TOML file each, and what holds where a request leaves something out.

    settings = resolve("sd3", load_preset("quick"), {"prompt": "a red ball"})     # for every front end
    save_preset("my size", settings, folder)          # SettingsError for a name that is taken

The shipped presets are in presets/: a file more there is a choice more on the page and of `--preset`.
"""

import dataclasses
import json
import math
import re
import tomllib
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyramid.disk import check_file
from pyramid.hub.checkpoints import Checkpoint, find, list_variants
from pyramid.settings import (
    FAST,
    FIELDS,
    MACHINE,
    PHOTOS,
    SPEEDS,
    TABLE,
    Settings,
    SettingsError,
    at_home,
    check_choice,
    check_known,
    frames_for_seconds,
    is_whole,
    plain,
    renamed,
    typed,
)

PRESETS_FOLDER = Path(__file__).resolve().parent.parent / "presets"
CHOSEN_WITH_THE_MODEL = ("model", "variant")
KEPT_OVER_MODELS = ("prompt", "image", "video", "fit", "seed", *MACHINE)
MOST_DOTS = 200  # of a line: a.b.c is a table in a table in TOML, and a preset has none
STEP_LISTS = ("num_inference_steps", "video_num_inference_steps")
PRESET_FIELDS = tuple(name for name in FIELDS if name not in ("prompt", "image", "video", "seed", "preset"))


@dataclass(frozen=True)
class Preset:
    """Settings with a name: `values` is what the file sets, all else stays as it was."""

    name: str
    description: str
    values: dict[str, Any] = field(default_factory=dict)

    def apply(self, settings: Settings) -> Settings:
        """`settings` with these values. A preset that changes the model starts from that model's own
        settings.
        """
        model = self.values.get("model", settings.model)
        variant = self.values.get("variant", settings.variant if model == settings.model else None)
        if (model, variant) != (settings.model, settings.variant):
            kept = {name: getattr(settings, name) for name in KEPT_OVER_MODELS}
            settings = Settings.for_model(model, variant, **kept)
        values: dict[str, Any] = self._steps(settings) | self.values | {"preset": self.name}
        return dataclasses.replace(settings, **values)

    def holds(self, settings: Settings) -> bool:
        """Whether settings still are what this preset made of them."""
        return dataclasses.replace(settings, **self.values) == settings

    def without(self, names: Container[str]) -> "Preset":
        """The preset without its values for `names`."""
        values = {name: value for name, value in self.values.items() if name not in names}
        return dataclasses.replace(self, values=values)

    def _steps(self, settings: Settings) -> dict[str, tuple[int, ...]]:
        """The one list of steps that the file leaves out, with as many stages as the one that it sets."""
        for given, other in (STEP_LISTS, STEP_LISTS[::-1]):
            new = self.values.get(given)
            old = getattr(settings, other)
            if isinstance(new, list | tuple) and other not in self.values:
                return {other: (old + old[-1:] * len(new))[: len(new)]}
        return {}


# -- what a request means
def resolve(
    model: str | Settings | None,
    preset: Preset | None,
    changes: dict[str, Any],
    *,
    seconds: float | None = None,
    speed: str | None = None,
) -> Settings:
    """The settings of a request: the model's own, changed by the preset, changed by `changes`.

    model: a name, folder or repository (None: the preset's model, else the embedded one), of which `changes`
        may name the variant; or the settings that a loaded model starts with: then the preset changes neither
        model nor machine.
    changes: values by name, former names too. A whole number in place of a list of steps stands for all
        stages. Another number of stages than the model's, without a word on later units, holds for them too.
    seconds: the length, in place of `num_frames`.
    speed: one of `SPEEDS`, in place of sampler and steps of model and preset.

    Raises SettingsError for unknown names and wrong types, CheckpointError (both are ValueErrors) for a model
    that is not here. Bounds are `Settings.validate`'s to check.
    """
    changes = renamed(changes)
    if isinstance(model, Settings):
        start = model
        decided = (*CHOSEN_WITH_THE_MODEL, *MACHINE)
    else:
        source = None if changes.get("num_frames") == 1 else changes.get("image") or changes.get("video")
        start = start_of(model, changes.pop("variant", None), preset, speed, source)
        decided = CHOSEN_WITH_THE_MODEL
        changes.pop("model", None)
    chosen = {} if speed is None else at_speed(speed, start)
    if preset:
        start = preset.without(decided).apply(start)
    start = dataclasses.replace(start, **chosen)
    settings = Settings.from_dict(start.to_dict() | changes | spelled_out(changes, start.stages))
    if seconds is None:
        return settings
    return dataclasses.replace(settings, num_frames=frames_for_seconds(seconds, settings.fps))


def start_of(
    model: str | None,
    variant: str | None,
    preset: Preset | None,
    speed: str | None = None,
    source: str | Path | None = None,
) -> Settings:
    """What the model that is asked for starts with, its own checkpoint's word first.

    A preset's variant is one of its own model's: with another model it says nothing. Where none is named, a
    speed decides between a variant and its fast one, and a `source`, the picture or video that a clip begins
    with, goes to the one that moves photographs if it is one.
    """
    asked = preset.values if preset else {}
    model = typed(TABLE["model"], asked.get("model", "embedded") if model is None else model)
    if variant is None and model == asked.get("model", model):
        variant = asked.get("variant")
    checkpoint = find(model, None if variant is None else typed(TABLE["variant"], variant))
    if variant is None and speed is not None:
        slow = checkpoint.variant.removesuffix(FAST)
        wanted = slow + FAST if speed == "quick" else slow
        if wanted in list_variants(checkpoint.folder):
            checkpoint = find(model, wanted)
    if variant is None and source and (mover := mover_beside(checkpoint)):
        from pyramid.media.looks import is_drawn_file

        checkpoint = checkpoint if is_drawn_file(source, model) else find(model, mover)
    return Settings.for_model(model, checkpoint.variant, expects=checkpoint.defaults)


def mover_beside(checkpoint: Checkpoint) -> str | None:
    """The variant beside a checkpoint that moves photographs, where its own does not."""
    if checkpoint.defaults.photographs:
        return None
    return next((name for name in list_variants(checkpoint.folder) if name.endswith(PHOTOS)), None)


# -- speeds
SHARES = {"quick": 0.5, "balanced": 0.625}  # of the steps of the reference


def at_speed(speed: str, start: Settings) -> dict[str, Any]:
    """Sampler and steps of one of `SPEEDS`, of the settings that a model starts with.

    Raises SettingsError for an unknown one, and for another than quick where a variant knows few steps only.
    """
    check_choice("speed", speed, tuple(SPEEDS))
    own = {name: getattr(start, name) for name in ("sampler", *STEP_LISTS)}
    if start.variant.endswith(FAST):
        if speed != "quick":
            slow = start.variant.removesuffix(FAST)
            raise SettingsError(
                "speed",
                f"= {speed!r}: {start.variant} knows few steps only, choose {slow} for it",
                named=True,
            )
        return own
    if speed == "reference":
        return own | {"sampler": "reference"}
    fewer = {name: tuple(math.ceil(SHARES[speed] * n) for n in own[name]) for name in STEP_LISTS}
    return fewer | {"sampler": "multistep"}


def speeds_of(start: Settings) -> tuple[str, ...]:
    """The speeds that there are for the model that settings start with."""
    return ("quick",) if start.variant.endswith(FAST) else tuple(SPEEDS)


def speed_of(settings: Settings, start: Settings) -> str | None:
    """The speed that has these settings' sampler and steps; None where they are somebody's own."""
    for speed in speeds_of(start):
        if all(getattr(settings, name) == value for name, value in at_speed(speed, start).items()):
            return speed
    return None


def speed_words(speed: str, settings: Settings) -> str:
    """What a speed changes, in a sentence or two."""
    asked = sum(sum(settings.evaluations(unit)) for unit in range(settings.units))
    text = SPEEDS[speed]
    return f"{text[0].upper()}{text[1:]}. The transformer is asked {asked} times for this clip."


def spelled_out(changes: dict[str, Any], stages: int) -> dict[str, Any]:
    """The lists of steps in `changes`, a number for each stage."""
    steps = {name: changes[name] for name in STEP_LISTS if name in changes}
    asked = next((len(value) for value in steps.values() if isinstance(value, list | tuple)), stages)
    for name, value in steps.items():
        if is_whole(plain(value)):
            steps[name] = (value,) * asked
    first = steps.get("num_inference_steps")
    if isinstance(first, list | tuple) and len(first) != stages:
        steps.setdefault("video_num_inference_steps", first)
    return steps


# -- files
def load_preset(name: str, folder: Path = PRESETS_FOLDER) -> Preset:
    """The preset `name` of `folder`, or the one in the file `name` when that ends in .toml. Strict.

    Raises SettingsError: an unknown preset or key (with the nearest known one), not TOML, a wrong value.
    """
    path = at_home(name)
    if path.suffix != ".toml":
        check_choice("preset", name, tuple(preset_names(folder)))
        path = folder / f"{name}.toml"
    try:
        check_file(path)
        values = renamed(tomllib.loads(_bounded(path.read_text(encoding="utf-8-sig"))))
        check_known(values, "key", ("description", *PRESET_FIELDS))
        for name in CHOSEN_WITH_THE_MODEL:
            typed(TABLE[name], values.get(name, ""))
        description = values.pop("description", None)
        if not isinstance(description, str) or not description.strip():
            raise SettingsError("description", "key 'description' is missing: say what it is for")
        preset = Preset(path.stem, description.strip(), values)
        preset.apply(Settings()).validate(skip=("prompt",))
    except SettingsError as error:
        raise SettingsError(error.field, f"preset {path.name}: {error}") from error
    except OSError as error:
        raise SettingsError("preset", f"preset {str(path)!r} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
        why = {
            UnicodeDecodeError: "save it as UTF-8",
            RecursionError: "its tables lie too deep in each other",
        }
        told = why.get(type(error), str(error))
        raise SettingsError("preset", f"preset {str(path)!r} cannot be read as TOML: {told}") from error
    except ValueError as error:
        long = "Exceeds the limit" in str(error)  # Python names a function of its own as the way out
        told = "a number in it has thousands of digits: no setting takes it" if long else str(error)
        raise SettingsError("preset", f"preset {path.name}: {told}") from error
    return preset


def _bounded(text: str) -> str:
    """The text of a preset, none of whose names consists of so many that reading it takes minutes."""
    if (dots := max((line.count(".") for line in text.splitlines()), default=0)) > MOST_DOTS:
        raise ValueError(f"a line has {dots} dots: {MOST_DOTS} at most")
    return text


def find_preset(name: str, own: Path) -> Preset:
    """A preset of the program or of the user's folder `own`, by its name, never by the path of a file.

    Raises SettingsError: an unknown name (with the nearest known one), or what is wrong with the file.
    """
    mine = preset_names(own)
    check_choice("preset", name, (*mine, *preset_names()))
    return load_preset(name, own) if name in mine else load_preset(name)


def presets(folder: Path = PRESETS_FOLDER) -> list[Preset]:
    """All presets of `folder`, by name."""
    return [load_preset(name, folder) for name in preset_names(folder)]


def preset_names(folder: Path = PRESETS_FOLDER) -> list[str]:
    """Names of the presets in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def save_preset(name: str, settings: Settings, folder: Path, description: str = "") -> Path:
    """Write what `settings` decide beside prompt, sources, seed and machine as preset `name`;
    returns its file.

    It is read back strictly by `load_preset`. Raises SettingsError: a name that is no file's name or is
    taken, settings that cannot be run.
    """
    name = name.strip()
    if not re.fullmatch(r"\w[\w .-]{0,59}", name) or name.endswith("."):
        raise SettingsError(
            "preset", f"preset {name!r}: a name of letters, digits, spaces and - . _ is expected"
        )
    if name in preset_names() or name in preset_names(folder):
        raise SettingsError(
            "preset", f"preset {name!r} is there already, and is not overwritten: choose another name"
        )
    held = {key: getattr(settings, key) for key in PRESET_FIELDS if key not in MACHINE}
    values = {key: value for key, value in held.items() if value is not None}  # TOML has no word for nothing
    try:
        Preset(name, "", values).apply(Settings()).validate(skip=("prompt",))
    except SettingsError as error:
        raise error.within(f"preset {name!r} could not be used: ") from error
    lines = {
        "description": description.strip() or f"Saved from the page, for {settings.model} {settings.variant}."
    }
    text = "".join(f"{key} = {_toml(value)}\n" for key, value in (lines | values).items())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return path


def _toml(value: Any) -> str:
    """A value as TOML: JSON's form serves, but for the one character that only TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
