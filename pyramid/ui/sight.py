"""What the model will see of a picture or a clip: exactly, as `fit_picture` brings it to the size.

sight = build_sight(); wire_sight(form, sight)
"""

from html import escape
from pathlib import Path

import gradio as gr
from PIL import Image

from pyramid.media.pictures import fit_picture, read_picture
from pyramid.media.video_reader import read_video
from pyramid.settings import Settings
from pyramid.ui import App, follow
from pyramid.ui.form import OTHER, Form, listed_size, upload_path, whole
from pyramid.ui.guards import check
from pyramid.ui.markup import html, img, words_of

SHOWN = 420  # pixels: the preview is sent no larger


def build_sight() -> gr.HTML:
    return html("", elem_id="sight")


def check_frame(app: App, width: int, height: int, stages: int, fps: int) -> None:
    """Raises SettingsError for a size or rate that cannot be made, or not by this visitor,
    before it takes memory.
    """
    steps = (1,) * stages
    frame = Settings(
        width=width,
        height=height,
        fps=fps,
        num_frames=1,
        num_inference_steps=steps,
        video_num_inference_steps=steps,
    )
    check(app, frame, skip=("prompt",))


class Sight:
    """What the preview shows for the fields that decide it."""

    FIELDS = ("mode", "picture", "clip", "fit", "size", "width", "height", "stages", "fps")

    def __init__(self, form: Form):
        self.form = form

    def for_visitor(self, request: gr.Request, *values) -> str:
        """The same for one visitor, of whom few may have files read at once."""
        try:
            with self.form.app.working(request):
                return self(*values)
        except ValueError as error:
            return f'<p class="problem" role="alert">{escape(str(error))}</p>'

    def __call__(self, *values) -> str:
        """The preview as HTML; values in the order of FIELDS."""
        v = dict(zip(self.FIELDS, values, strict=True))
        path = upload_path({"image": v["picture"], "video": v["clip"]}.get(v["mode"]))
        if not path:
            return ""
        try:
            size = self.size(v)
            see = first_frame if v["mode"] == "image" else last_frame
            seen, words = see(path, v, size)
        except (ValueError, TypeError) as error:
            words = words_of(error).replace(repr(str(path)), Path(path).name)
            return f'<p class="problem" role="alert">{escape(words)}</p>'
        seen.thumbnail((SHOWN, SHOWN))
        picture = img(seen, "jpeg", words, quality=88)
        size_text = f"{size[0]} × {size[1]} px"
        return f'<figure class="sight">{picture}<figcaption>{words}<br>{size_text}</figcaption></figure>'

    def size(self, v: dict) -> tuple[int, int]:
        """Width and height of the video, once they are known to be possible."""
        if v["size"] == OTHER:
            width = whole(v["width"], "width")
            height = whole(v["height"], "height")
        else:
            width, height = listed_size(v["size"])
        fps = whole(v["fps"], "fps") if v["mode"] == "video" else 1
        check_frame(self.form.app, width, height, whole(v["stages"], "stages"), fps)
        return width, height


def first_frame(path: str, v: dict, size: tuple[int, int]) -> tuple[Image.Image, str]:
    """A picture as the model sees it, and what it is."""
    picture = fit_picture(read_picture(path, size), *size, v["fit"])
    return picture, "The first frame, as the model sees it"


def last_frame(path: str, v: dict, size: tuple[int, int]) -> tuple[Image.Image, str]:
    """Where a clip ends, and what it is."""
    frames = read_video(path, *size, fps=v["fps"], num_frames=1, fit=v["fit"])
    return Image.fromarray(frames[-1]), "The last frame; the video continues from here"


def wire_sight(form: Form, sight: gr.HTML) -> None:
    watched = [form.fields[name] for name in Sight.FIELDS]
    changes = [field.change for field in watched]
    follow(changes, Sight(form).for_visitor, watched, sight, preprocess=False)
