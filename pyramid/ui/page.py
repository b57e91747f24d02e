"""The page as Gradio blocks: the parts, side by side, and what each tells the others.

    build(app).launch(css_paths=STYLE, …)
"""

from pathlib import Path

import gradio as gr

from pyramid.ui import App
from pyramid.ui.form import build_form

STYLE = Path(__file__).resolve().parent.parent.parent / "assets" / "style.css"


def build(app: App) -> gr.Blocks:
    """The whole page; nothing is served yet.

    Parts that others plug in: `visitor` (gr.BrowserState, pass it to `app.owner` as the token) and `pulse`
    (hidden gr.Number whose `change` says that the owner's jobs or results changed).
    """
    with gr.Blocks(title="Pyramid", analytics_enabled=False) as page:
        build_form(app)
    return page
