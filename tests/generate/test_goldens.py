"""The pipeline makes the reference's videos from the reference's noise and embeddings, for both families."""

import numpy as np
import pytest
from helpers import GOLDENS, error

from pyramid.generate.pipeline import PyramidFlowPipeline


@pytest.fixture(scope="module", params=["miniflux", "sd3"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def golden_pipe(family):
    pipe = PyramidFlowPipeline.from_pretrained(GOLDENS / family, "384p")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def golden_request(goldens, family, kind):
    """The arguments that made a golden video, as it was made."""
    prefix, settings = f"{family}.t2v.", goldens["settings"]
    text = {k.removeprefix(prefix): v for k, v in goldens.items() if k.startswith(prefix) and "prompt" in k}
    jumps = sorted(k for k in goldens if k.startswith(f"{family}.{kind}.block_noise"))
    return text | dict(
        height=settings["hw"][0],
        width=settings["hw"][1],
        num_frames=25,
        latents=goldens[f"{prefix}initial_latents"],
        block_noise=[goldens[k] for k in jumps],
        num_inference_steps=settings["num_inference_steps"],
        video_num_inference_steps=settings["video_num_inference_steps"],
        guidance_scale=7.0,
        video_guidance_scale=5.0 if kind == "t2v" else 4.0,
    )


def test_text_to_video_is_the_references(golden_pipe, family, goldens):
    *_, last = golden_pipe.stream(
        *golden_pipe.request(**golden_request(goldens, family, "t2v"), output_type="latent")
    )
    assert error(last.latents, goldens[f"{family}.t2v.latents"]) < 3e-5  # an order below what is asked


def test_image_to_video_is_the_references(golden_pipe, family, goldens):
    picture = goldens[f"{family}.i2v.image"].numpy()
    request = golden_request(goldens, family, "i2v")
    latents = golden_pipe(**request, image=picture, output_type="latent").frames
    assert error(latents, goldens[f"{family}.i2v.latents"]) < 3e-5


def test_frames_are_the_references(golden_pipe, family, goldens):
    video = golden_pipe(**golden_request(goldens, family, "t2v"), output_type="np").frames[0]
    theirs = goldens[f"{family}.t2v.frames"].numpy()
    assert np.abs(video * 255 - theirs).max() <= 1 + 1e-3  # the reference cuts off, we round


def test_without_text_encoders_embeddings_are_asked_for(golden_pipe, family, goldens):
    with pytest.raises(ValueError, match="no text encoders: pass prompt_embeds"):
        golden_pipe("a red ball")
    request = golden_request(goldens, family, "t2v")
    positive = {name: value for name, value in request.items() if not name.startswith("negative")}
    with pytest.raises(ValueError, match="pass negative_prompt_embeds.*guidance scales of 1"):
        golden_pipe.stream(*golden_pipe.request(**positive))
    golden_pipe.stream(
        *golden_pipe.request(**positive | dict(guidance_scale=1.0, video_guidance_scale=1.0))
    )  # then they need not be


def test_latent_scales_follow_the_checkpoint(golden_pipe, family):
    assert golden_pipe.scales.image_shift == {"miniflux": -0.04, "sd3": 0.1490}[family]
    vae, own = golden_pipe.vae, dict(image_shift=0.1, image_scale=2.0, video_shift=0.2, video_scale=3.0)
    before = dict(vae.config)
    try:
        vae.register_to_config(**own)
        scales = PyramidFlowPipeline(golden_pipe.transformer, vae).scales
    finally:
        vae.register_to_config(**{name: before[name] for name in own})
    assert vars(scales) == own
