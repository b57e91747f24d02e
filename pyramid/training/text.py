"""The text side of the embedded model: two tokenizers, a tiny T5 and a tiny CLIP, trained from captions.

    train_text(TextRecipe(), Path("runs/text"), seed=0)     # two or three minutes on one core

writes `tokenizer/`, `text_encoder/` (CLIP), `tokenizer_2/` and `text_encoder_2/` (T5) in the layout of the
published checkpoints. It comes before the other trainers: the diffusion transformer then starts from text
that already says, linearly, what the picture must show.

The idea: each attribute of a scene (shape, color, …) owns one orthonormal direction for every value it can
take, and one for "not mentioned". Both encoders learn to write the sum of a prompt's directions into their
outputs: CLIP into its pooled vector, T5 into every token. The empty prompt, which is the negative branch of
guidance, therefore has a code of its own instead of whatever an untrained network returns.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerBase,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from pyramid.hub.families import TEXT_TOKENS
from pyramid.training.prompts import NONE, Captions, Labels, Random, all_words, roughen
from pyramid.training.recipe import TextRecipe
from pyramid.training.world import World

CLIP_TOKENS = 77
STEPS = 800  # what a recipe without a number of steps gets
BATCH = 96
LEARNING_RATE = 2e-3
CODE_SHARE = 0.8  # of an output's energy; the rest is the encoder's own
WIDTH = 128
LAYERS = 2
HEADS = 4
CHECKED = 512  # prompts of a kind, to measure accuracy


# -- tokenizers


def lowercase_charsmap() -> bytes:
    """SentencePiece's compiled normalizer: A-Z to a-z, plain apostrophes, plain spaces.

    T5's tokenizer class rebuilds its pipeline on loading and keeps no normalizer but a compiled map, and only
    SentencePiece compiles one: so a throwaway model is trained for the sake of its map.
    """
    import sentencepiece

    # The class is made when the module is imported, where no type checker sees it.
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]  # made when loaded

    rules = [(chr(code), chr(code).lower()) for code in range(ord("A"), ord("Z") + 1)]
    rules += [("\u2019", "'"), ("\u00a0", " ")]
    model = BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "rules.tsv")
        table.write_text("\n".join(f"{ord(old):x}\t{ord(new):x}" for old, new in rules))
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["ab ba abba"] * 8),
            model_writer=model,
            vocab_size=8,
            hard_vocab_limit=False,
            normalization_rule_tsv=str(table),
            minloglevel=2,
        )
    return ModelProto.FromString(model.getvalue()).normalizer_spec.precompiled_charsmap


def build_t5_tokenizer(words: Iterable[str]) -> T5Tokenizer:
    """A Unigram tokenizer whose pieces are whole words, common endings, and single characters for all else.

    A known word costs less than any way of spelling it, an ending less than its letters: `▁ball`, `s`.
    Characters outside ASCII become `<unk>`.
    """
    pieces = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0}
    pieces |= {f"▁{word}": -5.0 for word in sorted(set(words))}
    pieces |= dict.fromkeys(["s", "es", "ing", "ed", "ly", "ish"], -6.0)
    characters = [chr(code) for code in range(ord("!"), ord("~") + 1) if not chr(code).isupper()]
    for character in ["▁", *characters]:
        pieces.setdefault(character, -10.0 if character.isalnum() or character == "▁" else -6.0)
    return T5Tokenizer(
        vocab=list(pieces.items()),
        _spm_precompiled_charsmap=lowercase_charsmap(),
        extra_ids=0,
        model_max_length=TEXT_TOKENS,
    )


def build_clip_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """A byte-level BPE in CLIP's form whose merges end in whole words.

    All 256 bytes are in the vocabulary, so nothing is ever unknown: CLIP's unknown token is its end token, at
    which the text is pooled, and one strange character would hide the rest of the prompt.
    """
    alphabet = sorted(byte_alphabet())
    vocabulary = {
        piece: index for index, piece in enumerate([*alphabet, *(letter + "</w>" for letter in alphabet)])
    }
    merges: list[tuple[str, str]] = []
    for word in sorted(set(words), key=lambda word: (len(word), word)):
        if not word.isalpha() or not word.isascii():
            continue  # CLIP splits at punctuation before it merges
        pieces = split_word(word, merges)
        for left, right in pairwise(pieces.copy()):  # grow from the left: (b a) (ba ll</w>) …
            left = pieces[0]
            merges.append((left, right))
            vocabulary.setdefault(left + right, len(vocabulary))
            pieces[:2] = [left + right]
    vocabulary |= {"<|startoftext|>": len(vocabulary), "<|endoftext|>": len(vocabulary) + 1}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_TOKENS)


def byte_alphabet() -> list[str]:
    """The 256 printable characters that stand for the 256 byte values in byte-level BPE."""
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel.alphabet()


def split_word(word: str, merges: Sequence[tuple[str, str]]) -> list[str]:
    """Applies the merges, in order of rank, to one word: BPE as it will be run."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    rank = {pair: index for index, pair in enumerate(merges)}
    while len(pieces) > 1:
        best = min(pairwise(pieces), key=lambda pair: rank.get(pair, len(rank)))
        if best not in rank:
            return pieces
        merged: list[str] = []
        for piece in pieces:
            if merged and (merged[-1], piece) == best:
                merged[-1] += piece
            else:
                merged.append(piece)
        pieces = merged
    return pieces


# -- encoders


def build_t5(tokenizer: PreTrainedTokenizerBase, width: int, layers: int, heads: int) -> T5EncoderModel:
    """A T5 v1.1 encoder (gated GELU)."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=width // heads,
        d_ff=2 * width,
        num_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        relative_attention_max_distance=64,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return T5EncoderModel(config)


def build_clip(tokenizer: PreTrainedTokenizerBase, width: int, layers: int, heads: int) -> CLIPTextModel:
    """A CLIP text model; it pools at the first end token, whose number must be in the configuration."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=CLIP_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModel(config)


class Code(nn.Module):
    """One orthonormal direction for each value of each attribute, and reading and writing by them.

    `share` is the part of a vector's energy (one a channel) that a written code has.
    """

    def __init__(self, values: Mapping[str, Sequence[str]], width: int, share: float = CODE_SHARE):
        super().__init__()
        self.values = {name: [NONE, *known] for name, known in values.items()}
        count = sum(map(len, self.values.values()))
        if count > width:
            raise ValueError(f"{count} attribute values do not fit {width} channels: raise the width")
        self.directions: Tensor
        self.register_buffer("directions", nn.init.orthogonal_(torch.empty(count, width)))
        self.amplitude = (share * width / len(self.values)) ** 0.5

    def targets(self, labels: Sequence[Labels]) -> Tensor:
        """The class of every attribute, (b, attributes) int64."""
        return torch.tensor(
            [[known.index(label.get(name, NONE)) for name, known in self.values.items()] for label in labels]
        )

    def write(self, targets: Tensor) -> Tensor:
        """(b, attributes) classes to the vectors that say them, (b, width)."""
        parts = self.directions.split([len(known) for known in self.values.values()])
        return self.amplitude * sum(part[targets[:, index]] for index, part in enumerate(parts))

    def read(self, vectors: Tensor) -> list[Tensor]:
        """(…, width) vectors to one (…, values) tensor of strengths an attribute; 1 where a value is said."""
        sizes = [len(known) for known in self.values.values()]
        return (vectors @ self.directions.T / self.amplitude).split(sizes, dim=-1)

    def loss(self, vectors: Tensor, targets: Tensor) -> Tensor:
        """Squared error to the written code plus cross-entropy of reading it; vectors (b, width)."""
        misread = [F.cross_entropy(8 * part, targets[:, i]) for i, part in enumerate(self.read(vectors))]
        return F.mse_loss(vectors, self.write(targets)) + torch.stack(misread).mean()

    def right(self, vectors: Tensor, targets: Tensor) -> Tensor:
        """(b, width) vectors: which captions are read right in every attribute, (b,) bool."""
        right = [part.argmax(-1) == targets[:, i] for i, part in enumerate(self.read(vectors))]
        return torch.stack(right).all(0)


# -- training


@dataclass
class TextSide:
    """Both encoders with their tokenizers, in the order of the miniFLUX folders."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    tokenizer_2: T5Tokenizer
    text_encoder_2: T5EncoderModel

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """CLIP's pooled vectors (b, width), T5's states (b, tokens, width), their mask (b, tokens) bool."""
        clip = self.tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt").input_ids
        pooled = self.text_encoder(clip).pooler_output
        t5 = self.tokenizer_2(list(prompts), padding=True, truncation=True, return_tensors="pt")
        states = self.text_encoder_2(t5.input_ids, attention_mask=t5.attention_mask).last_hidden_state
        return pooled, states, t5.attention_mask.bool()

    def save(self, folder: Path) -> None:
        """Writes the four folders."""
        for name in ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"):
            getattr(self, name).save_pretrained(folder / name)


def build_text_side(words: Iterable[str], width=WIDTH, layers=LAYERS, heads=HEADS) -> TextSide:
    """Tokenizers that know the words, and untrained encoders."""
    words = list(words)
    clip_tokenizer = build_clip_tokenizer(words)
    t5_tokenizer = build_t5_tokenizer(words)
    clip = build_clip(clip_tokenizer, width, layers, heads)
    t5 = build_t5(t5_tokenizer, width, layers, heads)
    return TextSide(clip_tokenizer, clip, t5_tokenizer, t5)


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens that are not padding: (b, l, d), (b, l) to (b, d)."""
    weight = mask.to(states.dtype)[..., None]
    return (states * weight).sum(1) / weight.sum(1)


def text_loss(side: TextSide, code: Code, batch: Sequence[tuple[str, Labels]]) -> Tensor:
    """Both encoders must say all that the prompt says: CLIP pooled, T5 on average and in each token."""
    prompts, labels = zip(*batch, strict=True)
    targets = code.targets(labels)
    pooled, states, mask = side.encode(prompts)
    tokens = states[mask]  # all real tokens of the batch, d
    token_targets = targets.repeat_interleave(mask.sum(1), dim=0)
    mean = masked_mean(states, mask)
    return code.loss(pooled, targets) + code.loss(mean, targets) + code.loss(tokens, token_targets)


@torch.no_grad()
def text_accuracy(side: TextSide, code: Code, batch: Sequence[tuple[str, Labels]]) -> dict[str, float]:
    """Share of prompts read right in every attribute: from CLIP, from T5's mean, from T5's every token."""
    prompts, labels = zip(*batch, strict=True)
    targets = code.targets(labels)
    pooled, states, mask = side.encode(prompts)
    tokens = code.right(states[mask], targets.repeat_interleave(mask.sum(1), dim=0))
    return {
        "clip": code.right(pooled, targets).float().mean().item(),
        "t5": code.right(masked_mean(states, mask), targets).float().mean().item(),
        "t5 tokens": tokens.float().mean().item(),
    }


def parameter_groups(side: TextSide) -> list[dict]:
    """All weights, T5's relative positions apart: they are logits and must move by whole units to be heard.

    Without that T5 remains a bag of words, and "from left to right" is as good as "from right to left".
    """
    named = [*side.text_encoder.named_parameters(), *side.text_encoder_2.named_parameters()]
    positions = [weight for name, weight in named if "relative_attention_bias" in name]
    others = [weight for name, weight in named if "relative_attention_bias" not in name]
    return [{"params": others, "lr": LEARNING_RATE}, {"params": positions, "lr": 20 * LEARNING_RATE}]


@contextmanager
def one_thread():
    """Matrices this small gain nothing from a second thread, and lose much on a machine that is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def train_text(
    recipe: TextRecipe,
    folder: Path,
    seed: int = 0,
    *,
    world: World | None = None,
    log: Callable[[str], None] = print,
) -> dict[str, dict[str, float]]:
    """Trains both encoders on all of `world` (default: every name there is) and writes them below `folder`.

    Text is cheap, so the default world is the whole one whatever the transformer will learn of it. Returns
    `evaluate_text`'s accuracies.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    world = world or World()
    steps = recipe.steps or STEPS
    captions = Captions(world)
    side = build_text_side(all_words(world))
    code = Code(captions.values, WIDTH)
    groups = parameter_groups(side)
    weights = [weight for group in groups for weight in group["params"]]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, steps, pct_start=0.05)
    began = time.monotonic()
    for step in range(1, steps + 1):
        loss = text_loss(side, code, [captions.draw_training(rng) for _ in range(BATCH)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            log(f"text step {step}/{steps}: loss {loss.item():.4f}, {time.monotonic() - began:.0f} s")
    side.save(Path(folder))
    results = evaluate_text(side, code, captions, np.random.default_rng([seed, 1]))
    for kind, accuracy in results.items():
        log(f"text, {kind}: " + ", ".join(f"{name} {value:.4f}" for name, value in accuracy.items()))
    return results


def evaluate_text(side: TextSide, code: Code, captions: Captions, rng: Random) -> dict:
    """Accuracies on combinations never trained on, in three kinds of wording, and on camera captions."""
    plain = [captions.draw(rng, held_out=True) for _ in range(CHECKED)]
    batches = {
        "captions": plain,
        "free wording": [captions.draw_loose(rng, held_out=True) for _ in range(CHECKED)],
        "roughened": [(roughen(text, rng), labels) for text, labels in plain],
    }
    if captions.cameras:
        batches["cameras"] = [captions.draw_camera(rng) for _ in range(CHECKED // 4)]
    return {kind: text_accuracy(side, code, batch) for kind, batch in batches.items()}
