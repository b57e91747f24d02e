"""Which addresses of the server are open: those that the page and its clients use, and no others.

    is_open("/gradio_api/queue/join")           # True
    is_open("/gradio_api/file//etc/passwd")     # False: not a route of the page, and no normal path

Gradio registers more than a page needs (a proxy, a recorder, an editor, files by another spelling), and a
newer one may register more. What is not listed is not there.
"""

import re

from pyramid.ui.addresses import FILE

API = "/gradio_api"
UPLOAD = f"{API}/upload"
OF_SESSIONS = re.compile(rf"{API}/(cancel|reset/?|heartbeat/\w+)")  # which Gradio asks no login for
FREE = ("/static/", "/assets/", "/svelte/")  # what a page consists of, hundreds of small files
OPEN = (  # regular expressions of whole paths
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/openapi\.json|/pwa_icon(/\d+)?",
    r"/(static|assets|svelte)/.+",
    r"/login/?|/logout",
    rf"{API}/(user|login_check|app_id|info|startup-events)/?|{API}/(openapi\.json|theme\.css)",
    rf"{API}/heartbeat/\w+",
    rf"{API}/(call|call/v2)/\w+(/\w+)?/?",
    rf"{API}/queue/(join|data|status)|{API}/cancel|{API}/reset/?",
    rf"{API}/upload|{API}/upload_progress",
    rf"{API}/mcp(/.*)?",
)
IS_OPEN = re.compile("|".join(f"(?:{pattern})" for pattern in OPEN))
IS_FILE = re.compile(rf"{API}{re.escape(FILE)}(.+)", re.DOTALL)
IS_ANSWER = re.compile(rf"{API}/call/(?:v2/)?\w+/([0-9a-f]{{32}})/?")


def is_open(path: str) -> bool:
    """Whether an address that names no file is served. `path` as it was decoded once."""
    return is_normal(path) and "%" not in path and IS_OPEN.fullmatch(path) is not None


def is_free(path: str) -> bool:
    """Whether an address is one of the files that every page consists of."""
    return path.startswith(FREE)


def file_of(path: str) -> str | None:
    """What an address of a file names; None for every other address."""
    found = IS_FILE.fullmatch(path)
    return found[1] if found else None


def call_of(path: str) -> str | None:
    """The id of the call whose answer an address brings; None for every other address."""
    found = IS_ANSWER.fullmatch(path)
    return found[1] if found else None


def is_normal(path: str) -> bool:
    """Whether a path is spelt in the one way: no dots, no doubled slashes, no control characters,
    no backslash.
    """
    odd = "//" in path or "\\" in path or any(ord(sign) < 32 or ord(sign) == 127 for sign in path)
    return not odd and not {".", ".."} & set(path.split("/"))


def is_host(host: str, allowed: frozenset[str]) -> bool:
    """Whether the Host of a request, with or without a port, is one of the names that the server goes by."""
    name = re.sub(r":\d+$", "", host.strip().lower()).strip("[]")
    return name in allowed
