"""The sound of a video, for a file that has its pictures in another form.

    sound = sound_of(path)                     # of `pyramid.media.video_reader`; None where there is none
    tag(part, target, metadata, sound=sound)   # of `pyramid.media.files`

What fits into the new container is copied, all else is encoded anew.
"""

from dataclasses import dataclass
from pathlib import Path

from pyramid.media.containers import this_file

FITTING = {".mp4": ("aac", "mp3", "ac3", "eac3", "alac"), ".webm": ("opus", "vorbis")}  # copied as it is
SLOWEST_MP3 = 16_000  # samples a second: an mp4 has MPEG-1 and MPEG-2, and below are extensions of theirs
ENCODERS = {".mp4": ["aac", "-b:a", "192k"], ".webm": ["libopus", "-b:a", "160k", "-ac", "2"]}


@dataclass(frozen=True)
class Sound:
    """The first sound track of a video that can be read, its codec, and samples a second (0: not told).

    Where the sound begins earlier than the pictures, what is read of those begins as early: both stay
    together.
    """

    path: Path
    codec: str
    track: int = 0  # of its sound tracks
    rate: int = 0

    def source(self) -> list[str]:
        """ffmpeg's arguments to open it."""
        return this_file(self.path)

    def encoding(self, suffix: str) -> list[str]:
        """ffmpeg's arguments to write it into a file that ends in `suffix`."""
        fits = self.codec in FITTING[suffix] and (self.codec != "mp3" or self.rate >= SLOWEST_MP3)
        return ["-c:a", "copy"] if fits else ["-c:a", *ENCODERS[suffix]]
