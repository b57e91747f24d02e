"""T5's encoder and CLIP's text model with torch alone, and tokenizers with tokenizers alone.

    if can_load(part): encoder, tokenizer = load(part, torch.float32), Tokenizer(part.tokenizer)

transformers takes twice as long to load as torch, for two small networks and a file of words. These give
what its classes give, bit for bit (`tests/text/test_plain.py`); what they do not know (quantized, in several
files, in pickles, projected) is transformers' to load.

Sources: T5, arXiv 1910.10683 (version 1.1: gated GELU); CLIP, arXiv 2103.00020.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer as Words
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = "model.safetensors"
CLIP_PREFIX = "text_model."  # of names in older files
OLD_CLIP_END = 2  # an eos_token_id of 2 in older configurations is wrong: the highest token is meant


def gelu_new(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"gelu_new": gelu_new, "relu": F.relu, "quick_gelu": quick_gelu, "gelu": F.gelu}


def table(rows: int, dim: int) -> nn.Embedding:
    """An embedding without a start of its own, which on "meta" would load all that torch compiles with."""
    return nn.Embedding.from_pretrained(torch.empty(rows, dim), freeze=False)


# -- T5
class T5Norm(nn.Module):
    """Scaled by the root mean square, in float32; neither shifted nor centered."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        variance = x.float().pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + self.eps)).to(self.weight.dtype)


def buckets(length: int, count: int, farthest: int, device: torch.device) -> Tensor:
    """(length, length): which of `count` buckets the distance from a query to a key is in; the far ones are
    wider, and half of them are for keys that come later.
    """
    places = torch.arange(length, device=device)
    distance = places[None] - places[:, None]
    half = count // 2
    exact = half // 2
    away = distance.abs()
    far = exact + (
        torch.log(away.float() / exact) / math.log(farthest / exact) * (half - exact)
    ).long().clamp(max=half - 1 - exact)
    return (distance > 0).long() * half + torch.where(away < exact, away, far)


class T5Attention(nn.Module):
    def __init__(self, config: dict[str, Any], first: bool):
        super().__init__()
        dim = config["d_model"]
        inner = config["num_heads"] * config["d_kv"]
        self.heads = config["num_heads"]
        self.q, self.k, self.v = (nn.Linear(dim, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, dim, bias=False)
        if first:
            self.relative_attention_bias = table(
                config["relative_attention_num_buckets"], config["num_heads"]
            )

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        return self.o(y.transpose(1, 2).flatten(-2).contiguous())


class T5FeedForward(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        dim = config["d_model"]
        wide = config["d_ff"]
        kind = config.get("feed_forward_proj", "relu")
        self.gated = kind.startswith("gated-")
        self.wi: Any
        self.wi_0: Any
        self.wi_1: Any
        for name in ("wi_0", "wi_1") if self.gated else ("wi",):
            self.add_module(name, nn.Linear(dim, wide, bias=False))
        self.wo = nn.Linear(wide, dim, bias=False)
        self.activation: Any = ACTIVATIONS[activation_of(kind)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.wi_0(x)) * self.wi_1(x) if self.gated else self.activation(self.wi(x))
        return self.wo(x.to(self.wo.weight.dtype))


def activation_of(kind: str) -> str:
    """The activation of T5's `feed_forward_proj`; its "gated-gelu" has always meant the tanh kind."""
    return "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")


@dataclass
class Output:
    """What an encoder returns, by the names that transformers' classes have."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None


class Encoder(nn.Module):
    """What both are: a network that says what it computes in."""

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


class T5Encoder(Encoder):
    """Token ids (b, l) and their mask (b, l) -> `last_hidden_state` (b, l, d_model)."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.settings = config
        eps = config["layer_norm_epsilon"]
        self.shared = table(config["vocab_size"], config["d_model"])
        self.encoder: Any = nn.Module()
        self.encoder.block = nn.ModuleList()
        for index in range(config["num_layers"]):
            attention: Any = nn.Module()
            feed: Any = nn.Module()
            attention.SelfAttention = T5Attention(config, first=index == 0)
            feed.DenseReluDense = T5FeedForward(config)
            attention.layer_norm, feed.layer_norm = (T5Norm(config["d_model"], eps) for _ in range(2))
            block: Any = nn.Module()
            block.layer = nn.ModuleList([attention, feed])
            self.encoder.block.append(block)
        self.encoder.final_layer_norm = T5Norm(config["d_model"], eps)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Output:
        x = self.shared(ids)
        bias = self.bias(ids.shape[1], attention_mask)
        for block in self.encoder.block:
            attention, feed = block.layer
            x = x + attention.SelfAttention(attention.layer_norm(x), bias)
            x = x + feed.DenseReluDense(feed.layer_norm(x))
        return Output(self.encoder.final_layer_norm(x))

    def bias(self, length: int, mask: Tensor) -> Tensor:
        """(b, heads, l, l): what attention adds for a distance; the least number for padding."""
        count, farthest = (
            self.settings[f"relative_attention_{name}"] for name in ("num_buckets", "max_distance")
        )
        biases = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        bias = biases(buckets(length, count, farthest, mask.device)).permute(2, 0, 1)[None]
        least = torch.finfo(bias.dtype).min
        return torch.where(mask[:, None, None].bool(), bias, least).contiguous()


# -- CLIP
class CLIPLayer(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        dim = config["hidden_size"]
        wide = config["intermediate_size"]
        eps = config["layer_norm_eps"]
        self.heads = config["num_attention_heads"]
        self.self_attn: Any = nn.Module()
        self.mlp: Any = nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.self_attn.add_module(name, nn.Linear(dim, dim))
        self.layer_norm1 = nn.LayerNorm(dim, eps)
        self.layer_norm2 = nn.LayerNorm(dim, eps)
        self.mlp.fc1 = nn.Linear(dim, wide)
        self.mlp.fc2 = nn.Linear(wide, dim)
        self.activation: Any = ACTIVATIONS[config["hidden_act"]]

    def forward(self, x: Tensor) -> Tensor:
        at = self.self_attn
        normed = self.layer_norm1(x)
        query, key, value = (
            layer(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (at.q_proj, at.k_proj, at.v_proj)
        )
        y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + at.out_proj(y.transpose(1, 2).flatten(-2).contiguous())
        return x + self.mlp.fc2(self.activation(self.mlp.fc1(self.layer_norm2(x))))


class CLIPText(Encoder):
    """Token ids (b, l) -> `pooler_output` (b, hidden_size), the state of the token that ends the text."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        dim = config["hidden_size"]
        self.end = config["eos_token_id"]
        self.embeddings: Any = nn.Module()
        self.encoder: Any = nn.Module()
        self.embeddings.token_embedding = table(config["vocab_size"], dim)
        self.embeddings.position_embedding = table(config["max_position_embeddings"], dim)
        self.encoder.layers = nn.ModuleList(CLIPLayer(config) for _ in range(config["num_hidden_layers"]))
        self.final_layer_norm = nn.LayerNorm(dim, config["layer_norm_eps"])

    def forward(self, ids: Tensor) -> Output:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.embeddings.token_embedding(ids) + self.embeddings.position_embedding(places)[None]
        for layer in self.encoder.layers:
            x = layer(x)
        x = self.final_layer_norm(x)
        ends = ids if self.end == OLD_CLIP_END else (ids == self.end).int()
        return Output(x, x[torch.arange(len(ids), device=ids.device), ends.int().argmax(dim=-1)])


# -- files
NETWORKS: dict[str, type[T5Encoder] | type[CLIPText]] = {
    "T5EncoderModel": T5Encoder,
    "CLIPTextModel": CLIPText,
}


def can_load(part) -> bool:
    """Whether `load` gives a Part's encoder: weights in one file, of just the names that it has here."""
    path = part.encoder / WEIGHTS
    if part.class_name not in NETWORKS or part.weights != [path]:
        return False
    config = _config(part)
    kind = config.get("hidden_act") or activation_of(config.get("feed_forward_proj", "relu"))
    if kind not in ACTIVATIONS or "quantization_config" in config:
        return False
    with safe_open(path, "pt") as file:
        shapes = {_name(key): tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    wanted = {
        name: tuple(value.shape) for name, value in _empty(part.class_name, config).state_dict().items()
    }
    return shapes == wanted


def load(part, dtype: torch.dtype) -> nn.Module:
    """A Part's encoder on the CPU in `dtype`, where `can_load`; weights that have it stay in the file."""
    network = _empty(part.class_name, _config(part))
    weights = load_file(part.encoder / WEIGHTS)
    weights = {_name(key): value.to(dtype) for key, value in weights.items()}
    network.load_state_dict(weights, assign=True)
    return network.eval()


def _empty(class_name: str, config: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return NETWORKS[class_name](config)


def _name(key: str) -> str:
    return key.removeprefix(CLIP_PREFIX)


def _config(part) -> dict[str, Any]:
    return json.loads((part.encoder / "config.json").read_text(encoding="utf-8"))


# -- tokens
@dataclass
class Tokens:
    """Ids and their mask, lists of numbers or tensors (1, l), and where in the text each token stands."""

    input_ids: Any
    attention_mask: Any
    offset_mapping: list[tuple[int, int]]


class Tokenizer:
    """A folder's tokenizer.json, called as transformers' tokenizers are where `TextEncoders` calls them."""

    def __init__(self, folder: Path):
        told = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self.model_max_length = int(told["model_max_length"])
        self._words = Words.from_file(str(folder / "tokenizer.json"))
        self._words.no_padding()
        self._words.no_truncation()
        pad = told["pad_token"]
        self._pad = pad if isinstance(pad, str) else pad["content"]

    @staticmethod
    def can_load(folder: Path) -> bool:
        """Whether the files say all that is needed."""
        path = folder / "tokenizer_config.json"
        if not path.is_file() or not (folder / "tokenizer.json").is_file():
            return False
        told = json.loads(path.read_text(encoding="utf-8"))
        return told.get("backend") == "tokenizers" and {"model_max_length", "pad_token"} <= told.keys()

    def __call__(
        self, prompt: str, *, max_length: int | None = None, add_special_tokens: bool = True, **_options: Any
    ) -> Tokens:
        """The tokens of a prompt; with `max_length` cut and padded to it, as tensors with one row."""
        words = self._words
        if max_length is None:
            found = words.encode(prompt, add_special_tokens=add_special_tokens)
            return Tokens(found.ids, found.attention_mask, found.offsets)
        words.enable_truncation(max_length)
        words.enable_padding(pad_id=words.token_to_id(self._pad), pad_token=self._pad, length=max_length)
        try:
            found = words.encode(prompt)
        finally:
            words.no_truncation()
            words.no_padding()
        return Tokens(torch.tensor([found.ids]), torch.tensor([found.attention_mask]), found.offsets)
