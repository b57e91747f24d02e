"""What was typed is still there after a reload: the browser keeps the form's values, and gives them back.

    wire_reload(form, page, model)               # once all fields are there

Nothing of it is kept on the server. A file is given back where its upload is still here.
"""

from pathlib import Path
from typing import Any

import gradio as gr

from pyramid.ui import AS_SENT, App
from pyramid.ui.addresses import uploads_folder
from pyramid.ui.form import OTHER, Form, size_choices, upload_path

FILES = ("picture", "clip")
OF_EVERY_MODEL = ("prompt", "seed", "random", "mode", *FILES)  # what another model can be asked, too
KEEP = """(model, kept, ...values) => window.pyramidReady ? {model, values} : kept"""
READY = "() => { window.pyramidReady = true; }"


def wire_reload(form: Form, page: gr.Blocks, model: gr.Textbox) -> None:
    """Keep all fields, and how results are kept, with each change; give them back as the page opens."""
    parts = [*form.components, *form.extras]
    kept = gr.BrowserState(None, storage_key="pyramid-form", secret="pyramid")
    changes = [part.change for part in parts]
    gr.on(changes, None, [model, kept, *parts], kept, js=KEEP, **AS_SENT)

    def give_back(before: Any) -> list:
        return given_back(form, before)

    page.load(give_back, kept, parts, **AS_SENT).then(None, js=READY)


def given_back(form: Form, before: Any) -> list[dict]:
    """An update for each field, of what the browser kept; what does not fit to this page stays as it is."""
    names = [*form.fields, *form.extra]
    values = before.get("values") if isinstance(before, dict) else None
    if not isinstance(values, list) or len(values) != len(names):
        return [gr.skip() for _ in names]
    held = dict(zip(names, values, strict=True))
    if before.get("model") != form.app.worker.checkpoint.identity:
        held = {name: held[name] for name in OF_EVERY_MODEL}
    updates = {
        name: gr.update(value=value) for name, value in held.items() if name not in (*FILES, "pictures")
    }
    if "size" in held:
        updates["size"] = _size(form.app, form, held)
    for name in FILES:
        path = _upload(held.get(name))
        updates[name] = gr.update(value=str(path)) if path else gr.skip()
    return [updates.get(name, gr.skip()) for name in names]


def _upload(file: Any) -> Path | None:
    """The file of an upload that is still here; no other file of this machine."""
    try:
        path = Path(upload_path(file) or "") if isinstance(file, dict) else Path()
    except (ValueError, KeyError, TypeError):
        return None
    there = path.is_file() and path.resolve().is_relative_to(uploads_folder())
    return path if there else None


def _size(app: App, form: Form, held: dict[str, Any]) -> dict:
    """The size, of a list that has it."""
    stages = held["stages"] if held.get("stages") in (1, 2, 3, 4) else form.app.worker.start_from.stages
    choices = size_choices(form.expects.sizes, stages, app.limits.max_pixels)
    known = held["size"] in [value for _, value in choices]
    return gr.update(choices=choices, value=held["size"] if known else OTHER)
