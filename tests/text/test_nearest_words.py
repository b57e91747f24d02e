"""Words that a model does not know: the nearest that it knows, and prompts of known words alone."""

import json
from pathlib import Path

import pytest

from pyramid.text.vocabulary import Vocabulary

DETAILS = Path(__file__).parent.parent.parent / "assets" / "embedded" / "pyramid.json"


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.of(json.loads(DETAILS.read_text()))


def test_unknown_words_have_nearest_known_ones(vocabulary):
    assert vocabulary.nearest("cat") == ["ball", "star", "heart"]
    assert vocabulary.nearest("cats") == vocabulary.nearest("Cat")
    assert vocabulary.nearest("meadwo")[0] == "meadow" and vocabulary.nearest("qqqq") == []
    assert all(vocabulary.nearest(word)[0] in vocabulary.words for word in ("turquoise", "soars", "lake"))
    notice = vocabulary.notice(["a cat plays the piano"])
    assert "'cat', 'plays', 'piano'" in notice and "It knows ball or star or heart for 'cat'" in notice
    assert vocabulary.notice(["a red ball moves"]) == ""


def test_a_surprise_has_known_words_alone(vocabulary):
    written = {vocabulary.surprise() for _ in range(50)}
    assert len(written) > 20 and not any(vocabulary.unknown(prompt) for prompt in written)
    assert Vocabulary(frozenset({"dog"})).surprise() == ""
