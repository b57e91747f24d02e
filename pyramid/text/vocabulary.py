"""Which words a model knows, where that is a short list, as of the embedded model.

vocabulary = Vocabulary.of(checkpoint.details)      # None where the model says nothing of it
vocabulary.notice(["a red dog"])                    # a sentence, or ""
vocabulary.nearest("scarlet")                       # ["red", "crimson"]: what it knows that comes nearest
vocabulary.surprise()                               # "a golden star falls in front of the evening sky"
"""

import difflib
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

WORD = re.compile(r"[^\W\d_]+")
SHOWN = 5  # unknown words that a sentence lists
OFFERED = 3  # known words that are offered for an unknown one
KINDS = (  # words that people write, and the words that a model of few may know in their place
    ("cat dog bird fish animal person man woman child face boat ship apple planet", "ball star heart"),
    ("moon balloon bubble globe marble orange egg coin wheel ring", "ball circle disc sphere"),
    ("car house building tower brick door window table train truck robot", "square cube box block"),
    ("tree mountain roof tent arrow cone peak", "triangle pyramid"),
    ("comet sparkle snowflake flower firework diamond gem", "star"),
    ("scarlet maroon ruby pink magenta rose", "red crimson violet"),
    ("navy azure turquoise cyan indigo teal", "blue"),
    ("lime olive emerald mint", "green"),
    ("orange amber gold brown beige tan", "golden yellow"),
    ("lilac lavender mauve plum", "purple violet"),
    ("black shadow gray grey silver", "dark white"),
    (
        "walks runs drives dances swims crawls plays sails wanders races hovers drifts floats",
        "moves glides goes",
    ),
    ("jumps hops leaps climbs soars ascends bounces lifts launches", "rises climbs flies"),
    ("dives descends tumbles crashes rains lands", "falls sinks drops"),
    ("spins turns rotates waits sits sleeps lies poses", "rests stands"),
    ("swells inflates blooms zooms", "grows expands"),
    ("melts fades vanishes disappears deflates", "shrinks"),
    ("forest garden park grassland hill valley farm jungle prairie", "meadow field grass"),
    ("beach island shore dune sahara mars", "desert sand dunes"),
    ("lake river pond pool waves underwater bay", "sea ocean water"),
    ("city street room indoors space stars galaxy midnight cave", "night sky"),
    ("clouds air heaven horizon dawn dusk sunrise morning", "sky evening sunset"),
    ("near beside across behind through along under below onto", "over before above"),
)
SHAPES = ("ball", "square", "triangle", "star", "heart", "cube", "circle")
COLORS = ("red", "blue", "green", "yellow", "purple", "white", "golden", "crimson", "violet")
MOTIONS = ("moves to the right", "moves to the left", "rises", "falls", "grows", "shrinks", "glides upwards")
PLACES = (
    "over a meadow",
    "over the sea",
    "over a desert",
    "in front of the night sky",
    "in front of a sunset",
    "above the ocean",
    "in front of a blue sky",
)


@dataclass(frozen=True)
class Vocabulary:
    """The words, in lower case, that a model was trained with."""

    words: frozenset[str]

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> Self | None:
        """The vocabulary that a checkpoint's pyramid.json states as "words"; None where it states none."""
        words = details.get("words")
        if not isinstance(words, list) or not words:
            return None
        return cls(frozenset(str(word).lower() for word in words))

    def unknown(self, prompt: str) -> list[str]:
        """The words of a prompt that the model does not know, each once, in order.
        A plural is its singular.
        """
        found = dict.fromkeys(word.lower() for word in WORD.findall(prompt))
        return [word for word in found if word not in self.words and word.removesuffix("s") not in self.words]

    def nearest(self, word: str) -> list[str]:
        """Known words that come nearest to an unknown one, by spelling or by kind: at most OFFERED."""
        word = word.lower()
        forms = {word, word.removesuffix("s"), f"{word}s"}
        of_kind = [known for unknown, known in KINDS if forms & {*unknown.split()}]
        spelled = [] if of_kind else difflib.get_close_matches(word, self.words, OFFERED, cutoff=0.72)
        found = [*spelled, *(name for names in of_kind for name in names.split())]
        return [name for name in dict.fromkeys(found) if name in self.words][:OFFERED]

    def surprise(self, draw: random.Random | None = None) -> str:
        """A prompt of known words alone, drawn anew each time; "" where they make none."""
        draw = draw or random.Random()
        parts = [self._known(phrases) for phrases in (COLORS, SHAPES, MOTIONS, PLACES)]
        return "a " + " ".join(draw.choice(phrases) for phrases in parts) if all(parts) else ""

    def _known(self, phrases: Iterable[str]) -> list[str]:
        return [phrase for phrase in phrases if not self.unknown(phrase)]

    def notice(self, prompts: Iterable[str]) -> str:
        """A sentence on the unknown words of prompts; "" where there are none."""
        found = list(dict.fromkeys(word for prompt in prompts for word in self.unknown(prompt)))
        if not found:
            return ""
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        listed = ", ".join(repr(word) for word in found[:SHOWN])
        said = f"This model was not trained with {listed}{more}: expect nothing of what that asks for."
        known = [
            f"{' or '.join(near)} for {word!r}" for word in found[:SHOWN] if (near := self.nearest(word))
        ]
        return f"{said} It knows {', '.join(known)}." if known else said
