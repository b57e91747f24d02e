"""Loads a checkpoint of the published size from cold and says how much main memory that took.
By hand, not by pytest:

    python tools/big_checkpoint.py /some/folder          # needs 15 GB of disk there; removes what it wrote

Writes T5-XXL, CLIP-L, the miniFLUX transformer and its VAE in their published shapes, random bfloat16 weights
shard by shard in the released layout; asks the system to forget the files; then, in a new process, makes a
picture of 64 × 64 with them and reports the peaks: all of it, what is the process's own, and what is mapped
from files. Exit code 1 when the peak is above 1.15 × the largest component.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
SHARD = 2 * 10**9  # bytes
LIMIT = 1.15  # of the largest component


def main(folder: Path) -> int:
    if shutil.disk_usage(folder).free < 20e9:
        raise SystemExit(f"{folder} has less than 20 GB free")
    place = folder / "pyramid-big-checkpoint"
    place.mkdir()
    try:
        sizes = write(place)
        forget(place)
        child = [sys.executable, __file__, "--load", str(place)]
        done = subprocess.run(
            child,
            env=os.environ
            | {"PYRAMID_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            return done.returncode
        return report(sizes, json.loads(done.stdout.splitlines()[-1]))
    finally:
        shutil.rmtree(place)


def parts_of(place: Path) -> dict[str, torch.nn.Module]:
    """The models by the names of their folders, in the published sizes and without memory."""
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    from pyramid.models.flux import PyramidFluxTransformer
    from pyramid.models.vae import CausalVideoVAE

    clip = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
        eos_token_id=CLIPTextModel.from_pretrained(place / "text_encoder").config.eos_token_id,
    )
    t5 = T5Config(
        vocab_size=32128,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        return {
            "text_encoder": CLIPTextModel(clip),
            "text_encoder_2": T5EncoderModel(t5),
            "diffusion_transformer_384p": PyramidFluxTransformer(),
            "causal_video_vae": CausalVideoVAE(),
        }


def write(place: Path) -> dict[str, int]:
    """All folders of a checkpoint; bytes of each component."""
    from tiny import DETAILS, save_text

    save_text(place, "miniflux")  # the tokenizers; the encoders are replaced
    parts = parts_of(place)
    (place / "pyramid.json").write_text(json.dumps(DETAILS | {"name": "big", "variant": "384p"}))
    sizes = {}
    for name, model in parts.items():
        shutil.rmtree(place / name, ignore_errors=True)
        stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
        sizes[name] = write_model(place / name, model, stem)
        print(f"{name}: {sizes[name] / 1e9:.2f} GB", file=sys.stderr, flush=True)
    return sizes


def write_model(folder: Path, model, stem: str) -> int:
    """Configuration and shards of random weights; bytes of all weights."""
    folder.mkdir()
    config = model.config if isinstance(model.config, dict) or hasattr(model.config, "to_dict") else {}
    table = (
        config.to_dict() | {"architectures": [type(model).__name__]}
        if hasattr(config, "to_dict")
        else {**config, "_class_name": type(model).__name__}
    )
    (folder / "config.json").write_text(json.dumps(table))
    shapes = {
        name: value.shape
        for name, value in model.state_dict().items()
        if name != "encoder.embed_tokens.weight" and "position_ids" not in name
    }
    shards, size = [[]], 0
    for name, shape in shapes.items():
        if size > SHARD:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += 2 * shape.numel()
    noise, places = torch.randn(2**22).mul_(0.02).bfloat16(), {}
    for number, names in enumerate(shards, 1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        save_file(
            {name: weight(name, shapes[name], noise) for name in names}, folder / file, {"format": "pt"}
        )
        places |= dict.fromkeys(names, file)
    total = sum(2 * shape.numel() for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    return total


def weight(name: str, shape: torch.Size, noise: torch.Tensor) -> torch.Tensor:
    """Random matrices; norms are 1, biases 0."""
    if len(shape) < 2:
        fill = 0.0 if name.endswith("bias") else 1.0
        return torch.full(shape, fill, dtype=torch.bfloat16)
    count = shape.numel()
    return noise.repeat(-(-count // len(noise)))[:count].view(shape).clone()


def forget(place: Path) -> None:
    """Take the files out of the system's cache, so that loading reads the disk."""
    for path in place.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load(place: Path) -> None:
    """In the new process: a picture, and the peaks by phase on stdout as JSON."""
    from pyramid.generate.footprint import watched
    from pyramid.generate.loaded import load_pipeline as load_by
    from pyramid.hub.checkpoints import find
    from pyramid.memory.machine import Machine
    from pyramid.memory.plan import make_plan
    from pyramid.settings import Settings

    checkpoint = find(place)
    settings = Settings.for_model(
        str(place),
        expects=checkpoint.defaults,
        prompt="a red ball",
        seed=1,
        num_frames=1,
        num_inference_steps=(1, 1, 1),
        width=64,
        height=64,
        dtype="bfloat16",
        device="cpu",
        guidance_scale=1,
        video_guidance_scale=1,
    )
    peaks = {}
    with watched() as most:
        plan = make_plan(checkpoint, settings, Machine.here("cpu"))
        pipe = load_by(checkpoint, plan)
        peaks["loading"] = dict(most)
        for event in pipe.stream(settings):
            print(
                type(event).__name__, getattr(event, "message", ""), dict(most), file=sys.stderr, flush=True
            )
            peaks[getattr(event, "phase", type(event).__name__)] = dict(most)
    peaks["all"] = dict(most) | {"estimate": plan.estimate.ram}
    assert event.latents is not None
    print(json.dumps(peaks))


def report(sizes: dict[str, int], peaks: dict[str, dict[str, int]]) -> int:
    largest = max(sizes.values())
    for phase, most in peaks.items():
        print(f"{phase:10} " + ", ".join(f"{name} {value / 1e9:.2f} GB" for name, value in most.items()))
    share = peaks["all"]["ram"] / largest
    print(
        f"peak {peaks['all']['ram'] / 1e9:.2f} GB = {share:.2f} × the "
        f"largest component ({largest / 1e9:.2f} GB); "
        f"all components {sum(sizes.values()) / 1e9:.2f} GB"
    )
    return int(share > LIMIT)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    if sys.argv[1:2] == ["--load"]:
        load(Path(sys.argv[2]))
    elif len(sys.argv) == 2:
        sys.exit(main(Path(sys.argv[1])))
    else:
        sys.exit(__doc__)
