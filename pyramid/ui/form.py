"""What to make: the form's fields, from settings and back.

    form = build_form(app)               # inside gr.Blocks
    settings = form.read(*values)        # values in the order of form.components; SettingsError names the field
    updates = form.fill(settings)        # one gr.update for each of form.components
"""

from pyramid.settings import Settings
from pyramid.ui import App


class Form:
    """The fields, in `components`, and what they mean."""

    def __init__(self, app: App):
        self.app, self.components = app, []

    def read(self, *values) -> Settings:
        """The settings that the fields ask for. `image` and `video` are names; `sources` has the files."""
        raise NotImplementedError

    def sources(self, *values) -> tuple[str | None, str | None]:
        """The files of the picture and of the clip to begin with, as this server keeps them."""
        raise NotImplementedError

    def fill(self, settings: Settings, picture: str | None = None, video: str | None = None) -> list[dict]:
        """What brings these settings into the fields, one update for each of `components`."""
        raise NotImplementedError


def build_form(app: App) -> Form:
    return Form(app)
