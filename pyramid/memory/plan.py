"""The plan that fits this machine, and a pipeline that follows the plan.

    machine = Machine.here()                                 # `pyramid.memory.machine`: what is free
    plan = make_plan(find("miniflux"), settings, machine)    # the fastest that fits, with its reasons
    for plan in plans(checkpoint, settings, machine): ...    # all of them, fastest first, each with `fits`
    pipe = generate.loaded.load_pipeline(checkpoint, plan)   # one floor up

A plan says for each component where it lives, in which precision, how it comes and goes, how the VAE cuts
frames, and what that needs at its peak, which is in the last unit. `python -m pyramid plan` prints them all.

    max        everything stays on the card
    balanced   the text encoders pass through the card layer by layer and go; the other models stay
    low        one model at a time on the card; decoding after sampling, tile by tile
    tiny       layers come to the card when their turn is
    cpu        no card
"""

from dataclasses import dataclass, replace

from pyramid.hub.checkpoints import Checkpoint
from pyramid.hub.families import RGB
from pyramid.memory.device import MAIN, Processor
from pyramid.memory.estimate import Shape, Size, component_sizes
from pyramid.memory.machine import GIB, Machine, built_for_cards, peak_bytes
from pyramid.memory.placement import BITSANDBYTES, Part, Placement
from pyramid.settings import Settings, SettingsError, loras_at_work

NAMES = ("max", "balanced", "low", "tiny", "cpu")
# Measured on Linux x86-64, torch 2.13 for CPUs, by tools/peaks.py: the process with what a plain run loads,
# and what diffusers and transformers add where they are needed; what each unit adds, as oneDNN makes new code
# for a new number of tokens, and of how many it keeps that; then the ratio of what the process grows to the
# bytes of tensors alive, as the C library hands out memory and oneDNN keeps blocked copies.
BASE_RAM = 290e6
CARDS_RAM = 320e6  # more in a process whose torch is built for cards, also where it computes on the processor
DIFFUSERS_RAM = 300e6
UNIT_RAM, UNITS_KEPT = 8.5e6, 16
GROWTH = {"sampling": 1.3, "decoding": 1.8}
CUDA_RAM = 2 * GIB  # not measured: the process with CUDA's libraries
PINNED = 1.3  # not measured: weights that wait in pinned memory, which is handed out in powers of two
CUDA_CONTEXT = 0.7 * GIB  # not measured: CUDA's own memory on a card, which no allocator counts
FRAMES = 2.5  # measured: copies of all frames at once while tiles are joined
SLACK = 1.1  # fragments of the caching allocator
RESERVE = 0.95  # of what is free: the rest is for others
MATMUL_SHARE = 0.55
CONV_SHARE = 0.25


# -- the plans


@dataclass(frozen=True)
class Estimate:
    """Peaks in bytes, and seconds of the last unit with its decode, where they were asked for.
    file: the part of `ram` that is mapped from files and which the system may drop and read again."""

    vram: int = 0
    ram: int = 0
    file: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Plan(Placement):
    """How a generation uses the machine: a placement with a name, and what that needs.

    What is given up later, as memory runs out, is in its `changes`: `estimate` knows nothing of it.
    """

    name: str
    estimate: Estimate = Estimate()
    fits: bool = True
    reasons: tuple[str, ...] = ()

    @property
    def guard(self) -> bool:
        """Whether each step has to be checked for overflow: float16, where nothing better is at hand."""
        return self.transformer.dtype == "float16"


def make_plan(
    checkpoint: Checkpoint,
    settings: Settings,
    machine: Machine | None = None,
    wanted: str = "auto",
    *,
    resident: bool = False,
    timed: bool = False,
) -> Plan:
    """The fastest plan that fits, or the one called `wanted`, with the reasons for it.

    `resident`: only plans whose transformer stays where it is, which processes that share it need. timed:
    with the estimated seconds, for which this machine is measured.
    Raises SettingsError for a name that does not exist or that this machine cannot follow.
    """
    everything = plans(checkpoint, settings, machine, timed=timed)
    if resident:
        everything = [plan for plan in everything if plan.name in ("max", "balanced", "cpu")]
        everything = [plan for plan in everything if plan.name != "cpu" or len(everything) == 1]
    if wanted == "auto":
        chosen = next((plan for plan in everything if plan.fits), everything[-1])
        passed = [f"{p.name} would need {_need(p)}" for p in everything[: everything.index(chosen)]]
        why = "the fastest that fits" if chosen.fits else "nothing fits what is free: this needs least"
        return replace(chosen, reasons=(why, *passed, *chosen.reasons))
    named = [plan for plan in everything if plan.name == wanted]
    if not named:
        there = ", ".join(plan.name for plan in everything)
        why = "needs a graphics card" if wanted in NAMES else "is no plan"
        why = "moves weights that several processes share" if resident and wanted in NAMES else why
        raise SettingsError("memory", f"= {wanted!r} {why}: choose auto or {there}", named=True)
    return replace(named[0], reasons=("asked for", *named[0].reasons))


def plans(
    checkpoint: Checkpoint, settings: Settings, machine: Machine | None = None, *, timed: bool = False
) -> list[Plan]:
    """All plans for this machine, fastest first: of each name the variant with the largest tiles that fits.
    timed: as `make_plan`.

    Raises SettingsError for a precision that this machine is no place for.
    """
    machine = machine or Machine.here(settings.device)
    card = machine.place.is_card and settings.device != MAIN
    check_precision(settings, machine if card else machine.without_card())
    sizes = component_sizes(checkpoint)
    shape = Shape.of(checkpoint, settings)
    # What bitsandbytes has put on a card stays there.
    names = ("max", "balanced", "cpu") if settings.quantize in BITSANDBYTES else NAMES
    found = []
    for name in names if card else NAMES[-1:]:
        variants = [
            judge(plan, sizes, shape, settings, machine) for plan in _variants(name, settings, machine)
        ]
        variants = [
            plan for plan in variants if plan.tile is None or plan.tile < max(shape.width, shape.height)
        ]
        found.append(next((plan for plan in variants if plan.fits), variants[-1]))
    return [_with_seconds(plan, sizes, shape, settings) for plan in found] if timed else found


def check_precision(settings: Settings, machine: Machine) -> None:
    """Raises SettingsError where `machine` cannot compute or quantize in this way, or gains nothing by it."""
    kind = settings.quantize
    if not machine.place.computes_in(settings.dtype):
        raise SettingsError(
            "dtype",
            "dtype = 'float16' is for cards: a processor is slower in it and needs no less "
            "memory, so use bfloat16",
        )
    if settings.dtype == "float16" and kind != "none":
        raise SettingsError(
            "dtype",
            f"dtype = 'float16' with quantize = {kind!r}: a step that overflows could not be "
            "taken again in float32, so use auto, bfloat16 or float32",
        )
    if kind in BITSANDBYTES and not machine.quantizes:
        raise SettingsError(
            "quantize",
            f"quantize = {kind!r} needs bitsandbytes, which is not installed: "
            "pip install bitsandbytes, or choose fp8",
        )
    if kind != "none" and not machine.place.packs:
        raise SettingsError(
            "quantize",
            f"quantize = {kind!r} runs on CUDA cards and processors, not on "
            f"{machine.device}: choose none, or --device cpu",
        )


def _variants(name: str, settings: Settings, machine: Machine):
    """Plans of one name, the fastest first."""
    place = machine.place if name != "cpu" or not machine.place.is_card else Processor.here(MAIN)
    dtype = settings.dtype
    if dtype == "auto" or not place.computes_in(dtype):
        dtype = place.best_dtype()
    kept_whole = name != "tiny" and settings.quantize == "none"
    if settings.dtype == "auto" and dtype == "float16" and not kept_whole:
        dtype = "float32"  # a step that overflows could not be taken again in it
    text_dtype = place.text_dtype(dtype)
    there = place.name
    offload = {
        "max": ("", "", ""),
        "balanced": ("leaf", "", ""),
        "low": ("leaf", "model", "model"),
        "tiny": ("leaf", "block", "leaf"),
        "cpu": ("free", "", ""),
    }[name]
    bits = settings.quantize if settings.quantize in BITSANDBYTES else ""
    stored = "fp8" if settings.quantize == "fp8" else bits * place.is_card
    whole = "" if offload[0] == "leaf" else bits  # what comes layer by layer is as it lies in its file
    plan = Plan(
        Part(there, text_dtype, offload[0], whole),
        Part(there, dtype, offload[1], stored),
        Part(there, "float32" if dtype == "float16" else dtype, offload[2]),
        name=name,
    )
    windows = {"max": (1,), "balanced": (1, 0), "cpu": (1, 0)}.get(name, (0,))
    for window in windows:
        for tile in (None,) if name == "max" else (None, 512, 256, 128):
            yield replace(plan, tile=tile, window=window)
    if name == "cpu" and machine.quantizes and not bits:  # when main memory is short of T5 as it is
        for kind in BITSANDBYTES:
            yield replace(plan, text=replace(plan.text, quantized=kind), tile=128, window=0)


def judge(plan: Plan, sizes: dict[str, Size], shape: Shape, settings: Settings, machine: Machine) -> Plan:
    """`plan` with its estimate, whether it fits, and reasons where it does not."""
    card = plan.transformer.place.is_card
    vram = _vram(plan, sizes, shape) if card else 0
    ram_needed, file = _ram(plan, sizes, shape, _needs_diffusers(plan, settings))
    estimate = Estimate(vram, ram_needed, file)
    reasons = []
    if vram > machine.free_vram * RESERVE:
        reasons.append(f"{_gb(vram)} of graphics memory for {_gb(machine.free_vram)} free")
    # Pages of mapped files are given up and read again when memory is short: slow, not fatal.
    if ram_needed - file > machine.free_ram * RESERVE:
        reasons.append(f"{_gb(ram_needed)} of main memory for {_gb(machine.free_ram)} free")
    if plan.guard:
        why = "this card has no bfloat16: " if machine.capability and not machine.bfloat16 else ""
        reasons.append(f"{why}float16, every step checked for overflow")
    if settings.quantize in BITSANDBYTES and not card:
        reasons.append("bitsandbytes quantizes the transformer on CUDA cards only")
    over = vram > machine.free_vram * RESERVE or ram_needed - file > machine.free_ram * RESERVE
    return replace(plan, estimate=estimate, fits=not over, reasons=tuple(reasons))


def _needs_diffusers(plan: Plan, settings: Settings) -> bool:
    """Whether it does more than a plain run."""
    quantized = any(part.quantized for part in (plan.text, plan.transformer, plan.vae))
    return quantized or bool(loras_at_work(settings.lora))


def _item(part: Part) -> int:
    return 4 if part.dtype == "float32" else 2


def _text_bytes(plan: Plan, sizes: dict[str, Size]) -> int:
    from pyramid.memory.loading import TEXT_BYTES

    each = TEXT_BYTES.get(plan.text.quantized, _item(plan.text))
    return sum(int(size.parameters * each) for name, size in sizes.items() if name.startswith("text_encoder"))


def _weights(size: Size, part: Part) -> int:
    """Bytes of the transformer or the VAE."""
    from pyramid.memory.loading import TRANSFORMER_BYTES

    return size.bytes_in(TRANSFORMER_BYTES.get(part.quantized, _item(part)))


def _vram(plan: Plan, sizes: dict[str, Size], shape: Shape) -> int:
    """Peak on the card. Not measured where this was written: the weights and tensors are counted,
    the rest assumed.
    """
    text = _text_bytes(plan, sizes)
    transformer = _weights(sizes["transformer"], plan.transformer)
    vae = _weights(sizes["vae"], plan.vae)
    sampling = shape.sampling(_item(plan.transformer), cpu=False)
    decoding = shape.decoding(_item(plan.vae), plan.tile, window=plan.window)
    if plan.window and shape.units > 1:
        sampling += shape.kept(_item(plan.vae), plan.tile)
    if plan.transformer.offload == "block":  # the block at work and the one on its way, and a text layer
        peak = max(2 * transformer // shape.transformer.layers + sampling, vae // 8 + decoding, text // 24)
    elif plan.transformer.offload == "model":
        peak = max(transformer + sampling, vae + decoding, text // 24)
    elif plan.text.offload:
        peak = transformer + vae + max(sampling, decoding, text // 24)
    else:
        peak = transformer + vae + text + max(sampling, decoding)
    return int(peak * SLACK + CUDA_CONTEXT)


def _ram(plan: Plan, sizes: dict[str, Size], shape: Shape, diffusers: bool = False) -> tuple[int, int]:
    """Peak of the process, and how much of it is files' pages. diffusers: whether more than torch is loaded,
    see `pyramid.memory.loading.is_plain`.
    """

    def mapped(size: Size, part: Part) -> bool:  # used as it lies in the file, or read into memory of its own
        return size.itemsize == _item(part) and not part.quantized

    def weights(name: str, part: Part) -> int:
        return _weights(sizes[name], part)

    text = _text_bytes(plan, sizes)
    text_file = text * all(mapped(s, plan.text) for n, s in sizes.items() if n.startswith("text_encoder"))
    if plan.transformer.place.is_card:  # one component passes through at a time; what is offloaded waits here
        parts = {"transformer": plan.transformer, "vae": plan.vae}
        waiting = sum(
            weights(name, part) * (PINNED if part.offload == "block" else 1)
            for name, part in parts.items()
            if part.offload
        )
        frames = _frames(plan, shape) if plan.window == 0 else 0
        return int(
            CUDA_RAM + max(text + waiting, *(weights(n, p) for n, p in parts.items())) + frames
        ), text_file
    models = [
        (weights(n, p), mapped(sizes[n], p))
        for n, p in (("transformer", plan.transformer), ("vae", plan.vae))
    ]
    both = sum(size for size, _ in models)
    file = sum(size for size, is_file in models if is_file)
    sampling = shape.sampling(_item(plan.transformer), cpu=True) * GROWTH["sampling"]
    decoding = shape.decoding(_item(plan.vae), plan.tile, window=plan.window) * GROWTH["decoding"]
    if plan.window == 0:
        decoding += _frames(plan, shape)
    # Weights in files are not read before they are used: what is not converted costs nothing while texts are
    # read.
    base = BASE_RAM + CARDS_RAM * built_for_cards() + DIFFUSERS_RAM * diffusers
    reading = text + both - file
    working = both + max(sampling, decoding) + UNIT_RAM * min(shape.units, UNITS_KEPT)
    return (int(base + reading), text_file) if reading > working else (int(base + working), file)


def _frames(plan: Plan, shape: Shape) -> int:
    """All frames, which wait in main memory: with tiles, those of all tiles and what they are joined to."""
    unit = RGB * shape.family.grid.unit_frames * shape.width * shape.height
    return int((FRAMES if plan.tile else 1) * _item(plan.vae) * unit * shape.units)


def _with_seconds(plan: Plan, sizes: dict[str, Size], shape: Shape, settings: Settings) -> Plan:
    return replace(plan, estimate=replace(plan.estimate, seconds=_seconds(plan, sizes, shape, settings)))


def _seconds(plan: Plan, sizes: dict[str, Size], shape: Shape, settings: Settings) -> float:
    """Of the last unit: its arithmetic at this machine's measured rate, and what has to come over the bus."""
    from pyramid.memory.loading import matmul_rate

    steps = settings.evaluations(shape.units - 1)
    forwards, decode = shape.flops()
    rate = matmul_rate(plan.transformer.device, plan.transformer.dtype)
    pixels = sum(w * h for w, h in _tiles(plan, shape)) * shape.family.grid.downsampling**2
    overlap = pixels / (shape.width * shape.height)
    seconds = sum(n * flops for n, flops in zip(steps, forwards, strict=True)) / (rate * MATMUL_SHARE)
    seconds += decode * overlap / (rate * CONV_SHARE)
    if plan.transformer.offload == "block":
        seconds += sum(steps) * sizes["transformer"].bytes_in(2) / 12e9  # of a bus that was not measured
    return seconds


def _tiles(plan: Plan, shape: Shape) -> list[tuple[int, int]]:
    from pyramid.memory.estimate import tile_sizes

    return tile_sizes(shape.width, shape.height, plan.tile)


# -- showing, doing


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _need(plan: Plan) -> str:
    e = plan.estimate
    return " and ".join(
        [f"{_gb(e.vram)} of graphics memory"] * (e.vram > 0) + [f"{_gb(e.ram)} of main memory"]
    )


def describe(plan: Plan) -> str:
    """One line for people: name, precision, what it needs, why."""
    parts = ("T5", plan.text), ("the transformer", plan.transformer)
    bits = "".join(f", {name} in {part.quantized}" for name, part in parts if part.quantized)
    return (
        f"plan {plan.name}, {plan.transformer.dtype} on {plan.transformer.device}{bits}: about {_need(plan)} "
        f"({'; '.join(plan.reasons) or 'fits'}){_since(plan)}"
    )


def _since(plan: Plan) -> str:
    return f"; memory ran out since: {', '.join(plan.changes)}" if plan.changes else ""


def compare(plan: Plan) -> str:
    """After a run, for people: the peaks measured in this process beside those estimated."""
    e = plan.estimate
    measured = [f"{_gb(peak_bytes())} of main memory ({_gb(e.ram)} estimated)"]
    if e.vram:
        most = plan.transformer.place.peak_reserved()
        measured.insert(0, f"{_gb(most)} on the card ({_gb(e.vram)} estimated)")
    return "peak: " + ", ".join(measured) + _since(plan)
