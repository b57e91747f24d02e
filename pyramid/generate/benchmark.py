"""How fast this machine runs a transformer of a given shape, and how near its matrix products that is.

    measure(args)          # of the command bench, which says what they are

Weights are random; speed does not depend on their values. First table: one forward of each stage of the units
asked for, its useful arithmetic (what an exact forward must compute: no padded text, nothing that attention
masks, of the last block only what the current clip needs) and the share of the best matrix product in the
same dtype, measured between the forwards. Second table: a whole generation through the sampler, unit by unit,
with its decode.
"""

import statistics
import time
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from pyramid.events import Unit
from pyramid.generate.guidance import GuidedModel, Prompt
from pyramid.generate.latents import denormalize, history
from pyramid.generate.sampler import Noise, Sampling, sample
from pyramid.hub.families import GRID, MINIFLUX, TEXT_TOKENS
from pyramid.memory.device import device_of
from pyramid.memory.machine import peak_bytes
from pyramid.models.flux import PyramidFluxTransformer
from pyramid.models.layers import Linear
from pyramid.models.vae import CausalVideoVAE

HEAD = MINIFLUX.defaults["attention_head_dim"]
T5 = 4096
CLIP = 768


@dataclass(frozen=True)
class Forward:
    """One measured forward. seconds: the fastest; middle: the median."""

    unit: int
    stage: int
    tokens: int  # of all rows, text included
    flops: int  # useful
    seconds: float
    middle: float


@dataclass(frozen=True)
class Generated:
    """One unit of a whole generation, in seconds."""

    unit: int | str  # or "mean"
    sampling: float
    decoding: float


def build(args):
    """A random transformer of the shape asked for, on its device."""
    model = PyramidFluxTransformer(
        in_channels=GRID.patch**2 * GRID.channels,
        num_layers=args.layers[0],
        num_single_layers=args.layers[1],
        attention_head_dim=HEAD,
        num_attention_heads=args.width // HEAD,
        joint_attention_dim=T5,
        pooled_projection_dim=CLIP,
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:  # zero modulations would leave values that no trained model has
            torch.nn.init.normal_(parameter, std=0.02)
    return placed(model, args)


def placed(model, args):
    """The model on the device and in the dtype asked for."""
    model = model.to(args.device).eval()
    return model.bfloat16() if args.dtype == "bfloat16" else model


def texts(args):
    """A batch of random prompts, padded to TEXT_TOKENS: one row for each length in `--text`."""
    mask = (torch.arange(TEXT_TOKENS) < torch.tensor(args.text)[:, None]).long()
    rows = len(args.text)
    where = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    return Prompt(
        torch.randn(rows, TEXT_TOKENS, T5, **where), mask.to(args.device), torch.randn(rows, CLIP, **where)
    )


def clock(function, device):
    """Seconds that function() takes, device work included."""
    place = device_of(device)
    place.synchronize()
    start = time.perf_counter()
    function()
    place.synchronize()
    return time.perf_counter() - start


class MatrixPeak:
    """The best rate of a large matrix product in one dtype, in FLOP/s, over all that is measured between."""

    def __init__(self, device, dtype):
        self.device = device
        self.rate = 0.0
        self.side = device_of(device).peak_side
        self.x = torch.randn(self.side, self.side, device=device, dtype=dtype)
        self.layer = Linear(self.side, self.side).to(device, dtype)

    @torch.no_grad()
    def measure(self):
        """Both ways that the model may multiply; the faster counts."""
        for function in (lambda: self.x @ self.x, lambda: self.layer(self.x)):
            self.rate = max(self.rate, 2 * self.side**3 / clock(function, self.device))


def useful_flops(model, run, layout):
    """Floating point operations of run(), one forward: its linear layers, counted,
    and its prefix attention.
    """
    counted = []

    def count(layer, _, output):
        counted.append(2 * output.numel() * layer.in_features)

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, torch.nn.Linear)]
    run()
    for hook in hooks:
        hook.remove()
    pairs = last = 0  # of a query and a key, in all blocks but the last, and in the last
    for bucket in layout.buckets:
        rows = bucket.rows.stop - bucket.rows.start
        text = bucket.length
        pairs += rows * (
            text * (layout.groups[0][1] + text)
            + sum((stop - start) * (stop + text) for start, stop in layout.groups)
        )
        last += rows * sum((stop - start) * (seen + text) for start, stop, seen in layout.last_groups)
    width = model.config.num_attention_heads * model.config.attention_head_dim
    return sum(counted) + 4 * width * (pairs * (len(model.blocks) - 1) + last)


@torch.no_grad()
def measure_forward(model, prompt, unit, stage, args, peak):
    """Time the forwards of one stage of one unit, the matrix product before each; -> Forward."""
    rows = len(args.text)
    dtype = prompt.embeds.dtype
    latent = GRID.latent_shape(*args.size)
    past = [torch.randn(rows, GRID.channels, 1, *latent, device=args.device) for _ in range(unit)]
    clips = [clip.to(dtype) for clip in history(past, stage, args.stages)]
    shape = 1, *(side >> (args.stages - 1 - stage) for side in latent)
    current = torch.randn(rows, GRID.channels, *shape, device=args.device, dtype=dtype)
    timestep = torch.full((rows,), 500.0, device=args.device)
    context = model.prepare(clips, shape, prompt.embeds, prompt.mask)

    def run():
        model.denoise(current, timestep, prompt.pooled, context)

    flops = useful_flops(model, run, context.layout)
    seconds = []
    for _ in range(args.repeats):
        peak.measure()
        seconds.append(clock(run, args.device))
    tokens = sum(args.text) + rows * context.layout.groups[-1][1]
    return Forward(unit, stage, tokens, flops, min(seconds), statistics.median(seconds))


@torch.no_grad()
def measure_clip(model, prompt, args):
    """Generate and decode a clip through the sampler; yields Generated, unit by unit."""
    vae = CausalVideoVAE(encoder_block_out_channels=args.vae, decoder_block_out_channels=args.vae)
    decode = placed(vae, args).stream()
    negative, positive = (
        Prompt(*(part[row : row + 1] for part in vars(prompt).values())) for row in (0, len(args.text) - 1)
    )
    steps = [args.steps] * args.stages
    noise = Noise((GRID.channels, *GRID.latent_shape(*args.size)), seeds=[0])
    run = Sampling(units=args.clip_units, steps=steps, video_steps=steps)
    events = sample(GuidedModel(model, positive, negative), noise, run)
    start = time.perf_counter()
    for event in events:
        if isinstance(event, Unit):
            clean = denormalize(event.latents, MINIFLUX.scales, first=event.index == 0).to(
                prompt.embeds.dtype
            )
            sampling = time.perf_counter() - start
            yield Generated(event.index, sampling, clock(lambda clean=clean: decode(clean), args.device))
            start = time.perf_counter()


def peak_memory(device):
    """Most bytes in use so far: on the card, or by this process."""
    return device_of(device).peak_allocated() or peak_bytes()


def forward_table(forwards, peak):
    table = Table(title="One forward")
    for name in ("unit", "stage", "tokens", "seconds", "median", "useful GFLOP", "GFLOP/s", "of peak"):
        table.add_column(name, justify="right")
    for f in forwards:
        rate = f.flops / f.seconds
        table.add_row(
            str(f.unit),
            str(f.stage),
            str(f.tokens),
            f"{f.seconds:.3f}",
            f"{f.middle:.3f}",
            f"{f.flops / 1e9:.1f}",
            f"{rate / 1e9:.1f}",
            f"{rate / peak:.0%}",
        )
    return table


def clip_table(units):
    table = Table(title="A whole generation, seconds")
    for name in ("unit", "sampling", "decode", "decode's share"):
        table.add_column(name, justify="right")
    mean = Generated(
        "mean", *(statistics.mean(getattr(u, part) for u in units) for part in ("sampling", "decoding"))
    )
    for u in [*units, mean]:
        table.add_row(
            str(u.unit),
            f"{u.sampling:.2f}",
            f"{u.decoding:.2f}",
            f"{u.decoding / (u.sampling + u.decoding):.0%}",
        )
    return table


def measure(args):
    """Measure what the arguments of the command bench ask for, and print the tables."""
    console = Console()
    peak = MatrixPeak(args.device, getattr(torch, args.dtype))
    model = build(args)
    prompt = texts(args)
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    console.print(
        f"{parameters:.1f} M parameters, {args.dtype} on {args.device} ({torch.get_num_threads()} CPU "
        f"threads), {args.size[0]}×{args.size[1]}, text {args.text} of {TEXT_TOKENS}"
    )
    with console.status("forwards") as status:
        forwards = []
        for unit in args.units:
            for stage in range(args.stages):
                status.update(f"unit {unit}, stage {stage}")
                forwards.append(measure_forward(model, prompt, unit, stage, args, peak))
    console.print(forward_table(forwards, peak.rate))
    console.print(
        f"of peak: of this machine's best matrix product, {peak.rate / 1e9:.1f} GFLOP/s in {args.dtype}"
    )
    if args.clip_units:
        with console.status("a whole generation"):
            units = list(measure_clip(model, prompt, args))
        console.print(clip_table(units))
        console.print(
            f"{args.steps} steps a stage; a unit is {GRID.unit_frames} frames, the first 1; "
            f"decoder {args.vae}"
        )
    console.print(f"peak memory {peak_memory(args.device) / 2**30:.2f} GiB")
