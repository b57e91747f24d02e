"""LoRA files on this machine: by a name in the folder of LoRAs, or by a path.

    find_lora("sketch")                     # loras/sketch.safetensors, or loras/sketch/, or a path
    list_loras()                            # the names in the folder

The folder is `loras` where the program was started, or what the variable PYRAMID_LORAS names.
"""

import os
from pathlib import Path

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


def find_lora(name: str | Path) -> Path:
    """The file of weights that a name, a file or a folder stands for. ValueError where there is none."""
    given = Path(name).expanduser()
    at_home = lora_folder() / name
    for path in (at_home.with_name(at_home.name + ".safetensors"), at_home, given):
        if path.is_dir() and (weights := _weights(path)):
            return weights
        if path.is_file():
            if path.suffix != ".safetensors":
                raise ValueError(f"{path.name}: a LoRA must be .safetensors, other files can run programs")
            return path
    there = ", ".join(list_loras()) or "none"
    raise ValueError(
        f"there is no LoRA {str(name)!r}: give a .safetensors file, a folder with {WEIGHTS}, or a name in "
        f"{lora_folder()} (there: {there})"
    )


def named_lora(name: str) -> str:
    """The name, if it is one in the folder of LoRAs: for those who may not name files. Raises ValueError."""
    if name not in list_loras():
        there = ", ".join(list_loras()) or "none"
        raise ValueError(f"there is no LoRA {name!r} in the folder of LoRAs (there: {there})")
    return name


def _weights(folder: Path) -> Path | None:
    """The one file of LoRA weights in a folder."""
    for name in (WEIGHTS, OF_PEFT):
        if (folder / name).is_file():
            return folder / name
    files = sorted(folder.glob("*.safetensors"))
    return files[0] if len(files) == 1 else None
