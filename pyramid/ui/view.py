"""What one page shows of the history: a value that each action replaces by another."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pyramid.media.finish import Finish
from pyramid.ui.markup import words_of

SHOWN = 24  # cards at first, and with each click on "Show more"
OF_OPENED = ("tries", "wrong", "wrong_with", "form", "said", "asked", "looked")  # what the next one has anew


@dataclass(frozen=True)
class View:
    """What one page shows of the history."""

    search: str = ""
    favorites: bool = False
    limit: int = SHOWN
    opened: str = ""  # a job's id
    pair: tuple[str, ...] = ()  # ids of those to compare
    tries: int = 0  # how often a form of the opened one was sent: what is shown after each is something new
    wrong: str = ""  # with the last try
    wrong_with: str = ""  # the form: export or longer
    form: str = ""  # the form of a clip's finishing that was sent last
    said: str = ""  # what came of it
    finish: Finish = Finish(2, 2)  # what it asked for
    asked: Mapping[str, str] = field(default_factory=dict)  # the fields of the form that was sent last
    looked: str = ""  # the file of the seam that is shown with it

    def toggled(self, job_id: str) -> "View":
        """With a job put to those to compare, in place of the first of two, or taken away."""
        others = tuple(other for other in self.pair if other != job_id)
        return replace(self, pair=others if job_id in self.pair else (*others, job_id)[-2:])

    def opening(self, job_id: str) -> "View":
        fresh = {name: getattr(View(), name) for name in OF_OPENED}
        return replace(self, opened=job_id, **fresh)

    def tried(self, form: str, error: Exception | None = None) -> "View":
        """After a form was sent, and what was wrong with it."""
        if error is None:
            return replace(self, tries=self.tries + 1, wrong="", wrong_with="")
        words = (isinstance(error, OSError) and error.strerror) or words_of(error)
        return replace(self, tries=self.tries + 1, wrong=words, wrong_with=form)

    def told(self, form: str, said: str) -> "View":
        """After a form was sent, and what came of it."""
        return replace(self.tried(form), form=form, said=said)

    def finishing(self, asked: Finish, said: str = "") -> "View":
        """After the form of finishing was sent."""
        return replace(self.told("finish", said), finish=asked)

    def without(self, job_id: str) -> "View":
        pair = tuple(other for other in self.pair if other != job_id)
        return replace(self, pair=pair, opened="" if self.opened == job_id else self.opened)
