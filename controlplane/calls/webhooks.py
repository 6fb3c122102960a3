"""The port `Sender` for http and https: a CloudEvent, signed as the Standard Webhooks specification says.

What a receiver answers beside its status is not read: whoever names an address learns nothing of what is there.
Redirects are not followed, and connections are made as those for photos are: to checked addresses only.
"""

import asyncio
import datetime as dt
import logging
import ssl
from collections.abc import Collection
from types import TracebackType
from typing import Final, Self

import httpcore

from controlplane.calls.fetching import GuardedBackend
from controlplane.courier.model import Heard, Letter, Unheard
from controlplane.courier.signatures import signature
from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.jobs.sources import AllowedSources

TIMEOUT_S: Final = 15.0
CONNECT_S: Final = 5.0
MAX_CONNECTIONS: Final = 100
_GONE: Final = 410


class Webhooks:
    """Calls receivers. Close it, or use it as a context manager.

    Args:
        sources: Whom it may call.
        timeout: The longest that one call takes.
        trust: Which certificates are good; None: those that the machine trusts.
    """

    def __init__(
        self,
        sources: AllowedSources,
        *,
        timeout: dt.timedelta = dt.timedelta(seconds=TIMEOUT_S),
        trust: ssl.SSLContext | None = None,
    ) -> None:
        # At its most talkative the library writes requests down.
        logging.getLogger("httpcore").setLevel(logging.WARNING)
        self._sources = sources
        self._timeout_s = timeout.total_seconds()
        self.pool = httpcore.AsyncConnectionPool(
            # Made once: reading the authorities takes longer than a call, and the pool would do it for each.
            ssl_context=trust or (httpcore.default_ssl_context() if sources.hosts else None),
            network_backend=GuardedBackend(sources),
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=0,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.pool.aclose()

    def check(self, address: str) -> None:
        self._sources.check_url(address)

    async def send(
        self, address: str, message: Letter, *, secrets: Collection[str], now: dt.datetime
    ) -> Heard | Unheard:
        try:
            self._sources.check_url(address)  # what was allowed once may not be any more
            async with asyncio.timeout(self._timeout_s):
                return await self._post(address, message, tuple(secrets), now)
        except (InvalidInputError, UnavailableError) as exc:
            return Unheard(str(exc))
        except TimeoutError:
            return Unheard(f"no answer within {self._timeout_s:g} s")
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            httpcore.UnsupportedProtocol,
            ssl.SSLError,
        ) as exc:
            return Unheard(f"its host does not answer ({type(exc).__name__})")

    async def _post(self, address: str, message: Letter, secrets: tuple[str, ...], now: dt.datetime) -> Heard | Unheard:
        body = message.body
        headers = signed_headers(message.event, now, body, secrets)
        spans = {"connect": CONNECT_S, "read": self._timeout_s, "write": self._timeout_s, "pool": self._timeout_s}
        async with self.pool.stream(
            "POST", address, headers=headers, content=body, extensions={"timeout": spans}
        ) as response:
            status = response.status
            if 200 <= status < 300:
                return Heard()
            if 300 <= status < 400:
                return Unheard(f"answered {status}: redirects are not followed")
            if status == _GONE:
                return Unheard("answered 410: it wants no more", gone=True)
            return Unheard(f"answered {status}", pause=_pause(response.headers))


def signed_headers(event: str, now: dt.datetime, body: bytes, secrets: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the headers of a CloudEvent in structured mode that is signed."""
    return [
        ("content-type", "application/cloudevents+json; charset=utf-8"),
        ("content-length", str(len(body))),
        ("accept-encoding", "identity"),
        ("user-agent", "hueshift"),
        ("webhook-id", event),
        ("webhook-timestamp", str(int(now.timestamp()))),
        ("webhook-signature", signature(secrets, event, now, body)),
    ]


def _pause(headers: list[tuple[bytes, bytes]]) -> dt.timedelta | None:
    """Read Retry-After; only seconds."""
    value = next((value for name, value in headers if name.lower() == b"retry-after"), b"")
    return dt.timedelta(seconds=int(value[:6])) if value.isdigit() else None
