"""Which dtype a processor is faster in: measured once, kept, and believed only where it is clear."""

import json

import pytest

from pyramid.memory import device, fastest
from pyramid.memory.device import Processor, find_device


@pytest.fixture(autouse=True)
def forgotten(monkeypatch, tmp_path):
    monkeypatch.setenv("PYRAMID_CACHE", str(tmp_path))
    fastest.prefers_bfloat16.cache_clear()
    yield
    fastest.prefers_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("has", "float32", "bfloat16", "prefers"),
    [
        (True, 2.0, 1.0, True),
        (True, 1.0, 1.1, True),  # chance
        (True, 1.0, 9.0, False),  # the processor has it, a library does not use it
        (False, 1.0, 60.0, False),  # made up
        (False, 1.1, 1.0, False),
        (False, 2.0, 1.0, True),
    ],
)
def test_what_a_processor_says_is_believed_unless_it_is_clearly_wrong(
    monkeypatch, has, float32, bfloat16, prefers
):
    monkeypatch.setattr(device, "processor_has_bfloat16", lambda: has)
    monkeypatch.setattr(fastest, "measure", lambda: {"float32": float32, "bfloat16": bfloat16})
    assert fastest.prefers_bfloat16(has) is prefers
    assert find_device("cpu") == Processor("cpu", "processor", bfloat16=prefers)


def test_it_is_measured_once_for_a_processor_and_its_instructions(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(fastest, "measure", lambda: asked.append(1) or {"float32": 2.0, "bfloat16": 1.0})
    for _ in range(2):
        assert fastest.layer_seconds() == {"float32": 2.0, "bfloat16": 1.0}
    assert len(asked) == 1
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    fastest.layer_seconds()
    assert len(asked) == 2 and len(json.loads((tmp_path / "processor.json").read_text())) == 2


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"%s": {"float32": "fast"}}', "[" * 5000])
def test_a_damaged_cache_is_measured_anew(monkeypatch, tmp_path, damage):
    (tmp_path / "processor.json").write_text(damage.replace("%s", fastest.key()))
    monkeypatch.setattr(fastest, "measure", lambda: {"float32": 2.0, "bfloat16": 1.0})
    assert fastest.layer_seconds()["float32"] == 2.0


def test_where_nothing_can_be_kept_it_is_measured_all_the_same(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PYRAMID_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(fastest, "BUDGET", 0.001)
    assert set(fastest.layer_seconds()) == set(fastest.DTYPES)
    assert all(0 < seconds < 60 for seconds in fastest.layer_seconds().values())
