"""Pause and branch: hold a clip to look at it, and go another way from any unit that is finished.

branching = build_branching(app)                  # inside gr.Blocks
branching.wire(page, visitor, news)                # `news` changes whenever a job of the owner's gets further

The tree of a clip is the clips that share units with it, a row each. A click on a finished unit opens the
form for another way from there; the branch is a job that begins with the units that it shares.
"""

from functools import lru_cache
from html import escape
from pathlib import Path

import gradio as gr
from PIL import Image

from pyramid.jobs.directing import branch
from pyramid.jobs.queue import Job, State
from pyramid.settings import frames_of, seconds_of
from pyramid.timeline import Cue, told
from pyramid.ui import QUIET, App, follow
from pyramid.ui.art import about, art, choice, control, number, slider, text
from pyramid.ui.asked import LOOK, asked_of, number_of
from pyramid.ui.errors import shown_error
from pyramid.ui.live import ratio
from pyramid.ui.markup import data_of, say

THUMB = 64  # pixels: the longer side of a unit in the tree
LONGER = (0, 1, 2, 4, 8)  # units that a branch may be longer than its clip
INTRO = about(
    "tree",
    "Hold a clip to look at it, or go another way from any finished unit. What two ways share is made once.",
)
Place = tuple[str, int]  # a job, and the unit after which another way goes; -1: none is chosen


class Branching:
    """The tree of one clip, and the form for another way."""

    tree: gr.HTML
    form: gr.HTML
    place: gr.State

    def __init__(self, app: App):
        self.app = app

    def wire(self, page: gr.Blocks, visitor: gr.BrowserState, news: gr.Textbox) -> None:
        state = [visitor, self.place]
        outputs = [self.place, self.tree, self.form]
        self.tree.click(self.act_on_tree, state, outputs, **QUIET)
        self.form.click(self.begin, state, outputs, **QUIET)
        follow([page.load, visitor.change, news.change], self.look, state, self.tree)

    # -- what buttons do

    def act_on_tree(self, token: str | None, place: Place, request: gr.Request, event: gr.EventData) -> list:
        """Of the tree: choose a unit; hold the clip, let it go on, or drop it."""
        app = self.app
        owner = self.app.owner(request, token)
        job_id = str(event.job)
        index = int(event.index)
        form = gr.skip()
        try:
            match event.act:
                case "at":
                    place = (job_id, index)
                    form = self.form_html(owner, place)
                case "pause-stage" | "pause-unit":
                    app.worker.pause(job_id, event.act.removeprefix("pause-"), owner=owner)
                case "resume":
                    with app.adding(request, owner):
                        app.worker.resume(job_id, owner=owner)
                case "delete":
                    app.store.delete(job_id, owner)
                    app.worker.forget(job_id)
                    place = ("", -1)
                    form = ""
        except Exception as error:
            raise shown_error(app, error, "Pause and branch") from error
        return [place, self.tree_html(owner, place), form]

    def begin(self, token: str | None, place: Place, request: gr.Request, event: gr.EventData) -> list:
        """Of the form: a job that goes another way from the chosen unit, or none after all."""
        app = self.app
        owner = self.app.owner(request, token)
        if event.act == "branch":
            try:
                asked = asked_of(event)
                cue = self.cue(asked, place[1] + 1)
                longer = number_of(asked, "longer", int) or 0
                job = app.store.get(place[0], owner)
                if not longer and cue == Cue(cue.start):
                    raise ValueError(
                        "Say what is to be different: the words, the seed, the guidance or the length."
                    )
                with app.adding(request, owner):
                    length = frames_of(job.settings.units + longer)
                    branch(app.store, job.id, owner, cue.start, cue, length)
            except Exception as error:
                raise shown_error(app, error, "Branch") from error
            say("It goes on from the units that it shares when its turn comes.", "Added to the queue")
        place = (place[0], -1)
        return [place, self.tree_html(owner, place), ""]

    @staticmethod
    def cue(asked: dict[str, str], start: int) -> Cue:
        """What the form says of a unit. SettingsError for what is no number."""
        guidance = number_of(asked, "guidance", float)
        words = asked.get("prompt", "").strip()
        seed = number_of(asked, "seed", int)
        ease = number_of(asked, "ease", int) or 1
        eased = ease if words or guidance is not None else 1
        return Cue(start, words or None, () if guidance is None else (guidance,), (), seed, eased)

    # -- what is shown

    def look(self, token: str | None, place: Place, request: gr.Request) -> str:
        return self.tree_html(self.app.owner(request, token), place or ("", -1))

    def of(self, owner: str, job_id: str) -> Job | None:
        """The clip whose tree is shown: the chosen one, else the one that is being made, else the latest."""
        store = self.app.store
        own = [live.job for live in self.app.worker.lives if live.job.owner == owner]
        made = [job.id for job in own if job.kind != "drafts"]
        for wanted in [job_id, *made[:1]] if job_id else made[:1]:
            try:
                return store.get(wanted, owner)
            except KeyError:
                pass
        return next(iter(store.history(owner, limit=1)), None)

    def tree_html(self, owner: str, place: Place) -> str:
        job = self.of(owner, place[0])
        if job is None:
            return INTRO + '<p class="note">There is no clip yet: make one, and its units appear here.</p>'
        family = in_order(self.app.store.family(job))
        rows = "".join(self.row(each, place, passing(family, n)) for n, each in enumerate(family))
        columns = max(each.settings.units for each in family)
        hint = "Click a finished unit to go another way after it."
        return (
            f"{INTRO}{self.holding(family)}"
            f'<div class="tree" style="{ratio(job.settings)}; --columns: {columns}">{rows}</div>'
            f'<p class="note">{hint}</p>'
        )

    def holding(self, family: list[Job]) -> str:
        """The buttons that hold a clip of the family that runs, or let go on one that is held."""
        running = next((job for job in family if job.state is State.RUNNING), None)
        live = self.app.worker.live_of(running.id) if running else None
        if running and live and running.kind != "edit":  # which is made in one go
            off = " disabled" * live.phase.startswith("Pausing")
            buttons = "".join(
                control(
                    f"pause-{part}",
                    f"Pause after this {part}",
                    words,
                    f'<button type="button" data-act="pause-{part}" data-job="{running.id}"{off}>'
                    "Pause</button>",
                )
                for part, words in (
                    ("stage", "Holds the clip when the present resolution is done."),
                    ("unit", "Holds the clip when the present eight frames are done."),
                )
            )
            return f'<form class="tool">{buttons}</form>'
        held = [job for job in family if job.state is State.PAUSED]
        return "".join(self.held(job) for job in held)

    def held(self, job: Job) -> str:
        """A clip that is held, and what can be done with it."""
        at = f'data-job="{job.id}"'
        change = (
            f'<button type="button" data-act="at" {at} data-index="{job.units_done - 1}">Change …</button>'
        )
        return (
            f'<p class="about">{art("paused")}<span><b>Held{where_held(self.app, job)}.</b> Look at it, '
            "then let it go on, go another way, or drop it. Others have their turn meanwhile.</span></p>"
            f'<div class="buttons"><button type="button" class="first" data-act="resume" {at}>Go on</button>'
            f"{change if job.units_done else ''}"
            f'<button type="button" data-act="delete" {at}>Drop</button></div>'
        )

    def row(self, job: Job, place: Place, through: set[int]) -> str:
        """A clip of the tree: what it shares is left open, its own units stand in their places. `through`:
        where lines to rows below pass.
        """
        start = job.directed.at_unit or 0
        s = job.settings
        cells = "".join(
            f'<i class="{"from" if n + 1 == start else "gap"}{" through" * (n in through)}"></i>'
            for n in range(start)
        )
        kept = self.app.store.units_of(job)
        for n in range(start, s.units):
            if n >= job.units_done or not (kept / "run.json").is_file():
                cells += f'<i class="{"done" if n < job.units_done else "todo"}"><span>{n + 1}</span></i>'
                continue
            chosen = " chosen" * (place == (job.id, n))
            cells += (
                f'<button type="button" class="u{chosen}" data-act="at" data-job="{job.id}" data-index="{n}" '
                f'aria-label="Another way after unit {n + 1}">{thumb(kept, n, s.stages - 1)}'
                f"<span>{n + 1}</span></button>"
            )
        state = f'<em class="{job.state}">{job.state}</em>'
        return (
            f'<div class="way"><div class="units" role="group" aria-label="Units">{cells}</div>'
            f"<p>{escape(words_of_way(job))} {state}</p></div>"
        )

    def form_html(self, owner: str, place: Place) -> str:
        """What is to be different after the chosen unit."""
        job = self.app.store.get(place[0], owner)
        unit = place[1]
        s = job.settings
        plan = job.settings.plan_of(unit + 1)
        said = next((words for words, _ in reversed(plan.words) if words), s.prompt)
        seconds = {
            n: f"{seconds_of(frames_of(s.units + n), s.fps):g} s" for n in LONGER if n or s.units > unit + 1
        }
        lengths = {str(n): f"As before, {words}" if n == 0 else words for n, words in seconds.items()}
        seed = plan.seed if plan.seed is not None else s.seed
        guidance = "/".join(f"{scale:g}" for scale in dict.fromkeys(plan.guidance))
        return (
            f'<form class="tool"><header class="wide"><h3>Another way after unit {unit + 1}'
            f"<span>{escape(s.prompt)}</span></h3></header>{fields_html(said, str(seed), guidance)}"
            + control("length", "Length", "How long the other way is, in all.", choice("longer", lengths))
            + '<div class="buttons wide">'
            '<button type="button" class="first" data-act="branch">Branch</button>'
            '<button type="button" data-act="cancel">Cancel</button></div></form>'
        )


def fields_html(words: str, seed: str, guidance: str) -> str:
    """What may be different on another way; what holds otherwise stands palely in the fields."""
    return (
        control(
            "words",
            "Words from here on",
            "What happens next; left empty, the words stay.",
            text("prompt", hint=words),
            wide=True,
        )
        + control(
            "ease",
            "Over so many units",
            "How slowly the new words and guidance come.",
            slider("ease", 1, 4, 1, 1),
        )
        + control(
            "seeds",
            "Seed from here on",
            "Another draw of the noise; left empty, it stays.",
            number("seed", hint=seed),
        )
        + control(
            "guidance",
            "Guidance from here on",
            "How closely the words are followed; left empty, it stays.",
            number("guidance", low=1, step=0.5, hint=guidance),
        )
    )


def in_order(family: list[Job]) -> list[Job]:
    """A clip, then each of its branches with all that left that one, the latest unit first: so the lines to
    the others have room.
    """
    known = {job.id for job in family}
    below: dict[str, list[Job]] = {}
    for job in family[1:]:
        below.setdefault(job.parent if job.parent in known else family[0].id, []).append(job)
    found = []
    waiting = [family[0]]
    while waiting:
        found.append(waiting.pop(0))
        waiting[:0] = sorted(below.get(found[-1].id, []), key=lambda job: -(job.directed.at_unit or 0))
    return found


def passing(family: list[Job], index: int) -> set[int]:
    """Columns of a row of the tree through which lines go, from rows above to rows below."""
    places = {job.id: n for n, job in enumerate(family)}
    return {
        (job.directed.at_unit or 0) - 1
        for job in family[index + 1 :]
        if places.get(job.parent or "", 0) < index
    }


def words_of_way(job: Job) -> str:
    """What a clip of the tree is told, or what was changed where it left."""
    start = job.directed.at_unit
    cue = next((cue for cue in job.settings.cues if cue.start == start), None)
    if cue is None:
        return f"{job.settings.prompt} · seed {job.settings.seed}"
    return told([cue]).partition(": ")[2]


def where_held(app: App, job: Job) -> str:
    live = app.worker.live_of(job.id)
    at = live.at if live else None
    if at and at.unit >= job.units_done:
        return f" after stage {at.stage + 1} of unit {at.unit + 1}"
    return f" after unit {job.units_done}"


def thumb(folder: Path, unit: int, stage: int) -> str:
    """What a unit looks like, small; nothing where no estimate was kept."""
    path = folder / f"estimate-{unit:03d}-{stage}.png"
    try:
        return _thumb(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, SyntaxError):
        return ""


@lru_cache(maxsize=2000)
def _thumb(path: Path, when: int) -> str:
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((THUMB, THUMB))
    return f'<img src="{data_of(small, "jpeg", quality=80)}" alt="">'


def build_branching(app: App) -> Branching:
    part = Branching(app)
    part.tree = gr.HTML(INTRO, elem_id="tree", **LOOK)
    part.form = gr.HTML("", elem_id="branch", **LOOK)
    part.place = gr.State(("", -1))
    return part
