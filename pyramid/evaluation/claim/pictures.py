"""The pictures of docs/claim.md: curves over operations, and frames of each way to train."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pyramid.evaluation.claim.report import METRICS

COLORS = ("#1f6feb", "#d97706", "#9333ea", "#16803c", "#c02b3c", "#52606d")
PANEL = (520, 400)
MARGINS = (64, 40, 16, 96)  # left, top, right, bottom
SCALE = 2  # drawn larger and shrunk, so that lines are smooth


def draw_curves(summary: dict[str, Any], labels: dict[str, str], arms: Sequence[str]) -> Image.Image:
    """One panel a metric: the mean of each arm over operations, its interval, and each seed as a dot."""
    there = [arm for arm in arms if arm in summary["curves"]["judge"]]
    panels = [_panel(summary["curves"][metric], metric, labels, there) for metric in METRICS]
    sheet = Image.new("RGB", (sum(panel.width for panel in panels), panels[0].height), "white")
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, 0))
        left += panel.width
    return sheet.quantize(64)


def _panel(curves: dict[str, Any], metric: str, labels: dict[str, str], arms: Sequence[str]) -> Image.Image:
    width, height = (SCALE * side for side in PANEL)
    left, top, right, bottom = (SCALE * side for side in MARGINS)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    rows = [(arm, curves[arm]) for arm in arms]
    flops = [math.log2(row["flops"]) for _, points in rows for row in points]
    values = [value for _, points in rows for row in points for value in row["values"]]
    low, high = (0.0, 1.0) if METRICS[metric][2] else (0.0, 1.05 * max(values))
    start, end = min(flops) - 0.2, max(flops) + 0.2

    def place(flop: float, value: float) -> tuple[float, float]:
        x = left + (math.log2(flop) - start) / (end - start) * (width - left - right)
        y = height - bottom - (min(max(value, low), high) - low) / (high - low) * (height - top - bottom)
        return x, y

    _axes(draw, place, (low, high), sorted({round(2**f / 1e10) / 100 for f in flops}), METRICS[metric][0])
    for index, (arm, points) in enumerate(rows):
        color = COLORS[index % len(COLORS)]
        _line(draw, place, points, color, shift=(index - 1) * 5 * SCALE)
        text = f"{labels[arm]}"
        y = height - bottom + (38 + 18 * index) * SCALE
        draw.line((left, y + 8 * SCALE, left + 24 * SCALE, y + 8 * SCALE), fill=color, width=3 * SCALE)
        draw.text((left + 30 * SCALE, y), text, fill="#222", font=_font(13))
    return image.resize(PANEL, Image.Resampling.LANCZOS)


def _font(size: int) -> Any:
    return ImageFont.load_default(size * SCALE)


def _axes(draw: Any, place: Any, bounds: tuple[float, float], teras: Sequence[float], title: str) -> None:
    """The frame, its grid and what it is of."""
    low, high = bounds
    left, top, right, bottom = (SCALE * side for side in MARGINS)
    width, height = (SCALE * side for side in PANEL)
    draw.text((left, 10 * SCALE), title, fill="#111", font=_font(15))
    for number in range(6):
        value = low + (high - low) * number / 5
        y = place(1e12, value)[1]
        draw.line((left, y, width - right, y), fill="#ddd", width=SCALE)
        draw.text((left - 8 * SCALE, y), f"{value:.2f}", fill="#444", font=_font(12), anchor="rm")
    shown = -1e9
    for tera in teras:
        x = place(tera * 1e12, low)[0]
        if x - shown > 50 * SCALE:
            draw.text((x, height - bottom + 6 * SCALE), f"{tera:g}", fill="#444", font=_font(12), anchor="mt")
            shown = x
    words = "training, in trillions of operations"
    draw.text((width - right, height - bottom + 22 * SCALE), words, fill="#444", font=_font(12), anchor="rt")
    draw.line((left, height - bottom, width - right, height - bottom), fill="#444", width=SCALE)


def _line(draw: Any, place: Any, points: Sequence[dict[str, Any]], color: str, shift: float) -> None:
    """A curve, with bars for its intervals and a dot for each seed."""
    path = [place(row["flops"], row["mean"]) for row in points]
    draw.line([(x, y) for x, y in path], fill=color, width=3 * SCALE, joint="curve")
    for row, (x, _) in zip(points, path, strict=True):
        ends = [place(row["flops"], value)[1] for value in row["interval"]]
        draw.line((x + shift, ends[0], x + shift, ends[1]), fill=color, width=SCALE)
        for value in row["values"]:
            y, r = place(row["flops"], value)[1], 3 * SCALE
            draw.ellipse((x + shift - r, y - r, x + shift + r, y + r), outline=color, width=SCALE)


def draw_frames(files: dict[str, Path], clips: int = 3, columns: int = 5) -> Image.Image:
    """For each way to train a row: some frames of its first clips."""
    rows = []
    for label, path in files.items():
        if not path.is_file():
            continue
        with np.load(path) as file:
            frames = file["frames"][:clips]
        places = np.linspace(0, frames.shape[1] - 1, columns).round().astype(int)
        strips = [np.concatenate(list(clip[places]), axis=1) for clip in frames]
        gap = np.full((frames.shape[2], 8, 3), 255, np.uint8)
        parts = [part for strip in strips for part in (strip, gap)][:-1]
        rows.append((label, Image.fromarray(np.concatenate(parts, axis=1))))
    width, step = rows[0][1].width, rows[0][1].height + 22
    sheet = Image.new("RGB", (width, step * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (label, strip) in enumerate(rows):
        draw.text((2, index * step + 3), label, fill="black", font=ImageFont.load_default(14))
        sheet.paste(strip, (0, index * step + 22))
    return sheet
