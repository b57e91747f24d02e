"""Words that a model was not trained with are told, once each, and by whichever way it is asked."""

from pyramid.evaluation.evaluate import world_of
from pyramid.events import Notice
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.hub.checkpoints import find
from pyramid.text.vocabulary import Vocabulary
from pyramid.training.prompts import all_words

KNOWN = Vocabulary(frozenset(["a", "red", "ball", "moves"]))


def test_unknown_words_are_named_once_in_order():
    assert KNOWN.unknown("A red Dog, a dog and 2 balls (red)") == ["dog", "and"]
    assert KNOWN.notice(["a red ball"]) == ""
    assert "'dog', 'and'" in KNOWN.notice(["a red dog", "a dog and a ball"])


def test_a_long_list_is_cut():
    assert "and 2 more" in KNOWN.notice(["one two three four five six seven"])


def test_a_checkpoint_that_lists_no_words_knows_all():
    assert Vocabulary.of({}) is None and Vocabulary.of({"words": []}) is None


def test_the_embedded_model_lists_the_words_it_was_trained_with():
    pipe = PyramidFlowPipeline.from_pretrained("embedded")
    assert find("embedded").details["words"] == all_words(world_of(pipe))


def test_unknown_words_are_a_notice(tiny_checkpoint):
    pipe = PyramidFlowPipeline.from_pretrained(tiny_checkpoint)
    assert pipe.vocabulary is None
    pipe.vocabulary = KNOWN
    once = dict(num_frames=1, num_inference_steps=[1, 1, 1], seed=1)
    events = list(pipe.stream(*pipe.request("a red dog moves", **once)))
    assert [event.message for event in events if isinstance(event, Notice)] == [KNOWN.notice(["a red dog"])]
    assert pipe("a red dog moves", **once).notices == (KNOWN.notice(["dog"]),)
    assert pipe("a red ball", **once).notices == ()
