"""One table of ways to run a model: variant, sampler and steps, what they cost, what becomes of the clips.

    rows = measure(pipelines, ways_of(checkpoint), Asked(videos=36, seed=1000))
    Console().print(as_table(rows))

Each way makes the same held-out clips from the same seeds. Beside the four judgements it says how far the
latents are from those of the first variant on a much finer grid, how sharp the frames are, and how far apart
16 seeds of one prompt come out: regression, which distillation is, can blur and can make all seeds alike
without any judge noticing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.progress import track
from rich.table import Table
from torch import Tensor

from pyramid.evaluation.evaluate import Share, as_plain, choose_scenes, score, sharpness, world_of
from pyramid.evaluation.judge import judge
from pyramid.evaluation.moves import NAMES as MOVES
from pyramid.evaluation.moves import PANS_AND_ZOOMS, measure_moves
from pyramid.events import Finished, Frames
from pyramid.generate.guidance import Guidance
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.hub.checkpoints import Checkpoint, find, list_variants
from pyramid.settings import FAST, PHOTOS, Settings
from pyramid.training.photos import Photo
from pyramid.training.world import caption

JUDGED = {  # a column, and what `evaluate.score` calls it
    "color": "colour right",
    "shape": "shape right",
    "present": "object present throughout",
    "motion": "motion right, all kinds",
}
BATCH = 12  # clips at once
SEEDS = 16  # of one prompt, to see how much they differ
TIMED = 3  # clips made alone, to be timed


@dataclass(frozen=True)
class Way:
    """A way to run a model; `variant` says guidance, and steps where there are none here."""

    variant: str
    sampler: str = ""
    steps: tuple[int, ...] = ()

    def settings(self) -> dict[str, Any]:
        """The arguments of a call."""
        steps = {"num_inference_steps": self.steps, "video_num_inference_steps": self.steps}
        return {name: value for name, value in (steps | {"sampler": self.sampler}).items() if value}


@dataclass(frozen=True)
class Asked:
    """How much is measured: clips to be judged, the first one's seed, clips whose latents are compared."""

    videos: int = 108
    seed: int = 1000
    compared: int = 8
    prompts: int = 2  # of which `SEEDS` seeds each are compared
    photos: Sequence[Photo] = ()  # that are moved by each of four cameras


@dataclass(frozen=True)
class Row:
    """What came out for one way."""

    way: Way
    steps: tuple[int, ...]
    sampler: str
    evaluations: int  # of a clip
    forwards: int  # rows that went through the transformer: twice as many with guidance
    seconds: dict[str, float]  # of a clip made alone, by phase, the median
    scores: dict[str, Share]
    error: float  # of the latents, ‖a − b‖ / ‖b‖
    sharpness: float
    diversity: float
    moves: dict[str, Share | float] = field(default_factory=dict)  # over photographs, see `measure_moves`

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        shares = {name: [s.right, s.total, *s.interval] for name, s in self.scores.items()}
        values = {name: getattr(self, name) for name in ("sampler", "evaluations", "forwards", "seconds")}
        values |= {name: getattr(self, name) for name in ("error", "sharpness", "diversity")}
        if self.moves:
            values["photographs"] = {name: as_plain(self.moves[told]) for name, told in MOVES.items()}
        return {"variant": self.way.variant, "steps": list(self.steps), **values, "scores": shares}


def ways_of(checkpoint: Checkpoint) -> list[Way]:
    """What is compared: the first variant as it is used and with fewer steps, its fast variants, and that
    for photographs.

    The undistilled model with a student's steps is among them, so that one sees what distillation brings.
    """
    first = find(checkpoint.folder).variant
    few = ((2, 2, 1), (1, 1, 1))
    ways = [
        Way(first, "reference"),
        Way(first, "even"),
        Way(first, "multistep"),
        Way(first, "multistep", (4, 4, 4)),
    ]
    ways += [Way(first, "even", steps) for steps in few]
    for variant in list_variants(checkpoint.folder):
        if variant == first + FAST:
            ways += [Way(variant), Way(variant, "even", (1, 1, 1))]
        elif variant == first + PHOTOS:
            ways.append(Way(variant))
    return ways


def measure(load: Callable[[str], PyramidFlowPipeline], ways: Sequence[Way], asked: Asked) -> list[Row]:
    """A row for each way. `load` gives the pipeline of a variant; the first way's is what all are beside."""
    pipes: dict[str, PyramidFlowPipeline] = {}
    for way in ways:
        if way.variant not in pipes:
            pipes[way.variant] = load(way.variant)
    first = pipes[ways[0].variant]
    fine = replace(ways[0], sampler="multistep", steps=tuple(3 * n for n in first.defaults.steps))
    exact = _latents(first, fine, asked)
    return [
        _row(pipes[way.variant], way, asked, exact)
        for way in track(ways, description="ways to run it", transient=True)
    ]


def _row(pipe: PyramidFlowPipeline, way: Way, asked: Asked, exact: Tensor) -> Row:
    world = world_of(pipe)
    scenes = choose_scenes(world, asked.videos, asked.seed)
    texts = _texts(pipe, asked, asked.videos)
    clips: list[np.ndarray] = []
    for at in range(0, len(texts), BATCH):
        clips += _made(pipe, way, texts[at : at + BATCH], asked.seed + at)[0]
    alone = [_made(pipe, way, texts[:1], asked.seed)[1].timings for _ in range(TIMED)]
    settings = _settings(pipe, way)
    guidance = Guidance.of(settings)
    steps = [
        (count, guidance.rows(unit, stage))
        for unit in range(settings.units)
        for stage, count in enumerate(settings.evaluations(unit))
    ]
    scores = score([judge(clip, world) for clip in clips], scenes)
    return Row(
        way,
        settings.num_inference_steps,
        settings.sampler,
        evaluations=sum(count for count, _ in steps),
        forwards=sum(count * rows for count, rows in steps),
        seconds={name: float(np.median([t[name] for t in alone])) for name in ("sample", "decode")},
        scores={column: scores[name] for column, name in JUDGED.items()},
        error=float((_latents(pipe, way, asked) - exact).norm() / exact.norm()),
        sharpness=float(np.mean([sharpness(clip) for clip in clips])),
        diversity=_diversity(pipe, way, asked),
        moves=_moves(pipe, way, asked),
    )


def _moves(pipe: PyramidFlowPipeline, way: Way, asked: Asked) -> dict[str, Share | float]:
    """What becomes of photographs, where some are asked for."""
    if not asked.photos:
        return {}
    return measure_moves(pipe, asked.photos, PANS_AND_ZOOMS, asked.seed, **way.settings())


def _texts(pipe: PyramidFlowPipeline, asked: Asked, count: int) -> list[str]:
    """Captions of the held-out scenes that `evaluate.evaluate_videos` takes, in its words."""
    rng = np.random.default_rng(asked.seed)
    return [caption(scene, rng) for scene in choose_scenes(world_of(pipe), count, asked.seed)]


def _settings(pipe: PyramidFlowPipeline, way: Way) -> Settings:
    return pipe.request("a clip", **way.settings())[0]


def _made(
    pipe: PyramidFlowPipeline, way: Way, texts: list[str], seed: int
) -> tuple[list[np.ndarray], Finished]:
    """Clips, uint8 (f, h, w, 3), one for each text with a seed of its own, and the end of the run."""
    pieces: list[list[np.ndarray]] = [[] for _ in texts]
    settings, inputs = pipe.request(texts, seed=seed, **way.settings())
    for event in pipe.stream(settings, inputs):
        if isinstance(event, Frames):
            pieces[event.sample].append(event.video)
    assert isinstance(event, Finished)
    return [np.concatenate(piece) for piece in pieces], event


def _sampled(pipe: PyramidFlowPipeline, way: Way, texts: list[str], seed: int) -> Tensor:
    """Latents (b, c, t, h, w) alone."""
    *_, last = pipe.stream(*pipe.request(texts, seed=seed, output_type="latent", **way.settings()))
    assert isinstance(last, Finished) and last.latents is not None
    return last.latents.float().cpu()


def _latents(pipe: PyramidFlowPipeline, way: Way, asked: Asked) -> Tensor:
    return _sampled(pipe, way, _texts(pipe, asked, asked.compared), asked.seed)


def _diversity(pipe: PyramidFlowPipeline, way: Way, asked: Asked) -> float:
    """Mean distance (root mean square) of the latents of two seeds, over the prompts."""
    distances = []
    for text in _texts(pipe, asked, asked.prompts):
        latents = _sampled(pipe, way, [text] * SEEDS, asked.seed)
        pairs = itertools.combinations(latents, 2)
        distances.append(np.mean([float((a - b).square().mean().sqrt()) for a, b in pairs]))
    return float(np.mean(distances))


def as_table(rows: Sequence[Row], title: str) -> Group:
    """The rows as tables of 80 columns: what they cost, what they make, and what becomes of photographs where
    that was measured; sharpness and diversity are shares of the first row's.
    """
    cost = _table(title, ("evaluations", "sample s", "decode s", "latent error"))
    made = _table("what they make", (*JUDGED, "sharp", "diverse"))
    moved = _table("over photographs", ("direction", "speed", "gain dB", "detail"))
    for row in rows:
        twice = " ×2" if row.forwards > row.evaluations else ""
        way = row.way.variant, row.sampler, "-".join(map(str, row.steps))
        seconds = (f"{row.seconds[phase]:.2f}" for phase in ("sample", "decode"))
        cost.add_row(*way, f"{row.evaluations}{twice}", *seconds, f"{row.error:.3f}")
        made.add_row(
            *way,
            *(_short(share) for share in row.scores.values()),
            f"{row.sharpness / rows[0].sharpness:.0%}",
            f"{row.diversity / rows[0].diversity:.0%}",
        )
        if row.moves:
            direction, speed, gain, detail = (row.moves[name] for name in MOVES.values())
            assert isinstance(direction, Share) and isinstance(speed, Share)
            moved.add_row(*way, _short(direction), _short(speed), f"{gain:+.1f}", f"{detail:.0%}")
    return Group(cost, made, *[moved] * any(row.moves for row in rows))


def _table(title: str, names: Sequence[str]) -> Table:
    """A table whose rows begin with how a clip is made."""
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("variant", "sampler", "steps"):
        table.add_column(name, overflow="fold")
    for name in names:
        table.add_column(name, justify="right")
    return table


def _short(share: Share) -> str:
    low, high = share.interval
    return f"{share.right}/{share.total}\n{100 * low:.0f}–{high:.0%}"
