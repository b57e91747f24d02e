"""What a place to compute can do, once: the processor, a CUDA card, Apple's graphics, an Intel card.

    device = find_device("auto")             # the first card that this torch can use, else the processor
    device = device_of(pipe.device)          # by name alone: no card is asked for anything
    device.best_dtype(), device.synchronize(), device.empty_cache(), device.peak_reserved()

Whoever has to know where it runs asks a `Device`, and nobody else compares names of devices. One is made
without its card too: `CudaCard("cuda:0", "RTX", (8, 9), bfloat16=True)` plans as the card would. A new kind
of device is a class here and its entry in `KINDS`.
"""

from dataclasses import dataclass
from typing import ClassVar

from pyramid.settings import SettingsError

MAIN = "cpu"  # where weights wait that are not on a card
FIRST_WITH_BFLOAT16 = (8, 0)  # capability of CUDA cards: Ampere
FIRST_THAT_EMULATES_IT = (7, 5)  # Turing, whose kernels compute in float32


@dataclass(frozen=True)
class Device:
    """A place to compute, `name`d as torch names it: "cuda:1". The others are facts that only it knows.

    is_card: weights have to come to it from main memory. waits: work goes on after a call has returned, so
    that a clock has to `synchronize`. streams: weights may come while it computes, from pinned memory.
    bitsandbytes, packs: whether it takes a transformer in 8 and 4 bit, and whether it takes narrowed weights
    of any kind. attention_in_training: a backend of diffusers that is better there than the one it takes by
    itself. process_group: how its processes talk; even: whether that gathers parts of one size only.
    probe_side, peak_side: of a matrix product that it shows its speed in, at once or at its best.
    """

    name: str
    label: str = ""  # for people
    capability: tuple[int, int] | None = None  # of a CUDA card
    bfloat16: bool = False  # at full speed

    is_card: ClassVar[bool] = True
    waits: ClassVar[bool] = True
    streams: ClassVar[bool] = False
    bitsandbytes: ClassVar[bool] = False
    packs: ClassVar[bool] = False
    attention_in_training: ClassVar[str | None] = None
    process_group: ClassVar[str | None] = None
    even: ClassVar[bool] = False
    probe_side: ClassVar[int] = 4096  # it takes longer to be asked than for a small one
    peak_side: ClassVar[int] = 1024

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    @property
    def module(self):
        """torch's module of this kind: `torch.cuda` and the like."""
        import torch

        return torch.get_device_module(self.kind)

    # -- dtypes
    def best_dtype(self) -> str:
        """The narrowest that it computes in at full speed and that does not overflow; else float32."""
        return "bfloat16" if self.bfloat16 else "float32"

    def computes_in(self, dtype: str) -> bool:
        """Whether anything is gained by that dtype here."""
        return True

    def makes_up(self, dtype: str) -> bool:
        """Whether it computes in that dtype by way of another, which takes many times as long."""
        return False

    def text_dtype(self, dtype: str) -> str:
        """What T5 computes in beside a transformer in `dtype`: it overflows in float16."""
        return "float32" if dtype == "float16" else dtype

    # -- waiting
    def synchronize(self) -> None:
        """Wait until all that was asked of it is done."""
        self.module.synchronize()

    def make_current(self) -> None:
        """Take it for all that names a kind of device and no number."""
        self.module.set_device(self.name)

    def threads(self):
        """Those of a run: `pyramid.memory.threads.Threads`, which follow the load where they do the work."""
        from pyramid.memory.threads import Threads

        return Threads(adapts=not self.is_card)

    # -- memory, in bytes
    def memory(self, main: tuple[int, int]) -> tuple[int, int]:
        """What may be used, with what this process holds, and all there is. `main`: main memory's."""
        return main

    def allocated(self) -> int:
        """In use by tensors of this process; 0 where nobody counts it."""
        return self.module.memory_allocated(self.name)

    def peak_allocated(self) -> int:
        """The most that tensors have taken; 0 where nobody counts it."""
        return self.module.max_memory_allocated(self.name)

    def peak_reserved(self) -> int:
        """The most that the allocator has taken for them; 0 where nobody counts it."""
        return self.module.max_memory_reserved(self.name)

    def reset_peak(self) -> None:
        self.module.reset_peak_memory_stats(self.name)

    def empty_cache(self) -> None:
        """Give memory that no tensor uses back to the system."""
        self.module.empty_cache()

    # -- finding
    @classmethod
    def count(cls) -> int:
        """How many of these this torch can use."""
        return 0

    @classmethod
    def here(cls, name: str) -> "Device":
        """That of this machine, with its facts. Raises SettingsError for one that torch cannot use."""
        if not cls.count():
            raise _missing(name, f"{name} device")
        return cls(name, name, bfloat16=True)


class Processor(Device):
    """Main memory, and no waiting. Without a name of its own it is the machine's processor."""

    is_card = False
    waits = False
    packs = True
    attention_in_training = "_native_math"  # at a few hundred tokens the plain product's backward is faster
    process_group = "gloo"
    even = True
    probe_side = 1024

    def computes_in(self, dtype: str) -> bool:
        return dtype != "float16"  # slower than float32, and no smaller than bfloat16

    def makes_up(self, dtype: str) -> bool:
        return dtype == "bfloat16" and not processor_has_bfloat16()

    def synchronize(self) -> None:
        pass

    def make_current(self) -> None:
        pass

    def allocated(self) -> int:
        return 0

    def peak_allocated(self) -> int:
        return 0

    def peak_reserved(self) -> int:
        return 0

    def reset_peak(self) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    @classmethod
    def count(cls) -> int:
        return 1

    @classmethod
    def here(cls, name: str) -> "Processor":
        """bfloat16: whether it is as fast in it, which is measured once on a machine."""
        from pyramid.memory.fastest import prefers_bfloat16

        return cls(MAIN, "processor", bfloat16=prefers_bfloat16(processor_has_bfloat16()))


class CudaCard(Device):
    """NVIDIA's cards, and AMD's under ROCm."""

    streams = True
    bitsandbytes = True
    packs = True
    process_group = "nccl"
    peak_side = 8192

    @property
    def index(self) -> int:
        return int(self.name.partition(":")[2] or 0)

    def best_dtype(self) -> str:
        """float16 on an older card, which has no bfloat16: every step has to be guarded then."""
        return "float16" if self.capability and not self.bfloat16 else super().best_dtype()

    def text_dtype(self, dtype: str) -> str:
        """One prompt in a bfloat16 that a card from Turing on emulates costs little."""
        emulated = self.capability is not None and self.capability >= FIRST_THAT_EMULATES_IT
        return "bfloat16" if dtype == "float16" and emulated else super().text_dtype(dtype)

    def synchronize(self) -> None:
        self.module.synchronize(self.name)

    def memory(self, main: tuple[int, int]) -> tuple[int, int]:
        free, total = self.module.mem_get_info(self.name)
        return free + self.module.memory_reserved(self.name), total

    @classmethod
    def count(cls) -> int:
        import torch

        return torch.cuda.device_count() if torch.cuda.is_available() else 0

    @classmethod
    def asked(cls, index: int = 0) -> "CudaCard":
        """The facts of a card that is there, whether or not torch has kernels for it."""
        import torch

        capability = torch.cuda.get_device_capability(index)
        label = torch.cuda.get_device_name(index)
        return cls(f"cuda:{index}", label, capability, bfloat16=capability >= FIRST_WITH_BFLOAT16)

    @staticmethod
    def built_for() -> list[str]:
        """What this torch has kernels for, as `runs_on` reads it."""
        import torch

        return torch.cuda.get_arch_list()

    @classmethod
    def here(cls, name: str) -> "CudaCard":
        index = cls(name).index
        if cls.count() and index >= cls.count():
            raise SettingsError("device", f"device = {name!r}: there are {cls.count()} cards, counted from 0")
        found = cls.asked(index) if cls.count() else None
        if found is None or found.capability is None or not runs_on(found.capability, cls.built_for()):
            raise _missing(name, "CUDA card")
        return found


class AppleGraphics(Device):
    """Apple's, which compute in main memory. Torch counts what they take now, and no peaks."""

    def allocated(self) -> int:
        return self.module.current_allocated_memory()

    def peak_allocated(self) -> int:
        return 0

    def peak_reserved(self) -> int:
        return self.module.driver_allocated_memory()  # what it keeps, it keeps

    def reset_peak(self) -> None:
        pass

    @classmethod
    def count(cls) -> int:
        import torch

        return int(torch.backends.mps.is_available())


class IntelCard(Device):
    """Intel's, which torch calls xpu."""

    @classmethod
    def count(cls) -> int:
        import torch

        return torch.xpu.device_count() if torch.xpu.is_available() else 0


KINDS: dict[str, type[Device]] = {
    MAIN: Processor,
    "cuda": CudaCard,
    "mps": AppleGraphics,
    "xpu": IntelCard,
}


def device_of(where) -> Device:
    """A device by its name, or a torch.device, as the kind that it is of: its own facts are left open.

    Names of no kind, such as "meta", are like a card without memory.
    """
    name = str(where)
    return KINDS.get(name.partition(":")[0], Nowhere)(name)


def find_device(name: str = "auto") -> Device:
    """That device of this machine, with its facts. "auto": the first CUDA card that torch has kernels for,
    else the processor. Raises SettingsError for one that torch cannot use.
    """
    if name != "auto":
        return type(device_of(name)).here(name)
    try:
        return CudaCard.here("cuda:0")
    except SettingsError:
        return Processor.here(MAIN)


def cards() -> list[Device]:
    """All cards that this torch can use."""
    kinds = {name: kind for name, kind in KINDS.items() if kind.is_card}
    return [kind(f"{name}:{index}") for name, kind in kinds.items() for index in range(kind.count())]


def empty_caches() -> None:
    """Give back what no tensor of this process uses, on all cards."""
    for card in {card.kind: card for card in cards()}.values():
        card.empty_cache()


def check_there(where) -> None:
    """Raises ValueError for a card by a number that torch does not see."""
    device = device_of(where)
    index = int(device.name.partition(":")[2] or 0)
    if device.is_card and device.kind in KINDS and index >= device.count():
        raise ValueError(f"there is no such device as {device.name}: this torch sees {device.count()} cards")


class Nowhere(Processor):
    """A device that holds shapes and no numbers: like a card for whoever places models, with no memory."""

    is_card = True
    waits = False


def _missing(name: str, kind: str) -> SettingsError:
    return SettingsError(
        "device",
        f"device = {name!r}: there is no {kind} that this torch can use; use "
        "auto or cpu (python -m pyramid doctor says why)",
    )


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


def processor_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 by itself, by AVX512_BF16 or AMX.

    torch says so in public since `torch.cpu.get_capabilities`; older ones (2.8 is the oldest that runs this)
    have private queries only, of which this is the one use.
    """
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        return bool(known.get("avx512_bf16") or known.get("amx_tile"))
    return processor_has_bfloat16_privately()


def processor_has_bfloat16_privately() -> bool:
    import torch

    queries = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in queries)
