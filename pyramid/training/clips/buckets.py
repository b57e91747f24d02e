"""Buckets: the few sizes and lengths that clips are brought to, so that a batch has one shape.

    bucket = nearest(BUCKETS["384p"], width, height)                 # (640, 384) for a wide clip
    units = whole_units(frames)                                       # 8k + 1 frames are k + 1 units

The published sizes; a clip goes to the one whose aspect is nearest, covers it, and is cropped.
"""

from collections.abc import Sequence

from pyramid.settings import FRAMES_PER_UNIT

Size = tuple[int, int]  # width, height in pixels

BUCKETS: dict[str, tuple[Size, ...]] = {
    "384p": ((640, 384), (384, 640), (512, 512)),
    "768p": ((1280, 768), (768, 1280), (1024, 1024)),
}


def nearest(sizes: Sequence[Size], width: int, height: int) -> Size:
    """The size whose width by height is nearest to that of a clip (the reference's rule, linear)."""
    return min(sizes, key=lambda size: abs(size[0] / size[1] - width / height))


def whole_units(frames: int) -> int:
    """The most units that so many frames fill: 1 for the first, one for each 8 more; 0 without a frame."""
    return 0 if frames < 1 else 1 + (frames - 1) // FRAMES_PER_UNIT
