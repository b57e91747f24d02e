"""What to make: the form's fields, from settings and back.

    form = build_form(app)               # inside gr.Blocks
    settings = form.read(*values)  # values in the order of form.components; SettingsError names the field
    updates = form.fill(settings)        # one gr.update for each of form.components

A setting of the table (`pyramid.settings`) is on the page: `build_advanced` makes a field for each that has
none yet, named as the setting and with the label, bounds, step and choices that the table gives.

What the fields mean together (counts, limits, what cannot run) is `pyramid.ui.guards`.
"""

import os
from dataclasses import replace
from pathlib import Path

import gradio as gr

from pyramid.hub.loras import list_loras
from pyramid.jobs.queue import Output
from pyramid.presets import find_preset, resolve
from pyramid.settings import (
    GROUPS,
    MAX_STAGES,
    MAX_UNITS,
    TABLE,
    Settings,
    SettingsError,
    Variant,
    check_choice,
    check_value,
    frames_for_seconds,
    frames_of,
    label_of,
    loras_of,
    seconds_of,
    size_grid,
)
from pyramid.ui import AS_SENT, App
from pyramid.ui.addresses import uploads_folder
from pyramid.ui.markup import failure, html
from pyramid.ui.variants import for_request, speed_here, speeds_here

MODES = {"Text": "text", "Picture": "image", "Continue": "video", "Still": "still"}
OTHER = "other"  # the choice of a size that is in no list
RANDOM_WORDS = "Random"
STEP_FIELDS = {"num_inference_steps": "first", "video_num_inference_steps": "rest"}
COMPOSED = (  # what several fields say together; each other setting has a field of its own name
    *("prompt_suffix", "image", "video", "num_frames", "width", "height", "seed", "preset"),
    *STEP_FIELDS,
)
CHOSEN_AT_START = ("model", "machine")  # groups of settings that the form does not ask for


# ------------------------------------------------------------------------------------------------------------
# Sizes


def size_choices(
    trained: tuple[tuple[int, int], ...], stages: int, most: int | None = None
) -> list[tuple[str, str]]:
    """(label, value) of the sizes: trained ones first, then some of about their area on the grid, marked.

    `most`: pixels above which no more are offered.
    """
    grid = size_grid(stages)
    sizes = list(trained)
    for width, height in trained:
        side = round((width * height) ** 0.5 / grid) * grid
        for w, h in (
            (height, width),
            (side, side),
            (round(side * 1.5 / grid) * grid, side),
            (side, round(side * 1.5 / grid) * grid),
        ):
            if min(w, h) >= grid and (w, h) not in sizes and (most is None or w * h <= most):
                sizes.append((w, h))
    named = [(f"{w} × {h}" + " · experimental" * ((w, h) not in trained), f"{w}x{h}") for w, h in sizes]
    return [*named, ("Another size …", OTHER)]


def longest_seconds(app: App) -> float:
    """What the length's slider ends at: twice the trained length, within what a visitor may ask for."""
    v = app.worker.checkpoint.defaults
    longest = seconds_of(frames_of(min(2 * v.units, MAX_UNITS)), v.fps)
    return min(longest, app.limits.max_seconds) if app.limits.max_seconds else longest


# ------------------------------------------------------------------------------------------------------------
# The fields


class Form:
    """The fields: `components` are what decides a result, `extras` how many and how they are kept."""

    def __init__(self, app: App):
        self.app = app
        self.fields: dict[str, gr.components.Component] = {}
        self.extra: dict[str, gr.components.Component] = {}
        self.other_size: gr.Row | None = None
        self.speed: gr.Radio  # sampler and steps by one word: no field, it fills some

    @property
    def components(self) -> list:
        return list(self.fields.values())

    @property
    def extras(self) -> list:
        """Number of videos, more pictures, format, quality, metadata, name pattern, live previews."""
        return list(self.extra.values())

    @property
    def expects(self) -> Variant:
        return self.app.worker.checkpoint.defaults

    def values(self, *values) -> dict:
        """The fields by name, from an event that is wired `AS_SENT`; a file as the path of its upload."""
        v = dict(zip(self.fields, values, strict=True))
        return v | {name: upload_path(v[name]) for name in ("picture", "clip")}

    def read(self, *values) -> Settings:
        """The settings that the fields ask for. `image` and `video` are names; `sources` has the files.

        Raises SettingsError for a field that is empty; what the numbers may be is `Settings.validate`'s.
        """
        v = self.values(*values)
        mode = v["mode"]
        check_choice("mode", mode, tuple(MODES.values()))
        stages = whole(v["stages"], "stages")
        if not 1 <= stages <= MAX_STAGES:
            raise SettingsError("stages", f"= {stages}: 1 to {MAX_STAGES} are possible", named=True)
        fps = check_value("fps", whole(v["fps"], "fps"))  # lengths are counted by it
        num_frames = 1 if mode == "still" else frames_for_seconds(v["seconds"], fps)
        picture, clip = self._given(*values)
        width, height = size_of(v)
        asked = {name: direct(name, v[name]) for name in v if name in TABLE and name not in COMPOSED}
        asked |= {name: counts(v, name, key, stages) for name, key in STEP_FIELDS.items()}
        asked |= {
            "prompt_suffix": v["prompt_suffix"] if v["use_suffix"] else "",
            "image": Path(picture).name if picture else None,
            "video": Path(clip).name if clip else None,
            "num_frames": num_frames,
            "width": width,
            "height": height,
            "seed": None if v["random"] else whole(v["seed"], "seed"),
        }
        settings = resolve(self.app.worker.start_from, None, asked)
        settings = for_request(self.app, settings, picture or clip)
        return settings if not v["preset"] else self._named(settings, v["preset"])

    def _named(self, settings: Settings, preset: str) -> Settings:
        """The settings with the name of the preset, if they still are what it made of them."""
        try:
            found = find_preset(preset, self.app.presets_folder)
        except SettingsError:
            return settings
        return replace(settings, preset=preset) if found.holds(settings) else settings

    def _given(self, *values) -> tuple[str | None, str | None]:
        """`sources`; SettingsError where the one that is to begin with is missing."""
        mode = self.values(*values)["mode"]
        picture, clip = self.sources(*values)
        if mode == "image" and not picture:
            raise SettingsError(
                "image", "there is no picture yet: drop one, paste one or take one, or choose Text"
            )
        if mode == "video" and not clip:
            raise SettingsError("video", "there is no clip to continue yet: drop one, or choose Text")
        return picture, clip

    def basis(self, *values) -> Settings:
        """The settings without a source: what presets change and keep,
        whether a picture is there yet or not.
        """
        v = self.values(*values)
        return self.read(*(v | {"mode": "still" if v["mode"] == "still" else "text"}).values())

    def put(self, settings: Settings, *values) -> list[dict]:
        """`fill` with the sources that are in the form; its mode stays,
        unless a still becomes a video or back.
        """
        v = self.values(*values)
        updates = dict(zip(self.fields, self.fill(settings), strict=True))
        updates |= {"picture": gr.skip(), "clip": gr.skip(), "mode": gr.skip()}
        if (settings.num_frames == 1) != (v["mode"] == "still"):
            updates["mode"] = gr.update(value="still" if settings.num_frames == 1 else "text")
        return list(updates.values())

    def sources(self, *values) -> tuple[str | None, str | None]:
        """The files of the picture and of the clip to begin with, as this server keeps them."""
        v = self.values(*values)
        return v["picture"] if v["mode"] == "image" else None, v["clip"] if v["mode"] == "video" else None

    def fill(
        self, settings: Settings, picture: str | Path | None = None, video: str | Path | None = None
    ) -> list[dict]:
        """What brings these settings into the fields, one update for each of `components`.

        `picture` and `video` are the files that the settings began with, where they are still there.
        """
        lists = len(settings.num_inference_steps), len(settings.video_num_inference_steps)
        if lists[0] != lists[1] or not 1 <= lists[0] <= MAX_STAGES or settings.fps < 1:
            names = [label_of(name) for name in (*STEP_FIELDS, "fps")]
            raise failure(
                f"{names[0]} has {lists[0]} numbers (stages), {names[1]} {lists[1]}, {names[2]} is "
                f"{settings.fps}: give equally many numbers, 1 to {MAX_STAGES}, at least 1 frame a second",
                "Nothing was changed",
            )
        new = self._held(settings, picture, video)
        updates = {name: gr.update(value=new[name]) if name in new else gr.skip() for name in self.fields}
        known = size_choices(self.expects.sizes, settings.stages, self.app.limits.max_pixels)
        size = f"{settings.width}x{settings.height}"
        listed = size in [value for _, value in known]
        updates["size"] = gr.update(choices=known, value=size if listed else OTHER)
        longest = {"maximum": max(longest_seconds(self.app), settings.seconds)}
        if settings.num_frames > 1:
            longest["value"] = settings.seconds
        updates["seconds"] = gr.update(**longest)
        return list(updates.values())

    def _held(self, s: Settings, picture: str | Path | None, video: str | Path | None) -> dict:
        """What the fields hold for settings, by name; those that stay as they are, are left out."""
        held = {name: getattr(s, name) for name in self.fields if name in TABLE and name not in COMPOSED}
        held |= {
            "mode": "still" if s.num_frames == 1 else "text",
            "picture": str(picture) if picture else None,
            "clip": str(video) if video else None,
            "use_suffix": bool(s.prompt_suffix),
            "prompt_suffix": s.prompt_suffix or self.expects.prompt_suffix,
            "width": s.width,
            "height": s.height,
            "stages": s.stages,
            "random": s.seed is None,
            "preset": s.preset or "",
        }
        if picture or video:
            held["mode"] = "image" if picture else "video"
        if s.seed is not None:
            held["seed"] = s.seed
        for name, key in STEP_FIELDS.items():
            held |= {f"{key}{n}": steps for n, steps in enumerate(getattr(s, name))}
        return held

    def for_model(self) -> list[dict]:
        """What the fields become for the model that is now loaded: its sizes, lengths, steps and guidance."""
        v = self.expects
        start = self.app.worker.start_from
        updates = dict(zip(self.fields, self.fill(start), strict=True))
        for kept in ("prompt", "picture", "clip", "fit", "seed", "random", "mode"):
            updates[kept] = gr.skip()
        updates["mode"] = (
            gr.update(choices=modes_of(v), value="still") if v.units == 1 else gr.update(choices=modes_of(v))
        )
        unit = unit_seconds(v)
        updates["seconds"] = gr.update(
            minimum=unit, maximum=longest_seconds(self.app), step=unit, value=start.seconds or unit
        )
        return list(updates.values())

    def output(self, *extras) -> tuple[Output, int, list[str]]:
        """How the results are kept, how many seeds are wanted, and the further pictures' files."""
        v = dict(zip(self.extra, extras, strict=True))
        kept = Output(
            format=v["format"],
            quality=whole(v["quality"], "quality"),
            metadata=v["metadata"],
            pattern=v["pattern"],
            previews=v["previews"],
        )
        pictures = [path for file in v["pictures"] or [] if (path := upload_path(file))]
        return kept, whole(v["count"], "number of videos"), pictures


def upload_path(value: dict | str | None) -> str | None:
    """Where this server keeps an upload. ValueError for a file that is none.

    Gradio checks that only of what says that it is a file's description, which a visitor may leave out.
    """
    if not isinstance(value, dict):
        return value
    path = Path(os.path.realpath(str(value.get("path"))))
    if not path.is_relative_to(uploads_folder()):
        raise ValueError(f"{path.name!r} was not uploaded; paths on the server are not taken")
    return str(path)


def size_of(values: dict) -> tuple[int, int]:
    """Width and height that the fields ask for: a size of the list, or another one."""
    if values["size"] != OTHER:
        return listed_size(values["size"])
    return whole(values["width"], "width"), whole(values["height"], "height")


def direct(name: str, value):
    """The value of a setting whose field is its own."""
    return whole(value, name) if TABLE[name].kind is int else value


def listed_size(value) -> tuple[int, int]:
    """Width and height of a size that the list offers."""
    width, cross, height = str(value).partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise SettingsError("width", f"size {value!r}: choose one of the list, or {OTHER!r}")
    return int(width), int(height)


def whole(value, name: str, part: str = "") -> int:
    """A number of the form as an int. SettingsError for an empty field, a fraction, infinity."""
    if type(value) not in (int, float) or value % 1:  # nan is left of nan and infinity
        shown = "is empty" if value is None else f"= {value}"
        raise SettingsError(name, f"{shown}: a whole number is expected", named=True, part=part)
    return int(value)


def counts(values: dict, name: str, key: str, stages: int) -> tuple[int, ...]:
    """The steps of the first `stages` stages, whose fields are `key`0, `key`1, …"""
    return tuple(whole(values[f"{key}{n}"], name, f"stage {n + 1}") for n in range(stages))


def modes_of(v: Variant) -> list[tuple[str, str]]:
    return [(label, mode) for label, mode in MODES.items() if v.units > 1 or mode == "still"]


def unit_seconds(v: Variant) -> float:
    return 8 / v.fps


# ------------------------------------------------------------------------------------------------------------
# Building


def control(name: str, value, **more):
    """The field of a setting, with the label, bounds, step and choices that the table has for it."""
    spec = TABLE[name]
    look = {"label": spec.short or spec.label, "elem_id": spec.option.removeprefix("--")} | more
    bounds = {"minimum": spec.low, "maximum": spec.high, "step": spec.step}
    if spec.kind is bool:
        return gr.Checkbox(value, **look)
    if spec.choices:
        return gr.Radio([(choice.capitalize(), choice) for choice in spec.choices], value=value, **look)
    if spec.kind is float:
        return gr.Slider(value=value, buttons=[], **bounds, **look)
    if spec.kind in (int, int | None):
        return gr.Number(value, **bounds | {"step": spec.step or 1}, **look)
    return gr.Textbox(value, **look)


def explained(name: str) -> str:
    """What a setting does, as a sentence under its label."""
    text = TABLE[name].help
    return text[0].upper() + text[1:]


def build_form(app: App) -> Form:
    """The fields for making; `build_advanced` and `build_pyramid` add theirs where the page wants them."""
    form = Form(app)
    v = app.worker.checkpoint.defaults
    f = form.fields
    f["mode"] = gr.Radio(
        modes_of(v), value="text" if v.units > 1 else "still", label="What to make", elem_id="mode"
    )
    placeholder = "a red ball moves to the right over a meadow"
    f["prompt"] = control("prompt", "", lines=3, max_lines=8, placeholder=placeholder)
    return form


def build_sources(form: Form) -> None:
    """The picture or the clip that a video begins with, and how it is brought to size."""
    f = form.fields
    f["picture"] = gr.Image(
        label="Picture to begin with",
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard", "webcam"],
        height=170,
        buttons=[],
        elem_id="picture",
        visible=False,
    )
    f["clip"] = gr.Video(
        label="Clip to continue", sources=["upload"], height=190, buttons=[], elem_id="clip", visible=False
    )
    f["fit"] = control("fit", form.app.worker.start_from.fit, visible=False)


def build_size(form: Form) -> None:
    """Length and size, side by side, the custom size under them."""
    f = form.fields
    start = form.app.worker.start_from
    v = form.expects
    unit = unit_seconds(v)
    with gr.Row(elem_classes="pair"):
        f["seconds"] = gr.Slider(
            unit,
            longest_seconds(form.app),
            start.seconds or unit,
            step=unit,
            label="Seconds",
            buttons=[],
            elem_id="seconds",
        )
        choices = size_choices(v.sizes, start.stages, form.app.limits.max_pixels)
        f["size"] = gr.Dropdown(
            choices, value=f"{start.width}x{start.height}", label="Size", filterable=False, elem_id="size"
        )
    with gr.Row(elem_classes="pair", visible=False, elem_id="other-size") as form.other_size:
        f["width"] = control("width", start.width)
        f["height"] = control("height", start.height)


def build_seed(form: Form) -> None:
    f = form.fields
    with gr.Row(elem_classes="pair", elem_id="seed-row"):
        f["seed"] = control("seed", 0)
        f["random"] = gr.Checkbox(True, label=RANDOM_WORDS, elem_id="random")


def build_steps(form: Form) -> None:
    """How many stages, and the steps of each: the pyramid's handles."""
    f = form.fields
    start = form.app.worker.start_from
    with gr.Row(elem_classes="pair"):
        for name, key in STEP_FIELDS.items():
            with gr.Column(min_width=0, elem_classes="tight"):
                html(f'<span class="title">{label_of(name)}</span>')
                build_step_row(form, name, key)
    f["stages"] = gr.Radio(
        list(range(1, MAX_STAGES + 1)), value=start.stages, label="Stages", elem_id="stages"
    )
    choices = [(speed.capitalize(), speed) for speed in speeds_here(form.app)]
    form.speed = gr.Radio(choices, value=speed_here(form.app, start), label="Speed", elem_id="speed")


def build_step_row(form: Form, name: str, key: str) -> None:
    """A number for each stage, named `key`0, `key`1, …"""
    title = label_of(name)
    steps = getattr(form.app.worker.start_from, name)
    with gr.Row(elem_classes="steps"):
        for n in range(MAX_STAGES):
            known = steps[n] if n < len(steps) else steps[-1]
            form.fields[f"{key}{n}"] = gr.Number(
                known,
                label=f"{title}, stage {n + 1}",
                min_width=0,
                elem_id=f"{key}-{n + 1}",
                elem_classes="bare",
                visible=n < len(steps),
            )


def build_advanced(form: Form) -> None:
    """The negative prompt, the model's quality words, and each setting that has no field yet, by groups."""
    f = form.fields
    start = form.app.worker.start_from
    what = f"{label_of('negative_prompt')}: {TABLE['negative_prompt'].help}"
    f["negative_prompt"] = control("negative_prompt", start.negative_prompt, label=what, lines=2)
    f["use_suffix"] = gr.Checkbox(
        bool(start.prompt_suffix), label="Add these words to the prompt", elem_id="use-suffix"
    )
    example = "such as: , hyper quality, Ultra HD, 8K"
    suffix = form.expects.prompt_suffix
    f["prompt_suffix"] = control("prompt_suffix", suffix, show_label=False, placeholder=example)
    for group, title in GROUPS.items():
        names = [name for name, spec in TABLE.items() if spec.group == group]
        left = [name for name in names if name not in (*f, *COMPOSED)]
        if left == ["lora"]:
            build_loras(form, title)
        elif left and group not in CHOSEN_AT_START:
            build_group(form, title, left)


def build_loras(form: Form, title: str) -> None:
    """A slider for each LoRA in the folder, 0 is without it; the field holds what they say together."""
    names = list_loras()
    start = form.app.worker.start_from.lora
    field = form.fields["lora"] = control("lora", start, visible="hidden")
    if not names:
        return
    html(f'<span class="title">{title}</span>')
    before = dict(loras_of(start))
    sliders = [
        gr.Slider(-2, 2, before.get(name, 0), step=0.05, label=name, buttons=[], elem_id=f"lora-{name}")
        for name in names
    ]

    def say(*strengths: float) -> str:
        return ", ".join(f"{name}:{s:g}" for name, s in zip(names, strengths, strict=True) if s)

    def show(text: str) -> list[float]:
        strengths = dict(loras_of(text))
        return [strengths.get(name, 0) for name in names]

    gr.on([slider.input for slider in sliders], say, sliders, field, trigger_mode="always_last", **AS_SENT)
    field.change(show, field, sliders, **AS_SENT)


def build_group(form: Form, title: str, names: list[str]) -> None:
    """The fields of settings that belong together, two side by side under their title; one alone explains
    itself.
    """
    start = form.app.worker.start_from
    if len(names) == 1:
        form.fields[names[0]] = control(names[0], getattr(start, names[0]), info=explained(names[0]))
        return
    html(f'<span class="title">{title}</span>')
    for at in range(0, len(names), 2):
        with gr.Row(elem_classes="pair"):
            for name in names[at : at + 2]:
                form.fields[name] = control(name, getattr(start, name))


def build_extras(form: Form) -> None:
    """How many, and how they are kept. The pattern's names are `Output`'s."""
    e = form.extra
    kept = Output()
    e["count"] = gr.Number(1, label="Number of videos, each with the next seed", elem_id="count")
    e["pictures"] = gr.File(
        label="More pictures: a video from each",
        file_count="multiple",
        file_types=["image"],
        elem_id="pictures",
        height=90,
    )
    with gr.Row(elem_classes="pair"):
        e["format"] = gr.Dropdown(
            [(label, name) for name, label in FORMATS.items()],
            value=kept.format,
            label="Format",
            filterable=False,
            elem_id="format",
        )
        e["quality"] = gr.Slider(1, 51, kept.quality, step=1, label="Quality (CRF: 1 is best)", buttons=[])
    with gr.Row(elem_classes="pair"):
        e["metadata"] = gr.Dropdown(
            [("In the file", "embed"), ("Beside it", "sidecar"), ("None", "none")],
            value=kept.metadata,
            label="Settings kept",
            filterable=False,
        )
        e["pattern"] = gr.Textbox(kept.pattern, label="Name pattern", max_lines=1, elem_id="pattern")
    e["previews"] = gr.Checkbox(kept.previews, label="Live previews of each step", elem_id="previews")


FORMATS = {"mp4": "MP4", "webm": "WebM", "gif": "GIF", "png": "PNG pictures"}
