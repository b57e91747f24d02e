"""Proxies that the environment names and that cannot be used: told by name, before a library trips over one.

    for name, why in unusable(): ...        # [("ALL_PROXY", "a SOCKS proxy needs the package socksio: …")]

The libraries that fetch things make a connection to every proxy that is named as soon as they begin, also for
an address on this machine.
"""

import importlib.util
import os
from urllib.parse import urlsplit

NAMES = ("http_proxy", "https_proxy", "all_proxy")  # in small letters or capitals
SOCKS = ("socks5", "socks5h")


def unusable() -> list[tuple[str, str]]:
    """The variables that name none that can be used, and why. What they hold may be secret."""
    named = [(name, value) for name, value in os.environ.items() if name.lower() in NAMES and value]
    return [(name, why) for name, value in named if (why := _why_not(value))]


def _why_not(value: str) -> str:
    """Why an address of a proxy cannot be used; "" where it can."""
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        found = parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        found = None
    if not found:
        return "it is no address of a proxy, such as http://10.0.0.5:8080"
    if parts.scheme in SOCKS:
        there = importlib.util.find_spec("socksio") is not None
        return "" if there else "a SOCKS proxy needs the package socksio: python -m pip install socksio"
    return "" if parts.scheme in ("http", "https") else "it is neither http, https nor socks5"
