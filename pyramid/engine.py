"""Generations that belong to the server: they run in a thread of their own, whoever is watching.

    engine = Engine("embedded")                        # loads the model in the background
    run = engine.start(replace(engine.start_from, prompt="a red ball moves to the right"), Path("outputs"))
    while run.busy: print(run.at)                      # any thread may look, or come back later
    run.stop.set()                                     # ends it within one step; what is finished becomes a file

A page that is closed ends nothing, and a page that comes back finds its run by `engine.find(run.id)`. One run at
a time: there is one model, and it has one graphics card.
"""

import logging
import re
import threading
import time
import uuid
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from pyramid.checkpoints import find
from pyramid.events import Frames, Preview, Status
from pyramid.files import describe
from pyramid.settings import Settings, frames_of
from pyramid.video import VideoWriter, read_picture

log = logging.getLogger("pyramid.jobs")
OURS = ("model", "variant", "dtype", "device", "preset", "image", "video", "fps")  # not the pipeline's arguments


class Busy(ValueError):
    """A run was asked for while another is on."""


class Stopped(Exception):
    """A run was stopped before it made anything: the file is given up."""


class Run:
    """One generation and all that is to be seen of it. Written by its own thread, read by any."""

    def __init__(self, settings: Settings, picture: Image.Image | None, folder: Path):
        self.id, self.settings, self.picture, self.folder = uuid.uuid4().hex, settings, picture, folder
        self.stop, self.done = threading.Event(), threading.Event()
        self.status = "Waiting for the model, which is still loading"
        self.at: Preview | None = None  # the last step taken
        self.estimates: list[Image.Image | None] = [None] * settings.stages  # of each stage, one pixel a latent
        self.frames: list[np.ndarray] = []  # uint8 (h, w, 3), replaced as a whole when a unit is decoded
        self.began, self.sampling, self.ended = time.monotonic(), 0.0, 0.0
        self.path: Path | None = None  # the file, once it is complete
        self.error = ""

    @property
    def busy(self) -> bool:
        return not self.done.is_set()

    @property
    def seconds_left(self) -> float:
        """By the steps taken so far, which all cost about the same share."""
        done = self.at.fraction if self.at else 0.0
        return (time.monotonic() - self.sampling) * (1 - done) / done if done else float("inf")

    def shares(self) -> list[float]:
        """How much of each unit is done, in [0, 1]."""
        at, units = self.at, self.settings.units
        if at is None:
            return [0.0] * units
        now = (at.stage + (at.step + 1) / at.steps) / at.stages
        return [1.0 if unit < at.unit else now if unit == at.unit else 0.0 for unit in range(units)]

    def work(self, engine: "Engine") -> None:
        """Generate to the end, to a stop or to an error; `done` is set whatever happens."""
        try:
            if engine.wait(self.stop):
                self._generate(engine)
        except Stopped:
            pass  # `done` without a `path` says it
        except ValueError as error:  # the user's to mend, and worded so
            self.error = str(error)
        except Exception as error:
            log.exception("a generation failed")
            self.error = f"The generation failed: {error or type(error).__name__}"
        finally:
            self.ended = time.monotonic()
            self.done.set()

    def _generate(self, engine: "Engine") -> None:
        s = self.settings
        request = {name: value for name, value in asdict(s).items() if name not in OURS}
        words = re.sub(r"\W+", "-", s.prompt.lower())[:60].strip("-") or "video"
        name = self.folder / f"{words}-{s.seed}.mp4"
        metadata = describe(s, {"identity": engine.checkpoint.identity})
        with VideoWriter(name, s.fps, (s.width, s.height), metadata) as writer:
            events = engine.pipeline.stream(**request, image=self.picture, preview_every=1, stop=self.stop)
            made = sum(self._take(event, engine, writer) for event in events)
            if not made:  # stopped early: the user's own picture alone is no result
                raise Stopped
            writer.partial = made < s.num_frames - (self.picture is not None)
        self.path = writer.path

    def _take(self, event, engine: "Engine", writer: VideoWriter) -> int:
        """Turn an event into what is to be seen; how many new frames it brought."""
        match event:
            case Status():
                self.status = event.message
            case Preview():
                self.sampling, self.status = self.sampling or time.monotonic(), ""
                self.estimates[event.stage] = engine.picture_of(event)
                self.at = event
            case Frames():
                writer.write(event.video)
                self.frames = [*self.frames, *event.video]
                return 0 if event.given else len(event.video)
        return 0


class Engine:
    """A model, loaded once in the background, and the run that is on, or was last.

    Raises CheckpointError (a ValueError) at once for a model that is not there or has not this variant.
    """

    def __init__(self, model: str, variant: str | None = None, *, dtype: str = "auto", device: str = "auto"):
        self.checkpoint = find(model, variant)
        self.start_from = Settings.for_model(
            model, self.checkpoint.variant, expects=self.checkpoint.defaults, dtype=dtype, device=device
        )
        self.longest = frames_of(self.checkpoint.defaults.units)
        self.run: Run | None = None
        self.error, self.loaded, self._lock = "", threading.Event(), threading.Lock()
        threading.Thread(target=self.load, name="load", daemon=True).start()

    def load(self) -> None:
        """Load the pipeline; what goes wrong is kept in `error`, for the first run that needs it."""
        try:
            from pyramid.preview import latent_colours

            self.pipeline = load_pipeline(self.start_from)
            self.colours = latent_colours(self.pipeline.vae)
        except ValueError as error:
            self.error = str(error)
        except Exception as error:
            log.exception("the model could not be loaded")
            self.error = f"The model could not be loaded: {error}"
        finally:
            self.loaded.set()

    def wait(self, stop: threading.Event) -> bool:
        """Until the model is there (True) or `stop` is set (False). ValueError when it could not be loaded."""
        while not self.loaded.wait(0.1):
            if stop.is_set():
                return False
        if self.error:
            raise ValueError(self.error)
        return True

    def picture_of(self, event: Preview) -> Image.Image:
        """A clean estimate in colour, one pixel a latent."""
        from pyramid.latents import denormalize
        from pyramid.preview import latent_preview

        vae_latents = denormalize(event.clean, self.pipeline.scales, first=event.unit == 0)
        return Image.fromarray(latent_preview(vae_latents, self.colours)[0, 0])

    def start(self, settings: Settings, folder: Path, picture: bytes | Path | None = None) -> Run:
        """Begin a run, from a picture where one is given (`settings.image` is then only its name).

        Raises Busy while a run is on, ValueError for settings or a picture that cannot be used.
        """
        settings = settings.resolved().validate()
        image = read_picture(picture, (settings.width, settings.height)) if picture else None
        with self._lock:
            if self.run and self.run.busy:
                raise Busy("another video is being made: wait for it, or stop it first")
            self.run = Run(settings, image, folder)
        threading.Thread(target=self.run.work, args=[self], name="generate", daemon=True).start()
        return self.run

    def find(self, run_id: str | None) -> Run | None:
        """The run of that id, if it is the latest one."""
        return self.run if self.run and self.run.id == run_id else None


def load_pipeline(settings: Settings, memory: str = "auto"):
    """The pipeline of `settings`, laid out on this machine as `memory` says: see `pyramid.memory`."""
    # Here, not above: torch takes seconds to import, which a page need not wait for.
    from pyramid.memory import load_for

    return load_for(settings, memory)
