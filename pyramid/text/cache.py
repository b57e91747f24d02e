"""Embeddings of prompts on disk.

    embeds = read_embeds(path) or made_anew          # PromptEmbeds
    write_embeds(path, embeds)

T5-XXL is more than twice as large as the transformer it serves, and its answer to a text never changes. So
each text's embeddings go to a file named by a hash of the text, the encoders, the length and the dtype.
`PYRAMID_CACHE` overrides the folder.
"""

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyramid.disk import whole

CACHE_VERSION = 1
CACHED_PROMPTS = 1000  # about 1 MB each with T5-XXL; the oldest go first

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptEmbeds:
    """What the transformer reads of b prompts, on the CPU, embeddings in the encoders' dtype."""

    prompt_embeds: Tensor  # b 128 d
    attention_mask: Tensor  # b 128, int64: 1 for tokens, 0 for padding
    pooled: Tensor  # b p
    cut: dict[str, str] = field(default_factory=dict)  # encoder -> the text that it did not read

    @property
    def notice(self) -> str:
        """A sentence for the user about what was cut; empty when nothing was."""
        parts = [f"{encoder} did not read: {text!r}" for encoder, text in self.cut.items()]
        return f"The prompt is too long, its end was cut. {'; '.join(parts)}" if parts else ""


def cache_folder() -> Path:
    """Where this program may keep what it can make again: `PYRAMID_CACHE`, or the platform's usual folder."""
    if own := os.environ.get("PYRAMID_CACHE"):
        return Path(own).expanduser()
    return platformdirs.user_cache_path("pyramid-flow", appauthor=False)


def read_embeds(path: Path) -> PromptEmbeds | None:
    """Embeddings from the cache; None when they are not there or the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            cut = json.loads(file.metadata()["cut"])
            embeds, mask, pooled = (file.get_tensor(name) for name in ("embeds", "mask", "pooled"))
            return PromptEmbeds(embeds, mask, pooled, cut)
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        log.warning("the cached embeddings %s cannot be read and are made again: %s", path, error)
        return None


def write_embeds(path: Path, embeds: PromptEmbeds) -> None:
    """Puts embeddings into the cache, whole or not at all, and drops the oldest when there are too many.

    A cache that cannot be written is no error: the embeddings are there, they will only be made again.
    """
    tensors = {"embeds": embeds.prompt_embeds, "mask": embeds.attention_mask, "pooled": embeds.pooled}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            save_file(tensors, part, {"cut": json.dumps(embeds.cut)})
        kept = sorted(path.parent.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
        for old in kept[:-CACHED_PROMPTS]:
            old.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        log.warning("the embeddings cannot be kept in %s: %s", path.parent, error)
