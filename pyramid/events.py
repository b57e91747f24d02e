"""What a generation tells the world. `PyramidFlowPipeline.stream` yields these; all else consumes them.

    for event in pipe.stream(settings):
        match event:
            case Status() | Notice(): print(event.message)
            case Preview(): print(f"unit {event.unit} of {event.units}, {event.fraction:.0%}")
            case Frames(): writer.write(event.video)

Order: Status …, then for each unit its Previews (one a step), Unit, Frames; a Notice anywhere; at last one
Finished, also after a stop. All indices count from 0. Latents are in the transformer's space
(`latents.denormalize` leads to the autoencoder's).
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # annotations only: an event needs no torch to be printed
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Status:
    """A phase began: "text", "encode", "sample" or "decode". `message` is for people."""

    phase: str
    message: str
    fraction: float | None = None  # of the phase, in [0, 1], where it is known


@dataclass(frozen=True)
class Notice:
    """Something that whoever asked should know, and that belongs into the result's notes: one sentence.

    `kind`: "prompt" (its end was cut), "words" (a model does not know them), "precision" (a step was taken in
    a wider dtype), "memory" (it ran out, and the plan stepped down), "plan" (what loading had to change),
    "drafts" (they were made one by one), "draft" (how far a video departs from its draft).
    """

    kind: str
    message: str


@dataclass(frozen=True, eq=False)
class Preview:
    """An Euler step was taken: where it stands and, when previews are wanted, the denoised estimate."""

    unit: int
    units: int
    stage: int
    stages: int
    step: int  # within the stage
    steps: int  # of this stage
    clean: "Tensor | None"  # (b, c, 1, h, w) float32 at the stage's resolution, or None
    done: int  # steps taken since the run began, over all units
    total: int  # steps the whole run takes
    latents: "Tensor | None" = None  # (b, c, 1, h, w) float32: where a stage ended, with its last step only

    @property
    def fraction(self) -> float:
        """Share of all steps taken so far, in (0, 1]."""
        return self.done / self.total


@dataclass(frozen=True, eq=False)
class Unit:
    """A unit is finished: `latents` (b, c, 1, h, w). `given`: it came from the user's picture or clip."""

    index: int
    count: int
    latents: "Tensor"
    given: bool = False


@dataclass(frozen=True, eq=False)
class Frames:
    """A unit was decoded: `video` uint8 (f, h, w, 3), f = 1 for unit 0 and 8 after it. One event a sample."""

    unit: int
    video: "np.ndarray"
    sample: int = 0
    given: bool = False


@dataclass(frozen=True, eq=False)
class Finished:
    """The end of a run. After a stop, `latents` holds the finished units only, or is None when there is none;
    with a bounded history they are there only where they were asked for.

    `timings`: seconds by phase ("text", "encode", "sample", "decode", "total"); `seed`: the one that was
    used.
    """

    latents: "Tensor | None"
    timings: dict[str, float] = field(default_factory=dict)
    seed: int | None = None
    stopped: bool = False

    @property
    def seconds(self) -> dict[str, float]:
        """`timings` by the name that says their unit."""
        return self.timings
