"""Embeddings are transformers' own, are cached by content, and tell what was cut."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_checkpoint
from transformers import (
    AutoTokenizer,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5TokenizerFast,
)

import pyramid.text.cache
from pyramid.text.cache import cache_folder
from pyramid.text.encoders import TextEncoders, find_parts, fingerprint

PROMPT = "A red ball moves to the right, over a green meadow"


@pytest.fixture(scope="module")
def sd3_checkpoint(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("sd3"), "sd3", "384p")


def encoders(folder: Path, tmp_path: Path, **options) -> TextEncoders:
    return TextEncoders.from_folder(folder, cache=tmp_path / "cache", **options)


def t5_states(folder: Path, number: str):
    tokenizer = T5TokenizerFast.from_pretrained(folder / f"tokenizer{number}")
    tokens = tokenizer(PROMPT, padding="max_length", max_length=128, truncation=True, return_tensors="pt")
    model = T5EncoderModel.from_pretrained(folder / f"text_encoder{number}")
    return model(tokens.input_ids, attention_mask=tokens.attention_mask)[0], tokens.attention_mask


def clip_output(folder: Path, number: str, kind):
    tokenizer = CLIPTokenizer.from_pretrained(folder / f"tokenizer{number}")
    tokens = tokenizer(PROMPT, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    return kind.from_pretrained(folder / f"text_encoder{number}")(tokens.input_ids)


@torch.no_grad()
def test_miniflux_reads_t5_states_and_clips_pooler_output(tiny_checkpoint, tmp_path):
    embeds = encoders(tiny_checkpoint, tmp_path).encode(PROMPT)
    states, mask = t5_states(tiny_checkpoint, "_2")
    torch.testing.assert_close(embeds.prompt_embeds, states)
    assert torch.equal(embeds.attention_mask, mask) and mask.sum() < 128 and embeds.cut == {}
    pooled = clip_output(tiny_checkpoint, "", CLIPTextModel).pooler_output
    torch.testing.assert_close(embeds.pooled, pooled)


@torch.no_grad()
def test_sd3_joins_both_clips_projections(sd3_checkpoint, tmp_path):
    text = encoders(sd3_checkpoint, tmp_path)
    assert [part.label for part in text.parts] == ["CLIP", "CLIP 2", "T5"]
    embeds = text.encode(PROMPT)
    pooled = [
        clip_output(sd3_checkpoint, number, CLIPTextModelWithProjection).text_embeds for number in ("", "_2")
    ]
    torch.testing.assert_close(embeds.pooled, torch.cat(pooled, dim=-1))
    torch.testing.assert_close(embeds.prompt_embeds, t5_states(sd3_checkpoint, "_3")[0])


def test_a_repeated_prompt_loads_no_encoder(tiny_checkpoint, tmp_path):
    first = encoders(tiny_checkpoint, tmp_path)
    assert first.loaded == ()
    before = first.encode([PROMPT, ""])
    assert first.loaded == ("CLIP", "T5")
    again = encoders(tiny_checkpoint, tmp_path)
    after = again.encode(["", PROMPT])
    assert again.loaded == ()
    assert torch.equal(before.prompt_embeds, after.prompt_embeds.flip(0))
    assert torch.equal(before.attention_mask, after.attention_mask.flip(0))
    assert torch.equal(before.pooled, after.pooled.flip(0))


def test_the_cache_answers_only_for_same_text_encoders_length_and_dtype(tiny_checkpoint, copy, tmp_path):
    def cached() -> int:
        return len(list((tmp_path / "cache").glob("*.safetensors")))

    encoders(tiny_checkpoint, tmp_path).encode(PROMPT)
    encoders(copy, tmp_path).encode(PROMPT)  # a copy elsewhere is the same
    assert cached() == 1
    encoders(tiny_checkpoint, tmp_path).encode(PROMPT + ".")
    encoders(tiny_checkpoint, tmp_path).encode(PROMPT, max_sequence_length=64)
    embeds = encoders(tiny_checkpoint, tmp_path, dtype=torch.bfloat16).encode(PROMPT)
    assert cached() == 4 and embeds.prompt_embeds.dtype == embeds.pooled.dtype == torch.bfloat16
    path = copy / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    weights["final_layer_norm.weight"] += 1  # same names, sizes, file length
    save_file(weights, path, {"format": "pt"})
    encoders(copy, tmp_path).encode(PROMPT)
    assert cached() == 5


def test_a_damaged_cache_file_is_made_again(tiny_checkpoint, tmp_path, caplog):
    before = encoders(tiny_checkpoint, tmp_path).encode(PROMPT)
    (path,) = (tmp_path / "cache").glob("*")
    path.write_bytes(path.read_bytes()[:100])
    after = encoders(tiny_checkpoint, tmp_path).encode(PROMPT)
    assert torch.equal(before.pooled, after.pooled) and "made again" in caplog.text
    caplog.clear()
    encoders(tiny_checkpoint, tmp_path).encode(PROMPT)
    assert not caplog.text


def test_a_cache_that_cannot_be_written_is_told_and_no_error(tiny_checkpoint, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    embeds = encoders(tiny_checkpoint, tmp_path).encode(PROMPT)
    assert embeds.prompt_embeds.shape == (1, 128, 32) and "cannot be kept" in caplog.text


def test_the_oldest_cached_prompts_go_first(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(pyramid.text.cache, "CACHED_PROMPTS", 3)
    text = encoders(tiny_checkpoint, tmp_path)
    known: set = set()
    for index in range(5):
        text.encode(f"prompt {index}")
        (newest,) = set((tmp_path / "cache").iterdir()) - known
        os.utime(newest, (index, index))
        known = set((tmp_path / "cache").iterdir())
    assert {path.stat().st_mtime for path in (tmp_path / "cache").iterdir()} == {2, 3, 4}


@pytest.mark.parametrize("family", ["miniflux", "sd3"])
def test_what_is_cut_is_the_end_of_the_prompt(family, tiny_checkpoint, sd3_checkpoint, tmp_path):
    text = encoders(tiny_checkpoint if family == "miniflux" else sd3_checkpoint, tmp_path)
    words = [("red", "ball", "green", "meadow")[index % 4] for index in range(150)]
    prompt = " ".join(words)
    assert text.count_tokens(prompt)["T5"] == 151 and text.count_tokens(prompt)["CLIP"] == 152
    embeds = text.encode(prompt)
    assert embeds.cut["T5"] == " ".join(words[127:]) and embeds.cut["CLIP"] == " ".join(words[75:])
    assert words[-1] in embeds.notice and "too long" in embeds.notice
    again = encoders(text.parts[0].encoder.parent, tmp_path).encode([prompt, "red"])
    assert again.cut == embeds.cut  # the cache remembers it
    kept = text.encode(" ".join(words[:75]))
    assert kept.cut == {} and kept.notice == ""
    assert torch.equal(kept.pooled, embeds.pooled)  # the cut text had no say


def test_padding_does_not_change_the_tokens(tiny_checkpoint, tmp_path):
    text = encoders(tiny_checkpoint, tmp_path)
    long, short = text.encode(PROMPT), text.encode(PROMPT, max_sequence_length=32)
    count = int(short.attention_mask.sum())
    torch.testing.assert_close(long.prompt_embeds[:, :count], short.prompt_embeds[:, :count])


def test_encoders_leave_memory_when_told_and_when_not_kept(tiny_checkpoint, tmp_path):
    text = encoders(tiny_checkpoint, tmp_path)
    text.encode(PROMPT)
    text.free()
    assert text.loaded == ()
    text.encode("another")
    assert text.loaded == ("CLIP", "T5")
    text = encoders(tiny_checkpoint, tmp_path, keep=False)
    text.encode("a third")
    assert text.loaded == ()


def test_small_encoders_can_be_there_before_a_prompt(tiny_checkpoint, tmp_path, monkeypatch):
    for keep, small, there in ((None, True, 2), (True, True, 2), (False, True, 0), (True, False, 0)):
        monkeypatch.setattr("pyramid.text.encoders.KEEP_BELOW", 2**40 if small else 0)
        text = encoders(tiny_checkpoint, tmp_path, keep=keep)
        text.load_small()
        assert len(text.loaded) == there


def test_no_prompts_is_an_error_an_empty_one_is_not(tiny_checkpoint, tmp_path):
    with pytest.raises(ValueError, match="prompts is empty"):
        encoders(tiny_checkpoint, tmp_path).encode([])
    embeds = encoders(tiny_checkpoint, tmp_path).encode("")
    assert embeds.attention_mask.sum() == 1 and embeds.pooled.isfinite().all()


def test_bin_weights_are_read_and_programs_in_them_refused(copy, tmp_path):
    safe = encoders(copy, tmp_path).encode(PROMPT)
    path = copy / "text_encoder" / "model.safetensors"
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()
    assert torch.equal(encoders(copy, tmp_path).encode(PROMPT).pooled, safe.pooled)

    class Program:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"weight": Program()}, path.with_name("pytorch_model.bin"))
    with pytest.raises(Exception, match="weights_only|Unsupported|unsafe|Weights only"):
        encoders(copy, tmp_path).encode(PROMPT)
    assert not (tmp_path / "ran").exists()


def test_missing_weights_are_an_error_that_names_them(copy, tmp_path):
    path = copy / "text_encoder_2" / "model.safetensors"
    weights = load_file(path)
    del weights["encoder.final_layer_norm.weight"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ValueError, match="final_layer_norm"):
        encoders(copy, tmp_path).encode(PROMPT)


def test_a_folder_without_t5_is_refused(copy):
    shutil.rmtree(copy / "text_encoder_2")
    with pytest.raises(ValueError, match="found: CLIP"):
        find_parts(copy)
    (copy / "text_encoder" / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(ValueError, match="BertModel"):
        find_parts(copy)


def test_saving_copies_what_loads_again(tiny_checkpoint, tmp_path):
    text = encoders(tiny_checkpoint, tmp_path)
    text.save(tmp_path / "saved")
    assert encoders(tmp_path / "saved", tmp_path).identity == text.identity
    text.save(tiny_checkpoint)  # onto itself: nothing happens
    assert AutoTokenizer.from_pretrained(tiny_checkpoint / "tokenizer_2")(PROMPT).input_ids[-1] == 1


def test_large_files_are_told_apart_by_their_pieces(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(3_000_000))
    before = fingerprint(path)
    for place in (0, 2_999_999):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        assert fingerprint(path) != before
        before = fingerprint(path)
    path.write_bytes(bytes(2_999_999))
    assert fingerprint(path) != before


def test_the_cache_folder_can_be_set(monkeypatch, tmp_path):
    monkeypatch.setenv("PYRAMID_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("PYRAMID_CACHE")
    assert "pyramid-flow" in cache_folder().parts


@torch.no_grad()
def test_without_a_cache_nothing_is_written(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("PYRAMID_CACHE", str(tmp_path))
    kept = encoders(tiny_checkpoint, tmp_path).encode(PROMPT)
    before = sorted(tmp_path.rglob("*"))
    made = TextEncoders.from_folder(tiny_checkpoint, cache=False).encode(PROMPT)
    assert torch.equal(made.prompt_embeds, kept.prompt_embeds) and torch.equal(made.pooled, kept.pooled)
    assert sorted(tmp_path.rglob("*")) == before
