"""Plans: what they estimate is what is alive, the fastest that fits is chosen,
and following one changes no result.
"""

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.hooks import HookRegistry
from diffusers.hooks.group_offloading import LazyPrefetchGroupOffloadingHook
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from pyramid.events import Preview
from pyramid.generate.latents import history
from pyramid.generate.loaded import load_pipeline
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.hub.checkpoints import find
from pyramid.hub.families import MINIFLUX, Dimensions
from pyramid.memory.estimate import Shape, Size, component_sizes, decoder_elements, tile_sizes
from pyramid.memory.ladder import tighten
from pyramid.memory.loading import fetch_ahead, lift, load_text, place
from pyramid.memory.machine import Machine, cgroup_limits
from pyramid.memory.placement import Part
from pyramid.memory.plan import CARDS_RAM, DIFFUSERS_RAM, UNIT_RAM, make_plan, plans
from pyramid.models.flux import PyramidFluxTransformer
from pyramid.models.vae import CausalVideoVAE
from pyramid.settings import Settings, SettingsError

GB = 10**9
PUBLISHED = {
    "transformer": Size(1_972_000_000, 3_944_000_000, 2),
    "vae": Size(335_400_000, 670_800_000, 2),
    "text_encoder": Size(123_000_000, 246_000_000, 2),
    "text_encoder_2": Size(4_762_000_000, 9_524_000_000, 2),
}


class Alive(TorchDispatchMode):
    """Counts bytes of tensors while they live, from their birth in here."""

    def __init__(self):
        super().__init__()
        self.seen, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self.count, result)
        return result

    def count(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:
            key, size = storage.data_ptr(), storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            self.seen[key] = weakref.ref(storage, lambda _: self.gone(key, size))
        return tensor

    def gone(self, key, size):
        self.seen.pop(key, None)
        self.now -= size


@torch.no_grad()
def test_the_decoder_holds_what_is_estimated():
    channels = (16, 32, 64, 64)
    vae = CausalVideoVAE(
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        decoder_layers_per_block=(1, 1, 1, 1),
        decoder_norm_num_groups=1,
        encoder_norm_num_groups=1,
    )
    vae.bfloat16().eval()
    stream = vae.stream()
    stream(torch.randn(1, 16, 1, 8, 12, dtype=torch.bfloat16))  # first units are smaller
    with Alive() as alive:
        frames = stream(torch.randn(1, 16, 2, 8, 12, dtype=torch.bfloat16))
    kept, working = decoder_elements(vae.config, 12, 8)
    assert frames.shape == (1, 3, 16, 64, 96)
    # The caches of the unit before are not counted, those of the new unit are.
    assert alive.peak == pytest.approx(2 * (kept + working), rel=0.15)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_holds_what_is_estimated(dtype, tiny_checkpoint):
    model = (
        PyramidFluxTransformer(
            num_layers=1,
            num_single_layers=2,
            num_attention_heads=3,
            joint_attention_dim=64,
            pooled_projection_dim=64,
        )
        .to(dtype)
        .eval()
    )
    units, height, width = 6, 384, 640
    past = [torch.randn(1, 16, 1, height // 8, width // 8) for _ in range(units - 1)]
    with Alive() as alive:
        clips = [clip.to(dtype).repeat(2, 1, 1, 1, 1) for clip in history(past, 2, 3)]
        context = model.prepare(
            clips, (1, height // 8, width // 8), torch.randn(2, 128, 64, dtype=dtype), torch.ones(2, 128)
        )
        model.denoise(
            torch.randn(2, 16, 1, height // 8, width // 8, dtype=dtype),
            torch.full((2,), 500.0),
            torch.randn(2, 64, dtype=dtype),
            context,
        )
    shape = Shape(width, height, units, 3, 2, MINIFLUX, Dimensions(192, 64, 3), {})
    assert shape.tokens() == context.table.shape[0]
    assert shape.sampling(model.proj_out.weight.element_size(), cpu=True) == pytest.approx(
        alive.peak, rel=0.2
    )


PEAKS = {  # MB of the process, by frames: the shipped model on two cores, measured by tools/peaks.py
    "bfloat16": {1: 345, 9: 402, 25: 417, 41: 437, 57: 453},
    "float32": {1: 387, 9: 484, 25: 504, 41: 517, 57: 537},
}


@pytest.mark.parametrize("dtype", PEAKS)
def test_the_peak_of_a_clip_is_near_what_was_measured(dtype, monkeypatch):
    """What the estimate is made of: libraries, weights, the decode, and what each unit leaves."""
    monkeypatch.setattr("pyramid.memory.plan.built_for_cards", lambda: False)
    machine = Machine(free_ram=2**34, total_ram=2**34, bfloat16=True)
    asked = Settings.for_model("embedded", "128p", prompt="x", device="cpu", dtype=dtype)

    def estimated(**changes) -> float:
        plan = make_plan(find("embedded", "128p"), replace(asked, **changes), machine)
        return plan.estimate.ram / 1e6

    for frames, measured in PEAKS[dtype].items():
        assert estimated(num_frames=frames) == pytest.approx(measured, rel=0.1), frames
    assert estimated(num_frames=57) - estimated(num_frames=9) == pytest.approx(6 * UNIT_RAM / 1e6)
    more = estimated(num_frames=25, lora="mine:0.5") - estimated(num_frames=25)
    assert more == pytest.approx(DIFFUSERS_RAM / 1e6)  # which only diffusers takes
    assert estimated(num_frames=25, lora="mine:0") == estimated(num_frames=25)
    here = estimated(num_frames=25)
    monkeypatch.setattr("pyramid.memory.plan.built_for_cards", lambda: True)
    assert estimated(num_frames=25) - here == pytest.approx(CARDS_RAM / 1e6)


def test_tiles_are_those_of_the_vae():
    vae, seen = CausalVideoVAE(**small()), []
    vae.enable_tiling(64)
    vae._in_tiles(
        torch.zeros(1, 16, 1, 12, 20),
        lambda tile, _: seen.append(tile.shape[:-3:-1]) or tile.repeat(1, 1, 1, 8, 8),
        encode=False,
    )
    assert seen == tile_sizes(160, 96, 64)
    assert tile_sizes(160, 96, 256) == tile_sizes(160, 96, None) == [(20, 12)]


def small() -> dict:
    half = dict(layers_per_block=(1,) * 4, block_out_channels=(8,) * 4, norm_num_groups=2)
    return {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in half.items()}


@torch.no_grad()
def test_all_units_of_a_tile_first_is_the_same_as_unit_by_unit():
    vae = CausalVideoVAE(**small()).eval()
    latents = torch.randn(1, 16, 3, 12, 16)
    vae.enable_tiling(64)
    stream = vae.stream()
    streamed = torch.cat([stream(unit) for unit in latents.split(1, dim=2)], dim=2)
    assert torch.equal(vae.decode(latents).sample, streamed)


# -- machines


def card(vram: float, ram: float = 64, **known) -> Machine:
    known = {"capability": (8, 9), "bfloat16": True, "quantizes": True} | known
    return Machine("cpu", "made up", int(vram * GB), int(vram * GB), int(ram * GB), int(ram * GB), **known)


@pytest.fixture
def published(monkeypatch, tiny_checkpoint):
    """Plans for the published miniFLUX without its files. Rates are this machine's:
    only their order matters.
    """
    from pyramid.memory import plan as memory

    monkeypatch.setattr(memory, "component_sizes", lambda checkpoint: PUBLISHED)
    shape = Shape(1280, 768, 16, 3, 2, MINIFLUX, Dimensions(1920, 64, 24), {})
    monkeypatch.setattr(memory.Shape, "of", lambda checkpoint, settings: shape)
    monkeypatch.setattr(
        "pyramid.memory.loading.matmul_rate", lambda device, dtype: 1e14 if device != "cpu" else 1e11
    )
    return find(tiny_checkpoint)


def chosen(checkpoint, machine: Machine):
    settings = Settings.for_model("miniflux", "768p", prompt="x")
    return make_plan(checkpoint, settings, replace(machine, device="cuda:0"))


def test_smaller_cards_get_slower_plans(published):
    names = [chosen(published, card(vram)).name for vram in (80, 24, 7.6, 5, 1)]
    assert names == ["max", "balanced", "low", "tiny", "cpu"]


def test_the_choice_comes_with_its_reasons(published):
    plan = chosen(published, card(12))
    assert plan.fits and plan.estimate.vram < 12 * GB
    assert "fastest that fits" in plan.reasons[0] and "max would need" in plan.reasons[1]


def test_large_frames_are_decoded_tile_by_tile_where_their_caches_do_not_fit(published):
    plan = chosen(published, card(12))
    assert plan.window == 0 and plan.tile
    shape = Shape(1280, 768, 16, 3, 2, MINIFLUX, Dimensions(1920, 64, 24), {})
    assert shape.decoding(2, 256, window=1) > 5 * shape.decoding(2, 256, window=0)


def test_what_needs_less_takes_longer(published):
    settings = Settings.for_model("miniflux", "768p", prompt="x")
    every = plans(published, settings, replace(card(80), device="cuda:0"))
    assert [plan.name for plan in every] == ["max", "balanced", "low", "tiny", "cpu"]
    needs = [plan.estimate.vram for plan in every]
    assert needs == sorted(needs, reverse=True) and needs[-1] == 0


def test_an_older_card_gets_guarded_float16(published):
    plan = chosen(published, card(24, capability=(7, 5), bfloat16=False))
    assert plan.guard and plan.transformer.dtype == "float16"
    assert plan.vae.dtype == "float32" and plan.text.dtype == "bfloat16"
    assert chosen(published, card(24, capability=(7, 0), bfloat16=False)).text.dtype == "float32"
    assert not chosen(published, card(24)).guard


def test_where_a_step_cannot_be_taken_again_nothing_is_float16(published):
    old = dict(capability=(7, 5), bfloat16=False)
    tiny = chosen(published, card(6.5, **old))
    assert tiny.name == "tiny" and tiny.transformer.dtype == "float32" and not tiny.guard
    machine = replace(card(40, **old), device="cuda:0")
    settings = Settings.for_model("miniflux", "768p", prompt="x", quantize="fp8")
    assert not any(plan.guard for plan in plans(published, settings, machine))
    with pytest.raises(SettingsError, match="float16.*quantize.*auto"):
        plans(published, replace(settings, dtype="float16"), machine)


def test_what_waits_in_main_memory_waits_while_texts_are_read(published):
    settings, machine = Settings.for_model("miniflux", "768p", prompt="x"), replace(card(8), device="cuda:0")
    tiny = next(plan for plan in plans(published, settings, machine) if plan.name == "tiny")
    waiting = PUBLISHED["transformer"].bytes_in(2) * 1.3
    assert tiny.estimate.ram - tiny.estimate.file > waiting


def test_processes_that_share_a_transformer_keep_it_where_it_is(published):
    settings = Settings.for_model("miniflux", "768p", prompt="x")
    small, large = (replace(card(vram), device="cuda:0") for vram in (8, 80))
    assert make_plan(published, settings, small, resident=True).name == "balanced"
    assert make_plan(published, settings, large, resident=True).name == "max"
    with pytest.raises(SettingsError, match="low.*several processes.*balanced"):
        make_plan(published, settings, large, "low", resident=True)
    assert make_plan(published, settings, Machine(), "cpu", resident=True).name == "cpu"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("int8", ["max", "balanced", "cpu"]),
        ("nf4", ["max", "balanced", "cpu"]),
        ("fp8", ["max", "balanced", "low", "tiny", "cpu"]),
    ],
)
def test_fewer_bits_need_less_of_a_card(published, kind, names):
    settings, machine = Settings.for_model("miniflux", "768p", prompt="x"), replace(card(1), device="cuda:0")
    usual = {plan.name: plan for plan in plans(published, settings, machine)}
    every = plans(published, replace(settings, quantize=kind), machine)
    assert [plan.name for plan in every] == names
    for plan in every[:-1]:
        assert plan.transformer.quantized == kind and plan.estimate.vram < usual[plan.name].estimate.vram
        assert (
            plan.text.quantized == (kind if kind != "fp8" and plan.name == "max" else "")
            and not plan.vae.quantized
        )
    assert every[-1].transformer.quantized == ("fp8" if kind == "fp8" else "")


@pytest.mark.parametrize(
    ("machine", "changes", "says"),
    [
        (card(0, quantizes=False), dict(quantize="int8"), "needs bitsandbytes.*fp8"),
        (replace(card(24), device="mps"), dict(quantize="fp8"), "not on mps: choose none"),
        (Machine(), dict(dtype="float16"), "processor.*bfloat16"),
    ],
)
def test_a_precision_that_gains_nothing_is_refused(published, machine, changes, says):
    settings = Settings.for_model("miniflux", "768p", prompt="x", **changes)
    with pytest.raises(SettingsError, match=says):
        plans(published, settings, machine)


@pytest.mark.parametrize("device", ["mps", "xpu", "cuda"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(SettingsError, match=f"{device}.*auto or cpu"):
        Machine.here(device)


def test_pages_of_files_are_not_counted_twice(tmp_path):
    from pyramid.memory.machine import ram

    path = tmp_path / "weights"
    path.write_bytes(bytes(300 * 2**20))
    before, _ = ram()
    mapped = np.memmap(path)
    mapped[::4096].sum()
    assert ram()[0] - before < 150 * 2**20


def test_a_plan_that_needs_a_card_is_refused_without_one(tiny_checkpoint):
    settings = Settings.for_model(str(tiny_checkpoint), "128p", prompt="x", device="cpu")
    with pytest.raises(SettingsError, match="max.*graphics card.*cpu"):
        make_plan(find(tiny_checkpoint), settings, wanted="max")
    with pytest.raises(SettingsError, match="no plan"):
        make_plan(find(tiny_checkpoint), settings, wanted="huge")


def test_what_does_not_fit_says_so(tiny_checkpoint):
    settings = Settings.for_model(str(tiny_checkpoint), "128p", prompt="x", device="cpu", dtype="float32")
    plan = make_plan(find(tiny_checkpoint), settings, Machine(free_ram=2**20, total_ram=2**20))
    assert not plan.fits and "main memory" in " ".join(plan.reasons)


def test_the_limit_of_a_container_counts(tmp_path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for folder, limit, used in ((tmp_path / "a", "3000", "1500"), (inner, "max", "900")):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text("anon 700\ninactive_file 500\n")
    (tmp_path / "self").write_text("0::/a/b\n")
    assert list(cgroup_limits(tmp_path, tmp_path / "self")) == [(3000, 1000)]
    assert list(cgroup_limits(tmp_path, tmp_path / "missing")) == []
    (inner / "memory.max").write_text("3 GB\n")
    with pytest.raises(ValueError, match="memory.max says '3 GB', where a number of bytes is expected"):
        list(cgroup_limits(tmp_path, tmp_path / "self"))
    (tmp_path / "self").write_text("what?\n")
    with pytest.raises(ValueError, match=r"says 'what\?'"):
        list(cgroup_limits(tmp_path, tmp_path / "self"))


def test_sizes_are_read_from_headers(tiny_checkpoint):
    checkpoint = find(tiny_checkpoint)
    sizes = component_sizes(checkpoint)
    assert set(sizes) == {"transformer", "vae", "text_encoder", "text_encoder_2"}
    model = PyramidFluxTransformer.from_pretrained(checkpoint.transformer)
    assert sizes["transformer"].parameters == sum(weight.numel() for weight in model.parameters())
    assert sizes["transformer"].itemsize == 4


@pytest.mark.parametrize("legacy", [True, False])
def test_sizes_are_read_from_both_forms_of_torch(copy, legacy):
    usual = component_sizes(find(copy))["vae"]
    path = next((copy / "causal_video_vae").glob("*.safetensors"))
    saved = path.with_suffix(".bin")
    torch.save(load_file(path), saved, _use_new_zipfile_serialization=not legacy)
    path.unlink()
    size = component_sizes(find(copy))["vae"]
    assert (size.parameters, size.itemsize) == (usual.parameters, usual.itemsize)
    torch.save({"weight": Path("program")}, saved)
    with pytest.raises(ValueError, match=f"^{saved.name} is damaged, or holds more than tensors"):
        component_sizes(find(copy))


# -- following plans

RUN = dict(
    num_frames=9,
    width=64,
    height=64,
    num_inference_steps=[1, 1, 1],
    video_num_inference_steps=[1, 1, 1],
    seed=3,
    output_type="np",
)


def test_a_plan_is_followed_and_can_be_changed(tiny_checkpoint):
    checkpoint = find(tiny_checkpoint)
    settings = Settings.for_model(
        str(tiny_checkpoint), "128p", prompt="a red ball", device="cpu", dtype="float32"
    )
    plan = make_plan(checkpoint, settings)
    pipe = load_pipeline(checkpoint, plan)
    usual = pipe("a red ball", **RUN).frames
    for part in ("block", "leaf"):  # offload from a CPU to a CPU: the order of things, without their gain
        offloaded = replace(
            plan, transformer=replace(plan.transformer, offload=part), vae=replace(plan.vae, offload="leaf")
        )
        place(pipe, offloaded)
        assert (
            abs(pipe("a red ball", **RUN).frames - usual).max() < 0.01
        )  # hooked layers do without the fused kernels
    place(pipe, plan)
    assert not any(
        getattr(m, "_diffusers_hook", None) and m._diffusers_hook.hooks for m in pipe.transformer.modules()
    )
    place(pipe, replace(plan, window=0))
    assert abs(pipe("a red ball", **RUN).frames - usual).max() < 0.01


def test_blocks_that_fetch_the_next_one_make_the_same(tiny_checkpoint):
    """What a stream needs on a card, in the same order without one."""
    checkpoint = find(tiny_checkpoint)
    settings = Settings.for_model(
        str(tiny_checkpoint), "128p", prompt="a red ball", device="cpu", dtype="float32"
    )
    pipe = load_pipeline(checkpoint, make_plan(checkpoint, settings))
    place(pipe, replace(pipe.plan, transformer=replace(pipe.plan.transformer, offload="block")))
    usual = pipe("a red ball", **RUN).frames
    fetch_ahead(pipe.transformer.blocks)
    first, last = (block._diffusers_hook.get_hook("group_offloading") for block in pipe.transformer.blocks)
    assert first.next_group is last.group and first.group.onload_self and not last.group.onload_self
    assert (pipe("a red ball", **RUN).frames == usual).all()


def test_hooks_that_never_ran_go_as_well(tiny_checkpoint):
    """diffusers' tracing hooks, which only a stream brings, and which go by themselves after the first call
    only.
    """
    pipe = PyramidFlowPipeline.from_pretrained(tiny_checkpoint)
    registry = HookRegistry.check_if_exists_or_initialize(pipe.transformer.transformer_blocks[0])
    registry.register_hook(LazyPrefetchGroupOffloadingHook(), "lazy_prefetch_group_offloading")
    lift(pipe)
    assert not registry.hooks


def test_no_weight_of_the_vae_is_read_past_the_hooks_that_bring_it(tiny_checkpoint):
    """Weights that are stored in another type show on a CPU what weights on another device show on a card."""
    vae, latents = PyramidFlowPipeline.from_pretrained(tiny_checkpoint).vae, torch.ones(1, 16, 2, 4, 4)
    with torch.no_grad():
        usual = vae.decode(latents).sample
        vae.enable_layerwise_casting(torch.bfloat16, torch.float32)
        video = vae.decode(latents).sample
        assert torch.isfinite(vae.encode(usual).latent_dist.mode()).all()
    assert 0 < float((video - usual).norm() / usual.norm()) < 0.05


def test_the_model_that_encoded_a_picture_goes_before_sampling(tiny_checkpoint):
    """Model offload on the CPU for want of a card, but with accelerate's own hooks."""
    pipe, gone = PyramidFlowPipeline.from_pretrained(tiny_checkpoint), []
    pipe.enable_model_cpu_offload(device="cpu")
    for hook in pipe._all_hooks:
        hook.offload = lambda hook=hook, offload=hook.offload: gone.append(hook.model) or offload()
    events = pipe.stream(*pipe.request("a red ball", image=np.zeros((64, 64, 3), np.uint8), **RUN))
    next(event for event in events if isinstance(event, Preview))
    events.close()
    assert gone == [pipe.transformer, pipe.vae]


def test_what_stays_on_a_card_stays(tiny_checkpoint):
    for offload, keep in (("", True), ("free", None), ("leaf", False)):
        assert load_text(tiny_checkpoint, Part("cpu", "float32", offload)).keep is keep


def test_text_is_read_in_8_bit_on_a_processor_too(tiny_checkpoint):
    """4 bit works there as well, from a width of 64 on: `python -m pyramid plan --compare` measures both."""
    pytest.importorskip("bitsandbytes")
    checkpoint = find(tiny_checkpoint)
    settings = Settings.for_model(
        str(tiny_checkpoint), "128p", prompt="a red ball", device="cpu", dtype="float32"
    )
    plan = make_plan(checkpoint, settings)
    plain, packed = (
        load_pipeline(checkpoint, replace(plan, text=replace(plan.text, quantized=kind)))
        .text.encode("a red ball")
        .prompt_embeds.float()
        for kind in ("", "int8")
    )
    assert 0 < float((packed - plain).norm() / plain.norm()) < 0.1


def test_weights_are_stored_in_8_bit_as_the_settings_say(tiny_checkpoint):
    checkpoint = find(tiny_checkpoint)
    settings = Settings.for_model(
        str(tiny_checkpoint), "128p", prompt="a red ball", device="cpu", dtype="float32"
    )
    usual, packed = (
        load_pipeline(checkpoint, make_plan(checkpoint, replace(settings, quantize=kind)))
        for kind in ("none", "fp8")
    )
    place(packed, replace(packed.plan, window=0))  # a second time: cast already
    block = packed.transformer.transformer_blocks[0]
    assert block.ff.net[2].weight.dtype == torch.float8_e4m3fn and packed.transformer.dtype == torch.float32
    wanted, frames = (pipe("a red ball", **RUN).frames for pipe in (usual, packed))
    assert 0 < abs(frames - wanted).max() < 0.2
    while tighten(packed, "sample", settings):  # no rung changes what has been cast
        assert block.ff.net[2].weight.dtype == torch.float8_e4m3fn


def test_quantized_transformers_need_a_card(tiny_checkpoint):
    checkpoint = find(tiny_checkpoint)
    settings = Settings.for_model(
        str(tiny_checkpoint), "128p", prompt="a red ball", device="cpu", dtype="float32"
    )
    plan = make_plan(checkpoint, settings)
    with pytest.raises(ValueError, match="CUDA card"):
        load_pipeline(checkpoint, replace(plan, transformer=replace(plan.transformer, quantized="int8")))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["max", "balanced", "low", "tiny"])
def test_every_plan_makes_the_same_on_a_card(tiny_checkpoint, name):
    checkpoint = find(tiny_checkpoint)
    settings = Settings.for_model(str(tiny_checkpoint), "128p", prompt="a red ball", dtype="float32")
    frames = load_pipeline(checkpoint, make_plan(checkpoint, settings, wanted=name))(
        "a red ball", **RUN
    ).frames
    usual = load_pipeline(checkpoint, make_plan(checkpoint, settings, wanted="cpu"))(
        "a red ball", **RUN
    ).frames
    assert abs(frames - usual).max() < 0.02
