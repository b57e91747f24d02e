"""The benchmark counts what it should and runs from end to end.
Run: python -m pytest tests/commands/test_bench.py
"""

import argparse

import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend
from torch.utils.flop_counter import FlopCounterMode

from pyramid.commands import bench, cli
from pyramid.generate import benchmark
from pyramid.models.way_back import plainly

TINY = ["--width", "64", "--layers", "1,2", "--size", "32x32", "--stages", "2", "--device", "cpu"]


def arguments(*options):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args([*TINY, *options])


@pytest.mark.parametrize("texts", ["6,4", "5,5"])
def test_useful_arithmetic_is_what_torch_counts(texts):
    args = arguments("--text", texts)
    model, prompt = benchmark.build(args), benchmark.texts(args)
    history = [torch.randn(2, 16, 2, 2, 2), torch.randn(2, 16, 1, 4, 4)]
    current, timestep = torch.randn(2, 16, 1, 4, 4), torch.tensor([500.0, 500.0])
    with torch.no_grad():
        context = model.prepare(history, (1, 4, 4), prompt.embeds, prompt.mask)
    counter = FlopCounterMode(display=False)
    with attention_backend("_native_math"), torch.enable_grad(), plainly(), counter:
        model.denoise(current, timestep, prompt.pooled, context)  # without fused kernels: all is counted
    with torch.no_grad():
        counted = benchmark.useful_flops(
            model, lambda: model.denoise(current, timestep, prompt.pooled, context), context.layout
        )
    assert counted == counter.get_total_flops()


def test_the_tables(capsys):
    args = arguments(
        "--units", "1", "--repeats", "1", "--steps", "1", "--clip-units", "2", "--vae", "32,32,32,32"
    )
    assert bench.run(args) == 0
    out = capsys.readouterr().out
    for words in ("One forward", "of peak", "A whole generation", "decode's share", "peak memory", "float32"):
        assert words in " ".join(out.split())
    assert "nan" not in out and "0.000" not in out


@pytest.mark.parametrize(
    "options",
    [
        ["--width", "100"],
        ["--size", "40x32"],
        ["--layers", "1"],
        ["--stages", "5"],
        ["--vae", "32,32,32"],
        ["--text", "0,0"],
        ["--text", "129"],
        ["--steps", "0"],
        ["--device", "foo"],
    ],
)
def test_shapes_that_do_not_exist_are_named(options):
    with pytest.raises(ValueError, match=options[0]):
        bench.run(arguments(*options))


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "xpu"])
def test_devices_that_are_not_there_are_one_line(device, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    assert cli.main(["bench", *TINY, "--device", device]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and device in said and said.count("\n") == 1


@pytest.mark.parametrize("options", [["--size", "32"], ["--layers", "-1,2"], ["--units", "a"]])
def test_options_that_are_no_numbers(options, capsys):
    with pytest.raises(SystemExit):
        arguments(*options)
    assert options[0] in capsys.readouterr().err
