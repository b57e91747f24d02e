"""Given pictures and clips, in the forms in which Python programs have them.

    picture = picture_of(frame)        # PIL, a path, bytes, an open file, an array or a tensor
    frames = frames_of_video(video)    # a sequence of what `picture_of` takes

Color is an array's last axis and a tensor's first, as diffusers has them; gray and transparency are taken
too, and an axis for a batch of one. Floats are in [0, 1].
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from pyramid.media.pictures import read_picture, to_rgb

FORMS = "an array (h, w, 3) or a tensor (3, h, w) is needed, with 1, 3 or 4 channels"


def picture_of(frame: Any) -> Image.Image:
    """A frame as a PIL picture in RGB. Raises ValueError for what is none, or has values out of range."""
    if isinstance(frame, list | tuple):
        if len(frame) != 1:
            raise ValueError(
                f"{len(frame)} pictures are given: one is the first frame of all videos of a call; make a "
                "call for each."
            )
        return picture_of(frame[0])
    if isinstance(frame, Image.Image):
        return frame
    if isinstance(frame, str) and frame.startswith(("http://", "https://")):
        raise ValueError(
            f"{frame!r} is an address: nothing is fetched here; "
            "use diffusers.utils.load_image(…), or save it."
        )
    if isinstance(frame, bytes | bytearray):
        return read_picture(bytes(frame))
    if isinstance(frame, str | Path):
        return read_picture(frame)
    if callable(read := getattr(frame, "read", None)):
        content = read()
        if not isinstance(content, bytes):
            raise ValueError("The file of a picture is open as text: open it with mode 'rb'.")
        return read_picture(content)
    return _of_numbers(frame)


def _of_numbers(frame: Any) -> Image.Image:
    array = _channels_last(frame)
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # also refuses nan
            raise ValueError(f"A picture of values {array.min():g} to {array.max():g}: floats are in [0, 1].")
        array = (array * 255).round()
    elif array.dtype == np.uint16:
        array = array // 257
    elif array.dtype == bool:
        array = array * 255
    elif array.dtype.kind not in "iu":
        raise ValueError(f"A picture of {array.dtype}: numbers are expected; {FORMS}.")
    elif array.min() < 0 or array.max() > 255:
        raise ValueError(
            f"A picture of {array.dtype} values {array.min()} to {array.max()}: whole numbers are in 0 to "
            "255, or uint16."
        )
    array = array.astype(np.uint8)
    return to_rgb(Image.fromarray(array if array.shape[2] > 1 else array[..., 0]))


def _channels_last(frame: Any) -> np.ndarray:
    """A picture's numbers as (h, w, 1, 3 or 4)."""
    shape = tuple(np.shape(frame))
    if len(shape) == 4 and shape[0] == 1:  # a batch of one
        frame = frame[0]
    if isinstance(frame, Tensor):
        frame = frame.detach().cpu()
        frame = frame.movedim(0, -1) if frame.ndim == 3 else frame
        frame = frame.float() if frame.is_floating_point() else frame  # numpy has no bfloat16
    array = np.asarray(frame)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or not array.size:
        raise ValueError(f"A picture of shape {shape}: {FORMS}.")
    return array


def frames_of_video(video: Any) -> Sequence[Any]:
    """The frames of a clip in memory: a list, any iterable, an array (f, h, w, 3) or a tensor (f, 3, h, w),
    with or without an axis for a batch of one. Raises ValueError for what is no clip.
    """
    if isinstance(video, bytes | bytearray) or callable(getattr(video, "read", None)):
        raise ValueError("A video is given as a path or as frames, not as a file's content: save it first.")
    if isinstance(video, Image.Image):
        raise ValueError("video is one picture: give it as image.")
    if isinstance(video, np.ndarray | Tensor):
        video = video[0] if video.ndim == 5 and len(video) == 1 else video
        if video.ndim not in (3, 4):
            raise ValueError(
                f"A video of shape {tuple(video.shape)}: an array (f, h, w, 3) or a tensor (f, 3, h, w) is "
                "needed."
            )
        frames: Sequence[Any] = video
    else:
        try:
            frames = list(video)
        except TypeError:
            raise ValueError(
                f"video = {video!r}: a path, or frames in a list, an array or a tensor, are expected."
            ) from None
    if len(frames) == 1 and (isinstance(frames[0], list | tuple) or getattr(frames[0], "ndim", 0) == 4):
        frames = frames[0]  # a batch of one, as pipelines return it
    if len(frames) == 0:
        raise ValueError("video has no frames: give at least one.")
    return frames
