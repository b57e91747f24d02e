"""A unit of an opened clip made anew, on the page: the form, and what is to be seen where it meets its sides.

    edit_html(app, job, view)                         # nothing for a clip whose units are not kept
    seams_html(app, job)                              # of a clip that was edited
    make_edit(app, job, {"unit": "2"})                # puts the job into the queue, and returns it

The result is another clip; the one that is edited stays as it is.
"""

from collections.abc import Mapping
from html import escape

from pyramid.jobs.directing import edit, editable_units
from pyramid.jobs.editing import Edit, seeds_from
from pyramid.jobs.queue import Job
from pyramid.jobs.remaking import SIDES, seam_picture
from pyramid.ui import App
from pyramid.ui.addresses import address_of_export
from pyramid.ui.asked import number_of
from pyramid.ui.branch import thumb
from pyramid.ui.cards import wrong_html
from pyramid.ui.view import View

TRIES = {1: "one seed", 2: "two seeds", 4: "four seeds", 8: "eight seeds"}
SEAMS = ("Where the new frames begin: after the bar", "Where the new frames end: before the bar")
PICTURE = (  # of 40 × 16: units side by side, and the one between two others
    '<rect x="1" y="4" width="11" height="8"/><rect x="14" y="4" width="11" height="8" fill="currentColor"/>'
    '<rect x="27" y="4" width="11" height="8"/>'
)


def edit_html(app: App, job: Job, view: View) -> str:
    """The form of a clip; nothing where no unit of it could be made anew."""
    count = editable_units(app.store, job)
    if count < 2:
        return ""
    wrong = wrong_html(view, "edit")
    return (
        f'<details class="finishing"{" open" if wrong else ""} data-tries="{view.tries}">'
        "<summary>Edit: make one unit anew</summary>"
        f'<p><svg viewBox="0 0 40 16" aria-hidden="true">{PICTURE}</svg>Eight frames change, both sides '
        "stay; how the new ones meet them is measured. The result is another clip.</p>"
        f"<form>{_fields(app, job, count, view.asked if wrong else {})}"
        f'<button type="button" class="wide" data-action="edit" data-job="{job.id}">Make it anew</button>'
        f"</form>{wrong}</details>"
    )


def _fields(app: App, job: Job, count: int, asked: Mapping[str, str]) -> str:
    """What can be said of an edit; `asked`: what was sent and could not be done."""
    chosen = {name: escape(asked.get(name, ""), quote=True) for name in ("prompt", "seed")}
    prompt = escape(job.settings.prompt, quote=True)
    tries = "".join(
        f'<option value="{number}"{" selected" * (str(number) == asked.get("tries"))}>{words}</option>'
        for number, words in TRIES.items()
    )
    keep = "" if asked and "composition" not in asked else " checked"
    return (
        f"{_units(app, job, count, asked.get('unit', '1'))}"
        '<label class="wide">What is seen there<input type="text" name="prompt" maxlength="2000" '
        f'value="{chosen["prompt"]}" placeholder="{prompt}"></label>'
        f'<label class="check wide"><input type="checkbox" name="composition"{keep}>'
        "<span><b>Keep where things are</b>: only the finer stages are made anew, so both sides are met best"
        "</span></label>"
        f'<label>Tries: the best one stays<select name="tries">{tries}</select></label>'
        f'<label>Seed of the first<input type="number" name="seed" min="0" step="1" value="{chosen["seed"]}" '
        'placeholder="random" inputmode="numeric"></label>'
    )


def _units(app: App, job: Job, count: int, chosen: str) -> str:
    """The units to choose from: all but the first frame."""
    kept = app.store.units_of(job)
    stage = job.settings.stages - 1
    fps = job.settings.fps
    cells = "".join(
        f'<label><input type="radio" name="unit" value="{unit}"{" checked" * (str(unit) == chosen)}>'
        f"{thumb(kept, unit, stage) or '<i></i>'}<span>{(8 * unit - 7) / fps:.1f} s</span></label>"
        for unit in range(1, count)
    )
    words = "Which eight frames, by where they begin"
    return f'<fieldset class="units"><legend>{words}</legend>{cells}</fieldset>'


def seams_html(app: App, job: Job) -> str:
    """What is to be seen where the new unit of an edited clip meets its sides."""
    if job.kind != "edit" or not job.path:
        return ""
    pictures = "".join(
        f'<figure><img src="{escape(address_of_export(job, path), quote=True)}" alt="Frames on both sides">'
        f"<figcaption>{words}</figcaption></figure>"
        for side, words in zip(SIDES, SEAMS, strict=True)
        if (path := seam_picture(app.store, job, side)).is_file()
    )
    return f'<section class="seams" aria-label="Seams">{pictures}</section>' if pictures else ""


def make_edit(app: App, job: Job, asked: dict[str, str]) -> Job:
    """The job that a form asks for. ValueError."""
    unit = number_of(asked, "unit", int)
    seed = number_of(asked, "seed", int)
    tries = number_of(asked, "tries", int) or 1
    words = asked.get("prompt", "").strip() or None
    seeds = seeds_from(job.settings, seed, tries)
    wanted = Edit(-1 if unit is None else unit, words, seeds, "composition" in asked)
    return edit(app.store, job.id, job.owner, wanted)
