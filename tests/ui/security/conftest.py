"""Two started servers for the whole attack suite: one that everybody may use, and one with accounts."""

import pytest
from helpers import program
from security_helpers import GUARDED, Server


@pytest.fixture(scope="session")
def public(tiny_checkpoint, tmp_path_factory):
    """A page that everybody may use."""
    folder = tmp_path_factory.mktemp("public")
    flags = ["--public", "--max-upload-mb", "20", "--max-uploads-mb", "60", "--max-queue-total", "12"]
    flags += ["--max-queue-address", "6", "--max-requests", "900"]
    with program(
        folder, *GUARDED, *flags, "--model", str(tiny_checkpoint), GRADIO_TEMP_DIR=str(folder / "up")
    ) as (process, url, _):
        yield Server(process, url.replace("0.0.0.0", "127.0.0.1"), folder / "outputs", folder / "up")


@pytest.fixture(scope="session")
def members(tiny_checkpoint, tmp_path_factory):
    """A page with accounts: ana and eve."""
    folder = tmp_path_factory.mktemp("members")
    (folder / "accounts.txt").write_text("ana:a river\neve:a stone\n")
    flags = ["--auth-file", str(folder / "accounts.txt"), "--model", str(tiny_checkpoint)]
    with program(folder, *GUARDED, *flags, GRADIO_TEMP_DIR=str(folder / "up")) as (process, url, _):
        yield Server(process, url.replace("0.0.0.0", "127.0.0.1"), folder / "outputs", folder / "up")
