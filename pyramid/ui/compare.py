"""Two results side by side, playing in step, and what differs between their settings.

    compare = gr.HTML("", js_on_load=STEP, css_template=CSS)
    compare_html(left, right)               # two jobs; the script keeps the players together

The longer one leads and the other follows it; the shorter one waits on its last frame. Drawn over each other,
a line that can be moved divides them.
"""

from html import escape
from pathlib import Path

from pyramid.jobs.queue import Job
from pyramid.settings import FIELDS, label_of
from pyramid.ui.addresses import address_of

PLAYABLE = (".mp4", ".webm")
COMPARED = (*PLAYABLE, ".png")  # a GIF keeps its own time, and a zip of pictures shows nothing

ASSETS = Path(__file__).resolve().parent.parent.parent / "assets"
STEP, CSS = ((ASSETS / name).read_text(encoding="utf-8") for name in ("compare.js", "compare.css"))


def comparable(job: Job) -> bool:
    """Whether a result can be put beside another one."""
    return job.path is not None and job.path.suffix.lower() in COMPARED and job.path.is_file()


def compare_html(left: Job | None, right: Job | None) -> str:
    """The two, or nothing."""
    if left is None or right is None:
        return ""
    moving = any(job.result.suffix.lower() in PLAYABLE for job in (left, right))
    controls = _controls(max(left.settings.fps, right.settings.fps)) if moving else ""
    return (
        '<dialog aria-label="Two results side by side"><section><header><h3>Side by side</h3>'
        '<button type="button" class="over" aria-pressed="false">Over each other</button>'
        '<button type="button" data-action="uncompare" autofocus>Close</button></header>'
        f'<div class="pair">{_player(left, "Left")}{_player(right, "Right")}'
        '<input class="line" type="range" min="0" max="100" value="50" '
        'aria-label="Where the two are divided"></div>'
        f"{controls}{differences(left, right)}</section></dialog>"
    )


def _player(job: Job, side: str) -> str:
    source = escape(address_of(job), quote=True)
    words = f"{side}: {escape(job.settings.prompt, quote=True)}"
    if job.result.suffix.lower() in PLAYABLE:
        media = f'<video src="{source}" muted playsinline preload="auto" aria-label="{words}"></video>'
    else:
        media = f'<img src="{source}" alt="{words}">'
    return f"<figure>{media}<figcaption>{escape(job.settings.prompt)}</figcaption></figure>"


def _controls(fps: int) -> str:
    step = f"{1 / fps:.5f}"
    rates = "".join(f'<option value="{r}"{" selected" * (r == 1)}>{r:g}×</option>' for r in (0.25, 0.5, 1, 2))
    return (
        '<div class="controls"><button type="button" class="play">Pause</button>'
        f'<button type="button" data-frames="-{step}" aria-label="One frame back">−1</button>'
        f'<button type="button" data-frames="{step}" aria-label="One frame on">+1</button>'
        '<input class="seek" type="range" min="0" max="1" step="0.001" value="0" aria-label="Where both are">'
        f'<span class="time">0.00 s</span><select class="rate" aria-label="Speed">{rates}</select></div>'
    )


def differences(left: Job, right: Job) -> str:
    """A table of the settings that are not the same."""
    rows = []
    for name in FIELDS:
        a = getattr(left.settings, name)
        b = getattr(right.settings, name)
        if a != b:
            title = label_of(name)
            if name == "model":  # it may be a folder, and those are not shown
                a = Path(a).name
                b = Path(b).name
            rows.append(f'<tr><th scope="row">{title}</th><td>{shown(a)}</td><td>{shown(b)}</td></tr>')
    if not rows:
        return "<p>Both were made with the same settings.</p>"
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def shown(value) -> str:
    """A setting for people: lists with dots, nothing as a dash, escaped."""
    if isinstance(value, tuple):
        return " · ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value in (None, "") else escape(str(value))
