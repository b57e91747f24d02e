"""The embedded model's text side: words are tokens, a code is linear, and training writes what loads."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import pyramid.training.text
from pyramid.hub.checkpoints import EMBEDDED_FOLDER
from pyramid.text.encoders import TextEncoders
from pyramid.training.prompts import SMALL_WORDS, Captions, all_words, attribute_values, roughen, wordings
from pyramid.training.recipe import TextRecipe
from pyramid.training.text import (
    Code,
    build_clip_tokenizer,
    build_t5_tokenizer,
    build_text_side,
    masked_mean,
    split_word,
    train_text,
)
from pyramid.training.world import World, canonical_caption, caption

SMALL = World(
    shapes=("ball", "star"),
    colors=("red", "blue"),
    backgrounds=("sky", "meadow"),
    motions=("right", "left"),
    photo_cameras=("zoom in",),
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Both kinds as a pipeline gets them: written and read again."""
    folder, words = tmp_path_factory.mktemp("tokenizers"), all_words(World())
    for name, build in (("t5", build_t5_tokenizer), ("clip", build_clip_tokenizer)):
        build(words).save_pretrained(folder / name)
    return {name: AutoTokenizer.from_pretrained(folder / name) for name in ("t5", "clip")}


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_every_word_of_the_world_is_one_token(tokenizers, kind):
    tokens = {
        word: tokenizers[kind](word, add_special_tokens=False).input_ids for word in World().vocabulary()
    }
    assert {word: ids for word, ids in tokens.items() if len(ids) != 1 and word.isalpha()} == {}
    assert len({tuple(ids) for ids in tokens.values()}) == len(tokens)


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_case_and_punctuation_change_no_words(tokenizers, kind):
    def ids(text):
        return tokenizers[kind](text, add_special_tokens=False).input_ids

    plain = ids("a red ball moves to the right")
    assert ids("A Red BALL moves   to the\nRIGHT") == plain
    assert ids("A red ball moves to the right.")[:-1] == plain
    assert set(plain) <= set(ids("Two RED balls: a red ball moves, to the right!!"))


def test_unknown_words_are_spelled_and_never_end_clips_prompt(tokenizers):
    clip = tokenizers["clip"]
    text = "a naïve zebra 🦓 runs, <b>fast</b> 42 times & rests"
    ids = clip(text).input_ids
    assert ids.count(clip.eos_token_id) == 1 and ids[-1] == clip.eos_token_id and ids[0] == clip.bos_token_id
    assert clip("rests", add_special_tokens=False).input_ids[0] in ids
    t5 = tokenizers["t5"]
    assert t5("zebra").input_ids.count(t5.unk_token_id) == 0
    assert t5("").input_ids == [t5.eos_token_id]


def test_merges_are_applied_by_rank():
    merges = [("a", "b"), ("b", "c</w>"), ("ab", "c</w>")]
    assert split_word("abc", merges) == ["abc</w>"]
    assert split_word("abc", merges[1:]) == ["a", "bc</w>"]
    assert split_word("xyz", merges) == ["x", "y", "z</w>"]


def test_the_code_is_orthonormal_and_reads_what_it_wrote():
    torch.manual_seed(0)
    code = Code(attribute_values(World()), width=128, share=0.8)
    labels = [{"shape": "ball", "color": "red"}, {}, {"motion": "zoom in"}]
    targets = code.targets(labels)
    vectors = code.write(targets)
    assert code.right(vectors, targets).all() and targets[1].tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(code.directions @ code.directions.T, torch.eye(len(code.directions)))
    torch.testing.assert_close(vectors.pow(2).mean(1), torch.full((3,), 0.8))  # of an energy of 1 a channel
    assert code.loss(vectors, targets) < 0.01 < code.loss(vectors.flip(0), targets)
    with pytest.raises(ValueError, match="raise the width"):
        Code(attribute_values(World()), width=16)


def test_held_out_combinations_are_never_drawn_for_training():
    world, rng = World(), np.random.default_rng(0)
    held_out = {(s.shape, s.color, s.background, s.motion) for s in world.held_out_scenes()}
    captions = Captions(world)
    drawn = [
        tuple(labels.get(name) for name in captions.values)
        for _, labels in (captions.draw_training(rng) for _ in range(2000))
    ]
    assert not held_out & set(drawn) and (None,) * 4 in drawn
    asked = [tuple(captions.draw(rng, held_out=True)[1].values()) for _ in range(50)]
    assert set(asked) <= held_out


def test_free_wording_says_its_labels_and_roughening_keeps_them():
    world, rng = World(), np.random.default_rng(1)
    captions, phrases = Captions(world), wordings(world)
    for _ in range(300):
        text, labels = captions.draw_loose(rng)
        for name, value in labels.items():
            assert any(phrase in text for phrase in phrases[name][value]), (text, labels)
        shapes = set(phrases["shape"].get(labels.get("shape"), ()))
        kept = [word for word in text.split() if word not in SMALL_WORDS and word not in shapes]
        words = iter(roughen(text, rng).rstrip(".! ").split())
        assert all(word in words for word in kept)  # as a subsequence


def test_masked_mean_ignores_padding():
    states = torch.tensor([[[1.0], [3.0], [99.0]]])
    assert masked_mean(states, torch.tensor([[1, 1, 0]])).item() == 2


def test_training_teaches_both_encoders_and_writes_what_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(pyramid.training.text, "BATCH", 32)
    monkeypatch.setattr(pyramid.training.text, "CHECKED", 64)
    lines: list[str] = []
    untrained = train_text(TextRecipe(steps=1), tmp_path / "a", 0, world=SMALL, log=lines.append)
    trained = train_text(TextRecipe(steps=40), tmp_path / "b", 0, world=SMALL, log=lines.append)
    assert untrained["captions"]["clip"] < 0.5 < 0.8 < trained["captions"]["clip"]
    assert untrained["captions"]["t5"] < 0.5 < 0.7 < trained["captions"]["t5"]
    assert lines[0].startswith("text step 1/1: loss ") and any("roughened" in line for line in lines)
    text = TextEncoders.from_folder(tmp_path / "b", cache=tmp_path / "cache")
    embeds = text.encode([canonical_caption(SMALL.scenes()[0]), ""])
    assert embeds.prompt_embeds.shape == (2, 128, 128) and embeds.pooled.shape == (2, 128)
    assert all(0.5 < states.pow(2).mean() < 1.5 for states in (embeds.pooled, embeds.prompt_embeds[0, :5]))
    assert all(path.stat().st_size < 4_000_000 for path in (tmp_path / "b").rglob("*") if path.is_file())


def test_one_seed_gives_one_text_side(monkeypatch, tmp_path):
    monkeypatch.setattr(pyramid.training.text, "BATCH", 4)
    monkeypatch.setattr(pyramid.training.text, "CHECKED", 4)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_text(TextRecipe(steps=2), tmp_path / name, seed, world=SMALL, log=lambda line: None)
    weights = [(tmp_path / name / "text_encoder" / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]


def test_untrained_sizes_can_be_chosen():
    side = build_text_side(["red", "ball"], width=32, layers=1, heads=2)
    pooled, states, mask = side.encode(["red ball", "ball"])
    assert pooled.shape == (2, 32) and states.shape[::2] == (2, 32) and mask.sum(1).tolist() == [3, 2]


@pytest.mark.skipif(not (EMBEDDED_FOLDER / "text_encoder").is_dir(), reason="the embedded model is not there")
def test_the_embedded_texts_tell_scenes_apart_whatever_the_wording(tmp_path):
    text, rng = TextEncoders.from_folder(EMBEDDED_FOLDER, cache=tmp_path), np.random.default_rng(2)
    scenes = World().held_out_scenes()[::8]
    plain = text.encode([canonical_caption(scene) for scene in scenes])
    said = text.encode([caption(scene, rng).capitalize() + "." for scene in scenes])
    mean = [masked_mean(embeds.prompt_embeds, embeds.attention_mask) for embeds in (plain, said)]
    for known, asked in ((plain.pooled, said.pooled), mean):
        nearest = torch.cdist(asked, known).argmin(1)
        assert (nearest == torch.arange(len(scenes))).float().mean() > 0.98
