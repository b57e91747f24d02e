"""The sound of a video, for a file that has its pictures in another form.

    sound = sound_of(path)                     # of `pyramid.media.video_reader`; None where there is none
    tag(part, target, metadata, sound=sound)   # of `pyramid.media.files`

What fits into the new container is copied, all else is encoded anew.
"""

from dataclasses import dataclass
from pathlib import Path

from pyramid.media.containers import this_file

FITTING = {".mp4": ("aac", "mp3", "ac3", "eac3", "alac"), ".webm": ("opus", "vorbis")}  # copied as it is
ENCODERS = {".mp4": ["aac", "-b:a", "192k"], ".webm": ["libopus", "-b:a", "160k", "-ac", "2"]}


@dataclass(frozen=True)
class Sound:
    """The first sound track of a video, and its codec.

    Where the sound begins earlier than the pictures, what is read of those begins as early: both stay
    together.
    """

    path: Path
    codec: str

    def source(self) -> list[str]:
        """ffmpeg's arguments to open it."""
        return this_file(self.path)

    def encoding(self, suffix: str) -> list[str]:
        """ffmpeg's arguments to write it into a file that ends in `suffix`."""
        return ["-c:a", "copy"] if self.codec in FITTING[suffix] else ["-c:a", *ENCODERS[suffix]]
