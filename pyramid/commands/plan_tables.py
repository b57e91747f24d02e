"""What `plan` draws: a machine's plans, the ways of saving memory, the samplers, each beside another."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pyramid.generate.footprint import WAYS, Measured, measure
from pyramid.settings import SAMPLERS, Settings, shown

COLUMNS = ("plan", "fits", "card", "memory", "files", "last unit", "dtype")  # as 80 columns hold


def plan_table(every, chosen, machine, settings: Settings, measured: dict[str, float] | None):
    """All plans for the machine, as a rich table and a line on each; below the chosen one, what it took."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    free = f"{machine.free_ram / 1e9:.1f} GB of main memory free"
    if machine.free_vram:
        free = f"{machine.free_vram / 1e9:.1f} of {machine.total_vram / 1e9:.1f} GB on {machine.name}, {free}"
    table = Table(
        title=f"{escape(settings.model)}/{escape(settings.variant)}, {settings.width}×{settings.height}, "
        f"{settings.num_frames} frames; {free}"
    )
    for name in COLUMNS:
        table.add_column(name, no_wrap=True)
    for plan in every:
        e = plan.estimate
        mark = "▸ " if plan.name == chosen.name else "  "
        sizes = (size_shown(b) for b in (e.vram, e.ram, e.file))
        fits = "yes" if plan.fits else "no"
        table.add_row(mark + plan.name, fits, *sizes, f"{e.seconds:.1f} s", plan.transformer.dtype)
        if measured and plan.name == chosen.name:
            sizes = (size_shown(measured[k]) for k in ("vram", "ram", "file"))
            table.add_row("  measured", "", *sizes, f"{measured['last_unit']:.1f} s", style="bold")
    lines = [where_words(plan) for plan in every]
    if measured:
        lines.append(f"The estimate of memory is {chosen.estimate.ram / measured['ram'] - 1:+.0%} off.")
    return Group(table, "files: what of the memory is read from the model's files, and can be let go", *lines)


def where_words(plan) -> str:
    """Where the parts of a plan are, and how they come there, in a line."""
    tiles = f"in tiles of {plan.tile}" if plan.tile else "whole"
    when = "as units come" if plan.window else "after sampling"
    return (
        f"{plan.name}: text on {words(plan.text)}; transformer on {words(plan.transformer)}; "
        f"frames decoded {tiles}, {when}"
    )


def size_shown(size: float) -> str:
    """Bytes for people."""
    return "–" if not size else f"{size / 1e9:.2f} GB"


def words(part) -> str:
    """Where a component is and how it comes there."""
    how = {
        "": "stays",
        "free": "goes after use",
        "go": "goes after use",
        "model": "comes whole",
        "block": "comes by blocks",
        "leaf": "comes by layers",
    }[part.offload]
    return f"{part.device}, {how}" + (f", {part.quantized}" if part.quantized else "")


def comparison(settings: Settings, plan):
    """Each way beside `plan` itself: memory, speed, error of the latents, likeness of the frames."""
    from rich.table import Table

    from pyramid.hub.checkpoints import find

    checkpoint = find(settings.model, settings.variant)
    card = plan.transformer.place.is_card
    plain = replace(plan, tile=None, window=1, text=replace(plan.text, quantized=""))
    settings = replace(settings, num_frames=min(settings.num_frames, 17))
    measure(settings, plain, checkpoint)  # what is slow the first time only
    base = measure(settings, plain, checkpoint)
    table = Table(
        title=f"beside {plain.transformer.dtype} on {plain.transformer.device}, {settings.num_frames} frames"
    )
    for name in ("way", "weights", "decoding", "time", "error of latents", "PSNR of frames"):
        table.add_column(name, justify="left" if name == "way" else "right", overflow="fold")
    table.add_row("none", shown_mb(base.weights), shown_mb(base.decoding), "1.00", "–", "–")
    for way in WAYS:
        if way.card and not card:
            table.add_row(way.name, "needs a card")
            continue
        other = way.apply(plain)
        if other.tile == 0:
            other = replace(other, tile=max(settings.width, settings.height) // 2)
        there = measure(settings, other, checkpoint)
        table.add_row(
            way.name,
            shown_mb(there.weights),
            shown_mb(there.decoding),
            f"{there.seconds / base.seconds:.2f}",
            f"{relative(there.latents, base.latents):.2%}",
            likeness(there, base),
        )
    return table


def sampler_rows(settings: Settings) -> list[Settings]:
    """The samplers, with the model's steps and with half of them; first, what all are measured against."""
    steps = settings.num_inference_steps, settings.video_num_inference_steps
    rows = []
    for share, samplers in ((2.5, ("multistep",)), (1, SAMPLERS), (0.5, SAMPLERS)):
        first, later = (tuple(max(2, round(share * n)) for n in counts) for counts in steps)
        for sampler in samplers:
            rows.append(
                replace(settings, sampler=sampler, num_inference_steps=first, video_num_inference_steps=later)
            )
    return rows


def sampler_table(settings: Settings, plan, sheet: str | Path | None = None):
    """Each sampler beside a far finer grid of steps: evaluations, time, error of the latents, likeness.

    sheet: a picture to write, a row of frames for each.
    """
    from rich.table import Table

    from pyramid.hub.checkpoints import find

    checkpoint = find(settings.model, settings.variant)
    settings = replace(settings, num_frames=min(settings.num_frames, 17))
    rows = sampler_rows(settings)
    made = [measure(each, plan, checkpoint) for each in rows]
    table = Table(title=f"samplers, beside {rows[0].sampler} with {shown(rows[0].num_inference_steps)} steps")
    for name in ("sampler", "steps", "evaluations", "time", "error of latents", "PSNR of frames"):
        table.add_column(name, justify="left" if name == "sampler" else "right", overflow="fold")
    exact = made[0]
    usual = made[1]
    for asked, there in zip(rows, made, strict=True):
        itself = there is exact
        table.add_row(
            asked.sampler,
            steps_shown(asked),
            str(sum(sum(asked.evaluations(unit)) for unit in range(asked.units))),
            f"{there.seconds / usual.seconds:.2f}",
            "–" if itself else f"{relative(there.latents, exact.latents):.2%}",
            "–" if itself else likeness(there, exact),
        )
    if sheet:
        write_sheet(sheet, [there.frames for there in made])
    return table


def steps_shown(settings: Settings) -> str:
    """The steps of the first frame, and those of later units where they differ."""
    first, later = settings.num_inference_steps, settings.video_num_inference_steps
    return shown(first) if first == later else f"{shown(first)}; {shown(later)}"


def write_sheet(path: str | Path, clips: list[Any], columns: int = 6) -> None:
    """Clips, (f, h, w, 3) in 0…255, as rows of a picture."""
    import numpy as np
    from PIL import Image

    places = np.linspace(0, len(clips[0]) - 1, min(columns, len(clips[0]))).round().astype(int)
    rows = [np.concatenate(list(clip[places]), axis=1) for clip in clips]
    Image.fromarray(np.concatenate(rows).astype(np.uint8)).save(path)


def shown_mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e9 else size_shown(size)


def relative(a, b) -> float:
    """‖a − b‖ / ‖b‖."""
    return float((a - b).norm() / b.norm())


def likeness(there: Measured, base: Measured) -> str:
    """How near the frames of two runs are."""
    from pyramid.training.data import psnr

    same = bool((there.frames == base.frames).all())
    return "equal" if same else f"{psnr(there.frames, base.frames, 255.0):.1f} dB"
