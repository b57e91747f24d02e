"""Results as HTML: a card for each in the grid, and the one that is opened,
with its settings and what to do with it.

What a button does is told by `data-action`; assets/results.js sends it with the job's id, `results.py` does
it.
"""

import json
from datetime import datetime
from html import escape
from pathlib import Path

from pyramid.jobs.queue import Job, State
from pyramid.media.export import KINDS, OF_SOME
from pyramid.media.files import file_name
from pyramid.media.preview import load_estimates
from pyramid.settings import FIELDS, MACHINE, frames_of, label_of, most_given, seconds_of
from pyramid.ui import App
from pyramid.ui.addresses import address_of, address_of_export
from pyramid.ui.compare import PLAYABLE, comparable, shown
from pyramid.ui.pyramid_view import clock
from pyramid.ui.view import View

ICONS = {  # paths of 16 × 16 pictures
    "favorite": "M8 1.6l1.9 4.1 4.5.5-3.3 3 .9 4.4L8 11.4l-4 2.2.9-4.4-3.3-3 4.5-.5z",
    "compare": "M2 3h5v10H2zm1.4 1.4v7.2h2.2V4.4zM9 3h5v10H9zm1.4 1.4v7.2h2.2V4.4z",
    "delete": "M6 2h4l.6 1H14v1.5H2V3h3.4zM3.2 5.5h9.6L12 14H4zm1.7 1.5l.5 5.5h5.2l.5-5.5z",
}
STATES = {
    State.PARTIAL: "stopped early",
    State.STOPPED: "stopped",
    State.FAILED: "failed",
    State.INTERRUPTED: "interrupted",
    State.PAUSED: "paused",
}
HIDDEN = ("prompt", "model", "variant", *MACHINE)  # said elsewhere, or of no use here
MAX_EXPORTS = 50  # of one result
LOOK = "~look-"  # begins the name of a look at what could be made
KEEP_WORDS = {"embed": "in the file", "sidecar": "in a .json file beside it", "none": "none (a clean copy)"}


# ------------------------------------------------------------------------------------------------------------
# The grid


def grid_html(jobs: list[Job], view: View, *, more: bool) -> str:
    """The cards, or why there are none."""
    if not jobs:
        filtered = view.search or view.favorites
        words = "No results match." if filtered else "Your results appear here."
        return f'<p class="empty">{words}</p>'
    button = '<p class="more"><button type="button" data-action="more">Show more</button></p>' if more else ""
    cards = "".join(card(job, view) for job in jobs)
    return f'<div class="grid" role="list" aria-label="Results">{cards}</div>{button}'


def card(job: Job, view: View) -> str:
    words = escape(job.settings.prompt[:80], quote=True)
    state = f'<span class="tag {job.state}">{STATES[job.state]}</span>' if job.state in STATES else ""
    tools = _tool("favorite", job, f"Favorite: {words}", job.favourite)
    tools += _tool("compare", job, f"Compare: {words}", job.id in view.pair) if comparable(job) else ""
    tools += _tool("delete", job, f"Delete: {words}")
    opened = " open" if job.id == view.opened else ""
    return (
        f'<article class="card {job.state}{opened}" role="listitem" data-job="{job.id}">'
        f'<button type="button" class="media" data-action="open" data-job="{job.id}" '
        f'aria-label="Open: {words}">{_media(job)}{state}</button>'
        f'<p class="prompt">{escape(job.settings.prompt)}</p><p class="facts">{facts(job)}</p>'
        f'<div class="tools">{tools}</div></article>'
    )


def _tool(action: str, job: Job, label: str, pressed: bool | None = None) -> str:
    state = "" if pressed is None else f' aria-pressed="{str(pressed).lower()}"'
    return (
        f'<button type="button" data-action="{action}" data-job="{job.id}" aria-label="{label}" '
        f'title="{label.split(":")[0]}"{state}><svg viewBox="0 0 16 16" aria-hidden="true">'
        f'<path fill-rule="evenodd" d="{ICONS[action]}"/></svg></button>'
    )


def _media(job: Job) -> str:
    """What plays when pointed at; pictures and GIFs stand, or move, by themselves."""
    if job.path is None or not job.path.is_file():
        return f'<span class="none">{"file not found" if job.path else "no video"}</span>'
    source = escape(address_of(job), quote=True)
    if job.path.suffix.lower() in PLAYABLE:
        return f'<video src="{source}" muted loop playsinline preload="metadata" tabindex="-1"></video>'
    if job.path.suffix.lower() == ".zip":
        return f'<span class="none">{job.settings.num_frames} images</span>'
    return f'<img src="{source}" alt="" loading="lazy">'


def variations_html(jobs: list[Job]) -> str:
    """Jobs that differ in their seeds, side by side, with a button that keeps one of them."""
    if not jobs:
        return ""
    cells = "".join(
        f'<figure data-job="{job.id}"><div class="media">{_on_its_way(job)}</div>'
        f"<figcaption>seed {job.settings.seed}"
        f'<button type="button" data-action="keep" data-job="{job.id}"{"" if job.path else " disabled"}>'
        "Keep this one</button></figcaption></figure>"
        for job in jobs
    )
    return (
        '<section class="four" aria-label="Variations"><h3>Variations: keep one, and the others go</h3>'
        f"<div>{cells}</div></section>"
    )


def _on_its_way(job: Job) -> str:
    if job.over:
        return _media(job)
    return f'<span class="none">{"waiting" if job.waiting else "being made"}</span>'


def made_frames(job: Job) -> int:
    """Frames that a job's result has: fewer than were asked for where it was ended early."""
    asked = job.settings.num_frames
    early = job.over and job.path is not None and job.state is not State.DONE
    return min(asked, frames_of(job.units_done)) if early and job.units_done else asked


def facts(job: Job) -> str:
    s = job.settings
    frames = made_frames(job)
    length = "still" if frames == 1 else f"{seconds_of(frames, s.fps):g} s"
    if job.over and job.path is None:
        length = "no video"
    return f"{length} · {s.width} × {s.height} · seed {s.seed}"


# ------------------------------------------------------------------------------------------------------------
# The opened one


def detail_html(app: App, job: Job, view: View, more: str = "") -> str:
    """The result large, how it came about, what to do with it, its settings, the export, and `more` forms."""
    file = job.path is not None and job.path.is_file()
    left = f"{_player(job)}{_name(job, file)}"
    right = (
        f"<header><h3>{escape(job.settings.prompt)}</h3>"
        f'<button type="button" data-action="close" autofocus>Close</button></header>'
        f"{_why(app, job)}{_actions(app, job, file)}{_longer(app, job, view)}{_settings(job)}"
        f"{more}{_export(app, job, view) if file else ''}"
    )
    inside = f'<section class="detail"><div>{left}</div><div>{right}</div></section>'
    return f'<dialog aria-label="Result">{inside}</dialog>'


def _player(job: Job) -> str:
    if job.path is None or not job.path.is_file() or job.path.suffix.lower() not in PLAYABLE:
        return f'<div class="media player">{_media(job)}</div>'
    source = escape(address_of(job), quote=True)
    words = escape(job.settings.prompt, quote=True)
    options = "controls loop autoplay muted playsinline"
    return f'<video class="player" src="{source}" {options} aria-label="{words}"></video>'


def _name(job: Job, file: bool) -> str:
    when = datetime.fromtimestamp(job.ended or job.created)
    took = sum(seconds for phase, seconds in job.timings.items() if phase == "total")
    words = [escape(job.result.name), size_words(job.result)] if file else []
    words += [f"{when:%d %b %Y, %H:%M}", *([f"took {clock(took)}"] if took else [])]
    return f'<p class="name">{" · ".join(words)}</p>'


def _why(app: App, job: Job) -> str:
    """How it ended, where that was not simply at its end; what was changed on the way."""
    said = []
    units = f"{job.units_done} of {job.settings.units} units are finished"
    if job.state is State.PARTIAL:
        said.append(f"Stopped early: {units}.")
    elif job.state is State.PAUSED:
        said.append(f"Paused: {units}. It goes on from there.")
    elif job.state is State.STOPPED:
        said.append(f"Stopped: {units}." if job.units_done else "Stopped before any unit was finished.")
    elif job.state in (State.FAILED, State.INTERRUPTED):
        said.append(f"{job.error or STATES[job.state].capitalize()} {units[0].upper()}{units[1:]}.")
    said += job.notes
    return "".join(f'<p class="why {job.state}">{escape(app.shown(words))}</p>' for words in said)


def _actions(app: App, job: Job, file: bool) -> str:
    buttons = []
    over = job.state is not State.DONE
    if over and (job.units_done < job.settings.units or job.state is State.PARTIAL):
        buttons.append(("resume", "Resume", True))
    if over and not file and job.units_done:
        buttons.append(("decode", "Make a video of the finished units", False))
    buttons.append(("reuse", "Use all settings", not over))
    buttons.append(("seed", "Use the seed only", False))
    if file and job.result.suffix.lower() in PLAYABLE:
        buttons.append(("continue", continue_words(job), False))
    if file and job.result.suffix.lower() == ".png":
        buttons.append(("animate", "Animate this image", False))
    inside = "".join(
        f'<button type="button" data-action="{action}" data-job="{job.id}"{" class=first" * first}>'
        f"{label}</button>"
        for action, label, first in buttons
    )
    if file:
        source = escape(address_of(job), quote=True)
        name = escape(job.result.name, quote=True)
        inside += _joining(app, job)
        inside += f'<a class="download" href="{source}" download="{name}">Download</a>'
    return f'<div class="actions">{inside}</div>'


def _settings(job: Job) -> str:
    s = job.settings
    idle = s.idle
    rows = [(label_of("model"), f"{escape(Path(s.model).name)} {escape(s.variant)}")]
    for name in FIELDS:
        value = getattr(s, name)
        if name not in HIDDEN + idle and value not in (None, ""):
            rows.append((label_of(name), shown(value)))
    table = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return f"<details open><summary>Settings</summary><dl>{table}</dl></details>"


def continue_words(job: Job) -> str:
    """What a clip that continues this one begins with: the pictures at its end, and nothing else of it."""
    frames = min(most_given(job.settings.units), made_frames(job))
    several = f"s only ({seconds_of(frames, job.settings.fps):g} s)" if frames > 1 else " only"
    return f"Continue from the last frame{several}"


def _joining(app: App, job: Job) -> str:
    """The button that makes one file of a clip and the one that it continues, where that is here."""
    if not continues(app, job):
        return ""
    asked = {"kind": "joined", "keep": job.output.metadata, "pattern": _name_of(job)}
    value = escape(json.dumps(asked), quote=True)
    return (
        f'<button type="button" data-action="export" data-job="{job.id}" data-value="{value}">'
        "Join to its source</button>"
    )


def continues(app: App, job: Job) -> bool:
    """Whether a result continues a clip that is still here."""
    return bool(job.settings.video and app.store.input_of(job))


def can_grow(app: App, job: Job) -> bool:
    """Whether a clip can be made longer from its own latents, which are kept beside it."""
    return (
        job.state is State.DONE
        and job.settings.num_frames > 1
        and (app.store.units_of(job) / "run.json").is_file()
    )


def _longer(app: App, job: Job, view: View) -> str:
    """How a clip goes on: what the two ways differ in, and the form of the seamless one."""
    if not job.path or not job.path.is_file() or job.path.suffix.lower() not in PLAYABLE:
        return ""
    differ = (
        f"<b>{continue_words(job)}</b> begins a new clip that knows nothing but those pictures: the cut may "
        "show; both can be joined to one file then."
    )
    if not can_grow(app, job):
        return f'<p class="ways">{differ}</p>'
    differ += (
        " <b>Make it longer</b> is seamless: it goes on from the latents, and the motion goes on too. "
        "Its result begins with this clip."
    )
    unit = 8 / job.settings.fps
    choices = {units: f"{units * unit:g} s" for units in (1, 2, 4, 8, 16)}
    options = "".join(
        f'<option value="{units}"{" selected" * (units == 2)}>{words}</option>'
        for units, words in choices.items()
    )
    wrong = wrong_html(view, "longer")
    return (
        f'<p class="ways">{differ}</p><details{" open" if wrong else ""} data-tries="{view.tries}">'
        "<summary>Make it longer: seamless</summary>"
        '<form><label class="wide">What happens next<input type="text" name="prompt" maxlength="2000" '
        f'value="{escape(job.settings.prompt, quote=True)}"></label>'
        f'<label>Extend by<select name="units">{options}</select></label>'
        f'<button type="button" data-action="longer" data-job="{job.id}">Extend</button></form>{wrong}'
        "</details>"
    )


def wrong_html(view: View, form: str) -> str:
    """What was wrong when this form of the opened result was sent last."""
    if view.wrong_with != form:
        return ""
    return f'<p class="why failed" role="alert">{escape(view.wrong)}</p>'


def _export(app: App, job: Job, view: View) -> str:
    """What to make of it, what was made so far, and what went wrong with the last one."""
    still = job.result.suffix.lower() == ".png"
    kinds = ["png"] if still else [kind for kind in KINDS if kind not in OF_SOME]
    if not still and load_estimates(app.store.units_of(job)):
        kinds.append("stages")
    if not still and continues(app, job):
        kinds.append("joined")
    words = {"png": "PNG"} if still else {kind: text for kind, (_, text) in KINDS.items()}
    options = "".join(f'<option value="{kind}">{words[kind]}</option>' for kind in kinds)
    keeps = "".join(f'<option value="{keep}">{text}</option>' for keep, text in KEEP_WORDS.items())
    lowest = job.output.quality
    files = "".join(
        f'<li><a href="{escape(address_of_export(job, path), quote=True)}" '
        f'download="{escape(path.name, quote=True)}">{escape(path.name)}</a> · {size_words(path)}</li>'
        for path in written(app, job)
    )
    wrong = wrong_html(view, "export")
    return (
        f'<details{" open" if wrong or files else ""} data-tries="{view.tries}"><summary>Export</summary>'
        f'<form data-kind="{kinds[0]}">'
        f'<label>Format<select name="kind">{options}</select></label>'
        f'<label>Metadata<select name="keep">{keeps}</select></label>'
        f'<label class="quality"><span>CRF <output>{lowest}</output> '
        f"({lowest}: unchanged; higher: smaller file)</span>"
        f'<input type="range" name="quality" min="{lowest}" max="45" value="{lowest}"></label>'
        '<label class="wide"><span>Name; {date}, {seed} and the like are filled in</span><input type="text" '
        f'name="pattern" value="{escape(_name_of(job), quote=True)}" spellcheck="false"></label>'
        f'<button type="button" data-action="export" data-job="{job.id}">Export</button></form>{wrong}'
        f'<ul class="files" aria-label="Exported files">{files}</ul></details>'
    )


def _name_of(job: Job) -> str:
    """The name that the job's pattern makes, as a pattern that makes it again."""
    when = datetime.fromtimestamp(job.created)
    name = file_name(job.output.pattern, job.settings, index=int(job.position), when=when)
    return name.rsplit("/", 1)[-1].replace("{", "{{").replace("}", "}}")


# ------------------------------------------------------------------------------------------------------------
# Exported files


def exports_of(app: App, job: Job) -> Path:
    """The folder of the files that were exported from a job's result; it may not exist."""
    return app.store.private / "exports" / job.id


def written(app: App, job: Job) -> list[Path]:
    """The exported files, the latest last."""
    folder = exports_of(app, job)
    files = list(folder.iterdir()) if folder.is_dir() else []
    files = [path for path in files if not path.name.startswith((".", LOOK))]
    return sorted(files, key=lambda path: path.stat().st_mtime)


def room_for(app: App, job: Job) -> None:
    """ValueError where so many files were exported from a result that no more can be kept."""
    if len(written(app, job)) >= MAX_EXPORTS:
        raise ValueError(f"{MAX_EXPORTS} files were exported from this result already: no more can be kept.")


def size_words(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"


def notes_html(title: str, notes: tuple[str, ...], *, bad: bool = False) -> str:
    """A sentence, and one for each thing that is not as it was."""
    more = f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""
    return (
        f'<div class="notes{" failed" * bad}" role="{"alert" if bad else "status"}">'
        f"{escape(title)}{more}</div>"
    )
