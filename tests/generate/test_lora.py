"""LoRA: every key form is the same change of the same weights, stacked linearly, gone without a trace."""

import json
from argparse import Namespace

import pytest
import torch
from helpers import error
from safetensors.torch import save_file
from tiny import make_transformer, randomize

from pyramid.commands.cli import parser
from pyramid.generate import loaded as loaded_module
from pyramid.generate.loaded import Loaded, ModelHolder, load_for
from pyramid.generate.lora import adapters_of, name_of, read_lora, save_lora
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.hub.loras import find_lora, list_loras, named_lora
from pyramid.settings import Settings, SettingsError, loras_of

PROMPT = "a red ball stays still"


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return PyramidFlowPipeline.from_pretrained(tiny_checkpoint)


@pytest.fixture(autouse=True)
def clean(pipe):
    yield
    pipe.unload_lora_weights()


def make_lora(transformer, rank: int = 3, seed: int = 0, only: str = "attn") -> dict[str, torch.Tensor]:
    """A strong random LoRA of some layers, in diffusers' key form."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, module in transformer.named_modules():
        if isinstance(module, torch.nn.Linear) and only in name:
            a = torch.randn(rank, module.in_features, generator=generator)
            b = torch.randn(module.out_features, rank, generator=generator) * 0.3
            made |= {f"transformer.{name}.lora_A.weight": a, f"transformer.{name}.lora_B.weight": b}
    return made


def latents(pipe) -> torch.Tensor:
    settings = {"seed": 1, "num_frames": 9, "width": 64, "height": 64, "num_inference_steps": 1}
    return pipe(PROMPT, output_type="latent", **settings).frames


def merged(pipe, *loras: tuple[dict, float]) -> torch.Tensor:
    """What comes out when the changes are added to the weights by hand."""
    transformer = pipe.transformer
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    with torch.no_grad():
        for lora, strength in loras:
            for key in [key for key in lora if key.endswith("lora_A.weight")]:
                name = key.removeprefix("transformer.").removesuffix(".lora_A.weight")
                change = lora[key.replace("lora_A", "lora_B")] @ lora[key]
                transformer.get_submodule(name).weight += strength * change
    try:
        return latents(pipe)
    finally:
        transformer.load_state_dict(before)


def test_two_stacked_by_strength_are_the_sum_of_their_changes_and_leave_no_trace(pipe, tmp_path):
    base = latents(pipe)
    one, two = make_lora(pipe.transformer), make_lora(pipe.transformer, rank=2, seed=1, only="to_")
    save_file(two, tmp_path / "pytorch_lora_weights.safetensors")
    pipe.load_lora_weights(one, adapter_name="one")
    assert error(latents(pipe), merged_after_unload(pipe, one)) < 1e-4
    pipe.load_lora_weights(one, adapter_name="one")
    pipe.load_lora_weights(tmp_path, adapter_name="two")
    pipe.set_adapters(["one", "two"], [0.5, -0.8])
    both = latents(pipe)
    pipe.set_adapters("two", 0.0)
    assert torch.equal(latents(pipe), base)
    pipe.set_adapters(["two", "one"], [-0.8, 0.5])
    assert torch.allclose(latents(pipe), both, atol=1e-5)
    pipe.unload_lora_weights()
    assert torch.equal(latents(pipe), base) and error(both, base) > 0.01
    assert error(both, merged(pipe, (one, 0.5), (two, -0.8))) < 1e-4


def test_two_on_the_same_layers_are_the_weight_and_both_changes_by_their_strengths():
    transformer = randomize(make_transformer("miniflux"))
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    one, two = make_lora(transformer, only="to_"), make_lora(transformer, rank=2, seed=1, only="to_q")
    two |= make_lora(
        transformer, rank=4, seed=2, only="proj_out"
    )  # also of another rank, at the end of a name
    adapters = adapters_of(transformer)
    adapters.add("one", read_lora(one, transformer))
    adapters.add("two", read_lora(two, transformer))
    adapters.set(["one", "two"], [0.8, -0.5])
    for lora in (one, two):
        for name in {key.removeprefix("transformer.").rpartition(".lora_")[0] for key in lora}:
            layer = transformer.get_submodule(name)
            deltas = sum(layer.get_delta_weight(a) for a in layer.active_adapters if a in layer.lora_A)
            wanted = torch.zeros_like(deltas)
            for other, strength in ((one, 0.8), (two, -0.5)):
                if f"transformer.{name}.lora_A.weight" in other:
                    a, b = (other[f"transformer.{name}.lora_{part}.weight"] for part in "AB")
                    wanted += strength * b @ a
            assert torch.equal(layer.base_layer.weight, before[f"{name}.weight"]), name
            assert torch.allclose(deltas, wanted, atol=1e-5), name
    with pytest.raises(ValueError, match="there is a LoRA 'two' already"):
        adapters.add("two", read_lora(one, transformer))
    adapters.clear()
    after = transformer.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def merged_after_unload(pipe, lora) -> torch.Tensor:
    pipe.unload_lora_weights()
    return merged(pipe, (lora, 1.0))


def forms(lora: dict[str, torch.Tensor], alpha: float) -> dict[str, dict[str, torch.Tensor]]:
    """The same LoRA as other programs write it. alpha goes into B where a form has no place for it."""
    made: dict[str, dict[str, torch.Tensor]] = {"comfy": {}, "kohya": {}, "old": {}, "peft": {}}
    for key, value in lora.items():
        name, _, part = key.removeprefix("transformer.").removesuffix(".weight").rpartition(".")
        rank = value.shape[0] if part == "lora_A" else value.shape[1]
        scaled = value if part == "lora_A" else value * alpha / rank
        way = "down" if part == "lora_A" else "up"
        made["comfy"][f"diffusion_model.{name}.{part}.weight"] = scaled
        made["peft"][f"base_model.model.{name}.{part}.default.weight"] = scaled
        made["old"][f"transformer.{name}.lora.{way}.weight"] = scaled
        made["kohya"][f"lora_unet_{name.replace('.', '_')}.lora_{way}.weight"] = value
        made["kohya"][f"lora_unet_{name.replace('.', '_')}.alpha"] = torch.tensor(alpha)
    return made


@pytest.mark.parametrize("family", ["miniflux", "sd3"])
def test_other_programs_key_forms_are_the_same_lora(family):
    transformer = make_transformer(family)
    lora = make_lora(transformer, only="")
    kinds = forms(lora, alpha=6.0)
    wanted = read_lora(kinds.pop("comfy"), transformer)
    assert len(wanted) == len(lora)
    for kind, weights in kinds.items():
        found = read_lora(weights, transformer)
        assert found.keys() == wanted.keys(), kind
        assert all(torch.allclose(found[name], wanted[name]) for name in wanted), kind


@pytest.mark.parametrize(
    "family, name, targets",
    [
        ("miniflux", "double_blocks.0.img_attn.qkv", ("to_q", "to_k", "to_v")),
        ("miniflux", "double_blocks.0.txt_attn.qkv", ("add_q_proj", "add_k_proj", "add_v_proj")),
        ("miniflux", "single_blocks.0.linear1", ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")),
        ("sd3", "joint_blocks.1.x_block.attn.qkv", ("to_q", "to_k", "to_v")),
    ],
)
def test_fused_layers_are_cut(family, name, targets):
    transformer = make_transformer(family)
    block = "single_transformer_blocks.0" if "single" in name else f"transformer_blocks.{name.split('.')[1]}"
    names = [f"{block}.{'' if 'single' in name else 'attn.'}{target}" for target in targets]
    sizes = [transformer.get_submodule(target).out_features for target in names]
    a, b = torch.randn(2, 32), torch.randn(sum(sizes), 2)
    for key in (
        f"diffusion_model.{name}.lora_A.weight",
        f"lora_unet_{name.replace('.', '_')}.lora_down.weight",
    ):
        other = key.replace("lora_A", "lora_B").replace("lora_down", "lora_up")
        made = read_lora({key: a, other: b}, transformer)
        cut = torch.cat([made[f"{target}.lora_B.weight"] for target in names])
        assert torch.equal(cut, b) and all(torch.equal(made[f"{t}.lora_A.weight"], a) for t in names)


def pair(a, b, alpha=None):
    """The tensors of a LoRA of one layer."""
    names = {"lora_A.weight": a, "lora_B.weight": b, "alpha": alpha}
    return {f"transformer.proj_out.{name}": value for name, value in names.items() if value is not None}


@pytest.mark.parametrize(
    "weights, why",
    [
        ({"transformer.other.lora_A.weight": torch.zeros(1, 2)}, "no LoRA of this model"),
        ({"x.dora_scale": torch.zeros(1)}, "is a DoRA"),
        ({"x.hada_w1_a": torch.zeros(1)}, "is a LoHa"),
        ({}, "no weights"),
        (
            {
                "transformer.proj_out.lora_A.weight": torch.zeros(4, 3072),
                "transformer.proj_out.lora_B.weight": torch.zeros(64, 4),
            },
            r"proj_out \[64, 4\]×\[4, 3072\]",
        ),
        ({"transformer.proj_out.lora_A.weight": torch.zeros(4, 32)}, "these do not fit: proj_out"),
        (pair(torch.full((4, 32), torch.nan), torch.zeros(64, 4)), "proj_out hold NaN or infinity"),
        (pair(torch.zeros(4, 32), torch.full((64, 4), torch.inf)), "proj_out hold NaN or infinity"),
        (pair(torch.zeros(0, 32), torch.zeros(64, 0)), "these do not fit: proj_out"),
        (pair(torch.tensor(1.0), torch.zeros(64, 4)), "these do not fit: proj_out"),
        (pair(torch.zeros(4, 32), torch.zeros(64, 4), torch.zeros(2)), "these do not fit: proj_out"),
        (pair(torch.zeros(4, 32, dtype=torch.int8), torch.zeros(64, 4)), "proj_out are int8: floating"),
        (pair(torch.zeros(4, 32), torch.zeros(64, 4).to(torch.complex64)), "proj_out are complex64"),
        (pair(1, 2), "proj_out.lora_A.weight', int: tensors by name are expected"),
        (
            {f"proj_out.lora_A.{name}.weight": torch.zeros(4, 32) for name in ("one", "two")},
            "proj_out is changed twice, by proj_out.lora_A.one.weight and proj_out.lora_A.two.weight",
        ),
        (
            pair(torch.zeros(4, 32), None) | {"lora_unet_proj_out.lora_down.weight": torch.zeros(4, 32)},
            "proj_out is changed twice",
        ),
        (
            {
                "double_blocks.0.img_attn.qkv.lora_A.weight": torch.zeros(4, 32),
                "transformer.transformer_blocks.0.attn.to_k.lora_A.weight": torch.zeros(4, 32),
            },
            "attn.to_k is changed twice",
        ),
        (None, "None is no LoRA"),
        (5, "5 is no LoRA"),
        ("", "'' is no LoRA"),
    ],
)
def test_a_lora_of_another_model_or_kind_is_refused_with_what_does_not_fit(pipe, weights, why):
    with pytest.raises(ValueError, match=why):
        pipe.load_lora_weights(weights)
    assert not adapters_of(pipe.transformer).all


def test_what_is_trained_with_peft_is_saved_with_its_alpha_and_comes_back(tmp_path):
    from peft import LoraConfig

    trained = randomize(make_transformer("miniflux"))
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_v"], init_lora_weights=False)
    trained.add_adapter(config)
    path = save_lora(trained, tmp_path / "sketch", config)
    assert path.name == "pytorch_lora_weights.safetensors"
    weights = read_lora(tmp_path / "sketch", make_transformer("miniflux"))
    layer = trained.transformer_blocks[0].attn.to_q
    wanted = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    name = "transformer_blocks.0.attn.to_q"
    assert layer.scaling["default"] == 2
    made = weights[f"{name}.lora_B.weight"] @ weights[f"{name}.lora_A.weight"]
    assert torch.allclose(made, wanted, atol=1e-6)


def with_alphas(transformer, folder, alphas):
    """A LoRA of rank 4 and alpha 4 beside its configuration, as peft writes it, and the scale of a layer."""
    lora = make_lora(transformer, rank=4, only="attn.")
    save_file(
        {f"base_model.model.{key.removeprefix('transformer.')}": value for key, value in lora.items()},
        folder / "adapter_model.safetensors",
    )
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 4, "alpha_pattern": alphas}))
    made = read_lora(folder, transformer)

    def scale(name: str) -> float:
        key = f"{name}.lora_B.weight"
        return float((made[key] / lora[f"transformer.{key}"]).mean())

    return scale


def test_layers_with_an_alpha_of_their_own_are_found_as_peft_finds_them(tmp_path):
    from peft import LoraConfig

    alphas = {
        "to_q": 16,
        "transformer_blocks.0.attn.to_q": 1,
        r"single_transformer_blocks\.\d+.*to_k": 8,
        "k": 2,
    }
    scale = with_alphas(make_transformer("miniflux"), tmp_path, alphas)
    trained = make_transformer("miniflux")
    trained.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k"], alpha_pattern=alphas))
    found = set()
    for name, layer in trained.named_modules():
        if hasattr(layer, "scaling"):
            found.add(layer.scaling["default"])
            assert scale(name) == pytest.approx(layer.scaling["default"]), name
    assert found == {4.0, 2.0, 1.0}


@pytest.mark.parametrize(
    "alphas, why",
    [
        ({"(.*)*x": 4}, "is too involved"),
        ({"(a|b)+.to_q": 4}, "is too involved"),
        ({".*.*.*.*to_q": 4}, "is too involved"),
        ({"(to_q": 4}, "is no pattern"),
        ({"to_q": "much"}, "alpha_pattern 'to_q' = 'much': a number is expected"),
        (["to_q"], "a table of numbers by layers is expected"),
    ],
)
def test_patterns_of_alphas_that_cannot_be_used_are_refused(tmp_path, alphas, why):
    with pytest.raises(ValueError, match=why):
        with_alphas(make_transformer("miniflux"), tmp_path, alphas)


def test_names_are_looked_up_in_the_folder_of_loras(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRAMID_LORAS", str(tmp_path / "loras"))
    with pytest.raises(ValueError, match="there: none"):
        find_lora("sketch")
    (tmp_path / "loras" / "slow").mkdir(parents=True)
    for path in ("sketch.safetensors", "slow/pytorch_lora_weights.safetensors"):
        save_file({"x": torch.zeros(1)}, tmp_path / "loras" / path)
    assert list_loras() == ["sketch", "slow"] and find_lora("slow").parent.name == "slow"
    assert find_lora(tmp_path / "loras" / "sketch.safetensors") == find_lora("sketch")
    assert named_lora("slow") == "slow" == name_of(find_lora("slow"))
    with pytest.raises(ValueError, match="no LoRA"):
        named_lora("../loras/sketch")
    (tmp_path / "x.bin").touch()
    with pytest.raises(ValueError, match="can run programs"):
        find_lora(tmp_path / "x.bin")
    for odd, why in (("/", "no LoRA '/'"), ("a" * 300, "cannot be looked for: File name too long")):
        with pytest.raises(ValueError, match=why):
            find_lora(odd)
    save_file({"x": torch.zeros(1)}, tmp_path / "loras" / "slow" / "late.safetensors")
    assert find_lora("slow", "late.safetensors") == tmp_path / "loras" / "slow" / "late.safetensors"
    with pytest.raises(ValueError, match=r"no 'early\.safetensors' in the LoRA 'slow'"):
        find_lora("slow", "early.safetensors")


def test_what_a_lora_names_is_looked_for_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRAMID_LORAS", str(tmp_path))
    monkeypatch.setattr(loaded_module, "load_quickly", None)
    with pytest.raises(ValueError, match="there is no LoRA '/'"):
        ModelHolder().bring(Settings(prompt="x", lora="/:0.5"))


def test_the_file_of_a_folder_and_weights_are_said_as_in_diffusers(pipe, tmp_path):
    one, two = make_lora(pipe.transformer), make_lora(pipe.transformer, seed=1)
    save_file(one, tmp_path / "one.safetensors")
    save_file(two, tmp_path / "two.safetensors")
    pipe.load_lora_weights(tmp_path, weight_name="two.safetensors")
    pipe.load_lora_weights(tmp_path, weight_name="one.safetensors", adapter_name="first")
    pipe.set_adapters(["two", "first"], [None, 0.5])
    strengths = {name: adapter.strength for name, adapter in adapters_of(pipe.transformer).all.items()}
    assert strengths == {"two": 1.0, "first": 0.5}
    for odd in ("much", [1.0, {}], float("nan"), [True, "x"]):
        with pytest.raises(ValueError, match="is no strength: a number"):
            pipe.set_adapters(["two", "first"], odd)


def test_the_setting_says_names_and_strengths():
    assert loras_of("sketch:0.8, slow,C:\\x:1") == (("sketch", 0.8), ("slow", 1.0), ("C:\\x", 1.0))
    assert loras_of("") == ()
    for wrong in (":0.5", "a:9", "a:nan", "a,a:2"):
        with pytest.raises(SettingsError):
            Settings(prompt="x", lora=wrong).validate()
    args = parser("generate").parse_args(["generate", "--prompt", "x", "--lora", "a:0.5", "--lora", "b"])
    assert isinstance(args, Namespace) and args.lora == "a:0.5, b"
    assert json.loads(json.dumps(Settings(lora=args.lora).to_dict()))["lora"] == "a:0.5, b"


def test_what_settings_need_has_their_loras_at_work(tiny_checkpoint, pipe, tmp_path, monkeypatch):
    monkeypatch.setenv("PYRAMID_LORAS", str(tmp_path))
    save_file(make_lora(pipe.transformer), tmp_path / "one.safetensors")
    made = load_for(Settings(prompt=PROMPT, model=str(tiny_checkpoint), lora="one:0.5"))
    strengths = {name: each.strength for name, each in adapters_of(made.transformer).all.items()}
    assert strengths == {"lora-0": 0.5}


def test_a_loaded_model_follows_what_the_settings_ask_for(pipe, tmp_path, monkeypatch):
    monkeypatch.setenv("PYRAMID_LORAS", str(tmp_path))
    one, two = make_lora(pipe.transformer), make_lora(pipe.transformer, rank=2, seed=1)
    save_file(one, tmp_path / "one.safetensors")
    save_file(two, tmp_path / "two.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "odd.safetensors")
    loaded, base = Loaded((), None, pipe, {}), latents(pipe)
    loaded.adapt("one:0.5")
    half = latents(pipe)
    loaded.adapt("one:1.0")
    assert error(latents(pipe), half) > 0.001
    with pytest.raises(ValueError, match="no LoRA of this model"):
        loaded.adapt("one, odd")
    assert torch.equal(latents(pipe), base)
    loaded.adapt("one:0.5, two:-0.25")
    both = latents(pipe)
    loaded.adapt("one:0")
    assert torch.equal(latents(pipe), base)
    assert error(both, merged(pipe, (one, 0.5), (two, -0.25))) < 1e-4
    loaded.adapt("one:0.5")
    assert torch.equal(latents(pipe), half)
    loaded.adapt("")
    assert torch.equal(latents(pipe), base)
