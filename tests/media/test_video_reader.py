"""Videos of phones, cameras and strangers: read as a player shows them, or refused in one sentence."""

import json
import math
import re
import struct
import subprocess
import tracemalloc
from contextlib import suppress
from fractions import Fraction
from unittest.mock import Mock
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pyramid.media.export import export
from pyramid.media.files import ffmpeg, read_metadata
from pyramid.media.result import fps_of, frames_of_result
from pyramid.media.video_reader import Budget, inspect, probe, read_frames, read_video

BARS = ["-f", "lavfi", "-i", "smptebars=s=128x96:r=24:d=1"]
MOVING = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=30:d=3"]
TO_HDR = (
    "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709,zscale=t=linear:npl=203,format=gbrpf32le,"
    "zscale=p=bt2020,zscale=t={}:m=bt2020nc:r=tv:npl=203,format=yuv420p10le"
)


def make(path, *arguments):
    subprocess.run([ffmpeg(), "-v", "error", "-y", *arguments, path], check=True)
    return path


def arrays(path, **how):
    return np.stack([np.asarray(picture, int) for picture in read_frames(path, **how)])


@pytest.fixture(scope="module")
def eight_bits(tmp_path_factory):
    path = tmp_path_factory.mktemp("bars") / "bars.mp4"
    return make(path, *BARS, "-pix_fmt", "yuv420p", "-c:v", "libx264")


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("h264.mp4", ["-pix_fmt", "yuv420p10le", "-c:v", "libx264"]),
        ("hevc.mp4", ["-pix_fmt", "yuv422p10le", "-c:v", "libx265", "-x265-params", "log-level=none"]),
        ("prores.mov", ["-pix_fmt", "yuv444p12le", "-c:v", "prores_ks"]),
        ("ffv1.mkv", ["-pix_fmt", "gbrp16le", "-c:v", "ffv1"]),
    ],
)
def test_more_than_eight_bits_a_channel(eight_bits, tmp_path, name, encoder):
    deep, usual = arrays(make(tmp_path / name, *BARS, *encoder)), arrays(eight_bits)
    assert deep.shape == usual.shape == (24, 96, 128, 3)
    assert np.abs(deep - usual).mean() < 6  # edges of color are sharper where chroma is not subsampled


@pytest.mark.parametrize("transfer", ["arib-std-b67", "smpte2084"])
def test_hdr_is_shown_as_sdr(eight_bits, tmp_path, transfer):
    path = tmp_path / "hdr.mp4"
    tags = ["-color_primaries", "bt2020", "-color_trc", transfer, "-colorspace", "bt2020nc"]
    make(
        path,
        *BARS,
        "-vf",
        TO_HDR.format(transfer),
        *tags,
        "-c:v",
        "libx265",
        "-x265-params",
        "log-level=none",
    )
    assert inspect(path).transfer == transfer
    gray, wanted = arrays(path)[0, 10, 5], arrays(eight_bits)[0, 10, 5]
    assert np.abs(gray - wanted).max() <= 12


@pytest.mark.parametrize("primaries", ["smpte432", "bt2020"])
def test_colors_of_a_wide_space_are_those_that_a_screen_shows(tmp_path, primaries):
    """Red stays red: as numbers of BT.709 it would be paler."""
    red = "color=c=0xbf0000:s=64x64:r=8:d=0.3,format=gbrp,setparams=colorspace=gbr:range=pc"
    red += ":color_primaries=bt709:color_trc=bt709"
    matrix = "bt2020nc" if primaries == "bt2020" else "bt709"
    wide = f"zscale=p={primaries}:t=bt709:m={matrix}:r=tv,format=yuv420p10le"
    tags = ["-color_primaries", primaries, "-color_trc", "bt709", "-colorspace", matrix]
    path = make(tmp_path / "wide.mkv", "-f", "lavfi", "-i", red, "-vf", wide, *tags, "-c:v", "ffv1")
    assert np.abs(arrays(path)[0, 20, 20] - (191, 0, 0)).max() <= 4


@pytest.mark.parametrize("transfer", ["iec61966-2-1", "bt470m", "bt709"])
def test_shadows_of_a_wide_space_are_not_lifted(tmp_path, transfer):
    """A screen shows sRGB, gamma 2.2 and BT.709 alike, whatever the primaries are."""
    tags = f"setparams=color_primaries=smpte432:color_trc={transfer}:colorspace=bt709"
    ramp = "color=c=black:s=64x48:r=8:d=0.1,format=yuv444p,geq=lum='X+16':cb=128:cr=128"
    path = make(tmp_path / "p3.mkv", "-f", "lavfi", "-i", f"{ramp},{tags}", "-c:v", "ffv1")
    wanted = (np.arange(64) * 255 / 219)[:, None]  # the range of video is 16 to 235
    assert np.abs(arrays(path)[0, 24] - wanted).max() <= 1


@pytest.fixture(scope="module")
def gray(tmp_path_factory):
    """One frame of (190, 190, 190), as HLG in BT.2020 with all chroma, 63×47."""
    path = tmp_path_factory.mktemp("gray") / "gray.mkv"
    level = "color=c=0xbebebe:s=63x47:r=8:d=0.1,format=gbrp"
    chain = TO_HDR.replace("bt709:colorspace=bt709", "bt709:colorspace=gbr:range=pc").replace("420", "444")
    return make(path, "-f", "lavfi", "-i", level, "-vf", chain.format("arib-std-b67"), "-c:v", "ffv1")


@pytest.mark.parametrize("size", ["63:47", "64:47", "63:48"])
@pytest.mark.parametrize("name", ["odd.webm", "odd.mkv"])
def test_hdr_may_have_odd_sides(gray, tmp_path, size, name):
    encoder = "libvpx-vp9" if name == "odd.webm" else "ffv1"
    halved = f"scale={size},setsar=1,format=yuv420p10le"
    frame = arrays(make(tmp_path / name, "-i", gray, "-vf", halved, "-c:v", encoder))[0]
    assert frame.shape[1::-1] == tuple(map(int, size.split(":")))
    assert np.abs(frame - 190).max() <= 3


@pytest.mark.parametrize("colors", ["bt2020:color_trc=arib-std-b67", "smpte432:color_trc=bt709"])
def test_transparent_parts_of_hdr_and_wide_colors_are_white(gray, tmp_path, colors):
    tags = f"setparams=colorspace=bt709:color_primaries={colors}"
    clear = "format=yuva444p12le,geq=lum='p(X,Y)':a='if(gt(X,31),4095,0)'"
    encoder = ["-c:v", "prores_ks", "-profile:v", "4444"]
    half = arrays(make(tmp_path / "half.mov", "-i", gray, "-vf", f"{clear},{tags}", *encoder))[0]
    whole = arrays(make(tmp_path / "whole.mov", "-i", gray, "-vf", f"format=yuv444p12le,{tags}", *encoder))[0]
    assert half[20, 8].tolist() == [255, 255, 255]
    assert np.abs(half[:, 34:] - whole[:, 34:]).max() <= 1 and whole.max() < 225


@pytest.mark.parametrize(
    ("size", "tags", "matrix"),
    [
        ("1280x96", "unknown", "bt709"),
        ("64x608", "unknown", "bt709"),
        ("720x576", "unknown", "bt601"),
        ("1280x96", "smpte170m", "bt601"),
        ("96x64", "bt709", "bt709"),
    ],
)
def test_a_matrix_that_is_not_told_is_that_of_the_size(tmp_path, size, tags, matrix):
    green = f"color=c=0x00bc00:s={size}:r=8:d=0.1,format=gbrp,scale=out_color_matrix={matrix}:out_range=tv"
    told = f"format=yuv444p,setparams=colorspace={tags}:color_primaries={tags}:color_trc={tags}"
    path = make(tmp_path / "green.mkv", "-f", "lavfi", "-i", f"{green},{told}", "-c:v", "ffv1")
    assert inspect(path).matrix == ("" if tags == "unknown" else tags)
    assert np.abs(arrays(path)[0, 20, 20] - (0, 188, 0)).max() <= 2


def test_colors_that_cannot_be_converted_are_told(eight_bits, tmp_path):
    odd = "h264_metadata=colour_primaries=1:transfer_characteristics=1:matrix_coefficients=8"
    path = make(tmp_path / "odd.mp4", "-i", eight_bits, "-c", "copy", "-bsf:v", odd)
    with pytest.raises(ValueError, match=r"odd.mp4 has no frame .*: its colors are of a kind that"):
        arrays(path)


@pytest.mark.parametrize(("profile", "compatible", "refused"), [(5, 0, True), (8, 1, False), (8, 4, False)])
def test_dolby_vision_needs_colors_that_others_can_show(eight_bits, tmp_path, profile, compatible, refused):
    path, whole = tmp_path / "dolby.mp4", eight_bits.read_bytes()
    start = whole.index(b"pasp") - 4  # two boxes of 36 bytes in all, in place of which stands Dolby's
    assert whole[start + 20 : start + 24] == b"btrt"
    record = bytes([1, 0, profile << 1, 0b1101, compatible << 4])  # version, profile, level and flags
    path.write_bytes(whole[:start] + struct.pack(">I4s28s", 36, b"dvcC", record) + whole[start + 36 :])
    assert f"profile: {profile}, " in probe(path)
    if refused:
        with pytest.raises(ValueError, match=r"dolby\.mp4 is Dolby Vision .* save it as HDR10 or SDR"):
            arrays(path)
    else:
        assert np.array_equal(arrays(path), arrays(eight_bits))


@pytest.mark.parametrize("kind", ["cut", "sound", "noise"])
def test_what_is_no_video_is_not_copied_as_one(eight_bits, tmp_path, kind):
    path, whole = tmp_path / "clip.mp4", eight_bits.read_bytes()
    if kind == "sound":
        make(path, "-f", "lavfi", "-i", "sine=d=0.2", "-c:a", "aac")
    else:
        index = whole.rindex(b"moov") - 4  # it lies behind the frames
        noise = b"\x5a" * (index - 60)
        path.write_bytes(whole[: index // 2] if kind == "cut" else whole[:60] + noise + whole[index:])
    with pytest.raises(ValueError, match=r"clip.mp4.* (is not a video|has no frame)") as told:
        export(path, "mp4", tmp_path / "out.mp4")
    assert "could not be embedded" not in str(told.value) and not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(("fps", "rate"), [(8, 24), (8, 30), (24, 60)])
def test_a_clip_of_one_frame_gives_it(tmp_path, fps, rate):
    path = make(tmp_path / "one.mp4", "-f", "lavfi", "-i", f"smptebars=s=64x64:r={rate}", "-frames:v", "1")
    assert read_video(path, 64, 64, fps=fps, num_frames=9).shape == (1, 64, 64, 3)


def test_transparent_parts_are_white_as_those_of_pictures(tmp_path):
    half = "color=red:s=64x64:r=8:d=1,format=yuva420p,geq=lum='p(X,Y)':a='if(gt(X,31),255,0)'"
    for name, encoder in (("a.webm", ["-c:v", "libvpx-vp9"]), ("a.mov", ["-c:v", "qtrle"])):
        frame = arrays(make(tmp_path / name, "-f", "lavfi", "-i", half, *encoder))[0]
        assert np.abs(frame[5, 5] - 255).max() < 6 and frame[5, 60, 0] > 200 > 60 > frame[5, 60, 1], name


def test_interlaced_frames_are_joined(tmp_path):
    path = make(
        tmp_path / "i.mpg",
        *MOVING,
        "-vf",
        "interlace",
        "-c:v",
        "mpeg2video",
        "-flags",
        "+ildct+ilme",
        "-q:v",
        "2",
    )
    assert inspect(path).interlaced
    frames = arrays(path)
    combs = np.abs(frames[:, 1:-1] - (frames[:, :-2] + frames[:, 2:]) / 2).mean()
    raw = subprocess.run(
        [ffmpeg(), "-v", "error", "-i", path, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"], capture_output=True
    ).stdout
    rows = np.frombuffer(raw, np.uint8).reshape(-1, 48, 64, 3).astype(int)
    assert len(frames) == len(rows)
    assert combs < np.abs(rows[:, 1:-1] - (rows[:, :-2] + rows[:, 2:]) / 2).mean()


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_interlaced_frames_that_are_turned_are_joined_alike(tmp_path, degrees):
    fields = ["-vf", "interlace,format=yuv420p", "-c:v", "libx264", "-flags", "+ildct+ilme"]
    flat = make(tmp_path / "flat.mp4", *MOVING, "-t", "0.5", *fields)
    turned = tmp_path / "turned.mp4"
    make(turned, "-display_rotation", str(degrees), "-i", flat, "-c", "copy")
    assert inspect(turned).interlaced
    assert np.array_equal(arrays(turned), np.rot90(arrays(flat), degrees // 90, axes=(1, 2)))


@pytest.mark.parametrize("size", ["16x2", "4x16", "16x6"])
def test_interlaced_frames_that_are_too_small_to_join_are_read(tmp_path, size):
    small = ["-f", "lavfi", "-i", f"color=c=0x00bc00:s={size}:r=8:d=0.3,format=yuv420p,setfield=tff"]
    path = make(tmp_path / "small.mkv", *small, "-c:v", "ffv1")
    assert inspect(path).interlaced and np.abs(arrays(path) - (0, 188, 0)).max() <= 2


def test_an_export_of_unevenly_spaced_frames_lasts_as_long(tmp_path):
    uneven = "select='if(lt(t,1),not(mod(n,5)),1)'"
    source = make(tmp_path / "vfr.mp4", *MOVING, "-vf", uneven, "-fps_mode", "vfr")
    for kind in ("webm", "gif"):
        made = export(source, kind, tmp_path / f"out.{kind}")
        assert inspect(made).duration == pytest.approx(inspect(source).duration, abs=0.1)


@pytest.mark.parametrize("rate", ["1/3", "2/3", "1/7", "1/8", "0.5", "1/10", "24000/1001", "29"])
def test_a_rate_is_not_the_rounded_one(tmp_path, rate):
    path = make(tmp_path / "slow.mp4", "-f", "lavfi", "-i", f"testsrc=s=64x48:r={rate}", "-frames:v", "4")
    info = inspect(path)
    assert info.fps == info.rate == pytest.approx(float(Fraction(rate)), rel=1e-12)


def test_a_data_track_does_not_keep_a_video_from_being_copied(tmp_path):
    source = make(tmp_path / "camera.mp4", *BARS, "-timecode", "10:00:00:00", "-c:v", "libx264")
    assert "Data:" in probe(source)
    made = export(source, "mp4", tmp_path / "copy.mp4")
    assert np.array_equal(arrays(made), arrays(source))


@pytest.fixture(scope="module")
def two_sounds(tmp_path_factory):
    """Two sound tracks, of 44,100 and of 22,050 samples a second."""
    sounds = ["-f", "lavfi", "-i", "sine=d=1", "-f", "lavfi", "-i", "sine=d=1:sample_rate=22050"]
    maps = ["-map", "0", "-map", "1", "-map", "2", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-c:a", "aac"]
    return make(tmp_path_factory.mktemp("sounds") / "two.mp4", *BARS, *sounds, *maps)


@pytest.mark.parametrize(("unknown", "kept"), [(0, "22050 Hz"), (1, "44100 Hz")])
def test_sound_that_mp4_has_not_keeps_no_video_from_being_copied(two_sounds, tmp_path, unknown, kept):
    content, told = bytearray(two_sounds.read_bytes()), []
    for name, other in ((b"mp4a", b"zzzz"), (b"esds", b"dapa")):
        at = [found.start() for found in re.finditer(name, content)][unknown]
        content[at : at + 4] = other
    path = tmp_path / "phone.mp4"
    path.write_bytes(content)
    made = export(path, "mp4", tmp_path / "copy.mp4", tell=told.append)
    assert np.array_equal(arrays(made), arrays(two_sounds))
    assert kept in probe(made) and probe(made).count("Audio:") == 1
    assert len(told) == 1 and "cannot hold all that is in phone.mp4" in told[0]
    told.clear()
    assert inspect(export(path, "webm", tmp_path / "clip.webm", tell=told.append)).sound == "opus"
    assert told == []


def test_all_sounds_of_an_mp4_are_copied(two_sounds, tmp_path):
    assert probe(export(two_sounds, "mp4", tmp_path / "copy.mp4")).count("Audio: aac") == 2


@pytest.mark.parametrize(
    "form",
    [
        ["-c:v", "libvpx", "-f", "webm"],
        ["-c:v", "prores_ks", "-f", "mov"],
        ["-f", "gif"],
        ["-c:v", "wmv2", "-f", "asf"],
        ["-f", "apng"],
    ],
    ids=["webm", "prores", "gif", "wmv", "apng"],
)
def test_what_is_only_called_an_mp4_becomes_one(tmp_path, form):
    path = make(tmp_path / "called.mp4", *BARS, "-t", "0.5", *form)
    made = export(path, "mp4")
    assert made.name == "called-2.mp4" and "Video: h264" in probe(made) and len(arrays(made)) == 12


@pytest.mark.parametrize(("rate", "codec"), [(11025, "aac"), (16000, "mp3"), (44100, "mp3")])
def test_slow_mp3_is_encoded_anew_for_an_mp4(tmp_path, rate, codec):
    sound = ["-f", "lavfi", "-i", f"sine=d=1:sample_rate={rate}", "-c:a", "libmp3lame"]
    path = make(tmp_path / "old.avi", *BARS, *sound, "-c:v", "mpeg4")
    made = export(path, "mp4")
    assert inspect(made).sound == codec and f"{rate} Hz" in probe(made)


@pytest.fixture(scope="module")
def odd_and_loud(tmp_path_factory):
    """Pictures of 65×49, which begin half a second after the sound does."""
    path = tmp_path_factory.mktemp("odd") / "odd.mkv"
    picture = ["-itsoffset", "0.5", "-f", "lavfi", "-i", "testsrc=s=65x49:r=8:d=2"]
    sound = ["-f", "lavfi", "-i", "aevalsrc=if(lt(t\\,0.5)\\,0\\,sin(2000*t)):d=2.5"]
    return make(path, *picture, *sound, "-c:v", "ffv1", "-c:a", "flac")


def volume(path, *part):
    """The loudest moment of a part, in decibels."""
    command = [ffmpeg(), *part, "-i", path, "-vn", "-af", "volumedetect", "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    return float(re.search(r"max_volume: (\S+) dB", said)[1])


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "aac"), ("webm", "opus")])
def test_an_export_keeps_the_sound_beside_its_pictures_and_pads_odd_sides(
    odd_and_loud, tmp_path, kind, codec
):
    told = []
    info = inspect(export(odd_and_loud, kind, tmp_path / f"out.{kind}", tell=told.append))
    assert (info.width, info.height, info.sound, told) == (66, 50, codec, [])
    assert info.duration == pytest.approx(2.5, abs=0.15)
    made = tmp_path / f"out.{kind}"
    assert volume(made, "-t", "0.4") < -40 < -20 < volume(made, "-ss", "0.6")
    first = arrays(made)
    assert np.abs(first[0] - first[3]).mean() < 4 < np.abs(first[0] - first[8]).mean()


def test_the_padding_is_the_edge_again(odd_and_loud, tmp_path):
    made = arrays(export(odd_and_loud, "mp4", tmp_path / "out.mp4", quality=1))
    assert made.shape == (20, 50, 66, 3)
    luma = np.array([0.2126, 0.7152, 0.0722])  # chroma is halved
    assert np.abs((made[:, :49, :65] - arrays(odd_and_loud, fps=8)) @ luma).mean() < 6
    assert (
        np.abs(made[:, 49] - made[:, 48]).mean() < 12 and np.abs(made[:, :, 65] - made[:, :, 64]).mean() < 12
    )


@pytest.mark.parametrize("kind", ["gif", "png", "last"])
def test_a_form_without_sound_says_so_and_keeps_odd_sides(odd_and_loud, tmp_path, kind):
    told = []
    ending = {"png": "zip", "last": "png"}.get(kind, kind)
    path = export(odd_and_loud, kind, tmp_path / f"out.{ending}", tell=told.append)
    assert told == [f"odd.mkv has sound, which is left out: as {kind} it has pictures only"]
    if kind == "gif":
        assert inspect(path).width == 65


def test_a_picture_in_place_of_a_video_is_told_where_it_belongs(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    with pytest.raises(ValueError, match="not a video this program can read.* picture is given as image"):
        read_video(tmp_path / "photo.jpg", 64, 64, fps=8, num_frames=9)


@pytest.mark.parametrize("kind", ["webm", "gif", "png", "last"])
def test_what_is_no_video_has_no_sound_that_is_left_out(tmp_path, kind):
    path, told = tmp_path / "zero.mp4", []
    path.touch()
    with pytest.raises(ValueError, match="zero.mp4.* is not a video"):
        export(path, kind, tell=told.append)
    assert told == []


def test_a_file_that_ends_early_is_read_or_told_without_addresses(eight_bits, tmp_path):
    whole = eight_bits.read_bytes()
    for length in (0, 40, len(whole) // 2, len(whole) - 30):
        path = tmp_path / "cut.mp4"
        path.write_bytes(whole[:length])
        try:
            assert len(list(read_frames(path))) <= 24
        except ValueError as error:
            assert "0x" not in str(error) and "cut.mp4" in str(error)


def test_a_decoder_that_is_ended_is_no_shorter_clip(eight_bits, monkeypatch):
    """As when memory runs out and the system ends the largest process."""
    import pyramid.media.video_reader as reader

    decode = reader._ppm_pictures

    def broken(stream, budget):
        pictures = decode(stream, budget)
        yield next(pictures)
        raise EOFError  # what a picture without its second half is

    monkeypatch.setattr(reader, "_ppm_pictures", broken)
    with pytest.raises(ValueError, match=r"bars\.mp4 could not be read to its end"):
        list(read_frames(eight_bits))


@pytest.mark.parametrize("profile", [b"", np.random.default_rng(0).bytes(2000)])
def test_an_animated_png_is_a_video_whatever_stands_in_front(tmp_path, profile):
    path = tmp_path / "moves.png"
    first, *others = (Image.new("RGB", (32, 24), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250)))
    first.save(path, save_all=True, append_images=others, duration=100, icc_profile=profile)
    assert (path.read_bytes().index(b"acTL") < 400) == (not profile)
    assert arrays(path)[:, 5, 5].tolist() == [[250, 0, 0], [0, 250, 0], [0, 0, 250]]


def test_a_png_that_tells_of_an_animation_is_none(tmp_path):
    path, text = tmp_path / "still.png", PngInfo()
    text.add_text("Comment", "acTL")
    Image.new("RGB", (32, 24)).save(path, pnginfo=text)
    with pytest.raises(ValueError, match="not a video this program can read"):
        inspect(path)


def test_words_of_a_title_are_no_description_of_the_file(eight_bits, tmp_path):
    title = "Stream #0:0: Video: vp9, yuva420p, 2x2 [SAR 30:1] Duration: 99:00:00.00 alpha_mode : 1"
    titled = make(tmp_path / "titled.mp4", "-i", eight_bits, "-c", "copy", "-metadata", f"title={title}")
    assert title[:20] in probe(titled)
    told, plain = inspect(titled), inspect(eight_bits)
    assert (told.width, told.codec, told.alpha, told.duration) == (plain.width, "h264", False, plain.duration)


def test_a_description_that_is_not_understood_is_refused(eight_bits, monkeypatch):
    import pyramid.media.video_reader as reader

    said = probe(eight_bits).replace("yuv420p", "?")
    monkeypatch.setattr(reader, "probe", lambda *_: said)
    with pytest.raises(ValueError, match="not a video this program can read"):
        inspect(eight_bits)


# -- what strangers send

LISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{secret}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {secret}\n",
    "plain concat": "file '{secret}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "dash": '<?xml version="1.0"?><MPD><Period><BaseURL>{secret}</BaseURL></Period></MPD>',
    "imf": '<?xml version="1.0"?><AssetMap><Path>{secret}</Path></AssetMap>',
    "playlist": "[playlist]\nFile1={secret}\n",
    "subtitles": "1\n00:00:00,000 --> 00:00:01,000\nhello\n",
    "avisynth": 'AviSource("{secret}")\n',
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.m3u8", "clip%03d.png", "clip.ffconcat"])
def test_a_list_of_other_files_is_never_followed(eight_bits, tmp_path, kind, name):
    path = tmp_path / name
    path.write_text(LISTS[kind].format(secret=eight_bits))
    for read in (inspect, lambda path: list(read_frames(path)), read_metadata):
        with pytest.raises(ValueError) as refused:
            read(path)
        assert "0x" not in str(refused.value)


def test_a_name_that_is_a_pattern_or_an_option_is_a_name(eight_bits, tmp_path):
    for name in ("%03d.mp4", "-i.mp4", "a:b.mp4", "concat:x.mp4", "ü|ö.mp4"):
        path = tmp_path / name
        path.write_bytes(eight_bits.read_bytes())
        assert len(list(read_frames(path))) == 24


def test_a_gap_of_a_day_between_frames_costs_no_day(tmp_path):
    path = make(
        tmp_path / "gap.mkv",
        "-f",
        "lavfi",
        "-i",
        "testsrc=s=64x64:r=8:d=3",
        "-vf",
        "setpts='PTS+if(gte(N,10),100000/TB,0)'",
        "-fps_mode",
        "passthrough",
    )
    frames = [np.asarray(picture) for picture in read_frames(path, fps=8)]
    assert 9 + 60 * 8 <= len(frames) <= 9 + 61 * 8 + 15
    with pytest.raises(ValueError, match="more than 100 frames"):
        list(read_frames(path, fps=8, budget=Budget(frames=100)))
    assert read_video(path, 64, 64, fps=8, num_frames=9).shape == (9, 64, 64, 3)


def test_a_decoder_that_takes_too_long_is_ended(eight_bits):
    frames = read_frames(eight_bits, fps=100_000, budget=Budget(seconds=0.5))
    with pytest.raises(ValueError, match=r"longer than 0\.5 seconds|more than"):
        for _ in frames:
            pass


def test_frames_that_are_too_large_are_refused_from_the_header(tmp_path):
    wide = make(tmp_path / "wide.mp4", *BARS, "-vf", "setsar=30")
    with pytest.raises(ValueError, match="30:1"):
        next(read_frames(wide))
    large = make(tmp_path / "large.mp4", *BARS)
    with pytest.raises(ValueError, match="128×96 pixels"):
        next(read_frames(large, budget=Budget(pixels=10_000)))


def test_a_zip_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path):
    from zipfile import ZIP_DEFLATED, ZipFile

    path = tmp_path / "bomb.zip"
    with (
        ZipFile(path, "w", ZIP_DEFLATED) as file,
        file.open("settings.json", "w", force_zip64=True) as member,
    ):
        for _ in range(64):
            member.write(bytes(2**20))
    with pytest.raises(ValueError, match="holds no settings"):
        read_metadata(path)


def test_settings_that_are_nested_without_end_are_none(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="holds no settings"):
        read_metadata(path)


# -- what looks like a video, or says of itself what it is not


@pytest.mark.parametrize("transfer", ["arib-std-b67", "smpte2084"])
def test_hdr_that_does_not_say_its_colors_is_read_as_the_usual_kind(tmp_path, transfer):
    found = []
    for name, colors in (
        ("told", "color_primaries=bt2020:colorspace=bt2020nc"),
        ("untold", "color_primaries=unknown:colorspace=unknown"),
    ):
        tags = f"setparams={colors}:color_trc={transfer}:range=tv"
        path = make(tmp_path / f"{name}.mkv", *BARS, "-vf", f"format=yuv420p10le,{tags}", "-c:v", "ffv1")
        found.append(arrays(path))
    assert inspect(path).primaries == "unknown" and np.array_equal(*found)


def test_a_tag_of_a_codec_is_no_size(tmp_path):
    """MPEG-2 in a transport stream: ([2][0][0][0] / 0x0002), 128x96."""
    path = make(tmp_path / "tv.ts", *BARS, "-c:v", "mpeg2video")
    assert re.search(r"/ 0x0002\)", probe(path))
    assert (inspect(path).width, inspect(path).height) == (128, 96)


def test_an_encrypted_video_is_no_noise(tmp_path):
    key = "76a6c65c5ea762046bd749a2e632ccbb"
    scheme = ["-encryption_scheme", "cenc-aes-ctr", "-encryption_key", key, "-encryption_kid", key]
    path = make(tmp_path / "film.mp4", *BARS, "-c:v", "libx264", *scheme)
    late = make(tmp_path / "late.mp4", *BARS, "-c:v", "libx264", *scheme, "-movflags", "+faststart")
    for each in (path, late):
        with pytest.raises(ValueError, match=f"{each.name} is encrypted: save it from a program"):
            list(read_frames(each))


def test_a_recording_that_begins_in_the_middle_is_read(tmp_path):
    path = make(tmp_path / "tv.ts", *MOVING, "-c:v", "libx264", "-g", "30", "-pix_fmt", "yuv420p")
    whole = path.read_bytes()
    (tmp_path / "late.ts").write_bytes(whole[188 * 40 : 188 * 40 + len(whole) // 188 * 188])
    assert 10 < len(list(read_frames(tmp_path / "late.ts", fps=8))) <= 24


@pytest.mark.parametrize(
    ("name", "made", "words"),
    [
        ("sound.mkv", ["-f", "lavfi", "-i", "sine=d=1"], "it has no pictures, only sound"),
        ("none.mp4", [*BARS, "-frames:v", "0"], "there is nothing in it"),
        (
            "poster.mkv",
            ["-f", "lavfi", "-i", "color=s=8000x8000:r=1:d=1", "-c:v", "png"],
            "frames have more than 36 million pixels",
        ),
    ],
)
def test_why_a_file_has_no_video_is_told(tmp_path, name, made, words):
    with pytest.raises(ValueError, match=words):
        inspect(make(tmp_path / name, *made))


# -- what a foreign file says of itself


def says(path, **metadata):
    """The video again, with metadata as if this program had made it."""
    told = path.with_name("says.mp4")
    text = json.dumps({"program": "pyramid", "model": {}, **metadata})
    return make(told, "-i", path, "-c", "copy", "-metadata", f"comment={text}")


@pytest.mark.parametrize("settings", [None, [], "x", 5])
def test_metadata_without_a_table_of_settings_is_none_of_ours(eight_bits, tmp_path, settings):
    path = says(make(tmp_path / "a.mp4", "-i", eight_bits, "-c", "copy"), settings=settings)
    with pytest.raises(ValueError, match="holds no settings of this program"):
        read_metadata(path)
    assert export(path, "webm").is_file()


@pytest.mark.parametrize("fps", ["8[a];movie=/etc/passwd[a]", -1, 0, 10**9, True, [8], None, "8"])
def test_a_foreign_rate_is_a_number_or_nothing(fps):
    """It becomes a part of ffmpeg's filters, which can open files."""
    assert fps_of({"settings": {"fps": fps}}) is None and fps_of({"settings": {"fps": 12}}) == 12


def test_numbers_that_json_has_not_keep_no_export_from_being_made(eight_bits, tmp_path):
    path = says(make(tmp_path / "a.mp4", "-i", eight_bits, "-c", "copy"), settings={"fps": math.nan})
    assert "NaN" in probe(path)
    made = export(path, "mp4", keep="sidecar")
    assert made.is_file() and "NaN" not in made.with_name(f"{made.name}.json").read_text()


@pytest.mark.parametrize(
    ("member", "words"),
    [(b"no picture", "not a picture this program can read"), (None, "has 600 MB, too much for a picture")],
)
def test_a_foreign_zip_of_pictures_is_read_with_the_same_care(tmp_path, member, words, monkeypatch):
    path = tmp_path / "pictures.zip"
    with ZipFile(path, "w", ZIP_DEFLATED) as file:
        file.writestr("0001.PNG", member or b"")
    if member is None:
        monkeypatch.setattr("pyramid.media.result.ZipFile.getinfo", lambda *_: Mock(file_size=600_000_000))
    with pytest.raises(ValueError, match=words):
        list(frames_of_result(path))


def test_a_picture_that_is_called_a_png_is_no_program(tmp_path):
    path = tmp_path / "still.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file pop\n")
    with pytest.raises(ValueError, match="not a picture this program can read"):
        export(path, "png", tmp_path / "other.png")


def test_a_title_of_any_length_is_not_held_in_memory(eight_bits, tmp_path):
    title = tmp_path / "title.txt"
    title.write_text(";FFMETADATA1\ntitle=" + "a" * 8_000_000 + "\n")
    path = make(tmp_path / "titled.mkv", "-i", eight_bits, "-i", title, "-map_metadata", "1", "-c", "copy")
    tracemalloc.start()
    try:
        for read in (inspect, read_metadata):
            with suppress(ValueError):  # nothing of ours is in it
                read(path)
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()
