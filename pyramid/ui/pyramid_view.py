"""The pyramid as a drawing: how large each stage is, and what it costs.

    costs = stage_costs(settings)             # one StageCost a stage, coarsest first; the shares add up to 1
    drawing(settings, seconds=12.0)           # an SVG: planes of tokens with pixels, latents, share, seconds

What a step costs is `speed.cost`: its tokens, the unit's own and those of its history (arXiv 2410.05954,
section 3.3).
"""

from dataclasses import dataclass

from pyramid.hub.families import GRID, TEXT_TOKENS
from pyramid.jobs.speed import cost, step_tokens, steps_of
from pyramid.settings import PIXELS_PER_PATCH, Settings

PLANE = 132  # width of the finest plane, in the drawing's units
BAR = 74  # width of a full share
ROW = 62  # height of a stage
WIDTH = 330
MIDDLE = 72  # of every plane, from the left
DEPTH = 0.34  # of a plane, over its width
TEXT = 152  # where the words begin, from the left
GRID_LINES = 12  # more token lines than these would be a gray area


@dataclass(frozen=True)
class StageCost:
    """One stage: pixels, latents and tokens of one unit in it, its most history,
    and its share of all the work.
    """

    width: int
    height: int
    tokens: int  # of the unit in work
    history: int  # tokens of the past that the last unit sees beside its own
    share: float  # of the whole run's token-steps, in [0, 1]

    @property
    def latents(self) -> tuple[int, int]:
        return GRID.latent_size(self.width, self.height)


def stage_costs(settings: Settings, given: int = 0) -> list[StageCost]:
    """What each stage is and costs; `given` units at the start are not sampled."""
    work = [0] * settings.stages
    for unit, stage in steps_of(settings, given):
        work[stage] += cost(settings, unit, stage)
    costs = []
    for stage in range(settings.stages):
        scale = 2 ** (settings.stages - 1 - stage)
        width = settings.width // scale
        height = settings.height // scale
        tokens = (width // PIXELS_PER_PATCH) * (height // PIXELS_PER_PATCH)
        history = step_tokens(settings, settings.units - 1, stage) - TEXT_TOKENS - tokens
        costs.append(StageCost(width, height, tokens, history, work[stage] / max(1, sum(work))))
    return costs


def drawing(settings: Settings, seconds: float | None = None, given: int = 0) -> str:
    """The SVG, with words for screen readers. `seconds`: of the whole run, where it can be estimated."""
    costs = stage_costs(settings, given)
    rows = []
    spoken = []
    corners = []
    for stage, at in enumerate(costs):
        y = 26 + stage * ROW
        plane = PLANE / 2 ** (settings.stages - 1 - stage)
        corners.append((plane, y))
        took = f" · {clock(at.share * seconds)}" if seconds is not None else ""
        spoken.append(f"stage {stage + 1}: {at.width} by {at.height} pixels, {at.share:.0%} of the work")
        rows.append(_plane(plane, y, at) + _words(stage, y, at, took))
    edges = "".join(
        f'<path class="edge" d="M{MIDDLE + side * a / 2:g} {y} L{MIDDLE + side * b / 2:g} {y2}"/>'
        for (a, y), (b, y2) in zip(corners, corners[1:], strict=False)
        for side in (-1, 1)
    )
    height = ROW * settings.stages
    return (
        f'<svg class="drawing" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="The pyramid: {"; ".join(spoken)}">{edges}{"".join(rows)}</svg>'
    )


def _plane(width: float, y: float, cost: StageCost) -> str:
    """A stage seen from above at an angle, with its tokens as a grid where they can be told apart."""
    x = MIDDLE
    depth = width * DEPTH
    left, right = x - width / 2, x + width / 2
    top, bottom = y - depth / 2, y + depth / 2
    lines = []
    for count, (ax, ay), (bx, by) in (
        (cost.width // PIXELS_PER_PATCH, (left, y), (x, top)),
        (cost.height // PIXELS_PER_PATCH, (left, y), (x, bottom)),
    ):
        ox, oy = right - bx, y - by  # from a point of this edge to the one across
        for part in range(1, count) if count <= GRID_LINES else ():
            px = ax + (bx - ax) * part / count
            py = ay + (by - ay) * part / count
            lines.append(f"M{px:.1f} {py:.1f} l{ox:.1f} {oy:.1f}")
    return (
        f'<polygon class="plane" style="--share: {cost.share:.3f}" '
        f'points="{left:g},{y} {x},{top:g} {right:g},{y} {x},{bottom:g}"/>'
        f'<path class="grid" d="{" ".join(lines)}"/>'
    )


def _words(stage: int, y: float, cost: StageCost, took: str) -> str:
    w, h = cost.latents
    x = TEXT
    share = max(5, BAR * cost.share)
    many = f"{cost.tokens} token{'s' * (cost.tokens != 1)}"
    return (
        f'<text x="{x}" y="{y - 13}"><tspan class="name">Stage {stage + 1}</tspan>'
        f" {cost.width} × {cost.height} px</text>"
        f'<text x="{x}" y="{y + 3}">{w} × {h} latents · {many}</text>'
        f'<rect class="track" x="{x}" y="{y + 11}" width="{BAR}" height="5" rx="2.5"/>'
        f'<rect class="share" x="{x}" y="{y + 11}" width="{share:.1f}" height="5" rx="2.5"/>'
        f'<text x="{x + BAR + 8}" y="{y + 18}" class="cost">{cost.share:.0%}{took}</text>'
    )


def clock(seconds: float) -> str:
    """A duration for people: 0.4 s, 12 s, 3:05 min, 1:10 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02} min"
    return f"{minutes // 60}:{minutes % 60:02} h"
