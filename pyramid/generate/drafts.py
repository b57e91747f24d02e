"""Drafts: many seeds at the coarsest stage, to look at before one of them is paid for.

    drafts = make_drafts(pipe, settings, seeds=[1, 2, 3])           # the first unit of each, in one batch
    drafts[1].save(Path("draft-2.safetensors"))
    draft = Draft.load(Path("draft-2.safetensors"))
    for event in pipe.stream(draft.settings, draft.inputs()):       # bit for bit the video of seed 2
        ...

A step of the coarsest of three stages takes a sixteenth of the finest one's tokens, and a unit's start
depends on its seed alone: so the latents at the end of that stage are those that the whole video goes
through, and it can go on from them (arXiv 2410.05954, section 3.2). `whole=True` drafts all units. Those
after the first see a coarser past than in the video, and are previews only; `departure` measures how far the
video went elsewhere.

What such latents will become can hardly be seen in them: their denoised estimate has neither the colors nor
the shapes yet. So a draft of the first unit is shown as a `glance`: its later stages in two steps each, which
costs little and is thrown away (`tools/glances.py` measures how often it shows what the video shows).
"""

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyramid.disk import check_file, whole
from pyramid.events import Finished, Frames, Notice, Preview, Unit
from pyramid.generate.latents import pyramid
from pyramid.generate.request import Inputs
from pyramid.settings import MAX_DRAFTS, Settings, frames_of, units_of
from pyramid.timeline import write_timeline

if TYPE_CHECKING:
    from pyramid.events import Status
    from pyramid.generate.pipeline import PyramidFlowPipeline

FORMAT_VERSION = 1
GLANCE = 2  # steps of each later stage in which a draft is shown
GLANCE_TOKENS = 4096  # of the finest stage, that go through the model together for it


@dataclass(frozen=True, eq=False)
class Draft:
    """One seed at the coarsest stage. `frames` are uint8, and not saved."""

    settings: Settings  # of the whole video, with the seed
    latents: Tensor  # (1, c, 1, h, w): the first sampled unit at the end of the stage, which is mostly noise
    clean: Tensor  # (1, c, t, h, w): the denoised estimate of each unit that was drafted
    identity: dict[str, Any] = field(default_factory=dict)  # of the weights
    frames: np.ndarray = field(default_factory=lambda: np.empty((0, 1, 1, 3), np.uint8))  # (f, h, w, 3)

    @property
    def whole(self) -> bool:
        """Whether it shows more units than the one that it can go on from."""
        return self.clean.shape[2] > 1

    def inputs(self, **more: Any) -> Inputs:
        """What a run takes that goes on from here."""
        return Inputs(draft=self.latents, **more)

    def with_settings(self, settings: Settings) -> "Draft":
        """The draft of a video with other settings, where they leave the draft as it is. ValueError."""
        ours = what_it_depends_on(self.settings)
        theirs = what_it_depends_on(settings)
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"the draft was made with {name} = {value!r}, not {theirs.get(name)!r}: leave that as it "
                    "was, or make new drafts"
                )
        return replace(self, settings=settings)

    def save(self, path: Path) -> Path:
        """Write it, whole or not at all."""
        from safetensors.torch import save

        told = {"settings": self.settings.to_dict(), "model": self.identity, "version": FORMAT_VERSION}
        tensors = {name: getattr(self, name).float().cpu().contiguous() for name in ("latents", "clean")}
        with whole(path) as part:
            part.write_bytes(save(tensors, {"draft": json.dumps(told)}))
        return path

    @classmethod
    def load(cls, path: Path) -> "Draft":
        """A draft that was saved. ValueError for anything else."""
        from safetensors import SafetensorError, safe_open

        try:
            check_file(path)
            with safe_open(path, "pt") as file:
                told = json.loads(file.metadata()["draft"])
                latents = file.get_tensor("latents")
                clean = file.get_tensor("clean")
            if told["version"] != FORMAT_VERSION:
                raise ValueError(f"its version is {told['version']}, this program reads {FORMAT_VERSION}")
            return cls(Settings.from_dict(told["settings"]), latents, clean, told["model"])
        except FileNotFoundError:
            raise ValueError(f"{path} is not there: give a file that the command drafts wrote") from None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no draft: {error}") from None


def what_it_depends_on(settings: Settings) -> dict[str, Any]:
    """The settings that decide the coarsest stage of the first sampled unit, and its estimate."""
    first = settings.image is None and settings.video is None
    later = ("video_num_inference_steps", "video_guidance_scale")
    own = ("num_inference_steps", "guidance_scale")
    free = {"version", "preset", "device", "guided_stages", *later, *own}
    if settings.video is None:  # how much is read of a given clip depends on the length
        free |= {"num_frames", "fps"}
    if first or not settings.guidance_decay:
        free |= {"guidance_decay", "min_guidance_scale"}
    free |= {"timeline"} if settings.video is None else set()
    values = {name: value for name, value in settings.to_dict().items() if name not in free}
    plan = settings.plan_of(0 if first else 1)
    values |= {"words": plan.words, "seed of the unit": plan.seed, "guidance": plan.guidance[0]}
    return values | {"stages": len(plan.steps), "steps of the first stage": plan.steps[0]}


# ----------------------------------------------------------------------------------------------------------
# Making them


def make_drafts(
    pipe: "PyramidFlowPipeline",
    settings: Settings,
    seeds: Sequence[int] = (),
    *,
    variations: Sequence[int] = (),
    whole: bool = False,
    inputs: Inputs | None = None,
) -> list[Draft]:
    """A draft for each of `seeds`, or for each of the second seeds `variations` with the settings' own seed.

    They are made as one batch. Where the device rounds the rows of a batch otherwise than a single run, which
    is looked at, each is made again by itself: what a draft goes on to is the video of its seed. `inputs`:
    what is given besides, such as a picture. Raises ValueError as `pipe.stream` does.
    """
    wanted = wanted_drafts(settings, seeds, variations)
    drafting = Drafting(pipe, wanted, whole=whole, inputs=inputs)
    for _ in drafting:
        pass
    return drafting.drafts


def wanted_drafts(settings: Settings, seeds: Sequence[int], variations: Sequence[int]) -> list[Settings]:
    """The settings of each draft. ValueError."""
    if bool(seeds) == bool(variations):
        raise ValueError("Give seeds, or second seeds for variations of one seed: one of the two.")
    if settings.seed is None and variations:
        raise ValueError("Variations are of one seed: give it.")
    name, values = ("seed", seeds) if seeds else ("variation_seed", variations)
    if len(values) > MAX_DRAFTS:
        raise ValueError(f"{len(values)} drafts: at most {MAX_DRAFTS} are made at once.")
    changes: list[dict[str, Any]] = [{name: value} for value in values]
    return [replace(settings, **change).validate() for change in changes]


class Drafting:
    """The events of a batch of drafts, as they come; once they have ended, `drafts` has them all."""

    def __init__(
        self,
        pipe: "PyramidFlowPipeline",
        wanted: Sequence[Settings],
        *,
        whole: bool = False,
        inputs: Inputs | None = None,
    ):
        self.pipe = pipe
        self.wanted = list(wanted)
        self.whole = whole
        self.given = inputs or Inputs()
        self.drafts: list[Draft] = []
        self.exact = True  # whether the rows of the batch are what single runs make

    def __iter__(self) -> "Iterator[Status | Notice | Preview]":
        batch = _Batch(self.pipe, self.wanted, self.whole, self.given)
        yield from batch.events()
        if batch.stopped:
            return
        self.exact = len(self.wanted) == 1 or batch.is_exact()
        made = [batch]
        if not self.exact:
            yield Notice("drafts", "This device rounds a batch otherwise than one video: each is made alone.")
            made = [_Batch(self.pipe, [each], self.whole, self.given) for each in self.wanted]
            for single in made:
                yield from single.events()
        identity = _identity(self.pipe)
        drafts = [draft for each in made if not each.stopped for draft in each.drafts(identity)]
        if not self.whole and len(drafts) == len(self.wanted):
            drafts = yield from batch.glances(drafts)
        self.drafts = drafts


def glance(settings: Settings, unit: int) -> Settings:
    """What shows a draft of `unit`, the first that is sampled: few steps in the stages after the coarsest."""
    own = settings.plan_of(unit).steps
    few = (own[0], *(min(count, GLANCE) for count in own[1:]))
    cues = [replace(cue, steps=()) for cue in settings.cues]
    changes: dict[str, Any] = {} if few == own else {"sampler": "even"}
    return replace(
        settings,
        num_inference_steps=few,
        video_num_inference_steps=few,
        timeline=write_timeline([cue for cue in cues if cue.says]),
        **changes,
    )


class _Batch:
    """Some drafts that are made together."""

    def __init__(self, pipe: Any, wanted: Sequence[Settings], whole: bool, given: Inputs):
        self.pipe = pipe
        self.wanted = list(wanted)
        self.whole = whole
        self.given = given
        self.steps: list[Tensor] = []  # the latents after each step of the first unit
        self.clean: list[Tensor] = []
        self.frames: list[list[np.ndarray]] = [[] for _ in self.wanted]
        self.stopped = False

    def request(self, rows: Sequence[Settings], **more: Any) -> tuple[Settings, Inputs]:
        """Settings and inputs of these rows, of which only seeds differ."""
        settings = rows[0]
        seconds = [each.variation_seed for each in rows if each.variation_seed is not None]
        known = self._given_units(settings)
        if not self.whole:
            settings = replace(settings, num_frames=frames_of(1 + known))
        if known > 1:  # of a clip; half of the whole video, also where less of that is made
            more = {"history_frames": self.given.history_frames or frames_of(known)} | more
        inputs = replace(
            self.given,
            prompts=[settings.prompt] * len(rows),
            seeds=[each.seed or 0 for each in rows],
            variation_seeds=seconds or None,
            coarse=True,
            callback_on_step_end=self._step,
            **more,
        )
        return settings, inputs

    def _given_units(self, settings: Settings) -> int:
        """How many units the picture or clip makes, of which a draft is no part."""
        if self.given.image is not None or settings.image is not None:
            return 1
        if self.given.history_frames is not None:
            return units_of(self.given.history_frames)
        return max(1, settings.units // 2) if self.given.video is not None or settings.video else 0

    def _step(self, pipe: Any, step: int, timestep: float, tensors: dict[str, Tensor]) -> None:
        self.steps.append(tensors["latents"])

    def events(self) -> "Iterator[Status | Notice | Preview]":
        """Make them; what is to be kept of it is kept."""
        count = 0  # steps of the first unit
        for event in self.pipe.stream(*self.request(self.wanted)):
            match event:
                case Unit(given=False):
                    self.clean.append(event.latents)
                    count = count or len(self.steps)
                    del self.steps[count:]
                case Frames(given=False):
                    self.frames[event.sample].append(event.video)
                case Finished():
                    self.stopped = event.stopped
                case Unit() | Frames():
                    pass
                case _:
                    yield event

    def glances(self, drafts: "list[Draft]") -> "Generator[Preview, None, list[Draft]]":
        """The drafts with pictures of what they become; none of them after a stop.

        A batch at full resolution takes more memory than one at the coarsest: only so many go together.
        """
        settings = self.wanted[0]
        tokens = (settings.width // 16) * (settings.height // 16)
        together = max(1, GLANCE_TOKENS // tokens)
        shown: list[Draft] = []
        for first in range(0, len(drafts), together):
            rows = drafts[first : first + together]
            shown += yield from self._glance(rows)
            if self.stopped:
                return []
        return shown

    def _glance(self, drafts: "list[Draft]") -> "Generator[Preview, None, list[Draft]]":
        latents = torch.cat([draft.latents for draft in drafts])
        settings, inputs = self.request([draft.settings for draft in drafts], draft=latents)
        inputs = replace(inputs, coarse=False, callback_on_step_end=None)
        frames: dict[int, np.ndarray] = {}
        for event in self.pipe.stream(glance(settings, self._given_units(self.wanted[0])), inputs):
            match event:
                case Frames(given=False):
                    frames[event.sample] = event.video
                case Finished():
                    self.stopped = event.stopped
                case Preview():
                    yield event
        return [] if self.stopped else [replace(draft, frames=frames[n]) for n, draft in enumerate(drafts)]

    def is_exact(self) -> bool:
        """Whether the first step of each row, made alone, has the very bits that it has in the batch.

        Every step multiplies matrices of the same shapes: what holds for one holds for the others.
        """
        together = self.steps[0]
        for row, each in enumerate(self.wanted):
            alone = _Batch(self.pipe, [each], False, self.given)
            settings, inputs = alone.request([each], output_type="latent")
            events = self.pipe.stream(settings, inputs)
            while not alone.steps:
                next(events)
            events.close()
            if not torch.equal(alone.steps[0], together[row : row + 1]):
                return False
        return True

    def drafts(self, identity: dict[str, Any]) -> list[Draft]:
        shown = len(self.clean) if self.whole else 1  # a clip that is short gives fewer units than it may
        clean = torch.cat(self.clean[:shown], dim=2)  # b c t h w
        return [
            Draft(
                settings,
                self.steps[-1][row : row + 1].cpu(),
                clean[row : row + 1].cpu(),
                identity,
                np.concatenate(self.frames[row][:shown]),
            )
            for row, settings in enumerate(self.wanted)
        ]


def _identity(pipe: Any) -> dict[str, Any]:
    from pyramid.hub.checkpoints import identity

    return identity(pipe.checkpoint) if pipe.checkpoint is not None else {}


# ----------------------------------------------------------------------------------------------------------
# How far a video goes from its draft


def departure(drafted: Tensor, unit: Tensor) -> float:
    """How far a unit (b, c, 1, h, w) is from its draft at the draft's resolution: the length of the
    difference as a share of the unit's own. 0 is the same, about 1.4 is nothing in common.
    """
    levels = 1 + (unit.shape[-1] // drafted.shape[-1]).bit_length() - 1
    coarse = pyramid(unit.float().cpu(), levels)[0]
    return float((drafted - coarse).norm() / coarse.norm())


def compared(events: Iterator[Any], draft: Draft) -> Iterator[Any]:
    """The events of a run that goes on from a draft, and, if that shows all units, a notice of how far the
    video departs from it.
    """
    shares: list[float] = []
    for event in events:
        if isinstance(event, Unit) and not event.given and len(shares) < draft.clean.shape[2]:
            index = len(shares)
            shares.append(departure(draft.clean[:, :, index : index + 1], event.latents[:1]))
        if isinstance(event, Finished) and len(shares) > 1:
            told = ", ".join(f"{share:.0%}" for share in shares)
            sees = "Later units of a draft see a coarser past."
            yield Notice("draft", f"{sees} This video departs from its draft, unit by unit, by {told}.")
        yield event
