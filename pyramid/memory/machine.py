"""What this machine has: memory that is free, the card, what its processor is fastest in.

machine = Machine.here()          # free, not total; limits of containers included
peak_bytes()                      # most main memory that this process has had
"""

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path

from pyramid.settings import SettingsError

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """What may be used now. Bytes; `free_*` counts what this process already holds as free."""

    device: str = "cpu"  # "cuda:0", "mps", "cpu"
    name: str = "processor"
    free_vram: int = 0
    total_vram: int = 0
    free_ram: int = 0
    total_ram: int = 0
    capability: tuple[int, int] | None = None  # of a CUDA card
    bfloat16: bool = False  # whether the device computes in it at full speed
    quantizes: bool = False  # whether bitsandbytes is installed

    @classmethod
    def here(cls, device: str = "auto") -> "Machine":
        """This machine, with the card `device` ("auto": the first).
        ValueError for a card that torch cannot use.
        """
        import importlib.util

        import torch

        free, total = ram()
        known = dict(
            free_ram=free, total_ram=total, quantizes=importlib.util.find_spec("bitsandbytes") is not None
        )
        index = int(device.partition(":")[2] or 0) if device.startswith("cuda") else 0
        if torch.cuda.is_available() and index >= torch.cuda.device_count():
            raise SettingsError(
                "device", f"device = {device!r}: there are {torch.cuda.device_count()} cards, counted from 0"
            )
        cuda = torch.cuda.is_available() and runs_on(
            torch.cuda.get_device_capability(index), torch.cuda.get_arch_list()
        )
        other = {"mps": torch.backends.mps.is_available, "xpu": torch.xpu.is_available}.get(device)
        if device.startswith("cuda") and not cuda or other and not other():
            kind = "CUDA card" if device.startswith("cuda") else f"{device} device"
            raise SettingsError(
                "device",
                f"device = {device!r}: there is no {kind} that this torch can use; use "
                "auto or cpu (python -m pyramid doctor says why)",
            )
        if cuda and (device == "auto" or device.startswith("cuda")):
            here, everything = torch.cuda.mem_get_info(index)
            own = torch.cuda.memory_reserved(index)
            capability = torch.cuda.get_device_capability(index)
            return cls(
                f"cuda:{index}",
                torch.cuda.get_device_name(index),
                here + own,
                everything,
                capability=capability,
                bfloat16=capability >= (8, 0),
                **known,
            )
        if device in ("mps", "xpu"):
            return cls(device, device, free, total, bfloat16=True, **known)
        return cls(bfloat16=cpu_dtype() == torch.bfloat16, **known)


def runs_on(capability: tuple[int, int], built: list[str]) -> bool:
    """Whether a torch that is `built` for these (`torch.cuda.get_arch_list()`) has kernels for a card.

    A kernel for x.y runs on x.z with z ≥ y; portable code (compute_) on everything newer.
    """
    native = [arch.removeprefix("sm_").rstrip("af") for arch in built if arch.startswith("sm_")]
    portable = [arch.removeprefix("compute_").rstrip("af") for arch in built if arch.startswith("compute_")]
    major, minor = capability
    return any(arch[:-1] == str(major) and int(arch[-1]) <= minor for arch in native) or any(
        int(arch) <= 10 * major + minor for arch in portable
    )


def ram() -> tuple[int, int]:
    """Main memory that this process may use, what it holds included, and all there is;
    under a container's limit.
    """
    import psutil

    memory, held = psutil.virtual_memory(), psutil.Process().memory_info()
    own = held.rss - getattr(held, "shared", 0)  # pages of mapped files count as available already
    free, total = memory.available + own, memory.total
    for limit, used in cgroup_limits():
        if limit < total:
            free, total = min(free, limit - used + own), limit
    return max(int(free), 0), int(total)


def cgroup_limits(root: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self/cgroup")):
    """(limit, used) bytes of each control group around this process that has a limit.
    Files' pages are not used.
    """
    try:
        groups = [line.split(":", 2) for line in of.read_text().splitlines()]
    except OSError:  # not Linux
        return
    for _, controllers, path in groups:
        version1 = "memory" in controllers.split(",")
        if controllers and not version1:
            continue
        base = root / "memory" if version1 else root
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if version1
            else ("memory.max", "memory.current")
        )
        relative = Path(path.lstrip("/"))
        for folder in {base / part for part in (relative, *relative.parents)}:
            limit, used = (_number(folder / name) for name in names)
            if limit is not None and used is not None:
                stat = (
                    _number(folder / "memory.stat", "total_inactive_file" if version1 else "inactive_file")
                    or 0
                )
                yield limit, used - stat


def _number(path: Path, key: str = "") -> int | None:
    """A number in a file of the kernel, or the one after `key`; None for "max" and where there is none."""
    try:
        text = path.read_text()
    except OSError:
        return None
    words = (
        next((line.split()[1] for line in text.splitlines() if line.split()[0] == key), "")
        if key
        else text.strip()
    )
    return int(words) if words.isdigit() else None


def cpu_dtype():
    """The dtype that a processor is fastest in: bfloat16 where it has AVX512_BF16 or AMX, else float32."""
    import torch

    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    has = any(getattr(torch.cpu, name, lambda: False)() for name in known)
    return torch.bfloat16 if has else torch.float32


def keep_freed_memory() -> None:
    """Let the C library keep large freed blocks instead of returning them to the system (Linux with glibc).

    By default each large tensor is mapped and unmapped anew, and a step on a CPU spends a quarter of its time
    in the page faults of that.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 200 * 2**20)


def peak_bytes() -> int:
    """Most main memory that this process has had so far."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
