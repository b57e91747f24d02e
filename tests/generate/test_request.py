"""A request that cannot be used is refused before any work, with the value and what is allowed."""

import numpy as np
import pytest
import torch

from pyramid.generate.given import picture_of
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.generate.request import check_dtype
from pyramid.settings import Settings

PROMPT = "a red ball moves to the right"


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return PyramidFlowPipeline.from_pretrained(tiny_checkpoint)


def embeds(batch, length, width):
    return dict(
        prompt=None,
        prompt_embeds=torch.zeros(batch, length, width),
        prompt_attention_mask=torch.ones(batch, length),
        pooled_prompt_embeds=torch.zeros(batch, 32),
    )


WRONG = [
    (dict(num_frames=10), "num_frames = 10.*9 or 17"),
    (dict(num_frames=0), "num_frames = 0"),
    (dict(height=100), "height = 100.*multiple of 64.*64 or 128"),
    (dict(width=65), "width = 65"),
    (dict(num_inference_steps=[1, 1, 1, 1, 1]), "5 numbers.*1 to 4"),
    (dict(num_inference_steps=[2, 0, 2]), "num_inference_steps, stage 2 = 0"),
    (
        dict(num_inference_steps=[2, 2], video_num_inference_steps=[2, 2, 2]),
        "video_num_inference_steps has 3.*has 2",
    ),
    (dict(guidance_scale=0.0), "guidance_scale = 0"),
    (dict(seed=-1), "seed = -1"),
    (dict(seed=1, generator=torch.Generator()), "Both seed and generator"),
    (dict(seed=1, seeds=[1]), "Both seed and seeds"),
    (dict(seeds=[1], generator=torch.Generator()), "Both seeds and generator"),
    (dict(prompt=[PROMPT] * 3, seeds=[1, 2]), "2 seeds for a batch of 3"),
    (dict(seeds=[]), "0 seeds for a batch of 1"),
    (dict(seeds=3), "seeds = 3: give a list of whole numbers"),
    (dict(seeds=[1.5]), r"seeds = \[1\.5\]: give a list"),
    (dict(prompt=[PROMPT] * 2, seeds=[-1, 2]), "seed = -1 is outside 0"),
    (dict(prompt=[PROMPT] * 2, seeds=[2**70, 2]), f"seed = {2**70} is outside 0"),
    (dict(variation_seeds=5), "variation_seeds = 5: give a list"),
    (dict(variation_seeds=[-5]), "variation_seed = -5 is outside 0"),
    (dict(output_type="gif"), "output_type = 'gif'.*pil"),
    (dict(fit="stretch"), "fit.*stretch"),
    (dict(preview_every=-1), "preview_every = -1"),
    (dict(prompt=None), "neither prompt nor prompt_embeds"),
    (dict(prompt=[]), "a text is expected"),
    (dict(prompt=7), "a text is expected"),
    (dict(prompt=[PROMPT, ""]), "prompt is empty"),
    (dict(prompt=[PROMPT, "a" * 3000]), "prompt has 3000 characters: use at most 2000"),
    (dict(prompt=[PROMPT, "\ud800"]), "prompt holds bytes that are no text"),
    (dict(negative_prompt=["\ud800"]), "negative_prompt holds bytes that are no text"),
    (dict(negative_prompt=[3]), r"negative_prompts = \[3\]: give a list of texts"),
    (dict(negative_prompt=["a", "b"]), "2 negative_prompts for a batch of 1"),
    (dict(prompt_embeds=torch.zeros(1, 8, 32)), "without prompt_attention_mask, pooled_prompt_embeds"),
    (embeds(1, 8, 31), r"prompt_embeds has shape \(1, 8, 31\): this checkpoint needs \(1, 8, 32\)"),
    (embeds(0, 8, 32), r"prompt_embeds has shape \(0, 8, 32\): this checkpoint needs \(1, 8, 32\)"),
    (embeds(2, 8, 32) | dict(prompt_attention_mask=torch.ones(2, 7)), r"\(2, 7\).*\(2, 8\)"),
    (
        embeds(1, 8, 32) | {"negative_" + k: v for k, v in embeds(1, 9, 32).items() if k != "prompt"},
        r"negative_prompt_embeds has shape \(1, 9, 32\).*\(1, 8, 32\)",
    ),
    (dict(max_sequence_length=0), "max_sequence_length = 0: 1 to 512"),
    (dict(latents=torch.zeros(1, 16, 2, 8, 8)), r"\(1, 16, 2, 8, 8\).*\(1, 16, 3, 8, 8\)"),
    (dict(latents=torch.zeros(1, 16, 3, 4, 8)), r"\(1, 16, 3, 4, 8\)"),
    (dict(latents=np.zeros((1, 16, 3, 8, 8))), r"latents = array\(.*: give a tensor of torch"),
    (dict(latents=[[0.0]]), r"latents = \[\[0\.0\]\]: give a tensor"),
    (dict(latents=torch.full((1, 16, 3, 8, 8), torch.nan)), "latents holds NaN or infinity"),
    (dict(prompt=None, prompt_embeds=5), "prompt_embeds = 5: give a tensor"),
    (dict(block_noise=[torch.zeros(1, 16, 1, 4, 4)]), "for each of 3 units"),
    (dict(block_noise=5), "block_noise = 5: give a list of tensors"),
    (dict(draft=5), "draft = 5: give a tensor"),
    (dict(begun=5), "begun = 5: give a Begun"),
    (dict(finished=5), "finished = 5: give a list of Unit events"),
    (dict(stop=5), r"stop = 5: give a threading\.Event"),
    (dict(words=5), "words = 5: give a function"),
    (dict(callback_on_step_end=5), "callback_on_step_end = 5: give a function"),
    (dict(image=np.zeros((8, 8, 2))), r"shape \(8, 8, 2\)"),
    (dict(image=np.full((8, 8, 3), 2.0)), r"floats are in \[0, 1\]"),
    (dict(image=np.full((8, 8, 3), np.nan)), r"floats are in \[0, 1\]"),
    (dict(image="no such picture.png"), "no such picture"),
    (dict(image=np.zeros((8, 8, 3)), num_frames=1), "num_frames = 1"),
    (dict(image=np.zeros((8, 8, 3)), video=np.zeros((9, 8, 8, 3))), "both image and video"),
    (dict(video=[]), "no frames"),
    (dict(video=np.zeros((9, 8, 8, 3)), history_frames=17), "history_frames = 17.*fewer than the 17"),
    (dict(video=np.zeros((9, 8, 8, 3)), history_frames=4), "history_frames = 4"),
    (dict(history_frames=9), "history_frames = 9 is of a video, and none is given"),
    (dict(image=np.zeros((8, 8, 3)), history_frames=9), "history_frames = 9 is of a video"),
    (dict(callback_on_step_end_tensor_inputs=("noise",)), "noise.*latents"),
    (dict(callback_on_step_end_tensor_inputs="latents"), "= 'latents': give a list of names"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_cannot_be_used_is_refused_before_any_work(pipe, wrong, message):
    with pytest.raises(ValueError, match=message):
        pipe.stream(*pipe.request(**{"prompt": PROMPT} | wrong))
    assert not pipe._runs


def test_settings_of_another_family_are_refused(pipe):
    with pytest.raises(ValueError, match="model = 'sd3': .* of the family miniflux"):
        pipe.stream(Settings.for_model("sd3", prompt=PROMPT))


def test_misspelt_arguments_are_refused(pipe):
    with pytest.raises(TypeError, match="guidance_scal"):
        pipe(PROMPT, guidance_scal=3.0)


def test_checkpoints_that_cannot_be_used_are_refused(tmp_path, tiny_checkpoint):
    with pytest.raises(ValueError, match="not a Pyramid Flow checkpoint"):
        PyramidFlowPipeline.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no variant '768p'.*128p"):
        PyramidFlowPipeline.from_pretrained(tiny_checkpoint, "768p")


@pytest.mark.parametrize(
    ("picture", "grey"),
    [
        (np.full((8, 8, 3), 65535, np.uint16), 255),
        (np.ones((8, 8, 3), bool), 255),
        (np.full((8, 8, 3), 200), 200),
        (torch.full((3, 8, 8), 0.5, dtype=torch.bfloat16), 128),
    ],
)
def test_pictures_of_other_types_keep_their_brightness(picture, grey):
    assert picture_of(picture).getpixel((4, 4)) == (grey, grey, grey)


@pytest.mark.parametrize("picture", [np.full((8, 8, 3), 300), np.full((8, 8, 3), -1), np.zeros((0, 8, 3))])
def test_pictures_that_would_wrap_round_are_refused(picture):
    with pytest.raises(ValueError, match="picture of"):
        picture_of(picture)


def test_dtypes_have_names():
    assert check_dtype("bfloat16") is check_dtype(torch.bfloat16) is torch.bfloat16
    for wrong in ("int8", "half a float", torch.int8):
        with pytest.raises(ValueError, match="use float32, bfloat16 or float16"):
            check_dtype(wrong)


def test_a_number_is_no_generator(pipe):
    with pytest.raises(ValueError, match="a number is a seed"):
        pipe(PROMPT, generator=3)
