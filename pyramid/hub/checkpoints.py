"""The checkpoints: the published ones, the embedded one, and those of one's own. Find and verify them.

    checkpoint = find("embedded")                     # or "miniflux", "sd3", a folder, or a repository's name
    checkpoint = find("/models/pyramid-flow-miniflux", "768p")
    verify(checkpoint)                                # ValueError: all that is missing or truncated
    identity(checkpoint)  # its name and hashes of its weights, as results carry them

A checkpoint is a folder with `causal_video_vae/`, a `diffusion_transformer_<variant>/` for each variant, and
the text encoders with their tokenizers. Which of the two families it is, the transformer's config tells. A
variant that decodes otherwise has a `causal_video_vae_<variant>/` of its own, whose latents mean the same.
A file `pyramid.json` beside the folders, where there is one, holds the checkpoint's own defaults, any of:

    {"name": "…", "variant": "128p", "licence": "…", "trained_on": "…",
     "sizes": [[128, 128]], "max_units": 4, "num_frames": 25, "fps": 8, "num_inference_steps": [10, 10, 10],
     "video_num_inference_steps": [10, 10, 10], "guidance_scale": 4.0, "video_guidance_scale": 4.0,
     "negative_prompt": "", "prompt_suffix": "", "sampler": "reference",
     "variants": {"128p-fast": {"num_inference_steps": [2, 2, 1]}}}

`variants` holds what differs for one of them. `page`, the name of a variant, is what a page starts with.

Nothing here loads weights, the pipeline does that. What is not on this machine yet, `pyramid.hub.download`
fetches.
"""

import dataclasses
import hashlib
import json
import os
import struct
import threading
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

from safetensors import SafetensorError, safe_open

from pyramid.disk import WEIGHTS, check_file, file_variant
from pyramid.hub.families import FAMILIES, RELEASES, Family, Release
from pyramid.settings import MODELS, Variant, at_home, variant_of

EMBEDDED_FOLDER = Path(__file__).resolve().parents[2] / "assets" / "embedded"
PREFIX = "diffusion_transformer_"
VAE = "causal_video_vae"
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch before 1.6 begin
AHEAD = 0.5  # of the free memory that weights may take before they are used
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "vocab.json")  # one of them is enough
COUNTS = (
    "num_attention_heads",
    "attention_head_dim",
    "num_layers",
    "num_single_layers",
)  # memory is planned by them


class CheckpointError(ValueError):
    """A checkpoint that cannot be found or used; `problems` lists everything that is wrong with it."""

    def __init__(self, message: str, problems: Iterable[str] = ()):
        self.problems = tuple(problems)
        super().__init__("; ".join([message, *self.problems]))


# -- finding
@dataclass(frozen=True)
class Checkpoint:
    """One variant of a model on this machine: where its parts are, and what it was trained for."""

    folder: Path
    family: Family
    variant: str
    name: str
    defaults: Variant
    licence: str = ""
    details: dict[str, Any] = field(default_factory=dict)  # pyramid.json as it is

    @property
    def transformer(self) -> Path:
        return self.folder / (PREFIX + self.variant)

    @property
    def vae(self) -> Path:
        return self.folder / vae_folder(self.variant, lambda name: (self.folder / name).is_dir())

    @property
    def transformer_class(self) -> str:
        """The class in `pyramid.models` that loads the transformer."""
        return self.family.transformer_class

    @property
    def has_text(self) -> bool:
        """False when no text encoder is there, and only embeddings can be used;
        a part of them is an error.
        """
        return any((self.folder / encoder.folder).is_dir() for encoder in self.family.text)

    @property
    def identity(self) -> str:
        """The model as results name it: `miniflux/384p`."""
        return f"{self.name}/{self.variant}"


def find(
    model: str | Path = "embedded",
    variant: str | None = None,
    cache_dir: str | Path | None = None,
    revision: str | None = None,
) -> Checkpoint:
    """The checkpoint of a short name, a folder, or a repository on the Hub that was downloaded before.

    Without `variant` it is the first one that the model has. `cache_dir`, `revision`: where a downloaded
    repository lies, and which of its snapshots is meant, when not as usual. Nothing is downloaded.

    Raises:
        CheckpointError: no such folder, a model that is not on this machine, a variant it does not have, a
            folder that is no checkpoint. The message names what there is instead, and the way out.
    """
    folder = locate(model, cache_dir, revision)
    variants = list_variants(folder)
    if not variants:
        raise CheckpointError(
            f"{folder} is not a Pyramid Flow checkpoint: it has no folder {PREFIX}…; "
            f"give the folder that holds {VAE} and {PREFIX}384p"
        )
    details = read_details(folder)
    if not isinstance(details.get("variants", {}), dict):
        raise CheckpointError(f"{folder / 'pyramid.json'}: variants = {details['variants']!r} is no table")
    preferred = [details.get("variant"), *MODELS.get(str(model), ()), *variants]
    chosen = next(name for name in preferred if name in variants) if variant is None else variant
    if chosen not in variants:
        raise CheckpointError(_no_variant(model, folder, chosen, variants))
    details = _of_variant(details, chosen)
    release = release_of(model)
    return Checkpoint(
        folder,
        detect_family(folder / (PREFIX + chosen)),
        chosen,
        name=details.get("name") or (release.name if release else folder.name),
        defaults=defaults_of(chosen, folder, details),
        licence=details.get("licence") or (release.licence if release else ""),
        details=details,
    )


def vae_folder(variant: str, there: Callable[[str], bool]) -> str:
    """The name of the folder with a variant's autoencoder: its own where that is there, else that of all."""
    own = f"{VAE}_{variant}"
    return own if there(own) else VAE


def page_variant(model: str | Path) -> str:
    """The variant that a page starts with: the one that the checkpoint names for it, else its first."""
    checkpoint = find(model)
    wanted = checkpoint.details.get("page")
    return wanted if wanted in list_variants(checkpoint.folder) else checkpoint.variant


def _of_variant(details: dict[str, Any], variant: str) -> dict[str, Any]:
    """The details with what one variant says in place of the rest."""
    own = details.get("variants", {}).get(variant)
    return details | own if isinstance(own, dict) else details


def _no_variant(model: str | Path, folder: Path, variant: str, variants: list[str]) -> str:
    release = release_of(model)
    way_out = "choose one of those"
    if release and variant in release.variants:
        way_out = f"get it with: python -m pyramid download {release.name} --variant {variant}"
    return f"{folder} has no variant {variant!r}, only {', '.join(variants)}; {way_out}"


def release_of(model: str | Path) -> Release | None:
    """The published model of that short name or repository name; None for anything else."""
    names = {name: release for release in RELEASES.values() for name in (release.name, release.repository)}
    return names.get(str(model))


def locate(model: str | Path, cache_dir: str | Path | None = None, revision: str | None = None) -> Path:
    """The folder of a model on this machine. Raises CheckpointError when there is none."""
    if not str(model).strip():
        raise CheckpointError(f"the model is empty: give a folder or one of {', '.join(MODELS)}")
    path = at_home(model)
    if revision is not None and (str(model) == "embedded" or path.is_dir()):
        raise CheckpointError(f"revision = {revision!r}: a folder has no revisions; leave it out")
    if str(model) == "embedded":
        if not EMBEDDED_FOLDER.is_dir():
            raise CheckpointError(f"{EMBEDDED_FOLDER} (the embedded model) is missing")
        return EMBEDDED_FOLDER
    release = release_of(model)
    if release is None and path.is_dir():
        return path.resolve()
    if release is None and not looks_like_repository(str(model)):
        raise CheckpointError(
            f"there is neither a folder nor a model {str(model)!r}: "
            f"give a folder or one of {', '.join(MODELS)}"
        )
    repository = release.repository if release else str(model)
    folder = _downloaded(repository, cache_dir, revision)
    which = f" at revision {revision}" if revision else ""
    if folder is None:
        raise CheckpointError(
            f"{repository}{which} is not on this machine: get it with python -m pyramid download {model}, or "
            "give the folder it lies in"
        )
    return folder


def looks_like_repository(name: str) -> bool:
    owner, _, title = name.partition("/")
    return bool(owner and title) and not set(title) & set("/\\") and not owner.startswith((".", "~"))


def _downloaded(
    repository: str, cache_dir: str | Path | None = None, revision: str | None = None
) -> Path | None:
    """The newest snapshot in the Hub's cache, complete or not; None when there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        # One small file that all variants need: whether the rest is there is for `verify` to say.
        pattern = f"{VAE}*/config.json"
        found = snapshot_download(
            repository,
            revision=revision,
            cache_dir=at_home(cache_dir) if cache_dir else None,
            local_files_only=True,
            allow_patterns=[pattern],
        )
        return Path(found)
    except LocalEntryNotFoundError:
        return None


def list_variants(folder: str | Path) -> list[str]:
    """Names of the variants in a checkpoint's folder: 384p, 768p, image; sorted."""
    return sorted(path.name[len(PREFIX) :] for path in Path(folder).glob(PREFIX + "*") if path.is_dir())


def read_details(folder: Path) -> dict[str, Any]:
    """The checkpoint's pyramid.json; empty when it has none. CheckpointError when it cannot be read."""
    path = folder / "pyramid.json"
    return read_json(path) if path.is_file() else {}


def defaults_of(variant: str, folder: Path, details: dict[str, Any]) -> Variant:
    """What the variant was trained for, with the checkpoint's own values where it states them.
    CheckpointError.
    """
    names = {"max_units": "units", "num_inference_steps": "steps", "video_num_inference_steps": "video_steps"}
    own = {names.get(key, key): value for key, value in details.items() if key not in ("name", "variant")}
    kinds = {spec.name: spec.type for spec in dataclasses.fields(Variant)}
    try:
        values = {key: _typed(kinds[key], value) for key, value in own.items() if key in kinds}
        if empty := [key for key, value in details.items() if value == [] and names.get(key, key) in kinds]:
            raise TypeError(f"{empty[0]} is empty")
    except TypeError as error:
        raise CheckpointError(
            f"{folder / 'pyramid.json'} holds a value of the wrong kind: {error}; fix it, or get "
            "the model again"
        ) from None
    world = details.get("trained_on")
    values.setdefault("photographs", not isinstance(world, dict) or bool(world.get("cameras")))
    return dataclasses.replace(variant_of(variant), **values)


def _typed(kind: Any, value: Any) -> Any:
    """`value` as an int, float or str, or as a tuple of such from a list. Raises TypeError."""
    if (
        get_origin(kind) is tuple
        and isinstance(value, list)
        and (get_args(kind)[1] is ... or len(value) == 2)
    ):
        return tuple(_typed(get_args(kind)[0], item) for item in value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and (whole or isinstance(value, float)):
        return float(value)
    if (kind is int and whole) or (kind in (str, bool) and isinstance(value, kind)):
        return value
    raise TypeError(f"{value!r} where {getattr(kind, '__name__', kind)} is expected")


def detect_family(transformer: Path) -> Family:
    """The family of a transformer's folder, by its configuration. CheckpointError when it is neither."""
    config = read_json(transformer / "config.json")
    named = config.get("_class_name")
    for family in FAMILIES.values():
        if named == family.transformer_class or named is None and family.mark in config:
            return family
    known = " or ".join(family.transformer_class for family in FAMILIES.values())
    raise CheckpointError(f"{transformer / 'config.json'} is of a {named or 'nameless model'}, not a {known}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file with a table in it. CheckpointError when it is missing, unreadable or something else."""
    try:
        check_file(path)
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no table")
    return value


# -- verifying
def verify(checkpoint: Checkpoint, *, text: bool = True) -> None:
    """Raises CheckpointError with a list of everything missing, truncated or misplaced; reads headers only.

    `text=False` leaves out the text encoders, which are not needed with ready embeddings.
    """
    problems = check_model(checkpoint.transformer, (checkpoint.transformer_class, None))
    problems += check_model(checkpoint.vae, ("CausalVideoVAE", None))
    if text:
        for encoder in checkpoint.family.text:
            folder = checkpoint.folder / encoder.folder
            classes = encoder.kind.stored_as
            problems += check_model(folder, classes, key="architectures")
            problems += check_tokenizer(checkpoint.folder / encoder.tokenizer)
    if problems:
        raise CheckpointError(f"the checkpoint {checkpoint.folder} cannot be used", problems)


def read_ahead(checkpoint: Checkpoint) -> None:
    """Have the system read the weights from the disk while something else goes on, as libraries load.

    Nothing waits for it, and nothing is kept here: the files lie in the system's own memory when they are
    opened. Left out are those that would not fit there, and systems that cannot be asked for it.
    """
    if hasattr(os, "posix_fadvise"):
        threading.Thread(target=_read_ahead, args=(checkpoint,), daemon=True).start()


def _read_ahead(checkpoint: Checkpoint) -> None:
    import psutil

    room = psutil.virtual_memory().available * AHEAD
    text = [checkpoint.folder / encoder.folder for encoder in checkpoint.family.text]
    for folder in (checkpoint.transformer, checkpoint.vae, *text):
        with suppress(OSError, CheckpointError):  # whoever loads it says what is wrong
            for path in weight_files(folder):
                room -= path.stat().st_size
                if room < 0:
                    return
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def check_model(folder: Path, expected: tuple[str | None, ...], key: str = "_class_name") -> list[str]:
    """What is wrong with a folder of configuration and weights: sentences, none when all is well."""
    if not folder.is_dir():
        return [f"the folder {folder.name} is missing"]
    try:
        config = read_json(folder / "config.json")
        named = config.get(key)
        named = named[0] if isinstance(named, list) and named else named
        if named not in expected:
            return [f"{folder.name}/config.json describes a {named}, where a {expected[0]} belongs"]
        counts = {name: config[name] for name in COUNTS if name in config}
        if odd := [f"{name} = {n!r}" for name, n in counts.items() if type(n) is not int or n < 0]:
            return [f"{folder.name}/config.json says {', '.join(odd)}, not a whole number; download it again"]
        return [problem for path in weight_files(folder) for problem in check_weights(path)]
    except CheckpointError as error:
        return [str(error)]


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights: one, or an index's shards; safetensors before .bin, and those
    of a variant of diffusers (`*.fp16.safetensors`) where there are no others. CheckpointError.
    """
    for variant in dict.fromkeys(("", file_variant(folder))):
        for ending in ("safetensors", "bin"):
            for name in WEIGHTS:
                index = folder / ".".join(filter(None, (name, ending, "index", variant, "json")))
                if index.is_file():
                    shards = read_json(index).get("weight_map")
                    if not isinstance(shards, dict) or not shards:
                        raise CheckpointError(f"{index} lists no files")
                    return [folder / shard for shard in sorted(set(shards.values()))]
                whole = folder / ".".join(filter(None, (name, variant, ending)))
                if whole.is_file():
                    return [whole]
    raise CheckpointError(_no_weights(folder))


def _no_weights(folder: Path) -> str:
    """Why a folder has no weights that can be read, by what else lies in it."""
    forms = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
    there = sorted(path.name for path in folder.iterdir() if path.suffix in forms)
    example = f"{WEIGHTS[0]}.safetensors"
    if there:
        return (
            f"{folder.name} has {', '.join(there[:3])}, but no weights under a name that is read: save them "
            f"as {example}, as save_pretrained does"
        )
    return f"{folder.name} has no weights: {example}, for example"


def check_weights(path: Path) -> list[str]:
    """What is wrong with one weight file, from its first and last bytes."""
    where = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        return [f"{where} is missing"]
    with path.open("rb") as file:
        start = file.read(40)
    if start.startswith(b"version https://git-lfs"):
        return [f"{where} is a Git LFS pointer, not the weights: run git lfs pull, or download the model"]
    if path.suffix == ".bin":
        # torch.save writes a zip archive, whose table of contents comes last: a truncated file has none.
        # Before torch 1.6 it wrote pickles one after the other, of which only reading tells whether all are
        # there.
        if zipfile.is_zipfile(path) or start.startswith(LEGACY):
            return []
        return [f"{where} is truncated or damaged; download it again"]
    return check_safetensors(path, where)


def check_safetensors(path: Path, where: str) -> list[str]:
    """Compares the file's size with its header: 8 bytes of length, JSON with all tensors' offsets, data."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            return [f"{where} is truncated: {size:,} bytes do not even hold its header; download it again"]
        try:
            header = json.loads(file.read(length))
            tensors = [entry for name, entry in header.items() if name != "__metadata__"]
            end = 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0)
            if end == size:
                with safe_open(path, "np"):  # which looks at types and shapes too
                    return []
        except (SafetensorError, ValueError, AttributeError, KeyError, TypeError, IndexError, RecursionError):
            return [f"{where} is damaged: its header cannot be read; download it again"]
    state = "truncated" if size < end else "damaged"
    return [f"{where} is {state}: {size:,} of {end:,} bytes; download it again"]


def check_tokenizer(folder: Path) -> list[str]:
    """What is wrong with a tokenizer's folder."""
    if not folder.is_dir():
        return [f"the folder {folder.name} is missing"]
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return [f"{folder.name} has none of {', '.join(TOKENIZER_FILES)}"]
    try:
        for path in sorted(folder.glob("*.json")):
            json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        return [f"{folder.name}/{path.name} cannot be read: {error}"]
    return []


# -- which weights
def identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """Which weights make a result: the model's name, its licence, and hashes of pieces of its files."""
    folders = {"transformer": checkpoint.transformer, "vae": checkpoint.vae}
    return {
        "identity": checkpoint.identity,
        "licence": checkpoint.licence,
        "weights": {
            name: [fingerprint(path)[:16] for path in weight_files(folder)]
            for name, folder in folders.items()
        },
    }


def fingerprint(path: Path, samples: int = 16, length: int = 65536) -> str:
    """A hash of a file's size and of pieces spread over it, first and last bytes among them.

    Small files are read whole. Weights of another training differ everywhere, so pieces tell them apart.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= samples * length:
            samples = 1
            length = size
        for index in range(samples):
            file.seek((size - length) * index // max(samples - 1, 1))
            digest.update(file.read(length))
    return digest.hexdigest()
