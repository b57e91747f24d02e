"""The report of `evaluate compare`: one HTML file with pictures and plots, and tables for the terminal.

    Path("compare.html").write_text(report(found, videos, asked))

`found` is what `pyramid.evaluation.compare.compare` tells. Pictures are in the file itself, plots are SVG.
"""

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHOWN = 12  # prompts with pictures
COLUMNS = 5  # frames of a video
HEIGHT = 96  # pixels of a frame
WIDTH = 460  # of a plot
ROW = 22  # of it, for the dots of one system
WORDS = {  # what a measure is, for the report
    "frames": "frames of the video",
    "motion": "pixels from frame to frame, by optical flow",
    "consistency": "likeness of neighboring frames once motion is taken out; 1 is the same picture moved",
    "flicker": "jumps of the mean light, in levels of 255",
    "sharpness": "mean size of the Laplacian, in levels",
    "contrast": "standard deviation of light, in levels",
    "clip similarity": "mean cosine of frames and words, by the given CLIP",
    "seconds": "seconds that the video took to make, as its record says",
}
STYLE = """
:root { color-scheme: light dark; --a: #b8690b; --b: #2a6fb5; --line: #8886; }
body { max-width: 980px; margin: 24px auto; padding: 0 16px; font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 22px; } h2 { margin-top: 32px; font-size: 17px; }
table { border-collapse: collapse; } td, th { padding: 4px 10px; border-bottom: 1px solid var(--line); }
th { text-align: left; font-weight: 600; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
.soft { opacity: 0.7; font-size: 13px; } .a { color: var(--a); } .b { color: var(--b); }
figure { margin: 14px 0; } figure img { display: block; max-width: 100%; margin: 3px 0; border-radius: 6px; }
.wide { overflow-x: auto; } .tick { font-size: 11px; fill: currentColor; }
@media (prefers-color-scheme: dark) { :root { --a: #f0a63a; --b: #7db8f0; } }
"""


def report(found: Mapping[str, Any], videos: Mapping[str, Mapping[str, Path]], asked: Sequence[str]) -> str:
    """The whole file. `asked`: the two words of the command."""
    names = found["systems"]
    parts = [
        f"<h1><span class='a'>{escape(names[0])}</span> and <span class='b'>{escape(names[1])}</span></h1>",
        f"<p>{len(found['prompts'])} prompts, a video each; compared: {escape(' and '.join(asked))}.</p>",
        *_judged(found),
        *_measures(found),
        *_distances(found),
        *_pictures(found, videos),
    ]
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
    title = escape(f"{names[0]} and {names[1]}")
    body = "\n".join(parts)
    head = f"{head}<title>{title}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'>{head}\n{body}\n</html>\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; `rows` are HTML."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = ["".join(_cell(number, cell) for number, cell in enumerate(row)) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class='wide'><table><tr>{top}</tr>{body}</table></div>"


def _cell(number: int, cell: str) -> str:
    return f"<td class='n'>{cell}</td>" if number else f"<td>{cell}</td>"


def _judged(found: Mapping[str, Any]) -> Iterator[str]:
    """How many videos show what their words say."""
    if not found["judged"]:
        return
    names = found["systems"]
    yield "<h2>Right, by the judge</h2>"
    rows = []
    for what in found["judged"][names[0]]:
        cells = [_share(found["judged"][name][what]) for name in names]
        rows.append((escape(what), *cells))
    yield _table(("", *names), rows)


def _share(told: Mapping[str, Any]) -> str:
    low, high = told["interval"]
    return (
        f"{told['right']} of {told['total']} <span class='soft'>(95 %: {low:.0%} to {high:.0%})</span>"
        if told["total"]
        else "none"
    )


def _measures(found: Mapping[str, Any]) -> Iterator[str]:
    """The table of means and differences, and a plot of each measure."""
    names = found["systems"]
    yield "<h2>Measures</h2>"
    rows = []
    for key, told in found["measures"].items():
        means = [f"{told['means'][name]:.4g}" for name in names]
        what = f"{escape(key)}<br><span class='soft'>{escape(WORDS.get(key, ''))}</span>"
        rows.append((what, *means, escape(difference_words(told["difference"]))))
    yield _table(("", *names, "difference (95 % interval)"), rows)
    yield (
        "<p class='soft'>Each dot is a video; the line is the mean. Differences are of pairs with one "
        "prompt.</p>"
    )
    for key, told in found["measures"].items():
        if key != "frames":
            yield f"<figure><figcaption>{escape(key)}</figcaption>{plot(told['values'])}</figure>"


def difference_words(told: Mapping[str, Any]) -> str:
    """A difference with its interval, and whether it could be chance."""
    if told["interval"] is None:
        return f"{told['mean']:+.3g}"
    low, high = told["interval"]
    if low == high == 0:
        return "none"
    word = "" if low > 0 or high < 0 else ", may be chance"
    return f"{told['mean']:+.3g} ({low:+.3g} to {high:+.3g}{word})"


def plot(values: Mapping[str, Sequence[float]]) -> str:
    """Two rows of dots on one axis, as SVG."""
    every = [value for row in values.values() for value in row]
    low = min(every)
    high = max(every)
    span = (high - low) or 1.0
    place = {value: 12 + (WIDTH - 24) * (value - low) / span for value in every}
    marks = []
    for number, row in enumerate(values.values()):
        y = ROW * number + ROW / 2 + 2
        color = f"var(--{'ab'[number]})"
        marks += [
            f"<circle cx='{place[value]:.1f}' cy='{y}' r='4' fill='{color}' fill-opacity='0.45'/>"
            for value in row
        ]
        mean = 12 + (WIDTH - 24) * (sum(row) / len(row) - low) / span
        marks.append(f"<path d='M{mean:.1f} {y - 9}v18' stroke='{color}' stroke-width='2.5'/>")
    bottom = 2 * ROW + 18
    ends = ((12, "start", low), (WIDTH - 12, "end", high))
    text = "".join(
        f"<text x='{x}' y='{bottom - 3}' text-anchor='{anchor}' class='tick'>{v:.4g}</text>"
        for x, anchor, v in ends
    )
    axis = f"<path d='M12 {2 * ROW + 5}H{WIDTH - 12}' stroke='currentColor' stroke-opacity='0.3'/>"
    size = f"width='{WIDTH}' viewBox='0 0 {WIDTH} {bottom}' style='max-width: 100%'"
    return (
        f"<svg {size} role='img' aria-label='{escape(', '.join(values))}'>{axis}{''.join(marks)}{text}</svg>"
    )


def _distances(found: Mapping[str, Any]) -> Iterator[str]:
    """Fréchet distances, if any were asked for."""
    if not found["frechet"]:
        return
    yield "<h2>Fréchet distances</h2>"
    rows = [
        (f"{escape(between)}<br><span class='soft'>features: {escape(kind)}</span>", *_distance(told))
        for kind, pairs in found["frechet"].items()
        for between, told in pairs.items()
    ]
    yield _table(("", "distance", "videos", "features"), rows)
    yield (
        "<p class='soft'>Smaller is nearer. Only distances in the same features, of as many videos, can be "
        "compared.</p>"
    )


def _distance(told: Mapping[str, Any]) -> tuple[str, str, str]:
    note = f"<br><span class='soft'>{escape(told['note'])}</span>" if "note" in told else ""
    first, second = told["videos"]
    return f"{told['distance']:.4g}{note}", f"{first} and {second}", str(told["features"])


def _pictures(found: Mapping[str, Any], videos: Mapping[str, Mapping[str, Path]]) -> Iterator[str]:
    """Frames of both, for the first prompts."""
    names = found["systems"]
    yield "<h2>Side by side</h2>"
    above, below = (
        f"<span class='{kind}'>{escape(name)}</span>" for kind, name in zip("ab", names, strict=True)
    )
    yield f"<p class='soft'>Above {above}, below {below}.</p>"
    for prompt in found["prompts"][:SHOWN]:
        strips = "".join(
            f"<img alt='{escape(name)}' src='data:image/jpeg;base64,{strip_of(videos[name][prompt])}'>"
            for name in names
        )
        yield f"<figure><figcaption>{escape(prompt)}</figcaption>{strips}</figure>"


def strip_of(path: Path) -> str:
    """Evenly spaced frames of a video in a row, as a JPEG in base64."""
    from pyramid.evaluation.offline import read_clip

    clip = read_clip(path)
    frames = clip[np.linspace(0, len(clip) - 1, COLUMNS).round().astype(int)]
    width = max(1, math.floor(HEIGHT * clip.shape[2] / clip.shape[1]))
    row = Image.new("RGB", (COLUMNS * (width + 3) - 3, HEIGHT), "white")
    for number, frame in enumerate(frames):
        small = Image.fromarray(frame).resize((width, HEIGHT), Image.Resampling.LANCZOS)
        row.paste(small, (number * (width + 3), 0))
    buffer = io.BytesIO()
    row.save(buffer, format="JPEG", quality=88)
    return base64.b64encode(buffer.getvalue()).decode()


def table_of(found: Mapping[str, Any]) -> list[Any]:
    """The same in the terminal, as tables of rich."""
    from rich.markup import escape as plain
    from rich.table import Table

    names = found["systems"]
    table = Table(title=f"{len(found['prompts'])} prompts")
    for name in ("measure", *names, "difference (95 %)"):
        table.add_column(plain(name), justify="left" if name == "measure" else "right", overflow="fold")
    for key, told in found["measures"].items():
        means = (f"{told['means'][name]:.4g}" for name in names)
        table.add_row(plain(key), *means, difference_words(told["difference"]))
    for what in found["judged"].get(names[0], {}):
        shares = (found["judged"][name][what] for name in names)
        table.add_row(
            plain(f"right: {what}"), *(f"{told['right']} of {told['total']}" for told in shares), ""
        )
    for kind, pairs in found["frechet"].items():
        for between, told in pairs.items():
            table.add_row(plain(f"Fréchet, {kind}: {between}"), "", "", f"{told['distance']:.4g}")
    return [table]
