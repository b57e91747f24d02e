"""Prompts to embeddings: T5's states and CLIP's pooled vector, cached on disk by content.

    text = TextEncoders.from_folder("assets/embedded")           # reads no weights yet
    embeds = text.encode(["a red ball moves to the right"])      # PromptEmbeds, on the CPU
    text.free()

The transformer reads T5's last hidden states (128 tokens, padded, with their mask) and one pooled vector:
CLIP-L's pooler output in the miniFLUX family, the projected embeddings of CLIP-L and CLIP-G side by side in
the SD3 family. Which it is follows from the folders' configurations.

A text's embeddings are kept by `pyramid.text.cache`: a prompt that was used before loads no encoder at all.
"""

import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from pyramid.disk import file_variant
from pyramid.hub.checkpoints import CheckpointError, fingerprint
from pyramid.hub.families import ENCODER_KINDS, FAMILIES, T5, TEXT_TOKENS, TextEncoder
from pyramid.text import plain
from pyramid.text.cache import CACHE_VERSION, PromptEmbeds, cache_folder, read_embeds, write_embeds
from pyramid.text.plain import Tokenizer

KEEP_BELOW = 2 * 2**30  # bytes of weights: smaller encoders stay in memory, larger ones leave

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One text encoder of a checkpoint: its folder, its tokenizer's folder, its class in transformers."""

    label: str  # "T5", "CLIP", "CLIP 2": for messages
    encoder: Path
    tokenizer: Path
    class_name: str

    @property
    def is_t5(self) -> bool:
        return self.class_name == T5.class_name

    @property
    def weights(self) -> list[Path]:
        return sorted([*self.encoder.glob("*.safetensors"), *self.encoder.glob("*.bin")])


def known_encoders() -> list[TextEncoder]:
    """The folders that text encoders lie in, whichever the family, each once and in order."""
    return list({encoder.folder: encoder for family in FAMILIES.values() for encoder in family.text}.values())


def find_parts(folder: Path) -> list[Part]:
    """The text encoders in a checkpoint's folder, in order. ValueError unless they are a T5 and CLIPs."""
    parts: list[Part] = []
    for encoder in known_encoders():
        config = folder / encoder.folder / "config.json"
        if not config.is_file():
            continue
        named = (json.loads(config.read_text(encoding="utf-8")).get("architectures") or ["?"])[0]
        kind = ENCODER_KINDS.get(named)
        if kind is None:
            raise ValueError(f"{config} describes a {named}; T5EncoderModel or CLIPTextModel is expected")
        before = sum(part.label.startswith(kind.label) for part in parts)
        label = f"{kind.label} {before + 1}" if before else kind.label
        parts.append(Part(label, config.parent, folder / encoder.tokenizer, kind.class_name))
    if sum(part.is_t5 for part in parts) != 1 or len(parts) < 2:
        found = ", ".join(part.label for part in parts) or "none"
        raise ValueError(f"{folder} should have the text encoders CLIP and T5, found: {found}")
    return parts


class TextEncoders:
    """The text encoders of a checkpoint, loaded when a prompt is not in the cache.

    `keep=True` leaves them in memory between calls, `False` lets them go after each, None keeps small ones:
    so prompt and negative prompt are best encoded in one call.
    `load(part)` returns an encoder where it is to run, in place of `load_encoder`; `precision` then names
    what it did to the weights, so that embeddings made otherwise are not taken from the cache.
    `cache=None` is `cache_folder()`, False nothing on the disk. May be used from several threads.
    """

    def __init__(
        self,
        parts: list[Part],
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        *,
        cache: Path | Literal[False] | None = None,
        keep: bool | None = None,
        load: Callable[[Part], torch.nn.Module] | None = None,
        precision: str = "",
    ):
        self.parts = parts
        self.dtype = dtype
        self.device = torch.device(device)
        self.cache = cache_folder() / "prompts" if cache is None else cache
        self.keep = keep
        self.load = load
        self.precision = precision
        self._models: dict[str, torch.nn.Module] = {}
        self._tokenizers: dict[str, object] = {}
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and other processes, which load the weights themselves when they need them."""
        return self.__dict__ | {"_models": {}, "_tokenizers": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        **options,
    ) -> "TextEncoders":
        """The encoders in a checkpoint's folder. ValueError when they are not those of either family."""
        return cls(find_parts(Path(folder)), dtype, device, **options)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Labels of the encoders whose weights are in memory."""
        return tuple(self._models)

    def to(self, device: str | torch.device) -> "TextEncoders":
        """Where the encoders run from now on. What is loaded moves."""
        with self._lock:
            if self.device == torch.device(device):  # what is offloaded or quantized must not be moved
                return self
            self.device = torch.device(device)
            for model in self._models.values():
                model.to(self.device)
        return self

    def free(self) -> None:
        """Lets all weights go; the next prompt that is not in the cache loads them again."""
        with self._lock:
            self._models.clear()
        if empty := getattr(torch.get_device_module(self.device), "empty_cache", None):
            empty()

    def encode(self, prompts: str | list[str], max_sequence_length: int = TEXT_TOKENS) -> PromptEmbeds:
        """The embeddings of one prompt or several, T5's padded to `max_sequence_length` tokens.

        What exceeds that, or CLIP's 77 tokens, is cut, and told in `cut`.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        if not prompts:
            raise ValueError("prompts is empty: give at least one text, which may be empty itself")
        with self._lock:
            encoded = {prompt: self._cached(prompt, max_sequence_length) for prompt in dict.fromkeys(prompts)}
            if self._models and not (self.small if self.keep is None else self.keep):
                self.free()
        rows = [encoded[prompt] for prompt in prompts]
        cuts: dict[str, list[str]] = {}
        for row in encoded.values():
            for label, text in row.cut.items():
                cuts.setdefault(label, []).append(text)
        return PromptEmbeds(
            torch.cat([row.prompt_embeds for row in rows]),  # b 128 d
            torch.cat([row.attention_mask for row in rows]),  # b 128
            torch.cat([row.pooled for row in rows]),  # b p
            {label: " | ".join(texts) for label, texts in cuts.items()},
        )

    def load_small(self) -> None:
        """Load encoders that stay in memory, and are loaded in a moment, before a prompt needs them."""
        with self._lock:
            for part in self.parts if self.small and self.keep is not False else ():
                self._tokenizer(part)
                self._model(part)

    def count_tokens(self, prompt: str) -> dict[str, int]:
        """Tokens of a prompt by encoder, special ones included; loads tokenizers only."""
        with self._lock:
            tokenizers = {part.label: self._tokenizer(part) for part in self.parts}
        return {label: len(tokens(prompt, verbose=False).input_ids) for label, tokens in tokenizers.items()}

    def measure(self, prompt: str) -> dict[str, tuple[int, int, str]]:
        """{encoder: (tokens, the most that it reads, the end that it does not read)};
        loads tokenizers only.
        """
        counts = self.count_tokens(prompt)
        measured = {}
        for part in self.parts:
            tokenizer = self._tokenizer(part)
            limit = TEXT_TOKENS
            if not part.is_t5:
                limit = min(tokenizer.model_max_length, self._positions(part))
            measured[part.label] = counts[part.label], limit, cut_text(tokenizer, prompt, limit)
        return measured

    def save(self, folder: str | Path) -> None:
        """Copies the encoders and tokenizers into a checkpoint's folder."""
        for source in [path for part in self.parts for path in (part.encoder, part.tokenizer)]:
            if source.resolve() != Path(folder, source.name).resolve():
                shutil.copytree(source, Path(folder, source.name), dirs_exist_ok=True)

    def _cached(self, prompt: str, length: int) -> PromptEmbeds:
        if not self.cache:
            return self._encode(prompt, length)
        path = self.cache / f"{self._key(prompt, length)}.safetensors"
        found = read_embeds(path)
        if found is None:
            found = self._encode(prompt, length)
            write_embeds(path, found)
        return found

    def _key(self, prompt: str, length: int) -> str:
        told = [
            CACHE_VERSION,
            prompt,
            self.identity,
            length,
            str(self.dtype),
            *[self.precision] * bool(self.precision),
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    @cached_property
    def identity(self) -> str:
        """A hash that is the same for the same encoders and tokenizers, wherever they lie."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(f"{part.label} {part.class_name} {part.encoder.name}".encode())
            tokenizer = [path for path in sorted(part.tokenizer.glob("*")) if path.is_file()]
            for path in [part.encoder / "config.json", *part.weights, *tokenizer]:
                digest.update(fingerprint(path).encode())
        return digest.hexdigest()

    @cached_property
    def _size(self) -> int:
        return sum(path.stat().st_size for part in self.parts for path in part.weights)

    @property
    def small(self) -> bool:
        """Whether the weights of all encoders are few."""
        return self._size < KEEP_BELOW

    @torch.no_grad()
    def _encode(self, prompt: str, length: int) -> PromptEmbeds:
        """Runs all encoders on one prompt."""
        pooled = []
        cut = {}
        for part in self.parts:
            tokenizer = self._tokenizer(part)
            model = self._model(part)
            limit = length
            if not part.is_t5:
                limit = min(tokenizer.model_max_length, self._positions(part))
            tokens = tokenizer(
                prompt, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
            )
            rest = cut_text(tokenizer, prompt, limit)
            if rest:
                cut[part.label] = rest
            ids = tokens.input_ids.to(self.device)
            if part.is_t5:
                mask = tokens.attention_mask
                states = model(ids, attention_mask=mask.to(self.device)).last_hidden_state
            elif part.class_name == "CLIPTextModel":
                pooled.append(model(ids).pooler_output)
            else:
                pooled.append(model(ids).text_embeds)
        return PromptEmbeds(states.cpu(), mask, torch.cat(pooled, dim=-1).cpu(), cut)

    @staticmethod
    def _positions(part: Part) -> int:
        """The most tokens that a CLIP reads."""
        config = json.loads((part.encoder / "config.json").read_text(encoding="utf-8"))
        return config["max_position_embeddings"]

    def _tokenizer(self, part: Part):
        if part.label not in self._tokenizers:
            with usable(part.tokenizer):
                self._tokenizers[part.label] = load_tokenizer(part.tokenizer)
        return self._tokenizers[part.label]

    def _model(self, part: Part) -> Any:
        """The encoder, loaded if need be: memory-mapped, and from .bin files as tensors only."""
        if part.label not in self._models:
            load = self.load or (lambda part: load_encoder(part, self.dtype).to(self.device))
            self._models[part.label] = load(part)
        return self._models[part.label]


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder: the plain one where that is enough, else transformers'."""
    if Tokenizer.can_load(folder):
        return Tokenizer(folder)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def load_encoder(part: Part, dtype: torch.dtype) -> torch.nn.Module:
    """One encoder from its folder: the plain one where that is enough, else that of transformers.
    CheckpointError when its files do not fit.
    """
    with usable(part.encoder):
        if dtype != torch.float16 and plain.can_load(part):
            return plain.load(part, dtype)
    return load_by_transformers(part, dtype)


def load_by_transformers(part: Part, dtype: torch.dtype, **options) -> torch.nn.Module:
    """One encoder as transformers loads it, with `options` for that. CheckpointError as above."""
    import transformers

    with quiet_loading(), usable(part.encoder):
        model, info = getattr(transformers, part.class_name).from_pretrained(
            part.encoder,
            dtype=dtype,
            variant=file_variant(part.encoder) or None,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:5])
        raise CheckpointError(
            f"{part.encoder} lacks weights of its {part.class_name}: {missing}; download it again"
        )
    if other := sorted((name, *map(tuple, shapes)) for name, *shapes in info["mismatched_keys"]):
        name, found, wanted = other[0]
        raise CheckpointError(
            f"{part.encoder}: {len(other)} weights have another shape than its config.json says, "
            f"{name} has {found} in place of {wanted}; download it again"
        )
    return model.eval()


@contextmanager
def usable(folder: Path):
    """Whatever a loader of transformers raises about its files becomes a CheckpointError that names their
    folder.
    """
    try:
        yield
    except Exception as error:
        words = " ".join(str(error).split())
        short_of_memory = isinstance(error, MemoryError) or any(
            w in words.lower() for w in ("memory", "alloc")
        )
        if isinstance(error, OSError) or short_of_memory:  # told elsewhere
            raise
        raise CheckpointError(
            f"{folder} cannot be loaded ({type(error).__name__}: {words}): its files are damaged, or "
            "do not belong together; download it again"
        ) from error


def cut_text(tokenizer, prompt: str, limit: int) -> str:
    """The end of a prompt beyond `limit` tokens, special ones included; empty when all fits."""
    room = limit - len(tokenizer("").input_ids)
    tokens = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = tokens.offset_mapping
    return prompt[spans[room][0] :].strip() if len(spans) > room else ""


@contextmanager
def quiet_loading():
    """Without transformers' progress bars, which only flicker, and its reports:
    the caller tells what is wrong.
    """
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()
