"""Show the settings that a result was made with, what was done to it since, and the command that makes it, or
the clip that it was made of, again.

python -m pyramid inspect outputs/a-red-ball-7.mp4
"""

import argparse
from typing import Any

from pyramid.commands.flags import command_of
from pyramid.commands.terminal import screen
from pyramid.disk import as_json
from pyramid.settings import Settings, at_home, label_of, shown
from pyramid.timeline import told

COMMANDS = {"loop": "loop", "joined": "join"}  # what a file says that it is -> what makes such ones


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
    changes = changes_of(metadata)
    print("\n".join(changes), end="\n" * bool(changes))
    print(f"{'The clip it was made of' if changes else 'Again'}: {command_of(settings)}")
    return 0


def changes_of(metadata: dict[str, Any]) -> list[str]:
    """What was done to the clip that the settings make, a sentence each: which units were made anew, and
    what the file was made of; none where it is that clip. The file says so, and may be anybody's.
    """
    found = []
    last = metadata.get("edit")
    before = last.get("before") if isinstance(last, dict) else None
    for edit in [*(before if isinstance(before, list) else []), last]:
        if isinstance(edit, dict):
            words = f", {edit.get('prompt')!r}" if edit.get("prompt") else ""
            kept = ", its composition kept" * bool(edit.get("composition"))
            found.append(f"Unit {edit.get('unit')} was made anew with seed {edit.get('seed')}{words}{kept}")
    if kind := metadata.get("export"):
        named = metadata.get("joined") if kind == "joined" else [metadata.get("source_file")]
        of = ", ".join(str(name) for name in named if name) if isinstance(named, list) else ""
        how = COMMANDS.get(str(kind), "export")
        found.append(f"Made of {of or 'another clip'} by {how}{_finished(metadata)}")
    return found


def _finished(metadata: dict[str, Any]) -> str:
    """By which flags of `export` a clip became larger and smoother."""
    told = metadata.get("finish")
    if metadata.get("export") != "finished" or not isinstance(told, dict):
        return ""
    flags = {name: told[name] for name in ("upscale", "smooth") if isinstance(told.get(name), dict)}
    return "".join(f" --{name} {each.get('factor')}" for name, each in flags.items())


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
