"""The pipeline as a user of diffusers calls it: arguments, callbacks, copies, compiling."""

import copy
import io
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback, SDCFGCutoffCallback
from PIL import Image

from pyramid.generate.given import frames_of_video, picture_of
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.memory import device

PROMPT = "a red ball moves to the right"
SHORT = dict(num_frames=9, num_inference_steps=1, video_num_inference_steps=1, seed=3, output_type="latent")


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    made = PyramidFlowPipeline.from_pretrained(tiny_checkpoint)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def usual(pipe):
    return pipe(PROMPT, **SHORT).frames


# -- numbers


def test_numbers_of_numpy_and_torch_mean_what_pythons_mean(pipe, usual):
    numbers = dict(
        seed=np.int64(3),
        num_frames=torch.tensor(9),
        num_inference_steps=np.array([1, 1, 1]),
        video_num_inference_steps=np.int32(1),
        guidance_scale=np.float64(4),
        video_guidance_scale=np.float32(3),
        max_sequence_length=np.int64(128),
        output_type="latent",
        num_videos_per_prompt=np.int64(1),
    )
    assert torch.equal(pipe(PROMPT, **numbers).frames, usual)
    with pytest.raises(ValueError, match=r"preview_every = 1\.5: a whole number"):
        pipe(PROMPT, preview_every=1.5)


# -- copies


@pytest.mark.parametrize(
    "again",
    [
        lambda pipe: PyramidFlowPipeline(**pipe.components),
        PyramidFlowPipeline.from_pipe,
        copy.deepcopy,
        lambda pipe: pickle.loads(pickle.dumps(pipe)),
    ],
    ids=["components", "from_pipe", "deepcopy", "pickle"],
)
def test_a_copy_makes_the_same(pipe, usual, again):
    copied = again(pipe)
    copied.set_progress_bar_config(disable=True)
    assert copied.defaults == pipe.defaults and copied.scales == pipe.scales
    assert torch.equal(copied(PROMPT, **SHORT).frames, usual)


def test_a_pipeline_of_a_pipeline_shares_the_weights_and_takes_other_parts(pipe):
    assert PyramidFlowPipeline.from_pipe(pipe).transformer is pipe.transformer
    assert PyramidFlowPipeline.from_pipe(pipe, text=None).text is None
    with pytest.raises(
        TypeError, match=r"from_pipe\(\) got an unexpected argument 'txt', did you mean 'text'"
    ):
        PyramidFlowPipeline.from_pipe(pipe, txt=None)


# -- torch.compile


class Counting:
    """A compiler that counts graphs and changes nothing."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


@pytest.mark.parametrize("how", ["assigned", "in place"])
def test_a_compiled_transformer_is_used_and_can_be_saved(tiny_checkpoint, usual, tmp_path, how):
    pipe = PyramidFlowPipeline.from_pretrained(tiny_checkpoint)
    pipe.set_progress_bar_config(disable=True)
    counting = Counting()
    torch._dynamo.reset()
    if how == "assigned":
        pipe.transformer = torch.compile(pipe.transformer, backend=counting)
    else:
        pipe.transformer.compile(backend=counting)
    # One stage of one unit: each further shape would be compiled again.
    still = dict(num_frames=1, num_inference_steps=[1], guidance_scale=1.0, seed=3, output_type="latent")
    plain = PyramidFlowPipeline.from_pretrained(tiny_checkpoint)(PROMPT, **still).frames
    assert torch.allclose(pipe(PROMPT, **still).frames, plain, atol=1e-4)
    assert counting.graphs > 0
    torch._dynamo.reset()
    pipe.save_pretrained(tmp_path)
    assert torch.equal(PyramidFlowPipeline.from_pretrained(tmp_path)(PROMPT, **SHORT).frames, usual)


# -- arguments


def test_several_videos_of_each_prompt_stand_beside_each_other(pipe, usual):
    made = pipe([PROMPT, "a blue star"], **SHORT, num_videos_per_prompt=2).frames
    assert len(made) == 4 and torch.allclose(made[:1], usual, atol=1e-5)
    one_by_one = [
        pipe(text, **SHORT | {"seed": 3 + index}).frames for index, text in enumerate([PROMPT, PROMPT])
    ]
    assert torch.allclose(made[:2], torch.cat(one_by_one), atol=1e-5)
    assert len(pipe(PROMPT, **SHORT, num_videos_per_prompt=2, negative_prompt=["dark"]).frames) == 2
    with pytest.raises(ValueError, match="num_videos_per_prompt = 0"):
        pipe(PROMPT, num_videos_per_prompt=0)


def test_embeddings_are_copied_for_several_videos(pipe):
    embeds = pipe.text.encode([PROMPT])
    given = dict(
        prompt_embeds=embeds.prompt_embeds,
        prompt_attention_mask=embeds.attention_mask,
        pooled_prompt_embeds=embeds.pooled,
    )
    two = pipe(**given, **SHORT, num_videos_per_prompt=2).frames
    assert torch.allclose(two, pipe([PROMPT, PROMPT], **SHORT).frames, atol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "how"),
    [
        (PROMPT, {}),
        (PROMPT, {"negative_prompt": "blue", "prompt_suffix": ", slowly", "max_sequence_length": 40}),
        ([PROMPT, "a blue star falls"], {"negative_prompt": ["blue", "red"]}),
    ],
    ids=["usual", "all", "batch"],
)
def test_encoded_prompts_make_what_the_prompts_make(pipe, prompt, how):
    encoded = pipe.encode_prompt(prompt, **how)
    assert len(encoded) == 6 and encoded["prompt_embeds"].shape[1] == how.get("max_sequence_length", 128)
    assert torch.equal(pipe(**encoded, **SHORT).frames, pipe(prompt, **SHORT, **how).frames)


def test_encoding_tells_what_it_cuts_and_what_it_cannot_read(pipe):
    with pytest.warns(UserWarning, match="its end was cut"):
        pipe.encode_prompt("a red ball moves to the right " * 30)
    with pytest.raises(ValueError, match="prompt is empty"):
        pipe.encode_prompt([PROMPT, ""])
    with pytest.raises(ValueError, match="no text encoders"):
        PyramidFlowPipeline.from_pipe(pipe, text=None).encode_prompt(PROMPT)


def test_seeds_that_are_given_are_used(pipe, usual):
    how = SHORT | {"seed": None}
    made = pipe(PROMPT, **how, seeds=[3])
    assert torch.equal(made.frames, usual) and made.seed == 3
    row = pipe([PROMPT, PROMPT], **how, seeds=[3])
    assert torch.equal(row.frames, pipe([PROMPT, PROMPT], **SHORT).frames) and row.seed == 3
    assert pipe([PROMPT, PROMPT], **how, seeds=np.array([8, 3])).seed == 8


def test_the_seed_of_a_stream_with_seeds_is_the_first_of_them(pipe):
    settings, inputs = pipe.request(PROMPT, num_frames=1, num_inference_steps=1, seeds=[7])
    *_, last = pipe.stream(replace(settings, seed=None), inputs)
    assert settings.seed == last.seed == 7


@pytest.mark.parametrize("name", ["attention_kwargs", "clip_skip", "prompt_2", "sigmas", "ip_adapter_image"])
def test_arguments_of_other_pipelines_may_be_left_at_none(pipe, usual, name):
    assert torch.equal(pipe(PROMPT, **SHORT, **{name: None}).frames, usual)
    with pytest.raises(ValueError, match=f"{name} = 2 cannot be followed: "):
        pipe(PROMPT, **{name: 2})


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("guidance_scal", "guidance_scale"),
        ("cfg_scale", "guidance_scale"),
        ("steps", "num_inference_steps"),
        ("zoom", None),
    ],
)
def test_an_unknown_argument_is_named_with_the_function_and_the_nearest(pipe, name, nearest):
    with pytest.raises(TypeError) as told:
        pipe(PROMPT, **{name: 1})
    hint = f", did you mean {nearest!r}?" if nearest else ""
    assert str(told.value) == f"PyramidFlowPipeline() got an unexpected argument {name!r}{hint}"


@pytest.mark.parametrize(
    "options",
    [
        dict(local_files_only=True),
        dict(use_safetensors=True),
        dict(low_cpu_mem_usage=True, token=None, revision=None, force_download=False),
        dict(device_map="cpu"),
        dict(cache_dir="~/somewhere"),
        dict(token="a word"),
    ],
    ids=str,
)
def test_options_of_loading_are_taken(tiny_checkpoint, options):
    assert PyramidFlowPipeline.from_pretrained(tiny_checkpoint, **options).device.type == "cpu"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(device_map="balanced"), "device_map = 'balanced'"),
        (dict(revision="main"), "a folder has no revisions"),
        (dict(custom_pipeline="x"), "no code of a checkpoint"),
        (dict(quantization_config={}), "quantization_config"),
        (dict(max_memory={0: "8GB"}), "plan for memory"),
        (dict(plan="low"), "plan = 'low': a Plan of pyramid.memory.plan"),
        (
            dict(dtype=torch.float32, torch_dtype="bfloat16"),
            "dtype = torch.float32 and torch_dtype = bfloat16",
        ),
    ],
)
def test_options_of_loading_that_cannot_be_followed_name_the_way_out(tiny_checkpoint, options, words):
    with pytest.raises(ValueError, match=words):
        PyramidFlowPipeline.from_pretrained(tiny_checkpoint, **options)


def test_unknown_options_of_loading_and_saving_are_named(tiny_checkpoint, pipe, tmp_path):
    with pytest.raises(
        TypeError, match=r"from_pretrained\(\) got an unexpected argument 'varient', did you mean 'variant'"
    ):
        PyramidFlowPipeline.from_pretrained(tiny_checkpoint, varient="128p")
    with pytest.raises(TypeError, match=r"save_pretrained\(\) got an unexpected argument 'folder'"):
        pipe.save_pretrained(tmp_path, folder="x")
    with pytest.raises(ValueError, match="variant = 'fp16'"):
        pipe.save_pretrained(tmp_path, variant="fp16")


@pytest.mark.parametrize(("safe", "ending"), [(True, "safetensors"), (False, "bin")])
def test_saving_in_either_form_loads_again(pipe, usual, tmp_path, safe, ending):
    pipe.save_pretrained(save_directory=tmp_path, safe_serialization=safe)
    assert len(list(tmp_path.glob(f"diffusion_transformer_128p/*.{ending}"))) == 1
    again = PyramidFlowPipeline.from_pretrained(tmp_path, use_safetensors=safe)
    assert torch.equal(again(PROMPT, **SHORT).frames, usual)


def test_memory_of_decoding_is_bounded_as_in_diffusers(pipe):
    how = SHORT | {"output_type": "pt", "num_videos_per_prompt": 2}
    whole = pipe(PROMPT, **how).frames
    pipe.enable_vae_tiling()
    assert pipe.vae.use_tiling
    pipe.disable_vae_tiling()
    pipe.enable_vae_slicing()
    try:
        assert torch.allclose(pipe(PROMPT, **how).frames, whole, atol=2 / 255)
    finally:
        pipe.disable_vae_slicing()


# -- callbacks


def test_a_callback_reads_how_far_it_is_and_stops(pipe):
    seen = []

    def watch(pipe, step, timestep, tensors):
        seen.append((pipe.num_timesteps, pipe.guidance_scale, pipe.interrupt))
        pipe._interrupt = step == 3
        return tensors

    made = pipe(PROMPT, **SHORT, callback_on_step_end=watch)
    assert made.stopped and seen == [(6, 4.0, False)] * 3 + [(6, 3.0, False)]
    assert not pipe.interrupt and pipe.num_timesteps == 6


def test_guidance_can_be_cut_off_on_the_way(pipe):
    calls = []
    take = pipe.transformer.register_forward_pre_hook(lambda *_: None)  # hooks stay out of the way
    rows = pipe.transformer.time_text_embed.register_forward_hook(
        lambda _, given, __: calls.append(len(given[0]))
    )
    try:
        cut = pipe(
            PROMPT,
            **SHORT,
            callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=2),
        )
    finally:
        rows.remove()
        take.remove()
    assert calls == [2, 2, 2, 1, 1, 1] and pipe.guidance_scale == 0
    # What was made until then is as ever; later units are as without guidance.
    assert torch.equal(cut.frames[:, :, :1], pipe(PROMPT, **SHORT).frames[:, :, :1])
    plain = pipe(PROMPT, **SHORT, video_guidance_scale=1.0)
    assert torch.allclose(cut.frames, plain.frames, atol=1e-5)


class Gray(PipelineCallback):
    tensor_inputs = ["latents"]

    def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
        return {"latents": callback_kwargs["latents"] * 0}


def test_pipeline_callbacks_name_their_tensors_and_change_them(pipe):
    several = MultiPipelineCallbacks([Gray(), SDCFGCutoffCallback(cutoff_step_ratio=1.0)])
    with pytest.raises(KeyError):  # the second misses what the first dropped, as in diffusers
        pipe(PROMPT, **SHORT, callback_on_step_end=MultiPipelineCallbacks([Gray(), SDCFGCutoffCallback(0.0)]))
    assert several.tensor_inputs == ["latents", "prompt_embeds"]
    assert pipe(PROMPT, **SHORT, callback_on_step_end=Gray()).frames.abs().max() == 0


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (5, "returned 5: a dict of tensors, or None, is expected"),
        ({"latents": [1]}, r"returned latents = \[1\]: a tensor is expected"),
        ({"prompt_embeds": "x"}, "returned prompt_embeds = 'x': a tensor is expected"),
        ({"latents": torch.zeros(3)}, r"returned latents of shape \(3,\): \(1, 16, 1, 2, 2\) is needed"),
        ({"latents": torch.full((1, 16, 1, 2, 2), torch.nan)}, "returned latents that hold NaN"),
    ],
)
def test_what_a_callback_may_not_return_is_told(pipe, returned, words):
    with pytest.raises(ValueError, match=words):
        pipe(PROMPT, **SHORT, callback_on_step_end=lambda *_: returned)


def test_other_embeddings_are_followed_from_the_next_step_on(pipe, usual):
    other = pipe.text.encode(["a blue star falls"]).prompt_embeds

    def change(_, step, timestep, tensors):
        assert tensors["prompt_embeds"].shape[0] == 2  # negative first
        return {"prompt_embeds": torch.cat([tensors["prompt_embeds"][:1], other])} if step == 2 else {}

    how = dict(callback_on_step_end=change, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    made = pipe(PROMPT, **SHORT, **how).frames
    assert torch.equal(made[:, :, :1], usual[:, :, :1]) and not torch.allclose(made, usual, atol=1e-4)
    wrong = how | {"callback_on_step_end": lambda *_: {"prompt_embeds": other[:, :5]}}
    with pytest.raises(ValueError, match=r"returned prompt_embeds of shape \(1, 5, 32\)"):
        pipe(PROMPT, **SHORT, **wrong)


# -- bfloat16


def test_bfloat16_on_a_processor_without_it_is_told(tiny_checkpoint, monkeypatch):
    pipe = PyramidFlowPipeline.from_pretrained(tiny_checkpoint, dtype="bfloat16")
    pipe.set_progress_bar_config(disable=True)
    for has in (False, True):
        monkeypatch.setattr(device, "processor_has_bfloat16", lambda has=has: has)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            told = pipe(PROMPT, **SHORT).notices
        ours = [str(each.message) for each in warned if "no bfloat16" in str(each.message)]
        assert bool(ours) == (not has) and any("no bfloat16" in notice for notice in told) == (not has)


# -- pictures and clips

RED = np.zeros((8, 8, 3), np.uint8) + np.array([200, 10, 30], np.uint8)


def as_png(mode="RGB"):
    out = io.BytesIO()
    Image.fromarray(RED).convert(mode).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    "form",
    [
        [Image.fromarray(RED)],
        RED[None],
        torch.from_numpy(RED).movedim(-1, 0)[None],
        np.concatenate([RED, np.full((8, 8, 1), 255, np.uint8)], axis=2),
        torch.from_numpy(RED).movedim(-1, 0).float() / 255,
        as_png(),
        bytearray(as_png("RGBA")),
        io.BytesIO(as_png()),
        [io.BytesIO(as_png())],
    ],
    ids=[
        "list",
        "batch of one",
        "tensor of one",
        "alpha",
        "floats",
        "bytes",
        "bytearray",
        "file",
        "list of a file",
    ],
)
def test_a_picture_is_taken_in_every_form(form):
    assert np.array_equal(np.asarray(picture_of(form).convert("RGB")), RED)


def test_gray_and_transparent_numbers_are_pictures():
    for gray in (np.full((8, 8), 7, np.uint8), np.full((8, 8, 1), 7, np.uint8), torch.full((1, 8, 8), 7)):
        assert picture_of(gray).convert("RGB").getpixel((1, 1)) == (7, 7, 7)
    assert picture_of(np.zeros((8, 8, 4), np.uint8)).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("https://example.org/x.png", "is an address"),
        ([Image.fromarray(RED)] * 2, "2 pictures are given"),
        (io.StringIO("x"), "open it with mode 'rb'"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\)"),
        (np.array([["a"]]), "numbers are expected"),
        (b"no picture", "the picture is not a picture"),
        (7, r"shape \(\)"),
    ],
)
def test_what_is_no_picture_is_told(form, words):
    with pytest.raises(ValueError, match=words):
        picture_of(form)


@pytest.mark.parametrize(
    "form",
    [
        (Image.fromarray(RED) for _ in range(9)),
        [[Image.fromarray(RED)] * 9],
        np.stack([RED] * 9)[None],
        [np.stack([RED] * 9)],
        torch.stack([torch.from_numpy(RED).movedim(-1, 0)] * 9)[None],
    ],
    ids=["generator", "batch of lists", "array", "list of an array", "tensor"],
)
def test_a_clip_is_taken_in_every_form(form):
    frames = frames_of_video(form)
    assert len(frames) == 9 and np.array_equal(np.asarray(picture_of(frames[8]).convert("RGB")), RED)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (b"bytes", "not as a file's content"),
        (Image.fromarray(RED), "give it as image"),
        (7, "video = 7"),
        (np.zeros((2, 9, 8, 8, 3)), r"shape \(2, 9, 8, 8, 3\)"),
        ((picture for picture in ()), "no frames"),
    ],
)
def test_what_is_no_clip_is_told(form, words):
    with pytest.raises(ValueError, match=words):
        frames_of_video(form)


def test_an_address_of_a_video_is_told(pipe):
    with pytest.raises(ValueError, match="is an address"):
        pipe(PROMPT, video="https://example.org/x.mp4")


def test_a_tilde_is_the_home_folder_in_python_too(pipe, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    Image.fromarray(RED).save(tmp_path / "red.png")
    pipe.request(PROMPT, image="~/red.png")
    assert np.array_equal(np.asarray(picture_of(Path("~/red.png"))), RED)
    pipe.save_pretrained("~/saved")
    assert PyramidFlowPipeline.from_pretrained("~/saved").defaults == pipe.defaults
