"""Show the settings that a result was made with, and the command that makes it again.

python -m pyramid inspect outputs/a-red-ball-7.mp4
"""

import argparse
from typing import Any

from pyramid.commands.flags import command_of
from pyramid.commands.terminal import screen
from pyramid.disk import as_json
from pyramid.settings import Settings, at_home, label_of, shown
from pyramid.timeline import told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `inspect`."""
    parser.add_argument("file", type=at_home)
    parser.add_argument("--json", action="store_true", help="print them as JSON")


def run(args: argparse.Namespace) -> int:
    """Print what a result says of itself; returns the exit code."""
    from pyramid.media.files import read_metadata

    metadata = read_metadata(args.file)
    if args.json:
        print(as_json(metadata))
        return 0
    settings = Settings.from_dict(metadata.get("settings", {}))
    print(args.file)
    screen().print(table_of(settings, metadata))
    print(f"Again: {command_of(settings)}")
    return 0


def table_of(settings: Settings, metadata: dict[str, Any]):
    """The settings, then what made the result from them, as a table of rich."""
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in settings.to_dict().items():
        if value not in (None, "") and name not in ("version", *settings.idle):
            table.add_row(label_of(name), _cell(told(settings.cues) if name == "timeline" else value))
    for name in ("model", "source", "timings"):
        about = metadata.get(name)
        for key, value in about.items() if isinstance(about, dict) else ():
            table.add_row(_cell(f"{name}: {key}"), _cell(value))
    if metadata.get("partial"):
        table.add_row("partial", "stopped before its end")
    return table


def _cell(value: Any) -> str:
    from rich.markup import escape

    if isinstance(value, dict):
        return escape(", ".join(f"{key} {shown(item)}" for key, item in value.items()))
    return escape(shown(value))
