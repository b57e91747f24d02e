"""A start from Stable Diffusion 3 Medium: the same function as diffusers', from both layouts; 3.5 refused."""

import pytest
import torch
from diffusers import SD3Transformer2DModel
from helpers import error
from safetensors.torch import save_file

from pyramid.models.mmdit import PyramidDiffusionMMDiT
from pyramid.models.sd3 import fill, measure_gains, read_sd3

SIZES = dict(
    sample_size=32,
    num_layers=2,
    attention_head_dim=64,
    num_attention_heads=2,
    joint_attention_dim=24,
    caption_projection_dim=128,
    pooled_projection_dim=20,
    out_channels=16,
    pos_embed_max_size=24,
)


def make(**changes) -> SD3Transformer2DModel:
    torch.manual_seed(0)
    model = SD3Transformer2DModel(**SIZES | changes).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.6 / weight[0].numel() ** 0.5)
    return model


@pytest.fixture(scope="module")
def sd3() -> SD3Transformer2DModel:
    return make()


def inputs(rows: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"clip": (16, 12, 20), "text": (7, 24), "pooled": (20,)}
    drawn = {name: torch.randn(rows, *shape, generator=generator) for name, shape in shapes.items()}
    return drawn | {"timestep": torch.tensor([900.0, 20.0])}


def theirs(model, x):
    return model(
        hidden_states=x["clip"],
        encoder_hidden_states=x["text"],
        pooled_projections=x["pooled"],
        timestep=x["timestep"],
    ).sample


def arguments(x) -> dict:
    return {
        "clips": [x["clip"][:, :, None]],
        "timestep": x["timestep"],
        "encoder_hidden_states": x["text"],
        "pooled_projections": x["pooled"],
    }


@torch.no_grad()
def test_one_frame_is_what_diffusers_makes_of_it(sd3):
    ours = PyramidDiffusionMMDiT.from_sd3(sd3)
    other = SD3Transformer2DModel(**SIZES, qk_norm="rms_norm").eval()
    other.load_state_dict(sd3.state_dict(), strict=False)
    x = inputs()
    assert error(ours(**arguments(x))[:, :, 0], theirs(other, x)) < 1e-5


def test_all_tensors_of_the_published_size_fit():
    with torch.device("meta"):
        sd3 = SD3Transformer2DModel(
            num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192
        )
        ours = PyramidDiffusionMMDiT()
    theirs, mine = sd3.state_dict(), ours.state_dict()
    assert len(theirs) == 683 and len(mine) == 779
    assert {name: value.shape for name, value in theirs.items()}.items() <= {
        name: value.shape for name, value in mine.items()
    }.items()


def test_folders_and_the_single_file_give_the_same(sd3, tmp_path):
    wanted = PyramidDiffusionMMDiT.from_sd3(sd3).state_dict()
    assert all(torch.all(wanted[name] == 1) for name in wanted if ".norm_" in name and "norm_out" not in name)
    sd3.save_pretrained(tmp_path / "pipeline" / "transformer")
    save_file(original_layout(sd3), tmp_path / "sd3.safetensors")
    for source in ("pipeline", "pipeline/transformer", "sd3.safetensors"):
        made = PyramidDiffusionMMDiT.from_sd3(str(tmp_path / source)).state_dict()
        assert wanted.keys() == made.keys()
        assert all(torch.equal(wanted[name], made[name]) for name in wanted)


def original_layout(model: SD3Transformer2DModel) -> dict[str, torch.Tensor]:
    """The names of the single file: qkv as one, scale and shift of the last norm the other way round."""
    ours = model.state_dict()
    names = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
        "context_embedder": "context_embedder",
        "final_layer.linear": "proj_out",
    }
    made = {"pos_embed": ours["pos_embed.pos_embed"]}
    for kind in ("weight", "bias"):
        made |= {f"{new}.{kind}": ours[f"{old}.{kind}"] for new, old in names.items()}
        scale, shift = ours[f"norm_out.linear.{kind}"].chunk(2)
        made[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat([shift, scale])
        for index in range(SIZES["num_layers"]):
            made |= original_block(ours, index, index == SIZES["num_layers"] - 1, kind)
    return {f"model.diffusion_model.{name}": value.contiguous() for name, value in made.items()}


def original_block(ours, index: int, last: bool, kind: str) -> dict[str, torch.Tensor]:
    block, made = f"transformer_blocks.{index}", {}
    sides = {"x_block": ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "norm1", "ff")}
    added = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
    sides["context_block"] = (*added, "norm1_context", "ff_context")
    for side, (q, k, v, out, norm, ff) in sides.items():
        joint = f"joint_blocks.{index}.{side}"
        made[f"{joint}.attn.qkv.{kind}"] = torch.cat([ours[f"{block}.{name}.{kind}"] for name in (q, k, v)])
        modulation = ours[f"{block}.{norm}.linear.{kind}"]
        if last and side == "context_block":
            modulation = torch.cat(modulation.chunk(2)[::-1])
        made[f"{joint}.adaLN_modulation.1.{kind}"] = modulation
        if not (last and side == "context_block"):
            made[f"{joint}.attn.proj.{kind}"] = ours[f"{block}.{out}.{kind}"]
            made[f"{joint}.mlp.fc1.{kind}"] = ours[f"{block}.{ff}.net.0.proj.{kind}"]
            made[f"{joint}.mlp.fc2.{kind}"] = ours[f"{block}.{ff}.net.2.{kind}"]
    return made


def test_what_is_not_sd3_medium_is_refused_with_its_reason(sd3, tmp_path):
    for other in (make(dual_attention_layers=(0,), qk_norm="rms_norm"), make(qk_norm="rms_norm")):
        with pytest.raises(ValueError, match="Stable Diffusion 3.5"):
            PyramidDiffusionMMDiT.from_sd3(other)
    weights = original_layout(sd3) | {"joint_blocks.0.x_block.attn.ln_q.weight": torch.ones(64)}
    save_file(weights, tmp_path / "sd35.safetensors")
    with pytest.raises(ValueError, match="Stable Diffusion 3.5"):
        PyramidDiffusionMMDiT.from_sd3(tmp_path / "sd35.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    for source, why in (("x.safetensors", "no joint_blocks"), ("gone", "neither a file nor a folder")):
        with pytest.raises(ValueError, match=why):
            PyramidDiffusionMMDiT.from_sd3(tmp_path / source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^'.*empty' holds no transformer of Stable Diffusion 3: .+$"):
        PyramidDiffusionMMDiT.from_sd3(tmp_path / "empty")
    (tmp_path / "x.ckpt").touch()
    with pytest.raises(ValueError, match="can run programs"):
        PyramidDiffusionMMDiT.from_sd3(tmp_path / "x.ckpt")
    config, weights = read_sd3(sd3)
    weights = weights | {"more": torch.ones(1)}
    weights.pop("proj_out.bias")
    with pytest.raises(ValueError, match="missing: proj_out.bias; left over: more"):
        fill(PyramidDiffusionMMDiT(**config), weights)


@torch.no_grad()
def test_measured_gains_come_nearer_to_sd3_than_ones(sd3):
    x = inputs()
    wanted = theirs(sd3, x)
    ours = PyramidDiffusionMMDiT.from_sd3(sd3)
    ones = error(ours(**arguments(x))[:, :, 0], wanted)
    measure_gains(ours, [arguments(inputs()) for _ in range(2)])
    gain = ours.transformer_blocks[0].attn.norm_q.weight
    assert gain.unique().numel() == 1 and abs(gain[0].item() - 1) > 0.01
    assert error(ours(**arguments(x))[:, :, 0], wanted) < ones


@pytest.mark.parametrize("source", ["embedded", "/nonexist", "", "a b/c", "~/x", "a/b/c", None, 5])
def test_only_what_may_be_a_repository_is_asked_for_on_the_hub(monkeypatch, source):
    monkeypatch.setattr(SD3Transformer2DModel, "from_pretrained", None)  # it would be called otherwise
    with pytest.raises(
        ValueError, match=r"give a folder or a repository \(owner/name\).*sd3-medium$"
    ) as told:
        PyramidDiffusionMMDiT.from_sd3(source)
    assert repr(source) in str(told.value) and "\n" not in str(told.value)


def test_short_names_and_repositories_are_asked_for(sd3, monkeypatch):
    asked = []
    monkeypatch.setattr(
        SD3Transformer2DModel, "from_pretrained", lambda name, **how: asked.append((name, how)) or sd3
    )
    for source in ("sd3-medium", "some-owner/a_name.2"):
        PyramidDiffusionMMDiT.from_sd3(source)
    whole = {"subfolder": "transformer"}
    assert asked == [
        ("stabilityai/stable-diffusion-3-medium-diffusers", whole),
        ("some-owner/a_name.2", whole),
    ]
