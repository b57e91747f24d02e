"""Videos of others, read with care: nothing but the given bytes is opened, and nothing is read without end.

    info = inspect("clip.mp4")                                              # VideoInfo: size, rate, pixels,
    duration for picture in read_frames("clip.mp4", fps=8): ...                      # PIL, RGB, upright, SDR,
    over white frames = read_video("clip.mp4", 640, 384, fps=24, num_frames=17)        # its end, uint8 (f, h,
    w, 3)

A file from a stranger may be a list of other files (m3u8, concat, SDP, a name pattern), which ffmpeg would
open; or a few bytes that decode to terabytes. `pyramid.media.containers` sees to the first; a `Budget` bounds
time, frames and pixels, and ends the decoder's process.
"""

import re
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from PIL import Image

from pyramid.media.containers import container_of, this_file
from pyramid.media.files import ffmpeg, words_of
from pyramid.media.pictures import BACKGROUND, fit_picture, read_picture
from pyramid.media.sound import Sound
from pyramid.settings import FRAMES_PER_UNIT, Settings, at_home

MOST_STRETCHED = 4  # of a pixel's sides: DV's and DVD's are below 1.5, anamorphic film's 2
HDR = {"arib-std-b67", "smpte2084"}  # transfers of HLG and PQ
# Both end in RGB, which may have odd sides. {a} is "a" for frames with transparency, which is kept.
TO_SDR = (  # diffuse white at 203 nits, ITU-R BT.2408; what is brighter is clipped
    "zscale=t=linear:npl=203:p=bt709:m=gbr:r=pc,format=gbr{a}pf32le,tonemap=tonemap=clip:desat=0,"
    "zscale=t=bt709:m=gbr:r=pc,format=gbr{a}p"
)
UNTOLD = ("", "unknown")
LEAST_INTERLACED = 16  # pixels: a plane of chroma, a quarter of it at least, has to have four rows for bwdif
TURNS = {  # degrees that ffmpeg turned a frame by -> filters that turn it back, and again
    90: ("transpose=clock", "transpose=cclock"),
    180: ("hflip,vflip", "hflip,vflip"),
    270: ("transpose=cclock", "transpose=clock"),
}
HD = (1280, 576)  # from this width on, or above this height
WIDE = {"bt2020", "smpte431", "smpte432"}  # primaries of BT.2020 and P3, with the brightness of SDR
# As screens show it. The transfer stays: a screen takes sRGB's and BT.709's for the same.
TO_NARROW = "zscale=p=bt709:m=gbr:r=pc,format=gbr{a}p"
NOT_HALVED = "format=yuv{a}444p16|gbr{a}p16"  # zscale takes no odd sides where chroma is subsampled
# Dolby's own colors, which ffmpeg takes for others: profile 5, and 10 as far as nothing else can show it.
DOLBY_ALONE = re.compile(
    r"^ +DOVI configuration record: .*profile: (5|10), .*compatibility id: 0\b", re.MULTILINE
)
# A frame is shown for a minute at most: the next one may be given for a day later, and `fps` would fill the
# day.
CLOSE_GAPS = "setpts='if(isnan(PREV_OUTPTS),PTS,PREV_OUTPTS+min(PTS-PREV_INPTS,60/TB))'"
# Frames that a decoder could not make of what it was given, and made up or left out.
BROKEN = re.compile(rb"concealing \d+ DC|rror submitting packet|rror splitting the input|rror while decoding")
MOST_BROKEN = 0.4  # of all frames: a recording that begins in the middle has some
MOST_WORDS = 1_000_000  # bytes that ffmpeg says of a file, or complains, which are looked at
PPM = ("-pix_fmt", "rgb24", "-f", "image2pipe", "-c:v", "ppm", "-")
INDEXED = ("mov", "matroska")  # containers in which a seek arrives at the second that was asked for
SEEK_MARGIN = 1.0  # seconds before what is wanted: a frame that is still shown there began earlier
ALPHA = re.compile(r"yuva|gbrap|rgba|bgra|argb|abgr|ya8|ya16|pal8")
SLOWEST = 10  # seconds a frame: of 1/3 ffmpeg says 0.33; farther down too much is rounded to the same
# thousand and first parts, as ffmpeg rounds
NTSC = {24000: 23.98, 30000: 29.97, 60000: 59.94, 120000: 119.88}


@dataclass(frozen=True)
class Budget:
    """What reading one video may take at most."""

    seconds: float = 120.0  # of wall time
    frames: int = 20_000
    pixels: int = 36_000_000  # of a frame, as it is shown: a little above 8192 × 4320
    probing: float = 20.0  # seconds until ffmpeg has said what the file holds


@dataclass(frozen=True)
class VideoInfo:
    """The first video stream of a file, as ffmpeg describes it."""

    width: int  # pixels as stored
    height: int
    aspect: Fraction  # of a pixel, width by height
    pixel_format: str  # ffmpeg's name
    transfer: str  # such as bt709, smpte2084; "" when it is not said
    codec: str
    interlaced: bool
    alpha: bool
    fps: float | None  # frames a second, on average
    rate: float | None  # the steady rate at which ffmpeg hands the frames out
    duration: float | None  # seconds
    sounds: tuple[tuple[str, int], ...] = ()  # codec and samples a second (0: not told) of each sound track
    matrix: str = ""  # as `transfer`, of brightness and colors; "gbr" is none
    primaries: str = ""
    rotation: float = 0.0  # degrees that its frames are turned by when they are shown

    @property
    def sound(self) -> str:
        """The codec of the first sound track; "" without one."""
        return self.sounds[0][0] if self.sounds else ""

    @property
    def shown(self) -> tuple[int, int]:
        """(width, height) of the frames as they are read: with square pixels, upright."""
        wide, high = int(self.width * self.aspect), self.height
        return (high, wide) if round(self.rotation / 90) % 2 else (wide, high)

    @property
    def shown_pixels(self) -> int:
        return self.shown[0] * self.shown[1]


# -- what a file is


def _input(path: Path, budget: Budget, *decoder: str) -> list[str]:
    """ffmpeg's arguments for a file that is read: itself alone, with frames of bounded size."""
    return this_file(path, "-max_pixels", str(budget.pixels), *decoder)


def probe(path: str | Path, budget: Budget | None = None) -> str:
    """What ffmpeg says of a file: streams, sizes, pixel format, duration. Raises ValueError."""
    path = Path(path)
    budget = budget or Budget()
    command = [ffmpeg(), "-hide_banner", "-nostdin", *_input(path, budget)]
    with TemporaryFile() as said:  # a title, or chapters, may have any length
        try:
            subprocess.run(command, stdout=said, stderr=said, check=False, timeout=budget.probing)
        except subprocess.TimeoutExpired:
            raise ValueError(f"{path.name} could not be read within {budget.probing:g} seconds") from None
        said.seek(0)
        return said.read(MOST_WORDS).decode(errors="replace")


def inspect(path: str | Path, budget: Budget | None = None) -> VideoInfo:
    """The first video stream of a file. ValueError without one, and for frames larger than the budget."""
    path = Path(path)
    budget = budget or Budget()
    said = probe(path, budget)
    # Each at its place in a line: titles of others may hold the same words.
    line = re.search(r"^ {2,4}Stream #0:\d+\S*: Video: (.*)", said, re.MULTILINE)
    # Not a tag, such as the 0x0002 of MPEG-2 in a transport stream: sides have no zero in front.
    size = re.search(r"\b([1-9]\d{0,5})x([1-9]\d{0,5})\b", line[1]) if line else None
    pixel_format = re.search(r"Video: \S+(?: \([^)]*\))*, (\w+)", line[0]) if line else None
    if line is None or size is None or pixel_format is None:
        raise ValueError(f"{str(path)!r} is not a video this program can read{_why_not(said, budget)}")
    stream = line[1]
    aspect = re.search(r"SAR (\d+):(\d+)", stream)
    shape = Fraction(int(aspect[1]), int(aspect[2])) if aspect and int(aspect[2]) else Fraction(1)
    matrix, primaries, transfer = _colors(stream)
    beside = said[line.end() :].partition("Stream #")[0]  # its side data, behind its line
    _check_colors(path, beside)
    sounds = re.findall(r"^ {2,4}Stream #0:\d+\S*: Audio: (\w+)(?:.*?, (\d+) Hz)?", said, re.MULTILINE)
    duration = re.search(r"^  Duration: (\d+):(\d+):([\d.]+)", said, re.MULTILINE)
    info = VideoInfo(
        width=int(size[1]),
        height=int(size[2]),
        aspect=shape or Fraction(1),
        pixel_format=pixel_format[1],
        transfer=transfer,
        codec=stream.split()[0].rstrip(","),
        interlaced=bool(re.search(r"(top|bottom) (first|coded)", stream)),
        alpha=bool(ALPHA.search(pixel_format[1]))
        or bool(re.search(r"^ +alpha_mode +: 1$", said, re.MULTILINE)),
        fps=_rate(stream, "fps"),
        rate=_rate(stream, "tbr"),
        duration=_seconds(*duration.groups()) if duration else None,
        sounds=tuple((codec, int(samples or 0)) for codec, samples in sounds),
        matrix=matrix,
        primaries=primaries,
        rotation=_rotation(beside),
    )
    _check(path, info, budget)
    return info


def _colors(stream: str) -> tuple[str, str, str]:
    """(matrix, primaries, transfer) of a stream, which has one name for all of one standard."""
    if apart := re.search(r"\b([\w-]+)/([\w-]+)/([\w-]+)", stream):
        return apart[1], apart[2], apart[3]
    alike = re.search(r"[(,] ?(bt709|bt470bg|smpte170m|smpte240m)[,)]", stream)
    return (alike[1],) * 3 if alike else ("", "", "")


def _rotation(beside: str) -> float:
    """The degrees that a stream's frames are turned by, of what ffmpeg says behind its line."""
    turned = re.search(r"^ +display ?matrix: rotation of (-?[\d.]+) degrees", beside, re.M | re.I)
    return float(turned[1]) if turned else 0.0


def sound_of(path: Path) -> Sound | None:
    """The first sound of a video that can be read; None where it has none. ValueError for other sound."""
    info = inspect(path)
    if not info.sounds:
        return None
    for track, (codec, rate) in enumerate(info.sounds):
        command = [ffmpeg(), "-v", "error", "-nostdin", *this_file(path)]
        command += ["-map", f"0:a:{track}", "-t", "0.2", "-f", "null", "-"]
        if not subprocess.run(command, capture_output=True, check=False).returncode:
            return Sound(path, codec, track, rate)
    raise ValueError(f"the sound of {path.name} ({info.sound}) cannot be read")


def _rate(stream: str, unit: str) -> float | None:
    found = re.search(rf"([\d.]+)(k?) {unit}", stream)
    if found is None or not float(found[1]):
        return None
    value = float(found[1]) * (1000 if found[2] else 1)
    slow = Fraction(found[1]).limit_denominator(SLOWEST)
    if value < 1 and round(slow, 2) == Fraction(found[1]):
        return float(slow)
    return next((parts / 1001 for parts, rounded in NTSC.items() if rounded == value), value)


def _seconds(hours: str, minutes: str, seconds: str) -> float:
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _check_colors(path: Path, beside: str) -> None:
    """ValueError where ffmpeg says behind a stream's line that its colors are other than it would take."""
    if DOLBY_ALONE.search(beside):
        raise ValueError(
            f"{path.name} is Dolby Vision of a kind that only its own players show: save it as HDR10 or SDR"
        )


def _check(path: Path, info: VideoInfo, budget: Budget) -> None:
    """ValueError where frames would be larger than the budget."""
    if not 1 / MOST_STRETCHED <= info.aspect <= MOST_STRETCHED:
        raise ValueError(
            f"{path.name} has pixels of {info.aspect.numerator}:{info.aspect.denominator}: at most "
            f"{MOST_STRETCHED}:1 is read"
        )
    if max(info.width * info.height, info.shown_pixels) > budget.pixels:
        raise ValueError(
            f"{path.name} has frames of {info.width}×{info.height} pixels: at most "
            f"{budget.pixels // 10**6} million are read; make it smaller first"
        )


# -- its frames


def read_given(settings: Settings, path: str | Path | None = None) -> dict[str, Any]:
    """The picture or the end of the video that `settings` start from, as the pipeline's argument;
    none: empty.

    `path`: where it lies, when not where the settings say. Raises ValueError when it cannot be read.
    """
    s = settings
    if s.image is not None:
        return {"image": read_picture(path or s.image, (s.width, s.height))}
    if s.video is not None:
        frames = read_video(path or s.video, s.width, s.height, fps=s.fps, num_frames=s.num_frames, fit=s.fit)
        return {"video": list(frames)}
    return {}


def read_video(
    path: str | Path, width: int, height: int, *, fps: float, num_frames: int, fit: str = "crop"
) -> np.ndarray:
    """The end of a video at `fps`: its last frames at a size, uint8 (f, h, w, 3).

    f is the largest 1 + 8k that is at most `num_frames` and at most what the file has. Raises ValueError when
    the file is missing, or no video can be read from it.
    """
    frames: deque[np.ndarray] = deque(maxlen=num_frames)
    last = (num_frames + 2) / fps + 1  # seconds, with room for rounding
    for bound in (last, None):  # from the beginning where sound that outlasts the pictures misled the seek
        frames.clear()
        try:
            for picture in read_frames(path, fps=fps, last=bound):
                frames.append(np.asarray(fit_picture(picture, width, height, fit)))
                del picture  # it may be large, and the next one comes
        except ValueError:
            if bound is None:
                raise
        if len(frames) == num_frames:
            break
    usable = 1 + (len(frames) - 1) // FRAMES_PER_UNIT * FRAMES_PER_UNIT
    return np.stack(list(frames)[-usable:])


def read_frames(
    path: str | Path,
    *,
    fps: float | None = None,
    last: float | None = None,
    budget: Budget | None = None,
    info: VideoInfo | None = None,
) -> Iterator[Image.Image]:
    """The frames of a video as RGB pictures, one at a time: upright, deinterlaced, HDR as SDR, over white.

    At `fps`, and only the `last` seconds, if given; a clip that is shorter than a frame at `fps` gives its
    own frames. `info`: what `inspect` said of it, where it was asked before. Raises ValueError when the file
    is missing, no video can be read from it, or the budget is spent.
    """
    path = at_home(path)
    budget = budget or Budget()
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is not a file")
    info = info or inspect(path, budget)
    seek: list[str] = []
    if last is not None and info.duration is not None and info.duration > last:
        seek = ["-ss", f"{info.duration - last:.3f}"]
    count = 0
    with TemporaryFile() as words:  # a pipe would fill up, and stop ffmpeg, at a badly damaged video
        for rate in dict.fromkeys((fps, None)):
            command = [ffmpeg(), "-v", "error", "-nostdin", *seek, *_input(path, budget, *_decoder(info))]
            command += _output(_filters(info, rate))
            for picture in _decode(path, command, words, budget):
                count += 1
                yield picture
                del picture
            if count:
                _check_whole(path, words, count * (info.fps / rate if rate and info.fps else 1))
                return
        words.seek(0)
        reason = _reason(words.read(4096).decode(errors="replace"))
    raise ValueError(f"{path.name} has no frame this program can read{reason}")


def read_frames_from(
    path: str | Path,
    skip: int,
    *,
    fps: float,
    budget: Budget | None = None,
    info: VideoInfo | None = None,
) -> Iterator[Image.Image]:
    """The frames of `read_frames` at `fps` from number `skip` on, and the very ones.

    What lies far in costs no more than what lies in front, where the container has an index and `fps` is
    whole. The seek goes to a whole second a little before, where the grid of `fps` has a frame too and no
    rounding of timestamps can shift it; the frames between are read and dropped.
    """
    path = at_home(path)
    budget = budget or Budget()
    exact = fps == int(fps) and path.is_file() and container_of(path) in INDEXED
    seconds = int(skip / fps - SEEK_MARGIN) if exact else 0
    if seconds < 1:
        yield from islice(read_frames(path, fps=fps, budget=budget, info=info), skip, None)
        return
    info = info or inspect(path, budget)
    command = [ffmpeg(), "-v", "error", "-nostdin", "-ss", str(seconds)]
    command += [*_input(path, budget, *_decoder(info)), *_output(_filters(info, fps, from_zero=True))]
    with TemporaryFile() as words:
        yield from islice(_decode(path, command, words, budget), skip - seconds * int(fps), None)


def _output(chain: str) -> list[str]:
    """ffmpeg's arguments for the pictures of the first video stream, as binary PPM."""
    return ["-an", "-sn", "-dn", "-map", "0:v:0", "-vf", chain, *PPM]


def _decoder(info: VideoInfo) -> list[str]:
    """ffmpeg's own decoders of VP8 and VP9 leave transparency out."""
    names = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
    return ["-c:v", names[info.codec]] if info.alpha and info.codec in names else []


def _filters(info: VideoInfo, fps: float | None, *, from_zero: bool = False) -> str:
    """ffmpeg's filters between the decoder and RGB; `from_zero`: frames are counted from time 0 on."""
    chain = _deinterlaced(info)
    if fps is not None:
        chain += [CLOSE_GAPS, f"fps={fps}:start_time=0" if from_zero else f"fps={fps}"]
    chain += _to_narrow_sdr(info) if info.transfer in HDR or info.primaries in WIDE else _of_hd(info)
    if info.alpha:
        ground = f"drawbox=t=fill:color={BACKGROUND}@1:replace=1"
        chain.append(
            f"format=rgba,split[over][under];[under]{ground}[ground];[ground][over]overlay=format=auto"
        )
    return ",".join([*chain, "scale=iw*sar:ih", "setsar=1"])


def _deinterlaced(info: VideoInfo) -> list[str]:
    """ffmpeg's filters that make whole frames of interlaced ones; else none.

    ffmpeg turns frames before its first filter: these are turned back, for the fields to be rows in order.
    """
    if not info.interlaced or min(info.width, info.height) < LEAST_INTERLACED:
        return []
    back, again = TURNS.get(round(info.rotation) % 360, ("null", "null"))
    return [back, "bwdif=mode=send_frame", again]


def _to_narrow_sdr(info: VideoInfo) -> list[str]:
    """ffmpeg's filters to BT.709 in SDR, of frames in HDR or with colors of a wider space."""
    told = {
        "colorspace": (info.matrix, "bt709" if info.primaries.startswith("smpte") else "bt2020nc"),
        "color_primaries": (info.primaries, "bt2020"),
        "color_trc": (info.transfer, "bt709"),
    }
    usual = [f"{name}={value}" for name, (known, value) in told.items() if known in UNTOLD]
    chain = [f"setparams={':'.join(usual)}"] if usual else []
    if info.width % 2 or info.height % 2:
        chain.append(NOT_HALVED)
    chain.append(TO_SDR if info.transfer in HDR else TO_NARROW)
    return [each.format(a="a" if info.alpha else "") for each in chain]


def _of_hd(info: VideoInfo) -> list[str]:
    """The matrix of frames that do not say it, as players take it: BT.709 from HD on. ffmpeg takes BT.601."""
    hd = info.width >= HD[0] or info.height > HD[1]
    return ["setparams=colorspace=bt709"] if hd and info.matrix in UNTOLD else []


def _decode(path: Path, command: list[str], words: IO[bytes], budget: Budget) -> Iterator[Image.Image]:
    """The pictures that a command of ffmpeg writes, within the budget; the process does not outlive them.
    `words`: a file for its complaints.
    """
    late = threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words) as process:
        assert process.stdout
        stream = process.stdout

        def end() -> None:
            late.set()
            process.kill()

        clock = threading.Timer(budget.seconds, end)
        clock.daemon = True
        clock.start()
        try:
            for count, picture in enumerate(_ppm_pictures(stream, budget), 1):
                if count > budget.frames:
                    raise ValueError(f"{path.name} has more than {budget.frames} frames: give a shorter clip")
                yield picture
        except EOFError:
            cut = True
        else:
            cut = process.wait() < 0
        finally:
            clock.cancel()
            process.kill()
            stream.close()
            process.wait()
        if late.is_set():
            raise ValueError(
                f"{path.name} took longer than {budget.seconds:g} seconds to read: give a shorter clip"
            )
        if cut:
            raise ValueError(f"{path.name} could not be read to its end: the decoder was ended")


def _ppm_pictures(stream: IO[bytes], budget: Budget) -> Iterator[Image.Image]:
    """The pictures of a stream of binary PPM; each brings its size, so rotated videos are no special case.

    Raises ValueError for anything else than 8 bits a channel, EOFError where a picture ends in its middle.
    """
    while magic := stream.readline(64).strip():
        size = stream.readline(64).split()
        depth = stream.readline(64).strip()
        if magic != b"P6" or depth != b"255" or len(size) != 2:
            raise ValueError(
                f"the decoder wrote {magic!r} with values up to {depth!r}: 8-bit RGB is expected"
            )
        width, height = map(int, size)
        if width * height > budget.pixels:
            raise ValueError(f"a frame of {width}×{height} pixels is larger than what is read")
        data = stream.read(width * height * 3)
        if len(data) < width * height * 3:
            raise EOFError
        picture = Image.frombytes("RGB", (width, height), data)
        del data  # it may be large, and so is what is made of the picture
        yield picture
        del picture


def _check_whole(path: Path, words: IO[bytes], frames: float) -> None:
    """ValueError where the decoder complained of most of so many frames: what it made of those is noise."""
    words.seek(0)
    broken = len(BROKEN.findall(words.read(MOST_WORDS)))
    if broken > MOST_BROKEN * max(frames, 1):
        raise ValueError(
            f"{path.name} is damaged or encrypted: most of its frames cannot be decoded; fetch it again, or "
            "save it from a program that plays it"
        )


def _why_not(said: str, budget: Budget) -> str:
    """Why a file of a known container has no video that can be read, by what ffmpeg says of it."""
    streams = re.findall(r"^ {2,4}Stream #0:\d+\S*: (\w+): \S+(.*)", said, re.MULTILINE)
    if any(kind == "Video" and re.search(r", none\b", rest) for kind, rest in streams):
        most = budget.pixels // 10**6
        return f": its frames have more than {most} million pixels, or a form that is not known"
    if streams and all(kind != "Video" for kind, _ in streams):
        return ": it has no pictures" + (
            ", only sound" if any(kind == "Audio" for kind, _ in streams) else ""
        )
    complaints = re.findall(
        r"^\[[^\]]*@ 0x\w+\] (?!Error opening|Codec AVOption|Duplicate).*", said, re.MULTILINE
    )
    return _reason("\n".join(complaints)) if complaints else ": there is nothing in it"


def _reason(said: str) -> str:
    """ffmpeg's last complaint, without its addresses; "" when there is none."""
    if "Impossible to convert" in said or "Unsupported input" in said:
        return ": its colors are of a kind that ffmpeg cannot convert; save it as BT.709 where it plays"
    lines = words_of(said).splitlines()
    lines = [line for line in lines if not line.startswith(("Input #", "At least one output"))]
    return f": {lines[0]}" if lines and "Stream #" not in said else ""
