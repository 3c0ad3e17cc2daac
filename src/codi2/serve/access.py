"""Who may ask, and how often: keys, and requests a minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codi2.errors import CoDi2Error
from codi2.serve.keys import Keys

ANYONE = ""  # the client where no key is asked for
PUBLIC = ("/", "/health")  # and the page's files, below:
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

    A server that was started without a key is open: everyone may, as one client, and it listens to this machine only.
    The first key that is made ends that for good; with the last one revoked, all requests are refused.
    """

    keys: Keys
    opened: int = 0  # how many keys had ever been made when it was started open; 0: it is open if there never was one

    def client(self, authorization: Sequence[bytes]) -> str:
        """The id of the key in the `Authorization` headers; this counts as a request of the key.

        Raises NoKey; BusyError: the key has made its requests of this minute.
        """
        if self.keys.keys_made() == self.opened:
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
