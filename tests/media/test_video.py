"""Files: odd pictures, fitting, H.264 as frames arrive, names that never overwrite, metadata,
latent previews.
"""

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

from pyramid.media.files import PROGRAM, describe, ffmpeg, publish, read_metadata, reserve
from pyramid.media.pictures import fit_picture, read_picture, write_picture
from pyramid.media.video import VideoWriter
from pyramid.media.video_reader import probe, read_video
from pyramid.settings import Settings

SETTINGS = Settings(prompt='größer = "世界"; # 100 % \\ \n🎈', negative_prompt="a" * 2000, seed=7)
METADATA = describe(SETTINGS, {"name": "embedded/128p"}, timings={"total": 1.5})


def clip(frames=9, width=64, height=48):
    """Halves of steady colors, one of which brightens from frame to frame."""
    video = np.empty((frames, height, width, 3), np.uint8)
    video[:, :, : width // 2] = 200, 40, 30
    video[:, :, width // 2 :] = (20 + 200 * np.arange(frames) // max(1, frames - 1))[:, None, None, None]
    return video


def save_clip(path, video, fps=8, metadata=METADATA):
    with VideoWriter(path, fps, (video.shape[2], video.shape[1]), metadata) as writer:
        writer.write(video)
    return writer.path


# -- pictures
def corners(image):
    """Top left and bottom right pixel."""
    return image.getpixel((0, 0)), image.getpixel((image.width - 1, image.height - 1))


def two_colors(mode, first, last, size=(40, 20)):
    image = Image.new(mode, size, first)
    image.paste(last, (0, 10, *size))
    return image


def odd_pictures():
    red, blue = (255, 0, 0), (0, 0, 255)
    upright = two_colors("RGB", red, blue)
    upside_down = upright.rotate(180)
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180°
    grey16 = np.full((20, 40), 65535, np.uint16)
    grey16[:10] = 32896  # 128 · 257
    palette = upright.convert("P", palette=Image.Palette.ADAPTIVE)
    see_through = two_colors("RGBA", (255, 0, 0, 128), (0, 0, 0, 0))
    keyed = two_colors("L", 0, 77)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return {
        "exif.png": (upside_down, {"exif": exif}, (red, blue)),
        "transparent.png": (see_through, {}, ((255, 127, 127), (255, 255, 255))),
        "transparent.webp": (see_through, {"lossless": True}, ((255, 127, 127), (255, 255, 255))),
        "grey.png": (two_colors("L", 10, 200), {}, ((10,) * 3, (200,) * 3)),
        "grey-alpha.png": (two_colors("LA", (10, 255), (0, 0)), {}, ((10,) * 3, (255,) * 3)),
        "colour-key.png": (keyed, {"transparency": 77}, ((0,) * 3, (255,) * 3)),
        "16-bit.png": (Image.fromarray(grey16), {}, ((128,) * 3, (255,) * 3)),
        "16-bit.tif": (Image.fromarray(grey16), {}, ((128,) * 3, (255,) * 3)),
        "float.tif": (two_colors("F", 0.2, 1.0), {}, ((51,) * 3, (255,) * 3)),
        "bits.png": (two_colors("1", 0, 1), {}, ((0,) * 3, (255,) * 3)),
        "palette.png": (palette, {}, (red, blue)),
        "palette.gif": (palette, {}, (red, blue)),
        "cmyk.tif": (two_colors("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), {}, (red, blue)),
        "profile.png": (upright, {"icc_profile": srgb}, (red, blue)),
        "broken-profile.png": (upright, {"icc_profile": b"nothing of the kind"}, (red, blue)),
        "tiny.png": (Image.new("RGB", (1, 1), red), {}, (red, red)),
    }


@pytest.mark.parametrize("name", odd_pictures())
def test_odd_pictures_are_read_as_they_look(tmp_path, name):
    image, options, expected = odd_pictures()[name]
    image.save(tmp_path / name, **options)
    read = read_picture(tmp_path / name)
    assert read.mode == "RGB" and read.size == image.size
    for pixel, wanted in zip(corners(read), expected, strict=True):
        assert np.abs(np.subtract(pixel, wanted)).max() <= 3, (pixel, wanted)
    assert read_picture((tmp_path / name).read_bytes()).tobytes() == read.tobytes()
    for fit in ("crop", "fit", "pad"):
        fitted = fit_picture(read, 64, 32, fit)
        assert fitted.size == (64, 32) and fitted.mode == "RGB"


def test_a_cmyk_jpeg_keeps_its_colors(tmp_path):
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    red, green, blue = corners(read_picture(tmp_path / "red.jpg"))[0]
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("gone.png", None, "No such file"),
        ("folder", "folder", "is a folder: give a file"),
        ("empty.png", b"", "is empty"),
        ("text.jpg", b"this is text", "not a picture"),
        ("cut.png", "cut png", "cannot be read"),
        ("cut.jpg", "cut jpeg", "truncated"),
        ("bomb.png", "bomb", "million pixels"),
    ],
)
def test_unreadable_pictures_are_refused_in_one_sentence(tmp_path, name, content, words):
    path = tmp_path / name
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    if content == "folder":
        path.mkdir()
    elif content == "bomb":
        noise.save(path)
        data = bytearray(path.read_bytes())
        data[16:24] = struct.pack(">II", 20000, 20000)  # says it has 400 million pixels
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        path.write_bytes(data)
    elif isinstance(content, str):
        noise.save(path, "PNG" if "png" in content else "JPEG")
        path.write_bytes(path.read_bytes()[:2000])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_picture(path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_huge_jpeg_is_decoded_no_larger_than_needed(tmp_path):
    large = Image.linear_gradient("L").resize((3000, 1500)).convert("RGB")
    large.save(tmp_path / "large.jpg")
    whole, draft = read_picture(tmp_path / "large.jpg"), read_picture(tmp_path / "large.jpg", (128, 128))
    assert whole.size == (3000, 1500) and 256 <= min(draft.size) < 500
    difference = np.subtract(fit_picture(whole, 128, 128), fit_picture(draft, 128, 128), dtype=np.float32)
    assert np.abs(difference).mean() < 1


def test_crop_cuts_both_sides_fit_and_pad_show_all():
    image = Image.new("RGB", (300, 100), "green")
    image.paste("red", (0, 0, 100, 100))
    image.paste("blue", (200, 0, 300, 100))
    crop, fit, pad = (fit_picture(image, 60, 60, how) for how in ("crop", "fit", "pad"))
    assert np.abs(np.subtract(crop, (0, 128, 0), dtype=int))[:, 5:-5].max() <= 3
    for whole in (fit, pad):
        middle = [whole.getpixel((x, 30)) for x in (5, 30, 54)]
        assert middle == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]
    assert corners(pad) == ((0, 0, 0), (0, 0, 0)) and min(map(max, corners(fit))) > 30
    assert fit_picture(image, 300, 100, "pad").tobytes() == image.tobytes()
    assert fit_picture(Image.new("RGB", (1, 4000), "red"), 64, 32, "fit").size == (64, 32)
    with pytest.raises(ValueError, match="unknown fit"):
        fit_picture(image, 60, 60, "squeeze")


# -- videos
def test_a_video_is_h264_yuv420p_with_every_frame_and_its_colors(tmp_path):
    video = clip(25)
    path = save_clip(tmp_path / "out.mp4", video)
    said = probe(path)
    # one word where matrix, primaries and transfer are all the same
    assert (
        "Video: h264" in said
        and "yuv420p(tv, bt709, progressive)" in said
        and "64x48" in said
        and "8 fps" in said
    )
    assert list(tmp_path.iterdir()) == [path]
    read = read_video(path, 64, 48, fps=8, num_frames=100)
    assert read.shape == video.shape
    assert np.abs(read.astype(int) - video).mean() < 2.5  # of 255: chroma is halved at the middle
    flat = np.abs(read[:, 8:40, 8:24].astype(int) - video[:, 8:40, 8:24])
    assert flat.max() <= 4


def test_the_index_lies_in_front_so_that_a_browser_can_start_at_once(tmp_path):
    data = save_clip(tmp_path / "out.mp4", clip()).read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_frames_are_encoded_as_they_arrive_and_the_name_comes_last(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", 8, (64, 48)) as writer:
        for frame in np.random.default_rng(0).integers(0, 256, (80, 48, 64, 3), np.uint8):
            writer.write(frame)
        (part,) = tmp_path.iterdir()
        assert part.name.startswith(".") and not (tmp_path / "out.mp4").exists() and writer.frames == 80
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_nothing_stays_after_a_failure_or_without_frames(tmp_path):
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "out.mp4", 8, (64, 48)) as writer:
        writer.write(clip())
        raise RuntimeError
    with VideoWriter(tmp_path / "out.mp4", 8, (64, 48)):
        pass
    with pytest.raises(OSError), VideoWriter(tmp_path / "out.mp4", 8, (64, 48)) as writer:
        writer.write(clip())
        writer._writer.proc.kill()
        writer._writer.proc.wait()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_which_a_terminal_sends_to_all_does_not_end_the_encoder(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", 8, (64, 48)) as writer:
        writer.write(clip())
        os.kill(writer._writer.proc.pid, signal.SIGINT)
        writer.write(clip(16))
    assert len(read_video(tmp_path / "out.mp4", 64, 48, fps=8, num_frames=99)) == 25


@pytest.mark.parametrize("frames", [clip().astype(np.float32), clip(width=32), clip()[..., :2]])
def test_frames_of_another_kind_are_refused(tmp_path, frames):
    with (
        pytest.raises(ValueError, match="expected"),
        VideoWriter(tmp_path / "out.mp4", 8, (64, 48)) as writer,
    ):
        writer.write(frames)


def test_other_endings_and_empty_pictures_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no pixels"):
        VideoWriter(tmp_path / "out.mp4", 8, (64, 0))
    with pytest.raises(ValueError, match=".mp4"):
        VideoWriter(tmp_path / "out.avi", 8, (64, 48))


def test_a_stopped_video_is_marked(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", 8, (64, 48), METADATA) as writer:
        writer.write(clip())
        writer.partial = True
    assert writer.path == tmp_path / "out-partial.mp4"
    assert read_metadata(writer.path) == METADATA | {"partial": True}


def test_the_end_of_a_video_is_read_at_the_models_rate(tmp_path):
    video = clip(121)
    path = save_clip(tmp_path / "long.mp4", video, fps=24)
    read = read_video(path, 64, 48, fps=8, num_frames=19)
    assert read.shape == (17, 48, 64, 3)  # 1 + 8k
    expected = video[120 - 16 * 3 :: 3]
    assert np.abs(read.astype(int) - expected)[:, 8:40, 40:56].max() <= 4
    assert read_video(path, 32, 32, fps=24, num_frames=9, fit="pad").shape == (9, 32, 32, 3)


def test_a_turned_video_is_read_upright(tmp_path):
    path = save_clip(tmp_path / "flat.mp4", clip())
    command = [
        ffmpeg(),
        "-v",
        "error",
        "-display_rotation",
        "90",
        "-i",
        path,
        "-c",
        "copy",
        tmp_path / "up.mp4",
    ]
    subprocess.run(command, check=True)
    read = read_video(tmp_path / "up.mp4", 48, 64, fps=8, num_frames=9)
    colors = {tuple(read[0, 8, 24] > 128), tuple(read[0, 56, 24] > 128)}
    assert colors == {(True, False, False), (False, False, False)}  # above each other now


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("this is text")
    for name in ("gone.mp4", "text.mp4"):
        with pytest.raises(ValueError, match=name):
            read_video(tmp_path / name, 64, 64, fps=8, num_frames=9)


# -- names
def test_names_never_overwrite(tmp_path):
    paths = [save_clip(tmp_path / "out.mp4", clip()) for _ in range(3)]
    assert [path.name for path in paths] == ["out.mp4", "out-2.mp4", "out-3.mp4"]
    stills = [write_picture(tmp_path / "new" / "out.png", clip()[0]) for _ in range(2)]
    assert [path.name for path in stills] == ["out.png", "out-2.png"]


@pytest.fixture
def hasty_threads():
    """Threads that take turns a hundred times as often as they do by default, so that races show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    yield
    sys.setswitchinterval(before)


def test_names_are_unique_when_many_write_at_once(tmp_path, hasty_threads):
    for folder in (tmp_path / str(turn) for turn in range(100)):
        start = threading.Barrier(8)

        def save(number, folder=folder, start=start):
            start.wait()
            part, path = reserve(folder / "out.txt")
            part.write_text(str(number))
            return publish(part, path)

        with ThreadPoolExecutor(8) as pool:
            paths = list(pool.map(save, range(8)))
        assert len(set(paths)) == 8 and set(folder.iterdir()) == set(paths)
        assert [path.read_text() for path in paths] == [str(number) for number in range(8)]


def test_a_name_taken_meanwhile_is_not_replaced(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", 8, (64, 48)) as writer:
        writer.write(clip())
        (tmp_path / "out.mp4").write_text("somebody was faster")
    assert writer.path == tmp_path / "out-2.mp4"
    assert (tmp_path / "out.mp4").read_text() == "somebody was faster"


# -- metadata
def test_settings_come_back_from_a_video_and_from_a_still(tmp_path):
    for path in (
        save_clip(tmp_path / "out.mp4", clip()),
        write_picture(tmp_path / "out.png", clip()[0], METADATA),
    ):
        found = read_metadata(path)
        assert found == METADATA
        assert Settings.from_dict(found["settings"]) == SETTINGS


def test_long_metadata_is_no_problem(tmp_path):
    long = METADATA | {"log": "=;#\\\n" * 20000}
    assert read_metadata(save_clip(tmp_path / "out.mp4", clip(), metadata=long)) == long


def test_files_of_others_hold_no_settings(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "text.mp4").write_text("this is text")
    save_clip(tmp_path / "other.mp4", clip(), metadata={"comment": "of another program"})
    for name in ("plain.png", "text.mp4", "other.mp4"):
        with pytest.raises(ValueError, match="holds no settings"):
            read_metadata(tmp_path / name)
    with pytest.raises(ValueError, match="not a file"):
        read_metadata(tmp_path / "gone.mp4")
    assert json.loads(json.dumps(METADATA)) == METADATA


def test_names_with_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with VideoWriter("12:30.mp4", 8, (64, 64), {"program": PROGRAM, "settings": {}, "seed": 3}) as file:
        file.write(np.zeros((9, 64, 64, 3), np.uint8))
    assert read_metadata("12:30.mp4")["seed"] == 3
    assert len(read_video("12:30.mp4", 64, 64, fps=8, num_frames=9)) == 9


def test_sound_may_last_longer_than_the_pictures(tmp_path):
    path = tmp_path / "long.mp4"
    subprocess.run(
        [
            ffmpeg(),
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            "testsrc=d=2:s=64x64:r=8",
            "-f",
            "lavfi",
            "-i",
            "sine=d=9",
            path,
        ],
        check=True,
    )
    assert len(read_video(path, 64, 64, fps=8, num_frames=9)) == 9


def test_an_encoder_that_dies_is_told_in_its_own_words(tmp_path):
    with (
        pytest.raises(OSError, match="could not be written"),
        VideoWriter(tmp_path / "x.mp4", 8, (64, 64)) as file,
    ):
        file._writer.proc.kill()
        file._writer.proc.wait()
        file.write(np.random.default_rng(0).integers(0, 255, (200, 64, 64, 3), np.uint8))
    assert not list(tmp_path.iterdir())
