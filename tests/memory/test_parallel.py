"""Several devices: two joined processes (gloo) make what one makes; parts of contexts;
what cannot be shared.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forks import joined
from joined import REQUEST
from tiny import make_checkpoint, make_transformer, randomize

from pyramid import PyramidFlowPipeline
from pyramid.media.files import read_metadata
from pyramid.memory import parallel
from pyramid.memory.placement import Part
from pyramid.models.flux import unit_sizes
from pyramid.models.layers import Linear

ROOT = Path(__file__).parent.parent.parent
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def launch(*words, **more):
    """Run a command by torchrun as two processes; what it printed.
    They see neither cards nor each other's cache.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*LAUNCH, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        env=environment,
        **more,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_two_processes_make_what_one_makes(tmp_path):
    folders = [make_checkpoint(tmp_path / "flux"), make_checkpoint(tmp_path / "sd3", "sd3", "384p")]
    joined(ROOT / "tools" / "joined.py", tmp_path, *folders)
    for number, folder in enumerate(folders):
        alone = PyramidFlowPipeline.from_pretrained(folder)(**REQUEST[number]).frames
        for rank in (0, 1):
            together = torch.load(tmp_path / f"{number}-{rank}.pt")
            assert alone.std() > 0.1 and (together - alone).abs().max() < 1e-4


def test_generate_by_torchrun_writes_one_file_that_one_process_makes_again(tiny_checkpoint, tmp_path):
    flags = [
        "generate",
        "--model",
        tiny_checkpoint,
        "--prompt",
        "a red ball",
        "--width",
        128,
        "--num-frames",
        9,
        "--steps",
        1,
        "--video-steps",
        1,
        "--device",
        "cpu",
        "--output",
        tmp_path,
    ]
    done = launch("-m", "pyramid", *flags)
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert done.stdout.split() == [str(path) for path in files] and len(files) == 1
    assert read_metadata(files[0])["settings"]["width"] == 128  # and the seed that rank 0 drew
    assert f"-{read_metadata(files[0])['settings']['seed']}.mp4" in files[0].name
    json.dumps(read_metadata(files[0]))


# -- parts of a context
@pytest.mark.parametrize("world", [2, 3])
def test_the_parts_of_a_context_are_the_whole(world):
    model = randomize(make_transformer("miniflux"))
    past = [torch.randn(3, 16, 2, 4, 6), torch.randn(3, 16, 1, 8, 12)]
    units = [unit for clip in past for unit in clip.split(1, dim=2)]
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0]])
    text, shape = torch.randn(3, 7, 32), (1, 8, 12)
    whole = model.prepare(units, shape, text, mask)
    sizes, _ = unit_sizes(units, shape)
    parts = [parallel.part_of(whole, sizes, rank, world) for rank in range(world)]
    assert all(len(part.layout.buckets) == len(whole.layout.buckets) for part in parts)
    for name in ("text", "table"):
        pieces = torch.cat([getattr(part, name) for part in parts])
        assert len(pieces) == len(getattr(whole, name))
        assert torch.equal(ordered(pieces), ordered(getattr(whole, name)))
    for part in parts:
        assert part.layout.text_rows.tolist() == [
            row
            for bucket in part.layout.buckets
            for row in range(bucket.rows.start, bucket.rows.stop)
            for _ in range(bucket.length)
        ]
        assert part.layout.groups[-1][1] == len(part.table)
    assert sum(part.layout.history for part in parts) == whole.layout.history
    bucket, own = whole.layout.buckets[-1], [part.layout.buckets[-1] for part in parts]
    rows = [part.text[b.text].unflatten(0, (-1, b.length)) for part, b in zip(parts, own, strict=True)]
    assert torch.equal(torch.cat(rows, 1).flatten(0, 1), whole.text[bucket.text])


def ordered(rows):
    values = torch.view_as_real(rows) if rows.is_complex() else rows
    return torch.tensor(sorted(values.flatten(1).tolist()))


# -- refusals, placing
def test_what_cannot_be_shared_is_refused_with_a_way_out(monkeypatch):
    with pytest.raises(ValueError, match="cuda:1.*use auto"):
        parallel.begin("cuda:1")
    prepare = parallel._prepare_part(make_transformer("miniflux").prepare, 0, 2)
    with pytest.raises(ValueError, match="2 processes cannot share 1 tokens"):
        prepare([], (1, 2, 2), torch.zeros(1, 3, 32))
    monkeypatch.setattr(parallel.dist, "get_world_size", lambda: 4)
    with pytest.raises(ValueError, match="4 processes cannot share 2 attention heads: start 2"):
        parallel.share_transformer(make_transformer("miniflux"))


def test_nothing_is_shared_until_it_is_asked_for():
    model = make_transformer("miniflux")
    assert not any(
        module.processor._parallel_config for module in model.modules() if hasattr(module, "processor")
    )
    assert all("forward" not in vars(module) for module in model.modules() if isinstance(module, Linear))


def test_a_placed_pipeline_makes_the_same(tiny_checkpoint):
    request = REQUEST[0] | {"width": 64, "num_frames": 9, "output_type": "np"}
    pipe = PyramidFlowPipeline.from_pretrained(tiny_checkpoint)
    before = pipe(**request).frames
    assert parallel.place(pipe, "cpu", "cpu") is pipe and pipe.placement.text.device == "cpu"
    assert (pipe(**request).frames == before).all()
    with pytest.raises(ValueError, match="no such device"):
        parallel.place(pipe, "cpu", "cuda:99")


@pytest.mark.parametrize("request_", [{}, {"image": None}], ids=["encode", "decode"])
def test_the_vae_is_asked_on_its_own_device(tiny_checkpoint, request_):
    """The meta device as the second one: it takes what it is given, and has nothing to give back."""
    pipe = PyramidFlowPipeline.from_pretrained(tiny_checkpoint)
    pipe.vae.to("meta")
    pipe.placement = replace(pipe.placement, vae=Part("meta"))
    seen = []
    pipe.vae.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].device.type))
    pipe.vae.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].device.type))
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        pipe(**REQUEST[0] | {"width": 64, "num_frames": 9, "output_type": "np"} | request_)
    assert seen and set(seen) == {"meta"}


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_text_and_vae_on_a_second_device(tiny_checkpoint, device):
    if device == "cuda:1" and torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA cards")
    request = REQUEST[0] | {"width": 64, "num_frames": 9, "output_type": "np"}
    pipe = PyramidFlowPipeline.from_pretrained(tiny_checkpoint)
    before = pipe(**request).frames
    parallel.place(pipe, "cuda:0", device)
    assert abs(pipe(**request).frames - before).max() < 0.02
