"""Which words a model knows, where that is a short list, as of the embedded model.

vocabulary = Vocabulary.of(checkpoint.details)      # None where the model says nothing of it
vocabulary.notice(["a red dog"])                    # a sentence, or ""
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

WORD = re.compile(r"[^\W\d_]+")
SHOWN = 5  # unknown words that a sentence lists


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

    def notice(self, prompts: Iterable[str]) -> str:
        """A sentence on the unknown words of prompts; "" where there are none."""
        found = list(dict.fromkeys(word for prompt in prompts for word in self.unknown(prompt)))
        if not found:
            return ""
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        listed = ", ".join(repr(word) for word in found[:SHOWN])
        return f"This model was not trained with {listed}{more}: expect nothing of what that asks for."
