"""The making: what each stage makes of the unit in work, the units that are finished, the clip that grows.

    live = build_live(app)                       # inside gr.Blocks
    live.outputs, live.show(owner)               # what they become now, for one owner
    live.wire(visitor)                           # Stop, and the stages of a finished unit

A picture is drawn once, however many pages watch: pages share what was made for the same moment of a run.
"""

from html import escape
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from pyramid.events import Preview
from pyramid.jobs.queue import State
from pyramid.jobs.run import Live
from pyramid.settings import Settings, frames_of
from pyramid.ui import QUIET, App
from pyramid.ui.addresses import address_of, address_of_growing, address_of_stream
from pyramid.ui.markup import data_of, html, img, once
from pyramid.ui.pyramid_view import clock

THUMB = 96  # pixels: the longer side of a finished unit on the timeline
PLAYABLE = (".mp4", ".webm")
GLYPH = """<svg viewBox="0 0 48 40" aria-hidden="true"><rect x="18" y="3" width="12" height="9" rx="2"/>
<rect x="10" y="15.5" width="28" height="9" rx="2"/><rect x="2" y="28" width="44" height="9" rx="2"/></svg>"""
CLICKS = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-unit]");
  if (button) trigger("click", {unit: Number(button.dataset.unit)});
});"""

STREAM = (Path(__file__).resolve().parent.parent.parent / "assets" / "stream.js").read_text(encoding="utf-8")
# A clip that has grown goes on where it was.
GOES_ON = """let at = 0;
element.addEventListener("timeupdate", ({target}) => {
  if (target.currentTime > 0) at = target.currentTime;
}, true);
element.addEventListener("loadedmetadata", ({target}) => {
  if (at < target.duration - 0.1) target.currentTime = at;
}, true);"""

# ------------------------------------------------------------------------------------------------------------
# Pictures


def estimate(live: Live | None, unit: int, stage: int) -> str:
    """The last denoised estimate of a stage; empty before there is one."""
    picture = live.estimates.get((unit, stage)) if live else None
    if picture is None:
        return ""
    alt = f"Stage {stage + 1}"
    return once(alt, picture, lambda p: img(p, "jpeg", alt, quality=92, subsampling=0))


def thumbnail(frame: np.ndarray) -> str:
    def draw(frame) -> str:
        picture = Image.fromarray(frame)
        picture.thumbnail((THUMB, THUMB))
        return img(picture, "jpeg", "", quality=80)

    return once("thumb", frame, draw)


# ------------------------------------------------------------------------------------------------------------
# The parts as HTML


def tiles(live: Live | None, settings: Settings) -> str:
    """What each stage makes of the unit in work, the coarsest first."""
    at = live.at if live else None
    busy = live is not None and live.busy
    cells = []
    for stage in range(settings.stages):
        scale = 2 ** (settings.stages - 1 - stage)
        steps = settings.evaluations(at.unit if at else 0)[stage]
        taken = steps_taken(at, stage, steps)
        now = " now" if at and busy and at.stage == stage else ""
        words = f"step {taken} of {steps}" if taken else f"{steps} step{'s' * (steps > 1)}"
        picture = estimate(live, at.unit, stage) if at else ""
        cells.append(
            f'<figure class="tile{now}"><div class="pane">{picture}</div>'
            f"<figcaption><b>Stage {stage + 1}</b><span>{words}</span>"
            f"<span>{settings.width // scale} × {settings.height // scale} px</span></figcaption></figure>"
        )
    return f'<div class="pyramid" style="{ratio(settings)}">{"".join(cells)}</div>'


def steps_taken(at: Preview | None, stage: int, steps: int) -> int:
    """How many of a stage's steps the unit in work has taken."""
    if at is None or at.stage < stage:
        return 0
    return at.step + 1 if at.stage == stage else steps


def ratio(settings: Settings) -> str:
    return f"--ratio: {settings.width} / {settings.height}"


def screen(live: Live | None, settings: Settings, waiting: int = 0) -> str:
    """The large picture: a still, the unit in work, or an invitation."""
    if live and live.busy and live.job.kind == "endless" and live.units_done:
        inside = (
            f'<video data-stream="{escape(address_of_stream(live.job))}" aria-label="The clip" '
            "autoplay muted playsinline controls></video>"
        )
    elif live and (address := playable(live)):
        # until a longer clip is there
        poster = once("poster", live.frames[-1], poster_of) if live.frames else ""
        inside = (
            f'<video src="{escape(address)}" poster="{poster}" aria-label="The clip" '
            "autoplay loop muted playsinline controls></video>"
        )
    elif live and not live.busy and live.frames:
        inside = f'<div class="made">{still(live)}</div>'
    elif live and live.at and (unit := estimate(live, live.at.unit, live.at.stage)):
        inside = f'<div class="rough">{unit}</div>'
    elif live and live.busy:
        inside = f'<div class="invitation busy">{GLYPH}<p>{escape(live.phase)}</p></div>'
    elif waiting:
        inside = (
            f'<div class="invitation busy">{GLYPH}<p>Another user’s video is being generated.<br>'
            f"{ahead(waiting)}</p></div>"
        )
    else:
        words = "Describe what you want to see,<br>and watch it take shape."
        inside = f'<div class="invitation">{GLYPH}<p>{words}</p></div>'
    return f'<div class="screen" style="{ratio(settings)}">{inside}</div>'


def poster_of(frame: np.ndarray) -> str:
    return data_of(Image.fromarray(frame), "jpeg", quality=88)


def playable(live: Live) -> str:
    """The address of the clip so far, or of the finished one, where a browser can play it."""
    if live.busy or live.job.state is State.PAUSED:
        return address_of_growing(live) if live.growing else ""
    path = live.job.path
    return address_of(live.job) if path and path.suffix in PLAYABLE and path.is_file() else ""


def ahead(waiting: int) -> str:
    return "Yours is next." if waiting == 1 else f"{waiting} videos are ahead of yours."


def still(live: Live) -> str:
    """What was made where it is no video that a browser plays:
    a picture, or a GIF's frames as a moving one.
    """

    def draw(frames) -> str:
        pictures = [Image.fromarray(frame) for frame in frames]
        if len(pictures) == 1:
            return img(pictures[0], "webp", "The picture", quality=92)
        moving = {
            "save_all": True,
            "append_images": pictures[1:],
            "duration": 1000 // live.job.settings.fps,
            "loop": 0,
        }
        return img(pictures[0], "webp", "The clip", quality=85, **moving)

    return once("still", live.frames, draw)


def timeline(live: Live | None, settings: Settings, chosen: int | None = None) -> str:
    """One mark a unit, that fills; a finished one shows its last frame, and opens its stages."""
    done = live.units_done if live else 0
    if live and live.job.kind == "endless":
        return f'<div class="timeline"><p class="note">{done} unit{"s" * (done != 1)}</p></div>'
    estimates = live.estimates if live else {}
    marks = []
    at = live.at.unit if live and live.at else -1
    for unit in range(settings.units):
        frames = live.frames if live else ()
        last = 8 * unit  # the last frame of unit u is frame 8u
        if unit < done:
            picture = thumbnail(frames[last]) if last < len(frames) else ""
            look = any((unit, stage) in estimates for stage in range(settings.stages))
            marks.append(
                f'<button type="button" class="unit done" data-unit="{unit}" {"" if look else "disabled"} '
                f'aria-label="Unit {unit + 1}, finished: show its stages">'
                f"{picture}<span>{unit + 1}</span></button>"
            )
        else:
            state = "now" if live and unit == at and live.busy else ""
            marks.append(f'<span class="unit {state}"><span>{unit + 1}</span></span>')
    many = " many" if settings.units > 12 else ""
    return (
        f'<div class="timeline{many}" role="group" aria-label="Units" '
        f'style="{ratio(settings)}">{"".join(marks)}</div>'
    )


def unit_stages(live: Live | None, unit: int | None) -> str:
    """The stages of one unit side by side: what each made of it in the end, then its last frame."""
    if live is None or unit is None or not 0 <= unit < live.units_done:
        return ""
    s = live.job.settings
    panes = [(f"Stage {stage + 1}", estimate(live, unit, stage)) for stage in range(s.stages)]
    if 8 * unit < len(live.frames):
        panes.append(("Decoded", once("frame", live.frames[8 * unit], decoded)))
    cells = [
        f'<figure><div class="pane">{picture}</div><figcaption>{words}</figcaption></figure>'
        for words, picture in panes
        if picture
    ]
    close = '<button type="button" class="close" data-unit="-1" aria-label="Close">×</button>'
    title = f"<h3>Unit {unit + 1}</h3>{close}"
    return f'<section class="stages" style="{ratio(s)}">{title}<div>{"".join(cells)}</div></section>'


def decoded(frame: np.ndarray) -> str:
    return img(Image.fromarray(frame), "jpeg", "decoded", quality=90)


# ------------------------------------------------------------------------------------------------------------
# In words


def line(app: App, live: Live | None, waiting: int = 0) -> str:
    """Where the work stands: a bar, a sentence, and figures beside it."""
    if live and live.busy:
        return busy_line(live)
    failed = False
    if waiting:
        words = f"Waiting. {ahead(waiting)}"
    elif live:
        words = result(app, live)
        failed = live.job.state is State.FAILED
    elif app.worker.error:
        words = escape(app.shown(app.worker.error))
        failed = True
    elif app.worker.loaded.is_set():
        words = "Ready"
    else:
        words = "The model is loading. You can already queue a video."
    kind, role = ("failed", "alert") if failed else ("idle", "status")
    beside = '<p class="step"></p><p class="figures"></p>'
    return f'<div class="line {kind}"><p role="{role}">{words}</p>{beside}</div>'


def busy_line(live: Live) -> str:
    """How far a run is."""
    words, step = progress(live)
    share = live.at.fraction if live.at else 0.0
    return (
        f'<div class="line busy"{last_of(live)}><div class="bar" role="progressbar" aria-label="Progress" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{100 * share:.0f}">'
        f'<b style="width: {share:.1%}"></b></div>'
        f'<p role="status">{words}</p><p class="step">{step}</p>'
        f'<p class="figures">{" · ".join(figures_of(live))}</p></div>'
    )


def last_of(live: Live) -> str:
    """Which piece of a clip without an end came last, for who streams it."""
    piece = live.growing.stem.removeprefix("unit-") if live.growing and live.job.kind == "endless" else ""
    return f' data-last="{int(piece)}"' if piece else ""


def progress(live: Live) -> tuple[str, str]:
    """What is told to those who listen, and what changes too often for that."""
    at = live.at
    if live.phase or at is None:
        return escape(live.phase or "Starting"), ""
    where = f" · stage {at.stage + 1} of {at.stages} · step {at.step + 1} of {at.steps}"
    return f"<b>Unit {at.unit + 1} of {at.units}</b>", where


def figures_of(live: Live) -> list[str]:
    """Time elapsed and left, memory, what the live previews cost."""
    figures = [f"{clock(int(live.elapsed)).replace('.0', '')} elapsed"]
    if live.left is not None:
        figures.append(f"about {clock(max(1, round(live.left))).replace('.0', '')} left")
    if live.memory_bytes:
        figures.append(f"{live.memory_bytes / 2**30:.1f} GiB")
    if live.estimates:
        figures.append(f"live previews {live.preview_share:.1%}")
    return figures


def result(app: App, live: Live) -> str:
    """How it ended, with the seed that was used."""
    job = live.job
    s = job.settings
    error = escape(app.shown(job.error))
    if job.state is State.FAILED:
        kept = " The finished part is among the results." if job.path else ""
        return error + kept
    if job.state is State.PAUSED:
        return f"<b>Paused</b> · {job.units_done} of {s.units} units are finished: go on under Direct"
    if job.state in (State.STOPPED, State.INTERRUPTED):
        return f"<b>Stopped</b> · no unit was finished{': ' + error if error else ''}"
    if job.kind == "drafts":
        return (
            f"<b>{len(job.directed.seeds or job.directed.variations)} drafts</b> · took {clock(live.elapsed)}"
        )
    count = frames_of(live.units_done) if job.kind == "endless" else len(live.frames)
    made = f"{count} frame{'s' * (count > 1)}" + (f", {(count - 1) / s.fps:g} s" if count > 1 else "")
    stopped = "Stopped and kept: " if job.state is State.PARTIAL else ""
    notes = "".join(f"<br>{escape(app.shown(note))}" for note in job.notes)
    address = address_of(job) if job.path and job.path.is_file() else ""
    link = ""
    if address:
        link = (
            f' · <a id="download" href="{escape(address)}" download="{escape(job.result.name)}">Download</a>'
        )
    return (
        f"<b>{stopped}{made}</b> · {s.width} × {s.height} · "
        f'seed <code id="used-seed">{s.seed}</code> · took {clock(live.elapsed)}{link}{notes}'
    )


# ------------------------------------------------------------------------------------------------------------
# On the page


class LivePart:
    """The middle of the page: its components, and what they become for an owner."""

    large: gr.HTML
    strip: gr.HTML
    units: gr.HTML
    inspector: gr.HTML
    status: gr.HTML
    stop: gr.Button

    def __init__(self, app: App):
        self.app = app
        self.watched: dict[str, str] = {}  # by owner: which of several jobs is to be seen

    @property
    def outputs(self) -> list:
        return [self.large, self.strip, self.units, self.status]

    def of(self, owner: str) -> tuple[Live | None, int]:
        """The run that an owner sees, and how many jobs come before the first of his that waits (0:
        none waits).
        """
        runs = [live for live in self.app.worker.lives if live.job.owner == owner]
        runs = [live for live in runs if live.busy] or runs
        if runs:
            wanted = self.watched.get(owner)
            return next((live for live in runs if live.job.id == wanted), runs[0]), 0
        own = self.app.store.queue(owner)
        return None, self.app.store.place(own[0].id) if own else 0

    def watch(self, owner: str, job_id: str) -> None:
        """Show this one of the owner's jobs, while it runs."""
        self.app.store.get(job_id, owner)
        worker = self.app.worker
        still = {who: which for who, which in self.watched.items() if worker.live_of(which)}
        self.watched = still | {owner: job_id}
        self.app.store.touch()

    def shown_id(self, owner: str) -> str:
        """Which of the owner's jobs is to be seen."""
        live, _ = self.of(owner)
        return live.job.id if live else ""

    def show(self, owner: str) -> list[str]:
        """What `outputs` become. The style sheet shows Stop beside a line that is busy."""
        live, waiting = self.of(owner)
        settings = live.job.settings if live else self.app.worker.start_from
        return [
            screen(live, settings, waiting),
            tiles(live, settings),
            timeline(live, settings),
            line(self.app, live, waiting),
        ]

    def wire(self, visitor: gr.BrowserState) -> None:
        app = self.app

        def stop(token: str | None, request: gr.Request) -> None:
            live, _ = self.of(app.owner(request, token))
            if live and live.busy:
                app.worker.stop(live.job.id, owner=live.job.owner)

        def look(token: str | None, request: gr.Request, event: gr.EventData) -> str:
            return unit_stages(self.of(app.owner(request, token))[0], int(event.unit))

        self.stop.click(stop, visitor, **QUIET)
        gr.on([self.units.click, self.inspector.click], look, visitor, self.inspector, **QUIET)


def build_live(app: App) -> LivePart:
    part = LivePart(app)
    start = app.worker.start_from
    part.large = html(screen(None, start), elem_id="large", js_on_load=GOES_ON + STREAM)
    part.strip = html(tiles(None, start), elem_id="strip")
    part.units = html(timeline(None, start), elem_id="units", js_on_load=CLICKS)
    part.inspector = html("", elem_id="inspector", js_on_load=CLICKS)
    with gr.Row(elem_id="below"):
        part.status = html(line(app, None), elem_id="status")
        part.stop = gr.Button("Stop and keep", elem_id="stop", size="md", scale=0, min_width=0)
    return part
