"""Both transformers against the goldens, and what holds for both: `pyramid.models.flux` has their frame.

Run: python -m pytest tests/models/test_flux.py
"""

import json
import pathlib

import pytest
import torch
from helpers import error
from safetensors.torch import load_file

from pyramid.models.flux import PyramidFluxTransformer
from pyramid.models.mmdit import PyramidDiffusionMMDiT

DATA = pathlib.Path(__file__).parent.parent / "data"
PROMPT = ("encoder_hidden_states", "encoder_attention_mask", "pooled_projections")
CLASSES = {"miniflux": PyramidFluxTransformer, "sd3": PyramidDiffusionMMDiT}


@pytest.fixture(scope="module", params=CLASSES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family):
    return DATA / "goldens" / family / "diffusion_transformer_384p"


@pytest.fixture(scope="module")
def golden(family):
    values = load_file(DATA / "goldens" / "golden.safetensors")
    return {name.removeprefix(f"{family}."): v for name, v in values.items() if name.startswith(family)}


@pytest.fixture
def model(family, folder):
    return CLASSES[family].from_pretrained(folder)


@pytest.fixture
def inputs(golden):
    """One forward of stage 2 with history at every resolution; the two prompts differ in length."""
    return {
        "clips": [golden[f"clip{i}"] for i in range(4)],
        "timestep": golden["timestep"],
        **{name: golden[name] for name in PROMPT},
    }


def row(inputs, index):
    """One sample of a batch of inputs."""
    return {
        name: [clip[index : index + 1] for clip in value] if name == "clips" else value[index : index + 1]
        for name, value in inputs.items()
    }


@torch.no_grad()
def test_forward_with_history_and_two_text_lengths(model, inputs, golden):
    assert inputs["encoder_attention_mask"].sum(dim=1).unique().numel() == 2
    assert error(model(**inputs), golden["velocity"]) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("stage, clips", [(0, 2), (1, 3), (2, 1)])
def test_each_stage_of_the_packed_batch(model, golden, stage, clips):
    velocity = model(
        [golden[f"packed.stage{stage}.clip{i}"] for i in range(clips)],
        timestep=golden["packed.timestep"][stage : stage + 1],
        **{name: golden[f"packed.{name}"][stage : stage + 1] for name in PROMPT},
    )
    assert error(velocity, golden[f"packed.stage{stage}.velocity"]) < 1e-4


def test_with_autograd_as_without(model, inputs, golden):
    assert error(model(**inputs), golden["velocity"]) < 1e-4  # other kernels than under no_grad


@torch.no_grad()
def test_rows_do_not_meet_and_keep_their_places(model, inputs):
    for order in ([0, 1], [1, 0], [1, 0, 1]):
        batch = {
            name: [clip[order] for clip in value] if name == "clips" else value[order]
            for name, value in inputs.items()
        }
        alone = torch.cat([model(**row(inputs, index)) for index in order])
        assert error(model(**batch), alone) < 1e-5


@torch.no_grad()
def test_padded_text_influences_nothing(model, inputs):
    noisy = dict(inputs)
    padding = inputs["encoder_attention_mask"][..., None] == 0
    assert padding.any()
    noisy["encoder_hidden_states"] = torch.where(padding, 1e6, inputs["encoder_hidden_states"])
    assert torch.equal(model(**noisy), model(**inputs))
    short = row(inputs, 0)
    length = int(short["encoder_attention_mask"].sum())
    short["encoder_hidden_states"] = short["encoder_hidden_states"][:, :length]
    short["encoder_attention_mask"] = None
    assert error(model(**short), model(**row(inputs, 0))) < 1e-5


@torch.no_grad()
def test_a_prompt_may_be_empty(model, inputs):
    empty = dict(row(inputs, 0))
    empty["encoder_attention_mask"] = torch.zeros_like(empty["encoder_attention_mask"])
    assert model(**empty).isfinite().all()
    assert error(model(**empty), model(**row(inputs, 0))) > 1e-3


@torch.no_grad()
def test_a_stage_is_prepared_once(model, inputs):
    clips = inputs["clips"]
    context = model.prepare(
        clips[:-1], clips[-1].shape[2:], inputs["encoder_hidden_states"], inputs["encoder_attention_mask"]
    )
    before = context.text.clone(), context.history.clone()
    for timestep in (900.0, 5.0):  # the context serves every step of the stage and is not changed by it
        steps = torch.full((2,), timestep)
        velocity = model.denoise(clips[-1], steps, inputs["pooled_projections"], context)
        assert torch.equal(velocity, model(**{**inputs, "timestep": steps}))
    assert torch.equal(before[0], context.text) and torch.equal(before[1], context.history)


@torch.no_grad()
def test_whole_clips_without_the_temporal_mask(family, folder, inputs):
    """With `use_temporal_causal` off, early units see later ones; with it on they do not."""
    frames = torch.randn(2, 4, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    clip = {**inputs, "clips": [frames]}
    changed = {**clip, "clips": [torch.cat([frames[:, :, :2], frames[:, :, 2:] + 1], dim=2)]}
    for causal in (True, False):
        model = CLASSES[family].from_pretrained(folder, use_temporal_causal=causal)
        assert torch.equal(model(**clip)[:, :, :2], model(**changed)[:, :, :2]) == causal


def test_gradients_reach_every_weight_and_checkpointing_keeps_them(model, inputs, golden):
    def gradients():
        model.zero_grad()
        (model(**inputs) - golden["clip3"]).square().mean().backward()
        return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}

    model.train()
    plain = gradients()
    ends = {"add_q_proj", "norm_add_q"}  # the queries of a text that ends have no use
    assert {name.split(".")[-2] for name, grad in plain.items() if grad is None} <= ends
    model.enable_gradient_checkpointing()
    for name, grad in gradients().items():
        same = (
            grad is None if plain[name] is None else torch.allclose(grad, plain[name], rtol=1e-4, atol=1e-7)
        )
        assert same, name


@torch.no_grad()
def test_bfloat16_follows_float32(family, folder, inputs, golden):
    model = CLASSES[family].from_pretrained(folder, torch_dtype=torch.bfloat16)
    inputs = {
        name: [clip.bfloat16() for clip in value] if name == "clips" else value
        for name, value in inputs.items()
    }
    for name in ("encoder_hidden_states", "pooled_projections"):
        inputs[name] = inputs[name].bfloat16()
    velocity = model(**inputs)
    assert velocity.dtype == torch.bfloat16
    assert error(velocity.float(), golden["velocity"]) < 0.03


@torch.no_grad()
@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offload_brings_every_weight_back(model, inputs, golden, tmp_path, kind):
    """On disk in between, where a weight that no hook brings back would be lost."""
    model.enable_group_offload(
        onload_device=torch.device("cpu"),
        offload_device=torch.device("cpu"),
        offload_type=kind,
        num_blocks_per_group=1,
        offload_to_disk_path=str(tmp_path),
    )
    clips, prompt = inputs["clips"], [inputs[name] for name in PROMPT]
    for _ in range(2):  # as the sampler calls it, not through `forward`
        context = model.prepare(clips[:-1], clips[-1].shape[2:], *prompt[:2])
        velocity = model.denoise(clips[-1], inputs["timestep"], prompt[2], context)
        assert error(velocity, golden["velocity"]) < 1e-4


@torch.no_grad()
def test_layerwise_casting(model, inputs, golden):
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float8_e4m3fn, torch.float32}
    assert 1e-4 < error(model(**inputs), golden["velocity"]) < 0.2


def test_autocast_trains(model, inputs):
    with torch.autocast("cpu", torch.bfloat16):
        model(**inputs).float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "history, shape",
    [
        ([(2, 4, 1, 8, 16)], (1, 7, 16)),  # odd height
        ([(1, 4, 1, 8, 16)], (1, 8, 16)),  # one row, two prompts
        ([(2, 16, 1, 8, 16)], (1, 8, 16)),  # channels
        ([(2, 4, 1, 3, 5)], (1, 8, 16)),  # odd history
        ([(2, 4, 8, 16)], (1, 8, 16)),  # no time
    ],
)
def test_shapes_that_cannot_go_together(model, inputs, history, shape):
    with pytest.raises(ValueError, match="multiples of 2"):
        model.prepare([torch.zeros(size) for size in history], shape, inputs["encoder_hidden_states"])


def test_released_names_and_shapes(family):
    """The defaults are the released configuration; checked without allocating two billion numbers."""
    with torch.device("meta"):
        state = CLASSES[family]().state_dict()
    expected = json.loads((DATA / "parameters" / f"{family}_transformer.json").read_text())
    assert {name: list(value.shape) for name, value in state.items()} == expected


RELEASED = {
    "miniflux": {
        "num_layers": 8,
        "num_single_layers": 16,
        "num_attention_heads": 30,
        "in_channels": 64,
        "attention_head_dim": 64,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "axes_dims_rope": [16, 24, 24],
        "interp_condition_pos": True,
        "patch_size": 1,
    },
    "sd3": {
        "num_layers": 24,
        "num_attention_heads": 24,
        "in_channels": 16,
        "attention_head_dim": 64,
        "caption_projection_dim": 1536,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 192,
        "sample_size": 128,
        "patch_size": 2,
        "max_num_frames": 200,
        "qk_norm": "rms_norm",
        "pos_embed_type": "sincos",
    },
}


def test_released_config_files_load(family):
    leftovers = {
        "use_flash_attn": False,
        "use_gradient_checkpointing": True,
        "_diffusers_version": "0.30.1",
        "use_temporal_causal": True,
        "a_key_of_the_future": 3,
    }
    with torch.device("meta"):
        state = CLASSES[family].from_config(RELEASED[family] | leftovers).state_dict()
    assert {name: list(v.shape) for name, v in state.items()} == json.loads(
        (DATA / "parameters" / f"{family}_transformer.json").read_text()
    )


@torch.no_grad()
def test_saved_and_loaded_again(family, model, inputs, tmp_path):
    model.save_pretrained(tmp_path / "safe")
    again = CLASSES[family].from_pretrained(tmp_path / "safe")
    assert torch.equal(again(**inputs), model(**inputs))
    (tmp_path / "old").mkdir()  # the older published files are pickles: read with weights_only
    (tmp_path / "old" / "config.json").write_bytes((tmp_path / "safe" / "config.json").read_bytes())
    torch.save(model.state_dict(), tmp_path / "old" / "diffusion_pytorch_model.bin")
    assert torch.equal(CLASSES[family].from_pretrained(tmp_path / "old")(**inputs), model(**inputs))
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert torch.equal(CLASSES[family].from_pretrained(tmp_path / "shards")(**inputs), model(**inputs))


@pytest.mark.parametrize("kind, name", [("missing", "proj_out.bias"), ("unexpected", "proj_out.extra")])
def test_weights_that_do_not_fit_are_listed(family, model, tmp_path, kind, name):
    state = model.state_dict()
    if kind == "missing":
        del state[name]
    else:
        state[name] = torch.zeros(1)
    model.save_config(tmp_path)
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=f"{kind}: {name}"):
        CLASSES[family].from_pretrained(tmp_path)


# -- a past that is the same for all steps of a stage


def sizes(model):
    """The arguments that a transformer was made with."""
    return {name: value for name, value in model.config.items() if not name.startswith("_")}


@pytest.fixture
def fixed():
    """miniFLUX's golden weights, as a network whose past is fixed."""
    folder = DATA / "goldens" / "miniflux" / "diffusion_transformer_384p"
    plain = PyramidFluxTransformer.from_pretrained(folder)
    kept = PyramidFluxTransformer(**sizes(plain) | {"fixed_past": True})
    kept.load_state_dict(plain.state_dict())
    return plain.eval(), kept.eval()


@pytest.fixture
def past_inputs():
    values = load_file(DATA / "goldens" / "golden.safetensors")
    given = {name.removeprefix("miniflux."): v for name, v in values.items() if name.startswith("miniflux")}
    return [given[f"clip{i}"] for i in range(4)], given["timestep"], {name: given[name] for name in PROMPT}


@torch.no_grad()
def test_a_fixed_past_is_that_of_timestep_0(fixed, past_inputs):
    """There both networks compute the same, whatever the lengths of the prompts; elsewhere they do not."""
    plain, kept = fixed
    clips, timestep, text = past_inputs
    clean = torch.zeros_like(timestep)
    assert error(kept(clips, timestep=clean, **text), plain(clips, timestep=clean, **text)) < 1e-5
    assert error(kept(clips, timestep=timestep, **text), plain(clips, timestep=timestep, **text)) > 1e-3
    alone = [clips[-1]]  # a first unit has no past
    assert torch.equal(kept(alone, timestep=timestep, **text), plain(alone, timestep=timestep, **text))


@torch.no_grad()
def test_keys_and_values_of_a_fixed_past_are_reused_exactly(fixed, past_inputs):
    kept = fixed[1]
    clips, timestep, text = past_inputs
    pooled = text["pooled_projections"]
    given = text["encoder_hidden_states"], text["encoder_attention_mask"]
    context = kept.prepare(clips[:-1], clips[-1].shape[2:], *given)
    kept.denoise(clips[-1], timestep, pooled, context)
    before = [block.key for block in context.kept]
    assert len(before) == len(kept.blocks)
    for step in (0.5, 0.1):
        reused = kept.denoise(clips[-1], step * timestep, pooled, context)
        assert torch.equal(reused, kept(clips, timestep=step * timestep, **text))
    assert all(now.key is then for now, then in zip(context.kept, before, strict=True))


def test_a_fixed_past_is_learned_and_written_down(fixed, past_inputs, tmp_path):
    kept = fixed[1].train()
    clips, timestep, text = past_inputs
    kept(clips, timestep=timestep, **text).square().mean().backward()
    assert all(weight.grad is not None for weight in kept.transformer_blocks[0].parameters())
    kept.save_pretrained(tmp_path)
    assert PyramidFluxTransformer.from_pretrained(tmp_path).fixed_past
    with pytest.raises(ValueError, match="use_temporal_causal"):
        PyramidFluxTransformer(**sizes(kept) | {"use_temporal_causal": False})
