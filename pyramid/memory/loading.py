"""Components from files to where a plan wants them, one at a time, memory-mapped, straight into their dtype.

    transformer, vae, text = load(checkpoint, plan)
    pipe = PyramidFlowPipeline(transformer, vae, text, checkpoint=checkpoint)
    place(pipe, plan)                     # and again with a tighter placement when memory runs out

Weights whose file has the dtype that is asked for are used as they lie in the file: their pages come when
they are needed and the system may drop them again. Others are converted tensor by tensor. Text encoders are
read when a prompt first needs them and go after it, so that the peak is that of the largest component.

What diffusers, accelerate and bitsandbytes do is theirs; here is only what is called when.
"""

import functools
import itertools
import os
import time
from dataclasses import replace

import torch

from pyramid.memory.device import MAIN, device_of
from pyramid.memory.placement import Part, Placement, dtype_name
from pyramid.models import network_class, transformer_class
from pyramid.text.encoders import Part as Encoder
from pyramid.text.encoders import TextEncoders, find_parts, load_by_transformers, load_encoder

KEEP = {"": True, "free": None, "go": False, "leaf": False}  # text encoders, by how they come and go
# Bytes a parameter; in bfloat16 stay: T5's embeddings and one layer in eight, 28 % of miniFLUX and 36 % of
# SD3 (norms).
TEXT_BYTES = {"int8": 1.2, "nf4": 0.8}
TRANSFORMER_BYTES = {"int8": 1.36, "nf4": 1.06, "fp8": 1.36}
SKIP = [
    "proj_out",
    "x_embedder",
    "context_embedder",
    "time_text_embed",
    "norm_out",
    "norm1",
    "norm1_context",
    "norm",
    "pos_embed",
]  # small, or what quantization hurts most


def is_plain(checkpoint, plan) -> bool:
    """Whether torch alone reads and runs this: main memory, whole weights, one process, torch's attention.

    Whatever else there is, diffusers does, which takes twice as long to load as torch.
    """
    from pyramid.models.vae import VideoVAENetwork

    parts = (plan.transformer, plan.vae)
    return (
        not any(part.place.is_card or part.offload or part.quantized for part in parts)
        and not {"DIFFUSERS_ATTN_BACKEND", "DIFFUSERS_ATTN_CHECKS"} & os.environ.keys()
        and int(os.environ.get("WORLD_SIZE", "1")) == 1
        and network_class(checkpoint.transformer_class).can_load(checkpoint.transformer)
        and VideoVAENetwork.can_load(checkpoint.vae)
    )


def load(checkpoint, plan, plain: bool = False):
    """(transformer, vae, text or None) of a checkpoint, on the CPU, in the plan's dtypes. plain: as torch's
    modules, where `is_plain`; else as diffusers' models. Raises ValueError.
    """
    text = load_text(checkpoint.folder, plan.text) if checkpoint.has_text else None
    dtypes = [getattr(torch, part.dtype) for part in (plan.transformer, plan.vae)]
    if plain:
        from pyramid.models.vae import VideoVAENetwork

        transformer = network_class(checkpoint.transformer_class).load(checkpoint.transformer, dtypes[0])
        return transformer, VideoVAENetwork.load(checkpoint.vae, dtypes[1]), text
    from pyramid.models.for_diffusers import CausalVideoVAE

    transformer = transformer_class(checkpoint.transformer_class).from_pretrained(
        checkpoint.transformer,
        torch_dtype=dtypes[0],
        **_quantizer(plan.transformer),
    )
    vae = CausalVideoVAE.from_pretrained(checkpoint.vae, torch_dtype=dtypes[1])
    return transformer.eval(), vae.eval(), text


def load_text(folder, part) -> TextEncoders:
    """The text encoders of a folder as a plan's `part` says; nothing is read before a prompt needs it."""

    def read(encoder: Encoder):
        here = replace(part, dtype=dtype_name(text.dtype))
        if text.device != torch.device(part.device):  # moved since, as nothing else was left to give up
            here = replace(here, device=str(text.device), offload="")
        return _encoder(encoder, here, here.quantized if encoder.is_t5 else "")  # CLIP is small

    text = TextEncoders(
        find_parts(folder),
        getattr(torch, part.dtype),
        part.device,
        load=read,
        keep=KEEP[part.offload],
        precision=part.quantized,
    )
    return text


def _encoder(encoder: Encoder, part, quantized: str):
    """One text encoder, where it runs."""
    dtype = getattr(torch, part.dtype)
    device = torch.device(part.device)
    if quantized:
        import transformers

        config = transformers.BitsAndBytesConfig(**_bits(quantized, dtype))
        where = {"device_map": {"": device}} if part.place.is_card else {}
        return load_by_transformers(encoder, dtype, quantization_config=config, **where)
    if part.offload != "leaf":
        return load_encoder(encoder, dtype).to(device)
    model = load_by_transformers(encoder, dtype)
    from diffusers.hooks import apply_group_offloading

    # The order that a stream traces has to have every layer in it: T5's second name for its embedding never
    # runs.
    apply_group_offloading(
        model.encoder if encoder.is_t5 else model,
        onload_device=device,
        offload_device=torch.device(MAIN),
        offload_type="leaf_level",
        use_stream=part.place.streams,
        low_cpu_mem_usage=True,
    )
    return model


def _bits(kind: str, dtype: torch.dtype) -> dict:
    if kind == "int8":
        return {"load_in_8bit": True}
    return {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}


def _quantizer(part) -> dict:
    """Arguments of `from_pretrained` for bitsandbytes, which diffusers allows on a card only."""
    if part.quantized not in ("int8", "nf4"):
        return {}
    if not part.place.bitsandbytes:
        raise ValueError(
            f"{part.quantized} transformers need a CUDA card: diffusers refuses bitsandbytes without one"
        )
    import diffusers

    bits = _bits(part.quantized, getattr(torch, part.dtype))
    bits["llm_int8_skip_modules"] = SKIP  # which the 4 bit quantizer reads too
    return {"quantization_config": diffusers.BitsAndBytesConfig(**bits), "device_map": {"": part.device}}


def as_it_is(pipe) -> Placement:
    """The placement of `pipe` with all that was done to its models since, by diffusers' own ways too:
    `pipe.to`, `pipe.enable_model_cpu_offload`, `pipe.vae.enable_tiling`, ….
    """
    was = pipe.placement
    device = str(pipe._execution_device)
    whole = bool(getattr(pipe, "_all_hooks", None))
    return replace(
        was,
        text=_text_as_it_is(pipe.text, was.text, was.text_device or device),
        transformer=_part_as_it_is(pipe.transformer, was.transformer, device, whole),
        vae=_part_as_it_is(pipe.vae, was.vae, was.vae_device or device, whole),
        tile=pipe.vae.tile_size if pipe.vae.use_tiling else None,
    )


def _text_as_it_is(text: TextEncoders | None, was: Part, device: str) -> Part:
    if text is None:
        return Part(MAIN, "bfloat16", "go")  # nothing that could be given up
    offload = was.offload
    if KEEP[offload] is not text.keep:
        offload = next(name for name, keep in KEEP.items() if keep is text.keep)
    return replace(was, device=device, dtype=dtype_name(text.dtype), offload=offload)


def _part_as_it_is(model, was: Part, device: str, whole: bool) -> Part:
    registries = [getattr(part, "_diffusers_hook", None) for part in model.modules()]
    hooks = {name for registry in registries if registry is not None for name in registry.hooks}
    layered = was.offload if was.offload in ("block", "leaf") else "leaf"
    quantizer = getattr(model, "hf_quantizer", None)
    quantized = "fp8" if "layerwise_casting" in hooks else ""
    if quantizer is not None:
        quantized = "nf4" if getattr(quantizer.quantization_config, "load_in_4bit", False) else "int8"
    offload = layered if hooks - {"layerwise_casting"} else "model" * whole
    return Part(device, dtype_name(model.dtype), offload, quantized)


def place(pipe, wanted: Placement) -> None:
    """Put the models of `pipe` where `wanted` says, in its precision, whatever was done before.

    Weights are narrowed where they are, one by one, so that there are never two copies of a model.
    """
    now = as_it_is(pipe)
    if pipe.text is not None:
        _place_text(pipe.text, now.text, wanted.text)
    if wanted.tile != now.tile:
        if wanted.tile:
            pipe.vae.enable_tiling(wanted.tile)
        else:
            pipe.vae.disable_tiling()
    models = (
        (pipe.transformer, now.transformer, wanted.transformer),
        (pipe.vae, now.vae, wanted.vae),
    )
    moved = any((was.device, was.offload) != (part.device, part.offload) for _, was, part in models)
    if moved:
        lift(pipe)
    for model, was, part in models:
        _convert(model, was, part)
    if moved and wanted.transformer.offload == "model":
        pipe.enable_model_cpu_offload(device=wanted.transformer.device)
    elif moved:
        for model, _, part in models:
            place_model(model, part)
    pipe.placement = wanted


def _place_text(text: TextEncoders, was: Part, part: Part) -> None:
    """Weights that are in memory are read again where they would be other ones, or elsewhere."""
    keep = KEEP[part.offload]
    if (was.device, was.dtype) != (part.device, part.dtype) or keep is False and text.keep is not False:
        text.free()
    text.dtype = getattr(torch, part.dtype)
    text.keep = keep


def _convert(model, was: Part, part: Part) -> None:
    """The weights in the part's precision, where they are this module's to convert."""
    if part.quantized == "fp8" and not was.quantized:
        model.enable_layerwise_casting(torch.float8_e4m3fn, getattr(torch, part.dtype))
    elif part.dtype != was.dtype and not was.quantized:
        if part.dtype == "float32":
            model.to(MAIN)  # which has the room
        torch.nn.Module.to(model, getattr(torch, part.dtype))  # diffusers' own warns of what is meant here


def lift(pipe) -> None:
    """Take away all hooks that move weights. Where these are then is for `place` to say."""
    pipe.remove_all_hooks()
    pipe._all_hooks = []
    for module in (pipe.transformer, pipe.vae):
        for part in module.modules():
            registry = getattr(part, "_diffusers_hook", None)
            for name in ("lazy_prefetch_group_offloading", "layer_execution_tracker", "group_offloading"):
                if registry is not None and registry.get_hook(name) is not None:
                    registry.remove_hook(name, recurse=False)


def place_model(module, part) -> None:
    """Put one model, which no hook moves about, where a plan's `part` wants it."""
    device = torch.device(part.device)
    if part.quantized in ("int8", "nf4"):
        return  # bitsandbytes has put it on its card
    if part.offload not in ("block", "leaf"):
        module.to(device)
        return
    module.to(MAIN)
    kind = (
        {"offload_type": "leaf_level"}
        if part.offload == "leaf"
        else {"offload_type": "block_level", "num_blocks_per_group": 1}
    )
    # A stream needs to know the order of the layers; the VAE's changes with what it is asked for.
    stream = part.place.streams and part.offload == "block"
    module.enable_group_offload(
        onload_device=device, offload_device=torch.device(MAIN), use_stream=stream, **kind
    )
    if stream:
        fetch_ahead(module.blocks)


def fetch_ahead(blocks) -> None:
    """Let each group-offloaded block fetch the next one while it computes.

    diffusers (0.42.1) finds the order out in the first call of the model's `forward`, which `prepare` and
    `denoise` go past. Without an order, and with a stream, nothing would wait for weights that are still on
    their way.
    """
    hooks = [block._diffusers_hook.get_hook("group_offloading") for block in blocks]
    for hook, following in itertools.pairwise(hooks):
        hook.next_group = following.group
        following.group.onload_self = False
    if len(hooks) == 1:
        hooks[0].group.non_blocking = False  # nobody fetches a next one, which is what waits for the first


@functools.cache
def matmul_rate(device: str, dtype: str) -> float:
    """Floating point operations a second of a matrix product, the best of five, measured now.

    A guess for a card that has no room for the measurement.
    """
    side = device_of(device).probe_side
    best = float("inf")
    try:
        x = torch.randn(side, side, device=device).to(getattr(torch, dtype))
        for _ in range(5):
            began = time.perf_counter()
            y = x @ x
            float(y[0, 0])  # waits for a card
            best = min(best, time.perf_counter() - began)
    except torch.OutOfMemoryError:
        return 2e13
    return 2 * side**3 / best
