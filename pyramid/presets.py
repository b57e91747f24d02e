"""Settings with a name: one TOML file each in presets/, and those that a user saved.

    settings = load_preset("quick").apply(settings)
    save_preset("my size", settings, folder)          # SettingsError for a name that is taken

Adding a file to the folder adds a choice to the page and to `--preset`.
"""

import dataclasses
import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyramid.settings import FIELDS, MACHINE, Settings, SettingsError, check_choice, check_known, renamed

PRESETS_FOLDER = Path(__file__).resolve().parent.parent / "presets"
KEPT_OVER_MODELS = ("prompt", "image", "video", "fit", "seed", *MACHINE)
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
        return dataclasses.replace(settings, **self._steps(settings), **self.values, preset=self.name)

    def _steps(self, settings: Settings) -> dict[str, tuple[int, ...]]:
        """The one list of steps that the file leaves out, with as many stages as the one that it sets."""
        for given, other in (STEP_LISTS, STEP_LISTS[::-1]):
            new, old = self.values.get(given), getattr(settings, other)
            if isinstance(new, list | tuple) and other not in self.values:
                return {other: (old + old[-1:] * len(new))[: len(new)]}
        return {}


def load_preset(name: str, folder: Path = PRESETS_FOLDER) -> Preset:
    """The preset `name` of `folder`, or the one in the file `name` when that ends in .toml. Strict.

    Raises SettingsError: an unknown preset or key (with the nearest known one), not TOML, a wrong value.
    """
    path = Path(name)
    if path.suffix != ".toml":
        check_choice("preset", name, tuple(preset_names(folder)))
        path = folder / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        values = renamed(values)
        check_known(values, "key", ("description", *PRESET_FIELDS))
        description = values.pop("description", None)
        if not isinstance(description, str) or not description.strip():
            raise SettingsError("description", "key 'description' is missing: say what it is for")
        preset = Preset(path.stem, description.strip(), values)
        preset.apply(Settings()).validate(skip=("prompt",))
    except SettingsError as error:
        raise error.within(f"preset {path.name}: ") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError("preset", f"preset {str(path)!r} cannot be read as TOML: {error}") from error
    return preset


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
    values = {key: getattr(settings, key) for key in PRESET_FIELDS if key not in MACHINE}
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
