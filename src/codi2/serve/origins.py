"""Which hosts the server answers for, and which web pages may call it.

A browser sends requests for any page that is open in it. Two checks refuse those of other pages, on a server without
keys as well. The `Host` header has to name a served host, against names that an attacker points to this machine (DNS
rebinding). `Origin` and `Sec-Fetch-Site`, which pages cannot set, have to name the server's own origin or one of
`--allow-origin`. Clients that are no browsers send neither of the two, and are not refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from codi2.errors import ConfigError
from codi2.serve.access import Refused

PORTS = {"http": 80, "https": 443}  # the default ports, which an origin leaves out
OWN_SITE = (b"same-origin", b"none")  # values of Sec-Fetch-Site; none: an action of the user, such as a bookmark
WILDCARDS = ("", "0.0.0.0", "::")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\[\]:@/?#\\\s]+)(?::([0-9]{1,5}))?", re.ASCII)
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")


@dataclass(frozen=True)
class Served:
    """The hosts that a request may name.

    Addresses of this machine need no `--allow-host`: an attacker can only change what names point to.
    """

    names: frozenset[str] = frozenset({"localhost"})
    addresses: frozenset[str] = frozenset()
    loopback: bool = True  # any loopback address
    any_address: bool = False  # of a server that listens everywhere, with addresses of routers and containers

    @classmethod
    def at(cls, host: str, allowed: Iterable[str] = ()) -> Served:
        """The hosts of a server that listens at `host`. Raises ConfigError: an allowed host is malformed."""
        names: set[str] = set()
        addresses: set[str] = set()
        for value in allowed:
            name, port = _split(value)
            if not name or port is not None:
                raise ConfigError(
                    f"--allow-host {value!r} is no host; write a name or an address without scheme and port, "
                    "such as example.com"
                )
            (addresses if _address(name) else names).add(name)
        everywhere, address = host in WILDCARDS, _address(host)
        if address and not everywhere:
            addresses.add(str(address))
        elif not everywhere:
            names.add(host.lower().removesuffix("."))
        loopback = everywhere or is_loopback(host)
        if loopback:
            names.add("localhost")
        return cls(frozenset(names), frozenset(addresses), loopback, everywhere)

    def __contains__(self, host: str) -> bool:
        name, _ = _split(host)
        address = _address(name)
        if address is None:
            return name in self.names
        return self.any_address or str(address) in self.addresses or (self.loopback and address.is_loopback)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens at `host`."""
    address = _address(host)
    return address.is_loopback if address else host.lower() == "localhost"


def origin(value: str) -> str:
    """An origin in the form of the `Origin` header. Raises ConfigError: the value is malformed."""
    parts = urlsplit(value.strip())
    name, port = _split(parts.netloc)
    if parts.scheme not in PORTS or not name or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(f"--allow-origin {value!r} is no origin; write scheme and host, such as https://example.com")
    return _serialized(parts.scheme, name, port)


def check(scope: Mapping[str, Any], served: Served, allowed: Container[str]) -> None:
    """Raises Refused: the request of this ASGI scope is for another host, or comes from a page of another origin."""
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.lower(), []).append(value)
    hosts = [value.decode("latin-1") for value in headers.get(b"host", [])]
    if len(hosts) != 1:
        raise Refused(400, f"the request has {len(hosts)} Host headers; send one")
    if hosts[0] not in served:
        raise Refused(
            403, f"this server does not answer for the host {hosts[0][:100]!r}; start it with --allow-host", "host"
        )
    origins = [value.decode("latin-1") for value in headers.get(b"origin", [])]
    if origins and all(value in allowed for value in origins):
        return
    for value in origins:
        if not _is_own(value, hosts[0], scope["scheme"]):
            raise Refused(
                403,
                f"pages of the origin {value[:100]!r} may not call this server; start it with --allow-origin",
                "origin",
            )
    if all(site in OWN_SITE for site in headers.get(b"sec-fetch-site", [])) or _is_link(scope, headers):
        return
    raise Refused(403, "pages of other origins may not call this server; start it with --allow-origin", "origin")


def _is_link(scope: Mapping[str, Any], headers: dict[bytes, list[bytes]]) -> bool:
    """Whether the request is for the page itself, by a link on another site; never for a path under `/v1`."""
    return (
        scope["method"] in ("GET", "HEAD")
        and headers.get(b"sec-fetch-mode") == [b"navigate"]
        and headers.get(b"sec-fetch-dest") == [b"document"]
        and b"origin" not in headers
        and scope["path"] == "/"
    )


def _is_own(value: str, host: str, scheme: str) -> bool:
    """Whether an origin is that of the request's own host. Behind a proxy that ends TLS, https arrives as http."""
    kind, _, authority = value.partition("://")
    name, port = _split(authority)
    own, own_port = _split(host)
    if kind not in PORTS or not name or name != own or (kind, scheme) == ("http", "https"):
        return False
    return (port or PORTS[kind]) == (own_port or PORTS[kind])


def _split(authority: str) -> tuple[str, int | None]:
    """The host, in lower case without a last dot or brackets, and the port: "", None where it is malformed."""
    match = _AUTHORITY.fullmatch(authority)
    port = int(match[2]) if match and match[2] else None
    if match is None or (port is not None and not 0 < port < 65536):
        return "", None
    name = match[1].lower()
    if name.startswith("["):
        address = _address(name[1:-1])
        return (str(address), port) if address and ":" in name else ("", None)
    name = name.removesuffix(".")
    return (name, port) if _NAME.fullmatch(name) else ("", None)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


def _serialized(scheme: str, name: str, port: int | None) -> str:
    host = f"[{name}]" if ":" in name else name
    return f"{scheme}://{host}" + (f":{port}" if port and port != PORTS[scheme] else "")
