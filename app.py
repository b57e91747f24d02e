"""The page: a prompt or a picture in, the video growing stage by stage, the file at the end.

    python launch.py                                  http://127.0.0.1:7860, on the embedded model
    python app.py --model FOLDER --variant 384p --port 8000 --output-dir clips

The work itself is `pyramid.jobs`: it goes on when a page is closed, and a page that comes back finds it again.
"""

import argparse
import base64
import io
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from pyramid.engine import Engine, Run
from pyramid.settings import DTYPES, MODELS, Settings, SettingsError, frames_for_seconds, seconds_of

ROOT = Path(__file__).resolve().parent
PARTS = 7  # of the page that change, see `show`
PAGE_EVERY = 0.25  # seconds between two updates of a page: more often costs bandwidth and shows no more
CLIP_SIDE = 560  # pixels: the clip so far is sent no larger than this while it grows
EXAMPLES = [
    "a red ball moves to the right over a meadow",
    "a white heart grows over the sea",
    "a yellow star falls in front of the night sky",
]
GLYPH = """<svg viewBox="0 0 48 40" aria-hidden="true"><rect x="18" y="3" width="12" height="9" rx="2"/>
<rect x="10" y="15.5" width="28" height="9" rx="2"/><rect x="2" y="28" width="44" height="9" rx="2"/></svg>"""
SCROLL = """(...form) => {
  if (innerWidth < 800) document.querySelector("#show").scrollIntoView({behavior: "smooth"});
  return form;
}"""

# ------------------------------------------------------------------------------------------------------------
# A run as HTML


def img(picture: Image.Image, kind: str, alt: str, **options) -> str:
    """A picture as an <img> that carries its bytes: a preview costs no file and no second request."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/{kind};base64,{data}" alt="{alt}" draggable="false">'


def estimate(run: Run | None, stage: int) -> str:
    """The latest clean estimate of a stage, one pixel a latent; empty before there is one."""
    picture = run.estimates[stage] if run else None
    return img(picture, "jpeg", f"Stage {stage + 1}", quality=92, subsampling=0) if picture else ""


def tiles(run: Run | None, settings: Settings) -> str:
    """The pyramid: what each stage makes of the unit in work, the coarsest on top."""
    cells, at = [], run.at if run else None
    for stage in range(settings.stages):
        scale = 2 ** (settings.stages - 1 - stage)
        first = at is None or at.unit == 0
        steps = (settings.num_inference_steps if first else settings.video_num_inference_steps)[stage]
        taken = 0 if at is None or at.stage < stage else at.step + 1 if at.stage == stage else steps
        now = " now" if at and run.busy and at.stage == stage else ""
        cells.append(
            f'<figure class="tile{now}"><div class="pane">{estimate(run, stage)}</div><figcaption>'
            f"<b>Stage {stage + 1}</b><span>{settings.width // scale} × {settings.height // scale} px</span>"
            f"<span>{f'step {taken} of {steps}' if taken else f'{steps} steps'}</span></figcaption></figure>"
        )
    return f'<div class="pyramid">{"".join(cells)}</div>'


def screen(run: Run | None, growing: str) -> str:
    """The large picture: the clip so far, else the unit in work, else an invitation."""
    if growing:
        inside = growing
    elif run and run.at:
        inside = f'<div class="rough">{estimate(run, run.at.stage)}</div>'
    elif run:
        inside = f'<div class="invitation{" busy" if run.busy else ""}">{GLYPH}</div>'
    else:
        words = "Say what you want to see,<br>and watch it take shape."
        inside = f'<div class="invitation">{GLYPH}<p>{words}</p></div>'
    return f'<div class="screen">{inside}</div>'


def clip(frames: list[np.ndarray], fps: int) -> str:
    """The frames so far as a moving picture that repeats; empty when there are none."""
    if not frames:
        return ""
    pictures = [Image.fromarray(frame) for frame in frames]
    for picture in pictures:
        picture.thumbnail((CLIP_SIDE, CLIP_SIDE))
    moving = {"save_all": True, "append_images": pictures[1:], "duration": 1000 // fps, "loop": 0}
    return img(pictures[0], "webp", "The clip so far", quality=85, **moving)


def line(run: Run | None, engine: Engine) -> str:
    """Where the work stands: one bar a unit, and in words."""
    failed = run.error if run else engine.error
    if failed:
        words = escape(failed)
    elif run is None:
        words = "Ready" if engine.loaded.is_set() else "The model is loading; you can begin all the same"
    else:
        words = progress(run) if run.busy else result(run)
    bars = "".join(f'<i><b style="width: {share:.0%}"></b></i>' for share in (run.shares() if run else []))
    state = "failed" if failed else "busy" if run and run.busy else "idle"
    return f'<div class="line {state}"><div class="units">{bars}</div><p role="status">{words}</p></div>'


def progress(run: Run) -> str:
    at = run.at
    if run.status or at is None:
        return escape(run.status)
    return (
        f"<b>Unit {at.unit + 1} of {at.units}</b> · stage {at.stage + 1} of {at.stages} · "
        f"step {at.step + 1} of {at.steps} · about {max(1, round(run.seconds_left))} s left"
    )


def result(run: Run) -> str:
    s, count = run.settings, len(run.frames)
    made = f"{count} frame{'s' * (count > 1)}, {seconds_of(count, s.fps):g} s" if count else "nothing was finished"
    return (
        f"<b>{'Stopped: ' if run.stop.is_set() else ''}{made}</b> · {s.width} × {s.height} at {s.fps} fps · "
        f'seed <code id="used-seed">{s.seed}</code> · took {run.ended - run.began:.1f} s'
    )


def show(run: Run | None, engine: Engine, growing: str) -> list[dict]:
    """What the page's parts become for a run, in the order of `view` in `build`."""
    busy = run is not None and run.busy
    path = str(run.path) if run and run.path and not busy else None
    return [
        {"value": screen(run, growing), "visible": path is None},
        {"value": path, "visible": path is not None},
        {"value": tiles(run, run.settings if run else engine.start_from)},
        {"value": line(run, engine)},
        {"value": path, "visible": path is not None},
        {"interactive": not busy},
        {"interactive": busy},
    ]


# ------------------------------------------------------------------------------------------------------------
# What the page's controls do


def settings_of(start: Settings, prompt, picture, seconds, seed, steps, video_steps) -> Settings:
    """The settings that the form asks for. Raises SettingsError for text that is no number."""
    return replace(
        start,
        prompt=prompt,
        image=Path(picture).name if picture else None,
        num_frames=frames_for_seconds(seconds, start.fps),
        seed=int_of(seed, "seed") if seed.strip() else None,
        num_inference_steps=tuple(int_of(part, "steps") for part in steps.replace(",", " ").split()),
        video_num_inference_steps=tuple(int_of(part, "steps") for part in video_steps.replace(",", " ").split()),
    )


def int_of(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        example = "as in 10, 10, 10" if name == "steps" else "or nothing, for a random one"
        raise SettingsError(name, f"{name}: {text!r} is not a whole number; give one, {example}") from error


def follow(run_id: str | None, engine: Engine) -> Iterator[list]:
    """Yield what changed, at most every PAGE_EVERY seconds, until the run ends (or the model is there)."""
    sent, frames, growing = [None] * PARTS, None, ""
    while True:
        run = engine.find(run_id)
        over = not run.busy if run else engine.loaded.is_set()
        if run and frames is not run.frames:
            frames, growing = run.frames, clip(run.frames, run.settings.fps)
        now = show(run, engine, growing)
        yield [gr.update(**new) if new != old else gr.skip() for new, old in zip(now, sent, strict=True)]
        if over:
            break
        sent = now
        time.sleep(PAGE_EVERY)
    if run and run.error:
        raise gr.Error(run.error, print_exception=False)


# ------------------------------------------------------------------------------------------------------------
# The page


def build(engine: Engine, folder: Path) -> gr.Blocks:
    """The page as Gradio blocks; nothing is served yet. Videos are written to `folder`."""

    def begin(*form) -> str:
        try:
            settings = settings_of(engine.start_from, *form)
            run = engine.start(settings, folder, Path(form[1]).read_bytes() if form[1] else None)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        for note in settings.experimental():
            gr.Info(note)
        return run.id

    def stop(run_id: str | None) -> None:
        if run := engine.find(run_id):
            run.stop.set()
            run.status = "Stopping after this step"

    def watch(run_id: str | None) -> Iterator[list]:
        yield from follow(run_id, engine)

    with gr.Blocks(title="Pyramid", analytics_enabled=False) as page:
        run_id = gr.BrowserState(None, storage_key="pyramid-run", secret="pyramid")
        with gr.Row(elem_id="columns"):
            with gr.Column(elem_id="form", scale=0, min_width=0):
                form, generate, halt = build_form(engine)
            with gr.Column(elem_id="show", min_width=0):
                view = [*build_show(engine), generate, halt]
        # All in the queue, which shows errors as errors, and none waits there: the engine says who is next.
        quiet = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
        asked = gr.on([generate.click, form[0].submit], begin, form, run_id, js=SCROLL, **quiet)
        asked.success(watch, run_id, view, **quiet)
        halt.click(stop, run_id, **quiet)
        page.load(watch, run_id, view, **quiet)
    return page


def build_form(engine: Engine) -> tuple[list, gr.Button, gr.Button]:
    """The left column: the fields in the order of `settings_of`, Generate and Stop."""
    start, unit = engine.start_from, 8 / engine.start_from.fps
    listed = [", ".join(map(str, steps)) for steps in (start.num_inference_steps, start.video_num_inference_steps)]
    gr.HTML(f'<h1 id="mark">{GLYPH}Pyramid</h1>')
    prompt = gr.Textbox(label="Prompt", lines=3, max_lines=6, elem_id="prompt", placeholder=EXAMPLES[0])
    if start.model == "embedded":
        gr.Examples([[text] for text in EXAMPLES], prompt, elem_id="examples")
    picture = gr.Image(
        label="Picture", show_label=False, placeholder="A picture to begin with, if you like", height=104,
        type="filepath", image_mode=None, sources=["upload"], buttons=[], elem_id="picture",
    )  # fmt: skip
    # The file as it is: pyramid.video minds rotation, transparency and depth, and says what it cannot read.
    picture.preprocess = lambda payload: payload and payload.path
    with gr.Row(elem_classes="pair"):
        longest = seconds_of(engine.longest, start.fps)
        seconds = gr.Slider(unit, longest, start.seconds, step=unit, label="Seconds", buttons=[])
        seed = gr.Textbox(label="Seed", placeholder="random", max_lines=1, elem_id="seed")
    with gr.Row(elem_classes="pair"):
        steps = gr.Textbox(listed[0], label="Steps per stage", max_lines=1, elem_id="steps")
        video_steps = gr.Textbox(listed[1], label="… after the first frame", max_lines=1)
    with gr.Row(elem_id="go"):
        generate = gr.Button("Generate", variant="primary", elem_id="generate", scale=3)
        stop = gr.Button("Stop", interactive=False, elem_id="stop", scale=1)
    return [prompt, picture, seconds, seed, steps, video_steps], generate, stop


def build_show(engine: Engine) -> list:
    """The right column, in the order of `show`."""
    with gr.Row(elem_id="stage"):
        with gr.Column(elem_id="large", min_width=0):
            large = gr.HTML(screen(None, ""))
            video = gr.Video(visible=False, autoplay=True, loop=True, show_label=False, buttons=[], elem_id="video")
        strip = gr.HTML(tiles(None, engine.start_from), elem_id="strip")
    with gr.Row(elem_id="below"):
        status = gr.HTML(line(None, engine), elem_id="status")
        download = gr.DownloadButton("Download", visible=False, elem_id="download", size="md", scale=0)
    return [large, video, strip, status, download]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="app.py", description="The page, at http://127.0.0.1:7860.")
    parser.add_argument("--model", default="embedded", help=f"{', '.join(MODELS)}, a folder or a repository")
    parser.add_argument("--variant", help="which transformer of the model, such as 384p")
    parser.add_argument("--dtype", default="auto", choices=DTYPES)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, …")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="where the videos go")
    parser.add_argument("--port", type=int, help="7860, or the next that is free")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at")
    parser.add_argument("--listen", action="store_const", const="0.0.0.0", dest="host", help="at every address")
    parser.add_argument("--share", action="store_true", help="also open a public link through Gradio's servers")
    parser.add_argument("--inbrowser", action="store_true", help="open the page in a browser")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    folder = options.output_dir.resolve()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        engine = Engine(options.model, options.variant, dtype=options.dtype, device=options.device)
        if engine.longest == 1:
            raise ValueError("this variant makes still pictures: use python -m pyramid generate --num-frames 1")
        folder.mkdir(parents=True, exist_ok=True)
        build(engine, folder).launch(
            server_name=options.host, server_port=options.port, share=options.share, inbrowser=options.inbrowser,
            theme=gr.themes.Base(font=["Inter", "system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=f":root {{ --ratio: {engine.start_from.width} / {engine.start_from.height} }}",
            css_paths=ROOT / "assets" / "style.css", footer_links=[], run_history=False, enable_monitoring=False,
            ssr_mode=False, max_file_size="50mb", allowed_paths=[str(folder)],
        )  # fmt: skip
    except (ValueError, OSError) as error:  # no such model; a port that is taken; a folder not ours to write
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
