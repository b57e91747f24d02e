"""The pipeline: what a run promises, on tiny weights.

python -m pytest tests/generate/test_pipeline.py
"""

import inspect
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import error
from PIL import Image

from pyramid.events import Finished, Frames, Notice, Preview, Status, Unit
from pyramid.generate.latents import normalize
from pyramid.generate.pipeline import PyramidFlowPipeline

PROMPT = "a red ball moves to the right"
QUICK = dict(num_frames=9, num_inference_steps=[1, 1, 1])


def load(*arguments, **more):
    pipe = PyramidFlowPipeline.from_pretrained(*arguments, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ------------------------------------------------------------------------------------------------------------
# What a run promises


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return load(tiny_checkpoint)


def latents_of(pipe, prompt=PROMPT, **request):
    return pipe(prompt, output_type="latent", **{"seed": 5} | request).frames


@pytest.fixture(scope="module")
def usual(pipe):
    """The latents of the default request."""
    return latents_of(pipe)


def test_the_checkpoints_own_defaults_are_used(usual):
    assert usual.shape == (1, 16, 3, 8, 8)  # 17 frames of 64x64


def test_call_is_the_stream_consumed(pipe, usual):
    events = list(pipe.stream(*pipe.request(PROMPT, seed=5)))
    output = pipe(PROMPT, seed=5, output_type="np")
    streamed = np.concatenate([event.video for event in events if isinstance(event, Frames)])
    assert streamed.shape == (17, 64, 64, 3) and streamed.dtype == np.uint8
    np.testing.assert_array_equal(streamed, (output.frames[0] * 255).round().astype(np.uint8))
    last = events[-1]
    assert isinstance(last, Finished) and not last.stopped and last.seed == output.seed == 5
    assert torch.equal(last.latents, usual)
    assert {"text", "sample", "decode", "total"} <= set(last.timings)
    assert sum(v for k, v in last.timings.items() if k != "total") <= last.timings["total"]


def test_events_come_in_order(pipe):
    events = [
        e for e in pipe.stream(*pipe.request(PROMPT, seed=5, preview_every=1)) if not isinstance(e, Status)
    ]
    kinds = [type(event) for event in events]
    assert kinds == ([Preview] * 6 + [Unit, Frames]) * 3 + [Finished]
    previews = [event for event in events if isinstance(event, Preview)]
    assert [(p.unit, p.stage, p.step) for p in previews] == [
        (unit, stage, step) for unit in range(3) for stage in range(3) for step in range(2)
    ]
    assert [tuple(p.clean.shape) for p in previews[:6:2]] == [(1, 16, 1, s, s) for s in (2, 4, 8)]
    # the last denoised estimate of a unit is the unit
    assert torch.equal(previews[5].clean, events[6].latents)
    assert [event.video.shape[0] for event in events if isinstance(event, Frames)] == [1, 8, 8]


def test_output_types_hold_the_same_frames(pipe):
    pil, array, tensor = (pipe(PROMPT, seed=5, output_type=kind).frames for kind in ("pil", "np", "pt"))
    assert isinstance(pil[0][0], Image.Image) and len(pil[0]) == 17
    assert array.shape == (1, 17, 64, 64, 3) and tensor.shape == (1, 17, 3, 64, 64)
    np.testing.assert_array_equal(np.asarray(pil[0][3]) / np.float32(255), array[0, 3])
    assert torch.equal(tensor[0, 3].permute(1, 2, 0), torch.from_numpy(array[0, 3]))
    assert pipe(PROMPT, seed=5, return_dict=False)[0][0][3].tobytes() == pil[0][3].tobytes()


def test_one_seed_one_video_whatever_ran_before(pipe, usual):
    pipe("a blue star spins", seed=1, num_frames=9)
    torch.manual_seed(0)
    assert torch.equal(latents_of(pipe), usual)
    assert not torch.equal(latents_of(pipe, seed=6), usual)


def test_a_unit_does_not_depend_on_how_many_follow(pipe, usual):
    assert torch.equal(latents_of(pipe, num_frames=9), usual[:, :, :2])
    assert torch.equal(latents_of(pipe, num_frames=1), usual[:, :, :1])


def test_one_frame_is_a_picture(pipe):
    assert [picture.size for picture in pipe(PROMPT, num_frames=1, seed=5).frames[0]] == [(64, 64)]


def test_a_sample_of_a_batch_is_what_its_seed_gives_alone(pipe, usual):
    both = latents_of(pipe, ["a blue star spins", PROMPT], seed=4)
    assert error(both[1:], usual) < 1e-5
    frames = [
        event for event in pipe.stream(*pipe.request([PROMPT, PROMPT], seed=5)) if isinstance(event, Frames)
    ]
    assert [(event.unit, event.sample) for event in frames] == [(u, s) for u in range(3) for s in range(2)]
    assert len(pipe([PROMPT, PROMPT], seed=5).frames) == 2


def test_a_generator_decides_the_seed_that_is_reported(pipe):
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    first, again = (pipe(PROMPT, generator=g, output_type="latent", num_frames=9) for g in generators)
    assert torch.equal(first.frames, again.frames) and first.seed == again.seed
    assert torch.equal(latents_of(pipe, seed=first.seed, num_frames=9), first.frames)
    later = pipe(PROMPT, generator=generators[0], output_type="latent", num_frames=9)
    assert later.seed != first.seed


def test_without_a_seed_one_is_drawn_and_told(pipe):
    output = pipe(PROMPT, output_type="latent", num_frames=1)
    assert torch.equal(latents_of(pipe, seed=output.seed, num_frames=1), output.frames)
    assert pipe(PROMPT, output_type="latent", num_frames=1).seed != output.seed


def test_guidance_and_negative_prompt_act(pipe):
    def quick(**request):
        return latents_of(pipe, **QUICK, **request)

    both = quick()
    assert not torch.equal(quick(guidance_scale=2.0)[:, :, :1], both[:, :, :1])
    steady = quick(video_guidance_scale=2.0)
    assert torch.equal(steady[:, :, :1], both[:, :, :1]) and not torch.equal(steady, both)
    assert not torch.equal(quick(negative_prompt="blue"), both)
    falling = quick(guidance_decay=1.0, min_guidance_scale=2.0)  # unit 1: max(3 - 1, 2)
    assert torch.equal(falling, steady)
    off = dict(guidance_scale=1.0, video_guidance_scale=1.0)
    assert torch.equal(quick(**off), quick(**off, negative_prompt="blue"))


def test_prompt_suffix_is_part_of_the_prompt(pipe, usual):
    assert torch.equal(latents_of(pipe, "a red ball", prompt_suffix=" moves to the right"), usual)


def test_what_is_cut_of_a_prompt_is_told(pipe):
    long = "a red ball moves to the right " * 30
    notices = [
        e.message
        for e in pipe.stream(*pipe.request(long, num_frames=1))
        if isinstance(e, Notice) and "cut" in e.message
    ]
    assert len(notices) == 1 and "T5" in notices[0] and "CLIP" in notices[0]


def test_embeddings_in_place_of_texts(pipe, usual):
    wanted, unwanted = pipe.text.encode([PROMPT]), pipe.text.encode([""])
    request = dict(
        prompt_embeds=wanted.prompt_embeds,
        prompt_attention_mask=wanted.attention_mask,
        pooled_prompt_embeds=wanted.pooled,
        negative_prompt_embeds=unwanted.prompt_embeds,
        negative_prompt_attention_mask=unwanted.attention_mask,
        negative_pooled_prompt_embeds=unwanted.pooled,
    )
    assert torch.equal(latents_of(pipe, None, **request), usual)
    mixed = {name: value for name, value in request.items() if not name.startswith("negative")}
    assert torch.equal(latents_of(pipe, None, **mixed), usual)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_any_number_of_stages(pipe, stages):
    size = 8 * 2 * 2 ** (stages - 1)
    latents = latents_of(pipe, num_inference_steps=[1] * stages, height=size, width=2 * size, num_frames=9)
    assert latents.shape == (1, 16, 2, size // 8, size // 4) and latents.isfinite().all()


def test_bfloat16(tiny_checkpoint, usual):
    latents = latents_of(load(tiny_checkpoint, dtype=torch.bfloat16))
    assert latents.dtype == torch.float32 and error(latents, usual) < 0.2


# ------------------------------------------------------------------------------------------------------------
# Given pictures


@pytest.fixture(scope="module")
def clip():
    """25 frames of 64x64: smooth colours that move."""
    x, y, t = np.meshgrid(np.linspace(0, 3, 64), np.linspace(0, 3, 64), np.linspace(0, 2, 25))
    video = np.stack([np.sin(x + t), np.cos(y - t), np.sin(x * y)], axis=-1) * 0.5 + 0.5
    return (video.transpose(2, 0, 1, 3) * 255).astype(np.uint8)


@torch.no_grad()
def encoded(pipe, frames):
    video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    return normalize(pipe.vae.encode(video).latent_dist.mode(), pipe.scales)


def test_a_given_picture_is_unit_0(pipe, clip, usual):
    events = list(pipe.stream(*pipe.request(PROMPT, image=Image.fromarray(clip[0]), seed=5)))
    units = [event for event in events if isinstance(event, Unit)]
    assert [unit.given for unit in units] == [True, False, False]
    assert torch.equal(units[0].latents, encoded(pipe, clip[:1]))
    assert torch.equal(events[-1].latents[:, :, :1], units[0].latents)
    assert not torch.equal(events[-1].latents[:, :, 1:], usual[:, :, 1:])
    frames = [event for event in events if isinstance(event, Frames)]
    assert [(len(event.video), event.given) for event in frames] == [(1, True), (8, False), (8, False)]


def test_pictures_may_come_in_any_form(pipe, clip, tmp_path):
    picture = clip[0]
    path = tmp_path / "picture.png"
    Image.fromarray(picture).save(path)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    forms = [Image.fromarray(picture), picture, picture / 255, tensor, tensor / 255, str(path), path]
    wide = Image.fromarray(np.concatenate([picture] * 3, axis=1))  # cropped to its middle
    results = [latents_of(pipe, image=form, **QUICK) for form in [*forms, wide]]
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_clip_goes_on(pipe, clip):
    latents = latents_of(pipe, video=clip, **QUICK | {"num_frames": 33})
    assert latents.shape[2] == 5  # at most half is given: the last 9 frames
    assert torch.equal(latents[:, :, :2], encoded(pipe, clip[-9:]))
    more = latents_of(
        pipe,
        video=[Image.fromarray(frame) for frame in clip],
        history_frames=17,
        **QUICK | {"num_frames": 33},
    )
    assert torch.equal(more[:, :, :3], encoded(pipe, clip[-17:]))
    short = latents_of(pipe, video=clip[:4], **QUICK | {"num_frames": 33})
    assert torch.equal(short[:, :, :1], encoded(pipe, clip[3:4]))


# ------------------------------------------------------------------------------------------------------------
# Stopping, failing, running side by side


def test_a_stop_from_another_thread_keeps_the_finished_units(pipe, usual):
    events = []

    def consume():
        for event in pipe.stream(*pipe.request(PROMPT, seed=5)):
            events.append(event)
            if isinstance(event, Preview) and (event.unit, event.stage, event.step) == (1, 1, 0):
                reached.set()
                assert resume.wait(10)

    reached, resume = threading.Event(), threading.Event()
    worker = threading.Thread(target=consume)
    worker.start()
    assert reached.wait(30)
    pipe.stop()
    before = len(events)
    resume.set()
    worker.join(30)
    assert not worker.is_alive()
    (last,) = events[before:]  # not one step more
    assert isinstance(last, Finished) and last.stopped and torch.equal(last.latents, usual[:, :, :1])
    assert sum(len(event.video) for event in events if isinstance(event, Frames)) == 1
    assert torch.equal(latents_of(pipe), usual)  # fit for the next run


@pytest.mark.parametrize("tile", [None, 32])
def test_a_stop_while_all_frames_are_decoded_ends_that(pipe, tile):
    stop, before = threading.Event(), pipe.placement
    pipe.placement = replace(before, window=0)
    if tile:
        pipe.vae.enable_tiling(tile)
    hook = pipe.vae.decoder.register_forward_hook(lambda *_: stop.set())
    try:
        events = list(pipe.stream(*pipe.request(PROMPT, stop=stop, num_frames=25)))
    finally:
        hook.remove()
        pipe.vae.disable_tiling()
        pipe.placement = before
    assert sum(isinstance(event, Unit) for event in events) == 4
    shown = sum(isinstance(event, Frames) for event in events)
    assert shown == (0 if tile else 1) and events[-1].stopped


def test_a_callback_may_stop_or_replace(pipe, usual):
    seen = []

    def callback(pipeline, step, timestep, kwargs):
        assert pipeline is pipe
        seen.append((step, timestep, tuple(kwargs["latents"].shape)))
        pipe._interrupt = step == 7
        return {"latents": torch.zeros_like(kwargs["latents"])} if step == 5 else {}

    output = pipe(PROMPT, seed=5, output_type="latent", callback_on_step_end=callback)
    assert output.stopped and output.frames.shape[2] == 1 and not output.frames.any()
    assert [step for step, _, _ in seen] == list(range(8))
    assert seen[0][1:] == (1000.0, (1, 16, 1, 2, 2))
    assert torch.equal(latents_of(pipe), usual)


def test_stopped_before_the_first_unit(pipe):
    stop = threading.Event()
    stop.set()
    *_, last = pipe.stream(*pipe.request(PROMPT, stop=stop))
    assert last.stopped and last.latents is None
    output = pipe(PROMPT, callback_on_step_end=lambda pipeline, *_: pipeline.stop())
    assert output.stopped and output.frames == [[]]


def test_runs_side_by_side_do_not_meet(pipe, usual):
    stop = threading.Event()
    one, other = (
        pipe.stream(*pipe.request(PROMPT, seed=5)),
        pipe.stream(*pipe.request("a blue star spins", seed=8, stop=stop)),
    )
    for events in (one, other, one, other):
        for _ in range(7):  # twice: two statuses, unit 0 with its frames, four steps
            next(events)
    stop.set()  # in unit 1 of the other, and of no concern to the one
    *_, stopped = other
    *_, finished = one
    assert torch.equal(finished.latents, usual) and not finished.stopped
    alone = latents_of(pipe, "a blue star spins", seed=8, num_frames=1)
    assert torch.equal(stopped.latents, alone) and stopped.stopped


def test_a_consumer_may_change_threads_and_leave(pipe, usual):
    events, collected = pipe.stream(*pipe.request(PROMPT, seed=5)), []
    while not (collected and isinstance(collected[-1], Finished)):
        thread = threading.Thread(target=lambda: collected.append((next(events), torch.is_grad_enabled())[0]))
        thread.start()
        thread.join()
        assert torch.is_grad_enabled()
    assert torch.equal(collected[-1].latents, usual) and not usual.requires_grad
    abandoned = pipe.stream(*pipe.request(PROMPT, seed=5))
    next(abandoned)
    abandoned.close()
    assert not pipe._runs


def test_a_failure_leaves_the_pipeline_fit(pipe, usual):
    def fail(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe(PROMPT, callback_on_step_end=fail)
    assert not pipe._runs and torch.equal(latents_of(pipe), usual)


def test_offloaded_models_change_places_once(tiny_checkpoint, usual):
    """On the CPU for want of a card, but with accelerate's own hooks."""
    pipe = load(tiny_checkpoint)
    pipe.enable_model_cpu_offload(device="cpu")
    events = list(pipe.stream(*pipe.request(PROMPT, seed=5)))
    kinds = [type(e) for e in events if isinstance(e, (Unit, Frames))]
    assert kinds == [Unit] * 3 + [Frames] * 3
    assert torch.equal(events[-1].latents, usual)


# ------------------------------------------------------------------------------------------------------------
# Files


def test_saved_and_read_again_it_is_the_same(pipe, tmp_path, usual):
    pipe.save_pretrained(tmp_path)
    for part in ("diffusion_transformer_128p", "causal_video_vae"):
        assert "_name_or_path" not in (tmp_path / part / "config.json").read_text(), "a place on one machine"
    assert {path.name for path in tmp_path.iterdir()} == {
        "causal_video_vae",
        "diffusion_transformer_128p",
        "pyramid.json",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
    }
    again = load(tmp_path)
    assert again.defaults == pipe.defaults and again.checkpoint.name == "tiny"
    assert torch.equal(latents_of(again), usual)


def test_a_repeated_prompt_loads_no_text_encoder(tiny_checkpoint, usual):
    pipe = load(tiny_checkpoint)
    assert torch.equal(latents_of(pipe), usual) and pipe.text.loaded == ()


def test_help_lists_the_arguments():
    for method in (PyramidFlowPipeline.__call__, PyramidFlowPipeline.request):
        names = set(inspect.signature(method).parameters)
        assert {"prompt", "negative_prompt", "num_frames", "guidance_decay", "callback_on_step_end"} <= names
