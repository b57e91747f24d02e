"""The panel "Direct": what only a pyramid can do with a clip. Closed until it is asked for.

direct = build_direct(app, news)                       # inside gr.Blocks
direct.wire(page, visitor, pulse, left)

Each tool is a module of its own, explains itself in a sentence with a picture (`pyramid.ui.art`), and puts
jobs into the queue as Generate does.
"""

import gradio as gr

from pyramid.ui import App
from pyramid.ui.asked import Asking
from pyramid.ui.branch import Branching, build_branching
from pyramid.ui.endless import Endless, build_endless
from pyramid.ui.explore import Explore, build_explore
from pyramid.ui.timeline import Line, build_line


class Direct:
    """The tools of the panel."""

    explore: Explore
    branching: Branching
    line: Line
    endless: Endless
    news: gr.Textbox

    def wire(self, page: gr.Blocks, visitor: gr.BrowserState, pulse: gr.Textbox, left: Asking) -> None:
        self.explore.wire(page, visitor, pulse, left)
        self.branching.wire(page, visitor, self.news)
        self.line.wire(page, left.form)
        self.endless.wire(page, visitor, self.news, left)


def build_direct(app: App, news: gr.Textbox) -> Direct:
    """`news`: a hidden word that changes whenever a job of the owner's gets further."""
    part = Direct()
    part.news = news
    with gr.Accordion("Direct", open=False, elem_id="direct"), gr.Tabs():
        with gr.Tab("Explore"):
            part.explore = build_explore(app)
        with gr.Tab("Pause and branch"):
            part.branching = build_branching(app)
        with gr.Tab("Timeline"):
            part.line = build_line(app)
        with gr.Tab("Endless"):
            part.endless = build_endless(app)
    return part
