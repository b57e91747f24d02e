"""Devices, most of them without their card: what they plan with, and that nobody else asks torch for them."""

import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch

from pyramid.memory import device as module
from pyramid.memory.device import (
    KINDS,
    CudaCard,
    IntelCard,
    Processor,
    cards,
    check_there,
    device_of,
    empty_caches,
    find_device,
    processor_has_bfloat16,
    processor_has_bfloat16_privately,
)
from pyramid.memory.loading import matmul_rate, place_model
from pyramid.memory.machine import Machine
from pyramid.memory.placement import Part, Placement
from pyramid.memory.plan import Plan
from pyramid.settings import SettingsError

OLD, TURING, AMPERE = (7, 0), (7, 5), (8, 6)


def card(capability):
    return CudaCard("cuda:0", "a made-up card", capability, bfloat16=capability >= (8, 0))


@pytest.mark.parametrize(
    ("place", "best", "text"),
    [
        (card(OLD), "float16", "float32"),
        (card(TURING), "float16", "bfloat16"),
        (card(AMPERE), "bfloat16", "bfloat16"),
        (CudaCard("cuda:0"), "float32", "float32"),
        (IntelCard("xpu", bfloat16=True), "bfloat16", "bfloat16"),
        (Processor("cpu"), "float32", "float32"),
        (Processor("cpu", bfloat16=True), "bfloat16", "bfloat16"),
    ],
)
def test_the_best_dtype_and_that_of_the_text_beside_it(place, best, text):
    assert place.best_dtype() == best and place.text_dtype(best) == text


def test_a_device_is_known_by_its_name():
    assert [type(device_of(name)) for name in KINDS] == list(KINDS.values())
    assert device_of(torch.device("cuda", 1)).index == 1 and device_of("cuda").kind == "cuda"
    assert device_of("meta").is_card and not device_of("meta").waits


def test_what_kinds_differ_in():
    told = {name: (kind.is_card, kind.streams, kind.bitsandbytes, kind.packs) for name, kind in KINDS.items()}
    assert told == {
        "cpu": (False, False, False, True),
        "cuda": (True, True, True, True),
        "mps": (True, False, False, False),
        "xpu": (True, False, False, False),
    }
    assert not Processor("cpu").computes_in("float16") and card(OLD).computes_in("float16")


@pytest.mark.parametrize("name", ["cpu", "meta"])
def test_where_nothing_waits_and_nothing_is_counted(name):
    place = device_of(name)
    for step in (place.synchronize, place.empty_cache, place.reset_peak, place.make_current):
        step()
    assert place.allocated() == place.peak_allocated() == place.peak_reserved() == 0
    assert place.memory((3, 4)) == (3, 4)


def test_a_kind_of_card_that_is_there(monkeypatch):
    """A card of a made-up torch: what is asked of it, and in which words it is refused."""
    asked = []

    class Fake:
        def __getattr__(self, name):
            return lambda *arguments: asked.append(name) or {"mem_get_info": (5, 9)}.get(name, 2)

    monkeypatch.setattr(CudaCard, "module", Fake())
    monkeypatch.setattr(CudaCard, "count", classmethod(lambda cls: 2))
    monkeypatch.setattr(CudaCard, "asked", classmethod(lambda cls, index=0: card(AMPERE)))
    monkeypatch.setattr(CudaCard, "built_for", staticmethod(lambda: ["sm_80"]))
    assert find_device("auto") == find_device("cuda:1") == card(AMPERE)
    machine = Machine.here("auto")
    assert machine.place == card(AMPERE) and (machine.free_vram, machine.total_vram) == (7, 9)
    assert machine.without_card().place.kind == "cpu"
    assert [place.name for place in cards()] == ["cuda:0", "cuda:1"]
    empty_caches()
    assert asked.count("empty_cache") == 1
    with pytest.raises(SettingsError, match="there are 2 cards"):
        find_device("cuda:2")
    with pytest.raises(ValueError, match="this torch sees 2 cards"):
        check_there("cuda:2")
    monkeypatch.setattr(CudaCard, "built_for", staticmethod(lambda: ["sm_90"]))
    assert find_device("auto").kind == "cpu"
    with pytest.raises(SettingsError, match="no CUDA card that this torch can use"):
        find_device("cuda")


@pytest.mark.parametrize("name", ["mps", "xpu"])
def test_a_device_that_is_not_there_is_refused(name, monkeypatch):
    monkeypatch.setattr(KINDS[name], "count", classmethod(lambda cls: 0))
    with pytest.raises(SettingsError, match=f"there is no {name} device"):
        find_device(name)
    monkeypatch.setattr(KINDS[name], "count", classmethod(lambda cls: 1))
    found = find_device(name)
    assert found.bfloat16 and found.memory((3, 4)) == (3, 4)


def test_a_part_goes_where_it_is_told_without_the_card():
    layer = torch.nn.Linear(4, 4)
    place_model(layer, Part("meta", "float32"))
    assert layer.weight.device.type == "meta"


def test_a_products_speed_is_measured_here():
    assert matmul_rate("cpu", "float32") > 1e8


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="this torch has private queries only")
def test_the_public_way_says_the_same_of_the_processor_as_the_private_one():
    assert processor_has_bfloat16() == processor_has_bfloat16_privately()


@pytest.mark.parametrize("has", [True, False])
def test_a_processor_without_bfloat16_makes_it_up(has, monkeypatch):
    monkeypatch.setattr(module, "processor_has_bfloat16", lambda: has)
    asked = [
        device_of(name).makes_up(dtype) for name in ("cpu", "cuda:0") for dtype in ("bfloat16", "float32")
    ]
    assert asked == [not has, False, False, False]


def test_without_the_public_way_the_private_one_is_asked(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(module, "processor_has_bfloat16_privately", lambda: "asked")
    assert processor_has_bfloat16() == "asked"


def test_nobody_else_compares_names_of_devices_or_asks_torch_for_a_card():
    root = Path(module.__file__).parents[1]
    names = r'(\.type|device|kind) *[!=]= *"(cpu|cuda|mps|xpu)"|startswith\(\(?"(cuda|mps|xpu)'
    asks = r"torch\.(cuda|mps|xpu|backends\.mps)\.|torch\.cpu\._"
    kernels = [root / "models" / name for name in ("layers.py", "way_back.py")]  # below all rooms
    found = [
        f"{path.relative_to(root)}: {line.strip()}"
        for path in root.rglob("*.py")
        if path not in (Path(module.__file__), *kernels)
        for line in path.read_text().splitlines()
        if re.search(names, line) or re.search(asks, line)
    ]
    assert found == []


def test_devices_load_no_torch():
    code = "import sys, pyramid.memory.device; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_placement_is_replaced_and_tells_what_was_given_up():
    plan = Plan(*[Part("cpu", "float32")] * 3, name="cpu")
    placement = plan.told("tiles").told("guidance")
    assert placement.changes == ("tiles", "guidance") and placement.name == "cpu" and plan.changes == ()
    with pytest.raises(FrozenInstanceError):
        placement.split_guidance = True
    there = replace(Placement(), text=Part("cuda:1"), vae=Part("cuda:1"))
    assert (there.text_device, there.vae_device, Placement().vae_device) == ("cuda:1", "cuda:1", None)
