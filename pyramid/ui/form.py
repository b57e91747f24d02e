"""What to make: the form's fields, from settings and back.

    form = build_form(app)               # inside gr.Blocks
    settings = form.read(*values)  # values in the order of form.components; SettingsError names the field
    updates = form.fill(settings)        # one gr.update for each of form.components

What the fields mean together (counts, limits, what cannot run) is `pyramid.ui.guards`.
"""

from dataclasses import replace
from pathlib import Path

import gradio as gr

from pyramid.jobs.queue import Output
from pyramid.settings import (
    FITS,
    MAX_STAGES,
    MAX_UNITS,
    Settings,
    SettingsError,
    Variant,
    check_choice,
    check_value,
    frames_for_seconds,
    frames_of,
    label_of,
    seconds_of,
    size_grid,
)
from pyramid.ui import App
from pyramid.ui.markup import html
from pyramid.ui.presets import holds

MODES = {"Text": "text", "Picture": "image", "Continue": "video", "Still": "still"}
FIT_WORDS = {"crop": "Crop", "fit": "Fit", "pad": "Pad"}
OTHER = "other"  # the choice of a size that is in no list
RANDOM_WORDS = "Random"
STEP_FIELDS = {"num_inference_steps": "first", "video_num_inference_steps": "rest"}


# ------------------------------------------------------------------------------------------------------------
# Sizes


def size_choices(
    trained: tuple[tuple[int, int], ...], stages: int, most: int | None = None
) -> list[tuple[str, str]]:
    """(label, value) of the sizes: trained ones first, then some of about their area on the grid, marked.

    `most`: pixels above which no more are offered.
    """
    grid, sizes = size_grid(stages), list(trained)
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
        self.app, self.fields, self.extra = app, {}, {}

    @property
    def components(self) -> list:
        return list(self.fields.values())

    @property
    def extras(self) -> list:
        """Format, quality, metadata, name pattern, previews, number of seeds, more pictures."""
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
        start, mode = self.app.worker.start_from, v["mode"]
        check_choice("mode", mode, tuple(MODES.values()))
        stages = whole(v["stages"], "stages")
        if not 1 <= stages <= MAX_STAGES:
            raise SettingsError("num_inference_steps", f"stages = {stages}: 1 to {MAX_STAGES} are possible")
        fps = whole(v["fps"], "fps")
        check_value("fps", fps)  # lengths are counted by it
        if mode != "still" and type(v["seconds"]) not in (int, float):
            raise SettingsError("seconds", "is empty: say how long the video is to be", named=True)
        picture, clip = self.sources(*values)
        if mode == "image" and not picture:
            raise SettingsError(
                "image", "there is no picture yet: drop one, paste one or take one, or choose Text"
            )
        if mode == "video" and not clip:
            raise SettingsError("video", "there is no clip to continue yet: drop one, or choose Text")
        if v["size"] == OTHER:
            width, height = whole(v["width"], "width"), whole(v["height"], "height")
        else:
            width, height = listed_size(v["size"])
        asked = replace(
            start,
            prompt=v["prompt"],
            negative_prompt=v["negative"],
            prompt_suffix=v["suffix"] if v["use_suffix"] else "",
            image=Path(picture).name if picture else None,
            video=Path(clip).name if clip else None,
            fit=v["fit"],
            num_frames=1 if mode == "still" else frames_for_seconds(v["seconds"], fps),
            fps=fps,
            width=width,
            height=height,
            **{name: counts(v, name, key, stages) for name, key in STEP_FIELDS.items()},
            guidance_scale=v["guidance"],
            video_guidance_scale=v["video_guidance"],
            guidance_decay=v["decay"],
            min_guidance_scale=v["least"],
            seed=None if v["random"] else whole(v["seed"], "seed"),
        )
        return replace(asked, preset=v["preset"]) if holds(self.app, v["preset"], asked) else asked

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
        v, updates = self.values(*values), dict(zip(self.fields, self.fill(settings), strict=True))
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
            raise gr.Error(
                f"{names[0]} has {lists[0]} numbers (stages), {names[1]} {lists[1]}, {names[2]} is "
                f"{settings.fps}: give equally many numbers, 1 to {MAX_STAGES}, at least 1 frame a second",
                title="Nothing was changed",
                print_exception=False,
            )
        s, known = settings, size_choices(self.expects.sizes, settings.stages, self.app.limits.max_pixels)
        mode = "image" if picture else "video" if video else "still" if s.num_frames == 1 else "text"
        size = f"{s.width}x{s.height}"
        new = {
            "mode": mode,
            "prompt": s.prompt,
            "negative": s.negative_prompt,
            "fit": s.fit,
            "picture": str(picture) if picture else None,
            "clip": str(video) if video else None,
            "use_suffix": bool(s.prompt_suffix),
            "suffix": s.prompt_suffix or self.expects.prompt_suffix,
            "fps": s.fps,
            "width": s.width,
            "height": s.height,
            "stages": s.stages,
            "guidance": s.guidance_scale,
            "video_guidance": s.video_guidance_scale,
            "decay": s.guidance_decay,
            "least": s.min_guidance_scale,
            "random": s.seed is None,
            "preset": s.preset or "",
        }
        if s.num_frames > 1:
            new["seconds"] = s.seconds
        if s.seed is not None:
            new["seed"] = s.seed
        for n, (first, rest) in enumerate(
            zip(s.num_inference_steps, s.video_num_inference_steps, strict=True)
        ):
            new |= {f"first{n}": first, f"rest{n}": rest}
        updates = {name: gr.update(value=new[name]) if name in new else gr.skip() for name in self.fields}
        listed = size in [value for _, value in known]
        updates["size"] = gr.update(choices=known, value=size if listed else OTHER)
        top = max(longest_seconds(self.app), s.seconds)
        updates["seconds"] = gr.update(maximum=top, **({"value": s.seconds} if s.num_frames > 1 else {}))
        return list(updates.values())

    def for_model(self) -> list[dict]:
        """What the fields become for the model that is now loaded: its sizes, lengths, steps and guidance."""
        v, start = self.expects, self.app.worker.start_from
        updates = dict(zip(self.fields, self.fill(start), strict=True))
        for kept in ("prompt", "picture", "clip", "fit", "seed", "random", "mode"):
            updates[kept] = gr.skip()
        updates["mode"] = (
            gr.update(choices=modes_of(v), value="still") if v.units == 1 else gr.update(choices=modes_of(v))
        )
        step, least = unit_seconds(v), unit_seconds(v)
        updates["seconds"] = gr.update(
            minimum=least, maximum=longest_seconds(self.app), step=step, value=start.seconds or least
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
        pictures = [upload_path(file) for file in v["pictures"] or []]
        return kept, whole(v["count"], "number of videos"), pictures


def upload_path(value: dict | str | None) -> str | None:
    """Where this server keeps an upload. Gradio has checked by then that it is one of its own uploads."""
    return value["path"] if isinstance(value, dict) else value


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


def build_form(app: App) -> Form:
    """The fields for making; `build_advanced` and `build_pyramid` add theirs where the page wants them."""
    form, v = Form(app), app.worker.checkpoint.defaults
    f = form.fields
    f["mode"] = gr.Radio(
        modes_of(v), value="text" if v.units > 1 else "still", label="What to make", elem_id="mode"
    )
    f["prompt"] = gr.Textbox(
        label="Prompt",
        lines=3,
        max_lines=8,
        elem_id="prompt",
        placeholder="a red ball moves to the right over a meadow",
    )
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
    f["fit"] = gr.Radio(
        [(FIT_WORDS[fit], fit) for fit in FITS],
        value="crop",
        label="To the video's shape",
        elem_id="fit",
        visible=False,
    )


def build_size(form: Form) -> None:
    """Length and size, side by side, the custom size under them."""
    f, start, v = form.fields, form.app.worker.start_from, form.expects
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
        f["width"] = gr.Number(start.width, label="Width", step=16)
        f["height"] = gr.Number(start.height, label="Height", step=16)


def build_seed(form: Form) -> None:
    f = form.fields
    with gr.Row(elem_classes="pair", elem_id="seed-row"):
        f["seed"] = gr.Number(0, label="Seed", elem_id="seed")
        f["random"] = gr.Checkbox(True, label=RANDOM_WORDS, elem_id="random")


def build_steps(form: Form) -> None:
    """How many stages, and the steps of each: the pyramid's handles."""
    f, start = form.fields, form.app.worker.start_from
    f["stages"] = gr.Radio(
        list(range(1, MAX_STAGES + 1)), value=start.stages, label="Stages", elem_id="stages"
    )
    for key, title, steps in (
        ("first", "Steps for the first frame", start.num_inference_steps),
        ("rest", "Steps for each later unit", start.video_num_inference_steps),
    ):
        html(f'<span class="title">{title}</span>')
        with gr.Row(elem_classes="steps"):
            for n in range(MAX_STAGES):
                known = steps[n] if n < len(steps) else steps[-1]
                f[f"{key}{n}"] = gr.Number(
                    known,
                    label=f"{title}, stage {n + 1}",
                    min_width=0,
                    elem_id=f"{key}-{n + 1}",
                    elem_classes="bare",
                    visible=n < len(steps),
                )


def build_advanced(form: Form) -> None:
    f, start, v = form.fields, form.app.worker.start_from, form.expects
    f["negative"] = gr.Textbox(
        start.negative_prompt, label="Negative prompt: what should not be seen", lines=2, elem_id="negative"
    )
    f["use_suffix"] = gr.Checkbox(
        bool(start.prompt_suffix), label="Add these words to the prompt", elem_id="use-suffix"
    )
    f["suffix"] = gr.Textbox(
        v.prompt_suffix,
        label="Quality words",
        show_label=False,
        elem_id="suffix",
        placeholder="such as: , hyper quality, Ultra HD, 8K",
    )
    for title, sliders in (
        (
            "Guidance: how closely the words are followed",
            (
                ("guidance", "First frame", 1, 30, 0.5, start.guidance_scale),
                ("video_guidance", "Later units", 1, 30, 0.5, start.video_guidance_scale),
            ),
        ),
        (
            "Guidance of later units, falling in a line",
            (
                ("decay", "By, each unit", 0, 10, 0.05, start.guidance_decay),
                ("least", "Not below", 1, 30, 0.5, start.min_guidance_scale),
            ),
        ),
    ):
        html(f'<span class="title">{title}</span>')
        with gr.Row(elem_classes="pair"):
            for key, label, low, high, step, value in sliders:
                f[key] = gr.Slider(
                    low, high, value, step=step, label=label, buttons=[], elem_id=key.replace("_", "-")
                )
    f["fps"] = gr.Number(start.fps, label="Frames a second", elem_id="fps")


def build_extras(form: Form) -> None:
    """How many, and how they are kept. The pattern's names are `Output`'s."""
    e, kept = form.extra, Output()
    e["count"] = gr.Number(1, label="Videos, each with the next seed", elem_id="count")
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
    e["previews"] = gr.Checkbox(kept.previews, label="Show what each step makes of it", elem_id="previews")


FORMATS = {"mp4": "MP4", "webm": "WebM", "gif": "GIF", "png": "PNG pictures"}
