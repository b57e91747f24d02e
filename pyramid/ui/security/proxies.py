"""Who asks, and by which name and scheme, also behind a reverse proxy: what a proxy says is believed only
where it is one that the owner of the machine named.

    proxies = Proxies(["127.0.0.1", "10.0.0.0/8"])
    scope = proxies.behind(scope)         # "client" is the visitor, "scheme" the visitor's, Host too

Anybody can send `X-Forwarded-For`. These headers are taken out of each request, as Gradio believes some of
them whoever sends them.
"""

import ipaddress
from collections.abc import Iterable
from typing import Any

TOLD = b"x-forwarded-"  # how what proxies tell begins
ALSO_TOLD = (b"forwarded", b"x-real-ip", b"x-gradio-server")


class Proxies:
    """The named ones. Raises ValueError for what is neither an address nor a network."""

    def __init__(self, named: Iterable[str] = ()):
        self.networks = [network_of(name) for name in named]

    def trusts(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        if (
            isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped
        ):  # as a socket of both kinds says it
            found = found.ipv4_mapped
        return any(found in network for network in self.networks)

    def behind(self, scope: dict[str, Any]) -> dict[str, Any]:
        """A request as its visitor made it, without what proxies said of it."""
        told = {name: value.decode("latin-1") for name, value in scope["headers"] if is_told(name)}
        headers = [(name, value) for name, value in scope["headers"] if not is_told(name)]
        address, port = scope.get("client") or ("unknown", 0)
        scheme = scope["scheme"]
        if self.trusts(address):
            if came := self.first_other(told.get(b"x-forwarded-for", "")):
                address, port = came, 0
            if told.get(b"x-forwarded-proto", "").strip() in ("http", "https"):
                scheme = told[b"x-forwarded-proto"].strip()
            if host := told.get(b"x-forwarded-host", "").split(",")[0].strip():
                headers = [(name, value) for name, value in headers if name != b"host"]
                headers.append((b"host", host.encode("latin-1")))
        return scope | {"client": (address, port), "scheme": scheme, "headers": headers}

    def first_other(self, told: str) -> str:
        """Of a chain of addresses the last that is no named proxy: each adds whom it saw at the end."""
        for name in reversed(told.split(",")):
            address = without_port(name.strip())
            if address and not self.trusts(address):
                return address
        return ""


def is_told(name: bytes) -> bool:
    return name.startswith(TOLD) or name in ALSO_TOLD


def network_of(name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(name.strip().strip("[]"), strict=False)
    except ValueError:
        raise ValueError(
            f"--trusted-proxy {name}: give the address of the proxy, as 10.0.0.5, or a network, as 10.0.0.0/8"
        ) from None


def without_port(name: str) -> str:
    """The address of `1.2.3.4:80`, `[::1]:80` or of one without a port; "" for what is none."""
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return ""
