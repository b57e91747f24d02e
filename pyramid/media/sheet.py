"""A wall of small pictures, each with a word under it: one picture, or several that move.

frames = contact_sheet([clip_1, clip_2], ["seed 1", "seed 2"])   # PIL pictures, as many as the longest has
save_moving(frames, Path("sheet.gif"), fps=8)                     # or .png, where there is one
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pyramid.media.files import publish, reserve

TILE = 160  # pixels: the longer side of a picture on the wall, at least
LARGEST = 512  # at most
GAP = 8
CAPTION = 22
INK = (240, 236, 228)
GROUND = (20, 19, 15)


def enlarged(frame: np.ndarray, longest: int = TILE) -> Image.Image:
    """A frame, uint8 (h, w, 3), for a wall: its longer side is `longest` at least, and LARGEST at most."""
    picture = Image.fromarray(frame)
    scale = min(max(1.0, longest / max(picture.size)), LARGEST / max(picture.size))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture if scale == 1 else picture.resize((width, height), Image.Resampling.BICUBIC)


def contact_sheet(clips: Sequence[np.ndarray], words: Sequence[str]) -> list[Image.Image]:
    """The clips, uint8 (f, h, w, 3) of one size, side by side in rows, as one moving picture.

    A clip that is shorter than the others rests on its last frame.
    """
    columns = math.ceil(math.sqrt(len(clips)))
    rows = math.ceil(len(clips) / columns)
    width, height = enlarged(clips[0][0]).size
    size = columns * (width + GAP) + GAP, rows * (height + CAPTION + GAP) + GAP
    font = ImageFont.load_default(14)
    wall = Image.new("RGB", size, GROUND)
    places = [
        (GAP + (n % columns) * (width + GAP), GAP + (n // columns) * (height + CAPTION + GAP))
        for n in range(len(clips))
    ]
    for (left, top), text in zip(places, words, strict=True):
        ImageDraw.Draw(wall).text((left + 2, top + height + 3), text, fill=INK, font=font)
    frames = []
    for index in range(max(len(clip) for clip in clips)):
        frame = wall.copy()
        for place, clip in zip(places, clips, strict=True):
            frame.paste(enlarged(clip[min(index, len(clip) - 1)]), place)
        frames.append(frame)
    return frames


def save_moving(frames: Sequence[Image.Image], path: Path, fps: float) -> Path:
    """One frame as PNG, several as GIF, beside the name `path`, whose ending becomes that.

    A name that is taken is not replaced: the path that it got is returned.
    """
    buffer = io.BytesIO()
    if len(frames) == 1:
        frames[0].save(buffer, format="PNG")
    else:
        more = {"save_all": True, "append_images": list(frames[1:]), "duration": round(1000 / fps), "loop": 0}
        frames[0].save(buffer, format="GIF", **more)
    part, free = reserve(path.with_suffix(".png" if len(frames) == 1 else ".gif"))
    try:
        part.write_bytes(buffer.getvalue())
        return publish(part, free)
    finally:
        part.unlink(missing_ok=True)
