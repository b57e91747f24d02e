"""What is directed of a clip, as jobs: walls of drafts, and the clips that go on from one.

job = explore(store, settings, owner="local", count=9)                # a wall of nine seeds
clip = refine(store, job.id, "local", index=4)                        # bit for bit the clip of that seed
wall = vary(store, job.id, "local", index=4, strength=0.3)            # nine relatives of it
other = branch(store, clip.id, "local", 3, Cue(3, "it grows"))        # units 0 to 2 are the clip's own
again = edit(store, clip.id, "local", Edit(2, "it is blue"))          # unit 2 made anew, all others kept

Each puts a job into the queue and raises as `JobStore.add` does; ValueError for what is not there any more.
"""

from dataclasses import replace
from pathlib import Path

from pyramid.jobs.drafting import draft_file, draft_settings
from pyramid.jobs.editing import Edit
from pyramid.jobs.queue import Beginning, Job, JobStore, Output
from pyramid.jobs.record import Directed
from pyramid.jobs.recovery import UnitsFolder
from pyramid.settings import ENDLESS_UNITS, MAX_SEED, Settings, SettingsError, check_value, frames_of
from pyramid.timeline import Cue, branched, write_timeline

WALLS = (9, 16)  # how many drafts a wall may have


def explore(
    store: JobStore,
    settings: Settings,
    *,
    owner: str,
    count: int = WALLS[0],
    whole: bool = False,
    output: Output | None = None,
    image: Path | None = None,
    video: Path | None = None,
) -> Job:
    """A wall of drafts: the settings' seed, or one that is drawn, and those that follow it."""
    _check_count(count)
    first = check_value("seed", settings.resolved().seed)
    if first + count > MAX_SEED:
        problem = f"= {first} and the {count - 1} after it go beyond {MAX_SEED}: start lower"
        raise SettingsError("seed", problem, named=True)
    directed = Directed("drafts", seeds=tuple(range(first, first + count)), whole=whole)
    seeded = replace(settings, seed=first, variation_seed=None)
    begin = Beginning(directed)
    return store.direct(seeded, owner=owner, begin=begin, output=output, image=image, video=video)


def refine(store: JobStore, job_id: str, owner: str, index: int) -> Job:
    """The clip of a draft, which goes on from its latents."""
    wall, settings = _draft(store, job_id, owner, index)
    begin = Beginning(draft=draft_file(store, wall, index))
    return store.direct(settings, owner=owner, begin=begin, output=wall.output, parent=wall.id)


def vary(
    store: JobStore, job_id: str, owner: str, index: int, *, strength: float, count: int | None = None
) -> Job:
    """A wall of relatives of a draft: its noise, turned by `strength` towards that of second seeds."""
    wall, settings = _draft(store, job_id, owner, index)
    count = count or len(wall.directed.seeds or wall.directed.variations)
    _check_count(count)
    start = (settings.variation_seed or 0) + 1  # of a variation: others of the same seed
    seconds = tuple(range(start, start + count))
    directed = Directed("drafts", variations=seconds, whole=wall.directed.whole)
    varied = replace(settings, variation_seed=seconds[0], variation_strength=strength)
    begin = Beginning(directed)
    return store.direct(varied, owner=owner, begin=begin, output=wall.output, parent=wall.id)


def branch(
    store: JobStore, job_id: str, owner: str, at_unit: int, cue: Cue, num_frames: int | None = None
) -> Job:
    """Another clip that has the units of this one before `at_unit`, and goes on from there as `cue` says.

    Of words, guidance, steps and seed what `cue` leaves out stays. It is bit for bit what its settings make:
    the change is a table of its timeline. `num_frames`: its length, else this one's. ValueError.
    """
    job = store.get(job_id, owner)
    folder = UnitsFolder(store.units_of(job))
    if job.kind == "drafts" or not 1 <= at_unit <= folder.count():
        raise ValueError(
            f"unit {at_unit} = at_unit: {folder.count()} units of this clip are kept, so 1 to that many"
        )
    settings = replace(job.settings, num_frames=num_frames or job.settings.num_frames)
    if settings.units <= at_unit:
        raise ValueError(f"{settings.num_frames} frames end before unit {at_unit}: ask for more")
    timeline = write_timeline(branched(settings.cues, replace(cue, start=at_unit)))
    settings = replace(settings, timeline=timeline)
    begin = Beginning(Directed(at_unit=at_unit), store.units_of(job), at_unit)
    return store.direct(settings, owner=owner, begin=begin, output=job.output, parent=job.id)


def edit(store: JobStore, job_id: str, owner: str, asked: Edit) -> Job:
    """Another clip that has all units of this one but the one that is made anew. This one stays as it is.

    Raises SettingsError for a unit that it does not have, ValueError where its units are not kept any more.
    """
    job = store.get(job_id, owner)
    units = check_editable(store, job)
    asked.check(units)
    settings = replace(job.settings, num_frames=frames_of(units))
    directed = Directed(
        "edit", seeds=asked.seeds, unit=asked.unit, prompt=asked.prompt, composition=asked.composition
    )
    begin = Beginning(directed, store.units_of(job))
    return store.direct(settings, owner=owner, begin=begin, output=job.output, parent=job.id)


def editable_units(store: JobStore, job: Job) -> int:
    """How many units of a clip can be made anew or stay: those that it has, if all are kept; else 0."""
    folder = UnitsFolder(store.units_of(job))
    if not job.over or job.kind == "drafts" or job.path is None or not (folder.path / "run.json").is_file():
        return 0
    made = min(job.units_done, job.settings.units)
    return made if folder.count() >= made else 0


def check_editable(store: JobStore, job: Job) -> int:
    """How many units a clip has that can be edited. ValueError."""
    if not job.over:
        raise ValueError(f"this job is {job.state}: wait for its end, then edit what it made")
    units = editable_units(store, job)
    if not units:
        raise ValueError("the units of this clip are not kept any more: make it anew, then edit it")
    if units == 1:
        raise ValueError("this has one unit, its first frame: there is no other one to be made anew")
    return units


def endless(
    store: JobStore,
    settings: Settings,
    *,
    owner: str,
    units: int,
    trained: int,
    output: Output | None = None,
    image: Path | None = None,
    video: Path | None = None,
) -> Job:
    """A clip that goes on until it is stopped, or has so many units. Each sees what it saw in training, where
    a model was `trained` on so many units.
    """
    if not 2 <= units <= ENDLESS_UNITS:
        raise SettingsError("units", f"= {units} at most: 2 to {ENDLESS_UNITS}", named=True)
    seen = settings.history_units or max(1, trained - 1)
    settings = replace(settings, num_frames=frames_of(units), history_units=seen)
    begin = Beginning(Directed("endless"))
    return store.direct(settings, owner=owner, begin=begin, output=output, image=image, video=video)


def _check_count(count: int) -> None:
    if count not in WALLS:
        raise SettingsError("count", f"{count!r} drafts: a wall has {' or '.join(map(str, WALLS))}")


def _draft(store: JobStore, job_id: str, owner: str, index: int) -> tuple[Job, Settings]:
    """The wall, and the settings of one of its drafts."""
    wall = store.get(job_id, owner)
    found = draft_settings(wall)
    if not 0 <= index < len(found) or not draft_file(store, wall, index).is_file():
        raise ValueError("this draft is not there any more: make new ones")
    return wall, found[index]
