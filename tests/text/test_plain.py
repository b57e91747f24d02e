"""Text encoders and tokenizers with torch alone give what transformers' classes give, bit for bit."""

import json

import pytest
import torch
import transformers

from pyramid.text import plain
from pyramid.text.encoders import find_parts, load_encoder
from pyramid.text.plain import Tokenizer

PROMPTS = (
    "a red ball moves to the right over a green meadow",
    "",
    "Ünïcode — 12,5 km; it's   spaced\nand “quoted” … 猫" + " on and on" * 200,
    " a <pad> b </s> <|endoftext|> c",
)


@pytest.fixture(params=["embedded", "tiny"])
def parts(request, tiny_checkpoint):
    from pyramid.hub.checkpoints import find

    return find_parts(find("embedded").folder if request.param == "embedded" else tiny_checkpoint)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_encoders_equal_those_of_transformers(parts, dtype):
    for part in parts:
        assert plain.can_load(part)
        ours = plain.load(part, dtype)
        theirs = getattr(transformers, part.class_name).from_pretrained(part.encoder, dtype=dtype).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(part.tokenizer)
        for prompt in PROMPTS:
            limit = 40 if part.is_t5 else 77
            t = tokenizer(
                prompt, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
            )
            masks = {"attention_mask": t.attention_mask} if part.is_t5 else {}
            with torch.no_grad():
                made, wanted = (model(t.input_ids, **masks) for model in (ours, theirs))
            assert torch.equal(made.last_hidden_state, wanted.last_hidden_state)
            assert part.is_t5 or torch.equal(made.pooler_output, wanted.pooler_output)


def test_tokenizers_equal_those_of_transformers(parts):
    for part in parts:
        assert Tokenizer.can_load(part.tokenizer)
        ours, theirs = Tokenizer(part.tokenizer), transformers.AutoTokenizer.from_pretrained(part.tokenizer)
        assert ours.model_max_length == theirs.model_max_length
        for prompt in PROMPTS:
            made, wanted = ours(prompt, verbose=False), theirs(prompt, verbose=False)
            assert (made.input_ids, made.attention_mask) == (wanted.input_ids, wanted.attention_mask)
            options = {"padding": "max_length", "max_length": 20, "truncation": True, "return_tensors": "pt"}
            made, wanted = ours(prompt, **options), theirs(prompt, **options)
            assert torch.equal(made.input_ids, wanted.input_ids)
            assert torch.equal(made.attention_mask, wanted.attention_mask)
            options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
            assert ours(prompt, **options).offset_mapping == theirs(prompt, **options).offset_mapping


def test_what_is_not_known_here_is_left_to_transformers(copy):
    part = next(part for part in find_parts(copy) if not part.is_t5)
    config = json.loads((part.encoder / "config.json").read_text())
    (part.encoder / "config.json").write_text(json.dumps(config | {"hidden_act": "silu"}))
    assert not plain.can_load(part)
    assert type(load_encoder(part, torch.float32)).__module__.startswith("transformers")
    (part.tokenizer / "tokenizer_config.json").write_text("{}")
    assert not Tokenizer.can_load(part.tokenizer)
