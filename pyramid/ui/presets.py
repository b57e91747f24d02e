"""Presets and examples: settings with a name, and prompts to begin with.

    build_presets(form); wire_presets(form)  # a choice for each file of presets/ and of the user's own folder

Adding a TOML file adds a choice, with the next page that is opened.
"""

import base64
import random
from html import escape
from pathlib import Path

import gradio as gr

from pyramid.presets import (
    Preset,
    find_preset,
    preset_names,
    resolve,
    save_preset,
    speed_words,
)
from pyramid.settings import FAST, Settings, SettingsError
from pyramid.text.vocabulary import Vocabulary
from pyramid.ui import AS_SENT, QUIET, App
from pyramid.ui.errors import shown_error
from pyramid.ui.form import Form
from pyramid.ui.markup import failure, html, say, words_of
from pyramid.ui.variants import at_speed_of, for_any_steps, teacher

TAUGHT = (
    "num_inference_steps",
    "video_num_inference_steps",
    "sampler",
    "guidance_scale",
    "video_guidance_scale",
)
EXAMPLE_PICTURES = Path(__file__).resolve().parent.parent.parent / "assets" / "examples"
EXAMPLES = [  # (name, prompt, picture of EXAMPLE_PICTURES to begin with)
    ("Red ball", "a red ball moves to the right over a meadow", None),
    ("White heart", "a white heart grows over the sea", None),
    ("Falling star", "a yellow star falls in front of the night sky", "star-night.png"),
    ("Blue square", "a blue square rises over a desert", "square-desert.png"),
]
OTHER_EXAMPLES = [  # for the released weights, which know more of the world than shapes
    (
        "Boat at sunrise",
        "A small boat sails on a calm lake at sunrise, mist over the water, slow camera pan",
        None,
    ),
    ("Rain on a window", "Rain on a window at night, the lights of a city out of focus behind it", None),
    ("Fireworks", "A side profile shot of a woman with fireworks exploding in the distance beyond her", None),
]
SURPRISE = "surprise"
SUBJECTS = (  # of a prompt for the released weights
    "A red fox walks through fresh snow",
    "A paper boat drifts down a narrow stream",
    "An old steam train crosses a stone bridge",
    "A hot air balloon rises over a valley",
    "Waves roll slowly onto a black sand beach",
    "A lighthouse stands above a rough sea",
)
SCENES = (
    "mountains far behind it",
    "mist close to the ground",
    "tall grass in the wind",
    "soft clouds above",
)
LIGHTS = ("golden light of the evening, slow camera pan", "pale morning light, the camera stands still")
NAMED = {
    f"{kind}-{n}": example
    for kind, examples in (("shapes", EXAMPLES), ("world", OTHER_EXAMPLES))
    for n, example in enumerate(examples)
}


# ------------------------------------------------------------------------------------------------------------
# Presets


def preset_choices(app: App) -> list[tuple[str, str]]:
    """(label, name) of all presets that the loaded model can use."""
    choices = [("None", "")]
    for name in [*preset_names(), *preset_names(app.presets_folder)]:
        try:
            if not needs(app, find_preset(name, app.presets_folder)):
                choices.append((name, name))
        except SettingsError:
            choices.append((f"{name} · cannot be read", name))
    return choices


def needs(app: App, preset: Preset) -> str:
    """The other model that a preset is for; empty when the loaded one will do."""
    start = app.worker.start_from
    model = preset.values.get("model", start.model)
    variant = preset.values.get("variant", start.variant if model == start.model else "")
    if variant == start.variant and set(preset.values) & set(TAUGHT) and not teacher(app):
        variant = variant.removesuffix(FAST)
    return "" if (model, variant) == (start.model, start.variant) else f"{Path(model).name} {variant}".strip()


def applied(app: App, preset: Preset, settings: Settings) -> Settings:
    """The settings as the preset changes them, for the variant that takes what it says."""
    if set(preset.values) & set(TAUGHT):
        settings = for_any_steps(app, settings)
    return resolve(settings, preset, {})


def build_presets(form: Form) -> None:
    form.fields["preset"] = gr.Dropdown(
        preset_choices(form.app), value="", label="Preset", filterable=False, elem_id="preset"
    )


def build_save(form: Form) -> tuple[gr.Textbox, gr.Button]:
    with gr.Row(elem_classes="pair", elem_id="save-preset"):
        name = gr.Textbox(
            label="Keep these settings as a preset", placeholder="a name", max_lines=1, elem_id="preset-name"
        )
        save = gr.Button("Save preset", size="md", elem_id="preset-save", scale=0)
    return name, save


def wire_presets(
    form: Form, page: gr.Blocks, saving: tuple[gr.Textbox, gr.Button], visitor: gr.BrowserState
) -> None:
    app = form.app
    choice = form.fields["preset"]
    name, save = saving

    def choose(*values) -> list:
        v = form.values(*values)
        if not v["preset"]:
            return [gr.skip() for _ in form.components]
        try:
            preset = find_preset(v["preset"], app.presets_folder)
            if other := needs(app, preset):
                raise SettingsError(
                    "model", f"Preset {preset.name} is for {other}: load that under Models first"
                )
            settings = applied(app, preset, form.basis(*values))
        except SettingsError as error:
            raise shown_error(app, error, "Nothing was changed") from error
        say(preset.description, f"Preset {preset.name}")
        return form.put(settings, *values)

    def keep(wanted: str, token: str | None, request: gr.Request, *values):
        try:
            if app.owner(request, token).startswith("visitor:"):
                raise SettingsError(
                    "preset", "presets are kept for everybody here, so visitors cannot save any"
                )
            path = save_preset(wanted or "", form.basis(*values), app.presets_folder)
        except (SettingsError, OSError) as error:
            raise shown_error(app, error, "The preset was not saved") from error
        say(f"It is among the presets now, as {path.stem}.", "Preset saved")
        return gr.update(choices=preset_choices(app), value=path.stem), ""

    choice.input(choose, form.components, form.components, **AS_SENT)
    save.click(keep, [name, visitor, *form.components], [choice, name], **AS_SENT)
    page.load(lambda: gr.update(choices=preset_choices(app)), None, choice, **QUIET)


def wire_speed(form: Form) -> None:
    """The choice of a speed fills sampler and steps, and says what that changes."""

    def choose(speed: str, *values) -> list:
        try:
            settings = at_speed_of(form.app, speed, form.basis(*values))
        except SettingsError as error:
            raise failure(words_of(error), "Nothing was changed") from error
        say(speed_words(speed, settings), speed.capitalize())
        return form.put(settings, *values)

    form.speed.input(choose, [form.speed, *form.components], form.components, **AS_SENT)


# ------------------------------------------------------------------------------------------------------------
# Examples


def examples_of(app: App) -> dict[str, tuple[str, str, str | None]]:
    """The examples for the loaded model, by names that stay theirs when another model is loaded."""
    kind = "shapes" if app.worker.start_from.model == "embedded" else "world"
    return {name: example for name, example in NAMED.items() if name.startswith(kind)}


def examples_html(app: App) -> str:
    """A button for each example, with its picture where it begins with one."""
    chips = []
    for name, (label, prompt, picture) in examples_of(app).items():
        inside = ""
        if picture:
            data = base64.b64encode((EXAMPLE_PICTURES / picture).read_bytes()).decode()
            inside = f'<img src="data:image/png;base64,{data}" alt="">'
        chips.append(
            '<button type="button" class="chip" '
            f'data-example="{name}" title="{escape(prompt)}">{inside}<span>{escape(label)}</span></button>'
        )
    words = "Writes a prompt that this model can make something of"
    chips.append(
        f'<button type="button" class="chip" data-example="{SURPRISE}" title="{words}">'
        "<span>Surprise me</span></button>"
    )
    return f'<div class="chips" role="group" aria-label="Examples">{"".join(chips)}</div>'


def surprise(app: App) -> str:
    """A prompt that the loaded model can make something of, another one each time."""
    vocabulary = Vocabulary.of(app.worker.checkpoint.details)
    written = vocabulary.surprise() if vocabulary else ""
    parts = (SUBJECTS, SCENES, LIGHTS)
    return written or ", ".join(random.choice(part) for part in parts)


CLICKS = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-example]");
  if (button) trigger("click", {example: button.dataset.example});
});"""


def build_examples(app: App) -> gr.HTML:
    return html(examples_html(app), js_on_load=CLICKS, elem_id="examples")


def wire_examples(form: Form, chips: gr.HTML) -> None:
    def take(event: gr.EventData) -> list:
        if event.example == SURPRISE:
            return [surprise(form.app), "text", gr.skip()]
        if event.example not in NAMED:  # a page that was opened before the program was updated
            raise failure("there is no such example any more: load the page anew")
        _, prompt, picture = NAMED[event.example]
        path = str(EXAMPLE_PICTURES / picture) if picture else None
        return [prompt, "image" if path else "text", *([path] if path else [gr.skip()])]

    f = form.fields
    chips.click(take, None, [f["prompt"], f["mode"], f["picture"]], **QUIET)
