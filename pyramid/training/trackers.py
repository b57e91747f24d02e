"""Where a run can be watched besides its own log: TensorBoard, wandb, trackio, by accelerate's names.

    trackers = Trackers.start(("tensorboard",), "clips-384p", folder, about={"batch": 64})
    trackers.log({"loss": 0.31}, step=20)
    trackers.show(Path("runs/x/dit/samples/000500.mp4"), step=500)     # a video, or a picture
    trackers.finish()

TensorBoard, which recipes ask for when they ask for nothing, may be missing: that is told, and the run's
`log.jsonl` has the same. Of the others it is an error, before the first step.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pyramid.media.video_reader import inspect, read_frames

NAMES = ("tensorboard", "wandb", "trackio")
WIDEST = 480  # pixels of a video in TensorBoard, which shows GIFs


def flat(values: Any, before: str = "") -> dict[str, Any]:
    """A recipe as one table of plain values, its keys joined by dots."""
    table: dict[str, Any] = {}
    for field in dataclasses.fields(values):
        value, name = getattr(values, field.name), f"{before}{field.name}"
        if dataclasses.is_dataclass(value):
            table |= flat(value, f"{name}.")
        else:
            table[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return table


def check(names: Sequence[str]) -> None:
    """Raises ValueError for an unknown tracker, and for one that is asked for and not installed."""
    for name in names:
        if name not in NAMES:
            raise ValueError(f"trackers: {name!r} is unknown, there are {', '.join(NAMES)}")
        if name != "tensorboard" and importlib.util.find_spec(name) is None:
            raise ValueError(f"trackers: {name} is not installed: pip install {name}")


class Trackers:
    """Those of one run; without any, all that is told goes nowhere."""

    def __init__(self, trackers: Sequence[Any] = ()):
        self.trackers = list(trackers)

    @classmethod
    def start(cls, names: Sequence[str], run: str, folder: Path, about: dict[str, Any]) -> Trackers:
        """The trackers of a run: TensorBoard's events lie in `folder/tensorboard`, to the others `run` is the
        project. `about`: the recipe as a table. Raises ValueError as `check` does.
        """
        from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

        check(names)
        made: list[Any] = []
        for name in names:
            if importlib.util.find_spec(name) is None:
                print("TensorBoard is not installed (pip install tensorboard): log.jsonl has the losses")
            elif name == "tensorboard":
                made.append(TensorBoardTracker(name, folder))
            else:
                made.append((WandBTracker if name == "wandb" else TrackioTracker)(run))
        for tracker in made:
            tracker.start()
            if about:
                tracker.store_init_configuration(about)
        return cls(made)

    def log(self, values: dict[str, float], step: int) -> None:
        for tracker in self.trackers:
            tracker.log(values, step=step)

    def show(self, path: Path, step: int) -> None:
        """A sample, a video or a picture; nothing where there is no such file."""
        if not path.exists():
            return
        for tracker in self.trackers:
            if tracker.name == "tensorboard":
                _to_tensorboard(tracker.tracker, path, step)
            else:
                tracker.log({"sample": _media_of(tracker.name, path)}, step=step)

    def finish(self) -> None:
        for tracker in self.trackers:
            tracker.finish()


def _media_of(name: str, path: Path) -> Any:
    """A sample as wandb and trackio take it: both have classes of the same names."""
    module = importlib.import_module(name)
    return module.Video(str(path), format="mp4") if path.suffix == ".mp4" else module.Image(str(path))


def _to_tensorboard(writer: Any, path: Path, step: int) -> None:
    """A video goes in as a GIF, which TensorBoard plays: its own `add_video` needs moviepy 1."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    if path.suffix != ".mp4":
        with Image.open(path) as picture:
            writer.add_image("sample", np.asarray(picture.convert("RGB")), step, dataformats="HWC")
        return
    frames, rate = [], inspect(path).fps or 8.0
    for frame in read_frames(path):
        frame.thumbnail((WIDEST, WIDEST))
        frames.append(frame)
    data = io.BytesIO()
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 / rate), loop=0)
    width, height = frames[0].size
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data.getvalue())
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag="sample", image=image)]), step)
    writer.flush()
