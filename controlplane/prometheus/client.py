"""The port `MetricSource` on Prometheus's HTTP API, or on whatever else speaks it (Thanos, Mimir, VictoriaMetrics)."""

import asyncio
import datetime as dt
import json
import math
import urllib.parse
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import httpx
from prometheus_client import CollectorRegistry

from controlplane.errors import InvalidInputError, UnavailableError
from controlplane.prometheus.metrics import QueryMetrics

SETTING: Final = "HUESHIFT_PROMETHEUS_URL"
MAX_ANSWER_BYTES: Final = 1 << 20
"""One number takes a hundred bytes; whoever asks for a million series hears of it before they fill our memory."""
MAX_WORDS: Final = 300
MAX_CONNECTIONS: Final = 64
LOCAL: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Prometheus:
    """One Prometheus. Close it, or use it as a context manager.

    Args:
        url: Where it is, with the prefix of its paths if it has one.
        token: Sent as a bearer token; "" sends none.
        metrics: Our own; into a registry of nobody's by default.
        transport: Another way to get there than a socket.

    Raises:
        InvalidInputError: *url* is not such an address; the text names the setting.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        metrics: QueryMetrics | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        address = _check(url)
        self._who = f"Prometheus at {address.netloc}"
        self._url = f"{url.rstrip('/')}/api/v1/query"
        self._metrics = metrics or QueryMetrics(CollectorRegistry())
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS),
            timeout=None,  # noqa: S113 - the whole answer has one, below
            trust_env=address.hostname not in LOCAL,  # proxies of the environment are for the way out of this machine
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def ask(self, query: str, *, within: dt.timedelta) -> float | None:
        with self._metrics.seconds.time():
            try:
                return _number(await self._fetch(query, within))
            except UnavailableError:
                self._metrics.failures.inc()
                raise
            except _Unusable as exc:
                self._metrics.failures.inc()
                raise UnavailableError(f"{self._who} {exc}") from exc

    async def _fetch(self, query: str, within: dt.timedelta) -> Any:
        span = within.total_seconds()
        # Prometheus gives up on its own as well, instead of working for nobody.
        form = {"query": query, "timeout": f"{max(1, round(span * 1000))}ms"}
        try:
            async with asyncio.timeout(span), self._http.stream("POST", self._url, data=form) as response:
                return _document(response, await _body(response))
        except TimeoutError as exc:
            raise UnavailableError(f"{self._who} did not answer within {span:g} s") from exc
        except httpx.HTTPError as exc:
            raise UnavailableError(f"cannot reach {self._who} ({_line(str(exc)) or type(exc).__name__})") from exc


class _Unusable(Exception):  # noqa: N818 - the end of a sentence
    """What was answered, after the server's name."""


def _check(url: str) -> urllib.parse.SplitResult:
    wrong = InvalidInputError(SETTING, "is not an HTTP address", "write it like http://prometheus:9090")
    try:
        httpx.URL(url)
        parts = urllib.parse.urlsplit(url)
    except (httpx.InvalidURL, ValueError) as exc:
        raise wrong from exc
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise wrong
    if parts.username is not None or parts.password is not None:
        raise InvalidInputError(SETTING, "has a user or password in it", "put a token into HUESHIFT_PROMETHEUS_TOKEN")
    return parts


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise _Unusable("answers more than 1 MiB: aggregate, for example with sum()")
    return bytes(body)


def _document(response: httpx.Response, body: bytes) -> Any:
    """Return what was found; whatever is not Prometheus's own word for that is unusable."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, Mapping) or answer.get("status") != "success":
        said = _line(answer.get("error")) if isinstance(answer, Mapping) else ""
        status = f"{response.status_code} {'' if said else response.reason_phrase}".strip()
        if response.is_success and not said:
            raise _Unusable(f"answered {status}, but not as Prometheus does: check {SETTING}")
        raise _Unusable(f"answered {status}" + (f": {said}" if said else f": check {SETTING}"))
    return answer.get("data")


def _number(data: Any) -> float | None:
    match data:
        case {"resultType": "vector", "result": []}:
            return None
        case {"resultType": "vector", "result": [{"value": [_, str(number)]}]}:
            return _float(number)
        case {"resultType": "scalar", "result": [_, str(number)]}:
            return _float(number)
        case {"resultType": "vector", "result": [{"value": _}, *others]} if others:
            raise _Unusable(f"answers with {len(others) + 1} series: aggregate them, for example with sum()")
        case {"resultType": str(kind)}:
            raise _Unusable(f"answers with a {_line(kind)} instead of one number")
        case _:
            raise _Unusable(f"does not answer as Prometheus does: check {SETTING}")


def _float(number: str) -> float | None:
    try:
        value = float(number)
    except ValueError as exc:
        raise _Unusable(f"answers {_line(number)}, which is no number") from exc
    return None if math.isnan(value) else value


def _line(words: object) -> str:
    """Return the server's words on one line, short, without control characters: they are shown on terminals."""
    text = words if isinstance(words, str) else ""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= MAX_WORDS else f"{line[: MAX_WORDS - 1]}…"
