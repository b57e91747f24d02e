"""A unit in the middle of a clip made anew, while both sides stay as they are.

    edit = Edit(unit=2, prompt="the ball is blue", seeds=(1, 2, 3, 4))
    choice = yield from remade(loaded.stream, settings, units, edit)       # a generator: it passes events on
    choice.units, choice.seed, choice.seams           # the latents of the whole clip; how it meets both sides
    choice.pictures["right"]                          # what is to be seen where it meets the right one

A unit is made from its past alone, so it goes on from the left side by itself, and knows nothing of the right
side: what it runs into there is measured, and of several seeds the one that meets it best stays. With
`composition`, the unit's coarsest stage is that of the old one, at the noise that this stage ends with
(arXiv 2410.05954, section 3.2), and only the finer ones are made anew: where things are stays, what they look
like changes, and both sides are met. The latents of all other units are kept bit for bit; the autoencoder is
causal, so frames after the unit change too: a jump on the right fades over them, which is measured.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pyramid.events import Finished, Frames, Status, Unit
from pyramid.media.seam import SEEN, STILL, Seam, seam, strip
from pyramid.settings import MAX_SEED, Settings, SettingsError, check_value, frames_of
from pyramid.timeline import Cue, write_timeline

if TYPE_CHECKING:
    from torch import Tensor

    from pyramid.generate.pipeline import Event
    from pyramid.generate.request import Inputs

Stream = Callable[[Settings, "Inputs"], "Iterator[Event]"]
MOST = 16  # seeds that are tried


@dataclass(frozen=True)
class Edit:
    """What is to be made anew. Raises SettingsError.

    `prompt`: other words for this unit, None for its own. `seeds`: of its noise, each is tried.
    """

    unit: int
    prompt: str | None = None
    seeds: tuple[int, ...] = (0,)
    composition: bool = False

    def __post_init__(self):
        _check_tries(len(self.seeds))
        for seed in self.seeds:
            check_value("seed", seed)
        if self.prompt is not None:
            check_value("prompt", self.prompt)

    def check(self, units: int) -> None:
        """SettingsError for a clip that has no such unit, or where it is the first frame."""
        there = f"choose 1 to {units - 1}, or make the clip anew" if units > 1 else "make it anew instead"
        if self.unit == 0:
            raise SettingsError(
                "unit", f"unit 0 is the first frame, from which all else follows and which stays: {there}"
            )
        if not 1 <= self.unit < units:
            raise SettingsError("unit", f"unit {self.unit} is not in this clip: {there}")


def seeds_from(settings: Settings, seed: int | None, tries: int) -> tuple[int, ...]:
    """Seeds to try: the given one, or one that is drawn, and those that follow it. SettingsError."""
    _check_tries(tries)
    first = check_value("seed", replace(settings, seed=seed).resolved().seed)
    if seed is None:  # drawn: so it may as well be low enough for those after it
        first = min(first, MAX_SEED - tries)
    return tuple(range(first, first + tries))


def _check_tries(count: int) -> None:
    if not 1 <= count <= MOST:
        raise SettingsError("seeds", f"{count} seeds: 1 to {MOST} can be tried")


def sentence_of(edit: Edit, choice: "Choice") -> str:
    """What a result has to say of its edit."""
    sides = [f"on the {side}, {seam}" for side, seam in choice.seams.items()]
    if choice.fading is not None:
        seen = "old and new lie over each other there" if choice.fades > SEEN else "as good as unchanged"
        sides.append(
            f"the frames after it are up to {choice.fading:.1f} levels from what they were "
            f"({choice.fades:.1f} times what moves there): {seen}"
        )
    unit = edit.unit
    made = f"Frames {8 * unit - 7} to {8 * unit} (unit {unit}) were made anew with seed {choice.seed}"
    return f"{made}: {'; '.join(sides)}."


def told_of(edits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a result says of the edits that were made of its units, the last one first of all."""
    if not edits:
        return {}
    *before, last = edits
    return {"edit": last | ({"before": before} if before else {})}


@dataclass(frozen=True, eq=False)
class Choice:
    """What became of an edit."""

    units: list[Unit]  # of the whole clip
    seed: int
    seams: dict[str, Seam]  # by side: left and, but for the last unit, right
    pictures: dict[str, Image.Image]  # of the seams, see `seam.strip`
    fading: float | None = None  # levels that a frame after the unit is from what it was, at most
    tried: dict[int, float] = field(default_factory=dict)  # by seed, what `worst` was

    @property
    def fades(self) -> float:
        """How often `fading` has the motion there."""
        return (self.fading or 0.0) / max(self.seams["right"].around, STILL) if "right" in self.seams else 0.0

    @property
    def worst(self) -> float:
        """The largest ratio of a jump, seen at once or over the frames after it, to the motion there."""
        return max(self.fades, *(each.ratio for each in self.seams.values()))

    def table(self, edit: Edit) -> dict[str, Any]:
        """For what the result says of itself."""
        return {
            "unit": edit.unit,
            "prompt": edit.prompt,
            "seed": self.seed,
            "composition": edit.composition,
            "seams": {side: each.table for side, each in self.seams.items()},
            "fading": None if self.fading is None else round(self.fading, 3),
            "tried": {str(seed): round(ratio, 3) for seed, ratio in self.tried.items()},
        }


def remade(
    stream: Stream, settings: Settings, units: Sequence[Unit], edit: Edit, stop: Any = None
) -> "Generator[Event, None, Choice | None]":
    """Make the unit with each seed, passing the events on; the choice, None after a stop.

    `stream`: that of a pipeline, or of a `Loaded`. `units`: all of the clip, which `settings` made; a unit of
    it that was given is as good as another. Raises ValueError, as `stream` does.
    """
    edit.check(len(units))
    found: Choice | None = None
    tried: dict[int, float] = {}
    old = _frames(stream, settings, units[: edit.unit + 2], stop)
    for number, seed in enumerate(edit.seeds, 1):
        yield Status("edit", f"Unit {edit.unit}, seed {seed} ({number} of {len(edit.seeds)})")
        made = yield from _made(stream, settings, units, edit, seed, stop)
        if made is None:
            return found and replace(found, tried=tried)
        whole = [replace(unit, given=False) for unit in units]
        whole[edit.unit] = made
        shown = _frames(stream, settings, whole[: edit.unit + 2], stop)
        if not shown:
            return found and replace(found, tried=tried)
        choice = _measured(Choice(whole, seed, {}, {}), shown, old, edit.unit)
        tried[seed] = choice.worst
        if found is None or choice.worst < found.worst:
            found = choice
    return found and replace(found, tried=tried)


def chosen(making: "Generator[Event, None, Choice | None]", take: "Callable[[Event], None]") -> Choice | None:
    """What `remade` returns, its events given to `take`."""
    while True:
        try:
            event = next(making)
        except StopIteration as end:
            return end.value
        take(event)


def _made(
    stream: Stream, settings: Settings, units: Sequence[Unit], edit: Edit, seed: int, stop: Any
) -> "Generator[Event, None, Unit | None]":
    """The unit with one seed."""
    from pyramid.generate.request import Inputs

    plan = settings.plan_of(edit.unit)
    words = edit.prompt
    if words is None and plan.words != ((None, 1.0),):
        words = max(plan.words, key=lambda word: word[1])[0]  # of two that are crossfaded, the stronger
    cue = Cue(edit.unit, prompt=words, guidance=tuple(plan.guidance), steps=tuple(plan.steps), seed=seed)
    alone = replace(settings, num_frames=frames_of(edit.unit + 1), timeline=write_timeline([cue]))
    alone = replace(alone, variation_seed=None, image=None, video=None)
    # As if they were given, so that what is there of a unit's coarsest stage is this unit's.
    before = [replace(unit, given=True) for unit in units[: edit.unit]]
    draft = _coarsest(settings, units[edit.unit].latents, seed) if edit.composition else None
    made: Unit | None = None
    inputs = Inputs(finished=before, draft=draft, stop=stop, output_type="latent", preview_every=1)
    for event in stream(alone, inputs):
        match event:
            case Unit(index=edit.unit):
                made = event
            case Unit() | Finished():
                pass
            case _:
                yield event
    return made


def _coarsest(settings: Settings, latents: "Tensor", seed: int) -> "Tensor":
    """A finished unit (b, c, 1, h, w) as it was at the end of its coarsest stage, with noise of `seed`."""
    import torch

    from pyramid.generate.latents import pyramid
    from pyramid.generate.schedule import make_stages

    stage = make_stages(settings.stages)[0]
    clean = pyramid(latents.float().cpu(), settings.stages)[0]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return (1 - stage.end) * clean + stage.end * noise


def _frames(stream: Stream, settings: Settings, units: Sequence[Unit], stop: Any) -> dict[int, np.ndarray]:
    """The last three of some units as frames, uint8 (f, h, w, 3); none after a stop."""
    from pyramid.generate.request import Inputs

    shown = [replace(unit, given=False) for unit in units]
    part = replace(settings, num_frames=frames_of(len(shown)), image=None, video=None, timeline="")
    frames: dict[int, np.ndarray] = {}
    for event in stream(part, Inputs(finished=shown, stop=stop)):
        if isinstance(event, Frames):
            frames[event.unit] = event.video
            frames.pop(event.unit - 3, None)
    return frames if len(shown) - 1 in frames else {}


def _measured(choice: Choice, shown: dict[int, np.ndarray], old: dict[int, np.ndarray], at: int) -> Choice:
    """With how the unit `at` meets those beside it, and how that looks. `old`: the frames before the edit."""
    sides = {"left": (shown[at - 1], shown[at])}
    fading = None
    if at + 1 in shown:
        sides["right"] = (shown[at], shown[at + 1])
        apart = np.abs(shown[at + 1].astype(np.float32) - old[at + 1]).mean(axis=(1, 2, 3))
        fading = float(apart.max())
    seams = {side: seam(*both) for side, both in sides.items()}
    pictures = {side: strip(*both) for side, both in sides.items()}
    return replace(choice, seams=seams, pictures=pictures, fading=fading)
