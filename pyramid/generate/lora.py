"""LoRA: small changes of a transformer's weights, from files of several kinds, stacked by strengths.

    pipe.load_lora_weights("loras/sketch.safetensors", adapter_name="sketch")
    pipe.load_lora_weights("loras/slow", adapter_name="slow")
    pipe.set_adapters(["sketch", "slow"], [0.8, 0.5])
    pipe.unload_lora_weights()

A weight becomes W + Σ strength · alpha / rank · B A. What diffusers, peft, ComfyUI and kohya's scripts write
is read; names are found in a table of the transformer's own layers, so a LoRA of another model is told by
what does not fit. peft does the rest. At strength 0 nothing is left of a LoRA, to the last bit.
"""

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, proxy

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pyramid.hub.loras import OF_PEFT, WEIGHTS, find_lora
from pyramid.wording import briefly

PREFIXES = ("transformer.", "diffusion_model.", "model.diffusion_model.", "base_model.model.")
FLAT = ("lora_unet_", "lora_transformer_")  # before names whose dots became underscores
PARTS = {  # of a layer, and how names of them end
    "A": re.compile(r"(.+)\.(?:lora_A|lora_down|lora\.down)(?:\.[A-Za-z0-9_-]+)?\.weight"),
    "B": re.compile(r"(.+)\.(?:lora_B|lora_up|lora\.up)(?:\.[A-Za-z0-9_-]+)?\.weight"),
    "alpha": re.compile(r"(.+)\.alpha"),
}
OTHER_KINDS = {"dora_scale": "DoRA", "hada_": "LoHa", "lokr_": "LoKr", "magnitude_vector": "DoRA"}
METADATA = "lora_adapter_metadata"  # in the header: the configuration, its keys with the prefix
SHOWN = 4  # names in a message
STACKED = "Already found a `peft_config`"  # how peft warns of a second LoRA, which is what is asked for
REPEAT = re.compile(r"[*+?{]")  # in a pattern: each may go back over a whole name
MOST_REPEATS = 2
SLOW = re.compile(r"\)[*+?{]|\\[1-9]|\(\?P=")  # a repeated group or a reference may try all ways to divide it
ATTENTION = {"x": ("to_q", "to_k", "to_v"), "text": ("add_q_proj", "add_k_proj", "add_v_proj")}


# -- a file in our terms
def read_lora(
    source: "str | Path | Mapping[str, Tensor]", transformer: nn.Module, weight_name: str | None = None
) -> dict[str, Tensor]:
    """A LoRA as `<module>.lora_A.weight` (rank, in) and `<module>.lora_B.weight` (out, rank), with its scale
    in B: alpha is the rank.

    source: a file, a folder (with `weight_name` which file of it), a name in the folder of LoRAs, or tensors
    by name. Raises ValueError for what is no LoRA, one of another kind, several in one file, and one of
    another model, with the names that do not fit.
    """
    config: dict[str, Any] = {}
    if isinstance(source, Mapping):
        weights = _tensors(source)
        name = "the LoRA"
    else:
        path = find_lora(source, weight_name)
        weights, config = _open(path)
        name = path.parent.name if path.name == WEIGHTS else path.name
    for mark, kind in OTHER_KINDS.items():
        if any(mark in key for key in weights):
            raise ValueError(f"{name} is a {kind}, which is not read: only plain LoRA is")
    layers = _layers(transformer)
    try:
        made, left = _changes(weights, config, layers)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if left or not made:
        shown = ", ".join(sorted(left)[:SHOWN]) + (f" and {len(left) - SHOWN} more" * (len(left) > SHOWN))
        raise ValueError(
            f"{name} is no LoRA of this model ({type(transformer).__name__}): "
            + (f"these do not fit: {shown}" if left else "it has no weights")
        )
    return made


def _changes(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], layers: Mapping[str, nn.Linear]
) -> tuple[dict[str, Tensor], list[str]]:
    """A and B of each layer, and the names that do not fit. Raises ValueError for what cannot be used."""
    table = _table(layers)
    groups, left = _grouped(weights, table)
    alphas = _alpha_patterns(config)
    made: dict[str, Tensor] = {}
    for name, parts in groups.items():
        targets = table[name]
        if not _is_whole(parts):
            left.append(targets[0])
            continue
        a, b = (_checked(targets[0], parts[part]) for part in ("A", "B"))
        b = _checked(targets[0], b * _scale(name, parts, config, alphas))
        made |= _fitted(targets, a, b, layers, left)
    return made, left


def _tensors(source: Mapping[Any, Any]) -> dict[str, Tensor]:
    """What a program has given in place of a file. ValueError for what is no table of tensors by name."""
    for name, value in source.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise ValueError(f"the LoRA holds {name!r}, {type(value).__name__}: tensors by name are expected")
    return dict(source)


def _checked(layer: str, matrix: Tensor) -> Tensor:
    """A matrix as float32. ValueError for one that is not of floats, or not of finite ones."""
    if not matrix.is_floating_point():
        dtype = str(matrix.dtype).removeprefix("torch.")
        raise ValueError(f"the weights of {layer} are {dtype}: floating-point numbers are expected")
    if not torch.isfinite(matrix := matrix.float()).all():
        raise ValueError(f"the weights of {layer} hold NaN or infinity: it is damaged, fetch it again")
    return matrix


def _open(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file, and the configuration in its header or beside it."""
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            text = (file.metadata() or {}).get(METADATA, "{}")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read as safetensors: {error}") from None
    beside = path.with_name("adapter_config.json")
    if path.name == OF_PEFT and beside.is_file():
        text = beside.read_text(encoding="utf-8-sig", errors="replace")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        config = {}
    if not isinstance(config, dict):
        return weights, {}
    return weights, {key.removeprefix("transformer."): value for key, value in config.items()}


def _layers(transformer: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers by the names that they have without any LoRA. With one at work, peft has put the
    layer's own part into `<name>.base_layer`, and matrices of the LoRA beside it.
    """
    return {
        name.removesuffix(".base_layer"): module
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and not re.search(r"\.lora_[AB]\.", name)
    }


def _table(layers: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """All names that a file may give to layers -> those layers, several for a fused one."""
    table: dict[str, tuple[str, ...]] = {name: (name,) for name in layers}
    for name in list(table):
        if found := re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.attn\.to_q", name):
            blocks = _single(found[2]) if found[1] else _double(found[2])
            table |= {
                alias: names for alias, names in blocks.items() if all(known in table for known in names)
            }
    return table | {alias.replace(".", "_"): names for alias, names in table.items()}


def _single(index: str) -> dict[str, tuple[str, ...]]:
    """FLUX's own names in a single block."""
    block = f"single_transformer_blocks.{index}"
    original = f"single_blocks.{index}"
    return {
        f"{original}.linear1": tuple(f"{block}.attn.{name}" for name in ATTENTION["x"])
        + (f"{block}.proj_mlp",),
        f"{original}.linear2": (f"{block}.proj_out",),
        f"{original}.modulation.lin": (f"{block}.norm.linear",),
    }


def _double(index: str) -> dict[str, tuple[str, ...]]:
    """FLUX's and SD3's own names in a double block."""
    block = f"transformer_blocks.{index}"
    flux = f"double_blocks.{index}"
    sd3 = f"joint_blocks.{index}"
    table: dict[str, tuple[str, ...]] = {}
    for side, (short, long, out, more) in {
        "x": ("img", "x_block", "to_out.0", ""),
        "text": ("txt", "context_block", "to_add_out", "_context"),
    }.items():
        qkv = tuple(f"{block}.attn.{name}" for name in ATTENTION[side])
        ff = f"{block}.ff{more}.net"
        table |= {f"{flux}.{short}_attn.qkv": qkv, f"{sd3}.{long}.attn.qkv": qkv}
        table |= {f"{flux}.{short}_attn.proj": (f"{block}.attn.{out}",)}
        table |= {f"{sd3}.{long}.attn.proj": (f"{block}.attn.{out}",)}
        table |= {f"{flux}.{short}_mlp.0": (f"{ff}.0.proj",), f"{flux}.{short}_mlp.2": (f"{ff}.2",)}
        table |= {f"{sd3}.{long}.mlp.fc1": (f"{ff}.0.proj",), f"{sd3}.{long}.mlp.fc2": (f"{ff}.2",)}
        table |= {f"{flux}.{short}_mod.lin": (f"{block}.norm1{more}.linear",)}
    return table


def _grouped(
    weights: Mapping[str, Tensor], table: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """The tensors by the layers' names in the file, as `table` has them, and the names that belong to no
    layer. ValueError where a layer has more than one change: of two LoRAs in a file, or in two forms.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    left = []
    keys: dict[tuple[str, str], str] = {}  # (layer, part) -> the name of its tensor
    for key, value in weights.items():
        found = [(part, hit[1]) for part, name in PARTS.items() if (hit := name.fullmatch(key))]
        name = _bare(found[0][1]) if found else ""
        if name not in table:
            left.append(key)
            continue
        part = found[0][0]
        for layer in table[name]:
            if (other := keys.setdefault((layer, part), key)) != key:
                raise ValueError(f"{layer} is changed twice, by {other} and {key}: give a file with one LoRA")
        groups.setdefault(name, {})[part] = value
    return groups, left


def _bare(name: str) -> str:
    """A layer's name without what programs put before it."""
    for prefix in FLAT:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _is_whole(parts: Mapping[str, Tensor]) -> bool:
    """Whether a layer has both of its matrices, of a rank, and at most one number for alpha."""
    if not {"A", "B"} <= parts.keys() or "alpha" in parts and parts["alpha"].numel() != 1:
        return False
    return parts["A"].ndim == 2 and parts["A"].shape[0] > 0


def _scale(
    name: str,
    parts: Mapping[str, Tensor],
    config: Mapping[str, Any],
    alphas: Sequence[tuple[re.Pattern[str], float]],
) -> float:
    """alpha / rank of a layer, by its name in the file; 1 where nothing says what alpha is."""
    rank = parts["A"].shape[0]
    if "alpha" in parts:
        return float(parts["alpha"]) / rank
    alpha = next((alpha for pattern, alpha in alphas if pattern.match(name)), config.get("lora_alpha"))
    if not isinstance(alpha, int | float):
        return 1.0
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _alpha_patterns(config: Mapping[str, Any]) -> list[tuple[re.Pattern[str], float]]:
    """The layers that have an alpha of their own, as peft finds them: the first pattern that is the end of a
    name. ValueError for what is none, and for a pattern that could take ages: it is a stranger's.
    """
    given = config.get("alpha_pattern") or {}
    if not isinstance(given, dict):
        raise ValueError(f"alpha_pattern = {briefly(given)}: a table of numbers by layers is expected")
    alphas = []
    for key, alpha in given.items():
        if not isinstance(alpha, int | float):
            raise ValueError(f"alpha_pattern {briefly(key)} = {briefly(alpha)}: a number is expected")
        if SLOW.search(key) or len(REPEAT.findall(key)) > MOST_REPEATS:
            raise ValueError(f"alpha_pattern {briefly(key)} is too involved: name layers, or ends of names")
        try:
            alphas.append((re.compile(rf"(.*\.)?({key})$"), alpha))
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"alpha_pattern {briefly(key)} is no pattern: {error}") from None
    return alphas


def _fitted(
    targets: tuple[str, ...], a: Tensor, b: Tensor, layers: Mapping[str, nn.Linear], left: list[str]
) -> dict[str, Tensor]:
    """A and B of each layer; those of a fused one share A, and B is cut. What does not fit goes to `left`."""
    sizes = [layers[name].out_features for name in targets]
    fits = a.ndim == 2 == b.ndim and a.shape[0] == b.shape[1] and b.shape[0] == sum(sizes)
    if not fits or a.shape[1] != layers[targets[0]].in_features:
        left.append(f"{targets[0]} {[*b.shape]}×{[*a.shape]}")
        return {}
    made: dict[str, Tensor] = {}
    for name, piece in zip(targets, b.split(sizes), strict=True):
        made |= {f"{name}.lora_A.weight": a.contiguous(), f"{name}.lora_B.weight": piece.contiguous()}
    return made


# -- on a transformer
@dataclass(frozen=True)
class Adapter:
    """A LoRA that was loaded: its tensors, and the strength that it has."""

    weights: dict[str, Tensor]
    strength: float = 1.0


class Adapters:
    """The LoRAs of one transformer. What has strength 0 is not in it at all: it computes as before."""

    def __init__(self, transformer: nn.Module):
        self.transformer: Any = proxy(transformer)  # its owner keeps these as long as it lives
        self.all: dict[str, Adapter] = {}
        self._inside: list[str] = []  # those that peft has put in

    def add(self, name: str, weights: dict[str, Tensor]) -> None:
        """One more, at strength 1. ValueError for a name that is taken, or that peft cannot use."""
        if not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"adapter_name {name!r}: letters, digits, _ and - are expected")
        if name in self.all:
            raise ValueError(f"there is a LoRA {name!r} already: give another adapter_name, or unload it")
        self.all[name] = Adapter(weights)
        self._put()

    def set(self, names: Sequence[str], strengths: Sequence[float]) -> None:
        """Let just these be at work, by so much. ValueError for unknown names."""
        if len(names) != len(strengths):
            raise ValueError(f"{len(names)} names and {len(strengths)} weights: give one weight each")
        if unknown := [name for name in names if name not in self.all]:
            there = ", ".join(self.all) or "none"
            raise ValueError(f"there is no LoRA {unknown[0]!r} (there: {there}): load_lora_weights brings it")
        wanted = dict(zip(names, strengths, strict=True))
        self.all = {
            name: Adapter(adapter.weights, wanted.get(name, 0.0)) for name, adapter in self.all.items()
        }
        self._put()

    def clear(self) -> None:
        """As if there had never been any."""
        self.all = {}
        self._put()

    def _put(self) -> None:
        """Bring the transformer to what is asked for, by peft."""
        active = {name: adapter for name, adapter in self.all.items() if adapter.strength}
        model: Any = self.transformer
        if self._inside and self._inside != list(active):
            model.unload_lora()
            self._inside = []
        warnings.filterwarnings("ignore", message=STACKED)
        for name in [] if self._inside else active:
            model.load_lora_adapter(active[name].weights, prefix=None, adapter_name=name)
        if active:
            self._inside = list(active)
            model.set_adapters(list(active), [adapter.strength for adapter in active.values()])
            for module in _lora_layers(model):
                module.to(dtype=model.dtype).train(model.training)


def strength_of(weight: Any) -> float:
    """A strength as programs give it, 1 where it is None. ValueError for what is no finite number."""
    try:
        strength = 1.0 if weight is None else float(weight)
    except (TypeError, ValueError, OverflowError):
        strength = math.nan
    if not math.isfinite(strength):
        raise ValueError(f"{briefly(weight)} is no strength: a number such as 0.8 is expected")
    return strength


_adapters: WeakKeyDictionary[nn.Module, Adapters] = WeakKeyDictionary()


def adapters_of(transformer: nn.Module) -> Adapters:
    """The LoRAs of a transformer, which all pipelines with it share."""
    return _adapters.setdefault(transformer, Adapters(transformer))


def _lora_layers(model: nn.Module) -> list[nn.Module]:
    """The modules that peft has added."""
    return [module for name, module in model.named_modules() if name.endswith((".lora_A", ".lora_B"))]


# -- to train one
def new_lora(transformer: Any, rank: int, alpha: int, targets: str | list[str]) -> Any:
    """Freeze a transformer and put a LoRA into the layers of `targets`, ends of their names or a pattern as
    peft takes it. Its configuration. ValueError where no layer has such a name.
    """
    from peft import LoraConfig

    transformer.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)
    transformer.add_adapter(config)
    return config


# -- to a file
def save_lora(transformer: nn.Module, folder: str | Path, config: Any, adapter: str = "default") -> Path:
    """Write the adapter that is trained in `transformer`, in diffusers' form, with its peft configuration in
    the header. Returns the file.
    """
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(transformer, adapter_name=adapter)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"transformer.{name}": value.detach().cpu().contiguous() for name, value in weights.items()}
    about = {
        f"transformer.{key}": sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
        if value is None or isinstance(value, str | int | float | bool | list | dict | set)
    }
    header = {"format": "pt", METADATA: json.dumps(about, indent=2, sort_keys=True)}
    save_file(tensors, folder / WEIGHTS, metadata=header)
    return folder / WEIGHTS


def name_of(source: str | Path) -> str:
    """A name for an adapter, from that of its file or folder."""
    path = Path(source)
    stem = path.stem if path.suffix == ".safetensors" else path.name
    if path.name == WEIGHTS:
        stem = path.parent.name
    return re.sub(r"[^\w-]+", "-", stem) or "lora"
