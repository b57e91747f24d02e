"""What this machine has: memory that is free, the card, what its processor is fastest in.

machine = Machine.here()          # free, not total; limits of containers included
peak_bytes()                      # most main memory that this process has had
in_use()                          # memory that its models take now
"""

import ctypes
import functools
import importlib.util
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from pyramid.memory.device import MAIN, Device, cards, device_of, find_device
from pyramid.memory.groups import control_groups

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """What may be used now. Bytes; `free_*` counts what this process already holds as free."""

    device: str = MAIN  # "cuda:0", "mps", "cpu"
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

        found = find_device(device)
        main = ram()
        vram = found.memory(main) if found.is_card else (0, 0)
        quantizes = importlib.util.find_spec("bitsandbytes") is not None
        return cls(found.name, found.label, *vram, *main, found.capability, found.bfloat16, quantizes)

    @property
    def place(self) -> Device:
        """Its device, with the facts: also of a machine that was made up."""
        place = device_of(self.device)
        return replace(place, label=self.name, capability=self.capability, bfloat16=self.bfloat16)

    def without_card(self) -> "Machine":
        """The same, with its processor alone."""
        return replace(self, device=MAIN)


def ram() -> tuple[int, int]:
    """Main memory that this process may use, what it holds included, and all there is;
    under a container's limit.
    """
    import psutil

    memory = psutil.virtual_memory()
    held = psutil.Process().memory_info()
    own = held.rss - getattr(held, "shared", 0)  # pages of mapped files count as available already
    free = memory.available + own
    total = memory.total
    for limit, used in cgroup_limits():
        if limit < total:
            free = min(free, limit - used + own)
            total = limit
    return max(int(free), 0), int(total)


def cgroup_limits(root: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self/cgroup")):
    """(limit, used) bytes of each control group around this process that has a limit.
    Files' pages are not used.
    """
    for folder, version1 in control_groups("memory", root, of):
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if version1
            else ("memory.max", "memory.current")
        )
        limit, used = (_number(folder / name) for name in names)
        if limit is not None and used is not None:
            stat = (
                _number(folder / "memory.stat", "total_inactive_file" if version1 else "inactive_file") or 0
            )
            yield limit, used - stat


def _number(path: Path, key: str = "") -> int | None:
    """A number in a file of the kernel, or the one after `key`; None for "max" and where there is none.
    ValueError for anything else.
    """
    try:
        text = path.read_text()
    except OSError:
        return None
    lines = [line.split() for line in text.splitlines()]
    words = next((line[1:] for line in lines if line[:1] == [key]), []) if key else text.split()
    if words in ([], ["max"]):
        return None
    if len(words) != 1 or not words[0].isdigit():
        raise ValueError(f"{path} says {' '.join(words)[:80]!r}, where a number of bytes is expected")
    return int(words[0])


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
    trim_threshold = -1
    top_pad = -2
    mmap_max = -4
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


def in_use() -> int:
    """Bytes: of the graphics cards where there is one in use, else of this process."""
    import psutil  # accelerate brings it

    on_cards = sum(card.allocated() for card in cards())
    return on_cards or psutil.Process().memory_info().rss


@functools.cache
def built_for_cards() -> bool:
    """Whether torch brings the libraries of cards, which a process holds wherever it computes. For this torch
    is not loaded.
    """
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    libraries = Path(found.origin).parent / "lib"
    names = ("libtorch_cuda.so", "torch_cuda.dll", "libtorch_hip.so")
    return any((libraries / name).exists() for name in names)
