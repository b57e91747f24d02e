"""Videos as frames arrive.

    with VideoWriter("out.mp4", 24, (640, 384), metadata) as writer:        # H.264 yuv420p, as frames arrive
        for frames in source:
            writer.write(frames)                                            # uint8 (f, h, w, 3)
    writer.path                                                             # out.mp4, or out-2.mp4 if taken
    read_metadata(writer.path) == metadata

Nothing is ever overwritten, and nothing half-written ever carries its final name: `pyramid.media.files` sees
to that.
"""

import importlib
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from pyramid.media.files import (
    KEEPS,
    no_interrupts,
    publish,
    reserve,
    tag,
    words_of,
    write_sidecar,
)
from pyramid.media.sound import Sound
from pyramid.settings import SettingsError

QUALITY = 17  # H.264's CRF: 17 looks like the original, 23 is smaller, 51 is the worst
# What the filters say of the colors goes before what the encoder is told, and unsaid is unknown there.
TAGS = "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"
TO_BT709 = ["-vf", f"scale=out_color_matrix=bt709:out_range=tv,{TAGS}"]
IS_BT709 = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
BT709 = [*TO_BT709, *IS_BT709]
PALETTE = (
    "split[a][b];[a]palettegen=stats_mode=full[p];[b][p]paletteuse=dither=sierra2_4a:diff_mode=rectangle"
)
FASTEST_GIF = 50  # frames a second: a GIF counts in hundredths, and players take one of them for ten


def gif_rate(fps: float) -> float:
    """Frames a second of a GIF made of `fps`: as many, or each second, third, … where there are too many."""
    return fps / max(math.ceil(fps / FASTEST_GIF), 1)


def load_writer() -> None:
    """Load what writes videos, which takes a moment, before somebody waits for a video."""
    importlib.import_module("moviepy.video.io.ffmpeg_writer")


def encoding(suffix: str, quality: int, fps: float = 0) -> tuple[str, list[str]]:
    """ffmpeg's encoder and its options for a file that ends in `suffix`; `quality` in H.264's CRF, 1 to 51.

    VP9's scale ends at 63, so the number is stretched; a GIF has no quality, and of too many frames a second
    (`fps`) some. SettingsError for anything else.
    """
    if not 1 <= quality <= 51:
        raise SettingsError(
            "quality",
            f"quality = {quality} is outside 1 to 51: 17 looks like the original, "
            "a higher number makes a smaller file",
        )
    match suffix.lower():
        case ".mp4":
            return "libx264", ["-crf", str(quality), *BT709]
        case ".webm":
            crf = round(quality * 63 / 51)
            options = f"-crf {crf} -b:v 0 -row-mt 1 -cpu-used 3 -pix_fmt yuv420p".split()
            return "libvpx-vp9", [*options, *BT709]
        case ".gif":
            fewer = f"fps={gif_rate(fps):.6g}," * (fps > FASTEST_GIF)
            return "gif", ["-vf", fewer + PALETTE, "-loop", "0"]
    raise SettingsError(
        "format", f"a video cannot be written as {suffix!r}: its name must end in .mp4, .webm or .gif"
    )


class FramesWriter:
    """What writers of frames have in common: the name, the size, the settings that go along.

    keep: where those go, see `files.KEEPS`. `partial`, set before the end: there are fewer frames than asked
    for, which name and settings then say.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        size: tuple[int, int],
        metadata: dict | None = None,
        *,
        keep: str = "embed",
    ):
        if min(size) < 1:
            raise ValueError(f"a video of {size[0]}×{size[1]} has no pixels")
        if keep not in KEEPS:
            raise SettingsError("metadata", f"metadata {keep!r}: choose from {', '.join(KEEPS)}")
        self.wanted = self.path = Path(path)
        self.fps = fps
        self.size = (size[0], size[1])
        self.metadata = dict(metadata or {})
        self.keep = keep
        self.frames = 0
        self.partial = False
        self._part: Path  # the hidden file that is filled, from `with` on

    def _checked(self, frames: np.ndarray) -> np.ndarray:
        """Frames (f, h, w, 3), or one (h, w, 3), as several. ValueError for another size or type."""
        frames = frames[None] if frames.ndim == 3 else frames
        if frames.dtype != np.uint8 or frames.shape[1:] != (self.size[1], self.size[0], 3):
            raise ValueError(
                f"frames of {frames.dtype} {frames.shape} for a video of {self.size[0]}×"
                f"{self.size[1]}: uint8 (f, h, w, 3) of that size is expected"
            )
        return frames

    def _settle(self) -> dict | None:
        """The last word on the name; the settings that go into the file, None for none."""
        if self.partial:
            self.path = self.wanted.with_name(f"{self.wanted.stem}-partial{self.wanted.suffix}")
            self.metadata["partial"] = True
        return self.metadata if self.keep == "embed" else None

    def _publish(self, part: Path) -> None:
        """Give the file its name, and lay the settings beside it where they are wanted there."""
        self.path = publish(part, self.path)
        if self.keep == "sidecar":
            write_sidecar(self.path, self.metadata)


class VideoWriter(FramesWriter):
    """A video that grows as frames arrive: mp4 (H.264, yuv420p, BT.709), webm (VP9) or gif,
    by its name's ending.

    mp4 and webm have even sides: an odd one gets its last row or column twice. A gif leaves frames out where
    there are too many a second (`gif_rate`). `sound` is put beside the pictures.

    A context manager. It is written under a hidden temporary name. Leaving the context without an exception
    keeps `metadata` (which may be changed until then) as `keep` says, see `files.KEEPS`, and gives the file
    its final name, `path`: the asked one, or the next free `name-2.mp4`. After an exception, or without a
    frame, nothing stays. With `partial` set, the name ends in `-partial` and the metadata says so.

    Raises ValueError for other endings and frames of another size; OSError when ffmpeg fails.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        size: tuple[int, int],
        metadata: dict | None = None,
        *,
        quality: int = QUALITY,
        keep: str = "embed",
        sound: Sound | None = None,
    ):
        super().__init__(path, fps, size, metadata, keep=keep)
        self.codec, self._options = encoding(self.wanted.suffix, quality, fps)
        self.sound = sound
        self._writer: Any  # moviepy's, from `with` on

    def __enter__(self) -> Self:
        from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter  # takes a second: not for every command

        self._part, self.path = reserve(self.wanted)
        try:
            with no_interrupts():
                self._writer = FFMPEG_VideoWriter(
                    str(self._part.absolute()),
                    self.written_size,
                    self.fps,
                    codec=self.codec,
                    preset="medium",
                    ffmpeg_params=self._options,
                )
        except BaseException:
            self._part.unlink(missing_ok=True)
            raise
        return self

    @property
    def written_size(self) -> tuple[int, int]:
        """(width, height) of the file's pictures."""
        if self.codec == "gif":
            return self.size
        return self.size[0] + self.size[0] % 2, self.size[1] + self.size[1] % 2

    def write(self, frames: np.ndarray) -> None:
        """Append frames: uint8 (f, h, w, 3), or one frame (h, w, 3)."""
        frames = self._checked(frames)
        width, height = self.written_size
        more = ((0, height - self.size[1]), (0, width - self.size[0]), (0, 0))
        for frame in frames:
            frame = np.pad(frame, more, mode="edge") if self.written_size != self.size else frame
            try:
                self._writer.write_frame(frame)
            except OSError as error:  # moviepy's words on ffmpeg's, and advice about codecs
                full = "a full disk: No space left on device" * ("No space left" in str(error))
                raise OSError(
                    f"the video {self.path.name} could not be written: {full or words_of(str(error))}"
                ) from None
            self.frames += 1

    def __exit__(self, kind, error, traceback) -> None:
        tagged = self._part.with_name(f"{self._part.stem}-tagged{self.wanted.suffix}")
        try:
            self._end(kill=kind is not None)
            if kind is None and self.frames:
                tag(self._part, tagged, self._settle(), sound=self.sound)
                self._publish(tagged)
        finally:
            self._part.unlink(missing_ok=True)
            tagged.unlink(missing_ok=True)

    def _end(self, kill: bool) -> None:
        """Close ffmpeg; OSError with its own words when it failed. (moviepy's own close does not look.)"""
        process = self._writer.proc
        if process is None:  # moviepy closed it after an error of its own
            return
        if kill:
            process.kill()
        with suppress(OSError):  # it died before: the return code tells
            process.stdin.close()
        words = "" if process.stderr.closed else words_of(process.stderr.read().decode(errors="replace"))
        self._writer.close()
        if process.returncode and not kill:
            raise OSError(f"the video {self.path.name} could not be written: {words or process.returncode}")
