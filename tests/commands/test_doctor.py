"""The doctor: what it says of cards that are not here, and of this machine."""

import json

import pytest

from pyramid.commands import cli, doctor
from pyramid.commands.doctor import AMBER, GREEN, RED, disk, models, with_cuda, without_cuda, writable

BUILT = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
CARD = {"driver": "580.10", "name": "a made-up card", "capability": "8.9"}


@pytest.mark.parametrize(
    "capability, built, state, says",
    [
        ((8, 0), BUILT, GREEN, "bfloat16"),
        ((8, 9), BUILT, GREEN, "bfloat16"),  # kernels for 8.6 run on 8.9
        ((7, 5), BUILT, AMBER, "float16"),
        ((6, 1), BUILT, RED, "older than"),
        ((15, 0), BUILT, RED, "newer torch"),
        ((15, 0), [*BUILT, "compute_120"], GREEN, "bfloat16"),  # portable code is compiled when it starts
    ],
)
def test_cards_and_what_torch_is_built_for(capability, built, state, says):
    finding = with_cuda("a made-up card", capability, built, "580.10")
    assert finding.state == state and says in finding.found + finding.advice


def test_a_card_with_a_torch_for_processors_gets_the_command_that_mends_it():
    finding = without_cuda(CARD, None, mps=False)
    assert finding.state == RED and "launch.py setup" in finding.advice  # which alone knows the builds


def test_a_card_whose_driver_is_too_old():
    finding = without_cuda(CARD, "12.8", mps=False)
    assert finding.state == RED and "580.10" in finding.found and "driver" in finding.advice


def test_no_card_is_no_error():
    assert without_cuda(None, None, mps=False).state == AMBER
    assert "mps" in without_cuda(None, None, mps=True).advice


def test_folders(tmp_path):
    assert writable(tmp_path / "not" / "yet").state == GREEN
    (tmp_path / "file").write_text("")
    assert writable(tmp_path / "file" / "under").state == RED
    assert disk(tmp_path).found.count("GB free") == 2


def test_the_embedded_model_is_here():
    assert {finding.name: finding.state for finding in models()}["embedded"] == GREEN


def test_this_machine(capsys, tmp_path):
    code = cli.main(["doctor", "--json", "--output", str(tmp_path)])
    findings = json.loads(capsys.readouterr().out)
    assert {"software", "device", "main memory", "plan", "disk", "ffmpeg", "embedded"} <= {
        f["name"] for f in findings
    }
    assert code == int(any(finding["state"] == RED for finding in findings))
    assert all(
        finding["advice"] for finding in findings if finding["state"] == RED and finding["name"] != "plan"
    )


def test_the_driver_says_what_the_card_is_or_is_not_understood(monkeypatch):
    found = doctor.driver_of("580.82.07, NVIDIA A100, 80 GB, 8.0\n580.82.07, NVIDIA T4, 7.5\n")
    assert found == {"driver": "580.82.07", "name": "NVIDIA A100, 80 GB", "capability": "8.0"}
    for odd in ("Unable to determine the device handle", "580.82, name", "x, name, 8.0"):
        with pytest.raises(ValueError, match="nvidia-smi says"):
            doctor.driver_of(odd)
    monkeypatch.setattr(doctor, "nvidia_driver", lambda: doctor.driver_of("what?"))
    assert doctor.nvidia_card().state == AMBER and "what?" in doctor.nvidia_card().found
