"""Which requests may be made: API keys, and requests a minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codi2.errors import CoDi2Error
from codi2.serve.keys import Keys

ANYONE = ""  # the client of a server without keys
PUBLIC = ("/", "/health")  # paths that need no key, besides those of the page's files:
FILES = "/static/"


class NoKey(CoDi2Error):
    """The server needs an API key, and the request has none or a wrong one."""


class Refused(CoDi2Error):
    """A request that is refused by its headers, with the HTTP status that says why."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Access:
    """Whether a request may be made, by the key in `Authorization: Bearer …`.

    A server that was started without a key is open: it listens to this machine only, and all requests are made by one
    client. The first new key ends this for good; when the last key is revoked, all requests are refused.
    """

    keys: Keys
    keys_when_open: int = 0  # keys that were ever made up to the start of an open server; 0 also where none was made

    def client(self, authorization: Sequence[bytes]) -> str:
        """The id of the key in the `Authorization` headers; this counts as a request of the key.

        Raises NoKey; BusyError: the key has made its requests of this minute.
        """
        if self.keys.count_keys() == self.keys_when_open:
            return ANYONE
        scheme, _, secret = (authorization[0] if len(authorization) == 1 else b"").partition(b" ")
        key = self.keys.key(secret.strip().decode("latin-1")) if scheme.lower() == b"bearer" else None
        if key is None:
            raise NoKey("this server asks for an API key: Authorization: Bearer …")
        self.keys.count_request(key)
        return key.id


def needs_key(method: str, path: str) -> bool:
    """Whether a request needs a key: all but GET of `/health` and of the page's files, which hold no data."""
    return method != "GET" or not (path in PUBLIC or path.startswith(FILES))
