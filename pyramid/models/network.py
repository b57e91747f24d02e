"""What a network needs to be read from a folder and run, with torch alone.

    network = network_class("PyramidFluxTransformer").load(folder, torch.bfloat16)
    network.config.num_layers, network.dtype, network.device

Each network is a class of torch modules, which runs a clip, and a class of the published name in
`pyramid.models.for_diffusers`, which is the same network with all that diffusers gives a model: saving,
offloading, quantizing, sharing it between processes. diffusers takes twice as long to load as torch, so that
who only wants a clip goes without.
"""

import functools
import importlib
import inspect
import json
import logging
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import nn

log = logging.getLogger(__name__)
WEIGHTS = "diffusion_pytorch_model.safetensors"


class Config(dict):
    """A network's configuration: its names are attributes too, as in diffusers' configurations."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this configuration has no {name!r}") from None


def keeps_config(init):
    """`__init__` of a network whose arguments are its configuration: kept before it runs."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def keeping(self, *args, **kwargs):
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        own, *names = given.arguments
        self.keep_config({name: given.arguments[name] for name in names})
        init(self, *args, **kwargs)

    return keeping


class Network(nn.Module):
    """A network that knows its configuration. `published`: its name in checkpoints.

    Config keys listed in `_leftover_config_keys` (written by the published files, meaningless here) are
    dropped without a warning.
    """

    published: str
    _leftover_config_keys: tuple[str, ...] = ()

    def keep_config(self, values: dict[str, Any]) -> None:
        self.__dict__["_config"] = Config(values)

    @property
    def config(self) -> Config:
        return self.__dict__["_config"]

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @classmethod
    def can_load(cls, folder: Path) -> bool:
        """Whether `load` reads this folder: all weights in one file, and no key of the configuration that
        is not known here, of which diffusers would warn.
        """
        if not (folder / WEIGHTS).is_file():
            return False
        return cls._read_config(folder).keys() <= inspect.signature(cls).parameters.keys()

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype) -> Self:
        """The network in a folder, on the CPU, in `dtype`; weights that have it lie in the file's pages.
        Raises ValueError with the names of what does not fit.
        """
        with torch.device("meta"):
            network = cls(**cls._read_config(folder))
        read = load_file(folder / WEIGHTS)
        wanted = network.state_dict()
        if prefix := shared_prefix(read.keys() - wanted.keys(), wanted.keys() - read.keys()):
            log.warning("the names of the weights in %s begin with %r, which is left out", folder, prefix)
            read = {name.removeprefix(prefix): value for name, value in read.items()}
        shapes = [
            f"{name} {tuple(read[name].shape)} in place of {tuple(wanted[name].shape)}"
            for name in wanted.keys() & read.keys()
            if read[name].shape != wanted[name].shape
        ]
        check_fit(
            folder,
            cls.published,
            missing=wanted.keys() - read.keys(),
            unexpected=read.keys() - wanted.keys(),
            shapes=shapes,
        )
        network.load_state_dict({name: read.pop(name).to(dtype) for name in wanted}, assign=True)
        return network.eval()

    @classmethod
    def _read_config(cls, folder: Path) -> dict[str, Any]:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        dropped = cls._leftover_config_keys
        return {key: value for key, value in config.items() if key not in dropped and not key.startswith("_")}


def load_saved(path: Path, device: str = "cpu") -> Any:
    """What `torch.save` has written, of which tensors, numbers and texts alone are read; on the device "meta"
    without the numbers of tensors. ValueError for any other file; OSError.
    """
    try:
        mapped = device == "meta" and zipfile.is_zipfile(path)  # torch's form before 1.6 cannot be
        return torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except OSError:
        raise
    except Exception as error:  # of many kinds, by the damage; torch's own words advise to run what is in it
        words = "damaged, or holds more than tensors, which may be a program and is not read"
        raise ValueError(f"{path.name} is {words}: get it again, or as .safetensors") from error


def check_fit(
    folder, name: str, *, missing: Iterable[str], unexpected: Iterable[str], shapes: Iterable[str]
) -> None:
    """Raises ValueError that lists all weights of a folder that do not fit a network, if there are any."""
    found = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    lines = [f"{what}: {', '.join(sorted(names))}" for what, names in found if names]
    if lines:
        raise ValueError(
            f"the weights in {folder} do not fit {name}; "
            + "; ".join(lines)
            + ". Download the folder again, or check its config.json."
        )


def shared_prefix(found, wanted):
    """What all names in `found` begin with and those in `wanted` lack; "" where they differ by more."""
    name = min(wanted, default="")
    for candidate in found:
        if name and candidate.endswith(f".{name}"):
            prefix = candidate.removesuffix(name)
            if {prefix + each for each in wanted} == set(found):
                return prefix
    return ""


def diffusers_model(module: str, name: str) -> Any:
    """The class of that published name from `for_diffusers`, for the `__getattr__` of its `module`."""
    if not name.startswith(("Pyramid", "CausalVideoVAE")):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    return getattr(importlib.import_module("pyramid.models.for_diffusers"), name)
