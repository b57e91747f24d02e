"""What users of such tools complained of in public: the tests of what is right for each case of the log.

Cases that no other room tests are tested here.
"""

import ast
import io
import os
import signal
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from helpers import ROOT, end, program
from PIL import Image

import app
from pyramid.media.export import export
from pyramid.media.files import ffmpeg, read_metadata
from pyramid.media.pictures import read_picture
from pyramid.media.video import VideoWriter
from pyramid.media.video_reader import inspect, read_frames, read_video

READER, PICTURES, VIDEO = "media/test_video_reader.py", "media/test_pictures.py", "media/test_video.py"
EXPORT, TERMINAL, LISTS = "media/test_export.py", "commands/test_terminal.py", "commands/test_list_files.py"
HABITS, PIPELINE, HERE = "generate/test_habits.py", "generate/test_pipeline.py", "test_field_cases.py"
FAULTS, CLI, WORKER = "commands/test_faults.py", "commands/test_cli.py", "jobs/test_worker.py"

CASES = {  # number -> tests
    1: [f"{READER}::test_more_than_eight_bits_a_channel"],
    2: [f"{READER}::test_hdr_is_shown_as_sdr"],
    3: [f"{PICTURES}::test_an_odd_tag_changes_nothing"],
    4: [f"{PICTURES}::test_an_odd_tag_changes_nothing"],
    5: [
        f"{PICTURES}::test_an_odd_tag_changes_nothing",
        f"{HERE}::test_05_orientation_counts_in_every_format",
    ],
    6: [f"{READER}::test_a_clip_of_one_frame_gives_it"],
    7: [f"{READER}::test_an_export_of_unevenly_spaced_frames_lasts_as_long"],
    8: [f"{HERE}::test_08_unevenly_spaced_frames_are_read_at_the_right_speed"],
    9: [
        f"{READER}::test_a_data_track_does_not_keep_a_video_from_being_copied",
        f"{HERE}::test_09_a_video_of_a_camera_is_read_and_exported",
    ],
    10: [f"{READER}::test_transparent_parts_are_white_as_those_of_pictures"],
    11: [f"{READER}::test_interlaced_frames_are_joined"],
    12: [f"{VIDEO}::test_a_turned_video_is_read_upright"],
    13: [
        f"{READER}::test_a_file_that_ends_early_is_read_or_told_without_addresses",
        f"{VIDEO}::test_sound_may_last_longer_than_the_pictures",
        f"{HERE}::test_13_what_is_no_video_is_told_with_a_reason",
    ],
    14: [
        f"{READER}::test_a_name_that_is_a_pattern_or_an_option_is_a_name",
        f"{HERE}::test_14_tiny_and_long_pictures_and_odd_names",
    ],
    16: [f"{PICTURES}::test_a_heic_picture_names_the_way_out"],
    17: [
        f"{VIDEO}::test_odd_pictures_are_read_as_they_look",
        f"{PICTURES}::test_the_profile_of_a_gray_picture_counts_in_every_mode",
    ],
    18: [f"{HERE}::test_18_19_the_page_starts_behind_a_dead_proxy_and_at_ipv6"],
    19: [
        f"{HERE}::test_18_19_the_page_starts_behind_a_dead_proxy_and_at_ipv6",
        "ui/test_security.py::test_an_address_that_is_none_is_told_at_once",
    ],
    21: [
        "ui/test_app.py::test_a_port_that_is_taken_is_told",
        f"{HERE}::test_21_variables_of_gradio_are_named",
    ],
    22: [f"{HERE}::test_22_a_page_below_another_address"],
    23: [
        f"{TERMINAL}::test_ctrl_c_while_the_model_loads_ends_within_three_seconds",
        f"{HERE}::test_23_ctrl_c_ends_the_page_while_the_model_loads",
    ],
    24: [
        f"{TERMINAL}::test_a_tilde_after_an_equals_sign_is_the_home_folder",
        f"{TERMINAL}::test_every_flag_of_a_path_knows_the_home_folder",
        f"{LISTS}::test_a_tilde_in_a_list_is_the_home_folder",
        f"{HABITS}::test_a_tilde_is_the_home_folder_in_python_too",
    ],
    25: [
        f"{TERMINAL}::test_no_encoding_turns_success_into_an_error",
        f"{TERMINAL}::test_a_video_made_under_a_narrow_encoding_is_told",
    ],
    26: [
        f"{FAULTS}::test_a_folder_that_cannot_be_written",
        f"{HERE}::test_26_a_machine_without_a_language_or_a_home",
    ],
    27: [f"{HERE}::test_27_two_programs_on_one_folder"],
    28: [f"{FAULTS}::test_a_run_waits_for_a_full_disk_and_goes_on_with_what_is_finished"],
    29: [
        "ui/test_app.py::test_what_runs_is_taken_up_again_at_the_next_start_and_the_queue_survives",
        f"{WORKER}::test_after_a_kill_the_job_is_taken_up_again_and_the_queue_goes_on",
        "jobs/test_jobs.py::test_what_the_end_of_the_program_cut_off_is_taken_up_once_without_progress",
        f"{TERMINAL}::test_a_closed_terminal_leaves_no_empty_file",
    ],
    30: [f"{HERE}::test_30_a_busy_program_beside_it_takes_its_share_and_no_more"],
    31: [f"{HABITS}::test_numbers_of_numpy_and_torch_mean_what_pythons_mean"],
    32: [f"{HABITS}::test_a_copy_makes_the_same"],
    33: [f"{HABITS}::test_a_compiled_transformer_is_used_and_can_be_saved"],
    34: [
        f"{HABITS}::test_options_of_loading_are_taken",
        f"{HABITS}::test_options_of_loading_that_cannot_be_followed_name_the_way_out",
        f"{HABITS}::test_saving_in_either_form_loads_again",
    ],
    35: [
        f"{HABITS}::test_several_videos_of_each_prompt_stand_beside_each_other",
        f"{HABITS}::test_arguments_of_other_pipelines_may_be_left_at_none",
        f"{HABITS}::test_memory_of_decoding_is_bounded_as_in_diffusers",
    ],
    36: [
        f"{HABITS}::test_a_callback_reads_how_far_it_is_and_stops",
        f"{HABITS}::test_guidance_can_be_cut_off_on_the_way",
    ],
    37: [
        f"{HABITS}::test_a_picture_is_taken_in_every_form",
        f"{HABITS}::test_a_clip_is_taken_in_every_form",
    ],
    39: [
        f"{PIPELINE}::test_output_types_hold_the_same_frames",
        f"{PIPELINE}::test_runs_side_by_side_do_not_meet",
        f"{PIPELINE}::test_saved_and_read_again_it_is_the_same",
    ],
    40: [f"{HABITS}::test_bfloat16_on_a_processor_without_it_is_told"],
    41: [f"{FAULTS}::test_weights"],
    42: [
        "generate/test_odd_checkpoints.py::test_weights_of_torch_are_read_in_its_old_form_too",
        "generate/test_odd_checkpoints.py::test_a_prefix_that_all_names_have_is_left_out_and_told",
        "generate/test_odd_checkpoints.py::test_weights_under_another_name_are_named_with_the_way_out",
        "generate/test_odd_checkpoints.py::test_weights_that_are_no_numbers_are_told",
    ],
    43: ["commands/test_batch.py::test_what_is_wrong_is_told_with_its_line_before_anything_runs"],
    44: [
        f"{LISTS}::test_a_list_says_the_same_in_every_form",
        f"{LISTS}::test_what_is_wrong_is_told_with_its_line",
    ],
    45: [f"{HERE}::test_45_a_prompt_of_any_signs_comes_back_from_a_video"],
    47: [f"{VIDEO}::test_a_video_is_h264_yuv420p_with_every_frame_and_its_colors"],
    48: [
        f"{READER}::test_an_export_keeps_the_sound_beside_its_pictures_and_pads_odd_sides",
        f"{READER}::test_a_form_without_sound_says_so_and_keeps_odd_sides",
    ],
    49: [
        "test_settings.py::test_what_lies_outside_training_is_said",
        f"{CLI}::test_what_is_outside_training_is_noted",
    ],
    50: [f"{FAULTS}::test_a_step_that_overflows_is_taken_again_in_float32"],
    51: [
        f"{READER}::test_the_padding_is_the_edge_again",
        f"{READER}::test_a_form_without_sound_says_so_and_keeps_odd_sides",
    ],
    52: [f"{VIDEO}::test_odd_pictures_are_read_as_they_look", f"{HERE}::test_52_a_zoo_of_containers"],
    53: [
        f"{VIDEO}::test_the_index_lies_in_front_so_that_a_browser_can_start_at_once",
        f"{EXPORT}::test_a_gif_keeps_its_pace_and_repeats",
    ],
}
NUMBERS = set(range(1, 54)) - {15, 20, 38, 46}  # as the log has them
ELSEWHERE = {30: "one busy program beside it: how threads wait is measured, and no test asserts seconds"}


def test_every_case_has_its_tests_and_they_exist():
    assert set(CASES) | set(ELSEWHERE) == NUMBERS
    for test in {test for tests in CASES.values() for test in tests}:
        file, _, name = test.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        assert any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body), test


def make(path, *arguments):
    subprocess.run([ffmpeg(), "-v", "error", "-y", *arguments, path], check=True)
    return path


MOVING = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=24:d=1"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_05_orientation_counts_in_every_format(kind):
    image, out = Image.new("RGB", (48, 32)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(out, kind, exif=exif)
    assert read_picture(out.getvalue()).size == (32, 48)


def test_08_unevenly_spaced_frames_are_read_at_the_right_speed(tmp_path):
    uneven = "select='if(lt(t,0.5),not(mod(n,6)),1)'"
    path = make(tmp_path / "vfr.mp4", *MOVING, "-vf", uneven, "-fps_mode", "vfr")
    assert len(list(read_frames(path, fps=8))) == pytest.approx(8, abs=1)


def test_09_a_video_of_a_camera_is_read_and_exported(tmp_path):
    """Its tracks refer to each other, and are described as a group."""
    path = make(tmp_path / "camera.mp4", *MOVING, "-timecode", "01:00:00:00", "-c:v", "libx264")
    assert inspect(path).width == 64 and len(list(read_frames(path))) == 24
    for kind in ("mp4", "webm"):
        assert len(list(read_frames(export(path, kind, tmp_path / f"out.{kind}")))) == 24


@pytest.mark.parametrize("kind", ["sound alone", "empty", "a picture", "words"])
def test_13_what_is_no_video_is_told_with_a_reason(tmp_path, kind):
    path = tmp_path / "clip.mp4"
    if kind == "sound alone":
        make(path, "-f", "lavfi", "-i", "sine=d=1")
    elif kind == "a picture":
        Image.new("RGB", (64, 48)).save(path, "JPEG")
    else:
        path.write_text("words" if kind == "words" else "")
    with pytest.raises(ValueError, match="clip.mp4.*is not a video") as told:
        read_video(path, 64, 48, fps=8, num_frames=9)
    assert "0x" not in str(told.value)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 900), (4000, 10)])
@pytest.mark.parametrize("name", ['it\'s 100% "real" #1?&.png', "😀 ü.png"])
def test_14_tiny_and_long_pictures_and_odd_names(tmp_path, size, name):
    name = name if os.name == "posix" else "ü.png"
    Image.new("RGB", size).save(tmp_path / name)
    assert read_picture(tmp_path / name, (64, 64)).size == size


def test_18_19_the_page_starts_behind_a_dead_proxy_and_at_ipv6(tiny_checkpoint, tmp_path):
    dead = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    dead |= {
        "ALL_PROXY": "socks5://127.0.0.1:9",
        "https_proxy": "::",
    }  # which httpx would not even begin with
    flags = ["--model", str(tiny_checkpoint)]
    try:
        app.check_reachable("::1", *app.check_listen("::1"))
        flags += ["--listen", "::1"]
    except ValueError:
        pass  # this machine has no IPv6: the proxy is tried all the same
    with program(tmp_path, *flags, NO_PROXY="", no_proxy="", **dead) as (process, address, _):
        with httpx.Client(trust_env=False) as client:
            assert client.get(address).status_code == 200
        assert ("[::1]" in address) == ("::1" in flags)
        end(process)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRADIO_SERVER_PORT", "abc"),
        ("GRADIO_NUM_PORTS", "many"),
        ("GRADIO_TEMP_DIR", __file__),
        ("GRADIO_ROOT_PATH", "pf"),
    ],
)
def test_21_variables_of_gradio_are_named(monkeypatch, capsys, tmp_path, name, value):
    monkeypatch.setenv(name, value)
    assert app.main(["--output-dir", str(tmp_path)]) == 2
    assert f"{name} = '{value}'" in capsys.readouterr().err


def test_21_what_is_no_proxy_is_told_at_once(capsys, tmp_path):
    assert app.main(["--output-dir", str(tmp_path), "--trusted-proxy", "the office"]) == 2
    assert "--trusted-proxy the office: give the address of the proxy" in capsys.readouterr().err


def test_22_a_page_below_another_address():
    assert "GRADIO_ROOT_PATH" in (ROOT / "docs" / "security.md").read_text()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no signals for other processes")
def test_23_ctrl_c_ends_the_page_while_the_model_loads(tiny_checkpoint, tmp_path):
    with program(tmp_path, "--model", str(tiny_checkpoint)) as (process, _, _):
        began = time.monotonic()
        process.send_signal(signal.SIGINT)  # the model is loaded once the page is there: now
        assert process.wait(60) in (0, 130) and time.monotonic() - began < 30
        assert "Traceback" not in process.stdout.read()


@pytest.mark.parametrize(
    "environment", [{"LANG": "C", "LC_ALL": "C"}, {"HOME": "/nowhere"}, {"LC_ALL": "POSIX", "HOME": ""}]
)
def test_26_a_machine_without_a_language_or_a_home(environment, tmp_path):
    frame = np.zeros((64, 64, 3), np.uint8)
    Image.fromarray(frame).save(tmp_path / "ü.png")
    values = {k: v for k, v in os.environ.items() if k not in ("PYTHONUTF8", "PYTHONIOENCODING")}
    command = [sys.executable, "-m", "pyramid", "inspect", str(tmp_path / "ü.png")]
    values |= environment | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=values, capture_output=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith(b"error: ") and b"Traceback" not in done.stderr


def test_27_two_programs_on_one_folder(tiny_checkpoint, tmp_path, capsys):
    from pyramid.jobs.queue import JobStore
    from pyramid.jobs.worker import Worker

    store = JobStore(tmp_path)
    worker = Worker(store, model=str(tiny_checkpoint))
    try:
        assert app.main(["--output-dir", str(tmp_path), "--model", str(tiny_checkpoint)]) == 2
        assert "another program makes videos into" in capsys.readouterr().err
    finally:
        worker.close()
        store.close()


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the system does not tell what a program used")
def test_30_a_busy_program_beside_it_takes_its_share_and_no_more(tmp_path):
    """Processor seconds, not time: threads that spin while they wait for a busy core use many more."""
    alone = processor_seconds(tmp_path / "alone.mp4", threads=1)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            beside = processor_seconds(tmp_path / "beside.mp4", threads=2)
        finally:
            busy.kill()
    assert beside < 2 * alone


def processor_seconds(target, threads: int) -> float:
    """What `generate` uses."""
    command = [sys.executable, "-m", "pyramid", "generate", "--prompt", "a red ball", "--seed", "1"]
    command += ["--num-frames", "9", "--steps", "6", "--video-steps", "6", "--output", str(target)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime


SIGNS = [
    "line\nbreak",
    "\"quotes\" 'and' `ticks`",
    "a = b; c # d \\ e, f",
    "😀 שלום 红球",
    "<b>bold</b>",
    "x" * 2000,
]


@pytest.mark.parametrize("ending", ["mp4", "webm", "gif"])
def test_45_a_prompt_of_any_signs_comes_back_from_a_video(tmp_path, ending):
    about = {"program": "pyramid", "settings": {"prompt": "\0".join(SIGNS)}}
    with VideoWriter(tmp_path / f"out.{ending}", 8, (64, 48), about) as writer:
        writer.write(np.zeros((2, 48, 64, 3), np.uint8))
    assert read_metadata(writer.path) == about
    if ending == "mp4":
        for other in ("mkv", "mov"):
            again = make(tmp_path / f"again.{other}", "-i", writer.path, "-c", "copy")
            assert read_metadata(again)["settings"] == about["settings"]


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("a.ts", ["-c:v", "libx264"]),
        ("fragments.mp4", ["-c:v", "libx264", "-movflags", "frag_keyframe+empty_moov"]),
        ("live.webm", ["-c:v", "libvpx-vp9", "-live", "1"]),
        ("a.avi", ["-c:v", "mpeg4"]),
        ("a.flv", ["-c:v", "flv1"]),
        ("a.ogv", ["-c:v", "libtheora"]),
        ("a.wmv", ["-c:v", "wmv2"]),
        ("a.mkv", ["-c:v", "ffv1"]),
    ],
)
def test_52_a_zoo_of_containers(tmp_path, name, encoder):
    path = make(tmp_path / name, *MOVING, *encoder, "-pix_fmt", "yuv420p")
    assert len(list(read_frames(path))) == pytest.approx(24, abs=1)
