"""What the model will see of a picture or a clip: exactly, as `fit_picture` brings it to the size.

sight = build_sight(); wire_sight(form, sight)
"""

from html import escape
from pathlib import Path

import gradio as gr
from PIL import Image

from pyramid.media.video import fit_picture, read_picture, read_video
from pyramid.settings import Settings
from pyramid.ui import AS_SENT, App
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


def wire_sight(form: Form, sight: gr.HTML) -> None:
    f = form.fields
    watched = [
        f[name] for name in ("mode", "picture", "clip", "fit", "size", "width", "height", "stages", "fps")
    ]

    def look(mode, picture, clip, fit, size, width, height, stages, fps) -> str:  # noqa: PLR0913 - one a field of the form
        sources = {"image": picture, "video": clip}
        path = upload_path(sources.get(mode))
        if not path:
            return ""
        try:
            w, h = listed_size(size) if size != OTHER else (whole(width, "width"), whole(height, "height"))
            check_frame(form.app, w, h, whole(stages, "stages"), whole(fps, "fps") if mode == "video" else 1)
            if mode == "image":
                seen, words = (
                    fit_picture(read_picture(path, (w, h)), w, h, fit),
                    "The first frame, as the model sees it",
                )
            else:
                frames = read_video(path, w, h, fps=fps, num_frames=1, fit=fit)
                seen, words = Image.fromarray(frames[-1]), "The last frame, from which it goes on"
        except (ValueError, TypeError) as error:
            words = words_of(error).replace(repr(str(path)), Path(path).name)
            return f'<p class="problem" role="alert">{escape(words)}</p>'
        seen.thumbnail((SHOWN, SHOWN))
        picture = img(seen, "jpeg", words, quality=88)
        return f'<figure class="sight">{picture}<figcaption>{words}<br>{w} × {h} px</figcaption></figure>'

    changes = [field.change for field in watched]
    gr.on(changes, look, watched, sight, trigger_mode="always_last", **AS_SENT)
