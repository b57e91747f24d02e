"""The pipeline: the reference's videos from the reference's noise, on tiny weights in the released layout.

    python -m pytest tests/test_pipeline.py
"""

import pytest
from conftest import GOLDENS

from pyramid.pipeline import PyramidFlowPipeline

FAMILIES = ["miniflux", "sd3"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def pipe(family):
    pipe = PyramidFlowPipeline.from_pretrained(GOLDENS / family, variant="384p")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def golden_request(goldens, family, kind):
    """The arguments that made a golden video."""
    text = {k.removeprefix(f"{family}.t2v."): v for k, v in goldens.items()
            if k.startswith(f"{family}.t2v.") and "prompt" in k}
    jumps = sorted(k for k in goldens if k.startswith(f"{family}.{kind}.block_noise"))
    height, width = goldens["settings"]["hw"]
    return text | dict(
        height=height, width=width, num_frames=25, latents=goldens[f"{family}.t2v.initial_latents"],
        block_noise=[goldens[k] for k in jumps],
        num_inference_steps=goldens["settings"]["num_inference_steps"],
        video_num_inference_steps=goldens["settings"]["video_num_inference_steps"],
        guidance_scale=7.0, video_guidance_scale=5.0 if kind == "t2v" else 4.0)


def error(ours, theirs):
    """The largest difference as a share of the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_text_to_video_latents_are_the_references(pipe, family, goldens):
    request = golden_request(goldens, family, "t2v")
    latents = pipe(**request, output_type="latent").frames
    print("t2v", family, error(latents, goldens[f"{family}.t2v.latents"]))
    assert error(latents, goldens[f"{family}.t2v.latents"]) < 3e-4


def test_image_to_video_latents_are_the_references(pipe, family, goldens):
    request = golden_request(goldens, family, "i2v")
    picture = goldens[f"{family}.i2v.image"].numpy()
    latents = pipe(**request, image=picture, output_type="latent").frames
    print("i2v", family, error(latents, goldens[f"{family}.i2v.latents"]))
    assert error(latents, goldens[f"{family}.i2v.latents"]) < 3e-4


def test_decoded_frames_are_the_references(pipe, family, goldens):
    frames = pipe(**golden_request(goldens, family, "t2v"), output_type="pt").frames[0]
    theirs = goldens[f"{family}.t2v.frames"].permute(0, 3, 1, 2).float()
    difference = (frames * 255 - theirs).abs()
    print(difference.max(), difference.mean())
    assert difference.max() <= 1 + 1e-3
