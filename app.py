"""The page: a prompt or a picture in, the video growing stage by stage, the results kept.

    python launch.py                                   http://127.0.0.1:7860, on the embedded model
    python launch.py --model miniflux --variant 384p --port 8000 --output-dir clips
    python launch.py --listen --auth-file accounts.txt  for the machines around, with a name and a password
    python launch.py --share --auth-file accounts.txt  for everywhere, through a link that Gradio provides
    python launch.py --hash-password ana                      a line for accounts.txt that hides the password

What is made belongs to the server: it goes on when a page is closed, and a page that comes back finds it
again. The parts are in `pyramid.ui`; here are the flags, and the start and the end of the program.
"""

import argparse
import getpass
import hashlib
import importlib.util
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from pyramid.commands.cli import Parser
from pyramid.commands.interrupts import SIGNALS, handled
from pyramid.commands.terminal import steady_output
from pyramid.disk import unwritable
from pyramid.hub.proxies import unusable
from pyramid.memory.threads import wait_briefly
from pyramid.settings import (
    DTYPES,
    MACHINE,
    MODELS,
    QUANTIZE,
    SettingsError,
    at_home,
    check_choice,
    check_value,
    flag_of,
)
from pyramid.study import FOLDER

KNOWN_WITHIN = 3.0  # seconds that a name to listen at may take to be found
LEAVING = 2.4  # seconds that the page, the job and the model have to end
ROOT = Path(__file__).resolve().parent
# Limits where others can come in; None: the pixels of the largest size that the model was trained for.
VISITORS: dict[str, float | None] = {
    "max_upload_mb": 50.0,
    "max_seconds": 10.0,
    "max_queue": 5,
    "max_steps": 50,
    "max_pixels": None,
    "max_queue_address": 20,
    "max_queue_total": 100,
    "max_requests": 3000,
    "max_traffic_mb": 1000.0,
    "max_uploads_mb": 2000.0,
    "max_disk_mb": 20_000.0,
}
# Seconds that a running job keeps Python to itself while an answer waits for it, which takes several turns.
TURN = 0.001
OPEN_ANSWERS = 0.5  # seconds that answers under way are given when the program ends: pages keep some open
LAST_STEP = 1.5  # seconds that a running job is given then; what it has finished is on the disk already


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="app.py", description="The page, at http://127.0.0.1:7860.", allow_abbrev=False)
    add_model_flags(parser.add_argument)
    add_server_flags(parser.add_argument)
    add_limit_flags(parser.add_argument)
    return parser.parse_args(arguments)


def add_model_flags(add) -> None:
    """The model, and how it lies on this machine."""
    models = ", ".join(MODELS)
    layouts = "auto, max, balanced, low, tiny, cpu"
    add("--model", default="embedded", help=f"{models}, a folder or a repository (default: embedded)")
    add("--variant", help="which transformer of the model, such as 384p (default: the model's first)")
    add("--dtype", default="auto", choices=DTYPES, help="precision (default: what suits the device)")
    add("--quantize", default="none", choices=QUANTIZE, help="weights in fewer bits: see generate --help")
    add("--quantise", dest="quantize", choices=QUANTIZE, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: the fastest available)")
    add("--memory", default="auto", help=f"how the model is laid out in memory: {layouts}")
    several = (
        "several videos at once, each in a process of its own: cuda:0,cuda:1 or cpu,cpu; with --ray: how many"
    )
    add("--workers", metavar="DEVICES", help=several)
    ray = "make the videos on a Ray cluster: its address, auto, or none for one on this machine"
    add("--ray", nargs="?", const="local", metavar="ADDRESS", help=ray)


def add_server_flags(add) -> None:
    """Where the page is, and who may come in."""
    host = "another name that the page of this machine goes by, as behind a proxy; may be repeated"
    listen = "accept connections from other machines, on all addresses of this one or on the one given"
    add(
        "--output-dir",
        type=at_home,
        default=Path("outputs"),
        help="where results, queue and history are kept",
    )
    add("--port", type=int, help="7860, or the next free one")
    add("--listen", nargs="?", const="0.0.0.0", default="127.0.0.1", metavar="ADDRESS", help=listen)
    add("--allowed-host", action="append", default=[], metavar="NAME", help=host)
    proxy = "a reverse proxy in front, as 10.0.0.5 or 10.0.0.0/8, whose X-Forwarded-For and -Proto are true"
    add("--trusted-proxy", action="append", default=[], metavar="ADDRESS", help=f"{proxy}; may be repeated")
    add("--share", action="store_true", help="also open a public link through Gradio's servers")
    add("--auth-file", type=at_home, metavar="FILE", help="who may log in: one name:password a line")
    add("--public", action="store_true", help="with --share or --listen: everybody may come in")
    add("--hash-password", metavar="NAME", help="ask for a password and print its line for --auth-file")
    study = f"a blind study that `evaluate study --make` made (default folder: {FOLDER}); writes its links"
    add("--study", nargs="?", const=FOLDER, type=at_home, metavar="FOLDER", help=study)
    add("--mcp", action="store_true", help="also offer the API to language models as MCP tools (gradio[mcp])")
    add("--inbrowser", action="store_true", help="open the page in a browser")


def add_limit_flags(add) -> None:
    """What may be asked for; the defaults are for visitors only, see VISITORS."""
    largest = "largest frame, width × height (visitors: the largest size that the model was trained for)"
    add("--max-seconds", type=float, metavar="S", help="longest video that may be requested (visitors: 10)")
    add("--max-upload-mb", type=float, metavar="MB", help="largest upload, all its files (visitors: 50)")
    add("--max-queue", type=int, metavar="N", help="jobs that one user may have waiting (visitors: 5)")
    add("--max-steps", type=int, metavar="N", help="steps per stage (visitors: at most 50)")
    add("--max-pixels", type=int, metavar="N", help=largest)
    for name, metavar, what in (
        ("--max-queue-address", "N", "jobs that one address may have waiting, whoever asks from it"),
        ("--max-queue-total", "N", "jobs that may wait, all users' together"),
        ("--max-requests", "N", "requests a minute from one address; all together ten times as many"),
        ("--max-traffic-mb", "MB", "traffic a minute with one address; all together ten times as much"),
        ("--max-uploads-mb", "MB", "disk for uploads, of which the oldest go first"),
        ("--max-disk-mb", "MB", "disk for results: above it nothing new is begun"),
    ):
        default = VISITORS[name.removeprefix("--").replace("-", "_")]
        kind = int if metavar == "N" else float
        add(name, type=kind, metavar=metavar, help=f"{what} (visitors: {default:,.0f})")


def main(arguments: list[str] | None = None) -> int:
    """Serve until Ctrl-C. 0, or 2 after one line `error: …` on stderr for what a user has to fix."""
    with steady_output():
        return run(arguments)


def run(arguments: list[str] | None) -> int:
    """The program; whatever a user has to fix becomes one line and an exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.ERROR)
    wait_briefly()
    sys.setswitchinterval(TURN)
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    # Gradio makes a table of its last 10,000 events after each one, for a page of figures that is not served.
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**12))
    os.environ["FORWARDED_ALLOW_IPS"] = ""  # who is behind a proxy is for the guard to say: --trusted-proxy
    try:
        options = parse(arguments)
        if options.hash_password is not None:
            return print_line(options.hash_password)
        return serve(options)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # no such model; a port that is taken; a folder not ours to write
        from pyramid.failures import sentence

        print(f"error: {sentence(error, flag_of)}", file=sys.stderr)
        return 2 if isinstance(error, (ValueError, OSError)) else 1


def print_line(name: str) -> int:
    """A password, asked for twice at a terminal or read from a pipe, as a line of the accounts' file."""
    from pyramid.ui.security.accounts import hashed_line

    if sys.stdin.isatty():
        password = getpass.getpass(f"Password of {name}: ")
        if getpass.getpass("Once more: ") != password:
            raise ValueError("the two passwords differ")
    else:
        password = sys.stdin.readline().rstrip("\n")
    print(hashed_line(name, password))
    return 0


def serve(options: argparse.Namespace) -> int:
    """Check what was asked, start the device thread and the page, and wait for the end."""
    from pyramid.ui.security.accounts import read_accounts
    from pyramid.ui.security.login import check_door
    from pyramid.ui.security.proxies import Proxies

    check_limits(options)
    Proxies(options.trusted_proxy)  # tells what is no address
    check_machine(options)
    place = check_listen(options.listen)
    open_to_others = check_door(
        options.listen, share=options.share, public=options.public, auth_file=options.auth_file
    )
    check_reachable(options.listen, *place)
    accounts = read_accounts(options.auth_file) if options.auth_file else None
    if options.mcp and importlib.util.find_spec("mcp") is None:
        raise ValueError("--mcp needs an extra of gradio: run .venv/bin/python -m pip install 'gradio[mcp]'")
    keep_uploads_apart(options.output_dir)
    begin = threading.Event()
    with handled(interrupt):
        app = make_app(options, not open_to_others and accounts is None, begin)
        try:
            return show(app, options, accounts, begin)
        finally:
            if app.worker.close(LAST_STEP):
                app.store.close()


def interrupt(number, frame):
    """End the program: in order if that takes no longer than LEAVING, else as it is. Finished units are on
    the disk, and the next start goes on from them.
    """
    for again in SIGNALS:
        signal.signal(again, lambda *_: os._exit(130))
    late = threading.Timer(LEAVING, os._exit, [130])
    late.daemon = True
    late.start()
    raise KeyboardInterrupt


def keep_uploads_apart(output_dir: Path) -> None:
    """A folder of uploads for this page alone, unless GRADIO_TEMP_DIR names one: what is too much is deleted
    there. Not among the results, which a browser may show as what they say they are.
    """
    user = str(os.getuid()) if hasattr(os, "getuid") else ""
    name = hashlib.sha256(str(output_dir.resolve()).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"pyramid-uploads{user}" / name
    os.environ.setdefault("GRADIO_TEMP_DIR", str(folder))
    if os.environ["GRADIO_TEMP_DIR"] == str(folder):
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        if user and folder.parent.lstat().st_uid != os.getuid():
            raise ValueError(
                f"{folder.parent} is somebody else's: name a folder for uploads by GRADIO_TEMP_DIR"
            )
        folder.mkdir(exist_ok=True)
    named = os.environ["GRADIO_TEMP_DIR"]
    if why := unwritable(Path(named)):
        raise ValueError(f"GRADIO_TEMP_DIR = {named!r}: {why}")


def check_limits(options: argparse.Namespace) -> None:
    for name in VISITORS:
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} {value}: give a number above 0")


def check_machine(options: argparse.Namespace) -> None:
    """Raises ValueError for a port, a plan of memory or a device that is none."""
    from pyramid.media.files import check_ffmpeg
    from pyramid.memory.plan import NAMES

    if options.port is not None and not 1 <= options.port <= 65535:
        raise ValueError(f"--port {options.port}: give 1 to 65535, or leave it out for a free one from 7860")
    for name in ("GRADIO_SERVER_PORT", "GRADIO_NUM_PORTS"):
        value = os.environ.get(name)
        if value and not value.isdecimal():
            raise ValueError(f"{name} = {value!r}: the variable holds a whole number, or is not set")
    path = os.environ.get("GRADIO_ROOT_PATH", "/")
    if path and not path.startswith(("/", "http")):
        raise ValueError(f"GRADIO_ROOT_PATH = {path!r}: the path begins with a slash, as /{path}")
    check_ffmpeg()
    check_choice("memory", options.memory, ("auto", *NAMES))
    try:
        check_value("device", options.device)
    except SettingsError as error:
        raise ValueError(error.told(flag_of)) from error
    check_workers(options)


def check_workers(options: argparse.Namespace) -> None:
    """Raises ValueError for devices of workers that are none, and where Ray is missing."""
    asked = options.workers
    if options.ray is not None:
        from pyramid.jobs.cluster import need_ray

        if asked is not None and not (asked.isdecimal() and int(asked) > 0):
            raise ValueError(
                f"--workers {asked}: with --ray it is how many videos are made at once, 1 or more"
            )
        return need_ray()
    if asked is None:
        return
    if options.device != "auto":
        raise ValueError(f"--device {options.device} with --workers {asked}: --workers names the devices")
    for device in asked.split(","):
        try:
            check_value("device", device)
        except SettingsError as error:
            told = str(error)
            raise ValueError(
                f"--workers {asked}: {told}; give a device for each, such as cuda:0,cuda:1"
            ) from error


def holders_of(options: argparse.Namespace) -> list:
    """What keeps the models of several workers; none for the one of this process."""
    if options.ray is not None:
        from pyramid.jobs.cluster import Cluster, actors

        return actors(Cluster(options.ray, int(options.workers) if options.workers else None))
    if options.workers is None:
        return []
    from pyramid.jobs.elsewhere import processes

    return processes(options.workers.split(","))


def check_listen(address: str) -> tuple[int, tuple]:
    """The family of an address to listen at, and the place in it. ValueError for no address, and for a name
    that nobody knows.
    """
    name = address.strip("[]")
    found: list[tuple] = []

    def ask() -> None:
        with suppress(OSError, UnicodeError, ValueError):
            found.extend(socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM))

    # Where no name server answers, the system goes on asking for a long time.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(KNOWN_WITHIN)
    if not found:
        raise ValueError(
            f"--listen {address}: this is no address and no name of this machine; use 0.0.0.0 or :: for all "
            "of its addresses, or leave it out for this machine alone"
        )
    family, *_, place = found[0]
    return family, place


def check_reachable(address: str, family: int, place: tuple) -> None:
    """ValueError where a page cannot be at `address`, such as that of another machine."""
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        try:
            tried.bind(place)
        except OSError as error:
            raise ValueError(
                f"--listen {address}: this machine cannot be reached there ({error.strerror}); use "
                "0.0.0.0 or :: for all of its addresses, or leave it out for this machine alone"
            ) from None


def make_app(options: argparse.Namespace, local: bool, begin: threading.Event):
    """The store, the worker, which waits for `begin`, and what visitors may ask for.

    ValueError where a model or folder cannot be used.
    """
    from pyramid.failures import keep_log
    from pyramid.hub.checkpoints import page_variant
    from pyramid.jobs.queue import JobStore
    from pyramid.jobs.worker import Worker
    from pyramid.study.kept import Study
    from pyramid.ui import App

    limits = limits_of(options, local)
    study = Study(options.study) if options.study else None
    store = JobStore(options.output_dir, limits)
    try:
        machine = {name: getattr(options, name) for name in (*MACHINE, "memory")}
        variant = options.variant or page_variant(options.model)
        keep_log(store.private / "log.txt")
        holders = holders_of(options)
        if options.workers and options.ray is None:
            machine["device"] = options.workers.split(",")[0]
        worker = Worker(store, model=options.model, variant=variant, begin=begin, holders=holders, **machine)
    except ValueError:
        store.close()
        raise
    names = (options.listen.strip("[]"), *options.allowed_host)
    return App(store, worker, store.folder, limits, local, allowed_hosts=names, study=study)


def limits_of(options: argparse.Namespace, local: bool):
    """What may be asked for: as the flags say, and where they do not, what visitors may.
    ValueError: no such model.
    """
    from pyramid.hub.checkpoints import find
    from pyramid.jobs.queue import Limits

    asked = {name: getattr(options, name) for name in VISITORS}
    if not local:
        asked = {name: VISITORS[name] if value is None else value for name, value in asked.items()}
        if asked["max_pixels"] is None:
            sizes = find(options.model, options.variant).defaults.sizes
            asked["max_pixels"] = max(width * height for width, height in sizes)
    return Limits(max_queue_per_owner=asked.pop("max_queue"), **asked)


def show(app, options: argparse.Namespace, accounts, begin: threading.Event) -> int:
    """The page, until the program is ended. The model is loaded once the page is there:
    both at once would make the page wait for the model.
    """
    reach_directly(options.listen)  # before Gradio is loaded
    from pyramid.ui import page

    built = page.build(app)
    try:
        launch(built, app, options, accounts)
        for line in notices(built.local_url, built.share_url, share=options.share, listen=options.listen):
            print(line, flush=True)
        if app.study:
            address = built.share_url or seen_address(built.local_url, options.listen)
            print(study_notice(app.study, address), flush=True)
        begin.set()
        built.block_thread()
    finally:
        built.close(verbose=False)
    return 0


def launch(built, app, options: argparse.Namespace, accounts) -> None:
    """Serve the page. Raises ValueError where it has no port."""
    from pyramid.ui.security.connections import Silence
    from pyramid.ui.security.guard import doors
    from pyramid.ui.security.proxies import Proxies

    # The tunnel of a public link is a program on this machine, and says for whom it asks.
    proxies = [*options.trusted_proxy, *(("127.0.0.1", "::1") if options.share else ())]
    try:
        built.launch(
            server_name=f"[{options.listen}]" if is_ipv6(options.listen) else options.listen,
            server_port=options.port,
            share=options.share,
            inbrowser=options.inbrowser,
            mcp_server=options.mcp,
            quiet=True,
            prevent_thread_lock=True,
            **looks(app),
            **doors(app, accounts, proxies),
        )
    except OSError as error:
        if "empty port" not in str(error):
            raise
        raise ValueError(port_words(options)) from error
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it tells of each answer that is cut then
    built.server.config.timeout_graceful_shutdown = OPEN_ANSWERS
    Silence(built.server, Proxies(proxies)).begin()


def is_ipv6(address: str) -> bool:
    """Whether an address is one of IPv6, without the brackets that it has in a URL."""
    return ":" in address and not address.startswith("[")


def reach_directly(listen: str) -> None:
    """Gradio asks its own page whether it is there: not through the proxy that an office's machine may
    name.
    """
    for name, why in unusable():
        del os.environ[name]
        print(f"note: {name} is not used: {why}", flush=True)
    for name in ("no_proxy", "NO_PROXY"):
        known = [host for host in os.environ.get(name, "").split(",") if host]
        own = [host for host in ("localhost", "127.0.0.1", "::1", listen) if host not in known]
        os.environ[name] = ",".join([*known, *own])


def notices(local: str, public: str | None, *, share: bool, listen: str) -> list[str]:
    """What the terminal says of where the page is."""
    from pyramid.ui.security.login import is_local

    lines = [f"The page is at {local}  (Ctrl-C ends the program)"]
    if public:
        lines.append(f"Public link, for a week at most: {public}")
    elif share:
        lines.append(
            "note: there is no public link, as Gradio's servers could not be reached; all else works"
        )
    if not is_local(listen):
        lines.append("Other machines reach it by this machine's name or address, and the same port")
    return lines


def seen_address(local: str, listen: str) -> str:
    """The page's address for who is not at this machine, by its name where it listens at all addresses."""
    if listen.strip("[]") not in ("0.0.0.0", "::"):
        return local
    return f"http://{socket.gethostname()}:{urlsplit(local).port}/"


def study_notice(study, address: str) -> str:
    """Write the raters' links beside the study, and say where."""
    lines = [f"{name}: {address.rstrip('/')}/study/{token}/" for name, token in study.links().items()]
    path = study.folder / "links.txt"
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"The study's links, one for each rater, are in {path}"


def port_words(options: argparse.Namespace) -> str:
    """What to do where no port can be had; Gradio's own words are of its variables."""
    if options.port is None:
        return (
            f"no port from 7860 to 7959 can be had at {options.listen}: give another with --port, or check "
            "--listen"
        )
    return (
        f"port {options.port} cannot be had at {options.listen}: another program has it, or you may not use "
        "it; give another with --port, or leave --port out for a free one from 7860"
    )


def looks(app) -> dict:
    """What `launch` is told about fonts, colors and the picture's shape."""
    import gradio as gr

    from pyramid.ui.page import STYLE

    start = app.worker.start_from
    return {
        "theme": gr.themes.Base(
            font=["Inter", "system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        "css": f":root {{ --ratio: {start.width} / {start.height} }}",
        "css_paths": STYLE,
    }


def leave(code: int) -> None:
    """End the program. A model that is still being loaded, and a clip that is being read, cannot be told to
    stop: they are left where they are.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if any(thread.name == "device" or not thread.daemon for thread in others):
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
