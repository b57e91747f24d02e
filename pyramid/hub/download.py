"""Fetching a published model: only what a variant needs, resumed where it stopped,
every file checked by its hash.

    python -m pyramid download miniflux --variant 384p

    listing = look_up("miniflux", "384p")  # asks the Hub: files, sizes, hashes; nothing is written
    job = Download(listing)  # in any thread; others read job.done, job.total, job.now
    checkpoint = job.run()                             # CheckpointError; Cancelled after job.stop.set()

Files go into the Hub's cache in the Hub's own layout (`blobs/<hash>`, `snapshots/<commit>/<path>`,
`refs/main`), so that every program that uses the Hub finds them, and two variants share what is the same. The
Hub's client starts a file anew when a program ends half-way; here the bytes that came stay in
`blobs/<hash>.part`, and the next run asks for the rest. HF_HOME, HF_ENDPOINT, HF_TOKEN and the proxies of the
environment hold as they do for the Hub's client.
"""

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyramid.disk import nearest, whole
from pyramid.hub.checkpoints import (
    PREFIX,
    Checkpoint,
    CheckpointError,
    find,
    looks_like_repository,
    release_of,
    vae_folder,
    verify,
)
from pyramid.hub.families import FAMILIES, RELEASES, Family
from pyramid.hub.proxies import unusable

CHUNK = 1 << 20  # bytes read and written at a time
PATIENCE = 60  # seconds without a byte before a connection counts as broken
RETRIES = 5  # broken connections in a row, none of which brought a byte, before giving up
PAUSE = 1.0  # seconds before the first of them; doubled each time
SPARE = 200 * 10**6  # bytes that have to stay free on the disk


class Cancelled(Exception):
    """A download was stopped by who asked for it; what came is kept for the next one."""


# -- what is needed


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. `digest`: SHA-256 of a large file (64 digits),
    Git's SHA-1 of a small one (40).
    """

    path: str
    size: int
    digest: str

    def hasher(self):
        """A hash object that has to arrive at `digest` when it is fed the whole file."""
        if len(self.digest) == 64:
            return hashlib.sha256()
        # Git hashes a file's content after these words.
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)


@dataclass(frozen=True)
class Listing:
    """What a variant needs of a repository at one commit, and what of it is here."""

    model: str
    repository: str
    variant: str
    commit: str
    licence: str  # as the repository's card states it; may be empty
    files: tuple[RemoteFile, ...]
    storage: Path  # the repository's folder in the Hub's cache

    @property
    def total(self) -> int:  # bytes
        return sum(file.size for file in self.distinct)

    @property
    def distinct(self) -> tuple[RemoteFile, ...]:
        """The files without those of the same content, which are stored once."""
        return tuple({file.digest: file for file in self.files}.values())

    @property
    def missing(self) -> int:  # bytes that have yet to come; by size only: `Download` checks the hashes
        return sum(file.size - min(file.size, self.here(file)) for file in self.distinct)

    def blob(self, file: RemoteFile) -> Path:
        return self.storage / "blobs" / file.digest

    def part(self, file: RemoteFile) -> Path:
        return self.storage / "blobs" / f"{file.digest}.part"

    def link(self, file: RemoteFile) -> Path:
        return self.storage / "snapshots" / self.commit / file.path

    def held(self, file: RemoteFile) -> Path | None:
        """The whole file on this machine; where links are not allowed (Windows) it lies in the snapshot
        itself.
        """
        return next((path for path in (self.blob(file), self.link(file)) if path.is_file()), None)

    def here(self, file: RemoteFile) -> int:
        """Bytes of a file on this machine, whole or in part."""
        path = self.held(file) or self.part(file)
        return path.stat().st_size if path.is_file() else 0


def needed_files(files: Iterable[str], family: Family, variant: str) -> list[str]:
    """Those of a repository's files that a variant needs; safetensors rather than .bin where both are there.

    Raises CheckpointError when the repository lacks a folder.
    """
    files = sorted(files)
    folders = [
        vae_folder(variant, lambda name: any(path.startswith(name + "/") for path in files)),
        PREFIX + variant,
        *(name for encoder in family.text for name in (encoder.folder, encoder.tokenizer)),
    ]
    chosen = []
    for folder in folders:
        inside = [path for path in files if path.startswith(folder + "/") and path.count("/") == 1]
        if not inside:
            there = sorted({path.split("/")[0][len(PREFIX) :] for path in files if path.startswith(PREFIX)})
            raise CheckpointError(f"the repository has no {folder}; it has the variants {', '.join(there)}")
        # `model.fp16.safetensors` and the like are second copies in another precision.
        inside = [path for path in inside if not {"fp16", "bf16", "non_ema"} & set(path.split("."))]
        safe = any(path.endswith(".safetensors") for path in inside)
        unwanted = (".bin", ".bin.index.json", ".msgpack", ".h5") if safe else (".msgpack", ".h5")
        chosen += [path for path in inside if not path.endswith(unwanted)]
    return chosen + [path for path in files if path in ("pyramid.json", "README.md")]


def look_up(model: str, variant: str | None = None) -> Listing:
    """Ask the Hub what a variant needs: files, sizes, hashes. Nothing is written.

    Raises CheckpointError for a name that is no repository, no connection, a model that wants a login, a
    variant that the repository does not have, a server that states no hashes.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    release = release_of(model)
    if release is None and not looks_like_repository(str(model)):
        raise CheckpointError(f"{model!r} is nothing to download: give {', '.join(RELEASES)} or a repository")
    repository = release.repository if release else str(model)
    if variant is None:
        variant = release.variants[0] if release else "384p"
    if release and variant not in release.variants:
        raise CheckpointError(
            f"{release.name} has no variant {variant!r}, only {', '.join(release.variants)}"
        )
    with told(repository):
        info = HfApi().model_info(repository, files_metadata=True, timeout=PATIENCE)
    known = {item.rfilename: item for item in info.siblings or ()}
    family = FAMILIES[release.family] if release else family_in(known)
    files = tuple(_remote(known[path], repository) for path in needed_files(known, family, variant))
    return Listing(
        str(model),
        repository,
        variant,
        str(info.sha),
        str((info.card_data and info.card_data.get("license")) or ""),
        files,
        Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model"),
    )


def family_in(files: Iterable[str]) -> Family:
    """The family that a repository's text encoders are of: its configurations are not here yet."""
    folders = {path.split("/")[0] for path in files}
    return max(FAMILIES.values(), key=lambda family: _fit(family, folders))


def _fit(family: Family, folders: set[str]) -> int:
    """How many of a family's text encoders there are, less those that lack."""
    wanted = {encoder.folder for encoder in family.text}
    return len(wanted & folders) - len(wanted - folders)


def _remote(item, repository: str) -> RemoteFile:
    """A file as the Hub describes it. CheckpointError for one without size and hash,
    which nothing could check.
    """
    digest = item.lfs.sha256 if item.lfs else item.blob_id
    wanted = 64 if item.lfs else 40
    if item.size is None or not digest or len(digest) != wanted or set(digest) - set("0123456789abcdef"):
        raise CheckpointError(
            f"the server states no size and hash of {item.rfilename} in {repository}: use "
            "https://huggingface.co or a mirror that gives its files' metadata"
        )
    if ".." in Path(item.rfilename).parts:
        raise CheckpointError(f"{repository} names a file outside itself: {item.rfilename!r}")
    return RemoteFile(item.rfilename, item.size, digest)


@contextmanager
def told(repository: str):
    """What the network does, as a CheckpointError of one sentence with the way out."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    start = f"{repository} could not be downloaded: "
    again = "Check the connection, then run it again: it goes on where it stopped"
    for name, why in unusable():
        raise CheckpointError(f"{start}{name} cannot be used: {why}. Correct or unset it, then run it again")
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise CheckpointError(f"{start}HF_HUB_OFFLINE is set. Unset it, then run it again") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            say = (
                "there is no such repository, or it wants a login: accept its license at "
                f"https://huggingface.co/{repository}, then run hf auth login"
            )
        else:
            say = "there is no such repository" if status == 404 else f"the server answers {status}. {again}"
        raise CheckpointError(start + say) from error
    except (HTTPError, OSError) as error:
        raise CheckpointError(f"{start}{error or type(error).__name__}. {again}") from error


# -- downloading


class Download:
    """One variant on its way to this machine. `run` in one thread;
    any other may read the rest, or set `stop`.
    """

    def __init__(self, listing: Listing):
        self.listing = listing
        self.stop = threading.Event()
        self.done = 0
        self.total = listing.total
        self.received = 0  # bytes that came over the network
        self.now = ""  # what goes on, for people

    def run(self) -> Checkpoint:
        """Fetch what is missing or damaged, check all of it by size and hash, and return the checkpoint.

        Raises CheckpointError: a full disk, a connection that stays broken, a file whose hash is wrong twice,
        another program at the same model. Raises Cancelled after `stop`.
        """
        from huggingface_hub.utils import WeakFileLock

        listing = self.listing
        check_space(listing.storage, listing.missing)
        try:
            (listing.storage / "blobs").mkdir(parents=True, exist_ok=True)
            with WeakFileLock(listing.storage / "pyramid.lock", timeout=0.5), told(listing.repository):
                for file in listing.distinct:
                    self._bring(file)
                for file in listing.files:
                    place(listing, file)
                refs = listing.storage / "refs"
                refs.mkdir(parents=True, exist_ok=True)
                with whole(refs / "main") as part:
                    part.write_text(listing.commit)
        except TimeoutError:
            raise CheckpointError(
                f"{listing.repository} is being downloaded by another program: wait for it"
            ) from None
        self.now = "Complete"
        checkpoint = find(listing.model, listing.variant)
        verify(checkpoint)
        return checkpoint

    def _bring(self, file: RemoteFile) -> None:
        """Make a file whole and right: what is here is checked, what is wrong or missing is fetched."""
        before = self.done
        held = self.listing.held(file)
        if held:
            self.now = f"Checking {file.path}"
            if held.stat().st_size == file.size and self._hash(file, held).hexdigest() == file.digest:
                return
            held.unlink()  # cut or damaged: to be fetched again
        for attempt in range(2):
            self.done = before
            if self._fetch(file):
                return
            # The bytes are wrong: a part from a damaged disk or proxy. Once more, from the start.
            self.listing.part(file).unlink()
            self.now = f"{file.path} came damaged; fetching it again" if attempt == 0 else ""
        raise CheckpointError(
            f"{file.path} of {self.listing.repository} arrived twice with a wrong hash: try another "
            "connection or proxy"
        )

    def _fetch(self, file: RemoteFile) -> bool:
        """Bring the rest of a file over the network; whether its hash is right,
        and it is now in its place.
        """
        from huggingface_hub.errors import HTTPError

        part = self.listing.part(file)
        failures = 0
        if part.is_file() and part.stat().st_size > file.size:
            part.unlink()
        part.touch()
        self._digest = self._hash(file, part)
        while (have := part.stat().st_size) < file.size:
            self.now = f"Fetching {file.path}"
            try:
                self._receive(file, part, have)
            except HTTPError as error:
                status = getattr(getattr(error, "response", None), "status_code", 500)
                if failures == RETRIES or (status < 500 and status != 429):
                    raise
            # An answer that ends too soon without an error is a broken connection too.
            failures = 0 if part.stat().st_size > have else failures + 1
            if failures > RETRIES:
                raise OSError(f"the server sends nothing of {file.path}")
            if failures:
                self.now = f"The connection broke at {file.path}; trying again"
                self._check_stop(PAUSE * 2**failures)
        if self._digest.hexdigest() != file.digest:
            return False
        os.replace(part, self.listing.blob(file))
        return True

    def _receive(self, file: RemoteFile, part: Path, have: int) -> None:
        """One request for the bytes from `have` on, appended to `part` and hashed. Raises what breaks off."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        listing = self.listing
        url = hf_hub_url(listing.repository, file.path, revision=listing.commit)
        headers = build_hf_headers() | {
            "Accept-Encoding": "identity"
        }  # a compressed answer could not be resumed
        if have:
            headers["Range"] = f"bytes={have}-"
        with get_session().stream(
            "GET", url, headers=headers, follow_redirects=True, timeout=PATIENCE
        ) as answer:
            hf_raise_for_status(answer)
            if have and answer.status_code != 206:  # the server does not resume: all of it comes again
                self.done -= have
                have = 0
                self._digest = file.hasher()
            with part.open("ab" if have else "wb") as out:
                for chunk in answer.iter_bytes():
                    self._check_stop()
                    out.write(chunk)
                    self._digest.update(chunk)
                    self.done += len(chunk)
                    self.received += len(chunk)

    def _hash(self, file: RemoteFile, path: Path):
        """The hash of what is here of a file; counts as done."""
        digest = file.hasher()
        with path.open("rb") as data:
            while chunk := data.read(CHUNK):
                self._check_stop()
                digest.update(chunk)
                self.done += len(chunk)
        return digest

    def _check_stop(self, seconds: float = 0) -> None:
        """Raises Cancelled when `stop` is set, or becomes so within some seconds."""
        if self.stop.wait(seconds) if seconds else self.stop.is_set():
            raise Cancelled


def place(listing: Listing, file: RemoteFile) -> None:
    """Let the snapshot's path lead to a file's content: by a link, or where links are not allowed,
    as the file.
    """
    blob = listing.blob(file)
    link = listing.link(file)
    link.parent.mkdir(parents=True, exist_ok=True)
    if not blob.is_file():
        if not link.is_file():  # without links another path of the same content has taken the blob
            twins = (listing.link(twin) for twin in listing.files if twin.digest == file.digest)
            shutil.copyfile(next(path for path in twins if path.is_file()), link)
    elif not (link.is_file() and link.samefile(blob)):
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(os.path.relpath(blob, link.parent))
        except OSError:
            os.replace(blob, link)


def check_space(folder: Path, needed: int) -> None:
    """Raises CheckpointError unless the disk of `folder` has room for `needed` bytes more."""
    existing = nearest(folder)
    free = shutil.disk_usage(existing).free
    if needed and needed + SPARE > free:
        raise CheckpointError(
            f"{size_text(needed)} more are needed, {existing} has {size_text(free)} free: make room, or "
            "set HF_HOME to a folder on a larger disk"
        )


def size_text(count: int) -> str:
    """Bytes for people: 830 kB, 25 MB, 9.5 GB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}" if count < 10 * unit else f"{count / unit:.0f} {name}"
    return f"{count / 1000:.0f} kB"


def download(model: str, variant: str | None = None, *, log: Callable[[str], None] = print) -> Checkpoint:
    """`look_up` and `Download` in one, with lines for a terminal: what comes, then each tenth of the way.

    Raises CheckpointError, see there.
    """
    listing = look_up(model, variant)
    log(
        f"{listing.repository}, variant {listing.variant}: {size_text(listing.total)} in "
        f"{len(listing.files)} files, {size_text(listing.missing)} of it to come"
    )
    job = Download(listing)
    ended = threading.Event()

    def tell() -> None:
        told_now = ""
        tenth = -1
        while not ended.wait(0.2):
            now = 10 * job.done // max(job.total, 1)
            if now != tenth or job.now != told_now:
                told_now = job.now
                tenth = now
                log(f"{job.done / max(job.total, 1):4.0%}  {told_now}")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        return job.run()
    finally:
        ended.set()
        teller.join()
