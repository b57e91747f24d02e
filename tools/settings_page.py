"""Write docs/settings.md, the list of all settings, from their table: python tools/settings_page.py."""

from pathlib import Path

from pyramid.presets import preset_names
from pyramid.settings import GROUPS, TABLE, Spec, default_words, values_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
HEAD = """# Settings

Everything that decides one result. A setting has one name in lists, presets, records, the API and Python, a
flag on the command line and a label on the page. What is left out comes from the preset, then from the model.
This page is written from the table in `pyramid/settings.py` by `tools/settings_page.py`.
"""
COLUMNS = ("setting", "label", "flag", "what it is", "values", "default")
TOP = f"| {' | '.join(COLUMNS)} |\n|{' - |' * len(COLUMNS)}"


def as_markdown() -> str:
    """The whole page."""
    parts = [HEAD]
    for group, title in GROUPS.items():
        rows = [row(spec) for spec in TABLE.values() if spec.group == group]
        if rows:
            top = (
                "| setting | on the page | flag | what it is | values | default |\n| - | - | - | - | - | - |"
            )
            parts.append("\n".join([f"## {title}\n", top, *rows, ""]))
    return "\n".join(parts)


def row(spec: Spec) -> str:
    """A setting as a line of its group's table."""
    values = ", ".join(preset_names()) if spec.name == "preset" else values_of(spec)
    cells = f"`{spec.name}`", spec.label, f"`{spec.option}`", spec.help, values, default_words(spec)
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


if __name__ == "__main__":
    PAGE.write_text(as_markdown(), encoding="utf-8")
