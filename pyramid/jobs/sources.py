"""What a job starts from: a picture or a clip, checked, and copied to where it outlives the upload.

source = Source.of("image", Path("upload/photo.jpg"))
source.check(settings, limit=50)          # SettingsError when it cannot be read, or has more than 50 MB
source.write(store.private / "inputs" / job_id)
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyramid.media.pictures import read_picture
from pyramid.media.video_reader import read_video
from pyramid.settings import Settings, SettingsError

NAMELESS = {"image": "picture.png", "video": "video.mp4"}


@dataclass(frozen=True)
class Source:
    """A picture or a video that is to be copied into the store."""

    kind: str  # image or video
    name: str
    content: bytes | Path

    @classmethod
    def of(cls, kind: str, content: bytes | str | Path, name: str | None = None) -> "Source":
        """From a file, or a file's content, under its own name, or another."""
        content = Path(content) if isinstance(content, str) else content
        name = name or (content.name if isinstance(content, Path) else "")
        return cls(kind, _plain(name, NAMELESS[kind]), content)

    @property
    def path(self) -> Path | None:
        return self.content if isinstance(self.content, Path) else None

    def check(self, settings: Settings, limit: float | None) -> None:
        """SettingsError when it cannot be read, or is larger than `limit` MB."""
        size = (len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size) / 1e6
        if limit is not None and size > limit:
            raise SettingsError(
                self.kind, f"{self.name} has {size:.1f} MB: at most {limit:g} MB are allowed here"
            )
        s = settings
        try:
            if self.kind == "image":
                read_picture(self._bytes(), (s.width, s.height))
            else:
                with self._as_file() as path:
                    read_video(path, s.width, s.height, fps=s.fps, num_frames=9, fit=s.fit)
        except ValueError as error:
            message = str(error).replace("the picture", f"the picture {self.name!r}", 1)
            if self.path:
                message = message.replace(str(self.path), self.name)  # no path of this machine is shown
            raise SettingsError(self.kind, message) from error

    @contextmanager
    def _as_file(self) -> Iterator[Path]:
        if self.path:
            yield self.path
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / self.name
            path.write_bytes(self._bytes())
            yield path

    def _bytes(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    def write(self, folder: Path) -> None:
        """Into `folder`, in place of what may be there."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if self.path:
            shutil.copyfile(self.path, folder / self.name)
        else:
            (folder / self.name).write_bytes(self._bytes())


def _plain(name: str, otherwise: str) -> str:
    """A file name that is one on every system, and no path."""
    name = re.sub(r"[^\w.()+ -]", "_", re.split(r"[/\\]", name)[-1]).strip(". ")
    return name[-100:] or otherwise
