"""Which names the server answers to.

A page of a stranger can lead its own name to this server's address (DNS rebinding); a browser then
takes both for one origin, and lets that page read all replies. So a request is refused whose Host
header has a name that nobody has allowed. An address or `localhost` there is always allowed: no
stranger owns them.
"""

import ipaddress
import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from opponent.study.server.guard import log_refusal, refusal, safe

LOCALHOST = "localhost"
_LABEL = "[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[^\[\]:\s]{1,254})(:[0-9]{0,5})?")


def read_names(names: Iterable[str]) -> frozenset[str]:
    """Names of hosts as they are compared: in small letters, and without a dot at the end.

    Args:
        names: such as 'study.example.org'; those beyond ASCII as they are written or as 'xn--...'.
    Raises:
        ValueError: one is not the name of a host, but an address of a page, say.
    """
    read = set()
    for name in names:
        try:
            plain = name if name.isascii() else name.encode("idna").decode("ascii")
        except UnicodeError:
            plain = ""
        plain = plain.lower().removesuffix(".")
        if not _NAME.fullmatch(plain):
            raise ValueError(
                f"{name!r} is not the name of a host; give one such as study.example.org, without "
                "https:// and without a port"
            )
        read.add(plain)
    return frozenset(read)


def host_of(header: str) -> str | None:
    """The host that a Host header names, without the port, or None where it names none.

    Args:
        header: the header's value.
    """
    match = _HOST.fullmatch(header)
    return match and match["name"].lower().removesuffix(".")


def is_address(host: str) -> bool:
    """Whether that is an IP address as browsers write it, and no name.

    Args:
        host: as `host_of` returns it.
    """
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return host.startswith("[") == (address.version == 6)


class Hosts:
    """Middleware: refuses requests to a name that is not this server's.

    Args:
        app: the application.
        names: that are allowed besides addresses and `localhost`, as `read_names` returns them.
    """

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self.app = app
        self.names = names | {LOCALHOST}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] == "http" and (wrong := self._wrong(scope)):
            status, message, seen = wrong
            log_refusal(scope, status, f"{message} ({safe(seen)})" if seen else message)
            await refusal(status, "host", message)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _wrong(self, scope: Scope) -> tuple[int, str, str] | None:
        """Status, reason and the host of a request that is refused; None for others."""
        headers = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        host = host_of(headers[0]) if len(headers) == 1 else None
        if host is None:
            return 400, "the request must have one Host header with a name or an address", ""
        if host in self.names or is_address(host):
            return None
        # What was sent is told in the log alone: in a reply it might be a script.
        message = (
            "the server is not known by this name: to allow it, start `opponent experiment serve` "
            "with --name and the name"
        )
        return 421, message, host
