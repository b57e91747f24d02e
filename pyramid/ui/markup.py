"""HTML of our own: parts with nothing but our style sheet, and pictures that carry their bytes.

html('<p class="note">One picture</p>', elem_id="length")         # a gr.HTML
img(picture, "jpeg", "Stage 1", quality=92)                       # an <img> as text
once("thumb", frame, draw)                                        # draw(frame), or what it gave before
say("A copy was added.", "Duplicated"); raise failure("there is no such clip", "Queue")      # toasts

Gradio shows a toast's words as markup. The toasts of the page are made here and nowhere else: what a visitor,
a file or its name brings along is text.
"""

import base64
import io
from html import escape

import gradio as gr
from PIL import Image

from pyramid.settings import SettingsError, label_of


def html(value: str = "", **options) -> gr.HTML:
    """A gr.HTML that Gradio's styles for running text leave alone."""
    return gr.HTML(value, apply_default_css=False, **options)


def data_of(picture: Image.Image, kind: str, **options) -> str:
    """A picture as an address that carries its bytes: a preview costs no file and no second request."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def img(picture: Image.Image, kind: str, alt: str, **options) -> str:
    source = data_of(picture, kind, **options)
    return f'<img src="{source}" alt="{escape(alt)}" draggable="false" decoding="sync">'


class Once:
    """The last results of drawing, by what was drawn: pages that show the same thing draw it once."""

    def __init__(self, most: int = 256):
        self.most = most
        self.made: dict[tuple, tuple] = {}

    def __call__(self, kind: str, source: object, draw) -> str:
        key = (kind, id(source))
        if key not in self.made:
            while len(self.made) >= self.most:
                self.made.pop(next(iter(self.made)))
            self.made[key] = source, draw(source)  # the source is kept, so that its id stays its own
        return self.made[key][1]


once = Once()


def say(words: str, title: str) -> None:
    """A toast that tells something."""
    gr.Info(escape(words), title=escape(title))


def warn(words: str, title: str) -> None:
    """A toast that something was not done."""
    gr.Warning(escape(words), title=escape(title))


def failure(words: str, title: str = "Error") -> gr.Error:
    """To be raised: nothing was done, and the toast says why. No traceback is printed."""
    return gr.Error(escape(words), title=escape(title), print_exception=False)


def words_of(error: Exception) -> str:
    """What is wrong, in the words of the page: a setting is called by its label."""
    return error.told(label_of) if isinstance(error, SettingsError) else str(error)
