"""Whether a picture is drawn, or a photograph, which a model of drawn scenes knows nothing of.

    is_drawn(Image.open("ball.png"))           # True
    is_drawn_file("outputs/a-ball-7.mp4")      # by its last frame

Decided by looking: what is drawn, and what such a model made, is even almost everywhere (flat, or a
gradient); of a photograph hardly a place is. In 8 × 8 blocks of the picture at 128 pixels, the deviation from
a plane is at most 0.34 of 255 in the median of the model's own frames, and at least 1.8 in that of
scikit-image's photographs.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from pyramid.media.files import read_metadata
from pyramid.settings import at_home

SIDE = 128  # pixels: the shorter side of what is looked at
BLOCK = 8
EVEN = 0.8  # of 255: below it a block is even
ROUGH = 4.0  # above it there is an edge, or texture
MOST_ROUGH = 0.3  # of the blocks of a drawing


def is_drawn(picture: Image.Image | np.ndarray) -> bool:
    """Whether a picture, or a frame uint8 (h, w, 3), is of drawn scenes."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    roughness = _roughness(picture)
    return bool(np.quantile(roughness, 0.3) < EVEN and (roughness > ROUGH).mean() < MOST_ROUGH)


def _roughness(picture: Image.Image) -> np.ndarray:
    """Of each block the standard deviation of its brightness around a plane: (blocks,) in 0 to 255."""
    scale = SIDE / min(picture.size)
    width, height = (max(SIDE, round(side * scale)) for side in picture.size)
    how = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    gray = np.asarray(picture.convert("RGB").resize((width, height), how), dtype=np.float32).mean(2)
    height, width = (side // BLOCK for side in gray.shape)
    blocks = gray[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK)
    blocks = blocks.transpose(0, 2, 1, 3).reshape(-1, BLOCK * BLOCK)
    y, x = np.mgrid[:BLOCK, :BLOCK]
    plane = np.stack([np.ones(BLOCK * BLOCK), x.ravel(), y.ravel()], 1)
    return (blocks - blocks @ plane @ np.linalg.pinv(plane)).std(1)


def is_drawn_file(path: str | Path, model: str = "") -> bool:
    """`is_drawn` of a picture's file, or of a video's last frame; False for what cannot be read.

    What `model` made of words alone lies in its world, however few steps it took and so however it looks.
    """
    path = at_home(path)
    try:
        there = path.stat()
        return _looked_at(path, model, there.st_size, there.st_mtime_ns)
    except (OSError, ValueError):
        return False


def _made_by(path: Path, model: str) -> bool:
    """Whether a file says that `model` made it, from no picture and no clip."""
    try:
        settings = read_metadata(path).get("settings")
    except ValueError:
        return False
    if not isinstance(settings, dict) or settings.get("image") or settings.get("video"):
        return False
    return at_home(str(settings.get("model"))) == at_home(model)


@lru_cache(maxsize=64)
def _looked_at(path: Path, model: str, size: int, changed: int) -> bool:
    from pyramid.media.pictures import read_picture
    from pyramid.media.video_reader import read_video

    if _made_by(path, model):
        return True
    try:
        return is_drawn(read_picture(path, (SIDE, SIDE)))
    except ValueError:  # a video
        return is_drawn(read_video(path, SIDE, SIDE, fps=8, num_frames=1)[-1])
