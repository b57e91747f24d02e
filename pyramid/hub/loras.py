"""LoRA files on this machine: by a name in the folder of LoRAs, or by a path.

    find_lora("sketch")                     # loras/sketch.safetensors, or loras/sketch/, or a path
    list_loras()                            # the names in the folder

The folder is `loras` where the program was started, or what the variable PYRAMID_LORAS names.
"""

import os
from pathlib import Path

from pyramid.settings import loras_at_work
from pyramid.wording import briefly

WEIGHTS = "pytorch_lora_weights.safetensors"  # in a folder, as diffusers names it
OF_PEFT = "adapter_model.safetensors"  # as peft names it


def lora_folder() -> Path:
    """Where LoRAs are looked for by their names."""
    return Path(os.environ.get("PYRAMID_LORAS") or "loras")


def list_loras() -> list[str]:
    """The names of what lies in the folder, sorted."""
    folder = lora_folder()
    if not folder.is_dir():
        return []
    files = [path.stem for path in folder.glob("*.safetensors")]
    return sorted({*files, *(path.name for path in folder.iterdir() if path.is_dir() and _weights(path))})


def find_lora(name: str | Path, weight_name: str | None = None) -> Path:
    """The file of weights that a name, a file or a folder stands for; `weight_name` is that of one in the
    folder. ValueError where there is none.
    """
    if not isinstance(name, str | Path) or not str(name):
        raise ValueError(f"{briefly(name)} is no LoRA: give a .safetensors file, a folder, or a name")
    try:
        path = _found(name, weight_name)
    except (OSError, RuntimeError) as error:  # too long, not allowed; a home folder of nobody
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"the LoRA {briefly(str(name))} cannot be looked for: {reason}") from None
    if path is None:
        there = ", ".join(list_loras()) or "none"
        wanted = f"{weight_name!r} in the LoRA" if weight_name else "LoRA"
        raise ValueError(
            f"there is no {wanted} {briefly(str(name))}: give a .safetensors file, a folder with {WEIGHTS}, "
            f"or a name in {lora_folder()} (there: {there})"
        )
    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name}: a LoRA must be .safetensors, other files can run programs")
    return path


def _found(name: str | Path, weight_name: str | None) -> Path | None:
    """The first file that a name can mean."""
    folder = lora_folder()
    for path in (folder / f"{name}.safetensors", folder / name, Path(name).expanduser()):
        if path.is_dir() and (weights := _weights(path, weight_name)):
            return weights
        if path.is_file() and weight_name in (None, path.name):
            return path
    return None


def find_loras(text: str) -> list[Path]:
    """The files of all LoRAs of a setting, such as "sketch:0.8, slow". ValueError as `find_lora`."""
    return [find_lora(name) for name, _ in loras_at_work(text)]


def named_lora(name: str) -> str:
    """The name, if it is one in the folder of LoRAs: for those who may not name files. Raises ValueError."""
    if name not in list_loras():
        there = ", ".join(list_loras()) or "none"
        raise ValueError(f"there is no LoRA {name!r} in the folder of LoRAs (there: {there})")
    return name


def _weights(folder: Path, weight_name: str | None = None) -> Path | None:
    """The one file of LoRA weights in a folder, or the one that is named."""
    for name in (weight_name,) if weight_name else (WEIGHTS, OF_PEFT):
        if (folder / name).is_file():
            return folder / name
    files = sorted(folder.glob("*.safetensors"))
    return files[0] if len(files) == 1 and not weight_name else None
