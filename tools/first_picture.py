"""The README's first picture, made of a real run: python tools/first_picture.py

Nine drafts, the one that is chosen, and the clip that goes on from its very latents, as a moving picture:
assets/readme/drafts.webp.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pyramid.events import Frames, Preview
from pyramid.generate.drafts import Draft, make_drafts
from pyramid.generate.loaded import Loaded, ModelHolder
from pyramid.settings import Settings

PROMPT = "a purple triangle moves to the left over a sunset"
TARGET = Path(__file__).resolve().parent.parent / "assets" / "readme" / "drafts.webp"
TILE = 124  # pixels: a draft
GAP = 8
LARGE = 3 * TILE + 2 * GAP  # the clip
EDGE = 24
ARROW = 64  # between the wall and the clip
WORDS = 40  # under both
GROUND = (20, 19, 15)
EMPTY = (34, 32, 27)
INK = (240, 236, 228)
SOFT = (158, 150, 136)
ACCENT = (224, 138, 60)
FRAME = 125  # milliseconds
BEGIN = (EDGE, EDGE)
RIGHT = EDGE + LARGE + ARROW


@dataclass(frozen=True)
class Made:
    """All that is shown, as pictures."""

    drafts: list[Image.Image]
    stages: list[Image.Image]  # of the first frame, those after the coarsest
    clip: list[Image.Image]


def make(prompt: str, first: int, chosen: int) -> Made:
    """Nine drafts from seed `first` on, and the clip of one of them."""
    base = Settings.for_model("embedded", "128p", prompt=prompt, seed=first, num_frames=25)
    loaded = ModelHolder().bring(base)
    drafts = make_drafts(loaded.pipeline, base, list(range(first, first + 9)))
    stages, clip = refined(loaded, drafts[chosen])
    walls = [sized(draft.frames[0], TILE) for draft in drafts]
    return Made(walls, [sized(stage, LARGE) for stage in stages], [sized(frame, LARGE) for frame in clip])


def refined(loaded: Loaded, draft: Draft) -> tuple[list[Any], list[np.ndarray]]:
    """What each stage makes of the first frame, and the frames."""
    stages: list[Any] = []
    clip: list[np.ndarray] = []
    for event in loaded.stream(draft.settings, draft.inputs(preview_every=100)):
        match event:
            case Preview(unit=0, clean=clean) if clean is not None:
                stages.append(np.asarray(loaded.picture(event)))
            case Frames():
                clip += list(event.video)
    return stages, clip


def sized(frame: np.ndarray, side: int) -> Image.Image:
    return Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC)


# ------------------------------------------------------------------------------------------------------------
# The moving picture


def drawn(made: Made, chosen: int, shown: Image.Image | None, words: tuple[str, str]) -> Image.Image:
    """One moment: the wall, with the chosen draft marked once something of its clip is shown."""
    size = RIGHT + LARGE + EDGE, EDGE + LARGE + WORDS
    picture = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(picture)
    for n, draft in enumerate(made.drafts):
        left = EDGE + (n % 3) * (TILE + GAP)
        top = EDGE + (n // 3) * (TILE + GAP)
        faint = shown is not None and n != chosen
        picture.paste(
            Image.blend(draft, Image.new("RGB", draft.size, GROUND), 0.5) if faint else draft, (left, top)
        )
        if shown is not None and n == chosen:
            draw.rectangle((left - 3, top - 3, left + TILE + 2, top + TILE + 2), outline=ACCENT, width=3)
    draw.rectangle((RIGHT, EDGE, RIGHT + LARGE - 1, EDGE + LARGE - 1), fill=EMPTY)
    if shown is not None:
        picture.paste(shown, (RIGHT, EDGE))
    middle = EDGE + LARGE / 2
    tip = RIGHT - 16
    draw.line((tip - 32, middle, tip - 4, middle), fill=ACCENT if shown else SOFT, width=3)
    draw.polygon(
        [(tip, middle), (tip - 12, middle - 8), (tip - 12, middle + 8)], fill=ACCENT if shown else SOFT
    )
    font = ImageFont.load_default(16)
    for left, text, ink in ((EDGE, words[0], INK), (RIGHT, words[1], INK)):
        draw.text((left, EDGE + LARGE + WORDS / 2), text, ink, font, anchor="lm")
    return picture


def film(made: Made, chosen: int, first: int) -> list[tuple[Image.Image, int]]:
    """The moments, and how many milliseconds each stays."""
    wall = "Nine drafts, in about the time of one clip"
    seed = f"seed {first + chosen}"
    found = [(drawn(made, chosen, None, (wall, "")), 1800)]
    for n, stage in enumerate(made.stages):
        words = f"{seed} goes on from its draft: stage {n + 2} of {1 + len(made.stages)}"
        found.append((drawn(made, chosen, stage, (wall, words)), 700))
    for n, frame in enumerate(made.clip):
        words = f"{seed}, the clip: {n / 8:.1f} s"
        found.append((drawn(made, chosen, frame, (wall, words)), FRAME))
    return [*found[:-1], (found[-1][0], 1500)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--first", type=int, default=1, help="the first of nine seeds")
    parser.add_argument("--chosen", type=int, default=7, help="which draft, counted from 0")
    parser.add_argument("--output", type=Path, default=TARGET)
    args = parser.parse_args()
    moments = film(make(args.prompt, args.first, args.chosen), args.chosen, args.first)
    (first, _), *others = moments
    moving: dict[str, Any] = {
        "save_all": True,
        "append_images": [picture for picture, _ in others],
        "loop": 0,
    }
    times = [stay for _, stay in moments]
    first.save(args.output, quality=80, method=4, duration=times, **moving)
    print(f"{args.output}: {args.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
