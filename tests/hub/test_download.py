"""Downloads, against a server in the Hub's form that breaks off, sends damage, and knows no ranges."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub, serving
from huggingface_hub import constants

from pyramid.hub import download as module
from pyramid.hub import proxies
from pyramid.hub.checkpoints import CheckpointError, find, verify
from pyramid.hub.download import (
    Cancelled,
    Download,
    check_space,
    download,
    family_in,
    look_up,
    needed_files,
    size_text,
)
from pyramid.hub.families import FAMILIES, RELEASES

WEIGHTS = "diffusion_transformer_128p/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tiny_checkpoint, tmp_path, monkeypatch):
    """The server, with the Hub's client set to it and to an empty cache."""
    server = Hub(tiny_checkpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(module, "PAUSE", 0.01)
    with serving(server):
        yield server


def get() -> Download:
    job = Download(look_up("someone/tiny", "128p"))
    job.run()
    return job


def test_what_is_needed_comes_whole_and_is_found(hub, tiny_checkpoint):
    listing = look_up("someone/tiny", "128p")
    assert (listing.commit, listing.licence) == (
        COMMIT,
        "apache-2.0",
    ) and listing.missing == listing.total > 500_000
    job = get()
    assert job.done == job.total == job.received == listing.total and listing.missing == 0
    checkpoint = find("someone/tiny", "128p")
    verify(checkpoint)
    assert checkpoint.folder.name == COMMIT and checkpoint.licence == "Apache-2.0"
    for file in listing.files:
        assert (checkpoint.folder / file.path).read_bytes() == (tiny_checkpoint / file.path).read_bytes()
    assert sorted(hub.asked) == sorted((file.path, 0) for file in listing.distinct)
    hub.asked.clear()
    assert get().received == 0 and not hub.asked, "what is here and right comes no second time"


def test_a_broken_connection_goes_on_where_it_broke(hub):
    hub.breaks[WEIGHTS] = 2
    job = get()
    size = find("someone/tiny").folder.joinpath(WEIGHTS).stat().st_size
    half = size // 2
    assert [start for path, start in hub.asked if path == WEIGHTS] == [0, half, half + (size - half) // 2]
    assert job.received == job.total, "no byte came twice"


def test_a_download_that_was_cancelled_goes_on_in_the_next_one(hub):
    hub.go_on.clear()
    job, outcome = Download(look_up("someone/tiny", "128p")), []

    def run():
        try:
            job.run()
        except Cancelled:
            outcome.append("cancelled")

    thread = threading.Thread(target=run)
    thread.start()
    assert hub.half.wait(60)
    job.stop.set()
    hub.go_on.set()
    thread.join(60)
    assert outcome == ["cancelled"] and job.listing.missing > 0
    with pytest.raises(CheckpointError, match="not on this machine|cannot be used|is missing"):
        verify(find("someone/tiny"))
    kept = job.listing.total - job.listing.missing
    assert get().received == job.total - kept


def test_without_ranges_a_broken_file_comes_again_as_a_whole(hub):
    hub.ranges, hub.breaks[WEIGHTS] = False, 1
    job = get()
    assert [start for path, start in hub.asked if path == WEIGHTS] == [0, 0]
    assert job.done == job.total < job.received
    verify(find("someone/tiny"))


def test_damage_on_the_way_is_told_by_the_hash_and_fetched_again(hub):
    hub.damaged[WEIGHTS] = 1
    get()
    assert len([path for path, _ in hub.asked if path == WEIGHTS]) == 2
    verify(find("someone/tiny"))
    hub.damaged["causal_video_vae/config.json"] = 2
    find("someone/tiny").folder.joinpath("causal_video_vae/config.json").resolve().unlink()
    with pytest.raises(CheckpointError, match=r"causal_video_vae/config.json of someone/tiny arrived twice"):
        get()


def test_damage_on_the_disk_is_told_by_the_hash_and_fetched_again(hub):
    get()
    path = find("someone/tiny").folder / WEIGHTS
    whole = path.read_bytes()
    path.resolve().write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    verify(find("someone/tiny"))  # its header and size are right: only the hash tells
    hub.asked.clear()
    get()
    assert hub.asked == [(WEIGHTS, 0)] and path.read_bytes() == whole


def test_a_damaged_part_is_not_built_upon(hub):
    listing = look_up("someone/tiny", "128p")
    file = next(file for file in listing.files if file.path == WEIGHTS)
    listing.part(file).parent.mkdir(parents=True)
    listing.part(file).write_bytes(b"\0" * 1000)
    get()
    assert [start for path, start in hub.asked if path == WEIGHTS] == [1000, 0]
    verify(find("someone/tiny"))


def test_where_links_are_not_allowed_the_files_lie_in_the_snapshot(hub, monkeypatch):
    def refused(*args, **options):
        raise OSError("no privilege")

    monkeypatch.setattr(Path, "symlink_to", refused)
    get()
    folder = find("someone/tiny").folder
    assert not folder.joinpath(WEIGHTS).is_symlink() and folder.joinpath(WEIGHTS).is_file()
    hub.asked.clear()
    assert get().received == 0 and not hub.asked


def test_a_server_that_is_down_or_sends_nothing_is_given_up(hub, monkeypatch):
    monkeypatch.setattr(module, "RETRIES", 1)
    listing = look_up("someone/tiny", "128p")
    hub.refuse = 503
    with pytest.raises(
        CheckpointError, match="someone/tiny could not be downloaded: .*503.*goes on where it stopped"
    ):
        Download(listing).run()


@pytest.mark.parametrize(("status", "says"), [(404, "no such repository"), (401, "hf auth login")])
def test_what_the_hub_refuses_says_the_way_out(hub, status, says):
    hub.refuse = status
    with pytest.raises(CheckpointError, match=says):
        look_up("someone/tiny", "128p")


def test_files_that_could_not_be_checked_are_not_fetched(hub):
    hub.hashes = False
    with pytest.raises(CheckpointError, match="states no size and hash"):
        look_up("someone/tiny", "128p")


def test_a_variant_that_is_not_there_is_told_before_anything_comes(hub):
    with pytest.raises(CheckpointError, match="no diffusion_transformer_768p; it has the variants 128p"):
        look_up("someone/tiny", "768p")
    assert not hub.asked


def test_two_programs_do_not_write_the_same_files(hub):
    from huggingface_hub.utils import WeakFileLock

    listing = look_up("someone/tiny", "128p")
    listing.storage.mkdir(parents=True)
    with (
        WeakFileLock(listing.storage / "pyramid.lock"),
        pytest.raises(CheckpointError, match="another program"),
    ):
        Download(listing).run()


def test_the_command_downloads_and_prints_the_folder(hub, tmp_path):
    command = [sys.executable, "-m", "pyramid", "download", "someone/tiny", "--variant", "128p"]
    environment = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.is_dir() and folder.is_relative_to(tmp_path / "home")
    assert "someone/tiny, variant 128p: " in done.stderr and "Traceback" not in done.stderr


LISTING = [
    ".gitattributes",
    "README.md",
    "teaser.gif",
    "causal_video_vae/config.json",
    "causal_video_vae/diffusion_pytorch_model.bin",
    "diffusion_transformer_384p/config.json",
    "diffusion_transformer_384p/diffusion_pytorch_model.safetensors",
    "diffusion_transformer_384p/diffusion_pytorch_model.bin",
    "diffusion_transformer_384p/diffusion_pytorch_model.fp16.safetensors",
    "diffusion_transformer_768p/config.json",
    "diffusion_transformer_768p/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
    "text_encoder_2/config.json",
    "text_encoder_2/model.safetensors.index.json",
    "text_encoder_2/model-00001-of-00002.safetensors",
    "text_encoder_2/model-00002-of-00002.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer_2/spiece.model",
    "tokenizer_2/tokenizer.json",
]


def test_only_what_a_variant_needs_is_downloaded():
    needed = needed_files(LISTING, FAMILIES["miniflux"], "384p")
    unwanted = {".gitattributes", "teaser.gif", "text_encoder/pytorch_model.bin"}
    unwanted |= {path for path in LISTING if "768p" in path or "fp16" in path}
    unwanted |= {"diffusion_transformer_384p/diffusion_pytorch_model.bin"}
    assert set(needed) == set(LISTING) - unwanted and len(needed) == len(set(needed))
    with pytest.raises(
        CheckpointError, match="no diffusion_transformer_image; it has the variants 384p, 768p"
    ):
        needed_files(LISTING, FAMILIES["miniflux"], "image")
    with pytest.raises(CheckpointError, match="no text_encoder_3"):
        needed_files(LISTING, FAMILIES["sd3"], "384p")


def test_a_variant_with_an_autoencoder_of_its_own_needs_no_other():
    own = "causal_video_vae_384p/config.json"
    needed = needed_files([*LISTING, own], FAMILIES["miniflux"], "384p")
    assert own in needed and not any(path.startswith("causal_video_vae/") for path in needed)
    assert own not in needed_files([*LISTING, own], FAMILIES["miniflux"], "768p")


def test_a_download_without_a_connection_says_so(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        download("miniflux", "384p")
    with pytest.raises(CheckpointError, match="nothing to download"):
        download("not a name")


def test_a_full_disk_is_told_before_the_download(tmp_path):
    check_space(tmp_path / "not" / "yet" / "there", 1000)
    check_space(tmp_path, 0)
    with pytest.raises(CheckpointError, match="make room"):
        check_space(tmp_path, 10**18)


def test_sizes_read_well():
    assert [size_text(n) for n in (830_000, 2_500_000, 9_500_000_000, 25 * 10**9)] == [
        "830 kB",
        "2.5 MB",
        "9.5 GB",
        "25 GB",
    ]


def test_the_published_models_have_their_variants():
    assert RELEASES["miniflux"].variants == ("384p", "768p", "image")
    assert RELEASES["sd3"].variants == ("384p", "768p")
    assert all(release.family in FAMILIES and "/" in release.repository for release in RELEASES.values())


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_a_repositorys_family_follows_from_its_text_encoders(family):
    assert family_in(f"{part.folder}/config.json" for part in family.text) is family


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HTTPS_PROXY", "::", "no address of a proxy"),
        ("https_proxy", "x://y", "neither http, https nor socks5"),
        ("ALL_PROXY", "socks5://ana:secret@127.0.0.1:9", "needs the package socksio"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_told_by_its_name(monkeypatch, name, value, words):
    for each in [each for each in os.environ if each.lower() in proxies.NAMES]:
        monkeypatch.delenv(each)
    assert proxies.unusable() == []
    monkeypatch.setenv("HTTP_PROXY", "10.0.0.5:8080")
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(proxies.importlib.util, "find_spec", lambda _: None)
    with (
        pytest.raises(CheckpointError, match=f"{name} cannot be used: .*{words}") as caught,
        module.told("a/b"),
    ):
        pass
    assert "secret" not in str(caught.value)
